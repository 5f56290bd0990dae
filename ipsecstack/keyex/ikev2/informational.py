"""INFORMATIONAL: deletes, liveness, notifications (RFC 7296 §1.4, §2.4, §2.25)."""

from __future__ import annotations

from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex.ikev2 import extensions, lifecycle
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.states import ChildState, Kind, State
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.wire.ikev2 import Delete, Message, Notify, NotifyType, Payload

_EARLY_DELETES = 64


class Liveness(Task):
    """An empty request: an answer proves that the peer lives (§2.4)."""

    kind = Kind.INFORMATIONAL
    label = "IKE_DPD"
    moves = False

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        sa.log("IKE", 1, f"sending DPD request to {sa.remote.host}")
        return []


class DeleteIke(Task):
    """Close the IKE SA and with it all its children (§1.4.1). The command succeeds however the peer takes it."""

    kind = Kind.INFORMATIONAL
    label = "IKE_DELETE"
    moves = False
    alone = True

    def __init__(self, reason: str, notify: NotifyType | None = None) -> None:
        super().__init__()
        self.reason = reason
        self.notify = notify
        self.redundant: IkeSa | None = None
        """The peer's loser of a rekey collision, which it is to delete."""

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        if sa.successor is None:
            local = sa.local_id.text if sa.local_id else "%any"
            remote = sa.remote_id.text if sa.remote_id else "%any"
            between = f"{sa.local.host}[{local}]...{sa.remote.host}[{remote}]"
            sa.log("IKE", 0, f"deleting IKE_SA {sa.tag} between {between}")
        sa.log("IKE", 1, f"sending DELETE for IKE_SA {sa.tag}")
        sa.enter(State.DELETING)
        payloads: list[Payload] = [Notify(self.notify)] if self.notify is not None else []
        return [*payloads, Delete(SecurityProtocol.IKE)]

    def abort(self, sa: IkeSa, reason: str, now: float) -> None:
        sa.host.finish(self.tickets, True, f"IKE_SA {sa.tag} deleted")


class DeleteChild(Task):
    """Close one Child SA: the Delete names our inbound SPI (§1.4.1)."""

    kind = Kind.INFORMATIONAL
    label = "CHILD_DELETE"

    def __init__(self, child: ChildSa | None, reason: str, spi_in: int = 0) -> None:
        super().__init__()
        self.child = child
        self.reason = reason
        self.spi_in = child.spi_in if child is not None else spi_in
        self.protocol = child.protocol if child is not None else SecurityProtocol.ESP

    def excludes(self, other: Task) -> bool:
        """Nothing else is done to the same Child SA at the same time."""
        return super().excludes(other) or (
            self.child is not None and getattr(other, "old", getattr(other, "child", None)) is self.child
        )

    @classmethod
    def of_spi(cls, spi_in: int, protocol: SecurityProtocol = SecurityProtocol.ESP) -> DeleteChild:
        """For a Child SA that only the peer has: we refused what it chose."""
        task = cls(None, "refused", spi_in)
        task.protocol = protocol
        return task

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        child = self.child
        if child is not None:
            if child not in sa.children or child.state in (ChildState.DELETING, ChildState.DELETED):
                sa.host.finish(self.tickets, True, f"CHILD_SA {child.tag} is gone")
                return None
            child.state = ChildState.DELETING
            sa.host.touch(sa, child)
            sa.log(
                "IKE", 0, f"closing CHILD_SA {child.tag} with SPIs {child.spi_in:08x}_i {child.spi_out:08x}_o"
            )
        sa.log("IKE", 1, f"sending DELETE for {self.protocol.name} CHILD_SA with SPI {self.spi_in:08x}")
        sa.counters.child_deletes_out += 1
        return [Delete(self.protocol, (self.spi_in.to_bytes(4, "big"),))]

    def abort(self, sa: IkeSa, reason: str, now: float) -> None:
        sa.host.finish(self.tickets, True, "CHILD_SA deleted")


def handle_response(sa: IkeSa, task: Task, message: Message, now: float) -> None:
    """A delete is done whatever the response says; liveness is proven by any response."""
    if isinstance(task, DeleteIke):
        sa.log("IKE", 0, "IKE_SA deleted")
        sa.host.finish(task.tickets, True, f"IKE_SA {sa.tag} deleted")
        redundant = task.redundant
        if redundant is not None and redundant.state is State.ESTABLISHED:
            redundant.give_up_at = now + sa.host.options.redundant_timeout
            sa.host.touch(redundant)
        lifecycle.destroy(sa, task.reason, now)
    elif isinstance(task, DeleteChild):
        sa.log("IKE", 1, "CHILD_SA closed")
        if task.child is not None:
            close_child(sa, task.child, task.reason, now)
        sa.host.finish(task.tickets, True, "CHILD_SA closed")
    else:
        task.answered(sa, message, now)


def close_child(sa: IkeSa, child: ChildSa, reason: str, now: float) -> None:
    """Both ends agree that it is closed; what replaced it takes over."""
    if child not in sa.children:
        return
    if child.replaced_by is not None:
        lifecycle.linger_child(sa, child, now)
    else:
        lifecycle.remove_child(sa, child, reason, now)


def handle_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """Deletes and notifications; an empty request is a liveness check and gets an empty response."""
    if any(d.protocol == SecurityProtocol.IKE for d in message.all(Delete)):
        return _delete_ike(sa, "peer-deleted", now)
    if message.notify(NotifyType.AUTHENTICATION_FAILED) is not None:
        sa.log("IKE", 1, "received AUTHENTICATION_FAILED, the peer did not accept us")
        lifecycle.failed(
            sa, None, "AUTHENTICATION_FAILED", "the peer did not accept our authentication", received=True
        )
        return _delete_ike(sa, "auth-failed", now)
    closed: dict[SecurityProtocol, list[bytes]] = {SecurityProtocol.ESP: [], SecurityProtocol.AH: []}
    for delete in message.all(Delete):
        for protocol, own_spis in closed.items():
            for spi in delete.spis if delete.protocol == protocol else ():
                own = _delete_child(sa, spi, protocol, now)
                if own is not None and own not in own_spis:
                    own_spis.append(own)
    payloads = extensions.informed(sa, message, now)
    deletes: list[Payload] = []
    for protocol, own_spis in closed.items():
        if own_spis:
            spis = " ".join(spi.hex() for spi in own_spis)
            sa.log("IKE", 1, f"sending DELETE for {protocol.name} CHILD_SA with SPI {spis}")
            deletes.append(Delete(protocol, tuple(own_spis)))
    return [*deletes, *payloads]


def _delete_ike(sa: IkeSa, reason: str, now: float) -> list[Payload]:
    for task in sa.tasks():
        task.before_end(sa, now)
    sa.log("IKE", 1, f"received DELETE for IKE_SA {sa.tag}")
    sa.enter(State.DELETING)
    if sa.successor is None:
        sa.log("IKE", 0, "IKE_SA deleted")
    sa.after_reply.append(lambda at: lifecycle.destroy(sa, reason, at))
    return []


def _delete_child(sa: IkeSa, spi: bytes, protocol: SecurityProtocol, now: float) -> bytes | None:
    """Close the Child SA whose outbound SPI the peer names; our inbound SPI for the response, None in a collision."""
    child = sa.child_by_spi_out(int.from_bytes(spi, "big"), protocol) if len(spi) == 4 else None
    if child is None or child.state is ChildState.DELETED:
        if child is None and len(spi) == 4 and sa.making_child() and len(sa.early_deletes) < _EARLY_DELETES:
            sa.early_deletes.add(spi)
        sa.log("IKE", 1, f"received DELETE for unknown {protocol.name} CHILD_SA with SPI {spi.hex()}")
        return None
    sa.counters.child_deletes_in += 1
    sa.log("IKE", 1, f"received DELETE for {protocol.name} CHILD_SA with SPI {spi.hex()}")
    deleting = next((t for t in sa.active.values() if isinstance(t, DeleteChild) and t.child is child), None)
    if deleting is not None:
        return None  # both ends delete it at once: each answers without a Delete (§1.4.1)
    for task in sa.tasks():
        task.old_deleted(sa, child, now)
    sa.log("IKE", 0, f"closing CHILD_SA {child.tag}")
    close_child(sa, child, "peer-deleted", now)
    return child.spi_in.to_bytes(4, "big")

"""CREATE_CHILD_SA that rekeys a Child SA, with its collisions (RFC 7296 §1.3.3, §2.8, §2.8.1, §2.25.1)."""

from __future__ import annotations

from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex.ikev2 import agreement, answer, followup, lifecycle, negotiate
from ipsecstack.keyex.ikev2.create_child import MAX_TRIES, NewChild, next_method, retry_at
from ipsecstack.keyex.ikev2.informational import DeleteChild
from ipsecstack.keyex.ikev2.negotiate import ChildFailure, ChildOffer
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.states import ChildState, Kind
from ipsecstack.keyex.ikev2.task import Refusal, Task
from ipsecstack.wire.ikev2 import Message, Nonce, Notify, NotifyType, Payload, Sa
from ipsecstack.wire.transforms import KeId


class RekeyChild(Task):
    """Replace a Child SA by a new one: make before break.

    ``rival`` is the Child SA that the peer made for the same purpose while our request was under way.
    """

    kind = Kind.REKEY_CHILD
    label = "CHILD_REKEY"

    def __init__(self, old: ChildSa) -> None:
        super().__init__()
        self.old = old
        self.rival: ChildSa | None = None
        self.winner: ChildSa | None = None
        """The rival, once the peer has deleted the old SA: it has compared the nonces, and ours is redundant."""
        self.method: KeId | None = None
        self.tries = 0
        self.offer: ChildOffer | None = None

    def excludes(self, other: Task) -> bool:
        """Nothing else is done to the same Child SA at the same time."""
        return super().excludes(other) or (getattr(other, "old", getattr(other, "child", None)) is self.old)

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        old = self.old
        if old not in sa.children or not old.alive:
            sa.host.finish(self.tickets, True, f"CHILD_SA {old.tag} is rekeyed or gone")
            return None
        if followup.awaits(sa, Kind.REKEY_CHILD, old):
            old.rekey_at = retry_at(sa, now)
            sa.host.touch(sa, old)
            sa.host.finish(self.tickets, True, f"CHILD_SA {old.tag} is being rekeyed by the peer")
            return None
        self.offer = negotiate.make_offer(sa, old.config, with_ke=True, rekeyed=old, method=self.method)
        old.state = ChildState.REKEYING
        old.rekey_at = None
        sa.host.touch(sa, old)
        sa.log("IKE", 0, f"rekeying CHILD_SA {old.tag}")
        sa.counters.child_exchanges_out += 1
        spi = old.spi_in.to_bytes(4, "big")
        rekey = Notify(NotifyType.REKEY_SA, protocol=old.protocol, spi=spi)
        return [rekey, *negotiate.offer_payloads(self.offer)]

    def undo(self, sa: IkeSa) -> None:
        if self.offer is not None:
            protocol = SecurityProtocol(self.offer.proposals[0].protocol)
            sa.enqueue(DeleteChild.of_spi(self.offer.spi_in, protocol))

    def drop_offer(self, sa: IkeSa) -> None:
        if self.offer is not None:
            lifecycle.release_spi(sa, self.offer.spi_in)
            self.offer = None

    def abort(self, sa: IkeSa, reason: str, now: float) -> None:
        self.drop_offer(sa)
        if self.old.state is ChildState.REKEYING:
            self.old.state = ChildState.INSTALLED
        sa.host.finish(self.tickets, False, f"rekeying CHILD_SA '{self.old.name}' failed: {reason}")

    def old_deleted(self, sa: IkeSa, child: ChildSa, now: float) -> None:
        """The peer deletes the old SA while we rekey it: if it made a new one for it, that one takes over."""
        rival = self.rival if self.rival in sa.children else None  # one that the peer deleted has lost
        if child is self.old and rival is not None and rival.alive:
            self.winner = rival
            _settle(sa, self, rival)


def _settle(sa: IkeSa, task: RekeyChild, winner: ChildSa) -> None:
    """``winner`` replaces the old SA."""
    if task.rival is winner:
        task.rival = None
    if task.old in sa.children and task.old.replaced_by is None:
        lifecycle.replace_child(sa, task.old, winner)
    sa.host.finish(task.tickets, True, f"CHILD_SA {task.old.tag} rekeyed to {winner.tag}")


def handle_response(sa: IkeSa, task: RekeyChild, message: Message, now: float) -> None:
    offer, old, rival = task.offer, task.old, task.rival
    assert offer is not None
    if followup.begin(sa, task, offer.proposals, message, spi_octets=4):
        return
    offer.more = task.more
    error = message.error()
    if error is not None and message.get(Sa) is None:
        _refused(sa, task, error, now)
        return
    nonce = message.get(Nonce)
    nr = nonce.data if nonce else b""
    compared = rival is not None and rival in sa.children and min(offer.nonce, nr) < min(rival.nonces)
    ours_lost = compared or task.winner is not None
    try:
        new = negotiate.conclude_offer(sa, offer, message, offer.nonce, nr, now, hold_outbound=ours_lost)
    except ChildFailure as failure:
        sa.log("IKE", 1, failure.message)
        if failure.reason != "CHILD_SA_NOT_FOUND":
            sa.counters.child_invalids_out += 1
        lifecycle.failed(sa, old.name, failure.reason, failure.message)
        if failure.at_peer:
            sa.enqueue(DeleteChild.of_spi(offer.spi_in, failure.protocol))
        if failure.reason == "CHILD_SA_NOT_FOUND":
            # The peer closed the new one before we knew it: it does not want the old one, either.
            task.abort(sa, failure.reason, now)
            sa.enqueue(DeleteChild(old, "peer-deleted"))
            return
        _later(sa, task, failure.reason, now)
        return
    task.offer = None
    winner = rival or task.winner
    if winner is not None and ours_lost:
        # The SA with the lowest nonce goes, deleted by the end that made it; the peer deletes the old one.
        sa.log("IKE", 1, "CHILD_SA rekey collision lost, deleting redundant child")
        _settle(sa, task, winner)
        new.replaced_by = winner
        new.rekey_at = None
        sa.enqueue(DeleteChild(new, "redundant"), first=True)
        return
    if rival is not None and rival in sa.children:
        sa.log("IKE", 1, "CHILD_SA rekey collision won, deleting old child")
        rival.state = ChildState.REKEYED
        rival.replaced_by = new
        rival.rekey_at = None
        latest = now + sa.host.options.rekeyed_timeout  # should the peer not delete it
        rival.expire_at = latest if rival.expire_at is None else min(latest, rival.expire_at)
        sa.host.touch(sa, rival)
        task.rival = None
    if old in sa.children:
        _settle(sa, task, new)
        sa.enqueue(DeleteChild(old, "rekeyed"), first=True)
    else:
        lifecycle.announce_child(sa, new)
        sa.host.finish(task.tickets, True, f"CHILD_SA {old.tag} rekeyed to {new.tag}")


def _refused(sa: IkeSa, task: RekeyChild, error: Notify, now: float) -> None:
    offer, old, rival = task.offer, task.old, task.rival
    assert offer is not None
    if rival is not None and rival in sa.children:
        task.drop_offer(sa)
        _settle(sa, task, rival)
        return
    if error.type == NotifyType.INVALID_KE_PAYLOAD and task.tries < MAX_TRIES:
        method = next_method(old.config, offer.method, error.data)
        if method is not None:
            task.drop_offer(sa)
            task.tries += 1
            task.method = method
            if old.state is ChildState.REKEYING:
                old.state = ChildState.INSTALLED
            sa.enqueue(task, first=True)
            return
    if error.type == NotifyType.CHILD_SA_NOT_FOUND:
        task.drop_offer(sa)
        if old in sa.children and old.state is ChildState.REKEYING:
            sa.log("IKE", 1, f"peer does not know CHILD_SA {old.tag} any more, creating a new one")
            lifecycle.remove_child(sa, old, "peer-deleted", now, act=False)
            again = NewChild(old.config)
            again.tickets, task.tickets = task.tickets, []
            sa.enqueue(again)
        sa.host.finish(task.tickets, True, f"CHILD_SA {old.tag} is gone")
        return
    if error.type == NotifyType.NO_ADDITIONAL_SAS and sa.config is not None and old in sa.children:
        sa.log("IKE", 1, f"peer takes no further CHILD_SA on {sa.tag}, making another IKE_SA")
        task.drop_offer(sa)
        if old.state is ChildState.REKEYING:
            old.state = ChildState.INSTALLED
        sa.host.start_apart(sa.config.name, old.name, task.tickets, now, old)
        return
    if error.type != NotifyType.TEMPORARY_FAILURE:
        sa.counters.child_rejects_out += 1
        lifecycle.failed(
            sa, old.name, error.name, f"received {error.name} notify, rekeying failed", received=True
        )
    _later(sa, task, error.name, now)


def _later(sa: IkeSa, task: RekeyChild, reason: str, now: float) -> None:
    """Keep the old SA and try again soon, until its lifetime ends."""
    old = task.old
    task.drop_offer(sa)
    if old in sa.children and old.state is ChildState.REKEYING:
        old.state = ChildState.INSTALLED
        old.rekey_at = retry_at(sa, now)
        sa.log(
            "IKE",
            1,
            f"rekeying CHILD_SA {old.tag} failed: {reason}, trying again in {int(old.rekey_at - now)}s",
        )
        sa.host.touch(sa, old)
    sa.host.finish(task.tickets, False, f"rekeying CHILD_SA '{old.name}' failed: {reason}")


def handle_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """The peer rekeys: make the new pair, keep sending over the old one until the peer deletes it."""
    sa.counters.child_exchanges_in += 1
    notify = message.notify(NotifyType.REKEY_SA)
    nonce = message.get(Nonce)
    assert notify is not None
    assert nonce is not None
    known = notify.protocol in (SecurityProtocol.ESP, SecurityProtocol.AH) and len(notify.spi) == 4
    old = sa.child_by_spi_out(int.from_bytes(notify.spi, "big"), notify.protocol) if known else None
    if old is None and sa.making_child():
        raise Refusal(NotifyType.TEMPORARY_FAILURE, "the CHILD_SA to rekey may be the one in the making")
    if old is None or old.state is ChildState.DELETED:
        raise Refusal(
            NotifyType.CHILD_SA_NOT_FOUND,
            f"CHILD_SA with SPI {notify.spi.hex()} to rekey not found",
            spi=notify.spi,
            protocol=notify.protocol,
        )
    if sa.busy_with(Kind.REKEY_IKE):
        raise Refusal(NotifyType.TEMPORARY_FAILURE, "the IKE_SA is being rekeyed")
    if not old.alive:
        raise Refusal(NotifyType.TEMPORARY_FAILURE, f"CHILD_SA {old.tag} is {old.state.value}")
    task = next((t for t in sa.active.values() if isinstance(t, RekeyChild) and t.old is old), None)
    if task is not None and task.rival is not None:
        raise Refusal(NotifyType.TEMPORARY_FAILURE, f"CHILD_SA {old.tag} is being rekeyed")
    nr = sa.host.random(negotiate.NONCE_OCTETS)
    payloads, agreed = answer.choose(sa, message, nr, with_ke=True, rekeyed=old)

    def finish(more: tuple[bytes, ...], at: float) -> None:
        if not old.alive:
            raise Refusal(NotifyType.TEMPORARY_FAILURE, f"CHILD_SA {old.tag} is {old.state.value}")
        agreed.more = more
        agreement.check_free(sa, agreed)
        # A rekeying initiator has its new inbound SA only when our response is there: go on sending over the old one
        # until it deletes that.
        new = agreement.install(sa, agreed, nonce.data, nr, at, hold_outbound=True)
        if task is not None:
            sa.log("IKE", 1, f"detected CHILD_REKEY collision on {old.tag}")
            task.rival = new
        else:
            lifecycle.replace_child(sa, old, new)

    if agreed.suite.additional:
        try:
            followup.refuse_collision(sa, Kind.REKEY_CHILD, old, task)
        except Refusal:
            agreement.drop(sa, agreed)
            raise
        return payloads + followup.wait(
            sa,
            Kind.REKEY_CHILD,
            old,
            agreed.suite.additional,
            finish,
            lambda: agreement.drop(sa, agreed),
            now,
        )
    finish((), now)
    return payloads

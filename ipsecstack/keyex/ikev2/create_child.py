"""CREATE_CHILD_SA for a new Child SA (RFC 7296 §1.3.1)."""

from __future__ import annotations

from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.keyex.configuration import ChildConfig
from ipsecstack.keyex.ikev2 import agreement, answer, followup, lifecycle, negotiate
from ipsecstack.keyex.ikev2.informational import DeleteChild, DeleteIke
from ipsecstack.keyex.ikev2.negotiate import ChildFailure, ChildOffer
from ipsecstack.keyex.ikev2.offer import Selectors, for_pair, remainder
from ipsecstack.keyex.ikev2.proposals import methods
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.states import Kind
from ipsecstack.keyex.ikev2.task import Refusal, Task
from ipsecstack.wire.ikev2 import Message, Nonce, NotifyType, Payload, Sa
from ipsecstack.wire.transforms import KeId

MAX_TRIES = 3
Packet = tuple[TrafficSelector, TrafficSelector]


class NewChild(Task):
    """Ask for a Child SA of a configured child."""

    kind = Kind.NEW_CHILD
    label = "CHILD_CREATE"

    def __init__(
        self,
        config: ChildConfig,
        packet: Packet | None = None,
        selectors: Selectors | None = None,
    ) -> None:
        """``packet`` asked for it; ``selectors`` are asked for instead of the configured ones."""
        super().__init__()
        self.config = config
        self.packet = packet
        self.selectors = selectors
        self.method: KeId | None = None
        self.tries = 0
        self.offer: ChildOffer | None = None

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        self.offer = negotiate.make_offer(
            sa, self.config, with_ke=True, method=self.method, packet=self.packet, selectors=self.selectors
        )
        sa.log("IKE", 0, f"establishing CHILD_SA {self.config.name}")
        sa.counters.child_exchanges_out += 1
        return negotiate.offer_payloads(self.offer)

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
        sa.host.finish(self.tickets, False, f"establishing CHILD_SA '{self.config.name}' failed: {reason}")


def next_method(config: ChildConfig, current: KeId, data: bytes) -> KeId | None:
    """The key exchange method that an INVALID_KE_PAYLOAD notification asks for, if we offered it (§1.3)."""
    wanted = int.from_bytes(data, "big") if len(data) == 2 else -1
    offered = methods(negotiate.esp_proposals(config))
    return next((m for m in offered if m == wanted and m != current), None)


def retry_at(sa: IkeSa, now: float) -> float:
    """When to try again what the peer could not do for the moment."""
    options = sa.host.options
    return now + options.retry_interval - options.retry_jitter * lifecycle.fraction(sa.host.random)


def handle_response(sa: IkeSa, task: NewChild, message: Message, now: float) -> None:
    offer = task.offer
    assert offer is not None
    if followup.begin(sa, task, offer.proposals, message, spi_octets=4):
        return
    offer.more = task.more
    name = task.config.name
    error = message.error()
    nonce = message.get(Nonce)
    try:
        if error is not None and message.get(Sa) is None:
            method = next_method(task.config, offer.method, error.data)
            if error.type == NotifyType.INVALID_KE_PAYLOAD and method is not None and task.tries < MAX_TRIES:
                _again(sa, task, method, 0.0)
                return
            if error.type == NotifyType.TEMPORARY_FAILURE and task.tries < MAX_TRIES:
                _again(sa, task, task.method, retry_at(sa, now))
                return
            if error.type == NotifyType.SINGLE_PAIR_REQUIRED and _pair_alone(sa, task, offer):
                _again(sa, task, task.method, 0.0)
                return
            if error.type == NotifyType.NO_ADDITIONAL_SAS and sa.config is not None:
                sa.log("IKE", 1, f"peer takes no further CHILD_SA on {sa.tag}, making another IKE_SA")
                task.drop_offer(sa)
                sa.host.start_apart(sa.config.name, name, task.tickets, now)
                return
            raise ChildFailure(error.name, f"received {error.name} notify, no CHILD_SA built", received=True)
        child = negotiate.conclude_offer(sa, offer, message, offer.nonce, nonce.data if nonce else b"", now)
    except ChildFailure as failure:
        sa.log("IKE", 1, failure.message)
        sa.log("IKE", 1, "failed to establish CHILD_SA, keeping IKE_SA")
        if failure.received:
            sa.counters.child_rejects_out += 1
        else:
            sa.counters.child_invalids_out += 1
        lifecycle.failed(sa, name, failure.reason, failure.message, received=failure.received)
        if failure.at_peer:
            sa.enqueue(DeleteChild.of_spi(offer.spi_in, failure.protocol))
        task.abort(sa, failure.reason, now)
        return
    task.offer = None
    lifecycle.announce_child(sa, child)
    sa.host.finish(task.tickets, True, f"CHILD_SA {child.tag} established")
    ask_for_more(sa, offer, message, child, task.packet)


def ask_for_more(
    sa: IkeSa, offer: ChildOffer, message: Message, child: ChildSa, packet: Packet | None
) -> None:
    """The peer narrowed our selectors and would take others in SAs of their own (§2.9).

    What a packet asked for is there already; the next packet that needs another SA asks for it.
    """
    old, sa.relieves = sa.relieves, None
    if old is not None and old.owner is not None and old in old.owner.children and old.replaced_by is None:
        _relieve(old.owner, old, child)
    if message.notify(NotifyType.ADDITIONAL_TS_POSSIBLE) is None:
        return
    child.more_possible = True
    sa.log("IKE", 1, f"peer narrowed the traffic selectors of CHILD_SA {child.tag}, others are possible")
    for selectors in remainder(offer, child.local_ts, child.remote_ts) if packet is None else ():
        sa.enqueue(NewChild(offer.config, selectors=selectors))


def _relieve(owner: IkeSa, old: ChildSa, child: ChildSa) -> None:
    """``child``, of another IKE SA, takes over; an IKE SA that has no child any more goes, too."""
    lifecycle.replace_child(owner, old, child)
    owner.enqueue(DeleteChild(old, "rekeyed"))
    if not any(other.alive for other in owner.children):
        close = DeleteIke("replaced")
        close.not_before = child.install_time + owner.host.options.delete_rekeyed_delay
        owner.enqueue(close)


def after_auth(
    sa: IkeSa, offer: ChildOffer, reason: str, tickets: list[int], packet: Packet | None, now: float
) -> bool:
    """The first child was refused in IKE_AUTH for a reason that another request can do away with: ask once more."""
    task = NewChild(offer.config, packet)
    if reason == "TEMPORARY_FAILURE":
        task.not_before = retry_at(sa, now)
    elif reason != "SINGLE_PAIR_REQUIRED" or not _pair_alone(sa, task, offer):
        return False
    task.tickets = list(tickets)
    tickets.clear()
    sa.enqueue(task)
    return True


def _pair_alone(sa: IkeSa, task: NewChild, offer: ChildOffer) -> bool:
    """Ask for the two addresses of the packet only; False when there is no packet, or that was refused already."""
    if task.packet is None:
        sa.log("IKE", 1, "peer makes a CHILD_SA for each pair of addresses: install a trap policy for it")
        return False
    selectors = for_pair(offer, task.packet)
    if selectors == (offer.local_ts, offer.remote_ts) or not all(selectors):
        return False
    sa.log("IKE", 1, "peer makes a CHILD_SA for each pair of addresses, asking for one")
    task.selectors = selectors
    return True


def _again(sa: IkeSa, task: NewChild, method: KeId | None, not_before: float) -> None:
    task.drop_offer(sa)
    task.tries += 1
    task.method = method
    task.not_before = not_before
    sa.enqueue(task, first=not not_before)


def handle_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """As responder; while we rekey the IKE SA nothing new is made on it (§2.25.2)."""
    sa.counters.child_exchanges_in += 1
    if sa.busy_with(Kind.REKEY_IKE):
        raise Refusal(NotifyType.TEMPORARY_FAILURE, "the IKE_SA is being rekeyed")
    nonce = message.get(Nonce)
    assert nonce is not None
    nr = sa.host.random(negotiate.NONCE_OCTETS)
    payloads, agreed = answer.choose(sa, message, nr, with_ke=True)

    def finish(more: tuple[bytes, ...], at: float) -> None:
        agreed.more = more
        agreement.check_free(sa, agreed)
        lifecycle.announce_child(sa, agreement.install(sa, agreed, nonce.data, nr, at))

    if agreed.suite.additional:
        return payloads + followup.wait(
            sa, Kind.NEW_CHILD, None, agreed.suite.additional, finish, lambda: agreement.drop(sa, agreed), now
        )
    finish((), now)
    return payloads


def refuse_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """The IKE SA is on its way out (§2.25.2)."""
    raise Refusal(NotifyType.TEMPORARY_FAILURE, f"the IKE_SA is {sa.state.vici}")

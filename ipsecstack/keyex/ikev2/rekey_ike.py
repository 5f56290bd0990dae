"""CREATE_CHILD_SA that rekeys the IKE SA, with its collisions (RFC 7296 §1.3.2, §2.8, §2.18, §2.25.2)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ipsecstack.crypto import ke
from ipsecstack.crypto.errors import KeError, UnknownAlgorithm
from ipsecstack.crypto.ke import KeyExchange
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex.base import IkeSaRekeyed
from ipsecstack.keyex.ikev2 import extensions, followup, keymat, lifecycle
from ipsecstack.keyex.ikev2.create_child import MAX_TRIES, retry_at
from ipsecstack.keyex.ikev2.ike_sa_init import ike_proposals
from ipsecstack.keyex.ikev2.informational import DeleteChild, DeleteIke
from ipsecstack.keyex.ikev2.negotiate import NONCE_OCTETS
from ipsecstack.keyex.ikev2.proposals import accept, methods, offer, proposals_text, select
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, State
from ipsecstack.keyex.ikev2.task import Refusal, Task
from ipsecstack.wire.ikev2 import Ke, Message, Nonce, Notify, NotifyType, Payload, Sa, SaProposal
from ipsecstack.wire.transforms import KeId


@dataclass(slots=True)
class _Offer:
    spi: bytes
    proposals: tuple[SaProposal, ...]
    method: KeId
    nonce: bytes
    ke: KeyExchange = field(repr=False)


class RekeyIke(Task):
    """Replace the IKE SA; its children go over to the new one. ``rival`` is what the peer made at the same time."""

    kind = Kind.REKEY_IKE
    label = "IKE_REKEY"
    moves = False
    alone = True

    def __init__(self) -> None:
        super().__init__()
        self.offer: _Offer | None = None
        self.rival: IkeSa | None = None
        self.method: KeId | None = None
        self.tries = 0

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        if sa.state is not State.ESTABLISHED:
            sa.host.finish(self.tickets, True, f"IKE_SA {sa.tag} is rekeyed or gone")
            return None
        if followup.awaits(sa, Kind.REKEY_IKE, sa):
            sa.rekey_at = retry_at(sa, now)
            sa.host.touch(sa)
            sa.host.finish(self.tickets, True, f"IKE_SA {sa.tag} is being rekeyed by the peer")
            return None
        assert sa.config is not None
        assert sa.suite is not None
        own = ike_proposals(sa.config)
        groups = methods(own)
        method = self.method or (sa.suite.ke if sa.suite.ke in groups else groups[0])
        spi = sa.host.new_spi()
        exchange = ke.get(method).generate(sa.host.random)
        nonce = sa.host.random(NONCE_OCTETS)
        self.offer = _Offer(spi, offer(own, spi, with_ke=True), method, nonce, exchange)
        sa.rekey_at = None
        sa.log("IKE", 0, f"initiator initiating IKE_SA rekeying of {sa.tag}")
        return [Sa(self.offer.proposals), Nonce(nonce), Ke(method, exchange.public)]

    def before_end(self, sa: IkeSa, now: float) -> None:
        """The peer finished its own rekeying and never saw ours: its new IKE SA is the one."""
        if self.rival is not None and self.rival.state is State.ESTABLISHED:
            rival, self.rival = self.rival, None
            conclude(sa, rival, now)

    def abort(self, sa: IkeSa, reason: str, now: float) -> None:
        self.offer = None
        done = sa.successor is not None
        outcome = "rekeyed by the peer" if done else f"not rekeyed: {reason}"
        sa.host.finish(self.tickets, done, f"IKE_SA {sa.tag} {outcome}")


def _inherit(old: IkeSa, *, initiator: bool, spi_i: bytes, spi_r: bytes, now: float) -> IkeSa:
    """A new IKE SA between the same authenticated peers; message IDs start at 0 (§2.2)."""
    new = IkeSa(
        old.host,
        initiator=initiator,
        spi_i=spi_i,
        spi_r=spi_r,
        local=old.local,
        remote=old.remote,
        config=old.config,
        now=now,
    )
    new.local_id, new.remote_id = old.local_id, old.remote_id
    new.local_auth, new.remote_auth = old.local_auth, old.remote_auth
    new.remote_cert_expiry = old.remote_cert_expiry
    new.local_cert_expiry = old.local_cert_expiry
    new.nat_local, new.nat_remote, new.nat_fake = old.nat_local, old.nat_remote, old.nat_fake
    new.features = old.features
    new.initial = None
    new.established = now
    new.parent = old
    return new


def conclude(old: IkeSa, new: IkeSa, now: float) -> None:
    """``new`` takes over the children and the waiting tasks; ``old`` is only good for its own deletion."""
    if old.successor is not None:
        return
    new.parent = None
    new.silent = False
    old.successor = new
    for child in old.children:
        child.owner = new
    new.children.extend(old.children)
    old.children = []
    extensions.rekeyed(old, new)
    waiting = [task for task in old.queue if task.moves]
    for task in list(old.queue):
        if task not in waiting and not isinstance(task, DeleteIke):
            task.abort(old, "rekeyed", now)
    deletes = [task for task in old.queue if isinstance(task, DeleteIke)]
    old.queue.clear()
    new.queue.extend([*deletes, *waiting])
    lifecycle.schedule(new, now)
    old.rekey_at = old.expire_at = None
    old.give_up_at = now + old.host.options.rekeyed_timeout
    old.enter(State.REKEYED)
    for child in new.children:
        old.host.touch(new, child)
    old.host.touch(new)
    new.log(
        "IKE",
        0,
        f"IKE_SA {new.tag} rekeyed between {new.local.host}[{new.local_id.text if new.local_id else '?'}]..."
        f"{new.remote.host}[{new.remote_id.text if new.remote_id else '?'}]",
    )
    if new.rekey_at is not None:
        new.log("IKE", 1, f"scheduling rekeying in {int(new.rekey_at - now)}s")
    old.host.emit(IkeSaRekeyed(old.view(), new.view()))


def handle_response(sa: IkeSa, task: RekeyIke, message: Message, now: float) -> None:
    if task.rival is not None and task.rival.state is not State.ESTABLISHED:
        task.rival = None  # the peer has deleted it in the meantime
    made, rival = task.offer, task.rival
    assert made is not None
    if followup.begin(sa, task, made.proposals, message, spi_octets=8):
        return
    error = message.error()
    sa_payload, ke_payload, nonce = message.get(Sa), message.get(Ke), message.get(Nonce)
    if sa_payload is None or ke_payload is None or nonce is None:
        _refused(sa, task, error, now)
        return
    suite = accept(made.proposals, sa_payload.proposals, with_ke=True, spi_octets=8)
    if suite is None or suite.ke != made.method or ke_payload.method != made.method or suite.spi == bytes(8):
        lifecycle.failed(sa, None, "NO_PROPOSAL_CHOSEN", "peer's choice does not fit the IKE rekeying")
        _later(sa, task, "NO_PROPOSAL_CHOSEN", now)
        return
    try:
        shared = made.ke.shared(ke_payload.data)
        if len(task.more) != len(suite.additional):
            raise KeError("peer chose additional key exchanges that did not follow")
    except KeError as failure:
        lifecycle.failed(sa, None, "INVALID_KE_PAYLOAD", str(failure))
        _later(sa, task, str(failure), now)
        return
    new = _inherit(sa, initiator=True, spi_i=made.spi, spi_r=suite.spi, now=now)
    new.nonces = (made.nonce, nonce.data)
    keymat.protect_rekeyed(sa, new, suite, shared, made.nonce, nonce.data, task.more)
    task.offer = None
    sa.host.count(sa.name, "ike-rekey-init")
    new.state = State.ESTABLISHED
    sa.host.adopt(new)
    extensions.rekey_answered(new, message)
    if sa.successor is not None:
        # The peer uses what it made at the same time, so it knows that ours has lost.
        new.parent = None
        _discard_redundant(sa, new)
        sa.host.finish(task.tickets, True, f"IKE_SA {sa.tag} rekeyed by the peer")
        return
    if rival is not None and min(new.nonces) < min(rival.nonces):
        task.rival = None
        _discard_redundant(sa, new)
        conclude(sa, rival, now)
    else:
        delete = DeleteIke("rekeyed")
        if rival is not None:
            sa.log("IKE", 1, "IKE_SA rekey collision won, waiting for delete of the redundant IKE_SA")
            task.rival = None
            delete.redundant = rival
            rival.silent = True
            rival.parent = None
            rival.give_up_at = now + sa.host.options.rekeyed_timeout
            sa.host.touch(rival)
        conclude(sa, new, now)
        sa.enqueue(delete, first=True)
    sa.host.finish(task.tickets, True, f"IKE_SA {sa.tag} rekeyed")


def _discard_redundant(sa: IkeSa, new: IkeSa) -> None:
    """The loser of a collision is deleted by the end that asked for it (§2.8.1)."""
    sa.log("IKE", 1, "IKE_SA rekey collision lost, deleting redundant IKE_SA")
    new.silent = True
    new.enqueue(DeleteIke("redundant"))


def _refused(sa: IkeSa, task: RekeyIke, error: Notify | None, now: float) -> None:
    rival, made = task.rival, task.offer
    assert made is not None
    if sa.successor is not None:
        task.offer = None
        sa.host.finish(task.tickets, True, f"IKE_SA {sa.tag} rekeyed by the peer")
        return
    if rival is not None:
        task.rival = task.offer = None
        conclude(sa, rival, now)
        sa.host.finish(task.tickets, True, f"IKE_SA {sa.tag} rekeyed by the peer")
        return
    name = error.name if error is not None else "INVALID_SYNTAX"
    if error is not None and error.type == NotifyType.INVALID_KE_PAYLOAD and task.tries < MAX_TRIES:
        assert sa.config is not None
        wanted = int.from_bytes(error.data, "big") if len(error.data) == 2 else -1
        method = next(
            (m for m in methods(ike_proposals(sa.config)) if m == wanted and m != made.method), None
        )
        if method is not None:
            task.tries += 1
            task.method, task.offer = method, None
            sa.enqueue(task, first=True)
            return
    if name != "TEMPORARY_FAILURE":
        lifecycle.failed(sa, None, name, f"received {name} notify, IKE_SA rekeying failed", received=True)
    _later(sa, task, name, now)


def _later(sa: IkeSa, task: RekeyIke, reason: str, now: float) -> None:
    task.offer = None
    if sa.successor is not None:
        sa.host.finish(task.tickets, True, f"IKE_SA {sa.tag} rekeyed by the peer")
        return
    sa.rekey_at = retry_at(sa, now)
    sa.log("IKE", 1, f"rekeying IKE_SA failed: {reason}, trying again in {int(sa.rekey_at - now)}s")
    sa.host.touch(sa)
    sa.host.finish(task.tickets, False, f"rekeying IKE_SA {sa.name} failed: {reason}")


def handle_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """As responder: make the new IKE SA; without a collision the children move at once."""
    if sa.busy_with(Kind.NEW_CHILD, Kind.REKEY_CHILD) or any(
        isinstance(task, DeleteChild) for task in sa.active.values()
    ):
        raise Refusal(
            NotifyType.TEMPORARY_FAILURE, "peer wants to rekey the IKE_SA, but a CHILD_SA is in the making"
        )
    if sa.remote_id is not None and sa.host.count_with(sa.remote_id) >= 2 * sa.host.options.peer_limit:
        raise Refusal(
            NotifyType.TEMPORARY_FAILURE, "too many replaced IKE_SAs of this peer wait for deletion"
        )
    ours = sa.busy_with(Kind.REKEY_IKE)
    task = ours if isinstance(ours, RekeyIke) else None
    if task is not None and task.rival is not None:
        raise Refusal(NotifyType.TEMPORARY_FAILURE, "the IKE_SA is being rekeyed")
    assert sa.config is not None
    host = sa.host
    sa_payload, ke_payload, nonce = message.get(Sa), message.get(Ke), message.get(Nonce)
    assert sa_payload is not None
    assert nonce is not None
    preferred = ke_payload.method if ke_payload is not None else None
    suite = select(
        ike_proposals(sa.config),
        sa_payload.proposals,
        protocol=SecurityProtocol.IKE,
        with_ke=True,
        preferred_ke=preferred,
        spi_octets=8,
    )
    if suite is None or suite.ke is KeId.NONE or suite.spi == bytes(8):
        raise Refusal(
            NotifyType.NO_PROPOSAL_CHOSEN,
            f"no acceptable proposal found: received {proposals_text(sa_payload.proposals)}",
        )
    if ke_payload is None or suite.ke != ke_payload.method:
        raise Refusal(
            NotifyType.INVALID_KE_PAYLOAD,
            f"requesting DH group {suite.ke.vici_name}",
            int(suite.ke).to_bytes(2, "big"),
        )
    try:
        public, shared = ke.get(suite.ke).respond(ke_payload.data, host.random)
    except (KeError, UnknownAlgorithm) as error:
        raise Refusal(NotifyType.INVALID_SYNTAX, str(error)) from None
    nr = host.random(NONCE_OCTETS)
    new = _inherit(sa, initiator=False, spi_i=suite.spi, spi_r=host.new_spi(), now=now)
    new.nonces = (nonce.data, nr)
    answer: list[Payload] = [Sa((replace(suite.wire, spi=new.spi_r),)), Nonce(nr), Ke(suite.ke, public)]

    def finish(more: tuple[bytes, ...], at: float) -> None:
        keymat.protect_rekeyed(sa, new, suite, shared, nonce.data, nr, more)
        _answered(sa, new, task, at)

    if suite.additional:
        followup.refuse_collision(sa, Kind.REKEY_IKE, sa, task)
        answer += extensions.rekey_answer(new)
        return answer + followup.wait(sa, Kind.REKEY_IKE, sa, suite.additional, finish, lambda: None, now)
    finish((), now)
    return answer + extensions.rekey_answer(new)


def _answered(sa: IkeSa, new: IkeSa, task: RekeyIke | None, now: float) -> None:
    """As responder: the new IKE SA has its keys."""
    host = sa.host
    host.count(sa.name, "ike-rekey-resp")
    sa.log("IKE", 0, f"{sa.remote.host} is initiating an IKE_SA rekeying")
    new.state = State.ESTABLISHED
    host.adopt(new)
    if task is not None:
        sa.log("IKE", 1, "detected IKE_REKEY collision")
        task.rival = new
        new.silent = True  # nobody hears of it unless it wins
    else:
        conclude(sa, new, now)

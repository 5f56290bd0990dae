"""IKE_FOLLOWUP_KE: the additional key exchanges of a CREATE_CHILD_SA (RFC 9370 §2.2.4).

Nothing is made before the last of them. The initiator's task stays under way and handles the response to
CREATE_CHILD_SA only then; the responder keeps what it agreed to under a link that it gave to the initiator, for a
while.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from ipsecstack.crypto import ke
from ipsecstack.crypto.errors import KeError, UnknownAlgorithm
from ipsecstack.crypto.ke import KeyExchange
from ipsecstack.keyex.ikev2.informational import DeleteChild
from ipsecstack.keyex.ikev2.proposals import accept
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, Role
from ipsecstack.keyex.ikev2.task import Refusal, Task
from ipsecstack.wire.ikev2 import Ke, Message, Notify, NotifyType, Payload, Sa, SaProposal
from ipsecstack.wire.transforms import KeId

LINK = NotifyType.ADDITIONAL_KEY_EXCHANGE
MAX_PENDING = 16
_LINK_OCTETS = 8
_MAX_LINK = 1024


# --- as initiator -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Followup:
    """What the task under way still has to do, and the response that it will handle then."""

    response: Message
    methods: list[KeId]
    link: bytes
    ke: KeyExchange | None = field(default=None, repr=False)
    secrets: list[bytes] = field(default_factory=list, repr=False)

    def request(self, sa: IkeSa) -> list[Payload]:
        self.ke = ke.get(self.methods[0]).generate(sa.host.random)
        return [Ke(self.methods[0], self.ke.public), Notify(LINK, self.link)]


def begin(
    sa: IkeSa, task: Task, offered: tuple[SaProposal, ...], message: Message, *, spi_octets: int
) -> bool:
    """The response to CREATE_CHILD_SA: True when key exchanges follow, and it is to be handled after them."""
    chosen, link = message.get(Sa), message.notify(LINK)
    if task.more or chosen is None or link is None or not 1 <= len(link.data) <= _MAX_LINK:
        return False
    suite = accept(offered, chosen.proposals, with_ke=True, spi_octets=spi_octets)
    if suite is None or not suite.additional:
        return False
    task.followup = Followup(message, list(suite.additional), link.data)
    task.not_before = 0.0
    sa.enqueue(task, first=True)
    return True


def handle_response(sa: IkeSa, task: Task, message: Message, now: float) -> None:
    """The responder's half of one; after the last one the response to CREATE_CHILD_SA is handled."""
    state = task.followup
    assert state is not None
    assert state.ke is not None
    method, error = state.methods.pop(0), message.error()
    answer, link = message.get(Ke), message.notify(LINK)
    try:
        if error is not None or answer is None:
            raise KeError(f"received {error.name if error else 'no KE payload'} in IKE_FOLLOWUP_KE")
        if answer.method != method:
            raise KeError(f"the response has method {answer.method}, not {method.vici_name}")
        state.secrets.append(state.ke.shared(answer.data))
        if state.methods and (link is None or not 1 <= len(link.data) <= _MAX_LINK):
            raise KeError("the responder gives no link to the key exchange that is to follow")
    except KeError as failure:
        sa.log("IKE", 1, str(failure))
        task.followup = None
        kind = error.type if error is not None else NotifyType.INVALID_SYNTAX
        _conclude(sa, task, Message(state.response.header, (Notify(kind),)), now)
        return
    sa.log("IKE", 1, f"additional key exchange {method.vici_name} done")
    if state.methods:
        assert link is not None
        state.link, state.ke = link.data, None
        sa.enqueue(task, first=True)
        return
    task.followup, task.more = None, tuple(state.secrets)
    _conclude(sa, task, state.response, now)


def _conclude(sa: IkeSa, task: Task, response: Message, now: float) -> None:
    from ipsecstack.keyex.ikev2.table import TABLE  # the table names this module's handlers

    row = TABLE.get((sa.state, Role.INITIATOR, task.kind))
    if row is None:
        task.abort(sa, f"the IKE_SA is {sa.state.vici}", now)
        return
    row.handler(sa, task, response, now)


# --- as responder -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Pending:
    """What was agreed to in CREATE_CHILD_SA, until its additional key exchanges are done.

    ``subject`` is what is being rekeyed: a Child SA, or the IKE SA; None for a new Child SA.
    """

    kind: Kind
    subject: object
    methods: list[KeId]
    finish: Callable[[tuple[bytes, ...], float], None]
    drop: Callable[[], None]
    until: float
    secrets: list[bytes] = field(default_factory=list, repr=False)


def wait(
    sa: IkeSa,
    kind: Kind,
    subject: object,
    methods: tuple[KeId, ...],
    finish: Callable[[tuple[bytes, ...], float], None],
    drop: Callable[[], None],
    now: float,
) -> list[Payload]:
    """Keep an agreement: ``finish`` is called with the secrets after the last key exchange, ``drop`` if that never
    comes. Returns what the response to CREATE_CHILD_SA gets."""
    if len(sa.pending_ke) >= MAX_PENDING:
        drop()
        raise Refusal(NotifyType.TEMPORARY_FAILURE, "too many key exchanges are not finished")
    until = now + sa.host.options.half_open_timeout
    return [_keep(sa, Pending(kind, subject, list(methods), finish, drop, until))]


def _keep(sa: IkeSa, pending: Pending) -> Notify:
    link = sa.host.random(_LINK_OCTETS)
    sa.pending_ke[link] = pending
    sa.host.touch_timer(sa)
    return Notify(LINK, link)


def refuse_collision(sa: IkeSa, kind: Kind, subject: object, own: Task | None) -> None:
    """Both ends rekey the same SA at once, in exchanges of several steps: neither goes on, both try again later, at
    different times (TEMPORARY_FAILURE, RFC 7296 §2.25)."""
    if own is not None or awaits(sa, kind, subject):
        raise Refusal(NotifyType.TEMPORARY_FAILURE, "it is being rekeyed, with additional key exchanges")


def awaits(sa: IkeSa, kind: Kind, subject: object) -> bool:
    """The peer is about to replace this, and has key exchanges to finish first."""
    return any(p.kind is kind and p.subject is subject for p in sa.pending_ke.values())


def holds(sa: IkeSa, task: Task) -> bool:
    """The peer is about to replace the IKE SA: what makes and deletes Child SAs waits for the new one (RFC 7296
    §2.25.2), as the children go over to it."""
    makes = task.kind in (Kind.NEW_CHILD, Kind.REKEY_CHILD)
    return (makes or isinstance(task, DeleteChild)) and awaits(sa, Kind.REKEY_IKE, sa)


def handle_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """The initiator's half of one. Without a link that we gave it is STATE_NOT_FOUND."""
    payload, link = message.get(Ke), message.notify(LINK)
    assert payload is not None
    expire(sa, now)
    known = None
    for candidate in sa.pending_ke:
        if link is not None and hmac.compare_digest(candidate, link.data):
            known = candidate
    if known is None:
        raise Refusal(NotifyType.STATE_NOT_FOUND, "no key exchange is known by the link of IKE_FOLLOWUP_KE")
    pending = sa.pending_ke.pop(known)
    method = pending.methods.pop(0)
    try:
        if payload.method != method:
            raise KeError(f"{method.vici_name} comes next, peer sends method {payload.method}")
        public, shared = ke.get(method).respond(payload.data, sa.host.random)
    except (KeError, UnknownAlgorithm) as error:
        pending.drop()
        raise Refusal(NotifyType.INVALID_SYNTAX, str(error)) from None
    pending.secrets.append(shared)
    answer: list[Payload] = [Ke(method, public)]
    if pending.methods:
        return [*answer, _keep(sa, pending)]
    try:
        pending.finish(tuple(pending.secrets), now)
    except Refusal:
        pending.drop()
        raise
    return answer


def deadline(sa: IkeSa) -> float | None:
    return min((pending.until for pending in sa.pending_ke.values()), default=None)


def expire(sa: IkeSa, now: float) -> None:
    """Let go of what no initiator came back for."""
    for link in [link for link, pending in sa.pending_ke.items() if pending.until <= now]:
        sa.log("IKE", 1, "additional key exchanges were not finished, forgetting them")
        sa.pending_ke.pop(link).drop()

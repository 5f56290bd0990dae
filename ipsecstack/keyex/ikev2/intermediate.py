"""IKE_INTERMEDIATE between IKE_SA_INIT and IKE_AUTH (RFC 9242), with additional key exchanges in it (RFC 9370 §2.2.2).

Each exchange is protected by the keys that the ones before it have made, and AUTH covers all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

from ipsecstack.crypto import ke
from ipsecstack.crypto.errors import KeError, UnknownAlgorithm
from ipsecstack.crypto.ke import KeyExchange
from ipsecstack.keyex.ikev2 import childless, ike_auth_answer, keymat, lifecycle
from ipsecstack.keyex.ikev2.create_child import NewChild
from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.ike_auth import IkeAuth
from ipsecstack.keyex.ikev2.informational import DeleteIke
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, State
from ipsecstack.keyex.ikev2.task import Refusal, Task
from ipsecstack.wire.ikev2 import (
    ExchangeType,
    Header,
    Ke,
    Message,
    Notify,
    NotifyType,
    Payload,
    PayloadType,
    chain_to_bytes,
)
from ipsecstack.wire.ikev2.numbers import HEADER_OCTETS
from ipsecstack.wire.transforms import KeId

SUPPORTED = NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED
MAX_EXCHANGES = 16
_GENERIC_HEADER = 4


class Intermediate(Extension):
    """Both ends say in IKE_SA_INIT that they know the exchange; we ask for it when a proposal of ours needs it."""

    def init_request(self, sa: IkeSa) -> list[Payload]:
        return [Notify(SUPPORTED)] if _needed(sa) else []

    def init_requested(self, sa: IkeSa, message: Message) -> list[Payload]:
        sa.features.intermediate = message.notify(SUPPORTED) is not None
        return [Notify(SUPPORTED)] if sa.features.intermediate else []

    def init_answered(self, sa: IkeSa, message: Message) -> None:
        sa.features.intermediate = _needed(sa) and message.notify(SUPPORTED) is not None


def _needed(sa: IkeSa) -> bool:
    return sa.config is not None and any(p.additional_ke for p in sa.config.proposals)


# --- what AUTH covers -------------------------------------------------------------------------------------------------


def sent(sa: IkeSa, header: Header, payloads: Sequence[Payload]) -> None:
    """A message of ours goes out: if it is one of these exchanges, AUTH will cover it."""
    if header.exchange == ExchangeType.IKE_INTERMEDIATE:
        _cover(sa, header, *chain_to_bytes(payloads), from_initiator=sa.initiator)


def received(sa: IkeSa, header: Header, first: int, chain: bytes) -> None:
    """A message of the peer is handled, ``first`` and ``chain`` are what was inside."""
    if header.exchange == ExchangeType.IKE_INTERMEDIATE:
        _cover(sa, header, first, chain, from_initiator=not sa.initiator)


def _cover(sa: IkeSa, header: Header, first: int, chain: bytes, *, from_initiator: bool) -> None:
    """IntAuth(n) = prf(SK_p, IntAuth(n-1) | A | P), of the message as if it had not been fragmented: A are the headers
    with lengths that count only what is inside, P is that (RFC 9242 §3.3.2)."""
    initial = sa.initial
    if initial is None:
        return
    assert sa.prf is not None
    assert sa.keys is not None
    inside = _GENERIC_HEADER + len(chain)
    head = replace(header, next_payload=PayloadType.SK, length=HEADER_OCTETS + inside).to_bytes()
    covered = (head, struct.pack("!BBH", first, 0, inside), chain)
    if from_initiator:
        initial.intermediates += 1
        initial.int_auth_i = sa.prf.compute(sa.keys.sk_pi, initial.int_auth_i, *covered)
    else:
        initial.int_auth_r = sa.prf.compute(sa.keys.sk_pr, initial.int_auth_r, *covered)


# --- as initiator -----------------------------------------------------------------------------------------------------


class AdditionalKe(Task):
    """One additional key exchange."""

    kind = Kind.IKE_INTERMEDIATE
    label = "IKE_INTERMEDIATE"
    moves = False

    def __init__(self, method: KeId) -> None:
        super().__init__()
        self.method = method
        self.ke: KeyExchange | None = None

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        self.ke = ke.get(self.method).generate(sa.host.random)
        return [Ke(self.method, self.ke.public)]

    def abort(self, sa: IkeSa, reason: str, now: float) -> None:
        sa.host.finish(self.tickets, False, f"establishing IKE_SA {sa.name} failed: {reason}")


def proceed(sa: IkeSa, tickets: list[int], now: float) -> None:
    """The keys are made: another key exchange is next, or IKE_AUTH with the first child unless all come later."""
    initial, config = sa.initial, sa.config
    assert initial is not None
    assert config is not None
    sa.enter(State.AUTH_SENT)
    if initial.awaited_ke:
        task = AdditionalKe(initial.awaited_ke.pop(0))
        task.tickets = tickets
        sa.enqueue(task, first=True)
        return
    later = childless.deferred(sa)
    auth_task = IkeAuth([] if later else initial.children)
    auth_task.tickets = tickets
    for name in initial.children if later else ():
        child = next((c for c in config.children if c.name == name), None)
        if child is not None:
            first = name == initial.children[0]
            follow = NewChild(child, initial.packet, initial.selectors) if first else NewChild(child)
            follow.tickets, auth_task.tickets = auth_task.tickets[:1], auth_task.tickets[1:]
            sa.enqueue(follow)
    sa.enqueue(auth_task, first=True)


def handle_response(sa: IkeSa, task: AdditionalKe, message: Message, now: float) -> None:
    """The responder's half: the IKE SA gets new keys."""
    initial, answer = sa.initial, message.get(Ke)
    assert initial is not None
    assert task.ke is not None
    error = message.error()
    if error is not None or answer is None:
        name = error.name if error is not None else "INVALID_SYNTAX"
        _fail(sa, task, name, f"received {name} notify error", now, received=error is not None)
        return
    try:
        if answer.method != task.method:
            raise KeError(f"the response has method {answer.method}, not {task.method.vici_name}")
        shared = task.ke.shared(answer.data)
    except KeError as failure:
        _fail(sa, task, "INVALID_KE_PAYLOAD", str(failure), now)
        return
    task.ke = None
    keymat.protect_additional(sa, shared, initial.nonce, initial.peer_nonce)
    sa.log("IKE", 1, f"additional key exchange {task.method.vici_name} done")
    tickets, task.tickets = task.tickets, []
    if any(isinstance(waiting, DeleteIke) for waiting in sa.queue):
        # The operator does not want it any more, and a responder takes no Delete before IKE_AUTH.
        sa.host.finish(tickets, False, f"establishing IKE_SA {sa.name} failed: deleted")
        lifecycle.destroy(sa, "deleted", now)
        return
    proceed(sa, tickets, now)


def _fail(sa: IkeSa, task: Task, reason: str, message: str, now: float, *, received: bool = False) -> None:
    sa.log("IKE", 1, message)
    lifecycle.failed(sa, None, reason, message, received=received)
    task.abort(sa, message, now)
    lifecycle.destroy(sa, reason, now)


# --- as responder -----------------------------------------------------------------------------------------------------


def awaited(sa: IkeSa) -> bool:
    """Key exchanges that were agreed on are not done yet: IKE_AUTH is too early."""
    return sa.initial is not None and bool(sa.initial.awaited_ke)


def handle_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """The initiator's half: ours goes back under the old keys, then the IKE SA has new ones.

    Without a key exchange that is awaited the exchange may carry what we do not know; its answer is empty.
    """
    initial, payload = sa.initial, message.get(Ke)
    assert initial is not None
    try:
        return _answer(sa, payload)
    except Refusal:
        sa.after_reply.append(lambda at: ike_auth_answer.refused(sa, at))
        raise


def _answer(sa: IkeSa, payload: Ke | None) -> list[Payload]:
    initial = sa.initial
    assert initial is not None
    if initial.intermediates > MAX_EXCHANGES:
        raise Refusal(NotifyType.INVALID_SYNTAX, f"more than {MAX_EXCHANGES} IKE_INTERMEDIATE exchanges")
    if payload is None and not initial.awaited_ke:
        return []
    if payload is None or not initial.awaited_ke or payload.method != initial.awaited_ke[0]:
        raise Refusal(NotifyType.INVALID_SYNTAX, "this is not the key exchange that comes next")
    method = initial.awaited_ke[0]
    try:
        public, shared = ke.get(method).respond(payload.data, sa.host.random)
    except (KeError, UnknownAlgorithm) as error:
        raise Refusal(NotifyType.INVALID_SYNTAX, str(error)) from None

    def use(now: float) -> None:
        initial.awaited_ke.pop(0)
        initial.previous = sa.protection
        keymat.protect_additional(sa, shared, initial.peer_nonce, initial.nonce)
        sa.log("IKE", 1, f"additional key exchange {method.vici_name} done")

    sa.after_reply.append(use)
    return [Ke(method, public)]

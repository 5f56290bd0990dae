"""IKE_SA_INIT: algorithms, key exchange, nonces, NAT detection (RFC 7296 §1.2, §2.6, §2.7, §2.14, §2.23)."""

from __future__ import annotations

from dataclasses import replace

from ipsecstack.crypto import auth, ke
from ipsecstack.crypto.errors import KeError, UnknownAlgorithm
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex.configuration import ConnectionConfig, Proposal
from ipsecstack.keyex.ikev2 import (
    authenticate,
    childless,
    extensions,
    intermediate,
    keymat,
    lifecycle,
    nat,
    ppk,
    redirect,
)
from ipsecstack.keyex.ikev2.negotiate import NONCE_OCTETS
from ipsecstack.keyex.ikev2.proposals import (
    DEFAULT_IKE,
    Suite,
    accept,
    methods,
    offer,
    proposals_text,
    select,
)
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, State
from ipsecstack.keyex.ikev2.task import Refusal, Task
from ipsecstack.wire.ikev2 import Ke, Message, Nonce, Notify, NotifyType, Payload, Sa
from ipsecstack.wire.transforms import HashAlgId, KeId

MAX_TRIES = 3


def ike_proposals(config: ConnectionConfig) -> tuple[Proposal, ...]:
    return config.proposals or DEFAULT_IKE


class IkeInit(Task):
    """Our IKE_SA_INIT request; sent again with a cookie or another key exchange method when the responder asks."""

    kind = Kind.IKE_SA_INIT
    label = "IKE_INIT"
    moves = False

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        initial, config, host = sa.initial, sa.config, sa.host
        assert initial is not None
        assert config is not None
        own = ike_proposals(config)
        if not initial.offered:
            initial.offered = offer(own, b"", with_ke=True)
            initial.nonce = host.random(NONCE_OCTETS)
        if initial.ke is None:
            if initial.method is KeId.NONE:
                initial.method = methods(own)[0]
            initial.ke = ke.get(initial.method).generate(host.random)
        if sa.state is State.NEW:
            sa.log("IKE", 0, f"initiating IKE_SA {sa.tag} to {sa.remote.host}")
        payloads: list[Payload] = []
        if initial.cookie is not None:
            payloads.append(Notify(NotifyType.COOKIE, initial.cookie))
        payloads += [Sa(initial.offered), Ke(initial.method, initial.ke.public), Nonce(initial.nonce)]
        fake = host.random(20) if config.encap else None
        payloads += nat.payloads(sa.spi_i, bytes(8), sa.local, sa.remote, fake)
        payloads.append(_hash_algorithms())
        payloads += extensions.init_request(sa)
        sa.enter(State.INIT_SENT)
        return payloads


def _hash_algorithms() -> Notify:
    data = b"".join(int(h).to_bytes(2, "big") for h in auth.SUPPORTED_HASHES)
    return Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, data)


def _peer_hashes(message: Message) -> frozenset[int]:
    notify = message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)
    if notify is None:
        return frozenset()
    numbers = {int.from_bytes(notify.data[i : i + 2], "big") for i in range(0, len(notify.data) - 1, 2)}
    # A set without any hash that we know is still RFC 7427 signatures, which then cannot be made.
    return frozenset(numbers) or frozenset({int(HashAlgId.SHA1)})


def handle_response(sa: IkeSa, task: IkeInit, message: Message, now: float) -> None:
    """The responder's choice, or its wish for a cookie or another key exchange method."""
    initial, config = sa.initial, sa.config
    assert initial is not None
    assert config is not None
    cookie = message.notify(NotifyType.COOKIE)
    if cookie is not None and message.get(Sa) is None:
        _again_with_cookie(sa, task, cookie.data, now)
        return
    if redirect.followed_first(sa, task, message, now):
        return
    wanted = message.notify(NotifyType.INVALID_KE_PAYLOAD)
    if wanted is not None:
        _again_with_method(sa, task, wanted.data, now)
        return
    error = message.error()
    if error is not None:
        _fail(sa, task, error.name, f"received {error.name} notify error", now, received=True)
        return
    sa_payload, ke_payload, nonce = message.get(Sa), message.get(Ke), message.get(Nonce)
    assert sa_payload is not None
    assert ke_payload is not None
    assert nonce is not None
    suite = accept(initial.offered, sa_payload.proposals, with_ke=True, spi_octets=0)
    if suite is None:
        text = proposals_text(sa_payload.proposals)
        _fail(sa, task, "NO_PROPOSAL_CHOSEN", f"peer chose {text}, which was not offered", now)
        return
    if suite.ke != ke_payload.method or suite.ke != initial.method or initial.ke is None:
        _fail(sa, task, "INVALID_KE_PAYLOAD", "the response's KE payload does not fit the proposal", now)
        return
    try:
        shared = initial.ke.shared(ke_payload.data)
    except KeError as failure:
        _fail(sa, task, "INVALID_KE_PAYLOAD", str(failure), now)
        return
    sa.log("CFG", 1, f"selected proposal: {suite}")
    sa.spi_r = message.header.responder_spi
    initial.peer_nonce = nonce.data
    initial.peer_hashes = _peer_hashes(message)
    authenticate.note_certificate_requests(sa, message)
    keymat.protect_initial(sa, suite, shared, initial.nonce, nonce.data)
    initial.ke = None
    nat.note(sa, config, nat.detect(message, sa.spi_i, sa.spi_r, sa.local, sa.remote))
    extensions.init_answered(sa, message)
    if sa.nat:
        nat.float_ports(sa)
    for reason, problem in (
        ("NO_PROPOSAL_CHOSEN", _unfit(sa, suite)),
        ("CHILDLESS", childless.objection(sa, initial.children)),
        ("PPK", ppk.objection(sa)),
    ):
        if problem is not None:
            _fail(sa, task, reason, problem, now)
            return
    tickets, task.tickets = task.tickets, []
    initial.awaited_ke = list(suite.additional)
    intermediate.proceed(sa, tickets, now)


def _again_with_cookie(sa: IkeSa, task: IkeInit, cookie: bytes, now: float) -> None:
    initial = sa.initial
    assert initial is not None
    initial.cookie_tries += 1
    if not 1 <= len(cookie) <= 64 or initial.cookie_tries > MAX_TRIES:
        _fail(sa, task, "COOKIE", "peer's cookie is malformed, or it asks for ever new ones", now)
        return
    initial.cookie = cookie
    _again(sa, task)


def _again_with_method(sa: IkeSa, task: IkeInit, data: bytes, now: float) -> None:
    initial = sa.initial
    assert initial is not None
    assert sa.config is not None
    number = int.from_bytes(data, "big") if len(data) == 2 else -1
    initial.ke_tries += 1
    allowed = {int(m) for m in methods(ike_proposals(sa.config))}
    if number not in allowed or number == initial.method or initial.ke_tries > MAX_TRIES:
        _fail(sa, task, "INVALID_KE_PAYLOAD", "peer wants a key exchange method that was not offered", now)
        return
    method = KeId(number)
    sa.log(
        "IKE", 1, f"peer didn't accept DH group {initial.method.vici_name}, it requested {method.vici_name}"
    )
    initial.method, initial.ke = method, None
    _again(sa, task)


def _again(sa: IkeSa, task: IkeInit) -> None:
    again = IkeInit()
    again.tickets, task.tickets = task.tickets, []
    sa.requests.restart()
    sa.enqueue(again, first=True)


def _fail(sa: IkeSa, task: Task, reason: str, message: str, now: float, *, received: bool = False) -> None:
    sa.log("IKE", 1, message)
    lifecycle.failed(sa, None, reason, message, received=received)
    sa.host.finish(task.tickets, False, f"establishing IKE_SA {sa.name} failed: {message}")
    lifecycle.destroy(sa, reason, now)


def _unfit(sa: IkeSa, suite: Suite) -> str | None:
    if suite.additional and not sa.features.intermediate:
        return "peer chose additional key exchanges, but does not support IKE_INTERMEDIATE"
    return None


def handle_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """As responder, after admission and cookies: choose, compute keys, wait for IKE_AUTH.

    A Refusal leaves the IKE SA in NEW and it is thrown away: nothing is remembered of the request.
    """
    host, initial = sa.host, sa.initial
    assert initial is not None
    sa_payload, ke_payload, nonce = message.get(Sa), message.get(Ke), message.get(Nonce)
    assert sa_payload is not None
    assert ke_payload is not None
    assert nonce is not None
    sa.log("IKE", 0, f"{sa.remote.host} is initiating an IKE_SA")
    chosen = None
    tried: set[tuple[Proposal, ...]] = set()
    candidates = host.candidates(sa.local, sa.remote)
    for config in candidates:
        own = ike_proposals(config)
        if own in tried:
            continue  # thousands of connections may share them, and anybody can ask
        tried.add(own)
        suite = select(
            own,
            sa_payload.proposals,
            protocol=SecurityProtocol.IKE,
            with_ke=True,
            preferred_ke=ke_payload.method,
            spi_octets=0,
        )
        if suite is not None:
            chosen = config, suite
            break
    if chosen is None:
        raise Refusal(
            NotifyType.NO_PROPOSAL_CHOSEN,
            f"no acceptable proposal found: received {proposals_text(sa_payload.proposals)}",
        )
    config, suite = chosen
    if suite.ke is KeId.NONE:
        raise Refusal(NotifyType.NO_PROPOSAL_CHOSEN, "an IKE SA needs a key exchange")
    if suite.ke != ke_payload.method:
        raise Refusal(
            NotifyType.INVALID_KE_PAYLOAD,
            f"DH group {_method_name(ke_payload.method)} unacceptable, requesting {suite.ke.vici_name}",
            int(suite.ke).to_bytes(2, "big"),
        )
    if suite.additional and message.notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED) is None:
        raise Refusal(
            NotifyType.NO_PROPOSAL_CHOSEN,
            "peer offers additional key exchanges without IKE_INTERMEDIATE, which they need",
        )
    try:
        public, shared = ke.get(suite.ke).respond(ke_payload.data, host.random)
    except (KeError, UnknownAlgorithm) as error:
        raise Refusal(NotifyType.INVALID_SYNTAX, str(error)) from None
    sa.config = config
    sa.log("CFG", 1, f"selected proposal: {suite}")
    initial.nonce = host.random(NONCE_OCTETS)
    initial.peer_nonce = nonce.data
    initial.awaited_ke = list(suite.additional)
    initial.peer_hashes = _peer_hashes(message)
    keymat.protect_initial(sa, suite, shared, nonce.data, initial.nonce)
    finding = nat.detect(message, sa.spi_i, bytes(8), sa.local, sa.remote)
    nat.note(sa, config, finding)
    sa.give_up_at = now + host.options.half_open_timeout
    sa.enter(State.HALF_OPEN)
    payloads: list[Payload] = [
        Sa((replace(suite.wire, spi=b""),)),
        Ke(suite.ke, public),
        Nonce(initial.nonce),
    ]
    if finding.supported:
        fake = host.random(20) if config.encap else None
        payloads += nat.payloads(sa.spi_i, sa.spi_r, sa.local, sa.remote, fake)
    payloads += authenticate.certificate_request(sa, candidates)
    if initial.peer_hashes:
        payloads.append(_hash_algorithms())
    return payloads + extensions.init_requested(sa, message)


def _method_name(number: int) -> str:
    try:
        return KeId(number).vici_name
    except ValueError:
        return str(number)

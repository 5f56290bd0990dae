"""Drives one IKE SA: messages in by window, integrity and state table; tasks out as the peer's window allows."""

from __future__ import annotations

from collections.abc import Iterator

from ipsecstack.crypto.errors import IntegrityError
from ipsecstack.ipsec.sa import Address, SecurityProtocol
from ipsecstack.keyex.base import SendDatagram
from ipsecstack.keyex.ikev2 import (
    addresses,
    extensions,
    followup,
    fragmentation,
    ike_auth,
    ike_auth_answer,
    intermediate,
    lifecycle,
    mobike,
    redirect,
)
from ipsecstack.keyex.ikev2.authenticate import AuthFailure
from ipsecstack.keyex.ikev2.childless import Childless
from ipsecstack.keyex.ikev2.config_payload import Configuration
from ipsecstack.keyex.ikev2.fragmentation import Fragmentation, Opened
from ipsecstack.keyex.ikev2.ike_auth import IkeAuth
from ipsecstack.keyex.ikev2.informational import DeleteIke, Liveness
from ipsecstack.keyex.ikev2.intermediate import Intermediate
from ipsecstack.keyex.ikev2.multiple_auth import MultipleAuthentication
from ipsecstack.keyex.ikev2.postpone import postponed
from ipsecstack.keyex.ikev2.ppk import Ppk
from ipsecstack.keyex.ikev2.protect import DecryptionError, parse_inner
from ipsecstack.keyex.ikev2.qcd import QuickCrashDetection
from ipsecstack.keyex.ikev2.reauth import Reauthentication
from ipsecstack.keyex.ikev2.rekey_ike import RekeyIke, conclude
from ipsecstack.keyex.ikev2.reports import Reports
from ipsecstack.keyex.ikev2.resumption import Resumption
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, Role, State, duplicated, kind_of
from ipsecstack.keyex.ikev2.table import TABLE
from ipsecstack.keyex.ikev2.task import Refusal, Task
from ipsecstack.keyex.window import Verdict
from ipsecstack.wire.ikev2 import (
    Delete,
    EncryptedFragment,
    ExchangeType,
    Header,
    Message,
    Notify,
    NotifyType,
    Payload,
    PayloadType,
    UnsupportedCriticalPayload,
    WireError,
    build_message,
    describe,
    make_header,
    parse_chain,
    parse_message,
)
from ipsecstack.wire.ikev2.numbers import HEADER_OCTETS

_COUNTER: dict[int, str] = {
    ExchangeType.IKE_SA_INIT: "ike-init",
    ExchangeType.IKE_SESSION_RESUME: "ike-init",
    ExchangeType.IKE_AUTH: "ike-auth",
    ExchangeType.CREATE_CHILD_SA: "create-child",
    ExchangeType.INFORMATIONAL: "info",
}

_UNPROTECTED = (Kind.IKE_SA_INIT, Kind.SESSION_RESUME)

# What takes part in the exchanges beside RFC 7296 itself, in this order: one instance of each Extension.
extensions.EXTENSIONS[:] = (
    Fragmentation(),
    Childless(),
    Intermediate(),
    Ppk(),
    mobike.Mobike(),
    redirect.Redirect(),
    QuickCrashDetection(),
    Resumption(),
    Reports(),
    MultipleAuthentication(),
    Configuration(),
    Reauthentication(),
)


# --- incoming -----------------------------------------------------------------------------------------------


def receive_first(sa: IkeSa, data: bytes, message: Message, now: float) -> bool:
    """An IKE_SA_INIT request for a fresh IKE SA in NEW; False when it was refused and ``sa`` is to be thrown away."""
    _count_in(sa, message, len(data))
    initial = sa.initial
    assert initial is not None
    initial.peer_message = data
    payloads = _answer(sa, message, now)
    if payloads is None:
        payloads = [Notify(NotifyType.INVALID_SYNTAX)]
    kept = sa.state is State.HALF_OPEN
    spi_r = sa.spi_r if kept else bytes(8)
    header = make_header(sa.spi_i, spi_r, message.header.exchange, 0, from_initiator=False, response=True)
    response = build_message(header, payloads)
    if kept:
        initial.message = response
        sa.responses.answered(data, (response,))
    _log_out(sa, Message(header, tuple(payloads)))
    send(sa, (response,), sa.local, sa.remote)
    return kept


def receive(sa: IkeSa, header: Header, data: bytes, local: Address, remote: Address, now: float) -> None:
    """A message for a known IKE SA. What does not verify is counted and changes nothing else."""
    if header.from_initiator is sa.initiator:
        _drop(sa, "its flags say that it comes from ourselves")
    elif header.is_response:
        _receive_response(sa, header, data, local, remote, now)
    else:
        _receive_request(sa, header, data, local, remote, now)
    if sa.state is not State.DEAD:
        pump(sa, now)


def _receive_request(
    sa: IkeSa, header: Header, data: bytes, local: Address, remote: Address, now: float
) -> None:
    verdict, cached = sa.responses.judge(header.message_id, data)
    if verdict is Verdict.DUPLICATE and cached is not None:
        sa.log(
            "IKE", 1, f"received retransmit of request with ID {header.message_id}, retransmitting response"
        )
        sa.counters.retransmits_out += 1
        send(sa, cached, local, remote)
        return
    if verdict is Verdict.STALE and header.next_payload == PayloadType.SKF:
        _repeat(sa, header, data, local, remote)
        return
    if verdict is not Verdict.NEW or sa.protection is None:
        _drop(sa, f"request with message ID {header.message_id} is not expected")
        return
    opened = _open(sa, header, data, local, remote, now)
    if opened is None:
        return
    between = header.exchange == ExchangeType.IKE_INTERMEDIATE and sa.features.intermediate
    if sa.state is State.HALF_OPEN and not between:
        if header.exchange != ExchangeType.IKE_AUTH:
            _drop(sa, "only IKE_AUTH may follow the first exchange")
            return
        if intermediate.awaited(sa):
            _drop(sa, "IKE_AUTH before the key exchanges that were agreed on")
            return
    if sa.state is State.AUTH_SENT:
        # The peer may be ahead of its own IKE_AUTH response: it will send this again.
        _drop(sa, "the peer has not authenticated itself yet")
        return
    _authenticated(sa, data, local, remote, now)
    payloads: list[Payload] | None = None
    try:
        message = Message(header, parse_inner(opened.first_payload, opened.chain))
    except UnsupportedCriticalPayload as error:
        sa.log("ENC", 1, f"request {header.message_id} rejected: {error}")
        sa.host.count(sa.name, "invalid")
        payloads = [Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes((error.payload_type,)))]
        broken = True
    except WireError as error:
        sa.log("ENC", 1, f"request {header.message_id} is malformed: {error}")
        sa.host.count(sa.name, "invalid")
        payloads = [Notify(NotifyType.INVALID_SYNTAX)]
        broken = True
    else:
        if postponed(sa, message, data, now):
            fragmentation.put_back(sa, opened)
            return
        _count_in(sa, message, 0)
        _note_window(sa, message)
        intermediate.received(sa, header, opened.first_payload, opened.chain)
        payloads = _answer(sa, message, now)
        broken = payloads is None
        if payloads is None:
            payloads = [Notify(NotifyType.INVALID_SYNTAX)]
        elif Message(header, tuple(payloads)).error() is None:
            payloads = [*payloads, *_tell_window(sa)]
    if sa.state is State.DEAD or sa.protection is None:
        return
    answer = make_header(
        sa.spi_i, sa.spi_r, header.exchange, header.message_id, from_initiator=sa.initiator, response=True
    )
    response = fragmentation.seal(sa, answer, payloads, opened.largest)
    sa.responses.answered(opened.datagram, response, header.message_id)
    intermediate.sent(sa, answer, payloads)
    _log_out(sa, Message(answer, tuple(payloads)))
    send(sa, response, local, remote)
    if broken and sa.state in (State.HALF_OPEN, State.AUTHENTICATING):
        # A malformed IKE_AUTH request ends the attempt (§2.21.2); the initiator begins anew.
        lifecycle.failed(sa, None, "INVALID_SYNTAX", "the peer's IKE_AUTH request is malformed")
        ike_auth_answer.refused(sa, now)
        return
    actions, sa.after_reply = sa.after_reply, []
    for action in actions:
        action(now)


def _repeat(sa: IkeSa, header: Header, data: bytes, local: Address, remote: Address) -> None:
    """A fragment of a request that was answered. The first one asks for the response again (RFC 7383 §2.6.1), also when
    the peer has cut the request into other fragments meanwhile."""
    cached = sa.responses.cached(header.message_id)
    try:
        outer = parse_chain(header.next_payload, data[HEADER_OCTETS:])
        fragment = outer[-1] if outer else None
        if cached is None or sa.protection is None or not isinstance(fragment, EncryptedFragment):
            _drop(sa, f"fragment with message ID {header.message_id} is not expected")
            return
        if fragment.number != 1:
            return
        try:
            sa.protection.open(data, outer)
        except IntegrityError:
            # The request came before the key exchange that it was part of had new keys for an answer.
            previous = sa.initial.previous if sa.initial is not None else None
            if previous is None:
                raise
            previous.open(data, outer)
    except (IntegrityError, WireError) as error:
        _refuse(sa, error)
        return
    sa.log("IKE", 1, f"received retransmit of request with ID {header.message_id}, retransmitting response")
    sa.counters.retransmits_out += 1
    send(sa, cached, local, remote)


def _answer(sa: IkeSa, message: Message, now: float) -> list[Payload] | None:
    """The response's payloads by the state table; None when the message has no row or does not fit its row."""
    kind = kind_of(message)
    row = TABLE.get((sa.state, Role.RESPONDER, kind)) if kind is not None else None
    if row is None:
        sa.log("IKE", 1, f"{describe(message)} is not expected in state {sa.state.name}, ignored")
        sa.host.count(sa.name, "invalid")
        return None
    missing, twice = row.missing(message), duplicated(message)
    if missing or twice is not None:
        what = f"payloads missing: {', '.join(missing)}" if missing else f"payload {twice} is there twice"
        sa.log("IKE", 1, f"{describe(message)}: {what}")
        sa.host.count(sa.name, "invalid")
        if kind in (Kind.NEW_CHILD, Kind.REKEY_CHILD):
            sa.counters.child_exchanges_in += 1
            sa.counters.child_invalids_in += 1
        return None
    before = sa.state
    _adopt_if_used(sa, message, now)
    try:
        payloads: list[Payload] = row.handler(sa, message, now)
    except Refusal as refusal:
        sa.log("IKE", 1, refusal.message)
        if refusal.notify not in (NotifyType.TEMPORARY_FAILURE, NotifyType.INVALID_KE_PAYLOAD):
            if kind in (Kind.NEW_CHILD, Kind.REKEY_CHILD):
                sa.counters.child_rejects_in += 1
            if not sa.muted:
                lifecycle.failed(sa, None, refusal.notify.name, refusal.message)
        payloads = [Notify(refusal.notify, refusal.data, refusal.protocol, refusal.spi)]
    _observe(sa, row, before)
    return payloads


def _tell_window(sa: IkeSa) -> list[Payload]:
    """How many requests we take at a time, said once in each IKE SA: its window begins at 1 (§1.3.2, §2.3)."""
    size = sa.host.options.response_window
    if size <= 1 or sa.responses.size == size or sa.state is not State.ESTABLISHED:
        return []
    sa.responses.size = size
    return [Notify(NotifyType.SET_WINDOW_SIZE, size.to_bytes(4, "big"))]


def _note_window(sa: IkeSa, message: Message) -> None:
    """The peer takes several requests at a time (§2.3); we make use of it as far as our options say."""
    notify = message.notify(NotifyType.SET_WINDOW_SIZE)
    if notify is not None and len(notify.data) == 4:
        offered = int.from_bytes(notify.data, "big")
        sa.requests.size = max(1, min(offered, sa.host.options.request_window))


def _adopt_if_used(sa: IkeSa, message: Message, now: float) -> None:
    """The peer uses the IKE SA that it made in a rekey collision, other than to delete it: it is the one that stays."""
    parent = sa.parent
    deleted = any(d.protocol == SecurityProtocol.IKE for d in message.all(Delete))
    if parent is not None and parent.successor is None and not deleted:
        for task in parent.active.values():
            if isinstance(task, RekeyIke) and task.rival is sa:
                task.rival = None
        conclude(parent, sa, now)


def _receive_response(
    sa: IkeSa, header: Header, data: bytes, local: Address, remote: Address, now: float
) -> None:
    task = sa.active.get(header.message_id)
    if task is None or task.doing.exchange != header.exchange:
        _drop(sa, f"response with message ID {header.message_id} answers nothing")
        return
    if task.kind in _UNPROTECTED:
        _receive_init_response(sa, task, data, local, now)
        return
    opened = _open(sa, header, data, local, remote, now)
    if opened is None:
        return
    _authenticated(sa, data, local, remote, now)
    try:
        message = Message(header, parse_inner(opened.first_payload, opened.chain))
    except WireError as error:
        sa.log("ENC", 1, f"response {header.message_id} is malformed: {error}")
        sa.host.count(sa.name, "invalid")
        _broken_response(sa, task, header.message_id, now)
        return
    if postponed(sa, message, data, now):
        fragmentation.put_back(sa, opened)
        return
    _count_in(sa, message, 0)
    _note_window(sa, message)
    intermediate.received(sa, header, opened.first_payload, opened.chain)
    _conclude_task(sa, task, message, now)
    mobike.answered_over(sa, local, remote, now)


def _receive_init_response(sa: IkeSa, task: Task, data: bytes, local: Address, now: float) -> None:
    """Nothing protects this response: what cannot be right is dropped, for the right one may still come."""
    initial = sa.initial
    try:
        message = parse_message(data)
    except WireError as error:
        _drop(sa, str(error))
        return
    row = TABLE.get((sa.state, Role.INITIATOR, task.doing))
    if row is None or initial is None:
        _drop(sa, "not waiting for a first response")
        return
    if sa.local.host.is_unspecified:
        sa.local = Address(local.host, sa.local.port)
    short = (
        message.error() is not None
        or message.notify(NotifyType.COOKIE) is not None
        or message.notify(NotifyType.TICKET_NACK) is not None
        or redirect.genuine(sa, message)
    )
    if (row.missing(message) and not short) or duplicated(message) is not None:
        _drop(sa, "the first response is incomplete")
        return
    if not row.missing(message) and message.header.responder_spi == bytes(8):
        _drop(sa, "the first response has no responder SPI")
        return
    initial.peer_message = data
    sa.counters.packets_in += 1
    sa.counters.octets_in += len(data)
    sa.last_inbound = now
    _count_in(sa, message, 0)
    _conclude_task(sa, task, message, now)


def _conclude_task(sa: IkeSa, task: Task, message: Message, now: float) -> None:
    message_id = message.header.message_id
    row = TABLE.get((sa.state, Role.INITIATOR, task.doing))
    missing = row.missing(message) if row is not None and message.error() is None else []
    if task.kind in _UNPROTECTED and (
        message.notify(NotifyType.COOKIE) is not None
        or message.notify(NotifyType.TICKET_NACK) is not None
        or redirect.genuine(sa, message)
    ):
        missing = []
    if row is None or missing or duplicated(message) is not None:
        sa.log("IKE", 1, f"{describe(message)} does not fit: {', '.join(missing) or 'no row for it'}")
        sa.host.count(sa.name, "invalid")
        _broken_response(sa, task, message_id, now)
        return
    sa.requests.answered(message_id)
    before = sa.state
    del sa.active[message_id]
    row.handler(sa, task, message, now)
    if not sa.making_child():
        sa.early_deletes.clear()
    _observe(sa, row, before)
    if sa.state is not State.DEAD:
        sa.host.touch(sa)
        error = message.error()
        if error is not None and error.type == NotifyType.INVALID_SYNTAX and sa.state is State.ESTABLISHED:
            # The peer may have dropped the IKE SA over it (§2.21.3): find out.
            check_liveness(sa)


def _broken_response(sa: IkeSa, task: Task, message_id: int, now: float) -> None:
    """An authenticated response that makes no sense: the exchange is over and has failed."""
    sa.requests.answered(message_id)
    sa.active.pop(message_id, None)
    if task.kind in (Kind.NEW_CHILD, Kind.REKEY_CHILD):
        sa.counters.child_invalids_out += 1
    if isinstance(task, IkeAuth) and sa.state is State.AUTH_SENT:  # for the peer the IKE SA may be there
        failure = AuthFailure("INVALID_SYNTAX", "the peer's IKE_AUTH response is malformed")
        ike_auth.refuse(sa, task, failure, now, tell_peer=True)
        return
    if sa.state is State.ESTABLISHED:
        task.undo(sa)
    task.abort(sa, "INVALID_SYNTAX", now)
    lifecycle.failed(sa, None, "INVALID_SYNTAX", "the peer's response is malformed")
    if sa.state is not State.ESTABLISHED:
        lifecycle.destroy(sa, "INVALID_SYNTAX", now)
    else:
        check_liveness(sa)


def _open(
    sa: IkeSa, header: Header, data: bytes, local: Address, remote: Address, now: float
) -> Opened | None:
    """The message if it verifies and is whole; a fragment that is not the last one counts as a sign of life."""
    if sa.protection is None:
        _drop(sa, "no keys yet")
        return None
    try:
        outer = parse_chain(header.next_payload, data[HEADER_OCTETS:])
        if outer and isinstance(outer[-1], EncryptedFragment):
            opened = fragmentation.collect(sa, header, outer[-1], data)
            if opened is None:
                _authenticated(sa, data, local, remote, now)
            return opened
        first, chain = sa.protection.open(data, outer)
    except (IntegrityError, WireError) as error:
        _refuse(sa, error)
        return None
    fragmentation.whole(sa, header)
    return Opened(first, chain, data)


def _refuse(sa: IkeSa, error: IntegrityError | WireError) -> None:
    if isinstance(error, IntegrityError):
        sa.host.count_statistic("integrity-failures")
    elif isinstance(error, DecryptionError):
        sa.host.count_statistic("decrypt-failures")
    _drop(sa, str(error))


def _drop(sa: IkeSa, why: str) -> None:
    sa.counters.drops_in += 1
    sa.host.count(sa.name, "invalid")
    if not sa.host.quiet("drop"):
        sa.log("NET", 1, f"message dropped: {why}")


def _authenticated(sa: IkeSa, data: bytes, local: Address, remote: Address, now: float) -> None:
    """Counters, liveness, and the peer's address: it follows its NAT's if we are not behind one (§2.23)."""
    sa.counters.packets_in += 1
    sa.counters.octets_in += len(data)
    sa.last_inbound = now
    sa.muted = False
    sa.arrival = (local, remote)
    if (local, remote) == (sa.local, sa.remote):
        return
    if sa.state in (State.HALF_OPEN, State.AUTHENTICATING, State.AUTH_SENT):
        sa.local, sa.remote = local, remote  # the float to port 4500
        sa.host.touch(sa)
        return
    if sa.features.mobility is None:  # with MOBIKE only an update moves it (RFC 4555 §3.8)
        addresses.follow_nat(sa, local, remote)


def _observe(sa: IkeSa, row: object, before: State) -> None:
    observer = sa.host.options.observer
    if observer is not None:
        observer(row, before, sa.state)


# --- outgoing -----------------------------------------------------------------------------------------------


def pump(sa: IkeSa, now: float) -> None:
    """Send the requests that wait, as far as the peer's window lets us."""
    ending = sa.requests.near_the_end or sa.responses.near_the_end
    if ending and sa.state is State.ESTABLISHED and not any(isinstance(t, RekeyIke) for t in sa.tasks()):
        sa.enqueue(RekeyIke(), first=True)  # IDs are never used twice, and a new IKE SA has new ones (§2.2)
    while (
        sa.state is not State.DEAD and sa.queue and sa.requests.has_room and len(sa.active) < sa.requests.size
    ):
        task = _next_task(sa, now)
        if task is None:
            return
        sa.queue.remove(task)
        if sa.requests.exhausted:
            sa.log("IKE", 1, "no message ID is left")
            lifecycle.destroy(sa, "expired", now)
            return
        if sa.state is State.DELETING and not isinstance(task, DeleteIke):
            task.abort(sa, "the IKE_SA is being deleted", now)
            continue
        if task.followup is not None:
            _send_request(sa, task, task.followup.request(sa), now)
            continue
        task.more = ()
        payloads = task.request(sa, now)
        if payloads is None:
            if isinstance(task, IkeAuth) and task.failure is not None:
                ike_auth.give_up(sa, task, now)
            sa.host.touch(sa)
            continue
        _send_request(sa, task, payloads, now)


def _next_task(sa: IkeSa, now: float) -> Task | None:
    """The first task that is due and may run now."""
    return next((task for task in ready(sa) if task.not_before <= now), None)


def ready(sa: IkeSa) -> Iterator[Task]:
    """Waiting tasks that may run beside what is under way, when their time comes, in order.

    What is behind one that must be alone does not overtake it. The others wait for a message, not for a time.
    """
    for task in sa.queue:
        if followup.holds(sa, task):
            continue
        if not any(task.excludes(other) or other.excludes(task) for other in sa.active.values()):
            yield task
        elif task.alone:
            return


def _send_request(sa: IkeSa, task: Task, payloads: list[Payload], now: float) -> None:
    header = make_header(
        sa.spi_i,
        sa.spi_r,
        task.doing.exchange,
        sa.requests.next_id,
        from_initiator=sa.initiator,
        response=False,
    )
    if task.kind in _UNPROTECTED:
        assert sa.initial is not None
        datagrams: tuple[bytes, ...] = (build_message(header, payloads),)
        sa.initial.message = datagrams[0]
    else:
        payloads = [*payloads, *_tell_window(sa)]
        datagrams = fragmentation.seal(sa, header, payloads)
        task.sent = header, payloads
        intermediate.sent(sa, header, payloads)
    sa.active[sa.requests.sent(datagrams, now)] = task
    _log_out(sa, Message(header, tuple(payloads)))
    send(sa, datagrams, sa.local, sa.remote)
    sa.host.touch(sa)


def send(sa: IkeSa, datagrams: tuple[bytes, ...], local: Address, remote: Address) -> None:
    """One message of this IKE SA, whole or in fragments."""
    if len(datagrams) > 1:
        sa.counters.fragments_out += len(datagrams)
    for datagram in datagrams:
        sa.counters.packets_out += 1
        sa.counters.octets_out += len(datagram)
        sa.log("NET", 1, f"sending packet: from {local} to {remote} ({len(datagram)} bytes)")
        sa.host.emit(SendDatagram(datagram, local, remote, local.port != sa.host.options.port))


def _log_out(sa: IkeSa, message: Message) -> None:
    _count_message(sa, message, "out")
    sa.counters.notifies_out += len(message.all(Notify))
    sa.log("ENC", 1, f"generating {describe(message)}")


def _count_in(sa: IkeSa, message: Message, octets: int) -> None:
    if octets:
        sa.counters.packets_in += 1
        sa.counters.octets_in += octets
    sa.counters.notifies_in += len(message.all(Notify))
    _count_message(sa, message, "in")
    sa.log("ENC", 1, f"parsed {describe(message)}")


def _count_message(sa: IkeSa, message: Message, direction: str) -> None:
    prefix = _COUNTER.get(message.header.exchange)
    if prefix is not None:
        kind = "resp" if message.header.is_response else "req"
        sa.host.count(sa.name, f"{prefix}-{direction}-{kind}")


def check_liveness(sa: IkeSa, task: Task | None = None) -> None:
    """Ask the peer for a sign of life (by this task), unless a request is under way that will tell as well."""
    if sa.state is State.ESTABLISHED and not sa.active and not any(isinstance(t, Liveness) for t in sa.queue):
        sa.enqueue(task or mobike.liveness(sa), first=True)


def hint(sa: IkeSa, now: float, task: Task | None = None) -> None:
    """Something unauthenticated says that the peer lost its SAs: check, at most now and then (§2.4, §2.21.4)."""
    if sa.state is State.ESTABLISHED and now - sa.last_hint >= sa.host.options.hint_interval:
        sa.last_hint = now
        check_liveness(sa, task)
        pump(sa, now)

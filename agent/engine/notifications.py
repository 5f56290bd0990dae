"""The notification originator (RFC 3413 sections 3.3 and 6): who is told what, and how it gets there.

`notify` selects targets and puts what they are to get into queues; one message at a time leaves them, between the
answers to managers. An inform is repeated until it is acknowledged or its target's retries are used up. All is
bounded: what does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from agent.config import User
from agent.engine.access import AccessControl, Failure
from agent.engine.messages import V1, V3
from agent.engine.notifications_pdu import (
    INFORM as INFORM_PDU,
)
from agent.engine.notifications_pdu import (
    TRAP_V2,
    Notification,
    content,
    discovery,
    trap_v1,
)
from agent.engine.notifications_session import (
    REPORT_NOT_IN_TIME,
    REPORT_UNKNOWN_ENGINE,
    Answer,
    RemoteEngine,
    Session,
    TooLarge,
)
from agent.engine.targets import INFORM, Address, Destination, plain_host
from agent.engine.usm import Usm
from agent.engine.usm_crypto import LocalUser, UsmError, localize
from agent.smi import ber
from agent.smi.ber import Oid
from agent.smi.counters import LimitedLog

if TYPE_CHECKING:
    from agent.engine.notifications_wire import NotificationWire
    from agent.engine.targets import Selection

log = logging.getLogger(__name__)
limited = LimitedLog(log)

PACE = 0.005
"""Seconds between two messages: pysnmp needs about 2 ms for one, and managers want answers in between."""
MAX_QUEUE = 200
"""Notifications that wait for one target."""
MAX_QUEUED = 2000
"""Notifications that wait in all."""
WINDOW = 4
"""Informs that one target has not answered yet; the next wait in its queue."""
MAX_OUTSTANDING = 128
RATE = 50.0
BURST = 100.0
"""Messages a second that one target gets for long, and at once after a pause."""
MAX_ENGINES = 256
MAX_SYNCS = 3
"""Messages that one try of an inform may need to learn the receiver's engine ID and clock."""
DRAIN = 64


@dataclass(slots=True)
class NotificationCounters:
    """Monotonic since the start of the process. A notification for three targets counts once, then thrice."""

    notifications: int = 0
    filtered: int = 0
    """Held back by a target's filter."""
    not_in_view: int = 0
    """Held back because the target's notify view does not hold all of it."""
    untranslatable: int = 0
    """Not sent to an SNMPv1 target because of a Counter64 (RFC 3584 section 3.2)."""
    unusable: int = 0
    """Not sent because the target's user or community does not exist or has not the keys."""
    too_big: int = 0
    dropped: int = 0
    """Not sent because queues were full."""
    traps_sent: int = 0
    informs_sent: int = 0
    informs_retried: int = 0
    informs_acknowledged: int = 0
    informs_refused: int = 0
    """Answered, but with an error."""
    informs_timed_out: int = 0
    send_errors: int = 0


@dataclass(slots=True, eq=False)
class _Item:
    """One notification for one target. `tries`: how many are left after this one."""

    notification: Notification
    destination: Destination
    confirmed: bool
    tries: int = 0
    syncs: int = 0
    session: Session | None = None
    timer: asyncio.TimerHandle | None = None
    reason: str = ""


@dataclass(slots=True)
class _Queue:
    """What one target has to get."""

    items: deque[_Item] = field(default_factory=deque)
    outstanding: int = 0
    credit: float = BURST
    at: float = 0.0


class Targets(Protocol):
    """Where targets and communities come from."""

    def selection(self) -> Selection: ...

    def community_for(self, security_name: str, context: str) -> bytes | None: ...


class NotificationOriginator:
    """Sends notifications. `start` and `stop` in the loop that it lives in."""

    def __init__(
        self, targets: Targets, access: Callable[[], AccessControl], up_time: Callable[[], int]
    ) -> None:
        self.counters = NotificationCounters()
        self._targets = targets
        self._access = access
        self._up_time = up_time
        self._queues: dict[tuple[object, ...], _Queue] = {}
        self._turns: deque[tuple[object, ...]] = deque()
        self._queued = 0
        self._outstanding: set[_Item] = set()
        self._due: deque[_Item] = deque()
        self._engines: OrderedDict[Address, RemoteEngine] = OrderedDict()
        self._keys: OrderedDict[tuple[bytes, bytes], LocalUser | None] = OrderedDict()
        self._users: Mapping[bytes, User] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._building: asyncio.Task[None] | None = None
        self._usm: Usm | None = None
        self._wire: NotificationWire | None = None
        self._sockets: dict[bool, socket.socket] = {}

    # -- life -----------------------------------------------------------------------------------------------

    def start(self, usm: Usm, users: Iterable[User]) -> None:
        """Begin to send what was and will be told."""
        self._loop = asyncio.get_running_loop()
        self._usm = usm
        self.set_users(users)
        self._tick = self._loop.call_later(1.0, self._on_tick)
        self._wake()

    def set_users(self, users: Iterable[User]) -> None:
        """Users of the configuration, whose passwords give keys for other engines; known keys are forgotten."""
        self._users = {user.name.encode(): user for user in users}
        self._keys.clear()

    def stop(self) -> None:
        """Send what needs no answer and can go at once, then forget everything. May be called again."""
        for _ in range(32 if self._wire is not None else 0):
            # the last words of a stopping agent are not worth more of its time
            if not self._step(time.monotonic(), traps_only=True):
                break
        for item in self._outstanding:
            if item.timer is not None:
                item.timer.cancel()
        self._outstanding.clear()
        self._due.clear()
        self._queues.clear()
        self._turns.clear()
        self._queued = 0
        for pending in (self._timer, self._tick, self._building):
            if pending is not None:
                pending.cancel()
        self._timer = self._tick = self._building = None
        for sock in self._sockets.values():
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()
        if self._wire is not None:
            self._wire.close()
        self._wire = self._usm = None

    @property
    def unexpected(self) -> int:
        """Datagrams that answered nothing: late, doubled, malformed or from elsewhere."""
        return self._wire.unexpected if self._wire is not None else 0

    @property
    def forged(self) -> int:
        """Answers with a wrong digest, community or time."""
        return self._wire.forged if self._wire is not None else 0

    # -- what is told ---------------------------------------------------------------------------------------

    def notify(self, oid: Oid, varbinds: Iterable[tuple[Oid, bytes]], context: str = "") -> int:
        """Tell all targets that may and want to know. Values are finished TLVs. How many will get it.

        Raises BerError for a name or value that cannot be sent.
        """
        notification = Notification(oid, tuple(varbinds), self._up_time(), context)
        _check(notification)
        counters = self.counters
        counters.notifications += 1
        told = 0
        for destination, kind in self._targets.selection().targets:
            if destination.filter is not None and not destination.filter.passes(oid, notification.names):
                counters.filtered += 1
            elif not self._in_view(notification, destination):
                counters.not_in_view += 1
            elif self._enqueue(_Item(notification, destination, kind == INFORM, destination.retries)):
                told += 1
        self._wake()
        return told

    def _in_view(self, notification: Notification, destination: Destination) -> bool:
        """Steps 2 and 3 of section 3.3: the notification and each instance in the target's notify view."""
        view = self._access().view(
            destination.model,
            destination.security_name,
            destination.level,
            notification.context,
            "notify",
        )
        if isinstance(view, Failure):
            return False
        return view.allows(notification.oid) and all(view.allows(name) for name in notification.names)

    def _enqueue(self, item: _Item) -> bool:
        key = item.destination.key
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(at=time.monotonic())
        if len(queue.items) >= MAX_QUEUE or self._queued >= MAX_QUEUED:
            self.counters.dropped += 1
            limited.warning("queue", "notifications for %s are dropped: too many wait", item.destination.name)
            return False
        if not queue.items:
            self._turns.append(key)
        queue.items.append(item)
        self._queued += 1
        return True

    # -- sending --------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._loop is None or self._usm is None or self._timer is not None:
            return
        if not self._turns and not self._due:
            return
        if self._wire is not None:
            self._timer = self._loop.call_later(PACE, self._pump)
        elif self._building is None:
            self._building = self._loop.create_task(self._build(self._usm))

    async def _build(self, usm: Usm) -> None:
        """Make the wire when it is first needed, and beside the answers: pysnmp takes a third of a second."""
        try:
            self._wire = await asyncio.to_thread(_new_wire, usm, self._transmit)
        except Exception:
            # notifications are lost then, but managers are answered on
            log.exception("pysnmp cannot be set up; no notification is sent")
            self._queues.clear()
            self._turns.clear()
            self._queued = 0
        self._building = None
        self._wake()

    def _pump(self) -> None:
        self._timer = None
        now = time.monotonic()
        if self._step(now):
            self._wake()
        elif (self._turns or self._due) and self._loop is not None:
            # all that wait have used up their rate or their window
            self._timer = self._loop.call_later(0.05, self._pump)

    def _step(self, now: float, traps_only: bool = False) -> bool:
        """Send one message: what an inform has to do next, or of the target whose turn it is; whether there was one."""
        if self._due and not traps_only:
            item = self._due.popleft()
            if item in self._outstanding:
                self._try(item)
            return True
        for _ in range(len(self._turns)):
            key = self._turns.popleft()
            queue = self._queues[key]
            item = queue.items[0]
            queue.credit = min(BURST, queue.credit + (now - queue.at) * RATE)
            queue.at = now
            full = queue.outstanding >= WINDOW or len(self._outstanding) >= MAX_OUTSTANDING
            if queue.credit < 1 or (item.confirmed and (full or traps_only)):
                self._turns.append(key)
                continue
            queue.credit -= 1
            queue.items.popleft()
            self._queued -= 1
            if queue.items:
                self._turns.append(key)
            if item.confirmed:
                queue.outstanding += 1
                self._outstanding.add(item)
                self._try(item)
            else:
                self._trap(item)
            return True
        return False

    def _trap(self, item: _Item) -> None:
        destination, notification = item.destination, item.notification
        session = Session(destination.address, destination.version, destination.level)
        if not self._identify(session, item):
            return
        if destination.version == V1:
            pdu = trap_v1(notification, self._own_address(destination.address))
            if pdu is None:
                self.counters.untranslatable += 1
                return
        else:
            pdu = ber.tlv(TRAP_V2, content(notification, _request_id()))
        if self._send(item, session, pdu):
            self.counters.traps_sent += 1

    def _identify(self, session: Session, item: _Item) -> bool:
        """Put user or community into a session for a message that this engine is authoritative for."""
        destination = item.destination
        if destination.version != V3:
            community = self._targets.community_for(destination.security_name, item.notification.context)
            if community is None:
                return self._unusable(item, "no community has its security name")
            session.community = community
            return True
        assert self._usm is not None
        user = self._usm.users.get(destination.security_name.encode())
        if user is None or user.level < destination.level:
            return self._unusable(item, "its user does not exist or lacks keys")
        session.user = user
        return True

    def _unusable(self, item: _Item, reason: str) -> bool:
        self.counters.unusable += 1
        limited.warning(f"target/{item.destination.name}", "target %s: %s", item.destination.name, reason)
        return False

    def _send(self, item: _Item, session: Session, pdu: bytes) -> bool:
        assert self._wire is not None
        try:
            self._wire.send(session, pdu, item.notification.context, item.destination.max_size)
        except TooLarge as problem:
            self.counters.too_big += 1
            limited.warning(
                f"size/{item.destination.name}",
                "notification of %s is more than %s takes; see snmpTargetAddrMMS",
                problem,
                item.destination.name,
            )
            return False
        except ValueError as problem:
            self.counters.send_errors += 1
            limited.warning("send", "notification for %s not sent: %s", item.destination.name, problem)
            return False
        return True

    # -- informs --------------------------------------------------------------------------------------------

    def _try(self, item: _Item) -> None:
        """Send an inform, or what must be learned before it can be sent."""
        destination = item.destination
        session = Session(destination.address, destination.version, destination.level)
        session.answered = lambda answer: self._answered(item, session, answer)
        pdu = ber.tlv(INFORM_PDU, content(item.notification, _request_id()))
        if destination.version != V3:
            if not self._identify(session, item):
                self._end(item)
                return
        else:
            remote = self._engines.get(destination.address)
            if remote is None:
                session.discovers, session.level, pdu = True, 1, discovery()
            else:
                user = self._user_at(destination, remote.engine_id)
                if user is None or user.level < destination.level:
                    self._unusable(item, "its user has no keys for the receiver's engine")
                    self._end(item)
                    return
                session.user, session.remote = user, remote
        item.session = session
        if not self._send(item, session, pdu):
            self._end(item)
            return
        if not session.discovers:
            self.counters.informs_sent += 1
        assert self._loop is not None
        item.timer = self._loop.call_later(max(destination.timeout, 0.01), self._timed_out, item)

    def _user_at(self, destination: Destination, engine_id: bytes) -> LocalUser | None:
        """A user with keys for another engine: a row of usmUserTable, or a password of the configuration."""
        name = destination.security_name.encode()
        assert self._usm is not None
        found = self._usm.find(name, engine_id)
        if found is not None:
            return found
        key = (name, engine_id)
        if key not in self._keys:
            user = self._users.get(name)
            made: LocalUser | None = None
            if user is not None and not (user.localized and (user.auth or user.priv)):
                try:
                    made = localize(user, engine_id)
                except UsmError as problem:
                    log.debug("%s", problem)
            self._keys[key] = made
            if len(self._keys) > MAX_ENGINES:
                self._keys.popitem(last=False)
        return self._keys[key]

    def _timed_out(self, item: _Item) -> None:
        item.timer = None
        self._forget(item)
        if item.tries <= 0:
            self.counters.informs_timed_out += 1
            limited.warning(
                f"inform/{item.destination.name}",
                "target %s (%s) does not acknowledge informs%s",
                item.destination.name,
                item.destination.address,
                item.reason,
            )
            self._end(item)
            return
        item.tries -= 1
        item.syncs = 0
        self.counters.informs_retried += 1
        self._due.append(item)
        self._wake()

    def _answered(self, item: _Item, session: Session, answer: Answer) -> None:
        if item.session is not session:
            return
        if item.timer is not None:
            item.timer.cancel()
            item.timer = None
        item.session = None
        if answer.report is None:
            if session.discovers:
                # nobody answers a request without an engine ID but by a Report
                self._again(item, "; it answered the discovery with a Response")
            elif answer.status:
                self.counters.informs_refused += 1
                self._end(item)
            else:
                self.counters.informs_acknowledged += 1
                self._end(item)
            return
        address = item.destination.address
        if answer.report == REPORT_UNKNOWN_ENGINE:
            known = self._engines.get(address)
            if known is None or known.engine_id != answer.engine_id:
                self._engines[address] = RemoteEngine(answer.engine_id)
                if len(self._engines) > MAX_ENGINES:
                    self._engines.popitem(last=False)
            self._again(item, "")
        elif answer.report == REPORT_NOT_IN_TIME:
            # authentic, and its time was learned
            self._again(item, "; its clock does not stand still")
        else:
            self._again(item, f"; it reports {'.'.join(map(str, answer.report))}")

    def _again(self, item: _Item, reason: str) -> None:
        """Go on after what was learned; but not for ever."""
        item.syncs += 1
        item.reason = reason or item.reason
        if item.syncs <= MAX_SYNCS:
            self._due.append(item)
            self._wake()
            return
        # the next try comes when this one's time is over
        assert self._loop is not None
        item.timer = self._loop.call_later(max(item.destination.timeout, 0.01), self._timed_out, item)

    def _forget(self, item: _Item) -> None:
        session, item.session = item.session, None
        if session is not None and self._wire is not None:
            self._wire.forget(session)

    def _end(self, item: _Item) -> None:
        self._forget(item)
        if item not in self._outstanding:
            return
        self._outstanding.discard(item)
        queue = self._queues.get(item.destination.key)
        if queue is not None:
            queue.outstanding -= 1
        self._wake()

    # -- sockets --------------------------------------------------------------------------------------------

    def _socket(self, ipv6: bool) -> socket.socket:
        """The socket of a family, opened when it is first needed. Its port is not the one that requests come to."""
        sock = self._sockets.get(ipv6)
        if sock is None:
            family = socket.AF_INET6 if ipv6 else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            try:
                if ipv6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(("::" if ipv6 else "", 0))
            except BaseException:
                sock.close()
                raise
            self._sockets[ipv6] = sock
            if self._loop is not None:
                self._loop.add_reader(sock.fileno(), self._readable, sock)
        return sock

    def _transmit(self, data: bytes, address: Address) -> None:
        try:
            self._socket(address.is_ipv6).sendto(data, address.sockaddr)
        except OSError as problem:
            # as if the network had lost it
            self.counters.send_errors += 1
            log.debug("notification for %s not sent: %s", address, problem)

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(DRAIN):
            try:
                data, where = sock.recvfrom(65535)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as problem:
                # an ICMP error of an earlier message
                log.debug("answers to notifications: %s", problem)
                continue
            if self._wire is not None:
                self._wire.receive(data, Address(plain_host(str(where[0]).partition("%")[0]), where[1]))

    def _own_address(self, address: Address) -> bytes:
        """The IPv4 address that messages to a receiver come from, zeros where there is none."""
        if not address.is_ipv6:
            try:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    # only asks the routing table: nothing is sent
                    probe.connect(address.sockaddr)
                    return socket.inet_aton(probe.getsockname()[0])
            except OSError:
                pass
        return bytes(4)

    def _on_tick(self) -> None:
        assert self._loop is not None
        self._tick = self._loop.call_later(1.0, self._on_tick)
        now = time.monotonic()
        if self._wire is not None:
            self._wire.tick(now)
        for key, queue in list(self._queues.items()):
            if not queue.items and not queue.outstanding and now - queue.at > BURST / RATE:
                del self._queues[key]


class TrapLimit:
    """How often one kind of notification may be sent, so that whoever causes it cannot flood a receiver."""

    def __init__(self, burst: int = 5, interval: float = 10.0) -> None:
        """`burst` at once, then one in `interval` seconds."""
        self._burst = burst
        self._interval = interval
        self._credit = float(burst)
        self._at = 0.0
        self.withheld = 0

    def take(self, now: float) -> bool:
        """Whether one may be sent now."""
        self._credit = min(self._burst, self._credit + (now - self._at) / self._interval)
        self._at = now
        if self._credit < 1:
            self.withheld += 1
            return False
        self._credit -= 1
        return True


def _new_wire(usm: Usm, transmit: Callable[[bytes, Address], None]) -> NotificationWire:
    from agent.engine.notifications_wire import NotificationWire

    return NotificationWire(usm, transmit)


def _check(notification: Notification) -> None:
    ber.oid_content(notification.oid)
    if len(notification.oid) < 3:
        raise ber.BerError("a notification's name has more than two sub-identifiers")
    for name, value in notification.varbinds:
        ber.oid_content(name)
        tag, start, end = ber.read(value, 0, len(value))
        if end != len(value):
            raise ber.BerError("octets after a value")
        ber.check_value(tag, value[start:end])


_last_request_id = 0


def _request_id() -> int:
    """A request-id that no notification of the last 2^31 had."""
    global _last_request_id
    _last_request_id = (_last_request_id + 1) & 0x7FFFFFFF
    return _last_request_id

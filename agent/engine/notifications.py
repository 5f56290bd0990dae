"""The notification originator (RFC 3413 sections 3.3 and 6): who is told what, and how it gets there.

`notify` selects targets and puts what they are to get into queues; one message at a time leaves them, between the
answers to managers. An inform is repeated until it is acknowledged or its target's retries are used up. All is
bounded: what does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
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
    check,
    content,
    discovery,
    trap_v1,
)
from agent.engine.notifications_queue import BURST, RATE, Item, NotificationCounters, Queue, losses
from agent.engine.notifications_session import (
    REPORT_NOT_IN_TIME,
    REPORT_UNKNOWN_ENGINE,
    Answer,
    RemoteEngine,
    Session,
    TooLarge,
)
from agent.engine.notifications_sockets import NotificationSockets, own_address
from agent.engine.targets import INFORM, Address, Destination
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
MAX_ENGINES = 256
SUMMARY = 60.0
"""Seconds between two lines of the log that say what was lost."""
MAX_SYNCS = 3
"""Messages that one try of an inform may need to learn the receiver's engine ID and clock."""


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
        self._queues: dict[tuple[object, ...], Queue] = {}
        self._turns: deque[tuple[object, ...]] = deque()
        self._queued = 0
        self._outstanding: set[Item] = set()
        self._due: deque[Item] = deque()
        self._engines: OrderedDict[Address, RemoteEngine] = OrderedDict()
        self._keys: OrderedDict[tuple[bytes, bytes], LocalUser | None] = OrderedDict()
        self._users: Mapping[bytes, User] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._building: asyncio.Task[None] | None = None
        self._usm: Usm | None = None
        self._wire: NotificationWire | None = None
        self._sockets: NotificationSockets | None = None
        self._last_request_id = 0
        self._summary_at = time.monotonic() + SUMMARY
        self._lost: dict[str, int] = {}

    # -- life -----------------------------------------------------------------------------------------------

    def start(self, usm: Usm, users: Iterable[User]) -> None:
        """Begin to send what was and will be told."""
        self._loop = asyncio.get_running_loop()
        self._sockets = NotificationSockets(self._loop, self._receive)
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
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
        if self._wire is not None:
            self._wire.close()
        self._wire = self._usm = None

    # -- what is told ---------------------------------------------------------------------------------------

    def notify(self, oid: Oid, varbinds: Iterable[tuple[Oid, bytes]], context: str = "") -> int:
        """Tell all targets that may and want to know. Values are finished TLVs. How many will get it.

        Raises BerError for a name or value that cannot be sent.
        """
        notification = Notification(oid, tuple(varbinds), self._up_time(), context)
        check(notification)
        counters = self.counters
        counters.notifications += 1
        told = 0
        for destination, kind in self._targets.selection().targets:
            if destination.filter is not None and not destination.filter.passes(oid, notification.names):
                counters.filtered += 1
            elif not self._in_view(notification, destination):
                counters.not_in_view += 1
            elif self._enqueue(Item(notification, destination, kind == INFORM, destination.retries)):
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

    def _enqueue(self, item: Item) -> bool:
        key = item.destination.key
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(at=time.monotonic())
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
            self._wire = await asyncio.to_thread(_new_wire, usm, self._transmit, self.counters)
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

    def _trap(self, item: Item) -> None:
        destination, notification = item.destination, item.notification
        session = Session(destination.address, destination.version, destination.level)
        if not self._identify(session, item):
            return
        if destination.version == V1:
            pdu = trap_v1(notification, own_address(destination.address))
            if pdu is None:
                self.counters.untranslatable += 1
                return
        else:
            pdu = ber.tlv(TRAP_V2, content(notification, self._request_id()))
        if self._send(item, session, pdu):
            self.counters.traps_sent += 1

    def _identify(self, session: Session, item: Item) -> bool:
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

    def _request_id(self) -> int:
        """A request-id that no notification of the last 2^31 had."""
        self._last_request_id = (self._last_request_id + 1) & 0x7FFFFFFF
        return self._last_request_id

    def _unusable(self, item: Item, reason: str) -> bool:
        self.counters.unusable += 1
        limited.warning(f"target/{item.destination.name}", "target %s: %s", item.destination.name, reason)
        return False

    def _send(self, item: Item, session: Session, pdu: bytes) -> bool:
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

    def _try(self, item: Item) -> None:
        """Send an inform, or what must be learned before it can be sent."""
        destination = item.destination
        session = Session(destination.address, destination.version, destination.level)
        session.answered = partial(self._answered, item)
        # the same in each try, so that a receiver can tell a repetition (RFC 3416 section 4.1)
        item.request_id = item.request_id or self._request_id()
        pdu = ber.tlv(INFORM_PDU, content(item.notification, item.request_id))
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

    def _timed_out(self, item: Item) -> None:
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

    def _answered(self, item: Item, session: Session, answer: Answer) -> None:
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

    def _again(self, item: Item, reason: str) -> None:
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

    def _forget(self, item: Item) -> None:
        session, item.session = item.session, None
        if session is not None and self._wire is not None:
            self._wire.forget(session)

    def _end(self, item: Item) -> None:
        self._forget(item)
        if item not in self._outstanding:
            return
        self._outstanding.discard(item)
        queue = self._queues.get(item.destination.key)
        if queue is not None:
            queue.outstanding -= 1
        self._wake()

    def _transmit(self, data: bytes, address: Address) -> None:
        if self._sockets is not None:
            self._sockets.transmit(data, address)

    def _receive(self, data: bytes, address: Address) -> None:
        if self._wire is not None:
            self._wire.receive(data, address)

    def _on_tick(self) -> None:
        assert self._loop is not None
        self._tick = self._loop.call_later(1.0, self._on_tick)
        now = time.monotonic()
        if self._wire is not None:
            self._wire.tick(now)
        if now >= self._summary_at:
            self._summary_at = now + SUMMARY
            text = losses(self.counters, self._lost)
            if text:
                log.warning("notifications of the last %g seconds: %s", SUMMARY, text)
        for key, queue in list(self._queues.items()):
            if not queue.items and not queue.outstanding and now - queue.at > BURST / RATE:
                del self._queues[key]


def _new_wire(
    usm: Usm, transmit: Callable[[bytes, Address], None], counters: NotificationCounters
) -> NotificationWire:
    from agent.engine.notifications_wire import NotificationWire

    return NotificationWire(usm, transmit, counters)

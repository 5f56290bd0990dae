"""The VICI server without I/O: sessions, commands and events around a ``Stack`` (docs/vici.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from ipsecstack.config.apply import Credentials
from ipsecstack.ipsec.sa import SaCounters, SaId
from ipsecstack.ipsec.spd import SpdEntry
from ipsecstack.keyex.base import (
    AddPolicy,
    ChildSaView,
    CommandFinished,
    KeyExchangeEndpoint,
    LogRecorded,
    Output,
    RemovePolicy,
)
from ipsecstack.vici import codec, commands, events
from ipsecstack.vici.changes import ChangeLog
from ipsecstack.vici.codec import Outgoing
from ipsecstack.vici.session import Session
from ipsecstack.vici.tally import Tally

log = logging.getLogger(__name__)

MAX_SESSIONS = 256


class DataPlaneView(Protocol):
    """What the server reads of a data plane."""

    features: Any

    @property
    def counters(self) -> Any: ...

    def policies(self) -> Iterable[SpdEntry]: ...


class StackView(Protocol):
    """What the server needs of ``ipsecstack.stack.Stack``."""

    endpoint: KeyExchangeEndpoint

    @property
    def dataplane(self) -> DataPlaneView: ...

    def subscribe(self, listener: Callable[[Output, Any], None]) -> Callable[[], None]: ...

    def child_counters(self, child: ChildSaView) -> tuple[SaCounters | None, SaCounters | None]: ...

    def touched(self) -> set[SaId]: ...


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """What ``version``, ``stats`` and ``changed-since`` tell of the daemon.

    ``started`` is of the monotonic clock that every ``now`` is of, ``started_wall`` POSIX seconds of the same moment;
    ``epoch`` a random number of this start (docs/vici.md).
    """

    version: str
    started: float
    started_wall: float
    epoch: str
    name: str = "ipsecstackd"


@dataclass(slots=True)
class ServerCounters:
    """What the server refused or dropped."""

    malformed: int = 0
    oversize: int = 0
    unknown_commands: int = 0
    slow_clients: int = 0
    refused_clients: int = 0
    internal_errors: int = 0


class ViciServer:
    """Serves any number of sessions.

    ``advance`` is called after every command that may have changed something: the composition root runs
    ``stack.advance`` and sends the datagrams. ``reload`` re-reads the configuration (reload-settings) and returns
    a line for the log; it raises ConfigError. ``clock`` gives the same monotonic time as every ``now``.
    """

    def __init__(
        self,
        stack: StackView,
        credentials: Credentials,
        *,
        info: DaemonInfo,
        clock: Callable[[], float],
        advance: Callable[[], None] = lambda: None,
        reload: Callable[[], str] | None = None,
    ) -> None:
        self.stack = stack
        self.endpoint = stack.endpoint
        self.credentials = credentials
        self.info = info
        self.clock = clock
        self.reload = reload
        self.counters = ServerCounters()
        self.tally = Tally()
        self.changes = ChangeLog(stack.endpoint, stack.touched, stack.dataplane.policies())
        self.on_timer_changed: Callable[[], None] = lambda: None
        self._advance = advance
        self._sessions: dict[int, Session] = {}
        self._connected = 0
        self._unsubscribe = stack.subscribe(self._on_output)
        commands.load()

    def close(self) -> None:
        """End all sessions and stop listening to the stack; a second call does nothing."""
        unsubscribe, self._unsubscribe = self._unsubscribe, lambda: None
        unsubscribe()
        for session in list(self._sessions.values()):
            session.close("the daemon ends")

    # --- sessions ---

    def connect(self) -> Session | None:
        """A new client's session; None when there are too many."""
        if len(self._sessions) >= MAX_SESSIONS:
            self.counters.refused_clients += 1
            return None
        self._connected += 1
        session = Session(self, self._connected)
        self._sessions[session.number] = session
        return session

    def disconnect(self, session: Session) -> None:
        """The client is gone; what it started goes on."""
        session.close("")

    def session_closed(self, session: Session, reason: str) -> None:
        self._sessions.pop(session.number, None)
        if reason:
            log.info("vici client %d closed: %s", session.number, reason)

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    # --- commands that wait ---

    def settle(self) -> None:
        """After a command: let the stack carry out what it asked for."""
        self._advance()

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called next."""
        deadlines = [
            s.waiting.deadline
            for s in self._sessions.values()
            if s.waiting is not None and s.waiting.deadline is not None
        ]
        return min(deadlines, default=None)

    def handle_timer(self, now: float) -> None:
        """Answer the commands whose time is up."""
        for session in list(self._sessions.values()):
            waiting = session.waiting
            if waiting is not None and waiting.deadline is not None and waiting.deadline <= now:
                session.finish(waiting.expire())

    def _finished(self, outcome: CommandFinished) -> None:
        for session in list(self._sessions.values()):
            waiting = session.waiting
            if waiting is None or outcome.ticket not in waiting.tickets:
                continue
            waiting.outcomes.append(outcome)
            if len(waiting.outcomes) >= len(waiting.tickets):
                session.finish(waiting.finish(waiting.outcomes))

    # --- events ---

    def log(self, record: LogRecorded) -> None:
        """A log line of the daemon, for clients that follow the log."""
        self._log(record)

    def note(self, message: str) -> None:
        """A line about a command, for the daemon's log; the daemon hands it back to ``log`` for who follows it."""
        log.info("%s", message)

    def _on_output(self, output: Output, _stack: Any) -> None:
        try:
            self._take_output(output)
        except Exception as error:  # a bug of ours must not stop the stack that tells us
            self.counters.internal_errors += 1
            log.error("vici: %s of a %s event is lost", type(error).__name__, type(output).__name__)

    def _take_output(self, output: Output) -> None:
        self.tally.take(output)
        if isinstance(output, LogRecorded):
            self._log(output)
        elif isinstance(output, CommandFinished):
            self._finished(output)
        elif isinstance(output, AddPolicy):
            self.changes.policy_added(output.entry)
        elif isinstance(output, RemovePolicy):
            self.changes.policy_removed(output.entry)
        else:
            builder = events.BUILDERS.get(type(output))
            if builder is None:
                return
            name, build = builder
            for each in events.names(output, name):
                self.raise_event(each, lambda: build(output, self.stack, self.clock()))

    def raise_event(self, name: str, build: Callable[[], Outgoing]) -> None:
        """Send an event to those who registered for it; it is built only if somebody did."""
        receivers = [s for s in self._sessions.values() if name in s.events]
        if not receivers:
            return
        try:
            packet = codec.event(name, build())
        except codec.PacketTooLarge as error:
            log.warning("vici event %s is dropped: %s", name, error)
            return
        for session in receivers:
            session.send(packet)

    def _log(self, record: LogRecorded) -> None:
        if record.level <= 1:
            self.raise_event("log", lambda: events.log_line(record, thread=True))
        packet: bytes | None = None
        for session in list(self._sessions.values()):
            waiting = session.waiting
            if waiting is None or "control-log" not in session.events or record.level > waiting.level:
                continue
            if waiting.ike and record.ike_name and record.ike_name not in waiting.ike:
                continue
            if packet is None:
                packet = codec.event("control-log", events.log_line(record, thread=False))
            session.send(packet)

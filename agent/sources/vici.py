"""A live stack over VICI: strongSwan's charon, or the bundled stack.

Three connections: one hears events, one polls, one carries commands, so that none waits for another. Whatever
happens to the socket, `run` goes on: it tells the model, waits (longer each time) and tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from typing import Any

from agent.gateway.counters import CHILD_COUNTS, IKE_COUNTS
from agent.gateway.feed import Feed
from agent.gateway.listing import Heard
from agent.gateway.source import CommandError, SourceStatus
from agent.gateway.steps import in_slices
from agent.sources import vici_records as read
from agent.sources.settings import ViciSettings
from agent.sources.vici_listing import ListingReader
from agent.sources.vici_message import Section
from agent.sources.vici_records import BadRecord
from agent.sources.vici_session import ViciError, ViciRefused, ViciSession, each_decoded

EVENTS = ("ike-updown", "child-updown", "ike-rekey", "child-rekey", "ike-update", "alert", "child-ended")
FIRST_PAUSE = 0.25
CONNECTIONS_INTERVAL = 30.0  # configuration changes come without an event
SINCE = "%b %d %H:%M:%S %Y"
RESTART_TOLERANCE = 1  # seconds that strongSwan's 'since' may wander by rounding

log = logging.getLogger(__name__)


class ViciSource:
    """One source. `run` is its life; cancel it to end."""

    def __init__(self, settings: ViciSettings, feed: Feed) -> None:
        self.settings = settings
        self.feed = feed
        self.source = feed.source
        self._changed = asyncio.Event()  # something to list before the interval is over
        self._command: ViciSession | None = None
        self._command_lock = asyncio.Lock()
        self._failure: ViciError | None = None
        self._reader = ListingReader(feed.ike, feed.children)
        self._generation: str | None = None
        self._since: datetime | None = None
        self._pid = 0
        self._again = False  # connected anew: only then can the daemon be another one
        self._full_at = 0.0
        self._connections_at = 0.0
        self._has_counters = True
        self._last_malformed = ""

    # --- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, follow, reconnect, until cancelled."""
        if not self.settings.enabled:
            self.source.status = SourceStatus.DISABLED
            return
        pause = FIRST_PAUSE
        said = ""
        try:
            while True:
                try:
                    await self._follow()
                except ViciError as error:
                    was_up = self.source.status is SourceStatus.UP
                    self.feed.lost(str(error))
                    if was_up:
                        pause = FIRST_PAUSE
                    if str(error) != said or was_up:
                        said = str(error)
                        log.warning("source %s: %s; trying again", self.source.name, said)
                except Exception:
                    log.exception("source %s: a fault of the agent itself", self.source.name)
                    self.feed.lost("a fault of the agent itself, see the log")
                await asyncio.sleep(pause)
                pause = min(pause * 2, self.settings.reconnect_max)
        finally:
            await self._close_command()

    async def _follow(self) -> None:
        """One connection to the daemon, from beginning to end. Raises ViciError when it ends."""
        path, timeout = self.settings.socket, self.settings.timeout
        self._failure = None
        self._changed.clear()
        self._generation = None
        self._again = True
        sessions: list[ViciSession] = []
        try:
            for handler in (self._event, None):
                sessions.append(await ViciSession.connect(path, timeout, handler, self._session_closed))
            events, polls = sessions
            for event in EVENTS:
                await events.register(event)
            await self._identify(polls)
            self.source.commander = self
            await self._poll(polls)
            await self._connections(polls)
            log.info(
                "source %s: %s %s at %s", self.source.name, self.source.daemon, self.source.version, path
            )
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.settings.poll_interval):
                        await self._changed.wait()
                self._changed.clear()
                if self._failure is not None:
                    raise self._failure
                await self._poll(polls)
                if asyncio.get_running_loop().time() >= self._connections_at:
                    await self._connections(polls)
        finally:
            self.source.commander = None
            for session in sessions:
                await session.close()
            await self._close_command()

    def _session_closed(self, error: ViciError) -> None:
        self._failure = self._failure or error
        self._changed.set()

    # --- polls --------------------------------------------------------------------------------------------------------

    async def _identify(self, session: ViciSession) -> None:
        version = await session.request("version")
        self.source.daemon = read.text(version, "daemon")
        self.source.version = read.text(version, "version")

    async def _poll(self, session: ViciSession) -> None:
        """One look at everything that moves. Never two at a time: the caller waits for it."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self.source.polls += 1
        stats = await session.request("stats")
        await self._list_sas(session, stats)
        await self._counters(session, stats)
        self.source.poll_seconds = loop.time() - begun
        self.feed.contact()

    async def _list_sas(self, session: ViciSession, stats: Section) -> None:
        now = asyncio.get_running_loop().time()
        question: dict[str, str] = {}
        if self._generation is not None and self.source.epoch is not None and now < self._full_at:
            question = {"changed-since": self._generation, "epoch": self.source.epoch}
        records: list[Heard] = []
        unreadable = 0

        def each(octets: bytes, start: int) -> Generator[None, None, None]:
            nonlocal unreadable
            try:
                records.extend((yield from self._reader.reading(octets, start)))
            except BadRecord as error:
                unreadable += 1
                self._malformed(error)

        token = self.feed.begin_listing()
        self._reader.begin()
        answer = await session.streamed("list-sas", "list-sa", each, question)
        full = not question or answer.get("full") == "yes"
        if full:
            self._full_at = now + self.settings.full_interval
        await self._restarts(session.peer_pid, answer, stats, records)
        self.feed.contact()
        await in_slices(self._reader.ending(full))
        self._generation = None  # until all of this is taken in
        await in_slices(
            self.feed.applying(
                token,
                drained(records),
                # What could not be read is not gone: nothing ends by its absence from such a listing.
                full=full and not unreadable,
                gone_ike=read.uniqueids(answer.get("gone-ike")),
                gone_children=read.uniqueids(answer.get("gone-child")),
            )
        )
        self._generation = read.text(answer, "generation")

    async def _restarts(self, pid: int, answer: Section, stats: Section, records: list[Heard]) -> None:
        """Notice that the daemon is another one than before.

        It is by its epoch; strongSwan has none: after a lost connection, by the process that listens on the socket,
        or by its start time. That one also moves when the clock is set: an SA that is still there proves that the
        daemon is the same.
        """
        epoch = read.text(answer, "epoch")
        since = started_at(stats)
        if epoch is not None:
            again = self.source.epoch is not None and epoch != self.source.epoch
            self.feed.source.provides(frozenset(CHILD_COUNTS), frozenset(IKE_COUNTS))
        elif not self._again:
            return
        else:
            moved = (
                since is not None
                and self._since is not None
                and abs((since - self._since).total_seconds()) > RESTART_TOLERANCE
            )
            survivors = any(heard.record.key in self.feed.ike for heard in records)
            again = (bool(pid and self._pid) and pid != self._pid) or (moved and not survivors)
        self.source.epoch = epoch
        self._since, self._pid, self._again = since, pid, False
        if again:
            log.warning("source %s: the daemon was restarted", self.source.name)
            await in_slices(self.feed.restarting())

    async def _counters(self, session: ViciSession, stats: Section) -> None:
        source = self.source
        ike_sas = stats.get("ikesas")
        source.half_open = read.number(ike_sas, "half-open") if isinstance(ike_sas, dict) else None
        ipsec = stats.get("ipsec")
        if isinstance(ipsec, dict):
            source.data_plane = read.text(ipsec, "data-plane") or source.data_plane
        source.data_plane = read.text(stats, "data-plane") or source.data_plane
        source.ipsec_daemon.update(read.flat_counts(ipsec))
        source.ike_stats.update(read.flat_counts(stats.get("ike")))
        if not self._has_counters:
            return
        try:
            answer = await session.request("get-counters")
        except ViciRefused:
            self._has_counters = False  # strongSwan without its counters plugin
            return
        counters = answer.get("counters")
        if isinstance(counters, dict):
            source.ike_daemon.update(read.flat_counts(counters.get("")))

    async def _connections(self, session: ViciSession) -> None:
        found: list[Any] = []
        await session.streamed(
            "list-conns", "list-conn", each_decoded(lambda message: found.extend(read.connections(message)))
        )
        await in_slices(self.feed.configuration.applying(found))
        self._connections_at = asyncio.get_running_loop().time() + CONNECTIONS_INTERVAL

    # --- events -------------------------------------------------------------------------------------------------------

    def _event(self, name: str, message: Section) -> None:
        self.source.events += 1
        handler = self._handlers.get(name)
        if handler is None:
            return  # an event that was not asked for
        try:
            handler(self, message)
        except BadRecord as error:
            self._malformed(error)

    def _ike_updown(self, message: Section) -> None:
        for record in read.ike_records(message):
            (self.feed.ike_up if read.yes(message, "up") else self.feed.ike_down)(record)
            if record.name not in self.feed.configuration.connections:
                self._connections_at = 0.0
                self._changed.set()

    def _child_updown(self, message: Section) -> None:
        for record in read.ike_records(message):
            (self.feed.child_up if read.yes(message, "up") else self.feed.child_down)(record)

    def _ike_rekey(self, message: Section) -> None:
        for old, new in read.ike_rekey(message):
            self.feed.ike_rekeyed(old, new)

    def _child_rekey(self, message: Section) -> None:
        for ike, old, new in read.child_rekey(message):
            self.feed.child_rekeyed(ike, old, new)

    def _ike_update(self, message: Section) -> None:
        for record in read.ike_update(message):
            self.feed.ike_updated(record)

    def _child_ended(self, message: Section) -> None:
        for record in read.ike_records(message):
            self.feed.child_down(record)

    def _alert(self, message: Section) -> None:
        self.feed.failed(read.failure(message))

    _handlers: dict[str, Callable[[ViciSource, Section], None]] = {  # noqa: RUF012
        "ike-updown": _ike_updown,
        "child-updown": _child_updown,
        "ike-rekey": _ike_rekey,
        "child-rekey": _child_rekey,
        "ike-update": _ike_update,
        "alert": _alert,
        "child-ended": _child_ended,
    }

    def _malformed(self, error: BadRecord) -> None:
        self.source.malformed += 1
        if str(error) != self._last_malformed:
            self._last_malformed = str(error)
            log.warning("source %s: message left out: %s", self.source.name, error)

    # --- commands -----------------------------------------------------------------------------------------------------

    async def terminate_ike(self, uniqueid: int) -> None:
        await self._terminate("ike-id", uniqueid)

    async def terminate_child(self, uniqueid: int) -> None:
        await self._terminate("child-id", uniqueid)

    async def _terminate(self, key: str, uniqueid: int) -> None:
        # timeout -1: the answer comes when the daemon has taken the order, the peer's may take longer
        await self.command("terminate", {key: str(uniqueid), "timeout": "-1"})
        self._changed.set()

    async def command(self, name: str, message: dict[str, Any]) -> Section:
        """Carry out one command. Raises CommandError."""
        async with self._command_lock:
            try:
                if self._command is None or self._command.closed is not None:
                    self._command = await ViciSession.connect(self.settings.socket, self.settings.timeout)
            except ViciError as error:
                raise CommandError(f"source {self.source.name}: {error}") from None
            try:
                return await self._command.request(name, message)
            except ViciRefused as error:
                raise CommandError(f"source {self.source.name}: {error}") from None
            except ViciError as error:
                raise CommandError(f"source {self.source.name}: {error}", unsure=True) from None

    async def _close_command(self) -> None:
        if self._command is not None:
            session, self._command = self._command, None
            await session.close()


def drained(records: list[Heard]) -> Iterator[Heard]:
    """All of them in order, each of which is then no longer in the list: to free all at once would take long."""
    records.reverse()
    while records:
        yield records.pop()


def started_at(stats: Section) -> datetime | None:
    """When the daemon was started, from its stats."""
    uptime = stats.get("uptime")
    if not isinstance(uptime, dict):
        return None
    try:
        return datetime.strptime(read.text(uptime, "since") or "", SINCE)
    except ValueError:
        return None

"""The kernel's data plane: SAs and policies of the key exchange in the kernel's own SAD and SPD.

Packets never come by here. The kernel seals and opens them, asks for SAs (acquire), and tells of limits, of peers that
moved behind a NAT, and of what others do to our SAs and policies. What bears ``OWNER`` in its selector is ours; nothing
else is ever changed. A process that died leaves SAs and policies behind, which the next one removes before it begins.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from errno import EEXIST

from ipsecstack.dataplane.base import (
    Acquired,
    DataPlaneCounters,
    DataPlaneError,
    DataPlaneEvent,
    Features,
    PeerAddressChanged,
    SaExpired,
)
from ipsecstack.dataplane.xfrm.codec import (
    AcquireAsked,
    Answer,
    MappingChanged,
    Overrun,
    PoliciesFlushed,
    PolicyDeleted,
    Request,
    State,
    StateDeleted,
    StateExpired,
    StateFound,
    StatesFlushed,
    delete_state,
    dump_states,
    get_state,
    glance,
    new_state,
)
from ipsecstack.dataplane.xfrm.leftovers import remove_stale
from ipsecstack.dataplane.xfrm.netlink import Kernel, KernelError, Monitor
from ipsecstack.dataplane.xfrm.numbers import (
    UDP_ENCAP,
    UDP_ENCAP_ESPINUDP,
    Group,
)
from ipsecstack.dataplane.xfrm.policies import (
    NEIGHBOR_DISCOVERY,
    OWNER,
    PolicyBook,
)
from ipsecstack.dataplane.xfrm.routes import MARK, SourceRoutes
from ipsecstack.dataplane.xfrm.selectors import packet_of
from ipsecstack.dataplane.xfrm.shapes import Shapes, ways_of
from ipsecstack.dataplane.xfrm.sockets import InstanceLock, KernelCounts, bypass
from ipsecstack.dataplane.xfrm.spis import SpiPool
from ipsecstack.dataplane.xfrm.states import Installed, far_ahead, kind_of_limit, moved, states_of
from ipsecstack.dataplane.xfrm.structures import Faults, StateId
from ipsecstack.ipsec.sa import Address, Direction, Mode, SaCounters, SaDescription, SaId
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.ipsec.spd import SpdEntry

log = logging.getLogger(__name__)

FEATURES = Features(
    "xfrm",
    native_esp=True,
    udp_encapsulation=True,
    esn=True,
    userspace=False,
    ah=True,
    transport=True,
    ipcomp=True,
    tfc=True,
)
GROUPS = (Group.ACQUIRE, Group.EXPIRE, Group.SA, Group.POLICY, Group.MIGRATE, Group.MAPPING)
_LOOK_INTERVAL = 1.0  # seconds between two lists of all SAs, at least
_LOOK_SHARE = 20  # and that many times as long as the last one took
_BURST_QUERIES, _BURST_SECONDS = 24, 0.1  # so many queries in that time are answered from one list
_REPAIR_DELAY = 1.0  # seconds after another's hand was in our policies
_UNSEEN = 1 << 20  # sequence numbers that an SA may have used between a look at it and its end
_SPI_TRIES = 64


class XfrmDataPlane:
    """SAs and policies in the kernel of the network namespace in which this was made.

    ``instance`` tells several of them in one namespace apart (the daemon gives its IKE port). ``install_routes``: see
    ``routes``. Raises DataPlaneError
    when the kernel has no such interface, does not let us, or another process is at work for the same instance.
    """

    features = FEATURES
    socket_mark = 0

    def __init__(
        self,
        instance: int = 500,
        install_routes: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._user = OWNER + (instance & 0xFFFFF)
        self._clock, self._wall = clock, wall_clock
        self._closed = False
        self._undo = contextlib.ExitStack()
        try:
            self._lock = InstanceLock(f"ipsecstack-xfrm-{instance}")
            self._undo.callback(self._lock.close)
            self._kernel = Kernel()
            self._undo.callback(self._kernel.close)
            self._monitor = Monitor(GROUPS)
            self._undo.callback(self._monitor.close)
            self._counts = KernelCounts()
            self._undo.callback(self._counts.close)
            remove_stale(self._kernel, self._user)
            self._routes: SourceRoutes | None = None
            if install_routes:
                self._routes = SourceRoutes()
                self.socket_mark = MARK
                self._undo.callback(self._routes.close)
        except BaseException:
            self._undo.close()
            raise
        self._shapes = Shapes()
        self._book = PolicyBook(self._kernel, self._user, self._shapes.render, ways_of)
        self._sas: dict[SaId, Installed] = {}
        self._names: dict[StateId, SaId] = {}
        self._spis = SpiPool(self._kernel)
        self._events: list[DataPlaneEvent] = []
        self._touched: set[SaId] = set()
        self._next_look = 0.0
        self._told_of_dummies = False
        self._burst_began, self._burst = float("-inf"), 0
        self._repair_at: float | None = None
        self._acquired: dict[int, int] = {}  # reqid -> number of the kernel's acquire, until its SA is there

    def allocate_spi(self, random: Callable[[int], bytes]) -> int:
        return self._spis.allocate(random)

    def release_spi(self, spi: int) -> None:
        self._spis.release(spi)

    # --- SAs ----------------------------------------------------------------------------------------------------------

    def install(self, sa: SaDescription, now: float) -> None:
        name = sa.id
        if name in self._sas:
            raise DataPlaneError(f"an SA with SPI {sa.spi:08x} is installed already")
        states = states_of(sa, self._user)
        if sa.dummy_rate > 0 and not self._told_of_dummies:
            self._told_of_dummies = True
            log.warning("the kernel sends no dummy packets: dummy_rate is for the other data planes")
        if sa.direction is Direction.OUT and sa.reqid in self._acquired:
            seq = self._acquired.pop(sa.reqid)
            states[-1] = replace(states[-1], info=replace(states[-1].info, seq=seq))
        if sa.direction is Direction.IN:
            self._spis.release(sa.spi)
        self._add(states)
        entry = Installed(sa, tuple(state.info.id for state in states), looked=self._clock())
        self._sas[name] = entry
        self._spis.used(sa.spi)
        for state in entry.states:
            self._names[state] = name
        self._touched.add(name)
        try:
            if self._shapes.add(sa):
                self._book.refresh(sa.reqid)
            self._follow(sa.reqid)
        except DataPlaneError:
            self.remove(name)
            raise

    def _follow(self, reqid: int) -> None:
        """Routes go to the peer of the newest outbound SA, while there is one."""
        sa = self._shapes.newest(reqid, Direction.OUT)
        peer = sa.destination.host if sa is not None and sa.mode is Mode.TUNNEL else None
        self._route(self._book.of_reqid(reqid), peer)

    def _route(self, entries: Sequence[SpdEntry], peer: IPAddress | None) -> None:
        """A tunnel without its route carries the packets of others all the same: that is told, not fatal."""
        if self._routes is None:
            return
        try:
            self._routes.set(entries, peer)
        except DataPlaneError as error:
            log.warning("%s", error)

    def _add(self, states: Sequence[State]) -> None:
        """All of them, or none. An SA of ours that is in the way is a leftover, and makes room."""
        done: list[StateId] = []
        try:
            for state in states:
                try:
                    self._kernel.call(new_state(state))
                except KernelError as error:
                    if error.number != EEXIST or not self._is_leftover(state.info.id):
                        raise
                    self._kernel.ask([delete_state(state.info.id, state.mark)])
                    self._kernel.call(new_state(state))
                done.append(state.info.id)
        except DataPlaneError:
            self._kernel.ask(delete_state(name, states[0].mark) for name in done)
            raise

    def _is_leftover(self, name: StateId) -> bool:
        if name in self._names:
            return False
        (answer,) = self._kernel.ask([get_state(name)])
        return isinstance(answer, StateFound) and answer.state.info.selector.user == self._user

    def update(self, sa: SaId, source: Address, destination: Address, encapsulated: bool) -> SaId:
        entry = self._sas.get(sa)
        if entry is None or entry.gone:
            raise DataPlaneError(f"an SA with SPI {sa.spi:08x} is not installed")
        old = entry.description
        new = replace(old, source=source, destination=destination, encapsulated=encapsulated)
        if new.id != sa and new.id in self._sas:
            raise DataPlaneError(f"an SA with SPI {sa.spi:08x} to {destination.host} is installed already")
        states = states_of(new, self._user)
        same_place = (old.source.host, old.destination.host) == (source.host, destination.host)
        if same_place and encapsulated and old.encapsulated:
            self._kernel.call(new_state(states[-1], replace=True))
        else:
            self._move(entry, states)
        for state in entry.states:
            self._names.pop(state, None)
        del self._sas[sa]
        entry.description, entry.states = new, tuple(state.info.id for state in states)
        entry.told_remote = None
        self._sas[new.id] = entry
        for state in entry.states:
            self._names[state] = new.id
        self._touched.discard(sa)
        self._touched.add(new.id)
        self._shapes.remove(old)
        self._shapes.add(new)
        self._book.refresh(new.reqid)
        self._follow(new.reqid)
        return new.id

    def _move(self, entry: Installed, states: list[State]) -> None:
        """Delete the SA and add it elsewhere, where its counts, window and sequence numbers go on.

        The kernel tells of each deletion with the numbers the SA had at its end. Should that word be lost, the ones
        read before count, moved so far ahead that no number (hence no IV) is used twice.
        """
        mark = entry.description.mark
        found = self._kernel.ask(get_state(name, mark) for name in entry.states)
        self._kernel.ask(delete_state(name, mark) for name in entry.states)
        last: dict[StateId, State] = {}
        for received in self._monitor.receive():
            if isinstance(received.answer, StateDeleted) and received.answer.id in entry.states:
                if received.answer.state is not None:
                    last[received.answer.id] = received.answer.state
            else:
                self._take(received.answer, received.port)
        before = [answer.state if isinstance(answer, StateFound) else None for answer in found]
        ends = [last.get(name, old) for name, old in zip(entry.states, before, strict=True)]
        base, end = entry.base, ends[-1]
        after = [moved(state, at_end) for state, at_end in zip(states, ends, strict=True)]
        if entry.description.direction is Direction.OUT:
            after = [
                state if name in last else far_ahead(state, _UNSEEN)
                for state, name in zip(after, entry.states, strict=True)
            ]
        try:
            self._add(after)
        except DataPlaneError:
            back = states_of(entry.description, self._user)
            try:
                self._add([moved(state, at_end) for state, at_end in zip(back, ends, strict=True)])
            except DataPlaneError:
                self._expire(entry.description.id, entry, True, "removed")
                entry.gone = True
            raise
        if end is not None:
            faults = end.info.faults
            entry.base = Faults(
                base.before_window + faults.before_window,
                base.duplicates + faults.duplicates,
                base.integrity + faults.integrity,
            )

    def remove(self, sa: SaId) -> SaCounters | None:
        entry = self._sas.pop(sa, None)
        if entry is None:
            return None
        mark = entry.description.mark
        requests: list[Request] = [] if entry.gone else [get_state(entry.main, mark)]
        requests += [delete_state(name, mark) for name in entry.states]
        answers = self._kernel.ask(requests)
        if not entry.gone:
            self._note(entry, answers[0])
        for name in entry.states:
            self._names.pop(name, None)
        self._spis.unused(sa.spi)
        self._touched.discard(sa)
        if self._shapes.remove(entry.description):
            self._book.refresh(entry.description.reqid)
            self._follow(entry.description.reqid)
        return entry.counters

    def query(self, sa: SaId) -> SaCounters | None:
        entry = self._sas.get(sa)
        if entry is None:
            return None
        if not entry.gone and not self._seen_just_now(entry):
            (answer,) = self._kernel.ask([get_state(entry.main, entry.description.mark)])
            if self._note(entry, answer):
                self._touched.add(sa)
        return entry.counters.copy()

    def _seen_just_now(self, entry: Installed) -> bool:
        """Whoever asks for many SAs in a row gets them from one list, which costs less than asking for each."""
        now = self._clock()
        if now - self._burst_began > _BURST_SECONDS:
            self._burst_began, self._burst = now, 0
        self._burst += 1
        if self._burst <= _BURST_QUERIES:
            return False
        if entry.looked < self._burst_began:
            self._look(now)
        return entry.looked >= self._burst_began

    def _note(self, entry: Installed, answer: Answer) -> bool:
        if not isinstance(answer, StateFound):
            return False
        info = answer.state.info
        return entry.count(info.use, info.faults, answer.state.last_used, self._clock(), self._wall())

    def touched(self) -> set[SaId]:
        """SAs whose counters changed since the last call, by a list of all SAs that is made now and then."""
        now = self._clock()
        if self._sas and now >= self._next_look:
            self._look(now)
            self._next_look = self._clock() + max(_LOOK_INTERVAL, _LOOK_SHARE * (self._clock() - now))
        touched, self._touched = self._touched, set()
        return touched

    def _look(self, now: float) -> set[StateId]:
        """Take the counts of all our SAs; the names of those that are there."""
        wall = self._wall()
        there: set[StateId] = set()

        def visit(_kind: int, body: memoryview) -> None:
            found = glance(body)
            if found is None or found.user != self._user:
                return
            there.add(found.id)
            name = self._names.get(found.id)
            if name is None:
                return
            entry = self._sas[name]
            if found.id == entry.main and entry.count(found.use, found.faults, found.last_used, now, wall):
                self._touched.add(name)

        self._kernel.dump(dump_states(), visit)
        return there

    # --- policies -----------------------------------------------------------------------------------------------------

    def add_policy(self, entry: SpdEntry) -> None:
        if _of_ipv6(entry):
            self._book.add(NEIGHBOR_DISCOVERY)  # once for each use of each entry
        try:
            self._book.add(entry)
        except DataPlaneError:
            if _of_ipv6(entry):
                self._book.remove(NEIGHBOR_DISCOVERY)
            raise
        if entry.reqid:
            self._follow(entry.reqid)

    def remove_policy(self, entry: SpdEntry) -> None:
        if entry not in self._book:
            return
        self._book.remove(entry)
        if _of_ipv6(entry):
            self._book.remove(NEIGHBOR_DISCOVERY)
        if entry not in self._book:
            self._route([entry], None)

    def policies(self) -> Sequence[SpdEntry]:
        return [entry for entry in self._book.entries() if entry is not NEIGHBOR_DISCOVERY]

    # --- what the kernel tells ----------------------------------------------------------------------------------------

    def events(self) -> list[DataPlaneEvent]:
        events, self._events = self._events, []
        return events

    def event_fileno(self) -> int | None:
        return None if self._closed else self._monitor.fileno()

    def read_events(self, now: float) -> None:
        if self._closed:
            return
        for received in self._monitor.receive():
            self._take(received.answer, received.port)

    def _take(self, answer: Answer, port: int) -> None:
        if isinstance(answer, StateExpired):
            self._expired(answer)
        elif isinstance(answer, AcquireAsked):
            self._acquire(answer)
        elif isinstance(answer, MappingChanged):
            self._mapping(answer)
        elif isinstance(answer, Overrun):
            log.warning("events of the kernel were lost: looking at all SAs")
            self._find_missing()
        elif port == self._kernel.port:
            return
        elif isinstance(answer, StateDeleted):
            if answer.id in self._names:
                self._find_missing()
        elif isinstance(answer, StatesFlushed):
            self._find_missing()
        elif self._repair_at is None and (
            isinstance(answer, PoliciesFlushed)
            or (isinstance(answer, PolicyDeleted) and answer.selector.user == self._user)
        ):
            self._repair_at = self._clock() + _REPAIR_DELAY

    def _expired(self, told: StateExpired) -> None:
        name = self._names.get(told.info.id)
        entry = self._sas.get(name) if name is not None else None
        if name is None or entry is None or told.info.id != entry.main:
            return  # a reservation that lapsed, or another program's SA
        self._expire(name, entry, told.hard, kind_of_limit(told.info.limits, told.info.use, told.hard))
        if told.hard:
            entry.count(told.info.use, told.info.faults, None, self._clock(), self._wall())
            entry.gone = True

    def _expire(self, name: SaId, entry: Installed, hard: bool, kind: str) -> None:
        if entry.gone or (hard, kind) in entry.told:
            return
        entry.told.add((hard, kind))
        self._touched.add(name)
        self._events.append(SaExpired(name, hard, kind))

    def _find_missing(self) -> None:
        """SAs that another program deleted, or that ended unseen: their end is told like a hard limit."""
        there = self._look(self._clock())
        for name, entry in list(self._sas.items()):
            if entry.gone:
                continue
            if entry.main not in there:
                log.warning("the SA %08x to %s was removed by another program", name.spi, name.destination)
                self._expire(name, entry, True, "removed")
                entry.gone = True

    def _acquire(self, asked: AcquireAsked) -> None:
        selector = asked.policy.selector
        if selector.user != self._user:
            return
        reqid = asked.template.reqid if asked.template is not None else 0
        for entry in self._book.claimants(selector):
            if entry.reqid != reqid:
                continue
            if not entry.trap:
                return
            self._acquired[reqid] = asked.seq
            flow = packet_of(asked.selector)
            what = (entry, flow.source, flow.destination, flow.protocol, flow.ports)
            self._events.append(Acquired(*what, *entry.populated(flow)))
            return

    def _mapping(self, told: MappingChanged) -> None:
        name = self._names.get(told.id)
        entry = self._sas.get(name) if name is not None else None
        if name is None or entry is None or name.direction is not Direction.IN or entry.gone:
            return
        remote = Address(*told.new)
        if remote in (entry.description.source, entry.told_remote):
            return
        entry.told_remote = remote
        self._events.append(PeerAddressChanged(name, remote))

    # --- time, sockets, end -------------------------------------------------------------------------------------------

    @property
    def counters(self) -> DataPlaneCounters:
        """The kernel's counts of this network namespace (/proc/net/xfrm_stat), and those of our own sockets."""
        return self._counts.refresh(self._clock())

    def next_timer(self) -> float | None:
        return self._repair_at

    def handle_timer(self, now: float) -> None:
        if self._repair_at is not None and now >= self._repair_at:
            self._repair_at = None
            log.warning("another program removed policies of ours: installing them again")
            try:
                self.repair()
            except DataPlaneError as error:
                log.error("%s", error)

    def addresses_changed(self) -> None:
        if self._routes is not None:
            self._routes.refresh()

    def repair(self) -> None:
        self._book.repair()

    def prepare_socket(self, sock: socket.socket, encapsulation: bool) -> None:
        bypass(sock)
        if encapsulation:
            try:
                sock.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
            except OSError as error:
                raise DataPlaneError(
                    f"the kernel takes no ESP in UDP: {os.strerror(error.errno or 0)}; load esp4 and esp6, "
                    "or use dataplane = tun"
                ) from None

    def close(self) -> None:
        """Remove what is ours from the kernel. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._book.close()
            gone = [(name, entry.description.mark) for entry in self._sas.values() for name in entry.states]
            self._kernel.ask(delete_state(name, mark) for name, mark in gone)
            self._spis.close()
        finally:
            self._sas.clear()
            self._names.clear()
            self._undo.close()


def _of_ipv6(entry: SpdEntry) -> bool:
    return entry is not NEIGHBOR_DISCOVERY and any(ts.version == 6 for ts in entry.remote_ts)

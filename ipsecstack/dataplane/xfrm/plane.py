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

from ipsecstack.dataplane.addresses import VirtualAddresses
from ipsecstack.dataplane.base import (
    Acquired,
    DataPlaneCounters,
    DataPlaneError,
    DataPlaneEvent,
    Features,
    PeerAddressChanged,
)
from ipsecstack.dataplane.xfrm.codec import (
    AcquireAsked,
    MappingChanged,
    Overrun,
    PoliciesFlushed,
    PolicyDeleted,
    Received,
    StateDeleted,
    StateExpired,
    StatesFlushed,
)
from ipsecstack.dataplane.xfrm.leftovers import remove_stale
from ipsecstack.dataplane.xfrm.netlink import Kernel, Monitor
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
from ipsecstack.dataplane.xfrm.sas import KernelSas
from ipsecstack.dataplane.xfrm.selectors import packet_of
from ipsecstack.dataplane.xfrm.shapes import Shapes, ways_of
from ipsecstack.dataplane.xfrm.sockets import InstanceLock, KernelCounts, bypass
from ipsecstack.dataplane.xfrm.spis import SpiPool
from ipsecstack.dataplane.xfrm.states import states_of
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
_REPAIR_DELAY, _REPAIR_AGAIN = (
    1.0,
    10.0,
)  # seconds after another's hand was in our policies, and after a failure


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
            self._virtual = VirtualAddresses("lo")
            self._undo.callback(self._virtual.close)
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
        self._events: list[DataPlaneEvent] = []
        self._sas = KernelSas(
            self._kernel,
            self._user,
            clock,
            wall_clock,
            self._events.append,
            self._monitor.receive,
            self._take,
        )
        self._spis = SpiPool(self._kernel)
        self._told_of_dummies = False
        self._repair_at: float | None = None
        self._find_missing = self._words_lost = False
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
        self._sas.add(sa, states)
        self._spis.used(sa.spi)
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

    def update(self, sa: SaId, source: Address, destination: Address, encapsulated: bool) -> SaId:
        entry = self._sas.get(sa)
        if entry is None:
            raise DataPlaneError(f"an SA with SPI {sa.spi:08x} is not installed")
        old = entry.description
        new = replace(old, source=source, destination=destination, encapsulated=encapsulated)
        try:
            self._sas.move(sa, new)
        finally:
            self._look_for_missing()
        self._shapes.remove(old)
        self._shapes.add(new)
        self._book.refresh(new.reqid)
        self._follow(new.reqid)
        return new.id

    def remove(self, sa: SaId) -> SaCounters | None:
        entry = self._sas.remove(sa)
        if entry is None:
            return None
        self._spis.unused(sa.spi)
        if self._shapes.remove(entry.description):
            try:
                self._book.refresh(entry.description.reqid)
            except DataPlaneError as error:
                log.error("%s", error)  # the SA is gone all the same; a policy of its kind finds none
            self._follow(entry.description.reqid)
        return entry.counters

    def query(self, sa: SaId) -> SaCounters | None:
        return self._sas.query(sa)

    def touched(self) -> set[SaId]:
        return self._sas.touched()

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
        try:
            self._book.remove(entry)
        except DataPlaneError:
            self._repair_soon()  # a policy that the kernel kept must not stay for ever
            raise
        finally:
            if _of_ipv6(entry):
                self._book.remove(NEIGHBOR_DISCOVERY)
            if entry not in self._book:
                self._route([entry], None)

    def policies(self) -> Sequence[SpdEntry]:
        return [entry for entry in self._book.entries() if entry is not NEIGHBOR_DISCOVERY]

    # --- what the kernel tells ----------------------------------------------------------------------------------------

    def events(self) -> list[DataPlaneEvent]:
        events = self._events.copy()
        self._events.clear()
        return events

    def event_fileno(self) -> int | None:
        return None if self._closed else self._monitor.fileno()

    def read_events(self, now: float) -> None:
        if self._closed:
            return
        for received in self._monitor.receive():
            self._take(received)
        self._look_for_missing()

    def _look_for_missing(self) -> None:
        """Once for all that was told: whoever deletes a thousand SAs causes a thousand words."""
        if not self._find_missing:
            return
        try:
            self._sas.find_missing(self._words_lost)
        except DataPlaneError as error:
            log.error("%s", error)
            self._repair_soon()
        else:
            self._find_missing = self._words_lost = False

    def _take(self, received: Received) -> None:
        answer = received.answer
        if isinstance(answer, StateExpired):
            self._sas.expired(answer)
        elif isinstance(answer, AcquireAsked):
            self._acquire(answer)
        elif isinstance(answer, MappingChanged):
            self._mapping(answer)
        elif isinstance(answer, Overrun):
            log.warning("events of the kernel were lost: looking at all SAs and policies")
            self._find_missing = self._words_lost = True
            self._repair_soon()
        elif received.port == self._kernel.port:
            return
        elif isinstance(answer, StateDeleted):
            if self._sas.of_state(answer.id) is not None:
                self._find_missing = True
        elif isinstance(answer, StatesFlushed):
            self._find_missing = True
        elif isinstance(answer, PoliciesFlushed) or (
            isinstance(answer, PolicyDeleted) and answer.selector.user == self._user
        ):
            self._repair_soon()

    def _repair_soon(self) -> None:
        if self._repair_at is None:
            self._repair_at = self._clock() + _REPAIR_DELAY

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
        found = self._sas.of_state(told.id)
        if found is None:
            return
        name, entry = found
        if name.direction is not Direction.IN or entry.gone:
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
            self._look_for_missing()
            log.warning("policies of ours may have been removed: installing them again")
            try:
                self.repair()
            except DataPlaneError as error:
                self._repair_at = now + _REPAIR_AGAIN
                log.error("%s; tried again in %g s", error, _REPAIR_AGAIN)

    def add_address(self, address: IPAddress) -> None:
        self._virtual.add(address)
        self.addresses_changed()

    def remove_address(self, address: IPAddress) -> None:
        self._virtual.remove(address)
        self.addresses_changed()

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
            self._sas.close()
            self._spis.close()
        finally:
            self._undo.close()


def _of_ipv6(entry: SpdEntry) -> bool:
    return entry is not NEIGHBOR_DISCOVERY and any(ts.version == 6 for ts in entry.remote_ts)

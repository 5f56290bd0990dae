"""RFC 4301's packet processing in this process: SPD, SAD and ESP over batches of packets, without any I/O.

``memory`` and ``tun`` build on ``UserspaceCore`` and differ only in where inner packets come from and go to. Time is an
argument; randomness (IVs of CBC) is given to the constructor.

What the outer header gets (RFC 4301 §5.1.2): DSCP and ECN are copied out, ECN comes back as RFC 6040 §4.2 says. TTL of
the inner packet is the business of the kernel that forwards it into and out of the device. DF is obeyed where it
matters: an inner packet that would not fit the outer path is answered with ICMP 'too big' when it must not be
fragmented, and fragmented before encryption otherwise (RFC 4301 §8.2), so no outer fragments are made.
"""

from __future__ import annotations

import heapq
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ipsecstack.dataplane.acquire import AcquireQueue, SpiHints
from ipsecstack.dataplane.base import (
    Acquired,
    DataPlaneCounters,
    DataPlaneError,
    DataPlaneEvent,
    EspDatagrams,
    Features,
    PeerAddressChanged,
    SaExpired,
    UnknownSpiReceived,
)
from ipsecstack.ipsec.esp import TransformError
from ipsecstack.ipsec.esp_batch import OpenErrors, open_batch, seal_batch
from ipsecstack.ipsec.lifetime import LimitReached
from ipsecstack.ipsec.sa import Address, Mode, SaCounters, SaDescription, SaId, SecurityProtocol
from ipsecstack.ipsec.sad import InboundSa, InstalledSa, OutboundSa, Sad, SadError
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.ipsec.spd import Action, Spd, SpdEntry
from ipsecstack.wire.esp import HEADER_OCTETS, MIN_SPI, NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE
from ipsecstack.wire.icmp import too_big
from ipsecstack.wire.ip import (
    Flow,
    PacketError,
    flow_key,
    fragment_ipv4,
    may_fragment,
    merge_ecn,
    packet_length,
    traffic_class,
)

Packet = bytes | memoryview
Random = Callable[[int], bytes]

DEFAULT_PATH_MTU = 1500
_MAX_DECISIONS = 8192
_SPI = struct.Struct("!I")


class UserspaceCore:
    """SPD, SAD, ESP, counters and events of a userspace data plane: all of ``DataPlane``, and the packet processing."""

    socket_mark: int = 0

    def __init__(self, features: Features, random: Random, path_mtu: int = DEFAULT_PATH_MTU) -> None:
        self.features = features
        self.counters = DataPlaneCounters()
        self.spd = Spd()
        self.sad = Sad()
        self._random = random
        self._default_path_mtu = path_mtu
        self._path_mtu: dict[IPAddress, int] = {}
        self._events: deque[DataPlaneEvent] = deque()
        self._touched: set[InstalledSa] = set()
        self._timers: list[tuple[float, int, SaId]] = []
        self._timer_count = 0
        # Flow keys that go into an SA right away; anything else is decided packet by packet.
        self._decisions: dict[bytes, OutboundSa] = {}
        self._policy_uses: dict[SpdEntry, int] = {}
        self._waiting = AcquireQueue()
        self._released: list[bytes] = []
        self._to_device: list[bytes] = []
        self._to_clear: list[bytes] = []
        self._spi_hints = SpiHints()

    # --- the control side ------------------------------------------------------------------------------------------

    def allocate_spi(self, random: Random) -> int:
        try:
            return self.sad.allocate_spi(random)
        except SadError as error:
            raise DataPlaneError(str(error)) from None

    def release_spi(self, spi: int) -> None:
        self.sad.release_spi(spi)

    def install(self, sa: SaDescription, now: float) -> None:
        """Install an SA. Packets that waited for it are sent by the next ``read_device`` or ``outbound``."""
        if sa.protocol is not SecurityProtocol.ESP or sa.mode is not Mode.TUNNEL:
            raise DataPlaneError(
                f"the {self.features.name} data plane does ESP in tunnel mode only, "
                f"not {sa.protocol.name} {sa.mode.value}"
            )
        if sa.encapsulated and not (sa.source.port and sa.destination.port):
            raise DataPlaneError("ESP in UDP needs the ports of both ends")
        try:
            installed = self.sad.add(sa, now)
        except (SadError, TransformError) as error:
            raise DataPlaneError(f"the SA cannot be installed: {error}") from None
        self._touched.add(installed)
        self._watch(installed)
        if isinstance(installed, OutboundSa):
            self._fit(installed)
            self._decisions.clear()
            self._released += self._waiting.take(sa.reqid)

    def update(self, sa: SaId, source: Address, destination: Address, encapsulated: bool) -> SaId:
        if encapsulated and not (source.port and destination.port):
            raise DataPlaneError("ESP in UDP needs the ports of both ends")
        try:
            moved = self.sad.move(sa, source, destination, encapsulated)
        except SadError as error:
            raise DataPlaneError(str(error)) from None
        if isinstance(moved, InboundSa):
            moved.told_remote = None
        elif isinstance(moved, OutboundSa):
            self._fit(moved)
        self._touched.add(moved)
        self._watch(moved)
        return moved.id

    def remove(self, sa: SaId) -> SaCounters | None:
        removed = self.sad.remove(sa)
        if removed is None:
            return None
        self._decisions.clear()
        self._touched.discard(removed)
        return removed.counters

    def query(self, sa: SaId) -> SaCounters | None:
        found = self.sad.get(sa)
        return found.counters.copy() if found else None

    def touched(self) -> set[SaId]:
        touched = {sa.id for sa in self._touched}
        self._touched.clear()
        return touched

    def add_policy(self, entry: SpdEntry) -> None:
        """Put an entry into the SPD. The same entry may be added again: it stays until it was removed as often."""
        self._policy_uses[entry] = self._policy_uses.get(entry, 0) + 1
        if self._policy_uses[entry] == 1:
            self.spd.add(entry)
            self._decisions.clear()

    def remove_policy(self, entry: SpdEntry) -> None:
        """Take an entry out; nothing happens when it is not there."""
        uses = self._policy_uses.get(entry, 0)
        if uses > 1:
            self._policy_uses[entry] = uses - 1
        if uses != 1:
            return
        del self._policy_uses[entry]
        self.spd.remove(entry)
        self._waiting.forget(entry)
        self._count_waiting()
        self._decisions.clear()

    def has_policy(self, entry: SpdEntry) -> bool:
        return entry in self._policy_uses

    def policies(self) -> Sequence[SpdEntry]:
        return tuple(self.spd)

    def set_path_mtu(self, destination: IPAddress, mtu: int) -> None:
        """The largest outer IP packet that reaches a peer, in octets; below 576 it is not believed."""
        if mtu < 576:
            raise DataPlaneError(f"a path MTU of {mtu} octets")
        self._path_mtu[destination] = mtu
        for sa in self.sad:
            if isinstance(sa, OutboundSa) and sa.id.destination == destination:
                self._fit(sa)

    def events(self) -> list[DataPlaneEvent]:
        events = list(self._events)
        self._events.clear()
        return events

    def next_timer(self) -> float | None:
        return self._next_expiry()

    def _next_expiry(self) -> float | None:
        while self._timers:
            at, _, sa_id = self._timers[0]
            sa = self.sad.get(sa_id)
            if sa is not None and sa.lifetime.next_time == at:
                return at
            heapq.heappop(self._timers)
        return None

    def handle_timer(self, now: float) -> None:
        while (at := self._next_expiry()) is not None and at <= now:
            sa = self.sad.get(heapq.heappop(self._timers)[2])
            if sa is not None:
                self._expire(sa, sa.lifetime.at_time(now))
                self._watch(sa)

    def addresses_changed(self) -> None:
        """Nothing here depends on this host's addresses."""

    def repair(self) -> None:
        """There is no device that could be lost."""

    def prepare_socket(self, sock: socket.socket, encapsulation: bool) -> None:
        """Sockets need nothing but their mark."""

    def event_fileno(self) -> int | None:
        """Nothing but packets comes to this plane."""
        return None

    def read_events(self, now: float) -> None:
        """There are none to read."""

    def close(self) -> None:
        """Forget every SA, key and packet."""
        self.sad = Sad()
        self.spd = Spd()
        self._policy_uses.clear()
        self._decisions.clear()
        self._waiting.clear()
        self._timers.clear()
        self._released.clear()
        self._to_device.clear()
        self._to_clear.clear()

    # --- outbound (RFC 4301 §5.1) ----------------------------------------------------------------------------------

    def outbound(self, packets: Iterable[Packet], now: float) -> list[EspDatagrams]:
        """Inner IP packets to ESP, in order for each SA and traffic class."""
        runs: dict[tuple[OutboundSa, int], list[Packet]] = {}
        decisions = self._decisions
        run: list[Packet] = []
        last_sa, last_tos = None, -1
        if self._released:
            packets = [*self._released, *packets]
            self._released = []
        for packet in packets:
            try:
                key = flow_key(packet)
            except PacketError:
                self.counters.malformed_out += 1
                continue
            sa = decisions.get(key)
            if sa is None:
                sa = self._decide(key, packet, now)
                if sa is None:
                    continue
            tos = packet[1] if packet[0] < 0x60 else traffic_class(packet)
            if sa is not last_sa or tos != last_tos:
                last_sa, last_tos = sa, tos
                run = runs.setdefault((sa, tos), [])
            if len(packet) <= sa.max_packet:
                run.append(packet)
            else:
                run += self._fit_packet(sa, packet)
        datagrams = []
        for (sa, tos), run_packets in runs.items():
            if run_packets and (sealed := self._seal(sa, run_packets, now)):
                d = sa.description
                datagrams.append(EspDatagrams(d.source, d.destination, d.encapsulated, sealed, tos))
        return datagrams

    def _decide(self, key: bytes, packet: Packet, now: float) -> OutboundSa | None:
        """The SA for a flow that is not cached, or None when the packet was dropped, bypassed or queued."""
        entry = self.spd.outbound(key)
        if entry is None or entry.action is Action.DISCARD:
            self.counters.discarded_out += 1
            return None
        if entry.action is Action.BYPASS:
            self.counters.bypassed_out += 1
            self._to_clear.append(bytes(packet))
            return None
        flow = Flow.from_key(key)
        for sa in self.sad.outbound(entry.reqid):
            if not sa.lifetime.expired and sa.selects(flow):
                if len(self._decisions) >= _MAX_DECISIONS:
                    self._decisions.clear()
                self._decisions[key] = sa
                return sa
        if entry.trap:
            self._queue(entry, flow, packet, now)
        else:
            self.counters.no_sa_out += 1
        return None

    def _seal(self, sa: OutboundSa, packets: list[Packet], now: float) -> list[bytes | memoryview]:
        """Seal a run within the SA's limits: what is beyond a hard limit is dropped."""
        octets, counters, lifetime = sum(map(len, packets)), sa.counters, sa.lifetime
        if lifetime.expired:
            self.counters.no_sa_out += len(packets)
            return []
        whole = (
            counters.octets + octets < lifetime.next_octets
            and counters.packets + len(packets) < lifetime.next_packets
            and sa.sequence_number + len(packets) < (sa.soft_sequence_number or sa.last_sequence_number)
        )
        self._touched.add(sa)
        counters.last_used = now
        if whole:
            sealed = seal_batch(sa.transform, packets, sa.sequence_number + 1, self._random)
            sa.sequence_number += len(packets)
            counters.octets += octets
            counters.packets += len(packets)
            return list(sealed)
        # A limit is near: count packet by packet, so that it is told, and a hard one obeyed, to the packet.
        out: list[bytes | memoryview] = []
        for packet in packets:
            if lifetime.expired:
                self.counters.no_sa_out += 1
                continue
            out += seal_batch(sa.transform, (packet,), sa.sequence_number + 1, self._random)
            sa.sequence_number += 1
            counters.octets += len(packet)
            counters.packets += 1
            self._expire(sa, lifetime.at_counts(counters.octets, counters.packets))
            self._watch_sequence(sa)
        return out

    def _watch_sequence(self, sa: OutboundSa) -> None:
        """A sequence number must never repeat (RFC 4303 §3.3.3): ask for a rekey in time, stop at the end."""
        if sa.lifetime.expired:
            return
        if sa.sequence_number >= sa.last_sequence_number:
            sa.lifetime.exhaust()
            self._expire(sa, [LimitReached("sequence", True)])
        elif sa.soft_sequence_number is not None and sa.sequence_number >= sa.soft_sequence_number:
            sa.soft_sequence_number = None
            self._expire(sa, [LimitReached("sequence", False)])

    def _fit(self, sa: OutboundSa) -> None:
        """The longest inner packet whose datagram fits the path to the peer."""
        d = sa.description
        outer = 20 if d.destination.host.version == 4 else 40
        room = (
            self._path_mtu.get(d.destination.host, self._default_path_mtu)
            - outer
            - (8 if d.encapsulated else 0)
        )
        sa.max_packet = sa.transform.max_payload(room)

    def _fit_packet(self, sa: OutboundSa, packet: Packet) -> Sequence[Packet]:
        """What to send of a packet that is too long for the path: fragments, or nothing and an ICMP error."""
        if may_fragment(packet):
            try:
                return fragment_ipv4(packet, sa.max_packet)
            except PacketError:
                self.counters.malformed_out += 1
                return ()
        if packet[0] >> 4 == 6 and sa.max_packet < 1280 and len(packet) <= 1280:
            return (
                packet,
            )  # RFC 8200 §5: 1280 octets always pass inside; the outer packet gets fragmented instead
        error = too_big(packet, sa.max_packet)
        self.counters.too_big_out += 1
        if error is not None:
            self._to_device.append(error)
        return ()

    def _queue(self, entry: SpdEntry, flow: Flow, packet: Packet, now: float) -> None:
        """Keep a packet of a trap policy and ask for its SA."""
        if self._waiting.put(entry, bytes(packet), now):
            self._events.append(Acquired(entry, flow.source, flow.destination, flow.protocol, flow.ports))
        self._count_waiting()

    def _count_waiting(self) -> None:
        self.counters.no_sa_out += self._waiting.dropped
        self._waiting.dropped = 0

    # --- inbound (RFC 4301 §5.2) -----------------------------------------------------------------------------------

    def inbound(self, batch: Iterable[EspDatagrams], now: float) -> list[Packet]:
        """ESP to inner packets: those that are authentic, fresh and belong into their SA."""
        out: list[Packet] = []
        for datagrams in batch:
            packets, first = datagrams.packets, 0
            if min(map(len, packets), default=0) >= 4 and len(set(map(_SPI.unpack_from, packets))) == 1:
                self._open(packets, datagrams, out, now)  # nearly always: all of one SA
                continue
            while first < len(packets):
                spi, end = packets[first][:4], first + 1
                while end < len(packets) and packets[end][:4] == spi:
                    end += 1
                self._open(packets[first:end], datagrams, out, now)
                first = end
        return out

    def _open(self, packets: list[Packet], datagrams: EspDatagrams, out: list[Packet], now: float) -> None:
        """One run of packets with the same first four octets, which should be an SPI."""
        if min(map(len, packets)) < HEADER_OCTETS:
            whole = [packet for packet in packets if len(packet) >= HEADER_OCTETS]
            self.counters.malformed_in += len(packets) - len(whole)
            if not whole:
                return
            packets = whole
        spi = int.from_bytes(packets[0][:4], "big")
        if spi < MIN_SPI:
            self.counters.malformed_in += len(packets)
            return
        sa = self.sad.inbound(SecurityProtocol.ESP, spi)
        local = datagrams.local.host
        if sa is None or (local != sa.id.destination and not local.is_unspecified):
            self._unknown_spi(spi, datagrams, len(packets), now)
            return
        counters = sa.counters
        self._touched.add(sa)
        if sa.lifetime.expired or datagrams.encapsulated != sa.description.encapsulated:
            counters.other_errors += len(packets)
            return
        lifetime = sa.lifetime
        near = (
            counters.octets + sum(map(len, packets)) >= lifetime.next_octets
            or counters.packets + len(packets) >= lifetime.next_packets
        )
        runs = [[packet] for packet in packets] if near else [packets]
        top = sa.window.top
        for run in runs:
            if lifetime.expired:
                counters.other_errors += len(run)
                continue
            errors = OpenErrors()
            opened = open_batch(sa.transform, sa.window, run, errors)
            counters.replay_errors += errors.replay
            counters.integrity_errors += errors.integrity
            counters.padding_errors += errors.padding
            if opened:
                self._deliver(sa, opened, datagrams.ecn & 3, out, now)
                if near:
                    self._expire(sa, lifetime.at_counts(counters.octets, counters.packets))
        if sa.window.top != top:
            self._follow_peer(sa, datagrams)

    def _deliver(
        self, sa: InboundSa, opened: list[tuple[bytes, int]], outer_ecn: int, out: list[Packet], now: float
    ) -> None:
        """Check authentic payloads against the SA's selectors and pass them on."""
        counters, flows, octets, passed = sa.counters, sa.flows, 0, 0
        for payload, next_header in opened:
            if next_header == NEXT_HEADER_NONE:
                continue  # RFC 4303 §2.6: a dummy packet, dropped without a word
            try:
                key = flow_key(payload)
            except PacketError:
                try:
                    payload = payload[: packet_length(payload)]  # it may have been TFC padding
                    key = flow_key(payload)
                except PacketError:
                    counters.other_errors += 1
                    continue
            if next_header != (NEXT_HEADER_IPV4 if payload[0] < 0x60 else NEXT_HEADER_IPV6):
                counters.other_errors += 1
                continue
            if key not in flows and not sa.allows(key):
                counters.policy_errors += 1
                continue
            if outer_ecn:
                merged = merge_ecn(payload, outer_ecn)
                if merged is None:
                    counters.other_errors += 1
                    continue
                payload = merged
            octets += len(payload)
            passed += 1
            out.append(payload)
        if passed:
            counters.octets += octets
            counters.packets += passed
            counters.last_used = now

    def inbound_clear(self, packets: Iterable[Packet]) -> list[Packet]:
        """Packets that arrived without protection: only those that BYPASS names pass (RFC 4301 §5.2 step 3b)."""
        passed: list[Packet] = []
        for packet in packets:
            try:
                action = self.spd.clear_inbound(flow_key(packet))
            except PacketError:
                self.counters.malformed_in += 1
                continue
            if action is Action.BYPASS:
                self.counters.bypassed_in += 1
                passed.append(packet)
            else:
                self.counters.discarded_in += 1
        return passed

    def _unknown_spi(self, spi: int, datagrams: EspDatagrams, count: int, now: float) -> None:
        self.counters.unknown_spi += count
        if self._spi_hints.worth(spi, datagrams.remote, now):
            self._events.append(UnknownSpiReceived(spi, datagrams.local, datagrams.remote))

    def _follow_peer(self, sa: InboundSa, datagrams: EspDatagrams) -> None:
        """An authentic packet, newer than all before, came from elsewhere (RFC 7296 §2.23): tell it once."""
        remote = datagrams.remote
        if not sa.description.encapsulated or remote == sa.description.source or remote == sa.told_remote:
            return
        sa.told_remote = remote
        self._events.append(PeerAddressChanged(sa.id, remote))

    # --- what processing left for the device -------------------------------------------------------------------------

    def take_device_packets(self) -> list[bytes]:
        """ICMP errors for local senders, to be written into the device."""
        packets, self._to_device = self._to_device, []
        return packets

    def take_clear_packets(self) -> list[bytes]:
        """Packets that BYPASS lets out without protection."""
        packets, self._to_clear = self._to_clear, []
        return packets

    # --- limits ------------------------------------------------------------------------------------------------------

    def _watch(self, sa: InstalledSa) -> None:
        if sa.lifetime.next_time != float("inf"):
            self._timer_count += 1
            heapq.heappush(self._timers, (sa.lifetime.next_time, self._timer_count, sa.id))

    def _expire(self, sa: InstalledSa, reached: list[LimitReached]) -> None:
        for limit in reached:
            self._events.append(SaExpired(sa.id, limit.hard, limit.kind))
            if limit.hard:
                self._decisions.clear()

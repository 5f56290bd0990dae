"""What both directions of packet processing share: databases, counters, events, and the limits of SAs."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ipsecstack.dataplane.acquire import AcquireQueue, SpiHints
from ipsecstack.dataplane.base import DataPlaneCounters, DataPlaneEvent, SaExpired
from ipsecstack.dataplane.dummies import DummySchedule
from ipsecstack.dataplane.path import PathMtus
from ipsecstack.ipsec.fragments import FragmentTracker, Reassembler
from ipsecstack.ipsec.lifetime import LimitReached
from ipsecstack.ipsec.sa import SaId
from ipsecstack.ipsec.sad import InstalledSa, OutboundSa, Sad
from ipsecstack.ipsec.spd import Spd

Packet = bytes | memoryview
Random = Callable[[int], bytes]


@dataclass(slots=True)
class UserspaceCounters(DataPlaneCounters):
    """``fragmented_out`` packets were cut before or after protection; ``reassembled`` datagrams were put together, out
    of fragments of which ``fragments_dropped`` came to nothing. ``mtu_lowered`` and ``mtu_ignored`` are ICMP errors
    about paths that were believed, and not."""

    fragmented_out: int = 0
    reassembled: int = 0
    fragments_dropped: int = 0
    mtu_lowered: int = 0
    mtu_ignored: int = 0


class Processing:
    """The state of a userspace data plane."""

    def __init__(self, random: Random, path_mtu: int) -> None:
        self.counters = UserspaceCounters()
        self.spd = Spd()
        self.sad = Sad()
        self._random = random
        self._paths = PathMtus(path_mtu)
        self._events: deque[DataPlaneEvent] = deque()
        self._touched: set[InstalledSa] = set()
        self._timers: list[tuple[float, int, SaId]] = []
        self._timer_count = 0
        # By interface: flow keys that go into an SA right away; anything else is decided packet by packet.
        self._decisions: dict[str, dict[bytes, OutboundSa]] = {}
        self._special: dict[tuple[str, bytes], OutboundSa] = {}  # those that go into SAs with more to do
        self._waiting = AcquireQueue()
        self._released: list[bytes] = []
        self._dummies: list[
            tuple[SaId, int, int]
        ] = []  # SA, how many, octets of payload or 0 for the longest
        self._dummy_schedule = DummySchedule()
        self._to_device: list[bytes] = []
        self._to_clear: list[bytes] = []
        self._to_interfaces: dict[str, list[Packet]] = {}
        self._spi_hints = SpiHints()
        self._sent_fragments = FragmentTracker()
        self._leaving = Reassembler()  # fragments that must be whole again before they are protected
        self._arriving = Reassembler()  # outer fragments
        self._identification = int.from_bytes(random(2), "big")

    # --- limits ------------------------------------------------------------------------------------------------------

    def _watch(self, sa: InstalledSa) -> None:
        if sa.lifetime.next_time != float("inf"):
            self._timer_count += 1
            heapq.heappush(self._timers, (sa.lifetime.next_time, self._timer_count, sa.id))

    def _next_expiry(self) -> float | None:
        while self._timers:
            at, _, sa_id = self._timers[0]
            sa = self.sad.get(sa_id)
            if sa is not None and sa.lifetime.next_time == at:
                return at
            heapq.heappop(self._timers)
        return None

    def _expire(self, sa: InstalledSa, reached: list[LimitReached]) -> None:
        for limit in reached:
            self._events.append(SaExpired(sa.id, limit.hard, limit.kind))
            if limit.hard:
                self._decide_again()

    def _expire_due(self, now: float) -> None:
        while (at := self._next_expiry()) is not None and at <= now:
            sa = self.sad.get(heapq.heappop(self._timers)[2])
            if sa is not None:
                self._expire(sa, sa.lifetime.at_time(now))
                self._watch(sa)

    def _reassemble(self, reassembler: Reassembler, key: bytes, packet: Packet, now: float) -> bytes | None:
        """The datagram, when this fragment completes it."""
        whole = reassembler.add(key, packet, now)
        self.counters.fragments_dropped += reassembler.dropped
        reassembler.dropped = 0
        if whole is not None:
            self.counters.reassembled += 1
        return whole

    def _next_identification(self) -> int:
        """For the outer IPv4 headers that are made here: never 0, which a raw socket would replace."""
        self._identification = self._identification % 0xFFFF + 1
        return self._identification

    def _decide_again(self) -> None:
        """SAs or policies changed: what was decided for flows holds no more."""
        for decisions in self._decisions.values():
            decisions.clear()
        self._special.clear()

    # --- what processing left for the device -------------------------------------------------------------------------

    def take_device_packets(self) -> list[bytes]:
        """ICMP errors for local senders, to be written into the device."""
        packets, self._to_device = self._to_device, []
        return packets

    def take_interface_packets(self) -> dict[str, list[Packet]]:
        """What ``inbound`` received on SAs of virtual interfaces, by the interface where it belongs."""
        packets, self._to_interfaces = self._to_interfaces, {}
        return packets

    def take_clear_packets(self) -> list[bytes]:
        """Packets that BYPASS lets out without protection."""
        packets, self._to_clear = self._to_clear, []
        return packets

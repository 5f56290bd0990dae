"""Packets that wait for the SA of a trap policy, and hints of unknown SPIs: both bounded in rate and memory."""

from __future__ import annotations

from collections import deque

from ipsecstack.ipsec.sa import Address, SaDescription
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import SpdEntry

Selectors = tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]

ACQUIRE_HOLDOFF = 10.0  # seconds between two acquires of one policy
ACQUIRE_QUEUE = 16  # packets that wait for one policy's SA
ACQUIRE_SELECTORS = 64  # SAs that one policy asks for at a time, populated from packets
UNKNOWN_SPI_INTERVAL = 10.0  # seconds between two reports of one SPI and peer
UNKNOWN_SPI_BURST = 16  # reports of all SPIs in that time


class _Waiting:
    __slots__ = ("acquired_at", "packets")

    def __init__(self) -> None:
        self.acquired_at = float("-inf")
        self.packets: deque[bytes] = deque()


class AcquireQueue:
    """What waits for the SAs of trap policies. ``dropped`` counts packets that waited in vain or found no room."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[SpdEntry, Selectors | None], _Waiting] = {}
        self.dropped = 0

    def put(self, entry: SpdEntry, packet: bytes, now: float, populated: Selectors | None = None) -> bool:
        """Keep a packet; True when its SA must be asked for now.

        ``populated``: the selectors of the SA where they come from the packet. Each has a queue of its own, a bounded
        number of them for one policy.
        """
        name = (entry, populated)
        if populated is not None and name not in self._waiting and not self._room(entry, now):
            self.dropped += 1
            return False
        waiting = self._waiting.setdefault(name, _Waiting())
        ask = now - waiting.acquired_at >= ACQUIRE_HOLDOFF
        if ask:
            # What waited for an answer that did not come is too old to be of use.
            self.dropped += len(waiting.packets)
            waiting.packets.clear()
            waiting.acquired_at = now
        if len(waiting.packets) >= ACQUIRE_QUEUE:
            self.dropped += 1
        else:
            waiting.packets.append(packet)
        return ask

    def _room(self, entry: SpdEntry, now: float) -> bool:
        """Is there room for one more SA to ask for? Those that did not come are given up."""
        mine = [name for name in self._waiting if name[0] == entry]
        if len(mine) < ACQUIRE_SELECTORS:
            return True
        for name in mine:
            if now - self._waiting[name].acquired_at >= ACQUIRE_HOLDOFF:
                self.dropped += len(self._waiting.pop(name).packets)
        return sum(name[0] == entry for name in self._waiting) < ACQUIRE_SELECTORS

    def take(self, sa: SaDescription) -> list[bytes]:
        """This outbound SA is there: what waited for it, policy by policy."""
        taken: list[bytes] = []
        for entry, populated in list(self._waiting):
            if entry.reqid == sa.reqid and (populated is None or _overlap(populated, sa)):
                taken += self._waiting.pop((entry, populated)).packets
        return taken

    def forget(self, entry: SpdEntry) -> None:
        """The policy is gone."""
        for name in [name for name in self._waiting if name[0] == entry]:
            self.dropped += len(self._waiting.pop(name).packets)

    def clear(self) -> None:
        self._waiting.clear()


def _overlap(populated: Selectors, sa: SaDescription) -> bool:
    return all(
        any(one.intersect(other) for one in mine for other in its)
        for mine, its in zip(populated, (sa.local_ts, sa.remote_ts), strict=True)
    )


class SpiHints:
    """Which unknown SPIs are worth telling: anyone can send any SPI."""

    def __init__(self) -> None:
        self._told: dict[tuple[int, Address], float] = {}

    def __len__(self) -> int:
        return len(self._told)

    def worth(self, spi: int, remote: Address, now: float) -> bool:
        """True at most once an interval for one SPI and peer, and a bounded number of times for all together."""
        told = self._told
        if len(told) >= UNKNOWN_SPI_BURST:
            for name in [name for name, at in told.items() if now - at >= UNKNOWN_SPI_INTERVAL]:
                del told[name]
        at = told.get((spi, remote))
        if (at is not None and now - at < UNKNOWN_SPI_INTERVAL) or len(told) >= UNKNOWN_SPI_BURST:
            return False
        told[spi, remote] = now
        return True

"""Packets that wait for the SA of a trap policy, and hints of unknown SPIs: both bounded in rate and memory."""

from __future__ import annotations

from collections import deque

from ipsecstack.ipsec.sa import Address
from ipsecstack.ipsec.spd import SpdEntry

ACQUIRE_HOLDOFF = 10.0  # seconds between two acquires of one policy
ACQUIRE_QUEUE = 16  # packets that wait for one policy's SA
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
        self._waiting: dict[SpdEntry, _Waiting] = {}
        self.dropped = 0

    def put(self, entry: SpdEntry, packet: bytes, now: float) -> bool:
        """Keep a packet; True when its SA must be asked for now."""
        waiting = self._waiting.setdefault(entry, _Waiting())
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

    def take(self, reqid: int) -> list[bytes]:
        """An SA for this reqid is there: what waited for it, policy by policy."""
        taken: list[bytes] = []
        for entry in [entry for entry in self._waiting if entry.reqid == reqid]:
            taken += self._waiting.pop(entry).packets
        return taken

    def forget(self, entry: SpdEntry) -> None:
        """The policy is gone."""
        waiting = self._waiting.pop(entry, None)
        if waiting:
            self.dropped += len(waiting.packets)

    def clear(self) -> None:
        self._waiting.clear()


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

"""Soft and hard limits of one SA, each reported once (RFC 4301 §4.4.2.1, RFC 4303 §3.3.3)."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from ipsecstack.ipsec.sa import Lifetime


class LimitReached(NamedTuple):
    """``kind`` is "seconds", "octets", "packets" or "sequence"; ``hard`` means: use the SA no more."""

    kind: str
    hard: bool


class LifetimeWatch:
    """Watches the limits of one SA installed at time ``installed`` (seconds).

    ``next_octets`` and ``next_packets`` are the next totals at which something happens: below both, a batch may be
    counted as a whole.
    """

    __slots__ = ("_limits", "expired", "next_octets", "next_packets", "next_time")

    def __init__(self, lifetime: Lifetime, installed: float) -> None:
        self.expired = False
        self._limits: dict[LimitReached, float] = {}
        for kind, limit, base in (
            ("seconds", lifetime.seconds, installed),
            ("octets", lifetime.octets, 0.0),
            ("packets", lifetime.packets, 0.0),
        ):
            if limit.soft > 0:
                self._limits[LimitReached(kind, False)] = base + limit.soft
            if limit.hard > 0:
                self._limits[LimitReached(kind, True)] = base + limit.hard
        self._refresh()

    def _refresh(self) -> None:
        self.next_time = self._next("seconds")
        self.next_octets = self._next("octets")
        self.next_packets = self._next("packets")

    def _next(self, kind: str) -> float:
        return min((at for limit, at in self._limits.items() if limit.kind == kind), default=inf)

    def at_time(self, now: float) -> list[LimitReached]:
        """Time limits reached by ``now`` and not told before."""
        return self._take("seconds", now) if now >= self.next_time else []

    def at_counts(self, octets: int, packets: int) -> list[LimitReached]:
        """Octet and packet limits reached by these totals and not told before."""
        reached: list[LimitReached] = []
        if octets >= self.next_octets:
            reached += self._take("octets", octets)
        if packets >= self.next_packets:
            reached += self._take("packets", packets)
        return reached

    def _take(self, kind: str, value: float) -> list[LimitReached]:
        # A hard limit makes every soft one pointless, so nothing is told after it.
        reached = sorted(limit for limit, at in self._limits.items() if limit.kind == kind and value >= at)
        for limit in reached:
            del self._limits[limit]
        if any(limit.hard for limit in reached):
            self.expired = True
            self._limits.clear()
            reached = [limit for limit in reached if limit.hard]
        self._refresh()
        return reached

    def exhaust(self) -> None:
        """The sequence numbers are used up: no limit matters any more."""
        self.expired = True
        self._limits.clear()
        self._refresh()

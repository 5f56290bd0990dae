"""When SAs that send dummy packets at a rate have some due (RFC 4303 §2.6)."""

from __future__ import annotations

import heapq

from ipsecstack.ipsec.sa import SaId

MAX_RATE = 1000.0  # packets per second of one SA
_MOST_AT_ONCE = 64  # of one SA, when the clock has jumped


class DummySchedule:
    """SAs by the time of their next dummy packet."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int]] = []  # time and key; keys that are gone are passed over
        self._rates: dict[int, tuple[SaId, float]] = {}
        self._keys: dict[SaId, int] = {}
        self._last_key = 0

    def __len__(self) -> int:
        return len(self._keys)

    def start(self, sa: SaId, rate: float, now: float) -> None:
        """``rate`` packets a second, the first of them after one interval."""
        self._last_key += 1
        self._keys[sa] = self._last_key
        self._rates[self._last_key] = (sa, rate)
        heapq.heappush(self._due, (now + 1 / rate, self._last_key))

    def stop(self, sa: SaId) -> None:
        """No more; nothing happens when there were none."""
        key = self._keys.pop(sa, None)
        if key is not None:
            del self._rates[key]

    def rename(self, old: SaId, new: SaId) -> None:
        """The SA moved to other addresses."""
        key = self._keys.pop(old, None)
        if key is not None:
            self._keys[new] = key
            self._rates[key] = (new, self._rates[key][1])

    def next_time(self) -> float | None:
        while self._due and self._due[0][1] not in self._rates:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def take(self, now: float) -> list[tuple[SaId, int]]:
        """How many packets of which SA are due by now."""
        taken = []
        while (at := self.next_time()) is not None and at <= now:
            key = heapq.heappop(self._due)[1]
            sa, rate = self._rates[key]
            number = int((now - at) * rate) + 1
            following = at + number / rate
            heapq.heappush(self._due, (following if following > now else now + 1 / rate, key))
            taken.append((sa, min(number, _MOST_AT_ONCE)))
        return taken

    def clear(self) -> None:
        self._due.clear()
        self._rates.clear()
        self._keys.clear()

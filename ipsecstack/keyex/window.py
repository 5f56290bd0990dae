"""Message IDs, windows and retransmission (RFC 7296 §2.1-2.3), the same for every key exchange that has them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from ipsecstack.keyex.base import Random

MESSAGE_ID_LIMIT = 0xFFFFFFFF
NEAR_THE_END = 4096


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to retransmit: wait n is ``timeout * base**n``, cut to ``limit`` and shortened at random by ``jitter``."""

    timeout: float = 4.0
    base: float = 1.8
    tries: int = 5
    jitter: float = 0.0
    limit: float = 0.0

    def wait(self, sent: int, random: Random) -> float:
        """Seconds to wait after the (sent+1)-th transmission."""
        delay: float = self.timeout * self.base**sent
        if self.limit:
            delay = min(delay, self.limit)
        if self.jitter:
            delay *= 1 - self.jitter * int.from_bytes(random(2), "big") / 0x10000
        return delay


@dataclass(slots=True)
class Outstanding:
    """A request without its response: octets as sent (in one datagram, or in fragments), retransmissions so far, and
    when the next one is due."""

    message_id: int
    datagrams: tuple[bytes, ...]
    retransmits: int
    due: float


class RequestWindow:
    """Requests that this end initiates. IDs are never used twice within an IKE SA (§2.2)."""

    __slots__ = ("_outstanding", "_random", "_schedule", "next_id", "size")

    def __init__(self, schedule: Schedule, random: Random, size: int = 1) -> None:
        self._schedule = schedule
        self._random = random
        self._outstanding: OrderedDict[int, Outstanding] = OrderedDict()
        self.next_id = 0
        self.size = size

    @property
    def outstanding(self) -> int:
        return len(self._outstanding)

    @property
    def has_room(self) -> bool:
        """A window of n lets request i+n wait for the response to i (§2.3)."""
        if not self._outstanding:
            return True
        return self.next_id - next(iter(self._outstanding)) < self.size

    @property
    def exhausted(self) -> bool:
        """No further ID is left: the IKE SA must be rekeyed or closed (§2.2)."""
        return self.next_id >= MESSAGE_ID_LIMIT

    @property
    def near_the_end(self) -> bool:
        """It is time to rekey the IKE SA."""
        return self.next_id >= MESSAGE_ID_LIMIT - NEAR_THE_END

    def sent(self, datagrams: tuple[bytes, ...], now: float) -> int:
        """Record the request with ID ``next_id`` as transmitted; returns the ID."""
        message_id = self.next_id
        self.next_id += 1
        wait = self._schedule.wait(0, self._random)
        self._outstanding[message_id] = Outstanding(message_id, datagrams, 0, now + wait)
        return message_id

    def awaits(self, message_id: int) -> bool:
        return message_id in self._outstanding

    def answered(self, message_id: int) -> bool:
        """Forget the request that an accepted response belongs to; False when there is none."""
        return self._outstanding.pop(message_id, None) is not None

    def restart(self) -> None:
        """IKE_SA_INIT is sent again with ID 0 for a cookie or another key exchange method (§2.6, §1.2)."""
        self._outstanding.clear()
        self.next_id = 0

    def clear(self) -> None:
        self._outstanding.clear()

    def hasten(self, now: float) -> None:
        """Another path may work: send what is outstanding again at once, and begin to count anew."""
        for entry in self._outstanding.values():
            entry.retransmits, entry.due = 0, now

    def next_timer(self) -> float | None:
        return min((entry.due for entry in self._outstanding.values()), default=None)

    def retransmit(self, now: float) -> tuple[list[Outstanding], bool]:
        """What is due for retransmission, and True when a request has run out of tries."""
        due: list[Outstanding] = []
        for entry in self._outstanding.values():
            if entry.due > now:
                continue
            if entry.retransmits >= self._schedule.tries:
                return [], True
            entry.retransmits += 1
            entry.due = now + self._schedule.wait(entry.retransmits, self._random)
            due.append(entry)
        return due, False


class Verdict(Enum):
    """What a request's message ID says about it."""

    NEW = "new"
    DUPLICATE = "duplicate"
    STALE = "stale"
    BEYOND = "beyond"


class ResponseWindow:
    """Requests that the peer initiates, in any order within the window (§2.3).

    ``expected`` is the lowest ID that was not answered yet; ``size`` requests from there on count. So many responses
    are kept, for octet-identical retransmissions: a peer that sent ID n has the responses up to n - ``size``.
    """

    __slots__ = ("_ahead", "_cache", "expected", "size")

    def __init__(self, size: int = 1) -> None:
        self.expected = 0
        self.size = size
        self._ahead: set[int] = set()
        """IDs above ``expected`` that were answered before it."""
        self._cache: dict[int, tuple[bytes, tuple[bytes, ...]]] = {}

    @property
    def near_the_end(self) -> bool:
        """The peer, which should have rekeyed the IKE SA, has not."""
        return self.expected >= MESSAGE_ID_LIMIT - NEAR_THE_END // 2

    def judge(self, message_id: int, datagram: bytes) -> tuple[Verdict, tuple[bytes, ...] | None]:
        """The verdict, and the cached response of a DUPLICATE. Old IDs with other octets are STALE: never answered."""
        if message_id >= self.expected + self.size:
            return Verdict.BEYOND, None
        if message_id >= self.expected and message_id not in self._ahead:
            return Verdict.NEW, None
        cached = self._cache.get(message_id)
        if cached is not None and cached[0] == _digest(datagram):
            return Verdict.DUPLICATE, cached[1]
        return Verdict.STALE, None

    def cached(self, message_id: int) -> tuple[bytes, ...] | None:
        """The datagrams of the response to a request that was answered, as long as they are kept."""
        entry = self._cache.get(message_id)
        return entry[1] if entry is not None else None

    def answered(self, datagram: bytes, response: tuple[bytes, ...], message_id: int | None = None) -> None:
        """Keep the response's datagrams to a NEW request (the expected one by default) and move on.

        ``datagram`` is what tells a retransmission: of a request in fragments the first one (RFC 7383 §2.6.1).
        """
        which = self.expected if message_id is None else message_id
        self._cache[which] = (_digest(datagram), response)
        self._ahead.add(which)
        while self.expected in self._ahead:
            self._ahead.discard(self.expected)
            self.expected += 1
        highest = max(self._cache)
        for old in [number for number in self._cache if number <= highest - self.size]:
            del self._cache[old]

    def clear(self) -> None:
        self._cache.clear()


def _digest(datagram: bytes) -> bytes:
    return hashlib.sha256(datagram).digest()

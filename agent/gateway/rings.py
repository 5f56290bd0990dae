"""Bounded memories: what ended, and what failed. The oldest entry makes room; numbers go on rising."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.gateway.counters import Counts
from agent.gateway.records import FailureRecord
from agent.gateway.selectors import IPAddress

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class Ended:
    """An IKE or IPsec tunnel's time between going up and going down. Wall clock times in seconds of the epoch."""

    number: int
    phase: int  # 1 IKE, 2 IPsec
    source: str
    index: int
    ike_index: int
    connection: str
    child: str | None
    local_host: IPAddress | None
    remote_host: IPAddress | None
    local_id: str | None
    remote_id: str | None
    started: float
    ended: float
    reason: str
    refreshes: int
    total_sas: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure with the time at which it was told."""

    number: int
    source: str
    at: float
    record: FailureRecord


class Ring(Generic[Entry]):
    """At most `size` entries, numbered from 1."""

    def __init__(self, size: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=size)
        self.last_number = 0

    @property
    def size(self) -> int:
        return self._entries.maxlen or 0

    def resize(self, size: int) -> None:
        """Keep the newest `size` entries."""
        self._entries = deque(self._entries, maxlen=size)

    def next_number(self) -> int:
        self.last_number = self.last_number % (2**31 - 1) + 1
        return self.last_number

    def append(self, entry: Entry) -> None:
        self._entries.append(entry)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

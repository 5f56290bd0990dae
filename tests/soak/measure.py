"""Latencies, memory, processor time and the table."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

STEPS = 16
"""Buckets for each doubling: a percentile is right within 4 %."""


@dataclass
class Latencies:
    """A histogram of seconds in logarithmic buckets, so that its size does not grow with the run."""

    buckets: dict[int, int] = field(default_factory=dict)
    worst: float = 0.0

    def add(self, seconds: float) -> None:
        bucket = int(math.log2(max(seconds, 1e-6) * 1e6) * STEPS)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.worst = max(self.worst, seconds)

    def merge(self, other: Latencies) -> None:
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.worst = max(self.worst, other.worst)

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    def percentile(self, share: float) -> float:
        """Seconds that `share` of the answers did not exceed."""
        left = share * self.count
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return min(2 ** ((bucket + 1) / STEPS) / 1e6, self.worst)
        return self.worst

    def text(self) -> str:
        if not self.count:
            return "none"
        p50, p99 = self.percentile(0.5) * 1e3, self.percentile(0.99) * 1e3
        return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {self.worst * 1e3:.0f} ms"


@dataclass
class Process:
    """Memory and processor time of one process, sampled."""

    pid: int
    samples: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the start, resident MiB)"""

    def __post_init__(self) -> None:
        self.begun = time.monotonic()
        self.cpu_begun = self._cpu()

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def sample(self) -> None:
        status = Path(f"/proc/{self.pid}/status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0]) / 1024
        self.samples.append((time.monotonic() - self.begun, resident))

    def cpu_share(self) -> float:
        """Of one core, since the start."""
        return (self._cpu() - self.cpu_begun) / (time.monotonic() - self.begun)

    def settled(self) -> list[tuple[float, float]]:
        """The samples after the first quarter, in which caches and rings fill."""
        return self.samples[len(self.samples) // 4 :]

    def slope(self) -> float:
        """MiB an hour, by least squares over the settled samples."""
        return slope(self.settled()) * 3600


def slope(samples: Iterable[tuple[float, float]]) -> float:
    """The regression line's rise for a unit of x."""
    points = list(samples)
    if len(points) < 2:
        return 0.0
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0


def table(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)

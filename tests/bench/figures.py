"""One measured figure: every round's value, its median, and what it is compared with."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


def number(value: float) -> str:
    """Three or four significant digits, thousands apart."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


@dataclass
class Figure:
    """`against`: (words, other figure) pairs whose ratio is shown."""

    what: str
    unit: str
    rounds: Sequence[float]
    against: list[tuple[str, Figure]] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def cells(self) -> tuple[str, str, str, str, str]:
        ratios = [
            f"{self.median / other.median:.2f} x {words}" for words, other in self.against if other.median
        ]
        spread = f"{number(min(self.rounds))} - {number(max(self.rounds))}" if len(self.rounds) > 1 else ""
        return (self.what, number(self.median), spread, self.unit, ", ".join(ratios))

    def as_json(self) -> dict[str, object]:
        return {"what": self.what, "unit": self.unit, "median": self.median, "rounds": list(self.rounds)}

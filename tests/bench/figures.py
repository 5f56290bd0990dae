"""One measured figure: every round's value, its median, what it is compared with, and a goal; and the table of them."""

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


@dataclass(frozen=True)
class Goal:
    """`value` shall be at least, or else at most, `limit`."""

    words: str
    value: float
    limit: float
    at_least: bool

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Figure:
    """`against`: (words, other figure) pairs whose ratio is shown."""

    what: str
    unit: str
    rounds: Sequence[float]
    against: list[tuple[str, Figure]] = field(default_factory=list)
    goal: Goal | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def ratio(self, other: Figure) -> float:
        return self.median / other.median

    def cells(self) -> tuple[str, ...]:
        """What, median, spread, unit, ratios, and the goal if there is one."""
        ratios = [f"{self.ratio(other):.2f} x {words}" for words, other in self.against if other.median]
        spread = f"{number(min(self.rounds))} - {number(max(self.rounds))}" if len(self.rounds) > 1 else ""
        goal = f"{self.goal.words}: {'met' if self.goal.met else 'MISSED'}" if self.goal else ""
        return (self.what, number(self.median), spread, self.unit, ", ".join(ratios), goal)

    def as_json(self) -> dict[str, object]:
        result: dict[str, object] = {
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "rounds": list(self.rounds),
        }
        if self.against:
            result["against"] = {words: self.ratio(other) for words, other in self.against if other.median}
        if self.goal:
            result["goal"] = {"words": self.goal.words, "value": self.goal.value, "met": self.goal.met}
        return result


def table(figures: Sequence[Figure]) -> str:
    """All figures as aligned text."""
    rows: list[tuple[str, ...]] = [("what", "median", "least - most", "unit", "against", "goal")]
    rows += [figure.cells() for figure in figures]
    if not any(figure.goal for figure in figures):
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for place, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2])]
        cells += [cell.ljust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join(cells).rstrip())
        if place == 0:
            lines.append("-" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(lines)

"""The matrix as a table: one line for a scenario, a column for each pair of role and peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Outcome = Mapping[str, Any]
COLUMNS = (
    ("initiator", "userspace"),
    ("responder", "userspace"),
    ("initiator", "kernel"),
    ("responder", "kernel"),
)


def cell(outcome: Outcome | None) -> str:
    """Result, packets lost of packets sent, seconds."""
    if outcome is None:
        return "not run"
    if outcome["result"] != "passed":
        return str(outcome["result"])
    lost = "" if outcome["sent"] is None else f"{outcome['lost']}/{outcome['sent']}"
    return f"{outcome['result']:<7}{lost:>9}{outcome['seconds']:>7.1f}"


def render(outcomes: Iterable[Outcome]) -> str:
    """The whole text: table, sums, and the reasons of whatever did not pass."""
    by_row: dict[tuple[str, str], dict[tuple[str, str], Outcome]] = {}
    for outcome in outcomes:
        row = by_row.setdefault((outcome["family"], outcome["row"]), {})
        row[(outcome["role"], outcome["peer"])] = outcome
    families = list(dict.fromkeys(family for family, _ in by_row))
    used = [c for c in COLUMNS if any(c in found for found in by_row.values())]
    name_width = max([len(f"  {name}") for _, name in by_row] or [10])
    head = " " * name_width + "  " + "  ".join(f"{f'we are {role}, {peer}':<25}" for role, peer in used)
    under = " " * name_width + "  " + "  ".join(f"{'result     lost/sent    s':<25}" for _ in used)
    lines = [head.rstrip(), under.rstrip()]
    for family in families:
        lines.append(family)
        for (its, name), found in by_row.items():
            if its == family:
                cells = "  ".join(f"{cell(found.get(column)):<25}" for column in used)
                lines.append(f"{'  ' + name:<{name_width}}  {cells}".rstrip())
    everything = [outcome for found in by_row.values() for outcome in found.values()]
    return "\n".join([*lines, "", summary(everything), *reasons(everything)])


def summary(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome["result"] for outcome in outcomes)
    sent = sum(outcome["sent"] or 0 for outcome in outcomes)
    lost = sum(outcome["lost"] or 0 for outcome in outcomes)
    return (
        f"{counts['passed']} passed, {counts['FAILED']} FAILED, {counts['not there']} not there, "
        f"{counts['-']} that the peer cannot do; {lost} of {sent} packets lost"
    )


def reasons(outcomes: Sequence[Outcome]) -> list[str]:
    """One line for each reason, with the rows it is the reason of."""
    found: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome["result"] != "passed" and outcome["reason"]:
            where = f"{outcome['family']}: {outcome['row']}"
            if outcome["result"] == "FAILED":
                where += f" ({outcome['role']}, {outcome['peer']})"
            names = found.setdefault((outcome["result"], outcome["reason"].splitlines()[0]), [])
            if where not in names:
                names.append(where)
    order = {"FAILED": 0, "not there": 1, "-": 2}
    lines = []
    for (result, reason), names in sorted(found.items(), key=lambda item: order.get(item[0][0], 3)):
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        lines.append(f"  {result}: {reason}\n      {shown}")
    return lines

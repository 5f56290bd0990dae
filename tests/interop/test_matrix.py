"""One row of each family of the interop matrix (`make interop` runs them all), in both roles, strongSwan in userspace.

The kernel's ESP as the peer is in test_kernel_esp.py and in the whole matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from interop.matrix.catalogue import ROWS
from interop.matrix.plan import PEERS, ROLES, Role, Row
from interop.matrix.table import cell, reasons, render, summary
from interop.matrix.worker import FAILED, NOT_THERE, PASSED, PEER_LACKS, Lanes, attempt
from lab.policy import require_tool

QUICK = [row for row in ROWS if row.quick]
# Rows of one ground one after the other: they share their daemons.
GROUNDS = list(dict.fromkeys(row.ground for row in QUICK))
ORDERED = sorted(QUICK, key=lambda row: GROUNDS.index(row.ground))


@pytest.fixture(scope="module", params=ROLES)
def lanes(request: pytest.FixtureRequest) -> Iterator[Lanes]:
    for tool in ("iptables-legacy", "conntrack"):
        require_tool(tool)
    made = Lanes(request.param, "userspace")
    yield made
    made.close()


@pytest.mark.parametrize("row", ORDERED, ids=lambda row: row.title)
def test_row(lanes: Lanes, row: Row) -> None:
    outcome = attempt(lanes, row)
    if outcome["result"] == PEER_LACKS:
        pytest.skip(outcome["reason"])
    if outcome["result"] != PASSED:
        told = f"{outcome['reason']}\n{outcome.get('trace', '')}\n{outcome.get('logs', '')[-6000:]}"
        pytest.fail(f"{row.title}, we are {lanes.role}: {told}", pytrace=False)


# --- the matrix itself ------------------------------------------------------------------------------------------------


def test_rows_are_told_apart() -> None:
    titles = [row.title for row in ROWS]
    assert len(set(titles)) == len(titles)
    assert all(row.check is not None for row in ROWS)
    assert all(set(row.lacks) < set(PEERS) for row in ROWS), "a row that no peer can do"


def test_every_family_has_a_quick_row_or_is_the_kernels() -> None:
    families = {row.family for row in ROWS}
    quick = {row.family for row in QUICK}
    left = {
        f for f in families - quick if any("userspace" not in row.lacks for row in ROWS if row.family == f)
    }
    # These take longer than a test may, or are other rows' twins.
    assert left == {"signature scheme", "several rounds", "rekey at once"}


def outcome_of(result: str, role: Role = "initiator", **more: object) -> dict[str, object]:
    made: dict[str, object] = {
        "family": "F",
        "row": "r",
        "role": role,
        "peer": "userspace",
        "result": result,
        "sent": 10,
        "lost": 0,
        "seconds": 0.5,
        "reason": "",
    }
    return {**made, **more}


def test_table_says_what_came_of_each_row() -> None:
    outcomes = [
        outcome_of(PASSED),
        outcome_of(FAILED, "responder", reason="it broke\nin two lines"),
        outcome_of(NOT_THERE, row="q", reason="no such thing"),
        outcome_of(PEER_LACKS, "responder", row="q", reason="the peer has it not"),
    ]
    text = render(outcomes)
    (line,) = (line for line in text.splitlines() if line.startswith("  r "))
    assert line.split() == ["r", "passed", "0/10", "0.5", "FAILED"]
    assert "1 passed, 1 FAILED, 1 not there, 1 that the peer cannot do" in text
    assert "FAILED: it broke\n      F: r (responder, userspace)" in text
    assert "not there: no such thing\n      F: q" in text


def test_nothing_counts_as_passed_but_what_passed() -> None:
    for result in (FAILED, NOT_THERE, PEER_LACKS):
        assert cell(outcome_of(result)) == result
        assert summary([outcome_of(result)]).startswith("0 passed")
    assert cell(None) == "not run"
    assert reasons([outcome_of(PASSED)]) == []

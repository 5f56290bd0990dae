"""What is checked on a row's SAs. Each check brings the connection up itself and says what it saw: packets, losses."""

from __future__ import annotations

from typing import Any

from interop.matrix.lane import Lane
from interop.matrix.plan import CHILD, Row

Seen = dict[str, Any]


def carries(lane: Lane, row: Row) -> Seen:
    """Up, mirrored, data both ways with exact counters."""
    with lane.up(row):
        natted = lane.ground.nat != frozenset()
        lane.mirrored(natted=natted)
        moved = lane.moved(lane.ends_of(row.ends.ts), octets=row.octets)
    return {"sent": moved.sent, "lost": moved.lost}


def carries_over_rekey(lane: Lane, row: Row) -> Seen:
    """As `carries`, then the child is rekeyed by a with its own key exchange, and data flows again."""
    with lane.up(row):
        lane.mirrored()
        first = lane.moved(lane.ends_of(row.ends.ts), octets=row.octets)
        old = lane.a.child(CHILD).spis
        lane.command(0, "rekey", child=CHILD)
        lane.a.wait_other_child(old, CHILD, 8 * lane.patience)
        lane.b.wait_other_child(old[::-1], CHILD, 8 * lane.patience)
        a, b = lane.mirrored()
        group = a.raw.get("dh-group"), b.raw.get("dh-group")
        assert group[0] == group[1], group
        assert group[0], "the rekeyed child has no group"
        second = lane.moved(lane.ends_of(row.ends.ts), octets=row.octets)
    return {"sent": first.sent + second.sent, "lost": first.lost + second.lost}

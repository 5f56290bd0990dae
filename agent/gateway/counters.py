"""Counts that only grow: what each SA said last, and totals that outlive SAs and daemons.

A set of counts is a dict of name to value. A name that is missing means that no source ever gave it: it is not zero,
and no object is served for it.
"""

from __future__ import annotations

from collections.abc import Mapping

Counts = dict[str, int]

CHILD_TRAFFIC = ("octets_in", "octets_out", "packets_in", "packets_out")
CHILD_ERRORS_IN = (
    "integrity_errors_in",
    "replay_errors_in",
    "policy_errors_in",
    "padding_errors_in",
    "other_errors_in",
)
CHILD_ERRORS_OUT = ("policy_errors_out", "other_errors_out")
# The kinds of replay_errors_in, where the source tells them apart; what came late but was accepted is beside the sum.
CHILD_REPLAYS_IN = (
    "replays_beyond_window_in",
    "replays_before_window_in",
    "replays_duplicate_in",
    "replays_zero_in",
    "out_of_order_in",
)
CHILD_COUNTS = CHILD_TRAFFIC + CHILD_ERRORS_IN + CHILD_ERRORS_OUT + CHILD_REPLAYS_IN

IKE_COUNTS = (
    "octets_in",
    "octets_out",
    "packets_in",
    "packets_out",
    "drops_in",
    "drops_out",
    "notifies_in",
    "notifies_out",
    "child_exchanges_in",
    "child_exchanges_out",
    "child_invalids_in",
    "child_invalids_out",
    "child_rejects_in",
    "child_rejects_out",
    "child_deletes_in",
    "child_deletes_out",
    "retransmits_out",
)


def advance(last: Counts, said: Mapping[str, int]) -> Counts:
    """Take over what an SA says now and return by how much each count grew.

    A smaller value than before is a late message, or a deleted SA that is listed with zeros: it is not believed,
    because an SA's counts never fall (RFC 4301 section 4.4.2.1).
    """
    grown: Counts = {}
    for name, value in said.items():
        before = last.get(name)
        if before is None:
            grown[name] = value
        elif value > before:
            grown[name] = value - before
        else:
            continue
        last[name] = value
    return grown


def add(total: Counts, grown: Mapping[str, int]) -> None:
    """Add `grown` to `total`, in place."""
    for name, value in grown.items():
        total[name] = total.get(name, 0) + value


def sum_of(counts: Mapping[str, int], *names: str) -> int | None:
    """Sum of the given names; None unless at least one of them is known."""
    known = [counts[name] for name in names if name in counts]
    return sum(known) if known else None


class DaemonCounts:
    """Counts that a daemon keeps since its own start, carried on over its restarts.

    `update` is given all counts that the daemon says now. After `restarted`, or when a count falls, the daemon counts
    from zero again and the total goes on from where it was.
    """

    def __init__(self) -> None:
        self.totals: Counts = {}
        self._last: Counts = {}

    def restarted(self) -> None:
        self._last.clear()

    def update(self, said: Mapping[str, int]) -> bool:
        """Take over `said`; True when any total changed."""
        changed = False
        for name, value in said.items():
            before = self._last.get(name, 0)
            grown = value - before if value >= before else value
            self._last[name] = value
            if grown or name not in self.totals:
                self.totals[name] = self.totals.get(name, 0) + grown
                changed = True
        return changed

"""One listing on its way into the model, step by step, so that nobody waits for thousands of SAs.

Between two steps anything may be told to the feed. It is newer than the listing and wins: each SA's serial is looked
at when its turn comes, and not before. What is missing from the listing ends last, when its successors are known;
until then the tunnels concerned are held: whether they went down is decided once, on balance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from agent.gateway.records import SUPERSEDED_IKE_STATES, ChildRecord, IkeRecord
from agent.gateway.steps import Steps
from agent.gateway.tunnels import ChildSa, IkeSa, Tunnel

if TYPE_CHECKING:
    from agent.gateway.feed import Feed

LOOKS = 64
"""SAs that are only looked at, not changed, in one step."""


class Heard(NamedTuple):
    """An IKE SA as it was listed. The records are of this listing or of an earlier one: what they say still holds but
    for counts and times, and the counts of now stand beside them."""

    record: IkeRecord
    counts: Mapping[str, int]
    children: Sequence[tuple[ChildRecord, Mapping[str, int]]]


def heard(record: IkeRecord) -> Heard:
    """A record of now."""
    return Heard(record, record.counts, [(child, child.counts) for child in record.children or ()])


class Listing:
    """What a source listed: all its SAs (`full`), or those that changed and the uniqueids of those that ended."""

    def __init__(
        self,
        feed: Feed,
        token: int,
        records: Iterable[IkeRecord | Heard],
        full: bool = True,
        gone_ike: Iterable[int] = (),
        gone_children: Iterable[int] = (),
        reason: str = "",
    ) -> None:
        self.feed = feed
        self.token = token
        self.records = records
        self.full = full
        self.gone_ike = gone_ike
        self.gone_children = gone_children
        self.reason = reason  # why what is missing ended, where that is known
        self._superseded: list[tuple[int, int]] = []
        self._leaving: list[IkeSa] = []
        self._ended: dict[Tunnel, list[ChildSa]] = {}

    def steps(self) -> Steps:
        """Take it in. The model is consistent after each step, and when the iterator is closed before its end."""
        feed, rows, token = self.feed, self.feed.rows, self.token
        try:
            merged: dict[tuple[int, int], Heard] = {}
            yield from self._merge(merged)
            yield from self._missing(merged)
            # Those that were superseded make room for their successors.
            for key in self._superseded + list(merged):
                # out of the dictionary, for to free all at the end would take long, too
                part = merged.pop(key, None)
                if part is not None:
                    feed.take(part.record, token, None, part.counts, part.children)
                    rows.settle()
                    yield
            for row, ended in self._ended.items():
                rows.held.discard(row)
                for child in ended:
                    if self._still_missing(child):
                        feed.end_child(child, self.reason or ("rekeyed" if child.expiring else "gone"))
                rows.settle()
                yield
            for sa in self._leaving:
                if sa.leaving and not sa.ended_serial and sa.serial < token:
                    feed.end_ike(sa, self.reason or "gone")
                    rows.settle()
                    yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for sa in self._leaving:
            # one that spoke meanwhile is not leaving, nor one whose end is no longer to be told
            if not sa.ended_serial:
                sa.leaving = sa.record.state in SUPERSEDED_IKE_STATES
        if self.feed.rows.held:
            self.feed.rows.held.clear()
            self.feed.rows.settle()

    def _still_missing(self, child: ChildSa) -> bool:
        return not child.ended and child.serial < self.token

    def _merge(self, merged: dict[tuple[int, int], Heard]) -> Steps:
        """One record for each IKE SA: one with very many children is told in several parts."""
        for number, told in enumerate(self.records):
            part = told if isinstance(told, Heard) else heard(told)
            key = part.record.key
            first = merged.setdefault(key, part)
            if part.record.state in SUPERSEDED_IKE_STATES:
                self._superseded.append(key)
            if first is not part:
                merged[key] = first._replace(children=[*first.children, *part.children])
            if number % LOOKS == 0:
                yield

    def _missing(self, merged: dict[tuple[int, int], Heard]) -> Steps:
        """Find the SAs that ended by the listing's word, and hold the tunnels whose fate hangs on them."""
        feed = self.feed
        found = self._absent(merged) if self.full else self._gone(merged)
        for number, sa in enumerate(found):
            if isinstance(sa, IkeSa):
                if not sa.ended_serial and sa.serial < self.token:
                    sa.leaving = True
                    self._leaving.append(sa)
            elif sa is not None and self._still_missing(sa):
                feed.rows.held.add(sa.tunnel)
                self._ended.setdefault(sa.tunnel, []).append(sa)
            if number % LOOKS == 0:
                yield

    def _absent(self, merged: dict[tuple[int, int], Heard]) -> Iterator[IkeSa | ChildSa | None]:
        feed = self.feed
        listed: set[tuple[int, int, int]] = set()
        for part in merged.values():
            for child, _ in part.children:
                listed.add(child.key)
            yield None
        # copies of the keys alone: no pair is made for each, which the collector would look at again and again
        for key in list(feed.ike):
            yield feed.ike.get(key) if key not in merged else None
        for child_key in list(feed.children):
            yield feed.children.get(child_key) if child_key not in listed else None

    def _gone(self, merged: dict[tuple[int, int], Heard]) -> Iterator[IkeSa | ChildSa | None]:
        feed = self.feed
        for uniqueid in self.gone_ike:
            key = feed.ike_ids.get(uniqueid)
            yield None if key is None else feed.ike.get(key)
        for uniqueid in self.gone_children:
            child_key = feed.child_ids.get(uniqueid)
            yield None if child_key is None else feed.children.get(child_key)
        for record, _, listed in merged.values():
            sa = feed.ike.get(record.key)
            if record.child_ids is None or sa is None:
                continue
            alive = record.child_ids | {child.uniqueid for child, _ in listed}
            for known in sa.children:
                yield known if known.record.uniqueid not in alive else None

"""What one source says, turned into tunnels and totals.

Two streams tell the same story: events, in order but possibly lost, and listings, complete but as of the moment when
they were asked for. Each word carries a serial: a listing gets its serial before it is asked for, so an event that
came meanwhile is newer than the listing and wins. An SA ends when an event says so, or when a listing that was asked
for after its last sign of life lacks it; an ended SA comes back only by a listing asked for after its end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.gateway.connections import Configuration
from agent.gateway.counters import add, advance
from agent.gateway.listing import Heard, Listing, heard
from agent.gateway.records import (
    ENDED_CHILD_STATES,
    SUPERSEDED_IKE_STATES,
    ChildRecord,
    ConnectionRecord,
    FailureRecord,
    IkeRecord,
    child_facts,
    ike_facts,
)
from agent.gateway.rings import Failure
from agent.gateway.rows import Rows
from agent.gateway.source import Source, SourceStatus, nothing_to_do
from agent.gateway.steps import Steps
from agent.gateway.tunnels import ChildSa, IkeSa, IkeTunnel, Tunnel

if TYPE_CHECKING:
    from agent.gateway.model import Gateway

# States in which an SA that was not known before is taken in, and in which an ended one comes back.
ADOPT_IKE = frozenset({"ESTABLISHED", "PASSIVE", "REKEYING"})
ADOPT_CHILD = frozenset({"INSTALLED", "UPDATING", "REKEYING", "REKEYED"})
TOMBSTONES = 20_000
TOMBSTONE_AGE = 300.0
"""Seconds that an ended SA is remembered: listings and events that are older than its end come sooner."""
FORGOTTEN = 200
"""Ended SAs that are forgotten at one time, so that it takes no time to speak of."""

IkeKey = tuple[int, int]
ChildKey = tuple[int, int, int]


class Feed:
    """The model's ear for one source. Every method is one consistent change: rows are settled when it returns."""

    def __init__(self, gateway: Gateway, source: Source) -> None:
        self.gateway = gateway
        self.source = source
        self.rows = Rows(gateway, source)
        self.configuration = Configuration(self.rows)
        self.ike: dict[IkeKey, IkeSa] = {}
        self.children: dict[ChildKey, ChildSa] = {}
        self.ike_ids: dict[int, IkeKey] = {}
        self.child_ids: dict[int, ChildKey] = {}
        self._ended_ike: OrderedDict[IkeKey, IkeSa] = OrderedDict()
        self._ended_children: OrderedDict[ChildKey, ChildSa] = OrderedDict()
        self._serial = 0
        source.on_meaning = self._everything_changed

    # --- the source itself --------------------------------------------------------------------------------------------

    def contact(self) -> None:
        """The source has answered or spoken."""
        source = self.source
        source.last_contact = self.gateway.clock()
        if source.status is SourceStatus.UP:
            return
        trusted = source.trusted
        source.status = SourceStatus.UP
        source.up_since = self.gateway.clock()
        source.connected_wall = self.gateway.wall_clock()
        source.connects += 1
        self.gateway.changed("source")
        if not trusted:
            self._everything_changed()

    def lost(self, error: str) -> None:
        """The source does not answer (any more). What it said last is believed for a while."""
        source = self.source
        source.last_error = error
        source.poll_failures += 1
        if source.status is SourceStatus.UP:
            source.status = SourceStatus.STALE
            source.lost_wall = self.gateway.wall_clock()
            source.up_since = None
            self.gateway.changed("source")

    def tick(self) -> None:
        """Let time pass."""
        source, now = self.source, self.gateway.clock()
        self._forget_ended(now)
        source.changes.trim()
        if source.status is SourceStatus.STALE and source.last_contact is not None:
            if now - source.last_contact >= self.gateway.settings.stale_after:
                source.status = SourceStatus.DOWN
                self.gateway.changed("source")
                self._everything_changed()
            return
        if source.status is SourceStatus.UP:
            self.rows.expire(now)

    def restarted(self) -> None:
        """The daemon was started anew: all SAs of the one before are gone, its counters begin at zero."""
        for _ in self.restarting():
            pass

    def restarting(self) -> Steps:
        """The same in small steps. What the new daemon says in between is taken for what it is."""
        self.source.restarts += 1
        self.source.ike_daemon.restarted()
        self.source.ipsec_daemon.restarted()
        self.source.ike_stats.restarted()
        yield from Listing(self, self.begin_listing(), (), reason="restart").steps()
        # the new daemon's SAs may have the numbers of those before
        ended_ike, self._ended_ike = self._ended_ike, OrderedDict()
        ended_children, self._ended_children = self._ended_children, OrderedDict()
        while ended_ike or ended_children:
            ended: OrderedDict[Any, Any]
            for ended in (ended_ike, ended_children):
                if ended:
                    ended.popitem()
            yield

    def forgetting(self) -> Steps:
        """Drop all rows of this source, in small steps."""
        yield from self.restarting()
        yield from self.rows.dropping()
        self.source.on_meaning = nothing_to_do

    def _everything_changed(self) -> None:
        """The source is believed again, or no longer; or what it does not say means another thing than before."""
        changes = self.source.changes
        changes.ike.mark_all(self.rows.ike_tunnels.values())
        changes.tunnel.mark_all(self.rows.tunnels.values())
        changes.spi.mark_all(self.children.values())
        changes.sa.mark_all(self.children.values())

    # --- events -------------------------------------------------------------------------------------------------------

    def ike_up(self, record: IkeRecord) -> None:
        """An IKE SA was established."""
        self._serial += 1
        self.take(record, None)
        self.rows.settle()

    def ike_down(self, record: IkeRecord) -> None:
        """An IKE SA ended, with all the children it still has. `record` holds its final counts."""
        self._serial += 1
        sa = self.ike.get(record.key)
        if sa is None:
            return
        self._refresh_ike(sa, record, record.counts)
        for child_record in record.children or ():
            child = self.children.get(child_record.key)
            if child is not None:
                self._count_child(child, child_record.counts)
        self.end_ike(sa, record.reason or "deleted")
        self.rows.settle()

    def ike_rekeyed(self, old: IkeRecord, new: IkeRecord) -> None:
        """`new` has taken the place of `old` and inherited its children (RFC 7296 section 2.8)."""
        self._serial += 1
        before = self.ike.get(old.key)
        if before is not None:
            self._refresh_ike(before, old, old.counts)
            before.leaving = True
        after = self.take(new, None, before.tunnel if before is not None else None)
        if before is not None and after is not None and after is not before:
            for child in before.children:
                self._give(child, after)
                child.serial = self._serial  # a listing that was asked for before shows it where it was
        self.rows.settle()

    def ike_updated(self, record: IkeRecord) -> None:
        """Addresses of an IKE SA changed (MOBIKE, NAT rebinding)."""
        self._serial += 1
        sa = self.ike.get(record.key)
        if sa is not None:
            self._refresh_ike(sa, record, record.counts)
        self.rows.settle()

    def child_up(self, record: IkeRecord) -> None:
        """The children in `record` were installed."""
        self._serial += 1
        self.take(record, None)
        self.rows.settle()

    def child_down(self, record: IkeRecord) -> None:
        """The children in `record` ended; they hold their final counts."""
        self._serial += 1
        sa = self.ike.get(record.key)
        if sa is not None:
            self._refresh_ike(sa, record, record.counts)
        for child_record in record.children or ():
            child = self.children.get(child_record.key) or self._ended_children.get(child_record.key)
            if child is None:
                continue
            self._count_child(child, child_record.counts)
            if not child.ended:
                self.end_child(child, child_record.reason or "deleted")
        self.rows.settle()

    def child_rekeyed(self, record: IkeRecord, old: ChildRecord, new: ChildRecord) -> None:
        """`new` has taken the place of `old`, which may accept packets for a while (RFC 7296 section 2.8)."""
        self._serial += 1
        sa = self.take(record, None)
        if sa is None:
            return
        before = self.children.get(old.key) or self._ended_children.get(old.key)
        known = new.key in self.children
        if before is not None:
            self._count_child(before, old.counts)
            if not before.ended:
                self._say(before, old)
                before.serial = self._serial
        after = self._take_child(sa, new, new.counts, None, before.tunnel if before is not None else None)
        if before is not None and not before.ended and (old.reason or old.state in ENDED_CHILD_STATES):
            self.end_child(before, "rekeyed")
        if after is not None and not known:
            self.rows.tunnel_rekeyed(after.tunnel)
        self.rows.settle()

    def failed(self, record: FailureRecord) -> None:
        """A negotiation or an authentication failed, or the source warns of something."""
        gateway = self.gateway
        number = gateway.failures.next_number()
        gateway.failures.append(Failure(number, self.source.name, gateway.wall_clock(), record))
        gateway.changed("failure")

    # --- listings -----------------------------------------------------------------------------------------------------

    def begin_listing(self) -> int:
        """Call it before the listing is asked for; hand the number to `apply_listing`."""
        self._serial += 1
        return self._serial

    def apply_listing(
        self,
        token: int,
        records: Iterable[IkeRecord | Heard],
        *,
        full: bool = True,
        gone_ike: Iterable[int] = (),
        gone_children: Iterable[int] = (),
    ) -> None:
        """All IKE SAs with their children (`full`), or those that changed, and the uniqueids of those that ended."""
        for _ in self.applying(token, records, full=full, gone_ike=gone_ike, gone_children=gone_children):
            pass

    def applying(
        self,
        token: int,
        records: Iterable[IkeRecord | Heard],
        *,
        full: bool = True,
        gone_ike: Iterable[int] = (),
        gone_children: Iterable[int] = (),
    ) -> Steps:
        """The same in small steps. Events may be told between two of them; they are newer and win.

        After each step the model is consistent. Close the iterator if it is not run to its end.
        """
        return Listing(self, token, records, full, gone_ike, gone_children).steps()

    def apply_connections(self, connections: Iterable[ConnectionRecord]) -> None:
        """All configured connections."""
        for _ in self.configuration.applying(connections):
            pass

    # --- IKE SAs ------------------------------------------------------------------------------------------------------

    def take(
        self,
        record: IkeRecord,
        token: int | None,
        tunnel: IkeTunnel | None = None,
        counts: Mapping[str, int] | None = None,
        children: Sequence[tuple[ChildRecord, Mapping[str, int]]] | None = None,
    ) -> IkeSa | None:
        """Take in an IKE SA and its children; None when it is none of ours (yet, or any more).

        `token`: of the listing that said it, None for an event. `counts`, `children`: if not the record's own.
        """
        if counts is None or children is None:
            _, counts, children = heard(record)
        sa = self.ike.get(record.key)
        if sa is None:
            sa = self._adopt_ike(record, counts, token, tunnel)
            if sa is None:
                return None
        elif token is None or sa.serial <= token:
            self._refresh_ike(sa, record, counts)
            sa.leaving = record.state in SUPERSEDED_IKE_STATES
        else:
            self._count_ike(sa, counts)
        for child, child_counts in children:
            self._take_child(sa, child, child_counts, token)
        for uniqueid in record.child_ids or ():
            known = self.children.get(self.child_ids.get(uniqueid, (0, 0, 0)))
            if known is not None and known.ike is not sa and (token is None or known.serial <= token):
                self._give(known, sa)
        return sa

    def _give(self, child: ChildSa, sa: IkeSa) -> None:
        """A Child SA is now another IKE SA's."""
        child.ike = sa
        self.rows.child_changed(child)

    def _say(self, child: ChildSa, record: ChildRecord) -> None:
        """What a Child SA says of itself now."""
        before, child.record = child.record, record
        if before is not record and child_facts(before) != child_facts(record):
            self.rows.child_changed(child)

    def _adopt_ike(
        self, record: IkeRecord, counts: Mapping[str, int], token: int | None, tunnel: IkeTunnel | None
    ) -> IkeSa | None:
        if record.state not in ADOPT_IKE:
            return None
        ended = self._ended_ike.get(record.key)
        if ended is not None and (token is None or token <= ended.ended_serial):
            return None
        row = tunnel or self.rows.ike_tunnel(record)
        now = self.gateway.clock()
        if ended is not None:
            del self._ended_ike[record.key]
            sa = ended
            sa.record, sa.tunnel, sa.leaving, sa.ended_serial = record, row, False, 0
            self.rows.ike_sa_changed(sa)
        else:
            established = record.established or 0
            remaining = record.life_time
            soft = record.rekey_time if record.rekey_time is not None else record.reauth_time
            sa = IkeSa(
                record,
                row,
                self._serial,
                now - established,
                lifetime=None if remaining is None else established + remaining,
                refresh_at=None if soft is None else established + soft,
            )
        sa.serial = self._serial if token is None else token
        self.ike[record.key] = sa
        self.ike_ids[record.uniqueid] = record.key
        self.rows.ike_started(sa, again=ended is not None)
        self._count_ike(sa, counts)
        return sa

    def _refresh_ike(self, sa: IkeSa, record: IkeRecord, counts: Mapping[str, int]) -> None:
        before = sa.record
        sa.record = record
        sa.serial = self._serial
        self._count_ike(sa, counts)
        if before is not record and ike_facts(before) != ike_facts(record):
            self.rows.ike_sa_changed(sa)

    def _count_ike(self, sa: IkeSa, counts: Mapping[str, int]) -> None:
        grown = advance(sa.counts, counts)
        if grown:
            add(sa.tunnel.totals, grown)
            add(self.source.ike_totals, grown)
            self.source.changes.ike.mark(sa.tunnel)

    def end_ike(self, sa: IkeSa, reason: str) -> None:
        for child in sa.children:
            self.end_child(child, reason)
        key = sa.record.key
        del self.ike[key]
        if self.ike_ids.get(sa.record.uniqueid) == key:
            del self.ike_ids[sa.record.uniqueid]
        sa.ended_serial = self._serial
        sa.ended_at = self.gateway.clock()
        self._ended_ike[key] = sa
        self._forget_ended(sa.ended_at)
        self.rows.ike_ended(sa, reason)

    # --- Child SAs ----------------------------------------------------------------------------------------------------

    def _take_child(
        self,
        ike: IkeSa,
        record: ChildRecord,
        counts: Mapping[str, int],
        token: int | None,
        tunnel: Tunnel | None = None,
    ) -> ChildSa | None:
        sa = self.children.get(record.key)
        if sa is None:
            sa = self._adopt_child(ike, record, counts, token, tunnel)
        elif token is None or sa.serial <= token:
            self._count_child(sa, counts)
            self._say(sa, record)
            if sa.ike is not ike:
                self._give(sa, ike)
            sa.serial = self._serial
        else:
            self._count_child(sa, counts)
        return sa

    def _adopt_child(
        self,
        ike: IkeSa,
        record: ChildRecord,
        counts: Mapping[str, int],
        token: int | None,
        tunnel: Tunnel | None,
    ) -> ChildSa | None:
        ended = self._ended_children.get(record.key)
        if ended is not None and (
            token is None
            or token <= ended.ended_serial
            or record.state not in ADOPT_CHILD
            or ike.record.state not in ADOPT_IKE
        ):
            self._count_child(ended, counts)
            return None
        if record.state not in ADOPT_CHILD:
            return None
        if ended is not None:
            del self._ended_children[record.key]
            sa = ended
            sa.record, sa.ike, sa.ended, sa.ended_serial = record, ike, False, 0
            if not sa.tunnel.alive:  # its row has left meanwhile
                sa.tunnel = self.rows.tunnel(ike, record)
        else:
            row = tunnel or self.rows.tunnel(ike, record)
            age = record.install_time or 0
            hard = record.lifetime_seconds
            if hard is None and record.life_time is not None:
                hard = age + record.life_time
            sa = ChildSa(
                record,
                row,
                ike,
                self._serial,
                self.gateway.clock() - age,
                number=row.total_sas + 1,
                lifetime=hard,
                refresh_at=None if record.rekey_time is None else age + record.rekey_time,
            )
        sa.serial = self._serial if token is None else token
        self.children[record.key] = sa
        self.child_ids[record.uniqueid] = record.key
        self.rows.child_started(sa, again=ended is not None)
        self._count_child(sa, counts)
        return sa

    def _count_child(self, sa: ChildSa, counts: Mapping[str, int]) -> None:
        grown = advance(sa.counts, counts)
        if grown:
            add(sa.tunnel.totals, grown)
            add(self.source.child_totals, grown)
            self.source.changes.tunnel.mark(sa.tunnel)
            self.source.changes.sa.mark(sa)

    def end_child(self, sa: ChildSa, reason: str) -> None:
        key = sa.record.key
        del self.children[key]
        if self.child_ids.get(sa.record.uniqueid) == key:
            del self.child_ids[sa.record.uniqueid]
        sa.ended = True
        sa.ended_serial = self._serial
        sa.ended_at = self.gateway.clock()
        self._ended_children[key] = sa
        self._forget_ended(sa.ended_at)
        self.rows.child_ended(sa, reason)

    def _forget_ended(self, now: float) -> None:
        _forget(self._ended_ike, now)
        _forget(self._ended_children, now)


def _forget(ended: OrderedDict[Any, Any], now: float) -> None:
    for _ in range(FORGOTTEN):
        if not ended:
            break
        if len(ended) <= TOMBSTONES and now - next(iter(ended.values())).ended_at <= TOMBSTONE_AGE:
            break
        ended.popitem(last=False)

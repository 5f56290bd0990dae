"""What one source says, turned into tunnels and totals.

Two streams tell the same story: events, in order but possibly lost, and listings, complete but as of the moment when
they were asked for. Each word carries a serial: a listing gets its serial before it is asked for, so an event that
came meanwhile is newer than the listing and wins. An SA ends when an event says so, or when a listing that was asked
for after its last sign of life lacks it; an ended SA comes back only by a listing asked for after its end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.gateway.connections import Configuration
from agent.gateway.counters import add, advance
from agent.gateway.records import (
    ENDED_CHILD_STATES,
    SUPERSEDED_IKE_STATES,
    ChildRecord,
    ConnectionRecord,
    FailureRecord,
    IkeRecord,
)
from agent.gateway.rings import Failure
from agent.gateway.rows import Rows
from agent.gateway.source import Source, SourceStatus
from agent.gateway.tunnels import ChildSa, IkeSa, IkeTunnel, Tunnel

if TYPE_CHECKING:
    from agent.gateway.model import Gateway

# States in which an SA that was not known before is taken in, and in which an ended one comes back.
ADOPT_IKE = frozenset({"ESTABLISHED", "PASSIVE", "REKEYING"})
ADOPT_CHILD = frozenset({"INSTALLED", "UPDATING", "REKEYING", "REKEYED"})
TOMBSTONES = 20_000
TOMBSTONE_AGE = 300.0
"""Seconds that an ended SA is remembered: listings and events that are older than its end come sooner."""

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
        self._ike_ids: dict[int, IkeKey] = {}
        self._child_ids: dict[int, ChildKey] = {}
        self._ended_ike: OrderedDict[IkeKey, IkeSa] = OrderedDict()
        self._ended_children: OrderedDict[ChildKey, ChildSa] = OrderedDict()
        self._serial = 0

    # --- the source itself --------------------------------------------------------------------------------------------

    def contact(self) -> None:
        """The source has answered or spoken."""
        self.source.last_contact = self.gateway.clock()
        if self.source.status is not SourceStatus.UP:
            self.source.status = SourceStatus.UP
            self.source.up_since = self.gateway.clock()
            self.source.connected_wall = self.gateway.wall_clock()
            self.source.connects += 1
            self._everything_changed()
        self.gateway.changed("source")

    def lost(self, error: str) -> None:
        """The source does not answer (any more)."""
        self.source.last_error = error
        self.source.poll_failures += 1
        if self.source.status is SourceStatus.UP:
            self.source.status = SourceStatus.STALE
            self.source.lost_wall = self.gateway.wall_clock()
            self.source.up_since = None
            self._everything_changed()
        self.gateway.changed("source")

    def tick(self) -> None:
        """Let time pass."""
        source, now = self.source, self.gateway.clock()
        self._forget_ended(now)
        if source.status is SourceStatus.STALE and source.last_contact is not None:
            if now - source.last_contact >= self.gateway.settings.stale_after:
                source.status = SourceStatus.DOWN
                self._everything_changed()
            return
        if source.status is SourceStatus.UP:
            self.rows.expire(now)

    def restarted(self) -> None:
        """The daemon was started anew: all SAs of the one before are gone, its counters begin at zero."""
        self._serial += 1
        self.source.restarts += 1
        self.source.ike_daemon.restarted()
        self.source.ipsec_daemon.restarted()
        self.source.ike_stats.restarted()
        # children first: then no IKE SA has to look for its own among all
        for child in list(self.children.values()):
            self._end_child(child, "restart")
        for sa in list(self.ike.values()):
            self._end_ike(sa, "restart")
        self._ended_ike.clear()
        self._ended_children.clear()
        self.rows.settle()

    def forget(self) -> None:
        """Drop all rows of this source."""
        self.restarted()
        self.rows.drop_all()

    def _everything_changed(self) -> None:
        self.gateway.changed("ike", "tunnel", "endpoint", "spi", "sa", "source")

    # --- events -------------------------------------------------------------------------------------------------------

    def ike_up(self, record: IkeRecord) -> None:
        """An IKE SA was established."""
        self._serial += 1
        self._take(record, None)
        self.rows.settle()

    def ike_down(self, record: IkeRecord) -> None:
        """An IKE SA ended, with all the children it still has. `record` holds its final counts."""
        self._serial += 1
        sa = self.ike.get(record.key)
        if sa is None:
            return
        self._refresh_ike(sa, record)
        for child_record in record.children or ():
            child = self.children.get(child_record.key)
            if child is not None:
                self._count_child(child, child_record)
        self._end_ike(sa, record.reason or "deleted")
        self.rows.settle()

    def ike_rekeyed(self, old: IkeRecord, new: IkeRecord) -> None:
        """`new` has taken the place of `old` and inherited its children (RFC 7296 section 2.8)."""
        self._serial += 1
        before = self.ike.get(old.key)
        if before is not None:
            self._refresh_ike(before, old)
            before.leaving = True
        after = self._take(new, None, before.tunnel if before is not None else None)
        if before is not None and after is not None and after is not before:
            for child in self.children.values():
                if child.ike is before:
                    child.ike = after
                    self.gateway.changed("sa", "spi")
        self.rows.settle()

    def ike_updated(self, record: IkeRecord) -> None:
        """Addresses of an IKE SA changed (MOBIKE, NAT rebinding)."""
        self._serial += 1
        sa = self.ike.get(record.key)
        if sa is not None:
            self._refresh_ike(sa, record)
            self.gateway.changed("ike", "tunnel", "endpoint", "spi", "sa")
        self.rows.settle()

    def child_up(self, record: IkeRecord) -> None:
        """The children in `record` were installed."""
        self._serial += 1
        self._take(record, None)
        self.rows.settle()

    def child_down(self, record: IkeRecord) -> None:
        """The children in `record` ended; they hold their final counts."""
        self._serial += 1
        sa = self.ike.get(record.key)
        if sa is not None:
            self._refresh_ike(sa, record)
        for child_record in record.children or ():
            child = self.children.get(child_record.key) or self._ended_children.get(child_record.key)
            if child is None:
                continue
            self._count_child(child, child_record)
            if not child.ended:
                self._end_child(child, child_record.reason or "deleted")
        self.rows.settle()

    def child_rekeyed(self, record: IkeRecord, old: ChildRecord, new: ChildRecord) -> None:
        """`new` has taken the place of `old`, which may accept packets for a while (RFC 7296 section 2.8)."""
        self._serial += 1
        sa = self._take(record, None)
        if sa is None:
            return
        before = self.children.get(old.key) or self._ended_children.get(old.key)
        known = new.key in self.children
        if before is not None:
            self._count_child(before, old)
            if not before.ended:
                before.record = old
                before.serial = self._serial
        after = self._take_child(sa, new, None, before.tunnel if before is not None else None)
        if before is not None and not before.ended and (old.reason or old.state in ENDED_CHILD_STATES):
            self._end_child(before, "rekeyed")
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
        records: Iterable[IkeRecord],
        *,
        full: bool = True,
        gone_ike: Iterable[int] = (),
        gone_children: Iterable[int] = (),
    ) -> None:
        """All IKE SAs with their children (`full`), or those that changed, and the uniqueids of those that ended."""
        records = merge_parts(records)
        leaving, ended = self._missing(token, records, full, gone_ike, gone_children)
        for sa in leaving:
            sa.leaving = True
        # Those that were superseded make room for their successors.
        records.sort(key=lambda record: record.state not in SUPERSEDED_IKE_STATES)
        for record in records:
            self._take(record, token)
        for child in ended:
            if not child.ended and child.serial < token:
                self._end_child(child, "rekeyed" if child.expiring else "gone")
        for sa in leaving:
            if sa.leaving and not sa.ended_serial:
                self._end_ike(sa, "gone")
        self.rows.settle()

    def _missing(
        self,
        token: int,
        records: list[IkeRecord],
        full: bool,
        gone_ike: Iterable[int],
        gone_children: Iterable[int],
    ) -> tuple[list[IkeSa], list[ChildSa]]:
        if full:
            ikes = {record.key for record in records}
            children = {child.key for record in records for child in record.children or ()}
            return (
                [sa for sa in self.ike.values() if sa.record.key not in ikes and sa.serial < token],
                [sa for sa in self.children.values() if sa.record.key not in children and sa.serial < token],
            )
        leaving = [self.ike[key] for key in map(self._ike_ids.get, gone_ike) if key in self.ike]
        ended = [
            self.children[key] for key in map(self._child_ids.get, gone_children) if key in self.children
        ]
        families: dict[int, list[ChildSa]] = {}
        if any(record.child_ids is not None for record in records):
            for child in self.children.values():
                families.setdefault(id(child.ike), []).append(child)
        for record in records:
            sa = self.ike.get(record.key)
            if record.child_ids is None or sa is None:
                continue
            alive = record.child_ids | {child.uniqueid for child in record.children or ()}
            family = families.get(id(sa), [])
            ended += [child for child in family if child.record.uniqueid not in alive]
        return (
            [sa for sa in leaving if sa.serial < token],
            [sa for sa in ended if sa.serial < token],
        )

    def apply_connections(self, connections: Iterable[ConnectionRecord]) -> None:
        """All configured connections."""
        self.configuration.apply(connections)
        self.rows.settle()

    # --- IKE SAs ------------------------------------------------------------------------------------------------------

    def _take(self, record: IkeRecord, token: int | None, tunnel: IkeTunnel | None = None) -> IkeSa | None:
        """Take in an IKE SA and its children; None when it is none of ours (yet, or any more)."""
        sa = self.ike.get(record.key)
        if sa is None:
            sa = self._adopt_ike(record, token, tunnel)
            if sa is None:
                return None
        elif token is None or sa.serial <= token:
            self._refresh_ike(sa, record)
            sa.leaving = record.state in SUPERSEDED_IKE_STATES
        else:
            self._count_ike(sa, record)
        for child in record.children or ():
            self._take_child(sa, child, token)
        for uniqueid in record.child_ids or ():
            known = self.children.get(self._child_ids.get(uniqueid, (0, 0, 0)))
            if known is not None and known.ike is not sa and (token is None or known.serial <= token):
                known.ike = sa
                self.rows.touch(known.tunnel)
                self.gateway.changed("spi", "sa")
        return sa

    def _adopt_ike(self, record: IkeRecord, token: int | None, tunnel: IkeTunnel | None) -> IkeSa | None:
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
        self._ike_ids[record.uniqueid] = record.key
        self.rows.ike_started(sa, again=ended is not None)
        self._count_ike(sa, record)
        return sa

    def _refresh_ike(self, sa: IkeSa, record: IkeRecord) -> None:
        before = sa.record
        sa.record = record
        sa.serial = self._serial
        self._count_ike(sa, record)
        if (before.state, before.local_host, before.remote_host, before.remote_port) != (
            record.state,
            record.local_host,
            record.remote_host,
            record.remote_port,
        ):
            self.gateway.changed("ike", "tunnel", "spi", "sa")

    def _count_ike(self, sa: IkeSa, record: IkeRecord) -> None:
        grown = advance(sa.counts, record.counts)
        if grown:
            add(sa.tunnel.totals, grown)
            add(self.source.ike_totals, grown)
            self.gateway.changed("ike")

    def _end_ike(self, sa: IkeSa, reason: str) -> None:
        for child in [child for child in self.children.values() if child.ike is sa]:
            self._end_child(child, reason)
        key = sa.record.key
        del self.ike[key]
        if self._ike_ids.get(sa.record.uniqueid) == key:
            del self._ike_ids[sa.record.uniqueid]
        sa.ended_serial = self._serial
        sa.ended_at = self.gateway.clock()
        self._ended_ike[key] = sa
        self._forget_ended(sa.ended_at)
        self.rows.ike_ended(sa, reason)

    # --- Child SAs ----------------------------------------------------------------------------------------------------

    def _take_child(
        self, ike: IkeSa, record: ChildRecord, token: int | None, tunnel: Tunnel | None = None
    ) -> ChildSa | None:
        sa = self.children.get(record.key)
        if sa is None:
            sa = self._adopt_child(ike, record, token, tunnel)
        elif token is None or sa.serial <= token:
            self._count_child(sa, record)
            if sa.ike is not ike or sa.record.state != record.state:
                self.gateway.changed("tunnel", "spi", "sa")
                self.rows.touch(sa.tunnel)
            sa.record, sa.ike = record, ike
            sa.serial = self._serial
        else:
            self._count_child(sa, record)
        return sa

    def _adopt_child(
        self, ike: IkeSa, record: ChildRecord, token: int | None, tunnel: Tunnel | None
    ) -> ChildSa | None:
        ended = self._ended_children.get(record.key)
        if ended is not None and (
            token is None
            or token <= ended.ended_serial
            or record.state not in ADOPT_CHILD
            or ike.record.state not in ADOPT_IKE
        ):
            self._count_child(ended, record)
            return None
        if record.state not in ADOPT_CHILD:
            return None
        if ended is not None:
            del self._ended_children[record.key]
            sa = ended
            sa.record, sa.ike, sa.ended, sa.ended_serial = record, ike, False, 0
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
        self._child_ids[record.uniqueid] = record.key
        self.rows.child_started(sa, again=ended is not None)
        self._count_child(sa, record)
        return sa

    def _count_child(self, sa: ChildSa, record: ChildRecord) -> None:
        grown = advance(sa.counts, record.counts)
        if grown:
            add(sa.tunnel.totals, grown)
            add(self.source.child_totals, grown)
            self.gateway.changed("tunnel", "sa")

    def _end_child(self, sa: ChildSa, reason: str) -> None:
        key = sa.record.key
        del self.children[key]
        if self._child_ids.get(sa.record.uniqueid) == key:
            del self._child_ids[sa.record.uniqueid]
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
    while ended and (len(ended) > TOMBSTONES or now - next(iter(ended.values())).ended_at > TOMBSTONE_AGE):
        ended.popitem(last=False)


def merge_parts(records: Iterable[IkeRecord]) -> list[IkeRecord]:
    """One record for each IKE SA: one with very many children is told in several parts."""
    merged: dict[IkeKey, IkeRecord] = {}
    parts: dict[IkeKey, list[ChildRecord]] = {}
    for record in records:
        first = merged.setdefault(record.key, record)
        if first is not record:
            parts.setdefault(record.key, list(first.children or ())).extend(record.children or ())
    for key, children in parts.items():
        merged[key] = replace(merged[key], children=tuple(children))
    return list(merged.values())

"""The rows of one source: which tunnel an SA belongs to, when a tunnel goes up or down, when its row leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.gateway.indexes import Key
from agent.gateway.records import ChildRecord, ConfiguredChild, ConnectionRecord, IkeRecord
from agent.gateway.rings import Ended
from agent.gateway.selectors import Selector, covered
from agent.gateway.source import Source
from agent.gateway.steps import Steps
from agent.gateway.tunnels import ChildSa, IkeSa, IkeTunnel, SelectorPair, Tunnel, kinds_of

if TYPE_CHECKING:
    from agent.gateway.model import Gateway

MAX_PAIRS = 256  # selector pairs of one tunnel that are shown
MAX_EXPIRED = 250  # rows that leave at one tick, so that none takes long


class Rows:
    """IKE and IPsec tunnels of one source. `settle` ends each change: it decides what went up or down on balance.

    A listing that is taken in step by step holds those rows of which an SA is missing, until it has ended that SA.
    """

    def __init__(self, gateway: Gateway, source: Source) -> None:
        self.gateway = gateway
        self.source = source
        self.changes = source.changes
        self.tunnels: dict[Key, Tunnel] = {}
        self.ike_tunnels: dict[Key, IkeTunnel] = {}
        self.by_child: dict[tuple[str, str], set[Tunnel]] = {}
        self.pairs: dict[SelectorPair, int] = {}  # how many tunnels have each
        self.held: set[Tunnel] = set()
        self._down: dict[Tunnel, None] = {}  # in the order in which they went down
        self._touched: set[Tunnel] = set()
        self._started: set[Tunnel] = set()
        self._reasons: dict[Tunnel, str] = {}
        self._idle: set[IkeTunnel] = set()

    # --- IKE tunnels --------------------------------------------------------------------------------------------------

    def ike_tunnel(self, record: IkeRecord) -> IkeTunnel:
        """The row for a new IKE SA: that of the SA it takes the place of, else the first free one of its identity.

        An identity is connection and peer; several IKE SAs of one identity at a time (both ends initiated) are
        numbered, and the first one that is free is taken up again by the next.
        """
        peer = record.remote_id or str(record.remote_host or "")
        slot = 1
        while True:
            row = self._ike_row(record.name, peer, slot)
            if row.sa is None or row.sa.leaving:
                return row
            slot += 1

    def _ike_row(self, connection: str, peer: str, slot: int) -> IkeTunnel:
        key = (self.source.name, connection, peer, str(slot))
        row = self.ike_tunnels.get(key)
        if row is None:
            row = IkeTunnel(self.source, key, self.gateway.indexes.ike.number(key))
            self.ike_tunnels[key] = row
            self.gateway.ike_tunnels[row.index] = row
            self.changes.ike.mark(row)
            self._idle.add(row)
        return row

    def ike_changed(self, row: IkeTunnel) -> None:
        """Its state or addresses: the tunnels in it show them too."""
        self.changes.ike.mark(row)
        self.changes.tunnel.mark_all(row.tunnels)

    def ike_sa_changed(self, sa: IkeSa) -> None:
        """What it said of itself: its row, and all that show its addresses."""
        self.ike_changed(sa.tunnel)
        sa.rows = {row for row in sa.rows if row.alive}
        self.changes.tunnel.mark_all(sa.rows)
        children = sa.children
        self.changes.spi.mark_all(children)
        self.changes.sa.mark_all(children)

    def configure_ike(self, row: IkeTunnel, connection: ConnectionRecord) -> None:
        """What the configuration says about it, shown until an SA says more."""
        if row.connection != connection:
            row.connection = connection
            self.ike_changed(row)

    def ike_started(self, sa: IkeSa, again: bool) -> None:
        """A new IKE SA (`again`: one that was thought to have ended) takes its row."""
        row, gateway = sa.tunnel, self.gateway
        if row.sa is None:
            self.source.up_ike_tunnels += 1
            row.up_since = sa.established
            row.started_wall = gateway.wall_clock() - max(0.0, gateway.clock() - sa.established)
            row.base = dict(row.totals)
            if not again:
                if sa.record.initiator:
                    self.source.ike_initiated += 1
                else:
                    self.source.ike_responded += 1
        elif row.sa is not sa:
            row.refreshes += 1
        if not again:
            row.total_sas += 1
        row.sa = sa
        row.last = sa
        self.ike_changed(row)

    def ike_ended(self, sa: IkeSa, reason: str) -> None:
        row, gateway = sa.tunnel, self.gateway
        if row.sa is not sa:
            return  # its successor has the row
        row.sa = None
        self.source.up_ike_tunnels -= 1
        self.source.previous_ike_tunnels += 1
        gateway.history.append(
            Ended(
                number=gateway.history.next_number(),
                phase=1,
                source=self.source.name,
                index=row.index,
                ike_index=row.index,
                connection=sa.record.name,
                child=None,
                local_host=row.local_host,
                remote_host=row.remote_host,
                local_id=row.local_id,
                remote_id=row.remote_id,
                started=row.started_wall or 0.0,
                ended=gateway.wall_clock(),
                reason=reason,
                refreshes=row.refreshes,
                total_sas=row.total_sas,
                counts={name: value - row.base.get(name, 0) for name, value in row.totals.items()},
            )
        )
        row.up_since = None
        self._idle.add(row)
        self.ike_changed(row)
        gateway.changed("history")

    # --- IPsec tunnels ------------------------------------------------------------------------------------------------

    def tunnel(self, ike: IkeSa, record: ChildRecord) -> Tunnel:
        """The row for a new Child SA: its identity's, or that of its configuration if no SA has had it yet."""
        name = ike.record.name
        peer = ike.record.remote_id or str(ike.record.remote_host or "")
        key = self._key(name, record.name, peer, record.local_ts, record.remote_ts)
        row = self.tunnels.get(key)
        if row is not None:
            return row
        for waiting in self.by_child.get((name, record.name), ()):
            if (
                waiting.ever_up
                or waiting.peer != peer
                or not covered(record.local_ts, waiting.local_ts)
                or not covered(record.remote_ts, waiting.remote_ts)
            ):
                continue
            if key in self.gateway.indexes.tunnel:  # known from before: its number is the one to keep
                self.drop(waiting)
                break
            self.gateway.indexes.tunnel.move(waiting.key, key)
            del self.tunnels[waiting.key]
            waiting.key = key
            self.tunnels[key] = waiting
            self._select(waiting, record.local_ts, record.remote_ts)
            return waiting
        return self.add(name, record.name, peer, record.local_ts, record.remote_ts, ike.tunnel)

    def add(
        self,
        connection: str,
        child: str,
        peer: str,
        local_ts: tuple[Selector, ...],
        remote_ts: tuple[Selector, ...],
        ike: IkeTunnel,
    ) -> Tunnel:
        """A new row."""
        key = self._key(connection, child, peer, local_ts, remote_ts)
        index = self.gateway.indexes.tunnel.number(key)
        row = Tunnel(self.source, key, index, connection, child, peer, local_ts, remote_ts, ike)
        self.tunnels[key] = row
        self.gateway.tunnels[index] = row
        self.by_child.setdefault((connection, child), set()).add(row)
        ike.tunnels.add(row)
        self._select(row, local_ts, remote_ts)
        return row

    def add_configured(self, connection: ConnectionRecord, child: ConfiguredChild) -> Tunnel:
        """The row of a configured tunnel that has no SA: shown as down, with the IKE row it would have."""
        peer = connection.remote_id or str(connection.remote_host or "")
        ike = self._ike_row(connection.name, peer, 1)
        self.configure_ike(ike, connection)
        row = self.add(connection.name, child.name, peer, child.local_ts, child.remote_ts, ike)
        row.mode = child.mode
        return row

    def drop(self, row: Tunnel) -> None:
        """Take a row away; its number is kept for its return."""
        for pair in row.pairs:
            self._release(pair)
        row.pairs = []
        row.alive = False
        if row.last is not None:
            row.last.ike.rows.discard(row)
            row.last = (
                None  # row and SA refer to each other: without this only a full collection would find them
            )
        del self.tunnels[row.key]
        del self.gateway.tunnels[row.index]
        siblings = self.by_child[row.connection, row.child]
        siblings.discard(row)
        if not siblings:
            del self.by_child[row.connection, row.child]
        row.ike.tunnels.discard(row)
        self._idle.add(row.ike)
        self.gateway.indexes.tunnel.end(row.key)
        self._down.pop(row, None)
        self._touched.discard(row)
        self._started.discard(row)
        self._reasons.pop(row, None)
        self.changes.tunnel.mark_gone(row)
        self.changes.endpoint.mark_gone(row)

    def _key(
        self,
        connection: str,
        child: str,
        peer: str,
        local_ts: tuple[Selector, ...],
        remote_ts: tuple[Selector, ...],
    ) -> Key:
        local = " ".join(sorted(selector.text for selector in local_ts))
        remote = " ".join(sorted(selector.text for selector in remote_ts))
        return (self.source.name, connection, child, peer, local, remote)

    def _select(self, row: Tunnel, local_ts: tuple[Selector, ...], remote_ts: tuple[Selector, ...]) -> None:
        released = row.pairs
        row.local_ts, row.remote_ts = local_ts, remote_ts
        row.pairs = []
        for local in local_ts:
            for remote in remote_ts:
                if len(row.pairs) < MAX_PAIRS:
                    row.pairs.append(self._pair(local, remote))
        for pair in released:
            self._release(pair)
        self.changes.tunnel.mark(row)
        self.changes.endpoint.mark(row)
        self.changes.sa.mark_all(row.sas.values())  # they name the first pair

    def _pair(self, local: Selector, remote: Selector) -> SelectorPair:
        pair = self.gateway.selector_pair(local, remote)
        users = self.pairs.get(pair, 0)
        self.pairs[pair] = users + 1
        if not users:
            self.changes.selector.mark(pair)
        return pair

    def _release(self, pair: SelectorPair) -> None:
        self.pairs[pair] -= 1
        if not self.pairs[pair]:
            del self.pairs[pair]
            self.changes.selector.mark_gone(pair)
        self.gateway.release_pair(pair)

    # --- Child SAs ----------------------------------------------------------------------------------------------------

    def child_started(self, sa: ChildSa, again: bool) -> None:
        row = sa.tunnel
        if not again:
            row.total_sas += 1
            if sa.record.protocol == "AH":
                self.source.ah_sas += 1
            else:
                self.source.esp_sas += 1
            if sa.record.cpi_in is not None:
                self.source.ipcomp_sas += 1
        row.sas[sa.record.key] = sa
        if row.up and not again:
            self._started.add(row)
        row.last = sa
        self.child_changed(sa)

    def child_ended(self, sa: ChildSa, reason: str) -> None:
        row = sa.tunnel
        row.sas.pop(sa.record.key, None)
        row.expired += 1
        self._reasons[row] = reason
        self.child_changed(sa)
        self.changes.spi.mark_gone(sa)
        self.changes.sa.mark_gone(sa)

    def child_changed(self, sa: ChildSa) -> None:
        """A Child SA came, went, or is another one's, or says other things of itself than before."""
        sa.ike.rows.add(sa.tunnel)
        self._touched.add(sa.tunnel)
        self.changes.tunnel.mark(sa.tunnel)
        self.changes.spi.mark(sa)
        self.changes.sa.mark(sa)
        counted = kinds_of(sa.record) if sa.live else ()
        if counted != sa.counted:
            current = self.source.current
            for kind in sa.counted:
                current[kind] -= 1
            for kind in counted:
                current[kind] += 1
            sa.counted = counted

    def tunnel_rekeyed(self, row: Tunnel) -> None:
        """One of the tunnel's SAs was replaced."""
        row.refreshes += 1
        row.last_rekey_wall = self.gateway.wall_clock()
        self._started.discard(row)
        self.changes.tunnel.mark(row)

    def settle(self) -> None:
        """The change is complete: tunnels go up or down by what is there now."""
        touched = self._touched
        if touched:
            self._touched = touched & self.held if self.held else set()
            for row in touched:
                if row not in self._touched:
                    self._settle(row)
        if self._idle:
            for ike in self._idle:
                if ike.sa is None and not ike.tunnels and ike.alive:
                    self._drop_ike(ike)
            self._idle.clear()

    def _settle(self, row: Tunnel) -> None:
        live = [sa for sa in row.sas.values() if sa.live]
        started = row in self._started
        self._started.discard(row)
        reason = self._reasons.pop(row, None)
        if live:
            self._relink(row, max(live, key=lambda sa: sa.number))
            # A replacement that no event told of: new SAs came while old ones left or are leaving.
            if started and (reason is not None or any(sa.expiring for sa in live)):
                self.tunnel_rekeyed(row)
        if live and not row.up:
            self._went_up(row, live)
        elif row.up and not live:
            self._went_down(row, reason or "gone")

    def _drop_ike(self, row: IkeTunnel) -> None:
        row.alive = False
        row.last = None  # as in `drop`
        del self.ike_tunnels[row.key]
        del self.gateway.ike_tunnels[row.index]
        self.gateway.indexes.ike.end(row.key)
        self.changes.ike.mark_gone(row)

    def _relink(self, row: Tunnel, newest: ChildSa) -> None:
        ike = newest.ike.tunnel
        if row.last is newest and row.ike is ike:
            return
        row.last = newest
        if row.ike is not ike:
            row.ike.tunnels.discard(row)
            self._idle.add(row.ike)
            row.ike = ike
            ike.tunnels.add(row)
        self.changes.tunnel.mark(row)

    def _went_up(self, row: Tunnel, live: list[ChildSa]) -> None:
        gateway = self.gateway
        row.up = True
        self._down.pop(row, None)
        self.source.up_tunnels += 1
        row.up_since = min(sa.installed for sa in live)
        row.down_since = None
        row.started_wall = row.last_up_wall = gateway.wall_clock() - max(0.0, gateway.clock() - row.up_since)
        row.base = {
            name: row.totals[name] - sum(sa.counts.get(name, 0) for sa in live) for name in row.totals
        }
        self.changes.tunnel.mark(row)

    def _went_down(self, row: Tunnel, reason: str) -> None:
        gateway = self.gateway
        row.up = False
        self.source.up_tunnels -= 1
        row.up_since = None
        self.is_down(row)
        row.last_down_wall = gateway.wall_clock()
        row.last_reason = reason
        self.source.previous_tunnels += 1
        gateway.history.append(
            Ended(
                number=gateway.history.next_number(),
                phase=2,
                source=self.source.name,
                index=row.index,
                ike_index=row.ike.index,
                connection=row.connection,
                child=row.child,
                local_host=row.local_host,
                remote_host=row.remote_host,
                local_id=row.ike.local_id,
                remote_id=row.ike.remote_id,
                started=row.started_wall or 0.0,
                ended=gateway.wall_clock(),
                reason=reason,
                refreshes=row.refreshes,
                total_sas=row.total_sas,
                counts={name: value - row.base.get(name, 0) for name, value in row.totals.items()},
            )
        )
        self.changes.tunnel.mark(row)
        gateway.changed("history")

    # --- time ---------------------------------------------------------------------------------------------------------

    def is_down(self, row: Tunnel) -> None:
        """From now on its time runs, if nothing but its having been up keeps its row."""
        row.down_since = self.gateway.clock()
        self._down.pop(row, None)
        self._down[row] = None

    def expire(self, now: float) -> None:
        """Rows whose configuration does not name them leave some time after they went down, some at a time."""
        retain = self.gateway.settings.retain
        gone: list[Tunnel] = []
        for row in self._down:
            if row.down_since is None or now - row.down_since < retain or len(gone) >= MAX_EXPIRED:
                break
            if not row.permanent and not row.sas:
                gone.append(row)
        for row in gone:
            self.drop(row)
        if gone:
            self.settle()

    def dropping(self) -> Steps:
        """The source was taken away: all rows leave, one at a step."""
        for row in list(self.tunnels.values()):
            self.drop(row)
            self.settle()
            yield

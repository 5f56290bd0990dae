"""Random lives of a gateway, told by events and listings that overlap: totals never fall, identities never change.

`World` is the truth: SAs with counts. What it tells the model is in order, but a listing may be applied long after it
was made, with events in between, and (in the lossy world) events may be lost.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.gateway import ChildRecord, Gateway, IkeRecord, Selector
from agent.gateway.indexes import IndexRegistry

CONNECTIONS = ("a", "b")
CHILDREN = ("net", "lan")
COUNTS = ("octets_in", "octets_out", "packets_in", "packets_out", "replay_errors_in")
LAN = (Selector.network("10.1.0.0/24"),)


@dataclass
class Child:
    name: str
    uniqueid: int
    counts: dict[str, int]
    state: str = "INSTALLED"
    zeros: bool = False  # a deleted one may be listed with zeros

    def record(self, state: str | None = None) -> ChildRecord:
        number = CHILDREN.index(self.name)
        return ChildRecord(
            name=self.name,
            uniqueid=self.uniqueid,
            state=state or self.state,
            protocol="ESP",
            mode="TUNNEL",
            spi_in=0x1000 + self.uniqueid,
            spi_out=0x2000 + self.uniqueid,
            encr_alg="AES_GCM_16",
            install_time=0,
            rekey_time=100,
            life_time=200,
            local_ts=LAN,
            remote_ts=(Selector.network(f"10.2.{number}.0/24"),),
            counts=dict.fromkeys(COUNTS, 0) if self.zeros else dict(self.counts),
        )


@dataclass
class Ike:
    name: str
    uniqueid: int
    octets: int = 0
    state: str = "ESTABLISHED"
    children: list[Child] = field(default_factory=list)
    host: str = "192.0.2.2"

    def record(self, children: bool = True) -> IkeRecord:
        return IkeRecord(
            name=self.name,
            uniqueid=self.uniqueid,
            version=2,
            state=self.state,
            initiator=True,
            initiator_spi=0xAA00 + self.uniqueid,
            responder_spi=0xBB00 + self.uniqueid,
            local_host=ip_address("192.0.2.1"),
            local_id="moon",
            remote_host=ip_address(self.host),
            remote_id=f"sun-{self.name}",
            established=0,
            rekey_time=1000,
            counts={"octets_in": self.octets},
            children=tuple(child.record() for child in self.children) if children else None,
        )


class Life(RuleBasedStateMachine):
    """No event is lost."""

    lossy = False

    @initialize()
    def begin(self) -> None:
        self.now = 1000.0
        self.gateway = Gateway(lambda: self.now, lambda: 1e9 + self.now, indexes=IndexRegistry())
        self.feed = self.gateway.add_source("w", "vici", "/w")
        self.feed.contact()
        self.numbers = itertools.count(1)
        self.ikes: list[Ike] = []
        self.truth: dict[tuple[str, str], dict[str, int]] = {}
        self.listing: tuple[int, list[IkeRecord]] | None = None
        self.seen: dict[str, dict[object, int]] = {}
        self.indexes: dict[tuple[str, ...], int] = {}
        self.lost_any = False
        self.steps = 0
        self.told_down: set[int] = set()
        self.cells: dict[str, tuple[int, object]] = {}
        for connection in CONNECTIONS:
            self.connect_now(connection, set(CHILDREN), 1)

    # --- what the world does ------------------------------------------------------------------------------------------

    def tell(self, loss: int, call: object, *arguments: object) -> None:
        if self.lossy and loss == 0:
            self.lost_any = True
            return
        call(*arguments)  # type: ignore[operator]

    def live_children(self) -> list[tuple[Ike, Child]]:
        return [
            (ike, child)
            for ike in self.ikes
            if ike.state == "ESTABLISHED"
            for child in ike.children
            if child.state == "INSTALLED"
        ]

    def new_child(self, name: str) -> Child:
        return Child(name, next(self.numbers), dict.fromkeys(COUNTS, 0))

    @precondition(lambda self: len(self.ikes) < 5)
    @rule(
        connection=st.sampled_from(CONNECTIONS),
        names=st.sets(st.sampled_from(CHILDREN)),
        loss=st.integers(0, 3),
    )
    def connect(self, connection: str, names: set[str], loss: int) -> None:
        self.connect_now(connection, names, loss)

    def connect_now(self, connection: str, names: set[str], loss: int) -> None:
        ike = Ike(connection, next(self.numbers))
        self.ikes.append(ike)
        self.tell(loss, self.feed.ike_up, ike.record(children=False))
        for name in sorted(names):
            child = self.new_child(name)
            ike.children.append(child)
            self.tell(loss, self.feed.child_up, replace(ike.record(False), children=(child.record(),)))

    @invariant()
    def traffic_flows(self) -> None:
        """After every step each SA that can carries some octets more."""
        self.steps += 1
        for ike in self.ikes:
            for child in ike.children:
                if child.state in ("INSTALLED", "REKEYED") and ike.state == "ESTABLISHED":
                    self.carry(ike, child, 100 + child.uniqueid, 1)

    def carry(self, ike: Ike, child: Child, octets: int, packets: int) -> None:
        for name in COUNTS:
            grown = octets if "octets" in name else packets
            child.counts[name] += grown
            truth = self.truth.setdefault((ike.name, child.name), dict.fromkeys(COUNTS, 0))
            truth[name] += grown
        ike.octets += octets

    @precondition(lambda self: self.live_children())
    @rule(data=st.data(), loss=st.integers(0, 3))
    def rekey_child(self, data: st.DataObject, loss: int) -> None:
        live = self.live_children()
        ike, old = data.draw(st.sampled_from(live))
        new = self.new_child(old.name)
        ike.children.append(new)
        old.state = "REKEYED"
        self.tell(loss, self.feed.child_rekeyed, ike.record(False), old.record(), new.record())

    @precondition(lambda self: any(c.state == "REKEYED" for ike in self.ikes for c in ike.children))
    @rule(data=st.data(), zeros=st.booleans())
    def deleted_but_listed(self, data: st.DataObject, zeros: bool) -> None:
        """A rekeyed child is deleted and stays listed for a while; its counts were told, or are told from now on."""
        old = [child for ike in self.ikes for child in ike.children if child.state == "REKEYED"]
        child = data.draw(st.sampled_from(old))
        self.final_counts(child)
        child.state, child.zeros = "DELETED", zeros

    def final_counts(self, child: Child) -> None:
        """What came in after the last word about an SA that ends without an event cannot be known by anyone."""
        self.listing = None  # it might know more
        for ike in self.ikes:
            if child in ike.children:
                known = self.feed.children.get(child.record().key) or self.feed._ended_children.get(
                    child.record().key
                )
                told = known.counts if known else dict.fromkeys(COUNTS, 0)
                truth = self.truth.setdefault((ike.name, child.name), dict.fromkeys(COUNTS, 0))
                for name in COUNTS:
                    truth[name] -= child.counts[name] - told.get(name, 0)
                    child.counts[name] = told.get(name, 0)

    @precondition(lambda self: any(c.state == "DELETED" for ike in self.ikes for c in ike.children))
    @rule()
    def deleted_ones_vanish(self) -> None:
        for ike in self.ikes:
            ike.children = [child for child in ike.children if child.state != "DELETED"]
        self.ikes = [ike for ike in self.ikes if ike.state != "REKEYED"]

    @precondition(lambda self: any(ike.state == "ESTABLISHED" for ike in self.ikes))
    @rule(data=st.data(), loss=st.integers(0, 3))
    def rekey_ike(self, data: st.DataObject, loss: int) -> None:
        live = [ike for ike in self.ikes if ike.state == "ESTABLISHED"]
        old = data.draw(st.sampled_from(live))
        new = Ike(old.name, next(self.numbers))
        new.children, old.children = old.children, []
        self.ikes.append(new)
        self.tell(
            loss, self.feed.ike_rekeyed, replace(old.record(False), state="REKEYING"), new.record(False)
        )
        old.state = "REKEYED"

    @precondition(lambda self: self.live_children())
    @rule(data=st.data(), loss=st.integers(0, 3))
    def child_down(self, data: st.DataObject, loss: int) -> None:
        live = self.live_children()
        ike, child = data.draw(st.sampled_from(live))
        ike.children.remove(child)
        final = replace(ike.record(False), children=(child.record("DELETED"),))
        self.tell(loss, self.feed.child_down, final)
        self.told_down.add(child.uniqueid)

    @precondition(lambda self: any(ike.state == "ESTABLISHED" for ike in self.ikes))
    @rule(data=st.data(), loss=st.integers(0, 3))
    def ike_down(self, data: st.DataObject, loss: int) -> None:
        live = [ike for ike in self.ikes if ike.state == "ESTABLISHED"]
        ike = data.draw(st.sampled_from(live))
        for child in ike.children:
            if child.state == "REKEYED":
                self.final_counts(child)
            elif child.state == "INSTALLED":
                self.tell(loss, self.feed.child_down, replace(ike.record(False), children=(child.record(),)))
        self.ikes.remove(ike)
        self.tell(loss, self.feed.ike_down, replace(ike.record(False), state="DELETING"))

    @precondition(lambda self: self.steps > 20 and not self.feed.source.restarts)
    @rule()
    def restart(self) -> None:
        self.lost_any = True  # what was not polled before the end is unknown
        self.ikes.clear()
        self.listing = None
        self.feed.restarted()

    # --- polls --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.listing is None)
    @rule()
    def ask(self) -> None:
        self.listing = (self.feed.begin_listing(), [ike.record() for ike in self.ikes])

    @precondition(lambda self: self.listing is not None)
    @rule()
    def answer(self) -> None:
        assert self.listing is not None
        token, records = self.listing
        self.listing = None
        self.feed.apply_listing(token, records)

    @rule()
    def poll(self) -> None:
        self.listing = None
        self.feed.apply_listing(self.feed.begin_listing(), [ike.record() for ike in self.ikes])
        self.after_poll()

    def after_poll(self) -> None:
        alive = {(ike.name, child.name) for ike, child in self.live_children()}
        shown = {(t.connection, t.child) for t in self.feed.rows.tunnels.values() if t.up}
        # a rekeyed one whose successor is gone may still be up
        assert alive <= shown
        for ike, child in self.live_children():
            sa = self.feed.children[child.record().key]
            assert sa.counts == child.counts
            assert sa.ike.record.uniqueid == ike.uniqueid
        if not self.lost_any:
            for key, truth in self.truth.items():
                (row,) = [t for t in self.gateway.tunnels.values() if (t.connection, t.child) == key] or [
                    None
                ]
                if row is None:
                    assert not any(truth.values())
                    continue
                assert {name: row.totals.get(name, 0) for name in COUNTS} == truth

    @rule(seconds=st.floats(0, 50))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.gateway.tick()

    # --- what must hold at any time -----------------------------------------------------------------------------------

    def only_grows(self, kind: str, values: dict[object, int]) -> None:
        before = self.seen.setdefault(kind, {})
        for key, value in values.items():
            assert value >= before.get(key, 0), f"{kind} {key} fell from {before[key]} to {value}"
        before.update(values)

    @invariant()
    def totals_never_fall(self) -> None:
        gateway = self.gateway
        for row in gateway.tunnels.values():
            self.only_grows("tunnel", {(row.key, name): value for name, value in row.totals.items()})
            self.only_grows("refreshes", {row.key: row.refreshes})
            self.only_grows("expired", {row.key: row.expired})
        self.only_grows("all", dict(self.feed.source.child_totals))
        self.only_grows("ike", dict(self.feed.source.ike_totals))
        self.only_grows(
            "model",
            {
                "previous": gateway.previous_tunnels,
                "previous ike": gateway.previous_ike_tunnels,
                "sas": gateway.esp_sas,
            },
        )

    @invariant()
    def sums_agree(self) -> None:
        for name in COUNTS:
            total = sum(row.totals.get(name, 0) for row in self.feed.rows.tunnels.values())
            assert total == self.feed.source.child_totals.get(name, 0)

    @invariant()
    def identities_keep_their_index(self) -> None:
        rows = list(self.gateway.tunnels.values()) + list(self.gateway.ike_tunnels.values())
        for row in rows:
            key = (type(row).__name__, *row.key)
            assert self.indexes.setdefault(key, row.index) == row.index
        for row in self.gateway.tunnels.values():
            assert self.gateway.tunnels[row.index] is row
            assert self.gateway.ike_tunnels[row.ike.index] is row.ike
            assert row in row.ike.tunnels

    @invariant()
    def rows_and_sas_agree(self) -> None:
        for row in self.gateway.tunnels.values():
            if row not in self.feed.rows.held:
                assert row.up == any(sa.live for sa in row.sas.values())
            assert (row.up_since is not None) == row.up
            if row.source is self.feed.source:
                assert all(self.feed.children[sa.record.key] is sa for sa in row.sas.values())
        for sa in self.feed.children.values():
            assert sa.tunnel.sas[sa.record.key] is sa
            assert self.feed.ike[sa.ike.record.key] is sa.ike
        for row in self.gateway.ike_tunnels.values():
            if row.source is self.feed.source:
                assert row.sa is None or self.feed.ike[row.sa.record.key] is row.sa

    @invariant()
    def counts_are_what_counting_gives(self) -> None:
        gateway = self.gateway
        assert gateway.active_tunnels == sum(row.active for row in gateway.tunnels.values())
        assert gateway.active_ike_tunnels == sum(row.active for row in gateway.ike_tunnels.values())
        shown = list(gateway.children())
        assert gateway.current_sas("esp_in") == gateway.current_sas("esp_out") == len(shown)
        assert gateway.current_sas("ah_in") == gateway.current_sas("ipcomp_out") == 0

    @invariant()
    def stamps_change_with_values(self) -> None:
        gateway = self.gateway
        values = {
            "tunnel": [
                (
                    t.index,
                    t.ike.index,
                    t.active,
                    dict(t.totals),
                    t.refreshes,
                    t.expired,
                    t.last and t.last.record.key,
                )
                for t in gateway.tunnels.values()
            ],
            "ike": [
                (t.index, t.active, dict(t.totals), t.refreshes, t.record and t.record.uniqueid)
                for t in gateway.ike_tunnels.values()
            ],
            "spi": [(sa.record.key, sa.tunnel.index, sa.number, sa.expiring) for sa in gateway.children()],
            "sa": [(sa.record.key, dict(sa.counts)) for sa in gateway.children()],
            "endpoint": [(t.index, [pair.index for pair in t.pairs]) for t in gateway.tunnels.values()],
            "selector": sorted(pair.index for pair in gateway.selector_pairs.values()),
        }
        for domain, value in values.items():
            stamp = gateway.generation(domain)
            before = self.cells.get(domain)
            if before is not None and before[0] == stamp:
                assert before[1] == value, f"{domain} changed without a new stamp"
            self.cells[domain] = (stamp, value)

    @invariant()
    def what_ended_does_not_come_back(self) -> None:
        if not self.lossy:
            assert not self.told_down & {sa.record.uniqueid for sa in self.feed.children.values()}

    @invariant()
    def nothing_is_down_in_a_rekey(self) -> None:
        if self.lost_any or self.lossy:
            return
        for ike, child in self.live_children():
            rows = [
                t for t in self.gateway.tunnels.values() if (t.connection, t.child) == (ike.name, child.name)
            ]
            assert rows
            assert all(row.up and row.ike.active for row in rows)


class LossyLife(Life):
    """Any event may be lost; listings make up for it."""

    lossy = True

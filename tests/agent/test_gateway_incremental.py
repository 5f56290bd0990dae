"""Tables that follow the model's changes always equal tables that are read from nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from ipaddress import ip_address
from typing import Any

from gateway_lives import CHILDREN, CONNECTIONS, LAN, Ike, LossyLife
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from agent.gateway import Selector
from agent.gateway.counters import CHILD_COUNTS, IKE_COUNTS
from agent.gateway.records import ConfiguredChild, ConnectionRecord
from agent.smi.background import Background
from agent.smi.bound import BoundScalar, Leaf, bind
from agent.smi.counters import SmiCounters
from agent.smi.store import ContextStore
from agent.tables import cisco_ipsec_flow_monitor, ipsec_gateway, ipsec_sa_mon
from mibs import load

HOSTS = ("192.0.2.2", "192.0.2.3", "2001:db8::4")
ALL = 10_000


@cache
def leaves() -> tuple[Leaf, ...]:
    mibs = load()
    modules = (cisco_ipsec_flow_monitor, ipsec_gateway, ipsec_sa_mon)
    found = [leaf for module in modules for leaf in bind(module.binding(), mibs).leaves]
    return tuple(sorted(found, key=lambda leaf: leaf.oid))


def store(model: Any, counters: SmiCounters | None = None) -> ContextStore:
    return ContextStore("", model, leaves(), counters or SmiCounters(), Background())


def cells(context: ContextStore) -> dict[str, list[bytes]]:
    found = {}
    for leaf, leaf_store in zip(leaves(), context.stores, strict=True):
        if isinstance(leaf, BoundScalar) or not leaf.binding.volatile:
            found[leaf.object.name] = leaf_store.cells(None, ALL)[0]
    return found


class Watched(LossyLife):
    """A life in which everything happens that changes a cell, with managers that look at random moments.

    Beside the source of the lossy life there is one that comes and goes. Listings are taken in step by step, with
    events in between.
    """

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.lost_any = True
        self.counters = SmiCounters()
        self.steps_left: Iterator[None] | None = None
        self.others: dict[int, Ike] = {}
        self.contexts: dict[str, tuple[Any, ContextStore]] = {}
        self.look_at("")
        self.look_at("w")

    def look_at(self, name: str) -> None:
        model = self.gateway.view_of(name) if name else self.gateway
        self.contexts[name] = (model, store(model, self.counters))

    # --- listings in steps --------------------------------------------------------------------------------------------

    def finish(self) -> None:
        if self.steps_left is not None:
            for _ in self.steps_left:
                pass
            self.steps_left = None

    @precondition(lambda self: self.listing is None and self.steps_left is None)
    @rule()
    def ask(self) -> None:
        self.listing = (self.feed.begin_listing(), [ike.record() for ike in self.ikes])

    @precondition(lambda self: self.listing is not None and self.steps_left is None)
    @rule()
    def answer(self) -> None:
        assert self.listing is not None
        token, records = self.listing
        self.listing = None
        self.steps_left = self.feed.applying(token, records)

    @precondition(lambda self: self.steps_left is not None)
    @rule(count=st.integers(1, 12))
    def some_steps(self, count: int) -> None:
        for _ in range(count):
            if next(self.steps_left, ALL) == ALL:  # type: ignore[arg-type, comparison-overlap]
                self.steps_left = None
                break

    @precondition(lambda self: self.steps_left is not None)
    @rule()
    def given_up(self) -> None:
        """The connection was lost, or the source is taken away, in the middle of a listing."""
        self.steps_left.close()  # type: ignore[union-attr]
        self.steps_left = None
        self.rows_and_sas_agree()
        assert not self.feed.rows.held

    @rule()
    def poll(self) -> None:
        self.finish()
        super().poll()

    @precondition(lambda self: self.steps > 5)
    @rule()
    def restart(self) -> None:
        self.finish()
        self.lost_any = True
        self.ikes.clear()
        self.listing = None
        self.steps_left = self.feed.restarting()

    # --- what else changes cells --------------------------------------------------------------------------------------

    @precondition(lambda self: self.ikes)
    @rule(data=st.data(), host=st.sampled_from(HOSTS), loss=st.integers(0, 3))
    def move(self, data: st.DataObject, host: str, loss: int) -> None:
        ike = data.draw(st.sampled_from(self.ikes))
        ike.host = host
        self.tell(loss, self.feed.ike_updated, ike.record(children=False))

    @rule(seconds=st.sampled_from((1.0, 100.0, 5000.0)), again=st.booleans())
    def silence(self, seconds: float, again: bool) -> None:
        self.feed.lost("no answer")
        self.now += seconds
        self.gateway.tick()
        if again:
            self.feed.contact()

    @rule()
    def heard(self) -> None:
        self.feed.contact()
        self.gateway.tick()

    @rule(names=st.sets(st.sampled_from((*CONNECTIONS, "c"))), auth=st.sampled_from(("psk", "rsa")))
    def configure(self, names: set[str], auth: str) -> None:
        self.feed.apply_connections(
            ConnectionRecord(
                name,
                remote_host=ip_address(HOSTS[0]),
                remote_id=f"sun-{name}",
                remote_auth=auth,
                children=tuple(
                    ConfiguredChild(child, "TRANSPORT", LAN, (Selector.network("10.2.0.0/16"),))
                    for child in CHILDREN
                ),
            )
            for name in sorted(names)
        )

    @rule(epoch=st.sampled_from((None, "e")), provides=st.booleans())
    def another_daemon(self, epoch: str | None, provides: bool) -> None:
        self.feed.source.epoch = epoch
        if provides:
            self.feed.source.provides(frozenset(CHILD_COUNTS), frozenset(IKE_COUNTS))

    # --- another source -----------------------------------------------------------------------------------------------

    @precondition(lambda self: "v" not in self.gateway.feeds)
    @rule(watched=st.booleans())
    def add_other(self, watched: bool) -> None:
        self.gateway.add_source("v", "vici", "/v")
        if watched:
            self.look_at("v")

    @precondition(lambda self: "v" in self.gateway.feeds)
    @rule(name=st.sampled_from(CONNECTIONS), child=st.sampled_from(CHILDREN))
    def connect_other(self, name: str, child: str) -> None:
        feed = self.gateway.feeds["v"]
        feed.contact()
        ike = Ike(name, next(self.numbers))
        ike.children.append(self.new_child(child))
        self.others[ike.uniqueid] = ike
        feed.child_up(ike.record())

    @precondition(lambda self: self.others)
    @rule(data=st.data())
    def disconnect_other(self, data: st.DataObject) -> None:
        ike = self.others.pop(data.draw(st.sampled_from(sorted(self.others))))
        self.gateway.feeds["v"].ike_down(replace(ike.record(), state="DELETING"))

    @precondition(lambda self: "v" in self.gateway.feeds)
    @rule()
    def remove_other(self) -> None:
        self.contexts.pop("v", None)
        self.others.clear()
        self.gateway.remove_source("v")

    # --- what must hold -----------------------------------------------------------------------------------------------

    def sums_agree(self) -> None:
        """Not here: rows expire and take their part of the sum along."""

    def totals_never_fall(self) -> None:
        """Not here: a row that comes back after it had expired counts from zero."""

    @rule(name=st.sampled_from(("", "w", "v")))
    def compare(self, name: str) -> None:
        if name in self.contexts:
            model, followed = self.contexts[name]
            expected = cells(store(model))
            found = cells(followed)
            for column, values in expected.items():
                assert found[column] == values, f"{column} of context {name!r} is stale"

    def teardown(self) -> None:
        if hasattr(self, "contexts"):
            self.finish()
            for name in list(self.contexts):
                self.compare(name)
            assert not self.counters.getter_errors
            assert not self.counters.values_outside_syntax


def test_followed_tables_equal_tables_read_anew() -> None:
    limits = settings(
        max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Watched, settings=limits)

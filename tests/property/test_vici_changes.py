"""A client that applies deltas of changed-since always has what a full listing shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from vici_support.client import Client
from vici_support.fake import Gateway, child_view, ike_view
from vici_support.mirror import Mirror

from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.vici import changes


class DeltasEqualFullLists(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.gateway = Gateway()
        log = changes.ChangeLog(self.gateway.endpoint, self.gateway.stack.touched, [], remembered=2)  # type: ignore[arg-type]
        self.gateway.server.changes = log
        self.mirrors = [Mirror(self.gateway), Mirror(self.gateway)]
        self.number = 0
        self.policies: list[SpdEntry] = []

    def _next(self) -> int:
        self.number += 1
        return self.number

    def _pick(self, index: int) -> Any:
        sas = list(self.gateway.endpoint.sas.values())
        return sas[index % len(sas)] if sas else None

    def _index(self, view: Any) -> None:
        """Counters exist for what is installed."""
        for child in view.children:
            for sa in (child.inbound, child.outbound):
                if sa is not None and sa not in self.gateway.dataplane.live:
                    self.gateway.dataplane.traffic(sa, 0)

    @rule(children=st.integers(0, 3))
    def ike_up(self, children: int) -> None:
        view = ike_view(self._next(), children=[child_view(self._next()) for _ in range(children)])
        self.gateway.endpoint.put(view)
        self._index(view)

    @rule(index=st.integers(0, 20), state=st.sampled_from(["ESTABLISHED", "REKEYING", "DELETING"]))
    def ike_changes(self, index: int, state: str) -> None:
        if view := self._pick(index):
            self.gateway.endpoint.put(replace(view, state=state))

    @rule(index=st.integers(0, 20))
    def ike_down(self, index: int) -> None:
        if view := self._pick(index):
            self.gateway.endpoint.drop(view.uniqueid)

    @rule(index=st.integers(0, 20))
    def child_up(self, index: int) -> None:
        if view := self._pick(index):
            view = replace(view, children=(*view.children, child_view(self._next())))
            self.gateway.endpoint.put(view)
            self._index(view)

    @rule(index=st.integers(0, 20), which=st.integers(0, 5))
    def child_down(self, index: int, which: int) -> None:
        view = self._pick(index)
        if view and view.children:
            gone = which % len(view.children)
            kept = tuple(c for i, c in enumerate(view.children) if i != gone)
            self.gateway.endpoint.put(replace(view, children=kept))

    @rule(
        index=st.integers(0, 20),
        which=st.integers(0, 5),
        state=st.sampled_from(["INSTALLED", "REKEYED", "DELETED"]),
    )
    def child_changes(self, index: int, which: int, state: str) -> None:
        view = self._pick(index)
        if view and view.children:
            at = which % len(view.children)
            kids = tuple(replace(c, state=state) if i == at else c for i, c in enumerate(view.children))
            self.gateway.endpoint.put(replace(view, children=kids))

    @rule(index=st.integers(0, 20), new_first=st.booleans())
    def ike_rekey_moves_children(self, index: int, new_first: bool) -> None:
        if view := self._pick(index):
            successor = replace(view, uniqueid=self._next())
            empty = replace(view, children=(), state="DELETING")
            for each in (successor, empty) if new_first else (empty, successor):
                self.gateway.endpoint.put(each)

    @rule(index=st.integers(0, 20), which=st.integers(0, 5), out=st.booleans())
    def traffic(self, index: int, which: int, out: bool) -> None:
        view = self._pick(index)
        if view and view.children:
            child = view.children[which % len(view.children)]
            self.gateway.dataplane.traffic(child.outbound if out else child.inbound, 84, last_used=999.0)

    @rule(
        name=st.sampled_from(["a/x", "a/y", "b/z"]), action=st.sampled_from(list(Action)), trap=st.booleans()
    )
    def policy_up(self, name: str, action: Action, trap: bool) -> None:
        ts = (TrafficSelector.from_text("10.0.0.0/8"),)
        entry = SpdEntry(name, action, ts, ts, 10, trap=trap and action is Action.PROTECT)
        self.gateway.stack.add_policy(entry)
        self.policies.append(entry)

    @precondition(lambda self: self.policies)
    @rule(index=st.integers(0, 20))
    def policy_down(self, index: int) -> None:
        self.gateway.stack.remove_policy(self.policies.pop(index % len(self.policies)))

    @rule(remember=st.sampled_from([0, 10**6]))
    def endpoint_forgets(self, remember: int) -> None:
        self.gateway.endpoint.remember = remember

    @rule()
    def second_client_polls(self) -> None:
        """At its own pace: it may miss so much that it is given a full list."""
        self.mirrors[1].poll()
        self._compare(self.mirrors[1])

    @invariant()
    def first_client_polls(self) -> None:
        self.mirrors[0].poll()
        self._compare(self.mirrors[0])

    def _compare(self, mirror: Mirror) -> None:
        fresh = Mirror(self.gateway)
        fresh.poll()
        fresh.client.session.close("")
        assert mirror.shown() == fresh.shown()
        live = {
            str(v.uniqueid): {str(c.uniqueid) for c in v.children} for v in self.gateway.endpoint.sas.values()
        }
        assert {
            uid: {c["uniqueid"] for c in kids.values()} for uid, (_, kids) in mirror.shown()[0].items()
        } == live

    def teardown(self) -> None:
        assert self.gateway.server.counters.internal_errors == 0


DeltasEqualFullLists.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestDeltasEqualFullLists = DeltasEqualFullLists.TestCase


def test_a_poll_costs_what_changed() -> None:
    """1,000 IKE SAs, one of them with traffic: one event, one child."""
    gateway = Gateway()
    for number in range(1000):
        gateway.endpoint.put(
            ike_view(number + 1, children=[child_view(5000 + number), child_view(9000 + number)])
        )
    mirror = Mirror(gateway)
    mirror.poll()
    assert len(mirror.ikes) == 1000
    touched = child_view(5500)
    gateway.dataplane.traffic(touched.inbound, 100)  # type: ignore[arg-type]
    before = len(mirror.client.raw)
    listed, reply = mirror.client.stream("list-sas", "list-sa", mirror.sas_stamp)
    assert [m["psk2"]["uniqueid"] for m in listed] == ["501"]
    assert list(listed[0]["psk2"]["child-sas"]) == ["gcm-5500"]
    assert listed[0]["psk2"]["child-ids"] == ["5500", "9500"]
    assert "full" not in reply
    assert len(mirror.client.raw) - before < 4000
    calls = []
    original = gateway.endpoint.ike_sas
    gateway.endpoint.ike_sas = lambda: calls.append(1) or original()  # type: ignore[method-assign]
    listed, reply = mirror.client.stream(
        "list-sas", "list-sa", {"changed-since": reply["generation"], "epoch": reply["epoch"]}
    )
    assert (listed, calls) == ([], [])


def test_nothing_of_ended_sas_is_kept() -> None:
    """A thousand rekeyings leave no more behind than what is remembered on purpose."""
    gateway = Gateway()
    log = changes.ChangeLog(gateway.endpoint, gateway.stack.touched, [], remembered=10)  # type: ignore[arg-type]
    for number in range(1000):
        gateway.endpoint.put(ike_view(1, children=[child_view(10 + number), child_view(11 + number)]))
        log.refresh()
    gateway.endpoint.put(ike_view(1, children=[child_view(1010, inbound=None, outbound=None)]))
    log.refresh()
    assert (len(log._owners), len(log._parents), len(log._ikes)) == (0, 1, 1)
    assert len(log.ike_sas(log.stamp - 8).gone_child) == 8
    gateway.endpoint.drop(1)
    log.refresh()
    assert (len(log._owners), len(log._parents), len(log._ikes)) == (0, 0, 0)


def test_who_was_away_too_long_gets_everything() -> None:
    gateway = Gateway()
    gateway.server.changes = changes.ChangeLog(gateway.endpoint, gateway.stack.touched, [], remembered=2)  # type: ignore[arg-type]
    for number in range(5):
        gateway.endpoint.put(ike_view(number))
    mirror = Mirror(gateway)
    mirror.poll()
    for number in range(3):
        gateway.endpoint.drop(number)
        gateway.server.changes.refresh()
    mirror.poll()
    assert (sorted(mirror.ikes), mirror.fulls) == (["3", "4"], 2)


def test_another_epoch_or_a_generation_of_the_future_gets_everything() -> None:
    gateway = Gateway()
    gateway.fill()
    client = Client(gateway)
    for question in (
        {},
        {"changed-since": "1", "epoch": "other"},
        {"changed-since": "1"},
        {"changed-since": "99", "epoch": "4711"},
    ):
        listed, reply = client.stream("list-sas", "list-sa", question)
        assert (len(listed), reply["full"]) == (2, "yes"), question
    for bad in ("-1", "x", "1.5", ""):
        reply = client.request("list-sas", {"changed-since": bad, "epoch": "4711"})
        assert reply.get("success", "no") == "no" or bad == ""

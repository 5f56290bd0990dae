"""Generations of SAs come and go without the collector's help, and the change logs do not grow with them."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

import pytest
from gateway_lives import Child, Ike

from agent import memory
from agent.gateway import Gateway, changes
from agent.gateway.changes import FEW, SUBJECTS, ChangeLog, Domain
from agent.gateway.indexes import IndexRegistry
from agent.gateway.model import GatewaySettings
from agent.smi.background import Background
from agent.smi.bound import bind
from agent.smi.counters import SmiCounters
from agent.smi.store import ContextStore
from agent.tables import cisco_ipsec_flow_monitor, ipsec_sa_mon
from mibs import load

MODEL = ("ChildSa", "IkeSa", "Tunnel", "IkeTunnel", "SelectorPair", "ChildRecord", "IkeRecord")


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def living() -> Counter[str]:
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing).__name__ in MODEL)


class World:
    """A gateway whose peers come, rekey, move to another selector and leave, watched by a manager."""

    def __init__(self) -> None:
        self.now = 0.0
        settings = GatewaySettings(retain=100, stale_after=50)
        self.gateway = Gateway(lambda: self.now, lambda: self.now, settings, IndexRegistry())
        self.feed = self.gateway.add_source("w", "vici", "/w")
        self.feed.contact()
        mibs = load()
        bound = [bind(module.binding(), mibs) for module in (cisco_ipsec_flow_monitor, ipsec_sa_mon)]
        leaves = sorted((leaf for module in bound for leaf in module.leaves), key=lambda leaf: leaf.oid)
        self.store = ContextStore("", self.gateway, leaves, SmiCounters(), Background())
        self.numbers = iter(range(1, 10**9))

    def child(self) -> Child:
        return Child("net", next(self.numbers), {"octets_in": 5})

    def generation(self, number: int) -> None:
        feed = self.feed
        ike = Ike(f"peer{number}", next(self.numbers))
        old = self.child()
        ike.children.append(old)
        feed.child_up(ike.record())
        new = self.child()
        feed.child_rekeyed(ike.record(children=False), old.record("REKEYED"), new.record())
        after = Ike(ike.name, next(self.numbers))
        feed.ike_rekeyed(ike.record(children=False), after.record(children=False))
        after.children = [new]
        feed.apply_listing(feed.begin_listing(), [after.record()])
        self.read()
        if number % 3 == 0:
            feed.apply_listing(feed.begin_listing(), [])
        elif number % 3 == 1:
            feed.ike_down(after.record())
        else:
            feed.restarted()
        self.now += 40
        self.gateway.tick()
        self.read()

    def read(self) -> None:
        for leaf in self.store.stores:
            leaf.run(None, 50, 10_000)


def test_what_left_is_freed_at_once(no_collector: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "FEW", 10)
    world = World()
    for number in range(60):
        world.generation(number)
    before = living()
    for number in range(60, 330):
        world.generation(number)
    found = gc.collect()
    after = living()
    assert found < 50, f"{found} objects were only to be freed by the collector"
    for name, count in after.items():
        assert count <= before[name] + 20, name


def test_a_source_that_is_removed_leaves_nothing(no_collector: None) -> None:
    world = World()
    world.gateway.remove_source("w")
    gc.collect()
    before = living()
    for number in range(20):
        feed = world.gateway.add_source("w", "vici", "/w")
        feed.contact()
        for peer in range(20):
            ike = Ike(f"peer{number}-{peer}", next(world.numbers))
            ike.children.append(world.child())
            feed.child_up(ike.record())
        world.read()
        world.gateway.remove_source("w")
        world.read()
        del feed, ike
    gc.collect()
    assert living() == before
    assert not world.gateway.tunnels
    assert not world.gateway.selector_pairs


class Thing:
    def __init__(self) -> None:
        self.alive = True


def test_a_log_is_bounded_and_who_reads_too_late_is_told_so() -> None:
    domain = Domain()
    log = ChangeLog(domain)
    log.mark(Thing())
    assert not len(log)  # nobody has asked yet
    domain.asked = True
    start = domain.stamp
    living = [Thing() for _ in range(1000)]
    for number in range(40 * FEW):
        thing = Thing()
        log.mark(thing)
        log.mark(living[number % len(living)])
        thing.alive = False
        log.mark_gone(thing)
        if number % 10 == 0:
            assert log.since(domain.stamp) == {}
        if number % 1000 == 0:
            log.trim()
            assert len(log) < 6 * FEW
    assert log.since(start) is None
    now = domain.stamp
    log.since(now)
    late = Thing()
    log.mark(late)
    log.mark(late)
    assert log.since(now) == {late: None}


def test_each_reader_is_told_what_changed_since_it_read() -> None:
    domain = Domain()
    log = ChangeLog(domain)
    domain.asked = True
    things = [Thing() for _ in range(300)]
    stamps: list[tuple[int, int]] = []
    for number, thing in enumerate(things):
        stamps.append((domain.stamp, number))
        log.mark(thing)
        if number % 7 == 0:
            log.since(domain.stamp)
    for stamp, number in stamps:
        told = log.since(stamp)
        assert told is not None
        assert set(things[number:]) <= set(told)


def test_all_domains_with_subjects_have_a_log() -> None:
    gateway = World().gateway
    for domain in SUBJECTS:
        assert gateway.changes(domain, gateway.generation(domain)) is not None
        list(gateway.subjects(domain))
    assert gateway.changes("source", 0) is None
    assert gateway.changes("no such", 0) is None


def test_the_collector_is_left_as_it_was() -> None:
    before = gc.get_threshold()
    now = [0.0]
    policy = memory.Policy(lambda: now[0])
    policy.tick()
    assert gc.get_threshold() == before
    policy.start()
    try:
        assert gc.get_threshold() == memory.YOUNG
        frozen = gc.get_freeze_count()
        assert frozen
        kept = [[number] for number in range(200_000)]
        policy.tick()
        assert gc.get_freeze_count() >= frozen + len(kept)
        del kept
        assert gc.get_freeze_count() < frozen + 100_000  # freed by their counts although frozen
        loop: list[object] = []
        loop.append(loop)
        del loop
        now[0] += memory.INTERVAL
        policy.tick()
        assert gc.collect() == 0
    finally:
        policy.stop()
    assert gc.get_threshold() == before
    assert not gc.get_freeze_count()

"""The model's decisions one by one: identity, rekeys, configuration, staleness, numbering."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from agent.gateway import (
    ChildRecord,
    ConnectionRecord,
    FailureRecord,
    Gateway,
    IkeRecord,
    Selector,
    SourceStatus,
)
from agent.gateway.counters import DaemonCounts, advance
from agent.gateway.feed import Feed
from agent.gateway.indexes import IndexRegistry, IndexTable
from agent.gateway.model import GatewaySettings
from agent.gateway.records import ConfiguredChild
from agent.gateway.selectors import covered
from agent.gateway.tunnels import Tunnel


def net(text: str) -> tuple[Selector, ...]:
    return (Selector.network(text),)


def child(uniqueid: int, octets: int = 0, **changes: Any) -> ChildRecord:
    record = ChildRecord(
        name="net",
        uniqueid=uniqueid,
        state="INSTALLED",
        protocol="ESP",
        mode="TUNNEL",
        spi_in=0x100 + uniqueid,
        spi_out=0x200 + uniqueid,
        encr_alg="AES_GCM_16",
        install_time=5,
        rekey_time=3000,
        life_time=3595,
        local_ts=net("10.1.0.0/24"),
        remote_ts=net("10.2.0.0/24"),
        counts={"octets_in": octets, "octets_out": octets, "packets_in": 1, "packets_out": 1},
    )
    return replace(record, **changes)


def ike(uniqueid: int, *children: ChildRecord, **changes: Any) -> IkeRecord:
    record = IkeRecord(
        name="gw",
        uniqueid=uniqueid,
        version=2,
        state="ESTABLISHED",
        initiator=True,
        initiator_spi=0xA0 + uniqueid,
        responder_spi=0xB0 + uniqueid,
        local_host=ip_address("192.0.2.1"),
        local_id="moon",
        remote_host=ip_address("192.0.2.2"),
        remote_id="sun",
        established=10,
        rekey_time=1000,
        children=children or None,
    )
    return replace(record, **changes)


CONFIGURED = ConnectionRecord(
    "gw",
    local_host=ip_address("192.0.2.1"),
    remote_host=ip_address("192.0.2.2"),
    local_id="moon",
    remote_id="sun",
    remote_auth="psk",
    children=(ConfiguredChild("net", "TUNNEL", net("10.1.0.0/16"), net("10.2.0.0/16")),),
)


class Clock:
    def __init__(self) -> None:
        self.now = 10_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gateway(clock: Clock) -> Gateway:
    return Gateway(clock, lambda: 1e9 + clock.now, GatewaySettings(retain=100, stale_after=30))


@pytest.fixture
def feed(gateway: Gateway) -> Feed:
    feed = gateway.add_source("s", "vici", "/s")
    feed.contact()
    return feed


def listing(feed: Feed, *records: IkeRecord, **options: Any) -> None:
    feed.apply_listing(feed.begin_listing(), records, **options)


def only(gateway: Gateway) -> Tunnel:
    (tunnel,) = gateway.tunnels.values()
    return tunnel


# --- rekeying ---------------------------------------------------------------------------------------------------------


def test_an_ike_rekey_keeps_row_children_and_counts(gateway: Gateway, feed: Feed, clock: Clock) -> None:
    feed.child_up(ike(1, child(1, 100), counts={"octets_in": 700}))
    row, tunnel = only(gateway).ike, only(gateway)
    clock.now += 50
    feed.ike_rekeyed(ike(1, state="REKEYING", counts={"octets_in": 900}), ike(2, counts={"octets_in": 10}))
    assert tunnel.ike is row
    assert row.sa is not None
    assert row.sa.record.uniqueid == 2
    assert (row.refreshes, row.total_sas, row.count("octets_in")) == (1, 2, 910)
    assert row.active_seconds == 60  # without a break
    # The old one is still listed without children, then not any more: neither is an end.
    listing(feed, ike(1, state="REKEYED", children=()), ike(2, child(1, 100)))
    listing(feed, ike(2, child(1, 100)))
    assert row.active
    assert tunnel.active
    assert gateway.previous_ike_tunnels == gateway.previous_tunnels == 0
    assert gateway.ike_initiated == 1


def test_two_ike_sas_of_one_identity_share_the_tunnel(gateway: Gateway, feed: Feed) -> None:
    feed.child_up(ike(1, child(1, 100)))
    feed.child_up(ike(2, child(2, 40)))
    assert len(gateway.ike_tunnels) == 2
    tunnel = only(gateway)
    assert len(tunnel.live_sas) == 2
    assert tunnel.count("octets_in") == 140
    assert tunnel.refreshes == 0
    feed.ike_down(ike(2, state="DELETING"))
    assert tunnel.active
    assert tunnel.ike.sa is not None
    assert tunnel.ike.sa.record.uniqueid == 1
    assert len(gateway.ike_tunnels) == 1


def test_an_ike_sa_that_is_gone_keeps_its_row_while_its_tunnel_has_one(gateway: Gateway, feed: Feed) -> None:
    feed.apply_connections([CONFIGURED])
    feed.child_up(ike(1, child(1)))
    feed.ike_down(ike(1, state="DELETING", reason="timeout"))
    tunnel = only(gateway)
    assert not tunnel.active
    assert tunnel.ike.index in gateway.ike_tunnels
    assert not tunnel.ike.active
    assert tunnel.last_reason == "timeout"
    assert sorted(entry.phase for entry in gateway.history) == [1, 2]
    assert {entry.reason for entry in gateway.history} == {"timeout"}


def test_final_counts_of_events_are_taken(gateway: Gateway, feed: Feed) -> None:
    feed.child_up(ike(1, child(1, 100)))
    feed.child_rekeyed(ike(1), child(1, 150, state="REKEYED"), child(2, 0))
    feed.child_down(ike(1, child(2, 30, state="DELETED", reason="deleted")))
    # A late word about the first one, with zeros: not believed, and its growth would count.
    feed.child_down(ike(1, child(1, 160, state="DELETED", reason="rekeyed")))
    feed.child_down(ike(1, child(1, 0, state="DELETED", reason="rekeyed")))
    tunnel = only(gateway)
    assert tunnel.count("octets_in") == 190
    assert tunnel.refreshes == 1
    assert tunnel.expired == 2
    assert not tunnel.up


def test_a_stale_listing_neither_ends_nor_revives(gateway: Gateway, feed: Feed) -> None:
    feed.child_up(ike(1, child(1)))
    token = feed.begin_listing()
    old = [ike(1, child(1))]
    feed.child_up(ike(2, child(2), name="other"))
    feed.child_down(ike(1, child(1, state="DELETED")))
    feed.apply_listing(token, old)
    assert {(t.connection, t.up) for t in gateway.tunnels.values()} == {("gw", False), ("other", True)}
    listing(feed, ike(1, child(1)), ike(2, child(2), name="other"))  # it lives after all
    assert all(t.up for t in gateway.tunnels.values())
    assert sum(t.count("octets_in") or 0 for t in gateway.tunnels.values()) == 0


def test_what_is_being_deleted_is_not_taken_in(gateway: Gateway, feed: Feed) -> None:
    listing(feed, ike(1, child(1), state="DELETING"), ike(2, child(2, state="DELETED"), name="b"))
    assert not gateway.tunnels
    feed.child_up(ike(3, child(3), name="c"))
    feed.ike_down(ike(3, state="DELETING"))
    listing(feed, ike(3, child(3), name="c", state="DELETING"))  # waits for the peer's answer
    assert not any(t.up for t in gateway.tunnels.values())


def test_partial_listings(gateway: Gateway, feed: Feed) -> None:
    feed.child_up(ike(1, child(1), child(2, name="two", remote_ts=net("10.3.0.0/24"))))
    feed.child_up(ike(5, child(6), name="other"))
    listing(feed, ike(1, child(1, 50), child_ids=frozenset({1, 2})), full=False)
    assert gateway.active_tunnels == 3
    assert gateway.child_total("octets_in") == 50
    listing(feed, ike(1, child_ids=frozenset({1})), full=False)
    assert gateway.active_tunnels == 2
    listing(feed, full=False, gone_ike=[5], gone_children=[6, 999])
    assert gateway.active_tunnels == 1
    assert gateway.active_ike_tunnels == 1


def test_an_ike_sa_told_in_parts(gateway: Gateway, feed: Feed) -> None:
    first, second = child(1), child(2, name="two", remote_ts=net("10.3.0.0/24"))
    listing(feed, ike(1, first), ike(1, second), replace(ike(1), children=()))
    assert gateway.active_tunnels == 2


def test_a_restart_with_the_same_numbers(gateway: Gateway, feed: Feed) -> None:
    feed.child_up(ike(1, child(1, 100)))
    feed.restarted()
    assert not only(gateway).up
    feed.child_up(ike(1, child(1, 5, spi_in=9, spi_out=8), initiator_spi=77))
    assert only(gateway).count("octets_in") == 105
    assert gateway.child_total("octets_in") == 105


def test_addresses_move(gateway: Gateway, feed: Feed) -> None:
    feed.child_up(ike(1, child(1)))
    stamp = gateway.generation("sa")
    feed.ike_updated(ike(1, remote_host=ip_address("203.0.113.9")))
    assert str(only(gateway).remote_host) == "203.0.113.9"
    assert gateway.generation("sa") != stamp


def test_a_listing_older_than_an_ike_rekeying_does_not_take_the_children_back(
    gateway: Gateway, feed: Feed
) -> None:
    feed.child_up(ike(1, child(1, 10)))
    token = feed.begin_listing()
    feed.ike_rekeyed(ike(1), ike(2))
    for _ in feed.applying(token, [ike(1, child(1, 20))]):
        pass
    feed.ike_down(ike(1, state="DELETING"))
    tunnel = only(gateway)
    assert tunnel.up
    assert tunnel.last is not None
    assert tunnel.last.ike.record.uniqueid == 2
    assert tunnel.count("octets_in") == 20
    assert gateway.previous_tunnels == 0


# --- configuration ----------------------------------------------------------------------------------------------------


def test_a_configured_tunnel_is_shown_before_it_is_up_and_claimed_when_it_is(
    gateway: Gateway, feed: Feed
) -> None:
    feed.apply_connections([CONFIGURED])
    tunnel = only(gateway)
    assert not tunnel.active
    assert tunnel.count("octets_in") == 0  # VICI gives octets: none yet is known
    assert tunnel.count("replay_errors_in") is None
    assert tunnel.ike.auth == "psk"
    assert str(tunnel.remote_host) == "192.0.2.2"
    index, ike_index = tunnel.index, tunnel.ike.index
    feed.child_up(ike(1, child(1)))  # narrowed to /24
    assert only(gateway) is tunnel
    assert tunnel.active
    assert (tunnel.index, tunnel.ike.index) == (index, ike_index)
    assert [pair.local.text for pair in tunnel.pairs] == ["10.1.0.0/24"]
    assert len(gateway.selector_pairs) == 1
    # Another narrowing of the same child is another tunnel.
    feed.child_up(ike(1, child(2, remote_ts=net("10.2.9.0/24"))))
    assert len(gateway.tunnels) == 2
    feed.apply_connections([CONFIGURED])
    assert all(t.configured and t.permanent for t in gateway.tunnels.values())


def test_a_removed_configuration_takes_its_rows_along(gateway: Gateway, feed: Feed, clock: Clock) -> None:
    second = replace(CONFIGURED, name="second", remote_id="star")
    feed.apply_connections([CONFIGURED, second])
    assert len(gateway.tunnels) == 2
    feed.child_up(ike(1, child(1)))
    feed.apply_connections([])
    tunnel = only(gateway)  # the one that never was up left at once
    assert tunnel.up
    feed.child_down(ike(1, child(1, state="DELETED")))
    clock.now += 99
    gateway.tick()
    assert only(gateway) is tunnel
    clock.now += 2
    gateway.tick()
    assert not gateway.tunnels
    assert not gateway.selector_pairs
    feed.child_up(ike(2, child(2)))
    assert only(gateway).index == tunnel.index  # back with its number


def test_a_permanent_row_stays_down_for_ever(gateway: Gateway, feed: Feed, clock: Clock) -> None:
    feed.apply_connections([CONFIGURED])
    feed.child_up(ike(1, child(1, 70)))
    feed.ike_down(ike(1, state="DELETING"))
    clock.now += 1e6
    gateway.tick()
    assert only(gateway).count("octets_in") == 70


def test_peers_of_an_open_connection_come_and_go(gateway: Gateway, feed: Feed, clock: Clock) -> None:
    roadwarriors = replace(
        CONFIGURED,
        remote_host=None,
        remote_id=None,
        children=(ConfiguredChild("net", "TUNNEL", net("10.1.0.0/16"), ()),),
    )
    feed.apply_connections([roadwarriors])
    assert not gateway.tunnels
    for number in (1, 2):
        feed.child_up(ike(number, child(number), remote_id=f"peer{number}"))
    assert len(gateway.tunnels) == 2
    feed.apply_connections([roadwarriors])
    feed.ike_down(ike(1, remote_id="peer1", state="DELETING"))
    clock.now += 101
    gateway.tick()
    assert only(gateway).peer == "peer2"


# --- sources ----------------------------------------------------------------------------------------------------------


def test_a_silent_source_goes_stale_then_down_and_comes_back(
    gateway: Gateway, feed: Feed, clock: Clock
) -> None:
    feed.child_up(ike(1, child(1, 10)))
    tunnel = only(gateway)
    clock.now += 7
    feed.contact()
    feed.lost("no answer")
    clock.now += 20
    gateway.tick()
    assert feed.source.status is SourceStatus.STALE
    assert tunnel.active
    assert tunnel.active_seconds == 12  # stands still: nobody knows
    clock.now += 20
    stamp = gateway.generation("spi")
    gateway.tick()
    assert feed.source.status is SourceStatus.DOWN
    assert not tunnel.active
    assert not list(gateway.children())
    assert gateway.generation("spi") != stamp
    assert tunnel.count("octets_in") == 10
    assert gateway.previous_tunnels == 0
    feed.contact()
    assert tunnel.active
    assert tunnel.active_seconds == 52
    assert feed.source.connects == 2


def test_totals_over_sources_and_what_nobody_gives(gateway: Gateway, feed: Feed) -> None:
    other = gateway.add_source("t", "vici", "/t")
    other.contact()
    assert gateway.child_total("octets_in") == 0
    assert gateway.child_total("replay_errors_in") is None
    assert gateway.ike_total("octets_in") is None
    other.source.provides(frozenset({"replay_errors_in"}), frozenset({"octets_in"}))
    assert gateway.child_total("replay_errors_in") == 0
    feed.child_up(ike(1, child(1, 10)))
    other.child_up(ike(1, child(1, 20)))
    assert gateway.child_total("octets_in", "octets_out") == 60
    assert gateway.child_total("octets_in", "padding_errors_in") is None
    assert len(gateway.tunnels) == 2
    gateway.remove_source("t")
    assert only(gateway).source is feed.source
    with pytest.raises(ValueError):
        gateway.add_source("s", "vici", "/s")


def test_failures_are_kept_in_a_ring(clock: Clock) -> None:
    gateway = Gateway(clock, clock, GatewaySettings(failures_size=3))
    feed = gateway.add_source("s", "vici", "/s")
    for number in range(5):
        feed.failed(FailureRecord(1, f"reason {number}"))
    assert [failure.number for failure in gateway.failures] == [3, 4, 5]
    gateway.failures.resize(2)
    assert [failure.record.type for failure in gateway.failures] == ["reason 3", "reason 4"]


# --- small parts ------------------------------------------------------------------------------------------------------


def test_daemon_counts_go_on_after_a_restart() -> None:
    counts = DaemonCounts()
    assert counts.update({"a": 5})
    assert not counts.update({"a": 5})
    counts.update({"a": 3})  # fell: reset-counters
    assert counts.totals == {"a": 8}
    counts.restarted()
    counts.update({"a": 10})
    assert counts.totals == {"a": 18}


def test_counts_never_fall() -> None:
    last = {"a": 5}
    assert advance(last, {"a": 3, "b": 0}) == {"b": 0}
    assert advance(last, {"a": 9}) == {"a": 4}
    assert last == {"a": 9, "b": 0}


def test_selectors() -> None:
    lan = Selector.network("10.1.0.0/24")
    assert lan.text == "10.1.0.0/24"
    assert lan.prefix == 24
    web = Selector(ip_address("10.1.0.5"), ip_address("10.1.0.5"), 6, 80, 80)
    assert (web.text, web.display, web.port) == ("10.1.0.5/32[6/80]", "10.1.0.5/32[tcp/80]", 80)
    odd = Selector(ip_address("10.1.0.5"), ip_address("10.1.0.9"), 17)
    assert (odd.prefix, odd.text, odd.port) == (None, "10.1.0.5..10.1.0.9[17]", 0)
    assert Selector(lan.start, lan.end, 6, 100, 200).port is None
    assert Selector.network("0.0.0.0/0").prefix == 0
    assert Selector.network("fd00::/8").prefix == 8
    assert lan.covers(web)
    assert not web.covers(lan)
    assert covered((web, odd), (lan,))
    assert not covered((Selector.network("fd00::/8"),), (Selector.network("0.0.0.0/0"),))


def test_numbers_are_kept_and_given_again_only_at_the_end() -> None:
    table = IndexTable(maximum=3, keep=10)
    assert [table.number((name,)) for name in "abc"] == [1, 2, 3]
    with pytest.raises(OverflowError):
        table.number(("d",))
    table.end(("b",))
    assert table.number(("b",)) == 2
    table.end(("a",))
    table.end(("c",))
    assert table.number(("d",)) == 1  # the one that ended first makes room
    assert table.number(("c",)) == 3
    assert table.move(("c",), ("e",)) == 3
    assert table.number(("e",)) == 3
    with pytest.raises(KeyError):
        table.move(("d",), ("e",))


def test_numbers_survive_a_restart() -> None:
    registry = IndexRegistry()
    registry.tunnel.number(("s", "gw", "net"))
    registry.tunnel.number(("s", "gw", "two"))
    assert registry.changed
    for number in range(1000):
        registry.selector.number(('a "quoted" one', f"é{number}"))
    text = registry.dump()
    assert not registry.changed
    registry.not_saved()
    assert registry.changed
    again = IndexRegistry()
    again.load(text)
    assert again.selector.number(('a "quoted" one', "é999")) == 1000
    assert again.tunnel.number(("s", "gw", "two")) == 2
    assert again.tunnel.number(("s", "gw", "three")) == 3
    for rubbish in (
        "",
        "[]",
        "{}",
        '{"format": 2, "tables": {}}',
        '{"format": 1, "tables": {"tunnel": [1]}}',
    ):
        with pytest.raises(ValueError):
            IndexRegistry().load(rubbish)


def test_a_known_narrowing_keeps_its_number_after_a_restart(clock: Clock) -> None:
    first = Gateway(clock, clock)
    feed = first.add_source("s", "vici", "/s")
    feed.child_up(ike(1, child(1)))
    number = next(iter(first.tunnels))
    second = Gateway(clock, clock, indexes=IndexRegistry())
    second.indexes.load(first.indexes.dump())
    feed = second.add_source("s", "vici", "/s")
    feed.apply_connections([CONFIGURED])  # a row of its own, with another number, until the SA is seen
    feed.child_up(ike(1, child(1)))
    assert [row.index for row in second.tunnels.values()] == [number]


def test_ended_sas_are_forgotten_in_time(gateway: Gateway, feed: Feed, clock: Clock) -> None:
    for number in range(1, 50):
        feed.child_up(ike(number, child(number, 100)))
        listing(feed)
        clock.now += 60
    # late words are still counted, once; a day's rekeyings are not kept
    feed.child_down(ike(49, child(49, 150)))
    assert gateway.child_total("octets_in") == 48 * 100 + 150
    assert len(feed._ended_ike) <= 6
    assert len(feed._ended_children) <= 6
    clock.now += 400
    gateway.tick()
    assert not feed._ended_ike
    assert not feed._ended_children


def test_an_unknown_domain_never_changes(gateway: Gateway, feed: Feed) -> None:
    before = gateway.generation("no such")
    feed.child_up(ike(1, child(1)))
    assert gateway.generation("no such") == before

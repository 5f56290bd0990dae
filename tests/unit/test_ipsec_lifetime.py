"""Limits of an SA are told once, the hard one ends everything."""

from __future__ import annotations

from math import inf

from ipsecstack.ipsec.lifetime import LifetimeWatch, LimitReached
from ipsecstack.ipsec.sa import Lifetime, Limit


def test_no_limits() -> None:
    watch = LifetimeWatch(Lifetime(), 5.0)
    assert watch.at_time(1e12) == []
    assert watch.at_counts(10**15, 10**15) == []
    assert (watch.next_time, watch.next_octets, watch.next_packets) == (inf, inf, inf)


def test_seconds_count_from_installation() -> None:
    watch = LifetimeWatch(Lifetime(seconds=Limit(10, 20)), 100.0)
    assert watch.next_time == 110.0
    assert watch.at_time(109.9) == []
    assert watch.at_time(110.0) == [LimitReached("seconds", False)]
    assert watch.at_time(111.0) == []
    assert watch.next_time == 120.0
    assert watch.at_time(125.0) == [LimitReached("seconds", True)]
    assert watch.expired
    assert watch.next_time == inf


def test_hard_limit_hides_the_soft_one_it_overtook() -> None:
    watch = LifetimeWatch(Lifetime(packets=Limit(5, 6), octets=Limit(1000, 0)), 0.0)
    assert watch.at_counts(10, 7) == [LimitReached("packets", True)]
    assert watch.at_counts(5000, 8) == []


def test_octets_and_packets_are_told_apart() -> None:
    watch = LifetimeWatch(Lifetime(octets=Limit(100, 200), packets=Limit(3, 0)), 0.0)
    assert watch.at_counts(99, 2) == []
    assert watch.at_counts(100, 3) == [LimitReached("octets", False), LimitReached("packets", False)]
    assert watch.at_counts(199, 4) == []
    assert watch.at_counts(200, 5) == [LimitReached("octets", True)]


def test_only_hard() -> None:
    watch = LifetimeWatch(Lifetime(seconds=Limit(0, 3)), 0.0)
    assert watch.at_time(3) == [LimitReached("seconds", True)]

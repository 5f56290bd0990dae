"""The soak's own arithmetic and judgement: percentiles, slopes, and that a wrong answer is seen as one."""

from __future__ import annotations

import random

import pytest
from soak import truth
from soak.measure import Latencies, slope, table
from soak.pollers import HC_OCTETS, HC_OUT, OCTETS, PACKETS, REFRESHES, STATUS, WRAPS, Poller, Setting, Wrong


def test_percentiles_are_right_within_a_bucket() -> None:
    draw = random.Random(1)
    seconds = [draw.lognormvariate(-6, 1) for _ in range(20_000)]
    latencies = Latencies()
    for value in seconds:
        latencies.add(value)
    seconds.sort()
    for share in (0.5, 0.9, 0.99):
        exact = seconds[int(share * len(seconds))]
        assert latencies.percentile(share) == pytest.approx(exact, rel=0.05)
    assert latencies.percentile(1.0) == latencies.worst == max(seconds)
    assert latencies.count == len(seconds)


def test_histograms_add_up() -> None:
    one, other = Latencies(), Latencies()
    one.add(0.001)
    other.add(1.0)
    one.merge(other)
    assert (one.count, one.worst) == (2, 1.0)
    assert one.percentile(0.5) == pytest.approx(0.001, rel=0.05)
    assert Latencies().text() == "none"


def test_slope() -> None:
    draw = random.Random(2)
    assert slope([(x, 50 + 0.002 * x + draw.uniform(-1, 1)) for x in range(1800)]) == pytest.approx(
        0.002, abs=3e-4
    )
    assert slope([]) == slope([(1, 1)]) == slope([(1, 1), (1, 2)]) == 0


def test_table() -> None:
    assert table([("a", "1"), ("long", "2")]) == "a     1\nlong  2"


def poller() -> Poller:
    import time

    setting = Setting(0, 3, time.monotonic() - 100, 1, 1, 0, (1, 2, 3))
    return Poller("test", setting, lambda report: None)


def row(octets: int, **changes: int) -> dict[int, int]:
    cells = {
        REFRESHES: 2,
        OCTETS: octets % 2**32,
        HC_OCTETS: octets,
        WRAPS: octets >> 32,
        HC_OUT: octets,
        STATUS: 1,
    }
    cells[PACKETS] = octets // truth.PACKET % 2**32
    return {
        **cells,
        **{
            {"status": STATUS, "packets": PACKETS, "wraps": WRAPS, "out": HC_OUT}[k]: v
            for k, v in changes.items()
        },
    }


def test_a_right_row_passes_and_wrong_ones_do_not() -> None:
    judge = poller()
    now = truth.packets(2, 99.5) * truth.PACKET
    judge.row(2, row(now), 99.5)
    judge.row(1, row(truth.packets(1, 99.5) * truth.PACKET), 99.5)  # more than 2**32 octets
    for what, cells in {
        "fell": row(now - 100),
        "more than it has moved": row(now + 100_000),
        "columns disagree": row(now, wraps=1),
        "packets": row(now, packets=1),
        "nobody deleted it": row(now, status=2),
    }.items():
        with pytest.raises(Wrong, match=what):
            judge.row(2, cells, 99.5)
    with pytest.raises(Wrong, match="ago"):
        poller().row(2, row(100), 99.5)
    judge.row(3, row(truth.packets(3, 50) * truth.PACKET, status=2), 99.5)  # one that is deleted now and then

"""The kernel's selectors select what our traffic selectors do: the kernel's comparison, written down, is the judge."""

from __future__ import annotations

import itertools
import random
from ipaddress import ip_address, ip_network

import pytest

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.xfrm.numbers import Way
from ipsecstack.dataplane.xfrm.selectors import blocks, kernel_selectors
from ipsecstack.dataplane.xfrm.structures import Selector
from ipsecstack.ipsec.selectors import TrafficSelector, selects
from ipsecstack.wire.ip import Flow

TS = TrafficSelector.from_text


def kernel_matches(selector: Selector, flow: Flow) -> bool:
    """As net/xfrm compares: prefixes, masked ports (0 where there are none; ICMP's type and code), protocol."""
    if flow.source.version != selector.source.version:
        return False
    if flow.source not in ip_network((selector.source, selector.source_prefix)):
        return False
    if flow.destination not in ip_network((selector.destination, selector.destination_prefix)):
        return False
    if selector.protocol not in (0, flow.protocol):
        return False
    sport, dport = flow.source_port or 0, flow.destination_port or 0
    if flow.protocol in (1, 58, 135):
        sport, dport = sport >> 8, sport & 0xFF
    return not (
        (sport ^ selector.source_port) & selector.source_mask
        or (dport ^ selector.destination_port) & selector.destination_mask
    )


def test_blocks_are_exact_and_few() -> None:
    rng = random.Random(4)
    for low, high in [
        (0, 65535),
        (1, 65535),
        (80, 80),
        (5000, 5010),
        *(sorted(rng.sample(range(65536), 2)) for _ in range(40)),
    ]:
        found = list(blocks(low, high))
        covered = sorted((value, value + (0x10000 - mask) - 1) for value, mask in found)
        covered = [
            (a, b if m else 65535) for (a, b), m in zip(covered, [m for _, m in sorted(found)], strict=True)
        ]
        assert covered[0][0] == low
        assert covered[-1][1] == high
        assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(covered))
        assert len(found) <= 30


CASES = [
    ((TS("10.1.0.0/24"),), (TS("10.2.0.0-10.2.0.77"),)),
    ((TS("10.1.0.0/24[tcp/80-90]"),), (TS("10.2.0.0/24[tcp]"),)),
    ((TS("10.1.0.0/24[tcp/5-1029]"), TS("10.1.0.7[udp/53]")), (TS("10.2.0.0/24"),)),
    ((TS("10.1.0.0/24[1/2048-2303]"),), (TS("10.2.0.0/24[1]"),)),  # ICMP echo requests of any code
    ((TS("10.1.0.0/24[1/770-773]"),), (TS("10.2.0.0/24"),)),  # unreachable, codes 2 to 5
    ((TS("10.1.0.0/24[udp/opaque]"),), (TS("10.2.0.0/24[udp/opaque]"),)),
]


@pytest.mark.parametrize(("local", "remote"), CASES, ids=range(len(CASES)))
def test_the_same_packets(local: tuple[TrafficSelector, ...], remote: tuple[TrafficSelector, ...]) -> None:
    rng = random.Random(1)
    made = {way: kernel_selectors(local, remote, way) for way in (Way.OUT, Way.IN)}
    agreed = 0
    for _ in range(6000):
        here = ip_address("10.1.0.0") + rng.choice([0, 5, 7, 255, 256])
        there = ip_address("10.2.0.0") + rng.choice([0, 76, 77, 78, 255, 256])
        protocol = rng.choice([1, 6, 17, 47])
        ports: tuple[int | None, int | None]
        if protocol == 47:
            ports = (None, None)
        elif protocol == 1:
            both = rng.choice([8, 3, 0]) << 8 | rng.choice([0, 1, 2, 5, 6, 255])
            ports = (both, both)
        else:
            values = [4, 5, 53, 79, 80, 85, 90, 91, 1029, 1030, 65535]
            ports = (rng.choice(values), rng.choice(values)) if rng.random() < 0.9 else (None, None)
        for way in (Way.OUT, Way.IN):
            ends = (here, there) if way is Way.OUT else (there, here)
            flow = Flow(*ends, protocol, *ports)
            expected = selects(local, remote, flow, way is Way.OUT)
            assert any(kernel_matches(s, flow) for s in made[way]) == expected, flow
            agreed += expected
    assert agreed > 20


def test_no_pair_of_one_family() -> None:
    assert kernel_selectors((TS("10.1.0.0/24"),), (TS("fd02::/64"),), Way.OUT) == []
    assert kernel_selectors((TS("10.1.0.0/24[tcp]"),), (TS("10.2.0.0/24[udp]"),), Way.OUT) == []


def test_too_many_are_refused() -> None:
    ragged = tuple(TS(f"10.1.{n}.1-10.1.{n}.254") for n in range(10))
    with pytest.raises(DataPlaneError, match="prefixes instead"):
        kernel_selectors(ragged, ragged, Way.OUT)


def test_an_interface_that_is_not_there() -> None:
    with pytest.raises(DataPlaneError, match="no interface nothere0"):
        kernel_selectors((TS("10.1.0.0/24"),), (TS("10.2.0.0/24"),), Way.OUT, 0, "nothere0")

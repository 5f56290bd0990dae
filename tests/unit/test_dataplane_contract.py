"""What every userspace data plane must do, held against each of them; TUN runs in network namespaces of its own."""

from __future__ import annotations

import itertools
import random
import select
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from espkit import A, B, arrived, describe, ts, udp
from lab.netns import Namespace, namespaces

from ipsecstack.dataplane.base import Acquired, DataPlane, DataPlaneError, SaExpired, UserspaceDataPlane
from ipsecstack.dataplane.memory import MemoryDataPlane
from ipsecstack.dataplane.tun import TunDataPlane
from ipsecstack.ipsec.sa import Direction, Lifetime, Limit, ReplayCounts, SaCounters
from ipsecstack.ipsec.spd import Action, SpdEntry

LOCAL, REMOTE = ts("10.1.0.0/24"), ts("10.2.0.0/24")
POLICY = SpdEntry("c/k", Action.PROTECT, LOCAL, REMOTE, 1, 1)
Make = Callable[[], UserspaceDataPlane]


@pytest.fixture(params=["memory", "tun"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes data planes; each TUN plane in a namespace of its own."""
    made: list[DataPlane] = []
    if request.param == "memory":

        def memory() -> UserspaceDataPlane:
            plane = MemoryDataPlane()
            made.append(plane)
            return plane

        yield memory
    else:
        request.getfixturevalue("require_root")
        with namespaces("a", "b") as found:
            left: Iterator[Namespace] = iter(found)

            def tun() -> UserspaceDataPlane:
                plane = next(left).inside(TunDataPlane)
                made.append(plane)
                return plane

            yield tun
            for plane in made:
                plane.close()
            made.clear()
    for plane in made:
        plane.close()


def sas(spi: int = 0x1000, **fields: Any) -> tuple[Any, Any]:
    """An SA from a to b, as a's description and as b's."""
    return (
        describe(Direction.OUT, spi, A, B, local_ts=LOCAL, remote_ts=REMOTE, **fields),
        describe(Direction.IN, spi, A, B, local_ts=REMOTE, remote_ts=LOCAL, **fields),
    )


def test_features(make: Make) -> None:
    plane = make()
    assert plane.features.userspace
    assert plane.features.esn
    assert plane.features.name in ("memory", "tun")


def test_spis(make: Make) -> None:
    plane = make()
    draw = random.Random(1).randbytes
    spis = {plane.allocate_spi(draw) for _ in range(50)}
    assert len(spis) == 50
    assert all(256 <= spi < 2**32 for spi in spis)
    plane.release_spi(spis.pop())
    plane.release_spi(7)


def test_install_query_remove(make: Make) -> None:
    plane = make()
    out, _ = sas()
    plane.install(out, 1.0)
    with pytest.raises(DataPlaneError):
        plane.install(out, 1.0)
    assert plane.query(out.id) == SaCounters()
    assert plane.touched() == {out.id}
    assert plane.remove(out.id) == SaCounters()
    assert plane.remove(out.id) is None
    assert plane.query(out.id) is None


def test_update_of_an_absent_sa(make: Make) -> None:
    with pytest.raises(DataPlaneError, match="not installed"):
        make().update(sas()[0].id, A, B, True)


def test_packets_through_two_planes(make: Make) -> None:
    a, b = make(), make()
    out, inward = sas()
    a.install(out, 0)
    b.install(inward, 0)
    a.add_policy(POLICY)
    packets = [udp("10.1.0.5", "10.2.0.9", size) for size in range(40, 60)]
    got = b.inbound(arrived(a.outbound(packets, 1.0)), 2.0)
    assert [bytes(p) for p in got] == packets
    expected = sum(map(len, packets))
    assert a.query(out.id) == SaCounters(octets=expected, packets=20, last_used=1.0)
    assert b.remove(inward.id) == SaCounters(
        octets=expected, packets=20, last_used=2.0, replays=ReplayCounts()
    )
    assert a.touched() == {out.id}


def test_policies(make: Make) -> None:
    plane = make()
    other = SpdEntry("c/j", Action.PROTECT, LOCAL, ts("10.3.0.0/24"), 0, 2)
    plane.add_policy(POLICY)
    plane.add_policy(POLICY)
    plane.add_policy(other)
    assert list(plane.policies()) == [other, POLICY]
    plane.remove_policy(POLICY)
    assert POLICY in plane.policies()
    plane.remove_policy(POLICY)
    plane.remove_policy(POLICY)
    assert list(plane.policies()) == [other]


def test_no_policy_no_sa_no_packet(make: Make) -> None:
    plane = make()
    packet = udp("10.1.0.5", "10.2.0.9")
    assert plane.outbound([packet], 0) == []
    plane.add_policy(POLICY)
    assert plane.outbound([packet], 0) == []
    assert (plane.counters.discarded_out, plane.counters.no_sa_out) == (1, 1)


def test_trap(make: Make) -> None:
    plane = make()
    trap = SpdEntry("c/t", Action.PROTECT, LOCAL, REMOTE, 1, 1, trap=True)
    plane.add_policy(trap)
    packet = udp("10.1.0.5", "10.2.0.9")
    assert plane.outbound([packet, packet], 0) == []
    (event,) = plane.events()
    assert isinstance(event, Acquired)
    assert event.entry == trap
    plane.install(sas()[0], 1)
    (batch,) = plane.read_device(1.0)
    assert len(batch.packets) == 2


def test_limits(make: Make) -> None:
    plane = make()
    out, _ = sas(lifetime=Lifetime(seconds=Limit(5, 6), packets=Limit(2, 0)))
    plane.install(out, 10.0)
    plane.add_policy(POLICY)
    assert plane.next_timer() == 15.0
    plane.outbound([udp("10.1.0.5", "10.2.0.9")] * 3, 11.0)
    assert plane.events() == [SaExpired(out.id, False, "packets")]
    plane.handle_timer(15.0)
    plane.handle_timer(16.0)
    assert plane.events() == [SaExpired(out.id, False, "seconds"), SaExpired(out.id, True, "seconds")]
    assert plane.next_timer() is None


def test_device_descriptor(make: Make) -> None:
    plane = make()
    fd = plane.device_fileno()
    assert fd is not None
    assert select.select([fd], [], [], 0)[0] == []
    assert plane.read_device(0.0) == []


def test_close_twice_is_harmless(make: Make) -> None:
    plane = make()
    plane.install(sas()[0], 0)
    plane.add_policy(POLICY)
    plane.close()
    plane.close()
    assert plane.query(sas()[0].id) is None


def test_many_sas_are_polled_by_what_changed(make: Make) -> None:
    plane = make()
    spis = itertools.count(0x2000)
    names = []
    for number in range(200):
        remote = ts(f"10.2.{number}.0/24")
        out = describe(Direction.OUT, next(spis), A, B, local_ts=LOCAL, remote_ts=remote, reqid=number + 1)
        plane.install(out, 0)
        names.append(out.id)
    assert plane.touched() == set(names)
    plane.add_policy(SpdEntry("c/k7", Action.PROTECT, LOCAL, ts("10.2.7.0/24"), 1, 8))
    plane.outbound([udp("10.1.0.5", "10.2.7.9")], 1)
    assert plane.touched() == {names[7]}

"""What every data plane does, whatever carries its packets: tests of the interface alone, run for each plane.

A `World` makes two planes, a and b, that can reach each other, and sends UDP from a host behind a to one behind b.
Memory and TUN planes run anywhere, the kernel's where the kernel has ESP: in a guest (`guest_dataplane.py`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import pytest
from espkit import A, B, arrived, describe, ts, udp

from ipsecstack.dataplane.base import Acquired, DataPlane, DataPlaneError, SaExpired
from ipsecstack.ipsec.sa import Address, Direction, Lifetime, Limit, SaDescription, SaId
from ipsecstack.ipsec.spd import Action, SpdEntry
from lab.process import wait_until

LOCAL, REMOTE = ts("10.1.0.0/24"), ts("10.2.0.0/24")
HOSTS = ("10.1.0.1", "10.2.0.1")
PLAIN_A, PLAIN_B = replace(A, port=0), replace(B, port=0)
POLICY = SpdEntry("c/k", Action.PROTECT, LOCAL, REMOTE, 100, 1)
IP_UDP = 28  # octets of headers


class World(Protocol):
    a: DataPlane
    b: DataPlane
    second_b: Address
    """Another outer address of b."""

    def now(self) -> float:
        """The time that both planes are told."""
        ...

    def send(self, sizes: Sequence[int]) -> list[int]:
        """UDP with payloads of these octets from HOSTS[0] to HOSTS[1]; sizes of what came, in order."""
        ...


def pair_of(spi: int = 0x1000, **fields: Any) -> tuple[SaDescription, SaDescription]:
    """An SA from a to b without UDP, as each end installs it."""
    source, destination = fields.pop("source", PLAIN_A), fields.pop("destination", PLAIN_B)
    given = {"encapsulated": False, **fields}
    out = describe(Direction.OUT, spi, source, destination, local_ts=LOCAL, remote_ts=REMOTE, **given)
    return out, replace(out, direction=Direction.IN, local_ts=REMOTE, remote_ts=LOCAL)


def connect(world: World, **fields: Any) -> tuple[SaId, SaId]:
    """One SA from a to b with its policies; its names at a and at b."""
    out, inward = pair_of(**fields)
    world.b.install(inward, world.now())
    world.a.install(out, world.now())
    world.a.add_policy(replace(POLICY, mode=out.mode))
    world.b.add_policy(replace(POLICY, mode=out.mode, local_ts=REMOTE, remote_ts=LOCAL))
    return out.id, inward.id


def events_of(plane: DataPlane, world: World, kind: type[Any], timeout: float = 3.0) -> list[Any]:
    """Events of one kind, awaited; all others are dropped."""
    found: list[Any] = []

    def some() -> bool:
        plane.read_events(world.now())
        found.extend(event for event in plane.events() if isinstance(event, kind))
        return bool(found)

    wait_until(some, timeout, f"{kind.__name__} of {plane.features.name}")
    return found


# --- the contract -----------------------------------------------------------------------------------------------------


def spis_are_distinct_and_reserved(world: World) -> None:
    draw = random.Random(1).randbytes
    spis = [world.a.allocate_spi(draw) for _ in range(20)]
    assert len(set(spis)) == 20
    assert all(256 <= spi < 2**32 for spi in spis)
    again = random.Random(1).randbytes  # the same draws find the same SPIs taken
    assert world.a.allocate_spi(again) not in spis
    for spi in spis:
        world.a.release_spi(spi)
    world.a.release_spi(7)


def an_allocated_spi_is_installed(world: World) -> None:
    spi = world.b.allocate_spi(random.Random(2).randbytes)
    _, inward = pair_of(spi)
    world.b.install(inward, world.now())
    assert world.b.query(inward.id) is not None
    assert world.b.remove(inward.id) is not None


def sas_come_and_go(world: World) -> None:
    out, _ = pair_of()
    world.a.install(out, world.now())
    with pytest.raises(DataPlaneError, match="installed"):
        world.a.install(out, world.now())
    counters = world.a.query(out.id)
    assert counters is not None
    assert (counters.octets, counters.packets, counters.last_used) == (0, 0, None)
    assert world.a.touched() == {out.id}
    assert world.a.remove(out.id) is not None
    assert world.a.remove(out.id) is None
    assert world.a.query(out.id) is None


def updates_of_nothing_are_refused(world: World) -> None:
    with pytest.raises(DataPlaneError, match="not installed"):
        world.a.update(pair_of()[0].id, PLAIN_A, PLAIN_B, False)


def policies_are_counted_and_ordered(world: World) -> None:
    plane = world.a
    other = SpdEntry("c/j", Action.PROTECT, LOCAL, ts("10.3.0.0/24"), 0, 2)
    same = replace(POLICY, name="c/l", reqid=3)  # the same selectors for another child
    plane.add_policy(POLICY)
    plane.add_policy(POLICY)
    plane.add_policy(same)
    plane.add_policy(other)
    assert list(plane.policies()) == [other, POLICY, same]
    plane.remove_policy(POLICY)
    assert POLICY in plane.policies()
    plane.remove_policy(POLICY)
    plane.remove_policy(POLICY)
    assert list(plane.policies()) == [other, same]
    plane.remove_policy(other)
    plane.remove_policy(same)
    assert list(plane.policies()) == []


def packets_arrive_and_are_counted_alike(world: World) -> None:
    for number, fields in enumerate(({}, {"esn": True}, {"replay_window": 0}, {"replay_window": 32})):
        out, inward = connect(world, spi=0x1000 + number, **fields)
        sizes = [10, 100, 1000, 0]
        assert world.send(sizes) == sizes
        for plane, name in ((world.a, out), (world.b, inward)):
            counters = plane.query(name)
            assert counters is not None
            assert (counters.packets, counters.octets) == (4, sum(sizes) + 4 * IP_UDP), (plane, fields)
            assert counters.last_used is not None
            assert abs(counters.last_used - world.now()) < 5
        disconnect(world, out, inward)


def disconnect(world: World, out: SaId, inward: SaId) -> None:
    """The final counters are those of the last query."""
    last = world.a.query(out)
    assert world.a.remove(out) == last
    assert world.b.remove(inward) is not None
    for entry in list(world.a.policies()):
        world.a.remove_policy(entry)
    for entry in list(world.b.policies()):
        world.b.remove_policy(entry)


def without_an_sa_nothing_leaves(world: World) -> None:
    out, inward = connect(world)
    world.a.remove(out)
    assert world.send([10]) == []
    world.a.install(pair_of()[0], world.now())
    assert world.send([10]) == [10]
    counters = world.b.query(inward)
    assert counters is not None
    assert counters.packets == 1


def discard_stands_before_protect(world: World) -> None:
    connect(world)
    drop = SpdEntry("c/drop", Action.DISCARD, LOCAL, ts("10.2.0.1[udp]"), 10)
    world.a.add_policy(drop)
    assert world.send([10]) == []
    world.a.remove_policy(drop)
    assert world.send([10]) == [10]


def the_newest_sa_sends(world: World) -> None:
    out, inward = connect(world)
    newer, newer_in = pair_of(0x2000)
    world.b.install(newer_in, world.now())
    world.a.install(newer, world.now())
    assert world.send([10, 10]) == [10, 10]
    assert [sa.packets if (sa := world.a.query(name)) else None for name in (out, newer.id)] == [0, 2]
    world.a.remove(newer.id)
    assert world.send([10]) == [10]
    counters = world.b.query(inward)
    assert counters is not None
    assert counters.packets == 1


def packet_limits_are_told_once(world: World) -> None:
    out, _ = connect(world, lifetime=Lifetime(packets=Limit(2, 6)))
    # The kernel looks at the limit with the next packet.
    assert len(world.send([10] * 4)) == 4
    assert events_of(world.a, world, SaExpired) == [SaExpired(out, False, "packets")]
    received = len(world.send([10] * 4))
    assert 1 <= received <= 2
    assert SaExpired(out, True, "packets") in events_of(world.a, world, SaExpired)
    final = world.a.remove(out)
    assert final is not None
    assert 5 <= final.packets <= 6


def octet_limits(world: World) -> None:
    out, _ = connect(world, lifetime=Lifetime(octets=Limit(2000, 0)))
    assert len(world.send([900] * 4)) == 4
    assert events_of(world.a, world, SaExpired) == [SaExpired(out, False, "octets")]


def a_trap_asks_for_its_sa(world: World) -> None:
    trap = replace(POLICY, trap=True, reqid=5)
    world.a.add_policy(trap)
    assert world.send([10]) == []
    (event,) = events_of(world.a, world, Acquired)
    assert event.entry == trap
    assert (str(event.source), str(event.destination), event.protocol) == (*HOSTS, 17)
    assert (event.local_ts, event.remote_ts) == (LOCAL, REMOTE)
    assert world.send([10]) == []  # and does not ask again at once
    world.a.read_events(world.now())
    assert [e for e in world.a.events() if isinstance(e, Acquired)] == []
    out, inward = pair_of(reqid=5)
    world.b.install(inward, world.now())
    world.b.add_policy(replace(POLICY, local_ts=REMOTE, remote_ts=LOCAL, reqid=5))
    world.a.install(out, world.now())
    assert 33 in world.send([33])


def an_sa_moves_with_its_counts(world: World) -> None:
    out, inward = connect(world)
    assert world.send([10] * 3) == [10] * 3
    there = replace(world.second_b, port=0)
    moved_in = world.b.update(inward, PLAIN_A, there, False)
    moved = world.a.update(out, PLAIN_A, there, False)
    assert moved == replace(out, destination=there.host)
    assert world.a.query(out) is None
    assert world.send([10] * 2) == [10] * 2
    for plane, name in ((world.a, moved), (world.b, moved_in)):
        counters = plane.query(name)
        assert counters is not None
        assert counters.packets == 5
        assert counters.replay_errors == 0


def changes_are_touched(world: World) -> None:
    out, _ = connect(world)
    assert world.a.touched() == {out}
    world.send([10])
    seen: set[SaId] = set()

    def told() -> bool:
        seen.update(world.a.touched())
        return out in seen

    wait_until(told, 4, "touched", interval=0.2)
    time.sleep(1.1)
    assert world.a.touched() == set()


def closing_twice_is_harmless(world: World) -> None:
    out, _ = connect(world)
    world.a.close()
    world.a.close()
    assert world.a.query(out) is None
    assert world.a.event_fileno() is None or world.a.features.userspace


CONTRACT: tuple[Callable[[World], None], ...] = (
    spis_are_distinct_and_reserved,
    an_allocated_spi_is_installed,
    sas_come_and_go,
    updates_of_nothing_are_refused,
    policies_are_counted_and_ordered,
    packets_arrive_and_are_counted_alike,
    without_an_sa_nothing_leaves,
    discard_stands_before_protect,
    the_newest_sa_sends,
    packet_limits_are_told_once,
    octet_limits,
    a_trap_asks_for_its_sa,
    an_sa_moves_with_its_counts,
    changes_are_touched,
    closing_twice_is_harmless,
)
NEEDS_NO_SA = (
    spis_are_distinct_and_reserved,
    updates_of_nothing_are_refused,
    policies_are_counted_and_ordered,
)
"""What a kernel without ESP can be asked, too."""


# --- worlds ---------------------------------------------------------------------------------------------------------


class UserspaceWorld:
    """Two planes whose packets pass through this process; `make` gives one."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.a, self.b = make(), make()
        self.second_b = Address(B.host + 7, B.port)
        self._time = 1000.0

    def now(self) -> float:
        self._time += 0.01
        return self._time

    def send(self, sizes: Sequence[int]) -> list[int]:
        now = self.now()
        packets = [udp(*HOSTS, size + IP_UDP) for size in sizes]
        leaving = [*self.a.outbound(packets, now), *self.a.read_device(now)]
        return [len(packet) - IP_UDP for packet in self.b.inbound(arrived(leaving), now)]

    def close(self) -> None:
        self.a.close()
        self.b.close()

"""What the kernel holds for the TUN plane: nothing leaks past the device, and what comes in the clear is refused."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from espkit import ts
from lab.netns import Namespace, link, namespaces, run
from lab.process import wait_until

from ipsecstack.dataplane.tun import TunDataPlane
from ipsecstack.ipsec.spd import Action, SpdEntry

PROTECT = SpdEntry("c/k", Action.PROTECT, ts("10.1.0.0/24"), ts("10.2.0.0/24"), 100, 7)
PROTECT6 = SpdEntry("c/6", Action.PROTECT, ts("fd01::/64"), ts("fd02::/64"), 100, 8)


@dataclass
class Ground:
    """A gateway with a wire to the open net, where `there` answers for everything."""

    here: Namespace
    there: Namespace

    def leaks(self, source: str, destination: str) -> bool:
        """Does a datagram from here arrive there?"""
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        with (
            self.here.socket(family, socket.SOCK_DGRAM) as out,
            self.there.socket(family, socket.SOCK_DGRAM) as sink,
        ):
            sink.bind((destination, 7777))
            sink.settimeout(0.3)
            out.bind((source, 0))
            try:
                out.sendto(b"secret", (destination, 7777))
                return sink.recv(10) == b"secret"
            except (OSError, TimeoutError):
                return False

    def enters(self, source: str, destination: str) -> bool:
        """Does a datagram in the clear from there arrive here?"""
        with (
            self.there.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
            self.here.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        ):
            sink.bind((destination, 7778))
            sink.settimeout(0.3)
            out.bind((source, 0))
            out.sendto(b"forged", (destination, 7778))
            try:
                return sink.recv(10) == b"forged"
            except TimeoutError:
                return False


@pytest.fixture
def ground(require_root: None) -> Iterator[Ground]:
    with namespaces("grd", "open") as (here, there):
        for place in (here, there):
            place.sysctl(ipv6__conf__default__accept_dad=0)  # addresses are of use at once
        link(here, there)
        here.add_address("192.0.2.1/24", "fd99::1/64", device="wan")
        there.add_address("192.0.2.2/24", "fd99::2/64", device="wan")
        here.add_address("10.1.0.1/32", "fd01::1/128")
        there.add_address("10.2.0.1/32", "10.3.0.1/32", "fd02::1/128")
        for route in ("10.2.0.0/24 via 192.0.2.2", "10.3.0.0/24 via 192.0.2.2", "fd02::/64 via fd99::2"):
            here.ip(f"route add {route}")
        there.ip("route add 10.1.0.0/24 via 192.0.2.1", "route add fd01::/64 via fd99::1")
        for place in (here, there):
            place.sysctl(ipv4__conf__all__rp_filter=0, ipv4__conf__wan__rp_filter=0)
        yield Ground(here, there)


@pytest.fixture
def plane(ground: Ground) -> Iterator[TunDataPlane]:
    made = ground.here.inside(TunDataPlane)
    yield made
    made.close()


def test_the_ground_lets_all_through(ground: Ground) -> None:
    assert ground.leaks("10.1.0.1", "10.2.0.1")
    assert ground.leaks("fd01::1", "fd02::1")
    assert ground.enters("10.2.0.1", "10.1.0.1")


def test_protect_does_not_leak_by_another_route(ground: Ground, plane: TunDataPlane) -> None:
    plane.add_policy(PROTECT)
    plane.add_policy(PROTECT6)
    for rule in ("-4", "-6"):  # somebody else's rule goes first, past the device
        run("ip", rule, "-n", ground.here.name, "rule", "add", "pref", "1", "lookup", "main")
    assert not ground.leaks("10.1.0.1", "10.2.0.1")
    assert ground.leaks("10.1.0.1", "10.3.0.1")  # no policy names it
    plane.remove_policy(PROTECT)
    assert ground.leaks("10.1.0.1", "10.2.0.1")


def test_protect_does_not_leak_while_the_device_is_gone(ground: Ground, plane: TunDataPlane) -> None:
    plane.add_policy(PROTECT)
    plane.add_policy(PROTECT6)
    ground.here.ip(f"link del {plane.name}")
    assert not ground.leaks("10.1.0.1", "10.2.0.1")
    assert not ground.leaks("fd01::1", "fd02::1")
    ground.here.inside(plane.repair)
    assert not ground.leaks("10.1.0.1", "10.2.0.1")
    wait_until(
        lambda: plane.read_device(0.0) == [] and plane.counters.no_sa_out >= 1, 2, "it came into the device"
    )
    plane.remove_policy(PROTECT6)
    assert ground.leaks("fd01::1", "fd02::1")


def test_clear_packets_that_should_be_protected_are_refused(ground: Ground, plane: TunDataPlane) -> None:
    plane.add_policy(PROTECT)
    assert not ground.enters("10.2.0.1", "10.1.0.1")
    assert ground.enters("10.3.0.1", "10.1.0.1")


def test_clear_packets_for_hosts_behind_are_refused_in_ipv6_too(ground: Ground, plane: TunDataPlane) -> None:
    with namespaces("lan") as (lan,):
        lan.sysctl(ipv6__conf__default__accept_dad=0)
        link(ground.here, lan, "lan", "eth")
        ground.here.add_address("fd01::2/64", device="lan")
        lan.add_address("fd01::77/64", device="eth")
        ground.here.sysctl(ipv6__conf__all__forwarding=1)

        def arrives() -> bool:
            with (
                ground.there.socket(socket.AF_INET6, socket.SOCK_DGRAM) as out,
                lan.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sink,
            ):
                sink.bind(("fd01::77", 7779))
                sink.settimeout(0.5)
                out.bind(("fd02::1", 0))
                out.sendto(b"forged", ("fd01::77", 7779))
                try:
                    return sink.recv(10) == b"forged"
                except TimeoutError:
                    return False

        wait_until(arrives, 4, "the way through is open")
        plane.add_policy(PROTECT6)
        assert not arrives()
        plane.remove_policy(PROTECT6)
        assert arrives()


def test_bypass_and_discard_hold_without_the_device(ground: Ground, plane: TunDataPlane) -> None:
    plane.add_policy(SpdEntry("c/d", Action.DISCARD, ts("10.1.0.0/24"), ts("10.3.0.0/24"), 50))
    assert not ground.leaks("10.1.0.1", "10.3.0.1")
    assert not ground.enters("10.3.0.1", "10.1.0.1")
    port = SpdEntry("c/b", Action.BYPASS, ts("10.1.0.0/24"), ts("10.3.0.0/24[udp/7777]"), 40)
    plane.add_policy(port)
    assert ground.leaks("10.1.0.1", "10.3.0.1")
    plane.remove_policy(port)
    assert not ground.leaks("10.1.0.1", "10.3.0.1")


def test_it_can_be_switched_off(ground: Ground) -> None:
    plane = ground.here.inside(lambda: TunDataPlane(kernel_policies=False))
    try:
        plane.add_policy(PROTECT)
        assert ground.enters("10.2.0.1", "10.1.0.1")
        assert ground.here.run("ip", "xfrm", "policy") == ""
    finally:
        plane.close()


def test_nothing_is_left_after_the_end_or_a_crash(ground: Ground) -> None:
    first = ground.here.inside(TunDataPlane)
    first.add_policy(PROTECT)
    first.add_policy(PROTECT6)
    assert first._guard is not None
    # As when the process dies: sockets and device go, policies, rules and routes stay.
    first._guard._kernel.close()
    first._guard._lock.close()
    first._device.close()
    assert "action block" in ground.here.run("ip", "xfrm", "policy")
    assert not ground.leaks("fd01::1", "fd02::1")
    second = ground.here.inside(TunDataPlane)
    assert ground.here.run("ip", "xfrm", "policy") == ""
    assert ground.leaks("fd01::1", "fd02::1")
    second.add_policy(PROTECT6)
    second.close()
    assert ground.here.run("ip", "xfrm", "policy") == ""
    for version in ("-4", "-6"):
        assert "proto 150" not in run("ip", version, "-n", ground.here.name, "route", "show", "table", "all")


def test_what_stays_on_this_side_passes(ground: Ground, plane: TunDataPlane) -> None:
    """A tunnel to everywhere contains the local network, too."""
    ground.there.add_address("10.1.0.77/32")
    ground.here.ip("route add 10.1.0.77 via 192.0.2.2")
    plane.add_policy(replace(PROTECT, remote_ts=ts("0.0.0.0/0")))
    assert ground.enters("10.1.0.77", "10.1.0.1")
    assert not ground.enters("10.3.0.1", "10.1.0.1")

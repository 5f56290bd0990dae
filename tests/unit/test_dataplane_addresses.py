"""Virtual addresses on a device, in a network namespace: by themselves and with the TUN data plane."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from lab.netns import Namespace, namespaces

from ipsecstack.dataplane.addresses import VirtualAddresses
from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.tun import TunDataPlane

FOUR, SIX = ip_address("10.77.0.1"), ip_address("fd77::1")


@pytest.fixture
def place(require_root: None) -> Iterator[Namespace]:
    with namespaces("va") as (ns,):
        yield ns


def listed(ns: Namespace, device: str) -> set[str]:
    words = ns.run("ip", "-o", "address", "show", "dev", device).split()
    return {words[i + 1] for i, word in enumerate(words) if word in ("inet", "inet6")}


def test_addresses_come_and_go(place: Namespace) -> None:
    addresses = place.inside(lambda: VirtualAddresses("lo"))
    for address in (FOUR, SIX, FOUR):
        addresses.add(address)
    assert {"10.77.0.1/32", "fd77::1/128"} <= listed(place, "lo")
    addresses.remove(FOUR)
    addresses.remove(FOUR)
    assert "10.77.0.1/32" not in listed(place, "lo")
    addresses.close()
    assert "fd77::1/128" not in listed(place, "lo")
    addresses.close()


def test_what_the_host_has_already_stays(place: Namespace) -> None:
    place.add_address("10.77.0.1/32")
    addresses = place.inside(lambda: VirtualAddresses("lo"))
    addresses.add(FOUR)
    addresses.remove(FOUR)
    addresses.close()
    assert "10.77.0.1/32" in listed(place, "lo")


def test_what_a_dead_process_left_is_taken_off(place: Namespace) -> None:
    dead = place.inside(lambda: VirtualAddresses("lo"))
    for address in (FOUR, SIX):
        dead.add(address)
    place.add_address("10.77.0.2/32")
    place.inside(lambda: VirtualAddresses("lo")).close()
    left = listed(place, "lo")
    assert "10.77.0.2/32" in left
    assert not left & {"10.77.0.1/32", "fd77::1/128"}
    dead.close()


def test_a_device_that_is_not_there(place: Namespace) -> None:
    addresses = place.inside(lambda: VirtualAddresses("nowhere0"))
    with pytest.raises(DataPlaneError, match="nowhere0"):
        addresses.add(FOUR)
    assert FOUR not in addresses
    addresses.close()


def test_the_tun_device_has_them_again_when_it_was_made_again(place: Namespace) -> None:
    plane = place.inside(TunDataPlane)
    try:
        plane.add_address(FOUR)
        plane.add_address(SIX)
        assert {"10.77.0.1/32", "fd77::1/128"} <= listed(place, plane.name)
        place.ip(f"link delete {plane.name}")
        place.inside(plane.repair)
        assert {"10.77.0.1/32", "fd77::1/128"} <= listed(place, plane.name)
        plane.remove_address(FOUR)
        assert "10.77.0.1/32" not in listed(place, plane.name)
    finally:
        place.inside(plane.close)

"""ipsecstackd with the kernel's data plane, in guests whose kernel has ESP and AH (lab/guest_*.py are what they run).

Three guests run at once: the contract of data planes on two planes alone, two daemons with the kernel's plane, and one
of them against the TUN plane. Each test looks at what one scenario in there saw.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lab.dataplane_contract import CONTRACT
from lab.guest_dataplane import KERNEL_ONLY
from lab.netns import namespaces
from lab.policy import require_tool
from lab.uml import ALL_MODULES, guest_script, run_guest

LAB = Path(__file__).resolve().parent.parent / "lab"
GUEST_TIME = 150.0  # seconds; 30 are usual
PLANES = ("xfrm", "tun")
WITH_TUN = ("gcm", "cbc-esn", "udp", "six", "transport", "ah", "rekeys")

Seen = dict[str, Any]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Seen]:
    """Guest -> scenario -> what it wrote."""
    require_tool("linux.uml")
    require_tool("modprobe")

    def boot(guest: str) -> Seen:
        if guest == "contract":
            script, arguments = "guest_dataplane.py", ()
        else:
            wanted = WITH_TUN if guest == "tun" else ()
            script, arguments = "guest_xfrm_daemons.py", ("xfrm", guest, *wanted)
        return guest_script(LAB / script, *arguments, timeout=GUEST_TIME, modules=ALL_MODULES)

    guests = ("contract", *PLANES)
    with ThreadPoolExecutor(len(guests)) as pool:
        return dict(zip(guests, pool.map(boot, guests), strict=True))


def seen_in(outcomes: dict[str, Seen], guest: str, scenario: str) -> Seen:
    found = outcomes[guest].get(scenario, {"error": outcomes[guest][""]})
    if "error" in found:
        pytest.fail(f"{guest}, {scenario}, in the guest:\n{found['error']}", pytrace=False)
    result: Seen = found["result"]
    return result


@pytest.mark.parametrize("name", [test.__name__ for test in (*CONTRACT, *KERNEL_ONLY)])
def test_contract(outcomes: dict[str, Seen], name: str) -> None:
    found = outcomes["contract"]
    if found.get(name, found[""]) is not None:
        pytest.fail(f"{name}, in the guest:\n{found.get(name, found[''])}", pytrace=False)


def all_answered(pings: list[list[int]]) -> bool:
    return all(sent == received for sent, received in pings)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", ["gcm", "cbc-esn", "udp", "six", "transport", "ah"])
def test_tunnels_carry(outcomes: dict[str, Seen], plane: str, name: str) -> None:
    seen = seen_in(outcomes, plane, name)
    assert all_answered(seen["pings"])
    assert all_answered(seen["big"])
    counts = seen["counts"]
    assert counts["mirrored"]
    raw = counts["raw"]
    assert raw["mode"] == ("TRANSPORT" if name == "transport" else "TUNNEL")
    assert raw["protocol"] == ("AH" if name == "ah" else "ESP")
    assert (raw.get("encap") == "yes") == (name == "udp")
    assert (raw.get("esn") == "1") == (name == "cbc-esn")
    # What we say was counted is what the kernel counted, and what one end sent is what the other received.
    spi_in, spi_out = counts["spis"]
    kernel = counts["kernel"][0]
    assert counts["a"]["in"] == [kernel[spi_in]["octets"], kernel[spi_in]["packets"]]
    assert counts["a"]["out"] == [kernel[spi_out]["octets"], kernel[spi_out]["packets"]]
    assert counts["a"]["out"][1] == counts["b"]["in"][1] >= 10
    assert counts["a"]["in"][1] == counts["b"]["out"][1] >= 10
    assert seen["left"][0] == 0


@pytest.mark.parametrize("plane", PLANES)
def test_rekeys(outcomes: dict[str, Seen], plane: str) -> None:
    seen = seen_in(outcomes, plane, "rekeys")
    assert len({spi for pair in seen["spis"] for spi in pair}) == 6
    assert all(all_answered(pings) for pings in seen["pings"])


def check(scenario: str) -> Callable[[Callable[[Seen], None]], Callable[[dict[str, Seen]], None]]:
    """The test looks at one scenario of two daemons with the kernel's plane."""

    def decorate(test: Callable[[Seen], None]) -> Callable[[dict[str, Seen]], None]:
        def run(outcomes: dict[str, Seen]) -> None:
            test(seen_in(outcomes, "xfrm", scenario))

        run.__doc__ = test.__doc__
        return run

    return decorate


@check("octets")
def test_a_soft_limit_of_octets_replaces_the_sa(seen: Seen) -> None:
    assert seen["replaced"]
    assert all(all_answered(pings) for pings in seen["pings"])


@check("trap")
def test_the_first_packet_asks_for_the_sa(seen: Seen) -> None:
    assert seen["before"] == 0
    assert all_answered(seen["pings"])


@check("short")
def test_a_hard_limit_of_time_ends_the_sa(seen: Seen) -> None:
    assert 2 <= seen["lived"] <= 6
    assert seen["left"] == [0, 0]


@check("crash")
def test_a_crash_leaves_nothing_that_matters(seen: Seen) -> None:
    """SAs and policies of the killed daemon are gone after its start, another program's policy is there to the end."""
    policies, sas = seen["left"]
    assert policies >= 4
    assert sas == 2
    assert seen["cleared"][1] == 0
    assert all_answered(seen["pings"])
    assert seen["stopped"] == [1, 0]


def test_a_guest_is_reached_by_a_tap_device() -> None:
    """For tests that have one end in a guest and the other here."""
    require_tool("linux.uml")
    with namespaces("tap") as (place,):
        place.ip("tuntap add tap0 mode tap", "addr add 192.0.2.1/24 dev tap0", "link set tap0 up")
        command = "ip addr add 192.0.2.2/24 dev vec0; ip link set vec0 up; ping -c1 -W5 192.0.2.1"
        done = place.inside(lambda: run_guest(["sh", "-c", command], 60, modules=(), tap="tap0"))
        assert done.status == 0, done

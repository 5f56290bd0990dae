"""The Linux kernel's own ESP as the peer, in a user-mode-linux guest, with strongSwan's charon as its key exchange.

Outside of a guest charon does ESP in userspace here, always in UDP and without ESN. What needs the real thing is tested
in here: protocol 50 on its own, ESN, the kernel's UDP encapsulation, its counters and its packets repeated at us.

Two guests run at once, one for each role; lab/guest_kernel_esp.py is what they run. Each test looks at what one
scenario in there saw.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lab.policy import require_tool
from lab.process import wait_until
from lab.uml import GuestError, run_guest

ROLES = ["we-initiate", "we-respond"]
SCRIPT = Path(__file__).resolve().parent.parent / "lab" / "guest_kernel_esp.py"
GUEST_TIME = 150.0  # seconds; 40 are usual

Seen = dict[str, Any]


@pytest.fixture(scope="module")
def guest_tools() -> None:
    require_tool("linux.uml")
    require_tool("modprobe")


@pytest.fixture(scope="module")
def outcomes(guest_tools: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """Role -> scenario -> what the guest wrote; `""` holds what is to be said of a scenario that is missing."""
    place = tmp_path_factory.mktemp("kernel-esp")

    def boot(role: str) -> Seen:
        out = place / f"{role}.json"
        try:
            done = run_guest([sys.executable, str(SCRIPT), str(out), role], GUEST_TIME)
            end = f"the guest ended with {done.status}:\n{done.stderr[-3000:]}"
            end += f"\nmodules not loaded: {done.missing_modules}"
        except GuestError as error:
            end = str(error)
        return {"": {"error": end}, **(json.loads(out.read_text()) if out.exists() else {})}

    with ThreadPoolExecutor(len(ROLES)) as pool:
        return dict(zip(ROLES, pool.map(boot, ROLES), strict=True))


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def seen_in(outcomes: dict[str, Seen], role: str, scenario: str) -> Seen:
    """What the scenario saw; the test fails with the guest's traceback and logs when it did not come to its end."""
    found = outcomes[role].get(scenario, outcomes[role][""])
    if "error" in found:
        pytest.fail(f"{role}, {scenario}, in the guest:\n{found['error']}", pytrace=False)
    result: Seen = found["result"]
    return result


def assert_carried(seen: Seen) -> None:
    """All came through, nothing was dropped, and we, charon and the kernel counted the same."""
    assert seen["pings"] == [[3, 3], [3, 3]]
    assert seen["big_pings"] == [[2, 2], [2, 2]]
    assert seen["mirrored"]
    assert not any(seen["drops"].values()), seen["drops"]
    # UDP: the octets counted are those of the packets sent, to the octet.
    assert {way: counted[0] for way, counted in seen["udp_counted"].items()} == seen["udp_octets"]
    assert sorted(counted[1] for counted in seen["udp_counted"].values()) == [2, 4]
    # After TCP both ways: what one sent is what the other received, by all three counts.
    assert min(seen["ours"]["in"][0], seen["ours"]["out"][0]) > 100_000
    assert seen["ours"]["in"] == seen["theirs"]["out"] == seen["kernel"]["out"]
    assert seen["ours"]["out"] == seen["theirs"]["in"] == seen["kernel"]["in"]
    for sa in seen["kernel_sas"]:
        assert (sa["replay"], sa["failed"]) == (0, 0)


def assert_native(seen: Seen) -> None:
    """Protocol 50, each packet that we count is one on the wire, and nothing else is."""
    assert seen["wire"] == {"esp": seen["packets_pinged"], "udp": 0, "clear": 0}
    assert seen["packets_pinged"] == 12
    assert seen["child"]["encap"] is None
    assert [sa["encap"] for sa in seen["kernel_sas"]] == [False, False]


@pytest.mark.parametrize(
    ("scenario", "encr", "integ"),
    [
        ("gcm", "AES_GCM_16", None),
        ("chacha", "CHACHA20_POLY1305", None),
        ("cbc", "AES_CBC", "HMAC_SHA2_256_128"),
    ],
)
def test_native_esp(
    outcomes: dict[str, Seen], role: str, scenario: str, encr: str, integ: str | None
) -> None:
    seen = seen_in(outcomes, role, scenario)
    assert_carried(seen)
    assert_native(seen)
    assert (seen["child"]["encr-alg"], seen["child"]["integ-alg"]) == (encr, integ)
    assert seen["child"]["esn"] is None
    assert [sa["esn"] for sa in seen["kernel_sas"]] == [False, False]


@pytest.mark.parametrize("scenario", ["esn-gcm", "esn-cbc"])
def test_extended_sequence_numbers(outcomes: dict[str, Seen], role: str, scenario: str) -> None:
    seen = seen_in(outcomes, role, scenario)
    assert_carried(seen)
    assert_native(seen)
    assert seen["child"]["esn"] == "1"
    assert seen["child"]["replay-window"] == "64"
    assert [sa["esn"] for sa in seen["kernel_sas"]] == [True, True]
    assert seen["kernel_sas"][0]["window"] == 64


@pytest.mark.parametrize("scenario", ["udp-gcm", "udp-cbc"])
def test_esp_in_udp(outcomes: dict[str, Seen], role: str, scenario: str) -> None:
    """encap = yes: the kernel's UDP encapsulation (RFC 3948), though there is no NAT."""
    seen = seen_in(outcomes, role, scenario)
    assert_carried(seen)
    assert seen["wire"] == {"esp": 0, "udp": 12, "clear": 0}
    assert seen["child"]["encap"] == "yes"
    assert [sa["encap"] for sa in seen["kernel_sas"]] == [True, True]


@pytest.mark.parametrize("scenario", ["6-in-4", "4-in-6", "6-in-6"])
def test_ipv6(outcomes: dict[str, Seen], role: str, scenario: str) -> None:
    seen = seen_in(outcomes, role, scenario)
    assert_carried(seen)
    assert_native(seen)


@pytest.mark.parametrize("kind", ["child", "ike"])
def test_rekeys_under_traffic(outcomes: dict[str, Seen], role: str, kind: str) -> None:
    """Four rekeys, from either side in turn, with a flow each way: nothing lost, nothing twice."""
    seen = seen_in(outcomes, role, f"rekey-{kind}")
    children = {tuple(child) for child, _ in seen["seen"]}
    ike_sas = {tuple(ike) for _, ike in seen["seen"]}
    assert (len(children), len(ike_sas)) == ((5, 1) if kind == "child" else (1, 5))
    for flow in seen["flows"]:
        assert flow["sent"] > 50
        assert (flow["lost"], flow["repeated"], flow["errors"]) == ([], [], [])
    assert seen["mirrored"]
    assert not any(seen["drops"].values()), seen["drops"]


@pytest.mark.parametrize("by", ["by-us", "by-them"])
def test_deletes(outcomes: dict[str, Seen], role: str, by: str) -> None:
    seen = seen_in(outcomes, role, "delete")[by]
    assert seen["ike_kept"] == [True, True], "deleting the child took the IKE_SA along"
    assert (seen["kernel_after_child"], seen["kernel_after_ike"]) == (0, 0)
    assert seen["pings_again"] == [2, 2], "no traffic over the child made after the first was deleted"
    assert seen["answered_without_sa"] == 0


@pytest.mark.parametrize(("scenario", "window"), [("replay", 32), ("replay-esn", 64)])
def test_replays_and_damage(outcomes: dict[str, Seen], role: str, scenario: str, window: int) -> None:
    """Packets of the kernel, damaged, repeated and late: each is counted once, as what it is."""
    seen = seen_in(outcomes, role, scenario)
    assert seen["window"] == str(window)
    assert seen["damaged"] == {"integrity-errors-in": 4}
    # The window had not moved: the same packets undamaged are taken, and then no more.
    assert seen["fresh"] == {"packets-in": 5}
    assert seen["repeated"] == {"replay-errors-in": 10}
    # window - 1 later packets: the oldest place of the window is still good, the one before it is not.
    assert seen["more"] == {"packets-in": window - 1}
    assert seen["late"] == {"packets-in": 1}
    # With ESN a number left of the window is one of the next 2^32 (RFC 4303 A2.2), for which the ICV is wrong.
    assert seen["too_late"] == {("integrity" if "esn" in scenario else "replay") + "-errors-in": 1}
    assert seen["unknown_spi"] == 1
    assert seen["pings"] == [3, 3]


@pytest.mark.parametrize("scenario", ["wrap-gcm", "wrap-cbc"])
def test_numbers_pass_two_to_the_32(outcomes: dict[str, Seen], role: str, scenario: str) -> None:
    """The kernel's numbers go over 2^32 (RFC 4303 A2): nothing is lost, late ones from before are still taken."""
    seen = seen_in(outcomes, role, scenario)
    assert seen["numbers"] == [*range(0xFFFFFFF8, 0x1_0000_0000), *range(8)]
    assert seen["far"] == {"packets-in": 1}
    assert seen["before"] == {"packets-in": 7}
    assert seen["after"] == {"packets-in": 8}
    assert seen["late"] == {"packets-in": 1}
    assert seen["repeated"] == {"replay-errors-in": 16}
    assert seen["pings"] == [[3, 3], [3, 3]]


# --- the runner itself ------------------------------------------------------------------------------------------------


def test_guest_gives_status_and_output(guest_tools: None) -> None:
    done = run_guest(
        ["sh", "-c", "uname -n; pwd; echo $0 $WORD >&2; exit 7"], 60, environment={"WORD": "a 'b"}
    )
    assert (done.status, done.missing_modules) == (7, ())
    assert done.stdout == f"guest\n{Path.cwd()}\n"
    assert done.stderr == "sh a 'b\n"


def test_guest_that_takes_too_long(guest_tools: None) -> None:
    """It is said what it printed, and no process of it is left."""

    def left() -> list[str]:
        listed = subprocess.run(
            ["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True
        ).stdout
        return [line for line in listed.splitlines() if f"umid=guest{os.getpid()} " in line]

    with pytest.raises(GuestError, match=r"(?s)still ran after 6 s.*got here"):
        run_guest(["sh", "-c", "echo got here; sleep 600 & wait"], 6)
    wait_until(lambda: not left(), 3, "the guest's processes are gone")

"""Our userspace AH, transport mode, IPComp and TFC against the kernel's, in a guest (lab/guest_tun_kernel.py).

No key exchange: both ends get the same keys. What one end sent is what the other received, by both counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lab.guest_tun_kernel import CASES
from lab.policy import require_tool
from lab.uml import ALL_MODULES, guest_script

SCRIPT = Path(__file__).resolve().parent.parent / "lab" / "guest_tun_kernel.py"
Seen = dict[str, Any]


@pytest.fixture(scope="module")
def outcomes() -> Seen:
    require_tool("linux.uml")
    require_tool("modprobe")
    return guest_script(SCRIPT, timeout=150.0, modules=(*ALL_MODULES, "ipip"))


def seen_in(outcomes: Seen, scenario: str) -> Seen:
    found = outcomes.get(scenario, {"error": outcomes[""]})
    if "error" in found:
        pytest.fail(f"{scenario}, in the guest:\n{found['error']}", pytrace=False)
    result: Seen = found["result"]
    return result


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_agrees(outcomes: Seen, name: str) -> None:
    seen = seen_in(outcomes, name)
    assert seen["got"] == [seen["sizes"]] * 2
    assert seen["failures"] == []
    assert seen["errors"] == [0, 0]
    padded, compressed = seen["details"]["out"]
    if "ipcomp" in name:
        # The kernel counts what is left after compression; short ones are sent as they are.
        assert min(compressed, seen["details"]["in"][1]) >= 4
        assert seen["packets"]["out"] > compressed
    else:
        assert seen["kernel_packets"] == seen["packets"]
        # The ways are ours: what the kernel sent is what came in. It counts the padding that it receives.
        assert seen["kernel_octets"]["in"] == seen["octets"]["in"]
        if not padded:
            assert seen["kernel_octets"]["out"] == seen["octets"]["out"]
    assert (padded > 0) == name.startswith("tfc")


def test_a_virtual_network(outcomes: Seen) -> None:
    """RFC 3884."""
    seen = seen_in(outcomes, "virtual-network")
    assert seen == {"before": [[10, 1000, 1300]] * 2, "after": [[10]] * 2, "gone": [[], []]}


def test_the_kernel_drops_dummies(outcomes: Seen) -> None:
    seen = seen_in(outcomes, "dummies")
    assert seen["got"] == [[10, 20]] * 2
    assert seen["sent"] == 7
    assert seen["kernel"] == [0, 0]
    assert seen["no_states"] == "0"

"""The agent beside real daemons that are killed, stopped and started again: it answers, and no total falls."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from lab import traffic
from lab.ours import OurAgent
from lab.policy import require_root, require_tool
from lab.process import wait_until
from lab.topology import Pair, pair

pytestmark = pytest.mark.interop

FLOW = "1.3.6.1.4.1.9.9.171.1"
IKE, TUNNEL, SPI = f"{FLOW}.2.3.1", f"{FLOW}.3.2.1", f"{FLOW}.3.4.1"
SOURCE = "1.3.6.1.4.1.32473.1.1.1.3.1"
CONNECTED, RECONNECTING = 1, 2


@pytest.fixture(params=["ours", "strongswan"])
def lab(request: pytest.FixtureRequest) -> Iterator[tuple[Pair, OurAgent]]:
    require_root()
    for tool in ("ip", "ping", "charon", "swanctl", "snmpwalk", "snmpget"):
        require_tool(tool)
    with pair((request.param, "strongswan")) as made:
        agent = OurAgent.of(made.a)
        agent.start()
        try:
            made.a.initiate("net")
            yield made, agent
        finally:
            agent.stop()


def value(agent: OurAgent, entry: str, column: int, index: int = 1) -> object:
    return agent.snmp.get_one(f"{entry}.{column}.{index}").value


def quick(agent: OurAgent, entry: str, column: int) -> object:
    """A value, and that it came at once."""
    begun = time.monotonic()
    found = value(agent, entry, column)
    assert time.monotonic() - begun < 1.0
    return found


def test_the_agent_outlives_its_daemon(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    ends = made.ends("net")
    assert traffic.ping(made.namespaces[0], *ends, count=3).lost == 0
    wait_until(lambda: value(agent, TUNNEL, 27) == 252, 5, "the pings are counted")
    made.a.kill()
    wait_until(lambda: quick(agent, SOURCE, 5) == RECONNECTING, 5, "the loss is shown")
    assert quick(agent, TUNNEL, 27) == 252
    assert value(agent, SOURCE, 19) != b""
    made.a.start()
    wait_until(lambda: quick(agent, SOURCE, 5) == CONNECTED, 20, "the agent is connected again")
    wait_until(lambda: not agent.snmp.table(SPI), 5, "the SAs of the killed daemon are gone")
    assert (value(agent, TUNNEL, 51), value(agent, IKE, 35)) == (2, 2), "down, and not missing"
    assert value(agent, TUNNEL, 27) == 252
    assert value(agent, SOURCE, 11) == value(agent, SOURCE, 12) == 1
    made.a.initiate("net")
    wait_until(lambda: (value(agent, TUNNEL, 51), value(agent, IKE, 35)) == (1, 1), 5, "up in the same rows")
    assert traffic.ping(made.namespaces[0], *ends, count=2).lost == 0
    wait_until(lambda: value(agent, TUNNEL, 27) == 420, 5, "totals go on")
    assert len(agent.snmp.table(TUNNEL)) == len(agent.snmp.table(IKE)) == 1


def test_a_stopped_daemon_does_not_stop_the_agent(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    wait_until(lambda: value(agent, TUNNEL, 51) == 1, 5)
    process = made.a.process  # type: ignore[attr-defined]
    os.kill(process.pid, signal.SIGSTOP)
    try:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert quick(agent, TUNNEL, 51) == 1
    finally:
        os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda: quick(agent, SOURCE, 13) < 100, 15, "fresh again")  # type: ignore[operator]
    assert quick(agent, SOURCE, 5) == CONNECTED


def test_an_ike_rekey_keeps_the_row(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    wait_until(lambda: value(agent, IKE, 35) == 1, 5)
    for count in (1, 2):
        old = made.a.ike_sa().spis
        made.a.swanctl("--rekey", "--ike", "gw")
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            got = agent.snmp.get(f"{IKE}.35.1", f"{TUNNEL}.51.1", f"{TUNNEL}.2.1", f"{TUNNEL}.3.1")
            assert [item.value for item in got.values()] == [1, 1, 1, 1]
        made.a.wait_one_ike_sa(old)
        wait_until(lambda count=count: value(agent, IKE, 18) == count, 5, "the rekey is counted")
    assert agent.snmp.get_one(f"{FLOW}.2.1.2.0").value == 0, "a rekey is no end"
    assert len(agent.snmp.table(IKE)) == 1

"""The agent outlives its gateway, says what it knows meanwhile, and picks up where it was; so it does after itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab import traffic
from lab.ours import OurAgent
from lab.policy import require_tool
from lab.process import wait_until
from lab.topology import Pair, pair

# IPSEC-GATEWAY-MIB, our own module (mibs/OIDS.md)
SOURCES_CONNECTED = "1.3.6.1.4.1.32473.1.1.1.2.0"
SOURCE = "1.3.6.1.4.1.32473.1.1.1.3.1"
CONNECTED = 1
IPSEC_TUNNEL = "1.3.6.1.4.1.9.9.171.1.3.2.1"
ENGINE_BOOTS = "1.3.6.1.6.3.10.2.1.2.0"
UP, DOWN = 1, 2


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[tuple[Pair, OurAgent]]:
    for tool in ("snmpwalk", "snmpget"):
        require_tool(tool)
    with pair((getattr(request, "param", "ours"), "strongswan")) as made:
        agent = OurAgent.of(made.a)
        try:
            yield made, agent
        finally:
            agent.stop()


def source(agent: OurAgent) -> dict[int, object]:
    """The one row of igSourceTable: column -> value."""
    (row,) = agent.snmp.table(SOURCE).values()
    return {column: value.value for column, value in row.items()}


def tunnel(agent: OurAgent) -> tuple[str, dict[int, int]] | None:
    """Index and columns of the one IPsec tunnel, None while there is none."""
    rows = agent.snmp.table(IPSEC_TUNNEL)
    if not rows:
        return None
    ((index, row),) = rows.items()
    return index, {column: value.value for column, value in row.items()}


def shows(agent: OurAgent, status: int) -> bool:
    seen = tunnel(agent)
    return seen is not None and seen[1][51] == status


@pytest.mark.parametrize("lab", ["ours", "strongswan"], indirect=True)
def test_gateway_dies_and_comes_back(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    agent.start()
    wait_until(lambda: agent.snmp.get_one(SOURCES_CONNECTED).value == 1, 5, "connected")
    made.a.initiate("net")
    left, right = made.namespaces
    wait_until(lambda: shows(agent, UP), 5, "the tunnel is shown as up")
    sent = traffic.send_udp(left, right, *made.ends(), [500] * 4)
    wait_until(lambda: (tunnel(agent) or ("", {40: 0}))[1][40] == sent, 5, "the octets are shown")
    index, _ = tunnel(agent)  # type: ignore[misc]
    before = source(agent)
    assert before[5] == CONNECTED

    made.a.kill()
    wait_until(lambda: agent.snmp.get_one(SOURCES_CONNECTED).value == 0, 5, "the loss is told")
    away = source(agent)
    assert away[5] != CONNECTED
    assert away[19], "igSourceLastError says why"
    assert agent.process.alive
    assert tunnel(agent) is not None, "the row vanished with its gateway"

    made.a.start()
    wait_until(lambda: agent.snmp.get_one(SOURCES_CONNECTED).value == 1, 15, "reconnected")
    back = source(agent)
    assert back[5] == CONNECTED
    assert back[11] == before[11] + 1  # type: ignore[operator]
    wait_until(lambda: shows(agent, DOWN), 5, "the tunnel is down: the gateway knows no SA")
    made.a.initiate("net")
    wait_until(lambda: shows(agent, UP), 5, "up again")
    assert tunnel(agent)[0] == index, "the same tunnel has another row"  # type: ignore[index]
    more = traffic.send_udp(left, right, *made.ends(), [300])
    wait_until(lambda: tunnel(agent)[1][40] == sent + more, 5, "totals go on")  # type: ignore[index]


def test_agent_starts_before_its_gateway(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    made.a.stop()
    agent.start()
    assert agent.snmp.get_one(SOURCES_CONNECTED).value == 0
    assert source(agent)[5] != CONNECTED
    assert tunnel(agent) is None
    made.a.start()
    wait_until(lambda: source(agent)[5] == CONNECTED, 15, "connected at last")
    made.a.initiate("net")
    wait_until(lambda: shows(agent, UP), 5, "the tunnel is shown")


def test_agent_is_killed_and_started_again(lab: tuple[Pair, OurAgent]) -> None:
    """Row indexes and the engine's identity survive; boots go up, so v3 managers stay in step."""
    made, agent = lab
    agent.start()
    made.a.initiate("net")
    wait_until(lambda: shows(agent, UP), 5)
    index, _ = tunnel(agent)  # type: ignore[misc]
    boots = agent.operator.get_one(ENGINE_BOOTS).value
    engine = agent.operator.get_one("1.3.6.1.6.3.10.2.1.1.0").value
    agent.process.kill()
    agent.start()
    wait_until(lambda: shows(agent, UP), 5)
    assert tunnel(agent)[0] == index  # type: ignore[index]
    assert agent.operator.get_one(ENGINE_BOOTS).value == boots + 1
    assert agent.operator.get_one("1.3.6.1.6.3.10.2.1.1.0").value == engine
    assert made.b.established(), "the agent's end is none of the tunnel's business"


def test_agent_ends_in_order(lab: tuple[Pair, OurAgent]) -> None:
    _, agent = lab
    agent.start()
    agent.stop()
    assert agent.process.returncode == 0
    assert "Traceback" not in agent.process.text()

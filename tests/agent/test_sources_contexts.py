"""Each source is an SNMP context: net-snmp's tools see it alone, or all sources in the default context."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agent_lab import CONFIG, FLOW, OPERATOR, READER, TUNNEL_STATUS, Lab, fill, write_private
from fake_vici import FakeVici

from agent.config import load_config
from agent.daemon import AgentDaemon

TUNNELS = f"{FLOW}.3.2.1.2"
ACTIVE = f"{FLOW}.3.1.1.0"
PREVIOUS = f"{FLOW}.3.1.2.0"
SELECTORS = "1.3.6.1.3.98.1.1.1.1.3"
SYS_NAME, SOURCE_NAMES = "1.3.6.1.2.1.1.5.0", "1.3.6.1.6.3.16.1.1.1.1"
SECOND = """
[sources.east]
type = "vici"
socket = "{folder}/east.sock"
poll_interval = 0.2
timeout = 5
[[community]]
name = "eastern"
role = "monitor"
networks = ["127.0.0.0/8"]
context = "east"
[[community]]
name = "fakes"
role = "monitor"
networks = ["127.0.0.0/8"]
context = "fake"
"""
ROLE = """
[[user]]
name = "any"
role = "operator"
auth = "SHA-256"
auth_password = "correct horse"
priv = "AES-128"
priv_password = "battery staple"
"""
EVERYWHERE = tuple("any" if word == "op" else word for word in OPERATOR)


@pytest.fixture(autouse=True)
def tools(require_tool: Callable[[str], str]) -> None:
    for name in ("snmpbulkwalk", "snmpget", "snmpset"):
        require_tool(name)


@asynccontextmanager
async def two_sources(folder: Path) -> AsyncIterator[tuple[Lab, FakeVici]]:
    """Source fake with 3 tunnels, source east with 2, of which both have selectors in common."""
    path = folder / "ipsec-snmpd.toml"
    text = CONFIG + SECOND + ROLE
    write_private(path, text.format(folder=folder, poll=0.2))
    west, east = FakeVici(str(folder / "vici.sock")), FakeVici(str(folder / "east.sock"))
    fill(west, 3)
    fill(east, 2)
    await west.start()
    await east.start()
    agent = AgentDaemon(load_config(path))
    stop = asyncio.Event()
    await agent.start()
    task = asyncio.create_task(agent.run_until(stop))
    lab = Lab(folder, west, agent)
    try:
        await lab.until(lambda: agent.gateway.active_tunnels == 5)
        yield lab, east
    finally:
        stop.set()
        await task
        await agent.stop()
        await west.stop()
        await east.stop()


async def count(lab: Lab, root: str, user: tuple[str, ...]) -> int:
    out, error = await lab.tool("snmpbulkwalk", root, user=user)
    assert not error, error
    return sum(line.startswith(f".{root}.") for line in out.splitlines())


def context(name: str) -> tuple[str, ...]:
    return (*EVERYWHERE, "-n", name)


def community(name: str) -> tuple[str, ...]:
    return ("-v2c", "-c", name)


def test_a_context_shows_its_source_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_sources(tmp_path) as (lab, east):
            for user, tunnels in (
                (READER, 5),
                (EVERYWHERE, 5),
                (context("fake"), 3),
                (context("east"), 2),
                (community("fakes"), 3),
                (community("eastern"), 2),
            ):
                assert await count(lab, TUNNELS, user) == tunnels, user
                assert await count(lab, f"{FLOW}.2.3.1.2", user) == tunnels
                assert await count(lab, f"{FLOW}.3.4.1.3", user) == 2 * tunnels
                # both fakes give the same addresses, SPIs and selectors: together one row for what is one index
                assert await count(lab, "1.3.6.1.3.98.1.1.2.1.16", user) == min(tunnels, 3)
                assert await count(lab, SELECTORS, user) == min(tunnels, 3)
                out, _ = await lab.tool("snmpget", ACTIVE, SYS_NAME, user=user)
                assert f"Gauge32: {tunnels}\n" in out
                assert "STRING" in out
                octets, _ = await lab.tool("snmpget", f"{FLOW}.3.1.4.0", user=user)
                total = {5: 900, 3: 600, 2: 300}[tunnels]
                assert f"Counter64: {total}\n" in octets
            # an end in one source is none of the other's
            east.down(1)
            await lab.until(lambda: lab.agent.gateway.active_tunnels == 4)
            for user, ended in ((context("east"), 1), (context("fake"), 0), (EVERYWHERE, 1)):
                out, _ = await lab.tool("snmpget", PREVIOUS, user=user)
                assert f"Counter32: {ended}\n" in out

    asyncio.run(main())


def test_who_may_not_use_a_context_sees_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_sources(tmp_path) as (lab, _):
            _, error = await lab.tool("snmpget", ACTIVE, user=context("nowhere"))
            assert "Bad context" in error
            # an access entry without a context is for the default context
            out, error = await lab.tool("snmpget", ACTIVE, user=(*OPERATOR, "-n", "east"))
            assert "Gauge32" not in out
            assert "authorizationError" in out + error

    asyncio.run(main())


def test_a_tunnel_is_deleted_in_its_own_context(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_sources(tmp_path) as (lab, east):
            index = next(t.index for t in lab.agent.gateway.feeds["east"].rows.tunnels.values())
            varbind = (f"{TUNNEL_STATUS}.{index}", "i", "2")
            _, error = await lab.tool("snmpset", *varbind, user=context("fake"))
            assert "noCreation" in error
            assert len(east.children) == 2
            out, error = await lab.tool("snmpset", *varbind, user=context("east"))
            assert out, error
            assert east.commands
            assert not lab.daemon.commands

    asyncio.run(main())


def test_contexts_come_and_go_with_the_configuration(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_sources(tmp_path) as (lab, _):
            path = tmp_path / "ipsec-snmpd.toml"
            one = (CONFIG + ROLE).format(folder=tmp_path, poll=0.2)
            write_private(path, one)
            await lab.agent.reload()
            _, error = await lab.tool("snmpget", ACTIVE, user=context("east"))
            assert "Bad context" in error
            assert await count(lab, TUNNELS, EVERYWHERE) == 3
            assert await count(lab, TUNNELS, context("fake")) == 3
            out, _ = await lab.tool("snmpget", f"{FLOW}.3.1.4.0", user=EVERYWHERE)
            assert "Counter64: 900\n" in out  # what the source counted is not taken back
            write_private(path, one + SECOND.format(folder=tmp_path))
            await lab.agent.reload()
            await lab.until(lambda: lab.agent.gateway.active_tunnels == 5)
            assert await count(lab, TUNNELS, context("east")) == 2
            # another socket is another source under the old name
            moved = SECOND.replace("east.sock", "nowhere.sock")
            write_private(path, one + moved.format(folder=tmp_path))
            await lab.agent.reload()
            assert await count(lab, TUNNELS, context("east")) == 0
            assert await count(lab, TUNNELS, EVERYWHERE) == 3
            out, _ = await lab.tool("snmpget", SYS_NAME, user=context("east"))
            assert "STRING" in out

    asyncio.run(main())

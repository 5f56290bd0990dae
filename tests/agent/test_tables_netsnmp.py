"""The whole agent on a fake daemon of 1,000 tunnels, asked and told by net-snmp's tools."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_lab import CONFIG, FLOW, IKE_STATUS, TUNNEL_STATUS, beside_fake
from fake_vici import FakeVici, child_section, ike_section

from agent.gateway import SourceStatus


@pytest.fixture(autouse=True)
def tools(require_tool: Callable[[str], str]) -> None:
    for name in ("snmpbulkwalk", "snmpget", "snmpset"):
        require_tool(name)


def test_a_thousand_tunnels_are_walked(tmp_path: Path) -> None:
    async def main() -> None:
        async with beside_fake(tmp_path, 1000, poll=1.0) as lab:
            # so many changes at once are taken over between answers
            async with asyncio.timeout(5):
                while len(await lab.walk(f"{FLOW}.3.4.1.3")) < 2000:
                    await asyncio.sleep(0.05)
            tunnels = await lab.walk(f"{FLOW}.3.2")
            octets = {oid: value for oid, value in tunnels.items() if oid.startswith(f"{FLOW}.3.2.1.27.")}
            assert len(octets) == 1000
            assert sum(int(value.split(": ")[1]) for value in octets.values()) == 100 * 1000 * 1001 // 2
            assert {value for oid, value in tunnels.items() if oid.startswith(f"{TUNNEL_STATUS}.")} == {
                "INTEGER: 1"
            }
            ike = await lab.walk(f"{FLOW}.2.3.1.7")
            assert len(set(ike.values())) == 1000
            for root, rows in (
                (f"{FLOW}.3.4.1.3", 2000),
                (f"{FLOW}.3.3.1.4", 1000),
                ("1.3.6.1.3.98.1.1.2.1.16", 1000),
            ):
                assert len(await lab.walk(root)) == rows
            counters = lab.agent.agent.controller.counters
            assert not counters.getter_errors
            assert not counters.values_outside_syntax
            assert not counters.indexes_invalid
            assert not counters.indexes_duplicate

    asyncio.run(main())


def test_sets_act_and_wrong_ones_do_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with beside_fake(tmp_path, 5) as lab:
            commands = lab.daemon.commands
            up = lambda: sum(map(len, lab.daemon.children.values()))  # noqa: E731
            wrong = {
                (f"{TUNNEL_STATUS}.1", "i", "3"): "wrongValue",
                (f"{TUNNEL_STATUS}.1", "s", "x"): "wrongType",
                (f"{TUNNEL_STATUS}.999", "i", "2"): "noCreation",
                (f"{FLOW}.3.2.1.27.1", "u", "0"): "notWritable",
                (f"{TUNNEL_STATUS}.1", "i", "2", f"{IKE_STATUS}.2", "i", "7"): "wrongValue",
                ("1.3.6.1.3.98.1.6.1.0", "i", "1"): "inconsistentValue",
            }
            for varbinds, reason in wrong.items():
                assert await lab.set(*varbinds) == reason
            assert not await lab.set(f"{TUNNEL_STATUS}.1", "i", "1")
            assert commands == []
            assert not await lab.set(f"{TUNNEL_STATUS}.1", "i", "2")
            assert commands == [("terminate", {"child-id": "1", "timeout": "-1"})]
            await lab.until(lambda: lab.agent.gateway.active_tunnels == 4)
            assert (await lab.walk(TUNNEL_STATUS))[f"{TUNNEL_STATUS}.1"] == "INTEGER: 2"
            assert await lab.set(f"{TUNNEL_STATUS}.1", "i", "1") == "inconsistentValue"
            # One PDU, one change: the child of an IKE SA that is destroyed is not destroyed once more.
            commands.clear()
            many = [
                f"{TUNNEL_STATUS}.2",
                "i",
                "2",
                f"{IKE_STATUS}.2",
                "i",
                "2",
                f"{TUNNEL_STATUS}.3",
                "i",
                "2",
            ]
            assert not await lab.set(*many)
            assert [message for _, message in commands] == [
                {"ike-id": "2", "timeout": "-1"},
                {"child-id": "3", "timeout": "-1"},
            ]
            assert up() == 2
            lab.daemon.refuse["terminate"] = "no"
            assert await lab.set(f"{IKE_STATUS}.4", "i", "2") == "commitFailed"
            assert up() == 2
            out, error = await lab.tool("snmpset", f"{IKE_STATUS}.4", "i", "2")
            assert "authorizationError" in error  # readers have no write view at all
            assert not out
            # sent, and no answer: it may have been done, so 'nothing has changed' would be a guess
            lab.agent.agent._responder.set_timeout = 0.3
            lab.daemon.hang = True
            assert await lab.set(f"{IKE_STATUS}.4", "i", "2") == "undoFailed"
            lab.daemon.hang = False
            await lab.daemon.stop()
            await lab.until(lambda: lab.agent.gateway.feeds["fake"].source.status is not SourceStatus.UP)
            assert await lab.set(f"{IKE_STATUS}.4", "i", "2") == "resourceUnavailable"

    asyncio.run(main())


def test_the_agent_answers_whatever_the_daemon_does(tmp_path: Path) -> None:
    state, octets = "1.3.6.1.4.1.32473.1.1.1.3.1.5.1", f"{FLOW}.3.2.1.27.1"

    async def main() -> None:
        async with beside_fake(tmp_path, 3) as lab:
            assert await lab.get(state, octets) == ["INTEGER: 1", "Counter64: 100"]
            await lab.daemon.stop()
            source = lab.agent.gateway.feeds["fake"].source
            await lab.until(lambda: source.status is SourceStatus.STALE)
            assert await lab.get(state, octets, f"{TUNNEL_STATUS}.1") == [
                "INTEGER: 2",
                "Counter64: 100",
                "INTEGER: 1",
            ]
            await lab.until(lambda: source.status is SourceStatus.DOWN)
            assert await lab.get(state, octets, f"{TUNNEL_STATUS}.1") == [
                "INTEGER: 3",
                "Counter64: 100",
                "INTEGER: 2",
            ]
            assert not await lab.walk(f"{FLOW}.3.4")
            Path(lab.daemon.path).unlink(missing_ok=True)
            await lab.daemon.start()
            await lab.until(lambda: source.status is SourceStatus.UP)
            assert await lab.get(state, octets, f"{TUNNEL_STATUS}.1") == [
                "INTEGER: 1",
                "Counter64: 100",
                "INTEGER: 1",
            ]

    asyncio.run(main())


def test_the_agent_outlives_a_fault_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with beside_fake(tmp_path, 1) as lab:

            def fault() -> None:
                raise ValueError("nobody thought of this")

            lab.agent.gateway.tick = fault  # type: ignore[method-assign]
            await lab.until(lambda: "nobody thought of this" in caplog.text)
            assert await lab.get(f"{TUNNEL_STATUS}.1") == ["INTEGER: 1"]

    asyncio.run(main())


def test_rows_keep_their_numbers_over_a_restart_of_the_agent(tmp_path: Path) -> None:
    async def main() -> None:
        async with beside_fake(tmp_path, 4) as lab:
            before = await lab.walk(f"{FLOW}.2.3.1.7")
        async with beside_fake(tmp_path, 4) as lab:
            # another order of discovery: the first connection comes last
            assert await lab.walk(f"{FLOW}.2.3.1.7") == before
            del lab.daemon.connections["gw1"]
            lab.daemon.down(1)
        async with beside_fake(tmp_path, 4) as lab:
            assert await lab.walk(f"{FLOW}.2.3.1.7") == before

    asyncio.run(main())


def test_reload_adds_and_removes_sources(tmp_path: Path) -> None:
    async def main() -> None:
        async with beside_fake(tmp_path, 2) as lab:
            path = tmp_path / "ipsec-snmpd.toml"
            text = path.read_text()
            second = FakeVici(str(tmp_path / "second.sock"))
            second.up("gw", ike_section(1), child_section(1, octets=700))
            await second.start()
            try:
                path.write_text(
                    text + f'[sources.two]\nsocket = "{tmp_path}/second.sock"\npoll_interval = 0.2\n'
                )
                await lab.agent.reload()
                await lab.until(lambda: lab.agent.gateway.active_tunnels == 3)
                assert lab.agent.gateway.child_total("octets_in") == 1000
                path.write_text(text.replace("stale_after = 1", "history_size = 7"))
                await lab.agent.reload()
                assert list(lab.agent.gateway.feeds) == ["fake"]
                assert lab.agent.gateway.history.size == 7
                assert lab.agent.gateway.active_tunnels == 2
            finally:
                await second.stop()

    asyncio.run(main())


def test_the_program_starts_checks_reloads_and_ends(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "ipsec-snmpd.toml"
    path.write_text(CONFIG.format(folder=tmp_path, poll=1))
    path.chmod(0o600)
    command = [sys.executable, "-m", "agent.cli", "--config", str(path)]

    def program(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=repository, capture_output=True, text=True, timeout=30
        )

    checked = program("--check")
    assert checked.returncode == 1
    assert "in order" in checked.stdout
    assert "vici.sock: No such file or directory; is the daemon running" in checked.stdout
    process = subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert "listening on" in first, first
        process.send_signal(signal.SIGHUP)
        while "configuration reloaded" not in (line := process.stderr.readline()):
            assert line
        path.write_text(path.read_text() + "[sources.bad]\nsockets = 1\n")
        process.send_signal(signal.SIGHUP)
        while "not reloaded" not in (line := process.stderr.readline()):
            assert line
        assert "sources.bad.sockets: no such key" in line
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
    failed = program()
    assert failed.returncode == 2
    assert "sources.bad.sockets" in failed.stderr
    assert "Traceback" not in failed.stderr
    path.write_text(CONFIG.format(folder=tmp_path, poll=1).replace(f"{tmp_path}/state", "/proc/none"))
    failed = program()
    assert failed.returncode == 1
    assert "state_dir" in failed.stderr
    assert "Traceback" not in failed.stderr

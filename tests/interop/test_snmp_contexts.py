"""Contexts with net-snmp as the manager: each source has one of its name; communities and access choose."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_lab import CONFIG, FLOW, OPERATOR, READER, Beside, fill, thread_beside_fake, write_private
from fake_vici import FakeVici
from lab.process import wait_until
from smi_support import snmp

ACTIVE = f"{FLOW}.3.1.1.0"
STATUS = f"{FLOW}.3.2.1.51"
FIRST, SECOND = 3, 5
MORE = """
[[community]]
name = "of-second"
group = "monitor any"
networks = ["127.0.0.0/8"]
context = "second"
[[community]]
name = "of-fake"
group = "only second"
networks = ["127.0.0.0/8"]
context = "fake"
[[user]]
name = "prefixed"
group = "sec"
auth = "SHA-256"
auth_password = "correct horse"
[[access]]
group = "monitor any"
model = "v2c"
level = "noAuthNoPriv"
context_match = "prefix"
read = "all"
[[access]]
group = "only second"
model = "v2c"
level = "noAuthNoPriv"
context = "second"
read = "all"
[[access]]
group = "sec"
level = "authNoPriv"
context = "sec"
context_match = "prefix"
read = "all"
[[access]]
group = "operator"
context = "second"
read = "all"
write = "all"
"""
SOURCE = """
[sources.second]
type = "vici"
socket = "{folder}/second.sock"
poll_interval = {poll}
timeout = 5
reconnect_max = 0.3
"""
PREFIXED = ("-v3", "-u", "prefixed", "-l", "authNoPriv", "-a", "SHA-256", "-A", "correct horse")


@pytest.fixture(scope="session", autouse=True)
def _namespaces_and_tools(require_tool: Callable[[str], str]) -> None:
    """No namespaces here; net-snmp's tools."""
    for tool in ("snmpget", "snmpwalk", "snmpset", "snmptable"):
        require_tool(tool)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Beside]:
    """An agent of two sources, with three tunnels and with five."""
    text = CONFIG.replace("[gateway]", MORE + "[gateway]") + SOURCE
    with thread_beside_fake(tmp_path, FIRST, text=text) as made:
        second = FakeVici(str(tmp_path / "second.sock"))
        fill(second, SECOND)
        made.call(second.start())
        try:
            wait_until(lambda: number(made, READER) == FIRST + SECOND, 10, "both sources are there")
            yield made
        finally:
            made.call(second.stop())


def endpoint(agent: Beside) -> str:
    return f"127.0.0.1:{agent.address[1]}"


def number(agent: Beside, who: tuple[str, ...], context: str = "") -> int | str:
    """How many tunnels are active, or what net-snmp says instead of a number."""
    said = snmp(
        "snmpget", (*who, *(("-n", context) if context else ())), endpoint(agent), ACTIVE, timeout="1"
    )
    return int(said.split()[1]) if said.startswith(f".{ACTIVE} ") and "No Such" not in said else said


def rows(agent: Beside, who: tuple[str, ...], context: str = "") -> int:
    said = snmp("snmpwalk", (*who, *(("-n", context) if context else ())), endpoint(agent), STATUS)
    return sum(line.startswith(f".{STATUS}.") for line in said.splitlines())


def test_each_context_shows_its_source(agent: Beside) -> None:
    wait_until(lambda: rows(agent, READER) == FIRST + SECOND, 5)
    assert rows(agent, OPERATOR) == FIRST + SECOND
    assert (number(agent, OPERATOR, "second"), rows(agent, OPERATOR, "second")) == (SECOND, SECOND)
    assert (number(agent, ("-v2c", "-c", "of-second")), rows(agent, ("-v2c", "-c", "of-second"))) == (
        SECOND,
        SECOND,
    )


def test_access_is_by_context(agent: Beside) -> None:
    """The operator has an entry for "" and for second, none for fake; a prefix is good for what begins so."""
    assert "authorizationError" in str(number(agent, OPERATOR, "fake"))
    assert number(agent, PREFIXED, "second") == SECOND
    assert "authorizationError" in str(number(agent, PREFIXED))
    assert "authorizationError" in str(number(agent, PREFIXED, "fake"))
    assert "authorizationError" in str(number(agent, ("-v2c", "-c", "of-fake")))


@pytest.mark.parametrize("context", ["third", "secon", "second ", "SECOND", "x" * 300])
def test_contexts_that_are_not(agent: Beside, context: str) -> None:
    said = number(agent, OPERATOR, context)
    assert isinstance(said, str)
    assert "Bad context" in said or "authorizationError" in said or "Timeout" in said


def test_a_set_in_a_context_reaches_its_source_alone(agent: Beside) -> None:
    before = agent.do(lambda: len(agent.lab.daemon.commands))
    index = (
        snmp("snmpwalk", (*OPERATOR, "-n", "second"), endpoint(agent), STATUS).split()[0].rpartition(".")[2]
    )
    said = snmp("snmpset", (*OPERATOR, "-n", "second"), endpoint(agent), f"{STATUS}.{index}", "i", "2")
    assert said == f".{STATUS}.{index} 2\n"
    wait_until(lambda: number(agent, OPERATOR, "second") == SECOND - 1, 5)
    assert number(agent, READER) == FIRST + SECOND - 1
    assert agent.do(lambda: len(agent.lab.daemon.commands)) == before


def test_a_context_goes_with_its_source(agent: Beside, tmp_path: Path) -> None:
    path = tmp_path / "ipsec-snmpd.toml"
    text = path.read_text()
    fewer = text.replace(SOURCE.format(folder=tmp_path, poll=0.3), "")
    assert fewer != text
    fewer = fewer.replace(MORE[: MORE.index("[[user]]")], "")
    write_private(path, fewer)
    agent.call(agent.lab.agent.reload())
    assert "Bad context" in str(number(agent, PREFIXED, "second"))
    wait_until(lambda: number(agent, READER) == FIRST, 5)
    write_private(path, text)
    agent.call(agent.lab.agent.reload())
    wait_until(lambda: number(agent, PREFIXED, "second") == SECOND, 5)


def test_a_table_by_its_names(agent: Beside, repository: Path) -> None:
    """snmptable, which needs our MIB modules to be right for net-snmp's own parser."""
    folders = f"{repository}/mibs/src:{repository}/mibs/base"
    wait_until(lambda: rows(agent, READER) == FIRST + SECOND, 5)
    table = "CISCO-IPSEC-FLOW-MONITOR-MIB::cipSecTunnelTable"
    command = [
        "snmptable",
        "-M",
        folders,
        "-m",
        "ALL",
        "-Cw",
        "4000",
        "-CB",
        "-Cf",
        ";",
        *READER,
        endpoint(agent),
        table,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = [line for line in done.stdout.splitlines() if ";" in line]
    names = lines[0].split(";")
    assert "cipSecTunHcInOctets" in names
    assert len(lines) == 1 + FIRST + SECOND
    octets = [int(line.split(";")[names.index("cipSecTunHcInOctets")].split()[0]) for line in lines[1:]]
    assert sorted(octets) == sorted([100 * n for n in (*range(1, FIRST + 1), *range(1, SECOND + 1))])
    assert {line.split(";")[names.index("cipSecTunStatus")] for line in lines[1:]} == {"active"}

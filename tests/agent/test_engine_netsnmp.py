"""The running agent with net-snmp's tools as the manager: versions, levels, access, walks, SETs, reload."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from smi_support import (
    COMMUNITY,
    CONFIG,
    DOTTED,
    OPERATOR,
    WRITER,
    Running,
    TestModel,
    config,
    request,
    rows,
    running,
    snmp,
    v2c,
)

from agent.config import ConfigError, Listen, parse_config
from agent.engine.pdu import GET
from agent.engine.transport import TransportError
from agent.smi.rowstatus import RowStatus, StoredRow

SYSTEM = "1.3.6.1.2.1.1"
NAME = f"{SYSTEM}.5.0"
READ_ONLY = f"{DOTTED}.1.3.0"
LIMITED = f"{DOTTED}.1.1.0"
SHORT = f"{DOTTED}.1.2.0"
USER_PASSWORDS = ("-A", "authpassword", "-X", "privpassword")


@pytest.fixture(autouse=True)
def _tools(require_tool: Callable[[str], str]) -> None:
    require_tool("snmpget")


@pytest.fixture
def model() -> TestModel:
    return TestModel(rows=rows(40))


@pytest.fixture
def agent(tmp_path: Path, model: TestModel) -> Iterator[Running]:
    with running(tmp_path, model) as made:
        yield made


def v3(user: str, level: str, *options: str) -> tuple[str, ...]:
    return ("-v3", "-u", user, "-l", level, *options)


WHO = {
    "v1": (("-v1", "-c", "reader"), True),
    "v2c": (COMMUNITY, True),
    "authPriv SHA-256 AES-128": (OPERATOR, True),
    "authPriv SHA-512 AES-256": (
        v3("strong", "authPriv", "-a", "SHA-512", "-x", "AES-256", *USER_PASSWORDS),
        True,
    ),
    "authPriv SHA-384 AES-192": (
        v3("middle", "authPriv", "-a", "SHA-384", "-x", "AES-192", *USER_PASSWORDS),
        True,
    ),
    "authNoPriv SHA-224": (v3("signer", "authNoPriv", "-a", "SHA-224", "-A", "authpassword"), True),
    "noAuthNoPriv": (v3("anybody", "noAuthNoPriv"), True),
    "v3 level too low for the group": (
        v3("operator", "authNoPriv", "-a", "SHA-256", "-A", "authpassword"),
        False,
    ),
    "v3 without authentication": (v3("operator", "noAuthNoPriv"), False),
    "user as community": (("-v2c", "-c", "operator"), False),
    "community as user": (v3("reader", "noAuthNoPriv"), False),
    "unknown community": (("-v2c", "-c", "public"), False),
    "wrong version of a community": (("-v1", "-c", "elsewhere"), False),
    "wrong password": (v3("signer", "authNoPriv", "-a", "SHA-224", "-A", "otherpassword"), False),
    "wrong privacy password": (
        v3("operator", "authPriv", "-a", "SHA-256", "-A", "authpassword", "-x", "AES", "-X", "otherpassword"),
        False,
    ),
    "level above the user's": (
        v3("signer", "authPriv", "-a", "SHA-224", "-x", "AES", *USER_PASSWORDS),
        False,
    ),
}


@pytest.mark.parametrize(("who", "good"), WHO.values(), ids=WHO.keys())
def test_versions_and_levels(agent: Running, who: tuple[str, ...], good: bool) -> None:
    said = snmp("snmpget", who, agent.endpoint(), NAME, timeout="1")
    assert (said == f'.{NAME} "gateway"\n') is good, said
    assert agent.agent.counters.internal_errors == 0


def test_ipv6(agent: Running) -> None:
    assert snmp("snmpget", COMMUNITY, agent.endpoint(ipv6=True), NAME) == f'.{NAME} "gateway"\n'


@pytest.mark.parametrize("tool", ["snmpwalk", "snmpbulkwalk"])
@pytest.mark.parametrize("who", [COMMUNITY, OPERATOR], ids=["v2c", "v3"])
def test_walks_see_everything_once_and_in_order(agent: Running, tool: str, who: tuple[str, ...]) -> None:
    lines = snmp(tool, who, agent.endpoint(), DOTTED).splitlines()
    oids = [tuple(map(int, line.split()[0].lstrip(".").split("."))) for line in lines]
    assert oids == sorted(set(oids))
    # five scalars have a value; twelve columns are full, one has every third row
    assert len(oids) == 4 + 40 * 12 + 13
    assert lines[-1].split()[0] == f".{DOTTED}.2.1.14.39"


def test_version_1_walk_has_no_counter64(agent: Running) -> None:
    said = snmp("snmpwalk", ("-v1", "-c", "reader"), agent.endpoint(), DOTTED)
    lines = said.splitlines()
    assert not any(line.startswith(f".{DOTTED}.2.1.7.") for line in lines)
    assert sum(line.startswith(f".{DOTTED}.2.1.8.") for line in lines) == 40


def test_values_of_every_syntax(agent: Running) -> None:
    columns = [f"{DOTTED}.2.1.{number}.2" for number in range(2, 14)]
    said = snmp("snmpget", COMMUNITY, agent.endpoint(), *columns).splitlines()
    values = [line.split(" ", 1)[1] for line in said]
    assert values[:7] == ["2", "2", "1", "2000", "2", "18446744073709551614", "0:0:00:02.00"]
    assert values[7] == '"row 2"'
    assert values[8].replace(" ", "") == '"07E70B0E160D16002B0000"'
    assert values[9:11] == ["192.0.2.2", ".1.3.6.1.2"]
    assert values[11].replace(" ", "") == '"8020"'


def test_views(agent: Running) -> None:
    who = v3("anybody", "noAuthNoPriv")
    said = snmp("snmpbulkwalk", who, agent.endpoint(), "1.3.6.1").splitlines()
    oids = [line.split()[0] for line in said if line.startswith(".1")]
    assert all(oid.startswith(f".{SYSTEM}.") or oid.endswith(".2") for oid in oids)
    assert not any(oid.startswith(f".{SYSTEM}.9.") for oid in oids)
    assert f".{DOTTED}.2.1.2.2" in oids
    assert "No Such" in snmp("snmpget", who, agent.endpoint(), READ_ONLY)
    assert "No Such" in snmp("snmpget", who, agent.endpoint(), f"{DOTTED}.2.1.2.3")


def test_bulk_with_many_repeaters_and_a_small_manager(agent: Running) -> None:
    columns = [f"{DOTTED}.2.1.{number}" for number in range(2, 14)]
    options = ("-Cn2", "-Cr500")
    said = snmp("snmpbulkget", (*COMMUNITY, *options), agent.endpoint(), *columns, *columns)
    lines = [line for line in said.splitlines() if line.startswith(".")]
    assert len(lines) > 500
    assert lines[0].startswith(f".{DOTTED}.2.1.2.1 ")


def test_a_set_changes_what_is_shown(agent: Running, model: TestModel) -> None:
    for who in (WRITER, OPERATOR):
        for value in ("1", "2"):
            assert snmp("snmpset", who, agent.endpoint(), LIMITED, "i", value) == f".{LIMITED} {value}\n"
            assert snmp("snmpget", COMMUNITY, agent.endpoint(), LIMITED) == f".{LIMITED} {value}\n"
    cell = f"{DOTTED}.2.1.2.7"
    assert snmp("snmpset", WRITER, agent.endpoint(), cell, "i", "99") == f".{cell} 99\n"
    assert snmp("snmpget", COMMUNITY, agent.endpoint(), cell) == f".{cell} 99\n"
    slow = f"{DOTTED}.1.4.0"
    assert snmp("snmpset", OPERATOR, agent.endpoint(), slow, "i", "3") == f".{slow} 3\n"


GOOD = [(LIMITED, "i", "5"), (SHORT, "s", "xyz"), (f"{DOTTED}.2.1.2.3", "i", "42")]
BAD = {
    "notWritable": (READ_ONLY, "i", "1"),
    "wrongType": (LIMITED, "s", "5"),
    "wrongLength": (SHORT, "s", "x"),
    "wrongValue": (LIMITED, "i", "11"),
    "noCreation": (f"{DOTTED}.2.1.2.999", "i", "1"),
    "inconsistentName": (f"{DOTTED}.3.1.2.110.101.119", "i", "1"),
    "inconsistentValue": (f"{DOTTED}.3.1.5.110.101.119", "i", "4"),
    "commitFailed": (f"{DOTTED}.1.5.0", "i", "1"),
}


@pytest.mark.parametrize("position", [0, 1, 3])
@pytest.mark.parametrize(("code", "bad"), BAD.items())
def test_wrong_sets_change_nothing(
    agent: Running, model: TestModel, code: str, bad: tuple[str, str, str], position: int
) -> None:
    varbinds = [item for item in GOOD if item[0] != bad[0]]
    varbinds.insert(position, bad)
    before = (dict(model.scalars), dict(model.rows[2].values), dict(model.stored))
    arguments = [word for item in varbinds for word in item]
    said = snmp("snmpset", WRITER, agent.endpoint(), *arguments)
    assert f"Reason: {code}" in said
    assert f"Failed object: .{bad[0]}\n" in said
    assert (dict(model.scalars), dict(model.rows[2].values), dict(model.stored)) == before


def test_no_access_by_view(tmp_path: Path, model: TestModel) -> None:
    text = CONFIG.replace(
        'read = "all"\nwrite = "all"\ninsecure_write', 'read = "all"\nwrite = "some"\ninsecure_write'
    )
    with running(tmp_path, model, text) as agent:
        said = snmp("snmpset", WRITER, agent.endpoint(), f"{SYSTEM}.4.0", "s", "x", LIMITED, "i", "5")
        assert "Reason: noAccess" in said
        assert f"Failed object: .{LIMITED}" in said
        assert snmp("snmpget", COMMUNITY, agent.endpoint(), f"{SYSTEM}.4.0") == f'.{SYSTEM}.4.0 "root"\n'


def test_rows_are_made_and_unmade(agent: Running, model: TestModel) -> None:
    row = ".97.98"
    limit, status = f"{DOTTED}.3.1.2{row}", f"{DOTTED}.3.1.5{row}"
    said = snmp("snmpset", OPERATOR, agent.endpoint(), status, "i", "4", limit, "i", "7")
    assert said == f".{status} 4\n.{limit} 7\n"
    assert model.stored[b"ab"].status is RowStatus.active
    said = snmp("snmpwalk", COMMUNITY, agent.endpoint(), f"{DOTTED}.3")
    assert said.splitlines()[-1] == f".{status} 1"
    assert snmp("snmpset", OPERATOR, agent.endpoint(), status, "i", "6") == f".{status} 6\n"
    assert "No Such" in snmp("snmpwalk", COMMUNITY, agent.endpoint(), f"{DOTTED}.3")


def test_read_only_by_default(agent: Running) -> None:
    said = snmp("snmpset", COMMUNITY, agent.endpoint(), f"{SYSTEM}.4.0", "s", "x")
    assert "authorizationError" in said
    said = snmp("snmpset", OPERATOR, agent.endpoint(), f"{SYSTEM}.6.0", "s", "x")
    assert "notWritable" in said


def test_what_was_set_in_the_system_group_survives_a_restart(tmp_path: Path, model: TestModel) -> None:
    with running(tmp_path, model) as agent:
        said = snmp("snmpset", OPERATOR, agent.endpoint(), f"{SYSTEM}.4.0", "s", "noc")
        assert said == f'.{SYSTEM}.4.0 "noc"\n'
    with running(tmp_path, model) as agent:
        assert snmp("snmpget", COMMUNITY, agent.endpoint(), f"{SYSTEM}.4.0") == f'.{SYSTEM}.4.0 "noc"\n'
    with running(tmp_path, model, CONFIG.replace('writable = ["contact", "name"]', "")) as agent:
        assert snmp("snmpget", COMMUNITY, agent.endpoint(), f"{SYSTEM}.4.0") == f'.{SYSTEM}.4.0 "root"\n'


def test_the_snmp_group_counts(agent: Running) -> None:
    def count(number: int) -> int:
        oid = f"1.3.6.1.2.1.11.{number}.0"
        return int(snmp("snmpget", COMMUNITY, agent.endpoint(), oid).split()[1])

    before = [count(number) for number in (1, 4, 5)]
    snmp("snmpget", ("-v2c", "-c", "wrong"), agent.endpoint(), NAME, timeout="0.2")
    snmp("snmpset", COMMUNITY, agent.endpoint(), LIMITED, "i", "1")
    after = [count(number) for number in (1, 4, 5)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [5, 1, 1]


def test_names_by_the_mib_files(agent: Running, repository: Path) -> None:
    """With our MIB modules loaded, net-snmp finds names, labels and rows."""
    folders = f"{repository}/mibs/src:{repository}/mibs/base"
    command = ["snmptranslate", "-M", folders, "-m", "SNMPv2-MIB", "-On", "SNMPv2-MIB::sysORDescr"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == f".{SYSTEM}.9.1.3"
    command = [
        "snmpwalk",
        "-M",
        folders,
        "-m",
        "SNMPv2-MIB",
        "-v2c",
        "-c",
        "reader",
        agent.endpoint(),
        "system",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "SNMPv2-MIB::sysName.0 = STRING: gateway" in done.stdout
    assert "SNMPv2-MIB::sysORDescr.1 = STRING: The MIB module SNMPv2-MIB" in done.stdout


def test_answers_while_a_set_waits(agent: Running) -> None:
    command = [
        "snmpset",
        "-Onq",
        "-t",
        "5",
        "-r",
        "0",
        *WRITER,
        agent.endpoint(),
        f"{DOTTED}.1.10.0",
        "i",
        "1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as waiting:
        assert snmp("snmpget", COMMUNITY, agent.endpoint(), NAME, timeout="0.5") == f'.{NAME} "gateway"\n'
        assert waiting.poll() is None
        assert waiting.stdout is not None
        assert "commitFailed" in waiting.stdout.read()


def test_reload(agent: Running, tmp_path: Path) -> None:
    endpoint = agent.endpoint()
    old = agent.agent.config
    text = CONFIG.replace('name = "reader"', 'name = "newcomer"')
    text = text.replace("priv_password = 'privpassword'", "priv_password = 'newpassword'")
    fresh = config(tmp_path, text)
    agent.call(agent.agent.reload(fresh))
    assert agent.endpoint() == endpoint
    assert "Timeout" in snmp("snmpget", COMMUNITY, endpoint, NAME, timeout="0.3")
    assert snmp("snmpget", ("-v2c", "-c", "newcomer"), endpoint, NAME) == f'.{NAME} "gateway"\n'
    assert "Decryption error" in snmp("snmpget", OPERATOR, endpoint, NAME)
    assert "gateway" in snmp("snmpget", (*OPERATOR[:-1], "newpassword"), endpoint, NAME)
    with pytest.raises(ConfigError, match="restart"):
        agent.call(agent.agent.reload(replace(old, max_message_size=1472)))
    with pytest.raises(TransportError, match=r"cannot listen on 192\.0\.2\.1:161"):
        agent.call(agent.agent.reload(replace(fresh, users=(), listen=(Listen("192.0.2.1", 161),))))
    assert "gateway" in snmp("snmpget", (*OPERATOR[:-1], "newpassword"), endpoint, NAME)


def test_all_addresses_instead_of_one_and_back(agent: Running) -> None:
    settings, port = agent.agent.config, agent.agent.addresses[0][1]
    one, every, none = (Listen(host, port) for host in ("127.0.0.1", "0.0.0.0", "192.0.2.1"))
    agent.call(agent.agent.reload(replace(settings, listen=(one,))))
    for listen in (every, one):
        agent.call(agent.agent.reload(replace(settings, listen=(listen,))))
        assert agent.agent.addresses == [(listen.host, port)]
        assert "gateway" in snmp("snmpget", COMMUNITY, f"127.0.0.1:{port}", NAME)
    with pytest.raises(TransportError, match="cannot listen on 192"):
        agent.call(agent.agent.reload(replace(settings, listen=(every, none))))
    assert agent.agent.addresses == [("127.0.0.1", port)]
    assert "gateway" in snmp("snmpget", COMMUNITY, f"127.0.0.1:{port}", NAME)


def test_an_address_in_use_is_told(tmp_path: Path, agent: Running, model: TestModel) -> None:
    port = agent.agent.addresses[0][1]
    text = CONFIG.replace('"127.0.0.1:0", "[::1]:0"', f'"127.0.0.1:{port}"')
    with pytest.raises(
        TransportError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use; end what"
    ):
        Running(config(tmp_path / "other", text), [], model)


def test_nobody_is_served_by_an_empty_configuration(tmp_path: Path, model: TestModel) -> None:
    settings = parse_config(
        f'[agent]\nstate_dir = "{tmp_path}"\nlisten = ["127.0.0.1:0"]', tmp_path / "c.toml"
    )
    agent = Running(settings, [], model)
    try:
        for who in (COMMUNITY, ("-v2c", "-c", "public"), OPERATOR, v3("", "noAuthNoPriv")):
            said = snmp("snmpget", who, agent.endpoint(), NAME, timeout="0.3")
            assert "gateway" not in said
            assert f".{NAME} " not in said
    finally:
        agent.stop()


def test_stored_rows_show(agent: Running, model: TestModel) -> None:
    model.stored[b"z"] = StoredRow(RowStatus.notReady)
    model.stamp += 1
    assert snmp("snmpwalk", COMMUNITY, agent.endpoint(), f"{DOTTED}.3").splitlines() == [
        f".{DOTTED}.3.1.4.122 3",
        f".{DOTTED}.3.1.5.122 3",
    ]


def test_the_answer_leaves_from_the_address_that_was_asked(tmp_path: Path, model: TestModel) -> None:
    """A connected socket takes answers from there only; 127.0.0.2 and .3 are both this machine's."""
    text = CONFIG.replace('"127.0.0.1:0", "[::1]:0"', '"0.0.0.0:0", "[::]:0"')
    with running(tmp_path, model, text) as agent:
        ask = v2c(request(GET, [(1, 3, 6, 1, 2, 1, 1, 5, 0)]))
        ports = dict(agent.agent.addresses)
        for family, host, port in (
            (socket.AF_INET, "127.0.0.2", ports["0.0.0.0"]),
            (socket.AF_INET, "127.0.0.3", ports["0.0.0.0"]),
            (socket.AF_INET6, "::1", ports["::"]),
        ):
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.settimeout(2)
                sock.connect((host, port))
                sock.send(ask)
                assert b"gateway" in sock.recv(1500)

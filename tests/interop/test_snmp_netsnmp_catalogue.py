"""net-snmp's own test catalogue, told again against our agent: requests of each version, and how each ends.

What is asked follows its scenarios (GET, GETNEXT, GETBULK, SET and their failures for v1, v2c and v3; VACM that allows
and denies; community access by version and by source); how it is written here is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from smi_support import CONFIG, DOTTED, Running, TestModel, rows, running, snmp

SYSTEM = "1.3.6.1.2.1.1"
DESCRIPTION, UP_TIME, CONTACT, NAME = (f"{SYSTEM}.{n}.0" for n in (1, 3, 4, 5))
V1, V2C = ("-v1", "-c", "reader"), ("-v2c", "-c", "reader")
V1_WRITER, V2C_WRITER = ("-v1", "-c", "writer"), ("-v2c", "-c", "writer")
V3 = (
    *("-v3", "-u", "operator", "-l", "authPriv", "-a", "SHA-256", "-A", "authpassword"),
    *("-x", "AES", "-X", "privpassword"),
)
READERS = {"v1": V1, "v2c": V2C, "v3": V3}
INTEGER, COUNTER64, GAUGE = (f"{DOTTED}.2.1.{column}" for column in (2, 7, 5))
READ_ONLY, LIMITED, SHORT, BIG = (f"{DOTTED}.1.{number}.0" for number in (3, 1, 2, 8))


@pytest.fixture(scope="session", autouse=True)
def _namespaces_and_tools(require_tool: Callable[[str], str]) -> None:
    """No namespaces here; net-snmp's tools."""
    for tool in ("snmpget", "snmpgetnext", "snmpbulkget", "snmpbulkwalk", "snmpset", "snmpwalk"):
        require_tool(tool)


@pytest.fixture
def model() -> TestModel:
    return TestModel(rows=rows(40))


@pytest.fixture
def agent(synthetic: Callable[..., Running], model: TestModel) -> Running:
    return synthetic(model)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One agent for all who only read."""
    with running(tmp_path_factory.mktemp("agent"), TestModel(rows=rows(40)), CONFIG) as made:
        yield made


readers = pytest.mark.parametrize("who", READERS.values(), ids=READERS)

# --- reading ----------------------------------------------------------------------------------------------------------


@readers
def test_get(standing: Running, who: tuple[str, ...]) -> None:
    said = snmp("snmpget", (*who, "-Ot"), standing.endpoint(), UP_TIME, NAME, CONTACT).splitlines()
    assert said[0].split()[0] == f".{UP_TIME}"
    assert int(said[0].split()[1]) >= 0
    assert said[1:] == [f'.{NAME} "gateway"', f'.{CONTACT} "root"']


@readers
def test_getnext(standing: Running, who: tuple[str, ...]) -> None:
    said = snmp("snmpgetnext", who, standing.endpoint(), SYSTEM, f"{SYSTEM}.4", CONTACT, f"{INTEGER}.40")
    assert [line.split()[0] for line in said.splitlines()] == [
        f".{DESCRIPTION}",
        f".{CONTACT}",
        f".{NAME}",
        f".{DOTTED}.2.1.3.1",
    ]


@readers
def test_a_walk_of_everything_goes_to_the_end(standing: Running, who: tuple[str, ...]) -> None:
    said = snmp("snmpwalk", who, standing.endpoint(), "1").splitlines()
    last = said.pop()
    if who is V1:
        # v1 has no endOfMibView: the error noSuchName is its end, which net-snmp takes as such
        assert last == "End of MIB"
    else:
        assert "No more variables left in this MIB View" in last
    oids = [tuple(map(int, line.split()[0][1:].split("."))) for line in said if line.startswith(".1")]
    assert oids == sorted(set(oids))
    assert len(oids) > 470


@pytest.mark.parametrize("who", [V2C, V3], ids=["v2c", "v3"])
@pytest.mark.parametrize("repetitions", ["1", "2", "7", "1000"])
def test_a_bulk_walk_sees_what_a_walk_sees(standing: Running, who: tuple[str, ...], repetitions: str) -> None:
    plain = snmp("snmpwalk", who, standing.endpoint(), DOTTED)
    bulk = snmp("snmpbulkwalk", (*who, f"-Cr{repetitions}"), standing.endpoint(), DOTTED)
    assert bulk == plain
    assert len(plain.splitlines()) == 4 + 40 * 12 + 13


BULKS = {
    # non-repeaters, repetitions, names -> the instances that come
    "one non-repeater, two repetitions": (
        "1",
        "2",
        (f"{SYSTEM}.4", SYSTEM),
        (CONTACT, DESCRIPTION, f"{SYSTEM}.2.0"),
    ),
    "all are non-repeaters": ("2", "10", (f"{SYSTEM}.4", SYSTEM), (CONTACT, DESCRIPTION)),
    "no repetitions": ("1", "0", (f"{SYSTEM}.4", SYSTEM), (CONTACT,)),
    "nothing at all": ("0", "0", (SYSTEM,), ()),
    "side by side": (
        "0",
        "3",
        (INTEGER, GAUGE),
        tuple(f"{column}.{n}" for n in (1, 2, 3) for column in (INTEGER, GAUGE)),
    ),
    "the same name twice": ("0", "2", (INTEGER, INTEGER), tuple(f"{INTEGER}.{n}" for n in (1, 1, 2, 2))),
    "names in falling order": ("0", "1", (GAUGE, INTEGER), (f"{GAUGE}.1", f"{INTEGER}.1")),
}


@pytest.mark.parametrize("who", [V2C, V3], ids=["v2c", "v3"])
@pytest.mark.parametrize(("non_repeaters", "repetitions", "names", "expected"), BULKS.values(), ids=BULKS)
def test_bulkget(
    standing: Running,
    who: tuple[str, ...],
    non_repeaters: str,
    repetitions: str,
    names: tuple[str, ...],
    expected: tuple[str, ...],
) -> None:
    options = (f"-Cn{non_repeaters}", f"-Cr{repetitions}")
    said = snmp("snmpbulkget", (*who, *options), standing.endpoint(), *names)
    assert [line.split()[0] for line in said.splitlines() if line.startswith(".")] == [
        f".{n}" for n in expected
    ]


def test_a_large_bulkget_over_v3(standing: Running) -> None:
    """Five times the same non-repeater, and fifty more."""
    names = (f"{SYSTEM}.3",) * 5
    said = snmp("snmpbulkget", (*V3, "-Cn5", "-Cr50"), standing.endpoint(), *names, "1.3")
    lines = said.splitlines()
    assert len(lines) == 55
    assert [line.split()[0] for line in lines[:5]] == [f".{UP_TIME}"] * 5
    assert lines[5].startswith(f".{DESCRIPTION} ")


def test_a_bulkget_up_to_the_end_of_everything(standing: Running) -> None:
    said = snmp("snmpbulkget", (*V3, "-Cn1", "-Cr1472"), standing.endpoint(), NAME, f"{DOTTED}.2.1.14.36")
    lines = said.splitlines()
    assert lines[0].startswith(f".{SYSTEM}.6.0 ")
    assert lines[1] == f".{DOTTED}.2.1.14.39 39"
    assert "No more variables left" in lines[-1]


# --- reading what is not there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [V2C, V3], ids=["v2c", "v3"])
def test_exceptions(standing: Running, who: tuple[str, ...]) -> None:
    names = (f"{SYSTEM}.3.1", f"{SYSTEM}.99.0", f"{INTEGER}.999", UP_TIME, "1.3.6.1.5", "2.999.1")
    said = snmp("snmpget", who, standing.endpoint(), *names).splitlines()
    kinds = [" ".join(line.split()[1:4]) for line in said]
    assert kinds[:3] == ["No Such Instance", "No Such Object", "No Such Instance"]
    assert kinds[4:] == ["No Such Object", "No Such Object"]
    ends = snmp("snmpgetnext", who, standing.endpoint(), "2.999.1", f"{SYSTEM}.5").splitlines()
    assert "No more variables left" in ends[0]
    assert ends[1] == f'.{NAME} "gateway"'


@pytest.mark.parametrize("position", [1, 2, 3])
def test_version_1_says_no_such_name_and_where(standing: Running, position: int) -> None:
    names = [UP_TIME, NAME]
    names.insert(position - 1, f"{SYSTEM}.3.1")
    said = snmp("snmpget", (*V1, "-Cf"), standing.endpoint(), *names)
    assert "Reason: (noSuchName)" in said
    assert f"Failed object: .{SYSTEM}.3.1\n" in said


def test_version_1_sees_no_counter64(standing: Running) -> None:
    """RFC 3584, section 4.2.2: GET says noSuchName, GETNEXT goes past."""
    said = snmp("snmpget", (*V1, "-Cf"), standing.endpoint(), NAME, f"{COUNTER64}.1")
    assert "Reason: (noSuchName)" in said
    assert f"Failed object: .{COUNTER64}.1\n" in said
    said = snmp("snmpgetnext", V1, standing.endpoint(), COUNTER64, f"{COUNTER64}.39")
    assert [line.split()[0] for line in said.splitlines()] == [f".{DOTTED}.2.1.8.1"] * 2
    assert snmp("snmpget", V2C, standing.endpoint(), f"{COUNTER64}.1").endswith(f" {2**64 - 1}\n")


def test_version_1_at_the_end_of_everything(standing: Running) -> None:
    said = snmp("snmpgetnext", (*V1, "-Cf"), standing.endpoint(), NAME, "2.999.1")
    assert "Reason: (noSuchName)" in said
    assert "Failed object: .2.999.1\n" in said


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [V1_WRITER, V2C_WRITER, V3], ids=READERS)
def test_set(agent: Running, who: tuple[str, ...]) -> None:
    for value in ("foo", "bar", ""):
        assert snmp("snmpset", who, agent.endpoint(), CONTACT, "s", value) == f'.{CONTACT} "{value}"\n'
        assert snmp("snmpget", V2C, agent.endpoint(), CONTACT) == f'.{CONTACT} "{value}"\n'
    several = (CONTACT, "s", "both", LIMITED, "i", "4")
    assert snmp("snmpset", who, agent.endpoint(), *several) == f'.{CONTACT} "both"\n.{LIMITED} 4\n'


WRONG = {
    # what is set -> RFC 3416's error, and RFC 3584's for version 1
    "NULL": ((CONTACT, "n", "x"), "wrongType", "badValue"),
    "another type": ((CONTACT, "i", "1"), "wrongType", "badValue"),
    "too long": ((SHORT, "s", "abcde"), "wrongLength", "badValue"),
    "out of range": ((LIMITED, "i", "11"), "wrongValue", "badValue"),
    "read-only": ((READ_ONLY, "i", "1"), "notWritable", "noSuchName"),
    "an object that is not": ((f"{SYSTEM}.99.0", "i", "1"), "notWritable", "noSuchName"),
    "a row that is not": ((f"{INTEGER}.999", "i", "1"), "noCreation", "noSuchName"),
    "a row status that fits nothing": ((f"{DOTTED}.3.1.5.110", "i", "1"), "inconsistentValue", "badValue"),
    "what the stack refuses": ((f"{DOTTED}.1.5.0", "i", "1"), "commitFailed", "genError"),
}


@pytest.mark.parametrize(("bad", "code", "old_code"), WRONG.values(), ids=WRONG)
def test_set_errors(
    agent: Running, model: TestModel, bad: tuple[str, str, str], code: str, old_code: str
) -> None:
    good = (f"{INTEGER}.3", "i", "42")
    before = dict(model.rows[2].values)
    for who, expected in ((V2C_WRITER, code), (V3, code), (V1_WRITER, f"({old_code})")):
        said = snmp("snmpset", who, agent.endpoint(), *good, *bad)
        assert f"Reason: {expected}" in said, (who, said)
        assert f"Failed object: .{bad[0]}\n" in said
        assert dict(model.rows[2].values) == before


def test_set_of_readers(agent: Running) -> None:
    said = snmp("snmpset", V2C, agent.endpoint(), CONTACT, "s", "x")
    assert "Reason: authorizationError" in said
    said = snmp("snmpset", V1, agent.endpoint(), CONTACT, "s", "x")
    assert "Reason: (noSuchName)" in said  # RFC 3584, section 4.4: authorizationError has no older relative
    assert snmp("snmpget", V2C, agent.endpoint(), CONTACT) == f'.{CONTACT} "root"\n'


# --- who --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["-v1", "-v2c"])
@pytest.mark.parametrize(
    "community", ["notavalidcommunity", "Reader", "reader ", "reade", "readerr", "\x01", ""]
)
def test_wrong_communities_get_no_answer(standing: Running, version: str, community: str) -> None:
    said = snmp("snmpget", (version, "-c", community), standing.endpoint(), UP_TIME, timeout="0.2")
    assert "Timeout" in said


ONE_VERSION = CONFIG.replace('versions = ["v1", "v2c"]', 'versions = ["VERSION"]')


@pytest.mark.parametrize(("served", "other"), [("v1", "v2c"), ("v2c", "v1")])
def test_a_community_is_bound_to_its_versions(
    synthetic: Callable[..., Running], served: str, other: str
) -> None:
    agent = synthetic(None, ONE_VERSION.replace("VERSION", served))
    assert "gateway" in snmp("snmpget", (f"-{served}", "-c", "reader"), agent.endpoint(), NAME)
    assert "Timeout" in snmp("snmpget", (f"-{other}", "-c", "reader"), agent.endpoint(), NAME, timeout="0.3")


def test_communities_by_source(synthetic: Callable[..., Running]) -> None:
    """IPv4 and IPv6, a network, a single address; a community that is there for one is not for another."""
    text = CONFIG
    for name, networks in {
        "net4": '"127.0.0.0/8"',
        "host4": '"127.0.0.1/32"',
        "away4": '"10.0.0.0/8"',
        "any4": '"0.0.0.0/0"',
        "host6": '"::1/128"',
        "away6": '"2001:db8::/32"',
        "any": '"0.0.0.0/0", "::/0"',
    }.items():
        text += f'[[community]]\nname = "{name}"\ngroup = "monitor"\nnetworks = [{networks}]\n'
    agent = synthetic(None, text)
    for name, over4, over6 in (
        ("net4", True, False),
        ("host4", True, False),
        ("away4", False, False),
        ("any4", True, False),
        ("host6", False, True),
        ("away6", False, False),
        ("any", True, True),
    ):
        for ipv6, expected in ((False, over4), (True, over6)):
            said = snmp("snmpget", ("-v2c", "-c", name), agent.endpoint(ipv6=ipv6), NAME, timeout="0.3")
            assert ("gateway" in said) is expected, (name, ipv6, said)


# --- messages that are too big ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [V1, V2C, V3], ids=READERS)
def test_too_big(synthetic: Callable[..., Running], model: TestModel, who: tuple[str, ...]) -> None:
    """A GET that does not fit is tooBig; a GETBULK is cut; what fits fits."""
    text = CONFIG.replace("[agent]", "[agent]\nmax_message_size = 484", 1)
    model.scalars["sBig"] = b"x" * 300
    agent = synthetic(model, text)
    assert snmp("snmpget", who, agent.endpoint(), BIG).count("x") == 300
    said = snmp("snmpget", who, agent.endpoint(), BIG, BIG)
    assert "tooBig" in said, said
    if who is not V1:
        cut = snmp("snmpbulkget", (*who, "-Cn0", "-Cr100"), agent.endpoint(), INTEGER)
        assert 5 < len(cut.splitlines()) < 30
        walked = snmp("snmpbulkwalk", (*who, "-Cr100"), agent.endpoint(), f"{DOTTED}.2")
        assert walked == snmp("snmpwalk", who, agent.endpoint(), f"{DOTTED}.2")
        assert len(walked.splitlines()) > 480

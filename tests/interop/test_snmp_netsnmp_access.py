"""VACM (RFC 3415) with net-snmp as the manager: who sees what, by model, level, context and mask.

Two groups with views that are each other's opposite, as net-snmp's catalogue has them, then the finer points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from smi_support import DOTTED, Running, TestModel, rows, running, snmp

SYSTEM = "1.3.6.1.2.1.1"
DESCRIPTION, UP_TIME, CONTACT, NAME = (f"{SYSTEM}.{n}.0" for n in (1, 3, 4, 5))
AUTH = ("-a", "SHA-256", "-A", "authpassword")
PRIV = ("-x", "AES", "-X", "privpassword")
LEVELS = {"noAuthNoPriv": (), "authNoPriv": AUTH, "authPriv": (*AUTH, *PRIV)}
BOTH = "auth = 'SHA-256'\nauth_password = 'authpassword'\npriv = 'AES-128'\npriv_password = 'privpassword'\n"
VIEWS = {
    "all": (["1"], []),
    "description": ([DESCRIPTION[:-2]], []),
    "the rest": (["1"], [DESCRIPTION[:-2]]),
    "row two": ([f"{DOTTED}.2.1.*.2"], []),
    "all but row two": (["1"], [f"{DOTTED}.2.1.*.2"]),
    "one hole": ([SYSTEM], [NAME[:-2]]),
    "a hole in a hole": ([SYSTEM, "1.3.6.1.2.1.1.9.1.2"], ["1.3.6.1.2.1.1.9"]),
    "contact": ([CONTACT[:-2]], []),
    "one instance": ([NAME], []),
    "wild in the middle": (["1.3.6.1.2.*.1.5"], []),
}


def view(name: str) -> str:
    included, excluded = VIEWS[name]
    return f'[[view]]\nname = "{name}"\ninclude = {included}\n' + (
        f"exclude = {excluded}\n" if excluded else ""
    )


def community(name: str, group: str, versions: str = '["v1", "v2c"]') -> str:
    networks = '["127.0.0.0/8", "::1/128"]'
    return (
        f'[[community]]\nname = "{name}"\ngroup = "{group}"\nversions = {versions}\nnetworks = {networks}\n'
    )


def user(name: str, group: str) -> str:
    # without networks, what it asks without authentication would get no answer larger than the request
    return f'[[user]]\nname = "{name}"\ngroup = "{group}"\nnetworks = ["127.0.0.0/8", "::1/128"]\n{BOTH}'


def access(group: str, model: str, level: str, read: str, write: str = "", more: str = "") -> str:
    text = f'[[access]]\ngroup = "{group}"\nmodel = "{model}"\nlevel = "{level}"\nread = "{read}"\n'
    if write:
        text += f'write = "{write}"\ninsecure_write = true\n'
    return text + more


CONFIG = f"""
[agent]
listen = ["127.0.0.1:0", "[::1]:0"]
[system]
contact = "root"
name = "gateway"
description = "an agent"
writable = ["contact", "name"]
{"".join(map(view, VIEWS))}
{community("first", "one")}
{community("second", "two")}
{user("initial1", "one")}
{user("initial2", "two")}
{access("one", "any", "noAuthNoPriv", "description")}
{access("two", "any", "noAuthNoPriv", "the rest")}
{user("stepped", "steps")}
{access("steps", "usm", "noAuthNoPriv", "description")}
{access("steps", "usm", "authNoPriv", "the rest", "contact")}
{access("steps", "usm", "authPriv", "all", "all")}
{user("private", "private")}
{access("private", "usm", "authPriv", "all", "all")}
{user("signed", "signed")}
{access("signed", "usm", "authNoPriv", "all")}
{community("models", "models")}
{user("models", "models")}
{access("models", "v1", "noAuthNoPriv", "description")}
{access("models", "v2c", "noAuthNoPriv", "contact")}
{access("models", "any", "noAuthNoPriv", "the rest")}
{access("models", "usm", "authPriv", "all")}
{"".join(community(name.replace(" ", "-"), f"sees {name}") for name in VIEWS)}
{"".join(access(f"sees {name}", "any", "noAuthNoPriv", name) for name in VIEWS)}
{user("writer", "writers")}
{access("writers", "usm", "authPriv", "all", "contact")}
{user("blind", "blind writers")}
{access("blind writers", "usm", "authPriv", "description", "contact")}
{community("elsewhere", "in another context")}
{access("in another context", "any", "noAuthNoPriv", "all", more='context = "elsewhere"')}
{community("prefixed", "in a context of that kind")}
{access("in a context of that kind", "any", "noAuthNoPriv", "all", more='context_match = "prefix"')}
"""


@pytest.fixture(scope="session", autouse=True)
def _namespaces_and_tools(require_tool: Callable[[str], str]) -> None:
    """No namespaces here; net-snmp's tools."""
    for tool in ("snmpget", "snmpgetnext", "snmpset", "snmpwalk"):
        require_tool(tool)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("agent"), TestModel(rows=rows(5)), CONFIG) as made:
        yield made


def v3(name: str, level: str) -> tuple[str, ...]:
    return ("-v3", "-u", name, "-l", level, *LEVELS[level])


def sees(agent: Running, who: tuple[str, ...], oid: str) -> bool | str:
    """Whether `who` gets a value; the text when it is neither a value nor 'no such object'."""
    said = snmp("snmpget", who, agent.endpoint(), oid, timeout="1")
    if said.startswith(f".{oid} ") and "No Such" not in said:
        return True
    # noSuchInstance where other instances of the object may be seen (RFC 3416, section 4.2.1)
    if "No Such Object" in said or "No Such Instance" in said or "(noSuchName)" in said:
        return False
    return said.strip()


REFUSED = "authorizationError"
WAYS = {
    "v1": (("-v1", "-c", "first"), ("-v1", "-c", "second")),
    "v2c": (("-v2c", "-c", "first"), ("-v2c", "-c", "second")),
    **{level: (v3("initial1", level), v3("initial2", level)) for level in LEVELS},
}


@pytest.mark.parametrize(("first", "second"), WAYS.values(), ids=WAYS)
def test_allowed_and_denied(agent: Running, first: tuple[str, ...], second: tuple[str, ...]) -> None:
    """One sees just sysDescr, the other everything else; each is told that the rest is not there."""
    assert [sees(agent, first, oid) for oid in (DESCRIPTION, UP_TIME, NAME)] == [True, False, False]
    assert [sees(agent, second, oid) for oid in (DESCRIPTION, UP_TIME, NAME)] == [False, True, True]
    assert snmp("snmpgetnext", first, agent.endpoint(), "1").split()[0] == f".{DESCRIPTION}"
    assert snmp("snmpgetnext", second, agent.endpoint(), "1").split()[0] == f".{SYSTEM}.2.0"


LEVEL_CASES = {
    # user, level -> sysDescr, sysUpTime, SET of sysContact, SET of sysName
    ("stepped", "noAuthNoPriv"): (True, False, REFUSED, REFUSED),
    ("stepped", "authNoPriv"): (False, True, "", "noAccess"),
    ("stepped", "authPriv"): (True, True, "", ""),
    ("private", "noAuthNoPriv"): (REFUSED,) * 4,
    ("private", "authNoPriv"): (REFUSED,) * 4,
    ("private", "authPriv"): (True, True, "", ""),
    ("signed", "noAuthNoPriv"): (REFUSED,) * 4,
    ("signed", "authNoPriv"): (True, True, REFUSED, REFUSED),
    ("signed", "authPriv"): (True, True, REFUSED, REFUSED),
    ("writer", "authPriv"): (True, True, "", "noAccess"),
    ("blind", "authPriv"): (True, False, "", "noAccess"),
}


@pytest.mark.parametrize(
    ("case", "expected"), LEVEL_CASES.items(), ids=["-".join(case) for case in LEVEL_CASES]
)
def test_levels(agent: Running, case: tuple[str, str], expected: tuple[bool | str, ...]) -> None:
    who = v3(*case)
    reads = [sees(agent, who, oid) for oid in (DESCRIPTION, UP_TIME)]
    writes = []
    for oid in (CONTACT, NAME):
        said = snmp("snmpset", who, agent.endpoint(), oid, "s", "gateway")
        writes.append(said.partition("Reason: ")[2].split()[0] if "Reason: " in said else "")
        assert ("Reason" in said) is (said != f'.{oid} "gateway"\n')
    for got, wanted in zip([*reads, *writes], expected, strict=True):
        assert got == wanted or (wanted == REFUSED and REFUSED in str(got)), (got, wanted)


def test_security_models(agent: Running) -> None:
    """RFC 3415: the entry of the message's own model comes before that of any model, then the highest level."""
    oids = (DESCRIPTION, CONTACT, UP_TIME)
    assert [sees(agent, ("-v1", "-c", "models"), oid) for oid in oids] == [True, False, False]
    assert [sees(agent, ("-v2c", "-c", "models"), oid) for oid in oids] == [False, True, False]
    assert [sees(agent, v3("models", "authNoPriv"), oid) for oid in oids] == [False, True, True]
    assert [sees(agent, v3("models", "authPriv"), oid) for oid in oids] == [True, True, True]


SEEN = {
    "row two": ([f"{DOTTED}.2.1.2.2", f"{DOTTED}.2.1.13.2"], [f"{DOTTED}.2.1.2.1", f"{DOTTED}.1.1.0", NAME]),
    "all but row two": ([f"{DOTTED}.2.1.2.1", NAME, f"{DOTTED}.1.1.0"], [f"{DOTTED}.2.1.2.2"]),
    "one hole": ([DESCRIPTION, CONTACT], [NAME, f"{DOTTED}.1.1.0"]),
    "a hole in a hole": ([DESCRIPTION], ["1.3.6.1.2.1.1.9.1.3.1"]),
    "one instance": ([NAME], [DESCRIPTION, CONTACT]),
    "wild in the middle": ([NAME], [DESCRIPTION]),
}


@pytest.mark.parametrize(("name", "seen", "hidden"), [(n, *s) for n, s in SEEN.items()], ids=SEEN)
def test_views(agent: Running, name: str, seen: list[str], hidden: list[str]) -> None:
    """GET and a walk agree on what is in a view; what is not in it cannot be told from what is not there."""
    who = ("-v2c", "-c", name.replace(" ", "-"))
    assert [sees(agent, who, oid) for oid in seen] == [True] * len(seen)
    assert [sees(agent, who, oid) for oid in hidden] == [False] * len(hidden)
    row = hidden[0].startswith(f"{DOTTED}.2.1.")
    absent = f"{hidden[0]}00" if row else "1.3.6.1.4.1.32473.424242.0"
    told = [snmp("snmpget", who, agent.endpoint(), oid).split(" ", 1)[1] for oid in (absent, hidden[0])]
    assert told[0] == told[1]
    walked = {line.split()[0][1:] for line in snmp("snmpwalk", who, agent.endpoint(), "1").splitlines()}
    assert set(seen) <= walked
    assert not set(hidden) & walked
    everything = snmp("snmpwalk", ("-v2c", "-c", "all"), agent.endpoint(), "1").splitlines()
    for oid in {line.split()[0][1:] for line in everything} - walked:
        if oid.startswith("1"):
            assert sees(agent, who, oid) is False, oid
            break


def test_contexts(agent: Running) -> None:
    """An entry for another context gives nothing in the default one; a prefix of nothing fits every context."""
    said = sees(agent, ("-v2c", "-c", "elsewhere"), NAME)
    assert REFUSED in str(said)
    assert sees(agent, ("-v2c", "-c", "prefixed"), NAME) is True


def test_ipv6_is_no_way_around(agent: Running) -> None:
    said = snmp("snmpget", ("-v2c", "-c", "first"), agent.endpoint(ipv6=True), UP_TIME)
    assert "No Such Object" in said
    said = snmp("snmpget", v3("private", "authNoPriv"), agent.endpoint(ipv6=True), NAME)
    assert REFUSED in said

"""The tables of RFC 3415: what they decide, and net-snmp's snmpvacm as the manager."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smi_support import DOTTED, Running, TestModel, config, rows, running, snmp

from agent.config import AccessEntry, Subtree, parse_config
from agent.engine import lcd as lcds
from agent.engine.access import AccessControl, Failure, MibView
from agent.engine.epoch import Epoch
from agent.engine.lcd import Lcd
from agent.engine.lcd_access import AccessTables
from agent.engine.lcd_users import UserTable
from agent.engine.usm_crypto import LocalUser
from agent.smi.errors import SetError

SYSTEM = "1.3.6.1.2.1.1"
NAME = f"{SYSTEM}.5.0"
CONTACT = f"{SYSTEM}.4.0"
VACM = "1.3.6.1.6.3.16.1"


class Tables:
    """The tables alone, as a SET PDU sees them."""

    def __init__(self, folder: Path, text: str = "") -> None:
        self.lcd = Lcd(folder, Epoch())
        self.control = AccessControl({}, (), {}, ("", "a", "ab"))
        self.tables = AccessTables(self.lcd, self.control)
        self.lcd.load()
        self.tables.configure(parse_config(text, Path("c.toml")))

    def set(self, writer: Any, index: tuple[Any, ...], **values: Any) -> str:
        try:
            change = writer.test(None, None, index, values)
        except SetError as error:
            return f"{error.code.name} {error.column or ''}".strip()
        asyncio.run(change.commit())
        return ""

    def group(self, name: bytes, group: bytes, status: int = 4) -> str:
        values = {"vacmGroupName": group, "vacmSecurityToGroupStatus": status}
        return self.set(self.tables.groups_writer, (3, name), **values)

    def allow(self, group: bytes, read: bytes, context: bytes = b"", match: int = 1, level: int = 3) -> str:
        values = {"vacmAccessReadViewName": read, "vacmAccessContextMatch": match, "vacmAccessStatus": 4}
        return self.set(self.tables.access_writer, (group, context, 3, level), **values)

    def family(
        self, view: bytes, oid: tuple[int, ...], kind: int = 1, mask: bytes = b"", status: int = 4
    ) -> str:
        values = {
            "vacmViewTreeFamilyType": kind,
            "vacmViewTreeFamilyMask": mask,
            "vacmViewTreeFamilyStatus": status,
        }
        return self.set(self.tables.views_writer, (view, oid), **values)

    def reads(self, oid: tuple[int, ...], context: str = "", level: int = 3) -> bool | Failure:
        view = self.control.view(3, "op", level, context, "read")
        return view.allows(oid) if isinstance(view, MibView) else view


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def test_every_row_counts_at_once(tables: Tables) -> None:
    oid = (1, 3, 6, 1)
    assert tables.reads(oid) is Failure.noGroupName
    assert tables.group(b"op", b"g") == ""
    assert tables.reads(oid) is Failure.noAccessEntry
    assert tables.allow(b"g", b"v") == ""
    assert tables.reads(oid) is False
    assert tables.family(b"v", (1, 3)) == ""
    assert tables.reads(oid) is True
    assert tables.family(b"v", (1, 3, 6), kind=2) == ""
    assert tables.reads(oid) is False
    assert tables.set(tables.tables.views_writer, (b"v", (1, 3, 6)), vacmViewTreeFamilyStatus=2) == ""
    assert tables.reads(oid) is True
    assert tables.reads(oid, "a") is Failure.noAccessEntry
    assert tables.set(tables.tables.access_writer, (b"g", b"", 3, 3), vacmAccessContextMatch=2) == ""
    assert tables.reads(oid, "a") is True
    assert tables.reads(oid, "unknown") is Failure.noSuchContext
    assert tables.reads(oid, level=2) is Failure.noAccessEntry
    for writer, index, status in (
        (tables.tables.views_writer, (b"v", (1, 3)), "vacmViewTreeFamilyStatus"),
        (tables.tables.access_writer, (b"g", b"", 3, 3), "vacmAccessStatus"),
        (tables.tables.groups_writer, (3, b"op"), "vacmSecurityToGroupStatus"),
    ):
        assert tables.set(writer, index, **{status: 6}) == ""
    assert tables.reads(oid) is Failure.noGroupName


def test_rows_that_are_not_active_count_for_nothing(tables: Tables) -> None:
    assert tables.group(b"op", b"g", status=5) == ""
    assert tables.reads((1, 3)) is Failure.noGroupName
    assert tables.set(tables.tables.groups_writer, (3, b"x"), vacmSecurityToGroupStatus=4) == (
        "inconsistentValue vacmSecurityToGroupStatus"
    )


def test_they_outlive_a_restart_and_an_epoch_tells_of_each_change(tables: Tables, tmp_path: Path) -> None:
    epochs = [tables.lcd.epoch.value]
    for step in (
        lambda: tables.group(b"op", b"g"),
        lambda: tables.allow(b"g", b"v"),
        lambda: tables.family(b"v", (1,), mask=b"\x80"),
    ):
        assert step() == ""
        epochs.append(tables.lcd.epoch.value)
    assert epochs == sorted(set(epochs))
    again = Tables(tmp_path)
    assert again.reads((1, 3, 6)) is True
    assert again.lcd.epoch.value > 0


def test_names_must_be_text(tables: Tables) -> None:
    assert tables.group(b"\xff", b"g") == "noCreation"
    assert tables.group(b"op", b"\xff") == "wrongValue vacmGroupName"
    assert tables.allow(b"g", b"\xff") == "wrongValue vacmAccessReadViewName"
    assert tables.family(b"\xff", (1, 3)) == "noCreation"
    assert tables.family(b"v", (1, 3), mask=b"\xff\xfe") == ""


USER = {
    "usmUserAuthProtocol": "1.3.6.1.6.3.10.1.1.1",
    "usmUserPrivProtocol": "1.3.6.1.6.3.10.1.2.1",
    **dict.fromkeys(("usmUserPublic", "networks"), "x"),
    **dict.fromkeys(("authKey", "privKey"), "k"),
}


@pytest.mark.parametrize(
    "rows",
    [
        {"vacmAccessTable": [[["x67", "x", 3, 3], "active", {}]]},
        {"vacmSecurityToGroupTable": [[[3, "xff"], "active", {"vacmGroupName": "x67"}]]},
        {"vacmViewTreeFamilyTable": [[["x67", "1.3"], "active", {"vacmViewTreeFamilyType": 1}]]},
        {"usmUserTable": [[["x8000000001", "x67"], "active", {"authKey": "k00"}]]},
        {"usmUserTable": [[["x8000000001", "xff"], "notReady", {}]]},
        {"usmUserTable": [[["x8000000001", "x67"], "active", {**USER, "networks": "x67"}]]},
        {"usmUserTable": [[["x8000000001", "x67"], "active", {**USER, "usmUserPrivProtocol": "1.3"}]]},
    ],
)
def test_rows_of_a_file_that_no_set_would_have_made(tmp_path: Path, rows: dict[str, Any]) -> None:
    (tmp_path / "lcd.json").write_text(lcds._file(rows))
    lcd = Lcd(tmp_path, Epoch())
    AccessTables(lcd, AccessControl({}, (), {}))
    UserTable(lcd, lambda: None)
    with pytest.raises(lcds.LcdError, match=r"damaged \(row 1 of \w+ makes no sense\)"):
        lcd.load()


def test_a_whole_row_of_a_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "lcd.json").write_text(
        lcds._file({"usmUserTable": [[["x8000000001", "x67"], "active", USER]]})
    )
    lcd = Lcd(tmp_path, Epoch())
    users = UserTable(lcd, lambda: None)
    lcd.load()
    assert users.users() == {(b"\x80\0\0\0\x01", b"g"): LocalUser(b"g")}


ROLES = """
[[user]]
name = "op"
role = "ROLE"
auth = "SHA-256"
priv = "AES-128"
auth_password = 'password'
priv_password = 'password'
"""
SECRETS = [
    (1, 3, 6, 1, 6, 3, 15, 1, 2, 2, 1, 3, 1, 1),  # usmUserTable
    (1, 3, 6, 1, 6, 3, 16, 1, 2, 1, 3, 3, 1, 65),  # vacmSecurityToGroupTable
    (1, 3, 6, 1, 6, 3, 18, 1, 1, 1, 2, 1, 65),  # snmpCommunityTable
    (1, 3, 6, 1, 6, 3, 12, 1, 2, 1, 2, 1, 65),  # snmpTargetAddrTable
    (1, 3, 6, 1, 6, 3, 12, 1, 3, 1, 2, 1, 65),  # snmpTargetParamsTable
    (1, 3, 6, 1, 6, 3, 13, 1, 1, 1, 2, 1, 65),  # snmpNotifyTable
]
OPEN = [
    (1, 3, 6, 1, 2, 1, 1, 4, 0),  # sysContact
    (1, 3, 6, 1, 4, 1, 9, 9, 171, 1, 1, 0),
    (1, 3, 6, 1, 3, 98, 1, 1, 0),
    (1, 3, 6, 1, 4, 1, 32473, 1, 1, 0),
]
STATISTICS = [
    (1, 3, 6, 1, 6, 3, 15, 1, 1, 5, 0),  # usmStatsWrongDigests
    (1, 3, 6, 1, 6, 3, 10, 2, 1, 1, 0),  # snmpEngineID
    (1, 3, 6, 1, 6, 3, 11, 2, 1, 1, 0),  # snmpUnknownSecurityModels
    (1, 3, 6, 1, 2, 1, 11, 1, 0),  # snmpInPkts
]


@pytest.mark.parametrize("context", ["", "a", "ab"])
@pytest.mark.parametrize("role", ["monitor", "operator", "admin"])
def test_roles(tmp_path: Path, role: str, context: str) -> None:
    made = Tables(tmp_path, ROLES.replace("ROLE", role))

    def may(kind: str) -> Callable[[tuple[int, ...]], bool]:
        view = made.control.view(3, "op", 3, context, kind)
        return view.allows if isinstance(view, MibView) else lambda oid: False

    assert all(map(may("read"), OPEN + STATISTICS))
    assert all(map(may("notify"), OPEN))
    assert [may("read")(oid) for oid in SECRETS] == [role == "admin"] * len(SECRETS)
    assert [may("write")(oid) for oid in OPEN] == [role != "monitor"] * len(OPEN)
    assert [may("write")(oid) for oid in SECRETS] == [role == "admin"] * len(SECRETS)
    own = (1, 3, 6, 1, 6, 3, 15, 1, 2, 2, 1, 7, 1, 1)
    assert may("write")(own) == (role != "monitor")
    for level in (1, 2):
        assert made.control.view(3, "op", level, context, "read") is Failure.noAccessEntry
    for model in (1, 2):
        assert made.control.view(model, "op", 1, context, "read") is Failure.noGroupName


def test_roles_below_auth_priv(tmp_path: Path) -> None:
    text = """
[[user]]
name = "signer"
role = "operator"
insecure_write = true
auth = "SHA-256"
auth_password = 'password'
[[community]]
name = "c"
role = "monitor"
networks = ["127.0.0.0/8"]
"""
    control = Tables(tmp_path, text).control
    assert control.view(3, "signer", 1, "", "read") is Failure.noAccessEntry
    view = control.view(3, "signer", 2, "", "write")
    assert isinstance(view, MibView)
    assert view.allows(OPEN[0])
    view = control.view(2, "community1", 1, "", "read")
    assert isinstance(view, MibView)
    assert [view.allows(oid) for oid in (OPEN[0], SECRETS[0])] == [True, False]
    assert control.view(2, "community1", 1, "", "write") is Failure.noSuchView
    assert control.view(1, "community1", 1, "", "read") is Failure.noGroupName


def test_no_role_no_rows(tmp_path: Path) -> None:
    made = Tables(tmp_path)
    assert not [*made.tables.groups.rows(), *made.tables.access.rows(), *made.tables.views.rows()]


# -- exact by RFC 3415 ----------------------------------------------------------------------------------------


def chosen_by_the_rfc(entries: list[AccessEntry], model: int, level: int, context: str) -> AccessEntry | None:
    """vacmAccessTable's steps, one after the other as they are written."""
    left = [
        entry
        for entry in entries
        if (entry.context == context or (entry.context_prefix and context.startswith(entry.context)))
        and entry.model in (0, model)
        and entry.level <= level
    ]
    for keep in (lambda e: e.model == model, lambda e: e.context == context):
        left = [entry for entry in left if keep(entry)] or left
    longest = max((len(entry.context) for entry in left), default=0)
    left = [entry for entry in left if len(entry.context) == longest]
    return max(left, key=lambda entry: entry.level, default=None)


entries = st.lists(
    st.tuples(
        st.sampled_from([0, 2, 3]), st.integers(1, 3), st.sampled_from(["", "a", "ab", "abc"]), st.booleans()
    ),
    max_size=8,
    unique_by=lambda entry: entry[:3],
)


@settings(max_examples=300)
@given(entries, st.sampled_from([2, 3]), st.integers(1, 3), st.sampled_from(["", "a", "ab"]))
def test_the_entry_that_the_rfc_chooses(
    drawn: list[tuple[int, int, str, bool]], model: int, level: int, context: str
) -> None:
    rows = [AccessEntry("g", m, n, c, p, f"view{i}") for i, (m, n, c, p) in enumerate(drawn)]
    views = {row.read: [Subtree((1, i))] for i, row in enumerate(rows)}
    control = AccessControl({(model, "op"): "g"}, rows, views, ("", "a", "ab"))
    expected = chosen_by_the_rfc(rows, model, level, context)
    for _ in range(2):
        view = control.view(model, "op", level, context, "read")
        if expected is None:
            assert view is Failure.noAccessEntry
        else:
            assert isinstance(view, MibView)
            assert view.allows((1, rows.index(expected), 5))
            assert sum(view.allows((1, i)) for i in range(len(rows))) == 1


# -- net-snmp's snmpvacm --------------------------------------------------------------------------------------

CONFIG = """
[agent]
listen = ["127.0.0.1:0"]
[system]
name = "gateway"
contact = "root"
writable = ["contact"]
[[user]]
name = "admin"
role = "admin"
auth = "SHA-256"
priv = "AES-128"
auth_password = 'adminpassword'
priv_password = 'adminpassword'
[[user]]
name = "bob"
group = "nobodies"
auth = "SHA-256"
priv = "AES-128"
auth_password = 'bobspassword'
priv_password = 'bobspassword'
[[access]]
group = "nobodies"
context = "no-such-context"
"""


def v3(user: str, password: str, level: str = "authPriv") -> tuple[str, ...]:
    who = ("-v3", "-u", user, "-l", level, "-a", "SHA-256", "-A", password)
    return (*who, "-x", "AES", "-X", password) if level == "authPriv" else who


ADMIN = v3("admin", "adminpassword")
BOB = v3("bob", "bobspassword")
BOB_AUTH = v3("bob", "bobspassword", "authNoPriv")


@pytest.fixture(autouse=True)
def _tools(require_tool: Callable[[str], str]) -> None:
    require_tool("snmpvacm")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, TestModel(rows=rows(5)), CONFIG) as made:
        yield made


def vacm(agent: Running, *arguments: str, who: tuple[str, ...] = ADMIN) -> str:
    command = ["snmpvacm", "-t", "3", "-r", "0", *who, agent.endpoint(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def test_a_group_of_ones_own_with_snmpvacm(tmp_path: Path) -> None:
    # bob's place in a group comes from the configuration: that row is readOnly, so the group gets its rights
    with running(tmp_path, TestModel(rows=rows(5)), CONFIG) as agent:
        endpoint = agent.endpoint()
        assert "authorizationError" in snmp("snmpget", BOB, endpoint, NAME)
        assert "successfully created" in vacm(agent, "createView", "sys", SYSTEM)
        assert "successfully created" in vacm(agent, "createView", "-Ce", "sys", f"{SYSTEM}.4")
        assert "successfully created" in vacm(
            agent, "createAccess", "nobodies", "3", "2", "1", "sys", "none", "none"
        )
        for who in (BOB, BOB_AUTH):
            assert snmp("snmpget", who, endpoint, NAME) == f'.{NAME} "gateway"\n'
            assert "No Such" in snmp("snmpget", who, endpoint, CONTACT)
            assert "No Such" in snmp("snmpget", who, endpoint, f"{DOTTED}.1.1.0")
        assert "noAccess" in snmp("snmpset", BOB, endpoint, CONTACT, "s", "x")
        # now they may write it, but only with privacy
        assert "successfully created" in vacm(
            agent, "createAccess", "nobodies", "3", "3", "1", "sys", "all", "none"
        )
        assert "successfully created" in vacm(agent, "createView", "all", ".1")
        assert snmp("snmpset", BOB, endpoint, CONTACT, "s", "bob") == f'.{CONTACT} "bob"\n'
        assert "noAccess" in snmp("snmpset", BOB_AUTH, endpoint, CONTACT, "s", "x")
        # a masked view: row 2 of every column
        masked = f"{DOTTED}.2.1.0.2"
        assert "successfully created" in vacm(agent, "createView", "sys", masked, "ff.ff.ff.ff")
    with running(tmp_path, TestModel(rows=rows(5)), CONFIG) as agent:
        endpoint = agent.endpoint()
        assert snmp("snmpget", BOB, endpoint, NAME) == f'.{NAME} "gateway"\n'
        assert "successfully deleted" in vacm(agent, "deleteView", "sys", SYSTEM)
        assert "No Such" in snmp("snmpget", BOB, endpoint, NAME)
        assert "successfully deleted" in vacm(agent, "deleteAccess", "nobodies", "3", "3")
        assert "successfully deleted" in vacm(agent, "deleteAccess", "nobodies", "3", "2")
        assert "authorizationError" in snmp("snmpget", BOB, endpoint, NAME)


def test_a_view_with_a_mask_is_seen_at_once_on_every_path(agent: Running) -> None:
    endpoint = agent.endpoint()
    assert "successfully created" in vacm(
        agent, "createAccess", "nobodies", "3", "3", "1", "v", "none", "none"
    )
    assert snmp("snmpwalk", BOB, endpoint, DOTTED).count("\n.") == 0
    row = f"{DOTTED}.2.1.0.2"
    position = len(row.split(".")) - 2
    bits = "".join("0" if n == position else "1" for n in range(position + 2))
    octets = [bits[n : n + 8].ljust(8, "1") for n in range(0, len(bits), 8)]
    mask = ":".join(f"{int(octet, 2):02x}" for octet in octets)
    assert "successfully created" in vacm(agent, "createView", "v", row, mask)
    for tool in ("snmpwalk", "snmpbulkwalk"):
        lines = [line for line in snmp(tool, BOB, endpoint, DOTTED).splitlines() if line.startswith(".")]
        assert len(lines) >= 12, lines
        assert all(line.split()[0].endswith(".2") for line in lines)


def test_rows_of_the_configuration_are_fixed(agent: Running) -> None:
    assert "notWritable" in vacm(agent, "deleteSec2Group", "3", "bob")
    assert "inconsistentValue" in vacm(
        agent, "createSec2Group", "3", "bob", "role:admin"
    ) or "notWritable" in vacm(agent, "createSec2Group", "3", "bob", "role:admin")
    assert "notWritable" in vacm(agent, "deleteView", "role:admin", ".1.3.6.1")


def test_who_may_not_is_refused(agent: Running) -> None:
    assert "authorizationError" in vacm(agent, "createView", "all", ".1", who=BOB)
    assert "successfully created" in vacm(
        agent, "createAccess", "nobodies", "3", "3", "1", "all", "sys", "none"
    )
    assert "successfully created" in vacm(agent, "createView", "all", ".1")
    assert "successfully created" in vacm(agent, "createView", "sys", SYSTEM)
    assert "noAccess" in vacm(agent, "createSec2Group", "3", "eve", "role:admin", who=BOB)
    assert "noAccess" in vacm(agent, "createAccess", "x", "3", "3", "1", "all", "all", "none", who=BOB)


def test_contexts_come_and_go(agent: Running) -> None:
    endpoint, table = agent.endpoint(), f"{VACM}.1"
    assert snmp("snmpwalk", ADMIN, endpoint, table).splitlines() == [f'.{table}.1.1.0 ""']
    epoch = agent.agent.epoch.value

    async def add() -> None:
        agent.agent.add_context("stack", TestModel(rows=rows(2)))

    async def remove() -> None:
        agent.agent.remove_context("stack")

    agent.call(add())
    assert agent.agent.epoch.value > epoch
    said = snmp("snmpwalk", ADMIN, endpoint, table).splitlines()
    assert said == [f'.{table}.1.1.0 ""', f'.{table}.1.1.5.115.116.97.99.107 "stack"']
    assert snmp("snmpget", (*ADMIN, "-n", "stack"), endpoint, NAME) == f'.{NAME} "gateway"\n'
    # the context's own rows: two where the default context has five
    cell = f"{DOTTED}.2.1.2.5"
    assert f".{cell} " in snmp("snmpget", ADMIN, endpoint, cell)
    assert "No Such Instance" in snmp("snmpget", (*ADMIN, "-n", "stack"), endpoint, cell)
    agent.call(remove())
    assert "Bad context" in snmp("snmpget", (*ADMIN, "-n", "stack"), endpoint, NAME)
    assert snmp("snmpwalk", ADMIN, endpoint, table).splitlines() == [f'.{table}.1.1.0 ""']


def test_the_spin_lock(agent: Running) -> None:
    lock = f"{VACM}.5.1.0"
    value = snmp("snmpget", ADMIN, agent.endpoint(), lock).split()[1]
    view = f"{VACM}.5.2.1.6.1.118.2.1.3"
    wrong = str((int(value) + 1) % 2**31)
    said = snmp("snmpset", ADMIN, agent.endpoint(), lock, "i", wrong, view, "i", "4")
    assert "inconsistentValue" in said
    assert agent.agent.access_tables.views.get((b"v", (1, 3))) is None
    said = snmp("snmpset", ADMIN, agent.endpoint(), lock, "i", value, view, "i", "4")
    assert f".{view} 4" in said
    assert agent.agent.access_tables.views.get((b"v", (1, 3))) is not None


@pytest.mark.parametrize("subtree", ["3.1", "1.40", "2", "1"])
def test_subtrees_that_are_no_oid_make_no_row(agent: Running, subtree: str) -> None:
    parts = subtree.split(".")
    view = f"{VACM}.5.2.1.6.1.118.{len(parts)}.{subtree}"
    said = snmp("snmpset", ADMIN, agent.endpoint(), view, "i", "4")
    if subtree in ("1", "2"):
        assert snmp("snmpget", ADMIN, agent.endpoint(), view) == f".{view} 1\n"
    else:
        assert "noCreation" in said
        assert not [row for row in agent.agent.access_tables.views.rows() if row.index[0] == b"v"]


def test_one_pdu_that_fails_in_the_middle_changes_nothing(agent: Running, tmp_path: Path) -> None:
    good = [f"{VACM}.5.2.1.6.1.{97 + n}.2.1.3" for n in range(5)]
    arguments = [word for oid in good for word in (oid, "i", "4")]
    said = snmp("snmpset", ADMIN, agent.endpoint(), *arguments, f"{SYSTEM}.6.0", "s", "x")
    assert "notWritable" in said
    assert not (tmp_path / "lcd.json").exists()
    assert "error" not in snmp("snmpset", ADMIN, agent.endpoint(), *arguments).lower()
    assert sum(row.storage == 3 for row in agent.agent.access_tables.views.rows()) == 5


def test_the_table_is_bounded(agent: Running) -> None:
    agent.agent.access_tables.views.limit = 3
    for number in range(3):
        assert "successfully created" in vacm(agent, "createView", f"v{number}", ".1.3")
    assert "resourceUnavailable" in vacm(agent, "createView", "v3", ".1.3")
    assert "successfully deleted" in vacm(agent, "deleteView", "v0", ".1.3")
    assert "successfully created" in vacm(agent, "createView", "v3", ".1.3")


def test_reload_replaces_what_the_configuration_says(agent: Running, tmp_path: Path) -> None:
    assert "successfully created" in vacm(agent, "createView", "all", ".1")
    access = agent.agent.access
    text = CONFIG.replace('group = "nobodies"\nauth', 'role = "monitor"\nauth')
    agent.call(agent.agent.reload(config(tmp_path, text)))
    assert agent.agent.access is access
    assert snmp("snmpget", BOB, agent.endpoint(), NAME) == f'.{NAME} "gateway"\n'
    agent.call(agent.agent.reload(config(tmp_path, CONFIG)))
    assert "authorizationError" in snmp("snmpget", BOB, agent.endpoint(), NAME)
    assert agent.agent.access_tables.views.get((b"all", (1,))) is not None

"""usmUserTable: what RFC 3414 says of each column, and net-snmp's snmpusm as the manager."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from smi_support import Running, TestModel, config, rows, running, snmp

from agent.config import Secret, User, parse_config
from agent.engine import lcd_users, usm_crypto
from agent.engine.epoch import Epoch
from agent.engine.lcd import Lcd
from agent.engine.lcd_users import AUTH_OIDS, NO_AUTH, NO_PRIV, PRIV_OIDS, UserTable
from agent.engine.requester import requester
from agent.engine.usm_crypto import LocalUser, key_change_value
from agent.smi.errors import SetError
from agent.smi.rowstatus import RowStatus

HERE = b"\x80\0\0\0\x01here"
ELSEWHERE = b"\x80\0\0\0\x01away"
SECRET = Secret(b"a long password")
TEMPLATES = (
    User("plain"),
    User("signer", "SHA-256", SECRET),
    User("full", "SHA-1", SECRET, "AES-256", SECRET),
)


@dataclass(frozen=True)
class Who:
    model: int
    name: str
    level: int = 3


class Table:
    """The table alone, as a SET PDU sees it."""

    def __init__(self, folder: Path) -> None:
        self.lcd = Lcd(folder, Epoch())
        self.changes = 0
        self.users = UserTable(self.lcd, self._changed)
        self.lcd.load()
        self.users.configure(HERE, {user: usm_crypto.localize(user, HERE) for user in TEMPLATES})

    def _changed(self) -> None:
        self.changes += 1

    def set(self, name: bytes, who: Who | None = None, engine: bytes = HERE, **values: Any) -> str:
        """'' or the error-status and the column at fault."""
        columns = {f"usmUser{column}": value for column, value in values.items()}
        token = requester.set(who)
        try:
            change = self.users.writer.test(None, None, (engine, name), columns)
        except SetError as error:
            return f"{error.code.name} {(error.column or '').removeprefix('usmUser')}".strip()
        finally:
            requester.reset(token)

        async def commit() -> None:
            made = change.commit()
            if made is not None:
                await made

        asyncio.run(commit())
        return ""

    def user(self, name: bytes, engine: bytes = HERE) -> LocalUser | None:
        return self.users.users().get((engine, name))

    def row(self, name: bytes) -> Any:
        return self.users.table.get((HERE, name))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)


def pointer(name: str, column: int = 3, engine: bytes = HERE) -> tuple[int, ...]:
    return (*lcd_users.ENTRY, column, len(engine), *engine, len(name), *name.encode())


def change(table: Table, template: str, which: str, size: int = 0) -> tuple[bytes, bytes]:
    """(KeyChange value, new key) that replaces a template's key."""
    user = table.user(template.encode())
    assert user is not None
    old = getattr(user, f"{which}_key")
    new = bytes(range(len(old)))
    return key_change_value(user.auth, old, new, b"\x17" * len(old)), new


def test_the_configuration_is_shown_and_fixed(table: Table) -> None:
    full = table.row(b"full")
    assert (full.storage, full.status) == (5, 1)
    assert full["usmUserAuthProtocol"] == AUTH_OIDS["SHA-1"]
    assert full["usmUserPrivProtocol"] == PRIV_OIDS["AES-256"]
    user = table.user(b"full")
    assert user == usm_crypto.localize(TEMPLATES[2], HERE)
    for values in (
        {"Public": b"x"},
        {"Status": 6},
        {"Status": 2},
        {"StorageType": 2},
        {"AuthKeyChange": b""},
    ):
        assert table.set(b"full", **values).startswith("notWritable")
    assert table.user(b"full") == user


def test_cloning_as_the_rfc_recommends(table: Table) -> None:
    assert table.set(b"new", CloneFrom=pointer("full"), Status=5) == ""
    assert table.row(b"new").status is RowStatus.notReady
    assert table.user(b"new") is None
    assert table.set(b"new", Status=1) == "inconsistentValue Status"
    value, auth_key = change(table, "full", "auth")
    assert table.set(b"new", AuthKeyChange=value, Public=b"done") == ""
    # the privacy key is still the template's
    assert table.set(b"new", Status=1) == "inconsistentValue Status"
    value, priv_key = change(table, "full", "priv")
    assert len(value) == 64
    assert table.set(b"new", PrivKeyChange=value) == ""
    assert table.row(b"new").status is RowStatus.notInService
    assert table.set(b"new", Status=1) == ""
    assert table.user(b"new") == LocalUser(b"new", "SHA-1", "AES-256", auth_key, priv_key)
    assert table.row(b"new")["usmUserPublic"] == b"done"
    assert table.set(b"new", Status=2) == ""
    assert table.user(b"new") is None
    assert table.set(b"new", Status=6) == ""
    assert table.row(b"new") is None


def test_everything_in_one_pdu(table: Table) -> None:
    auth, auth_key = change(table, "full", "auth")
    priv, priv_key = change(table, "full", "priv")
    values = {"CloneFrom": pointer("full"), "AuthKeyChange": auth, "PrivKeyChange": priv}
    assert table.set(b"new", Status=4, **values) == ""
    assert table.user(b"new") == LocalUser(b"new", "SHA-1", "AES-256", auth_key, priv_key)


def test_users_without_secrets_need_no_new_keys(table: Table) -> None:
    assert table.set(b"new", CloneFrom=pointer("plain"), Status=4) == ""
    assert table.user(b"new") == LocalUser(b"new")
    # authentication switched off instead of changed
    assert table.set(b"quiet", CloneFrom=pointer("full"), Status=5) == ""
    assert table.set(b"quiet", AuthProtocol=NO_AUTH) == "inconsistentValue AuthProtocol"
    assert table.set(b"quiet", PrivProtocol=NO_PRIV) == ""
    assert table.set(b"quiet", AuthProtocol=NO_AUTH) == ""
    assert table.set(b"quiet", Status=1) == ""
    assert table.user(b"quiet") == LocalUser(b"quiet")
    # a key change is then a success without effect
    assert table.set(b"quiet", AuthKeyChange=b"anything", PrivKeyChange=b"x") == ""
    assert table.user(b"quiet") == LocalUser(b"quiet")
    assert table.set(b"both", CloneFrom=pointer("full"), Status=5) == ""
    assert table.set(b"both", AuthProtocol=NO_AUTH, PrivProtocol=NO_PRIV, Status=1) == ""


def test_a_row_that_was_never_cloned_is_nobody(table: Table) -> None:
    assert table.set(b"new", Status=4) == "inconsistentValue Status"
    assert table.set(b"new", Status=5) == ""
    assert table.set(b"new", Status=1) == "inconsistentValue Status"
    assert table.set(b"new", AuthKeyChange=bytes(40)) == "inconsistentName AuthKeyChange"
    assert table.set(b"new", PrivKeyChange=bytes(40)) == "inconsistentName PrivKeyChange"
    assert table.set(b"new", CloneFrom=pointer("plain"), Status=1) == ""


@pytest.mark.parametrize(
    "source",
    [
        (0, 0),
        pointer("nobody"),
        pointer("full", engine=ELSEWHERE),
        pointer("full")[:-1],
        (*pointer("full"), 1),
        (*lcd_users.ENTRY, 3, 300, 1),
        (*lcd_users.ENTRY, 3, 1, 300, 1, 65),
        lcd_users.ENTRY,
    ],
)
def test_there_must_be_an_active_user_to_clone(table: Table, source: tuple[int, ...]) -> None:
    assert table.set(b"new", CloneFrom=source, Status=5) == "inconsistentName CloneFrom"
    assert table.row(b"new") is None


def test_an_inactive_user_is_not_cloned(table: Table) -> None:
    assert table.set(b"new", CloneFrom=pointer("full"), Status=5) == ""
    assert table.set(b"other", CloneFrom=pointer("new"), Status=5) == "inconsistentName CloneFrom"


def test_only_the_first_cloning_counts(table: Table) -> None:
    assert table.set(b"new", CloneFrom=pointer("plain"), Status=4) == ""
    assert table.set(b"new", CloneFrom=pointer("full")) == ""
    assert table.set(b"new", CloneFrom=(0, 0)) == ""
    assert table.user(b"new") == LocalUser(b"new")


def test_protocols(table: Table) -> None:
    unknown = (1, 3, 6, 1, 6, 3, 10, 1, 1, 99)
    assert table.set(b"new", Status=5, AuthProtocol=unknown) == "wrongValue AuthProtocol"
    assert table.set(b"new", Status=5, PrivProtocol=unknown) == "wrongValue PrivProtocol"
    assert table.set(b"new", Status=5, PrivProtocol=PRIV_OIDS["DES"]) == "inconsistentValue PrivProtocol"
    values: Mapping[str, Any] = {"AuthProtocol": AUTH_OIDS["MD5"], "PrivProtocol": PRIV_OIDS["DES"]}
    assert table.set(b"new", Status=5, **values) == ""
    assert table.set(b"new", AuthProtocol=AUTH_OIDS["SHA-512"]) == "inconsistentValue AuthProtocol"
    assert table.set(b"new", AuthProtocol=unknown) == "inconsistentValue AuthProtocol"
    assert table.set(b"new", AuthProtocol=AUTH_OIDS["MD5"]) == ""
    assert table.set(b"new", PrivProtocol=PRIV_OIDS["AES-128"]) == "inconsistentValue PrivProtocol"
    # cloning overwrites whatever was there
    assert table.set(b"new", CloneFrom=pointer("signer")) == ""
    assert table.row(b"new")["usmUserAuthProtocol"] == AUTH_OIDS["SHA-256"]
    assert table.row(b"new")["usmUserPrivProtocol"] == NO_PRIV
    assert table.set(b"third", CloneFrom=pointer("signer"), Status=5, AuthProtocol=NO_AUTH) == ""
    assert table.row(b"third")["usmUserAuthProtocol"] == AUTH_OIDS["SHA-256"]


@pytest.mark.parametrize("size", [1, 39, 41, 64, 63])
def test_key_changes_of_a_wrong_length(table: Table, size: int) -> None:
    assert table.set(b"new", CloneFrom=pointer("full"), Status=5) == ""
    assert table.set(b"new", AuthKeyChange=bytes(size)) == "wrongLength AuthKeyChange"
    if size != 64:
        assert table.set(b"new", PrivKeyChange=bytes(size)) == "wrongLength PrivKeyChange"
    # the empty string is what the columns read as: it changes nothing
    assert table.set(b"new", AuthKeyChange=b"", PrivKeyChange=b"") == ""
    assert table.set(b"new", Status=1) == "inconsistentValue Status"


def test_own_keys_are_the_users_own_affair(table: Table) -> None:
    me, other = Who(3, "new"), Who(3, "other")
    assert table.set(b"new", CloneFrom=pointer("signer"), Status=5) == ""
    value, new = change(table, "signer", "auth")
    assert table.set(b"new", me, OwnAuthKeyChange=value) == "inconsistentValue OwnAuthKeyChange"
    assert table.set(b"new", AuthKeyChange=value, Status=1) == ""
    own = key_change_value("SHA-256", new, bytes(32), b"\x01" * 32)
    for who in (other, Who(2, "new"), Who(1, "new"), Who(3, "new", 1), None):
        assert table.set(b"new", who, OwnAuthKeyChange=own) == "noAccess OwnAuthKeyChange"
        assert table.set(b"new", who, OwnPrivKeyChange=own) == "noAccess OwnPrivKeyChange"
    assert (
        table.set(b"new", me, OwnAuthKeyChange=own, AuthKeyChange=own) == "inconsistentValue OwnAuthKeyChange"
    )
    user = table.user(b"new")
    assert user is not None
    assert user.auth_key == new
    assert table.set(b"new", me, OwnAuthKeyChange=own) == ""
    user = table.user(b"new")
    assert user is not None
    assert user.auth_key == bytes(32)


def test_users_of_other_engines(table: Table) -> None:
    assert table.set(b"full", engine=ELSEWHERE, CloneFrom=pointer("full"), Status=5) == ""
    values = {
        "AuthKeyChange": change(table, "full", "auth")[0],
        "PrivKeyChange": change(table, "full", "priv")[0],
    }
    assert table.set(b"full", engine=ELSEWHERE, Status=1, **values) == ""
    there = table.user(b"full", ELSEWHERE)
    assert there is not None
    assert there.priv_key == bytes(range(32))
    assert table.user(b"full") == usm_crypto.localize(TEMPLATES[2], HERE)


def test_storage(table: Table) -> None:
    assert (
        table.set(b"new", CloneFrom=pointer("full"), Status=5, StorageType=5)
        == "inconsistentValue StorageType"
    )
    assert table.set(b"new", CloneFrom=pointer("plain"), Status=4, StorageType=4) == "wrongValue StorageType"
    assert table.set(b"new", CloneFrom=pointer("plain"), Status=4, StorageType=2) == ""
    assert not table.lcd.path.exists()


def test_names_must_be_text(table: Table) -> None:
    assert table.set(b"\xff\xfe", CloneFrom=pointer("plain"), Status=4) == "noCreation"
    assert table.set("çelik".encode(), CloneFrom=pointer("plain"), Status=4) == ""


def test_clones_may_be_let_active_at_once(table: Table) -> None:
    table.users.activate_clones = True
    assert table.set(b"new", CloneFrom=pointer("full"), Status=4) == ""
    user, template = table.user(b"new"), table.user(b"full")
    assert user is not None
    assert template is not None
    assert (user.auth_key, user.priv_key) == (template.auth_key, template.priv_key)


def test_a_clone_stays_in_the_networks_of_its_template(table: Table) -> None:
    (network,) = (
        parse_config('[[user]]\nname = "n"\nrole = "monitor"\nnetworks = ["192.0.2.0/24"]', Path("c"))
        .users[0]
        .networks
    )
    near = User("near", networks=(network,))
    table.users.configure(HERE, {near: usm_crypto.localize(near, HERE)})
    assert table.set(b"new", CloneFrom=pointer("near"), Status=4) == ""
    user = table.user(b"new")
    assert user is not None
    assert user.networks is not None
    assert "192.0.2.7" in user.networks
    assert "198.51.100.1" not in user.networks


def test_users_are_kept_and_never_shown(table: Table, tmp_path: Path) -> None:
    auth, auth_key = change(table, "full", "auth")
    priv, priv_key = change(table, "full", "priv")
    values = {"CloneFrom": pointer("full"), "AuthKeyChange": auth, "PrivKeyChange": priv}
    assert table.set(b"new", Status=4, **values) == ""
    path = tmp_path / "lcd.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # only the row that SNMP made, and of it only localized keys
    kept = json.loads(path.read_text())["tables"]["usmUserTable"]
    assert len(kept) == 1
    again = Table(tmp_path)
    assert again.user(b"new") == LocalUser(b"new", "SHA-1", "AES-256", auth_key, priv_key)
    shown = repr(again.row(b"new")) + repr(again.user(b"new")) + repr(list(again.users.table.rows()))
    for key in (auth_key, priv_key):
        assert key.hex() not in shown
        assert repr(key) not in shown
    assert "Secret" in shown


def some_value(random: Random, column: str) -> Any:
    if column == "CloneFrom":
        names = ["a", "b", "full", "signer", "plain", "nobody"]
        return random.choice([pointer(random.choice(names)), (0, 0), pointer("a")[:-1]])
    if "Protocol" in column:
        return random.choice([*AUTH_OIDS.values(), *PRIV_OIDS.values(), (1, 3)])
    if "Key" in column:
        return random.randbytes(random.choice([0, 1, 32, 40, 64, 96, 128]))
    return random.randbytes(random.randrange(33)) if column == "Public" else random.randint(1, 6)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_set_an_active_user_has_the_keys_of_its_protocols(
    table: Table, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.engine.lcd.write_text", lambda path, text: None)
    random = Random(seed)
    columns = (
        "CloneFrom AuthProtocol PrivProtocol AuthKeyChange OwnAuthKeyChange PrivKeyChange OwnPrivKeyChange"
    )
    names = [*columns.split(), "Public", "StorageType", "Status", "Status", "CloneFrom"]
    outcomes: Counter[str] = Counter()
    for _ in range(1500):
        name = random.choice([b"a", b"a", b"b", b"full"])
        values = {n: some_value(random, n) for n in sorted(set(random.sample(names, random.randint(1, 4))))}
        if values.get("StorageType") == 6:
            del values["StorageType"]
        if not values:
            continue
        said = table.set(name, Who(random.choice([2, 3, 3]), "a", random.choice([1, 3])), **values)
        outcomes[said.partition(" ")[0]] += 1
        assert said.partition(" ")[2] in ("", *values)
        for user in table.users.users().values():
            assert len(user.auth_key) == (usm_crypto.auth_key_size(user.auth) if user.auth else 0)
            assert len(user.priv_key) == (usm_crypto.PRIV[user.priv] if user.priv else 0)
            assert user.auth or not user.priv
    assert outcomes[""] > 20
    assert len(outcomes) > 6


# -- net-snmp's snmpusm ---------------------------------------------------------------------------------------

CONFIG = """
[agent]
listen = ["127.0.0.1:0"]
[system]
name = "gateway"
writable = ["contact"]
[[user]]
name = "admin"
role = "admin"
auth = "AUTH"
priv = "PRIV"
weak = true
auth_password = 'adminpassword'
priv_password = 'adminpassword'
[[user]]
name = "operator"
role = "operator"
auth = "AUTH"
priv = "PRIV"
weak = true
auth_password = 'operatorpass'
priv_password = 'operatorpass'
[[user]]
name = "template"
role = "monitor"
auth = "AUTH"
priv = "PRIV"
weak = true
auth_password = 'templatepass'
priv_password = 'templatepass'
"""
NAME = "1.3.6.1.2.1.1.5.0"
USERS = "1.3.6.1.6.3.15.1.2"
PROTOCOLS = [
    ("SHA-1", "AES-128"),
    ("MD5", "DES"),
    ("SHA-512", "AES-256"),
    ("SHA-1", "AES-256"),
    ("SHA-224", "AES-192"),
    ("SHA-1", "AES-256-C"),
]


def v3(user: str, password: str, auth: str = "SHA-1", priv: str = "AES-128") -> list[str]:
    names = {"SHA-1": "SHA", "AES-128": "AES"}
    return [
        *("-v3", "-u", user, "-l", "authPriv", "-a", names.get(auth, auth), "-A", password),
        *("-x", names.get(priv, priv), "-X", password),
    ]


def usm(who: list[str], agent: Running, *arguments: str) -> str:
    command = ["snmpusm", "-t", "3", "-r", "0", *who, agent.endpoint(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def settings(auth: str, priv: str, extra: str = "") -> str:
    return CONFIG.replace("AUTH", auth).replace("PRIV", priv).replace("[system]", f"{extra}\n[system]")


@pytest.fixture(autouse=True)
def _tools(require_tool: Callable[[str], str]) -> None:
    require_tool("snmpusm")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, TestModel(rows=rows(3)), settings("SHA-1", "AES-128")) as made:
        yield made


@pytest.mark.parametrize(("auth", "priv"), PROTOCOLS)
def test_a_user_from_beginning_to_end_with_snmpusm(tmp_path: Path, auth: str, priv: str) -> None:
    text = settings(auth, priv)
    admin = v3("admin", "adminpassword", auth, priv)
    bob, changed = v3("bob", "bobspassword", auth, priv), v3("bob", "itsmypassword", auth, priv)
    with running(tmp_path, TestModel(), text) as agent:
        assert "inconsistentValue" in usm(admin, agent, "create", "bob", "template")
        assert "successfully created" in usm(admin, agent, "-Cw", "create", "bob", "template")
        assert "inconsistentValue" in usm(admin, agent, "activate", "bob")
        said = usm(admin, agent, "-Ca", "passwd", "templatepass", "bobspassword", "bob")
        assert "successfully changed" in said
        assert "inconsistentValue" in usm(admin, agent, "activate", "bob")
        said = usm(admin, agent, "-Cx", "passwd", "templatepass", "bobspassword", "bob")
        assert "successfully changed" in said
        assert "successfully activated" in usm(admin, agent, "activate", "bob")
        # USM knows him, access control does not
        assert "authorizationError" in snmp("snmpget", bob, agent.endpoint(), NAME)
        group = ("createSec2Group", "3", "bob", "role:operator")
        command = ["snmpvacm", *admin, agent.endpoint(), *group]
        assert "successfully created" in subprocess.run(command, capture_output=True, text=True).stderr
        assert "gateway" in snmp("snmpget", bob, agent.endpoint(), NAME)
        # his own keys, by himself
        assert "successfully changed" in usm(bob, agent, "passwd", "bobspassword", "itsmypassword")
        assert "Authentication failure" in snmp("snmpget", bob, agent.endpoint(), NAME)
        assert "gateway" in snmp("snmpget", changed, agent.endpoint(), NAME)
    with running(tmp_path, TestModel(), text) as agent:
        assert "gateway" in snmp("snmpget", changed, agent.endpoint(), NAME)
        assert "successfully deactivated" in usm(admin, agent, "deactivate", "bob")
        assert "Unknown user name" in snmp("snmpget", changed, agent.endpoint(), NAME)
        assert "successfully deleted" in usm(admin, agent, "delete", "bob")
        assert "bob" not in (tmp_path / "lcd.json").read_text()
    with running(tmp_path, TestModel(), text) as agent:
        assert "Unknown user name" in snmp("snmpget", changed, agent.endpoint(), NAME)


def test_snmpusm_as_net_snmp_has_it(tmp_path: Path) -> None:
    """With activate_clones, create and cloneFrom make a user that is active at once, with the template's password."""
    admin, bob = v3("admin", "adminpassword"), v3("bob", "templatepass")
    with running(tmp_path, TestModel(), settings("SHA-1", "AES-128", "activate_clones = true")) as agent:
        assert "successfully created" in usm(admin, agent, "create", "bob", "template")
        assert "authorizationError" in snmp("snmpget", bob, agent.endpoint(), NAME)
        assert "successfully created" in usm(admin, agent, "create", "eve")
        assert "Unknown user name" in snmp("snmpget", v3("eve", "templatepass"), agent.endpoint(), NAME)
        assert "successfully cloned" in usm(admin, agent, "cloneFrom", "eve", "template")
        assert "authorizationError" in snmp("snmpget", v3("eve", "templatepass"), agent.endpoint(), NAME)


def test_who_may_not_is_refused(agent: Running) -> None:
    operator, template = v3("operator", "operatorpass"), v3("template", "templatepass")
    for who, refused in ((operator, "noAccess"), (template, "authorizationError")):
        for arguments in (("create", "bob", "template"), ("delete", "admin"), ("deactivate", "operator")):
            assert refused in usm(who, agent, *arguments), arguments
        said = usm(who, agent, "passwd", "adminpassword", "mynewpassword", "admin")
        assert refused in said
        assert "No" in snmp("snmpwalk", who, agent.endpoint(), USERS)
    # an operator may change his own keys, but those of the configuration stay
    assert "notWritable" in usm(operator, agent, "passwd", "operatorpass", "mynewpassword")
    assert "gateway" in snmp("snmpget", v3("operator", "operatorpass"), agent.endpoint(), NAME)
    assert "notWritable" in usm(v3("admin", "adminpassword"), agent, "delete", "template")
    assert not (agent.agent.config.state_dir / "lcd.json").exists()


def test_the_spin_lock(agent: Running) -> None:
    admin, lock = v3("admin", "adminpassword"), f"{USERS}.1.0"
    value = snmp("snmpget", admin, agent.endpoint(), lock).split()[1]
    wrong = str((int(value) + 1) % 2**31)
    assert "inconsistentValue" in snmp("snmpset", admin, agent.endpoint(), lock, "i", wrong)
    assert snmp("snmpset", admin, agent.endpoint(), lock, "i", value).split()[1] == value
    assert snmp("snmpget", admin, agent.endpoint(), lock).split()[1] == wrong


def test_a_disk_that_fails_is_commit_failed(agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    admin = v3("admin", "adminpassword")
    monkeypatch.setattr("agent.engine.lcd.write_text", full)
    said = usm(admin, agent, "-Cw", "create", "bob", "template")
    assert "commitFailed" in said
    assert agent.agent.users.table.get((agent.agent.engine_id, b"bob")) is None
    monkeypatch.undo()
    assert "successfully created" in usm(admin, agent, "-Cw", "create", "bob", "template")


def test_reload_keeps_what_snmp_made(agent: Running, tmp_path: Path) -> None:
    admin = v3("admin", "adminpassword")
    assert "successfully created" in usm(admin, agent, "-Cw", "create", "bob", "template")
    said = usm(admin, agent, "passwd", "templatepass", "bobspassword", "bob")
    assert "successfully changed" in said
    assert "successfully activated" in usm(admin, agent, "activate", "bob")
    epoch = agent.agent.epoch.value
    text = settings("SHA-1", "AES-128").replace("'operatorpass'", "'operatorpass2'")
    text = text.replace('name = "template"', 'name = "another"')
    agent.call(agent.agent.reload(config(tmp_path, text)))
    assert agent.agent.epoch.value > epoch
    assert agent.agent.usm is not None
    assert set(agent.agent.usm.users) == {b"admin", b"operator", b"another", b"bob"}
    assert "authorizationError" in snmp("snmpget", v3("bob", "bobspassword"), agent.endpoint(), NAME)
    assert "gateway" in snmp("snmpget", v3("operator", "operatorpass2"), agent.endpoint(), NAME)
    assert "Unknown user" in snmp("snmpget", v3("template", "templatepass"), agent.endpoint(), NAME)


def test_statistics(agent: Running) -> None:
    admin = v3("admin", "adminpassword")

    def counts() -> list[int]:
        lines = snmp("snmpwalk", admin, agent.endpoint(), "1.3.6.1.6.3.15.1.1").splitlines()
        return [int(line.split()[1]) for line in lines]

    before = counts()
    snmp("snmpget", v3("nobody", "adminpassword"), agent.endpoint(), NAME)
    snmp("snmpget", v3("admin", "wrongpassword"), agent.endpoint(), NAME)
    snmp("snmpget", [*admin[:-1], "wrongpassword"], agent.endpoint(), NAME)
    after = counts()
    moved = [b - a for a, b in zip(before, after, strict=True)]
    assert moved[2] == 1
    assert moved[4] == 1
    assert moved[5] == 1
    # each tool asks for the engine ID first
    assert moved[3] == 4

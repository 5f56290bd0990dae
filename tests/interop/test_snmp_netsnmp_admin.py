"""An administrator with net-snmp's tools and the program itself: users, groups, views, targets; SIGHUP; kill; traps.

After net-snmp's scenarios of user management, access control tables, target addresses, users over SIGHUP, and traps.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_lab import Program, free_port
from lab.process import wait_until
from smi_support import snmp

SECRETS = (
    "admin-password",
    "template-password",
    "new-auth-password",
    "new-priv-password",
    "monitor-community",
)
NAME, UP_TIME, CONTACT = "1.3.6.1.2.1.1.5.0", "1.3.6.1.2.1.1.3.0", "1.3.6.1.2.1.1.4.0"
TARGET = "1.3.6.1.6.3.12.1.2.1"
CONFIG = f"""
[agent]
state_dir = "state"
listen = ["127.0.0.1:PORT"]
activate_clones = true
[system]
name = "gateway"
writable = ["contact"]
[[community]]
name = "{SECRETS[4]}"
role = "monitor"
networks = ["127.0.0.0/8"]
[[user]]
name = "admin"
role = "admin"
auth = "SHA-256"
auth_password = "{SECRETS[0]}"
priv = "AES-128"
priv_password = "{SECRETS[0]}"
[[user]]
name = "template"
role = "monitor"
auth = "SHA-256"
auth_password = "{SECRETS[1]}"
priv = "AES-128"
priv_password = "{SECRETS[1]}"
"""


@pytest.fixture(scope="session", autouse=True)
def _namespaces_and_tools(require_tool: Callable[[str], str]) -> None:
    """No namespaces here; net-snmp's tools."""
    for tool in ("snmpget", "snmpset", "snmpwalk", "snmpusm", "snmpvacm", "snmptrapd"):
        require_tool(tool)


def v3(user: str, auth: str, priv: str | None = None) -> tuple[str, ...]:
    words = ("-v3", "-u", user, "-l", "authPriv", "-a", "SHA-256", "-A", auth)
    return (*words, "-x", "AES", "-X", priv or auth)


ADMIN = v3("admin", SECRETS[0])


class Administered(Program):
    """The program, and the tools of its administrator."""

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def tool(self, tool: str, *arguments: str, who: tuple[str, ...] = ADMIN) -> str:
        done = subprocess.run(
            [tool, "-t", "3", "-r", "0", *who, self.endpoint, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stdout + done.stderr

    def set(self, *words: str) -> str:
        """The reason of a refusal, or ''."""
        said = snmp("snmpset", ADMIN, self.endpoint, *words)
        return said.partition("Reason: ")[2].split()[0] if "Reason: " in said else ""

    def reload(self) -> None:
        before = self.log.read_text().count("configuration reloaded")
        self.hang_up()
        wait_until(lambda: self.log.read_text().count("configuration reloaded") > before, 5)

    def start_again(self) -> None:
        """After a crash."""
        self.kill()
        self.start()


@pytest.fixture
def program(tmp_path: Path, repository: Path) -> Iterator[Administered]:
    program = Administered(tmp_path, repository, CONFIG, SECRETS[4], SECRETS)
    try:
        program.start()
        yield program
    finally:
        program.end()


def test_a_users_life(program: Administered) -> None:
    """Made, cloned, deleted; made from a template, its keys changed by the admin, then by itself; SIGHUP; a kill."""

    def opens(auth: str, priv: str | None = None) -> bool:
        return "gateway" in snmp("snmpget", v3("newuser", auth, priv), program.endpoint, NAME, timeout="1")

    template, auth, priv = SECRETS[1:4]
    assert "successfully created" in program.tool("snmpusm", "create", "newuser")
    assert not opens(template)
    assert "successfully cloned" in program.tool("snmpusm", "cloneFrom", "newuser", "template")
    # USM takes the user now; which group it is in is VACM's to say
    assert "authorizationError" in snmp("snmpget", v3("newuser", template), program.endpoint, NAME)
    said = program.tool("snmpvacm", "createSec2Group", "3", "newuser", "role:monitor")
    assert "successfully created" in said
    assert opens(template)
    assert "successfully deleted" in program.tool("snmpusm", "delete", "newuser")
    assert not opens(template)
    assert "successfully created" in program.tool("snmpusm", "create", "newuser", "template")
    for option, password in (("-Ca", auth), ("-Cx", priv)):
        said = program.tool("snmpusm", option, "passwd", template, password, "newuser")
        assert "successfully changed" in said
    assert opens(auth, priv)
    assert not opens(template)
    own = program.tool("snmpusm", "-Cx", "passwd", priv, auth, who=v3("newuser", auth, priv))
    # a monitor writes nothing, not even its own keys, unless its group may
    assert "successfully changed" not in own
    program.tool("snmpvacm", "deleteSec2Group", "3", "newuser")
    program.tool("snmpvacm", "createSec2Group", "3", "newuser", "role:operator")
    own = program.tool("snmpusm", "-Cx", "passwd", priv, auth, who=v3("newuser", auth, priv))
    assert "successfully changed" in own
    assert opens(auth, auth)
    program.reload()
    assert opens(auth, auth)
    program.start_again()
    assert opens(auth, auth)
    assert not opens(auth, priv)
    assert "successfully deleted" in program.tool("snmpusm", "delete", "newuser")
    program.start_again()
    assert not opens(auth, auth)
    state = b"".join(path.read_bytes() for path in (program.folder / "state").iterdir())
    for secret in SECRETS[:4]:
        assert secret.encode() not in state
    assert {path.stat().st_mode & 0o077 for path in (program.folder / "state").iterdir()} == {0}


def test_groups_and_views_made_over_snmp(program: Administered) -> None:
    """A view with a mask, an entry, a member: allowed at once, denied at once when one goes, kept over a kill."""
    steps = {
        "view": ("createView", "narrow", "1.3.6.1.2.1.1.5", "ff"),
        "access": ("createAccess", "narrow", "3", "3", "1", "narrow", "none", "none"),
        "member": ("createSec2Group", "3", "template", "narrow"),
    }
    template = v3("template", SECRETS[1])
    # the configuration's own membership is in the way, and fixed
    assert "successfully created" not in program.tool("snmpvacm", *steps["member"])
    assert "successfully created" in program.tool("snmpusm", "create", "second", "template")
    second = v3("second", SECRETS[1])
    for name, step in steps.items():
        said = program.tool("snmpvacm", *(word.replace("template", "second") for word in step))
        assert "successfully created" in said, (name, said)
    assert "gateway" in snmp("snmpget", second, program.endpoint, NAME)
    assert "No Such Object" in snmp("snmpget", second, program.endpoint, UP_TIME)
    assert "gateway" in snmp("snmpget", template, program.endpoint, NAME)
    program.start_again()
    assert "gateway" in snmp("snmpget", second, program.endpoint, NAME)
    assert "No Such Object" in snmp("snmpget", second, program.endpoint, UP_TIME)
    assert "successfully deleted" in program.tool("snmpvacm", "deleteView", "narrow", "1.3.6.1.2.1.1.5")
    said = snmp("snmpget", second, program.endpoint, NAME)
    assert "gateway" not in said
    assert "authorizationError" in said or "No Such Object" in said
    assert "successfully deleted" in program.tool("snmpvacm", "deleteAccess", "narrow", "3", "3")
    assert "authorizationError" in snmp("snmpget", second, program.endpoint, NAME)
    assert "successfully deleted" in program.tool("snmpvacm", "deleteSec2Group", "3", "second")
    assert "authorizationError" in snmp("snmpget", second, program.endpoint, NAME)
    # what the configuration says cannot be deleted over SNMP
    assert "successfully deleted" not in program.tool("snmpvacm", "deleteSec2Group", "3", "admin")
    assert "gateway" in snmp("snmpget", ADMIN, program.endpoint, NAME)


def test_target_addresses(program: Administered) -> None:
    """snmpTargetAddrTable row by row: what makes a row, its defaults, and what each column refuses."""
    row = "97.98.99.100"  # an IMPLIED name has no length before it

    def column(number: int, index: str = row) -> str:
        return f"{TARGET}.{number}.{index}"

    def show(number: int) -> str:
        return snmp("snmpget", ADMIN, program.endpoint, column(number)).split(" ", 1)[1].strip()

    def tags(hexadecimal: str) -> str:
        return program.set(column(6), "x", hexadecimal)

    # the networks of a configured community stand in this table too, under names of their own
    assert f".{row} " not in snmp("snmpwalk", ADMIN, program.endpoint, TARGET)
    assert program.set(f"{TARGET}.9", "i", "5") == "noCreation"
    assert program.set(column(9, ".".join(["65"] * 33)), "i", "5") == "noCreation"
    assert program.set(column(9), "i", "5") == ""
    assert show(9) == "3"  # notReady
    assert [show(number) for number in (4, 5, 8)] == ["1500", "3", "3"]
    assert show(6) in ('""', "")
    for number in (2, 3, 7):
        assert "No Such Instance" in show(number)
    assert program.set(column(4), "i", "-1") == "wrongValue"
    assert program.set(column(4), "i", "2147483647") == ""
    assert program.set(column(5), "i", "256") == "wrongValue"
    assert program.set(column(5), "i", "255") == ""
    assert (show(4), show(5)) == ("2147483647", "255")
    assert tags("616c6661") == ""
    assert show(6) == '"alfa"'
    assert tags("616c66612062657461") == ""
    for bad in ("20616c6661", "616c666120", "616c6661202062657461"):
        assert tags(bad) == "wrongValue"
    assert show(6) == '"alfa beta"'
    assert program.set(column(9), "i", "1") == "inconsistentValue"
    assert (
        program.set(column(2), "o", "1.3.6.1.6.1.1", column(3), "x", "7f00000100a2", column(7), "s", "p")
        == ""
    )
    assert show(9) == "2"  # notInService: all is there
    assert program.set(column(9), "i", "1") == ""
    assert show(9) == "1"
    program.start_again()
    assert (show(9), show(6)) == ("1", '"alfa beta"')
    assert program.set(column(9), "i", "6") == ""
    assert "No Such" in show(9)
    assert program.set(column(9), "i", "6") == ""  # RFC 2579: destroy of what is not there is no fault


def test_users_of_the_file_come_and_go_with_sighup(program: Administered) -> None:
    good = program.config.read_text()
    other = good.replace('name = "template"', 'name = "successor"')
    assert "gateway" in snmp("snmpget", v3("template", SECRETS[1]), program.endpoint, NAME)
    program.write(other)
    program.reload()
    assert "Unknown user name" in snmp("snmpget", v3("template", SECRETS[1]), program.endpoint, NAME)
    assert "gateway" in snmp("snmpget", v3("successor", SECRETS[1]), program.endpoint, NAME)


def test_traps_and_informs_of_the_program(tmp_path: Path, repository: Path) -> None:
    """coldStart at the start, authenticationFailure for a wrong community, by v1, v2c and v3, as trap and as inform."""
    port = free_port()
    text = CONFIG
    for name, lines in {
        "one": 'version = "v1"\ncommunity = "trap-community"\nrole = "monitor"',
        "two": 'version = "v2c"\ncommunity = "trap-community"\nrole = "monitor"',
        "three": 'version = "v2c"\ncommunity = "trap-community"\nrole = "monitor"\ninform = true\ntimeout = 0.5',
        "four": 'user = "template"\ninform = true\ntimeout = 0.5',
    }.items():
        text += f'[[target]]\nname = "{name}"\naddress = "127.0.0.1:{port}"\n{lines}\n'
    program = Administered(tmp_path, repository, text, SECRETS[4], (*SECRETS, "trap-community"))
    log = tmp_path / "trapd.log"
    configuration = tmp_path / "trapd.conf"
    configuration.write_text(
        "disableAuthorization yes\n"
        f"createUser template SHA-256 {SECRETS[1]} AES {SECRETS[1]}\n"
        "format1 V1|%P|%w|%v\\n\nformat2 V2|%P|%v\\n\n"
    )
    configuration.chmod(0o600)

    def seen(what: str) -> list[str]:
        lines = [line for line in log.read_text().splitlines() if re.search(what, line)]
        return sorted(re.sub(r", (community|user) .*", "", line.split("|")[1]) for line in lines)

    cold, failure = r"1\.1\.4\.1\.0 = OID: \S*1\.1\.5\.1\b|^V1\|[^|]*\|0", r"1\.1\.5\.5\b|^V1\|[^|]*\|4"
    expected = ["INFORM, SNMP v2c", "INFORM, SNMP v3", "TRAP, SNMP v1", "TRAP2, SNMP v2c"]
    with log.open("wb") as out:
        receiver = subprocess.Popen(
            [
                "snmptrapd",
                "-f",
                "-Lo",
                "-n",
                "-On",
                "-m",
                "",
                "-C",
                "-c",
                str(configuration),
                f"127.0.0.1:{port}",
            ],
            env={"SNMP_PERSISTENT_DIR": str(tmp_path / "trapd"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdout=out,
            stderr=out,
        )
    try:
        time.sleep(0.3)
        program.start()
        wait_until(lambda: seen(cold) == expected, 6, "coldStart at each target once")
        assert program.set("1.3.6.1.2.1.11.30.0", "i", "1") == ""
        snmp("snmpget", ("-v2c", "-c", "wrong"), program.endpoint, NAME, timeout="0.1")
        wait_until(lambda: seen(failure) == expected, 6, "authenticationFailure at each target once")
        # acknowledged: no inform comes twice
        time.sleep(1.2)
        assert (seen(cold), seen(failure)) == (expected, expected)
        assert program.set("1.3.6.1.2.1.11.30.0", "i", "2") == ""
        snmp("snmpget", ("-v2c", "-c", "wrong again"), program.endpoint, NAME, timeout="0.1")
        time.sleep(0.3)
        assert seen(failure) == expected
    finally:
        receiver.terminate()
        receiver.wait(10)
        program.end()

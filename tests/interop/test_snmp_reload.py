"""SIGHUP while managers ask on and on: no request is lost, no answer is wrong, a broken file changes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_lab import Program, free_port
from lab.policy import require_module
from smi_support import request, snmp, unwrap, v2c

from agent.engine.pdu import GET, GETBULK, RESPONSE

RELOADS = 50
SECRETS = ("reload-authentication", "reload-privacy", "reload-reader")
NAME = (1, 3, 6, 1, 2, 1, 1, 5, 0)
CONTACT = "1.3.6.1.2.1.1.4.0"
DOTTED_NAME = ".".join(map(str, NAME))
USER = f"""[[user]]
name = "NAME"
group = "operators"
auth = "SHA-256"
auth_password = "{SECRETS[0]}"
priv = "AES-128"
priv_password = "{SECRETS[1]}"
"""
COMMUNITY = """[[community]]
name = "NAME"
group = "monitors"
networks = ["127.0.0.0/8"]
"""
CONFIG = f"""
[agent]
state_dir = "state"
listen = ["127.0.0.1:PORT"]
[system]
name = "gateway"
writable = ["contact"]
[[access]]
group = "monitors"
model = "any"
level = "noAuthNoPriv"
read = "everything"
[[access]]
group = "operators"
read = "everything"
write = "everything"
[[view]]
name = "everything"
include = ["1.3.6.1"]
{COMMUNITY.replace("NAME", SECRETS[2])}
{USER.replace("NAME", "steady")}
"""
WHO = ("-l", "authPriv", "-a", "SHA-256", "-A", SECRETS[0], "-x", "AES", "-X", SECRETS[1])


@pytest.fixture(scope="session", autouse=True)
def _namespaces_and_tools(require_tool: Callable[[str], str]) -> None:
    """No namespaces here."""
    require_tool("snmpget")
    require_tool("snmpbulkwalk")


@pytest.fixture
def program(tmp_path: Path, repository: Path) -> Iterator[Program]:
    program = Program(tmp_path, repository, CONFIG, SECRETS[2], SECRETS)
    try:
        program.start()
        yield program
    finally:
        program.end()


class Asker(threading.Thread):
    """Asks until told to stop; `faults` are answers that were wrong or did not come at the first try."""

    def __init__(self, program: Program) -> None:
        super().__init__(daemon=True)
        self.program = program
        self.stopping = threading.Event()
        self.answers = 0
        self.faults: list[str] = []

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                fault = self.ask()
            except Exception as error:
                fault = repr(error)
            self.answers += not fault
            if fault and len(self.faults) < 5:
                self.faults.append(fault)

    def ask(self) -> str:
        raise NotImplementedError

    def finish(self) -> None:
        self.stopping.set()
        self.join(20)
        assert not self.faults, (type(self).__name__, self.faults, self.program.log.read_text()[-3000:])


class Community(Asker):
    """SNMPv2c, one request at a time, never sent twice."""

    def ask(self) -> str:
        program = self.program
        program.number += 1
        names, kind = ([NAME], GET) if program.number % 5 else ([(1, 3, 6, 1)], GETBULK)
        asked = request(kind, names, second=0 if kind == GET else 20, request_id=program.number)
        program.manager.send(v2c(asked, program.community))
        answer = unwrap(program.manager.recv(65535))
        if (answer.request_id, answer.type, answer.status) != (program.number, RESPONSE, 0):
            return repr(answer)
        if kind == GET:
            return "" if answer.varbinds[0][2] == b"gateway" else repr(answer)
        oids = [oid for oid, _, _ in answer.varbinds]
        return "" if len(oids) == 20 and oids == sorted(oids) else repr(answer)


class NetSnmp(Asker):
    """SNMPv3 by net-snmp, one try."""

    def ask(self) -> str:
        who = ("-v3", "-u", "steady", *WHO)
        said = snmp("snmpbulkwalk", who, f"127.0.0.1:{self.program.port}", "1.3.6.1.2.1.1.5", timeout="3")
        return "" if said == f'.{DOTTED_NAME} "gateway"\n' else said


class Setter(Asker):
    """SETs of sysContact by net-snmp, one try each: their answers come after a write to the disk."""

    def ask(self) -> str:
        text = f"contact {self.answers}"
        who = ("-v3", "-u", "steady", *WHO)
        said = snmp("snmpset", who, f"127.0.0.1:{self.program.port}", CONTACT, "s", text, timeout="3")
        return "" if said == f'.{CONTACT} "{text}"\n' else said


class Gufo(Asker):
    """SNMPv3 by gufo-snmp on one session: its engine time and keys must stay good throughout."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        from gufo.snmp import user as keys
        from gufo.snmp.sync import SnmpSession

        user = keys.User(
            "steady",
            auth_key=keys.Sha256Key(SECRETS[0].encode()),
            priv_key=keys.Aes128Key(SECRETS[1].encode()),
        )
        self.session = SnmpSession("127.0.0.1", port=program.port, user=user, timeout=3)
        self.session.refresh()

    def ask(self) -> str:
        value = self.session.get(DOTTED_NAME)
        return "" if value == b"gateway" else repr(value)


def hang_up(program: Program, expected: str) -> None:
    """SIGHUP, until the log says one more time what became of it."""
    before = program.log.read_text().count(expected)
    program.hang_up()
    deadline = time.monotonic() + 10
    while program.log.read_text().count(expected) == before:
        assert time.monotonic() < deadline, program.log.read_text()[-2000:]
        time.sleep(0.01)


def answers(port: int, *who: str) -> bool:
    said = snmp("snmpget", who, f"127.0.0.1:{port}", DOTTED_NAME, timeout="0.3")
    return said == f'.{DOTTED_NAME} "gateway"\n'


BROKEN = (
    lambda text: text + "[[view",
    lambda text: text.replace("SHA-256", "ROT-13"),
    lambda text: text.replace('"1.3.6.1"', '"1.3.six"'),
    lambda text: text.replace('group = "monitors"\nnetworks', 'group = "nobodies"\nnetworks'),
    lambda text: text.replace('listen = ["', 'listen = ["192.0.2.1:16161", "'),
    lambda text: text.replace('"state"', '"another"'),
)


def test_reloads_under_load(program: Program) -> None:
    """Fifty of them: users, communities and addresses come and go; every sixth file is broken."""
    require_module("gufo.snmp", "gufo-snmp")
    good = program.config.read_text()
    spare = free_port()
    askers = [Community(program), NetSnmp(program), Gufo(program), Setter(program)]
    for asker in askers:
        asker.start()
    # the log's filter lets 20 lines of a kind through: what is there is then asked of the agent itself
    for number in range(RELOADS):
        text = good
        guest = number % 2 == 0
        if guest:
            text += USER.replace("NAME", f"guest{number}") + COMMUNITY.replace(
                "NAME", f"reload-guest{number}"
            )
        moved = number % 3 == 0
        if moved:
            text = text.replace('listen = ["', f'listen = ["127.0.0.1:{spare}", "')
        if number % 4 == 1:
            text = text.replace(f"127.0.0.1:{program.port}", f"0.0.0.0:{program.port}")
        if number % 6 == 5:
            program.write(BROKEN[number // 6 % len(BROKEN)](text))
            program.hang_up()
            continue
        program.write(text)
        if number < 15:
            hang_up(program, "configuration reloaded")
        else:
            program.hang_up()
            time.sleep(0.05)
        if number % 10 in (0, 3, 7):
            deadline = time.monotonic() + 5
            expected = (guest, guest, moved)
            while expected != (
                got := (
                    answers(program.port, "-v3", "-u", f"guest{number}", *WHO),
                    answers(program.port, "-v2c", "-c", f"reload-guest{number}"),
                    answers(spare, "-v2c", "-c", SECRETS[2]),
                )
            ):
                assert time.monotonic() < deadline, (number, expected, got)
    for asker in askers:
        asker.finish()
        assert asker.answers > 5
    assert askers[0].answers > 100


@pytest.mark.parametrize("broken", BROKEN, ids=["toml", "algorithm", "oid", "group", "address", "state"])
def test_a_broken_file_changes_nothing(program: Program, broken: Callable[[str], str]) -> None:
    """Not even what it has beside the fault, and the next whole file is taken."""
    good = program.config.read_text()
    more = good + USER.replace("NAME", "guest") + COMMUNITY.replace("NAME", "reload-guest")
    program.write(broken(more))
    hang_up(program, "not reloaded")
    assert answers(program.port, "-v2c", "-c", SECRETS[2])
    assert answers(program.port, "-v3", "-u", "steady", *WHO)
    assert not answers(program.port, "-v2c", "-c", "reload-guest")
    assert not answers(program.port, "-v3", "-u", "guest", *WHO)
    program.write(more)
    hang_up(program, "configuration reloaded")
    assert answers(program.port, "-v2c", "-c", "reload-guest")
    assert answers(program.port, "-v3", "-u", "guest", *WHO)


def test_what_is_taken_away_is_gone_at_once(program: Program) -> None:
    """A user whose password changes, a community that goes: the old ones open nothing after the reload."""
    good = program.config.read_text()
    program.write(good + COMMUNITY.replace("NAME", "reload-guest"))
    hang_up(program, "configuration reloaded")
    assert answers(program.port, "-v2c", "-c", "reload-guest")
    program.write(good.replace(SECRETS[0], "another-authentication"))
    hang_up(program, "configuration reloaded")
    assert not answers(program.port, "-v2c", "-c", "reload-guest")
    assert not answers(program.port, "-v3", "-u", "steady", *WHO)
    other = tuple(word.replace(SECRETS[0], "another-authentication") for word in WHO)
    assert answers(program.port, "-v3", "-u", "steady", *other)
    program.write(good)
    hang_up(program, "configuration reloaded")
    assert answers(program.port, "-v3", "-u", "steady", *WHO)

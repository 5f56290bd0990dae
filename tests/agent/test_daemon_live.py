"""ipsec-snmpd as a process: attacked, killed, started twice, given broken files, while a manager goes on asking."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from smi_support import request, unwrap, v2c

from agent.engine.pdu import GET, GETBULK, SET
from agent.smi import ber

SECRETS = ("hush-community", "hush-authentication", "hush-privacy")
CONFIG = f"""
[agent]
state_dir = "state"
listen = ["127.0.0.1:PORT"]
[[community]]
name = "{SECRETS[0]}"
group = "monitor"
networks = ["127.0.0.0/8"]
[[user]]
name = "op"
group = "operator"
auth = "SHA-256"
auth_password = "{SECRETS[1]}"
priv = "AES-128"
priv_password = "{SECRETS[2]}"
[[access]]
group = "monitor"
model = "any"
level = "noAuthNoPriv"
read = "all"
[[access]]
group = "operator"
read = "all"
[[view]]
name = "all"
include = ["1"]
[sources.away]
type = "vici"
socket = "nowhere.vici"
"""
UP_TIME = (1, 3, 6, 1, 2, 1, 1, 3, 0)
BOOTS = (1, 3, 6, 1, 6, 3, 10, 2, 1, 2, 0)


class Program:
    """One ipsec-snmpd and a manager that asks it."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.config = folder / "agent.toml"
        self.write(CONFIG.replace("PORT", str(self.port)))
        self.log = folder / "log"
        self.environment = {**os.environ, "PYTHONPATH": str(repository)}
        self.manager = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.manager.settimeout(3)
        self.manager.connect(("127.0.0.1", self.port))
        self.number = 0

    def write(self, text: str) -> None:
        self.config.write_text(text)
        self.config.chmod(0o600)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "agent.cli", "--config", str(self.config), *arguments]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("--verbose"), cwd=self.folder, env=self.environment, stderr=log, stdout=log
            )
        self.manager.settimeout(0.2)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ask(UP_TIME)
                break
            except (TimeoutError, ConnectionError):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.1)
        self.manager.settimeout(3)

    def ask(self, oid: ber.Oid) -> bytes:
        self.number += 1
        self.manager.send(v2c(request(GET, [oid], request_id=self.number), SECRETS[0].encode()))
        while True:
            got = unwrap(self.manager.recv(65535))
            if got.request_id == self.number:
                return got.varbinds[0][2]

    def resident(self) -> int:
        """Kilobytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(10) == 0
        self.manager.close()
        assert not [secret for secret in SECRETS if secret in self.log.read_text()]


@pytest.fixture
def program(tmp_path: Path, repository: Path) -> Iterator[Program]:
    program = Program(tmp_path, repository)
    try:
        program.start()
        yield program
    finally:
        program.end()


def flood(program: Program) -> list[bytes]:
    draw = random.Random(3)
    name = (1, 3, 6, 1, 2, 1, 1, 5, 0)
    asks = v2c(request(GET, [name]), SECRETS[0].encode())
    large = request(GET, [name] * 3000)
    community = SECRETS[0].encode()
    value = [ber.tlv(ber.OCTET_STRING, b"x" * 200)]
    messages = []
    for number in range(250):
        mutated = bytearray(asks)
        mutated[draw.randrange(len(mutated))] = draw.randrange(256)
        longest = (1, 3, *(draw.randrange(2**31, 2**32) for _ in range(126)))
        messages += [
            draw.randbytes(draw.randrange(300)),
            bytes(mutated),
            b"\x30\x82\xea\x60" * 15000,
            v2c(large, b"stranger"),
            v2c(b"\xa2" + large[1:], community),
            v2c(request(GET, [longest]), community),
            v2c(request(SET, [name], values=value, request_id=number), community),
            v2c(request(GETBULK, [(1, 3)] * 50, second=2**31 - 1, request_id=number), community)
            if number % 25 == 0
            else b"",
        ]
    return messages


def test_a_flood_takes_no_memory_and_keeps_nobody_waiting(program: Program) -> None:
    messages = flood(program)
    before = program.resident()
    longest = 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
        for number, message in enumerate(messages):
            attacker.sendto(message, ("127.0.0.1", program.port))
            if number % 40 == 0:
                begun = time.monotonic()
                program.ask(UP_TIME)
                longest = max(longest, time.monotonic() - begun)
    program.ask(UP_TIME)
    assert longest < 2
    assert program.resident() - before < 8_000
    assert len(program.log.read_text().splitlines()) < 40


def test_broken_files_on_reload(program: Program) -> None:
    good = program.config.read_text()
    broken = {
        "[[view": "agent.toml:1: not TOML",
        good.replace("SHA-256", "ROT-13"): "user[1].auth: 'ROT-13' is not known",
        good.replace("127.0.0.1:", "192.0.2.1:"): "it is no address of this machine",
        good.replace('"state"', '"other"'): "agent.state_dir changed; restart the agent",
        good.replace('type = "vici"', 'type = "telepathy"'): "sources.away.type: 'telepathy' is not known",
    }
    for text, expected in broken.items():
        program.write(text)
        program.process.send_signal(signal.SIGHUP)
        for _ in range(100):
            program.ask(UP_TIME)
            if expected in program.log.read_text():
                break
            time.sleep(0.05)
        else:
            raise AssertionError((expected, program.log.read_text()))
    program.write(good)
    for _ in range(20):
        program.process.send_signal(signal.SIGHUP)
        program.ask(UP_TIME)


def test_killed_and_started_again(program: Program) -> None:
    assert program.ask(BOOTS) == b"\x01"
    program.process.kill()
    program.process.wait(10)
    program.start()
    assert program.ask(BOOTS) == b"\x02"


def test_a_second_one(program: Program) -> None:
    state = {path: path.read_bytes() for path in (program.folder / "state").iterdir()}
    second = subprocess.run(
        program.command(),
        cwd=program.folder,
        env=program.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert "another agent runs with this state" in second.stderr
    assert "Traceback" not in second.stderr
    assert {path: path.read_bytes() for path in state} == state
    program.write(program.config.read_text().replace('"state"', '"other"'))
    second = subprocess.run(
        program.command(),
        cwd=program.folder,
        env=program.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert "Address already in use; end what listens there" in second.stderr
    program.ask(UP_TIME)

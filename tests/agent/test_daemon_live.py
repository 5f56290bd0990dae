"""ipsec-snmpd as a process: attacked, killed, started twice, given broken files, while a manager goes on asking."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_lab import UP_TIME, Program
from smi_support import request, v2c

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
BOOTS = (1, 3, 6, 1, 6, 3, 10, 2, 1, 2, 0)


@pytest.fixture
def program(tmp_path: Path, repository: Path) -> Iterator[Program]:
    program = Program(tmp_path, repository, CONFIG, SECRETS[0], SECRETS)
    try:
        program.start("--verbose")
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
        program.hang_up()
        for _ in range(100):
            program.ask(UP_TIME)
            if expected in program.log.read_text():
                break
            time.sleep(0.05)
        else:
            raise AssertionError((expected, program.log.read_text()))
    program.write(good)
    for _ in range(20):
        program.hang_up()
        program.ask(UP_TIME)


def test_killed_and_started_again(program: Program) -> None:
    assert program.ask(BOOTS) == b"\x01"
    program.kill()
    program.start("--verbose")
    assert program.ask(BOOTS) == b"\x02"


def test_a_second_one(program: Program) -> None:
    state = {path: path.read_bytes() for path in (program.folder / "state").iterdir()}
    second = program.once_more()
    assert second.returncode == 1
    assert "another agent runs with this state" in second.stderr
    assert "Traceback" not in second.stderr
    assert {path: path.read_bytes() for path in state} == state
    program.write(program.config.read_text().replace('"state"', '"other"'))
    second = program.once_more()
    assert second.returncode == 1
    assert "Address already in use; end what listens there" in second.stderr
    program.ask(UP_TIME)

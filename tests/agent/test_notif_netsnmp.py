"""Notifications as net-snmp's snmptrapd receives them: every version, level and algorithm, traps and informs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from notif_lab import ENGINE_ID, EVENT, NAME, Trapd, free_port, sending, trapd, until

ALGORITHMS = [
    ("MD5", "", "MD5", ""),
    ("SHA-1", "", "SHA", ""),
    ("SHA-224", "", "SHA-224", ""),
    ("SHA-512", "", "SHA-512", ""),
    ("MD5", "DES", "MD5", "DES"),
    ("SHA-1", "AES-128", "SHA", "AES"),
    ("SHA-256", "AES-192", "SHA-256", "AES-192"),
    ("SHA-384", "AES-256", "SHA-384", "AES-256"),
    ("SHA-512", "AES-128", "SHA-512", "AES"),
]
EVENT_TEXT = ".1.3.6.1.6.3.1.1.4.1.0 = OID: .1.3.6.1.4.1.32473.9.0.7"
VALUE = '.1.3.6.1.2.1.1.5.0 = STRING: "abc"'


def user(name: str, auth: str = "", priv: str = "") -> str:
    lines = ["[[user]]", f'name = "{name}"', 'role = "monitor"']
    if auth:
        lines += [f'auth = "{auth}"', 'auth_password = "a pass phrase"', "weak = true"]
    if priv:
        lines += [f'priv = "{priv}"', 'priv_password = "another phrase"']
    return "\n".join(lines) + "\n"


def target(name: str, port: int, *lines: str) -> str:
    return "\n".join(("[[target]]", f'name = "{name}"', f'address = "127.0.0.1:{port}"', *lines)) + "\n"


def created(name: str, auth: str = "", priv: str = "", engine_id: str = "") -> str:
    """A user as snmptrapd is told of it."""
    text = f"-e 0x{engine_id} {name}" if engine_id else name
    text += f' {auth} "a pass phrase"' if auth else ""
    return text + (f' {priv} "another phrase"' if priv else "")


def test_a_trap_of_every_version_and_an_inform_of_two(tmp_path: Path) -> None:
    async def scenario(receiver: Trapd) -> None:
        text = user("plain")
        text += target("one", receiver.port, 'version = "v1"', 'community = "secret1"')
        text += target("two", receiver.port, 'version = "v2c"', 'community = "secret2"')
        text += target("three", receiver.port, 'user = "plain"')
        text += target("four", receiver.port, 'version = "v2c"', 'community = "secret2"', "inform = true")
        text += target("five", receiver.port, 'user = "plain"', "inform = true")
        async with sending(tmp_path, text) as agent:
            assert agent.notify(EVENT, NAME) == 5
            await until(lambda: len(receiver.of(VALUE)) == 5)
            await until(lambda: agent.notifications.counters.informs_acknowledged == 4)
            counters = agent.notifications.counters
            assert (counters.traps_sent, counters.informs_timed_out, counters.informs_retried) == (6, 0, 0)
            assert counters.unexpected_answers == counters.forged_answers == 0
        told = receiver.of(VALUE)
        (first,) = (line for line in told if line.startswith("V1|"))
        assert first.startswith("V1|TRAP, SNMP v1, community secret1|.1.3.6.1.4.1.32473.9|6|.7|127.0.0.1|")
        kinds = sorted(line.split("|")[1] for line in told if line.startswith("V2|"))
        assert kinds == [
            "INFORM, SNMP v2c, community secret2",
            "INFORM, SNMP v3, user plain, context ",
            "TRAP2, SNMP v2c, community secret2",
            "TRAP2, SNMP v3, user plain, context ",
        ]
        assert all(EVENT_TEXT in line for line in told if line.startswith("V2|"))
        assert len(receiver.of(".1.3.6.1.6.3.1.1.4.1.0 = OID: .1.3.6.1.6.3.1.1.5.1")) == 4
        (cold,) = (line for line in receiver.of("V1|") if line != first)
        assert cold.startswith("V1|TRAP, SNMP v1, community secret1|.1.3.6.1.6.3.1.1.5|0|"), cold

    with trapd(tmp_path, created("plain"), created("plain", engine_id=ENGINE_ID)) as receiver:
        asyncio.run(scenario(receiver))


@pytest.mark.parametrize("kind", ["trap", "inform"])
def test_every_algorithm(tmp_path: Path, kind: str) -> None:
    names = [f"u{number}" for number in range(len(ALGORITHMS))]
    engine_id = ENGINE_ID if kind == "trap" else ""
    users = [
        created(name, auth, priv, engine_id)
        for name, (_, _, auth, priv) in zip(names, ALGORITHMS, strict=True)
    ]

    async def scenario(receiver: Trapd) -> None:
        text = ""
        for name, (auth, priv, _, _) in zip(names, ALGORITHMS, strict=True):
            text += user(name, auth, priv)
            more = ("inform = true",) if kind == "inform" else ()
            text += target(f"t-{name}", receiver.port, f'user = "{name}"', *more)
        async with sending(tmp_path, text) as agent:
            agent.notify(EVENT, NAME)
            await until(lambda: len(receiver.of(VALUE)) == len(names))
            if kind == "inform":
                await until(lambda: agent.notifications.counters.informs_acknowledged == 2 * len(names))
        for name in names:
            assert len(receiver.of(f"SNMP v3, user {name},")) == 2

    with trapd(tmp_path, *users) as receiver:
        asyncio.run(scenario(receiver))


def test_a_wrong_key_is_neither_heard_nor_acknowledged(tmp_path: Path) -> None:
    async def scenario(receiver: Trapd) -> None:
        text = user("u", "SHA-256", "AES-128")
        text += target("t", receiver.port, 'user = "u"', "inform = true", "timeout = 0.2", "retries = 1")
        async with sending(tmp_path, text) as agent:
            agent.notify(EVENT, NAME)
            await until(lambda: agent.notifications.counters.informs_timed_out == 2)
            assert agent.notifications.counters.informs_acknowledged == 0
        assert receiver.lines == []

    with trapd(tmp_path, 'u SHA-256 "not that phrase" AES "another phrase"') as receiver:
        asyncio.run(scenario(receiver))


@pytest.mark.parametrize("version", ["v2c", "v3"])
def test_a_receiver_that_is_away_gets_the_inform_when_it_comes(tmp_path: Path, version: str) -> None:
    who = 'user = "u"' if version == "v3" else 'version = "v2c"\ncommunity = "secret2"'
    receiver = Trapd(tmp_path, free_port(), (created("u", "SHA-256", "AES"),))

    async def scenario() -> None:
        text = user("u", "SHA-256", "AES-128")
        text += target("t", receiver.port, who, "inform = true", "timeout = 1.5", "retries = 20")
        async with sending(tmp_path, text) as agent:
            agent.notify(EVENT, NAME)
            await until(lambda: agent.notifications.counters.informs_retried >= 2)
            await asyncio.to_thread(receiver.start)
            await until(lambda: agent.notifications.counters.informs_acknowledged == 2)
            assert len(receiver.of(VALUE)) == 1

    try:
        asyncio.run(scenario())
    finally:
        receiver.stop()


@pytest.mark.parametrize("kind", ["more boots", "another engine"])
def test_a_receiver_that_starts_anew_is_synchronized_with_again(tmp_path: Path, kind: str) -> None:
    receiver = Trapd(tmp_path, free_port(), (created("u", "SHA-256", "AES"),))

    async def scenario() -> None:
        text = user("u", "SHA-256", "AES-128")
        text += target("t", receiver.port, 'user = "u"', "inform = true", "timeout = 3", "retries = 20")
        async with sending(tmp_path, text) as agent:
            await until(lambda: agent.notifications.counters.informs_acknowledged == 1)
            (engine,) = agent.notifications._engines.values()
            before = (engine.engine_id, engine.boots)
            assert engine.engine_id.hex() == receiver.engine_id
            await asyncio.to_thread(receiver.stop)
            if kind == "another engine":
                receiver.engine_id = "80001f88046f74686572"
                receiver.boots = 0
            await asyncio.to_thread(receiver.start)
            agent.notify(EVENT, NAME)
            await until(lambda: agent.notifications.counters.informs_acknowledged == 2)
            (engine,) = agent.notifications._engines.values()
            if kind == "more boots":
                assert engine.engine_id == before[0]
                assert engine.boots > before[1]
            else:
                assert engine.engine_id.hex() == receiver.engine_id
            assert len(receiver.of(VALUE)) == 1

    receiver.start()
    try:
        asyncio.run(scenario())
    finally:
        receiver.stop()

"""Mutated messages into a live agent: nothing raises, everything is counted, and others are still served."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from smi_support import PEER, Manager, Offline, TestModel, request, rows, unwrap, v2c
from test_smi_controller import column, scalar

from agent.engine.pdu import GET, GETBULK, GETNEXT, SET
from agent.smi import ber

COUNT = 10_000
SEED = 20240607


def seeds(agent: Offline) -> list[bytes]:
    """Well-formed messages of every kind, version and level. The agent answers each."""
    names = [scalar("sReadOnly"), column("tText", 3), column("tCounter64", 1), (1, 3, 6)]
    write = request(SET, [scalar("sLimited")], values=[ber.integer(4)])
    pdus = [
        request(GET, names),
        request(GETNEXT, names),
        request(GETBULK, names, first=1, second=20),
        write,
    ]
    found = [v2c(pdu, b"writer", version) for pdu in pdus for version in (0, 1)]
    for user, level in (("anybody", 1), ("signer", 2), ("operator", 3)):
        manager = Manager(agent, user, level)
        found.extend(manager.message(pdu) for pdu in pdus)
    return found


def mutate(message: bytes, chance: random.Random) -> bytes:
    """One to four of: flip, set, insert, delete, truncate, repeat, swap in another length."""
    data = bytearray(message)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data)) if data else 0
        match chance.randrange(7):
            case 0 if data:
                data[at] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[at] = chance.choice((0, 1, 0x7F, 0x80, 0x82, 0x84, 0xFF, chance.randrange(256)))
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 9))
            case 3:
                del data[at : at + chance.randint(1, 9)]
            case 4:
                del data[at:]
            case 5:
                data[at:at] = data[at : at + chance.randint(1, 40)]
            case _ if data:
                data[at : at + 2] = chance.choice(
                    (b"\x84\xff\xff\xff\xff", b"\x80", b"\x82\x00\x02", b"\x1f\x81")
                )
    return bytes(data)


def test_10_000_mutated_messages(tmp_path: Path) -> None:
    agent = Offline(tmp_path, TestModel(rows=rows(10)))
    good = seeds(agent)
    chance = random.Random(SEED)
    counters = agent.agent.counters
    answered = 0

    async def scenario() -> int:
        count = 0
        for number in range(COUNT):
            message = mutate(chance.choice(good), chance)
            agent.transport.sent.clear()
            agent.dispatcher.receive(message, type(PEER)(("127.0.0.1", 1024 + number % 60000), 0))
            if agent.dispatcher.sets.tasks:
                await asyncio.gather(*agent.dispatcher.sets.tasks)
            count += bool(agent.transport.sent)
        return count

    answered = asyncio.run(scenario())
    assert counters.in_pkts == COUNT
    assert counters.internal_errors == 0
    # every datagram without an answer is in a counter
    dropped = (
        counters.in_asn_parse_errs
        + counters.in_bad_versions
        + counters.in_bad_community_names
        + counters.silent_drops
        + counters.unknown_security_models
        + counters.invalid_msgs
        + counters.unknown_pdu_handlers
        + counters.usm_unknown_engine_ids
        + counters.usm_unknown_user_names
        + counters.usm_unsupported_sec_levels
        + counters.usm_wrong_digests
        + counters.usm_not_in_time_windows
        + counters.usm_decryption_errors
    )
    assert counters.in_asn_parse_errs > COUNT // 3
    assert answered > 300
    assert answered + dropped >= COUNT
    assert agent.agent.controller.counters.getter_errors == 0
    got = unwrap(agent.ask(v2c(request(GET, [scalar("sReadOnly")]))))
    assert got.varbinds == [(scalar("sReadOnly"), 2, b"\x05")]


def test_every_truncation_of_every_message(tmp_path: Path) -> None:
    agent = Offline(tmp_path, TestModel(rows=rows(3)))
    total = 0
    for message in seeds(agent):
        for size in range(len(message)):
            assert agent.ask(message[:size]) is None
            total += 1
    assert agent.agent.counters.in_asn_parse_errs == total


def test_no_memory_of_what_was_dropped(tmp_path: Path) -> None:
    agent = Offline(tmp_path, TestModel(rows=rows(3)))
    manager = Manager(agent, "operator", 3)
    message = manager.message(request(GET, [scalar("sReadOnly")]), reportable=False)
    forged = message[:-1] + bytes((message[-1] ^ 1,))
    for _ in range(3000):
        assert agent.ask(forged) is None
    assert agent.agent.counters.usm_wrong_digests == 3000
    assert not agent.dispatcher.sets._pending

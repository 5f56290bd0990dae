"""What strangers send to cost time and memory, and what must not come of it."""

from __future__ import annotations

import asyncio
import os
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from smi_support import CONFIG, Manager, Offline, TestModel, request, rows, unwrap, v2c
from test_smi_controller import scalar

from agent.engine import messages
from agent.engine.pdu import GET, REPORT, SET
from agent.engine.sets import SeenSets
from agent.engine.transport import Peer
from agent.smi import ber
from agent.smi.errors import ErrorStatus

NAME = scalar("sReadOnly")
ASK = request(GET, [NAME])
MANY = request(GET, [NAME] * 3000)
FOREIGN = b"\x80\x00\x00\x01\x05"


def offline(folder: Path) -> Offline:
    return Offline(folder, TestModel(rows=rows(3)))


def v3(
    engine_id: bytes, user: bytes, flags: int, data: bytes, digest: bytes = b"", salt: bytes = b""
) -> bytes:
    """A v3 message of anybody; `data` is a whole ScopedPDU or encryptedPDU."""
    parts = (engine_id, user, digest, salt)
    engine, name, auth, priv = (ber.tlv(ber.OCTET_STRING, part) for part in parts)
    parameters = ber.tlv(ber.SEQUENCE, engine + ber.integer(0) * 2 + name + auth + priv)
    return ber.tlv(
        ber.SEQUENCE, messages.v3_header(1, 65507, flags) + ber.tlv(ber.OCTET_STRING, parameters) + data
    )


def scoped(pdu: bytes) -> bytes:
    return ber.tlv(ber.SEQUENCE, ber.tlv(ber.OCTET_STRING, b"") * 2 + pdu)


def foreign(number: int) -> bytes:
    return FOREIGN + number.to_bytes(8, "big")


def long_oid(number: int) -> bytes:
    draw = random.Random(number)
    return v2c(request(GET, [(1, 3, *(draw.randrange(2**31, 2**32) for _ in range(126)))]), b"stranger")


UNASKED: dict[str, Callable[[int], bytes]] = {
    "a response": lambda n: v2c(b"\xa2" + ASK[1:]),
    "a large response": lambda n: v2c(b"\xa2" + MANY[1:]),
    "a trap of another engine": lambda n: v3(foreign(n), b"anybody", 0, scoped(b"\xa7" + ASK[1:])),
    "a report of another engine": lambda n: v3(foreign(n), b"", 0, scoped(b"\xa8" + ASK[1:])),
    "an encrypted one": lambda n: v3(
        foreign(n), b"operator", 3, ber.tlv(ber.OCTET_STRING, bytes(60)), bytes(24), bytes(8)
    ),
}


@pytest.mark.parametrize("kind", UNASKED)
def test_answers_to_nothing_are_counted_and_dropped(tmp_path: Path, kind: str) -> None:
    agent = offline(tmp_path)
    for number in range(20):
        assert agent.ask(UNASKED[kind](number)) is None
    assert agent.agent.counters.unexpected_answers == 20
    assert agent.agent.counters.internal_errors == 0


STRANGERS: dict[str, Callable[[Offline, int], bytes]] = {
    "varbinds under an unknown community": lambda agent, n: v2c(MANY, b"stranger%d" % n),
    "varbinds of an unknown user": lambda agent, n: v3(agent.agent.engine_id, b"nobody", 4, scoped(MANY)),
    "long OIDs": lambda agent, n: long_oid(n),
    "foreign engines": lambda agent, n: v3(foreign(n), b"operator", 4, scoped(ASK)),
    "contexts": lambda agent, n: Manager(agent, "anybody", 1).message(ASK, n.to_bytes(4, "big") * 5000),
    "responses": lambda agent, n: v2c(b"\xa2" + MANY[1:]),
    "nesting": lambda agent, n: b"\x30\x82\xea\x60" * 15000,
    "lengths": lambda agent, n: b"\x30\x84\x7f\xff\xff\xff\x02\x01\x01" + os.urandom(64),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_strangers_take_no_memory(tmp_path: Path, kind: str) -> None:
    agent = offline(tmp_path)
    for number in range(10):
        agent.ask(STRANGERS[kind](agent, number))
    tracemalloc.start()
    try:
        for number in range(10, 310):
            agent.ask(STRANGERS[kind](agent, number))
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 300_000
    assert agent.agent.counters.internal_errors == 0


@pytest.mark.parametrize(
    "kind",
    ["varbinds under an unknown community", "varbinds of an unknown user", "responses", "nesting"],
)
def test_strangers_take_little_time(tmp_path: Path, kind: str) -> None:
    # 60,000 octets, decoded whole, took 7 to 360 ms; what is refused must cost as a small message does
    agent = offline(tmp_path)
    sent = [STRANGERS[kind](agent, number) for number in range(30)]
    best = 1.0
    for message in sent:
        begun = time.perf_counter()
        agent.ask(message)
        best = min(best, time.perf_counter() - begun)
    assert best < 0.002


def test_a_report_is_small_whatever_the_context(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 3, 484)
    answer = agent.ask(manager.message(ASK, b"c" * 1000))
    assert answer is not None
    assert len(answer) <= 484
    assert manager.read(answer)[1].type == REPORT


def test_discovery_does_not_amplify(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    smallest = v3(b"", b"", 4, scoped(b"\xa0\x0b\x02\x01\x01\x02\x01\x00\x02\x01\x00\x30\x00"))
    answer = agent.ask(smallest)
    assert answer is not None
    assert len(answer) < 2.5 * len(smallest)
    # an agent that gets a Report or Response of its own back stays silent
    assert agent.ask(answer) is None
    community = agent.ask(v2c(ASK))
    assert community is not None
    assert agent.ask(community) is None


@pytest.mark.parametrize(("user", "level"), [("operator", 3), ("signing writer", 2)])
def test_a_recorded_set_is_not_made_again(
    tmp_path: Path, user: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CONFIG.replace('"signer"', '"signing writer"').replace(
        'level = "authNoPriv"', 'level = "authNoPriv"\nwrite = "all"\ninsecure_write = true'
    )
    agent = Offline(tmp_path, TestModel(rows=rows(3)), text)
    manager = Manager(agent, user, level)
    message = manager.message(request(SET, [scalar("sLimited")], values=[ber.integer(4)]))
    now = time.monotonic()

    async def scenario() -> None:
        assert manager.read(await agent.ask_set(message))[1].status == 0
        # the network doubles datagrams: the same answer, to whom it was given
        assert manager.read(await agent.ask_set(message))[1].status == 0
        assert await agent.ask_set(message, Peer(("127.0.0.1", 666), 0)) is None
        monkeypatch.setattr(time, "monotonic", lambda: now + 60)
        assert await agent.ask_set(message) is None
        again = manager.message(request(SET, [scalar("sLimited")], values=[ber.integer(5)]))
        assert manager.read(await agent.ask_set(again))[1].status == 0

    asyncio.run(scenario())
    assert agent.agent.model.commits == ["sLimited", "sLimited"]
    assert agent.agent.counters.sets_replayed == 2


def test_what_was_seen_is_forgotten_when_the_window_has_closed() -> None:
    seen = SeenSets(301, 4)
    assert not seen.seen(b"u", b"1", 10, 0)
    assert seen.seen(b"u", b"1", 10, 301)
    assert not seen.seen(b"v", b"1", 10, 301)
    assert not seen.seen(b"u", b"1", 10, 302)


def test_what_had_to_be_forgotten_early_is_not_made_again_either() -> None:
    seen = SeenSets(301, 4)
    assert not seen.seen(b"u", b"recorded", 50, 0)
    assert not seen.seen(b"v", b"other", 50, 0)
    for number in range(10):
        assert not seen.seen(b"u", b"x%d" % number, 60 + number, 1)
    assert len(seen._seen) <= 4
    # forgotten, but no younger than what was forgotten last of this user
    assert seen.seen(b"u", b"recorded", 50, 2)
    assert seen.seen(b"u", b"x3", 63, 2)
    assert seen.seen(b"v", b"other", 50, 2)
    # what is younger is new, and so is another user's
    assert not seen.seen(b"u", b"y", 70, 2)
    assert not seen.seen(b"w", b"z", 1, 2)
    # with the window closed the time says it all
    assert not seen.seen(b"u", b"late", 1, 400)
    assert b"u" not in seen._floors


def test_a_set_does_not_wait_longer_than_its_manager(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    model = agent.agent.model
    agent.agent._responder.set_timeout = 0.2

    async def scenario() -> list[int]:
        for number in range(60):
            pdu = request(
                SET,
                [scalar("sStuck" if number == 0 else "sSlow")],
                values=[ber.integer(1)],
                request_id=number,
            )
            agent.dispatcher.receive(v2c(pdu, b"writer"), Peer((f"127.0.0.{number + 1}", 1), 0))
            await asyncio.sleep(0)
        begun = time.monotonic()
        while agent.dispatcher.sets.tasks:
            await asyncio.gather(*agent.dispatcher.sets.tasks)
        assert time.monotonic() - begun < 2
        return [unwrap(sent).status for sent in agent.transport.sent]

    statuses = asyncio.run(scenario())
    # the first took all the time there was; nothing of the others is done behind their managers' backs
    assert statuses.count(ErrorStatus.commitFailed) == 1
    assert statuses.count(ErrorStatus.resourceUnavailable) >= 55
    assert model.commits.count("sSlow") <= 4


def test_who_may_not_write_takes_no_place_in_the_queue(tmp_path: Path) -> None:
    agent = offline(tmp_path)

    async def scenario() -> int:
        for number in range(300):
            pdu = request(SET, [scalar("sLimited")], values=[ber.integer(4)], request_id=number)
            agent.dispatcher.receive(v2c(pdu), Peer(("127.0.0.1", 1), 0))
        assert {unwrap(sent).status for sent in agent.transport.sent} == {ErrorStatus.authorizationError}
        assert len(agent.transport.sent) == 300
        pdu = request(SET, [scalar("sLimited")], values=[ber.integer(4)])
        return unwrap(await agent.ask_set(v2c(pdu, b"writer"))).status

    assert asyncio.run(scenario()) == 0
    assert agent.agent.counters.sets_refused_busy == 0

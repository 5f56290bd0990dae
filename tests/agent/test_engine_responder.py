"""The command responder by RFC 3416 section 4.2, and the version 1 mapping of RFC 3584."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from smi_support import PEER, Manager, Offline, TestModel, request, rows, unwrap, v2c
from test_smi_controller import column, scalar

from agent.engine.pdu import GET, GETBULK, GETNEXT, RESPONSE, SET, varbinds_room
from agent.engine.transport import Peer
from agent.smi import ErrorStatus, ber

BIG = 65507


def offline(folder: Path, count: int = 20, size: int = BIG) -> Offline:
    made = Offline(folder, TestModel(rows=rows(count)))
    assert made.agent.usm is not None
    made.agent.usm.max_size = size
    return made


def bulk(names: list[ber.Oid], non_repeaters: int, repetitions: int) -> bytes:
    return v2c(request(GETBULK, names, first=non_repeaters, second=repetitions))


def test_get(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    got = unwrap(agent.ask(v2c(request(GET, [scalar("sReadOnly"), column("tInteger", 5), (1, 3, 9)]))))
    assert (got.type, got.request_id, got.status, got.index) == (RESPONSE, 1234, 0, 0)
    assert [tag for _, tag, _ in got.varbinds] == [2, 2, 0x80]
    assert unwrap(agent.ask(v2c(request(GET, [])))).varbinds == []


@pytest.mark.parametrize("request_id", [0, -1, 2**31 - 1, -(2**31)])
def test_request_ids(tmp_path: Path, request_id: int) -> None:
    pdu = request(GET, [scalar("sReadOnly")], request_id=request_id)
    assert unwrap(offline(tmp_path).ask(v2c(pdu))).request_id == request_id


def test_getnext(tmp_path: Path) -> None:
    got = unwrap(offline(tmp_path, 2).ask(v2c(request(GETNEXT, [column("tInteger", 2), (2, 99)]))))
    assert [(name, tag) for name, tag, _ in got.varbinds] == [(column("tColour", 1), 2), ((2, 99), 0x82)]


@pytest.mark.parametrize(
    ("non_repeaters", "repetitions", "expected"),
    [
        (0, 0, []),
        (0, -5, []),
        (-3, 1, [("tInteger", 1), ("tGauge", 1)]),
        (0, 2, [("tInteger", 1), ("tGauge", 1), ("tInteger", 2), ("tGauge", 2)]),
        (1, 2, [("tInteger", 1), ("tGauge", 1), ("tGauge", 2)]),
        (2, 5, [("tInteger", 1), ("tGauge", 1)]),
        (9, 5, [("tInteger", 1), ("tGauge", 1)]),
        (1, 0, [("tInteger", 1)]),
    ],
)
def test_getbulk(
    tmp_path: Path, non_repeaters: int, repetitions: int, expected: list[tuple[str, int]]
) -> None:
    names = [column("tInteger"), column("tGauge")]
    got = unwrap(offline(tmp_path).ask(bulk(names, non_repeaters, repetitions)))
    assert (got.status, got.index) == (0, 0)
    assert [name for name, _, _ in got.varbinds] == [column(*place) for place in expected]


def test_getbulk_of_many_repeaters_and_huge_repetitions(tmp_path: Path) -> None:
    agent = offline(tmp_path, 500)
    names = [column("tInteger", n) for n in range(100)]
    got = unwrap(agent.ask(bulk(names, 0, 2**31 - 1)))
    assert len(got.varbinds) > 1000
    assert [name for name, _, _ in got.varbinds[:100]] == [column("tInteger", n + 1) for n in range(100)]
    assert got.varbinds[100][0] == column("tInteger", 2)


def test_getbulk_stops_when_all_have_ended(tmp_path: Path) -> None:
    got = unwrap(offline(tmp_path).ask(bulk([(2, 1), (2, 2)], 0, 1000)))
    assert [tag for _, tag, _ in got.varbinds] == [0x82, 0x82]


@pytest.mark.parametrize("size", [484, 485, 500, 700, 1472, 2048, 9000])
def test_getbulk_fills_the_message_and_never_exceeds_it(tmp_path: Path, size: int) -> None:
    agent = offline(tmp_path, 600, size)
    answer = agent.ask(bulk([column("tText")], 0, 10_000))
    assert answer is not None
    assert size - 40 < len(answer) <= size
    whole = [name for name, _, _ in unwrap(answer).varbinds]
    assert whole == [column("tText", n) for n in range(1, len(whole) + 1)]


def test_getbulk_without_room_for_any(tmp_path: Path) -> None:
    agent = offline(tmp_path, 1, 484)
    agent.agent.model.scalars["sBig"] = b"x" * 1000
    got = unwrap(agent.ask(bulk([scalar("sBig")[:-1]], 0, 5)))
    assert (got.status, got.varbinds) == (0, [])


@pytest.mark.parametrize("size", [484, 1000, 1472])
def test_too_big(tmp_path: Path, size: int) -> None:
    agent = offline(tmp_path, 5, size)
    agent.agent.model.scalars["sBig"] = b"x" * size
    for kind, name in ((GET, scalar("sBig")), (GETNEXT, scalar("sBig")[:-1])):
        got = unwrap(agent.ask(v2c(request(kind, [scalar("sReadOnly"), name]))))
        assert (got.status, got.index, got.varbinds) == (ErrorStatus.tooBig, 0, [])
        first = unwrap(agent.ask(v2c(request(kind, [scalar("sReadOnly"), name]), version=0)))
        assert (first.status, first.index, len(first.varbinds)) == (ErrorStatus.tooBig, 0, 2)
    assert agent.agent.counters.silent_drops == 0


def test_an_answer_of_exactly_the_size_fits(tmp_path: Path) -> None:
    agent = offline(tmp_path, 5)
    assert agent.agent.usm is not None
    for length in range(0, 400, 7):
        agent.agent.model.scalars["sBig"] = b"x" * length
        agent.agent.usm.max_size = BIG
        ask = v2c(request(GET, [scalar("sBig"), *[scalar("sReadOnly")] * 12]))
        answer = agent.ask(ask)
        assert answer is not None
        if len(answer) < 484:
            continue
        agent.agent.usm.max_size = len(answer)
        assert unwrap(agent.ask(ask)).status == 0
        agent.agent.usm.max_size = len(answer) - 1
        assert unwrap(agent.ask(ask)).status == ErrorStatus.tooBig


def test_what_has_no_answer_at_all_is_a_counted_drop(tmp_path: Path) -> None:
    agent = offline(tmp_path, 5, 484)
    agent.agent.model.scalars["sBig"] = b"x" * 1000
    # version 1 repeats the request, which alone is too long here
    names = [scalar("sBig"), *[scalar("sReadOnly")] * 30]
    assert agent.ask(v2c(request(GET, names), version=0)) is None
    assert agent.agent.counters.silent_drops == 1


@pytest.mark.parametrize(
    ("kind", "names", "status", "index"),
    [
        (GET, [scalar("sReadOnly"), column("tInteger", 1)], 0, 0),
        (GET, [scalar("sReadOnly"), (1, 3, 9)], 2, 2),
        (GET, [column("tInteger", 99), scalar("sReadOnly")], 2, 1),
        (GET, [scalar("sReadOnly"), column("tCounter64", 1)], 2, 2),
        (GETNEXT, [(2, 9)], 2, 1),
    ],
)
def test_version_1(tmp_path: Path, kind: int, names: list[ber.Oid], status: int, index: int) -> None:
    got = unwrap(offline(tmp_path).ask(v2c(request(kind, names), version=0)))
    assert (got.status, got.index) == (status, index)
    if status:
        assert [(name, tag) for name, tag, _ in got.varbinds] == [(name, 5) for name in names]


def test_version_1_getnext_skips_counter64(tmp_path: Path) -> None:
    got = unwrap(offline(tmp_path, 2).ask(v2c(request(GETNEXT, [column("tCounter", 2)]), version=0)))
    assert got.varbinds[0][0] == column("tTicks", 1)


def test_version_1_has_no_getbulk(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    assert agent.ask(v2c(request(GETBULK, [(1, 3)]), version=0)) is None
    assert agent.agent.counters.in_asn_parse_errs == 1


def set_request(*pairs: tuple[ber.Oid, bytes], request_id: int = 1234) -> bytes:
    names = [name for name, _ in pairs]
    return request(SET, names, values=[value for _, value in pairs], request_id=request_id)


GOOD = (scalar("sLimited"), ber.integer(4))
BAD = (scalar("sLimited"), ber.integer(11))
SHORT = (scalar("sShort"), ber.tlv(4, b"xyz"))


def test_set_answers_with_the_request_s_varbinds(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    got = unwrap(asyncio.run(agent.ask_set(v2c(set_request(GOOD, SHORT), b"writer"))))
    assert (got.status, got.index) == (0, 0)
    assert got.varbinds == [(GOOD[0], 2, b"\x04"), (SHORT[0], 4, b"xyz")]
    assert agent.agent.model.scalars["sLimited"] == 4


@pytest.mark.parametrize(("version", "status"), [(1, ErrorStatus.wrongValue), (0, ErrorStatus.badValue)])
def test_set_errors(tmp_path: Path, version: int, status: ErrorStatus) -> None:
    agent = offline(tmp_path)
    message = v2c(set_request(SHORT, BAD), b"writer", version)
    got = unwrap(asyncio.run(agent.ask_set(message)))
    assert (got.status, got.index) == (status, 2)
    assert got.varbinds == [(SHORT[0], 4, b"xyz"), (BAD[0], 2, b"\x0b")]
    assert agent.agent.model.commits == []


def test_a_community_without_write_access(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    got = unwrap(asyncio.run(agent.ask_set(v2c(set_request(GOOD)))))
    assert (got.status, got.index) == (ErrorStatus.authorizationError, 0)
    got = unwrap(asyncio.run(agent.ask_set(v2c(set_request(GOOD), version=0))))
    assert (got.status, got.index) == (ErrorStatus.noSuchName, 1)
    assert agent.agent.counters.in_bad_community_uses == 2
    assert agent.agent.model.commits == []


def test_a_set_whose_answer_would_not_fit_is_not_made(tmp_path: Path) -> None:
    agent = offline(tmp_path, 5, 484)
    message = v2c(set_request(*[GOOD] * 40), b"writer")
    assert len(message) > 484
    got = unwrap(asyncio.run(agent.ask_set(message)))
    assert (got.status, got.index, got.varbinds) == (ErrorStatus.tooBig, 0, [])
    assert agent.agent.model.commits == []


def test_retransmitted_sets_are_made_once(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    model = agent.agent.model
    slow = (scalar("sSlow"), ber.integer(5))
    message = v2c(set_request(slow, (scalar("sSpin"), ber.integer(7))), b"writer")
    other = Peer(("127.0.0.1", 40001), 0)

    async def scenario() -> None:
        model.gate = asyncio.Event()
        for _ in range(3):
            agent.dispatcher.receive(message, PEER)
        # meanwhile others are served
        assert unwrap(agent.ask(v2c(request(GET, [scalar("sReadOnly")])))).status == 0
        agent.transport.sent.clear()
        await asyncio.sleep(0.02)
        assert agent.transport.sent == []
        model.gate.set()
        while agent.dispatcher.sets.tasks:
            await asyncio.gather(*agent.dispatcher.sets.tasks)
        assert [unwrap(sent).status for sent in agent.transport.sent] == [0, 0, 0]
        assert unwrap(await agent.ask_set(message)).status == 0
        assert model.commits == ["sSlow"]
        assert model.spin.value == 8
        # another manager's, or another request of the same one, is another SET
        again = unwrap(await agent.ask_set(message, other))
        assert (again.status, again.index) == (ErrorStatus.inconsistentValue, 2)
        fresh = v2c(set_request(slow, request_id=77), b"writer")
        assert unwrap(await agent.ask_set(fresh)).status == 0
        assert model.commits == ["sSlow", "sSlow"]

    asyncio.run(scenario())
    assert agent.agent.counters.set_retransmissions == 3


def test_retransmission_under_usm_answers_each_message_id(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 3)
    pdu = set_request((scalar("sSpin"), ber.integer(7)))

    async def scenario() -> None:
        for number in (1, 2):
            frame, got = manager.read(await agent.ask_set(manager.message(pdu)))
            assert (frame.message_id, got.status) == (number, 0)

    asyncio.run(scenario())
    assert agent.agent.model.spin.value == 8


def test_the_answer_to_one_user_is_not_another_s(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    pdu = set_request((scalar("sSpin"), ber.integer(7)))

    async def scenario() -> None:
        statuses = []
        for user in ("operator", "strong", "middle", "operator"):
            manager = Manager(agent, user, 3)
            statuses.append(manager.read(await agent.ask_set(manager.message(pdu)))[1].status)
        statuses.append(unwrap(await agent.ask_set(v2c(pdu, b"writer"))).status)
        statuses.append(unwrap(await agent.ask_set(v2c(pdu))).status)
        wrong, denied = ErrorStatus.inconsistentValue, ErrorStatus.authorizationError
        assert statuses == [0, wrong, wrong, 0, wrong, denied]

    asyncio.run(scenario())
    assert agent.agent.model.spin.value == 8


def test_too_many_sets_at_once_are_refused(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    model = agent.agent.model

    async def scenario() -> None:
        model.gate = asyncio.Event()
        for number in range(20):
            pdu = set_request((scalar("sSlow"), ber.integer(number)), request_id=number)
            agent.dispatcher.receive(v2c(pdu, b"writer"), Peer(("127.0.0.1", 40000 + number), 0))
        statuses = [unwrap(sent).status for sent in agent.transport.sent]
        assert statuses == [ErrorStatus.resourceUnavailable] * 4
        # the others' places are not one manager's to take
        for number in range(50):
            agent.dispatcher.receive(v2c(pdu, b"writer"), Peer((f"127.0.1.{number}", 40000), 0))
        assert len(agent.transport.sent) == 4 + 2
        await asyncio.sleep(0)
        await agent.dispatcher.drain()
        assert not agent.dispatcher.sets._pending
        assert not agent.dispatcher.sets._begun

    asyncio.run(scenario())
    assert agent.agent.counters.sets_refused_busy == 6
    assert model.scalars.get("sSlow") is None


def test_communities_by_source_and_version(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    ask = request(GET, [scalar("sReadOnly")])
    counters = agent.agent.counters
    assert agent.ask(v2c(ask, b"nobody")) is None
    assert agent.ask(v2c(ask, b"elsewhere")) is None
    assert agent.ask(v2c(ask, b"")) is None
    assert agent.ask(v2c(ask), Peer(("198.51.100.1", 1), 0)) is None
    assert counters.in_bad_community_names == 4
    far = Peer(("192.0.2.7", 1), 0)
    assert agent.ask(v2c(ask, b"elsewhere", 0), far) is None  # not offered for version 1
    assert unwrap(agent.ask(v2c(ask, b"elsewhere"), far)).status == 0
    assert unwrap(agent.ask(v2c(ask), Peer(("::1", 1, 0, 0), 0))).status == 0


def test_versions_and_counters(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    ask = request(GET, [scalar("sReadOnly")])
    for version in (2, 4, 99, -1):
        assert agent.ask(v2c(ask, version=version)) is None
    counters = agent.agent.counters
    assert (counters.in_pkts, counters.in_bad_versions) == (4, 4)
    for broken in (b"", b"\x30", b"\x30\x03\x02\x01", ask, v2c(ask)[:-1], v2c(ask) + b"\x00"):
        assert agent.ask(broken) is None
    assert (counters.in_pkts, counters.in_asn_parse_errs) == (10, 6)
    assert counters.internal_errors == 0


def test_room_is_exact() -> None:
    for budget in range(10, 700):
        room = varbinds_room(budget, 1234)
        if room >= 0:
            for size, fits in ((room, True), (room + 1, False)):
                pdu = ber.tlv(
                    RESPONSE,
                    ber.integer(1234) + ber.integer(0) + ber.integer(0) + ber.tlv(0x30, bytes(size)),
                )
                assert (len(pdu) <= budget) is fits, budget

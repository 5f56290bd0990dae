"""Floods: what they may make the engine say, remember and log, and what it costs everybody else."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import tracemalloc
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from smi_support import CONFIG, Manager, Offline, TestModel, request, rows, unwrap, v2c
from test_engine_attacks import ASK, NAME, foreign, scoped, v3
from test_smi_controller import column, scalar

from agent.engine import messages
from agent.engine.limits import OF_NETWORK, OF_STRANGERS, Rate, ReportLimits, network
from agent.engine.pdu import GET, GETBULK, GETNEXT, REPORT, SET
from agent.engine.responder import Requester
from agent.engine.sets import Retransmissions
from agent.engine.summary import Summary
from agent.engine.transport import Peer
from agent.smi import ber

OPEN = CONFIG.replace('networks = ["127.0.0.0/8", "::1/128"]\n[[access]]', "[[access]]")
"""Without networks for the user "anybody"."""
DISCOVERY = v3(b"", b"", 4, scoped(ASK))


def offline(folder: Path, text: str = CONFIG) -> Offline:
    return Offline(folder, TestModel(rows=rows(40)), text)


def everything(agent: Offline, data: bytes, peer: Peer) -> bytes | None:
    """The answer as a socket would get it: from the fast path, else from the plain one."""
    assert agent.agent.fast is not None
    answer = agent.agent.fast.answer(data, peer.address)
    return agent.ask(data, peer) if answer is None else answer or None


# -- token buckets ------------------------------------------------------------------------------------------


def test_a_network_gets_its_burst_and_then_its_rate() -> None:
    limits = ReportLimits(Rate(10, 20), Rate(1000, 1000), key=1)
    assert sum(limits.take("192.0.2.1", 100.0) for _ in range(50)) == 20
    # the whole network, and nobody else's
    assert not limits.take("192.0.2.200", 100.0)
    assert limits.take("192.0.3.1", 100.0)
    assert sum(limits.take("192.0.2.7", 100.55) for _ in range(50)) == 5
    # silence fills it no higher than the burst
    assert sum(limits.take("192.0.2.7", 10_000.0) for _ in range(50)) == 20


def test_strangers_share_and_those_that_were_authentic_do_not() -> None:
    limits = ReportLimits(Rate(10, 20), Rate(5, 30), key=1)
    limits.authenticated("203.0.113.9", 100.0)
    got = sum(limits.take(f"10.{n >> 8}.{n & 255}.1", 100.0) for n in range(5000))
    assert got == 30
    assert sum(limits.take("203.0.113.10", 100.0) for _ in range(50)) == 20
    # for as long as it is remembered
    assert sum(limits.take(f"10.{n >> 8}.{n & 255}.1", 3800.0) for n in range(5000)) == 30
    assert not limits.take("203.0.113.10", 3800.0)


def test_networks_of_the_configuration_have_a_share_of_their_own() -> None:
    limits = ReportLimits(Rate(10, 20), Rate(5, 30), key=1)
    limits.expect([ip_network("203.0.113.0/24"), ip_network("2001:db8::/32"), ip_network("0.0.0.0/0")])
    assert sum(limits.take(f"10.{n >> 8}.{n & 255}.1", 100.0) for n in range(5000)) == 30
    # after a start, before anybody was authenticated, in the middle of a flood
    assert limits.take("203.0.113.7", 100.0)
    assert limits.take("2001:db8:7::1", 100.0)
    # and no more than that, or addresses in a large one could be forged without end
    assert sum(limits.take(f"2001:db8:{n:x}::1", 100.0) for n in range(5000)) == 28


def test_networks() -> None:
    assert network("192.0.2.1") == network("192.0.2.255") != network("192.0.3.1")
    assert network("2001:db8:0:1200::1") == network("2001:db8:0:12ff::2") != network("2001:db8:0:1300::1")
    assert network("fe80::1%eth0") == network("fe80::2%eth1")


def test_the_limits_are_of_one_size() -> None:
    limits = ReportLimits(key=1)
    chance = random.Random(3)
    tracemalloc.start()
    try:
        for number in range(50_000):
            host = ".".join(str(chance.randrange(256)) for _ in range(4))
            limits.take(host, number / 10_000)
            if number % 10 == 0:
                limits.authenticated(host, number / 10_000)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 250_000


# -- Reports ------------------------------------------------------------------------------------------------


def test_a_flood_of_discoveries_is_answered_at_a_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = offline(tmp_path)
    now = [5000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    flooder, polite = Peer(("198.51.100.1", 1), 0), Peer(("203.0.113.1", 1), 0)
    sent = sum(agent.ask(DISCOVERY, flooder) is not None for _ in range(2000))
    assert sent == OF_NETWORK.burst
    assert agent.agent.counters.reports_withheld == 2000 - sent
    assert agent.agent.counters.usm_unknown_engine_ids == 2000
    # meanwhile another network finds out who is here
    assert agent.ask(DISCOVERY, polite) is not None
    sent = 0
    for _ in range(1000):
        now[0] += 0.001
        sent += agent.ask(DISCOVERY, flooder) is not None
    assert sent == pytest.approx(OF_NETWORK.per_second, abs=1)


@pytest.mark.parametrize(
    "kind",
    ["discovery", "another engine", "an unknown user", "a level above", "a wrong digest", "stolen time"],
)
def test_forged_sources_share_a_rate(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of all that can be aimed at others, whatever it answers."""
    agent = offline(tmp_path)
    assert agent.agent.usm is not None
    engine_id = agent.agent.usm.engine_id
    operator = Manager(agent, "operator", 3)
    signed = operator.message(ASK)
    messages_of: dict[str, Callable[[int], bytes]] = {
        "discovery": lambda n: DISCOVERY,
        "another engine": lambda n: v3(foreign(n), b"operator", 4, scoped(ASK)),
        "an unknown user": lambda n: v3(engine_id, b"user %d" % n, 4, scoped(ASK)),
        "a level above": lambda n: v3(engine_id, b"signer", 7, ber.tlv(4, bytes(40)), bytes(16), bytes(8)),
        "a wrong digest": lambda n: signed[:-1] + bytes((signed[-1] ^ 1,)),
        "stolen time": lambda n: signed,
    }
    if kind == "stolen time":
        agent.agent.usm._started -= 200
    now = [5000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    # a manager that has been here under authentication
    now[0] += 1
    assert agent.ask(Manager(agent, "operator", 3).message(ASK), Peer(("203.0.113.1", 1), 0)) is not None
    octets = reports = 0
    for number in range(8000):
        now[0] += 0.0005
        peer = Peer((f"10.{number >> 8 & 255}.{number & 255}.1", 1), 0)
        report = agent.ask(messages_of[kind](number), peer)
        if report is not None:
            reports += 1
            octets += len(report)
    assert OF_STRANGERS.burst <= reports <= OF_STRANGERS.burst + 4 * OF_STRANGERS.per_second + 10
    assert octets / reports < 150
    # that manager starts again and gets its Report
    assert agent.ask(DISCOVERY, Peer(("203.0.113.1", 1), 0)) is not None


def test_whom_the_plain_path_answers_comes_first_in_a_backlog(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    queue = agent.transport.queue
    manager = Manager(agent, "operator", 3)
    agent.ask(v2c(ASK, b"stranger"), Peer(("10.0.0.1", 1), 0))
    agent.ask(DISCOVERY, Peer(("10.0.0.2", 1), 0))
    agent.ask(Manager(agent, "signer", 1).message(ASK), Peer(("10.0.0.3", 1), 0))
    assert list(queue._known) == []
    agent.ask(v2c(ASK), Peer(("127.0.0.5", 1), 0))
    agent.ask(manager.message(ASK), Peer(("10.0.0.9", 1), 0))
    assert list(queue._known) == ["127.0.0.5", "10.0.0.9"]


def test_a_manager_of_the_configuration_finds_the_agent_in_a_flood(tmp_path: Path) -> None:
    """Just started, nobody authenticated yet: forged discoveries take all that strangers share."""
    agent = offline(tmp_path)
    sent = sum(
        agent.ask(DISCOVERY, Peer((f"10.{n >> 8}.{n & 255}.1", 1), 0)) is not None for n in range(4000)
    )
    assert sent < 4000
    assert agent.ask(DISCOVERY, Peer(("127.0.0.1", 1), 0)) is not None
    assert agent.ask(DISCOVERY, Peer(("::1", 1, 0, 0), 0)) is not None


def test_a_report_that_is_not_sent_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = offline(tmp_path)
    assert agent.agent.usm is not None
    for _ in range(int(OF_NETWORK.burst) + 50):
        agent.ask(DISCOVERY)
    made: list[object] = []
    monkeypatch.setattr(agent.agent.usm, "report_of", lambda *arguments: made.append(arguments) or b"")
    agent.dispatcher.limits._tokens[:] = type(agent.dispatcher.limits._tokens)("d", [-1e9]) * 4096
    assert agent.ask(DISCOVERY) is None
    assert made == []


# -- amplification ------------------------------------------------------------------------------------------

LARGE = [
    request(GET, [NAME]),
    request(GET, [NAME] * 20),
    request(GETNEXT, [(1, 3)] * 3),
    request(GETBULK, [column("tText")], second=1000),
    request(GETBULK, [(1, 3)] * 8, first=2, second=100),
    request(GET, [(1, 3, 9)]),
    request(GET, []),
    request(SET, [scalar("sLimited")], values=[ber.integer(4)]),
]


@pytest.mark.parametrize("user", ["anybody", "operator", "signer"])
@pytest.mark.parametrize("pdu", LARGE, ids=lambda pdu: f"{pdu[0]:02x}-{len(pdu)}")
def test_what_nobody_authenticated_gets_no_more_than_it_sent(tmp_path: Path, user: str, pdu: bytes) -> None:
    agent = offline(tmp_path, OPEN)
    manager = Manager(agent, user, 1)
    message = manager.message(pdu)
    answer = everything(agent, message, Peer(("198.51.100.1", 1), 0))
    assert answer is not None
    # no data beyond the request's own size: what may be larger is the header, by what times and sizes take there
    assert len(answer) <= len(message) + 16
    frame, got = manager.read(answer)
    if user == "anybody" and pdu[0] == GETBULK:
        assert got.status == 0
    # and where the network has had its share of larger ones, none at all
    agent.dispatcher.limits._tokens[:] = type(agent.dispatcher.limits._tokens)("d", [-1e9]) * 4096
    for _ in range(5):
        answer = everything(agent, manager.message(pdu), Peer(("198.51.100.1", 1), 0))
        assert answer is None or len(answer) <= len(message)
    assert frame.flags == 0


def test_a_user_with_networks_is_answered_in_full_there(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "anybody", 1)
    message = manager.message(request(GETBULK, [(1, 3)], second=50))
    for answer in (everything(agent, message, Peer(("127.0.0.1", 1), 0)), agent.ask(message)):
        assert answer is not None
        assert len(answer) > 2 * len(message)
    far = everything(agent, message, Peer(("198.51.100.1", 1), 0))
    assert manager.read(far)[1].type == REPORT


def test_networks_hold_for_authenticated_levels_too(tmp_path: Path) -> None:
    text = CONFIG.replace(
        'name = "operator"\n', 'name = "operator"\nnetworks = ["192.0.2.0/24", "2001:db8::/32"]\n', 1
    )
    agent = offline(tmp_path, text)
    manager = Manager(agent, "operator", 3)
    for host, fits in (("192.0.2.77", True), ("2001:db8::5", True), ("192.0.3.1", False), ("::1", False)):
        before = agent.agent.counters.usm_unknown_user_names
        for _ in range(3):
            answer = everything(
                agent, manager.message(ASK), Peer((host, 1, 0, 0)[: 4 if ":" in host else 2], 0)
            )
            assert answer is not None
            _, position, end = messages.version(answer)
            assert (messages.parse_v3(answer, position, end).flags == 3) == fits, host
        assert agent.agent.counters.usm_unknown_user_names - before == (0 if fits else 3)


def test_the_sum_of_what_strangers_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of 2,000 of the smallest discoveries a second from one network: octets out against octets in."""
    agent = offline(tmp_path)
    now = [5000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    smallest = v3(b"", b"", 4, scoped(b"\xa0\x0b\x02\x01\x01\x02\x01\x00\x02\x01\x00\x30\x00"))
    came = went = 0
    for _ in range(20_000):
        now[0] += 0.003
        came += len(smallest)
        answer = agent.ask(smallest, Peer(("198.51.100.1", 1), 0))
        went += len(answer or b"")
    assert went < came


# -- memory and log -----------------------------------------------------------------------------------------


def floods(agent: Offline) -> dict[str, Callable[[int], tuple[bytes, Peer]]]:
    """Kinds of floods: the number of a message -> the message and who sends it."""
    assert agent.agent.usm is not None
    engine_id = agent.agent.usm.engine_id
    operator, signer = Manager(agent, "operator", 3), Manager(agent, "signer", 2)
    recorded = operator.message(ASK)
    bad = signer.message(ASK)
    old = recorded  # its time is stolen below

    def anywhere(number: int) -> Peer:
        return Peer((f"{10 + number % 90}.{number >> 8 & 255}.{number & 255}.1", 1024 + number % 60000), 0)

    return {
        "unknown communities": lambda n: (v2c(ASK, b"c%d" % n), anywhere(n)),
        "communities of 60.000 octets": lambda n: (v2c(ASK, b"%d" % n * 6000), anywhere(n)),
        "foreign engines": lambda n: (v3(foreign(n), b"u", 4, scoped(ASK)), anywhere(n)),
        "unknown users": lambda n: (v3(engine_id, b"u%d" % n, 4, scoped(ASK)), anywhere(n)),
        "wrong digests": lambda n: (bad[:-1] + bytes((n & 255 or 1,)), anywhere(n)),
        "recorded requests": lambda n: (recorded, anywhere(n)),
        "contexts": lambda n: (operator.message(ASK, b"context %d" % n), anywhere(n)),
        "stolen time": lambda n: (old, anywhere(n)),
        "hosts under one community": lambda n: (
            v2c(request(GET, [column("tText", n % 40 + 1), (1, 3, 6, 1, n)])),
            Peer((f"127.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 5), 0),
        ),
        "names under one community": lambda n: (
            v2c(request(GETNEXT, [(*column("tText", n), n, n)])),
            Peer(("127.0.0.1", 1024 + n), 0),
        ),
        "repeated names": lambda n: (
            v2c(request(GETBULK, [(*column("tText", n // 2), n // 2)], second=3)),
            Peer(("127.0.0.1", 5), 0),
        ),
        "refused SETs": lambda n: (
            v2c(request(SET, [scalar("sLimited")], values=[ber.integer(n)], request_id=n)),
            Peer(("127.0.0.1", 1024 + n), 0),
        ),
        "answers": lambda n: (v2c(b"\xa2" + ASK[1:], b"c%d" % n), anywhere(n)),
        "octets": lambda n: (random.Random(n).randbytes(200), anywhere(n)),
    }


KINDS = (
    "unknown communities, communities of 60.000 octets, foreign engines, unknown users, wrong digests, "
    "recorded requests, contexts, stolen time, hosts under one community, names under one community, "
    "repeated names, refused SETs, answers, octets"
)


@pytest.mark.parametrize("kind", KINDS.split(", "))
def test_no_flood_takes_memory_or_fills_the_log(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent = offline(tmp_path)
    flood = floods(agent)[kind]
    if kind == "stolen time":
        assert agent.agent.usm is not None
        agent.agent.usm._started -= 500
    caplog.set_level(logging.INFO)
    for number in range(1200):
        everything(agent, *flood(number))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1200, 3600):
            everything(agent, *flood(number))
        agent.transport.sent.clear()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 3_000_000, f"{grown} octets"
    assert agent.agent.counters.internal_errors == 0
    assert len(caplog.records) <= 3
    # and others are served
    assert unwrap(everything(agent, v2c(ASK), Peer(("127.0.0.1", 9), 0))).status == 0
    polite = Manager(agent, "operator", 3)
    assert polite.read(everything(agent, polite.message(ASK), Peer(("203.0.113.1", 9), 0)))[1].status == 0


GREEDY = {
    "a GET of 4,600 names": request(GET, [(0, 0)] * 4600),
    "a GETNEXT of 4,600 names": request(GETNEXT, [(0, 0)] * 4600),
    "4,600 repeaters": request(GETBULK, [(0, 0)] * 4600, second=2**31 - 1),
    "4,600 non-repeaters": request(GETBULK, [(0, 0)] * 4600, first=4600, second=5),
    "2,000 repeaters of a table": request(GETBULK, [column("tInteger")] * 2000, second=2**31 - 1),
    "60 repeaters of a table": request(GETBULK, [column("tInteger")] * 60, second=2**31 - 1),
    "repeaters at the end": request(GETBULK, [(2, 9)] * 4000, second=2**31 - 1),
}


@pytest.mark.parametrize("what", GREEDY)
def test_no_request_holds_the_others_for_long(tmp_path: Path, what: str) -> None:
    """The worst that a message of good standing can ask: 20 ms here, a tenth of a second on a busy machine."""
    agent = Offline(tmp_path, TestModel(rows=rows(3000)))
    message, best = v2c(GREEDY[what]), 9.0
    assert len(message) < 65507
    for _ in range(4):
        begun = time.process_time()
        assert everything(agent, message, Peer(("127.0.0.1", 1), 0)) is not None
        best = min(best, time.process_time() - begun)
    assert best < 0.1


def test_hosts_without_number_under_one_community(tmp_path: Path) -> None:
    """What is remembered of a host that asks under a community is little, and is forgotten."""
    agent = offline(tmp_path)
    fast = agent.agent.fast
    assert fast is not None
    for number in range(5000):
        host = f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        assert fast.answer(v2c(ASK), (host, 1)) is not None
    assert len(fast._communities) <= 1024
    assert len(fast._sights) <= 8


def test_retransmissions_are_bounded_by_manager_number_and_octets() -> None:
    kept = Retransmissions(15.0, limit=100, of_one=20, room=10_000)

    def key(manager: str, number: int) -> tuple[object, ...]:
        who = Requester(1, 2, manager, 1, "", (manager, 1))
        return (who.manager, who.peer, 1, "", number, b"")

    kept.keep(key("polite", 1), b"answer", 0.0)
    for number in range(500):
        kept.keep(key("flooder", number), b"x", 0.0)
    assert kept.find(key("polite", 1), 1.0) == (True, b"answer")
    assert len(kept._answers) == 21
    assert kept.find(key("flooder", 499), 1.0) == (True, b"x")
    assert kept.find(key("flooder", 100), 1.0) == (False, None)
    for number in range(30):
        kept.keep(key(f"manager {number}", 1), b"x" * 4000, 2.0)
        assert kept._used <= 10_000
    kept.keep(key("polite", 2), None, 3.0)
    assert kept.find(key("polite", 2), 4.0) == (True, None)
    assert kept.find(key("polite", 2), 100.0) == (False, None)
    assert (kept._used, len(kept._answers), dict(kept._managers)) == (0, 0, {})


def test_a_line_a_minute_says_what_no_mib_shows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agent = offline(tmp_path)
    counters, errors = agent.agent.counters, [0]
    summary = Summary(counters, {"send_errors": lambda: errors[0], "backlog_dropped": lambda: 3}, 1000.0)
    counters.sets_replayed += 2
    errors[0] = 7
    for second in range(1000, 1060):
        summary.tick(float(second))
    assert caplog.records == []
    summary.tick(1060.0)
    (line,) = (record.getMessage() for record in caplog.records)
    assert "2 recorded SETs" in line
    assert "7 answers that could not be sent" in line
    for second in range(1061, 1400):
        summary.tick(float(second))
    # nothing has risen since
    assert len(caplog.records) == 1


def test_a_flood_of_sets_leaves_another_manager_its_turn(tmp_path: Path) -> None:
    """Sixteen SETs of 50 ms each wait when the other manager's comes; it is the second one made, not the last."""
    agent = offline(tmp_path)
    # however slow the machine is: none of them gives up
    agent.agent._responder.set_timeout = 60.0
    slow = scalar("sSlow")

    def receive(number: int, name: ber.Oid, host: str) -> None:
        pdu = request(SET, [name], values=[ber.integer(number)], request_id=number)
        agent.dispatcher.receive(v2c(pdu, b"writer"), Peer((host, 40000 + number), 0))

    async def scenario() -> None:
        for number in range(1000):
            receive(number, slow, "127.0.0.66")
        assert len(agent.transport.sent) == 1000 - 16
        agent.transport.sent.clear()
        await asyncio.sleep(0)
        receive(7, scalar("sLimited"), "127.0.0.1")
        while agent.dispatcher.sets.tasks:
            await asyncio.gather(*agent.dispatcher.sets.tasks)
        answers = [(a.varbinds[0][0], a.status) for a in map(unwrap, agent.transport.sent)]
        assert answers.index((scalar("sLimited"), 0)) <= 2
        assert answers.count((slow, 0)) == 16

    asyncio.run(scenario())
    assert agent.agent.counters.sets_refused_busy == 1000 - 16
    assert not agent.dispatcher.sets._turns

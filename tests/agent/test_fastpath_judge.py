"""5,000 requests to our agent and to pysnmp's engine over the same instances, compared after decoding.

Where they differ, pysnmp must be known to be wrong there: each excuse names the section that it is wrong by.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from fastpath_support import Clock, Questions, Twins, still
from pysnmp_judge import Instances, Judge
from smi_support import Answer, answer

from agent.engine import messages
from agent.engine.pdu import GETBULK
from agent.engine.usm import UNSUPPORTED_SEC_LEVELS
from agent.smi import ber

CHUNKS = 4
OF_CHUNK = 1250
LIVE = [
    (1, 3, 6, 1, 2, 1, 11),
    (1, 3, 6, 1, 6, 3, 11, 2, 1),
    (1, 3, 6, 1, 6, 3, 15, 1, 1),
    (1, 3, 6, 1, 6, 3, 10, 2, 1),
    (1, 3, 6, 1, 2, 1, 1, 3),
]
"""Below these values change with each request: only names and types are compared."""
TOO_BIG = 1
AS_MUCH = 64
"""VarBinds that pysnmp puts into the answer to a GETBULK."""
GROWTH = 6
"""Octets by which engine boots and time may still grow: ours leaves room for them, so that the same request has the
same answer at any time."""
EXCUSES = {
    "fits by less than boots and time may grow": "no fault: RFC 3416 section 4.2.1 leaves it to the engine",
    "a level below the user's highest": "RFC 3414 section 3.2 step 5: only a level that the user does not support",
    "a negative number": "RFC 3416 section 3 has none, RFC 1905 section 4.2.3 takes it for 0: pysnmp cannot decode it",
    "max-repetitions of 0 or less: no response": "RFC 3416 section 4.2.3: the non-repeaters, or an empty list",
    "more than 64 repeaters: no response": "RFC 3416 section 4.2.3: no such limit",
    "more rows of nothing but endOfMibView": "no fault: RFC 3416 section 4.2.3 lets the engine stop after the first",
    "at most 64 VarBinds": "RFC 3416 section 4.2.3: as many as fit the message",
    "too large: no response": "RFC 3416 sections 4.2.1 and 4.2.2: tooBig; 4.2.3: fewer VarBinds",
    "error-index of another VarBind": "RFC 1157 sections 4.1.2 and 4.1.3: of the one in error",
}


def decoded(twins: Twins, data: bytes | None) -> Answer | None:
    """The PDU of an answer, deciphered."""
    if data is None:
        return None
    data = twins.opened(data)
    assert data is not None
    version, position, end = messages.version(data)
    if version != 3:
        message = messages.parse_community(data, version, position, end)
        return answer(data[message.pdu : message.end])
    _, _, last = ber.read(data, position, end)
    _, _, last = ber.read(data, last, end)
    # twins.opened has put the ScopedPDU into the place of its ciphertext
    if data[last] == 0x04:
        _, last, _ = ber.read(data, last, end)
    _, first, stop = ber.read(data, last, len(data))
    scoped = messages.parse_scoped(data, first, stop)
    return answer(data[scoped.pdu : scoped.end])


def comparable(found: Answer) -> tuple[object, ...]:
    varbinds = [
        (name, tag, None if any(name[: len(live)] == live for live in LIVE) else content)
        for name, tag, content in found.varbinds
    ]
    return found.type, found.request_id, found.status, found.index, varbinds


def excuse(asked: Answer, ours: Answer, theirs: Answer | None, spare: int) -> str | None:
    """Why pysnmp may answer otherwise; None when it may not. `spare`: octets that its message could still have."""
    bulk = asked.type == GETBULK
    non_repeaters = min(max(asked.status, 0), len(asked.varbinds)) if bulk else 0
    repeaters = len(asked.varbinds) - non_repeaters
    if bulk and (asked.status < 0 or asked.index < 0):
        return "a negative number"
    if theirs is not None and [name for name, _, _ in theirs.varbinds] == [UNSUPPORTED_SEC_LEVELS]:
        return "a level below the user's highest"
    if theirs is None:
        if bulk and (asked.index <= 0 or not repeaters):
            return "max-repetitions of 0 or less: no response"
        if bulk and repeaters > AS_MUCH:
            return "more than 64 repeaters: no response"
        if ours.status == TOO_BIG or (bulk and len(ours.varbinds) < non_repeaters + asked.index * repeaters):
            return "too large: no response"
        return None
    if (ours.status, theirs.status) == (2, 2) and ours.varbinds == theirs.varbinds:
        return "error-index of another VarBind"
    if ours.status == TOO_BIG and 0 <= spare <= GROWTH:
        return "fits by less than boots and time may grow"
    if bulk and ours.status == theirs.status == 0:
        (*_, mine), (*_, other) = comparable(ours), comparable(theirs)
        assert isinstance(mine, list)
        assert isinstance(other, list)
        rest = other[len(mine) :]
        if len(rest) == 1 and other[: len(mine)] == mine and 0 <= spare <= GROWTH:
            return "fits by less than boots and time may grow"
        if rest and other[: len(mine)] == mine and all(tag == 0x82 for _, tag, _ in rest + mine[-repeaters:]):
            return "more rows of nothing but endOfMibView"
        if len(mine) >= len(other) > AS_MUCH - max(repeaters, 1) and mine[: len(other)] == other:
            return "at most 64 VarBinds"
    return None


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_pysnmp_agrees(tmp_path: Path, chunk: int, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    twins = Twins(tmp_path, clock, 30)
    agent = twins.plain.agent
    usm = agent.usm
    assert usm is not None
    instances = []
    cursor = agent.controller.view().cursor((0, 0))
    while not cursor.ended:
        varbind = cursor.advance()
        _, first, last = ber.read(varbind, 0, len(varbind))
        _, _, stop = ber.read(varbind, first, last)
        tag, start, end = ber.read(varbind, stop, last)
        instances.append((cursor.oid, tag, varbind[start:end]))
    instances.pop()
    # what the model has is all there: every third row of one column, else all rows
    assert len(instances) > 30 * 12
    judge = Judge(usm, ("reader",), Instances(agent.controller.oids, instances))
    questions = Questions(twins, 1000 + chunk)
    questions.clients = [
        client
        for client in questions.clients
        if client.user.name in (b"operator", b"strong", b"signer") and client.level > 1
    ]
    excuses: Counter[str] = Counter()
    agreed = taken = 0
    with still(clock):
        while agreed + excuses.total() < OF_CHUNK:
            clock.now += 0.001
            pdu = questions.pdu()
            data, _ = questions.message(pdu, odd=False)
            is_v3 = messages.version(data)[0] == 3
            if not is_v3 and b"reader" not in data:
                continue
            if messages.version(data)[0] == 0 and pdu[0] == GETBULK:
                continue
            ours, fast = twins.ask(data)
            taken += fast
            theirs = decoded(twins, judge.ask(data))
            found = decoded(twins, ours)
            assert found is not None
            if theirs is not None and comparable(found) == comparable(theirs):
                agreed += 1
                continue
            said = judge.transport.sent[0] if judge.transport.sent else b""
            spare = messages.parse_v3(data, *messages.version(data)[1:]).max_size - len(said) if is_v3 else -1
            why = excuse(answer(pdu), found, theirs, spare)
            if why is None:
                pytest.fail(f"asked {answer(pdu)}\nours   {found}\npysnmp {theirs}\n{data.hex()}")
            excuses[why] += 1
    with capsys.disabled():
        print(
            f"\n{agreed} agreed, {taken} of them and others by the fast path, excused {dict(excuses)}",
            end=" ",
        )
    assert set(excuses) <= set(EXCUSES)
    assert agreed > 0.6 * OF_CHUNK
    assert taken > 0.8 * OF_CHUNK

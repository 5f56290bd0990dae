"""Nothing that a message leaves behind needs the cyclic collector.

The daemon keeps the collector from looking at everything, because that would hold all answers up; a cycle for each
message, or for each change of what decisions rest on, would then be a leak.
"""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from smi_support import Manager, request, v2c
from test_engine_attacks import ASK
from test_engine_floods import KINDS, everything, floods, offline
from test_smi_controller import column, scalar

from agent.engine.pdu import GET, GETBULK, SET
from agent.engine.transport import Peer
from agent.smi import ber

COUNT = 200
FEW = 20
"""Objects in cycles that anything else in the process may make meanwhile."""
LOCAL = Peer(("127.0.0.1", 1), 0)


@pytest.mark.parametrize("kind", KINDS.split(", "))
def test_refused_and_flooding_messages(tmp_path: Path, kind: str) -> None:
    agent = offline(tmp_path)
    flood = floods(agent)[kind]
    for number in range(COUNT):
        everything(agent, *flood(number))
    gc.collect()
    gc.disable()
    try:
        for number in range(COUNT, 2 * COUNT):
            everything(agent, *flood(number))
        assert gc.collect() < FEW
    finally:
        gc.enable()


def test_answers_errors_and_changes(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    operator, small = Manager(agent, "operator", 3), Manager(agent, "operator", 3, 484)
    many = request(GET, [column("tText", n) for n in range(1, 30)])

    def once(number: int) -> None:
        agent.agent.epoch.bump()
        everything(agent, operator.message(request(GETBULK, [(1, 3)], second=20)), LOCAL)
        everything(agent, operator.message(ASK), LOCAL)
        everything(agent, small.message(many), LOCAL)
        everything(agent, v2c(ASK), LOCAL)
        everything(agent, v2c(request(GET, [(1, 3, 9)]), b"reader", 0), LOCAL)
        agent.agent.model.stamp += 1

    once(0)
    gc.collect()
    gc.disable()
    try:
        for number in range(50):
            once(number)
        assert gc.collect() < FEW
    finally:
        gc.enable()


def test_sets(tmp_path: Path) -> None:
    agent = offline(tmp_path)

    async def sets(value: int) -> None:
        for number in range(COUNT):
            pdu = request(SET, [scalar("sLimited")], values=[ber.integer(value)], request_id=number)
            assert await agent.ask_set(v2c(pdu, b"writer"), Peer(("127.0.0.1", 1000 + value), 0)) is not None

    async def scenario() -> tuple[int, int]:
        await sets(1)
        gc.collect()
        gc.disable()
        try:
            await sets(2)
            good = gc.collect()
            # refused: 0 to 10 is the range
            await sets(99)
            return good, gc.collect()
        finally:
            gc.enable()

    assert max(asyncio.run(scenario())) < FEW

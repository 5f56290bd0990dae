"""200,000 datagrams to two agents of which one has the fast path: the same octets, the same counters.

The generator draws well-formed requests of every version, level and view with names at, between and beyond
instances, unusual ones, and broken ones; now and then the model or the configuration changes. How much the fast
path has really taken is part of what is tested: a fast path that takes nothing differs in nothing.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from fastpath_support import CONFIG, OTHER_CONFIG, Clock, Questions, Twins, still
from smi_support import config

CHUNKS = 20
OF_CHUNK = 10_000
AT_LEAST = 0.8
"""Of the well-formed requests by known requesters whose views are whole, this part must be taken."""
MESSAGE_SIZES = (65507, 484, 1472, 65507, 4096)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_both_paths_answer_the_same(tmp_path: Path, chunk: int, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    size = MESSAGE_SIZES[chunk % len(MESSAGE_SIZES)]
    twins = Twins(tmp_path, clock, 40 if chunk % 3 else 300, size)
    draw = random.Random(chunk)
    questions = Questions(twins, chunk)
    well_formed = taken_of_them = 0
    with still(clock):
        for number in range(OF_CHUNK):
            clock.now += 0.01
            if number % 40 == 39:
                twins.change(draw)
            if number % (OF_CHUNK // 2) == OF_CHUNK // 4:
                text = (OTHER_CONFIG if number < OF_CHUNK // 2 else CONFIG).replace("65507", str(size))
                for offline in twins.both:
                    path = offline.agent.config.state_dir
                    asyncio.run(offline.agent.reload(config(path, text)))
            data, address, expected = questions.next()
            _, taken = twins.ask(data, address)
            well_formed += expected
            taken_of_them += expected and taken
    with capsys.disabled():
        print(
            f"\n{OF_CHUNK} datagrams, {twins.taken} taken; of {well_formed} well-formed {taken_of_them}",
            end=" ",
        )
    assert taken_of_them > AT_LEAST * well_formed
    assert well_formed > 0.3 * OF_CHUNK
    for counters in (offline.agent.counters for offline in twins.both):
        assert counters.internal_errors == 0
    assert twins.plain.agent.counters == twins.fast.agent.counters

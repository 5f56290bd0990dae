"""Both paths asked at once, for the tests that attack the fast path's caches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from smi_support import CONFIG, Offline, TestModel, rows
from smi_support import request as any_request
from test_smi_controller import scalar

from agent.engine import usm as usm_module
from agent.engine.agent import SnmpAgent
from agent.engine.pdu import GET
from agent.engine.transport import Peer
from agent.smi import ber


def request(kind: int, names: Sequence[ber.Oid], **options: Any) -> bytes:
    """With a request-id of four octets, as most managers send and the fast path knows again."""
    return any_request(kind, names, **{"request_id": 0x21222324, **options})


LOCAL = Peer(("127.0.0.1", 5000), 0)
NAME = scalar("sReadOnly")
ASK = request(GET, [NAME])
EXCEPTIONS = (0x80, 0x81, 0x82)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing moves between the two paths' answers."""
    monkeypatch.setattr(SnmpAgent, "up_time", property(lambda agent: 4711))
    monkeypatch.setattr(usm_module, "_clock", lambda: 0.0)


def offline(folder: Path, text: str = CONFIG, count: int = 20) -> Offline:
    made = Offline(folder, TestModel(rows=rows(count)), text)
    assert made.agent.usm is not None
    made.agent.usm._started = -1000.0
    return made


class Both:
    """Asks the fast path (twice: plans are kept from the second time on) and the plain one."""

    def __init__(self, agent: Offline) -> None:
        assert agent.agent.fast is not None
        assert agent.agent.usm is not None
        self.agent = agent
        self.fast, self.usm = agent.agent.fast, agent.agent.usm
        self.mine = self.total = 0

    def ask(self, data: bytes, peer: Peer = LOCAL) -> bytes | None:
        counters = self.agent.agent.counters
        kept = {name: getattr(counters, name) for name in counters.__slots__}
        self.total += 1
        found: list[bytes | None] = []
        for _ in range(3):
            self.usm._salt = 99
            found.append(self.fast.answer(data, peer.address))
            for name, value in kept.items():
                setattr(counters, name, value)
        self.usm._salt = 99
        plain = self.agent.ask(data, peer)
        for fast in found:
            if fast is not None:
                self.mine += 1
                assert fast == (plain or b""), f"{data.hex()}\n{fast.hex()}\n{plain and plain.hex()}"
        return plain

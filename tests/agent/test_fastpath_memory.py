"""What the fast path throws away is freed by counts of references: the agent's collector may have frozen it."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from smi_support import CONFIG, Manager, Offline, TestModel, request, rows, unwrap, v2c

from agent.engine.fastpath import sight as sights
from agent.engine.pdu import GET, GETBULK

NAME = (1, 3, 6, 1, 2, 1, 1, 5, 0)


def test_a_change_of_access_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[object]] = []

    class Watched(sights.Sight):
        __slots__ = ("__weakref__",)

        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            made.append(weakref.ref(self))

    monkeypatch.setattr("agent.engine.fastpath.path.Sight", Watched)
    offline = Offline(tmp_path, TestModel(rows=rows(20)), CONFIG)
    fast = offline.transport.fast
    manager = Manager(offline, "operator", 3)
    gc.collect()
    gc.disable()
    try:
        for number in range(5):
            for kind, names, second in ((GET, [NAME], 0), (GET, [NAME] * 3, 0), (GETBULK, [(1, 3)], 20)):
                for _ in range(3):
                    asked = request(kind, names, second=second, request_id=1000 + number)
                    said = fast(v2c(asked), ("127.0.0.1", 40000))
                    assert said
                    assert unwrap(said).status == 0
                    assert fast(manager.message(asked), ("127.0.0.1", 40001))
            offline.agent.epoch.bump()
        fast(v2c(request(GET, [NAME])), ("127.0.0.1", 40000))
        assert len(made) > 8
        assert sum(ref() is not None for ref in made) == 1
    finally:
        gc.enable()

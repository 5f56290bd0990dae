"""snmpEngineID and snmpEngineBoots on disk."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from smi_support import CONFIG, Running, TestModel, config, running

from agent.engine import state
from agent.engine.transport import TransportError


def test_boots_count_and_the_engine_id_stays(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    runs = [state.start(folder, None) for _ in range(3)]
    assert [run.boots for run in runs] == [1, 2, 3]
    assert len({run.engine_id for run in runs}) == 1
    engine_id = runs[0].engine_id
    assert 5 <= len(engine_id) <= 32
    assert engine_id[0] & 0x80
    assert engine_id[4] == 5


def test_engine_ids_differ_between_machines(tmp_path: Path) -> None:
    assert state.start(tmp_path / "a", None).engine_id != state.start(tmp_path / "b", None).engine_id


def test_modes_and_no_leftovers(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    state.start(folder, None)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == ["engine.json"]
    assert stat.S_IMODE((folder / "engine.json").stat().st_mode) == 0o600


def test_a_new_engine_id_does_not_take_boots_back(tmp_path: Path) -> None:
    first = state.start(tmp_path, None)
    second = state.start(tmp_path, b"\x80\x00\x00\x01\x05abc")
    third = state.start(tmp_path, first.engine_id)
    assert (second.engine_id, second.boots, third.boots) == (b"\x80\x00\x00\x01\x05abc", 2, 3)


def test_boots_latch_at_the_maximum(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = state.start(tmp_path, None)
    data = {"engine_id": kept.engine_id.hex(), "boots": state.MAX_BOOTS}
    (tmp_path / "engine.json").write_text(json.dumps(data))
    assert state.start(tmp_path, None).boots == state.MAX_BOOTS
    assert "agent.engine_id" in caplog.text


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"engine_id": "zz", "boots": 1}', '{"engine_id": "8000000001", "boots": -1}'],
)
def test_damaged_state_is_refused_and_not_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "engine.json"
    path.write_text(text)
    with pytest.raises(state.EngineStateError, match="damaged"):
        state.start(tmp_path, None)
    assert path.read_text() == text


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(state.EngineStateError, match="state_dir"):
        state.start(tmp_path / "file" / "state", None)


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    with running(tmp_path, TestModel()) as agent:
        boots = agent.agent.engine_boots
        with pytest.raises(state.EngineStateError, match=r"another agent .* agent\.state_dir"):
            Running(config(tmp_path), [], TestModel())
        assert json.loads((tmp_path / "engine.json").read_text())["boots"] == boots
    with running(tmp_path, TestModel()) as agent:
        assert agent.agent.engine_boots == boots + 1


def test_a_start_that_fails_frees_the_state(tmp_path: Path) -> None:
    settings = config(tmp_path, CONFIG.replace("127.0.0.1:0", "192.0.2.1:1"))
    with pytest.raises(TransportError):
        Running(settings, [], TestModel())
    with running(tmp_path, TestModel()):
        pass


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = state.start(tmp_path, None)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(state.EngineStateError, match="No space left on device; free some space"):
        state.start(tmp_path, None)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["engine.json"]
    assert state.start(tmp_path, None).boots == kept.boots + 1


def test_a_running_agent_counts_its_start(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        with running(tmp_path, TestModel()) as agent:
            seen.append((agent.agent.engine_id, agent.agent.engine_boots))
    assert seen[0][0] == seen[1][0]
    assert [boots for _, boots in seen] == [1, 2]

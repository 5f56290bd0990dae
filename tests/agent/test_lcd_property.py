"""The datastore under any sequence of SETs, reloads, restarts and failing disks, against a model of a few lines."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.engine import lcd as lcds
from agent.engine import state
from agent.engine.epoch import Epoch
from agent.engine.lcd import Lcd, LcdTable
from agent.smi.errors import SetError
from agent.smi.rowstatus import RowStatusWriter

LIMIT = 2
NAMES = [b"a", b"b", b"c", b"d"]
ROW = st.fixed_dictionaries(
    {"index": st.sampled_from(NAMES)},
    optional={
        "status": st.integers(1, 6),
        "storage": st.sampled_from([2, 3, 5]),
        "number": st.integers(0, 3),
    },
)
NAME, NUMBER, STORAGE = st.sampled_from(NAMES), st.integers(0, 3), st.sampled_from([2, 3])
USUAL = st.one_of(
    st.fixed_dictionaries(
        {"index": NAME, "status": st.just(4), "number": NUMBER}, optional={"storage": STORAGE}
    ),
    st.fixed_dictionaries({"index": NAME, "status": st.just(6)}),
    st.fixed_dictionaries({"index": NAME}, optional={"number": NUMBER, "storage": STORAGE}),
)
STEP = st.one_of(
    st.tuples(
        st.just("set"),
        st.lists(st.one_of(USUAL, USUAL, ROW), min_size=1, max_size=2, unique_by=lambda row: row["index"]),
        st.sampled_from(["", "", "", "before", "after", "late"]),
    ),
    st.tuples(st.just("configure"), st.sets(st.sampled_from(NAMES), max_size=2)),
    st.tuples(st.just("restart")),
)


class Disk:
    """Fails when told to: before the file is replaced or after, or lets a later change of the PDU fail."""

    def __init__(self) -> None:
        self.mood = ""

    def write(self, path: Path, text: str) -> None:
        mood, self.mood = self.mood, ""
        if mood == "before":
            raise OSError(28, "No space left on device")
        state.write_text(path, text)
        if mood == "after":
            raise OSError(5, "Input/output error")


class Machine:
    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder = folder
        self.disk = disk
        self.configured: set[bytes] = set()
        self.open()

    def open(self) -> None:
        self.lcd = Lcd(self.folder, Epoch())
        self.table: LcdTable = self.lcd.table("t", index=(bytes,), columns={"number": int}, limit=LIMIT)
        self.lcd.load()
        self.writer = RowStatusWriter(self.table, "status", "storage", required=("number",))
        self.configure(self.configured)

    def configure(self, names: set[bytes]) -> None:
        self.configured = names
        self.table.set_configured({(name,): {"number": 9} for name in names})

    def shown(self) -> dict[bytes, tuple[int, int, Any]]:
        return {row.index[0]: (row.status, row.storage, row["number"]) for row in self.table.rows()}

    def stored(self) -> dict[bytes, tuple[int, int, Any]]:
        rows = self.table._stored.values()
        return {row.index[0]: (row.status, row.storage, row["number"]) for row in rows}

    def set(self, rows: list[dict[str, Any]], mood: str) -> str:
        """One PDU: 'refused', 'done' or 'undone'."""
        whole: Any = None
        try:
            for row in rows:
                values = {name: value for name, value in row.items() if name != "index"}
                if not values:
                    continue
                change = self.writer.test(None, None, (row["index"],), values)
                if change.merge_key is not None:
                    whole = change if whole is None else whole.merge(change)
        except SetError:
            return "refused"
        if whole is None:
            return "done"

        async def run() -> str:
            self.disk.mood = mood
            try:
                await whole.commit()
                if mood == "late":
                    raise OSError("another change of the PDU")
            except OSError:
                self.disk.mood = ""
                await whole.undo()
                return "undone"
            finally:
                self.disk.mood = ""
            return "done"

        return asyncio.run(run())


@settings(max_examples=120, deadline=None)
@given(st.lists(STEP, min_size=5, max_size=20))
def test_memory_and_disk_always_agree(steps: list[tuple[Any, ...]]) -> None:
    disk = Disk()
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lcds, "write_text", disk.write)
        machine = Machine(Path(name), disk)
        for step in steps:
            before, stored = machine.shown(), machine.stored()
            epoch, stamp = machine.lcd.epoch.value, machine.table.stamp
            if step[0] == "set":
                said = machine.set(step[1], step[2])
                if said != "done":
                    assert machine.shown() == before
                    assert machine.stored() == stored
                elif machine.shown() != before:
                    assert machine.lcd.epoch.value > epoch
                    assert machine.table.stamp > stamp
            elif step[0] == "configure":
                machine.configure(step[1])
                assert machine.stored() == stored
            else:
                machine.open()
                # volatile rows are gone, all others are as they were
                assert machine.stored() == {index: row for index, row in stored.items() if row[1] == 3}
            assert len(machine.stored()) <= LIMIT
            assert all(machine.shown()[index] == (1, 5, 9) for index in machine.configured)
            # what a restart at this moment would find
            there = Machine(Path(name), disk).stored()
            assert there == {index: row for index, row in machine.stored().items() if row[1] == 3}
            assert [path.name for path in Path(name).iterdir()] in ([], [lcds.FILE])

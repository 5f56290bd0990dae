"""The datastore under any sequence of SETs, reloads, restarts and failing disks, against a model of a few lines."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.engine import lcd as lcds
from agent.engine import state
from agent.engine.epoch import Epoch
from agent.engine.lcd import Lcd, LcdTable
from agent.smi.errors import SetError
from agent.smi.rowstatus import RowStatusWriter

LIMIT = 3
NAMES = [b"a", b"b", b"c", b"d"]


def some_row(random: Random, index: bytes) -> dict[str, Any]:
    """Varbinds of one row: mostly what makes, changes and removes rows, now and then anything."""
    number, storage = random.randrange(4), random.choice([2, 3, 3])
    kind = random.randrange(8)
    if kind < 4:
        return {"index": index, "status": 4, "number": number, **({"storage": storage} if kind else {})}
    if kind == 4:
        return {"index": index, "status": 6}
    if kind == 5:
        return {"index": index, "number": number}
    if kind == 6:
        return {"index": index, "storage": storage}
    anything = {"status": random.randint(1, 6), "storage": random.choice([2, 3, 5]), "number": number}
    return {"index": index, **{name: anything[name] for name in anything if random.random() < 0.6}}


def some_step(random: Random) -> tuple[Any, ...]:
    kind = random.randrange(12)
    if kind == 0:
        return ("configure", set(random.sample(NAMES, random.randrange(3))))
    if kind == 1:
        return ("restart",)
    indexes = random.sample(NAMES, random.choice([1, 1, 2, 3]))
    mood = random.choice(["", "", "", "", "before", "after", "late"])
    return ("set", [some_row(random, index) for index in indexes], mood)


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


@pytest.mark.parametrize("seed", range(6))
def test_memory_and_disk_always_agree(seed: int) -> None:
    random, disk, outcomes = Random(seed), Disk(), Counter[str]()
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lcds, "write_text", disk.write)
        machine = Machine(Path(name), disk)
        for _ in range(250):
            step = some_step(random)
            before, stored = machine.shown(), machine.stored()
            epoch, stamp = machine.lcd.epoch.value, machine.table.stamp
            if step[0] == "set":
                said = machine.set(step[1], step[2])
                outcomes[said] += 1
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
    assert min(outcomes[said] for said in ("done", "undone", "refused")) >= 4

"""The Local Configuration Datastore: rows, limits, and what a disk may do to it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.config import Secret
from agent.engine import lcd as lcds
from agent.engine.epoch import Epoch
from agent.engine.lcd import Lcd, LcdChange, LcdError, LcdTable
from agent.engine.state import sweep
from agent.smi.errors import SetError
from agent.smi.rowstatus import RowStatus, RowStatusWriter, StorageType

COLUMNS = {"number": int, "text": bytes, "oid": tuple, "key": Secret}


def store(folder: Path, limit: int = 5) -> tuple[Lcd, LcdTable]:
    lcd = Lcd(folder, Epoch())
    table = lcd.table("t", index=(bytes, int), columns=COLUMNS, limit=limit)
    lcd.load()
    return lcd, table


def writer(table: LcdTable) -> RowStatusWriter:
    return RowStatusWriter(table, "status", "storage", required=("number",), defaults={"text": b"new"})


def change(table: LcdTable, index: tuple[Any, ...], **values: Any) -> LcdChange:
    made = writer(table).test(None, None, index, values)
    assert isinstance(made, LcdChange)
    return made


def make(table: LcdTable, index: tuple[Any, ...] = (b"a", 1), **values: Any) -> LcdChange:
    return change(table, index, status=4, **({"number": 7} | values))


def commit(made: Any) -> None:
    asyncio.run(made.commit())


ALL = {"number": -7, "text": b'\0\xff"', "oid": (1, 3, 6), "key": Secret(b"hush hush"), "storage": 3}


def test_rows_outlive_a_restart(tmp_path: Path) -> None:
    lcd, table = store(tmp_path)
    commit(make(table, **ALL))
    commit(change(table, (b"", 0), status=5))
    epoch = lcd.epoch.value
    assert epoch == 2
    again = store(tmp_path)[1]
    row = again.get((b"a", 1))
    assert row is not None
    assert {name: row[name] for name in COLUMNS} == {name: ALL[name] for name in COLUMNS}
    assert row.is_active
    waiting = again.get((b"", 0))
    assert waiting is not None
    assert (waiting.status, waiting.storage) == (RowStatus.notReady, StorageType.nonVolatile)
    assert [row.index for row in again.active()] == [(b"a", 1)]
    path = tmp_path / lcds.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == [lcds.FILE]
    assert "hush" not in repr(row)
    commit(change(again, (b"a", 1), status=6))
    assert store(tmp_path)[1].get((b"a", 1)) is None


def test_volatile_rows_touch_no_disk(tmp_path: Path) -> None:
    _, table = store(tmp_path)
    commit(make(table, storage=2))
    assert len(table) == 1
    assert list(tmp_path.iterdir()) == []
    commit(change(table, (b"a", 1), storage=3))
    assert len(store(tmp_path)[1]) == 1
    commit(change(table, (b"a", 1), storage=2))
    assert len(table) == 1
    assert len(store(tmp_path)[1]) == 0


def test_one_pdu_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lcd, table = store(tmp_path)
    writes: list[str] = []
    monkeypatch.setattr(lcds, "write_text", lambda path, text: writes.append(text))
    seen: list[int] = []
    table.watch(lambda: seen.append(len(table)))
    first = make(table)
    for number in (2, 3):
        other = make(table, (b"a", number))
        assert other.merge_key is first.merge_key
        first.merge(other)
    commit(first)
    assert len(writes) == 1
    assert (seen, len(table), lcd.epoch.value, table.stamp) == ([3], 3, 1, 1)
    asyncio.run(first.undo())
    assert (seen, len(table), lcd.epoch.value, table.stamp) == ([3, 0], 0, 2, 2)
    assert len(writes) == 2


def test_tables_are_bounded(tmp_path: Path) -> None:
    _, table = store(tmp_path, limit=2)
    first = make(table)
    first.merge(make(table, (b"a", 2)))
    with pytest.raises(SetError, match="resourceUnavailable"):
        first.merge(make(table, (b"a", 3)))
    commit(make(table))
    commit(make(table, (b"a", 2)))
    with pytest.raises(SetError, match="resourceUnavailable"):
        make(table, (b"a", 3))
    # one goes and one comes
    swap = change(table, (b"a", 2), status=6)
    commit(swap)
    commit(make(table, (b"a", 3)))
    commit(change(table, (b"a", 3), number=9))
    assert len(table) == 2


def test_configured_rows_are_read_only_and_replaced(tmp_path: Path) -> None:
    lcd, table = store(tmp_path)
    commit(make(table, (b"b", 1)))
    table.set_configured({(b"a", 1): {"number": 1}})
    row = table.get((b"a", 1))
    assert row is not None
    assert row.storage is StorageType.readOnly
    for values in ({"number": 2}, {"status": 6}, {"status": 2}, {"storage": 3}):
        with pytest.raises(SetError, match=r"readOnly|wrongValue"):
            change(table, (b"a", 1), **values)
    epoch = lcd.epoch.value
    table.set_configured({(b"a", 1): {"number": 1}})
    assert lcd.epoch.value == epoch
    table.set_configured({(b"b", 1): {"number": 5}})
    assert lcd.epoch.value == epoch + 1
    hidden = table.get((b"b", 1))
    assert hidden is not None
    assert (hidden["number"], len(table)) == (5, 1)
    table.set_configured({})
    shown = table.get((b"b", 1))
    assert shown is not None
    assert (shown["number"], shown.storage) == (7, StorageType.nonVolatile)


def test_scalars_outlive_a_restart(tmp_path: Path) -> None:
    for expected, value in ((2, 1), (1, 2), (2, 2)):
        lcd = Lcd(tmp_path, Epoch())
        scalar = lcd.scalar("switch", 2)
        lcd.load()
        assert scalar.value == expected
        epoch = lcd.epoch.value
        commit(scalar.test(None, value))
        assert scalar.value == value
        # no access decision rests on it: nobody need forget any
        assert lcd.epoch.value == epoch


# -- disks ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "lcd-disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "lcdtest", folder]).returncode
    ):
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def refused(made: LcdChange) -> None:
    async def run() -> None:
        with pytest.raises(OSError, match=r"No space left|Read-only"):
            await made.commit()
        await made.undo()

    asyncio.run(run())


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            return


def test_a_full_disk_changes_nothing(small_disk: Path) -> None:
    _, table = store(small_disk)
    commit(make(table))
    before = (small_disk / lcds.FILE).read_text()
    fill(small_disk / "filler")
    stamp = table.stamp
    refused(make(table, (b"b", 2), text=b"x" * 6000))
    refused(change(table, (b"a", 1), status=6))
    assert (small_disk / lcds.FILE).read_text() == before
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", lcds.FILE]
    assert (len(table), table.stamp) == (1, stamp)
    (small_disk / "filler").unlink()
    commit(make(table, (b"b", 2)))
    assert len(store(small_disk)[1]) == 2


def test_a_read_only_disk_changes_nothing(small_disk: Path) -> None:
    _, table = store(small_disk)
    commit(make(table))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    refused(change(table, (b"a", 1), number=8))
    row = table.get((b"a", 1))
    assert row is not None
    assert row["number"] == 7
    # what needs no disk still works
    commit(make(table, (b"v", 1), storage=2))


def test_a_disk_that_fails_after_the_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, table = store(tmp_path)
    commit(make(table))
    before = (tmp_path / lcds.FILE).read_text()
    real = os.fsync

    def fail_on_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    made = change(table, (b"a", 1), number=8)
    monkeypatch.setattr(os, "fsync", fail_on_folders)
    with pytest.raises(OSError, match="Input/output"):
        commit(made)
    # the new file is in place, and cannot be taken back for sure: that is undoFailed
    with pytest.raises(OSError, match="Input/output"):
        asyncio.run(made.undo())
    monkeypatch.undo()
    asyncio.run(made.undo())
    assert (tmp_path / lcds.FILE).read_text() == before


def test_a_timeout_in_the_middle_of_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, table = store(tmp_path)
    commit(make(table))
    before = (tmp_path / lcds.FILE).read_text()
    real, slow = lcds.write_text, [0.3]

    def write(path: Path, text: str) -> None:
        time.sleep(slow.pop() if slow else 0)
        real(path, text)

    monkeypatch.setattr(lcds, "write_text", write)
    made = change(table, (b"a", 1), number=8)

    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await made.commit()
        await made.undo()

    asyncio.run(run())
    row = table.get((b"a", 1))
    assert row is not None
    assert row["number"] == 7
    assert (tmp_path / lcds.FILE).read_text() == before


def test_a_write_that_hangs_is_not_overtaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, table = store(tmp_path)
    commit(make(table))
    real, slow = lcds.write_text, [0.4]

    def write(path: Path, text: str) -> None:
        time.sleep(slow.pop() if slow else 0)
        real(path, text)

    monkeypatch.setattr(lcds, "write_text", write)

    async def run() -> None:
        made = change(table, (b"a", 1), number=8)
        for step in (made.commit, made.undo):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await step()
        await make(table, (b"b", 2)).commit()

    asyncio.run(run())
    for there in (table, store(tmp_path)[1]):
        assert {row.index: row["number"] for row in there.rows()} == {(b"a", 1): 7, (b"b", 2): 7}


def damage(text: str) -> list[bytes]:
    data = text.encode()
    flipped = data.replace(b"x61", b"x62")
    return [
        b"",
        data[:-30],
        data[: len(data) // 2],
        bytes(len(data)),
        flipped,
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        data.replace(b'"format": 1', b'"format": 9'),
        b'{"format": 1}',
        b'{"format": 1, "sha256": "%s", "tables": []}\n' % hashlib.sha256(b"[]").hexdigest().encode(),
        data + b" ",
        lcds._file({"t": [[["x61", 1], "active", {"number": "x00"}]]}).encode(),
        lcds._file({"t": [[["x61", 1], "active", {"unknown": 1}]]}).encode(),
        lcds._file({"t": [[["x61"], "active", {}]]}).encode(),
        lcds._file({"t": [[["x61", 1], "sleeping", {}]]}).encode(),
        lcds._file({"t": [["x"]]}).encode(),
        lcds._file({"t": [[["x61", 1], "active", {"key": "kzz-secret"}]]}).encode(),
    ]


def test_a_damaged_file_is_told_and_kept(tmp_path: Path) -> None:
    _, table = store(tmp_path)
    commit(make(table, **ALL))
    path = tmp_path / lcds.FILE
    for data in damage(path.read_text()):
        path.write_bytes(data)
        with pytest.raises(LcdError, match=r"lcd\.json: damaged .*; restore it, or delete it") as caught:
            store(tmp_path)
        assert "secret" not in str(caught.value)
        assert path.read_bytes() == data


def test_tables_of_a_newer_version_are_kept(tmp_path: Path) -> None:
    _, table = store(tmp_path)
    commit(make(table))
    older = Lcd(tmp_path, Epoch())
    other = older.table("other", index=(int,), columns={"number": int})
    older.load()
    commit(RowStatusWriter(other, "s").test(None, None, (1,), {"s": 4, "number": 1}))
    assert len(store(tmp_path)[1]) == 1


KILLED = """
import asyncio, sys
from pathlib import Path
from agent.engine.epoch import Epoch
from agent.engine.lcd import Lcd
from agent.smi.rowstatus import RowStatus, StorageType, StoredRow

lcd = Lcd(Path(sys.argv[1]), Epoch())
table = lcd.table("t", index=(bytes, int), columns={"number": int, "text": bytes})
lcd.load()

async def main():
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        change = None
        for index in range(20):
            row = StoredRow(RowStatus.active, StorageType.nonVolatile, {"number": number, "text": bytes(2000)})
            one = table.change(None, (b"r", index), None, row)
            change = change.merge(one) if change else one
        await change.commit()

asyncio.run(main())
"""


def test_killed_at_any_moment_it_leaves_the_old_or_the_new(tmp_path: Path, repository: Path) -> None:
    for attempt in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=repository
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.02 + 0.013 * attempt)
        process.kill()
        process.wait()
        process.stdout.close()
        lcd = Lcd(tmp_path, Epoch())
        table = lcd.table("t", index=(bytes, int), columns={"number": int, "text": bytes})
        lcd.load()
        # all rows of one PDU or none of them
        assert len(table) in (0, 20)
        assert len({row["number"] for row in table.rows()}) <= 1
    assert len(table) == 20
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [lcds.FILE]


def test_a_file_that_others_may_read_is_told_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, table = store(tmp_path)
    commit(make(table))
    path = tmp_path / lcds.FILE
    path.chmod(0o644)
    assert len(store(tmp_path)[1]) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "had mode 0644" in caplog.text

"""The Local Configuration Datastore (RFC 3411 section 3.1.6): users, access, targets and what else SNMP configures.

Named tables of rows, each with RowStatus and StorageType. Rows of the configuration file are readOnly and are
replaced when the file is read again; rows made over SNMP are volatile or nonVolatile. All nonVolatile rows stand
in one file, lcd.json of the state folder (mode 0600), which is replaced as a whole: before the SET that changes
it is answered, and once for all that one PDU changes. A disk that fails ends the SET as commitFailed.

    lcd = Lcd(folder, epoch)
    table = lcd.table("snmpTargetParamsTable", index=(bytes,), columns={"snmpTargetParamsMPModel": int, ...})
    lcd.load()
    RowStatusWriter(store=table, status="snmpTargetParamsRowStatus", storage="snmpTargetParamsStorageType", ...)

A value is int, bytes, an OID (tuple of int) or a Secret, which shows in no repr.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from agent.config import Secret
from agent.engine.epoch import Epoch
from agent.engine.state import EngineStateError, write_text
from agent.smi.errors import SetError
from agent.smi.model import Change, IndexValues
from agent.smi.rowstatus import RowStatus, StorageType, StoredRow

log = logging.getLogger(__name__)

FILE = "lcd.json"
FORMAT = 1
LARGEST = 64 * 1024 * 1024
"""Octets of a file that is read at all; the limits of all tables together stay far below."""
ROWS = 1000
"""Rows that SNMP may make in one table, unless the table says otherwise."""

Kind = type[int] | type[bytes] | type[tuple[Any, ...]] | type[Secret]
Judge = Callable[["LcdTable", IndexValues, "StoredRow | None", "StoredRow | None"], None]


class LcdError(EngineStateError):
    """The datastore cannot be read; the text says what to do."""


@dataclass(frozen=True, slots=True)
class LcdRow(StoredRow):
    """A row with its INDEX values. `row["column"]` is a value, None where it has none."""

    index: IndexValues = ()

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)

    @property
    def is_active(self) -> bool:
        return self.status is RowStatus.active


class LcdTable:
    """One table. Also the RowStore of its RowStatusWriter.

    `index`: kinds of the INDEX values, `columns`: kinds of the columns (but status and storage). `judge` raises
    SetError for a row that must not become so, on top of what RowStatus and StorageType demand.
    """

    def __init__(
        self,
        lcd: Lcd,
        name: str,
        index: Sequence[Kind],
        columns: Mapping[str, Kind],
        limit: int,
        judge: Judge | None,
        decides: bool,
    ) -> None:
        self.lcd = lcd
        self.name = name
        self.index = tuple(index)
        self.columns = dict(columns)
        self.limit = limit
        self.decides = decides
        self.stamp = 0
        self._judge = judge
        self._configured: dict[IndexValues, LcdRow] = {}
        self._stored: dict[IndexValues, LcdRow] = {}
        self._watchers: list[Callable[[], None]] = []

    # -- reading --------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[LcdRow]:
        """All rows, in no order. A configured row hides one of SNMP with its index."""
        yield from self._configured.values()
        for index, row in self._stored.items():
            if index not in self._configured:
                yield row

    def active(self) -> Iterator[LcdRow]:
        """The rows that count: those whose RowStatus is active."""
        return (row for row in self.rows() if row.status is RowStatus.active)

    def get(self, index: IndexValues) -> LcdRow | None:
        """The row with this index."""
        return self._configured.get(index) or self._stored.get(index)

    def __len__(self) -> int:
        return sum(1 for _ in self.rows())

    def watch(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after every change of this table, before the epoch moves on."""
        self._watchers.append(callback)

    # -- the configuration ----------------------------------------------------------------------------------

    def set_configured(self, rows: Mapping[IndexValues, Mapping[str, Any]]) -> None:
        """Replace all rows that come from the configuration file. They are active and readOnly."""
        fresh = {
            index: LcdRow(RowStatus.active, StorageType.readOnly, dict(values), index)
            for index, values in rows.items()
        }
        if fresh == self._configured:
            return
        for index in fresh.keys() & self._stored.keys():
            if index not in self._configured:
                log.warning("%s: a configured row hides one made over SNMP", self.name)
        self._configured = fresh
        self.lcd._changed([self])

    # -- RowStore -------------------------------------------------------------------------------------------

    def load(self, model: Any, index: IndexValues) -> StoredRow | None:
        """RowStore: the row as it is now."""
        return self.get(index)

    def check(
        self, model: Any, index: IndexValues, before: StoredRow | None, after: StoredRow | None
    ) -> None:
        """RowStore: raises SetError where the table's own rules forbid it."""
        if self._judge is not None:
            self._judge(self, index, before, after)

    def change(
        self, model: Any, index: IndexValues, before: StoredRow | None, after: StoredRow | None
    ) -> LcdChange:
        """RowStore: the change that makes it so. Raises SetError when the table is full."""
        row = None if after is None else LcdRow(after.status, after.storage, dict(after.values), index)
        change = LcdChange(self.lcd, {(self, index): row})
        change.check_room()
        return change


class Lcd:
    """All tables and the one file."""

    def __init__(self, folder: Path, epoch: Epoch) -> None:
        """Nothing is read yet: register tables, then `load`."""
        self.path = folder / FILE
        self.epoch = epoch
        self._tables: dict[str, LcdTable] = {}
        self._unknown: dict[str, Any] = {}
        # what the file holds for sure (no file: what one without rows would); None when that is not known
        self._disk: str | None = None
        self._writing: asyncio.Future[None] | None = None
        self._scalars = self.table(
            "scalars", index=(bytes,), columns={"int": int, "bytes": bytes}, decides=False
        )

    def table(
        self,
        name: str,
        *,
        index: Sequence[Kind],
        columns: Mapping[str, Kind],
        limit: int = ROWS,
        judge: Judge | None = None,
        decides: bool = True,
    ) -> LcdTable:
        """Register a table; before `load`, and each name once. `decides`: access rests on it (epoch)."""
        if name in self._tables:
            raise ValueError(f"{name} is registered already")
        made = self._tables[name] = LcdTable(self, name, index, columns, limit, judge, decides)
        return made

    def scalar(self, name: str, default: int | bytes) -> LcdScalar:
        """A scalar that a SET changes and that outlives restarts. Also its ScalarWriter."""
        return LcdScalar(self._scalars, name.encode(), default)

    # -- the file -------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read what earlier runs have kept. Raises LcdError; rows of tables that nobody registered are kept."""
        try:
            with self.path.open("rb") as file:
                self._keep_private(file)
                data = file.read(LARGEST + 1)
            content = _content(data)
            for name, rows in content.items():
                if name in self._tables:
                    self._load(self._tables[name], rows)
                else:
                    self._unknown[name] = rows
        except FileNotFoundError:
            self._disk = _file({})
            return
        except OSError as error:
            raise LcdError(f"{self.path}: {error.strerror}; make it readable to the agent") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise LcdError(
                f"{self.path}: damaged ({error}); restore it, or delete it: what was configured over SNMP is "
                "lost then"
            ) from None
        self._disk = data.decode()
        self._changed([table for table in self._tables.values() if table._stored])

    def _keep_private(self, file: IO[bytes]) -> None:
        """Keys are in it: whoever put it back from elsewhere may have left it readable to others."""
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            log.warning("%s had mode %04o; set to 0600: consider its keys known to others", self.path, mode)
            os.fchmod(file.fileno(), 0o600)

    def _load(self, table: LcdTable, rows: Iterable[Any]) -> None:
        stored: dict[IndexValues, LcdRow] = {}
        for number, item in enumerate(rows, 1):
            try:
                row = _row(table, item)
                table.check(None, row.index, None, row)
            except (ValueError, KeyError, TypeError, SetError):
                # whatever it is, it may be a key: not shown
                raise ValueError(f"row {number} of {table.name} makes no sense") from None
            stored[row.index] = row
        table._stored = stored

    def _text(self, proposed: Mapping[tuple[LcdTable, IndexValues], LcdRow | None]) -> Callable[[], str]:
        """What the file must hold once `proposed` is made so; to be called in a thread."""
        kept: dict[str, list[LcdRow]] = {}
        for name, table in self._tables.items():
            rows = dict(table._stored)
            for (changed, index), row in proposed.items():
                if changed is table:
                    if row is None:
                        rows.pop(index, None)
                    else:
                        rows[index] = row
            kept[name] = [row for row in rows.values() if row.storage is StorageType.nonVolatile]
        unknown = dict(self._unknown)
        return lambda: _file({**unknown, **{name: [_item(r) for r in rows] for name, rows in kept.items()}})

    async def _write(self, make: Callable[[], str]) -> None:
        """Have the file hold what `make` gives. Raises OSError. A cancelled call writes on."""
        await self._settled()
        disk, self._disk = self._disk, None

        def work() -> None:
            text = make()
            try:
                if text != disk:
                    write_text(self.path, text)
            except OSError:
                # whether it was replaced depends on where it failed
                self._disk = disk if _holds(self.path, disk) else None
                raise
            self._disk = text

        self._writing = asyncio.get_running_loop().run_in_executor(None, work)
        await asyncio.shield(self._writing)

    async def _settled(self) -> None:
        """Wait for a write that a cancelled SET has left behind. Cancelled itself, it is waited for again."""
        writing = self._writing
        if writing is None:
            return
        if not writing.done():
            await asyncio.wait([writing])
        if not writing.cancelled():
            # its outcome stands in _disk
            writing.exception()
        self._writing = None

    def _apply(self, rows: Mapping[tuple[LcdTable, IndexValues], LcdRow | None]) -> None:
        for (table, index), row in rows.items():
            if row is None:
                table._stored.pop(index, None)
            else:
                table._stored[index] = row
        self._changed(dict.fromkeys(table for table, _ in rows))

    def _changed(self, tables: Iterable[LcdTable]) -> None:
        watchers: dict[Callable[[], None], None] = {}
        decides = False
        for table in tables:
            decides = decides or table.decides
            table.stamp += 1
            watchers.update(dict.fromkeys(table._watchers))
        for watcher in watchers:
            watcher()
        if decides:
            self.epoch.bump()


@dataclass(eq=False)
class LcdChange:
    """What one PDU changes in the datastore: one write, then the rows in memory."""

    lcd: Lcd
    rows: dict[tuple[LcdTable, IndexValues], LcdRow | None]
    _before: dict[tuple[LcdTable, IndexValues], LcdRow | None] | None = field(default=None, repr=False)

    @property
    def merge_key(self) -> object:
        return self.lcd

    def merge(self, other: LcdChange) -> Change:
        """Take in another row's change of the same PDU. Raises SetError when a table would overflow."""
        self.rows.update(other.rows)
        self.check_room()
        return self

    def check_room(self) -> None:
        """Raises resourceUnavailable when a table would hold more rows than it may."""
        for table in dict.fromkeys(table for table, _ in self.rows):
            grows = 0
            for (changed, index), row in self.rows.items():
                if changed is table:
                    grows += (row is not None) - (index in table._stored)
            if grows > 0 and len(table._stored) + grows > table.limit:
                raise SetError("resourceUnavailable", f"{table.name} holds {table.limit} rows at most")

    async def commit(self) -> None:
        """Write, then show. Raises OSError, and then nothing has changed in memory."""
        before = {key: key[0]._stored.get(key[1]) for key in self.rows}
        touched = (*before.values(), *self.rows.values())
        if any(row is not None and row.storage is StorageType.nonVolatile for row in touched):
            await self.lcd._write(self.lcd._text(self.rows))
        self._before = before
        self.lcd._apply(self.rows)

    async def undo(self) -> None:
        """Put the rows and the file back. Raises OSError when the file stays changed."""
        await self.lcd._settled()
        if self._before is not None:
            self.lcd._apply(self._before)
            self._before = None
        await self.lcd._write(self.lcd._text({}))


class LcdScalar:
    """A persistent scalar: `value`, and the ScalarWriter that changes it."""

    def __init__(self, table: LcdTable, name: bytes, default: int | bytes) -> None:
        self._table = table
        self._index = (name,)
        self._column = "int" if isinstance(default, int) else "bytes"
        self.default = default

    @property
    def value(self) -> Any:
        """What was set last, the default when nothing was."""
        return self.get(self.default)

    def get(self, default: Any) -> Any:
        """What was set last, `default` when nothing was."""
        row = self._table.get(self._index)
        return default if row is None else row.values.get(self._column, default)

    def test(self, model: Any, value: int | bytes) -> Change:
        """ScalarWriter: accepts whatever the object's SYNTAX accepts."""
        row = StoredRow(RowStatus.active, StorageType.nonVolatile, {self._column: value})
        return self._table.change(model, self._index, None, row)


# -- rows as text -------------------------------------------------------------------------------------------


_HEAD = re.compile(rb'\{"format": (\d+), "sha256": "([0-9a-f]{64})", "tables": ')


def _file(tables: Mapping[str, Any]) -> str:
    # row by row, so that other threads get their turns
    parts = (
        f"{json.dumps(name)}: [" + ",\n".join(json.dumps(row) for row in rows) + "]"
        for name, rows in tables.items()
        if rows
    )
    body = "{\n" + ",\n".join(parts) + "}"
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"format": {FORMAT}, "sha256": "{digest}", "tables": {body}}}\n'


def _content(data: bytes) -> dict[str, Any]:
    """The tables of a file's octets. Raises ValueError, KeyError, TypeError."""
    if len(data) > LARGEST:
        raise ValueError("too large")
    head = _HEAD.match(data)
    if head is None or not data.endswith(b"}\n"):
        raise ValueError("cut short, or never a datastore")
    if int(head[1]) != FORMAT:
        raise ValueError(f"format {int(head[1])} is not known to this version")
    body = data[head.end() : -2]
    if hashlib.sha256(body).hexdigest().encode() != head[2]:
        raise ValueError("the checksum is wrong")
    tables = json.loads(body)
    if not isinstance(tables, dict):
        raise ValueError("no tables")
    return tables


def _holds(path: Path, text: str | None) -> bool:
    try:
        return path.read_text("utf-8") == text
    except FileNotFoundError:
        return text == _file({})
    except (OSError, ValueError):
        return False


def _item(row: LcdRow) -> list[Any]:
    values = {name: _shown(value) for name, value in row.values.items() if value is not None}
    return [[_shown(value) for value in row.index], row.status.name, values]


def _shown(value: Any) -> Any:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, bytes):
        return f"x{value.hex()}"
    if isinstance(value, tuple):
        return ".".join(map(str, value)) or "."
    if isinstance(value, Secret):
        return f"k{value.reveal().hex()}"
    raise TypeError(f"{type(value).__name__} cannot be kept")


def _row(table: LcdTable, item: Any) -> LcdRow:
    """A row of the file. Raises ValueError, KeyError, TypeError."""
    index, status, values = item
    return LcdRow(
        RowStatus[status],
        StorageType.nonVolatile,
        {name: _value(table.columns[name], value) for name, value in values.items()},
        tuple(_value(kind, value) for kind, value in zip(table.index, index, strict=True)),
    )


def _value(kind: Kind, shown: Any) -> Any:
    if kind is int:
        if type(shown) is not int:
            raise ValueError("no number")
        return shown
    if not isinstance(shown, str):
        raise ValueError("no text")
    if kind is bytes and shown[:1] == "x":
        return bytes.fromhex(shown[1:])
    if kind is Secret and shown[:1] == "k":
        return Secret(bytes.fromhex(shown[1:]))
    if kind is tuple:
        return () if shown == "." else tuple(map(int, shown.split(".")))
    raise ValueError("of another kind")

"""A table as one PDU sees it: rows sorted by index, cells encoded when first asked for and then kept.

A snapshot lives until the model's stamp of the table's domain changes. Building one costs a sort of the
rows; a cell costs one getter call the first time a manager asks for it.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from typing import Any

from agent.smi import ber
from agent.smi.bound import BoundColumn, BoundScalar, BoundTable
from agent.smi.counters import LimitedLog, SmiCounters
from agent.smi.index import BadIndex, IndexTooLong

log = logging.getLogger(__name__)
limited = LimitedLog(log)

_UNREAD: bytes = bytes(bytearray(b"unread"))
Cell = bytes | None
"""A finished VarBind, or None where the instance does not exist."""


class TableSnapshot:
    """Rows of one table at one generation."""

    __slots__ = ("_absent_from", "_cells", "_contents", "counters", "generation", "keys", "rows")

    def __init__(self, table: BoundTable, model: Any, generation: int, counters: SmiCounters) -> None:
        """Read and sort all rows. Exceptions of `rows` pass; a row without a valid index is left out."""
        self.generation = generation
        self.counters = counters
        pairs: list[tuple[ber.Oid, Any]] = []
        encode, index = table.index.encode, table.binding.index
        for row in table.binding.rows(model):
            try:
                pairs.append((encode(index(row)), row))
            except IndexTooLong as error:
                counters.indexes_too_long += 1
                limited.warning(f"{table.object}/long", "%s: row left out: %s", table.object, error)
            except BadIndex as error:
                counters.indexes_invalid += 1
                limited.warning(f"{table.object}/bad", "%s: row left out: %s", table.object, error)
            except Exception as error:
                counters.indexes_invalid += 1
                limited.warning(f"{table.object}/index", "%s: row left out: %r", table.object, error)
        pairs.sort(key=_key)
        self.keys: list[ber.Oid] = []
        self.rows: list[Any] = []
        last: ber.Oid | None = None
        for key, row in pairs:
            if key == last:
                counters.indexes_duplicate += 1
                limited.warning(
                    f"{table.object}/twice", "%s: second row of index %s left out", table.object, key
                )
                continue
            last = key
            self.keys.append(key)
            self.rows.append(row)
        self._contents: list[bytes | None] = [None] * len(self.keys)
        self._cells: list[list[Cell] | None] = [None] * len(table.columns)
        # per column: from this row on no instance exists, as far as walks have found out
        self._absent_from = [len(self.keys)] * len(table.columns)
        counters.snapshots_built += 1

    def find(self, key: ber.Oid) -> int:
        """Position of the row with exactly this index, -1 when there is none."""
        position = bisect_left(self.keys, key)
        return position if position < len(self.keys) and self.keys[position] == key else -1

    def after(self, key: ber.Oid) -> int:
        """Position of the first row whose index is greater than `key`."""
        return bisect_right(self.keys, key)

    def cell(self, column: BoundColumn, position: int) -> Cell:
        """The finished VarBind of one instance, None when it does not exist."""
        if column.binding.volatile:
            return self._read(column, position)
        cells = self._cells[column.position]
        if cells is None:
            cells = self._cells[column.position] = [_UNREAD] * len(self.keys)
        cell = cells[position]
        if cell is _UNREAD:
            cell = cells[position] = self._read(column, position)
        return cell

    def next_cell(self, column: BoundColumn, position: int) -> tuple[int, Cell]:
        """First existing instance at or after `position`: (position, VarBind); (row count, None) at the end."""
        end = self._absent_from[column.position]
        start = position
        while position < end:
            cell = self.cell(column, position)
            if cell is not None:
                return position, cell
            position += 1
        if start < end and not column.binding.volatile:
            self._absent_from[column.position] = start
        return len(self.keys), None

    def _read(self, column: BoundColumn, position: int) -> Cell:
        try:
            value = column.binding.get(self.rows[position])
        except Exception as error:
            self.counters.getter_errors += 1
            limited.warning(f"{column.object}/get", "%s: instance left out: %r", column.object, error)
            return None
        if value is None:
            return None
        try:
            encoded = column.codec.encode(value)
        except Exception as error:
            self.counters.values_outside_syntax += 1
            limited.warning(f"{column.object}/value", "%s: instance left out: %s", column.object, error)
            return None
        content = self._contents[position]
        if content is None:
            content = self._contents[position] = ber.sub_ids(self.keys[position])
        return ber.varbind(column.name_content + content, encoded)


def read_scalar(scalar: BoundScalar, model: Any, counters: SmiCounters) -> Cell:
    """The finished VarBind of a scalar's instance, None when it does not exist."""
    try:
        value = scalar.binding.get(model)
    except Exception as error:
        counters.getter_errors += 1
        limited.warning(f"{scalar.object}/get", "%s: instance left out: %r", scalar.object, error)
        return None
    if value is None:
        return None
    try:
        return ber.varbind(scalar.name_content, scalar.codec.encode(value))
    except Exception as error:
        counters.values_outside_syntax += 1
        limited.warning(f"{scalar.object}/value", "%s: instance left out: %s", scalar.object, error)
        return None


def _key(pair: tuple[ber.Oid, Any]) -> ber.Oid:
    return pair[0]

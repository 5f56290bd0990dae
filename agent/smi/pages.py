"""Pages: some hundred rows of a table next to each other, and what their columns are on the wire.

A column of a page is one blob of finished VarBinds in key order with the offsets between them. It is encoded
when it is first asked for. Afterwards only the cells of rows that have changed are encoded again, and only
when the column is asked for again; the others are cut out of the old blob.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from agent.smi import keys
from agent.smi.bound import BoundColumn
from agent.smi.counters import LimitedLog, SmiCounters

limited = LimitedLog(logging.getLogger(__name__))

SPLIT_AT = 512
"""A page of more rows is split into halves."""
MERGE_AT = 96
"""A page of fewer rows joins a neighbour if both fit in `MERGED_MOST`."""
MERGED_MOST = 320
MISSES = 4
"""So many single cells are encoded for GETs before the page's whole column is."""


OFFSETS = list(range(1 << 14))
"""Offsets as objects that all pages share: a tuple of them is read twice as fast as an array, at eight octets each."""


def shared(offsets: Iterable[int]) -> tuple[int, ...]:
    """The same rising numbers, as objects that are there anyway; larger ones stay their own.

    A tuple, because the garbage collector looks through a tuple of integers only once.
    """
    found = tuple(offsets)
    return tuple([OFFSETS[offset] for offset in found]) if found and found[-1] < len(OFFSETS) else found


class Cells:
    """One column of one page: the keys of the instances that exist, and their VarBinds.

    `blob[offsets[i] : offsets[i + 1]]` is the VarBind of `keys[i]`. `seen` is the page's `changes` that the
    blob reflects. Nothing else is changed after it was made.
    """

    __slots__ = ("blob", "keys", "offsets", "seen")

    def __init__(self, names: list[bytes], offsets: tuple[int, ...], blob: bytes, seen: int) -> None:
        self.keys = names
        self.offsets = offsets
        self.blob = blob
        self.seen = seen

    def cut(self, start: int, stop: int) -> Cells:
        """A part, as cells of another page."""
        first = self.offsets[start]
        offsets = shared(offset - first for offset in self.offsets[start : stop + 1])
        return Cells(self.keys[start:stop], offsets, self.blob[first : self.offsets[stop]], self.seen)

    def join(self, after: Cells) -> Cells:
        """These and the cells of the following page, as those of a new one."""
        size = len(self.blob)
        offsets = self.offsets + shared(size + offset for offset in after.offsets[1:])
        return Cells(self.keys + after.keys, offsets, self.blob + after.blob, 0)


class Page:
    """Rows with neighbouring keys.

    `keys` is sorted and shared with `Cells` in which no instance is absent: it is replaced and not changed
    while any column is encoded. `rows` and `owners` (the subject that a row belongs to) are parallel to it.
    `changes` counts changed rows; `log` has the keys changed since, in the order of their last change.

    A column of which the page has no instance is `void`, and stays so without being looked at as long as no
    changed row gives it a value: a walk past columns that the source never fills costs next to nothing.
    """

    __slots__ = (
        "changes",
        "columns",
        "encoded",
        "keys",
        "log",
        "misses",
        "owners",
        "rows",
        "suffixes",
        "surveyed",
        "void",
        "voids",
    )

    def __init__(self, width: int) -> None:
        """`width`: how many columns the table has."""
        self.keys: list[bytes] = []
        self.rows: list[Any] = []
        self.owners: list[Any] = []
        self.suffixes: list[bytes] | None = None
        self.columns: list[Cells | None] = [None] * width
        self.misses = bytearray(width)
        self.encoded = False
        self.changes = 0
        self.log: dict[bytes, int] = {}
        self.void = Cells([], (0,), b"", 0)
        self.voids: list[BoundColumn] = []
        self.surveyed = False

    # -- rows -----------------------------------------------------------------------------------------------

    def find(self, key: bytes) -> int:
        """Position of a key, -1 when it is not there."""
        names = self.keys
        position = bisect_left(names, key)
        return position if position < len(names) and names[position] == key else -1

    def insert(self, key: bytes, row: Any, owner: Any) -> None:
        """Add a row whose key is not there."""
        names = self.keys
        position = bisect_left(names, key)
        if self.encoded:
            self.keys = [*names[:position], key, *names[position:]]
            self.mark(key)
            self._fill(row)
        else:
            names.insert(position, key)
        self.rows.insert(position, row)
        self.owners.insert(position, owner)
        if self.suffixes is not None:
            self.suffixes.insert(position, keys.suffix(key))

    def remove(self, key: bytes, position: int) -> None:
        """Take a row out."""
        if self.encoded:
            self.keys = [*self.keys[:position], *self.keys[position + 1 :]]
            self.mark(key)
        else:
            del self.keys[position]
        del self.rows[position]
        del self.owners[position]
        if self.suffixes is not None:
            del self.suffixes[position]

    def replace(self, key: bytes, position: int, row: Any, owner: Any) -> None:
        """Other values, or another row, under the same key."""
        self.rows[position] = row
        self.owners[position] = owner
        if self.encoded:
            self.mark(key)
            self._fill(row)

    def _fill(self, row: Any) -> None:
        """Find out which columns a row makes no longer void."""
        for column in self.voids:
            try:
                absent = column.binding.get(row) is None
            except Exception:
                absent = False  # to be counted and told when it is read
            if not absent:
                self.columns[column.position] = None
                self.voids = [other for other in self.voids if other is not column]

    def mark(self, key: bytes) -> None:
        """A row has changed. Needed only while a column is encoded."""
        self.changes += 1
        self.void.seen = self.changes
        log = self.log
        log.pop(key, None)
        log[key] = self.changes
        if len(log) >= len(self.keys):
            self._prune()

    def _prune(self) -> None:
        """Keep of the log what columns still need; drop columns of which most is no longer true."""
        seen = list(self.log.values())
        floor = self.changes
        most = len(self.keys) * 3 // 4
        for number, cells in enumerate(self.columns):
            if cells is None or cells is self.void:
                continue
            if len(seen) - bisect_right(seen, cells.seen) >= most:
                self.columns[number] = None
                self.misses[number] = 0
            else:
                floor = min(floor, cells.seen)
        self.log = {key: change for key, change in self.log.items() if change > floor}
        self.encoded = any(cells is not None for cells in self.columns)

    def split(self) -> Page:
        """Give the upper half of the rows to a new page."""
        middle = len(self.keys) // 2
        border = self.keys[middle]
        upper = Page(len(self.columns))
        upper.keys, self.keys = self.keys[middle:], self.keys[:middle]
        upper.rows, self.rows = self.rows[middle:], self.rows[:middle]
        upper.owners, self.owners = self.owners[middle:], self.owners[:middle]
        if self.suffixes is not None:
            upper.suffixes, self.suffixes = self.suffixes[middle:], self.suffixes[:middle]
        if self.encoded:
            upper.encoded = True
            upper.changes = upper.void.seen = self.changes
            upper.voids = self.voids
            upper.surveyed = self.surveyed
            upper.log = {key: seen for key, seen in self.log.items() if key >= border}
            self.log = {key: seen for key, seen in self.log.items() if key < border}
            for number, cells in enumerate(self.columns):
                if cells is self.void:
                    upper.columns[number] = upper.void
                elif cells is not None:
                    at = bisect_left(cells.keys, border)
                    upper.columns[number] = cells.cut(at, len(cells.keys))
                    self.columns[number] = cells.cut(0, at)
        return upper

    def absorb(self, after: Page) -> None:
        """Take over all rows of the following page. Columns that either has not up to date are forgotten."""
        columns: list[Cells | None] = [None] * len(self.columns)
        if self.encoded and after.encoded:
            for number, (mine, other) in enumerate(zip(self.columns, after.columns, strict=True)):
                if mine is None or mine.seen != self.changes or other is None or other.seen != after.changes:
                    continue
                joined = mine.join(other)
                columns[number] = joined if joined.keys else self.void
        self.keys = self.keys + after.keys
        self.rows += after.rows
        self.owners += after.owners
        if self.suffixes is not None and after.suffixes is not None:
            self.suffixes += after.suffixes
        else:
            self.suffixes = None
        self.columns = columns
        self.encoded = any(cells is not None for cells in columns)
        self.voids = [column for column in self.voids if columns[column.position] is self.void]
        self.changes = self.void.seen = 0
        self.log = {}

    def forget(self) -> None:
        """Drop what is encoded."""
        self.surveyed = False
        self.suffixes = None
        self.columns = [None] * len(self.columns)
        self.encoded = False
        self.voids = []
        self.log = {}

    # -- cells ----------------------------------------------------------------------------------------------

    def cells(self, column: BoundColumn, counters: SmiCounters) -> Cells:
        """A column as it is now."""
        cells = self.columns[column.position]
        if cells is None:
            cells = self._encode(column, counters)
        elif cells.seen != self.changes:
            cells = self._patch(cells, column, counters)
        else:
            return cells
        if not cells.keys:
            cells = self.void
            cells.seen = self.changes
            self.voids = [*self.voids, column]
        self.columns[column.position] = cells
        self.encoded = True
        return cells

    def cell(self, column: BoundColumn, key: bytes, counters: SmiCounters) -> bytes | None:
        """One VarBind for a GET, None where no such instance exists."""
        cells = self.columns[column.position]
        if cells is None:
            misses = self.misses[column.position]
            if misses < MISSES:
                position = self.find(key)
                if position < 0:
                    return None
                self.misses[column.position] = misses + 1
                return encode_cell(column, self.rows[position], keys.suffix(key), counters)
            cells = self.cells(column, counters)
        elif cells.seen != self.changes and self.log.get(key, 0) > cells.seen:
            cells = self.cells(column, counters)
        names = cells.keys
        position = bisect_left(names, key)
        if position < len(names) and names[position] == key:
            return cells.blob[cells.offsets[position] : cells.offsets[position + 1]]
        return None

    def survey(self, columns: Sequence[BoundColumn], counters: SmiCounters) -> Iterator[None]:
        """Find the columns that are void, before a walk has to look through all rows for an instance."""
        self.surveyed = True
        for column in columns:
            if column.binding.volatile or not self.rows or self.columns[column.position] is not None:
                continue
            try:
                absent = column.binding.get(self.rows[0]) is None
            except Exception:
                absent = True
            if absent:
                self.cells(column, counters)
                yield

    def _suffixes(self) -> list[bytes]:
        if self.suffixes is None:
            self.suffixes = list(map(keys.suffix, self.keys))
        return self.suffixes

    def _encode(self, column: BoundColumn, counters: SmiCounters) -> Cells:
        get, encode, heads = column.binding.get, column.codec.encode, column.heads
        out = bytearray()
        offsets = [0]
        absent: list[int] = []
        for position, (row, suffix) in enumerate(zip(self.rows, self._suffixes(), strict=True)):
            try:
                value = get(row)
                if value is None:
                    absent.append(position)
                    continue
            except Exception as error:
                getter_failed(column, error, counters)
                absent.append(position)
                continue
            try:
                encoded = encode(value)
            except Exception as error:
                value_refused(column, error, counters)
                absent.append(position)
                continue
            sizes = len(suffix) << 16 | len(encoded)
            out += heads[sizes] if sizes in heads else column.head(sizes)
            out += suffix
            out += encoded
            offsets.append(len(out))
        names = self.keys
        if absent:
            gone = set(absent)
            names = [key for position, key in enumerate(names) if position not in gone]
        return Cells(names, shared(offsets), bytes(out), self.changes)

    def _patch(self, cells: Cells, column: BoundColumn, counters: SmiCounters) -> Cells:
        """The same cells but for the rows that have changed since."""
        changed: list[bytes] = []
        for key, seen in reversed(self.log.items()):
            if seen <= cells.seen:
                break
            changed.append(key)
        changed.sort()
        names, offsets, blob = cells.keys, cells.offsets, cells.blob
        present: list[bytes] = []
        parts: list[bytes] = []
        ends = [0]
        start = shift = 0
        for key in changed:
            stop = bisect_left(names, key, start)
            if stop > start:
                parts.append(blob[offsets[start] : offsets[stop]])
                present += names[start:stop]
                _extend(ends, offsets, start, stop, shift)
            start = stop + 1 if stop < len(names) and names[stop] == key else stop
            position = self.find(key)
            if position >= 0:
                cell = encode_cell(column, self.rows[position], keys.suffix(key), counters)
                if cell is not None:
                    parts.append(cell)
                    present.append(key)
                    ends.append(ends[-1] + len(cell))
            shift = ends[-1] - offsets[start]
        parts.append(blob[offsets[start] :])
        present += names[start:]
        _extend(ends, offsets, start, len(names), shift)
        if len(present) == len(self.keys):
            present = self.keys
        return Cells(present, tuple(ends), b"".join(parts), self.changes)


def _extend(ends: list[int], offsets: tuple[int, ...], start: int, stop: int, shift: int) -> None:
    """Take over the ends of cells `start` to `stop`, moved by `shift` octets."""
    unchanged = offsets[start + 1 : stop + 1]
    ends += shared(end + shift for end in unchanged) if shift else unchanged


def encode_cell(column: BoundColumn, row: Any, suffix: bytes, counters: SmiCounters) -> bytes | None:
    """The finished VarBind of one instance, None when it does not exist."""
    try:
        value = column.binding.get(row)
    except Exception as error:
        getter_failed(column, error, counters)
        return None
    if value is None:
        return None
    try:
        encoded = column.codec.encode(value)
    except Exception as error:
        value_refused(column, error, counters)
        return None
    return column.head(len(suffix) << 16 | len(encoded)) + suffix + encoded


def getter_failed(column: BoundColumn, error: Exception, counters: SmiCounters) -> None:
    """Count and tell that a getter raised."""
    counters.getter_errors += 1
    limited.warning(f"{column.object}/get", "%s: instance left out: %r", column.object, error)


def value_refused(column: BoundColumn, error: Exception, counters: SmiCounters) -> None:
    """Count and tell that a getter gave a value outside its SYNTAX."""
    counters.values_outside_syntax += 1
    limited.warning(f"{column.object}/value", "%s: instance left out: %s", column.object, error)


__all__ = ["Cells", "Page", "encode_cell"]

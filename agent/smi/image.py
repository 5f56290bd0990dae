"""The image of a table: its rows in pages in index order, kept up to date subject by subject."""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Any

from agent.smi import keys
from agent.smi.bound import BoundTable
from agent.smi.counters import LimitedLog, SmiCounters
from agent.smi.index import BadIndex, IndexTooLong
from agent.smi.pages import MERGE_AT, MERGED_MOST, SPLIT_AT, Page

limited = LimitedLog(logging.getLogger(__name__))

FILLED = 256
"""Rows of a page when rows come in index order."""
SPOTS = 32768
"""Keys of which it is remembered where they are."""

_NOTHING: tuple[bytes, ...] = ()


def _no_rows(subject: Any) -> tuple[Any, ...]:
    return ()


class Image:
    """Rows of one table, by key, and which subject each belongs to.

    Of several rows with one index the one that came first is shown; the others wait, in the order in which
    they came, until it leaves. A row without a valid index is left out. All of that is counted.
    """

    __slots__ = (
        "_held",
        "_index",
        "_rows_of",
        "_to_key",
        "_waiting",
        "counters",
        "firsts",
        "pages",
        "spots",
        "table",
    )

    def __init__(self, table: BoundTable, counters: SmiCounters) -> None:
        self.table = table
        self.counters = counters
        self._index = table.binding.index
        self._to_key = table.index.key
        self._rows_of: Callable[[Any], Iterable[Any]] = table.binding.rows_of or _no_rows
        self.pages: list[Page] = []
        self.firsts: list[bytes] = []
        # where keys of rows were found by GETs; to be believed only if the key is still there
        self.spots: dict[bytes, tuple[Page, int]] = {}
        # subject -> its keys: one alone, or several
        self._held: dict[Any, bytes | tuple[bytes, ...]] = {}
        # key -> (subject, row) of those that another row keeps from being shown
        self._waiting: dict[bytes, list[tuple[Any, Any]]] = {}

    def __len__(self) -> int:
        return sum(len(page.keys) for page in self.pages)

    # -- lookup ---------------------------------------------------------------------------------------------

    def find(self, key: bytes) -> tuple[Page, int] | None:
        """Where the row of exactly this key is."""
        number = bisect_right(self.firsts, key) - 1
        if number < 0:
            return None
        page = self.pages[number]
        position = page.find(key)
        return None if position < 0 else (page, position)

    def remember(self, key: bytes, page: Page, position: int) -> None:
        """Where to look first for a key that is asked for again."""
        if len(self.spots) >= SPOTS:
            self.spots.clear()
        self.spots[key] = (page, position)

    # -- changes --------------------------------------------------------------------------------------------

    def add_row(self, row: Any) -> None:
        """A row of a table without subjects."""
        key = self._key(row)
        if key is not None and not self._claim(key, row, None):
            self._left_out(key)

    def apply(self, subject: Any, alive: bool) -> None:
        """Take over what became of a subject: its rows now, none if it is not alive."""
        before = self._held.get(subject, _NOTHING)
        if alive and before.__class__ is bytes and self._same_key(subject, before):
            return
        rows = self._rows(subject) if alive else {}
        old = (before,) if isinstance(before, bytes) else before
        for key in old:
            if key not in rows:
                self._release(key, subject)
        # a row that stays keeps its place before others of the same index
        known = set(old)
        for key, row in rows.items():
            if key in known:
                self._replace(key, row, subject)
            elif not self._claim(key, row, subject):
                self._waiting.setdefault(key, []).append((subject, row))
                self._left_out(key)
        if not rows:
            self._held.pop(subject, None)
        elif len(rows) == 1:
            self._held[subject] = next(iter(rows))
        else:
            self._held[subject] = tuple(rows)

    def _same_key(self, subject: Any, key: bytes) -> bool:
        """Take over other values of a subject's only row; whether they were no more than that."""
        try:
            (row,) = self._rows_of(subject)
            if self._to_key(self._index(row)) != key:
                return False
        except Exception:
            return False  # no rows, or several, or bad ones: looked into by others
        number = bisect_right(self.firsts, key) - 1
        page = self.pages[number]
        position = bisect_left(page.keys, key)
        if page.owners[position] is not subject:
            return False
        page.replace(key, position, row, subject)
        return True

    def _rows(self, subject: Any) -> dict[bytes, Any]:
        """Keys and rows of a subject. A second row of the same key is left out."""
        rows: dict[bytes, Any] = {}
        try:
            for row in self._rows_of(subject):
                key = self._key(row)
                if key is None:
                    continue
                if key in rows:
                    self._left_out(key)
                else:
                    rows[key] = row
        except Exception as error:
            self.counters.rows_errors += 1
            name = self.table.object
            limited.warning(f"{name}/rows_of", "%s: rows of one subject left out: %r", name, error)
            return {}
        return rows

    def _key(self, row: Any) -> bytes | None:
        table, counters = self.table, self.counters
        try:
            return self._to_key(self._index(row))
        except IndexTooLong as error:
            counters.indexes_too_long += 1
            limited.warning(f"{table.object}/long", "%s: row left out: %s", table.object, error)
        except BadIndex as error:
            counters.indexes_invalid += 1
            limited.warning(f"{table.object}/bad", "%s: row left out: %s", table.object, error)
        except Exception as error:
            counters.indexes_invalid += 1
            limited.warning(f"{table.object}/index", "%s: row left out: %r", table.object, error)
        return None

    def _left_out(self, key: bytes) -> None:
        self.counters.indexes_duplicate += 1
        name = self.table.object
        limited.warning(f"{name}/twice", "%s: second row of index %s left out", name, keys.unpack(key))

    def _replace(self, key: bytes, row: Any, subject: Any) -> None:
        """Another row, or other values, of a subject that has or waits for a key."""
        found = self.find(key)
        assert found is not None
        page, position = found
        if page.owners[position] == subject:
            page.replace(key, position, row, subject)
            return
        waiting = self._waiting[key]
        for number, (other, _) in enumerate(waiting):
            if other == subject:
                waiting[number] = (subject, row)
                self._left_out(key)
                return

    def _release(self, key: bytes, subject: Any) -> None:
        """Take out a subject's row, or its wait for one."""
        found = self.find(key)
        assert found is not None
        page, position = found
        waiting = self._waiting.get(key)
        if page.owners[position] != subject:
            assert waiting is not None
            waiting[:] = [entry for entry in waiting if entry[0] != subject]
        elif waiting:
            following, row = waiting.pop(0)
            page.replace(key, position, row, following)
        else:
            page.remove(key, position)
            self.spots.pop(key, None)
            self._shrink(key, page)
        if waiting is not None and not waiting:
            del self._waiting[key]

    def _claim(self, key: bytes, row: Any, subject: Any) -> bool:
        """Put in a row; whether its key was free."""
        pages, firsts = self.pages, self.firsts
        if not pages:
            page = Page(len(self.table.columns))
            page.insert(key, row, subject)
            pages.append(page)
            firsts.append(key)
            return True
        last = pages[-1]
        if key > last.keys[-1]:
            # rows mostly come in order: fill page after page
            if len(last.keys) >= FILLED:
                last = Page(len(self.table.columns))
                pages.append(last)
                firsts.append(key)
            last.insert(key, row, subject)
            return True
        number = max(bisect_right(firsts, key) - 1, 0)
        page = pages[number]
        if page.find(key) >= 0:
            return False
        page.insert(key, row, subject)
        firsts[number] = page.keys[0]
        if len(page.keys) > SPLIT_AT:
            upper = page.split()
            pages.insert(number + 1, upper)
            firsts.insert(number + 1, upper.keys[0])
        return True

    def _shrink(self, key: bytes, page: Page) -> None:
        """Tidy up after `key` was removed from `page`."""
        pages, firsts = self.pages, self.firsts
        number = bisect_right(firsts, key) - 1
        if not page.keys:
            del pages[number], firsts[number]
            return
        firsts[number] = page.keys[0]
        if len(page.keys) >= MERGE_AT:
            return
        for left in (number - 1, number):
            if left < 0 or left + 1 >= len(pages):
                continue
            if len(pages[left].keys) + len(pages[left + 1].keys) <= MERGED_MOST:
                gone = pages[left + 1]
                pages[left].absorb(gone)
                # `spots` may still know it
                gone.forget()
                gone.keys, gone.rows, gone.owners = [], [], []
                del pages[left + 1], firsts[left + 1]
                return


__all__ = ["Image"]

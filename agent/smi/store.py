"""What a context answers from: for each scalar and column a LeafStore of finished VarBinds by row key.

A LeafStore first compares the model's change stamp of its table, one integer, and applies what has changed;
then it bisects. `run` is a slice or two of bytes however many VarBinds it gives. Cells that nobody asks for
cost nothing.

Memory, of a table with one index sub-identifier: 118 octets a row (key, places of key, row and subject, and
the subject's key), 48 more once a column of its page is encoded (the index as BER), and for each cell that is
encoded its octets on the wire and 9.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

from agent.smi import ber
from agent.smi.background import Background
from agent.smi.bound import BoundColumn, BoundScalar, Leaf
from agent.smi.counters import LimitedLog, SmiCounters
from agent.smi.errors import ReadError
from agent.smi.image import Image
from agent.smi.keys import SCALAR_KEY
from agent.smi.tablestore import TableStore

limited = LimitedLog(logging.getLogger(__name__))

Run = tuple[bytes, int, bytes | None, bool]


class LeafStore:
    """The instances of one scalar or column in one context. Every method may raise ReadError."""

    __slots__ = ("leaf",)

    leaf: Leaf

    def get(self, key: bytes) -> bytes | None:
        """The finished VarBind of one instance, None when it does not exist."""
        raise NotImplementedError  # interface

    def run(self, after: bytes | None, count: int, room: int) -> Run:
        """Up to `count` VarBinds after the key `after` (None: from the start) in at most `room` octets.

        Gives their octets in one piece, how many, the key of the last (None: of none), and whether the leaf
        ended before `count`. When the room cuts them, there are fewer than `count` and it has not ended.
        """
        raise NotImplementedError  # interface

    def cells(self, after: bytes | None, count: int) -> tuple[list[bytes], bytes | None, bool]:
        """The same VarBinds one by one, not cut: (VarBinds, key of the last, whether it ended before)."""
        raise NotImplementedError  # interface

    def next(self, after: bytes | None) -> tuple[bytes, bytes] | None:
        """The first instance after a key: (its key, VarBind), None when there is none."""
        raise NotImplementedError  # interface


class ScalarStore(LeafStore):
    """The one instance of a scalar."""

    __slots__ = ("_counters", "_kept", "_model", "_stamp")

    def __init__(self, leaf: BoundScalar, model: Any, counters: SmiCounters) -> None:
        self.leaf: BoundScalar = leaf
        self._model = model
        self._counters = counters
        self._stamp: int | None = None
        self._kept: bytes | None = None

    def value(self) -> bytes | None:
        """The finished VarBind, None when the instance does not exist."""
        domain = self.leaf.binding.domain
        if domain is None:
            return read_scalar(self.leaf, self._model, self._counters)
        stamp = self._model.generation(domain)
        if stamp != self._stamp:
            self._kept = read_scalar(self.leaf, self._model, self._counters)
            self._stamp = stamp
        return self._kept

    def get(self, key: bytes) -> bytes | None:
        return self.value() if key == SCALAR_KEY else None

    def run(self, after: bytes | None, count: int, room: int) -> Run:
        if after is not None and after >= SCALAR_KEY:
            return b"", 0, None, count > 0
        varbind = self.value() if count > 0 else None
        if varbind is None:
            return b"", 0, None, count > 0
        if len(varbind) > room:
            return b"", 0, None, False
        return varbind, 1, SCALAR_KEY, count > 1

    def cells(self, after: bytes | None, count: int) -> tuple[list[bytes], bytes | None, bool]:
        if count <= 0 or (after is not None and after >= SCALAR_KEY):
            return [], None, count > 0
        varbind = self.value()
        return ([], None, True) if varbind is None else ([varbind], SCALAR_KEY, count > 1)

    def next(self, after: bytes | None) -> tuple[bytes, bytes] | None:
        varbind = self.value() if after is None or after < SCALAR_KEY else None
        return None if varbind is None else (SCALAR_KEY, varbind)


class ColumnStore(LeafStore):
    """The instances of a column."""

    __slots__ = ("_number", "store")

    def __init__(self, leaf: BoundColumn, store: TableStore) -> None:
        self.leaf: BoundColumn = leaf
        self.store = store
        self._number = leaf.position

    def get(self, key: bytes) -> bytes | None:
        store = self.store
        if store.now.stamp != store.stamp:
            store.refresh()
        image = store.image
        spot = image.spots.get(key)
        if spot is not None:
            page, position = spot
            cells = page.columns[self._number]
            if cells is not None and cells.seen == page.changes:
                names = cells.keys
                if position < len(names) and names[position] == key:
                    return cells.blob[cells.offsets[position] : cells.offsets[position + 1]]
        return self._search(image, key)

    def _search(self, image: Image, key: bytes) -> bytes | None:
        number = bisect_right(image.firsts, key) - 1
        if number < 0:
            return None
        page = image.pages[number]
        cells = page.columns[self._number]
        if cells is None or cells.seen != page.changes:
            return page.cell(self.leaf, key, self.store.counters)
        names = cells.keys
        position = bisect_left(names, key)
        if position == len(names) or names[position] != key:
            return None
        image.remember(key, page, position)
        return cells.blob[cells.offsets[position] : cells.offsets[position + 1]]

    def run(self, after: bytes | None, count: int, room: int) -> Run:
        store = self.store
        if store.now.stamp != store.stamp:
            store.refresh()
        image = store.image
        pages = image.pages
        number = 0 if after is None else max(bisect_right(image.firsts, after) - 1, 0)
        blob, found = b"", 0
        last: bytes | None = None
        room = max(room, 0)
        while count > found:
            if number >= len(pages):
                return blob, found, last, True
            page = pages[number]
            cells = page.columns[self._number]
            if cells is None or cells.seen != page.changes:
                if after is not None and after >= page.keys[-1]:
                    number, after = number + 1, None
                    continue
                cells = page.cells(self.leaf, store.counters)
            names, offsets = cells.keys, cells.offsets
            start = 0 if after is None else bisect_right(names, after)
            stop = min(start + count - found, len(names))
            if stop > start:
                first = offsets[start]
                if offsets[stop] - first > room:
                    stop = bisect_right(offsets, first + room, start, stop) - 1
                    if stop > start:
                        last = names[stop - 1]
                    return blob + cells.blob[first : offsets[stop]], found + stop - start, last, False
                piece = cells.blob[first : offsets[stop]]
                room -= len(piece)
                blob = blob + piece if found else piece
                found += stop - start
                last = names[stop - 1]
            number += 1
            after = None
        return blob, found, last, False

    def cells(self, after: bytes | None, count: int) -> tuple[list[bytes], bytes | None, bool]:
        store = self.store
        if store.now.stamp != store.stamp:
            store.refresh()
        image = store.image
        pages = image.pages
        number = 0 if after is None else max(bisect_right(image.firsts, after) - 1, 0)
        out: list[bytes] = []
        last = None
        while count > len(out):
            if number >= len(pages):
                return out, last, True
            page = pages[number]
            cells = page.columns[self._number]
            if cells is None or cells.seen != page.changes:
                if after is not None and after >= page.keys[-1]:
                    number, after = number + 1, None
                    continue
                cells = page.cells(self.leaf, store.counters)
            names, blob = cells.keys, cells.blob
            start = 0 if after is None else bisect_right(names, after)
            stop = min(start + count - len(out), len(names))
            if stop > start:
                out += [blob[begin:end] for begin, end in pairwise(cells.offsets[start : stop + 1])]
                last = names[stop - 1]
            number += 1
            after = None
        return out, last, False

    def next(self, after: bytes | None) -> tuple[bytes, bytes] | None:
        store = self.store
        if store.now.stamp != store.stamp:
            store.refresh()
        return store.following(self.leaf, after)


def read_each(asked: Sequence[tuple[LeafStore, bytes]], out: list[bytes | None]) -> None:
    """`get` of many, appended to `out`. May raise ReadError, for the one after those in `out`.

    What is the same for cells of one table is done once, and no function is called for a cell that is found.
    """
    fresh: TableStore | None = None
    for leaf, key in asked:
        if leaf.__class__ is not ColumnStore:
            out.append(leaf.get(key))
            continue
        store = leaf.store
        if store is not fresh:
            if store.now.stamp != store.stamp:
                store.refresh()
            fresh = store
            image = store.image
            spots = image.spots
        spot = spots.get(key)
        if spot is not None:
            page, position = spot
            cells = page.columns[leaf._number]
            if cells is not None and cells.seen == page.changes:
                names = cells.keys
                if position < len(names) and names[position] == key:
                    offsets = cells.offsets
                    out.append(cells.blob[offsets[position] : offsets[position + 1]])
                    continue
        out.append(leaf._search(image, key))


class VolatileStore(ColumnStore):
    """The instances of a column whose values are never kept."""

    __slots__ = ()

    def get(self, key: bytes) -> bytes | None:
        store = self.store
        if store.now.stamp != store.stamp:
            store.refresh()
        return store.cell(self.leaf, key)

    def run(self, after: bytes | None, count: int, room: int) -> Run:
        self.store.refresh()
        out: list[bytes] = []
        last = None
        for key, varbind in islice(self.store.scan(self.leaf, after), max(count, 0)):
            room -= len(varbind)
            if room < 0:
                return b"".join(out), len(out), last, False
            out.append(varbind)
            last = key
        return b"".join(out), len(out), last, len(out) < count

    def cells(self, after: bytes | None, count: int) -> tuple[list[bytes], bytes | None, bool]:
        self.store.refresh()
        found = list(islice(self.store.scan(self.leaf, after), max(count, 0)))
        last = found[-1][0] if found else None
        return [varbind for _, varbind in found], last, len(found) < count


class ContextStore:
    """One SNMP context: a model under the bound modules of the controller.

    `stores` is parallel to the controller's leaves. `tables` and `scalars` are found by the id of what is bound.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        leaves: Sequence[Leaf],
        counters: SmiCounters,
        background: Background,
    ) -> None:
        self.name = name
        self.model = model
        self.tables: dict[int, TableStore] = {}
        self.scalars: dict[int, ScalarStore] = {}
        self.stores: list[LeafStore] = []
        for leaf in leaves:
            if isinstance(leaf, BoundScalar):
                scalar = self.scalars[id(leaf)] = ScalarStore(leaf, model, counters)
                self.stores.append(scalar)
                continue
            table = self.tables.get(id(leaf.table))
            if table is None:
                table = TableStore(leaf.table, model, counters, background)
                self.tables[id(leaf.table)] = table
            made = VolatileStore if leaf.binding.volatile else ColumnStore
            self.stores.append(made(leaf, table))

    def preparing(self) -> Iterator[None]:
        """One table at a time: bring tables with subjects up to date before anybody asks, in slices where they
        are large.

        Of other contexts than the default one only if somebody has ever asked there.
        """
        if self.name and not any(store.asked for store in self.tables.values()):
            return
        for store in self.tables.values():
            if store.table.binding.subjects is not None:
                try:
                    store.refresh(ahead=True)
                except ReadError:
                    continue  # counted and logged; who asks gets genErr
                store.look()
                yield


def read_scalar(scalar: BoundScalar, model: Any, counters: SmiCounters) -> bytes | None:
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


__all__ = [
    "ColumnStore",
    "ContextStore",
    "LeafStore",
    "ScalarStore",
    "VolatileStore",
    "read_each",
    "read_scalar",
]

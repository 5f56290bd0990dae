"""One table of one context: its image, and how it follows the model.

Whoever reads calls `refresh` when the model's stamp is not `stamp`. What follows is as little as the model
lets it be: the subjects that have changed, if it knows them; else everything. What is small is done at once.
What is large is done in slices between answers, while the image that there is goes on serving.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterator
from itertools import chain, islice
from typing import Any

from agent.smi import keys
from agent.smi.background import Background
from agent.smi.bound import BoundColumn, BoundTable
from agent.smi.counters import LimitedLog, SmiCounters
from agent.smi.errors import ReadError
from agent.smi.image import Image
from agent.smi.model import Asked, Stamped, watch
from agent.smi.pages import encode_cell

limited = LimitedLog(logging.getLogger(__name__))

READ_AT_ONCE = 2000
"""A table of at most so many subjects, or rows, is read as a whole without slices."""
APPLY_AT_ONCE = 500
"""So many changed subjects are applied without slices."""
STEP = 8
"""Subjects between two looks at the clock."""
ROUNDS = 8
"""How often a whole reading catches up with what changed meanwhile before it is taken as it is."""


class TableStore:
    """Rows and encoded columns of one table over one model.

    `now.stamp` is the model's stamp; `stamp` is the one that the image shows, None while it does not show all
    that is known. `asked`: somebody has waited for an answer, not only prepared it.
    """

    __slots__ = (
        "_background",
        "_backlog",
        "_batch",
        "_building",
        "_built",
        "_overtaken",
        "_taken",
        "asked",
        "counters",
        "domain",
        "image",
        "model",
        "now",
        "stamp",
        "table",
    )

    def __init__(self, table: BoundTable, model: Any, counters: SmiCounters, background: Background) -> None:
        self.table = table
        self.model = model
        self.domain = table.domain
        own = table.binding.stamp
        self.now: Stamped = Asked(own) if own is not None else watch(model, table.domain)
        self.counters = counters
        self.image = Image(table, counters)
        self.stamp: int | None = None
        self.asked = False
        self._background = background
        self._built = False
        self._taken: int | None = None
        # changes that wait to be applied, by batches; and who was changed again by a batch that did not wait
        self._backlog: deque[tuple[int, Iterator[tuple[Any, bool]]]] = deque()
        self._overtaken: dict[Any, int] = {}
        self._batch = 0
        self._building: Iterator[None] | None = None

    # -- following the model --------------------------------------------------------------------------------

    def refresh(self, ahead: bool = False) -> None:
        """Take over what the model has changed. `ahead`: nobody waits for an answer yet.

        Raises ReadError when the rows cannot be read.
        """
        if not ahead and not self.asked:
            self.asked = True
            self._background.soon(self._survey)
        try:
            generation = self.now.stamp
            if generation == self.stamp:
                return
            if not self._built:
                self._read_first(generation, ahead)
            if self._built and generation != self._taken:
                self._follow(generation)
        except Exception as error:
            self.stamp = None
            self.counters.rows_errors += 1
            limited.warning(f"{self.table.object}/rows", "%s: cannot be read: %r", self.table.object, error)
            raise ReadError from error
        if self.stamp is not None:
            return
        # slices have stopped if their event loop has
        self._background.resume()
        if self._backlog and not ahead and not self.image.pages:
            # nothing to show meanwhile
            for _ in self._work_off():
                pass

    def _read_first(self, generation: int, ahead: bool) -> None:
        if self._building is None:
            self._read_all(generation, wait=not ahead)
        elif not ahead:
            # an answer cannot wait for the slices: do the rest now
            for _ in self._building:
                pass

    def _follow(self, generation: int) -> None:
        """The stamp has moved since changes were last asked for."""
        changed = self._changes(self._taken)
        if changed is None:
            if self._building is None:
                self._read_all(generation, wait=False)
            elif self.table.binding.subjects is not None:
                self._taken = generation  # the reading under way will notice
            return
        self._taken = generation
        self._batch += 1
        first = list(islice(changed, APPLY_AT_ONCE + 1))
        if len(first) > APPLY_AT_ONCE:
            self.stamp = None
            self._backlog.append((self._batch, chain(first, changed)))
            if len(self._backlog) == 1:
                self._background.start(self._work_off())
            return
        # also before others that still wait: who has just set something reads it back
        for subject, alive in first:
            if self._backlog:
                self._overtaken[subject] = self._batch
            self.image.apply(subject, alive)
        self._settle()

    def _changes(self, since: int | None) -> Iterator[tuple[Any, bool]] | None:
        """Changed subjects since a stamp, None when all must be read."""
        changes = getattr(self.model, "changes", None)
        if self.table.binding.subjects is None or changes is None or since is None:
            return None
        changed = changes(self.domain, since)
        return None if changed is None else iter(changed)

    def _settle(self) -> None:
        self.stamp = self._taken if not self._backlog and self._building is None else None

    def _work_off(self) -> Iterator[None]:
        """Apply what waits, in the order in which it came."""
        backlog, overtaken = self._backlog, self._overtaken
        try:
            while backlog:
                batch, changed = backlog[0]
                some = list(islice(changed, STEP))
                if not some:
                    backlog.popleft()
                for subject, alive in some:
                    if overtaken.get(subject, 0) <= batch:
                        self.image.apply(subject, alive)
                yield
        except Exception:
            self._start_over()
            raise
        overtaken.clear()
        self._settle()

    def survey(self) -> None:
        """Look for void columns in pages that are new, in slices, if anybody has ever asked for the table."""
        if self.asked and not all(page.surveyed for page in self.image.pages):
            self._background.soon(self._survey)

    def _survey(self) -> Iterator[None]:
        for page in list(self.image.pages):
            if not page.surveyed:
                yield from page.survey(self.table.columns, self.counters)

    def _start_over(self) -> None:
        """Nobody knows what has changed: all is to be read again."""
        self._backlog.clear()
        self._overtaken.clear()
        self._taken = self.stamp = None

    # -- reading all of it ----------------------------------------------------------------------------------

    def _read_all(self, generation: int, wait: bool) -> None:
        binding = self.table.binding
        if binding.subjects is not None:
            found = list(binding.subjects(self.model))
        else:
            assert binding.rows is not None
            found = list(binding.rows(self.model))
        building = self._building = self._build(found, generation)
        if wait or len(found) <= READ_AT_ONCE:
            for _ in building:
                pass
        else:
            self.stamp = None
            self._background.start(building)

    def _build(self, found: list[Any], since: int) -> Iterator[None]:
        """Read everything into a new image, catch up with what changed meanwhile, and take it."""
        try:
            image = Image(self.table, self.counters)
            since = yield from self._fill(image, found, since)
        finally:
            self._building = None
        self.counters.snapshots_built += 1
        self._backlog.clear()
        self._overtaken.clear()
        self.image = image
        self._taken = since
        self._built = True
        self._settle()
        if self.asked:
            self._background.soon(self._survey)

    def _fill(self, image: Image, found: list[Any], since: int) -> Generator[None, None, int]:
        """Give the stamp that the image then shows."""
        if self.table.binding.subjects is None:
            for number, row in enumerate(found):
                image.add_row(row)
                if not number % STEP:
                    yield
        else:
            for number, subject in enumerate(found):
                image.apply(subject, True)
                if not number % STEP:
                    yield
            for _ in range(ROUNDS):
                generation = self.now.stamp
                late = self._changes(since) if generation != since else None
                if late is None:
                    # nothing changed, or nobody knows what: then it is read again after this
                    break
                since = generation
                for number, (subject, alive) in enumerate(late, 1):
                    image.apply(subject, alive)
                    if number > APPLY_AT_ONCE and not number % STEP:
                        yield
        return since

    # -- reading, without a look at the model -----------------------------------------------------------------

    def row(self, key: bytes) -> Any | None:
        """The row object of a key."""
        found = self.image.find(key)
        return None if found is None else found[0].rows[found[1]]

    def cell(self, column: BoundColumn, key: bytes) -> bytes | None:
        """The finished VarBind of one instance, None when it does not exist."""
        image = self.image
        number = bisect_right(image.firsts, key) - 1
        if number < 0:
            return None
        page = image.pages[number]
        if not column.binding.volatile:
            return page.cell(column, key, self.counters)
        position = page.find(key)
        if position < 0:
            return None
        return encode_cell(column, page.rows[position], keys.suffix(key), self.counters)

    def following(self, column: BoundColumn, after: bytes | None) -> tuple[bytes, bytes] | None:
        """The first existing instance whose key is greater than `after`: (key, VarBind)."""
        if column.binding.volatile:
            return next(self.scan(column, after), None)
        image, here = self.image, column.position
        pages = image.pages
        number = 0 if after is None else max(bisect_right(image.firsts, after) - 1, 0)
        while number < len(pages):
            page = pages[number]
            cells = page.columns[here]
            if cells is None or cells.seen != page.changes:
                if after is not None and after >= page.keys[-1]:
                    number, after = number + 1, None
                    continue
                cells = page.cells(column, self.counters)
            names = cells.keys
            position = 0 if after is None else bisect_right(names, after)
            if position < len(names):
                return names[position], cells.blob[cells.offsets[position] : cells.offsets[position + 1]]
            number += 1
            after = None
        return None

    def scan(self, column: BoundColumn, after: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """The existing instances of a volatile column after a key, as long as the image is not changed."""
        image = self.image
        number = 0 if after is None else max(bisect_right(image.firsts, after) - 1, 0)
        for page in image.pages[number:]:
            start = 0 if after is None else bisect_right(page.keys, after)
            for position in range(start, len(page.keys)):
                key = page.keys[position]
                varbind = encode_cell(column, page.rows[position], keys.suffix(key), self.counters)
                if varbind is not None:
                    yield key, varbind
            after = None


__all__ = ["TableStore"]

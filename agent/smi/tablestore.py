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

READ_AT_ONCE = 1000
"""A table of at most so many subjects, or rows, is read as a whole without slices when somebody asks."""
READ_AHEAD = 100
"""The same when nobody does."""
APPLY_AT_ONCE = 300
"""So many changed subjects are applied without slices when somebody asks."""
APPLY_AHEAD = 50
"""The same when nobody does."""
STEP = 8
"""Subjects between two looks at the clock."""
PROBE = 750
"""Looks at a table (`attend`) after which it is found out whether anybody still asks for it."""
FORGET = 1500
"""Looks at a table after which what nobody has asked for meanwhile is no longer kept encoded."""
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
        "_looks",
        "_overtaken",
        "_small",
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
        self._looks = 0  # since somebody asked
        # changes that wait to be applied, by batches, with the least number that each may have; and who was
        # changed again by a batch that did not wait
        self._backlog: deque[tuple[int, Iterator[tuple[Any, bool]], int]] = deque()
        self._overtaken: dict[Any, int] = {}
        self._batch = 0
        self._building: Iterator[None] | None = None
        self._small = False  # whether what is being read is soon read

    # -- following the model --------------------------------------------------------------------------------

    def refresh(self, ahead: bool = False) -> None:
        """Take over what the model has changed. `ahead`: nobody waits for an answer yet.

        Raises ReadError when the rows cannot be read.
        """
        if not ahead:
            self._asked()
        try:
            generation = self.now.stamp
            if generation == self.stamp:
                return
            if self._building is None and not self._built:
                self._read_all(generation, ahead)
            if self._building is not None and not ahead and (self._small or not self._built):
                # soon done; or an answer cannot wait for slices, because there is nothing to show meanwhile
                for _ in self._building:
                    pass
            if self._built and generation != self._taken:
                self._follow(generation, ahead)
            if not ahead and self._soon_done():
                for _ in self._work_off():
                    pass
        except Exception as error:
            self._start_over()
            self.counters.rows_errors += 1
            limited.warning(f"{self.table.object}/rows", "%s: cannot be read: %r", self.table.object, error)
            raise ReadError from error
        self._settle()
        if self.stamp is None:
            # slices have stopped if their event loop has
            self._background.resume()

    def _asked(self) -> None:
        """Somebody waits for an answer."""
        if not self.asked or self._looks >= FORGET:
            self.asked = True
            self._background.soon(self._survey)
        self._looks = 0

    def _soon_done(self) -> bool:
        """Whether what waits is little, or there is nothing to show meanwhile."""
        known = sum(size for _, _, size in self._backlog)
        return bool(self._backlog) and (known <= APPLY_AT_ONCE or not self.image.pages)

    def _follow(self, generation: int, ahead: bool) -> None:
        """The stamp has moved since changes were last asked for."""
        changed = self._changes(self._taken)
        if changed is None:
            if self._building is None:
                self._read_all(generation, ahead)
            elif self.table.binding.subjects is not None:
                self._taken = generation  # the reading under way will notice
            return
        self._taken = generation
        self._batch += 1
        first = list(islice(changed, APPLY_AT_ONCE + 1))
        if len(first) > (APPLY_AHEAD if ahead else APPLY_AT_ONCE):
            self._backlog.append((self._batch, chain(first, changed), len(first)))
            if len(self._backlog) == 1:
                self._background.start(self._work_off())
            return
        # also before others that still wait: who has just set something reads it back
        for subject, alive in first:
            if self._backlog:
                self._overtaken[subject] = self._batch
            self.image.apply(subject, alive)

    def _changes(self, since: int | None) -> Iterator[tuple[Any, bool]] | None:
        """Changed subjects since a stamp, None when all must be read."""
        changes = getattr(self.model, "changes", None)
        if self.table.binding.subjects is None or changes is None or since is None:
            return None
        changed = changes(self.domain, since)
        return None if changed is None else iter(changed)

    def _settle(self) -> None:
        done = self._built and self._building is None and not self._backlog
        # probing: the next who asks is to come through `refresh`
        self.stamp = self._taken if done and not PROBE <= self._looks < FORGET else None

    def _work_off(self) -> Iterator[None]:
        """Apply what waits, in the order in which it came."""
        backlog, overtaken = self._backlog, self._overtaken
        try:
            while backlog:
                batch, changed, _ = backlog[0]
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

    def look(self) -> None:
        """After each `refresh` ahead: find void columns of new pages; forget what nobody asks for any more."""
        self._looks += 1
        if self._looks == PROBE:
            self._settle()
        elif self._looks == FORGET:
            self._settle()
            for page in self.image.pages:
                page.forget()
        elif self._looks < FORGET and not all(page.surveyed for page in self.image.pages):
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

    def _read_all(self, generation: int, ahead: bool) -> None:
        binding = self.table.binding
        if binding.subjects is not None:
            found = list(binding.subjects(self.model))
        else:
            assert binding.rows is not None
            found = list(binding.rows(self.model))
        building = self._building = self._build(found, generation)
        self._small = len(found) <= READ_AT_ONCE
        if len(found) <= (READ_AHEAD if ahead else READ_AT_ONCE) or not (ahead or self._built):
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
        self.counters.images_built += 1
        self._backlog.clear()
        self._overtaken.clear()
        self.image = image
        self._taken = since
        self._built = True
        self._settle()
        if self._looks < FORGET:
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

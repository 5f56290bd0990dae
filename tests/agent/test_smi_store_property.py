"""The paged store against a naive one: whatever changes, and however far its slices have come, both show the same.

The naive store is a dictionary of what each subject's rows were when the store under test took them over; it
encodes every cell anew each time. Pages are made tiny, so that a few dozen rows split, merge and straddle them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from smi_support import TEST_MIBS, TestModel, binding

from agent.smi import ber, image, keys, pages, tablestore
from agent.smi.background import Background
from agent.smi.bound import BoundColumn, bind
from agent.smi.counters import SmiCounters
from agent.smi.store import ContextStore, LeafStore, read_each

COLUMNS = ("tInteger", "tGauge", "tText", "tSometimes", "tClock")
BAD = object()

values = st.one_of(st.none(), st.integers(0, 70000), st.just(BAD))
texts = st.one_of(st.none(), st.text("ab", max_size=3), st.integers(0, 255).map(lambda n: "x" * n))
indexes = st.one_of(st.integers(0, 40), st.sampled_from((-1, 300, 2**31 - 1, 2**31)))


@dataclass(frozen=True)
class Line:
    """A row as it was when somebody asked for it."""

    index: int
    values: dict[str, Any]


@dataclass(eq=False)
class Subject:
    serial: int
    lines: list[Line] = field(default_factory=list)


class Model(TestModel):
    """Subjects with a log of what has changed."""

    def __init__(self) -> None:
        super().__init__()
        self.subjects: list[Subject] = []
        self.log: list[tuple[int, Subject]] = []
        self.known_since = 0

    def changes(self, domain: str, since: int) -> list[tuple[Subject, bool]] | None:
        if since < self.known_since:
            return None
        found = dict.fromkeys(subject for stamp, subject in self.log if stamp > since)
        return [(subject, subject in self.subjects) for subject in found]

    def changed(self, *subjects: Subject) -> None:
        self.stamp += 1
        self.log.extend((self.stamp, subject) for subject in subjects)


class Noting(image.Image):
    """Remembers what it was told to take over."""

    __slots__ = ("taken",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.taken: dict[Subject, list[Line]] = {}

    def apply(self, subject: Subject, alive: bool) -> None:
        super().apply(subject, alive)
        if alive:
            self.taken[subject] = subject.lines
        else:
            self.taken.pop(subject, None)


class Manual(Background):
    """Slices are taken when the test says so."""

    def start(self, job: Iterator[None]) -> None:
        self._jobs.append(job)

    def resume(self) -> None:
        pass

    def slice(self, steps: int) -> None:
        for _ in range(steps):
            if not self._jobs:
                return
            try:
                next(self._jobs[0])
            except StopIteration:
                self._jobs.popleft()


def made(model: Model, background: Background) -> tuple[ContextStore, dict[str, LeafStore]]:
    module = binding(model)
    columns = [
        replace(
            column,
            get=lambda line, name=column.name: line.values.get(name),
            volatile=column.name == "tClock",
        )
        for column in module.tables[0].columns
    ]
    table = replace(
        module.tables[0],
        rows=None,
        subjects=lambda g: g.subjects,
        rows_of=lambda subject: list(subject.lines),
        index=lambda line: (line.index,),
        columns=columns,
    )
    module = replace(module, tables=[table, module.tables[1]])
    leaves = bind(module, TEST_MIBS).leaves
    context = ContextStore("", model, leaves, SmiCounters(), background)
    by_name = {store.leaf.object.name: store for store in context.stores}
    return context, {name: by_name[name] for name in COLUMNS}


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for module, name, value in (
            (image, "FILLED", 8),
            (image, "SPLIT_AT", 12),
            (image, "MERGE_AT", 5),
            (image, "MERGED_MOST", 10),
            (pages, "MISSES", 2),
            (tablestore, "READ_AT_ONCE", 12),
            (tablestore, "READ_AHEAD", 5),
            (tablestore, "APPLY_AT_ONCE", 3),
            (tablestore, "APPLY_AHEAD", 1),
            (tablestore, "STEP", 2),
            (tablestore, "Image", Noting),
        ):
            self.patch.setattr(module, name, value)
        self.model = Model()
        self.background = Manual()
        self.context, self.stores = made(self.model, self.background)
        column = self.stores["tInteger"].leaf
        assert isinstance(column, BoundColumn)
        self.table = self.context.tables[id(column.table)]
        self.holder: dict[int, Subject] = {}
        self.built = 0
        self.serial = 0

    def teardown(self) -> None:
        try:
            self.slice(10_000)
            for _ in range(3):
                self.refresh()
                self.slice(10_000)
            assert self.table.stamp == self.model.stamp
            for name in COLUMNS:
                self.check_run(name, 7, 10_000)
                self.check_get(name)
        finally:
            self.patch.undo()

    # -- the model changes ----------------------------------------------------------------------------------

    def lines(self, chosen: list[tuple[int, Any, Any]], serial: int) -> list[Line]:
        return [
            Line(
                index,
                {
                    "tInteger": serial,
                    "tGauge": "bad" if value is BAD else value,
                    "tText": text,
                    "tSometimes": value if index % 3 == 0 and value is not BAD else None,
                    "tClock": value if index % 2 == 0 and value is not BAD else None,
                },
            )
            for index, value, text in chosen
        ]

    @initialize(count=st.integers(0, 40), seed=st.integers(0, 99))
    def start(self, count: int, seed: int) -> None:
        shuffled = list(range(count))
        random.Random(seed).shuffle(shuffled)
        for index in shuffled:
            self.add([(index, index, "start")])

    @rule(chosen=st.lists(st.tuples(indexes, values, texts), max_size=3))
    def add(self, chosen: list[tuple[int, Any, Any]]) -> None:
        self.serial += 1
        subject = Subject(self.serial)
        subject.lines = self.lines(chosen, subject.serial)
        self.model.subjects.append(subject)
        self.model.changed(subject)

    @rule(data=st.data(), count=st.integers(1, 6), move=st.booleans())
    def change(self, data: st.DataObject, count: int, move: bool) -> None:
        for _ in range(min(count, len(self.model.subjects))):
            subject = data.draw(st.sampled_from(self.model.subjects))
            chosen = data.draw(st.lists(st.tuples(indexes, values, texts), max_size=3))
            if not move:
                chosen = [
                    (line.index, *data.draw(st.tuples(values, texts))) for line in subject.lines
                ] or chosen
            subject.lines = self.lines(chosen, subject.serial)
            self.model.changed(subject)

    @rule(data=st.data(), count=st.integers(1, 12))
    def remove(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.model.subjects))):
            subject = data.draw(st.sampled_from(self.model.subjects))
            self.model.subjects.remove(subject)
            self.model.changed(subject)

    @rule(data=st.data(), value=values)
    def contend(self, data: st.DataObject, value: Any) -> None:
        """Two more for an index that is taken; one of them changes its mind about the values."""
        taken = [line.index for subject in self.model.subjects for line in subject.lines]
        if taken:
            index = data.draw(st.sampled_from(taken))
            self.add([(index, value, "second")])
            self.prepare()
            second = self.model.subjects[-1]
            self.add([(index, value, "third")])
            second.lines = self.lines([(index, value, "second again")], second.serial)
            self.model.changed(second)
            self.prepare()
            others = [s for s in self.model.subjects[:-2] if any(line.index == index for line in s.lines)]
            for subject in others:
                self.model.subjects.remove(subject)
            self.model.changed(*others)
            self.check_get("tText")

    @rule(start=st.integers(0, 36), keep=st.integers(1, 2))
    def thin(self, start: int, keep: int) -> None:
        """Most of a stretch of neighbours goes, the others change."""
        reach = range(start, start + 9)
        self.touch()
        found = [s for s in self.model.subjects if any(line.index in reach for line in s.lines)]
        for subject in found[keep:]:
            self.model.subjects.remove(subject)
        for subject in found[:keep]:
            subject.lines = [replace(line, values={**line.values, "tGauge": 7}) for line in subject.lines]
        self.model.changed(*found)
        self.check_get("tGauge")

    @rule(start=st.integers(0, 36))
    def crowd(self, start: int) -> None:
        """New neighbours, so many that their page splits, beside a change."""
        if self.model.subjects:
            first = self.model.subjects[0]
            first.lines = [replace(line, values={**line.values, "tGauge": 8}) for line in first.lines]
            self.model.changed(first)
        for index in range(start, start + 9):
            self.add([(index, None, "new")])

    @rule()
    def touch(self) -> None:
        """Somebody walks the whole table."""
        self.refresh()
        for store in self.stores.values():
            store.run(None, 1000, 100_000)

    @rule(number=st.integers(0, 9))
    def change_all(self, number: int) -> None:
        for subject in self.model.subjects:
            subject.lines = [
                replace(line, values={**line.values, "tGauge": number + line.index % 7})
                for line in subject.lines
            ]
        self.model.changed(*self.model.subjects)

    @rule()
    def forget(self) -> None:
        """The log is lost: everything must be read again."""
        self.model.stamp += 1
        self.model.log.clear()
        self.model.known_since = self.model.stamp

    # -- the store follows ----------------------------------------------------------------------------------

    @rule(steps=st.integers(1, 12))
    def slice(self, steps: int) -> None:
        self.follow(lambda: self.background.slice(steps))

    @rule()
    def prepare(self) -> None:
        self.follow(lambda: self.table.refresh(ahead=True))

    def refresh(self) -> None:
        self.follow(self.table.refresh)

    def follow(self, action: Callable[[], None]) -> None:
        """Let the store do something, and see that it lost nothing."""
        built = self.table.counters.images_built
        action()
        if self.table.counters.images_built != built:
            self.holder.clear()
        if self.table.stamp == self.model.stamp:
            assert self.shown == {subject: subject.lines for subject in self.model.subjects}
        self.settle()

    @property
    def shown(self) -> dict[Subject, list[Line]]:
        assert isinstance(self.table.image, Noting)
        return self.table.image.taken

    def settle(self) -> None:
        """Who holds an index that several have is the store's choice, but it does not change without need."""
        candidates: dict[int, list[Subject]] = {}
        for subject, lines in self.shown.items():
            for line in lines:
                if 0 <= line.index < 2**31 and subject not in candidates.setdefault(line.index, []):
                    candidates[line.index].append(subject)
        holder = {}
        for index, found in candidates.items():
            before = self.holder.get(index)
            row = self.table.row(keys.pack((index,)))
            assert row is not None, index
            chosen = next(s for s in found if s.serial == row.values["tInteger"])
            assert len(found) == 1 or before not in found or chosen is before
            holder[index] = chosen
        self.holder = holder
        assert len(self.table.image) == len(holder)
        assert self.table.image.firsts == [page.keys[0] for page in self.table.image.pages]

    # -- both are read --------------------------------------------------------------------------------------

    def expected(self, name: str) -> list[tuple[bytes, bytes]]:
        """(key, VarBind) of all instances of a column."""
        leaf = self.stores[name].leaf
        found = []
        for index, subject in sorted(self.holder.items()):
            # of two rows of one subject with one index the first is shown
            line = next(line for line in self.shown[subject] if line.index == index)
            value = line.values[name]
            if value is not None and value != "bad":
                name_content = ber.oid_content((*leaf.oid, index))
                found.append((keys.pack((index,)), ber.varbind(name_content, leaf.codec.encode(value))))
        return found

    @rule(name=st.sampled_from(COLUMNS))
    def check_get(self, name: str) -> None:
        self.refresh()
        expected = dict(self.expected(name))
        for index in (*range(42), 300, 2**31 - 1):
            key = keys.pack((index,))
            assert self.stores[name].get(key) == expected.get(key)
        # the same all at once, twice: from where they were found the first time
        asked = [(self.stores[name], keys.pack((index,))) for index in range(42)]
        for _ in range(2):
            out: list[bytes | None] = []
            read_each(asked, out)
            assert out == [expected.get(key) for _, key in asked]
        assert self.stores[name].get(b"") is None
        assert self.stores[name].get(keys.pack((1, 1))) is None

    @rule(name=st.sampled_from(COLUMNS), index=indexes.filter(lambda n: n >= 0))
    def check_one(self, name: str, index: int) -> None:
        self.refresh()
        key = keys.pack((index,))
        expected = self.expected(name)
        assert self.stores[name].get(key) == dict(expected).get(key)
        after = next((pair for pair in expected if pair[0] > key), None)
        assert self.stores[name].next(key) == after

    @rule(
        name=st.sampled_from(COLUMNS),
        count=st.integers(1, 20),
        room=st.integers(0, 600),
        begin=st.none() | st.integers(0, 40),
    )
    def check_run(self, name: str, count: int, room: int, begin: int | None = None) -> None:
        self.refresh()
        store = self.stores[name]
        after = None if begin is None else keys.pack((begin,))
        rest = [pair for pair in self.expected(name) if after is None or pair[0] > after]
        while True:
            octets, found, last, ended = store.run(after, count, room)
            assert octets == b"".join(varbind for _, varbind in rest[:found])
            assert last == (rest[found - 1][0] if found else None)
            assert ended == (found < count and found == len(rest))
            if found < min(count, len(rest)):
                assert len(octets) + len(rest[found][1]) > room >= len(octets)
            assert len(octets) <= room
            rest = rest[found:]
            if last is None or ended:
                break
            after = last

    @rule(name=st.sampled_from(COLUMNS), count=st.integers(1, 20), index=indexes.filter(lambda n: n >= 0))
    def check_cells(self, name: str, count: int, index: int) -> None:
        self.refresh()
        after = keys.pack((index, 5)) if index % 2 else None
        rest = [pair for pair in self.expected(name) if after is None or pair[0] > after]
        varbinds, last, ended = self.stores[name].cells(after, count)
        assert varbinds == [varbind for _, varbind in rest[:count]]
        assert last == (rest[:count][-1][0] if rest else None)
        assert ended == (len(rest) < count)


StoreMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestStore = StoreMachine.TestCase

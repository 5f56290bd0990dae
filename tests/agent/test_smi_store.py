"""What the property test cannot see: what is encoded and asked how often, slices of a real loop, contexts, counters."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from smi_support import TEST_MIBS, Row, TestModel, binding

from agent.smi import BindingError, ber, keys, tablestore
from agent.smi.bound import BoundColumn, bind
from agent.smi.controller import Controller
from agent.smi.counters import SmiCounters
from agent.smi.errors import NoSuchContext, ReadError
from agent.smi.image import FILLED, Image
from agent.smi.pages import MERGE_AT, MISSES, SPLIT_AT, Page
from agent.smi.store import ColumnStore, LeafStore


class Subject:
    """One row, and who asked for its values."""

    def __init__(self, index: int, value: Any = 1, name: str = "") -> None:
        self.index = index
        self.value = value
        self.name = name

    def __repr__(self) -> str:
        return f"{self.name}{self.index}"


class Logged(TestModel):
    """A model that knows what has changed since any stamp, unless it has forgotten."""

    def __init__(self, count: int = 0) -> None:
        super().__init__()
        self.subjects: dict[Subject, None] = {Subject(n): None for n in range(1, count + 1)}
        self.log: list[tuple[int, Subject]] = []
        self.forgetful = False
        self.asked: Counter[int] = Counter()
        self.reads = 0

    def all(self) -> Any:
        self.reads += 1
        return self.subjects

    def changes(self, domain: str, since: int) -> list[tuple[Subject, bool]] | None:
        if self.forgetful:
            return None
        return [(subject, subject in self.subjects) for stamp, subject in self.log if stamp > since]

    def changed(self, *subjects: Subject) -> None:
        self.stamp += 1
        self.log += [(self.stamp, subject) for subject in subjects]

    def add(self, subject: Subject) -> None:
        self.subjects[subject] = None
        self.changed(subject)

    def remove(self, subject: Subject) -> None:
        del self.subjects[subject]
        self.changed(subject)

    def number(self, number: int) -> Subject:
        return list(self.subjects)[number]


def made(model: Logged, get: Callable[[Subject], Any] | None = None) -> Controller:
    """tValueTable over the model's subjects; tGauge is their value and counts who is asked."""

    def value(subject: Subject) -> Any:
        model.asked[subject.index] += 1
        return subject.value

    module = binding(model)
    columns = [
        replace(c, get=(get or value) if c.name == "tGauge" else lambda subject: None)
        for c in module.tables[0].columns
    ]
    table = replace(
        module.tables[0],
        rows=None,
        subjects=lambda g: g.all(),
        rows_of=lambda subject: (subject,),
        index=lambda subject: (subject.index,),
        columns=columns,
    )
    return Controller([replace(module, tables=[table, module.tables[1]])], TEST_MIBS, model)


def store(controller: Controller, name: str = "tGauge", context: str = "") -> LeafStore:
    found = controller.context(context)
    assert found is not None
    return next(s for s in found.stores if s.leaf.object.name == name)


def key(*index: int) -> bytes:
    return keys.pack(index)


def shown(leaf: LeafStore) -> dict[int, int]:
    """Index -> value of a whole column of integers."""
    varbinds, _, ended = leaf.cells(None, 1_000_000)
    assert ended
    found = {}
    for varbind in varbinds:
        start, end = ber.expect(varbind, 0, len(varbind), ber.SEQUENCE)
        first, last = ber.expect(varbind, start, end, ber.OBJECT_IDENTIFIER)
        _, begin, stop = ber.read(varbind, last, end)
        found[ber.parse_oid(varbind[first:last])[-1]] = ber.parse_unsigned(varbind[begin:stop])
    assert list(found) == sorted(found)
    return found


# -- what is encoded ----------------------------------------------------------------------------------------


def test_a_walk_encodes_only_the_pages_that_it_reaches() -> None:
    model = Logged(5 * FILLED)
    gauge = store(made(model))
    gauge.run(None, 10, 100_000)
    assert sorted(model.asked) == list(range(1, FILLED + 1))
    assert set(model.asked.values()) == {1}
    gauge.run(key(10), 10, 100_000)
    gauge.run(key(FILLED - 1), 3, 100_000)
    assert sorted(model.asked) == list(range(1, 2 * FILLED + 1))
    assert set(model.asked.values()) == {1}


def test_only_changed_cells_are_encoded_again() -> None:
    model = Logged(3 * FILLED)
    gauge = store(made(model))
    before = shown(gauge)
    model.asked.clear()
    for number in (0, 7, FILLED, 2 * FILLED + 5):
        model.number(number).value = 77
        model.changed(model.number(number))
    gone, new = model.number(9), Subject(100_000, 5)
    model.remove(gone)
    model.add(new)
    after = shown(gauge)
    assert sorted(model.asked) == [1, 8, FILLED + 1, 2 * FILLED + 6, 100_000]
    assert set(model.asked.values()) == {1}
    assert after == {
        **{n: v for n, v in before.items() if n != gone.index},
        1: 77,
        8: 77,
        FILLED + 1: 77,
        2 * FILLED + 6: 77,
        100_000: 5,
    }


def test_rows_that_change_in_turn_do_not_make_the_others_be_encoded_again() -> None:
    model = Logged(FILLED)
    gauge = store(made(model))
    shown(gauge)
    for turn in range(3 * FILLED):
        subject = model.number(turn % FILLED)
        subject.value = turn
        model.changed(subject)
        gauge.run(None, 5, 100_000)
    assert sum(model.asked.values()) == FILLED + 3 * FILLED


def test_a_column_that_nobody_asks_for_is_not_encoded() -> None:
    model = Logged(FILLED)
    controller = made(model)
    shown(store(controller))
    first = model.asked.copy()
    for _ in range(5):
        model.changed(*model.subjects)
        store(controller, "tText").run(None, 10, 1000)
    assert model.asked == first


def test_a_whole_refresh_costs_only_the_page_that_is_asked_for() -> None:
    model = Logged(4 * FILLED)
    gauge = store(made(model))
    shown(gauge)
    model.asked.clear()
    for subject in model.subjects:
        subject.value = 9
    model.changed(*model.subjects)
    assert gauge.run(key(FILLED), 5, 100_000)[1] == 5
    assert sorted(model.asked) == list(range(FILLED + 1, 2 * FILLED + 1))


def test_single_gets_do_not_encode_a_page() -> None:
    model = Logged(FILLED)
    gauge = store(made(model))
    for number in range(1, MISSES + 1):
        assert gauge.get(key(number)) is not None
    assert sum(model.asked.values()) == MISSES
    assert gauge.get(key(FILLED + 1)) is None
    for number in range(1, 10):
        assert gauge.get(key(number)) is not None
    assert sum(model.asked.values()) == MISSES + FILLED


# -- pages --------------------------------------------------------------------------------------------------


def page_of(count: int) -> tuple[BoundColumn, Image]:
    model = Logged(count)
    leaf = store(made(model)).leaf
    assert isinstance(leaf, BoundColumn)
    image = Image(leaf.table, SmiCounters())
    for subject in model.subjects:
        image.apply(subject, True)
    return leaf, image


def test_pages_split_and_take_their_columns_along() -> None:
    column, image = page_of(FILLED)
    page = image.pages[0]
    counters = image.counters
    page.cells(column, counters)
    late = Subject(3, 300)
    image.apply(page.owners[2], False)
    image.apply(late, True)
    upper = page.split()
    assert upper.keys[0] > page.keys[-1]
    assert (upper.log, list(page.log)) == ({}, [key(3)])
    assert len(upper.cells(column, counters).keys) + len(page.cells(column, counters).keys) == FILLED
    assert ber.integer(300, ber.GAUGE32) in page.cells(column, counters).blob


@pytest.mark.parametrize("stale", ["neither", "left", "right"])
def test_pages_join_and_never_with_cells_out_of_date(stale: str) -> None:
    column, image = page_of(FILLED + 20)
    left, right = image.pages
    for page in image.pages:
        page.cells(column, image.counters)
    if stale != "neither":
        page = left if stale == "left" else right
        page.rows[0].value = 4711
        page.replace(page.keys[0], 0, page.rows[0], page.owners[0])
    left.absorb(right)
    assert (left.columns[column.position] is None) == (stale != "neither")
    cells = left.cells(column, image.counters)
    assert cells.keys == left.keys
    assert len(left.keys) == FILLED + 20
    fresh = Page(len(left.columns))
    fresh.keys, fresh.rows, fresh.owners = left.keys, left.rows, left.owners
    assert fresh.cells(column, image.counters).blob == cells.blob
    assert fresh.cells(column, image.counters).offsets == cells.offsets


def test_pages_stay_of_a_size() -> None:
    model = Logged()
    controller = made(model)
    gauge = store(controller)
    assert isinstance(gauge, ColumnStore)
    for index in range(20 * FILLED, 0, -1):
        model.subjects[Subject(index)] = None
    model.changed(*model.subjects)
    assert len(shown(gauge)) == 20 * FILLED
    sizes = [len(page.keys) for page in gauge.store.image.pages]
    assert max(sizes) <= SPLIT_AT
    for number, subject in enumerate(list(model.subjects)):
        if number % 10:
            model.remove(subject)
    assert len(shown(gauge)) == 2 * FILLED
    sizes = [len(page.keys) for page in gauge.store.image.pages]
    assert max(sizes) <= SPLIT_AT
    assert min(sizes) >= MERGE_AT // 2
    for subject in list(model.subjects):
        model.remove(subject)
    assert shown(gauge) == {}
    assert gauge.store.image.pages == gauge.store.image.firsts == []
    model.add(Subject(5, 6))
    assert shown(gauge) == {5: 6}


def test_where_a_row_was_found_is_forgotten_with_its_page() -> None:
    model = Logged(FILLED + MERGE_AT + 10)
    gauge = store(made(model))
    assert isinstance(gauge, ColumnStore)
    shown(gauge)
    last = model.number(-1)
    for _ in range(2):
        assert gauge.get(key(last.index)) is not None
    assert key(last.index) in gauge.store.image.spots
    # the second page joins the first, and then its row changes
    for subject in list(model.subjects)[50 : FILLED + 20]:
        model.remove(subject)
    gauge.get(key(1))
    assert len(gauge.store.image.pages) == 1
    last.value = 4711
    model.changed(last)
    assert gauge.get(key(last.index)) == gauge.next(key(last.index - 1))[1]  # type: ignore[index]
    assert shown(gauge)[last.index] == 4711
    model.remove(last)
    assert gauge.get(key(last.index)) is None
    assert key(last.index) not in gauge.store.image.spots


def test_rows_that_leave_are_freed_at_once() -> None:
    model = Logged(4 * FILLED)
    controller = made(model)
    gauge = store(controller)
    left: list[weakref.ref[Subject]] = []
    chance = random.Random(5)
    gc.disable()
    try:
        for _ in range(40):
            gauge.run(None, 10_000, 10**6)
            for subject in list(model.subjects)[:: chance.randrange(1, 30)]:
                gauge.get(key(subject.index))
            for _ in range(min(chance.randrange(120), len(model.subjects) // 2)):
                subjects = list(model.subjects)
                if chance.random() < 0.2:
                    model.add(Subject(chance.randrange(5 * FILLED)))
                else:
                    subject = chance.choice(subjects)
                    left.append(weakref.ref(subject))
                    model.remove(subject)
                    del subject
                del subjects
            gauge.get(key(1))
            model.log.clear()
            assert [ref for ref in left if ref() is not None] == []
    finally:
        gc.enable()
    assert len(left) > 500


# -- who is shown -------------------------------------------------------------------------------------------


def test_of_equal_indexes_the_first_is_shown_and_the_next_follows() -> None:
    model = Logged()
    controller = made(model)
    gauge = store(controller)
    first, second, third = Subject(4, 1, "a"), Subject(4, 2, "b"), Subject(4, 3, "c")
    for subject in (first, second, third):
        model.add(subject)
        assert shown(gauge) == {4: 1}
    assert controller.counters.indexes_duplicate == 2
    second.value = 22
    model.changed(second)
    assert shown(gauge) == {4: 1}
    assert controller.counters.indexes_duplicate == 3
    first.index = 5
    model.changed(first)
    assert shown(gauge) == {4: 22, 5: 1}
    model.remove(third)
    model.remove(second)
    assert shown(gauge) == {5: 1}
    model.add(third)
    assert shown(gauge) == {4: 3, 5: 1}


def test_a_bad_index_of_one_subject_leaves_out_that_one() -> None:
    model = Logged(3)
    controller = made(model)
    gauge = store(controller)
    assert len(shown(gauge)) == 3
    model.number(1).index = -5
    model.changed(model.number(1))
    assert list(shown(gauge)) == [1, 3]
    assert controller.counters.indexes_invalid == 1
    model.number(1).index = 9
    model.changed(model.number(1))
    assert list(shown(gauge)) == [1, 3, 9]


def test_a_subject_whose_rows_cannot_be_told_is_left_out_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Logged(2)
    controller = made(model)
    gauge = store(controller)
    assert isinstance(gauge, ColumnStore)
    table = gauge.store.table
    rows_of = table.binding.rows_of
    assert rows_of is not None

    def broken(subject: Subject) -> Any:
        if subject.index == 2:
            raise RuntimeError("no rows today")
        return rows_of(subject)

    table.binding = replace(table.binding, rows_of=broken)
    with caplog.at_level(logging.WARNING):
        assert list(shown(gauge)) == [1]
    assert controller.counters.rows_errors == 1
    assert "no rows today" in caplog.text


def test_what_the_model_cannot_tell_is_gen_err_until_it_can() -> None:
    model = Logged(2)
    controller = made(model)
    gauge = store(controller)
    assert len(shown(gauge)) == 2
    model.forgetful = True
    model.stamp += 1
    subjects, model.subjects = model.subjects, None  # type: ignore[assignment]
    for ask in (lambda: gauge.get(key(1)), lambda: gauge.run(None, 1, 99), lambda: gauge.cells(None, 1)):
        with pytest.raises(ReadError):
            ask()
    model.subjects = subjects
    assert len(shown(gauge)) == 2


def test_getters_that_fail_and_values_outside_their_syntax_are_absent_and_counted() -> None:
    model = Logged(5)

    def get(subject: Subject) -> Any:
        return {1: 1, 2: "text", 3: None, 4: 4}[subject.index]

    controller = made(model, get)
    assert shown(store(controller)) == {1: 1, 4: 4}
    assert controller.counters.getter_errors == 1
    assert controller.counters.values_outside_syntax == 1


# -- slices -------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def test_a_large_table_is_read_ahead_in_slices() -> None:
    async def run() -> None:
        model = Logged(3 * tablestore.READ_AT_ONCE)
        controller = made(model)
        gauge = store(controller)
        assert isinstance(gauge, ColumnStore)
        controller.prepare()
        assert gauge.store.stamp is None
        assert len(gauge.store.image) == 0
        await until(lambda: gauge.store.stamp is not None)
        assert len(gauge.store.image) == 3 * tablestore.READ_AT_ONCE
        assert (model.reads, controller.counters.snapshots_built) == (1, 1)
        assert gauge.run(None, 10, 1000)[1] == 10
        assert model.reads == 1

    asyncio.run(run())


def test_who_asks_before_a_table_was_read_ahead_gets_an_answer_all_the_same() -> None:
    async def run() -> None:
        model = Logged(3 * tablestore.READ_AT_ONCE)
        controller = made(model)
        controller.prepare()
        await asyncio.sleep(0)
        assert len(shown(store(controller))) == 3 * tablestore.READ_AT_ONCE
        assert (model.reads, controller.counters.snapshots_built) == (1, 1)

    asyncio.run(run())


def test_the_old_image_serves_while_everything_is_read_again() -> None:
    async def run() -> None:
        count = 3 * tablestore.READ_AT_ONCE
        model = Logged(count)
        controller = made(model)
        gauge = store(controller)
        assert isinstance(gauge, ColumnStore)
        assert len(shown(gauge)) == count
        # the log is lost, and half of the table with it
        for subject in list(model.subjects)[: count // 2]:
            del model.subjects[subject]
        model.stamp += 1
        model.forgetful = True
        assert gauge.get(key(1)) is not None
        model.forgetful = False
        assert len(shown(gauge)) == count
        await asyncio.sleep(0)
        # changes that arrive meanwhile: seen at once where they are known, and after the switch
        new, old = Subject(10**6, 5), model.number(0)
        model.add(new)
        model.remove(old)
        assert gauge.get(key(10**6)) is not None
        assert gauge.get(key(old.index)) is None
        assert gauge.get(key(1)) is not None
        assert gauge.store.stamp is None
        await until(lambda: gauge.store.stamp == model.stamp)
        assert list(shown(gauge)) == sorted(subject.index for subject in model.subjects)
        assert gauge.get(key(10**6)) is not None
        assert gauge.get(key(1)) is None
        assert controller.counters.snapshots_built == 2

    asyncio.run(run())


def test_many_changes_are_taken_over_in_slices_and_a_few_at_once() -> None:
    async def run() -> None:
        count = 20 * tablestore.APPLY_AT_ONCE
        model = Logged(count)
        gauge = store(made(model))
        assert isinstance(gauge, ColumnStore)
        shown(gauge)
        for subject in model.subjects:
            subject.index += 10**6
        model.changed(*model.subjects)
        gauge.get(key(1))
        assert gauge.store.stamp is None
        # what a SET has just changed is seen by the next GET, however much waits
        last = model.number(count - 1)
        last.index = 5 * 10**6
        model.changed(last)
        assert gauge.get(key(5 * 10**6)) is not None
        model.remove(last)
        assert gauge.get(key(5 * 10**6)) is None
        await until(lambda: gauge.store.stamp == model.stamp)
        assert list(shown(gauge)) == sorted(subject.index for subject in model.subjects)

    asyncio.run(run())


def test_what_a_loop_left_undone_is_done_without_one() -> None:
    model = Logged(3 * tablestore.READ_AT_ONCE)
    controller = made(model)

    async def run() -> None:
        controller.prepare()
        await asyncio.sleep(0)

    asyncio.run(run())
    gauge = store(controller)
    assert len(shown(gauge)) == 3 * tablestore.READ_AT_ONCE

    async def change() -> None:
        model.changed(*model.subjects)
        gauge.get(key(1))
        assert isinstance(gauge, ColumnStore)
        assert gauge.store.stamp is None

    asyncio.run(change())
    model.number(0).value = 12
    model.changed(model.number(0))
    assert shown(gauge)[1] == 12
    assert isinstance(gauge, ColumnStore)
    assert gauge.store.stamp == model.stamp


def test_a_table_without_subjects_is_read_again_in_slices_too() -> None:
    async def run() -> None:
        count = 3 * tablestore.READ_AT_ONCE
        model = TestModel(rows=[Row(n, {"tGauge": n}) for n in range(count)])
        controller = Controller([binding(model)], TEST_MIBS, model)
        gauge = store(controller)
        assert len(shown(gauge)) == count
        model.rows = [Row(n, {"tGauge": 2 * n}) for n in range(1, count)]
        model.stamp += 1
        assert gauge.get(key(0)) is not None
        async with asyncio.timeout(20):
            while gauge.get(key(0)) is not None:
                await asyncio.sleep(0)
        assert shown(gauge) == {n: 2 * n for n in range(1, count)}

    asyncio.run(run())


def test_attending_follows_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.smi.controller.ATTEND_INTERVAL", 0.001)

    async def run() -> None:
        model = Logged(5)
        controller = made(model)
        controller.attend()
        try:
            await until(lambda: model.reads == 1)
            model.add(Subject(77))
            gauge = store(controller)
            assert isinstance(gauge, ColumnStore)
            start = time.monotonic()
            while len(gauge.store.image) != 6:
                assert time.monotonic() - start < 20
                await asyncio.sleep(0.001)
        finally:
            controller.leave()
        model.add(Subject(78))
        await asyncio.sleep(0.02)
        assert len(gauge.store.image) == 6

    asyncio.run(run())


def test_columns_without_instances_are_found_before_a_walk_comes_to_them() -> None:
    async def run() -> None:
        model = Logged(4 * FILLED)
        for subject in model.subjects:
            subject.value = None
        controller = made(model)
        gauge, text = store(controller), store(controller, "tText")
        assert isinstance(gauge, ColumnStore)
        assert text.next(None) is None
        await until(lambda: len(model.asked) == 4 * FILLED)
        await asyncio.sleep(0.01)
        model.asked.clear()
        assert gauge.next(None) is None
        assert not model.asked
        # every row changes, but none has a value: each is looked at once, and no walk looks again
        model.changed(*model.subjects)
        gauge.next(None)
        await until(lambda: gauge.store.stamp == model.stamp)
        assert set(model.asked.values()) == {1}
        model.asked.clear()
        assert gauge.next(None) is None
        assert not model.asked
        model.number(300).value = 5
        model.changed(model.number(300))
        assert gauge.next(None) == (key(301), gauge.get(key(301)))
        model.number(300).value = None
        model.changed(model.number(300))
        assert gauge.next(None) is None
        model.add(Subject(9_000, 1))
        assert shown(gauge) == {9_000: 1}

    asyncio.run(run())


def test_what_nobody_asks_for_any_more_is_not_kept_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tablestore, "PROBE", 5)
    monkeypatch.setattr(tablestore, "FORGET", 10)

    async def run() -> None:
        model = Logged(FILLED)
        controller = made(model)
        gauge = store(controller)
        assert isinstance(gauge, ColumnStore)
        shown(gauge)
        for turn in range(40):
            # asked now and then, though the model keeps still: kept
            if not turn % 4:
                gauge.get(key(1))
            controller.prepare()
            await asyncio.sleep(0)
        assert sum(model.asked.values()) == FILLED
        for turn in range(20):
            model.changed(model.number(turn))
            controller.prepare()
            await asyncio.sleep(0)
        assert not any(gauge.store.image.pages[0].columns)
        assert sum(model.asked.values()) == FILLED
        assert len(shown(gauge)) == FILLED
        assert gauge.store.stamp == model.stamp
        assert sum(model.asked.values()) == 2 * FILLED

    asyncio.run(run())


@pytest.mark.parametrize("many", [False, True])
def test_changes_that_cannot_be_told_to_their_end_are_not_lost(
    many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        model = Logged(3 * tablestore.APPLY_AT_ONCE)
        controller = made(model)
        gauge = store(controller)
        assert isinstance(gauge, ColumnStore)
        before = shown(gauge)
        told = list(model.subjects)[: 2 * tablestore.APPLY_AT_ONCE if many else 5]

        def broken(domain: str, since: int) -> Any:
            yield from ((subject, True) for subject in told)
            raise RuntimeError("the log is torn")

        for subject in model.subjects:
            subject.value = 3
        model.changed(*model.subjects)
        with monkeypatch.context() as patch:
            patch.setattr(model, "changes", broken)
            if many:
                gauge.get(key(1))
                await until(lambda: not gauge.store._backlog)
            else:
                with pytest.raises(ReadError):
                    gauge.get(key(1))
        assert set(shown(gauge).values()) == {3}
        assert len(before) == len(shown(gauge))
        assert controller.counters.rows_errors == (0 if many else 1)

    asyncio.run(run())


# -- contexts and scalars -----------------------------------------------------------------------------------


def test_contexts_have_models_and_tables_of_their_own() -> None:
    model, other = Logged(3), Logged(1)
    other.number(0).value = 8
    controller = made(model)
    controller.add_context("other", other)
    assert controller.contexts == ("", "other")
    assert controller.context("none") is None
    assert len(shown(store(controller))) == 3
    assert shown(store(controller, context="other")) == {1: 8}
    leaf = store(controller).leaf
    assert store(controller, context="other").leaf is leaf
    oid = (*leaf.oid, 2)
    assert controller.view(context="").read(oid) != controller.view(context="other").read(oid)
    with pytest.raises(NoSuchContext):
        controller.view(context="none")
    with pytest.raises(ValueError, match="other"):
        controller.add_context("other", model)
    with pytest.raises(ValueError, match="default"):
        controller.remove_context("")
    controller.remove_context("other")
    assert controller.context("other") is None
    with pytest.raises(KeyError):
        controller.remove_context("other")


def test_a_scalar_with_a_domain_is_kept_until_its_stamp_moves() -> None:
    model = TestModel()
    asked: list[str] = []

    def get(g: TestModel) -> int:
        asked.append("kept")
        return 5

    module = binding(model)
    scalars = [replace(s, get=get, domain="some") if s.name == "sReadOnly" else s for s in module.scalars]
    controller = Controller([replace(module, scalars=scalars)], TEST_MIBS, model)
    scalar = store(controller, "sReadOnly")
    for _ in range(3):
        assert scalar.get(keys.SCALAR_KEY) is not None
        assert scalar.next(None) == (keys.SCALAR_KEY, scalar.get(keys.SCALAR_KEY))
    assert asked == ["kept"]
    model.stamp += 1
    assert scalar.run(None, 2, 100) == (scalar.get(keys.SCALAR_KEY), 1, keys.SCALAR_KEY, True)
    assert asked == ["kept", "kept"]


@pytest.mark.parametrize("name", ["sReadOnly", "sAbsent"])
def test_scalars_answer_as_columns_do(name: str) -> None:
    scalar = store(Controller([binding(model := TestModel())], TEST_MIBS, model), name)
    varbind = scalar.get(keys.SCALAR_KEY)
    assert (varbind is None) == (name == "sAbsent")
    octets = varbind or b""
    assert scalar.get(b"") is scalar.get(key(1)) is scalar.get(key(0, 0)) is None
    for after in (None, b""):
        there = varbind is not None
        assert scalar.run(after, 5, 100) == (octets, int(there), keys.SCALAR_KEY if there else None, True)
        assert scalar.run(after, 1, 100)[3] == (not there)
        assert scalar.run(after, 0, 100) == (b"", 0, None, False)
        if there:
            assert scalar.run(after, 5, len(octets) - 1) == (b"", 0, None, False)
        assert scalar.cells(after, 5) == ([octets] if there else [], keys.SCALAR_KEY if there else None, True)
    for after in (key(0), key(0, 0), key(7)):
        assert scalar.run(after, 5, 100) == (b"", 0, None, True)
        assert scalar.cells(after, 5) == ([], None, True)
        assert scalar.next(after) is None


def test_a_table_may_bring_its_own_stamp() -> None:
    model = TestModel(rows=[Row(1, {"tGauge": 1})])
    stamp = [1]
    module = binding(model)
    table = replace(module.tables[0], stamp=lambda: stamp[0])
    controller = Controller([replace(module, tables=[table, module.tables[1]])], TEST_MIBS, model)
    gauge = store(controller)
    assert shown(gauge) == {1: 1}
    model.rows[0].values["tGauge"] = 2
    model.stamp += 1
    assert shown(gauge) == {1: 1}
    stamp[0] += 1
    assert shown(gauge) == {1: 2}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"subjects": lambda g: ()}, "need each other"),
        ({"rows_of": lambda s: ()}, "need each other"),
        ({"rows": None}, "neither rows nor subjects"),
    ],
)
def test_tables_say_where_their_rows_are(fields: dict[str, Any], text: str) -> None:
    module = binding(TestModel())
    table = replace(module.tables[0], **fields)
    with pytest.raises(BindingError, match=text):
        bind(replace(module, tables=[table, module.tables[1]]), TEST_MIBS)

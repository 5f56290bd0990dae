"""The store beside its property test: what is encoded and asked how often, how pages hold rows, whom it shows."""

from __future__ import annotations

import gc
import logging
import random
import weakref
from dataclasses import replace
from typing import Any

import pytest
from store_support import Logged, Subject, key, made, shown, store

from agent.smi import ber
from agent.smi.bound import BoundColumn
from agent.smi.counters import SmiCounters
from agent.smi.errors import ReadError
from agent.smi.image import FILLED, Image
from agent.smi.pages import MERGE_AT, MISSES, SPLIT_AT, Page
from agent.smi.store import ColumnStore

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

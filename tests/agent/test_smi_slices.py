"""How the store follows its model in slices of a real event loop, ahead of requests and between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from smi_support import TEST_MIBS, Row, TestModel, binding
from store_support import Logged, Subject, key, made, shown, store

from agent.smi import tablestore
from agent.smi.controller import Controller
from agent.smi.errors import ReadError
from agent.smi.image import FILLED
from agent.smi.store import ColumnStore


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
        assert (model.reads, controller.counters.images_built) == (1, 1)
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
        assert (model.reads, controller.counters.images_built) == (1, 1)

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
        assert controller.counters.images_built == 2

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
        await until(lambda: not controller._preparing)
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

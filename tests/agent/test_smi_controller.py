"""Reads through views: lookup, order, holes, change stamps, what is left out and counted."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smi_support import COMMUNITY, ROOT, SCALARS, TEST_MIBS, VALUE_COLUMNS, Row, TestModel, binding, rows

from agent.config import Subtree
from agent.engine.access import MibView
from agent.smi import ber
from agent.smi.controller import Controller, ReadError, View
from agent.smi.rowstatus import RowStatus, StoredRow

assert COMMUNITY  # the module is shared with the engine's tests


def made(model: TestModel) -> Controller:
    return Controller([binding(model)], TEST_MIBS, model)


def parts(varbind: bytes) -> tuple[ber.Oid, int, bytes]:
    start, end = ber.expect(varbind, 0, len(varbind), ber.SEQUENCE)
    name, name_end = ber.expect(varbind, start, end, ber.OBJECT_IDENTIFIER)
    tag, first, last = ber.read(varbind, name_end, end)
    assert last == end == len(varbind)
    return ber.parse_oid(varbind[name:name_end]), tag, varbind[first:last]


def walk(view: View, oid: ber.Oid = (0, 0)) -> list[ber.Oid]:
    found = []
    while True:
        oid, varbind = view.read_next(oid)
        name, tag, _ = parts(varbind)
        if tag == 0x82:
            return found
        assert name == oid
        found.append(oid)


def column(name: str, *index: int) -> ber.Oid:
    return (*ROOT, 2, 1, 2 + list(VALUE_COLUMNS).index(name), *index)


def scalar(name: str, *instance: int) -> ber.Oid:
    return (*ROOT, 1, 1 + list(SCALARS).index(name), *(instance or (0,)))


def test_get() -> None:
    view = made(TestModel(rows=rows(3))).view()
    assert parts(view.read(column("tInteger", 2))) == (column("tInteger", 2), 2, b"\x02")
    assert parts(view.read(column("tColour", 1)))[1:] == (2, b"\x01")
    assert parts(view.read(scalar("sReadOnly")))[1:] == (2, b"\x05")


@pytest.mark.parametrize(
    ("oid", "tag"),
    [
        (column("tInteger", 9), 0x81),
        (column("tInteger", 2, 0), 0x81),
        (column("tInteger"), 0x81),
        (column("tSometimes", 2), 0x81),
        (scalar("sAbsent"), 0x81),
        (scalar("sReadOnly", 1), 0x81),
        (scalar("sReadOnly")[:-1], 0x81),
        ((*ROOT, 2, 1, 1, 1), 0x80),
        ((*ROOT, 9, 0), 0x80),
        ((1, 3), 0x80),
        ((2, 5), 0x80),
    ],
)
def test_exceptions(oid: ber.Oid, tag: int) -> None:
    view = made(TestModel(rows=rows(3))).view()
    assert parts(view.read(oid)) == (oid, tag, b"")


def test_walk_is_in_order_and_skips_holes() -> None:
    model = TestModel(rows=list(reversed(rows(5))), stored={b"x": StoredRow(RowStatus.notReady)})
    view = made(model).view()
    found = walk(view)
    assert found == sorted(set(found))
    assert [oid[-1] for oid in found if oid[:-1] == column("tInteger")] == [1, 2, 3, 4, 5]
    assert [oid[-1] for oid in found if oid[:-1] == column("tSometimes")] == [3]
    assert not any(oid[:-1] == column("tClock") for oid in found)
    assert scalar("sAbsent") not in found
    # every instance found by a walk is found by GET, and the next one after each is the next in the walk
    for oid, after in itertools.pairwise(found):
        assert parts(view.read(oid))[1] < 0x80
        assert view.read_next(oid)[0] == after


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=5), st.sets(st.integers(0, 20), max_size=6))
def test_next_agrees_with_the_sorted_list(tail: list[int], indexes: set[int]) -> None:
    model = TestModel(rows=[Row(i, {"tInteger": i, **({"tText": "t"} if i % 2 else {})}) for i in indexes])
    view = made(model).view()
    found = walk(view)
    oid = (*ROOT, *tail)
    expected = next((candidate for candidate in found if candidate > oid), None)
    after, varbind = view.read_next(oid)
    assert after == (expected or oid)
    assert (parts(varbind)[1] == 0x82) == (expected is None)


def test_counter64_is_skipped_for_version_1() -> None:
    view = made(TestModel(rows=rows(2))).view()
    assert view.read_next(column("tCounter", 2), skip_counter64=True)[0] == column("tTicks", 1)
    assert view.read_next(column("tCounter", 2))[0] == column("tCounter64", 1)


def test_rows_are_read_again_only_when_the_stamp_changes() -> None:
    model = TestModel(rows=rows(3))
    controller = made(model)
    for _ in range(5):
        walk(controller.view())
    assert model.reads == 1
    model.rows.append(Row(9, {"tInteger": 9}))
    assert parts(controller.view().read(column("tInteger", 9)))[1] == 0x81
    model.stamp += 1
    assert parts(controller.view().read(column("tInteger", 9)))[2] == b"\x09"
    assert model.reads == 2


def test_one_pdu_sees_one_snapshot() -> None:
    model = TestModel(rows=rows(3))
    view = made(model).view()
    view.read(column("tInteger", 1))
    model.rows.clear()
    model.stamp += 1
    assert parts(view.read(column("tInteger", 3)))[2] == b"\x03"


def test_volatile_columns_are_never_kept() -> None:
    model = TestModel(rows=rows(1), clock=5)
    controller = made(model)
    assert parts(controller.view().read(column("tClock", 1)))[2] == b"\x05"
    model.clock = 6
    assert parts(controller.view().read(column("tClock", 1)))[2] == b"\x06"
    assert walk(controller.view())[-1] == column("tClock", 1)


def test_bad_values_are_left_out_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    model = TestModel(rows=rows(4))
    for row in model.rows[1:]:
        row.values["tColour"] = "blue"
    model.scalars["sReadOnly"] = "text"
    controller = made(model)
    controller.counters.values_outside_syntax = 0
    with caplog.at_level(logging.WARNING):
        found = walk(controller.view())
        walk(controller.view())
    assert [oid[-1] for oid in found if oid[:-1] == column("tColour")] == [1]
    assert column("tTruth", 4) in found
    assert controller.counters.values_outside_syntax >= 4
    assert sum("tColour" in record.getMessage() for record in caplog.records) <= 1


def test_getter_errors_are_left_out_and_counted() -> None:
    model = TestModel(rows=rows(2))
    model.rows[0].values = None  # type: ignore[assignment]
    controller = made(model)
    assert column("tInteger", 2) in walk(controller.view())
    assert controller.counters.getter_errors > 0


def test_rows_without_valid_index_are_left_out_and_counted() -> None:
    model = TestModel(rows=[*rows(2), Row(-1), Row("x"), Row(2), Row(None)])  # type: ignore[arg-type]
    model.stored = {b"n" * 32: StoredRow(RowStatus.active), b"n" * 33: StoredRow(RowStatus.active)}
    controller = made(model)
    walk(controller.view())
    assert controller.counters.indexes_invalid == 4
    assert controller.counters.indexes_duplicate == 1


def test_a_row_beyond_128_sub_identifiers_is_left_out_and_counted() -> None:
    model = TestModel()
    module = binding(model)
    table = replace(module.tables[1], rows=lambda g: [(b"a" * 200, StoredRow(RowStatus.active))])
    controller = Controller([replace(module, tables=[module.tables[0], table])], TEST_MIBS, model)
    # the fixture's SIZE would refuse it first: take the constraint away
    controller.modules[0].tables[1].index.parts[0].codec.syntax = replace(
        controller.modules[0].tables[1].index.parts[0].syntax, sizes=()
    )
    walk(controller.view())
    assert controller.counters.indexes_too_long == 1


def test_a_table_that_cannot_be_read_is_gen_err() -> None:
    model = TestModel()
    model.rows = None  # type: ignore[assignment]
    controller = made(model)
    with pytest.raises(ReadError):
        controller.view().read(column("tInteger", 1))
    assert controller.counters.rows_errors == 1


def test_views_hide_what_is_not_in_them() -> None:
    controller = made(TestModel(rows=rows(3)))
    # row 2 of every column, by mask
    view = controller.view(MibView([Subtree((*ROOT, 2, 1, 0, 2), True, bytes((0xFF, 0xDF)))]))
    found = walk(view)
    assert {oid[-1] for oid in found} == {2}
    assert len(found) == 12
    assert parts(view.read(column("tInteger", 1)))[1] == 0x81
    assert parts(view.read(scalar("sReadOnly")))[1] == 0x80
    assert walk(controller.view(MibView([]))) == []


def test_an_all_empty_column_is_not_searched_again() -> None:
    asked = []
    model = TestModel(rows=[Row(n, {"tInteger": n}) for n in range(500)])
    module = binding(model)
    columns = [
        replace(c, get=lambda r: asked.append(r)) if c.name == "tGauge" else c
        for c in module.tables[0].columns
    ]
    module = replace(module, tables=[replace(module.tables[0], columns=columns), module.tables[1]])
    controller = Controller([module], TEST_MIBS, model)
    walk(controller.view())
    walk(controller.view())
    assert len(asked) == 500

"""RowStatus as RFC 2579's table, cell by cell; StorageType; TestAndIncr; the row writer."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from smi_support import Store, TestModel, row_writer

from agent.smi.errors import SetError
from agent.smi.rowstatus import RowStatus as R
from agent.smi.rowstatus import StorageType as S
from agent.smi.rowstatus import StoredRow, TestAndIncr, check_storage, next_status

A, B, C, D = None, R.notReady, R.notInService, R.active
IV, IN, WV = "inconsistentValue", "inconsistentName", "wrongValue"

# RFC 2579, RowStatus: (state, action, all required columns have values) -> state after, or error.
# The agent's choices where the RFC leaves one: createAndWait is offered, columns of a row that does not exist
# are inconsistentName, an active row stays active when its columns change.
TABLE: dict[tuple[R | None, R | None, bool], R | str | None] = {
    (A, R.createAndGo, True): D,
    (A, R.createAndGo, False): IV,
    (B, R.createAndGo, True): IV,
    (B, R.createAndGo, False): IV,
    (C, R.createAndGo, True): IV,
    (C, R.createAndGo, False): IV,
    (D, R.createAndGo, True): IV,
    (D, R.createAndGo, False): IV,
    (A, R.createAndWait, True): C,
    (A, R.createAndWait, False): B,
    (B, R.createAndWait, True): IV,
    (B, R.createAndWait, False): IV,
    (C, R.createAndWait, True): IV,
    (C, R.createAndWait, False): IV,
    (D, R.createAndWait, True): IV,
    (D, R.createAndWait, False): IV,
    (A, R.active, True): IV,
    (A, R.active, False): IV,
    (B, R.active, True): D,
    (B, R.active, False): IV,
    (C, R.active, True): D,
    (C, R.active, False): D,
    (D, R.active, True): D,
    (D, R.active, False): D,
    (A, R.notInService, True): IV,
    (A, R.notInService, False): IV,
    (B, R.notInService, True): C,
    (B, R.notInService, False): IV,
    (C, R.notInService, True): C,
    (C, R.notInService, False): C,
    (D, R.notInService, True): C,
    (D, R.notInService, False): C,
    **{(state, R.destroy, full): A for state in (A, B, C, D) for full in (True, False)},
    **{(state, R.notReady, full): WV for state in (A, B, C, D) for full in (True, False)},
    (A, None, True): IN,
    (A, None, False): IN,
    (B, None, True): C,
    (B, None, False): B,
    (C, None, True): C,
    (C, None, False): C,
    (D, None, True): D,
    (D, None, False): D,
}


def test_the_table_has_every_cell() -> None:
    assert set(TABLE) == set(itertools.product((A, B, C, D), (None, *R), (True, False)))


@pytest.mark.parametrize(("cell", "expected"), TABLE.items())
def test_every_cell(cell: tuple[R | None, R | None, bool], expected: R | str | None) -> None:
    if isinstance(expected, str):
        with pytest.raises(SetError) as caught:
            next_status(*cell)
        assert caught.value.code.name == expected
    else:
        assert next_status(*cell) is expected


def test_tables_without_create_and_wait() -> None:
    with pytest.raises(SetError, match="wrongValue"):
        next_status(A, R.createAndWait, True, create_and_wait=False)


def test_implicit_creation_where_a_table_offers_it() -> None:
    assert next_status(A, None, True, implicit_create=True) is C
    assert next_status(A, None, False, implicit_create=True) is B


STORAGE = [
    # current, requested, destroys, changes, error
    (None, None, False, True, None),
    (None, S.volatile, False, True, None),
    (None, S.nonVolatile, False, True, None),
    (None, S.permanent, False, True, WV),
    (None, S.readOnly, False, True, WV),
    (None, S.other, False, True, WV),
    (S.nonVolatile, S.volatile, False, False, None),
    (S.nonVolatile, S.permanent, False, False, WV),
    (S.nonVolatile, None, True, False, None),
    (S.permanent, None, False, True, None),
    (S.permanent, S.permanent, False, True, None),
    (S.permanent, S.volatile, False, False, WV),
    (S.permanent, None, True, False, IV),
    (S.readOnly, None, False, True, "notWritable"),
    (S.readOnly, S.volatile, False, False, "notWritable"),
    (S.readOnly, S.readOnly, False, False, None),
    (S.readOnly, None, True, False, "notWritable"),
]


@pytest.mark.parametrize(("current", "requested", "destroys", "changes", "error"), STORAGE)
def test_storage_type(
    current: S | None, requested: S | None, destroys: bool, changes: bool, error: str | None
) -> None:
    if error is None:
        check_storage(current, requested, destroys=destroys, changes=changes)
    else:
        with pytest.raises(SetError) as caught:
            check_storage(current, requested, destroys=destroys, changes=changes)
        assert caught.value.code.name == error


def test_test_and_incr() -> None:
    lock = TestAndIncr(2147483646)
    with pytest.raises(SetError, match="inconsistentValue"):
        lock.test(None, 1)
    change = lock.test(None, 2147483646)
    change.commit()
    assert lock.value == 2147483647
    change.undo()
    assert lock.value == 2147483646
    change.commit()
    lock.test(None, 2147483647).commit()
    assert lock.value == 0


def write(model: TestModel, name: bytes, **values: Any) -> StoredRow | None:
    change = row_writer().test(model, None, (name,), values)
    result = change.commit()
    assert result is None or asyncio.iscoroutine(result)
    return model.stored.get(name)


def test_create_and_go_takes_defaults() -> None:
    row = write(TestModel(), b"a", rLimit=1, rStatus=R.createAndGo)
    assert row == StoredRow(R.active, S.nonVolatile, {"rLimit": 1, "rText": b"text"})


def test_create_in_steps() -> None:
    model = TestModel()
    row = write(model, b"a", rStatus=R.createAndWait)
    assert row is not None
    assert row.status is R.notReady
    with pytest.raises(SetError, match="inconsistentValue"):
        write(model, b"a", rStatus=R.active)
    row = write(model, b"a", rLimit=2)
    assert row is not None
    assert row.status is R.notInService
    row = write(model, b"a", rStatus=R.active)
    assert row is not None
    assert row.status is R.active
    assert write(model, b"a", rStatus=R.destroy) is None


def test_an_active_row_keeps_its_fixed_columns() -> None:
    model = TestModel()
    write(model, b"a", rLimit=1, rStatus=R.createAndGo)
    with pytest.raises(SetError) as caught:
        write(model, b"a", rText=b"x", rLimit=2)
    assert (caught.value.code.name, caught.value.column) == ("inconsistentValue", "rLimit")
    row = write(model, b"a", rText=b"x", rLimit=1)
    assert row is not None
    assert row.values["rText"] == b"x"
    row = write(model, b"a", rStatus=R.notInService, rLimit=2)
    assert row is not None
    assert (row.status, row.values["rLimit"]) == (R.notInService, 2)


@pytest.mark.parametrize(
    ("name", "values", "code", "column"),
    [
        (b"a", {"rLimit": 1}, IN, None),
        (b"a", {"rStatus": R.createAndGo}, IV, "rStatus"),
        (b"a", {"rStatus": R.notReady}, WV, "rStatus"),
        (b"a", {"rLimit": 9, "rStatus": R.createAndGo}, IV, "rLimit"),
        (b"a", {"rLimit": 1, "rStorage": S.permanent, "rStatus": R.createAndGo}, WV, "rStorage"),
        (b"bad", {"rLimit": 1, "rStatus": R.createAndGo}, IN, None),
    ],
)
def test_refusals_name_the_column(name: bytes, values: dict[str, Any], code: str, column: str | None) -> None:
    model = TestModel()
    with pytest.raises(SetError) as caught:
        write(model, name, **values)
    assert (caught.value.code.name, caught.value.column) == (code, column)
    assert model.stored == {}


def test_destroy() -> None:
    model = TestModel()
    model.stored = {b"used": StoredRow(R.active), b"kept": StoredRow(R.active, S.permanent)}
    assert write(model, b"none", rStatus=R.destroy) is None
    for name in (b"used", b"kept"):
        with pytest.raises(SetError, match=IV):
            write(model, name, rStatus=R.destroy)
        assert Store().load(model, (name,)) is not None

"""SET over a whole PDU: exact error and index in every position, all or nothing, undo, merge, timeouts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from smi_support import TEST_MIBS, Put, TestModel, binding, rows
from test_smi_controller import column, scalar

from agent.config import Subtree
from agent.engine.access import MibView
from agent.smi import ErrorStatus, SetError, ber
from agent.smi.controller import Controller
from agent.smi.transaction import SetOutcome, SetVarBind


def integer(oid: ber.Oid, value: int) -> SetVarBind:
    encoded = ber.integer(value)
    return SetVarBind(oid, encoded[0], encoded[2:])


def row(name: bytes, number: int) -> ber.Oid:
    return (*scalar("sLimited")[:8], 3, 1, number, *name)


GOOD = [
    integer(scalar("sLimited"), 4),
    SetVarBind(scalar("sShort"), 4, b"xyz"),
    integer(column("tInteger", 2), 77),
]

# RFC 3416 section 4.2.5: what is wrong with the one varbind -> error-status
BAD: dict[str, tuple[SetVarBind, str]] = {
    "outside the view": (integer((1, 3, 6, 1, 4, 1, 1, 0), 1), "noAccess"),
    "no such object": (integer((*scalar("sLimited")[:9], 99, 0), 1), "notWritable"),
    "read-only object": (integer(scalar("sReadOnly"), 1), "notWritable"),
    "not-accessible index": (integer((*scalar("sLimited")[:8], 2, 1, 1, 1), 1), "notWritable"),
    "writable, but nothing behind it": (integer(scalar("sUnwritten"), 1), "notWritable"),
    "other type": (SetVarBind(scalar("sLimited"), 4, b"1"), "wrongType"),
    "exception as value": (SetVarBind(scalar("sLimited"), 0x80, b""), "wrongType"),
    "length outside SIZE": (SetVarBind(scalar("sShort"), 4, b"x"), "wrongLength"),
    "encoding": (SetVarBind(scalar("sLimited"), 2, b""), "wrongEncoding"),
    "value outside range": (integer(scalar("sLimited"), 11), "wrongValue"),
    "instance of a scalar": (integer(scalar("sLimited", 1), 1), "noCreation"),
    "row of a table that SET does not extend": (integer(column("tInteger", 99), 1), "noCreation"),
    "index that is none": (integer(column("tInteger"), 1), "noCreation"),
    "index outside SIZE": (integer(row(b"n" * 33, 2), 1), "noCreation"),
    "column of a missing row": (integer(row(b"new", 2), 1), "inconsistentName"),
    "name that cannot be now": (integer(row(b"bad", 5), 5), "inconsistentName"),
    "createAndGo without columns": (integer(row(b"new", 5), 4), "inconsistentValue"),
    "notReady": (integer(row(b"new", 5), 3), "wrongValue"),
    "spin lock": (integer(scalar("sSpin"), 6), "inconsistentValue"),
    "commit fails": (integer(scalar("sFailing"), 1), "commitFailed"),
    "no answer": (integer(scalar("sStuck"), 1), "commitFailed"),
}


def run(model: TestModel, varbinds: list[SetVarBind], timeout: float = 0.1, access: Any = None) -> SetOutcome:
    controller = Controller([binding(model)], TEST_MIBS, model)
    return asyncio.run(controller.write(varbinds, access, timeout))


def visible(model: TestModel) -> Any:
    return dict(model.scalars), [dict(r.values) for r in model.rows], dict(model.stored), model.spin.value


def test_success_changes_everything() -> None:
    model = TestModel(rows=rows(3))
    assert run(model, [*GOOD, integer(scalar("sSlow"), 5)]) == SetOutcome(ErrorStatus.noError, 0)
    assert (model.scalars["sLimited"], model.scalars["sShort"], model.scalars["sSlow"]) == (4, b"xyz", 5)
    assert model.rows[1].values["tInteger"] == 77
    assert model.commits == ["sLimited", "sShort", "tInteger", "sSlow"]


@pytest.mark.parametrize("position", [0, 1, 3])
@pytest.mark.parametrize(("bad", "code"), BAD.values(), ids=BAD.keys())
def test_every_error_in_every_position_changes_nothing(bad: SetVarBind, code: str, position: int) -> None:
    model = TestModel(rows=rows(3))
    model.scalars["sStuck"] = "undone"  # what NeverAnswers puts back
    before = visible(model)
    varbinds = [v for v in GOOD if v.oid != bad.oid]
    varbinds = [*varbinds[:position], bad, *varbinds[position:]]
    view = MibView([Subtree((1, 3, 6, 1, 4, 1, 32473))])
    outcome = run(model, varbinds, access=view)
    assert (outcome.status.name, outcome.index) == (code, varbinds.index(bad) + 1)
    assert visible(model) == before


def test_undo_failed_has_index_zero() -> None:
    model = TestModel(rows=rows(3))
    outcome = run(model, [GOOD[0], integer(scalar("sFailing"), 13), GOOD[1]])
    assert outcome == SetOutcome(ErrorStatus.undoFailed, 0)
    assert model.scalars["sLimited"] == 3


@pytest.mark.parametrize("code", [s.name for s in ErrorStatus if s > 5])
def test_a_writer_may_answer_any_status(code: str) -> None:
    model = TestModel(refuse=code)
    outcome = run(model, [integer(scalar("sSpin"), 7), GOOD[0]])
    assert (outcome.status.name, outcome.index) == (code, 2)
    assert model.spin.value == 7


def test_an_exception_in_a_test_is_gen_err() -> None:
    model = TestModel(refuse="noSuchErrorAtAll")
    assert run(model, [integer(scalar("sSpin"), 7), GOOD[0]]) == SetOutcome(ErrorStatus.genErr, 2)


def test_an_empty_set_succeeds() -> None:
    assert run(TestModel(), []) == SetOutcome(ErrorStatus.noError, 0)


def test_the_same_variable_twice() -> None:
    model = TestModel()
    assert run(model, [GOOD[0], GOOD[0]]).status is ErrorStatus.noError
    assert model.commits == ["sLimited"]
    outcome = run(model, [GOOD[0], integer(scalar("sLimited"), 5)])
    assert (outcome.status.name, outcome.index) == ("inconsistentValue", 2)


def test_varbinds_of_one_row_are_judged_together() -> None:
    model = TestModel()
    varbinds = [integer(row(b"r1", 2), 5), integer(row(b"r2", 5), 4), integer(row(b"r1", 5), 4)]
    outcome = run(model, [*varbinds, integer(row(b"r2", 2), 6)])
    assert outcome.status is ErrorStatus.noError
    assert {name: r.values["rLimit"] for name, r in model.stored.items()} == {b"r1": 5, b"r2": 6}


@pytest.mark.parametrize(
    ("values", "code", "index"),
    [
        ([(5, 4), (2, 9)], "inconsistentValue", 3),
        ([(2, 9), (5, 4)], "inconsistentValue", 2),
        ([(2, 5), (4, 4), (5, 4)], "wrongValue", 3),
        ([(2, 5), (5, 1)], "inconsistentValue", 3),
    ],
)
def test_a_row_error_points_at_its_column(values: list[tuple[int, int]], code: str, index: int) -> None:
    model = TestModel()
    outcome = run(model, [GOOD[0], *(integer(row(b"r", number), value) for number, value in values)])
    assert (outcome.status.name, outcome.index) == (code, index)
    assert model.stored == {}
    assert model.scalars["sLimited"] == 3


@dataclass
class Batch:
    """A change that is merged with its like."""

    log: list[Any]
    items: list[int] = field(default_factory=list)
    merge_key: object | None = "batch"

    def merge(self, other: Batch) -> Batch:
        if 13 in other.items:
            raise SetError("resourceUnavailable")
        return Batch(self.log, self.items + other.items)

    def commit(self) -> None:
        self.log.append(self.items)

    def undo(self) -> None:
        self.log.append("undo")


@pytest.mark.parametrize(("second", "expected"), [(2, [[1, 2]]), (13, [])])
def test_changes_with_one_key_become_one(second: int, expected: list[Any]) -> None:
    log: list[Any] = []

    class Writer(Put):
        def test(self, model: TestModel, value: Any) -> Any:
            return Batch(log, [value])

    model = TestModel()
    module = binding(model)
    scalars = [
        replace(s, writer=Writer(s.name)) if s.name in ("sLimited", "sSlow") else s for s in module.scalars
    ]
    controller = Controller([replace(module, scalars=scalars)], TEST_MIBS, model)
    varbinds = [integer(scalar("sLimited"), 1), integer(scalar("sSpin"), 7), integer(scalar("sSlow"), second)]
    outcome = asyncio.run(controller.write(varbinds))
    assert log == expected
    assert outcome.index == (3 if second == 13 else 0)
    assert model.spin.value == (7 if second == 13 else 8)


def test_cancelling_undoes() -> None:
    model = TestModel(rows=rows(1))

    async def scenario() -> None:
        controller = Controller([binding(model)], TEST_MIBS, model)
        model.gate = asyncio.Event()
        task = asyncio.ensure_future(controller.write([GOOD[0], integer(scalar("sSlow"), 5)], None, 5))
        await asyncio.sleep(0.01)
        assert model.scalars["sLimited"] == 4
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert model.scalars["sLimited"] == 3


def test_sets_run_one_after_the_other() -> None:
    model = TestModel()

    async def scenario() -> list[SetOutcome]:
        controller = Controller([binding(model)], TEST_MIBS, model)
        spin = integer(scalar("sSpin"), 7)
        writes = [controller.write([integer(scalar("sSlow"), n), spin], None, 5) for n in (1, 2)]
        return await asyncio.gather(*writes)

    first, second = asyncio.run(scenario())
    assert first.status is ErrorStatus.noError
    assert (second.status.name, second.index) == ("inconsistentValue", 2)
    assert model.scalars["sSlow"] == 1

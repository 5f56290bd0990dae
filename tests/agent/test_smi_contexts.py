"""Contexts, scalars, and what tables say of where their rows are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from smi_support import TEST_MIBS, Row, TestModel, binding
from store_support import Logged, key, made, shown, store

from agent.smi import BindingError, keys
from agent.smi.bound import bind
from agent.smi.controller import Controller
from agent.smi.errors import NoSuchContext


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

"""Every disagreement between a binding and the compiled MIB is an error that names module and object."""

from __future__ import annotations

from dataclasses import replace

import pytest
from smi_support import TEST_MIBS, Put, PutCell, TestModel, binding, row_writer

from agent.smi import BindingError, Column, ModuleBinding, Scalar, Table
from agent.smi.bound import bind


def good() -> ModuleBinding:
    return binding(TestModel())


def with_columns(*columns: Column) -> ModuleBinding:
    module = good()
    table = module.tables[0]
    return replace(module, tables=[replace(table, columns=[*table.columns, *columns]), module.tables[1]])


def without_scalar(name: str) -> ModuleBinding:
    module = good()
    return replace(module, scalars=[scalar for scalar in module.scalars if scalar.name != name])


def test_a_complete_binding_is_bound_in_oid_order() -> None:
    module = bind(good(), TEST_MIBS)
    oids = [leaf.oid for leaf in module.leaves]
    assert oids == sorted(oids)
    assert len(oids) == len(set(oids)) == 10 + 14 + 4


CASES = {
    "neither bound nor listed": (without_scalar("sBig"), "TEST-MIB::sBig: neither bound"),
    "no such object": (
        replace(good(), scalars=[*good().scalars, Scalar("sNone", lambda g: 1)]),
        "TEST-MIB::sNone: bound as scalar, but the module defines no such object",
    ),
    "wrong kind": (
        replace(good(), scalars=[*good().scalars, Scalar("tGauge", lambda g: 1)]),
        "TEST-MIB::tGauge: bound as scalar, but it is a column",
    ),
    "twice": (
        replace(good(), scalars=[*good().scalars, Scalar("sBig", lambda g: 1)]),
        "TEST-MIB::sBig: bound twice",
    ),
    "column of another table": (
        with_columns(Column("rText", lambda r: 1)),
        "TEST-MIB::rText: bound in tValueTable, but it is a column of rEntry",
    ),
    "index column": (
        with_columns(Column("tIndex", lambda r: 1)),
        "TEST-MIB::tIndex: bound, but its MAX-ACCESS is not-accessible",
    ),
    "scalar as table": (
        replace(good(), tables=[*good().tables, Table("sBig", lambda g: [], lambda r: (1,), [])]),
        "TEST-MIB::sBig: bound as table, but it is a scalar",
    ),
    "writer on a read-only scalar": (
        replace(
            without_scalar("sBig"),
            scalars=[*without_scalar("sBig").scalars, Scalar("sBig", lambda g: b"", Put("sBig"))],
        ),
        "TEST-MIB::sBig: has a writer, but its MAX-ACCESS is read-only",
    ),
    "not_served and bound": (
        replace(good(), not_served={"sBig": "too big"}),
        "TEST-MIB::sBig: bound and also covered by not_served sBig",
    ),
    "not_served unknown": (
        replace(good(), not_served={"sNothing": "gone"}),
        "TEST-MIB::sNothing: listed in not_served, but the module defines no such node",
    ),
    "not_served without reason": (
        replace(without_scalar("sBig"), not_served={"sBig": " "}),
        "TEST-MIB::sBig: listed in not_served without a reason",
    ),
    "not_served without effect": (
        replace(good(), not_served={"tIndex": "index"}),
        "TEST-MIB::tIndex: listed in not_served, but nothing accessible lies below it",
    ),
    "unknown module": (ModuleBinding("NO-MIB"), "NO-MIB: the module is not among the compiled MIBs"),
}


@pytest.mark.parametrize(("module", "text"), CASES.values(), ids=CASES.keys())
def test_faults(module: ModuleBinding, text: str) -> None:
    with pytest.raises(BindingError) as caught:
        bind(module, TEST_MIBS)
    assert text in str(caught.value)


def test_row_writer_needs_a_writable_column() -> None:
    module = good()
    table = replace(module.tables[0], columns=[c for c in module.tables[0].columns if c.name != "tInteger"])
    table = replace(table, writer=row_writer())
    module = replace(module, tables=[table, module.tables[1]], not_served={"tInteger": "left out"})
    with pytest.raises(BindingError, match="tValueTable: has a writer, but no bound column is writable"):
        bind(module, TEST_MIBS)


def test_writer_on_a_read_only_column() -> None:
    module = good()
    columns = [replace(c, writer=PutCell()) if c.name == "tGauge" else c for c in module.tables[0].columns]
    module = replace(module, tables=[replace(module.tables[0], columns=columns), module.tables[1]])
    with pytest.raises(BindingError, match="tGauge: has a writer, but its MAX-ACCESS is read-only"):
        bind(module, TEST_MIBS)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(BindingError) as caught:
        bind(ModuleBinding("TEST-MIB"), TEST_MIBS)
    assert str(caught.value).count("neither bound nor listed") == 28


def test_not_served_covers_a_subtree() -> None:
    module = good()
    module = replace(module, tables=module.tables[1:], not_served={"tValueTable": "no source gives it"})
    assert len(bind(module, TEST_MIBS).leaves) == 14

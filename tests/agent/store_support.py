"""A table of subjects for tests of the store: a model that logs changes and counts who is asked for values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from smi_support import TEST_MIBS, TestModel, binding

from agent.smi import ber, keys
from agent.smi.controller import Controller
from agent.smi.store import LeafStore


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

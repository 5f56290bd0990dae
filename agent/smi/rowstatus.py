"""RowStatus, StorageType and TestAndIncr as RFC 2579 defines them.

`next_status` is the state table of the RowStatus textual convention; `RowStatusWriter` is the row writer that
applies it, together with StorageType, to any table whose rows live in a `RowStore`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

from agent.smi.errors import SetError
from agent.smi.model import Change, IndexValues


class RowStatus(IntEnum):
    """RowStatus. A row's own state is active, notInService or notReady; None stands for no row."""

    active = 1
    notInService = 2
    notReady = 3
    createAndGo = 4
    createAndWait = 5
    destroy = 6


class StorageType(IntEnum):
    """StorageType."""

    other = 1
    volatile = 2
    nonVolatile = 3
    permanent = 4
    readOnly = 5


def next_status(
    current: RowStatus | None,
    requested: RowStatus | None,
    complete: bool,
    *,
    create_and_wait: bool = True,
    implicit_create: bool = False,
) -> RowStatus | None:
    """One step of RFC 2579's RowStatus table.

    `current`: state before, None where the status column does not exist. `requested`: value set on the status
    column, None when the PDU only sets other columns of the row. `complete`: whether every required column
    has a value once the PDU's other varbinds are applied. Returns the state after, None for no row. Raises
    SetError with the code of the table's cell.
    """
    if requested is None:
        if current is None:
            if not implicit_create:
                raise SetError("inconsistentName", "no such row; its RowStatus column creates it")
            return RowStatus.notInService if complete else RowStatus.notReady
        if current is RowStatus.notReady:
            return RowStatus.notInService if complete else RowStatus.notReady
        return current
    match requested:
        case RowStatus.notReady:
            raise SetError("wrongValue", "notReady is only ever read")
        case RowStatus.createAndGo:
            if current is not None:
                raise SetError("inconsistentValue", "the row exists")
            if not complete:
                raise SetError("inconsistentValue", "required columns have no value")
            return RowStatus.active
        case RowStatus.createAndWait:
            if current is not None:
                raise SetError("inconsistentValue", "the row exists")
            if not create_and_wait:
                raise SetError("wrongValue", "createAndWait is not offered by this table")
            return RowStatus.notInService if complete else RowStatus.notReady
        case RowStatus.active | RowStatus.notInService:
            if current is None:
                raise SetError("inconsistentValue", "no such row")
            if current is RowStatus.notReady and not complete:
                raise SetError("inconsistentValue", "required columns have no value")
            return requested
        case RowStatus.destroy:
            return None
    raise SetError("wrongValue")


def check_storage(
    current: StorageType | None, requested: StorageType | None, *, destroys: bool, changes: bool
) -> None:
    """RFC 2579's rules of StorageType. Raises SetError.

    `current` is None for a row that the PDU creates. `changes`: the PDU sets a column other than StorageType.
    A permanent row may change but not go, a readOnly row neither; no row becomes or leaves permanent or
    readOnly by SET, and `other` is for the agent to give.
    """
    fixed = (StorageType.permanent, StorageType.readOnly)
    if current is StorageType.readOnly and (changes or destroys or requested not in (None, current)):
        raise SetError("notWritable", "the row's StorageType is readOnly")
    if current is StorageType.permanent and destroys:
        raise SetError("inconsistentValue", "the row's StorageType is permanent")
    if requested is None or requested is current:
        return
    if current in fixed:
        raise SetError("wrongValue", f"the row's StorageType stays {current.name if current else ''}")
    if requested in (*fixed, StorageType.other):
        raise SetError("wrongValue", f"no row becomes {requested.name} by SET")


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of a `RowStore`: its state, StorageType and the values of its other columns by object name."""

    status: RowStatus
    storage: StorageType = StorageType.nonVolatile
    values: Mapping[str, Any] = field(default_factory=dict)


class RowStore(Protocol):
    """Where the rows of one table live."""

    def load(self, model: Any, index: IndexValues) -> StoredRow | None:
        """The row as it is now."""
        ...

    def check(
        self, model: Any, index: IndexValues, before: StoredRow | None, after: StoredRow | None
    ) -> None:
        """Whether the row may become `after` (None: be removed). Raises SetError, `column` naming the
        culprit: inconsistentValue, inconsistentName or wrongValue as RFC 3416 section 4.2.5 tells them apart.
        """
        ...

    def change(
        self, model: Any, index: IndexValues, before: StoredRow | None, after: StoredRow | None
    ) -> Change:
        """The change that makes it so."""
        ...


@dataclass(frozen=True, slots=True)
class RowStatusWriter:
    """Row writer of a table with a RowStatus column.

    `required`: columns without which a row is notReady. `defaults`: DEFVALs that a new row starts with.
    `fixed_while_active`: columns that cannot be set while the row stays active (inconsistentValue); all
    others may. A SET that takes the row out of service in the same PDU may change them.
    """

    store: RowStore
    status: str
    storage: str | None = None
    required: Collection[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed_while_active: Collection[str] = ()
    create_and_wait: bool = True
    implicit_create: bool = False

    def test(self, model: Any, row: Any | None, index: IndexValues, values: Mapping[str, Any]) -> Change:
        before = self.store.load(model, index)
        requested = RowStatus(values[self.status]) if self.status in values else None
        columns = {name: v for name, v in values.items() if name not in (self.status, self.storage)}
        new_storage = StorageType(values[self.storage]) if self.storage and self.storage in values else None
        if requested is RowStatus.destroy:
            return self._destroy(model, index, before)
        merged = {**(self.defaults if before is None else before.values), **columns}
        complete = all(name in merged for name in self.required)
        try:
            status = next_status(
                before.status if before else None,
                requested,
                complete,
                create_and_wait=self.create_and_wait,
                implicit_create=self.implicit_create,
            )
        except SetError as error:
            error.column = self.status if requested is not None else None
            raise
        assert status is not None
        self._storage(before, new_storage, bool(columns) or requested is not None)
        if before is not None and before.status is RowStatus.active and status is RowStatus.active:
            for name, value in columns.items():
                if name in self.fixed_while_active and before.values.get(name) != value:
                    raise SetError("inconsistentValue", f"{name} is fixed while the row is active", name)
        storage = new_storage or (before.storage if before else StorageType.nonVolatile)
        after = StoredRow(status, storage, merged)
        self.store.check(model, index, before, after)
        return self.store.change(model, index, before, after)

    def _destroy(self, model: Any, index: IndexValues, before: StoredRow | None) -> Change:
        if before is None:
            return Nothing()
        try:
            check_storage(before.storage, None, destroys=True, changes=False)
            self.store.check(model, index, before, None)
        except SetError as error:
            error.column = error.column or self.status
            raise
        return self.store.change(model, index, before, None)

    def _storage(self, before: StoredRow | None, requested: StorageType | None, changes: bool) -> None:
        try:
            check_storage(before.storage if before else None, requested, destroys=False, changes=changes)
        except SetError as error:
            if requested is not None and error.code.name == "wrongValue":
                error.column = self.storage
            raise


@dataclass(slots=True)
class Nothing:
    """The change that changes nothing (destroy of a row that is not there)."""

    merge_key: object | None = None

    def merge(self, other: Any) -> Change:
        return self

    def commit(self) -> None:
        return None

    def undo(self) -> None:
        return None


@dataclass(slots=True)
class Assign:
    """A change made of two calls, each plain or a coroutine function."""

    do: Callable[[], Awaitable[None] | None]
    back: Callable[[], Awaitable[None] | None]
    merge_key: object | None = None

    def merge(self, other: Any) -> Change:
        raise TypeError("Assign has no merge_key and is never merged")

    def commit(self) -> Awaitable[None] | None:
        return self.do()

    def undo(self) -> Awaitable[None] | None:
        return self.back()


TEST_AND_INCR_MAX = 2147483647


class TestAndIncr:
    """An advisory lock (RFC 2579 TestAndIncr): getter and ScalarWriter of one scalar.

    A SET must give the value that a GET would return, else inconsistentValue; the value then moves on by one
    and from 2^31-1 to 0. RFC 2579 asks for a start that differs from the last run's: pass one.
    """

    __test__ = False

    def __init__(self, value: int = 0) -> None:
        if not 0 <= value <= TEST_AND_INCR_MAX:
            raise ValueError("a TestAndIncr is 0 to 2147483647")
        self.value = value

    def test(self, model: Any, value: int) -> Change:
        if value != self.value:
            raise SetError("inconsistentValue", "another manager was first")
        return Assign(lambda: self._move((value + 1) & TEST_AND_INCR_MAX), lambda: self._move(value))

    def _move(self, value: int) -> None:
        self.value = value

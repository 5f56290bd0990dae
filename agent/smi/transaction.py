"""SET as one transaction over the whole PDU (RFC 3416 section 4.2.5).

Test everything, then commit; when a commit fails, undo what was done. Nothing is visible to anyone before
every varbind has passed its tests.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.smi.ber import Oid
from agent.smi.bound import BoundColumn, BoundScalar, BoundTable, Leaf
from agent.smi.errors import ErrorStatus, SetError
from agent.smi.index import BadIndex
from agent.smi.model import Change

if TYPE_CHECKING:
    from agent.smi.controller import Access, Controller

log = logging.getLogger(__name__)


class SetVarBind(NamedTuple):
    """A varbind of a SetRequest-PDU: OID, and the value's tag and contents octets."""

    oid: Oid
    tag: int
    content: bytes


@dataclass(frozen=True, slots=True)
class SetOutcome:
    """error-status and error-index (1 for the first varbind, 0 for none) of the response."""

    status: ErrorStatus
    index: int


DONE = SetOutcome(ErrorStatus.noError, 0)


class _Refused(Exception):
    def __init__(self, error: SetError, position: int) -> None:
        self.error = error
        self.outcome = SetOutcome(error.code, position + 1)
        super().__init__(str(error))


@dataclass(slots=True)
class _Tested:
    change: Change
    position: int


@dataclass(slots=True)
class _RowGroup:
    """All varbinds of the PDU that name one row of a table with a row writer."""

    leaf: BoundColumn
    key: Oid
    index: tuple[Any, ...]
    row: Any | None
    values: dict[str, Any] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)


class Transaction:
    """One SET PDU."""

    def __init__(self, controller: Controller, access: Access, context: str = "") -> None:
        self._controller = controller
        self._access = access
        self._view = controller.view(access, context)

    async def run(self, varbinds: Sequence[SetVarBind], timeout: float) -> SetOutcome:
        """Test and commit. Never raises but for cancellation, and then only after undoing."""
        try:
            tested = self._test(varbinds)
        except _Refused as refused:
            log.debug("SET refused: %s at %d", refused, refused.outcome.index)
            return refused.outcome
        return await self._commit(tested, timeout)

    # -- test ---------------------------------------------------------------------------------------------

    def _test(self, varbinds: Sequence[SetVarBind]) -> list[_Tested]:
        seen: dict[Oid, tuple[int, bytes]] = {}
        groups: dict[tuple[int, Oid], _RowGroup] = {}
        judges: list[tuple[int, Callable[[], Change], dict[str, int]]] = []
        for position, varbind in enumerate(varbinds):
            try:
                earlier = seen.get(varbind.oid)
                if earlier is not None:
                    # RFC 3416 leaves repeated names open; contradicting ones must not half succeed.
                    if earlier != (varbind.tag, varbind.content):
                        raise SetError("inconsistentValue", "the same variable twice with different values")
                    continue
                seen[varbind.oid] = (varbind.tag, varbind.content)
                self._judge(position, varbind, groups, judges)
            except SetError as error:
                raise _Refused(error, position) from None
            except Exception:
                log.exception("SET test failed at varbind %d", position + 1)
                raise _Refused(SetError("genErr"), position) from None
        tested: list[_Tested] = []
        for position, judge, positions in judges:
            try:
                tested.append(_Tested(judge(), position))
            except SetError as error:
                raise _Refused(error, positions.get(error.column or "", position)) from None
            except Exception:
                log.exception("SET test failed at varbind %d", position + 1)
                raise _Refused(SetError("genErr"), position) from None
        return self._merge(tested)

    def _judge(
        self,
        position: int,
        varbind: SetVarBind,
        groups: dict[tuple[int, Oid], _RowGroup],
        judges: list[tuple[int, Callable[[], Change], dict[str, int]]],
    ) -> None:
        """Steps 1 to 9 of section 4.2.5 for one varbind, and a deferred call of its writer for the others."""
        if not self._access.allows(varbind.oid):
            raise SetError("noAccess")
        leaf = self._controller.find(varbind.oid)
        if leaf is None or not leaf.object.is_writable or not _has_writer(leaf):
            raise SetError("notWritable")
        value = leaf.codec.decode(varbind.tag, varbind.content)
        model = self._view.context.model
        if isinstance(leaf, BoundScalar):
            if varbind.oid != leaf.instance:
                raise SetError("noCreation", "a scalar has the one instance 0")
            scalar_writer = leaf.binding.writer
            assert scalar_writer is not None
            judges.append((position, lambda: scalar_writer.test(model, value), {}))
            return
        table: BoundTable = leaf.table
        key = varbind.oid[len(leaf.oid) :]
        try:
            index = table.index.decode(key)
        except BadIndex as error:
            raise SetError("noCreation", str(error)) from None
        row = self._view.row(table, key)
        if row is None and leaf.object.access != "read-create":
            raise SetError("noCreation", "no such row, and the table's rows are not made by SET")
        name = leaf.object.name
        row_writer = table.binding.writer
        if row_writer is None:
            column_writer = leaf.binding.writer
            assert column_writer is not None
            judges.append((position, lambda: column_writer.test(model, row, index, value), {}))
            return
        group = groups.get((id(table), key))
        if group is None:
            group = groups[id(table), key] = made = _RowGroup(leaf, key, index, row)
            judges.append((position, lambda: row_writer.test(model, row, index, made.values), made.positions))
        group.values[name] = value
        group.positions[name] = position

    def _merge(self, tested: list[_Tested]) -> list[_Tested]:
        merged: list[_Tested] = []
        first: dict[object, _Tested] = {}
        for item in tested:
            key = item.change.merge_key
            if key is None or key not in first:
                merged.append(item)
                if key is not None:
                    first[key] = item
                continue
            try:
                first[key].change = first[key].change.merge(item.change)
            except SetError as error:
                raise _Refused(error, item.position) from None
            except Exception:
                log.exception("SET changes could not be merged at varbind %d", item.position + 1)
                raise _Refused(SetError("genErr"), item.position) from None
        return merged

    # -- commit -------------------------------------------------------------------------------------------

    async def _commit(self, tested: Sequence[_Tested], timeout: float) -> SetOutcome:
        begun: list[_Tested] = []
        try:
            async with asyncio.timeout(timeout):
                for item in tested:
                    begun.append(item)
                    await _call(item.change.commit)
        except asyncio.CancelledError:
            await self._undo(begun, timeout)
            raise
        except Exception as error:
            failed = begun[-1].position if begun else 0
            reason = f"no answer in {timeout:g} s" if isinstance(error, TimeoutError) else repr(error)
            log.warning("SET commit failed at varbind %d: %s", failed + 1, reason)
            if await self._undo(begun, timeout):
                return SetOutcome(ErrorStatus.commitFailed, failed + 1)
            return SetOutcome(ErrorStatus.undoFailed, 0)
        return DONE

    async def _undo(self, begun: Sequence[_Tested], timeout: float) -> bool:
        """Undo in reverse order, all of them even when one fails; whether all succeeded."""
        clean = True
        for item in reversed(begun):
            try:
                async with asyncio.timeout(timeout):
                    await _call(item.change.undo)
            except Exception as error:
                clean = False
                log.error("SET undo failed at varbind %d: %r", item.position + 1, error)
        return clean


def _has_writer(leaf: Leaf) -> bool:
    if isinstance(leaf, BoundScalar):
        return leaf.binding.writer is not None
    return leaf.table.binding.writer is not None or leaf.binding.writer is not None


async def _call(function: Callable[[], Awaitable[None] | None]) -> None:
    result = function()
    if inspect.isawaitable(result):
        await result

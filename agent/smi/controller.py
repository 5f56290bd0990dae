"""The controller: read, read_next and write over the bound objects of all modules.

One `View` serves one PDU: whatever table it touches is looked up in one snapshot, taken when the PDU first
asks for it. Access is decided by the `Access` that the engine hands in and is asked for every varbind.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Protocol

from agent.smi import ber
from agent.smi.bindings import ModuleBinding
from agent.smi.bound import BoundColumn, BoundModule, BoundScalar, BoundTable, Leaf, bind
from agent.smi.counters import LimitedLog, SmiCounters
from agent.smi.errors import BindingError, ErrorStatus
from agent.smi.snapshot import TableSnapshot, read_scalar
from agent.smi.transaction import SetOutcome, SetVarBind, Transaction
from mibs.loader import MibSet

limited = LimitedLog(logging.getLogger(__name__))


class Access(Protocol):
    """One MIB view of one requester (RFC 3415), for one PDU."""

    def allows(self, oid: ber.Oid) -> bool:
        """Whether an instance is in the view."""
        ...

    def covers(self, prefix: ber.Oid) -> bool | None:
        """Whether all (True) or none (False) of the instances below `prefix` are in the view; None: some."""
        ...


class Everything:
    """The view of tests and of callers that have decided access before."""

    def allows(self, oid: ber.Oid) -> bool:
        return True

    def covers(self, prefix: ber.Oid) -> bool | None:
        return True


class ReadError(Exception):
    """A varbind that could not be read: genErr of RFC 3416 section 4.2.1."""

    def __init__(self, code: ErrorStatus = ErrorStatus.genErr) -> None:
        self.code = code
        super().__init__(code.name)


class Controller:
    """All bound modules over one model."""

    def __init__(self, bindings: Sequence[ModuleBinding], mibs: MibSet, model: Any) -> None:
        """Bind and check every module. Raises BindingError with all faults of all modules."""
        self.model = model
        self.mibs = mibs
        self.counters = SmiCounters()
        self.modules: list[BoundModule] = []
        faults = []
        for binding in bindings:
            try:
                self.modules.append(bind(binding, mibs))
            except BindingError as error:
                faults.append(str(error))
        if faults:
            raise BindingError("\n".join(faults))
        self.leaves: list[Leaf] = sorted(
            (leaf for module in self.modules for leaf in module.leaves), key=lambda leaf: leaf.oid
        )
        self.oids = [leaf.oid for leaf in self.leaves]
        for before, after in zip(self.leaves, self.leaves[1:], strict=False):
            if before.oid == after.oid:
                raise BindingError(f"{before.object} and {after.object} are bound at the same OID")
        self._snapshots: dict[int, TableSnapshot] = {}
        self._writing = asyncio.Lock()

    def view(self, access: Access | None = None) -> View:
        """A consistent view for one PDU."""
        return View(self, access or Everything())

    def find(self, oid: ber.Oid) -> Leaf | None:
        """The bound scalar or column that an instance's OID belongs to."""
        position = bisect_right(self.oids, oid) - 1
        if position < 0:
            return None
        leaf = self.leaves[position]
        return leaf if oid[: len(leaf.oid)] == leaf.oid else None

    def snapshot(self, table: BoundTable) -> TableSnapshot:
        """The current snapshot of a table, rebuilt when the model's stamp has changed. May raise ReadError."""
        try:
            generation = self.model.generation(table.domain)
            kept = self._snapshots.get(id(table))
            if kept is not None and kept.generation == generation:
                return kept
            fresh = TableSnapshot(table, self.model, generation, self.counters)
        except Exception as error:
            self.counters.rows_errors += 1
            limited.warning(f"{table.object}/rows", "%s: cannot be read: %r", table.object, error)
            raise ReadError from error
        self._snapshots[id(table)] = fresh
        return fresh

    async def write(
        self, varbinds: Sequence[SetVarBind], access: Access | None = None, timeout: float = 5.0
    ) -> SetOutcome:
        """One SET PDU: all or nothing (RFC 3416 section 4.2.5). Never raises but when cancelled.

        SETs run one after the other, so that what one has tested still holds when it commits. One whose turn
        does not come within `timeout` seconds is resourceUnavailable.
        """
        try:
            # waiting counts too: a SET made after its manager has given up would surprise everybody
            async with asyncio.timeout(timeout):
                await self._writing.acquire()
        except TimeoutError:
            limited.warning("busy", "SET refused: those before it took more than %g s", timeout)
            return SetOutcome(ErrorStatus.resourceUnavailable, 0)
        try:
            return await Transaction(self, access or Everything()).run(varbinds, timeout)
        finally:
            self._writing.release()


class View:
    """What one PDU sees."""

    __slots__ = ("_snapshots", "access", "controller")

    def __init__(self, controller: Controller, access: Access) -> None:
        self.controller = controller
        self.access = access
        self._snapshots: dict[int, TableSnapshot] = {}

    def snapshot(self, table: BoundTable) -> TableSnapshot:
        """The PDU's snapshot of a table. May raise ReadError."""
        snapshot = self._snapshots.get(id(table))
        if snapshot is None:
            snapshot = self._snapshots[id(table)] = self.controller.snapshot(table)
        return snapshot

    def row(self, table: BoundTable, key: ber.Oid) -> Any | None:
        """The row object with an index suffix, None when there is none. May raise ReadError."""
        snapshot = self.snapshot(table)
        position = snapshot.find(key)
        return None if position < 0 else snapshot.rows[position]

    def read(self, oid: ber.Oid) -> bytes:
        """GET: the finished VarBind, holding a value, noSuchObject or noSuchInstance. May raise ReadError."""
        leaf = self.controller.find(oid)
        if leaf is None or self.access.covers(leaf.oid) is False:
            return ber.varbind(ber.oid_content(oid), ber.NO_SUCH_OBJECT)
        if not self.access.allows(oid):
            return ber.varbind(ber.oid_content(oid), ber.NO_SUCH_INSTANCE)
        found: bytes | None = None
        if isinstance(leaf, BoundScalar):
            if oid == leaf.instance:
                found = read_scalar(leaf, self.controller.model, self.controller.counters)
        else:
            snapshot = self.snapshot(leaf.table)
            position = snapshot.find(oid[len(leaf.oid) :])
            if position >= 0:
                found = snapshot.cell(leaf, position)
        return found or ber.varbind(ber.oid_content(oid), ber.NO_SUCH_INSTANCE)

    def cursor(self, oid: ber.Oid) -> Cursor:
        """A walk that starts after `oid`; each `advance` is one GETNEXT."""
        return Cursor(self, oid)

    def read_next(self, oid: ber.Oid, skip_counter64: bool = False) -> tuple[ber.Oid, bytes]:
        """GETNEXT: (OID, finished VarBind); at the end the request's OID with endOfMibView."""
        cursor = Cursor(self, oid, skip_counter64)
        varbind = cursor.advance()
        return cursor.oid, varbind


class Cursor:
    """A place between two instances in OID order."""

    __slots__ = ("_leaf", "_row", "_skip_counter64", "_start", "ended", "oid", "view")

    def __init__(self, view: View, oid: ber.Oid, skip_counter64: bool = False) -> None:
        self.view = view
        self.oid = oid
        self.ended = False
        self._skip_counter64 = skip_counter64
        oids = view.controller.oids
        # The leaf that may hold a later instance: the last one at or before `oid`, if `oid` is inside it.
        position = bisect_right(oids, oid) - 1
        if position >= 0 and oid[: len(oids[position])] == oids[position]:
            self._leaf = position
            self._start: ber.Oid | None = oid[len(oids[position]) :]
        else:
            self._leaf = position + 1
            self._start = None
        self._row = 0

    def advance(self) -> bytes:
        """Step to the next instance in view and give its VarBind, or endOfMibView. May raise ReadError."""
        view = self.view
        controller, access = view.controller, view.access
        leaves = controller.leaves
        while self._leaf < len(leaves):
            leaf = leaves[self._leaf]
            covers = access.covers(leaf.oid)
            if covers is False or (self._skip_counter64 and leaf.codec.tag == ber.COUNTER64):
                self._next_leaf()
                continue
            varbind = self._first_of(leaf, covers)
            if varbind is not None:
                return varbind
            self._next_leaf()
        self.ended = True
        return ber.varbind(ber.oid_content(self.oid), ber.END_OF_MIB_VIEW)

    def _first_of(self, leaf: Leaf, covers: bool | None) -> bytes | None:
        if isinstance(leaf, BoundScalar):
            return self._scalar(leaf, covers)
        return self._column(leaf, covers)

    def _next_leaf(self) -> None:
        self._leaf += 1
        self._row = 0
        self._start = None

    def _scalar(self, leaf: BoundScalar, covers: bool | None) -> bytes | None:
        before = self._start is None or self._start < (0,)
        if not before or self._row or not (covers or self.view.access.allows(leaf.instance)):
            return None
        self._row = 1
        controller = self.view.controller
        varbind = read_scalar(leaf, controller.model, controller.counters)
        if varbind is not None:
            self.oid = leaf.instance
        return varbind

    def _column(self, leaf: BoundColumn, covers: bool | None) -> bytes | None:
        snapshot = self.view.snapshot(leaf.table)
        if self._start is not None:
            self._row = snapshot.after(self._start)
            self._start = None
        while True:
            position, varbind = snapshot.next_cell(leaf, self._row)
            if varbind is None:
                return None
            self._row = position + 1
            oid = leaf.oid + snapshot.keys[position]
            if covers or self.view.access.allows(oid):
                self.oid = oid
                return varbind


__all__ = ["Access", "Controller", "Cursor", "Everything", "ReadError", "View"]

"""The controller: read, read_next and write over the bound objects of all modules, in one or more contexts.

One `View` serves one PDU: each table that it touches is brought up to date when the PDU first asks for it and
not again. Access is decided by the `Access` that the engine hands in and is asked for every varbind.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from agent.smi import ber, keys
from agent.smi.background import Background
from agent.smi.bindings import ModuleBinding
from agent.smi.bound import BoundModule, BoundScalar, BoundTable, Leaf, bind
from agent.smi.counters import LimitedLog, SmiCounters
from agent.smi.errors import BindingError, ErrorStatus, NoSuchContext, ReadError
from agent.smi.store import ContextStore
from agent.smi.tablestore import TableStore
from agent.smi.transaction import SetOutcome, SetVarBind, Transaction
from mibs.loader import MibSet

limited = LimitedLog(logging.getLogger(__name__))

ATTEND_INTERVAL = 0.2
"""Seconds between two looks at whether large tables have changed."""


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
        self._background = Background()
        self._contexts: dict[str, ContextStore] = {}
        self._attending: asyncio.TimerHandle | None = None
        self._preparing = False
        self._writing = asyncio.Lock()
        self.add_context("", model)

    # -- contexts -------------------------------------------------------------------------------------------

    def context(self, name: str) -> ContextStore | None:
        """What a context answers from; the empty name is the default context."""
        return self._contexts.get(name)

    @property
    def contexts(self) -> tuple[str, ...]:
        """The names of all contexts, the default context's first."""
        return tuple(self._contexts)

    def add_context(self, name: str, model: Any) -> ContextStore:
        """A further context: the same modules over another model. Raises ValueError when the name is taken."""
        if name in self._contexts:
            raise ValueError(f"there is a context {name!r}")
        made = ContextStore(name, model, self.leaves, self.counters, self._background)
        self._contexts[name] = made
        return made

    def remove_context(self, name: str) -> None:
        """Forget a context. Raises KeyError when there is none, ValueError for the default context."""
        if not name:
            raise ValueError("the default context stays")
        del self._contexts[name]

    def prepare(self) -> None:
        """Bring large tables of all contexts up to date before they are asked for (ContextStore.preparing)."""
        for _ in self._prepare():
            pass

    def attend(self) -> None:
        """Prepare now and again and again in the running event loop, a table at a time, until `leave`."""
        self.leave()
        if not self._preparing:
            self._preparing = True
            self._background.start(self._prepare())
        self._attending = asyncio.get_running_loop().call_later(ATTEND_INTERVAL, self.attend)

    def _prepare(self) -> Iterator[None]:
        try:
            for context in list(self._contexts.values()):
                yield from context.preparing()
        finally:
            self._preparing = False

    def leave(self) -> None:
        """Stop to attend."""
        if self._attending is not None:
            self._attending.cancel()
            self._attending = None

    # -- one PDU --------------------------------------------------------------------------------------------

    def view(self, access: Access | None = None, context: str = "") -> View:
        """A consistent view of a context for one PDU. Raises NoSuchContext."""
        store = self._contexts.get(context)
        if store is None:
            raise NoSuchContext(context)
        return View(self, access or Everything(), store)

    def find(self, oid: ber.Oid) -> Leaf | None:
        """The bound scalar or column that an instance's OID belongs to."""
        position = bisect_right(self.oids, oid) - 1
        if position < 0:
            return None
        leaf = self.leaves[position]
        return leaf if oid[: len(leaf.oid)] == leaf.oid else None

    async def write(
        self,
        varbinds: Sequence[SetVarBind],
        access: Access | None = None,
        timeout: float = 5.0,
        context: str = "",
        patience: float | None = None,
    ) -> SetOutcome:
        """One SET PDU: all or nothing (RFC 3416 section 4.2.5).

        SETs run one after the other, so that what one has tested still holds when it commits. One whose turn
        does not come within `patience` (else `timeout`) seconds is resourceUnavailable. Raises NoSuchContext,
        and nothing else but when cancelled.
        """
        try:
            # waiting counts too: a SET made after its manager has given up would surprise everybody
            async with asyncio.timeout(timeout if patience is None else patience):
                await self._writing.acquire()
        except TimeoutError:
            limited.warning("busy", "SET refused: those before it took more than %g s", timeout)
            return SetOutcome(ErrorStatus.resourceUnavailable, 0)
        try:
            return await Transaction(self, access or Everything(), context).run(varbinds, timeout)
        finally:
            self._writing.release()


class View:
    """What one PDU sees."""

    __slots__ = ("_fresh", "access", "context", "controller")

    def __init__(self, controller: Controller, access: Access, context: ContextStore) -> None:
        self.controller = controller
        self.access = access
        self.context = context
        self._fresh: set[int] = set()

    def table(self, table: BoundTable) -> TableStore:
        """A table as the PDU sees it. May raise ReadError."""
        store = self.context.tables[id(table)]
        if id(table) not in self._fresh:
            store.refresh()
            self._fresh.add(id(table))
        return store

    def row(self, table: BoundTable, key: ber.Oid) -> Any | None:
        """The row object with an index suffix, None when there is none. May raise ReadError."""
        return self.table(table).row(keys.pack(key))

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
                found = self.scalar(leaf)
        else:
            found = self.table(leaf.table).cell(leaf, keys.pack(oid[len(leaf.oid) :]))
        return found or ber.varbind(ber.oid_content(oid), ber.NO_SUCH_INSTANCE)

    def scalar(self, leaf: BoundScalar) -> bytes | None:
        """The finished VarBind of a scalar's instance, None when it does not exist."""
        return self.context.scalars[id(leaf)].value()

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

    __slots__ = ("_after", "_leaf", "_skip_counter64", "ended", "oid", "view")

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
            self._after: bytes | None = keys.pack(oid[len(oids[position]) :])
        else:
            self._leaf = position + 1
            self._after = None

    def advance(self) -> bytes:
        """Step to the next instance in view and give its VarBind, or endOfMibView. May raise ReadError."""
        view = self.view
        controller, access = view.controller, view.access
        leaves = controller.leaves
        while self._leaf < len(leaves):
            leaf = leaves[self._leaf]
            covers = access.covers(leaf.oid)
            if covers is not False and not (self._skip_counter64 and leaf.codec.tag == ber.COUNTER64):
                varbind = self._first_of(leaf, covers)
                if varbind is not None:
                    return varbind
            self._leaf += 1
            self._after = None
        self.ended = True
        return ber.varbind(ber.oid_content(self.oid), ber.END_OF_MIB_VIEW)

    def _first_of(self, leaf: Leaf, covers: bool | None) -> bytes | None:
        """The leaf's next instance in view."""
        if isinstance(leaf, BoundScalar):
            return self._scalar(leaf, covers)
        table = self.view.table(leaf.table)
        while True:
            found = table.following(leaf, self._after)
            if found is None:
                return None
            self._after, varbind = found
            oid = leaf.oid + keys.unpack(self._after)
            if covers or self.view.access.allows(oid):
                self.oid = oid
                return varbind

    def _scalar(self, leaf: BoundScalar, covers: bool | None) -> bytes | None:
        if self._after is not None and self._after >= keys.SCALAR_KEY:
            return None
        if not (covers or self.view.access.allows(leaf.instance)):
            return None
        varbind = self.view.scalar(leaf)
        if varbind is not None:
            self.oid = leaf.instance
            self._after = keys.SCALAR_KEY
        return varbind


__all__ = ["Access", "Controller", "Cursor", "Everything", "NoSuchContext", "ReadError", "View"]

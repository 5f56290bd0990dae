"""Bindings joined with the compiled MIB, and everything that can be wrong with them.

`bind` is called when a MIB module's bindings are loaded. It raises one BindingError that lists every fault by
module and object, so that an object of the MIB without a binding fails at start and in a test, not in a walk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.smi import ber
from agent.smi.bindings import Column, ModuleBinding, Scalar, Table
from agent.smi.errors import BindingError
from agent.smi.index import IndexCodec
from agent.smi.syntax import Codec, codec
from mibs.loader import MibSet, Object, UnknownObject

MAX_HEADS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class BoundScalar:
    """A scalar with its OID (without .0) and codec."""

    object: Object
    binding: Scalar
    codec: Codec
    oid: ber.Oid
    instance: ber.Oid
    name_content: bytes


@dataclass(frozen=True, slots=True, eq=False)
class BoundColumn:
    """A column with its OID and codec. `position` is its place among the table's bound columns.

    `heads` remembers how VarBinds of the column begin, by `sizes`.
    """

    object: Object
    binding: Column
    codec: Codec
    oid: ber.Oid
    name_content: bytes
    position: int
    table: BoundTable
    heads: dict[int, bytes] = field(default_factory=dict, repr=False)

    def head(self, sizes: int) -> bytes:
        """A VarBind up to the index in its name. `sizes`: the octets of the index << 16 | those of the value."""
        head = self.heads.get(sizes)
        if head is None:
            name = b"\x06" + ber.length(len(self.name_content) + (sizes >> 16)) + self.name_content
            head = b"\x30" + ber.length(len(name) + (sizes >> 16) + (sizes & 0xFFFF)) + name
            if len(self.heads) < MAX_HEADS:
                self.heads[sizes] = head
        return head


@dataclass(slots=True, eq=False)
class BoundTable:
    """A table with its index codec and columns in OID order."""

    object: Object
    binding: Table
    index: IndexCodec
    domain: str
    columns: tuple[BoundColumn, ...] = ()


Leaf = BoundScalar | BoundColumn


@dataclass(frozen=True, slots=True)
class BoundModule:
    """One module's leaves in OID order."""

    name: str
    leaves: tuple[Leaf, ...]
    tables: tuple[BoundTable, ...]


def bind(binding: ModuleBinding, mibs: MibSet) -> BoundModule:
    """Check a module's bindings against the compiled MIB and join both. Raises BindingError."""
    return _Binder(binding, mibs).run()


class _Binder:
    def __init__(self, binding: ModuleBinding, mibs: MibSet) -> None:
        self.binding = binding
        self.mibs = mibs
        self.faults: list[str] = []
        self.bound: dict[str, Leaf] = {}

    def run(self) -> BoundModule:
        name = self.binding.name
        if name not in self.mibs.modules:
            raise BindingError(f"{name}: the module is not among the compiled MIBs")
        tables = []
        for scalar in self.binding.scalars:
            self._scalar(scalar)
        for table in self.binding.tables:
            bound = self._table(table)
            if bound is not None:
                tables.append(bound)
        self._completeness()
        if self.faults:
            raise BindingError("\n".join(self.faults))
        leaves = sorted(self.bound.values(), key=lambda leaf: leaf.oid)
        return BoundModule(name, tuple(leaves), tuple(tables))

    def _fault(self, name: str, text: str) -> None:
        self.faults.append(f"{self.binding.name}::{name}: {text}")

    def _find(self, name: str, kind: str) -> Object | None:
        try:
            found = self.mibs[f"{self.binding.name}::{name}"]
        except UnknownObject:
            self._fault(name, f"bound as {kind}, but the module defines no such object")
            return None
        if found.kind != kind:
            self._fault(name, f"bound as {kind}, but it is a {found.kind}")
            return None
        return found

    def _codec(self, found: Object) -> Codec | None:
        if found.syntax is None:
            self._fault(found.name, "has no SYNTAX")
            return None
        if not found.is_readable:
            self._fault(found.name, f"bound, but its MAX-ACCESS is {found.access or 'empty'}")
            return None
        try:
            return codec(found.syntax, self._resolve)
        except ValueError as error:
            self._fault(found.name, str(error))
            return None

    def _resolve(self, name: str) -> ber.Oid:
        try:
            return self.mibs[name].oid
        except UnknownObject as error:
            raise ValueError(str(error)) from None

    def _add(self, name: str, leaf: Leaf) -> None:
        if name in self.bound:
            self._fault(name, "bound twice")
        self.bound[name] = leaf

    def _scalar(self, scalar: Scalar) -> None:
        found = self._find(scalar.name, "scalar")
        if found is None:
            return
        made = self._codec(found)
        if made is None:
            return
        if scalar.writer is not None and not found.is_writable:
            self._fault(scalar.name, f"has a writer, but its MAX-ACCESS is {found.access}")
        instance = (*found.oid, 0)
        self._add(
            scalar.name, BoundScalar(found, scalar, made, found.oid, instance, ber.oid_content(instance))
        )

    def _table(self, table: Table) -> BoundTable | None:
        found = self._find(table.name, "table")
        if found is None:
            return None
        try:
            row = self.mibs[f"{self.binding.name}::{found.row}"]
            index = IndexCodec.of_row(row, self.mibs)
        except (UnknownObject, ValueError) as error:
            self._fault(table.name, str(error))
            return None
        if (table.subjects is None) != (table.rows_of is None):
            self._fault(table.name, "subjects and rows_of need each other")
        if table.rows is None and table.subjects is None:
            self._fault(table.name, "neither rows nor subjects say where its rows are")
        bound = BoundTable(found, table, index, table.domain or table.name)
        writable = False
        columns: list[BoundColumn] = []
        for column in table.columns:
            definition = self._find(column.name, "column")
            if definition is None:
                continue
            if definition.row != row.name:
                self._fault(column.name, f"bound in {table.name}, but it is a column of {definition.row}")
                continue
            made = self._codec(definition)
            if made is None:
                continue
            if column.writer is not None and not definition.is_writable:
                self._fault(column.name, f"has a writer, but its MAX-ACCESS is {definition.access}")
            writable = writable or definition.is_writable
            oid = definition.oid
            columns.append(
                BoundColumn(definition, column, made, oid, ber.oid_content(oid), len(columns), bound)
            )
            self._add(column.name, columns[-1])
        if table.writer is not None and not writable:
            self._fault(table.name, "has a writer, but no bound column is writable")
        bound.columns = tuple(columns)
        return bound

    def _completeness(self) -> None:
        covered: dict[ber.Oid, str] = {}
        for name, reason in self.binding.not_served.items():
            if not reason.strip():
                self._fault(name, "listed in not_served without a reason")
            try:
                node = self.mibs[f"{self.binding.name}::{name}"]
            except UnknownObject:
                self._fault(name, "listed in not_served, but the module defines no such node")
                continue
            covered[node.oid] = name
        used: set[str] = set()
        for found in self._accessible():
            cover = next(
                (covered[found.oid[:n]] for n in range(len(found.oid), 0, -1) if found.oid[:n] in covered),
                None,
            )
            if cover is not None:
                used.add(cover)
            if found.name in self.bound:
                if cover is not None:
                    self._fault(found.name, f"bound and also covered by not_served {cover}")
            elif cover is None and found.status != "obsolete":
                self._fault(found.name, "neither bound nor listed in not_served")
        for name in covered.values():
            if name not in used:
                self._fault(name, "listed in not_served, but nothing accessible lies below it")

    def _accessible(self) -> Iterable[Object]:
        module = self.mibs.modules[self.binding.name]
        return (o for o in module.objects if o.kind in ("scalar", "column") and o.is_readable)

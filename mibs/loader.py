"""The compiled MIB modules as typed facts: every object with its OID, its syntax down to the base type, and
its INDEX.

`load()` reads one file, `mibs/compiled/index.json`, which `python -m mibs.build` writes from `mibs/src` and
`mibs/base`; it takes a few milliseconds and imports nothing but the standard library.  Everything returned is
frozen and may be shared between threads.  Words are those of RFC 2578 to 2580: MAX-ACCESS, STATUS, INDEX,
IMPLIED, AUGMENTS, textual convention.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

Oid = tuple[int, ...]
Kind = Literal[
    "node", "scalar", "table", "row", "column", "notification", "group", "notification-group", "compliance"
]
Access = Literal["", "not-accessible", "accessible-for-notify", "read-only", "read-write", "read-create"]
Base = Literal[
    "Integer32",
    "Unsigned32",
    "Counter32",
    "Gauge32",
    "Counter64",
    "TimeTicks",
    "OCTET STRING",
    "OBJECT IDENTIFIER",
    "IpAddress",
    "Opaque",
    "BITS",
]

COMPILED = Path(__file__).resolve().parent / "compiled"
INDEX_FILE = "index.json"
FORMAT = 1
"""Version of the layout of index.json; build.py writes it and `load` refuses any other."""

INTEGER_BASES: frozenset[str] = frozenset(
    ("Integer32", "Unsigned32", "Counter32", "Gauge32", "Counter64", "TimeTicks")
)


class MibError(Exception):
    """The compiled modules are missing, unreadable, or were written by another version of build.py."""


class UnknownObject(KeyError):
    """No loaded module defines the name, or several do and it was asked for without its module."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "unknown object"


@dataclass(frozen=True, slots=True)
class Syntax:
    """A SYNTAX clause resolved through its textual conventions down to the base type.

    `name` is what the object's SYNTAX says ('TruthValue', 'Counter64', 'INTEGER', ...) and `module` the
    module that defines that name ('' for a type of SMIv2 itself).  `types` are the textual conventions passed
    on the way down, the nearest first.  `named` holds an enumeration's numbers, or the bit positions of BITS.
    `ranges` are the permitted values of an integer and `sizes` the permitted lengths in octets of an OCTET
    STRING, both as inclusive pairs, the narrowest clause that applies; empty means the base type's own
    limits.  `hint` is the DISPLAY-HINT in effect.
    """

    name: str
    base: Base
    module: str = ""
    types: tuple[str, ...] = ()
    named: tuple[tuple[str, int], ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    hint: str = ""

    @property
    def is_enumeration(self) -> bool:
        """True for an INTEGER with named numbers (RFC 2578 section 7.1.1)."""
        return self.base == "Integer32" and bool(self.named)

    @property
    def fixed_size(self) -> int | None:
        """The one length an OCTET STRING may have, or None when it varies; decides how an INDEX is encoded."""
        if len(self.sizes) == 1 and self.sizes[0][0] == self.sizes[0][1]:
            return self.sizes[0][0]
        return None

    def number(self, name: str) -> int:
        """The number (or bit position) of a label.  KeyError names the labels there are."""
        for label, number in self.named:
            if label == name:
                return number
        raise KeyError(
            f"{self.name} has no {name!r}, only {', '.join(label for label, _ in self.named) or 'none'}"
        )

    def label(self, number: int) -> str | None:
        """The label of a number (or bit position), None when it has none."""
        for label, candidate in self.named:
            if candidate == number:
                return label
        return None

    def permits(self, value: int) -> bool:
        """Whether an integer satisfies the enumeration and ranges (not: whether it fits the base type's
        encoding).
        """
        if self.named and self.base != "BITS":
            return any(number == value for _, number in self.named)
        return not self.ranges or any(low <= value <= high for low, high in self.ranges)

    def permits_size(self, octets: int) -> bool:
        """Whether an OCTET STRING of this many octets satisfies SIZE."""
        return not self.sizes or any(low <= octets <= high for low, high in self.sizes)


@dataclass(frozen=True, slots=True)
class IndexPart:
    """One component of an INDEX clause: the column's name, the module that defines it, and IMPLIED."""

    name: str
    module: str
    implied: bool = False


@dataclass(frozen=True, slots=True)
class Object:
    """One definition of a MIB module.

    For a row, `index` is its INDEX (taken from the row that it AUGMENTS, if it does) and `columns` its
    columns in order of their sub-identifier.  A table names its row and a column its row in `row`.  `objects`
    are the OBJECTS of a notification, the members of a group, or the groups that a compliance statement
    names.  `default` is the DEFVAL: an int (also for an enumeration), the labels of BITS joined by ', ', an
    OCTET STRING as text or as hex after 0x, or None.
    """

    name: str
    module: str
    oid: Oid
    kind: Kind
    syntax: Syntax | None = None
    access: Access = ""
    status: str = ""
    index: tuple[IndexPart, ...] = ()
    augments: str = ""
    row: str = ""
    columns: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    units: str = ""
    default: int | str | None = None

    @property
    def is_readable(self) -> bool:
        """True when GET and GETNEXT may return it."""
        return self.access in ("read-only", "read-write", "read-create")

    @property
    def is_writable(self) -> bool:
        """True when MAX-ACCESS lets SET change it."""
        return self.access in ("read-write", "read-create")

    def __str__(self) -> str:
        return f"{self.module}::{self.name}"


@dataclass(frozen=True, slots=True)
class Module:
    """One MIB module: `identity` is its MODULE-IDENTITY's descriptor ('' when it has none), `revision` the
    newest LAST-UPDATED as written ('' likewise), `folder` where its source lies ('src': served by the agent;
    'base': only imported), `imports` the modules it takes definitions from, `objects` in the order of their
    OIDs, `types` its textual conventions by name.
    """

    name: str
    folder: str
    identity: str = ""
    revision: str = ""
    imports: tuple[str, ...] = ()
    objects: tuple[Object, ...] = field(default=(), repr=False)
    types: Mapping[str, Syntax] = field(default_factory=dict, repr=False)


class MibSet:
    """The loaded modules, looked up by name and by OID.  `str` names may be 'sysUpTime' or
    'SNMPv2-MIB::sysUpTime'.
    """

    def __init__(self, modules: Iterable[Module]) -> None:
        self.modules: Mapping[str, Module] = {module.name: module for module in modules}
        self._names: dict[str, list[Object]] = {}
        for module in self.modules.values():
            for definition in module.objects:
                self._names.setdefault(definition.name, []).append(definition)

    def __getitem__(self, name: str) -> Object:
        """The definition of a name.  Raises UnknownObject, which says what to write instead when it is
        ambiguous.
        """
        module, separator, bare = name.rpartition("::")
        found = [o for o in self._names.get(bare, ()) if not separator or o.module == module]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownObject(f"{name} is ambiguous: write one of {', '.join(map(str, found))}")
        raise UnknownObject(f"no loaded MIB module defines {name}")

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and bool(self[name])
        except UnknownObject:
            return False

    def __iter__(self) -> Iterator[Object]:
        """All definitions, in the order of their OIDs."""
        return iter(self._sorted)

    def __len__(self) -> int:
        return len(self._sorted)

    @cached_property
    def _sorted(self) -> tuple[Object, ...]:
        every = (definition for module in self.modules.values() for definition in module.objects)
        return tuple(sorted(every, key=lambda o: (o.oid, o.kind == "node", o.module)))

    @cached_property
    def _oids(self) -> dict[Oid, Object]:
        # reversed: of several definitions at one OID the first in order (never a bare node) wins
        return {definition.oid: definition for definition in reversed(self._sorted)}

    def by_oid(self, oid: Oid) -> Object | None:
        """The definition registered at exactly this OID."""
        return self._oids.get(tuple(oid))

    def resolve(self, oid: Oid) -> tuple[Object, Oid] | None:
        """The nearest definition at or above an OID, and what is left below it (the instance part, as a
        rule).
        """
        oid = tuple(oid)
        for length in range(len(oid), 0, -1):
            found = self._oids.get(oid[:length])
            if found is not None:
                return found, oid[length:]
        return None

    def under(self, oid: Oid) -> tuple[Object, ...]:
        """All definitions at or below an OID, in order."""
        oid = tuple(oid)
        keys = self._keys
        start = bisect_right(keys, (*oid[:-1], oid[-1] - 1, 2**32)) if oid else 0
        end = bisect_right(keys, (*oid, 2**32)) if oid else len(keys)
        return tuple(o for o in self._sorted[start:end] if o.oid[: len(oid)] == oid)

    @cached_property
    def _keys(self) -> list[Oid]:
        return [definition.oid for definition in self._sorted]

    def of_kind(self, *kinds: Kind, module: str | None = None) -> tuple[Object, ...]:
        """The definitions of these kinds, of one module or of all, in the order of their OIDs."""
        source = self._sorted if module is None else self.modules[module].objects
        return tuple(definition for definition in source if definition.kind in kinds)

    def text(self, oid: Oid) -> str:
        """An OID as people write it, 'SNMPv2-MIB::sysUpTime.0', for messages; dotted numbers when nothing is
        near.
        """
        found = self.resolve(oid)
        if found is None or len(found[0].oid) < 7:
            return ".".join(map(str, oid))
        return ".".join((str(found[0]), *map(str, found[1])))


def load(names: Iterable[str] | None = None, compiled: Path | None = None) -> MibSet:
    """Load the compiled modules: all, or those named and every module they import, directly or not.

    Raises MibError when there is no compiled index (and says which command makes it), when it cannot be read,
    or when a named module is not in it.
    """
    path = (compiled or COMPILED) / INDEX_FILE
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MibError(f"{path}: the MIB modules are not compiled; run 'python -m mibs.build'") from None
    except (OSError, ValueError) as error:
        raise MibError(f"{path}: {error}; run 'python -m mibs.build --force'") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise MibError(
            f"{path}: written by another version of mibs/build.py; run 'python -m mibs.build --force'"
        )
    try:
        syntaxes = [_syntax(row) for row in data["syntaxes"]]
        wanted = _closure(data["modules"], names, path)
        return MibSet([_module(name, data["modules"][name], syntaxes) for name in wanted])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise MibError(f"{path}: damaged ({error!r}); run 'python -m mibs.build --force'") from error


def _closure(modules: Mapping[str, Any], names: Iterable[str] | None, path: Path) -> list[str]:
    if names is None:
        return list(modules)
    pending, wanted = list(names), set()
    for name in pending:
        if name not in modules:
            raise MibError(f"{path}: no module {name} in it, only {', '.join(sorted(modules))}")
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending.extend(modules[name]["imports"])
    return [name for name in modules if name in wanted]


def _pairs(rows: Iterable[Iterable[Any]]) -> tuple[tuple[Any, Any], ...]:
    return tuple((low, high) for low, high in rows)


def _syntax(row: Mapping[str, Any]) -> Syntax:
    return Syntax(
        name=row["name"],
        base=row["base"],
        module=row.get("module", ""),
        types=tuple(row.get("types", ())),
        named=_pairs(row.get("named", ())),
        ranges=_pairs(row.get("ranges", ())),
        sizes=_pairs(row.get("sizes", ())),
        hint=row.get("hint", ""),
    )


def _module(name: str, row: Mapping[str, Any], syntaxes: list[Syntax]) -> Module:
    return Module(
        name=name,
        folder=row["folder"],
        identity=row.get("identity", ""),
        revision=row.get("revision", ""),
        imports=tuple(row["imports"]),
        objects=tuple(_object(name, entry, syntaxes) for entry in row["objects"]),
        types={label: syntaxes[number] for label, number in row.get("types", {}).items()},
    )


def _object(module: str, row: Mapping[str, Any], syntaxes: list[Syntax]) -> Object:
    number = row.get("syntax")
    return Object(
        name=row["name"],
        module=module,
        oid=tuple(map(int, row["oid"].split("."))),
        kind=row["kind"],
        syntax=None if number is None else syntaxes[number],
        access=row.get("access", ""),
        status=row.get("status", ""),
        index=tuple(IndexPart(part[0], part[1], len(part) > 2) for part in row.get("index", ())),
        augments=row.get("augments", ""),
        row=row.get("row", ""),
        columns=tuple(row.get("columns", ())),
        objects=tuple(row.get("objects", ())),
        units=row.get("units", ""),
        default=row.get("default"),
    )

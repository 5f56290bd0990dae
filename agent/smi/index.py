"""INDEX values between Python and sub-identifiers (RFC 2578 section 7.7)."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

from agent.smi import keys
from agent.smi.ber import MAX_SUB_ID, MAX_SUB_IDS, Oid
from agent.smi.model import IndexValues
from agent.smi.syntax import Codec, codec
from mibs.loader import MibSet, Object, Syntax

_WORD = Struct(">I")


class BadIndex(ValueError):
    """Values that make no index, or sub-identifiers that are none."""


class IndexTooLong(BadIndex):
    """The instance's OID would have more than 128 sub-identifiers."""


class _Part:
    """One component. `encode` appends sub-identifiers, `decode` takes them from a position."""

    def __init__(self, name: str, syntax: Syntax, implied: bool) -> None:
        self.name = name
        self.syntax = syntax
        self.implied = implied
        self.codec: Codec = codec(syntax)

    def encode(self, value: Any, out: list[int]) -> None:
        try:
            native = self.codec.native(value)
        except (ValueError, TypeError, AttributeError) as error:
            raise BadIndex(f"{self.name}: {error}") from None
        self._encode(native, out)

    def _encode(self, native: Any, out: list[int]) -> None:
        raise NotImplementedError  # interface

    def decode(self, numbers: Oid, position: int) -> tuple[Any, int]:
        raise NotImplementedError  # interface


class _IntegerPart(_Part):
    def __init__(self, name: str, syntax: Syntax, implied: bool) -> None:
        super().__init__(name, syntax, implied)
        self._low, self._high = self.plain() or (0, -1)
        self._named: dict[Any, int] = {}
        for label, number in syntax.named:
            if 0 <= number <= MAX_SUB_ID:
                self._named[label] = self._named[number] = number

    def encode(self, value: Any, out: list[int]) -> None:
        if value.__class__ is int and self._low <= value <= self._high:
            out.append(value)
        elif value.__class__ in (int, str) and value in self._named:
            out.append(self._named[value])
        else:
            super().encode(value, out)

    def _encode(self, native: Any, out: list[int]) -> None:
        if native < 0 or native > MAX_SUB_ID:
            raise BadIndex(f"{self.name}: {native} is no sub-identifier")
        out.append(native)

    def decode(self, numbers: Oid, position: int) -> tuple[Any, int]:
        if position >= len(numbers):
            raise BadIndex(f"{self.name}: missing")
        value = numbers[position]
        if (self.syntax.base == "Integer32" and value > 0x7FFFFFFF) or not self.syntax.permits(value):
            raise BadIndex(f"{self.name}: {value} is outside {self.syntax.name}")
        return value, position + 1

    def plain(self) -> tuple[int, int] | None:
        """Least and greatest value, where all in between are values; None for other syntaxes."""
        syntax = self.syntax
        if len(syntax.ranges) > 1 or syntax.named or syntax.base in ("Counter32", "TimeTicks"):
            return None
        most = 0x7FFFFFFF if syntax.base == "Integer32" else MAX_SUB_ID
        first, last = syntax.ranges[0] if syntax.ranges else (0, most)
        return max(first, 0), min(last, most)


class _StringPart(_Part):
    """OCTET STRING (fixed, variable or IMPLIED), BITS, Opaque and IpAddress (always four octets)."""

    def __init__(self, name: str, syntax: Syntax, implied: bool) -> None:
        super().__init__(name, syntax, implied)
        self.fixed = 4 if syntax.base == "IpAddress" else syntax.fixed_size
        self._sizes: frozenset[int] = frozenset()
        if syntax.base == "OCTET STRING" and self.fixed is None and not implied:
            self._sizes = frozenset(size for size in range(MAX_SUB_IDS) if syntax.permits_size(size))

    def encode(self, value: Any, out: list[int]) -> None:
        if value.__class__ is bytes and len(value) in self._sizes:
            out.append(len(value))
            out.extend(value)
        else:
            super().encode(value, out)

    def _encode(self, native: Any, out: list[int]) -> None:
        if self.fixed is None and not self.implied:
            out.append(len(native))
        elif self.implied and not native:
            raise BadIndex(f"{self.name}: an IMPLIED string is never empty")
        out.extend(native)

    def decode(self, numbers: Oid, position: int) -> tuple[Any, int]:
        if self.fixed is not None:
            size = self.fixed
        elif self.implied:
            size = len(numbers) - position
            if size == 0:
                raise BadIndex(f"{self.name}: an IMPLIED string is never empty")
        else:
            if position >= len(numbers):
                raise BadIndex(f"{self.name}: missing")
            size = numbers[position]
            position += 1
        octets = numbers[position : position + size]
        if len(octets) != size or any(number > 255 for number in octets):
            raise BadIndex(f"{self.name}: no octet string")
        if not self.syntax.permits_size(size):
            raise BadIndex(f"{self.name}: {size} octets are outside {self.syntax.name}")
        return bytes(octets), position + size


class _OidPart(_Part):
    """`least`: 1 where an OID of one sub-identifier is an index, because it is never shown as a value."""

    least = 2  # RFC 2578 §7.1.3: at least two sub-identifiers

    def encode(self, value: Any, out: list[int]) -> None:
        if self.least == 1 and value in ((0,), (1,), (2,)):
            self._encode(value, out)
        else:
            super().encode(value, out)

    def _encode(self, native: Any, out: list[int]) -> None:
        if not self.implied:
            out.append(len(native))
        out.extend(native)

    def decode(self, numbers: Oid, position: int) -> tuple[Any, int]:
        if self.implied:
            size = len(numbers) - position
        else:
            if position >= len(numbers):
                raise BadIndex(f"{self.name}: missing")
            size = numbers[position]
            position += 1
        value = numbers[position : position + size]
        if len(value) != size or size < self.least:
            raise BadIndex(f"{self.name}: no object identifier")
        # what cannot be encoded (1.99, 3.1) would make a row that nobody ever sees
        self.encode(tuple(value), [])
        return tuple(value), position + size


_INTEGERS = frozenset(("Integer32", "Unsigned32", "Gauge32", "Counter32", "TimeTicks"))


class IndexCodec:
    """The INDEX clause of one conceptual row."""

    def __init__(self, parts: Sequence[tuple[str, Syntax, bool]], column_oid_length: int) -> None:
        """`parts`: (name, SYNTAX, IMPLIED) in order. `column_oid_length`: sub-identifiers of a column."""
        self.parts = tuple(_part(*part) for part in parts)
        for part in self.parts[:-1]:
            if part.implied:
                raise ValueError(f"{part.name}: only the last INDEX object may be IMPLIED")
        self.room = MAX_SUB_IDS - column_oid_length
        # most tables are indexed by one integer: these need no more than a comparison
        self._single: tuple[int, int] | None = None
        if len(self.parts) == 1 and isinstance(self.parts[0], _IntegerPart) and self.room:
            self._single = self.parts[0].plain()

    @classmethod
    def of_row(cls, row: Object, mibs: MibSet) -> IndexCodec:
        """The codec of a conceptual row of the compiled MIB. Raises ValueError where it can have none."""
        parts = []
        hidden: set[str] = set()
        for part in row.index:
            definition = mibs[f"{part.module}::{part.name}"]
            if definition.syntax is None:
                raise ValueError(f"{row}: INDEX object {part.name} has no SYNTAX")
            parts.append((part.name, definition.syntax, part.implied))
            if definition.access == "not-accessible":
                hidden.add(part.name)
        if not parts:
            raise ValueError(f"{row}: no INDEX")
        made = cls(parts, len(row.oid) + 1)
        for made_part in made.parts:
            if isinstance(made_part, _OidPart) and made_part.name in hidden:
                # managers name the subtree 1 (iso) of a view so
                made_part.least = 1
        return made

    def encode(self, values: IndexValues) -> Oid:
        """Sub-identifiers of an instance.

        Raises IndexTooLong when the instance's OID would exceed 128 sub-identifiers, BadIndex for values
        that the INDEX clause does not admit.
        """
        if len(values) != len(self.parts):
            raise BadIndex(f"{len(values)} values for {len(self.parts)} INDEX objects")
        out: list[int] = []
        for part, value in zip(self.parts, values, strict=True):
            part.encode(value, out)
        if len(out) > self.room:
            raise IndexTooLong(f"{len(out)} sub-identifiers of index, room for {self.room}")
        return tuple(out)

    def key(self, values: IndexValues) -> bytes:
        """The packed key (agent.smi.keys) of an instance. Raises as `encode`."""
        single = self._single
        if single is not None and len(values) == 1:
            value = values[0]
            if value.__class__ is int and single[0] <= value <= single[1]:
                return _WORD.pack(value)
        return keys.pack(self.encode(values))

    def decode(self, numbers: Oid) -> IndexValues:
        """INDEX values of an instance's sub-identifiers. Raises BadIndex when they are no instance's."""
        values = []
        position = 0
        for part in self.parts:
            value, position = part.decode(numbers, position)
            values.append(value)
        if position != len(numbers):
            raise BadIndex(f"{len(numbers) - position} sub-identifiers too many")
        if len(numbers) > self.room:
            raise IndexTooLong("more than 128 sub-identifiers")
        return tuple(values)


def _part(name: str, syntax: Syntax, implied: bool) -> _Part:
    if syntax.base in _INTEGERS:
        return _IntegerPart(name, syntax, implied)
    if syntax.base == "OBJECT IDENTIFIER":
        return _OidPart(name, syntax, implied)
    if syntax.base in ("OCTET STRING", "IpAddress", "BITS", "Opaque"):
        return _StringPart(name, syntax, implied)
    raise ValueError(f"{name}: {syntax.base} cannot index a table")

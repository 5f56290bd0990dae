"""Values between Python and the wire, by the SYNTAX of the compiled MIB.

`Codec.encode` takes what a getter returns (see agent.smi.bindings) and gives a finished value TLV, or raises
ValueError when the value is outside its SYNTAX. `Codec.decode` takes the tag and contents octets of a SET and
gives what a writer sees (int, bytes or tuple[int, ...]), or raises SetError in the order of RFC 3416 section
4.2.5: wrongType, wrongLength, wrongEncoding, wrongValue.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from agent.smi import ber
from agent.smi.errors import SetError
from mibs.loader import Syntax

Resolver = Callable[[str], "ber.Oid"]
"""Gives the OID of a node's name, for OBJECT IDENTIFIER values returned by name."""

_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF


class Codec:
    """Encodes and decodes the values of one SYNTAX."""

    tag: int

    def __init__(self, syntax: Syntax) -> None:
        self.syntax = syntax

    def native(self, value: Any) -> Any:
        """What a getter returned, as int, bytes or tuple. Raises ValueError outside the SYNTAX."""
        raise NotImplementedError  # interface

    def encode(self, value: Any) -> bytes:
        """Value TLV. Raises ValueError outside the SYNTAX."""
        raise NotImplementedError  # interface

    def decode(self, tag: int, content: bytes) -> Any:
        """Value of a SET. Raises SetError."""
        raise NotImplementedError  # interface

    def _check_tag(self, tag: int) -> None:
        if tag != self.tag:
            raise SetError("wrongType", f"tag 0x{tag:02x} instead of 0x{self.tag:02x}")


class IntegerCodec(Codec):
    """Integer32, enumerations, Unsigned32, Gauge32, Counter32, Counter64, TimeTicks."""

    def __init__(self, syntax: Syntax) -> None:
        super().__init__(syntax)
        base = syntax.base
        self.tag = {
            "Integer32": ber.INTEGER,
            "Unsigned32": ber.GAUGE32,
            "Gauge32": ber.GAUGE32,
            "Counter32": ber.COUNTER32,
            "Counter64": ber.COUNTER64,
            "TimeTicks": ber.TIME_TICKS,
        }[base]
        self._signed = base == "Integer32"
        self._modulus = {"Counter32": _U32, "TimeTicks": _U32, "Counter64": _U64}.get(base)
        self._latch = base == "Gauge32"
        self._bits = 64 if base == "Counter64" else 32
        self._labels = dict(syntax.named)
        self._truth = "TruthValue" in (syntax.name, *syntax.types)
        self._encoded = {label: ber.integer(number, self.tag) for label, number in syntax.named}
        # between these every integer is a value and is encoded as it is
        self._low, self._high = self._plain()
        self._heads = tuple(bytes((self.tag, size)) for size in range(10))

    def _plain(self) -> tuple[int, int]:
        syntax = self.syntax
        if syntax.named or len(syntax.ranges) > 1:
            return 0, -1
        if self._modulus is not None:
            return 0, self._modulus
        low, high = (-0x80000000, 0x7FFFFFFF) if self._signed else (0, _U32)
        if syntax.ranges:
            low, high = max(low, syntax.ranges[0][0]), min(high, syntax.ranges[0][1])
        return low, high

    def native(self, value: Any) -> int:
        if value.__class__ is not int:
            if isinstance(value, str):
                if value not in self._labels:
                    raise ValueError(f"{value!r} is no label of {self.syntax.name}")
                return self._labels[value]
            if isinstance(value, bool) and self._truth:
                return 1 if value else 2
            if not isinstance(value, int):
                raise ValueError(f"{type(value).__name__} is no integer")
            value = int(value)
        if self._modulus is not None:
            if value < 0:
                raise ValueError(f"{value} is negative")
            return int(value) & self._modulus
        if self._latch and value > _U32:
            value = _U32
        if not self._fits(value) or not self.syntax.permits(value):
            raise ValueError(f"{value} is outside {self.syntax.name}")
        return int(value)

    def _fits(self, value: int) -> bool:
        return -0x80000000 <= value <= 0x7FFFFFFF if self._signed else 0 <= value <= _U32

    def encode(self, value: Any) -> bytes:
        if value.__class__ is int:
            if self._low <= value <= self._high:
                size = ((value if value >= 0 else ~value).bit_length() >> 3) + 1
                encoded: bytes = self._heads[size] + value.to_bytes(size, "big", signed=True)
                return encoded
        elif value.__class__ is str:
            label = self._encoded.get(value)
            if label is not None:
                return label
        return ber.integer(self.native(value), self.tag)

    def decode(self, tag: int, content: bytes) -> int:
        self._check_tag(tag)
        try:
            value = ber.parse_integer(content) if self._signed else ber.parse_unsigned(content, self._bits)
        except ber.BerError as error:
            raise SetError("wrongEncoding", str(error)) from None
        if not self.syntax.permits(value):
            raise SetError("wrongValue", f"{value} is outside {self.syntax.name}")
        return value


class OctetsCodec(Codec):
    """OCTET STRING and its textual conventions, Opaque."""

    def __init__(self, syntax: Syntax) -> None:
        super().__init__(syntax)
        self.tag = ber.OPAQUE if syntax.base == "Opaque" else ber.OCTET_STRING
        names = (syntax.name, *syntax.types)
        self._date = "DateAndTime" in names
        # RFC 2579: DisplayString is NVT ASCII, so text beyond it is shown as question marks
        self._ascii = "DisplayString" in names

    def native(self, value: Any) -> bytes:
        if isinstance(value, bytes | bytearray | memoryview):
            octets = bytes(value)
        elif isinstance(value, str):
            octets = value.encode("ascii", "replace") if self._ascii else value.encode("utf-8", "replace")
        elif self._date and isinstance(value, datetime | int | float):
            octets = date_and_time(value)
        elif isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address):
            octets = value.packed
        else:
            raise ValueError(f"{type(value).__name__} is no octet string")
        if not self.syntax.permits_size(len(octets)) or len(octets) > 65535:
            raise ValueError(f"{len(octets)} octets are outside {self.syntax.name}")
        return octets

    def encode(self, value: Any) -> bytes:
        return ber.tlv(self.tag, self.native(value))

    def decode(self, tag: int, content: bytes) -> bytes:
        self._check_tag(tag)
        if not self.syntax.permits_size(len(content)):
            raise SetError("wrongLength", f"{len(content)} octets are outside {self.syntax.name}")
        if self._ascii and any(octet > 0x7F for octet in content):
            raise SetError("wrongValue", "a DisplayString is ASCII")
        if self._date and not is_date_and_time(content):
            raise SetError("wrongValue", "no DateAndTime")
        return content


class IpAddressCodec(Codec):
    """IpAddress."""

    tag = ber.IP_ADDRESS

    def native(self, value: Any) -> bytes:
        if isinstance(value, str):
            value = ipaddress.IPv4Address(value)
        octets = value.packed if isinstance(value, ipaddress.IPv4Address) else value
        if not isinstance(octets, bytes) or len(octets) != 4:
            raise ValueError("an IpAddress has four octets")
        return octets

    def encode(self, value: Any) -> bytes:
        return b"\x40\x04" + self.native(value)

    def decode(self, tag: int, content: bytes) -> bytes:
        self._check_tag(tag)
        if len(content) != 4:
            raise SetError("wrongLength", "an IpAddress has four octets")
        return content


class OidCodec(Codec):
    """OBJECT IDENTIFIER and its textual conventions."""

    tag = ber.OBJECT_IDENTIFIER

    def __init__(self, syntax: Syntax, resolve: Resolver | None = None) -> None:
        super().__init__(syntax)
        self._resolve = resolve

    def native(self, value: Any) -> ber.Oid:
        if isinstance(value, str):
            text = value.lstrip(".")
            if text.replace(".", "").isdigit():
                value = tuple(map(int, text.split(".")))
            elif self._resolve is not None:
                value = self._resolve(value)
            else:
                raise ValueError(f"{value!r} names no OID")
        oid = tuple(value)
        ber.oid_content(oid)
        return oid if len(oid) > 1 else (0, 0)

    def encode(self, value: Any) -> bytes:
        return ber.tlv(ber.OBJECT_IDENTIFIER, ber.oid_content(self.native(value)))

    def decode(self, tag: int, content: bytes) -> ber.Oid:
        self._check_tag(tag)
        try:
            return ber.parse_oid(content)
        except ber.BerError as error:
            raise SetError("wrongEncoding", str(error)) from None


class BitsCodec(Codec):
    """BITS: bit 0 is the most significant bit of the first octet (RFC 3417 section 8)."""

    tag = ber.OCTET_STRING

    def __init__(self, syntax: Syntax) -> None:
        super().__init__(syntax)
        self._labels = dict(syntax.named)
        self._octets = (max(self._labels.values(), default=-1) + 8) // 8

    def native(self, value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError("BITS are an iterable of labels or bit numbers")
        octets = bytearray(self._octets)
        for item in value:
            bit = self._labels.get(item) if isinstance(item, str) else item
            if bit is None or bit not in self._labels.values():
                raise ValueError(f"{item!r} is no bit of {self.syntax.name}")
            octets[bit >> 3] |= 0x80 >> (bit & 7)
        return bytes(octets)

    def encode(self, value: Any) -> bytes:
        return ber.tlv(ber.OCTET_STRING, self.native(value))

    def decode(self, tag: int, content: bytes) -> bytes:
        self._check_tag(tag)
        known = set(self._labels.values())
        for number in range(len(content) * 8):
            if content[number >> 3] & (0x80 >> (number & 7)) and number not in known:
                raise SetError("wrongValue", f"{self.syntax.name} has no bit {number}")
        return content


def codec(syntax: Syntax, resolve: Resolver | None = None) -> Codec:
    """The codec of a SYNTAX. Raises ValueError for a base type that SMIv2 does not have."""
    match syntax.base:
        case "OCTET STRING" | "Opaque":
            return OctetsCodec(syntax)
        case "OBJECT IDENTIFIER":
            return OidCodec(syntax, resolve)
        case "IpAddress":
            return IpAddressCodec(syntax)
        case "BITS":
            return BitsCodec(syntax)
        case "Integer32" | "Unsigned32" | "Gauge32" | "Counter32" | "Counter64" | "TimeTicks":
            return IntegerCodec(syntax)
        case _:
            raise ValueError(f"no such base type: {syntax.base}")


def date_and_time(moment: datetime | float) -> bytes:
    """DateAndTime of RFC 2579; 8 octets for a naive datetime (local time), 11 with the offset from UTC."""
    if not isinstance(moment, datetime):
        try:
            moment = datetime.fromtimestamp(moment, UTC)
        except (OverflowError, OSError) as error:
            raise ValueError(f"{moment} is no time: {error}") from None
    octets = moment.year.to_bytes(2, "big") + bytes(
        (moment.month, moment.day, moment.hour, moment.minute, moment.second, moment.microsecond // 100_000)
    )
    offset = moment.utcoffset()
    if offset is None:
        return octets
    minutes = int(offset.total_seconds()) // 60
    sign, minutes = (b"-", -minutes) if minutes < 0 else (b"+", minutes)
    return octets + sign + bytes((minutes // 60, minutes % 60))


def is_date_and_time(octets: bytes) -> bool:
    """Whether octets are a DateAndTime (all zeroes, 'unknown' by custom, included)."""
    if len(octets) not in (8, 11):
        return False
    if not any(octets):
        return True
    year, month, day, hour, minute, second, deci = (int.from_bytes(octets[:2], "big"), *octets[2:8])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61 and deci < 10):
        return False
    return len(octets) == 8 or (octets[8] in b"+-" and octets[9] <= 13 and octets[10] < 60 and year >= 0)

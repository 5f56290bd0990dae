"""The subset of BER that SNMP uses (RFC 3417 section 8): definite lengths, SMIv2's application tags.

Contents are checked as strictly as a decoder of untrusted octets must: no length beyond its container, no
empty INTEGER, no OID of more than 128 sub-identifiers or with one above 2^32-1. Lengths in a longer form than
needed are accepted, as RFC 3417 asks of receivers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

Oid = tuple[int, ...]

INTEGER = 0x02
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
SEQUENCE = 0x30
IP_ADDRESS = 0x40
COUNTER32 = 0x41
GAUGE32 = 0x42
TIME_TICKS = 0x43
OPAQUE = 0x44
COUNTER64 = 0x46

NO_SUCH_OBJECT = b"\x80\x00"
NO_SUCH_INSTANCE = b"\x81\x00"
END_OF_MIB_VIEW = b"\x82\x00"
NULL_VALUE = b"\x05\x00"

MAX_SUB_IDS = 128
MAX_SUB_ID = 0xFFFFFFFF

MAX_OID_CONTENT = MAX_SUB_IDS * 5
"""Octets that 128 sub-identifiers can fill at most."""
CACHED_OID_CONTENT = 80
"""Longer contents are not remembered: their senders may be anybody."""

_UNSIGNED_TAGS = frozenset((COUNTER32, GAUGE32, TIME_TICKS))
_EMPTY_TAGS = frozenset((NULL, 0x80, 0x81, 0x82))


class BerError(ValueError):
    """The octets are not BER, or not what SNMP allows at this place."""


def length(size: int) -> bytes:
    """A definite length in the shortest form."""
    if size < 0x80:
        return bytes((size,))
    if size < 0x100:
        return bytes((0x81, size))
    if size < 0x10000:
        return bytes((0x82, size >> 8, size & 0xFF))
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(octets),)) + octets


def tlv(tag: int, content: bytes) -> bytes:
    """Tag, length and content."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    return bytes((tag,)) + length(size) + content


def integer(value: int, tag: int = INTEGER) -> bytes:
    """Two's complement in the fewest octets; unsigned types get the leading zero octet they need."""
    size = (value.bit_length() >> 3) + 1 if value >= 0 else ((value + 1).bit_length() >> 3) + 1
    return bytes((tag, size)) + value.to_bytes(size, "big", signed=True)


def _base128(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    octets = [number & 0x7F]
    number >>= 7
    while number:
        octets.append(0x80 | (number & 0x7F))
        number >>= 7
    return bytes(reversed(octets))


_BASE128 = tuple(_base128(number) for number in range(1024))


def sub_ids(numbers: Sequence[int]) -> bytes:
    """Contents octets of the sub-identifiers after the first two (an index suffix, or a column's tail)."""
    return b"".join([_BASE128[n] if n < 1024 else _base128(n) for n in numbers])


def oid_content(oid: Sequence[int]) -> bytes:
    """Contents octets of an OBJECT IDENTIFIER; zeroDotZero completes a shorter one. Raises BerError."""
    if len(oid) < 2:
        oid = (*oid, 0, 0)[:2]
    first, second = oid[0], oid[1]
    if first > 2 or first < 0 or (first < 2 and second > 39):
        raise BerError(f"no BER encoding for an OID that starts with {first}.{second}")
    if len(oid) > MAX_SUB_IDS or any(not 0 <= number <= MAX_SUB_ID for number in oid):
        raise BerError("an OID has at most 128 sub-identifiers, each below 2^32")
    return _base128(first * 40 + second) + sub_ids(oid[2:])


def parse_oid(content: bytes) -> Oid:
    """Contents octets of an OBJECT IDENTIFIER. Raises BerError."""
    return _parse_short_oid(content) if len(content) <= CACHED_OID_CONTENT else _parse_oid(content)


def _parse_oid(content: bytes) -> Oid:
    if len(content) > MAX_OID_CONTENT:
        raise BerError("an OID has more than 128 sub-identifiers")
    if not content or content[-1] & 0x80:
        raise BerError("OID content ends inside a sub-identifier")
    numbers: list[int] = []
    number = 0
    fresh = True
    for octet in content:
        if octet < 0x80:
            number = number << 7 | octet
            # the first number holds two sub-identifiers and may thus exceed 2^32-1 by 80
            if number > MAX_SUB_ID + (80 if not numbers else 0):
                raise BerError("a sub-identifier is above 2^32-1")
            numbers.append(number)
            number = 0
            fresh = True
        else:
            if fresh and octet == 0x80:
                raise BerError("a sub-identifier starts with a padding octet")
            fresh = False
            number = number << 7 | (octet & 0x7F)
            if number > MAX_SUB_ID:
                raise BerError("a sub-identifier is above 2^32-1")
    first = numbers[0]
    head = (first // 40, first % 40) if first < 80 else (2, first - 80)
    if len(numbers) + 1 > MAX_SUB_IDS:
        raise BerError("an OID has more than 128 sub-identifiers")
    return (*head, *numbers[1:])


_parse_short_oid = lru_cache(maxsize=4096)(_parse_oid)


def read(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Read one tag and length at `position`: (tag, start of content, end of content). Raises BerError."""
    if position + 2 > end:
        raise BerError("truncated tag or length")
    tag = data[position]
    if tag & 0x1F == 0x1F:
        raise BerError("high tag numbers are not used by SNMP")
    size = data[position + 1]
    start = position + 2
    if size & 0x80:
        octets = size & 0x7F
        if not 1 <= octets <= 4:
            raise BerError("indefinite or oversized length")
        if start + octets > end:
            raise BerError("truncated length")
        size = int.from_bytes(data[start : start + octets], "big")
        start += octets
    if start + size > end:
        raise BerError("a length exceeds its container")
    return tag, start, start + size


def expect(data: bytes, position: int, end: int, tag: int) -> tuple[int, int]:
    """Like `read`, for a tag that must be there: (start, end) of the content. Raises BerError."""
    found, start, stop = read(data, position, end)
    if found != tag:
        raise BerError(f"tag 0x{found:02x} where 0x{tag:02x} must be")
    return start, stop


def parse_integer(content: bytes, bits: int = 32) -> int:
    """Contents octets of an INTEGER that must fit into `bits` bits, two's complement. Raises BerError."""
    if not content or len(content) > 9:
        raise BerError("an INTEGER of no or too many octets")
    value = int.from_bytes(content, "big", signed=True)
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise BerError(f"an INTEGER of more than {bits} bits")
    return value


def parse_unsigned(content: bytes, bits: int = 32) -> int:
    """Contents octets of a Counter, Gauge32 or TimeTicks.

    Some managers send 2^31 and above without the leading zero octet; as long as the width fits they are read
    as what they mean. Raises BerError.
    """
    if not content or len(content) > bits // 8 + 1:
        raise BerError("an unsigned number of no or too many octets")
    value = int.from_bytes(content, "big")
    if value >> bits:
        raise BerError(f"an unsigned number of more than {bits} bits")
    return value


def check_value(tag: int, content: bytes) -> None:
    """Whether a varbind's value is one of SMIv2's types and decodes at all. Raises BerError."""
    if tag == INTEGER:
        parse_integer(content)
    elif tag in _UNSIGNED_TAGS:
        parse_unsigned(content)
    elif tag == COUNTER64:
        parse_unsigned(content, 64)
    elif tag == OBJECT_IDENTIFIER:
        parse_oid(content)
    elif tag in _EMPTY_TAGS:
        if content:
            raise BerError("a NULL or exception with content")
    elif tag == IP_ADDRESS:
        if len(content) != 4:
            raise BerError("an IpAddress of other than four octets")
    elif tag not in (OCTET_STRING, OPAQUE):
        raise BerError(f"tag 0x{tag:02x} is no SMIv2 type")


def varbind(name: bytes, value: bytes) -> bytes:
    """A VarBind from OID contents octets and a complete value TLV."""
    size = len(name)
    head = bytes((6, size)) if size < 0x80 else b"\x06" + length(size)
    size += len(head) + len(value)
    if size < 0x80:
        return bytes((0x30, size)) + head + name + value
    return b"\x30" + length(size) + head + name + value

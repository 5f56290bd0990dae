"""PDUs of RFC 3416 section 3, read and written without an ASN.1 library."""

from __future__ import annotations

from dataclasses import dataclass

from agent.smi import ber
from agent.smi.errors import ErrorStatus
from agent.smi.transaction import SetVarBind

GET = 0xA0
GETNEXT = 0xA1
RESPONSE = 0xA2
SET = 0xA3
V1_TRAP = 0xA4
GETBULK = 0xA5
INFORM = 0xA6
TRAP = 0xA7
REPORT = 0xA8

REQUESTS = frozenset((GET, GETNEXT, SET, GETBULK))
CONFIRMED = REQUESTS | {INFORM}
"""Confirmed class of RFC 3411: the requests, and InformRequest."""
OF_VERSION = {
    0: frozenset((GET, GETNEXT, RESPONSE, SET, V1_TRAP)),
    1: frozenset((GET, GETNEXT, RESPONSE, SET, GETBULK, INFORM, TRAP)),
}
"""PDU types of community-based messages by msgVersion (RFC 1157, RFC 3416). Nothing there sends Reports."""
NOT_IN_V1 = frozenset((0x80, 0x81, 0x82, ber.COUNTER64))
"""Tags of values that SNMPv1 has not (RFC 1157, RFC 3584 section 4.2.2.1)."""
_OF_V3 = frozenset((GET, GETNEXT, RESPONSE, SET, GETBULK, INFORM, TRAP, REPORT))


@dataclass(frozen=True, slots=True)
class RequestPdu:
    """A PDU of RFC 3416, a Get, GetNext, GetBulk or SetRequest-PDU for the most part.

    `first` and `second` are error-status and error-index, or non-repeaters and max-repetitions. `echo` is the
    contents of the variable-bindings field as received, for responses that repeat it.
    """

    type: int
    request_id: int
    first: int
    second: int
    varbinds: tuple[SetVarBind, ...]
    echo: bytes


def parse(data: bytes, position: int, end: int) -> RequestPdu:
    """Read a PDU that fills `data[position:end]`. Raises BerError."""
    kind, start, stop = ber.read(data, position, end)
    if stop != end:
        raise ber.BerError("octets after the PDU")
    if kind not in _OF_V3:
        raise ber.BerError(f"0x{kind:02x} is no PDU type")
    numbers = []
    for _ in range(3):
        first, last = ber.expect(data, start, stop, ber.INTEGER)
        numbers.append(ber.parse_integer(data[first:last]))
        start = last
    first, last = ber.expect(data, start, stop, ber.SEQUENCE)
    if last != stop:
        raise ber.BerError("octets after the variable-bindings")
    echo = data[first:last]
    varbinds = []
    while first < last:
        inner, after = ber.expect(data, first, last, ber.SEQUENCE)
        name, name_end = ber.expect(data, inner, after, ber.OBJECT_IDENTIFIER)
        tag, value, value_end = ber.read(data, name_end, after)
        if value_end != after:
            raise ber.BerError("octets after a value")
        content = data[value:value_end]
        ber.check_value(tag, content)
        varbinds.append(SetVarBind(ber.parse_oid(data[name:name_end]), tag, content))
        first = after
    return RequestPdu(kind, numbers[0], numbers[1], numbers[2], tuple(varbinds), echo)


def content(request_id: int, status: int, index: int, varbinds: bytes) -> bytes:
    """Contents octets of a Response- or Report-PDU around encoded VarBinds."""
    return b"".join(
        (ber.integer(request_id), ber.integer(status), ber.integer(index), ber.tlv(ber.SEQUENCE, varbinds))
    )


def response(request_id: int, status: ErrorStatus, index: int, varbinds: bytes) -> bytes:
    """A whole Response-PDU."""
    return ber.tlv(RESPONSE, content(request_id, status, index, varbinds))


def varbinds_room(budget: int, request_id: int, status: int = 0, index: int = 0) -> int:
    """Octets of VarBinds that a Response-PDU of at most `budget` octets can hold; negative when none can."""
    fixed = sum(len(ber.integer(number)) for number in (request_id, status, index))
    return inner_room(inner_room(budget) - fixed)


def inner_room(size: int) -> int:
    """Largest content whose tag-length-value has at most `size` octets; negative when there is none."""
    for overhead in (2, 3, 4, 5):
        room = size - overhead
        if room < 0:
            return -1
        if len(ber.length(room)) + 1 <= overhead:
            return room
    return size - 6

"""SNMP messages around PDUs: community-based ones of RFC 1901 and RFC 1157 whole, of RFC 3412 the frame."""

from __future__ import annotations

from dataclasses import dataclass

from agent.engine import pdu as pdus
from agent.smi import ber

V1 = 0
V2C = 1
V3 = 3
MIN_MAX_SIZE = 484
"""Smallest msgMaxSize that RFC 3412 section 6 lets an engine announce."""


@dataclass(frozen=True, slots=True)
class CommunityMessage:
    """A v1 or v2c message. `pdu` and `end` delimit the PDU in the datagram."""

    version: int
    community: bytes
    pdu: int
    end: int
    pdu_type: int


@dataclass(frozen=True, slots=True)
class V3Frame:
    """What is readable of a v3 message before any security processing. `flags_at`: offset of msgFlags' octet.

    `request_id` is that of a plaintext PDU, 0 when there is none.
    """

    message_id: int
    max_size: int
    flags: int
    flags_at: int
    security_model: int
    engine_id: bytes
    user: bytes
    request_id: int

    @property
    def reportable(self) -> bool:
        return bool(self.flags & 0x04)


def version(data: bytes) -> tuple[int, int, int]:
    """(msgVersion, where the rest starts, where it ends). Raises BerError."""
    start, end = ber.expect(data, 0, len(data), ber.SEQUENCE)
    first, last = ber.expect(data, start, end, ber.INTEGER)
    return ber.parse_integer(data[first:last]), last, end


def parse_community(data: bytes, number: int, position: int, end: int) -> CommunityMessage:
    """Read a v1 or v2c message after its version. Raises BerError."""
    if end != len(data):
        raise ber.BerError("octets after the message")
    first, last = ber.expect(data, position, end, ber.OCTET_STRING)
    kind, _, stop = ber.read(data, last, end)
    if stop != end:
        raise ber.BerError("octets after the PDU")
    return CommunityMessage(number, data[first:last], last, end, kind)


def community_message(number: int, community: bytes, pdu: bytes) -> bytes:
    """A whole v1 or v2c message."""
    head = ber.integer(number) + ber.tlv(ber.OCTET_STRING, community)
    return ber.tlv(ber.SEQUENCE, head + pdu)


def community_budget(max_size: int, community: bytes) -> int:
    """Octets that a PDU may have in a community-based message of at most `max_size` octets."""
    return pdus.inner_room(max_size) - 3 - len(ber.tlv(ber.OCTET_STRING, community))


def parse_v3(data: bytes, position: int, end: int) -> V3Frame:
    """Check the frame of a v3 message after its version, every length of it. Raises BerError."""
    if end != len(data):
        raise ber.BerError("octets after the message")
    start, header_end = ber.expect(data, position, end, ber.SEQUENCE)
    first, last = ber.expect(data, start, header_end, ber.INTEGER)
    message_id = ber.parse_integer(data[first:last])
    first, last = ber.expect(data, last, header_end, ber.INTEGER)
    max_size = ber.parse_integer(data[first:last])
    flags_at, last = ber.expect(data, last, header_end, ber.OCTET_STRING)
    if last != flags_at + 1:
        raise ber.BerError("msgFlags is one octet")
    first, stop = ber.expect(data, last, header_end, ber.INTEGER)
    security_model = ber.parse_integer(data[first:stop])
    if stop != header_end or message_id < 0 or max_size < MIN_MAX_SIZE or security_model < 1:
        raise ber.BerError("msgGlobalData is out of range")
    first, last = ber.expect(data, header_end, end, ber.OCTET_STRING)
    engine_id = user = b""
    if security_model == 3:
        engine_id, user = _usm_parameters(data, first, last)
    kind, first, stop = ber.read(data, last, end)
    if stop != end:
        raise ber.BerError("octets after msgData")
    request_id = 0
    if kind == ber.SEQUENCE:
        request_id = _scoped_pdu(data, first, stop)
    elif kind != ber.OCTET_STRING:
        raise ber.BerError("msgData is neither plaintext nor encrypted")
    encrypted = kind == ber.OCTET_STRING
    flags = data[flags_at]
    if encrypted != bool(flags & 0x02):
        raise ber.BerError("msgData is not what msgFlags says")
    return V3Frame(message_id, max_size, flags, flags_at, security_model, engine_id, user, request_id)


def _usm_parameters(data: bytes, position: int, end: int) -> tuple[bytes, bytes]:
    start, stop = ber.expect(data, position, end, ber.SEQUENCE)
    if stop != end:
        raise ber.BerError("octets after the security parameters")
    first, last = ber.expect(data, start, stop, ber.OCTET_STRING)
    engine_id = data[first:last]
    for _ in range(2):
        first, last = ber.expect(data, last, stop, ber.INTEGER)
        if ber.parse_integer(data[first:last]) < 0:
            raise ber.BerError("engine boots or time is negative")
    first, last = ber.expect(data, last, stop, ber.OCTET_STRING)
    user = data[first:last]
    if len(user) > 32:
        raise ber.BerError("msgUserName of more than 32 octets")
    for _ in range(2):
        first, last = ber.expect(data, last, stop, ber.OCTET_STRING)
    if last != stop:
        raise ber.BerError("octets after msgPrivacyParameters")
    return engine_id, user


def _scoped_pdu(data: bytes, position: int, end: int) -> int:
    first, last = ber.expect(data, position, end, ber.OCTET_STRING)
    first, last = ber.expect(data, last, end, ber.OCTET_STRING)
    kind, first, stop = ber.read(data, last, end)
    if stop != end:
        raise ber.BerError("octets after the PDU")
    if kind in pdus.REQUESTS:
        return pdus.parse(data, last, end).request_id
    first, last = ber.expect(data, first, stop, ber.INTEGER)
    return ber.parse_integer(data[first:last])


def report(
    frame: V3Frame, engine_id: bytes, boots: int, seconds: int, max_size: int, oid: ber.Oid, value: int
) -> bytes:
    """An unauthenticated Report (RFC 3412 section 7.1.3) that carries one counter."""
    varbind = ber.varbind(ber.oid_content(oid), ber.integer(value, ber.COUNTER32))
    pdu = ber.tlv(pdus.REPORT, pdus.content(frame.request_id, 0, 0, varbind))
    engine = ber.tlv(ber.OCTET_STRING, engine_id)
    empty = b"\x04\x00"
    scoped = ber.tlv(ber.SEQUENCE, engine + empty + pdu)
    parameters = ber.tlv(ber.SEQUENCE, engine + ber.integer(boots) + ber.integer(seconds) + empty * 3)
    header = ber.tlv(
        ber.SEQUENCE,
        ber.integer(frame.message_id) + ber.integer(max_size) + b"\x04\x01\x00" + ber.integer(3),
    )
    whole = ber.integer(V3) + header + ber.tlv(ber.OCTET_STRING, parameters) + scoped
    return ber.tlv(ber.SEQUENCE, whole)


def without_reportable(data: bytes) -> bytes:
    """An outgoing v3 message; if it is an unauthenticated Report, with the reportableFlag cleared.

    RFC 3412 section 6.4: a Report never asks for reports. pysnmp sets the flag in its own.
    """
    number, position, end = version(data)
    if number != V3:
        return data
    start, header_end = ber.expect(data, position, end, ber.SEQUENCE)
    _, last = ber.expect(data, start, header_end, ber.INTEGER)
    _, last = ber.expect(data, last, header_end, ber.INTEGER)
    flags_at, _ = ber.expect(data, last, header_end, ber.OCTET_STRING)
    if data[flags_at] != 0x04:
        return data
    _, last = ber.expect(data, header_end, end, ber.OCTET_STRING)
    first, stop = ber.expect(data, last, end, ber.SEQUENCE)
    for _ in range(2):
        _, first = ber.expect(data, first, stop, ber.OCTET_STRING)
    if data[first] != pdus.REPORT:
        return data
    return data[:flags_at] + b"\x00" + data[flags_at + 1 :]

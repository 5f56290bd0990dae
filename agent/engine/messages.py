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
    """What is readable of a v3 message before any security processing.

    `auth_at`: offset of msgAuthenticationParameters' octets in the datagram. `data` and `end` delimit msgData's
    contents: the ScopedPDU's where it is plaintext, the encryptedPDU's otherwise. `pdu_type` and
    `request_id` are those of a plaintext PDU, 0 when there is none.
    """

    message_id: int
    max_size: int
    flags: int
    security_model: int
    engine_id: bytes = b""
    boots: int = 0
    time: int = 0
    user: bytes = b""
    auth: bytes = b""
    auth_at: int = 0
    priv: bytes = b""
    data: int = 0
    end: int = 0
    pdu_type: int = 0
    request_id: int = 0

    @property
    def level(self) -> int:
        """securityLevel by msgFlags: 1 noAuthNoPriv, 2 authNoPriv, 3 authPriv; 0 for privacy alone."""
        return (1, 2, 0, 3)[self.flags & 0x03]

    @property
    def reportable(self) -> bool:
        """Whether a Report may answer (RFC 3412 section 6.4): by the PDU's class where it can be read, else by
        the reportableFlag.
        """
        return self.pdu_type in pdus.CONFIRMED if self.pdu_type else bool(self.flags & 0x04)


@dataclass(frozen=True, slots=True)
class ScopedPdu:
    """A ScopedPDU; `pdu` and `end` delimit its PDU in the octets that it was read from."""

    context_engine_id: bytes
    context: bytes
    pdu: int
    end: int
    pdu_type: int


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
    flags = data[flags_at]
    if security_model != 3 or flags & 0x03 == 0x02:
        # RFC 3412 section 7.2 steps 4 and 5d: discarded before anything else is looked at
        return V3Frame(message_id, max_size, flags, security_model)
    engine_id, boots, seconds, user, auth, auth_at, priv = _usm_parameters(data, first, last)
    kind, first, stop = ber.read(data, last, end)
    if stop != end:
        raise ber.BerError("octets after msgData")
    if kind not in (ber.SEQUENCE, ber.OCTET_STRING) or (kind == ber.OCTET_STRING) != bool(flags & 0x02):
        raise ber.BerError("msgData is not what msgFlags says")
    pdu_type = request_id = 0
    if kind == ber.SEQUENCE:
        scoped = parse_scoped(data, first, stop)
        pdu_type, request_id = scoped.pdu_type, _request_id(data, scoped)
    return V3Frame(
        message_id,
        max_size,
        flags,
        security_model,
        engine_id,
        boots,
        seconds,
        user,
        auth,
        auth_at,
        priv,
        first,
        stop,
        pdu_type,
        request_id,
    )


def _usm_parameters(data: bytes, position: int, end: int) -> tuple[bytes, int, int, bytes, bytes, int, bytes]:
    start, stop = ber.expect(data, position, end, ber.SEQUENCE)
    if stop != end:
        raise ber.BerError("octets after the security parameters")
    first, last = ber.expect(data, start, stop, ber.OCTET_STRING)
    engine_id = data[first:last]
    numbers = []
    for _ in range(2):
        first, last = ber.expect(data, last, stop, ber.INTEGER)
        numbers.append(ber.parse_integer(data[first:last]))
        if numbers[-1] < 0:
            raise ber.BerError("engine boots or time is negative")
    first, last = ber.expect(data, last, stop, ber.OCTET_STRING)
    user = data[first:last]
    if len(user) > 32:
        raise ber.BerError("msgUserName of more than 32 octets")
    auth_at, last = ber.expect(data, last, stop, ber.OCTET_STRING)
    auth = data[auth_at:last]
    first, last = ber.expect(data, last, stop, ber.OCTET_STRING)
    if last != stop:
        raise ber.BerError("octets after msgPrivacyParameters")
    return engine_id, numbers[0], numbers[1], user, auth, auth_at, data[first:last]


def parse_scoped(data: bytes, position: int, end: int) -> ScopedPdu:
    """Read the contents of a ScopedPDU. Raises BerError."""
    first, last = ber.expect(data, position, end, ber.OCTET_STRING)
    engine_id = data[first:last]
    first, last = ber.expect(data, last, end, ber.OCTET_STRING)
    kind, _, stop = ber.read(data, last, end)
    if stop != end:
        raise ber.BerError("octets after the PDU")
    return ScopedPdu(engine_id, data[first:last], last, end, kind)


def _request_id(data: bytes, scoped: ScopedPdu) -> int:
    # no more than this of a PDU is read before its sender is known: varbinds can be many
    _, first, stop = ber.read(data, scoped.pdu, scoped.end)
    first, last = ber.expect(data, first, stop, ber.INTEGER)
    return ber.parse_integer(data[first:last])


def v3_header(message_id: int, max_size: int, flags: int) -> bytes:
    """msgVersion and msgGlobalData of a message under USM."""
    header = ber.integer(message_id) + ber.integer(max_size) + bytes((4, 1, flags)) + ber.integer(3)
    return ber.integer(V3) + ber.tlv(ber.SEQUENCE, header)


def scoped_head(context_engine_id: bytes, context: bytes) -> bytes:
    """What precedes the PDU in a ScopedPDU's contents."""
    return ber.tlv(ber.OCTET_STRING, context_engine_id) + ber.tlv(ber.OCTET_STRING, context)


def report_pdu(request_id: int, oid: ber.Oid, value: int) -> bytes:
    """A Report-PDU that carries one counter (RFC 3412 section 7.1.3)."""
    varbind = ber.varbind(ber.oid_content(oid), ber.integer(value & 0xFFFFFFFF, ber.COUNTER32))
    return ber.tlv(pdus.REPORT, pdus.content(request_id, 0, 0, varbind))

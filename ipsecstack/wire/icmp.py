"""ICMP and ICMPv6 messages that packet processing makes (RFC 792, RFC 4443): 'too big' errors, and echo."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from ipsecstack.wire.ip import (
    OFFSET_MASK,
    PROTO_ICMP,
    PROTO_ICMPV6,
    Buffer,
    IPAddress,
    IPv4Header,
    IPv6Header,
    PacketError,
    checksum,
    ipv6_upper_layer,
)

_WITH_PORTS = frozenset((6, 17, 33, 132, 136))
_V4_ERRORS = frozenset((3, 4, 5, 11, 12))


def too_big(packet: Buffer, mtu: int) -> bytes | None:
    """The error for a packet that does not fit into ``mtu`` octets, as an IP packet to its sender, or None.

    IPv4: destination unreachable, fragmentation needed (RFC 1191 §4); IPv6: packet too big (RFC 4443 §3.2), which never
    tells less than 1280. The source is the packet's own destination: an address of this host would be dropped as
    forged when the error comes back in from a device. None where RFC 1122 §3.2.2 and RFC 4443 §2.4 forbid an error:
    about errors, later fragments and packets without one sender or one receiver.
    """
    try:
        return _too_big_v4(packet, mtu) if packet[0] >> 4 == 4 else _too_big_v6(packet, mtu)
    except PacketError:
        return None


def _too_big_v4(packet: Buffer, mtu: int) -> bytes | None:
    header = IPv4Header.parse(packet)
    start = 20 + len(header.options)
    about_error = header.protocol == PROTO_ICMP and len(packet) > start and packet[start] in _V4_ERRORS
    if header.fragment_offset & OFFSET_MASK or about_error or not _unicast(header.source, header.destination):
        return None
    # RFC 1812 §4.3.2.3: as much of the packet as fits into 576 octets.
    quoted = bytes(packet[: 576 - 28])
    body = _with_checksum(struct.pack("!BBHHH", 3, 4, 0, 0, min(mtu, 0xFFFF)) + quoted)
    out = IPv4Header(header.destination, header.source, PROTO_ICMP, 20 + len(body), tos=0xC0)
    return out.to_bytes() + body


def _too_big_v6(packet: Buffer, mtu: int) -> bytes | None:
    header = IPv6Header.parse(packet)
    protocol, offset, _ = ipv6_upper_layer(packet)
    about_error = protocol == PROTO_ICMPV6 and len(packet) > offset and packet[offset] < 128
    if about_error or header.source.is_multicast or header.source.is_unspecified:
        return None
    if header.destination.is_multicast:
        return None
    quoted = bytes(packet[: 1280 - 48])
    body = struct.pack("!BBHI", 2, 0, 0, max(mtu, 1280)) + quoted
    return _icmpv6(header.destination, header.source, body)


def answered_flow(packet: Buffer) -> bytes | None:
    """For an ICMP error, the flow key of an answer to the packet that it quotes; None for any other packet.

    RFC 4301 §6.2 lets an error pass where the traffic would that it is about. The error must go to who sent the quoted
    packet. What is quoted may be cut short: then the key has no ports.
    """
    try:
        if packet[0] >> 4 == 4:
            header = IPv4Header.parse(packet)
            start = 20 + len(header.options)
            if header.protocol != PROTO_ICMP or header.fragment_offset or packet[start] not in _V4_ERRORS:
                return None
            quoted = bytes(packet[start + 8 : header.total_length])
            if len(quoted) < 20 or quoted[0] >> 4 != 4 or quoted[12:16] != packet[16:20]:
                return None
            at, protocol, width = (quoted[0] & 15) * 4, quoted[9], 4
            later = bool((quoted[6] << 8 | quoted[7]) & OFFSET_MASK)
        else:
            protocol, start, later = ipv6_upper_layer(packet)
            if protocol != PROTO_ICMPV6 or later or not 1 <= packet[start] < 128:
                return None
            quoted = bytes(packet[start + 8 :])
            if len(quoted) < 40 or quoted[0] >> 4 != 6 or quoted[8:24] != packet[24:40]:
                return None
            protocol, at, later = ipv6_upper_layer(quoted)
            width = 16
    except (PacketError, IndexError):
        return None
    ends = quoted[12:20] if width == 4 else quoted[8:40]
    key = bytes((protocol,)) + ends[width:] + ends[:width]
    if later or protocol not in _WITH_PORTS or len(quoted) < at + 4:
        return key
    return key + quoted[at + 2 : at + 4] + quoted[at : at + 2]


def _unicast(*addresses: IPv4Address) -> bool:
    return not any(a.is_multicast or a.is_unspecified or int(a) == 0xFFFFFFFF for a in addresses)


def _with_checksum(body: bytes) -> bytes:
    return body[:2] + checksum(body).to_bytes(2, "big") + body[4:]


def _icmpv6(source: IPv6Address, destination: IPv6Address, body: bytes) -> bytes:
    pseudo = source.packed + destination.packed + struct.pack("!II", len(body), PROTO_ICMPV6)
    body = body[:2] + checksum(pseudo, body).to_bytes(2, "big") + body[4:]
    return IPv6Header(source, destination, PROTO_ICMPV6, len(body)).to_bytes() + body


def echo_request(
    source: IPAddress, destination: IPAddress, identifier: int, sequence: int, payload: bytes = b""
) -> bytes:
    """An echo request as an IP packet. Raises PacketError when the two addresses differ in version."""
    fields = struct.pack("!HHH", 0, identifier, sequence) + payload
    if isinstance(source, IPv4Address) and isinstance(destination, IPv4Address):
        body = _with_checksum(b"\x08\x00" + fields)
        return IPv4Header(source, destination, PROTO_ICMP, 20 + len(body)).to_bytes() + body
    if isinstance(source, IPv6Address) and isinstance(destination, IPv6Address):
        return _icmpv6(source, destination, b"\x80\x00" + fields)
    raise PacketError(f"{source} and {destination} are of different IP versions")


def echo_reply(packet: Buffer) -> bytes | None:
    """The answer to an echo request, or None when ``packet`` is something else."""
    try:
        if packet[0] >> 4 == 4:
            header = IPv4Header.parse(packet)
            body = bytes(packet[20 + len(header.options) : header.total_length])
            if header.protocol != PROTO_ICMP or header.fragment_offset or header.more_fragments:
                return None
            if len(body) < 8 or body[0] != 8 or checksum(body):
                return None
            body = _with_checksum(b"\0\0\0\0" + body[4:])
            reply = IPv4Header(header.destination, header.source, PROTO_ICMP, 20 + len(body), header.tos)
            return reply.to_bytes() + body
        header6 = IPv6Header.parse(packet)
        if header6.next_header != PROTO_ICMPV6 or header6.payload_length < 8 or packet[40] != 128:
            return None
        body = b"\x81\0\0\0" + bytes(packet[44 : 40 + header6.payload_length])
        return _icmpv6(header6.destination, header6.source, body)
    except (PacketError, IndexError):
        return None

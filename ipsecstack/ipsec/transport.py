"""Transport mode: IP headers around a protected payload, and checksums after a NAT (RFC 4303 §3.1.1, RFC 3948 §3)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from ipsecstack.ipsec.ah import set_length
from ipsecstack.wire.ah import insertion_point
from ipsecstack.wire.ip import (
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTO_UDP,
    Buffer,
    IPAddress,
    IPv4Header,
    IPv6Header,
    PacketError,
)

_DCCP, _UDP_LITE = 33, 136
# Where the checksum is in the protocols that take addresses into it (SCTP's does not).
_CHECKSUM_AT = {PROTO_TCP: 16, PROTO_UDP: 6, PROTO_ICMPV6: 2, _DCCP: 6, _UDP_LITE: 6}


class Parts(NamedTuple):
    """A packet taken apart: headers that stay in front, what is protected and its protocol.

    ``plain`` says that the headers are one IP header with nothing in it that a socket could not make again; ``named``
    is the octet in them that names what follows.
    """

    headers: bytes | memoryview
    named: int
    payload: bytes | memoryview
    protocol: int
    plain: bool


def take_apart(packet: bytes | memoryview) -> Parts:
    """What ESP or IPComp in transport mode protects of a packet. Raises PacketError when it is malformed."""
    at, named = insertion_point(packet)
    plain = at == (20 if packet[0] >> 4 == 4 else 40)
    return Parts(packet[:at], named, packet[at:], packet[named], plain)


def put_together(headers: Buffer, named: int, protocol: int, payload: Buffer) -> bytes:
    """A packet of these headers with another payload; lengths and checksum are made new. Raises PacketError."""
    out = bytearray(b"".join((headers, payload)))
    out[named] = protocol
    set_length(out)
    return bytes(out)


def new_header(source: IPAddress, destination: IPAddress, protocol: int, payload: Buffer, tos: int) -> bytes:
    """A packet with a header such as its sender may have made, of what a socket told. Raises PacketError."""
    if isinstance(source, IPv4Address) and isinstance(destination, IPv4Address):
        if 20 + len(payload) > 65535:
            raise PacketError(f"an IPv4 packet of {20 + len(payload)} octets")
        header = IPv4Header(source, destination, protocol, 20 + len(payload), tos, dont_fragment=True)
        return header.to_bytes() + payload
    if isinstance(source, IPv6Address) and isinstance(destination, IPv6Address):
        if len(payload) > 65535:
            raise PacketError(f"an IPv6 payload of {len(payload)} octets")
        return IPv6Header(source, destination, protocol, len(payload), tos).to_bytes() + payload
    raise PacketError(f"{source} and {destination} are of different IP versions")


def repair_checksum(packet: bytes, original_source: IPAddress, original_destination: IPAddress) -> bytes:
    """A decapsulated packet whose transport checksum its sender made with other addresses (RFC 3948 §3.1.2).

    The checksum is corrected by the difference (RFC 1624 §3), so that a wrong one stays wrong. Raises PacketError.
    """
    at, named = insertion_point(packet)
    where = _CHECKSUM_AT.get(packet[named])
    if where is None:
        return packet
    where += at
    if len(packet) < where + 2:
        raise PacketError("no room for the transport checksum")
    old = packet[where] << 8 | packet[where + 1]
    if packet[named] == PROTO_UDP and old == 0:
        return packet  # no checksum at all
    width = 4 if packet[0] >> 4 == 4 else 16
    ends = packet[12:20] if width == 4 else packet[8:40]
    total = (old ^ 0xFFFF) + _sum(ends) + 0xFFFF * 2 * width
    total -= _sum(original_source.packed) + _sum(original_destination.packed)
    new = (total % 0xFFFF or 0xFFFF) ^ 0xFFFF
    if packet[named] in (PROTO_UDP, _UDP_LITE) and new == 0:
        new = 0xFFFF
    return packet[:where] + new.to_bytes(2, "big") + packet[where + 2 :]


def _sum(octets: bytes) -> int:
    return sum(octets[i] << 8 | octets[i + 1] for i in range(0, len(octets), 2))

"""The Authentication Header, and what of an IP packet it covers (RFC 4302 §2, §3.3.3.1 and Appendix A).

``covered`` gives the octets an ICV is computed over: the packet with every field that may change on its way set to
zero, or to what it will be at the destination where that can be foretold (source routes).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ipsecstack.wire.ip import PROTO_AH, Buffer, PacketError

FIXED_OCTETS = 12
_FIXED = struct.Struct("!BBHII")

HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60

# RFC 4302 App. A1: IPv4 options that arrive as they were sent (end, NOP, three of security, router alert, sender
# directed multi-destination delivery). All others are zeroed as a whole, those nobody has heard of too.
_IMMUTABLE_OPTIONS = frozenset((0, 1, 130, 133, 134, 148, 149))
_SOURCE_ROUTES = (131, 137)
_MAY_CHANGE = 0x20  # RFC 8200 §4.2: the third-highest bit of an IPv6 option's type


@dataclass(frozen=True, slots=True)
class AuthenticationHeader:
    """The header: ``icv`` has all octets of the field, padding included; ``next_header`` is what follows."""

    next_header: int
    spi: int
    sequence_number: int
    icv: bytes

    @classmethod
    def parse(cls, data: Buffer) -> AuthenticationHeader:
        """The header at the start of ``data``. Raises PacketError for a length that cannot be."""
        if len(data) < FIXED_OCTETS:
            raise PacketError(f"an AH of {len(data)} octets")
        next_header, words, _, spi, number = _FIXED.unpack_from(data)
        octets = (words + 2) * 4
        if octets < FIXED_OCTETS or octets > len(data):
            raise PacketError(f"an AH of {octets} octets in {len(data)}")
        return cls(next_header, spi, number, bytes(data[FIXED_OCTETS:octets]))

    def to_bytes(self) -> bytes:
        """Raises PacketError when the ICV field is no whole number of words or too long."""
        octets = FIXED_OCTETS + len(self.icv)
        if octets % 4 or octets // 4 - 2 > 255:
            raise PacketError(f"an ICV field of {len(self.icv)} octets")
        return _FIXED.pack(self.next_header, octets // 4 - 2, 0, self.spi, self.sequence_number) + self.icv

    @property
    def octets(self) -> int:
        return FIXED_OCTETS + len(self.icv)


def insertion_point(packet: Buffer) -> tuple[int, int]:
    """Where AH or ESP goes in transport mode: its offset, and that of the next-header octet that names it.

    Behind the IPv4 header with its options; in IPv6 behind hop-by-hop options, routing headers, and the destination
    options before one (RFC 4302 §3.1.1), other destination options being for the destination alone. Raises PacketError.
    """
    if packet[0] >> 4 == 4:
        return (packet[0] & 15) * 4, 9
    at, named, point = 40, 6, (40, 6)
    kind = packet[6]
    while kind in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS):
        if at + 8 > len(packet):
            raise PacketError("IPv6 extension headers run past the end")
        kind, named, at, was = packet[at], at, at + (packet[at + 1] + 1) * 8, kind
        if was != DESTINATION_OPTIONS:
            point = (at, named)
    if point[0] > len(packet):
        raise PacketError("IPv6 extension headers run past the end")
    return point


def find(packet: Buffer, protocol: int = PROTO_AH) -> tuple[int, int] | None:
    """Where the header of ``protocol`` (AH or ESP) starts in a packet, and the next-header octet that names it.

    None when there is none before the upper layer. Raises PacketError when the headers before it are malformed.
    """
    if packet[0] >> 4 == 4:
        return ((packet[0] & 15) * 4, 9) if packet[9] == protocol else None
    at, named = 40, 6
    while (kind := packet[named]) != protocol:
        if kind not in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS):
            return None
        if at + 8 > len(packet):
            raise PacketError("IPv6 extension headers run past the end")
        named, at = at, at + (packet[at + 1] + 1) * 8
    if at > len(packet):
        raise PacketError("IPv6 extension headers run past the end")
    return at, named


def covered(packet: Buffer, at: int, icv_octets: int, *, leaving: bool) -> bytearray:
    """The packet as its ICV sees it. The AH starts at ``at``, its ICV (without padding) has ``icv_octets``.

    ``leaving``: the packet has not gone its way yet, so that source routes are turned to what they will be at the
    end; a packet that arrived is there. Raises PacketError for malformed headers, options and routes.
    """
    out = bytearray(packet)
    if out[0] >> 4 == 4:
        _cover_ipv4(out, leaving)
    else:
        _cover_ipv6(out, at, leaving)
    start = at + FIXED_OCTETS
    if start + icv_octets > len(out):
        raise PacketError("no room for the ICV")
    out[start : start + icv_octets] = bytes(icv_octets)
    return out


def _cover_ipv4(out: bytearray, leaving: bool) -> None:
    out[1] = 0
    out[6:9] = bytes(3)  # flags, fragment offset and TTL
    out[10:12] = bytes(2)
    at, end = 20, (out[0] & 15) * 4
    while at < end:
        kind = out[at]
        length = 1 if kind in (0, 1) else out[at + 1] if at + 1 < end else 0
        if length < 1 or (kind > 1 and length < 2) or at + length > end:
            raise PacketError(f"IPv4 option {kind} of {length} octets does not fit")
        if kind in _SOURCE_ROUTES and leaving and length >= 7 and out[at + 2] <= length - 3:
            out[16:20] = out[at + length - 4 : at + length]  # the last hop is the destination
        if kind not in _IMMUTABLE_OPTIONS:
            out[at : at + length] = bytes(length)
        at += length
        if kind == 0:
            break


def _cover_ipv6(out: bytearray, end: int, leaving: bool) -> None:
    out[0:4] = b"\x60\0\0\0"  # traffic class and flow label
    out[7] = 0
    kind, at = out[6], 40
    while at < end:
        if at + 8 > end:
            raise PacketError("an IPv6 extension header runs into the AH")
        octets = (out[at + 1] + 1) * 8
        if at + octets > end:
            raise PacketError("an IPv6 extension header runs into the AH")
        if kind in (HOP_BY_HOP, DESTINATION_OPTIONS):
            _cover_options(out, at + 2, at + octets)
        elif kind == ROUTING and leaving and out[at + 3]:
            _finish_route(out, at, octets)
        kind, at = out[at], at + octets


def _cover_options(out: bytearray, at: int, end: int) -> None:
    """Options that may change on the way keep type and length only (RFC 4302 §3.3.3.1.2.2)."""
    while at < end:
        if out[at] == 0:  # Pad1
            at += 1
            continue
        if at + 2 > end or at + 2 + out[at + 1] > end:
            raise PacketError("an IPv6 option runs past its header")
        length = out[at + 1]
        if out[at] & _MAY_CHANGE:
            out[at + 2 : at + 2 + length] = bytes(length)
        at += 2 + length


def _finish_route(out: bytearray, at: int, octets: int) -> None:
    """A type 0 or type 2 routing header as its last node sees it: each address visited changes places with the
    destination (RFC 2460 §4.4, RFC 6275 §6.4)."""
    left, addresses = out[at + 3], (octets - 8) // 16
    if out[at + 2] not in (0, 2) or (octets - 8) % 16 or left > addresses:
        raise PacketError(
            f"a routing header of type {out[at + 2]} with {left} segments left cannot be foretold"
        )
    first = at + 8 + (addresses - left) * 16
    route = [bytes(out[24:40])] + [bytes(out[first + n * 16 : first + n * 16 + 16]) for n in range(left)]
    out[24:40] = route[-1]
    out[first : first + left * 16] = b"".join(route[:-1])
    out[at + 3] = 0

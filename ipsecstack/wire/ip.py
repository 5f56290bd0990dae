"""IP headers, and the fields of a packet that selectors look at (RFC 791, RFC 8200, RFC 4301 §4.4.1.1).

``flow_key`` is what packet processing calls for every packet: it validates the header chain and packs the selector
fields into one hashable key. ``Flow.from_key`` unfolds such a key when a decision must be made for a new flow.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

IPAddress = IPv4Address | IPv6Address
Buffer = bytes | bytearray | memoryview

PROTO_ICMP, PROTO_IPIP, PROTO_TCP, PROTO_UDP = 1, 4, 6, 17
PROTO_IPV6, PROTO_ESP, PROTO_AH, PROTO_ICMPV6, PROTO_NONE = 41, 50, 51, 58, 59
PROTO_MOBILITY = 135

# Protocols whose first four octets are two ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
_WITH_PORTS = frozenset((6, 17, 33, 132, 136))
_IPV6_EXTENSIONS = frozenset((0, 43, 44, 51, 60, 139, 140))  # RFC 8200, RFC 4302, RFC 7401, RFC 5533
_FIRST, _LATER = b"\0", b"\1"
_FRAGMENT_KEYS = frozenset((14, 18, 38, 42))
_OCTET = tuple(bytes((number,)) for number in range(256))
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")

DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
OFFSET_MASK = 0x1FFF

NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3  # RFC 3168 §5


class PacketError(ValueError):
    """The octets are not a well-formed IP packet; the message says what is wrong."""


def checksum(*parts: Buffer) -> int:
    """The Internet checksum (RFC 1071) of the concatenated parts, all but the last of even length."""
    total = 0
    for part in parts:
        if len(part) % 2:
            part = bytes(part) + b"\0"
        total += sum(struct.unpack(f"!{len(part) // 2}H", part))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@dataclass(frozen=True, slots=True)
class IPv4Header:
    """An IPv4 header (RFC 791 §3.1). ``total_length`` counts header and payload, ``fragment_offset`` 8-octet units."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    total_length: int
    tos: int = 0
    identification: int = 0
    dont_fragment: bool = False
    more_fragments: bool = False
    fragment_offset: int = 0
    ttl: int = 64
    options: bytes = b""

    @classmethod
    def parse(cls, packet: Buffer) -> IPv4Header:
        """The header at the start of ``packet``. Raises PacketError on a bad version, length or checksum."""
        header_length, total = _ipv4_lengths(packet)
        if checksum(packet[:header_length]):
            raise PacketError("IPv4 header checksum is wrong")
        _, tos, _, ident, flags, ttl, protocol, _, source, destination = _IPV4.unpack_from(packet)
        return cls(
            IPv4Address(source),
            IPv4Address(destination),
            protocol,
            total,
            tos,
            ident,
            bool(flags & DONT_FRAGMENT),
            bool(flags & MORE_FRAGMENTS),
            flags & OFFSET_MASK,
            ttl,
            bytes(packet[20:header_length]),
        )

    def to_bytes(self) -> bytes:
        """Header octets with the checksum filled in. Raises PacketError for options of a length that does not fit."""
        words = 5 + len(self.options) // 4
        if len(self.options) % 4 or words > 15:
            raise PacketError(f"IPv4 options of {len(self.options)} octets do not fit")
        flags = (
            (DONT_FRAGMENT if self.dont_fragment else 0)
            | (MORE_FRAGMENTS if self.more_fragments else 0)
            | self.fragment_offset
        )
        fields = (
            0x40 | words,
            self.tos,
            self.total_length,
            self.identification,
            flags,
            self.ttl,
            self.protocol,
        )
        addresses = (self.source.packed, self.destination.packed)
        value = checksum(_IPV4.pack(*fields, 0, *addresses), self.options)
        return _IPV4.pack(*fields, value, *addresses) + self.options


@dataclass(frozen=True, slots=True)
class IPv6Header:
    """The fixed IPv6 header (RFC 8200 §3). ``payload_length`` counts what follows these 40 octets."""

    source: IPv6Address
    destination: IPv6Address
    next_header: int
    payload_length: int
    traffic_class: int = 0
    flow_label: int = 0
    hop_limit: int = 64

    @classmethod
    def parse(cls, packet: Buffer) -> IPv6Header:
        """The header at the start of ``packet``. Raises PacketError on a bad version or length."""
        _ipv6_length(packet)
        word, length, next_header, hops, source, destination = _IPV6.unpack_from(packet)
        return cls(
            IPv6Address(source),
            IPv6Address(destination),
            next_header,
            length,
            word >> 20 & 0xFF,
            word & 0xFFFFF,
            hops,
        )

    def to_bytes(self) -> bytes:
        word = 6 << 28 | self.traffic_class << 20 | self.flow_label
        return _IPV6.pack(
            word,
            self.payload_length,
            self.next_header,
            self.hop_limit,
            self.source.packed,
            self.destination.packed,
        )


@dataclass(frozen=True, slots=True)
class Flow:
    """The selector fields of a packet. Ports are None when the packet shows none (other protocols, later fragments).

    For ICMP both ports hold type * 256 + code, for Mobility Header type * 256 (RFC 7296 §3.13.1).
    """

    source: IPAddress
    destination: IPAddress
    protocol: int
    source_port: int | None = None
    destination_port: int | None = None

    @classmethod
    def from_key(cls, key: bytes) -> Flow:
        """Unfold what ``flow_key`` made."""
        key = split_fragment_key(key)[0]
        width = 4 if len(key) < 33 else 16
        address: type[IPv4Address] | type[IPv6Address] = IPv4Address if width == 4 else IPv6Address
        source, destination = address(key[1 : 1 + width]), address(key[1 + width : 1 + 2 * width])
        ports = key[1 + 2 * width :]
        if not ports:
            return cls(source, destination, key[0])
        return cls(source, destination, key[0], *struct.unpack("!HH", ports))

    @property
    def ports(self) -> tuple[int, int] | None:
        if self.source_port is None or self.destination_port is None:
            return None
        return self.source_port, self.destination_port


def flow_key(packet: Buffer) -> bytes:
    """The selector fields of an IP packet as one key: protocol, source, destination, and two ports when it has them.

    The lengths tell the kinds apart: 9 and 13 octets for IPv4, 33 and 37 for IPv6; five more with a fragment
    (``split_fragment_key``). ``packet`` must be exactly as long as its header says (cut padding off first). Raises
    PacketError when it is malformed.
    """
    size = len(packet)
    # The common case first: IPv4 without options or fragmentation, TCP or UDP.
    if size >= 24 and packet[0] == 0x45 and not (packet[6] & 0x3F or packet[7]):
        protocol = packet[9]
        if (protocol == 6 or protocol == 17) and packet[2] << 8 | packet[3] == size:
            return _OCTET[protocol] + packet[12:24]
    if size < 20:
        raise PacketError(f"an IP packet of {size} octets")
    version = packet[0] >> 4
    if version == 4:
        header_length, total = _ipv4_lengths(packet)
        if total != size:
            raise PacketError(f"IPv4 total length {total} in a packet of {size} octets")
        key = _OCTET[packet[9]] + packet[12:20]
        flags = packet[6] << 8 | packet[7]
        if flags & OFFSET_MASK:
            return key + _LATER + b"\0\0" + packet[4:6]
        key += _ports(packet, packet[9], header_length)
        return key + _FIRST + b"\0\0" + packet[4:6] if flags & MORE_FRAGMENTS else key
    if version == 6:
        if _ipv6_length(packet) != size:
            raise PacketError(
                f"IPv6 payload length {packet[4] << 8 | packet[5]} in a packet of {size} octets"
            )
        protocol, offset, later_fragment = ipv6_upper_layer(packet)
        key = _OCTET[protocol] + packet[8:40]
        if later_fragment:
            return key + _LATER + packet[offset - 4 : offset]
        key += _ports(packet, protocol, offset)
        header = _ipv6_fragment_header(packet)
        return key + _FIRST + packet[header + 4 : header + 8] if header else key
    raise PacketError(f"IP version {version}")


def split_fragment_key(key: bytes) -> tuple[bytes, bytes | None, bool]:
    """A flow key without what is added for fragments, the datagram's name, and whether this is a later fragment.

    The name (protocol, addresses, identification) is that of all fragments of a datagram; None for a whole one.
    """
    if len(key) not in _FRAGMENT_KEYS:
        return key, None, False
    base = key[:-5]
    return base, key[: 9 if len(key) < 20 else 33] + key[-4:], key[-5:-4] == _LATER


def _ipv6_fragment_header(packet: Buffer) -> int:
    """Where the Fragment header of a first fragment is; 0 when there is none or it is a whole datagram (RFC 6946)."""
    if packet[6] not in _IPV6_EXTENSIONS:
        return 0
    protocol, offset = packet[6], 40
    while protocol in _IPV6_EXTENSIONS:
        if protocol == 44:
            return offset if packet[offset + 3] & 1 else 0
        following = packet[offset]
        offset += (packet[offset + 1] + 2) * 4 if protocol == PROTO_AH else (packet[offset + 1] + 1) * 8
        protocol = following
    return 0


def _ports(packet: Buffer, protocol: int, offset: int) -> bytes:
    if protocol in _WITH_PORTS:
        return bytes(packet[offset : offset + 4]) if len(packet) >= offset + 4 else b""
    if protocol in (PROTO_ICMP, PROTO_ICMPV6):
        return bytes(packet[offset : offset + 2]) * 2 if len(packet) >= offset + 2 else b""
    if protocol == PROTO_MOBILITY and len(packet) >= offset + 3:
        return bytes((packet[offset + 2], 0)) * 2
    return b""


def ipv6_upper_layer(packet: Buffer) -> tuple[int, int, bool]:
    """The upper-layer protocol behind the extension headers, its offset, and whether this is a later fragment.

    For a later fragment the protocol is what its Fragment header names. Raises PacketError when the chain runs out
    of the packet.
    """
    protocol, offset = packet[6], 40
    while protocol in _IPV6_EXTENSIONS:
        if offset + 8 > len(packet):
            raise PacketError("IPv6 extension headers run past the end")
        following = packet[offset]
        if protocol == 44:
            if (packet[offset + 2] << 8 | packet[offset + 3]) >> 3:
                return following, offset + 8, True
            offset += 8
        elif protocol == PROTO_AH:
            offset += (packet[offset + 1] + 2) * 4
        else:
            offset += (packet[offset + 1] + 1) * 8
        protocol = following
    if offset > len(packet):
        raise PacketError("IPv6 extension headers run past the end")
    return protocol, offset, False


def _ipv4_lengths(packet: Buffer) -> tuple[int, int]:
    """Header length and total length, both checked against the octets at hand."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        raise PacketError("not an IPv4 packet")
    header_length, total = (packet[0] & 15) * 4, packet[2] << 8 | packet[3]
    if header_length < 20 or total < header_length or total > len(packet):
        raise PacketError(f"IPv4 header length {header_length}, total length {total}, octets {len(packet)}")
    return header_length, total


def _ipv6_length(packet: Buffer) -> int:
    """Length of the whole packet as its header says, checked against the octets at hand."""
    if len(packet) < 40 or packet[0] >> 4 != 6:
        raise PacketError("not an IPv6 packet")
    total = 40 + (packet[4] << 8 | packet[5])
    if total > len(packet):
        raise PacketError(f"IPv6 packet of {total} octets in {len(packet)}")
    return total


def packet_length(packet: Buffer) -> int:
    """Octets of the IP packet at the start of ``packet``; what follows it is padding. Raises PacketError."""
    if not packet:
        raise PacketError("an empty packet")
    return _ipv6_length(packet) if packet[0] >> 4 == 6 else _ipv4_lengths(packet)[1]


def traffic_class(packet: Buffer) -> int:
    """The DSCP and ECN octet of an IPv4 or IPv6 packet."""
    return packet[1] if packet[0] < 0x60 else (packet[0] & 15) << 4 | packet[1] >> 4


def with_ecn(packet: Buffer, ecn: int) -> bytes:
    """The packet with other ECN bits; an IPv4 header checksum is updated as RFC 1624 §3 says."""
    return with_traffic_class(packet, traffic_class(packet) & 0xFC | ecn)


def with_traffic_class(packet: Buffer, value: int) -> bytes:
    """The packet with another DSCP and ECN octet; an IPv4 header checksum is updated as RFC 1624 §3 says."""
    out = bytearray(packet)
    if out[0] >> 4 == 6:
        out[0], out[1] = 0x60 | value >> 4, value << 4 & 0xF0 | out[1] & 15
        return bytes(out)
    old = out[0] << 8 | out[1]
    out[1] = value
    new = out[0] << 8 | out[1]
    total = ((out[10] << 8 | out[11]) ^ 0xFFFF) + (old ^ 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    out[10:12] = (total ^ 0xFFFF).to_bytes(2, "big")
    return bytes(out)


def merge_ecn(packet: bytes, outer: int) -> bytes | None:
    """The inner packet with the congestion mark of the outer header (RFC 6040 §4.2), None when it must be dropped."""
    inner = traffic_class(packet) & 3
    if outer == CE:
        if inner == NOT_ECT:
            return None
        return packet if inner == CE else with_ecn(packet, CE)
    if outer == ECT_1 and inner == ECT_0:
        return with_ecn(packet, ECT_1)
    return packet


def may_fragment(packet: Buffer) -> bool:
    """True for an IPv4 packet without DF: only those may be fragmented on their way."""
    return packet[0] >> 4 == 4 and not packet[6] & 0x40


def fragment_ipv4(packet: Buffer, mtu: int) -> list[bytes]:
    """An IPv4 packet as fragments of at most ``mtu`` octets (RFC 791 §3.2); options go along as their copied flag says.

    Raises PacketError when ``mtu`` leaves no room for eight octets of payload.
    """
    header = IPv4Header.parse(packet)
    if header.total_length <= mtu:
        return [bytes(packet[: header.total_length])]
    start = 20 + len(header.options)
    payload = memoryview(packet)[start : header.total_length]
    later_options = _copied_options(header.options)
    fragments: list[bytes] = []
    position = 0
    while position < len(payload):
        options = later_options if position else header.options
        room = (mtu - 20 - len(options)) // 8 * 8
        if room < 8:
            raise PacketError(f"an MTU of {mtu} octets is too small to fragment for")
        piece = payload[position : position + room]
        last = position + len(piece) == len(payload)
        head = IPv4Header(
            header.source,
            header.destination,
            header.protocol,
            20 + len(options) + len(piece),
            header.tos,
            header.identification,
            False,
            header.more_fragments or not last,
            header.fragment_offset + position // 8,
            header.ttl,
            options,
        )
        fragments.append(head.to_bytes() + piece)
        position += len(piece)
    return fragments


def _copied_options(options: bytes) -> bytes:
    """The options with the copied flag (RFC 791 §3.1), padded to a whole word; broken ones end the list."""
    out = bytearray()
    position = 0
    while position < len(options):
        kind = options[position]
        if kind == 0:
            break
        length = 1 if kind == 1 else options[position + 1] if position + 1 < len(options) else 0
        if length < 1 or (kind != 1 and length < 2) or position + length > len(options):
            break
        if kind & 0x80:
            out += options[position : position + length]
        position += length
    return bytes(out) + bytes(-len(out) % 4)

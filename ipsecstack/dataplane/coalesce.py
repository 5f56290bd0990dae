"""Runs of inner packets as one: what a network card's receive offload does, before packets are written to a device.

The kernel's stack costs as much for a packet of 64 kB as for one of 1400 octets. Consecutive segments of one TCP
stream, and consecutive equal datagrams of one UDP flow, therefore go into the device as one large packet, with a
virtio_net_hdr (virtio 1.2 §5.1.6) that says where to cut it again. Cutting gives back the packets that went in, to
the octet; anything for which that would not hold, or whose checksums do not verify, is left alone.

Packets are compared as big integers: header fields that must be equal, and those that must count on, all at once. The
same integers, added up, give the checksums of the whole run by one division.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from ipsecstack.wire.ip import PROTO_TCP, PROTO_UDP

Packet = bytes | memoryview

VNET_HEADER_OCTETS = 10
PLAIN = bytes(VNET_HEADER_OCTETS)
"""The header of a packet that is what it seems."""

_VNET = struct.Struct(
    "=BBHHHH"
)  # flags, kind, header length, segment length, where the checksum starts and goes
_U16 = struct.Struct("!H")
_NEEDS_CHECKSUM = 1
_GSO_TCP4, _GSO_TCP6, _GSO_UDP = 1, 4, 5
_ACK, _PSH, _FIN = 0x10, 0x08, 0x01
_MAX_SEGMENTS = 64
_MAX_OCTETS = 65535


class Run(NamedTuple):
    """The next ``number`` packets of those given; ``buffers`` are what to write for them, virtio_net_hdr first."""

    number: int
    buffers: Sequence[Packet | bytearray]


class _Layout(NamedTuple):
    """Headers of one kind and length. Masks and steps are for the headers as one big-endian integer."""

    octets: int
    transport: int  # where the TCP or UDP header starts
    kind: int
    constant: int  # mask of the fields that a run's packets have in common or count up
    closing: int  # mask of the flags that only the last packet of a run may have
    length_step: int  # one more octet in the IP length field (and in UDP's)
    sequence_step: int  # one more octet in the TCP sequence number
    number_step: int  # the next IPv4 identification
    checksum: int  # where the checksum is in the TCP or UDP header


@lru_cache(maxsize=64)
def _layout(version: int, protocol: int, transport_octets: int) -> _Layout:
    start = 20 if version == 4 else 40
    octets = start + transport_octets

    def field(offset: int, width: int, value: int) -> int:
        return value << 8 * (octets - offset - width)

    checksum_at = 16 if protocol == PROTO_TCP else 6
    varying = field(start + checksum_at, 2, 0xFFFF)
    if version == 4:
        varying |= field(10, 2, 0xFFFF)
    length = field(2 if version == 4 else 4, 2, 1)
    closing = 0
    if protocol == PROTO_TCP:
        closing = field(start + 13, 1, _PSH | _FIN)
    else:
        length += field(start + 4, 2, 1)
    return _Layout(
        octets=octets,
        transport=start,
        kind=_GSO_UDP if protocol == PROTO_UDP else _GSO_TCP4 if version == 4 else _GSO_TCP6,
        constant=(1 << 8 * octets) - 1 & ~(varying | closing),
        closing=closing,
        length_step=length,
        sequence_step=field(start + 4, 4, 1) if protocol == PROTO_TCP else 0,
        number_step=field(4, 2, 1) if version == 4 else 0,
        checksum=checksum_at,
    )


def _layout_of(packet: Packet) -> _Layout | None:
    """How the first packet of a run is laid out; None when it can be no such thing."""
    if packet[0] == 0x45:
        version, protocol, start = 4, packet[9], 20
    elif packet[0] >> 4 == 6:
        version, protocol, start = 6, packet[6], 40
    else:
        return None
    if len(packet) < start + 20:
        return None
    if version == 4 and (packet[6] & ~0x40 or packet[7]):
        return None  # a fragment, or the reserved bit
    if protocol == PROTO_TCP:
        if packet[start + 13] != _ACK:
            return None
        transport_octets = (packet[start + 12] >> 4) * 4
        if transport_octets < 20:
            return None
    elif protocol == PROTO_UDP:
        if packet[start + 4] << 8 | packet[start + 5] != len(packet) - start:
            return None
        if not (packet[start + 6] or packet[start + 7]):
            return None  # no checksum: cutting would make one
        transport_octets = 8
    else:
        return None
    if len(packet) <= start + transport_octets or len(packet) % 2:
        return None
    return _layout(version, protocol, transport_octets)


def coalesce(packets: Sequence[Packet]) -> Iterator[Run]:
    """All of ``packets`` (whole, well-formed IP packets) in order; a run of one is the packet as it is."""
    position, count = 0, len(packets)
    while position < count:
        first = packets[position]
        run = None
        if position + 1 < count:
            second = packets[position + 1]
            # Most that cannot be a run is out at once: another size, other addresses.
            if len(second) <= len(first) and first[12:24] == second[12:24] and (layout := _layout_of(first)):
                run = _run(packets, position, layout)
        if run is None:
            run = Run(1, (PLAIN, first))
        yield run
        position += run.number


def _run(packets: Sequence[Packet], position: int, layout: _Layout) -> Run | None:
    """The run that starts here; None when it is a single packet, or when a checksum in it is wrong."""
    first = packets[position]
    size, constant, closing = len(first), layout.constant, layout.closing
    payload = size - layout.octets
    shift, from_bytes = 8 * payload, int.from_bytes
    total = from_bytes(first, "big")
    expected = total >> shift & constant
    step = payload * layout.sequence_step + layout.number_step
    flags = 0
    end = position + 1
    limit = min(len(packets), position + min(_MAX_SEGMENTS, (_MAX_OCTETS - layout.octets) // payload))
    whole = layout.octets + payload
    shorter = 0
    while end < limit and not flags:
        packet = packets[end]
        expected += step
        octets = len(packet)
        if octets == size:
            number = from_bytes(packet, "big")
            head = number >> shift
            if head & constant != expected:
                break
            total += number
        elif layout.octets < octets < size:
            number = from_bytes(packet, "big")
            head = number >> 8 * (octets - layout.octets)
            shorter = size - octets
            if head & constant != expected - shorter * layout.length_step:
                shorter = 0
                break
            total += number << 8 * (octets % 2)
        else:
            break
        flags = head & closing
        end += 1
        whole += octets - layout.octets
        if shorter:
            break
    count = end - position
    if count == 1 or (total + _pseudo_headers(first, layout, count, whole)) % 0xFFFF:
        return None
    return Run(count, _large(packets[position:end], layout, whole, flags))


def _pseudo_headers(first: Packet, layout: _Layout, count: int, whole: int) -> int:
    """What must be added to ``count`` packets so that the sum is zero (modulo 65535) when their checksums are right.

    A valid IPv4 header adds nothing, and the pseudo-header its addresses, protocol and length (RFC 9293 §3.1, RFC 768).
    Of an IPv6 header, addresses and length stand for those of the pseudo-header (RFC 8200 §8.1); the rest must go.
    """
    if layout.transport == 20:
        lengths = whole - layout.octets + count * (layout.octets - layout.transport)
        return count * (int.from_bytes(first[12:20], "big") + first[9]) + lengths
    return count * (first[6] - int.from_bytes(first[:4], "big") - (first[6] << 8) - first[7])


def _sum(number: int) -> int:
    """The one's complement sum (RFC 1071) of the 16-bit words of a number that is not zero."""
    return number % 0xFFFF or 0xFFFF


def _large(packets: Sequence[Packet], layout: _Layout, whole: int, flags: int) -> list[Packet | bytearray]:
    """One packet of ``whole`` octets from a run, and the header that tells how to cut it."""
    octets, start = layout.octets, layout.transport
    first = packets[0]
    head = bytearray(first[:octets])
    transport_length = whole - start
    if start == 20:
        _U16.pack_into(head, 2, whole)
        _U16.pack_into(head, 10, 0)
        _U16.pack_into(head, 10, 0xFFFF - _sum(int.from_bytes(head[:20], "big")))
        addresses, protocol = first[12:20], first[9]
    else:
        _U16.pack_into(head, 4, transport_length)
        addresses, protocol = first[8:40], first[6]
    if protocol == PROTO_UDP:
        _U16.pack_into(head, start + 4, transport_length)
    elif flags:
        head[start + 13] = packets[-1][start + 13]
    # What stands in the checksum field is the sum of the pseudo-header: who cuts the packet adds the rest.
    pseudo = _sum(int.from_bytes(addresses, "big") + protocol + transport_length)
    _U16.pack_into(head, start + layout.checksum, pseudo)
    vnet = _VNET.pack(_NEEDS_CHECKSUM, layout.kind, octets, len(first) - octets, start, layout.checksum)
    return [vnet, head, *(memoryview(packet)[octets:] for packet in packets)]

"""Fragmentation of whole packets of either IP version (RFC 791 §3.2, RFC 8200 §4.5)."""

from __future__ import annotations

from ipsecstack.wire.ah import FRAGMENT, insertion_point
from ipsecstack.wire.ip import Buffer, PacketError, fragment_ipv4


def fragment_packet(packet: Buffer, mtu: int, identification: int) -> list[bytes]:
    """A packet as fragments of at most ``mtu`` octets; ``identification`` is for IPv6, of 32 bits.

    Raises PacketError when ``mtu`` leaves no room for eight octets of payload.
    """
    if packet[0] >> 4 == 4:
        return fragment_ipv4(packet, mtu)
    if len(packet) <= mtu:
        return [bytes(packet)]
    at, named = insertion_point(packet)
    headers, payload = bytearray(packet[:at]), memoryview(packet)[at:]
    kind = headers[named]
    headers[named] = FRAGMENT
    room = (mtu - at - 8) // 8 * 8
    if room < 8:
        raise PacketError(f"an MTU of {mtu} octets is too small to fragment for")
    fragments = []
    for position in range(0, len(payload), room):
        piece = payload[position : position + room]
        more = position + len(piece) < len(payload)
        headers[4:6] = (at - 40 + 8 + len(piece)).to_bytes(2, "big")
        header = bytes((kind, 0)) + (position | more).to_bytes(2, "big") + identification.to_bytes(4, "big")
        fragments.append(bytes(headers) + header + piece)
    return fragments

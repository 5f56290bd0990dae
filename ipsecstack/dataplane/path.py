"""Path MTUs by peer, and what ICMP errors from the network may do to them (RFC 4301 §8.2, RFC 1191, RFC 8201).

Such errors are not authenticated. One counts only when it quotes a packet that one of our SAs may have sent, when it
lowers the MTU, not below what every path takes, and not more often than a few times in a while.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from ipaddress import ip_address

from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.wire.ip import (
    PROTO_AH,
    PROTO_ESP,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_UDP,
    Buffer,
    IPv4Header,
    IPv6Header,
    PacketError,
    checksum,
)

MIN_MTU = {4: 576, 6: 1280}
AGE = 600.0  # seconds after which a larger MTU is tried again (RFC 1191 §6.3)
INTERVAL = 10.0  # seconds in which at most BURST errors are believed
BURST = 16
# RFC 1191 §7.1, for routers that do not tell their MTU.
_PLATEAUS = (32000, 17914, 8166, 4352, 2002, 1492, 1006, 576)


@dataclass(frozen=True, slots=True)
class TooBig:
    """An ICMP 'too big': the MTU it tells, and what it quotes of our packet.

    ``spi`` is None when the quotation ends before it (IPv4 quotes 8 octets at least: of ESP in UDP, the UDP header).
    """

    mtu: int
    source: IPAddress
    destination: IPAddress
    protocol: int
    ports: tuple[int, int] | None
    spi: int | None


def parse_too_big(packet: Buffer) -> TooBig | None:
    """What an ICMP or ICMPv6 packet says about a path; None for other messages. Raises PacketError when malformed."""
    if not packet:
        raise PacketError("an empty packet")
    return _too_big_v4(packet) if packet[0] >> 4 == 4 else _too_big_v6(packet)


def _too_big_v4(packet: Buffer) -> TooBig | None:
    header = IPv4Header.parse(packet)
    body = packet[20 + len(header.options) : header.total_length]
    if header.protocol != PROTO_ICMP or header.fragment_offset or header.more_fragments or len(body) < 8:
        return None
    if bytes(body[:2]) != b"\x03\x04":
        return None
    if checksum(body):
        raise PacketError("ICMP checksum is wrong")
    quoted = body[8:]
    if len(quoted) < 20 or quoted[0] >> 4 != 4 or quoted[0] & 15 < 5:
        raise PacketError("an ICMP error that quotes no IPv4 header")
    mtu = body[6] << 8 | body[7]
    if mtu == 0:
        octets = quoted[2] << 8 | quoted[3]
        mtu = next((plateau for plateau in _PLATEAUS if plateau < octets), 0)
    ends = ip_address(bytes(quoted[12:16])), ip_address(bytes(quoted[16:20]))
    if (quoted[6] << 8 | quoted[7]) & 0x1FFF:
        return None  # a later fragment shows no SPI
    return _quoted(mtu, *ends, quoted[9], quoted[(quoted[0] & 15) * 4 :])


def _too_big_v6(packet: Buffer) -> TooBig | None:
    header = IPv6Header.parse(packet)
    body = packet[40 : 40 + header.payload_length]
    if header.next_header != PROTO_ICMPV6 or len(body) < 8 or body[0] != 2:
        return None
    pseudo = header.source.packed + header.destination.packed + len(body).to_bytes(4, "big") + b"\0\0\0\x3a"
    if checksum(pseudo, body):
        raise PacketError("ICMPv6 checksum is wrong")
    quoted = body[8:]
    if len(quoted) < 40 or quoted[0] >> 4 != 6:
        raise PacketError("an ICMPv6 error that quotes no IPv6 header")
    ends = ip_address(bytes(quoted[8:24])), ip_address(bytes(quoted[24:40]))
    protocol, at = quoted[6], 40
    while protocol in (0, 43, 44, 60):  # our own packets have at most a Fragment header, transport mode any
        if at + 8 > len(quoted) or (protocol == 44 and (quoted[at + 2] << 8 | quoted[at + 3]) >> 3):
            return None
        protocol, at = quoted[at], at + (8 if protocol == 44 else (quoted[at + 1] + 1) * 8)
    return _quoted(int.from_bytes(body[4:8], "big"), *ends, protocol, quoted[at:])


def _quoted(
    mtu: int, source: IPAddress, destination: IPAddress, protocol: int, data: Buffer
) -> TooBig | None:
    ports, spi = None, None
    if protocol == PROTO_UDP and len(data) >= 4:
        ports = (data[0] << 8 | data[1], data[2] << 8 | data[3])
        data = data[8:]
        spi = int.from_bytes(data[:4], "big") if len(data) >= 4 else None
    elif protocol == PROTO_ESP and len(data) >= 4:
        spi = int.from_bytes(data[:4], "big")
    elif protocol == PROTO_AH and len(data) >= 8:
        spi = int.from_bytes(data[4:8], "big")
    else:
        return None
    return TooBig(mtu, source, destination, protocol, ports, spi)


class PathMtus:
    """The largest outer IP packet that reaches each peer, in octets."""

    def __init__(self, default: int) -> None:
        self.default = default
        self._known: dict[IPAddress, int] = {}
        self._lowered: dict[IPAddress, float] = {}  # when what was learned is forgotten
        self._due: list[tuple[float, int, IPAddress]] = []
        self._believed: list[float] = []

    def __len__(self) -> int:
        return len(self._known)

    def get(self, destination: IPAddress) -> int:
        learned = self._known.get(destination)
        return self.default if learned is None else learned

    def set(self, destination: IPAddress, mtu: int) -> None:
        """What the operator knows: it does not age."""
        self._known[destination] = mtu
        self._lowered.pop(destination, None)

    def lower(self, destination: IPAddress, mtu: int, now: float) -> bool:
        """What an ICMP error tells; False when it changes nothing or is not believed."""
        mtu = max(mtu, MIN_MTU[destination.version])
        self._believed = [at for at in self._believed if now - at < INTERVAL]
        if mtu >= self.get(destination) or len(self._believed) >= BURST:
            return False
        self._believed.append(now)
        self._known[destination] = mtu
        self._lowered[destination] = now + AGE
        heapq.heappush(self._due, (now + AGE, int(destination), destination))
        return True

    def next_time(self) -> float | None:
        while self._due and self._lowered.get(self._due[0][2]) != self._due[0][0]:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def forget_old(self, now: float) -> list[IPAddress]:
        """Peers whose learned MTU is too old: the default is tried again."""
        gone = []
        while (at := self.next_time()) is not None and at <= now:
            destination = heapq.heappop(self._due)[2]
            del self._known[destination], self._lowered[destination]
            gone.append(destination)
        return gone

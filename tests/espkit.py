"""SAs, packets and wired pairs of data planes for the tests of IPsec processing."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.dataplane.memory import MemoryDataPlane
from ipsecstack.ipsec.sa import Address, Direction, Lifetime, Mode, SaDescription, SaId, SecurityProtocol
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.wire.ip import IPv4Header, IPv6Header, checksum
from ipsecstack.wire.transforms import EncrId, IntegId

A, B = Address(ip_address("192.0.2.1"), 4500), Address(ip_address("192.0.2.2"), 4500)
A6, B6 = Address(ip_address("2001:db8::1"), 4500), Address(ip_address("2001:db8::2"), 4500)
LAN_A, LAN_B = "10.1.0.0/24", "10.2.0.0/24"


@dataclass(frozen=True)
class Algorithm:
    encr: EncrId
    bits: int
    key_octets: int
    integ: IntegId = IntegId.NONE
    integ_octets: int = 0

    def __str__(self) -> str:
        return f"{self.encr.name}-{self.bits}" + (f"-{self.integ.name}" if self.integ else "")


ALGORITHMS = (
    Algorithm(EncrId.AES_GCM_16, 128, 20),
    Algorithm(EncrId.AES_GCM_16, 256, 36),
    Algorithm(EncrId.CHACHA20_POLY1305, 256, 36),
    Algorithm(EncrId.AES_CBC, 128, 16, IntegId.HMAC_SHA2_256_128, 32),
    Algorithm(EncrId.AES_CBC, 256, 32, IntegId.HMAC_SHA2_512_256, 64),
    Algorithm(EncrId.NULL, 0, 0, IntegId.HMAC_SHA2_384_192, 48),
)
GCM = ALGORITHMS[0]


def ts(*texts: str) -> tuple[TrafficSelector, ...]:
    return tuple(TrafficSelector.from_text(text) for text in texts)


def keys(algorithm: Algorithm, seed: int = 1) -> dict[str, Any]:
    rng = random.Random(seed)
    return {
        "encr": algorithm.encr,
        "encr_key_bits": algorithm.bits,
        "integ": algorithm.integ,
        "key_encr": rng.randbytes(algorithm.key_octets),
        "key_integ": rng.randbytes(algorithm.integ_octets),
    }


def describe(
    direction: Direction, spi: int, source: Address, destination: Address, **fields: Any
) -> SaDescription:
    given: dict[str, Any] = {
        "protocol": SecurityProtocol.ESP,
        "mode": Mode.TUNNEL,
        "encapsulated": True,
        "esn": False,
        "replay_window": 64,
        "lifetime": Lifetime(),
        "local_ts": ts(LAN_A),
        "remote_ts": ts(LAN_B),
        "reqid": 1,
        **keys(GCM),
    }
    given.update(fields)
    return SaDescription(direction=direction, spi=spi, source=source, destination=destination, **given)


def udp(
    source: str,
    destination: str,
    size: int = 60,
    sport: int = 1000,
    dport: int = 2000,
    tos: int = 0,
    df: bool = False,
) -> bytes:
    """A UDP packet of ``size`` octets in all, with right lengths and checksums."""
    a, b = ip_address(source), ip_address(destination)
    head = 20 if a.version == 4 else 40
    payload = bytes(i & 0xFF for i in range(size - head - 8))
    body = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    pseudo = a.packed + b.packed + struct.pack("!II", len(body), 17)
    body = body[:6] + (checksum(pseudo, body) or 0xFFFF).to_bytes(2, "big") + payload
    if isinstance(a, IPv4Address) and isinstance(b, IPv4Address):
        return IPv4Header(a, b, 17, size, tos, 1, df).to_bytes() + body
    assert isinstance(a, IPv6Address)
    assert isinstance(b, IPv6Address)
    return IPv6Header(a, b, 17, len(body), tos).to_bytes() + body


ACK, PSH, FIN, CWR = 0x10, 0x08, 0x01, 0x80


def tcp(
    version: int,
    size: int,
    sequence: int,
    number: int,
    flags: int = ACK,
    options: bytes = b"\x01\x01\x08\x0a" + bytes(8),
    port: int = 40000,
    tos: int = 0,
) -> bytes:
    """A TCP segment with ``size`` octets of payload and right checksums; ``number`` is the IPv4 identification."""
    ends = ("10.1.0.5", "10.2.0.9") if version == 4 else ("fd01::5", "fd02::9")
    a, b = map(ip_address, ends)
    payload = random.Random(sequence).randbytes(size)
    words = (5 + len(options) // 4) << 12 | flags
    body = struct.pack("!HHIIHHHH", port, 80, sequence, 77, words, 500, 0, 0) + options + payload
    pseudo = a.packed + b.packed + struct.pack("!II", len(body), 6)
    body = body[:16] + checksum(pseudo, body).to_bytes(2, "big") + body[18:]
    if isinstance(a, IPv4Address) and isinstance(b, IPv4Address):
        return IPv4Header(a, b, 6, 20 + len(body), tos, number & 0xFFFF, True).to_bytes() + body
    assert isinstance(a, IPv6Address)
    assert isinstance(b, IPv6Address)
    return IPv6Header(a, b, 6, len(body), tos).to_bytes() + body


def stream(
    version: int, sizes: list[int], sequence: int = 1000, number: int = 7, flags: int = ACK
) -> list[bytes]:
    packets: list[bytes] = []
    for size in sizes:
        last = len(packets) == len(sizes) - 1
        packets.append(tcp(version, size, sequence, number, flags if last else ACK))
        sequence, number = (sequence + size) & 0xFFFFFFFF, number + 1
    return packets


def numbered(packets: Iterable[bytes], number: int = 500) -> list[bytes]:
    """The packets with consecutive identifications, as far as they are IPv4."""
    out = []
    for packet in packets:
        if packet[0] >> 4 == 4:
            head = bytearray(packet[:20])
            head[4:6] = number.to_bytes(2, "big")
            head[10:12] = bytes(2)
            head[10:12] = checksum(head).to_bytes(2, "big")
            packet, number = bytes(head) + packet[20:], number + 1
        out.append(packet)
    return out


def arrived(datagrams: Iterable[EspDatagrams], ecn: int | None = None) -> list[EspDatagrams]:
    """What one end sent, as the other end's receiver sees it."""
    return [
        replace(d, local=d.remote, remote=d.local, packets=list(d.packets), ecn=d.ecn if ecn is None else ecn)
        for d in datagrams
    ]


@dataclass
class Pair:
    """Two memory data planes, a in front of LAN_A and b in front of LAN_B, and the SAs between them."""

    fields: dict[str, Any] = field(default_factory=dict)
    a: MemoryDataPlane = field(default_factory=lambda: MemoryDataPlane(random.Random(1).randbytes))
    b: MemoryDataPlane = field(default_factory=lambda: MemoryDataPlane(random.Random(2).randbytes))
    a_addr: Address = A
    b_addr: Address = B
    spis: Any = field(default_factory=lambda: itertools.count(0x1000))

    def __post_init__(self) -> None:
        self.local = self.fields.pop("local_ts", ts(LAN_A))
        self.remote = self.fields.pop("remote_ts", ts(LAN_B))
        self.install()

    def install(self, now: float = 0.0, policies: bool = True, **more: Any) -> None:
        """One SA each way; ``a_out`` and ``b_in`` are its names towards b, ``b_out`` and ``a_in`` towards a."""
        fields = {**self.fields, **more}
        there, back = next(self.spis), next(self.spis)
        mine = {"local_ts": self.local, "remote_ts": self.remote}
        other = {"local_ts": self.remote, "remote_ts": self.local}
        descriptions = (
            describe(Direction.OUT, there, self.a_addr, self.b_addr, **{**mine, **fields}),
            describe(Direction.IN, there, self.a_addr, self.b_addr, **{**other, **fields}),
            describe(Direction.OUT, back, self.b_addr, self.a_addr, **{**other, **fields}),
            describe(Direction.IN, back, self.b_addr, self.a_addr, **{**mine, **fields}),
        )
        self.a_out, self.b_in, self.b_out, self.a_in = (d.id for d in descriptions)
        self.a.install(descriptions[0], now)
        self.b.install(descriptions[1], now)
        self.b.install(descriptions[2], now)
        self.a.install(descriptions[3], now)
        if policies and not self.a.policies():
            self.a.add_policy(SpdEntry("c/k", Action.PROTECT, self.local, self.remote, 1, 1))
            self.b.add_policy(SpdEntry("c/k", Action.PROTECT, self.remote, self.local, 1, 1))

    def send(self, *packets: bytes, now: float = 0.0) -> list[EspDatagrams]:
        """What a makes of packets, as b will see it."""
        return arrived(self.a.outbound(packets, now))

    def through(self, *packets: bytes, now: float = 0.0) -> list[bytes]:
        """Packets from a's LAN as they come out at b."""
        return [bytes(p) for p in self.b.inbound(self.send(*packets, now=now), now)]

    def counters(self, sa: SaId) -> Any:
        return (self.a if sa in (self.a_out, self.a_in) else self.b).query(sa)


def pcap(path: Path, frames: list[bytes]) -> None:
    """A capture of raw IP packets (LINKTYPE_RAW)."""
    records = b"".join(struct.pack("<IIII", 0, 0, len(f), len(f)) + f for f in frames)
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101) + records)

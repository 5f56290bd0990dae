"""The fixed structures of <linux/xfrm.h> as values: octets of this machine's byte order, padded as the compiler pads.

Nothing in here holds a key. ``parse`` takes at least ``SIZE`` octets at an offset; who calls has checked that they are
there (``codec`` does). Addresses and ports are in network order on the wire, everything else in the host's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6
from typing import ClassVar

from ipsecstack.dataplane.xfrm.numbers import NO_LIMIT, StateMode, Verdict, Way

IPAddress = IPv4Address | IPv6Address
Buffer = bytes | bytearray | memoryview

ANY4, ANY6 = IPv4Address(0), IPv6Address(0)


def family_of(version: int) -> int:
    return int(AF_INET) if version == 4 else int(AF_INET6)


def any_of(family: int) -> IPAddress:
    return ANY6 if family == AF_INET6 else ANY4


def pack_address(address: IPAddress) -> bytes:
    """xfrm_address_t: sixteen octets, of which IPv4 uses the first four."""
    return address.packed.ljust(16, b"\0")


def parse_address(octets: Buffer, family: int) -> IPAddress:
    if family == AF_INET6:
        return IPv6Address(bytes(octets[:16]))
    return IPv4Address(bytes(octets[:4]))


_PORTS = struct.Struct(">HHHH")
_SELECTOR_END = struct.Struct("=HBBB3xiI")


@dataclass(frozen=True, slots=True)
class Selector:
    """struct xfrm_selector: a prefix and a masked port for each side, one protocol (0: any), one device (0: any).

    ``user`` is a number that the kernel keeps and compares when policies are added or deleted, never with packets.
    For ICMP the source port is the type and the destination port the code.
    """

    SIZE: ClassVar[int] = 56

    source: IPAddress
    destination: IPAddress
    source_prefix: int = 0
    destination_prefix: int = 0
    protocol: int = 0
    source_port: int = 0
    source_mask: int = 0
    destination_port: int = 0
    destination_mask: int = 0
    ifindex: int = 0
    user: int = 0
    family: int = -1  # the addresses' own, unless it was read

    @classmethod
    def between(
        cls, source: IPv4Network | IPv6Network, destination: IPv4Network | IPv6Network, user: int = 0
    ) -> Selector:
        """All that goes from one prefix to another."""
        return cls(
            source.network_address,
            destination.network_address,
            source.prefixlen,
            destination.prefixlen,
            user=user,
        )

    @classmethod
    def every(cls, version: int, user: int = 0) -> Selector:
        """Selects all packets of an IP version; version 0 leaves the family open."""
        family = family_of(version) if version else 0
        return cls(any_of(family), any_of(family), user=user, family=family)

    def to_bytes(self) -> bytes:
        family = family_of(self.source.version) if self.family < 0 else self.family
        return (
            pack_address(self.destination)
            + pack_address(self.source)
            + _PORTS.pack(self.destination_port, self.destination_mask, self.source_port, self.source_mask)
            + _SELECTOR_END.pack(
                family, self.destination_prefix, self.source_prefix, self.protocol, self.ifindex, self.user
            )
        )

    @classmethod
    def parse(cls, data: Buffer, at: int = 0) -> Selector:
        family, to_bits, from_bits, protocol, ifindex, user = _SELECTOR_END.unpack_from(data, at + 40)
        dport, dmask, sport, smask = _PORTS.unpack_from(data, at + 32)
        return cls(
            parse_address(data[at + 16 : at + 32], family),
            parse_address(data[at : at + 16], family),
            from_bits,
            to_bits,
            protocol,
            sport,
            smask,
            dport,
            dmask,
            ifindex,
            user,
            -1 if family in (AF_INET, AF_INET6) else family,
        )


_LIMITS = struct.Struct("=8Q")


@dataclass(frozen=True, slots=True)
class Limits:
    """struct xfrm_lifetime_cfg: soft and hard limits; ``NO_LIMIT`` for octets and packets, 0 for seconds means none."""

    SIZE: ClassVar[int] = 64

    soft_octets: int = NO_LIMIT
    hard_octets: int = NO_LIMIT
    soft_packets: int = NO_LIMIT
    hard_packets: int = NO_LIMIT
    soft_seconds: int = 0
    hard_seconds: int = 0
    soft_use_seconds: int = 0
    hard_use_seconds: int = 0

    def to_bytes(self) -> bytes:
        return _LIMITS.pack(
            self.soft_octets,
            self.hard_octets,
            self.soft_packets,
            self.hard_packets,
            self.soft_seconds,
            self.hard_seconds,
            self.soft_use_seconds,
            self.hard_use_seconds,
        )

    @classmethod
    def parse(cls, data: Buffer, at: int = 0) -> Limits:
        return cls(*_LIMITS.unpack_from(data, at))


_USE = struct.Struct("=4Q")


@dataclass(frozen=True, slots=True)
class Use:
    """struct xfrm_lifetime_cur: what passed so far; times in seconds since 1970, ``used`` that of the first packet."""

    SIZE: ClassVar[int] = 32

    octets: int = 0
    packets: int = 0
    added: int = 0
    used: int = 0

    def to_bytes(self) -> bytes:
        return _USE.pack(self.octets, self.packets, self.added, self.used)

    @classmethod
    def parse(cls, data: Buffer, at: int = 0) -> Use:
        return cls(*_USE.unpack_from(data, at))


_FAULTS = struct.Struct("=3I")


@dataclass(frozen=True, slots=True)
class Faults:
    """struct xfrm_stats: packets dropped as too old, as seen before, and for their ICV."""

    SIZE: ClassVar[int] = 12

    before_window: int = 0
    duplicates: int = 0
    integrity: int = 0

    def to_bytes(self) -> bytes:
        return _FAULTS.pack(self.before_window, self.duplicates, self.integrity)

    @classmethod
    def parse(cls, data: Buffer, at: int = 0) -> Faults:
        return cls(*_FAULTS.unpack_from(data, at))


_ID_END = struct.Struct("=4sHB")


@dataclass(frozen=True, slots=True)
class StateId:
    """What names an SA in the kernel: outer destination, SPI (the CPI for IPComp) and IP protocol."""

    SIZE: ClassVar[int] = 24

    destination: IPAddress
    spi: int
    protocol: int

    def to_bytes(self) -> bytes:
        """struct xfrm_usersa_id."""
        family = family_of(self.destination.version)
        return (
            pack_address(self.destination)
            + _ID_END.pack(self.spi.to_bytes(4, "big"), family, self.protocol)
            + b"\0"
        )

    @classmethod
    def parse(cls, data: Buffer, at: int = 0) -> StateId:
        spi, family, protocol = _ID_END.unpack_from(data, at + 16)
        return cls(parse_address(data[at : at + 16], family), int.from_bytes(spi, "big"), protocol)


_REPLAY = struct.Struct("=3I")
_REPLAY_ESN = struct.Struct("=6I")
BITMAP_WORDS_MAX = 4096 // 4


@dataclass(frozen=True, slots=True)
class Replay:
    """Sequence numbers of an SA: last sent, highest received, and the window as words of 32 bits.

    ``window`` 0 with one word is struct xfrm_replay_state, everything else struct xfrm_replay_state_esn.
    """

    sent: int = 0
    received: int = 0
    bitmap: tuple[int, ...] = (0,)
    window: int = 0

    @property
    def extended(self) -> bool:
        return self.window > 0

    def to_bytes(self) -> bytes:
        low = 0xFFFFFFFF
        if not self.extended:
            return _REPLAY.pack(self.sent & low, self.received & low, self.bitmap[0])
        head = _REPLAY_ESN.pack(
            len(self.bitmap),
            self.sent & low,
            self.received & low,
            self.sent >> 32,
            self.received >> 32,
            self.window,
        )
        return head + struct.pack(f"={len(self.bitmap)}I", *self.bitmap)

    @classmethod
    def parse(cls, data: Buffer) -> Replay | None:
        """struct xfrm_replay_state; None when it is cut short."""
        if len(data) < _REPLAY.size:
            return None
        sent, received, bitmap = _REPLAY.unpack_from(data)
        return cls(sent, received, (bitmap,))

    @classmethod
    def parse_extended(cls, data: Buffer) -> Replay | None:
        """struct xfrm_replay_state_esn; None when it is cut short."""
        if len(data) < _REPLAY_ESN.size:
            return None
        words, sent, received, sent_high, received_high, window = _REPLAY_ESN.unpack_from(data)
        if words > BITMAP_WORDS_MAX or len(data) < _REPLAY_ESN.size + 4 * words:
            return None
        bitmap = struct.unpack_from(f"={words}I", data, _REPLAY_ESN.size)
        return cls(sent | sent_high << 32, received | received_high << 32, bitmap, window)


_ENCAP = struct.Struct(">HH")


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """struct xfrm_encap_tmpl: ESP in UDP between these ports, and the address that a NAT has hidden, if known."""

    source_port: int
    destination_port: int
    original: IPAddress = ANY4
    kind: int = 2

    def to_bytes(self) -> bytes:
        return (
            struct.pack("=H", self.kind)
            + _ENCAP.pack(self.source_port, self.destination_port)
            + b"\0\0"
            + pack_address(self.original)
        )

    @classmethod
    def parse(cls, data: Buffer) -> Encapsulation | None:
        """None when it is cut short. The family of the hidden address is not told: it comes as IPv4."""
        if len(data) < 24:
            return None
        (kind,) = struct.unpack_from("=H", data)
        source, destination = _ENCAP.unpack_from(data, 2)
        return cls(source, destination, parse_address(data[8:24], AF_INET), kind)


_TEMPLATE_MIDDLE = struct.Struct("=4sB3xH2x")
_TEMPLATE_END = struct.Struct("=IBBBx3I")


@dataclass(frozen=True, slots=True)
class Template:
    """struct xfrm_user_tmpl: the SA that a policy asks for. Addresses 0 are any; ``optional``: a packet may lack it."""

    SIZE: ClassVar[int] = 64

    protocol: int
    mode: int = StateMode.TUNNEL
    reqid: int = 0
    source: IPAddress = ANY4
    destination: IPAddress = ANY4
    spi: int = 0
    optional: bool = False
    family: int = -1

    def to_bytes(self) -> bytes:
        family = family_of(self.source.version) if self.family < 0 else self.family
        every = 0xFFFFFFFF  # algorithms: the SA's are whatever was negotiated
        return (
            pack_address(self.destination)
            + _TEMPLATE_MIDDLE.pack(self.spi.to_bytes(4, "big"), self.protocol, family)
            + pack_address(self.source)
            + _TEMPLATE_END.pack(self.reqid, self.mode, 0, int(self.optional), every, every, every)
        )

    @classmethod
    def parse(cls, data: Buffer, at: int = 0) -> Template:
        spi, protocol, family = _TEMPLATE_MIDDLE.unpack_from(data, at + 16)
        reqid, mode, _, optional, *_ = _TEMPLATE_END.unpack_from(data, at + 44)
        return cls(
            protocol,
            mode,
            reqid,
            parse_address(data[at + 28 : at + 44], family),
            parse_address(data[at : at + 16], family),
            int.from_bytes(spi, "big"),
            bool(optional),
            -1 if family in (AF_INET, AF_INET6) else family,
        )


_STATE_END = struct.Struct("=IIHBBB7x")
_STATE_ID = struct.Struct("=4sB3x")


@dataclass(frozen=True, slots=True)
class StateInfo:
    """struct xfrm_usersa_info: an SA without its attributes."""

    SIZE: ClassVar[int] = 224

    id: StateId
    source: IPAddress
    selector: Selector
    mode: int = StateMode.TUNNEL
    reqid: int = 0
    replay_window: int = 0
    flags: int = 0
    seq: int = 0
    limits: Limits = field(default_factory=Limits)
    use: Use = field(default_factory=Use)
    faults: Faults = field(default_factory=Faults)

    def to_bytes(self) -> bytes:
        return (
            self.selector.to_bytes()
            + pack_address(self.id.destination)
            + _STATE_ID.pack(self.id.spi.to_bytes(4, "big"), self.id.protocol)
            + pack_address(self.source)
            + self.limits.to_bytes()
            + self.use.to_bytes()
            + self.faults.to_bytes()
            + _STATE_END.pack(
                self.seq,
                self.reqid,
                family_of(self.id.destination.version),
                self.mode,
                self.replay_window,
                self.flags,
            )
        )

    @classmethod
    def parse(cls, data: Buffer, at: int = 0) -> StateInfo:
        seq, reqid, family, mode, window, flags = _STATE_END.unpack_from(data, at + 204)
        spi, protocol = _STATE_ID.unpack_from(data, at + 72)
        destination = parse_address(data[at + 56 : at + 72], family)
        return cls(
            StateId(destination, int.from_bytes(spi, "big"), protocol),
            parse_address(data[at + 80 : at + 96], family),
            Selector.parse(data, at),
            mode,
            reqid,
            window,
            flags,
            seq,
            Limits.parse(data, at + 96),
            Use.parse(data, at + 160),
            Faults.parse(data, at + 192),
        )


_POLICY_END = struct.Struct("=IIBBBB4x")


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """struct xfrm_userpolicy_info: a policy without its templates. Lower ``priority`` is asked first."""

    SIZE: ClassVar[int] = 168

    selector: Selector
    way: int
    verdict: int = Verdict.ALLOW
    priority: int = 0
    index: int = 0
    flags: int = 0
    limits: Limits = field(default_factory=Limits)
    use: Use = field(default_factory=Use)

    def to_bytes(self) -> bytes:
        return (
            self.selector.to_bytes()
            + self.limits.to_bytes()
            + self.use.to_bytes()
            + _POLICY_END.pack(self.priority, self.index, self.way, self.verdict, self.flags, 0)
        )

    @classmethod
    def parse(cls, data: Buffer, at: int = 0) -> PolicyInfo:
        priority, index, way, verdict, flags, _ = _POLICY_END.unpack_from(data, at + 152)
        return cls(
            Selector.parse(data, at),
            way,
            verdict,
            priority,
            index,
            flags,
            Limits.parse(data, at + 56),
            Use.parse(data, at + 120),
        )


def socket_bypass(version: int, way: Way) -> bytes:
    """The value of the socket option IP_XFRM_POLICY or IPV6_XFRM_POLICY: this socket's packets pass unprotected."""
    return PolicyInfo(Selector.every(version), way).to_bytes()

"""One immutable class per IKEv2 payload (RFC 7296 §3.3-3.16): ``parse(body)`` and ``to_bytes()`` of the body.

The generic payload header (§3.2) belongs to ``message``. Classes keep raw numbers: what they mean is the
key exchange's business.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import ClassVar, Protocol

from ipsecstack.wire.ikev2.errors import WireError
from ipsecstack.wire.ikev2.numbers import FIRST_STATUS, PayloadType, TsType, notify_name
from ipsecstack.wire.ikev2.proposals import SaProposal, parse_proposals

NONCE_MIN, NONCE_MAX = 16, 256
MAX_ATTRIBUTES = 256


class Payload(Protocol):
    """What every payload class has: its number, and its body's octets."""

    @property
    def payload_type(self) -> int: ...

    def to_bytes(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Sa:
    """Security Association payload (§3.3)."""

    proposals: tuple[SaProposal, ...]
    payload_type: ClassVar[int] = PayloadType.SA

    @classmethod
    def parse(cls, body: bytes) -> Sa:
        return cls(parse_proposals(body))

    def to_bytes(self) -> bytes:
        count = len(self.proposals)
        return b"".join(p.to_bytes(i == count - 1) for i, p in enumerate(self.proposals))


@dataclass(frozen=True, slots=True)
class Ke:
    """Key Exchange payload (§3.4): method number and public value."""

    method: int
    data: bytes
    payload_type: ClassVar[int] = PayloadType.KE

    @classmethod
    def parse(cls, body: bytes) -> Ke:
        if len(body) < 5:
            raise WireError("KE payload: shorter than its fields")
        return cls(int.from_bytes(body[:2], "big"), body[4:])

    def to_bytes(self) -> bytes:
        return struct.pack("!HH", self.method, 0) + self.data


@dataclass(frozen=True, slots=True)
class _Id:
    """Identification payload (§3.5). ``reserved`` is kept as received: AUTH covers it (§2.15)."""

    type: int
    data: bytes
    reserved: bytes = field(default=bytes(3), repr=False)

    def to_bytes(self) -> bytes:
        return bytes((self.type,)) + self.reserved + self.data


def _parse_id(body: bytes) -> tuple[int, bytes, bytes]:
    if len(body) < 4:
        raise WireError("ID payload: shorter than its fields")
    return body[0], body[4:], body[1:4]


@dataclass(frozen=True, slots=True)
class IdI(_Id):
    """Identification of the initiator (§3.5)."""

    payload_type: ClassVar[int] = PayloadType.IDI

    @classmethod
    def parse(cls, body: bytes) -> IdI:
        return cls(*_parse_id(body))


@dataclass(frozen=True, slots=True)
class IdR(_Id):
    """Identification of the responder (§3.5)."""

    payload_type: ClassVar[int] = PayloadType.IDR

    @classmethod
    def parse(cls, body: bytes) -> IdR:
        return cls(*_parse_id(body))


@dataclass(frozen=True, slots=True)
class Cert:
    """Certificate payload (§3.6)."""

    encoding: int
    data: bytes
    payload_type: ClassVar[int] = PayloadType.CERT

    @classmethod
    def parse(cls, body: bytes) -> Cert:
        if len(body) < 1:
            raise WireError("CERT payload: empty")
        return cls(body[0], body[1:])

    def to_bytes(self) -> bytes:
        return bytes((self.encoding,)) + self.data


@dataclass(frozen=True, slots=True)
class CertReq:
    """Certificate Request payload (§3.7): for X.509, SHA-1 hashes of trust anchors' public key info."""

    encoding: int
    data: bytes
    payload_type: ClassVar[int] = PayloadType.CERTREQ

    @classmethod
    def parse(cls, body: bytes) -> CertReq:
        if len(body) < 1:
            raise WireError("CERTREQ payload: empty")
        return cls(body[0], body[1:])

    @property
    def key_hashes(self) -> tuple[bytes, ...]:
        """The 20-octet hashes; a cut-off last one is left out."""
        return tuple(self.data[i : i + 20] for i in range(0, len(self.data) - 19, 20))

    def to_bytes(self) -> bytes:
        return bytes((self.encoding,)) + self.data


@dataclass(frozen=True, slots=True)
class Auth:
    """Authentication payload (§3.8)."""

    method: int
    data: bytes
    payload_type: ClassVar[int] = PayloadType.AUTH

    @classmethod
    def parse(cls, body: bytes) -> Auth:
        if len(body) < 4:
            raise WireError("AUTH payload: shorter than its fields")
        return cls(body[0], body[4:])

    def to_bytes(self) -> bytes:
        return struct.pack("!B3x", self.method) + self.data


@dataclass(frozen=True, slots=True)
class Nonce:
    """Nonce payload (§3.9): 16 to 256 octets."""

    data: bytes
    payload_type: ClassVar[int] = PayloadType.NONCE

    @classmethod
    def parse(cls, body: bytes) -> Nonce:
        if not NONCE_MIN <= len(body) <= NONCE_MAX:
            raise WireError(f"nonce of {len(body)} octets; {NONCE_MIN} to {NONCE_MAX} are allowed")
        return cls(body)

    def to_bytes(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class Notify:
    """Notify payload (§3.10)."""

    type: int
    data: bytes = b""
    protocol: int = 0
    spi: bytes = b""
    payload_type: ClassVar[int] = PayloadType.NOTIFY

    @property
    def is_error(self) -> bool:
        return self.type < FIRST_STATUS

    @property
    def name(self) -> str:
        return notify_name(self.type)

    @classmethod
    def parse(cls, body: bytes) -> Notify:
        if len(body) < 4:
            raise WireError("Notify payload: shorter than its fields")
        protocol, spi_octets, type_ = struct.unpack_from("!BBH", body)
        if 4 + spi_octets > len(body):
            raise WireError(f"Notify payload: SPI size {spi_octets} does not fit")
        return cls(type_, body[4 + spi_octets :], protocol, body[4 : 4 + spi_octets])

    def to_bytes(self) -> bytes:
        return struct.pack("!BBH", self.protocol, len(self.spi), self.type) + self.spi + self.data


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete payload (§3.11). For the IKE SA protocol is 1 and there are no SPIs."""

    protocol: int
    spis: tuple[bytes, ...] = ()
    payload_type: ClassVar[int] = PayloadType.DELETE

    @classmethod
    def parse(cls, body: bytes) -> Delete:
        if len(body) < 4:
            raise WireError("Delete payload: shorter than its fields")
        protocol, spi_octets, count = struct.unpack_from("!BBH", body)
        if len(body) != 4 + spi_octets * count:
            raise WireError(f"Delete payload: {count} SPIs of {spi_octets} octets do not fit")
        if spi_octets == 0 and count:
            raise WireError("Delete payload: SPIs of no octets")
        return cls(protocol, tuple(body[4 + i * spi_octets : 4 + (i + 1) * spi_octets] for i in range(count)))

    def to_bytes(self) -> bytes:
        size = len(self.spis[0]) if self.spis else 0
        return struct.pack("!BBH", self.protocol, size, len(self.spis)) + b"".join(self.spis)


@dataclass(frozen=True, slots=True)
class VendorId:
    """Vendor ID payload (§3.12)."""

    data: bytes
    payload_type: ClassVar[int] = PayloadType.VENDOR_ID

    @classmethod
    def parse(cls, body: bytes) -> VendorId:
        return cls(body)

    def to_bytes(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class Ts:
    """One traffic selector as on the wire (§3.13.1): protocol, ports and the address range, unchecked for order.

    A selector of an unknown type keeps its octets in ``raw`` and is never matched.
    """

    type: int
    protocol: int
    start_port: int
    end_port: int
    start: IPv4Address | IPv6Address | None
    end: IPv4Address | IPv6Address | None
    raw: bytes = b""

    def to_bytes(self) -> bytes:
        if self.start is None or self.end is None:
            return struct.pack("!BBH", self.type, self.protocol, 4 + len(self.raw)) + self.raw
        addresses = self.start.packed + self.end.packed
        return (
            struct.pack(
                "!BBHHH", self.type, self.protocol, 8 + len(addresses), self.start_port, self.end_port
            )
            + addresses
        )


def _parse_selectors(body: bytes) -> tuple[Ts, ...]:
    if len(body) < 4:
        raise WireError("TS payload: shorter than its fields")
    count = body[0]
    offset = 4
    selectors: list[Ts] = []
    for _ in range(count):
        if len(body) - offset < 4:
            raise WireError("TS payload: a selector is cut short")
        type_, protocol, length = struct.unpack_from("!BBH", body, offset)
        if length < 4 or offset + length > len(body):
            raise WireError(f"TS payload: selector length {length} does not fit")
        content = body[offset + 4 : offset + length]
        octets = {TsType.IPV4_ADDR_RANGE: 4, TsType.IPV6_ADDR_RANGE: 16}.get(type_)
        if octets is None:
            selectors.append(Ts(type_, protocol, 0, 0, None, None, content))
        elif len(content) != 4 + 2 * octets:
            raise WireError(f"TS payload: selector of type {type_} has {length} octets")
        else:
            low, high = struct.unpack_from("!HH", content)
            start, end = ip_address(content[4 : 4 + octets]), ip_address(content[4 + octets :])
            selectors.append(Ts(type_, protocol, low, high, start, end))
        offset += length
    if offset != len(body):
        raise WireError("TS payload: octets follow the last selector")
    return tuple(selectors)


@dataclass(frozen=True, slots=True)
class _TsPayload:
    selectors: tuple[Ts, ...]

    def to_bytes(self) -> bytes:
        return struct.pack("!B3x", len(self.selectors)) + b"".join(s.to_bytes() for s in self.selectors)


@dataclass(frozen=True, slots=True)
class TsI(_TsPayload):
    """Traffic Selector - Initiator payload (§3.13)."""

    payload_type: ClassVar[int] = PayloadType.TSI

    @classmethod
    def parse(cls, body: bytes) -> TsI:
        return cls(_parse_selectors(body))


@dataclass(frozen=True, slots=True)
class TsR(_TsPayload):
    """Traffic Selector - Responder payload (§3.13)."""

    payload_type: ClassVar[int] = PayloadType.TSR

    @classmethod
    def parse(cls, body: bytes) -> TsR:
        return cls(_parse_selectors(body))


@dataclass(frozen=True, slots=True)
class Cp:
    """Configuration payload (§3.15): its CFG type, and attributes as (type, value) in order."""

    cfg_type: int
    attributes: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)
    payload_type: ClassVar[int] = PayloadType.CP

    @classmethod
    def parse(cls, body: bytes) -> Cp:
        if len(body) < 4:
            raise WireError("CP payload: shorter than its fields")
        found: list[tuple[int, bytes]] = []
        offset = 4
        while offset < len(body):
            if len(body) - offset < 4:
                raise WireError("CP payload: an attribute is cut short")
            type_, length = struct.unpack_from("!HH", body, offset)
            offset += 4
            if offset + length > len(body):
                raise WireError(f"CP payload: attribute length {length} does not fit")
            if len(found) >= MAX_ATTRIBUTES:
                raise WireError(f"CP payload: more than {MAX_ATTRIBUTES} attributes")
            found.append((type_ & 0x7FFF, body[offset : offset + length]))
            offset += length
        return cls(body[0], tuple(found))

    def all(self, type_: int) -> list[bytes]:
        """The values of an attribute type."""
        return [value for kind, value in self.attributes if kind == type_]

    def to_bytes(self) -> bytes:
        parts = [struct.pack("!HH", kind & 0x7FFF, len(value)) + value for kind, value in self.attributes]
        return struct.pack("!B3x", self.cfg_type) + b"".join(parts)


@dataclass(frozen=True, slots=True)
class Eap:
    """Extensible Authentication payload (§3.16): one EAP packet, which ``wire.eap`` reads."""

    data: bytes = field(repr=False)
    payload_type: ClassVar[int] = PayloadType.EAP

    @classmethod
    def parse(cls, body: bytes) -> Eap:
        return cls(body)

    def to_bytes(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class Encrypted:
    """Encrypted payload, SK (§3.14): IV, ciphertext and ICV; ``first_payload`` is the first one inside."""

    first_payload: int
    data: bytes
    payload_type: ClassVar[int] = PayloadType.SK

    def to_bytes(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class EncryptedFragment:
    """Encrypted Fragment payload, SKF (RFC 7383 §2.5): fragment ``number`` of ``total``, then as in SK.

    ``first_payload`` is the first one inside the whole message in fragment 1, and 0 in all others.
    """

    first_payload: int
    number: int
    total: int
    data: bytes
    payload_type: ClassVar[int] = PayloadType.SKF

    @classmethod
    def parse(cls, first_payload: int, body: bytes) -> EncryptedFragment:
        if len(body) < 4:
            raise WireError("SKF payload is cut short")
        number, total = struct.unpack_from("!HH", body)
        if not 1 <= number <= total:
            raise WireError(f"SKF payload: fragment {number} of {total} makes no sense")
        if number > 1 and first_payload != PayloadType.NONE:
            raise WireError(f"SKF payload: fragment {number} names a first payload")
        return cls(first_payload, number, total, body[4:])

    def to_bytes(self) -> bytes:
        return struct.pack("!HH", self.number, self.total) + self.data


@dataclass(frozen=True, slots=True)
class Opaque:
    """A payload whose body is kept as it came: every type that is not known here."""

    payload_type: int
    data: bytes = field(repr=False)
    critical: bool = False

    def to_bytes(self) -> bytes:
        return self.data

"""The Security Association payload: proposals, transforms, attributes (RFC 7296 §3.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ipsecstack.wire.ikev2.errors import WireError

KEY_LENGTH = 14
_LAST, _MORE_PROPOSALS, _MORE_TRANSFORMS = 0, 2, 3
_FORMAT_TV = 0x8000


@dataclass(frozen=True, slots=True)
class Attribute:
    """A transform attribute (§3.3.5). ``value`` is the 2 octets of the short (TV) form, or the long form's octets."""

    type: int
    value: bytes
    short: bool = True

    def to_bytes(self) -> bytes:
        if self.short:
            return struct.pack("!H", self.type | _FORMAT_TV) + self.value
        return struct.pack("!HH", self.type, len(self.value)) + self.value


@dataclass(frozen=True, slots=True)
class Transform:
    """A transform substructure (§3.3.2); numbers are raw so that unknown ones survive."""

    type: int
    id: int
    attributes: tuple[Attribute, ...] = ()

    @property
    def key_bits(self) -> int | None:
        """The Key Length attribute in bits, or None."""
        for attribute in self.attributes:
            if attribute.type == KEY_LENGTH and attribute.short:
                return int.from_bytes(attribute.value, "big")
        return None

    @property
    def understood(self) -> bool:
        """False when an attribute other than Key Length is there: such a transform must not be chosen (§3.3.6)."""
        return all(a.type == KEY_LENGTH and a.short for a in self.attributes)

    @classmethod
    def of(cls, type_: int, id_: int, key_bits: int | None = None) -> Transform:
        """A transform with a Key Length attribute when ``key_bits`` is given."""
        attributes = (Attribute(KEY_LENGTH, struct.pack("!H", key_bits)),) if key_bits else ()
        return cls(int(type_), int(id_), attributes)

    def to_bytes(self, last: bool) -> bytes:
        body = b"".join(a.to_bytes() for a in self.attributes)
        return (
            struct.pack(
                "!BBHBBH", _LAST if last else _MORE_TRANSFORMS, 0, 8 + len(body), self.type, 0, self.id
            )
            + body
        )


@dataclass(frozen=True, slots=True)
class SaProposal:
    """A proposal substructure (§3.3.1). ``spi``: none in IKE_SA_INIT, 4 octets for ESP and AH, 8 rekeying IKE."""

    number: int
    protocol: int
    spi: bytes
    transforms: tuple[Transform, ...]

    def of_type(self, type_: int) -> tuple[Transform, ...]:
        return tuple(t for t in self.transforms if t.type == type_)

    def to_bytes(self, last: bool) -> bytes:
        count = len(self.transforms)
        body = self.spi + b"".join(t.to_bytes(i == count - 1) for i, t in enumerate(self.transforms))
        return (
            struct.pack(
                "!BBHBBBB",
                _LAST if last else _MORE_PROPOSALS,
                0,
                8 + len(body),
                self.number,
                self.protocol,
                len(self.spi),
                count,
            )
            + body
        )


def parse_proposals(data: bytes) -> tuple[SaProposal, ...]:
    """The proposals of an SA payload's body; WireError for any length or chain that does not fit."""
    proposals: list[SaProposal] = []
    offset = 0
    more = True
    while more:
        if len(data) - offset < 8:
            raise WireError("SA payload: a proposal is cut short")
        marker, _, length, number, protocol, spi_octets, count = struct.unpack_from("!BBHBBBB", data, offset)
        if marker not in (_LAST, _MORE_PROPOSALS):
            raise WireError(f"SA payload: proposal marker {marker} is neither 0 nor 2")
        if length < 8 + spi_octets or offset + length > len(data):
            raise WireError(f"SA payload: proposal length {length} does not fit")
        body = data[offset + 8 : offset + length]
        transforms = _parse_transforms(body[spi_octets:], count)
        proposals.append(SaProposal(number, protocol, body[:spi_octets], transforms))
        offset += length
        more = marker == _MORE_PROPOSALS
    if offset != len(data):
        raise WireError("SA payload: octets follow the last proposal")
    return tuple(proposals)


def _parse_transforms(data: bytes, count: int) -> tuple[Transform, ...]:
    transforms: list[Transform] = []
    offset = 0
    for index in range(count):
        if len(data) - offset < 8:
            raise WireError("SA payload: a transform is cut short")
        marker, _, length, type_, _, id_ = struct.unpack_from("!BBHBBH", data, offset)
        if marker != (_LAST if index == count - 1 else _MORE_TRANSFORMS):
            raise WireError("SA payload: the transform chain does not match the transform count")
        if length < 8 or offset + length > len(data):
            raise WireError(f"SA payload: transform length {length} does not fit")
        transforms.append(Transform(type_, id_, _parse_attributes(data[offset + 8 : offset + length])))
        offset += length
    if offset != len(data):
        raise WireError("SA payload: octets follow the last transform")
    return tuple(transforms)


def _parse_attributes(data: bytes) -> tuple[Attribute, ...]:
    attributes: list[Attribute] = []
    offset = 0
    while offset < len(data):
        if len(data) - offset < 4:
            raise WireError("SA payload: an attribute is cut short")
        type_, value = struct.unpack_from("!HH", data, offset)
        if type_ & _FORMAT_TV:
            attributes.append(Attribute(type_ & 0x7FFF, data[offset + 2 : offset + 4]))
            offset += 4
            continue
        if offset + 4 + value > len(data):
            raise WireError(f"SA payload: attribute length {value} does not fit")
        attributes.append(Attribute(type_, data[offset + 4 : offset + 4 + value], short=False))
        offset += 4 + value
    return tuple(attributes)

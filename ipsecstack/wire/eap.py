"""EAP packets (RFC 3748 §4, §5): octets to one frozen dataclass and back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

MAX_OCTETS = 0xFFFF


class EapError(ValueError):
    """An EAP packet, or what a method says in it, makes no sense."""


class EapCode(IntEnum):
    """The kinds of packets (§4)."""

    REQUEST = 1
    RESPONSE = 2
    SUCCESS = 3
    FAILURE = 4


class EapType(IntEnum):
    """What a request or response is about (§5, IANA's registry)."""

    IDENTITY = 1
    NOTIFICATION = 2
    NAK = 3
    MD5 = 4
    OTP = 5
    GTC = 6
    TLS = 13
    MSCHAPV2 = 26
    EXPANDED = 254

    @property
    def label(self) -> str:
        return self.name


def type_name(number: int) -> str:
    """The name of a type, or its number."""
    try:
        return EapType(number).name
    except ValueError:
        return f"type {number}"


@dataclass(frozen=True, slots=True)
class EapPacket:
    """One packet; ``type`` is 0 and ``data`` empty for Success and Failure."""

    code: int
    identifier: int
    type: int = 0
    data: bytes = b""

    @classmethod
    def parse(cls, octets: bytes) -> EapPacket:
        """EapError when it is cut short or no EAP. What follows the packet's own length is padding (§4)."""
        if len(octets) < 4:
            raise EapError("EAP packet: shorter than its header")
        code, identifier, length = octets[0], octets[1], int.from_bytes(octets[2:4], "big")
        if not 4 <= length <= len(octets):
            raise EapError(f"EAP packet: length {length} does not fit into {len(octets)} octets")
        if code in (EapCode.SUCCESS, EapCode.FAILURE):
            return cls(code, identifier)
        if code not in (EapCode.REQUEST, EapCode.RESPONSE):
            raise EapError(f"EAP packet: code {code} is not known")
        if length < 5:
            raise EapError("EAP packet: a request or response without a type")
        return cls(code, identifier, octets[4], octets[5:length])

    def to_bytes(self) -> bytes:
        if self.code in (EapCode.SUCCESS, EapCode.FAILURE):
            return bytes((self.code, self.identifier, 0, 4))
        length = 5 + len(self.data)
        if length > MAX_OCTETS:
            raise EapError(f"EAP packet of {length} octets is too long")
        return (
            bytes((self.code, self.identifier)) + length.to_bytes(2, "big") + bytes((self.type,)) + self.data
        )

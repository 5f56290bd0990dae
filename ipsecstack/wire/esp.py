"""The fixed fields of an ESP packet (RFC 4303 §2): header in front, padding and next header behind."""

from __future__ import annotations

import struct
from dataclasses import dataclass

Buffer = bytes | bytearray | memoryview

HEADER_OCTETS = 8
NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE = 4, 41, 59
NON_ESP_MARKER = bytes(4)  # RFC 3948 §2.2: an SPI of zero in UDP 4500 is IKE
MIN_SPI, MAX_SPI = 256, 0xFFFFFFFF  # RFC 4303 §2.1: 0..255 are reserved

_HEADER = struct.Struct("!II")
_PADDING = bytes(range(1, 256))


class EspFormatError(ValueError):
    """Not an ESP header, or padding that RFC 4303 §2.4 does not allow."""


@dataclass(frozen=True, slots=True)
class EspHeader:
    """SPI and the low 32 bits of the sequence number."""

    spi: int
    sequence_number: int

    @classmethod
    def parse(cls, packet: Buffer) -> EspHeader:
        """Raises EspFormatError when shorter than a header or with the reserved SPI 0."""
        if len(packet) < HEADER_OCTETS:
            raise EspFormatError(f"an ESP packet of {len(packet)} octets")
        spi, sequence_number = _HEADER.unpack_from(packet)
        if spi == 0:
            raise EspFormatError("SPI 0")
        return cls(spi, sequence_number)

    def to_bytes(self) -> bytes:
        return _HEADER.pack(self.spi, self.sequence_number)


def trailer(pad_length: int, next_header: int) -> bytes:
    """Padding 1, 2, 3 ..., its length (0..255) and the next header (RFC 4303 §2.4-2.6)."""
    return _PADDING[:pad_length] + bytes((pad_length, next_header))


def payload_length(plaintext: Buffer) -> int:
    """Where the payload of a decrypted ESP packet ends; its last octet is the next header.

    Raises EspFormatError when the padding is longer than what is there or is not 1, 2, 3 ... .
    """
    if len(plaintext) < 2:
        raise EspFormatError("no room for the ESP trailer")
    pad = plaintext[-2]
    end = len(plaintext) - 2 - pad
    if end < 0:
        raise EspFormatError(f"padding of {pad} octets in {len(plaintext)}")
    if pad and plaintext[end:-2] != _PADDING[:pad]:
        raise EspFormatError("padding is not 1, 2, 3 ...")
    return end

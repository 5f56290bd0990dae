"""ESP protection of single packets (RFC 4303): the plain definition that the batch path must agree with.

An ``EspTransform`` holds the keys of one SA; sequence numbers, windows and counters belong to the SAD.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from ipsecstack.crypto import encr, integ
from ipsecstack.crypto.encr import AeadCipher, CbcCipher
from ipsecstack.crypto.errors import IntegrityError, UnknownAlgorithm
from ipsecstack.ipsec.sa import SaDescription
from ipsecstack.wire.esp import HEADER_OCTETS, EspFormatError, payload_length, trailer

Buffer = bytes | bytearray | memoryview
Random = Callable[[int], bytes]

_HEADER = struct.Struct("!II")
_AAD_ESN = struct.Struct("!IQ")
_LOW = 0xFFFFFFFF


class TransformError(ValueError):
    """These algorithms and keys cannot make an ESP SA; the message says why and never shows a key."""


class PaddingError(ValueError):
    """The packet is authentic, but its padding is not what RFC 4303 §2.4 prescribes."""


class EspTransform:
    """The keyed algorithms of one ESP SA. Raises TransformError for unknown algorithms and wrong key lengths.

    Lengths are in octets; ``align`` is what payload, padding and trailer are a multiple of.
    """

    __slots__ = (
        "_iv_counter",
        "aead",
        "align",
        "cbc",
        "cipher",
        "esn",
        "icv_octets",
        "iv_octets",
        "mac",
        "spi",
        "trailers",
    )

    def __init__(self, sa: SaDescription) -> None:
        try:
            encryption = encr.get(sa.encr, sa.encr_key_bits)
            integrity = integ.for_sa(sa.integ, sha256_96=sa.sha256_96)
            self.cipher = encryption.new(sa.key_encr)
            self.mac = integrity.new(sa.key_integ)
        except (UnknownAlgorithm, ValueError) as error:
            raise TransformError(str(error)) from None
        if encryption.aead and integrity.icv_octets:
            raise TransformError(f"{encryption.name} authenticates itself: no {integrity.name} beside it")
        if not encryption.aead and not integrity.icv_octets:
            raise TransformError(f"{encryption.name} without integrity is not allowed (RFC 8221 §4)")
        if integrity.ah_only:
            raise TransformError(f"{integrity.name} is for AH only")
        self.spi = sa.spi
        self.esn = sa.esn
        self.iv_octets = encryption.iv_octets
        self._iv_counter = encryption.iv_counter
        self.icv_octets = encryption.icv_octets or integrity.icv_octets
        self.align = max(4, encryption.block_octets)
        # For the batch path: the cipher by its kind, and the trailer by payload length modulo align and IP version.
        self.aead = self.cipher if isinstance(self.cipher, AeadCipher) else None
        self.cbc = self.cipher if isinstance(self.cipher, CbcCipher) else None
        self.trailers = {
            next_header: tuple(trailer(-(rest + 2) % self.align, next_header) for rest in range(self.align))
            for next_header in (4, 41)
        }

    def __repr__(self) -> str:
        return f"<EspTransform spi={self.spi:08x} {self.cipher!r} {self.mac!r}>"

    def trailers_of(self, next_header: int) -> tuple[bytes, ...]:
        """The trailer for each payload length modulo ``align``, kept for the next batch."""
        found = self.trailers.get(next_header)
        if found is None:
            found = tuple(trailer(-(rest + 2) % self.align, next_header) for rest in range(self.align))
            self.trailers[next_header] = found
        return found

    def max_payload(self, room: int) -> int:
        """The longest payload whose ESP packet has at most ``room`` octets."""
        return (room - HEADER_OCTETS - self.iv_octets - self.icv_octets) // self.align * self.align - 2

    def aad(self, sequence_number: int) -> bytes:
        """What an AEAD authenticates beside the payload (RFC 4106 §5): SPI and the whole sequence number."""
        return (_AAD_ESN if self.esn else _HEADER).pack(self.spi, sequence_number)

    def seal(
        self, payload: Buffer, next_header: int, sequence_number: int, random: Random, tfc: int = 0
    ) -> bytes:
        """One ESP packet. ``tfc`` octets of traffic flow confidentiality padding follow the payload (RFC 4303 §2.7).

        ``random(n)`` gives n octets for IVs that must be unpredictable; a counter IV is the sequence number.
        """
        iv = sequence_number.to_bytes(8, "big") if self._iv_counter else random(self.iv_octets)
        size = len(payload) + tfc
        plaintext = bytes(payload) + bytes(tfc) + trailer(-(size + 2) % self.align, next_header)
        return self.protect(plaintext, iv, sequence_number)

    def protect(self, plaintext: bytes, iv: bytes, sequence_number: int) -> bytes:
        """The ESP packet of payload, padding and trailer with this IV: encryption and ICV alone."""
        head = _HEADER.pack(self.spi, sequence_number & _LOW) + iv
        if self.aead:
            return head + self.cipher.seal(iv, self.aad(sequence_number), plaintext)
        packet = head + self.cipher.seal(iv, b"", plaintext)
        return packet + self.mac.sign(packet, self.seqh(sequence_number))

    def open(self, packet: Buffer, sequence_number: int) -> tuple[bytes, int]:
        """Payload (with TFC padding, if any) and next header of a received packet with this whole sequence number.

        Raises IntegrityError when it is not authentic, PaddingError when it is but its padding is wrong.
        """
        start = HEADER_OCTETS + self.iv_octets
        if len(packet) < start + self.icv_octets:
            raise IntegrityError("shorter than its IV and ICV")
        iv = packet[HEADER_OCTETS:start]
        if self.aead:
            plaintext = self.cipher.open(iv, self.aad(sequence_number), packet[start:])
        else:
            end = len(packet) - self.icv_octets
            if not self.mac.verify(packet[end:], packet[:end], self.seqh(sequence_number)):
                raise IntegrityError("ICV does not verify")
            try:
                plaintext = self.cipher.open(iv, b"", packet[start:end])
            except IntegrityError as error:
                raise PaddingError(str(error)) from None
        try:
            end = payload_length(plaintext)
        except EspFormatError as error:
            raise PaddingError(str(error)) from None
        return plaintext[:end], plaintext[-1]

    def seqh(self, sequence_number: int) -> bytes:
        """The high half of an extended number, authenticated but not sent (RFC 4303 §2.2.1)."""
        return (sequence_number >> 32).to_bytes(4, "big") if self.esn else b""

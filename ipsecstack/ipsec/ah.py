"""AH protection of single packets (RFC 4302): tunnel mode is transport mode of a packet in a new header.

An ``AhTransform`` holds the key of one SA; sequence numbers, windows and counters belong to the SAD.
"""

from __future__ import annotations

from ipsecstack.crypto import integ
from ipsecstack.crypto.errors import IntegrityError, UnknownAlgorithm
from ipsecstack.crypto.integ import GmacMac
from ipsecstack.ipsec.esp import TransformError
from ipsecstack.ipsec.sa import SaDescription
from ipsecstack.wire.ah import FIXED_OCTETS, AuthenticationHeader, covered, find, insertion_point
from ipsecstack.wire.ip import PROTO_AH, Buffer, PacketError, checksum

_LOW = 0xFFFFFFFF
_MAX_OCTETS = 65535


class AhTransform:
    """The keyed integrity algorithm of one AH SA. Raises TransformError for unknown ones and wrong key lengths."""

    __slots__ = ("esn", "icv_octets", "mac", "spi")

    def __init__(self, sa: SaDescription) -> None:
        try:
            algorithm = integ.for_sa(sa.integ, sha256_96=sa.sha256_96)
            self.mac = algorithm.new(sa.key_integ)
        except (UnknownAlgorithm, ValueError) as error:
            raise TransformError(str(error)) from None
        if not algorithm.icv_octets:
            raise TransformError("AH without an integrity algorithm protects nothing (RFC 4302 §2.6)")
        if sa.key_encr:
            raise TransformError("AH takes no encryption key")
        self.spi = sa.spi
        self.esn = sa.esn
        self.icv_octets = algorithm.icv_octets

    def __repr__(self) -> str:
        return f"<AhTransform spi={self.spi:08x} {self.mac!r}>"

    def header_octets(self, version: int) -> int:
        """The whole AH, padded to 4 octets in IPv4 and to 8 in IPv6 (RFC 4302 §2.6)."""
        octets = FIXED_OCTETS + self.icv_octets
        return octets + -octets % (4 if version == 4 else 8)

    def seal(self, packet: Buffer, sequence_number: int) -> bytes:
        """An IP packet (whole, well-formed, no fragment) with an AH in it. Raises PacketError when it cannot be.

        An IPv4 packet must have an identification: a raw socket would make one where there is none.
        """
        version = packet[0] >> 4
        at, named = insertion_point(packet)
        room = self.header_octets(version) - FIXED_OCTETS
        header = AuthenticationHeader(packet[named], self.spi, sequence_number & _LOW, bytes(room))
        out = bytearray(b"".join((packet[:at], header.to_bytes(), packet[at:])))
        out[named] = PROTO_AH
        set_length(out)
        seen = covered(out, at, self.icv_octets, leaving=True)
        high = self._high(sequence_number)
        start = at + FIXED_OCTETS
        if isinstance(self.mac, GmacMac):
            # AES-GMAC (RFC 4543 §4): the IV must never repeat, which the sequence number does not.
            iv = sequence_number.to_bytes(8, "big")
            out[start : start + self.icv_octets] = self.mac.sign_iv(iv, seen, high)
        else:
            out[start : start + self.icv_octets] = self.mac.sign(seen, high)
        return bytes(out)

    def open(self, packet: Buffer, sequence_number: int) -> tuple[bytes, int, int]:
        """A received packet without its AH, where that was, and the next header that followed it.

        Raises IntegrityError when it is not authentic.
        """
        try:
            place = find(packet)
            if place is None:
                raise IntegrityError("no AH in it")
            at, named = place
            header = AuthenticationHeader.parse(packet[at:])
            padding = len(header.icv) - self.icv_octets
            if not 0 <= padding < 8:
                raise IntegrityError("an ICV of the wrong length")
            seen = covered(packet, at, self.icv_octets, leaving=False)
        except PacketError as error:
            raise IntegrityError(str(error)) from None
        if not self.mac.verify(header.icv[: self.icv_octets], seen, self._high(sequence_number)):
            raise IntegrityError("ICV does not verify")
        out = bytearray(b"".join((packet[:at], packet[at + header.octets :])))
        out[named] = header.next_header
        set_length(out)
        return bytes(out), at, header.next_header

    def _high(self, sequence_number: int) -> bytes:
        """The high half of an extended number, authenticated but not sent (RFC 4302 §2.5.1)."""
        return (sequence_number >> 32).to_bytes(4, "big") if self.esn else b""


def set_length(packet: bytearray) -> None:
    """Fill in the packet's length, and the IPv4 header checksum. Raises PacketError when it is too long for IP."""
    if packet[0] >> 4 == 4:
        if len(packet) > _MAX_OCTETS:
            raise PacketError(f"an IPv4 packet of {len(packet)} octets")
        packet[2:4] = len(packet).to_bytes(2, "big")
        packet[10:12] = bytes(2)
        packet[10:12] = checksum(packet[: (packet[0] & 15) * 4]).to_bytes(2, "big")
    else:
        if len(packet) - 40 > _MAX_OCTETS:
            raise PacketError(f"an IPv6 packet of {len(packet)} octets")
        packet[4:6] = (len(packet) - 40).to_bytes(2, "big")

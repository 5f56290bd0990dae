"""The IPComp header (RFC 3173 §3): four octets before a compressed payload."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ipsecstack.wire.ip import Buffer, PacketError

PROTO_IPCOMP = 108
HEADER_OCTETS = 4

_HEADER = struct.Struct("!BBH")


@dataclass(frozen=True, slots=True)
class IpcompHeader:
    """``next_header`` is what was compressed; ``cpi`` names the association at the receiver."""

    next_header: int
    cpi: int

    @classmethod
    def parse(cls, data: Buffer) -> IpcompHeader:
        """Raises PacketError when it is too short. The flags octet is ignored on receipt (RFC 3173 §3.3)."""
        if len(data) < HEADER_OCTETS:
            raise PacketError(f"an IPComp header of {len(data)} octets")
        next_header, _, cpi = _HEADER.unpack_from(data)
        return cls(next_header, cpi)

    def to_bytes(self) -> bytes:
        return _HEADER.pack(self.next_header, 0, self.cpi)

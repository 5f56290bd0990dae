"""IP payload compression with DEFLATE (RFC 3173, RFC 2394), bounded in both directions."""

from __future__ import annotations

import zlib

from ipsecstack.wire.ip import Buffer, PacketError
from ipsecstack.wire.ipcomp import HEADER_OCTETS, PROTO_IPCOMP, IpcompHeader

THRESHOLD = 90  # octets; shorter payloads are left alone (RFC 2394 §4)
MAX_OCTETS = 65535  # of what a packet may be decompressed to
_RAW = -15  # no zlib header, the largest window
_FAILURES = 8  # incompressible payloads in a row, after which it is not tried for a while
_PAUSE = 64  # payloads that are then let pass


class Compressor:
    """Compresses the payloads of one SA, each by itself. Adaptive as RFC 3173 §2.2 wants it: a stream of payloads that
    do not get shorter is left alone for a while.
    """

    __slots__ = ("_cpi", "_failures", "_pause")

    def __init__(self, cpi: int) -> None:
        self._cpi = cpi
        self._failures = 0
        self._pause = 0

    def compress(self, payload: Buffer, next_header: int) -> bytes | None:
        """The IPComp header and compressed payload, or None when it is to be sent as it is: it never grows."""
        if len(payload) < THRESHOLD:
            return None
        if self._pause:
            self._pause -= 1
            return None
        deflate = zlib.compressobj(wbits=_RAW)
        data = deflate.compress(payload) + deflate.flush()
        if len(data) + HEADER_OCTETS >= len(payload):
            self._failures += 1
            if self._failures == _FAILURES:
                self._failures, self._pause = 0, _PAUSE
            return None
        self._failures = 0
        return IpcompHeader(next_header, self._cpi).to_bytes() + data


def decompress(data: Buffer, cpi: int) -> tuple[bytes, int]:
    """What was compressed, and its next header. Raises PacketError for another CPI, damaged data, and more than fits
    into an IP packet, of which never more is made than that.
    """
    header = IpcompHeader.parse(data)
    if header.cpi != cpi:
        raise PacketError(f"CPI {header.cpi} is not this SA's")
    if header.next_header == PROTO_IPCOMP:
        raise PacketError("compressed twice")
    inflate = zlib.decompressobj(wbits=_RAW)
    try:
        payload = inflate.decompress(data[HEADER_OCTETS:], MAX_OCTETS)
    except zlib.error:
        raise PacketError("compressed data is damaged") from None
    if not inflate.eof:
        raise PacketError(
            f"compressed data gives more than {MAX_OCTETS} octets"
            if inflate.unconsumed_tail
            else "compressed data ends early"
        )
    return payload, header.next_header

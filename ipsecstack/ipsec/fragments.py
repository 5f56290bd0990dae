"""Fragments that must be understood: reassembly with limits, and which datagram a later fragment belongs to.

``Reassembler`` makes whole datagrams again where a whole one is needed (transport mode and AH, RFC 4303 §3.3.4 and
RFC 4302 §3.3.4). ``FragmentTracker`` remembers first fragments, for later ones show no ports (RFC 4301 §7.3).
"""

from __future__ import annotations

from collections import OrderedDict

from ipsecstack.ipsec.ah import set_length
from ipsecstack.wire.ah import FRAGMENT, find
from ipsecstack.wire.ip import Buffer, PacketError, split_fragment_key

TIMEOUT = 30.0  # seconds from the first fragment to the last (RFC 791: 15; RFC 8200 §4.5: at most 60)
MAX_DATAGRAMS = 256
MAX_OCTETS = 1 << 20  # of all that waits
MAX_PIECES = 512  # of one datagram
_LONGEST = 65535


class _Datagram:
    __slots__ = ("octets", "pieces", "since", "total")

    def __init__(self, since: float) -> None:
        self.since = since
        self.pieces: dict[int, bytes] = {}  # payload by its offset, in octets
        self.octets = 0
        self.total: int | None = None


class Reassembler:
    """Makes datagrams of fragments, within limits of memory and time.

    ``dropped`` counts fragments that came to nothing: too late, too many, overlapping, of contradictory length. A
    datagram with overlapping fragments is dropped whole (RFC 5722 §4; in IPv4 it is a forgery or damage as well);
    exact duplicates are ignored.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[bytes, tuple[_Datagram, dict[str, bytes]]] = OrderedDict()
        self._octets = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: bytes, packet: Buffer, now: float) -> bytes | None:
        """Take a fragment with its flow key (``wire.ip.flow_key``); the datagram when this one made it complete."""
        self.expire(now)
        _, name, _ = split_fragment_key(key)
        if name is None:
            return bytes(packet)
        parts = _fragment(packet)
        if parts is None:
            self.dropped += 1
            return None
        offset, more, piece, headers = parts
        waiting = self._waiting.get(name)
        if waiting is None:
            waiting = self._waiting[name] = (_Datagram(now), {})
        datagram, first = waiting
        if datagram.pieces.get(offset) == piece:
            return None
        if not self._fits(datagram, offset, len(piece), more):
            self.dropped += 1
            self._drop(name)
            return None
        datagram.pieces[offset] = piece
        datagram.octets += len(piece)
        self._octets += len(piece)
        if not more:
            datagram.total = offset + len(piece)
        if offset == 0:
            first["headers"] = headers
        if datagram.total is not None and datagram.octets == datagram.total:
            del self._waiting[name]
            self._octets -= datagram.octets
            return self._whole(datagram, first["headers"])
        while len(self._waiting) > MAX_DATAGRAMS or self._octets > MAX_OCTETS:
            self._drop(next(iter(self._waiting)))
        return None

    def _whole(self, datagram: _Datagram, headers: bytes) -> bytes | None:
        out = bytearray(headers)
        for offset in sorted(datagram.pieces):
            out += datagram.pieces[offset]
        try:
            set_length(out)
        except PacketError:
            self.dropped += len(datagram.pieces)
            return None
        return bytes(out)

    def _fits(self, datagram: _Datagram, offset: int, octets: int, more: bool) -> bool:
        end = offset + octets
        if not octets or end > _LONGEST or (more and octets % 8) or len(datagram.pieces) >= MAX_PIECES:
            return False
        if any(offset < at + len(piece) and at < end for at, piece in datagram.pieces.items()):
            return False
        if datagram.total is not None:
            return more and end <= datagram.total
        return more or all(at + len(piece) <= end for at, piece in datagram.pieces.items())

    def _drop(self, name: bytes) -> None:
        datagram, _ = self._waiting.pop(name)
        self._octets -= datagram.octets
        self.dropped += len(datagram.pieces)

    def expire(self, now: float) -> None:
        """Give up what has waited too long."""
        while self._waiting:
            name, (datagram, _) = next(iter(self._waiting.items()))
            if now - datagram.since < TIMEOUT:
                break
            self._drop(name)


def _fragment(packet: Buffer) -> tuple[int, bool, bytes, bytes] | None:
    """Offset in octets, whether more follow, the payload, and the headers that the whole datagram will have.

    None for an IPv6 packet whose Fragment header stands where none belongs.
    """
    if packet[0] >> 4 == 4:
        start = (packet[0] & 15) * 4
        flags = packet[6] << 8 | packet[7]
        headers = bytearray(packet[:start])
        headers[6:8] = bytes(2)
        return (flags & 0x1FFF) * 8, bool(flags & 0x2000), bytes(packet[start:]), bytes(headers)
    place = find(packet, FRAGMENT)
    if place is None:
        return None
    at, named = place
    flags = packet[at + 2] << 8 | packet[at + 3]
    headers = bytearray(packet[:at])
    headers[named] = packet[at]
    return flags & 0xFFF8, bool(flags & 1), bytes(packet[at + 8 :]), bytes(headers)


class FragmentTracker:
    """First fragments that passed, so that the later ones of the same datagram may follow (RFC 4301 §7.3)."""

    def __init__(self, limit: int = 512) -> None:
        self._passed: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._limit = limit

    def __len__(self) -> int:
        return len(self._passed)

    def remember(self, name: bytes, key: bytes, now: float) -> None:
        """A first fragment of datagram ``name`` (``split_fragment_key``) with this flow key passed."""
        self._passed.pop(name, None)
        self._passed[name] = (now, key)
        if len(self._passed) > self._limit:
            self._passed.popitem(last=False)

    def find(self, name: bytes, now: float) -> bytes | None:
        """The flow key of the datagram's first fragment; None when none passed of late."""
        found = self._passed.get(name)
        if found is None:
            return None
        if now - found[0] >= TIMEOUT:
            del self._passed[name]
            return None
        return found[1]

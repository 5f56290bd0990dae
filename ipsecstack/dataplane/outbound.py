"""Inner packets to ESP and AH (RFC 4301 §5.1).

ESP in tunnel mode goes in runs of one SA and outer header (``_seal``). What more must be done for ``special`` SAs, and
for what does not fit, is done packet by packet first (``_prepare``); the cipher's batches are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.dataplane.decide import Deciding
from ipsecstack.dataplane.processing import Packet
from ipsecstack.ipsec.ah import AhTransform
from ipsecstack.ipsec.esp_batch import seal_batch
from ipsecstack.ipsec.lifetime import LimitReached
from ipsecstack.ipsec.sa import Mode, SecurityProtocol
from ipsecstack.ipsec.sad import OutboundSa
from ipsecstack.ipsec.transport import Parts, new_header, put_together, take_apart
from ipsecstack.wire.esp import NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE
from ipsecstack.wire.fragment import fragment_packet
from ipsecstack.wire.icmp import too_big
from ipsecstack.wire.ip import (
    IPv4Header,
    PacketError,
    flow_key,
    fragment_ipv4,
    may_fragment,
    split_fragment_key,
    traffic_class,
)
from ipsecstack.wire.ipcomp import PROTO_IPCOMP

_DONT_FRAGMENT = 0x4000  # beside the octet of DSCP and ECN, in the key of a run
_ESP, _AH = 50, 51
_LONGEST = 65535 - 256  # what leaves room for every outer header


@dataclass(slots=True)
class _Run:
    """Payloads that leave in one batch. ``octets`` are inner ones, of each, where they are not the payload's.

    ``next_header`` None: the payloads are IP packets. ``headers`` are put in front of each ESP packet: the outer header
    is more than a socket makes.
    """

    payloads: list[Packet] = field(default_factory=list)
    octets: list[int] | None = None
    next_header: int | None = None
    headers: list[Parts] | None = None


class OutboundProcessing(Deciding):
    """The way out."""

    def outbound(self, packets: Iterable[Packet], now: float, interface: str = "") -> list[EspDatagrams]:
        """Inner IP packets to ESP and AH, in order for each SA and traffic class.

        ``interface`` is the virtual interface they leave by; the SPD may have entries of its own for it.
        """
        runs: dict[tuple[OutboundSa, int], list[Packet]] = {}
        decisions = self._decisions.get(interface)
        if decisions is None:
            decisions = self._decisions[interface] = {}
        run: list[Packet] = []
        special: list[tuple[OutboundSa, bytes, Packet]] = []
        last_sa, last_tos, longest = None, -1, 0
        if self._released:
            packets = [*self._released, *packets]
            self._released = []
        for packet in packets:
            try:
                key = flow_key(packet)
            except PacketError:
                self.counters.malformed_out += 1
                continue
            sa = decisions.get(key)
            if sa is None:
                sa = self._special.get((interface, key)) or self._decide(key, packet, now, interface)
                if sa is None:
                    continue
                if sa.special:
                    special.append((sa, key, packet))
                    continue
            # What else stands beside DF in that octet splits a run at worst: ``_outer_tos`` looks at DF alone.
            tos = packet[1] | packet[6] << 8 if packet[0] < 0x60 else traffic_class(packet) | 0x4000
            if sa is not last_sa or tos != last_tos:
                last_sa, last_tos, longest = sa, tos, sa.max_packet
                run = runs.setdefault((sa, self._outer_tos(sa, tos)), [])
            if len(packet) <= longest:
                run.append(packet)
            else:
                run += self._fit_packet(sa, packet)
        datagrams = []
        for (sa, tos), run_packets in runs.items():
            if run_packets and (sealed := self._seal(sa, _Run(run_packets), now)):
                datagrams.append(_datagrams(sa, sealed, tos))
        if special:
            datagrams += self._outbound_special(special, now)
        if self._dummies:
            datagrams += self._send_dummies(now)
        return datagrams

    # --- sealing -------------------------------------------------------------------------------------------------

    def _seal(self, sa: OutboundSa, run: _Run, now: float) -> list[bytes | memoryview]:
        """Seal a run within the SA's limits: what is beyond a hard limit is dropped."""
        packets = run.payloads
        octets = sum(map(len, packets)) if run.octets is None else sum(run.octets)
        counters, lifetime = sa.counters, sa.lifetime
        if lifetime.expired:
            self.counters.no_sa_out += len(packets)
            return []
        whole = (
            counters.octets + octets < lifetime.next_octets
            and counters.packets + len(packets) < lifetime.next_packets
            and sa.sequence_number + len(packets) < (sa.soft_sequence_number or sa.last_sequence_number)
        )
        self._touched.add(sa)
        counters.last_used = now
        if whole:
            sealed = self._protect(sa, run, 0, len(packets))
            counters.octets += octets
            counters.packets += len(packets)
            return sealed
        # A limit is near: count packet by packet, so that it is told, and a hard one obeyed, to the packet.
        out: list[bytes | memoryview] = []
        for number, packet in enumerate(packets):
            if lifetime.expired:
                self.counters.no_sa_out += 1
                continue
            out += self._protect(sa, run, number, number + 1)
            counters.octets += len(packet) if run.octets is None else run.octets[number]
            counters.packets += 1
            self._expire(sa, lifetime.at_counts(counters.octets, counters.packets))
            self._watch_sequence(sa)
        return out

    def _protect(self, sa: OutboundSa, run: _Run, start: int, end: int) -> list[bytes | memoryview]:
        """The ESP or AH packets of a part of a run, with the next sequence numbers."""
        transform, packets, first = sa.transform, run.payloads[start:end], sa.sequence_number + 1
        sa.sequence_number += end - start
        if isinstance(transform, AhTransform):
            return self._protect_ah(transform, packets, first)
        sealed: list[bytes | memoryview] = list(
            seal_batch(transform, packets, first, self._random, run.next_header)
        )
        if run.headers is None:
            return sealed
        return [
            put_together(parts.headers, parts.named, _ESP, packet)
            for parts, packet in zip(run.headers[start:end], sealed, strict=True)
        ]

    def _protect_ah(
        self, transform: AhTransform, packets: list[Packet], first: int
    ) -> list[bytes | memoryview]:
        sealed: list[bytes | memoryview] = []
        for number, packet in enumerate(packets, first):
            try:
                sealed.append(transform.seal(packet, number))
            except PacketError:
                self.counters.malformed_out += 1  # options that make no sense
        return sealed

    def _watch_sequence(self, sa: OutboundSa) -> None:
        """A sequence number must never repeat (RFC 4303 §3.3.3): ask for a rekey in time, stop at the end."""
        if sa.lifetime.expired:
            return
        if sa.sequence_number >= sa.last_sequence_number:
            sa.lifetime.exhaust()
            self._expire(sa, [LimitReached("sequence", True)])
        elif sa.soft_sequence_number is not None and sa.sequence_number >= sa.soft_sequence_number:
            sa.soft_sequence_number = None
            self._expire(sa, [LimitReached("sequence", False)])

    # --- what fits -----------------------------------------------------------------------------------------------

    def _fit(self, sa: OutboundSa) -> None:
        """The longest inner packet whose datagram fits the path to the peer."""
        d = sa.description
        outer = 20 if d.destination.host.version == 4 else 40
        room = self._paths.get(d.destination.host) - outer - (8 if d.encapsulated else 0)
        if isinstance(sa.transform, AhTransform):
            sa.max_packet = room - sa.transform.header_octets(d.destination.host.version)
        else:
            sa.max_packet = sa.transform.max_payload(room)
        if d.mode is Mode.TRANSPORT:
            sa.max_packet += outer  # the packet's own header is the outer one

    def _fit_packet(self, sa: OutboundSa, packet: Packet, in_fragments: bool = False) -> Sequence[Packet]:
        """What to send of a packet that is too long for the path: fragments, the packet itself when the outer one is to
        be fragmented, or nothing and an ICMP error (RFC 4301 §8.2.1)."""
        d = sa.description
        if in_fragments or may_fragment(packet):
            self.counters.fragmented_out += 1
            if d.fragment == "after" or d.mode is Mode.TRANSPORT:
                return (packet,)
            try:
                return fragment_ipv4(packet, sa.max_packet)
            except PacketError:
                self.counters.malformed_out += 1
                return ()
        if (packet[0] >> 4 == 6 and sa.max_packet < 1280 and len(packet) <= 1280) or not d.copy_df:
            # RFC 8200 §5: 1280 octets always pass inside; the outer packet gets fragmented instead.
            self.counters.fragmented_out += 1
            return (packet,)
        error = too_big(packet, sa.max_packet)
        self.counters.too_big_out += 1
        if error is not None:
            self._to_device.append(error)
        return ()

    def _outer_tos(self, sa: OutboundSa, tos: int) -> int:
        """DSCP, ECN and DF of the outer header (RFC 4301 §5.1.2.1, §8.1)."""
        return tos & (sa.outer_tos | (_DONT_FRAGMENT if sa.description.copy_df else 0))

    # --- SAs that do more to a packet than ESP in tunnel mode ----------------------------------------------------

    def _outbound_special(
        self, packets: list[tuple[OutboundSa, bytes, Packet]], now: float
    ) -> list[EspDatagrams]:
        runs: dict[tuple[OutboundSa, int, int | None, bool], _Run] = {}
        for sa, key, packet in packets:
            if sa.description.mode is Mode.TRANSPORT and len(split_fragment_key(key)[0]) != len(key):
                whole = self._reassemble(self._leaving, key, packet, now)
                if whole is None:
                    continue
                packet, in_fragments = whole, True
            else:
                in_fragments = False
            try:
                self._prepare(sa, packet, runs, in_fragments)
            except PacketError:
                self.counters.malformed_out += 1
        datagrams = []
        for (sa, tos, _, whole_packets), run in runs.items():
            if sealed := self._seal(sa, run, now):
                if whole_packets and (sealed[0][0] >> 4 == 6 or not tos & _DONT_FRAGMENT):
                    sealed = self._cut(sa, sealed)
                datagrams.append(_datagrams(sa, sealed, tos, whole_packets))
        return datagrams

    def _prepare(
        self,
        sa: OutboundSa,
        packet: Packet,
        runs: dict[tuple[OutboundSa, int, int | None, bool], _Run],
        in_fragments: bool = False,
    ) -> None:
        """Put what is protected of a packet into the run where it belongs. Raises PacketError.

        ``in_fragments``: its sender had cut it up, so that it may be cut again.
        """
        d, details = sa.description, sa.counters.details
        assert details is not None
        if len(packet) > _LONGEST:
            raise PacketError("no room for the outer headers")
        dont_fragment = not (in_fragments or may_fragment(packet)) and len(packet) <= sa.max_packet
        tos = self._outer_tos(sa, traffic_class(packet) | (_DONT_FRAGMENT if dont_fragment else 0))
        parts: Parts | None = None
        octets = len(packet)
        payload, next_header = packet, NEXT_HEADER_IPV4 if packet[0] < 0x60 else NEXT_HEADER_IPV6
        if d.mode is Mode.TRANSPORT:
            source, destination = _ends(packet)
            if source != d.source.host.packed or destination != d.destination.host.packed:
                raise PacketError("transport mode carries packets of its own ends only (RFC 4301 §4.1)")
            parts = take_apart(packet)
            octets = len(parts.payload)
            if d.encapsulated and not parts.plain:
                raise PacketError("ESP in UDP has no place for IP options and extension headers")
            if len(parts.headers) + 16 > self._paths.get(d.destination.host):
                raise PacketError("extension headers that leave no room for a fragment (RFC 8200 §4.5)")
            payload, next_header = parts.payload, parts.protocol
        compressed = sa.compressor.compress(payload, next_header) if sa.compressor and not d.tfc else None
        if compressed is not None:
            payload, next_header = compressed, PROTO_IPCOMP
        if len(payload) + (len(parts.headers) if parts else 0) > sa.max_packet:
            pieces = self._fit_packet(sa, packet, in_fragments)
            if not pieces:
                return
            if pieces[0] is not packet:
                for piece in pieces:
                    self._prepare(sa, piece, runs)
                return
            tos &= ~_DONT_FRAGMENT
        if compressed is not None:
            details.compressed += 1
        if d.protocol is SecurityProtocol.AH:
            outer = self._ah_packet(sa, packet, parts, payload, next_header, tos)
            _put(runs, (sa, tos, None, True), outer, octets)
            return
        if parts is None and compressed is None:
            target = min(d.tfc if d.tfc > 0 else sa.max_packet, sa.max_packet) if d.tfc else 0
            if len(payload) < target:
                details.padded += 1
                payload = bytes(payload) + bytes(target - len(payload))
            _put(runs, (sa, tos, None, False), payload, octets)
            return
        plain = parts is None or parts.plain
        run = _put(runs, (sa, tos, next_header, not plain), payload, octets)
        run.next_header = next_header
        if not plain:
            assert parts is not None
            run.headers = run.headers or []
            run.headers.append(self._numbered(parts))

    def _ah_packet(
        self, sa: OutboundSa, packet: Packet, parts: Parts | None, payload: Packet, next_header: int, tos: int
    ) -> bytes:
        """The IP packet that AH is to be put into: in tunnel mode one with a new header."""
        if parts is not None:
            parts = self._numbered(parts)
            return put_together(parts.headers, parts.named, next_header, payload)
        source, destination = sa.description.source.host, sa.description.destination.host
        if isinstance(source, IPv4Address) and isinstance(destination, IPv4Address):
            header = IPv4Header(
                source,
                destination,
                next_header,
                20 + len(payload),
                tos & 0xFF,
                self._next_identification(),
                bool(tos & _DONT_FRAGMENT),
            )
            if header.total_length > 65535:
                raise PacketError("longer than an IPv4 packet can be")
            return header.to_bytes() + payload
        return new_header(source, destination, next_header, payload, tos & 0xFF)

    def _numbered(self, parts: Parts) -> Parts:
        """With an IPv4 identification, which the kernel would otherwise make up for a header that is sent as it is."""
        headers = parts.headers
        if headers[0] >> 4 == 4 and not (headers[4] or headers[5]):
            number = self._next_identification().to_bytes(2, "big")
            parts = parts._replace(headers=bytes(headers[:4]) + number + bytes(headers[6:]))
        return parts

    def _cut(self, sa: OutboundSa, packets: list[bytes | memoryview]) -> list[bytes | memoryview]:
        """Whole outer packets in fragments, as far as they are longer than the path takes."""
        mtu = self._paths.get(sa.description.destination.host)
        out: list[bytes | memoryview] = []
        for packet in packets:
            if len(packet) <= mtu:
                out.append(packet)
            else:
                out += fragment_packet(packet, mtu, int.from_bytes(self._random(4), "big"))
        return out

    # --- dummy packets -------------------------------------------------------------------------------------------

    def _send_dummies(self, now: float) -> list[EspDatagrams]:
        """RFC 4303 §2.6: next header 59 and anything for a payload. They use up sequence numbers and nothing else."""
        datagrams = []
        for name, number, octets in self._dummies:
            sa = self.sad.get(name)
            if not isinstance(sa, OutboundSa) or isinstance(sa.transform, AhTransform):
                continue
            number = min(number, sa.last_sequence_number - sa.sequence_number)
            if sa.lifetime.expired or number <= 0:
                continue
            length = min(octets, sa.max_packet) if octets else sa.max_packet
            payloads: list[Packet] = [self._random(length) for _ in range(number)]
            sealed = self._protect(sa, _Run(payloads, None, NEXT_HEADER_NONE), 0, number)
            assert sa.counters.details is not None
            sa.counters.details.dummies += number
            self._touched.add(sa)
            self._watch_sequence(sa)
            datagrams.append(_datagrams(sa, sealed, 0))
        self._dummies = []
        return datagrams


def _datagrams(
    sa: OutboundSa, packets: list[bytes | memoryview], tos: int, whole: bool = False
) -> EspDatagrams:
    d = sa.description
    return EspDatagrams(
        d.source,
        d.destination,
        d.encapsulated,
        packets,
        tos & 0xFF,
        _AH if d.protocol is SecurityProtocol.AH else _ESP,
        whole,
        bool(tos & _DONT_FRAGMENT),
    )


def _put(
    runs: dict[tuple[OutboundSa, int, int | None, bool], _Run],
    key: tuple[OutboundSa, int, int | None, bool],
    payload: Packet,
    octets: int,
) -> _Run:
    run = runs.setdefault(key, _Run(octets=[]))
    run.payloads.append(payload)
    assert run.octets is not None
    run.octets.append(octets)
    return run


def _ends(packet: Packet) -> tuple[bytes, bytes]:
    if packet[0] >> 4 == 4:
        return bytes(packet[12:16]), bytes(packet[16:20])
    return bytes(packet[8:24]), bytes(packet[24:40])

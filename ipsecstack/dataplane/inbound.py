"""ESP and AH to inner packets (RFC 4301 §5.2).

Runs of ESP packets of one SA are opened in batches. AH, and packets that come with their outer headers, are opened one
by one; SAs that are ``special`` have their packets made whole again (``_restore``) before the same checks.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable

from ipsecstack.crypto.errors import IntegrityError
from ipsecstack.dataplane.base import EspDatagrams, PeerAddressChanged, UnknownSpiReceived
from ipsecstack.dataplane.processing import Packet, Processing
from ipsecstack.ipsec.ah import AhTransform
from ipsecstack.ipsec.esp import EspTransform, PaddingError
from ipsecstack.ipsec.esp_batch import OpenErrors, open_batch
from ipsecstack.ipsec.ipcomp import decompress
from ipsecstack.ipsec.replay import Resynchroniser
from ipsecstack.ipsec.sa import Mode, SecurityProtocol
from ipsecstack.ipsec.sad import InboundSa
from ipsecstack.ipsec.spd import Action
from ipsecstack.ipsec.transport import new_header, put_together, repair_checksum
from ipsecstack.wire.ah import AuthenticationHeader, find
from ipsecstack.wire.esp import HEADER_OCTETS, MIN_SPI, NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE
from ipsecstack.wire.icmp import answered_flow
from ipsecstack.wire.ip import (
    PROTO_AH,
    PROTO_ESP,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PacketError,
    flow_key,
    merge_ecn,
    packet_length,
    split_fragment_key,
    traffic_class,
    with_traffic_class,
)
from ipsecstack.wire.ipcomp import PROTO_IPCOMP

_ICMP = (PROTO_ICMP, PROTO_ICMPV6)
_SPI = struct.Struct("!I")
# What came with a packet: its outer headers, and the octet in them that names what follows.
_Headers = tuple[Packet, int]


class InboundProcessing(Processing, ABC):
    """The way in."""

    def inbound(self, batch: Iterable[EspDatagrams], now: float) -> list[Packet]:
        """ESP and AH to inner packets: those that are authentic, fresh and belong into their SA.

        What came by an SA of a virtual interface waits in ``take_interface_packets``.
        """
        out: list[Packet] = []
        for datagrams in batch:
            if datagrams.protocol in _ICMP:
                self.receive_icmp(datagrams.packets, now)
                continue
            if datagrams.whole:
                for packet in datagrams.packets:
                    self._inbound_whole(packet, datagrams, out, now)
                continue
            packets, first = datagrams.packets, 0
            if min(map(len, packets), default=0) >= 4 and len(set(map(_SPI.unpack_from, packets))) == 1:
                self._open(packets, datagrams, out, now)  # nearly always: all of one SA
                continue
            while first < len(packets):
                spi, end = packets[first][:4], first + 1
                while end < len(packets) and packets[end][:4] == spi:
                    end += 1
                self._open(packets[first:end], datagrams, out, now)
                first = end
        return out

    @abstractmethod
    def receive_icmp(self, packets: Iterable[Packet], now: float) -> None:
        """Errors about packets of ours, from the network outside."""

    def _open(
        self,
        packets: list[Packet],
        datagrams: EspDatagrams,
        out: list[Packet],
        now: float,
        headers: _Headers | None = None,
    ) -> None:
        """One run of ESP packets with the same first four octets, which should be an SPI."""
        if min(map(len, packets)) < HEADER_OCTETS:
            whole = [packet for packet in packets if len(packet) >= HEADER_OCTETS]
            self.counters.malformed_in += len(packets) - len(whole)
            if not whole:
                return
            packets = whole
        spi = int.from_bytes(packets[0][:4], "big")
        sa = self._find(SecurityProtocol.ESP, spi, datagrams, packets, now)
        if sa is None:
            return
        if sa.description.interface:
            out = self._to_interfaces.setdefault(sa.description.interface, [])
        counters, lifetime = sa.counters, sa.lifetime
        near = (
            counters.octets + sum(map(len, packets)) >= lifetime.next_octets
            or counters.packets + len(packets) >= lifetime.next_packets
        )
        runs = [[packet] for packet in packets] if near else [packets]
        top = sa.window.top
        for run in runs:
            if lifetime.expired:
                counters.other_errors += len(run)
                continue
            errors = OpenErrors()
            assert isinstance(sa.transform, EspTransform)
            opened = open_batch(sa.transform, sa.window, run, errors)
            if sa.resync is not None:
                if opened:
                    sa.resync.succeeded()
                elif errors.integrity:
                    opened = self._resynchronise(sa, sa.resync, run, errors)
            counters.replay_errors += errors.replay
            counters.integrity_errors += errors.integrity
            counters.padding_errors += errors.padding
            if opened:
                tos = datagrams.ecn
                if sa.special:
                    opened = self._restore(sa, opened, datagrams, headers)
                    tos = self._inner_tos(sa, opened, tos)
                self._deliver(sa, opened, tos & 3, out, now, self._uncounted(sa, headers))
                if near:
                    self._expire(sa, lifetime.at_counts(counters.octets, counters.packets))
        if sa.window.top != top:
            self._follow_peer(sa, datagrams)

    def _find(
        self,
        protocol: SecurityProtocol,
        spi: int,
        datagrams: EspDatagrams,
        packets: list[Packet],
        now: float,
    ) -> InboundSa | None:
        """The SA of received packets; None when they were counted as those of no usable one."""
        if spi < MIN_SPI:
            self.counters.malformed_in += len(packets)
            return None
        sa = self.sad.inbound(protocol, spi)
        local = datagrams.local.host
        if sa is None or (local != sa.id.destination and not local.is_unspecified):
            self._unknown_spi(spi, datagrams, len(packets), now)
            return None
        self._touched.add(sa)
        # ESP comes as its sender likes, in UDP or not, whatever we send (RFC 7296 §2.23).
        if sa.lifetime.expired:
            sa.counters.other_errors += len(packets)
            return None
        return sa

    def _resynchronise(
        self,
        sa: InboundSa,
        resync: Resynchroniser,
        run: list[Packet],
        errors: OpenErrors,
    ) -> list[tuple[bytes, int]]:
        """After many failures without a success: was it the high half of the sequence number? What that opened."""
        packet = run[0]
        transform = sa.transform
        assert isinstance(transform, EspTransform)
        low = int.from_bytes(packet[4:8], "big")
        for number in resync.candidates(sa.window, errors.integrity, low):
            try:
                transform.open(packet, number)
            except (IntegrityError, PaddingError):
                continue
            resync.succeeded()
            assert sa.counters.details is not None
            sa.counters.details.resynchronised += 1
            sa.window.jump(number - 1)  # so that this packet is the next one of all that are opened again
            errors.integrity = errors.padding = errors.replay = 0
            return open_batch(transform, sa.window, run, errors)
        return []

    # --- packets with their outer headers, and AH ----------------------------------------------------------------

    def _inbound_whole(self, packet: Packet, datagrams: EspDatagrams, out: list[Packet], now: float) -> None:
        try:
            key = flow_key(packet)
            if split_fragment_key(key)[1] is not None:
                whole = self._reassemble(self._arriving, key, packet, now)
                if whole is None:
                    return
                packet = whole
            if datagrams.protocol == PROTO_AH:
                self._open_ah(packet, datagrams, out, now)
                return
            place = find(packet, PROTO_ESP)
            if place is None:
                raise PacketError("no ESP in it")
        except PacketError:
            self.counters.malformed_in += 1
            return
        at, named = place
        one = EspDatagrams(
            datagrams.local, datagrams.remote, datagrams.encapsulated, [], traffic_class(packet)
        )
        self._open([packet[at:]], one, out, now, (packet[:at], named))

    def _open_ah(self, packet: Packet, datagrams: EspDatagrams, out: list[Packet], now: float) -> None:
        """One AH packet (RFC 4302 §3.4). Raises PacketError when there is no AH in it."""
        place = find(packet)
        if place is None:
            raise PacketError("no AH in it")
        header = AuthenticationHeader.parse(packet[place[0] :])
        sa = self._find(SecurityProtocol.AH, header.spi, datagrams, [packet], now)
        if sa is None:
            return
        if sa.description.interface:
            out = self._to_interfaces.setdefault(sa.description.interface, [])
        counters, window = sa.counters, sa.window
        number = window.sequence_number(header.sequence_number)
        if not window.fresh(number):
            window.drop(number)
            counters.replay_errors += 1
            return
        assert isinstance(sa.transform, AhTransform)
        numbers = [number]
        for number in numbers:
            try:
                inner, at, next_header = sa.transform.open(packet, number)
                break
            except IntegrityError:
                if len(numbers) == 1 and sa.resync is not None:
                    numbers += sa.resync.candidates(window, 1, header.sequence_number)
        else:
            counters.integrity_errors += 1
            return
        if sa.resync is not None:
            sa.resync.succeeded()
        if number != numbers[0]:
            assert counters.details is not None
            counters.details.resynchronised += 1
        top = window.top
        window.accept(number)
        tos = traffic_class(packet)
        one = EspDatagrams(datagrams.local, datagrams.remote, False, [], tos)
        opened = self._restore(sa, [(inner[at:], next_header)], one, (inner[:at], place[1]))
        uncounted = self._uncounted(sa, (inner[:at], place[1]))
        self._deliver(sa, opened, self._inner_tos(sa, opened, tos) & 3, out, now, uncounted)
        self._expire(sa, sa.lifetime.at_counts(counters.octets, counters.packets))
        if window.top != top:
            self._follow_peer(sa, datagrams)

    # --- from payloads to packets --------------------------------------------------------------------------------

    def _restore(
        self,
        sa: InboundSa,
        opened: list[tuple[bytes, int]],
        datagrams: EspDatagrams,
        headers: _Headers | None,
    ) -> list[tuple[bytes, int]]:
        """Decompressed, and in transport mode with an IP header again: what tunnel mode has from the start."""
        d, details = sa.description, sa.counters.details
        assert details is not None
        restored = []
        for payload, next_header in opened:
            if next_header == NEXT_HEADER_NONE and d.protocol is SecurityProtocol.ESP:
                details.dummies += 1
                continue
            try:
                if next_header == PROTO_IPCOMP and d.ipcomp_cpi:
                    payload, next_header = decompress(payload, d.ipcomp_cpi)
                    details.compressed += 1
                if d.mode is Mode.TRANSPORT:
                    payload = self._with_header(sa, payload, next_header, datagrams, headers)
                    next_header = NEXT_HEADER_IPV4 if payload[0] < 0x60 else NEXT_HEADER_IPV6
            except PacketError:
                sa.counters.other_errors += 1
                continue
            restored.append((payload, next_header))
        return restored

    @staticmethod
    def _with_header(
        sa: InboundSa, payload: bytes, next_header: int, datagrams: EspDatagrams, headers: _Headers | None
    ) -> bytes:
        """A transport mode packet as its sender gave it to IPsec, with checksums for the addresses it has here."""
        d = sa.description
        if headers is not None:
            packet = put_together(headers[0], headers[1], next_header, payload)
        else:
            local = datagrams.local.host
            if local.is_unspecified:
                local = d.destination.host
            packet = new_header(datagrams.remote.host, local, next_header, payload, datagrams.ecn)
        if d.original_source is not None or d.original_destination is not None:
            packet = repair_checksum(
                packet, d.original_source or d.source.host, d.original_destination or d.destination.host
            )
        return packet

    @staticmethod
    def _uncounted(sa: InboundSa, headers: _Headers | None) -> int:
        """Octets of each restored packet that the peer's SA did not carry: in transport mode the IP header."""
        if sa.description.mode is not Mode.TRANSPORT:
            return 0
        if headers is not None:
            return len(headers[0])
        return 20 if sa.id.destination.version == 4 else 40

    @staticmethod
    def _inner_tos(sa: InboundSa, opened: list[tuple[bytes, int]], tos: int) -> int:
        """What of the outer DSCP and ECN is still to be merged into the inner header; DSCP is put in here."""
        d = sa.description
        if d.mode is Mode.TRANSPORT:
            return 0  # there is one header
        if d.copy_dscp in ("in", "yes"):
            for number, (payload, next_header) in enumerate(opened):
                if len(payload) >= 20 and payload[0] >> 4 in (4, 6):
                    marked = with_traffic_class(payload, tos & 0xFC | traffic_class(payload) & 3)
                    opened[number] = (marked, next_header)
        return tos if d.copy_ecn else 0

    # --- the checks of every inner packet ------------------------------------------------------------------------

    def _deliver(
        self,
        sa: InboundSa,
        opened: list[tuple[bytes, int]],
        outer_ecn: int,
        out: list[Packet],
        now: float,
        uncounted: int = 0,
    ) -> None:
        """Check authentic payloads against the SA's selectors and pass them on."""
        counters, flows, octets, passed = sa.counters, sa.flows, 0, 0
        for payload, next_header in opened:
            if next_header == NEXT_HEADER_NONE:
                assert counters.details is not None
                counters.details.dummies += 1
                continue  # RFC 4303 §2.6: a dummy packet, dropped without a word
            try:
                key = flow_key(payload)
            except PacketError:
                try:
                    payload = payload[: packet_length(payload)]  # it may have been TFC padding
                    key = flow_key(payload)
                except PacketError:
                    counters.other_errors += 1
                    continue
                assert counters.details is not None
                counters.details.padded += 1
            if next_header != (NEXT_HEADER_IPV4 if payload[0] < 0x60 else NEXT_HEADER_IPV6):
                counters.other_errors += 1
                continue
            if key not in flows and not self._belongs(sa, key, payload, now):
                counters.policy_errors += 1
                continue
            if outer_ecn:
                merged = merge_ecn(payload, outer_ecn)
                if merged is None:
                    counters.other_errors += 1
                    continue
                payload = merged
            octets += len(payload)
            passed += 1
            out.append(payload)
        if passed:
            counters.octets += octets - passed * uncounted
            counters.packets += passed
            counters.last_used = now

    @staticmethod
    def _belongs(sa: InboundSa, key: bytes, packet: bytes, now: float) -> bool:
        """RFC 4301 §5.2 step 4; an ICMP error also belongs where answers to the packet do that it is about (§6.2)."""
        if not sa.allows(key, now):
            about = answered_flow(packet)
            return about is not None and sa.allows(about, now)
        if split_fragment_key(key)[2]:
            assert sa.counters.details is not None
            sa.counters.details.fragments += 1
        return True

    def inbound_clear(self, packets: Iterable[Packet], interface: str = "") -> list[Packet]:
        """Packets that arrived without protection: only those that BYPASS names pass (RFC 4301 §5.2 step 3b)."""
        passed: list[Packet] = []
        for packet in packets:
            try:
                action = self.spd.clear_inbound(flow_key(packet), interface)
            except PacketError:
                self.counters.malformed_in += 1
                continue
            if action is Action.BYPASS:
                self.counters.bypassed_in += 1
                passed.append(packet)
            else:
                self.counters.discarded_in += 1
        return passed

    def _unknown_spi(self, spi: int, datagrams: EspDatagrams, count: int, now: float) -> None:
        self.counters.unknown_spi += count
        if self._spi_hints.worth(spi, datagrams.remote, now):
            self._events.append(UnknownSpiReceived(spi, datagrams.local, datagrams.remote))

    def _follow_peer(self, sa: InboundSa, datagrams: EspDatagrams) -> None:
        """An authentic packet, newer than all before, came from elsewhere (RFC 7296 §2.23): tell it once."""
        remote = datagrams.remote
        if (
            not (datagrams.encapsulated and sa.description.encapsulated)
            or remote == sa.description.source
            or remote == sa.told_remote
        ):
            return
        sa.told_remote = remote
        self._events.append(PeerAddressChanged(sa.id, remote))

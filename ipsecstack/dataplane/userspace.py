"""RFC 4301's packet processing in this process: SPD, SAD, ESP and AH over batches of packets, without any I/O.

``memory`` and ``tun`` build on ``UserspaceCore`` and differ only in where inner packets come from and go to. Time is an
argument; randomness (IVs of CBC) is given to the constructor. ``outbound`` and ``inbound`` are the two ways of a
packet; here is what the composition root asks for.

What the outer header gets (RFC 4301 §5.1.2): DSCP and ECN are copied out, ECN comes back as RFC 6040 §4.2 says; an SA
may have it otherwise. TTL of the inner packet is the business of the kernel that forwards it into and out of the
device. An inner packet that would not fit the outer path is answered with ICMP 'too big' when it must not be
fragmented, and fragmented before encryption otherwise (RFC 4301 §8.2), so that no outer fragments are made unless the
SA asks for them.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

from ipsecstack.dataplane.base import DataPlaneError, DataPlaneEvent, Features
from ipsecstack.dataplane.dummies import MAX_RATE
from ipsecstack.dataplane.inbound import InboundProcessing
from ipsecstack.dataplane.outbound import OutboundProcessing
from ipsecstack.dataplane.path import MIN_MTU, TooBig, parse_too_big
from ipsecstack.dataplane.processing import Packet, Random
from ipsecstack.ipsec.esp import TransformError
from ipsecstack.ipsec.fragments import FragmentTracker, Reassembler
from ipsecstack.ipsec.sa import Address, Direction, Mode, SaCounters, SaDescription, SaId, SecurityProtocol
from ipsecstack.ipsec.sad import InboundSa, OutboundSa, Sad, SadError
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.ipsec.spd import Spd, SpdEntry
from ipsecstack.wire.ip import PROTO_AH, PROTO_ESP, PROTO_UDP, PacketError

__all__ = ["DEFAULT_PATH_MTU", "Packet", "Random", "UserspaceCore"]

DEFAULT_PATH_MTU = 1500
_MOST_DUMMIES = 1024  # of one request


class UserspaceCore(OutboundProcessing, InboundProcessing):
    """SPD, SAD, ESP, AH, counters and events of a userspace data plane: all of ``DataPlane``, and packet processing."""

    socket_mark: int = 0

    def __init__(self, features: Features, random: Random, path_mtu: int = DEFAULT_PATH_MTU) -> None:
        super().__init__(random, path_mtu)
        self.features = features
        self._policy_uses: dict[SpdEntry, int] = {}

    # --- the control side ------------------------------------------------------------------------------------------

    def allocate_spi(self, random: Random) -> int:
        try:
            return self.sad.allocate_spi(random)
        except SadError as error:
            raise DataPlaneError(str(error)) from None

    def release_spi(self, spi: int) -> None:
        self.sad.release_spi(spi)

    def install(self, sa: SaDescription, now: float) -> None:
        """Install an SA. Packets that waited for it are sent by the next ``read_device`` or ``outbound``."""
        self._check(sa)
        if sa.encapsulated and not (sa.source.port and sa.destination.port):
            raise DataPlaneError("ESP in UDP needs the ports of both ends")
        try:
            installed = self.sad.add(sa, now)
        except (SadError, TransformError) as error:
            raise DataPlaneError(f"the SA cannot be installed: {error}") from None
        self._touched.add(installed)
        self._watch(installed)
        if isinstance(installed, OutboundSa):
            if sa.dummy_rate:
                self._dummy_schedule.start(installed.id, sa.dummy_rate, now)
            self._fit(installed)
            self._decide_again()
            self._released += self._waiting.take(sa)

    def _check(self, sa: SaDescription) -> None:
        """Refuse what cannot be, before anything is changed."""
        if sa.protocol not in (SecurityProtocol.ESP, SecurityProtocol.AH):
            raise DataPlaneError(f"{sa.protocol.name} is no protocol of an SA that carries packets")
        if sa.protocol is SecurityProtocol.AH and sa.encapsulated:
            raise DataPlaneError("AH does not pass a NAT: there is no AH in UDP (RFC 3715 §2.1)")
        if sa.source.host.version != sa.destination.host.version:
            raise DataPlaneError(f"{sa.source.host} and {sa.destination.host} are of different IP versions")
        if sa.tfc < -1 or (sa.tfc and (sa.protocol, sa.mode) != (SecurityProtocol.ESP, Mode.TUNNEL)):
            raise DataPlaneError(
                "TFC padding is for ESP in tunnel mode (RFC 4303 §2.7): -1, or a number of octets"
            )
        if sa.copy_dscp not in ("out", "in", "yes", "no") or sa.fragment not in ("before", "after"):
            raise DataPlaneError("copy_dscp is out, in, yes or no; fragment is before or after")
        if not 0 <= sa.dummy_rate <= MAX_RATE or (sa.dummy_rate and sa.protocol is not SecurityProtocol.ESP):
            raise DataPlaneError(f"{sa.dummy_rate} dummy packets a second: ESP sends up to {MAX_RATE:g}")
        if not 0 <= sa.ipcomp_cpi <= 0xFFFF:
            raise DataPlaneError(f"a CPI of {sa.ipcomp_cpi}")

    def update(self, sa: SaId, source: Address, destination: Address, encapsulated: bool) -> SaId:
        if encapsulated and not (source.port and destination.port):
            raise DataPlaneError("ESP in UDP needs the ports of both ends")
        if encapsulated and sa.protocol is SecurityProtocol.AH:
            raise DataPlaneError("AH does not pass a NAT: there is no AH in UDP (RFC 3715 §2.1)")
        try:
            moved = self.sad.move(sa, source, destination, encapsulated)
        except SadError as error:
            raise DataPlaneError(str(error)) from None
        if isinstance(moved, InboundSa):
            moved.told_remote = None
        elif isinstance(moved, OutboundSa):
            self._dummy_schedule.rename(sa, moved.id)
            self._decide_again()
            self._fit(moved)
        self._touched.add(moved)
        self._watch(moved)
        return moved.id

    def remove(self, sa: SaId) -> SaCounters | None:
        removed = self.sad.remove(sa)
        if removed is None:
            return None
        self._dummy_schedule.stop(sa)
        self._decide_again()
        self._touched.discard(removed)
        return removed.counters

    def query(self, sa: SaId) -> SaCounters | None:
        found = self.sad.get(sa)
        return found.counters.copy() if found else None

    def touched(self) -> set[SaId]:
        touched = {sa.id for sa in self._touched}
        self._touched.clear()
        return touched

    def add_policy(self, entry: SpdEntry) -> None:
        """Put an entry into the SPD. The same entry may be added again: it stays until it was removed as often."""
        self._policy_uses[entry] = self._policy_uses.get(entry, 0) + 1
        if self._policy_uses[entry] == 1:
            self.spd.add(entry)
            self._decide_again()

    def remove_policy(self, entry: SpdEntry) -> None:
        """Take an entry out; nothing happens when it is not there."""
        uses = self._policy_uses.get(entry, 0)
        if uses > 1:
            self._policy_uses[entry] = uses - 1
        if uses != 1:
            return
        del self._policy_uses[entry]
        self.spd.remove(entry)
        self._waiting.forget(entry)
        self._count_waiting()
        self._decide_again()

    def has_policy(self, entry: SpdEntry) -> bool:
        return entry in self._policy_uses

    def policies(self) -> Sequence[SpdEntry]:
        return tuple(self.spd)

    def set_path_mtu(self, destination: IPAddress, mtu: int) -> None:
        """The largest outer IP packet that reaches a peer, in octets, as the operator knows it.

        Raises DataPlaneError below 576 octets, and below 1280 in IPv6.
        """
        if mtu < MIN_MTU[destination.version]:
            raise DataPlaneError(f"a path MTU of {mtu} octets")
        self._paths.set(destination, mtu)
        self._refit(destination)

    def _refit(self, destination: IPAddress) -> None:
        for sa in self.sad:
            if isinstance(sa, OutboundSa) and sa.id.destination == destination:
                self._fit(sa)

    def events(self) -> list[DataPlaneEvent]:
        events = list(self._events)
        self._events.clear()
        return events

    def next_timer(self) -> float | None:
        times = (self._next_expiry(), self._paths.next_time(), self._dummy_schedule.next_time())
        return min((at for at in times if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        self._expire_due(now)
        for name, number in self._dummy_schedule.take(now):
            sa = self.sad.get(name)
            # The newest SA sends, as it does for everything else.
            if sa is not None and self.sad.outbound(sa.description.reqid)[0] is sa:
                self._dummies.append((name, number, max(sa.description.tfc, 0)))
        for destination in self._paths.forget_old(now):
            self._refit(destination)

    def receive_icmp(self, packets: Iterable[Packet], now: float) -> None:
        """ICMP errors from the network outside, as whole IP packets. One lowers a path MTU when it quotes a packet of a
        live SA (RFC 4301 §8.2.1, §6.1.1); senders inside learn of it when their next packet does not fit."""
        for packet in packets:
            try:
                error = parse_too_big(packet)
            except PacketError:
                self.counters.malformed_in += 1
                continue
            if error is None:
                continue
            if self._is_ours(error) and self._paths.lower(error.destination, error.mtu, now):
                self.counters.mtu_lowered += 1
                self._refit(error.destination)
            else:
                self.counters.mtu_ignored += 1

    def _is_ours(self, error: TooBig) -> bool:
        """May one of our SAs have sent the packet that the error quotes?

        A quotation that ends before the SPI shows nothing that is hard to guess: it is not believed. The kernel, which
        learns the path MTU of its sockets for itself, fragments such datagrams on their way out.
        """
        if error.spi is None:
            return False
        protocol = SecurityProtocol.AH if error.protocol == PROTO_AH else SecurityProtocol.ESP
        sa = self.sad.get(SaId(Direction.OUT, protocol, error.spi, error.destination))
        if sa is None:
            return False
        d = sa.description
        ports = (d.source.port, d.destination.port) if d.encapsulated else None
        carried = PROTO_UDP if d.encapsulated else PROTO_AH if protocol is SecurityProtocol.AH else PROTO_ESP
        return (
            (d.source.host == error.source or d.source.host.is_unspecified)
            and carried == error.protocol
            and ports == error.ports
        )

    def send_dummies(self, sa: SaId, number: int, octets: int = 0) -> None:
        """Queue dummy packets of an outbound ESP SA, as long as the path takes or with ``octets`` of payload.

        They leave with the next ``outbound``. Raises DataPlaneError when the SA is not there or has none.
        """
        found = self.sad.get(sa)
        if not isinstance(found, OutboundSa) or sa.protocol is not SecurityProtocol.ESP:
            raise DataPlaneError(f"{sa} is no outbound ESP SA of this data plane")
        if not 0 < number <= _MOST_DUMMIES or octets < 0:
            raise DataPlaneError(f"{number} dummy packets of {octets} octets: 1 to {_MOST_DUMMIES} at a time")
        if len(self._dummies) >= _MOST_DUMMIES:
            raise DataPlaneError("too many dummy packets wait")
        self._dummies.append((sa, number, octets))

    def add_address(self, address: IPAddress) -> None:
        """There is no host that could have it."""

    def remove_address(self, address: IPAddress) -> None:
        """Nothing was done to add it."""

    def addresses_changed(self) -> None:
        """Nothing here depends on this host's addresses."""

    def repair(self) -> None:
        """There is no device that could be lost."""

    def prepare_socket(self, sock: socket.socket, encapsulation: bool) -> None:
        """Sockets need nothing but their mark."""

    def event_fileno(self) -> int | None:
        """Nothing but packets comes to this plane."""
        return None

    def read_events(self, now: float) -> None:
        """There are none to read."""

    def close(self) -> None:
        """Forget every SA, key and packet."""
        self.sad = Sad()
        self.spd = Spd()
        self._policy_uses.clear()
        self._decide_again()
        self._waiting.clear()
        self._timers.clear()
        self._released.clear()
        self._dummies.clear()
        self._dummy_schedule.clear()
        self._to_device.clear()
        self._to_clear.clear()
        self._to_interfaces.clear()
        self._touched.clear()
        self._events.clear()
        self._leaving, self._arriving = Reassembler(), Reassembler()
        self._sent_fragments = FragmentTracker()

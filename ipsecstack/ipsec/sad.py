"""The Security Association Database (RFC 4301 §4.4.2): live SAs, how they are found, and their SPIs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ipsecstack.ipsec.ah import AhTransform
from ipsecstack.ipsec.esp import EspTransform
from ipsecstack.ipsec.fragments import FragmentTracker
from ipsecstack.ipsec.ipcomp import Compressor
from ipsecstack.ipsec.lifetime import LifetimeWatch
from ipsecstack.ipsec.replay import ReplayWindow, Resynchroniser
from ipsecstack.ipsec.sa import (
    Address,
    Direction,
    Mode,
    PacketDetails,
    SaCounters,
    SaDescription,
    SaId,
    SecurityProtocol,
)
from ipsecstack.ipsec.selectors import selects
from ipsecstack.wire.esp import MIN_SPI
from ipsecstack.wire.ip import Flow, split_fragment_key

_MAX_FLOWS = 4096  # of one inbound SA that are remembered as allowed
_SPI_TRIES = 64


class SadError(Exception):
    """The database cannot hold this SA; the message says why."""


class InstalledSa:
    """What an inbound and an outbound SA share: description, keys, counters, limits."""

    __slots__ = ("counters", "description", "id", "lifetime", "transform")

    def __init__(self, description: SaDescription, now: float) -> None:
        self.description = description
        self.id = description.id
        self.transform = (
            AhTransform(description)
            if description.protocol is SecurityProtocol.AH
            else EspTransform(description)
        )
        self.counters = SaCounters(details=PacketDetails())
        self.lifetime = LifetimeWatch(description.lifetime, now)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id.spi:08x} to {self.id.destination}>"

    def move(self, source: Address, destination: Address, encapsulated: bool) -> None:
        """Other outer addresses; nothing else changes."""
        self.description = replace(
            self.description, source=source, destination=destination, encapsulated=encapsulated
        )
        self.id = self.description.id


class OutboundSa(InstalledSa):
    """``sequence_number`` is the last one sent; ``max_packet`` the longest inner packet that fits the outer path.

    ``special`` SAs do more to a packet than ESP in tunnel mode. ``outer_tos`` masks what of DSCP and ECN goes outside.
    """

    __slots__ = (
        "compressor",
        "last_sequence_number",
        "max_packet",
        "outer_tos",
        "sequence_number",
        "soft_sequence_number",
        "special",
    )

    def __init__(self, description: SaDescription, now: float) -> None:
        super().__init__(description, now)
        self.sequence_number = 0
        space = (1 << (64 if description.esn else 32)) - 1
        self.last_sequence_number = space
        self.soft_sequence_number: int | None = space - (space >> 4)
        self.max_packet = 0
        d = description
        self.special = bool(
            d.protocol is SecurityProtocol.AH or d.mode is Mode.TRANSPORT or d.tfc or d.ipcomp_cpi
        )
        # RFC 6040 §4.1: normal mode copies ECN, compatibility mode leaves it clear.
        self.outer_tos = (0xFC if d.copy_dscp in ("out", "yes") else 0) | (3 if d.copy_ecn else 0)
        self.compressor = Compressor(d.ipcomp_cpi) if d.ipcomp_cpi else None

    def selects(self, flow: Flow) -> bool:
        return selects(self.description.local_ts, self.description.remote_ts, flow, outbound=True)


class InboundSa(InstalledSa):
    """``flows`` are keys of flows that passed the selector check; ``told_remote`` is the last address change told.

    ``special`` SAs have more done to a packet than ESP in tunnel mode.
    """

    __slots__ = ("flows", "fragments", "resync", "special", "told_remote", "window")

    def __init__(self, description: SaDescription, now: float) -> None:
        super().__init__(description, now)
        self.window = ReplayWindow(description.replay_window, description.esn)
        self.counters.replays = self.window.counts
        self.flows: set[bytes] = set()
        self.told_remote: Address | None = None
        self.fragments: FragmentTracker | None = None  # made for the first fragment
        self.resync = Resynchroniser() if description.esn else None
        d = description
        self.special = bool(
            d.protocol is SecurityProtocol.AH
            or d.mode is Mode.TRANSPORT
            or d.ipcomp_cpi
            or d.copy_dscp in ("in", "yes")
            or not d.copy_ecn
        )

    def allows(self, key: bytes, now: float = 0.0) -> bool:
        """RFC 4301 §5.2 step 4: does a decapsulated packet with this flow key belong into this SA?

        A later fragment does when the selectors do not ask for ports, or when the first one of its datagram did and
        ``non_first_fragments`` were agreed (§7.3).
        """
        if key in self.flows:
            return True
        key, datagram, later = split_fragment_key(key)
        if datagram is not None:
            allowed = self.allows(key)
            if not later:
                if allowed:
                    self.fragments = self.fragments or FragmentTracker()
                    self.fragments.remember(datagram, key, now)
            elif not allowed and self.fragments and self.description.non_first_fragments:
                allowed = self.fragments.find(datagram, now) is not None
            return allowed
        if not selects(
            self.description.local_ts, self.description.remote_ts, Flow.from_key(key), outbound=False
        ):
            return False
        if len(self.flows) >= _MAX_FLOWS:
            self.flows.clear()
        self.flows.add(key)
        return True


class Sad:
    """SAs by name, inbound ones by protocol and SPI, outbound ones by reqid with the newest first."""

    def __init__(self) -> None:
        self._by_id: dict[SaId, InstalledSa] = {}
        self._inbound: dict[tuple[SecurityProtocol, int], InboundSa] = {}
        self._outbound: dict[int, list[OutboundSa]] = {}
        self._reserved: set[int] = set()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[InstalledSa]:
        return iter(self._by_id.values())

    def allocate_spi(self, random: Callable[[int], bytes]) -> int:
        """A free inbound SPI of 256..2^32-1, reserved until it is installed or released. Raises SadError."""
        for _ in range(_SPI_TRIES):
            spi = int.from_bytes(random(4), "big")
            taken = spi in self._reserved or any(
                (protocol, spi) in self._inbound for protocol in SecurityProtocol
            )
            if spi >= MIN_SPI and not taken:
                self._reserved.add(spi)
                return spi
        raise SadError(
            "no free SPI was found: the random source repeats itself or too many SAs are installed"
        )

    def release_spi(self, spi: int) -> None:
        """Give a reserved SPI back; nothing happens when it is not reserved."""
        self._reserved.discard(spi)

    def add(self, description: SaDescription, now: float) -> InstalledSa:
        """Install an SA. Raises SadError when its name or inbound SPI is taken, TransformError for bad keys."""
        if not MIN_SPI <= description.spi <= 0xFFFFFFFF:
            raise SadError(f"SPI {description.spi:#x} is reserved (RFC 4303 §2.1)")
        if description.id in self._by_id:
            raise SadError(
                f"{description.direction.value}bound SPI {description.spi:08x} is installed already"
            )
        if description.direction is Direction.IN:
            if (description.protocol, description.spi) in self._inbound:
                raise SadError(f"inbound SPI {description.spi:08x} is in use")
            inbound = InboundSa(description, now)
            self._inbound[description.protocol, description.spi] = inbound
            self._reserved.discard(description.spi)
            self._by_id[inbound.id] = inbound
            return inbound
        outbound = OutboundSa(description, now)
        self._outbound.setdefault(description.reqid, []).insert(0, outbound)
        self._by_id[outbound.id] = outbound
        return outbound

    def remove(self, sa_id: SaId) -> InstalledSa | None:
        """Take an SA out; None when it is not there."""
        sa = self._by_id.pop(sa_id, None)
        if isinstance(sa, InboundSa):
            del self._inbound[sa_id.protocol, sa_id.spi]
        elif isinstance(sa, OutboundSa):
            siblings = self._outbound[sa.description.reqid]
            siblings.remove(sa)
            if not siblings:
                del self._outbound[sa.description.reqid]
        return sa

    def move(self, sa_id: SaId, source: Address, destination: Address, encapsulated: bool) -> InstalledSa:
        """Change outer addresses. Raises SadError when the SA is not there or its new name is taken."""
        sa = self._by_id.get(sa_id)
        if sa is None:
            raise SadError(
                f"{sa_id.direction.value}bound SPI {sa_id.spi:08x} to {sa_id.destination} is not installed"
            )
        new = replace(sa_id, destination=destination.host)
        if new != sa_id and new in self._by_id:
            raise SadError(
                f"{new.direction.value}bound SPI {new.spi:08x} to {new.destination} is installed already"
            )
        del self._by_id[sa_id]
        sa.move(source, destination, encapsulated)
        self._by_id[sa.id] = sa
        return sa

    def get(self, sa_id: SaId) -> InstalledSa | None:
        return self._by_id.get(sa_id)

    def inbound(self, protocol: SecurityProtocol, spi: int) -> InboundSa | None:
        """The SA of a received packet. Its SPI is this end's choice, so the address only confirms it."""
        return self._inbound.get((protocol, spi))

    def outbound(self, reqid: int) -> list[OutboundSa]:
        """The SAs that may send for a policy, newest first."""
        return self._outbound.get(reqid, [])

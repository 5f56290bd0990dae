"""The data plane interface: where SAs and policies take effect (userspace over TUN, the kernel's XFRM, or memory).

The composition root calls it; key exchanges never see it. Time is an argument in seconds of one monotonic
clock. A data plane touches only SAs and policies that were given to it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ipsecstack.ipsec.sa import Address, SaCounters, SaDescription, SaId
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.ipsec.spd import SpdEntry


class DataPlaneError(Exception):
    """The data plane refused; the message tells the operator what to do next."""


@dataclass(frozen=True, slots=True)
class Features:
    """What this data plane can do, so that configuration can be refused early."""

    name: str
    native_esp: bool
    udp_encapsulation: bool
    esn: bool
    userspace: bool
    ah: bool = False
    transport: bool = False
    ipcomp: bool = False
    tfc: bool = False


def abilities(features: Features) -> frozenset[str]:
    """The names of what this data plane can do, as ``keyex.options`` has them. Marks and IDs of interfaces: kernels."""
    found = {name for name in ("ah", "esn", "ipcomp", "tfc", "transport") if getattr(features, name)}
    return frozenset(found if features.userspace else found | {"mark"})


@dataclass(slots=True)
class EspDatagrams:
    """A batch of ESP or AH packets between one pair of addresses.

    ``packets`` are ESP headers onward (no UDP header, no outer IP header). ``encapsulated`` says ESP-in-UDP between
    ``local`` and ``remote`` ports, otherwise the native ``protocol`` (50 ESP, 51 AH). Equal-sized runs may leave as one
    UDP GSO send. With ``whole`` the packets are IP packets with their outer headers, to be sent as they are (a raw
    socket with IP_HDRINCL): AH always, which authenticates that header, and ESP where the header has options. What is
    received may also be ICMP errors (``protocol`` 1 and 58, whole) from outside, for ``receive_icmp``.
    """

    local: Address
    remote: Address
    encapsulated: bool
    packets: list[bytes | memoryview]
    ecn: int = 0  # outer DSCP and ECN octet
    protocol: int = 50
    whole: bool = False
    dont_fragment: bool = False  # outer DF bit (IPv4)


@dataclass(slots=True)
class DataPlaneCounters:
    """Drops and passes that belong to no single SA."""

    unknown_spi: int = 0
    malformed_in: int = 0
    malformed_out: int = 0
    discarded_in: int = 0
    discarded_out: int = 0
    bypassed_in: int = 0
    bypassed_out: int = 0
    no_sa_out: int = 0
    send_errors: int = 0
    device_errors: int = 0  # inner packets that the device refused
    too_big_out: int = 0  # did not fit the path and must not be fragmented; the sender was told by ICMP


@dataclass(frozen=True, slots=True)
class Acquired:
    """A packet asked for an SA that is not there (RFC 4301 §4.4.1: populate an SA for this PROTECT entry)."""

    entry: SpdEntry
    source: IPAddress
    destination: IPAddress
    protocol: int
    ports: tuple[int, int] | None
    local_ts: tuple[TrafficSelector, ...] = ()  # what the SA should be for: the entry's selectors, or with
    remote_ts: tuple[TrafficSelector, ...] = ()  # populate-from-packet the packet's values in their place


@dataclass(frozen=True, slots=True)
class SaExpired:
    """A limit of ``Lifetime`` was reached; ``hard`` says delete, else rekey."""

    sa: SaId
    hard: bool
    kind: str  # "seconds", "octets", "packets", "sequence"


@dataclass(frozen=True, slots=True)
class UnknownSpiReceived:
    """An ESP packet came for an SPI that is not installed: an unauthenticated hint (RFC 7296 §2.21.4),
    rate-limited."""

    spi: int
    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class PeerAddressChanged:
    """An authenticated packet of an inbound encapsulated SA came from another address or port (RFC 7296 §2.23)."""

    sa: SaId
    remote: Address


DataPlaneEvent = Acquired | SaExpired | UnknownSpiReceived | PeerAddressChanged


class DataPlane(Protocol):
    """What every data plane does. Calls raise DataPlaneError and leave nothing half-done."""

    features: Features
    socket_mark: int
    """SO_MARK of the sockets that carry IKE and ESP, so that the plane lets them pass; 0 is none."""

    @property
    def counters(self) -> DataPlaneCounters:
        """Counts that belong to no SA; who sends for the plane adds its failures to them."""
        ...

    def allocate_spi(self, random: Callable[[int], bytes]) -> int:
        """An inbound SPI (256..2^32-1) that is not in use; it stays reserved until installed or released."""
        ...

    def release_spi(self, spi: int) -> None: ...

    def install(self, sa: SaDescription, now: float) -> None: ...

    def update(self, sa: SaId, source: Address, destination: Address, encapsulated: bool) -> SaId:
        """Move an SA to other outer addresses or ports; its counters and window go on. Returns its new name."""
        ...

    def remove(self, sa: SaId) -> SaCounters | None:
        """Remove an SA; its final counters, or None when it was not there."""
        ...

    def query(self, sa: SaId) -> SaCounters | None: ...

    def touched(self) -> set[SaId]:
        """SAs whose counters changed since the last call: what a poll costs is what changed."""
        ...

    def add_policy(self, entry: SpdEntry) -> None: ...

    def remove_policy(self, entry: SpdEntry) -> None: ...

    def policies(self) -> Sequence[SpdEntry]: ...

    def events(self) -> list[DataPlaneEvent]:
        """Take what happened since the last call."""
        ...

    def next_timer(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...

    def add_address(self, address: IPAddress) -> None:
        """This host has a virtual address of its own now, which packets into the tunnels may come from."""
        ...

    def remove_address(self, address: IPAddress) -> None: ...

    def addresses_changed(self) -> None:
        """Addresses or links of this host changed: what leads packets into the plane is looked after."""
        ...

    def repair(self) -> None:
        """Make a device that is gone again; its descriptor may be another one afterwards. Raises DataPlaneError."""
        ...

    def prepare_socket(self, sock: socket.socket, encapsulation: bool) -> None:
        """Called for every socket of IKE and ESP after it was opened; ``encapsulation``: it is that of ESP in UDP."""
        ...

    def event_fileno(self) -> int | None:
        """A descriptor that is readable when the kernel has events for the plane; None when there is none to watch."""
        ...

    def read_events(self, now: float) -> None:
        """Read what waits in ``event_fileno`` into the queue that ``events`` empties. Never blocks."""
        ...

    def close(self) -> None: ...


class UserspaceDataPlane(DataPlane, Protocol):
    """A data plane whose packets pass through this process, in batches (one call handles many packets).

    ``outbound`` takes inner IP packets to ESP, ``inbound`` takes ESP to inner packets. ``read_device`` drains the
    device (at most ``limit`` packets) and returns what must be sent; ``receive`` does ``inbound`` and writes to the
    device.
    """

    def outbound(self, packets: Iterable[bytes | memoryview], now: float) -> list[EspDatagrams]: ...

    def inbound(self, batch: Iterable[EspDatagrams], now: float) -> list[bytes | memoryview]: ...

    def device_fileno(self) -> int | None:
        """The descriptor to watch for readable inner packets; None without a device."""
        ...

    def read_device(self, now: float, limit: int = 64) -> list[EspDatagrams]: ...

    def receive(self, batch: Iterable[EspDatagrams], now: float) -> None: ...

    def receive_icmp(self, packets: Iterable[bytes | memoryview], now: float) -> None:
        """ICMP and ICMPv6 errors from the network outside, as whole IP packets: path MTU (RFC 4301 §8.2)."""
        ...

    def send_dummies(self, sa: SaId, number: int, octets: int = 0) -> None:
        """Queue dummy packets (next header 59, RFC 4303 §2.6) of an outbound SA for the next ``read_device``."""
        ...

"""What one IPsec SA is and what it has counted (RFC 4301 §4.4.2): the values that cross between layers.

Key exchanges make ``SaDescription`` values, data planes install them, and ``SaCounters`` come back. The live,
mutable state (replay window, sequence numbers) is the data plane's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum

from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.wire.transforms import EncrId, IntegId


class SecurityProtocol(IntEnum):
    """Protocol identifiers of RFC 7296 §3.3.1."""

    IKE = 1
    AH = 2
    ESP = 3


class Mode(Enum):
    TUNNEL = "TUNNEL"
    TRANSPORT = "TRANSPORT"


class Direction(Enum):
    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class Limit:
    """A soft limit (rekey) and a hard limit (delete) of one kind; 0 means none."""

    soft: float = 0
    hard: float = 0


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Limits of one SA: seconds since installation, octets and packets (RFC 4301 §4.4.2.1)."""

    seconds: Limit = field(default_factory=Limit)
    octets: Limit = field(default_factory=Limit)
    packets: Limit = field(default_factory=Limit)


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and a UDP port (for native ESP the port is 0)."""

    host: IPAddress
    port: int = 0

    def __str__(self) -> str:
        return f"{self.host}[{self.port}]"


@dataclass(frozen=True, slots=True)
class SaId:
    """Names one installed SA: direction, protocol, SPI and outer destination address."""

    direction: Direction
    protocol: SecurityProtocol
    spi: int
    destination: IPAddress


@dataclass(frozen=True, slots=True)
class SaDescription:
    """Everything a data plane needs to install one unidirectional SA.

    ``source`` and ``destination`` are outer addresses; their ports matter when ``encapsulated`` (ESP in UDP, RFC 3948).
    ``key_encr`` holds the cipher key followed by the salt where the cipher has one (RFC 4106 §8.1); ``key_integ`` is
    empty with an AEAD. ``local_ts`` and ``remote_ts`` are the negotiated selectors, the same for both directions.
    SAs of one policy share ``reqid``; the outbound SA installed last is the one that sends.

    ``tfc`` pads inner packets of an outbound SA to this many octets, -1 to what the path takes (RFC 4303 §2.7; tunnel
    mode only); ``dummy_rate`` is how many dummy packets of that length it sends a second (§2.6). ``ipcomp_cpi`` is the
    CPI that stands on the wire for DEFLATE inside this SA, 0 without IPComp. ``original_source`` and
    ``original_destination`` are the addresses that the sender's transport checksums were made with, when a NAT is
    between (transport mode; RFC 7296 §2.23.1). ``copy_dscp`` says where the DSCP is copied: to the outer header
    ("out"), back to the inner one ("in"), both ("yes") or not ("no"). ``fragment`` packets that are too long "before"
    or "after" encryption. ``non_first_fragments``: later fragments, which show no ports, use this SA too though its
    selectors name ports (RFC 4301 §7.3); without ports in the selectors they always do. ``sha256_96`` truncates HMAC-
    SHA-256 to 96 bits, as kernels before 2.6.33 did. ``interface``, ``if_id`` and ``mark`` (value, mask) bind the SA
    to a virtual interface.
    """

    direction: Direction
    protocol: SecurityProtocol
    mode: Mode
    spi: int
    source: Address
    destination: Address
    encapsulated: bool
    encr: EncrId
    encr_key_bits: int
    integ: IntegId
    key_encr: bytes = field(repr=False)
    key_integ: bytes = field(repr=False)
    esn: bool
    replay_window: int
    lifetime: Lifetime
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    reqid: int
    tfc: int = 0
    dummy_rate: float = 0.0
    ipcomp_cpi: int = 0
    original_source: IPAddress | None = None
    original_destination: IPAddress | None = None
    copy_dscp: str = "out"
    copy_df: bool = True
    copy_ecn: bool = True
    fragment: str = "before"
    non_first_fragments: bool = True
    sha256_96: bool = False
    interface: str = ""
    if_id: int = 0
    mark: tuple[int, int] = (0, 0)

    @property
    def id(self) -> SaId:
        return SaId(self.direction, self.protocol, self.spi, self.destination.host)


@dataclass(slots=True)
class ReplayCounts:
    """What an inbound SA's anti-replay window saw beside numbers in order, in packets.

    ``out_of_order`` are authentic packets that filled a gap in the window: accepted. All others were dropped, before
    their ICV was looked at (RFC 4303 §3.4.3): older than the window, seen before, number 0, and beyond the last number
    there is. A number further ahead than the window is wide is none of these: it moves the window.
    """

    beyond_window: int = 0
    out_of_order: int = 0
    before_window: int = 0
    duplicates: int = 0
    zero: int = 0

    @property
    def dropped(self) -> int:
        return self.beyond_window + self.before_window + self.duplicates + self.zero


@dataclass(slots=True)
class PacketDetails:
    """What else a userspace data plane counts of one SA, in packets; none of it is an error.

    ``dummies`` (RFC 4303 §2.6) were sent or received, and are in no other count. ``padded`` had TFC padding,
    ``compressed`` went through IPComp. ``fragments`` were inner fragments that show no ports. ``resynchronised`` tells
    how often the high half of an extended sequence number was found again (RFC 4303 App. A3).
    """

    dummies: int = 0
    padded: int = 0
    compressed: int = 0
    fragments: int = 0
    resynchronised: int = 0


@dataclass(slots=True)
class SaCounters:
    """Counts of one SA since its installation. ``octets`` are inner (user) octets, as VICI's bytes-in and bytes-out: of
    whole inner packets in tunnel mode, of what is behind the IP header in transport mode, as the kernel counts them.

    ``last_used`` is the time of the last packet that passed, None before the first. ``replays`` splits
    ``replay_errors`` by kind; None for an outbound SA, and where the data plane does not tell the kinds apart.
    ``details`` is None where the data plane does not count such things. ``uncounted`` names errors that the data plane
    does not count for single SAs: they stay 0 and mean nothing.
    """

    octets: int = 0
    packets: int = 0
    replay_errors: int = 0
    integrity_errors: int = 0
    policy_errors: int = 0
    padding_errors: int = 0
    other_errors: int = 0
    last_used: float | None = None
    replays: ReplayCounts | None = None
    details: PacketDetails | None = field(default=None, compare=False)
    uncounted: frozenset[str] = field(default=frozenset(), compare=False)

    def copy(self) -> SaCounters:
        """What was counted up to now, in an object of its own."""
        return replace(
            self,
            replays=replace(self.replays) if self.replays is not None else None,
            details=replace(self.details) if self.details is not None else None,
        )

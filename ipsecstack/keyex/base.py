"""What every key exchange shares: configuration in, outputs and views out (docs/architecture.md, 'The stack').

A key exchange is sans-IO. It is given datagrams, commands and the time, and it answers with an ordered list of
outputs that the composition root carries out: datagrams to send, changes to the data plane, and events in the past
tense. Time is seconds of one monotonic clock; randomness is a callable ``random(n) -> n octets``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ipsecstack.ipsec.sa import Address, Mode, SaDescription, SaId, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.ipsec.spd import SpdEntry
from ipsecstack.keyex.configuration import ConnectionConfig, Identity, PoolConfig
from ipsecstack.keyex.revocation import FetchRevocation as FetchRevocation
from ipsecstack.wire.transforms import EncrId, IntegId, KeId, PrfId

Random = Callable[[int], bytes]


# --- views: what VICI and tests may see of live SAs (never a key) -----------------------------------------------------


@dataclass(slots=True)
class IkeCounters:
    """Counts of one IKE SA; octets are UDP payload octets of IKE messages. They go on across an IKE SA's
    rekey only in the agent's totals: a rekeyed IKE SA starts at zero, as an IPsec SA does.

    Of the exchanges for Child SAs, ``_in`` are those that the peer began, ``_out`` ours: ``invalids`` made no sense
    (an exchange of ours, by its answer), ``rejects`` were refused by the other end with a notify. Those that are to
    be tried again (TEMPORARY_FAILURE, INVALID_KE_PAYLOAD) are no rejects.
    """

    octets_in: int = 0
    octets_out: int = 0
    packets_in: int = 0
    packets_out: int = 0
    drops_in: int = 0
    drops_out: int = 0
    notifies_in: int = 0
    notifies_out: int = 0
    child_exchanges_in: int = 0
    child_exchanges_out: int = 0
    child_invalids_in: int = 0
    child_invalids_out: int = 0
    child_rejects_in: int = 0
    child_rejects_out: int = 0
    child_deletes_in: int = 0
    child_deletes_out: int = 0
    retransmits_out: int = 0
    fragments_in: int = 0  # authentic ones of IKE messages (RFC 7383)
    fragments_out: int = 0


@dataclass(frozen=True, slots=True)
class ChildSaView:
    """A Child SA as seen from outside; ``state`` uses strongSwan's words (INSTALLED, REKEYING, REKEYED,
    DELETING, DELETED ...)."""

    name: str
    uniqueid: int
    reqid: int
    state: str
    mode: Mode
    protocol: SecurityProtocol
    encapsulated: bool
    spi_in: int
    spi_out: int
    inbound: SaId | None
    outbound: SaId | None
    encr: EncrId
    encr_key_bits: int
    integ: IntegId
    ke: KeId
    esn: bool
    replay_window: int
    install_time: float
    rekey_time: float | None  # absolute, of the clock that is passed in as now
    life_time: float | None
    rekey_bytes: int
    life_bytes: int
    rekey_packets: int
    life_packets: int
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    generation: int
    cpi_in: int = 0
    cpi_out: int = 0
    if_id: int = 0
    mark: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class IkeSaView:
    """An IKE SA as seen from outside. ``generation`` grows with every change of the endpoint that touched this SA."""

    name: str
    uniqueid: int
    version: int
    state: str
    local: Address
    remote: Address
    local_id: Identity | None
    remote_id: Identity | None
    local_auth: str | None  # 'psk', 'rsa', 'ecdsa', 'ed25519'; None before authentication
    remote_auth: str | None
    initiator: bool
    initiator_spi: bytes
    responder_spi: bytes
    nat_local: bool
    nat_remote: bool
    nat_fake: bool
    encr: EncrId | None
    encr_key_bits: int
    integ: IntegId | None
    prf: PrfId | None
    ke: KeId | None
    created: float
    established: float | None
    rekey_time: float | None
    life_time: float | None
    counters: IkeCounters
    tasks_active: tuple[str, ...]
    tasks_queued: tuple[str, ...]
    children: tuple[ChildSaView, ...]
    generation: int
    ppk: bool = False
    additional_ke: tuple[KeId, ...] = ()
    remote_cert_expiry: float | None = None  # POSIX seconds, not the monotonic clock
    local_cert_expiry: float | None = None
    local_vips: tuple[IPAddress, ...] = ()
    remote_vips: tuple[IPAddress, ...] = ()
    remote_eap_id: str | None = None
    reauth_time: float | None = None


# --- outputs: carried out in order ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """An IKE message; the I/O layer adds the non-ESP marker when the local or remote port is 4500 (``marker``)."""

    data: bytes
    local: Address
    remote: Address
    marker: bool


@dataclass(frozen=True, slots=True)
class InstallSa:
    sa: SaDescription


@dataclass(frozen=True, slots=True)
class UpdateSa:
    sa: SaId
    source: Address
    destination: Address
    encapsulated: bool


@dataclass(frozen=True, slots=True)
class RemoveSa:
    sa: SaId


@dataclass(frozen=True, slots=True)
class ReleaseSpi:
    spi: int


@dataclass(frozen=True, slots=True)
class AddPolicy:
    entry: SpdEntry


@dataclass(frozen=True, slots=True)
class RemovePolicy:
    entry: SpdEntry


@dataclass(frozen=True, slots=True)
class AddVirtualIp:
    """This host has this address while an IKE SA lives that the peer gave it for."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class RemoveVirtualIp:
    address: IPAddress


@dataclass(frozen=True, slots=True)
class LogRecorded:
    """A line for VICI's log and control-log events; never a secret. ``level`` -1..4, ``group`` DMN MGR IKE
    CHD KNL NET ENC CFG."""

    group: str
    level: int
    ike_name: str | None
    ike_uniqueid: int | None
    message: str


@dataclass(frozen=True, slots=True)
class IkeSaEstablished:
    ike: IkeSaView


@dataclass(frozen=True, slots=True)
class IkeSaRekeyed:
    old: IkeSaView
    new: IkeSaView


@dataclass(frozen=True, slots=True)
class IkeSaUpdated:
    """Addresses, ports or NAT state changed."""

    ike: IkeSaView


@dataclass(frozen=True, slots=True)
class IkeSaDeleted:
    """``reason``: 'deleted', 'peer-deleted', 'expired', 'timeout', 'auth-failed', 'replaced', 'shutdown'.
    ``established`` is False for an IKE SA that never came up; the reason may then be a notify's name."""

    ike: IkeSaView
    reason: str
    established: bool


@dataclass(frozen=True, slots=True)
class ChildSaEstablished:
    ike: IkeSaView
    child: ChildSaView


@dataclass(frozen=True, slots=True)
class ChildSaRekeyed:
    ike: IkeSaView
    old: ChildSaView
    new: ChildSaView


@dataclass(frozen=True, slots=True)
class ChildSaDeleted:
    """Follows the RemoveSa outputs of its SAs; the root joins their final counters."""

    ike: IkeSaView
    child: ChildSaView
    reason: str


@dataclass(frozen=True, slots=True)
class NegotiationFailed:
    """``reason`` is the notify's name (NO_PROPOSAL_CHOSEN, AUTHENTICATION_FAILED, TS_UNACCEPTABLE ...) or
    'TIMEOUT', 'NO_PSK', ... ."""

    ike_name: str | None
    ike_uniqueid: int | None
    child_name: str | None
    remote: Address | None
    reason: str
    message: str
    received: bool = False  # the peer reported it; else it was found here


@dataclass(frozen=True, slots=True)
class CommandFinished:
    """The outcome of ``initiate``, ``terminate`` or ``rekey``, by the ticket that the call returned."""

    ticket: int
    success: bool
    message: str


@dataclass(frozen=True, slots=True)
class KeysDerived:
    """Only emitted when key export is switched on for debugging. ``lines`` maps a tshark table to lines for it."""

    table: str  # 'ikev2_decryption_table' or 'esp_sa'
    line: str = field(repr=False)


Output = (
    SendDatagram | InstallSa | UpdateSa | RemoveSa | ReleaseSpi | AddPolicy | RemovePolicy | LogRecorded
    | IkeSaEstablished | IkeSaRekeyed | IkeSaUpdated | IkeSaDeleted
    | ChildSaEstablished | ChildSaRekeyed | ChildSaDeleted | NegotiationFailed | CommandFinished | KeysDerived
    | FetchRevocation | AddVirtualIp | RemoveVirtualIp
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lease:
    """An address of a pool, and who has it. ``online`` counts the IKE SAs that use it."""

    pool: str
    address: IPAddress
    identity: str
    online: int = 0


class PoolView(Protocol):
    """An address pool as seen from outside."""

    config: PoolConfig

    @property
    def size(self) -> int: ...

    @property
    def online(self) -> int: ...

    @property
    def offline(self) -> int: ...

    def leases(self) -> list[Lease]: ...


class CommandError(Exception):
    """A command named something that is not there or cannot be done; the message goes to the operator."""


class KeyExchangeEndpoint(Protocol):
    """One gateway's key exchanges. ``keyex.endpoint.Endpoint`` implements it and hands each IKE SA to its
    version's code.

    Constructor: ``Endpoint(*, random, allocate_spi, credentials, options, now, wall_clock)`` where
    ``allocate_spi() -> int`` reserves an inbound SPI at the data plane, ``wall_clock() -> float`` gives POSIX
    seconds for certificate validity and ``last_inbound(SaId) -> float | None`` tells when an inbound SA last
    passed traffic (liveness, RFC 7296 §2.4). ``source_address(remote) -> IPAddress | None`` finds the address to
    send from where ``local_addrs`` is ``%any``.
    """

    @property
    def generation(self) -> int:
        """The change stamp of the newest change to any IKE SA."""
        ...

    def receive_datagram(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        """One IKE message without the non-ESP marker. Never raises on peer input."""
        ...

    def revocation_fetched(self, fetch: FetchRevocation, data: bytes | None, now: float) -> None:
        """What came back of a ``FetchRevocation`` output, None if nothing did. Messages that waited are received."""
        ...

    def next_timer(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...

    def outputs(self) -> list[Output]:
        """Take the outputs produced since the last call, in order."""
        ...

    def load_connection(self, config: ConnectionConfig, now: float) -> None:
        """Add or replace by name; SAs of a replaced connection live on. start_action is carried out."""
        ...

    def unload_connection(self, name: str, now: float) -> None: ...

    def connections(self) -> Sequence[ConnectionConfig]: ...

    def load_pool(self, config: PoolConfig) -> None:
        """Add or change an address pool. ValueError when its leases forbid it."""
        ...

    def unload_pool(self, name: str) -> None:
        """ValueError when there is none of this name, or leases are in use."""
        ...

    def address_pools(self) -> Sequence[PoolView]: ...

    def initiate(self, *, ike: str | None, child: str | None, now: float) -> int:
        """Bring up a connection and/or child; returns a ticket, CommandFinished follows. Raises CommandError."""
        ...

    def terminate(
        self,
        *,
        ike: str | None = None,
        child: str | None = None,
        ike_id: int | None = None,
        child_id: int | None = None,
        force: bool = False,
        now: float,
    ) -> tuple[int, int]:
        """Delete what matches; returns (ticket, number matched). Raises CommandError when nothing matches."""
        ...

    def rekey(
        self,
        *,
        ike: str | None = None,
        child: str | None = None,
        ike_id: int | None = None,
        child_id: int | None = None,
        reauth: bool = False,
        now: float,
    ) -> int:
        """Start make-before-break rekeying of what matches; returns the number matched. ``reauth``: IKE SAs are made
        anew, with authentication."""
        ...

    def redirect(
        self,
        gateway: str,
        *,
        ike: str | None = None,
        ike_id: int | None = None,
        peer_ip: str | None = None,
        peer_id: Identity | None = None,
        now: float,
    ) -> int:
        """Send the clients of established IKE SAs that match to another gateway (RFC 5685); returns how many.
        ``peer_ip`` may be a network or range; CommandError when nothing matches."""
        ...

    def install(self, *, child: str, ike: str | None, now: float) -> None:
        """Install a child's policy as a trap (VICI install)."""
        ...

    def uninstall(self, *, child: str, ike: str | None, now: float) -> None: ...

    def sa_expired(self, sa: SaId, hard: bool, now: float) -> None: ...

    def acquired(
        self,
        entry: SpdEntry,
        source: IPAddress,
        destination: IPAddress,
        protocol: int,
        ports: tuple[int, int] | None,
        now: float,
        selectors: tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]] | None = None,
    ) -> None:
        """A packet met a trap. ``selectors`` are what its SA should be for, where they come from the packet."""
        ...

    def unknown_spi(self, spi: int, local: Address, remote: Address, now: float) -> None: ...

    def peer_address_changed(self, sa: SaId, remote: Address, now: float) -> None: ...

    def addresses_changed(self, addresses: Iterable[IPAddress], now: float) -> None:
        """Local addresses (these are all of them) or routes changed: IKE SAs move where MOBIKE lets them."""
        ...

    def ike_sas(self) -> Sequence[IkeSaView]: ...

    def ike_sas_changed_since(
        self, generation: int
    ) -> tuple[Sequence[IkeSaView], Sequence[int], Sequence[int]]:
        """IKE SAs changed after ``generation``, and the uniqueids of IKE SAs and of Child SAs gone since then. Raises
        CommandError when ``generation`` is older than what is remembered (the caller then lists all)."""
        ...

    def counters(self, connection: str | None = None) -> dict[str, int]:
        """VICI get-counters' 21 keys, of one connection or of all."""
        ...

    def counters_by_connection(self) -> dict[str, dict[str, int]]: ...

    def reset_counters(self, connection: str | None = None) -> None: ...

    def statistics(self) -> dict[str, int]:
        """Counts of the whole endpoint, by VICI's names of the section ``stats.ike`` (docs/vici.md):
        ``invalid-messages`` (all that were not understood or not accepted, with the two that follow),
        ``integrity-failures``, ``decrypt-failures``, ``cookies-sent``, ``half-open-drops``, ``unknown-ike-spi``.
        """
        ...

    def shutdown(self, now: float) -> None:
        """Delete all IKE SAs in an orderly way; outputs and timers go on until ``ike_sas()`` is empty."""
        ...

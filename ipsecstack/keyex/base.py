"""What every key exchange shares: configuration in, outputs and views out (docs/architecture.md, 'The stack').

A key exchange is sans-IO. It is given datagrams, commands and the time, and it answers with an ordered list of
outputs that the composition root carries out: datagrams to send, changes to the data plane, and events in the past
tense. Time is seconds of one monotonic clock; randomness is a callable ``random(n) -> n octets``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address
from typing import Protocol

from ipsecstack.ipsec.sa import Address, Mode, SaDescription, SaId, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.ipsec.spd import SpdEntry
from ipsecstack.keyex.revocation import FetchRevocation as FetchRevocation
from ipsecstack.wire.transforms import EncrId, EsnId, IntegId, KeId, PrfId

Random = Callable[[int], bytes]


# --- configuration (swanctl.conf's connections section, and VICI load-conn) ---------------------------------------


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposal as configured: the choices of each transform type, best first (RFC 7296 §3.3)."""

    protocol: SecurityProtocol
    encr: tuple[tuple[EncrId, int], ...]  # (algorithm, key bits; 0 when the key length is fixed)
    integ: tuple[IntegId, ...] = ()
    prf: tuple[PrfId, ...] = ()
    ke: tuple[KeId, ...] = ()
    esn: tuple[EsnId, ...] = ()
    additional_ke: tuple[tuple[KeId, ...], ...] = ()
    """Choices of ADDKE1, ADDKE2 ... up to ADDKE7 (RFC 9370 §2.2.2); empty in between where one is left out."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity as configured: ``%any`` (type ANY) or an ID payload's type and value (RFC 7296 §3.5), with
    its text."""

    type: int  # 0 ANY, 1 IPV4, 2 FQDN, 3 RFC822, 5 IPV6, 9 DER_ASN1_DN, 11 KEY_ID
    data: bytes
    text: str

    @property
    def is_any(self) -> bool:
        return self.type == 0


REVOCATION_POLICIES = ("strict", "ifuri", "relaxed")
"""What a remote's certificates must be: known to be good; that, if anybody can be asked; not known to be revoked."""


class AuthClass(Enum):
    PSK = "psk"
    PUBKEY = "pubkey"
    EAP = "eap"


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """A local or remote authentication round: swanctl.conf's local<suffix> or remote<suffix>."""

    auth: AuthClass = AuthClass.PUBKEY
    id: Identity | None = None
    certs: tuple[bytes, ...] = ()  # DER: local certificates to use; remote certificates to accept
    cacerts: tuple[bytes, ...] = ()  # DER: CA certificates that must be in the remote's chain
    auth_hashes: tuple[
        str, ...
    ] = ()  # crypto.schemes.parse_rules of auth = pubkey-sha256...; empty: any SHA-2
    revocation: str = "relaxed"  # of the remote's certificates: strict, ifuri or relaxed
    eap: str = (
        ""  # method of auth = eap-METHOD (identity, md5, mschapv2, gtc, tls); empty: whichever both know
    )
    eap_id: Identity | None = (
        None  # None: as the IKE identity; of a remote, %any or a pattern asks the peer for it
    )


class ChildAction(Enum):
    """start_action, dpd_action and close_action."""

    NONE = "none"
    TRAP = "trap"
    START = "start"
    CLEAR = "clear"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class DynamicSelector(TrafficSelector):
    """``dynamic`` with a protocol and ports, in a configuration: its addresses are known when an IKE SA is up."""

    @classmethod
    def of(cls, protocol: int = 0, start_port: int = 0, end_port: int = 65535) -> DynamicSelector:
        nowhere = IPv4Address(0)
        return cls(nowhere, nowhere, protocol, start_port, end_port)

    def at(self, address: IPAddress) -> TrafficSelector:
        """The selector for this address."""
        return TrafficSelector(address, address, self.protocol, self.start_port, self.end_port)

    def to_text(self) -> str:
        whole = TrafficSelector(self.start, self.end, self.protocol, self.start_port, self.end_port)
        return "dynamic" + whole.to_text().removeprefix("0.0.0.0/32")


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """swanctl.conf's children.<child>. An empty traffic selector tuple means ``dynamic``: the IKE address of
    that side, or its virtual addresses.

    ``tfc`` pads inner packets to this many octets, -1 to what the path takes; ``dummy_rate`` is how many dummy packets
    a second are sent (RFC 4303 §2.6). ``inactivity`` in seconds closes what
    passes no traffic. ``interface``, ``if_id`` and ``mark`` (value, mask) bind policies and SAs; an inbound SA has the
    mark only with ``mark_in_sa``. ``pfp`` is populate-from-packet (``SpdEntry.pfp``).
    """

    name: str
    local_ts: tuple[TrafficSelector, ...] = ()
    remote_ts: tuple[TrafficSelector, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    mode: Mode = Mode.TUNNEL
    policy: str = "PROTECT"  # PROTECT, BYPASS (swanctl mode = pass) or DISCARD (mode = drop)
    priority: int = 0
    rekey_time: float = 3600
    life_time: float = 3960
    rand_time: float = 360
    rekey_bytes: int = 0
    life_bytes: int = 0
    rand_bytes: int = 0
    rekey_packets: int = 0
    life_packets: int = 0
    rand_packets: int = 0
    start_action: ChildAction = ChildAction.NONE
    dpd_action: ChildAction = ChildAction.CLEAR
    close_action: ChildAction = ChildAction.NONE
    replay_window: int = 32
    reqid: int = 0
    sha256_96: bool = False  # HMAC-SHA-256 cut to 96 bits, as before RFC 4868
    ipcomp: bool = False
    tfc: int = 0
    dummy_rate: float = 0.0
    copy_df: bool = True
    copy_ecn: bool = True
    copy_dscp: str = "out"  # out, in, yes, no
    inactivity: float = 0
    interface: str = ""
    if_id: int = 0
    mark: tuple[int, int] = (0, 0)
    mark_in_sa: bool = False
    pfp: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """swanctl.conf's pools.<pool>: addresses to lease, and attributes for who leases one (RFC 7296 §3.15.1)."""

    name: str
    first: IPAddress
    last: IPAddress
    text: str  # as configured, for get-pools
    attributes: tuple[tuple[int, bytes], ...] = ()  # (attribute type, value)


class UniquePolicy(Enum):
    """What an IKE SA of the same peer means for its elder (swanctl's unique)."""

    NEVER = "never"
    NO = "no"
    KEEP = "keep"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """swanctl.conf's connections.<conn>. Addresses are text as configured (``%any``, names are not resolved here)."""

    name: str
    version: int = 2
    local_addrs: tuple[str, ...] = ("%any",)
    remote_addrs: tuple[str, ...] = ("%any",)
    local_port: int = 500
    remote_port: int = 500
    proposals: tuple[Proposal, ...] = ()
    local: tuple[AuthConfig, ...] = ()
    remote: tuple[AuthConfig, ...] = ()
    children: tuple[ChildConfig, ...] = ()
    encap: bool = False
    unique: UniquePolicy = UniquePolicy.NO
    keyingtries: int = 1
    dpd_delay: float = 0
    rekey_time: float = 14400
    over_time: float = 1440
    rand_time: float = 1440
    send_cert: str = "ifasked"
    send_certreq: bool = True
    ppk_id: Identity | None = None
    """Of the post-quantum pre-shared key to use as initiator, or to accept as responder (then a pattern will do)."""
    ppk_required: bool = False
    childless: str = "allow"  # IKE SAs without Child SAs: allow, prefer, force, never
    fragmentation: str = "yes"  # of IKE messages: yes, accept, force (as yes), no
    mobike: bool = False
    session_resumption: bool = False
    redirect: str = ""  # gateway (address or name) that clients are sent to when they are authenticated
    vips: tuple[IPAddress, ...] = ()  # virtual IPs to ask for; an unspecified one takes any of its version
    pools: tuple[str, ...] = ()  # address pools that the peer gets its virtual IPs from
    reauth_time: float = 0


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """A secret and the identities that own it (empty owners: any peer). ``data`` never leaves the process."""

    id: str
    data: bytes = field(repr=False)
    owners: tuple[Identity, ...] = ()
    kind: str = "ike"  # ike, eap, ntlm (a password's NT hash, for MSCHAPv2) or ppk


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

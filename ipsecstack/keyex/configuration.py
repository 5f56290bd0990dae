"""Configuration as a key exchange takes it: what swanctl.conf and VICI's load commands say, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address

from ipsecstack.ipsec.sa import Mode, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.wire.transforms import EncrId, EsnId, IntegId, KeId, PrfId


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

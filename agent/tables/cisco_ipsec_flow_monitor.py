"""CISCO-IPSEC-FLOW-MONITOR-MIB, what NMS tools poll: globals, tunnels, endpoints and SPIs of both phases.

A row of either tunnel table is an identity and not an SA: its index and totals outlive rekeying, and it stays while
its configuration lives. While it is down its status reads destroy(2), the one published value that is not active(1).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.gateway import Selector
from agent.gateway.counters import CHILD_ERRORS_OUT
from agent.gateway.selectors import IPAddress
from agent.gateway.tunnels import ChildSa, IkeTunnel, SelectorPair, Tunnel
from agent.gateway.view import View
from agent.smi import Column, ModuleBinding, Scalar, Table
from agent.tables import algorithms
from agent.tables.destroy import StatusWriter

MIB_LEVEL = 1
KBYTE = 1024
MAX_INTEGER = 2**31 - 1
MAX_TEXT = 255

# Packets that were authentic, and packets that were decrypted, whatever became of them afterwards.
DECRYPTED = ("packets_in", "padding_errors_in", "policy_errors_in")
AUTHENTICATED = (*DECRYPTED, "integrity_errors_in")
# Anti-replay drops have an object of their own and are not among the drops.
DROPPED_IN = ("integrity_errors_in", "policy_errors_in", "padding_errors_in", "other_errors_in")

# strongSwan counts IKE messages by kind and nothing by SA (get-counters).
MESSAGE_KINDS = ("ike_init", "ike_auth", "create_child", "info")
MESSAGES_IN = tuple(f"{kind}_in_{half}" for kind in MESSAGE_KINDS for half in ("req", "resp"))
MESSAGES_OUT = tuple(f"{kind}_out_{half}" for kind in MESSAGE_KINDS for half in ("req", "resp"))


def text(value: str | None) -> str:
    """A DisplayString of at most 255 characters."""
    return (value or "")[:MAX_TEXT]


def positive(value: int | None) -> int | None:
    """For objects whose range starts at 1; None where the value is outside of it."""
    return value if value is not None and 1 <= value <= MAX_INTEGER else None


def hundredths(seconds: float) -> int:
    """TimeInterval: hundredths of a second, at most what fits."""
    return min(int(seconds * 100), MAX_INTEGER)


def itself(subject: Any) -> tuple[Any]:
    """A subject that is a row."""
    return (subject,)


def is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


# --- IKE globals ------------------------------------------------------------------------------------------------------

GlobalGetter = Callable[[View], int | None]


def ike_total(*names: str, daemon: tuple[str, ...] = ()) -> GlobalGetter:
    """Totals of all IKE SAs, ended ones included; else what the daemon counts by itself."""

    def get(gateway: View) -> int | None:
        found = gateway.ike_total(*names)
        return found if found is not None or not daemon else gateway.ike_daemon_total(*daemon)

    return get


def daemon_total(*names: str) -> GlobalGetter:
    return lambda gateway: gateway.ike_daemon_total(*names)


def no_ike_sa(gateway: View) -> int | None:
    found = gateway.ike_stats_total("unknown_ike_spi")
    return found if found is not None else gateway.ike_daemon_total("invalid_spi")


def nobody(row: Any) -> None:
    """No source counts it."""
    return


IKE_GLOBALS = [
    Scalar("cikeGlobalActiveTunnels", lambda gateway: gateway.active_ike_tunnels),
    Scalar("cikeGlobalPreviousTunnels", lambda gateway: gateway.previous_ike_tunnels),
    Scalar("cikeGlobalInOctets", ike_total("octets_in")),
    Scalar("cikeGlobalInPkts", ike_total("packets_in", daemon=MESSAGES_IN)),
    Scalar("cikeGlobalInDropPkts", ike_total("drops_in", daemon=("invalid", "invalid_spi"))),
    Scalar("cikeGlobalInNotifys", ike_total("notifies_in")),
    Scalar("cikeGlobalInP2Exchgs", ike_total("child_exchanges_in", daemon=("create_child_in_req",))),
    Scalar("cikeGlobalInP2ExchgInvalids", ike_total("child_invalids_in")),
    Scalar("cikeGlobalInP2ExchgRejects", ike_total("child_rejects_in")),
    Scalar("cikeGlobalInP2SaDelRequests", ike_total("child_deletes_in")),
    Scalar("cikeGlobalOutOctets", ike_total("octets_out")),
    Scalar("cikeGlobalOutPkts", ike_total("packets_out", daemon=MESSAGES_OUT)),
    Scalar("cikeGlobalOutDropPkts", ike_total("drops_out")),
    Scalar("cikeGlobalOutNotifys", ike_total("notifies_out")),
    Scalar("cikeGlobalOutP2Exchgs", ike_total("child_exchanges_out", daemon=("create_child_out_req",))),
    Scalar("cikeGlobalOutP2ExchgInvalids", ike_total("child_invalids_out")),
    Scalar("cikeGlobalOutP2ExchgRejects", ike_total("child_rejects_out")),
    Scalar("cikeGlobalOutP2SaDelRequests", ike_total("child_deletes_out")),
    Scalar("cikeGlobalInitTunnels", lambda gateway: gateway.ike_initiated),
    Scalar("cikeGlobalInitTunnelFails", daemon_total("ike_failed_init")),
    Scalar("cikeGlobalRespTunnelFails", daemon_total("ike_failed_resp")),
    Scalar("cikeGlobalSysCapFails", lambda gateway: gateway.ike_stats_total("half_open_drops")),
    Scalar("cikeGlobalAuthFails", daemon_total("auth_failures_in", "auth_failures_out")),
    Scalar("cikeGlobalDecryptFails", lambda gateway: gateway.ike_stats_total("decrypt_failures")),
    Scalar("cikeGlobalHashValidFails", lambda gateway: gateway.ike_stats_total("integrity_failures")),
    Scalar("cikeGlobalNoSaFails", no_ike_sa),
]

# --- IKE tunnels ------------------------------------------------------------------------------------------------------


def peer_type(identity: str | None) -> str:
    return "ipAddrPeer" if identity is None or is_address(identity) else "namePeer"


def peer_value(identity: str | None, host: IPAddress | None) -> str | None:
    """The identity; where it is an address, or is not known, the address as text without leading zeroes."""
    if identity is None:
        return None if host is None else str(host)
    return str(ipaddress.ip_address(identity)) if is_address(identity) else text(identity)


def connection_name(row: IkeTunnel) -> str:
    return text(row.record.name if row.record is not None else row.key[1])


def ike_life(row: IkeTunnel) -> int | None:
    """The hard lifetime; where the source gives none, the time after which the SA is replaced."""
    if row.last is None:
        return None
    return positive(row.last.lifetime if row.last.lifetime is not None else row.last.refresh_at)


def ike_threshold(row: IkeTunnel) -> int | None:
    """How long before its end an IKE SA is replaced."""
    if row.last is None or row.last.lifetime is None or row.last.refresh_at is None:
        return None
    return positive(row.last.lifetime - row.last.refresh_at)


def ike_fact(name: str) -> Callable[[IkeTunnel], Any]:
    return lambda row: getattr(row.record, name, None)


def ike_count(name: str) -> Callable[[IkeTunnel], int | None]:
    return lambda row: row.count(name)


def nego_mode(row: IkeTunnel) -> str | None:
    """IKEv2 has no modes and reads main; VICI does not tell which of its modes an IKEv1 SA had."""
    return "main" if row.record is not None and row.record.version == 2 else None


IKE_TUNNELS = Table(
    "cikeTunnelTable",
    rows=None,
    subjects=lambda gateway: gateway.subjects("ike"),
    rows_of=itself,
    index=lambda row: (row.index,),
    domain="ike",
    columns=[
        Column("cikeTunLocalType", lambda row: peer_type(row.local_id)),
        Column("cikeTunLocalValue", lambda row: peer_value(row.local_id, row.local_host)),
        Column("cikeTunLocalAddr", lambda row: row.local_host),
        Column("cikeTunLocalName", connection_name),
        Column("cikeTunRemoteType", lambda row: peer_type(row.remote_id)),
        Column("cikeTunRemoteValue", lambda row: peer_value(row.remote_id, row.remote_host)),
        Column("cikeTunRemoteAddr", lambda row: row.remote_host),
        Column("cikeTunRemoteName", lambda row: peer_value(row.remote_id, row.remote_host)),
        Column("cikeTunNegoMode", nego_mode),
        Column("cikeTunDiffHellmanGrp", lambda row: algorithms.flow_dh_group(ike_fact("dh_group")(row))),
        Column("cikeTunEncryptAlgo", lambda row: algorithms.flow_cipher(ike_fact("encr_alg")(row))),
        Column(
            "cikeTunHashAlgo",
            lambda row: algorithms.flow_hash(ike_fact("prf_alg")(row), ike_fact("integ_alg")(row)),
        ),
        Column("cikeTunAuthMethod", lambda row: algorithms.flow_auth_method(row.auth)),
        Column("cikeTunLifeTime", ike_life),
        Column("cikeTunActiveTime", lambda row: hundredths(row.active_seconds), volatile=True),
        Column("cikeTunSaRefreshThreshold", ike_threshold),
        Column("cikeTunTotalRefreshes", lambda row: row.refreshes),
        Column("cikeTunInOctets", ike_count("octets_in")),
        Column("cikeTunInPkts", ike_count("packets_in")),
        Column("cikeTunInDropPkts", ike_count("drops_in")),
        Column("cikeTunInNotifys", ike_count("notifies_in")),
        Column("cikeTunInP2Exchgs", ike_count("child_exchanges_in")),
        Column("cikeTunInP2ExchgInvalids", ike_count("child_invalids_in")),
        Column("cikeTunInP2ExchgRejects", ike_count("child_rejects_in")),
        Column("cikeTunInP2SaDelRequests", ike_count("child_deletes_in")),
        Column("cikeTunOutOctets", ike_count("octets_out")),
        Column("cikeTunOutPkts", ike_count("packets_out")),
        Column("cikeTunOutDropPkts", ike_count("drops_out")),
        Column("cikeTunOutNotifys", ike_count("notifies_out")),
        Column("cikeTunOutP2Exchgs", ike_count("child_exchanges_out")),
        Column("cikeTunOutP2ExchgInvalids", ike_count("child_invalids_out")),
        Column("cikeTunOutP2ExchgRejects", ike_count("child_rejects_out")),
        Column("cikeTunOutP2SaDelRequests", ike_count("child_deletes_out")),
        Column("cikeTunStatus", lambda row: "active" if row.active else "destroy", StatusWriter()),
    ],
)

# --- IPsec globals ----------------------------------------------------------------------------------------------------


def child_total(*names: str) -> GlobalGetter:
    return lambda gateway: gateway.child_total(*names)


def wraps(getter: Callable[[Any], int | None]) -> Callable[[Any], int | None]:
    """How often the 32-bit counter of the same value has wrapped."""

    def get(row: Any) -> int | None:
        value = getter(row)
        return None if value is None else value >> 32

    return get


def octet_scalars(direction: str, plain: str) -> list[Scalar]:
    """The six octet objects of a direction. No SA here compresses, so octets before and after are the same."""
    name = f"octets_{direction.lower()}"
    total = child_total(name)
    return [
        Scalar(f"cipSecGlobal{direction}Octets", total),
        Scalar(f"cipSecGlobalHc{direction}Octets", total),
        Scalar(f"cipSecGlobal{direction}OctWraps", wraps(total)),
        Scalar(f"cipSecGlobal{direction}{plain}Octets", total),
        Scalar(f"cipSecGlobalHc{direction}{plain}Octets", total),
        Scalar(f"cipSecGlobal{direction}{plain}OctWraps", wraps(total)),
    ]


IPSEC_GLOBALS = [
    Scalar("cipSecGlobalActiveTunnels", lambda gateway: gateway.active_tunnels),
    Scalar("cipSecGlobalPreviousTunnels", lambda gateway: gateway.previous_tunnels),
    *octet_scalars("In", "Decomp"),
    Scalar("cipSecGlobalInPkts", child_total("packets_in")),
    Scalar("cipSecGlobalInDrops", child_total(*DROPPED_IN)),
    Scalar("cipSecGlobalInReplayDrops", child_total("replay_errors_in")),
    Scalar("cipSecGlobalInAuths", child_total(*AUTHENTICATED)),
    Scalar("cipSecGlobalInAuthFails", child_total("integrity_errors_in")),
    Scalar("cipSecGlobalInDecrypts", child_total(*DECRYPTED)),
    Scalar("cipSecGlobalInDecryptFails", child_total("padding_errors_in")),
    *octet_scalars("Out", "Uncomp"),
    Scalar("cipSecGlobalOutPkts", child_total("packets_out")),
    Scalar("cipSecGlobalOutDrops", child_total(*CHILD_ERRORS_OUT)),
    Scalar("cipSecGlobalOutAuths", child_total("packets_out")),
    Scalar("cipSecGlobalOutAuthFails", nobody),
    Scalar("cipSecGlobalOutEncrypts", child_total("packets_out")),
    Scalar("cipSecGlobalOutEncryptFails", child_total("other_errors_out")),
    Scalar(
        "cipSecGlobalProtocolUseFails", lambda gateway: gateway.ipsec_total("malformed_in", "malformed_out")
    ),
    Scalar("cipSecGlobalNoSaFails", lambda gateway: gateway.ipsec_total("unknown_spi", "no_sa_out")),
    Scalar("cipSecGlobalSysCapFails", nobody),
]

# --- IPsec tunnels ----------------------------------------------------------------------------------------------------


def mode(row: Tunnel) -> str | None:
    name = row.last.record.mode if row.last is not None else row.mode
    return {"TUNNEL": "tunnel", "TRANSPORT": "transport"}.get(name or "")


def life_size(row: Tunnel) -> int | None:
    octets = row.last.record.life_bytes if row.last is not None else None
    return None if octets is None else positive(octets // KBYTE)


def size_threshold(row: Tunnel) -> int | None:
    if row.last is None or row.last.record.life_bytes is None or row.last.record.rekey_bytes is None:
        return None
    return positive((row.last.record.life_bytes - row.last.record.rekey_bytes) // KBYTE)


def life_time(row: Tunnel) -> int | None:
    return positive(row.last.lifetime) if row.last is not None else None


def time_threshold(row: Tunnel) -> int | None:
    if row.last is None or row.last.lifetime is None or row.last.refresh_at is None:
        return None
    return positive(row.last.lifetime - row.last.refresh_at)


def totals(*names: str) -> Callable[[Tunnel], int | None]:
    if len(names) == 1:
        (name,) = names
        return lambda row: row.count(name)
    return lambda row: row.sum(*names)


def sa_fact(getter: Callable[[ChildSa], Any]) -> Callable[[Tunnel], Any]:
    """From the newest SA, also while the tunnel is down."""
    return lambda row: getter(row.last) if row.last is not None else None


def dh_group(sa: ChildSa) -> str | None:
    """Of the SA's own exchange; without one its keys come from the IKE SA's."""
    return algorithms.flow_dh_group(sa.record.dh_group or "NONE")


def ah_auth(sa: ChildSa) -> str | None:
    if sa.record.protocol != "AH":
        return "none"
    return algorithms.flow_auth(sa.record.encr_alg, sa.record.integ_alg)


def esp_auth(sa: ChildSa) -> str | None:
    if sa.record.protocol != "ESP":
        return "none"
    return algorithms.flow_auth(sa.record.encr_alg, sa.record.integ_alg)


def cipher(sa: ChildSa) -> str | None:
    return algorithms.flow_cipher(sa.record.encr_alg) if sa.record.protocol == "ESP" else "none"


def octet_columns(direction: str, plain: str) -> list[Column]:
    octets = totals(f"octets_{direction.lower()}")
    return [
        Column(f"cipSecTun{direction}Octets", octets),
        Column(f"cipSecTunHc{direction}Octets", octets),
        Column(f"cipSecTun{direction}OctWraps", wraps(octets)),
        Column(f"cipSecTun{direction}{plain}Octets", octets),
        Column(f"cipSecTunHc{direction}{plain}Octets", octets),
        Column(f"cipSecTun{direction}{plain}OctWraps", wraps(octets)),
    ]


def sa_columns(direction: str, compression: str) -> list[Column]:
    prefix = f"cipSecTun{direction}Sa"
    return [
        Column(f"{prefix}DiffHellmanGrp", sa_fact(dh_group)),
        Column(f"{prefix}EncryptAlgo", sa_fact(cipher)),
        Column(f"{prefix}AhAuthAlgo", sa_fact(ah_auth)),
        Column(f"{prefix}EspAuthAlgo", sa_fact(esp_auth)),
        Column(
            f"{prefix}{compression}Algo", sa_fact(lambda sa: "none" if sa.record.cpi_in is None else "ldf")
        ),
    ]


TUNNELS = Table(
    "cipSecTunnelTable",
    rows=None,
    subjects=lambda gateway: gateway.subjects("tunnel"),
    rows_of=itself,
    index=lambda row: (row.index,),
    domain="tunnel",
    columns=[
        Column("cipSecTunIkeTunnelIndex", lambda row: row.ike.index),
        Column("cipSecTunIkeTunnelAlive", lambda row: row.ike.active),
        Column("cipSecTunLocalAddr", lambda row: row.local_host),
        Column("cipSecTunRemoteAddr", lambda row: row.remote_host),
        Column("cipSecTunKeyType", lambda row: "ike"),
        Column("cipSecTunEncapMode", mode),
        Column("cipSecTunLifeSize", life_size),
        Column("cipSecTunLifeTime", life_time),
        Column("cipSecTunActiveTime", lambda row: hundredths(row.active_seconds), volatile=True),
        Column("cipSecTunSaLifeSizeThreshold", size_threshold),
        Column("cipSecTunSaLifeTimeThreshold", time_threshold),
        Column("cipSecTunTotalRefreshes", lambda row: row.refreshes),
        Column("cipSecTunExpiredSaInstances", lambda row: row.expired),
        Column("cipSecTunCurrentSaInstances", lambda row: len(row.live_sas)),
        *sa_columns("In", "Decomp"),
        *sa_columns("Out", "Comp"),
        *octet_columns("In", "Decomp"),
        Column("cipSecTunInPkts", totals("packets_in")),
        Column("cipSecTunInDropPkts", totals(*DROPPED_IN)),
        Column("cipSecTunInReplayDropPkts", totals("replay_errors_in")),
        Column("cipSecTunInAuths", totals(*AUTHENTICATED)),
        Column("cipSecTunInAuthFails", totals("integrity_errors_in")),
        Column("cipSecTunInDecrypts", totals(*DECRYPTED)),
        Column("cipSecTunInDecryptFails", totals("padding_errors_in")),
        *octet_columns("Out", "Uncomp"),
        Column("cipSecTunOutPkts", totals("packets_out")),
        Column("cipSecTunOutDropPkts", totals(*CHILD_ERRORS_OUT)),
        Column("cipSecTunOutAuths", totals("packets_out")),
        Column("cipSecTunOutAuthFails", nobody),
        Column("cipSecTunOutEncrypts", totals("packets_out")),
        Column("cipSecTunOutEncryptFails", totals("other_errors_out")),
        Column("cipSecTunStatus", lambda row: "active" if row.active else "destroy", StatusWriter()),
    ],
)

# --- endpoints --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pair of selectors of a tunnel, numbered from 1."""

    tunnel: Tunnel
    number: int
    pair: SelectorPair


def endpoints(tunnel: Tunnel) -> list[Endpoint]:
    return [Endpoint(tunnel, number, pair) for number, pair in enumerate(tunnel.pairs, 1)]


def endpoint_type(selector: Selector) -> str:
    if selector.is_host:
        return "singleIpAddr"
    return "ipAddrRange" if selector.prefix is None else "ipSubnet"


def second_address(selector: Selector) -> bytes:
    """The last address of a range, the mask of a subnet; a single address says it twice."""
    if selector.is_host or selector.prefix is None:
        return selector.end.packed
    bits = selector.start.max_prefixlen
    return (((1 << selector.prefix) - 1) << (bits - selector.prefix)).to_bytes(bits // 8, "big")


def endpoint_columns(side: str, of: Callable[[Endpoint], Selector]) -> list[Column]:
    prefix = f"cipSecEndPt{side}"
    return [
        Column(f"{prefix}Name", lambda row: text(of(row).display)),
        Column(f"{prefix}Type", lambda row: endpoint_type(of(row))),
        Column(f"{prefix}Addr1", lambda row: of(row).start),
        Column(f"{prefix}Addr2", lambda row: second_address(of(row))),
        Column(f"{prefix}Protocol", lambda row: of(row).protocol),
        Column(f"{prefix}Port", lambda row: of(row).port),
    ]


ENDPOINTS = Table(
    "cipSecEndPtTable",
    rows=None,
    subjects=lambda gateway: gateway.subjects("endpoint"),
    rows_of=endpoints,
    index=lambda row: (row.tunnel.index, row.number),
    domain="endpoint",
    columns=[
        *endpoint_columns("Local", lambda row: row.pair.local),
        *endpoint_columns("Remote", lambda row: row.pair.remote),
    ],
)

# --- SPIs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spi:
    """One direction of a pair of SAs."""

    sa: ChildSa
    inbound: bool

    @property
    def value(self) -> int:
        return self.sa.record.spi_in if self.inbound else self.sa.record.spi_out


def spis(sa: ChildSa) -> list[Spi]:
    if not sa.shown:
        return []
    rows = (Spi(sa, True), Spi(sa, False))
    return [row for row in rows if row.value]


SPIS = Table(
    "cipSecSpiTable",
    rows=None,
    subjects=lambda gateway: gateway.subjects("spi"),
    rows_of=spis,
    index=lambda row: (row.sa.tunnel.index, row.sa.number * 2 - (1 if row.inbound else 0)),
    domain="spi",
    columns=[
        Column("cipSecSpiDirection", lambda row: "in" if row.inbound else "out"),
        Column("cipSecSpiValue", lambda row: row.value),
        Column("cipSecSpiProtocol", lambda row: "ah" if row.sa.record.protocol == "AH" else "esp"),
        Column("cipSecSpiStatus", lambda row: "expiring" if row.sa.expiring else "active"),
    ],
)


def binding() -> ModuleBinding:
    """What is served of CISCO-IPSEC-FLOW-MONITOR-MIB."""
    return ModuleBinding(
        "CISCO-IPSEC-FLOW-MONITOR-MIB",
        scalars=[Scalar("cipSecMibLevel", lambda gateway: MIB_LEVEL), *IKE_GLOBALS, *IPSEC_GLOBALS],
        tables=[IKE_TUNNELS, TUNNELS, ENDPOINTS, SPIS],
        not_served={
            "cikePeerTable": "not served yet: peers by their two identities",
            "cikePeerCorrTable": "not served yet: tunnels of a peer",
            "cikePhase1GWStatsTable": "its index is a slot of a media gateway of several parts; this gateway is one",
            "cipSecPhase2GWStatsTable": "its index is a slot of a media gateway of several parts; this gateway is one",
            "cipSecHistory": "not served yet: the history of ended tunnels",
            "cipSecFailures": "not served yet: the record of failures",
            "cipSecTrapCntl": "not served yet: the module's notifications and their switches",
        },
    )

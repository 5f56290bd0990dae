"""IPSEC-SA-MON-MIB (draft-ietf-ipsec-monitor-mib-06): the SAD, its selectors, counts and errors.

An SA is a row of the inbound or outbound table of its protocol, indexed by destination address and SPI. It leaves the
table when it is deleted; totals that outlive it are in the statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from agent.gateway import Selector
from agent.gateway.counters import CHILD_REPLAYS_IN
from agent.gateway.selectors import IPAddress
from agent.gateway.tunnels import ChildSa, SelectorPair
from agent.gateway.view import View
from agent.smi import Change, Column, IndexValues, ModuleBinding, Scalar, SetError, Table
from agent.smi.rowstatus import Nothing
from agent.tables import algorithms

KBYTE = 1024
WELL_KNOWN_CPIS = range(1, 5)

# --- selectors --------------------------------------------------------------------------------------------------------


def raw_id(selector: Selector) -> bytes:
    """Identification data as in a payload: address, address and mask, or first and last address (RFC 2407, 4.6.2)."""
    if selector.is_host:
        return selector.start.packed
    prefix = selector.prefix
    if prefix is None:
        return selector.start.packed + selector.end.packed
    bits = selector.start.max_prefixlen
    mask = ((1 << prefix) - 1) << (bits - prefix)
    return selector.start.packed + mask.to_bytes(bits // 8, "big")


def id_type(selector: Selector) -> str:
    version = selector.start.version
    if selector.is_host:
        return f"idIpv{version}Addr"
    return f"idIpv{version}AddrRange" if selector.prefix is None else f"idIpv{version}AddrSubnet"


def protocol(pair: SelectorPair) -> int | None:
    """The protocol that both name."""
    return pair.local.protocol if pair.local.protocol == pair.remote.protocol else None


SELECTORS = Table(
    "selectorTable",
    rows=None,
    subjects=lambda gateway: gateway.subjects("selector"),
    rows_of=lambda pair: (pair,),
    index=lambda pair: (pair.index,),
    domain="selector",
    columns=[
        Column("selectorLocalId", lambda pair: raw_id(pair.local)),
        Column("selectorLocalIdType", lambda pair: id_type(pair.local)),
        Column("selectorRemoteId", lambda pair: raw_id(pair.remote)),
        Column("selectorRemoteIdType", lambda pair: id_type(pair.remote)),
        Column("selectorProtocol", protocol),
        Column("selectorLocalPort", lambda pair: pair.local.port),
        Column("selectorRemotePort", lambda pair: pair.remote.port),
    ],
)

# --- SAs --------------------------------------------------------------------------------------------------------------


RowsOf = Callable[[ChildSa], tuple[ChildSa, ...]]


def sas(gateway: View) -> Iterable[ChildSa]:
    return gateway.subjects("sa")


def inbound(kind: str) -> RowsOf:
    def rows(sa: ChildSa) -> tuple[ChildSa, ...]:
        record = sa.record
        there = record.protocol == kind and record.spi_in and sa.local_host is not None and sa.shown
        return (sa,) if there else ()

    return rows


def outbound(kind: str) -> RowsOf:
    def rows(sa: ChildSa) -> tuple[ChildSa, ...]:
        record = sa.record
        there = record.protocol == kind and record.spi_out and sa.remote_host is not None and sa.shown
        return (sa,) if there else ()

    return rows


def address_index(host: IPAddress | None, spi: int) -> IndexValues:
    if host is None:
        raise ValueError("an SA without address")
    return (1 if host.version == 4 else 2, host.packed, spi)


def in_index(sa: ChildSa) -> IndexValues:
    return address_index(sa.local_host, sa.record.spi_in)


def out_index(sa: ChildSa) -> IndexValues:
    return address_index(sa.remote_host, sa.record.spi_out)


def selector(sa: ChildSa) -> int:
    """The first selector pair of the SA's tunnel (cipSecEndPtTable has all of them), 0 where none is known."""
    return sa.tunnel.pairs[0].index if sa.tunnel.pairs else 0


def encapsulation(sa: ChildSa) -> str | None:
    mode = {"TUNNEL": "tunnel", "TRANSPORT": "transport"}.get(sa.record.mode)
    if mode is None:
        return None
    return f"udpEncapsulated{mode.capitalize()}" if sa.record.encap else mode


def auth_algorithm(sa: ChildSa) -> int | None:
    if sa.record.integ_alg is None:
        return 0  # the cipher authenticates
    found = algorithms.integrity(sa.record.integ_alg)
    return found[0] if found else None


def ah_transform(sa: ChildSa) -> int | None:
    found = algorithms.integrity(sa.record.integ_alg)
    return found[1] if found else None


def auth_key_bits(sa: ChildSa) -> int | None:
    if sa.record.integ_alg is None:
        return 0
    if sa.record.integ_keysize is not None:
        return sa.record.integ_keysize
    found = algorithms.integrity(sa.record.integ_alg)
    return found[2] if found else None


def limit_seconds(sa: ChildSa) -> int | None:
    """The hard limit; 0 is no limit, absent where the source does not tell."""
    return sa.lifetime if sa.lifetime is not None or not sa.tunnel.source.extended else 0


def limit_kbytes(sa: ChildSa) -> int | None:
    if sa.record.life_bytes is None:
        return 0 if sa.tunnel.source.extended else None
    return sa.record.life_bytes // KBYTE


def count(name: str) -> Callable[[ChildSa], int | None]:
    return lambda sa: sa.counts.get(name)


def kbytes(name: str) -> Callable[[ChildSa], int | None]:
    def get(sa: ChildSa) -> int | None:
        octets = sa.counts.get(name)
        return None if octets is None else octets // KBYTE

    return get


def both_errors_out(sa: ChildSa) -> int | None:
    known = [sa.counts.get("policy_errors_out"), sa.counts.get("other_errors_out")]
    return None if None in known else sum(value for value in known if value is not None)


def nothing(sa: ChildSa) -> None:
    """No source counts it."""
    return


def common(prefix: str) -> list[Column]:
    return [
        Column(f"{prefix}Selector", selector),
        Column(f"{prefix}Creator", lambda sa: "ike"),
        Column(f"{prefix}Encapsulation", encapsulation),
        Column(f"{prefix}LimitSeconds", limit_seconds),
        Column(f"{prefix}LimitKbytes", limit_kbytes),
        Column(f"{prefix}AccSeconds", lambda sa: sa.age, volatile=True),
    ]


def cipher(prefix: str) -> list[Column]:
    return [
        Column(f"{prefix}EncAlg", lambda sa: algorithms.esp_transform(sa.record.encr_alg)),
        Column(
            f"{prefix}EncKeyLength",
            lambda sa: algorithms.esp_key_bits(sa.record.encr_alg, sa.record.encr_keysize),
        ),
        Column(f"{prefix}AuthAlg", auth_algorithm),
        Column(f"{prefix}AuthKeyLength", auth_key_bits),
    ]


def received(prefix: str) -> list[Column]:
    return [
        Column(f"{prefix}RepWinSize", lambda sa: sa.record.replay_window),
        Column(f"{prefix}AccKbytes", kbytes("octets_in")),
        Column(f"{prefix}UserOctets", count("octets_in")),
        Column(f"{prefix}Packets", count("packets_in")),
        Column(f"{prefix}AuthErrors", count("integrity_errors_in")),
        Column(f"{prefix}ReplayErrors", count("replay_errors_in")),
        Column(f"{prefix}PolicyErrors", count("policy_errors_in")),
        Column(f"{prefix}OtherReceiveErrors", count("other_errors_in")),
    ]


def sent(prefix: str) -> list[Column]:
    return [
        Column(f"{prefix}AccKbytes", kbytes("octets_out")),
        Column(f"{prefix}UserOctets", count("octets_out")),
        Column(f"{prefix}Packets", count("packets_out")),
        Column(f"{prefix}SendErrors", both_errors_out),
    ]


def split(kind: str) -> RowsOf:
    """Inbound SAs whose source tells the kinds of replay errors apart."""
    rows = inbound(kind)

    def told_apart(sa: ChildSa) -> tuple[ChildSa, ...]:
        return rows(sa) if all(name in sa.counts for name in CHILD_REPLAYS_IN) else ()

    return told_apart


def replays(prefix: str) -> list[Column]:
    return [
        Column(f"{prefix}BeyondWindow", count("replays_beyond_window_in")),
        Column(f"{prefix}OutOfOrder", count("out_of_order_in")),
        Column(f"{prefix}BeforeWindow", count("replays_before_window_in")),
        Column(f"{prefix}Duplicate", count("replays_duplicate_in")),
        Column(f"{prefix}Zero", count("replays_zero_in")),
    ]


def ipcomp_in(sa: ChildSa) -> tuple[ChildSa, ...]:
    # The index is a well-known CPI by its SYNTAX; one that was agreed for the association alone cannot be told.
    there = sa.record.cpi_in in WELL_KNOWN_CPIS and sa.local_host is not None and sa.shown
    return (sa,) if there else ()


def ipcomp_out(sa: ChildSa) -> tuple[ChildSa, ...]:
    there = sa.record.cpi_out in WELL_KNOWN_CPIS and sa.remote_host is not None and sa.shown
    return (sa,) if there else ()


def ipcomp(prefix: str, *uncounted: str) -> list[Column]:
    """A source tells the CPIs of an association, and neither its algorithm nor what it did."""
    return [
        Column(f"{prefix}Selector", selector),
        Column(f"{prefix}Creator", lambda sa: "ike"),
        Column(
            f"{prefix}Encapsulation",
            lambda sa: {"TUNNEL": "tunnel", "TRANSPORT": "transport"}.get(sa.record.mode),
        ),
        Column(f"{prefix}Seconds", lambda sa: sa.age, volatile=True),
        *(Column(f"{prefix}{name}", nothing) for name in uncounted),
    ]


def ah_algorithm(prefix: str) -> list[Column]:
    return [Column(f"{prefix}AuthAlg", ah_transform), Column(f"{prefix}AuthKeyLength", auth_key_bits)]


TABLES = [
    SELECTORS,
    Table(
        "ipsecSaEspInTable",
        rows=None,
        subjects=sas,
        rows_of=inbound("ESP"),
        index=in_index,
        domain="sa",
        columns=[
            *common("ipsecSaEspIn"),
            *cipher("ipsecSaEspIn"),
            *received("ipsecSaEspIn"),
            # A packet whose ICV is right and that decrypts to nonsense is a padding error.
            Column("ipsecSaEspInDecryptErrors", nothing),
            Column("ipsecSaEspInPadErrors", count("padding_errors_in")),
        ],
    ),
    Table(
        "ipsecSaEspOutTable",
        rows=None,
        subjects=sas,
        rows_of=outbound("ESP"),
        index=out_index,
        domain="sa",
        columns=[*common("ipsecSaEspOut"), *cipher("ipsecSaEspOut"), *sent("ipsecSaEspOut")],
    ),
    Table(
        "ipsecSaAhInTable",
        rows=None,
        subjects=sas,
        rows_of=inbound("AH"),
        index=in_index,
        domain="sa",
        columns=[*common("ipsecSaAhIn"), *ah_algorithm("ipsecSaAhIn"), *received("ipsecSaAhIn")],
    ),
    Table(
        "ipsecSaAhOutTable",
        rows=None,
        subjects=sas,
        rows_of=outbound("AH"),
        index=out_index,
        domain="sa",
        columns=[*common("ipsecSaAhOut"), *ah_algorithm("ipsecSaAhOut"), *sent("ipsecSaAhOut")],
    ),
    Table(
        "ipsecSaIpcompInTable",
        rows=None,
        subjects=sas,
        rows_of=ipcomp_in,
        index=lambda sa: address_index(sa.local_host, sa.record.cpi_in),
        domain="sa",
        columns=ipcomp(
            "ipsecSaIpcompIn",
            "DecompAlg",
            "UserOctets",
            "UserPackets",
            "CompressedOctets",
            "CompressedPackets",
            "InputOctets",
            "DecompErrors",
            "OtherReceiveErrors",
        ),
    ),
    Table(
        "ipsecSaIpcompOutTable",
        rows=None,
        subjects=sas,
        rows_of=ipcomp_out,
        index=lambda sa: address_index(sa.remote_host, sa.record.cpi_out),
        domain="sa",
        columns=ipcomp(
            "ipsecSaIpcompOut",
            "CompAlg",
            "UserOctets",
            "UserPackets",
            "OutputOctets",
            "CompressedPackets",
            "CompressedOctets",
        ),
    ),
    Table(
        "ipsecSaEspReplayTable",
        rows=None,
        subjects=sas,
        rows_of=split("ESP"),
        index=in_index,
        domain="sa",
        columns=replays("ipsecSaEspReplays"),
    ),
    Table(
        "ipsecSaAhReplayTable",
        rows=None,
        subjects=sas,
        rows_of=split("AH"),
        index=in_index,
        domain="sa",
        columns=replays("ipsecSaAhReplays"),
    ),
]

# --- statistics and errors --------------------------------------------------------------------------------------------


def current(kind: str) -> Callable[[View], int]:
    return lambda gateway: gateway.current_sas(kind)


def plus(*values: int | None) -> int | None:
    """Sum of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


STATISTICS = [
    Scalar("ipsecEspCurrentInboundSAs", current("esp_in")),
    Scalar("ipsecEspTotalInboundSAs", lambda gateway: gateway.esp_sas),
    Scalar("ipsecEspCurrentOutboundSAs", current("esp_out")),
    Scalar("ipsecEspTotalOutboundSAs", lambda gateway: gateway.esp_sas),
    Scalar("ipsecAhCurrentInboundSAs", current("ah_in")),
    Scalar("ipsecAhTotalInboundSAs", lambda gateway: gateway.ah_sas),
    Scalar("ipsecAhCurrentOutboundSAs", current("ah_out")),
    Scalar("ipsecAhTotalOutboundSAs", lambda gateway: gateway.ah_sas),
    Scalar("ipsecIpcompCurrentInboundSAs", current("ipcomp_in")),
    Scalar("ipsecIpcompTotalInboundSAs", lambda gateway: gateway.ipcomp_sas),
    Scalar("ipsecIpcompCurrentOutboundSAs", current("ipcomp_out")),
    Scalar("ipsecIpcompTotalOutboundSAs", lambda gateway: gateway.ipcomp_sas),
]

ERRORS = [
    Scalar("ipsecDecryptionErrors", lambda gateway: gateway.child_total("padding_errors_in")),
    Scalar("ipsecAuthenticationErrors", lambda gateway: gateway.child_total("integrity_errors_in")),
    Scalar("ipsecReplayErrors", lambda gateway: gateway.child_total("replay_errors_in")),
    Scalar("ipsecPolicyErrors", lambda gateway: gateway.child_total("policy_errors_in")),
    Scalar(
        "ipsecOtherReceiveErrors",
        lambda gateway: plus(gateway.child_total("other_errors_in"), gateway.ipsec_total("malformed_in")),
    ),
    Scalar(
        "ipsecSendErrors",
        lambda gateway: plus(
            gateway.child_total("policy_errors_out", "other_errors_out"),
            gateway.ipsec_total("send_errors", "no_sa_out", "malformed_out"),
        ),
    ),
    Scalar("ipsecUnknownSpiErrors", lambda gateway: gateway.ipsec_total("unknown_spi")),
]

# --- notification switches --------------------------------------------------------------------------------------------

SWITCHES = (
    "espAuthFailureTrapEnable",
    "ahAuthFailureTrapEnable",
    "espReplayFailureTrapEnable",
    "ahReplayFailureTrapEnable",
    "espPolicyFailureTrapEnable",
    "ahPolicyFailureTrapEnable",
    "invalidSpiTrapEnable",
    "otherPolicyFailureTrapEnable",
)


class SwitchWriter:
    """The module's notifications are not sent yet: false(2) is what they are, true(1) cannot be had."""

    def test(self, model: Any, value: int) -> Change:
        if value == 1:
            raise SetError(
                "inconsistentValue", "this agent does not send the notifications of IPSEC-SA-MON-MIB"
            )
        return Nothing()


def binding() -> ModuleBinding:
    """What is served of IPSEC-SA-MON-MIB."""
    return ModuleBinding(
        "IPSEC-SA-MON-MIB",
        scalars=[
            *STATISTICS,
            *ERRORS,
            *(Scalar(name, lambda gateway: False, SwitchWriter()) for name in SWITCHES),
        ],
        tables=TABLES,
    )

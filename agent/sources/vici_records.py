"""VICI messages as the model's records: strongSwan's keys, and those that docs/vici.md adds.

A key that is missing or unreadable gives None; a section without what identifies an SA gives BadRecord, and only that
section is left out.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from agent.gateway.counters import CHILD_ERRORS_IN, CHILD_ERRORS_OUT, CHILD_REPLAYS_IN, IKE_COUNTS
from agent.gateway.records import (
    ChildRecord,
    ConfiguredChild,
    ConnectionRecord,
    FailureRecord,
    IkeRecord,
)
from agent.gateway.selectors import IPAddress, Selector

Section = Mapping[str, Any]

CHILD_KEYS = {
    "octets_in": "bytes-in",
    "octets_out": "bytes-out",
    "packets_in": "packets-in",
    "packets_out": "packets-out",
    **{name: name.replace("_", "-") for name in CHILD_ERRORS_IN + CHILD_ERRORS_OUT + CHILD_REPLAYS_IN},
}
IKE_KEYS = {name: name.replace("_", "-") for name in IKE_COUNTS}
MAX_COUNT = 2**64 - 1
_KE = re.compile(r"(?:ake|ke)(\d)")
_TS = re.compile(r"([0-9A-Fa-f:.]+?)(?:/(\d{1,3})|(?:\.\.|-)([0-9A-Fa-f:.]+))?(?:\[([^\]]*)\])?")
WILDCARDS = frozenset({"", "%any", "%any4", "%any6", "0.0.0.0", "::", "0.0.0.0/0", "::/0"})  # noqa: S104
AUTH_CLASSES = {"pre-shared key": "psk", "public key": "pubkey", "EAP": "eap", "XAuth": "xauth"}


class BadRecord(ValueError):
    """A section lacks what identifies an SA."""


def text(section: Section, key: str) -> str | None:
    value = section.get(key)
    return value if isinstance(value, str) and value else None


def number(section: Section, key: str, base: int = 10) -> int | None:
    """A count or number of at most 64 bits; None when it is none."""
    value = section.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 20:
        return None
    try:
        found = int(value, base)
    except ValueError:
        return None
    return found if 0 <= found <= MAX_COUNT else None


def yes(section: Section, key: str) -> bool:
    return section.get(key) == "yes"


def needed(value: int | None, what: str) -> int:
    if value is None:
        raise BadRecord(f"no {what}")
    return value


def address(value: Any) -> IPAddress | None:
    """An IP address, None for wildcards, names and rubbish. A scope is dropped."""
    return _address(value) if isinstance(value, str) and value not in WILDCARDS else None


@lru_cache(maxsize=4096)
def _address(value: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(value.split("%")[0])
    except ValueError:
        return None


def sections(section: Section) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((key, value) for key, value in section.items() if isinstance(value, dict))


def counts(section: Section, keys: Mapping[str, str]) -> dict[str, int]:
    found = ((name, number(section, key)) for name, key in keys.items())
    return {name: value for name, value in found if value is not None}


def additional_ke(section: Section) -> tuple[str, ...]:
    """ake1 to ake7 (RFC 9370), in order."""
    found = sorted(
        (key, value) for key, value in section.items() if _KE.fullmatch(key) and isinstance(value, str)
    )
    return tuple(value for _, value in found)


# --- SAs --------------------------------------------------------------------------------------------------------------


def ike_records(message: Section) -> Iterator[IkeRecord]:
    """The IKE SAs of a list-sa, updown or ike-update message: each section of it is one. Raises BadRecord."""
    for name, section in sections(message):
        yield ike_record(name, section)


def ike_record(name: str, section: Section) -> IkeRecord:
    """An IKE SA from its section. Raises BadRecord; children that are unreadable are left out."""
    children = section.get("child-sas")
    ids = section.get("child-ids")
    counters = section.get("counters")
    return IkeRecord(
        name=name,
        uniqueid=needed(number(section, "uniqueid"), "uniqueid of an IKE SA"),
        version=number(section, "version") or 2,
        state=text(section, "state") or "",
        initiator=yes(section, "initiator"),
        initiator_spi=needed(number(section, "initiator-spi", 16), "initiator-spi"),
        responder_spi=number(section, "responder-spi", 16) or 0,
        local_host=address(section.get("local-host")),
        local_port=number(section, "local-port"),
        local_id=identity(section, "local-id"),
        local_id_type=number(section, "local-id-type"),
        remote_host=address(section.get("remote-host")),
        remote_port=number(section, "remote-port"),
        remote_id=identity(section, "remote-id"),
        remote_id_type=number(section, "remote-id-type"),
        nat_local=yes(section, "nat-local"),
        nat_remote=yes(section, "nat-remote"),
        encr_alg=text(section, "encr-alg"),
        encr_keysize=number(section, "encr-keysize"),
        integ_alg=text(section, "integ-alg"),
        integ_keysize=number(section, "integ-keysize"),
        prf_alg=text(section, "prf-alg"),
        dh_group=text(section, "dh-group"),
        additional_ke=additional_ke(section),
        local_auth=text(section, "local-auth"),
        remote_auth=text(section, "remote-auth"),
        established=number(section, "established"),
        rekey_time=number(section, "rekey-time"),
        reauth_time=number(section, "reauth-time"),
        life_time=number(section, "life-time"),
        counts=counts(counters, IKE_KEYS) if isinstance(counters, dict) else {},
        children=tuple(child_records(children)) if isinstance(children, dict) else None,
        child_ids=uniqueids(ids) if isinstance(ids, list) else None,
        reason=text(section, "reason"),
    )


def uniqueids(values: Any) -> frozenset[int]:
    """The readable numbers of a list."""
    if not isinstance(values, list):
        return frozenset()
    found = (number({"id": value}, "id") for value in values)
    return frozenset(value for value in found if value is not None)


def identity(section: Section, key: str) -> str | None:
    value = text(section, key)
    return None if value == "%any" else value


def child_records(section: Section) -> Iterator[ChildRecord]:
    """The readable ones of a child-sas section."""
    for _, child in sections(section):
        try:
            yield child_record(child)
        except BadRecord:
            continue


def child_record(section: Section) -> ChildRecord:
    """A Child SA from its section. Raises BadRecord."""
    return ChildRecord(
        name=text(section, "name") or "",
        uniqueid=needed(number(section, "uniqueid"), "uniqueid of a Child SA"),
        state=text(section, "state") or "",
        protocol=text(section, "protocol") or "ESP",
        mode=text(section, "mode") or "TUNNEL",
        spi_in=number(section, "spi-in", 16) or 0,
        spi_out=number(section, "spi-out", 16) or 0,
        reqid=number(section, "reqid"),
        encap=yes(section, "encap"),
        encr_alg=text(section, "encr-alg"),
        encr_keysize=number(section, "encr-keysize"),
        integ_alg=text(section, "integ-alg"),
        integ_keysize=number(section, "integ-keysize"),
        dh_group=text(section, "dh-group"),
        additional_ke=additional_ke(section),
        esn=section.get("esn") in ("1", "yes"),
        cpi_in=number(section, "cpi-in", 16),
        cpi_out=number(section, "cpi-out", 16),
        replay_window=number(section, "replay-window"),
        install_time=number(section, "install-time"),
        rekey_time=number(section, "rekey-time"),
        life_time=number(section, "life-time"),
        lifetime_seconds=number(section, "lifetime-seconds"),
        rekey_bytes=number(section, "rekey-bytes"),
        life_bytes=number(section, "life-bytes"),
        rekey_packets=number(section, "rekey-packets"),
        life_packets=number(section, "life-packets"),
        local_ts=selectors(section.get("local-ts")),
        remote_ts=selectors(section.get("remote-ts")),
        counts=counts(section, CHILD_KEYS),
        reason=text(section, "reason"),
    )


def child_rekey(message: Section) -> Iterator[tuple[IkeRecord, ChildRecord, ChildRecord]]:
    """The IKE SA, old and new child of a child-rekey event. Raises BadRecord."""
    for name, section in sections(message):
        children = section.get("child-sas")
        ike = ike_record(name, {key: value for key, value in section.items() if key != "child-sas"})
        for _, pair in sections(children if isinstance(children, dict) else {}):
            old, new = pair.get("old"), pair.get("new")
            if isinstance(old, dict) and isinstance(new, dict):
                yield ike, child_record(old), child_record(new)


def ike_rekey(message: Section) -> Iterator[tuple[IkeRecord, IkeRecord]]:
    """The old and new IKE SA of an ike-rekey event. Raises BadRecord."""
    for name, pair in sections(message):
        old, new = pair.get("old"), pair.get("new")
        if isinstance(old, dict) and isinstance(new, dict):
            yield ike_record(name, old), ike_record(name, new)


def ike_update(message: Section) -> Iterator[IkeRecord]:
    """The IKE SA of an ike-update event, with its new addresses: they stand beside the section, which has the old."""
    moved = {key: value for key, value in message.items() if isinstance(value, str)}
    for name, section in sections(message):
        yield ike_record(name, {**section, **moved})


# --- selectors --------------------------------------------------------------------------------------------------------


def selectors(value: Any) -> tuple[Selector, ...]:
    """The readable traffic selectors of a list; 'dynamic' gives none."""
    if not isinstance(value, list):
        return ()
    found = (selector(item) for item in value if isinstance(item, str))
    return tuple(item for item in found if item is not None)


@lru_cache(maxsize=4096)
def selector(value: str) -> Selector | None:
    """`10.1.0.0/24`, `10.1.0.1..10.1.0.9[tcp/http]`, `fec0::/16[17/500-510]`; None when unreadable."""
    match = _TS.fullmatch(value)
    if match is None:
        return None
    first, prefix, last, what = match.groups()
    try:
        start = ipaddress.ip_address(first)
        end = ipaddress.ip_address(last) if last else start
        if prefix is not None:
            hosts = start.max_prefixlen - int(prefix)
            if hosts < 0:
                return None
            number = int(start) >> hosts << hosts
            start, end = start.__class__(number), start.__class__(number | (1 << hosts) - 1)
        if start.version != end.version or int(start) > int(end):
            return None
    except ValueError:
        return None
    if not what:
        return Selector(start, end)
    protocol_text, _, port_text = what.partition("/")
    protocol = _protocol(protocol_text)
    ports = _ports(port_text, protocol_text)
    if protocol is None or ports is None:
        return None
    return Selector(start, end, protocol, *ports)


def _protocol(value: str) -> int | None:
    if value.isdecimal():
        return int(value) if len(value) <= 3 and int(value) <= 255 else None
    try:
        return socket.getprotobyname(value)
    except OSError:
        return {"tcp": 6, "udp": 17, "icmp": 1, "ipv6-icmp": 58, "icmpv6": 58, "gre": 47, "sctp": 132}.get(
            value
        )


def _ports(value: str, protocol: str) -> tuple[int, int] | None:
    if not value or value == "%any":
        return 0, 65535
    if value == "OPAQUE":
        return 65535, 0
    if len(value) > 32:
        return None
    low, dash, high = value.partition("-")
    if low.isdecimal() and (high.isdecimal() or not dash):
        first, last = int(low), int(high or low)
        return (first, last) if first <= 65535 and last <= 65535 else None
    try:
        port = socket.getservbyname(value, protocol)
    except (OSError, ValueError):
        return None
    return port, port


# --- configuration, failures, counters --------------------------------------------------------------------------------


def connections(message: Section) -> Iterator[ConnectionRecord]:
    """The connections of a list-conn message."""
    for name, section in sections(message):
        local, remote = _round(section, "local"), _round(section, "remote")
        children = section.get("children")
        yield ConnectionRecord(
            name=name,
            version={"IKEv1": 1, "IKEv2": 2}.get(text(section, "version") or "", 0),
            local_host=_single(section.get("local_addrs")),
            remote_host=_single(section.get("remote_addrs")),
            local_id=_named(local),
            remote_id=_named(remote),
            local_auth=_auth(local),
            remote_auth=_auth(remote),
            children=tuple(
                ConfiguredChild(
                    name=child_name,
                    mode=text(child, "mode") or "TUNNEL",
                    local_ts=selectors(child.get("local-ts")),
                    remote_ts=selectors(child.get("remote-ts")),
                )
                for child_name, child in sections(children if isinstance(children, dict) else {})
                if child.get("mode") not in ("PASS", "DROP")
            ),
        )


def _round(section: Section, side: str) -> Section:
    """The first authentication round of a side."""
    for name, value in sections(section):
        if name == side or name.startswith(f"{side}-"):
            return value
    return {}


def _single(value: Any) -> IPAddress | None:
    return address(value[0]) if isinstance(value, list) and len(value) == 1 else None


def _named(section: Section) -> str | None:
    value = text(section, "id")
    return None if value is None or value in WILDCARDS or "*" in value else value


def _auth(section: Section) -> str | None:
    value = text(section, "class")
    return AUTH_CLASSES.get(value, value.lower()) if value else None


PHASE_2_ALERTS = (
    "child",
    "ts-mismatch",
    "proposal-mismatch-child",
    "install-child",
    "keep-on-child",
    "TS_UNACCEPTABLE",
    "SINGLE_PAIR_REQUIRED",
    "NO_ADDITIONAL_SAS",
)


def failure(message: Section) -> FailureRecord:
    """An alert: strongSwan 6's has the IKE SA as a section, ours names it (docs/vici.md)."""
    kind = text(message, "type") or "unknown"
    nested = message.get("ike-sa")
    name, section = next(sections(nested), ("", {})) if isinstance(nested, dict) else ("", {})
    child = text(message, "child")
    return FailureRecord(
        phase=2 if child is not None or any(part in kind for part in PHASE_2_ALERTS) else 1,
        type=kind,
        message=text(message, "message") or "",
        connection=text(message, "ike") or name or None,
        child=child,
        ike_uniqueid=number(message, "ike-uniqueid") or number(section, "uniqueid"),
        local_host=address(section.get("local-host")),
        local_id=identity(section, "local-id"),
        remote_host=address(message.get("remote-host") or section.get("remote-host")),
        remote_id=identity(section, "remote-id"),
    )


def flat_counts(section: Any, names: Iterable[str] | None = None) -> dict[str, int]:
    """All numbers of a section, or the named ones, with `-` as `_`."""
    if not isinstance(section, dict):
        return {}
    keys = section.keys() if names is None else names
    found = ((key.replace("-", "_"), number(section, key)) for key in keys)
    return {name: value for name, value in found if value is not None}

"""Targets of notifications: rows of the tables of RFC 3413 and RFC 3584 made into destinations.

Pure: rows in, destinations and sources out. `agent.engine.targets_tables` holds the rows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Oid = tuple[int, ...]

UDP_V4 = (1, 3, 6, 1, 6, 1, 1)
"""snmpUDPDomain (RFC 3417)."""
TRANSPORT_UDP_V4 = (1, 3, 6, 1, 2, 1, 100, 1, 1)
TRANSPORT_UDP_V6 = (1, 3, 6, 1, 2, 1, 100, 1, 2)
TRANSPORT_UDP_V6Z = (1, 3, 6, 1, 2, 1, 100, 1, 4)
"""RFC 3419."""
SIZES = {UDP_V4: 6, TRANSPORT_UDP_V4: 6, TRANSPORT_UDP_V6: 18, TRANSPORT_UDP_V6Z: 22}
"""Octets of a TAddress by its TDomain."""

TRAP = 1
INFORM = 2
DELIMITERS = b" \t\r\n"
"""What stands between two tags of an SnmpTagList (RFC 3413 section 4.2)."""


class Row(Protocol):
    """A row as the datastore gives it: INDEX values, and columns by name."""

    @property
    def index(self) -> tuple[Any, ...]: ...

    def __getitem__(self, name: str) -> Any: ...


# -- addresses ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """A UDP address; `zone` is the scope of a link-local one."""

    host: str
    port: int
    zone: int = 0

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    @property
    def sockaddr(self) -> tuple[Any, ...]:
        """What the socket module takes."""
        return (self.host, self.port, 0, self.zone) if self.is_ipv6 else (self.host, self.port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


def parse_address(domain: Oid, octets: bytes) -> Address | None:
    """A TAddress in its TDomain; None when the domain is not UDP or the length is another."""
    if SIZES.get(domain) != len(octets):
        return None
    port = int.from_bytes(octets[-2:], "big")
    if len(octets) == 6:
        return Address(str(ipaddress.IPv4Address(octets[:4])), port)
    zone = int.from_bytes(octets[16:20], "big") if len(octets) == 22 else 0
    return Address(plain_host(octets[:16]), port, zone)


def plain_host(host: str | bytes) -> str:
    """One way to write each address; an IPv4 address inside IPv6 is the IPv4 address that it is."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def address_octets(host: str, port: int, zone: int = 0) -> tuple[Oid, bytes]:
    """TDomain and TAddress of a UDP address. Raises ValueError for a host that is no IP address."""
    packed = ipaddress.ip_address(host).packed
    if zone:
        return TRANSPORT_UDP_V6Z, packed + zone.to_bytes(4, "big") + port.to_bytes(2, "big")
    return (UDP_V4 if len(packed) == 4 else TRANSPORT_UDP_V6), packed + port.to_bytes(2, "big")


# -- tags ---------------------------------------------------------------------------------------------------


def tags(tag_list: bytes) -> frozenset[bytes]:
    """The tags of an SnmpTagList."""
    return frozenset(tag_list.split())


def is_tag_value(octets: bytes) -> bool:
    """Whether these are an SnmpTagValue: no delimiter anywhere."""
    return not any(octet in DELIMITERS for octet in octets)


def is_tag_list(octets: bytes) -> bool:
    """Whether these are an SnmpTagList: single delimiters, and none at either end."""
    pieces = octets.translate(bytes.maketrans(DELIMITERS, b"    ")).split(b" ")
    return not octets or all(pieces)


# -- filters ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FilterEntry:
    """A row of snmpNotifyFilterTable."""

    subtree: Oid
    included: bool = True
    mask: bytes = b""

    def matches(self, oid: Oid) -> bool:
        """Whether `oid` is in this family of subtrees. Bits that the mask lacks are ones."""
        if len(self.subtree) > len(oid):
            return False
        for position, number in enumerate(self.subtree):
            if number != oid[position]:
                octet = position >> 3
                if octet >= len(self.mask) or self.mask[octet] & (0x80 >> (position & 7)):
                    return False
        return True


class Filter:
    """All rows of one filter profile (RFC 3413 section 6). Without rows everything passes."""

    def __init__(self, entries: Iterable[FilterEntry]) -> None:
        # the longest subtree decides, among equally long ones the greatest
        self._entries = sorted(entries, key=lambda e: (len(e.subtree), e.subtree), reverse=True)

    def _decides(self, oid: Oid) -> bool | None:
        return next((entry.included for entry in self._entries if entry.matches(oid)), None)

    def passes(self, notification: Oid, names: Iterable[Oid]) -> bool:
        """Whether a notification with these object instances passes: it is included by its own name, and none
        of the instances is excluded.
        """
        if not self._entries:
            return True
        return self._decides(notification) is True and all(self._decides(n) is not False for n in names)


# -- selection ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Destination:
    """A management target. `version` is msgVersion (0, 1, 3), `timeout` in seconds, `max_size` 0 for any."""

    name: str
    address: Address
    timeout: float
    retries: int
    version: int
    model: int
    security_name: str
    level: int
    filter: Filter | None = None
    max_size: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it apart in queues: it stays the same when tables are read again."""
        return self.name, self.address, self.version, self.security_name, self.level


@dataclass(frozen=True, slots=True)
class Selection:
    """Who gets notifications, and as what: (destination, TRAP or INFORM)."""

    targets: tuple[tuple[Destination, int], ...] = ()


def select(
    addresses: Iterable[Row],
    extensions: Mapping[tuple[Any, ...], Row],
    params: Iterable[Row],
    notifies: Iterable[Row],
    profiles: Iterable[Row],
    filters: Iterable[Row],
) -> Selection:
    """The management targets of all active rows (RFC 3413 sections 3.3, 4 and 6).

    A target that several rows of snmpNotifyTable select gets one trap or one inform, or one of each. A row
    whose address mask has zeros stands for many addresses and is no receiver (RFC 3584 section 5.3); rows
    that name no params, or params that make no sense, are left out.
    """
    by_params = {row.index[0]: row for row in params}
    families: dict[bytes, list[FilterEntry]] = {}
    for row in filters:
        entry = FilterEntry(
            row.index[1], row["snmpNotifyFilterType"] != 2, row["snmpNotifyFilterMask"] or b""
        )
        families.setdefault(row.index[0], []).append(entry)
    filter_of = {
        row.index[0]: Filter(families.get(row["snmpNotifyFilterProfileName"], ())) for row in profiles
    }
    kinds: dict[bytes, set[int]] = {}
    for row in notifies:
        if row["snmpNotifyTag"]:
            kinds.setdefault(row["snmpNotifyTag"], set()).add(row["snmpNotifyType"] or TRAP)
    found: list[tuple[Destination, int]] = []
    for row in addresses:
        wanted = set().union(*(kinds.get(tag, ()) for tag in tags(row["snmpTargetAddrTagList"] or b"")))
        how = by_params.get(row["snmpTargetAddrParams"])
        if not wanted or how is None:
            continue
        destination = _destination(row, extensions.get(row.index), how, filter_of)
        if destination is not None:
            if destination.version == 0:
                wanted = {TRAP}
            found += ((destination, kind) for kind in sorted(wanted))
    return Selection(tuple(found))


MODELS = {0: 1, 1: 2, 3: 3}
"""securityModel by message processing model: the combinations there are."""


def _destination(
    row: Row, extension: Row | None, how: Row, filter_of: Mapping[bytes, Filter]
) -> Destination | None:
    address = parse_address(row["snmpTargetAddrTDomain"], row["snmpTargetAddrTAddress"])
    version, model = how["snmpTargetParamsMPModel"], how["snmpTargetParamsSecurityModel"]
    mask = (extension["snmpTargetAddrTMask"] if extension is not None else b"") or b""
    if address is None or MODELS.get(version) != model or mask.strip(b"\xff") or not address.port:
        return None
    size = 0
    if version != 3 and extension is not None:
        size = extension["snmpTargetAddrMMS"] or 0
    return Destination(
        name=row.index[0].decode("utf-8", "replace"),
        address=address,
        timeout=(row["snmpTargetAddrTimeout"] or 0) / 100,
        retries=row["snmpTargetAddrRetryCount"] or 0,
        version=version,
        model=model,
        security_name=how["snmpTargetParamsSecurityName"].decode("utf-8", "replace"),
        level=how["snmpTargetParamsSecurityLevel"],
        filter=filter_of.get(how.index[0]),
        max_size=size,
    )


# -- sources of communities ---------------------------------------------------------------------------------


class Sources:
    """From where a community with a transport tag may be used (RFC 3584 section 5.3).

    A mask covers the address and the port, so both may count.
    """

    def __init__(self, rows: Sequence[tuple[Row, Row | None]]) -> None:
        """Rows of snmpTargetAddrTable that have the tag, each with its snmpTargetAddrExtTable row."""
        self._rules: list[tuple[int, int, int]] = []
        self.ports_matter = False
        for row, extension in rows:
            octets = row["snmpTargetAddrTAddress"]
            if parse_address(row["snmpTargetAddrTDomain"], octets) is None:
                continue
            mask = (extension["snmpTargetAddrTMask"] if extension is not None else b"") or b"\xff" * len(
                octets
            )
            if len(mask) != len(octets):
                continue
            if len(octets) == 22:
                # the zone is of no use here: a peer's address comes without
                octets, mask = octets[:16] + octets[20:], mask[:16] + mask[20:]
            self.ports_matter = self.ports_matter or mask[-2:] != b"\0\0"
            bits = int.from_bytes(mask, "big")
            self._rules.append((len(octets), int.from_bytes(octets, "big") & bits, bits))

    def permit(self, host: str, port: int) -> bool:
        """Whether a message from there may use the community."""
        address = ipaddress.ip_address(host)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        octets = address.packed + port.to_bytes(2, "big")
        number = int.from_bytes(octets, "big")
        return any(len(octets) == size and number & mask == value for size, value, mask in self._rules)

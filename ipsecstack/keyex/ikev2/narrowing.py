"""Traffic selectors on the wire and their narrowing (RFC 7296 §2.9)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from ipsecstack.ipsec.selectors import IPAddress, SelectorError, TrafficSelector
from ipsecstack.keyex.configuration import DynamicSelector
from ipsecstack.wire.ikev2 import Ts, TsType

if TYPE_CHECKING:
    from ipsecstack.keyex.ikev2.sa import IkeSa

MAX_SELECTORS = 64
MAX_ON_WIRE = 255


def to_wire(selectors: Iterable[TrafficSelector]) -> tuple[Ts, ...]:
    return tuple(
        Ts(
            TsType.IPV4_ADDR_RANGE if isinstance(s.start, IPv4Address) else TsType.IPV6_ADDR_RANGE,
            s.protocol,
            s.start_port,
            s.end_port,
            s.start,
            s.end,
        )
        for s in selectors
    )


def from_wire(selectors: Iterable[Ts]) -> list[TrafficSelector]:
    """The selectors that make sense; reversed ranges and unknown types are left out, as matching nothing."""
    found: list[TrafficSelector] = []
    for ts in selectors:
        if ts.start is None or ts.end is None:
            continue
        try:
            found.append(TrafficSelector(ts.start, ts.end, ts.protocol, ts.start_port, ts.end_port))
        except SelectorError:
            continue
    return found


def of_host(address: IPAddress) -> TrafficSelector:
    """``dynamic``: the IKE address of one side."""
    return TrafficSelector(address, address)


def local_hosts(sa: IkeSa) -> tuple[IPAddress, ...]:
    """What ``dynamic`` stands for on our side."""
    return sa.local_vips or (sa.local.host,)


def remote_hosts(sa: IkeSa) -> tuple[IPAddress, ...]:
    """What ``dynamic`` stands for on the peer's side."""
    return tuple(lease.address for lease in sa.leases) or (sa.remote.host,)


def dynamic(configured: Sequence[TrafficSelector]) -> bool:
    """Whether the selectors depend on an address that only an IKE SA knows."""
    return not configured or any(isinstance(ts, DynamicSelector) for ts in configured)


def resolve(
    configured: Sequence[TrafficSelector], hosts: IPAddress | Sequence[IPAddress]
) -> tuple[TrafficSelector, ...]:
    """The configured selectors, ``dynamic`` ones (and no selectors at all) as those of these hosts."""
    addresses = hosts if isinstance(hosts, Sequence) else (hosts,)
    found: list[TrafficSelector] = []
    for ts in configured or (DynamicSelector.of(),):
        found += [ts.at(address) for address in addresses] if isinstance(ts, DynamicSelector) else [ts]
    return tuple(dict.fromkeys(found))


def narrow(own: Sequence[TrafficSelector], offered: Sequence[TrafficSelector]) -> tuple[TrafficSelector, ...]:
    """What both sides select: all intersections, without those inside another, in the peer's order.

    Of a peer's selectors 64 are looked at, and no more come out than a TS payload holds: that is narrowing as well.
    """
    found: list[TrafficSelector] = []
    for theirs in offered[:MAX_SELECTORS]:
        for ours in own:
            common = ours.intersect(theirs)
            if common is not None and common not in found:
                found.append(common)
    found = found[: 2 * MAX_ON_WIRE]
    distinct = [ts for ts in found if not any(other != ts and other.covers(ts) for other in found)]
    return tuple(distinct[:MAX_ON_WIRE])


def of_packet(pfp: frozenset[str], side: str, first: TrafficSelector) -> TrafficSelector | None:
    """The first selector of a request where ``pfp`` takes values from a packet, everything elsewhere.

    None when it does not describe one packet in what is taken from it.
    """
    low, high = first.start, first.end
    if side not in pfp:
        low, high = type(low)(0), type(low)(2**low.max_prefixlen - 1)
    elif low != high:
        return None
    protocol, ports = 0, (0, 65535)
    if "protocol" in pfp:
        if not first.protocol:
            return None
        protocol = first.protocol
    if f"{side}_port" in pfp:
        if first.start_port != first.end_port and not first.opaque:
            return None
        ports = (first.start_port, first.end_port)
    return TrafficSelector(low, high, protocol, *ports)


def within(selectors: Sequence[TrafficSelector], offered: Sequence[TrafficSelector]) -> bool:
    """True when a response's selectors are no wider than what we offered, and there is one."""
    return bool(selectors) and all(any(o.covers(ts) for o in offered) for ts in selectors)


def text(selectors: Iterable[TrafficSelector]) -> str:
    return " ".join(ts.to_text() for ts in selectors)

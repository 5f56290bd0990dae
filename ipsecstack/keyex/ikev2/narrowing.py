"""Traffic selectors on the wire and their narrowing (RFC 7296 §2.9)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from ipsecstack.ipsec.selectors import IPAddress, SelectorError, TrafficSelector
from ipsecstack.wire.ikev2 import Ts, TsType

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


def resolve(configured: Sequence[TrafficSelector], address: IPAddress) -> tuple[TrafficSelector, ...]:
    """The configured selectors, or the one of the IKE address where they are ``dynamic`` (empty)."""
    return tuple(configured) or (of_host(address),)


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


def within(selectors: Sequence[TrafficSelector], offered: Sequence[TrafficSelector]) -> bool:
    """True when a response's selectors are no wider than what we offered, and there is one."""
    return bool(selectors) and all(any(o.covers(ts) for o in offered) for ts in selectors)


def text(selectors: Iterable[TrafficSelector]) -> str:
    return " ".join(ts.to_text() for ts in selectors)

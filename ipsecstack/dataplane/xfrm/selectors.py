"""Traffic selectors as the kernel's policies have them: prefixes instead of ranges, masks instead of port ranges.

One pair of traffic selectors may need several kernel selectors. The kernel gives packets without ports (later
fragments, and protocols that have none) port 0, so OPAQUE is port 0.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import summarize_address_range

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.xfrm.numbers import ICMP, ICMPV6, MOBILITY, Way
from ipsecstack.dataplane.xfrm.structures import Selector
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.wire.ip import Flow

MOST = 1024
"""Kernel selectors of one policy and way: what needs more would make every lookup slow."""

Block = tuple[int, int]  # value and mask
ANY: Block = (0, 0)
OPAQUE: Block = (0, 0xFFFF)


def blocks(low: int, high: int) -> Iterator[Block]:
    """The fewest (value, mask) that make up a range of 16-bit numbers."""
    while low <= high:
        size = low & -low or 0x10000
        while low + size - 1 > high:
            size >>= 1
        yield low, 0x10000 - size & 0xFFFF
        low += size


def port_blocks(ts: TrafficSelector) -> list[Block]:
    if ts.any_port:
        return [ANY]
    if ts.opaque:
        return [OPAQUE]
    return list(blocks(ts.start_port, ts.end_port))


def type_blocks(local: TrafficSelector, remote: TrafficSelector) -> list[tuple[Block, Block]]:
    """(type, code) of ICMP and of Mobile IPv6's header: both sides name the same message (RFC 7296 §3.13.1)."""
    if local.opaque or remote.opaque:
        return [(OPAQUE, OPAQUE)]
    low, high = max(local.start_port, remote.start_port), min(local.end_port, remote.end_port)
    out = []
    for value, mask in blocks(low, high):
        kind_mask, code_mask = mask >> 8, mask & 0xFF
        out.append(
            (
                (value >> 8, 0xFF00 | kind_mask) if kind_mask else ANY,
                (value & 0xFF, 0xFF00 | code_mask) if code_mask else ANY,
            )
        )
    return out


def kernel_selectors(
    local: Iterable[TrafficSelector],
    remote: Iterable[TrafficSelector],
    way: Way,
    user: int = 0,
    interface: str = "",
) -> list[Selector]:
    """What selects the same packets, in no order. DataPlaneError when there is no way to say it."""
    ifindex = 0
    if interface:
        try:
            ifindex = socket.if_nametoindex(interface)
        except OSError:
            raise DataPlaneError(
                f"there is no interface {interface}: make it before the connection"
            ) from None
    out: dict[Selector, None] = {}
    remote = tuple(remote)
    for here in local:
        for there in remote:
            for found in _pair(here, there, way):
                out[replace(found, user=user, ifindex=ifindex)] = None
                if len(out) > MOST:
                    raise DataPlaneError(
                        f"the selectors need more than {MOST} policies of the kernel: "
                        "write prefixes instead of address ranges, and fewer port ranges"
                    )
    return list(out)


def _pair(here: TrafficSelector, there: TrafficSelector, way: Way) -> Iterator[Selector]:
    if here.version != there.version or (
        here.protocol and there.protocol and here.protocol != there.protocol
    ):
        return
    protocol = here.protocol or there.protocol
    if protocol in (ICMP, ICMPV6, MOBILITY):
        ports = type_blocks(here, there)
    else:
        ends = (here, there) if way is Way.OUT else (there, here)
        ports = [(source, to) for source in port_blocks(ends[0]) for to in port_blocks(ends[1])]
    for near in summarize_address_range(here.start, here.end):
        for far in summarize_address_range(there.start, there.end):
            base = Selector.between(near, far) if way is Way.OUT else Selector.between(far, near)
            for (sport, smask), (dport, dmask) in ports:
                yield replace(
                    base,
                    protocol=protocol,
                    source_port=sport,
                    source_mask=smask,
                    destination_port=dport,
                    destination_mask=dmask,
                )


def packet_of(selector: Selector) -> Flow:
    """The packet that an acquire's selector describes."""
    ports: tuple[int | None, int | None] = (selector.source_port, selector.destination_port)
    if selector.protocol in (ICMP, ICMPV6, MOBILITY):
        both = (selector.source_port & 0xFF) << 8 | selector.destination_port & 0xFF
        ports = (both, both)
    elif not selector.source_port and not selector.destination_port:
        ports = (None, None)
    return Flow(selector.source, selector.destination, selector.protocol, *ports)

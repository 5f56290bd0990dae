"""Pairs of addresses between two gateways that have several, and what MOBIKE knows of them (RFC 4555 §3.1-3.4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from ipsecstack.ipsec.sa import Address
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.wire.ikev2 import Message, Notify, NotifyType, Payload

MAX_ADDRESSES = 8
"""Additional addresses that are told to a peer, and kept of one."""
MAX_PATHS = 16

Path = tuple[Address, Address]
"""Local and remote address, with ports."""

_OCTETS = {NotifyType.ADDITIONAL_IP4_ADDRESS: 4, NotifyType.ADDITIONAL_IP6_ADDRESS: 16}


@dataclass(slots=True)
class Mobility:
    """MOBIKE was agreed on. ``leads``: we initiated the first of these IKE SAs, so we alone choose the addresses."""

    leads: bool
    peer: tuple[IPAddress, ...] = ()
    """The peer's further addresses, as it told them last."""
    told: frozenset[IPAddress] = frozenset()
    """Our further addresses, as we told them last."""
    changes: int = 0
    """How often the addresses changed: an answer to an older update means nothing any more."""
    previous: Path | None = None
    """The path before an update that is not answered yet."""
    refused: set[Path] = field(default_factory=set)
    mapping: tuple[bytes, bytes] = (b"", b"")
    """Our IKE SPI, and the hash of where the peer saw us then: tells when our NAT has changed its mapping (§3.8)."""
    newest: tuple[bytes, int] = (b"", -1)
    """Our IKE SPI, and the message ID of the newest update from the peer."""


def worth_telling(address: IPAddress) -> bool:
    """A peer elsewhere may reach it."""
    return not (
        address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    )


def to_tell(own: Iterable[IPAddress], used: IPAddress) -> list[IPAddress]:
    """Our addresses beside the one in use, those of its IP version first."""
    others = [a for a in dict.fromkeys(own) if a != used and worth_telling(a)]
    return sorted(others, key=lambda a: a.version != used.version)[:MAX_ADDRESSES]


def address_payloads(addresses: Iterable[IPAddress]) -> list[Payload]:
    """The whole list, which replaces the one told before (§3.6)."""
    payloads: list[Payload] = [
        Notify(
            NotifyType.ADDITIONAL_IP4_ADDRESS if a.version == 4 else NotifyType.ADDITIONAL_IP6_ADDRESS,
            a.packed,
        )
        for a in addresses
    ]
    return payloads or [Notify(NotifyType.NO_ADDITIONAL_ADDRESSES)]


def told_addresses(message: Message) -> tuple[IPAddress, ...] | None:
    """The list in a message, without what makes no sense; None when there is none."""
    notifies = message.all(Notify)
    found: list[IPAddress] = []
    there = any(n.type == NotifyType.NO_ADDITIONAL_ADDRESSES for n in notifies)
    for notify in notifies:
        octets = _OCTETS.get(notify.type)  # type: ignore[call-overload]
        if octets is None:
            continue
        there = True
        if len(notify.data) == octets and worth_telling(ip_address(notify.data)):
            found.append(ip_address(notify.data))
    return tuple(dict.fromkeys(found))[:MAX_ADDRESSES] if there else None


def pairs(
    own: Iterable[IPAddress],
    sources: dict[IPAddress, IPAddress | None],
    current: Path,
    peer: Iterable[IPAddress],
) -> list[Path]:
    """Paths to try, the best first: to the peer's address in use, then to its others; from the address that the host
    would send from (``sources``, by remote address), then from its others. Ports stay."""
    local, remote = current
    found: list[Path] = []
    own = list(own)
    for there in dict.fromkeys((remote.host, *peer)):
        first = sources.get(there)
        for here in sorted(own, key=lambda a: a != first):
            if here.version == there.version and worth_telling(here) == worth_telling(there):
                found.append((Address(here, local.port), Address(there, remote.port)))
    return found[:MAX_PATHS]

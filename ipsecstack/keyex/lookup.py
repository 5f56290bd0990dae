"""Finding connections by addresses, as configured in local_addrs and remote_addrs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from ipsecstack.ipsec.sa import Address
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.keyex.configuration import ConnectionConfig

_ANY = {"%any": None, "": None, "%any4": 4, "%any6": 6, "0.0.0.0": 4, "::": 6, "0.0.0.0/0": 4, "::/0": 6}  # noqa: S104


@lru_cache(maxsize=4096)
def _parse(text: str) -> IPAddress | IPv4Network | IPv6Network | tuple[IPAddress, IPAddress] | None:
    """An address, a network or a range; None for a name, which is not resolved here."""
    try:
        if "/" in text:
            return ip_network(text, strict=False)
        if "-" in text:
            low, high = text.split("-", 1)
            return ip_address(low.strip()), ip_address(high.strip())
        return ip_address(text)
    except ValueError:
        return None


def match_address(configured: Iterable[str], address: IPAddress) -> int:
    """How well an address fits: 3 it is named, 2 a network or range holds it, 1 any, 0 not at all."""
    best = 0
    for item in configured:
        text = item.strip()
        if text in _ANY:
            version = _ANY[text]
            best = max(best, 1 if version in (None, address.version) else 0)
            continue
        parsed = _parse(text)
        if parsed is None:
            continue
        if isinstance(parsed, tuple):
            low, high = parsed
            inside = low.version == address.version and int(low) <= int(address) <= int(high)
            best = max(best, 2 if inside else 0)
        elif isinstance(parsed, IPv4Network | IPv6Network):
            best = max(best, 2 if address in parsed else 0)
        elif parsed == address:
            best = 3
    return best


class ConnectionIndex:
    """Connections by the single remote addresses that they name; those with names of none, networks or any apart."""

    def __init__(self, connections: Iterable[ConnectionConfig]) -> None:
        self._exact: dict[IPAddress, list[tuple[int, ConnectionConfig]]] = {}
        self._others: list[tuple[int, ConnectionConfig]] = []
        for position, config in enumerate(connections):
            parsed = [None if text.strip() in _ANY else _parse(text.strip()) for text in config.remote_addrs]
            single = [p for p in parsed if isinstance(p, IPv4Address | IPv6Address)]
            for address in single:
                self._exact.setdefault(address, []).append((position, config))
            if len(single) < len(parsed):
                self._others.append((position, config))

    def candidates(self, local: Address, remote: Address, version: int) -> list[ConnectionConfig]:
        """Connections that may be meant by a request between these addresses, best first."""
        some = dict(self._others)
        some.update(self._exact.get(remote.host, []))
        return candidates([some[position] for position in sorted(some)], local, remote, version)


def candidates(
    connections: Iterable[ConnectionConfig], local: Address, remote: Address, version: int
) -> list[ConnectionConfig]:
    """Of these connections those that fit the addresses, best first; a connection of version 0 takes both versions."""
    found: list[tuple[int, int, ConnectionConfig]] = []
    known: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}  # many connections have the same addresses
    for position, config in enumerate(connections):
        if config.version not in (0, version):
            continue
        addresses = (config.local_addrs, config.remote_addrs)
        rank = known.get(addresses)
        if rank is None:
            here = 1 if local.host.is_unspecified else match_address(config.local_addrs, local.host)
            there = match_address(config.remote_addrs, remote.host)
            rank = known[addresses] = -(here * 4 + there * 16) if here and there else 0
        if rank:
            found.append((rank, position, config))
    return [config for _, _, config in sorted(found, key=lambda item: item[:2])]


def first_address(configured: Iterable[str], version: int | None = None) -> IPAddress | None:
    """The first single address that is configured (of an IP version), None when there is none to send from or to."""
    for item in configured:
        if item.strip() in _ANY:
            continue
        parsed = _parse(item.strip())
        if parsed is None or isinstance(parsed, tuple | IPv4Network | IPv6Network):
            continue
        if version in (None, parsed.version):
            return parsed
    return None

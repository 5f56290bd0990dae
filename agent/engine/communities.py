"""Community strings and the networks that they, and users, may be used from (RFC 3584 section 5).

A community string is the only secret of SNMPv1 and v2c, so it is never compared in a way whose time tells how
much of it was right, and the time does not grow with the number of communities.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

from agent.config import Community, Network
from agent.engine.epoch import Epoch

VERSIONS = {0: "v1", 1: "v2c"}
"""By msgVersion, as the configuration calls them."""
MAX_NAME = 512
"""Octets of a community string that is looked for at all; RFC 3584's own examples have six."""


@lru_cache(maxsize=1024)
def _address(host: str) -> tuple[int, int]:
    """(IP version, address as a number). An IPv4 address inside IPv6 counts as the IPv4 address that it is."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address)


class Networks:
    """A set of IP networks, asked for one address at a time."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(
            (network.version, int(network.network_address), int(network.netmask)) for network in networks
        )

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, host: str) -> bool:
        version, number = _address(host)
        return any(version == v and number & mask == base for v, base, mask in self._networks)


class Place(Protocol):
    """From where a community may be used."""

    @property
    def ports_matter(self) -> bool: ...

    def permit(self, host: str, port: int) -> bool:
        """Whether a message from there may use it."""
        ...


class _NetworkPlace:
    """The networks of a community of the configuration."""

    ports_matter = False

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = Networks(networks)

    def permit(self, host: str, port: int) -> bool:
        return host in self._networks


class Communities:
    """All communities: those of the configuration, and those made over SNMP (snmpCommunityTable).

    Where two have the same string, the first whose versions and networks fit is meant, the configuration's
    before the others. `ports_matter`: whether the answer of `lookup` may depend on the source port.
    """

    def __init__(self, epoch: Epoch | None = None) -> None:
        self._epoch = epoch
        self._key = secrets.token_bytes(32)
        self._config: tuple[Community, ...] = ()
        self._rows: tuple[tuple[Community, Place | None], ...] = ()
        self._index: dict[bytes, tuple[tuple[Community, Place | None], ...]] = {}
        self.ports_matter = False

    def set_config(self, communities: Iterable[Community]) -> None:
        """Replace what the configuration file says."""
        config = tuple(communities)
        if config != self._config:
            self._config = config
            self._rebuild()

    def set_rows(self, communities: Iterable[tuple[Community, Place | None]]) -> None:
        """Replace what was made over SNMP. A community's networks do not count, but its place (None: anywhere)."""
        rows = tuple(communities)
        if rows or self._rows:
            self._rows = rows
            self._rebuild()

    def lookup(self, name: bytes, version: int, host: str, port: int = 0) -> Community | None:
        """The community of this string for messages of msgVersion `version` from there; None when there is none.

        The string is looked for by a digest with a key of this process: nobody outside can tell how near to
        one of the digests here a guess came.
        """
        if len(name) > MAX_NAME:
            return None
        text = VERSIONS.get(version)
        for community, place in self._index.get(self._digest(name), ()):
            if text in community.versions and (place is None or place.permit(host, port)):
                return community
        return None

    def __len__(self) -> int:
        return len(self._config) + len(self._rows)

    def _digest(self, name: bytes) -> bytes:
        return hashlib.blake2b(name, digest_size=16, key=self._key).digest()

    def _rebuild(self) -> None:
        index: dict[bytes, list[tuple[Community, Place | None]]] = {}
        configured = ((community, _NetworkPlace(community.networks)) for community in self._config)
        for community, place in (*configured, *self._rows):
            index.setdefault(self._digest(community.name.reveal()), []).append((community, place))
        self._index = {digest: tuple(entries) for digest, entries in index.items()}
        self.ports_matter = any(place is not None and place.ports_matter for _, place in self._rows)
        if self._epoch is not None:
            self._epoch.bump()

"""What a configuration is made of, as frozen dataclasses. `agent.config` gives them all on."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass

Oid = tuple[int, ...]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MODELS = {"any": 0, "v1": 1, "v2c": 2, "usm": 3}
"""snmpSecurityModel numbers (RFC 3411)."""
LEVELS = {"noAuthNoPriv": 1, "authNoPriv": 2, "authPriv": 3}
"""SnmpSecurityLevel numbers (RFC 3411)."""
AUTH_PROTOCOLS = ("SHA-1", "SHA-224", "SHA-256", "SHA-384", "SHA-512", "MD5")
PRIV_PROTOCOLS = ("AES-128", "AES-192", "AES-256", "AES-192-C", "AES-256-C", "DES")
KEY_SIZES = {
    "MD5": 16,
    "SHA-1": 20,
    "SHA-224": 28,
    "SHA-256": 32,
    "SHA-384": 48,
    "SHA-512": 64,
    "DES": 16,
    "AES-128": 16,
    "AES-192": 24,
    "AES-256": 32,
    "AES-192-C": 24,
    "AES-256-C": 32,
}
"""Octets of a localized key (RFC 3414 sections 6.2, 7.2 and 8.2, RFC 3826, RFC 7860)."""
WEAK = ("MD5", "DES")
"""Those that a user must call weak to get them."""
ROLES = ("monitor", "operator", "admin")
WRITABLE_SYSTEM = ("contact", "name", "location")


class Secret:
    """A secret that shows itself in no repr, str or log; compared in constant time."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def reveal(self) -> bytes:
        """The octets themselves."""
        return self._octets

    def matches(self, octets: bytes) -> bool:
        """Whether `octets` are this secret."""
        return hmac.compare_digest(self._octets, octets)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.matches(other._octets)

    def __hash__(self) -> int:
        return hash(Secret)

    def __repr__(self) -> str:
        return "Secret(...)"


@dataclass(frozen=True, slots=True)
class Listen:
    """One UDP address to answer on."""

    host: str
    port: int

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host


@dataclass(frozen=True, slots=True)
class Community:
    """A community string and what it stands for. `versions`: 'v1', 'v2c'. Empty `networks`: from anywhere."""

    name: Secret
    security_name: str
    versions: frozenset[str]
    networks: tuple[Network, ...]
    context: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """A USM user. Keys are passphrases unless `localized` (then keys for this engine, RFC 3414 section 2.6).

    `networks`: where the user may be used from; empty: from anywhere, but then an answer that nothing
    authenticates is never larger than its request.
    """

    name: str
    auth: str = ""
    auth_key: Secret | None = None
    priv: str = ""
    priv_key: Secret | None = None
    localized: bool = False
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """A row of vacmAccessTable (RFC 3415). Empty view names give no access."""

    group: str
    model: int
    level: int
    context: str = ""
    context_prefix: bool = False
    read: str = ""
    write: str = ""
    notify: str = ""


@dataclass(frozen=True, slots=True)
class Subtree:
    """A row of vacmViewTreeFamilyTable (RFC 3415)."""

    oid: Oid
    included: bool = True
    mask: bytes = b""


@dataclass(frozen=True, slots=True)
class System:
    """The system group of SNMPv2-MIB. `writable` names those of contact, name, location that SET may change."""

    description: str | None = None
    object_id: Oid | None = None
    contact: str = ""
    name: str | None = None
    location: str = ""
    services: int = 76
    writable: frozenset[str] = frozenset()


def role_group(role: str, level: int) -> str:
    """The group of those who have a role at a level: role:monitor, role:monitor:authNoPriv and so on."""
    name = next(name for name, number in LEVELS.items() if number == level)
    return f"role:{role}" if name == "authPriv" else f"role:{role}:{name}"

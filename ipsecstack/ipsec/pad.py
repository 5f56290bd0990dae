"""The Peer Authorization Database (RFC 4301 §4.4.3): who may authenticate, how, and for which selectors.

An ordered list of entries: an identity named in full comes before a pattern (``*.lab``, ``C=CH, CN=*``), that
before any identity; among equals the order of configuration holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from ipsecstack.crypto import dn
from ipsecstack.ipsec.selectors import TrafficSelector

ID_ANY, ID_IPV4, ID_FQDN, ID_RFC822, ID_IPV6, ID_DN, ID_KEY = 0, 1, 2, 3, 5, 9, 11


class Match(IntEnum):
    """How well an identity fits a pattern; greater is better, NONE is false."""

    NONE = 0
    ANY = 1
    WILDCARD = 2
    EXACT = 3


def match_identity(pattern_type: int, pattern: bytes, id_type: int, value: bytes) -> Match:
    """How the identity ``id_type, value`` fits a configured one (RFC 4301 §4.4.3.1).

    FQDN and e-mail compare without case and take ``*.example.org`` and ``*@example.org``; a DN takes ``*`` as an
    attribute's value; addresses and key IDs compare octet by octet.
    """
    if pattern_type == ID_ANY:
        return Match.ANY
    if pattern_type != id_type:
        return Match.NONE
    if id_type in (ID_FQDN, ID_RFC822):
        wanted, given = pattern.lower(), value.lower()
        if wanted == given:
            return Match.EXACT
        if wanted.startswith(b"*") and len(given) > len(wanted) - 1 and given.endswith(wanted[1:]):
            return Match.WILDCARD
        return Match.NONE
    if id_type == ID_DN:
        return _match_dn(pattern, value)
    return Match.EXACT if pattern == value else Match.NONE


def _match_dn(pattern: bytes, value: bytes) -> Match:
    if dn.same_name_der(pattern, value):
        return Match.EXACT
    try:
        wanted, given = dn.name_from_der(pattern), dn.name_from_der(value)
    except ValueError:
        return Match.NONE
    if len(wanted.rdns) != len(given.rdns):
        return Match.NONE
    for wanted_rdn, given_rdn in zip(wanted.rdns, given.rdns, strict=True):
        ours, theirs = list(wanted_rdn), list(given_rdn)
        if len(ours) != len(theirs):
            return Match.NONE
        for one, other in zip(ours, theirs, strict=True):
            if one.oid != other.oid or (one.value != "*" and _folded(one.value) != _folded(other.value)):
                return Match.NONE
    return Match.WILDCARD


def _folded(value: str | bytes) -> str | bytes:
    return value if isinstance(value, bytes) else " ".join(value.casefold().split())


def exact_key(id_type: int, value: bytes) -> tuple[int, bytes] | None:
    """A key under which an identity is found without comparing; None for one that may match others, or a DN."""
    if id_type in (ID_ANY, ID_DN):
        return None
    if id_type in (ID_FQDN, ID_RFC822):
        return None if value.startswith(b"*") else (id_type, value.lower())
    return (id_type, value)


@dataclass(frozen=True, slots=True)
class PadEntry:
    """One entry: an identity, how it must authenticate, and what it may ask for.

    ``selectors`` are the peer's sides of the child selectors; empty means its own IKE address only.
    ``trust_anchors`` and ``certificates`` are DER: a ``pubkey`` peer's chain must end in one of these anchors, or
    its certificate must be one of these.
    """

    name: str
    id_type: int
    id_data: bytes
    method: str  # 'psk' or 'pubkey'
    trust_anchors: tuple[bytes, ...] = ()
    certificates: tuple[bytes, ...] = ()
    selectors: tuple[TrafficSelector, ...] = ()

    def authorises(self, asked: Iterable[TrafficSelector], own_address: TrafficSelector) -> bool:
        """True when every selector that the peer asked for is within one that this entry allows."""
        allowed = (*self.selectors, own_address)
        return all(any(permitted.covers(ts) for permitted in allowed) for ts in asked)


class Pad:
    """The entries, looked up by what a peer says it is."""

    def __init__(self, entries: Sequence[PadEntry] = ()) -> None:
        self._entries = tuple(entries)
        self._by_name = {entry.name: entry for entry in self._entries}
        self._exact: dict[tuple[int, bytes], list[tuple[int, PadEntry]]] = {}
        self._others: list[tuple[int, PadEntry]] = []
        for position, entry in enumerate(self._entries):
            key = exact_key(entry.id_type, entry.id_data)
            if key is None:
                self._others.append((position, entry))
            else:
                self._exact.setdefault(key, []).append((position, entry))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> tuple[PadEntry, ...]:
        return self._entries

    def get(self, name: str) -> PadEntry | None:
        """The entry of this name."""
        return self._by_name.get(name)

    def lookup(self, id_type: int, id_data: bytes, method: str | None = None) -> list[PadEntry]:
        """Entries for this identity and authentication method, best first; empty when the peer is not authorised."""
        found: list[tuple[int, int, PadEntry]] = []
        key = exact_key(id_type, id_data)
        named = self._exact.get(key, []) if key is not None else []
        for position, entry in (*named, *self._others):
            if method is not None and entry.method != method:
                continue
            match = match_identity(entry.id_type, entry.id_data, id_type, id_data)
            if match:
                found.append((-match, position, entry))
        return [entry for _, _, entry in sorted(found, key=lambda item: item[:2])]

"""Tickets of session resumption (RFC 5723): what a gateway gives its clients to keep, and what clients keep.

A ticket holds the IKE SA itself (by value, §5), encrypted with a key that only the gateway has: the gateway keeps no
state but its keys and the numbers of tickets that are used up. Times are POSIX seconds, of the gateway's clock.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ipsecstack.crypto import encr
from ipsecstack.crypto.errors import CryptoError
from ipsecstack.keyex.base import Random
from ipsecstack.keyex.configuration import Identity
from ipsecstack.wire.ikev2 import Sa, SaProposal, WireError
from ipsecstack.wire.transforms import EncrId

if TYPE_CHECKING:
    from ipsecstack.keyex.ikev2.proposals import Suite

NUMBER_OCTETS = 16
MAX_OCTETS = 4096
"""Of a ticket that we keep for a gateway."""
_FORMAT = 1
_KEY_ID_OCTETS, _IV_OCTETS = 8, 8
_FIXED = struct.Struct("!16s8s8sQQQ?")  # number, SPIs, issued, expires, authenticated until, PPK used


class TicketError(Exception):
    """A ticket cannot be used; the message says why, without anything that is in it."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a ticket is about (§5: identities, SPIs, algorithms, SK_d; and what authenticated the peer)."""

    number: bytes
    spi_i: bytes
    spi_r: bytes
    issued: int
    expires: int
    until: int
    """When the peer has to authenticate itself anew, 0 for never."""
    ppk: bool
    """A post-quantum pre-shared key is in SK_d (RFC 8784)."""
    connection: str
    policy: bytes
    """A digest of how that connection authenticated."""
    peer: Identity
    own: Identity
    eap: Identity | None
    peer_auth: str
    own_auth: str
    proposal: SaProposal
    sk_d: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        fixed = _FIXED.pack(
            self.number, self.spi_i, self.spi_r, self.issued, self.expires, self.until, self.ppk
        )
        eap = _identity(self.eap) if self.eap is not None else b""
        parts = (
            self.connection.encode(),
            self.policy,
            _identity(self.peer),
            _identity(self.own),
            eap,
            self.peer_auth.encode(),
            self.own_auth.encode(),
            Sa((self.proposal,)).to_bytes(),
            self.sk_d,
        )
        return fixed + b"".join(struct.pack("!H", len(part)) + part for part in parts)

    @classmethod
    def parse(cls, data: bytes) -> Session:
        """Raises TicketError."""
        if len(data) < _FIXED.size:
            raise TicketError("it is cut short")
        number, spi_i, spi_r, issued, expires, until, ppk = _FIXED.unpack_from(data)
        parts, at = [], _FIXED.size
        while at < len(data):
            end = at + 2 + int.from_bytes(data[at : at + 2], "big")
            if end > len(data) or at + 2 > len(data):
                raise TicketError("it is cut short")
            parts.append(data[at + 2 : end])
            at = end
        if len(parts) != 9:
            raise TicketError("it does not have what belongs into it")
        try:
            (proposal,) = Sa.parse(parts[7]).proposals
            return cls(
                number, spi_i, spi_r, issued, expires, until, ppk,
                parts[0].decode(), parts[1], _parse_identity(parts[2]), _parse_identity(parts[3]),
                _parse_identity(parts[4]) if parts[4] else None,
                parts[5].decode(), parts[6].decode(), proposal, parts[8],
            )  # fmt: skip
        except (UnicodeDecodeError, WireError, ValueError):
            raise TicketError("what is in it makes no sense") from None


def _identity(id_: Identity) -> bytes:
    text = id_.text.encode()
    return struct.pack("!BH", id_.type, len(id_.data)) + id_.data + text


def _parse_identity(data: bytes) -> Identity:
    if len(data) < 3:
        raise TicketError("it is cut short")
    kind, octets = struct.unpack_from("!BH", data)
    if 3 + octets > len(data):
        raise TicketError("it is cut short")
    return Identity(kind, data[3 : 3 + octets], data[3 + octets :].decode())


class _Key:
    """One AES-256-GCM key; its IVs are counted."""

    __slots__ = ("_cipher", "_count", "made")

    def __init__(self, random: Random, now: float) -> None:
        method = encr.get(EncrId.AES_GCM_16, 256)
        self._cipher = method.new(random(method.keymat_octets))
        self._count = 0
        self.made = now

    def seal(self, head: bytes, plaintext: bytes) -> bytes:
        self._count += 1
        iv = self._count.to_bytes(_IV_OCTETS, "big")
        return iv + self._cipher.seal(iv, head, plaintext)

    def open(self, head: bytes, sealed: bytes) -> bytes:
        return self._cipher.open(sealed[:_IV_OCTETS], head, sealed[_IV_OCTETS:])


class TicketKeys:
    """The gateway's keys, a new one every ``lifetime`` seconds; an old one stays as long as its tickets."""

    def __init__(self, random: Random, lifetime: float) -> None:
        self._random = random
        self._lifetime = lifetime
        self._keys: OrderedDict[bytes, _Key] = OrderedDict()

    def __repr__(self) -> str:
        return f"<TicketKeys: {len(self._keys)}>"

    def seal(self, session: Session, now: float) -> bytes:
        self._forget(now)
        newest = next(reversed(self._keys), None)
        if newest is None or now - self._keys[newest].made >= self._lifetime:
            newest = self._random(_KEY_ID_OCTETS)
            self._keys[newest] = _Key(self._random, now)
        head = bytes((_FORMAT,)) + newest
        return head + self._keys[newest].seal(head, session.to_bytes())

    def open(self, ticket: bytes, now: float) -> Session:
        """Raises TicketError for what is not ours, or from a key that is too old."""
        self._forget(now)
        head = ticket[: 1 + _KEY_ID_OCTETS]
        key = self._keys.get(head[1:])
        if key is None or head[0] != _FORMAT:
            raise TicketError("it was not made here, or too long ago")
        try:
            plaintext = key.open(head, ticket[len(head) :])
        except (CryptoError, ValueError):
            raise TicketError("it does not verify") from None
        return Session.parse(plaintext)

    def _forget(self, now: float) -> None:
        for number, key in list(self._keys.items()):
            if now - key.made > 2 * self._lifetime:
                del self._keys[number]


class Spent:
    """Numbers of tickets that must not be used (again) while they last. Memory is bounded: when the oldest number is
    forgotten before its ticket ends, tickets as old as that one are refused altogether."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        self._floor = -1

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, number: bytes, issued: int, expires: int, now: float) -> None:
        self._numbers[number] = (issued, expires)
        while len(self._numbers) > self._limit:
            _, (oldest, end) = self._numbers.popitem(last=False)
            if end > now:
                self._floor = max(self._floor, oldest)

    def has(self, number: bytes, issued: int) -> bool:
        return issued <= self._floor or number in self._numbers


@dataclass(frozen=True, slots=True)
class Held:
    """A ticket that a gateway gave us, and our side of its IKE SA. ``expires`` is of our own clock (not POSIX)."""

    ticket: bytes = field(repr=False)
    expires: float
    renew_at: float
    spi_i: bytes
    spi_r: bytes
    policy: bytes
    suite: Suite
    own: Identity
    peer: Identity
    own_auth: str
    peer_auth: str
    until: float | None
    ppk: bool
    sk_d: bytes = field(repr=False)


class Sessions:
    """What an endpoint knows about sessions that may be resumed, in both roles."""

    def __init__(self, random: Random, lifetime: float, limit: int) -> None:
        self.keys = TicketKeys(random, lifetime)
        self.spent = Spent(limit)
        self.held: dict[str, Held] = {}
        """By connection: one ticket each."""

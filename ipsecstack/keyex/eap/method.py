"""What an EAP method is: how it looks from both ends, and what it may ask of its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ipsecstack.crypto.tls import TlsSettings
from ipsecstack.keyex.base import Random


class MethodFailed(Exception):
    """The method ended without authentication. The message is for our log and holds no secret."""


@dataclass(slots=True)
class PeerContext:
    """For a peer's method: who we are, and where secrets come from."""

    identity: bytes
    random: Random = field(repr=False)
    password: Callable[[], bytes | None] = field(repr=False)
    nt_hash: Callable[[], bytes | None] = field(repr=False)
    tls: Callable[[], TlsSettings] = field(repr=False)
    log: Callable[[str], None] = field(repr=False)


@dataclass(slots=True)
class ServerContext:
    """For an authenticator's method. ``password(user)`` is None for a user that is not known, which takes the same
    way as a wrong password."""

    identity: bytes
    server_name: bytes
    random: Random = field(repr=False)
    password: Callable[[bytes], bytes | None] = field(repr=False)
    nt_hash: Callable[[bytes], bytes | None] = field(repr=False)
    tls: Callable[[], TlsSettings] = field(repr=False)
    log: Callable[[str], None] = field(repr=False)


class PeerMethod(Protocol):
    """A method in the role of the peer. ``msk`` is there when it is done, None for a method without keys."""

    @property
    def done(self) -> bool:
        """Success may follow: what the method has to prove to us is proven."""
        ...

    @property
    def msk(self) -> bytes | None: ...

    def respond(self, data: bytes, identifier: int) -> bytes:
        """The type data of a request -> that of the response. EapError when malformed; MethodFailed ends it."""
        ...


class ServerMethod(Protocol):
    """A method in the role of the authenticator."""

    @property
    def msk(self) -> bytes | None: ...

    def begin(self, identifier: int) -> bytes:
        """Type data of the first request, which has this identifier."""
        ...

    def respond(self, data: bytes, identifier: int) -> bytes | None:
        """Type data of a response -> that of the next request (with this identifier), None when the peer is
        authenticated. EapError when malformed; MethodFailed: not authenticated."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """One method. ``mutual``: it proves the authenticator to the peer as well, strongly enough to stand alone
    (RFC 5998 §4)."""

    type: int
    name: str
    peer: Callable[[PeerContext], PeerMethod]
    server: Callable[[ServerContext], ServerMethod]
    mutual: bool = False

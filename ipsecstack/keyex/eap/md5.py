"""EAP-MD5 (RFC 3748 §5.4): a challenge, and MD5 of identifier, password and challenge. It makes no key."""

from __future__ import annotations

import hashlib
import hmac

from ipsecstack.keyex.eap.method import Method, MethodFailed, PeerContext, ServerContext
from ipsecstack.wire.eap import EapError, EapType

CHALLENGE_OCTETS = 16


def _value(data: bytes) -> bytes:
    if not data or len(data) < 1 + data[0] or data[0] == 0:
        raise EapError("EAP-MD5: the value does not fit")
    return data[1 : 1 + data[0]]


def _digest(identifier: int, password: bytes, challenge: bytes) -> bytes:
    return hashlib.md5(bytes((identifier,)) + password + challenge, usedforsecurity=False).digest()


class _Peer:
    msk: bytes | None = None

    def __init__(self, context: PeerContext) -> None:
        self._context = context
        self.done = False

    def respond(self, data: bytes, identifier: int) -> bytes:
        password = self._context.password()
        if password is None:
            raise MethodFailed("no EAP secret for our identity")
        digest = _digest(identifier, password, _value(data))
        self.done = True
        return bytes((len(digest),)) + digest


class _Server:
    msk: bytes | None = None

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._challenge = context.random(CHALLENGE_OCTETS)
        self._identifier = 0

    def begin(self, identifier: int) -> bytes:
        self._identifier = identifier
        return bytes((CHALLENGE_OCTETS,)) + self._challenge + self._context.server_name

    def respond(self, data: bytes, identifier: int) -> bytes | None:
        known = self._context.password(self._context.identity)
        password = known if known is not None else self._context.random(16)
        expected = _digest(self._identifier, password, self._challenge)
        if not hmac.compare_digest(expected, _value(data)) or known is None:
            raise MethodFailed("EAP-MD5 verification failed")
        return None


METHOD = Method(EapType.MD5, "md5", _Peer, _Server)

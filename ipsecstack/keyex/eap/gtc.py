"""EAP-GTC (RFC 3748 §5.6): the password as it is, inside what protects the conversation. It makes no key."""

from __future__ import annotations

import hmac

from ipsecstack.keyex.eap.method import Method, MethodFailed, PeerContext, ServerContext
from ipsecstack.wire.eap import EapType

_PROMPT = b"Password: "


class _Peer:
    msk: bytes | None = None

    def __init__(self, context: PeerContext) -> None:
        self._context = context
        self.done = False

    def respond(self, data: bytes, identifier: int) -> bytes:
        password = self._context.password()
        if password is None:
            raise MethodFailed("no EAP secret for our identity")
        self.done = True
        return password


class _Server:
    msk: bytes | None = None

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    def begin(self, identifier: int) -> bytes:
        return _PROMPT

    def respond(self, data: bytes, identifier: int) -> bytes | None:
        known = self._context.password(self._context.identity)
        expected = known if known is not None else self._context.random(16)
        if not hmac.compare_digest(expected, data) or known is None:
            raise MethodFailed("EAP-GTC password verification failed")
        return None


METHOD = Method(EapType.GTC, "gtc", _Peer, _Server)

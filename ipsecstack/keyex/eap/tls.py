"""EAP-TLS (RFC 5216, with TLS 1.3 RFC 9190): certificates on both ends, fragmented as EAP packets need it."""

from __future__ import annotations

from ipsecstack.crypto.tls import TLS1_3, TlsError, TlsSession
from ipsecstack.keyex.eap.method import Method, MethodFailed, PeerContext, ServerContext
from ipsecstack.wire.eap import EapError, EapType

LENGTH, MORE, START = 0x80, 0x40, 0x20
FRAGMENT_OCTETS = 1024
MAX_MESSAGE_OCTETS = 65536
_KEYS_OF_13 = b"EXPORTER_EAP_TLS_Key_Material"
_KEYS_OF_12 = b"client EAP encryption"


class Fragments:
    """Cuts a long TLS message into EAP packets and puts those of the peer together again (RFC 5216 §2.1.5)."""

    def __init__(self) -> None:
        self._out = b""
        self._sent = 0
        self._in = bytearray()
        self._expected: int | None = None

    @property
    def sending(self) -> bool:
        """Parts of our message wait for the peer's acknowledgement."""
        return self._sent < len(self._out)

    def start(self, message: bytes) -> bytes:
        """Type data of the first part."""
        self._out, self._sent = message, 0
        return self.next()

    def next(self) -> bytes:
        part = self._out[self._sent : self._sent + FRAGMENT_OCTETS]
        flags, length = 0, b""
        if self._sent == 0 and len(self._out) > FRAGMENT_OCTETS:
            flags, length = LENGTH, len(self._out).to_bytes(4, "big")
        self._sent += len(part)
        if self.sending:
            flags |= MORE
        return bytes((flags,)) + length + part

    def receive(self, data: bytes) -> bytes | None:
        """The whole message, or None when more parts are to come. EapError when they do not fit together."""
        if not data:
            raise EapError("EAP-TLS: no flags")
        flags, rest = data[0], data[1:]
        if flags & LENGTH:
            if len(rest) < 4:
                raise EapError("EAP-TLS: the length is cut short")
            expected, rest = int.from_bytes(rest[:4], "big"), rest[4:]
            if expected > MAX_MESSAGE_OCTETS or (self._in and expected != self._expected):
                raise EapError(f"EAP-TLS: a message of {expected} octets is not taken")
            self._expected = expected
        self._in += rest
        if len(self._in) > (MAX_MESSAGE_OCTETS if self._expected is None else self._expected):
            raise EapError("EAP-TLS: more octets than were announced")
        if flags & MORE:
            if not rest:
                raise EapError("EAP-TLS: an empty part")
            return None
        if self._expected is not None and len(self._in) != self._expected:
            raise EapError("EAP-TLS: fewer octets than were announced")
        message, self._in, self._expected = bytes(self._in), bytearray(), None
        return message


def exported(session: TlsSession) -> bytes:
    """MSK: the first 64 octets of the key material (RFC 5216 §2.3, RFC 9190 §2.3)."""
    if session.version == TLS1_3:
        return session.export(_KEYS_OF_13, 128, bytes((EapType.TLS,)))[:64]
    return session.export(_KEYS_OF_12, 128)[:64]


class _Peer:
    def __init__(self, context: PeerContext) -> None:
        self._context = context
        self._session: TlsSession | None = None
        self._fragments = Fragments()
        self.msk: bytes | None = None

    @property
    def done(self) -> bool:
        return self.msk is not None

    def respond(self, data: bytes, identifier: int) -> bytes:
        if not data:
            raise EapError("EAP-TLS: no flags")
        try:
            if self._session is None:
                if not data[0] & START:
                    raise EapError("EAP-TLS: it does not start")
                self._session = TlsSession(self._context.tls(), server=False)
                return self._fragments.start(self._session.receive(b""))
            if data[0] & START:
                raise EapError("EAP-TLS: it starts again")
            if self._fragments.sending:
                if len(data) > 1:
                    raise EapError("EAP-TLS: no acknowledgement of a part")
                return self._fragments.next()
            message = self._fragments.receive(data)
            if message is None:
                return b"\0"
            return self._go_on(self._session, message)
        except TlsError as error:
            raise MethodFailed(f"EAP-TLS: {error}") from None

    def _go_on(self, session: TlsSession, message: bytes) -> bytes:
        answer = session.receive(message)
        # With TLS 1.3 one octet 0 says that the server has no more to say (RFC 9190 §2.5); it may come now or with the
        # next message. Success counts only then.
        if session.established and (session.version != TLS1_3 or session.read() == b"\0"):
            self.msk = exported(session)
            self._context.log(f"EAP-TLS with {session.version} done")
        return self._fragments.start(answer)


class _Server:
    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._session: TlsSession | None = None
        self._fragments = Fragments()
        self._last = False
        self._failure: str | None = None
        self.msk: bytes | None = None

    def begin(self, identifier: int) -> bytes:
        return bytes((START,))

    def respond(self, data: bytes, identifier: int) -> bytes | None:
        if self._fragments.sending:
            if len(data) != 1 or data[0]:
                raise EapError("EAP-TLS: no acknowledgement of a part")
            return self._fragments.next()
        if self._failure is not None:
            raise MethodFailed(self._failure)
        message = self._fragments.receive(data)
        if message is None:
            return b"\0"
        if self._last:
            if message:
                raise MethodFailed("EAP-TLS: the peer refuses our certificate or handshake")
            assert self._session is not None
            self.msk = exported(self._session)
            self._context.log(f"EAP-TLS with {self._session.version} done")
            return None
        if self._session is None:
            try:
                self._session = TlsSession(self._context.tls(), server=True)
            except TlsError as error:
                raise MethodFailed(f"EAP-TLS: {error}") from None
        return self._go_on(self._session, message)

    def _go_on(self, session: TlsSession, message: bytes) -> bytes:
        try:
            answer = session.receive(message)
            if session.established:
                self._last = True
                if session.version == TLS1_3:
                    answer += session.send(b"\0")
        except TlsError as error:
            alert = session.pending()
            self._failure = f"EAP-TLS: {error}"
            if not alert:
                raise MethodFailed(self._failure) from None
            return self._fragments.start(alert)
        return self._fragments.start(answer)


METHOD = Method(EapType.TLS, "tls", _Peer, _Server, mutual=True)

"""TLS without sockets, for EAP-TLS (RFC 5216, RFC 9190): octets in, octets out, and keys exported at the end.

OpenSSL runs the handshake over memory and draws its randomness itself. It only checks that the peer owns its
certificate; whether that certificate is trusted is for the caller, who gives ``judge`` the peer's chain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509
from OpenSSL import SSL, crypto

from ipsecstack.crypto.auth import PrivateKey
from ipsecstack.crypto.errors import CertificateError

Judge = Callable[[list[x509.Certificate]], None]
"""Called with the peer's certificates, its own first; raises CertificateError when it is not to be trusted."""

_READ = 16384
_LEGACY_SERVER_CONNECT = 0x4  # SSL_OP_LEGACY_SERVER_CONNECT, which has no name in pyOpenSSL
TLS1_3 = "TLSv1.3"


class TlsError(Exception):
    """The handshake failed; the text is OpenSSL's reason and holds no secret."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """One end's certificate with its chain (nearest first), its key, and who judges the other end's."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    judge: Judge | None = None
    authorities: tuple[x509.Certificate, ...] = ()
    """A server names them in its request for a certificate."""


class TlsSession:
    """One end of a TLS connection with certificates on both sides; TLS 1.2 or 1.3."""

    def __init__(self, settings: TlsSettings, *, server: bool) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(
            SSL.OP_NO_COMPRESSION
            | SSL.OP_NO_TICKET
            | SSL.OP_NO_RENEGOTIATION
            | SSL.OP_CIPHER_SERVER_PREFERENCE
        )
        # Renegotiation is off, so that servers which do not tell that theirs is secure (RFC 5746) do no harm.
        context.set_options(_LEGACY_SERVER_CONNECT)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        # The callback takes every chain here: ``judge`` decides, with its own clock, before the keys are used.
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        try:
            context.use_certificate(settings.certificate)
            context.use_privatekey(settings.key)
            for certificate in settings.chain:
                context.add_extra_chain_cert(certificate)
            if server:
                for certificate in settings.authorities:
                    context.add_client_ca(certificate)
            context.check_privatekey()
        except (SSL.Error, crypto.Error, TypeError, ValueError) as error:
            raise TlsError(f"certificate or key cannot be used for TLS: {_reason(error)}") from None
        self._connection = SSL.Connection(context, None)
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
        self._judge = settings.judge
        self._server = server
        self.established = False
        self.peer: x509.Certificate | None = None

    @property
    def version(self) -> str:
        """``TLSv1.2`` or ``TLSv1.3``."""
        return str(self._connection.get_protocol_version_name())

    def receive(self, data: bytes) -> bytes:
        """Records from the peer (none to begin) -> records for it. TlsError when the handshake failed; what is still to
        be told to the peer then is in ``pending``."""
        try:
            if data:
                self._connection.bio_write(data)
            if not self.established:
                try:
                    self._connection.do_handshake()
                    self._finished()
                except SSL.WantReadError:
                    pass
        except SSL.Error as error:
            raise TlsError(_reason(error)) from None
        return self.pending()

    def _finished(self) -> None:
        chain = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        leaf = self._connection.get_peer_certificate(as_cryptography=True)
        if leaf is None:
            raise TlsError("the peer has no certificate")
        rest = [one for one in chain if one != leaf]
        if self._judge is not None:
            try:
                self._judge([leaf, *rest])
            except CertificateError as error:
                raise TlsError(str(error)) from None
        self.peer = leaf
        self.established = True

    def pending(self) -> bytes:
        """Records that wait to be sent."""
        parts: list[bytes] = []
        while True:
            try:
                parts.append(self._connection.bio_read(_READ))
            except SSL.WantReadError:
                return b"".join(parts)

    def send(self, data: bytes) -> bytes:
        """Protect application data; the records."""
        try:
            self._connection.send(data)
        except SSL.Error as error:
            raise TlsError(_reason(error)) from None
        return self.pending()

    def read(self) -> bytes:
        """Application data that came, empty when there is none."""
        try:
            return bytes(self._connection.recv(_READ))
        except (SSL.WantReadError, SSL.ZeroReturnError):
            return b""
        except SSL.Error as error:
            raise TlsError(_reason(error)) from None

    def export(self, label: bytes, octets: int, context: bytes | None = None) -> bytes:
        """Keying material of RFC 5705 and RFC 8446 §7.5."""
        return bytes(self._connection.export_keying_material(label, octets, context))


def _reason(error: Exception) -> str:
    """OpenSSL's words for what went wrong."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reasons = [
        str(entry[2]) for entry in entries if isinstance(entry, tuple) and len(entry) == 3 and entry[2]
    ]
    return ", ".join(dict.fromkeys(reasons)) or "TLS failed"

"""A certification authority that revokes: lists, OCSP responses, and a responder over HTTP on the loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


def digest(key: Key) -> hashes.HashAlgorithm | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common),
        ]
    )


class RevokingCa:
    """A self-signed CA around ``now`` (POSIX seconds), with what it has issued and revoked."""

    def __init__(self, common: str, now: float, key: Key | None = None, *, crl_sign: bool = True) -> None:
        self.now = datetime.fromtimestamp(now, UTC).replace(microsecond=0)
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.name = _name(common)
        usage = x509.KeyUsage(True, False, False, False, False, True, crl_sign, False, False)
        self.certificate = (
            self._builder(self.name, self.key, 3650)
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(usage, True)
            .sign(self.key, digest(self.key))
        )
        self.revoked: dict[int, tuple[datetime, x509.ReasonFlags | None]] = {}

    @classmethod
    def of(cls, key: Key, certificate: x509.Certificate, now: float) -> RevokingCa:
        """A CA that is there already, to revoke what it has issued."""
        made = cls.__new__(cls)
        made.now = datetime.fromtimestamp(now, UTC).replace(microsecond=0)
        made.key, made.certificate, made.name, made.revoked = key, certificate, certificate.subject, {}
        return made

    def _builder(self, subject: x509.Name, key: Key, days: float) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(days=100))
            .not_valid_after(self.now + timedelta(days=days))
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def issue(
        self,
        dns: str,
        key: Key | None = None,
        *,
        ocsp_uris: tuple[str, ...] = (),
        crl_uris: tuple[str, ...] = (),
        responder: bool = False,
        days: float = 365,
    ) -> tuple[x509.Certificate, Key]:
        """An end entity, or an OCSP responder of this CA."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(dns), key, days).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(dns)]), False
        )
        if ocsp_uris:
            access = [
                x509.AccessDescription(
                    AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(uri)
                )
                for uri in ocsp_uris
            ]
            builder = builder.add_extension(x509.AuthorityInformationAccess(access), False)
        if crl_uris:
            points = [
                x509.DistributionPoint([x509.UniformResourceIdentifier(uri)], None, None, None)
                for uri in crl_uris
            ]
            builder = builder.add_extension(x509.CRLDistributionPoints(points), False)
        if responder:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)
        return builder.sign(self.key, digest(self.key)), key

    def sign_ca(self, other: RevokingCa) -> x509.Certificate:
        """A certificate of another CA's key below this one."""
        builder = self._builder(other.name, other.key, 3000)
        return builder.add_extension(x509.BasicConstraints(True, None), True).sign(self.key, digest(self.key))

    def revoke(self, certificate: x509.Certificate, reason: x509.ReasonFlags | None = None) -> None:
        self.revoked[certificate.serial_number] = (self.now - timedelta(hours=1), reason)

    def crl(
        self,
        *,
        number: int = 1,
        begins: float = -60,
        ends: float = 86400,
        extra: x509.ExtensionType | None = None,
    ) -> bytes:
        """The list (DER) of what is revoked; ``begins`` and ``ends`` are seconds from the CA's time."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(self.now + timedelta(seconds=begins))
            .next_update(self.now + timedelta(seconds=ends))
            .add_extension(x509.CRLNumber(number), False)
        )
        if extra is not None:
            builder = builder.add_extension(extra, True)
        for serial, (moment, reason) in self.revoked.items():
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment)
            if reason is not None:
                entry = entry.add_extension(x509.CRLReason(reason), False)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, digest(self.key)).public_bytes(Encoding.DER)

    def ocsp(
        self,
        certificate: x509.Certificate,
        *,
        signer: tuple[x509.Certificate, Key] | None = None,
        by_key: bool = False,
        begins: float = -60,
        ends: float | None = 3600,
        status: ocsp.OCSPCertStatus | None = None,
        issuer: x509.Certificate | None = None,
        with_certificate: bool = True,
    ) -> bytes:
        """The DER of an OCSP response about a certificate, by this CA or by its responder ``signer``."""
        revoked = self.revoked.get(certificate.serial_number)
        if status is None:
            status = ocsp.OCSPCertStatus.GOOD if revoked is None else ocsp.OCSPCertStatus.REVOKED
        said_revoked = status is ocsp.OCSPCertStatus.REVOKED
        own, own_key = signer or (self.certificate, self.key)
        builder = ocsp.OCSPResponseBuilder().add_response(
            certificate, issuer or self.certificate, hashes.SHA1(), status,
            self.now + timedelta(seconds=begins),
            None if ends is None else self.now + timedelta(seconds=ends),
            (revoked[0] if revoked else self.now) if said_revoked else None,
            revoked[1] if revoked and said_revoked else None,
        )  # fmt: skip
        encoding = ocsp.OCSPResponderEncoding.HASH if by_key else ocsp.OCSPResponderEncoding.NAME
        builder = builder.responder_id(encoding, own)
        if signer is not None and with_certificate:
            builder = builder.certificates([own])
        return builder.sign(own_key, digest(own_key)).public_bytes(Encoding.DER)


def pem_key(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


Answer = Callable[[str, bytes | None], bytes | None]


class Responder:
    """An HTTP server on the loopback, in a thread. ``answer(path, body)`` gives content, or None for a 404."""

    def __init__(self, answer: Answer, host: str = "127.0.0.1") -> None:
        self.asked: list[tuple[str, bytes | None]] = []
        responder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(None)

            def do_POST(self) -> None:
                self._reply(self.rfile.read(int(self.headers["Content-Length"])))

            def _reply(self, body: bytes | None) -> None:
                responder.asked.append((self.path, body))
                content = answer(self.path, body)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.uri = f"http://{host}:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Responder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

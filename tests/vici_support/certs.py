"""Self-signed certificates for tests."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding


def certificate(name: str, *, ca: bool) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """(PEM, key) of a certificate with subject ``CN=name``."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _build(name, ca, key, hashes.SHA256()), key


def fixed_certificate(name: str, *, ca: bool) -> bytes:
    """PEM of a certificate that has the same octets every time (Ed25519 signatures are deterministic)."""
    return _build(name, ca, ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)), None)


def _build(
    name: str,
    ca: bool,
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    digest: hashes.SHA256 | None,
) -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    begin = datetime.datetime(2026, 1, 1)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, digest)
    )
    return cert.public_bytes(Encoding.PEM)

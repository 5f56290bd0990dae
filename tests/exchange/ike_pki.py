"""A small certificate authority for tests: RSA, ECDSA and Ed25519 end entities around the network's wall clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from ike_network import WALL

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_BASE = datetime.fromtimestamp(WALL, UTC)


@lru_cache
def make_key(kind: str, who: str) -> Key:
    """One key for each kind and owner; RSA keys are slow to make."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ecdsa":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "ecdsa384":
        return ec.generate_private_key(ec.SECP384R1())
    return ed25519.Ed25519PrivateKey.generate()


def pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _sign(builder: x509.CertificateBuilder, key: Key) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def _builder(subject: str, issuer: str, key: Key, first: float, last: float) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BASE + timedelta(days=first))
        .not_valid_after(_BASE + timedelta(days=last))
    )


@lru_cache
def authority(name: str = "lab CA", parent: str | None = None) -> bytes:
    """A CA certificate (DER), self-signed or issued by ``parent``."""
    key, issuer = make_key("ecdsa", name), parent or name
    builder = _builder(name, issuer, key, -100, 3650).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    return _sign(builder, make_key("ecdsa", issuer))


def certificate(kind: str, dns: str, *, ca: str = "lab CA", first: float = -10, last: float = 365) -> bytes:
    """An end entity certificate (DER) with a DNS name; ``first`` and ``last`` are days from the test's time."""
    key = make_key(kind, dns)
    builder = _builder(dns, ca, key, first, last).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False
    )
    return _sign(builder, make_key("ecdsa", ca))

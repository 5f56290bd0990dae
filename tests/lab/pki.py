"""A certification authority and gateway certificates, made anew for each run."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Kind = Literal["ecdsa", "rsa", "ed25519", "ed448"]
PrivateKey = (
    ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
)
DAY = datetime.timedelta(days=1)


def new_key(kind: Kind) -> PrivateKey:
    if kind == "ecdsa":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed448":
        return ed448.Ed448PrivateKey.generate()
    return ed25519.Ed25519PrivateKey.generate()


def _hash_for(kind: Kind) -> hashes.HashAlgorithm | None:
    return None if kind in ("ed25519", "ed448") else hashes.SHA256()


def subject(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "lab"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass(frozen=True)
class Authority:
    """A self-signed CA; `issue` writes a gateway's certificate and key and the CA's where swanctl wants them."""

    kind: Kind
    key: PrivateKey
    certificate: x509.Certificate

    def _hash(self) -> hashes.HashAlgorithm | None:
        return _hash_for(self.kind)

    def issue(self, name: str, folder: Path) -> Path:
        """Certificate for DNS name `name` (also its IKE identity), under `folder`/x509, x509ca, private.

        Returns the certificate's path. Private keys get mode 0600.
        """
        key = new_key(self.kind)
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject(name))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
            .sign(self.key, self._hash())
        )
        for part in ("x509", "x509ca", "private"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        path = folder / "x509" / f"{name}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / "x509ca" / "ca.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        with os.fdopen(
            os.open(folder / "private" / f"{name}.pem", os.O_WRONLY | os.O_CREAT, 0o600), "wb"
        ) as out:
            out.write(private_pem(key))
        return path


@cache
def authority(kind: Kind) -> Authority:
    """The run's CA of one kind."""
    key = new_key(kind)
    now = datetime.datetime.now(datetime.UTC)
    name = subject(f"lab {kind} CA")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 30 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, _hash_for(kind))
    )
    return Authority(kind, key, certificate)


CHAIN_NAMES = 60
"""Further DNS names in each certificate of `chain`, to make it large."""


def _padded(name: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [x509.DNSName(name), *(x509.DNSName(f"further-name-{n}.of.{name}") for n in range(CHAIN_NAMES))]
    )


@cache
def chain() -> tuple[tuple[rsa.RSAPrivateKey, x509.Certificate], ...]:
    """A root and two intermediate CAs below it, RSA 3072, whose certificates do not fit one datagram together."""
    now = datetime.datetime.now(datetime.UTC)
    made: list[tuple[rsa.RSAPrivateKey, x509.Certificate]] = []
    for level in range(3):
        key = rsa.generate_private_key(65537, 3072)
        name = subject(f"lab chain CA {level}")
        issuer_key, issuer = (made[-1][0], made[-1][1].subject) if made else (key, name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=2 - level), critical=True)
            .add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if made:
            builder = builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
            ).add_extension(_padded(f"ca{level}.lab"), critical=False)
        made.append((key, builder.sign(issuer_key, hashes.SHA256())))
    return tuple(made)


@cache
def leaf(kind: str, name: str) -> tuple[PrivateKey, x509.Certificate]:
    """Key and certificate of DNS name `name`, by the CA of a kind or, for "chain", by the last one of `chain`."""
    now = datetime.datetime.now(datetime.UTC)
    key: PrivateKey
    issuer_key: PrivateKey
    if kind == "chain":
        (issuer_key, issuer), key = chain()[-1], rsa.generate_private_key(65537, 3072)
        digest: hashes.HashAlgorithm | None = hashes.SHA256()
        names = _padded(name)
    else:
        ca = authority(kind)  # type: ignore[arg-type]
        issuer_key, issuer, key = ca.key, ca.certificate, new_key(ca.kind)
        digest = _hash_for(ca.kind)
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject(name))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 30 * DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
        .sign(issuer_key, digest)
    )
    return key, certificate


def issue_all(folder: Path, letter: str, names: Mapping[str, str]) -> None:
    """A certificate `KIND-LETTER.pem` for each kind of `names` (kind -> DNS name), with keys, CAs and intermediates."""
    for part in ("x509", "x509ca", "private"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for kind, name in names.items():
        key, certificate = leaf(kind, name)
        stem = f"{kind}-{letter}.pem"
        (folder / "x509" / stem).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        with os.fdopen(os.open(folder / "private" / stem, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as out:
            out.write(private_pem(key))
        anchors = [chain()[0][1]] if kind == "chain" else [authority(kind).certificate]  # type: ignore[arg-type]
        for anchor in anchors:
            (folder / "x509ca" / f"{kind}.pem").write_bytes(anchor.public_bytes(serialization.Encoding.PEM))
    if "chain" in names:
        for level, (_, between) in enumerate(chain()[1:], 1):
            (folder / "x509" / f"between{level}.pem").write_bytes(
                between.public_bytes(serialization.Encoding.PEM)
            )

"""Certificates named in a configuration: by file, inline as 0x or 0s text, or as octets of a VICI message."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ipsecstack.config.loader import read_file
from ipsecstack.config.values import parse_secret
from ipsecstack.crypto import x509
from ipsecstack.crypto.errors import CertificateError

BASIC_CONSTRAINTS = "2.5.29.19"


class CertSource(Protocol):
    """Turns a certificate's name in a configuration into DER; ValueError says why it cannot."""

    def named(self, text: str, folder: str) -> bytes: ...


class FolderSource:
    """Files below the folder of the swanctl.conf: relative names are looked up in ``x509`` or ``x509ca``."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def named(self, text: str, folder: str) -> bytes:
        if text[:2].lower() in ("0x", "0s"):
            return to_der(parse_secret(text))
        path = self.base / folder / text
        try:
            return to_der(read_file(path))
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


class AbsoluteSource:
    """For VICI: only absolute paths, as the daemon does not know the client's folder."""

    def named(self, text: str, folder: str) -> bytes:
        if text[:2].lower() not in ("0x", "0s") and not Path(text).is_absolute():
            raise ValueError(f"'{text}' is not an absolute path; send the certificate itself")
        return FolderSource(Path("/")).named(text, folder)


def to_der(data: bytes) -> bytes:
    """DER of one certificate in PEM or DER; ValueError when it is none, or its public key is of no known kind."""
    try:
        certificate = x509.load_certificate(data)
        x509.public_key(certificate)  # one whose key nobody can use is refused while it is loaded, not later
        return x509.to_der(certificate)
    except CertificateError as error:
        raise ValueError(str(error)) from None


def is_ca(data: bytes) -> bool:
    """Whether basicConstraints make it a CA certificate (RFC 5280 section 4.2.1.9); ValueError when unreadable."""
    try:
        certificate = x509.load_certificate(data)
        for extension in certificate.extensions:
            if extension.oid.dotted_string == BASIC_CONSTRAINTS:
                return bool(getattr(extension.value, "ca", False))
    except CertificateError as error:
        raise ValueError(str(error)) from None
    return False


def require_ca(data: bytes) -> bytes:
    """The DER of a CA certificate; ValueError when basicConstraints do not make it one."""
    der = to_der(data)
    if not is_ca(der):
        raise ValueError("the CA certificate lacks the CA basic constraint; it cannot be a trust anchor")
    return der

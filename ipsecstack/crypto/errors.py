"""What the cryptographic layer raises. Messages name algorithms and lengths, never key material."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag as InvalidTag  # what a bare ``AeadCipher.aead`` raises


class CryptoError(Exception):
    """Base of everything this package raises on purpose."""


class UnknownAlgorithm(CryptoError, KeyError):
    """No such algorithm, or not with this key length, in the registry."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; the text is meant for people.
        return str(self.args[0]) if self.args else ""


class IntegrityError(CryptoError):
    """Authenticated data did not verify: a wrong key, or it was changed under way."""


class KeError(CryptoError):
    """A peer's public key exchange value is not acceptable (RFC 6989, RFC 7748 section 6.1)."""


class AuthError(CryptoError):
    """An AUTH payload does not verify, or none can be made with this key and these algorithms."""


class CertificateError(CryptoError):
    """A certificate or private key cannot be loaded, or a certificate is not trusted."""

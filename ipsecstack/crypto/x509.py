"""X.509 certificates and private keys: loading, chain validation, and the identities that IKE takes from them.

Validation (``validate``) follows RFC 5280 section 6 as far as IKE needs it: signatures, validity at a given
time, basic constraints, path length, key usage, minimum strength. Chains are searched here instead of with
``cryptography.x509.verification``, because that one is for the Web PKI: it refuses Ed25519 and demands
extensions that IKE certificates need not have.

Name constraints are checked (``name_constraints``), revocation is not (``revocation`` does that for a chain that is
valid), certificate policies and extended key usage are not (RFC 4945 section 5.1.3.12 lets IKE ignore it). A
certificate with a critical extension that is not handled is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipsecstack.crypto import name_constraints
from ipsecstack.crypto.auth import MIN_RSA_BITS, PrivateKey, PublicKey
from ipsecstack.crypto.dn import dn_text
from ipsecstack.crypto.errors import CertificateError

Certificate = x509.Certificate
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

# Identification types of IKE that certificates can hold (RFC 7296 section 3.5).
ID_IPV4_ADDR, ID_FQDN, ID_RFC822_ADDR, ID_IPV6_ADDR, ID_DER_ASN1_DN = 1, 2, 3, 5, 9

MAX_CHAIN = 8
_MAX_TRIES = 64  # candidate issuers looked at, so that cross-signed loops end

_PARSE_ERRORS = (
    ValueError,
    TypeError,
    KeyError,  # cryptography 47, for a string type that is none
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

_HANDLED_CRITICAL = {
    x509.BasicConstraints.oid,
    x509.KeyUsage.oid,
    x509.SubjectAlternativeName.oid,
    x509.ExtendedKeyUsage.oid,
    x509.NameConstraints.oid,
}


@dataclass(frozen=True, slots=True)
class CertificateIdentity:
    """An identity that a certificate vouches for: type and value as in an ID payload, and a text for people."""

    type: int
    data: bytes
    text: str


def load_certificates(data: bytes) -> list[Certificate]:
    """Every certificate of a PEM text, or the one of a DER blob; CertificateError when there is none."""
    try:
        if b"-----BEGIN" in data:
            found = x509.load_pem_x509_certificates(data)
        else:
            found = [x509.load_der_x509_certificate(data)]
        for certificate in found:
            # cryptography parses these when they are first asked for: ask now, so that nobody meets an error later.
            _ = certificate.subject, certificate.issuer
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.extensions
    except _PARSE_ERRORS as error:
        raise CertificateError(f"not a certificate in PEM or DER: {_first_line(error)}") from None
    return found


def load_certificate(data: bytes) -> Certificate:
    """The first certificate of ``data``."""
    return load_certificates(data)[0]


def load_private_key(data: bytes, passphrase: bytes | None = None) -> PrivateKey:
    """A private key (RSA, ECDSA, Ed25519, Ed448) in PEM or DER: PKCS#8, PKCS#1 or SEC 1, encrypted or not.

    A passphrase that is not needed is ignored. CertificateError says what is wrong, never what is inside.
    """
    pem = b"-----BEGIN" in data
    load = serialization.load_pem_private_key if pem else serialization.load_der_private_key
    try:
        try:
            key = load(data, passphrase or None)
        except TypeError:
            # Raised both for a missing passphrase and for one given without need.
            if not passphrase:
                raise CertificateError("private key is encrypted and no passphrase is known for it") from None
            key = load(data, None)
    except (ValueError, UnsupportedAlgorithm):
        hint = "wrong passphrase, or " if passphrase else ""
        raise CertificateError(f"not a usable private key in PEM or DER ({hint}damaged)") from None
    if not isinstance(
        key,
        rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey,
    ):
        raise CertificateError(f"private key of kind {type(key).__name__.lstrip('_')} cannot sign in IKE")
    return key


def public_key(certificate: Certificate) -> PublicKey:
    """The certificate's public key; CertificateError when IKE cannot verify with its kind."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f'public key of "{subject_text(certificate)}" is not understood') from None
    if not isinstance(
        key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
    ):
        raise CertificateError(f'public key of "{subject_text(certificate)}" cannot be used in IKE')
    return key


def to_der(certificate: Certificate) -> bytes:
    """The certificate's DER, as a CERT payload carries it."""
    return certificate.public_bytes(Encoding.DER)


def _as_public(key: Certificate | PublicKey | PrivateKey) -> PublicKey:
    if isinstance(key, Certificate):
        return public_key(key)
    if isinstance(
        key,
        rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey,
    ):
        return key.public_key()
    return key


def spki_sha1(key: Certificate | PublicKey | PrivateKey) -> bytes:
    """SHA-1 of the SubjectPublicKeyInfo: the hash that CERTREQ carries (RFC 7296 section 3.7)."""
    der = _as_public(key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha1(der, usedforsecurity=False).digest()


def key_id(key: Certificate | PublicKey | PrivateKey) -> bytes:
    """SHA-1 of the subjectPublicKey bits alone (RFC 5280 section 4.2.1.2): strongSwan's key identifier."""
    return x509.SubjectKeyIdentifier.from_public_key(_as_public(key)).digest


def valid_at(certificate: Certificate, now: float) -> bool:
    """Whether ``now`` (POSIX seconds) lies in the certificate's time."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return first.timestamp() <= now <= last.timestamp()


def key_matches(certificate: Certificate, key: PrivateKey) -> bool:
    """Whether the private key belongs to the certificate."""
    return spki_sha1(certificate) == spki_sha1(key)


def key_type(key: Certificate | PublicKey | PrivateKey) -> str:
    """``RSA``, ``ECDSA``, ``ED25519`` or ``ED448``, as VICI names key types."""
    public = _as_public(key)
    if isinstance(public, rsa.RSAPublicKey):
        return "RSA"
    if isinstance(public, ec.EllipticCurvePublicKey):
        return "ECDSA"
    return "ED25519" if isinstance(public, ed25519.Ed25519PublicKey) else "ED448"


def subject_text(certificate: Certificate) -> str:
    """The subject as strongSwan writes it: ``C=CH, O=strongSwan, CN=moon``."""
    return dn_text(certificate.subject)


def identities(certificate: Certificate) -> tuple[CertificateIdentity, ...]:
    """What the certificate lets its owner claim: the subject DN, then every subjectAltName that IKE knows."""
    found: list[CertificateIdentity] = []
    if len(list(certificate.subject)):
        der = certificate.subject.public_bytes()
        found.append(CertificateIdentity(ID_DER_ASN1_DN, der, dn_text(certificate.subject)))
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_PARSE_ERRORS):
        return tuple(found)
    for name in names:
        if isinstance(name, x509.DNSName):
            found.append(CertificateIdentity(ID_FQDN, name.value.encode(), name.value))
        elif isinstance(name, x509.RFC822Name):
            found.append(CertificateIdentity(ID_RFC822_ADDR, name.value.encode(), name.value))
        elif isinstance(name, x509.IPAddress) and not hasattr(name.value, "netmask"):
            kind = ID_IPV4_ADDR if name.value.version == 4 else ID_IPV6_ADDR
            found.append(CertificateIdentity(kind, name.value.packed, str(name.value)))
        elif isinstance(name, x509.DirectoryName):
            der = name.value.public_bytes()
            found.append(CertificateIdentity(ID_DER_ASN1_DN, der, dn_text(name.value)))
    return tuple(found)


def vouches_for(certificate: Certificate, id_type: int, id_data: bytes) -> bool:
    """Whether the certificate holds this identity (RFC 4945 section 3.1). FQDN and e-mail ignore case; a
    subjectAltName ``*.example.org`` does not stand for its hosts."""
    fold = id_type in (ID_FQDN, ID_RFC822_ADDR)
    wanted = id_data.lower() if fold else id_data
    for identity in identities(certificate):
        if identity.type == id_type and (identity.data.lower() if fold else identity.data) == wanted:
            return True
    return False


def validate(
    leaf: Certificate,
    intermediates: Iterable[Certificate],
    anchors: Collection[Certificate],
    now: float,
    *,
    allow_sha1: bool = False,
    min_rsa_bits: int = MIN_RSA_BITS,
) -> tuple[Certificate, ...]:
    """The chain from ``leaf`` to one of the trusted ``anchors``, all of it valid at ``now``.

    ``now`` is in seconds since the epoch. ``intermediates`` are untrusted helpers, such as the peer's other
    CERT payloads. A leaf that is itself an anchor is a chain of one. CertificateError names the certificate
    and the reason of the most promising chain that failed.
    """
    return _Search(list(intermediates), list(anchors), now, allow_sha1, min_rsa_bits).run(leaf)


class _Search:
    """Depth-first search for a chain, over issuers with the right name."""

    def __init__(
        self,
        intermediates: list[Certificate],
        anchors: list[Certificate],
        now: float,
        allow_sha1: bool,
        min_rsa_bits: int,
    ) -> None:
        self._intermediates = intermediates
        self._anchors = anchors
        self._now = datetime.fromtimestamp(now, UTC)
        self._allow_sha1 = allow_sha1
        self._min_rsa_bits = min_rsa_bits
        self._tries = 0
        self._budget = name_constraints.Budget()
        self._reason = ""

    def run(self, leaf: Certificate) -> tuple[Certificate, ...]:
        self._check_common(leaf)
        usage = _extension(leaf, x509.KeyUsage)
        if usage is not None and not (usage.digital_signature or usage.content_commitment):
            raise CertificateError(f'key usage of "{subject_text(leaf)}" does not permit signatures')
        if leaf in self._anchors:
            return (leaf,)
        chain = self._extend((leaf,))
        if chain is None:
            missing = dn_text(leaf.issuer)
            raise CertificateError(self._reason or f'no trusted CA for issuer "{missing}" of the certificate')
        return chain

    def _extend(self, chain: tuple[Certificate, ...]) -> tuple[Certificate, ...] | None:
        last = chain[-1]
        for pool, trusted in ((self._anchors, True), (self._intermediates, False)):
            for issuer in pool:
                if issuer.subject != last.issuer or issuer in chain:
                    continue
                self._tries += 1
                if self._tries > _MAX_TRIES or len(chain) >= MAX_CHAIN:
                    self._reason = self._reason or "certificate chain is too long or too entangled"
                    return None
                try:
                    self._check_link(chain, issuer)
                except CertificateError as error:
                    self._reason = self._reason or str(error)
                    continue
                found = (*chain, issuer) if trusted else self._extend((*chain, issuer))
                if found is not None:
                    return found
        return None

    def _check_link(self, chain: Sequence[Certificate], issuer: Certificate) -> None:
        """That ``issuer`` may have issued, and did issue, the last certificate of ``chain``."""
        subject = chain[-1]
        self._check_common(issuer)
        name = subject_text(issuer)
        constraints = _extension(issuer, x509.BasicConstraints)
        if constraints is None or not constraints.ca:
            raise CertificateError(f'issuer "{name}" is not a CA certificate')
        # Self-issued certificates below do not count towards the path length (RFC 5280 section 4.2.1.9).
        below = sum(1 for certificate in chain[1:] if certificate.subject != certificate.issuer)
        if constraints.path_length is not None and below > constraints.path_length:
            raise CertificateError(f'path length constraint of CA "{name}" is exceeded')
        # They must be critical (RFC 5280 section 4.2.1.10); those that are not still are not ignored.
        names = _extension(issuer, x509.NameConstraints)
        if names is not None:
            name_constraints.check(names, chain, name, self._budget)
        usage = _extension(issuer, x509.KeyUsage)
        if usage is not None and not usage.key_cert_sign:
            raise CertificateError(f'key usage of CA "{name}" does not permit signing certificates')
        try:
            algorithm = subject.signature_hash_algorithm
        except UnsupportedAlgorithm:
            raise CertificateError(
                f'signature algorithm of "{subject_text(subject)}" is not implemented'
            ) from None
        weak = isinstance(algorithm, hashes.MD5) or (
            isinstance(algorithm, hashes.SHA1) and not self._allow_sha1
        )
        if weak and algorithm is not None:
            raise CertificateError(f'"{subject_text(subject)}" is signed with {algorithm.name}, not allowed')
        try:
            subject.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
            raise CertificateError(
                f'signature of "{subject_text(subject)}" does not verify with CA "{name}"'
            ) from None

    def _check_common(self, certificate: Certificate) -> None:
        name = subject_text(certificate)
        if self._now < certificate.not_valid_before_utc:
            raise CertificateError(
                f'"{name}" is not valid before {certificate.not_valid_before_utc:%F %T} UTC'
            )
        if self._now > certificate.not_valid_after_utc:
            raise CertificateError(f'"{name}" expired at {certificate.not_valid_after_utc:%F %T} UTC')
        key = public_key(certificate)
        if isinstance(key, rsa.RSAPublicKey) and key.key_size < self._min_rsa_bits:
            raise CertificateError(
                f'RSA key of "{name}" has {key.key_size} bits, at least {self._min_rsa_bits} are required'
            )
        try:
            critical = [e.oid for e in certificate.extensions if e.critical]
        except _PARSE_ERRORS as error:
            raise CertificateError(f'extensions of "{name}" are malformed: {_first_line(error)}') from None
        for oid in critical:
            if oid not in _HANDLED_CRITICAL:
                raise CertificateError(
                    f'"{name}" has the extension {oid.dotted_string}, which is not handled'
                )


def _extension(certificate: Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

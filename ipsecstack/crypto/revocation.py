"""Revocation of certificates: lists (RFC 5280 section 5 and 6.3) and OCSP (RFC 6960), as octets and answers.

Nothing is fetched here: the caller gets the octets of a request and gives those of what came back. Every answer names
how long it may be used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from ipsecstack.crypto import auth
from ipsecstack.crypto.auth import PublicKey
from ipsecstack.crypto.errors import AuthError, CertificateError
from ipsecstack.crypto.x509 import Certificate, public_key, subject_text
from ipsecstack.wire.transforms import AuthMethod

# How far a responder's or list's clock may be ahead of ours, and how long an answer without nextUpdate holds, in s.
CLOCK_SKEW = 300
DEFAULT_LIFE = 3600
MAX_URIS = 4

_PARSE_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_SCOPE = x509.IssuingDistributionPoint


@dataclass(frozen=True, slots=True)
class Answer:
    """What a list or a responder says of one certificate. ``revoked`` is the reason's name, None while it is good.

    ``until`` (POSIX seconds) is when the answer is too old to be used.
    """

    revoked: str | None
    until: float
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Crl:
    """A certificate revocation list. Whether its signature is right, ``verify_crl`` says."""

    der: bytes
    parsed: x509.CertificateRevocationList
    issuer: x509.Name
    number: int
    this_update: float
    next_update: float | None
    key_id: bytes | None
    """Which of the issuer's keys signed it, if it says so."""

    @property
    def until(self) -> float:
        return self.next_update if self.next_update is not None else self.this_update + DEFAULT_LIFE


def load_crl(data: bytes) -> Crl:
    """A list in PEM or DER. CertificateError: it is none, or of a kind that is not handled (delta, indirect)."""
    try:
        load = x509.load_pem_x509_crl if b"-----BEGIN" in data else x509.load_der_x509_crl
        parsed = load(data)
        extensions = {extension.oid: extension for extension in parsed.extensions}
        this_update = parsed.last_update_utc.timestamp()
        following = parsed.next_update_utc
        issuer = parsed.issuer
    except _PARSE_ERRORS as error:
        raise CertificateError(
            f"not a certificate revocation list in PEM or DER: {_first_line(error)}"
        ) from None
    if x509.DeltaCRLIndicator.oid in extensions:
        raise CertificateError("delta certificate revocation lists are not handled; give the full one")
    scope = extensions.get(_SCOPE.oid)
    if scope is not None:
        value = scope.value
        assert isinstance(value, _SCOPE)
        if value.indirect_crl or value.only_some_reasons or value.only_contains_attribute_certs:
            raise CertificateError(
                "certificate revocation lists that are indirect or partial are not handled"
            )
    known = {_SCOPE.oid, x509.CRLNumber.oid, x509.AuthorityKeyIdentifier.oid}
    for oid, extension in extensions.items():
        if extension.critical and oid not in known:
            raise CertificateError(
                f"the revocation list has the extension {oid.dotted_string}, which is not handled"
            )
    number, key = extensions.get(x509.CRLNumber.oid), extensions.get(x509.AuthorityKeyIdentifier.oid)
    return Crl(
        parsed.public_bytes(Encoding.DER),
        parsed,
        issuer,
        number.value.crl_number if number is not None and isinstance(number.value, x509.CRLNumber) else 0,
        this_update,
        following.timestamp() if following is not None else None,
        key.value.key_identifier
        if key is not None and isinstance(key.value, x509.AuthorityKeyIdentifier)
        else None,
    )


def verify_crl(crl: Crl, issuer: Certificate) -> None:
    """That the list is signed by this CA, which may sign lists. CertificateError says why not."""
    name = subject_text(issuer)
    if crl.issuer != issuer.subject:
        raise CertificateError(f'the revocation list is not one of CA "{name}"')
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is not None and not usage.crl_sign:
        raise CertificateError(f'key usage of CA "{name}" does not permit signing revocation lists')
    try:
        _refuse_weak(crl.parsed.signature_hash_algorithm, f'revocation list of CA "{name}"')
        valid = crl.parsed.is_signature_valid(public_key(issuer))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        valid = False
    if not valid:
        raise CertificateError(f'signature of the revocation list of CA "{name}" does not verify')


def crl_answer(crl: Crl, certificate: Certificate, now: float) -> Answer | None:
    """What a verified list says of a certificate of its issuer; None when it does not speak of it, or is too old."""
    if now + CLOCK_SKEW < crl.this_update or now > crl.until:
        return None
    try:
        scope = crl.parsed.extensions.get_extension_for_class(_SCOPE).value
    except x509.ExtensionNotFound:
        scope = None
    if scope is not None:
        ca = _is_ca(certificate)
        if (scope.only_contains_user_certs and ca) or (scope.only_contains_ca_certs and not ca):
            return None
    try:
        entry = crl.parsed.get_revoked_certificate_by_serial_number(certificate.serial_number)
    except _PARSE_ERRORS:
        return None  # its CA has signed nonsense: it says nothing
    if entry is None:
        return Answer(None, crl.until) if scope is None or _is_of_part(scope, certificate) else None
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except (x509.ExtensionNotFound, *_PARSE_ERRORS):
        reason = "unspecified"
    return Answer(reason, crl.until, entry.revocation_date_utc.timestamp())


def ocsp_request(certificate: Certificate, issuer: Certificate) -> bytes:
    """The DER of an OCSP request for one certificate. Its name is hashed with SHA-1, as every responder understands
    (RFC 5019 section 2.1.1); without a nonce, so that a responder may answer what it has signed before."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1())  # noqa: S303
    return builder.build().public_bytes(Encoding.DER)


def read_ocsp(data: bytes, certificate: Certificate, issuer: Certificate, now: float) -> Answer | None:
    """What an OCSP response says of a certificate; None where the responder does not know it.

    CertificateError: malformed, refused by the responder, not signed by the CA or one that it entitles (RFC 6960
    section 4.2.2.2), about another certificate, or not of this time.
    """
    try:
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise CertificateError(f"the OCSP responder answers {response.response_status.name}")
        _verify_ocsp(response, data, issuer, now)
        single = next((s for s in response.responses if _is_about(s, certificate, issuer)), None)
        if single is None:
            raise CertificateError("the OCSP response is about another certificate")
        this_update = single.this_update_utc.timestamp()
        following = single.next_update_utc
        status = single.certificate_status
        revoked_at = single.revocation_time_utc
        reason = single.revocation_reason
    except CertificateError:
        raise
    except (*_PARSE_ERRORS, IndexError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"malformed OCSP response: {_first_line(error)}") from None
    # Without nextUpdate newer information is always to be had (RFC 6960 section 4.2.2.1): an old response is a replay.
    until = following.timestamp() if following is not None else this_update + DEFAULT_LIFE
    if this_update > now + CLOCK_SKEW:
        raise CertificateError("the OCSP response is from the future")
    if until < now:
        raise CertificateError("the OCSP response is too old")
    if status is ocsp.OCSPCertStatus.UNKNOWN:
        return None
    if status is ocsp.OCSPCertStatus.GOOD:
        return Answer(None, until)
    return Answer(
        reason.value if reason is not None else "unspecified",
        until,
        revoked_at.timestamp() if revoked_at is not None else None,
    )


def ocsp_uris(certificate: Certificate) -> tuple[str, ...]:
    """The OCSP responders that a certificate names (RFC 5280 section 4.2.2.1), those reached by HTTP."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, *_PARSE_ERRORS):
        return ()
    found = (d.access_location for d in access if d.access_method == AuthorityInformationAccessOID.OCSP)
    return _http(found)


def crl_uris(certificate: Certificate) -> tuple[str, ...]:
    """Where a certificate says that its issuer's list is (RFC 5280 section 4.2.1.13), by HTTP and not indirectly."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except (x509.ExtensionNotFound, *_PARSE_ERRORS):
        return ()
    return _http(name for p in points if not p.crl_issuer and not p.reasons for name in p.full_name or ())


def _is_of_part(scope: x509.IssuingDistributionPoint, certificate: Certificate) -> bool:
    """Whether a list that is for one distribution point is for this certificate's (RFC 5280 section 6.3.3 b 2 i): a CA
    may cut its list into parts, and those of others do not hold this certificate, revoked or not."""
    if scope.full_name is None and scope.relative_name is None:
        return True
    try:
        points = list(certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value)
    except (x509.ExtensionNotFound, *_PARSE_ERRORS):
        points = []
    if scope.full_name is None:
        return any(point.relative_name == scope.relative_name for point in points)
    names: list[x509.GeneralName] = [name for point in points for name in point.full_name or ()]
    if not points:
        names.append(x509.DirectoryName(certificate.issuer))
    return any(name in scope.full_name for name in names)


def _http(names: Iterable[x509.GeneralName]) -> tuple[str, ...]:
    found = [n.value for n in names if isinstance(n, x509.UniformResourceIdentifier) and is_http(n.value)]
    return tuple(found[:MAX_URIS])


def is_http(uri: str) -> bool:
    """Whether it is a plain HTTP address without anything that must not go into a request."""
    return (
        uri.lower().startswith("http://")
        and len(uri) <= 1024
        and uri.isascii()
        and all(c.isprintable() and not c.isspace() for c in uri)
    )


def _is_about(single: ocsp.OCSPSingleResponse, certificate: Certificate, issuer: Certificate) -> bool:
    """Whether the answer's CertID (RFC 6960 section 4.1.1) is this certificate's."""
    if single.serial_number != certificate.serial_number:
        return False
    name = single.hash_algorithm.name
    key_bits = _key_bits(issuer)
    return (
        hashlib.new(name, issuer.subject.public_bytes()).digest() == single.issuer_name_hash
        and hashlib.new(name, key_bits).digest() == single.issuer_key_hash
    )


def _key_bits(certificate: Certificate) -> bytes:
    """The contents of subjectPublicKey, of which CertID and responder ID hold a hash."""
    key = public_key(certificate)
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return key.public_bytes_raw()


def _verify_ocsp(response: ocsp.OCSPResponse, data: bytes, issuer: Certificate, now: float) -> None:
    """The signature, by the CA itself or by a certificate of it that may sign OCSP responses."""
    signer = next(
        (c for c in (issuer, *response.certificates[:MAX_URIS]) if _is_responder(response, c)), None
    )
    if signer is None:
        raise CertificateError("the OCSP response does not hold its responder's certificate")
    if signer != issuer:
        _check_delegate(signer, issuer, now)
    _verify_signature(public_key(signer), response, data)


def _is_responder(response: ocsp.OCSPResponse, certificate: Certificate) -> bool:
    if response.responder_name is not None:
        return response.responder_name == certificate.subject
    if response.responder_key_hash is None:
        return False
    return hashlib.sha1(_key_bits(certificate), usedforsecurity=False).digest() == response.responder_key_hash


def _check_delegate(signer: Certificate, issuer: Certificate, now: float) -> None:
    name = subject_text(signer)
    moment = datetime.fromtimestamp(now, UTC)
    try:
        signer.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateError(
            f'OCSP responder "{name}" is not entitled by CA "{subject_text(issuer)}"'
        ) from None
    if not signer.not_valid_before_utc <= moment <= signer.not_valid_after_utc:
        raise CertificateError(f'certificate of OCSP responder "{name}" is not valid now')
    try:
        usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is None or ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
        raise CertificateError(
            f'certificate of OCSP responder "{name}" is not one for signing OCSP responses'
        )
    _refuse_weak(signer.signature_hash_algorithm, f'certificate of OCSP responder "{name}"')


def _verify_signature(key: PublicKey, response: ocsp.OCSPResponse, data: bytes) -> None:
    """The response's AlgorithmIdentifier, which stands behind what is signed, and its signature: the very pair that a
    Digital Signature of IKE has, RSASSA-PSS included (RFC 7427 section 3)."""
    signed = response.tbs_response_bytes
    start = data.index(signed) + len(signed)
    identifier = data[start : start + 2 + data[start + 1]]
    signature = bytes((len(identifier) & 0xFF,)) + identifier + response.signature
    try:
        auth.verify(AuthMethod.DIGITAL_SIGNATURE, signature, key, signed)
    except AuthError as error:
        raise CertificateError(f"the OCSP response cannot be trusted: {error}") from None


def _refuse_weak(algorithm: hashes.HashAlgorithm | None, what: str) -> None:
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        raise CertificateError(f"{what} is signed with {algorithm.name}, not allowed")


def _is_ca(certificate: Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

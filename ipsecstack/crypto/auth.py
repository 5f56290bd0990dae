"""AUTH payloads of IKEv2: shared secrets (RFC 7296 section 2.15) and signatures.

Signatures: RSA PKCS#1 v1.5 as method 1, ECDSA as methods 9, 10 and 11 (RFC 4754), and the Digital Signature
method 14 (RFC 7427) with RSA PKCS#1 v1.5, RSASSA-PSS, ECDSA, Ed25519 and Ed448 (RFC 8420).

``data`` is always the Authentication Data field alone, without the method octet and the reserved ones.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from ipsecstack.crypto import algorithm_identifier, schemes
from ipsecstack.crypto.algorithm_identifier import Scheme, SignatureAlgorithm
from ipsecstack.crypto.errors import AuthError
from ipsecstack.crypto.prf import Buffer, Prf
from ipsecstack.wire.transforms import AuthMethod, HashAlgId

PrivateKey = (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
)
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

# What this stack offers in SIGNATURE_HASH_ALGORITHMS, best liked first; SHA-1 is never offered.
SUPPORTED_HASHES = (HashAlgId.SHA2_256, HashAlgId.SHA2_384, HashAlgId.SHA2_512, HashAlgId.IDENTITY)

MIN_RSA_BITS = 2048

_KEY_PAD = b"Key Pad for IKEv2"

_HASHES: dict[HashAlgId, hashes.HashAlgorithm] = {
    HashAlgId.SHA1: hashes.SHA1(),  # noqa: S303 - only reached when the caller allows SHA-1
    HashAlgId.SHA2_256: hashes.SHA256(),
    HashAlgId.SHA2_384: hashes.SHA384(),
    HashAlgId.SHA2_512: hashes.SHA512(),
}

# Methods 9 to 11 fix curve and hash together (RFC 4754 section 3).
_ECDSA_METHODS: dict[int, tuple[str, HashAlgId]] = {
    AuthMethod.ECDSA_P256_SHA256: ("secp256r1", HashAlgId.SHA2_256),
    AuthMethod.ECDSA_P384_SHA384: ("secp384r1", HashAlgId.SHA2_384),
    AuthMethod.ECDSA_P521_SHA512: ("secp521r1", HashAlgId.SHA2_512),
}

SIGNATURE_METHODS = frozenset(
    {AuthMethod.RSA_SIGNATURE, AuthMethod.DIGITAL_SIGNATURE, *(AuthMethod(m) for m in _ECDSA_METHODS)}
)


@dataclass(frozen=True, slots=True)
class AuthData:
    """What goes into an AUTH payload, and the signature's name for the log."""

    method: AuthMethod
    data: bytes
    algorithm: str


def signed_octets(prf: Prf, message: Buffer, peer_nonce: Buffer, sk_p: Buffer, id_body: Buffer) -> bytes:
    """The octets that AUTH covers: own first message | peer's nonce data | prf(SK_p, own ID payload body).

    ``message`` is the whole first IKE_SA_INIT message one sent, header included and non-ESP marker excluded;
    ``id_body`` the ID payload without its generic header; ``sk_p`` is SK_pi for the initiator, SK_pr for the
    responder (RFC 7296 section 2.15).
    """
    return b"".join((message, peer_nonce, prf.compute(sk_p, id_body)))


def psk_auth(prf: Prf, secret: Buffer, octets: Buffer) -> bytes:
    """AUTH = prf(prf(shared secret, "Key Pad for IKEv2"), signed octets)."""
    return prf.compute(prf.compute(secret, _KEY_PAD), octets)


def psk_verify(prf: Prf, secret: Buffer, octets: Buffer, data: Buffer) -> bool:
    """Whether ``data`` is the AUTH of a peer that knows the secret, compared in constant time."""
    return hmac.compare_digest(psk_auth(prf, secret, octets), bytes(data))


def sign(
    key: PrivateKey,
    octets: bytes,
    peer_hashes: Collection[int],
    rules: Sequence[str] = (),
) -> AuthData:
    """Sign with the best that the peer understands and ``rules`` (``schemes.parse_rules``) permit.

    ``peer_hashes`` are the numbers of the peer's SIGNATURE_HASH_ALGORITHMS notification, empty when it sent
    none: then ECDSA keys use methods 9 to 11 and RSA keys method 1, whose SHA-1 the rules must name.
    AuthError when key, peer and rules have nothing in common.
    """
    if not peer_hashes:
        return _sign_classic(key, octets, rules)
    possible = [a for a in _possible(key) if a.hash in peer_hashes]
    algorithm = schemes.choose(rules, possible)
    if algorithm is None:
        wanted = f" that {', '.join(rules)} permits" if rules else ""
        raise AuthError(
            f"the {_key_name(key)} can make no signature{wanted} with a hash that the peer accepts"
        )
    identifier = algorithm_identifier.encode(algorithm)
    signature = _sign(key, octets, algorithm)
    return AuthData(
        AuthMethod.DIGITAL_SIGNATURE, bytes((len(identifier),)) + identifier + signature, algorithm.name
    )


def verify(
    method: int,
    data: bytes,
    key: object,
    octets: bytes,
    rules: Sequence[str] = (),
    *,
    min_rsa_bits: int = MIN_RSA_BITS,
) -> str:
    """Check a signature AUTH with the public key of the peer's validated certificate.

    Returns the signature algorithm's name. AuthError says why not: it does not verify, method and key do
    not fit, ``rules`` (``schemes.parse_rules``; without any, SHA-1 is out) do not permit it, or an RSA key below
    ``min_rsa_bits``.
    """
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < min_rsa_bits:
        raise AuthError(f"RSA key of {key.key_size} bits, at least {min_rsa_bits} are required")
    if method == AuthMethod.DIGITAL_SIGNATURE:
        algorithm, signature = _split(data)
        _check_permitted(algorithm, rules)
        _verify(key, signature, octets, algorithm)
    elif method == AuthMethod.RSA_SIGNATURE:
        algorithm = _verify_rsa_classic(key, octets, data)
        _check_permitted(algorithm, rules)
    elif method in _ECDSA_METHODS:
        curve, hash_id = _ECDSA_METHODS[method]
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != curve:
            raise AuthError(f"{AuthMethod(method).vici_name} does not fit the {_key_name(key)} of the peer")
        algorithm = SignatureAlgorithm(Scheme.ECDSA, hash_id)
        _check_permitted(algorithm, rules)
        _verify(key, _raw_to_der(data, key), octets, algorithm)
    else:
        raise AuthError(f"authentication method {method} is not a signature that is implemented")
    return algorithm.name


def _check_permitted(algorithm: SignatureAlgorithm, rules: Sequence[str]) -> None:
    if schemes.permits(rules, algorithm):
        return
    if algorithm.hash is HashAlgId.SHA1:
        raise AuthError(f"{algorithm.name} uses SHA-1, which is not allowed; auth = pubkey-sha1-weak would")
    raise AuthError(f"{algorithm.name} is none of the signatures that are asked for: {', '.join(rules)}")


def _possible(key: PrivateKey) -> list[SignatureAlgorithm]:
    """What a key can sign with, best liked first. RSA PKCS #1 stands before PSS, as strongSwan has it by default."""
    if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        scheme = Scheme.ED25519 if isinstance(key, ed25519.Ed25519PrivateKey) else Scheme.ED448
        return [SignatureAlgorithm(scheme, HashAlgId.IDENTITY)]
    if isinstance(key, rsa.RSAPrivateKey):
        kinds: tuple[Scheme, ...] = (Scheme.RSA_PKCS1, Scheme.RSA_PSS)
        strength = key.key_size
        limits = ((3072, HashAlgId.SHA2_256), (7680, HashAlgId.SHA2_384))
    else:
        kinds, strength = (Scheme.ECDSA,), key.curve.key_size
        limits = ((256, HashAlgId.SHA2_256), (384, HashAlgId.SHA2_384))
    # The hash that matches the key's strength, else the next stronger one, else the strongest weaker one; SHA-1 last.
    wanted = next((hash_id for limit, hash_id in limits if strength <= limit), HashAlgId.SHA2_512)
    by_strength = (HashAlgId.SHA2_256, HashAlgId.SHA2_384, HashAlgId.SHA2_512)
    stronger = [h for h in by_strength if h >= wanted]
    weaker = [h for h in reversed(by_strength) if h < wanted]
    return [
        SignatureAlgorithm(scheme, hash_id)
        for hash_id in (*stronger, *weaker, HashAlgId.SHA1)
        for scheme in kinds
    ]


def _sign_classic(key: PrivateKey, octets: bytes, rules: Sequence[str]) -> AuthData:
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = SignatureAlgorithm(Scheme.RSA_PKCS1, HashAlgId.SHA1)
        if not schemes.permits(rules, algorithm):
            raise AuthError(
                "the peer takes RSA signatures with SHA-1 only, which is not allowed; auth = rsa-sha1-weak would"
            )
        return AuthData(AuthMethod.RSA_SIGNATURE, _sign(key, octets, algorithm), algorithm.name)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        for method, (curve, hash_id) in _ECDSA_METHODS.items():
            if key.curve.name == curve:
                algorithm = SignatureAlgorithm(Scheme.ECDSA, hash_id)
                if not schemes.permits(rules, algorithm):
                    raise AuthError(
                        f"the peer takes {algorithm.name} only, and {', '.join(rules)} is asked for"
                    )
                r, s = decode_dss_signature(_sign(key, octets, algorithm))
                size = (key.curve.key_size + 7) // 8
                raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
                return AuthData(AuthMethod(method), raw, algorithm.name)
    raise AuthError(f"a {_key_name(key)} needs a peer that understands digital signatures (RFC 7427)")


def _sign(key: PrivateKey, octets: bytes, algorithm: SignatureAlgorithm) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return key.sign(octets)
    hash_algorithm = _HASHES[algorithm.hash]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(octets, ec.ECDSA(hash_algorithm))
    try:
        return key.sign(octets, _rsa_padding(algorithm), hash_algorithm)
    except (ValueError, UnsupportedAlgorithm):
        raise AuthError(f"an RSA key of {key.key_size} bits cannot make {algorithm.name}") from None


def _split(data: bytes) -> tuple[SignatureAlgorithm, bytes]:
    """Authentication data of method 14: length, AlgorithmIdentifier, signature (RFC 7427 section 3)."""
    if not data or len(data) <= 1 + data[0]:
        raise AuthError("digital signature is shorter than its algorithm identifier says")
    end = 1 + data[0]
    try:
        return algorithm_identifier.parse(data[1:end]), data[end:]
    except ValueError as error:
        raise AuthError(f"digital signature: {error}") from None


def _verify_rsa_classic(key: object, octets: bytes, data: bytes) -> SignatureAlgorithm:
    """Method 1 does not name its hash: SHA-1 by default, but SHA-2 is permitted (RFC 7296 section 3.8)."""
    candidates = [HashAlgId.SHA2_256, HashAlgId.SHA2_384, HashAlgId.SHA2_512, HashAlgId.SHA1]
    for hash_id in candidates:
        algorithm = SignatureAlgorithm(Scheme.RSA_PKCS1, hash_id)
        try:
            _verify(key, data, octets, algorithm)
        except AuthError as error:
            failure = error
            continue
        return algorithm
    raise failure


def _verify(key: object, signature: bytes, octets: bytes, algorithm: SignatureAlgorithm) -> None:
    scheme = algorithm.scheme
    try:
        if scheme in (Scheme.RSA_PKCS1, Scheme.RSA_PSS) and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, octets, _rsa_padding(algorithm), _HASHES[algorithm.hash])
        elif scheme is Scheme.ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, octets, ec.ECDSA(_HASHES[algorithm.hash]))
        elif (scheme is Scheme.ED25519 and isinstance(key, ed25519.Ed25519PublicKey)) or (
            scheme is Scheme.ED448 and isinstance(key, ed448.Ed448PublicKey)
        ):
            key.verify(signature, octets)
        else:
            raise AuthError(f"{algorithm.name} does not fit the {_key_name(key)} of the peer")
    except InvalidSignature:
        raise AuthError(f"{algorithm.name} signature does not verify") from None
    except (ValueError, UnsupportedAlgorithm):
        raise AuthError(f"{algorithm.name} cannot be checked with the {_key_name(key)} of the peer") from None


def _rsa_padding(algorithm: SignatureAlgorithm) -> padding.AsymmetricPadding:
    if algorithm.scheme is Scheme.RSA_PKCS1:
        return padding.PKCS1v15()
    hash_algorithm = _HASHES[algorithm.hash]
    salt = hash_algorithm.digest_size if algorithm.salt_octets is None else algorithm.salt_octets
    return padding.PSS(padding.MGF1(hash_algorithm), salt)


def _raw_to_der(raw: bytes, key: ec.EllipticCurvePublicKey) -> bytes:
    """r || s of RFC 4754 section 7 as the DER that the library takes."""
    size = (key.curve.key_size + 7) // 8
    if len(raw) != 2 * size:
        raise AuthError(f"ECDSA signature has {len(raw)} octets, not {2 * size}")
    return encode_dss_signature(int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big"))


def _key_name(key: object) -> str:
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return f"RSA key of {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return f"{key.curve.name} key"
    if isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return "Ed25519 key"
    if isinstance(key, ed448.Ed448PublicKey | ed448.Ed448PrivateKey):
        return "Ed448 key"
    return "key of another kind"

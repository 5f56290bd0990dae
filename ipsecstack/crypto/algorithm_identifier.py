"""AlgorithmIdentifier objects of the Digital Signature method (RFC 7427 appendix A), in DER.

Encoding gives exactly the octets of that appendix. Parsing also takes RSASSA-PSS parameters in their other
allowed spellings: hash parameters NULL or absent, defaults left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ipsecstack.wire.transforms import HashAlgId


class Scheme(Enum):
    RSA_PKCS1 = "RSA_EMSA_PKCS1"
    RSA_PSS = "RSA_EMSA_PSS"
    ECDSA = "ECDSA"
    ED25519 = "ED25519"
    ED448 = "ED448"


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """A signature scheme with its hash; ``salt_octets`` is for RSASSA-PSS, None for the hash's length."""

    scheme: Scheme
    hash: HashAlgId
    salt_octets: int | None = None

    @property
    def name(self) -> str:
        if self.hash is HashAlgId.IDENTITY:
            return self.scheme.value
        return f"{self.scheme.value}_{self.hash.vici_name.removeprefix('HASH_')}"


_SEQUENCE, _OID, _NULL, _INTEGER = 0x30, 0x06, 0x05, 0x02

_RSASSA_PSS = bytes.fromhex("2a864886f70d01010a")
_MGF1 = bytes.fromhex("2a864886f70d010108")
_HASH_OIDS = {
    HashAlgId.SHA1: bytes.fromhex("2b0e03021a"),
    HashAlgId.SHA2_256: bytes.fromhex("608648016503040201"),
    HashAlgId.SHA2_384: bytes.fromhex("608648016503040202"),
    HashAlgId.SHA2_512: bytes.fromhex("608648016503040203"),
}
_HASH_OF_OID = {oid: hash_id for hash_id, oid in _HASH_OIDS.items()}
_DIGEST_OCTETS = {
    HashAlgId.SHA1: 20,
    HashAlgId.SHA2_256: 32,
    HashAlgId.SHA2_384: 48,
    HashAlgId.SHA2_512: 64,
}

# Object identifiers of the schemes that name their hash by themselves.
_OIDS: dict[bytes, SignatureAlgorithm] = {
    bytes.fromhex("2a864886f70d010105"): SignatureAlgorithm(Scheme.RSA_PKCS1, HashAlgId.SHA1),
    bytes.fromhex("2a864886f70d01010b"): SignatureAlgorithm(Scheme.RSA_PKCS1, HashAlgId.SHA2_256),
    bytes.fromhex("2a864886f70d01010c"): SignatureAlgorithm(Scheme.RSA_PKCS1, HashAlgId.SHA2_384),
    bytes.fromhex("2a864886f70d01010d"): SignatureAlgorithm(Scheme.RSA_PKCS1, HashAlgId.SHA2_512),
    bytes.fromhex("2a8648ce3d0401"): SignatureAlgorithm(Scheme.ECDSA, HashAlgId.SHA1),
    bytes.fromhex("2a8648ce3d040302"): SignatureAlgorithm(Scheme.ECDSA, HashAlgId.SHA2_256),
    bytes.fromhex("2a8648ce3d040303"): SignatureAlgorithm(Scheme.ECDSA, HashAlgId.SHA2_384),
    bytes.fromhex("2a8648ce3d040304"): SignatureAlgorithm(Scheme.ECDSA, HashAlgId.SHA2_512),
    bytes.fromhex("2b6570"): SignatureAlgorithm(Scheme.ED25519, HashAlgId.IDENTITY),
    bytes.fromhex("2b6571"): SignatureAlgorithm(Scheme.ED448, HashAlgId.IDENTITY),
}
_OID_OF = {algorithm: oid for oid, algorithm in _OIDS.items()}


def encode(algorithm: SignatureAlgorithm) -> bytes:
    """The DER of an algorithm identifier."""
    if algorithm.scheme is Scheme.RSA_PSS:
        hash_identifier = _tlv(_SEQUENCE, _tlv(_OID, _HASH_OIDS[algorithm.hash]) + _tlv(_NULL, b""))
        mask = _tlv(_SEQUENCE, _tlv(_OID, _MGF1) + hash_identifier)
        salt = _DIGEST_OCTETS[algorithm.hash] if algorithm.salt_octets is None else algorithm.salt_octets
        parameters = (
            _tlv(0xA0, hash_identifier) + _tlv(0xA1, mask) + _tlv(0xA2, _tlv(_INTEGER, bytes((salt,))))
        )
        return _tlv(_SEQUENCE, _tlv(_OID, _RSASSA_PSS) + _tlv(_SEQUENCE, parameters))
    # RSA PKCS#1 v1.5 identifiers carry NULL parameters, the others none (RFC 7427 appendix A).
    tail = _tlv(_NULL, b"") if algorithm.scheme is Scheme.RSA_PKCS1 else b""
    return _tlv(_SEQUENCE, _tlv(_OID, _OID_OF[algorithm]) + tail)


def parse(data: bytes) -> SignatureAlgorithm:
    """The signature algorithm of a DER identifier; ValueError says what is wrong with it."""
    body, rest = _read(data, _SEQUENCE)
    if rest:
        raise ValueError("octets after the algorithm identifier")
    oid, parameters = _read(body, _OID)
    if oid == _RSASSA_PSS:
        return _parse_pss(parameters)
    if oid not in _OIDS:
        raise ValueError(f"unknown signature algorithm {_oid_text(oid)}")
    algorithm = _OIDS[oid]
    if parameters and (algorithm.scheme is not Scheme.RSA_PKCS1 or parameters != b"\x05\x00"):
        raise ValueError(f"unexpected parameters of {algorithm.name}")
    return algorithm


def _parse_pss(parameters: bytes) -> SignatureAlgorithm:
    """RSASSA-PSS-params (RFC 4055 section 3.1): defaults are SHA-1, MGF1 with SHA-1, salt of 20 octets."""
    rest = _read(parameters, _SEQUENCE)[0] if parameters else b""
    hash_id = mask_hash = HashAlgId.SHA1
    salt = 20
    if rest[:1] == b"\xa0":
        field, rest = _read(rest, 0xA0)
        hash_id = _parse_hash(field)
    if rest[:1] == b"\xa1":
        field, rest = _read(rest, 0xA1)
        mask, tail = _read(_read(field, _SEQUENCE)[0], _OID)
        if mask != _MGF1:
            raise ValueError("RSASSA-PSS with another mask function than MGF1")
        mask_hash = _parse_hash(tail)
    if rest[:1] == b"\xa2":
        field, rest = _read(rest, 0xA2)
        number = _read(field, _INTEGER)[0]
        if not 1 <= len(number) <= 2 or number[0] & 0x80:
            raise ValueError("RSASSA-PSS with an impossible salt length")
        salt = int.from_bytes(number, "big")
    if rest not in (b"", b"\xa3\x03\x02\x01\x01"):
        raise ValueError("RSASSA-PSS with unknown parameters")
    if mask_hash is not hash_id:
        raise ValueError("RSASSA-PSS with different hashes for message and mask")
    return SignatureAlgorithm(Scheme.RSA_PSS, hash_id, None if salt == _DIGEST_OCTETS[hash_id] else salt)


def _parse_hash(data: bytes) -> HashAlgId:
    oid, parameters = _read(_read(data, _SEQUENCE)[0], _OID)
    if oid not in _HASH_OF_OID or parameters not in (b"", b"\x05\x00"):
        raise ValueError(f"unknown hash algorithm {_oid_text(oid)}")
    return _HASH_OF_OID[oid]


def _tlv(tag: int, value: bytes) -> bytes:
    # All objects here are shorter than 128 octets: one length octet.
    return bytes((tag, len(value))) + value


def _read(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """(value, what follows) of the DER object at the start of ``data``, which must have this tag."""
    if len(data) < 2 or data[0] != tag or data[1] > 127 or len(data) < 2 + data[1]:
        raise ValueError("malformed algorithm identifier")
    end = 2 + data[1]
    return data[2:end], data[end:]


def _oid_text(oid: bytes) -> str:
    if not oid:
        return "(empty)"
    arcs, value = [min(oid[0] // 40, 2)], 0
    arcs.append(oid[0] - 40 * arcs[0])
    for octet in oid[1:]:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    return ".".join(map(str, arcs))

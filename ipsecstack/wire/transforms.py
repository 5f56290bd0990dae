"""Transform identifiers of IKE and IPsec, with the names under which people and VICI know them.

Numbers: IANA registry "Internet Key Exchange Version 2 (IKEv2) Parameters" (RFC 7296 section 3.3.2 and the
documents that extend it). Every assigned number is here, whether or not this stack implements it, so that
a proposal of a peer can always be shown in words; the registries of ``ipsecstack.crypto`` say what is
implemented.

``vici_name`` of each member is the spelling of strongSwan's VICI protocol (``AES_GCM_16``, ``ECP_256``).
``PROPOSAL_KEYWORDS`` maps the words of a swanctl.conf proposal (``aes256gcm16``) to transforms.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class _NamedId(IntEnum):
    """An IANA number that also carries its VICI name."""

    vici_name: str

    def __new__(cls, value: int, vici_name: str = "") -> _NamedId:
        member = int.__new__(cls, value)
        member._value_ = value
        member.vici_name = vici_name
        return member


class TransformType(IntEnum):
    """Transform types (RFC 7296 section 3.3.2, RFC 9370 section 2.1)."""

    ENCR = 1
    PRF = 2
    INTEG = 3
    KE = 4
    ESN = 5
    ADDKE1 = 6
    ADDKE2 = 7
    ADDKE3 = 8
    ADDKE4 = 9
    ADDKE5 = 10
    ADDKE6 = 11
    ADDKE7 = 12


class EncrId(_NamedId):
    """Transform type 1, encryption algorithms."""

    DES_IV64 = 1, "DES_IV64"
    DES_CBC = 2, "DES_CBC"
    TRIPLE_DES_CBC = 3, "3DES_CBC"
    RC5_CBC = 4, "RC5_CBC"
    IDEA_CBC = 5, "IDEA_CBC"
    CAST_CBC = 6, "CAST_CBC"
    BLOWFISH_CBC = 7, "BLOWFISH_CBC"
    TRIPLE_IDEA = 8, "3IDEA"
    DES_IV32 = 9, "DES_IV32"
    NULL = 11, "NULL"
    AES_CBC = 12, "AES_CBC"
    AES_CTR = 13, "AES_CTR"
    AES_CCM_8 = 14, "AES_CCM_8"
    AES_CCM_12 = 15, "AES_CCM_12"
    AES_CCM_16 = 16, "AES_CCM_16"
    AES_GCM_8 = 18, "AES_GCM_8"
    AES_GCM_12 = 19, "AES_GCM_12"
    AES_GCM_16 = 20, "AES_GCM_16"
    NULL_AUTH_AES_GMAC = 21, "NULL_AES_GMAC"
    CAMELLIA_CBC = 23, "CAMELLIA_CBC"
    CAMELLIA_CTR = 24, "CAMELLIA_CTR"
    CAMELLIA_CCM_8 = 25, "CAMELLIA_CCM_8"
    CAMELLIA_CCM_12 = 26, "CAMELLIA_CCM_12"
    CAMELLIA_CCM_16 = 27, "CAMELLIA_CCM_16"
    CHACHA20_POLY1305 = 28, "CHACHA20_POLY1305"
    AES_CCM_8_IIV = 29, "AES_CCM_8_IIV"
    AES_GCM_16_IIV = 30, "AES_GCM_16_IIV"
    CHACHA20_POLY1305_IIV = 31, "CHACHA20_POLY1305_IIV"
    KUZNYECHIK_MGM_KTREE = 32, "KUZNYECHIK_MGM_KTREE"
    MAGMA_MGM_KTREE = 33, "MAGMA_MGM_KTREE"
    KUZNYECHIK_MGM_MAC_KTREE = 34, "KUZNYECHIK_MGM_MAC_KTREE"
    MAGMA_MGM_MAC_KTREE = 35, "MAGMA_MGM_MAC_KTREE"


class PrfId(_NamedId):
    """Transform type 2, pseudorandom functions."""

    HMAC_MD5 = 1, "PRF_HMAC_MD5"
    HMAC_SHA1 = 2, "PRF_HMAC_SHA1"
    HMAC_TIGER = 3, "PRF_HMAC_TIGER"
    AES128_XCBC = 4, "PRF_AES128_XCBC"
    HMAC_SHA2_256 = 5, "PRF_HMAC_SHA2_256"
    HMAC_SHA2_384 = 6, "PRF_HMAC_SHA2_384"
    HMAC_SHA2_512 = 7, "PRF_HMAC_SHA2_512"
    AES128_CMAC = 8, "PRF_AES128_CMAC"
    HMAC_STREEBOG_512 = 9, "PRF_HMAC_STREEBOG_512"


class IntegId(_NamedId):
    """Transform type 3, integrity algorithms. NONE goes with combined-mode ciphers."""

    NONE = 0, "NONE"
    HMAC_MD5_96 = 1, "HMAC_MD5_96"
    HMAC_SHA1_96 = 2, "HMAC_SHA1_96"
    DES_MAC = 3, "DES_MAC"
    KPDK_MD5 = 4, "KPDK_MD5"
    AES_XCBC_96 = 5, "AES_XCBC_96"
    HMAC_MD5_128 = 6, "HMAC_MD5_128"
    HMAC_SHA1_160 = 7, "HMAC_SHA1_160"
    AES_CMAC_96 = 8, "AES_CMAC_96"
    AES_128_GMAC = 9, "AES_128_GMAC"
    AES_192_GMAC = 10, "AES_192_GMAC"
    AES_256_GMAC = 11, "AES_256_GMAC"
    HMAC_SHA2_256_128 = 12, "HMAC_SHA2_256_128"
    HMAC_SHA2_384_192 = 13, "HMAC_SHA2_384_192"
    HMAC_SHA2_512_256 = 14, "HMAC_SHA2_512_256"
    # Private use: RFC 2857 has a number in IKEv1's registries only, so this one is the project's own.
    HMAC_RIPEMD_160_96 = 65301, "HMAC_RIPEMD_160_96"


class KeId(_NamedId):
    """Transform type 4, key exchange methods (Diffie-Hellman groups and key encapsulation)."""

    NONE = 0, "MODP_NONE"
    MODP_768 = 1, "MODP_768"
    MODP_1024 = 2, "MODP_1024"
    MODP_1536 = 5, "MODP_1536"
    MODP_2048 = 14, "MODP_2048"
    MODP_3072 = 15, "MODP_3072"
    MODP_4096 = 16, "MODP_4096"
    MODP_6144 = 17, "MODP_6144"
    MODP_8192 = 18, "MODP_8192"
    ECP_256 = 19, "ECP_256"
    ECP_384 = 20, "ECP_384"
    ECP_521 = 21, "ECP_521"
    MODP_1024_160 = 22, "MODP_1024_160"
    MODP_2048_224 = 23, "MODP_2048_224"
    MODP_2048_256 = 24, "MODP_2048_256"
    ECP_192 = 25, "ECP_192"
    ECP_224 = 26, "ECP_224"
    ECP_224_BP = 27, "ECP_224_BP"
    ECP_256_BP = 28, "ECP_256_BP"
    ECP_384_BP = 29, "ECP_384_BP"
    ECP_512_BP = 30, "ECP_512_BP"
    CURVE_25519 = 31, "CURVE_25519"
    CURVE_448 = 32, "CURVE_448"
    GOST3410_2012_256 = 33, "GOST3410_2012_256"
    GOST3410_2012_512 = 34, "GOST3410_2012_512"
    ML_KEM_512 = 35, "ML_KEM_512"
    ML_KEM_768 = 36, "ML_KEM_768"
    ML_KEM_1024 = 37, "ML_KEM_1024"


class EsnId(_NamedId):
    """Transform type 5, sequence numbers: 32 bits, or the 64 bits of RFC 4303 section 2.2.1."""

    NO_ESN = 0, "NO_EXT_SEQ"
    ESN = 1, "EXT_SEQ"


class AuthMethod(_NamedId):
    """Authentication methods of the AUTH payload (RFC 7296 section 3.8, RFC 4754, RFC 7427)."""

    RSA_SIGNATURE = 1, "RSA signature"
    SHARED_KEY_MIC = 2, "pre-shared key"
    DSS_SIGNATURE = 3, "DSS signature"
    ECDSA_P256_SHA256 = 9, "ECDSA-256 signature"
    ECDSA_P384_SHA384 = 10, "ECDSA-384 signature"
    ECDSA_P521_SHA512 = 11, "ECDSA-521 signature"
    GENERIC_SECURE_PASSWORD = 12, "secure password method"
    NULL = 13, "NULL authentication"
    DIGITAL_SIGNATURE = 14, "digital signature"


class HashAlgId(_NamedId):
    """Hash algorithms of the SIGNATURE_HASH_ALGORITHMS notification (RFC 7427 section 7, RFC 8420)."""

    SHA1 = 1, "HASH_SHA1"
    SHA2_256 = 2, "HASH_SHA2_256"
    SHA2_384 = 3, "HASH_SHA2_384"
    SHA2_512 = 4, "HASH_SHA2_512"
    IDENTITY = 5, "HASH_IDENTITY"
    STREEBOG_256 = 6, "HASH_STREEBOG_256"
    STREEBOG_512 = 7, "HASH_STREEBOG_512"


# Attribute type 14 of a transform, the key length in bits (RFC 7296 section 3.3.5).
KEY_LENGTH_ATTRIBUTE = 14

# Encryption transforms that carry the Key Length attribute; for the others it must not appear
# (RFC 7296 section 3.3.5). ChaCha20-Poly1305 has one key length and no attribute (RFC 7634 section 2.1).
KEY_LENGTH_REQUIRED = frozenset(
    {
        EncrId.AES_CBC,
        EncrId.AES_CTR,
        EncrId.AES_CCM_8,
        EncrId.AES_CCM_12,
        EncrId.AES_CCM_16,
        EncrId.AES_GCM_8,
        EncrId.AES_GCM_12,
        EncrId.AES_GCM_16,
        EncrId.NULL_AUTH_AES_GMAC,
        EncrId.CAMELLIA_CBC,
        EncrId.CAMELLIA_CTR,
        EncrId.CAMELLIA_CCM_8,
        EncrId.CAMELLIA_CCM_12,
        EncrId.CAMELLIA_CCM_16,
        EncrId.AES_CCM_8_IIV,
        EncrId.AES_GCM_16_IIV,
        # The attribute is optional with these: 128 bits without it (RFC 2451 section 2.6). It is always sent.
        EncrId.BLOWFISH_CBC,
        EncrId.CAST_CBC,
    }
)

# Combined-mode (authenticated) encryption: no integrity transform beside it but NONE (RFC 7296 section 3.3).
AEAD_ENCR = frozenset(
    {
        EncrId.AES_CCM_8,
        EncrId.AES_CCM_12,
        EncrId.AES_CCM_16,
        EncrId.AES_GCM_8,
        EncrId.AES_GCM_12,
        EncrId.AES_GCM_16,
        EncrId.NULL_AUTH_AES_GMAC,
        EncrId.CAMELLIA_CCM_8,
        EncrId.CAMELLIA_CCM_12,
        EncrId.CAMELLIA_CCM_16,
        EncrId.CHACHA20_POLY1305,
        EncrId.AES_CCM_8_IIV,
        EncrId.AES_GCM_16_IIV,
        EncrId.CHACHA20_POLY1305_IIV,
        EncrId.KUZNYECHIK_MGM_KTREE,
        EncrId.MAGMA_MGM_KTREE,
        EncrId.KUZNYECHIK_MGM_MAC_KTREE,
        EncrId.MAGMA_MGM_MAC_KTREE,
    }
)

_ID_TYPES: dict[int, type[_NamedId]] = {
    TransformType.ENCR: EncrId,
    TransformType.PRF: PrfId,
    TransformType.INTEG: IntegId,
    TransformType.KE: KeId,
    TransformType.ESN: EsnId,
    TransformType.ADDKE1: KeId,
    TransformType.ADDKE2: KeId,
    TransformType.ADDKE3: KeId,
    TransformType.ADDKE4: KeId,
    TransformType.ADDKE5: KeId,
    TransformType.ADDKE6: KeId,
    TransformType.ADDKE7: KeId,
}


def transform_name(transform_type: int, transform_id: int) -> str:
    """The VICI name of a transform, or a spelled-out ``UNKNOWN_<type>_<id>`` for an unassigned number."""
    ids = _ID_TYPES.get(transform_type)
    if ids is not None:
        try:
            return ids(transform_id).vici_name
        except ValueError:
            pass
    return f"UNKNOWN_{transform_type}_{transform_id}"


@dataclass(frozen=True, slots=True)
class ProposalKeyword:
    """What one word of a swanctl proposal stands for; key_bits is None where the transform has no choice."""

    type: TransformType
    id: int
    key_bits: int | None = None


def _keywords() -> dict[str, ProposalKeyword]:
    words: dict[str, ProposalKeyword] = {}

    def add(transform_type: TransformType, transform_id: int, key_bits: int | None, *names: str) -> None:
        # The first name is the canonical one; proposal_keyword() finds it first.
        for name in names:
            words[name] = ProposalKeyword(transform_type, transform_id, key_bits)

    encr, prf, integ, ke = TransformType.ENCR, TransformType.PRF, TransformType.INTEG, TransformType.KE
    icv_bits = {8: 64, 12: 96, 16: 128}
    for bits in (128, 192, 256):
        short = ("aes",) if bits == 128 else ()
        add(encr, EncrId.AES_CBC, bits, f"aes{bits}", *short)
        add(encr, EncrId.AES_CTR, bits, f"aes{bits}ctr")
        short = ("camellia",) if bits == 128 else ()
        add(encr, EncrId.CAMELLIA_CBC, bits, f"camellia{bits}", *short)
        add(encr, EncrId.CAMELLIA_CTR, bits, f"camellia{bits}ctr")
        add(encr, EncrId.NULL_AUTH_AES_GMAC, bits, f"aes{bits}gmac")
        for mode, sizes in (
            ("gcm", {16: EncrId.AES_GCM_16, 12: EncrId.AES_GCM_12, 8: EncrId.AES_GCM_8}),
            ("ccm", {16: EncrId.AES_CCM_16, 12: EncrId.AES_CCM_12, 8: EncrId.AES_CCM_8}),
        ):
            for icv, encr_id in sizes.items():
                bare = (f"aes{bits}{mode}",) if icv == 16 else ()
                add(encr, encr_id, bits, f"aes{bits}{mode}{icv}", f"aes{bits}{mode}{icv_bits[icv]}", *bare)
        for icv, encr_id in (
            (16, EncrId.CAMELLIA_CCM_16),
            (12, EncrId.CAMELLIA_CCM_12),
            (8, EncrId.CAMELLIA_CCM_8),
        ):
            add(encr, encr_id, bits, f"camellia{bits}ccm{icv}", f"camellia{bits}ccm{icv_bits[icv]}")
        short = ("blowfish",) if bits == 128 else ()
        add(encr, EncrId.BLOWFISH_CBC, bits, f"blowfish{bits}", *short)
    add(encr, EncrId.CHACHA20_POLY1305, None, "chacha20poly1305")
    add(encr, EncrId.TRIPLE_DES_CBC, None, "3des")
    add(encr, EncrId.DES_CBC, None, "des")
    add(encr, EncrId.DES_IV32, None, "des_iv32")
    add(encr, EncrId.DES_IV64, None, "des_iv64")
    add(encr, EncrId.IDEA_CBC, None, "idea")
    add(encr, EncrId.CAST_CBC, 128, "cast128")
    add(encr, EncrId.NULL, None, "null")

    add(integ, IntegId.HMAC_MD5_96, None, "md5")
    add(integ, IntegId.HMAC_MD5_128, None, "md5_128")
    add(integ, IntegId.HMAC_SHA1_96, None, "sha1", "sha")
    add(integ, IntegId.HMAC_SHA1_160, None, "sha1_160")
    add(integ, IntegId.HMAC_SHA2_256_128, None, "sha256", "sha2_256")
    add(integ, IntegId.HMAC_SHA2_384_192, None, "sha384", "sha2_384")
    add(integ, IntegId.HMAC_SHA2_512_256, None, "sha512", "sha2_512")
    add(integ, IntegId.AES_XCBC_96, None, "aesxcbc")
    add(integ, IntegId.AES_CMAC_96, None, "aescmac")
    add(integ, IntegId.HMAC_RIPEMD_160_96, None, "ripemd160")
    add(integ, IntegId.KPDK_MD5, None, "keyed_md5")
    # As integrity of AH; in an ESP proposal "aes128gmac" is the cipher that does not encrypt.
    for bits in (128, 192, 256):
        add(integ, IntegId[f"AES_{bits}_GMAC"], None, f"ah_aes{bits}gmac")

    add(prf, PrfId.HMAC_MD5, None, "prfmd5")
    add(prf, PrfId.HMAC_SHA1, None, "prfsha1", "prfsha")
    add(prf, PrfId.HMAC_SHA2_256, None, "prfsha256")
    add(prf, PrfId.HMAC_SHA2_384, None, "prfsha384")
    add(prf, PrfId.HMAC_SHA2_512, None, "prfsha512")
    add(prf, PrfId.AES128_XCBC, None, "prfaesxcbc")
    add(prf, PrfId.AES128_CMAC, None, "prfaescmac")

    add(ke, KeId.NONE, None, "modpnone", "none")
    for modp in (768, 1024, 1536, 2048, 3072, 4096, 6144, 8192):
        add(ke, KeId[f"MODP_{modp}"], None, f"modp{modp}")
    add(ke, KeId.MODP_1024_160, None, "modp1024s160")
    add(ke, KeId.MODP_2048_224, None, "modp2048s224")
    add(ke, KeId.MODP_2048_256, None, "modp2048s256")
    for ecp in (192, 224, 256, 384, 521):
        add(ke, KeId[f"ECP_{ecp}"], None, f"ecp{ecp}")
    for brainpool in (224, 256, 384, 512):
        add(ke, KeId[f"ECP_{brainpool}_BP"], None, f"ecp{brainpool}bp")
    add(ke, KeId.CURVE_25519, None, "x25519", "curve25519")
    add(ke, KeId.CURVE_448, None, "x448", "curve448")
    for ml_kem in (512, 768, 1024):
        add(ke, KeId[f"ML_KEM_{ml_kem}"], None, f"mlkem{ml_kem}")

    add(TransformType.ESN, EsnId.NO_ESN, None, "noesn")
    add(TransformType.ESN, EsnId.ESN, None, "esn")
    return words


# swanctl.conf(5) proposal words, lower case. A word "ke<n>_<method>" for an additional key exchange
# (RFC 9370) is understood by parse_keyword().
PROPOSAL_KEYWORDS: dict[str, ProposalKeyword] = _keywords()

# Hash transforms double as integrity words in swanctl ("sha256" in an AEAD IKE proposal names the PRF):
# the PRF that goes with an integrity transform when a proposal names none (swanctl.conf(5)).
PRF_OF_INTEG: dict[IntegId, PrfId] = {
    IntegId.HMAC_MD5_96: PrfId.HMAC_MD5,
    IntegId.HMAC_MD5_128: PrfId.HMAC_MD5,
    IntegId.HMAC_SHA1_96: PrfId.HMAC_SHA1,
    IntegId.HMAC_SHA1_160: PrfId.HMAC_SHA1,
    IntegId.AES_XCBC_96: PrfId.AES128_XCBC,
    IntegId.AES_CMAC_96: PrfId.AES128_CMAC,
    IntegId.HMAC_SHA2_256_128: PrfId.HMAC_SHA2_256,
    IntegId.HMAC_SHA2_384_192: PrfId.HMAC_SHA2_384,
    IntegId.HMAC_SHA2_512_256: PrfId.HMAC_SHA2_512,
}


def parse_keyword(word: str) -> ProposalKeyword:
    """The transform that a swanctl proposal word names; ValueError with the word when there is none."""
    text = word.strip().lower()
    found = PROPOSAL_KEYWORDS.get(text)
    if found is not None:
        return found
    prefix, _, method = text.partition("_")
    if len(prefix) == 3 and prefix.startswith("ke") and prefix[2] in "1234567":
        extra = PROPOSAL_KEYWORDS.get(method)
        if extra is not None and extra.type is TransformType.KE:
            return ProposalKeyword(TransformType(TransformType.ADDKE1 + int(prefix[2]) - 1), extra.id)
    raise ValueError(f"unknown proposal keyword {word!r}")


def proposal_keyword(transform_type: int, transform_id: int, key_bits: int | None = None) -> str:
    """The canonical swanctl word of a transform; ValueError where swanctl has no word for it."""
    for word, what in PROPOSAL_KEYWORDS.items():
        if what.id == transform_id and what.type == transform_type and what.key_bits == key_bits:
            return word
    if TransformType.ADDKE1 <= transform_type <= TransformType.ADDKE7:
        return f"ke{transform_type - 5}_{proposal_keyword(TransformType.KE, transform_id)}"
    raise ValueError(
        f"no proposal keyword for {transform_name(transform_type, transform_id)} with key length {key_bits}"
    )

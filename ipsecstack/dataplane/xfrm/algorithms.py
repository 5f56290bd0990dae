"""The kernel's names of algorithms, and what an SA's keys look like to it.

The kernel loads a module for an algorithm when the first SA asks for it; whether it has one is known only then.
"""

from __future__ import annotations

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.xfrm.codec import Algorithm
from ipsecstack.dataplane.xfrm.numbers import Attribute
from ipsecstack.ipsec.sa import SaDescription, SecurityProtocol
from ipsecstack.wire.transforms import EncrId, IntegId

# Combined modes: the key is followed by the salt, as in keying material (RFC 4106 §8.1). The ICV's length is in bits.
AEAD: dict[EncrId, tuple[str, int]] = {
    EncrId.AES_GCM_8: ("rfc4106(gcm(aes))", 64),
    EncrId.AES_GCM_12: ("rfc4106(gcm(aes))", 96),
    EncrId.AES_GCM_16: ("rfc4106(gcm(aes))", 128),
    EncrId.AES_CCM_8: ("rfc4309(ccm(aes))", 64),
    EncrId.AES_CCM_12: ("rfc4309(ccm(aes))", 96),
    EncrId.AES_CCM_16: ("rfc4309(ccm(aes))", 128),
    EncrId.NULL_AUTH_AES_GMAC: ("rfc4543(gcm(aes))", 128),
    EncrId.CHACHA20_POLY1305: ("rfc7539esp(chacha20,poly1305)", 128),
}

CIPHERS: dict[EncrId, str] = {
    EncrId.NULL: "ecb(cipher_null)",
    EncrId.AES_CBC: "cbc(aes)",
    EncrId.AES_CTR: "rfc3686(ctr(aes))",  # the nonce follows the key
    EncrId.CAMELLIA_CBC: "cbc(camellia)",
    EncrId.TRIPLE_DES_CBC: "cbc(des3_ede)",
    EncrId.DES_CBC: "cbc(des)",
    EncrId.CAST_CBC: "cbc(cast5)",
    EncrId.BLOWFISH_CBC: "cbc(blowfish)",
}

INTEGRITY: dict[IntegId, tuple[str, int]] = {
    IntegId.HMAC_MD5_96: ("hmac(md5)", 96),
    IntegId.HMAC_MD5_128: ("hmac(md5)", 128),
    IntegId.HMAC_SHA1_96: ("hmac(sha1)", 96),
    IntegId.HMAC_SHA1_160: ("hmac(sha1)", 160),
    IntegId.HMAC_SHA2_256_128: ("hmac(sha256)", 128),
    IntegId.HMAC_SHA2_384_192: ("hmac(sha384)", 192),
    IntegId.HMAC_SHA2_512_256: ("hmac(sha512)", 256),
    IntegId.HMAC_RIPEMD_160_96: ("hmac(rmd160)", 96),
    IntegId.AES_XCBC_96: ("xcbc(aes)", 96),
    IntegId.AES_CMAC_96: ("cmac(aes)", 96),
}


def algorithms_of(sa: SaDescription) -> tuple[Algorithm, ...]:
    """What protects this SA, keys included. DataPlaneError for an algorithm that no kernel has."""
    if sa.protocol is SecurityProtocol.AH:
        if sa.integ is IntegId.NONE:
            raise DataPlaneError("AH needs an integrity algorithm: name one in ah_proposals")
        return (_integrity(sa),)
    if sa.encr in AEAD:
        name, bits = AEAD[sa.encr]
        return (Algorithm(Attribute.ALG_AEAD, name, sa.key_encr, bits),)
    if sa.encr not in CIPHERS:
        raise _missing("encryption", sa.encr.vici_name)
    cipher = Algorithm(Attribute.ALG_CRYPT, CIPHERS[sa.encr], sa.key_encr)
    return (cipher,) if sa.integ is IntegId.NONE else (cipher, _integrity(sa))


def _integrity(sa: SaDescription) -> Algorithm:
    if sa.integ not in INTEGRITY:
        raise _missing("integrity", sa.integ.vici_name)
    name, bits = INTEGRITY[sa.integ]
    if sa.sha256_96 and sa.integ is IntegId.HMAC_SHA2_256_128:
        bits = 96
    return Algorithm(Attribute.ALG_AUTH_TRUNC, name, sa.key_integ, bits)


def _missing(kind: str, name: str) -> DataPlaneError:
    return DataPlaneError(
        f"the kernel has no {kind} algorithm {name}: propose another one, or use dataplane = tun"
    )


DEFLATE = Algorithm(Attribute.ALG_COMP, "deflate")

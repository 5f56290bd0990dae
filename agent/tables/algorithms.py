"""Algorithm names of VICI (strongSwan's words) as the numbers that the MIBs publish.

CISCO-IPSEC-FLOW-MONITOR-MIB knows the algorithms of 1999; each function says which published value stands for the
later ones (docs/mibs has the table). The exact names are in IPSEC-GATEWAY-MIB.
"""

from __future__ import annotations

# name -> (IpsecDoiEspTransform, key length in bits where VICI does not say one)
ESP_TRANSFORMS: dict[str, tuple[int, int]] = {
    "DES_IV64": (1, 64),
    "DES": (2, 64),
    "DES_CBC": (2, 64),
    "3DES_CBC": (3, 192),
    "RC5_CBC": (4, 128),
    "IDEA_CBC": (5, 128),
    "CAST_CBC": (6, 128),
    "BLOWFISH_CBC": (7, 128),
    "3IDEA": (8, 384),
    "DES_IV32": (9, 64),
    "NULL": (11, 0),
    "AES_CBC": (12, 128),
    "AES_CTR": (13, 128),
    "AES_CCM_8": (14, 128),
    "AES_CCM_12": (15, 128),
    "AES_CCM_16": (16, 128),
    "AES_GCM_8": (18, 128),
    "AES_GCM_12": (19, 128),
    "AES_GCM_16": (20, 128),
    "CAMELLIA_CBC": (22, 128),
    "NULL_AES_GMAC": (23, 128),
    "CAMELLIA_CTR": (24, 128),
    "CAMELLIA_CCM_8": (25, 128),
    "CAMELLIA_CCM_12": (26, 128),
    "CAMELLIA_CCM_16": (27, 128),
    "CHACHA20_POLY1305": (28, 256),
}

# name without truncation -> (IpsecDoiAuthAlgorithm, IpsecDoiAhTransform, key length in bits). AES-CMAC has no number.
INTEGRITY: dict[str, tuple[int, int, int]] = {
    "HMAC_MD5": (1, 2, 128),
    "HMAC_SHA1": (2, 3, 160),
    "DES_MAC": (3, 4, 64),
    "KPDK_MD5": (4, 2, 128),
    "HMAC_SHA2_256": (5, 5, 256),
    "HMAC_SHA2_384": (6, 6, 384),
    "HMAC_SHA2_512": (7, 7, 512),
    "HMAC_RIPEMD_160": (8, 8, 160),
    "AES_XCBC": (9, 9, 128),
    "AES_128_GMAC": (11, 11, 128),
    "AES_192_GMAC": (12, 12, 192),
    "AES_256_GMAC": (13, 13, 256),
}


def esp_transform(name: str | None) -> int | None:
    """IpsecDoiEspTransform; None for an unknown name, none(0) where the SA has no cipher."""
    if name is None:
        return None
    found = ESP_TRANSFORMS.get(name)
    return found[0] if found else None


def esp_key_bits(name: str | None, bits: int | None) -> int | None:
    """Length of the encryption key in bits."""
    if bits is not None:
        return bits
    found = ESP_TRANSFORMS.get(name or "")
    return found[1] if found else None


def integrity(name: str | None) -> tuple[int, int, int] | None:
    """(IpsecDoiAuthAlgorithm, IpsecDoiAhTransform, key bits) of a possibly truncated algorithm."""
    if name is None:
        return None
    return INTEGRITY.get(name) or INTEGRITY.get(name.rsplit("_", 1)[0])


# --- CISCO-IPSEC-FLOW-MONITOR-MIB -------------------------------------------------------------------------------------


def flow_dh_group(name: str | None) -> str | None:
    """DiffHellmanGrp: groups 1 and 2 are themselves, dhGroup2 stands for every stronger one."""
    if name is None:
        return None
    return {"MODP_NONE": "none", "NONE": "none", "MODP_768": "dhGroup1"}.get(name, "dhGroup2")


def flow_cipher(name: str | None) -> str | None:
    """EncryptAlgo: des is itself, des3 stands for every stronger cipher, none for NULL with or without GMAC."""
    if name is None:
        return None
    if name in ("NULL", "NULL_AES_GMAC"):
        return "none"
    return "des" if name in ("DES", "DES_CBC", "DES_IV64", "DES_IV32") else "des3"


def flow_hash(prf: str | None, integ: str | None) -> str | None:
    """IkeHashAlgo of an IKE SA: md5 is itself, sha stands for SHA-1 and everything else."""
    name = integ or prf
    if name is None:
        return None
    return "md5" if "MD5" in name else "sha"


def flow_auth(encr: str | None, integ: str | None) -> str | None:
    """AuthAlgo of an IPsec SA: none with a combined-mode cipher, hmacSha stands for SHA-1 and everything else."""
    if integ is None:
        return "none" if encr is not None else None
    return "hmacMd5" if "MD5" in integ else "hmacSha"


def flow_auth_method(name: str | None) -> str | None:
    """IkeAuthMethod: rsaSig stands for every kind of signature, none for EAP and XAuth."""
    if name is None:
        return None
    if name in ("psk", "pre-shared key"):
        return "preSharedKey"
    return "none" if name in ("eap", "xauth", "any") else "rsaSig"

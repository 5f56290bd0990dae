"""Keys of IKE and Child SAs (RFC 7296 §2.14, §2.17, §2.18), and their export for tshark when that is switched on."""

from __future__ import annotations

from collections.abc import Sequence

from ipsecstack.crypto import encr, ikekeys, integ, prf
from ipsecstack.crypto.ikekeys import ChildKeys
from ipsecstack.ipsec.sa import SaDescription
from ipsecstack.keyex.base import KeysDerived
from ipsecstack.keyex.ikev2.proposals import Suite
from ipsecstack.keyex.ikev2.protect import Protection
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.wire.transforms import EncrId, IntegId


def protect_initial(sa: IkeSa, suite: Suite, shared: bytes, ni: bytes, nr: bytes) -> None:
    """Keys of a new IKE SA from its IKE_SA_INIT exchange."""
    assert suite.prf is not None
    _protect(sa, suite, ikekeys.skeyseed(prf.get(suite.prf), ni, nr, shared), ni, nr)


def protect_seeded(sa: IkeSa, suite: Suite, seed: bytes, ni: bytes, nr: bytes) -> None:
    """Keys of a resumed IKE SA, from its own SKEYSEED (RFC 5723 §5.1)."""
    _protect(sa, suite, seed, ni, nr)


def protect_additional(sa: IkeSa, shared: bytes, ni: bytes, nr: bytes) -> None:
    """New keys of an IKE SA after an additional key exchange in IKE_INTERMEDIATE (RFC 9370 §2.2.2)."""
    assert sa.suite is not None
    assert sa.prf is not None
    assert sa.keys is not None
    _protect(sa, sa.suite, ikekeys.skeyseed_additional(sa.prf, sa.keys.sk_d, shared, ni, nr), ni, nr)


def protect_rekeyed(
    old: IkeSa, new: IkeSa, suite: Suite, shared: bytes, ni: bytes, nr: bytes, more: Sequence[bytes] = ()
) -> None:
    """Keys of an IKE SA that replaces ``old``; ``more`` are the secrets of additional key exchanges."""
    assert old.prf is not None
    assert old.keys is not None
    _protect(new, suite, ikekeys.skeyseed_rekey(old.prf, old.keys.sk_d, shared, ni, nr, more), ni, nr)


def _protect(sa: IkeSa, suite: Suite, seed: bytes, ni: bytes, nr: bytes) -> None:
    assert suite.prf is not None
    cipher = encr.get(suite.encr, suite.key_bits)
    mac = integ.get(suite.integ)
    sa.suite = suite
    sa.prf = prf.get(suite.prf)
    sa.keys = ikekeys.ike_keys(sa.prf, cipher, mac, seed, ni, nr, sa.spi_i, sa.spi_r)
    sa.protection = Protection(cipher, mac, sa.keys, sa.initiator, sa.host.random)
    if sa.host.options.export_keys:
        sa.host.emit(KeysDerived("ikev2_decryption_table", _ike_line(sa, suite)))


def for_child(
    sa: IkeSa, suite: Suite, ni: bytes, nr: bytes, shared: bytes, more: Sequence[bytes] = ()
) -> ChildKeys:
    """KEYMAT of a Child SA; ``more`` are the secrets of additional key exchanges."""
    assert sa.prf is not None
    assert sa.keys is not None
    cipher = encr.get(suite.encr, suite.key_bits)
    return ikekeys.child_keys(sa.prf, sa.keys.sk_d, cipher, integ.get(suite.integ), ni, nr, shared, more)


_IKE_ICV = {
    EncrId.AES_GCM_8: 8, EncrId.AES_GCM_12: 12, EncrId.AES_GCM_16: 16,
    EncrId.AES_CCM_8: 8, EncrId.AES_CCM_12: 12, EncrId.AES_CCM_16: 16,
}  # fmt: skip
_IKE_INTEG = {
    IntegId.NONE: "NONE [RFC4306]",
    IntegId.HMAC_MD5_96: "HMAC_MD5_96 [RFC2403]",
    IntegId.HMAC_MD5_128: "HMAC_MD5_128 [RFC4595]",
    IntegId.HMAC_SHA1_96: "HMAC_SHA1_96 [RFC2404]",
    IntegId.HMAC_SHA1_160: "HMAC_SHA1_160 [RFC4595]",
    IntegId.HMAC_SHA2_256_128: "HMAC_SHA2_256_128 [RFC4868]",
    IntegId.HMAC_SHA2_384_192: "HMAC_SHA2_384_192 [RFC4868]",
    IntegId.HMAC_SHA2_512_256: "HMAC_SHA2_512_256 [RFC4868]",
}
_ESP_CIPHER = {
    EncrId.AES_CBC: "AES-CBC [RFC3602]",
    EncrId.AES_CTR: "AES-CTR [RFC3686]",
    EncrId.NULL: "NULL",
    EncrId.CHACHA20_POLY1305: "ChaCha20 with Poly1305 [RFC7634]",
    EncrId.DES_CBC: "DES-CBC [RFC2405]",
    EncrId.TRIPLE_DES_CBC: "TripleDES-CBC [RFC2451]",
    EncrId.BLOWFISH_CBC: "BLOWFISH-CBC [RFC2451]",
    EncrId.CAST_CBC: "CAST5-CBC [RFC2144]",
}
_UNCHECKED = "ANY {} bit authentication [no checking]"  # tshark needs to know how long it is
_ESP_INTEG = {
    IntegId.HMAC_MD5_96: "HMAC-MD5-96 [RFC2403]",
    IntegId.HMAC_MD5_128: _UNCHECKED.format(128),
    IntegId.HMAC_SHA1_96: "HMAC-SHA-1-96 [RFC2404]",
    IntegId.HMAC_RIPEMD_160_96: "MAC-RIPEMD-160-96 [RFC2857]",
    IntegId.AES_XCBC_96: _UNCHECKED.format(96),
    IntegId.AES_CMAC_96: _UNCHECKED.format(96),
    IntegId.HMAC_SHA2_256_128: "HMAC-SHA-256-128 [RFC4868]",
    IntegId.HMAC_SHA2_384_192: "HMAC-SHA-384-192 [RFC4868]",
    IntegId.HMAC_SHA2_512_256: "HMAC-SHA-512-256 [RFC4868]",
}


def _ike_line(sa: IkeSa, suite: Suite) -> str:
    assert sa.keys is not None
    keys = sa.keys
    if suite.encr in _IKE_ICV:
        kind = "GCM" if "GCM" in suite.encr.name else "CCM"
        cipher = f"AES-{kind}-{suite.key_bits} with {_IKE_ICV[suite.encr]} octet ICV [RFC5282]"
    elif suite.encr is EncrId.AES_CTR:
        cipher = f"AES-CTR-{suite.key_bits} [RFC5930]"
    elif suite.encr is EncrId.TRIPLE_DES_CBC:
        cipher = "3DES [RFC2451]"
    elif suite.encr is EncrId.AES_CBC:
        cipher = f"AES-CBC-{suite.key_bits} [RFC3602]"
    else:
        cipher = suite.encr.vici_name  # tshark knows no such cipher; the line still tells a person
    mac = _IKE_INTEG.get(suite.integ, suite.integ.vici_name)
    return (
        f'{sa.spi_i.hex()},{sa.spi_r.hex()},{keys.sk_ei.hex()},{keys.sk_er.hex()},"{cipher}",'
        f'{keys.sk_ai.hex()},{keys.sk_ar.hex()},"{mac}"'
    )


def esp_line(sa: SaDescription) -> str:
    """A line of tshark's esp_sa table."""
    if sa.encr in (EncrId.AES_GCM_8, EncrId.AES_GCM_12, EncrId.AES_GCM_16):
        bits = {EncrId.AES_GCM_8: 64, EncrId.AES_GCM_12: 96, EncrId.AES_GCM_16: 128}[sa.encr]
        cipher, mac = f"AES-GCM with {bits // 8} octet ICV [RFC4106]", "NULL"
    else:
        cipher = _ESP_CIPHER.get(sa.encr, sa.encr.vici_name)
        mac = _ESP_INTEG.get(sa.integ, "NULL")
        if sa.sha256_96 and sa.integ is IntegId.HMAC_SHA2_256_128:
            mac = "HMAC-SHA-256-96 [draft-ietf-ipsec-ciph-sha-256-00]"
    family = "IPv6" if sa.destination.host.version == 6 else "IPv4"
    key = f"0x{sa.key_encr.hex()}" if sa.key_encr else ""
    mac_key = f"0x{sa.key_integ.hex()}" if sa.key_integ else ""
    extended = "64-bit" if sa.esn else "32-bit"
    return (
        f'"{family}","{sa.source.host}","{sa.destination.host}","0x{sa.spi:08x}","{cipher}","{key}",'
        f'"{mac}","{mac_key}","{extended}"'
    )

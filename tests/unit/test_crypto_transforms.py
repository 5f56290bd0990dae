"""Names of transforms: numbers, VICI names and swanctl words."""

from __future__ import annotations

import pytest

from ipsecstack.crypto import encr, integ, ke, prf
from ipsecstack.wire.transforms import (
    KEY_LENGTH_REQUIRED,
    PROPOSAL_KEYWORDS,
    EncrId,
    EsnId,
    IntegId,
    KeId,
    PrfId,
    TransformType,
    parse_keyword,
    proposal_keyword,
    transform_name,
)


@pytest.mark.parametrize(
    "word,transform_type,transform_id,bits,name",
    [
        ("aes256gcm16", TransformType.ENCR, EncrId.AES_GCM_16, 256, "AES_GCM_16"),
        ("aes128gcm128", TransformType.ENCR, EncrId.AES_GCM_16, 128, "AES_GCM_16"),
        ("aes128", TransformType.ENCR, EncrId.AES_CBC, 128, "AES_CBC"),
        ("chacha20poly1305", TransformType.ENCR, EncrId.CHACHA20_POLY1305, None, "CHACHA20_POLY1305"),
        ("3des", TransformType.ENCR, EncrId.TRIPLE_DES_CBC, None, "3DES_CBC"),
        ("sha256", TransformType.INTEG, IntegId.HMAC_SHA2_256_128, None, "HMAC_SHA2_256_128"),
        ("prfsha384", TransformType.PRF, PrfId.HMAC_SHA2_384, None, "PRF_HMAC_SHA2_384"),
        ("curve25519", TransformType.KE, KeId.CURVE_25519, None, "CURVE_25519"),
        ("X25519", TransformType.KE, KeId.CURVE_25519, None, "CURVE_25519"),
        ("ecp521", TransformType.KE, KeId.ECP_521, None, "ECP_521"),
        ("modp2048", TransformType.KE, KeId.MODP_2048, None, "MODP_2048"),
        ("esn", TransformType.ESN, EsnId.ESN, None, "EXT_SEQ"),
        ("noesn", TransformType.ESN, EsnId.NO_ESN, None, "NO_EXT_SEQ"),
        ("ke2_mlkem768", TransformType.ADDKE2, KeId.ML_KEM_768, None, "ML_KEM_768"),
    ],
)
def test_words(word: str, transform_type: int, transform_id: int, bits: int | None, name: str) -> None:
    found = parse_keyword(word)
    assert (found.type, found.id, found.key_bits) == (transform_type, transform_id, bits)
    assert transform_name(found.type, found.id) == name
    assert parse_keyword(proposal_keyword(found.type, found.id, found.key_bits)) == found


@pytest.mark.parametrize("word", ["", "aes512", "ke8_mlkem768", "ke1_aes128", "ke1_", "sha999"])
def test_unknown_words(word: str) -> None:
    with pytest.raises(ValueError, match="unknown proposal keyword"):
        parse_keyword(word)


def test_every_implemented_transform_has_a_word() -> None:
    words = {(w.type, w.id, w.key_bits or 0) for w in PROPOSAL_KEYWORDS.values()}
    for algorithm in encr.registered():
        bits = algorithm.key_bits if algorithm.id in KEY_LENGTH_REQUIRED else 0
        assert (TransformType.ENCR, algorithm.id, bits) in words
    for function in prf.registered():
        assert (TransformType.PRF, function.id, 0) in words
    for mac in integ.registered():
        assert mac.id is IntegId.NONE or (TransformType.INTEG, mac.id, 0) in words
    for group in ke.registered():
        assert (TransformType.KE, group.id, 0) in words


def test_unassigned_numbers_are_shown_as_such() -> None:
    assert transform_name(TransformType.ENCR, 1000) == "UNKNOWN_1_1000"
    assert transform_name(77, 1) == "UNKNOWN_77_1"
    with pytest.raises(ValueError, match="no proposal keyword"):
        proposal_keyword(TransformType.PRF, PrfId.HMAC_TIGER)

"""Wycheproof's sets for the algorithms that are in, run where the folder with them is to be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ipsecstack.crypto import algorithm_identifier, auth, encr, integ, ke, ml_kem, prf
from ipsecstack.crypto.algorithm_identifier import Scheme, SignatureAlgorithm
from ipsecstack.crypto.encr import AeadCipher
from ipsecstack.crypto.errors import AuthError, IntegrityError, KeError
from ipsecstack.wire.transforms import AuthMethod, EncrId, HashAlgId, IntegId, KeId, PrfId

FOLDER = Path(__file__).parents[3] / "shared" / "vectors" / "wycheproof"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="Wycheproof vectors not present beside the repository (../shared/vectors)"
)


def groups(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"wycheproof_{name}_test.json").read_text())[
        "testGroups"
    ]
    return found


@pytest.mark.parametrize(
    "name,encr_id", [("aes_gcm", EncrId.AES_GCM_16), ("chacha20_poly1305", EncrId.CHACHA20_POLY1305)]
)
def test_aead(name: str, encr_id: EncrId) -> None:
    """Nonces of 96 bits and tags of 128, which is all that ESP and IKE use; the nonce's first octets are the salt."""
    valid = invalid = 0
    for group in groups(name):
        if (group["ivSize"], group["tagSize"]) != (96, 128):
            continue
        algorithm = encr.get(encr_id, group["keySize"])
        for case in group["tests"]:
            nonce = bytes.fromhex(case["iv"])
            cipher = algorithm.new(bytes.fromhex(case["key"]) + nonce[:4])
            assert isinstance(cipher, AeadCipher)
            aad, message = bytes.fromhex(case["aad"]), bytes.fromhex(case["msg"])
            sealed = bytes.fromhex(case["ct"] + case["tag"])
            if case["result"] == "valid":
                assert cipher.open(nonce[4:], aad, sealed) == message, case["tcId"]
                assert cipher.seal(nonce[4:], aad, message) == sealed, case["tcId"]
                valid += 1
            else:
                with pytest.raises(IntegrityError):
                    cipher.open(nonce[4:], aad, sealed)
                invalid += 1
    assert valid > 50
    assert invalid > 20


@pytest.mark.parametrize(
    "name,integ_id",
    [
        ("hmac_sha256", IntegId.HMAC_SHA2_256_128),
        ("hmac_sha384", IntegId.HMAC_SHA2_384_192),
        ("hmac_sha512", IntegId.HMAC_SHA2_512_256),
        ("hmac_sha1", IntegId.HMAC_SHA1_96),
    ],
)
def test_hmac(name: str, integ_id: IntegId) -> None:
    """Keys of the length that the transform fixes; tags at least as long as the ICV, whose start it is."""
    algorithm, valid, invalid = integ.get(integ_id), 0, 0
    for group in groups(name):
        if group["keySize"] != 8 * algorithm.key_octets or group["tagSize"] < 8 * algorithm.icv_octets:
            continue
        for case in group["tests"]:
            mac = algorithm.new(bytes.fromhex(case["key"]))
            tag = bytes.fromhex(case["tag"])
            if case["result"] == "valid":
                assert mac.verify(tag[: algorithm.icv_octets], bytes.fromhex(case["msg"])), case["tcId"]
                valid += 1
            elif len(tag) == algorithm.icv_octets:
                assert not mac.verify(tag, bytes.fromhex(case["msg"])), case["tcId"]
                invalid += 1
    few = algorithm.id == IntegId.HMAC_SHA1_96
    assert valid > 20 or few
    assert invalid > 10 or few


@pytest.mark.parametrize(
    "name,ke_id",
    [
        ("ecdh_secp256r1_ecpoint", KeId.ECP_256),
        ("ecdh_secp384r1_ecpoint", KeId.ECP_384),
        ("ecdh_secp521r1_ecpoint", KeId.ECP_521),
    ],
)
def test_ecdh(name: str, ke_id: KeId) -> None:
    """Uncompressed points only: IKE has no other form, the leading octet 4 is not on its wire."""
    group_of, valid, invalid = ke.get(ke_id), 0, 0
    for group in groups(name):
        for case in group["tests"]:
            public = bytes.fromhex(case["public"])
            if not public or public[0] != 4:
                continue
            before = int(case["private"], 16) - 1
            own = group_of.generate(lambda count, value=before: value.to_bytes(count, "big"))
            if case["result"] == "valid":
                assert own.shared(public[1:]).hex() == case["shared"], case["tcId"]
                valid += 1
            elif case["result"] == "invalid":
                with pytest.raises(KeError):
                    own.shared(public[1:])
                invalid += 1
    assert valid > 50
    assert invalid > 5


def test_x25519() -> None:
    agreed = refused = 0
    for group in groups("x25519"):
        for case in group["tests"]:
            private = bytes.fromhex(case["private"])
            own = ke.get(KeId.CURVE_25519).generate(lambda count, value=private: value[:count])
            public = bytes.fromhex(case["public"])
            if set(case["shared"]) == {"0"}:
                with pytest.raises(KeError):
                    own.shared(public)
                refused += 1
            else:
                assert own.shared(public).hex() == case["shared"], case["tcId"]
                agreed += 1
    assert agreed > 400
    assert refused > 5


def test_x448() -> None:
    agreed = refused = 0
    for group in groups("x448"):
        for case in group["tests"]:
            private, public = bytes.fromhex(case["private"]), bytes.fromhex(case["public"])
            own = ke.get(KeId.CURVE_448).generate(lambda count, value=private: value[:count])
            if len(public) != 56 or set(case["shared"]) == {"0"}:
                with pytest.raises(KeError):
                    own.shared(public)
                refused += 1
            else:
                assert own.shared(public).hex() == case["shared"], case["tcId"]
                agreed += 1
    assert agreed > 400
    assert refused > 5


def test_aes_ccm() -> None:
    """Nonces of 88 bits, of which the first 24 are the salt, and the three lengths of the ICV."""
    ids = {64: EncrId.AES_CCM_8, 96: EncrId.AES_CCM_12, 128: EncrId.AES_CCM_16}
    valid = invalid = 0
    for group in groups("aes_ccm"):
        if group["ivSize"] != 88 or group["tagSize"] not in ids:
            continue
        algorithm = encr.get(ids[group["tagSize"]], group["keySize"])
        for case in group["tests"]:
            nonce = bytes.fromhex(case["iv"])
            cipher = algorithm.new(bytes.fromhex(case["key"]) + nonce[:3])
            aad, message = bytes.fromhex(case["aad"]), bytes.fromhex(case["msg"])
            sealed = bytes.fromhex(case["ct"] + case["tag"])
            if case["result"] == "valid":
                assert cipher.open(nonce[3:], aad, sealed) == message, case["tcId"]
                assert cipher.seal(nonce[3:], aad, message) == sealed, case["tcId"]
                valid += 1
            else:
                with pytest.raises(IntegrityError):
                    cipher.open(nonce[3:], aad, sealed)
                invalid += 1
    assert valid + invalid > 5


def test_aes_gmac() -> None:
    """As AH has it: IV and tag together are the ICV."""
    ids = {128: IntegId.AES_128_GMAC, 192: IntegId.AES_192_GMAC, 256: IntegId.AES_256_GMAC}
    valid = invalid = 0
    for group in groups("aes_gmac"):
        if (group["ivSize"], group["tagSize"]) != (96, 128):
            continue
        algorithm = integ.get(ids[group["keySize"]])
        for case in group["tests"]:
            nonce, message = bytes.fromhex(case["iv"]), bytes.fromhex(case["msg"])
            mac = algorithm.new(bytes.fromhex(case["key"]) + nonce[:4])
            icv = nonce[4:] + bytes.fromhex(case["tag"])
            assert mac.verify(icv, message) == (case["result"] == "valid"), case["tcId"]
            valid, invalid = valid + (case["result"] == "valid"), invalid + (case["result"] != "valid")
    assert valid > 40
    assert invalid > 20


def test_aes_cmac() -> None:
    """Whole tags, which AES-CMAC-96 cuts; keys of other lengths than 128 bits are not IPsec's."""
    valid = invalid = 0
    for group in groups("aes_cmac"):
        if (group["keySize"], group["tagSize"]) != (128, 128):
            continue
        for case in group["tests"]:
            key, message, tag = (bytes.fromhex(case[name]) for name in ("key", "msg", "tag"))
            whole = prf.get(PrfId.AES128_CMAC).compute(key, message)
            if case["result"] == "valid":
                assert whole == tag, case["tcId"]
                assert integ.get(IntegId.AES_CMAC_96).new(key).verify(tag[:12], message)
                valid += 1
            else:
                assert whole != tag, case["tcId"]
                invalid += 1
    assert valid > 20
    assert invalid > 20


def test_ml_kem_768() -> None:
    """Decapsulation of seeds and ciphertexts, by OpenSSL and by the project's own module."""
    valid = invalid = 0
    for group in groups("mlkem_768"):
        assert group["parameterSet"] == "ML-KEM-768"
        for case in group["tests"]:
            seed, ciphertext = bytes.fromhex(case["seed"]), bytes.fromhex(case["c"])
            if len(seed) != ml_kem.SEED_OCTETS:
                with pytest.raises(ValueError, match="seed"):
                    ml_kem.PrivateKey(seed, ml_kem.ML_KEM_768)
                invalid += 1
                continue
            one = ke.get(KeId.ML_KEM_768).generate(lambda count, value=seed: value[:count])
            own = ml_kem.PrivateKey(seed, ml_kem.ML_KEM_768)
            if case["result"] == "valid":
                assert one.public.hex() == case["ek"] == own.public.hex(), case["tcId"]
                assert one.shared(ciphertext).hex() == case["K"] == own.decapsulate(ciphertext).hex()
                valid += 1
            else:
                with pytest.raises(KeError):
                    one.shared(ciphertext)
                with pytest.raises(ValueError, match="ciphertext"):
                    own.decapsulate(ciphertext)
                invalid += 1
    assert valid > 50
    assert invalid > 2


def _identifier(scheme: Scheme, hash_id: HashAlgId) -> bytes:
    data = algorithm_identifier.encode(SignatureAlgorithm(scheme, hash_id))
    return bytes((len(data),)) + data


@pytest.mark.parametrize(
    "name,method,prefix",
    [
        ("ecdsa_secp256r1_sha256_p1363", AuthMethod.ECDSA_P256_SHA256, b""),
        (
            "ed25519",
            AuthMethod.DIGITAL_SIGNATURE,
            _identifier(Scheme.ED25519, HashAlgId.IDENTITY),
        ),
        (
            "ed448",
            AuthMethod.DIGITAL_SIGNATURE,
            _identifier(Scheme.ED448, HashAlgId.IDENTITY),
        ),
        (
            "rsa_pss_2048_sha256_mgf1_32",
            AuthMethod.DIGITAL_SIGNATURE,
            _identifier(Scheme.RSA_PSS, HashAlgId.SHA2_256),
        ),
    ],
)
def test_signatures(name: str, method: AuthMethod, prefix: bytes) -> None:
    valid = invalid = 0
    for group in groups(name):
        key = load_der_public_key(bytes.fromhex(group["publicKeyDer"]))
        for case in group["tests"]:
            data, message = prefix + bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
            if case["result"] == "valid":
                auth.verify(method, data, key, message)
                valid += 1
            elif case["result"] == "invalid":
                with pytest.raises(AuthError):
                    auth.verify(method, data, key, message)
                invalid += 1
    assert valid > 10
    assert invalid > 10

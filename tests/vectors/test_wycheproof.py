"""Wycheproof's sets for the algorithms that are in, run where the folder with them is to be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ipsecstack.crypto import algorithm_identifier, auth, encr, integ, ke
from ipsecstack.crypto.algorithm_identifier import Scheme, SignatureAlgorithm
from ipsecstack.crypto.encr import AeadCipher
from ipsecstack.crypto.errors import AuthError, IntegrityError, KeError
from ipsecstack.wire.transforms import AuthMethod, EncrId, HashAlgId, IntegId, KeId

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

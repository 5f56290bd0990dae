"""Published answers of every algorithm and key derivation. The data files name their sources."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from vectorkit import cases, fixed_random, octets

from ipsecstack.crypto import algorithm_identifier, auth, encr, ikekeys, integ, ke, modp, prf
from ipsecstack.crypto.algorithm_identifier import Scheme, SignatureAlgorithm
from ipsecstack.crypto.errors import AuthError, IntegrityError
from ipsecstack.wire.transforms import AuthMethod, EncrId, HashAlgId, IntegId, KeId, PrfId


@pytest.mark.parametrize("case", cases("rfc3602_aes_cbc"))
def test_aes_cbc(case: dict[str, str]) -> None:
    key, iv, ciphertext = octets(case, "key", "iv", "ciphertext")
    cipher = encr.get(EncrId.AES_CBC, 8 * len(key)).new(key)
    opened = cipher.open(iv, b"", ciphertext)
    if "plaintext" in case:
        assert opened == bytes.fromhex(case["plaintext"])
    else:
        assert opened.startswith(bytes.fromhex(case["plaintext_prefix"]))
    # Twice: the second time on a context that has already been running.
    assert cipher.seal(iv, b"", opened) == ciphertext
    assert cipher.seal(iv, b"", opened) == ciphertext
    assert cipher.open(iv, b"", ciphertext) == opened


@pytest.mark.parametrize("case", cases("aes_gcm_esp"))
def test_aes_gcm(case: dict[str, str]) -> None:
    key, salt, iv, aad, plaintext, sealed = octets(case, "key", "salt", "iv", "aad", "plaintext", "sealed")
    _check_aead(encr.get(EncrId.AES_GCM_16, 8 * len(key)), key + salt, iv, aad, plaintext, sealed)


@pytest.mark.parametrize("case", cases("rfc7634_chacha20_poly1305"))
def test_chacha20_poly1305(case: dict[str, str]) -> None:
    keymat, iv, aad, plaintext, sealed = octets(case, "keymat", "iv", "aad", "plaintext", "sealed")
    _check_aead(encr.get(EncrId.CHACHA20_POLY1305), keymat, iv, aad, plaintext, sealed)
    assert bytes.fromhex(case["packet"]).endswith(iv + sealed)


def _check_aead(
    algorithm: encr.Encr, keymat: bytes, iv: bytes, aad: bytes, plaintext: bytes, sealed: bytes
) -> None:
    cipher = algorithm.new(keymat)
    assert cipher.seal(iv, aad, plaintext) == sealed
    assert cipher.open(iv, aad, sealed) == plaintext
    out = bytearray(len(sealed))
    assert cipher.seal_into(iv, aad, plaintext, out) == len(sealed)
    assert out == sealed
    back = bytearray(len(plaintext))
    assert cipher.open_into(iv, aad, sealed, back) == len(plaintext)
    assert back == plaintext
    for changed in (sealed[:-1] + bytes((sealed[-1] ^ 1,)), bytes((sealed[0] ^ 1,)) + sealed[1:]):
        with pytest.raises(IntegrityError):
            cipher.open(iv, aad, changed)
        with pytest.raises(IntegrityError):
            cipher.open_into(iv, aad, changed, bytearray(len(plaintext)))
    with pytest.raises(IntegrityError):
        cipher.open(iv, aad + b"\0", sealed)


PRFS = {
    "PRF-HMAC-SHA-256": PrfId.HMAC_SHA2_256,
    "PRF-HMAC-SHA-384": PrfId.HMAC_SHA2_384,
    "PRF-HMAC-SHA-512": PrfId.HMAC_SHA2_512,
}
INTEGS = {
    "HMAC-SHA-256-128": IntegId.HMAC_SHA2_256_128,
    "HMAC-SHA-384-192": IntegId.HMAC_SHA2_384_192,
    "HMAC-SHA-512-256": IntegId.HMAC_SHA2_512_256,
}


@pytest.mark.parametrize("case", cases("rfc4868_hmac_sha2"))
def test_hmac_sha2(case: dict[str, Any]) -> None:
    key, message = bytes.fromhex(case["key"]), bytes.fromhex(case["message"])
    for name, output in case["outputs"].items():
        wanted = bytes.fromhex(output)
        if name in PRFS:
            assert prf.get(PRFS[name]).compute(key, message[:3], message[3:]) == wanted
        else:
            mac = integ.get(INTEGS[name]).new(key)
            assert mac.sign(message[:5], message[5:]) == wanted
            assert mac.verify(wanted, message)
            assert not mac.verify(wanted[:-1] + bytes((wanted[-1] ^ 1,)), message)
            assert not mac.verify(wanted[:-1], message)


ECP_GROUPS = {19: KeId.ECP_256, 20: KeId.ECP_384, 21: KeId.ECP_521}


@pytest.mark.parametrize("case", cases("rfc5903_ecp"))
def test_ecp(case: dict[str, Any]) -> None:
    group = ke.get(ECP_GROUPS[case["group"]])
    private_i, public_i, private_r, public_r, shared = octets(
        case, "private_i", "public_i", "private_r", "public_r", "shared"
    )
    # The private scalar is drawn as random mod (n - 1) + 1.
    before = (int.from_bytes(private_i, "big") - 1).to_bytes(len(private_i), "big")
    one = group.generate(fixed_random(before))
    assert one.public == public_i
    assert one.shared(public_r) == shared
    before = (int.from_bytes(private_r, "big") - 1).to_bytes(len(private_r), "big")
    assert group.respond(public_i, fixed_random(before)) == (public_r, shared)


@pytest.mark.parametrize("case", cases("rfc7748_x25519"))
def test_x25519(case: dict[str, str]) -> None:
    private, public, shared = octets(case, "private", "public", "shared")
    assert ke.get(KeId.CURVE_25519).generate(fixed_random(private)).shared(public) == shared


@pytest.mark.parametrize("case", cases("rfc3526_modp"))
def test_modp(case: dict[str, Any]) -> None:
    bits = case["bits"]
    prime = modp.prime(bits).to_bytes(bits // 8, "big")
    assert hashlib.sha256(prime).hexdigest() == case["prime_sha256"]
    exponent_i, public_i, exponent_r, public_r, shared = octets(
        case, "exponent_i", "public_i", "exponent_r", "public_r", "shared"
    )
    group = ke.get(KeId[f"MODP_{bits}"])
    one = group.generate(fixed_random(exponent_i))
    assert one.public == public_i
    assert one.shared(public_r) == shared
    assert group.respond(public_i, fixed_random(exponent_r)) == (public_r, shared)


@pytest.mark.parametrize("case", cases("rfc8032_ed25519"))
def test_ed25519_auth(case: dict[str, str]) -> None:
    secret, public, message, signature = octets(case, "secret", "public", "message", "signature")
    key = Ed25519PrivateKey.from_private_bytes(secret)
    assert key.public_key().public_bytes_raw() == public
    made = auth.sign(key, message, {HashAlgId.IDENTITY})
    assert made.method is AuthMethod.DIGITAL_SIGNATURE
    # RFC 8420 section 3 gives the algorithm identifier of Ed25519.
    assert made.data == bytes.fromhex("07300506032b6570") + signature
    assert auth.verify(made.method, made.data, key.public_key(), message) == "ED25519"
    with pytest.raises(AuthError):
        auth.verify(made.method, made.data, key.public_key(), message + b"x")


@pytest.mark.parametrize("case", cases("cavs_ikev2_kdf"))
def test_ikev2_key_derivation(case: dict[str, str]) -> None:
    ni, nr, g_ir, g_ir_new, spi_i, spi_r = octets(case, "ni", "nr", "g_ir", "g_ir_new", "spi_i", "spi_r")
    function = prf.get(PrfId[case["prf"]])
    seed = ikekeys.skeyseed(function, ni, nr, g_ir)
    assert seed.hex() == case["skeyseed"]
    aes, sha1 = encr.get(EncrId.AES_CBC, 128), integ.get(IntegId.HMAC_SHA1_96)
    keys = ikekeys.ike_keys(function, aes, sha1, seed, ni, nr, spi_i, spi_r)
    stream = b"".join(
        (keys.sk_d, keys.sk_ai, keys.sk_ar, keys.sk_ei, keys.sk_er, keys.sk_pi, keys.sk_pr)
    ).hex()
    assert len(stream) == 2 * (5 * 20 + 2 * 16)
    assert case["dkm"].startswith(stream)
    assert prf.prf_plus(function, seed, ni + nr + spi_i + spi_r, len(case["dkm"]) // 2).hex() == case["dkm"]
    for shared, field in ((b"", "dkm_child"), (g_ir_new, "dkm_child_dh")):
        child = ikekeys.child_keys(function, keys.sk_d, aes, sha1, ni, nr, shared)
        stream = b"".join((child.encr_i, child.integ_i, child.encr_r, child.integ_r)).hex()
        assert len(stream) == 2 * 72
        assert case[field].startswith(stream)
    assert ikekeys.skeyseed_rekey(function, keys.sk_d, g_ir_new, ni, nr).hex() == case["skeyseed_rekey"]


# RFC 7427 appendix A, RFC 8420 section 3: octets of each algorithm identifier.
IDENTIFIERS = {
    (Scheme.RSA_PKCS1, HashAlgId.SHA1): "300d06092a864886f70d0101050500",
    (Scheme.RSA_PKCS1, HashAlgId.SHA2_256): "300d06092a864886f70d01010b0500",
    (Scheme.RSA_PKCS1, HashAlgId.SHA2_384): "300d06092a864886f70d01010c0500",
    (Scheme.RSA_PKCS1, HashAlgId.SHA2_512): "300d06092a864886f70d01010d0500",
    (Scheme.ECDSA, HashAlgId.SHA1): "300906072a8648ce3d0401",
    (Scheme.ECDSA, HashAlgId.SHA2_256): "300a06082a8648ce3d040302",
    (Scheme.ECDSA, HashAlgId.SHA2_384): "300a06082a8648ce3d040303",
    (Scheme.ECDSA, HashAlgId.SHA2_512): "300a06082a8648ce3d040304",
    (Scheme.RSA_PSS, HashAlgId.SHA2_256): (
        "304106092a864886f70d01010a3034a00f300d06096086480165030402010500"
        "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"
    ),
    (Scheme.ED25519, HashAlgId.IDENTITY): "300506032b6570",
    (Scheme.ED448, HashAlgId.IDENTITY): "300506032b6571",
}


@pytest.mark.parametrize("scheme_and_hash", IDENTIFIERS, ids=lambda p: f"{p[0].value}-{p[1].name}")
def test_algorithm_identifiers(scheme_and_hash: tuple[Scheme, HashAlgId]) -> None:
    algorithm = SignatureAlgorithm(*scheme_and_hash)
    wanted = bytes.fromhex(IDENTIFIERS[scheme_and_hash])
    assert algorithm_identifier.encode(algorithm) == wanted
    assert algorithm_identifier.parse(wanted) == algorithm


def test_pss_identifier_with_default_parameters() -> None:
    """RFC 7427 appendix A.4.1 and A.4.2: no or empty parameters mean SHA-1 with a salt of 20 octets."""
    for text in ("300b06092a864886f70d01010a", "300d06092a864886f70d01010a3000"):
        algorithm = algorithm_identifier.parse(bytes.fromhex(text))
        assert algorithm == SignatureAlgorithm(Scheme.RSA_PSS, HashAlgId.SHA1)

"""Published answers of the older, rarer and post-quantum algorithms. The data files name their sources."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from vectorkit import cases, fixed_random, octets

from ipsecstack.crypto import encr, integ, ke, ml_kem, modp, prf
from ipsecstack.crypto.blockmac import aes_cmac, aes_xcbc
from ipsecstack.crypto.combined import Ccm
from ipsecstack.crypto.errors import IntegrityError
from ipsecstack.crypto.integ import HmacMac
from ipsecstack.wire.transforms import EncrId, IntegId, KeId, PrfId

# --- ciphers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("cbc_of_older_ciphers"))
def test_cbc(case: dict[str, str]) -> None:
    key, iv, plaintext, ciphertext = octets(case, "key", "iv", "plaintext", "ciphertext")
    algorithm = encr.get(EncrId[case["encr"]], 8 * len(key))
    cipher = algorithm.new(key)
    for _ in range(2):  # the second time on a context that has already been running
        assert cipher.seal(iv, b"", plaintext) == ciphertext
        assert cipher.open(iv, b"", ciphertext) == plaintext
    if algorithm.id is EncrId.DES_CBC:
        assert encr.get(EncrId.DES_IV64).new(key).seal(iv, b"", plaintext) == ciphertext


def test_des_with_half_an_iv() -> None:
    """RFC 1829 section 2: the 64-bit IV is the 32 bits of the packet and then their complement."""
    key, half, plaintext = bytes(range(1, 9)), bytes.fromhex("0123fedc"), b"two DES blocks.."
    whole = half + bytes.fromhex("fedc0123")
    wanted = encr.get(EncrId.DES_CBC).new(key).seal(whole, b"", plaintext)
    cipher = encr.get(EncrId.DES_IV32).new(key)
    assert cipher.seal(half, b"", plaintext) == wanted
    assert cipher.open(half, b"", wanted) == plaintext
    with pytest.raises(ValueError, match="4 octets"):
        cipher.seal(whole, b"", plaintext)
    with pytest.raises(IntegrityError, match="4 octets"):
        cipher.open(whole, b"", wanted)
    with pytest.raises(IntegrityError, match="whole number"):
        cipher.open(half, b"", wanted[:-1])


@pytest.mark.parametrize(
    "case,encr_id",
    [
        *(pytest.param(*p.values, EncrId.AES_CTR, id=f"aes-{p.id}") for p in cases("rfc3686_aes_ctr")),
        *(
            pytest.param(*p.values, EncrId.CAMELLIA_CTR, id=f"camellia-{p.id}")
            for p in cases("rfc5528_camellia_ctr")
        ),
    ],
)
def test_counter_mode(case: dict[str, str], encr_id: EncrId) -> None:
    key, nonce, iv, plaintext, ciphertext = octets(case, "key", "nonce", "iv", "plaintext", "ciphertext")
    cipher = encr.get(encr_id, 8 * len(key)).new(key + nonce)
    for _ in range(2):
        assert cipher.seal(iv, b"", plaintext) == ciphertext
        assert cipher.open(iv, b"", ciphertext) == plaintext
    with pytest.raises(ValueError, match="no aad"):
        cipher.seal(iv, b"x", plaintext)
    with pytest.raises(ValueError, match="8 octets"):
        cipher.seal(iv[1:], b"", plaintext)


SHORT_ICV = {
    ("ccm", 8): EncrId.AES_CCM_8,
    ("ccm", 12): EncrId.AES_CCM_12,
    ("ccm", 16): EncrId.AES_CCM_16,
    ("gcm", 8): EncrId.AES_GCM_8,
    ("gcm", 12): EncrId.AES_GCM_12,
}


@pytest.mark.parametrize("case", [*cases("nist_aes_ccm"), *cases("nist_aes_gcm_short_icv")])
def test_combined_modes(case: dict[str, Any]) -> None:
    key, salt, iv, aad, plaintext, sealed = octets(case, "key", "salt", "iv", "aad", "plaintext", "sealed")
    algorithm = encr.get(SHORT_ICV[case["name"].split("_")[1][:3], case["icv"]], 8 * len(key))
    _check(algorithm, key + salt, iv, aad, plaintext, sealed)


@pytest.mark.parametrize("case", cases("aes_gmac_esp"))
def test_gmac_as_a_cipher(case: dict[str, str]) -> None:
    """The packet's clear text and its ICV; what ESP does not encrypt is authenticated behind the IV."""
    key, salt, iv, plaintext, packet = octets(case, "key", "salt", "iv", "plaintext", "packet")
    algorithm = encr.get(EncrId.NULL_AUTH_AES_GMAC, 8 * len(key))
    _check(algorithm, key + salt, iv, packet[:8], plaintext, packet[16:])
    assert packet[8:16] == iv


def _check(
    algorithm: encr.Encr, keymat: bytes, iv: bytes, aad: bytes, plaintext: bytes, sealed: bytes
) -> None:
    cipher = algorithm.new(keymat)
    for _ in range(2):
        assert cipher.seal(iv, aad, plaintext) == sealed
        assert cipher.open(iv, aad, memoryview(sealed)) == plaintext
    out = bytearray(len(sealed))
    assert cipher.seal_into(iv, aad, plaintext, out) == len(sealed)
    assert out == sealed
    changes = [sealed[:-1] + bytes((sealed[-1] ^ 1,)), bytes((sealed[0] ^ 1,)) + sealed[1:], sealed[:-1]]
    for changed in changes:
        with pytest.raises(IntegrityError):
            cipher.open(iv, aad, changed)
    with pytest.raises(IntegrityError):
        cipher.open(iv, aad + b"\0", sealed)
    with pytest.raises(IntegrityError):
        cipher.open(iv, aad, sealed[: algorithm.icv_octets - 1])


@pytest.mark.parametrize("icv", [8, 12, 16])
def test_ccm_of_its_own_agrees_with_openssl(icv: int) -> None:
    """The CCM that Camellia goes through, held against OpenSSL's with the cipher that both have."""
    key, nonce = bytes(range(32)), bytes(range(11))
    ours, theirs = Ccm(AES(key), icv), AESCCM(key, icv)
    for size in (0, 1, 15, 16, 17, 64, 1399):
        for aad in (b"", b"12345678", bytes(range(40))):
            text = bytes(i * 7 & 255 for i in range(size))
            sealed = theirs.encrypt(nonce, text, aad)
            assert ours.encrypt(nonce, text, aad) == sealed
            assert ours.decrypt(nonce, sealed, aad) == text


# --- integrity and pseudorandom functions -----------------------------------------------------------------------------

HMACS = {
    "HMAC-MD5": ("md5", PrfId.HMAC_MD5, IntegId.HMAC_MD5_96, IntegId.HMAC_MD5_128),
    "HMAC-SHA-1": ("sha1", PrfId.HMAC_SHA1, IntegId.HMAC_SHA1_96, IntegId.HMAC_SHA1_160),
    "HMAC-RIPEMD-160": ("ripemd160", None, IntegId.HMAC_RIPEMD_160_96, None),
}


@pytest.mark.parametrize("case", cases("rfc2202_rfc2286_hmac"))
def test_hmac(case: dict[str, str]) -> None:
    key, message, digest = octets(case, "key", "message", "digest")
    name, prf_id, short_id, whole_id = HMACS[case["hash"]]
    assert HmacMac(name, key, len(digest)).sign(message) == digest
    if prf_id is not None:
        assert prf.get(prf_id).compute(key, message[:3], message[3:]) == digest
    short = integ.get(short_id)
    if len(key) == short.key_octets:
        assert short.new(key).sign(message) == digest[:12]
        assert whole_id is None or integ.get(whole_id).new(key).sign(message) == digest


@pytest.mark.parametrize("case", cases("aes_macs"))
def test_macs_of_aes(case: dict[str, str]) -> None:
    key, message, icv = octets(case, "key", "message", "icv")
    mac = integ.get(IntegId[case["integ"]]).new(key)
    for _ in range(2):  # the second time on a context that has already been running
        assert mac.sign(message[:5], message[5:]) == icv
        assert mac.verify(icv, message)
        assert not mac.verify(icv, message + b"\0")


@pytest.mark.parametrize("case", cases("aes_prfs"))
def test_prfs_of_aes(case: dict[str, str]) -> None:
    key, message, output = octets(case, "key", "message", "output")
    assert prf.get(PrfId[case["prf"]]).compute(key, message[:1], message[1:]) == output


def test_whole_macs_begin_with_the_short_ones() -> None:
    for make, integ_id in ((aes_xcbc, IntegId.AES_XCBC_96), (aes_cmac, IntegId.AES_CMAC_96)):
        key = bytes(range(16))
        assert make(key).compute(b"message")[:12] == integ.get(integ_id).new(key).sign(b"message")


# --- key exchange -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*cases("ec_groups"), *cases("rfc5114_modp")])
def test_groups(case: dict[str, str]) -> None:
    private_i, public_i, private_r, public_r, shared = octets(
        case, "private_i", "public_i", "private_r", "public_r", "shared"
    )
    group = ke.get(KeId[case["name"]])
    if group.id is not KeId.CURVE_448:
        # A scalar is drawn as random mod (order - 1) + 1.
        private_i, private_r = (
            (int.from_bytes(private, "big") - 1).to_bytes(len(private), "big")
            for private in (private_i, private_r)
        )
    one = group.generate(fixed_random(private_i))
    assert one.public == public_i
    assert one.shared(public_r) == shared
    assert group.respond(public_i, fixed_random(private_r)) == (public_r, shared)


@pytest.mark.parametrize("case", cases("modp_primes"))
def test_modp_primes(case: dict[str, Any]) -> None:
    prime = modp.prime(case["bits"])
    assert hashlib.sha256(prime.to_bytes(case["bits"] // 8, "big")).hexdigest() == case["prime_sha256"]


@pytest.mark.parametrize("case", cases("fips203_ml_kem"))
def test_ml_kem(case: dict[str, str]) -> None:
    seed, message, shared = octets(case, "seed", "message", "shared")
    bits = case["name"].removeprefix("mlkem").split("_")[0]
    own = {"512": ml_kem.ML_KEM_512, "768": ml_kem.ML_KEM_768, "1024": ml_kem.ML_KEM_1024}[bits]
    key = ml_kem.PrivateKey(seed, own)
    assert hashlib.sha256(key.public).hexdigest() == case["public_sha256"]
    ciphertext, secret = ml_kem.encapsulate(key.public, message, own)
    assert hashlib.sha256(ciphertext).hexdigest() == case["ciphertext_sha256"]
    assert secret == shared == key.decapsulate(ciphertext)
    # What IKE uses for this parameter set, be it this module or OpenSSL.
    one = ke.get(KeId[own.name]).generate(fixed_random(seed))
    assert one.public == key.public
    assert one.shared(ciphertext) == shared

"""AUTH payloads: shared secrets, signatures of each kind, and what is refused."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from ipsecstack.crypto import algorithm_identifier, auth, prf
from ipsecstack.crypto.errors import AuthError
from ipsecstack.wire.transforms import AuthMethod, HashAlgId, PrfId

ALL = set(auth.SUPPORTED_HASHES)
OCTETS = b"signed octets"


@pytest.fixture(scope="module")
def keys() -> dict[str, auth.PrivateKey]:
    return {
        "rsa2048": rsa.generate_private_key(65537, 2048),
        "rsa1024": rsa.generate_private_key(65537, 1024),  # too short, must be refused
        "ecdsa256": ec.generate_private_key(ec.SECP256R1()),
        "ecdsa384": ec.generate_private_key(ec.SECP384R1()),
        "ecdsa521": ec.generate_private_key(ec.SECP521R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "ed448": ed448.Ed448PrivateKey.generate(),
    }


def test_psk() -> None:
    """RFC 7296 section 2.15, from its formula."""
    function = prf.get(PrfId.HMAC_SHA2_256)
    octets = auth.signed_octets(function, b"message", b"nonce", b"sk_p", b"\2\0\0\0moon")
    assert octets == b"messagenonce" + function.compute(b"sk_p", b"\2\0\0\0moon")
    data = auth.psk_auth(function, b"secret", octets)
    assert data == function.compute(function.compute(b"secret", b"Key Pad for IKEv2"), octets)
    assert auth.psk_verify(function, b"secret", octets, data)
    assert not auth.psk_verify(function, b"Secret", octets, data)
    assert not auth.psk_verify(function, b"secret", octets, data[:-1])


@pytest.mark.parametrize(
    "name,hashes,method,algorithm",
    [
        ("rsa2048", ALL, 14, "RSA_EMSA_PKCS1_SHA2_256"),
        ("rsa2048", {HashAlgId.SHA2_512}, 14, "RSA_EMSA_PKCS1_SHA2_512"),
        ("ecdsa256", ALL, 14, "ECDSA_SHA2_256"),
        ("ecdsa384", ALL, 14, "ECDSA_SHA2_384"),
        ("ecdsa521", ALL, 14, "ECDSA_SHA2_512"),
        ("ecdsa521", {HashAlgId.SHA2_256, HashAlgId.SHA2_384}, 14, "ECDSA_SHA2_384"),
        ("ed25519", ALL, 14, "ED25519"),
        ("ed448", ALL, 14, "ED448"),
        ("ecdsa256", set(), 9, "ECDSA_SHA2_256"),
        ("ecdsa384", set(), 10, "ECDSA_SHA2_384"),
        ("ecdsa521", set(), 11, "ECDSA_SHA2_512"),
    ],
)
def test_signatures(keys, name: str, hashes: set[int], method: int, algorithm: str) -> None:
    key = keys[name]
    made = auth.sign(key, OCTETS, hashes)
    assert (made.method, made.algorithm) == (method, algorithm)
    assert auth.verify(made.method, made.data, key.public_key(), OCTETS) == algorithm
    with pytest.raises(AuthError, match="does not verify"):
        auth.verify(made.method, made.data, key.public_key(), OCTETS + b"!")
    other = keys["ed25519" if name != "ed25519" else "ecdsa256"]
    with pytest.raises(AuthError, match="does not fit"):
        auth.verify(made.method, made.data, other.public_key(), OCTETS)
    # Every cut is refused without another exception.
    for end in range(len(made.data)):
        with pytest.raises(AuthError):
            auth.verify(made.method, made.data[:end], key.public_key(), OCTETS)


def test_rsa_pss(keys) -> None:
    key = keys["rsa2048"]
    made = auth.sign(key, OCTETS, ALL, rsa_pss=True)
    assert made.algorithm == "RSA_EMSA_PSS_SHA2_256"
    assert made.data[1 : 1 + made.data[0]].hex().startswith("304106092a864886f70d01010a")
    assert auth.verify(made.method, made.data, key.public_key(), OCTETS) == made.algorithm


def test_sha1_only_where_allowed(keys) -> None:
    key = keys["rsa2048"]
    with pytest.raises(AuthError, match="SHA-1"):
        auth.sign(key, OCTETS, set())
    made = auth.sign(key, OCTETS, set(), allow_sha1=True)
    assert made.method is AuthMethod.RSA_SIGNATURE
    with pytest.raises(AuthError, match="SHA-1"):
        auth.verify(made.method, made.data, key.public_key(), OCTETS)
    assert auth.verify(made.method, made.data, key.public_key(), OCTETS, allow_sha1=True)
    with pytest.raises(AuthError, match="SHA-2 hash in common"):
        auth.sign(key, OCTETS, {HashAlgId.SHA1})
    identifier = bytes.fromhex("300d06092a864886f70d0101050500")
    data = bytes((len(identifier),)) + identifier + made.data
    with pytest.raises(AuthError, match="SHA-1"):
        auth.verify(14, data, key.public_key(), OCTETS)
    assert auth.verify(14, data, key.public_key(), OCTETS, allow_sha1=True) == "RSA_EMSA_PKCS1_SHA1"


def test_method_1_with_sha2_is_understood(keys) -> None:
    key = keys["rsa2048"]
    made = auth.sign(key, OCTETS, {HashAlgId.SHA2_384})
    bare = made.data[1 + made.data[0] :]
    assert auth.verify(1, bare, key.public_key(), OCTETS) == "RSA_EMSA_PKCS1_SHA2_384"


def test_short_rsa_keys(keys) -> None:
    key = keys["rsa1024"]
    made = auth.sign(key, OCTETS, ALL)
    with pytest.raises(AuthError, match="at least 2048"):
        auth.verify(made.method, made.data, key.public_key(), OCTETS)
    assert auth.verify(made.method, made.data, key.public_key(), OCTETS, min_rsa_bits=1024)


def test_nothing_in_common(keys) -> None:
    with pytest.raises(AuthError, match="Ed25519"):
        auth.sign(keys["ed25519"], OCTETS, {HashAlgId.SHA2_256})
    with pytest.raises(AuthError, match="RFC 7427"):
        auth.sign(keys["ed25519"], OCTETS, set())
    for method in (0, 2, 3, 12, 13, 99):
        with pytest.raises(AuthError, match="not a signature"):
            auth.verify(method, b"x" * 64, keys["ecdsa256"].public_key(), OCTETS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "3000",
        "300506032b6570ff",
        "300706032b65700500",  # parameters where there are none
        "300506032b6599",
        "300b06092a864886f70d010102",  # md2WithRSA
        "30820105",
        # PSS with MGF1 over another hash than the message's
        "303b06092a864886f70d01010a302ea00f300d06096086480165030402010500a11b301906092a864886f70d010108300c"
        "0608608648016503040205",
    ],
)
def test_bad_algorithm_identifiers(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        algorithm_identifier.parse(bytes.fromhex(text))

"""AUTH payloads: shared secrets, signatures of each kind, and what is refused."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from ipsecstack.crypto import algorithm_identifier, auth, prf, schemes
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
    made = auth.sign(key, OCTETS, ALL, ("rsa/pss",))
    assert made.algorithm == "RSA_EMSA_PSS_SHA2_256"
    assert made.data[1 : 1 + made.data[0]].hex().startswith("304106092a864886f70d01010a")
    assert auth.verify(made.method, made.data, key.public_key(), OCTETS) == made.algorithm


def test_sha1_only_where_allowed(keys) -> None:
    key = keys["rsa2048"]
    with pytest.raises(AuthError, match="SHA-1"):
        auth.sign(key, OCTETS, set())
    made = auth.sign(key, OCTETS, set(), ("rsa-sha1",))
    assert made.method is AuthMethod.RSA_SIGNATURE
    with pytest.raises(AuthError, match="SHA-1"):
        auth.verify(made.method, made.data, key.public_key(), OCTETS)
    assert auth.verify(made.method, made.data, key.public_key(), OCTETS, ("pubkey-sha1",))
    with pytest.raises(AuthError, match="no signature with a hash that the peer accepts"):
        auth.sign(key, OCTETS, {HashAlgId.SHA1})
    assert auth.sign(key, OCTETS, {HashAlgId.SHA1}, ("rsa-sha1",)).algorithm == "RSA_EMSA_PKCS1_SHA1"
    identifier = bytes.fromhex("300d06092a864886f70d0101050500")
    data = bytes((len(identifier),)) + identifier + made.data
    with pytest.raises(AuthError, match="SHA-1"):
        auth.verify(14, data, key.public_key(), OCTETS)
    assert auth.verify(14, data, key.public_key(), OCTETS, ("pubkey-sha1",)) == "RSA_EMSA_PKCS1_SHA1"


@pytest.mark.parametrize(
    "text,rules",
    [
        ("pubkey", ()),
        ("pubkey-sha256-sha384", ("pubkey-sha256", "pubkey-sha384")),
        ("rsa/pss-sha256-sha512", ("rsa/pss-sha256", "rsa/pss-sha512")),
        ("rsa-sha384-ecdsa", ("rsa-sha384", "ecdsa")),
        ("ed25519-ecdsa-sha256", ("ed25519", "ecdsa-sha256")),
        ("ike:rsa/pss", ("rsa/pss",)),
        ("rsa-sha1-weak", ("rsa-sha1",)),
        ("ed448-identity", ("ed448-identity",)),
    ],
)
def test_rules_of_a_configuration(text: str, rules: tuple[str, ...]) -> None:
    assert schemes.parse_rules(text) == rules


@pytest.mark.parametrize(
    "text,words",
    [
        ("rsa-sha1", "write 'rsa-sha1-weak'"),
        ("sha256", "pubkey-sha256"),
        ("rsa-4096", "'4096' in 'rsa-4096'"),
        ("ecdsa-identity", "without a hash"),
        ("dsa", "'dsa' in 'dsa'"),
    ],
)
def test_rules_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        schemes.parse_rules(text)


@pytest.mark.parametrize(
    "name,rules,wanted",
    [
        ("rsa2048", ("rsa/pss-sha384",), "RSA_EMSA_PSS_SHA2_384"),
        ("rsa2048", ("ecdsa-sha256", "rsa-sha512", "rsa-sha256"), "RSA_EMSA_PKCS1_SHA2_512"),
        ("rsa2048", ("pubkey-sha384",), "RSA_EMSA_PKCS1_SHA2_384"),
        ("ecdsa256", ("ecdsa-sha512",), "ECDSA_SHA2_512"),
        ("ed25519", ("pubkey-sha256",), "ED25519"),
        ("ed448", ("ed25519", "ed448"), "ED448"),
    ],
)
def test_signatures_after_the_rules(keys, name: str, rules: tuple[str, ...], wanted: str) -> None:
    """The first rule that fits the key and the peer's hashes; the same rules accept it, others do not."""
    made = auth.sign(keys[name], OCTETS, ALL, rules)
    assert made.algorithm == wanted
    public = keys[name].public_key()
    assert auth.verify(made.method, made.data, public, OCTETS, rules) == wanted
    assert auth.verify(made.method, made.data, public, OCTETS) == wanted
    with pytest.raises(AuthError, match="none of the signatures that are asked for"):
        auth.verify(made.method, made.data, public, OCTETS, ("rsa/pss-sha256", "ecdsa-sha384"))


def test_rules_that_key_or_peer_cannot_meet(keys) -> None:
    with pytest.raises(AuthError, match="rsa/pss-sha512 permits"):
        auth.sign(keys["rsa2048"], OCTETS, {HashAlgId.SHA2_256}, ("rsa/pss-sha512",))
    with pytest.raises(AuthError, match="no signature that ecdsa permits"):
        auth.sign(keys["rsa2048"], OCTETS, ALL, ("ecdsa",))
    with pytest.raises(AuthError, match="takes ECDSA_SHA2_256 only"):
        auth.sign(keys["ecdsa256"], OCTETS, set(), ("ecdsa-sha384",))


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
    with pytest.raises(AuthError, match="Ed25519 key can make no signature"):
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

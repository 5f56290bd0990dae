"""Signatures of every kind between two ends (RFC 7427, RFC 8420), and what CERT and CERTREQ may look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from ike_network import WALL, Pair, mirrored
from lab.revocation import Key, RevokingCa, der, pem_key

from ipsecstack.crypto import x509
from ipsecstack.crypto.schemes import parse_rules
from ipsecstack.keyex.configuration import AuthClass
from ipsecstack.keyex.ikev2 import authenticate
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.wire.ikev2 import Auth, Cert, CertEncoding, CertReq, Payload

_KEYS: dict[str, Key] = {}


def key(kind: str) -> Key:
    """One key of each kind: RSA keys are slow to make."""
    makers = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ed448": ed448.Ed448PrivateKey.generate,
    }
    if kind not in _KEYS:
        _KEYS[kind] = makers[kind]()
    return _KEYS[kind]


def pair(kind: str, local: str = "pubkey", remote: str = "pubkey", ca_kind: str = "p256") -> Pair:
    """Both ends sign with such a key as ``local`` says; ``remote`` is what they accept."""
    made, ca = Pair(load=False), RevokingCa("lab CA", WALL + 1000, key(ca_kind))
    for end, config, name in zip(made.ends, mirrored(auth=AuthClass.PUBKEY), ("a.lab", "b.lab"), strict=True):
        certificate, own = ca.issue(name, key(kind))
        end.credentials.load_cert(der(certificate))
        end.credentials.load_key(pem_key(own))
        end.credentials.load_cert(ca.der, ca=True)
        end.load(
            replace(
                config,
                local=(replace(config.local[0], auth_hashes=parse_rules(local)),),
                remote=(replace(config.remote[0], auth_hashes=parse_rules(remote)),),
            )
        )
    return made


@pytest.mark.parametrize(
    "kind,local,wanted",
    [
        ("rsa", "pubkey", "RSA_EMSA_PKCS1_SHA2_256"),
        ("rsa", "rsa/pss-sha256", "RSA_EMSA_PSS_SHA2_256"),
        ("rsa", "rsa/pss-sha512", "RSA_EMSA_PSS_SHA2_512"),
        ("rsa", "rsa-sha384", "RSA_EMSA_PKCS1_SHA2_384"),
        ("p256", "pubkey", "ECDSA_SHA2_256"),
        ("p384", "ecdsa", "ECDSA_SHA2_384"),
        ("p521", "ecdsa-sha256", "ECDSA_SHA2_256"),
        ("ed25519", "ed25519", "ED25519"),
        ("ed448", "pubkey-sha256", "ED448"),
    ],
)
def test_signatures(kind: str, local: str, wanted: str) -> None:
    made = pair(kind, local, local)
    made.up()
    for end in made.ends:
        assert any(line.endswith(f"(myself) with {wanted} successful") for line in end.log())
        (sa,) = end.ike()
        assert sa.local_cert_expiry == sa.remote_cert_expiry == WALL + 1000 + 365 * 86400
    made.check_no_leaks()


@pytest.mark.parametrize("ca_kind", ["rsa", "p384", "ed25519", "ed448"])
def test_authorities_with_other_keys(ca_kind: str) -> None:
    made = pair("p256", ca_kind=ca_kind)
    made.up()


@pytest.mark.parametrize(
    "kind,local,remote",
    [
        ("rsa", "rsa/pss-sha256", "rsa/pss-sha384"),
        ("p256", "ecdsa", "rsa"),
        ("ed25519", "pubkey", "ed448"),
        ("p256", "ecdsa-sha256", "ecdsa-sha384"),
    ],
)
def test_a_signature_that_is_not_asked_for(kind: str, local: str, remote: str) -> None:
    made = pair(kind, local, remote)
    made.a.do(made.a.endpoint.initiate, ike="conn", child="net")
    made.run(40)
    assert not made.a.ike()
    assert not made.b.plane.sas
    assert any("none of the signatures that are asked for" in line for line in made.b.log())


@pytest.mark.parametrize("hashes", [True, False])
def test_a_peer_without_rfc_7427(monkeypatch: pytest.MonkeyPatch, hashes: bool) -> None:
    """RSA signatures are SHA-1 then (RFC 7296 §3.8): only where both configurations say so."""
    original = authenticate.auth.sign

    def classic(own: object, octets: bytes, _peer: object, rules: Sequence[str] = ()) -> object:
        return original(own, octets, (), rules)  # type: ignore[arg-type]

    monkeypatch.setattr(authenticate.auth, "sign", classic)
    made = pair("rsa", "rsa-sha1-weak", "pubkey-sha1-weak" if hashes else "pubkey")
    made.a.do(made.a.endpoint.initiate, ike="conn", child="net")
    made.run(40)
    assert bool(made.a.ike()) is hashes
    if not hashes:
        assert any("pubkey-sha1-weak would" in line for line in made.b.log())


def _as_hash_and_url(payload: Payload) -> Payload:
    if not isinstance(payload, Cert):
        return payload
    return Cert(CertEncoding.HASH_URL_X509, bytes(20) + b"http://victim.example/cert.der")


def test_hash_and_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched, and the log says what the peer has to do instead (RFC 7296 §3.6)."""
    original = authenticate.build

    def build(sa: IkeSa, *arguments: object) -> tuple[list[Payload], Auth]:
        certificates, auth = original(sa, *arguments)  # type: ignore[arg-type]
        return [_as_hash_and_url(payload) for payload in certificates], auth

    monkeypatch.setattr(authenticate, "build", build)
    made = pair("p256")
    made.a.do(made.a.endpoint.initiate, ike="conn", child="net")
    made.run(40)
    assert not made.a.ike()
    assert any("as hash and URL, which is not fetched" in line for line in made.b.log())


@pytest.mark.parametrize("unknown_first", [True, False])
def test_several_certificate_requests(monkeypatch: pytest.MonkeyPatch, unknown_first: bool) -> None:
    """Requests add up, those for hash and URL too; strange encodings are passed over."""

    def requests(sa: IkeSa, _configs: object) -> list[Payload]:
        wanted = b"".join(x509.spki_sha1(anchor) for anchor in sa.host.credentials.anchors())
        made: list[Payload] = [
            CertReq(CertEncoding.HASH_URL_X509, bytes(20) + wanted),
            CertReq(CertEncoding.PGP, b"whatever"),
            CertReq(200, b""),
            CertReq(CertEncoding.X509_SIGNATURE, bytes(19)),
        ]
        return made if unknown_first else made[::-1]

    monkeypatch.setattr(authenticate, "certificate_request", requests)
    made = pair("p256")
    made.up()
    for end in made.ends:
        assert any("received cert request for" in line for line in end.log())
        assert any("sending end entity cert" in line for line in end.log())


def test_the_certificate_that_is_valid_is_used() -> None:
    """After a renewal, the old certificate may still lie beside the new one."""
    made, ca = pair("p256"), RevokingCa("lab CA", WALL + 1000, key("p256"))
    made.a.credentials.clear()
    old, _ = ca.issue("a.lab", key("p384"), days=-1)
    new, _ = ca.issue("a.lab", key("p521"))
    for certificate in (old, new):
        made.a.credentials.load_cert(der(certificate))
    for kind in ("p384", "p521"):
        made.a.credentials.load_key(pem_key(key(kind)))
    made.a.credentials.load_cert(ca.der, ca=True)
    made.b.credentials.load_cert(ca.der, ca=True)
    made.b.endpoint.unload_connection("conn", made.now)
    made.b.load(mirrored(auth=AuthClass.PUBKEY)[1])
    made.up()
    assert made.a.ike()[0].local_cert_expiry == new.not_valid_after_utc.timestamp()


def test_the_certificate_below_the_authority_that_is_asked_for() -> None:
    """Two certificates for one identity, of two CAs; the wanted one may stand above an intermediate."""
    made = pair("p256")
    root, other = RevokingCa("root", WALL + 1000), RevokingCa("other", WALL + 1000)
    middle = RevokingCa("middle", WALL + 1000)
    middle.certificate = root.sign_ca(middle)
    a = made.a.credentials
    a.clear()
    for ca, kind in ((other, "p384"), (middle, "p521")):
        a.load_cert(der(ca.issue("a.lab", key(kind))[0]))
        a.load_key(pem_key(key(kind)))
    a.load_cert(der(middle.certificate))
    for ca in (root, other):
        a.load_cert(ca.der, ca=True)
    for wanted, kind in ((root, "p521"), (other, "p384")):
        found = a.find_signer(None, (), (x509.spki_sha1(wanted.certificate),), WALL + 1000)
        assert found is not None
        assert found[1].public_key() == key(kind).public_key()

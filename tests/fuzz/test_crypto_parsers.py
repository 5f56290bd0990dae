"""10,000 mutated certificates, names, algorithm identifiers and public values: refused as they should be."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from cryptography import x509 as cx509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from lab.revocation import RevokingCa

from ipsecstack.crypto import algorithm_identifier, auth, ke, revocation, x509
from ipsecstack.crypto.dn import dn_text, name_from_der, parse_dn
from ipsecstack.crypto.errors import AuthError, CertificateError, KeError
from ipsecstack.wire.transforms import HashAlgId

ROUNDS = 10_000
NOW = datetime(2024, 6, 1, tzinfo=UTC).timestamp()


def mutations(seed: bytes, rounds: int = ROUNDS) -> Iterator[bytes]:
    """Bits flipped, octets set, removed, doubled, cut, in places that are the same in every run."""
    rng = random.Random(2024)
    for _ in range(rounds):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data)) if data else 0
            kind = rng.randrange(5)
            if not data:
                data = bytearray(rng.randbytes(3))
            elif kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0x84, 0xFF))
            elif kind == 2:
                del data[at : at + rng.randint(1, 8)]
            elif kind == 3:
                data[at:at] = data[at : at + rng.randint(1, 8)]
            else:
                del data[at:]
        yield bytes(data)


def certificate() -> tuple[cx509.Certificate, cx509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = parse_dn("C=CH, O=Lab, CN=moon")
    built = []
    for ca in (True, False):
        built.append(
            cx509.CertificateBuilder()
            .subject_name(name if not ca else parse_dn("CN=Root"))
            .issuer_name(parse_dn("CN=Root"))
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(datetime(2024, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2025, 1, 1, tzinfo=UTC))
            .add_extension(cx509.BasicConstraints(ca, None), True)
            .add_extension(
                cx509.SubjectAlternativeName([cx509.DNSName("moon.lab"), cx509.RFC822Name("m@lab")]), False
            )
            .sign(key, hashes.SHA256())
        )
    return built[0], built[1]


def test_certificates() -> None:
    root, leaf = certificate()
    loaded = refused = 0
    for data in mutations(x509.to_der(leaf)):
        try:
            found = x509.load_certificate(data)
        except CertificateError:
            refused += 1
            continue
        loaded += 1
        x509.identities(found)
        x509.vouches_for(found, 2, b"moon.lab")
        x509.subject_text(found)
        try:
            x509.validate(found, [leaf], [root], NOW)
            # The signature covers everything but itself: what still validates has the same content.
            assert found.tbs_certificate_bytes == leaf.tbs_certificate_bytes
        except CertificateError:
            refused += 1
    assert loaded > 500
    assert refused > 5000


def _always(call: Callable[[bytes], object], seed: bytes, allowed: type[Exception]) -> int:
    refused = 0
    for data in mutations(seed):
        try:
            call(data)
        except allowed:
            refused += 1
    return refused


def test_names() -> None:
    der = parse_dn("C=CH, ST=Zurich, O=Lab, OU=Gateways, CN=moon.lab").public_bytes()
    refused = _always(lambda data: dn_text(name_from_der(data)), der, ValueError)
    assert 3000 < refused < ROUNDS


@pytest.mark.parametrize("scheme", list(algorithm_identifier.Scheme))
def test_algorithm_identifiers(scheme: algorithm_identifier.Scheme) -> None:
    hashes_of = {"ED25519": HashAlgId.IDENTITY, "ED448": HashAlgId.IDENTITY}
    algorithm = algorithm_identifier.SignatureAlgorithm(
        scheme, hashes_of.get(scheme.value, HashAlgId.SHA2_256)
    )
    seed = algorithm_identifier.encode(algorithm)
    assert _always(algorithm_identifier.parse, seed, ValueError) > 5000


def test_signatures() -> None:
    for key in (ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()):
        made = auth.sign(key, b"octets", set(auth.SUPPORTED_HASHES))
        public = key.public_key()
        changed = 0
        for data in mutations(made.data):
            if data == made.data:
                continue
            with pytest.raises(AuthError):
                auth.verify(made.method, data, public, b"octets")
            changed += 1
        assert changed > 9000


@pytest.mark.parametrize("name", ["CURVE_25519", "ECP_256", "ECP_521"])
def test_public_values(name: str) -> None:
    group = next(group for group in ke.registered() if group.name == name)
    own = group.generate(lambda count: bytes(range(1, count + 1)))
    peer = group.generate(lambda count: bytes(range(2, count + 2)))
    refused = _always(own.shared, peer.public, KeError)
    assert refused > (2000 if name == "CURVE_25519" else 9000)


def test_key_encapsulation() -> None:
    """Changed encapsulation keys are answered or refused, changed ciphertexts give a secret that nobody has."""
    for name in ("ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"):
        group = next(group for group in ke.registered() if group.name == name)
        own = group.generate(lambda count: bytes(range(1, count + 1)))
        ciphertext, shared = group.respond(own.public, lambda count: bytes(range(2, count + 2)))
        refused = answered = 0
        for data in mutations(own.public, 300):
            try:
                group.respond(data, lambda count: bytes(count))
                answered += 1
            except KeError:
                refused += 1
        for data in mutations(ciphertext, 300):
            try:
                assert own.shared(data) != shared or data == ciphertext
            except KeError:
                refused += 1
        assert refused > 300
        assert answered > 20


def test_elements_of_groups() -> None:
    for name, rounds in (
        ("CURVE_448", 2000),
        ("ECP_224_BP", 1000),
        ("MODP_2048", 500),
        ("MODP_2048_256", 300),
    ):
        group = next(group for group in ke.registered() if group.name == name)
        own = group.generate(lambda count: bytes(range(1, count + 1)))
        peer = group.generate(lambda count: bytes(range(2, count + 2)))
        refused = 0
        for data in mutations(peer.public, rounds):
            try:
                own.shared(data)
            except KeError:
                refused += 1
        assert refused > rounds // 4


def test_revocation_lists() -> None:
    """What still verifies has the same content."""
    ca = RevokingCa("lab CA", NOW)
    certificate = ca.issue("moon.lab")[0]
    ca.revoke(certificate)
    original = revocation.load_crl(ca.crl())
    verified = refused = 0
    for data in mutations(original.der):
        try:
            crl = revocation.load_crl(data)
            revocation.verify_crl(crl, ca.certificate)
        except CertificateError:
            refused += 1
            continue
        verified += 1
        assert crl.parsed.tbs_certlist_bytes == original.parsed.tbs_certlist_bytes
        said = revocation.crl_answer(crl, certificate, NOW)
        assert said is not None
        assert said.revoked == "unspecified"
    assert refused > 9000
    assert verified < 1000


def test_ocsp_responses() -> None:
    ca = RevokingCa("lab CA", NOW)
    certificate = ca.issue("moon.lab")[0]
    ca.revoke(certificate)
    for data in (
        ca.ocsp(certificate),
        ca.ocsp(certificate, signer=ca.issue("responder", responder=True), by_key=True),
    ):
        refused = 0
        for changed in mutations(data, ROUNDS // 2):
            try:
                said = revocation.read_ocsp(changed, certificate, ca.certificate, NOW)
            except CertificateError:
                refused += 1
                continue
            assert said is not None
            assert said.revoked == "unspecified"
        assert refused > 4000


def test_certificates_with_constraints() -> None:
    """A constrained authority whose octets were changed never widens what it permits."""
    ca = RevokingCa("lab CA", NOW)
    permitted = cx509.NameConstraints([cx509.DNSName("lab.example")], [cx509.RFC822Name("x.example")])
    outside = ca.issue("moon.elsewhere")[0]
    builder = (
        cx509.CertificateBuilder()
        .subject_name(ca.name)
        .issuer_name(ca.name)
        .public_key(ca.key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2024, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2025, 1, 1, tzinfo=UTC))
        .add_extension(cx509.BasicConstraints(True, None), True)
        .add_extension(permitted, True)
    )
    anchor = x509.to_der(builder.sign(ca.key, hashes.SHA256()))
    assert isinstance(outside, cx509.Certificate)
    refused = 0
    for data in mutations(anchor, 3000):
        try:
            changed = x509.load_certificate(data)
            x509.validate(outside, [], [changed], NOW)
        except CertificateError:
            refused += 1
            continue
        # Nobody checks the signature of a trust anchor: it may have lost the extension, but not by accident of parsing.
        assert b"lab.example" not in changed.public_bytes(Encoding.DER) or permitted not in [
            e.value for e in changed.extensions
        ]
    assert refused > 2000

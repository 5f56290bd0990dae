"""Certificates: loading, chains, and the identities taken from them."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509 as cx509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from ipsecstack.crypto import x509
from ipsecstack.crypto.dn import dn_text, name_from_der, parse_dn, same_name_der
from ipsecstack.crypto.errors import CertificateError

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2024, 6, 1, tzinfo=UTC).timestamp()


class Authority:
    """A CA of the tests, which issues what it is told to, right or wrong."""

    def __init__(self, dn: str, issuer: Authority | None = None, **options) -> None:
        self.key = options.pop("key", None) or ec.generate_private_key(ec.SECP256R1())
        self.name = parse_dn(dn)
        options.setdefault("ca", True)
        options.setdefault("usage", "cert")
        self.certificate = (issuer or self).issue(dn, key=self.key, **options)

    def issue(
        self,
        dn: str,
        *,
        key=None,
        names=(),
        ca: bool | None = False,
        path_length: int | None = None,
        usage: str | None = "sign",
        days: int = 365,
        start: datetime = START,
        extra: cx509.ExtensionType | None = None,
        extra_critical: bool = True,
        digest: hashes.HashAlgorithm | None = None,
    ) -> cx509.Certificate:
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = (
            cx509.CertificateBuilder()
            .subject_name(parse_dn(dn))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(cx509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=days))
        )
        if ca is not None:
            builder = builder.add_extension(
                cx509.BasicConstraints(ca, path_length if ca else None), critical=True
            )
        if usage is not None:
            flags = dict.fromkeys(
                (
                    "digital_signature",
                    "content_commitment",
                    "key_encipherment",
                    "data_encipherment",
                    "key_agreement",
                    "key_cert_sign",
                    "crl_sign",
                    "encipher_only",
                    "decipher_only",
                ),
                False,
            )
            flags["key_cert_sign"] = usage == "cert"
            flags["digital_signature"] = usage == "sign"
            flags["key_agreement"] = usage == "agree"
            builder = builder.add_extension(cx509.KeyUsage(**flags), critical=True)
        if names:
            builder = builder.add_extension(cx509.SubjectAlternativeName(names), critical=False)
        if extra is not None:
            builder = builder.add_extension(extra, critical=extra_critical)
        own = self.key
        algorithm = None if isinstance(own, ed25519.Ed25519PrivateKey) else digest or hashes.SHA256()
        return builder.sign(own, algorithm)


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority("C=CH, O=Lab, CN=Root")


@pytest.fixture(scope="module")
def middle(root: Authority) -> Authority:
    return Authority("C=CH, O=Lab, CN=Middle", root, path_length=0)


def test_chains(root: Authority, middle: Authority) -> None:
    direct = root.issue("C=CH, O=Lab, CN=moon")
    deep = middle.issue("C=CH, O=Lab, CN=sun")
    assert x509.validate(direct, [], [root.certificate], NOW) == (direct, root.certificate)
    chain = x509.validate(deep, [direct, middle.certificate], [root.certificate], NOW)
    assert chain == (deep, middle.certificate, root.certificate)
    # The configured CA may be the intermediate one, or the certificate itself.
    assert x509.validate(deep, [], [middle.certificate], NOW) == (deep, middle.certificate)
    assert x509.validate(deep, [], [deep], NOW) == (deep,)
    with pytest.raises(CertificateError, match='no trusted CA for issuer "C=CH, O=Lab, CN=Middle"'):
        x509.validate(deep, [], [root.certificate], NOW)
    with pytest.raises(CertificateError, match="no trusted CA"):
        x509.validate(direct, [root.certificate], [], NOW)


def test_time(root: Authority) -> None:
    leaf = root.issue("CN=moon", days=10)
    for when, text in ((START.timestamp() - 1, "not valid before"), (NOW, "expired at 2024-01-11")):
        with pytest.raises(CertificateError, match=text):
            x509.validate(leaf, [], [root.certificate], when)
    old = Authority("CN=Old", days=5)
    leaf = old.issue("CN=moon")
    with pytest.raises(CertificateError, match='"CN=Old" expired'):
        x509.validate(leaf, [], [old.certificate], NOW)


def test_a_false_ca_of_the_same_name(root: Authority) -> None:
    impostor = Authority("C=CH, O=Lab, CN=Root")
    leaf = impostor.issue("CN=moon")
    with pytest.raises(CertificateError, match="does not verify"):
        x509.validate(leaf, [impostor.certificate], [root.certificate], NOW)
    # Where both are trusted, the right one is found.
    both = [root.certificate, impostor.certificate]
    assert x509.validate(leaf, [], both, NOW)[-1] == impostor.certificate


@pytest.mark.parametrize(
    "options,text",
    [
        ({"ca": False}, "is not a CA"),
        ({"ca": None}, "is not a CA"),
        ({"usage": "sign"}, "does not permit signing certificates"),
    ],
)
def test_issuers_that_may_not_issue(root: Authority, options, text: str) -> None:
    middle = Authority("CN=Middle", root, **options)
    leaf = middle.issue("CN=moon")
    with pytest.raises(CertificateError, match=text):
        x509.validate(leaf, [middle.certificate], [root.certificate], NOW)


def test_path_length(root: Authority, middle: Authority) -> None:
    lower = Authority("CN=Lower", middle)
    leaf = lower.issue("CN=moon")
    with pytest.raises(CertificateError, match=r"path length constraint .* CN=Middle"):
        x509.validate(leaf, [lower.certificate, middle.certificate], [root.certificate], NOW)


def test_loops_end() -> None:
    one, two = Authority("CN=One"), Authority("CN=Two")
    crossed = [Authority("CN=One", two, key=one.key).certificate for _ in range(20)]
    crossed += [Authority("CN=Two", one, key=two.key).certificate for _ in range(20)]
    with pytest.raises(CertificateError, match=r"too long|no trusted"):
        x509.validate(one.issue("CN=moon"), crossed, [Authority("CN=Three").certificate], NOW)


def test_leaf_rules(root: Authority) -> None:
    anchors = [root.certificate]
    with pytest.raises(CertificateError, match="does not permit signatures"):
        x509.validate(root.issue("CN=moon", usage="agree"), [], anchors, NOW)
    short = rsa.generate_private_key(65537, 1024)
    with pytest.raises(CertificateError, match="1024 bits"):
        x509.validate(root.issue("CN=moon", key=short), [], anchors, NOW)
    constraints = cx509.NameConstraints([cx509.DNSName("example.org")], None)
    for critical in (True, False):
        constrained = Authority("CN=Constrained", root, extra=constraints, extra_critical=critical)
        leaf = constrained.issue("CN=moon")
        with pytest.raises(CertificateError, match=r"extension 2\.5\.29\.30, which is not handled"):
            x509.validate(leaf, [constrained.certificate], anchors, NOW)
    with pytest.raises(CertificateError, match="cannot be used in IKE"):
        x509.validate(root.issue("CN=moon", key=x25519.X25519PrivateKey.generate()), [], anchors, NOW)
    assert x509.validate(root.issue("CN=moon", usage=None, ca=None), [], anchors, NOW)


def test_ed25519_and_rsa_authorities() -> None:
    for key in (ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)):
        ca = Authority("CN=CA", key=key)
        leaf = ca.issue("CN=moon", key=ed25519.Ed25519PrivateKey.generate())
        assert x509.validate(leaf, [], [ca.certificate], NOW)


def test_identities(root: Authority) -> None:
    names = [
        cx509.DNSName("Moon.example.org"),
        cx509.RFC822Name("moon@example.org"),
        cx509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        cx509.IPAddress(ipaddress.ip_address("2001:db8::1")),
        cx509.UniformResourceIdentifier("https://example.org"),
    ]
    leaf = root.issue("C=CH, O=Lab, CN=moon", names=names)
    found = x509.identities(leaf)
    assert [(i.type, i.text) for i in found] == [
        (9, "C=CH, O=Lab, CN=moon"),
        (2, "Moon.example.org"),
        (3, "moon@example.org"),
        (1, "192.0.2.1"),
        (5, "2001:db8::1"),
    ]
    for identity in found:
        assert x509.vouches_for(leaf, identity.type, identity.data)
    assert x509.vouches_for(leaf, 2, b"moon.EXAMPLE.org")
    for id_type, data in (
        (2, b"moon@example.org"),
        (2, b"example.org"),
        (1, bytes((192, 0, 2, 2))),
        (9, parse_dn("C=CH, O=Lab, CN=sun").public_bytes()),
        (11, b"Moon.example.org"),
        (9, b""),
    ):
        assert not x509.vouches_for(leaf, id_type, data)


@pytest.mark.parametrize("kind", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("key_class", ["rsa", "ec"])
def test_loading_keys(kind: PrivateFormat, encoding: Encoding, key_class: str) -> None:
    key = (
        rsa.generate_private_key(65537, 2048)
        if key_class == "rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    data = key.private_bytes(encoding, kind, NoEncryption())
    loaded = x509.load_private_key(data)
    assert loaded.private_numbers() == key.private_numbers()
    assert x509.key_id(loaded) == x509.key_id(key.public_key())
    assert x509.load_private_key(data, b"not needed").private_numbers() == key.private_numbers()
    if encoding is Encoding.PEM:
        locked = key.private_bytes(encoding, kind, BestAvailableEncryption(b"opensesame"))
        assert x509.load_private_key(locked, b"opensesame").private_numbers() == key.private_numbers()
        with pytest.raises(CertificateError, match="encrypted and no passphrase"):
            x509.load_private_key(locked)
        with pytest.raises(CertificateError, match="wrong passphrase"):
            x509.load_private_key(locked, b"wrong")


def test_bad_files(root: Authority) -> None:
    pem = root.certificate.public_bytes(Encoding.PEM)
    assert x509.load_certificate(pem) == root.certificate
    assert x509.load_certificates(pem * 2) == [root.certificate] * 2
    assert x509.load_certificate(x509.to_der(root.certificate)) == root.certificate
    for data in (b"", b"nonsense", pem[:200], pem.replace(b"MII", b"AAA", 1)):
        with pytest.raises(CertificateError):
            x509.load_certificates(data)
        with pytest.raises(CertificateError):
            x509.load_private_key(data)
    unusable = x25519.X25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(CertificateError, match="cannot sign"):
        x509.load_private_key(unusable)


def test_key_and_certificate(root: Authority) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    leaf = root.issue("CN=moon", key=key)
    assert x509.key_matches(leaf, key)
    assert not x509.key_matches(leaf, root.key)
    assert len(x509.spki_sha1(leaf)) == 20
    assert x509.spki_sha1(leaf) != x509.key_id(leaf)
    assert x509.key_type(leaf) == "ECDSA"


@pytest.mark.parametrize(
    "text,shown",
    [
        ("C=CH, O=strongSwan, CN=moon", None),
        ("/C=CH/O=strongSwan/CN=moon", "C=CH, O=strongSwan, CN=moon"),
        ('O="Lab, Inc.", CN=moon', None),
        ("c=CH, email=moon@example.org, 1.2.3.4=x", "C=CH, E=moon@example.org, 1.2.3.4=x"),
    ],
)
def test_names(text: str, shown: str | None) -> None:
    name = parse_dn(text)
    assert dn_text(name) == (shown or text)
    assert dn_text(name_from_der(name.public_bytes())) == (shown or text)


@pytest.mark.parametrize("text", ["", "moon", "CN=", "=x", 'CN="moon', "nope=x", "C=Switzerland"])
def test_bad_names(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_dn(text)


def test_names_are_compared_by_meaning() -> None:
    upper, lower = parse_dn("O=Lab, CN=Moon").public_bytes(), parse_dn("O=lab, CN=moon").public_bytes()
    assert same_name_der(upper, lower)
    assert same_name_der(upper, upper.replace(b"\x0c\x03Lab", b"\x13\x03Lab"))  # UTF8String, PrintableString
    assert not same_name_der(upper, parse_dn("CN=Moon, O=Lab").public_bytes())
    assert not same_name_der(upper, b"\x30\x00")
    for end in range(len(upper)):
        assert not same_name_der(upper, upper[:end])

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
    unknown = cx509.UnrecognizedExtension(cx509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    with pytest.raises(CertificateError, match=r"extension 1\.2\.3\.4, which is not handled"):
        x509.validate(root.issue("CN=moon", extra=unknown), [], anchors, NOW)
    with pytest.raises(CertificateError, match="cannot be used in IKE"):
        x509.validate(root.issue("CN=moon", key=x25519.X25519PrivateKey.generate()), [], anchors, NOW)
    assert x509.validate(root.issue("CN=moon", usage=None, ca=None), [], anchors, NOW)


DNS, MAIL, IP, DN = cx509.DNSName, cx509.RFC822Name, cx509.IPAddress, cx509.DirectoryName


def _net(text: str) -> cx509.IPAddress:
    return IP(ipaddress.ip_network(text))


def _host(text: str) -> cx509.IPAddress:
    return IP(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "permitted,excluded,names,why",
    [
        ([DNS("example.org")], None, [DNS("example.org"), DNS("a.b.Example.ORG")], None),
        ([DNS("example.org")], None, [DNS("badexample.org")], "not permitted"),
        ([DNS("example.org")], None, [DNS("a.example.org"), DNS("example.com")], "not permitted"),
        ([DNS("example.org"), DNS("example.com")], None, [DNS("a.example.org"), DNS("example.com")], None),
        ([DNS(".example.org")], None, [DNS("a.example.org")], None),
        ([DNS(".example.org")], None, [DNS("example.org")], "not permitted"),
        ([DNS("example.org")], [DNS("b.example.org")], [DNS("a.example.org")], None),
        ([DNS("example.org")], [DNS("b.example.org")], [DNS("x.b.example.org")], "excluded"),
        (None, [DNS("")], [DNS("example.org")], "excluded"),
        (None, [DNS("")], [MAIL("a@example.org")], None),
        ([DNS("example.org")], None, [MAIL("a@elsewhere.net")], None),
        ([MAIL("example.org")], None, [MAIL("a@example.org")], None),
        ([MAIL("example.org")], None, [MAIL("a@b.example.org")], "not permitted"),
        ([MAIL(".example.org")], None, [MAIL("a@b.example.org")], None),
        ([MAIL(".example.org")], None, [MAIL("a@example.org")], "not permitted"),
        ([MAIL("a@example.org")], None, [MAIL("a@Example.org")], None),
        ([MAIL("a@example.org")], None, [MAIL("A@example.org")], "not permitted"),
        ([_net("10.1.0.0/16")], None, [_host("10.1.2.3")], None),
        ([_net("10.1.0.0/16")], None, [_host("10.2.0.1")], "not permitted"),
        ([_net("10.1.0.0/16")], None, [_host("2001:db8::1")], "not permitted"),
        (None, [_net("2001:db8::/32")], [_host("2001:db8::1")], "excluded"),
        (None, [_net("2001:db8::/32")], [_host("10.1.2.3")], None),
        ([DN(parse_dn("C=CH, O=Lab"))], None, [], None),
        ([DN(parse_dn("C=CH, O=LAB"))], None, [DN(parse_dn("C=CH, O=lab, CN=x"))], None),
        ([DN(parse_dn("C=CH, O=Other"))], None, [], "not permitted"),
        ([DN(parse_dn("C=CH, O=Lab, CN=moon, OU=x"))], None, [], "not permitted"),
        (None, [DN(parse_dn("C=CH, O=Lab"))], [], "excluded"),
        ([DN(parse_dn("C=CH"))], None, [DN(parse_dn("C=DE"))], "not permitted"),
        ([cx509.UniformResourceIdentifier("example.org")], None, [DNS("a.b")], None),
        ([cx509.UniformResourceIdentifier("example.org")], None,
         [cx509.UniformResourceIdentifier("http://example.org/")], "not implemented"),
        (None, [cx509.RegisteredID(cx509.ObjectIdentifier("1.2.3"))],
         [cx509.RegisteredID(cx509.ObjectIdentifier("1.2.4"))], "not implemented"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("critical", [True, False])
def test_name_constraints(
    root: Authority, permitted, excluded, names, why: str | None, critical: bool
) -> None:
    """RFC 5280 section 4.2.1.10, for each form of name; not critical ones are not ignored."""
    own = Authority(
        "C=CH, O=Lab, CN=Named", root,
        extra=cx509.NameConstraints(permitted, excluded), extra_critical=critical,
    )  # fmt: skip
    leaf = own.issue("C=CH, O=Lab, CN=moon", names=names)
    if why is None:
        assert len(x509.validate(leaf, [own.certificate], [root.certificate], NOW)) == 3
    else:
        with pytest.raises(CertificateError, match=why):
            x509.validate(leaf, [own.certificate], [root.certificate], NOW)


def test_name_constraints_reach_down_and_add_up() -> None:
    """Of two constrained CAs a name must satisfy both; the CAs' own names below count, self-issued ones do not."""
    top = Authority("C=CH, CN=Top", extra=cx509.NameConstraints([DNS("example.org")], None))
    below = Authority("C=CH, CN=Below", top, extra=cx509.NameConstraints([DNS("a.example.org")], None))
    anchors = [top.certificate]
    for name, fits in (("x.a.example.org", True), ("b.example.org", False)):
        leaf = below.issue("CN=moon", names=[DNS(name)])
        if fits:
            assert len(x509.validate(leaf, [below.certificate], anchors, NOW)) == 3
        else:
            with pytest.raises(CertificateError, match='constraints of CA "C=CH, CN=Below"'):
                x509.validate(leaf, [below.certificate], anchors, NOW)
    german = Authority("C=CH, CN=Only", extra=cx509.NameConstraints([DN(parse_dn("C=DE"))], None))
    swiss = Authority("C=CH, CN=Swiss", german)
    with pytest.raises(CertificateError, match='name "C=CH, CN=Swiss" is not permitted'):
        x509.validate(swiss.issue("C=DE, CN=moon"), [swiss.certificate], [german.certificate], NOW)
    again = german.issue("C=CH, CN=Only", ca=True, usage="cert", key=german.key)
    leaf = german.issue("C=DE, CN=moon")
    assert x509.validate(leaf, [again], [german.certificate], NOW)


def test_name_constraints_of_the_mail_address_in_a_subject(root: Authority) -> None:
    own = Authority("CN=Mail", root, extra=cx509.NameConstraints([MAIL("example.org")], None))
    assert x509.validate(own.issue("CN=a, E=a@example.org"), [own.certificate], [root.certificate], NOW)
    with pytest.raises(CertificateError, match=r'"a@example\.com" is not permitted'):
        x509.validate(
            own.issue("CN=a, E=a@example.com", names=[MAIL("a@example.org")]),
            [own.certificate], [root.certificate], NOW,
        )  # fmt: skip


def test_name_constraints_do_not_keep_us_busy(root: Authority) -> None:
    many = [DNS(f"h{i}.example.org") for i in range(400)]
    own = Authority("CN=Busy", root, extra=cx509.NameConstraints(None, many))
    with pytest.raises(CertificateError, match="too many"):
        x509.validate(own.issue("CN=m", names=many), [own.certificate], [root.certificate], NOW)


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

"""Revocation lists and OCSP: what they say, and all that must not be believed."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509 as cx509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from lab.revocation import RevokingCa, der

from ipsecstack.crypto import algorithm_identifier, revocation
from ipsecstack.crypto.algorithm_identifier import Scheme, SignatureAlgorithm
from ipsecstack.crypto.errors import CertificateError
from ipsecstack.keyex.revocation import FetchRevocation, Revocations, judge
from ipsecstack.wire.transforms import HashAlgId

NOW = 1_700_000_000.0
KEYS = {
    "ecdsa": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
}


@pytest.fixture(scope="module")
def ca() -> RevokingCa:
    return RevokingCa("Lab", NOW)


# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEYS)
def test_a_list_of_every_kind_of_ca(kind: str) -> None:
    own = RevokingCa("Lab", NOW, KEYS[kind]())
    good, bad, held = (own.issue(name)[0] for name in ("good", "bad", "held"))
    own.revoke(bad)
    own.revoke(held, cx509.ReasonFlags.certificate_hold)
    data = own.crl(number=7)
    crl = revocation.load_crl(data)
    assert (crl.number, crl.issuer, crl.until) == (7, own.name, NOW + 86400)
    revocation.verify_crl(crl, own.certificate)
    assert revocation.crl_answer(crl, good, NOW) == revocation.Answer(None, crl.until)
    said = revocation.crl_answer(crl, bad, NOW)
    assert said is not None
    assert (said.revoked, said.revoked_at) == ("unspecified", NOW - 3600)
    assert revocation.crl_answer(crl, held, NOW).revoked == "certificateHold"
    pem = cx509.load_der_x509_crl(data).public_bytes(Encoding.PEM)
    assert revocation.load_crl(pem) == crl


def test_a_list_has_its_time(ca: RevokingCa) -> None:
    certificate = ca.issue("a")[0]
    crl = revocation.load_crl(ca.crl(begins=0, ends=100))
    for now, known in ((NOW - 400, False), (NOW, True), (NOW + 99, True), (NOW + 101, False)):
        assert (revocation.crl_answer(crl, certificate, now) is not None) is known


def test_lists_of_others(ca: RevokingCa) -> None:
    crl = revocation.load_crl(ca.crl())
    with pytest.raises(CertificateError, match="not one of CA"):
        revocation.verify_crl(crl, RevokingCa("Other", NOW).certificate)
    with pytest.raises(CertificateError, match="does not verify"):
        revocation.verify_crl(crl, RevokingCa("Lab", NOW).certificate)
    with pytest.raises(CertificateError, match="does not verify"):
        revocation.verify_crl(crl, RevokingCa("Lab", NOW, KEYS["rsa"]()).certificate)
    mute = RevokingCa("Mute", NOW, crl_sign=False)
    with pytest.raises(CertificateError, match="does not permit signing revocation lists"):
        revocation.verify_crl(revocation.load_crl(mute.crl()), mute.certificate)
    with pytest.raises(CertificateError, match="signed with sha1, not allowed"):
        revocation._refuse_weak(hashes.SHA1(), "it")  # cryptography signs no such list any more


@pytest.mark.parametrize(
    "extra,why",
    [
        (cx509.DeltaCRLIndicator(1), "delta"),
        (cx509.IssuingDistributionPoint(None, None, False, False, None, True, False), "indirect or partial"),
        (cx509.IssuingDistributionPoint(None, None, False, False, None, False, True), "indirect or partial"),
        (cx509.UnrecognizedExtension(cx509.ObjectIdentifier("1.2.3"), b"\x05\x00"), r"extension 1\.2\.3"),
    ],
)
def test_lists_that_are_not_handled(ca: RevokingCa, extra: cx509.ExtensionType, why: str) -> None:
    with pytest.raises(CertificateError, match=why):
        revocation.load_crl(ca.crl(extra=extra))


def test_a_list_of_end_entities_says_nothing_of_cas(ca: RevokingCa) -> None:
    users = cx509.IssuingDistributionPoint(None, None, True, False, None, False, False)
    cas = cx509.IssuingDistributionPoint(None, None, False, True, None, False, False)
    leaf = ca.issue("a")[0]
    for scope, certificate, speaks in (
        (users, leaf, True),
        (users, ca.certificate, False),
        (cas, leaf, False),
        (cas, ca.certificate, True),
    ):
        crl = revocation.load_crl(ca.crl(extra=scope))
        assert (revocation.crl_answer(crl, certificate, NOW) is not None) is speaks


@pytest.mark.parametrize("data", [b"", b"junk", b"\x30\x03\x02\x01\x01", b"-----BEGIN X509 CRL-----\nAA==\n"])
def test_what_is_no_list(data: bytes) -> None:
    with pytest.raises(CertificateError, match="not a certificate revocation list"):
        revocation.load_crl(data)


# --- OCSP -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("by_key", [False, True])
def test_ocsp_by_the_ca_and_its_responder(kind: str, by_key: bool) -> None:
    own = RevokingCa("Lab", NOW, KEYS[kind]())
    good, bad = own.issue("good")[0], own.issue("bad")[0]
    own.revoke(bad, cx509.ReasonFlags.key_compromise)
    responder = own.issue("responder", KEYS[kind](), responder=True)
    for signer in (None, responder):
        data = own.ocsp(good, signer=signer, by_key=by_key)
        assert revocation.read_ocsp(data, good, own.certificate, NOW) == revocation.Answer(None, NOW + 3600)
        said = revocation.read_ocsp(own.ocsp(bad, signer=signer, by_key=by_key), bad, own.certificate, NOW)
        assert said is not None
        assert (said.revoked, said.revoked_at) == ("keyCompromise", NOW - 3600)
    unknown = own.ocsp(good, status=ocsp.OCSPCertStatus.UNKNOWN)
    assert revocation.read_ocsp(unknown, good, own.certificate, NOW) is None


def test_the_request_names_the_certificate(ca: RevokingCa) -> None:
    certificate = ca.issue("a")[0]
    asked = ocsp.load_der_ocsp_request(revocation.ocsp_request(certificate, ca.certificate))
    assert asked.serial_number == certificate.serial_number
    assert asked.hash_algorithm.name == "sha1"


def test_ocsp_that_must_not_be_believed(ca: RevokingCa) -> None:
    certificate, other = ca.issue("a")[0], ca.issue("b")[0]
    stranger = RevokingCa("Lab", NOW)  # of the same name, with another key
    plain = ca.issue("no responder")
    old = ca.issue("old responder", responder=True, days=-1)
    foreign = stranger.issue("responder", responder=True)
    for data, why in (
        (ca.ocsp(other), "another certificate"),
        (ca.ocsp(certificate, issuer=stranger.certificate), "another certificate"),
        (stranger.ocsp(certificate, issuer=ca.certificate), "does not verify"),
        (ca.ocsp(certificate, signer=plain), "not one for signing OCSP"),
        (ca.ocsp(certificate, signer=old), "not valid now"),
        (ca.ocsp(certificate, signer=foreign), "not entitled"),
        (
            ca.ocsp(certificate, signer=ca.issue("r", responder=True), with_certificate=False),
            "does not hold its responder's certificate",
        ),
        (ca.ocsp(certificate, begins=1000), "from the future"),
        (ca.ocsp(certificate, begins=-9000, ends=-4000), "too old"),
        (
            ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(
                Encoding.DER
            ),
            "answers TRY_LATER",
        ),
        (b"", "malformed"),
        (b"\x30\x03\x0a\x01\x00", "malformed"),
        (ca.ocsp(certificate)[:-3], "malformed"),
    ):
        with pytest.raises(CertificateError, match=why):
            revocation.read_ocsp(data, certificate, ca.certificate, NOW)


def test_ocsp_with_a_kind_of_key_that_does_not_fit(ca: RevokingCa) -> None:
    certificate = ca.issue("a")[0]
    namesake = RevokingCa("Lab", NOW, ed25519.Ed25519PrivateKey.generate())
    data = namesake.ocsp(certificate, issuer=ca.certificate)
    with pytest.raises(CertificateError, match="ED25519 does not fit the secp256r1 key"):
        revocation.read_ocsp(data, certificate, ca.certificate, NOW)


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 128:
        return bytes((tag, len(body))) + body
    size = (len(body).bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + len(body).to_bytes(size, "big") + body


@pytest.mark.parametrize("hash_id,believed", [(HashAlgId.SHA2_256, True), (HashAlgId.SHA1, False)])
@pytest.mark.parametrize("pss", [True, False])
def test_ocsp_signed_with_rsa_of_either_padding(hash_id: HashAlgId, believed: bool, pss: bool) -> None:
    """cryptography's builder signs with PKCS #1 and without SHA-1 only: the response is put together here."""
    own = RevokingCa("Lab", NOW, KEYS["rsa"]())
    certificate = own.issue("a")[0]
    signed = ocsp.load_der_ocsp_response(own.ocsp(certificate)).tbs_response_bytes
    chosen = hashes.SHA256() if believed else hashes.SHA1()
    padded = padding.PSS(padding.MGF1(chosen), chosen.digest_size) if pss else padding.PKCS1v15()
    scheme = Scheme.RSA_PSS if pss else Scheme.RSA_PKCS1
    identifier = algorithm_identifier.encode(SignatureAlgorithm(scheme, hash_id))
    assert isinstance(own.key, rsa.RSAPrivateKey)
    for key in (own.key, KEYS["rsa"]()):
        signature = key.sign(signed, padded, chosen)
        basic = _der(0x30, signed, identifier, _der(0x03, b"\0" + signature))
        kind = bytes.fromhex("06092b0601050507300101")  # id-pkix-ocsp-basic
        data = _der(0x30, b"\x0a\x01\0", _der(0xA0, _der(0x30, kind, _der(0x04, basic))))
        if believed and key is own.key:
            assert revocation.read_ocsp(data, certificate, own.certificate, NOW) is not None
        else:
            with pytest.raises(
                CertificateError, match="does not verify" if believed else "uses SHA-1|malformed"
            ):
                revocation.read_ocsp(data, certificate, own.certificate, NOW)


def test_an_answer_without_an_end_is_used_for_a_while(ca: RevokingCa) -> None:
    certificate = ca.issue("a")[0]
    said = revocation.read_ocsp(ca.ocsp(certificate, ends=None), certificate, ca.certificate, NOW)
    assert said is not None
    assert said.until == NOW - 60 + revocation.DEFAULT_LIFE


def test_an_old_answer_without_an_end_is_a_replay(ca: RevokingCa) -> None:
    """Signed before the certificate was revoked, and kept by somebody on the way (RFC 6960 section 4.2.2.1)."""
    certificate = ca.issue("a")[0]
    kept = ca.ocsp(certificate, begins=-2 * revocation.DEFAULT_LIFE, ends=None)
    with pytest.raises(CertificateError, match="too old"):
        revocation.read_ocsp(kept, certificate, ca.certificate, NOW)


def test_a_part_of_a_list_speaks_of_its_part_alone(ca: RevokingCa) -> None:
    """RFC 5280 section 6.3.3 b 2 i: that another part does not name a certificate says nothing."""
    part = cx509.IssuingDistributionPoint(
        [cx509.UniformResourceIdentifier("http://list/2")], None, False, False, None, False, False
    )
    here, there, nowhere = (
        ca.issue("a", crl_uris=("http://list/2",))[0],
        ca.issue("b", crl_uris=("http://list/1",))[0],
        ca.issue("c")[0],
    )
    crl = revocation.load_crl(ca.crl(extra=part))
    assert revocation.crl_answer(crl, here, NOW) == revocation.Answer(None, crl.until)
    assert revocation.crl_answer(crl, there, NOW) is None
    assert revocation.crl_answer(crl, nowhere, NOW) is None
    ca.revoke(there)
    said = revocation.crl_answer(revocation.load_crl(ca.crl(extra=part)), there, NOW)
    assert said is not None
    assert said.revoked == "unspecified", "a serial number is one certificate's, wherever it stands"
    del ca.revoked[there.serial_number]
    whole = cx509.IssuingDistributionPoint(
        [cx509.DirectoryName(ca.name)], None, False, False, None, False, False
    )
    assert revocation.crl_answer(revocation.load_crl(ca.crl(extra=whole)), nowhere, NOW) is not None


def test_where_to_ask(ca: RevokingCa) -> None:
    certificate = ca.issue(
        "a",
        ocsp_uris=("http://o.example/x", "https://o.example/", "ldap://o.example"),
        crl_uris=("http://c.example/l.crl", "ftp://c.example/l.crl"),
    )[0]
    assert revocation.ocsp_uris(certificate) == ("http://o.example/x",)
    assert revocation.crl_uris(certificate) == ("http://c.example/l.crl",)
    assert revocation.ocsp_uris(ca.certificate) == revocation.crl_uris(ca.certificate) == ()
    for bad in ("https://a/", "http://a/\r\nX: y", "http://a b/", "http://a/" + 2000 * "x", "http://ä/"):
        assert not revocation.is_http(bad)


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_policies_over_what_is_known(ca: RevokingCa) -> None:
    """strict wants to know, ifuri where somebody could be asked, relaxed only refuses what is revoked."""
    named, nameless = ca.issue("named", ocsp_uris=("http://o.example/",))[0], ca.issue("nameless")[0]
    bad = ca.issue("bad")[0]
    ca.revoke(bad)
    known = Revocations()

    def refused(certificate: cx509.Certificate) -> list[str]:
        chain = (certificate, ca.certificate)
        return [p for p in ("strict", "ifuri", "relaxed") if judge(known, chain, p, NOW) is not None]

    assert refused(named) == ["strict", "ifuri"]
    assert refused(nameless) == ["strict"]
    assert refused(bad) == ["strict"]
    known.set_authority(der(ca.certificate), ("http://c.example/",), ())
    assert refused(nameless) == ["strict", "ifuri"]
    known.load_crl(ca.crl())
    assert refused(named) == refused(nameless) == []
    assert refused(bad) == ["strict", "ifuri", "relaxed"]
    assert judge(known, (bad,), "strict", NOW) is not None
    assert judge(known, (bad,), "relaxed", NOW) is None
    del ca.revoked[bad.serial_number]


def test_a_newer_list_takes_the_place_of_an_older_one(ca: RevokingCa) -> None:
    known = Revocations()
    new = known.load_crl(ca.crl(number=2, begins=-10))
    assert known.load_crl(ca.crl(number=1, begins=-100)) == new
    assert known.lists() == [new]
    newer = known.load_crl(ca.crl(number=3, begins=-5))
    assert known.lists() == [newer]
    assert known.unload_crl(newer.der)
    assert not known.unload_crl(newer.der)


def test_nothing_is_kept_of_lists_that_were_replaced(ca: RevokingCa) -> None:
    known, certificate = Revocations(), ca.issue("a")[0]
    for number in range(1, 20):
        known.load_crl(ca.crl(number=number, begins=-100 + number))
        assert known.answer(certificate, ca.certificate, NOW) is not None
    lists = {der for der, _ in known._verified}
    assert lists == {crl.der for crl in known.lists()}


def test_a_forged_list_is_not_looked_at(ca: RevokingCa) -> None:
    certificate = ca.issue("a")[0]
    forger = RevokingCa("Lab", NOW)
    forger.revoke(certificate)
    known = Revocations()
    known.load_crl(forger.crl())
    assert known.answer(certificate, ca.certificate, NOW) is None


def test_what_is_fetched_and_in_which_order(ca: RevokingCa) -> None:
    """The operator's responder, the certificate's, then lists; what failed is left alone for a while."""
    certificate = ca.issue("a", ocsp_uris=("http://own/",), crl_uris=("http://list/",))[0]
    known, chain = Revocations(), (certificate, ca.certificate)
    known.set_authority(der(ca.certificate), (), ("http://operator/",))
    body = revocation.ocsp_request(certificate, ca.certificate)
    for uri, asked, came, problem in (
        ("http://operator/", body, None, "no answer"),
        ("http://own/", body, b"junk", "malformed OCSP response"),
        ("http://list/", None, RevokingCa("Lab", NOW).crl(), "does not verify"),
    ):
        wanted, waiting = known.missing(chain, NOW)
        assert wanted == [FetchRevocation(uri, asked)]
        assert waiting
        assert known.missing(chain, NOW) == ([], True), "the same thing is asked for once"
        assert problem in (known.fetched(wanted[0], came, NOW) or "")
    assert known.missing(chain, NOW) == ([], False)
    wanted, _ = known.missing(chain, NOW + 61)
    assert wanted == [FetchRevocation("http://operator/", body)]
    assert known.fetched(wanted[0], ca.ocsp(certificate), NOW + 61) is None
    assert known.missing(chain, NOW + 62) == ([], False)
    answer = known.answer(certificate, ca.certificate, NOW + 62)
    assert answer is not None
    assert answer.revoked is None
    assert known.answer(certificate, ca.certificate, NOW + 3601) is None, "an answer ends at its nextUpdate"
    known.flush()
    assert known.answer(certificate, ca.certificate, NOW + 62) is None
    assert known.fetched(wanted[0], b"", NOW) == "nobody asked for it"


def test_a_fetched_list_and_its_end(ca: RevokingCa) -> None:
    certificate = ca.issue("a", crl_uris=("http://list/",))[0]
    ca.revoke(certificate, cx509.ReasonFlags.superseded)
    known, chain = Revocations(), (certificate, ca.certificate)
    (wanted,), _ = known.missing(chain, NOW)
    assert "too old" in (known.fetched(wanted, ca.crl(begins=-500, ends=-400), NOW) or "")
    (wanted,), _ = known.missing(chain, NOW + 61)
    assert known.fetched(wanted, ca.crl(), NOW + 61) is None
    assert "superseded" in (judge(known, chain, "relaxed", NOW + 61) or "")
    assert len(known.missing(chain, NOW + 90000)[0]) == 1, "asked for anew when it is too old"
    del ca.revoked[certificate.serial_number]


@pytest.mark.parametrize(
    "made",
    [
        {"extra": cx509.IssuingDistributionPoint(None, None, False, True, None, False, False)},
        {"begins": 4000},
    ],
    ids=["of CAs only", "of the future"],
)
def test_a_fetched_list_that_does_not_help_is_not_fetched_again_at_once(
    ca: RevokingCa, made: dict[str, Any]
) -> None:
    certificate = ca.issue("a", crl_uris=("http://list/",))[0]
    known, chain = Revocations(), (certificate, ca.certificate)
    (wanted,), _ = known.missing(chain, NOW)
    assert "says nothing" in (known.fetched(wanted, ca.crl(**made), NOW) or "")
    assert known.missing(chain, NOW) == ([], False)


def test_a_fetched_answer_at_its_end_is_not_fetched_again_at_once(ca: RevokingCa) -> None:
    certificate = ca.issue("a", ocsp_uris=("http://o/",))[0]
    known, chain = Revocations(), (certificate, ca.certificate)
    (wanted,), _ = known.missing(chain, NOW)
    assert known.fetched(wanted, ca.ocsp(certificate, begins=-200, ends=-100), NOW) is not None
    assert known.missing(chain, NOW) == ([], False)


def test_the_whole_chain_is_judged(ca: RevokingCa) -> None:
    """A revoked certificate refuses what stands below it; the trust anchor is nobody's to revoke."""
    middle, leaf = ca.issue("middle")[0], ca.issue("leaf")[0]
    known = Revocations()
    ca.revoke(middle)
    known.load_crl(ca.crl())
    assert 'CN=middle" was revoked' in (judge(known, (middle, ca.certificate), "relaxed", NOW) or "")
    assert judge(known, (leaf, ca.certificate), "strict", NOW) is None
    del ca.revoked[middle.serial_number]


def test_no_more_than_so_many_fetches(ca: RevokingCa) -> None:
    known = Revocations()
    chains = [(ca.issue(f"h{i}", ocsp_uris=("http://o/",))[0], ca.certificate) for i in range(66)]
    asked = [known.missing(chain, NOW) for chain in chains]
    assert sum(len(wanted) for wanted, _ in asked) == 64
    assert asked[-1] == ([], False)


def test_a_snapshot_brings_everything_back(ca: RevokingCa) -> None:
    known = Revocations()
    known.load_crl(ca.crl())
    before = known.snapshot()
    known.clear()
    assert not known.lists()
    known.restore(before)
    assert len(known.lists()) == 1
    assert "1 lists" in repr(known)

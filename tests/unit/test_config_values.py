"""Single values, identities and proposals of a configuration."""

from __future__ import annotations

import pytest

from ipsecstack.config import values
from ipsecstack.config.identity import parse_identity
from ipsecstack.config.proposals import default_proposals, parse_proposal, parse_proposals, weak_algorithms
from ipsecstack.crypto import dn
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.wire.transforms import EncrId, EsnId, IntegId, KeId, PrfId

AH, IKE, ESP = SecurityProtocol.AH, SecurityProtocol.IKE, SecurityProtocol.ESP


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("90s", 90), ("30m", 1800), ("4h", 14400), ("2d", 172800), ("1 H", 3600)],
)
def test_times(text: str, seconds: int) -> None:
    assert values.parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1w", "-1", "1.5h", "1h30m", "9999999d", "٣"])
def test_bad_times(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_time(text)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("0", 0),
        ("1000", 1000),
        ("1k", 1024),
        ("2M", 2 << 20),
        ("3 g", 3 << 30),
        ("0x10", 16),
        ("9" * 30 + "g", 2**64 - 1),
    ],
)
def test_sizes(text: str, octets: int) -> None:
    assert values.parse_size(text) == octets


def test_numbers_have_bounds() -> None:
    assert values.parse_int("0x1f", 0, 31) == 31
    for text in ("32", "-1", "x", "", "1_0"):
        with pytest.raises(ValueError):
            values.parse_int(text, 0, 31)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("hunter2", b"hunter2"),
        ("0xDEADbeef", b"\xde\xad\xbe\xef"),
        ("0xf", b"\x0f"),
        ("0sc2VjcmV0", b"secret"),
        ("ä", "ä".encode()),
    ],
)
def test_secrets(text: str, data: bytes) -> None:
    assert values.parse_secret(text) == data


@pytest.mark.parametrize("text", ["0xnothex", "0s!!!", "0x", "0s", ""])
def test_bad_secrets_are_not_quoted(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        values.parse_secret(text)
    assert len(text) < 3 or text not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind", "data", "shown"),
    [
        ("%any", 0, b"", "%any"),
        ("", 0, b"", "%any"),
        ("0.0.0.0", 0, b"", "%any"),
        ("10.1.2.3", 1, bytes([10, 1, 2, 3]), "10.1.2.3"),
        ("fe80::1", 5, bytes.fromhex("fe80" + "0" * 27 + "1"), "fe80::1"),
        ("a.lab", 2, b"a.lab", "a.lab"),
        ("@a.lab", 2, b"a.lab", "a.lab"),
        ("fqdn:a.lab", 2, b"a.lab", "a.lab"),
        ("dns:10.1.2.3", 2, b"10.1.2.3", "10.1.2.3"),
        ("carol@a.lab", 3, b"carol@a.lab", "carol@a.lab"),
        ("@@carol", 3, b"carol", "carol"),
        ("email:carol@a.lab", 3, b"carol@a.lab", "carol@a.lab"),
        ("@#0a0b", 11, b"\x0a\x0b", "@#0a0b"),
        ("keyid:#0a0b", 11, b"\x0a\x0b", "keyid:#0a0b"),
        ("ipv4:#0a010203", 1, bytes([10, 1, 2, 3]), "ipv4:#0a010203"),
        ("ipv6:fe80::1", 5, bytes.fromhex("fe80" + "0" * 27 + "1"), "fe80::1"),
        ("not:an:address", 11, b"not:an:address", "not:an:address"),
    ],
)
def test_identities(text: str, kind: int, data: bytes, shown: str) -> None:
    identity = parse_identity(text)
    assert (identity.type, identity.data, identity.text) == (kind, data, shown)


@pytest.mark.parametrize(
    "text", ["C=CH, O=lab, CN=a.lab", "asn1dn:C=CH, O=lab, CN=a.lab", "/C=CH/O=lab/CN=a.lab"]
)
def test_distinguished_names(text: str) -> None:
    identity = parse_identity(text)
    assert identity.type == 9
    assert identity.text == "C=CH, O=lab, CN=a.lab"
    assert dn.dn_text(dn.name_from_der(identity.data)) == identity.text
    assert parse_identity(f"asn1dn:#{identity.data.hex()}").data == identity.data


@pytest.mark.parametrize(
    "text",
    ["@", "@#", "@#zz", "fqdn:", "ipv4:fe80::1", "ipv4:#00", "ipv6:10.0.0.1", "asn1dn:#00", "C=, O", "asn1gn:x", "a\nb",
     "ipv4net:10.0.0.0/8"],
)  # fmt: skip
def test_bad_identities(text: str) -> None:
    with pytest.raises(ValueError):
        parse_identity(text)


# --- proposals --------------------------------------------------------------------------------------------------------


def test_aead_proposal() -> None:
    proposal = parse_proposal("aes128gcm16-prfsha256-x25519", IKE)
    assert proposal.encr == ((EncrId.AES_GCM_16, 128),)
    assert proposal.integ == ()
    assert proposal.prf == (PrfId.HMAC_SHA2_256,)
    assert proposal.ke == (KeId.CURVE_25519,)


def test_integrity_words_imply_the_prf() -> None:
    proposal = parse_proposal("aes256-sha256-sha512-ecp256-modp2048", IKE)
    assert proposal.integ == (IntegId.HMAC_SHA2_256_128, IntegId.HMAC_SHA2_512_256)
    assert proposal.prf == (PrfId.HMAC_SHA2_256, PrfId.HMAC_SHA2_512)
    assert proposal.ke == (KeId.ECP_256, KeId.MODP_2048)
    assert parse_proposal("aes256gcm16-sha384-ecp384", IKE).prf == (PrfId.HMAC_SHA2_384,)
    assert parse_proposal("aes256gcm16-sha384-ecp384", IKE).integ == ()


def test_esp_proposal() -> None:
    proposal = parse_proposal("esp: aes256-sha256-esn-ecp256", ESP)
    assert (proposal.encr, proposal.integ) == (((EncrId.AES_CBC, 256),), (IntegId.HMAC_SHA2_256_128,))
    assert (proposal.esn, proposal.ke, proposal.prf) == ((EsnId.ESN,), (KeId.ECP_256,), ())
    assert parse_proposal("aes128gcm16", ESP).esn == (EsnId.NO_ESN,)
    assert parse_proposal("aes128gcm16-esn-noesn", ESP).esn == (EsnId.ESN, EsnId.NO_ESN)


def test_defaults_are_strong_and_in_place() -> None:
    for protocol in (IKE, ESP):
        assert weak_algorithms(default_proposals(protocol)) == []
        assert default_proposals(protocol)[0].integ == ()
        assert parse_proposals([], protocol) == default_proposals(protocol)
    both = parse_proposals(["aes128gcm16-prfsha256-x25519", "Default"], IKE)
    assert both[1:] == default_proposals(IKE)
    assert all(p.ke == () for p in default_proposals(ESP))


@pytest.mark.parametrize(
    ("text", "protocol", "names"),
    [
        ("3des-sha1", ESP, ["3DES_CBC"]),
        ("des-md5", ESP, ["DES_CBC", "HMAC_MD5_96"]),
        ("des_iv32-sha256", ESP, ["DES_IV32"]),
        ("cast128-blowfish256-idea-sha256", ESP, ["CAST_CBC", "BLOWFISH_CBC", "IDEA_CBC"]),
        ("keyed_md5", AH, ["KPDK_MD5"]),
        ("aes128-md5-modp1024", IKE, ["HMAC_MD5_96", "PRF_HMAC_MD5", "MODP_1024"]),
        ("aes128-sha1-modp768-modp1536-ecp192", IKE, ["MODP_768", "MODP_1536", "ECP_192"]),
        ("aes128-sha1-modp1024s160-modp2048s224-modp2048s256", IKE,
         ["MODP_1024_160", "MODP_2048_224", "MODP_2048_256"]),
        ("aes128gcm16-prfsha256-x25519-ke1_modp1024", IKE, ["MODP_1024"]),
    ],
)  # fmt: skip
def test_weak_ones_need_the_word(text: str, protocol: SecurityProtocol, names: list[str]) -> None:
    """Everything weak is named, the cure is spelled out, and what it says works."""
    with pytest.raises(ValueError, match="weak by today's measure") as caught:
        parse_proposal(text, protocol)
    cure = str(caught.value).split("or write '")[1].split("'")[0]
    assert cure == f"{text}-weak"
    assert all(name in str(caught.value) for name in names)
    proposal = parse_proposal(cure, protocol)
    assert weak_algorithms([proposal]) == names
    assert parse_proposal(f"weak-{text}", protocol) == proposal


def test_what_is_old_but_not_weak() -> None:
    for text in ("null-sha256", "aes128-sha1", "aes128-sha1_160", "aes256gmac", "camellia128ctr-aescmac"):
        assert weak_algorithms(parse_proposals([text], ESP)) == []
    assert parse_proposal("aes128-sha256-x25519-weak", IKE) == parse_proposal("aes128-sha256-x25519", IKE)


def test_proposals_of_ah() -> None:
    proposal = parse_proposal("ah:sha256-aesxcbc-esn", AH)
    assert (proposal.protocol, proposal.encr, proposal.ke) == (AH, (), ())
    assert proposal.integ == (IntegId.HMAC_SHA2_256_128, IntegId.AES_XCBC_96)
    assert proposal.esn == (EsnId.ESN,)
    assert parse_proposal("aes192gmac", AH).integ == (IntegId.AES_192_GMAC,)
    assert parse_proposal("ah_aes192gmac", AH).integ == (IntegId.AES_192_GMAC,)
    assert parse_proposal("ripemd160-x25519", AH).ke == (KeId.CURVE_25519,)
    assert parse_proposals([], AH) == default_proposals(AH)
    assert default_proposals(AH)[0].encr == ()


def test_additional_key_exchanges() -> None:
    proposal = parse_proposal(
        "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_mlkem1024-ke3_none-ke3_ecp384", IKE
    )
    assert proposal.ke == (KeId.CURVE_25519,)
    assert proposal.additional_ke == (
        (KeId.ML_KEM_768, KeId.ML_KEM_1024), (), (KeId.NONE, KeId.ECP_384),
    )  # fmt: skip
    assert parse_proposal("aes256gcm16-x25519-ke1_mlkem512-esn", ESP).additional_ke == ((KeId.ML_KEM_512,),)
    assert parse_proposal("aes256gcm16-x25519", ESP).additional_ke == ()


@pytest.mark.parametrize(
    ("text", "protocol", "word"),
    [
        ("aes128gcm6-x25519", IKE, "did you mean 'aes128gcm"),
        ("aes128-sha256", IKE, "no key exchange"),
        ("aes128gcm16-x25519", IKE, "no PRF"),
        ("sha256-x25519", IKE, "no encryption"),
        ("aes128-prfsha256-x25519", IKE, "no integrity"),
        ("aes128gcm16-aes128-sha256-x25519", IKE, "mixes"),
        ("aes128-sha256-x25519-esn", IKE, "ESN"),
        ("aes128-sha256-modpnone", IKE, "modpnone"),
        ("aes128", ESP, "no integrity"),
        ("aes128gcm16-sha256", ESP, "takes no integrity"),
        ("aes128gcm16-prfsha256", ESP, "PRF"),
        ("ike:aes128gcm16", ESP, "not one for ESP"),
        ("aes128gcm16-ke1_mlkem768", ESP, "beside a first one"),
        ("aes128gcm16-modpnone-ke1_mlkem768", ESP, "beside a first one"),
        ("serpent128-sha256", ESP, "no known algorithm"),
        ("aes128gcm16-x25519-ke8_mlkem768", ESP, "no known algorithm"),
        ("3des-sha1-week", ESP, "did you mean 'weak'"),
        ("null-sha256-x25519", IKE, "cannot protect IKE"),
        ("aes128gmac-prfsha256-x25519", IKE, "cannot protect IKE"),
        ("des_iv32-sha1-modp2048-weak", IKE, "cannot protect IKE"),
        ("aes128-keyed_md5-weak", ESP, "for AH alone"),
        ("null-ah_aes128gmac", ESP, "for AH alone"),
        ("aes128-sha256", AH, "does not encrypt"),
        ("esn", AH, "no integrity"),
        ("sha256-prfsha256", AH, "PRF"),
    ],
)
def test_bad_proposals(text: str, protocol: SecurityProtocol, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_proposal(text, protocol)

"""The IKEv2 codec against golden messages (tests/unit/data/ikev2: .hex beside its readable twin .txt) and bad input."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from ipsecstack.wire.ikev2 import (
    Attribute,
    Auth,
    Cert,
    CertReq,
    Cp,
    Delete,
    Eap,
    Encrypted,
    Header,
    IdI,
    Ke,
    Nonce,
    Notify,
    NotifyType,
    Opaque,
    Payload,
    PayloadType,
    Sa,
    SaProposal,
    Transform,
    Ts,
    TsI,
    UnsupportedCriticalPayload,
    VendorId,
    WireError,
    build_message,
    chain_to_bytes,
    describe,
    exchange_name,
    make_header,
    notify_name,
    parse_chain,
    parse_message,
)

GOLDEN = Path(__file__).parent / "data" / "ikev2"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.hex"))


def octets(name: str) -> bytes:
    return bytes.fromhex("".join((GOLDEN / f"{name}.hex").read_text().split()))


def readable(data: bytes) -> str:
    """Header and payloads, a line each: the twin that people compare."""
    message = parse_message(data)
    header = message.header
    lines = [
        describe(message),
        f"SPIs {header.initiator_spi.hex()} {header.responder_spi.hex()} version {header.major}.{header.minor} "
        f"flags {header.flags:#04x} length {header.length}",
    ]
    lines += [repr(payload) for payload in message.payloads]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    data = octets(name)
    assert readable(data) == (GOLDEN / f"{name}.txt").read_text()
    message = parse_message(data)
    assert build_message(message.header, message.payloads) == data


def test_golden_messages_are_there() -> None:
    assert {"ike_sa_init_request", "ike_sa_init_response", "ike_auth_inner", "cookie", "delete"} <= set(NAMES)


def test_header_by_hand() -> None:
    """RFC 7296 §3.1, octet by octet."""
    data = bytes.fromhex("0102030405060708 1112131415161718 00 20 25 28 00000007 0000001c".replace(" ", ""))
    header = Header.parse(data)
    assert header == Header(bytes(range(1, 9)), bytes(range(0x11, 0x19)), 0, 2, 0, 37, 0x28, 7, 28)
    assert header.is_response
    assert header.from_initiator
    assert header.to_bytes() == data


def test_proposal_by_hand() -> None:
    """RFC 7296 §3.3: ESP with AES-CBC-128 and HMAC-SHA2-256-128."""
    proposal = SaProposal(1, 3, b"\xaa\xbb\xcc\xdd", (Transform.of(1, 12, 128), Transform.of(3, 12)))
    expected = "0000 0020 01 03 04 02 aabbccdd 0300000c 0100000c 800e0080 00000008 0300000c"
    assert Sa((proposal,)).to_bytes() == bytes.fromhex(expected.replace(" ", ""))
    assert proposal.transforms[0].key_bits == 128
    assert proposal.transforms[1].key_bits is None
    odd = Transform(1, 12, (Attribute(14, b"\0\x80"), Attribute(99, b"long", short=False)))
    assert not odd.understood
    assert Sa.parse(Sa((SaProposal(1, 3, b"", (odd,)),)).to_bytes()).proposals[0].transforms == (odd,)


def test_selector_by_hand() -> None:
    """RFC 7296 §3.13.1."""
    selector = Ts(7, 6, 80, 90, ip_address("10.0.0.1"), ip_address("10.0.0.9"))
    assert TsI((selector,)).to_bytes().hex() == "01000000070600100050005a0a0000010a000009"


@pytest.mark.parametrize(
    "payload, error",
    [
        (lambda: Nonce.parse(bytes(15)), "nonce"),
        (lambda: Nonce.parse(bytes(257)), "nonce"),
        (lambda: Ke.parse(b"\0\x13\0\0"), "KE"),
        (lambda: IdI.parse(b"\2\0\0"), "ID"),
        (lambda: Cert.parse(b""), "CERT"),
        (lambda: CertReq.parse(b""), "CERTREQ"),
        (lambda: Auth.parse(b"\2\0\0"), "AUTH"),
        (lambda: Notify.parse(b"\0\4\0\1abc"), "SPI size"),
        (lambda: Notify.parse(b"\0\4\0"), "shorter"),
        (lambda: Delete.parse(b"\3\4\0\2abcd"), "do not fit"),
        (lambda: Delete.parse(b"\3\0\0\2"), "no octets"),
        (lambda: TsI.parse(b"\1\0\0\0\7\0\0\x0c" + bytes(8)), "type 7"),
        (lambda: TsI.parse(b"\1\0\0\0\7\0\0\x03"), "does not fit"),
        (lambda: TsI.parse(b"\0\0\0\0x"), "follow"),
        (lambda: Sa.parse(b""), "cut short"),
        (lambda: Sa.parse(b"\1\0\0\x08\1\3\0\0"), "marker"),
        (lambda: Sa.parse(b"\0\0\0\x07\1\3\0\0"), "does not fit"),
        (lambda: Sa.parse(b"\0\0\0\x08\1\3\4\0"), "does not fit"),
        (lambda: Sa.parse(b"\0\0\0\x08\1\3\0\1"), "cut short"),
        (lambda: Sa.parse(b"\0\0\0\x10\1\3\0\1\3\0\0\x08\1\0\0\x0c"), "chain"),
        (lambda: Sa.parse(b"\0\0\0\x08\1\3\0\0x"), "follow"),
        (lambda: Sa.parse(b"\0\0\0\x12\1\3\0\1\0\0\0\x0a\1\0\0\x0c\x80\x0e"), "attribute"),
        (lambda: Sa.parse(b"\0\0\0\x14\1\3\0\1\0\0\0\x0c\1\0\0\x0c\0\x0e\0\xff"), "attribute"),
        (lambda: Header.parse(bytes(27)), "shorter"),
        (lambda: Header.parse(bytes(28)), "header says"),
        (lambda: parse_chain(33, b"\0\0\0\3"), "does not fit"),
        (lambda: parse_chain(33, b"\0\0"), "cut short"),
        (lambda: parse_chain(0, b"x"), "follow"),
    ],
)
def test_bad_input_has_a_clear_error(payload: object, error: str) -> None:
    assert callable(payload)
    with pytest.raises(WireError, match=error):
        payload()


def test_unknown_payloads() -> None:
    """Kept without the critical flag, refused with it; the flag of known types means nothing (RFC 7296 §2.5)."""
    assert parse_chain(200, b"\0\0\0\5x") == (Opaque(200, b"x"),)
    with pytest.raises(UnsupportedCriticalPayload) as caught:
        parse_chain(200, b"\0\x80\0\5x")
    assert caught.value.payload_type == 200
    assert parse_chain(40, b"\0\x80\0\x14" + bytes(16)) == (Nonce(bytes(16)),)
    assert parse_chain(48, b"\0\x80\0\x05x") == (Eap(b"x"),)


def test_configuration_payload() -> None:
    """Attributes in order, the reserved bit ignored (RFC 7296 §3.15)."""
    body = bytes.fromhex("02000000800100040a4d00010003000070040002abcd")
    payload = Cp.parse(body)
    assert payload == Cp(2, ((1, bytes((10, 77, 0, 1))), (3, b""), (0x7004, b"\xab\xcd")))
    assert payload.all(1) == [bytes((10, 77, 0, 1))]
    assert Cp.parse(payload.to_bytes()) == payload


@pytest.mark.parametrize(
    "body", ["0100", "0100000000", "01000000000100050a4d0001", "01000000" + 257 * "00010000"]
)
def test_configuration_payloads_that_are_refused(body: str) -> None:
    with pytest.raises(WireError, match="CP payload"):
        Cp.parse(bytes.fromhex(body))


def test_an_encrypted_payload_ends_the_chain() -> None:
    payloads: list[Payload] = [VendorId(b"v"), Encrypted(PayloadType.IDI, b"sealed")]
    first, chain = chain_to_bytes(payloads)
    assert parse_chain(first, chain) == tuple(payloads)
    with pytest.raises(WireError, match="follow"):
        parse_chain(first, chain + b"x")


def test_notify_numbers_are_the_registrys() -> None:
    assert NotifyType.INVALID_SYNTAX == 7
    assert NotifyType.TEMPORARY_FAILURE == 43
    assert NotifyType.INITIAL_CONTACT == 16384
    assert NotifyType.REKEY_SA == 16393
    assert NotifyType.SIGNATURE_HASH_ALGORITHMS == 16431
    assert Notify(43).is_error
    assert not Notify(16384).is_error
    assert notify_name(43) == "TEMPORARY_FAILURE"
    assert notify_name(8191) == "NOTIFY_8191"
    assert exchange_name(34) == "IKE_SA_INIT"
    assert exchange_name(240) == "EXCHANGE_240"


def test_lines_for_the_log() -> None:
    header = make_header(bytes(8), bytes(8), 34, 0, from_initiator=True, response=False)
    payloads = [
        Sa((SaProposal(1, 1, b"", ()),)),
        Ke(31, bytes(32)),
        Nonce(bytes(32)),
        Notify(16388),
        Notify(50000),
    ]
    text = describe(parse_message(build_message(header, payloads)))
    assert text == "IKE_SA_INIT request 0 [ SA KE No N(NATD_S_IP) N((50000)) ]"
    empty = make_header(bytes(8), bytes(8), 37, 3, from_initiator=True, response=True)
    assert describe(parse_message(build_message(empty, []))) == "INFORMATIONAL response 3 [ ]"


def test_too_long_a_payload_is_refused() -> None:
    with pytest.raises(WireError, match="octets long"):
        chain_to_bytes([VendorId(bytes(0xFFFF))])

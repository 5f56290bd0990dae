"""10,000 mutated messages into the codec: a message or a WireError, nothing else; what parses can be built again."""

from __future__ import annotations

import random

import pytest
from ike_network import Pair
from ikev2_mutate import mutate

from ipsecstack.wire.ikev2 import (
    Auth,
    Cert,
    CertReq,
    Cp,
    Delete,
    Eap,
    EncryptedFragment,
    IdI,
    IdR,
    Ke,
    Message,
    Nonce,
    Notify,
    Opaque,
    Payload,
    Sa,
    SaProposal,
    Transform,
    TsI,
    TsR,
    VendorId,
    WireError,
    build_message,
    chain_to_bytes,
    describe,
    parse_chain,
    parse_message,
)

COUNT = 10_000
CLASSES = [Sa, Ke, IdI, IdR, Cert, CertReq, Auth, Nonce, Notify, Delete, VendorId, TsI, TsR]


def corpus() -> list[bytes]:
    """Real messages of an exchange, and the inner payloads of the protected ones as messages in the clear."""
    pair = Pair()
    inner: list[bytes] = []
    from ipsecstack.keyex.ikev2 import machine

    original = machine._log_out

    def keep(sa: object, message: Message) -> None:
        inner.append(build_message(message.header, message.payloads))
        original(sa, message)  # type: ignore[arg-type]

    machine._log_out = keep
    try:
        pair.up()
        for command in ({"child": "net"}, {"ike": "conn"}):
            pair.a.do(pair.a.endpoint.rekey, **command)
            pair.run(10)
        pair.b.do(pair.b.endpoint.terminate, child="net")
        pair.run(10)
    finally:
        machine._log_out = original
    certs = build_message(
        parse_message(inner[0]).header,
        [
            Cert(4, bytes(64)),
            CertReq(4, bytes(40)),
            VendorId(b"vendor"),
            Cp(1, ((1, b""), (3, bytes(4)))),
            Eap(b"\x01\x01\0\5\1"),
            Opaque(200, b"x", critical=False),
        ],
    )
    header = parse_message(inner[0]).header
    fragments = [
        build_message(header, [Nonce(bytes(32)), EncryptedFragment(first, number, 3, bytes(60))])
        for first, number in ((35, 1), (0, 2), (0, 3))
    ]
    return [*inner, certs, *fragments]


@pytest.fixture(scope="module")
def messages() -> list[bytes]:
    return corpus()


def test_messages(messages: list[bytes]) -> None:
    rng = random.Random(20260)
    parsed = refused = 0
    for _ in range(COUNT):
        data = mutate(rng.choice(messages), rng, others=messages)
        try:
            message = parse_message(data)
        except WireError:
            refused += 1
            continue
        parsed += 1
        assert describe(message)
        again = build_message(message.header, message.payloads)
        assert parse_message(again).payloads == message.payloads
    assert parsed > 500
    assert refused > 500


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_each_payload(cls: type, messages: list[bytes]) -> None:
    """Each payload's decoder by itself, fed with mutations of such payloads and with noise."""
    rng = random.Random(cls.__name__)
    bodies = [p.to_bytes() for m in messages for p in parse_message(m).payloads if type(p) is cls] or [
        bytes(8)
    ]
    good = 0
    for _ in range(COUNT):
        source = rng.choice(bodies) if rng.random() < 0.9 else rng.randbytes(rng.randrange(60))
        body = mutate(source, rng, others=bodies)
        try:
            payload = cls.parse(body)
        except WireError:
            continue
        good += 1
        assert cls.parse(payload.to_bytes()) == payload
        assert repr(payload)
    assert good, "the mutations reach behind the first check"


def test_chains_of_noise() -> None:
    rng = random.Random(7)
    for _ in range(COUNT):
        first = rng.randrange(30, 56)
        try:
            payloads = parse_chain(first, rng.randbytes(rng.randrange(120)))
        except WireError:
            continue
        chain_to_bytes(payloads)


def test_the_longest_chain_is_bounded() -> None:
    many: list[Payload] = [Notify(16390)] * 200
    with pytest.raises(WireError, match="more than"):
        parse_chain(*chain_to_bytes(many))
    transforms = (Transform.of(1, 20, 128),) * 255
    proposals = tuple(SaProposal(i, 3, b"1234", transforms) for i in range(8))
    assert Sa.parse(Sa(proposals).to_bytes()).proposals == proposals

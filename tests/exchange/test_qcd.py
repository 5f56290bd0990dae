"""Quick crash detection (RFC 6290): proof that the peer lost an IKE SA, and what strangers can do with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ike_network import End, Pair, host

from ipsecstack.keyex import base
from ipsecstack.keyex.ikev2 import machine, qcd
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import (
    ExchangeType,
    Header,
    Notify,
    NotifyType,
    build_message,
    make_header,
    parse_message,
)

SECRET_A, SECRET_B = b"a" * 32, b"b" * 32
MAKER = Options(retransmit_jitter=0.0)


def _pair(a: bytes = b"", b: bytes = SECRET_B, **network: object) -> Pair:
    pair = Pair(options=MAKER, load=True, **network)
    for end, secret in ((pair.a, a), (pair.b, b)):
        end.options = replace(end.options, qcd_secret=secret)
        end.restart()
    return pair


def _spis(end: End) -> tuple[bytes, bytes]:
    (ike,) = end.ike()
    return ike.initiator_spi, ike.responder_spi


def _poke(pair: Pair, end: End) -> None:
    """The end asks its peer for a sign of life."""
    (sa,) = end.endpoint.registry.all()
    machine.check_liveness(sa)
    machine.pump(sa, pair.now)
    end.flush()


def _tokens(pair: Pair) -> list[bytes]:
    """Of all unprotected messages on the wire."""
    found: list[bytes] = []
    for data, _, _ in pair.transmitted:
        if Header.parse(data).next_payload in (41,):
            found += [
                n.data for n in parse_message(data).all(Notify) if n.type == NotifyType.QUICK_CRASH_DETECTION
            ]
    return found


@pytest.mark.parametrize("crashes", ["a", "b"])
def test_a_peer_that_lost_its_state_is_noticed_at_once(crashes: str) -> None:
    pair = _pair(SECRET_A, SECRET_B)
    pair.up()
    lost, other = (pair.a, pair.b) if crashes == "a" else (pair.b, pair.a)
    old = _spis(other)
    lost.restart()
    began = pair.now
    _poke(pair, other)
    pair.run(2)
    assert _spis(other) != old, "a new IKE SA is up"
    assert [c.state for c in other.children()] == ["INSTALLED"] == [c.state for c in lost.children()]
    assert pair.now - began <= 2
    assert [d.reason for d in other.heard(base.IkeSaDeleted)] == ["timeout"]
    assert other.endpoint.statistics()["qcd-crashes"] == 1
    assert lost.endpoint.statistics()["qcd-tokens"] == 1
    assert len(other.plane.sas) == 2
    assert len(_tokens(pair)) == 1


def test_a_silent_deletion_sends_nothing_over_the_old_ike_sa() -> None:
    pair = _pair()
    pair.up()
    old = _spis(pair.a)
    pair.b.restart()
    _poke(pair, pair.a)
    asked = len([1 for d, _, _ in pair.transmitted if Header.parse(d).initiator_spi == old[0]])
    pair.run(3)
    after = len([1 for d, _, _ in pair.transmitted if Header.parse(d).initiator_spi == old[0]])
    assert after == asked + 1, "only the answer with the token"


def test_without_a_secret_or_with_another_one_nothing_is_believed() -> None:
    for secret in (b"", b"c" * 32):
        pair = _pair()
        pair.up()
        old = _spis(pair.a)
        pair.b.options = replace(pair.b.options, qcd_secret=secret)
        pair.b.restart()
        _poke(pair, pair.a)
        pair.run(3)
        assert _spis(pair.a) == old
        assert pair.a.endpoint.statistics()["qcd-crashes"] == 0


@pytest.mark.parametrize("initiator", ["a", "b"])
def test_a_rekeyed_ike_sa_has_a_new_token(initiator: str) -> None:
    pair = _pair(SECRET_A, SECRET_B)
    pair.up()
    before = _spis(pair.a)
    end = pair.a if initiator == "a" else pair.b
    end.do(end.endpoint.rekey, ike="conn")
    pair.run(3)
    spis = _spis(pair.a)
    assert spis != before
    for taker, secret in ((pair.a, SECRET_B), (pair.b, SECRET_A)):
        (sa,) = taker.endpoint.registry.all()
        assert sa.peer_token == qcd.make_token(secret, *spis)
    pair.b.restart()
    _poke(pair, pair.a)
    pair.run(3)
    assert pair.a.endpoint.statistics()["qcd-crashes"] == 1
    assert [c.state for c in pair.a.children()] == ["INSTALLED"]


def _forged(spis: tuple[bytes, bytes], *, from_initiator: bool) -> bytes:
    """Looks encrypted, and is not."""
    header = make_header(*spis, ExchangeType.INFORMATIONAL, 7, from_initiator=from_initiator, response=False)
    return replace(header, next_payload=46, length=28 + 40).to_bytes() + b"\x00\x00\x00\x28" + bytes(36)


def test_no_token_for_an_ike_sa_that_stands() -> None:
    """§10.2: somebody asks for it in every way that the SPIs can be put into a header."""
    pair = _pair(SECRET_A, SECRET_B)
    pair.up()
    spi_i, spi_r = _spis(pair.a)
    for spis in (
        (spi_i, spi_r),
        (spi_r, spi_i),
        (spi_i, bytes(7) + b"1"),
        (bytes(7) + b"1", spi_r),
        (spi_i, bytes(8)),
    ):
        for flag in (True, False):
            for end in (pair.a, pair.b):
                end.endpoint.receive_datagram(
                    _forged(spis, from_initiator=flag), host(str(end.address)), host("10.0.0.77"), pair.now
                )
                end.flush()
                pair.now += 1  # the rate of answers is not what holds the token back
    live = [qcd.make_token(s, *p) for s in (SECRET_A, SECRET_B) for p in ((spi_i, spi_r), (spi_r, spi_i))]
    assert _tokens(pair), "pairs of which an end knows neither SPI get one"
    assert not set(_tokens(pair)) & set(live)
    pair.run(30)
    assert _spis(pair.a) == (spi_i, spi_r)


def test_no_token_before_the_response_has_arrived() -> None:
    """Who sees the IKE_SA_INIT response on its way knows both SPIs before the initiator does."""
    pair = _pair(SECRET_A, SECRET_B)
    seen: list[tuple[bytes, bytes]] = []

    def tap(end: End, output: base.SendDatagram) -> bool:
        header = Header.parse(output.data)
        if header.exchange == ExchangeType.IKE_SA_INIT and header.is_response:
            seen.append((header.initiator_spi, header.responder_spi))
            return False
        return True

    pair.tap = tap
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(1)
    for spis in seen:
        for flag in (True, False):
            for end in (pair.a, pair.b):
                data = _forged(spis, from_initiator=flag)
                end.endpoint.receive_datagram(data, host(str(end.address)), host("10.0.0.77"), pair.now)
                end.flush()
    assert seen
    assert _tokens(pair) == []


def test_tokens_are_only_for_what_looks_encrypted_and_within_the_rate() -> None:
    pair = _pair()
    spis = (b"11111111", b"22222222")
    header = make_header(*spis, ExchangeType.INFORMATIONAL, 0, from_initiator=True, response=False)
    plain = build_message(header, [Notify(NotifyType.INVALID_IKE_SPI)])
    pair.b.endpoint.receive_datagram(plain, host("10.0.0.2"), host("10.0.0.1"), pair.now)
    pair.b.flush()
    assert _tokens(pair) == []
    for _ in range(200):
        data = _forged(spis, from_initiator=True)
        pair.b.endpoint.receive_datagram(data, host("10.0.0.2"), host("10.0.0.1"), pair.now)
    pair.b.flush()
    assert _tokens(pair) == [qcd.make_token(SECRET_B, *spis)] * len(_tokens(pair))
    assert 1 <= len(_tokens(pair)) <= 20
    assert pair.b.endpoint.statistics()["qcd-tokens"] == len(_tokens(pair))


def _answer(spis: tuple[bytes, bytes], *tokens: bytes, kind: int = NotifyType.INVALID_IKE_SPI) -> bytes:
    header = make_header(*spis, ExchangeType.INFORMATIONAL, 2, from_initiator=False, response=True)
    notifies = [Notify(NotifyType.QUICK_CRASH_DETECTION, token, 1) for token in tokens]
    return build_message(header, [Notify(kind), *notifies])


def test_forged_tokens_change_nothing() -> None:
    pair = _pair(SECRET_A, SECRET_B)
    pair.up()
    spis = _spis(pair.a)
    good = qcd.make_token(SECRET_B, *spis)
    bad = [
        _answer(spis, bytes(32)),
        _answer(spis, good[:-1]),
        _answer(spis, good + b"\0"),
        _answer(spis, b""),
        _answer(spis, *([bytes(32)] * 4), good),  # beyond those that are compared
        _answer(spis, good, kind=NotifyType.NO_PROPOSAL_CHOSEN),
        _answer(spis, qcd.make_token(SECRET_A, *spis)),  # our own
        _answer(spis, good)[:-3],
    ]
    for data in bad:
        pair.a.endpoint.receive_datagram(data, host("10.0.0.1"), host("10.0.0.2"), pair.now)
        pair.a.flush()
    pair.run(10)
    assert _spis(pair.a) == spis
    assert pair.a.endpoint.statistics()["qcd-crashes"] == 0
    pair.a.endpoint.receive_datagram(
        _answer(spis, bytes(32), good), host("10.0.0.1"), host("10.0.0.2"), pair.now
    )
    pair.a.flush()
    assert pair.a.endpoint.statistics()["qcd-crashes"] == 1, "one of several is enough"


def test_the_token_is_in_no_log_line_and_no_repr() -> None:
    pair = _pair(SECRET_A, SECRET_B)
    pair.up()
    token = qcd.make_token(SECRET_B, *_spis(pair.a))
    said = "\n".join(pair.a.log() + pair.b.log())
    assert token.hex() not in said
    assert repr(SECRET_B) not in repr(pair.b.options)

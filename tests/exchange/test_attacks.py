"""What strangers and ill-disposed authenticated peers may not do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ike_network import IKE_CBC, IKE_GCM, SECRET, End, Nat, Pair, connection, fqdn, host, mirrored, ts

from ipsecstack.ipsec.sa import Direction
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.keyex import base
from ipsecstack.keyex.admission import Refusals
from ipsecstack.keyex.configuration import SharedSecret, UniquePolicy
from ipsecstack.keyex.ikev2 import narrowing
from ipsecstack.keyex.ikev2.proposals import select
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.options import Options
from ipsecstack.keyex.window import ResponseWindow
from ipsecstack.wire.ikev2 import (
    CertReq,
    ExchangeType,
    IdI,
    IdR,
    Message,
    Nonce,
    Notify,
    NotifyType,
    Opaque,
    Payload,
    Sa,
    SaProposal,
    Transform,
    TsI,
    TsR,
    build_message,
    make_header,
    parse_chain,
    parse_message,
)
from ipsecstack.wire.transforms import KeId


def live(end: End) -> IkeSa:
    return list(end.endpoint.registry.all())[-1]


def ask(pair: Pair, payloads: list[Payload]) -> Message:
    """An authenticated CREATE_CHILD_SA request of a's, made by hand; b's answer to it."""
    ours, theirs = live(pair.a), live(pair.b)
    assert ours.protection is not None
    header = make_header(
        ours.spi_i,
        ours.spi_r,
        ExchangeType.CREATE_CHILD_SA,
        theirs.responses.expected,
        from_initiator=True,
        response=False,
    )
    pair.b.endpoint.receive_datagram(
        ours.protection.seal(header, payloads), theirs.local, theirs.remote, pair.now
    )
    pair.b.flush()
    reply = pair.b.sent[-1].data
    opened = ours.protection.open(reply, parse_message(reply).payloads)
    return Message(parse_message(reply).header, parse_chain(*opened))


def child_request(spi: int, selectors: int = 1) -> list[Payload]:
    proposal = SaProposal(1, 3, spi.to_bytes(4, "big"), (Transform.of(1, 20, 128), Transform.of(5, 0)))
    own = ts(*(f"10.1.0.{n}/32" for n in range(selectors)))
    peer = ts(*(f"10.2.0.{n}/32" for n in range(selectors)))
    return [
        Sa((proposal,)),
        Nonce(bytes(32)),
        TsI(narrowing.to_wire(own)),
        TsR(narrowing.to_wire(peer)),
    ]


# --- IKE_AUTH that is refused ---


def wrong_secret(pair: Pair) -> None:
    pair.a.credentials.clear()
    pair.a.credentials.load_shared(SharedSecret("psk", b"another secret", (fqdn("a.lab"), fqdn("b.lab"))))


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_refusal_is_repeated(lost: int) -> None:
    pair = Pair()
    wrong_secret(pair)
    swallowed: list[bytes] = []

    def tap(sender: End, output: base.SendDatagram) -> bool:
        if sender is pair.b and output.data[18] == ExchangeType.IKE_AUTH and len(swallowed) < lost:
            swallowed.append(output.data)
            return False
        return True

    pair.tap = tap
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(20)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None
    assert "AUTHENTICATION_FAILED" in outcome.message
    assert "TIMEOUT" not in pair.a.failures()
    assert len(swallowed) == lost
    assert len(pair.b.failures()) == 1, "the retransmission is no second failure"
    assert not pair.b.ike()
    answers = {o.data for o in pair.b.sent if o.data[18] == ExchangeType.IKE_AUTH}
    assert len(answers) == 1, "octet for octet the same"


def test_refusals_are_remembered_for_a_while_and_only_for_their_request() -> None:
    pair = Pair()
    wrong_secret(pair)
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(1)
    request = next(o for o in pair.a.sent if o.data[18] == ExchangeType.IKE_AUTH)

    def answered(data: bytes) -> bool:
        before = len(pair.b.sent)
        pair.b.endpoint.receive_datagram(data, request.remote, request.local, pair.now)
        pair.b.flush()
        new = pair.b.sent[before:]
        return any(o.data[18] == ExchangeType.IKE_AUTH and o.data[16] == 46 for o in new)

    assert answered(request.data)
    assert not answered(request.data[:-1] + bytes((request.data[-1] ^ 1,)))
    assert not answered(bytes(8) + request.data[8:])
    pair.run(40)
    assert not answered(request.data), "not for ever"


def test_refusals_are_bounded_and_ask_for_cookies() -> None:
    kept = Refusals(30.0, limit=4)
    address = host("192.0.2.1").host
    for number in range(10):
        kept.keep(bytes(8), number.to_bytes(8, "big"), address, ResponseWindow(), 0.0)
    assert kept.count(address, 1.0) == (4, 4)
    assert kept.count(host("192.0.2.2").host, 1.0) == (4, 0)
    assert kept.count(address, 31.0) == (0, 0)

    pair = Pair()
    wrong_secret(pair)
    for _ in range(8):
        pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
        pair.run(1)
    assert pair.b.endpoint.statistics()["cookies-sent"] == 5, "three attempts are free"
    assert pair.b.endpoint.statistics()["half-open-drops"] == 0
    assert len(pair.b.failures()) == 8


def test_a_malformed_auth_request_ends_the_attempt() -> None:
    pair = Pair()
    requests: list[base.SendDatagram] = []
    pair.tap = lambda sender, output: (
        not (sender is pair.a and output.data[18] == ExchangeType.IKE_AUTH and not requests.append(output))
    )
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(1)
    ours = live(pair.a)
    assert ours.protection is not None
    header = make_header(
        ours.spi_i, ours.spi_r, ExchangeType.IKE_AUTH, 1, from_initiator=True, response=False
    )
    data = ours.protection.seal(header, [Nonce(bytes(32))])
    pair.b.endpoint.receive_datagram(data, requests[0].remote, requests[0].local, pair.now)
    pair.b.flush()
    assert not pair.b.ike()
    assert pair.b.failures() == ["INVALID_SYNTAX"]


# --- downgrade ---


def test_a_connection_is_not_had_with_the_algorithms_of_another() -> None:
    """IKE_SA_INIT is answered before the identity is known; the connection then chosen must permit the suite."""
    weak = connection(
        "weak",
        local="10.0.0.2",
        remote="10.0.0.1",
        local_id="b.lab",
        remote_id="guest.lab",
        child="guest",
        proposals=(IKE_CBC,),
    )
    _, strong = mirrored()
    pair = Pair(load=False)
    pair.b.load(weak)
    pair.b.load(strong)
    pair.a.load(replace(mirrored()[0], proposals=(IKE_CBC,)))
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(5)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None
    assert not outcome.success
    assert "NO_PEER_CONFIG" in pair.b.failures()
    pair.a.load(replace(mirrored()[0], proposals=(IKE_GCM,)))
    pair.up()


# --- SPIs ---


def test_a_peer_cannot_claim_an_spi_twice() -> None:
    pair = Pair()
    pair.up()
    before = dict(pair.b.plane.sas)
    spi = pair.b.children()[0].spi_out
    answer = ask(pair, child_request(spi))
    assert answer.notify(NotifyType.TEMPORARY_FAILURE) is not None
    assert pair.b.plane.sas == before
    assert not pair.b.plane.reserved
    assert ask(pair, child_request(0xABCD1234)).get(Sa) is not None


def three_behind_one_nat() -> tuple[Pair, End]:
    a, b = mirrored(remote="10.0.0.2")
    b = replace(b, remote_addrs=("%any",))
    pair = Pair(a=a, b=b)
    pair.nats.append(Nat("10.0.0.1", "192.0.2.9"))
    other = pair.add("c", "10.0.0.3")
    pair.nats.append(Nat("10.0.0.3", "192.0.2.10"))
    other.credentials.load_shared(SharedSecret("psk", SECRET, (fqdn("c.lab"), fqdn("b.lab"))))
    pair.b.credentials.load_shared(SharedSecret("psk2", SECRET, (fqdn("c.lab"), fqdn("b.lab"))))
    shape: dict[str, Any] = {"local_ts": ("10.3.0.0/24",), "remote_ts": ("10.2.0.0/24",)}
    other.load(connection(local="10.0.0.3", remote="10.0.0.2", local_id="c.lab", remote_id="b.lab", **shape))
    pair.b.load(
        connection(
            "third",
            local="10.0.0.2",
            remote="%any",
            local_id="b.lab",
            remote_id="c.lab",
            local_ts=("10.2.0.0/24",),
            remote_ts=("10.3.0.0/24",),
            child="third",
        )
    )
    return pair, other


def test_a_peer_cannot_move_onto_the_spi_of_another() -> None:
    """Two peers behind NATs have the same SPI at different addresses; one then claims to be at the other's."""
    pair, other = three_behind_one_nat()
    pair.up()
    victim = pair.b.endpoint.registry.all()[0]
    spi = victim.children[0].spi_out
    other.plane.allocate = lambda rng: other.plane.reserved.add(spi) or spi  # type: ignore[method-assign,assignment,func-returns-value]
    other.do(other.endpoint.initiate, ike=None, child="net")
    pair.run(5)
    attacker = pair.b.endpoint.registry.all()[-1]
    assert attacker is not victim
    assert attacker.children[0].spi_out == spi
    assert attacker.nat_remote
    before = dict(pair.b.plane.sas)
    inbound = attacker.children[0].inbound
    assert inbound is not None
    pair.b.do(pair.b.endpoint.peer_address_changed, sa=inbound, remote=victim.remote)
    assert attacker.remote.host != victim.remote.host
    assert pair.b.plane.sas == before
    assert any("in use already" in line for line in pair.b.log())
    other.do(other.endpoint.terminate, ike="conn")
    pair.run(5)
    assert any(
        sa.spi == spi and sa.direction is Direction.OUT and sa.destination.host == victim.remote.host
        for sa in pair.b.plane.sas.values()
    ), "the victim's SA is still there"


# --- much of everything ---


def test_many_selectors_give_an_answer() -> None:
    a, b = mirrored(
        local_ts=tuple(f"10.1.{n}.0/24" for n in range(8)),
        remote_ts=tuple(f"10.2.{n}.0/24" for n in range(8)),
        fragmentation="no",
    )
    pair = Pair(a=a, b=b)
    pair.up()
    low, high = host("0.0.0.0").host, host("255.255.255.255").host
    wide = [TrafficSelector(low, high, 6, port, port) for port in range(1, 65)]  # 64 times 8 are 512
    payloads = child_request(0x1234567)
    payloads[2:] = [TsI(narrowing.to_wire(wide)), TsR(narrowing.to_wire(wide))]
    answer = ask(pair, payloads)
    tsi = answer.get(TsI)
    assert tsi is not None
    assert len(tsi.selectors) == 255


def first_request(extra: list[Payload]) -> bytes:
    pair = Pair()
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    message = parse_message(pair.a.sent[0].data)
    return build_message(message.header, [*message.payloads, *extra])


def test_a_long_first_request_is_not_read() -> None:
    pair = Pair(load=False)
    pair.b.load(mirrored()[1])
    data = first_request([Notify(40000, bytes(20_000))])
    pair.b.endpoint.receive_datagram(data, host("10.0.0.2"), host("10.0.0.1"), pair.now)
    pair.b.flush()
    assert not pair.b.sent
    assert not pair.b.ike()
    assert pair.b.endpoint.statistics()["invalid-messages"] == 1


def test_a_stranger_leaves_nothing_big_behind() -> None:
    """A first request's octets are kept for AUTH; certificate requests in it, which have no place there, are not."""
    pair = Pair(load=False)
    pair.b.load(mirrored()[1])
    data = first_request([CertReq(4, bytes(20 * 300))])
    pair.b.endpoint.receive_datagram(data, host("10.0.0.2"), host("10.0.0.1"), pair.now)
    pair.b.flush()
    (sa,) = pair.b.endpoint.registry.all()
    assert sa.initial is not None
    assert sa.initial.wanted_anchors == ()


def test_forged_packets_do_not_silence_the_log() -> None:
    pair = Pair()
    pair.up()
    sa = live(pair.b)
    header = make_header(
        sa.spi_i, sa.spi_r, ExchangeType.INFORMATIONAL, 5, from_initiator=True, response=False
    )
    forged = replace(header, next_payload=46, length=28 + 64).to_bytes() + bytes((0, 0, 0, 64)) + bytes(60)
    for _ in range(200):
        pair.b.endpoint.receive_datagram(forged, sa.local, sa.remote, pair.now)
    pair.b.flush()
    lines = len(pair.b.log())
    assert lines < 150
    pair.b.do(pair.b.endpoint.terminate, ike="conn")
    assert any("sending DELETE" in line for line in pair.b.log()[lines:])


def test_children_of_an_ike_sa_are_bounded() -> None:
    pair = Pair(options=Options(retransmit_jitter=0.0, children_limit=3))
    pair.up()
    for number in range(2):
        assert ask(pair, child_request(0x1000 + number)).get(Sa) is not None
    answer = ask(pair, child_request(0x2000))
    assert answer.notify(NotifyType.NO_ADDITIONAL_SAS) is not None
    assert len(pair.b.children()) == 3


def test_ike_sas_of_a_peer_are_bounded() -> None:
    a, b = mirrored(unique=UniquePolicy.NEVER)
    pair = Pair(a=a, b=b, options=Options(retransmit_jitter=0.0, peer_limit=3))
    for _ in range(5):
        pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
        pair.run(5)
        for sa in pair.a.endpoint.registry.all():  # a forgets, b does not
            pair.a.endpoint.registry.remove(sa)
    assert len(pair.b.ike()) == 3
    assert "NO_ADDITIONAL_SAS" in pair.b.failures()


def test_rekeying_without_end_is_bounded() -> None:
    """Replaced IKE SAs that the peer does not delete count, too."""
    pair = Pair(options=Options(retransmit_jitter=0.0, peer_limit=4))
    pair.up()
    pair.tap = lambda sender, output: (
        not (
            sender is pair.a and output.data[18] == ExchangeType.INFORMATIONAL  # its Deletes
        )
    )
    for _ in range(12):
        pair.a.do(pair.a.endpoint.rekey, ike="conn")
        pair.run(2)
    assert len(pair.b.ike()) == 8
    assert [sa.state for sa in pair.b.ike()].count("ESTABLISHED") == 1
    pair.tap = None
    pair.run(400)
    assert len(pair.b.ike()) == len(pair.a.ike()) == 1
    pair.check_agreement()


@pytest.mark.parametrize("seed", range(12))
def test_crossing_initiations_with_unique_replace(seed: int) -> None:
    """Each end would replace the other's IKE SA by its own: one must stay, the same at both."""
    a, b = mirrored(unique=UniquePolicy.REPLACE)
    pair = Pair(a=a, b=b, seed=seed, reorder=0.5)
    for end in pair.ends:
        end.do(end.endpoint.initiate, ike=None, child="net")
        pair.run(0.006 * (seed % 6))
    pair.run(120)
    pair.check_agreement()
    pair.check_no_leaks()
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1
    assert len(pair.a.children("INSTALLED")) == 1


def test_views_follow_every_change() -> None:
    """Views of children are kept between changes: one that is asked for at any time is that of a fresh look."""
    a, b = mirrored(child_options={"rekey_time": 30, "rand_time": 0, "life_time": 60})
    pair = Pair(a=a, b=b)
    pair.up()
    for _ in range(200):
        for end in pair.ends:
            for sa in end.endpoint.registry.all():
                for child in sa.children:
                    assert child.view() == child._make_view()
        pair.run(0.7)


def test_auth_covers_the_reserved_octets_of_the_identity() -> None:
    """They are signed as they were sent (§2.15): changed ones do not verify, and odd ones that were signed do."""
    for body in (b"\x02\x00\x00\x00a.lab", b"\x02\x01\x02\x03a.lab"):
        assert IdI.parse(body).to_bytes() == body
        assert IdR.parse(body).to_bytes() == body


def test_a_first_request_costs_little_however_many_connections_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its proposals are compared once with each different set of ours, not with each connection's."""
    from ipsecstack.keyex import lookup
    from ipsecstack.keyex.ikev2 import ike_sa_init

    calls = {"select": 0, "address": 0}
    choose, match = ike_sa_init.select, lookup.match_address

    def counted_select(*arguments: Any, **named: Any) -> Any:
        calls["select"] += 1
        return choose(*arguments, **named)

    def counted_match(*arguments: Any) -> int:
        calls["address"] += 1
        return match(*arguments)

    monkeypatch.setattr(ike_sa_init, "select", counted_select)
    monkeypatch.setattr(lookup, "match_address", counted_match)
    pair = Pair(load=False)
    for number in range(200):
        proposals = (IKE_CBC,) if number % 2 else (IKE_GCM,)
        pair.b.load(
            connection(
                f"c{number}", local="10.0.0.2", remote="%any", remote_id=f"{number}.lab", proposals=proposals
            )
        )
    stranger = SaProposal(1, 1, b"", (Transform.of(1, 20, 192), Transform.of(2, 5), Transform.of(4, 31)))
    message = parse_message(first_request([]))
    others = [p for p in message.payloads if not isinstance(p, Sa)]
    data = build_message(message.header, [Sa((stranger,) * 200), *others])
    pair.b.endpoint.receive_datagram(data, host("10.0.0.2"), host("10.0.0.1"), pair.now)
    pair.b.flush()
    assert calls == {"select": 2, "address": 4}
    assert not pair.b.ike()


def test_only_so_many_proposals_are_looked_at() -> None:
    good = SaProposal(1, 1, b"", (Transform.of(1, 20, 256), Transform.of(2, 5), Transform.of(4, 31)))
    bad = SaProposal(1, 1, b"", (Transform.of(1, 20, 192), Transform.of(2, 5), Transform.of(4, 31)))
    for before, found in ((63, True), (64, False)):
        suite = select(
            (IKE_GCM,), (*(bad,) * before, good), protocol=IKE_GCM.protocol, with_ke=True, spi_octets=0
        )
        assert (suite is not None) is found


def test_an_unknown_critical_payload_in_the_first_request() -> None:
    """It is refused by its number (RFC 7296 §2.5); without the flag it is passed over. Nothing stays either way."""
    for critical in (True, False):
        pair = Pair(load=False)
        pair.b.load(mirrored()[1])
        data = first_request([Opaque(200, b"what", critical=critical)])
        pair.b.endpoint.receive_datagram(data, host("10.0.0.2"), host("10.0.0.1"), pair.now)
        pair.b.flush()
        answer = parse_message(pair.b.sent[0].data)
        said = answer.notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)
        assert (said == Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes((200,)))) is critical
        assert bool(pair.b.ike()) is not critical


def test_cookies_beside_a_wrong_guess_of_the_method() -> None:
    """COOKIE and INVALID_KE_PAYLOAD in one IKE_SA_INIT: the cookie stays good for the other KE value (§2.6.1)."""
    a, b = mirrored()
    both = replace(IKE_GCM, ke=(KeId.ECP_384, KeId.CURVE_25519))
    pair = Pair(
        a=replace(a, proposals=(both,)),
        b=replace(b, proposals=(IKE_GCM,), remote_addrs=("%any",)),
        options=Options(cookie_threshold=1, cookie_threshold_ip=1, retransmit_jitter=0.0),
    )
    stranger = first_request([])
    pair.b.endpoint.receive_datagram(stranger, host("10.0.0.2"), host("10.0.0.9"), pair.now)
    pair.b.flush()
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(5)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None
    assert outcome.success
    requests = [parse_message(o.data) for o in pair.a.sent if o.data[18] == 34]
    cookies = [m.notify(NotifyType.COOKIE) for m in requests]
    assert [c is not None for c in cookies] == [False, True, True]
    assert cookies[1] == cookies[2]
    assert pair.b.endpoint.statistics()["cookies-sent"] == 1

"""Session resumption (RFC 5723): tickets, IKE_SESSION_RESUME in both roles, and what makes a ticket void."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from eap_support import ALICE, eap_pair, pool
from ike_network import IKE_CBC, IKE_GCM, End, Nat, Pair, fqdn, host, mirrored
from ike_pki import certificate, make_key, pem

from ipsecstack.crypto import ikekeys
from ipsecstack.keyex import commands
from ipsecstack.keyex.admission import Decision, HalfOpen
from ipsecstack.keyex.configuration import AuthClass, AuthConfig, Proposal, SharedSecret, UniquePolicy
from ipsecstack.keyex.ikev2 import lifecycle, resumption
from ipsecstack.keyex.options import Options
from ipsecstack.keyex.tickets import Spent
from ipsecstack.wire.ikev2 import (
    ExchangeType,
    Header,
    Ke,
    Nonce,
    Notify,
    NotifyType,
    build_message,
    make_header,
    parse_message,
)


def _pair(options: Options | None = None, **connection: Any) -> Pair:
    a, b = mirrored(session_resumption=True, **connection)
    return Pair(a=a, b=b, options=options)


def _lose(pair: Pair, end: End) -> None:
    """The end gives its IKE SAs up: the peer was not reached for too long."""
    for sa in list(end.endpoint.registry.all()):
        lifecycle.destroy(sa, "timeout", pair.now)
    end.flush()


def _exchanges(pair: Pair, since: int = 0) -> list[int]:
    return [Header.parse(data).exchange for data, _, _ in pair.transmitted[since:]]


def _again(pair: Pair, *, agree: bool = True) -> list[int]:
    """The client loses its IKE SA and comes back; the exchanges of that."""
    _lose(pair, pair.a)
    mark = len(pair.transmitted)
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(60)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None
    assert outcome.success, outcome.message
    if agree:
        assert len(pair.a.ike()) == len(pair.b.ike()) == 1
        assert len(pair.a.plane.sas) == len(pair.b.plane.sas) == 2
        out, into = pair.a.plane.outbound()[0], pair.b.plane.inbound()[0]
        assert (out.spi, out.key_encr) == (into.spi, into.key_encr)
    return _exchanges(pair, mark)


RESUME, INIT, AUTH = ExchangeType.IKE_SESSION_RESUME, ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH


def _counts(end: End) -> tuple[int, int, int]:
    found = end.endpoint.statistics()
    return found["tickets-issued"], found["tickets-refused"], found["sessions-resumed"]


@pytest.mark.parametrize("proposal", [IKE_GCM, IKE_CBC])
def test_a_lost_ike_sa_is_resumed_in_two_exchanges(proposal: Proposal) -> None:
    pair = _pair(proposals=(proposal,))
    pair.up()
    old = pair.b.ike()[0]
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH]
    new = pair.b.ike()[0]
    assert (new.initiator_spi, new.responder_spi) != (old.initiator_spi, old.responder_spi)
    assert (new.remote_id, new.local_id, new.remote_auth, new.ke) == (
        old.remote_id,
        old.local_id,
        "psk",
        old.ke,
    )
    first = parse_message(next(d for d, _, _ in pair.transmitted if Header.parse(d).exchange == RESUME))
    assert first.get(Ke) is None, "no key exchange"
    assert _counts(pair.a) == (0, 0, 1)
    assert _counts(pair.b) == (2, 0, 1)
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH], "with the ticket of the resumed IKE_SA"


def test_keys_come_from_the_old_sk_d_and_both_nonces() -> None:
    pair = _pair()
    pair.up()
    (old,) = pair.a.endpoint.registry.all()
    assert old.keys is not None
    assert old.prf is not None
    sk_d, prf = old.keys.sk_d, old.prf
    _again(pair)
    (new,) = pair.a.endpoint.registry.all()
    messages = [parse_message(d) for d, _, _ in pair.transmitted if Header.parse(d).exchange == RESUME]
    ni, nr = (m.get(Nonce) for m in messages)
    assert ni is not None
    assert nr is not None
    seed = prf.compute(sk_d, b"Resumption" + ni.data + nr.data)
    assert ikekeys.skeyseed_resumed(prf, sk_d, ni.data, nr.data) == seed
    assert new.keys is not None
    expected = ikekeys.prf_plus(prf, seed, ni.data + nr.data + new.spi_i + new.spi_r, 32)
    assert new.keys.sk_d == expected


def test_it_is_off_unless_both_ends_want_it() -> None:
    for a_wants, b_wants in ((False, True), (True, False)):
        a, b = mirrored()
        pair = Pair(a=replace(a, session_resumption=a_wants), b=replace(b, session_resumption=b_wants))
        pair.up()
        assert _again(pair) == [INIT, INIT, AUTH, AUTH]
        assert _counts(pair.b) == (0, 0, 0)


def test_a_demanded_cookie_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = _pair()
    pair.up()
    monkeypatch.setattr(HalfOpen, "decide", lambda *_: Decision.DEMAND_COOKIE)
    assert _again(pair) == [RESUME, RESUME, RESUME, RESUME, AUTH, AUTH]


def test_a_gateway_that_forgot_its_keys_is_met_with_a_full_exchange() -> None:
    pair = _pair()
    pair.up()
    pair.b.restart()
    assert _again(pair) == [RESUME, RESUME, INIT, INIT, AUTH, AUTH]
    assert _counts(pair.b) == (1, 1, 0)
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH]


def test_silence_is_met_with_a_full_exchange() -> None:
    """A gateway that does not know the exchange may drop it."""
    pair = _pair()
    pair.up()
    pair.tap = lambda end, output: not (end is pair.b and Header.parse(output.data).exchange == RESUME)
    began = pair.now
    found = _again(pair, agree=False)
    assert found.count(INIT) == 2
    assert [e for e in found if e not in (INIT, AUTH)] == [RESUME] * found.count(RESUME)
    assert pair.now - began < 61
    assert [c.state for c in pair.a.children()] == ["INSTALLED"]
    pair.run(60)
    assert len(pair.b.ike()) == 1, "the half-open one is gone"


def test_lost_and_doubled_datagrams() -> None:
    for seed in range(6):
        pair = _pair()
        pair.up()
        pair.rng.seed(seed)
        pair.loss, pair.duplicate = 0.3, 0.3
        _again(pair, agree=False)
        pair.loss = pair.duplicate = 0.0
        pair.run(200)
        assert len(pair.a.ike()) == 1
        assert len(pair.b.ike()) == 1


def test_a_ticket_is_good_once() -> None:
    """Somebody who saw the request sends it again, and the client's own ticket does not come back."""
    pair = _pair()
    pair.up()
    held = pair.a.endpoint.sessions.held["conn"]
    _again(pair)
    seen = next(d for d, s, _ in pair.transmitted if Header.parse(d).exchange == RESUME)
    pair.run(1)
    before = pair.b.ike()
    replayed = b"X" * 8 + seen[8:]
    mark = len(pair.transmitted)
    pair.b.endpoint.receive_datagram(replayed, host("10.0.0.2"), host("10.0.0.1"), pair.now)
    pair.b.flush()
    answer = parse_message(pair.transmitted[mark][0])
    assert answer.notify(NotifyType.TICKET_NACK) is not None
    assert answer.header.responder_spi == bytes(8)
    assert [i.uniqueid for i in pair.b.ike()] == [i.uniqueid for i in before]
    pair.a.endpoint.sessions.held["conn"] = held
    assert _again(pair)[:4] == [RESUME, RESUME, INIT, INIT]


def test_two_resumptions_race_for_one_ticket() -> None:
    """Both are half-open: who proves that it has SK_d first wins, and a thief without it gets nothing."""
    pair = _pair()
    pair.up()
    _lose(pair, pair.a)
    pair.tap = lambda end, output: not (end is pair.a and Header.parse(output.data).exchange == RESUME)
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    (request,) = [o.data for o in pair.a.sent if Header.parse(o.data).exchange == RESUME][-1:]
    pair.tap = None
    pair.b.endpoint.receive_datagram(b"X" * 8 + request[8:], host("10.0.0.2"), host("10.0.0.66"), pair.now)
    pair.b.flush()
    assert len(pair.b.ike()) == 1 + (1 if "10.0.0.66" in str(pair.b.ike()) else 0)
    pair.run(60)
    assert [c.state for c in pair.a.children()] == ["INSTALLED"]
    assert pair.a.endpoint.statistics()["sessions-resumed"] == 1
    assert len(pair.b.ike()) == 1


@pytest.mark.parametrize("deletes", ["a", "b"])
def test_a_deleted_ike_sa_is_not_resumed(deletes: str) -> None:
    pair = _pair()
    pair.up()
    held = pair.a.endpoint.sessions.held["conn"]
    end = pair.a if deletes == "a" else pair.b
    end.do(end.endpoint.terminate, ike="conn")
    pair.run(2)
    assert pair.a.endpoint.sessions.held == {}, "the client forgets"
    assert _again(pair) == [INIT, INIT, AUTH, AUTH]
    end.do(end.endpoint.terminate, ike="conn")
    pair.run(2)
    pair.a.endpoint.sessions.held["conn"] = held
    assert _again(pair)[:4] == [RESUME, RESUME, INIT, INIT], "and the gateway does not take it"


def test_a_ticket_ends() -> None:
    pair = _pair(Options(retransmit_jitter=0.0, ticket_lifetime=100.0))
    pair.up()
    held = pair.a.endpoint.sessions.held["conn"]
    _lose(pair, pair.a)
    pair.run(101)
    pair.a.endpoint.sessions.held["conn"] = held
    assert _again(pair) == [INIT, INIT, AUTH, AUTH], "the client knows"
    pair.a.endpoint.sessions.held["conn"] = replace(held, expires=pair.now + 100)
    assert _again(pair)[:4] == [RESUME, RESUME, INIT, INIT], "the gateway knows as well"


def test_a_ticket_is_renewed_in_time() -> None:
    pair = _pair(Options(retransmit_jitter=0.0, ticket_lifetime=100.0))
    pair.up()
    pair.run(1000)
    assert _counts(pair.b)[0] >= 13
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH]


@pytest.mark.parametrize("rekeys", ["a", "b"])
def test_a_rekeyed_ike_sa_gets_a_ticket_of_its_own(rekeys: str) -> None:
    pair = _pair()
    pair.up()
    old = pair.a.endpoint.sessions.held["conn"]
    end = pair.a if rekeys == "a" else pair.b
    end.do(end.endpoint.rekey, ike="conn")
    pair.run(3)
    new = pair.a.endpoint.sessions.held["conn"]
    view = pair.a.ike()[0]
    assert (new.spi_i, new.spi_r) == (view.initiator_spi, view.responder_spi)
    pair.a.endpoint.sessions.held["conn"] = old
    assert _again(pair)[:4] == [RESUME, RESUME, INIT, INIT], "the old SK_d is gone"
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH]


def test_the_policy_is_checked_again() -> None:
    a, b = mirrored(session_resumption=True)
    other = replace(b.remote[0], id=fqdn("c.lab"))
    changed = {
        "identity": replace(b, remote=(other,)),
        "proposals": replace(b, proposals=(IKE_CBC,)),
        "switched off": replace(b, session_resumption=False),
        "other address": replace(b, remote_addrs=("10.0.0.9",)),
        "pools": replace(b, pools=("p",)),
    }
    for name, config in changed.items():
        pair = Pair(a=a, b=b)
        pair.up()
        pair.b.load(config)
        _lose(pair, pair.a)
        pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
        pair.run(1)
        refused = 0 if name == "other address" else 1  # no connection at all is no question of tickets
        assert _counts(pair.b)[1:] == (refused, 0), name
    pair = Pair(a=a, b=b)
    pair.up()
    pair.b.credentials.unload_shared("psk")
    _lose(pair, pair.a)
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(1)
    assert _counts(pair.b) == (1, 1, 0), "without its secret the peer is nobody"


def test_a_client_whose_connection_changed_begins_anew() -> None:
    pair = _pair()
    pair.up()
    config = pair.a.endpoint.connection("conn")
    assert config is not None
    pair.a.load(replace(config, proposals=(IKE_GCM, IKE_CBC)))
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH], "the algorithms are still permitted"
    pair.a.load(replace(config, remote=(replace(config.remote[0], revocation="strict"),)))
    assert _again(pair) == [INIT, INIT, AUTH, AUTH]


def test_an_authentication_is_not_made_longer() -> None:
    """The peer has to reauthenticate when it would have had to without resumption."""
    pair = _pair(Options(retransmit_jitter=0.0), reauth_time=1000.0, rand_time=0.0)
    pair.up()
    for _ in range(2):
        before = [end.ike()[0].reauth_time for end in (pair.a, pair.b)]
        pair.run(200)
        assert _again(pair) == [RESUME, RESUME, AUTH, AUTH]
        after = [end.ike()[0].reauth_time for end in (pair.a, pair.b)]
        for was, now in zip(before, after, strict=True):
            assert was is not None
            assert now == pytest.approx(was, abs=1.5)


def test_through_a_nat() -> None:
    a, b = mirrored(session_resumption=True)
    pair = Pair(a=replace(a, remote_addrs=("10.0.0.2",)), b=replace(b, remote_addrs=("%any",)))
    pair.nats.append(Nat("10.0.0.1", "192.0.2.1"))
    pair.up()
    found = _again(pair)
    assert found == [RESUME, RESUME, AUTH, AUTH]
    assert pair.b.ike()[0].nat_remote
    assert pair.a.ike()[0].remote.port == 4500


def test_reauthentication_is_a_full_exchange() -> None:
    pair = _pair(reauth_time=100.0, rand_time=0.0)
    pair.up()
    mark = len(pair.transmitted)
    pair.run(140)
    assert RESUME not in _exchanges(pair, mark)
    assert INIT in _exchanges(pair, mark)


def test_a_refused_or_broken_ticket_never_keeps_anything() -> None:
    pair = _pair()
    pair.up()
    _lose(pair, pair.a)
    good = pair.a.endpoint.sessions.held["conn"].ticket
    bad = [b"", b"\0", good[:-1], good + b"\0", bytes((good[0] ^ 1,)) + good[1:], bytes(len(good))]
    bad += [good[:i] + bytes((good[i] ^ 1,)) + good[i + 1 :] for i in range(1, len(good), 17)]
    before = [sa.uniqueid for sa in pair.b.ike()]
    for number, ticket in enumerate(bad):
        spi = (1000 + number).to_bytes(8, "big")
        header = make_header(spi, bytes(8), RESUME, 0, from_initiator=True, response=False)
        data = build_message(header, [Nonce(bytes(32)), Notify(NotifyType.TICKET_OPAQUE, ticket)])
        mark = len(pair.transmitted)
        pair.b.endpoint.receive_datagram(data, host("10.0.0.2"), host("10.0.0.1"), pair.now)
        pair.b.flush()
        answer = parse_message(pair.transmitted[mark][0])
        assert [n.type for n in answer.all(Notify)] == [NotifyType.TICKET_NACK]
    assert [sa.uniqueid for sa in pair.b.ike()] == before
    assert pair.b.endpoint.statistics()["tickets-refused"] == len(bad)


def test_nothing_of_a_ticket_is_in_a_log_or_repr() -> None:
    pair = _pair()
    pair.up()
    held = pair.a.endpoint.sessions.held["conn"]
    _again(pair)
    for text in ("\n".join(pair.a.log() + pair.b.log()), repr(held), repr(pair.b.endpoint.sessions.keys)):
        for secret in (held.sk_d, held.ticket):
            assert secret.hex() not in text
            assert repr(secret) not in text


def test_withdrawn_tickets_take_bounded_memory() -> None:
    spent = Spent(100)
    for number in range(1000):
        spent.add(number.to_bytes(16, "big"), issued=number, expires=5000, now=0)
    assert len(spent) == 100
    assert all(spent.has(n.to_bytes(16, "big"), n) for n in range(1000)), "forgotten, and still refused"
    assert not spent.has(b"y" * 16, 950)
    ended = Spent(10)
    for number in range(100):
        ended.add(number.to_bytes(16, "big"), issued=number, expires=number + 1, now=1000)
    assert not ended.has(b"y" * 16, 50), "what has ended needs no memory"


def test_a_gateway_may_send_the_ticket_later() -> None:
    """TICKET_ACK in the answer, the ticket in an INFORMATIONAL of the gateway's own; unasked ones are not kept."""
    pair = _pair()
    pair.up()
    held = pair.a.endpoint.sessions.held.pop("conn")
    (sa,) = pair.a.endpoint.registry.all()
    (gateway,) = pair.b.endpoint.registry.all()

    class Later(resumption.RequestTicket):
        def request(self, sa: Any, now: float) -> Any:
            data = (100).to_bytes(4, "big") + held.ticket
            return [Notify(NotifyType.TICKET_LT_OPAQUE, data)]

        def answered(self, sa: Any, message: Any, now: float) -> None:
            pass

    for awaited in (False, True):
        sa.features.ticket_awaited = awaited
        gateway.enqueue(Later())
        gateway.host.touch(gateway)
        pair.b.endpoint._settle()
        pair.run(1)
        assert ("conn" in pair.a.endpoint.sessions.held) is awaited
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH]


def test_a_rekeying_that_the_client_never_saw_the_end_of() -> None:
    """Its requests arrive, the answers do not: the gateway has a new IKE SA, the client the old one's ticket."""
    pair = _pair(unique=UniquePolicy.NEVER)  # without INITIAL_CONTACT, that is
    pair.up()
    pair.tap = lambda end, output: end is pair.a
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    pair.run(2)
    assert len(pair.b.ike()) == 2
    pair.tap = None
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH]


def _resumable(pair: Pair, **more: Any) -> Pair:
    for end in pair.ends:
        (config,) = end.endpoint.connections()
        end.load(replace(config, session_resumption=True, **more))
    return pair


SECOND = AuthConfig(AuthClass.PUBKEY, fqdn("a2.lab"))


@pytest.mark.parametrize("method", ["md5", "mschapv2", "tls", "two rounds"])
def test_a_client_of_eap_comes_back_without_it(method: str) -> None:
    """Neither EAP nor signatures again; who the peer is for EAP is in the ticket."""
    if method == "two rounds":
        pair = eap_pair(local2=SECOND, remote2=SECOND)
        pair.a.credentials.load_cert(certificate("ecdsa", "a2.lab"))
        pair.a.credentials.load_key(pem(make_key("ecdsa", "a2.lab")))
    else:
        pair = eap_pair(method)
    _resumable(pair)
    pair.up()
    old = pair.b.ike()[0]
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH]
    new = pair.b.ike()[0]
    assert (new.remote_id, new.remote_eap_id, new.remote_auth) == (
        old.remote_id,
        old.remote_eap_id,
        old.remote_auth,
    )
    assert pair.a.ike()[0].local_auth == ("ecdsa" if method == "two rounds" else "eap")
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH]
    assert old.remote_eap_id == (ALICE.text if method != "tls" else old.remote_eap_id)


def test_a_virtual_address_is_kept() -> None:
    a, b = mirrored(local_ts=(), session_resumption=True)
    pair = Pair(load=True)
    pair.b.endpoint.load_pool(pool())
    pair.a.load(replace(a, vips=(ip_address("0.0.0.0"),)))
    pair.b.load(replace(b, pools=("p4",)))
    pair.up()
    before = pair.a.ike()[0].local_vips
    assert before
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH]
    assert pair.a.ike()[0].local_vips == pair.b.ike()[0].remote_vips == before


def test_a_ppk_stays_in_the_keys() -> None:
    key = SharedSecret("ppk-one", bytes(range(32)), (fqdn("one.ppk"),), "ppk")
    pair = _pair(ppk_id=fqdn("one.ppk"), ppk_required=True)
    for end in pair.ends:
        end.credentials.load_shared(key)
    pair.up()
    assert _again(pair) == [RESUME, RESUME, AUTH, AUTH]
    assert pair.a.ike()[0].ppk
    assert pair.b.ike()[0].ppk
    # What was agreed on without one is not good for a connection that requires one.
    pair = _pair()
    for end in pair.ends:
        end.credentials.load_shared(key)
    pair.up()
    (config,) = pair.b.endpoint.connections()
    pair.b.load(replace(config, ppk_id=fqdn("one.ppk"), ppk_required=True))
    _lose(pair, pair.a)
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(5)
    assert _counts(pair.b) == (1, 1, 0)
    assert not pair.a.ike()


def test_another_ike_sa_beside_one_that_stands_is_not_resumed() -> None:
    """The ticket is there to replace a lost IKE SA; the gateway would end the one that stands."""
    pair = _pair(unique=UniquePolicy.NEVER)
    pair.up()
    (config,) = pair.a.endpoint.connections()
    mark = len(pair.transmitted)
    commands.begin(pair.a.endpoint, config, [], [], pair.now, tries=1)
    pair.a.flush()
    pair.run(2)
    assert _exchanges(pair, mark)[:2] == [INIT, INIT]
    assert len(pair.a.ike()) == len(pair.b.ike()) == 2
    assert [c.state for c in pair.b.children()] == ["INSTALLED"]

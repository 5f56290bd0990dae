"""IKE_SA_INIT and Child SA negotiation: algorithms, groups, cookies, selectors (RFC 7296 §1.2, §2.6, §2.7, §2.9)."""

from dataclasses import replace
from typing import Any

import pytest
from ike_network import ESP_GCM, IKE_CBC, IKE_GCM, Network, Pair, connection, host, mirrored, ts

from ipsecstack.ipsec.sa import Mode, SecurityProtocol
from ipsecstack.keyex import base
from ipsecstack.keyex.base import CommandError
from ipsecstack.keyex.configuration import ChildAction, ChildConfig, ConnectionConfig, Proposal
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import (
    Ke,
    Nonce,
    Sa,
    SaProposal,
    Transform,
    build_message,
    make_header,
    parse_message,
)
from ipsecstack.wire.transforms import EncrId, EsnId, IntegId, KeId, PrfId


def child_of(config: ConnectionConfig, **changes: Any) -> ConnectionConfig:
    return replace(config, children=(replace(config.children[0], **changes),))


def outcome(pair: Pair, seconds: float = 10) -> base.CommandFinished:
    ticket = pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(seconds)
    found = pair.a.outcome(ticket)
    assert found is not None
    return found


SUITES = [
    (IKE_GCM, ESP_GCM),
    (IKE_CBC, Proposal(SecurityProtocol.ESP, ((EncrId.AES_CBC, 256),), (IntegId.HMAC_SHA2_512_256,))),
    (
        Proposal(
            SecurityProtocol.IKE,
            ((EncrId.CHACHA20_POLY1305, 0),),
            (),
            (PrfId.HMAC_SHA2_512,),
            (KeId.ECP_384,),
        ),
        Proposal(SecurityProtocol.ESP, ((EncrId.CHACHA20_POLY1305, 0),), esn=(EsnId.ESN,)),
    ),
    (
        Proposal(
            SecurityProtocol.IKE,
            ((EncrId.AES_CBC, 128),),
            (IntegId.HMAC_SHA2_384_192,),
            (PrfId.HMAC_SHA2_384,),
            (KeId.MODP_2048,),
        ),
        Proposal(SecurityProtocol.ESP, ((EncrId.AES_GCM_16, 256),), esn=(EsnId.ESN, EsnId.NO_ESN)),
    ),
]


@pytest.mark.parametrize("ike, esp", SUITES)
def test_suites(ike: Proposal, esp: Proposal) -> None:
    a, b = mirrored(proposals=(ike,), child_options={"proposals": (esp,)})
    pair = Pair(a=a, b=b)
    pair.up()
    for end in pair.ends:
        sa, child = end.ike()[0], end.children()[0]
        assert (sa.encr, sa.encr_key_bits) == ike.encr[0]
        assert sa.prf is ike.prf[0]
        assert sa.ke is ike.ke[0]
        assert (child.encr, child.encr_key_bits) == esp.encr[0]
        assert child.esn is (EsnId.ESN in esp.esn[:1])
    for command in ({"ike": "conn"}, {"child": "net"}):
        pair.b.do(pair.b.endpoint.rekey, **command)
        pair.run(20)
    pair.check_agreement()


def test_default_proposals_meet_any_configured_one() -> None:
    a, b = mirrored()
    pair = Pair(a=child_of(replace(a, proposals=()), proposals=()), b=b)
    pair.up()
    assert pair.a.ike()[0].encr is EncrId.AES_GCM_16


def test_no_common_ike_proposal() -> None:
    a, b = mirrored()
    pair = Pair(a=a, b=replace(b, proposals=(IKE_CBC,)))
    assert not outcome(pair).success
    for end in pair.ends:
        assert "NO_PROPOSAL_CHOSEN" in end.failures()
        assert not end.ike()


def test_no_common_child_proposal_keeps_the_ike_sa() -> None:
    a, b = mirrored()
    other = Proposal(SecurityProtocol.ESP, ((EncrId.AES_CBC, 256),), (IntegId.HMAC_SHA2_256_128,))
    pair = Pair(a=a, b=child_of(b, proposals=(other,)))
    result = outcome(pair)
    assert not result.success
    assert "NO_PROPOSAL_CHOSEN" in result.message
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1
    assert not pair.a.children()
    # Refused once in IKE_AUTH, and again in a CREATE_CHILD_SA: by b, of what a began.
    assert not outcome(pair).success
    began, refused = (end.ike()[0].counters for end in pair.ends)
    assert (began.child_exchanges_out, began.child_rejects_out, began.child_invalids_out) == (1, 2, 0)
    assert (refused.child_exchanges_in, refused.child_rejects_in, refused.child_invalids_in) == (1, 2, 0)
    assert (began.child_rejects_in, began.child_invalids_in) == (0, 0)
    assert (refused.child_rejects_out, refused.child_invalids_out) == (0, 0)
    pair.check_no_leaks()


def test_other_group_first() -> None:
    """INVALID_KE_PAYLOAD: the initiator's first guess is wrong, its second is right (§1.2)."""
    groups = (KeId.CURVE_25519, KeId.ECP_256)
    a, b = mirrored()
    pair = Pair(
        a=replace(a, proposals=(replace(IKE_GCM, ke=groups),)),
        b=replace(b, proposals=(replace(IKE_GCM, ke=groups[1:]),)),
    )
    pair.up()
    assert pair.a.ike()[0].ke is KeId.ECP_256
    assert any("requested ECP_256" in line for line in pair.a.log())
    assert pair.a.endpoint.counters("conn")["ike-init-out-req"] == 2
    assert len(pair.b.ike()) == 1


def test_group_that_was_not_offered() -> None:
    a, b = mirrored()
    pair = Pair(a=a, b=replace(b, proposals=(replace(IKE_GCM, ke=(KeId.ECP_256,)),)))
    assert not outcome(pair).success
    assert not pair.a.ike()


def test_the_group_that_is_there_wins() -> None:
    """Both ends list both, in other orders: no second round trip."""
    a, b = mirrored()
    pair = Pair(
        a=replace(a, proposals=(replace(IKE_GCM, ke=(KeId.ECP_256, KeId.CURVE_25519)),)),
        b=replace(b, proposals=(replace(IKE_GCM, ke=(KeId.CURVE_25519, KeId.ECP_256)),)),
    )
    pair.up()
    assert pair.a.ike()[0].ke is KeId.ECP_256
    assert pair.a.endpoint.counters("conn")["ike-init-out-req"] == 1


def first_request(seed: int, ispi: bytes | None = None) -> bytes:
    """An IKE_SA_INIT request of nobody in particular."""
    transforms = (
        Transform.of(1, EncrId.AES_GCM_16, 256),
        Transform.of(2, PrfId.HMAC_SHA2_256),
        Transform.of(4, KeId.CURVE_25519),
    )
    header = make_header(
        ispi or seed.to_bytes(8, "big"), bytes(8), 34, 0, from_initiator=True, response=False
    )
    nonce = seed.to_bytes(32, "big")
    public = bytes([9]) + bytes(31)
    return build_message(
        header, [Sa((SaProposal(1, 1, b"", transforms),)), Ke(KeId.CURVE_25519, public), Nonce(nonce)]
    )


def open_pair(**options: Any) -> Pair:
    """``b`` takes requests from any address."""
    a, b = mirrored()
    return Pair(a=a, b=replace(b, remote_addrs=("%any",)), options=Options(retransmit_jitter=0.0, **options))


def test_cookies_under_load() -> None:
    """From the threshold on nothing is kept of a request without a cookie; an honest initiator still gets in (§2.6)."""
    pair = open_pair(cookie_threshold=5, cookie_threshold_ip=0, block_threshold_ip=0)
    for i in range(1, 40):
        pair.deliver(first_request(i), host(f"10.9.0.{i}"), host("10.0.0.2"))
    pair.run(0.1)
    assert len(pair.b.ike()) == 5
    answers = [parse_message(d.data) for d in pair.b.sent]
    cookies = [m for m in answers if m.notify(16390)]
    assert len(cookies) == 34
    assert all(m.header.responder_spi == bytes(8) and len(m.payloads) == 1 for m in cookies)
    pair.up()
    assert any("COOKIE" in line for line in pair.a.log())
    pair.run(60)
    assert len(pair.b.ike()) == 1, "half-open IKE SAs time out"
    assert "TIMEOUT" in pair.b.failures()


def test_a_cookie_is_good_for_its_request_only() -> None:
    pair = open_pair(cookie_threshold=1, cookie_threshold_ip=0, block_threshold_ip=0)
    pair.deliver(first_request(1), host("10.9.0.1"), host("10.0.0.2"))
    pair.deliver(first_request(2), host("10.9.0.2"), host("10.0.0.2"))
    pair.run(0.1)
    cookie = parse_message(pair.b.sent[-1].data).notify(16390)
    assert cookie is not None

    def with_cookie(seed: int, data: bytes) -> bytes:
        message = parse_message(first_request(seed))
        return build_message(message.header, [replace(cookie, data=data), *message.payloads])

    wrong = [
        (with_cookie(2, cookie.data[:-1] + bytes([cookie.data[-1] ^ 1])), "10.9.0.2"),
        (with_cookie(2, cookie.data), "10.9.0.3"),
        (with_cookie(3, cookie.data), "10.9.0.2"),
        (with_cookie(2, b""), "10.9.0.2"),
    ]
    for data, source in wrong:
        pair.deliver(data, host(source), host("10.0.0.2"))
        pair.run(0.1)
        assert len(pair.b.ike()) == 1
    pair.deliver(with_cookie(2, cookie.data), host("10.9.0.2"), host("10.0.0.2"))
    pair.run(0.1)
    assert len(pair.b.ike()) == 2


def test_one_address_cannot_take_all() -> None:
    pair = open_pair()
    for i in range(1, 50):
        pair.deliver(first_request(i), host("10.9.0.1", 1000 + i), host("10.0.0.2"))
    pair.run(0.1)
    assert len(pair.b.ike()) == 3
    pair.up()


# --- traffic selectors ---


def test_narrowing() -> None:
    a, b = mirrored()
    pair = Pair(
        a=child_of(a, local_ts=ts("10.1.0.0/16"), remote_ts=ts("10.0.0.0/8")),
        b=child_of(b, local_ts=ts("10.2.0.0/24", "10.3.0.0/24[tcp/443]"), remote_ts=ts("10.1.7.0/24")),
    )
    pair.up()
    child = pair.a.children()[0]
    assert child.local_ts == ts("10.1.7.0/24")
    assert set(child.remote_ts) == set(ts("10.2.0.0/24", "10.3.0.0/24[tcp/443]"))
    assert pair.a.plane.policies[0].local_ts == ts("10.1.7.0/24")
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(20)
    pair.check_agreement()
    assert pair.a.children()[0].local_ts == ts("10.1.7.0/24")


def test_selectors_without_anything_in_common() -> None:
    a, b = mirrored()
    pair = Pair(a=child_of(a, remote_ts=ts("172.16.0.0/24")), b=b)
    result = outcome(pair)
    assert not result.success
    assert "TS_UNACCEPTABLE" in result.message
    assert "TS_UNACCEPTABLE" in pair.b.failures()
    assert len(pair.a.ike()) == 1


def test_dynamic_selectors_are_the_ike_addresses() -> None:
    a, b = mirrored()
    pair = Pair(a=child_of(a, local_ts=(), remote_ts=()), b=child_of(b, local_ts=(), remote_ts=()))
    pair.up()
    assert pair.a.children()[0].local_ts == ts("10.0.0.1/32")
    assert pair.a.children()[0].remote_ts == ts("10.0.0.2/32")


def test_ipv6_inside_and_outside() -> None:
    a, b = mirrored(
        local="fd00::1",
        remote="fd00::2",
        local_ts=("fd01::/64", "10.1.0.0/24"),
        remote_ts=("fd02::/64", "10.2.0.0/24"),
    )
    network = Pair(load=False)
    network.a.address, network.b.address = host("fd00::1").host, host("fd00::2").host
    network.a.load(a)
    network.b.load(b)
    network.up()
    assert network.a.children()[0].local_ts == ts("fd01::/64", "10.1.0.0/24")
    assert not network.a.children()[0].encapsulated


def test_the_child_that_fits_best_is_taken() -> None:
    """Not the first whose selectors touch, but the one that was meant."""
    a, b = mirrored()
    wide = ChildConfig("wide", ts("0.0.0.0/0"), ts("0.0.0.0/0"), (ESP_GCM,))
    pair = Pair(a=a, b=replace(b, children=(wide, *b.children)))
    pair.up()
    assert [c.name for c in pair.b.children()] == ["net"]


def test_child_of_another_connection_of_the_same_peer() -> None:
    a, b = mirrored()
    other = replace(
        b,
        name="other",
        children=(ChildConfig("else", ts("10.8.0.0/24"), ts("10.9.0.0/24"), (ESP_GCM,)),),
    )
    pair = Pair(a=a, load=True, b=other)
    pair.b.load(b)
    pair.up()
    assert pair.b.ike()[0].name == "conn"


def test_several_children_on_one_ike_sa() -> None:
    a, b = mirrored()
    second_a = ChildConfig("two", ts("10.1.1.0/24"), ts("10.2.1.0/24"), (ESP_GCM,))
    second_b = ChildConfig("two", ts("10.2.1.0/24"), ts("10.1.1.0/24"), (ESP_GCM,))
    pair = Pair(
        a=replace(a, children=(*a.children, second_a)), b=replace(b, children=(*b.children, second_b))
    )
    ticket = pair.a.do(pair.a.endpoint.initiate, ike="conn", child=None)
    pair.run(5)
    result = pair.a.outcome(ticket)
    assert result is not None
    assert result.success
    assert sorted(c.name for c in pair.a.children()) == ["net", "two"]
    assert len(pair.a.ike()) == 1
    assert len({c.reqid for c in pair.a.children()}) == 2
    pair.check_agreement()
    again = pair.a.do(pair.a.endpoint.initiate, ike="conn", child="two")
    pair.run(1)
    assert pair.a.outcome(again) is not None
    assert len(pair.a.children()) == 2, "what is up is not made twice"


def test_transport_mode() -> None:
    a, b = mirrored(child_options={"mode": Mode.TRANSPORT})
    pair = Pair(a=child_of(a, local_ts=(), remote_ts=()), b=child_of(b, local_ts=(), remote_ts=()))
    pair.up()
    assert {sa.mode for end in pair.ends for sa in end.plane.sas.values()} == {Mode.TRANSPORT}
    pair = Pair(a=a, b=child_of(b, mode=Mode.TUNNEL))
    pair.up()
    assert {sa.mode for end in pair.ends for sa in end.plane.sas.values()} == {Mode.TUNNEL}


def test_actions_trap_start_and_shunts() -> None:
    a, b = mirrored(child_options={"start_action": ChildAction.TRAP})
    bypass = ChildConfig(
        "dns", ts("10.1.0.0/24"), ts("10.2.0.53/32[udp/53]"), policy="BYPASS", start_action=ChildAction.TRAP
    )
    pair = Pair(a=replace(a, children=(*a.children, bypass)), b=b)
    trap, shunt = pair.a.plane.policies
    assert trap.trap
    assert trap.name == "conn/net"
    assert (shunt.action.value, shunt.trap, shunt.reqid) == ("BYPASS", False, 0)
    assert shunt.priority < trap.priority, "the more specific one is asked first"
    source, destination = host("10.1.0.7").host, host("10.2.0.8").host
    pair.a.do(
        pair.a.endpoint.acquired,
        entry=trap,
        source=source,
        destination=destination,
        protocol=6,
        ports=(1234, 80),
    )
    pair.a.do(
        pair.a.endpoint.acquired,
        entry=trap,
        source=source,
        destination=destination,
        protocol=6,
        ports=(1235, 80),
    )
    pair.run(5)
    assert len(pair.a.children()) == 1, "one acquire, one SA"
    assert pair.a.children()[0].reqid == trap.reqid
    pair.a.do(pair.a.endpoint.terminate, child="net")
    pair.run(10)
    assert [p.name for p in pair.a.plane.policies] == [
        "conn/dns",
        "conn/net",
    ] or trap in pair.a.plane.policies
    pair.a.do(pair.a.endpoint.uninstall, child="net", ike=None)
    assert trap not in pair.a.plane.policies
    pair.a.endpoint.unload_connection("conn", pair.now)
    pair.a.flush()
    assert not pair.a.plane.policies
    with pytest.raises(CommandError):
        pair.a.do(pair.a.endpoint.install, child="net", ike=None)


def test_commands_that_name_nothing() -> None:
    pair = Pair()
    endpoint = pair.a.endpoint
    for call in (
        lambda: endpoint.initiate(ike="x", child=None, now=pair.now),
        lambda: endpoint.initiate(ike=None, child="x", now=pair.now),
        lambda: endpoint.initiate(ike=None, child=None, now=pair.now),
        lambda: endpoint.terminate(ike="conn", now=pair.now),
        lambda: endpoint.terminate(now=pair.now),
        lambda: endpoint.terminate(child_id=5, now=pair.now),
        lambda: endpoint.unload_connection("x", pair.now),
        lambda: endpoint.uninstall(child="net", ike=None, now=pair.now),
        lambda: endpoint.ike_sas_changed_since(99),
    ):
        with pytest.raises(CommandError):
            call()
    assert endpoint.rekey(ike="conn", now=pair.now) == 0
    any_peer = connection("any", remote="%any")
    pair.a.load(any_peer)
    with pytest.raises(CommandError, match="no remote address"):
        endpoint.initiate(ike="any", child=None, now=pair.now)


def test_responder_for_any_peer() -> None:
    a, b = mirrored()
    pair = Pair(a=a, b=replace(b, remote_addrs=("%any",), local_addrs=("10.0.0.0/24",)))
    pair.up()
    network = Network()
    assert network.next_wakeup() is None


def test_strangers_cannot_fill_the_log() -> None:
    """Thousands of datagrams from nobody: a handful of lines and events, and a sentence about the rest."""
    pair = open_pair(cookie_threshold=0, cookie_threshold_ip=0, block_threshold_ip=0)
    bad = first_request(1)[:-1]
    for i in range(1, 2000):
        pair.b.endpoint.receive_datagram(
            first_request(i), host("10.0.0.2"), host(f"10.9.{i // 250}.{i % 250}"), pair.now
        )
        pair.b.endpoint.receive_datagram(bad, host("10.0.0.2"), host("10.9.0.1"), pair.now)
        pair.b.endpoint.receive_datagram(
            first_request(i)[:17] + b"\x30" + first_request(i)[18:],
            host("10.0.0.2"),
            host("10.9.0.1"),
            pair.now,
        )
    pair.b.flush()
    assert len(pair.b.heard(base.LogRecorded)) < 200
    assert len(pair.b.ike()) == 1999
    statistics = pair.b.endpoint.statistics()
    assert statistics["invalid-messages"] >= 2 * 1999
    pair.run(60)
    assert len(pair.b.failures()) <= 10
    pair.b.endpoint.receive_datagram(bad, host("10.0.0.2"), host("10.9.0.1"), pair.now)
    pair.b.flush()
    assert any("more lines like the next one were suppressed" in line for line in pair.b.log())
    pair.up()
    assert any("IKE_SA conn" in line and "established" in line for line in pair.b.log())


@pytest.mark.parametrize("ike", [IKE_GCM, IKE_CBC])
def test_forged_messages_are_counted_by_what_is_wrong(ike: Proposal) -> None:
    """Under the SPIs of a live IKE SA: a wrong ICV is an integrity failure, no Encrypted payload is neither failure."""
    a, b = mirrored(proposals=(ike,))
    pair = Pair(a=a, b=b)
    pair.up()
    before = pair.b.endpoint.statistics()
    assert (before["integrity-failures"], before["decrypt-failures"]) == (0, 0)
    view = pair.b.ike()[0]
    header = make_header(view.initiator_spi, view.responder_spi, 37, 2, from_initiator=True, response=False)
    forged = header.to_bytes()[:16] + b"\x2e" + header.to_bytes()[17:24] + (28 + 4 + 96).to_bytes(4, "big")
    forged += bytes((0, 0, 0, 100)) + bytes(96)
    pair.deliver(forged, host("10.0.0.1"), host("10.0.0.2"))
    pair.deliver(
        build_message(header, [Nonce(bytes(32))]),
        host("10.0.0.1"),
        host("10.0.0.2"),
    )
    pair.run(1)
    after = pair.b.endpoint.statistics()
    assert after["integrity-failures"] == 1
    assert after["decrypt-failures"] == 0
    assert after["invalid-messages"] == before["invalid-messages"] + 2
    assert pair.b.ike()[0].state == "ESTABLISHED"
    pair.check_agreement()

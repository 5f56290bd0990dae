"""Deletes, liveness, restarts, loss, duplicates, NAT (RFC 7296 §1.4, §2.1-2.4, §2.21, §2.23)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ike_network import Nat, Pair, host, mirrored

from ipsecstack.keyex import base
from ipsecstack.keyex.configuration import AuthClass, AuthConfig, ChildAction, UniquePolicy
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import NotifyType, parse_message

FAST = Options(retransmit_timeout=0.5, retransmit_tries=3, retransmit_jitter=0.0)


def gone(pair: Pair) -> None:
    for end in pair.ends:
        assert not end.ike()
        assert not end.plane.sas
        assert not end.plane.policies
        assert not end.plane.reserved
        assert end.endpoint.next_timer() is None


# --- delete ---


@pytest.mark.parametrize("who", ["a", "b"])
def test_delete_ike(who: str) -> None:
    pair = Pair()
    pair.up()
    end, other = (pair.a, pair.b) if who == "a" else (pair.b, pair.a)
    ticket, matched = end.do(end.endpoint.terminate, ike="conn")
    pair.run(10)
    assert matched == 1
    outcome = end.outcome(ticket)
    assert outcome is not None
    assert outcome.success
    gone(pair)
    assert [d.reason for d in end.heard(base.IkeSaDeleted)] == ["deleted"]
    assert [d.reason for d in other.heard(base.IkeSaDeleted)] == ["peer-deleted"]
    assert other.heard(base.IkeSaDeleted)[0].established
    assert [d.reason for d in other.heard(base.ChildSaDeleted)] == ["peer-deleted"]


@pytest.mark.parametrize("who", ["a", "b"])
def test_delete_child(who: str) -> None:
    pair = Pair()
    pair.up()
    end = getattr(pair, who)
    child = end.children()[0]
    ticket, matched = end.do(end.endpoint.terminate, child_id=child.uniqueid)
    pair.run(10)
    assert matched == 1
    assert end.outcome(ticket).success
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1
    for side in pair.ends:
        assert not side.plane.sas
        assert not side.plane.policies
        counters = side.ike()[0].counters
        assert counters.child_deletes_out + counters.child_deletes_in == 1


@pytest.mark.parametrize("what", [{"ike": "conn"}, {"child": "net"}])
def test_deletes_cross(what: dict[str, str]) -> None:
    pair = Pair()
    pair.up()
    tickets = [(end, end.do(end.endpoint.terminate, **what)[0]) for end in pair.ends]
    pair.run(60)
    for end, ticket in tickets:
        assert end.outcome(ticket).success
        assert not end.children()
    if "ike" in what:
        gone(pair)
    else:
        assert len(pair.a.ike()) == 1
        pair.check_no_leaks()


def test_forced_delete_does_not_wait() -> None:
    pair = Pair(options=FAST)
    pair.up()
    pair.b.dead = True
    ticket, _ = pair.a.do(pair.a.endpoint.terminate, ike="conn", force=True)
    assert pair.a.outcome(ticket) is not None
    assert not pair.a.ike()
    assert not pair.a.plane.sas


def test_delete_while_connecting() -> None:
    pair = Pair()
    pair.b.dead = True
    started = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    ended, _ = pair.a.do(pair.a.endpoint.terminate, ike="conn")
    assert not pair.a.outcome(started).success
    assert pair.a.outcome(ended).success
    assert not pair.a.ike()
    assert pair.a.endpoint.next_timer() is None


def test_shutdown_deletes_everything() -> None:
    pair = Pair()
    pair.up()
    pair.a.do(pair.a.endpoint.shutdown)
    pair.run(10)
    gone(pair)
    assert [d.reason for d in pair.a.heard(base.IkeSaDeleted)] == ["shutdown"]


# --- the network is bad ---


@pytest.mark.parametrize("seed", range(12))
def test_up_and_down_with_a_third_lost(seed: int) -> None:
    pair = Pair(seed=seed, options=Options(retransmit_timeout=1.0, retransmit_tries=12, retransmit_base=1.2))
    pair.loss, pair.duplicate, pair.reorder = 0.3, 0.2, 0.3
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(120)
    assert pair.a.outcome(ticket).success
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.b.do(pair.b.endpoint.rekey, ike="conn")
    pair.run(300)
    pair.check_agreement()
    pair.check_no_leaks()
    pair.b.do(pair.b.endpoint.terminate, ike="conn")
    pair.run(120)
    gone(pair)


def test_retransmissions_are_identical_and_back_off() -> None:
    pair = Pair(latency=0.0)
    pair.b.dead = True
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    start, times = pair.now, []
    while pair.step(pair.now + 200):
        times.append(round(pair.now - start, 1))
    assert len({d.data for d in pair.a.sent}) == 1
    assert len(pair.a.sent) == 6
    waits = sorted({t for t in times if t > 1})
    assert waits == pytest.approx([4.0, 11.2, 24.2, 47.5, 89.5, 165.0], abs=0.1), (
        "strongSwan's well-known schedule"
    )
    assert not pair.a.outcome(ticket).success
    assert pair.a.failures() == ["TIMEOUT"]
    gone(pair)


def test_jitter_shortens_waits_at_random() -> None:
    seen = set()
    for seed in range(5):
        pair = Pair(seed=seed, options=Options(retransmit_jitter=0.5))
        pair.b.dead = True
        pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
        due = pair.a.endpoint.next_timer()
        assert due is not None
        assert 2.0 <= due - pair.now <= 4.0
        seen.add(due)
    assert len(seen) == 5


def test_keyingtries() -> None:
    a, b = mirrored(keyingtries=3)
    pair = Pair(a=a, b=b, options=FAST)
    pair.b.dead = True
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(60)
    assert not pair.a.outcome(ticket).success
    assert len({d.data[:8] for d in pair.a.sent}) == 3
    a, b = mirrored(keyingtries=0)
    pair = Pair(a=a, b=b, options=FAST)
    pair.b.dead = True
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(100)
    assert pair.a.outcome(ticket) is None
    pair.b.dead = False
    pair.run(10)
    assert pair.a.outcome(ticket).success


def test_duplicate_request_gets_the_same_response_and_changes_nothing() -> None:
    pair = Pair()
    pair.up()
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(2)
    request = pair.a.sent[-1]
    before = (pair.b.endpoint.generation, len(pair.b.plane.sas))
    count = len(pair.b.sent)
    pair.deliver(request.data, request.local, request.remote)
    pair.run(0.005)
    assert len(pair.b.sent) == count + 1
    assert pair.b.sent[-1].data == pair.b.sent[-2].data
    assert (pair.b.endpoint.generation, len(pair.b.plane.sas)) == before
    older = pair.a.sent[-2]
    pair.deliver(older.data, older.local, older.remote)
    pair.run(0.005)
    assert len(pair.b.sent) == count + 1, "what is not the last request is not answered again"


def test_duplicate_first_request_makes_one_ike_sa() -> None:
    pair = Pair(latency=0.1)
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    request = pair.a.sent[0]
    for _ in range(5):
        pair.deliver(request.data, request.local, request.remote, 0.1)
    pair.run(0.15)
    assert len(pair.b.ike()) == 1
    assert len({d.data for d in pair.b.sent}) == 1
    pair.run(5)
    pair.deliver(request.data, request.local, request.remote)
    pair.run(1)
    assert len(pair.b.ike()) == 1
    pair.check_agreement()


# --- liveness, hints, restart ---


def test_liveness_finds_a_dead_peer() -> None:
    a, b = mirrored(dpd_delay=10)
    pair = Pair(a=a, b=b, options=FAST)
    pair.up()
    pair.run(100)
    checks = (
        pair.a.endpoint.counters("conn")["info-out-req"] + pair.b.endpoint.counters("conn")["info-out-req"]
    )
    assert 8 <= checks <= 12
    pair.b.dead = True
    pair.run(30)
    assert not pair.a.ike()
    assert [d.reason for d in pair.a.heard(base.IkeSaDeleted)] == ["timeout"]
    assert "TIMEOUT" in pair.a.failures()
    assert not pair.a.plane.sas


def test_traffic_is_a_sign_of_life() -> None:
    a, b = mirrored(dpd_delay=10)
    pair = Pair(a=a, b=replace(b, dpd_delay=0.0), options=FAST)
    pair.up()
    inbound = pair.a.children()[0].inbound
    assert inbound is not None
    before = pair.a.endpoint.counters()["info-out-req"]
    for _ in range(20):
        pair.run(5)
        pair.a.plane.seen[inbound] = pair.now
    assert pair.a.endpoint.counters()["info-out-req"] == before


@pytest.mark.parametrize("action", [ChildAction.CLEAR, ChildAction.TRAP, ChildAction.RESTART])
def test_dpd_action(action: ChildAction) -> None:
    a, b = mirrored(dpd_delay=5, keyingtries=0, child_options={"dpd_action": action})
    pair = Pair(a=a, b=b, options=FAST)
    pair.up()
    pair.b.dead = True
    pair.run(30)
    assert not pair.a.plane.sas
    assert [p.trap for p in pair.a.plane.policies] == ([True] if action is ChildAction.TRAP else [])
    pair.b.dead = False
    pair.b.restart()
    pair.run(30)
    assert bool(pair.a.children()) is (action is ChildAction.RESTART)
    if action is ChildAction.RESTART:
        pair.check_agreement()


@pytest.mark.parametrize("action", [ChildAction.NONE, ChildAction.TRAP, ChildAction.START])
def test_close_action(action: ChildAction) -> None:
    a, b = mirrored(child_options={"close_action": action})
    pair = Pair(a=a, b=replace(b, children=(replace(b.children[0], close_action=ChildAction.NONE),)))
    pair.up()
    pair.b.do(pair.b.endpoint.terminate, child="net")
    pair.run(10)
    assert bool(pair.a.children("INSTALLED")) is (action is ChildAction.START)
    assert any(p.trap for p in pair.a.plane.policies) is (action is ChildAction.TRAP)
    pair.check_agreement()


def test_peer_restart_with_initial_contact() -> None:
    """The peer comes back and says so: the elder IKE SA goes without a word (§2.4)."""
    pair = Pair()
    pair.up()
    pair.a.restart()
    pair.a.plane.reserved.clear()
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(5)
    assert pair.a.outcome(ticket).success
    assert len(pair.b.ike()) == 1
    assert [d.reason for d in pair.b.heard(base.IkeSaDeleted)] == ["replaced"]
    pair.check_agreement()
    pair.check_no_leaks()


def test_both_ends_initiate_at_once() -> None:
    """Each says INITIAL_CONTACT before it has the other's IKE SA: neither may drop that for it."""
    for seed in range(10):
        pair = Pair(seed=seed, reorder=0.5)
        for end in pair.ends:
            end.do(end.endpoint.initiate, ike=None, child="net")
            pair.run(0.005 * seed)
        pair.run(60)
        pair.check_agreement()
        pair.check_no_leaks()
        assert pair.a.children("INSTALLED")


def test_restarted_peer_answers_invalid_ike_spi_which_is_only_a_hint() -> None:
    a, b = mirrored(dpd_delay=30, keyingtries=0, child_options={"dpd_action": ChildAction.RESTART})
    pair = Pair(a=a, b=b, options=FAST)
    pair.up()
    pair.b.restart()
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(1)
    answers = [parse_message(d.data) for d in pair.b.sent[-2:]]
    assert any(m.notify(NotifyType.INVALID_IKE_SPI) for m in answers)
    assert pair.a.ike()[0].state == "ESTABLISHED", "nobody vouches for it"
    pair.run(60)
    assert pair.a.children("INSTALLED")
    pair.check_agreement()


def test_unknown_spi_makes_the_peer_check() -> None:
    """ESP for an SPI that we lost: INVALID_SPI outside of any IKE SA, and the peer asks on its IKE SA (§2.21.4)."""
    a, b = mirrored(child_options={"dpd_action": ChildAction.RESTART}, keyingtries=0)
    pair = Pair(a=a, b=b, options=FAST)
    pair.up()
    spi = pair.b.children()[0].spi_in
    pair.b.restart()
    pair.b.do(pair.b.endpoint.unknown_spi, spi=spi, local=host("10.0.0.2", 0), remote=host("10.0.0.1", 0))
    pair.run(30)
    assert any("DPD" in line for line in pair.a.log())
    assert pair.a.children("INSTALLED")
    pair.check_agreement()


def test_unknown_spi_of_a_known_peer_and_rate_limits() -> None:
    pair = Pair()
    pair.up()
    before = len(pair.b.sent)
    for spi in range(1000, 1100):
        pair.b.do(pair.b.endpoint.unknown_spi, spi=spi, local=host("10.0.0.2", 0), remote=host("10.0.0.1", 0))
    assert len(pair.b.sent) == before + 1, "one liveness check for all of them"
    for spi in range(1000, 1100):
        pair.b.do(pair.b.endpoint.unknown_spi, spi=spi, local=host("10.0.0.2", 0), remote=host("10.0.0.9", 0))
    assert len(pair.b.sent) <= before + 1 + pair.b.options.answer_rate


def test_unique_replace_and_never() -> None:
    for policy, left in ((UniquePolicy.REPLACE, 1), (UniquePolicy.NEVER, 2), (UniquePolicy.KEEP, 1)):
        a, b = mirrored(unique=policy)
        pair = Pair(a=a, b=b)
        pair.up()
        other = replace(a, name="second", unique=UniquePolicy.NEVER)
        pair.a.load(other)
        ticket = pair.a.do(pair.a.endpoint.initiate, ike="second", child="net")
        pair.run(20)
        assert len(pair.b.ike()) == left, policy
        assert pair.a.outcome(ticket).success is (policy is not UniquePolicy.KEEP)


# --- NAT ---


def nat_pair(behind: str, **options: Any) -> Pair:
    a, b = mirrored(**options)
    if behind == "a":
        pair = Pair(a=a, b=replace(b, remote_addrs=("%any",)))
        pair.nats.append(Nat("10.0.0.1", "192.0.2.1"))
        return pair
    pair = Pair(a=replace(a, remote_addrs=("192.0.2.2",)), b=replace(b, remote_addrs=("%any",)))
    nat = Nat("10.0.0.2", "192.0.2.2")
    nat.forward = {500: 500, 4500: 4500}
    pair.nats.append(nat)
    return pair


@pytest.mark.parametrize("behind", ["a", "b"])
def test_nat(behind: str) -> None:
    pair = nat_pair(behind)
    pair.up()
    sa_a, sa_b = pair.a.ike()[0], pair.b.ike()[0]
    assert (sa_a.nat_local, sa_a.nat_remote) == (behind == "a", behind == "b")
    assert (sa_b.nat_local, sa_b.nat_remote) == (behind == "b", behind == "a")
    assert sa_a.local.port == 4500
    assert sa_a.remote.port == 4500
    assert all(c.encapsulated for end in pair.ends for c in end.children())
    if behind == "a":
        assert str(sa_b.remote.host) == "192.0.2.1"
        assert all(sa.destination == sa_b.remote for sa in pair.b.plane.outbound())


def test_forced_encapsulation() -> None:
    a, b = mirrored()
    pair = Pair(a=replace(a, encap=True), b=b)
    pair.up()
    assert pair.a.ike()[0].nat_fake
    assert pair.a.ike()[0].local.port == 4500
    assert pair.b.ike()[0].nat_remote, "the peer sees a source that does not fit"
    assert all(c.encapsulated for end in pair.ends for c in end.children())
    pair = Pair(a=a, b=replace(b, encap=True))
    pair.up()
    assert pair.b.ike()[0].nat_fake
    assert all(c.encapsulated for end in pair.ends for c in end.children())


def test_rebinding_is_followed_by_authenticated_messages_only() -> None:
    pair = nat_pair("a", dpd_delay=10)
    pair.up()
    old = pair.b.ike()[0].remote
    forged = bytearray(pair.a.sent[-1].data)
    forged[-1] ^= 1
    pair.in_flight.clear()
    pair.b.endpoint.receive_datagram(
        bytes(forged), host("10.0.0.2", 4500), host("192.0.2.66", 4500), pair.now
    )
    pair.b.flush()
    assert pair.b.ike()[0].remote == old
    pair.nats[0].rebind()
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(20)
    new = pair.b.ike()[0].remote
    assert new != old
    assert pair.b.heard(base.IkeSaUpdated)
    assert all(sa.destination == new for sa in pair.b.plane.outbound())
    pair.check_no_leaks()
    pair.check_agreement()


def test_rebinding_seen_by_the_data_plane() -> None:
    pair = nat_pair("a")
    pair.up()
    inbound = pair.b.children()[0].inbound
    assert inbound is not None
    moved = host("192.0.2.1", 33333)
    pair.b.do(pair.b.endpoint.peer_address_changed, sa=inbound, remote=moved)
    assert pair.b.ike()[0].remote == moved
    assert all(sa.destination == moved for sa in pair.b.plane.outbound())
    pair.a.do(pair.a.endpoint.peer_address_changed, sa=pair.a.children()[0].inbound, remote=moved)
    assert pair.a.ike()[0].remote != moved, "an end behind a NAT does not follow"


def test_address_without_nat_does_not_move() -> None:
    pair = Pair()
    pair.up()
    pair.b.do(
        pair.b.endpoint.peer_address_changed, sa=pair.b.children()[0].inbound, remote=host("10.0.0.77", 500)
    )
    assert str(pair.b.ike()[0].remote.host) == "10.0.0.1"


def test_own_address_is_learnt_where_none_is_configured() -> None:
    a, b = mirrored()
    pair = Pair(a=replace(a, local_addrs=("%any",)), b=b)
    real = pair.transmit

    def from_any(sender: Any, output: base.SendDatagram) -> None:
        if output.local.host.is_unspecified:
            output = replace(output, local=host("10.0.0.1", output.local.port))
        real(sender, output)

    pair.transmit = from_any  # type: ignore[method-assign]
    pair.up()
    assert str(pair.a.ike()[0].local.host) == "10.0.0.1"
    pair.check_agreement()


# --- views ---


def test_changed_since_tells_what_changed_and_what_went() -> None:
    pair = Pair()
    pair.up()
    endpoint = pair.a.endpoint
    now = endpoint.generation
    assert endpoint.ike_sas_changed_since(now) == ([], [], [])
    child = pair.a.children()[0]
    pair.a.do(endpoint.rekey, child="net")
    pair.run(20)
    changed, ike_gone, child_gone = endpoint.ike_sas_changed_since(now)
    assert [sa.uniqueid for sa in changed] == [pair.a.ike()[0].uniqueid]
    assert (list(ike_gone), list(child_gone)) == ([], [child.uniqueid])
    assert [c.generation > now for c in changed[0].children] == [True]
    ike = pair.a.ike()[0].uniqueid
    pair.a.do(endpoint.terminate, ike="conn")
    pair.run(5)
    _, ike_gone, _ = endpoint.ike_sas_changed_since(now)
    assert list(ike_gone) == [ike]


def test_counters_have_vicis_keys() -> None:
    pair = Pair()
    pair.up()
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    pair.run(5)
    counters = pair.a.endpoint.counters("conn")
    assert len(counters) == 21
    assert counters["ike-init-out-req"] == counters["ike-init-in-resp"] == 1
    assert counters["ike-auth-out-req"] == counters["ike-auth-in-resp"] == 1
    assert counters["create-child-out-req"] == counters["create-child-in-resp"] == 1
    assert counters["info-out-req"] == counters["info-in-resp"] == 1
    assert (counters["ike-rekey-init"], counters["ike-rekey-resp"]) == (1, 0)
    assert pair.b.endpoint.counters("conn")["ike-rekey-resp"] == 1
    assert pair.b.endpoint.counters()["ike-init-in-req"] == 1
    assert pair.a.endpoint.counters_by_connection() == {"conn": counters}
    pair.a.endpoint.reset_counters()
    assert not any(pair.a.endpoint.counters().values())


def test_reload_keeps_sas_and_unload_too() -> None:
    a, b = mirrored()
    pair = Pair(a=a, b=b)
    pair.up()
    pair.a.load(a)
    pair.a.load(replace(a, dpd_delay=5))
    assert len(pair.a.ike()) == 1
    pair.a.endpoint.unload_connection("conn", pair.now)
    pair.a.flush()
    assert pair.a.children("INSTALLED")
    pair.b.do(pair.b.endpoint.rekey, child="net")
    pair.run(20)
    pair.check_agreement()


def test_wrong_class_on_both_sides_fails_cleanly() -> None:
    a, b = mirrored()
    pair = Pair(a=a, b=replace(b, local=(AuthConfig(AuthClass.PUBKEY, b.local[0].id),)))
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(60)
    assert not pair.a.outcome(ticket).success
    gone(pair)

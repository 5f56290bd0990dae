"""Rekeying of Child and IKE SAs, by command, by time, from both ends, and all at once (RFC 7296 §2.8, §2.25)."""

import pytest
from ike_network import ESP_GCM, Pair, mirrored

from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex import base
from ipsecstack.keyex.configuration import Proposal
from ipsecstack.wire.transforms import EncrId, KeId

PFS = Proposal(SecurityProtocol.ESP, ((EncrId.AES_GCM_16, 128),), ke=(KeId.CURVE_25519, KeId.ECP_256))


def settled(pair: Pair) -> None:
    """One IKE SA and one Child SA at each end, nothing else installed."""
    pair.check_agreement()
    pair.check_no_leaks()
    for end in (pair.a, pair.b):
        assert len(end.ike()) == 1
        assert [c.state for c in end.children()] == ["INSTALLED"]
        assert len(end.plane.sas) == 2
        assert len(end.plane.policies) == 1
        assert end.ike()[0].tasks_active == end.ike()[0].tasks_queued == ()


@pytest.mark.parametrize("proposal", [ESP_GCM, PFS])
@pytest.mark.parametrize("who", ["a", "b"])
def test_child_rekey_by_command(proposal: Proposal, who: str) -> None:
    a, b = mirrored(child_options={"proposals": (proposal,)})
    pair = Pair(a=a, b=b)
    pair.up()
    end = getattr(pair, who)
    before = pair.a.children()[0]
    assert end.do(end.endpoint.rekey, child="net") == 1
    pair.run(20)
    settled(pair)
    after = pair.a.children()[0]
    assert after.uniqueid != before.uniqueid
    assert after.spi_in != before.spi_in
    assert after.reqid == before.reqid
    assert after.ke is (KeId.CURVE_25519 if proposal is PFS else KeId.NONE)
    for side in (pair.a, pair.b):
        rekeyed = side.heard(base.ChildSaRekeyed)
        assert len(rekeyed) == 1
        assert rekeyed[0].old.state == "REKEYED"
        assert [d.reason for d in side.heard(base.ChildSaDeleted)] == ["rekeyed"]
        assert side.endpoint.counters()["child-rekey"] == 1


def test_child_rekey_makes_before_it_breaks() -> None:
    """At each moment each end sends to an SPI that the other has installed."""
    pair = Pair(latency=1.0)
    pair.up()
    pair.a.do(pair.a.endpoint.rekey, child="net")
    reqid = {end.name: end.children()[0].reqid for end in pair.ends}
    limit = pair.now + 30
    while pair.step(limit):
        for one, other in ((pair.a, pair.b), (pair.b, pair.a)):
            sending = one.plane.sending(reqid[one.name])
            assert sending is not None
            assert sending.spi in {sa.spi for sa in other.plane.inbound()}
    settled(pair)


def test_pfs_group_is_renegotiated() -> None:
    a, b = mirrored(child_options={"proposals": (PFS,)})
    from dataclasses import replace

    other = Proposal(SecurityProtocol.ESP, ((EncrId.AES_GCM_16, 128),), ke=(KeId.ECP_256,))
    b = replace(b, children=(replace(b.children[0], proposals=(other,)),))
    pair = Pair(a=a, b=b)
    pair.up()
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(20)
    settled(pair)
    assert pair.a.children()[0].ke is KeId.ECP_256


@pytest.mark.parametrize("who", ["a", "b"])
def test_ike_rekey_by_command(who: str) -> None:
    pair = Pair()
    pair.up()
    end = getattr(pair, who)
    before = pair.a.ike()[0]
    child = pair.a.children()[0]
    assert end.do(end.endpoint.rekey, ike="conn") == 1
    pair.run(20)
    settled(pair)
    after = pair.a.ike()[0]
    assert after.initiator_spi != before.initiator_spi
    assert after.uniqueid != before.uniqueid
    assert after.initiator is (who == "a")
    assert after.remote_id == before.remote_id
    assert pair.a.children()[0].uniqueid == child.uniqueid, "children are inherited"
    for side in (pair.a, pair.b):
        assert len(side.heard(base.IkeSaRekeyed)) == 1
        assert not side.heard(base.IkeSaDeleted)
    for _ in range(3):  # the new SA works both ways, also as parent of the next
        for side in (pair.b, pair.a):
            side.do(side.endpoint.rekey, ike="conn")
            pair.run(20)
            side.do(side.endpoint.rekey, child="net")
            pair.run(20)
    settled(pair)


def test_simultaneous_child_rekey() -> None:
    """Both requests cross: two new SAs, of which the one with the lowest nonce goes (§2.8.1)."""
    winners = set()
    for seed in range(8):
        pair = Pair(seed=seed)
        pair.up()
        pair.a.do(pair.a.endpoint.rekey, child="net")
        pair.b.do(pair.b.endpoint.rekey, child="net")
        pair.run(20)
        settled(pair)
        assert any("collision" in line for line in pair.a.log())
        winners.add(any("collision won" in line for line in pair.a.log()))
    assert winners == {True, False}, "either end wins, by nonces"


def test_simultaneous_ike_rekey() -> None:
    winners = set()
    for seed in range(8):
        pair = Pair(seed=seed)
        pair.up()
        pair.a.do(pair.a.endpoint.rekey, ike="conn")
        pair.b.do(pair.b.endpoint.rekey, ike="conn")
        pair.run(300)
        settled(pair)
        for side in (pair.a, pair.b):
            assert len(side.heard(base.IkeSaRekeyed)) == 1
            assert not side.heard(base.IkeSaDeleted)
        winners.add(any("collision won" in line for line in pair.a.log()))
    assert winners == {True, False}


@pytest.mark.parametrize("what", ["child", "ike"])
def test_late_simultaneous_rekey(what: str) -> None:
    """One request is lost and comes again when the other rekeying is over (§2.8.1, second figure)."""
    pair = Pair(latency=0.01)
    pair.up()
    name = {"child": {"child": "net"}, "ike": {"ike": "conn"}}[what]
    pair.a.do(pair.a.endpoint.rekey, **name)
    pair.tap = lambda sender, output: sender is not pair.b
    pair.b.do(pair.b.endpoint.rekey, **name)
    pair.tap = None
    pair.run(60)
    settled(pair)


def test_child_and_ike_rekey_cross() -> None:
    """A Child SA request meets an IKE SA that is being rekeyed: TEMPORARY_FAILURE, and again later (§2.25.2)."""
    for first, second in (("a", "b"), ("b", "a")):
        pair = Pair()
        pair.up()
        one, other = getattr(pair, first), getattr(pair, second)
        one.do(one.endpoint.rekey, ike="conn")
        other.do(other.endpoint.rekey, child="net")
        pair.run(60)
        settled(pair)
        assert any("TEMPORARY_FAILURE" in line or "TEMP_FAIL" in line for line in one.log() + other.log())
        for end in pair.ends:
            assert len(end.heard(base.IkeSaRekeyed)) == 1
            assert len(end.heard(base.ChildSaRekeyed)) == 1


def test_rekey_of_a_child_that_the_peer_lost() -> None:
    """CHILD_SA_NOT_FOUND: the stale one goes, a new one comes."""
    pair = Pair()
    pair.up()
    pair.tap = lambda sender, output: sender is not pair.b  # the Delete never arrives
    pair.b.do(pair.b.endpoint.terminate, child="net", force=True)
    assert not pair.b.children()
    pair.tap = None
    pair.b.endpoint.outputs()
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(60)
    pair.check_agreement()
    pair.check_no_leaks()
    assert len(pair.a.children("INSTALLED")) == len(pair.b.children("INSTALLED"))


def test_rekey_by_time_and_by_data_plane() -> None:
    a, b = mirrored(
        rekey_time=600,
        over_time=60,
        rand_time=60,
        child_options={
            "rekey_time": 100,
            "life_time": 120,
            "rand_time": 10,
            "rekey_bytes": 1000,
            "life_bytes": 2000,
        },
    )
    pair = Pair(a=a, b=b)
    pair.up()
    sa = pair.a.plane.outbound()[0]
    assert (sa.lifetime.octets.soft, sa.lifetime.octets.hard) == (1000, 2000)
    pair.run(3600)
    pair.check_agreement()
    pair.check_no_leaks()
    for end in pair.ends:
        assert len(end.ike()) in (1, 2)
        assert end.children("INSTALLED")
        assert len(end.heard(base.IkeSaRekeyed)) >= 5
        assert len(end.heard(base.ChildSaRekeyed)) >= 30
        assert not [d for d in end.heard(base.ChildSaDeleted) if d.reason != "rekeyed"]
    before = len(pair.a.heard(base.ChildSaRekeyed))
    live = pair.a.children("INSTALLED")[0]
    assert live.outbound is not None
    pair.a.do(pair.a.endpoint.sa_expired, sa=live.outbound, hard=False)
    pair.run(10)
    assert len(pair.a.heard(base.ChildSaRekeyed)) == before + 1


def test_hard_expiry_closes_the_child() -> None:
    pair = Pair()
    pair.up()
    inbound = pair.a.children()[0].inbound
    assert inbound is not None
    pair.a.do(pair.a.endpoint.sa_expired, sa=inbound, hard=True)
    pair.run(10)
    pair.check_no_leaks()
    assert not pair.a.children()
    assert not pair.b.children()
    assert [d.reason for d in pair.a.heard(base.ChildSaDeleted)] == ["expired"]


def test_collision_whose_loser_learns_of_it_late() -> None:
    """The winner has deleted the old SA before the loser's own response arrives: the loser's new one goes."""
    for who in ("a", "b"):
        for seed in range(6):
            pair = Pair(seed=seed)
            pair.up()
            end = getattr(pair, who)
            for side in pair.ends:
                side.do(side.endpoint.rekey, child="net")
            dropped: list[bytes] = []

            def tap(
                sender: object, output: base.SendDatagram, end: object = end, dropped: list[bytes] = dropped
            ) -> bool:
                lose = sender is end and bool(output.data[19] & 0x20) and not dropped
                if lose:
                    dropped.append(output.data)
                return not lose

            pair.tap = tap
            pair.run(60)
            assert dropped
            settled(pair)


def test_rekey_command_while_an_ike_collision_is_open() -> None:
    """The IKE SA that the collision may yet undo is not rekeyed itself."""
    for seed in range(6):
        pair = Pair(seed=seed)
        pair.up()
        for end in pair.ends:
            end.do(end.endpoint.rekey, ike="conn")
        pair.run(0.012)
        for end in pair.ends:
            end.do(end.endpoint.rekey, ike="conn")
        pair.run(400)
        settled(pair)

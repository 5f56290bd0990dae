"""Rekeying under traffic, from either side, without a lost or repeated packet; and deletion from either side."""

from __future__ import annotations

import time

import pytest
from lab import traffic
from lab.process import wait_until
from lab.swanconf import Child, Tunnel

roles = pytest.mark.parametrize(
    "kinds", [("ours", "strongswan"), ("strongswan", "ours")], ids=["we-initiated", "we-responded"]
)
side = pytest.mark.parametrize("by", [0, 1], ids=["by-initiator", "by-responder"])


@roles
@side
def test_child_rekey_under_traffic(make_pair, kinds: tuple[str, str], by: int) -> None:
    pair = make_pair(kinds)
    pair.a.initiate("net")
    pair.b.wait_child("net")
    left, right = pair.namespaces
    end_a, end_b = pair.ends()
    seen = {pair.a.child().spis}
    with (
        traffic.EchoFlow(left, right, end_a, end_b) as forth,
        traffic.EchoFlow(right, left, end_b, end_a, port=7010) as back,
    ):
        for _ in range(3):
            old = pair.a.child().spis
            time.sleep(0.15)
            pair.gateways[by].swanctl("--rekey", "--child", "net")
            pair.a.wait_other_child(old)
            pair.b.wait_other_child(old[::-1])
            seen.add(pair.a.child().spis)
        time.sleep(0.15)
    assert len(seen) == 4
    for flow in (forth, back):
        assert flow.errors == []
        assert flow.lost == []
        assert flow.repeated == []
        assert flow.sent > 60
    assert pair.a.child().spis == pair.b.child().spis[::-1]


@roles
@side
def test_ike_rekey_under_traffic(make_pair, kinds: tuple[str, str], by: int) -> None:
    pair = make_pair(kinds)
    pair.a.initiate("net")
    pair.b.wait_child("net")
    left, right = pair.namespaces
    end_a, end_b = pair.ends()
    child = pair.a.child().spis
    seen = {pair.a.ike_sa().spis}
    with traffic.EchoFlow(left, right, end_a, end_b) as flow:
        for _ in range(3):
            old = pair.a.ike_sa().spis
            time.sleep(0.1)
            pair.gateways[by].swanctl("--rekey", "--ike", "gw")
            for gateway in pair.gateways:
                gateway.wait_one_ike_sa(not_spis=old)
            seen.add(pair.a.ike_sa().spis)
        time.sleep(0.1)
    assert len(seen) == 4
    assert pair.a.ike_sa().spis == pair.b.ike_sa().spis
    assert (flow.errors, flow.lost, flow.repeated) == ([], [], [])
    # The child moved over unchanged, and the new IKE_SA can still do things with it.
    assert pair.a.child().spis == child
    pair.gateways[1 - by].swanctl("--rekey", "--child", "net")
    pair.a.wait_other_child(child)
    assert traffic.ping(left, end_a, end_b).lost == 0


@roles
def test_rekeying_by_the_clock(make_pair, kinds: tuple[str, str]) -> None:
    """rekey_time runs out on our side only; the peer would have waited for an hour."""
    us = kinds.index("ours")
    quick = Tunnel(
        children=(
            Child(
                "net",
                ("10.1.0.0/24", "10.2.0.0/24"),
                options={"rekey_time": "1s", "rand_time": "0s", "life_time": "60s"},
            ),
        )
    )
    pair = make_pair(kinds, (Tunnel(), quick)[1 - us : 2 - us], tunnels_b=(Tunnel(), quick)[us : us + 1])
    pair.a.initiate("net")
    pair.b.wait_child("net")
    old = pair.a.child().spis
    left, right = pair.namespaces
    with traffic.EchoFlow(left, right, *pair.ends(), rate=100) as flow:
        pair.a.wait_other_child(old, timeout=5)
        pair.b.wait_other_child(old[::-1], timeout=5)
    assert (flow.errors, flow.lost) == ([], [])


@roles
def test_rekeying_by_octets(make_pair, kinds: tuple[str, str]) -> None:
    us = kinds.index("ours")
    limits = {"rekey_bytes": "200000", "rand_bytes": "0", "life_bytes": "2000000"}
    small = Tunnel(children=(Child("net", ("10.1.0.0/24", "10.2.0.0/24"), options=limits),))
    pair = make_pair(kinds, (Tunnel(), small)[1 - us : 2 - us], tunnels_b=(Tunnel(), small)[us : us + 1])
    pair.a.initiate("net")
    pair.b.wait_child("net")
    old = pair.a.child().spis
    left, right = pair.namespaces
    traffic.send_udp(left, right, *pair.ends(), [1000] * 150)
    assert pair.a.child().spis == old
    traffic.send_udp(left, right, *pair.ends(), [1000] * 100)
    pair.a.wait_other_child(old)
    pair.b.wait_other_child(old[::-1])
    assert traffic.ping(left, *pair.ends()).lost == 0


@roles
def test_tcp_over_rekeys(make_pair, kinds: tuple[str, str]) -> None:
    """A TCP stream of some megabytes goes on while child and IKE_SA are rekeyed again and again."""
    pair = make_pair(kinds)
    pair.a.initiate("net")
    pair.b.wait_child("net")
    left, right = pair.namespaces
    took = 0.0
    for number in range(3):
        old = pair.a.child().spis
        pair.a.swanctl("--rekey", "--child", "net")
        took += traffic.tcp_transfer(left, right, *pair.ends(), octets=2_000_000, port=7100 + number)
        pair.b.swanctl("--rekey", "--ike", "gw")
        took += traffic.tcp_transfer(right, left, *pair.ends()[::-1], octets=2_000_000, port=7200 + number)
        pair.a.wait_other_child(old)
    assert took > 0


@roles
@side
def test_delete_ike_sa(make_pair, kinds: tuple[str, str], by: int) -> None:
    pair = make_pair(kinds)
    pair.a.initiate("net")
    pair.b.wait_child("net")
    assert traffic.ping(pair.namespaces[0], *pair.ends()).lost == 0
    pair.gateways[by].swanctl("--terminate", "--ike", "gw")
    assert pair.gateways[by].ike_sas() == []
    pair.gateways[1 - by].wait_no_sa(3)
    # No SA, no packet in the clear either.
    assert traffic.ping(pair.namespaces[0], *pair.ends(), count=2, wait=0.3).received == 0


@roles
@side
def test_delete_child_sa(make_pair, kinds: tuple[str, str], by: int) -> None:
    pair = make_pair(kinds)
    pair.a.initiate("net")
    pair.b.wait_child("net")
    ike = pair.a.ike_sa().spis
    pair.gateways[by].swanctl("--terminate", "--child", "net")
    for gateway in pair.gateways:
        wait_until(lambda gateway=gateway: not gateway.children(state=None), 3, "the child is gone")
        assert gateway.ike_sa().spis == ike
    # The IKE_SA is still good for another.
    pair.a.initiate("net")
    assert pair.a.ike_sa().spis == ike
    assert traffic.ping(pair.namespaces[0], *pair.ends()).lost == 0


@roles
def test_peer_dies(make_pair, kinds: tuple[str, str]) -> None:
    """Liveness (RFC 7296 §2.4): the peer is killed and says nothing; we notice and clean up."""
    us = kinds.index("ours")
    pair = make_pair(
        kinds,
        (Tunnel(options={"dpd_delay": "1s"}),),
        settings={"retransmit_timeout": "0.3", "retransmit_tries": "2"},
    )
    pair.a.initiate("net")
    pair.b.wait_child("net")
    time.sleep(1.5)
    assert len(pair.gateways[us].established()) == 1, "a living peer was given up"
    pair.gateways[1 - us].kill()
    pair.gateways[us].wait_no_sa(8)


@roles
def test_we_die(make_pair, kinds: tuple[str, str]) -> None:
    """The other way round: strongSwan's liveness checks are answered while we live, and end when we do not."""
    us = kinds.index("ours")
    pair = make_pair(
        kinds,
        (Tunnel(options={"dpd_delay": "1s"}),),
        settings={"retransmit_timeout": "0.3", "retransmit_tries": "2"},
    )
    pair.a.initiate("net")
    pair.b.wait_child("net")
    time.sleep(2.5)
    assert len(pair.gateways[1 - us].established()) == 1, "our answers to liveness checks did not satisfy"
    pair.gateways[us].kill()
    pair.gateways[1 - us].wait_no_sa(8)

"""ipsecstackd killed and started again: the peer recovers."""

from __future__ import annotations

import time

import pytest
from lab import traffic
from lab.process import Process, wait_until
from lab.swanconf import Child, Tunnel

roles = pytest.mark.parametrize(
    "kinds", [("ours", "strongswan"), ("strongswan", "ours")], ids=["we-initiated", "we-responded"]
)


RESTARTING = Child("net", ("10.1.0.0/24", "10.2.0.0/24"), options={"dpd_action": "restart"})


@roles
def test_we_initiate_again_after_a_crash(make_pair, kinds: tuple[str, str]) -> None:
    """INITIAL_CONTACT (RFC 7296 §2.4): the peer drops what it had with our former self."""
    pair = make_pair(kinds)
    us, peer = (pair.gateways[kinds.index(kind)] for kind in ("ours", "strongswan"))
    pair.a.initiate("net")
    pair.b.wait_child("net")
    old = peer.ike_sa().spis
    us.kill()
    us.start()
    assert us.ike_sas() == []
    us.initiate("net")
    wait_until(
        lambda: [sa.spis for sa in peer.established()] not in ([], [old]), 5, "the peer has the new IKE_SA"
    )
    wait_until(lambda: len(peer.established()) == 1, 5, "the peer dropped the old IKE_SA")
    assert us.ike_sa().spis == peer.ike_sa().spis
    end_us, end_peer = pair.ends()[:: 1 if us is pair.a else -1]
    assert traffic.ping(us.namespace, end_us, end_peer).lost == 0


@roles
def test_peer_notices_and_initiates_again(make_pair, kinds: tuple[str, str]) -> None:
    """The peer's liveness check finds an SA that we no longer know; dpd_action = restart brings a new one."""
    pair = make_pair(
        kinds,
        (Tunnel(options={"dpd_delay": "1s"}, children=(RESTARTING,)),),
        settings={"retransmit_timeout": "0.3", "retransmit_tries": "2"},
    )
    us, peer = (pair.gateways[kinds.index(kind)] for kind in ("ours", "strongswan"))
    pair.a.initiate("net")
    pair.b.wait_child("net")
    old = peer.ike_sa().spis
    us.kill()
    us.start()
    wait_until(
        lambda: [sa.spis for sa in us.established()] not in ([], [old]),
        15,
        "the peer made a new IKE_SA with us",
    )
    peer.wait_child("net")
    wait_until(lambda: len(peer.established()) == 1, 5, "the peer is left with one IKE_SA")
    end_us, end_peer = pair.ends()[:: 1 if us is pair.a else -1]
    assert traffic.ping(us.namespace, end_us, end_peer).lost == 0


def test_esp_for_a_forgotten_sa_is_answered_by_a_rate_limited_hint(make_pair) -> None:
    """ESP with an SPI we do not know is counted, and does no harm (RFC 7296 §1.5, §2.21.4)."""
    pair = make_pair(("strongswan", "ours"))
    pair.a.initiate("net")
    pair.b.wait_child("net")
    left, _ = pair.namespaces
    pair.b.kill()
    pair.b.start()
    assert traffic.ping(left, *pair.ends(), count=10, wait=0.3).received == 0
    with pair.b.vici() as session:
        stats = session.stats()
    assert int(stats["ipsec"]["unknown-spi"]) >= 10
    assert pair.b.ike_sas() == []


def test_peer_crashes_and_comes_back(make_pair) -> None:
    """The other way round: strongSwan is killed and initiates anew; INITIAL_CONTACT makes us drop the old SA."""
    pair = make_pair(("strongswan", "ours"))
    pair.a.initiate("net")
    pair.b.wait_child("net")
    old = pair.b.ike_sa().spis
    pair.a.kill()
    pair.a.start()
    pair.a.initiate("net")
    assert pair.a.ike_sa().spis != old
    wait_until(
        lambda: [sa.spis for sa in pair.b.established()] == [pair.a.ike_sa().spis], 5, "only the new IKE_SA"
    )
    assert traffic.ping(pair.namespaces[0], *pair.ends()).lost == 0


def test_orderly_stop_tells_the_peer(make_pair) -> None:
    pair = make_pair(("ours", "strongswan"))
    pair.a.initiate("net")
    pair.b.wait_child("net")
    left, _ = pair.namespaces
    started = time.monotonic()
    pair.a.stop()
    assert pair.a.process.returncode == 0
    assert time.monotonic() - started < 3
    pair.b.wait_no_sa(2)
    assert "tun" not in left.run("ip", "-o", "link", "show", "type", "tun")
    assert not pair.a.socket_path.exists()
    assert "10.2." not in left.run("ip", "route", "show", "table", "all")


def test_second_daemon_on_the_same_socket_is_refused(make_pair) -> None:
    pair = make_pair(("ours", "ours"))
    twin = Process("twin", pair.a.process.command, pair.folder / "twin.log", pair.namespaces[0])
    twin.start()
    assert twin.wait(10) != 0
    assert "Traceback" not in twin.text()
    assert twin.text().strip()
    assert pair.a.answers()

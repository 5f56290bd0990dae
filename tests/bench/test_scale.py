"""The bench of many SAs measures what it says, at numbers small enough for a test."""

from __future__ import annotations

from pathlib import Path

from bench.scale import Pair, at_scale, networks, storm, udp_packet


def test_every_peer_comes_up_and_is_measured() -> None:
    seen = at_scale(5)
    assert seen["ike_rate"] > 0
    assert seen["child_rate"] > 0


def test_storm_rekeys_all_children_under_traffic_without_loss() -> None:
    seen = storm(20)
    assert seen["rekeyed"] == 20
    assert (
        seen["sent"] > 20 * 40
    )  # two datagrams of IKE at least for each child, forty packets for each of these
    assert seen["lost"] == 0


def test_a_lost_packet_is_seen(tmp_path: Path) -> None:
    pair = Pair(tmp_path, 1, 1)
    left, right = networks(0)
    assert not pair.carry(0, udp_packet(left, right, 1), 1.0), "there is no SA yet"
    pair.initiate(0, 1.0)
    assert pair.carry(0, udp_packet(left, right, 2), 1.0)
    assert not pair.carry(0, udp_packet(right, left, 3), 1.0), "the selectors are the other way round"

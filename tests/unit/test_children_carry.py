"""Children of every kind from a configuration file to packets that arrive: two gateways in memory."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from vici_support.pair import Pair, Side

from ipsecstack.ipsec.sa import Direction, Mode, SecurityProtocol
from ipsecstack.wire.icmp import echo_request

CONF = """
connections {{
  net {{ local_addrs = 10.0.0.{own}
    remote_addrs = 10.0.0.{peer}
    local {{ auth = psk
      id = {own}.lab }}
    remote {{ auth = psk
      id = {peer}.lab }}
    children {{ lan {{ {lines} }} }} }}
}}
secrets {{ ike-x {{ secret = hunter2 }} }}
"""
NETS = "local_ts = 10.{own}.0.0/16\nremote_ts = 10.{peer}.0.0/16\n"
HOSTS = "mode = transport\n"


def make(tmp_path: Path, lines: str) -> Pair:
    for own, peer in ((1, 2), (2, 1)):
        path = tmp_path / f"{own}.conf"
        path.write_text(CONF.format(own=own, peer=peer, lines=lines.format(own=own, peer=peer)))
        path.chmod(0o600)
    return Pair(tmp_path / "1.conf", tmp_path / "2.conf")


def ping(pair: Pair, side: Side, source: str, destination: str, count: int = 1) -> list[bytes]:
    """Inner packets from one side; those that the other side delivered."""
    peer = pair.other(side)
    before = len(peer.plane.delivered)
    packets = [
        echo_request(ip_address(source), ip_address(destination), 1, n, b"x" * 400) for n in range(count)
    ]
    side.plane.inject(packets)
    for _ in range(2):  # what waits for an SA leaves when it is there
        for batch in side.plane.read_device(pair.now, 1000):
            peer.plane.receive([replace(batch, local=batch.remote, remote=batch.local)], pair.now)
        for each in (side, peer):
            each.advance()
        pair.settle()
    arrived = list(peer.plane.delivered)[before:]
    # From the addresses on: in transport mode the rest of the header is made anew by the receiver's network.
    assert {packet[12:] for packet in arrived} <= {packet[12:] for packet in packets}
    return arrived


def up(pair: Pair) -> None:
    pair.a.endpoint.initiate(ike="net", child="lan", now=pair.now)
    pair.a.advance()
    pair.settle()


@pytest.mark.parametrize(
    "lines, protocol, mode",
    [
        (NETS + "ah_proposals = sha256", SecurityProtocol.AH, Mode.TUNNEL),
        (NETS + "ah_proposals = aes128gmac-esn", SecurityProtocol.AH, Mode.TUNNEL),
        (HOSTS + "ah_proposals = sha512", SecurityProtocol.AH, Mode.TRANSPORT),
        (HOSTS + "esp_proposals = aes128gcm16-esn-noesn", SecurityProtocol.ESP, Mode.TRANSPORT),
        (HOSTS + "ipcomp = yes", SecurityProtocol.ESP, Mode.TRANSPORT),
        (NETS + "ipcomp = yes", SecurityProtocol.ESP, Mode.TUNNEL),
        (NETS + "tfc_padding = 900", SecurityProtocol.ESP, Mode.TUNNEL),
        (NETS + "tfc_padding = mtu\nipcomp = yes\ncopy_dscp = no", SecurityProtocol.ESP, Mode.TUNNEL),
    ],
)
def test_packets_arrive(tmp_path: Path, lines: str, protocol: SecurityProtocol, mode: Mode) -> None:
    pair = make(tmp_path, lines)
    up(pair)
    ends = ("10.0.0.1", "10.0.0.2") if mode is Mode.TRANSPORT else ("10.1.0.1", "10.2.0.1")
    for _ in range(2):
        assert len(ping(pair, pair.a, *ends, count=4)) == 4
        assert len(ping(pair, pair.b, *reversed(ends), count=3)) == 3
        for view in (pair.a.endpoint.ike_sas()[0].children[-1], pair.b.endpoint.ike_sas()[0].children[-1]):
            assert (view.protocol, view.mode) == (protocol, mode)
        pair.b.endpoint.rekey(child="lan", now=pair.now)
        pair.b.advance()
        pair.run(20)
    for side in (pair.a, pair.b):
        counters = side.plane.counters
        assert (counters.unknown_spi, counters.discarded_in, counters.malformed_in, counters.no_sa_out) == (
            0,
            0,
            0,
            0,
        )


def test_what_ipcomp_and_tfc_do_to_packets(tmp_path: Path) -> None:
    for lines, field in (("ipcomp = yes", "compressed"), ("tfc_padding = 900", "padded")):
        pair = make(tmp_path, NETS + lines)
        up(pair)
        ping(pair, pair.a, "10.1.0.1", "10.2.0.1", count=4)
        (child,) = pair.a.endpoint.ike_sas()[0].children
        assert child.outbound is not None
        counted = pair.a.plane.query(child.outbound)
        assert counted is not None
        assert getattr(counted.details, field) == 4


def test_packets_that_wait_for_their_own_sa(tmp_path: Path) -> None:
    """Populate-from-packet with a trap: each remote host gets an SA, and the packet that asked for it is not lost."""
    pair = make(tmp_path, NETS + "start_action = trap\npfp = local, remote")
    for number in (1, 2, 3):
        assert len(ping(pair, pair.a, "10.1.0.1", f"10.2.0.{number}")) == 1
        assert len(pair.a.endpoint.ike_sas()[0].children) == number
    assert len(ping(pair, pair.a, "10.1.0.1", "10.2.0.2", count=5)) == 5
    outbound = {
        child.outbound for child in pair.a.endpoint.ike_sas()[0].children if child.outbound is not None
    }
    packets = sorted(counters.packets for sa in outbound if (counters := pair.a.plane.query(sa)) is not None)
    assert packets == [1, 1, 6], "each SA carries what it is for"
    assert {sa.direction for sa in outbound} == {Direction.OUT}
    assert len(ping(pair, pair.b, "10.2.0.3", "10.1.0.1")) == 1

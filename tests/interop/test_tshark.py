"""tshark as the independent decoder: it decrypts our IKE and ESP from exported keys and finds nothing malformed."""

from __future__ import annotations

import pytest
from lab import traffic
from lab.capture import Capture, tshark, tshark_complaints
from lab.policy import require_tool
from lab.swanconf import Auth, Child, Tunnel
from lab.topology import WAN4, WAN6, Pair


@pytest.fixture(autouse=True)
def _tshark() -> None:
    require_tool("tshark")


def exercise(pair: Pair) -> None:
    """Every exchange we know, and some traffic under each key."""
    left, right = pair.namespaces
    pair.a.initiate("net")
    pair.b.wait_child("net")
    assert traffic.ping(left, *pair.ends(), count=3).lost == 0
    old = pair.a.child().spis
    pair.a.swanctl("--rekey", "--child", "net")
    pair.a.wait_other_child(old)
    assert traffic.ping(left, *pair.ends(), count=2).lost == 0
    pair.b.swanctl("--rekey", "--ike", "gw")
    pair.a.wait_one_ike_sa()
    pair.b.wait_one_ike_sa()
    traffic.send_udp(left, right, *pair.ends(), [100, 1200])
    pair.a.swanctl("--terminate", "--ike", "gw")
    pair.b.wait_no_sa()


def no_segmentation_offload(pair: Pair) -> None:
    """One frame a datagram on the wire, as tshark expects: else a capture sees what only hardware would cut up."""
    for namespace in pair.namespaces:
        namespace.ip("link set wan gso_max_segs 1")


ROLES = [("ours", "strongswan"), ("strongswan", "ours"), ("ours", "ours")]
PROPOSALS: list[tuple[Auth, str, str]] = [
    ("psk", "aes128gcm16-prfsha256-x25519", "aes256gcm16-ecp256"),
    ("ecdsa", "aes256-sha384-ecp384", "aes128-sha256"),
]


@pytest.mark.parametrize("kinds", ROLES, ids=["we-initiate", "we-respond", "both-ours"])
@pytest.mark.parametrize(("auth", "ike", "esp"), PROPOSALS, ids=["gcm", "cbc"])
def test_tshark_decrypts_ike_and_esp(
    make_pair, kinds: tuple[str, str], auth: Auth, ike: str, esp: str
) -> None:
    child = Child("net", ("10.1.0.0/24", "10.2.0.0/24"), esp)
    pair = make_pair(kinds, (Tunnel(auth=auth, ike=ike, children=(child,)),), export_keys=True)
    no_segmentation_offload(pair)
    with Capture(pair.namespaces[0], pair.folder / "wan.pcap") as capture:
        exercise(pair)
    keys = pair.gateways[kinds.index("ours")].keys
    complaints = tshark_complaints(capture.path, keys)
    assert complaints == []
    # Without keys the encrypted payloads stay shut; with them their content is there.
    exchanges = [int(row[0]) for row in tshark(capture.path, "isakmp", ["isakmp.exchangetype"])]
    assert {34, 35, 36, 37} <= set(exchanges)
    assert tshark(capture.path, "isakmp.auth.method", ["frame.number"]) == []
    auths = tshark(capture.path, "isakmp.auth.method", ["isakmp.messageid", "isakmp.auth.method"], keys)
    assert len(auths) == 2
    deletes = tshark(capture.path, "isakmp.delete.protoid", ["isakmp.delete.protoid"], keys)
    assert {row[0] for row in deletes} >= {"1", "3"}
    # Integrity of every encrypted IKE message was checked by tshark, by itself.
    assert tshark(capture.path, 'isakmp contains "incorrect"', ["frame.number"], keys) == []
    inside = tshark(capture.path, "esp && icmp", ["icmp.type", "ip.src", "esp.sequence"], keys)
    assert len(inside) == 10
    datagrams = tshark(capture.path, "esp && udp.dstport == 7007", ["udp.length"], keys)
    assert sorted(int(row[0].split(",")[-1]) for row in datagrams) == [108, 1208]
    assert tshark(capture.path, "esp && icmp", ["frame.number"]) == []
    assert tshark(capture.path, "esp.icv_bad == 1", ["frame.number"], keys) == []


@pytest.mark.parametrize("outer", [WAN4, WAN6], ids=["over-ipv4", "over-ipv6"])
@pytest.mark.parametrize(
    "selectors", [("10.1.0.0/24", "10.2.0.0/24"), ("fd01::/64", "fd02::/64")], ids=["ipv4", "ipv6"]
)
def test_native_esp_between_two_of_ours(
    make_pair, outer: tuple[str, str], selectors: tuple[str, str]
) -> None:
    """No NAT between two of ours: ESP leaves as IP protocol 50, and tshark opens it."""
    tunnel = Tunnel(addresses=outer, children=(Child("net", selectors),))
    pair = make_pair(("ours", "ours"), (tunnel,), export_keys=True)
    left, right = pair.namespaces
    no_segmentation_offload(pair)
    with Capture(left, pair.folder / "wan.pcap") as capture:
        pair.a.initiate("net")
        pair.b.wait_child("net")
        assert pair.a.child().raw.get("encap", "no") == "no"
        octets = traffic.send_udp(left, right, *pair.ends(), [100, 500, 1300])
        traffic.tcp_transfer(right, left, *pair.ends()[::-1], octets=200_000)
    assert pair.b.child().octets[0] >= octets
    protocol = "ipv6.nxt == 50" if ":" in outer[0] else "ip.proto == 50"
    native = tshark(capture.path, f"esp && {protocol}", ["frame.number"])
    assert len(native) > 100
    assert len(tshark(capture.path, "esp", ["frame.number"])) == len(native)
    assert len(tshark(capture.path, "esp && udp.dstport == 7007", ["frame.number"], pair.a.keys)) == 3
    # One complaint is TCP's own business: lost or repeated segments would be counted by TCP itself.
    malformed = tshark(capture.path, "_ws.malformed", ["frame.number"], pair.a.keys)
    assert malformed == []


def test_encapsulation_on_demand(make_pair) -> None:
    """encap = yes fakes a NAT: all ESP goes through UDP port 4500."""
    pair = make_pair(("ours", "ours"), (Tunnel(options={"encap": "yes"}),), export_keys=True)
    left, right = pair.namespaces
    no_segmentation_offload(pair)
    with Capture(left, pair.folder / "wan.pcap") as capture:
        pair.a.initiate("net")
        pair.b.wait_child("net")
        traffic.send_udp(left, right, *pair.ends(), [100] * 10)
    assert pair.a.child().raw["encap"] == "yes"
    assert len(tshark(capture.path, "esp && udp.dstport == 4500", ["frame.number"])) == 10
    assert tshark(capture.path, "esp && ip.proto == 50", ["frame.number"]) == []


def test_no_keys_are_exported_unasked(make_pair) -> None:
    pair = make_pair(("ours", "ours"))
    pair.a.initiate("net")
    for gateway in pair.gateways:
        assert not gateway.keys.exists()
        written = {path.name for path in gateway.folder.rglob("*") if path.is_file()}
        assert not written & {"ikev2_decryption_table", "esp_sa"}
        for secret in pair.psk.values():
            assert secret not in gateway.log()


def test_exported_keys_are_private(make_pair) -> None:
    pair = make_pair(("ours", "ours"), export_keys=True)
    pair.a.initiate("net")
    for table in ("ikev2_decryption_table", "esp_sa"):
        path = pair.a.keys / table
        assert path.stat().st_mode & 0o077 == 0
        assert path.read_text().count("\n") >= 1

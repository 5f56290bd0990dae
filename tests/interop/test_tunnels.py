"""A tunnel comes up with strongSwan as peer, in both roles, and carries ping, TCP and UDP to the octet."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lab import traffic
from lab.swanconf import Auth, Child, Tunnel
from lab.topology import WAN4, WAN6, Pair

# a initiates.
ROLES = [("ours", "strongswan"), ("strongswan", "ours")]
ROLE_NAMES = ["we-initiate", "we-respond"]
roles = pytest.mark.parametrize("kinds", ROLES, ids=ROLE_NAMES)


def assert_both_list_the_same(pair: Pair) -> None:
    """The two daemons' list-sas are mirror images."""
    a, b = pair.a.ike_sa(), pair.b.ike_sa()
    assert a.spis == b.spis
    assert (a.raw["local-id"], a.raw["remote-id"]) == (b.raw["remote-id"], b.raw["local-id"])
    assert (a.raw["local-host"], a.raw["remote-host"]) == (b.raw["remote-host"], b.raw["local-host"])
    assert a.raw.get("initiator") == "yes"
    assert "initiator" not in b.raw or b.raw["initiator"] == "no"
    for key in ("version", "encr-alg", "encr-keysize", "integ-alg", "prf-alg", "dh-group"):
        assert a.raw.get(key) == b.raw.get(key), key
    child_a, child_b = pair.a.child(), pair.b.child()
    assert child_a.spis == child_b.spis[::-1]
    assert child_a.raw["local-ts"] == child_b.raw["remote-ts"]
    assert child_a.raw["remote-ts"] == child_b.raw["local-ts"]
    for key in ("mode", "protocol", "encr-alg", "encr-keysize", "integ-alg"):
        assert child_a.raw.get(key) == child_b.raw.get(key), key


def assert_carries(pair: Pair, child: str | None = None, tcp_octets: int = 300_000) -> None:
    """Ping and TCP both ways, and UDP that both ends count by exactly the octets sent."""
    left, right = pair.namespaces
    end_a, end_b = pair.ends(child)
    assert traffic.ping(left, end_a, end_b).lost == 0
    assert traffic.ping(right, end_b, end_a).lost == 0
    before = [(c.octets, c.packets) for c in (pair.a.child(child), pair.b.child(child))]
    sizes = [40, 100, 999, 1300]
    forth = traffic.send_udp(left, right, end_a, end_b, sizes)
    back = traffic.send_udp(right, left, end_b, end_a, sizes[:2])
    after = [(c.octets, c.packets) for c in (pair.a.child(child), pair.b.child(child))]
    (a_in, a_out), (a_packets_in, a_packets_out) = (
        tuple(new - old for new, old in zip(after[0][kind], before[0][kind], strict=True)) for kind in (0, 1)
    )
    (b_in, b_out), (b_packets_in, b_packets_out) = (
        tuple(new - old for new, old in zip(after[1][kind], before[1][kind], strict=True)) for kind in (0, 1)
    )
    assert (a_out, b_in) == (forth, forth)
    assert (b_out, a_in) == (back, back)
    assert (a_packets_out, b_packets_in, b_packets_out, a_packets_in) == (4, 4, 2, 2)
    traffic.tcp_transfer(left, right, end_a, end_b, tcp_octets)
    traffic.tcp_transfer(right, left, end_b, end_a, tcp_octets)


@roles
@pytest.mark.parametrize("auth", ["psk", "ecdsa", "rsa", "ed25519"])
def test_tunnel_carries_traffic(make_pair, kinds: tuple[str, str], auth: Auth) -> None:
    pair = make_pair(kinds, (Tunnel(auth=auth),))
    pair.a.initiate("net")
    pair.b.wait_child("net")
    assert_both_list_the_same(pair)
    assert_carries(pair)


# (IKE proposal, ESP proposal): every algorithm that is in now, spread over few negotiations.
ALGORITHMS = [
    ("aes128gcm16-prfsha256-x25519", "aes256gcm16-ecp256"),
    ("aes256gcm16-prfsha384-ecp384", "chacha20poly1305"),
    ("chacha20poly1305-prfsha512-ecp521", "aes128-sha256-x25519"),
    ("aes128-sha256-ecp256", "aes192-sha384-modp2048"),
    ("aes192-sha384-modp2048", "aes256-sha512-ecp384"),
    ("aes256-sha512-modp3072", "aes192gcm16"),
    ("aes256-sha256-modp4096", "aes128gcm16-ecp521"),
]


@roles
@pytest.mark.parametrize(("ike", "esp"), ALGORITHMS)
def test_algorithms(make_pair, kinds: tuple[str, str], ike: str, esp: str) -> None:
    child = Child("net", ("10.1.0.0/24", "10.2.0.0/24"), esp)
    pair = make_pair(kinds, (Tunnel(ike=ike, children=(child,)),))
    pair.a.initiate("net")
    pair.b.wait_child("net")
    assert_both_list_the_same(pair)
    end_a, end_b = pair.ends()
    assert traffic.ping(pair.namespaces[0], end_a, end_b).lost == 0
    # The child's own key exchange only happens when a further child or a rekey asks for one.
    old = pair.a.child().spis
    pair.a.swanctl("--rekey", "--child", "net")
    pair.a.wait_other_child(old)
    pair.b.wait_other_child(old[::-1])
    assert traffic.ping(pair.namespaces[0], end_a, end_b).lost == 0


@roles
def test_initiator_guesses_the_wrong_group(make_pair, kinds: tuple[str, str]) -> None:
    """INVALID_KE_PAYLOAD (RFC 7296 §1.2): the initiator's first group is not the one that the responder takes."""
    ours = Tunnel(ike="aes128gcm16-prfsha256-x25519-ecp384")
    pair = make_pair(kinds, (ours,), tunnels_b=(replace(ours, ike="aes128gcm16-prfsha256-ecp384"),))
    pair.a.initiate("net")
    assert pair.a.ike_sa().raw["dh-group"] == "ECP_384"
    assert_both_list_the_same(pair)


@roles
def test_traffic_selectors_are_narrowed(make_pair, kinds: tuple[str, str]) -> None:
    wide = Tunnel(children=(Child("net", ("10.1.0.0/16", "10.2.0.0/16")),))
    narrow = Tunnel(children=(Child("net", ("10.1.0.0/24", "10.2.0.0/24")),))
    pair = make_pair(kinds, (wide,), tunnels_b=(narrow,))
    pair.a.initiate("net")
    assert pair.a.child().raw["local-ts"] == ["10.1.0.0/24"]
    assert pair.a.child().raw["remote-ts"] == ["10.2.0.0/24"]
    assert_both_list_the_same(pair)
    assert traffic.ping(pair.namespaces[0], "10.1.0.1", "10.2.0.1").lost == 0


@roles
def test_two_children_of_one_ike_sa(make_pair, kinds: tuple[str, str]) -> None:
    children = (Child("net", ("10.1.0.0/24", "10.2.0.0/24")), Child("two", ("10.1.1.0/24", "10.2.1.0/24")))
    pair = make_pair(kinds, (Tunnel(children=children),))
    pair.a.initiate("net")
    pair.a.initiate("two")
    assert len(pair.a.established()) == len(pair.b.established()) == 1
    for name in ("net", "two"):
        assert pair.b.wait_child(name).spis == pair.a.child(name).spis[::-1]
        assert_carries(pair, name, 50_000)


IPV6_INSIDE = Child("net", ("fd01::/64", "fd02::/64"))
IPV4_INSIDE = Child("net", ("10.1.0.0/24", "10.2.0.0/24"))


@roles
@pytest.mark.parametrize(
    ("outer", "child"),
    [(WAN4, IPV6_INSIDE), (WAN6, IPV4_INSIDE), (WAN6, IPV6_INSIDE)],
    ids=["6-in-4", "4-in-6", "6-in-6"],
)
def test_ipv6(make_pair, kinds: tuple[str, str], outer: tuple[str, str], child: Child) -> None:
    pair = make_pair(kinds, (Tunnel(addresses=outer, children=(child,)),))
    pair.a.initiate("net")
    pair.b.wait_child("net")
    assert_both_list_the_same(pair)
    assert_carries(pair)


@roles
def test_wrong_secret_is_refused(make_pair, kinds: tuple[str, str]) -> None:
    pair = make_pair(kinds)
    pair.psk = {"gw": "another secret altogether"}
    pair.write_configuration(1)
    pair.b.swanctl("--load-creds", "--clear", "--noprompt")
    failed = pair.a.swanctl_run("--initiate", "--child", "net", "--timeout", "5")
    assert failed.returncode != 0
    assert "AUTH" in failed.stdout + failed.stderr
    pair.a.wait_no_sa()
    pair.b.wait_no_sa()


@roles
def test_unknown_certificate_authority_is_refused(make_pair, kinds: tuple[str, str]) -> None:
    pair = make_pair(kinds, (Tunnel(auth="ecdsa"),), tunnels_b=(Tunnel(auth="rsa"),))
    failed = pair.a.swanctl_run("--initiate", "--child", "net", "--timeout", "5")
    assert failed.returncode != 0
    pair.a.wait_no_sa()
    pair.b.wait_no_sa()


@roles
def test_no_common_proposal(make_pair, kinds: tuple[str, str]) -> None:
    one = Tunnel(ike="aes256-sha512-ecp384")
    pair = make_pair(kinds, (one,), tunnels_b=(replace(one, ike="aes128-sha256-x25519"),))
    failed = pair.a.swanctl_run("--initiate", "--child", "net", "--timeout", "5")
    assert failed.returncode != 0
    assert "NO_PROP" in failed.stdout + failed.stderr
    pair.a.wait_no_sa()
    assert pair.b.answers()

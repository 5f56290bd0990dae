"""What a Child SA may be beside an ESP tunnel: AH, transport mode (with NAT), IPComp, ESN, TFC, fragments, dynamic."""

from dataclasses import replace
from typing import Any

import pytest
from ike_network import ESP_GCM, DataPlane, End, Nat, Pair, host, mirrored, ts

from ipsecstack.dataplane.base import abilities
from ipsecstack.dataplane.memory import FEATURES
from ipsecstack.ipsec.sa import Direction, Mode, SaDescription, SecurityProtocol
from ipsecstack.keyex import base
from ipsecstack.keyex.base import CommandError
from ipsecstack.keyex.configuration import DynamicSelector, Proposal
from ipsecstack.keyex.options import Options
from ipsecstack.vici.views import child_section
from ipsecstack.wire.transforms import EncrId, EsnId, IntegId

AH_SHA2 = Proposal(SecurityProtocol.AH, (), (IntegId.HMAC_SHA2_256_128,), esn=(EsnId.NO_ESN,))
AH_GMAC = Proposal(SecurityProtocol.AH, (), (IntegId.AES_256_GMAC,), esn=(EsnId.ESN, EsnId.NO_ESN))


def pair_of(a: dict[str, Any], b: dict[str, Any] | None = None, **network: Any) -> Pair:
    """Two ends whose children have these options (and dynamic selectors in transport mode)."""
    configs = []
    for config, options in zip(mirrored(), (a, a if b is None else b), strict=True):
        child = replace(config.children[0], **options)
        if child.mode is Mode.TRANSPORT and "local_ts" not in options:
            child = replace(child, local_ts=(), remote_ts=())
        configs.append(replace(config, children=(child,)))
    return Pair(a=configs[0], b=configs[1], **network)


def only(plane: DataPlane, direction: Direction) -> SaDescription:
    (found,) = (sa for sa in plane.sas.values() if sa.direction is direction)
    return found


def attempt(pair: Pair, end: End | None = None) -> base.CommandFinished:
    end = end or pair.a
    ticket = end.do(end.endpoint.initiate, ike="conn", child="net")
    pair.run(20)
    result = end.outcome(ticket)
    assert result is not None
    return result


def rekey_both_ways(pair: Pair) -> None:
    for end in pair.ends:
        end.do(end.endpoint.rekey, child="net")
        pair.run(20)
        end.do(end.endpoint.rekey, ike="conn")
        pair.run(20)
    pair.check_agreement()
    pair.check_no_leaks()


# --- AH ---


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("proposal", [AH_SHA2, AH_GMAC])
def test_ah(proposal: Proposal, mode: Mode) -> None:
    pair = pair_of({"proposals": (proposal,), "mode": mode})
    pair.up()
    rekey_both_ways(pair)
    for end in pair.ends:
        for sa in end.plane.sas.values():
            assert (sa.protocol, sa.mode, sa.integ) == (SecurityProtocol.AH, mode, proposal.integ[0])
            assert (sa.key_encr, sa.encr) == (b"", EncrId.NULL)
            assert sa.key_integ
            assert sa.esn is (EsnId.ESN in proposal.esn)
        (view,) = end.children()
        assert view.protocol is SecurityProtocol.AH
        (policy,) = end.plane.policies
        assert policy.protocol is SecurityProtocol.AH
    ticket, _ = pair.b.do(pair.b.endpoint.terminate, child="net")
    pair.run(10)
    assert pair.b.outcome(ticket) is not None
    assert not any(end.plane.sas for end in pair.ends)
    assert not any(end.children() for end in pair.ends)


def test_ah_and_esp_in_one_offer() -> None:
    """The responder's order decides which protocol is used; its SPI space is the same for both."""
    pair = pair_of({"proposals": (ESP_GCM, AH_SHA2)}, {"proposals": (AH_SHA2, ESP_GCM)})
    pair.up()
    assert {sa.protocol for end in pair.ends for sa in end.plane.sas.values()} == {SecurityProtocol.AH}
    pair = pair_of({"proposals": (AH_SHA2, ESP_GCM)}, {"proposals": (ESP_GCM,)})
    pair.up()
    assert {sa.protocol for end in pair.ends for sa in end.plane.sas.values()} == {SecurityProtocol.ESP}


def test_no_ah_through_a_nat() -> None:
    nat = Nat("10.0.0.1", "192.0.2.1")
    for proposals, good in (((AH_SHA2,), False), ((AH_SHA2, ESP_GCM), True)):
        pair = pair_of({"proposals": proposals})
        pair.nats.append(Nat(nat.inside, nat.outside))
        pair.b.endpoint.unload_connection("conn", pair.now)
        config = replace(mirrored()[1], remote_addrs=("%any",))
        pair.b.load(replace(config, children=(replace(config.children[0], proposals=proposals),)))
        result = attempt(pair)
        assert result.success is good, result.message
        assert {sa.protocol for sa in pair.a.plane.sas.values()} == (
            {SecurityProtocol.ESP} if good else set()
        )
        pair.check_no_leaks()


# --- transport mode ---


def test_transport_mode_declined_is_deleted() -> None:
    """The responder makes a tunnel of it: the initiator, whose configuration says transport, deletes it (§1.3.1)."""
    pair = pair_of({"mode": Mode.TRANSPORT}, {"mode": Mode.TUNNEL, "local_ts": (), "remote_ts": ()})
    result = attempt(pair)
    assert not result.success
    assert "NO_PROPOSAL_CHOSEN" in result.message
    assert any("declined transport mode" in line for line in pair.a.log())
    for end in pair.ends:
        assert not end.plane.sas
        assert len(end.ike()) == 1
    pair.check_no_leaks()


def test_tunnel_refused_where_transport_mode_is_configured() -> None:
    pair = pair_of({"mode": Mode.TUNNEL, "local_ts": (), "remote_ts": ()}, {"mode": Mode.TRANSPORT})
    result = attempt(pair)
    assert not result.success
    assert "NO_PROPOSAL_CHOSEN" in pair.b.failures()
    assert not pair.b.plane.sas


def test_transport_mode_between_networks_is_a_tunnel() -> None:
    nets = {"local_ts": ts("10.1.0.0/24"), "remote_ts": ts("10.2.0.0/24")}
    turned = {"local_ts": nets["remote_ts"], "remote_ts": nets["local_ts"]}
    pair = pair_of({"mode": Mode.TRANSPORT, **nets}, {"mode": Mode.TRANSPORT, **turned})
    pair.up()
    assert {sa.mode for end in pair.ends for sa in end.plane.sas.values()} == {Mode.TUNNEL}
    assert any("not host-to-host" in line for line in pair.a.log())


def transport_through(*nats: Nat, by: str) -> Pair:
    """Transport mode with ``a`` (10.0.0.1) and ``b`` (10.0.0.2) behind these NATs; ``by`` initiates to the outside."""
    outside = {nat.inside: nat.outside for nat in nats}
    configs = []
    for config, peer in zip(
        mirrored(child_options={"mode": Mode.TRANSPORT}), ("10.0.0.2", "10.0.0.1"), strict=True
    ):
        child = replace(config.children[0], local_ts=(), remote_ts=())
        configs.append(replace(config, children=(child,), remote_addrs=(outside.get(peer, peer),)))
    pair = Pair(a=configs[0], b=configs[1])
    for nat in nats:
        nat.forward.update({500: 500, 4500: 4500})  # a static mapping, so that both can be reached
        pair.nats.append(nat)
    end = pair.a if by == "a" else pair.b
    result = attempt(pair, end)
    assert result.success, result.message
    return pair


@pytest.mark.parametrize("by", ["a", "b"])
@pytest.mark.parametrize("behind", ["a", "b", "both"])
def test_transport_mode_through_nat(behind: str, by: str) -> None:
    """Each end's selectors have the addresses that it sees; the peer's own ones go along for checksums (§2.23.1)."""
    nats = []
    if behind in ("a", "both"):
        nats.append(Nat("10.0.0.1", "192.0.2.1"))
    if behind in ("b", "both"):
        nats.append(Nat("10.0.0.2", "192.0.2.2"))
    pair = transport_through(*nats, by=by)
    outside = {nat.inside: nat.outside for nat in nats}
    for round_ in range(2):
        for end, own, peer in ((pair.a, "10.0.0.1", "10.0.0.2"), (pair.b, "10.0.0.2", "10.0.0.1")):
            seen = outside.get(peer, peer)
            inbound, outbound = only(end.plane, Direction.IN), only(end.plane, Direction.OUT)
            for sa in (inbound, outbound):
                assert sa.mode is Mode.TRANSPORT
                assert sa.encapsulated
                assert (sa.local_ts, sa.remote_ts) == (ts(f"{own}/32"), ts(f"{seen}/32"))
            # The peer makes its packets from its own address to what it knows as ours.
            assert inbound.original_source == host(peer).host
            assert inbound.original_destination == host(outside.get(own, own)).host
            assert outbound.original_source is None
        if not round_:
            end = pair.b if by == "a" else pair.a
            end.do(end.endpoint.rekey, child="net")
            pair.run(20)
    pair.check_no_leaks()


def test_without_a_nat_no_addresses_are_replaced() -> None:
    pair = pair_of({"mode": Mode.TRANSPORT})
    pair.up()
    assert only(pair.a.plane, Direction.IN).original_source is None


# --- IPComp ---


def test_ipcomp() -> None:
    pair = pair_of({"ipcomp": True})
    pair.up()
    seen: set[int] = set()
    for _ in range(2):
        for end, other in ((pair.a, pair.b), (pair.b, pair.a)):
            cpi = only(end.plane, Direction.IN).ipcomp_cpi
            assert 256 <= cpi <= 61439
            assert only(other.plane, Direction.OUT).ipcomp_cpi == cpi
            assert cpi not in seen, "each SA has its own"
            seen.add(cpi)
            (view,) = end.children()
            assert (view.cpi_in, view.cpi_out) == (cpi, only(end.plane, Direction.OUT).ipcomp_cpi)
            assert end.plane.policies[0].ipcomp
        rekey_both_ways(pair)
    ticket, _ = pair.a.do(pair.a.endpoint.terminate, ike="conn")
    pair.run(10)
    assert pair.a.outcome(ticket) is not None
    for end in pair.ends:
        assert not end.endpoint._cpis._used, "every CPI was given back"


@pytest.mark.parametrize("wanting", [0, 1])
def test_ipcomp_declined_goes_without(wanting: int) -> None:
    options = [{"ipcomp": wanting == 0}, {"ipcomp": wanting == 1}]
    pair = pair_of(options[0], options[1])
    pair.up()
    assert {sa.ipcomp_cpi for end in pair.ends for sa in end.plane.sas.values()} == {0}
    assert not any(end.endpoint._cpis._used for end in pair.ends)


def test_ipcomp_of_an_ipcomp_less_data_plane() -> None:
    pair = pair_of({"ipcomp": True}, options=Options(abilities=frozenset(), retransmit_jitter=0.0))
    pair.up()
    assert {sa.ipcomp_cpi for end in pair.ends for sa in end.plane.sas.values()} == {0}


# --- ESN, TFC, fragments, and what only the data plane is told ---


@pytest.mark.parametrize(
    "a, b, chosen",
    [
        ((EsnId.ESN, EsnId.NO_ESN), (EsnId.ESN, EsnId.NO_ESN), True),
        ((EsnId.ESN, EsnId.NO_ESN), (EsnId.NO_ESN, EsnId.ESN), False),
        ((EsnId.NO_ESN,), (EsnId.ESN, EsnId.NO_ESN), False),
        ((EsnId.ESN,), (EsnId.NO_ESN, EsnId.ESN), True),
    ],
)
def test_esn_is_what_both_have_in_the_responders_order(
    a: tuple[EsnId, ...], b: tuple[EsnId, ...], chosen: bool
) -> None:
    pair = pair_of({"proposals": (replace(ESP_GCM, esn=a),)}, {"proposals": (replace(ESP_GCM, esn=b),)})
    pair.up()
    assert {sa.esn for end in pair.ends for sa in end.plane.sas.values()} == {chosen}


def test_esn_that_one_end_alone_has() -> None:
    pair = pair_of(
        {"proposals": (replace(ESP_GCM, esn=(EsnId.ESN,)),)},
        {"proposals": (replace(ESP_GCM, esn=(EsnId.NO_ESN,)),)},
    )
    assert not attempt(pair).success


def test_tfc_pads_what_leaves_unless_the_peer_cannot_take_it() -> None:
    pair = pair_of({"tfc": 700}, {"tfc": -1})
    pair.up()
    assert (only(pair.a.plane, Direction.OUT).tfc, only(pair.a.plane, Direction.IN).tfc) == (700, 0)
    assert only(pair.b.plane, Direction.OUT).tfc == -1
    unable = Options(abilities=frozenset({"esn", "transport"}), retransmit_jitter=0.0)
    pair = pair_of({"tfc": 700}, options=unable)
    pair.up()
    assert only(pair.a.plane, Direction.OUT).tfc == 0
    pair = pair_of({"tfc": 700, "mode": Mode.TRANSPORT})
    pair.up()
    assert only(pair.a.plane, Direction.OUT).tfc == 0, "there is no room for it in transport mode"


def test_later_fragments_are_agreed_on() -> None:
    ports = {"local_ts": ts("10.1.0.0/24[udp/53]"), "remote_ts": ts("10.2.0.0/24[udp]")}
    turned = {"local_ts": ports["remote_ts"], "remote_ts": ports["local_ts"]}
    pair = pair_of(ports, turned)
    pair.up()
    assert {sa.non_first_fragments for end in pair.ends for sa in end.plane.sas.values()} == {True}
    hosts = {"mode": Mode.TRANSPORT}
    pair = pair_of(
        {**hosts, "local_ts": ts("10.0.0.1/32[udp/53]"), "remote_ts": ts("10.0.0.2/32[udp]")},
        {**hosts, "local_ts": ts("10.0.0.2/32[udp]"), "remote_ts": ts("10.0.0.1/32[udp/53]")},
    )
    pair.up()
    assert {sa.non_first_fragments for end in pair.ends for sa in end.plane.sas.values()} == {False}


def test_what_the_data_plane_alone_needs() -> None:
    pair = pair_of(
        {
            "copy_df": False,
            "copy_ecn": False,
            "copy_dscp": "yes",
            "interface": "ipsec7",
            "if_id": 7,
            "mark": (5, 0xFF),
            "sha256_96": True,
            "pfp": frozenset({"remote"}),
        },
        {},
    )
    pair.up()
    inbound, outbound = only(pair.a.plane, Direction.IN), only(pair.a.plane, Direction.OUT)
    for sa in (inbound, outbound):
        assert (sa.copy_df, sa.copy_ecn, sa.copy_dscp, sa.sha256_96) == (False, False, "yes", True)
        assert (sa.interface, sa.if_id) == ("ipsec7", 7)
    assert (inbound.mark, outbound.mark) == ((0, 0), (5, 0xFF))
    (policy,) = pair.a.plane.policies
    assert (policy.interface, policy.if_id, policy.mark) == ("ipsec7", 7, (5, 0xFF))
    assert policy.pfp == {"remote"}


def test_what_vici_shows() -> None:
    ah = child_section(pair_up({"proposals": (AH_SHA2,)}), (None, None), 0.0)
    assert ah["protocol"] == "AH"
    assert "encr-alg" not in ah
    assert ah["integ-alg"] == "HMAC_SHA2_256_128"
    view = pair_up({"ipcomp": True, "if_id": 7, "mark": (5, 0xFF)})
    shown = child_section(view, (None, None), 0.0)
    assert (shown["cpi-in"], shown["cpi-out"]) == (f"{view.cpi_in:04x}", f"{view.cpi_out:04x}")
    assert (shown["if-id-in"], shown["mark-in"], shown["mark-mask-out"]) == (
        "00000007",
        "00000005",
        "000000ff",
    )


def pair_up(options: dict[str, Any]) -> base.ChildSaView:
    pair = pair_of(options)
    pair.up()
    (view,) = pair.a.children()
    return view


@pytest.mark.parametrize(
    "options, word",
    [
        ({"if_id": 7}, "if_id"),
        ({"mark": (5, 0xFF)}, "mark"),
        ({"proposals": (AH_SHA2,)}, "AH"),
        ({"mode": Mode.TRANSPORT}, "transport"),
    ],
)
def test_what_the_data_plane_cannot_do_is_refused_early(options: dict[str, Any], word: str) -> None:
    unable = Options(abilities=frozenset({"esn"}), retransmit_jitter=0.0)
    with pytest.raises(CommandError, match=word):
        pair_of(options, options=unable)
    assert "mark" not in abilities(FEATURES)
    assert {"ah", "esn", "ipcomp", "tfc", "transport"} == abilities(FEATURES)


# --- dynamic selectors ---


def test_dynamic_with_a_protocol_and_beside_others() -> None:
    web, anything = DynamicSelector.of(6, 80, 80), DynamicSelector.of()
    pair = pair_of(
        {"local_ts": (anything, *ts("10.1.0.0/24")), "remote_ts": (web,)},
        {"local_ts": (web,), "remote_ts": (anything, *ts("10.1.0.0/24"))},
    )
    pair.up()
    sa = only(pair.a.plane, Direction.OUT)
    assert sa.local_ts == ts("10.0.0.1/32", "10.1.0.0/24")
    assert sa.remote_ts == ts("10.0.0.2/32[tcp/80]")
    assert web.to_text() == "dynamic[tcp/80]"
    assert anything.to_text() == "dynamic"


# --- inactivity ---


def test_an_idle_child_is_closed() -> None:
    pair = pair_of({"inactivity": 60}, {})
    pair.up()
    out = only(pair.a.plane, Direction.OUT).id
    pair.run(40)
    pair.a.plane.seen[out] = pair.now
    pair.run(50)
    assert pair.a.children(), "traffic passed 50 s ago"
    pair.run(20)
    assert not any(end.children() for end in pair.ends)
    assert len(pair.a.ike()) == 1
    assert [event.reason for event in pair.a.heard(base.ChildSaDeleted)] == ["inactive"]
    pair.check_no_leaks()

"""Traffic selectors between ends that do not want the same (RFC 7296 §2.9), and SAs of single packets."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from ike_network import End, Pair, host, mirrored, ts

from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.keyex.base import CommandFinished
from ipsecstack.keyex.configuration import ChildAction, ChildConfig, ConnectionConfig
from ipsecstack.wire.ikev2 import Payload


def changed(config: ConnectionConfig, **options: Any) -> ConnectionConfig:
    return replace(config, children=(replace(config.children[0], **options),))


def initiate(pair: Pair, end: End | None = None, child: str = "net") -> CommandFinished:
    end = end or pair.a
    ticket = end.do(end.endpoint.initiate, ike="conn", child=child)
    pair.run(10)
    found = end.outcome(ticket)
    assert found is not None
    return found


def pairs(end: End) -> list[tuple[str, str]]:
    return sorted(
        (" ".join(map(str, c.local_ts)), " ".join(map(str, c.remote_ts))) for c in end.children("INSTALLED")
    )


def send(
    pair: Pair, source: str, destination: str, protocol: int = 17, ports: tuple[int, int] | None = (5, 53)
) -> None:
    """A packet of a host behind ``a`` meets its trap policy."""
    (trap,) = (policy for policy in pair.a.plane.policies if policy.trap)
    selectors = None
    if trap.pfp and ports:
        masks = []
        for side, own, address, port in (
            ("local", trap.local_ts, source, ports[0]),
            ("remote", trap.remote_ts, destination, ports[1]),
        ):
            low = high = ip_address(address)
            if side not in trap.pfp:
                low, high = type(low)(0), type(low)(2**32 - 1)
            mask = TrafficSelector(
                low,
                high,
                protocol if "protocol" in trap.pfp else 0,
                *((port, port) if f"{side}_port" in trap.pfp else (0, 65535)),
            )
            masks.append(tuple(found for one in own if (found := one.intersect(mask))))
        selectors = (masks[0], masks[1])
    pair.a.do(
        pair.a.endpoint.acquired,
        entry=trap,
        source=host(source).host,
        destination=host(destination).host,
        protocol=protocol,
        ports=ports,
        selectors=selectors,
    )
    pair.run(10)


# --- several selectors ---


def test_several_selectors_of_both_families() -> None:
    """Every pair of what both ends have; the peer's order."""
    a, b = mirrored()
    pair = Pair(
        a=changed(
            a,
            local_ts=ts("10.1.0.0/16", "fd01::/64", "10.9.0.0/24[tcp/80]"),
            remote_ts=ts("10.2.0.0/16", "fd02::/64"),
        ),
        b=changed(
            b,
            local_ts=ts("10.2.1.0/24", "10.2.2.0/24", "fd02::/48"),
            remote_ts=ts("fd01::/64", "10.1.0.0/24", "10.9.0.0/24[tcp]"),
        ),
    )
    pair.up()
    assert pairs(pair.a) == [
        ("10.1.0.0/24 fd01::/64 10.9.0.0/24[tcp/80]", "10.2.1.0/24 10.2.2.0/24 fd02::/64")
    ]
    assert pairs(pair.b) == [(remote, local) for local, remote in pairs(pair.a)]


def test_opaque_is_narrowed_to_opaque() -> None:
    a, b = mirrored()
    pair = Pair(
        a=changed(a, local_ts=ts("10.1.0.0/24[135/OPAQUE]"), remote_ts=ts("10.2.0.0/24[135]")),
        b=changed(b, local_ts=ts("10.2.0.0/24"), remote_ts=ts("10.1.0.0/24")),
    )
    pair.up()
    assert pairs(pair.a) == [("10.1.0.0/24[135/OPAQUE]", "10.2.0.0/24[135]")]


# --- ADDITIONAL_TS_POSSIBLE ---


def split_gateway() -> ConnectionConfig:
    """``b`` has a child for each of two networks; ``a`` asks for both at once."""
    _, b = mirrored()
    first = replace(b.children[0], name="one", local_ts=ts("10.2.1.0/24"))
    return replace(b, children=(first, replace(first, name="two", local_ts=ts("10.2.2.0/24"))))


def test_the_rest_is_asked_for_in_another_child() -> None:
    a, _ = mirrored()
    pair = Pair(a=changed(a, remote_ts=ts("10.2.1.0/24", "10.2.2.0/24")), b=split_gateway())
    result = initiate(pair)
    assert result.success
    assert pairs(pair.a) == [("10.1.0.0/24", "10.2.1.0/24"), ("10.1.0.0/24", "10.2.2.0/24")]
    assert sorted(c.name for c in pair.b.children()) == ["one", "two"]
    assert any("ADD_TS_POSS" in line for line in pair.a.log())
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(20)
    assert len(pairs(pair.a)) == 2, "each is rekeyed as itself"
    pair.check_agreement()
    pair.check_no_leaks()


def test_nothing_more_is_possible() -> None:
    """Narrowed all the same, but there is no other child for the rest."""
    a, b = mirrored()
    pair = Pair(a=changed(a, remote_ts=ts("10.2.0.0/24", "10.3.0.0/24")), b=b)
    assert initiate(pair).success
    assert pairs(pair.a) == [("10.1.0.0/24", "10.2.0.0/24")]
    assert not any("ADD_TS_POSS" in line for line in pair.a.log())


# --- single pairs ---


PFP = frozenset({"local", "remote"})


def test_a_responder_that_wants_single_pairs() -> None:
    """Without a packet there is no pair to ask for; with one it is asked for again, alone."""
    a, b = mirrored()
    pair = Pair(a=changed(a, start_action=ChildAction.TRAP), b=changed(b, pfp=PFP))
    refused = initiate(pair)
    assert not refused.success
    assert "SINGLE_PAIR_REQUIRED" in refused.message
    assert "SINGLE_PAIR_REQUIRED" in pair.b.failures()
    assert not pair.a.plane.sas
    send(pair, "10.1.0.7", "10.2.0.8")
    assert pairs(pair.a) == [("10.1.0.7/32", "10.2.0.8/32")]
    send(pair, "10.1.0.7", "10.2.0.9")
    assert pairs(pair.a) == [("10.1.0.7/32", "10.2.0.8/32"), ("10.1.0.7/32", "10.2.0.9/32")]
    send(pair, "10.1.0.7", "10.2.0.9")
    assert len(pairs(pair.a)) == 2, "what has an SA is not asked for again"
    pair.check_agreement()
    pair.check_no_leaks()


def test_populate_from_packet_at_the_initiator() -> None:
    a, b = mirrored()
    pair = Pair(
        a=changed(a, start_action=ChildAction.TRAP, pfp=frozenset({"remote", "protocol", "remote_port"})), b=b
    )
    send(pair, "10.1.0.7", "10.2.0.8")
    send(pair, "10.1.0.9", "10.2.0.8", ports=(9, 53))
    send(pair, "10.1.0.9", "10.2.0.8", protocol=6, ports=(9, 80))
    assert pairs(pair.a) == [
        ("10.1.0.0/24[tcp]", "10.2.0.8/32[tcp/80]"),
        ("10.1.0.0/24[udp]", "10.2.0.8/32[udp/53]"),
    ]
    (trap,) = (policy for policy in pair.a.plane.policies if policy.trap)
    assert trap.local_ts == ts("10.1.0.0/24"), "the trap stays for the next ones"
    assert pair.a.plane.policies == [trap], "one entry has all its SAs"
    assert {sa.reqid for sa in pair.a.plane.sas.values()} == {trap.reqid}
    pair.check_agreement()


def test_populate_from_packet_at_both_ends_through_ike_auth() -> None:
    a, b = mirrored()
    pair = Pair(a=changed(a, start_action=ChildAction.TRAP, pfp=PFP), b=changed(b, pfp=PFP))
    send(pair, "10.1.0.7", "10.2.0.8")
    assert pairs(pair.a) == [("10.1.0.7/32", "10.2.0.8/32")]
    assert not pair.b.failures()
    for _ in range(2):
        pair.b.do(pair.b.endpoint.rekey, child="net")
        pair.run(20)
    assert pairs(pair.b) == [("10.2.0.8/32", "10.1.0.7/32")]


def test_single_pair_that_is_refused_again_is_given_up() -> None:
    """A peer that always says SINGLE_PAIR_REQUIRED is asked twice, not for ever."""
    a, b = mirrored()
    pair = Pair(a=changed(a, start_action=ChildAction.TRAP), b=changed(b, pfp=frozenset({"local_port"})))
    send(pair, "10.1.0.7", "10.2.0.8", protocol=47, ports=None)
    assert not pair.a.children()
    assert pair.b.failures() == ["SINGLE_PAIR_REQUIRED"] * 2
    assert len(pair.a.ike()) == 1


# --- packets and traps without any of it ---


def test_another_packet_of_the_same_child_asks_for_nothing() -> None:
    a, b = mirrored()
    pair = Pair(
        a=changed(a, start_action=ChildAction.TRAP, remote_ts=ts("10.2.0.0/16")),
        b=changed(b, local_ts=ts("10.2.0.0/24")),
    )
    send(pair, "10.1.0.7", "10.2.0.8")
    assert pairs(pair.a) == [("10.1.0.0/24", "10.2.0.0/24")]
    send(pair, "10.1.0.7", "10.2.9.8")
    assert len(pair.a.children()) == 1, "the peer does not take it, and has not said that it would"


def test_a_packet_outside_of_a_narrowed_child_gets_its_own() -> None:
    a, _ = mirrored()
    pair = Pair(a=changed(a, start_action=ChildAction.TRAP, remote_ts=ts("10.2.0.0/16")), b=split_gateway())
    send(pair, "10.1.0.7", "10.2.2.8")
    assert [remote for _, remote in pairs(pair.a)] == ["10.2.2.0/24"]
    send(pair, "10.1.0.7", "10.2.1.8")
    assert [remote for _, remote in pairs(pair.a)] == ["10.2.1.0/24", "10.2.2.0/24"]
    pair.check_agreement()


@pytest.mark.parametrize("kind", ["wider", "other"])
def test_an_answer_that_is_not_narrower_is_refused_and_deleted(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipsecstack.keyex.ikev2 import answer

    wide = {"wider": "10.0.0.0/8", "other": "10.7.0.0/24"}[kind]
    original = answer.choose

    def choose(*args: Any, **options: Any) -> Any:
        payloads, agreed = original(*args, **options)
        lied: list[Payload] = [
            replace(p, selectors=answer.narrowing.to_wire(ts(wide))) if p.payload_type == 45 else p
            for p in payloads
        ]
        return lied, agreed

    monkeypatch.setattr(answer, "choose", choose)
    pair = Pair()
    result = initiate(pair)
    assert not result.success
    assert "TS_UNACCEPTABLE" in result.message
    assert not any(end.plane.sas for end in pair.ends)
    pair.check_no_leaks()


def test_first_selector_decides_between_children() -> None:
    """The packet's selectors come first: the child that has them is taken, though another one is asked for, too."""
    a, _ = mirrored()
    both = changed(a, remote_ts=ts("10.2.1.0/24", "10.2.2.0/24"), start_action=ChildAction.TRAP)
    pair = Pair(a=both, b=split_gateway())
    send(pair, "10.1.0.7", "10.2.2.8")
    assert [c.name for c in pair.b.children()] == ["two"]


def test_bypass_children_do_not_make_more_possible() -> None:
    a, b = mirrored()
    shunt = ChildConfig("dns", ts("10.3.0.0/24"), ts("10.1.0.0/24"), policy="BYPASS")
    pair = Pair(
        a=changed(a, remote_ts=ts("10.2.0.0/24", "10.3.0.0/24")), b=replace(b, children=(*b.children, shunt))
    )
    assert initiate(pair).success
    assert not [n for n in pair.a.log() if "ADD_TS_POSS" in n]

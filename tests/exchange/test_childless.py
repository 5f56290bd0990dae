"""IKE SAs without Child SAs (RFC 6023), both roles and each policy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ike_network import Pair, mirrored

from ipsecstack.keyex.configuration import ConnectionConfig
from ipsecstack.wire.ikev2 import Header, NotifyType, parse_message
from ipsecstack.wire.ikev2.numbers import ExchangeType


def pair(a: str, b: str, *, children: bool = True) -> Pair:
    def made(config: ConnectionConfig, policy: str) -> ConnectionConfig:
        return replace(config, childless=policy, children=config.children if children else ())

    one, other = mirrored()
    return Pair(a=made(one, a), b=replace(made(other, b), children=other.children))


def exchanges(pair: Pair) -> list[int]:
    return [Header.parse(o.data).exchange for o in pair.a.sent]


@pytest.mark.parametrize("policy", ["prefer", "force"])
@pytest.mark.parametrize("peer", ["allow", "prefer", "force"])
def test_children_come_later(policy: str, peer: str) -> None:
    made = pair(policy, peer)
    made.up()
    assert ExchangeType.CREATE_CHILD_SA in exchanges(made)
    made.check_agreement()
    made.check_no_leaks()


@pytest.mark.parametrize("policy", ["prefer", "force"])
def test_the_ike_sa_alone(policy: str) -> None:
    made = pair(policy, "allow")
    ticket = made.a.do(made.a.endpoint.initiate, ike="conn", child=None)
    made.run(1)
    outcome = made.a.outcome(ticket)
    assert outcome is not None
    assert outcome.success
    assert [len(sa.children) for sa in made.a.ike() + made.b.ike()] == [0, 0]
    made.up()
    assert len(made.a.ike()) == 1


@pytest.mark.parametrize(
    "a, b", [("prefer", "never"), ("allow", "never"), ("never", "never"), ("allow", "allow")]
)
def test_the_child_comes_at_once(a: str, b: str) -> None:
    made = pair(a, b)
    made.up()
    assert ExchangeType.CREATE_CHILD_SA not in exchanges(made)
    answer = parse_message(made.b.sent[0].data)
    said = answer.notify(NotifyType.CHILDLESS_IKEV2_SUPPORTED) is not None
    assert said is (b != "never")


def test_force_needs_a_peer_that_supports_it() -> None:
    made = pair("force", "never")
    ticket = made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(1)
    outcome = made.a.outcome(ticket)
    assert outcome is not None
    assert not outcome.success
    assert "does not support childless" in outcome.message
    assert made.a.failures() == ["CHILDLESS"]
    assert not made.a.ike()


@pytest.mark.parametrize("policy", ["never", "allow"])
def test_a_connection_without_children(policy: str) -> None:
    made = pair("allow", policy, children=False)
    ticket = made.a.do(made.a.endpoint.initiate, ike="conn", child=None)
    made.run(1)
    outcome = made.a.outcome(ticket)
    assert outcome is not None
    assert outcome.success is (policy == "allow")


def test_the_responder_forces_it() -> None:
    made = pair("allow", "force")
    ticket = made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(1)
    outcome = made.a.outcome(ticket)
    assert outcome is not None
    assert not outcome.success
    assert "INVALID_SYNTAX" in outcome.message
    made.run(60)
    assert not made.a.ike()
    assert not made.b.ike()
    assert any("childless = force allows none" in line for line in made.b.log())


def test_the_responder_never_takes_it() -> None:
    """An initiator that does not care what we said in IKE_SA_INIT."""
    made = pair("prefer", "allow")
    held = []
    made.tap = lambda sender, output: held.append(output) is None and len(made.b.sent) < 2
    made.b.endpoint.load_connection(replace(made.b.endpoint.connections()[0], childless="allow"), made.now)
    made.a.do(made.a.endpoint.initiate, ike="conn", child=None)
    sa_b = None

    def turn(sender: object, output: object) -> bool:
        nonlocal sa_b
        for sa in made.b.endpoint.ike_sas_of():
            sa_b = sa
            assert sa.config is not None
            sa.config = replace(sa.config, childless="never")
        return True

    made.tap = turn  # type: ignore[assignment]
    made.run(60)
    assert sa_b is not None
    assert any("childless = never" in line for line in made.b.log())
    assert not made.b.ike()

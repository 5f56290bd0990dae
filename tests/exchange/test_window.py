"""Windows larger than 1 (RFC 7296 §2.3): announced by both ends, requests and responses in any order, rekeying."""

from dataclasses import replace
from typing import Any

import pytest
from ike_network import End, Pair, mirrored, ts

from ipsecstack.keyex.base import SendDatagram
from ipsecstack.keyex.configuration import ConnectionConfig
from ipsecstack.keyex.ikev2 import machine
from ipsecstack.keyex.ikev2.informational import Liveness
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.options import Options

WIDE = Options(request_window=8, response_window=8, retransmit_jitter=0.0)


def many(number: int) -> tuple[ConnectionConfig, ConnectionConfig]:
    """Both ends with this many children."""
    a, b = mirrored()
    children = [
        replace(a.children[0], name=f"net{i}", local_ts=ts(f"10.1.{i}.0/24"), remote_ts=ts(f"10.2.{i}.0/24"))
        for i in range(number)
    ]
    turned = [replace(c, local_ts=c.remote_ts, remote_ts=c.local_ts) for c in children]
    return replace(a, children=tuple(children)), replace(b, children=tuple(turned))


def wide_pair(number: int = 6, **network: Any) -> Pair:
    a, b = many(number)
    return Pair(a=a, b=b, options=WIDE, **network)


def only(end: End) -> IkeSa:
    (sa,) = (one for one in end.endpoint.registry.all() if one.state.name == "ESTABLISHED")
    return sa


def bring_up(pair: Pair, seconds: float = 20) -> None:
    ticket = pair.a.do(pair.a.endpoint.initiate, ike="conn", child=None)
    pair.run(seconds)
    result = pair.a.outcome(ticket)
    assert result is not None
    assert result.success, result.message


def test_children_come_up_at_once() -> None:
    pair = wide_pair(latency=0.1)
    most = 0
    original = pair.transmit

    def transmit(sender: End, output: SendDatagram) -> None:
        nonlocal most
        if sender is pair.a:
            most = max(most, max((len(sa.active) for sa in pair.a.endpoint.registry.all()), default=0))
        original(sender, output)

    pair.transmit = transmit  # type: ignore[method-assign]
    bring_up(pair, 1.5)  # IKE_SA_INIT, IKE_AUTH, and one round trip for the five others
    assert most >= 4
    assert len(pair.a.children("INSTALLED")) == len(pair.b.children("INSTALLED")) == 6
    pair.check_agreement()
    pair.check_no_leaks()


def test_both_ends_are_told_and_a_rekeyed_ike_sa_begins_at_one() -> None:
    pair = wide_pair(2)
    bring_up(pair)
    for end in (pair.a, pair.b):
        only(end).enqueue(Liveness())
        machine.pump(only(end), pair.now)
        end.flush()
        pair.run(1)
    assert (only(pair.a).requests.size, only(pair.b).requests.size) == (8, 8)
    old = only(pair.a)
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    while old.successor is None:
        assert pair.step()
    assert old.successor.requests.size == 1, "the new IKE SA has not said a word yet"
    pair.run(10)
    for end in (pair.a, pair.b):
        only(end).enqueue(Liveness())
        machine.pump(only(end), pair.now)
        end.flush()
        pair.run(1)
    assert (only(pair.a).requests.size, only(pair.b).requests.size) == (8, 8)


def test_a_window_of_one_says_nothing() -> None:
    pair = Pair()
    pair.up()
    assert not any("WIN_SIZE" in line for end in pair.ends for line in end.log())


@pytest.mark.parametrize("seed", range(6))
def test_any_order_and_losses(seed: int) -> None:
    """Requests and responses overtake each other, are lost and doubled, while children and IKE SA are rekeyed."""
    pair = wide_pair(seed=seed)
    bring_up(pair)
    pair.loss, pair.duplicate, pair.reorder = 0.15, 0.2, 0.5
    for round_ in range(3):
        for i in range(6):
            end = pair.ends[(i + round_) % 2]
            end.do(end.endpoint.rekey, child=f"net{i}")
        if round_ == 1:
            for end in pair.ends:
                end.do(end.endpoint.rekey, ike="conn")
        pair.run(60)
    pair.loss = pair.duplicate = pair.reorder = 0.0
    pair.run(400)
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1
    for end in pair.ends:
        assert sorted(c.name for c in end.children("INSTALLED")) == [f"net{i}" for i in range(6)]
        assert len(end.children()) == 6
    pair.check_agreement()
    pair.check_no_leaks()


def test_rekeying_the_ike_sa_waits_for_what_is_under_way() -> None:
    """And nothing begins on the old IKE SA while it is rekeyed (§2.8, §2.25.2)."""
    pair = wide_pair(latency=0.1)
    bring_up(pair)
    sa = only(pair.a)
    for i in range(4):
        pair.a.do(pair.a.endpoint.rekey, child=f"net{i}")
    assert len(sa.active) == 4
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    pair.a.do(pair.a.endpoint.rekey, child="net4")
    assert len(sa.active) == 4, "what waits behind the rekeying does not overtake it"
    pair.run(30)
    assert len(pair.a.ike()) == 1
    assert only(pair.a) is not sa
    assert not any("TEMP_FAIL" in line for line in pair.a.log())
    assert len(pair.a.children("INSTALLED")) == 6
    pair.check_agreement()
    pair.check_no_leaks()


@pytest.mark.parametrize("whose", ["own", "peer"])
def test_the_ike_sa_is_rekeyed_before_its_message_ids_end(whose: str) -> None:
    pair = Pair()
    pair.up()
    old = only(pair.a)
    other = only(pair.b)
    for mine, theirs in ((old, other), (other, old))[:: 1 if whose == "own" else -1][:1]:
        mine.requests.next_id = theirs.responses.expected = 2**32 - 3000 if whose == "own" else 2**32 - 1000
    old.enqueue(Liveness())
    machine.pump(old, pair.now)
    pair.a.flush()
    pair.run(20)
    assert only(pair.a) is not old
    assert only(pair.a).requests.next_id < 10
    assert len(pair.a.children("INSTALLED")) == 1
    pair.check_agreement()


def test_no_message_id_is_used_twice() -> None:
    pair = wide_pair(seed=3, loss=0.1, reorder=0.3)
    seen: dict[tuple[bytes, bytes, bytes], bytes] = {}

    def tap(sender: End, output: SendDatagram) -> bool:
        data = output.data
        if data[18] != 34:
            key = (data[:16], data[19:20], data[20:24])
            assert seen.setdefault(key, data) == data, "another message with an ID that was used"
        return True

    pair.tap = tap
    bring_up(pair, 60)
    for i in range(6):
        pair.b.do(pair.b.endpoint.rekey, child=f"net{i}")
    pair.run(100)
    assert len(seen) > 20

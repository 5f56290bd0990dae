"""Scenarios of libreswan's list that no other file plays; docs/scenarios.md says which test plays which scenario."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ike_network import ESP_GCM, IKE_GCM, Pair, connection, host, mirrored
from stage import SLOW, Stage

from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex import base
from ipsecstack.keyex.ikev2 import machine
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import (
    Delete,
    ExchangeType,
    Header,
    Ke,
    Nonce,
    Notify,
    NotifyType,
    Opaque,
    Payload,
    Sa,
    Transform,
    make_header,
)
from ipsecstack.wire.transforms import KeId

BRIEF = Options(retransmit_timeout=1.0, retransmit_tries=2, retransmit_jitter=0.0, half_open_timeout=10.0)
INIT, AUTH, CREATE, INFO = 34, 35, 36, 37
Change = Callable[[list[Payload]], list[Payload]]


def alter(monkeypatch: pytest.MonkeyPatch, exchange: int, response: bool, change: Change) -> list[int]:
    """One end's messages of this kind are made with other payloads. Whatever protects them is made afterwards."""
    build, seal = machine.build_message, machine.fragmentation.seal
    done: list[int] = []

    def fits(header: Header) -> bool:
        if header.exchange != exchange or header.is_response is not response:
            return False
        done.append(header.message_id)
        return True

    def built(header: Header, payloads: Any) -> bytes:
        return build(header, change(list(payloads)) if fits(header) else payloads)

    def sealed(sa: Any, header: Header, payloads: Any, *more: Any) -> Any:
        return seal(sa, header, change(list(payloads)) if fits(header) else payloads, *more)

    monkeypatch.setattr(machine, "build_message", built)
    monkeypatch.setattr(machine.fragmentation, "seal", sealed)
    return done


def initiate(pair: Pair, seconds: float = 30) -> base.CommandFinished:
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(seconds)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None, "a command ends"
    return outcome


def nothing_is_left(pair: Pair) -> None:
    pair.run(400)
    for end in pair.ends:
        assert not end.ike(), end.name
        assert not end.plane.sas
        assert not end.plane.reserved


def all_is_well(pair: Pair) -> None:
    """The pair has one child, and both ends can still rekey everything."""
    for end in pair.ends:
        end.do(end.endpoint.rekey, child="net")
        pair.run(30)
        end.do(end.endpoint.rekey, ike="conn")
        pair.run(30)
    pair.check_agreement()
    pair.check_no_leaks()
    assert len(pair.a.children()) == len(pair.b.children()) == 1
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1


# --- payloads that nobody knows (ikev2-unknown-payload-*) ---


@pytest.mark.parametrize("critical", [False, True])
@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize("exchange", [INIT, AUTH])
def test_unknown_payload_while_an_ike_sa_is_made(
    exchange: int, response: bool, critical: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passed over; refused where its critical flag is set (RFC 7296 §2.5)."""
    done = alter(monkeypatch, exchange, response, lambda p: [*p, Opaque(221, b"never heard of", critical)])
    pair = Pair(options=BRIEF)
    outcome = initiate(pair)
    assert done
    assert outcome.success is not critical
    monkeypatch.undo()
    if critical:
        nothing_is_left(pair)
    else:
        all_is_well(pair)


@pytest.mark.parametrize("exchange", [CREATE, INFO])
def test_unknown_payload_in_a_later_response_fails_that_exchange_only(
    exchange: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(options=BRIEF)
    pair.up()
    done = alter(monkeypatch, exchange, True, lambda p: [*p, Opaque(221, b"?", critical=False)])
    all_is_well(pair)
    assert done


# --- versions, flags, reserved bits (ikev2-minor-version-*, *-reserved-flags-*) ---


def patched(pair: Pair, change: Callable[[bytes], bytes], first: bool = True) -> list[int]:
    """Datagrams of a are changed on the wire, its first one only or all before the IKE SA has keys."""
    seen: list[int] = []

    def tap(sender: Any, output: base.SendDatagram) -> bool:
        if sender is pair.a and output.data[18] == INIT and not (first and seen):
            seen.append(1)
            pair.deliver(change(output.data), output.local, output.remote, 0.01)
            return False
        return True

    pair.tap = tap
    return seen


@pytest.mark.parametrize(
    ("offset", "value"),
    [(17, 0x2F), (19, 0x08 | 0x40), (19, 0x08 | 0x07), (29, 0x7F)],
    ids=["minor version 15", "reserved flag", "reserved flags", "reserved bits of a payload"],
)
def test_what_is_to_be_ignored_of_a_request_is_ignored(offset: int, value: int) -> None:
    """The responder goes on (§3.1, §3.2). AUTH covers what was sent, so what changed on the way fails there."""
    pair = Pair(options=BRIEF)
    seen = patched(pair, lambda data: data[:offset] + bytes((value,)) + data[offset + 1 :])
    outcome = initiate(pair)
    assert seen
    answered = pair.b.sent[0].data
    assert answered[18] == INIT
    assert answered[17] == 0x20, "our own version, whatever the peer's minor one"
    assert answered[19] & 0x47 == 0, "reserved flags are clear"
    assert any("IKE_SA_INIT response" in line and "SA KE No" in line for line in pair.b.log())
    assert not outcome.success


@pytest.mark.parametrize("where", [INIT, AUTH])
def test_higher_minor_version_of_both_messages(where: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that says 2.1 throughout is served (§2.5)."""
    to_bytes = Header.to_bytes

    def newer(header: Header) -> bytes:
        data = to_bytes(header)
        return data[:17] + b"\x21" + data[18:] if header.exchange == where and header.from_initiator else data

    monkeypatch.setattr(Header, "to_bytes", newer)
    pair = Pair(options=BRIEF)
    assert initiate(pair).success
    monkeypatch.undo()
    all_is_well(pair)


# --- key exchange payloads that are none (ikev2-impair-05 to 07, -14) ---


def with_ke(change: Callable[[Ke], list[Payload]]) -> Change:
    return lambda payloads: [new for p in payloads for new in (change(p) if isinstance(p, Ke) else [p])]


BROKEN_KE: dict[str, Change] = {
    "zero": with_ke(lambda ke: [Ke(ke.method, bytes(len(ke.data)))]),
    "missing": with_ke(lambda ke: []),
    "empty": with_ke(lambda ke: [Ke(ke.method, b"")]),
    "short": with_ke(lambda ke: [Ke(ke.method, ke.data[:-1])]),
    "twice": with_ke(lambda ke: [ke, ke]),
    "no nonce": lambda payloads: [p for p in payloads if not isinstance(p, Nonce)],
    "short nonce": lambda payloads: [Nonce(p.data[:15]) if isinstance(p, Nonce) else p for p in payloads],
    "long nonce": lambda payloads: [Nonce(bytes(257)) if isinstance(p, Nonce) else p for p in payloads],
}


@pytest.mark.parametrize("what", BROKEN_KE)
@pytest.mark.parametrize("response", [False, True])
def test_broken_key_exchange(response: bool, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alter(monkeypatch, INIT, response, BROKEN_KE[what])
    pair = Pair(options=BRIEF)
    assert not initiate(pair, 60).success
    monkeypatch.undo()
    nothing_is_left(pair)
    assert initiate(pair).success, "the next one works"


@pytest.mark.parametrize("what", BROKEN_KE)
@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize("kind", ["ike", "child"])
def test_broken_key_exchange_of_a_rekeying(
    kind: str, response: bool, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old SA stays until both ends agree on what comes; there is always a way for a new one."""
    proposal = replace(ESP_GCM, ke=(KeId.CURVE_25519,))
    a, b = mirrored(
        child_options={"proposals": (proposal,)}, dpd_delay=30
    )  # what one end alone has is found out
    pair = Pair(a=a, b=b)
    pair.up()
    done = alter(monkeypatch, CREATE, response, BROKEN_KE[what])
    pair.a.do(pair.a.endpoint.rekey, **{kind: {"ike": "conn", "child": "net"}[kind]})
    pair.run(3)
    assert done
    monkeypatch.undo()
    assert pair.a.children("INSTALLED", "REKEYED")
    pair.run(700)
    pair.check_agreement()
    pair.a.said.clear()
    assert initiate(pair).success
    all_is_well(pair)


def test_responder_spi_of_zero() -> None:
    """A response that gives no SPI is dropped (§2.6); the right one is waited for."""
    pair = Pair(options=BRIEF)
    forged: list[int] = []

    def tap(sender: Any, output: base.SendDatagram) -> bool:
        if sender is pair.b and output.data[18] == INIT and not forged:
            forged.append(1)
            pair.deliver(output.data[:8] + bytes(8) + output.data[16:], output.local, output.remote, 0.001)
        return True

    pair.tap = tap
    assert initiate(pair).success
    assert forged


def test_initiator_spi_of_zero() -> None:
    pair = Pair(options=BRIEF)
    patched(pair, lambda data: bytes(8) + data[8:], first=False)
    assert not initiate(pair, 60).success
    assert not pair.b.ike()
    nothing_is_left(pair)


# --- transforms that make no sense (impair-08, -11 to -13) ---


def with_transforms(change: Callable[[Transform], list[Transform]]) -> Change:
    def altered(payloads: list[Payload]) -> list[Payload]:
        return [
            Sa(
                tuple(
                    replace(o, transforms=tuple(n for t in o.transforms for n in change(t)))
                    for o in p.proposals
                )
            )
            if isinstance(p, Sa)
            else p
            for p in payloads
        ]

    return altered


BROKEN_SA: dict[str, Change] = {
    "no cipher": with_transforms(lambda t: [] if t.type == 1 else [t]),
    "other key length": with_transforms(lambda t: [Transform.of(1, t.id, 40)] if t.type == 1 else [t]),
    "no key length": with_transforms(lambda t: [Transform.of(1, t.id)] if t.type == 1 else [t]),
    "two ciphers": with_transforms(lambda t: [t, Transform.of(1, 28)] if t.type == 1 else [t]),
    "unknown cipher": with_transforms(lambda t: [Transform.of(1, 999, 256)] if t.type == 1 else [t]),
    "unknown type": with_transforms(lambda t: [t, Transform.of(99, 1)] if t.type == 1 else [t]),
}


@pytest.mark.parametrize("what", BROKEN_SA)
@pytest.mark.parametrize("exchange", [INIT, AUTH])
def test_choice_that_was_not_offered(exchange: int, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A responder that answers with something else than one of the proposals gets no SA (§3.3.6)."""
    done = alter(monkeypatch, exchange, True, BROKEN_SA[what])
    pair = Pair(options=BRIEF)
    outcome = initiate(pair, 60)
    assert done
    assert not outcome.success
    assert not pair.a.plane.sas
    monkeypatch.undo()
    for end in pair.ends:
        end.restart()
        end.said.clear()
    assert initiate(pair).success


# --- messages at the wrong time (ikev2-07, ikev2-impair-01, -02, -04, ikev2-mobike-07, ikev2-intermediate-03) ---


@pytest.mark.parametrize("exchange", [INFO, CREATE, 44])
def test_other_exchange_before_ike_auth(exchange: int) -> None:
    """Nothing but IKE_AUTH (or IKE_INTERMEDIATE that was agreed on) follows IKE_SA_INIT, encrypted or not."""
    stage = Pair(options=replace(SLOW, retransmit_timeout=3.0))
    ticket = stage.a.do(stage.a.endpoint.initiate, ike=None, child="net")
    held: list[base.SendDatagram] = []

    def tap(sender: Any, output: base.SendDatagram) -> bool:
        if sender is stage.a and output.data[18] == AUTH and not held:
            held.append(output)
            return False
        return True

    stage.tap = tap
    stage.run(0.5)
    sa = stage.a.endpoint.registry.all()[0]
    assert sa.protection is not None
    header = make_header(sa.spi_i, sa.spi_r, ExchangeType(exchange), 1, from_initiator=True, response=False)
    early = sa.protection.seal(header, [Delete(SecurityProtocol.IKE)] if exchange == INFO else [])
    stage.deliver(early, held[0].local, held[0].remote)
    stage.run(0.1)
    assert not [o for o in stage.b.sent if o.data[18] == exchange], "no answer"
    assert stage.b.ike()[0].state == "CONNECTING"
    stage.run(30)
    outcome = stage.a.outcome(ticket)
    assert outcome is not None
    assert outcome.success, "the right message is still taken"
    all_is_well(stage)


def test_everything_comes_twice() -> None:
    pair = Pair(duplicate=1.0)
    assert initiate(pair).success
    all_is_well(pair)
    for end in pair.ends:
        assert len(end.heard(base.IkeSaEstablished)) == 1
        assert len(end.heard(base.ChildSaEstablished)) == 1


def test_everything_that_was_ever_sent_comes_again() -> None:
    """After each step all datagrams before it are replayed, to both ends."""
    pair = Pair()
    assert initiate(pair).success
    steps = [
        (pair.a, {"child": "net"}),
        (pair.b, {"ike": "conn"}),
        (pair.b, {"child": "net"}),
        (pair.a, {"ike": "conn"}),
    ]
    for end, what in steps:
        for data, source, destination in list(pair.transmitted):
            pair.deliver(data, source, destination)
        pair.run(5)
        end.do(end.endpoint.rekey, **what)
        pair.run(30)
        pair.check_agreement()
    pair.run(60)  # what replayed first requests left half open
    assert [sa.state for sa in pair.a.ike()] == [sa.state for sa in pair.b.ike()] == ["ESTABLISHED"]
    assert len(pair.a.children()) == 1
    pair.check_no_leaks()


@pytest.mark.parametrize("where", [30, 60, -1])
def test_damaged_ike_auth_is_dropped(where: int) -> None:
    """An octet changed on the way: no state changes, and the retransmission is taken."""
    pair = Pair(options=BRIEF)
    broken: list[str] = []

    def tap(sender: Any, output: base.SendDatagram) -> bool:
        if output.data[18] == AUTH and sender.name not in broken:
            broken.append(sender.name)
            data = bytearray(output.data)
            data[where] ^= 1
            pair.deliver(bytes(data), output.local, output.remote, 0.01)
            return False
        return True

    pair.tap = tap
    assert initiate(pair).success
    assert sorted(broken) == ["a", "b"]
    all_is_well(pair)


@pytest.mark.parametrize("exchange", [INIT, AUTH, CREATE, INFO, 43, 44, 240])
def test_responses_that_nobody_asked_for(exchange: int) -> None:
    pair = Pair()
    pair.up()
    mine, theirs = pair.a.endpoint.registry.all()[0], pair.b.endpoint.registry.all()[0]
    assert theirs.protection is not None
    for number in (0, 1, mine.requests.next_id, mine.requests.next_id + 1, 2**32 - 1):
        header = Header(mine.spi_i, mine.spi_r, 0, 2, 0, exchange, 0x20, number)
        data = theirs.protection.seal(header, [Notify(NotifyType.AUTHENTICATION_FAILED)])
        pair.deliver(data, theirs.local, theirs.remote)
    before = len(pair.a.sent)
    pair.run(1)
    assert len(pair.a.sent) == before
    all_is_well(pair)


# --- cookies (ikev2-ddos-cookie-02, -03) ---


def test_mangled_cookie_is_not_taken() -> None:
    """The responder asks again, and the initiator gets in with the right one."""
    pair = Pair(options=replace(BRIEF, cookie_threshold=1, cookie_threshold_ip=0, block_threshold_ip=0))
    stranger = Pair(seed=99)
    stranger.a.do(stranger.a.endpoint.initiate, ike=None, child="net")
    pair.deliver(stranger.a.sent[0].data, host("10.0.0.1"), host("10.0.0.2"))
    pair.run(0.1)
    mangled: list[int] = []

    def tap(sender: Any, output: base.SendDatagram) -> bool:
        if sender is pair.b and output.data[18] == INIT and not mangled:
            mangled.append(1)
            pair.deliver(output.data[:-1] + bytes((output.data[-1] ^ 1,)), output.local, output.remote, 0.01)
            return False
        return True

    pair.tap = tap
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(60)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None
    assert mangled
    assert outcome.success
    assert pair.b.endpoint.statistics()["cookies-sent"] >= 2


def test_cookie_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the first request is passed over."""
    alter(monkeypatch, INIT, False, lambda p: [Notify(NotifyType.COOKIE, b"c" * 20), *p])
    pair = Pair(options=BRIEF)
    assert initiate(pair).success
    monkeypatch.undo()
    all_is_well(pair)


# --- requests that name nonsense (impair-20, ikev2-impair-10, ikev2-delete) ---


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 255])
def test_rekey_sa_of_a_strange_protocol(protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(payloads: list[Payload]) -> list[Payload]:
        return [
            Notify(NotifyType.REKEY_SA, protocol=protocol, spi=p.spi)
            if isinstance(p, Notify) and p.type == NotifyType.REKEY_SA
            else p
            for p in payloads
        ]

    pair = Pair()
    pair.up()
    old = pair.b.children()[0].uniqueid
    alter(monkeypatch, CREATE, False, change)
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(1)
    monkeypatch.undo()
    assert any("CHILD_SA_NOT_FOUND" in line or "NO_CHILD_SA" in line for line in pair.b.log())
    assert old in [c.uniqueid for c in pair.b.children("INSTALLED")], "nothing of it was replaced"
    pair.run(400)
    (new,) = pair.a.children("INSTALLED")
    assert (new.spi_out, new.spi_in) in [(c.spi_in, c.spi_out) for c in pair.b.children("INSTALLED")]


@pytest.mark.parametrize("response", [False, True])
def test_number_of_selectors_that_is_wrong(response: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traffic selector payload says that it has more than are there (§3.13): INVALID_SYNTAX, no child."""

    def change(payloads: list[Payload]) -> list[Payload]:
        out: list[Payload] = []
        for p in payloads:
            if type(p).__name__ == "TsI":
                body = bytearray(p.to_bytes())
                body[0] = 7
                out.append(Opaque(44, bytes(body)))
            else:
                out.append(p)
        return out

    done = alter(monkeypatch, AUTH, response, change)
    pair = Pair(options=BRIEF)
    assert not initiate(pair, 60).success
    assert done
    assert not pair.a.plane.sas
    monkeypatch.undo()


def test_deletes_of_what_is_not_there() -> None:
    """Unknown SPIs, many of them, IKE's protocol with SPIs, and one SPI twice (§1.4.1, §3.11)."""
    pair = Pair()
    pair.up()
    mine = pair.a.endpoint.registry.all()[0]
    known = pair.a.children()[0].spi_in.to_bytes(4, "big")
    for payload in (
        Delete(SecurityProtocol.ESP, tuple(n.to_bytes(4, "big") for n in range(300, 400))),
        Delete(SecurityProtocol.AH, (known,)),
    ):
        task = machine.Liveness()
        task.request = lambda sa, now, payload=payload: [payload]  # type: ignore[method-assign]
        mine.enqueue(task)
        machine.pump(mine, pair.now)
        pair.a.flush()
        pair.run(5)
    assert len(pair.b.children("INSTALLED")) == 1
    all_is_well(pair)


# --- streams that cross while IKE SAs are made (crossing-streams-11, -12) ---

ORDERS = sorted(set(itertools.permutations("aaabbb")))


@pytest.mark.parametrize("order", ["".join(order) for order in ORDERS])
def test_both_ends_initiate(order: str) -> None:
    """In each order in which the datagrams of two initiations can arrive: both ends agree in the end, with no more
    than the two IKE SAs that were asked for, and traffic has a way."""
    pair = Pair(options=replace(SLOW, retransmit_timeout=3.0, retransmit_tries=4))
    held: dict[str, list[base.SendDatagram]] = {"a": [], "b": []}

    def tap(sender: Any, output: base.SendDatagram) -> bool:
        held[sender.name].append(output)
        return False

    pair.tap = tap
    tickets = [end.do(end.endpoint.initiate, ike=None, child="net") for end in pair.ends]
    for who in order:
        if held[who]:
            output = held[who].pop(0)
            pair.deliver(output.data, output.local, output.remote)
            pair.run(0)
    pair.tap = None
    for who in "ba":
        for output in held[who]:
            pair.deliver(output.data, output.local, output.remote)
    pair.run(200)
    for end, ticket in zip(pair.ends, tickets, strict=True):
        outcome = end.outcome(ticket)
        assert outcome is not None
        assert outcome.success, outcome.message
    pair.check_agreement()
    pair.check_no_leaks()
    assert 1 <= len(pair.a.ike()) <= 2
    assert len(pair.a.children("INSTALLED")) == len(pair.b.children("INSTALLED")) >= 1


def test_child_is_asked_for_while_the_ike_sa_is_being_deleted() -> None:
    """It comes up on an IKE SA of its own (crossing-streams-04)."""
    stage = Stage()
    stage.close_ike("a")
    ticket = stage.a.do(stage.a.endpoint.initiate, ike=None, child="net")
    stage.play_on()
    outcome = stage.a.outcome(ticket)
    assert outcome is not None
    assert outcome.success
    stage.settled()


# --- rekeying of several children of one IKE SA (ikev2-child-rekey-02, -06, -07) ---


def three() -> Pair:
    children = [(f"net{n}", f"10.1.{n}.0/24", f"10.2.{n}.0/24") for n in range(3)]
    sides = []
    for local, remote, ids in (
        ("10.0.0.1", "10.0.0.2", ("a.lab", "b.lab")),
        ("10.0.0.2", "10.0.0.1", ("b.lab", "a.lab")),
    ):
        made = [
            connection(
                local=local,
                remote=remote,
                local_id=ids[0],
                remote_id=ids[1],
                child=name,
                local_ts=(mine if local == "10.0.0.1" else theirs,),
                remote_ts=(theirs if local == "10.0.0.1" else mine,),
                child_options={"rekey_time": 60, "life_time": 90, "rand_time": 5},
            ).children[0]
            for name, mine, theirs in children
        ]
        base_config = connection(local=local, remote=remote, local_id=ids[0], remote_id=ids[1])
        sides.append(replace(base_config, children=tuple(made)))
    pair = Pair(a=sides[0], b=sides[1])
    for name, _, _ in children:
        pair.up(name)
    return pair


def test_three_children_rekey_by_time_on_one_ike_sa() -> None:
    pair = three()
    pair.run(600)
    pair.check_agreement()
    pair.check_no_leaks()
    for end in pair.ends:
        assert len(end.ike()) == 1
        assert sorted({c.name for c in end.children("INSTALLED")}) == ["net0", "net1", "net2"]
        assert not [d for d in end.heard(base.ChildSaDeleted) if d.reason != "rekeyed"]


def test_requests_wait_behind_one_that_is_not_answered() -> None:
    """One rekeying is lost, others are asked for: they wait, and all fail when the peer is given up."""
    pair = three()
    pair.cut.add(("10.0.0.1", "10.0.0.2"))
    for name in ("net0", "net1", "net2"):
        pair.a.do(pair.a.endpoint.rekey, child=name)
    assert len(pair.a.ike()[0].tasks_active) == 1
    assert len(pair.a.ike()[0].tasks_queued) == 2
    pair.run(400)
    assert not pair.a.ike()
    assert not pair.a.plane.sas
    assert not pair.a.plane.reserved


def test_config_of_the_ike_suite_is_kept_for_what_follows() -> None:
    """After the connection was loaded anew with other proposals, what is up goes on and a new one takes them."""
    pair = Pair()
    pair.up()
    a, b = mirrored(proposals=(replace(IKE_GCM, ke=(KeId.ECP_256,)),))
    pair.a.load(a)
    pair.b.load(b)
    all_is_well(pair)
    pair.a.do(pair.a.endpoint.terminate, ike="conn")
    pair.run(10)
    assert initiate(pair).success
    assert pair.a.endpoint.registry.all()[0].suite.ke is KeId.ECP_256  # type: ignore[union-attr]


def test_address_of_the_peer_that_nobody_uses() -> None:
    """A name or address without a peer: the attempt ends, and the next one to the right address works."""
    a, b = mirrored()
    pair = Pair(a=replace(a, remote_addrs=("10.0.0.77",)), b=b, options=BRIEF)
    assert not initiate(pair, 60).success
    pair.a.load(a)
    assert initiate(pair).success

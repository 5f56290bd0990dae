"""The state table: every row is taken by some scenario, and what has no row changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from eap_support import eap_pair
from ike_network import ESP_GCM, IKE_GCM, Pair, host, mirrored

from ipsecstack.config.proposals import parse_proposal
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex import base
from ipsecstack.keyex.base import SendDatagram
from ipsecstack.keyex.configuration import ChildConfig
from ipsecstack.keyex.ikev2 import lifecycle, machine
from ipsecstack.keyex.ikev2.informational import Liveness
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, Need, Role, Row, State
from ipsecstack.keyex.ikev2.table import ROWS, TABLE, markdown
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import (
    Auth,
    Cp,
    Delete,
    IdI,
    IdR,
    Ke,
    Nonce,
    Notify,
    NotifyType,
    Opaque,
    Payload,
    Sa,
    SaProposal,
    Transform,
    Ts,
    TsI,
    TsR,
    build_message,
    make_header,
    parse_message,
)

Seen = list[tuple[Row, State, State]]


def observed_pair(seen: Seen, seed: int = 1, **options: object) -> Pair:
    def observer(row: object, before: object, after: object) -> None:
        assert isinstance(row, Row)
        assert isinstance(before, State)
        assert isinstance(after, State)
        seen.append((row, before, after))

    a, b = mirrored()
    second_a = ChildConfig("two", (), (), (ESP_GCM,))
    a, b = replace(a, children=(*a.children, second_a)), replace(b, children=(*b.children, second_a))
    settings = Options(observer=observer, retransmit_jitter=0.0, **options)  # type: ignore[arg-type]
    return Pair(a=a, b=b, seed=seed, options=settings)


def live(pair: Pair, who: str) -> IkeSa:
    return list(getattr(pair, who).endpoint.registry.all())[-1]


def everything(pair: Pair) -> None:
    pair.up()
    a, b = pair.a, pair.b
    a.do(a.endpoint.initiate, ike="conn", child="two")
    pair.run(5)
    a.do(a.endpoint.rekey, child="net")
    pair.run(10)
    a.do(a.endpoint.terminate, child="two")
    pair.run(10)
    a.do(a.endpoint.rekey, ike="conn")
    pair.run(10)
    b.do(b.endpoint.terminate, ike="conn")
    pair.run(10)


def late_requests(pair: Pair) -> None:
    """Create, rekey and rekey again on an IKE SA that its peer has replaced, then on one that its peer deletes."""
    for prepare in ("rekeyed", "deleting"):
        for kind in (Kind.NEW_CHILD, Kind.REKEY_CHILD, Kind.REKEY_IKE, Kind.FOLLOWUP_KE):
            if not pair.a.ike():
                pair.up()
            sa = live(pair, "b")
            if prepare == "rekeyed":
                # b replaces the IKE SA; its Delete of the old one is lost, and it still asks for things on it
                target, source = next(iter(pair.a.endpoint.registry.all())), sa
                pair.b.do(pair.b.endpoint.rekey, ike="conn")
                pair.run(0.025)
                pair.in_flight.clear()
                assert target.state is State.REKEYED
            else:
                target, source = live(pair, "a"), sa
                pair.tap = lambda sender, output: False
                pair.a.do(pair.a.endpoint.terminate, ike="conn")
                pair.tap = None
            ask(pair, source, target, kind)
            pair.run(400)


def ask(pair: Pair, source: IkeSa, target: IkeSa, kind: Kind) -> None:
    """A request of ``kind``, protected with ``source``'s keys, for ``target`` at ``a``."""
    assert source.protection is not None
    header = make_header(
        source.spi_i,
        source.spi_r,
        kind.exchange,
        target.responses.expected,
        from_initiator=source.initiator,
        response=False,
    )
    data = source.protection.seal(
        header, payloads_for(TABLE[State.ESTABLISHED, Role.RESPONDER, kind].required)
    )
    pair.a.endpoint.receive_datagram(data, target.local, target.remote, pair.now)
    pair.a.flush()
    reply = source.protection.open(pair.a.sent[-1].data, parse_message(pair.a.sent[-1].data).payloads)
    from ipsecstack.wire.ikev2 import parse_chain

    notify = parse_chain(*reply)[0]
    assert isinstance(notify, Notify)
    assert notify.type == NotifyType.TEMPORARY_FAILURE


ESP = SaProposal(1, 3, b"\x00\x01\x02\x03", (Transform.of(1, 20, 128), Transform.of(5, 0)))
SAMPLES: dict[Need, Payload] = {
    Need.SA: Sa((ESP,)),
    Need.KE: Ke(31, bytes(32)),
    Need.NONCE: Nonce(bytes(32)),
    Need.IDI: IdI(2, b"a.lab"),
    Need.IDR: IdR(2, b"b.lab"),
    Need.AUTH: Auth(2, bytes(32)),
    Need.TSI: TsI((Ts(7, 0, 0, 65535, host("10.0.0.1").host, host("10.0.0.1").host),)),
    Need.TSR: TsR((Ts(7, 0, 0, 65535, host("10.0.0.2").host, host("10.0.0.2").host),)),
    Need.DELETE: Delete(1),
    Need.REKEY_SA: Notify(NotifyType.REKEY_SA, b"", 3, b"\x00\x01\x02\x03"),
}


def payloads_for(needs: frozenset[Need]) -> list[Payload]:
    return [SAMPLES[need] for need in sorted(needs, key=lambda n: n.name)]


def test_every_row_is_taken_and_leads_where_it_says() -> None:
    seen: Seen = []
    everything(observed_pair(seen))
    pair = observed_pair(seen)
    late_requests(pair)
    crossing(seen)
    before_rekey(seen)
    late_rekey(seen)
    late_followup(seen)
    resuming(seen)
    authenticating(seen)
    taken = {(row.state, row.role, row.kind) for row, _, _ in seen}
    missing = [row.story for row in ROWS if (row.state, row.role, row.kind) not in taken]
    assert not missing
    for row, before, after in seen:
        assert before is row.state
        assert after in row.next, (row.story, before, after)


def authenticating(seen: Seen) -> None:
    """IKE_AUTH in several exchanges: EAP that succeeds, and an initiator that does not believe the responder."""
    options = observed_pair(seen).a.options
    eap_pair(options=options).up()
    pair = eap_pair(options=options)
    pair.a.credentials.clear()
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(20)
    assert not pair.b.ike()


def resuming(seen: Seen) -> None:
    """The client lost its IKE SA and comes back with a ticket."""
    pair = observed_pair(seen)
    for end in pair.ends:
        (config,) = end.endpoint.connections()
        end.load(replace(config, session_resumption=True))
    pair.up()
    lifecycle.destroy(live(pair, "a"), "timeout", pair.now)
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(5)
    pair.check_agreement()


def late_followup(seen: Seen) -> None:
    """Additional key exchanges: in IKE_INTERMEDIATE, then while the IKE SA is rekeyed. b forgets them, rekeys by itself
    and uses its own IKE SA before a has an answer."""
    pair = observed_pair(seen)
    words = "aes256gcm16-prfsha256-x25519-ke1_mlkem512-ke1_none-ke2_ecp256-ke2_none"
    for end in pair.ends:
        (config,) = end.endpoint.connections()
        end.load(replace(config, proposals=(parse_proposal(words, SecurityProtocol.IKE),)))
    pair.up()
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    pair.run(10)
    old, theirs = live(pair, "a"), live(pair, "b")
    held: list[SendDatagram] = []

    def tap(sender: object, output: SendDatagram) -> bool:
        follow = output.data[18] == Kind.FOLLOWUP_KE.exchange
        delete = output.data[18] == Kind.INFORMATIONAL.exchange
        if sender is pair.b and output.data[:8] == old.spi_i and (follow or delete):
            held.append(output)
            return False
        return True

    pair.tap = tap
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    pair.run(0.05)
    assert held
    theirs.pending_ke.clear()
    assert theirs.config is not None
    theirs.config = replace(theirs.config, proposals=(IKE_GCM,))
    pair.b.do(pair.b.endpoint.rekey, ike="conn")
    pair.run(0.05)
    winner = next(sa for sa in pair.b.endpoint.registry.all() if sa is not theirs)
    winner.enqueue(Liveness(), first=True)
    machine.pump(winner, pair.now)
    pair.b.flush()
    pair.run(0.05)
    assert old.state is State.REKEYED
    pair.tap = None
    for output in held:
        pair.deliver(output.data, output.local, output.remote)
    pair.run(30)
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1
    pair.check_agreement()


def crossing(seen: Seen) -> None:
    """Deletes of the IKE SA cross: a request while DELETING."""
    pair = observed_pair(seen)
    pair.up()
    for end in pair.ends:
        end.do(end.endpoint.terminate, ike="conn")
    pair.run(10)


def before_rekey(seen: Seen) -> None:
    """A liveness check is under way when the peer replaces the IKE SA: its answer comes in REKEYED."""
    pair = observed_pair(seen, request_window=1)
    pair.up()
    sa = live(pair, "b")
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    sa.enqueue(Liveness())
    machine.pump(sa, pair.now)
    pair.b.flush()
    pair.run(20)
    pair.check_agreement()


def late_rekey(seen: Seen) -> None:
    """Both rekey the IKE SA, b wins and uses its own at once; what it sent on the old one comes to a long after."""
    for seed in range(20):  # until the nonces are so
        pair = observed_pair(seen, seed)
        pair.up()
        old = live(pair, "a")
        held: list[SendDatagram] = []

        def tap(
            sender: object,
            output: SendDatagram,
            pair: Pair = pair,
            old: IkeSa = old,
            held: list[SendDatagram] = held,
        ) -> bool:
            request = not output.data[19] & 0x20 and output.data[18] == 36
            if sender is pair.b and output.data[:8] == old.spi_i and not request:
                held.append(output)
                return False
            return True

        pair.tap = tap
        for end in pair.ends:
            end.do(end.endpoint.rekey, ike="conn")
        pair.run(0.05)
        winner = next((sa for sa in pair.b.endpoint.registry.all() if sa.initiator and not sa.parent), None)
        if winner is None or winner.silent or winner.spi_i == old.spi_i:
            continue
        winner.enqueue(Liveness(), first=True)
        machine.pump(winner, pair.now)
        pair.b.flush()
        pair.run(0.05)
        if old.state is not State.REKEYED:
            continue
        pair.tap = None
        for output in held:
            pair.deliver(output.data, output.local, output.remote)
        pair.run(30)
        assert not pair.a.failures()
        assert not pair.b.failures()
        assert len(pair.a.ike()) == len(pair.b.ike()) == 1
        pair.check_agreement()
        return
    raise AssertionError("b never won")


@pytest.mark.parametrize("state", [State.ESTABLISHED, State.REKEYED, State.DELETING])
@pytest.mark.parametrize("exchange", [33, 34, 35, 36, 37, 38, 43, 44, 240])
def test_undeclared_requests_change_nothing(state: State, exchange: int) -> None:
    """Authenticated, in the window, and not in the table: INVALID_SYNTAX, and the SA is as it was."""
    pair = Pair()
    pair.up()
    sa, peer = live(pair, "b"), live(pair, "a")
    sa.state = state
    kind = next((k for k in Kind if k.exchange == exchange), None)
    declared = kind is not None and any(
        (state, Role.RESPONDER, k) in TABLE for k in Kind if k.exchange == exchange
    )
    if declared:
        return
    before = snapshot(pair)
    assert peer.protection is not None
    header = make_header(
        sa.spi_i, sa.spi_r, exchange, sa.responses.expected, from_initiator=True, response=False
    )
    data = peer.protection.seal(header, [SAMPLES[Need.IDI], SAMPLES[Need.AUTH], SAMPLES[Need.SA]])
    pair.b.endpoint.receive_datagram(data, sa.local, sa.remote, pair.now)
    pair.b.flush()
    assert snapshot(pair) == before
    assert sa.state is state


PROTECTED = [
    r for r in ROWS if r.role is Role.RESPONDER and r.required and r.state not in (State.NEW, State.HALF_OPEN)
]


@pytest.mark.parametrize("row", PROTECTED, ids=lambda r: f"{r.state.name}-{r.kind.name}")
def test_requests_without_a_required_payload_change_nothing(row: Row) -> None:
    for left_out in row.required - {Need.REKEY_SA, Need.TSI, Need.TSR}:
        pair = Pair()
        pair.up()
        sa, peer = live(pair, "b"), live(pair, "a")
        sa.state = row.state
        before = snapshot(pair)
        assert peer.protection is not None
        header = make_header(
            sa.spi_i, sa.spi_r, row.kind.exchange, sa.responses.expected, from_initiator=True, response=False
        )
        data = peer.protection.seal(header, payloads_for(row.required - {left_out}))
        pair.b.endpoint.receive_datagram(data, sa.local, sa.remote, pair.now)
        pair.b.flush()
        assert snapshot(pair) == before, (row.story, left_out)


@pytest.mark.parametrize("exchange", [35, 36, 37, 38, 43])
@pytest.mark.parametrize("response", [True, False])
def test_nothing_but_the_next_exchange_is_taken_while_half_open(exchange: int, response: bool) -> None:
    pair = Pair(latency=0.05)
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(0.06)
    sa = live(pair, "b")
    assert sa.state is State.HALF_OPEN
    header = make_header(sa.spi_i, sa.spi_r, exchange, 1, from_initiator=True, response=response)
    pair.deliver(
        build_message(header, [SAMPLES[Need.IDI], SAMPLES[Need.AUTH]]), host("10.0.0.1"), host("10.0.0.2")
    )
    pair.run(0.01)
    assert sa.state is State.HALF_OPEN
    # A request to resume belongs to no IKE SA that there is already.
    assert sa.counters.drops_in == (0 if exchange == 38 and not response else 1)
    assert pair.b.endpoint.counters()["invalid"] == 1
    pair.run(5)
    pair.check_agreement()
    assert pair.a.children()


def test_eap_is_refused_politely() -> None:
    """IKE_AUTH without AUTH asks for EAP: refused where no connection has that, and no state is left."""
    pair = Pair(latency=0.05)
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(0.11)
    sa = live(pair, "a")
    assert sa.state is State.AUTH_SENT
    pair.in_flight.clear()
    assert sa.protection is not None
    header = make_header(sa.spi_i, sa.spi_r, 35, 1, from_initiator=True, response=False)
    pair.deliver(
        sa.protection.seal(header, [SAMPLES[Need.IDI], Cp(1)]),
        host("10.0.0.1"),
        host("10.0.0.2"),
    )
    pair.run(0.01)
    assert not pair.b.ike()
    assert "NO_PEER_CONFIG" in pair.b.failures()


@pytest.mark.parametrize(
    "notify",
    [
        NotifyType.MOBIKE_SUPPORTED,
        NotifyType.REDIRECT_SUPPORTED,
        NotifyType.IKEV2_FRAGMENTATION_SUPPORTED,
        NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED,
        NotifyType.USE_PPK,
        NotifyType.SET_WINDOW_SIZE,
        NotifyType.MULTIPLE_AUTH_SUPPORTED,
        40000,
    ],
)
def test_extensions_that_are_offered_are_ignored(notify: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipsecstack.keyex.ikev2 import ike_auth, ike_sa_init

    for task in (ike_auth.IkeAuth, ike_sa_init.IkeInit):
        original: Callable[..., list[Payload] | None] = task.request

        def extended(
            self: object, sa: IkeSa, now: float, original: Callable[..., list[Payload] | None] = original
        ) -> list[Payload] | None:
            made = original(self, sa, now)
            return None if made is None else [*made, Notify(notify, b"\0\0\0\x05"), Opaque(200, b"unknown")]

        monkeypatch.setattr(task, "request", extended)
    pair = Pair()
    pair.up()


def snapshot(pair: Pair) -> object:
    """What ``b`` holds, but for counters and generations."""
    views = []
    for sa in pair.b.ike():
        children = tuple(replace(c, generation=0) for c in sa.children)
        views.append(replace(sa, generation=0, counters=base.IkeCounters(), children=children))
    return views, dict(pair.b.plane.sas), list(pair.b.plane.policies), set(pair.b.plane.reserved)


def test_documentation_is_generated_from_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "ikev2-states.md"
    assert page.read_text() == markdown(), (
        "run: python -m ipsecstack.keyex.ikev2.table > docs/ikev2-states.md"
    )

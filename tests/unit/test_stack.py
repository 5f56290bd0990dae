"""The stack carries out outputs in order, keeps final counters, and hands events on."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from ipsecstack.dataplane.base import DataPlaneError, UnknownSpiReceived
from ipsecstack.dataplane.memory import MemoryDataPlane
from ipsecstack.ipsec.sa import (
    Address,
    Direction,
    Lifetime,
    Mode,
    SaDescription,
    SaId,
    SecurityProtocol,
)
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.keyex.base import (
    AddPolicy,
    CommandFinished,
    InstallSa,
    LogRecorded,
    Output,
    RemovePolicy,
    RemoveSa,
    SendDatagram,
)
from ipsecstack.stack import Stack
from ipsecstack.wire.transforms import EncrId, IntegId

HERE, THERE = Address(ip_address("192.0.2.1"), 4500), Address(ip_address("192.0.2.2"), 4500)
LOCAL_TS = (TrafficSelector.from_text("10.1.0.0/24"),)
REMOTE_TS = (TrafficSelector.from_text("10.2.0.0/24"),)


def sa(direction: Direction, spi: int) -> SaDescription:
    source, destination = (THERE, HERE) if direction is Direction.IN else (HERE, THERE)
    return SaDescription(
        direction, SecurityProtocol.ESP, Mode.TUNNEL, spi, source, destination, True,
        EncrId.AES_GCM_16, 128, IntegId.NONE, bytes(range(20)), b"", False, 32, Lifetime(),
        LOCAL_TS, REMOTE_TS, 1,
    )  # fmt: skip


ENTRY = SpdEntry("gw/net", Action.PROTECT, LOCAL_TS, REMOTE_TS, 1, reqid=1)


class ScriptedEndpoint:
    """Gives the outputs that the test queued, one list for each call, and records what it was told."""

    def __init__(self, *rounds: list[Output]) -> None:
        self.rounds = list(rounds)
        self.told: list[tuple[Any, ...]] = []

    def outputs(self) -> list[Output]:
        return self.rounds.pop(0) if self.rounds else []

    def receive_datagram(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        self.told.append(("datagram", data, now))

    def next_timer(self) -> float | None:
        return 7.0

    def handle_timer(self, now: float) -> None:
        self.told.append(("timer", now))

    def sa_expired(self, sa_id: SaId, hard: bool, now: float) -> None:
        self.told.append(("expired", sa_id, hard))

    def unknown_spi(self, spi: int, local: Address, remote: Address, now: float) -> None:
        self.told.append(("unknown_spi", spi))


def stack_of(*rounds: list[Output]) -> tuple[Stack, ScriptedEndpoint, MemoryDataPlane, list[Output]]:
    endpoint, plane, heard = ScriptedEndpoint(*rounds), MemoryDataPlane(), []
    stack = Stack(endpoint, plane)  # type: ignore[arg-type]
    stack.subscribe(lambda output, _stack: heard.append(output))
    return stack, endpoint, plane, heard


def test_outputs_of_all_rounds_are_carried_out_in_order() -> None:
    first, second = SendDatagram(b"1", HERE, THERE, True), SendDatagram(b"2", HERE, THERE, True)
    done = CommandFinished(1, True, "up")
    incoming, outgoing = sa(Direction.IN, 0x1001), sa(Direction.OUT, 0x2002)
    stack, _, plane, heard = stack_of(
        [InstallSa(incoming), first, InstallSa(outgoing), AddPolicy(ENTRY)], [done, second]
    )
    assert stack.receive_datagram(b"x", HERE, THERE, 1.0) == [first, second]
    assert plane.query(incoming.id) is not None
    assert plane.query(outgoing.id) is not None
    assert list(plane.policies()) == [ENTRY]
    assert heard == [AddPolicy(ENTRY), done]


def test_policy_listeners_hear_after_the_data_plane_changed() -> None:
    stack, endpoint, _plane, _ = stack_of([AddPolicy(ENTRY)])
    seen: list[int] = []
    stack.subscribe(lambda output, s: seen.append(len(s.dataplane.policies())))
    stack.advance(0.0)
    endpoint.rounds = [[RemovePolicy(ENTRY)]]
    stack.advance(1.0)
    assert seen == [1, 0]


def test_final_counters_outlive_the_sa() -> None:
    outgoing = sa(Direction.OUT, 0x2002)
    stack, endpoint, plane, _ = stack_of([InstallSa(outgoing), AddPolicy(ENTRY)])
    stack.advance(0.0)
    packet = bytes.fromhex("4500001c00000000401166cd0a0100050a0200050001000200080000")
    assert plane.outbound([packet], 1.0)
    live = plane.query(outgoing.id)
    assert live is not None
    assert live.octets == len(packet)
    endpoint.rounds = [[RemoveSa(outgoing.id)]]
    stack.advance(2.0)
    assert plane.query(outgoing.id) is None
    final = stack._counters(outgoing.id)
    assert final is not None
    assert (final.octets, final.packets) == (len(packet), 1)


def test_final_counters_are_bounded() -> None:
    ids = [sa(Direction.OUT, spi) for spi in range(0x1000, 0x1000 + Stack._REMEMBERED + 10)]
    stack, _, _, _ = stack_of([InstallSa(s) for s in ids], [RemoveSa(s.id) for s in ids])
    stack.advance(0.0)
    assert len(stack._final) == Stack._REMEMBERED
    assert stack._counters(ids[0].id) is None
    assert stack._counters(ids[-1].id) is not None


def test_refused_installation_is_told_and_ends_the_sa() -> None:
    incoming = sa(Direction.IN, 0x1001)
    stack, endpoint, plane, heard = stack_of([InstallSa(incoming)])

    def refuse(_sa: SaDescription, _now: float) -> None:
        raise DataPlaneError("no room; remove an SA")

    plane.install = refuse  # type: ignore[method-assign]
    stack.advance(0.0)
    assert endpoint.told == [("expired", incoming.id, True)]
    (line,) = heard
    assert isinstance(line, LogRecorded)
    assert "no room; remove an SA" in line.message
    assert line.level == 0


def test_data_plane_events_reach_the_endpoint() -> None:
    stack, endpoint, plane, _ = stack_of()
    plane.events = lambda: [UnknownSpiReceived(5, HERE, THERE)]  # type: ignore[method-assign]
    stack.handle_timer(3.0)
    assert endpoint.told == [("timer", 3.0), ("unknown_spi", 5)]
    assert stack.next_timer() == pytest.approx(7.0)


def test_unsubscribed_listener_hears_nothing() -> None:
    stack, endpoint, _, heard = stack_of()
    more: list[Output] = []
    leave = stack.subscribe(lambda output, _stack: more.append(output))
    leave()
    endpoint.rounds = [[CommandFinished(1, True, "")]]
    stack.advance(0.0)
    assert len(heard) == 1
    assert more == []

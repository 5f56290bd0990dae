"""Sessions: one command at a time, events beside it, and clients that misbehave."""

from __future__ import annotations

from typing import Any

import pytest
from vici.protocol import Message, Packet
from vici_support.client import Client, frame
from vici_support.fake import Gateway, child_view, ike_view

from ipsecstack.keyex.base import CommandFinished, LogRecorded, Output
from ipsecstack.vici import codec, session
from ipsecstack.vici.registry import COMMANDS, EVENTS
from ipsecstack.vici.server import MAX_SESSIONS

LOG = LogRecorded("IKE", 1, "psk2", 4, "a line")


@pytest.fixture
def gateway() -> Gateway:
    made = Gateway()
    made.fill()
    return made


def test_unknown_commands_and_events(gateway: Gateway) -> None:
    client = Client(gateway)
    client.send(Packet.request("no-such-command"))
    client.send(Packet.register_event("no-such-event"))
    client.send(Packet.unregister_event("log"))
    assert [kind for kind, _ in client.replies] == [
        Packet.CMD_UNKNOWN,
        Packet.EVENT_UNKNOWN,
        Packet.EVENT_UNKNOWN,
    ]
    assert gateway.server.counters.unknown_commands == 1
    assert client.request("version")["daemon"] == "ipsecstackd"


def test_events_only_while_registered(gateway: Gateway) -> None:
    client, other = Client(gateway), Client(gateway)
    gateway.stack.tell(LOG)
    client.register("log")
    gateway.stack.tell(LOG)
    gateway.stack.tell(LogRecorded("IKE", 2, None, None, "too detailed"))
    client.read()
    client.send(Packet.unregister_event("log"))
    gateway.stack.tell(LOG)
    client.read()
    other.read()
    line = {"group": "IKE", "level": "1", "ikesa-name": "psk2", "ikesa-uniqueid": "4", "msg": "a line"}
    assert client.events == [("log", {**line, "thread": "1"})]
    assert other.events == []


def test_packets_may_come_in_any_pieces(gateway: Gateway) -> None:
    client = Client(gateway)
    data = (
        frame(Packet.request("version"))
        + frame(Packet.register_event("log"))
        + frame(Packet.request("get-conns"))
    )
    for octet in data:
        client.session.receive(bytes([octet]), gateway.now)
    client.read()
    assert [kind for kind, _ in client.replies] == [1, Packet.EVENT_CONFIRM, 1]
    client.session.receive(data, gateway.now)
    client.read()
    assert len(client.replies) == 6


def test_malformed_packets_are_ignored_and_counted(gateway: Gateway) -> None:
    client = Client(gateway)
    for packet in (b"", b"\x09", b"\x00\xff", b"\x01", b"\x07\x03log"):
        client.send(packet)
    assert client.replies == []
    assert gateway.server.counters.malformed == 5
    assert client.request("version")


def test_a_malformed_message_is_answered(gateway: Gateway) -> None:
    client = Client(gateway)
    client.send(Packet.request("version", b"\x03\x01k\xff\xff"))
    (_, reply) = client.replies.pop()
    assert reply["success"] == "no"
    assert "malformed" in reply["errmsg"]


def test_an_oversize_packet_ends_the_session_only(gateway: Gateway) -> None:
    client, other = Client(gateway), Client(gateway)
    client.session.receive((codec.MAX_PACKET_OCTETS + 1).to_bytes(4, "big"), gateway.now)
    assert client.session.closed
    assert (gateway.server.counters.oversize, gateway.server.sessions) == (1, 1)
    assert other.request("version")
    client.session.receive(frame(Packet.request("version")), gateway.now)
    assert client.session.take() == b""


def test_a_packet_of_the_greatest_size_is_taken(gateway: Gateway) -> None:
    client = Client(gateway)
    room = codec.MAX_PACKET_OCTETS - len(Packet.request("version"))
    filler = Message.serialize({"x": b"\0" * 60000}) * (room // 60005)
    client.send(Packet.request("version", filler))
    assert client.replies.pop()[1]["daemon"] == "ipsecstackd"


def hold(gateway: Gateway) -> list[int]:
    """Commands do not finish by themselves; the tickets are collected."""
    tickets: list[int] = []

    def later(ticket: int) -> list[Output]:
        tickets.append(ticket)
        return []

    gateway.endpoint.on_command = later
    return tickets


def test_one_command_at_a_time_while_events_flow(gateway: Gateway) -> None:
    tickets = hold(gateway)
    client = Client(gateway)
    client.register("log", "control-log")
    client.send(Packet.request("initiate", Message.serialize({"child": "gcm", "ike": "psk2"})))
    client.send(Packet.request("version"))
    assert client.replies == []
    client.events.clear()
    gateway.stack.tell(LOG)
    client.read()
    assert [name for name, _ in client.events] == ["log", "control-log"]
    gateway.stack.tell(CommandFinished(tickets[0], True, ""))
    client.read()
    assert [reply.get("success") or reply["daemon"] for _, reply in client.replies] == ["yes", "ipsecstackd"]


def test_another_client_is_not_held_up(gateway: Gateway) -> None:
    hold(gateway)
    client, other = Client(gateway), Client(gateway)
    client.send(Packet.request("initiate", Message.serialize({"child": "gcm"})))
    assert other.request("version")
    assert client.replies == []


def test_a_client_that_leaves_does_not_stop_what_it_started(gateway: Gateway) -> None:
    tickets = hold(gateway)
    client = Client(gateway)
    client.send(Packet.request("terminate", Message.serialize({"ike": "psk2"})))
    gateway.server.disconnect(client.session)
    gateway.stack.tell(CommandFinished(tickets[0], True, ""))
    assert gateway.server.next_timer() is None
    assert gateway.server.sessions == 0


def test_a_slow_client_is_dropped_and_counted(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_OUTPUT_OCTETS", 10_000)
    slow, quick = Client(gateway), Client(gateway)
    for client in (slow, quick):
        client.register("log")
    for _ in range(500):
        gateway.stack.tell(LOG)
        quick.read()
    assert slow.session.closed
    assert slow.session.queued == 0
    assert len(quick.events) == 500
    assert gateway.server.counters.slow_clients == 1


def test_a_client_that_sends_without_waiting_is_dropped(gateway: Gateway) -> None:
    hold(gateway)
    client = Client(gateway)
    client.send(Packet.request("initiate", Message.serialize({"child": "gcm"})))
    junk = frame(Packet.request("version", Message.serialize({"x": b"y" * 60000})))
    for _ in range(100):
        client.session.receive(junk, gateway.now)
    assert client.session.closed


def test_a_long_listing_needs_little_memory(gateway: Gateway) -> None:
    for number in range(3000):
        gateway.endpoint.put(ike_view(100 + number, children=[child_view(100 + number)]))
    client = Client(gateway)
    client.register("list-sa")
    client.session.receive(frame(Packet.request("list-sas")), gateway.now)
    highest = client.session.queued
    while client.session.queued or client.session.wants_resume:
        highest = max(highest, client.session.queued)
        client._parse(client.session.take(100_000))
        if client.session.wants_resume:
            client.session.resume(gateway.now)
    assert len(client.events) == 3002
    assert highest < session.HIGH_WATER_OCTETS + 10_000


def test_a_client_that_leaves_in_the_middle_of_a_listing(gateway: Gateway) -> None:
    for number in range(1000):
        gateway.endpoint.put(ike_view(100 + number, children=[child_view(100 + number)]))
    client = Client(gateway)
    client.register("list-sa")
    client.session.receive(frame(Packet.request("list-sas")), gateway.now)
    assert client.session.wants_resume
    gateway.server.disconnect(client.session)
    assert not client.session.wants_resume
    assert Client(gateway).request("version")


def test_many_children_come_in_several_events(gateway: Gateway) -> None:
    gateway.endpoint.put(ike_view(77, "many", [child_view(1000 + n) for n in range(600)]))
    client = Client(gateway)
    listed, _ = client.stream("list-sas", "list-sa", {"ike": "many"})
    assert [len(m["many"]["child-sas"]) for m in listed] == [256, 256, 88]
    assert {m["many"]["uniqueid"] for m in listed} == {"77"}


def test_there_is_a_limit_to_clients(gateway: Gateway) -> None:
    clients = [Client(gateway) for _ in range(MAX_SESSIONS)]
    assert gateway.server.connect() is None
    assert gateway.server.counters.refused_clients == 1
    gateway.server.disconnect(clients[0].session)
    assert gateway.server.connect() is not None


def test_a_bug_in_a_command_is_answered_and_told_without_contents(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(server: Any, request: Any, now: float) -> Any:
        raise KeyError("hunter2")

    monkeypatch.setitem(COMMANDS, "version", broken)
    client = Client(gateway)
    assert client.request("version") == {"success": "no", "errmsg": "internal error: KeyError"}
    assert "test_vici_session.py" in caplog.text
    assert "hunter2" not in caplog.text
    assert client.request("get-conns") == {"conns": []}


def test_a_bug_in_an_event_does_not_stop_the_stack(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(gateway)
    client.register("log")
    monkeypatch.setattr("ipsecstack.vici.events.log_line", lambda *a, **k: 1 / 0)
    gateway.stack.tell(LOG)
    assert gateway.server.counters.internal_errors == 1
    assert client.request("version")


def test_the_end_of_the_server_ends_its_sessions(gateway: Gateway) -> None:
    client = Client(gateway)
    gateway.server.close()
    assert client.session.closed
    gateway.stack.tell(LOG)
    assert gateway.server.sessions == 0


def test_all_promised_commands_and_events_are_there(repository: Any) -> None:
    """docs/vici.md lists them; the server has exactly these and a few that old clients ask for."""
    text = (repository / "docs" / "vici.md").read_text()
    listed = {}
    for kind in ("Commands", "Events"):
        start = text.index(f"\n{kind}: ") + len(kind) + 3
        words = text[start : text.index("\n\n", start)].replace("\n", " ").split(":")[0]
        listed[kind] = {w.strip(" .`") for w in words.replace(" and of our own ", ",").split(",")} - {""}
    assert listed["Commands"] == set(COMMANDS)
    assert listed["Events"] == set(EVENTS)

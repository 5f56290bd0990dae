"""Packets and messages: what is accepted, what is refused."""

from __future__ import annotations

import pytest
from vici.protocol import Message, Packet

from ipsecstack.vici import codec
from ipsecstack.vici.codec import MalformedMessage, PacketTooLarge

GOOD = {
    "key": b"value",
    "empty": b"",
    "list": [b"a", b""],
    "none": [],
    "sec": {"sub": {"x": b"\x00\xff"}},
    "e": {},
}


def test_messages_round_trip() -> None:
    assert codec.decode_message(Message.serialize(GOOD)) == GOOD
    assert codec.decode_message(b"") == {}


def test_every_truncation_of_a_message_is_refused() -> None:
    data = Message.serialize(GOOD)
    complete = {0}
    at = 0
    for element in GOOD.items():
        at += len(Message.serialize(dict([element])))
        complete.add(at)
    for length in range(len(data)):
        if length in complete:
            codec.decode_message(data[:length])
        else:
            with pytest.raises(MalformedMessage):
                codec.decode_message(data[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"\x07",
        b"\x02",
        b"\x06",
        b"\x05\x00\x01x",
        b"\x04\x01l\x03\x01k\x00\x00\x06",
        b"\x04\x01l\x01\x01k\x02\x06",
        b"\x04\x01l",
        b"\x01\x01s",
        b"\x03\x02\x01\x02\x00\x00",
        b"\x03\x01\xff\x00\x00",
        b"\x03\x01k\x00\x05abc",
        b"\x01\x01s" * 33 + b"\x02" * 33,
    ],
)
def test_malformed_messages(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        codec.decode_message(data)


def test_deep_messages_do_not_recurse() -> None:
    depth = codec.MAX_PACKET_OCTETS // 3
    with pytest.raises(MalformedMessage, match="nested"):
        codec.decode_message(b"\x01\x01s" * depth)


@pytest.mark.parametrize("kind", [1, 2, 5, 6, 7, 8, 255])
def test_packets_that_clients_do_not_send(kind: int) -> None:
    with pytest.raises(MalformedMessage):
        codec.parse_packet(bytes([kind]) + b"\x01x")


@pytest.mark.parametrize(
    "packet", [b"", b"\x00", b"\x00\x05abc", b"\x00\x00", b"\x00\x03a\x00b", b"\x03\x02\xc3\xa4"]
)
def test_malformed_packets(packet: bytes) -> None:
    with pytest.raises(MalformedMessage):
        codec.parse_packet(packet)


def test_requests_are_split() -> None:
    assert codec.parse_packet(Packet.request("version", b"rest")) == (Packet.CMD_REQUEST, "version", b"rest")
    assert codec.parse_packet(Packet.register_event("log")) == (Packet.EVENT_REGISTER, "log", b"")


def test_our_packets_have_a_limit() -> None:
    many = {str(n): "x" * 60000 for n in range(9)}
    for build in (codec.response, lambda m: codec.event("log", m)):
        with pytest.raises(PacketTooLarge):
            build(many)


def test_long_texts_are_clipped_at_a_character() -> None:
    assert codec.clip("short") == "short"
    text = codec.clip("ä" * 40000)
    assert len(text.encode()) == 65534

"""VICI packets and messages: strict checks and limits around PyPI's ``vici.protocol`` (strongSwan's own codec)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Union

from vici.exception import DeserializationException
from vici.protocol import FiniteStream, Message, Packet, Transport

MAX_PACKET_OCTETS: int = Transport.MAX_SEGMENT
MAX_DEPTH = 32
MAX_VALUE_OCTETS = 0xFFFF

Outgoing = Mapping[str, Union[str, bytes, Sequence[str | bytes], "Outgoing"]]
"""A message to send: text or octets, lists of them, sections."""

Incoming = dict[str, Union[bytes, list[bytes], "Incoming"]]
"""A message as received."""


class MalformedMessage(ValueError):
    """Octets that are no VICI message, or one beyond our limits."""


class PacketTooLarge(ValueError):
    """A packet of ours would be larger than a client accepts."""


def check_message(data: bytes) -> None:
    """Raise MalformedMessage unless ``data`` is a well-formed message (strongSwan's vici README, 'Message format').

    vici.protocol reads on past lengths that lie and past unknown elements; a server should not.
    """
    at, depth, in_list, end = 0, 0, False, len(data)
    while at < end:
        kind = data[at]
        at += 1
        if in_list != (kind in (Message.LIST_ITEM, Message.LIST_END)):
            raise MalformedMessage(f"element {kind} at octet {at - 1} does not belong there")
        if kind in (Message.SECTION_START, Message.KEY_VALUE, Message.LIST_START):
            if at >= end or at + 1 + data[at] > end:
                raise MalformedMessage("a name is longer than the message")
            name = data[at + 1 : at + 1 + data[at]]
            if any(octet < 32 for octet in name):
                raise MalformedMessage("a name holds control characters")
            at += 1 + len(name)
        if kind in (Message.KEY_VALUE, Message.LIST_ITEM):
            if at + 2 > end:
                raise MalformedMessage("a value is cut off")
            length = int.from_bytes(data[at : at + 2], "big")
            at += 2 + length
            if at > end:
                raise MalformedMessage("a value is longer than the message")
        elif kind == Message.SECTION_START:
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedMessage(f"sections are nested more than {MAX_DEPTH} deep")
        elif kind == Message.SECTION_END:
            depth -= 1
            if depth < 0:
                raise MalformedMessage("a section ends that was not opened")
        elif kind == Message.LIST_START:
            in_list = True
        elif kind == Message.LIST_END:
            in_list = False
        elif kind not in (Message.SECTION_START, Message.KEY_VALUE, Message.LIST_ITEM):
            raise MalformedMessage(f"unknown element {kind} at octet {at - 1}")
    if depth or in_list:
        raise MalformedMessage("a section or list is not closed")


def decode_message(data: bytes) -> Incoming:
    """The message in ``data``. Raises MalformedMessage, and nothing else."""
    check_message(data)
    try:
        message: Incoming = Message.deserialize(FiniteStream(data))
    except (DeserializationException, struct.error, UnicodeDecodeError) as error:
        raise MalformedMessage(str(error)) from None
    return message


def parse_packet(packet: bytes) -> tuple[int, str, bytes]:
    """(type, name, rest) of a packet from a client. Raises MalformedMessage."""
    if not packet:
        raise MalformedMessage("empty packet")
    kind = packet[0]
    if kind not in (Packet.CMD_REQUEST, Packet.EVENT_REGISTER, Packet.EVENT_UNREGISTER):
        raise MalformedMessage(f"unsupported packet type {kind}")
    if len(packet) < 2 or len(packet) < 2 + packet[1]:
        raise MalformedMessage("the packet's name is cut off")
    name = packet[2 : 2 + packet[1]]
    if not name or not all(32 < octet < 127 for octet in name):
        raise MalformedMessage("the packet's name is not printable ASCII")
    return kind, name.decode("ascii"), packet[2 + packet[1] :]


def response(message: Outgoing) -> bytes:
    """A CMD_RESPONSE packet with its length in front. Raises PacketTooLarge."""
    return _framed(bytes([Packet.CMD_RESPONSE]) + Message.serialize(message))


def event(name: str, message: Outgoing) -> bytes:
    """An EVENT packet with its length in front. Raises PacketTooLarge."""
    return _framed(bytes([Packet.EVENT, len(name)]) + name.encode("ascii") + Message.serialize(message))


def unknown_command() -> bytes:
    return _framed(bytes([Packet.CMD_UNKNOWN]))


def event_confirm() -> bytes:
    return _framed(bytes([Packet.EVENT_CONFIRM]))


def event_unknown() -> bytes:
    return _framed(bytes([Packet.EVENT_UNKNOWN]))


def clip(text: str, octets: int = MAX_VALUE_OCTETS) -> str:
    """``text`` cut to what fits into one value."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= octets else data[:octets].decode("utf-8", "ignore")


def _framed(packet: bytes) -> bytes:
    if len(packet) > MAX_PACKET_OCTETS:
        raise PacketTooLarge(f"{len(packet)} octets, a client takes {MAX_PACKET_OCTETS}")
    return len(packet).to_bytes(4, "big") + packet

"""The codec against captures of other implementations, where the larger vector sets are at hand."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipsecstack.wire.ikev2 import Header, WireError, build_message, describe, parse_message

CAPTURES = Path(__file__).parents[3] / "shared" / "vectors" / "pcap"
FILES = ["ikev2four.pcap", "ikev2pI2.pcap"]


def ike_datagrams(path: Path) -> Iterator[bytes]:
    """UDP payloads of ports 500 and 4500 (less the non-ESP marker) in a classic pcap of IPv4 over Ethernet or raw."""
    data = path.read_bytes()
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    link = struct.unpack_from(order + "I", data, 20)[0]
    skip = {0: 4, 1: 14, 101: 0, 113: 16, 12: 0}[link]
    offset = 24
    while offset + 16 <= len(data):
        size = struct.unpack_from(order + "I", data, offset + 8)[0]
        packet = data[offset + 16 + skip : offset + 16 + size]
        offset += 16 + size
        if len(packet) < 28 or packet[0] >> 4 != 4 or packet[9] != 17:
            continue
        udp = packet[(packet[0] & 15) * 4 :]
        source, destination, length = struct.unpack_from("!HHH", udp)
        payload = udp[8:length]
        if {source, destination} & {4500}:
            if payload[:4] != bytes(4):
                continue
            payload = payload[4:]
        elif not {source, destination} & {500}:
            continue
        yield payload


@pytest.mark.parametrize("name", FILES)
def test_captured_messages_round_trip(name: str) -> None:
    path = CAPTURES / name
    if not path.is_file():
        pytest.skip("the larger vector sets are not here")
    good = 0
    for data in ike_datagrams(path):
        if Header.parse(data).major != 2:
            continue
        message = parse_message(data)
        assert describe(message)
        again = parse_message(build_message(message.header, message.payloads))
        assert again.payloads == message.payloads
        good += 1
    assert good >= 2


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("*.pcap")), ids=lambda p: p.name)
def test_no_capture_breaks_the_codec(path: Path) -> None:
    """Malformed ones included: a message or a WireError."""
    try:
        datagrams = list(ike_datagrams(path))
    except (KeyError, struct.error):
        datagrams = [path.read_bytes()]  # of another link type: octets all the same
    for data in datagrams:
        try:
            describe(parse_message(data))
        except WireError:
            continue

"""Coalescing of inner packets: cutting what it made gives back what went in, whatever went in."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from espkit import ACK, CWR, FIN, PSH, numbered, stream, tcp, udp
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecstack.dataplane.coalesce import PLAIN, VNET_HEADER_OCTETS, coalesce
from ipsecstack.wire.ip import checksum


def cut(packet: bytes) -> Iterator[bytes]:
    """What the kernel makes of a packet with virtio_net_hdr (virtio 1.2 section 5.1.6, Linux's tcp_gso_segment)."""
    flags, kind, head_octets, segment, start, offset = struct.unpack("=BBHHHH", packet[:VNET_HEADER_OCTETS])
    packet = packet[VNET_HEADER_OCTETS:]
    if not flags:
        assert not kind
        yield packet
        return
    assert flags == 1
    version = packet[0] >> 4
    assert kind == {(4, 6): 1, (6, 6): 4}.get((version, packet[9 if version == 4 else 6]), 5)
    if version == 4:
        assert struct.unpack("!H", packet[2:4])[0] == len(packet)
        assert not checksum(packet[:20])
    else:
        assert struct.unpack("!H", packet[4:6])[0] == len(packet) - 40
    head, payload = packet[:head_octets], packet[head_octets:]
    assert 0 < segment < len(payload)
    addresses = head[12:20] if version == 4 else head[8:40]
    protocol = 17 if kind == 5 else 6
    given_sum = struct.unpack_from("!H", head, start + offset)[0]
    assert given_sum == checksum(addresses, struct.pack("!II", len(packet) - start, protocol)) ^ 0xFFFF
    for index, first in enumerate(range(0, len(payload), segment)):
        piece, part = bytearray(head), payload[first : first + segment]
        length = len(head) + len(part)
        if version == 4:
            struct.pack_into("!H", piece, 2, length)
            struct.pack_into("!H", piece, 4, struct.unpack_from("!H", head, 4)[0] + index & 0xFFFF)
            piece[10:12] = bytes(2)
            piece[10:12] = checksum(piece[:20]).to_bytes(2, "big")
        else:
            struct.pack_into("!H", piece, 4, length - 40)
        if kind == 5:
            struct.pack_into("!H", piece, start + 4, length - start)
        else:
            struct.pack_into("!I", piece, start + 4, struct.unpack_from("!I", head, start + 4)[0] + first)
            if first + segment < len(payload):
                piece[start + 13] &= ~(PSH | FIN)
        piece[start + offset : start + offset + 2] = bytes(2)
        pseudo = addresses + struct.pack("!II", length - start, protocol)
        value = checksum(pseudo, bytes(piece[start:]), part) if len(piece[start:]) % 2 == 0 else 0
        if kind == 5:
            value = value or 0xFFFF
        piece[start + offset : start + offset + 2] = value.to_bytes(2, "big")
        yield bytes(piece) + part


def written(packets: list[bytes]) -> tuple[list[bytes], list[int]]:
    """The packets as they come out of the device, and how many went into each write."""
    out: list[bytes] = []
    sizes: list[int] = []
    for number, buffers in coalesce(packets):
        came = list(cut(b"".join(buffers)))
        assert len(came) == number
        out += came
        sizes.append(number)
    return out, sizes


def test_a_stream_is_one_write() -> None:
    for version in (4, 6):
        for flags in (ACK, ACK | PSH, ACK | PSH | FIN):
            for last in (1348, 1, 777):
                packets = stream(version, [1348] * 20 + [last], flags=flags)
                assert written(packets) == (packets, [21])


def test_datagrams_of_one_flow_are_one_write() -> None:
    for ends in (("10.1.0.5", "10.2.0.9"), ("fd01::5", "fd02::9")):
        given = numbered([udp(*ends, size) for size in [100] * 9 + [99]])
        assert written(given) == (given, [10])


def test_limits_of_a_write() -> None:
    packets = stream(4, [10] * 150)
    assert written(packets) == (packets, [64, 64, 22])
    packets = stream(6, [9000] * 10)
    assert written(packets) == (packets, [7, 3])


def test_what_ends_a_run() -> None:
    whole = stream(4, [100] * 6)
    third = {
        "pushed": tcp(4, 100, 1200, 9, ACK | PSH),
        "reduced": tcp(4, 100, 1200, 9, ACK | CWR),
        "urgent": tcp(4, 100, 1200, 9, ACK | 0x20),
        "reset": tcp(4, 100, 1200, 9, ACK | 4),
        "marked": tcp(4, 100, 1200, 9, tos=3),
        "other number": tcp(4, 100, 1200, 19),
        "gap": tcp(4, 100, 1201, 9),
        "other options": tcp(4, 100, 1200, 9, options=b"\x01\x01\x08\x0a" + bytes(7) + b"\1"),
        "no options": tcp(4, 112, 1200, 9, options=b""),
        "other flow": tcp(4, 100, 1200, 9, port=40001),
        "longer": tcp(4, 102, 1200, 9),
        "shorter": tcp(4, 98, 1200, 9),
        "empty": tcp(4, 0, 1200, 9),
    }
    runs = {name: written([*whole[:2], packet, *whole[3:]])[1] for name, packet in third.items()}
    assert runs.pop("pushed") == runs.pop("shorter") == [3, 3]
    assert set(map(tuple, runs.values())) == {(2, 1, 3)}
    assert written([tcp(4, 100, 900, 6, ACK | PSH), *whole])[1] == [1, 6]


def test_wrong_checksums_are_not_made_right() -> None:
    for version, where in ((4, 300), (4, 36), (4, 10), (6, 300), (6, 57)):
        packets = stream(version, [1000] * 5)
        spoiled = bytearray(packets[2])
        spoiled[where] ^= 0x40
        packets[2] = bytes(spoiled)
        out, _ = written(packets)
        assert out == packets, (version, where)


def test_numbers_that_wrap() -> None:
    packets = stream(4, [1000] * 8, sequence=2**32 - 3500, number=65534)
    assert written(packets)[0] == packets


kinds = st.sampled_from(["tcp4", "tcp6", "udp4", "udp6", "rubbish"])


@st.composite
def traffic(draw: st.DrawFn) -> list[bytes]:
    packets: list[bytes] = []
    for _ in range(draw(st.integers(1, 4))):
        kind, size = draw(kinds), draw(st.integers(1, 60))
        count = draw(st.integers(1, 5))
        sizes = [size] * count + draw(st.lists(st.integers(0, 60), max_size=2))
        if kind in ("tcp4", "tcp6"):
            flags = draw(st.sampled_from([ACK, ACK | PSH, ACK | FIN, 0, 0xFF, ACK | CWR]))
            sequence = draw(st.sampled_from([5, 2**32 - 100]))
            packets += stream(int(kind[-1]), sizes, sequence, draw(st.sampled_from([1, 65534])), flags)
        elif kind == "rubbish":
            packets.append(draw(st.binary(min_size=20, max_size=100)))
        else:
            ends = ("10.1.0.5", "10.2.0.9") if kind == "udp4" else ("fd01::5", "fd02::9")
            packets += [udp(*ends, size + 48) for size in sizes]
    for position, octet, value in draw(
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 150), st.integers(1, 255)), max_size=3)
    ):
        packet = bytearray(packets[position % len(packets)])
        packet[octet % len(packet)] ^= value
        packets[position % len(packets)] = bytes(packet)
    if draw(st.booleans()):
        packets = packets[::-1]
    return packets


@settings(max_examples=400, deadline=None)
@given(packets=traffic(), views=st.booleans())
def test_every_packet_comes_out_as_it_went_in(packets: list[bytes], views: bool) -> None:
    assert written([memoryview(p) for p in packets] if views else packets)[0] == packets  # type: ignore[arg-type]


def test_the_plain_header_is_empty() -> None:
    packet = tcp(4, 100, 1, 1)
    assert [tuple(run) for run in coalesce([packet])] == [(1, (PLAIN, packet))]

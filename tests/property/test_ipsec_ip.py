"""IP headers and flow keys on arbitrary fields."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from espkit import udp
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecstack.wire.ip import (
    Flow,
    IPv4Header,
    IPv6Header,
    PacketError,
    checksum,
    flow_key,
    fragment_ipv4,
    packet_length,
    split_fragment_key,
    traffic_class,
    with_ecn,
)

v4 = st.integers(0, 2**32 - 1).map(IPv4Address)
v6 = st.integers(0, 2**128 - 1).map(IPv6Address)
octet = st.integers(0, 255)


@st.composite
def ipv4_headers(draw: st.DrawFn, payload: int = 0) -> IPv4Header:
    options = draw(
        st.integers(0, 10).flatmap(lambda words: st.binary(min_size=words * 4, max_size=words * 4))
    )
    return IPv4Header(
        draw(v4),
        draw(v4),
        draw(octet),
        20 + len(options) + payload,
        draw(octet),
        draw(st.integers(0, 65535)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.integers(0, 8191)),
        draw(octet),
        options,
    )


@settings(deadline=None)
@given(ipv4_headers())
def test_ipv4_round_trip(header: IPv4Header) -> None:
    packet = header.to_bytes()
    assert IPv4Header.parse(packet) == header
    assert checksum(packet) == 0


@settings(deadline=None)
@given(v6, v6, octet, octet, st.integers(0, 2**20 - 1), octet)
def test_ipv6_round_trip(
    a: IPv6Address, b: IPv6Address, proto: int, tclass: int, label: int, hops: int
) -> None:
    header = IPv6Header(a, b, proto, 0, tclass, label, hops)
    assert IPv6Header.parse(header.to_bytes()) == header


@settings(deadline=None)
@given(
    v4,
    v4,
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.sampled_from([6, 17, 132]),
    st.binary(max_size=30),
)
def test_flow_key_of_ports(
    a: IPv4Address, b: IPv4Address, sport: int, dport: int, proto: int, rest: bytes
) -> None:
    body = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + rest
    packet = IPv4Header(a, b, proto, 20 + len(body)).to_bytes() + body
    assert Flow.from_key(flow_key(packet)) == Flow(a, b, proto, sport, dport)
    # The way without options is the fast one: with options the same flow comes out.
    optioned = IPv4Header(a, b, proto, 24 + len(body), options=b"\x01\x01\x01\x00").to_bytes() + body
    assert flow_key(optioned) == flow_key(packet) == flow_key(memoryview(packet))


@settings(deadline=None)
@given(v6, v6, st.lists(st.sampled_from([0, 43, 60]), max_size=4), st.integers(0, 65535), st.integers(0, 2))
def test_flow_key_behind_extension_headers(
    a: IPv6Address, b: IPv6Address, chain: list[int], port: int, extra: int
) -> None:
    body = port.to_bytes(2, "big") + b"\x00\x35" + bytes(4)
    following = 17
    for kind in reversed(chain):
        body = bytes((following, extra)) + bytes(6 + 8 * extra) + body
        following = kind
    packet = IPv6Header(a, b, following, len(body)).to_bytes() + body
    assert Flow.from_key(flow_key(packet)) == Flow(a, b, 17, port, 53)


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_any_octets_are_a_flow_or_an_error(data: bytes) -> None:
    for prefix in (b"", b"\x45\x00\x00", b"\x60", b"\x4f"):
        octets = prefix + data
        try:
            key = flow_key(octets)
        except PacketError:
            continue
        base, name, later = split_fragment_key(key)
        assert len(base) in (9, 13, 33, 37)
        assert len(key) - len(base) == (5 if name else 0)
        assert not later or len(base) in (9, 33)
        assert packet_length(octets) == len(octets)
        Flow.from_key(key)


@settings(deadline=None)
@given(st.integers(28, 4000), st.integers(28, 1500))
def test_fragments_carry_the_whole_payload(size: int, mtu: int) -> None:
    packet = udp("10.1.0.5", "10.2.0.9", size)
    fragments = fragment_ipv4(packet, mtu)
    assert all(len(f) <= mtu for f in fragments)
    headers = [IPv4Header.parse(f) for f in fragments]
    assert b"".join(f[20:] for f in fragments) == packet[20:]
    offset = 0
    for header, fragment in zip(headers, fragments, strict=True):
        assert header.fragment_offset * 8 == offset
        offset += len(fragment) - 20
        assert header.more_fragments == (offset < size - 20)
        assert header.total_length == len(fragment)


def test_options_without_the_copied_flag_stay_in_the_first_fragment() -> None:
    options = (
        b"\x07\x07\x04\0\0\0\0" + b"\x83\x03\x04" + b"\x01\x00"
    )  # record route, loose source route, NOP, end
    body = bytes(400)
    packet = (
        IPv4Header(IPv4Address("10.1.0.5"), IPv4Address("10.2.0.9"), 17, 432, options=options).to_bytes()
        + body
    )
    first, *later = [IPv4Header.parse(f) for f in fragment_ipv4(packet, 200)]
    assert first.options == options
    assert {h.options for h in later} == {b"\x83\x03\x04\x00"}


def test_no_room_to_fragment() -> None:
    with pytest.raises(PacketError, match="too small"):
        fragment_ipv4(udp("10.1.0.5", "10.2.0.9", 500), 27)


@settings(deadline=None)
@given(octet, st.integers(0, 3))
def test_other_ecn_bits_keep_the_checksum_right(tos: int, ecn: int) -> None:
    packet = with_ecn(udp("10.1.0.5", "10.2.0.9", tos=tos), ecn)
    assert packet == udp("10.1.0.5", "10.2.0.9", tos=tos & 0xFC | ecn)
    packet6 = with_ecn(udp("fd01::5", "fd02::9", 80, tos=tos), ecn)
    assert packet6 == udp("fd01::5", "fd02::9", 80, tos=tos & 0xFC | ecn)
    assert traffic_class(packet6) == traffic_class(packet)

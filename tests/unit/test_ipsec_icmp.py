"""When 'too big' is told, and to whom (RFC 1122 §3.2.2, RFC 4443 §2.4); echo."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from espkit import udp

from ipsecstack.wire.icmp import echo_reply, echo_request, too_big
from ipsecstack.wire.ip import IPv4Header, IPv6Header, PacketError, checksum, flow_key, fragment_ipv4

FOUR, SIX = (ip_address("10.1.0.5"), ip_address("10.2.0.9")), (ip_address("fd01::5"), ip_address("fd02::9"))


def icmp4(kind: int, size: int = 100) -> bytes:
    body = bytes((kind, 0)) + bytes(size - 22)
    body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
    return IPv4Header(FOUR[0], FOUR[1], 1, 20 + len(body)).to_bytes() + body  # type: ignore[arg-type]


def icmp6(kind: int) -> bytes:
    return IPv6Header(SIX[0], SIX[1], 58, 60).to_bytes() + bytes((kind, 0)) + bytes(58)  # type: ignore[arg-type]


def test_told_to_the_sender_with_a_quote() -> None:
    packet = udp("10.1.0.5", "10.2.0.9", 1400, df=True)
    error = too_big(packet, 1300)
    assert error is not None
    header = IPv4Header.parse(error)
    assert (header.source, header.destination) == (FOUR[1], FOUR[0])
    assert header.total_length == len(error) == 576
    assert packet.startswith(error[28:])
    flow_key(error)


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_never_about_icmp_errors(kind: int) -> None:
    assert too_big(icmp4(kind), 50) is None


@pytest.mark.parametrize("kind", [0, 8, 13])
def test_about_icmp_queries(kind: int) -> None:
    assert too_big(icmp4(kind), 50) is not None


def test_never_about_later_fragments() -> None:
    first, later, *_ = fragment_ipv4(udp("10.1.0.5", "10.2.0.9", 900), 400)
    assert too_big(first, 100) is not None
    assert too_big(later, 100) is None


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("0.0.0.0", "10.2.0.9"),
        ("10.1.0.5", "224.0.0.5"),
        ("10.1.0.5", "255.255.255.255"),
        ("::", "fd02::9"),
        ("fd01::5", "ff02::1"),
    ],
)
def test_only_between_single_hosts(source: str, destination: str) -> None:
    assert too_big(udp(source, destination, 100), 50) is None


@pytest.mark.parametrize(("kind", "told"), [(1, False), (2, False), (127, False), (128, True), (135, True)])
def test_ipv6_errors_and_queries(kind: int, told: bool) -> None:
    assert (too_big(icmp6(kind), 1000) is not None) is told


def test_ipv6_never_tells_less_than_1280() -> None:
    error = too_big(udp("fd01::5", "fd02::9", 1400), 1000)
    assert error is not None
    assert int.from_bytes(error[44:48], "big") == 1280


def test_junk_is_not_answered() -> None:
    assert too_big(b"\x45" + bytes(30), 20) is None
    assert too_big(b"\x60" + bytes(10), 20) is None


@pytest.mark.parametrize("ends", [FOUR, SIX])
def test_echo(ends: tuple[object, object]) -> None:
    request = echo_request(*ends, 7, 9, b"payload")  # type: ignore[arg-type]
    reply = echo_reply(request)
    assert reply is not None
    assert reply[-11:] == b"\x00\x07\x00\x09payload"
    assert echo_reply(reply) is None
    assert flow_key(reply)[1:-4] == flow_key(echo_request(*ends[::-1], 7, 9))[1:-4]  # type: ignore[arg-type]


def test_echo_between_versions_is_refused() -> None:
    with pytest.raises(PacketError, match="different IP versions"):
        echo_request(FOUR[0], SIX[1], 1, 1)


def test_a_broken_echo_request_is_not_answered() -> None:
    request = bytearray(echo_request(*FOUR, 7, 9, b"payload"))
    request[-1] ^= 1
    assert echo_reply(bytes(request)) is None


def test_fragments_of_a_fragment_stay_in_the_middle() -> None:
    first, later = fragment_ipv4(udp("10.1.0.5", "10.2.0.9", 900), 600)
    pieces = [IPv4Header.parse(piece) for piece in fragment_ipv4(first, 300) + fragment_ipv4(later, 200)]
    assert [piece.more_fragments for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    ends = [piece.fragment_offset * 8 + piece.total_length - 20 for piece in pieces]
    assert [0, *ends[:-1]] == [piece.fragment_offset * 8 for piece in pieces]

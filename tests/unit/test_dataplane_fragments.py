"""Fragments inside and outside (RFC 4301 §7, §8), path MTUs, populate-from-packet, and SPDs by interface."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from espkit import A6, B6, LAN_A, LAN_B, A, B, Pair, describe, ts, udp
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, fragment6

from ipsecstack.dataplane.acquire import ACQUIRE_HOLDOFF, ACQUIRE_SELECTORS
from ipsecstack.dataplane.base import Acquired, EspDatagrams
from ipsecstack.dataplane.memory import MemoryDataPlane
from ipsecstack.dataplane.path import AGE, BURST, INTERVAL, PathMtus, parse_too_big
from ipsecstack.ipsec.fragments import MAX_DATAGRAMS, MAX_OCTETS, TIMEOUT, FragmentTracker, Reassembler
from ipsecstack.ipsec.sa import Address, Direction, Mode
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.wire.fragment import fragment_packet
from ipsecstack.wire.icmp import echo_request, too_big
from ipsecstack.wire.ip import (
    Flow,
    IPv4Header,
    IPv6Header,
    PacketError,
    checksum,
    flow_key,
    fragment_ipv4,
    split_fragment_key,
)

LONG = udp("10.1.0.5", "10.2.0.9", 3000, 7000, 8000)
PORTS = {"local_ts": ts(f"{LAN_A}[udp/7000]"), "remote_ts": ts(f"{LAN_B}[udp/8000]")}


def long6(size: int = 3000) -> bytes:
    return udp("fd01::5", "fd02::9", size)


# --- inner fragments and selectors with ports (RFC 4301 §7) ---


def test_fragments_go_with_their_first_one() -> None:
    """§7.3, stateful: selectors name ports, later fragments show none."""
    pair = Pair({**PORTS})
    pieces = fragment_ipv4(LONG, 1000)
    assert pair.through(*pieces) == pieces
    for sa in (pair.a_out, pair.b_in):
        assert pair.counters(sa).details.fragments == len(pieces) - 1
    assert pair.a.counters.discarded_out == 0


def test_fragments_without_their_first_one_do_not_pass() -> None:
    pair = Pair({**PORTS})
    pieces = fragment_ipv4(LONG, 1000)
    assert pair.through(*pieces[1:]) == []
    assert pair.a.counters.discarded_out == len(pieces) - 1
    assert pair.through(pieces[0]) == [pieces[0]]
    assert pair.through(*pieces[1:], now=TIMEOUT + 1) == []
    other = replace(IPv4Header.parse(pieces[1]), identification=77).to_bytes() + pieces[1][20:]
    assert pair.through(other, now=1.0) == []


def test_the_receiver_checks_for_itself() -> None:
    """An authentic peer that sends later fragments of nothing that passed."""
    wide = Pair()
    pieces = fragment_ipv4(LONG, 1000)
    narrow = MemoryDataPlane(random.Random(4).randbytes)
    inbound = wide.b.sad.get(wide.b_in)
    assert inbound is not None
    narrow.install(replace(inbound.description, local_ts=PORTS["remote_ts"], remote_ts=PORTS["local_ts"]), 0)
    assert narrow.inbound(wide.send(*pieces[1:]), 0) == []
    counters = narrow.query(wide.b_in)
    assert counters is not None
    assert counters.policy_errors == len(pieces) - 1
    assert len(narrow.inbound(wide.send(*pieces), 0)) == len(pieces)
    assert len(narrow.inbound(wide.send(*pieces[1:]), TIMEOUT + 1)) == 0


def test_without_the_agreement_only_first_fragments_pass() -> None:
    """NON_FIRST_FRAGMENTS_ALSO was not agreed (RFC 7296 §1.3.1)."""
    pair = Pair({**PORTS, "non_first_fragments": False})
    pieces = fragment_ipv4(LONG, 1000)
    assert pair.through(*pieces) == pieces[:1]
    assert pair.a.counters.discarded_out == len(pieces) - 1
    inbound = pair.b.sad.get(pair.b_in)
    assert inbound is not None
    assert not inbound.allows(flow_key(pieces[1]))  # type: ignore[union-attr]


def test_an_opaque_sa_of_their_own() -> None:
    """§7.2: one SA for the ports, another one for what shows none."""
    pair = Pair({**PORTS, "non_first_fragments": False})
    opaque = {"local_ts": ts(f"{LAN_A}[udp/opaque]"), "remote_ts": ts(f"{LAN_B}[udp/opaque]")}
    out = describe(Direction.OUT, 0x9000, A, B, **opaque, reqid=9)
    pair.a.install(out, 0)
    swapped = {"local_ts": opaque["remote_ts"], "remote_ts": opaque["local_ts"]}
    pair.b.install(describe(Direction.IN, 0x9000, A, B, **swapped, reqid=9), 0)
    pair.a.add_policy(SpdEntry("c/o", Action.PROTECT, opaque["local_ts"], opaque["remote_ts"], 2, 9))
    pieces = fragment_ipv4(LONG, 1000)
    batches = pair.send(*pieces)
    spis = {int.from_bytes(b.packets[0][:4], "big"): len(b.packets) for b in batches}
    assert spis == {0x1000: 1, 0x9000: len(pieces) - 1}
    assert [bytes(p) for p in pair.b.inbound(batches, 0)] == pieces


def test_fragments_of_bypassed_and_discarded_flows() -> None:
    plane = MemoryDataPlane(random.Random(1).randbytes)
    plane.add_policy(SpdEntry("b", Action.BYPASS, PORTS["local_ts"], PORTS["remote_ts"], 1))
    pieces = fragment_ipv4(LONG, 1000)
    assert plane.outbound(pieces, 0) == []
    assert plane.take_clear_packets() == pieces
    assert (plane.counters.bypassed_out, plane.counters.discarded_out) == (len(pieces), 0)


def test_ipv6_fragments_are_followed_too() -> None:
    local, remote = ts("fd01::/64[udp/1000]"), ts("fd02::/64[udp/2000]")
    pair = Pair({"local_ts": local, "remote_ts": remote})
    pieces = fragment_packet(long6(), 1280, 0xABCDEF01)
    assert len(pieces) == 3
    assert pair.through(*pieces) == pieces
    assert pair.through(*fragment_packet(long6(), 1280, 5)[1:]) == []
    atomic = IPv6(src="fd01::5", dst="fd02::9") / IPv6ExtHdrFragment(id=5, nh=17) / long6(100)[40:]
    assert pair.through(bytes(atomic)) == [bytes(atomic)]


def test_fragment_keys() -> None:
    first, later = fragment_ipv4(LONG, 1600)[:2]
    base, name, is_later = split_fragment_key(flow_key(first))
    assert (base, is_later) == (flow_key(udp("10.1.0.5", "10.2.0.9", 60, 7000, 8000)), False)
    assert Flow.from_key(flow_key(first)) == Flow.from_key(base)
    base, other, is_later = split_fragment_key(flow_key(later))
    assert is_later
    assert name == other
    assert Flow.from_key(flow_key(later)).ports is None
    assert split_fragment_key(base) == (base, None, False)


def test_the_tracker_is_bounded() -> None:
    tracker = FragmentTracker(10)
    for number in range(100):
        tracker.remember(bytes((number,)), b"key", 0.0)
    assert len(tracker) == 10
    assert tracker.find(b"\x00", 0.0) is None
    assert tracker.find(b"\x63", TIMEOUT - 1) == b"key"
    assert tracker.find(b"\x63", TIMEOUT) is None
    assert len(tracker) == 9


# --- reassembly ---


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(200, 9000),
    mtu=st.integers(100, 1500),
    version=st.sampled_from([4, 6]),
    order=st.randoms(use_true_random=False),
    repeat=st.booleans(),
)
def test_fragments_in_any_order_make_the_datagram(
    size: int, mtu: int, version: int, order: random.Random, repeat: bool
) -> None:
    packet = udp("10.1.0.5", "10.2.0.9", size) if version == 4 else long6(size)
    pieces = fragment_packet(packet, mtu, 99)
    assert all(len(p) <= mtu for p in pieces)
    if len(pieces) == 1:
        assert pieces == [packet]
        return
    order.shuffle(pieces)
    if repeat:
        pieces.insert(len(pieces) // 2, pieces[0])
    reassembler = Reassembler()
    done = [whole for p in pieces if (whole := reassembler.add(flow_key(p), p, 0.0)) is not None]
    assert done == [packet]
    assert reassembler.dropped == 0


@pytest.mark.parametrize("version", [4, 6])
def test_scapy_agrees_on_fragments(version: int) -> None:
    if version == 6:
        packet = IPv6(src="fd01::5", dst="fd02::9") / IPv6ExtHdrHopByHop() / IPv6(long6(3000)).payload
        whole = bytes(packet)
        ours = fragment_packet(whole, 1280, 7)
        marked = packet.copy()
        marked[IPv6ExtHdrHopByHop].payload = (
            IPv6ExtHdrFragment(id=7, nh=17) / packet[IPv6ExtHdrHopByHop].payload
        )
        marked[IPv6ExtHdrHopByHop].nh = 44
        theirs = [bytes(p) for p in fragment6(IPv6(bytes(marked)), 1280)]
        reassembler = Reassembler()
        assert [reassembler.add(flow_key(p), p, 0) for p in theirs][-1] == whole
        assert b"".join(p[56:] for p in ours) == b"".join(p[56:] for p in theirs)


def test_reassembly_refuses_overlap_and_nonsense() -> None:
    def piece(offset: int, size: int, more: bool, fill: int = 0) -> bytes:
        header = IPv4Header(A.host, B.host, 17, 20 + size, 0, 5, False, more, offset // 8)  # type: ignore[arg-type]
        return header.to_bytes() + bytes((fill,)) * size

    def run(*pieces: bytes) -> tuple[list[bytes], int, int]:
        reassembler = Reassembler()
        out = [w for p in pieces if (w := reassembler.add(flow_key(p), p, 0.0)) is not None]
        return out, reassembler.dropped, len(reassembler)

    good, dropped, _ = run(piece(0, 16, True), piece(16, 8, False))
    assert len(good) == 1
    assert dropped == 0
    assert run(piece(0, 16, True), piece(8, 16, False))[:2] == ([], 2)  # overlap
    assert run(piece(0, 16, True), piece(0, 16, True, 1))[:2] == ([], 2)  # the same place, other octets
    assert run(piece(16, 8, False), piece(24, 8, True))[:2] == ([], 2)  # beyond the end
    assert run(piece(16, 8, False), piece(32, 8, False))[:2] == ([], 2)  # two ends
    assert run(piece(32, 8, True), piece(16, 8, False))[:2] == ([], 2)  # an end before what is there
    assert run(piece(0, 13, True))[:2] == ([], 1)  # not a multiple of eight
    assert run(piece(65528, 16, False))[:2] == ([], 1)  # longer than a packet


def test_reassembly_is_bounded_in_time_and_memory() -> None:
    reassembler = Reassembler()
    for number in range(MAX_DATAGRAMS + 50):
        header = IPv4Header(A.host, B.host, 17, 20 + 1000, 0, number + 1, False, True, 0)  # type: ignore[arg-type]
        packet = header.to_bytes() + bytes(1000)
        assert reassembler.add(flow_key(packet), packet, 0.0) is None
    assert len(reassembler) == MAX_DATAGRAMS
    assert reassembler.dropped == 50
    big = Reassembler()
    for number in range(200):
        header = IPv4Header(A.host, B.host, 17, 20 + 16000, 0, number + 1, False, True, 0)  # type: ignore[arg-type]
        packet = header.to_bytes() + bytes(16000)
        big.add(flow_key(packet), packet, 0.0)
    assert len(big) == MAX_OCTETS // 16000
    reassembler.expire(TIMEOUT)
    assert len(reassembler) == 0
    assert reassembler.dropped == MAX_DATAGRAMS + 50


# --- path MTU (RFC 4301 §8.2) ---

A4, B4 = Address(A.host), Address(B.host)
ROUTER, ROUTER6 = ip_address("203.0.113.9"), ip_address("2001:db8:ffff::9")


def fits(pair: Pair) -> int:
    return pair.a.sad.outbound(1)[0].max_packet


def outer(pair: Pair, esp: bytes) -> bytes:
    """The packet as it was on the wire: what a router quotes."""
    d = pair.a.sad.get(pair.a_out).description  # type: ignore[union-attr]
    if d.encapsulated:
        esp = struct.pack("!HHHH", d.source.port, d.destination.port, 8 + len(esp), 0) + esp
    protocol = 17 if d.encapsulated else 50
    if d.source.host.version == 4:
        return IPv4Header(d.source.host, d.destination.host, protocol, 20 + len(esp)).to_bytes() + esp  # type: ignore[arg-type]
    return IPv6Header(d.source.host, d.destination.host, protocol, len(esp)).to_bytes() + esp  # type: ignore[arg-type]


@pytest.mark.parametrize("encapsulated", [False, True])
@pytest.mark.parametrize("version", [4, 6])
def test_an_error_from_the_path_lowers_its_mtu(encapsulated: bool, version: int) -> None:
    ends = {(4, True): (A, B), (4, False): (A4, B4), (6, True): (A6, B6)}.get(
        (version, encapsulated), (Address(A6.host), Address(B6.host))
    )
    pair = Pair({"encapsulated": encapsulated}, a_addr=ends[0], b_addr=ends[1])
    before = fits(pair)
    sent = outer(pair, bytes(pair.send(udp("10.1.0.5", "10.2.0.9", 1400))[0].packets[0]))
    error = too_big(sent, 1300)
    assert error is not None
    pair.a.receive_icmp([error], 5.0)
    assert pair.a.counters.mtu_lowered == 1
    assert fits(pair) < 1300 < before
    pair.a.inject([udp("10.1.0.5", "10.2.0.9", 1400, df=True)])
    assert pair.a.read_device(5.0) == []
    assert int.from_bytes(pair.a.delivered[-1][26:28], "big") == fits(
        pair
    )  # so the sender inside learns of it
    pair.a.receive_icmp([error], 5.0)
    assert pair.a.counters.mtu_ignored == 1
    assert pair.a.next_timer() == 5.0 + AGE
    pair.a.handle_timer(5.0 + AGE)
    assert fits(pair) == before
    assert pair.a.next_timer() is None


def test_errors_about_what_we_did_not_send_change_nothing() -> None:
    pair = Pair({"encapsulated": False}, a_addr=A4, b_addr=B4)
    before = fits(pair)
    esp = bytes(pair.send(udp("10.1.0.5", "10.2.0.9", 1400))[0].packets[0])
    sent = outer(pair, esp)
    header = IPv4Header.parse(sent)
    forged = [
        header.to_bytes() + b"\0\0\x99\x99" + esp[4:],  # another SPI
        replace(header, destination=ip_address("192.0.2.99")).to_bytes() + esp,  # another peer
        replace(header, source=ip_address("192.0.2.98")).to_bytes() + esp,  # not from here
        replace(header, protocol=51).to_bytes() + esp,
        replace(header, protocol=17).to_bytes() + esp,
        replace(header, protocol=6).to_bytes() + esp,
    ]
    errors = [too_big(packet, 600) for packet in forged]
    pair.a.receive_icmp([e for e in errors if e], 0)
    ignored = pair.a.counters.mtu_ignored
    assert (pair.a.counters.mtu_lowered, fits(pair)) == (0, before)
    assert ignored == 5  # the last one, TCP, is not even looked at
    good = too_big(sent, 1300)
    assert good is not None
    pair.a.receive_icmp([good[:-1] + b"\xff", good[:30], b"", echo_request(A.host, B.host, 1, 1)], 0)
    assert pair.a.counters.malformed_in == 3
    assert fits(pair) == before


def test_a_quotation_without_the_spi_is_not_believed() -> None:
    """RFC 792 asks for 8 octets: of ESP in UDP, ports and nothing that a stranger could not guess."""
    pair = Pair()
    esp = bytes(pair.send(udp("10.1.0.5", "10.2.0.9", 1400))[0].packets[0])
    sent = outer(pair, esp)
    error = too_big(sent[:28], 1300) or too_big(
        replace(IPv4Header.parse(sent), total_length=28).to_bytes() + sent[20:28], 1300
    )
    assert error is not None
    found = parse_too_big(error)
    assert found is not None
    assert (found.ports, found.spi) == ((4500, 4500), None)
    pair.a.receive_icmp([error], 0)
    assert (pair.a.counters.mtu_lowered, pair.a.counters.mtu_ignored) == (0, 1)


def test_no_path_gets_narrower_than_the_least() -> None:
    pair = Pair({"encapsulated": False}, a_addr=A4, b_addr=B4)
    sent = outer(pair, bytes(pair.send(udp("10.1.0.5", "10.2.0.9", 1400))[0].packets[0]))
    error = too_big(sent, 68)
    assert error is not None
    pair.a.receive_icmp([error], 0)
    assert pair.a._paths.get(B.host) == 576
    unknown = bytearray(too_big(sent, 1300) or b"")
    unknown[26:28] = bytes(2)  # a router from before RFC 1191
    unknown[22:24] = bytes(2)
    unknown[22:24] = checksum(bytes(unknown[20:])).to_bytes(2, "big")
    found = parse_too_big(bytes(unknown))
    assert found is not None
    assert found.mtu == 1006


def test_errors_are_believed_only_so_often() -> None:
    paths = PathMtus(1500)
    hosts = [ip_address(f"192.0.2.{n}") for n in range(1, BURST + 5)]
    assert sum(paths.lower(host, 1000, 0.0) for host in hosts) == BURST
    assert paths.lower(hosts[-1], 1000, INTERVAL)
    paths.set(hosts[0], 900)
    assert paths.forget_old(AGE) == hosts[1:BURST]
    assert paths.get(hosts[0]) == 900
    assert paths.forget_old(AGE + INTERVAL) == [hosts[-1]]
    assert len(paths) == 1


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=120), version=st.sampled_from([4, 6]))
def test_any_octets_are_an_error_about_a_path_or_not(data: bytes, version: int) -> None:
    if version == 4:
        packet = IPv4Header(ROUTER, A.host, 1, 20 + len(data)).to_bytes() + data  # type: ignore[arg-type]
    else:
        packet = IPv6Header(ROUTER6, A6.host, 58, len(data)).to_bytes() + data  # type: ignore[arg-type]
    for octets in (packet, data):
        try:
            found = parse_too_big(octets)
        except PacketError:
            continue
        assert found is None or found.mtu >= 0


# --- ICMP errors inside (RFC 4301 §6.2) ---


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("quoted", [1300, 28 + 4, 28])
def test_errors_go_with_what_they_are_about(version: int, quoted: int) -> None:
    """A router behind a, whose address no selector has, says that a packet of b's host was too big."""
    if version == 4:
        local, remote, packet = (
            PORTS["local_ts"],
            PORTS["remote_ts"],
            udp("10.2.0.9", "10.1.0.5", 1400, 8000, 7000),
        )
        router = replace(IPv4Header.parse(packet), source=ip_address("172.16.0.1"))
    else:
        local, remote = ts("fd01::/64[udp/7000]"), ts("fd02::/64[udp/8000]")
        packet = udp("fd02::9", "fd01::5", 1400, 8000, 7000)
    pair = Pair({"local_ts": local, "remote_ts": remote})
    error = too_big(packet, 1300)
    assert error is not None
    if version == 4:
        body = error[20 : 20 + 8 + 20 + max(quoted - 28, 0)] if quoted < 1300 else error[20:]
        body = body[:2] + checksum(body[:2] + bytes(2) + body[4:]).to_bytes(2, "big") + body[4:]
        error = replace(router, destination=ip_address("10.2.0.9"), protocol=1, total_length=20 + len(body))
        error = error.to_bytes() + body
    else:
        error = error[:8] + ip_address("fd77::1").packed + error[24:]
    if version == 4 and quoted == 28:  # no ports are left: the selectors ask for them
        assert pair.through(error) == []
        assert pair.a.counters.discarded_out == 1
        return
    assert pair.through(error) == [error]
    # An error about traffic of others does not pass, nor one to another than who sent what is quoted.
    if version == 4:
        header = replace(IPv4Header.parse(error), destination=ip_address("10.2.0.10"))
        other = header.to_bytes() + error[20:]
        assert pair.through(other) == []
    stranger = too_big(udp("10.2.0.9", "10.1.0.5", 1400, 8000, 7001, df=True), 1300)
    assert stranger is not None
    assert pair.through(stranger) == []
    assert pair.a.counters.discarded_out >= 1


def test_the_receiver_checks_errors_for_itself() -> None:
    pair = Pair({**PORTS})
    transform = pair.a.sad.get(pair.a_out).transform  # type: ignore[union-attr]
    right = too_big(udp("10.2.0.9", "10.1.0.5", 1400, 8000, 7000), 1300)
    wrong = too_big(udp("10.2.0.9", "10.1.0.5", 1400, 8000, 7001), 1300)
    reply = echo_request(ip_address("10.1.0.5"), ip_address("10.2.0.9"), 1, 1)
    got = []
    for number, packet in enumerate((right, wrong, reply), 1):
        assert packet is not None
        esp = transform.seal(packet, 4, number, random.Random(1).randbytes)  # type: ignore[union-attr,call-arg]
        got += pair.b.inbound([EspDatagrams(B, A, True, [esp])], 0)
    assert got == [right]
    assert pair.counters(pair.b_in).policy_errors == 2


# --- populate-from-packet (RFC 4301 §4.4.1.1) ---

ALL = frozenset({"local", "remote", "protocol", "local_port", "remote_port"})


@pytest.mark.parametrize(
    ("flags", "local", "remote"),
    [
        (frozenset(), "10.1.0.0/24", "10.2.0.0/24"),
        (frozenset({"remote"}), "10.1.0.0/24", "10.2.0.9/32"),
        (frozenset({"local", "remote"}), "10.1.0.5/32", "10.2.0.9/32"),
        (frozenset({"protocol"}), "10.1.0.0/24[udp]", "10.2.0.0/24[udp]"),
        (ALL, "10.1.0.5/32[udp/1000]", "10.2.0.9/32[udp/2000]"),
    ],
)
def test_an_acquire_has_the_packets_values(flags: frozenset[str], local: str, remote: str) -> None:
    plane = MemoryDataPlane(random.Random(1).randbytes)
    entry = SpdEntry("c/p", Action.PROTECT, ts(LAN_A), ts(LAN_B), 1, 1, trap=True, pfp=flags)
    plane.add_policy(entry)
    packets = [udp("10.1.0.5", "10.2.0.9"), udp("10.1.0.6", "10.2.0.10", 60, 5, 6)]
    assert plane.outbound(packets, 0) == []
    first, *more = plane.events()
    assert isinstance(first, Acquired)
    assert (first.local_ts, first.remote_ts) == (ts(local), ts(remote))
    assert len(more) == (1 if flags - {"protocol"} else 0)
    plane.install(describe(Direction.OUT, 0x5000, A, B, local_ts=ts(local), remote_ts=ts(remote)), 1)
    (batch,) = plane.read_device(1.0)
    assert len(batch.packets) == (1 if flags - {"protocol"} else 2)
    # Another flow of the policy asks for an SA of its own; the same one does not.
    assert plane.outbound([udp("10.1.0.7", "10.2.0.11", 60, 7, 8)], ACQUIRE_HOLDOFF + 2) == [] or not (
        flags - {"protocol"}
    )


def test_populated_acquires_are_bounded() -> None:
    plane = MemoryDataPlane(random.Random(1).randbytes)
    entry = SpdEntry("c/p", Action.PROTECT, ts("10.1.0.0/16"), ts(LAN_B), 1, 1, trap=True, pfp=ALL)
    plane.add_policy(entry)
    flood = [udp(f"10.1.{n // 200}.{n % 200 + 1}", "10.2.0.9") for n in range(1000)]
    assert plane.outbound(flood, 0) == []
    assert len(plane.events()) == ACQUIRE_SELECTORS
    assert plane.counters.no_sa_out == 1000 - ACQUIRE_SELECTORS
    assert plane.outbound(flood[500:501], ACQUIRE_HOLDOFF + 1) == []
    assert len(plane.events()) == 1
    plane.remove_policy(entry)
    assert plane.counters.no_sa_out == 1001


def test_populated_opaque_and_icmp() -> None:
    entry = SpdEntry("c/p", Action.PROTECT, ts(LAN_A), ts(LAN_B), 1, 1, pfp=ALL)
    ping = echo_request(ip_address("10.1.0.5"), ip_address("10.2.0.9"), 1, 1)
    local, remote = entry.populated(Flow.from_key(flow_key(ping)))
    assert (local, remote) == (ts("10.1.0.5/32[icmp/2048]"), ts("10.2.0.9/32[icmp/2048]"))
    gre = IPv4Header(ip_address("10.1.0.5"), ip_address("10.2.0.9"), 47, 24).to_bytes() + bytes(4)  # type: ignore[arg-type]
    local, _ = entry.populated(Flow.from_key(flow_key(gre)))
    assert local == ts("10.1.0.5/32[47/opaque]")


# --- virtual networks (RFC 3884) ---


def test_transport_mode_of_ipip_is_tunnel_mode_to_the_octet() -> None:
    """§3.1: an IPIP interface and transport mode put the same octets on the wire as tunnel mode."""
    inner = [udp("10.1.0.5", "10.2.0.9", size, tos=0x28) for size in (28, 99, 1000)]
    tunnel = Pair({"encapsulated": False}, a_addr=A4, b_addr=B4)
    hosts = {"mode": Mode.TRANSPORT, "local_ts": ts(f"{A.host}[4]"), "remote_ts": ts(f"{B.host}[4]")}
    transport = Pair({"encapsulated": False, **hosts}, a_addr=A4, b_addr=B4)

    def ipip(packet: bytes) -> bytes:
        return IPv4Header(A.host, B.host, 4, 20 + len(packet), packet[1]).to_bytes() + packet  # type: ignore[arg-type]

    (one,), (other,) = tunnel.send(*inner), transport.send(*map(ipip, inner))
    assert [bytes(p) for p in one.packets] == [bytes(p) for p in other.packets]
    assert (one.ecn, one.protocol, one.whole) == (other.ecn, other.protocol, other.whole)
    assert [bytes(p)[20:] for p in transport.b.inbound([other], 0)] == inner
    # A route change inside needs no new SA: any inner packet goes through the same one.
    (moved,) = transport.send(ipip(udp("172.16.0.1", "172.17.0.1", 77)))
    assert int.from_bytes(moved.packets[0][:4], "big") == 0x1000
    assert len(transport.b.inbound([moved], 0)) == 1
    # What comes through the SA and is not of this interface does not belong there.
    wide = {**hosts, "local_ts": ts(str(A.host)), "remote_ts": ts(str(B.host))}
    forged = Pair({"encapsulated": False, **wide}, a_addr=A4, b_addr=B4)
    forged.a.sad.outbound(1)[0].sequence_number = 50
    assert transport.b.inbound(forged.send(udp(str(A.host), str(B.host), 60)), 0) == []
    assert transport.counters(transport.b_in).policy_errors == 1


def test_an_spd_for_each_interface() -> None:
    plane = MemoryDataPlane(random.Random(1).randbytes)
    red, blue = (
        SpdEntry(f"net/{name}", Action.PROTECT, ts(LAN_A), ts(LAN_B), 1, reqid, interface=name)
        for reqid, name in ((1, "red"), (2, "blue"))
    )
    everywhere = SpdEntry("rest", Action.DISCARD, ts("0.0.0.0/0"), ts("0.0.0.0/0"), 9)
    for entry in (red, blue, everywhere):
        plane.add_policy(entry)
    for reqid in (1, 2):
        plane.install(describe(Direction.OUT, 0x1000 * reqid, A, B, reqid=reqid), 0)
    packet = udp("10.1.0.5", "10.2.0.9")
    for interface, spi in (("red", 0x1000), ("blue", 0x2000), ("red", 0x1000)):
        (batch,) = plane.outbound([packet], 0, interface)
        assert int.from_bytes(batch.packets[0][:4], "big") == spi
    assert plane.outbound([packet], 0) == []
    assert plane.outbound([packet], 0, "green") == []
    assert plane.counters.discarded_out == 2
    assert plane.spd.inbound(flow_key(udp("10.2.0.9", "10.1.0.5")), "blue") == blue

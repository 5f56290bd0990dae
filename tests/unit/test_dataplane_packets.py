"""What the userspace core makes of packets (RFC 4301 §5, RFC 4303): between two memory data planes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from espkit import (
    A6,
    ALGORITHMS,
    B6,
    LAN_A,
    LAN_B,
    A,
    Algorithm,
    B,
    Pair,
    arrived,
    keys,
    ts,
    udp,
)

from ipsecstack.dataplane.base import (
    DataPlaneError,
    EspDatagrams,
)
from ipsecstack.ipsec.sa import Address, ReplayCounts, SaCounters
from ipsecstack.ipsec.sad import InboundSa
from ipsecstack.wire.ip import IPv4Header, checksum, traffic_class, with_ecn

PACKET = udp("10.1.0.5", "10.2.0.9")
PACKET6 = udp("fd01::5", "fd02::9", 80)


def received(**counts: int) -> SaCounters:
    """Counters of an inbound SA whose window saw nothing odd."""
    return SaCounters(replays=ReplayCounts(), **counts)


def forged(pair: Pair, payload: bytes, next_header: int, number: int = 1, **seal: int) -> list[EspDatagrams]:
    """An authentic ESP packet to b with any content: what a strange peer could send."""
    sa = pair.a.sad.get(pair.a_out)
    assert sa is not None
    esp = sa.transform.seal(payload, next_header, number, lambda n: bytes(n), **seal)
    return [EspDatagrams(B, A, True, [esp])]


# --- through and back ---


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
@pytest.mark.parametrize("esn", [False, True])
def test_every_algorithm_carries_both_ip_versions_over_both(algorithm: Algorithm, esn: bool) -> None:
    both = {"local_ts": ts(LAN_A, "fd01::/64"), "remote_ts": ts(LAN_B, "fd02::/64")}
    for outer in ({}, {"a_addr": A6, "b_addr": B6}):
        pair = Pair({**both, **keys(algorithm), "esn": esn}, **outer)
        packets = [udp("10.1.0.5", "10.2.0.9", size) for size in range(28, 75)] + [PACKET6]
        assert pair.through(*packets) == packets
        octets = sum(map(len, packets))
        expected = SaCounters(octets=octets, packets=len(packets), last_used=0.0)
        assert pair.counters(pair.a_out) == expected
        assert pair.counters(pair.b_in) == replace(expected, replays=ReplayCounts())


def test_esp_on_the_wire_shows_spi_and_counting_numbers() -> None:
    pair = Pair()
    (batch,) = pair.send(PACKET, PACKET, PACKET)
    assert [bytes(p[:8]).hex() for p in batch.packets] == [f"00001000{number:08x}" for number in (1, 2, 3)]
    assert (batch.local, batch.remote, batch.encapsulated) == (B, A, True)


def test_native_esp() -> None:
    a, b = replace(A, port=0), replace(B, port=0)
    pair = Pair({"encapsulated": False}, a_addr=a, b_addr=b)
    assert pair.through(PACKET) == [PACKET]
    assert not pair.send(PACKET)[0].encapsulated


def test_newest_outbound_sa_sends_and_both_inbound_receive() -> None:
    pair = Pair()
    old = pair.send(PACKET)
    pair.install(1.0)
    new = pair.send(PACKET)
    assert old[0].packets[0][:4] != new[0].packets[0][:4]
    assert pair.b.inbound(new, 1) == [PACKET]
    assert pair.b.inbound(old, 1) == [PACKET]
    pair.a.remove(pair.a_out)
    assert pair.send(PACKET)[0].packets[0][:4] == old[0].packets[0][:4]


def test_narrowed_sa_is_passed_over() -> None:
    """Populate-from-packet: two SAs of one policy, each for its own hosts."""
    pair = Pair()
    pair.install(1.0, local_ts=ts("10.1.0.7/32"))
    spi = bytes(pair.send(PACKET)[0].packets[0][:4])
    assert int.from_bytes(spi, "big") == 0x1000
    assert pair.send(udp("10.1.0.7", "10.2.0.9"))[0].packets[0][:4] != spi


# --- what must not pass ---


def test_replays_are_counted_and_dropped() -> None:
    pair = Pair()
    batch = pair.send(PACKET, PACKET)
    assert len(pair.b.inbound(batch, 0)) == 2
    assert pair.b.inbound(batch, 0) == []
    assert pair.counters(pair.b_in) == SaCounters(
        octets=120, packets=2, replay_errors=2, last_used=0, replays=ReplayCounts(duplicates=2)
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
@pytest.mark.parametrize("esn", [False, True])
def test_replays_are_counted_by_kind(algorithm: Algorithm, esn: bool) -> None:
    """Each kind by itself; AEADs take the batch path, the others the plain one. The sum of the drops is exact."""
    pair = Pair({**keys(algorithm), "esn": esn, "replay_window": 32})
    sa = pair.a.sad.get(pair.a_out)
    assert sa is not None

    def receive(*numbers: int) -> tuple[int, SaCounters]:
        packets = [sa.transform.seal(PACKET, 4, number, lambda n: bytes(n)) for number in numbers]
        return len(pair.b.inbound([EspDatagrams(B, A, True, packets)], 0)), pair.counters(pair.b_in)

    assert receive(1, 2, 3, 5, 7, 100) == (
        6,
        SaCounters(octets=360, packets=6, last_used=0, replays=ReplayCounts()),
    )
    steps: list[tuple[tuple[int, ...], int, ReplayCounts]] = [
        ((99, 69), 2, ReplayCounts(out_of_order=2)),
        ((100, 99, 100), 0, ReplayCounts(out_of_order=2, duplicates=3)),
        ((68, 4), 0, ReplayCounts(out_of_order=2, duplicates=3, before_window=2)),
        ((0,), 0, ReplayCounts(out_of_order=2, duplicates=3, before_window=2, zero=1)),
        (
            (101, 102, 102, 104, 103, 105),
            5,
            ReplayCounts(out_of_order=3, duplicates=4, before_window=2, zero=1),
        ),
    ]
    for numbers, passed, expected in steps:
        opened, counters = receive(*numbers)
        assert counters.replays is not None
        if esn:
            # A number left of the window is taken for one of the next 2^32, and its ICV is wrong there (App. A2.2).
            assert counters.integrity_errors == expected.before_window + expected.zero
            expected = replace(expected, before_window=0, zero=0)
        assert (opened, counters.replays) == (passed, expected)
        assert counters.replay_errors == counters.replays.dropped
    before = counters.replays
    assert receive(106, 107)[1].replays == before, "packets in order count nothing"


def test_first_numbers_of_a_young_esn_sa() -> None:
    pair = Pair({"esn": True})
    assert pair.b.inbound(forged(pair, PACKET, 4, number=0), 0) == []
    assert pair.counters(pair.b_in) == SaCounters(replay_errors=1, replays=ReplayCounts(zero=1))
    assert pair.b.inbound(forged(pair, PACKET, 4, number=(1 << 32) - 1), 0) == []
    assert pair.counters(pair.b_in).replays == ReplayCounts(zero=1, before_window=1)


def test_numbers_beyond_the_last_one() -> None:
    pair = Pair({"esn": True})
    sa = pair.b.sad.get(pair.b_in)
    assert isinstance(sa, InboundSa)
    sa.window.accept((1 << 64) - 2)
    assert len(pair.b.inbound(forged(pair, PACKET, 4, number=(1 << 64) - 1), 0)) == 1
    assert pair.b.inbound(forged(pair, PACKET, 4, number=5), 0) == []
    assert pair.counters(pair.b_in).replays == ReplayCounts(beyond_window=1)


def test_replay_check_off() -> None:
    pair = Pair({"replay_window": 0})
    batch = pair.send(PACKET)
    assert len(pair.b.inbound(batch, 0) + pair.b.inbound(batch, 0)) == 2
    assert pair.counters(pair.b_in).replays == ReplayCounts()


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_changed_packets_are_counted_and_change_nothing(algorithm: Algorithm) -> None:
    pair = Pair(keys(algorithm))
    (batch,) = pair.send(PACKET)
    good = bytes(batch.packets[0])
    ahead = bytearray(good)
    ahead[4:8] = b"\x00\xff\xff\xff"  # far ahead: must not move the window
    bad = [bytes(ahead), good[:-1] + bytes((good[-1] ^ 1,)), good[:-1], good[:9], good[:8]]
    assert pair.b.inbound([EspDatagrams(B, A, True, list(bad))], 0) == []
    assert pair.counters(pair.b_in) == received(integrity_errors=len(bad))
    assert pair.b.inbound([batch], 0) == [PACKET]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_a_number_past_the_last_is_refused(algorithm: Algorithm) -> None:
    """A sender that lets its numbers wrap: authentic, and still a replay."""
    pair = Pair({**keys(algorithm), "replay_window": 32})
    inbound = pair.b.sad.get(pair.b_in)
    assert inbound is not None
    inbound.window.top = 2**32 - 2  # type: ignore[attr-defined]
    last, wrapped = forged(pair, PACKET, 4, 2**32 - 1), forged(pair, PACKET, 4, 0)
    assert bytes(wrapped[0].packets[0][4:8]) == bytes(4)
    packets = last[0].packets + wrapped[0].packets
    assert pair.b.inbound([EspDatagrams(B, A, True, packets)], 0) == [PACKET]
    assert pair.counters(pair.b_in).replay_errors == 1


def test_packets_outside_the_sa_are_policy_errors() -> None:
    pair = Pair()
    outside = [udp("10.9.0.5", "10.2.0.9"), udp("10.1.0.5", "10.3.0.9"), PACKET6]
    for number, packet in enumerate(outside, 1):
        assert pair.b.inbound(forged(pair, packet, 4 if packet[0] < 0x60 else 41, number), 0) == []
    assert pair.counters(pair.b_in) == received(policy_errors=3)
    assert pair.b.inbound(forged(pair, PACKET, 4, 9), 0) == [PACKET]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_padding_errors(algorithm: Algorithm) -> None:
    pair = Pair(keys(algorithm))
    sa = pair.a.sad.get(pair.a_out)
    assert sa is not None
    ends = (b"\x01\x03\x02\x03\x04", b"\xff\x04", b"\x01\x02\x07\x04")
    for number, end in enumerate(ends, 1):
        plain = PACKET + bytes(-(len(PACKET) + len(end)) % sa.transform.align) + end
        iv = number.to_bytes(sa.transform.iv_octets, "big") if sa.transform.iv_octets else b""
        esp = sa.transform.protect(plain, iv, number)
        assert pair.b.inbound([EspDatagrams(B, A, True, [esp])], 0) == []
    assert pair.counters(pair.b_in) == received(padding_errors=3)


def test_dummy_packets_vanish() -> None:
    pair = Pair()
    assert pair.b.inbound(forged(pair, b"anything", 59), 0) == []
    assert pair.counters(pair.b_in) == received()


def test_tfc_padding_is_cut_off() -> None:
    pair = Pair({"local_ts": ts(LAN_A, "fd01::/64"), "remote_ts": ts(LAN_B, "fd02::/64")})
    assert pair.b.inbound(forged(pair, PACKET, 4, 1, tfc=500), 0) == [PACKET]
    assert pair.b.inbound(forged(pair, PACKET6, 41, 2, tfc=7), 0) == [PACKET6]
    assert pair.counters(pair.b_in).octets == len(PACKET) + len(PACKET6)


def test_strange_payloads_are_other_errors() -> None:
    pair = Pair()
    payloads = [(PACKET, 41), (PACKET, 50), (PACKET[:30], 4), (b"", 4), (b"\x00" * 40, 4), (b"\x45", 4)]
    for number, (payload, next_header) in enumerate(payloads, 1):
        assert pair.b.inbound(forged(pair, payload, next_header, number), 0) == []
    assert pair.counters(pair.b_in) == received(other_errors=len(payloads))


@pytest.mark.parametrize("agreed", [False, True])
def test_esp_is_taken_in_udp_and_without(agreed: bool) -> None:
    """RFC 7296 §2.23: both forms at any time, whichever of them this end sends; the peer has not moved for that."""
    pair = Pair({"encapsulated": agreed})
    for number, encapsulated in enumerate((not agreed, agreed), 1):
        (batch,) = pair.send(PACKET)
        batch.encapsulated = encapsulated
        if encapsulated is not agreed:
            batch.remote = replace(batch.remote, port=4500 if encapsulated else 0)
        assert pair.b.inbound([batch], 0) == [PACKET]
        assert pair.counters(pair.b_in).packets == number
    assert pair.counters(pair.b_in).other_errors == 0
    assert pair.b.events() == []


def test_runts_and_reserved_spis_are_malformed() -> None:
    pair = Pair()
    packets = [b"", b"\xff", b"\0" * 7, b"\0" * 40, b"\0\0\0\xff" + b"\0" * 40]
    assert pair.b.inbound([EspDatagrams(B, A, True, list(packets))], 0) == []
    assert pair.b.counters.malformed_in == len(packets)
    assert pair.b.events() == []


def test_mixed_batch_is_taken_apart() -> None:
    pair = Pair()
    one = pair.send(PACKET, PACKET)[0].packets
    pair.install(1.0)
    two = pair.send(PACKET, PACKET)[0].packets
    mixed = [one[0], two[0], b"\0\0", one[1], b"\x7f" * 40, two[1]]
    assert pair.b.inbound([EspDatagrams(B, A, True, list(mixed))], 1) == [PACKET] * 4
    assert (pair.b.counters.malformed_in, pair.b.counters.unknown_spi) == (1, 1)


def test_memoryviews_are_packets_too() -> None:
    pair = Pair()
    (batch,) = arrived(pair.a.outbound([memoryview(PACKET)], 0))
    batch.packets = [memoryview(bytes(p)) for p in batch.packets]
    assert [bytes(p) for p in pair.b.inbound([batch], 0)] == [PACKET]


# --- outer header ---


def test_dscp_and_ecn_are_copied_out_and_batches_split_by_them() -> None:
    pair = Pair({"local_ts": ts(LAN_A, "fd01::/64"), "remote_ts": ts(LAN_B, "fd02::/64")})
    classes = [0xB8, 0, 0xB9, 0xB8]
    packets = [udp("10.1.0.5", "10.2.0.9", tos=tos, df=True) for tos in classes] + [
        udp("fd01::5", "fd02::9", 80, tos=0xB8)
    ]
    batches = pair.send(*packets)
    assert [(b.ecn, len(b.packets)) for b in batches] == [(0xB8, 3), (0, 1), (0xB9, 1)]
    assert all(b.dont_fragment for b in batches)  # as the packets inside
    (batch,) = pair.send(udp("10.1.0.5", "10.2.0.9"))
    assert not batch.dont_fragment


@pytest.mark.parametrize(
    ("inner", "outer", "result"),
    [
        (0, 0, 0),
        (0, 1, 0),
        (0, 2, 0),
        (0, 3, None),
        (2, 0, 2),
        (2, 1, 1),
        (2, 3, 3),
        (1, 2, 1),
        (1, 3, 3),
        (3, 0, 3),
    ],
)
@pytest.mark.parametrize("version", [4, 6])
def test_congestion_marks_come_in(inner: int, outer: int, result: int | None, version: int) -> None:
    """The table of RFC 6040 §4.2."""
    pair = Pair({"local_ts": ts(LAN_A, "fd01::/64"), "remote_ts": ts(LAN_B, "fd02::/64")})
    ends = ("10.1.0.5", "10.2.0.9") if version == 4 else ("fd01::5", "fd02::9")
    batches = arrived(pair.a.outbound([udp(*ends, 80, tos=0xB8 | inner)], 0), ecn=outer)
    got = [bytes(p) for p in pair.b.inbound(batches, 0)]
    if result is None:
        assert got == []
        assert pair.counters(pair.b_in).other_errors == 1
        return
    assert traffic_class(got[0]) == 0xB8 | result
    assert got == [with_ecn(udp(*ends, 80, tos=0xB8), result)]
    if version == 4:
        assert checksum(got[0][:20]) == 0


# --- path MTU (RFC 4301 §8.2) ---


def fits(pair: Pair) -> int:
    return pair.a.sad.outbound(1)[0].max_packet


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
@pytest.mark.parametrize("outer", [{}, {"a_addr": A6, "b_addr": B6}], ids=["v4", "v6"])
def test_longest_packet_fills_the_path_and_no_more(algorithm: Algorithm, outer: dict[str, Address]) -> None:
    pair = Pair(keys(algorithm), **outer)
    header = 28 if not outer else 48
    longest = fits(pair)
    sizes = [len(p) + header for p in pair.send(udp("10.1.0.5", "10.2.0.9", longest))[0].packets]
    assert 1500 - 16 < sizes[0] <= 1500
    assert longest >= 1384  # a TUN device of MTU 1400 keeps inside 1500 with all but the longest of them


def test_too_big_with_df_is_answered() -> None:
    pair = Pair()
    longest = fits(pair)
    packet = udp("10.1.0.5", "10.2.0.9", longest + 1, df=True)
    pair.a.inject([packet])
    assert pair.a.read_device(0) == []
    (error,) = pair.a.delivered
    header = IPv4Header.parse(error)
    assert (str(header.source), str(header.destination), header.protocol) == ("10.2.0.9", "10.1.0.5", 1)
    assert error[20:22] == b"\x03\x04"
    assert int.from_bytes(error[26:28], "big") == longest
    assert checksum(error[20:]) == 0
    assert error[28:] == packet[:548]
    assert pair.a.counters.too_big_out == 1
    assert pair.counters(pair.a_out) == SaCounters()


def test_too_big_ipv6_is_answered() -> None:
    pair = Pair({"local_ts": ts("fd01::/64"), "remote_ts": ts("fd02::/64")})
    longest = fits(pair)
    pair.a.inject([udp("fd01::5", "fd02::9", longest + 1)])
    assert pair.a.read_device(0) == []
    (error,) = pair.a.delivered
    assert error[40:42] == b"\x02\x00"
    assert int.from_bytes(error[44:48], "big") == longest
    assert len(error) == 1280
    pseudo = error[8:40] + len(error[40:]).to_bytes(4, "big") + b"\0\0\0\x3a"
    assert checksum(pseudo, error[40:]) == 0


def test_too_big_without_df_goes_in_fragments() -> None:
    pair = Pair()
    packet = udp("10.1.0.5", "10.2.0.9", 3000)
    fragments = pair.through(packet)
    assert len(fragments) == 3
    assert all(len(f) <= fits(pair) for f in fragments)
    whole = b"".join(f[20:] for f in fragments)
    assert whole == packet[20:]
    offsets = [IPv4Header.parse(f) for f in fragments]
    assert [h.fragment_offset * 8 for h in offsets] == [0, len(fragments[0]) - 20, len(fragments[0]) * 2 - 40]
    assert [h.more_fragments for h in offsets] == [True, True, False]


def test_path_mtu_of_a_peer() -> None:
    pair = Pair({"local_ts": ts(LAN_A, "fd01::/64"), "remote_ts": ts(LAN_B, "fd02::/64")})
    pair.a.set_path_mtu(B.host, 1300)
    before = fits(pair)
    assert before < 1300 - 28
    pair.install(1.0)
    assert fits(pair) == before
    assert pair.through(udp("10.1.0.5", "10.2.0.9", before + 1, df=True)) == []
    # 1280 octets of IPv6 must pass (RFC 8200 §5), whatever that costs outside.
    assert len(pair.through(udp("fd01::5", "fd02::9", 1280))) == 1
    with pytest.raises(DataPlaneError, match="path MTU"):
        pair.a.set_path_mtu(B.host, 500)

"""Transport mode, AH, IPComp, TFC padding, dummy packets and ESN resynchronisation between two memory planes."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from espkit import A6, ALGORITHMS, B6, LAN_A, LAN_B, A, B, Pair, keys, tcp, ts, udp
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecstack.dataplane.base import DataPlaneError, EspDatagrams, SaExpired
from ipsecstack.dataplane.memory import MemoryDataPlane
from ipsecstack.ipsec.ipcomp import MAX_OCTETS, Compressor, decompress
from ipsecstack.ipsec.replay import Resynchroniser
from ipsecstack.ipsec.sa import Address, Lifetime, Limit, Mode, PacketDetails, SecurityProtocol
from ipsecstack.ipsec.transport import repair_checksum
from ipsecstack.wire.fragment import fragment_packet
from ipsecstack.wire.ip import (
    IPv4Header,
    PacketError,
    checksum,
    fragment_ipv4,
    traffic_class,
)
from ipsecstack.wire.ipcomp import IpcompHeader
from ipsecstack.wire.transforms import EncrId, IntegId

A4, B4 = Address(A.host), Address(B.host)
HOST_A, HOST_B = str(A.host), str(B.host)
HOSTS: dict[str, Any] = {
    "mode": Mode.TRANSPORT,
    "local_ts": ts(HOST_A),
    "remote_ts": ts(HOST_B),
}
AH: dict[str, Any] = {
    "protocol": SecurityProtocol.AH,
    "encapsulated": False,
    "encr": EncrId.NULL,
    "encr_key_bits": 0,
    "key_encr": b"",
    "integ": IntegId.HMAC_SHA2_256_128,
    "key_integ": bytes(range(32)),
}
PACKET = udp("10.1.0.5", "10.2.0.9", 200)


def details(pair: Pair, sa: Any) -> PacketDetails:
    found = pair.counters(sa).details
    assert isinstance(found, PacketDetails)
    return found


def hosts(**fields: Any) -> Pair:
    native = not fields.get("encapsulated", False)
    ends = (A4, B4) if native else (A, B)
    return Pair({**HOSTS, "encapsulated": not native, **fields}, a_addr=ends[0], b_addr=ends[1])


# --- transport mode ---


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
@pytest.mark.parametrize("encapsulated", [False, True])
def test_transport_mode_carries_every_protocol(algorithm: Any, encapsulated: bool) -> None:
    pair = hosts(**keys(algorithm), encapsulated=encapsulated)
    sent = [udp(HOST_A, HOST_B, size, tos=0x28, df=True) for size in range(28, 60)]
    empty = IPv4Header(A.host, B.host, 200, 20, 0x28, 0, True).to_bytes()  # type: ignore[arg-type]
    sent += [empty, empty[:9] + b"\x67" + empty[10:]]
    sent[-1] = IPv4Header(A.host, B.host, 103, 21, 0x28, 0, True).to_bytes() + b"x"  # type: ignore[arg-type]
    got = pair.through(*sent)
    assert sorted(p[20:] for p in got) == sorted(p[20:] for p in sent)
    for packet in got:
        header = IPv4Header.parse(packet)
        assert (header.source, header.destination, header.tos) == (A.host, B.host, 0x28)
    counters = pair.counters(pair.b_in)
    assert (counters.packets, counters.octets) == (len(sent), sum(len(p) - 20 for p in sent))
    assert pair.counters(pair.a_out).octets == counters.octets


def test_transport_mode_is_for_its_own_ends() -> None:
    pair = hosts(local_ts=ts(LAN_A, HOST_A), remote_ts=ts(LAN_B, HOST_B))
    assert pair.through(PACKET) == []
    assert pair.a.counters.malformed_out == 1


def test_transport_mode_inner_source_is_the_outer_one() -> None:
    """The selectors hold for the addresses that a packet really has: another sender's are not believed."""
    pair = hosts()
    (batch,) = pair.send(udp(HOST_A, HOST_B, 100))
    batch.remote = Address(ip_address("192.0.2.77"))
    assert pair.b.inbound([batch], 0) == []
    assert pair.counters(pair.b_in).policy_errors == 1


def test_ip_options_and_udp_do_not_go_together() -> None:
    pair = hosts(encapsulated=True)
    header = IPv4Header(A.host, B.host, 17, 36, options=b"\x94\x04\0\0")  # type: ignore[arg-type]
    assert pair.through(header.to_bytes() + bytes(12)) == []
    assert pair.a.counters.malformed_out == 1


def test_fragments_are_put_together_before_transport_mode() -> None:
    """RFC 4303 §3.3.4: in transport mode ESP is for whole datagrams; what is too long is cut outside."""
    pair = hosts()
    whole = udp(HOST_A, HOST_B, 3000)
    pieces = fragment_ipv4(whole, 1400)
    (batch,) = pair.send(*pieces[1:], pieces[0])  # the first one last: its ports come last too
    got = [bytes(p) for p in pair.b.inbound([batch], 0)]
    assert [p[20:] for p in got] == [whole[20:]]
    assert not batch.dont_fragment
    assert pair.a.counters.reassembled == 1
    assert pair.a.counters.fragmented_out == 1


def test_too_long_for_transport_mode_with_df_is_answered() -> None:
    pair = hosts()
    pair.a.inject([udp(HOST_A, HOST_B, 3000, df=True)])
    assert pair.a.read_device(0) == []
    (error,) = pair.a.delivered
    assert error[20:22] == b"\x03\x04"


# --- transport mode through a NAT (RFC 7296 §2.23.1, RFC 3948 §3.1.2) ---

PRIVATE_A, PRIVATE_B = ip_address("192.168.7.9"), ip_address("172.16.3.4")


def upper_checksum(packet: bytes) -> int:
    """What is left of a TCP or UDP checksum: 0 when it is right."""
    pseudo = packet[12:20] + bytes((0, packet[9])) + (len(packet) - 20).to_bytes(2, "big")
    return checksum(pseudo, packet[20:])


def retarget(packet: bytes, source: Any, destination: Any) -> bytes:
    """Other addresses and no change to what is above: what a NAT makes that does not look inside."""
    header = IPv4Header.parse(packet)
    return replace(header, source=source, destination=destination).to_bytes() + packet[20:]


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_checksums_are_made_right_behind_a_nat(protocol: str) -> None:
    """Both ends behind NATs: each sees the other's outside address and its own inside one."""
    seen_a, seen_b = Address(ip_address("198.51.100.1"), 40000), Address(ip_address("198.51.100.2"), 4500)
    mine, other = Address(PRIVATE_A, 4500), Address(PRIVATE_B, 4500)
    pair = hosts(encapsulated=True)
    a_out, b_in = pair.a.sad.get(pair.a_out), pair.b.sad.get(pair.b_in)
    assert a_out is not None
    assert b_in is not None
    out = replace(
        a_out.description,
        source=mine,
        destination=seen_b,
        spi=0x7000,
        local_ts=ts(str(PRIVATE_A)),
        remote_ts=ts(str(seen_b.host)),
        reqid=7,
    )
    inward = replace(
        b_in.description,
        source=seen_a,
        destination=other,
        spi=0x7000,
        local_ts=ts(str(PRIVATE_B)),
        remote_ts=ts(str(seen_a.host)),
        original_source=PRIVATE_A,
        original_destination=seen_b.host,
    )
    pair.a.install(out, 0)
    pair.b.install(inward, 0)
    pair.a.add_policy(replace(pair.a.policies()[0], local_ts=out.local_ts, remote_ts=out.remote_ts, reqid=7))
    if protocol == "udp":
        sent = [udp(str(PRIVATE_A), str(seen_b.host), size) for size in (28, 61, 500)]
    else:
        body = bytearray(tcp(4, 333, 1, 1))
        body[12:20] = PRIVATE_A.packed + seen_b.host.packed
        body[36:38] = bytes(2)
        pseudo = bytes(body[12:20]) + b"\0\x06" + (len(body) - 20).to_bytes(2, "big")
        body[36:38] = checksum(pseudo, body[20:]).to_bytes(2, "big")
        head = replace(IPv4Header.parse(tcp(4, 333, 1, 1)), source=PRIVATE_A, destination=seen_b.host)  # type: ignore[arg-type]
        sent = [head.to_bytes() + bytes(body[20:])]
    assert all(upper_checksum(p) == 0 for p in sent)
    batches = [EspDatagrams(other, seen_a, True, b.packets, b.ecn) for b in pair.a.outbound(sent, 0)]
    got = [bytes(p) for p in pair.b.inbound(batches, 0)]
    assert len(got) == len(sent)
    for packet in got:
        header = IPv4Header.parse(packet)
        assert (header.source, header.destination) == (seen_a.host, PRIVATE_B)
        assert upper_checksum(packet) == 0


@settings(deadline=None, max_examples=100)
@given(
    ends=st.lists(st.ip_addresses(v=4), min_size=4, max_size=4),
    size=st.integers(28, 80),
    port=st.integers(0, 65535),
    spoiled=st.booleans(),
)
def test_repaired_checksums(ends: list[Any], size: int, port: int, spoiled: bool) -> None:
    """Right stays right and wrong stays wrong, whatever the addresses; no checksum stays none."""
    packet = udp(str(ends[0]), str(ends[1]), size, port)
    if spoiled:
        packet = packet[:20] + bytes((packet[20] ^ 1,)) + packet[21:]
    moved = retarget(packet, ends[2], ends[3])
    repaired = repair_checksum(moved, ends[0], ends[1])
    assert (upper_checksum(repaired) == 0) is not spoiled
    none = moved[:26] + b"\0\0" + moved[28:]
    assert repair_checksum(none, ends[0], ends[1]) == none
    other = moved[:9] + b"\x84" + moved[10:]  # SCTP knows no addresses
    assert repair_checksum(other, ends[0], ends[1]) == other
    with pytest.raises(PacketError):
        repair_checksum(moved[:24], ends[0], ends[1])


# --- AH in the data plane ---


def test_ah_replays_and_damage_are_counted() -> None:
    pair = Pair(AH, a_addr=A4, b_addr=B4)
    batches = pair.send(PACKET, PACKET)
    assert pair.b.inbound(batches, 0) == [PACKET, PACKET]
    assert pair.b.inbound(batches, 0) == []
    (batch,) = pair.send(PACKET)
    good = bytes(batch.packets[0])
    bad = [
        good[:-1] + b"\xff",
        good[:28] + b"\0\0\xff\xff" + good[32:],
        good[:24] + b"\0\0\x77\x77" + good[28:],
    ]
    bad += [good[:30], b"", good[:21] + b"\x01" + good[22:], good[:9] + b"\x11" + good[10:]]
    batch.packets = [*bad]
    assert pair.b.inbound([batch], 0) == []
    counters = pair.counters(pair.b_in)
    assert (counters.packets, counters.replay_errors, counters.integrity_errors) == (2, 2, 3)
    assert (pair.b.counters.unknown_spi, pair.b.counters.malformed_in) == (1, 3)
    batch.packets = [good]
    assert pair.b.inbound([batch], 0) == [PACKET]


def test_ah_outer_fragments_are_put_together() -> None:
    pair = Pair({**AH, "fragment": "after"}, a_addr=A4, b_addr=B4)
    long = udp("10.1.0.5", "10.2.0.9", 3000)
    (batch,) = pair.send(long)
    assert len(batch.packets) == 3
    assert all(len(p) <= 1500 for p in batch.packets)
    batch.packets.reverse()
    assert pair.b.inbound([batch], 0) == [long]
    assert pair.b.counters.reassembled == 1
    (batch,) = pair.send(long)
    overlapping = bytearray(bytes(batch.packets[1]))
    overlapping[6:8] = (int.from_bytes(overlapping[6:8], "big") - 1).to_bytes(2, "big")
    overlapping[10:12] = bytes(2)
    overlapping[10:12] = checksum(overlapping[:20]).to_bytes(2, "big")
    batch.packets.insert(1, bytes(overlapping))
    assert pair.b.inbound([batch], 0) == []
    assert pair.b.counters.fragments_dropped >= 2


@pytest.mark.parametrize(
    "integ", [IntegId.KPDK_MD5, IntegId.HMAC_MD5_96, IntegId.AES_XCBC_96, IntegId.AES_128_GMAC]
)
@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
def test_ah_with_other_algorithms(integ: IntegId, mode: Mode) -> None:
    octets = {IntegId.AES_128_GMAC: 20}.get(integ, 16)
    fields = {**AH, "integ": integ, "key_integ": bytes(range(octets)), "mode": mode}
    if mode is Mode.TRANSPORT:
        fields |= HOSTS
    pair = Pair(fields, a_addr=A4, b_addr=B4)
    packets = [udp(HOST_A, HOST_B, 99, df=True)] * 3 if mode is Mode.TRANSPORT else [PACKET] * 3
    got = pair.through(*packets)
    assert [p[20:] for p in got] == [p[20:] for p in packets]
    (batch,) = pair.send(packets[0])
    spoiled = bytes(batch.packets[0])
    batch.packets = [spoiled[:-1] + bytes((spoiled[-1] ^ 1,))]
    assert pair.b.inbound([batch], 0) == []
    assert pair.counters(pair.b_in).integrity_errors == 1


# --- IPComp (RFC 3173) ---


@pytest.mark.parametrize("protocol", [SecurityProtocol.ESP, SecurityProtocol.AH])
@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
def test_ipcomp_makes_packets_shorter(protocol: SecurityProtocol, mode: Mode) -> None:
    fields: dict[str, Any] = {"mode": mode, "ipcomp_cpi": 0x1234, "encapsulated": False}
    if protocol is SecurityProtocol.AH:
        fields |= AH
    ends = (HOST_A, HOST_B) if mode is Mode.TRANSPORT else ("10.1.0.5", "10.2.0.9")
    if mode is Mode.TRANSPORT:
        fields |= HOSTS
    pair = Pair({**fields, "ipcomp_cpi": 0x1234}, a_addr=A4, b_addr=B4)
    dull = udp(*ends, 1400, df=True)
    short = udp(*ends, 60, df=True)
    noise = dull[:28] + random.Random(1).randbytes(1372)
    batches = pair.send(dull, short, noise)
    sizes = sorted(len(p) for b in batches for p in b.packets)
    assert sizes[1] < 600 < 1400 < sizes[2]
    got = [bytes(p) for p in pair.b.inbound(batches, 0)]
    assert sorted(p[20:] for p in got) == sorted(p[20:] for p in (dull, short, noise))
    assert details(pair, pair.a_out).compressed == details(pair, pair.b_in).compressed == 1
    headers = 3 * 20 if mode is Mode.TRANSPORT else 0
    for sa in (pair.a_out, pair.b_in):
        assert pair.counters(sa).octets == len(dull) + len(short) + len(noise) - headers


def test_compressed_packets_may_fit_where_they_did_not() -> None:
    pair = Pair({"ipcomp_cpi": 500})
    long = udp("10.1.0.5", "10.2.0.9", 3000, df=True)
    assert pair.through(long) == [long]
    noise = IPv4Header.parse(udp("10.1.0.5", "10.2.0.9", 3000)).to_bytes() + random.Random(2).randbytes(2980)
    assert len(pair.through(noise)) == 3


def test_decompression_is_bounded() -> None:
    deflate = zlib.compressobj(wbits=-15)
    bomb = deflate.compress(bytes(50_000_000)) + deflate.flush()
    assert len(bomb) < 65535
    head = IpcompHeader(4, 500).to_bytes()
    with pytest.raises(PacketError, match=f"more than {MAX_OCTETS}"):
        decompress(head + bomb, 500)
    with pytest.raises(PacketError, match="ends early"):
        decompress(head + bomb[:5], 500)
    with pytest.raises(PacketError, match="CPI"):
        decompress(head + bomb, 501)
    with pytest.raises(PacketError, match="damaged"):
        decompress(head + b"\xff\xff\xff", 500)
    with pytest.raises(PacketError, match="twice"):
        decompress(IpcompHeader(108, 500).to_bytes() + bomb, 500)
    pair = Pair({"ipcomp_cpi": 500})
    transform = pair.a.sad.get(pair.a_out).transform  # type: ignore[union-attr]
    esp = transform.seal((head + bomb)[:60000], 108, 1, bytes)  # type: ignore[union-attr,call-arg,arg-type]
    assert pair.b.inbound([EspDatagrams(B, A, True, [esp])], 0) == []
    assert pair.counters(pair.b_in).other_errors == 1


def test_ipcomp_is_refused_where_it_was_not_agreed() -> None:
    pair = Pair()
    compressed = Compressor(500).compress(udp("10.1.0.5", "10.2.0.9", 1000), 4)
    assert compressed is not None
    transform = pair.a.sad.get(pair.a_out).transform  # type: ignore[union-attr]
    esp = transform.seal(compressed, 108, 1, bytes)  # type: ignore[union-attr,call-arg,arg-type]
    assert pair.b.inbound([EspDatagrams(B, A, True, [esp])], 0) == []
    assert pair.counters(pair.b_in).other_errors == 1


def test_compression_gives_up_on_what_does_not_compress() -> None:
    compressor = Compressor(500)
    noise = random.Random(3).randbytes(1000)
    assert [compressor.compress(noise, 17) for _ in range(8)] == [None] * 8
    assert compressor.compress(bytes(1000), 17) is None  # not even tried for a while
    tried = [compressor.compress(bytes(1000), 17) for _ in range(100)]
    assert None in tried
    assert tried[-1] is not None


@settings(deadline=None)
@given(payload=st.binary(max_size=3000), next_header=st.integers(0, 107), repeat=st.integers(1, 20))
def test_compression_is_undone(payload: bytes, next_header: int, repeat: int) -> None:
    payload = (payload * repeat)[:65535]
    compressed = Compressor(9).compress(payload, next_header)
    if compressed is not None:
        assert len(compressed) < len(payload)
        assert decompress(compressed, 9) == (payload, next_header)


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_any_octets_decompress_or_are_refused(data: bytes) -> None:
    try:
        payload, _ = decompress(b"\x04\x00\x00\x09" + data, 9)
    except PacketError:
        return
    assert len(payload) <= MAX_OCTETS


# --- traffic flow confidentiality ---


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_tfc_padding_hides_lengths(algorithm: Any) -> None:
    both = {"local_ts": ts(LAN_A, "fd01::/64"), "remote_ts": ts(LAN_B, "fd02::/64"), **keys(algorithm)}
    sent = [udp("10.1.0.5", "10.2.0.9", size) for size in (28, 100, 777)] + [udp("fd01::5", "fd02::9", 60)]
    lengths = {}
    for tfc in (0, 900, -1):
        pair = Pair({**both, "tfc": tfc})
        batches = pair.send(*sent)
        lengths[tfc] = {len(p) for b in batches for p in b.packets}
        assert [bytes(p) for p in pair.b.inbound(batches, 0)] == sent
        counters = pair.counters(pair.a_out)
        assert (counters.octets, counters.packets) == (sum(map(len, sent)), 4)
        assert pair.counters(pair.b_in).octets == counters.octets
        assert details(pair, pair.a_out).padded == details(pair, pair.b_in).padded == (4 if tfc else 0)
    assert len(lengths[0]) == 4
    assert len(lengths[900]) == 1
    (longest,) = lengths[-1]
    assert 1472 - 16 < longest <= 1472


def test_longer_than_the_padding_is_left_alone() -> None:
    pair = Pair({"tfc": 100})
    assert pair.through(udp("10.1.0.5", "10.2.0.9", 1200)) == [udp("10.1.0.5", "10.2.0.9", 1200)]
    assert details(pair, pair.a_out).padded == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
def test_dummy_packets(algorithm: Any, mode: Mode) -> None:
    pair = hosts(**keys(algorithm)) if mode is Mode.TRANSPORT else Pair(keys(algorithm))
    pair.a.send_dummies(pair.a_out, 3)
    pair.a.send_dummies(pair.a_out, 2, 100)
    batches = pair.send()
    sizes = [len(p) for b in batches for p in b.packets]
    assert len(sizes) == 5
    assert min(sizes[:3]) > 1300 > 250 > max(sizes[3:])
    assert pair.b.inbound(batches, 0) == []
    assert details(pair, pair.a_out).dummies == details(pair, pair.b_in).dummies == 5
    for sa in (pair.a_out, pair.b_in):
        counters = pair.counters(sa)
        assert counters == replace(type(counters)(), replays=counters.replays)
    assert pair.b.inbound(batches, 0) == []
    assert pair.counters(pair.b_in).replay_errors == 5
    with pytest.raises(DataPlaneError, match="no outbound ESP SA"):
        pair.a.send_dummies(pair.a_in, 1)
    with pytest.raises(DataPlaneError, match="1 to 1024"):
        pair.a.send_dummies(pair.a_out, 100_000)


def test_dummies_at_a_rate() -> None:
    pair = Pair({"dummy_rate": 4.0, "tfc": 500}, b_addr=B)
    pair.install(10.0, policies=False)  # rekeyed: the newest SA sends
    assert pair.a.next_timer() == 0.25
    for now in (0.25, 5.0, 9.9):
        pair.a.handle_timer(now)
    assert pair.send() == []
    pair.a.handle_timer(10.25)
    (batch,) = pair.send()
    assert int.from_bytes(batch.packets[0][:4], "big") == pair.a_out.spi
    assert [len(p) for p in batch.packets] == [len(pair.send(PACKET)[0].packets[0])]  # as padded ones are
    assert pair.b.inbound([batch], 10.3) == []
    moved = pair.a.update(pair.a_out, A, Address(ip_address("192.0.2.50"), 4500), True)
    pair.a.handle_timer(11.0)
    (batch,) = pair.send()
    assert (len(batch.packets), batch.local.host) == (3, ip_address("192.0.2.50"))
    pair.a.handle_timer(1e6)
    assert len(pair.send()[0].packets) == 64  # the clock has jumped
    at = pair.a.next_timer()
    assert at is not None
    assert at > 1e6
    counters = pair.a.query(moved)
    assert counters is not None
    assert counters.details is not None
    assert (counters.details.dummies, counters.packets) == (68, 1)
    for sa in list(pair.a.sad):
        pair.a.remove(sa.id)
    assert pair.a.next_timer() is None
    for wrong in ({"dummy_rate": 5000.0}, {"dummy_rate": -1.0}):
        with pytest.raises(DataPlaneError, match="dummy packets a second"):
            Pair(wrong)
    with pytest.raises(DataPlaneError, match="dummy packets a second"):
        Pair({**AH, "dummy_rate": 1.0}, a_addr=A4, b_addr=B4)


def test_ah_does_not_move_behind_a_nat() -> None:
    pair = Pair(AH, a_addr=A4, b_addr=B4)
    with pytest.raises(DataPlaneError, match="no AH in UDP"):
        pair.a.update(pair.a_out, A, B, True)


@pytest.mark.parametrize("protected", [{}, AH], ids=["ESP", "AH"])
def test_headers_that_leave_no_room_for_a_fragment_are_refused(protected: dict[str, Any]) -> None:
    """A host's own fragments are put together and cut again: these cannot be, and must not stop what else waits."""
    ends = Address(A6.host), Address(B6.host)
    fields = {"mode": Mode.TRANSPORT, "encapsulated": False, **protected}
    selectors = {"local_ts": ts(str(A6.host)), "remote_ts": ts(str(B6.host))}
    pair = Pair({**fields, **selectors}, a_addr=ends[0], b_addr=ends[1])
    pair.a.set_path_mtu(B6.host, 1280)
    small, body = (udp(str(A6.host), str(B6.host), size) for size in (100, 2000))
    options = b"".join(bytes((1, length)) + bytes(length) for length in (*[250] * 5, 32))
    header = bytes((17, (len(options) + 2) // 8 - 1)) + options
    assert len(header) % 8 == 0
    packet = bytearray(body[:40] + header + body[40:])
    packet[4:6], packet[6] = (len(packet) - 40).to_bytes(2, "big"), 0
    pieces = fragment_packet(bytes(packet), 1400, 5)
    assert pair.through(*pieces, small) == [small]
    assert pair.a.counters.malformed_out == 1


# --- extended sequence numbers (RFC 4303 App. A3) ---


@pytest.mark.parametrize("protocol", [SecurityProtocol.ESP, SecurityProtocol.AH])
@pytest.mark.parametrize("lost", [2**32 - 70, 2**32 + 5, 2 * 2**32 + 7, 4 * 2**32])
def test_resynchronisation_after_losing_billions(protocol: SecurityProtocol, lost: int) -> None:
    fields = {**AH} if protocol is SecurityProtocol.AH else {"encapsulated": False}
    pair = Pair({**fields, "esn": True}, a_addr=A4, b_addr=B4)
    assert pair.through(PACKET, PACKET) == [PACKET, PACKET]
    pair.a.sad.outbound(1)[0].sequence_number += lost
    passed = sum(len(pair.through(PACKET)) for _ in range(60))
    assert passed >= 60 - Resynchroniser.FAILURES
    window = pair.b.sad.get(pair.b_in).window  # type: ignore[union-attr]
    assert window.top == 62 + lost
    assert details(pair, pair.b_in).resynchronised == (1 if lost > 2**32 else 0)
    replayed = pair.send(PACKET)
    assert len(pair.b.inbound(replayed, 0)) == 1
    assert pair.b.inbound(replayed, 0) == []


def test_resynchronisation_within_one_batch() -> None:
    pair = Pair({"esn": True})
    assert pair.through(PACKET) == [PACKET]
    pair.a.sad.outbound(1)[0].sequence_number += 3 << 32
    assert pair.through(*[PACKET] * 50) == [PACKET] * 50
    assert pair.counters(pair.b_in).integrity_errors == 0


def test_a_packet_that_was_overtaken_when_numbers_were_found_again() -> None:
    """What is just before the first packet that verified was not seen: it is no replay."""
    pair = Pair({"esn": True})
    assert pair.through(PACKET) == [PACKET]
    pair.a.sad.outbound(1)[0].sequence_number += 3 << 32
    (batch,) = pair.send(*[PACKET] * 20)
    batch.packets[0], batch.packets[1] = batch.packets[1], batch.packets[0]
    assert len(pair.b.inbound([batch], 0)) == 20
    assert pair.counters(pair.b_in).replay_errors == 0
    assert pair.b.inbound([batch], 0) == []


def test_forgeries_between_packets_that_verify_cause_no_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only failures without a success between them look like a lost high half (RFC 4303 App. A3)."""
    tried: list[int] = []
    original = Resynchroniser.candidates

    def counted(self: Resynchroniser, *arguments: Any) -> list[int]:
        found = original(self, *arguments)
        tried.extend(found)
        return found

    monkeypatch.setattr(Resynchroniser, "candidates", counted)
    pair = Pair({"esn": True})
    for _ in range(100):
        assert pair.through(PACKET) == [PACKET]
        (batch,) = pair.send(PACKET)
        batch.packets[0] = bytes(batch.packets[0][:-1]) + bytes((batch.packets[0][-1] ^ 1,))
        assert pair.b.inbound([batch], 0) == []
    assert pair.counters(pair.b_in).integrity_errors == 100
    assert not tried


def test_more_lost_than_is_looked_for_stays_lost() -> None:
    pair = Pair({"esn": True})
    assert pair.through(PACKET) == [PACKET]
    pair.a.sad.outbound(1)[0].sequence_number += 9 << 32
    assert sum(len(pair.through(PACKET)) for _ in range(200)) == 0
    assert pair.counters(pair.b_in).integrity_errors == 200


def test_forgeries_cost_few_tries_and_move_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair({"esn": True})
    good = pair.send(PACKET)
    inbound = pair.b.sad.get(pair.b_in)
    assert inbound is not None
    tries = 0
    transform = type(inbound.transform)
    original = transform.open

    def counted(self: Any, packet: Any, number: int) -> Any:
        nonlocal tries
        tries += 1
        return original(self, packet, number)

    monkeypatch.setattr(transform, "open", counted)
    draw = random.Random(5)
    for _ in range(3000):
        forged = b"\0\0\x10\0" + draw.randbytes(100)
        assert pair.b.inbound([EspDatagrams(B, A, True, [forged])], 0) == []
    assert tries <= 4 * 12  # each vain try doubles the patience
    assert inbound.window.top == 0  # type: ignore[union-attr]
    assert pair.b.inbound(good, 0) == [PACKET]


@pytest.mark.parametrize("size", [1, 32, 64, 100, 1024, 65536])
def test_windows_of_every_size(size: int) -> None:
    pair = Pair({"replay_window": size})
    sealed = pair.send(*[PACKET] * (size + 10))[0].packets
    order = list(range(len(sealed)))
    random.Random(size).shuffle(order)
    pair.b.inbound([EspDatagrams(B, A, True, sealed[-1:])], 0)  # the last one first
    got = pair.b.inbound([EspDatagrams(B, A, True, [sealed[i] for i in order])], 0)
    assert len(got) == size - 1  # all within the window that were not seen
    assert pair.counters(pair.b_in).replay_errors == len(sealed) - size + 1


def test_dummies_stop_at_the_last_number() -> None:
    pair = Pair({"lifetime": Lifetime(packets=Limit(0, 0))})
    pair.a.sad.outbound(1)[0].sequence_number = 2**32 - 3
    pair.a.send_dummies(pair.a_out, 5)
    (batch,) = pair.send()
    assert len(batch.packets) == 2
    assert SaExpired(pair.a_out, True, "sequence") in pair.a.events()
    assert pair.send(PACKET) == []


# --- DSCP and ECN by configuration ---


@pytest.mark.parametrize(
    ("copy", "outer", "inner"),
    [("out", 0xB8, 0xB8), ("no", 0, 0xB8), ("yes", 0xB8, 0x28), ("in", 0, 0x28)],
)
def test_dscp_is_copied_as_configured(copy: str, outer: int, inner: int) -> None:
    both = {"local_ts": ts(LAN_A, "fd01::/64"), "remote_ts": ts(LAN_B, "fd02::/64")}
    for fields in ({}, AH):
        ends = (A4, B4) if fields else (A, B)
        pair = Pair({**both, **fields, "copy_dscp": copy}, a_addr=ends[0], b_addr=ends[1])
        for packet in (udp("10.1.0.5", "10.2.0.9", tos=0xBA), udp("fd01::5", "fd02::9", 80, tos=0xBA)):
            (batch,) = pair.send(packet)
            assert batch.ecn == outer | 2
            batch.ecn = 0x29  # on the way: another DSCP, and ECT(1)
            if batch.whole:
                whole = bytes(batch.packets[0])
                header = replace(IPv4Header.parse(whole), tos=0x29)
                batch.packets = [header.to_bytes() + whole[20:]]
            (got,) = pair.b.inbound([batch], 0)
            assert traffic_class(got) == inner | 1
            assert got[0] >> 4 == 6 or checksum(got[:20]) == 0


def test_without_ecn() -> None:
    """RFC 6040's compatibility mode: the outer header says nothing, and nothing comes in."""
    pair = Pair({"copy_ecn": False})
    (batch,) = pair.send(udp("10.1.0.5", "10.2.0.9", tos=0xBA))
    assert batch.ecn == 0xB8
    batch.ecn |= 3
    (got,) = pair.b.inbound([batch], 0)
    assert traffic_class(got) == 0xBA


def test_df_is_copied_or_clear() -> None:
    for copy, expected in ((True, [False, True]), (False, [False, False])):
        pair = Pair({"copy_df": copy})
        outer = [pair.send(udp("10.1.0.5", "10.2.0.9", df=df))[0].dont_fragment for df in (False, True)]
        assert outer == expected
    long = udp("10.1.0.5", "10.2.0.9", 1600, df=True)
    (batch,) = pair.send(long)  # DF inside, none outside: the outer packet is cut by the network
    assert len(batch.packets) == 1
    assert not batch.dont_fragment
    assert pair.b.inbound([batch], 0) == [long]


def test_fragments_are_made_after_encryption_where_asked() -> None:
    pair = Pair({"fragment": "after"})
    long = udp("10.1.0.5", "10.2.0.9", 3000)
    (batch,) = pair.send(long)
    assert len(batch.packets) == 1
    assert not batch.dont_fragment
    assert pair.b.inbound([batch], 0) == [long]
    pair.a.inject([udp("10.1.0.5", "10.2.0.9", 3000, df=True)])
    assert pair.a.read_device(0) == []
    assert pair.a.counters.too_big_out == 1


def test_beet_is_refused() -> None:
    assert [mode.value for mode in Mode] == ["TUNNEL", "TRANSPORT"]
    features = MemoryDataPlane().features
    assert (features.ah, features.transport, features.ipcomp, features.tfc) == (True,) * 4

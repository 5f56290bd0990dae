"""Policies, acquires, limits, events and names of the userspace core: between two memory data planes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from espkit import (
    A6,
    ALGORITHMS,
    LAN_A,
    LAN_B,
    A,
    B,
    Pair,
    arrived,
    describe,
    keys,
    ts,
    udp,
)

from ipsecstack.dataplane.acquire import (
    ACQUIRE_HOLDOFF,
    ACQUIRE_QUEUE,
    UNKNOWN_SPI_BURST,
    UNKNOWN_SPI_INTERVAL,
)
from ipsecstack.dataplane.base import (
    Acquired,
    DataPlaneError,
    EspDatagrams,
    PeerAddressChanged,
    SaExpired,
    UnknownSpiReceived,
)
from ipsecstack.dataplane.memory import EchoHosts, MemoryDataPlane
from ipsecstack.ipsec.esp import EspTransform
from ipsecstack.ipsec.sa import (
    Address,
    Direction,
    Lifetime,
    Limit,
    Mode,
    ReplayCounts,
    SaCounters,
    SecurityProtocol,
)
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.wire.ip import flow_key
from ipsecstack.wire.transforms import EncrId

PACKET = udp("10.1.0.5", "10.2.0.9")
PACKET6 = udp("fd01::5", "fd02::9", 80)


# --- policy ---


def test_outbound_decisions_are_counted() -> None:
    pair = Pair()
    pair.a.add_policy(SpdEntry("open", Action.BYPASS, ts(LAN_A), ts("10.2.0.200/32"), 0))
    pair.a.add_policy(SpdEntry("shut", Action.DISCARD, ts(LAN_A), ts("10.2.0.201/32"), 0))
    clear = udp("10.1.0.5", "10.2.0.200")
    packets = [
        clear,
        udp("10.1.0.5", "10.2.0.201"),
        udp("10.1.0.5", "10.7.0.1"),
        b"",
        b"\x45" * 10,
        PACKET[:-1],
    ]
    assert pair.a.outbound(packets, 0) == []
    counters = pair.a.counters
    assert (counters.bypassed_out, counters.discarded_out, counters.malformed_out) == (1, 2, 3)
    assert pair.a.take_clear_packets() == [clear]
    assert pair.counters(pair.a_out) == SaCounters()


def test_protect_without_sa_never_leaves_in_the_clear() -> None:
    pair = Pair()
    pair.a.remove(pair.a_out)
    assert pair.a.outbound([PACKET], 0) == []
    assert pair.a.counters.no_sa_out == 1
    assert pair.a.take_clear_packets() == []
    assert pair.a.events() == []


def test_inbound_in_the_clear() -> None:
    pair = Pair()
    pair.b.add_policy(SpdEntry("open", Action.BYPASS, ts(LAN_B), ts("10.1.0.200/32"), 0))
    clear = udp("10.1.0.200", "10.2.0.9")
    pair.b.receive_clear([clear, PACKET, b"junk"])
    assert list(pair.b.delivered) == [clear]
    counters = pair.b.counters
    assert (counters.bypassed_in, counters.discarded_in, counters.malformed_in) == (1, 1, 1)


def test_policy_changes_take_effect_on_cached_flows() -> None:
    pair = Pair()
    assert pair.send(PACKET)
    shut = SpdEntry("shut", Action.DISCARD, ts(LAN_A), ts(LAN_B), 0)
    pair.a.add_policy(shut)
    assert not pair.send(PACKET)
    pair.a.remove_policy(shut)
    assert pair.send(PACKET)


def test_policies_are_counted_by_use() -> None:
    plane = MemoryDataPlane()
    entry = SpdEntry("c/k", Action.PROTECT, ts(LAN_A), ts(LAN_B), 1, 1)
    plane.add_policy(entry)
    plane.add_policy(entry)
    plane.remove_policy(entry)
    assert list(plane.policies()) == [entry]
    plane.remove_policy(entry)
    plane.remove_policy(entry)
    assert list(plane.policies()) == []


# --- acquire ---


def test_trap_policy_asks_once_and_sends_what_waited() -> None:
    pair = Pair()
    pair.a.remove(pair.a_out)
    (entry,) = pair.a.policies()
    pair.a.remove_policy(entry)
    trap = replace(entry, trap=True)
    pair.a.add_policy(trap)
    waiting = [udp("10.1.0.5", "10.2.0.9", 60 + i) for i in range(ACQUIRE_QUEUE + 3)]
    assert pair.a.outbound(waiting, 5.0) == []
    assert pair.a.events() == [
        Acquired(
            trap, ip_address("10.1.0.5"), ip_address("10.2.0.9"), 17, (1000, 2000), pair.local, pair.remote
        )
    ]
    assert pair.a.counters.no_sa_out == 3
    pair.install(6.0)
    out = pair.a.read_device(6.0)
    assert [bytes(p) for p in pair.b.inbound(arrived(out), 6)] == waiting[:ACQUIRE_QUEUE]
    assert pair.a.events() == []


def test_unanswered_acquire_is_repeated_with_fresh_packets() -> None:
    plane = MemoryDataPlane()
    plane.add_policy(SpdEntry("c/k", Action.PROTECT, ts(LAN_A), ts(LAN_B), 1, 1, trap=True))
    plane.outbound([PACKET], 0.0)
    plane.outbound([PACKET], ACQUIRE_HOLDOFF - 1)
    assert len(plane.events()) == 1
    plane.outbound([PACKET], ACQUIRE_HOLDOFF + 1)
    assert len(plane.events()) == 1
    assert plane.counters.no_sa_out == 2  # the two that waited in vain


def test_removed_trap_policy_drops_what_waited() -> None:
    plane = MemoryDataPlane()
    entry = SpdEntry("c/k", Action.PROTECT, ts(LAN_A), ts(LAN_B), 1, 1, trap=True)
    plane.add_policy(entry)
    plane.outbound([PACKET], 0.0)
    plane.remove_policy(entry)
    plane.install(describe(Direction.OUT, 1000, A, B), 1.0)
    assert plane.read_device(1.0) == []
    assert plane.counters.no_sa_out == 1


# --- limits ---


def test_packet_limits_are_exact_inside_a_batch() -> None:
    pair = Pair({"lifetime": Lifetime(packets=Limit(3, 5))})
    passed = pair.through(*[PACKET] * 9)
    assert len(passed) == 5
    assert pair.a.events() == [
        SaExpired(pair.a_out, False, "packets"),
        SaExpired(pair.a_out, True, "packets"),
    ]
    assert pair.b.events() == [SaExpired(pair.b_in, False, "packets"), SaExpired(pair.b_in, True, "packets")]
    assert pair.counters(pair.a_out).packets == 5
    assert pair.a.counters.no_sa_out == 4
    assert pair.send(PACKET) == []
    assert pair.a.counters.no_sa_out == 5


def test_octet_limits_are_exact_inside_a_batch() -> None:
    pair = Pair({"lifetime": Lifetime(octets=Limit(150, 240))})
    assert len(pair.through(*[PACKET] * 9)) == 4
    assert [e.hard for e in pair.a.events() if isinstance(e, SaExpired)] == [False, True]


def test_expired_inbound_sa_counts_what_still_comes() -> None:
    pair = Pair({"lifetime": Lifetime(packets=Limit(0, 2))})
    first, second = pair.send(PACKET, PACKET), None
    pair.b.inbound(first, 0)
    sa = pair.a.sad.get(pair.a_out)
    assert sa is not None
    second = [EspDatagrams(B, A, True, [sa.transform.seal(PACKET, 4, 3, lambda n: bytes(n))])]
    assert pair.b.inbound(second, 0) == []
    assert pair.counters(pair.b_in) == SaCounters(
        octets=120, packets=2, other_errors=1, last_used=0, replays=ReplayCounts()
    )


def test_seconds_are_told_by_timer() -> None:
    pair = Pair({"lifetime": Lifetime(seconds=Limit(10, 20))})
    plane = pair.a
    assert plane.next_timer() == 10.0
    plane.handle_timer(9.9)
    assert plane.events() == []
    plane.handle_timer(10.0)
    assert plane.events() == [SaExpired(pair.a_out, False, "seconds"), SaExpired(pair.a_in, False, "seconds")]
    assert plane.next_timer() == 20.0
    plane.remove(pair.a_in)
    plane.handle_timer(30.0)
    assert plane.events() == [SaExpired(pair.a_out, True, "seconds")]
    assert plane.next_timer() is None
    assert pair.send(PACKET, now=30.0) == []


def test_sequence_numbers_never_repeat() -> None:
    pair = Pair()
    sa = pair.a.sad.outbound(1)[0]
    assert sa.soft_sequence_number is not None
    sa.sequence_number = sa.soft_sequence_number - 2
    assert len(pair.send(*[PACKET] * 3)[0].packets) == 3
    assert pair.a.events() == [SaExpired(pair.a_out, False, "sequence")]
    sa.sequence_number = 2**32 - 3
    (batch,) = pair.send(*[PACKET] * 5)
    assert [bytes(p[4:8]).hex() for p in batch.packets] == ["fffffffe", "ffffffff"]
    assert pair.a.events() == [SaExpired(pair.a_out, True, "sequence")]
    assert pair.a.counters.no_sa_out == 3


def test_esn_goes_on_past_2_to_the_32() -> None:
    pair = Pair({"esn": True})
    sa = pair.a.sad.outbound(1)[0]
    sa.sequence_number = 2**32 - 3
    inbound = pair.b.sad.get(pair.b_in)
    assert inbound is not None
    inbound.window.top = 2**32 - 3  # type: ignore[attr-defined]
    assert pair.through(*[PACKET] * 6) == [PACKET] * 6
    assert inbound.window.top == 2**32 + 3  # type: ignore[attr-defined]
    assert pair.a.events() == []


# --- events and bookkeeping ---


def test_unknown_spi_is_told_at_a_bounded_rate() -> None:
    plane = MemoryDataPlane()

    def hit(spi: int, now: float) -> None:
        plane.inbound([EspDatagrams(B, A, True, [spi.to_bytes(4, "big") + bytes(40)] * 3)], now)

    hit(0x5000, 0.0)
    hit(0x5000, 1.0)
    assert plane.events() == [UnknownSpiReceived(0x5000, B, A)]
    for spi in range(0x6000, 0x6100):
        hit(spi, 2.0)
    assert len(plane.events()) == UNKNOWN_SPI_BURST - 1
    hit(0x7000, 2.0 + UNKNOWN_SPI_INTERVAL)
    assert len(plane.events()) == 1
    assert plane.counters.unknown_spi == 3 * (2 + 256 + 1)


def test_packets_to_another_address_do_not_reach_the_sa() -> None:
    pair = Pair()
    (batch,) = pair.send(PACKET)
    elsewhere = replace(batch, local=Address(ip_address("192.0.2.77"), 4500))
    assert pair.b.inbound([elsewhere], 0) == []
    assert pair.b.counters.unknown_spi == 1
    anywhere = replace(batch, local=Address(ip_address("0.0.0.0"), 4500))
    assert pair.b.inbound([anywhere], 0) == [PACKET]


def test_peer_address_change_is_told_for_authentic_newest_packets_only() -> None:
    pair = Pair()
    moved = Address(ip_address("203.0.113.5"), 61000)
    first, second, third = pair.send(PACKET), pair.send(PACKET), pair.send(PACKET)
    bad = bytes(first[0].packets[0][:-1]) + b"\0"
    pair.b.inbound([replace(first[0], remote=moved, packets=[bad])], 0)
    assert pair.b.events() == []
    pair.b.inbound(second, 0)
    pair.b.inbound(
        [replace(first[0], remote=moved)], 0
    )  # authentic, but older: may be a late packet from before
    assert pair.b.events() == []
    pair.b.inbound([replace(third[0], remote=moved)], 0)
    assert pair.b.events() == [PeerAddressChanged(pair.b_in, moved)]
    pair.b.inbound([replace(pair.send(PACKET)[0], remote=moved)], 0)
    assert pair.b.events() == []
    pair.b.update(pair.b_in, moved, B, True)
    pair.b.inbound(pair.send(PACKET), 0)
    assert pair.b.events() == [PeerAddressChanged(pair.b_in, A)]


def test_update_moves_an_sa_with_its_counters_and_window() -> None:
    pair = Pair()
    pair.through(PACKET)
    elsewhere = Address(ip_address("198.51.100.4"), 4500)
    replay = pair.send(PACKET)
    pair.b.inbound(replay, 0)
    name = pair.b.update(pair.b_in, A, elsewhere, True)
    assert pair.b.query(pair.b_in) is None
    assert pair.b.inbound([replace(replay[0], local=elsewhere)], 0) == []
    assert pair.b.query(name) == SaCounters(
        octets=120, packets=2, replay_errors=1, last_used=0, replays=ReplayCounts(duplicates=1)
    )
    out = pair.a.update(pair.a_out, A, elsewhere, True)
    assert out.destination == elsewhere.host
    assert pair.send(PACKET)[0].local == elsewhere


def test_touched_tells_what_changed() -> None:
    pair = Pair()
    assert pair.a.touched() == {pair.a_out, pair.a_in}
    assert pair.a.touched() == set()
    pair.through(PACKET)
    assert pair.a.touched() == {pair.a_out}
    assert pair.b.touched() == {pair.b_out, pair.b_in}


def test_query_gives_a_copy() -> None:
    pair = Pair()
    before = pair.counters(pair.a_out)
    pair.through(PACKET)
    assert before == SaCounters()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocol": SecurityProtocol.AH}, "no AH in UDP"),
        ({"protocol": SecurityProtocol.AH, "encapsulated": False}, "no integrity|without an integrity"),
        ({"protocol": SecurityProtocol.IKE}, "IKE is no protocol"),
        ({"tfc": 1000, "mode": Mode.TRANSPORT}, "TFC padding"),
        ({"copy_dscp": "never"}, "copy_dscp"),
        ({"source": A6}, "different IP versions"),
        ({"encr": EncrId.CAMELLIA_CBC}, "CAMELLIA_CBC"),
        ({"key_encr": b"1"}, "20 octets"),
        ({"destination": replace(B, port=0)}, "ports"),
        ({"spi": 3}, "reserved"),
    ],
)
def test_what_cannot_be_installed(fields: dict[str, object], message: str) -> None:
    plane = MemoryDataPlane()
    with pytest.raises(DataPlaneError, match=message):
        plane.install(replace(describe(Direction.OUT, 1000, A, B), **fields), 0)  # type: ignore[arg-type]
    assert len(plane.sad) == 0
    assert plane.touched() == set()


def test_close_forgets_everything() -> None:
    pair = Pair({"lifetime": Lifetime(seconds=Limit(1, 2))})
    pair.a.device_fileno()
    pair.a.close()
    assert pair.a.next_timer() is None
    assert pair.a.query(pair.a_out) is None
    assert pair.a.outbound([PACKET], 0) == []


# --- the memory device ---


def test_memory_device_is_readable_while_packets_wait() -> None:
    import select

    pair = Pair()
    fd = pair.a.device_fileno()
    assert fd is not None
    assert select.select([fd], [], [], 0)[0] == []
    pair.a.inject([PACKET] * 5)
    assert select.select([fd], [], [], 0)[0] == [fd]
    assert len(pair.a.read_device(0, limit=3)[0].packets) == 3
    assert select.select([fd], [], [], 0)[0] == [fd]
    assert len(pair.a.read_device(0, limit=3)[0].packets) == 2
    assert select.select([fd], [], [], 0)[0] == []
    pair.a.close()


def test_echo_hosts_ping_through_the_tunnel() -> None:
    both = {"local_ts": ts("fd01::/64", LAN_A), "remote_ts": ts("fd02::/64", LAN_B)}
    hosts = EchoHosts(interval=0.5)
    pair = Pair(both, a=MemoryDataPlane(source=hosts), b=MemoryDataPlane(source=EchoHosts(0)))
    for tick in range(10):
        now = tick * 0.25
        pair.a.handle_timer(now)
        pair.b.receive(arrived(pair.a.read_device(now)), now)
        pair.a.receive(arrived(pair.b.read_device(now)), now)
    assert (hosts.requests_sent, hosts.replies_received) == (5, 5)
    assert pair.counters(pair.a_in).packets == 5


def test_transform_of_a_description_does_not_change() -> None:
    """The same key and number give the same packet: nothing hidden goes into an ESP packet."""
    for algorithm in ALGORITHMS:
        description = describe(Direction.OUT, 1000, A, B, **keys(algorithm))
        draws = [EspTransform(description).seal(PACKET, 4, 7, lambda n: b"\x5a" * n) for _ in range(2)]
        assert draws[0] == draws[1]


def test_flow_key_of_the_test_packet() -> None:
    assert flow_key(PACKET).hex() == "11" + "0a010005" + "0a020009" + "03e8" + "07d0"

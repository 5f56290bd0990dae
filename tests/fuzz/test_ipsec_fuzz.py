"""Mutated packets into the decoders and into live data planes: nothing escapes, nothing moves, all is counted."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from espkit import ALGORITHMS, LAN_A, LAN_B, A, Algorithm, B, Pair, keys, ts, udp

from ipsecstack.dataplane.base import EspDatagrams, UnknownSpiReceived
from ipsecstack.ipsec.sad import InboundSa
from ipsecstack.wire.esp import EspFormatError, EspHeader, payload_length
from ipsecstack.wire.icmp import echo_reply, echo_request, too_big
from ipsecstack.wire.ip import (
    IPv4Header,
    IPv6Header,
    PacketError,
    flow_key,
    fragment_ipv4,
    ipv6_upper_layer,
    packet_length,
)

COUNT = 10_000
BOTH = {"local_ts": ts(LAN_A, "fd01::/64"), "remote_ts": ts(LAN_B, "fd02::/64")}


def seeds() -> list[bytes]:
    """Packets of every shape that the decoders tell apart."""
    out = [
        udp("10.1.0.5", "10.2.0.9", 60),
        udp("10.1.0.5", "10.2.0.9", 1400, df=True),
        udp("fd01::5", "fd02::9", 90),
        udp("fd01::5", "fd02::9", 1400),
        *fragment_ipv4(udp("10.1.0.5", "10.2.0.9", 300), 200),
    ]
    first = IPv4Header.parse(out[0])
    out.append(echo_request(first.source, first.destination, 1, 1, b"x" * 20))
    out.append(
        IPv4Header(first.source, first.destination, 17, 40, options=b"\x83\x03\x04\x00").to_bytes()
        + bytes(16)
    )
    inner6 = IPv6Header.parse(out[2])
    chain = b"\x2b\x00" + bytes(6) + b"\x2c\x00" + bytes(6) + b"\x11\x00\x00\x01" + bytes(4) + bytes(8)
    out.append(IPv6Header(inner6.source, inner6.destination, 0, len(chain)).to_bytes() + chain)
    out.append(echo_request(inner6.source, inner6.destination, 1, 1))
    return out


def mutate(packet: bytes, rng: random.Random, keep: int = 0) -> bytes:
    """The packet with one to four changes behind its first ``keep`` octets."""
    out = bytearray(packet)
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(6)
        where = rng.randrange(keep, len(out)) if len(out) > keep else keep
        if kind == 0 and len(out) > where:
            out[where] ^= 1 << rng.randrange(8)
        elif kind == 1 and len(out) > where:
            out[where] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del out[max(keep, where) :]
        elif kind == 3:
            out[where:where] = rng.randbytes(rng.randint(1, 40))
        elif kind == 4:
            del out[where : where + rng.randint(1, 8)]
        else:
            head = rng.randrange(keep, keep + 24)
            out[head : head + 2] = rng.randbytes(2)
    return bytes(out)


@pytest.mark.parametrize(
    ("decoder", "errors"),
    [
        (flow_key, PacketError),
        (packet_length, PacketError),
        (IPv4Header.parse, PacketError),
        (IPv6Header.parse, PacketError),
        (lambda p: len(p) >= 40 and ipv6_upper_layer(p), PacketError),
        (lambda p: fragment_ipv4(p, 68), PacketError),
        (EspHeader.parse, EspFormatError),
        (payload_length, EspFormatError),
        (lambda p: p and too_big(p, 1000), ()),
        (echo_reply, ()),
    ],
    ids=["flow_key", "length", "ipv4", "ipv6", "chain", "fragment", "esp", "padding", "too_big", "echo"],
)
def test_decoders_raise_only_their_own_error(decoder: Callable[[bytes], Any], errors: Any) -> None:
    rng = random.Random(4303)
    shapes = seeds()
    refused = 0
    for _ in range(COUNT):
        packet = mutate(rng.choice(shapes), rng)
        try:
            decoder(packet)
        except errors:
            refused += 1
    assert refused < COUNT  # the fuzzer gets past the first check now and then


def frozen(plane: Any) -> Any:
    """Everything of the SAs that a packet may change, but the error counts."""
    out = []
    for sa in plane.sad:
        counts = asdict(sa.counters)
        passed = {name: counts[name] for name in ("octets", "packets", "last_used")}
        window = (sa.window.top, sa.window.bitmap, frozenset(sa.flows)) if isinstance(sa, InboundSa) else None
        sent = getattr(sa, "sequence_number", None)
        out.append((sa.id, sa.description, passed, window, sent, sa.lifetime.expired))
    return out


def errors_of(plane: Any) -> int:
    """All packets that were counted as refused, wherever."""
    counters = plane.counters
    total = counters.malformed_in + counters.unknown_spi
    for sa in plane.sad:
        c = sa.counters
        total += c.replay_errors + c.integrity_errors + c.padding_errors + c.policy_errors + c.other_errors
    return total


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_live_pair_under_forged_esp(algorithm: Algorithm) -> None:
    """Mutants of real ESP packets, replays among them, in batches with good traffic in between."""
    rng = random.Random(4303)
    pair = Pair({**BOTH, **keys(algorithm), "esn": True, "replay_window": 64})
    inner = [udp("10.1.0.5", "10.2.0.9", 60), udp("fd01::5", "fd02::9", 90)]
    captured: list[bytes] = []
    delivered = sent = fed = 0
    rounds = COUNT // 50
    for number in range(rounds):
        now = float(number)
        good = pair.send(*inner, now=now)
        captured = (captured + [bytes(p) for b in good for p in b.packets])[-40:]
        delivered += len(pair.b.inbound(good, now))
        sent += 2
        before, counted = copy.deepcopy(frozen(pair.b)), errors_of(pair.b)
        mutants: list[bytes | memoryview] = []
        while len(mutants) < 50:
            original = rng.choice(captured)
            mutant = mutate(original, rng, keep=4 if rng.random() < 0.9 else 0)
            # A mutant that came out as a packet that was sent is a replay: refused just the same.
            mutants.append(mutant)
        assert pair.b.inbound([EspDatagrams(B, A, True, mutants)], now) == []
        fed += len(mutants)
        assert frozen(pair.b) == before
        assert errors_of(pair.b) - counted == len(mutants)
        assert len(pair.b._spi_hints) <= 16
    assert delivered == sent == 2 * rounds
    assert fed == COUNT
    assert all(isinstance(event, UnknownSpiReceived) for event in pair.b.events())
    # Every kind of refusal was reached.
    sa = pair.b.query(pair.b_in)
    assert sa is not None
    assert sa.packets == sent
    assert sa.replays is not None
    assert sa.replays.dropped == sa.replay_errors
    for count in (
        sa.integrity_errors,
        sa.replay_errors,
        pair.b.counters.unknown_spi,
        pair.b.counters.malformed_in,
    ):
        assert count > 0


def test_live_pair_under_mutated_inner_packets() -> None:
    """What a broken host behind the peer may send: authentic ESP with anything inside."""
    rng = random.Random(4301)
    pair = Pair({**BOTH, "replay_window": 64})
    sealer = pair.a.sad.get(pair.a_out)
    assert sealer is not None
    shapes = seeds()
    passed = dummies = 0
    for number in range(1, COUNT + 1):
        inner = mutate(rng.choice(shapes), rng)
        next_header = rng.choice((4, 4, 41, 59, rng.randrange(256)))
        dummies += next_header == 59
        esp = sealer.transform.seal(inner, next_header, number, rng.randbytes)
        got = pair.b.inbound([EspDatagrams(B, A, True, [esp], ecn=rng.randrange(4))], 0.0)
        for packet in got:
            flow_key(packet)
        passed += len(got)
    sa = pair.b.query(pair.b_in)
    assert sa is not None
    assert sa.packets == passed > 100
    assert passed + dummies + sa.policy_errors + sa.other_errors == COUNT
    assert sa.policy_errors > 100
    assert sa.other_errors > 100
    assert (sa.replay_errors, sa.integrity_errors, sa.padding_errors) == (0, 0, 0)


def test_live_pair_under_mutated_packets_of_hosts() -> None:
    """What comes out of the device: each packet is sealed, or refused and counted once."""
    rng = random.Random(2401)
    pair = Pair(dict(BOTH))
    shapes = seeds()
    sealed = 0
    for _ in range(COUNT // 10):
        packets = [mutate(rng.choice(shapes), rng) for _ in range(10)]
        sealed += sum(len(batch.packets) for batch in pair.a.outbound(packets, 0.0))
    counters = pair.a.counters
    assert sealed == pair.a.query(pair.a_out).packets  # type: ignore[union-attr]
    refused = counters.malformed_out + counters.discarded_out + counters.too_big_out + counters.no_sa_out
    assert sealed + refused == COUNT
    assert min(sealed, counters.malformed_out, counters.discarded_out) > 100
    assert counters.no_sa_out == 0

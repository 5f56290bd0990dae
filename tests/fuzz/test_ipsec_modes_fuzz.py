"""Mutated packets with their outer headers into AH and transport mode, and into what parses them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from espkit import A6, B6, LAN_A, LAN_B, A, B, Pair, ts, udp

from ipsecstack.crypto.errors import IntegrityError
from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.dataplane.path import parse_too_big
from ipsecstack.ipsec.ah import AhTransform
from ipsecstack.ipsec.fragments import TIMEOUT, Reassembler
from ipsecstack.ipsec.ipcomp import decompress
from ipsecstack.ipsec.sa import Address, Mode, SecurityProtocol
from ipsecstack.ipsec.sad import InboundSa
from ipsecstack.ipsec.transport import put_together, repair_checksum, take_apart
from ipsecstack.wire.ah import AuthenticationHeader, covered, find, insertion_point
from ipsecstack.wire.fragment import fragment_packet
from ipsecstack.wire.icmp import too_big
from ipsecstack.wire.ip import IPv4Header, IPv6Header, PacketError, flow_key
from ipsecstack.wire.transforms import EncrId, IntegId

COUNT = 6000
A4, B4 = Address(A.host), Address(B.host)
A6N, B6N = Address(A6.host), Address(B6.host)
AH: dict[str, Any] = {
    "protocol": SecurityProtocol.AH,
    "encapsulated": False,
    "encr": EncrId.NULL,
    "encr_key_bits": 0,
    "key_encr": b"",
    "integ": IntegId.HMAC_SHA2_256_128,
    "key_integ": bytes(range(32)),
}
OPTIONS = b"\x94\x04\0\0\x07\x07\x04\0\0\0\0\x01"
HOP_BY_HOP = b"\x11\x01\x05\x02\0\0\x3e\x08changing"


def options4(packet: bytes) -> bytes:
    return put_together(bytes((0x48,)) + packet[1:20] + OPTIONS, 9, packet[9], packet[20:])


def options6(packet: bytes) -> bytes:
    return put_together(packet[:6] + b"\0" + packet[7:40] + HOP_BY_HOP, 40, packet[6], packet[40:])


def mutate(packet: bytes, rng: random.Random) -> bytes:
    out = bytearray(packet)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not out:
            break
        # Mostly in the headers: that is where the parsers are.
        where = rng.randrange(len(out)) if rng.random() < 0.3 else rng.randrange(min(len(out), 90))
        kind = rng.randrange(5)
        if kind == 0:
            out[where] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[where] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 43, 44, 51, 60, 135, rng.randrange(256)))
        elif kind == 2:
            del out[where:]
        elif kind == 3:
            out[where:where] = rng.randbytes(rng.randint(1, 40))
        else:
            del out[where : where + rng.randint(1, 8)]
    if out and rng.random() < 0.6:  # lengths and checksum that fit, so that more than the length is looked at
        try:
            return (
                put_together(bytes(out[:20]), 9, out[9], bytes(out[20:])) if out[0] >> 4 == 4 else bytes(out)
            )
        except (PacketError, IndexError):
            pass
    return bytes(out)


def seeds() -> list[bytes]:
    four, six = udp("192.0.2.1", "192.0.2.2", 100), udp("2001:db8::1", "2001:db8::2", 120)
    shapes = [
        four,
        options4(four),
        six,
        options6(six),
        *fragment_packet(six, 80, 7),
        *fragment_packet(four, 68, 7),
    ]
    for ends in ((A4, B4), (A6N, B6N)):
        for packet in (four, options4(four)) if ends[0] is A4 else (six, options6(six)):
            pair = pair_of(ends, SecurityProtocol.AH, Mode.TRANSPORT)
            shapes += [bytes(p) for b in pair.send(packet) for p in b.packets]
    return shapes + [e for p in shapes if (e := too_big(p, 1300))]


def pair_of(ends: tuple[Address, Address], protocol: SecurityProtocol, mode: Mode) -> Pair:
    fields: dict[str, Any] = {
        "encapsulated": False,
        "mode": mode,
        **(AH if protocol is SecurityProtocol.AH else {}),
    }
    if mode is Mode.TRANSPORT:
        fields |= {"local_ts": ts(str(ends[0].host)), "remote_ts": ts(str(ends[1].host))}
    else:
        fields |= {"local_ts": ts(LAN_A, "fd01::/64"), "remote_ts": ts(LAN_B, "fd02::/64")}
    return Pair(fields, a_addr=ends[0], b_addr=ends[1])


def walk(packet: bytes) -> Any:
    flow_key(packet)
    at = insertion_point(packet)
    covered(packet, at[0], 16, leaving=True)
    return take_apart(packet)


def reassemble(packet: bytes) -> Any:
    return Reassembler().add(flow_key(packet), packet, 0.0)


@pytest.mark.parametrize(
    "decoder",
    [
        lambda p: AuthenticationHeader.parse(p),
        lambda p: AuthenticationHeader.parse(p).to_bytes(),
        lambda p: flow_key(p) and find(p),
        lambda p: flow_key(p) and covered(p, 20 if p[0] < 0x60 else 40, 12, leaving=False),
        walk,
        reassemble,
        parse_too_big,
        lambda p: flow_key(p) and repair_checksum(p, A.host, B.host),
        lambda p: decompress(p, 500),
        lambda p: fragment_packet(p, 68, 1) if p else None,
    ],
    ids=["ah", "again", "find", "covered", "walk", "reassemble", "icmp", "nat", "ipcomp", "fragment"],
)
def test_decoders_raise_only_their_own_error(decoder: Callable[[bytes], Any]) -> None:
    rng = random.Random(4302)
    shapes = seeds()
    for _ in range(COUNT):
        try:
            decoder(mutate(rng.choice(shapes), rng))
        except PacketError:
            continue
        except IndexError:
            # What needs ``flow_key`` before it says so; a caller that skips it is a mistake of ours, not of the peer.
            assert decoder.__name__ == "<lambda>"
            raise


def test_transforms_refuse_whatever_was_changed() -> None:
    rng = random.Random(4302)
    for ends in ((A4, B4), (A6N, B6N)):
        pair = pair_of(ends, SecurityProtocol.AH, Mode.TRANSPORT)
        inner = udp(str(ends[0].host), str(ends[1].host), 100)
        (sent,) = map(bytes, pair.send(options4(inner) if ends[0] is A4 else options6(inner))[0].packets)
        transform = pair.b.sad.get(pair.b_in).transform  # type: ignore[union-attr]
        assert isinstance(transform, AhTransform)
        whole = transform.open(sent, 1)[0]
        passed = 0
        for _ in range(COUNT):
            changed = mutate(sent, rng)
            try:
                flow_key(changed)
                opened = transform.open(changed, 1)[0]
            except (PacketError, IntegrityError):
                continue
            passed += 1
            assert opened[-60:] == whole[-60:]  # only what may change on the way was changed
        assert passed < COUNT // 2


def errors_of(plane: Any) -> int:
    total = plane.counters.malformed_in + plane.counters.unknown_spi + plane.counters.fragments_dropped
    for sa in plane.sad:
        c = sa.counters
        total += c.replay_errors + c.integrity_errors + c.padding_errors + c.policy_errors + c.other_errors
    return int(total)


def frozen(plane: Any) -> Any:
    out = []
    for sa in plane.sad:
        counts = asdict(sa.counters)
        passed = {name: counts[name] for name in ("octets", "packets", "last_used", "details")}
        window = (sa.window.top, sa.window.bitmap, frozenset(sa.flows)) if isinstance(sa, InboundSa) else None
        out.append((sa.id, sa.description, passed, window, sa.lifetime.expired))
    return out


@pytest.mark.parametrize("protocol", [SecurityProtocol.AH, SecurityProtocol.ESP])
@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
@pytest.mark.parametrize("version", [4, 6])
def test_live_pair_under_forged_packets(protocol: SecurityProtocol, mode: Mode, version: int) -> None:
    """Whole packets, mutated: none passes, none changes an SA, each is counted once."""
    rng = random.Random(4302)
    ends = (A4, B4) if version == 4 else (A6N, B6N)
    pair = pair_of(ends, protocol, mode)
    if mode is Mode.TRANSPORT:
        packet = udp(str(ends[0].host), str(ends[1].host), 100)
        inner = options4(packet) if version == 4 else options6(packet)
    else:
        inner = udp("10.1.0.5", "10.2.0.9", 100)
    number = 50 if protocol is SecurityProtocol.ESP else 51
    captured: list[bytes] = []
    fed = delivered = 0
    for step in range(COUNT // 60):
        now = float(step) * 100
        good = pair.send(inner, now=now)
        for batch in good:
            if not batch.whole:  # as a raw socket with the header would show it
                head = (
                    IPv4Header(A.host, B.host, 50, 20 + len(batch.packets[0]))  # type: ignore[arg-type]
                    if version == 4
                    else IPv6Header(A6.host, B6.host, 50, len(batch.packets[0]))  # type: ignore[arg-type]
                )
                batch.packets = [head.to_bytes() + p for p in batch.packets]
                batch.whole = True
        captured = (captured + [bytes(p) for b in good for p in b.packets])[-20:]
        delivered += len(pair.b.inbound(good, now))
        before = copy.deepcopy(frozen(pair.b))
        mutants: list[bytes | memoryview] = [mutate(rng.choice(captured), rng) for _ in range(60)]
        batch = EspDatagrams(ends[1], ends[0], False, mutants, protocol=number, whole=True)
        assert pair.b.inbound([batch], now + 1) == []
        fed += 60
        assert frozen(pair.b) == before
    assert delivered == COUNT // 60
    # What waits for more fragments is given up in time.
    late = fragment_packet(udp("10.1.0.5", "10.2.0.9", 100), 68, 1)[0]
    pair.b.inbound([EspDatagrams(B4, A4, False, [late], protocol=number, whole=True)], now + 2 * TIMEOUT)
    assert errors_of(pair.b) + pair.b.counters.reassembled * 2 >= fed
    assert errors_of(pair.b) <= fed
    assert len(pair.b._arriving) == 1

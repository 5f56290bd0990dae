"""Ten thousand mutated packets of a live session, sent to a live daemon under the peer's own address and ports."""

from __future__ import annotations

import random
import socket
import struct
import time

import pytest
from lab import traffic
from lab.capture import Capture
from lab.netns import Namespace
from lab.topology import WAN4, Pair

COUNT = 10_000
BATCH = 100
ETHERNET, IPV4, UDP = 14, 20, 8


def datagrams_to(frames: list[tuple[float, bytes]], address: str) -> list[tuple[int, int, bytes]]:
    """(source port, destination port, payload) of the UDP datagrams to `address` in captured frames."""
    found = []
    packed = socket.inet_aton(address)
    for _, frame in frames:
        if (
            frame[12:14] != b"\x08\x00"
            or frame[ETHERNET + 9] != 17
            or frame[ETHERNET + 16 : ETHERNET + 20] != packed
        ):
            continue
        start = ETHERNET + (frame[ETHERNET] & 15) * 4
        source, destination, length = struct.unpack_from(">HHH", frame, start)
        found.append((source, destination, frame[start + UDP : start + length]))
    return found


def mutate(chance: random.Random, payload: bytes) -> bytes:
    """One of the usual accidents: flipped bits, cut, stretched, a run overwritten, lengths replaced by extremes."""
    data = bytearray(payload)
    for _ in range(chance.randint(1, 3)):
        kind = chance.randrange(6)
        where = chance.randrange(len(data)) if data else 0
        if kind == 0 and data:
            data[where] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[where:]
        elif kind == 2:
            data += chance.randbytes(chance.randrange(1, 200))
        elif kind == 3:
            run = chance.randbytes(chance.randrange(1, 20))
            data[where : where + len(run)] = run
        elif kind == 4 and len(data) > 2:
            struct.pack_into(
                ">H", data, min(where, len(data) - 2), chance.choice((0, 1, 3, 4, 0x7FFF, 0xFFFF))
            )
        elif kind == 5 and data:
            data[where:where] = data[chance.randrange(len(data)) :][:40]
    return bytes(data)


def send_as(namespace: Namespace, target: str, packets: list[tuple[int, int, bytes]]) -> None:
    """Send UDP datagrams from ports that another socket holds: UDP headers by hand, checksum left out."""
    with namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        for number, (source, destination, payload) in enumerate(packets):
            payload = payload[:1400]
            raw.sendto(
                struct.pack(">HHHH", source, destination, UDP + len(payload), 0) + payload, (target, 0)
            )
            if number % BATCH == BATCH - 1:
                time.sleep(0.01)


def session(pair: Pair, us: int, capture: Capture) -> list[tuple[int, int, bytes]]:
    """Exchange everything there is; the datagrams that the peer sent us."""
    left, right = pair.namespaces
    pair.a.initiate("net")
    pair.b.wait_child("net")
    old = pair.a.child().spis
    pair.gateways[1 - us].swanctl("--rekey", "--child", "net")
    pair.a.wait_other_child(old)
    traffic.send_udp(left, right, *pair.ends(), [100, 1000])
    traffic.send_udp(right, left, *pair.ends()[::-1], [100, 1000])
    capture.stop()
    return datagrams_to(capture.frames, WAN4[us])


@pytest.mark.parametrize(
    "kinds", [("ours", "strongswan"), ("strongswan", "ours")], ids=["initiator", "responder"]
)
def test_ten_thousand_mutated_packets(make_pair, kinds: tuple[str, str]) -> None:
    us = kinds.index("ours")
    pair = make_pair(kinds)
    capture = Capture(pair.namespaces[us], pair.folder / "wan.pcap")
    corpus = session(pair, us, capture)
    assert len(corpus) >= 6
    gateway = pair.gateways[us]
    ike, child = gateway.ike_sa().spis, gateway.child()
    with gateway.vici() as vici:
        before = vici.stats()
    chance = random.Random(20261123)
    packets = []
    for _ in range(COUNT):
        source, destination, payload = chance.choice(corpus)
        packets.append((source, destination, mutate(chance, payload)))
    send_as(pair.namespaces[1 - us], WAN4[us], packets)
    assert gateway.answers()
    time.sleep(0.5)
    # Nothing that was established has changed, what was wrong was counted, and traffic goes on.
    now = gateway.child()
    assert [sa.spis for sa in gateway.established()] == [ike]
    assert now.spis == child.spis
    assert (now.octets, now.packets) == (child.octets, child.packets)
    assert int(now.raw["integrity-errors-in"]) > int(child.raw["integrity-errors-in"])
    with gateway.vici() as vici:
        after = vici.stats()
    for section, key in (("ipsec", "unknown-spi"), ("ike", "invalid-messages")):
        assert int(after[section][key]) > int(before[section][key]), key
    assert len(gateway.ike_sas()) < 60, "half-open IKE_SAs pile up"
    assert traffic.ping(pair.namespaces[0], *pair.ends()).lost == 0
    gateway.swanctl("--rekey", "--child", "net")
    gateway.wait_other_child(child.spis)
    assert traffic.ping(pair.namespaces[0], *pair.ends()).lost == 0
    assert "Traceback" not in gateway.log()

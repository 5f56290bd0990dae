"""Our AH, and ESP in transport mode, octet by octet against scapy's; tshark finds nothing malformed in them."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from espkit import A6, ALGORITHMS, B6, LAN_A, LAN_B, A, Algorithm, B, Pair, keys, pcap, ts, udp
from scapy.layers.inet import IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    RouterAlert,
)
from scapy.layers.ipsec import AH, ESP, SecurityAssociation

from ipsecstack.crypto.errors import IntegrityError
from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.ipsec.ah import AhTransform
from ipsecstack.ipsec.sa import Address, Mode, SecurityProtocol
from ipsecstack.wire.ah import find
from ipsecstack.wire.ip import IPv4Header, IPv6Header, PacketError
from ipsecstack.wire.transforms import EncrId, IntegId

SCAPY_INTEG = {
    IntegId.HMAC_SHA1_96: ("HMAC-SHA1-96", 20),
    IntegId.HMAC_MD5_96: ("HMAC-MD5-96", 16),
    IntegId.HMAC_SHA2_256_128: ("SHA2-256-128", 32),
    IntegId.HMAC_SHA2_384_192: ("SHA2-384-192", 48),
    IntegId.HMAC_SHA2_512_256: ("SHA2-512-256", 64),
    IntegId.AES_CMAC_96: ("AES-CMAC-96", 16),
}
A4, B4 = Address(A.host), Address(B.host)
A6N, B6N = Address(A6.host), Address(B6.host)
HOST_A, HOST_B = str(A.host), str(B.host)
INNER = [udp("10.1.0.5", "10.2.0.9", size, tos=0xB8) for size in (28, 31, 100, 1300)]
INNER6 = udp("fd01::5", "fd02::9", 90)
BOTH = {"local_ts": ts(LAN_A, "fd01::/64"), "remote_ts": ts(LAN_B, "fd02::/64")}


def ah_keys(integ: IntegId) -> dict[str, Any]:
    return {
        "protocol": SecurityProtocol.AH,
        "encapsulated": False,
        "encr": EncrId.NULL,
        "encr_key_bits": 0,
        "key_encr": b"",
        "integ": integ,
        "key_integ": random.Random(9).randbytes(SCAPY_INTEG[integ][1]),
    }


def ah_pair(integ: IntegId, ends: tuple[Address, Address], **fields: Any) -> Pair:
    given = {**BOTH, **ah_keys(integ), **fields}
    if fields.get("mode") is Mode.TRANSPORT:
        given["local_ts"], given["remote_ts"] = ts(str(ends[0].host)), ts(str(ends[1].host))
    return Pair(given, a_addr=ends[0], b_addr=ends[1])


def scapy_ah(integ: IntegId, tunnel: Any, esn: int | None) -> Any:
    return SecurityAssociation(
        AH,
        spi=0x1000,
        auth_algo=SCAPY_INTEG[integ][0],
        auth_key=ah_keys(integ)["key_integ"],
        tunnel_header=tunnel,
        esn_en=esn is not None,
        esn=esn or 0,
    )


def whole(ends: tuple[Address, Address], packet: bytes) -> EspDatagrams:
    """What b receives from a: a packet with its outer header."""
    return EspDatagrams(ends[1], ends[0], False, [packet], protocol=51, whole=True)


@pytest.mark.parametrize("integ", SCAPY_INTEG, ids=lambda integ: integ.name)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("esn", [None, 0, 7])
def test_ah_tunnel_mode_is_scapys(integ: IntegId, version: int, esn: int | None) -> None:
    ends = (A4, B4) if version == 4 else (A6N, B6N)
    pair = ah_pair(integ, ends, esn=esn is not None)
    first = ((esn or 0) << 32) + 1
    pair.a.sad.outbound(1)[0].sequence_number = first - 1
    pair.b.sad.get(pair.b_in).window.top = first - 1  # type: ignore[union-attr]
    batches = pair.send(*INNER, INNER6)
    assert {(b.protocol, b.whole) for b in batches} == {(51, True)}
    packets = [bytes(p) for b in batches for p in b.packets]
    got = [bytes(p) for p in pair.b.inbound(batches, 0)]
    assert got == [*INNER, INNER6]
    for number, (packet, inner) in enumerate(zip(packets, [*INNER, INNER6], strict=True)):
        parsed = IP(inner) if inner[0] < 0x60 else IPv6(inner)
        if version == 4:
            sent = IP(packet)
            tunnel = IP(src=HOST_A, dst=HOST_B, id=sent.id, tos=sent.tos, ttl=64, flags=sent.flags)
        else:
            sent = IPv6(packet)
            tunnel = IPv6(src=str(A6.host), dst=str(B6.host), tc=sent.tc, hlim=64)
        sa = scapy_ah(integ, tunnel, esn)
        assert packet == bytes(sa.encrypt(parsed, seq_num=number + 1, esn_en=esn is not None, esn=esn or 0))
        opened = sa.decrypt(sent, verify=True, esn_en=esn is not None, esn=esn or 0)
        assert bytes(opened) == inner


def transport_packets(version: int) -> list[Any]:
    """Host to host, with everything that AH must treat in a way of its own."""
    if version == 4:
        ends = {"src": HOST_A, "dst": HOST_B, "id": 77, "tos": 0xB9, "ttl": 33}
        options = [
            IPOption(b"\x94\x04\x00\x00"),  # router alert: immutable
            IPOption(b"\x07\x07\x08" + bytes(4) + b"\x01"),  # record route: mutable
            IPOption(b"\x82\x0b" + bytes(range(9)) + b"\x00"),  # security: immutable
            IPOption(b"\x44\x0c\x05\x00" + bytes(8)),  # time stamp: mutable
            IPOption(b"\x5e\x04\xaa\xbb"),  # nobody knows it: mutable
        ]
        return [
            IP(**ends) / UDP(sport=5, dport=6) / b"payload",
            IP(**ends, flags="DF") / TCP(sport=5, dport=6, flags="S"),
            *(IP(**ends, options=[option]) / UDP(sport=5, dport=6) / bytes(99) for option in options),
        ]
    ends6 = {"src": str(A6.host), "dst": str(B6.host), "tc": 0xB9, "fl": 0x12345, "hlim": 3}
    fixed = HBHOptUnknown(otype=0x1E, optlen=4, optdata=b"same")
    moving = HBHOptUnknown(otype=0x3E, optlen=6, optdata=b"change")
    route = IPv6ExtHdrRouting(type=0, addresses=[str(B6.host)], segleft=0)
    upper = UDP(sport=5, dport=6) / b"payload"
    return [
        IPv6(**ends6) / upper,
        IPv6(**ends6) / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / upper,
        IPv6(**ends6) / IPv6ExtHdrHopByHop(options=[fixed, moving]) / upper,
        IPv6(**ends6) / IPv6ExtHdrHopByHop(options=[fixed]) / route / upper,
        IPv6(**ends6) / IPv6ExtHdrDestOpt(options=[moving]) / route / upper,
    ]


@pytest.mark.parametrize("integ", [IntegId.HMAC_SHA2_256_128, IntegId.HMAC_SHA1_96], ids=lambda i: i.name)
@pytest.mark.parametrize("version", [4, 6])
def test_ah_transport_mode_is_scapys(integ: IntegId, version: int) -> None:
    ends = (A4, B4) if version == 4 else (A6N, B6N)
    pair = ah_pair(integ, ends, mode=Mode.TRANSPORT)
    parser = IP if version == 4 else IPv6
    for number, packet in enumerate(transport_packets(version), 1):
        octets = bytes(packet)
        (batch,) = pair.send(octets)
        (sent,) = map(bytes, batch.packets)
        assert sent == bytes(scapy_ah(integ, None, None).encrypt(parser(octets), seq_num=number))
        # On its way some fields change; the packet stays authentic, and comes out as it arrived but for the AH.
        moved = bytearray(sent)
        if version == 4:
            moved[1], moved[8] = 0, 9
            header = IPv4Header.parse(sent)
            moved[: 20 + len(header.options)] = replace(header, tos=0, ttl=9).to_bytes()
        else:
            moved[1:4] = b"\x01\x02\x03"
            moved[7] = 1
        (got,) = map(bytes, pair.b.inbound([whole(ends, bytes(moved))], 0))
        assert got[20 if version == 4 else 40 :] == octets[20 if version == 4 else 40 :]
        assert bytes(scapy_ah(integ, None, None).decrypt(parser(bytes(moved)))) == got
        again = bytes(scapy_ah(integ, None, None).encrypt(parser(octets), seq_num=number + 20))
        assert len(pair.b.inbound([whole(ends, again)], 0)) == 1


def test_every_covered_octet_is_covered() -> None:
    """One octet changed at a time: the mutable fields may, nothing else."""
    for version, mutable in ((4, {1, 6, 7, 8, 10, 11}), (6, {0, 1, 2, 3, 7})):
        ends = (A4, B4) if version == 4 else (A6N, B6N)
        for packet in transport_packets(version)[:2]:
            pair = ah_pair(IntegId.HMAC_SHA2_256_128, ends, mode=Mode.TRANSPORT)
            (sent,) = map(bytes, pair.send(bytes(packet))[0].packets)
            transform = pair.b.sad.get(pair.b_in).transform  # type: ignore[union-attr]
            assert isinstance(transform, AhTransform)
            for position in range(len(sent)):
                changed = bytearray(sent)
                changed[position] ^= 0x01
                try:
                    transform.open(bytes(changed), 1)
                    passed = True
                except IntegrityError:
                    passed = False
                assert passed == (position in mutable), position


def test_source_routes_are_foretold() -> None:
    """Loose source route: sender and receiver see different destinations and route data (RFC 4302 App. A1)."""
    hop = ip_address("198.51.100.1")
    for kind in (131, 137):
        route = bytes((kind, 7, 4)) + B.host.packed + b"\0"
        leaving = IPv4Header(A.host, hop, 17, 36, identification=5, options=route).to_bytes() + bytes(8)  # type: ignore[arg-type]
        pair = ah_pair(IntegId.HMAC_SHA1_96, (A4, B4), mode=Mode.TRANSPORT)
        transform = pair.a.sad.get(pair.a_out).transform  # type: ignore[union-attr]
        assert isinstance(transform, AhTransform)
        sent = IPv4Header.parse(transform.seal(leaving, 1))
        body = transform.seal(leaving, 1)[28:]
        there = bytes((kind, 7, 8)) + hop.packed + b"\0"
        arrived = replace(sent, destination=B.host, options=there).to_bytes() + body
        assert transform.open(arrived, 1)[0][28:] == bytes(8)
    hops = ["2001:db8::55", str(B6.host)]
    upper = UDP(sport=5, dport=6) / b"payload"
    leaving6 = (
        IPv6(src=str(A6.host), dst="2001:db8::44") / IPv6ExtHdrRouting(addresses=hops, segleft=2) / upper
    )
    pair = ah_pair(IntegId.HMAC_SHA1_96, (A6N, B6N), mode=Mode.TRANSPORT)
    transform = pair.a.sad.get(pair.a_out).transform  # type: ignore[union-attr]
    assert isinstance(transform, AhTransform)
    out = transform.seal(bytes(leaving6), 1)
    at, _ = find(out) or (0, 0)
    visited = IPv6ExtHdrRouting(addresses=["2001:db8::44", "2001:db8::55"], segleft=0, nh=51)
    header = IPv6(src=str(A6.host), dst=str(B6.host), nh=43, plen=len(out) - 40, hlim=60)
    arrived = bytes(header) + bytes(visited)[:40] + out[at:]
    inner, _, next_header = transform.open(arrived, 1)
    assert next_header == 17
    assert inner[-7:] == b"payload"
    nonsense = bytes(leaving6 / b"")[:43] + b"\x09" + bytes(leaving6)[44:]
    with pytest.raises(PacketError, match="foretold"):
        transform.seal(nonsense, 2)


@pytest.mark.parametrize(
    "algorithm", [a for a in ALGORITHMS if a.encr is not EncrId.CHACHA20_POLY1305], ids=str
)
@pytest.mark.parametrize("version", [4, 6])
def test_esp_transport_mode_is_scapys(algorithm: Algorithm, version: int) -> None:
    ends = (A4, B4) if version == 4 else (A6N, B6N)
    mine = {"local_ts": ts(str(ends[0].host)), "remote_ts": ts(str(ends[1].host))}
    fields = {**keys(algorithm), **mine, "encapsulated": False, "mode": Mode.TRANSPORT}
    pair = Pair(fields, a_addr=ends[0], b_addr=ends[1])
    names = {EncrId.AES_GCM_16: "AES-GCM", EncrId.AES_CBC: "AES-CBC", EncrId.NULL: "NULL"}
    secret = keys(algorithm)
    sa = SecurityAssociation(
        ESP,
        spi=0x1000,
        crypt_algo=names[algorithm.encr],
        crypt_key=secret["key_encr"] or None,
        auth_algo=SCAPY_INTEG[algorithm.integ][0] if algorithm.integ else "NULL",
        auth_key=secret["key_integ"] or None,
    )
    parser = IP if version == 4 else IPv6
    for number, packet in enumerate(transport_packets(version), 1):
        octets = bytes(packet)
        (batch,) = pair.send(octets)
        sent = bytes(batch.packets[0])
        plain = len(octets) - len(bytes(packet.lastlayer().underlayer or b"")) in (20, 40)
        if batch.whole:
            expected_head, esp = sent[: -len(sent) + find(sent, 50)[0]], sent[find(sent, 50)[0] :]  # type: ignore[index]
            assert len(expected_head) > (20 if version == 4 else 40)
        else:
            assert plain or number <= 2
            esp = sent
        iv = esp[8:24] if algorithm.encr is EncrId.AES_CBC else esp[8:16] if algorithm.integ == 0 else b""
        theirs = bytes(sa.encrypt(parser(octets), seq_num=number, iv=iv))
        assert theirs.endswith(esp)
        if batch.whole:
            assert theirs == sent
        assert batch.ecn == 0xB9
        got = [bytes(p) for p in pair.b.inbound([batch], 0)]
        header = 20 if version == 4 else 40
        if batch.whole:
            assert got == [octets]
        else:  # the header was made again of what a socket tells
            assert [p[header:] for p in got] == [octets[header:]]
            head = IPv4Header.parse(got[0]) if version == 4 else IPv6Header.parse(got[0])
            assert (head.source, head.destination) == (ends[0].host, ends[1].host)


@pytest.mark.parametrize("version", [4, 6])
def test_tshark_reads_ah(version: int, tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    tshark = require_tool("tshark")
    ends = (A4, B4) if version == 4 else (A6N, B6N)
    tunnel = ah_pair(IntegId.HMAC_SHA2_256_128, ends)
    host = ah_pair(IntegId.HMAC_SHA2_256_128, ends, mode=Mode.TRANSPORT)
    frames = [bytes(p) for b in tunnel.send(*INNER, INNER6) for p in b.packets]
    for packet in transport_packets(version):
        frames += [bytes(p) for b in host.send(bytes(packet)) for p in b.packets]
    pcap(tmp_path / "ah.pcap", frames)
    fields = ("ah.spi", "ah.sequence", "udp.dstport", "_ws.malformed")
    command = [tshark, "-r", str(tmp_path / "ah.pcap"), "-o", "ip.check_checksum:TRUE", "-T", "fields"]
    rows = subprocess.run(
        [*command, *(part for f in fields for part in ("-e", f))], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(rows) == len(frames)
    for row in rows:
        spi, sequence, _, malformed = row.split("\t")
        assert spi == "0x00001000"
        assert int(sequence) > 0
        assert not malformed
    bad = [*command[:-2], "-Y", 'ip.checksum.status == "Bad" || _ws.expert.severity >= 8388608']
    assert subprocess.run(bad, capture_output=True, text=True, check=True).stdout == ""

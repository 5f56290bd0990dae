"""Our ESP read, and made, by independent implementations: scapy and tshark."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from espkit import A6, ALGORITHMS, B6, LAN_A, LAN_B, A, Algorithm, B, Pair, keys, pcap, ts, udp
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation

from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.wire.transforms import EncrId, IntegId

SCAPY_ENCR = {
    EncrId.AES_GCM_16: "AES-GCM",
    EncrId.CHACHA20_POLY1305: "CHACHA20-POLY1305",
    EncrId.AES_CBC: "AES-CBC",
    EncrId.NULL: "NULL",
}
SCAPY_INTEG = {
    IntegId.NONE: "NULL",
    IntegId.HMAC_SHA2_256_128: "SHA2-256-128",
    IntegId.HMAC_SHA2_384_192: "SHA2-384-192",
    IntegId.HMAC_SHA2_512_256: "SHA2-512-256",
}
WIRESHARK_ENCR = {
    EncrId.AES_GCM_16: "AES-GCM with 16 octet ICV [RFC4106]",
    EncrId.AES_CBC: "AES-CBC [RFC3602]",
    EncrId.NULL: "NULL",
}
WIRESHARK_INTEG = {
    IntegId.NONE: "NULL",
    IntegId.HMAC_SHA2_256_128: "HMAC-SHA-256-128 [RFC4868]",
    IntegId.HMAC_SHA2_384_192: "HMAC-SHA-384-192 [RFC4868]",
    IntegId.HMAC_SHA2_512_256: "HMAC-SHA-512-256 [RFC4868]",
}
PACKETS = [udp("10.1.0.5", "10.2.0.9", size) for size in (28, 29, 30, 31, 100, 1300)] + [
    udp("fd01::5", "fd02::9", 90)
]
BOTH = {"local_ts": ts(LAN_A, "fd01::/64"), "remote_ts": ts(LAN_B, "fd02::/64")}


def scapy_sa(algorithm: Algorithm, esn: bool, spi: int = 0x1000) -> Any:
    secret = keys(algorithm)
    return SecurityAssociation(
        ESP,
        spi=spi,
        crypt_algo=SCAPY_ENCR[algorithm.encr],
        crypt_key=secret["key_encr"] or None,
        auth_algo=SCAPY_INTEG[algorithm.integ],
        auth_key=secret["key_integ"] or None,
        tunnel_header=IP(src=str(A.host), dst=str(B.host)),
        esn_en=esn,
        esn=0,
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
@pytest.mark.parametrize("esn", [False, True])
def test_scapy_reads_ours(algorithm: Algorithm, esn: bool) -> None:
    pair = Pair({**BOTH, **keys(algorithm), "esn": esn, "encapsulated": False})
    sa = scapy_sa(algorithm, esn)
    sent = [packet for batch in pair.send(*PACKETS) for packet in batch.packets]
    for esp, inner in zip(sent, PACKETS, strict=True):
        outer = IP(bytes(IP(src=str(A.host), dst=str(B.host), proto=50)) + bytes(esp))
        outer.len = len(outer)
        opened = sa.decrypt(IP(bytes(outer)), verify=True, esn_en=esn, esn=0)
        assert bytes(opened) == inner


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
@pytest.mark.parametrize("esn", [False, True])
def test_we_read_scapys(algorithm: Algorithm, esn: bool) -> None:
    pair = Pair({**BOTH, **keys(algorithm), "esn": esn, "encapsulated": False})
    sa = scapy_sa(algorithm, esn)
    random.seed(1)
    for number, inner in enumerate(PACKETS, 1):
        parsed = IP(inner) if inner[0] < 0x60 else IPv6(inner)
        sealed = bytes(sa.encrypt(parsed, seq_num=number, esn_en=esn, esn=0))
        assert sealed[9] == 50
        got = pair.b.inbound([EspDatagrams(replace(B, port=0), replace(A, port=0), False, [sealed[20:]])], 0)
        assert got == [inner]


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a.encr in WIRESHARK_ENCR], ids=str)
@pytest.mark.parametrize("outer", [(A, B), (A6, B6)], ids=["v4", "v6"])
@pytest.mark.parametrize("encapsulated", [False, True], ids=["native", "udp"])
def test_tshark_reads_ours(
    algorithm: Algorithm, outer: Any, encapsulated: bool, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    tshark = require_tool("tshark")
    source, destination = outer
    pair = Pair({**BOTH, **keys(algorithm), "encapsulated": encapsulated}, a_addr=source, b_addr=destination)
    header = IP if source.host.version == 4 else IPv6
    frames = []
    for esp in [packet for batch in pair.send(*PACKETS) for packet in batch.packets]:
        ends = {"src": str(source.host), "dst": str(destination.host)}
        if encapsulated:
            frames.append(bytes(header(**ends) / UDP(sport=4500, dport=4500) / bytes(esp)))
        else:
            frames.append(bytes(header(**ends, **{"proto" if header is IP else "nh": 50}) / bytes(esp)))
    pcap(tmp_path / "esp.pcap", frames)
    secret = keys(algorithm)
    row = ",".join(
        f'"{value}"'
        for value in (
            f"IPv{source.host.version}",
            source.host,
            destination.host,
            "0x00001000",
            WIRESHARK_ENCR[algorithm.encr],
            f"0x{secret['key_encr'].hex()}" if secret["key_encr"] else "",
            WIRESHARK_INTEG[algorithm.integ],
            f"0x{secret['key_integ'].hex()}" if secret["key_integ"] else "",
        )
    )
    fields = [
        "frame.number",
        "esp.sequence",
        "ip.src",
        "ipv6.src",
        "udp.dstport",
        "data.data",
        "esp.icv_bad",
        "_ws.malformed",
    ]
    command = [tshark, "-r", str(tmp_path / "esp.pcap"), "-n", "-T", "fields", "-E", "separator=|"]
    command += ["-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"]
    command += ["-o", f"uat:esp_sa:{row}"]
    for name in fields:
        command += ["-e", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert len(lines) == len(PACKETS), done.stderr
    for number, (line, inner) in enumerate(zip(lines, PACKETS, strict=True), 1):
        _, sequence, v4, v6, ports, data, icv_bad, malformed = line
        assert sequence == str(number)
        inner_source = "10.1.0.5" if inner[0] < 0x60 else "fd01::5"
        assert inner_source in (v4 + "," + v6).split(",")
        assert ports.split(",")[-1] == "2000"
        assert data == (inner[28:] if inner[0] < 0x60 else inner[48:]).hex()
        assert icv_bad in ("", "0", "False")
        assert malformed == ""

"""ESP packets of every registered algorithm: through our own ends, and with scapy and tshark where they know it."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from espkit import LAN_A, LAN_B, A, Algorithm, B, Pair, keys, pcap, ts, udp
from scapy.layers.inet import IP
from scapy.layers.ipsec import ESP, SecurityAssociation

from ipsecstack.crypto import encr, integ
from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.wire.transforms import EncrId, IntegId

PACKETS = [udp("10.1.0.5", "10.2.0.9", size) for size in (28, 29, 30, 31, 35, 100, 1300)]


def _algorithm(cipher: encr.Encr, mac: integ.Integ) -> Algorithm:
    return Algorithm(cipher.id, cipher.key_bits, cipher.keymat_octets, mac.id, mac.key_octets)


_SHA = integ.get(IntegId.HMAC_SHA2_256_128)
_CBC = encr.get(EncrId.AES_CBC, 256)
CIPHERS = [_algorithm(c, integ.get(IntegId.NONE) if c.aead else _SHA) for c in encr.registered()]
MACS = [_algorithm(_CBC, m) for m in integ.registered() if m.icv_octets and not m.ah_only]

SCAPY_ENCR = {
    EncrId.AES_GCM_16: "AES-GCM",
    EncrId.AES_CCM_16: "AES-CCM",
    EncrId.NULL_AUTH_AES_GMAC: "AES-NULL-GMAC",
    EncrId.CHACHA20_POLY1305: "CHACHA20-POLY1305",
    EncrId.AES_CBC: "AES-CBC",
    EncrId.AES_CTR: "AES-CTR",
    EncrId.DES_CBC: "DES",
    EncrId.TRIPLE_DES_CBC: "3DES",
    EncrId.CAST_CBC: "CAST",
    EncrId.BLOWFISH_CBC: "Blowfish",
    EncrId.NULL: "NULL",
}
SCAPY_INTEG = {
    IntegId.NONE: "NULL",
    IntegId.HMAC_SHA1_96: "HMAC-SHA1-96",
    IntegId.HMAC_MD5_96: "HMAC-MD5-96",
    IntegId.AES_CMAC_96: "AES-CMAC-96",
    IntegId.HMAC_SHA2_256_128: "SHA2-256-128",
    IntegId.HMAC_SHA2_384_192: "SHA2-384-192",
    IntegId.HMAC_SHA2_512_256: "SHA2-512-256",
}
WIRESHARK_ENCR = {
    EncrId.AES_GCM_8: "AES-GCM with 8 octet ICV [RFC4106]",
    EncrId.AES_GCM_12: "AES-GCM with 12 octet ICV [RFC4106]",
    EncrId.AES_CBC: "AES-CBC [RFC3602]",
    EncrId.AES_CTR: "AES-CTR [RFC3686]",
    EncrId.DES_CBC: "DES-CBC [RFC2405]",
    EncrId.TRIPLE_DES_CBC: "TripleDES-CBC [RFC2451]",
}
WIRESHARK_INTEG = {
    IntegId.NONE: "NULL",
    IntegId.HMAC_SHA1_96: "HMAC-SHA-1-96 [RFC2404]",
    IntegId.HMAC_MD5_96: "HMAC-MD5-96 [RFC2403]",
    IntegId.HMAC_RIPEMD_160_96: "MAC-RIPEMD-160-96 [RFC2857]",
    IntegId.HMAC_SHA2_256_128: "HMAC-SHA-256-128 [RFC4868]",
    IntegId.HMAC_SHA2_384_192: "HMAC-SHA-384-192 [RFC4868]",
    IntegId.HMAC_SHA2_512_256: "HMAC-SHA-512-256 [RFC4868]",
}


def wired(algorithm: Algorithm, **more: Any) -> Pair:
    return Pair({"local_ts": ts(LAN_A), "remote_ts": ts(LAN_B), **keys(algorithm), **more})


@pytest.mark.parametrize("algorithm", [*CIPHERS, *MACS], ids=str)
@pytest.mark.parametrize("esn", [False, True])
def test_from_end_to_end(algorithm: Algorithm, esn: bool) -> None:
    """What one end seals the other opens, and nothing that was changed under way."""
    pair = wired(algorithm, esn=esn)
    batches = pair.send(*PACKETS)
    assert pair.b.inbound(batches, 0) == PACKETS
    (sealed,) = pair.send(PACKETS[5])
    for at in (9, 14, len(sealed.packets[0]) - 1):
        changed = bytearray(sealed.packets[0])
        changed[at] ^= 0x20
        assert pair.b.inbound([replace(sealed, packets=[bytes(changed)])], 0) == []
    assert pair.b.inbound([sealed], 0) == [PACKETS[5]]


def test_sha256_cut_to_96_bits() -> None:
    """The old truncation is four octets shorter, and the other does not take it for its own."""
    algorithm = _algorithm(_CBC, _SHA)
    short, whole = wired(algorithm, sha256_96=True), wired(algorithm)
    (a,), (b,) = short.send(PACKETS[0]), whole.send(PACKETS[0])
    assert len(a.packets[0]) == len(b.packets[0]) - 4
    assert short.b.inbound([a], 0) == [PACKETS[0]]
    assert whole.b.inbound([a], 0) == []


KNOWN_TO_SCAPY = [a for a in (*CIPHERS, *MACS) if a.encr in SCAPY_ENCR and a.integ in SCAPY_INTEG]


@pytest.mark.parametrize("algorithm", KNOWN_TO_SCAPY, ids=str)
@pytest.mark.parametrize("esn", [False, True])
def test_scapy_and_we_read_each_other(algorithm: Algorithm, esn: bool) -> None:
    pair, secret = wired(algorithm, esn=esn, encapsulated=False), keys(algorithm)
    sa = SecurityAssociation(
        ESP,
        spi=0x1000,
        crypt_algo=SCAPY_ENCR[algorithm.encr],
        crypt_key=secret["key_encr"] or None,
        auth_algo=SCAPY_INTEG[algorithm.integ],
        auth_key=secret["key_integ"] or None,
        tunnel_header=IP(src=str(A.host), dst=str(B.host)),
        esn_en=esn,
        esn=0,
    )
    sent = [packet for batch in pair.send(*PACKETS) for packet in batch.packets]
    for esp, inner in zip(sent, PACKETS, strict=True):
        outer = IP(bytes(IP(src=str(A.host), dst=str(B.host), proto=50)) + bytes(esp))
        outer.len = len(outer)
        assert bytes(sa.decrypt(IP(bytes(outer)), verify=True, esn_en=esn, esn=0)) == inner
    random.seed(1)
    fresh = wired(algorithm, esn=esn, encapsulated=False)
    for number, inner in enumerate(PACKETS, 1):
        sealed = bytes(sa.encrypt(IP(inner), seq_num=number, esn_en=esn, esn=0))
        got = fresh.b.inbound([EspDatagrams(replace(B, port=0), replace(A, port=0), False, [sealed[20:]])], 0)
        assert got == [inner]


KNOWN_TO_TSHARK = [a for a in (*CIPHERS, *MACS) if a.encr in WIRESHARK_ENCR and a.integ in WIRESHARK_INTEG]


def test_tshark_reads_ours(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    """One capture with an SA for each algorithm that tshark knows."""
    tshark = require_tool("tshark")
    frames, rows = [], []
    for number, algorithm in enumerate(KNOWN_TO_TSHARK):
        secret = keys(algorithm)
        source = f"192.0.2.{100 + number}"  # SAs differ by their outer source: all of them have the same SPI
        for batch in wired(algorithm, encapsulated=False).send(*PACKETS):
            frames += [
                bytes(IP(src=source, dst=str(B.host), proto=50) / bytes(packet)) for packet in batch.packets
            ]
        values = (
            "IPv4", source, B.host, "0x00001000", WIRESHARK_ENCR[algorithm.encr],
            f"0x{secret['key_encr'].hex()}" if secret["key_encr"] else "",
            WIRESHARK_INTEG[algorithm.integ],
            f"0x{secret['key_integ'].hex()}" if secret["key_integ"] else "",
        )  # fmt: skip
        rows.append(",".join(f'"{value}"' for value in values))
    pcap(tmp_path / "esp.pcap", frames)
    fields = ("ip.src", "udp.dstport", "data.data", "esp.icv_bad", "_ws.malformed")
    command = [tshark, "-r", str(tmp_path / "esp.pcap"), "-n", "-T", "fields", "-E", "separator=|"]
    command += ["-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"]
    for row in rows:
        command += ["-o", f"uat:esp_sa:{row}"]
    for name in fields:
        command += ["-e", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert len(lines) == len(KNOWN_TO_TSHARK) * len(PACKETS), done.stderr
    for at, (sources, ports, data, icv_bad, malformed) in enumerate(lines):
        algorithm, inner = KNOWN_TO_TSHARK[at // len(PACKETS)], PACKETS[at % len(PACKETS)]
        assert "10.1.0.5" in sources.split(","), algorithm
        assert ports == "2000", algorithm
        assert data == inner[28:].hex(), algorithm
        assert icv_bad in ("", "0", "False"), algorithm
        assert malformed == "", algorithm

"""ESP packets of published documents, octet for octet (sources are named in ipsec_esp.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from espkit import A, B, describe

from ipsecstack.crypto.errors import IntegrityError
from ipsecstack.ipsec.esp import EspTransform
from ipsecstack.ipsec.esp_batch import OpenErrors, open_batch, open_each
from ipsecstack.ipsec.replay import ReplayWindow
from ipsecstack.ipsec.sa import Direction
from ipsecstack.wire.esp import EspHeader, payload_length
from ipsecstack.wire.transforms import EncrId, IntegId

VECTORS = json.loads((Path(__file__).parent / "ipsec_esp.json").read_text())


def transform_of(vector: dict[str, Any]) -> EspTransform:
    encr = EncrId[vector["encr"]]
    key = bytes.fromhex(vector["key"])
    cbc = encr is EncrId.AES_CBC
    return EspTransform(
        describe(
            Direction.OUT,
            int(vector["spi"], 16),
            A,
            B,
            encr=encr,
            encr_key_bits=(len(key) - (0 if cbc else 4)) * 8,
            key_encr=key,
            integ=IntegId.HMAC_SHA2_256_128 if cbc else IntegId.NONE,
            key_integ=bytes(32) if cbc else b"",
            esn=vector["esn"],
        )
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["source"])
def test_packet(vector: dict[str, Any]) -> None:
    transform = transform_of(vector)
    plaintext, number = bytes.fromhex(vector["plaintext"]), vector["sequence_number"]
    packet = transform.protect(plaintext, bytes.fromhex(vector["iv"]), number)
    published = bytes.fromhex(vector["packet"])
    # RFC 3602's packets have no ICV: ours follows after what is published.
    assert packet[: len(published)] == published
    assert len(packet) - len(published) == (16 if "no ICV" in vector["source"] else 0)
    if spi := int(vector["spi"], 16):
        assert EspHeader.parse(packet) == EspHeader(spi, number & 0xFFFFFFFF)

    payload, next_header = transform.open(packet, number)
    assert payload == plaintext[: payload_length(plaintext)]
    assert next_header == plaintext[-1]

    window = ReplayWindow(64, vector["esn"])
    window.top = number - 1
    for way in (open_each, open_batch):
        window.top = number - 1
        errors = OpenErrors()
        assert way(transform, window, [packet], errors) == [(payload, next_header)]
        assert (errors.replay, errors.integrity, errors.padding) == (0, 0, 0)


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["esn"]], ids=lambda v: v["source"])
def test_high_half_is_authenticated(vector: dict[str, Any]) -> None:
    transform = transform_of(vector)
    with pytest.raises(IntegrityError):
        transform.open(bytes.fromhex(vector["packet"]), vector["sequence_number"] ^ 1 << 32)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["source"])
def test_every_changed_octet_is_noticed(vector: dict[str, Any]) -> None:
    transform = transform_of(vector)
    number = vector["sequence_number"]
    packet = transform.protect(bytes.fromhex(vector["plaintext"]), bytes.fromhex(vector["iv"]), number)
    for position in range(len(packet)):
        if position < 4 and transform.aead:
            continue  # the SPI that an AEAD authenticates is the SA's own: the packet would not get here
        changed = bytearray(packet)
        changed[position] ^= 0x40
        number_seen = number ^ (0x40 << 8 * (7 - position) if 4 <= position < 8 else 0)
        with pytest.raises(IntegrityError):
            transform.open(bytes(changed), number_seen)

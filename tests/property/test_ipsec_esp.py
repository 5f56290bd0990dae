"""The batch path of ESP against its plain definition, on anything that may come in."""

from __future__ import annotations

import random
from typing import Any

import pytest
from espkit import ALGORITHMS, A, Algorithm, B, describe, keys, udp
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecstack.crypto import encr
from ipsecstack.ipsec.esp import EspTransform
from ipsecstack.ipsec.esp_batch import OpenErrors, open_batch, open_each, seal_batch, seal_each
from ipsecstack.ipsec.replay import ReplayWindow
from ipsecstack.ipsec.sa import Direction
from ipsecstack.wire.transforms import IntegId


def transform(algorithm: Algorithm, esn: bool) -> EspTransform:
    return EspTransform(describe(Direction.OUT, 0x1000, A, B, esn=esn, **keys(algorithm)))


@st.composite
def inner_packets(draw: st.DrawFn) -> list[bytes]:
    sizes = draw(st.lists(st.integers(28, 120) | st.integers(1380, 1420), min_size=1, max_size=12))
    versions = draw(st.lists(st.sampled_from([4, 6]), min_size=len(sizes), max_size=len(sizes)))
    return [
        udp("10.1.0.5", "10.2.0.9", size) if version == 4 else udp("fd01::5", "fd02::9", size + 20)
        for size, version in zip(sizes, versions, strict=True)
    ]


# How one packet of a batch is spoiled before it is opened: what, where, and by how much.
spoilings = st.lists(
    st.tuples(
        st.sampled_from(["keep", "repeat", "drop", "flip", "cut", "grow", "swap"]),
        st.integers(0, 200),
        st.integers(1, 255),
    ),
    max_size=12,
)


def spoil(packets: list[bytes], how: list[tuple[str, int, int]]) -> list[bytes]:
    out = list(packets)
    for position, (kind, where, amount) in enumerate(how):
        if not out:
            break
        index = position % len(out)
        packet = out[index]
        if kind == "repeat":
            out.insert(where % (len(out) + 1), packet)
        elif kind == "drop":
            del out[index]
        elif kind == "flip" and len(packet) > 4:
            changed = bytearray(packet)
            changed[4 + where % (len(packet) - 4)] ^= amount
            out[index] = bytes(changed)
        elif kind == "cut":
            out[index] = packet[: max(8, len(packet) - amount)]
        elif kind == "grow":
            out[index] = packet + bytes(amount)
        elif kind == "swap":
            other = where % len(out)
            out[index], out[other] = out[other], out[index]
    return out


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
@settings(max_examples=60, deadline=None)
@given(packets=inner_packets(), how=spoilings, esn=st.booleans(), first=st.sampled_from([1, 1000, 2**32 - 5]))
def test_both_paths_agree(
    algorithm: Algorithm, packets: list[bytes], how: list[Any], esn: bool, first: int
) -> None:
    if not esn:
        first = min(first, 1000)
    sa = transform(algorithm, esn)
    batch = seal_batch(sa, packets, first, random.Random(7).randbytes)
    # The IVs of CBC are the batch's own: with the same ones the plain definition makes the same octets.
    ivs = iter([packet[8:24] for packet in batch])
    plain = seal_each(sa, packets, first, lambda octets: next(ivs)[:octets])
    assert [bytes(p) for p in batch] == plain
    if sa.cbc:
        assert len({packet[8:24] for packet in plain}) == len(plain)

    windows = [ReplayWindow(32, esn) for _ in range(2)]
    results = []
    for way, window, kind in ((open_each, windows[0], bytes), (open_batch, windows[1], memoryview)):
        window.top = first - 1
        errors = OpenErrors()
        opened = way(sa, window, [kind(p) for p in spoil(plain, how)], errors)
        counted = (errors.replay, errors.integrity, errors.padding)
        assert window.counts.dropped == errors.replay
        assert len(opened) + sum(counted) == len(spoil(plain, how))
        results.append(
            ([(bytes(p), n) for p, n in opened], counted, window.top, window.bitmap, window.counts)
        )
    assert results[0] == results[1]
    if not how:
        assert [p for p, _ in results[0][0]] == packets


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=80), next_header=st.integers(0, 255), algorithm=st.sampled_from(ALGORITHMS))
def test_both_paths_agree_on_authentic_rubbish(
    content: bytes, next_header: int, algorithm: Algorithm
) -> None:
    """Padding and trailers that no proper sender makes: authentic, so they get as far as the padding check."""
    sa = transform(algorithm, False)
    plain = content + bytes(-(len(content) + 1) % sa.align) + bytes((next_header,))
    iv = bytes(7) + b"\x01" if sa.iv_octets == 8 else bytes(sa.iv_octets)
    packet = sa.protect(plain, iv, 1)
    results = []
    for way in (open_each, open_batch):
        window, errors = ReplayWindow(32, False), OpenErrors()
        opened = way(sa, window, [packet], errors)
        results.append((opened, errors.replay, errors.integrity, errors.padding, window.top))
    assert results[0] == results[1]
    assert results[0][4] == 1  # it was authentic: the number is used up


@settings(deadline=None)
@given(
    payload=st.binary(max_size=200),
    next_header=st.integers(0, 255),
    tfc=st.integers(0, 100),
    algorithm=st.sampled_from(ALGORITHMS),
    esn=st.booleans(),
    number=st.integers(1, 2**32 - 1),
)
def test_open_is_the_inverse_of_seal(
    payload: bytes, next_header: int, tfc: int, algorithm: Algorithm, esn: bool, number: int
) -> None:
    sa = transform(algorithm, esn)
    packet = sa.seal(payload, next_header, number, random.Random(1).randbytes, tfc)
    assert (len(packet) - 8 - sa.iv_octets - sa.icv_octets) % sa.align == 0
    assert sa.open(packet, number) == (payload + bytes(tfc), next_header)


def every_algorithm() -> list[Algorithm]:
    """Each registered cipher with each of its key lengths; without a tag of its own beside HMAC-SHA-256."""
    found = []
    for cipher in encr.registered():
        integ_id, octets = (IntegId.NONE, 0) if cipher.aead else (IntegId.HMAC_SHA2_256_128, 32)
        found.append(Algorithm(cipher.id, cipher.key_bits, cipher.keymat_octets, integ_id, octets))
    return found


@pytest.mark.parametrize("algorithm", every_algorithm(), ids=str)
@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("next_header", [None, 17, 59])
def test_every_registered_cipher(algorithm: Algorithm, esn: bool, next_header: int | None) -> None:
    """Both paths, tunnel mode and others, whatever IV and block a cipher has; rare ones have the plain path only."""
    sa = transform(algorithm, esn)
    packets = [udp("10.1.0.5", "10.2.0.9", size) for size in range(28, 64)] + [udp("fd01::5", "fd02::9", 90)]
    if next_header is not None:
        packets += [b"", b"x"]
    batch = seal_batch(sa, packets, 1, random.Random(7).randbytes, next_header)
    start = 8 + sa.iv_octets
    ivs = iter([bytes(packet[8:start]) for packet in batch])
    plain = seal_each(sa, packets, 1, lambda octets: next(ivs)[:octets], next_header)
    assert [bytes(p) for p in batch] == plain
    assert len({packet[8:start] for packet in plain}) == (len(plain) if sa.iv_octets else 1)
    results = []
    for way in (open_each, open_batch):
        window, errors = ReplayWindow(64, esn), OpenErrors()
        spoiled = [packet[:-1] + bytes((packet[-1] ^ 1,)) for packet in plain]
        assert way(sa, window, spoiled, errors) == []
        assert errors.integrity == len(plain)
        results.append(way(sa, window, plain, errors))
        assert window.top == len(plain)
    assert results[0] == results[1]
    assert [payload for payload, _ in results[0]] == packets
    if next_header is not None:
        assert {found for _, found in results[0]} == {next_header}

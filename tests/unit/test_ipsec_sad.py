"""The SAD: names, SPIs, and who sends."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from espkit import ALGORITHMS, GCM, A, B, describe, keys

from ipsecstack.ipsec.esp import EspTransform, TransformError
from ipsecstack.ipsec.sa import Address, Direction, SecurityProtocol
from ipsecstack.ipsec.sad import Sad, SadError
from ipsecstack.wire.transforms import EncrId, IntegId

OUT, IN = Direction.OUT, Direction.IN


def test_allocated_spis_are_free_and_stay_reserved() -> None:
    sad = Sad()
    octets = iter(
        [b"\0\0\0\0", b"\0\0\0\xff", b"\0\0\1\0", b"\0\0\1\0", b"\0\0\1\1", b"\0\0\1\0", b"\0\0\1\2"]
    )
    assert sad.allocate_spi(lambda n: next(octets)) == 256
    assert sad.allocate_spi(lambda n: next(octets)) == 257
    sad.release_spi(256)
    assert sad.allocate_spi(lambda n: next(octets)) == 256


def test_installed_spis_are_not_allocated() -> None:
    sad = Sad()
    sad.add(describe(IN, 256, B, A), 0)
    octets = iter([b"\0\0\1\0", b"\0\0\1\1"])
    assert sad.allocate_spi(lambda n: next(octets)) == 257


def test_a_stuck_random_source_is_an_error() -> None:
    with pytest.raises(SadError, match="no free SPI"):
        Sad().allocate_spi(lambda n: bytes(n))


def test_newest_outbound_first_and_gone_when_removed() -> None:
    sad = Sad()
    old, new = describe(OUT, 1000, A, B), describe(OUT, 1001, A, B)
    sad.add(old, 0)
    sad.add(new, 1)
    assert [sa.id.spi for sa in sad.outbound(1)] == [1001, 1000]
    assert sad.remove(new.id)
    assert [sa.id.spi for sa in sad.outbound(1)] == [1000]
    assert sad.remove(new.id) is None
    assert sad.remove(old.id)
    assert sad.outbound(1) == []
    assert len(sad) == 0


def test_peers_may_choose_the_same_spi() -> None:
    sad = Sad()
    other = Address(ip_address("192.0.2.9"), 4500)
    sad.add(describe(OUT, 1000, A, B), 0)
    sad.add(describe(OUT, 1000, A, other), 0)
    with pytest.raises(SadError, match="installed already"):
        sad.add(describe(OUT, 1000, A, B), 0)


def test_one_inbound_sa_for_each_spi() -> None:
    sad = Sad()
    sad.add(describe(IN, 1000, B, A), 0)
    with pytest.raises(SadError, match="in use"):
        sad.add(describe(IN, 1000, B, Address(ip_address("192.0.2.7"), 4500)), 0)
    assert len(sad) == 1


def test_reserved_spis_are_refused() -> None:
    with pytest.raises(SadError, match="reserved"):
        Sad().add(describe(IN, 255, B, A), 0)


def test_move_keeps_counts_and_changes_the_name() -> None:
    sad = Sad()
    sa = sad.add(describe(IN, 1000, B, A), 0)
    sa.counters.packets = 7
    name = sa.id
    moved = sad.move(name, B, Address(ip_address("192.0.2.7"), 4500), True)
    assert moved is sa
    assert moved.id.destination == ip_address("192.0.2.7")
    assert sad.get(name) is None
    assert sad.get(moved.id) is sa
    assert sad.inbound(SecurityProtocol.ESP, 1000) is sa
    with pytest.raises(SadError, match="not installed"):
        sad.move(name, A, B, True)


def test_move_onto_another_sa_is_refused() -> None:
    sad = Sad()
    other = Address(ip_address("192.0.2.9"), 4500)
    first, second = describe(OUT, 1000, A, B), describe(OUT, 1000, A, other)
    sad.add(first, 0)
    sad.add(second, 0)
    with pytest.raises(SadError, match="installed already"):
        sad.move(first.id, A, other, True)
    assert sad.get(first.id) is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key_encr": b"short"}, "20 octets"),
        ({"encr_key_bits": 127}, "127"),
        ({"integ": IntegId.HMAC_SHA2_256_128, "key_integ": bytes(32)}, "authenticates itself"),
        ({"encr": EncrId.AES_CBC, "encr_key_bits": 128, "key_encr": bytes(16)}, "without integrity"),
        ({"encr": EncrId.CAMELLIA_CBC, "encr_key_bits": 128, "key_encr": bytes(16)}, "CAMELLIA_CBC"),
    ],
)
def test_impossible_transforms_are_refused_without_trace(fields: dict[str, object], message: str) -> None:
    sad = Sad()
    with pytest.raises(TransformError, match=message):
        sad.add(describe(IN, 1000, B, A, **fields), 0)
    assert len(sad) == 0
    sad.add(describe(IN, 1000, B, A), 0)


def test_keys_are_not_in_any_text() -> None:
    sad = Sad()
    for number, algorithm in enumerate(ALGORITHMS):
        description = describe(IN, 1000 + number, B, A, **keys(algorithm, seed=number))
        sa = sad.add(description, 0)
        text = f"{description!r} {sa!r} {sa.transform!r} {sa.transform.cipher!r} {sa.transform.mac!r}"
        for secret in (description.key_encr, description.key_integ):
            if secret:
                assert repr(secret) not in text
                assert secret.hex() not in text


def test_longest_payload_fits_and_one_more_does_not() -> None:
    for algorithm in ALGORITHMS:
        transform = EspTransform(describe(OUT, 1000, A, B, **keys(algorithm)))
        for room in range(200, 300):
            longest = transform.max_payload(room)
            draw = random.Random(room).randbytes
            assert len(transform.seal(bytes(longest), 4, 1, draw)) <= room
            assert len(transform.seal(bytes(longest + 1), 4, 1, draw)) > room


def test_description_is_a_value() -> None:
    description = describe(OUT, 1000, A, B, **keys(GCM))
    assert replace(description) == description

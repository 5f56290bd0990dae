"""BER: round trips, known octets (RFC 3417 section 8 forms), and refusal of everything that is not BER."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.smi import ber

sub_id = st.integers(0, 2**32 - 1)
oids = st.one_of(
    st.tuples(st.integers(0, 1), st.integers(0, 39)),
    st.tuples(st.just(2), st.integers(0, 2**32 - 1)),
).flatmap(lambda head: st.lists(sub_id, max_size=126).map(lambda tail: (*head, *tail)))


@given(oids)
def test_oid_round_trip(oid: ber.Oid) -> None:
    assert ber.parse_oid(ber.oid_content(oid)) == oid


@given(st.integers(-(2**31), 2**31 - 1))
def test_integer_round_trip_and_shortest_form(value: int) -> None:
    encoded = ber.integer(value)
    tag, start, end = ber.read(encoded, 0, len(encoded))
    assert (tag, end) == (ber.INTEGER, len(encoded))
    assert ber.parse_integer(encoded[start:end]) == value
    content = encoded[start:end]
    assert len(content) == 1 or (content[0], content[1] >> 7) not in ((0, 0), (0xFF, 1))


@given(st.integers(0, 2**64 - 1))
def test_unsigned_round_trip(value: int) -> None:
    encoded = ber.integer(value, ber.COUNTER64)
    assert ber.parse_unsigned(encoded[2:], 64) == value


@pytest.mark.parametrize(
    ("oid", "octets"),
    [
        ((1, 3, 6, 1, 2, 1), "2b06010201"),
        ((2, 999, 3), "883703"),
        ((0, 0), "00"),
        ((1, 3, 4294967295), "2b8fffffff7f"),
        ((2, 4294967295), "9080808 04f".replace(" ", "")),
    ],
)
def test_known_oids(oid: ber.Oid, octets: str) -> None:
    assert ber.oid_content(oid).hex() == octets
    assert ber.parse_oid(bytes.fromhex(octets)) == oid


@pytest.mark.parametrize("octets", ["", "80", "2b80", "2b8001", "2b9080808000", "2b" + "01" * 127])
def test_bad_oids(octets: str) -> None:
    with pytest.raises(ber.BerError):
        ber.parse_oid(bytes.fromhex(octets))


@pytest.mark.parametrize("oid", [(3, 1), (1, 40), (1, 3, -1), (1, 3, 2**32), (1, 3, *[1] * 127)])
def test_oids_without_encoding(oid: ber.Oid) -> None:
    with pytest.raises(ber.BerError):
        ber.oid_content(oid)


@pytest.mark.parametrize(
    "octets", ["", "30", "3080", "3085", "30850000000001", "3002", "300200", "1f0100", "308200", "3081"]
)
def test_bad_lengths(octets: str) -> None:
    data = bytes.fromhex(octets)
    with pytest.raises(ber.BerError):
        ber.read(data, 0, len(data))


def test_long_length_forms_are_accepted() -> None:
    assert ber.read(bytes.fromhex("048200016100"), 0, 6) == (4, 4, 5)


@given(st.binary(max_size=70000))
def test_length_forms(content: bytes) -> None:
    data = ber.tlv(ber.OCTET_STRING, content)
    tag, start, end = ber.read(data, 0, len(data))
    assert (tag, data[start:end], end) == (ber.OCTET_STRING, content, len(data))


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        (2, ""),
        (2, "0100000000"),
        (0x41, "0100000000"),
        (0x46, "01" + "00" * 8),
        (5, "00"),
        (0x40, "0102"),
        (9, ""),
    ],
)
def test_bad_values(tag: int, content: str) -> None:
    with pytest.raises(ber.BerError):
        ber.check_value(tag, bytes.fromhex(content))


@given(st.binary(max_size=64))
def test_decoders_raise_only_ber_errors(data: bytes) -> None:
    for decode in (
        lambda: ber.read(data, 0, len(data)),
        lambda: ber.parse_oid(data),
        lambda: ber.parse_integer(data),
        lambda: ber.parse_unsigned(data),
    ):
        try:
            decode()
        except ber.BerError:
            continue

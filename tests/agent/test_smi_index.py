"""Index codec for every SYNTAX that an INDEX may have (RFC 2578 section 7.7)."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from smi_support import ADDRESS, COLOUR, FIXED, INET, INET_TYPE, INTEGER, OCTETS, OID, SMALL, TRUTH, UNSIGNED

from agent.smi.index import BadIndex, IndexCodec, IndexTooLong
from mibs.loader import IndexPart, MibSet, Module, Object, Syntax


def codec(*parts: Syntax, implied: bool = False, length: int = 11) -> IndexCodec:
    return IndexCodec([(f"i{n}", s, implied and n == len(parts) - 1) for n, s in enumerate(parts)], length)


@pytest.mark.parametrize(
    ("parts", "implied", "values", "numbers", "decoded"),
    [
        ((INTEGER,), False, (7,), (7,), (7,)),
        ((INTEGER,), False, (0,), (0,), (0,)),
        ((UNSIGNED,), False, (2**32 - 1,), (2**32 - 1,), (2**32 - 1,)),
        ((COLOUR,), False, ("green",), (2,), (2,)),
        ((TRUTH,), False, (True,), (1,), (1,)),
        ((OCTETS,), False, (b"ab",), (2, 97, 98), (b"ab",)),
        ((OCTETS,), False, (b"",), (0,), (b"",)),
        ((OCTETS,), False, ("é",), (2, 0xC3, 0xA9), ("é".encode(),)),
        ((FIXED,), False, (b"abc",), (97, 98, 99), (b"abc",)),
        ((OCTETS,), True, (b"ab",), (97, 98), (b"ab",)),
        ((INTEGER, OCTETS), True, (1, b"ab"), (1, 97, 98), (1, b"ab")),
        ((OID,), False, ((1, 3, 6),), (3, 1, 3, 6), ((1, 3, 6),)),
        ((OID,), True, ((1, 3, 6),), (1, 3, 6), ((1, 3, 6),)),
        ((ADDRESS,), False, ("192.0.2.1",), (192, 0, 2, 1), (bytes((192, 0, 2, 1)),)),
        (
            (INET_TYPE, INET, INTEGER),
            False,
            ("ipv4", ipaddress.ip_address("192.0.2.1"), 5),
            (1, 4, 192, 0, 2, 1, 5),
            (1, bytes((192, 0, 2, 1)), 5),
        ),
        (
            (INET_TYPE, INET),
            False,
            ("ipv6", ipaddress.ip_address("2001:db8::1")),
            (2, 16, 0x20, 1, 0xD, 0xB8, *[0] * 11, 1),
            (2, ipaddress.ip_address("2001:db8::1").packed),
        ),
    ],
)
def test_both_ways(
    parts: tuple[Syntax, ...], implied: bool, values: Any, numbers: tuple[int, ...], decoded: Any
) -> None:
    made = codec(*parts, implied=implied)
    assert made.encode(values) == numbers
    assert made.decode(numbers) == decoded


@pytest.mark.parametrize(
    ("parts", "implied", "numbers"),
    [
        ((INTEGER,), False, ()),
        ((INTEGER,), False, (1, 2)),
        ((INTEGER,), False, (2**31,)),
        ((SMALL,), False, (11,)),
        ((COLOUR,), False, (3,)),
        ((OCTETS,), False, (2, 97)),
        ((OCTETS,), False, (1, 256)),
        ((OCTETS,), False, (4294967295, 1)),
        ((OCTETS,), True, ()),
        ((FIXED,), False, (97, 98)),
        ((FIXED,), False, (97, 98, 99, 100)),
        ((ADDRESS,), False, (192, 0, 2)),
        ((OID,), False, (2, 1)),
        ((OID,), False, ()),
        ((INET_TYPE, INET), False, (9, 0)),
    ],
)
def test_sub_identifiers_that_are_no_instance(
    parts: tuple[Syntax, ...], implied: bool, numbers: tuple[int, ...]
) -> None:
    with pytest.raises(BadIndex):
        codec(*parts, implied=implied).decode(numbers)


@pytest.mark.parametrize(
    ("parts", "values"),
    [
        ((INTEGER,), (-1,)),
        ((INTEGER,), ("x",)),
        ((INTEGER,), (1, 2)),
        ((FIXED,), (b"ab",)),
        ((SMALL,), (11,)),
    ],
)
def test_values_that_make_no_index(parts: tuple[Syntax, ...], values: Any) -> None:
    with pytest.raises(BadIndex):
        codec(*parts).encode(values)


def test_128_sub_identifiers_and_no_more() -> None:
    made = codec(OCTETS, length=11)
    assert len(made.encode((bytes(116),))) + 11 == 128
    with pytest.raises(IndexTooLong):
        made.encode((bytes(117),))


def test_only_the_last_part_may_be_implied() -> None:
    with pytest.raises(ValueError, match="IMPLIED"):
        IndexCodec([("a", OCTETS, True), ("b", INTEGER, False)], 11)


@given(
    st.integers(0, 2**31 - 1),
    st.binary(max_size=40),
    st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=9),
)
def test_round_trip(number: int, octets: bytes, oid: list[int]) -> None:
    oid[:2] = [1, 3]
    made = codec(INTEGER, OCTETS, OID)
    values = (number, octets, tuple(oid))
    assert made.decode(made.encode(values)) == values


@example([0, 0, 0])  # an OID of one sub-identifier: no value, and not 0.0
@given(st.lists(st.integers(0, 300), max_size=20))
def test_what_decodes_encodes_to_the_same(numbers: list[int]) -> None:
    made = codec(INET_TYPE, INET, OID, implied=True)
    try:
        values = made.decode(tuple(numbers))
    except BadIndex:
        return
    try:
        assert made.encode(values) == tuple(numbers)
    except BadIndex:
        assert values[2][0] > 2 or values[2][1:2] > (39,) or len(values[2]) < 2  # no OID at all


@pytest.mark.parametrize(("access", "short"), [("not-accessible", True), ("read-only", False)])
def test_an_oid_of_one_sub_identifier_is_an_index_where_it_is_never_a_value(access: str, short: bool) -> None:
    column = Object("aTree", "A-MIB", (1, 3, 1, 1), "column", OID, access, row="aEntry")
    row = Object("aEntry", "A-MIB", (1, 3, 1), "row", None, index=(IndexPart("aTree", "A-MIB"),))
    made = IndexCodec.of_row(row, MibSet([Module("A-MIB", "src", objects=(row, column))]))
    assert made.decode((3, 1, 3, 6)) == ((1, 3, 6),)
    if short:
        assert made.decode((1, 1)) == ((1,),)
        assert made.encode(((1,),)) == (1, 1)
        assert made.encode(((1, 3),)) == (2, 1, 3)
    else:
        with pytest.raises(BadIndex):
            made.decode((1, 1))
    with pytest.raises(BadIndex):
        made.decode((0,))

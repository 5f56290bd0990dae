"""Values between Python and the wire, by SYNTAX, and the SET errors of each."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import smi_support as s

from agent.smi.errors import SetError
from agent.smi.syntax import codec, is_date_and_time
from mibs.loader import Syntax


@pytest.mark.parametrize(
    ("syntax", "value", "encoded"),
    [
        (s.INTEGER, -1, "0201ff"),
        (s.INTEGER, 128, "02020080"),
        (s.COLOUR, "green", "020102"),
        (s.COLOUR, 1, "020101"),
        (s.TRUTH, True, "020101"),
        (s.TRUTH, False, "020102"),
        (s.TRUTH, "false", "020102"),
        (s.GAUGE, 2**40, "420500ffffffff"),
        (s.COUNTER, 2**32 + 5, "410105"),
        (s.COUNTER64, 2**64 - 1, "460900ffffffffffffffff"),
        (s.COUNTER64, 2**64 + 1, "460101"),
        (s.TICKS, 2**32, "430100"),
        (s.TEXT, "ab", "04026162"),
        (s.TEXT, "é", "04013f"),
        (s.OCTETS, "é", "0402c3a9"),
        (s.OCTETS, b"\x00", "040100"),
        (s.ADDRESS, "192.0.2.1", "4004c0000201"),
        (s.ADDRESS, ipaddress.IPv4Address("192.0.2.1"), "4004c0000201"),
        (s.INET, ipaddress.ip_address("::1"), "0410" + "00" * 15 + "01"),
        (s.OID, (1, 3, 6), "06022b06"),
        (s.OID, "1.3.6", "06022b06"),
        (s.OID, (0,), "060100"),
        (s.FLAGS, ["a", 10], "04028020"),
        (s.FLAGS, [], "04020000"),
        (s.DATE, datetime(2024, 5, 6, 7, 8, 9, 300_000, tzinfo=UTC), "040b07e8050607080903" + "2b0000"),
        (s.DATE, datetime(2024, 5, 6, 7, 8, 9), "040807e8050607080900"),
        (
            s.DATE,
            datetime(2024, 5, 6, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
            "040b07e8050600000000" + "2d031e",
        ),
        (s.DATE, 0, "040b07b2010100000000" + "2b0000"),
    ],
)
def test_encode(syntax: Syntax, value: Any, encoded: str) -> None:
    assert codec(syntax).encode(value).hex() == encoded


@pytest.mark.parametrize(
    ("syntax", "value"),
    [
        (s.INTEGER, 2**31),
        (s.INTEGER, "1"),
        (s.INTEGER, 1.5),
        (s.SMALL, 11),
        (s.COLOUR, "blue"),
        (s.COLOUR, 3),
        (s.UNSIGNED, -1),
        (s.UNSIGNED, 2**32),
        (s.COUNTER, -1),
        (s.SHORT, b"a"),
        (s.TEXT, b"x" * 256),
        (s.OCTETS, 5),
        (s.ADDRESS, "::1"),
        (s.ADDRESS, b"abc"),
        (s.OID, (3, 1)),
        (s.OID, "noSuchNode"),
        (s.FLAGS, ["c"]),
        (s.FLAGS, [2]),
        (s.DATE, float("1e30")),
    ],
)
def test_outside_syntax_is_a_value_error(syntax: Syntax, value: Any) -> None:
    with pytest.raises(ValueError):
        codec(syntax).encode(value)


@pytest.mark.parametrize(
    ("syntax", "tag", "content", "code"),
    [
        (s.INTEGER, 4, "01", "wrongType"),
        (s.UNSIGNED, 2, "01", "wrongType"),
        (s.SMALL, 2, "0b", "wrongValue"),
        (s.COLOUR, 2, "03", "wrongValue"),
        (s.INTEGER, 2, "", "wrongEncoding"),
        (s.SHORT, 4, "61", "wrongLength"),
        (s.SHORT, 4, "6161616161", "wrongLength"),
        (s.TEXT, 4, "ff", "wrongValue"),
        (s.ADDRESS, 0x40, "010203", "wrongLength"),
        (s.ADDRESS, 4, "01020304", "wrongType"),
        (s.OID, 6, "80", "wrongEncoding"),
        (s.OID, 5, "", "wrongType"),
        (s.FLAGS, 4, "40ff", "wrongValue"),
        (s.DATE, 4, "07e80d0101010101", "wrongValue"),
        (s.DATE, 4, "07e8", "wrongLength"),
    ],
)
def test_set_errors(syntax: Syntax, tag: int, content: str, code: str) -> None:
    with pytest.raises(SetError) as caught:
        codec(syntax).decode(tag, bytes.fromhex(content))
    assert caught.value.code.name == code


@pytest.mark.parametrize(
    ("syntax", "value"),
    [
        (s.INTEGER, -5),
        (s.GAUGE, 7),
        (s.COUNTER64, 2**63),
        (s.TEXT, b"ab"),
        (s.OID, (1, 3, 9)),
        (s.FLAGS, b"\x80\x20"),
    ],
)
def test_round_trip(syntax: Syntax, value: Any) -> None:
    made = codec(syntax)
    encoded = made.encode(value)
    assert made.decode(encoded[0], encoded[2:]) == value


def test_unknown_date_is_zeroes() -> None:
    assert is_date_and_time(bytes(8))
    assert not is_date_and_time(bytes(9))


def test_base_that_smiv2_does_not_have() -> None:
    with pytest.raises(ValueError, match="Real"):
        codec(Syntax("Real", "Real"))  # type: ignore[arg-type]

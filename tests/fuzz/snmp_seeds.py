"""The corpus of the SNMP fuzzers, made here: requests of every kind, and what broke others' decoders, remade.

python tests/fuzz/snmp_seeds.py     writes tests/fuzz/corpus/snmp/
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus" / "snmp"

if __name__ == "__main__":
    root = Path(__file__).parents[2]
    sys.path[:0] = [str(root), str(root / "tests"), str(root / "tests" / "agent")]

from smi_support import ROOT, request  # noqa: E402
from snmp_target import TEACHERS, unsigned  # noqa: E402

from agent.engine.pdu import GET, GETBULK, GETNEXT, SET  # noqa: E402
from agent.smi import ber  # noqa: E402

SYS_NAME = (1, 3, 6, 1, 2, 1, 1, 5, 0)
COLUMN = (*ROOT, 2, 1, 2)
TEXT = (*ROOT, 2, 1, 9)
LIMITED = (*ROOT, 1, 1, 0)
STATUS = (*ROOT, 3, 1, 5)


def pdus() -> Iterator[tuple[str, bytes]]:
    """PDUs, for all versions and levels."""
    yield "get", request(GET, [SYS_NAME, (*COLUMN, 3)])
    yield "get-none", request(GET, [])
    yield "get-absent", request(GET, [(1, 3, 9), (*COLUMN, 99), (*COLUMN, 1, 1), COLUMN, (2, 100)])
    yield "get-counter64", request(GET, [(*ROOT, 2, 1, 7, 1)])
    yield "get-twenty", request(GET, [(*TEXT, n) for n in range(1, 21)])
    yield "get-odd-ids", request(GET, [SYS_NAME], first=-1, second=2**31 - 1, request_id=-(2**31))
    yield "getnext", request(GETNEXT, [(1, 3), COLUMN, (*COLUMN, 12), (2, 1)])
    yield "getnext-longer-index", request(GETNEXT, [(*COLUMN, 3, 0), (*COLUMN, 2**32 - 1), (*COLUMN, 0)])
    yield "getbulk", request(GETBULK, [COLUMN], second=20)
    yield (
        "getbulk-interleaved",
        request(GETBULK, [SYS_NAME[:-1], COLUMN, TEXT, (*ROOT, 3)], first=1, second=9),
    )
    yield "getbulk-all", request(GETBULK, [(0, 0)], second=2**31 - 1)
    yield "getbulk-negative", request(GETBULK, [COLUMN], first=-5, second=-5)
    yield "getbulk-repeated", request(GETBULK, [COLUMN] * 12, first=3, second=4)
    yield "set", request(SET, [LIMITED], values=[ber.integer(4)])
    yield "set-wrong", request(SET, [LIMITED, (*COLUMN, 1)], values=[ber.integer(4), ber.tlv(4, b"x")])
    name = (*b"fuzz",)
    yield (
        "set-row",
        request(
            SET,
            [(*STATUS, *name), (*ROOT, 3, 1, 2, *name)],
            values=[ber.integer(4), ber.integer(3)],
        ),
    )
    yield "long-oid", request(GETNEXT, [(1, 3, *[2**32 - 1] * 126)])
    yield "zero-oid", request(GETNEXT, [(0, 0)])


def broken() -> Iterator[tuple[str, bytes]]:
    """Whole datagrams that broke, or would break, a decoder that believes what it reads. The last-but-one words
    of a name say what is wrong.
    """
    get = request(GET, [SYS_NAME])
    community = ber.tlv(4, b"writer")
    two = ber.integer(1)

    def v2c(pdu: bytes) -> bytes:
        return ber.tlv(0x30, two + community + pdu)

    def pdu_with(varbinds: bytes) -> bytes:
        return ber.tlv(GET, ber.integer(1) + ber.integer(0) * 2 + varbinds)

    yield "nesting", b"\x30\x80" * 200
    yield "nesting-long", b"\x30\x82\x0f\x00" * 500
    yield "length-past-end", b"\x30\x84\x7f\xff\xff\xff" + two + community + get
    yield "length-of-128-octets", b"\x30\xff" + b"\xff" * 127 + get
    yield "length-zero", b"\x30\x00"
    yield "community-past-end", ber.tlv(0x30, two + b"\x04\x82\xff\xff" + b"a" * 60)
    yield "integer-empty", v2c(ber.tlv(GET, b"\x02\x00" * 3 + b"\x30\x00"))
    yield (
        "integer-of-20-octets",
        v2c(ber.tlv(GET, b"\x02\x14" + bytes(20) + ber.integer(0) * 2 + b"\x30\x00")),
    )
    # an OID that goes on for kilobytes: what a fixed array of sub-identifiers does not hold
    for count in (127, 128, 129, 1000, 4000):
        varbind = ber.tlv(0x30, ber.tlv(6, b"\x2b" + b"\x01" * count) + b"\x05\x00")
        yield f"oid-of-{count}", v2c(pdu_with(ber.tlv(0x30, varbind)))
    # sub-identifiers that do not fit: what shifts them as a signed or a 32-bit number does not notice
    for label, content in (
        ("above-32-bits", b"\x2b\x90\x80\x80\x80\x00"),
        ("of-ten-octets", b"\x2b" + b"\xff" * 9 + b"\x7f"),
        ("unfinished", b"\x2b\x86\xff"),
        ("padded", b"\x2b\x80\x80\x01"),
        ("first-is-huge", b"\x8f\xff\xff\xff\x7f"),
        ("empty", b""),
    ):
        varbind = ber.tlv(0x30, ber.tlv(6, content) + b"\x05\x00")
        yield f"oid-{label}", v2c(pdu_with(ber.tlv(0x30, varbind)))
    yield "varbind-without-value", v2c(pdu_with(ber.tlv(0x30, ber.tlv(0x30, ber.tlv(6, b"\x2b\x06")))))
    yield (
        "varbind-with-two-values",
        v2c(pdu_with(ber.tlv(0x30, ber.tlv(0x30, ber.tlv(6, b"\x2b\x06") + b"\x05\x00" * 2)))),
    )
    yield "address-of-3-octets", v2c(pdu_with(ber.tlv(0x30, ber.varbind(b"\x2b\x06", b"\x40\x03abc"))))
    yield "high-tag-number", v2c(b"\xbf\x81\x80\x00\x05" + get)
    yield "octets-after", v2c(get) + b"\x00"
    yield (
        "trap-of-version-1",
        ber.tlv(
            0x30,
            ber.integer(0)
            + community
            + ber.tlv(
                0xA4,
                ber.tlv(6, b"\x2b\x06")
                + b"\x40\x04\x7f\x00\x00\x01"
                + ber.integer(6) * 2
                + b"\x43\x01\x00\x30\x00",
            ),
        ),
    )
    yield "report-of-version-2", v2c(b"\xa8" + get[1:])
    header = ber.tlv(0x30, ber.integer(1) + ber.integer(65507) + b"\x04\x01\x04" + ber.integer(3))

    def v3(parameters: bytes, data: bytes, head: bytes = header) -> bytes:
        return ber.tlv(0x30, ber.integer(3) + head + parameters + data)

    nothing = ber.tlv(4, b"")
    scoped = ber.tlv(0x30, nothing * 2 + get)
    discovery = ber.tlv(4, ber.tlv(0x30, nothing + ber.integer(0) * 2 + nothing * 3))
    yield "discovery", v3(discovery, scoped)
    yield "security-parameters-empty", v3(nothing, scoped)
    yield "security-parameters-past-end", v3(b"\x04\x7f" + discovery[2:], scoped)
    yield (
        "digest-of-60000-octets",
        v3(
            ber.tlv(
                4, ber.tlv(0x30, nothing + ber.integer(0) * 2 + nothing + ber.tlv(4, bytes(60000)) + nothing)
            ),
            scoped,
        )[:900],
    )
    yield (
        "flags-of-3-octets",
        v3(
            discovery,
            scoped,
            ber.tlv(0x30, ber.integer(1) + ber.integer(484) + b"\x04\x03\x04\x00\x00" + ber.integer(3)),
        ),
    )
    yield (
        "privacy-only",
        v3(
            discovery,
            ber.tlv(4, bytes(16)),
            ber.tlv(0x30, ber.integer(1) + ber.integer(484) + b"\x04\x01\x06" + ber.integer(3)),
        ),
    )


def all_seeds() -> Iterator[tuple[str, bytes]]:
    """(name, input) of the whole corpus."""
    for name, pdu in pdus():
        for mode, text in ((1, "v1"), (2, "v2c"), (3, "noauth"), (4, "auth"), (5, "priv")):
            if mode in (2, 5) or name in ("get", "getnext", "get-counter64", "get-absent"):
                yield f"{text}-{name}", bytes((mode,)) + pdu
        if name in ("get", "getbulk"):
            yield f"decoders-{name}", b"\x07" + pdu
    for number, teacher in enumerate(TEACHERS):
        for how, text in enumerate(("v2c", "v1", "priv")):
            # another request-id and another row of the same length
            other = teacher.replace(b"\x12\x34\x56\x78", b"\x23\x45\x67\x89").replace(
                b"\x03\x05\x00", b"\x04\x05\x00"
            )
            yield f"taught-{text}-{number}", bytes((9, 4 * number + how)) + other
        yield f"taught-signed-{number}", bytes((9, 4 * number + 3)) + unsigned(teacher, 0x22334455)
        yield f"signed-{number}", b"\x08" + unsigned(teacher)
    engine = ber.tlv(4, bytes.fromhex("80007ed905666f7220667a"))
    get = request(GET, [SYS_NAME])
    yield "scoped-get", b"\x06" + engine + ber.tlv(4, b"") + get
    yield "scoped-context", b"\x06" + engine + ber.tlv(4, b"other") + get
    yield "scoped-engine", b"\x06" + ber.tlv(4, b"\x80\x00\x00\x01\x05") + ber.tlv(4, b"") + get
    yield "scoped-nothing", b"\x06"
    for name, datagram in broken():
        yield f"broken-{name}", b"\x00" + datagram
    for content in (b"\x2b\x06\x01", b"\x88\x37", b"\x2b" + b"\x8f\xff\xff\xff\x7f" * 126):
        yield f"decoders-oid-{len(content)}", b"\x07" + content


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in all_seeds():
        (FOLDER / f"{name}.bin").write_bytes(data)


if __name__ == "__main__":
    main()

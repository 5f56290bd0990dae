"""Targets, tags, filters and sources of RFC 3413 and RFC 3584 as pure functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.targets import (
    INFORM,
    TRANSPORT_UDP_V4,
    TRANSPORT_UDP_V6,
    TRANSPORT_UDP_V6Z,
    TRAP,
    UDP_V4,
    Address,
    Filter,
    FilterEntry,
    Sources,
    address_octets,
    is_tag_list,
    is_tag_value,
    parse_address,
    select,
    tags,
)


@dataclass(frozen=True)
class Row:
    index: tuple[Any, ...]
    values: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)


# -- addresses and tags -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "domain", "octets"),
    [
        (Address("192.0.2.9", 162), UDP_V4, "c000020900a2"),
        (Address("2001:db8::1", 10162), TRANSPORT_UDP_V6, "20010db800000000000000000000000127b2"),
        (Address("fe80::1", 162, 3), TRANSPORT_UDP_V6Z, "fe8000000000000000000000000000010000000300a2"),
    ],
)
def test_addresses_read_back(address: Address, domain: tuple[int, ...], octets: str) -> None:
    assert address_octets(address.host, address.port, address.zone) == (domain, bytes.fromhex(octets))
    assert parse_address(domain, bytes.fromhex(octets)) == address
    assert parse_address(domain, bytes.fromhex(octets)[:-1]) is None
    assert parse_address((1, 3, 6, 1, 6, 1, 4), bytes.fromhex(octets)) is None


def test_an_ipv4_address_inside_ipv6_is_one_of_ipv4() -> None:
    octets = bytes(10) + b"\xff\xff\xc0\x00\x02\x09\x00\xa2"
    assert parse_address(TRANSPORT_UDP_V6, octets) == Address("192.0.2.9", 162)


def test_both_names_of_udp_over_ipv4_mean_the_same() -> None:
    assert parse_address(TRANSPORT_UDP_V4, bytes(5) + b"\x01") == parse_address(UDP_V4, bytes(5) + b"\x01")


def test_a_host_that_is_a_name_is_none() -> None:
    with pytest.raises(ValueError, match="example"):
        address_octets("nms.example", 162)


@pytest.mark.parametrize(
    ("octets", "fine"),
    [
        (b"", True),
        (b"a", True),
        (b"a b", True),
        (b"a\tb\nc", True),
        (b" a", False),
        (b"a ", False),
        (b"a  b", False),
    ],
)
def test_tag_lists(octets: bytes, fine: bool) -> None:
    assert is_tag_list(octets) is fine
    assert is_tag_value(octets) is (fine and len(octets.split()) <= 1)


def test_a_tag_is_in_a_list_only_as_a_whole() -> None:
    assert tags(b"abc de\tf\r") == {b"abc", b"de", b"f"}
    assert b"ab" not in tags(b"abc de")


# -- filters ------------------------------------------------------------------------------------------------

LINK_DOWN = (1, 3, 6, 1, 6, 3, 1, 1, 5, 3)
IF_INDEX = (1, 3, 6, 1, 2, 1, 2, 2, 1, 1, 7)


def test_without_entries_everything_passes() -> None:
    assert Filter(()).passes(LINK_DOWN, [IF_INDEX])


def test_the_notification_must_be_included_and_no_instance_excluded() -> None:
    only = Filter([FilterEntry(LINK_DOWN[:-1])])
    assert only.passes(LINK_DOWN, [IF_INDEX]), "an instance that nothing matches is not excluded"
    assert not only.passes((1, 3, 6, 1, 4, 1, 9), [])
    without = Filter([FilterEntry((1,)), FilterEntry(IF_INDEX[:-1], included=False)])
    assert without.passes(LINK_DOWN, [])
    assert not without.passes(LINK_DOWN, [(1, 3, 6, 1, 2, 1, 1, 5, 0), IF_INDEX])
    assert not Filter([FilterEntry((1,), included=False)]).passes(LINK_DOWN, [])


def test_the_longest_subtree_decides_and_then_the_greatest() -> None:
    entries = [FilterEntry((1, 3)), FilterEntry((1, 3, 6), included=False), FilterEntry((1, 3, 6, 1))]
    assert Filter(entries).passes((1, 3, 6, 1, 9), [])
    assert not Filter(entries).passes((1, 3, 6, 2, 9), [])
    wild = FilterEntry((1, 3, 5, 1), False, b"\xd0")
    assert Filter([wild, FilterEntry((1, 3, 6, 1))]).passes((1, 3, 6, 1, 9), [])
    assert not Filter([FilterEntry((1, 3, 6, 1)), FilterEntry((1, 3, 7, 1), False, b"\xd0")]).passes(
        (1, 3, 6, 1), []
    )


def test_a_mask_is_filled_up_with_ones() -> None:
    entry = FilterEntry((1, 3, 6, 1, 2, 1, 2, 2, 1, 0, 7), True, b"\xff\xa0")
    assert entry.matches((1, 3, 6, 1, 2, 1, 2, 2, 1, 99, 7, 5))
    assert not entry.matches((1, 3, 6, 1, 2, 1, 2, 2, 1, 99, 8))
    assert FilterEntry((1, 3, 6, 1, 2, 1, 2, 2, 9, 9, 9), True, b"\xff\x1f").matches(
        (1, 3, 6, 1, 2, 1, 2, 2, 1, 1, 1)
    )
    assert not FilterEntry((1, 3, 6, 1, 2, 1, 2, 2, 1, 0), True, b"\xff").matches(
        (1, 3, 6, 1, 2, 1, 2, 2, 1, 1)
    )


oids = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
entries = st.builds(FilterEntry, oids, st.booleans(), st.binary(max_size=1))


@given(st.lists(entries, max_size=6, unique_by=lambda e: e.subtree), oids)
def test_the_decision_is_that_of_rfc_3413(rows: list[FilterEntry], oid: tuple[int, ...]) -> None:
    def bit(entry: FilterEntry, position: int) -> int:
        bits = "".join(f"{octet:08b}" for octet in entry.mask)
        return int(bits[position]) if position < len(bits) else 1

    fits = [
        (len(e.subtree), e.subtree, e.included)
        for e in rows
        if len(e.subtree) <= len(oid)
        and all(not bit(e, n) or e.subtree[n] == oid[n] for n in range(len(e.subtree)))
    ]
    wanted = max(fits)[2] if fits else None
    assert Filter(rows).passes(oid, []) is (wanted is True or not rows)
    base = FilterEntry((9,) * 8, True)
    assert Filter([*rows, base]).passes((9,) * 8, [oid]) is (wanted is not False)


# -- selection ----------------------------------------------------------------------------------------------


def address(name: bytes, tag_list: bytes, params: bytes = b"p", **more: Any) -> Row:
    domain, octets = address_octets("192.0.2.1", 162)
    values = {
        "snmpTargetAddrTDomain": domain,
        "snmpTargetAddrTAddress": octets,
        "snmpTargetAddrTimeout": 250,
        "snmpTargetAddrRetryCount": 2,
        "snmpTargetAddrTagList": tag_list,
        "snmpTargetAddrParams": params,
    }
    return Row((name,), {**values, **more})


def how(name: bytes, version: int, model: int, level: int = 1) -> Row:
    values = {
        "snmpTargetParamsMPModel": version,
        "snmpTargetParamsSecurityModel": model,
        "snmpTargetParamsSecurityName": b"who",
        "snmpTargetParamsSecurityLevel": level,
    }
    return Row((name,), values)


def notify(name: bytes, tag: bytes, kind: int = TRAP) -> Row:
    return Row((name,), {"snmpNotifyTag": tag, "snmpNotifyType": kind})


def chosen(
    addresses: list[Row], notifies: list[Row], params: list[Row], **more: Any
) -> list[tuple[str, int]]:
    extensions = {row.index: row for row in more.get("extensions", ())}
    selection = select(
        addresses, extensions, params, notifies, more.get("profiles", ()), more.get("filters", ())
    )
    return [(destination.name, kind) for destination, kind in selection.targets]


def test_tags_select_and_duplicates_count_once() -> None:
    addresses = [address(b"a", b"x y"), address(b"b", b"y"), address(b"c", b"xy"), address(b"d", b"")]
    notifies = [notify(b"1", b"x"), notify(b"2", b"y"), notify(b"3", b"y", INFORM), notify(b"4", b"")]
    assert chosen(addresses, notifies, [how(b"p", 3, 3, 3)]) == [
        ("a", TRAP),
        ("a", INFORM),
        ("b", TRAP),
        ("b", INFORM),
    ]


def test_snmpv1_gets_traps_where_informs_are_asked_for() -> None:
    assert chosen([address(b"a", b"x")], [notify(b"1", b"x", INFORM)], [how(b"p", 0, 1)]) == [("a", TRAP)]


@pytest.mark.parametrize(
    ("row", "params", "extension"),
    [
        (address(b"a", b"x", b"other"), how(b"p", 3, 3), None),
        (address(b"a", b"x"), how(b"p", 1, 3), None),
        (address(b"a", b"x"), how(b"p", 2, 2), None),
        (address(b"a", b"x", snmpTargetAddrTDomain=(1, 3)), how(b"p", 3, 3), None),
        (address(b"a", b"x", snmpTargetAddrTAddress=b"\xc0\0\2\1\0\0"), how(b"p", 3, 3), None),
        (address(b"a", b"x"), how(b"p", 3, 3), Row((b"a",), {"snmpTargetAddrTMask": b"\xff\xff\xff\0\0\0"})),
    ],
)
def test_rows_that_make_no_target(row: Row, params: Row, extension: Row | None) -> None:
    assert chosen([row], [notify(b"1", b"x")], [params], extensions=[extension] if extension else []) == []


def test_a_target_has_what_its_rows_say() -> None:
    profile = Row((b"p",), {"snmpNotifyFilterProfileName": b"f"})
    entry = Row((b"f", (1, 3)), {"snmpNotifyFilterType": 2, "snmpNotifyFilterMask": b""})
    other = Row((b"g", (1, 4)), {"snmpNotifyFilterType": 1, "snmpNotifyFilterMask": b""})
    extension = Row((b"a",), {"snmpTargetAddrTMask": b"\xff" * 6, "snmpTargetAddrMMS": 900})
    selection = select(
        [address(b"a", b"x")],
        {(b"a",): extension},
        [how(b"p", 1, 2)],
        [notify(b"1", b"x")],
        [profile],
        [entry, other],
    )
    ((destination, kind),) = selection.targets
    assert kind == TRAP
    assert (destination.timeout, destination.retries, destination.max_size) == (2.5, 2, 900)
    assert (destination.version, destination.model, destination.security_name) == (1, 2, "who")
    assert destination.filter is not None
    assert not destination.filter.passes((1, 3, 6), [])
    assert not destination.filter.passes((1, 4, 6), []), "the row of another profile"


def test_a_profile_without_filters_filters_nothing() -> None:
    profile = Row((b"p",), {"snmpNotifyFilterProfileName": b"none"})
    selection = select([address(b"a", b"x")], {}, [how(b"p", 3, 3)], [notify(b"1", b"x")], [profile], [])
    ((destination, _),) = selection.targets
    assert destination.filter is not None
    assert destination.filter.passes((1, 3), [(1, 3, 4)])


# -- sources of communities ---------------------------------------------------------------------------------


def source(
    host: str, port: int, mask: bytes | None = None, domain: tuple[int, ...] | None = None
) -> tuple[Row, Row | None]:
    found, octets = address_octets(host, port)
    row = Row((b"s",), {"snmpTargetAddrTDomain": domain or found, "snmpTargetAddrTAddress": octets})
    return row, None if mask is None else Row((b"s",), {"snmpTargetAddrTMask": mask})


def test_a_source_without_mask_is_one_address_and_port() -> None:
    sources = Sources([source("192.0.2.1", 500)])
    assert sources.ports_matter
    assert sources.permit("192.0.2.1", 500)
    assert not sources.permit("192.0.2.1", 501)
    assert not sources.permit("192.0.2.2", 500)
    assert Sources([source("192.0.2.1", 500, b"")]).permit("192.0.2.1", 500)


def test_a_mask_need_not_be_a_prefix() -> None:
    sources = Sources([source("10.0.0.1", 0, bytes((255, 0, 0, 255, 0, 0)))])
    assert not sources.ports_matter
    assert sources.permit("10.7.8.1", 9)
    assert sources.permit("::ffff:10.7.8.1", 9)
    assert not sources.permit("10.7.8.2", 9)
    assert not sources.permit("::a07:801", 9)


def test_sources_of_ipv6() -> None:
    sources = Sources([source("2001:db8::", 0, bytes((255,) * 4 + (0,) * 14))])
    assert sources.permit("2001:db8:9::1", 9)
    assert not sources.permit("2001:db9::1", 9)
    assert not sources.permit("192.0.2.1", 9)


def test_rows_that_make_no_sense_permit_nothing() -> None:
    assert not Sources([source("10.0.0.1", 0, b"\0\0\0")]).permit("10.0.0.1", 0)
    assert not Sources([source("10.0.0.1", 0, b"\0" * 6, (1, 3))]).permit("10.0.0.1", 0)
    assert not Sources([]).permit("10.0.0.1", 0)

"""Round trips of every payload and of whole messages, drawn by Hypothesis."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.keyex.ikev2 import narrowing
from ipsecstack.wire.ikev2 import (
    Attribute,
    Auth,
    Cert,
    CertReq,
    Cp,
    Delete,
    Eap,
    Encrypted,
    EncryptedFragment,
    Header,
    IdI,
    IdR,
    Ke,
    Nonce,
    Notify,
    Opaque,
    Payload,
    Sa,
    SaProposal,
    Transform,
    Ts,
    TsI,
    TsR,
    VendorId,
    WireError,
    build_message,
    describe,
    parse_message,
)

octet = st.integers(0, 255)
number = st.integers(0, 0xFFFF)
octets = st.binary(max_size=80)
attributes = st.one_of(
    st.builds(Attribute, st.integers(0, 0x7FFF), st.binary(min_size=2, max_size=2)),
    st.builds(Attribute, st.integers(0, 0x7FFF), st.binary(max_size=20), st.just(False)),
)
transforms = st.builds(Transform, octet, number, st.lists(attributes, max_size=3).map(tuple))
proposals = st.builds(
    SaProposal, octet, octet, st.binary(max_size=8), st.lists(transforms, max_size=6).map(tuple)
)
ipv4, ipv6 = st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)
selectors = st.one_of(
    st.builds(Ts, st.just(7), octet, number, number, ipv4, ipv4),
    st.builds(Ts, st.just(8), octet, number, number, ipv6, ipv6),
    st.builds(
        Ts, st.integers(9, 255), octet, st.just(0), st.just(0), st.none(), st.none(), st.binary(max_size=30)
    ),
)
selector_lists = st.lists(selectors, max_size=5).map(tuple)
spis = st.integers(1, 8).flatmap(lambda n: st.lists(st.binary(min_size=n, max_size=n), max_size=5)).map(tuple)
UNKNOWN = st.integers(1, 255).filter(lambda n: n not in range(33, 49) and n != 53)
payloads = st.one_of(
    st.builds(Sa, st.lists(proposals, min_size=1, max_size=4).map(tuple)),
    st.builds(Ke, number, st.binary(min_size=1, max_size=80)),
    st.builds(IdI, octet, octets),
    st.builds(IdR, octet, octets),
    st.builds(Cert, octet, octets),
    st.builds(CertReq, octet, octets),
    st.builds(Auth, octet, octets),
    st.builds(Nonce, st.binary(min_size=16, max_size=256)),
    st.builds(Notify, number, octets, octet, st.binary(max_size=8)),
    st.builds(Delete, octet, spis),
    st.builds(VendorId, octets),
    st.builds(TsI, selector_lists),
    st.builds(TsR, selector_lists),
    st.builds(Cp, octet, st.lists(st.tuples(st.integers(0, 0x7FFF), octets), max_size=6).map(tuple)),
    st.builds(Eap, octets),
    st.builds(Opaque, UNKNOWN, octets),
)
fragments = st.builds(
    lambda numbers, first, data: EncryptedFragment(
        first if min(numbers) == 1 else 0, min(numbers), max(numbers), data
    ),
    st.tuples(st.integers(1, 0xFFFF), st.integers(1, 0xFFFF)),
    st.integers(33, 48),
    octets,
)
headers = st.builds(
    Header,
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=8, max_size=8),
    st.just(0),
    st.integers(0, 15),
    st.integers(0, 15),
    octet,
    octet,
    st.integers(0, 2**32 - 1),
)


@given(
    headers,
    st.lists(payloads, max_size=8),
    st.one_of(st.none(), st.builds(Encrypted, st.integers(33, 48), octets), fragments),
)
def test_messages_round_trip(
    header: Header, items: list[Payload], sealed: Encrypted | EncryptedFragment | None
) -> None:
    chain = [*items, *([sealed] if sealed else [])]
    data = build_message(header, chain)
    message = parse_message(data)
    assert list(message.payloads) == chain
    assert build_message(message.header, message.payloads) == data
    assert message.header.length == len(data)
    assert "\n" not in describe(message)


@given(headers, st.lists(payloads, min_size=1, max_size=4), st.data())
def test_a_cut_message_is_an_error(header: Header, items: list[Payload], data: st.DataObject) -> None:
    whole = build_message(header, items)
    cut = data.draw(st.integers(0, len(whole) - 1))
    short = bytearray(whole[:cut])
    if cut >= 28:
        struct.pack_into("!I", short, 24, cut)
    try:
        parse_message(bytes(short))
    except WireError:
        return
    raise AssertionError("a message without its end was taken")


ranges = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**16)).map(
    lambda pair: (IPv4Address(pair[0]), IPv4Address(min(pair[0] + pair[1], 2**32 - 1)))
)
ports = st.one_of(
    st.just((0, 65535)), st.just((65535, 0)), st.tuples(number, number).map(lambda p: (min(p), max(p)))
)
traffic_selectors = st.builds(
    lambda r, protocol, p: TrafficSelector(r[0], r[1], protocol, p[0], p[1]),
    ranges,
    st.sampled_from([0, 6, 17]),
    ports,
)


@given(st.lists(traffic_selectors, min_size=1, max_size=6))
def test_traffic_selectors_round_trip(items: list[TrafficSelector]) -> None:
    wire = TsI(narrowing.to_wire(items))
    assert narrowing.from_wire(TsI.parse(wire.to_bytes()).selectors) == items


@given(
    st.lists(traffic_selectors, min_size=1, max_size=5), st.lists(traffic_selectors, min_size=1, max_size=5)
)
def test_narrowing_never_widens(own: list[TrafficSelector], offered: list[TrafficSelector]) -> None:
    """What comes out is inside both lists, is symmetric as a set of packets, and is all of what both have in common."""
    common = narrowing.narrow(own, offered)
    for ts in common:
        assert any(o.covers(ts) for o in own)
        assert any(o.covers(ts) for o in offered)
    for ours in own:
        for theirs in offered:
            both = ours.intersect(theirs)
            assert both is None or any(ts.covers(both) for ts in common)
    assert narrowing.narrow(common, common) == common if common else True

"""Laws of traffic selectors: intersection is narrowing, and the text form loses nothing."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecstack.ipsec.selectors import TrafficSelector


def _address(version: int) -> st.SearchStrategy[IPv4Address | IPv6Address]:
    # A small range makes ranges meet often; the wide one keeps the edges honest.
    width = 32 if version == 4 else 128
    kind = IPv4Address if version == 4 else IPv6Address
    base = int(IPv4Address("10.0.0.0")) if version == 4 else int(IPv6Address("fd00::"))
    return st.one_of(
        st.integers(base, base + 40), st.integers(0, 2**width - 1), st.sampled_from([0, 2**width - 1])
    ).map(kind)


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    version = draw(st.sampled_from([4, 4, 6]))
    start, end = sorted((draw(_address(version)), draw(_address(version))))
    protocol = draw(st.sampled_from([0, 0, 1, 6, 17, 58, 132, 200]))
    ports = draw(
        st.one_of(
            st.just((0, 65535)),
            st.just((65535, 0)),
            st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda p: (min(p), max(p))),
            st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda p: (min(p), max(p))),
        )
    )
    return TrafficSelector(start, end, protocol, *ports)


@st.composite
def packets_near(
    draw: st.DrawFn, *around: TrafficSelector
) -> tuple[IPv4Address | IPv6Address, int, int | None]:
    ts = draw(st.sampled_from(around))
    address = draw(st.sampled_from([ts.start, ts.end]) | _address(ts.version))
    protocol = draw(st.sampled_from([ts.protocol, 6, 17]))
    port = draw(st.sampled_from([None, ts.start_port, ts.end_port, 0, 65535]) | st.integers(0, 25))
    return address, protocol, port


@settings(deadline=None)
@given(selectors())
def test_text_round_trip(ts: TrafficSelector) -> None:
    assert TrafficSelector.from_text(ts.to_text()) == ts


@settings(deadline=None)
@given(selectors())
def test_every_selector_covers_itself(ts: TrafficSelector) -> None:
    assert ts.intersect(ts) == ts
    assert ts.covers(ts)


@settings(deadline=None)
@given(selectors(), selectors())
def test_intersection_commutes(a: TrafficSelector, b: TrafficSelector) -> None:
    assert a.intersect(b) == b.intersect(a)


@settings(deadline=None)
@given(selectors(), selectors(), selectors())
def test_intersection_is_associative(a: TrafficSelector, b: TrafficSelector, c: TrafficSelector) -> None:
    ab, bc = a.intersect(b), b.intersect(c)
    assert (ab.intersect(c) if ab else None) == (a.intersect(bc) if bc else None)


@settings(deadline=None)
@given(selectors(), selectors())
def test_narrowing_is_covered_by_both(a: TrafficSelector, b: TrafficSelector) -> None:
    narrowed = a.intersect(b)
    if narrowed is not None:
        assert a.covers(narrowed)
        assert b.covers(narrowed)
        # Narrowing again changes nothing: what the responder returns is stable.
        assert narrowed.intersect(a) == narrowed


@settings(deadline=None)
@given(selectors(), selectors())
def test_covering_is_antisymmetric(a: TrafficSelector, b: TrafficSelector) -> None:
    if a.covers(b) and b.covers(a):
        assert a == b


@settings(deadline=None)
@given(st.data())
def test_intersection_selects_what_both_select(data: st.DataObject) -> None:
    a, b = data.draw(selectors()), data.draw(selectors())
    packet = data.draw(packets_near(a, b))
    narrowed = a.intersect(b)
    both = a.matches(*packet) and b.matches(*packet)
    assert (narrowed is not None and narrowed.matches(*packet)) == both


@settings(deadline=None)
@given(st.data())
def test_cover_means_no_packet_escapes(data: st.DataObject) -> None:
    a, b = data.draw(selectors()), data.draw(selectors())
    packet = data.draw(packets_near(a, b))
    if a.covers(b) and b.matches(*packet):
        assert a.matches(*packet)

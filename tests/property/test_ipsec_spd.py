"""The SPD with its cache and quick look against a plain walk over the list."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import Action, Spd, SpdEntry
from ipsecstack.wire.ip import Flow, IPv4Header, IPv6Header, flow_key


@st.composite
def sides(draw: st.DrawFn) -> tuple[TrafficSelector, ...]:
    out = []
    for version in draw(st.lists(st.sampled_from([4, 4, 6]), min_size=1, max_size=3)):
        kind = IPv4Address if version == 4 else IPv6Address
        low = draw(st.integers(0, 8))
        high = draw(st.integers(low, 8))
        port = draw(st.sampled_from([(0, 65535), (65535, 0), (1, 2), (2, 2)]))
        out.append(TrafficSelector(kind(low), kind(high), draw(st.sampled_from([0, 6, 17])), *port))
    return tuple(out)


entries = st.builds(
    SpdEntry,
    name=st.sampled_from("abc"),
    action=st.sampled_from(list(Action)),
    local_ts=sides(),
    remote_ts=sides(),
    priority=st.integers(0, 2),
)
packets = st.tuples(
    st.sampled_from([4, 6]),
    st.integers(0, 8),
    st.integers(0, 8),
    st.sampled_from([6, 17, 99]),
    st.integers(0, 3),
    st.integers(0, 3),
)


def key_of(version: int, source: int, destination: int, protocol: int, sport: int, dport: int) -> bytes:
    body = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + bytes(4)
    if version == 4:
        head = IPv4Header(IPv4Address(source), IPv4Address(destination), protocol, 28).to_bytes()
    else:
        head = IPv6Header(IPv6Address(source), IPv6Address(destination), protocol, 8).to_bytes()
    return flow_key(head + body)


def plain(spd: Spd, key: bytes, outbound: bool) -> SpdEntry | None:
    """RFC 4301 §4.4.1 by the letter: the first entry of the list whose selectors match."""
    flow = Flow.from_key(key)
    ours = flow.source, flow.protocol, flow.source_port
    theirs = flow.destination, flow.protocol, flow.destination_port
    if not outbound:
        ours, theirs = theirs, ours
    for entry in spd:
        if any(ts.matches(*ours) for ts in entry.local_ts) and any(
            ts.matches(*theirs) for ts in entry.remote_ts
        ):
            return entry
    return None


@settings(max_examples=150, deadline=None)
@given(st.lists(entries, max_size=8, unique=True), st.lists(packets, min_size=1, max_size=12), st.data())
def test_lookup_is_the_first_match(
    listed: list[SpdEntry], flows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    spd = Spd(cache_size=5)
    for entry in listed:
        spd.add(entry)
    for _ in range(3):
        assert [e.priority for e in spd] == sorted(e.priority for e in spd)
        for fields in flows:
            key = key_of(*fields)
            assert spd.outbound(key) == plain(spd, key, True)
            assert spd.inbound(key) == plain(spd, key, False)
        if listed:
            assert spd.remove(listed.pop(data.draw(st.integers(0, len(listed) - 1))))

"""Order, match and cache of the SPD (RFC 4301 §4.4.1)."""

from __future__ import annotations

import pytest
from espkit import ts, udp

from ipsecstack.ipsec.spd import Action, Spd, SpdEntry, SpdError
from ipsecstack.wire.icmp import echo_request
from ipsecstack.wire.ip import flow_key, fragment_ipv4


def entry(name: str, action: Action, local: str, remote: str, priority: int = 10, reqid: int = 0) -> SpdEntry:
    return SpdEntry(name, action, ts(local), ts(remote), priority, reqid)


def key(
    source: str = "10.1.0.5", destination: str = "10.2.0.9", sport: int = 1000, dport: int = 2000
) -> bytes:
    return flow_key(udp(source, destination, 60, sport, dport))


def found(spd: Spd, flow: bytes) -> str | None:
    match = spd.outbound(flow)
    return match.name if match else None


def test_nothing_means_discard() -> None:
    spd = Spd()
    assert spd.outbound(key()) is None
    assert spd.inbound(key()) is None
    assert spd.clear_inbound(key()) is Action.DISCARD


def test_lower_priority_number_first_then_order_of_adding() -> None:
    spd = Spd()
    wide = entry("wide", Action.PROTECT, "10.1.0.0/24", "0.0.0.0/0", 10)
    second = entry("second", Action.DISCARD, "10.1.0.0/24", "10.2.0.0/24", 10)
    first = entry("first", Action.BYPASS, "10.1.0.0/24", "10.2.0.9/32", 5)
    for one in (wide, second):
        spd.add(one)
    assert found(spd, key()) == "wide"
    spd.add(first)
    assert found(spd, key()) == "first"
    assert [e.name for e in spd] == ["first", "wide", "second"]
    assert spd.remove(first)
    assert spd.remove(wide)
    assert found(spd, key()) == "second"
    assert not spd.remove(wide)


def test_same_entry_twice_is_refused() -> None:
    spd = Spd()
    spd.add(entry("x", Action.PROTECT, "10.1.0.0/24", "10.2.0.0/24"))
    with pytest.raises(SpdError, match="x is installed already"):
        spd.add(entry("x", Action.PROTECT, "10.1.0.0/24", "10.2.0.0/24"))


def test_ports_and_protocols() -> None:
    spd = Spd()
    spd.add(entry("dns", Action.PROTECT, "10.1.0.0/24[udp]", "10.2.0.0/24[udp/53-54]"))
    assert found(spd, key(dport=53)) == "dns"
    assert found(spd, key(dport=54)) == "dns"
    assert found(spd, key(dport=55)) is None
    assert found(spd, key(dport=53, source="10.1.1.5")) is None


def test_inbound_turns_the_sides() -> None:
    spd = Spd()
    spd.add(entry("dns", Action.PROTECT, "10.1.0.0/24[udp]", "10.2.0.0/24[udp/53]"))
    answer = key("10.2.0.9", "10.1.0.5", 53, 1000)
    assert spd.inbound(answer) is not None
    assert spd.outbound(answer) is None


def test_clear_traffic_that_should_be_protected_is_refused() -> None:
    spd = Spd()
    spd.add(entry("open", Action.BYPASS, "10.1.0.0/24", "10.2.0.9/32", 1))
    spd.add(entry("safe", Action.PROTECT, "10.1.0.0/24", "10.2.0.0/24", 2))
    assert spd.clear_inbound(key("10.2.0.9", "10.1.0.5")) is Action.BYPASS
    assert spd.clear_inbound(key("10.2.0.8", "10.1.0.5")) is Action.DISCARD


def test_icmp_type_and_code() -> None:
    from ipaddress import ip_address

    spd = Spd()
    spd.add(entry("ping", Action.PROTECT, "10.1.0.0/24[icmp/2048]", "10.2.0.0/24[icmp]"))
    ping = echo_request(ip_address("10.1.0.5"), ip_address("10.2.0.9"), 1, 1)
    assert found(spd, flow_key(ping)) == "ping"
    unreachable = ping[:20] + b"\x03\x01" + ping[22:]
    assert found(spd, flow_key(unreachable)) is None


def test_later_fragments_show_no_ports() -> None:
    packet = udp("10.1.0.5", "10.2.0.9", 1200, 1000, 53)
    first, later = fragment_ipv4(packet, 620)
    spd = Spd()
    spd.add(entry("port", Action.PROTECT, "10.1.0.0/24", "10.2.0.0/24[udp/53]", 1))
    assert found(spd, flow_key(first)) == "port"
    assert found(spd, flow_key(later)) is None
    spd.add(entry("opaque", Action.PROTECT, "10.1.0.0/24", "10.2.0.0/24[udp/opaque]", 2))
    assert found(spd, flow_key(later)) == "opaque"
    assert found(spd, key(dport=99)) is None
    spd.add(entry("any", Action.PROTECT, "10.1.0.0/24", "10.2.0.0/24", 0))
    assert found(spd, flow_key(later)) == "any"


def test_several_selectors_on_a_side() -> None:
    spd = Spd()
    spd.add(
        SpdEntry(
            "multi", Action.PROTECT, ts("10.1.0.0/24", "fd01::/64"), ts("10.2.0.0/24", "fd02::/64"), 1, 1
        )
    )
    assert found(spd, flow_key(udp("fd01::5", "fd02::9"))) == "multi"
    assert found(spd, key()) == "multi"
    assert found(spd, flow_key(udp("fd01::5", "fd03::9"))) is None


def test_cache_is_bounded() -> None:
    spd = Spd(cache_size=16)
    spd.add(entry("all", Action.PROTECT, "10.1.0.0/24", "10.2.0.0/24"))
    for port in range(100):
        assert found(spd, key(dport=port)) == "all"
    assert len(spd._cache) <= 16

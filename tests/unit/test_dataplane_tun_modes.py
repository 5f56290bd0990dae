"""AH, transport mode, IPIP interfaces and path MTU through TUN devices and the raw sockets of the daemon."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from espkit import describe, ts
from lab.netns import link, namespaces
from lab.tunhost import A6, AH_KEYS, B6, A, B, Host, connect

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.tun import TunDataPlane
from ipsecstack.ipsec.sa import Address, Direction, Mode
from ipsecstack.ipsec.spd import Action, SpdEntry


@pytest.fixture
def hosts(require_root: None) -> Iterator[tuple[Host, Host]]:
    with namespaces("ea", "eb") as (a, b):
        link(a, b)
        out = []
        for ns, end, lan in ((a, 1, 1), (b, 2, 2)):
            ns.add_address(f"192.0.2.{end}/24", f"2001:db8::{end}/64", device="wan")
            ns.add_address(f"10.{lan}.0.1/24", f"fd0{lan}::1/64")
            out.append(Host(ns, ns.inside(TunDataPlane)))
        try:
            yield out[0], out[1]
        finally:
            for host in out:
                host.stop()


def planes(hosts: tuple[Host, Host]) -> tuple[TunDataPlane, TunDataPlane]:
    return hosts[0].plane, hosts[1].plane


def ping(host: Host, address: str, *options: str) -> None:
    out = host.ns.run("ping", "-c", "3", "-i", "0.1", "-W", "3", *options, address)
    assert re.search(r"3 (packets )?transmitted, 3 (packets )?received", out), out


def clean(hosts: tuple[Host, Host], packets: int) -> None:
    """Everything went through the SAs, and nothing was wrong."""
    for host in hosts:
        assert not host.failures
        counters = [sa.counters for sa in host.plane.sad]
        assert all(c.packets >= packets for c in counters)
        assert all(
            c.integrity_errors + c.policy_errors + c.other_errors + c.replay_errors == 0 for c in counters
        )


@pytest.mark.parametrize("protocol", ["esp", "ah"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
def test_ping_and_long_datagrams(
    hosts: tuple[Host, Host], require_tool: Callable[[str], str], protocol: str, version: int, mode: Mode
) -> None:
    require_tool("ping")
    ends = (A, B) if version == 4 else (A6, B6)
    if mode is Mode.TRANSPORT:
        inside = [str(end.host) for end in ends]
        left, right = ts(inside[0]), ts(inside[1])
    else:
        inside = ["10.1.0.1", "10.2.0.1"] if version == 4 else ["fd01::1", "fd02::1"]
        left, right = (ts(f"{address}/{24 if version == 4 else 64}") for address in inside)
    connect(planes(hosts), ends, left, right, mode=mode, **(AH_KEYS if protocol == "ah" else {}))
    ping(hosts[0], inside[1])
    ping(hosts[1], inside[0], "-s", "3000")
    clean(hosts, 6)


@pytest.mark.parametrize("version", [4, 6])
def test_a_narrow_path_is_learned(
    require_root: None, require_tool: Callable[[str], str], version: int
) -> None:
    """A router with a narrow link behind it tells us, and we tell the sender inside."""
    require_tool("ping")
    with namespaces("na", "nr", "nb") as (a, r, b):
        for ns, far, end in ((a, "toa", 1), (b, "tob", 2)):
            ns.ip(f"link add wan type veth peer name {far} netns {r.name}", "link set wan up")
            r.ip(f"link set {far} up")
            ns.add_address(f"192.0.{end}.1/24", f"2001:db8:{end}::1/64", device="wan")
            r.add_address(f"192.0.{end}.254/24", f"2001:db8:{end}::fe/64", device=far)
            ns.ip(f"route add default via 192.0.{end}.254", f"route add ::/0 via 2001:db8:{end}::fe")
            ns.add_address(f"10.{end}.0.1/24", f"fd0{end}::1/64")
        r.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        r.ip("link set tob mtu 1320")
        b.ip("link set wan mtu 1320")
        pair = (Host(a, a.inside(TunDataPlane)), Host(b, b.inside(TunDataPlane)))
        try:
            texts = ("192.0.1.1", "192.0.2.1") if version == 4 else ("2001:db8:1::1", "2001:db8:2::1")
            ends = (Address(ip_address(texts[0])), Address(ip_address(texts[1])))
            inside = ("10.1.0.0/24", "10.2.0.0/24")
            connect(planes(pair), ends, ts(inside[0]), ts(inside[1]))
            plane = pair[0].plane
            wide = plane.sad.outbound(1)[0].max_packet
            sender = a.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sender.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
            sender.connect(("10.2.0.1", 9))
            sender.send(bytes(1340))
            deadline = time.monotonic() + 5
            while not plane.counters.mtu_lowered and time.monotonic() < deadline:
                time.sleep(0.02)
            assert plane.counters.mtu_lowered == 1
            narrow = plane.sad.outbound(1)[0].max_packet
            assert narrow < 1320 < wide
            sender.send(bytes(1340))
            while (
                sender.getsockopt(socket.IPPROTO_IP, 14) != narrow and time.monotonic() < deadline
            ):  # IP_MTU
                time.sleep(0.02)
            assert sender.getsockopt(socket.IPPROTO_IP, 14) == narrow
            sender.close()
            ping(pair[0], "10.2.0.1", "-s", "2000")
        finally:
            for host in pair:
                host.stop()


def test_an_spd_for_each_virtual_interface(
    hosts: tuple[Host, Host], require_tool: Callable[[str], str]
) -> None:
    """RFC 3884 §3: routes first, then the interface's own policies; what an SA receives comes out of its interface."""
    require_tool("ping")
    a, b = hosts
    everything = ts("0.0.0.0/0")
    for number, name in ((1, "red"), (2, "blue")):
        fields = {"interface": name, "reqid": number, "encapsulated": False}
        spi = 0x5000 + 0x100 * number
        there, back = (Direction.OUT, Direction.IN), (Direction.IN, Direction.OUT)
        for host, (one, other) in ((a, there), (b, back)):
            host.plane.install(
                describe(one, spi, A, B, local_ts=everything, remote_ts=everything, **fields), 0
            )
            host.plane.install(
                describe(other, spi + 1, B, A, local_ts=everything, remote_ts=everything, **fields), 0
            )
            entry = SpdEntry(f"net/{name}", Action.PROTECT, everything, everything, 1, number, interface=name)
            host.ns.inside(lambda h=host, e=entry: h.plane.add_policy(e))
        for host, mine, other in ((a, 1, 2), (b, 2, 1)):
            host.ns.add_address(f"10.{50 + number}.{mine}.1/24", device=name)
            host.ns.ip(f"route add 10.{50 + number}.{other}.0/24 dev {name}")
    ping(a, "10.51.2.1")
    counts = {sa.id.spi: sa.counters.packets for sa in b.plane.sad}
    assert counts == {0x5100: 3, 0x5101: 3, 0x5200: 0, 0x5201: 0}
    # The route moves to the other interface: no new SA is needed, and the answers come back there.
    a.ns.ip("route replace 10.51.2.0/24 dev blue src 10.52.1.1")
    ping(a, "10.51.2.1")
    assert {sa.id.spi: sa.counters.packets for sa in b.plane.sad} == {
        0x5100: 3,
        0x5101: 3,
        0x5200: 3,
        0x5201: 3,
    }
    # A strict host takes what came by the wrong interface for a forgery: the SA's interface is where it came out.
    b.ns.sysctl(ipv4__conf__all__rp_filter=1, ipv4__conf__red__rp_filter=1, ipv4__conf__blue__rp_filter=1)
    a.ns.ip("route replace 10.51.2.0/24 dev blue src 10.51.1.1")
    lost = a.ns.inside(lambda: os.system("ping -c 1 -W 1 10.51.2.1 > /dev/null 2>&1"))
    assert lost != 0
    assert next(sa for sa in b.plane.sad if sa.id.spi == 0x5200).counters.packets == 4
    # Without policies the interfaces are gone.
    for host in hosts:
        for entry in list(host.plane.policies()):
            host.plane.remove_policy(entry)
        assert "red" not in host.ns.run("ip", "-br", "link")
    # A device that someone deletes comes back with the next change of links.
    entry = SpdEntry("net/green", Action.PROTECT, everything, everything, 1, 7, interface="green")
    a.ns.inside(lambda: a.plane.add_policy(entry))
    a.ns.ip("link del green")
    a.ns.inside(a.plane.addresses_changed)
    assert "green" in a.ns.run("ip", "-br", "link")
    with pytest.raises(DataPlaneError, match="interface name"):
        a.plane.add_policy(replace(entry, interface="no such name"))
    assert a.plane.policies() == (entry,)

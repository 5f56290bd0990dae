"""The TUN plane with the kernel around it: routes, rules, and real packets between two namespaces."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import pytest
from espkit import A, B, describe, ts
from lab.netns import Namespace, link, namespaces

from ipsecstack.dataplane import tun_device
from ipsecstack.dataplane.base import DataPlaneError, EspDatagrams
from ipsecstack.dataplane.coalesce import Run, coalesce
from ipsecstack.dataplane.routes import Rule, networks, rules_for, source_hint
from ipsecstack.dataplane.tun import TunDataPlane
from ipsecstack.ipsec.sa import Address, Direction
from ipsecstack.ipsec.spd import Action, SpdEntry

MARK = 0x10C5


def policy(
    local: str, remote: str, name: str = "c/k", action: Action = Action.PROTECT, priority: int = 1
) -> SpdEntry:
    return SpdEntry(name, action, ts(local), ts(remote), priority, 1)


# --- pure ---


def test_ranges_become_prefixes() -> None:
    assert list(networks(ts("10.0.0.5-10.0.0.8", "fd00::/64"))) == [
        ip_network(text) for text in ("10.0.0.5/32", "10.0.0.6/31", "10.0.0.8/32", "fd00::/64")
    ]


def test_source_hint_is_of_the_right_family_and_range() -> None:
    from ipaddress import ip_address

    addresses = [ip_address(text) for text in ("192.0.2.1", "fd01::1", "10.1.0.7", "10.1.0.8")]
    assert source_hint(ts("10.1.0.0/24"), 4, addresses) == ip_address("10.1.0.7")
    assert source_hint(ts("10.1.0.0/24", "fd01::/64"), 6, addresses) == ip_address("fd01::1")
    assert source_hint(ts("10.9.0.0/24"), 4, addresses) is None


def test_no_policy_no_rule() -> None:
    assert rules_for(4, [], True, 100, 1, "t") == []
    assert all(isinstance(rule, Rule) for rule in rules_for(6, [ip_network("::/0")], True, 100, 1, "t"))


# --- with the kernel ---


@pytest.fixture
def ns(require_root: None) -> Iterator[Namespace]:
    """A host with an outer address, default routes and a LAN address of both versions."""
    with namespaces("gw") as (gw,):
        gw.ip("link add wan type veth peer name peer")
        for device in ("wan", "peer"):  # without link-local addresses, which come when they like
            gw.ip(f"link set {device} addrgenmode none", f"link set {device} up")
        gw.add_address("192.0.2.1/24", "2001:db8::1/64", device="wan")
        gw.add_address("10.1.0.1/24", "fd01::1/64")
        gw.ip("route add default via 192.0.2.254", "route add ::/0 via 2001:db8::fe")
        yield gw


def state(ns: Namespace) -> str:
    return "\n".join(
        ns.run("ip", *words.split())
        for words in ("rule", "-6 rule", "route show table all", "-6 route show table all", "-br link")
    )


def goes_by_tunnel(ns: Namespace, *route: str) -> bool:
    return " dev ipsec0 " in ns.run("ip", "route", "get", *route)


@pytest.mark.parametrize("wide", [False, True])
def test_routes_follow_policies_and_leave_no_trace(ns: Namespace, wide: bool) -> None:
    before = state(ns)
    plane = ns.inside(TunDataPlane)
    four = policy("10.1.0.0/24", "0.0.0.0/0" if wide else "10.2.0.0/24")
    six = policy("fd01::/64", "::/0" if wide else "fd02::/64", "c/six")
    plane.add_policy(four)
    plane.add_policy(six)
    for inside, outer, lan in (("10.2.0.9", "192.0.2.1", "10.1.0.1"), ("fd02::9", "2001:db8::1", "fd01::1")):
        assert goes_by_tunnel(ns, inside)
        assert f"src {lan} " in ns.run("ip", "route", "get", inside)
        assert goes_by_tunnel(ns, inside, "from", lan)
        # Another source, and marked sockets, keep their way.
        assert not goes_by_tunnel(ns, inside, "from", outer)
        assert not goes_by_tunnel(ns, inside, "mark", hex(MARK))
        assert not goes_by_tunnel(ns, inside, "from", lan, "mark", hex(MARK))
    assert goes_by_tunnel(ns, "8.8.8.8") is wide
    plane.remove_policy(four)
    assert not goes_by_tunnel(ns, "10.2.0.9")
    assert goes_by_tunnel(ns, "fd02::9")
    plane.remove_policy(six)
    rules = ns.run("ip", "rule") + ns.run("ip", "-6", "rule")
    assert "4303" not in rules
    plane.add_policy(four)
    plane.close()
    assert state(ns) == before


def test_peer_inside_the_remote_selector_stays_reachable(ns: Namespace) -> None:
    """Host to host: the peer's outer address is what is protected; only marked sockets reach it outside."""
    plane = ns.inside(TunDataPlane)
    plane.add_policy(policy("192.0.2.1/32", "192.0.2.2/32"))
    assert goes_by_tunnel(ns, "192.0.2.2")
    assert " dev wan " in ns.run("ip", "route", "get", "192.0.2.2", "mark", hex(plane.socket_mark))
    plane.close()


def test_decapsulated_packets_for_attached_networks_do_not_return(ns: Namespace) -> None:
    ns.ip(
        "link add lan type veth peer name host",
        "link set lan up",
        "link set host up",
        "addr add 10.1.5.1/24 dev lan",
    )
    ns.sysctl(ipv4__ip_forward=1)
    plane = ns.inside(TunDataPlane)
    plane.add_policy(policy("10.1.0.0/16", "0.0.0.0/0"))
    # A spoke's packet that comes out of the tunnel: to the attached network, and to another spoke.
    assert " dev lan " in ns.run("ip", "route", "get", "10.1.5.7", "from", "10.1.77.7", "iif", "ipsec0")
    assert goes_by_tunnel(ns, "10.8.0.1", "from", "10.1.77.7", "iif", "ipsec0")
    plane.close()


def test_source_hint_follows_addresses(ns: Namespace) -> None:
    plane = ns.inside(TunDataPlane)
    plane.add_policy(policy("10.77.0.0/24", "10.2.0.0/24"))
    assert "src 10.77" not in ns.run("ip", "route", "show", "table", "4303")
    ns.add_address("10.77.0.3/24")
    plane.addresses_changed()
    assert "src 10.77.0.3" in ns.run("ip", "route", "show", "table", "4303")
    assert goes_by_tunnel(ns, "10.2.0.9")
    plane.close()


def test_routes_of_others_are_left_alone(ns: Namespace) -> None:
    ns.ip("route add 10.2.0.0/24 via 192.0.2.77", "rule add from 10.50.0.0/24 lookup 77 priority 4305")
    before = state(ns)
    plane = ns.inside(TunDataPlane)
    plane.add_policy(policy("10.1.0.0/24", "10.2.0.0/24"))
    plane.close()
    assert state(ns) == before


def test_a_crash_leaves_nothing_that_matters_and_the_next_one_clears_it(
    ns: Namespace, repository: Any
) -> None:
    before = state(ns)
    code = (
        "import os, sys; sys.path[:0] = ['tests', '.']\n"
        "from espkit import ts\n"
        "from ipsecstack.dataplane.tun import TunDataPlane\n"
        "from ipsecstack.ipsec.spd import Action, SpdEntry\n"
        "plane = TunDataPlane()\n"
        "plane.add_policy(SpdEntry('c/k', Action.PROTECT, ts('10.1.0.0/24'), ts('0.0.0.0/0'), 1, 1))\n"
        "print('up', flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(ns.argv(sys.executable, "-c", code), cwd=repository, capture_output=True, text=True)
    assert done.stdout == "up\n", done.stderr
    assert done.returncode == -9 or done.returncode == 137
    deadline = time.monotonic() + 5
    while "ipsec0" in ns.run("ip", "-br", "link") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert " dev wan " in ns.run("ip", "route", "get", "8.8.8.8")
    assert "proto 150" in ns.run("ip", "rule")
    plane = ns.inside(TunDataPlane)
    assert "proto 150" not in ns.run("ip", "rule")
    plane.close()
    assert state(ns) == before


def test_two_instances_need_two_names_and_tables(ns: Namespace) -> None:
    first = ns.inside(TunDataPlane)
    first.add_policy(policy("10.1.0.0/24", "10.2.0.0/24"))
    with pytest.raises(DataPlaneError, match="another name"):
        ns.inside(TunDataPlane)
    with pytest.raises(DataPlaneError, match="table 4303 is in use by ipsec0"):
        ns.inside(lambda: TunDataPlane("ipsec1"))
    second = ns.inside(lambda: TunDataPlane("ipsec%d", table=4400))
    assert second.name == "ipsec1"
    second.add_policy(policy("10.1.0.0/24", "10.3.0.0/24"))
    second.close()
    assert goes_by_tunnel(ns, "10.2.0.9")
    first.close()


@pytest.mark.parametrize("name", ["", "x" * 16, "a b", "a/b"])
def test_bad_names(name: str) -> None:
    with pytest.raises(DataPlaneError, match="no interface name"):
        TunDataPlane(name)


def test_a_name_of_another_kind_is_refused(ns: Namespace) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DataPlaneError, match="lo cannot be made"):
        ns.inside(lambda: TunDataPlane("lo"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_refused_route_leaves_nothing_half_done(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    plane = ns.inside(TunDataPlane)
    before = state(ns)
    kernel_rule = plane._routes._ipr.rule

    def refuse(command: str, **arguments: Any) -> Any:
        from pyroute2.netlink.exceptions import NetlinkError

        if command == "add" and "src" in arguments:
            raise NetlinkError(1, "refused")
        return kernel_rule(command, **arguments)

    monkeypatch.setattr(plane._routes._ipr, "rule", refuse)
    with pytest.raises(DataPlaneError, match="refused"):
        plane.add_policy(policy("10.1.0.0/24", "10.2.0.0/24"))
    assert plane.policies() == ()
    assert state(ns) == before
    plane.close()


def test_bypass_leaves_through_the_default_way(ns: Namespace) -> None:
    plane = ns.inside(TunDataPlane)
    plane.add_policy(policy("10.1.0.0/24", "10.2.0.0/16"))
    plane.add_policy(policy("10.1.0.0/24", "10.2.7.0/24", "open", Action.BYPASS, 0))
    ns.ip("neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 dev wan")
    sniffer = ns.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)))
    sniffer.bind(("peer", 0x0800))
    sniffer.settimeout(3)
    sender = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.sendto(b"in the clear", ("10.2.7.7", 9))
    assert select.select([plane.device_fileno()], [], [], 3)[0]
    assert ns.inside(lambda: plane.read_device(0.0)) == []
    assert sniffer.recv(2000).endswith(b"in the clear")
    assert (plane.counters.bypassed_out, plane.counters.send_errors) == (1, 0)
    for s in (sniffer, sender):
        s.close()
    plane.close()


# --- two gateways ---


@dataclass
class Gateway:
    """A TUN plane in a namespace, its UDP socket, and the thread that moves packets between them."""

    ns: Namespace
    plane: TunDataPlane
    socket: socket.socket
    own: Address

    def __post_init__(self) -> None:
        self.stopping = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        fd = self.plane.device_fileno()
        while not self.stopping:
            ready = select.select([fd, self.socket], [], [], 0.05)[0]
            now = time.monotonic()
            if fd in ready:
                for batch in self.plane.read_device(now):
                    for packet in batch.packets:
                        self.socket.sendto(packet, (str(batch.remote.host), batch.remote.port))
            if self.socket in ready:
                self.plane.receive(self.drain(), now)

    def drain(self) -> list[EspDatagrams]:
        """All that waits in the socket: what comes after each other can be coalesced."""
        batches: list[EspDatagrams] = []
        with contextlib.suppress(BlockingIOError):
            while len(batches) < 64:
                data, (host, port) = self.socket.recvfrom(65536, socket.MSG_DONTWAIT)
                remote = Address(type(self.own.host)(host), port)
                batches.append(EspDatagrams(self.own, remote, True, [data]))
        return batches

    def stop(self) -> None:
        self.stopping = True
        self.thread.join()
        self.plane.close()
        self.socket.close()


@pytest.fixture
def gateways(require_root: None) -> Iterator[tuple[Gateway, Gateway]]:
    with namespaces("a", "b") as (a, b):
        link(a, b)
        out = []
        for ns, outer, lan, lan6 in (
            (a, "192.0.2.1", "10.1.0.1", "fd01::1"),
            (b, "192.0.2.2", "10.2.0.1", "fd02::1"),
        ):
            ns.add_address(f"{outer}/24", device="wan")
            ns.add_address(f"{lan}/24", f"{lan6}/64")
            plane = ns.inside(TunDataPlane)
            udp = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, plane.socket_mark)
            udp.bind((outer, 4500))
            out.append((ns, plane, udp))
        left, right = ts("10.1.0.0/24", "fd01::/64"), ts("10.2.0.0/24", "fd02::/64")
        (_, plane_a, _), (_, plane_b, _) = out
        plane_a.install(describe(Direction.OUT, 1000, A, B, local_ts=left, remote_ts=right), 0)
        plane_b.install(describe(Direction.IN, 1000, A, B, local_ts=right, remote_ts=left), 0)
        plane_b.install(describe(Direction.OUT, 2000, B, A, local_ts=right, remote_ts=left), 0)
        plane_a.install(describe(Direction.IN, 2000, B, A, local_ts=left, remote_ts=right), 0)
        plane_a.add_policy(SpdEntry("c/k", Action.PROTECT, left, right, 1, 1))
        plane_b.add_policy(SpdEntry("c/k", Action.PROTECT, right, left, 1, 1))
        pair = Gateway(*out[0], A), Gateway(*out[1], B)
        try:
            yield pair
        finally:
            for gateway in pair:
                gateway.stop()


def test_ping_and_tcp_through_the_tunnel(gateways: tuple[Gateway, Gateway], require_tool: Any) -> None:
    a, b = gateways
    require_tool("ping")
    for address in ("10.2.0.1", "fd02::1"):
        out = a.ns.run("ping", "-c", "3", "-i", "0.1", "-W", "3", address)
        assert re.search(r"3 (packets )?transmitted, 3 (packets )?received", out), out
    sent = b.plane.sad.outbound(1)[0].counters
    assert (sent.packets, sent.octets) == (6, 3 * 84 + 3 * 104)

    server = b.ns.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.bind(("10.2.0.1", 7000))
    server.listen()
    client = a.ns.socket(socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(20)
    client.connect(("10.2.0.1", 7000))
    assert client.getsockname()[0] == "10.1.0.1"
    accepted, _ = server.accept()
    data = os.urandom(300_000)
    writer = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
    writer.start()
    received = bytearray()
    accepted.settimeout(20)
    while chunk := accepted.recv(65536):
        received += chunk
    writer.join()
    assert bytes(received) == data
    for s in (server, client, accepted):
        s.close()
    for gateway in gateways:
        assert gateway.plane.counters.device_errors == 0
        assert all(sa.counters.integrity_errors == 0 for sa in gateway.plane.sad)


def test_mixed_traffic_arrives_as_it_was_sent(
    gateways: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TCP streams both ways over both IP versions, and UDP among them: coalesced on the way, whole at the end."""
    a, b = gateways
    sizes: list[int] = []

    def coalescing(packets: Sequence[bytes | memoryview]) -> Iterator[Run]:
        for run in coalesce(packets):
            sizes.append(run.number)
            yield run

    monkeypatch.setattr(tun_device, "coalesce", coalescing)
    threads: list[threading.Thread] = []
    results: list[bool] = []
    sockets: list[socket.socket] = []

    def pump(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
        def read() -> None:
            received = bytearray()
            while chunk := receiver.recv(65536):
                received += chunk
            results.append(bytes(received) == data)

        def write() -> None:
            for start in range(0, len(data), 50_001):  # pushed segments of odd lengths among the full ones
                sender.sendall(data[start : start + 50_001])
            sender.shutdown(socket.SHUT_WR)

        threads.extend(threading.Thread(target=work) for work in (read, write))

    for number, (family, server_address) in enumerate(
        [(socket.AF_INET, "10.2.0.1"), (socket.AF_INET6, "fd02::1")] * 2
    ):
        server = b.ns.socket(family, socket.SOCK_STREAM)
        server.bind((server_address, 7000 + number))
        server.listen()
        client = a.ns.socket(family, socket.SOCK_STREAM)
        client.settimeout(20)
        client.connect((server_address, 7000 + number))
        accepted, _ = server.accept()
        accepted.settimeout(20)
        sockets += (server, client, accepted)
        pump(client, accepted, os.urandom(400_000))
        pump(accepted, client, os.urandom(200_000))
    listener = b.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("10.2.0.1", 9000))
    talker = a.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    talker.connect(("10.2.0.1", 9000))
    sockets += (listener, talker)
    datagrams = [number.to_bytes(4, "big") + os.urandom(96) for number in range(200)]
    for thread in threads:
        thread.start()
    for start in range(0, len(datagrams), 20):
        for datagram in datagrams[start : start + 20]:
            talker.send(datagram)
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert results == [True] * 8
    listener.settimeout(0.3)
    arrived: list[bytes] = []
    with contextlib.suppress(TimeoutError):
        while True:
            arrived.append(listener.recv(2000))
    # UDP may be lost where queues are full, but is neither changed nor reordered.
    assert arrived == [datagram for datagram in datagrams if datagram in set(arrived)]
    assert len(arrived) > 100
    assert max(sizes) > 4
    for sock in sockets:
        sock.close()
    for gateway in gateways:
        assert gateway.plane.counters.device_errors == 0
        assert all(sa.counters.integrity_errors == 0 for sa in gateway.plane.sad)


def test_path_mtu_reaches_the_sender(gateways: tuple[Gateway, Gateway]) -> None:
    a, _ = gateways
    a.plane.set_path_mtu(B.host, 1000)
    fits = a.plane.sad.outbound(1)[0].max_packet
    sender = a.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
    sender.connect(("10.2.0.1", 9))
    sender.send(bytes(1200))
    deadline = time.monotonic() + 5
    while sender.getsockopt(socket.IPPROTO_IP, 14) != fits and time.monotonic() < deadline:  # IP_MTU
        time.sleep(0.02)
    assert sender.getsockopt(socket.IPPROTO_IP, 14) == fits
    sender.close()


def test_nothing_in_the_clear_on_the_wire(gateways: tuple[Gateway, Gateway]) -> None:
    a, b = gateways
    sniffer = b.ns.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003)))
    sniffer.bind(("wan", 0x0003))
    sniffer.settimeout(0.3)
    a.ns.run("ping", "-c", "2", "-i", "0.1", "-p", "c0ffee", "10.2.0.1")
    seen = []
    try:
        while True:
            seen.append(sniffer.recv(2000))
    except TimeoutError:
        pass
    sniffer.close()
    assert any(b"\x11\x94\x11\x94" in packet for packet in seen)
    assert not any(bytes.fromhex("c0ffeec0ffee") in packet for packet in seen)


def test_routes_come_back_after_the_device_was_down(ns: Namespace) -> None:
    plane = ns.inside(TunDataPlane)
    one, two = policy("10.1.0.0/24", "10.2.0.0/24"), policy("fd01::/64", "fd02::/64", "c/six")
    plane.add_policy(one)
    plane.add_policy(two)
    before = state(ns)
    ns.ip("link set ipsec0 down")
    plane.addresses_changed()  # nothing can be installed now, and that is no error
    plane.remove_policy(one)
    plane.add_policy(one)
    assert plane.read_device(0.0) == []
    ns.ip("link set ipsec0 up")
    plane.addresses_changed()
    assert state(ns) == before
    plane.close()


def test_routes_come_back_after_an_address_went(ns: Namespace) -> None:
    ns.sysctl(ipv4__ip_forward=1)
    plane = ns.inside(TunDataPlane)
    plane.add_policy(policy("10.1.0.0/24", "10.2.0.0/24"))
    ns.ip("addr del 10.1.0.1/24 dev lo")
    plane.addresses_changed()
    assert goes_by_tunnel(ns, "10.2.0.9", "from", "10.1.0.7", "iif", "wan")
    ns.add_address("10.1.0.1/24")
    plane.addresses_changed()
    assert "src 10.1.0.1" in ns.run("ip", "route", "get", "10.2.0.9")
    plane.close()


def test_a_deleted_device_is_made_again(ns: Namespace) -> None:
    before = state(ns)
    plane = ns.inside(TunDataPlane)
    plane.add_policy(policy("10.1.0.0/24", "10.2.0.0/24"))
    ns.ip("link del ipsec0")
    with pytest.raises(OSError, match="bad state"):
        plane.read_device(0.0)
    ns.inside(plane.repair)
    assert goes_by_tunnel(ns, "10.2.0.9")
    sender = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.sendto(b"x", ("10.2.0.9", 9))
    sender.close()
    assert select.select([plane.device_fileno()], [], [], 3)[0]
    assert plane.read_device(0.0) == []
    assert plane.counters.no_sa_out == 1
    descriptor = plane.device_fileno()
    ns.inside(plane.repair)  # nothing was wrong: the device stays
    assert plane.device_fileno() == descriptor
    plane.close()
    assert state(ns) == before


def test_policies_share_a_route_and_the_last_one_takes_it_away(ns: Namespace) -> None:
    plane = ns.inside(TunDataPlane)
    before = state(ns)
    with_address, without = (
        policy("10.1.0.0/24", "10.2.0.0/24"),
        policy("10.66.0.0/24", "10.2.0.0/24", "c/other"),
    )
    plane.add_policy(without)
    assert "src" not in ns.run("ip", "route", "show", "table", "4303")
    plane.add_policy(with_address)
    assert "src 10.1.0.1" in ns.run("ip", "route", "show", "table", "4303")
    plane.remove_policy(with_address)
    table = ns.run("ip", "route", "show", "table", "4303")
    assert "10.2.0.0/24" in table
    assert "src" not in table
    assert "from 10.1.0.0/24" not in ns.run("ip", "rule")
    assert "from 10.66.0.0/24" in ns.run("ip", "rule")
    plane.remove_policy(without)
    assert state(ns) == before
    plane.close()

"""AH, transport mode, IPIP interfaces and path MTU through TUN devices and the raw sockets of the daemon."""

from __future__ import annotations

import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import pytest
from espkit import describe, ts
from lab.netns import Namespace, link, namespaces

from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.dataplane.tun import TunDataPlane
from ipsecstack.io.raw import AH, ESP, ICMP, ICMPV6, HeaderSocket, RawSocket
from ipsecstack.ipsec.sa import Address, Direction, Mode, SecurityProtocol
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.wire.transforms import EncrId, IntegId

A, B = Address(ip_address("192.0.2.1")), Address(ip_address("192.0.2.2"))
A6, B6 = Address(ip_address("2001:db8::1")), Address(ip_address("2001:db8::2"))
AH_KEYS: dict[str, Any] = {
    "protocol": SecurityProtocol.AH,
    "encr": EncrId.NULL,
    "encr_key_bits": 0,
    "key_encr": b"",
    "integ": IntegId.HMAC_SHA2_256_128,
    "key_integ": bytes(range(32)),
}


@dataclass
class Host:
    """A TUN plane in a namespace with the raw sockets of a daemon, and the thread that moves packets."""

    ns: Namespace
    plane: TunDataPlane
    raw: list[RawSocket] = field(default_factory=list)
    whole: dict[int, HeaderSocket] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mark = self.plane.socket_mark
        for family, version, icmp in ((socket.AF_INET, 4, ICMP), (socket.AF_INET6, 6, ICMPV6)):
            for protocol in (ESP, AH, icmp):
                opened = self.ns.inside(lambda f=family, p=protocol: RawSocket(f, p, mark=mark))
                self.raw.append(opened)
                self.prepare(opened)
            self.whole[version] = self.ns.inside(lambda f=family: HeaderSocket(f, mark=mark))
            self.prepare(self.whole[version])
        self.stopping = False
        self.failures: list[OSError] = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def prepare(self, sock: RawSocket | HeaderSocket) -> None:
        with socket.socket(fileno=os.dup(sock.fileno())) as same:
            self.plane.prepare_socket(same, False)

    def run(self) -> None:
        device = self.plane.device_fileno()
        while not self.stopping:
            ready = select.select([device, *self.raw], [], [], 0.05)[0]
            now = time.monotonic()
            if device in ready:
                for batch in self.plane.read_device(now):
                    self.send(batch)
            for sock in self.raw:
                if sock in ready:
                    self.plane.receive([b for b in sock.receive() if isinstance(b, EspDatagrams)], now)

    def send(self, batch: EspDatagrams) -> None:
        version = batch.remote.host.version
        sock: RawSocket | HeaderSocket = self.whole[version]
        if not batch.whole:
            sock = next(s for s in self.raw if s.protocol == ESP and s.family == (2 if version == 4 else 10))
        try:
            sock.send_esp(batch)
        except OSError as error:
            self.failures.append(error)

    def stop(self) -> None:
        self.stopping = True
        self.thread.join()
        self.plane.close()
        for sock in (*self.raw, *self.whole.values()):
            sock.close()


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


def connect(
    hosts: tuple[Host, Host], ends: tuple[Address, Address], left: Any, right: Any, **fields: Any
) -> None:
    given = {"encapsulated": False, **fields}
    a, b = ends
    there, back = (
        {"local_ts": left, "remote_ts": right, **given},
        {"local_ts": right, "remote_ts": left, **given},
    )
    hosts[0].plane.install(describe(Direction.OUT, 1000, a, b, **there), 0)
    hosts[1].plane.install(describe(Direction.IN, 1000, a, b, **back), 0)
    hosts[1].plane.install(describe(Direction.OUT, 2000, b, a, **back), 0)
    hosts[0].plane.install(describe(Direction.IN, 2000, b, a, **there), 0)
    mode = fields.get("mode", Mode.TUNNEL)
    for host, (mine, other) in zip(hosts, ((left, right), (right, left)), strict=True):
        protocol = fields.get("protocol", SecurityProtocol.ESP)
        host.plane.add_policy(SpdEntry("c/k", Action.PROTECT, mine, other, 1, 1, protocol, mode))


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
    connect(hosts, ends, left, right, mode=mode, **(AH_KEYS if protocol == "ah" else {}))
    ping(hosts[0], inside[1])
    ping(hosts[1], inside[0], "-s", "3000")
    clean(hosts, 6)


def test_ipip_interface_and_transport_mode(
    hosts: tuple[Host, Host], require_tool: Callable[[str], str]
) -> None:
    """RFC 3884: the kernel's IPIP interfaces, forwarding first, and one transport mode SA for what they send."""
    require_tool("ping")
    for host, (mine, other) in zip(hosts, ((A, B), (B, A)), strict=True):
        try:
            host.ns.ip(f"link add net1 type ipip local {mine.host} remote {other.host} ttl 64")
        except RuntimeError as error:
            pytest.skip(f"this kernel has no IPIP interfaces: {error}")
        host.ns.ip("link set net1 up")
    connect(hosts, (A, B), ts(f"{A.host}[4]"), ts(f"{B.host}[4]"), mode=Mode.TRANSPORT)
    for host, there in zip(hosts, ("10.2.0.0/24", "10.1.0.0/24"), strict=True):
        host.ns.ip(f"route add {there} dev net1")
    ping(hosts[0], "10.2.0.1", "-I", "10.1.0.1")
    clean(hosts, 3)
    # A route change inside needs no new SA.
    hosts[1].ns.add_address("10.99.0.1/24")
    hosts[0].ns.ip("route add 10.99.0.0/24 dev net1")
    before = {sa.id for sa in hosts[0].plane.sad}
    ping(hosts[0], "10.99.0.1", "-I", "10.1.0.1")
    assert {sa.id for sa in hosts[0].plane.sad} == before


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
            connect(pair, ends, ts(inside[0]), ts(inside[1]))
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

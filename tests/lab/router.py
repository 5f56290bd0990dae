"""What lies between two gateways when it is not just a wire: routers that masquerade or drop fragments, a slow wire.

    a 10.98.1.2 -- 10.98.1.1 ra 10.99.0.1 -- 10.99.0.2 rb 10.98.2.1 -- 10.98.2.2 b

Both routers route; what else they do is iptables' (`masquerade`, `drop_fragments`). IPv6 likewise under fd98:1::,
fd99::, fd98:2::. `Delay` is a bridge that holds each frame back for a while, so that requests of both ends cross.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import heapq
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.netns import Namespace, link

ETH_P_ALL = 3
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
SNAP = 65535

INSIDE4 = ("10.98.1.2", "10.98.2.2")
INSIDE6 = ("fd98:1::2", "fd98:2::2")
OUTSIDE4 = ("10.99.0.1", "10.99.0.2")


@dataclass(frozen=True)
class Routers:
    """The two routers, `ra` before a and `rb` before b."""

    ra: Namespace
    rb: Namespace

    def both(self) -> tuple[Namespace, Namespace]:
        return (self.ra, self.rb)


def route(left: Namespace, right: Namespace, ra: Namespace, rb: Namespace, mtu: int = 1500) -> Routers:
    """Join the four as drawn above; routes everywhere, so that all reach all before anything masquerades."""
    link(left, ra, "wan", "lan", mtu)
    link(right, rb, "wan", "lan", mtu)
    link(ra, rb, "net", "net", mtu)
    for end, (gateway, router) in enumerate(((left, ra), (right, rb))):
        number = end + 1
        gateway.add_address(f"{INSIDE4[end]}/24", f"{INSIDE6[end]}/64", device="wan")
        router.add_address(f"10.98.{number}.1/24", f"fd98:{number}::1/64", device="lan")
        router.add_address(f"{OUTSIDE4[end]}/24", f"fd99::{number}/64", device="net")
        gateway.sysctl(ipv4__conf__all__promote_secondaries=1)  # an address may go while another stays
        gateway.ip(f"route add default via 10.98.{number}.1", f"route add ::/0 via fd98:{number}::1 dev wan")
        router.sysctl(ipv4__ip_forward=1, ipv4__conf__all__rp_filter=0, ipv6__conf__all__forwarding=1)
        other = 3 - number
        router.ip(
            f"route add 10.98.{other}.0/24 via 10.99.0.{other}",
            f"route add fd98:{other}::/64 via fd99::{other} dev net",
        )
    return Routers(ra, rb)


def tables(router: Namespace, *lines: str, version: int = 4) -> None:
    """iptables commands, one a line."""
    tool = "iptables-legacy" if version == 4 else "ip6tables-legacy"
    for line in lines:
        router.run(tool, "-w", *line.split())


def masquerade(router: Namespace, inside: str, forward_to: str | None = None) -> None:
    """Translate what leaves `net` (UDP to ports from 20000 on, at random, so that forgetting means a new port).

    `forward_to`: a host inside to which IKE's ports are forwarded, for a responder behind the router. What is inside
    cannot be reached from outside otherwise, as with any such box.
    """
    udp = (
        f"-t nat -A POSTROUTING -s {inside} -o net -p udp -j MASQUERADE --to-ports 20000-29999 --random-fully"
    )
    tables(router, udp, "-t nat -A POSTROUTING -o net -j MASQUERADE")
    tables(router, "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
    if forward_to:
        for port in (500, 4500):
            tables(
                router,
                f"-t nat -A PREROUTING -i net -p udp --dport {port} -j DNAT --to-destination {forward_to}",
                f"-A FORWARD -p udp --dport {port} -j ACCEPT",
            )
    tables(router, "-A FORWARD -i net -j DROP")


def forget(router: Namespace) -> None:
    """Let the router forget every translation, as a restart or a timeout would: the next packet gets a new port."""
    router.run("conntrack", "-F")


def drop_fragments(router: Namespace) -> None:
    """Drop every IP fragment but first ones on the way through, and count them (`dropped_fragments`)."""
    tables(router, "-A FORWARD -f -j DROP")
    tables(router, "-A FORWARD -m frag -j DROP", version=6)


def dropped_fragments(router: Namespace) -> int:
    """How many were, of both versions."""
    count = 0
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        rules = router.run(tool, "-w", "-L", "FORWARD", "-n", "-v", "-x").splitlines()[2:]
        count += sum(int(rule.split()[0]) for rule in rules if "DROP" in rule)
    return count


def no_checksum_offload(namespace: Namespace, device: str = "wan") -> None:
    """Let the kernel write checksums itself: frames that `Delay` carries are not the local hand-over veth expects."""

    def turn_off() -> None:
        value = array.array("I", [ETHTOOL_STXCSUM, 0])
        pointer = ctypes.c_uint64(value.buffer_info()[0])
        request = struct.pack("16sQ16x", device.encode(), pointer.value)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            fcntl.ioctl(handle, SIOCETHTOOL, request)

    namespace.inside(turn_off)


class Delay:
    """A bridge between two gateways, in a namespace of its own, that holds frames back for `seconds` each way.

    `drop`: asked for each frame of the way to b (0) or to a (1), true loses it. Started by `start`, ended by `stop`.
    """

    def __init__(self, left: Namespace, right: Namespace, middle: Namespace, seconds: float) -> None:
        link(left, middle, "wan", "left")
        link(right, middle, "wan", "right")
        for namespace in (left, right):
            no_checksum_offload(namespace)
        self.seconds = seconds
        self.drop: Callable[[int, bytes], bool] = lambda way, frame: False
        self._sockets = []
        for device in ("left", "right"):
            handle = middle.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            handle.bind((device, 0))
            handle.setblocking(False)
            self._sockets.append(handle)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def start(self) -> Delay:
        self._thread.start()
        return self

    def _carry(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        numbers = itertools.count()
        while not self._stopping.is_set():
            pause = 0.1 if not waiting else max(0.0, min(0.1, waiting[0][0] - time.monotonic()))
            for handle in select.select(self._sockets, [], [], pause)[0]:
                way = self._sockets.index(handle)
                with contextlib.suppress(BlockingIOError):
                    for _ in range(64):
                        frame, address = handle.recvfrom(SNAP)
                        if address[2] == socket.PACKET_OUTGOING:  # type: ignore[attr-defined]
                            continue  # what we sent ourselves
                        if not self.drop(way, frame):
                            due = time.monotonic() + self.seconds
                            heapq.heappush(waiting, (due, next(numbers), way, frame))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, way, frame = heapq.heappop(waiting)
                with contextlib.suppress(OSError):
                    self._sockets[1 - way].send(frame)

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for handle in self._sockets:
            handle.close()

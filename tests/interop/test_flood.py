"""Ten thousand half-open requests at the daemon: what stands goes on, who returns a cookie gets in, memory is bounded.

The flood is strongSwan's own first message with other SPIs, sent from ten thousand addresses.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from dataclasses import dataclass, field

import pytest
from lab import traffic
from lab.capture import Capture
from lab.netns import Namespace
from lab.process import wait_until
from lab.swanconf import Child, Tunnel
from lab.topology import WAN4, Pair

REQUESTS = 10_000
RATE = 2_500  # a second: within what a small machine answers, far above what real peers cause
FLOODERS = "10.50.0.0/16"
MEMORY = 24 << 10  # KiB that the daemon may grow by
INIT, IKE_SA_INIT = 500, 34
SOURCE_PORT = 5500  # charon has 500 on every address
NOTIFY, COOKIE, SECURITY_ASSOCIATION = 41, 16390, 33

TUNNELS = (
    Tunnel(options={"rekey_time": "0"}),
    Tunnel(
        "late",
        identities=("late.a.lab", "late.b.lab"),
        children=(Child("late", ("10.1.1.0/24", "10.2.1.0/24")),),
    ),
)
# b answers anybody: without it strangers would be refused at once.
OPEN = (
    *TUNNELS,
    Tunnel(
        "anybody",
        addresses=("%any", WAN4[1]),
        identities=("any.a.lab", "any.b.lab"),
        children=(Child("any", ("10.1.2.0/24", "10.2.2.0/24")),),
    ),
)


def first_message(capture: Capture) -> bytes:
    """The IKE_SA_INIT request among the captured frames."""
    for _, frame in capture.frames:
        message = frame[42:]
        is_udp = frame[12:14] == b"\x08\x00" and frame[23] == 17 and len(message) > 28
        if is_udp and message[18] == IKE_SA_INIT and not message[19] & 0x20:
            return message
    raise AssertionError("no IKE_SA_INIT request on the wire")


def with_spi(message: bytes, spi: bytes) -> bytes:
    return spi + message[8:]


def with_cookie(message: bytes, cookie: bytes) -> bytes:
    """The same request with N(COOKIE) in front of all payloads (RFC 7296 2.6)."""
    notify = (
        bytes([message[16], 0]) + (8 + len(cookie)).to_bytes(2, "big") + b"\0\0" + COOKIE.to_bytes(2, "big")
    )
    payloads = notify + cookie + message[28:]
    return (
        message[:16] + bytes([NOTIFY]) + message[17:24] + (28 + len(payloads)).to_bytes(4, "big") + payloads
    )


def cookie_of(answer: bytes) -> bytes | None:
    """The cookie that an answer demands; None of any other answer."""
    if len(answer) < 36 or answer[16] != NOTIFY or int.from_bytes(answer[34:36], "big") != COOKIE:
        return None
    return answer[36 : 28 + int.from_bytes(answer[30:32], "big")]


@dataclass
class Flood:
    """Requests from many addresses; what came back is counted."""

    namespace: Namespace
    message: bytes
    return_cookies: bool = False
    sent: int = 0
    cookies: int = 0
    answers: int = 0
    spis: dict[bytes, tuple[socket.socket, bytes]] = field(default_factory=dict, repr=False)

    def run(self, count: int = REQUESTS) -> None:
        """Send `count` requests at RATE, then wait a moment for the last answers."""
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            poll = select.poll()
            sockets: dict[int, socket.socket] = {}
            for number in range(count):
                address = f"10.50.{1 + number // 250}.{1 + number % 250}"
                handle = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                stack.callback(handle.close)
                handle.bind((address, SOURCE_PORT))
                handle.setblocking(False)
                sockets[handle.fileno()] = handle
                poll.register(handle, select.POLLIN)
                spi = os.urandom(8)
                self.spis[spi] = (handle, with_spi(self.message, spi))
                handle.sendto(with_spi(self.message, spi), (WAN4[1], INIT))
                self.sent += 1
                if number % 50 == 49:
                    self.read(poll, sockets, 0)
                    time.sleep(max(0.0, started + number / RATE - time.monotonic()))
            deadline = time.monotonic() + 3
            while self.answers + self.cookies < count and time.monotonic() < deadline:
                self.read(poll, sockets, 0.1)

    def read(self, poll: select.poll, sockets: dict[int, socket.socket], wait: float) -> None:
        for fileno, _ in poll.poll(wait * 1000):
            with contextlib.suppress(BlockingIOError):
                while True:
                    answer = sockets[fileno].recv(4096)
                    cookie = cookie_of(answer)
                    if cookie is None:
                        self.answers += 1
                        continue
                    self.cookies += 1
                    if self.return_cookies:
                        handle, request = self.spis[answer[:8]]
                        handle.sendto(with_cookie(request, cookie), (WAN4[1], INIT))


def half_open(pair: Pair) -> int:
    with pair.b.vici() as session:
        return int(session.stats()["ikesas"]["half-open"])


@pytest.fixture
def standing(make_pair) -> tuple[Pair, bytes]:
    """strongSwan's tunnel with us, and its first message; flooders' addresses are behind strongSwan's end."""
    pair = make_pair(("strongswan", "ours"), TUNNELS, tunnels_b=OPEN, settings={"half_open_timeout": "8"})
    left, right = pair.namespaces
    left.sysctl(ipv4__ip_nonlocal_bind=1, ipv4__conf__all__rp_filter=0)
    left.ip(f"route add local {FLOODERS} dev lo")
    right.ip(f"route add {FLOODERS} via {WAN4[0]}")
    with Capture(left, pair.folder / "first.pcap") as capture:
        pair.a.initiate("net")
        pair.b.wait_child("net")
    return pair, first_message(capture)


def test_ten_thousand_half_open_requests(standing: tuple[Pair, bytes]) -> None:
    pair, message = standing
    left, right = pair.namespaces
    end_a, end_b = pair.ends("net")
    before = pair.b.process.resident_kilobytes()
    flood = Flood(left, message)
    most_half_open = 0
    with traffic.EchoFlow(left, right, end_a, end_b, rate=50) as flow:
        thread = in_namespace(left, flood)
        while thread.is_alive():
            most_half_open = max(most_half_open, half_open(pair))
            time.sleep(0.2)
            if flood.sent > REQUESTS // 2 and not pair.b.children("late"):
                started = time.monotonic()
                pair.a.initiate("late")  # charon returns the cookie
                assert time.monotonic() - started < 5
        thread.join()
    assert flood.sent == REQUESTS
    assert pair.b.wait_child("late", 2).spis == pair.a.child("late").spis[::-1]
    assert flow.errors == []
    assert flow.lost == [], "the standing tunnel lost packets"
    # All but those below the threshold were answered by a cookie and left nothing behind.
    assert flood.cookies > REQUESTS * 0.9, flood
    assert flood.answers <= 60, flood
    assert most_half_open <= 60, most_half_open
    assert pair.b.process.resident_kilobytes() - before < MEMORY
    for child in ("net", "late"):
        old = pair.a.child(child).spis
        pair.a.swanctl("--rekey", "--child", child)
        pair.a.wait_other_child(old, child)
    # Half-open ones are given up, and the daemon is as it was.
    wait_until(lambda: half_open(pair) == 0, 15, "no half-open IKE_SA left", interval=0.5)


def test_half_open_requests_with_cookies(make_pair) -> None:
    """Two thousand who do return the cookie, and then no more: only as many get in as the configuration allows."""
    limit = 300
    pair = make_pair(("strongswan", "ours"), TUNNELS, tunnels_b=OPEN, start=False)
    pair.b.settings.update({"init_limit_half_open": str(limit), "half_open_timeout": "5"})
    pair.write_configuration(1, OPEN)
    for gateway in pair.gateways:
        gateway.start()
    left, right = pair.namespaces
    left.sysctl(ipv4__ip_nonlocal_bind=1, ipv4__conf__all__rp_filter=0)
    left.ip(f"route add local {FLOODERS} dev lo")
    right.ip(f"route add {FLOODERS} via {WAN4[0]}")
    with Capture(left, pair.folder / "first.pcap") as capture:
        pair.a.initiate("net")
        pair.b.wait_child("net")
    before = pair.b.process.resident_kilobytes()
    flood = Flood(left, first_message(capture), return_cookies=True)
    with traffic.EchoFlow(left, right, *pair.ends("net"), rate=50) as flow:
        thread = in_namespace(left, flood, 2_000)
        most = 0
        while thread.is_alive():
            most = max(most, half_open(pair))
            time.sleep(0.1)
        thread.join()
    assert flow.lost == []
    assert limit * 0.9 <= most <= limit
    assert pair.b.process.resident_kilobytes() - before < MEMORY
    # After their time the others get in again.
    wait_until(lambda: half_open(pair) == 0, 12, "no half-open IKE_SA left", interval=0.2)
    pair.a.initiate("late")


def in_namespace(namespace: Namespace, flood: Flood, count: int = REQUESTS) -> threading.Thread:
    """A running thread in the namespace that floods."""
    thread = threading.Thread(target=lambda: namespace.inside(lambda: flood.run(count)))
    thread.start()
    return thread

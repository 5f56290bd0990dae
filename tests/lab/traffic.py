"""Traffic through a tunnel: pings, TCP transfers, and UDP whose every octet is accounted for."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lab.netns import Namespace, NetnsError


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def ip_udp_overhead(address: str) -> int:
    """Octets of the IP and UDP headers in front of a payload."""
    return 48 if ":" in address else 28


@dataclass(frozen=True)
class PingResult:
    sent: int
    received: int

    @property
    def lost(self) -> int:
        return self.sent - self.received


def ping(
    namespace: Namespace,
    source: str,
    destination: str,
    count: int = 3,
    interval: float = 0.05,
    size: int = 56,
    wait: float = 1,
) -> PingResult:
    """`ping` from inside a namespace; `size` is the ICMP payload in octets."""
    command = ["ping", "-n", "-q", "-c", str(count), "-i", f"{interval:g}", "-s", str(size), "-I", source]
    command += ["-W", f"{wait:g}", "-w", f"{int(count * interval + wait + 2)}", destination]
    try:
        output = namespace.run(*command, timeout=count * interval + wait + 10)
    except NetnsError as error:  # exit status 1: not all came back
        output = str(error)
    match = re.search(r"(\d+) packets transmitted, (\d+) received", output)
    assert match, f"ping printed: {output}"
    return PingResult(int(match[1]), int(match[2]))


def send_udp(
    sender: Namespace,
    receiver: Namespace,
    source: str,
    destination: str,
    payload_sizes: Sequence[int],
    port: int = 7007,
    timeout: float = 5.0,
) -> int:
    """Send one UDP datagram of each size (4 octets at least), check that all arrive, give the inner IP octets in all.

    Nothing is sent back. AssertionError when a datagram is missing or changed.
    """
    family = family_of(destination)
    with (
        receiver.socket(family, socket.SOCK_DGRAM) as listening,
        sender.socket(family, socket.SOCK_DGRAM) as sending,
    ):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        listening.bind((destination, port))
        sending.bind((source, 0))
        listening.settimeout(timeout)
        outstanding = set()
        for number, size in enumerate(payload_sizes):
            payload = struct.pack(">I", number) + bytes((number + i) & 0xFF for i in range(size - 4))
            sending.sendto(payload, (destination, port))
            outstanding.add(payload)
            if number % 16 == 15:
                time.sleep(0.002)  # the slowest stack here is one Python loop
        while outstanding:
            try:
                got = listening.recv(65535)
            except TimeoutError:
                raise AssertionError(f"{len(outstanding)} of {len(payload_sizes)} datagrams lost") from None
            assert got in outstanding, "a datagram arrived twice or changed"
            outstanding.remove(got)
    return sum(size + ip_udp_overhead(destination) for size in payload_sizes)


def tcp_transfer(
    sender: Namespace,
    receiver: Namespace,
    source: str,
    destination: str,
    octets: int = 1 << 20,
    port: int = 7008,
    timeout: float = 30.0,
) -> float:
    """Send `octets` of pseudo-random data by TCP; AssertionError unless they arrive whole. Seconds that it took."""
    family = family_of(destination)
    block = hashlib.shake_256(b"lab").digest(min(octets, 1 << 16))
    digest_in = hashlib.sha256()
    received = 0
    with (
        receiver.socket(family, socket.SOCK_STREAM) as listening,
        sender.socket(family, socket.SOCK_STREAM) as sending,
    ):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((destination, port))
        listening.listen(1)
        listening.settimeout(timeout)
        sending.settimeout(timeout)
        sending.bind((source, 0))
        digest_out = hashlib.sha256()

        def push() -> None:
            sending.connect((destination, port))
            left = octets
            while left:
                piece = block[:left]
                sending.sendall(piece)
                digest_out.update(piece)
                left -= len(piece)
            sending.shutdown(socket.SHUT_WR)

        started = time.monotonic()
        pusher = threading.Thread(target=push, daemon=True)
        pusher.start()
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(timeout)
            while data := connection.recv(1 << 16):
                digest_in.update(data)
                received += len(data)
        pusher.join(timeout)
        took = time.monotonic() - started
    assert received == octets, f"{received} of {octets} octets arrived"
    assert digest_in.digest() == digest_out.digest(), "the data changed on the way"
    return took


class EchoFlow:
    """A steady UDP request-and-echo flow in the background, to show that nothing is lost meanwhile.

    Each numbered datagram goes from `source` to `destination` and is sent back; `stop` waits for the last echoes and
    `lost` names the numbers that never came back, `repeated` those that came more than once.
    """

    def __init__(
        self,
        client: Namespace,
        server: Namespace,
        source: str,
        destination: str,
        rate: float = 200.0,
        size: int = 200,
        port: int = 7009,
    ) -> None:
        family = family_of(destination)
        self._period = 1.0 / rate
        self._padding = bytes(max(size - 4, 0))
        self._target = (destination, port)
        self._client = client.socket(family, socket.SOCK_DGRAM)
        self._server = server.socket(family, socket.SOCK_DGRAM)
        self._client.bind((source, 0))
        self._server.bind((destination, port))
        self._client.settimeout(0.1)
        self._server.settimeout(0.1)
        self._stopping = threading.Event()
        self._closing = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._others = [
            threading.Thread(target=self._echo, daemon=True),
            threading.Thread(target=self._collect),
        ]
        self.sent = 0
        self.seen: dict[int, int] = {}
        self.errors: list[OSError] = []

    def start(self) -> EchoFlow:
        for thread in (*self._others, self._sender):
            thread.start()
        return self

    def __enter__(self) -> EchoFlow:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _send(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            try:
                self._client.sendto(struct.pack(">I", self.sent) + self._padding, self._target)
            except OSError as error:
                self.errors.append(error)
            self.sent += 1
            due += self._period
            time.sleep(max(0.0, due - time.monotonic()))

    def _echo(self) -> None:
        while not self._closing.is_set():
            try:
                data, sender = self._server.recvfrom(65535)
                self._server.sendto(data, sender)
            except TimeoutError:
                continue
            except OSError as error:
                self.errors.append(error)

    def _collect(self) -> None:
        while not self._closing.is_set():
            try:
                (number,) = struct.unpack_from(">I", self._client.recv(65535))
            except TimeoutError:
                continue
            except OSError as error:
                self.errors.append(error)
                continue
            self.seen[number] = self.seen.get(number, 0) + 1

    def stop(self, drain: float = 2.0) -> None:
        """Send no more, wait until all echoes are in or `drain` seconds are over."""
        if self._closing.is_set():
            return
        self._stopping.set()
        self._sender.join()
        deadline = time.monotonic() + drain
        while len(self.seen) < self.sent and time.monotonic() < deadline:
            time.sleep(0.01)
        self._closing.set()
        for thread in self._others:
            thread.join()
        self._client.close()
        self._server.close()

    @property
    def lost(self) -> list[int]:
        return [number for number in range(self.sent) if number not in self.seen]

    @property
    def repeated(self) -> list[int]:
        return [number for number, times in self.seen.items() if times > 1]

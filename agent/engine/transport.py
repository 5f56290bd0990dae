"""UDP over IPv4 and IPv6: several listen addresses, each answer from the address that was asked.

`UdpTransport` is pysnmp's transport dispatcher and knows nothing of SNMP: every datagram goes to one function,
which is where a faster path can stand before pysnmp.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pysnmp.carrier.base import AbstractTransportDispatcher

from agent.config import Listen

log = logging.getLogger(__name__)

IP_PKTINFO = 8
"""Linux: struct in_pktinfo as ancillary data (ip(7)); the socket module has no name for it in Python 3.11."""
DRAIN = 64
"""Datagrams taken from one socket before others get their turn."""
MAX_DATAGRAM = 65535
DOMAIN_V4 = (1, 3, 6, 1, 6, 1, 1)
"""snmpUDPDomain (RFC 3417)."""
DOMAIN_V6 = (1, 3, 6, 1, 2, 1, 100, 1, 2)
"""transportDomainUdpIpv6 (RFC 3419)."""
CURES = {
    errno.EADDRINUSE: "end what listens there (ss -lunp tells) or change agent.listen",
    errno.EADDRNOTAVAIL: "it is no address of this machine (yet): bring it up or change agent.listen",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE; or choose a higher one in agent.listen",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a datagram came from and how the answer goes back. `address` is what the socket module gives."""

    address: tuple[Any, ...]
    endpoint: int
    answer_from: bytes = b""

    @property
    def host(self) -> str:
        return str(self.address[0]).partition("%")[0]


Receive = Callable[[bytes, Peer], None]


class TransportError(Exception):
    """A listen address cannot be used; the text names it and says why."""


class UdpTransport(AbstractTransportDispatcher):  # type: ignore[misc]
    """Sockets, the receive loop and the once-a-second tick that pysnmp's caches expire by."""

    def __init__(self, receive: Receive) -> None:
        super().__init__()
        self.set_timer_resolution(1.0)
        self._receive = receive
        self._sockets: dict[int, tuple[Listen, socket.socket]] = {}
        self._next = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick: asyncio.TimerHandle | None = None
        self.send_errors = 0

    def listen(self, addresses: Sequence[Listen]) -> None:
        """Listen on exactly these addresses; those that are bound already are not disturbed.

        Raises TransportError, and then everything is as it was.
        """
        self._loop = asyncio.get_running_loop()
        bound = {address for address, _ in self._sockets.values()}
        opened: list[tuple[Listen, socket.socket]] = []
        freed: list[tuple[Listen, int]] = []
        for address in dict.fromkeys(addresses):
            if address in bound:
                continue
            try:
                opened.append((address, self._bind_instead(address, addresses, freed)))
            except OSError as error:
                for _, sock in opened:
                    sock.close()
                for before, port in freed:
                    self._add(before, _bind(Listen(before.host, port)))
                where = f"[{address.host}]" if address.is_ipv6 else address.host
                raise TransportError(
                    f"cannot listen on {where}:{address.port}: {error.strerror}; "
                    f"{CURES.get(error.errno or 0, 'change agent.listen')}"
                ) from None
        for number in [n for n, (address, _) in self._sockets.items() if address not in addresses]:
            self._close(number)
        for address, sock in opened:
            self._add(address, sock)
        if self._tick is None:
            self._tick = self._loop.call_later(1.0, self._on_tick)

    def _bind_instead(
        self, address: Listen, wanted: Sequence[Listen], freed: list[tuple[Listen, int]]
    ) -> socket.socket:
        """Bind; where an address that is given up anyway is in the way (0.0.0.0 for 127.0.0.1), close that first."""
        try:
            return _bind(address)
        except OSError as error:
            in_the_way = {
                number: (held, address.port)
                for number, (held, sock) in self._sockets.items()
                if held not in wanted
                and held.is_ipv6 == address.is_ipv6
                and sock.getsockname()[1] == address.port
            }
            if error.errno != errno.EADDRINUSE or not in_the_way:
                raise
            for number, held_at in in_the_way.items():
                freed.append(held_at)
                self._close(number)
            return _bind(address)

    def _add(self, address: Listen, sock: socket.socket) -> None:
        assert self._loop is not None
        self._sockets[self._next] = (address, sock)
        self._loop.add_reader(sock.fileno(), self._readable, sock, self._next)
        self._next += 1

    def addresses(self) -> list[tuple[str, int]]:
        """What is bound, as (host, port): the real port where 0 was asked for."""
        return [sock.getsockname()[:2] for _, sock in self._sockets.values()]

    def close(self) -> None:
        """Stop to receive and close all sockets."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        for number in list(self._sockets):
            self._close(number)

    def _close(self, number: int) -> None:
        _, sock = self._sockets.pop(number)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(sock.fileno())
        sock.close()

    def peer(self, address: tuple[Any, ...]) -> Peer:
        """The peer at an address, over the first socket of its family."""
        ipv6 = ":" in str(address[0])
        numbers = (n for n, (listen, _) in self._sockets.items() if listen.is_ipv6 == ipv6)
        return Peer(address, next(numbers, -1))

    def send(self, data: bytes, peer: Peer) -> None:
        """Send an answer; what cannot be sent is dropped and counted, as UDP itself would."""
        try:
            _, sock = self._sockets[peer.endpoint]
            ancillary = _answer_from(sock, peer.answer_from)
            sock.sendmsg([data], ancillary, 0, peer.address)
        except (OSError, KeyError) as error:
            self.send_errors += 1
            log.debug("answer to %s not sent: %s", peer.host, error)

    def _on_tick(self) -> None:
        assert self._loop is not None
        self._tick = self._loop.call_later(1.0, self._on_tick)
        self.handle_timer_tick(time.monotonic())

    def _readable(self, sock: socket.socket, number: int) -> None:
        for _ in range(DRAIN):
            try:
                data, ancillary, _, address = sock.recvmsg(MAX_DATAGRAM, 256)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # an ICMP error of an earlier answer shows up here; the socket itself is fine
                log.debug("receive: %s", error)
                continue
            self._receive(data, Peer(address, number, _asked_at(ancillary)))


def _bind(address: Listen) -> socket.socket:
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if address.is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        resolved = socket.getaddrinfo(
            address.host, address.port, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST
        )
        sock.bind(resolved[0][4])
    except BaseException:
        sock.close()
        raise
    return sock


def _asked_at(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            return data[4:8]  # ipi_spec_dst: our address that answers
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return data[:20]
    return b""


def _answer_from(sock: socket.socket, asked_at: bytes) -> list[tuple[int, int, bytes]]:
    if len(asked_at) == 4:
        return [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("@i4s4s", 0, asked_at, b"\0" * 4))]
    if len(asked_at) == 20:
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, asked_at)]
    return []

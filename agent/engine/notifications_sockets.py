"""The sockets that notifications leave from, and that their answers come back to."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from agent.engine.targets import Address, plain_host

log = logging.getLogger(__name__)

DRAIN = 64
"""Datagrams taken before others get their turn."""


class NotificationSockets:
    """One socket of each family, opened when it is first needed, with a port that no request comes to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Callable[[bytes, Address], None]) -> None:
        self._loop = loop
        self._receive = receive
        self._sockets: dict[bool, socket.socket] = {}
        self.errors = 0
        """Messages that could not be sent."""

    def port(self, ipv6: bool = False) -> int:
        """Where answers come to. Raises OSError."""
        number: int = self._socket(ipv6).getsockname()[1]
        return number

    def close(self) -> None:
        """Close them all."""
        for sock in self._sockets.values():
            if not self._loop.is_closed():
                self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    def transmit(self, data: bytes, address: Address) -> None:
        """Send a datagram; one that cannot be sent is as good as lost by the network."""
        try:
            self._socket(address.is_ipv6).sendto(data, address.sockaddr)
        except OSError as problem:
            self.errors += 1
            log.debug("notification for %s not sent: %s", address, problem)

    def _socket(self, ipv6: bool) -> socket.socket:
        sock = self._sockets.get(ipv6)
        if sock is None:
            family = socket.AF_INET6 if ipv6 else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            try:
                if ipv6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(("::" if ipv6 else "", 0))
            except BaseException:
                sock.close()
                raise
            self._sockets[ipv6] = sock
            self._loop.add_reader(sock.fileno(), self._readable, sock)
        return sock

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(DRAIN):
            try:
                data, where = sock.recvfrom(65535)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as problem:
                # an ICMP error of an earlier message
                log.debug("answers to notifications: %s", problem)
                continue
            self._receive(data, Address(plain_host(str(where[0]).partition("%")[0]), where[1]))


def own_address(address: Address) -> bytes:
    """The IPv4 address that messages to a receiver come from, zeros where there is none."""
    if not address.is_ipv6:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                # only asks the routing table: nothing is sent
                probe.connect(address.sockaddr)
                return socket.inet_aton(probe.getsockname()[0])
        except OSError:
            pass
    return bytes(4)

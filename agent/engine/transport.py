"""UDP over IPv4 and IPv6: several listen addresses, each answer from the address that was asked.

`UdpTransport` is pysnmp's transport dispatcher and knows nothing of SNMP: every datagram goes to one function that
answers it at once or says that it does not, and then to another one.

A socket that is bound to one address answers from it by itself. Only one bound to all addresses of the machine
needs to be told which was asked (ip(7), ipv6(7): PKTINFO), at some microseconds a datagram.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pysnmp.carrier.base import AbstractTransportDispatcher

from agent.config import Listen
from agent.engine.fairness import FairQueue
from agent.engine.loop import ServingLoop

log = logging.getLogger(__name__)

IP_PKTINFO = 8
"""Linux: struct in_pktinfo as ancillary data (ip(7)); the socket module has no name for it in Python 3.11."""
SO_RCVBUFFORCE = 33
"""Linux: SO_RCVBUF beyond net.core.rmem_max, for who may (socket(7)); no name in Python either."""
RECEIVE_BUFFER = 8 << 20
DRAIN = 32
"""Datagrams taken from one socket before others get their turn."""
FULL_ROUNDS = 32
"""Rounds that took all they might before the next ones may take more."""
BACKLOG = 1024
"""Datagrams read and sorted by sender in one go when more come than can be answered."""
FEW = 8
"""So many that wait are no backlog."""
BACKLOG_DATAGRAM = 16384
"""Larger datagrams are dropped while there is a backlog: it is bounded in memory as in number."""
SLICE = 0.002
"""Seconds that answering a backlog may take before others get their turn."""
REMEMBERED = 64
"""Closed sockets for which an answer may still find another way."""
GRACE = 0.2
"""Seconds that a socket is kept after its address was given up."""
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
Fast = Callable[[bytes, tuple[Any, ...]], bytes | None]
Waiting = tuple[bytes, tuple[Any, ...], "_Endpoint", bytes]
"""A datagram, its source, where it was received, and which address of ours it was sent to."""


class TransportError(Exception):
    """A listen address cannot be used; the text names it and says why."""


class UdpTransport(AbstractTransportDispatcher):  # type: ignore[misc]
    """Sockets, the receive loop and the once-a-second tick that pysnmp's caches expire by."""

    def __init__(self, receive: Receive) -> None:
        super().__init__()
        self.set_timer_resolution(1.0)
        self.receive = receive
        self.fast: Fast = _not_mine
        """Gives the answer to a datagram, empty for none to be sent; None where `receive` is to have it."""
        self.queue: FairQueue[Waiting] = FairQueue()
        """What waits to be answered; empty but in a flood."""
        self._endpoints: dict[int, _Endpoint] = {}
        self._next = 0
        self._left: dict[int, tuple[str, int]] = {}
        """Where the sockets were bound that were closed last, by number."""
        self._leaving: dict[_Endpoint, asyncio.TimerHandle] = {}
        """Sockets that take nothing new, open for a moment longer for what is still on its way into them."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick: asyncio.TimerHandle | None = None
        self.flooded = False
        """Whether datagrams wait in the queue, and those that come have to wait there too."""
        self.send_errors = 0

    def listen(self, addresses: Sequence[Listen]) -> None:
        """Listen on exactly these addresses; those that are bound already are not disturbed.

        Raises TransportError, and then everything is as it was.
        """
        self._loop = asyncio.get_running_loop()
        bound = {endpoint.address for endpoint in self._endpoints.values()}
        opened: list[tuple[Listen, socket.socket]] = []
        for address in dict.fromkeys(addresses):
            if address in bound:
                continue
            try:
                opened.append((address, self._bind_beside(address, addresses)))
            except OSError as error:
                for _, sock in opened:
                    sock.close()
                where = f"[{address.host}]" if address.is_ipv6 else address.host
                raise TransportError(
                    f"cannot listen on {where}:{address.port}: {error.strerror}; "
                    f"{CURES.get(error.errno or 0, 'change agent.listen')}"
                ) from None
        for number in [n for n, endpoint in self._endpoints.items() if endpoint.address not in addresses]:
            self._close(number, leaving=True)
        for address, sock in opened:
            self._add(address, sock)
        if self._tick is None:
            self._tick = self._loop.call_later(1.0, self._on_tick)

    def _bind_beside(self, address: Listen, wanted: Sequence[Listen]) -> socket.socket:
        """Bind, also beside an address that is given up and in the way (0.0.0.0 for 127.0.0.1).

        Both are bound for a moment, so that there is none at which a datagram finds nobody.
        """
        try:
            return _bind(address)
        except OSError as error:
            in_the_way = [
                endpoint.sock
                for endpoint in self._endpoints.values()
                if endpoint.address not in wanted
                and endpoint.address.is_ipv6 == address.is_ipv6
                and endpoint.sock.getsockname()[1] == address.port
            ]
            if error.errno != errno.EADDRINUSE or not (in_the_way or self._leaving):
                raise
            for leaving in list(self._leaving):
                self._end(leaving)
            for sock in in_the_way:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                return _bind(address, beside=True)
            finally:
                for sock in in_the_way:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)

    def _add(self, address: Listen, sock: socket.socket) -> None:
        assert self._loop is not None
        endpoint = _Endpoint(self, address, sock, self._next)
        self._endpoints[self._next] = endpoint
        self._next += 1
        if isinstance(self._loop, ServingLoop):
            self._loop.serving.serve(sock.fileno(), endpoint.readable)
        else:
            self._loop.add_reader(sock.fileno(), endpoint.readable)

    def addresses(self) -> list[tuple[str, int]]:
        """What is bound, as (host, port): the real port where 0 was asked for."""
        return [endpoint.sock.getsockname()[:2] for endpoint in self._endpoints.values()]

    @property
    def dropped(self) -> int:
        """Datagrams that found no place while more came than could be answered."""
        return self.queue.dropped

    def close(self) -> None:
        """Stop to receive and close all sockets."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        for number in list(self._endpoints):
            self._close(number)
        for endpoint in list(self._leaving):
            self._end(endpoint)

    def _close(self, number: int, leaving: bool = False) -> None:
        """Close a socket; one that others listen on after it answers first what it has.

        The kernel may have chosen it for a datagram that it has not put into it yet, so it stays for a moment.
        """
        if leaving:
            self._endpoints[number].finish()
        endpoint = self._endpoints.pop(number)
        self._left[number] = endpoint.bound_to
        if len(self._left) > REMEMBERED:
            del self._left[next(iter(self._left))]
        if leaving and self._loop is not None:
            self._leaving[endpoint] = self._loop.call_later(GRACE, self._end, endpoint)
        else:
            self._shut(endpoint)

    def _end(self, endpoint: _Endpoint) -> None:
        """Answer what has come into a socket that leaves, and close it."""
        self._leaving.pop(endpoint).cancel()
        endpoint.finish()
        self._shut(endpoint)

    def _shut(self, endpoint: _Endpoint) -> None:
        endpoint.closed = True
        if self._loop is not None and not self._loop.is_closed():
            if isinstance(self._loop, ServingLoop):
                self._loop.serving.forget(endpoint.sock.fileno())
            else:
                self._loop.remove_reader(endpoint.sock.fileno())
        endpoint.sock.close()

    def peer(self, address: tuple[Any, ...]) -> Peer:
        """The peer at an address, over the first socket of its family."""
        ipv6 = ":" in str(address[0])
        numbers = (n for n, endpoint in self._endpoints.items() if endpoint.address.is_ipv6 == ipv6)
        return Peer(address, next(numbers, -1))

    def send(self, data: bytes, peer: Peer) -> None:
        """Send an answer; what cannot be sent is dropped and counted, as UDP itself would."""
        endpoint = self._endpoints.get(peer.endpoint)
        if endpoint is not None:
            endpoint.send(data, peer.address, peer.answer_from)
            return
        # a SET that was made before a reload took its socket away
        heir = self._heir(self._left.get(peer.endpoint), peer)
        if heir is None:
            self.send_errors += 1
            log.debug("answer to %s not sent: nothing listens there any more", peer.host)
        else:
            heir[0].send(data, peer.address, heir[1])

    def _heir(self, left: tuple[str, int] | None, peer: Peer) -> tuple[_Endpoint, bytes] | None:
        """Who listens now where a closed socket was bound, and the address to answer from."""
        if left is None:
            return None
        host, port = left
        ipv6 = ":" in host
        asked = peer.answer_from[: 16 if ipv6 else 4]
        if not asked:
            asked = socket.inet_pton(socket.AF_INET6 if ipv6 else socket.AF_INET, host.partition("%")[0])
        for endpoint in self._endpoints.values():
            if endpoint.address.is_ipv6 != ipv6 or endpoint.sock.getsockname()[1] != port:
                continue
            if endpoint.everywhere:
                return endpoint, peer.answer_from or asked + bytes(4 if ipv6 else 0)
            if endpoint.is_at(asked):
                return endpoint, b""
        return None

    def _on_tick(self) -> None:
        assert self._loop is not None
        self._tick = self._loop.call_later(1.0, self._on_tick)
        self.handle_timer_tick(time.monotonic())

    # -- more than can be answered --------------------------------------------------------------------------

    def backlog(self) -> None:
        """There are datagrams in the queue: answer them in slices."""
        if not self.flooded and self._loop is not None:
            self.flooded = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        until = time.monotonic() + SLICE
        while (waiting := self.queue.take()) is not None:
            data, address, endpoint, asked_at = waiting
            if not endpoint.closed:
                endpoint.answer(data, address, asked_at)
            else:
                self._answer_after(data, Peer(address, endpoint.number, asked_at))
            if time.monotonic() > until and self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon(self._work)
                return
        self.flooded = False

    def _answer_after(self, data: bytes, peer: Peer) -> None:
        """Answer what has waited for longer than its socket was open."""
        answer = self.fast(data, peer.address)
        if answer is None:
            self.receive(data, peer)
        elif answer:
            self.send(answer, peer)


class _Endpoint:
    """One bound socket."""

    def __init__(self, transport: UdpTransport, address: Listen, sock: socket.socket, number: int) -> None:
        self.address = address
        self.sock = sock
        self.number = number
        self.closed = False
        self._transport = transport
        self.bound_to: tuple[str, int] = sock.getsockname()[:2]
        self.everywhere = self.bound_to[0] in ("0.0.0.0", "::")  # noqa: S104
        self._quota = 1
        self._full = 0

    def readable(self) -> None:
        """Take what is there, up to some datagrams."""
        transport = self._transport
        if transport.flooded:
            self._sort()
            return
        if self.everywhere:
            self._readable_everywhere()
            return
        # the same without a function for each step: this is where most requests go through
        fast, known, sock = transport.fast, transport.queue.known, self.sock
        for taken in range(self._quota):
            try:
                data, address = sock.recvfrom(MAX_DATAGRAM)
            except OSError as error:
                if self._is_empty(error, taken):
                    return
                continue
            answer = fast(data, address)
            if answer is None:
                transport.receive(data, Peer(address, self.number))
                if self.closed:
                    return
            elif answer:
                known(address[0])
                try:
                    sock.sendto(answer, address)
                except OSError as error:
                    self._not_sent(address, error)
        self._there_may_be_more()

    def _readable_everywhere(self) -> None:
        for taken in range(self._quota):
            try:
                data, address, asked_at = self._receive()
            except OSError as error:
                if self._is_empty(error, taken):
                    return
                continue
            self.answer(data, address, asked_at)
            if self.closed:
                return
        self._there_may_be_more()

    def is_at(self, address: bytes) -> bool:
        """Whether it is bound to this packed address."""
        family = socket.AF_INET6 if self.address.is_ipv6 else socket.AF_INET
        return socket.inet_pton(family, self.bound_to[0].partition("%")[0]) == address

    def finish(self) -> None:
        """Answer what has come, before the socket is closed."""
        # With itself as its only peer it takes nothing more, and the kernel looks for another socket: one bound
        # beside it takes over without a gap.
        with contextlib.suppress(OSError):
            self.sock.connect(self.sock.getsockname())
        for _ in range(BACKLOG):
            try:
                data, address, asked_at = self._receive()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            self.answer(data, address, asked_at)

    def _is_empty(self, error: OSError, taken: int) -> bool:
        if isinstance(error, (BlockingIOError, InterruptedError)):
            # to ask in vain costs as much as a datagram: next time ask no oftener than now
            self._quota = taken or 1
            self._full = 0
            return True
        # an ICMP error of an earlier answer shows up here; the socket itself is fine
        log.debug("receive: %s", error)
        return False

    def _there_may_be_more(self) -> None:
        self._full += 1
        if self._quota == DRAIN:
            self._sort()
        elif self._full >= FULL_ROUNDS:
            self._quota = min(2 * self._quota, DRAIN)

    def _receive(self) -> tuple[bytes, tuple[Any, ...], bytes]:
        if not self.everywhere:
            data, address = self.sock.recvfrom(MAX_DATAGRAM)
            return data, address, b""
        data, ancillary, _, address = self.sock.recvmsg(MAX_DATAGRAM, 256)
        return data, address, _asked_at(ancillary)

    def answer(self, data: bytes, address: tuple[Any, ...], asked_at: bytes) -> None:
        """Answer one datagram. Never raises."""
        transport = self._transport
        answer = transport.fast(data, address)
        if answer is None:
            transport.receive(data, Peer(address, self.number, asked_at))
        elif answer:
            transport.queue.known(address[0])
            self.send(answer, address, asked_at)

    def _sort(self) -> None:
        """Read on without answering, so that who sends most cannot take the others' turn.

        So few that there is nothing to sort are answered: managers that ask on as soon as they are answered.
        """
        queue = self._transport.queue
        waiting: list[Waiting] = []
        few = 0 if self._transport.flooded else FEW
        for _ in range(BACKLOG):
            try:
                data, address, asked_at = self._receive()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                log.debug("receive: %s", error)
                continue
            if len(data) > BACKLOG_DATAGRAM:
                queue.dropped += 1
                continue
            waiting.append((data, address, self, asked_at))
            if len(waiting) > few:
                for item in waiting:
                    queue.put(item[1][0], item[1][1], item)
                waiting.clear()
                few = 0
        for data, address, _, asked_at in waiting:
            if not self.closed:
                self.answer(data, address, asked_at)
        if queue:
            self._quota = 1
            self._full = 0
            self._transport.backlog()

    def send(self, data: bytes, address: tuple[Any, ...], answer_from: bytes) -> None:
        """Send, or count that it cannot be sent."""
        try:
            if answer_from:
                self.sock.sendmsg((data,), _answer_from(answer_from), 0, address)
            else:
                self.sock.sendto(data, address)
        except OSError as error:
            self._not_sent(address, error)

    def _not_sent(self, address: tuple[Any, ...], error: OSError) -> None:
        self._transport.send_errors += 1
        log.debug("answer to %s not sent: %s", address[0], error)


def _not_mine(data: bytes, address: tuple[Any, ...]) -> None:
    return None


def _bind(address: Listen, beside: bool = False) -> socket.socket:
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if address.is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if _is_everywhere(address.host):
            if address.is_ipv6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        resolved = socket.getaddrinfo(
            address.host, address.port, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST
        )
        if beside:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(resolved[0][4])
        if beside:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_everywhere(host: str) -> bool:
    """Whether a socket bound to this is bound to all addresses of the machine."""
    return ipaddress.ip_address(host.partition("%")[0]).is_unspecified


def _asked_at(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            return data[4:8]  # ipi_spec_dst: our address that answers
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return data[:20]
    return b""


def _answer_from(asked_at: bytes) -> list[tuple[int, int, bytes]]:
    if len(asked_at) == 4:
        return [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("@i4s4s", 0, asked_at, b"\0" * 4))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, asked_at)]

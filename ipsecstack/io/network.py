"""All sockets of one gateway over IPv4 and IPv6: UDP for IKE and ESP in UDP, raw ones for ESP, AH and ICMP errors."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence

from ipsecstack.dataplane.base import DataPlaneError, EspDatagrams
from ipsecstack.io.errors import NetworkError, advice
from ipsecstack.io.raw import AH, ESP, ICMP, ICMPV6, HeaderSocket, RawSocket
from ipsecstack.io.sockets import Received, make_buffers
from ipsecstack.io.udp import NAT_KEEPALIVE, NON_ESP_MARKER, UdpSocket
from ipsecstack.ipsec.sa import Address
from ipsecstack.keyex.base import SendDatagram

log = logging.getLogger(__name__)

_REOPEN_FIRST, _REOPEN_LONGEST = 0.5, 30.0
_WARN_INTERVAL = 10.0  # seconds between two lines about failed sending

AnySocket = UdpSocket | RawSocket | HeaderSocket

# What a process without the right to raw sockets cannot do.
_WITHOUT = {
    ESP: "only ESP in UDP works over IPv%d: set encap = yes",
    AH: "AH does not work over IPv%d",
    ICMP: "path MTUs are not learned over IPv%d",
    ICMPV6: "path MTUs are not learned over IPv%d",
}


class Network:
    """Opens the sockets, hands what they receive to ``receive`` in the order of arrival, and sends.

    A socket that fails is opened again after a growing delay. Failed sending is counted and told at intervals.
    """

    def __init__(
        self,
        receive: Callable[[list[Received]], None],
        *,
        port: int = 500,
        port_nat_t: int = 4500,
        mark: int = 0,
        native_esp: bool = True,
        prepare: Callable[[socket.socket, bool], None] | None = None,
    ) -> None:
        self._receive = receive
        self._prepare = prepare
        self._ports = (port, port_nat_t)
        self._mark = mark
        self._native_esp = native_esp
        # One set for all sockets: what a socket received is dealt with before the next one is drained.
        self._buffers = make_buffers()
        self._sockets: list[AnySocket] = []
        self._udp: dict[tuple[int, int], UdpSocket] = {}  # (IP version, port)
        self._raw: dict[tuple[int, int], RawSocket] = {}  # (IP version, protocol)
        self._whole: dict[int, HeaderSocket] = {}  # by IP version, opened when they are needed
        self._reopening: set[asyncio.TimerHandle] = set()
        self._last_warning = float("-inf")
        self._last_sent: dict[Address, float] = {}
        self._closed = False
        self.send_errors = 0
        self.malformed = 0

    def open(self) -> None:
        """Open and watch every socket. NetworkError (and nothing open) when a needed one cannot be had.

        IPv6 may be absent from the host, native ESP from the rights of the process: that is told, not fatal.
        """
        try:
            for family in (socket.AF_INET, socket.AF_INET6):
                self._open_family(family)
        except NetworkError:
            self.close()
            raise
        if not self._sockets:
            raise NetworkError("this host has neither IPv4 nor IPv6")

    def _open_family(self, family: socket.AddressFamily) -> None:
        version = 4 if family == socket.AF_INET else 6
        try:
            for port in dict.fromkeys(self._ports):
                self._udp[version, port] = self._open_udp(family, port)
        except NetworkError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                log.warning("no IPv%d here: %s", version, cause.strerror)
                return
            raise
        if not self._native_esp:
            return
        for protocol in (ESP, AH, ICMP if version == 4 else ICMPV6):
            try:
                self._open_raw(family, protocol)
            except NetworkError as error:
                log.warning("%s; " + _WITHOUT[protocol], error, version)

    def _open_raw(self, family: socket.AddressFamily, protocol: int) -> None:
        raw = RawSocket(family, protocol, mark=self._mark, buffers=self._buffers)
        self._raw[4 if family == socket.AF_INET else 6, protocol] = raw
        self._watch(raw)

    def _open_udp(self, family: socket.AddressFamily, port: int) -> UdpSocket:
        sock = UdpSocket(family, port, nat_t=port == self._ports[1], mark=self._mark, buffers=self._buffers)
        self._watch(sock)
        return sock

    def _watch(self, sock: AnySocket) -> None:
        if self._prepare is not None:
            # A second descriptor of the same socket: what is set on it holds for both.
            with socket.socket(fileno=os.dup(sock.fileno())) as same:
                try:
                    self._prepare(same, isinstance(sock, UdpSocket) and sock.nat_t)
                except DataPlaneError as error:
                    sock.close()
                    raise NetworkError(f"{sock.name}: {error}") from error
        self._sockets.append(sock)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable, sock)

    def close(self) -> None:
        """Close everything; nothing is received or reopened afterwards."""
        self._closed = True
        for handle in self._reopening:
            handle.cancel()
        for sock in list(self._sockets):
            self._drop(sock)

    def _drop(self, sock: AnySocket) -> None:
        asyncio.get_running_loop().remove_reader(sock.fileno())
        sock.close()
        self._sockets.remove(sock)
        self._udp = {key: value for key, value in self._udp.items() if value is not sock}
        self._raw = {key: value for key, value in self._raw.items() if value is not sock}
        self._whole = {key: value for key, value in self._whole.items() if value is not sock}

    # --- receiving -------------------------------------------------------------------------------------------------

    def _readable(self, sock: AnySocket) -> None:
        try:
            received = sock.receive()
        except OSError as error:
            log.error("%s failed: %s; %s", sock.name, error.strerror or error, advice(error))
            self._drop(sock)
            self._reopen_later(sock, _REOPEN_FIRST)
            return
        self.malformed += sock.malformed
        sock.malformed = 0
        if received:
            self._receive(received)

    def _reopen_later(self, sock: AnySocket, delay: float) -> None:
        if self._closed:
            return

        def reopen() -> None:
            self._reopening.discard(handle)
            try:
                family = socket.AddressFamily(sock.family)
                version = 4 if family == socket.AF_INET else 6
                if isinstance(sock, HeaderSocket):
                    return  # the next packet opens it
                if isinstance(sock, UdpSocket):
                    self._udp[version, sock.port] = self._open_udp(family, sock.port)
                else:
                    self._open_raw(family, sock.protocol)
            except NetworkError as error:
                log.error("%s", error)
                self._reopen_later(sock, min(2 * delay, _REOPEN_LONGEST))
            else:
                log.warning("%s is open again", sock.name)

        handle = asyncio.get_running_loop().call_later(delay, reopen)
        self._reopening.add(handle)

    # --- sending ---------------------------------------------------------------------------------------------------

    def send_ike(self, datagrams: Sequence[SendDatagram]) -> None:
        """IKE messages, each from its local address and port, with the non-ESP marker where it is asked for."""
        for datagram in datagrams:
            data = NON_ESP_MARKER + datagram.data if datagram.marker else datagram.data
            self._send(data, datagram.local, datagram.remote)

    def send_esp(self, batches: Sequence[EspDatagrams]) -> None:
        """ESP packets, in UDP or native; what the kernel does not take is counted and dropped."""
        for batch in batches:
            version = batch.remote.host.version
            sock, what = self._socket_for(batch, version)
            if sock is None:
                self._failed(len(batch.packets), batch.remote, f"no {what} for IPv{version} is open")
                continue
            try:
                sent = sock.send_esp(batch)
            except OSError as error:
                self._failed(len(batch.packets), batch.remote, f"{error.strerror or error}; {advice(error)}")
                continue
            self.send_errors += len(batch.packets) - sent
            if batch.remote in self._last_sent:
                self._last_sent[batch.remote] = asyncio.get_running_loop().time()

    def _socket_for(self, batch: EspDatagrams, version: int) -> tuple[AnySocket | None, str]:
        """The socket for a batch, and what to call one that is missing."""
        if batch.whole:
            return self._whole_socket(version), "raw socket for whole packets"
        if batch.encapsulated:
            found = self._udp.get((version, batch.local.port)) or self._udp.get((version, self._ports[1]))
            return found, "UDP socket"
        return self._raw.get((version, batch.protocol)), f"raw socket of protocol {batch.protocol}"

    def _whole_socket(self, version: int) -> HeaderSocket | None:
        if version not in self._whole:
            try:
                sock = HeaderSocket(socket.AF_INET if version == 4 else socket.AF_INET6, mark=self._mark)
                self._watch(sock)
            except NetworkError:
                return None
            self._whole[version] = sock
        return self._whole[version]

    def _send(self, data: bytes, local: Address, remote: Address) -> None:
        version = remote.host.version
        sock = self._udp.get((version, local.port)) or self._udp.get((version, self._ports[0]))
        if sock is None:
            self._failed(1, remote, f"no UDP socket for IPv{version} is open")
            return
        try:
            sock.send(data, local, remote)
        except OSError as error:
            self._failed(1, remote, f"{error.strerror or error}; {advice(error)}")
            return
        if remote in self._last_sent:
            self._last_sent[remote] = asyncio.get_running_loop().time()

    def keep_alive(self, peers: Sequence[tuple[Address, Address]], idle: float) -> None:
        """A NAT keepalive to each (local, remote) that was sent nothing for ``idle`` seconds (RFC 3948 section 4)."""
        now = asyncio.get_running_loop().time()
        self._last_sent = {remote: self._last_sent.get(remote, 0.0) for _, remote in peers}
        for local, remote in peers:
            if now - self._last_sent[remote] >= idle:
                self._send(NAT_KEEPALIVE, local, remote)

    def _failed(self, packets: int, remote: Address, reason: str) -> None:
        self.send_errors += packets
        now = asyncio.get_running_loop().time()
        if now - self._last_warning >= _WARN_INTERVAL:
            self._last_warning = now
            log.warning("cannot send to %s: %s (%d packets in all)", remote, reason, self.send_errors)

"""What UDP and raw sockets share: addresses, ancillary data, and how they are opened."""

from __future__ import annotations

import ipaddress
import mmap
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.ipsec.sa import Address
from ipsecstack.ipsec.selectors import IPAddress

# Numbers of <linux/udp.h>, <linux/in.h> and <linux/in6.h>; Python's socket module does not have all of them.
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
_IP_PKTINFO, _IP_RECVTOS = 8, 13
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50
_IPV6_RECVTCLASS, _IPV6_TCLASS = 66, 67
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT, _IP_PMTUDISC_WANT = 10, 0, 1
_SO_MARK, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 36, 32, 33

_PKTINFO4 = struct.Struct("=i4s4s")  # interface, local address, address in the header
_PKTINFO6 = struct.Struct("=16sI")
_INT = struct.Struct("=i")

# The socket module's enumerations cost microseconds in every comparison: plain numbers for every packet.
_IPPROTO_IP, _IPPROTO_IPV6 = int(socket.IPPROTO_IP), int(socket.IPPROTO_IPV6)
_IP_TOS = int(socket.IP_TOS)
MSG_TRUNC = int(socket.MSG_TRUNC)

BUFFER_OCTETS = 65536
BUFFERS = 32  # messages of one drain: bounded, so that no socket starves the others
_SOCKET_BUFFER = 4 * 1024 * 1024
ANCILLARY_OCTETS = socket.CMSG_SPACE(_PKTINFO6.size) + 3 * socket.CMSG_SPACE(_INT.size)

ANY: dict[int, IPAddress] = {
    socket.AF_INET: ipaddress.IPv4Address(0),
    socket.AF_INET6: ipaddress.IPv6Address(0),
}

Ancillary = list[tuple[int, int, bytes]]


def make_buffers() -> list[memoryview]:
    """Room for one drain of a socket, from anonymous pages: what is never written takes no memory.

    Sockets that are drained one after the other, and whose packets are dealt with in between, can share them.
    """
    pages = memoryview(mmap.mmap(-1, BUFFERS * BUFFER_OCTETS))
    return [pages[start : start + BUFFER_OCTETS] for start in range(0, len(pages), BUFFER_OCTETS)]


@dataclass(frozen=True, slots=True)
class IkeDatagram:
    """An IKE message as it came, without the non-ESP marker."""

    data: bytes
    local: Address
    remote: Address


Received = IkeDatagram | EspDatagrams


@lru_cache(maxsize=4096)
def host_of(packed: bytes, scope: int = 0) -> IPAddress:
    """An address from its octets; link-local ones keep the interface number as their scope."""
    if len(packed) == 4:
        return ipaddress.IPv4Address(packed)
    address = ipaddress.IPv6Address(packed)
    return ipaddress.IPv6Address(f"{address}%{scope}") if scope and address.is_link_local else address


@lru_cache(maxsize=4096)
def address_of(sockaddr: tuple[Any, ...]) -> Address:
    """The Address of what recvmsg calls the sender."""
    if len(sockaddr) == 2:
        return Address(ipaddress.IPv4Address(sockaddr[0]), sockaddr[1])
    host = ipaddress.IPv6Address(sockaddr[0].partition("%")[0])
    return Address(host_of(host.packed, sockaddr[3]), sockaddr[1])


@lru_cache(maxsize=4096)
def host_address_of(sockaddr: tuple[Any, ...]) -> Address:
    """``address_of`` without port, which protocols beside UDP have not."""
    return Address(address_of(sockaddr).host)


@lru_cache(maxsize=4096)
def sockaddr_of(address: Address) -> tuple[Any, ...]:
    """What sendmsg takes for an Address."""
    host = address.host
    if isinstance(host, ipaddress.IPv4Address):
        return (str(host), address.port)
    scope = host.scope_id or "0"
    number = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    return (str(host).partition("%")[0], address.port, 0, number)


@lru_cache(maxsize=4096)
def from_address(host: IPAddress) -> tuple[tuple[int, int, bytes], ...]:
    """Ancillary data that makes a datagram leave from this local address; none for 'any'."""
    if host.is_unspecified:
        return ()
    if host.version == 4:
        return ((socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO4.pack(0, host.packed, bytes(4))),)
    return ((socket.IPPROTO_IPV6, _IPV6_PKTINFO, _PKTINFO6.pack(host.packed, 0)),)


def traffic_class_of(version: int, tos: int) -> tuple[tuple[int, int, bytes], ...]:
    """Ancillary data that sets DSCP and ECN of the outer header."""
    if not tos:
        return ()
    if version == 4:
        return ((socket.IPPROTO_IP, socket.IP_TOS, _INT.pack(tos)),)
    return ((socket.IPPROTO_IPV6, _IPV6_TCLASS, _INT.pack(tos)),)


def open_socket(family: int, kind: int, protocol: int, mark: int) -> socket.socket:
    """A non-blocking socket that tells local address and traffic class of what it receives.

    ``mark`` keeps its packets out of the data plane's own routes (SO_MARK); 0 sets none.
    """
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        if family == socket.AF_INET6:
            if protocol == 0:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVTCLASS, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
        for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            # The forced ones go beyond net.core.?mem_max, for those who may.
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, _SOCKET_BUFFER)
            except OSError:
                sock.setsockopt(socket.SOL_SOCKET, plain, _SOCKET_BUFFER)
    except BaseException:
        sock.close()
        raise
    return sock


class FragmentSwitch:
    """Whether what an IPv4 socket sends has DF. Set only when it changes: sends come in batches.

    With DF the kernel takes part in path MTU discovery (it fragments once it knows that it must); IPv6 has no choice.
    """

    __slots__ = ("_dont", "_socket")

    def __init__(self, sock: socket.socket, family: int) -> None:
        self._socket = sock if family == socket.AF_INET else None
        self._dont: bool | None = None

    def set(self, dont_fragment: bool) -> None:
        if self._socket is not None and dont_fragment is not self._dont:
            mode = _IP_PMTUDISC_WANT if dont_fragment else _IP_PMTUDISC_DONT
            self._socket.setsockopt(_IPPROTO_IP, _IP_MTU_DISCOVER, mode)
            self._dont = dont_fragment


@lru_cache(maxsize=4096)
def local_address(packed: bytes, port: int, scope: int = 0) -> Address:
    """One object for each local address and port: comparing packets' addresses is then comparing identities."""
    return Address(host_of(packed, scope), port)


def read_ancillary(ancillary: Ancillary, port: int) -> tuple[Address | None, int, int]:
    """(local address, traffic class, octets of each coalesced datagram or 0) of a message received on ``port``."""
    local: Address | None = None
    tos = segment = 0
    for level, kind, data in ancillary:
        if level == _IPPROTO_IP:
            if kind == _IP_PKTINFO:
                local = local_address(data[4:8], port)
            elif kind == _IP_TOS:
                tos = data[0]
        elif level == _IPPROTO_IPV6:
            if kind == _IPV6_PKTINFO:
                packed, scope = _PKTINFO6.unpack(data[: _PKTINFO6.size])
                local = local_address(packed, port, scope)
            elif kind == _IPV6_TCLASS:
                tos = _INT.unpack(data[:4])[0] & 0xFF
        elif level == SOL_UDP and kind == UDP_GRO:
            segment = _INT.unpack(data[:4])[0]
    return local, tos, segment


def source_address(
    remote: IPAddress, mark: int = 0, prepare: Callable[[socket.socket, bool], None] | None = None
) -> IPAddress | None:
    """The address that this host would send from to ``remote``; None without a route.

    ``mark`` and ``prepare`` make the socket one of IKE, as the data plane asks it (``DataPlane.prepare_socket``).
    Asked of the kernel by connecting a UDP socket, which sends nothing.
    """
    family = socket.AF_INET if remote.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            if mark:
                sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            if prepare is not None:
                prepare(sock, False)
            sock.connect(sockaddr_of(Address(remote, 500)))
            found = address_of(sock.getsockname()).host
    except OSError:
        return None
    return None if found.is_unspecified else found

"""The host's own addresses, and word of changes, from the kernel's rtnetlink (rtnetlink(7))."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from ipsecstack.ipsec.selectors import IPAddress

log = logging.getLogger(__name__)

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_RTMGRP_IPV4_ROUTE, _RTMGRP_IPV6_ROUTE = 0x40, 0x400
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_UNUSABLE = 0x40 | 0x08  # IFA_F_TENTATIVE, IFA_F_DADFAILED
_WORKS = 0x1 | 0x40  # IFF_UP, IFF_RUNNING
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface index
_IFINFOMSG = struct.Struct("=BBHiII")  # family, padding, type, index, flags, change
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_SETTLE = 0.1  # seconds: addresses change in bunches
_SHARE = 4  # times as long as a look took, until routes alone cause the next one
_ANSWER = 2.0  # seconds that the kernel has for a dump


class AddressMonitor:
    """Calls ``changed`` shortly after local addresses or links came, went, or changed, and ``routed`` when it was only
    routes (which the data plane itself sets, too)."""

    def __init__(self, changed: Callable[[], None], routed: Callable[[], None] | None = None) -> None:
        self._changed = changed
        self._routed = routed
        self._addresses = False
        self._rest_until = 0.0
        self._pending: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Listen; a host that does not let us is told in the log and goes without."""
        groups = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR
        if self._routed is not None:
            groups |= _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_ROUTE
        sock: socket.socket | None = None
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            sock.bind((0, groups))
        except OSError as error:
            if sock is not None:
                sock.close()
            log.warning("changes of local addresses go unnoticed: %s", error.strerror or error)
            return
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    def stop(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        # What exactly changed does not matter, nor does a queue that overflowed (ENOBUFS).
        try:
            while self._socket is not None and (data := self._socket.recv(65536)):
                kinds = {kind for kind, _ in _messages(data)}
                self._addresses = self._addresses or not kinds <= {_RTM_NEWROUTE, _RTM_DELROUTE}
        except BlockingIOError:
            pass
        except OSError:
            self._addresses = True
        loop = asyncio.get_running_loop()
        due = loop.time() + _SETTLE
        if not self._addresses:
            due = max(due, self._rest_until)
        if self._pending is not None and self._pending.when() > due:
            self._pending.cancel()
            self._pending = None
        if self._pending is None:
            self._pending = loop.call_at(due, self._settled)

    def _settled(self) -> None:
        self._pending = None
        loop = asyncio.get_running_loop()
        started = loop.time()
        addresses, self._addresses = self._addresses, False
        if addresses:
            self._changed()
        elif self._routed is not None:
            self._routed()
        # With very many IKE SAs a look at all takes its time: routes that never rest must not take all of it.
        ended = loop.time()
        self._rest_until = ended + _SHARE * (ended - started)


def local_addresses() -> list[IPAddress] | None:
    """All addresses of this host that can be sent from, of every interface that is up and has a carrier; None when
    the kernel does not tell."""
    try:
        links = _dump(_RTM_GETLINK, _IFINFOMSG.pack(0, 0, 0, 0, 0, 0))
        addresses = _dump(_RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0))
    except OSError as error:
        log.warning("cannot list local addresses: %s", error.strerror or error)
        return None
    working: set[int] = set()
    for kind, payload in links:
        if kind == _RTM_NEWLINK and len(payload) >= _IFINFOMSG.size:
            _, _, _, index, flags, _ = _IFINFOMSG.unpack_from(payload)
            if flags & _WORKS == _WORKS:
                working.add(index)
    found: dict[IPAddress, None] = {}
    for kind, payload in addresses:
        if kind == _RTM_NEWADDR and len(payload) >= _IFADDRMSG.size:
            _, _, flags, _, index = _IFADDRMSG.unpack_from(payload)
            address = _address_of(payload)
            if address is not None and index in working and not flags & _UNUSABLE:
                found[address] = None
    return list(found)


def _dump(request: int, body: bytes) -> list[tuple[int, bytes]]:
    """The kernel's answers to a request for all of something. Raises OSError."""
    found: list[tuple[int, bytes]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(_ANSWER)
        header = _HEADER.pack(_HEADER.size + len(body), request, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
        sock.send(header + body)
        while True:
            for kind, payload in _messages(sock.recv(262144)):
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    raise OSError(-_ERROR.unpack_from(payload)[0], "the kernel refuses to list them")
                found.append((kind, payload))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Netlink messages: type and payload."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            return
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _address_of(payload: bytes) -> IPAddress | None:
    """The local address of an interface address message."""
    attributes: dict[int, bytes] = {}
    offset = _IFADDRMSG.size
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size:
            break
        attributes[kind] = payload[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    # On a point-to-point link IFA_ADDRESS is the other end.
    local = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    return ip_address(local) if local is not None and len(local) in (4, 16) else None

"""Word of changed local addresses and links, from the kernel's rtnetlink groups (rtnetlink(7))."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_SETTLE = 0.2  # seconds: addresses change in bunches


class AddressMonitor:
    """Calls ``changed`` shortly after local addresses or links came, went, or changed."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._pending: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Listen; a host that does not let us is told in the log and goes without."""
        sock: socket.socket | None = None
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            sock.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
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
        with contextlib.suppress(OSError):
            while self._socket is not None and self._socket.recv(65536):
                pass
        if self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(_SETTLE, self._settled)

    def _settled(self) -> None:
        self._pending = None
        self._changed()

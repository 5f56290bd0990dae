"""Around the netlink sockets: sockets that no policy holds, one process for each instance, and the kernel's counts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from ipsecstack.dataplane.base import DataPlaneCounters, DataPlaneError
from ipsecstack.dataplane.xfrm.numbers import IP_XFRM_POLICY, IPV6_XFRM_POLICY, Way
from ipsecstack.dataplane.xfrm.structures import socket_bypass

# Which counts of /proc/net/xfrm_stat say what (Documentation/networking/xfrm_proc.rst).
_COUNTS: Mapping[str, str] = {
    "XfrmInNoStates": "unknown_spi",
    "XfrmInBufferError": "malformed_in",
    "XfrmInHdrError": "malformed_in",
    "XfrmInNoPols": "discarded_in",
    "XfrmInPolBlock": "discarded_in",
    "XfrmInTmplMismatch": "discarded_in",
    "XfrmInStateMismatch": "discarded_in",
    "XfrmOutPolBlock": "discarded_out",
    "XfrmOutNoStates": "no_sa_out",
}
_INTERVAL = 0.5  # seconds between two looks
_TEXT_OCTETS = 8192


def bypass(sock: socket.socket) -> None:
    """Let a socket of IKE or ESP send and receive unprotected, whatever the kernel's policies say.

    A kernel without XFRM has no policies to pass by. DataPlaneError when this process may not.
    """
    version, level, option = (
        (4, socket.IPPROTO_IP, IP_XFRM_POLICY)
        if sock.family == socket.AF_INET
        else (6, socket.IPPROTO_IPV6, IPV6_XFRM_POLICY)
    )
    for way in (Way.IN, Way.OUT):
        try:
            sock.setsockopt(level, option, socket_bypass(version, way))
        except PermissionError as error:
            raise DataPlaneError(
                f"a socket's IPsec policy: {error.strerror}; start as root, or with CAP_NET_ADMIN"
            ) from None
        except OSError as error:
            if error.errno not in _NO_XFRM:
                raise DataPlaneError(f"a socket's IPsec policy: {error.strerror}") from None


_NO_XFRM = (92, 95)  # ENOPROTOOPT, EOPNOTSUPP


_LOCKS = Path("/run/ipsecstack")
_TAKEN = (
    "another ipsecstackd of this port manages the kernel's policies in this network namespace: stop it, or choose "
    "another port"
)


class InstanceLock:
    """A name that only one process of a network namespace can hold; the kernel frees it however that ends.

    A lock on a file that root alone can open. Where this process cannot (in a user namespace), an abstract unix socket,
    which is as private as the network namespace.
    """

    def __init__(self, name: str) -> None:
        self._path: Path | None = None
        self._fd = -1
        self._socket: socket.socket | None = None
        try:
            namespace = os.stat("/proc/thread-self/ns/net").st_ino
            _LOCKS.mkdir(mode=0o750, parents=True, exist_ok=True)
            path = _LOCKS / f"{name}.{namespace}.lock"
            self._fd = self._open(path)
        except OSError:
            self._bind(name)
        else:
            self._path = path

    def _open(self, path: Path) -> int:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                raise DataPlaneError(_TAKEN) from None
            # Whoever held it last may have removed the file meanwhile: a lock on that is worth nothing.
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            os.close(descriptor)

    def _bind(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(f"\0{name}")
        except OSError:
            self._socket.close()
            raise DataPlaneError(_TAKEN) from None

    def close(self) -> None:
        """Let go. A second call does nothing."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._path = None
        if self._socket is not None:
            self._socket.close()


class KernelCounts:
    """Drops that belong to no SA, as the kernel counts them for the whole network namespace, from now on.

    The file is opened once: it belongs to the namespace in which that was. A kernel without it leaves these counts at
    what our own sockets add.
    """

    def __init__(self) -> None:
        self.counters = DataPlaneCounters()
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open("/proc/thread-self/net/xfrm_stat", os.O_RDONLY | os.O_CLOEXEC)
        self._last = self._read()
        self._next = 0.0

    def _read(self) -> dict[str, int]:
        found: dict[str, int] = {}
        if self._fd < 0:
            return found
        with contextlib.suppress(OSError, ValueError):
            for line in os.pread(self._fd, _TEXT_OCTETS, 0).decode("ascii").splitlines():
                name, _, value = line.partition(" ")
                if name.strip() in _COUNTS:
                    found[name.strip()] = int(value)
        return found

    def refresh(self, now: float) -> DataPlaneCounters:
        """The counters, brought up to date when the last look is a while ago."""
        if now >= self._next:
            self._next = now + _INTERVAL
            seen = self._read()
            for name, value in seen.items():
                field = _COUNTS[name]
                gained = value - self._last.get(name, 0)
                setattr(self.counters, field, getattr(self.counters, field) + max(gained, 0))
            self._last = seen
        return self.counters

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

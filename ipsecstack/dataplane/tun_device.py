"""A TUN device of this process: its descriptor, and reading and writing many packets at once.

The device lives in the network namespace the process is in when it is opened, and goes away with the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable

from ipsecstack.dataplane.base import DataPlaneError

_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_IFREQ = struct.Struct("16sH22x")
_MAX_NAME = 15
_LARGEST_PACKET = 65536


class TunDevice:
    """An open TUN device; ``name`` may hold ``%d`` for the first free number. Raises DataPlaneError."""

    def __init__(self, name: str) -> None:
        if not name or len(name.encode()) > _MAX_NAME or "/" in name or any(c.isspace() for c in name):
            raise DataPlaneError(
                f"{name!r} is no interface name: 1 to {_MAX_NAME} octets without slash or space"
            )
        try:
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DataPlaneError(
                f"/dev/net/tun cannot be opened ({error.strerror}): "
                "load the kernel module 'tun' or give the process the device"
            ) from None
        try:
            request = fcntl.ioctl(self.fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError as error:
            os.close(self.fd)
            reason = {
                errno.EBUSY: "another process holds it: choose another name",
                errno.EPERM: "that needs CAP_NET_ADMIN in this network namespace: start as root, under 'unshare -Urn' "
                "for a trial, or with the memory data plane",
                errno.EINVAL: "an interface of this name and another kind is there: choose another name",
            }.get(error.errno or 0, error.strerror or str(error))
            raise DataPlaneError(f"TUN device {name} cannot be made: {reason}") from None
        self.name = _IFREQ.unpack(request)[0].rstrip(b"\0").decode()

    def read(self, limit: int) -> list[bytes]:
        """The packets that wait in the device, at most ``limit``; none when it is down."""
        packets: list[bytes] = []
        append, read, fd = packets.append, os.read, self.fd
        if fd < 0:
            return packets
        try:
            for _ in range(limit):
                append(read(fd, _LARGEST_PACKET))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:  # what a device that is down answers
                raise
        return packets

    def write(self, packets: Iterable[bytes | memoryview]) -> int:
        """Give packets to the kernel; how many it refused (device down, not a packet)."""
        refused = 0
        write, fd = os.write, self.fd
        for packet in packets:
            try:
                write(fd, packet)
            except OSError:
                refused += 1
        return refused

    def is_there(self) -> bool:
        """False when the interface was deleted behind our back; the descriptor is of no use any more."""
        try:
            fcntl.ioctl(self.fd, _TUNGETIFF, bytes(_IFREQ.size))
        except (OSError, ValueError):
            return False
        return True

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

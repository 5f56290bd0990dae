"""A TUN device of this process: its descriptor, and reading and writing many packets at once.

The device lives in the network namespace the process is in when it is opened, and goes away with the process.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from itertools import repeat

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.coalesce import PLAIN, VNET_HEADER_OCTETS, coalesce

_TUNSETIFF, _TUNGETIFF, _TUNSETVNETHDRSZ, _TUNSETOFFLOAD = 0x400454CA, 0x800454D2, 0x400454D8, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_FLAGS = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
_IFREQ = struct.Struct("16sH22x")
_MAX_NAME = 15
_SLOT_OCTETS = 65536 + 4096  # the largest packet and its header
_SLOTS = 128


class TunDevice:
    """An open TUN device; ``name`` may hold ``%d`` for the first free number. Raises DataPlaneError.

    Every packet has a virtio_net_hdr before it. What is written uses it (``coalesce``). What is read does not: the
    kernel is told to cut large packets and to fill in checksums itself, which it does faster than Python could.
    """

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
            request = fcntl.ioctl(self.fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _FLAGS))
            fcntl.ioctl(self.fd, _TUNSETVNETHDRSZ, struct.pack("=i", VNET_HEADER_OCTETS))
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, 0)
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
        # Anonymous pages: those that are never written take no memory.
        pages = memoryview(mmap.mmap(-1, _SLOTS * _SLOT_OCTETS))
        starts = range(0, len(pages), _SLOT_OCTETS)
        self._slots = [[pages[start : start + _SLOT_OCTETS]] for start in starts]

    def read(self, limit: int) -> list[memoryview]:
        """The packets that wait in the device, at most ``limit``; none when it is down.

        They are views into buffers that the next call overwrites.
        """
        sizes: list[int] = []
        if self.fd < 0:
            return []
        try:
            sizes.extend(map(os.readv, repeat(self.fd), self._slots[:limit]))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:  # what a device that is down answers
                raise
        return [slot[0][VNET_HEADER_OCTETS:size] for slot, size in zip(self._slots, sizes, strict=False)]

    def write(self, packets: Sequence[bytes | memoryview]) -> int:
        """Give packets to the kernel; how many it refused (device down, not a packet)."""
        refused = position = 0
        writev, fd = os.writev, self.fd
        for count, buffers in coalesce(packets):
            try:
                writev(fd, buffers)
            except OSError:
                refused += 1 if count == 1 else self._write_each(packets[position : position + count])
            position += count
        return refused

    def _write_each(self, packets: Sequence[bytes | memoryview]) -> int:
        """What did not pass as one large packet: a kernel before 6.2 takes none of UDP."""
        refused = 0
        for packet in packets:
            try:
                os.writev(self.fd, (PLAIN, packet))
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

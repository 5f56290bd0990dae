"""Virtual interfaces of the TUN plane: a device for each interface that policies name (RFC 3884 §3).

Forwarding comes first: the administrator's routes decide what goes into such an interface, and the policies of that
interface alone what is done with it there. Routes may change without a new SA. What its SAs receive comes out of it.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
from collections.abc import Callable, Iterator, Sequence

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.tun_device import TunDevice

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFMTU = 0x8913, 0x8914, 0x8922
_IFF_UP = 1
_FLAGS = struct.Struct("16sH22x")
_MTU = struct.Struct("16si20x")
_BATCH = 64  # packets of one interface, so that none starves the others

Packet = bytes | memoryview


class VirtualInterfaces:
    """The devices by name, each as long as a policy names it. Calls raise DataPlaneError.

    ``exempt(name)`` is called for each new device.
    """

    def __init__(self, mtu: int, exempt: Callable[[str], None]) -> None:
        self._mtu = mtu
        self._exempt = exempt
        self._devices: dict[str, TunDevice] = {}
        self._uses: dict[str, int] = {}
        self._poll = select.epoll()

    def fileno(self) -> int | None:
        """Readable when packets wait in one of the devices; None after ``close``."""
        return None if self._poll.closed else self._poll.fileno()

    def names(self) -> tuple[str, ...]:
        return tuple(self._devices)

    def add(self, name: str) -> None:
        """One more policy for this interface; it is made with the first."""
        if name not in self._devices:
            self._open(name)
        self._uses[name] = self._uses.get(name, 0) + 1

    def remove(self, name: str) -> None:
        """One policy less; the interface goes with the last."""
        self._uses[name] -= 1
        if not self._uses[name]:
            del self._uses[name]
            self._close(name)

    def _open(self, name: str) -> None:
        device = TunDevice(name)
        try:
            if device.name != name:
                raise DataPlaneError(f"the interface {name!r} of a policy must be named in full")
            try:
                with open(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode", "w") as knob:
                    knob.write("1")
            except OSError:
                pass  # no IPv6 in this kernel
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, _SIOCSIFMTU, _MTU.pack(name.encode(), self._mtu))
                flags = _FLAGS.unpack(fcntl.ioctl(control, _SIOCGIFFLAGS, _FLAGS.pack(name.encode(), 0)))[1]
                fcntl.ioctl(control, _SIOCSIFFLAGS, _FLAGS.pack(name.encode(), flags | _IFF_UP))
            self._exempt(name)
            self._poll.register(device.fd, select.EPOLLIN)
        except OSError as error:
            device.close()
            raise DataPlaneError(f"interface {name} cannot be set up: {error.strerror or error}") from None
        except DataPlaneError:
            device.close()
            raise
        self._devices[name] = device

    def _close(self, name: str) -> None:
        device = self._devices.pop(name, None)
        if device is not None:
            self._poll.unregister(device.fd)
            device.close()

    def read(self) -> Iterator[tuple[str, list[memoryview]]]:
        """What waits, by interface. The packets are views that hold until the same interface is read again.

        A device that someone deleted is let go; ``restore`` makes it again.
        """
        if self._poll.closed:
            return
        ready = {fd for fd, _ in self._poll.poll(0)}
        for name, device in list(self._devices.items()):
            if device.fd not in ready:
                continue
            if not device.is_there():
                self._close(name)
                continue
            yield name, device.read(_BATCH)

    def write(self, name: str, packets: Sequence[Packet]) -> int:
        """Give packets to the kernel as received by this interface; how many it refused."""
        device = self._devices.get(name)
        return len(packets) if device is None else device.write(packets)

    def restore(self) -> None:
        """Make devices again that were deleted while policies need them."""
        for name in self._uses:
            if name in self._devices and not self._devices[name].is_there():
                self._close(name)
            if name not in self._devices:
                self._open(name)

    def close(self) -> None:
        for name in list(self._devices):
            self._close(name)
        self._uses.clear()
        self._poll.close()

"""The userspace data plane over a TUN device: the kernel routes what policies protect into this process.

Enforced here is what enters the device. Packets that are routed past it (another routing table, a source address that
no policy names) and packets that arrive in the clear on other interfaces never come by: BYPASS and DISCARD hold for
packets in the device only, and a peer's clear packets are not refused. That takes block policies of the kernel.
BYPASS packets that came into the device leave through a raw socket, marked so that they do not come back.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence

from ipsecstack.dataplane.addresses import VirtualAddresses
from ipsecstack.dataplane.base import DataPlaneError, EspDatagrams, Features
from ipsecstack.dataplane.routes import RouteTable
from ipsecstack.dataplane.tun_device import TunDevice
from ipsecstack.dataplane.tun_interfaces import VirtualInterfaces
from ipsecstack.dataplane.userspace import DEFAULT_PATH_MTU, Packet, Random, UserspaceCore
from ipsecstack.dataplane.xfrm.guard import make_guard
from ipsecstack.dataplane.xfrm.sockets import bypass
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.ipsec.spd import SpdEntry

FEATURES = Features(
    "tun",
    native_esp=True,
    udp_encapsulation=True,
    esn=True,
    userspace=True,
    ah=True,
    transport=True,
    ipcomp=True,
    tfc=True,
)
DEFAULT_NAME = "ipsec0"
DEFAULT_MTU = 1400  # inner; with any of our transforms and UDP the datagram stays within 1500 octets
DEFAULT_TABLE = 4303
DEFAULT_MARK = 0x10C5


class TunDataPlane(UserspaceCore):
    """ESP between a TUN device and the sockets of the composition root. Raises DataPlaneError when it cannot be made.

    Sockets that carry IKE and ESP must be given ``socket_mark`` (SO_MARK): a peer's outer address may lie inside the
    remote selectors, and the mark keeps those datagrams out of the tunnel. Two instances in one network namespace need
    different names and tables (a table takes its number and the next four as rule priorities). ``kernel_policies`` has
    the kernel hold the SPD over what does not enter the device (``xfrm.guard``).
    """

    def __init__(
        self,
        name: str = DEFAULT_NAME,
        random: Random = os.urandom,
        mtu: int = DEFAULT_MTU,
        path_mtu: int = DEFAULT_PATH_MTU,
        table: int = DEFAULT_TABLE,
        socket_mark: int = DEFAULT_MARK,
        kernel_policies: bool = True,
    ) -> None:
        super().__init__(FEATURES, random, path_mtu)
        self.socket_mark = socket_mark
        self._device = TunDevice(name)
        self.name = self._device.name
        self._clear: dict[int, socket.socket] = {}
        try:
            self._guard = make_guard(table) if kernel_policies else None
            self._routes = RouteTable(self.name, mtu, table, socket_mark, self._guard)
        except BaseException:
            self._device.close()
            raise
        self._addresses = VirtualAddresses(self.name)
        self._interfaces = VirtualInterfaces(mtu, self._exempt)
        self._sealed: list[EspDatagrams] = []  # what virtual interfaces sent, for the next ``read_device``

    def _exempt(self, device: str) -> None:
        if self._guard is not None:
            self._guard.exempt(device)

    def add_policy(self, entry: SpdEntry) -> None:
        new = not self.has_policy(entry)
        super().add_policy(entry)
        try:
            if not entry.interface:
                self._routes.add(entry)
            elif new:
                self._interfaces.add(entry.interface)
        except DataPlaneError:
            super().remove_policy(entry)
            raise

    def remove_policy(self, entry: SpdEntry) -> None:
        known = self.has_policy(entry)
        super().remove_policy(entry)
        if known and not self.has_policy(entry):
            if entry.interface:
                self._interfaces.remove(entry.interface)
            else:
                self._routes.remove(entry)

    def prepare_socket(self, sock: socket.socket, encapsulation: bool) -> None:
        if self._guard is not None:
            bypass(sock)

    def add_address(self, address: IPAddress) -> None:
        self._addresses.add(address)
        self._routes.refresh()

    def remove_address(self, address: IPAddress) -> None:
        self._addresses.remove(address)
        self._routes.refresh()

    def addresses_changed(self) -> None:
        """Addresses or links of this host changed: routes and rules are installed again, with new source hints."""
        self._routes.refresh()
        self._interfaces.restore()

    def repair(self) -> None:
        """Make the device again if it was deleted (``device_fileno`` is another one then), and all that leads into it.

        Raises DataPlaneError when that fails; call again later.
        """
        if not self._device.is_there():
            self._device.close()
            self._device = TunDevice(self.name)
        self._addresses.restore()
        self._routes.reattach()

    def device_fileno(self) -> int | None:
        return self._device.fd if self._device.fd >= 0 else None

    def read_device(self, now: float, limit: int = 64) -> list[EspDatagrams]:
        out = self.outbound(self._device.read(limit), now)
        if self._sealed:
            out, self._sealed = self._sealed + out, []
        if errors := self.take_device_packets():
            self._write(errors)
        if clear := self.take_clear_packets():
            self._send_clear(clear)
        return out

    def event_fileno(self) -> int | None:
        """Readable when packets wait in virtual interfaces; they leave with the next ``read_device``."""
        return self._interfaces.fileno()

    def read_events(self, now: float) -> None:
        for name, packets in self._interfaces.read():
            self._sealed += self.outbound(packets, now, name)
            if errors := self.take_device_packets():
                self.counters.device_errors += self._interfaces.write(name, errors)

    def receive(self, batch: Iterable[EspDatagrams], now: float) -> None:
        self._write(self.inbound(batch, now))
        for name, packets in self.take_interface_packets().items():
            self.counters.device_errors += self._interfaces.write(name, packets)

    def _write(self, packets: Sequence[Packet]) -> None:
        self.counters.device_errors += self._device.write(packets)

    def _send_clear(self, packets: Iterable[bytes]) -> None:
        for packet in packets:
            version = packet[0] >> 4
            host = packet[16:20] if version == 4 else packet[24:40]
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            try:
                self._clear_socket(family).sendto(packet, (socket.inet_ntop(family, host), 0))
            except OSError:
                self.counters.send_errors += 1

    def _clear_socket(self, family: int) -> socket.socket:
        if family not in self._clear:
            raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.socket_mark)
            self.prepare_socket(raw, False)
            self._clear[family] = raw
        return self._clear[family]

    def close(self) -> None:
        super().close()
        self._addresses.close()
        try:
            self._routes.close()
        finally:
            self._interfaces.close()
            self._device.close()
            for raw in self._clear.values():
                raw.close()
            self._clear.clear()

"""A raw socket of IP protocol 50: ESP straight over IPv4 or IPv6 (RFC 4303), drained in batches."""

from __future__ import annotations

import contextlib
import socket
from itertools import repeat

from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.io.errors import unbindable
from ipsecstack.io.sockets import (
    ANCILLARY_OCTETS,
    ANY,
    MSG_TRUNC,
    Received,
    from_address,
    host_address_of,
    local_address,
    make_buffers,
    open_socket,
    read_ancillary,
    sockaddr_of,
    traffic_class_of,
)
from ipsecstack.ipsec.sa import Address
from ipsecstack.wire.esp import HEADER_OCTETS

ESP = 50


class RawEspSocket:
    """One family. Linux gives IPv4 packets with their header, IPv6 packets without."""

    def __init__(self, family: int, *, mark: int = 0, buffers: list[memoryview] | None = None) -> None:
        self.name = f"raw socket of protocol 50{' (IPv6)' if family == socket.AF_INET6 else ''}"
        self.family = family
        try:
            self._socket = open_socket(family, socket.SOCK_RAW, ESP, mark)
        except OSError as error:
            raise unbindable(self.name, error, "another program has it") from error
        self._any = Address(ANY[family])
        self._buffers = buffers or make_buffers()
        self.malformed = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> list[Received]:
        """What waits in the socket, a bounded amount of it; the packets are views as those of ``UdpSocket``."""
        return self._receive_ipv4() if self.family == socket.AF_INET else self._receive_ipv6()

    def _receive_ipv4(self) -> list[Received]:
        """The header tells all, and a buffer has room for any packet: no ancillary data is needed."""
        sizes: list[int] = []
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError, InterruptedError):
            sizes.extend(map(self._socket.recv_into, self._buffers))
        received: list[Received] = []
        last_ends: tuple[int, memoryview] | None = None
        packets: list[bytes | memoryview] = []
        for buffer, octets in zip(self._buffers, sizes, strict=False):
            start = 4 * (buffer[0] & 0xF)
            if octets - start < HEADER_OCTETS:
                self.malformed += 1
                continue
            tos, addresses = buffer[1], buffer[12:20]
            if (tos, addresses) != last_ends:
                last_ends, packets = (tos, addresses), []
                there, here = bytes(addresses[:4]), bytes(addresses[4:])
                received.append(
                    EspDatagrams(local_address(here, 0), local_address(there, 0), False, packets, tos)
                )
            packets.append(buffer[start:octets])
        return received

    def _receive_ipv6(self) -> list[Received]:
        received: list[Received] = []
        for buffer in self._buffers:
            try:
                octets, ancillary, flags, sender = self._socket.recvmsg_into([buffer], ANCILLARY_OCTETS)
            except BlockingIOError:
                break
            except (ConnectionRefusedError, InterruptedError):
                continue
            if flags & MSG_TRUNC or octets < HEADER_OCTETS:
                self.malformed += 1
                continue
            local, tos, _ = read_ancillary(ancillary, 0)
            here, peer = local or self._any, host_address_of(sender)
            last = received[-1] if received else None
            if isinstance(last, EspDatagrams) and (last.local, last.remote, last.ecn) == (here, peer, tos):
                last.packets.append(buffer[:octets])
            else:
                received.append(EspDatagrams(here, peer, False, [buffer[:octets]], tos))
        return received

    def send_esp(self, batch: EspDatagrams) -> int:
        """Native ESP; returns how many packets the kernel took. OSError when it refuses for good."""
        destination = sockaddr_of(Address(batch.remote.host))
        ancillary = [
            *from_address(batch.local.host),
            *traffic_class_of(batch.remote.host.version, batch.ecn),
        ]
        sent: list[int] = []
        messages = [(packet,) for packet in batch.packets]
        with contextlib.suppress(BlockingIOError):
            sent.extend(
                map(self._socket.sendmsg, messages, repeat(ancillary), repeat(0), repeat(destination))
            )
        return len(sent)

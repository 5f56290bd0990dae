"""A raw socket of IP protocol 50: ESP straight over IPv4 or IPv6 (RFC 4303), drained in batches."""

from __future__ import annotations

import socket

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
        received: list[Received] = []
        for buffer in self._buffers:
            try:
                octets, ancillary, flags, sender = self._socket.recvmsg_into([buffer], ANCILLARY_OCTETS)
            except BlockingIOError:
                break
            except (ConnectionRefusedError, InterruptedError):
                continue
            if self.family == socket.AF_INET:
                start = 4 * (buffer[0] & 0xF)
                here, tos = local_address(bytes(buffer[16:20]), 0), buffer[1]
            else:
                start = 0
                local, tos, _ = read_ancillary(ancillary, 0)
                here = local or self._any
            if flags & MSG_TRUNC or octets - start < 8:
                self.malformed += 1
                continue
            peer = host_address_of(sender)
            data = buffer[start:octets]
            last = received[-1] if received else None
            if isinstance(last, EspDatagrams) and (last.local, last.remote, last.ecn) == (here, peer, tos):
                last.packets.append(data)
            else:
                received.append(EspDatagrams(here, peer, False, [data], tos))
        return received

    def send_esp(self, batch: EspDatagrams) -> int:
        """Native ESP; returns how many packets the kernel took. OSError when it refuses for good."""
        destination = sockaddr_of(Address(batch.remote.host))
        ancillary = [
            *from_address(batch.local.host),
            *traffic_class_of(batch.remote.host.version, batch.ecn),
        ]
        sent = 0
        try:
            for packet in batch.packets:
                self._socket.sendmsg([packet], ancillary, 0, destination)
                sent += 1
        except BlockingIOError:
            pass
        return sent

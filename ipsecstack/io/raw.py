"""Raw sockets, drained in batches: ESP straight over IPv4 or IPv6 (RFC 4303), AH (RFC 4302), and ICMP's 'too big'.

AH authenticates the header before it, and ICMP's checksum has the addresses in it: such packets come with their IP
header. Of IPv6 headers Linux keeps the addresses only; what else there is in them AH does not cover, but extension
headers it does: AH behind those is not received.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from ipaddress import IPv6Address
from itertools import repeat

from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.io.errors import unbindable
from ipsecstack.io.sockets import (
    ANCILLARY_OCTETS,
    ANY,
    MSG_TRUNC,
    FragmentSwitch,
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
from ipsecstack.wire.ip import IPv6Header

ESP, AH, ICMP, ICMPV6 = 50, 51, 1, 58
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1
_UNREACHABLE, _TOO_BIG = 3, 2  # the ICMP and ICMPv6 types that tell a path MTU


class RawSocket:
    """One family and protocol. Linux gives IPv4 packets with their header, IPv6 packets without."""

    def __init__(
        self, family: int, protocol: int = ESP, *, mark: int = 0, buffers: list[memoryview] | None = None
    ) -> None:
        self.name = f"raw socket of protocol {protocol}{' (IPv6)' if family == socket.AF_INET6 else ''}"
        self.family = family
        self.protocol = protocol
        self._whole = protocol != ESP
        try:
            self._socket = open_socket(family, socket.SOCK_RAW, protocol, mark)
            try:
                self._filter()
            except BaseException:
                self._socket.close()
                raise
        except OSError as error:
            raise unbindable(self.name, error, "another program has it") from error
        self._fragmenting = FragmentSwitch(self._socket, family)
        self._any = Address(ANY[family])
        self._buffers = buffers or make_buffers()
        self.malformed = 0

    def _filter(self) -> None:
        """Of ICMP only the errors that may tell a path MTU: a set bit keeps a type out."""
        if self.protocol == ICMP:
            mask = 0xFFFFFFFF ^ 1 << _UNREACHABLE
            self._socket.setsockopt(_SOL_RAW, _ICMP_FILTER, mask.to_bytes(4, sys.byteorder))
        elif self.protocol == ICMPV6:
            words = [0xFFFFFFFF ^ 1 << _TOO_BIG, *[0xFFFFFFFF] * 7]
            octets = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, octets)

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
                    EspDatagrams(
                        local_address(here, 0),
                        local_address(there, 0),
                        False,
                        packets,
                        tos,
                        self.protocol,
                        self._whole,
                    )
                )
            packets.append(buffer[:octets] if self._whole else buffer[start:octets])
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
            if self._whole:
                packet = self._with_header(here, peer, tos, buffer[:octets])
                received.append(EspDatagrams(here, peer, False, [packet], tos, self.protocol, True))
                continue
            last = received[-1] if received else None
            if isinstance(last, EspDatagrams) and (last.local, last.remote, last.ecn) == (here, peer, tos):
                last.packets.append(buffer[:octets])
            else:
                received.append(EspDatagrams(here, peer, False, [buffer[:octets]], tos))
        return received

    def _with_header(self, here: Address, peer: Address, tos: int, payload: memoryview) -> bytes:
        """An IPv6 packet again: what the kernel took off and AH covers are addresses, length and next header."""
        source, destination = peer.host, here.host
        assert isinstance(source, IPv6Address)
        assert isinstance(destination, IPv6Address)
        return IPv6Header(source, destination, self.protocol, len(payload), tos).to_bytes() + payload

    def send_esp(self, batch: EspDatagrams) -> int:
        """Native ESP; returns how many packets the kernel took. OSError when it refuses for good."""
        destination = sockaddr_of(Address(batch.remote.host))
        self._fragmenting.set(batch.dont_fragment)
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


class HeaderSocket:
    """Sends IP packets that bring their header along; never receives."""

    def __init__(self, family: int, *, mark: int = 0) -> None:
        self.name = f"raw socket for whole packets{' (IPv6)' if family == socket.AF_INET6 else ''}"
        self.family = family
        self.malformed = 0
        try:
            self._socket = open_socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW, mark)
        except OSError as error:
            raise unbindable(self.name, error, "another program has it") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> list[Received]:
        return []

    def send_esp(self, batch: EspDatagrams) -> int:
        """Whole packets; returns how many the kernel took. OSError when it refuses all of them for good.

        The kernel cuts none of them up: one that is too long for the link must not take the others with it.
        """
        destination = sockaddr_of(Address(batch.remote.host))
        sent, refused = 0, None
        for packet in batch.packets:
            try:
                self._socket.sendto(packet, destination)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                refused = error
            else:
                sent += 1
        if refused is not None and not sent:
            raise refused
        return sent

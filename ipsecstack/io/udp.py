"""A UDP socket of IKE, and of ESP in UDP (RFC 3948), drained in batches.

One socket serves one address family and one local port on all addresses. IP_PKTINFO tells at which address a
datagram arrived and makes the answer leave from there. The kernel coalesces equal datagrams of a flow on the way in
(UDP_GRO) and cuts a run of equal ones on the way out (UDP_SEGMENT), where it can.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Sequence

from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.io.errors import unbindable
from ipsecstack.io.sockets import (
    ANCILLARY_OCTETS,
    ANY,
    MSG_TRUNC,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    FragmentSwitch,
    IkeDatagram,
    Received,
    address_of,
    from_address,
    make_buffers,
    open_socket,
    read_ancillary,
    sockaddr_of,
    traffic_class_of,
)
from ipsecstack.ipsec.sa import Address

NON_ESP_MARKER = bytes(4)
NAT_KEEPALIVE = b"\xff"

_U16 = struct.Struct("=H")
_MAX_SEGMENTS = 64
_MAX_SEGMENTED_OCTETS = 65507


class UdpSocket:
    """One family and port. ``nat_t``: the port carries the non-ESP marker and ESP beside IKE."""

    def __init__(
        self, family: int, port: int, *, nat_t: bool, mark: int = 0, buffers: list[memoryview] | None = None
    ) -> None:
        self.name = f"UDP port {port}{' (IPv6)' if family == socket.AF_INET6 else ''}"
        self.family = family
        self.nat_t = nat_t
        try:
            self._socket = open_socket(family, socket.SOCK_DGRAM, 0, mark)
            try:
                self._socket.bind((str(ANY[family]), port))
            except BaseException:
                self._socket.close()
                raise
        except OSError as error:
            raise unbindable(
                self.name,
                error,
                "another IKE daemon has it: stop it (systemctl stop strongswan), or set port and port_nat_t in "
                "the ipsecstackd section of the configuration",
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self._any = Address(ANY[family], self.port)
        self._can_segment = True
        self._fragmenting = FragmentSwitch(self._socket, family)
        if nat_t:
            with contextlib.suppress(OSError):  # a kernel before 5.0: every datagram comes alone
                self._socket.setsockopt(SOL_UDP, UDP_GRO, 1)
        self._buffers = buffers or make_buffers()
        self.malformed = 0
        self.keepalives = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> list[Received]:
        """What waits in the socket, a bounded amount of it, in the order of arrival.

        Packets of ``EspDatagrams`` are views into ``buffers``, which the next call of any socket that shares them
        overwrites. OSError when the socket is of no more use.
        """
        received: list[Received] = []
        for buffer in self._buffers:
            try:
                octets, ancillary, flags, sender = self._socket.recvmsg_into([buffer], ANCILLARY_OCTETS)
            except BlockingIOError:
                break
            except (ConnectionRefusedError, InterruptedError):
                continue  # an ICMP error about something that was sent before
            if flags & MSG_TRUNC:
                self.malformed += 1
                continue
            local, tos, segment = read_ancillary(ancillary, self.port)
            here, peer = local or self._any, address_of(sender)
            if not segment or segment >= octets:
                self._sort(received, [buffer[:octets]], here, peer, tos)
                continue
            ends = range(segment, octets, segment)
            pieces: list[bytes | memoryview] = [buffer[end - segment : end] for end in ends]
            pieces.append(buffer[ends[-1] : octets])
            if self._all_esp(buffer[:octets], segment):
                received.append(EspDatagrams(here, peer, True, pieces, tos))
            else:
                self._sort(received, pieces, here, peer, tos)
        return received

    def _all_esp(self, datagrams: memoryview, segment: int) -> bool:
        """Are these datagrams of ``segment`` octets each (the last one may be shorter) ESP of one SA? To see it at once
        saves a look at each; False only means that a closer look is needed."""
        if not self.nat_t or segment % 4 or len(datagrams) % 4 or len(datagrams) % segment == 4:
            return False
        spis = set(datagrams.cast("I")[:: segment // 4])
        return len(spis) == 1 and 0 not in spis

    def _sort(
        self,
        into: list[Received],
        datagrams: Sequence[bytes | memoryview],
        local: Address,
        remote: Address,
        tos: int,
    ) -> None:
        """IKE, ESP or keepalive (RFC 3948 sections 2.1 to 2.3)."""
        for data in datagrams:
            if not self.nat_t:
                into.append(IkeDatagram(bytes(data), local, remote))
            elif data[:4] == NON_ESP_MARKER:
                into.append(IkeDatagram(bytes(data[4:]), local, remote))
            elif len(data) == 1 and data[0] == 0xFF:
                self.keepalives += 1
            elif len(data) < 8:
                self.malformed += 1
            else:
                last = into[-1] if into else None
                if (
                    isinstance(last, EspDatagrams)
                    and last.remote == remote
                    and last.local == local
                    and last.ecn == tos
                ):
                    last.packets.append(data)
                else:
                    into.append(EspDatagrams(local, remote, True, [data], tos))

    def send(self, data: bytes, local: Address, remote: Address) -> None:
        """One datagram as it is; OSError when the kernel refuses it."""
        self._socket.sendmsg([data], from_address(local.host), 0, sockaddr_of(remote))

    def send_esp(self, batch: EspDatagrams) -> int:
        """ESP in UDP; returns how many packets the kernel took. OSError when it refuses for good.

        A full socket buffer drops the rest, as a full queue of a router would.
        """
        destination = sockaddr_of(batch.remote)
        self._fragmenting.set(batch.dont_fragment)
        ancillary = [
            *from_address(batch.local.host),
            *traffic_class_of(batch.remote.host.version, batch.ecn),
        ]
        sent = 0
        packets = batch.packets
        try:
            while sent < len(packets):
                run = self._run(packets, sent)
                if run > 1:
                    segment = (SOL_UDP, UDP_SEGMENT, _U16.pack(len(packets[sent])))
                    try:
                        self._socket.sendmsg(
                            packets[sent : sent + run], [*ancillary, segment], 0, destination
                        )
                    except OSError as error:
                        if error.errno not in (errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EMSGSIZE):
                            raise
                        # This kernel or device does not segment, or the packets exceed the path MTU.
                        if error.errno != errno.EMSGSIZE:
                            self._can_segment = False
                        for packet in packets[sent : sent + run]:
                            self._socket.sendmsg([packet], ancillary, 0, destination)
                else:
                    self._socket.sendmsg([packets[sent]], ancillary, 0, destination)
                sent += run
        except BlockingIOError:
            pass
        return sent

    def _run(self, packets: Sequence[bytes | memoryview], start: int) -> int:
        """How many packets from ``start`` can leave as one: of one length, but for a shorter last one."""
        if not self._can_segment:
            return 1
        length = total = len(packets[start])
        count = 1
        for packet in packets[start + 1 : start + _MAX_SEGMENTS]:
            octets = len(packet)
            if octets > length or total + octets > _MAX_SEGMENTED_OCTETS:
                break
            total += octets
            count += 1
            if octets < length:
                break
        return count

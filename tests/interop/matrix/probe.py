"""Numbered UDP datagrams whose loss is counted instead of asserted."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lab.netns import Namespace
from lab.traffic import family_of, ip_udp_overhead


@dataclass(frozen=True)
class Counted:
    """Datagrams sent and lost, and the octets of their inner IP packets."""

    sent: int
    lost: int
    octets: int


def counted(
    sender: Namespace,
    receiver: Namespace,
    source: str,
    destination: str,
    sizes: Sequence[int],
    port: int = 7007,
    timeout: float = 3.0,
    bound: str = "",
) -> Counted:
    """Send one datagram of each size, wait until all are there or `timeout` is over.

    `bound`: where the receiver listens, when that is not the destination.

    AssertionError when one arrives twice or changed, or the kernel refuses to send.
    """
    family = family_of(destination)
    with (
        receiver.socket(family, socket.SOCK_DGRAM) as listening,
        sender.socket(family, socket.SOCK_DGRAM) as sending,
    ):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        listening.bind((bound or destination, port))
        sending.bind((source, 0))
        outstanding = set()
        for number, size in enumerate(sizes):
            payload = struct.pack(">I", number) + bytes((number * 7 + i) & 0xFF for i in range(size - 4))
            sending.sendto(payload, (destination, port))
            outstanding.add(payload)
            if number % 16 == 15:
                time.sleep(0.002)
        deadline = time.monotonic() + timeout
        while outstanding and (left := deadline - time.monotonic()) > 0:
            listening.settimeout(left)
            try:
                got = listening.recv(65535)
            except TimeoutError:
                break
            assert got in outstanding, "a datagram arrived twice or changed"
            outstanding.remove(got)
    return Counted(len(sizes), len(outstanding), sum(sizes) + len(sizes) * ip_udp_overhead(destination))

"""A TUN plane in a namespace with the raw sockets of a daemon, and SAs between two planes without a key exchange."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from espkit import describe

from ipsecstack.dataplane.base import DataPlane, EspDatagrams
from ipsecstack.dataplane.tun import TunDataPlane
from ipsecstack.io.raw import AH, ESP, ICMP, ICMPV6, HeaderSocket, RawSocket
from ipsecstack.ipsec.sa import Address, Direction, Mode, SecurityProtocol
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.wire.transforms import EncrId, IntegId
from lab.netns import Namespace

A, B = Address(ip_address("192.0.2.1")), Address(ip_address("192.0.2.2"))
A6, B6 = Address(ip_address("2001:db8::1")), Address(ip_address("2001:db8::2"))
AH_KEYS: dict[str, Any] = {
    "protocol": SecurityProtocol.AH,
    "encr": EncrId.NULL,
    "encr_key_bits": 0,
    "key_encr": b"",
    "integ": IntegId.HMAC_SHA2_256_128,
    "key_integ": bytes(range(32)),
}
Selectors = tuple[TrafficSelector, ...]


@dataclass
class Host:
    """A TUN plane in a namespace with the raw sockets of a daemon, and the thread that moves packets."""

    ns: Namespace
    plane: TunDataPlane
    raw: list[RawSocket] = field(default_factory=list)
    whole: dict[int, HeaderSocket] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mark = self.plane.socket_mark
        for family, version, icmp in ((socket.AF_INET, 4, ICMP), (socket.AF_INET6, 6, ICMPV6)):
            for protocol in (ESP, AH, icmp):
                opened = self.ns.inside(lambda f=family, p=protocol: RawSocket(f, p, mark=mark))
                self.raw.append(opened)
                self.prepare(opened)
            self.whole[version] = self.ns.inside(lambda f=family: HeaderSocket(f, mark=mark))
            self.prepare(self.whole[version])
        self.stopping = False
        self.failures: list[OSError] = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def prepare(self, sock: RawSocket | HeaderSocket) -> None:
        with socket.socket(fileno=os.dup(sock.fileno())) as same:
            self.plane.prepare_socket(same, False)

    def run(self) -> None:
        device, events = self.plane.device_fileno(), self.plane.event_fileno()
        while not self.stopping:
            ready = select.select([device, events, *self.raw], [], [], 0.05)[0]
            now = time.monotonic()
            if events in ready:
                self.plane.read_events(now)
            if device in ready or events in ready:
                for batch in self.plane.read_device(now):
                    self.send(batch)
            for sock in self.raw:
                if sock in ready:
                    self.plane.receive([b for b in sock.receive() if isinstance(b, EspDatagrams)], now)

    def send(self, batch: EspDatagrams) -> None:
        version = batch.remote.host.version
        sock: RawSocket | HeaderSocket = self.whole[version]
        if not batch.whole:
            sock = next(s for s in self.raw if s.protocol == ESP and s.family == (2 if version == 4 else 10))
        try:
            sock.send_esp(batch)
        except OSError as error:
            self.failures.append(error)

    def stop(self) -> None:
        self.stopping = True
        self.thread.join()
        self.plane.close()
        for sock in (*self.raw, *self.whole.values()):
            sock.close()


def connect(
    planes: tuple[DataPlane, DataPlane],
    ends: tuple[Address, Address],
    left: Selectors,
    right: Selectors,
    spi: int = 1000,
    **fields: Any,
) -> None:
    """One SA each way between two planes, of the SPIs ``spi`` and ``spi + 1``, and the policies for them."""
    given = {"encapsulated": False, **fields}
    a, b = ends
    there = {"local_ts": left, "remote_ts": right, **given}
    back = {"local_ts": right, "remote_ts": left, **given}
    planes[0].install(describe(Direction.IN, spi + 1, b, a, **there), 0)
    planes[1].install(describe(Direction.IN, spi, a, b, **back), 0)
    planes[0].install(describe(Direction.OUT, spi, a, b, **there), 0)
    planes[1].install(describe(Direction.OUT, spi + 1, b, a, **back), 0)
    mode, protocol = fields.get("mode", Mode.TUNNEL), fields.get("protocol", SecurityProtocol.ESP)
    for plane, (mine, other) in zip(planes, ((left, right), (right, left)), strict=True):
        plane.add_policy(
            SpdEntry("c/k", Action.PROTECT, mine, other, 1, fields.get("reqid", 1), protocol, mode)
        )

"""Two whole gateways in memory: configuration file, key exchange, ESP, VICI; one virtual clock, no sockets."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ipsecstack.config.apply import Applier
from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.dataplane.memory import MemoryDataPlane
from ipsecstack.ipsec.sa import SaId
from ipsecstack.keyex.base import SendDatagram
from ipsecstack.keyex.credentials import CredentialStore
from ipsecstack.keyex.endpoint import Endpoint
from ipsecstack.keyex.options import Options
from ipsecstack.stack import Stack
from ipsecstack.vici.server import DaemonInfo, ViciServer
from ipsecstack.wire.icmp import echo_request
from vici_support.client import Client

WALL = 1_795_450_000.0


class Side:
    """One gateway. ``now`` is shared through the pair."""

    def __init__(self, pair: Pair, conf: Path, seed: int) -> None:
        self.pair = pair
        self.random = random.Random(seed).randbytes
        self.plane = MemoryDataPlane(random=self.random)
        self.credentials = CredentialStore()
        self.endpoint = Endpoint(
            random=self.random,
            allocate_spi=lambda: self.plane.allocate_spi(self.random),
            credentials=self.credentials,
            options=Options(retransmit_jitter=0.0),
            now=pair.now,
            wall_clock=lambda: WALL + pair.now,
            last_inbound=self._last_inbound,
        )
        self.stack = Stack(self.endpoint, self.plane)
        self.applier = Applier(conf, self.endpoint, self.credentials)
        self.server = ViciServer(
            self.stack,
            self.credentials,
            info=DaemonInfo("0.1", started=0.0, started_wall=WALL, epoch=str(seed)),
            clock=lambda: pair.now,
            advance=self.advance,
            reload=lambda: str(self.applier.reload(pair.now)),
        )
        self.applier.reload(pair.now)
        self.advance()

    @property
    def now(self) -> float:
        return self.pair.now

    def client(self) -> Client:
        return Client(self)  # type: ignore[arg-type]

    def _last_inbound(self, sa: SaId) -> float | None:
        counters = self.plane.query(sa)
        return counters.last_used if counters else None

    def advance(self) -> None:
        self.pair.wire += [(self, datagram) for datagram in self.stack.advance(self.pair.now)]


class Pair:
    """Gateways ``a`` and ``b`` with a wire between them that delivers at once."""

    def __init__(self, conf_a: Path, conf_b: Path) -> None:
        self.now = 1000.0
        self.wire: list[tuple[Side, SendDatagram]] = []
        self.a, self.b = Side(self, conf_a, 1), Side(self, conf_b, 2)
        self.settle()

    def other(self, side: Side) -> Side:
        return self.b if side is self.a else self.a

    def settle(self) -> None:
        """Deliver until nothing is under way."""
        while self.wire:
            side, datagram = self.wire.pop(0)
            peer = self.other(side)
            answers = peer.stack.receive_datagram(datagram.data, datagram.remote, datagram.local, self.now)
            self.wire += [(peer, answer) for answer in answers]

    def run(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.now + seconds
        while True:
            times = [t for s in (self.a, self.b) if (t := s.stack.next_timer()) is not None and t <= end]
            if not times:
                break
            self.now = max(min(times), self.now)
            for side in (self.a, self.b):
                due = side.stack.next_timer()
                if due is not None and due <= self.now:
                    self.wire += [(side, d) for d in side.stack.handle_timer(self.now)]
            self.settle()
        self.now = end

    def ping(self, side: Side, source: Any, destination: Any, count: int = 1) -> None:
        """Inner packets from one side to the other."""
        side.plane.inject([echo_request(source, destination, 1, n, b"x" * 36) for n in range(count)])
        peer = self.other(side)
        for batch in side.plane.read_device(self.now, 1000):
            swapped = EspDatagrams(batch.remote, batch.local, batch.encapsulated, batch.packets, batch.ecn)
            peer.plane.receive([swapped], self.now)
        for each in (side, peer):
            each.advance()
        self.settle()

"""Two or more IKE endpoints in memory: a virtual clock, a network with faults and NAT, and a data plane that records.

``Network.step`` goes to the next wake-up: a datagram in flight or a timer of an end. Everything random comes
from one seed, so a failing schedule can be run again.
"""

from __future__ import annotations

import heapq
import random as random_module
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, TypeVar

from ipsecstack.ipsec.sa import Address, Direction, SaDescription, SaId, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.ipsec.spd import SpdEntry
from ipsecstack.keyex import base
from ipsecstack.keyex.configuration import (
    AuthClass,
    AuthConfig,
    ChildConfig,
    ConnectionConfig,
    Identity,
    Proposal,
    SharedSecret,
)
from ipsecstack.keyex.credentials import CredentialStore
from ipsecstack.keyex.endpoint import Endpoint
from ipsecstack.keyex.options import Options
from ipsecstack.wire.transforms import EncrId, EsnId, IntegId, KeId, PrfId

T = TypeVar("T")
WALL = 1_700_000_000.0  # POSIX time at virtual time 0
SECRET = b"a shared secret for tests"

IKE_GCM = Proposal(
    SecurityProtocol.IKE,
    ((EncrId.AES_GCM_16, 256),),
    (),
    (PrfId.HMAC_SHA2_256,),
    (KeId.CURVE_25519,),
)
IKE_CBC = Proposal(
    SecurityProtocol.IKE,
    ((EncrId.AES_CBC, 256),),
    (IntegId.HMAC_SHA2_256_128,),
    (PrfId.HMAC_SHA2_256,),
    (KeId.CURVE_25519,),
)
ESP_GCM = Proposal(SecurityProtocol.ESP, ((EncrId.AES_GCM_16, 128),), esn=(EsnId.NO_ESN,))


def fqdn(text: str) -> Identity:
    return Identity(2, text.encode(), text)


def ts(*texts: str) -> tuple[TrafficSelector, ...]:
    return tuple(TrafficSelector.from_text(text) for text in texts)


def host(text: str, port: int = 500) -> Address:
    return Address(ip_address(text), port)


@dataclass
class DataPlane:
    """Records what is installed, and fails when an output makes no sense."""

    sas: dict[SaId, SaDescription] = field(default_factory=dict)
    policies: list[SpdEntry] = field(default_factory=list)
    reserved: set[int] = field(default_factory=set)
    removed: list[SaId] = field(default_factory=list)
    seen: dict[SaId, float] = field(default_factory=dict)
    order: list[SaId] = field(default_factory=list)

    def allocate(self, rng: random_module.Random) -> int:
        while (spi := rng.randrange(256, 2**32)) in self.reserved:
            pass
        self.reserved.add(spi)
        return spi

    def apply(self, output: object) -> None:
        if isinstance(output, base.InstallSa):
            sa = output.sa
            assert sa.id not in self.sas, f"{sa.id} is installed twice"
            if sa.direction is Direction.IN:
                assert sa.spi in self.reserved, f"SPI {sa.spi:08x} was not reserved"
                self.reserved.discard(sa.spi)
            self.sas[sa.id] = sa
            self.order.append(sa.id)
        elif isinstance(output, base.RemoveSa):
            assert output.sa in self.sas, f"{output.sa} is not installed"
            del self.sas[output.sa]
            self.removed.append(output.sa)
        elif isinstance(output, base.ReleaseSpi):
            assert output.spi in self.reserved, f"SPI {output.spi:08x} was not reserved"
            self.reserved.discard(output.spi)
        elif isinstance(output, base.UpdateSa):
            import dataclasses

            sa = self.sas.pop(output.sa)
            moved = dataclasses.replace(
                sa, source=output.source, destination=output.destination, encapsulated=output.encapsulated
            )
            self.sas[moved.id] = moved
            self.order.append(moved.id)
        elif isinstance(output, base.AddPolicy):
            assert output.entry not in self.policies
            self.policies.append(output.entry)
        elif isinstance(output, base.RemovePolicy):
            self.policies.remove(output.entry)

    def inbound(self) -> list[SaDescription]:
        return [sa for sa in self.sas.values() if sa.direction is Direction.IN]

    def outbound(self) -> list[SaDescription]:
        return [sa for sa in self.sas.values() if sa.direction is Direction.OUT]

    def sending(self, reqid: int) -> SaDescription | None:
        """The outbound SA of a policy that was installed last: the one that sends."""
        found = [self.sas[i] for i in self.order if i in self.sas and self.sas[i].reqid == reqid]
        out = [sa for sa in found if sa.direction is Direction.OUT]
        return out[-1] if out else None


class End:
    """One gateway: endpoint, credentials, recording data plane, and everything that it said."""

    def __init__(self, network: Network, name: str, address: str, options: Options) -> None:
        self.network = network
        self.name = name
        self.addresses = [ip_address(address)]
        self.routes: dict[IPAddress, IPAddress | None] = {}
        """The address to send from by remote address; the first of its IP version where nothing is said."""
        self.rng = random_module.Random(f"{network.seed}/{name}")
        self.credentials = CredentialStore()
        self.plane = DataPlane()
        self.options = options
        self.said: list[base.Output] = []
        self.sent: list[base.SendDatagram] = []
        self.dead = False
        self.endpoint = self._endpoint()

    def _endpoint(self) -> Endpoint:
        endpoint = Endpoint(
            random=self.rng.randbytes,
            allocate_spi=lambda: self.plane.allocate(self.rng),
            credentials=self.credentials,
            options=self.options,
            now=self.network.now,
            wall_clock=lambda: WALL + self.network.now,
            last_inbound=lambda sa: self.plane.seen.get(sa),
            source_address=self.source,
        )
        endpoint.local_addresses = tuple(self.addresses)
        return endpoint

    @property
    def address(self) -> IPAddress:
        return self.addresses[0]

    @address.setter
    def address(self, address: IPAddress) -> None:
        self.addresses = [address]
        self.endpoint.local_addresses = (address,)

    def source(self, remote: IPAddress) -> IPAddress | None:
        if remote in self.routes:
            return self.routes[remote]
        return next((a for a in self.addresses if a.version == remote.version), None)

    def readdress(self, *texts: str) -> None:
        """The host has these addresses from now on, and its endpoint hears of it."""
        self.addresses = [ip_address(text) for text in texts]
        self.endpoint.addresses_changed(self.addresses, self.network.now)
        self.flush()

    def restart(self, *, keep_connections: bool = True) -> None:
        """The process dies without a word and comes up again with the same configuration."""
        connections = list(self.endpoint.connections()) if keep_connections else []
        self.plane = DataPlane()
        self.endpoint = self._endpoint()
        for config in connections:
            self.endpoint.load_connection(config, self.network.now)
        self.flush()

    def flush(self) -> None:
        for output in self.endpoint.outputs():
            self.said.append(output)
            self.plane.apply(output)
            if isinstance(output, base.SendDatagram):
                self.sent.append(output)
                if not self.dead:
                    self.network.transmit(self, output)

    def do(self, command: Callable[..., T], **arguments: Any) -> T:
        """Run a command of the endpoint now and carry out what it says."""
        result = command(now=self.network.now, **arguments)
        self.flush()
        return result

    def load(self, config: ConnectionConfig) -> None:
        self.endpoint.load_connection(config, self.network.now)
        self.flush()

    def heard(self, kind: type[T]) -> list[T]:
        return [output for output in self.said if isinstance(output, kind)]

    def log(self) -> list[str]:
        return [f"{o.group} {o.message}" for o in self.heard(base.LogRecorded)]

    def outcome(self, ticket: int) -> base.CommandFinished | None:
        return next((o for o in self.heard(base.CommandFinished) if o.ticket == ticket), None)

    def ike(self) -> list[base.IkeSaView]:
        return list(self.endpoint.ike_sas())

    def children(self, *states: str) -> list[base.ChildSaView]:
        return [c for sa in self.ike() for c in sa.children if not states or c.state in states]

    def failures(self) -> list[str]:
        return [o.reason for o in self.heard(base.NegotiationFailed)]


@dataclass
class Nat:
    """Translates one private host to a public address; ports are mapped and kept until ``rebind``."""

    inside: str
    outside: str
    next_port: int = 20000
    forward: dict[int, int] = field(default_factory=dict)

    def out(self, source: Address) -> Address:
        port = self.forward.get(source.port)
        if port is None:
            port = self.forward[source.port] = self.next_port
            self.next_port += 1
        return host(self.outside, port)

    def back(self, destination: Address) -> Address | None:
        for inside, outside in self.forward.items():
            if outside == destination.port:
                return host(self.inside, inside)
        return None

    def rebind(self) -> None:
        self.forward.clear()


class Network:
    """The wire between ends. ``loss``, ``duplicate`` and ``reorder`` are probabilities, ``latency`` is seconds."""

    def __init__(
        self,
        *,
        seed: int = 1,
        latency: float = 0.01,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        start: float = 1000.0,
    ) -> None:
        self.seed = seed
        self.now = start
        self.latency, self.loss, self.duplicate, self.reorder = latency, loss, duplicate, reorder
        self.rng = random_module.Random(seed)
        self.ends: list[End] = []
        self.nats: list[Nat] = []
        self.in_flight: list[tuple[float, int, bytes, Address, Address]] = []
        self.cut: set[tuple[str, str]] = set()
        """Pairs of addresses between which nothing passes, either way."""
        self.tap: Callable[[End, base.SendDatagram], bool] | None = None
        """Sees each datagram; False swallows it."""
        self.transmitted: list[tuple[bytes, Address, Address]] = []
        self._count = 0

    def add(self, name: str, address: str, options: Options | None = None) -> End:
        end = End(self, name, address, options or Options(retransmit_jitter=0.0))
        self.ends.append(end)
        return end

    def broken(self, one: Address, other: Address) -> bool:
        here, there = str(one.host), str(other.host)
        return (here, there) in self.cut or (there, here) in self.cut

    def transmit(self, sender: End, output: base.SendDatagram) -> None:
        assert output.marker == (output.local.port != 500)
        if self.tap is not None and not self.tap(sender, output):
            return
        if output.local.host not in sender.addresses or self.broken(output.local, output.remote):
            return
        if self.rng.random() < self.loss:
            return
        copies = 2 if self.rng.random() < self.duplicate else 1
        for _ in range(copies):
            delay = self.latency * (1 + (self.rng.random() * 20 if self.rng.random() < self.reorder else 0))
            self.deliver(output.data, output.local, output.remote, delay)

    def deliver(self, data: bytes, source: Address, destination: Address, delay: float = 0.0) -> None:
        for nat in self.nats:
            if str(source.host) == nat.inside:
                source = nat.out(source)
        there = [nat for nat in self.nats if str(destination.host) == nat.outside]
        if there:
            translated = [back for nat in there if (back := nat.back(destination)) is not None]
            if not translated:
                return
            destination = translated[0]
        self._count += 1
        self.transmitted.append((data, source, destination))
        heapq.heappush(self.in_flight, (self.now + delay, self._count, data, source, destination))

    def next_wakeup(self) -> float | None:
        times = [end.endpoint.next_timer() for end in self.ends if not end.dead]
        if self.in_flight:
            times.append(self.in_flight[0][0])
        return min((t for t in times if t is not None), default=None)

    def step(self, limit: float | None = None) -> bool:
        """To the next wake-up (not beyond ``limit``); False when nothing is left to happen."""
        wakeup = self.next_wakeup()
        if wakeup is None or (limit is not None and wakeup > limit):
            if limit is not None:
                self.now = max(self.now, limit)
            return False
        self.now = max(self.now, wakeup)
        while self.in_flight and self.in_flight[0][0] <= self.now:
            _, _, data, source, destination = heapq.heappop(self.in_flight)
            for end in self.ends:
                if destination.host in end.addresses and not end.dead:
                    end.endpoint.receive_datagram(data, destination, source, self.now)
                    end.flush()
        for end in self.ends:
            if not end.dead:
                end.endpoint.handle_timer(self.now)
                end.flush()
        return True

    def run(self, seconds: float, *, steps: int = 200_000) -> None:
        """Let virtual time pass."""
        limit = self.now + seconds
        for _ in range(steps):
            if not self.step(limit):
                return
        raise AssertionError(f"more than {steps} steps in {seconds} s: something spins")


def connection(
    name: str = "conn",
    *,
    local: str = "10.0.0.1",
    remote: str = "10.0.0.2",
    local_id: str = "a.lab",
    remote_id: str = "b.lab",
    local_ts: tuple[str, ...] = ("10.1.0.0/24",),
    remote_ts: tuple[str, ...] = ("10.2.0.0/24",),
    child: str = "net",
    child_options: dict[str, Any] | None = None,
    proposals: tuple[Proposal, ...] = (IKE_GCM,),
    auth: AuthClass = AuthClass.PSK,
    **options: Any,
) -> ConnectionConfig:
    """A connection with one child; the other end's is made by swapping local and remote."""
    child_config = ChildConfig(
        name=child,
        local_ts=ts(*local_ts),
        remote_ts=ts(*remote_ts),
        **{"proposals": (ESP_GCM,), **(child_options or {})},
    )
    settings: dict[str, Any] = {
        "local_addrs": (local,),
        "remote_addrs": (remote,),
        "proposals": proposals,
        "local": (AuthConfig(auth=auth, id=fqdn(local_id)),),
        "remote": (AuthConfig(auth=auth, id=fqdn(remote_id)),),
        "children": (child_config,),
    }
    return ConnectionConfig(name=name, **{**settings, **options})


def mirrored(**options: Any) -> tuple[ConnectionConfig, ConnectionConfig]:
    """The same connection as seen from both ends."""
    other = dict(options)
    other["local_ts"], other["remote_ts"] = (
        options.get("remote_ts", ("10.2.0.0/24",)),
        options.get("local_ts", ("10.1.0.0/24",)),
    )
    other["local"], other["remote"] = options.get("remote", "10.0.0.2"), options.get("local", "10.0.0.1")
    other["local_id"], other["remote_id"] = (
        options.get("remote_id", "b.lab"),
        options.get("local_id", "a.lab"),
    )
    return connection(**options), connection(**other)


class Pair(Network):
    """Ends ``a`` (10.0.0.1) and ``b`` (10.0.0.2) with a shared secret and one connection on each."""

    def __init__(
        self,
        *,
        a: ConnectionConfig | None = None,
        b: ConnectionConfig | None = None,
        options: Options | None = None,
        load: bool = True,
        **network: Any,
    ) -> None:
        super().__init__(**network)
        self.a = self.add("a", "10.0.0.1", options)
        self.b = self.add("b", "10.0.0.2", options)
        for end in (self.a, self.b):
            end.credentials.load_shared(SharedSecret("psk", SECRET, (fqdn("a.lab"), fqdn("b.lab"))))
        default_a, default_b = mirrored()
        if load:
            self.a.load(a or default_a)
            self.b.load(b or default_b)

    def up(self, child: str = "net") -> None:
        """Bring the child up from ``a`` and check that both ends agree."""
        ticket = self.a.do(self.a.endpoint.initiate, ike=None, child=child)
        self.run(5)
        outcome = self.a.outcome(ticket)
        assert outcome is not None
        assert outcome.success, outcome.message
        self.check_agreement()

    def check_agreement(self) -> None:
        """Both ends hold the same IKE SAs and Child SAs, and each SA has its counterpart with the same keys."""
        a, b = self.a, self.b
        spis = [
            {(s.initiator_spi, s.responder_spi) for s in end.ike() if s.established is not None}
            for end in (a, b)
        ]
        assert spis[0] == spis[1]
        for one, other in ((a, b), (b, a)):
            for out in one.plane.outbound():
                twin = next((sa for sa in other.plane.inbound() if sa.spi == out.spi), None)
                assert twin is not None, f"{one.name} sends to SPI {out.spi:08x}, which is not there"
                assert (twin.key_encr, twin.key_integ) == (out.key_encr, out.key_integ)
                assert (twin.local_ts, twin.remote_ts) == (out.remote_ts, out.local_ts)
                assert twin.esn == out.esn

    def check_no_leaks(self) -> None:
        """Everything installed belongs to a listed Child SA, and no SPI stays reserved."""
        for end in (self.a, self.b):
            listed = {c.inbound for c in end.children()} | {c.outbound for c in end.children()}
            for sa in end.plane.sas:
                assert sa in listed, f"{end.name}: {sa} belongs to no Child SA"
            waiting = [t for s in end.ike() for t in (*s.tasks_active, *s.tasks_queued)]
            if not waiting:
                assert not end.plane.reserved, f"{end.name}: SPIs {end.plane.reserved} stay reserved"
            reqids = {c.reqid for c in end.children()}
            for policy in end.plane.policies:
                assert policy.trap or not policy.reqid or policy.reqid in reqids

"""A gateway for VICI tests: views are put in by hand, commands are recorded, the real credential store behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from ipsecstack.dataplane.base import DataPlaneCounters, Features
from ipsecstack.ipsec.sa import Address, Direction, Mode, SaCounters, SaId, SecurityProtocol
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import SpdEntry
from ipsecstack.keyex.base import (
    AddPolicy,
    ChildSaView,
    CommandError,
    CommandFinished,
    IkeCounters,
    IkeSaView,
    LogRecorded,
    Output,
    RemovePolicy,
)
from ipsecstack.keyex.configuration import ConnectionConfig, Identity, PoolConfig
from ipsecstack.keyex.credentials import CredentialStore
from ipsecstack.keyex.pools import Pool, Pools
from ipsecstack.vici.server import DaemonInfo, ViciServer
from ipsecstack.wire.transforms import EncrId, IntegId, KeId, PrfId

COUNTER_KEYS = [
    "ike-rekey-init",
    "ike-rekey-resp",
    "child-rekey",
    "invalid",
    "invalid-spi",
    "ike-init-in-req",
    "ike-init-in-resp",
    "ike-init-out-req",
    "ike-init-out-resp",
    "ike-auth-in-req",
    "ike-auth-in-resp",
    "ike-auth-out-req",
    "ike-auth-out-resp",
    "create-child-in-req",
    "create-child-in-resp",
    "create-child-out-req",
    "create-child-out-resp",
    "info-in-req",
    "info-in-resp",
    "info-out-req",
    "info-out-resp",
]


def child_view(uniqueid: int, name: str = "gcm", **changes: Any) -> ChildSaView:
    here, there = ip_address("10.99.0.1"), ip_address("10.99.0.2")
    spi_in, spi_out = 0xC0000000 + uniqueid, 0x0C000000 + uniqueid
    view = ChildSaView(
        name=name,
        uniqueid=uniqueid,
        reqid=1,
        state="INSTALLED",
        mode=Mode.TUNNEL,
        protocol=SecurityProtocol.ESP,
        encapsulated=True,
        spi_in=spi_in,
        spi_out=spi_out,
        inbound=SaId(Direction.IN, SecurityProtocol.ESP, spi_in, here),
        outbound=SaId(Direction.OUT, SecurityProtocol.ESP, spi_out, there),
        encr=EncrId.AES_GCM_16,
        encr_key_bits=128,
        integ=IntegId.NONE,
        ke=KeId.CURVE_25519,
        esn=True,
        replay_window=32,
        install_time=990.0,
        rekey_time=4000.0,
        life_time=4590.0,
        rekey_bytes=0,
        life_bytes=10**9,
        rekey_packets=0,
        life_packets=0,
        local_ts=(TrafficSelector.from_text("10.1.0.0/24"),),
        remote_ts=(TrafficSelector.from_text("10.2.0.0/24[tcp/80]"),),
        generation=1,
    )
    return replace(view, **changes)


def ike_view(
    uniqueid: int, name: str = "psk2", children: Sequence[ChildSaView] = (), **changes: Any
) -> IkeSaView:
    view = IkeSaView(
        name=name,
        uniqueid=uniqueid,
        version=2,
        state="ESTABLISHED",
        local=Address(ip_address("10.99.0.1"), 4500),
        remote=Address(ip_address("10.99.0.2"), 4500),
        local_id=Identity(2, b"a.lab", "a.lab"),
        remote_id=Identity(2, b"b.lab", "b.lab"),
        local_auth="psk",
        remote_auth="psk",
        initiator=True,
        initiator_spi=bytes.fromhex("d340fd4102c0b3ef"),
        responder_spi=bytes.fromhex("2257d039863253db"),
        nat_local=False,
        nat_remote=True,
        nat_fake=False,
        encr=EncrId.AES_CBC,
        encr_key_bits=256,
        integ=IntegId.HMAC_SHA2_256_128,
        prf=PrfId.HMAC_SHA2_256,
        ke=KeId.ECP_256,
        created=980.0,
        established=990.0,
        rekey_time=14000.0,
        life_time=15400.0,
        counters=IkeCounters(octets_in=321, packets_in=2, octets_out=654, packets_out=2),
        tasks_active=(),
        tasks_queued=(),
        children=tuple(children),
        generation=1,
    )
    return replace(view, **changes)


class FakeEndpoint:
    """Keeps what it is told; ``put`` and ``drop`` change the live SAs as a key exchange would."""

    def __init__(self) -> None:
        self.generation = 0
        self.remember = 10**6
        self.calls: list[tuple[Any, ...]] = []
        self.sas: dict[int, IkeSaView] = {}
        self._changed: dict[int, int] = {}
        self._gone: list[tuple[int, bool, int]] = []
        self._connections: dict[str, ConnectionConfig] = {}
        self._outputs: list[Output] = []
        self.ticket = 0
        self.refuse: str | None = None
        self.pools = Pools()
        self.matches = 1
        self.counts = dict.fromkeys(COUNTER_KEYS, 0)
        self.on_command: Callable[[int], list[Output]] = lambda ticket: [
            LogRecorded("IKE", 0, "psk2", 4, "initiating IKE_SA psk2[4] to 10.99.0.2"),
            LogRecorded("ENC", 3, "psk2", 4, "too detailed for the default level"),
            LogRecorded("IKE", 1, "other", 9, "of another connection"),
            CommandFinished(ticket, True, ""),
        ]

    # what a test does

    def put(self, view: IkeSaView) -> None:
        self.generation += 1
        old = self.sas.get(view.uniqueid)
        if old is not None:
            for child in old.children:
                if not any(
                    child.uniqueid == c.uniqueid
                    for sa in (*self.sas.values(), view)
                    if sa is not old
                    for c in sa.children
                ):
                    self._gone.append((self.generation, True, child.uniqueid))
        self.sas[view.uniqueid] = replace(view, generation=self.generation)
        self._changed[view.uniqueid] = self.generation

    def drop(self, uniqueid: int) -> None:
        self.generation += 1
        view = self.sas.pop(uniqueid)
        self._changed.pop(uniqueid)
        self._gone.append((self.generation, False, uniqueid))
        for child in view.children:
            if not any(child.uniqueid == c.uniqueid for sa in self.sas.values() for c in sa.children):
                self._gone.append((self.generation, True, child.uniqueid))

    def emit(self, *outputs: Output) -> None:
        self._outputs += outputs

    # KeyExchangeEndpoint

    def outputs(self) -> list[Output]:
        taken, self._outputs = self._outputs, []
        return taken

    def next_timer(self) -> float | None:
        return 1234.5

    def connections(self) -> list[ConnectionConfig]:
        return list(self._connections.values())

    def load_connection(self, config: ConnectionConfig, now: float) -> None:
        self.calls.append(("load_connection", config.name))
        self._connections[config.name] = config

    def unload_connection(self, name: str, now: float) -> None:
        self.calls.append(("unload_connection", name))
        del self._connections[name]

    def _command(self, *call: Any) -> int:
        self.calls.append(call)
        if self.refuse is not None:
            raise CommandError(self.refuse)
        self.ticket += 1
        self._outputs += self.on_command(self.ticket)
        return self.ticket

    def initiate(self, *, ike: str | None, child: str | None, now: float) -> int:
        return self._command("initiate", ike, child)

    def terminate(self, *, now: float, **selector: Any) -> tuple[int, int]:
        return self._command("terminate", selector), self.matches

    def load_pool(self, config: PoolConfig) -> None:
        self.pools.load(config)

    def unload_pool(self, name: str) -> None:
        self.pools.unload(name)

    def address_pools(self) -> Sequence[Pool]:
        return self.pools.all()

    def rekey(self, *, now: float, **selector: Any) -> int:
        self._command("rekey", selector)
        return self.matches

    def redirect(self, gateway: str, *, now: float, **selector: Any) -> int:
        self._command("redirect", gateway, selector)
        return self.matches

    def install(self, *, child: str, ike: str | None, now: float) -> None:
        self._command("install", ike, child)

    def uninstall(self, *, child: str, ike: str | None, now: float) -> None:
        self._command("uninstall", ike, child)

    def ike_sas(self) -> list[IkeSaView]:
        return list(self.sas.values())

    def ike_sas_changed_since(self, generation: int) -> tuple[list[IkeSaView], list[int], list[int]]:
        if self.generation - generation > self.remember:
            raise CommandError("too old")
        changed = [self.sas[uid] for uid, g in self._changed.items() if g > generation]
        gone = [(child, uid) for g, child, uid in self._gone if g > generation]
        return changed, [u for child, u in gone if not child], [u for child, u in gone if child]

    def counters(self, connection: str | None = None) -> dict[str, int]:
        return dict(self.counts)

    def statistics(self) -> dict[str, int]:
        return {"invalid-messages": 2, "unknown-ike-spi": 0}

    def counters_by_connection(self) -> dict[str, dict[str, int]]:
        return {"psk2": dict(self.counts)}

    def reset_counters(self, connection: str | None = None) -> None:
        self.calls.append(("reset_counters", connection))


@dataclass
class FakeDataPlane:
    """Counters by SA and a list of policies."""

    features: Features = field(default_factory=lambda: Features("memory", True, True, True, True))
    counters: DataPlaneCounters = field(default_factory=lambda: DataPlaneCounters(unknown_spi=7))
    live: dict[SaId, SaCounters] = field(default_factory=dict)
    entries: list[SpdEntry] = field(default_factory=list)
    passed: set[SaId] = field(default_factory=set)

    def query(self, sa: SaId) -> SaCounters | None:
        return self.live.get(sa)

    def touched(self) -> set[SaId]:
        taken, self.passed = self.passed, set()
        return taken

    def policies(self) -> list[SpdEntry]:
        return list(self.entries)

    def traffic(self, sa: SaId, octets: int, **more: Any) -> None:
        counters = self.live.setdefault(sa, SaCounters())
        counters.octets += octets
        counters.packets += 1
        for key, value in more.items():
            setattr(counters, key, value)
        self.passed.add(sa)


class FakeStack:
    """The part of ``ipsecstack.stack.Stack`` that the server uses, over the fakes above."""

    def __init__(self) -> None:
        self.endpoint = FakeEndpoint()
        self.dataplane = FakeDataPlane()
        self._listeners: list[Callable[[Output, Any], None]] = []

    def subscribe(self, listener: Callable[[Output, Any], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def child_counters(self, child: ChildSaView) -> tuple[SaCounters | None, SaCounters | None]:
        query = self.dataplane.query
        return (
            query(child.inbound) if child.inbound else None,
            query(child.outbound) if child.outbound else None,
        )

    def touched(self) -> set[SaId]:
        return self.dataplane.touched()

    def add_policy(self, entry: SpdEntry) -> None:
        self.dataplane.entries.append(entry)
        self.tell(AddPolicy(entry))

    def remove_policy(self, entry: SpdEntry) -> None:
        self.dataplane.entries.remove(entry)
        self.tell(RemovePolicy(entry))

    def tell(self, output: Output) -> None:
        for listener in list(self._listeners):
            listener(output, self)

    def advance(self) -> None:
        while outputs := self.endpoint.outputs():
            for output in outputs:
                self.tell(output)


class Gateway:
    """A server on fakes, with a clock that stands still until a test moves it."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.stack = FakeStack()
        self.endpoint, self.dataplane = self.stack.endpoint, self.stack.dataplane
        self.credentials = CredentialStore()
        self.info = DaemonInfo("0.1", started=900.0, started_wall=1_795_450_000.0, epoch="4711")
        self.server = ViciServer(
            self.stack,  # type: ignore[arg-type]
            self.credentials,
            info=self.info,
            clock=lambda: self.now,
            advance=self.stack.advance,
            **options,
        )

    def fill(self) -> None:
        """One connection's worth of live SAs, traffic and policies."""
        child = child_view(4)
        self.endpoint.put(ike_view(4, children=[child]))
        self.endpoint.put(ike_view(5, "", state="CONNECTING", established=None, rekey_time=None, life_time=None,
                                   local_id=None, remote_id=None, local_auth=None, remote_auth=None))  # fmt: skip
        assert child.inbound
        assert child.outbound
        self.dataplane.traffic(child.inbound, 420, last_used=998.0, replay_errors=3)
        self.dataplane.traffic(child.outbound, 840)

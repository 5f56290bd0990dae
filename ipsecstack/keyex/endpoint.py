"""One gateway's key exchanges: tables, timers, commands. Implements ``base.KeyExchangeEndpoint``."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ipsecstack.ipsec.pad import Pad
from ipsecstack.ipsec.sa import Address, SaId, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.ipsec.spd import SpdEntry
from ipsecstack.keyex import commands, lookup, redirection
from ipsecstack.keyex.admission import LogLimit
from ipsecstack.keyex.base import (
    AddVirtualIp,
    CommandError,
    LogRecorded,
    Output,
    PoolView,
    Random,
    RemoveVirtualIp,
)
from ipsecstack.keyex.bookkeeping import Counters, Tickets
from ipsecstack.keyex.configuration import ChildConfig, ConnectionConfig, Identity, PoolConfig
from ipsecstack.keyex.credentials import CredentialStore
from ipsecstack.keyex.ikev2 import addresses, config_payload, lifecycle, machine, mobike, reauth, timers
from ipsecstack.keyex.ikev2.informational import DeleteIke
from ipsecstack.keyex.ikev2.reports import InvalidSpi
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.states import State
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.keyex.options import Options
from ipsecstack.keyex.peers import pad_entry
from ipsecstack.keyex.policies import Cpis, Policies, PolicyKey
from ipsecstack.keyex.pools import Pools
from ipsecstack.keyex.reception import Reception
from ipsecstack.keyex.registry import Registry
from ipsecstack.keyex.revocation import MAX_PENDING, FetchRevocation
from ipsecstack.keyex.tickets import Sessions
from ipsecstack.keyex.views import Views
from ipsecstack.keyex.window import ResponseWindow

_NO_SPI = bytes(8)
_POSTPONED_LIFE = 30.0  # seconds that a message waits for a revocation status


class Endpoint(Views):
    """See ``base.KeyExchangeEndpoint`` for what each method promises.

    ``source_address(remote) -> own address or None`` finds the address to send from where local_addrs is ``%any``.
    """

    def __init__(
        self,
        *,
        random: Random,
        allocate_spi: Callable[[], int],
        credentials: CredentialStore,
        options: Options,
        now: float,
        wall_clock: Callable[[], float],
        last_inbound: Callable[[SaId], float | None] | None = None,
        source_address: Callable[[IPAddress], IPAddress | None] | None = None,
    ) -> None:
        self.random = random
        self.options = options
        self.credentials = credentials
        self.closing = False
        self.tickets = Tickets(self.emit)
        self.sessions = Sessions(random, options.ticket_lifetime, options.tickets_remembered)
        self.policies = Policies(self.emit)
        self.pools = Pools()
        self._vips: Counter[IPAddress] = Counter()
        self._cpis = Cpis()
        self.source_address = source_address
        self.local_addresses: Sequence[IPAddress] = ()
        self._allocate_spi = allocate_spi
        self._wall_clock = wall_clock
        self._last_inbound = last_inbound
        self._outputs: list[Output] = []
        self._postponed: dict[bytes, tuple[bytes, Address, Address, float]] = {}
        self._connections: dict[str, ConnectionConfig] = {}
        self._pad: Pad | None = None
        self._by_address: lookup.ConnectionIndex | None = None
        self.registry = Registry(options.remember_changes)
        self._counters = Counters()
        self._reception = Reception(self, self.registry, now)
        self._log_limit = LogLimit(options.log_rate)
        self._now = now
        self._last_ike_id = 0
        self._last_child_id = 0
        self._timers: list[tuple[float, int]] = []
        self._deadlines: dict[int, float | None] = {}
        self._touched: set[IkeSa] = set()

    # --- datagrams and time ---

    def receive_datagram(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        """One IKE message without the non-ESP marker. Never raises on peer input."""
        self._now = now
        self._reception.receive(data, local, remote, now)
        self._settle()

    def postpone(self, key: bytes, data: bytes, local: Address, remote: Address, now: float) -> None:
        kept = {k: entry for k, entry in self._postponed.items() if now - entry[3] < _POSTPONED_LIFE}
        # A message that finds no room comes again: its sender retransmits it.
        if key in kept or len(kept) < MAX_PENDING:
            kept[key] = (data, local, remote, now)
        self._postponed = kept

    def revocation_fetched(self, fetch: FetchRevocation, data: bytes | None, now: float) -> None:
        problem = self.credentials.revocations.fetched(fetch, data, self._wall_clock())
        if problem is not None:
            self.emit(LogRecorded("CFG", 1, None, None, f"revocation status from {fetch.uri}: {problem}"))
        waiting, self._postponed = self._postponed, {}
        for kept, local, remote, _ in waiting.values():
            self.receive_datagram(kept, local, remote, now)

    def next_timer(self) -> float | None:
        while self._timers and self._deadlines.get(self._timers[0][1]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def handle_timer(self, now: float) -> None:
        while (due := self.next_timer()) is not None and due <= now:
            _, uniqueid = heapq.heappop(self._timers)
            self._deadlines.pop(uniqueid, None)
            sa = self.registry.get(uniqueid)
            if sa is not None:
                timers.handle_timer(sa, now)
                self._touched.add(sa)
            self._settle()

    def outputs(self) -> list[Output]:
        """Take the outputs produced since the last call, in order."""
        taken, self._outputs = self._outputs, []
        return taken

    def _settle(self) -> None:
        """Recompute the timers of the SAs that were touched."""
        while self._touched:
            sa = self._touched.pop()
            if sa not in self.registry:
                self._deadlines.pop(sa.uniqueid, None)
                continue
            deadline = timers.deadline(sa)
            if deadline != self._deadlines.get(sa.uniqueid, None):
                self._deadlines[sa.uniqueid] = deadline
                if deadline is not None:
                    heapq.heappush(self._timers, (deadline, sa.uniqueid))

    # --- what IKE SAs ask of their host (ikev2.host.Host) ---

    @property
    def generation(self) -> int:
        return self.registry.changes.generation

    @property
    def pad(self) -> Pad:
        if self._pad is None:
            self._pad = Pad([pad_entry(config) for config in self._connections.values()])
        return self._pad

    def wall_clock(self) -> float:
        return self._wall_clock()

    def last_inbound(self, sa: SaId) -> float | None:
        return self._last_inbound(sa) if self._last_inbound is not None else None

    def allocate_spi(self) -> int:
        return self._allocate_spi()

    def allocate_cpi(self, spi: int) -> int:
        return self._cpis.allocate(spi, self.random)

    def release_cpi(self, spi: int) -> None:
        self._cpis.release(spi)

    def emit(self, output: Output) -> None:
        self._outputs.append(output)

    def touch(self, sa: IkeSa, child: ChildSa | None = None) -> None:
        self.registry.refresh(sa, child)
        if sa.state not in (State.HALF_OPEN, State.AUTHENTICATING):
            self._reception.half_open.discard(sa.uniqueid)
        self._touched.add(sa)

    def touch_timer(self, sa: IkeSa) -> None:
        self._touched.add(sa)

    def installed(self, sa: SaId, child: ChildSa) -> None:
        self.registry.installed(sa, child)

    def removed(self, sa: SaId) -> None:
        self.registry.removed(sa)

    def child_of(self, sa: SaId) -> ChildSa | None:
        return self.registry.child(sa)

    def quiet(self, key: str) -> bool:
        allowed, suppressed = self._log_limit.allow(key, self._now)
        if allowed and suppressed:
            text = f"{suppressed} more lines like the next one were suppressed"
            self.emit(LogRecorded("NET", 1, None, None, text))
        return not allowed

    def count(self, connection: str | None, key: str) -> None:
        if key == "invalid":
            self._reception.statistics["invalid-messages"] += 1
        self._counters.add(connection if connection in self._connections else None, key)

    def count_statistic(self, key: str) -> None:
        self._reception.statistics[key] += 1

    def next_ike_id(self) -> int:
        self._last_ike_id += 1
        return self._last_ike_id

    def next_child_id(self) -> int:
        self._last_child_id += 1
        return self._last_child_id

    def new_spi(self) -> bytes:
        while True:
            spi = self.random(8)
            if spi != _NO_SPI and self.registry.by_spi(spi) is None:
                return spi

    def adopt(self, sa: IkeSa) -> None:
        self.registry.add(sa)
        if sa.state is State.HALF_OPEN:
            self._reception.half_open.add(sa.uniqueid, sa.remote.host)
            surplus = self._reception.half_open.surplus()
            oldest = self.registry.get(surplus) if surplus is not None else None
            if oldest is not None:
                self.count_statistic("half-open-drops")
                lifecycle.destroy(oldest, "timeout", self._now)
        self.touch(sa)

    def discard(self, sa: IkeSa) -> None:
        """A fresh IKE SA whose first request was refused: it never was."""
        self._touched.discard(sa)

    def remember_refusal(self, sa: IkeSa, now: float) -> None:
        responses, sa.responses = sa.responses, ResponseWindow()
        self._reception.refusals.keep(sa.spi_i, sa.spi_r, sa.remote.host, responses, now)

    def forget(self, sa: IkeSa) -> None:
        reauth.failed(sa, "the new IKE_SA did not come up", self._now)
        self.registry.remove(sa)
        self._reception.forget(sa)
        self._deadlines.pop(sa.uniqueid, None)
        self._touched.discard(sa)

    def child_gone(self, child: ChildSa) -> None:
        self.registry.changes.ended(child.uniqueid, ike=False)

    def ike_sas_of(self, connection: str | None = None) -> Iterable[IkeSa]:
        return self.registry.all() if connection is None else self.registry.by_name(connection)

    def ike_sas_with(self, peer: Identity) -> Iterable[IkeSa]:
        return self.registry.by_peer(peer)

    def count_with(self, peer: Identity) -> int:
        return self.registry.count_of_peer(peer)

    def ike_sas_at(self, address: IPAddress) -> Iterable[IkeSa]:
        return self.registry.by_host(address)

    def connection(self, name: str) -> ConnectionConfig | None:
        return self._connections.get(name)

    def candidates(self, local: Address, remote: Address) -> list[ConnectionConfig]:
        if self._by_address is None:
            self._by_address = lookup.ConnectionIndex(self._connections.values())
        return self._by_address.candidates(local, remote, 2)

    def acquire_policy(
        self,
        connection: str,
        child: ChildConfig,
        local_ts: tuple[TrafficSelector, ...],
        remote_ts: tuple[TrafficSelector, ...],
        protocol: SecurityProtocol = SecurityProtocol.ESP,
    ) -> tuple[PolicyKey, int]:
        return self.policies.acquire(connection, child, local_ts, remote_ts, protocol)

    def release_policy(self, key: PolicyKey) -> None:
        self.policies.release(key)

    def finish(self, tickets: list[int], success: bool, message: str) -> None:
        self.tickets.finish(tickets, success, message)

    def start_child(self, connection: str, child: str, now: float) -> None:
        commands.start_child(self, connection, child, now)

    def start_apart(
        self, connection: str, child: str, tickets: list[int], now: float, relieved: ChildSa | None = None
    ) -> bool:
        return commands.start_apart(self, connection, child, tickets, now, relieved)

    def trap_child(self, connection: str, child: str, now: float) -> None:
        commands.trap_child(self, connection, child)

    def add_virtual_ip(self, address: IPAddress) -> None:
        self._vips[address] += 1
        if self._vips[address] == 1:
            self.emit(AddVirtualIp(address))

    def release_addresses(self, sa: IkeSa) -> None:
        config_payload.release(sa)

    def remove_virtual_ip(self, address: IPAddress) -> None:
        self._vips[address] -= 1
        if not self._vips[address]:
            del self._vips[address]
            self.emit(RemoveVirtualIp(address))

    def reauthenticate(self, sa: IkeSa, now: float) -> bool:
        return commands.reauthenticate(self, sa, now)

    def retry(self, sa: IkeSa, now: float) -> bool:
        return commands.retry(self, sa, now)

    def begin_at(
        self,
        sa: IkeSa,
        gateway: IPAddress,
        redirects: tuple[float, ...],
        children: list[str],
        tickets: list[int],
        waiting: list[Task],
        now: float,
    ) -> bool:
        return redirection.begin_at(self, sa, gateway, redirects, children, tickets, waiting, now)

    # --- configuration ---

    def load_connection(self, config: ConnectionConfig, now: float) -> None:
        commands.check(config, self.options.abilities)
        old = self._connections.get(config.name)
        self._connections[config.name] = config
        self._pad = self._by_address = None
        if old != config:
            if old is not None:
                commands.undo_actions(self, old)
            commands.start_actions(self, config, now)
        self._settle()

    def unload_connection(self, name: str, now: float) -> None:
        config = self._connections.pop(name, None)
        if config is None:
            raise CommandError(f"no connection named '{name}'")
        self._pad = self._by_address = None
        commands.undo_actions(self, config)
        self._settle()

    def connections(self) -> Sequence[ConnectionConfig]:
        return list(self._connections.values())

    def load_pool(self, config: PoolConfig) -> None:
        """Add or change an address pool. PoolError (a ValueError) when its leases forbid it."""
        self.pools.load(config)

    def unload_pool(self, name: str) -> None:
        self.pools.unload(name)

    def address_pools(self) -> Sequence[PoolView]:
        return self.pools.all()

    # --- commands ---

    def initiate(self, *, ike: str | None, child: str | None, now: float) -> int:
        ticket = commands.initiate(self, ike, child, now)
        self._settle()
        return ticket

    def terminate(
        self,
        *,
        ike: str | None = None,
        child: str | None = None,
        ike_id: int | None = None,
        child_id: int | None = None,
        force: bool = False,
        now: float,
    ) -> tuple[int, int]:
        result = commands.terminate(self, ike, child, ike_id, child_id, force, now)
        self._settle()
        return result

    def rekey(
        self,
        *,
        ike: str | None = None,
        child: str | None = None,
        ike_id: int | None = None,
        child_id: int | None = None,
        reauth: bool = False,
        now: float,
    ) -> int:
        matched = commands.rekey(self, ike, child, ike_id, child_id, now, reauth)
        self._settle()
        return matched

    def redirect(
        self,
        gateway: str,
        *,
        ike: str | None = None,
        ike_id: int | None = None,
        peer_ip: str | None = None,
        peer_id: Identity | None = None,
        now: float,
    ) -> int:
        matched = redirection.redirect(self, gateway, ike, ike_id, peer_ip, peer_id, now)
        self._settle()
        return matched

    def install(self, *, child: str, ike: str | None, now: float) -> None:
        config, child_config = commands.find_child(self, ike, child)
        if not commands.trap_child(self, config.name, child_config.name):
            raise CommandError(f"CHILD_SA '{child}' is installed already, or its peer's address is not known")

    def uninstall(self, *, child: str, ike: str | None, now: float) -> None:
        names = [name for name in self._connections if ike in (None, name)]
        removed = [name for name in names if self.policies.untrap(name, child)]
        if not removed:
            raise CommandError(f"no policy of '{child}' is installed")

    # --- what the data plane reports ---

    def sa_expired(self, sa: SaId, hard: bool, now: float) -> None:
        child = self.registry.child(sa)
        if child is not None and child.owner is not None:
            if hard:
                timers.expire_child(child.owner, child)
            else:
                timers.rekey_child(child.owner, child)
            machine.pump(child.owner, now)
        self._settle()

    def acquired(
        self,
        entry: SpdEntry,
        source: IPAddress,
        destination: IPAddress,
        protocol: int,
        ports: tuple[int, int] | None,
        now: float,
        selectors: tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]] | None = None,
    ) -> None:
        commands.acquired(self, entry, source, destination, protocol, ports, now, selectors)
        self._settle()

    def unknown_spi(self, spi: int, local: Address, remote: Address, now: float) -> None:
        """The peer sends to an SPI that we do not have: ask it on our IKE SA, or tell it without one (§1.5)."""
        peers = [sa for sa in self.registry.by_host(remote.host) if sa.state is State.ESTABLISHED]
        for sa in peers:
            machine.hint(sa, now, InvalidSpi(spi) if len(peers) == 1 else None)
        if not peers and not self.closing:
            self._reception.tell_invalid_spi(spi, local, remote, now)
        self._settle()

    def peer_address_changed(self, sa: SaId, remote: Address, now: float) -> None:
        child = self.registry.child(sa)
        ike = child.owner if child is not None else None
        if ike is not None and ike.state is State.ESTABLISHED:
            addresses.follow_nat(ike, ike.local, remote)
        self._settle()

    def addresses_changed(self, addresses: Iterable[IPAddress], now: float) -> None:
        """Local addresses (these are all of them) or routes changed."""
        self.local_addresses = tuple(a for a in dict.fromkeys(addresses) if a not in self._vips)
        for sa in self.registry.all():
            mobike.local_changed(sa, now)
            if sa.state is not State.DEAD:
                machine.pump(sa, now)
        self._settle()

    # --- the end ---

    def shutdown(self, now: float) -> None:
        self.closing = True
        for sa in self.registry.all():
            if sa.state in (State.ESTABLISHED, State.AUTH_SENT):
                sa.enqueue(DeleteIke("shutdown"), first=True)
                machine.pump(sa, now)
            elif sa.state is not State.DELETING:
                lifecycle.destroy(sa, "shutdown", now)
        self._settle()

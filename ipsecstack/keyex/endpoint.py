"""One gateway's key exchanges: demultiplexing, tables, timers. Implements ``base.KeyExchangeEndpoint``."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Sequence

from ipsecstack.ipsec.pad import ID_ANY, Pad, PadEntry
from ipsecstack.ipsec.sa import Address, SaId
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.ipsec.spd import SpdEntry
from ipsecstack.keyex import commands, lookup
from ipsecstack.keyex.admission import Cookies, Decision, HalfOpen, RateLimit
from ipsecstack.keyex.base import (
    ChildConfig,
    CommandError,
    ConnectionConfig,
    IkeSaView,
    LogRecorded,
    Output,
    Random,
    SendDatagram,
)
from ipsecstack.keyex.bookkeeping import Changes, Counters, Tickets
from ipsecstack.keyex.credentials import CredentialStore
from ipsecstack.keyex.ikev2 import lifecycle, machine
from ipsecstack.keyex.ikev2.authenticate import remote_round
from ipsecstack.keyex.ikev2.informational import DeleteIke
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.states import State
from ipsecstack.keyex.options import Options
from ipsecstack.keyex.policies import Policies, PolicyKey
from ipsecstack.wire.ikev2 import (
    ExchangeType,
    Header,
    Message,
    Nonce,
    Notify,
    NotifyType,
    PayloadType,
    WireError,
    build_message,
    describe,
    make_header,
    parse_message,
)

_NO_SPI = bytes(8)


class Endpoint:
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
        self.policies = Policies(self.emit)
        self.source_address = source_address
        self._allocate_spi = allocate_spi
        self._wall_clock = wall_clock
        self._last_inbound = last_inbound
        self._outputs: list[Output] = []
        self._connections: dict[str, ConnectionConfig] = {}
        self._pad: Pad | None = None
        self._sas: dict[int, IkeSa] = {}
        self._by_spi: dict[bytes, IkeSa] = {}
        self._first_requests: dict[tuple[bytes, IPAddress, bytes], IkeSa] = {}
        self._half_open = HalfOpen(options)
        self._cookies = Cookies(random, options.cookie_lifetime, now)
        self._answers = RateLimit(options.answer_rate, now)
        self._counters = Counters()
        self._changes = Changes(options.remember_changes)
        self._last_ike_id = 0
        self._last_child_id = 0
        self._timers: list[tuple[float, int]] = []
        self._deadlines: dict[int, float | None] = {}
        self._touched: set[IkeSa] = set()

    # --- datagrams and time ---

    def receive_datagram(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        """One IKE message without the non-ESP marker. Never raises on peer input."""
        try:
            header = Header.parse(data)
        except WireError as error:
            self._reject(local, remote, str(error))
            return
        if header.major != 2:
            self._other_version(header, local, remote, now)
        elif header.exchange == ExchangeType.IKE_SA_INIT and not header.is_response:
            self._first_request(header, data, local, remote, now)
        else:
            self._for_known(header, data, local, remote, now)
        self._settle()

    def _reject(self, local: Address, remote: Address, why: str, name: str | None = None) -> None:
        self.count(name, "invalid")
        self.emit(LogRecorded("NET", 1, name, None, f"ignoring packet from {remote} to {local}: {why}"))

    def _for_known(self, header: Header, data: bytes, local: Address, remote: Address, now: float) -> None:
        own = header.responder_spi if header.from_initiator else header.initiator_spi
        sa = self._by_spi.get(own)
        peer = header.initiator_spi if header.from_initiator else header.responder_spi
        if sa is not None and not self._peer_spi_fits(sa, peer):
            sa = None
        if sa is None:
            self._unknown_ike_spi(header, data, local, remote, now)
            return
        if header.next_payload == PayloadType.NOTIFY and sa.state is State.ESTABLISHED:
            # Not encrypted: nobody vouches for it. It may be a hint that the peer lost its state (§2.4, §2.21.4).
            self.count(sa.name, "invalid")
            sa.counters.drops_in += 1
            machine.hint(sa, now)
            return
        sa.log("NET", 1, f"received packet: from {remote} to {local} ({len(data)} bytes)")
        machine.receive(sa, header, data, local, remote, now)

    @staticmethod
    def _peer_spi_fits(sa: IkeSa, peer: bytes) -> bool:
        if sa.initiator:
            return sa.state is State.INIT_SENT or peer == sa.spi_r
        return peer == sa.spi_i

    def _unknown_ike_spi(
        self, header: Header, data: bytes, local: Address, remote: Address, now: float
    ) -> None:
        self.count(None, "invalid-spi")
        self._reject(
            local,
            remote,
            f"no IKE_SA with SPIs {header.initiator_spi.hex()}_i {header.responder_spi.hex()}_r",
        )
        if header.is_response:
            return
        if header.exchange == ExchangeType.INFORMATIONAL and header.next_payload == PayloadType.NOTIFY:
            self._invalid_spi_hint(data, remote, now)
            return
        self._answer(header, Notify(NotifyType.INVALID_IKE_SPI), local, remote, now)

    def _invalid_spi_hint(self, data: bytes, remote: Address, now: float) -> None:
        """INVALID_SPI outside of an IKE SA (§1.5): is it an SPI that we send to, ask that peer for a sign of life."""
        try:
            notify = parse_message(data).notify(NotifyType.INVALID_SPI)
        except WireError:
            return
        if notify is None or len(notify.data) != 4:
            return
        spi = int.from_bytes(notify.data, "big")
        for sa in list(self._sas.values()):
            if sa.remote.host == remote.host and sa.child_by_spi_out(spi) is not None:
                machine.hint(sa, now)

    def _other_version(self, header: Header, local: Address, remote: Address, now: float) -> None:
        self._reject(local, remote, f"IKE version {header.major}.{header.minor} is not supported")
        if header.major > 2 and not header.is_response:
            self._answer(header, Notify(NotifyType.INVALID_MAJOR_VERSION), local, remote, now)

    def _answer(self, header: Header, notify: Notify, local: Address, remote: Address, now: float) -> None:
        """An answer outside of any IKE SA: not protected, rate-limited, never to a response (§1.5, §2.5)."""
        if not self._answers.allow(now):
            return
        answer = make_header(
            header.initiator_spi,
            header.responder_spi,
            header.exchange,
            header.message_id,
            from_initiator=not header.from_initiator,
            response=True,
        )
        self._send(answer, notify, local, remote)

    def _send(self, header: Header, notify: Notify, local: Address, remote: Address) -> None:
        text = describe(Message(header, (notify,)))
        self.emit(LogRecorded("ENC", 1, None, None, f"generating {text}"))
        data = build_message(header, [notify])
        self.emit(SendDatagram(data, local, remote, local.port != self.options.port))

    def _first_request(
        self, header: Header, data: bytes, local: Address, remote: Address, now: float
    ) -> None:
        """IKE_SA_INIT: a retransmission, or a new IKE SA if limits and cookies let it in."""
        key = (header.initiator_spi, remote.host, hashlib.sha256(data).digest())
        known = self._first_requests.get(key)
        if known is not None:
            if known.state is State.HALF_OPEN:
                machine.receive(known, header, data, local, remote, now)
            else:
                known.counters.drops_in += 1
            return
        if (
            header.responder_spi != _NO_SPI
            or header.initiator_spi == _NO_SPI
            or header.message_id != 0
            or not header.from_initiator
        ):
            self._reject(local, remote, "header of the IKE_SA_INIT request makes no sense")
            return
        if self.closing:
            self._reject(local, remote, "shutting down")
            return
        try:
            message = parse_message(data)
        except WireError as error:
            self._reject(local, remote, str(error))
            return
        nonce, cookie = message.get(Nonce), message.notify(NotifyType.COOKIE)
        if nonce is None:
            self._reject(local, remote, "IKE_SA_INIT request without a nonce")
            return
        decision = self._half_open.decide(remote.host)
        if decision is Decision.DROP:
            self._reject(local, remote, "too many half-open IKE_SAs")
            return
        if decision is Decision.DEMAND_COOKIE and (
            cookie is None
            or not self._cookies.check(cookie.data, nonce.data, remote.host, header.initiator_spi, now)
        ):
            self._demand_cookie(header, nonce, local, remote, now)
            return
        if not self.candidates(local, remote):
            self._reject(local, remote, f"no IKE config found for {local.host}...{remote.host}")
            self._answer(header, Notify(NotifyType.NO_PROPOSAL_CHOSEN), local, remote, now)
            return
        sa = IkeSa(
            self,
            initiator=False,
            spi_i=header.initiator_spi,
            spi_r=self.new_spi(),
            local=local,
            remote=remote,
            config=None,
            now=now,
        )
        sa.log("NET", 1, f"received packet: from {remote} to {local} ({len(data)} bytes)")
        if machine.receive_first(sa, data, message, now):
            self.adopt(sa)
            sa.first_request = key
            self._first_requests[key] = sa
        else:
            sa.wipe()
            self._touched.discard(sa)

    def _demand_cookie(
        self, header: Header, nonce: Nonce, local: Address, remote: Address, now: float
    ) -> None:
        cookie = self._cookies.make(nonce.data, remote.host, header.initiator_spi, now)
        answer = make_header(
            header.initiator_spi,
            _NO_SPI,
            ExchangeType.IKE_SA_INIT,
            0,
            from_initiator=False,
            response=True,
        )
        self._send(answer, Notify(NotifyType.COOKIE, cookie), local, remote)

    def next_timer(self) -> float | None:
        while self._timers and self._deadlines.get(self._timers[0][1]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def handle_timer(self, now: float) -> None:
        while (due := self.next_timer()) is not None and due <= now:
            _, uniqueid = heapq.heappop(self._timers)
            self._deadlines.pop(uniqueid, None)
            sa = self._sas.get(uniqueid)
            if sa is not None:
                machine.handle_timer(sa, now)
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
            if sa.uniqueid not in self._sas:
                self._deadlines.pop(sa.uniqueid, None)
                continue
            deadline = machine.deadline(sa)
            if deadline != self._deadlines.get(sa.uniqueid, None):
                self._deadlines[sa.uniqueid] = deadline
                if deadline is not None:
                    heapq.heappush(self._timers, (deadline, sa.uniqueid))

    # --- what IKE SAs ask of their host (ikev2.host.Host) ---

    @property
    def generation(self) -> int:
        return self._changes.generation

    @property
    def pad(self) -> Pad:
        if self._pad is None:
            self._pad = Pad([_pad_entry(config) for config in self._connections.values()])
        return self._pad

    def wall_clock(self) -> float:
        return self._wall_clock()

    def last_inbound(self, sa: SaId) -> float | None:
        return self._last_inbound(sa) if self._last_inbound is not None else None

    def allocate_spi(self) -> int:
        return self._allocate_spi()

    def emit(self, output: Output) -> None:
        self._outputs.append(output)

    def touch(self, sa: IkeSa, child: ChildSa | None = None) -> None:
        sa.generation = self._changes.next()
        if child is not None:
            child.generation = sa.generation
        if sa.state is not State.HALF_OPEN:
            self._half_open.discard(sa.uniqueid)
        self._touched.add(sa)

    def count(self, connection: str | None, key: str) -> None:
        self._counters.add(connection if connection in self._connections else None, key)

    def next_ike_id(self) -> int:
        self._last_ike_id += 1
        return self._last_ike_id

    def next_child_id(self) -> int:
        self._last_child_id += 1
        return self._last_child_id

    def new_spi(self) -> bytes:
        while True:
            spi = self.random(8)
            if spi != _NO_SPI and spi not in self._by_spi:
                return spi

    def adopt(self, sa: IkeSa) -> None:
        self._sas[sa.uniqueid] = sa
        self._by_spi[sa.own_spi] = sa
        if sa.state is State.HALF_OPEN:
            self._half_open.add(sa.uniqueid, sa.remote.host)
        self.touch(sa)

    def forget(self, sa: IkeSa) -> None:
        self._sas.pop(sa.uniqueid, None)
        if self._by_spi.get(sa.own_spi) is sa:
            del self._by_spi[sa.own_spi]
        self._half_open.discard(sa.uniqueid)
        if sa.first_request is not None:
            self._first_requests.pop(sa.first_request, None)
        self._deadlines.pop(sa.uniqueid, None)
        self._touched.discard(sa)
        self._changes.ended(sa.uniqueid, ike=True)

    def child_gone(self, child: ChildSa) -> None:
        self._changes.ended(child.uniqueid, ike=False)

    def ike_sas_of(self, connection: str | None = None) -> Iterable[IkeSa]:
        return [sa for sa in self._sas.values() if connection is None or sa.name == connection]

    def connection(self, name: str) -> ConnectionConfig | None:
        return self._connections.get(name)

    def candidates(self, local: Address, remote: Address) -> list[ConnectionConfig]:
        return lookup.candidates(self._connections.values(), local, remote, 2)

    def acquire_policy(
        self,
        connection: str,
        child: ChildConfig,
        local_ts: tuple[TrafficSelector, ...],
        remote_ts: tuple[TrafficSelector, ...],
    ) -> tuple[PolicyKey, int]:
        return self.policies.acquire(connection, child, local_ts, remote_ts)

    def release_policy(self, key: PolicyKey) -> None:
        self.policies.release(key)

    def finish(self, tickets: list[int], success: bool, message: str) -> None:
        self.tickets.finish(tickets, success, message)

    def start_child(self, connection: str, child: str, now: float) -> None:
        commands.start_child(self, connection, child, now)

    def trap_child(self, connection: str, child: str, now: float) -> None:
        commands.trap_child(self, connection, child)

    def retry(self, sa: IkeSa, now: float) -> bool:
        return commands.retry(self, sa, now)

    # --- configuration ---

    def load_connection(self, config: ConnectionConfig, now: float) -> None:
        commands.check(config)
        old = self._connections.get(config.name)
        self._connections[config.name] = config
        self._pad = None
        if old != config:
            if old is not None:
                commands.undo_actions(self, old)
            commands.start_actions(self, config, now)
        self._settle()

    def unload_connection(self, name: str, now: float) -> None:
        config = self._connections.pop(name, None)
        if config is None:
            raise CommandError(f"no connection named '{name}'")
        self._pad = None
        commands.undo_actions(self, config)
        self._settle()

    def connections(self) -> Sequence[ConnectionConfig]:
        return list(self._connections.values())

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
        now: float,
    ) -> int:
        matched = commands.rekey(self, ike, child, ike_id, child_id, now)
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
        for ike in list(self._sas.values()):
            for child in ike.children:
                if sa in (child.inbound, child.outbound):
                    if hard:
                        machine.expire_child(ike, child)
                    else:
                        machine.rekey_child(ike, child)
                    machine.pump(ike, now)
        self._settle()

    def acquired(
        self,
        entry: SpdEntry,
        source: IPAddress,
        destination: IPAddress,
        protocol: int,
        ports: tuple[int, int] | None,
        now: float,
    ) -> None:
        commands.acquired(self, entry, source, destination, protocol, ports, now)
        self._settle()

    def unknown_spi(self, spi: int, local: Address, remote: Address, now: float) -> None:
        """The peer sends to an SPI that we do not have: ask it on our IKE SA, or tell it without one (§1.5)."""
        peers = [
            sa for sa in self._sas.values() if sa.remote.host == remote.host and sa.state is State.ESTABLISHED
        ]
        for sa in peers:
            machine.hint(sa, now)
        if not peers and not self.closing and self._answers.allow(now):
            header = make_header(
                self.new_spi(), _NO_SPI, ExchangeType.INFORMATIONAL, 0, from_initiator=True, response=False
            )
            target = Address(remote.host, remote.port or 500)
            source = Address(local.host, local.port or self.options.port)
            self._send(header, Notify(NotifyType.INVALID_SPI, spi.to_bytes(4, "big")), source, target)
        self._settle()

    def peer_address_changed(self, sa: SaId, remote: Address, now: float) -> None:
        for ike in list(self._sas.values()):
            if any(child.inbound == sa for child in ike.children):
                if (
                    ike.nat_remote
                    and not ike.nat_local
                    and ike.state is State.ESTABLISHED
                    and ike.remote != remote
                ):
                    machine.move(ike, ike.local, remote)
                break
        self._settle()

    # --- views ---

    def ike_sas(self) -> Sequence[IkeSaView]:
        return [sa.view() for sa in self._sas.values()]

    def ike_sas_changed_since(
        self, generation: int
    ) -> tuple[Sequence[IkeSaView], Sequence[int], Sequence[int]]:
        ikes, children = self._changes.gone_since(generation)
        return [sa.view() for sa in self._sas.values() if sa.generation > generation], ikes, children

    def counters(self, connection: str | None = None) -> dict[str, int]:
        return self._counters.get(connection)

    def counters_by_connection(self) -> dict[str, dict[str, int]]:
        return self._counters.by_connection()

    def reset_counters(self, connection: str | None = None) -> None:
        self._counters.reset(connection)

    def shutdown(self, now: float) -> None:
        self.closing = True
        for sa in list(self._sas.values()):
            if sa.state is State.ESTABLISHED:
                sa.enqueue(DeleteIke("shutdown"), first=True)
                machine.pump(sa, now)
            elif sa.state is not State.DELETING:
                lifecycle.destroy(sa, "shutdown", now)
        self._settle()


def _pad_entry(config: ConnectionConfig) -> PadEntry:
    """The PAD entry of a connection's remote section."""
    round_ = remote_round(config)
    id_ = round_.id
    selectors = tuple(ts for child in config.children for ts in child.remote_ts)
    return PadEntry(
        config.name,
        id_.type if id_ is not None else ID_ANY,
        id_.data if id_ is not None else b"",
        round_.auth.value,
        round_.cacerts,
        round_.certs,
        selectors,
    )

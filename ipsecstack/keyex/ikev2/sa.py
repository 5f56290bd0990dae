"""The live IKE SA and its Child SAs (RFC 7296 §2.8, §3.1): mutable state, no protocol steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ipsecstack.crypto.ikekeys import IkeKeys
from ipsecstack.crypto.ke import KeyExchange
from ipsecstack.crypto.prf import Prf
from ipsecstack.ipsec.sa import Address, Lifetime, Mode, SaDescription, SaId, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.keyex.base import ChildSaView, IkeCounters, IkeSaView, LogRecorded
from ipsecstack.keyex.configuration import ChildConfig, ConnectionConfig, Identity
from ipsecstack.keyex.ikev2.features import Features
from ipsecstack.keyex.ikev2.host import Host
from ipsecstack.keyex.ikev2.proposals import Suite
from ipsecstack.keyex.ikev2.protect import Protection
from ipsecstack.keyex.ikev2.states import ChildState, Kind, State
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.keyex.policies import PolicyKey
from ipsecstack.keyex.pools import Lease
from ipsecstack.keyex.window import RequestWindow, ResponseWindow, Schedule
from ipsecstack.wire.ikev2 import SaProposal
from ipsecstack.wire.transforms import KeId

if TYPE_CHECKING:
    from ipsecstack.keyex.ikev2.followup import Pending
    from ipsecstack.keyex.ikev2.fragmentation import Reassembly
    from ipsecstack.keyex.ikev2.rounds import Rounds
    from ipsecstack.keyex.tickets import Held, Session


class ChildSa:
    """A pair of IPsec SAs. Keys are not kept, but for an outbound SA that waits for its moment (``pending_out``)."""

    def __init__(
        self,
        uniqueid: int,
        config: ChildConfig,
        suite: Suite,
        mode: Mode,
        spi_in: int,
        local_ts: tuple[TrafficSelector, ...],
        remote_ts: tuple[TrafficSelector, ...],
        initiated: bool,
    ) -> None:
        self.uniqueid = uniqueid
        self.config = config
        self.name = config.name
        self.suite = suite
        self.mode = mode
        self.protocol = SecurityProtocol(suite.protocol)
        self.spi_in = spi_in
        self.spi_out = int.from_bytes(suite.spi, "big")
        self.local_ts = local_ts
        self.remote_ts = remote_ts
        self.initiated = initiated
        self.state = ChildState.INSTALLED
        self.reqid = 0
        self.policy: PolicyKey | None = None
        self.encapsulated = False
        self.cpi_in = self.cpi_out = 0
        self.tfc = True
        """The peer takes TFC padding."""
        self.non_first_fragments = True
        self.originals: tuple[IPAddress, IPAddress] | None = None
        """Source and destination of the peer's packets as it makes them, when a NAT changes them (§2.23.1)."""
        self.more_possible = False
        """The peer narrowed it, and takes other selectors in other Child SAs (§2.9)."""
        self.idle_at: float | None = None
        """When to look whether it passes traffic (``inactivity``)."""
        self.inbound: SaId | None = None
        self.outbound: SaId | None = None
        self.pending_out: SaDescription | None = None
        self.install_time = 0.0
        self.rekey_at: float | None = None
        self.expire_at: float | None = None
        self.remove_at: float | None = None
        self.check_outbound_at: float | None = None
        self.owner: IkeSa | None = None
        self.lifetime = Lifetime()
        self.generation = 0
        self.replaced_by: ChildSa | None = None
        self.relief: ChildSa | None = None
        """The Child SA of a reauthentication that waits to send until this one is gone, or the peer sends over it."""
        self.replaces: ChildSa | None = None
        self.nonces: tuple[bytes, bytes] = (b"", b"")
        """Of the CREATE_CHILD_SA exchange that made it, to settle collisions (§2.8.1)."""
        self._view: tuple[tuple[object, ...], ChildSaView] | None = None

    @property
    def tag(self) -> str:
        return f"{self.name}{{{self.uniqueid}}}"

    @property
    def alive(self) -> bool:
        return self.state in (ChildState.INSTALLED, ChildState.REKEYING)

    def view(self) -> ChildSaView:
        """Made anew only after a change: each event of an IKE SA shows all its children, thousands maybe."""
        seen = (
            self.state,
            self.generation,
            self.rekey_at,
            self.expire_at,
            self.inbound,
            self.outbound,
            self.reqid,
            self.lifetime,
            self.encapsulated,
            self.install_time,
        )
        if self._view is None or self._view[0] != seen:
            self._view = (seen, self._make_view())
        return self._view[1]

    def _make_view(self) -> ChildSaView:
        octets, packets = self.lifetime.octets, self.lifetime.packets
        return ChildSaView(
            name=self.name,
            uniqueid=self.uniqueid,
            reqid=self.reqid,
            state=self.state.value,
            mode=self.mode,
            protocol=self.protocol,
            encapsulated=self.encapsulated,
            spi_in=self.spi_in,
            spi_out=self.spi_out,
            inbound=self.inbound,
            outbound=self.outbound,
            encr=self.suite.encr,
            encr_key_bits=self.suite.key_bits,
            integ=self.suite.integ,
            ke=self.suite.ke,
            esn=bool(self.suite.esn),
            replay_window=self.config.replay_window,
            install_time=self.install_time,
            rekey_time=self.rekey_at,
            life_time=self.expire_at,
            rekey_bytes=int(octets.soft),
            life_bytes=int(octets.hard),
            rekey_packets=int(packets.soft),
            life_packets=int(packets.hard),
            local_ts=self.local_ts,
            remote_ts=self.remote_ts,
            generation=self.generation,
            cpi_in=self.cpi_in,
            cpi_out=self.cpi_out,
            if_id=self.config.if_id,
            mark=self.config.mark,
        )


@dataclass(slots=True)
class Initial:
    """What the initial exchanges need until the IKE SA is authenticated; wiped then."""

    offered: tuple[SaProposal, ...] = ()
    method: KeId = KeId.NONE
    ke: KeyExchange | None = field(default=None, repr=False)
    nonce: bytes = b""
    peer_nonce: bytes = b""
    message: bytes = field(default=b"", repr=False)
    peer_message: bytes = field(default=b"", repr=False)
    cookie: bytes | None = None
    cookie_tries: int = 0
    ke_tries: int = 0
    peer_hashes: frozenset[int] = frozenset()
    wanted_anchors: tuple[bytes, ...] = ()
    certificates_wanted: bool = False
    plain_keys: IkeKeys | None = field(default=None, repr=False)
    """The keys without a post-quantum pre-shared key, until both ends know that it is used (RFC 8784)."""
    awaited_ke: list[KeId] = field(default_factory=list)
    """Additional key exchanges that are to come in IKE_INTERMEDIATE (RFC 9370)."""
    intermediates: int = 0
    int_auth_i: bytes = field(default=b"", repr=False)
    int_auth_r: bytes = field(default=b"", repr=False)
    """IntAuth of both directions after as many IKE_INTERMEDIATE exchanges (RFC 9242 §3.3.2)."""
    previous: Protection | None = field(default=None, repr=False)
    """What protected the last IKE_INTERMEDIATE, as responder."""
    children: list[str] = field(default_factory=list)
    resumed: Held | Session | None = None
    """What a ticket told, or the ticket that we show (RFC 5723)."""
    packet: tuple[TrafficSelector, TrafficSelector] | None = None
    """Selectors of the packet that asked for the first child."""
    selectors: tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]] | None = None
    """What the first child is for, where that is not what its configuration says (populate-from-packet)."""
    rounds: Rounds | None = None
    """As responder, while IKE_AUTH takes more than one exchange."""

    @property
    def int_auth(self) -> bytes:
        """What IKE_INTERMEDIATE adds to the octets that AUTH covers: nothing if there was none (RFC 9242 §3.3.2)."""
        if not self.intermediates:
            return b""
        return self.int_auth_i + self.int_auth_r + (self.intermediates + 1).to_bytes(4, "big")


class IkeSa:
    """One IKE SA. ``initiator`` is its original initiator's role, which fixes SPIs and flags for its whole life."""

    version = 2

    def __init__(
        self,
        host: Host,
        *,
        initiator: bool,
        spi_i: bytes,
        spi_r: bytes,
        local: Address,
        remote: Address,
        config: ConnectionConfig | None,
        now: float,
    ) -> None:
        self.host = host
        self.uniqueid = host.next_ike_id()
        self.initiator = initiator
        self.spi_i, self.spi_r = spi_i, spi_r
        self.local, self.remote = local, remote
        self.arrival = (local, remote)
        """Where the newest authenticated message came to, and from."""
        self.config = config
        self.state = State.NEW
        self.created = now
        self.established: float | None = None
        self.rekey_at: float | None = None
        self.expire_at: float | None = None
        self.give_up_at: float | None = None
        """Half-open timeout, and the end of waiting for the deletion of a rekeyed IKE SA."""
        self.local_id: Identity | None = None
        self.remote_id: Identity | None = None
        self.local_auth: str | None = None
        self.remote_auth: str | None = None
        self.remote_cert_expiry: float | None = None
        self.local_cert_expiry: float | None = None
        self.nat_local = self.nat_remote = self.nat_fake = False
        self.suite: Suite | None = None
        self.prf: Prf | None = None
        self.keys: IkeKeys | None = None
        self.protection: Protection | None = None
        self.initial: Initial | None = Initial()
        options = host.options
        schedule = Schedule(
            options.retransmit_timeout,
            options.retransmit_base,
            options.retransmit_tries,
            options.retransmit_jitter,
            options.retransmit_limit,
        )
        self.requests = RequestWindow(schedule, host.random)
        self.responses = ResponseWindow()
        self.reassembly: Reassembly | None = None
        """Messages that are coming in fragments."""
        self.active: dict[int, Task] = {}
        self.queue: deque[Task] = deque()
        self.after_reply: list[Callable[[float], None]] = []
        self.children: list[ChildSa] = []
        self.counters = IkeCounters()
        self.features = Features()
        self.ticket_numbers: list[tuple[bytes, int, int]] = []
        """Number, issue and end of the ticket that we gave the peer (RFC 5723)."""
        self.ticket_at: float | None = None
        """When to ask for another ticket."""
        self.resumed_from: tuple[bytes, bytes] | None = None
        """The SPIs of the IKE SA that this one is resumed from."""
        self.authenticated_until: float | None = None
        """Of a resumed IKE SA: when the authentication that it goes back to has to be done anew."""
        self.peer_token = b""
        """With it the peer can prove that it lost this IKE SA (RFC 6290)."""
        self.pending_ke: dict[bytes, Pending] = {}
        """What we agreed to in CREATE_CHILD_SA and that has key exchanges to come, by the link that the peer has."""
        self.early_deletes: set[bytes] = set()
        """SPIs that the peer deleted while its response that makes them known is still on its way."""
        self.last_inbound = now
        self.last_hint = float("-inf")
        self.tries = 0
        self.generation = 0
        self.successor: IkeSa | None = None
        self.parent: IkeSa | None = None
        """The IKE SA that this one was made to replace, until children have moved (§2.8)."""
        self.nonces: tuple[bytes, bytes] = (b"", b"")
        self.first_request: tuple[bytes, IPAddress, bytes] | None = None
        """Initiator SPI, address and digest of the IKE_SA_INIT request that this responder answered."""
        self.relieves: ChildSa | None = None
        """A Child SA of another IKE SA that the first one of this replaces: the peer took no more there."""
        self.muted = False
        """A stranger's attempt in a flood of them: no log lines until it proves that it holds keys."""
        self.local_vips: tuple[IPAddress, ...] = ()
        """Virtual addresses that the peer gave us (RFC 7296 §2.19)."""
        self.leases: tuple[Lease, ...] = ()
        """Virtual addresses that we gave the peer."""
        self.remote_eap_id: Identity | None = None
        """Who the peer is for EAP, once that has said so."""
        self.reauth_at: float | None = None
        self.replaces: IkeSa | None = None
        """The IKE SA that this one is the reauthentication of, until it is up (§2.8.3)."""
        self.silent = False
        """Redundant after a collision: it comes and goes without events."""

    def __repr__(self) -> str:
        return f"<IkeSa {self.tag} {self.state.name}>"

    @property
    def name(self) -> str:
        return self.config.name if self.config is not None else "(unnamed)"

    @property
    def tag(self) -> str:
        return f"{self.name}[{self.uniqueid}]"

    @property
    def own_spi(self) -> bytes:
        return self.spi_i if self.initiator else self.spi_r

    @property
    def nat(self) -> bool:
        """ESP goes in UDP: a NAT was found, or encapsulation is forced."""
        return self.nat_local or self.nat_remote or self.nat_fake

    @property
    def marker(self) -> bool:
        """The port in use carries the non-ESP marker (RFC 3948 §2.2)."""
        return self.local.port != self.host.options.port

    def log(self, group: str, level: int, message: str) -> None:
        if not self.muted:
            self.host.emit(LogRecorded(group, level, self.name, self.uniqueid, message))

    def enter(self, state: State) -> None:
        self.state = state
        self.host.touch(self)

    def busy_with(self, *kinds: Kind) -> Task | None:
        """A request of ours of one of these kinds that is under way."""
        return next((task for task in self.active.values() if task.kind in kinds), None)

    def enqueue(self, task: Task, *, first: bool = False) -> None:
        if first:
            self.queue.appendleft(task)
        else:
            self.queue.append(task)
        self.host.touch(self)

    def making_child(self) -> bool:
        """A response is on its way that may tell of a Child SA which the peer has already."""
        return self.busy_with(Kind.IKE_AUTH, Kind.NEW_CHILD, Kind.REKEY_CHILD) is not None

    def tasks(self) -> list[Task]:
        return [*self.active.values(), *self.queue]

    def child_by_spi_in(self, spi: int) -> ChildSa | None:
        return next((c for c in self.children if c.spi_in == spi), None)

    def child_by_spi_out(self, spi: int, protocol: int | None = None) -> ChildSa | None:
        """The Child SA that we reach the peer by; of one protocol, or whichever."""
        return next(
            (c for c in self.children if c.spi_out == spi and protocol in (None, c.protocol)),
            None,
        )

    def wipe(self) -> None:
        """Let go of every reference to a secret."""
        self.keys = None
        self.protection = None
        self.initial = None
        self.requests.clear()
        self.responses.clear()
        self.reassembly = None
        for child in self.children:
            child.pending_out = None

    def view(self) -> IkeSaView:
        suite = self.suite
        state = self.state.vici
        if self.state is State.ESTABLISHED and self.busy_with(Kind.REKEY_IKE):
            state = "REKEYING"
        counters = self.counters
        return IkeSaView(
            name=self.name,
            uniqueid=self.uniqueid,
            version=2,
            state=state,
            local=self.local,
            remote=self.remote,
            local_id=self.local_id,
            remote_id=self.remote_id,
            local_auth=self.local_auth,
            remote_auth=self.remote_auth,
            initiator=self.initiator,
            initiator_spi=self.spi_i,
            responder_spi=self.spi_r,
            nat_local=self.nat_local,
            nat_remote=self.nat_remote,
            nat_fake=self.nat_fake,
            encr=suite.encr if suite else None,
            encr_key_bits=suite.key_bits if suite else 0,
            integ=suite.integ if suite else None,
            prf=suite.prf if suite else None,
            ke=suite.ke if suite else None,
            created=self.created,
            established=self.established,
            rekey_time=self.rekey_at,
            life_time=self.expire_at,
            counters=IkeCounters(**{name: getattr(counters, name) for name in IkeCounters.__slots__}),
            tasks_active=tuple(task.label for task in self.active.values()),
            tasks_queued=tuple(task.label for task in self.queue),
            children=tuple(child.view() for child in self.children),
            generation=self.generation,
            ppk=self.features.ppk_used,
            additional_ke=suite.additional if suite else (),
            remote_cert_expiry=self.remote_cert_expiry,
            local_cert_expiry=self.local_cert_expiry,
            local_vips=self.local_vips,
            remote_vips=tuple(lease.address for lease in self.leases),
            remote_eap_id=self.remote_eap_id.text if self.remote_eap_id is not None else None,
            reauth_time=self.reauth_at,
        )

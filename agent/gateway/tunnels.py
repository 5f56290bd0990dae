"""The model's rows: IKE and IPsec tunnels with an identity that outlives their SAs, and the SAs themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.gateway.counters import Counts
from agent.gateway.records import (
    LIVE_CHILD_STATES,
    ChildRecord,
    ConnectionRecord,
    IkeRecord,
)
from agent.gateway.selectors import IPAddress, Selector

if TYPE_CHECKING:
    from agent.gateway.indexes import Key
    from agent.gateway.source import Source

KINDS = ("esp_in", "esp_out", "ah_in", "ah_out", "ipcomp_in", "ipcomp_out")
"""What is counted of live SAs: protocol and direction."""


@dataclass(slots=True, eq=False)
class SelectorPair:
    """A local and a remote traffic selector: one row of selectorTable, shared by all tunnels that have the pair."""

    index: int
    local: Selector
    remote: Selector
    users: int = 0

    @property
    def alive(self) -> bool:
        return self.users > 0


@dataclass(slots=True, eq=False)
class IkeSa:
    """A live IKE SA. `lifetime` and `refresh_at` are whole seconds since it was established."""

    record: IkeRecord
    tunnel: IkeTunnel
    serial: int
    established: float  # of the model's clock
    lifetime: int | None = None
    refresh_at: int | None = None
    counts: Counts = field(default_factory=dict)
    leaving: bool = False  # superseded or gone; its slot may be taken
    ended_serial: int = 0
    ended_at: float = 0.0  # of the model's clock
    rows: set[Tunnel] = field(default_factory=set)  # that had a child of it: they show its addresses

    @property
    def children(self) -> list[ChildSa]:
        """The Child SAs that it has now."""
        return [sa for row in self.rows for sa in row.sas.values() if sa.ike is self]


@dataclass(slots=True, eq=False)
class ChildSa:
    """A live pair of IPsec SAs. `lifetime` and `refresh_at` are whole seconds since installation."""

    record: ChildRecord
    tunnel: Tunnel
    ike: IkeSa
    serial: int
    installed: float  # of the model's clock
    number: int  # counts the pairs of a tunnel
    lifetime: int | None = None
    refresh_at: int | None = None
    counts: Counts = field(default_factory=dict)
    ended_serial: int = 0
    ended_at: float = 0.0  # of the model's clock
    ended: bool = False
    counted: tuple[str, ...] = ()  # as what it is counted among the current SAs

    @property
    def alive(self) -> bool:
        return not self.ended

    @property
    def live(self) -> bool:
        return not self.ended and self.record.state in LIVE_CHILD_STATES

    @property
    def shown(self) -> bool:
        """Whether it carries or accepts packets, as far as its source is believed."""
        return self.live and self.tunnel.source.trusted

    @property
    def expiring(self) -> bool:
        """Still accepts packets but was replaced, or is being deleted."""
        return self.record.state in ("REKEYED", "DELETING")

    @property
    def local_host(self) -> IPAddress | None:
        return self.ike.record.local_host

    @property
    def remote_host(self) -> IPAddress | None:
        return self.ike.record.remote_host

    @property
    def age(self) -> int:
        """Whole seconds since installation, as of the source's last word."""
        return max(0, int(self.tunnel.source.read_at - self.installed))


def kinds_of(record: ChildRecord) -> tuple[str, ...]:
    """As what a live SA is counted."""
    found = []
    if record.protocol in ("ESP", "AH"):
        name = record.protocol.lower()
        if record.spi_in:
            found.append(f"{name}_in")
        if record.spi_out:
            found.append(f"{name}_out")
    if record.cpi_in is not None:
        found.append("ipcomp_in")
    if record.cpi_out is not None:
        found.append("ipcomp_out")
    return tuple(found)


class IkeTunnel:
    """What outlives the rekeying of IKE SAs: connection and both identities. `sa` is None while no SA lives."""

    def __init__(self, source: Source, key: Key, index: int) -> None:
        self.source = source
        self.key = key
        self.index = index
        self.alive = True  # False when the row has left
        self.sa: IkeSa | None = None
        self.last: IkeSa | None = None  # the newest SA, also while down
        self.connection: ConnectionRecord | None = None
        self.totals: Counts = {}
        self.tunnels: set[Tunnel] = set()
        self.refreshes = 0
        self.total_sas = 0
        self.up_since: float | None = None
        self.started_wall: float | None = None
        self.base: Counts = {}  # totals when the tunnel went up

    @property
    def record(self) -> IkeRecord | None:
        """What the newest SA said last."""
        return self.last.record if self.last is not None else None

    @property
    def active(self) -> bool:
        return self.sa is not None and self.source.trusted

    @property
    def active_seconds(self) -> float:
        if self.up_since is None:
            return 0.0
        return max(0.0, self.source.read_at - self.up_since)

    def count(self, name: str) -> int | None:
        """A total over all SAs of this tunnel; 0 before the first when the source gives this count, else None."""
        value = self.totals.get(name)
        if value is None and name in self.source.ike_provides:
            return 0
        return value

    @property
    def local_id(self) -> str | None:
        if self.record is not None:
            return self.record.local_id
        return self.connection.local_id if self.connection else None

    @property
    def remote_id(self) -> str | None:
        if self.record is not None:
            return self.record.remote_id
        return self.connection.remote_id if self.connection else None

    @property
    def local_host(self) -> IPAddress | None:
        if self.record is not None:
            return self.record.local_host
        return self.connection.local_host if self.connection else None

    @property
    def remote_host(self) -> IPAddress | None:
        if self.record is not None:
            return self.record.remote_host
        return self.connection.remote_host if self.connection else None

    @property
    def auth(self) -> str | None:
        """How the peer was authenticated: from the SA where the source says it, else as configured."""
        if self.record is not None and self.record.remote_auth is not None:
            return self.record.remote_auth
        return self.connection.remote_auth if self.connection else None


class Tunnel:
    """An IPsec tunnel: connection, child, peer identity and traffic selectors. Its row stays while its configuration
    lives, up or down; its totals are those of all its SAs, ended and live."""

    def __init__(
        self,
        source: Source,
        key: Key,
        index: int,
        connection: str,
        child: str,
        peer: str,
        local_ts: tuple[Selector, ...],
        remote_ts: tuple[Selector, ...],
        ike: IkeTunnel,
    ) -> None:
        self.source = source
        self.key = key
        self.index = index
        self.alive = True  # False when the row has left
        self.connection = connection
        self.child = child
        self.peer = peer
        self.local_ts = local_ts
        self.remote_ts = remote_ts
        self.pairs: list[SelectorPair] = []
        self.ike = ike
        self.sas: dict[tuple[int, int, int], ChildSa] = {}
        self.last: ChildSa | None = None  # the newest SA, also while down
        self.mode: str | None = None  # as configured, until an SA says it
        self.totals: Counts = {}
        self.base: Counts = {}  # totals when the tunnel went up
        self.refreshes = 0
        self.expired = 0
        self.total_sas = 0
        self.configured = False
        self.permanent = False  # of a configuration that names one peer
        self.up = False
        self.up_since: float | None = None
        self.down_since: float | None = None
        self.started_wall: float | None = None
        self.last_up_wall: float | None = None
        self.last_down_wall: float | None = None
        self.last_rekey_wall: float | None = None
        self.last_reason: str | None = None

    @property
    def ever_up(self) -> bool:
        return self.last is not None

    @property
    def active(self) -> bool:
        return self.up and self.source.trusted

    @property
    def active_seconds(self) -> float:
        if self.up_since is None:
            return 0.0
        return max(0.0, self.source.read_at - self.up_since)

    @property
    def live_sas(self) -> list[ChildSa]:
        """Pairs that carry or accept packets; none while the source is not believed."""
        return [sa for sa in self.sas.values() if sa.live] if self.source.trusted else []

    @property
    def local_host(self) -> IPAddress | None:
        return self.last.local_host if self.last else self.ike.local_host

    @property
    def remote_host(self) -> IPAddress | None:
        return self.last.remote_host if self.last else self.ike.remote_host

    def count(self, name: str) -> int | None:
        """A total over all SAs of this tunnel; 0 before the first when the source gives this count, else None."""
        value = self.totals.get(name)
        if value is None and name in self.source.child_provides:
            return 0
        return value

    def sum(self, *names: str) -> int | None:
        """Sum of several totals, None unless all of them are known."""
        values = [self.count(name) for name in names]
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(names) else None

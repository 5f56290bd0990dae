"""What the IKEv2 code asks of the endpoint that it lives in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from ipsecstack.ipsec.pad import Pad
from ipsecstack.ipsec.sa import Address, SaId, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.keyex.base import Output, Random
from ipsecstack.keyex.configuration import ChildConfig, ConnectionConfig, Identity
from ipsecstack.keyex.credentials import CredentialStore
from ipsecstack.keyex.options import Options
from ipsecstack.keyex.policies import PolicyKey
from ipsecstack.keyex.pools import Pools
from ipsecstack.keyex.tickets import Sessions

if TYPE_CHECKING:
    from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
    from ipsecstack.keyex.ikev2.task import Task


class Host(Protocol):
    """The endpoint, as IKE SAs see it."""

    random: Random
    options: Options
    credentials: CredentialStore
    sessions: Sessions
    pools: Pools

    local_addresses: Sequence[IPAddress]
    """Addresses of this host, as they are known; none when nobody tells."""
    source_address: Callable[[IPAddress], IPAddress | None] | None
    """The address that the host would send from to this one; None without a route."""

    @property
    def pad(self) -> Pad: ...

    def wall_clock(self) -> float:
        """POSIX seconds, for certificates."""
        ...

    def postpone(self, key: bytes, data: bytes, local: Address, remote: Address, now: float) -> None:
        """Keep a message whose certificates cannot be judged yet, one for each key, and receive it again later."""
        ...

    def last_inbound(self, sa: SaId) -> float | None: ...

    def allocate_spi(self) -> int: ...

    def allocate_cpi(self, spi: int) -> int:
        """A CPI (RFC 3173 §3.3) for the Child SA of this inbound SPI; 0 when none is free."""
        ...

    def release_cpi(self, spi: int) -> None:
        """The CPI of this inbound SPI, if it has one, is free again."""
        ...

    def emit(self, output: Output) -> None: ...

    def touch(self, sa: IkeSa, child: ChildSa | None = None) -> None:
        """The SA's view changed: give it a new generation and look at its timers again."""
        ...

    def touch_timer(self, sa: IkeSa) -> None:
        """Only a timer of the SA changed, nothing that is seen from outside."""
        ...

    def installed(self, sa: SaId, child: ChildSa) -> None:
        """An IPsec SA of this Child SA is installed."""
        ...

    def removed(self, sa: SaId) -> None: ...

    def child_of(self, sa: SaId) -> ChildSa | None:
        """The Child SA that an IPsec SA belongs to, be it of this or of another IKE SA."""
        ...

    def quiet(self, key: str) -> bool:
        """Whether a log line that unauthenticated input causes is to be suppressed, to keep the log readable."""
        ...

    def count(self, connection: str | None, key: str) -> None:
        """One more of a VICI counter."""
        ...

    def count_statistic(self, key: str) -> None:
        """One more of the endpoint's statistics."""
        ...

    def next_ike_id(self) -> int: ...

    def next_child_id(self) -> int: ...

    def new_spi(self) -> bytes:
        """An IKE SPI that no IKE SA here has."""
        ...

    def adopt(self, sa: IkeSa) -> None:
        """Take a new IKE SA into the tables."""
        ...

    def remember_refusal(self, sa: IkeSa, now: float) -> None:
        """The IKE SA ends because its IKE_AUTH request was refused: keep the response for retransmissions."""
        ...

    def forget(self, sa: IkeSa) -> None:
        """The IKE SA is dead: take it out of the tables."""
        ...

    def child_gone(self, child: ChildSa) -> None:
        """A Child SA's uniqueid is gone (for changed-since)."""
        ...

    def ike_sas_of(self, connection: str | None = None) -> Iterable[IkeSa]:
        """The live IKE SAs, all or of one connection."""
        ...

    def ike_sas_with(self, peer: Identity) -> Iterable[IkeSa]:
        """The authenticated IKE SAs with a peer of this identity."""
        ...

    def count_with(self, peer: Identity) -> int:
        """How many authenticated IKE SAs there are with a peer of this identity."""
        ...

    def ike_sas_at(self, address: IPAddress) -> Iterable[IkeSa]:
        """The IKE SAs with a peer at this address."""
        ...

    def connection(self, name: str) -> ConnectionConfig | None: ...

    def candidates(self, local: Address, remote: Address) -> list[ConnectionConfig]:
        """IKEv2 connections whose addresses fit, best first."""
        ...

    def acquire_policy(
        self,
        connection: str,
        child: ChildConfig,
        local_ts: tuple[TrafficSelector, ...],
        remote_ts: tuple[TrafficSelector, ...],
        protocol: SecurityProtocol = SecurityProtocol.ESP,
    ) -> tuple[PolicyKey, int]:
        """Share the policy of these selectors; returns its key and reqid."""
        ...

    def release_policy(self, key: PolicyKey) -> None: ...

    def finish(self, tickets: list[int], success: bool, message: str) -> None:
        """A command's part is done; empties the list."""
        ...

    def start_child(self, connection: str, child: str, now: float) -> None:
        """Bring a child up again (actions start and restart)."""
        ...

    def start_apart(
        self, connection: str, child: str, tickets: list[int], now: float, relieved: ChildSa | None = None
    ) -> bool:
        """Bring a child up on an IKE SA of its own, in the place of another one; takes the tickets over."""
        ...

    def trap_child(self, connection: str, child: str, now: float) -> None:
        """Install a child's trap policy (action trap)."""
        ...

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
        """``sa`` is redirected (RFC 5685): begin at the other gateway, with these children, tickets and waiting tasks.
        False when this host cannot send there."""
        ...

    def add_virtual_ip(self, address: IPAddress) -> None:
        """One more IKE SA gives this host an address; with the first one it gets it."""
        ...

    def remove_virtual_ip(self, address: IPAddress) -> None: ...

    def release_addresses(self, sa: IkeSa) -> None:
        """The IKE SA ends: virtual addresses of either end that are still its own are given back."""
        ...

    def reauthenticate(self, sa: IkeSa, now: float) -> bool:
        """Begin an IKE SA that is to replace one of ours; False when it cannot be begun."""
        ...

    def retry(self, sa: IkeSa, now: float) -> bool:
        """An IKE SA never came up: try again if keyingtries allow; True when a new attempt took over."""
        ...

"""A source of the model: its state, what it gives, its totals, and the commands that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from agent.gateway.changes import Changes, Domains
from agent.gateway.counters import CHILD_TRAFFIC, Counts, DaemonCounts, add
from agent.gateway.tunnels import KINDS


class SourceStatus(Enum):
    """Whether a source answers, and what is shown meanwhile.

    `CONNECTING`: never reached yet. `UP`: answering. `STALE`: was reached, does not answer; last values are shown.
    `DOWN`: silent for so long that its SAs are no longer said to be alive. `DISABLED`: by the configuration.
    """

    CONNECTING = "connecting"
    UP = "up"
    STALE = "stale"
    DOWN = "down"
    DISABLED = "disabled"


class CommandError(Exception):
    """A command was refused by the live stack or did not reach it. The text may be logged.

    `unsure`: it was sent and no answer came, so it may have been carried out, or still be.
    """

    def __init__(self, text: str, unsure: bool = False) -> None:
        super().__init__(text)
        self.unsure = unsure


@dataclass(slots=True)
class Progress:
    """How far a change of several commands has come: `done` of them, and perhaps (`unsure`) one more."""

    done: int = 0
    unsure: bool = False


class Commander(Protocol):
    """What a source can be told to do. Both raise CommandError; both return within a bounded time."""

    async def terminate_ike(self, uniqueid: int) -> None:
        """Delete an IKE SA with its children and tell the peer; returns when the stack has accepted that."""
        ...

    async def terminate_child(self, uniqueid: int) -> None:
        """Delete one Child SA and tell the peer; returns when the stack has accepted that."""
        ...


class Source:
    """State and totals of one source. Sources change it through its methods, tables read it."""

    def __init__(
        self,
        name: str,
        kind: str,
        address: str,
        index: int,
        clock: Callable[[], float],
        domains: Domains | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.address = address
        self.index = index
        self.clock = clock
        self.changes = Changes(domains or Domains())
        self.on_meaning: Callable[[], None] = (
            nothing_to_do  # what the feed does when all values mean another thing
        )
        self.commander: Commander | None = None
        self.status = SourceStatus.CONNECTING
        self.daemon: str | None = None
        self.version: str | None = None
        self.data_plane: str | None = None
        self._epoch: str | None = None
        self.last_contact: float | None = None
        self.up_since: float | None = None
        self.connected_wall: float | None = None
        self.lost_wall: float | None = None
        self.last_error = ""
        self.half_open: int | None = None
        self.polls = 0
        self.poll_failures = 0
        self.poll_seconds: float | None = None
        self.connects = 0
        self.restarts = 0
        self.events = 0
        self.malformed = 0
        # Names of the counts this source gives for each SA, so that "none seen yet" is told from "never given".
        self.child_provides: frozenset[str] = frozenset(CHILD_TRAFFIC)
        self.ike_provides: frozenset[str] = frozenset()
        self.child_totals: Counts = {}
        self.ike_totals: Counts = {}
        self.ike_daemon = DaemonCounts()  # get-counters
        self.ipsec_daemon = DaemonCounts()  # stats, section ipsec
        self.ike_stats = DaemonCounts()  # stats, section ike
        # Counts of the model itself since the agent's start.
        self.previous_ike_tunnels = 0
        self.previous_tunnels = 0
        self.ike_initiated = 0
        self.ike_responded = 0
        self.esp_sas = 0
        self.ah_sas = 0
        self.ipcomp_sas = 0
        # What is there now, whether the source is believed or not.
        self.up_ike_tunnels = 0
        self.up_tunnels = 0
        self.current = dict.fromkeys(KINDS, 0)

    @property
    def epoch(self) -> str | None:
        """Differs when the daemon was restarted; None where the daemon has none."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: str | None) -> None:
        extended = self.extended
        self._epoch = epoch
        if self.extended is not extended:
            self.on_meaning()

    @property
    def extended(self) -> bool:
        """Whether the source gives what docs/vici.md adds, so that a key it omits is known to be nothing."""
        return self.epoch is not None

    @property
    def trusted(self) -> bool:
        """Whether the SAs last heard of are still said to be alive."""
        return self.status in (SourceStatus.UP, SourceStatus.STALE)

    @property
    def read_at(self) -> float:
        """The moment the last values are of: clocks of rows stand still while the source is away."""
        if self.status is SourceStatus.UP or self.last_contact is None:
            return self.clock()
        return self.last_contact

    def provides(self, child: frozenset[str] | None = None, ike: frozenset[str] | None = None) -> None:
        """Say which counts the source gives; names are added, never taken away."""
        before = self.child_provides, self.ike_provides
        if child is not None:
            self.child_provides |= child
        if ike is not None:
            self.ike_provides |= ike
        if before != (self.child_provides, self.ike_provides):
            self.on_meaning()

    def inherit(self, other: Source) -> None:
        """Take over what a source counted that is no more."""
        self.child_provides |= other.child_provides
        self.ike_provides |= other.ike_provides
        add(self.child_totals, other.child_totals)
        add(self.ike_totals, other.ike_totals)
        add(self.ike_daemon.totals, other.ike_daemon.totals)
        add(self.ipsec_daemon.totals, other.ipsec_daemon.totals)
        add(self.ike_stats.totals, other.ike_stats.totals)
        for name in TALLIES:
            setattr(self, name, getattr(self, name) + getattr(other, name))


TALLIES = (
    "previous_ike_tunnels",
    "previous_tunnels",
    "ike_initiated",
    "ike_responded",
    "esp_sas",
    "ah_sas",
    "ipcomp_sas",
)


def nothing_to_do() -> None:
    return

"""A source of the model: its state, what it gives, its totals, and the commands that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from agent.gateway.counters import CHILD_TRAFFIC, Counts, DaemonCounts


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

    def __init__(self, name: str, kind: str, address: str, index: int, clock: Callable[[], float]) -> None:
        self.name = name
        self.kind = kind
        self.address = address
        self.index = index
        self.clock = clock
        self.commander: Commander | None = None
        self.status = SourceStatus.CONNECTING
        self.daemon: str | None = None
        self.version: str | None = None
        self.data_plane: str | None = None
        self.epoch: str | None = None  # differs when the daemon was restarted
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
        if child is not None:
            self.child_provides |= child
        if ike is not None:
            self.ike_provides |= ike

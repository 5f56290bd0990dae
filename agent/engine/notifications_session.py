"""What the originator and the wire say to each other: in whose name a message goes, and what came back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.engine.targets import Address
from agent.engine.usm import TIME_WINDOW
from agent.engine.usm_crypto import LocalUser

REPORT_UNKNOWN_ENGINE = (1, 3, 6, 1, 6, 3, 15, 1, 1, 4, 0)
REPORT_NOT_IN_TIME = (1, 3, 6, 1, 6, 3, 15, 1, 1, 2, 0)
"""usmStatsUnknownEngineIDs.0 and usmStatsNotInTimeWindows.0."""


@dataclass(slots=True, eq=False)
class RemoteEngine:
    """What is known of another authoritative engine (RFC 3414 section 2.3): its clock as of `at`."""

    engine_id: bytes
    boots: int = 0
    latest: int = 0
    at: float = 0.0

    def time(self, now: float) -> int:
        """snmpEngineTime there by our notion."""
        return (self.latest + int(now - self.at)) & 0x7FFFFFFF if self.boots else 0

    def is_late(self, boots: int, seconds: int, now: float) -> bool:
        """Whether an authentic message is outside the time window (section 3.2 step 7b)."""
        if self.boots == 0x7FFFFFFF or boots < self.boots:
            return True
        return boots == self.boots and seconds < self.time(now) - TIME_WINDOW

    def learn(self, boots: int, seconds: int, now: float) -> None:
        """Take over the clock of an authentic message, when it is newer."""
        if boots > self.boots or (boots == self.boots and seconds > self.latest):
            self.boots, self.latest, self.at = boots, seconds, now


@dataclass(slots=True, eq=False)
class Session:
    """In whose name one message goes where, and by what its answer is known.

    `remote` is None where this engine is authoritative. `message_id` is the request-id of a community-based
    message and the msgID of an SNMPv3 one, `handle` pysnmp's; both are known once it was sent.
    """

    address: Address
    version: int
    level: int = 1
    community: bytes = field(default=b"", repr=False)
    user: LocalUser | None = None
    remote: RemoteEngine | None = None
    discovers: bool = False
    answered: Callable[[Session, Answer], None] | None = None
    message_id: int = 0
    handle: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the error-status of a Response, or the counter that a Report names."""

    status: int = 0
    report: tuple[int, ...] | None = None
    engine_id: bytes = b""


class TooLarge(ValueError):
    """The message is larger than its receiver takes."""

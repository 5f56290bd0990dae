"""What waits to be told to whom: bounded queues, counters, and limits of rate."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from agent.engine.notifications_pdu import Notification
from agent.engine.notifications_session import Session
from agent.engine.targets import Destination

RATE = 50.0
BURST = 100.0
"""Messages a second that one target gets for long, and at once after a pause."""


@dataclass(slots=True)
class NotificationCounters:
    """Monotonic since the start of the process. A notification for three targets counts once, then thrice."""

    notifications: int = 0
    filtered: int = 0
    """Held back by a target's filter."""
    not_in_view: int = 0
    """Held back because the target's notify view does not hold all of it."""
    untranslatable: int = 0
    """Not sent to an SNMPv1 target because of a Counter64 (RFC 3584 section 3.2)."""
    unusable: int = 0
    """Not sent because the target's user or community does not exist or has not the keys."""
    too_big: int = 0
    dropped: int = 0
    """Not sent because queues were full."""
    traps_sent: int = 0
    informs_sent: int = 0
    informs_retried: int = 0
    informs_acknowledged: int = 0
    informs_refused: int = 0
    """Answered, but with an error."""
    informs_timed_out: int = 0
    send_errors: int = 0
    unexpected_answers: int = 0
    """Late, doubled, malformed, or from where nothing was asked."""
    forged_answers: int = 0
    """With a wrong digest, community or time."""


@dataclass(slots=True, eq=False)
class Item:
    """One notification for one target. `tries`: how many are left after this one."""

    notification: Notification
    destination: Destination
    confirmed: bool
    tries: int = 0
    request_id: int = 0
    syncs: int = 0
    session: Session | None = None
    timer: asyncio.TimerHandle | None = None
    reason: str = ""


@dataclass(slots=True)
class Queue:
    """What one target has to get."""

    items: deque[Item] = field(default_factory=deque)
    outstanding: int = 0
    credit: float = BURST
    at: float = 0.0


TEXTS = {
    "dropped": "not sent because too many waited",
    "unusable": "not sent because the target's user or community lacks",
    "too_big": "larger than their target takes",
    "untranslatable": "without a form in SNMPv1",
    "send_errors": "that could not be sent",
    "informs_timed_out": "that nobody acknowledged",
    "informs_refused": "that their target refused",
    "forged_answers": "acknowledged by a forger",
}


def losses(counters: NotificationCounters, before: dict[str, int]) -> str:
    """What has been lost since `before`, which is brought up to date; empty when nothing was."""
    now = {name: getattr(counters, name) for name in TEXTS}
    text = "; ".join(f"{now[n] - before.get(n, 0)} {TEXTS[n]}" for n in now if now[n] > before.get(n, 0))
    before.update(now)
    return text


class TrapLimit:
    """How often one kind of notification may be sent, so that whoever causes it cannot flood a receiver."""

    def __init__(self, burst: int = 5, interval: float = 10.0) -> None:
        """`burst` at once, then one in `interval` seconds."""
        self._burst = burst
        self._interval = interval
        self._credit = float(burst)
        self._at = 0.0
        self.withheld = 0

    def take(self, now: float) -> bool:
        """Whether one may be sent now."""
        self._credit = min(self._burst, self._credit + (now - self._at) / self._interval)
        self._at = now
        if self._credit < 1:
            self.withheld += 1
            return False
        self._credit -= 1
        return True

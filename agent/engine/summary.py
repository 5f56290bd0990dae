"""One line a minute for what no MIB shows yet: replays, withheld Reports, what could not be sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from agent.engine.counters import EngineCounters

log = logging.getLogger(__name__)

INTERVAL = 60.0
TEXTS = {
    "internal_errors": "internal errors (bugs: please report them)",
    "send_errors": "answers that could not be sent",
    "backlog_dropped": "datagrams of a flood dropped unread",
    "sets_replayed": "recorded SETs sent again",
    "sets_refused_busy": "SETs refused because too many were waiting",
    "unexpected_answers": "answers to what was not asked",
    "reports_withheld": "Reports withheld from a flood",
    "answers_withheld": "unauthenticated requests that would have had an answer larger than themselves",
    "silent_drops": "requests without an answer small enough",
}


class Summary:
    """Watches the counters and logs once in `interval` seconds which of them have risen and by how much.

    `others`: those of TEXTS that EngineCounters has not.
    """

    def __init__(
        self,
        counters: EngineCounters,
        others: Mapping[str, Callable[[], int]],
        now: float,
        interval: float = INTERVAL,
    ) -> None:
        self._counters = counters
        self._others = dict(others)
        self._interval = interval
        self._next = now + interval
        self._before = self._values()

    def tick(self, now: float) -> None:
        """Called every second or so."""
        if now < self._next:
            return
        self._next = now + self._interval
        values = self._values()
        risen = [
            f"{values[name] - before} {TEXTS[name]}"
            for name, before in self._before.items()
            if values[name] > before
        ]
        self._before = values
        if risen:
            log.warning("in the last %g seconds: %s", self._interval, "; ".join(risen))

    def _values(self) -> dict[str, int]:
        return {
            name: self._others[name]() if name in self._others else getattr(self._counters, name)
            for name in TEXTS
        }

"""When Python looks for cyclic garbage, so that no manager waits for it.

Reference counts free almost everything at once. What they miss are cycles, which the collector finds by looking at
every container that lives: some 20 for each tunnel, 15 ms for a thousand tunnels (150 ms for ten thousand), and nobody
is answered meanwhile. Hence:

* Young objects are collected as ever, in generations that are small enough for a pass of a few milliseconds.
* Full passes are never started by Python. They are made here, on what is not frozen: every `INTERVAL` seconds.
* What lives long is frozen (`gc.freeze`: passes leave it out): all that is there when the agent begins to listen, and
  what came since, as soon as it is so much that a full pass would take too long: after the first listing, that is.
* Frozen things are freed by their reference counts as any other. A cycle among them would not be, so the model has
  none when something leaves it: rows and SAs let go of each other (agent.gateway.rows, `drop`). A test lets
  generations of SAs come and go and watches the collector find nothing.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

YOUNG = (1000, 4, 2**31 - 1)
"""gc.set_threshold: passes over at most some 1,000 and 5,000 objects, 1 and 2 ms; full ones never by themselves."""
INTERVAL = 30.0
"""Seconds between two full passes over what is not frozen."""
MANY = 4
"""Passes over the middle generation, each of at most some 5,000 objects that stay, after which those are frozen."""


class Policy:
    """The collector's settings while the agent runs. `start`, `tick` about once a second, `stop`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._before: tuple[int, int, int] | None = None
        self._collected_at = 0.0
        self.longest = 0.0  # seconds that a full pass took

    def start(self) -> None:
        if self._before is None:
            self._before = gc.get_threshold()
            gc.set_threshold(*YOUNG)
        self._collected_at = self._clock()
        gc.freeze()

    def stop(self) -> None:
        """As Python has it by itself."""
        if self._before is not None:
            gc.set_threshold(*self._before)
            self._before = None
            gc.unfreeze()

    def tick(self) -> None:
        """Look after it."""
        if self._before is None:
            return
        now = self._clock()
        if gc.get_count()[2] >= MANY:
            gc.collect(1)
            gc.freeze()
        elif now - self._collected_at >= INTERVAL:
            gc.collect()
            self._collected_at = self._clock()
            self.longest = max(self.longest, self._collected_at - now)

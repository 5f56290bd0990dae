"""When Python looks for cyclic garbage, so that no manager waits for it.

Reference counts free almost everything at once. What they miss are cycles, which the collector finds by looking at
every container that lives: some 20 for each tunnel, 15 ms for a thousand tunnels (150 ms for ten thousand), and nobody
is answered meanwhile. Hence:

* Young objects are collected as ever, in generations that are small enough for a pass of a few milliseconds.
* Full passes are never started by Python. They are made here, on what is not frozen: every `INTERVAL` seconds.
* What lives long is frozen (`gc.freeze`: passes leave it out): all that is there when the agent begins to listen;
  the model when it has grown; and the survivors of a full pass that took longer than `LONG`, which are proven alive.
* Frozen things are freed by their reference counts as any other. A cycle among them would not be, so the model has
  none when something leaves it: rows and SAs let go of each other (agent.gateway.rows, `drop`). A test lets
  generations of SAs come and go and watches the collector find nothing.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

YOUNG = (5000, 5, 2**31 - 1)
"""gc.set_threshold: passes over at most some 5,000 and 30,000 objects, a few ms; full ones never by themselves."""
INTERVAL = 30.0
"""Seconds between two full passes over what is not frozen."""
LONG = 0.005
"""Seconds of a full pass after which its survivors are frozen."""
GROWN = 1000
"""Tunnels and SAs more than when the model was last frozen, and a tenth more: then it is frozen again."""


class Policy:
    """The collector's settings while the agent runs. `start`, `tick` about once a second, `stop`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._before: tuple[int, int, int] | None = None
        self._frozen_size = 0
        self._size = 0
        self._collected_at = clock()
        self.longest = 0.0  # seconds that a full pass took

    def start(self) -> None:
        if self._before is None:
            self._before = gc.get_threshold()
            gc.set_threshold(*YOUNG)
        gc.freeze()

    def stop(self) -> None:
        """As Python has it by itself."""
        if self._before is not None:
            gc.set_threshold(*self._before)
            self._before = None
            gc.unfreeze()

    def tick(self, size: int) -> None:
        """`size`: how many long-lived things the model has now."""
        if self._before is None:
            return
        growing, self._size = size > self._size, size
        if size > self._frozen_size + max(GROWN, self._frozen_size // 10):
            # also while it grows on: what is frozen early costs no later pass anything
            gc.collect(1)
            gc.freeze()
            self._frozen_size = size
        elif not growing and self._clock() - self._collected_at >= INTERVAL:
            self._collect()
        self._frozen_size = min(self._frozen_size, size)

    def _collect(self) -> None:
        begun = self._clock()
        gc.collect()
        self._collected_at = self._clock()
        took = self._collected_at - begun
        self.longest = max(self.longest, took)
        if took > LONG:
            gc.freeze()

"""The agent's log: lines on standard error, and no flood of them whatever comes in from the network."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

BURST = 20  # lines of one kind at once
INTERVAL = 60.0  # seconds until as many are allowed again
KINDS = 1000


class RateLimit(logging.Filter):
    """Lets BURST lines of each kind (logger and message template) through in every INTERVAL; says what it left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.name, str(record.msg))
        now = self._clock()
        begun, count = self._windows.get(kind, (now, 0))
        if now - begun >= INTERVAL:
            if count > BURST:
                record.msg = (
                    f"{record.getMessage()} ({count - BURST} such lines left out in {now - begun:.0f} s)"
                )
                record.args = None
            begun, count = now, 0
        if len(self._windows) >= KINDS and kind not in self._windows:
            self._windows.pop(next(iter(self._windows)))
        self._windows[kind] = (begun, count + 1)
        return count < BURST


def configure(verbose: bool) -> None:
    """Lines with level and logger on standard error; the time is journald's business."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)

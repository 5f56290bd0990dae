"""Counts of what the seam had to leave out, and one rate limit for its log lines."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class SmiCounters:
    """What walks silently lack. Plural names, monotonic, since the start of the process."""

    values_outside_syntax: int = 0
    getter_errors: int = 0
    indexes_too_long: int = 0
    indexes_invalid: int = 0
    indexes_duplicate: int = 0
    rows_errors: int = 0
    images_built: int = 0


@dataclass(slots=True)
class LimitedLog:
    """Logs a line per key at most every `interval` seconds and says how many were held back."""

    logger: logging.Logger
    interval: float = 60.0
    limit: int = 1024
    _last: dict[str, tuple[float, int]] = field(default_factory=dict)

    def warning(self, key: str, message: str, *arguments: object) -> None:
        """Log `message % arguments` unless the same key was logged within the interval."""
        now = time.monotonic()
        last, held = self._last.get(key, (None, 0))
        if last is not None and now - last < self.interval:
            self._last[key] = (last, held + 1)
            return
        if key not in self._last and len(self._last) >= self.limit:
            self._last.clear()
        self._last[key] = (now, 0)
        if held:
            message = f"{message} ({held} more like it in between)"
        self.logger.warning(message, *arguments)

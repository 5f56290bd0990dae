"""Work in slices: long jobs between the answers of an event loop, or at once where none runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

SLICE = 0.001
"""Seconds that a slice may take; a job yields often enough to keep near it."""


class Background:
    """Generators that are run a slice at a time; those that somebody waits for before those that spare work."""

    def __init__(self, budget: float = SLICE) -> None:
        self.budget = budget
        self._jobs: deque[Iterator[None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, job: Iterator[None]) -> None:
        """Run a job to its end, in slices; at once when no event loop runs."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            for _ in job:
                pass
            return
        self._jobs.appendleft(job)
        self._schedule(loop)

    def soon(self, work: Callable[[], Iterator[None]]) -> None:
        """Start a job that spares others work; not where no event loop runs, for then it spares nobody anything."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._jobs.append(work())
        self._schedule(loop)

    def resume(self) -> None:
        """Make sure that jobs go on: their event loop may have ended before them."""
        if not self._jobs:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.finish()
            return
        self._schedule(loop)

    def finish(self) -> None:
        """Run all jobs to their ends now."""
        while self._jobs:
            for _ in self._jobs.popleft():
                pass

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            self._loop = loop
            loop.call_soon(self._slice, loop)

    def _slice(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            return
        until = time.perf_counter() + self.budget
        while self._jobs:
            job = self._jobs[0]
            try:
                for _ in job:
                    if time.perf_counter() >= until:
                        loop.call_soon(self._slice, loop)
                        return
            except Exception:
                # a job tells its own errors; this one is a fault of the agent, and the others go on
                log.exception("a background job failed")
            if self._jobs and self._jobs[0] is job:
                self._jobs.popleft()
        self._loop = None


__all__ = ["Background"]

"""Work in steps: who drives it decides how many at a time, and what happens in between.

On the event loop that is a few milliseconds: answers to managers are given in between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

Steps = Generator[None, None, None]
"""The model is consistent whenever it yields, and when it is closed before its end."""

SLICE = 0.001
"""Seconds that work goes on before others get their turn."""

Result = TypeVar("Result")


async def in_slices(work: Generator[None, None, Result], seconds: float = SLICE) -> Result:
    """Run a generator to its end and give what it returns. It yields wherever it may be interrupted.

    When this is cancelled, or the work raises, the generator is closed.
    """
    until = time.perf_counter() + seconds
    try:
        while True:
            next(work)
            if time.perf_counter() >= until:
                await asyncio.sleep(0)
                until = time.perf_counter() + seconds
    except StopIteration as done:
        result: Result = done.value
        return result
    finally:
        work.close()


def at_once(work: Generator[None, None, Result]) -> Result:
    """The same without pauses."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: Result = done.value
            return result

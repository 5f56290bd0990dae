"""An asyncio event loop that answers datagrams without a turn of its own for each.

A turn of asyncio's loop costs some ten microseconds, as much as answering a request. So this loop's selector
serves the SNMP sockets itself while it waits, and returns to asyncio when something else is due: another
descriptor, a timer, or work that a served request has left behind. Nothing waits longer for it than one round of
the sockets takes.

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(main())
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import select
import selectors
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

EVENTS = 64
"""Descriptors looked at in one round."""


class ServingSelector(selectors.EpollSelector):
    """Selects for asyncio, and meanwhile calls the handlers of served descriptors.

    The served descriptors and the selector's own epoll descriptor, which is readable whenever something of
    asyncio's is, stand side by side in a second epoll object.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._both = select.epoll()
        self._both.register(self.fileno(), select.EPOLLIN)
        self.wanted = False
        """Set when the loop has something to do that it did not know of when it began to wait."""

    def serve(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Call `handler` whenever the descriptor is readable."""
        self._both.register(descriptor, select.EPOLLIN)
        self._handlers[descriptor] = handler

    def forget(self, descriptor: int) -> None:
        """Serve it no longer; before it is closed."""
        del self._handlers[descriptor]
        self._both.unregister(descriptor)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        handlers = self._handlers
        if not handlers:
            return super().select(timeout)
        if timeout is None:
            wait, until = -1.0, math.inf
        else:
            # as EpollSelector does: a timer must not be waited for in vain for less than a millisecond
            wait = math.ceil(max(timeout, 0.0) * 1e3) * 1e-3
            until = time.monotonic() + wait if wait else 0.0
        self.wanted = False
        poll = self._both.poll
        while True:
            for descriptor, _ in poll(wait, EVENTS):
                handler = handlers.get(descriptor)
                if handler is None:
                    self.wanted = True
                    continue
                try:
                    handler()
                except Exception:
                    log.exception("a fault of the agent itself")
            if self.wanted:
                return super().select(0)
            if timeout is not None:
                wait = until - time.monotonic()
                if wait <= 0:
                    return []

    def close(self) -> None:
        self._handlers.clear()
        self._both.close()
        super().close()


class ServingLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop over a ServingSelector."""

    def __init__(self) -> None:
        self.serving = ServingSelector()
        super().__init__(self.serving)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        self.serving.wanted = True
        return super().call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        self.serving.wanted = True
        return super().call_at(when, callback, *args, context=context)


__all__ = ["ServingLoop", "ServingSelector"]

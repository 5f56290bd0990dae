"""A server on a real unix socket, its loop in a thread, for clients that are programs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ipsecstack.vici.transport import ViciListener
from vici_support.fake import Gateway


class Served:
    """A gateway on a socket. ``call`` runs a function in the server's thread."""

    def __init__(self, gateway: Gateway, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.gateway = gateway
        self.path = path
        self.uri = f"unix://{path}"
        self._loop = loop

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        async def run() -> Any:
            return function(*args)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)


@contextmanager
def serving(gateway: Gateway, path: Path, **options: Any) -> Iterator[Served]:
    """Serve ``gateway`` at ``path`` while the block runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    start = ViciListener.start(gateway.server, path, clock=lambda: gateway.now, **options)
    try:
        listener = asyncio.run_coroutine_threadsafe(start, loop).result(10)
        try:
            yield Served(gateway, path, loop)
        finally:
            asyncio.run_coroutine_threadsafe(listener.stop(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

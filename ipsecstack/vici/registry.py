"""The commands and events of the server. A command is one decorated function in a module of ``vici.commands``."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ipsecstack.keyex.base import CommandFinished
from ipsecstack.vici.codec import Outgoing
from ipsecstack.vici.request import Request

if TYPE_CHECKING:
    from ipsecstack.vici.server import ViciServer

Stream = Generator[tuple[str, Outgoing], None, Outgoing]
"""Yields (event name, message) for the client that asked, returns the reply."""


@dataclass(slots=True)
class Waiting:
    """A command that ends when its tickets are finished or its time is up.

    ``finish`` makes the reply of the outcomes, ``expire`` that of a timeout. Log lines up to ``level`` of the
    connection ``ike`` (None: of any) are streamed as control-log meanwhile.
    """

    tickets: set[int]
    finish: Callable[[list[CommandFinished]], Outgoing]
    expire: Callable[[], Outgoing]
    deadline: float | None = None
    level: int = 1
    ike: frozenset[str] = frozenset()
    outcomes: list[CommandFinished] = field(default_factory=list)


Result = Outgoing | Stream | Waiting
Handler = Callable[["ViciServer", Request, float], Result]

COMMANDS: dict[str, Handler] = {}

EVENTS = frozenset(
    {
        "log",
        "control-log",
        "list-sa",
        "list-policy",
        "list-conn",
        "list-cert",
        "list-authority",
        "ike-updown",
        "ike-rekey",
        "ike-update",
        "child-updown",
        "child-rekey",
        "child-ended",
        "alert",
    }
)

_H = TypeVar("_H", bound=Handler)


def command(name: str) -> Callable[[_H], _H]:
    """Register a function as the command ``name``: ``(server, request, now) -> reply``, a Stream or Waiting.

    RequestError, CommandError, ConfigError and ValueError become ``success = no`` with their text as ``errmsg``.
    """

    def register(handler: _H) -> _H:
        if name in COMMANDS:
            raise ValueError(f"command {name} is registered twice")
        COMMANDS[name] = handler
        return handler

    return register


def success() -> dict[str, str]:
    return {"success": "yes"}


def failure(message: str) -> dict[str, str]:
    return {"success": "no", "errmsg": message}

"""The daemon's log on stderr: lines of the key exchange and of the daemon itself, in one form.

    2026-01-31T12:00:00.123 [IKE] <gw|1> established

Groups and levels are those of strongSwan's loggers: -1 is for errors, 0 for what an operator must know, 1 the normal
course, 2 to 4 more and more detail. Under systemd the journal has the time already.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable

from ipsecstack.keyex.base import LogRecorded

# Python's levels as strongSwan's, and the group of each package's own lines.
_LEVELS = ((logging.ERROR, -1), (logging.WARNING, 0), (logging.INFO, 1), (logging.DEBUG, 2))
_GROUPS = {"io": "NET", "dataplane": "KNL", "config": "CFG", "keyex": "IKE", "vici": "CFG"}


# A peer's identity may hold anything; a log line and a terminal must not obey it.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ")


def level_of(record: logging.LogRecord) -> int:
    """A Python log level as one of strongSwan's."""
    return next((level for python, level in _LEVELS if record.levelno >= python), 3)


def group_of(logger_name: str) -> str:
    """The group of a module's lines: ``ipsecstack.io.network`` is NET."""
    parts = logger_name.split(".")
    return _GROUPS.get(parts[1] if len(parts) > 1 else "", "DMN")


def line_of(entry: LogRecorded, stamp: bool = True) -> str:
    """One line of the log, without what could forge another one."""
    name = (entry.ike_name or "").translate(_CONTROLS)
    who = f" <{name}|{entry.ike_uniqueid or ''}>" if name else ""
    message = entry.message.translate(_CONTROLS)
    text = f"[{entry.group}]{who} {message}"
    if not stamp:
        return text
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d} {text}"


class DaemonLog(logging.Handler):
    """Receives the lines of Python's logging and those of the stack, and writes what ``level`` lets through.

    ``forward`` is given the daemon's own lines (not the stack's) for VICI's log event.
    """

    def __init__(self, level: int) -> None:
        super().__init__()
        self.threshold = level
        self.forward: Callable[[LogRecorded], None] | None = None
        self._stamp = "JOURNAL_STREAM" not in os.environ

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                message += "\n" + logging.Formatter().formatException(record.exc_info)
            entry = LogRecorded(group_of(record.name), level_of(record), None, None, message)
            self.write(entry)
            if self.forward is not None:
                self.forward(entry)
        except Exception:
            self.handleError(record)

    def write(self, entry: LogRecorded) -> None:
        """Write a line to stderr if its level is let through. A log that cannot be written stops nothing."""
        if entry.level > self.threshold:
            return
        try:
            sys.stderr.write(line_of(entry, self._stamp) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return


def set_up(level: int) -> DaemonLog:
    """Send the logging of all of ``ipsecstack`` (and asyncio's complaints) to stderr."""
    handler = DaemonLog(level)
    logging.raiseExceptions = False
    for name in ("ipsecstack", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.DEBUG if level >= 2 else logging.INFO)
        logger.propagate = False
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    return handler

"""What the engine must remember across restarts: its snmpEngineID and how often it has started.

RFC 3414 section 2.2: snmpEngineBoots is counted on stable storage before the first message is served, or a
message recorded earlier could be replayed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import secrets
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

ENTERPRISE = 32473
"""Enterprise number in an engine ID made here (RFC 5612; see mibs/OIDS.md)."""
MAX_BOOTS = 2147483647
_LEFT_OVER = re.compile(r"\.(engine|lcd|indexes)-[a-z0-9_]{8}")


class EngineStateError(Exception):
    """The state cannot be read or written; the text says what to do."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """snmpEngineID and snmpEngineBoots of this run."""

    engine_id: bytes
    boots: int


def new_engine_id() -> bytes:
    """A random SnmpEngineID: enterprise number with the top bit set, format 5 (octets), 12 octets."""
    return (0x80000000 | ENTERPRISE).to_bytes(4, "big") + b"\x05" + secrets.token_bytes(12)


class StateLock:
    """Holds the state folder against a second agent: two with one engine ID and boots break SNMPv3 for both."""

    def __init__(self, folder: Path) -> None:
        """Make the folder (mode 0700) and lock it, until `release` or the end. Raises EngineStateError."""
        handle = -1
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if handle >= 0:
                os.close(handle)
            if isinstance(error, BlockingIOError):
                raise EngineStateError(
                    f"{folder}: another agent runs with this state; stop it, or set agent.state_dir to a "
                    "folder of this agent's own"
                ) from None
            raise EngineStateError(_trouble(error, folder)) from None
        self.release = weakref.finalize(self, os.close, handle)


def _trouble(error: OSError, path: Path) -> str:
    cure = (
        "free some space there"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "make agent.state_dir a folder that the agent may write"
    )
    return f"{error.filename or path}: {error.strerror}; {cure}"


def start(folder: Path, configured_id: bytes | None) -> EngineState:
    """Count this start and return the state to run with. Raises EngineStateError.

    Call it with the folder locked. The file engine.json in `folder` (made with mode 0700) has mode 0600 and is
    replaced atomically. The count goes on when the engine ID is changed in the configuration, so that no
    (ID, boots) pair ever comes again.
    """
    path = folder / "engine.json"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(folder)
        kept = _read(path)
        engine_id = configured_id or (kept.engine_id if kept else new_engine_id())
        boots = min((kept.boots if kept else 0) + 1, MAX_BOOTS)
        _write(path, EngineState(engine_id, boots))
    except OSError as error:
        raise EngineStateError(_trouble(error, path)) from None
    if boots == MAX_BOOTS:
        log.error(
            "snmpEngineBoots has reached its maximum, so no authenticated request is accepted (RFC 3414 section "
            "2.2.3); give agent.engine_id a value never used before and delete %s",
            path,
        )
    return EngineState(engine_id, boots)


def _read(path: Path) -> EngineState | None:
    try:
        data = json.loads(path.read_bytes())
        engine_id = bytes.fromhex(data["engine_id"])
        boots = data["boots"]
        if not isinstance(boots, int) or not 0 <= boots <= MAX_BOOTS or not 5 <= len(engine_id) <= 32:
            raise ValueError("a value is out of range")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise EngineStateError(
            f"{path}: damaged ({error}); restore it, or delete it and set agent.engine_id to a new value"
        ) from None
    return EngineState(engine_id, boots)


def _write(path: Path, state: EngineState) -> None:
    write_json(path, {"engine_id": state.engine_id.hex(), "boots": state.boots})


def write_json(path: Path, data: Any) -> None:
    """Replace a file by JSON as `write_text` does. Raises OSError."""
    write_text(path, json.dumps(data) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically, with mode 0600, and have it on the disk before returning. Raises OSError.

    Whoever is killed in between leaves the old file or the new one, and perhaps one to `sweep`.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sweep(folder: Path) -> None:
    """Remove what a killed agent left half written. Only while the folder is locked."""
    for path in folder.glob(".*-*"):
        if _LEFT_OVER.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()

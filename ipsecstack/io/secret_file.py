"""A secret that outlives the process: octets in a file that only its owner may read."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

OCTETS = 32
_MAX = 4096


class SecretFileError(Exception):
    """The file cannot be used; the message says why and what to do."""


def read_or_make(path: Path) -> bytes:
    """The secret in ``path``. A file that is not there is made, with new random octets and mode 0600."""
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SecretFileError(f"{path}: {error.strerror}") from None
    try:
        _make(path)
        return _read(path)
    except OSError as error:
        raise SecretFileError(f"{path}: {error.strerror}") from None


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise SecretFileError(f"{path}: is no file")
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o077:
            raise SecretFileError(f"{path}: others may read it; make it yours, with mode 0600")
        secret = file.read(_MAX)
    if len(secret) < OCTETS:
        raise SecretFileError(f"{path}: {len(secret)} octets are too few; remove it, and a new one is made")
    return secret


def _make(path: Path) -> None:
    """Whole or not at all: written beside it, then linked, so that whoever was faster wins."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(os.urandom(OCTETS))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
    finally:
        os.unlink(beside)

"""The unix socket of the VICI server: the only asyncio of this package, and the client's socket for ipsecctl."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # ipsecctl uses this module too and should start fast
    from ipsecstack.vici.server import ViciServer
    from ipsecstack.vici.session import Session

log = logging.getLogger(__name__)

DEFAULT_SOCKET = "/run/ipsecstack/ipsecstack.vici"
CONNECT_TIMEOUT = 5.0
STOP_TIMEOUT = 0.5
MAX_PATH_OCTETS = 107  # sockaddr_un


class SocketError(Exception):
    """The socket cannot be had; the text says why and what to do."""


class ViciListener:
    """Serves a ``ViciServer`` on a unix socket, and runs its timers."""

    def __init__(
        self, server: ViciServer, path: Path, listener: asyncio.Server, clock: Callable[[], float]
    ) -> None:
        self._server = server
        self._path = path
        self._listener = listener
        self._clock = clock
        self._inode = path.stat().st_ino
        self._timer: asyncio.TimerHandle | None = None
        server.on_timer_changed = self._schedule

    @classmethod
    async def start(
        cls,
        server: ViciServer,
        path: str | Path,
        *,
        group: str | None = None,
        mode: int = 0o660,
        clock: Callable[[], float],
    ) -> ViciListener:
        """Listen on ``path``. Makes its folder (0750) when that is missing, and replaces a socket that nobody serves.

        Raises SocketError with the cure.
        """
        where = Path(path)
        gid = _group_id(group)
        _prepare(where, gid)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Between bind and chmod nobody but us may connect.
            mask = os.umask(0o177)
            try:
                bound.bind(str(where))
            finally:
                os.umask(mask)
            if gid is not None:
                os.chown(where, -1, gid)
            os.chmod(where, mode)
            listener = await asyncio.get_running_loop().create_unix_server(
                lambda: _Connection(server, clock), sock=bound, backlog=64
            )
        except OSError as error:
            bound.close()
            raise SocketError(_explain(where, error)) from None
        return cls(server, where, listener, clock)

    async def stop(self) -> None:
        """Close all sessions and remove the socket, unless another daemon has replaced it meanwhile."""
        if self._timer is not None:
            self._timer.cancel()
        self._server.on_timer_changed = lambda: None
        self._listener.close()
        self._server.close()
        await asyncio.sleep(0)  # let the connections send what they have and close
        with contextlib.suppress(asyncio.TimeoutError):  # a client that does not read holds nobody up
            await asyncio.wait_for(self._listener.wait_closed(), STOP_TIMEOUT)
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._server.next_timer()
        if when is not None:
            delay = max(when - self._clock(), 0)
            self._timer = asyncio.get_running_loop().call_later(delay, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self._server.handle_timer(self._clock())
        self._schedule()


class _Connection(asyncio.Protocol):
    """One client: octets between the socket and its session."""

    def __init__(self, server: ViciServer, clock: Callable[[], float]) -> None:
        self._server = server
        self._clock = clock
        self._session: Session | None = None
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._scheduled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        session = self._server.connect()
        if session is None:
            transport.abort()
            return
        self._transport = transport
        self._session = session
        session.notify = self._notify

    def data_received(self, data: bytes) -> None:
        if self._session is not None:
            self._session.receive(data, self._clock())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._session is not None:
            self._session.notify = lambda: None
            self._server.disconnect(self._session)
            self._session = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._notify()

    def _notify(self) -> None:
        """Called from inside the session: write later, in one go."""
        if not self._scheduled and self._transport is not None:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        session, transport = self._session, self._transport
        if session is None or transport is None:
            return
        if session.closed:
            # What was asked and answered is delivered; who does not read is cut off.
            (transport.abort if self._paused else transport.close)()
            return
        if not self._paused:
            data = session.take()
            if data:
                transport.write(data)
        if session.wants_resume and not self._paused:
            session.resume(self._clock())
            self._notify()
        elif session.queued and not self._paused:
            self._notify()


def _group_id(group: str | None) -> int | None:
    if not group:
        return None
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise SocketError(f"group '{group}' does not exist; run: groupadd {group}") from None


def _prepare(path: Path, gid: int | None) -> None:
    """Make the folder, and remove a stale socket."""
    if len(os.fsencode(path)) > MAX_PATH_OCTETS:
        raise SocketError(
            f"{path}: a socket's path has at most {MAX_PATH_OCTETS} octets; choose a shorter one"
        )
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o750, parents=True)
            os.chmod(path.parent, 0o750)  # noqa: S103 - the group gets in, nobody else
            if gid is not None:
                os.chown(path.parent, -1, gid)
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketError(_explain(path, error)) from None
    if not stat.S_ISSOCK(status.st_mode):
        raise SocketError(f"{path} is there and is no socket; remove it or choose another path")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(CONNECT_TIMEOUT)
    try:
        probe.connect(str(path))
    except ConnectionRefusedError:
        log.info("removing the stale socket %s", path)
        try:
            path.unlink()
        except OSError as error:
            raise SocketError(_explain(path, error)) from None
    except OSError as error:
        raise SocketError(_explain(path, error)) from None
    else:
        raise SocketError(f"{path} is served by a daemon that runs already; stop it or choose another path")
    finally:
        probe.close()


def _explain(path: Path, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission for {path} or its folder; run as root or choose another path"
    if error.errno == errno.EROFS:
        return f"{path} lies on a read-only file system; choose another path"
    return f"cannot use {path}: {error.strerror or error}"


def connect(path: str, timeout: float = CONNECT_TIMEOUT) -> socket.socket:
    """A client's connected socket. Raises SocketError with the cure."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(timeout)
    try:
        client.connect(path)
    except FileNotFoundError:
        raise SocketError(
            f"there is no socket {path}; is ipsecstackd running? (--socket names another)"
        ) from None
    except ConnectionRefusedError:
        raise SocketError(f"nobody serves {path}; start ipsecstackd") from None
    except OSError as error:
        raise SocketError(_explain(Path(path), error)) from None
    client.settimeout(None)
    return client

"""Composition root of ``ipsecstackd``: configuration, stack, data plane, sockets, VICI, signals.

``Daemon.run`` puts the parts together, in an order in which nothing is announced before it works, and takes them apart
in the reverse order. Every part is told its clock and randomness here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ipsecstack.config import ConfigError, load_file
from ipsecstack.config.apply import Applier
from ipsecstack.config.daemon import Option
from ipsecstack.dataplane.base import DataPlane, DataPlaneError, abilities
from ipsecstack.dataplane.memory import EchoHosts, MemoryDataPlane
from ipsecstack.io import secret_file, systemd
from ipsecstack.io.addresses import AddressMonitor, local_addresses
from ipsecstack.io.driver import NAT_KEEPALIVE_INTERVAL, Driver
from ipsecstack.io.errors import NetworkError
from ipsecstack.io.network import Network
from ipsecstack.io.sockets import source_address
from ipsecstack.ipsec.sa import SaId
from ipsecstack.keyex.base import KeysDerived, LogRecorded, Output
from ipsecstack.keyex.credentials import CredentialStore
from ipsecstack.keyex.endpoint import Endpoint
from ipsecstack.keyex.options import Options
from ipsecstack.keyexport import KeyExport
from ipsecstack.logs import DaemonLog
from ipsecstack.stack import Stack
from ipsecstack.version import version
from ipsecstack.vici.server import DaemonInfo, ViciServer
from ipsecstack.vici.transport import SocketError, ViciListener

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 1.5  # how long peers are given to acknowledge that their IKE SAs end
_SHUTDOWN_STEP = 0.02


class StartupError(Exception):
    """The daemon cannot start; the message says why and what to do next."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is fixed while the daemon runs."""

    config: Path
    socket: Path = Path("/run/ipsecstack/ipsecstack.vici")
    group: str | None = None
    dataplane: str = "tun"
    kernel_policies: bool = True
    """With the TUN plane: policies in the kernel for what never enters the device."""
    install_routes: bool = True
    """With the kernel's plane: routes that give this host's packets a source inside the local selectors."""
    device: str = "ipsec0"
    mtu: int = 1400
    pid_file: Path | None = None
    nat_keepalive: float = NAT_KEEPALIVE_INTERVAL
    export_keys: Path | None = None
    qcd_secret_file: Path | None = None
    """Keeps the secret of quick crash detection; without it no tokens are made."""
    options: Options = field(default_factory=Options)
    file_options: dict[str, Option] = field(default_factory=dict)
    """The ipsecstackd section as it was at the start, to tell when a reload would need a restart."""


class Daemon:
    """One running gateway."""

    def __init__(self, settings: Settings, output: DaemonLog) -> None:
        self._settings = settings
        self._log = output
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._undo: list[Callable[[], None]] = []
        self._exporter: KeyExport | None = None
        self._listener: ViciListener | None = None

    async def run(self) -> None:
        """Serve until a signal or ``stop`` ends it. Raises StartupError or ConfigError when it cannot start."""
        try:
            await self._start()
            await self._stop.wait()
            await self._shut_down()
        except (NetworkError, DataPlaneError, SocketError) as error:
            raise StartupError(str(error)) from None
        finally:
            if self._listener is not None:
                with contextlib.suppress(OSError):
                    await self._listener.stop()
            for undo in reversed(self._undo):
                try:
                    undo()
                except Exception:
                    log.exception("while stopping")
            self._undo.clear()

    def stop(self) -> None:
        """End in an orderly way; a second call does not wait for the peers."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    # --- start -----------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        settings = self._settings
        loop = asyncio.get_running_loop()
        self._watch_signals(loop)
        self._lock_socket(settings.socket)
        if settings.export_keys is not None:
            self._start_export(settings.export_keys)
        self.dataplane = self._open_dataplane()
        self._undo.append(self.dataplane.close)
        mark, prepare = self.dataplane.socket_mark, self.dataplane.prepare_socket
        self.credentials = CredentialStore()
        self.endpoint = Endpoint(
            random=os.urandom,
            allocate_spi=lambda: self.dataplane.allocate_spi(os.urandom),
            credentials=self.credentials,
            options=replace(
                settings.options,
                export_keys=self._exporter is not None,
                abilities=abilities(self.dataplane.features),
                qcd_secret=self._qcd_secret(),
            ),
            now=loop.time(),
            wall_clock=time.time,
            last_inbound=self._last_inbound,
            source_address=partial(source_address, mark=mark, prepare=prepare),
        )
        self.stack = Stack(self.endpoint, self.dataplane)
        self._undo.append(self.stack.subscribe(self._watch))
        self.driver = Driver(self.stack, loop.time, settings.nat_keepalive)
        network = Network(
            self.driver.received,
            port=settings.options.port,
            port_nat_t=settings.options.port_nat_t,
            mark=mark,
            native_esp=self.dataplane.features.native_esp and self.dataplane.features.userspace,
            prepare=prepare,
        )
        self.driver.connect(network)
        self._undo.append(network.close)
        network.open()
        await self._serve(loop)
        self.driver.start()
        self._undo.append(self.driver.stop)
        self._tell_addresses()
        monitor = AddressMonitor(self._addresses_changed, self._tell_addresses)
        monitor.start()
        self._undo.append(monitor.stop)
        log.info(
            "ipsecstackd %s is ready: %s data plane, UDP ports %d and %d, VICI at %s",
            version(),
            self.dataplane.features.name,
            settings.options.port,
            settings.options.port_nat_t,
            settings.socket,
        )
        systemd.notify("READY=1")

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Configuration first, then the socket: who can connect finds everything loaded."""
        settings = self._settings
        self.applier = Applier(settings.config, self.endpoint, self.credentials)
        info = DaemonInfo(
            version=version(),
            started=loop.time(),
            started_wall=time.time(),
            epoch=os.urandom(8).hex(),
        )
        self.vici = ViciServer(
            self.stack,
            self.credentials,
            info=info,
            clock=loop.time,
            advance=self.driver.advance,
            reload=self.reload,
        )
        self._log.forward = self.vici.log
        self._undo.append(self._stop_forwarding)
        self.reload()
        self._listener = await ViciListener.start(
            self.vici, settings.socket, group=settings.group, clock=loop.time
        )

    def _stop_forwarding(self) -> None:
        self._log.forward = None

    def _watch_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number, handler in (
            (signal.SIGTERM, self.stop),
            (signal.SIGINT, self.stop),
            (signal.SIGHUP, self._reload_by_signal),
        ):
            loop.add_signal_handler(number, handler)
            self._undo.append(partial(_ignore_signal, loop, number))

    def _lock_socket(self, path: Path) -> None:
        """One daemon for each socket: a lock that the kernel lets go of however the daemon ends."""
        lock = path.with_name(path.name + ".lock")
        try:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise StartupError(
                f"cannot write {lock}: {error.strerror}; start as root, or choose a --socket in a folder of yours"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StartupError(
                f"another ipsecstackd (process {pid or 'unknown'}) serves {path}; stop it or choose another --socket"
            ) from None
        self._undo.append(lambda: os.close(descriptor))
        self._undo.append(lambda: lock.unlink(missing_ok=True))
        self._write_pid(descriptor, lock)
        if self._settings.pid_file is not None:
            self._write_pid_file(self._settings.pid_file)

    def _write_pid_file(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StartupError(
                f"cannot write the pid file {path}: {error.strerror}; choose another pid_file"
            ) from None
        try:
            self._write_pid(descriptor, path)
        finally:
            os.close(descriptor)
        self._undo.append(lambda: path.unlink(missing_ok=True))

    @staticmethod
    def _write_pid(descriptor: int, path: Path) -> None:
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:
            raise StartupError(f"cannot write {path}: {error.strerror}; free some space there") from None

    def _start_export(self, folder: Path) -> None:
        try:
            self._exporter = KeyExport(folder)
        except OSError as error:
            raise StartupError(
                f"cannot export keys to {folder}: {error.strerror}; give --export-keys a folder that can be written"
            ) from None
        self._undo.append(self._exporter.close)

    def _open_dataplane(self) -> DataPlane:
        settings = self._settings
        if settings.dataplane == "memory":
            log.warning(
                "the memory data plane carries no packets of this host: for tests and demonstrations only"
            )
            source = EchoHosts(interval=1.0, start=asyncio.get_running_loop().time())
            return MemoryDataPlane(random=os.urandom, source=source)
        # Imported here: pyroute2 takes a quarter of a second that the memory data plane need not spend.
        if settings.dataplane == "xfrm":
            from ipsecstack.dataplane.xfrm.plane import XfrmDataPlane

            loop = asyncio.get_running_loop()
            return XfrmDataPlane(settings.options.port, settings.install_routes, loop.time)
        from ipsecstack.dataplane.tun import TunDataPlane

        return TunDataPlane(
            name=settings.device,
            random=os.urandom,
            mtu=settings.mtu,
            kernel_policies=settings.kernel_policies,
        )

    # --- while running ---------------------------------------------------------------------------------------------

    def _watch(self, output: Output, _stack: Stack) -> None:
        if isinstance(output, LogRecorded):
            self._log.write(output)
        elif isinstance(output, KeysDerived) and self._exporter is not None:
            self._exporter.write(output)

    def _last_inbound(self, sa: SaId) -> float | None:
        counters = self.dataplane.query(sa)
        return counters.last_used if counters else None

    def _addresses_changed(self) -> None:
        self._tell_addresses()  # first: traffic waits for it
        try:
            self.dataplane.addresses_changed()
        except DataPlaneError as error:
            log.warning("after a change of local addresses: %s", error)

    def _tell_addresses(self) -> None:
        """What the key exchange has to know of this host's addresses and routes (MOBIKE)."""
        found = local_addresses()
        if found is not None:
            self.endpoint.addresses_changed(found, asyncio.get_running_loop().time())
            self.driver.advance()

    def reload(self) -> str:
        """Read the configuration again and apply the difference; what was done. Raises ConfigError, and then
        everything is as it was."""
        state = load_file(self._settings.config)
        report = self.applier.apply(state, asyncio.get_running_loop().time())
        for warning in report.warnings:
            log.warning("%s", warning)
        log.info("%s: %s", self._settings.config, report)
        if state.options != self._settings.file_options:
            log.warning("the ipsecstackd section has changed: restart to apply it")
        return str(report)

    def _qcd_secret(self) -> bytes:
        path = self._settings.qcd_secret_file
        if path is None:
            return b""
        try:
            return secret_file.read_or_make(path)
        except secret_file.SecretFileError as error:
            raise StartupError(f"qcd_secret_file {error}") from None

    def _reload_by_signal(self) -> None:
        systemd.notify("RELOADING=1")
        try:
            self.reload()
            self.driver.advance()
        except ConfigError as error:
            log.error("not reloaded, everything is as it was: %s", error)
        systemd.notify("READY=1")

    # --- end -------------------------------------------------------------------------------------------------------

    async def _shut_down(self) -> None:
        """Tell the peers, wait for them within bounds, then close the door."""
        systemd.notify("STOPPING=1")
        loop = asyncio.get_running_loop()
        log.info("stopping: %d IKE SAs to delete", len(self.endpoint.ike_sas()))
        deadline = loop.time() + SHUTDOWN_SECONDS
        self.endpoint.shutdown(loop.time())
        self.driver.advance()
        while self.endpoint.ike_sas() and loop.time() < deadline and not self._hurry.is_set():
            await asyncio.sleep(_SHUTDOWN_STEP)
        left = len(self.endpoint.ike_sas())
        if left:
            log.warning("%d IKE SAs ended without an answer of their peers", left)
        log.info("stopped")


def _ignore_signal(loop: asyncio.AbstractEventLoop, number: int) -> None:
    loop.remove_signal_handler(number)

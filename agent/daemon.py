"""The composition root of ipsec-snmpd: configuration, model, sources and engine joined, started, reloaded, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from agent import memory
from agent.config import Config, load_config
from agent.engine.agent import SnmpAgent
from agent.engine.state import write_text
from agent.gateway.indexes import IndexRegistry
from agent.gateway.model import Gateway, GatewaySettings
from agent.gateway.steps import in_slices
from agent.smi.bindings import ModuleBinding
from agent.sources.settings import SettingsError, ViciSettings, parse_gateway, parse_source
from agent.sources.vici import ViciSource
from agent.tables import cisco_ipsec_flow_monitor, ipsec_gateway, ipsec_sa_mon

INDEXES = "indexes.json"
TICK = 1.0
SAVE_INTERVAL = 5.0

log = logging.getLogger(__name__)


def bindings() -> list[ModuleBinding]:
    """Every MIB module that shows the gateway."""
    return [cisco_ipsec_flow_monitor.binding(), ipsec_sa_mon.binding(), ipsec_gateway.binding()]


def settings_of(config: Config) -> tuple[GatewaySettings, dict[str, ViciSettings]]:
    """The checked sections [gateway] and [sources.*]. Raises ConfigError."""
    try:
        sources = {name: parse_source(name, table) for name, table in config.sources.items()}
        return parse_gateway(config.gateway), sources
    except SettingsError as error:
        raise config.fault(str(error)) from None


class AgentDaemon:
    """ipsec-snmpd. `start`, then `run_until(stop)`; `reload` at any time in between."""

    def __init__(self, config: Config) -> None:
        """Bind everything; nothing is opened yet. Raises ConfigError, BindingError, MibError."""
        self.config = config
        settings, self._sources = settings_of(config)
        self.gateway = Gateway(time.monotonic, time.time, settings, IndexRegistry())
        self.agent = SnmpAgent(config, bindings(), self.gateway)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._memory = memory.Policy()
        self._changing = asyncio.Lock()  # start, stop and reload one at a time
        self._running = False
        self._saved_at = 0.0
        self._save_failed = False

    async def start(self) -> None:
        """Listen and begin to follow the sources. Raises what SnmpAgent.start raises."""
        async with self._changing:
            self._load_indexes()
            for name in self._sources:
                self._add_source(name)
            self._memory.start()
            await self.agent.start()
            for name in self._sources:
                self._follow(name)
            self._running = True

    async def stop(self) -> None:
        """Stop following, stop listening, keep the row indexes."""
        async with self._changing:
            self._running = False
            tasks = list(self._tasks.values())
            self._tasks.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.agent.stop()
            await self._save_indexes()
            self._memory.stop()

    async def run_until(self, stop: asyncio.Event) -> None:
        """The daemon's second hand, until `stop` is set."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await stop.wait()
            try:
                self.gateway.tick()
                self._memory.tick()
            except Exception:
                # whatever it is, managers are still to be answered
                log.exception("a fault of the agent itself")
            if time.monotonic() - self._saved_at >= SAVE_INTERVAL:
                self._saved_at = time.monotonic()
                await self._save_indexes()

    async def reload(self) -> None:
        """Read the configuration again. Raises what load_config and SnmpAgent.reload raise, and keeps the old one."""
        async with self._changing:
            if not self._running:
                return
            config = load_config(self.config.path)
            settings, sources = settings_of(config)
            await self.agent.reload(config)
            self.config = config
            self._apply_settings(settings)
            await self._apply_sources(sources)
            log.info("configuration reloaded")

    # --- sources ------------------------------------------------------------------------------------------------------

    def _add_source(self, name: str) -> None:
        """Its place in the model, and the SNMP context that shows it alone."""
        self.gateway.add_source(name, "vici", self._sources[name].socket)
        self.agent.add_context(name, self.gateway.view_of(name))

    async def _remove_source(self, name: str) -> None:
        self.agent.remove_context(name)
        await in_slices(self.gateway.removal(name))

    def _follow(self, name: str) -> None:
        source = ViciSource(self._sources[name], self.gateway.feeds[name])
        self._tasks[name] = asyncio.create_task(source.run(), name=f"source {name}")

    async def _unfollow(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _apply_sources(self, sources: Mapping[str, ViciSettings]) -> None:
        before, self._sources = self._sources, dict(sources)
        for name, settings in before.items():
            if sources.get(name) == settings:
                continue
            await self._unfollow(name)
            if name not in sources or sources[name].socket != settings.socket:
                await self._remove_source(name)
        for name in sources:
            if name not in self.gateway.feeds:
                self._add_source(name)
            if name not in self._tasks:
                self._follow(name)

    def _apply_settings(self, settings: GatewaySettings) -> None:
        gateway = self.gateway
        gateway.settings = settings
        if gateway.history.size != settings.history_size:
            gateway.history.resize(settings.history_size)
            gateway.changed("history")
        if gateway.failures.size != settings.failures_size:
            gateway.failures.resize(settings.failures_size)
            gateway.changed("failure")

    # --- row indexes --------------------------------------------------------------------------------------------------

    @property
    def _indexes_path(self) -> Path:
        return self.config.state_dir / INDEXES

    def _load_indexes(self) -> None:
        try:
            self.gateway.indexes.load(self._indexes_path.read_text("utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("%s: %s; rows are numbered anew", self._indexes_path, error)

    async def _save_indexes(self) -> None:
        indexes = self.gateway.indexes
        if not indexes.changed:
            return
        try:
            parts = await in_slices(indexes.dumping())
            await asyncio.to_thread(lambda: write_text(self._indexes_path, "".join(parts)))
            self._save_failed = False
        except OSError as error:
            indexes.not_saved()
            if not self._save_failed:
                log.error("%s: %s; row indexes are lost at a restart", self._indexes_path, error.strerror)
            self._save_failed = True

"""The SNMP agent: configuration, bindings and a model become an engine that answers.

agent = SnmpAgent(load_config(path), [binding(), ...], gateway)
await agent.start()
...
await agent.reload(load_config(path))
await agent.stop()
"""

from __future__ import annotations

import asyncio
import logging
import platform
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from agent.config import WRITABLE_SYSTEM, Config, ConfigError, Network, User
from agent.engine import state
from agent.engine.access import AccessControl
from agent.engine.communities import Communities
from agent.engine.counters import EngineCounters
from agent.engine.dispatcher import Dispatcher
from agent.engine.epoch import Epoch
from agent.engine.fastpath import FastPath
from agent.engine.lcd import Lcd
from agent.engine.lcd_access import AccessTables
from agent.engine.lcd_users import UserTable
from agent.engine.notifications import NotificationOriginator
from agent.engine.notifications_bindings import bindings as notification_bindings
from agent.engine.notifications_queue import TrapLimit
from agent.engine.responder import CommandResponder
from agent.engine.targets_tables import TargetTables
from agent.engine.transport import Peer, UdpTransport
from agent.engine.usm import Usm
from agent.engine.usm_crypto import LocalUser, localize
from agent.smi.ber import Oid
from agent.smi.bindings import ModuleBinding
from agent.smi.controller import Controller
from agent.smi.model import Change
from agent.smi.rowstatus import TestAndIncr
from agent.tables import snmp_mpd, snmp_usm, snmp_vacm, snmpv2_mib
from agent.tables.snmpv2_mib import Resource
from mibs.loader import MibSet, load

log = logging.getLogger(__name__)

PRODUCT = "igProductAgent"
"""The node of the project's own MIB that is sysObjectID unless another is configured."""
RESTART_ONLY = ("state_dir", "engine_id", "max_message_size")


class SnmpAgent:
    """The engine and everything that it serves. Also the AgentInfo of the system and snmp groups."""

    def __init__(
        self, config: Config, bindings: Sequence[ModuleBinding], model: Any, mibs: MibSet | None = None
    ) -> None:
        """Bind everything. Raises BindingError and MibError; nothing is opened yet."""
        self.config = config
        self.model = model
        self.counters = EngineCounters()
        self.epoch = Epoch()
        self.lcd = Lcd(config.state_dir, self.epoch)
        self.access = AccessControl({}, (), {})
        self.access_tables = AccessTables(self.lcd, self.access)
        self.access_tables.configure(config)
        self.usm: Usm | None = None
        self.users = UserTable(self.lcd, self._users_changed)
        self._localized: dict[User, LocalUser] = {}
        self.contexts_stamp = 0
        self._system = {name: self.lcd.scalar(f"system.{name}", b"") for name in WRITABLE_SYSTEM}
        self._started = time.monotonic()
        self.set_serial = TestAndIncr(secrets.randbelow(2**31))
        self.engine_id = b""
        self.engine_boots = 0
        self.max_message_size = config.max_message_size
        self.resources: Sequence[Resource] = ()
        self.resources_changed = 0
        self._mibs = mibs or load()
        self._configure_system(config)
        self.communities = Communities(self.epoch)
        self.targets = TargetTables(self.lcd, self.communities)
        self.targets.configure(config.communities, config.notifications)
        self.enable_authen_traps = self.lcd.scalar("snmpEnableAuthenTraps", snmpv2_mib.DISABLED)
        self.notifications = NotificationOriginator(
            self.targets, lambda: self._responder.access, lambda: self.up_time
        )
        self._auth_traps = TrapLimit()
        own = [snmpv2_mib.binding(self)]
        if "SNMP-FRAMEWORK-MIB" in self._mibs.modules:
            own.append(snmpv2_mib.framework_binding(self))
        own += [
            module
            for module in (
                *notification_bindings(
                    self.targets,
                    TestAndIncr(secrets.randbelow(2**31)),
                    lambda: self.counters.unknown_contexts,
                ),
                *self._security_bindings(),
            )
            if module.name in self._mibs.modules
        ]
        self.controller = Controller([*own, *bindings], self._mibs, model)
        self.resources = self._resources()
        self._dispatcher: Dispatcher | None = None
        self._transport: UdpTransport | None = None
        self.fast: FastPath | None = None
        self._responder = CommandResponder(self.controller, self.access, self.counters)
        self._lock: state.StateLock | None = None

    # -- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Count the start on disk, set up users, then listen. Raises EngineStateError, UsmError, TransportError."""
        config = self.config
        self._lock = state.StateLock(config.state_dir)
        try:
            self._start(config)
        except BaseException:
            self._lock.release()
            raise

    def _start(self, config: Config) -> None:
        kept = state.start(config.state_dir, config.engine_id)
        self.lcd.load()
        self.engine_id, self.engine_boots = kept.engine_id, kept.boots
        usm = Usm(kept, config.max_message_size, self.counters)
        self.usm = usm
        self._localized = {user: localize(user, kept.engine_id) for user in config.users}
        self.users.activate_clones = config.activate_clones
        self.users.configure(kept.engine_id, self._localized)
        self._users_changed()
        communities = self.communities
        self.targets.attach(kept.engine_id)
        dispatcher = Dispatcher(self.counters, communities)
        dispatcher.on_auth_failure = self._authentication_failed
        transport = UdpTransport(dispatcher.receive)
        dispatcher.attach(usm, self._responder, transport)
        dispatcher.communities.set_config(config.communities)
        dispatcher.limits.expect(_networks(config))
        self.fast = FastPath(
            self._responder,
            usm,
            self.counters,
            self.epoch,
            communities,
            dispatcher.limits.authenticated,
        )
        transport.fast = self.fast.answer
        self._responder.set_timeout = config.set_timeout
        transport.listen(config.listen)
        self._dispatcher, self._transport = dispatcher, transport
        self.controller.attend()
        self.notifications.start(usm, config.users)
        self.notify("coldStart", ())
        log.info(
            "SNMP engine %s, boot %d, listening on %s",
            kept.engine_id.hex(),
            kept.boots,
            ", ".join(f"[{h}]:{port}" if ":" in h else f"{h}:{port}" for h, port in transport.addresses()),
        )

    async def stop(self) -> None:
        """Stop to listen, end SETs that still run, close. May be called more than once."""
        transport, dispatcher = self._transport, self._dispatcher
        self._transport = self._dispatcher = None
        self.controller.leave()
        self.notifications.stop()
        if transport is not None:
            # first, so that nothing new begins
            transport.close()
        if dispatcher is not None:
            await dispatcher.drain()
        if self._lock is not None:
            self._lock.release()

    async def reload(self, config: Config) -> None:
        """Take over users, communities, access, system values and listen addresses without losing a request.

        Raises ConfigError for a change that needs a restart, TransportError and UsmError; whatever of these
        is raised, listen addresses and access are as before.
        """
        for name in RESTART_ONLY:
            if getattr(config, name) != getattr(self.config, name):
                raise ConfigError(f"{config.path}: agent.{name} changed; restart the agent to change it")
        transport, dispatcher, usm = self._transport, self._dispatcher, self.usm
        if transport is None or dispatcher is None or usm is None:
            raise RuntimeError("the agent is not running")
        localized = await asyncio.to_thread(self._localize, config, usm.engine_id)
        if self._transport is not transport:
            return
        transport.listen(config.listen)
        # from here on nothing fails and nothing waits: a request sees all of the old or all of the new
        self._localized = localized
        self.users.activate_clones = config.activate_clones
        self.users.configure(usm.engine_id, localized)
        self.access_tables.configure(config)
        dispatcher.communities.set_config(config.communities)
        dispatcher.limits.expect(_networks(config))
        self.targets.configure(config.communities, config.notifications)
        self.notifications.set_users(config.users)
        self._responder.set_timeout = config.set_timeout
        self.config = config
        self._configure_system(config)

    # -- users, access, contexts ----------------------------------------------------------------------------

    def add_context(self, name: str, model: Any) -> None:
        """Serve the same modules over another model, as the context `name`. Raises ValueError when it exists."""
        self.controller.add_context(name, model)
        self._contexts_changed()

    def remove_context(self, name: str) -> None:
        """Serve a context no longer. Raises KeyError when there is none."""
        self.controller.remove_context(name)
        self._contexts_changed()

    def _contexts_changed(self) -> None:
        self.access.set_contexts(self.controller.contexts)
        self.contexts_stamp += 1
        self.epoch.bump()

    def _users_changed(self) -> None:
        if self.usm is not None:
            self.usm.set_users(self.users.users())

    def _localize(self, config: Config, engine_id: bytes) -> dict[User, LocalUser]:
        """Keys of the configured users. Only those of new ones are made: it takes milliseconds each."""
        return {user: self._localized.get(user) or localize(user, engine_id) for user in config.users}

    def _security_bindings(self) -> list[ModuleBinding]:
        def count(name: str) -> int:
            value: int = getattr(self.counters, name)
            return value

        def lock() -> TestAndIncr:
            return TestAndIncr(secrets.randbelow(2**31))

        return [
            snmp_mpd.binding(count),
            snmp_usm.binding(self.users.table, self.users.writer, lock(), count),
            snmp_vacm.binding(
                self.access_tables, lock(), lambda: self.controller.contexts, lambda: self.contexts_stamp
            ),
        ]

    # -- notifications --------------------------------------------------------------------------------------

    def notify(self, name: str | Oid, varbinds: Sequence[tuple[Oid, bytes]], context: str = "") -> int:
        """Tell the targets that may and want to know of an event (RFC 3413 section 3.3); how many will get it.

        `name`: a NOTIFICATION-TYPE by name or OID. `varbinds`: instances with finished value TLVs. Never waits.
        Raises UnknownObject for a name that no module has, BerError for what cannot be sent.
        """
        oid = self._mibs[name].oid if isinstance(name, str) else name
        return self.notifications.notify(oid, varbinds, context)

    def _authentication_failed(self, peer: Peer) -> None:
        """Somebody used a wrong community or key: tell, when it is wanted and not too often."""
        if self.enable_authen_traps.value == snmpv2_mib.ENABLED and self._auth_traps.take(time.monotonic()):
            self.notify("authenticationFailure", ())

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """What the agent listens on, with real ports; empty when it does not run."""
        return self._transport.addresses() if self._transport is not None else []

    # -- AgentInfo ------------------------------------------------------------------------------------------

    @property
    def up_time(self) -> int:
        """sysUpTime: hundredths of a second since this object was made."""
        return int((time.monotonic() - self._started) * 100)

    @property
    def engine_time(self) -> int:
        return self.usm.engine_time if self.usm is not None else 0

    def system_value(self, name: str) -> str:
        system = self.config.system
        configured: str | None = getattr(system, name)
        default = socket.gethostname() if configured is None else configured
        if name in system.writable:
            kept: bytes = self._system[name].get(default.encode())
            return kept.decode()
        return default

    def change_system_value(self, name: str, value: str) -> Change:
        return self._system[name].test(None, value.encode())

    def is_writable(self, name: str) -> bool:
        return name in self.config.system.writable

    def count(self, name: str) -> int:
        value: int = getattr(self.counters, _COUNTER_FIELDS[name])
        return value

    def _configure_system(self, config: Config) -> None:
        system = config.system
        self.description = (
            system.description
            if system.description is not None
            else f"ipsec-snmp agent on {platform.system()} {platform.release()} {platform.machine()}"
        )
        product = self._mibs[PRODUCT].oid if PRODUCT in self._mibs else (0, 0)
        self.object_id = system.object_id or product
        self.services = system.services

    def _resources(self) -> list[Resource]:
        rows: list[Resource] = []
        for bound in self.controller.modules:
            module = self._mibs.modules[bound.name]
            identity = f"{module.name}::{module.identity}"
            if module.identity and identity in self._mibs:
                oid = self._mibs[identity].oid
                rows.append(Resource(len(rows) + 1, oid, f"The MIB module {module.name}", 0))
        return rows


def _networks(config: Config) -> list[Network]:
    """Where managers are, as far as the configuration says."""
    of_users = [network for user in config.users for network in user.networks]
    return of_users + [network for community in config.communities for network in community.networks]


_COUNTER_FIELDS = {
    name: field.name
    for name in snmpv2_mib.COUNTERS
    for field in fields(EngineCounters)
    if field.name.replace("_", "").lower() == name.lower()
}

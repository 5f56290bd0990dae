"""The agent's configuration, conf/ipsec-snmpd.toml, as frozen dataclasses.

Every fault is a ConfigError that names the file, the line, the key and the cure. Unknown keys are faults.
`[sources.*]` and `[gateway]` are handed on unread: the code that uses them checks them, and `Config.fault` says
where in the file what it found stands. The sections are read by config_system, config_users, config_access and
config_notifications.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config_access import ROLE_VIEWS, AccessReader, role_access
from agent.config_notifications import Notifications as Notifications
from agent.config_notifications import Reading
from agent.config_reader import ConfigError as ConfigError
from agent.config_reader import TomlReader
from agent.config_system import SystemReader
from agent.config_types import AUTH_PROTOCOLS as AUTH_PROTOCOLS
from agent.config_types import LEVELS as LEVELS
from agent.config_types import MODELS as MODELS
from agent.config_types import PRIV_PROTOCOLS as PRIV_PROTOCOLS
from agent.config_types import WRITABLE_SYSTEM as WRITABLE_SYSTEM
from agent.config_types import AccessEntry as AccessEntry
from agent.config_types import Community as Community
from agent.config_types import Listen as Listen
from agent.config_types import Network as Network
from agent.config_types import Oid as Oid
from agent.config_types import Secret as Secret
from agent.config_types import Subtree as Subtree
from agent.config_types import System as System
from agent.config_types import User as User


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    path: Path
    state_dir: Path = Path("/var/lib/ipsec-snmpd")
    listen: tuple[Listen, ...] = (Listen("127.0.0.1", 161), Listen("::1", 161))
    engine_id: bytes | None = None
    max_message_size: int = 65507
    set_timeout: float = 5.0
    activate_clones: bool = False
    """Whether a user cloned over SNMP may be active before its keys were changed."""
    system: System = field(default_factory=System)
    communities: tuple[Community, ...] = ()
    users: tuple[User, ...] = ()
    members: Mapping[tuple[int, str], str] = field(default_factory=dict)
    """vacmSecurityToGroupTable: (securityModel, securityName) -> group."""
    access: tuple[AccessEntry, ...] = ()
    views: Mapping[str, tuple[Subtree, ...]] = field(default_factory=dict)
    notifications: Notifications = field(default_factory=Notifications)
    sources: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    gateway: Mapping[str, Any] = field(default_factory=dict)
    reader: TomlReader | None = field(default=None, repr=False, compare=False)

    def fault(self, text: str) -> ConfigError:
        """A ConfigError for 'section.key: problem; cure', found by the code that uses the section."""
        name, _, rest = text.partition(": ")
        if self.reader is None:
            return ConfigError(f"{self.path}: {text}")
        return self.reader.found(name, rest)


def load_config(path: str | Path) -> Config:
    """Read and check a configuration file. Raises ConfigError."""
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the file's name with --config") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at octet {error.start}; save it as UTF-8") from None
    return parse_config(text, path)


def parse_config(text: str, path: Path) -> Config:
    """Check a configuration's text; `path` is for messages and for relative file names. Raises ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        # without a position it is 'at end of document'
        line = f":{where[1]}" if where else f":{max(1, len(text.splitlines()))}"
        raise ConfigError(f"{path}{line}: not TOML: {error}") from None
    return _Reader(text, path).config(data)


class _Reader(SystemReader, AccessReader):
    # -- the whole ----------------------------------------------------------------------------------------

    def config(self, data: dict[str, Any]) -> Config:
        keys = (
            "agent",
            "system",
            "community",
            "user",
            "access",
            "view",
            "target",
            "filter",
            "sources",
            "gateway",
        )
        self.known(data, (), keys)
        agent = self.take(data, (), "agent", dict, {})
        known = ("state_dir", "listen", "engine_id", "max_message_size", "set_timeout", "activate_clones")
        self.known(agent, ("agent",), known)
        defaults = Config(self.path)
        listen = tuple(self.listen(item) for item in self.strings(agent, ("agent",), "listen", ()))
        size = self.number(agent, ("agent",), "max_message_size", defaults.max_message_size, 484, 65507)
        timeout = self.take(agent, ("agent",), "set_timeout", (int, float), defaults.set_timeout)
        if not 0.1 <= timeout <= 60:
            raise self.fault(("agent", "set_timeout"), f"{timeout} s", "choose 0.1 to 60 seconds")
        members: dict[tuple[int, str], str] = {}
        sources = self.take(data, (), "sources", dict, {})
        for name, source in sources.items():
            if not isinstance(source, dict):
                raise self.fault(("sources", name), "not a table", f"write [sources.{name}]")
        views = self.views(data)
        users = tuple(self.user(item, n, members) for n, item in enumerate(self.tables(data, "user")))
        communities = tuple(
            self.community(item, n, members, sources) for n, item in enumerate(self.tables(data, "community"))
        )
        access = tuple(self.access(item, n, views) for n, item in enumerate(self.tables(data, "access")))
        self.cross_check(data, users, members, access)
        reading = Reading(
            self,
            self.secret,
            self.subtree,
            {user.name: user for user in users},
            access,
        )
        notifications = reading.notifications(data, members)
        roles = role_access(members.values())
        return Config(
            path=self.path,
            state_dir=self.path.parent
            / self.take(agent, ("agent",), "state_dir", str, str(defaults.state_dir)),
            listen=listen or defaults.listen,
            engine_id=self.engine_id(agent),
            max_message_size=size,
            set_timeout=float(timeout),
            activate_clones=self.take(agent, ("agent",), "activate_clones", bool, False),
            system=self.system(self.take(data, (), "system", dict, {})),
            communities=communities,
            users=users,
            members=members,
            access=(*access, *roles),
            views={**views, **(ROLE_VIEWS if roles else {})},
            notifications=notifications,
            sources=sources,
            gateway=self.take(data, (), "gateway", dict, {}),
            reader=self,
        )

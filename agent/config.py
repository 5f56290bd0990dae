"""The agent's configuration, conf/ipsec-snmpd.toml, as frozen dataclasses.

Every fault is a ConfigError that names the file, the line, the key and the cure. Unknown keys are faults.
`[sources.*]` and `[gateway]` are handed on unread: the code that uses them checks them.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config_reader import MISSING, TomlReader, Where
from agent.config_reader import ConfigError as ConfigError

Oid = tuple[int, ...]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MODELS = {"any": 0, "v1": 1, "v2c": 2, "usm": 3}
"""snmpSecurityModel numbers (RFC 3411)."""
LEVELS = {"noAuthNoPriv": 1, "authNoPriv": 2, "authPriv": 3}
"""SnmpSecurityLevel numbers (RFC 3411)."""
AUTH_PROTOCOLS = ("SHA-224", "SHA-256", "SHA-384", "SHA-512")
PRIV_PROTOCOLS = ("AES-128", "AES-192", "AES-256")
WRITABLE_SYSTEM = ("contact", "name", "location")


class Secret:
    """A secret that shows itself in no repr, str or log; compared in constant time."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def reveal(self) -> bytes:
        """The octets themselves."""
        return self._octets

    def matches(self, octets: bytes) -> bool:
        """Whether `octets` are this secret."""
        return hmac.compare_digest(self._octets, octets)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.matches(other._octets)

    def __hash__(self) -> int:
        return hash(Secret)

    def __repr__(self) -> str:
        return "Secret(...)"


@dataclass(frozen=True, slots=True)
class Listen:
    """One UDP address to answer on."""

    host: str
    port: int

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host


@dataclass(frozen=True, slots=True)
class Community:
    """A community string and what it stands for. `versions`: 'v1', 'v2c'. Empty `networks`: from anywhere."""

    name: Secret
    security_name: str
    versions: frozenset[str]
    networks: tuple[Network, ...]
    context: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """A USM user. Keys are passphrases unless `localized` (then keys for this engine, RFC 3414 section 2.6).

    `networks`: where the user may be used from; empty: from anywhere, but then an answer that nothing
    authenticates is never larger than its request.
    """

    name: str
    auth: str = ""
    auth_key: Secret | None = None
    priv: str = ""
    priv_key: Secret | None = None
    localized: bool = False
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """A row of vacmAccessTable (RFC 3415). Empty view names give no access."""

    group: str
    model: int
    level: int
    context: str = ""
    context_prefix: bool = False
    read: str = ""
    write: str = ""
    notify: str = ""


@dataclass(frozen=True, slots=True)
class Subtree:
    """A row of vacmViewTreeFamilyTable (RFC 3415)."""

    oid: Oid
    included: bool = True
    mask: bytes = b""


@dataclass(frozen=True, slots=True)
class System:
    """The system group of SNMPv2-MIB. `writable` names those of contact, name, location that SET may change."""

    description: str | None = None
    object_id: Oid | None = None
    contact: str = ""
    name: str | None = None
    location: str = ""
    services: int = 76
    writable: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    path: Path
    state_dir: Path = Path("/var/lib/ipsec-snmpd")
    listen: tuple[Listen, ...] = (Listen("127.0.0.1", 161), Listen("::1", 161))
    engine_id: bytes | None = None
    max_message_size: int = 65507
    set_timeout: float = 5.0
    system: System = System()
    communities: tuple[Community, ...] = ()
    users: tuple[User, ...] = ()
    members: Mapping[tuple[int, str], str] = field(default_factory=dict)
    """vacmSecurityToGroupTable: (securityModel, securityName) -> group."""
    access: tuple[AccessEntry, ...] = ()
    views: Mapping[str, tuple[Subtree, ...]] = field(default_factory=dict)
    sources: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    gateway: Mapping[str, Any] = field(default_factory=dict)


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


class _Reader(TomlReader):
    # -- the whole ----------------------------------------------------------------------------------------

    def config(self, data: dict[str, Any]) -> Config:
        keys = ("agent", "system", "community", "user", "access", "view", "sources", "gateway")
        self.known(data, (), keys)
        agent = self.take(data, (), "agent", dict, {})
        known = ("state_dir", "listen", "engine_id", "max_message_size", "set_timeout")
        self.known(agent, ("agent",), known)
        defaults = Config(self.path)
        listen = tuple(self.listen(item) for item in self.strings(agent, ("agent",), "listen", ()))
        size = self.number(agent, ("agent",), "max_message_size", defaults.max_message_size, 484, 65507)
        timeout = self.take(agent, ("agent",), "set_timeout", (int, float), defaults.set_timeout)
        if not 0.1 <= timeout <= 60:
            raise self.fault(("agent", "set_timeout"), f"{timeout} s", "choose 0.1 to 60 seconds")
        members: dict[tuple[int, str], str] = {}
        views = self.views(data)
        users = tuple(self.user(item, n, members) for n, item in enumerate(self.tables(data, "user")))
        communities = tuple(
            self.community(item, n, members) for n, item in enumerate(self.tables(data, "community"))
        )
        access = tuple(self.access(item, n, views) for n, item in enumerate(self.tables(data, "access")))
        self.cross_check(data, users, members, access)
        sources = self.take(data, (), "sources", dict, {})
        for name, source in sources.items():
            if not isinstance(source, dict):
                raise self.fault(("sources", name), "not a table", f"write [sources.{name}]")
        return Config(
            path=self.path,
            state_dir=self.path.parent
            / self.take(agent, ("agent",), "state_dir", str, str(defaults.state_dir)),
            listen=listen or defaults.listen,
            engine_id=self.engine_id(agent),
            max_message_size=size,
            set_timeout=float(timeout),
            system=self.system(self.take(data, (), "system", dict, {})),
            communities=communities,
            users=users,
            members=members,
            access=access,
            views=views,
            sources=sources,
            gateway=self.take(data, (), "gateway", dict, {}),
        )

    def number(
        self, table: Mapping[str, Any], where: Where, key: str, default: int, low: int, high: int
    ) -> int:
        value: int = self.take(table, where, key, int, default)
        if not low <= value <= high:
            raise self.fault((*where, key), f"{value} is out of range", f"choose {low} to {high}")
        return value

    def listen(self, text: str) -> Listen:
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([0-9.]+)):(\d{1,5})", text)
        try:
            if not found:
                raise ValueError
            host = found[1] or found[2]
            ipaddress.ip_address(host)
            port = int(found[3])
            if port > 65535 or (":" in host) != bool(found[1]):
                raise ValueError
        except ValueError:
            raise self.fault(
                ("agent", "listen"), f"{text!r} is no address", 'write "192.0.2.1:161" or "[2001:db8::1]:161"'
            ) from None
        return Listen(host, port)

    def engine_id(self, agent: Mapping[str, Any]) -> bytes | None:
        text = self.take(agent, ("agent",), "engine_id", str, None)
        if text is None:
            return None
        try:
            octets = bytes.fromhex(text.removeprefix("0x"))
        except ValueError:
            octets = b""
        if not 5 <= len(octets) <= 32 or not any(octets) or all(octet == 0xFF for octet in octets):
            raise self.fault(
                ("agent", "engine_id"),
                "no SnmpEngineID (RFC 3411)",
                "write 5 to 32 octets in hex, or leave the key out and one is made and kept",
            )
        return octets

    def system(self, table: Mapping[str, Any]) -> System:
        where: Where = ("system",)
        names = ("description", "object_id", "contact", "name", "location", "services", "writable")
        self.known(table, where, names)
        for key in ("description", "contact", "name", "location"):
            text = self.take(table, where, key, str, "")
            if len(text) > 255 or not text.isascii():
                raise self.fault(
                    (*where, key), "not a DisplayString", "use at most 255 characters of plain ASCII"
                )
        writable = self.strings(table, where, "writable")
        for item in writable:
            if item not in WRITABLE_SYSTEM:
                raise self.fault(
                    (*where, "writable"), f"{item!r} is not known", f"use {', '.join(WRITABLE_SYSTEM)}"
                )
        object_id = self.take(table, where, "object_id", str, None)
        return System(
            description=self.take(table, where, "description", str, None),
            object_id=None if object_id is None else self.oid(object_id, (*where, "object_id")),
            contact=self.take(table, where, "contact", str, ""),
            name=self.take(table, where, "name", str, None),
            location=self.take(table, where, "location", str, ""),
            services=self.number(table, where, "services", 76, 0, 127),
            writable=frozenset(writable),
        )

    def oid(self, text: str, where: Where) -> Oid:
        parts = text.strip().lstrip(".").split(".")
        if not all(part.isdigit() and int(part) < 2**32 for part in parts) or len(parts) > 128:
            raise self.fault(where, f"{text!r} is no OID", 'write numbers with dots, "1.3.6.1"')
        return tuple(map(int, parts))

    # -- secrets ------------------------------------------------------------------------------------------

    def secret(self, table: Mapping[str, Any], where: Where, key: str, file_key: str) -> Secret | None:
        inline = self.take(table, where, key, str, None)
        name = self.take(table, where, file_key, str, None)
        if inline is not None and name is not None:
            raise self.fault((*where, file_key), f"{key} is given too", f"keep {key} or {file_key}")
        if inline is not None:
            self.private(self.path, (*where, key), 0o007)
            return Secret(inline.encode())
        if name is None:
            return None
        path = self.path.parent / name
        self.private(path, (*where, file_key), 0o077)
        try:
            octets = path.read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise self.fault(
                (*where, file_key), f"{path}: {error.strerror}", "name a readable file"
            ) from None
        if not octets:
            raise self.fault((*where, file_key), f"{path} is empty", "write the secret into it")
        return Secret(octets)

    def private(self, path: Path, where: Where, forbidden: int) -> None:
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
        except FileNotFoundError:
            if path == self.path:
                return
            raise self.fault(where, f"{path} does not exist", "create it with mode 0600") from None
        except OSError as error:
            raise self.fault(where, f"{path}: {error.strerror}", "make it readable to the agent") from None
        if mode & forbidden:
            raise self.fault(where, f"{path} holds a secret but has mode {mode:04o}", f"chmod 600 {path}")

    # -- who ----------------------------------------------------------------------------------------------

    def user(self, table: dict[str, Any], n: int, members: dict[tuple[int, str], str]) -> User:
        where: Where = ("user", n)
        secrets = ("auth_password", "auth_password_file", "priv_password", "priv_password_file")
        keys = ("auth_key", "auth_key_file", "priv_key", "priv_key_file")
        self.known(table, where, ("name", "group", "auth", "priv", "networks", *secrets, *keys))
        name = self.take(table, where, "name", str, MISSING)
        if not 1 <= len(name.encode()) <= 32:
            raise self.fault((*where, "name"), "not 1 to 32 octets", "choose another name")
        if (MODELS["usm"], name) in members:
            raise self.fault((*where, "name"), f"user {name!r} is there twice", "remove one")
        auth = self.choice(table, where, "auth", AUTH_PROTOCOLS, "")
        priv = self.choice(table, where, "priv", PRIV_PROTOCOLS, "")
        if priv and not auth:
            raise self.fault((*where, "priv"), "privacy without authentication", "add auth")
        auth_key, auth_localized = self.key(table, where, "auth", bool(auth))
        priv_key, priv_localized = self.key(table, where, "priv", bool(priv))
        if auth_key and priv_key and auth_localized != priv_localized:
            raise self.fault(where, "one key is localized, the other a password", "give both the same way")
        members[MODELS["usm"], name] = self.take(table, where, "group", str, MISSING)
        networks = self.networks(table, where)
        return User(name, auth, auth_key, priv, priv_key, auth_localized, networks)

    def networks(self, table: dict[str, Any], where: Where) -> tuple[Network, ...]:
        found = []
        for text in self.strings(table, where, "networks"):
            try:
                found.append(ipaddress.ip_network(text))
            except ValueError as error:
                raise self.fault((*where, "networks"), str(error), 'write "192.0.2.0/24"') from None
        return tuple(found)

    def key(self, table: dict[str, Any], where: Where, kind: str, wanted: bool) -> tuple[Secret | None, bool]:
        password = self.secret(table, where, f"{kind}_password", f"{kind}_password_file")
        key = self.secret(table, where, f"{kind}_key", f"{kind}_key_file")
        if not wanted:
            if password or key:
                raise self.fault(where, f"a secret for {kind} but no {kind}", f"add {kind} = ...")
            return None, False
        if (password is None) == (key is None):
            raise self.fault(
                where, f"{kind} needs one secret", f"give {kind}_password_file, or {kind}_key_file"
            )
        if password is not None:
            if len(password.reveal()) < 8:
                raise self.fault(where, f"the {kind} password is shorter than 8 octets", "take a longer one")
            return password, False
        assert key is not None
        try:
            return Secret(bytes.fromhex(key.reveal().decode("ascii").removeprefix("0x"))), True
        except ValueError:
            raise self.fault(where, f"{kind}_key is not hex", "write the localized key in hex") from None

    def community(self, table: dict[str, Any], n: int, members: dict[tuple[int, str], str]) -> Community:
        where: Where = ("community", n)
        self.known(table, where, ("name", "name_file", "group", "versions", "networks", "context"))
        name = self.secret(table, where, "name", "name_file")
        if name is None or not name.reveal():
            raise self.fault(where, "no community string", "add name or name_file")
        versions = self.strings(table, where, "versions", ("v2c",))
        for version in versions:
            if version not in ("v1", "v2c"):
                raise self.fault((*where, "versions"), f"{version!r} is not known", 'use "v1", "v2c"')
        networks = self.networks(table, where)
        if not networks:
            raise self.fault(
                where, "networks is missing or empty", 'name who may use it; anyone is ["0.0.0.0/0", "::/0"]'
            )
        group = self.take(table, where, "group", str, MISSING)
        # RFC 3584: a securityName of its own, so that the secret itself appears nowhere
        security_name = f"community{n + 1}"
        for version in versions:
            members[MODELS[version], security_name] = group
        context = self.take(table, where, "context", str, "")
        if context:
            # a community that stands for a context that is not there would be told genErr for ever
            raise self.fault(
                (*where, "context"), f"no context {context!r}", 'leave it out: there is one context, ""'
            )
        return Community(name, security_name, frozenset(versions), networks, context)

    def views(self, data: Mapping[str, Any]) -> dict[str, tuple[Subtree, ...]]:
        views: dict[str, tuple[Subtree, ...]] = {}
        for n, table in enumerate(self.tables(data, "view")):
            where: Where = ("view", n)
            self.known(table, where, ("name", "include", "exclude"))
            name = self.take(table, where, "name", str, MISSING)
            if not 1 <= len(name) <= 32:
                raise self.fault((*where, "name"), "not 1 to 32 characters", "choose another name")
            subtrees = [
                self.subtree(text, (*where, key), included)
                for key, included in (("include", True), ("exclude", False))
                for text in self.strings(table, where, key)
            ]
            if not subtrees:
                raise self.fault(where, f"view {name!r} is empty", 'add include = ["1.3.6.1"]')
            views[name] = views.get(name, ()) + tuple(subtrees)
            included = {(tree.oid, tree.mask) for tree in views[name] if tree.included}
            for tree in views[name]:
                if not tree.included and (tree.oid, tree.mask) in included:
                    dotted = ".".join(map(str, tree.oid))
                    raise self.fault(
                        where, f"view {name!r} includes and excludes {dotted}", "remove one of them"
                    )
        return views

    def subtree(self, text: str, where: Where, included: bool) -> Subtree:
        """'1.3.6.1.2.1.2.2.1.*.3': a star matches any number (RFC 3415's mask)."""
        parts = text.strip().lstrip(".").split(".")
        stars = [part == "*" for part in parts]
        oid = self.oid(
            ".".join("0" if star else part for star, part in zip(stars, parts, strict=True)), where
        )
        if not any(stars):
            return Subtree(oid, included)
        mask = bytearray(b"\xff" * ((len(oid) + 7) // 8))
        for position, star in enumerate(stars):
            if star:
                mask[position >> 3] &= 0xFF ^ (0x80 >> (position & 7))
        return Subtree(oid, included, bytes(mask))

    def access(self, table: dict[str, Any], n: int, views: Mapping[str, object]) -> AccessEntry:
        where: Where = ("access", n)
        names = ("group", "model", "level", "context", "context_match", "read", "write", "notify")
        self.known(table, where, (*names, "insecure_write"))
        level = self.choice(table, where, "level", tuple(LEVELS), "authPriv")
        model = self.choice(table, where, "model", tuple(MODELS), "usm")
        entry = AccessEntry(
            group=self.take(table, where, "group", str, MISSING),
            model=MODELS[model],
            level=LEVELS[level],
            context=self.take(table, where, "context", str, ""),
            context_prefix=self.choice(table, where, "context_match", ("exact", "prefix"), "exact")
            == "prefix",
            read=self.take(table, where, "read", str, ""),
            write=self.take(table, where, "write", str, ""),
            notify=self.take(table, where, "notify", str, ""),
        )
        for key in ("read", "write", "notify"):
            name = getattr(entry, key)
            if name and name not in views:
                raise self.fault(
                    (*where, key),
                    f"no view {name!r}",
                    f"use one of {', '.join(views) or '[[view]], none yet'}",
                )
        if entry.write and (entry.level < LEVELS["authPriv"] or entry.model != MODELS["usm"]):
            if not self.take(table, where, "insecure_write", bool, False):
                raise self.fault(
                    (*where, "write"),
                    "write access below SNMPv3 authPriv",
                    'use model = "usm" and level = "authPriv", or add insecure_write = true',
                )
        elif "insecure_write" in table:
            self.take(table, where, "insecure_write", bool, False)
        return entry

    def cross_check(
        self,
        data: Mapping[str, Any],
        users: tuple[User, ...],
        members: Mapping[tuple[int, str], str],
        access: tuple[AccessEntry, ...],
    ) -> None:
        groups = {entry.group for entry in access}
        for kind in ("user", "community"):
            for n, table in enumerate(self.tables(data, kind)):
                if table["group"] not in groups:
                    raise self.fault(
                        (kind, n, "group"),
                        f"no [[access]] for group {table['group']!r}",
                        f"add one, or use {', '.join(sorted(groups)) or 'none yet'}",
                    )
        for n, user in enumerate(users):
            level = 3 if user.priv else 2 if user.auth else 1
            group = members[MODELS["usm"], user.name]
            fits = [e for e in access if e.group == group and e.model in (0, 3) and e.level <= level]
            if not fits:
                raise self.fault(
                    ("user", n),
                    f"{user.name!r} can never reach the level that its group asks for",
                    "give it auth and priv, or lower the group's level",
                )

"""[[target]] and [[filter]]: where notifications go, and which."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.config_access import role_access
from agent.config_reader import MISSING, TomlReader, Where
from agent.config_types import LEVELS, ROLES, AccessEntry, Secret, Subtree, User, role_group

VERSIONS = {"v1": 0, "v2c": 1, "v3": 3}
"""msgVersion by name."""
TRAPS = "traps"
INFORMS = "informs"
"""Tags that the agent's own rows of snmpNotifyTable select."""
MODEL_OF = {0: 1, 1: 2, 3: 3}
"""securityModel by msgVersion."""
LIMIT = 64
"""[[target]] sections at most."""


@dataclass(frozen=True, slots=True)
class Target:
    """A receiver of notifications. `version` is msgVersion, `timeout` in hundredths of a second."""

    name: str
    host: str
    port: int
    version: int
    security_name: str
    level: int
    zone: int = 0
    community: Secret | None = None
    inform: bool = False
    timeout: int = 1500
    retries: int = 3
    tags: tuple[str, ...] = (TRAPS,)
    filter: str = ""


@dataclass(frozen=True, slots=True)
class NotifyFilter:
    """A named filter: families of subtrees that are let through or held back (RFC 3413 section 6)."""

    name: str
    subtrees: tuple[Subtree, ...]


@dataclass(frozen=True, slots=True)
class Notifications:
    """All targets and filters of the configuration."""

    targets: tuple[Target, ...] = ()
    filters: tuple[NotifyFilter, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What this needs of the configuration's reader: secrets and subtrees are read as everywhere else."""

    reader: TomlReader
    secret: Callable[[dict[str, Any], Where, str, str], Secret | None]
    subtree: Callable[[str, Where, bool], Subtree]
    users: Mapping[str, User]
    access: Sequence[AccessEntry]

    # -- the whole ----------------------------------------------------------------------------------------

    def notifications(
        self, data: Mapping[str, Any], members: MutableMapping[tuple[int, str], str]
    ) -> Notifications:
        """Read both sections. Targets with a community become members of their group. Raises ConfigError."""
        filters = tuple(self.filter(item, n) for n, item in enumerate(self.reader.tables(data, "filter")))
        seen: set[str] = set()
        for n, item in enumerate(filters):
            if item.name in seen:
                raise self.reader.fault(("filter", n, "name"), f"{item.name!r} is there twice", "rename one")
            seen.add(item.name)
        tables = self.reader.tables(data, "target")
        if len(tables) > LIMIT:
            raise self.reader.fault(("target", LIMIT), f"more than {LIMIT} targets", "remove some")
        targets: list[Target] = []
        for n, table in enumerate(tables):
            target = self.target(table, n, seen, members)
            if any(target.name == other.name for other in targets):
                raise self.reader.fault(
                    ("target", n, "name"), f"{target.name!r} is there twice", "rename one"
                )
            targets.append(target)
        entries = (*self.access, *role_access(members.values()))
        for n, target in enumerate(targets):
            self.told(target, n, members[MODEL_OF[target.version], target.security_name], entries)
        return Notifications(tuple(targets), filters)

    def filter(self, table: dict[str, Any], n: int) -> NotifyFilter:
        reader, where = self.reader, ("filter", n)
        reader.known(table, where, ("name", "include", "exclude"))
        name = self.name(table, where)
        subtrees: dict[tuple[int, ...], Subtree] = {}
        for key, included in (("include", True), ("exclude", False)):
            for text in reader.strings(table, where, key):
                tree = self.subtree(text, (*where, key), included)
                if tree.oid in subtrees:
                    raise reader.fault((*where, key), f"{text!r} is there twice", "remove one")
                subtrees[tree.oid] = tree
        if not any(tree.included for tree in subtrees.values()):
            raise reader.fault(
                where,
                f"filter {name!r} includes nothing, so no notification would pass",
                'add include = ["1.3.6.1"] and name the rest in exclude',
            )
        return NotifyFilter(name, tuple(subtrees.values()))

    def target(
        self,
        table: dict[str, Any],
        n: int,
        filters: set[str],
        members: MutableMapping[tuple[int, str], str],
    ) -> Target:
        reader, where = self.reader, ("target", n)
        common = ("name", "address", "version", "inform", "timeout", "retries", "tags", "filter")
        version = reader.choice(table, where, "version", tuple(VERSIONS), "v3")
        own = ("user", "level") if version == "v3" else ("community", "community_file", "role", "group")
        reader.known(table, where, (*common, *own))
        name = self.name(table, where)
        if re.fullmatch(r"community\d+\.\d+", name):
            raise reader.fault((*where, "name"), "is a row of a [[community]]", "choose another name")
        host, port, zone = self.address(table, where)
        inform = reader.take(table, where, "inform", bool, False)
        if inform and version == "v1":
            raise reader.fault((*where, "inform"), "SNMPv1 has no informs", 'use version = "v2c" or "v3"')
        timeout = reader.take(table, where, "timeout", (int, float), 15)
        if not 0.1 <= timeout <= 300:
            raise reader.fault((*where, "timeout"), f"{timeout} s", "choose 0.1 to 300 seconds")
        retries = reader.take(table, where, "retries", int, 3)
        if not 0 <= retries <= 255:
            raise reader.fault((*where, "retries"), f"{retries} is out of range", "choose 0 to 255")
        chosen = reader.take(table, where, "filter", str, "")
        if chosen and chosen not in filters:
            there = ", ".join(sorted(filters)) or "[[filter]], none yet"
            raise reader.fault((*where, "filter"), f"no filter {chosen!r}", f"use one of {there}")
        tags = self.tags(table, where, INFORMS if inform else TRAPS)
        if version == "v3":
            security_name, level, community = *self.user(table, where), None
        else:
            security_name, level = f"target{n + 1}", 1
            community = self.community(table, where, VERSIONS[version] + 1, security_name, members)
        return Target(
            name=name,
            host=host,
            port=port,
            zone=zone,
            version=VERSIONS[version],
            security_name=security_name,
            level=level,
            community=community,
            inform=inform,
            timeout=round(timeout * 100),
            retries=retries,
            tags=tags,
            filter=chosen,
        )

    def told(self, target: Target, n: int, group: str, entries: Iterable[AccessEntry]) -> None:
        """Whether there is anything that a target may be told at its level."""
        mine = [
            e for e in entries if e.group == group and e.model in (0, MODEL_OF[target.version]) and e.notify
        ]
        if any(entry.level <= target.level for entry in mine):
            return
        if mine:
            least = next(label for label, number in LEVELS.items() if number == min(e.level for e in mine))
            problem, cure = f"group {group!r} may be told nothing below {least}", f'use level = "{least}"'
        else:
            problem, cure = f"group {group!r} has no notify view", "add notify = ... to its [[access]]"
        raise self.reader.fault(("target", n), problem, cure)

    # -- its parts ----------------------------------------------------------------------------------------

    def name(self, table: dict[str, Any], where: Where) -> str:
        name: str = self.reader.take(table, where, "name", str, MISSING)
        if not 1 <= len(name.encode()) <= 32 or not name.isprintable():
            raise self.reader.fault((*where, "name"), "not 1 to 32 printable octets", "choose another name")
        return name

    def address(self, table: dict[str, Any], where: Where) -> tuple[str, int, int]:
        text: str = self.reader.take(table, where, "address", str, MISSING)
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)(?:%([\w.-]+))?\]|([0-9.]+))(?::(\d{1,5}))?", text)
        try:
            if not found:
                raise ValueError
            host = str(ipaddress.ip_address(found[1] or found[3]))
            port = int(found[4] or 162)
            if not 1 <= port <= 65535 or (":" in host) != bool(found[1]):
                raise ValueError
        except ValueError:
            raise self.reader.fault(
                (*where, "address"), f"{text!r} is no address", 'write "192.0.2.1" or "[2001:db8::1]:162"'
            ) from None
        zone = 0
        if found[2]:
            try:
                zone = int(found[2]) if found[2].isdigit() else socket.if_nametoindex(found[2])
            except OSError:
                raise self.reader.fault(
                    (*where, "address"), f"no interface {found[2]!r}", "name one of this machine's"
                ) from None
        return host, port, zone

    def tags(self, table: dict[str, Any], where: Where, first: str) -> tuple[str, ...]:
        given = self.reader.strings(table, where, "tags")
        for tag in given:
            if not tag or re.search(r"[ \t\r\n]", tag) or len(tag.encode()) > 64:
                raise self.reader.fault((*where, "tags"), f"{tag!r} is no tag", "write words without spaces")
        found = tuple(dict.fromkeys((first, *given)))
        if sum(len(tag.encode()) + 1 for tag in found) > 255:
            raise self.reader.fault((*where, "tags"), "more than 255 octets in all", "use fewer tags")
        return found

    def user(self, table: dict[str, Any], where: Where) -> tuple[str, int]:
        reader = self.reader
        name: str = reader.take(table, where, "user", str, MISSING)
        user = self.users.get(name)
        if user is None:
            there = ", ".join(self.users) or "[[user]], none yet"
            raise reader.fault((*where, "user"), f"no user {name!r}", f"use one of {there}")
        highest = 3 if user.priv else 2 if user.auth else 1
        best = next(label for label, number in LEVELS.items() if number == highest)
        level = LEVELS[reader.choice(table, where, "level", tuple(LEVELS), best)]
        if level > highest:
            raise reader.fault((*where, "level"), f"user {name!r} has no keys for that", f'use "{best}"')
        return name, level

    def community(
        self,
        table: dict[str, Any],
        where: Where,
        model: int,
        security_name: str,
        members: MutableMapping[tuple[int, str], str],
    ) -> Secret:
        reader = self.reader
        community = self.secret(table, where, "community", "community_file")
        if community is None or not community.reveal():
            raise reader.fault(where, "no community string", "add community or community_file")
        role = reader.choice(table, where, "role", ROLES, "")
        group: str = reader.take(table, where, "group", str, "")
        if role and group:
            raise reader.fault((*where, "group"), "both role and group", "keep one of them")
        groups = sorted({entry.group for entry in self.access})
        if not group:
            group = role_group(role or "monitor", 1)
        elif group not in groups:
            raise reader.fault(
                (*where, "group"),
                f"no [[access]] for group {group!r}",
                f"add one with a notify view, or use {', '.join(groups) or 'none yet'}",
            )
        members[model, security_name] = group
        return community

"""The sections [[access]] and [[view]], and the roles: what may be asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.config_reader import MISSING, Where
from agent.config_types import LEVELS, MODELS, ROLES, AccessEntry, Subtree, User, role_group
from agent.config_users import UserReader

_SECURITY = (
    "1.3.6.1.6.3.12.1.2",  # snmpTargetAddrTable
    "1.3.6.1.6.3.12.1.3",  # snmpTargetParamsTable
    "1.3.6.1.6.3.13",  # SNMP-NOTIFICATION-MIB
    "1.3.6.1.6.3.15.1.2",  # usmUser
    "1.3.6.1.6.3.16",  # SNMP-VIEW-BASED-ACM-MIB
    "1.3.6.1.6.3.18",  # SNMP-COMMUNITY-MIB
)
"""What says who may do what, and where notifications go."""
_GATEWAY = (
    "1.3.6.1.2.1.1",  # system
    "1.3.6.1.2.1.153",  # IPSEC-SPD-MIB
    "1.3.6.1.3.98",  # IPSEC-SA-MON-MIB
    "1.3.6.1.4.1.9.9.171",  # CISCO-IPSEC-FLOW-MONITOR-MIB
    "1.3.6.1.4.1.32473.1",  # IPSEC-GATEWAY-MIB
    "1.3.6.1.6.3.1.1.6.1",  # snmpSetSerialNo
    "1.3.6.1.6.3.15.1.2.2.1.7",  # usmUserOwnAuthKeyChange
    "1.3.6.1.6.3.15.1.2.2.1.10",  # usmUserOwnPrivKeyChange
)
"""What an operator may write. The two columns of USM only ever change the requester's own keys."""


def _oid(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


ROLE_VIEWS: dict[str, tuple[Subtree, ...]] = {
    "role:monitor": (Subtree((1, 3, 6, 1)), *(Subtree(_oid(text), False) for text in _SECURITY)),
    "role:operator": tuple(Subtree(_oid(text)) for text in _GATEWAY),
    "role:admin": (Subtree((1, 3, 6, 1)),),
}
_RIGHTS = {
    "monitor": ("role:monitor", "", "role:monitor"),
    "operator": ("role:monitor", "role:operator", "role:monitor"),
    "admin": ("role:admin", "role:admin", "role:admin"),
}
"""Views to read, write and be notified of."""


def role_access(groups: Iterable[str]) -> tuple[AccessEntry, ...]:
    """The access entries of all roles, if any of the groups is one's; those below authPriv only where used.

    A role reaches every context. A user with a role must use the highest level that it has keys for.
    """
    used = {group for group in groups if group.startswith("role:")}
    entries = []
    for role in ROLES if used else ():
        read, write, notify = _RIGHTS[role]
        for level in (3, 2, 1):
            group = role_group(role, level)
            if level == LEVELS["authPriv"] or group in used:
                entries.append(AccessEntry(group, MODELS["any"], level, "", True, read, write, notify))
    return tuple(entries)


def _clash(view: str, tree: Subtree, other: Subtree) -> tuple[str, str]:
    dotted = ".".join(map(str, tree.oid))
    if tree.mask == other.mask:
        return f"view {view!r} includes and excludes {dotted}", "remove one of them"
    return f"view {view!r} has {dotted} with and without stars", "put the other into a view of its own"


class AccessReader(UserReader):
    """Reads views and access entries."""

    def views(self, data: Mapping[str, Any]) -> dict[str, tuple[Subtree, ...]]:
        views: dict[str, dict[tuple[int, ...], Subtree]] = {}
        for n, table in enumerate(self.tables(data, "view")):
            where: Where = ("view", n)
            self.known(table, where, ("name", "include", "exclude"))
            name = self.take(table, where, "name", str, MISSING)
            if not 1 <= len(name.encode()) <= 32:
                raise self.fault((*where, "name"), "not 1 to 32 octets", "choose another name")
            self.unreserved(name, (*where, "name"))
            families = views.setdefault(name, {})
            for key, included in (("include", True), ("exclude", False)):
                for text in self.strings(table, where, key):
                    tree = self.subtree(text, (*where, key), included)
                    # vacmViewTreeFamilyTable has one row for a subtree of a view, whatever its mask
                    other = families.setdefault(tree.oid, tree)
                    if other != tree:
                        raise self.fault((*where, key), *_clash(name, tree, other))
            if not families:
                raise self.fault(where, f"view {name!r} is empty", 'add include = ["1.3.6.1"]')
        return {name: tuple(families.values()) for name, families in views.items()}

    def access(self, table: dict[str, Any], n: int, views: Mapping[str, object]) -> AccessEntry:
        where: Where = ("access", n)
        names = ("group", "model", "level", "context", "context_match", "read", "write", "notify")
        self.known(table, where, (*names, "insecure_write"))
        group = self.take(table, where, "group", str, MISSING)
        if not 1 <= len(group.encode()) <= 32:
            raise self.fault((*where, "group"), "not 1 to 32 octets", "choose another name")
        self.unreserved(group, (*where, "group"))
        level = self.choice(table, where, "level", tuple(LEVELS), "authPriv")
        model = self.choice(table, where, "model", tuple(MODELS), "usm")
        context = self.take(table, where, "context", str, "")
        if len(context.encode()) > 32:
            raise self.fault((*where, "context"), "longer than 32 octets", "no context has such a name")
        entry = AccessEntry(
            group=group,
            model=MODELS[model],
            level=LEVELS[level],
            context=context,
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
        seen: dict[tuple[str, str, int, int], int] = {}
        for n, entry in enumerate(access):
            first = seen.setdefault((entry.group, entry.context, entry.model, entry.level), n)
            if first != n:
                raise self.fault(
                    ("access", n),
                    f"the same group, context, model and level as access[{first + 1}]",
                    "join the two, or change one of these",
                )
        groups = {entry.group for entry in access}
        for kind in ("user", "community"):
            for n, table in enumerate(self.tables(data, kind)):
                if "group" in table and table["group"] not in groups:
                    raise self.fault(
                        (kind, n, "group"),
                        f"no [[access]] for group {table['group']!r}",
                        f"add one, or use {', '.join(sorted(groups)) or 'none yet'}",
                    )
        for n, user in enumerate(users):
            if self.tables(data, "user")[n].get("role"):
                continue
            level = 3 if user.priv else 2 if user.auth else 1
            group = members[MODELS["usm"], user.name]
            fits = [e for e in access if e.group == group and e.model in (0, 3) and e.level <= level]
            if not fits:
                raise self.fault(
                    ("user", n),
                    f"{user.name!r} can never reach the level that its group asks for",
                    "give it auth and priv, or lower the group's level",
                )

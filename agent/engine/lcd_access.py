"""The tables of RFC 3415 in the datastore, and the access control that follows them.

Rows come from the configuration file (readOnly) and over SNMP. Whenever one changes, the AccessControl is given
the active rows anew, before the SET that changed them is answered.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from agent.config import AccessEntry, Config, Subtree
from agent.engine.access import AccessControl
from agent.engine.lcd import Lcd, LcdTable
from agent.smi.errors import SetError
from agent.smi.model import IndexValues
from agent.smi.rowstatus import RowStatus, RowStatusWriter, StoredRow

EXACT, PREFIX = 1, 2
"""vacmAccessContextMatch."""
INCLUDED, EXCLUDED = 1, 2
"""vacmViewTreeFamilyType."""
VIEW_ROWS = 4096
"""Families that SNMP may make; a family is small and views are made of many."""


class AccessTables:
    """vacmSecurityToGroupTable, vacmAccessTable, vacmViewTreeFamilyTable."""

    def __init__(self, lcd: Lcd, control: AccessControl) -> None:
        self.control = control
        self.groups = lcd.table(
            "vacmSecurityToGroupTable", index=(int, bytes), columns={"vacmGroupName": bytes}, judge=_judge
        )
        self.access = lcd.table(
            "vacmAccessTable",
            index=(bytes, bytes, int, int),
            columns={
                "vacmAccessContextMatch": int,
                "vacmAccessReadViewName": bytes,
                "vacmAccessWriteViewName": bytes,
                "vacmAccessNotifyViewName": bytes,
            },
            judge=_judge,
        )
        self.views = lcd.table(
            "vacmViewTreeFamilyTable",
            index=(bytes, tuple),
            columns={"vacmViewTreeFamilyMask": bytes, "vacmViewTreeFamilyType": int},
            limit=VIEW_ROWS,
            judge=_judge,
        )
        for table in (self.groups, self.access, self.views):
            table.watch(self._rebuild)
        self.groups_writer = RowStatusWriter(
            self.groups,
            "vacmSecurityToGroupStatus",
            "vacmSecurityToGroupStorageType",
            required=("vacmGroupName",),
        )
        self.access_writer = RowStatusWriter(
            self.access,
            "vacmAccessStatus",
            "vacmAccessStorageType",
            defaults={
                "vacmAccessContextMatch": EXACT,
                "vacmAccessReadViewName": b"",
                "vacmAccessWriteViewName": b"",
                "vacmAccessNotifyViewName": b"",
            },
        )
        self.views_writer = RowStatusWriter(
            self.views,
            "vacmViewTreeFamilyStatus",
            "vacmViewTreeFamilyStorageType",
            defaults={"vacmViewTreeFamilyMask": b"", "vacmViewTreeFamilyType": INCLUDED},
        )

    def configure(self, config: Config) -> None:
        """Replace the rows of the configuration file."""
        self.groups.set_configured(
            {
                (model, name.encode()): {"vacmGroupName": group.encode()}
                for (model, name), group in config.members.items()
            }
        )
        self.access.set_configured({_index(entry): _columns(entry) for entry in config.access})
        self.views.set_configured(
            {
                (name.encode(), family.oid): {
                    "vacmViewTreeFamilyMask": family.mask,
                    "vacmViewTreeFamilyType": INCLUDED if family.included else EXCLUDED,
                }
                for name, families in config.views.items()
                for family in families
            }
        )

    def _rebuild(self) -> None:
        members = {
            (row.index[0], row.index[1].decode()): row["vacmGroupName"].decode()
            for row in self.groups.active()
        }
        views: dict[str, list[Subtree]] = defaultdict(list)
        for row in self.views.active():
            name, oid = row.index
            included = row["vacmViewTreeFamilyType"] == INCLUDED
            views[name.decode()].append(Subtree(oid, included, row["vacmViewTreeFamilyMask"]))
        self.control.replace(members, [_entry(row) for row in self.access.active()], views)


def _index(entry: AccessEntry) -> tuple[bytes, bytes, int, int]:
    return entry.group.encode(), entry.context.encode(), entry.model, entry.level


def _columns(entry: AccessEntry) -> dict[str, Any]:
    return {
        "vacmAccessContextMatch": PREFIX if entry.context_prefix else EXACT,
        "vacmAccessReadViewName": entry.read.encode(),
        "vacmAccessWriteViewName": entry.write.encode(),
        "vacmAccessNotifyViewName": entry.notify.encode(),
    }


def _entry(row: Any) -> AccessEntry:
    group, context, model, level = row.index
    return AccessEntry(
        group.decode(),
        model,
        level,
        context.decode(),
        row["vacmAccessContextMatch"] == PREFIX,
        row["vacmAccessReadViewName"].decode(),
        row["vacmAccessWriteViewName"].decode(),
        row["vacmAccessNotifyViewName"].decode(),
    )


_OCTETS = ("vacmViewTreeFamilyMask",)


def _judge(table: LcdTable, index: IndexValues, before: StoredRow | None, after: StoredRow | None) -> None:
    """All names are text (SnmpAdminString is UTF-8): two that differ must never be taken for one."""
    if after is None:
        return
    if after.status is RowStatus.active and not after.values.keys() >= table.columns.keys():
        raise SetError("inconsistentValue", "columns are missing")
    for part in index:
        if isinstance(part, bytes) and not _is_text(part):
            raise SetError("noCreation", "a name in the index is not UTF-8")
    for name, value in after.values.items():
        if name not in _OCTETS and isinstance(value, bytes) and not _is_text(value):
            raise SetError("wrongValue", f"{name} is not UTF-8", name)


def _is_text(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True

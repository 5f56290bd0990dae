"""SNMP-VIEW-BASED-ACM-MIB (RFC 3415): groups, access, views and contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Protocol

from agent.smi.bindings import Column, ModuleBinding, Scalar, Table
from agent.smi.model import RowWriter
from agent.smi.rowstatus import TestAndIncr


class Rows(Protocol):
    """A table of the datastore: rows that give a column by its name, and have index, storage and status."""

    stamp: int

    def rows(self) -> Iterable[Any]: ...


class Access(Protocol):
    """The tables and their writers."""

    groups: Any
    access: Any
    views: Any
    groups_writer: RowWriter
    access_writer: RowWriter
    views_writer: RowWriter


def binding(
    access: Access,
    lock: TestAndIncr,
    contexts: Callable[[], Iterable[str]],
    contexts_stamp: Callable[[], int],
) -> ModuleBinding:
    """The module over the datastore's tables. `lock`: vacmViewSpinLock."""
    return ModuleBinding(
        "SNMP-VIEW-BASED-ACM-MIB",
        scalars=[Scalar("vacmViewSpinLock", lambda g: lock.value, lock)],
        tables=[
            Table(
                "vacmContextTable",
                rows=lambda g: contexts(),
                index=lambda name: (name.encode(),),
                columns=[Column("vacmContextName", lambda name: name)],
                stamp=contexts_stamp,
            ),
            stored(
                "vacmSecurityToGroupTable",
                access.groups,
                access.groups_writer,
                ("vacmGroupName",),
                "vacmSecurityToGroupStorageType",
                "vacmSecurityToGroupStatus",
            ),
            stored(
                "vacmAccessTable",
                access.access,
                access.access_writer,
                (
                    "vacmAccessContextMatch",
                    "vacmAccessReadViewName",
                    "vacmAccessWriteViewName",
                    "vacmAccessNotifyViewName",
                ),
                "vacmAccessStorageType",
                "vacmAccessStatus",
            ),
            stored(
                "vacmViewTreeFamilyTable",
                access.views,
                access.views_writer,
                ("vacmViewTreeFamilyMask", "vacmViewTreeFamilyType"),
                "vacmViewTreeFamilyStorageType",
                "vacmViewTreeFamilyStatus",
            ),
        ],
    )


def stored(
    name: str, rows: Rows, writer: RowWriter, columns: Iterable[str], storage: str, status: str
) -> Table:
    """A table whose columns are the values of the datastore's rows."""
    return Table(
        name,
        rows=lambda g: rows.rows(),
        index=lambda row: row.index,
        columns=[
            *(Column(column, itemgetter(column)) for column in columns),
            Column(storage, lambda row: row.storage),
            Column(status, lambda row: row.status),
        ],
        writer=writer,
        stamp=lambda: rows.stamp,
    )

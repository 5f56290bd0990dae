"""SNMP-VIEW-BASED-ACM-MIB (RFC 3415): groups, access, views and contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from agent.smi.bindings import Column, ModuleBinding, Scalar, Table
from agent.smi.rowstatus import RowStatusWriter, TestAndIncr
from agent.tables.stored import StoredTable, stored


class Access(Protocol):
    """The tables and their writers."""

    @property
    def groups(self) -> StoredTable: ...

    @property
    def access(self) -> StoredTable: ...

    @property
    def views(self) -> StoredTable: ...

    groups_writer: RowStatusWriter
    access_writer: RowStatusWriter
    views_writer: RowStatusWriter


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
            stored("vacmSecurityToGroupTable", access.groups, access.groups_writer),
            stored("vacmAccessTable", access.access, access.access_writer),
            stored("vacmViewTreeFamilyTable", access.views, access.views_writer),
        ],
    )

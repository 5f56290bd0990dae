"""SNMP-NOTIFICATION-MIB (RFC 3413): which targets get notifications, and which of them."""

from __future__ import annotations

from agent.smi import Column, ModuleBinding, Table
from agent.smi.rowstatus import RowStatusWriter
from agent.tables.stored import StoredTable, columns

TRAP = 1
INCLUDED = 1


def binding(notifies: StoredTable, profiles: StoredTable, filters: StoredTable) -> ModuleBinding:
    """SNMP-NOTIFICATION-MIB over three stored tables."""
    return ModuleBinding(
        "SNMP-NOTIFICATION-MIB",
        tables=[
            Table(
                "snmpNotifyTable",
                rows=lambda _: notifies.rows(),
                index=lambda row: row.index,
                columns=[
                    *columns(notifies.columns),
                    Column("snmpNotifyStorageType", lambda row: row.storage),
                    Column("snmpNotifyRowStatus", lambda row: row.status),
                ],
                stamp=lambda: notifies.stamp,
                writer=RowStatusWriter(
                    store=notifies,
                    status="snmpNotifyRowStatus",
                    storage="snmpNotifyStorageType",
                    defaults={"snmpNotifyTag": b"", "snmpNotifyType": TRAP},
                ),
            ),
            Table(
                "snmpNotifyFilterProfileTable",
                rows=lambda _: profiles.rows(),
                index=lambda row: row.index,
                columns=[
                    *columns(profiles.columns),
                    Column("snmpNotifyFilterProfileStorType", lambda row: row.storage),
                    Column("snmpNotifyFilterProfileRowStatus", lambda row: row.status),
                ],
                stamp=lambda: profiles.stamp,
                writer=RowStatusWriter(
                    store=profiles,
                    status="snmpNotifyFilterProfileRowStatus",
                    storage="snmpNotifyFilterProfileStorType",
                    required=("snmpNotifyFilterProfileName",),
                ),
            ),
            Table(
                "snmpNotifyFilterTable",
                rows=lambda _: filters.rows(),
                index=lambda row: row.index,
                columns=[
                    *columns(filters.columns),
                    Column("snmpNotifyFilterStorageType", lambda row: row.storage),
                    Column("snmpNotifyFilterRowStatus", lambda row: row.status),
                ],
                stamp=lambda: filters.stamp,
                writer=RowStatusWriter(
                    store=filters,
                    status="snmpNotifyFilterRowStatus",
                    storage="snmpNotifyFilterStorageType",
                    defaults={"snmpNotifyFilterMask": b"", "snmpNotifyFilterType": INCLUDED},
                ),
            ),
        ],
    )

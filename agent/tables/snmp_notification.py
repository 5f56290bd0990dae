"""SNMP-NOTIFICATION-MIB (RFC 3413): which targets get notifications, and which of them."""

from __future__ import annotations

from agent.smi import ModuleBinding
from agent.smi.rowstatus import RowStatusWriter
from agent.tables.stored import StoredTable, stored

TRAP = 1
INCLUDED = 1


def binding(notifies: StoredTable, profiles: StoredTable, filters: StoredTable) -> ModuleBinding:
    """SNMP-NOTIFICATION-MIB over three stored tables."""
    return ModuleBinding(
        "SNMP-NOTIFICATION-MIB",
        tables=[
            stored(
                "snmpNotifyTable",
                notifies,
                RowStatusWriter(
                    store=notifies,
                    status="snmpNotifyRowStatus",
                    storage="snmpNotifyStorageType",
                    defaults={"snmpNotifyTag": b"", "snmpNotifyType": TRAP},
                ),
            ),
            stored(
                "snmpNotifyFilterProfileTable",
                profiles,
                RowStatusWriter(
                    store=profiles,
                    status="snmpNotifyFilterProfileRowStatus",
                    storage="snmpNotifyFilterProfileStorType",
                    required=("snmpNotifyFilterProfileName",),
                ),
            ),
            stored(
                "snmpNotifyFilterTable",
                filters,
                RowStatusWriter(
                    store=filters,
                    status="snmpNotifyFilterRowStatus",
                    storage="snmpNotifyFilterStorageType",
                    defaults={"snmpNotifyFilterMask": b"", "snmpNotifyFilterType": INCLUDED},
                ),
            ),
        ],
    )

"""SNMP-TARGET-MIB (RFC 3413): where notifications go, and how they are made."""

from __future__ import annotations

from collections.abc import Callable

from agent.smi import ModuleBinding, Scalar
from agent.smi.model import ScalarWriter
from agent.smi.rowstatus import RowStatusWriter, RowStore
from agent.tables.stored import StoredTable, stored


def binding(
    addresses: StoredTable,
    address_store: RowStore,
    params: StoredTable,
    spin_lock: Callable[[], int],
    spin_lock_writer: ScalarWriter,
    unavailable_contexts: Callable[[], int],
    unknown_contexts: Callable[[], int],
) -> ModuleBinding:
    """SNMP-TARGET-MIB over two stored tables. `address_store` is what SETs of snmpTargetAddrTable go to."""
    return ModuleBinding(
        "SNMP-TARGET-MIB",
        scalars=[
            Scalar("snmpTargetSpinLock", lambda _: spin_lock(), spin_lock_writer),
            Scalar("snmpUnavailableContexts", lambda _: unavailable_contexts()),
            Scalar("snmpUnknownContexts", lambda _: unknown_contexts()),
        ],
        tables=[
            stored(
                "snmpTargetAddrTable",
                addresses,
                RowStatusWriter(
                    store=address_store,
                    status="snmpTargetAddrRowStatus",
                    storage="snmpTargetAddrStorageType",
                    required=("snmpTargetAddrTDomain", "snmpTargetAddrTAddress", "snmpTargetAddrParams"),
                    defaults={
                        "snmpTargetAddrTimeout": 1500,
                        "snmpTargetAddrRetryCount": 3,
                        "snmpTargetAddrTagList": b"",
                    },
                    fixed_while_active=("snmpTargetAddrTDomain", "snmpTargetAddrTAddress"),
                ),
            ),
            stored(
                "snmpTargetParamsTable",
                params,
                RowStatusWriter(
                    store=params,
                    status="snmpTargetParamsRowStatus",
                    storage="snmpTargetParamsStorageType",
                    required=tuple(params.columns),
                    fixed_while_active=tuple(params.columns),
                ),
            ),
        ],
    )

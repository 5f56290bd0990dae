"""The modules of targets, notifications and communities over the rows of the datastore."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agent.engine.targets_tables import (
    EXTENSION_DEFAULTS,
    AddressStore,
    ExtensionWriter,
    SecretColumn,
    TargetTables,
)
from agent.smi.bindings import ModuleBinding
from agent.smi.rowstatus import TestAndIncr
from agent.tables import snmp_community, snmp_notification, snmp_target
from agent.tables.snmp_community import Extension


def bindings(
    tables: TargetTables, spin_lock: TestAndIncr, unknown_contexts: Callable[[], int]
) -> list[ModuleBinding]:
    """SNMP-TARGET-MIB, SNMP-NOTIFICATION-MIB and SNMP-COMMUNITY-MIB."""

    def extensions() -> Iterator[Extension]:
        for row in tables.addresses.rows():
            found = tables.extensions.get(row.index)
            values = found.values if found is not None else EXTENSION_DEFAULTS
            yield Extension(row.index, values["snmpTargetAddrTMask"], values["snmpTargetAddrMMS"])

    return [
        snmp_target.binding(
            tables.addresses,
            AddressStore(tables),
            tables.params,
            lambda: spin_lock.value,
            spin_lock,
            # a context that is known is served at any time: what its source does not give has no instances
            lambda: 0,
            unknown_contexts,
        ),
        snmp_notification.binding(tables.notifies, tables.profiles, tables.filters),
        snmp_community.binding(
            tables.community_rows,
            SecretColumn(tables.community_rows, "snmpCommunityName"),
            lambda: tables.engine_id,
            extensions,
            lambda: tables.addresses.stamp + tables.extensions.stamp,
            ExtensionWriter(tables),
        ),
    ]

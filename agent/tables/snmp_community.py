"""SNMP-COMMUNITY-MIB (RFC 3584): what a community stands for, and from where it may be used.

Community strings are secrets. They are shown where access control lets a manager see snmpCommunityName, as the
MIB wants it, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from agent.smi import Column, ModuleBinding, Table
from agent.smi.model import RowWriter
from agent.smi.rowstatus import RowStatusWriter, RowStore
from agent.tables.stored import StoredTable, stored


@dataclass(frozen=True, slots=True)
class Extension:
    """A row of snmpTargetAddrExtTable."""

    index: tuple[bytes]
    mask: bytes
    max_size: int


def binding(
    communities: StoredTable,
    store: RowStore,
    engine_id: Callable[[], bytes],
    extensions: Callable[[], Iterable[Extension]],
    extensions_stamp: Callable[[], int],
    extension_writer: RowWriter,
) -> ModuleBinding:
    """SNMP-COMMUNITY-MIB. `store` is what SETs of snmpCommunityTable go to; `engine_id` is the agent's own."""

    def name(row: Any) -> bytes | None:
        secret = row["snmpCommunityName"]
        return None if secret is None else bytes(secret.reveal())

    return ModuleBinding(
        "SNMP-COMMUNITY-MIB",
        tables=[
            stored(
                "snmpCommunityTable",
                communities,
                RowStatusWriter(
                    store=store,
                    status="snmpCommunityStatus",
                    storage="snmpCommunityStorageType",
                    required=("snmpCommunityName", "snmpCommunitySecurityName"),
                    defaults={"snmpCommunityContextName": b"", "snmpCommunityTransportTag": b""},
                ),
                columns=[
                    Column("snmpCommunityName", name),
                    Column("snmpCommunitySecurityName", lambda row: row["snmpCommunitySecurityName"]),
                    Column(
                        "snmpCommunityContextEngineID",
                        lambda row: row["snmpCommunityContextEngineID"] or engine_id(),
                    ),
                    Column("snmpCommunityContextName", lambda row: row["snmpCommunityContextName"] or b""),
                    Column("snmpCommunityTransportTag", lambda row: row["snmpCommunityTransportTag"] or b""),
                ],
            ),
            Table(
                "snmpTargetAddrExtTable",
                rows=lambda _: extensions(),
                index=lambda row: row.index,
                columns=[
                    Column("snmpTargetAddrTMask", lambda row: row.mask),
                    Column("snmpTargetAddrMMS", lambda row: row.max_size),
                ],
                stamp=extensions_stamp,
                writer=extension_writer,
            ),
        ],
    )

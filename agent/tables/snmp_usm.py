"""SNMP-USER-BASED-SM-MIB (RFC 3414): users, and messages that were not let in. Keys are never read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Protocol

from agent.smi.bindings import Column, ModuleBinding, Scalar, Table
from agent.smi.model import RowWriter
from agent.smi.rowstatus import TestAndIncr

_STATS = {
    "usmStatsUnsupportedSecLevels": "usm_unsupported_sec_levels",
    "usmStatsNotInTimeWindows": "usm_not_in_time_windows",
    "usmStatsUnknownUserNames": "usm_unknown_user_names",
    "usmStatsUnknownEngineIDs": "usm_unknown_engine_ids",
    "usmStatsWrongDigests": "usm_wrong_digests",
    "usmStatsDecryptionErrors": "usm_decryption_errors",
}
_WRITE_ONLY = (
    "usmUserAuthKeyChange",
    "usmUserOwnAuthKeyChange",
    "usmUserPrivKeyChange",
    "usmUserOwnPrivKeyChange",
)


class Rows(Protocol):
    """A table of the datastore."""

    stamp: int

    def rows(self) -> Iterable[Any]: ...


def binding(rows: Rows, writer: RowWriter, lock: TestAndIncr, count: Callable[[str], int]) -> ModuleBinding:
    """The module over the datastore's rows. `lock`: usmUserSpinLock; `count` gives an engine counter by name."""
    return ModuleBinding(
        "SNMP-USER-BASED-SM-MIB",
        scalars=[
            *(_counter(name, field, count) for name, field in _STATS.items()),
            Scalar("usmUserSpinLock", lambda g: lock.value, lock),
        ],
        tables=[
            Table(
                "usmUserTable",
                rows=lambda g: rows.rows(),
                index=lambda row: row.index,
                columns=[
                    Column("usmUserSecurityName", lambda row: row.index[1]),
                    Column("usmUserCloneFrom", lambda row: (0, 0)),
                    *(Column(name, lambda row: b"") for name in _WRITE_ONLY),
                    *(
                        Column(name, itemgetter(name))
                        for name in ("usmUserAuthProtocol", "usmUserPrivProtocol", "usmUserPublic")
                    ),
                    Column("usmUserStorageType", lambda row: row.storage),
                    Column("usmUserStatus", lambda row: row.status),
                ],
                writer=writer,
                stamp=lambda: rows.stamp,
            )
        ],
    )


def _counter(name: str, field: str, count: Callable[[str], int]) -> Scalar:
    return Scalar(name, lambda g: count(field))

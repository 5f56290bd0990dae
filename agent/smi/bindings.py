"""Declarations that tie objects of a MIB module to getters and writers.

A binding says only what no MIB says: where a value is found. SYNTAX, MAX-ACCESS, INDEX and OID come from the
compiled module and are checked against the declaration by `agent.smi.bound.bind`.

    ModuleBinding(
        "CISCO-IPSEC-FLOW-MONITOR-MIB",
        scalars=[Scalar("cikeGlobalActiveTunnels", lambda g: len(g.ike_tunnels))],
        tables=[
            Table(
                "cikeTunnelTable",
                rows=lambda g: g.ike_tunnels.values(),
                index=lambda t: (t.index,),
                columns=[Column("cikeTunLocalType", lambda t: "ipAddrPeer"), ...],
            )
        ],
        not_served={"cikePhase1GWStatsTable": "counts per gateway are not kept"},
    )

What a getter may return (None: the source does not give this value, the instance does not exist):

| SYNTAX | value |
|---|---|
| Integer32, Unsigned32, Gauge32, TimeTicks | int (TimeTicks in hundredths, wraps; Gauge32 latches at its maximum) |
| Counter32, Counter64 | int >= 0, taken modulo 2^32 or 2^64 |
| enumerated INTEGER, RowStatus, StorageType | label or int |
| TruthValue | bool, label or int |
| OCTET STRING, DisplayString, SnmpAdminString | bytes, or str (UTF-8) |
| DateAndTime | datetime, seconds since the epoch (int or float, shown in UTC), or bytes |
| IpAddress | ipaddress.IPv4Address, dotted text or 4 bytes |
| InetAddress | ipaddress object or bytes |
| OBJECT IDENTIFIER, RowPointer, AutonomousType | tuple of int, dotted text, or the name of a node |
| BITS | iterable of labels or bit numbers, or bytes |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.smi.model import ColumnWriter, IndexValues, RowWriter, ScalarWriter


@dataclass(frozen=True, slots=True)
class Scalar:
    """One scalar object. `get(model)` gives its value. Without `writer` a SET answers notWritable.

    `domain`: the value is kept until the model's change stamp of this domain moves; None: it is read each time.
    """

    name: str
    get: Callable[[Any], Any]
    writer: ScalarWriter | None = None
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One accessible column. `get(row)` gives its value.

    `volatile`: the value changes without a new generation stamp (it depends on the clock) and is never kept.
    """

    name: str
    get: Callable[[Any], Any]
    writer: ColumnWriter | None = None
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One conceptual table. `rows(model)` gives row objects in any order, `index(row)` the INDEX values.

    `domain` is what the model is asked for a change stamp (default: the table's name). `writer` takes all
    varbinds of a PDU that name one row; a column's own `writer` is then not used.

    All rows are read again whenever the stamp moves. A table of many rows says instead what they come from:
    `subjects(model)` gives all subjects (tunnels, SAs, ...), `rows_of(subject)` the rows of one, and the
    model's `changes` which of them have changed (agent.smi.model.ChangeLog). Subjects are hashable by
    identity. `rows` is then not used.

    `stamp()` is asked instead of the model where the rows are not the model's.
    """

    name: str
    rows: Callable[[Any], Iterable[Any]] | None
    index: Callable[[Any], IndexValues]
    columns: Sequence[Column]
    domain: str | None = None
    writer: RowWriter | None = None
    rows_of: Callable[[Any], Iterable[Any]] | None = None
    subjects: Callable[[Any], Iterable[Any]] | None = None
    stamp: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class ModuleBinding:
    """Everything the agent serves of one MIB module.

    `not_served`: name of an object, table, group or any node -> why. It covers everything below the node. Each
    accessible object of the module is either bound or covered by `not_served`; anything else is an error.
    """

    name: str
    scalars: Sequence[Scalar] = ()
    tables: Sequence[Table] = ()
    not_served: Mapping[str, str] = field(default_factory=dict)

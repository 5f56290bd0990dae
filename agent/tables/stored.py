"""Tables whose rows are kept by the agent itself and not by the gateway's model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Protocol

from agent.smi import Column, Table
from agent.smi.rowstatus import RowStatusWriter, RowStore


class StoredTable(RowStore, Protocol):
    """A stored table: rows with `.index`, `.status`, `.storage` and `row["column"]`, and a change stamp."""

    @property
    def stamp(self) -> int: ...

    @property
    def columns(self) -> Mapping[str, Any]: ...

    def rows(self) -> Iterable[Any]:
        """All rows, in any order."""
        ...


def stored(
    name: str, table: StoredTable, writer: RowStatusWriter, columns: Sequence[Column] | None = None
) -> Table:
    """The conceptual table of a stored one: its columns, and the status and storage columns of its writer.

    `columns`: where they show something else than what is stored under their own name.
    """
    shown = (
        [Column(column, itemgetter(column)) for column in table.columns] if columns is None else [*columns]
    )
    if writer.storage is not None:
        shown.append(Column(writer.storage, attrgetter("storage")))
    return Table(
        name,
        rows=lambda _: table.rows(),
        index=attrgetter("index"),
        columns=[*shown, Column(writer.status, attrgetter("status"))],
        writer=writer,
        stamp=lambda: table.stamp,
    )

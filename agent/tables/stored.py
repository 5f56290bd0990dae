"""Tables whose rows are kept by the agent itself and not by the gateway's model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from agent.smi import Column
from agent.smi.rowstatus import RowStore


class StoredTable(RowStore, Protocol):
    """A stored table: rows with `.index`, `.status`, `.storage` and `row["column"]`, and a change stamp."""

    @property
    def stamp(self) -> int: ...

    @property
    def columns(self) -> Mapping[str, Any]: ...

    def rows(self) -> Iterable[Any]:
        """All rows, in any order."""
        ...


def columns(names: Iterable[str]) -> list[Column]:
    """Columns that show what is stored under their own name."""
    return [Column(name, _value_of(name)) for name in names]


def _value_of(name: str) -> Callable[[Any], Any]:
    return lambda row: row[name]

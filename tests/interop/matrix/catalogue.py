"""All rows, in the order of the table."""

from __future__ import annotations

from interop.matrix import (
    rows_algorithms,
    rows_authentication,
    rows_children,
    rows_network,
    rows_refusals,
    rows_rekeying,
)
from interop.matrix.plan import Row

ROWS: list[Row] = [
    *rows_algorithms.ROWS,
    *rows_authentication.ROWS,
    *rows_children.ROWS,
    *rows_refusals.ROWS,
    *rows_network.ROWS,
    *rows_rekeying.ROWS,
]

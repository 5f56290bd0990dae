"""All rows, in the order of the table."""

from __future__ import annotations

from interop.matrix import rows_algorithms
from interop.matrix.plan import Row

ROWS: list[Row] = [*rows_algorithms.ROWS]

"""The version of the installed distribution."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


@cache
def version() -> str:
    """As pyproject.toml has it; ``unknown`` when run from a tree that was not installed."""
    try:
        return installed("ipsec-snmp")
    except PackageNotFoundError:
        return "unknown"

"""The commands, one module for each family. Importing a module registers its commands."""

from __future__ import annotations

from importlib import import_module

MODULES = (
    "info",
    "conns",
    "creds",
    "authorities",
    "sas",
    "policies",
    "pools",
    "certs",
    "control",
    "counters",
)


def load() -> None:
    """Register all commands; a second call does nothing."""
    for name in MODULES:
        import_module(f"{__name__}.{name}")

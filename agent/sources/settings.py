"""The sections [sources.NAME] and [gateway] of the configuration, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.gateway.model import GatewaySettings

DEFAULT_SOCKET = "/run/ipsecstack/ipsecstack.vici"


class SettingsError(ValueError):
    """A key of a section is wrong: `section.key: what; cure`."""


@dataclass(frozen=True, slots=True)
class ViciSettings:
    """[sources.NAME] with type = "vici". Times in seconds.

    `poll_interval`: between listings; `full_interval`: between listings of everything where the daemon can list
    only what changed; `timeout`: how long an answer may take; `reconnect_max`: the longest pause between attempts.
    """

    name: str
    socket: str = DEFAULT_SOCKET
    poll_interval: float = 5.0
    full_interval: float = 300.0
    timeout: float = 10.0
    reconnect_max: float = 30.0
    enabled: bool = True


def parse_source(name: str, table: Mapping[str, Any]) -> ViciSettings:
    """One source. Raises SettingsError."""
    section = f"sources.{name}"
    if not name.isascii() or not 1 <= len(name) <= 32:
        raise SettingsError(f"{section}: the name of a source is 1 to 32 ASCII characters; choose another")
    kind = table.get("type", "vici")
    if kind != "vici":
        raise SettingsError(f"{section}.type: {kind!r} is not known; use vici")
    reader = _Reader(section, table, ("type", *ViciSettings.__dataclass_fields__))
    settings = ViciSettings(
        name=name,
        socket=reader.text("socket", DEFAULT_SOCKET),
        poll_interval=reader.seconds("poll_interval", 5.0, 0.1, 3600),
        full_interval=reader.seconds("full_interval", 300.0, 1, 86400),
        timeout=reader.seconds("timeout", 10.0, 0.1, 300),
        reconnect_max=reader.seconds("reconnect_max", 30.0, 0.1, 3600),
        enabled=reader.truth("enabled", True),
    )
    if len(settings.socket.encode()) > 107:
        raise SettingsError(
            f"{section}.socket: longer than a unix socket's path may be; choose a shorter one"
        )
    return settings


def parse_gateway(table: Mapping[str, Any]) -> GatewaySettings:
    """Section [gateway]. Raises SettingsError."""
    reader = _Reader("gateway", table, tuple(GatewaySettings.__dataclass_fields__))
    return GatewaySettings(
        history_size=reader.count("history_size", 200, 1, 100_000),
        failures_size=reader.count("failures_size", 200, 1, 100_000),
        retain=reader.seconds("retain", 3600.0, 0, 30 * 86400),
        stale_after=reader.seconds("stale_after", 60.0, 1, 86400),
    )


class _Reader:
    def __init__(self, section: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
        self.section = section
        self.table = table
        names = [name for name in known if name != "name"]
        for key in table:
            if key not in names:
                raise SettingsError(f"{section}.{key}: no such key; known here: {', '.join(names)}")

    def text(self, key: str, default: str) -> str:
        value = self.table.get(key, default)
        if not isinstance(value, str) or not value or "\0" in value:
            raise SettingsError(f"{self.section}.{key}: {value!r} is no text; write it in quotes")
        return value

    def truth(self, key: str, default: bool) -> bool:
        value = self.table.get(key, default)
        if not isinstance(value, bool):
            raise SettingsError(
                f"{self.section}.{key}: {value!r} is neither true nor false; write one of them"
            )
        return value

    def seconds(self, key: str, default: float, low: float, high: float) -> float:
        value = self.table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise SettingsError(f"{self.section}.{key}: {value!r}; choose {low:g} to {high:g} seconds")
        return float(value)

    def count(self, key: str, default: int, low: int, high: int) -> int:
        value = self.table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise SettingsError(f"{self.section}.{key}: {value!r}; choose {low} to {high}")
        return value

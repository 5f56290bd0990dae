"""Values that several sections have: numbers, OIDs, networks, secrets."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.config_reader import TomlReader, Where
from agent.config_types import Network, Oid, Secret, Subtree


class ValueReader(TomlReader):
    """Takes the configuration's own kinds of values out of parsed TOML."""

    def number(
        self, table: Mapping[str, Any], where: Where, key: str, default: int, low: int, high: int
    ) -> int:
        value: int = self.take(table, where, key, int, default)
        if not low <= value <= high:
            raise self.fault((*where, key), f"{value} is out of range", f"choose {low} to {high}")
        return value

    def oid(self, text: str, where: Where) -> Oid:
        parts = text.strip().lstrip(".").split(".")
        if not all(part.isdigit() and int(part) < 2**32 for part in parts) or len(parts) > 128:
            raise self.fault(where, f"{text!r} is no OID", 'write numbers with dots, "1.3.6.1"')
        oid = tuple(map(int, parts))
        if oid[0] > 2 or (oid[0] < 2 and oid[1:2] > (39,)):
            raise self.fault(where, f"{text!r} is no OID", "begin with 0 to 2, then 0 to 39")
        return oid

    def networks(self, table: dict[str, Any], where: Where) -> tuple[Network, ...]:
        found = []
        for text in self.strings(table, where, "networks"):
            try:
                found.append(ipaddress.ip_network(text))
            except ValueError as error:
                raise self.fault((*where, "networks"), str(error), 'write "192.0.2.0/24"') from None
        return tuple(found)

    def secret(self, table: Mapping[str, Any], where: Where, key: str, file_key: str) -> Secret | None:
        inline = self.take(table, where, key, str, None)
        name = self.take(table, where, file_key, str, None)
        if inline is not None and name is not None:
            raise self.fault((*where, file_key), f"{key} is given too", f"keep {key} or {file_key}")
        if inline is not None:
            self.private(self.path, (*where, key), 0o007)
            return Secret(inline.encode())
        if name is None:
            return None
        path = self.path.parent / name
        self.private(path, (*where, file_key), 0o077)
        try:
            octets = path.read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise self.fault(
                (*where, file_key), f"{path}: {error.strerror}", "name a readable file"
            ) from None
        if not octets:
            raise self.fault((*where, file_key), f"{path} is empty", "write the secret into it")
        return Secret(octets)

    def private(self, path: Path, where: Where, forbidden: int) -> None:
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
        except FileNotFoundError:
            if path == self.path:
                return
            raise self.fault(where, f"{path} does not exist", "create it with mode 0600") from None
        except OSError as error:
            raise self.fault(where, f"{path}: {error.strerror}", "make it readable to the agent") from None
        if mode & forbidden:
            raise self.fault(where, f"{path} holds a secret but has mode {mode:04o}", f"chmod 600 {path}")

    def subtree(self, text: str, where: Where, included: bool) -> Subtree:
        """'1.3.6.1.2.1.2.2.1.*.3': a star matches any number (RFC 3415's mask)."""
        parts = text.strip().lstrip(".").split(".")
        stars = [part == "*" for part in parts]
        oid = self.oid(
            ".".join("0" if star else part for star, part in zip(stars, parts, strict=True)), where
        )
        if not any(stars):
            return Subtree(oid, included)
        mask = bytearray(b"\xff" * ((len(oid) + 7) // 8))
        for position, star in enumerate(stars):
            if star:
                mask[position >> 3] &= 0xFF ^ (0x80 >> (position & 7))
        return Subtree(oid, included, bytes(mask))

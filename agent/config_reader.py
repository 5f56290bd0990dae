"""Values out of TOML with faults that name file, line, key and cure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class ConfigError(Exception):
    """What is wrong with the configuration, where, and what to do about it."""


Where = tuple[str | int, ...]
MISSING: Any = object()


class TomlReader:
    """Takes values out of parsed TOML, and says where in the text a fault is."""

    def __init__(self, text: str, path: Path) -> None:
        self.path = path
        self.lines = _key_lines(text)

    # -- messages -----------------------------------------------------------------------------------------

    def fault(self, where: Where, problem: str, cure: str) -> ConfigError:
        """A ConfigError that points at the line of a key, or of the nearest table above it."""
        heads = (where[:n] for n in range(len(where), 0, -1))
        # (name, 0) is the line of the first [[name]]
        known = (self.lines.get(head, self.lines.get((*head, 0))) for head in heads)
        line = next((number for number in known if number is not None), None)
        name = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
        place = f"{self.path}:{line}" if line else str(self.path)
        return ConfigError(f"{place}: {name}: {problem}; {cure}")

    def found(self, dotted: str, rest: str) -> ConfigError:
        """A fault of a name like 'sources.vici.socket', with `rest` its problem and cure."""
        where: Where = tuple(dotted.split("."))
        problem, _, cure = rest.partition("; ")
        return self.fault(where, problem, cure)

    def known(self, table: Mapping[str, Any], where: Where, keys: tuple[str, ...]) -> None:
        for key in table:
            if key not in keys:
                raise self.fault((*where, key), "no such key", f"known here: {', '.join(keys)}")

    def take(
        self, table: Mapping[str, Any], where: Where, key: str, kind: type | tuple[type, ...], default: Any
    ) -> Any:
        value = table.get(key, MISSING)
        if value is MISSING:
            if default is MISSING:
                raise self.fault(where, f"{key} is missing", f"add {key} = ...")
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kinds):
            names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
            wanted = names.get(kinds[-1], "a list" if list in kinds else "a table")
            secret = "password" in key or key.endswith("_key") or key in ("name", "community")
            shown = "this" if secret else repr(value)
            raise self.fault((*where, key), f"{shown} is not {wanted}", f"write {wanted}")
        return value

    def strings(self, table: Mapping[str, Any], where: Where, key: str, default: Any = ()) -> tuple[str, ...]:
        value = self.take(table, where, key, list, list(default))
        for item in value:
            if not isinstance(item, str):
                raise self.fault((*where, key), f"{item!r} is not a string", "write a list of strings")
        return tuple(value)

    def choice(
        self, table: Mapping[str, Any], where: Where, key: str, choices: tuple[str, ...], default: Any
    ) -> str:
        value: str = self.take(table, where, key, str, default)
        if value not in choices and value != default:
            raise self.fault((*where, key), f"{value!r} is not known", f"use one of {', '.join(choices)}")
        return value

    def tables(self, data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
        value = self.take(data, (), key, list, [])
        if not all(isinstance(item, dict) for item in value):
            raise self.fault((key,), "not a list of tables", f"start each entry with [[{key}]]")
        return list(value)


_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"' -]+?)\s*=")


def _split(name: str) -> list[str]:
    return [part.strip().strip("\"'") for part in name.split(".")]


def _key_lines(text: str) -> dict[Where, int]:
    """Where each table and key starts: path of names (and positions in arrays of tables) -> line number.

    Only for messages: keys inside multi-line strings may be taken for keys, which never hides a fault.
    """
    lines: dict[Where, int] = {}
    counts: dict[Where, int] = {}
    prefix: Where = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            path: Where = ()
            parts = _split(header[2])
            for position, part in enumerate(parts):
                path = (*path, part)
                if header[1] == "[[" and position == len(parts) - 1:
                    counts[path] = counts.get(path, -1) + 1
                    path = (*path, counts[path])
                elif path in counts:
                    path = (*path, counts[path])
            prefix = path
            lines.setdefault(prefix, number)
            continue
        key = _KEY.match(line)
        if key and not line.lstrip().startswith("#"):
            lines.setdefault((*prefix, *_split(key[1])), number)
    return lines

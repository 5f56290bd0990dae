"""Typed access to one section of a tree: every key is asked for, unknown ones are found, errors say where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ipsecstack.config.keys import Treatment, Unsupported
from ipsecstack.config.tree import ConfigError, Section, Value, suggestion
from ipsecstack.config.values import split_list

T = TypeVar("T")
Warn = Callable[[str], None]


class SectionReader:
    """Reads the values of one section. ``path`` is its dotted name for messages; ``warn`` takes warnings.

    Key names are compared without case, as strongSwan does.
    """

    def __init__(self, section: Section, path: str, warn: Warn) -> None:
        self.section = section
        self.path = path
        self.warn = warn
        self._values = {key.lower(): (key, value) for key, value in section.values.items()}
        self._asked: set[str] = set()

    def error(self, key: str, message: str) -> ConfigError:
        found = self._values.get(key)
        origin = found[1].origin if found else self.section.origin
        return ConfigError(origin, f"{self.path}.{key}" if key else self.path, message)

    def value(self, key: str) -> Value | None:
        """The raw value, None when the key is absent."""
        self._asked.add(key)
        found = self._values.get(key)
        return found[1] if found else None

    def get(self, key: str, parse: Callable[[str], T], default: T) -> T:
        """The parsed value of ``key``; a ValueError of ``parse`` becomes an error that names file, line and key."""
        value = self.value(key)
        if value is None:
            return default
        if value.items is not None:
            raise self.error(key, "takes one value, not a list")
        try:
            return parse(self.text(key, value))
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def words(self, key: str) -> tuple[str, ...] | None:
        """A list: comma separated in a file, a VICI list otherwise. None when absent."""
        value = self.value(key)
        if value is None:
            return None
        if value.items is None:
            return tuple(split_list(self.text(key, value)))
        try:
            return tuple(item.decode("utf-8") for item in value.items)
        except UnicodeDecodeError:
            raise self.error(key, "is not UTF-8 text") from None

    def text(self, key: str, value: Value) -> str:
        if value.data is None:
            return value.text
        try:
            return value.data.decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(key, "is not UTF-8 text") from None

    def choice(self, key: str, choices: dict[str, T], default: T) -> T:
        """One of several words, compared without case."""

        def parse(text: str) -> T:
            if text.lower() in choices:
                return choices[text.lower()]
            raise ValueError(f"'{text}' is not one of {', '.join(choices)}{suggestion(text, list(choices))}")

        return self.get(key, parse, default)

    def finish(self, unsupported: dict[str, Unsupported], *, also: Iterable[str] = ()) -> None:
        """Call last: warns of or refuses what is known and unsupported, and refuses keys that nobody asked for."""
        for key, (written, value) in self._values.items():
            if key in self._asked:
                continue
            if key not in unsupported:
                known = sorted(self._asked | set(unsupported) | set(also))
                raise self.error(key, f"unknown key '{written}'{suggestion(key, known)}")
            what = unsupported[key]
            if value.items is None and self.text(key, value).strip().lower() in what.harmless:
                continue
            if value.items == ():
                continue
            if what.treatment is Treatment.REFUSE:
                raise self.error(
                    key, f"is not supported yet, and ignoring it would protect less than it says; {what.cure}"
                )
            self.warn(f"{value.origin}: {self.path}.{key}: is not supported yet and has no effect")

    def no_sections(self) -> None:
        """Refuse every subsection."""
        for name, section in self.section.sections.items():
            raise ConfigError(section.origin, f"{self.path}.{name}", "there is no such section")

    def subsections(self) -> Iterator[tuple[str, Section]]:
        yield from self.section.sections.items()

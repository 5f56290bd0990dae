"""The plain tree that configuration text and VICI messages are both turned into before a schema reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something was written: a file and its line, or (line 0) a VICI command."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


class ConfigError(Exception):
    """Configuration that cannot be used. ``str()`` is ``FILE:LINE: KEY: what is wrong; what to do``.

    ``key`` is the dotted path of the setting, empty when the text itself could not be read. Never holds a secret.
    """

    def __init__(self, origin: Origin | None, key: str, message: str) -> None:
        self.origin = origin
        self.key = key
        self.message = message
        super().__init__(": ".join(str(part) for part in (origin, key, message) if part))


@dataclass(frozen=True, slots=True)
class Value:
    """One value. ``text`` is what a file says; a VICI list has ``items`` instead, octets that may be a certificate.

    Values are kept out of reprs: any of them may be a secret.
    """

    origin: Origin
    text: str = field(default="", repr=False)
    items: tuple[bytes, ...] | None = field(default=None, repr=False)
    data: bytes | None = field(default=None, repr=False)


@dataclass(slots=True)
class Section:
    """A section: its own values and subsections by name, in the order of their first appearance.

    ``references`` names the sections it inherits from, ``origin`` is where it was opened first.
    """

    name: str
    origin: Origin
    values: dict[str, Value] = field(default_factory=dict)
    sections: dict[str, Section] = field(default_factory=dict)
    references: list[tuple[str, Origin]] = field(default_factory=list)
    referenced: bool = False

    def subsection(self, name: str, origin: Origin) -> Section:
        """The subsection of that name, made when it is not there."""
        return self.sections.setdefault(name, Section(name, origin))

    def find(self, path: str) -> Section | None:
        """The section at a dotted path below this one."""
        section: Section | None = self
        for name in path.split("."):
            section = section.sections.get(name) if section else None
        return section

    def walk(self) -> Iterator[Section]:
        """This section and all below it."""
        pending = [self]
        while pending:
            section = pending.pop()
            yield section
            pending.extend(reversed(section.sections.values()))

    def walk_values(self) -> Iterator[tuple[str, Value]]:
        """Every key and value in this section and below."""
        for section in self.walk():
            yield from section.values.items()


def suggestion(word: str, known: Iterator[str] | list[str]) -> str:
    """``; did you mean 'x'?`` for the nearest known word, else an empty text."""
    near = get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""

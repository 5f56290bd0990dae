"""MIB source files on their way through the compiler: the text, its syntax tree, and where each name stands.

The syntax tree is pysmi's (nested tuples, one per clause).  Nothing here imports pysmi.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

_COMMENT_OR_TEXT = re.compile(r'"[^"]*"|--[^\n]*')
_MACRO = re.compile(r"^\s*([A-Z][A-Z0-9-]*)\s+MACRO\b", re.MULTILINE)


CLAUSE_MACROS = {
    "moduleIdentityClause": "MODULE-IDENTITY",
    "objectIdentityClause": "OBJECT-IDENTITY",
    "objectTypeClause": "OBJECT-TYPE",
    "notificationTypeClause": "NOTIFICATION-TYPE",
    "objectGroupClause": "OBJECT-GROUP",
    "notificationGroupClause": "NOTIFICATION-GROUP",
    "moduleComplianceClause": "MODULE-COMPLIANCE",
    "agentCapabilitiesClause": "AGENT-CAPABILITIES",
}
"""The clauses that define a name, and the macro that each uses."""


def _definition(name: str) -> re.Pattern[str]:
    """Matches where a name is defined: before a macro or '::='; not where a SEQUENCE lists it with its type."""
    macros = "|".join(CLAUSE_MACROS.values())
    follows = rf"(?:{macros})(?![\w-])|OBJECT\s+IDENTIFIER\s*::=|::="
    return re.compile(rf"^[ \t]*{re.escape(name)}(?![\w-])\s*(?={follows})", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong with a source, where, and what to do about it.  Line 0: the file as a whole."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        place = f"{_shown(self.path)}:{self.line}" if self.line else _shown(self.path)
        return f"{place}: {self.text}"


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


@dataclass(frozen=True)
class Source:
    """One parsed MIB file.  `clauses` maps a defined name (object, type) to its clause; the first one, if several."""

    path: Path
    text: str
    module: str
    imports: dict[str, list[str]]
    declarations: list[tuple[Any, ...]]
    clauses: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, text: str, tree: tuple[Any, ...]) -> Source:
        """Wrap pysmi's tree of one module: (name, its OID, imports, declarations)."""
        declarations = [d for d in tree[3] or [] if d is not None]
        source = cls(path, text, tree[0], {m: list(s) for m, s in (tree[2] or {}).items()}, declarations)
        for declaration in declarations:
            source.clauses.setdefault(declaration[1], declaration)
        return source

    @property
    def folder(self) -> str:
        """'src', 'base', or whatever the folder of the file is called."""
        return self.path.parent.name

    @cached_property
    def macros(self) -> frozenset[str]:
        """The macros that the module defines (pysmi's tree leaves them out)."""
        return frozenset(_MACRO.findall(self._code))

    @cached_property
    def imported(self) -> dict[str, str]:
        """Imported symbol -> module."""
        return {symbol: module for module, symbols in self.imports.items() for symbol in symbols}

    @cached_property
    def identity(self) -> str:
        """The descriptor of the MODULE-IDENTITY, '' without one."""
        return next((d[1] for d in self.declarations if d[0] == "moduleIdentityClause"), "")

    @cached_property
    def revision(self) -> str:
        """LAST-UPDATED as written, '' without one."""
        return next((d[2][1] for d in self.declarations if d[0] == "moduleIdentityClause"), "")

    @cached_property
    def _code(self) -> str:
        """The text with comments and quoted text blanked out, so that every offset and line stays where it was."""
        return _COMMENT_OR_TEXT.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), self.text)

    def line_of(self, name: str, occurrence: int = 1) -> int:
        """The line that defines a name (1-based; 0 when none does).  The occurrence counts its definitions."""
        return self._line(_definition(name).finditer(self._code), occurrence)

    def line_of_use(self, word: str, after: str = "") -> int:
        """The line of the first use of a word after the definition of a name (or after the file's beginning)."""
        found = _definition(after).search(self._code) if after else None
        use = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])").search(
            self._code, found.end() if found else 0
        )
        return self._code.count("\n", 0, use.start()) + 1 if use else self.line_of(after) if after else 0

    def _line(self, matches: Iterator[re.Match[str]], occurrence: int) -> int:
        for number, match in enumerate(matches, 1):
            if number == occurrence:
                first = len(match.group()) - len(match.group().lstrip())
                return self._code.count("\n", 0, match.start() + first) + 1
        return 0

    def problem(self, text: str, name: str = "", word: str = "") -> Problem:
        """A Problem at the definition of `name`, or at the use of `word` in it."""
        line = self.line_of_use(word, name) if word else self.line_of(name) if name else 1
        return Problem(self.path, line, text)


def clause_oid(clause: tuple[Any, ...]) -> list[Any] | None:
    """The OBJECT IDENTIFIER value of a clause as pysmi gives it: names, numbers and (name, number) pairs."""
    last = clause[-1]
    if isinstance(last, tuple) and last and last[0] == "objectIdentifier":
        return list(last[1])
    return None

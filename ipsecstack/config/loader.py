"""Files -> one tree: includes, repeated sections merged, references to other sections resolved.

The rules are strongSwan's (strongswan.conf(5)): what is written later wins, an empty value removes a key, and a section
inherits every key and subsection of the sections it references unless it has its own.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path

from ipsecstack.config.parser import Block, Include, Setting, Statement, parse
from ipsecstack.config.tree import ConfigError, Origin, Section, Value, suggestion

MAX_FILE_OCTETS = 4 * 1024 * 1024
MAX_INCLUDE_DEPTH = 16
MAX_FILES = 2000
MAX_REFERENCE_CHAIN = 64
MAX_SECTIONS = 200_000

ReadFile = Callable[[Path], bytes]


def read_file(path: Path) -> bytes:
    """A regular file's octets; OSError when it is absent, unreadable, no regular file or too large."""
    if not path.is_file() and path.exists():
        raise OSError(f"{path} is not a regular file")
    with path.open("rb") as stream:
        data = stream.read(MAX_FILE_OCTETS + 1)
    if len(data) > MAX_FILE_OCTETS:
        raise OSError(f"larger than {MAX_FILE_OCTETS} octets")
    return data


def load_tree(path: Path) -> Section:
    """Read a file with everything it includes. Raises ConfigError; nothing is half-done."""
    reader = _Reader()
    reader.file(path, reader.root, None)
    resolve_references(reader.root)
    return reader.root


def tree_from_text(text: str, source: str = "text") -> Section:
    """The tree of a text that includes nothing (tests, command line)."""
    reader = _Reader()
    reader.statements(parse(text, source), reader.root, source, Path("."))
    resolve_references(reader.root)
    return reader.root


class _Reader:
    def __init__(self) -> None:
        self.root = Section("", Origin("", 0))
        self._open: list[Path] = []
        self._count = 0

    def file(self, path: Path, into: Section, origin: Origin | None) -> None:
        real = Path(os.path.realpath(path))
        if real in self._open:
            chain = " -> ".join(str(p) for p in [*self._open[self._open.index(real) :], real])
            raise ConfigError(origin, "include", f"a file includes itself: {chain}; remove one include")
        if len(self._open) >= MAX_INCLUDE_DEPTH:
            raise ConfigError(origin, "include", f"includes are nested more than {MAX_INCLUDE_DEPTH} deep")
        self._count += 1
        if self._count > MAX_FILES:
            raise ConfigError(
                origin, "include", f"more than {MAX_FILES} files are included; narrow the pattern"
            )
        try:
            text = read_file(path).decode("utf-8")
        except OSError as error:
            raise ConfigError(
                origin or Origin(str(path)), "", f"cannot read {path}: {error.strerror or error}"
            ) from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                Origin(str(path)), "", f"octet {error.start} is not UTF-8 text; save the file as UTF-8"
            ) from None
        self._open.append(real)
        self.statements(parse(text, str(path)), into, str(path), path.parent)
        self._open.pop()

    def statements(self, statements: tuple[Statement, ...], into: Section, source: str, folder: Path) -> None:
        for statement in statements:
            if isinstance(statement, Setting):
                into.values[statement.key] = Value(Origin(source, statement.line), statement.value)
            elif isinstance(statement, Include):
                self._include(statement, into, Origin(source, statement.line), folder)
            else:
                self._block(statement, into, source, folder)

    def _block(self, block: Block, into: Section, source: str, folder: Path) -> None:
        section = into.subsection(block.name, Origin(source, block.line))
        known = {name for name, _ in section.references}
        section.references += [
            (name, Origin(source, line)) for name, line in block.references if name not in known
        ]
        self.statements(block.statements, section, source, folder)

    def _include(self, include: Include, into: Section, origin: Origin, folder: Path) -> None:
        pattern = os.path.expanduser(include.pattern)
        # A plain name must be there: a forgotten file would silently lose policy.
        found = [os.path.join(folder, pattern)]
        if glob.has_magic(pattern):
            matches = glob.glob(os.path.join(glob.escape(str(folder)), pattern))
            found = sorted(p for p in matches if os.path.isfile(p))
        for name in found:
            self.file(Path(name), into, origin)


def resolve_references(root: Section) -> None:
    """Copy inherited keys and subsections into the sections that reference them; drop removed (empty) keys."""
    done: set[int] = set()
    budget = [MAX_SECTIONS]
    for section in list(root.walk()):
        _resolve(section, root, done, [], budget)
    for section in root.walk():
        for key in [key for key, value in section.values.items() if value.text == "" and value.items is None]:
            del section.values[key]


def _resolve(section: Section, root: Section, done: set[int], path: list[Section], budget: list[int]) -> None:
    if id(section) in done:
        return
    if any(section is other for other in path):
        names = " -> ".join(s.name for s in [*path, section])
        raise ConfigError(section.origin, section.name, f"sections reference each other in a circle: {names}")
    if len(path) >= MAX_REFERENCE_CHAIN:
        raise ConfigError(
            section.origin, section.name, f"references chain over more than {MAX_REFERENCE_CHAIN}"
        )
    path.append(section)
    for name, origin in section.references:
        target = root.find(name)
        if target is None:
            raise ConfigError(
                origin, section.name,
                f"referenced section '{name}' does not exist{suggestion(name, list(root.sections))}",
            )  # fmt: skip
        target.referenced = True
        for part in target.walk():
            _resolve(part, root, done, path, budget)
        if any(part is section for part in target.walk()):
            raise ConfigError(origin, section.name, f"the section lies inside '{name}' which it references")
        _inherit(section, target, budget)
    path.pop()
    done.add(id(section))


def _inherit(into: Section, base: Section, budget: list[int]) -> None:
    """What ``into`` lacks is copied from ``base``; an empty value of its own counts as having it (removed)."""
    for key, value in base.values.items():
        into.values.setdefault(key, value)
    for name, section in base.sections.items():
        budget[0] -= 1
        if budget[0] < 0:
            raise ConfigError(into.origin, into.name, "references multiply into too many sections")
        _inherit(into.subsection(name, section.origin), section, budget)

"""Compile the MIB modules: `python -m mibs.build`.

Every `*.mib` in `mibs/src` and `mibs/base` is parsed and translated by pysmi into JSON without texts, one file a
module, and merged into `mibs/compiled/index.json`, which is what the agent loads.  Nothing is read from anywhere else.

The work is done only when a source, this compiler or pysmi changed since the last time.  Equal sources give equal
files.  Each file is written beside its place and renamed, the index last, so that an interrupted or failed run leaves
the earlier output as it was.  What is wrong with the sources is listed with file and line; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mibs.checks import check, cycles
from mibs.loader import COMPILED, FORMAT, INDEX_FILE
from mibs.merge import MergeError, Merger
from mibs.source import Problem, Source

HERE = Path(__file__).resolve().parent
FOLDERS = (HERE / "src", HERE / "base")
SUFFIX = ".mib"
LARGEST = 4 * 1024 * 1024
_COMPILER = ("build.py", "checks.py", "merge.py", "source.py")
_TEMPORARY = ".build-"


class BuildError(Exception):
    """The modules cannot be compiled.  `problems` are in the order of files and lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems))
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Report:
    """What a build did: the modules there are now, and whether anything was written."""

    modules: tuple[str, ...]
    output: Path
    written: bool


def build(folders: Sequence[Path] = FOLDERS, output: Path = COMPILED, force: bool = False) -> Report:
    """Compile all modules in the folders into `output` unless it is up to date.

    Raises BuildError, with a Problem for everything that was found wrong, and then leaves `output` as it was.
    """
    files = _read(folders)
    fingerprint = _fingerprint(files)
    if not force:
        modules = _up_to_date(output, fingerprint)
        if modules is not None:
            return Report(modules, output, False)
    sources = _parse(files)
    problems = check(sources)
    if problems:
        raise BuildError(problems)
    documents = _generate(sources)
    try:
        index = Merger(sources, documents).index()
    except MergeError as error:
        raise BuildError([error.problem]) from error
    contents = {
        f"{sources[name].path.name}.json": _text(document) for name, document in sorted(documents.items())
    }
    index["fingerprint"] = fingerprint
    index["files"] = {name: hashlib.sha256(text).hexdigest() for name, text in contents.items()}
    _write(output, contents, _compact(index))
    return Report(tuple(sorted(documents)), output, True)


def _read(folders: Sequence[Path]) -> dict[Path, bytes]:
    files: dict[Path, bytes] = {}
    problems = []
    for folder in folders:
        try:
            paths = sorted(p for p in folder.iterdir() if p.suffix == SUFFIX)
        except OSError as error:
            problems.append(
                Problem(folder, 0, f"cannot be read: {error.strerror}; MIB sources are expected here")
            )
            continue
        for path in paths:
            try:
                with path.open("rb") as stream:
                    files[path] = stream.read(LARGEST + 1)
            except OSError as error:
                problems.append(
                    Problem(path, 0, f"cannot be read: {error.strerror}; make it a readable file")
                )
                continue
            if len(files[path]) > LARGEST:
                problems.append(Problem(path, 0, f"is larger than {LARGEST} octets; that is no MIB module"))
    if not files and not problems:
        problems.append(Problem(folders[0], 0, f"holds no *{SUFFIX} file; the MIB sources are missing"))
    if problems:
        raise BuildError(problems)
    return files


def _fingerprint(files: Mapping[Path, bytes]) -> str:
    """A digest of everything that the output depends on."""
    digest = hashlib.sha256(f"{FORMAT} pysmi {metadata.version('pysmi')}".encode())
    for name in _COMPILER:
        digest.update(hashlib.sha256((HERE / name).read_bytes()).digest())
    for path, content in files.items():
        digest.update(f"\n{path.parent.name}/{path.name} ".encode())
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _up_to_date(output: Path, fingerprint: str) -> tuple[str, ...] | None:
    """The modules of an output that needs no work, else None."""
    try:
        index = json.loads((output / INDEX_FILE).read_bytes())
        if index["fingerprint"] != fingerprint:
            return None
        for name, digest in index["files"].items():
            if hashlib.sha256((output / name).read_bytes()).hexdigest() != digest:
                return None
        return tuple(index["modules"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@cache
def _parser() -> Any:
    """pysmi's parser; making one takes longer than parsing a module."""
    from pysmi.parser import SmiV2Parser

    return SmiV2Parser()


def _parse(files: Mapping[Path, bytes]) -> dict[str, Source]:
    """Parse all files.  Raises BuildError with the syntax errors of all of them."""
    parser = _parser()
    sources: dict[str, Source] = {}
    problems: list[Problem] = []
    for path, content in files.items():
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            problems.append(Problem(path, line, "is not UTF-8 here; MIB modules are ASCII or UTF-8 text"))
            continue
        try:
            trees = parser.parse(text)
        except Exception as error:  # pysmi passes on what lark and its own tree builder raise
            problems.append(_syntax_problem(path, text, error))
            continue
        if len(trees) != 1:
            what = "holds no module" if not trees else f"holds {len(trees)} modules"
            problems.append(Problem(path, 1, f"{what}; write exactly one into each file"))
            continue
        source = Source.of(path, text, trees[0])
        if source.module != path.stem:
            problems.append(source.problem(f"defines {source.module}; name the file {source.module}{SUFFIX}"))
        elif source.module in sources:
            other = sources[source.module].path
            problems.append(
                source.problem(f"{source.module} is also defined by {other}; drop one of the two")
            )
        else:
            sources[source.module] = source
    if problems:
        raise BuildError(problems)
    return sources


def _syntax_problem(path: Path, text: str, error: Exception) -> Problem:
    """A parser's exception as a Problem: the line, what stands there, and the usual reason."""
    cause = error.__cause__ or error
    line = getattr(cause, "line", None) or getattr(error, "lineno", None)
    lines = text.splitlines() or [""]
    position = getattr(cause, "pos_in_stream", None)
    token = getattr(cause, "token", None)
    if token is not None and not str(token):
        last = max((n for n, content in enumerate(lines, 1) if content.strip()), default=1)
        return Problem(
            path, last, "the file ends in the middle of a definition; is it truncated? It must close with END"
        )
    if not isinstance(line, int) or line < 1:
        return Problem(path, 0, f"cannot be parsed: {error}")
    found = str(token) if token is not None else _word(text, position)
    if found.startswith('"'):
        reason = "this text has no closing quote, or a definition before it is incomplete"
    elif found == "END":
        reason = "the module ends here although a definition is incomplete"
    else:
        reason = "check this definition and the end of the one before it"
    return Problem(path, line, f"syntax error at {found[:40]!r}: {reason}")


def _word(text: str, position: int | None) -> str:
    if position is None or not 0 <= position < len(text):
        return ""
    found = re.compile(r'"|[\w-]+|\S').match(text, position)
    return found.group() if found else text[position]


def _generate(sources: Mapping[str, Source]) -> dict[str, dict[str, Any]]:
    """pysmi's JSON of every module, in the order of their imports.  Raises BuildError."""
    from pysmi.codegen import JsonCodeGen
    from pysmi.codegen.symtable import SymtableCodeGen
    from pysmi.error import PySmiError

    tree = {name: _tree(source) for name, source in sources.items()}
    symbols, generator = SymtableCodeGen(), JsonCodeGen()
    tables: dict[str, Any] = {}
    documents: dict[str, dict[str, Any]] = {}
    problems = []
    # pysmi gives every module imports from these three, so their symbols must be there before anything is generated
    order = sorted(_ordered(sources), key=lambda name: not name.startswith("SNMPv2-"))
    for step in ("symbols", "documents"):
        for name in order:
            try:
                if step == "symbols":
                    _, tables[name] = symbols.gen_code(tree[name], tables)
                else:
                    _, text = generator.gen_code(tree[name], tables, comments=[], genTexts=False)
                    documents[name] = json.loads(text)
            except (PySmiError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                problems.append(_generator_problem(sources[name], error))
        if problems:
            raise BuildError(problems)
    return documents


def _tree(source: Source) -> tuple[Any, ...]:
    return (source.module, None, {m: list(s) for m, s in source.imports.items()}, source.declarations)


def _generator_problem(source: Source, error: Exception) -> Problem:
    """pysmi names the symbol that it stumbled over, if anything: find its line."""
    for word in re.findall(r"[A-Za-z][\w-]*", str(error)):
        if word in source.clauses:
            return source.problem(f"pysmi cannot compile {word}: {error}", word)
    return source.problem(f"pysmi cannot compile {source.module}: {type(error).__name__} {error}")


def _ordered(sources: Mapping[str, Source]) -> list[str]:
    """Module names, each after those that it imports from (they import in no circle: that was checked)."""
    edges = {name: sorted(m for m in source.imports if m in sources) for name, source in sources.items()}
    assert not cycles(edges)
    order: list[str] = []
    while len(order) < len(edges):
        order += [n for n in sorted(edges) if n not in order and all(m in order for m in edges[n])]
    return order


def _text(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _compact(index: Mapping[str, Any]) -> bytes:
    return (json.dumps(index, separators=(",", ":"), sort_keys=True, ensure_ascii=False) + "\n").encode()


def _write(output: Path, contents: Mapping[str, bytes], index: bytes) -> None:
    """Put all files in place, the index last, and drop those of modules that are gone.  Raises BuildError."""
    temporary: dict[str, Path] = {}
    try:
        output.mkdir(parents=True, exist_ok=True)
        _sweep(output)
        for name, content in (*contents.items(), (INDEX_FILE, index)):
            handle, path = tempfile.mkstemp(prefix=_TEMPORARY, dir=output)
            temporary[name] = Path(path)
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(path, 0o644)
        for name in contents:
            temporary[name].replace(output / name)
        temporary[INDEX_FILE].replace(output / INDEX_FILE)
        for stale in output.glob("*.json"):
            if stale.name not in contents and stale.name != INDEX_FILE:
                stale.unlink(missing_ok=True)
    except OSError as error:
        text = f"cannot be written: {error.strerror}; make room or correct its permissions and build again"
        raise BuildError([Problem(output, 0, text)]) from error
    finally:
        for left in temporary.values():
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def _sweep(output: Path) -> None:
    """Remove what a killed build left, but nothing that another one is writing now."""
    for path in output.glob(_TEMPORARY + "*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 600:
                path.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line.  Exit status 0 when the output is up to date now, 1 when the sources are at fault."""
    parser = argparse.ArgumentParser(
        prog="python -m mibs.build", description="Compile the MIB modules with pysmi."
    )
    parser.add_argument("--force", action="store_true", help="compile even when nothing changed")
    parser.add_argument(
        "--output", type=Path, default=COMPILED, help="folder to write (default: %(default)s)"
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, help="folders with *.mib (default: mibs/src mibs/base)"
    )
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        report = build(options.folders or FOLDERS, options.output, options.force)
    except BuildError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        count = len(error.problems)
        print(f"mibs: {count} problem{'s' * (count != 1)}, nothing was written", file=sys.stderr)
        return 1
    count, seconds = len(report.modules), time.monotonic() - started
    if report.written:
        print(f"mibs: {count} modules compiled into {report.output} in {seconds:.1f} s")
    else:
        print(f"mibs: {count} modules in {report.output} are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())

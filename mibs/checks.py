"""What pysmi does not find wrong with a set of MIB modules, each with file, line and what to do about it.

pysmi resolves names late, adds imports that a module forgot, and stops at the first fault without saying where.  These
checks run on its syntax trees before it generates anything, so that an author sees all faults of all files at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mibs.source import CLAUSE_MACROS, Problem, Source, clause_oid

BUILT_IN_TYPES = frozenset(("INTEGER", "OCTET STRING", "OBJECT IDENTIFIER", "BITS", "Bits"))
# Types and nodes that ASN.1 or pysmi's grammar give without a declaration.
ROOTS = frozenset(("iso", "ccitt", "joint-iso-ccitt"))
ACCESS = ("not-accessible", "accessible-for-notify", "read-only", "read-write", "read-create")
STATUS = ("current", "deprecated", "obsolete")
_DEFINED_BY_SMI = frozenset(("SNMPv2-SMI", "SNMPv2-TC", "SNMPv2-CONF"))


def check(sources: Mapping[str, Source]) -> list[Problem]:
    """All problems of a set of modules that import each other."""
    problems: list[Problem] = []
    for source in sources.values():
        problems += _names(source)
        problems += _imports(source, sources)
        problems += _clauses(source)
        problems += _types(source)
    problems += _import_cycles(sources)
    problems += _type_cycles(sources)
    if not problems:
        problems += _oids(sources)
    return sorted(set(problems))


def _names(source: Source) -> Iterator[Problem]:
    """Names defined twice, or defined although they are imported."""
    seen: dict[str, int] = {}
    for declaration in source.declarations:
        name = declaration[1]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            first, again = source.line_of(name), source.line_of(name, seen[name])
            yield Problem(
                source.path, again, f"{name} is defined twice, first in line {first}; rename one of them"
            )
        elif name in source.imported and source.module not in _DEFINED_BY_SMI:
            module = source.imported[name]
            yield source.problem(
                f"{name} is imported from {module} and defined here; drop one of the two", name
            )


def _imports(source: Source, sources: Mapping[str, Source]) -> Iterator[Problem]:
    for module, symbols in source.imports.items():
        if module not in sources:
            hint = (
                "correct the name, or write the definitions that are needed as mibs/base/" + module + ".mib"
            )
            yield source.problem(f"imports from {module}, but there is no such module: {hint}", word=module)
            continue
        exporter = sources[module]
        for symbol in symbols:
            if symbol not in exporter.clauses and symbol not in exporter.macros:
                text = f"imports {symbol}, which {module} does not define; correct the name or add it there"
                yield source.problem(text, word=symbol)


def _import_cycles(sources: Mapping[str, Source]) -> Iterator[Problem]:
    edges = {name: [m for m in source.imports if m in sources] for name, source in sources.items()}
    for cycle in cycles(edges):
        source = sources[cycle[0]]
        path = " -> ".join((*cycle, cycle[0]))
        following = cycle[1] if len(cycle) > 1 else cycle[0]
        text = f"modules import each other in a circle ({path}); move what both need into a third"
        yield source.problem(text, word=following)


def cycles(edges: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """One cycle through each strongly connected part of a graph, each starting at its alphabetically first node."""
    state: dict[str, int] = {}
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for root in sorted(edges):
        if root in state:
            continue
        state[root] = 1
        trail = [(root, iter(sorted(edges[root])))]
        while trail:
            node, successors = trail[-1]
            for successor in successors:
                if successor not in edges:
                    continue
                if state.get(successor) == 1:
                    names = [entry[0] for entry in trail]
                    ring = names[names.index(successor) :]
                    start = ring.index(min(ring))
                    found.setdefault(frozenset(ring), (*ring[start:], *ring[:start]))
                elif successor not in state:
                    state[successor] = 1
                    trail.append((successor, iter(sorted(edges[successor]))))
                    break
            else:
                state[node] = 2
                trail.pop()
    return [found[key] for key in sorted(found, key=sorted)]


def _known(source: Source, name: str) -> bool:
    return name in source.clauses or name in source.imported or name in ROOTS


def _clauses(source: Source) -> Iterator[Problem]:
    """Words, macros and references of every clause."""
    for clause in source.declarations:
        kind, name = clause[0], clause[1]
        macro = CLAUSE_MACROS.get(kind)
        if macro and macro not in source.imported and macro not in source.macros:
            yield source.problem(f"{name} uses {macro}, which is not imported; add it to IMPORTS", name)
        for part in clause:
            if isinstance(part, tuple) and part and part[0] == "Status" and part[1] not in STATUS:
                text = f"STATUS of {name} is {part[1]}; it must be one of {', '.join(STATUS)}"
                yield source.problem(text, name, str(part[1]))
            if isinstance(part, tuple) and part and part[0] == "MaxAccessPart" and part[1] not in ACCESS:
                text = f"MAX-ACCESS of {name} is {part[1]}; it must be one of {', '.join(ACCESS)}"
                yield source.problem(text, name, str(part[1]))
        for label, names in _references(clause):
            for reference in names:
                if not _known(source, reference):
                    text = f"{label} of {name} names {reference}, which is neither defined here nor imported"
                    yield source.problem(f"{text}; correct it, define it, or import it", name, reference)
        yield from _oid_parts(source, clause)
        if kind == "typeDeclaration":
            yield from _sequence(source, clause)


def _references(clause: tuple[Any, ...]) -> Iterator[tuple[str, list[str]]]:
    kind = clause[0]
    if kind == "objectTypeClause":
        for part in clause[2:]:
            if isinstance(part, tuple) and part:
                if part[0] == "INDEX":
                    yield "INDEX", [entry[1] for entry in part[1] if isinstance(entry[1], str)]
                elif part[0] == "AUGMENTS":
                    yield "AUGMENTS", [part[1]] if isinstance(part[1], str) else []
    elif kind in ("notificationTypeClause", "objectGroupClause", "notificationGroupClause"):
        members = clause[2]
        if isinstance(members, tuple) and len(members) == 2 and isinstance(members[1], list):
            label = "NOTIFICATIONS" if kind == "notificationGroupClause" else "OBJECTS"
            yield label, [m for m in members[1] if isinstance(m, str)]
    elif kind == "moduleComplianceClause":
        for part in clause:
            if isinstance(part, tuple) and part and part[0] == "ComplianceModules":
                for module, groups in part[1]:
                    if module is None:
                        yield "a group", [g for g in groups if isinstance(g, str)]


def _oid_parts(source: Source, clause: tuple[Any, ...]) -> Iterator[Problem]:
    parts = clause_oid(clause)
    if parts is None:
        return
    name = clause[1]
    for position, part in enumerate(parts):
        number = part[1] if isinstance(part, tuple) else part
        if isinstance(number, str):
            if position or not _known(source, number):
                text = f"the OID of {name} starts at {number}, which is neither defined here nor imported"
                yield source.problem(f"{text}; define it or import it", name, number)
        elif not 0 <= number < 2**32:
            text = f"the OID of {name} has the sub-identifier {number}; it must be 0 to 4294967295"
            yield source.problem(text, name, str(number))


def _sequence(source: Source, clause: tuple[Any, ...]) -> Iterator[Problem]:
    """A conceptual row's SEQUENCE must list the row's columns, all of them and in order (RFC 2578 section 7.1.12)."""
    right = clause[2]
    if not (right and isinstance(right[-1], tuple) and right[-1] and right[-1][0] == "SEQUENCE"):
        return
    listed = {member[0]: member[1] for member in right[-1][1]}
    row = next(
        (c[1] for c in source.declarations if c[0] == "objectTypeClause" and c[2] == ("row", clause[1])), None
    )
    if row is None:
        text = f"no conceptual row has the SYNTAX {clause[1]}; define the row or drop the SEQUENCE"
        yield source.problem(text, clause[1])
        return
    columns = []
    for other in source.declarations:
        parts = clause_oid(other) if other[0] == "objectTypeClause" else None
        if parts and parts[0] == row and len(parts) == 2:
            columns.append((parts[1], other[1]))
    names = [name for _, name in columns]
    for name in listed:
        if name not in names:
            text = f"the SEQUENCE {clause[1]} lists {name}, which is no column of {row}; define it or drop it"
            yield source.problem(text, clause[1], name)
    for name in names:
        used = type_name(source.clauses[name][2]) or "BITS"
        if name in listed and isinstance(listed[name], str) and listed[name] != used:
            text = f"the SEQUENCE {clause[1]} gives {name} the type {listed[name]}, the column has {used}; correct it"
            yield source.problem(text, clause[1], name)
        if name not in listed:
            yield source.problem(
                f"{name} is a column of {row} and missing in the SEQUENCE {clause[1]}; add it", name
            )


def _syntaxes(clause: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The syntax parts of a clause: ('SimpleSyntax', type, ...), ('row', type), ('conceptualTable', ...), ..."""
    if clause[0] == "objectTypeClause" and isinstance(clause[2], tuple):
        yield clause[2]
    elif clause[0] == "typeDeclaration" and isinstance(clause[2], tuple) and isinstance(clause[2][-1], tuple):
        yield clause[2][-1]


def type_name(syntax: tuple[Any, ...]) -> str | None:
    """The type that a syntax part names, None for a SEQUENCE or BITS."""
    if syntax[0] in ("SimpleSyntax", "ApplicationSyntax", "row") and isinstance(syntax[1], str):
        return syntax[1]
    if syntax[0] == "conceptualTable":
        return type_name(syntax[1])
    return None


def _types(source: Source) -> Iterator[Problem]:
    for clause in source.declarations:
        name = clause[1]
        for syntax in _syntaxes(clause):
            used = type_name(syntax)
            if used is not None and used not in BUILT_IN_TYPES and not _known(source, used):
                text = f"the SYNTAX of {name} is {used}, which is neither defined here nor imported"
                yield source.problem(f"{text}; correct it or import it", name, used)
            for part in syntax[1:]:
                if isinstance(part, tuple) and part and part[0] == "enumSpec":
                    yield from _enumeration(source, name, part[1])
            if syntax[0] == "BITS" and isinstance(syntax[1], list):
                yield from _enumeration(source, name, syntax[1])


def _enumeration(source: Source, name: str, members: list[tuple[str, int]]) -> Iterator[Problem]:
    labels: dict[str, int] = {}
    numbers: dict[int, str] = {}
    for label, number in members:
        if label in labels:
            text = f"{name} gives the label {label} to {labels[label]} and to {number}; rename one"
            yield source.problem(text, name, label)
        elif number in numbers:
            text = f"{name} gives the number {number} to {numbers[number]} and to {label}; change one"
            yield source.problem(text, name, label)
        labels.setdefault(label, number)
        numbers.setdefault(number, label)


def _type_cycles(sources: Mapping[str, Source]) -> Iterator[Problem]:
    edges: dict[str, list[str]] = {}
    for source in sources.values():
        for clause in source.declarations:
            if clause[0] != "typeDeclaration":
                continue
            for syntax in _syntaxes(clause):
                used = type_name(syntax)
                if used is not None and used != clause[1] and syntax[0] == "row":
                    edges.setdefault(f"{source.module}::{clause[1]}", []).append(
                        f"{source.imported.get(used, source.module)}::{used}"
                    )
                elif used == clause[1] and syntax[0] == "row":
                    edges[f"{source.module}::{used}"] = [f"{source.module}::{used}"]
    for cycle in cycles(edges):
        module, _, name = cycle[0].partition("::")
        path = " -> ".join((*cycle, cycle[0]))
        yield sources[module].problem(f"types are defined by each other ({path}); give one a base type", name)


def _oids(sources: Mapping[str, Source]) -> Iterator[Problem]:
    """OIDs that go in a circle, and objects registered at one OID (names of mere nodes may share it)."""
    resolved: dict[tuple[str, str], tuple[int, ...] | None] = {}
    taken: dict[tuple[int, ...], tuple[Source, str]] = {}
    for source in sources.values():
        for clause in source.declarations:
            if clause_oid(clause) is None:
                continue
            name = clause[1]
            oid = _resolve(sources, source, name, resolved)
            if oid is None:
                text = (
                    f"the OID of {name} leads back to itself; give one of its ancestors a place in the tree"
                )
                yield source.problem(text, name)
            elif clause[0] not in ("valueDeclaration", "objectIdentityClause"):
                if oid in taken:
                    other, first = taken[oid]
                    at = f"{other.path.name} line {other.line_of(first)}"
                    text = f"{name} and {first} ({at}) are both registered at {'.'.join(map(str, oid))}; renumber one"
                    yield source.problem(text, name)
                taken.setdefault(oid, (source, name))


def _resolve(
    sources: Mapping[str, Source],
    source: Source,
    name: str,
    resolved: dict[tuple[str, str], tuple[int, ...] | None],
) -> tuple[int, ...] | None:
    """The numeric OID of a name, None when its definition leads back to itself."""
    trail: list[tuple[Source, str]] = []
    entered = set()
    here, wanted = source, name
    while (here.module, wanted) not in resolved:
        if (here.module, wanted) in entered:
            for entry, label in trail:
                resolved[entry.module, label] = None
            return None
        entered.add((here.module, wanted))
        trail.append((here, wanted))
        parts = clause_oid(here.clauses[wanted])
        first = parts[0] if parts else None
        if not isinstance(first, str) or (first in ROOTS and first not in here.clauses):
            break
        if first not in here.clauses:
            here = sources[here.imported[first]]
        wanted = first
    for entry, label in reversed(trail):
        parts = clause_oid(entry.clauses[label]) or []
        base: tuple[int, ...] | None = ()
        if parts and isinstance(parts[0], str):
            if parts[0] in ROOTS and parts[0] not in entry.clauses:
                base = ({"ccitt": 0, "iso": 1, "joint-iso-ccitt": 2}[parts[0]],)
            else:
                holder = entry if parts[0] in entry.clauses else sources[entry.imported[parts[0]]]
                base = resolved.get((holder.module, parts[0]))
            parts = parts[1:]
        numbers = tuple(int(p[1] if isinstance(p, tuple) else p) for p in parts)
        resolved[entry.module, label] = None if base is None else base + numbers
    return resolved[source.module, name]

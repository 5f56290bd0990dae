"""pysmi's JSON of many modules, merged into the one index that `mibs.loader` reads.

Each object's SYNTAX is followed through its textual conventions to the base type here, once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mibs.loader import FORMAT
from mibs.source import Problem, Source

BASES = {
    "INTEGER": "Integer32",
    "Integer32": "Integer32",
    "Unsigned32": "Unsigned32",
    "Counter32": "Counter32",
    "Gauge32": "Gauge32",
    "Counter64": "Counter64",
    "TimeTicks": "TimeTicks",
    "OCTET STRING": "OCTET STRING",
    "OBJECT IDENTIFIER": "OBJECT IDENTIFIER",
    "IpAddress": "IpAddress",
    "Opaque": "Opaque",
    "Bits": "BITS",
    "BITS": "BITS",
}
"""The types of SMIv2 itself (RFC 2578 section 7.1) by the name that pysmi gives them."""

KINDS = {
    "notificationtype": "notification",
    "objectgroup": "group",
    "notificationgroup": "notification-group",
    "modulecompliance": "compliance",
    "objectidentity": "node",
    "moduleidentity": "node",
    "agentcapabilities": "node",
}

Document = Mapping[str, Any]


class MergeError(Exception):
    """The modules are well formed one by one but do not fit together; `problem` says where."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Merger:
    """Builds the index of a set of modules.  `documents` holds pysmi's JSON by module name."""

    def __init__(self, sources: Mapping[str, Source], documents: Mapping[str, Document]) -> None:
        self.sources = sources
        self.documents = documents
        self._syntaxes: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}
        self._rows: dict[tuple[str, str], Mapping[str, Any]] = {}
        for module, document in documents.items():
            for entry in document.values():
                if entry.get("nodetype") == "row":
                    self._rows[module, entry["name"]] = entry

    def index(self) -> dict[str, Any]:
        """The whole index but for the fingerprint.  Raises MergeError."""
        modules = {name: self._module(name) for name in sorted(self.documents)}
        return {"format": FORMAT, "modules": modules, "syntaxes": self._syntaxes}

    def _module(self, module: str) -> dict[str, Any]:
        source, document = self.sources[module], self.documents[module]
        entries = [e for e in document.values() if isinstance(e, dict) and "oid" in e and "class" in e]
        objects = [self._object(module, entry) for entry in entries]
        objects.sort(key=lambda o: (tuple(map(int, o["oid"].split("."))), o["name"]))
        self._relate(objects)
        types = {}
        for entry in document.values():
            if entry.get("class") in ("type", "textualconvention") and source.module != "SNMPv2-SMI":
                types[entry["name"]] = self._number(self._type(module, entry["name"]))
        row: dict[str, Any] = {"folder": source.folder, "imports": sorted(source.imports), "objects": objects}
        if source.identity:
            row |= {"identity": source.identity, "revision": source.revision}
        if types:
            row["types"] = dict(sorted(types.items()))
        return row

    def _object(self, module: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        name = entry["name"]
        kind = entry["nodetype"] if entry["class"] == "objecttype" else KINDS[entry["class"]]
        result: dict[str, Any] = {"name": name, "oid": entry["oid"], "kind": kind}
        if entry.get("status"):
            result["status"] = entry["status"]
        if entry.get("maxaccess"):
            result["access"] = entry["maxaccess"]
        if kind in ("scalar", "column"):
            syntax = self._syntax(module, name, entry["syntax"])
            result["syntax"] = self._number(syntax)
            default = _default(entry.get("default", {}).get("default", {}))
            if default is not None:
                result["default"] = default
            elif _written_default(self.sources[module].clauses[name]) == []:
                result["default"] = ""  # BITS with none set
            elif _written_default(self.sources[module].clauses[name]) is not None:
                # pysmi drops a DEFVAL that does not fit
                text = f"the DEFVAL of {name} is no value of its SYNTAX; correct one of the two"
                raise MergeError(self.sources[module].problem(text, name, "DEFVAL"))
            if entry.get("units"):
                result["units"] = entry["units"]
        elif kind == "row":
            result |= self._index(module, entry)
        elif kind == "notification":
            result["access"] = "accessible-for-notify"
        members = entry.get("modulecompliance") if kind == "compliance" else entry.get("objects")
        if members:
            result["objects"] = [member["object"] for member in members]
        return result

    def _index(self, module: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        """INDEX of a row, through AUGMENTS if need be.  Raises MergeError when there is none."""
        source = self.sources[module]
        if "augmention" in entry:
            base = entry["augmention"]["object"]
            home = source.imported.get(base, module)
            row = self._rows.get((home, base))
            if row is None or "indices" not in row:
                text = f"{entry['name']} AUGMENTS {base}, which is no conceptual row with an INDEX; correct the name"
                raise MergeError(source.problem(text, entry["name"], base))
            return self._index(home, row) | {"augments": base}
        parts = []
        for part in entry.get("indices", ()):
            name = part["object"]
            home = source.imported.get(name, module)
            column = self.documents[home].get(name.replace("-", "_"), {})
            if column.get("class") != "objecttype" or column.get("nodetype") in ("table", "row"):
                text = f"the INDEX of {entry['name']} names {name}, which is no column; correct it"
                raise MergeError(source.problem(text, entry["name"], name))
            parts.append([name, home, 1] if part.get("implied") else [name, home])
        if not parts:
            text = f"the row {entry['name']} has neither INDEX nor AUGMENTS; add one"
            raise MergeError(source.problem(text, entry["name"]))
        return {"index": parts}

    @staticmethod
    def _relate(objects: list[dict[str, Any]]) -> None:
        """Name the row of each table and column, and the columns of each row."""
        by_oid = {o["oid"]: o for o in objects if o["kind"] in ("table", "row", "column")}
        for entry in objects:
            parent = by_oid.get(entry["oid"].rpartition(".")[0])
            if entry["kind"] == "row" and parent is not None:
                parent["row"] = entry["name"]
            elif entry["kind"] == "column" and parent is not None:
                entry["row"] = parent["name"]
                parent.setdefault("columns", []).append(entry["name"])

    def _number(self, syntax: dict[str, Any]) -> int:
        key = json.dumps(syntax, sort_keys=True)
        if key not in self._numbers:
            self._numbers[key] = len(self._syntaxes)
            self._syntaxes.append(syntax)
        return self._numbers[key]

    def _type(self, module: str, name: str) -> dict[str, Any]:
        """A textual convention as a Syntax of its own name."""
        return self._syntax(module, name, {"type": name})

    def _syntax(self, module: str, where: str, syntax: Mapping[str, Any]) -> dict[str, Any]:
        """Follow a SYNTAX down; the nearest clause that gives numbers, ranges, sizes or a hint is the one in force."""
        result: dict[str, Any] = {"name": "BITS" if syntax["type"] == "Bits" else syntax["type"]}
        home, here, steps = module, syntax, []
        while True:
            self._constrain(result, here)
            name = here["type"]
            document = self.documents[home]
            if name not in document or document[name].get("class") not in ("type", "textualconvention"):
                imported = self.sources[home].imported.get(name)
                if name in BASES and (imported is None or imported == "SNMPv2-SMI"):
                    break
                if imported is None or name not in self.documents[imported]:
                    text = f"the SYNTAX of {where} leads to {name}, which is not defined; define or import it"
                    raise MergeError(self.sources[home].problem(text, word=name))
                home = imported
            if home == "SNMPv2-SMI" and name in BASES:
                break
            definition = self.documents[home][name]
            steps.append((name, home))
            if definition.get("displayhint"):
                result.setdefault("hint", definition["displayhint"])
            here = definition["type"]
        result["base"] = BASES[name]
        if steps:
            result["module"] = steps[0][1]
            result["types"] = [step[0] for step in steps]
        return result

    @staticmethod
    def _constrain(result: dict[str, Any], syntax: Mapping[str, Any]) -> None:
        constraints = syntax.get("constraints", {})
        named = syntax.get("bits") or constraints.get("enumeration")
        if named and "named" not in result:
            result["named"] = sorted(([label, number] for label, number in named.items()), key=lambda p: p[1])
        for ours, theirs in (("ranges", "range"), ("sizes", "size")):
            if constraints.get(theirs) and ours not in result:
                result[ours] = sorted([entry["min"], entry["max"]] for entry in constraints[theirs])


def _written_default(clause: tuple[Any, ...]) -> Any:
    """DEFVAL as it stands in the source, None without one."""
    return next((p[1] for p in clause if isinstance(p, tuple) and p and p[0] == "DEFVAL"), None)


def _default(default: Mapping[str, Any]) -> int | str | None:
    """A DEFVAL as pysmi gives it, in the loader's form."""
    value, form = default.get("value"), default.get("format")
    if value is None:
        return None
    if form == "decimal":
        return int(value)
    if form == "hex":
        return "0x" + str(value)
    if form == "bits":
        named = value["bits"]
        return ", ".join(sorted(named, key=lambda label: named[label]))
    return str(value)

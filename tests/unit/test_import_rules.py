"""The layers, enforced: every import of every module, read with `ast` and held against the table below.

The table is the one of docs/architecture.md. `test_planted_*` prove on small trees that each rule bites.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

STDLIB = frozenset(sys.stdlib_module_names)

# Modules and functions through which a clock, randomness, the network or a scheduler gets in.
IMPURE_MODULES = frozenset(
    {
        "asyncio",
        "concurrent",
        "multiprocessing",
        "random",
        "sched",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "socketserver",
        "ssl",
        "subprocess",
        "threading",
        "time",
        "uuid",
    }
)
IMPURE_NAMES = frozenset(
    {
        "datetime.date.today",
        "datetime.datetime.now",
        "datetime.datetime.today",
        "datetime.datetime.utcnow",
        "os.getrandom",
        "os.urandom",
    }
)


@dataclass(frozen=True)
class Rule:
    """What the modules of one package may import beside the standard library and themselves.

    `internal`: dotted prefixes inside this project; `third_party`: top-level names from elsewhere; `pure`: no
    clock, randomness, sockets or scheduler; `no_stdlib`: standard modules refused for other reasons.
    """

    package: str
    internal: frozenset[str] = frozenset()
    third_party: frozenset[str] = frozenset()
    pure: bool = False
    no_stdlib: frozenset[str] = frozenset()


def rule(package: str, *internal: str, third: str = "", pure: bool = False, no_stdlib: str = "") -> Rule:
    return Rule(package, frozenset(internal), frozenset(third.split()), pure, frozenset(no_stdlib.split()))


SOCKETS = "select selectors socket socketserver ssl"
NETWORK = "asyncio " + SOCKETS
# The first rule whose package holds the module applies: the narrow before the wide.
RULES = (
    rule("ipsecstack.wire", pure=True),
    rule("ipsecstack.crypto", "ipsecstack.wire", third="cryptography OpenSSL", pure=True),
    rule("ipsecstack.ipsec", "ipsecstack.wire", "ipsecstack.crypto", pure=True),
    # keyex.x (a folder) sees the single modules that all key exchanges share (base, window, options …) and EAP, but
    # neither another keyex.y nor the endpoint, which knows them all: see `shared_by_siblings`.
    rule(
        "ipsecstack.keyex.*",
        "ipsecstack.wire",
        "ipsecstack.crypto",
        "ipsecstack.ipsec",
        "ipsecstack.keyex.eap",
        pure=True,
    ),
    rule(
        "ipsecstack.stack",
        "ipsecstack.ipsec",
        "ipsecstack.keyex.base",
        "ipsecstack.keyex.configuration",
        "ipsecstack.dataplane.base",
        pure=True,
    ),
    rule("ipsecstack.keyex", "ipsecstack.wire", "ipsecstack.crypto", "ipsecstack.ipsec", pure=True),
    rule(
        "ipsecstack.dataplane",
        "ipsecstack.wire",
        "ipsecstack.crypto",
        "ipsecstack.ipsec",
        third="pyroute2",
        no_stdlib="asyncio",
    ),
    # Connections and credentials are made of proposals, selectors and certificates.
    rule(
        "ipsecstack.config",
        "ipsecstack.wire",
        "ipsecstack.crypto",
        "ipsecstack.ipsec",
        "ipsecstack.keyex.base",
        "ipsecstack.keyex.configuration",
        "ipsecstack.keyex.credentials",
        "ipsecstack.keyex.options",
        third="lark",
        no_stdlib=NETWORK,
    ),
    # The transport module serves the unix socket; the commands never see it.
    rule("ipsecstack.vici.transport", "ipsecstack.vici", third="vici"),
    rule(
        "ipsecstack.vici",
        "ipsecstack.wire",
        "ipsecstack.crypto",
        "ipsecstack.ipsec",
        "ipsecstack.keyex.base",
        "ipsecstack.keyex.configuration",
        "ipsecstack.keyex.credentials",
        "ipsecstack.keyex.options",
        "ipsecstack.dataplane.base",
        "ipsecstack.stack",
        "ipsecstack.config",
        third="vici",
        no_stdlib=NETWORK,
    ),
    rule("ipsecstack.io", "ipsecstack", third="pyroute2"),
    # The composition root and the command lines start the loop that io runs on.
    rule("ipsecstack.daemon", "ipsecstack"),
    rule("ipsecstack.cli", "ipsecstack", third="vici pyroute2"),
    rule("ipsecstack", "ipsecstack", no_stdlib=NETWORK),
    rule("agent.tables", "agent.smi", "agent.gateway", no_stdlib=SOCKETS),
    rule("agent.gateway", no_stdlib=SOCKETS),
    rule("agent.smi", third="pysnmp pyasn1 mibs", no_stdlib=SOCKETS),
    rule("agent.sources", "agent.gateway", third="vici pyroute2"),
    rule("agent.policy", "agent.gateway", "agent.smi", no_stdlib=SOCKETS),
    # The engine's own counters are its one table.
    rule(
        "agent.engine",
        "agent.smi",
        "agent.config",
        "agent.tables",
        third="pysnmp pyasn1 cryptography mibs",
    ),
    rule("agent", "agent", third="pysnmp pyasn1 vici pyroute2 mibs"),
    rule("mibs", "mibs", third="pysmi"),
)
OURS = ("ipsecstack", "agent", "mibs")


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def rule_for(module: str, is_folder: bool) -> tuple[Rule, str] | None:
    """The rule for `module` and the package that counts as itself."""
    for candidate in RULES:
        if not candidate.package.endswith(".*"):
            if within(module, candidate.package):
                return candidate, candidate.package
            continue
        parent = candidate.package[:-2]
        if not within(module, parent) or module == parent:
            continue
        rest = module[len(parent) + 1 :].split(".")
        if len(rest) > 1 or is_folder:  # a module inside a folder, or the folder itself
            return candidate, f"{parent}.{rest[0]}"
    return None


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def exists(name: str, root: Path) -> bool:
    place = root.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def imports(tree: ast.Module, module: str, is_package: bool, root: Path) -> Iterator[tuple[int, str]]:
    """Every imported module, absolute, with its line; `from a import b` is `a.b` when that is a module of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*parts, base] if base else parts)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield node.lineno, whole if exists(whole, root) else base
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name | ast.Attribute)
            and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
            in ("import_module", "__import__")
            and node.args
        ):
            argument = node.args[0]
            constant = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            yield node.lineno, argument.value if constant else "<computed>"  # type: ignore[attr-defined]


def dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    """`os.urandom` for an attribute or name expression, with import aliases resolved."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def impure_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({a.asname: a.name for a in node.names if a.asname})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names[alias.asname or alias.name] = whole
                if whole in IMPURE_NAMES:
                    yield node.lineno, whole
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = dotted(node, names)
            if name in IMPURE_NAMES:
                yield node.lineno, name


def shared_by_siblings(name: str, chosen: Rule, root: Path) -> bool:
    """Whether `name` is a single module beside the folders that a `package.*` rule is for."""
    parent, star, _ = chosen.package.rpartition(".*")
    if not star or not name.startswith(parent + ".") or name == f"{parent}.endpoint":
        return False
    parts = name[len(parent) + 1 :].split(".")
    return len(parts) == 1 and root.joinpath(*name.split(".")).with_suffix(".py").is_file()


def check_import(name: str, line: int, where: str, chosen: Rule, itself: str, root: Path) -> str | None:
    top = name.split(".")[0]
    if name == "<computed>":
        if chosen.pure:
            return f"{where}:{line}: imports a module by a computed name"
        return None
    if top in OURS:
        if top == "mibs" and "mibs" in chosen.third_party:
            return None
        allowed = {itself, *chosen.internal}
        if not any(within(name, prefix) for prefix in allowed) and not shared_by_siblings(name, chosen, root):
            return f"{where}:{line}: {chosen.package} may not import {name}"
    elif top in STDLIB:
        if chosen.pure and top in IMPURE_MODULES:
            return f"{where}:{line}: {chosen.package} is sans-IO and may not import {name}"
        if top in chosen.no_stdlib:
            return f"{where}:{line}: {chosen.package} may not import {name}"
    elif top not in chosen.third_party:
        return f"{where}:{line}: {chosen.package} may not import {name}"
    return None


def violations(root: Path) -> list[str]:
    """Every breach of the table in the packages under `root`, as `file:line: what`."""
    found: list[str] = []
    for package in OURS:
        for path in sorted((root / package).rglob("*.py")):
            if "compiled" in path.relative_to(root).parts:
                continue
            module = module_of(path, root)
            is_package = path.name == "__init__.py"
            where = str(path.relative_to(root))
            chosen = rule_for(module, is_package)
            if chosen is None:
                found.append(f"{where}:1: no rule for {module}")
                continue
            tree = ast.parse(path.read_text("utf-8"), where)
            for line, name in imports(tree, module, is_package, root):
                breach = check_import(name, line, where, *chosen, root)
                if breach is not None:
                    found.append(breach)
            if chosen[0].pure:
                found += [
                    f"{where}:{line}: {chosen[0].package} is sans-IO and may not use {name}"
                    for line, name in impure_names(tree)
                ]
    return found


def test_the_project_keeps_its_layers(repository: Path) -> None:
    assert violations(repository) == []


def test_every_package_is_looked_at(repository: Path) -> None:
    for name in OURS:
        assert list((repository / name).rglob("*.py")), f"no modules under {name}"


def plant(root: Path, name: str, text: str) -> list[str]:
    """A small tree with one module of `text`, and the folders that the rules talk about."""
    for folder in (
        "wire",
        "crypto",
        "ipsec",
        "dataplane",
        "io",
        "vici",
        "config",
        "keyex/ikev2",
        "keyex/jfk",
    ):
        place = root / "ipsecstack" / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "__init__.py").touch()
    for folder in ("tables", "smi", "gateway", "sources", "engine", "policy"):
        (root / "agent" / folder).mkdir(parents=True, exist_ok=True)
    (root / "ipsecstack" / "keyex" / "base.py").touch()
    (root / "ipsecstack" / "keyex" / "window.py").touch()
    (root / "ipsecstack" / "keyex" / "endpoint.py").touch()
    (root / "ipsecstack" / "dataplane" / "tun.py").touch()
    (root / "ipsecstack" / "keyex" / "jfk" / "core.py").touch()
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return violations(root)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("agent/x.py", "import ipsecstack"),
        ("agent/sources/x.py", "from ipsecstack.vici import client"),
        ("ipsecstack/x.py", "import agent.gateway"),
        ("ipsecstack/daemon.py", "from agent import gateway"),
        ("ipsecstack/wire/x.py", "import cryptography"),
        ("ipsecstack/wire/x.py", "from ipsecstack import crypto"),
        ("ipsecstack/wire/x.py", "from .. import crypto"),
        ("ipsecstack/wire/x.py", "from ..crypto import encr"),
        ("ipsecstack/wire/__init__.py", "from ..ipsec import sa"),
        ("ipsecstack/wire/x.py", "def f():\n    import asyncio"),
        ("ipsecstack/wire/x.py", "import socket"),
        ("ipsecstack/wire/x.py", "import importlib\nimportlib.import_module('socket')"),
        ("ipsecstack/wire/x.py", "import importlib\nimportlib.import_module('sock' + 'et')"),
        ("ipsecstack/wire/x.py", "__import__('time')"),
        ("ipsecstack/crypto/x.py", "import secrets"),
        ("ipsecstack/crypto/x.py", "import time"),
        ("ipsecstack/crypto/x.py", "from random import random"),
        ("ipsecstack/crypto/x.py", "import os\nos.urandom(8)"),
        ("ipsecstack/crypto/x.py", "import os as o\no.urandom(8)"),
        ("ipsecstack/crypto/x.py", "from os import urandom"),
        ("ipsecstack/crypto/x.py", "from os import urandom as u"),
        ("ipsecstack/crypto/x.py", "from ipsecstack.keyex import base"),
        ("ipsecstack/crypto/x.py", "import pyroute2"),
        ("ipsecstack/ipsec/x.py", "from ipsecstack.keyex import base"),
        ("ipsecstack/ipsec/x.py", "from ipsecstack.io import udp"),
        ("ipsecstack/ipsec/x.py", "from cryptography.hazmat.primitives import hashes"),
        ("ipsecstack/ipsec/x.py", "import datetime\ndatetime.datetime.now()"),
        ("ipsecstack/ipsec/x.py", "from datetime import datetime\ndatetime.now()"),
        ("ipsecstack/keyex/x.py", "from ipsecstack.dataplane import base"),
        ("ipsecstack/keyex/x.py", "from ipsecstack.vici import server"),
        ("ipsecstack/keyex/ikev2/x.py", "from ipsecstack.keyex.jfk import core"),
        ("ipsecstack/keyex/ikev2/x.py", "from ..jfk import core"),
        ("ipsecstack/keyex/ikev2/x.py", "from ..jfk.core import run"),
        ("ipsecstack/keyex/ikev2/x.py", "from .. import jfk"),
        ("ipsecstack/keyex/ikev2/__init__.py", "from .. import jfk"),
        ("ipsecstack/keyex/ikev2/deep/x.py", "from ...jfk import core"),
        ("ipsecstack/keyex/ikev2/x.py", "import asyncio"),
        ("ipsecstack/keyex/ikev2/x.py", "from ..endpoint import Endpoint"),
        ("ipsecstack/stack.py", "from ipsecstack.dataplane import tun"),
        ("ipsecstack/stack.py", "import time"),
        ("ipsecstack/dataplane/x.py", "from ipsecstack.keyex import base"),
        ("ipsecstack/dataplane/x.py", "import asyncio"),
        ("ipsecstack/vici/x.py", "import asyncio"),
        ("ipsecstack/vici/x.py", "import socket"),
        ("ipsecstack/vici/x.py", "from ipsecstack.keyex.ikev2 import machine"),
        ("ipsecstack/vici/x.py", "from ipsecstack.dataplane import base"),
        ("ipsecstack/config/x.py", "from ipsecstack.keyex.ikev2 import machine"),
        ("ipsecstack/config/x.py", "import asyncio"),
        ("agent/tables/x.py", "from agent.sources import vici"),
        ("agent/tables/x.py", "from ..sources import vici"),
        ("agent/tables/x.py", "import socket"),
        ("agent/tables/x.py", "import pysnmp"),
        ("agent/gateway/x.py", "import pysnmp"),
        ("agent/gateway/x.py", "from agent.sources import vici"),
        ("agent/gateway/x.py", "from agent.smi import index"),
        ("agent/smi/x.py", "from agent.gateway import model"),
        ("agent/sources/x.py", "from agent.tables import ciscoflow"),
        ("agent/x.py", "import requests"),
    ],
)
def test_planted_violation_is_found(tmp_path: Path, name: str, text: str) -> None:
    found = plant(tmp_path, name, text)
    assert len(found) == 1, found
    assert found[0].startswith(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ipsecstack/wire/x.py", "import struct\nfrom ipsecstack.wire import y\nfrom . import y"),
        ("ipsecstack/crypto/x.py", "from cryptography.hazmat.primitives import hashes\nfrom ..wire import t"),
        ("ipsecstack/crypto/x.py", "import os\nos.path.join('a', 'b')"),
        ("ipsecstack/ipsec/x.py", "from datetime import datetime\ndatetime.fromtimestamp(0)"),
        (
            "ipsecstack/keyex/ikev2/x.py",
            "from ..base import KeyExchange\nfrom .. import window\nfrom . import y",
        ),
        ("ipsecstack/keyex/endpoint.py", "from ipsecstack.keyex import ikev2"),
        ("ipsecstack/vici/transport.py", "import asyncio\nimport socket"),
        ("ipsecstack/io/x.py", "import asyncio\nfrom ipsecstack.keyex import endpoint"),
        ("ipsecstack/dataplane/x.py", "import socket\nimport pyroute2"),
        ("agent/tables/x.py", "from ..smi import binding\nfrom agent.gateway import model"),
        ("agent/smi/x.py", "import pysnmp.smi\nimport mibs"),
        ("agent/daemon.py", "import asyncio\nfrom agent.sources import vici"),
    ],
)
def test_planted_import_that_is_allowed(tmp_path: Path, name: str, text: str) -> None:
    assert plant(tmp_path, name, text) == []

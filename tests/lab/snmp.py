"""net-snmp's command line tools, with their output as values."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.netns import Namespace

LINE = re.compile(r"^\.([0-9.]+) = (.*)$")


class SnmpError(AssertionError):
    """The agent answered with an error status (`status`, RFC 3416's name), or not at all (`status` timeout)."""

    def __init__(self, status: str, failed: str, text: str) -> None:
        super().__init__(f"{status} {failed}: {text}")
        self.status = status
        self.failed = failed


@dataclass(frozen=True)
class Value:
    """A varbind's value: `type` as net-snmp calls it (INTEGER, Counter64, Hex-STRING, OID, noSuchInstance …)."""

    type: str
    value: Any


def parse_value(text: str) -> Value:
    if text.startswith("No Such Object"):
        return Value("noSuchObject", None)
    if text.startswith("No Such Instance"):
        return Value("noSuchInstance", None)
    if text.startswith("No more variables"):
        return Value("endOfMibView", None)
    if text == '""':
        return Value("Hex-STRING", b"")
    kind, colon, rest = text.partition(": ")
    if not colon:
        if re.fullmatch(r"-?\d+", text):  # -Ot prints TimeTicks bare
            return Value("Timeticks", int(text))
        if text.endswith(":"):
            return Value(text[:-1], b"")
        raise AssertionError(f"not understood: {text!r}")
    rest = rest.strip()
    if kind in ("INTEGER", "Counter32", "Counter64", "Gauge32", "Unsigned32", "Timeticks", "UInteger32"):
        number = re.search(r"-?\d+", rest)
        assert number, text
        return Value(kind, int(number[0]))
    if kind in ("Hex-STRING", "BITS"):
        return Value("Hex-STRING", bytes.fromhex("".join(rest.split())))
    if kind == "STRING":
        return Value("Hex-STRING", rest.strip('"').encode())
    if kind == "OID":
        return Value("OID", rest.lstrip("."))
    return Value(kind, rest)


def parse_output(text: str) -> dict[str, Value]:
    """Numeric OID (no leading dot) -> value, in the order printed; long hexadecimal values span lines."""
    joined: list[str] = []
    for line in text.splitlines():
        if LINE.match(line):
            joined.append(line)
        elif joined and line.strip():
            joined[-1] += " " + line.strip()
    found: dict[str, Value] = {}
    for line in joined:
        match = LINE.match(line)
        assert match
        found[match[1]] = parse_value(match[2].strip())
    return found


class Snmp:
    """A manager: where the agent is, and who asks."""

    def __init__(
        self,
        target: str = "127.0.0.1:1161",
        namespace: Namespace | None = None,
        credentials: Sequence[str] = ("-v2c", "-c", "public"),
        timeout: float = 3,
        retries: int = 1,
    ) -> None:
        self.target = target
        self.namespace = namespace
        self.credentials = tuple(credentials)
        self.timeout = timeout
        self.retries = retries

    def command(self, tool: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        inner = [tool, *self.credentials, "-m", "", "-On", "-Oe", "-Ot", "-Ox", "-t", f"{self.timeout:g}"]
        inner += ["-r", str(self.retries), *options, self.target, *arguments]
        return self.namespace.argv(*inner) if self.namespace else inner

    def run(self, tool: str, *arguments: str, options: Sequence[str] = (), timeout: float = 60) -> str:
        """Standard output; SnmpError with the agent's error status."""
        done = subprocess.run(
            self.command(tool, *arguments, options=options),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        text = done.stdout + done.stderr
        reason = re.search(r"Reason: (\w+)", text)
        if reason:
            failed = re.search(r"Failed object: \.?(\S+)", text)
            raise SnmpError(reason[1], failed[1] if failed else "", text.strip())
        if done.returncode != 0:
            raise SnmpError("timeout" if "Timeout" in text else "failed", "", text.strip())
        return done.stdout

    def walk(self, oid: str, bulk: bool = True) -> dict[str, Value]:
        """The subtree under numeric `oid`; fails when an OID does not increase (net-snmp checks)."""
        tool = "snmpbulkwalk" if bulk else "snmpwalk"
        found = parse_output(self.run(tool, oid))
        return {
            k: v for k, v in found.items() if v.type not in ("noSuchObject", "noSuchInstance", "endOfMibView")
        }

    def get(self, *oids: str) -> dict[str, Value]:
        return parse_output(self.run("snmpget", *oids))

    def get_one(self, oid: str) -> Value:
        (value,) = self.get(oid).values()
        return value

    def set(self, *varbinds: tuple[str, str, str]) -> dict[str, Value]:
        """SET of (oid, net-snmp's type letter, value); SnmpError with the status when refused."""
        return parse_output(self.run("snmpset", *(word for varbind in varbinds for word in varbind)))

    def answers(self) -> bool:
        """Whether the agent tells its sysUpTime."""
        try:
            return self.get_one("1.3.6.1.2.1.1.3.0").type == "Timeticks"
        except SnmpError:
            return False

    def table(self, entry: str) -> dict[str, dict[int, Value]]:
        """A walk of a conceptual row's OID as index suffix -> column number -> value."""
        rows: dict[str, dict[int, Value]] = {}
        for oid, value in self.walk(entry).items():
            column, _, index = oid[len(entry) + 1 :].partition(".")
            rows.setdefault(index, {})[int(column)] = value
        return rows

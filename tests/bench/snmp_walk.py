"""Walks of 1,000 synthetic tunnels: varbinds a second, medians of 5, in one run.

    python tests/bench/snmp_walk.py [TUNNELS]

Serves cikeTunnelTable and cipSecTunnelTable of CISCO-IPSEC-FLOW-MONITOR-MIB from made-up rows, in a process of
its own, and walks them with net-snmp's snmpbulkwalk (v2c and v3 authPriv) and with a client that does nothing
but ask on ("tight"). "cold" is a walk after every row has changed, so that each cell is encoded anew. Both ends
share the machine's cores: only ratios inside one run mean anything.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.figures import Figure
from bench.snmp.serve import CONFIG

from agent.config import parse_config
from agent.engine import messages
from agent.engine import pdu as pdus
from agent.engine.agent import SnmpAgent
from agent.smi import Column, ModuleBinding, Table, ber
from mibs.loader import MibSet, Object, load

MODULE = "CISCO-IPSEC-FLOW-MONITOR-MIB"
TABLES = ("cikeTunnelTable", "cipSecTunnelTable")
ROOT = (1, 3, 6, 1, 4, 1, 9, 9, 171, 1)
REPEAT = 5
CLI = {
    "v2c": ("-v2c", "-c", "bench"),
    "v3 authPriv": (
        *("-v3", "-u", "bench", "-l", "authPriv", "-a", "SHA-256", "-A", "authpassword"),
        *("-x", "AES", "-X", "privpassword"),
    ),
}


@dataclass
class SyntheticModel:
    """Rows are just numbers; values follow from them."""

    tunnels: int
    stamp: int = 0

    def generation(self, domain: str) -> int:
        return self.stamp


def getter(column: Object, model: SyntheticModel) -> Callable[[int], Any]:
    """A value of the column's SYNTAX for a row number."""
    syntax = column.syntax
    assert syntax is not None
    if syntax.named:
        number = syntax.named[0][1]
        return lambda n: number
    if syntax.base == "OCTET STRING":
        if syntax.sizes and not syntax.permits_size(9):
            size = syntax.sizes[0][1]
            return lambda n: n.to_bytes(size, "big")
        return lambda n: f"192.0.{n >> 8}.{n & 255}"
    if syntax.base == "IpAddress":
        return lambda n: f"192.0.{n >> 8 & 255}.{n & 255}"
    if syntax.base == "OBJECT IDENTIFIER":
        return lambda n: (0, 0)
    low, high = syntax.ranges[0] if syntax.ranges else (0, 2**31 - 1)
    return lambda n: min(high, low + n + model.stamp)


def binding(mibs: MibSet, model: SyntheticModel) -> ModuleBinding:
    """Both tunnel tables, complete, and everything else of the module left out."""
    tables = []
    for name in TABLES:
        row = mibs[f"{MODULE}::{mibs[name].row}"]
        columns = [mibs[f"{MODULE}::{label}"] for label in row.columns]
        tables.append(
            Table(
                name,
                rows=lambda g: range(1, g.tunnels + 1),
                index=lambda n: (n,),
                columns=[Column(c.name, getter(c, model)) for c in columns if c.is_readable],
            )
        )
    served = {mibs[name].oid for name in TABLES}
    left = {
        o.name: "not part of this bench"
        for o in mibs.modules[MODULE].objects
        if o.kind in ("scalar", "column") and o.is_readable and not any(o.oid[: len(s)] == s for s in served)
    }
    return ModuleBinding(MODULE, tables=tables, not_served=left)


def serve(tunnels: int, folder: str, pipe: Connection) -> None:
    """The agent's process: sends its port, then on each word received makes every row new and says when."""

    async def main() -> None:
        mibs = load()
        model = SyntheticModel(tunnels)
        config = parse_config(CONFIG.format(folder=folder), Path(folder) / "bench.toml")
        agent = SnmpAgent(config, [binding(mibs, model)], model, mibs)
        await agent.start()
        pipe.send(agent.addresses[0][1])
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def on_word() -> None:
            try:
                word = pipe.recv()
            except EOFError:
                word = "stop"
            if word == "renew":
                model.stamp += 1
                pipe.send("renewed")
            elif word == "memory":
                pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            elif not ended.done():
                ended.set_result(None)

        loop.add_reader(pipe.fileno(), on_word)
        await ended
        loop.remove_reader(pipe.fileno())
        await agent.stop()

    asyncio.run(main())


def tight_walk(port: int, repetitions: int = 100) -> int:
    """GETBULK on and on with v2c; reads no more of an answer than the last OID. Gives the varbinds."""
    count = 0
    name = ber.oid_content(ROOT)
    end = name
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
        while True:
            varbinds = ber.tlv(0x30, ber.varbind(name, ber.NULL_VALUE))
            numbers = ber.integer(1) + ber.integer(0) + ber.integer(repetitions)
            pdu = ber.tlv(pdus.GETBULK, numbers + varbinds)
            sock.send(messages.community_message(1, b"bench", pdu))
            answer = sock.recv(65535)
            for name in oids_of(answer):
                if not name.startswith(end):
                    return count
                count += 1


def oids_of(answer: bytes) -> list[bytes]:
    """OID contents octets of a v2c response."""
    _, position, end = messages.version(answer)
    _, position = ber.expect(answer, position, end, ber.OCTET_STRING)
    _, position, end = ber.read(answer, position, end)
    for _ in range(3):
        _, position = ber.expect(answer, position, end, ber.INTEGER)
    position, end = ber.expect(answer, position, end, ber.SEQUENCE)
    found = []
    while position < end:
        inner, position = ber.expect(answer, position, end, ber.SEQUENCE)
        first, last = ber.expect(answer, inner, position, ber.OBJECT_IDENTIFIER)
        found.append(answer[first:last])
    return found


def cli_walk(port: int, who: tuple[str, ...]) -> int:
    """net-snmp's snmpbulkwalk; gives the varbinds that it printed."""
    root = ".".join(map(str, ROOT))
    command = ["snmpbulkwalk", "-m", "", "-Onq", "-Cr100", "-t", "10", *who, f"127.0.0.1:{port}", root]
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    return done.stdout.count(b"\n.1") + 1


def measure(rounds: int = REPEAT, tunnels: int = 1000) -> list[Figure]:
    """Varbinds a second of each kind of walk, the kinds taking turns, and the agent's memory."""
    if shutil.which("snmpbulkwalk") is None:
        raise SystemExit("snmpbulkwalk is not installed (Debian: snmp)")
    ours, theirs = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory(prefix="snmp-walk-") as folder:
        context = multiprocessing.get_context("fork")
        process = context.Process(target=serve, args=(tunnels, folder, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            return _figures(ours, rounds, tunnels)
        finally:
            ours.send("stop")
            process.join(10)
            if process.is_alive():
                process.terminate()


def _figures(pipe: Connection, rounds: int, tunnels: int) -> list[Figure]:
    port: int = pipe.recv()
    expected = tight_walk(port)

    def cold() -> int:
        return tight_walk(port)

    def cli(who: tuple[str, ...]) -> Callable[[], int]:
        return lambda: cli_walk(port, who)

    walks: dict[str, Callable[[], int]] = {
        "tight client, v2c": lambda: tight_walk(port),
        "tight client, v2c, all rows changed": cold,
        **{f"snmpbulkwalk, {name}": cli(who) for name, who in CLI.items()},
    }
    rates: dict[str, list[float]] = {name: [] for name in walks}
    for _ in range(rounds):
        for name, walk in walks.items():
            if walk is cold:
                pipe.send("renew")
                pipe.recv()
            started = time.perf_counter()
            count = walk()
            rates[name].append(count / (time.perf_counter() - started))
            if count != expected:
                raise SystemExit(f"{name}: {count} varbinds instead of {expected}")
    pipe.send("memory")
    memory = pipe.recv() / 1024
    figures = [Figure(f"walk of {tunnels:,} tunnels: {name}", "varbinds/s", rates[name]) for name in walks]
    return [*figures, Figure(f"agent's resident memory with {tunnels:,} tunnels", "MiB", [memory])]


def main() -> None:
    tunnels = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for figure in measure(tunnels=tunnels):
        what, median, spread, unit, *_ = figure.cells()
        print(f"{what:62s} {median:>9s} {unit:11s} {spread}")


if __name__ == "__main__":
    main()

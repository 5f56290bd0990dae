"""`make bench-snmp`: the agent's figures beside net-snmp's C agent that serves the same table, in one run.

    python -m bench.snmp [--quick] [--only get,walk,...] [--json FILE] [--doc]

Medians of five rounds in which the compared agents take turns. All run on this machine, whose speed drifts: only ratios
inside one run mean anything. An answer that is wrong ends the bench.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable

from bench.figures import Figure, table
from bench.snmp import beside, build, memory, refresh, speed, start
from bench.snmp.processes import OTHER, ROOT, SERVER

DOC = ROOT / "docs" / "performance.md"
BEGIN = "<!-- figures: make bench-snmp ARGS=--doc -->\n```\n"
END = "```\n<!-- end of figures -->"

BENCHES: dict[str, Callable[[int], list[Figure]]] = {
    "get": speed.get,
    "walk": speed.walk,
    "pollers": speed.pollers,
    "refresh": refresh.measure,
    "start": start.measure,
    "memory": memory.measure,
    "beside": beside.measure,
}


def processor() -> str:
    with open("/proc/cpuinfo") as info:
        return next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "?")


def write_doc(report: str) -> None:
    """Replace the figures in the page about performance."""
    text = DOC.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(
            f"bench-snmp: {DOC} has no place for figures between {BEGIN.strip()} and {END.strip()}"
        )
    DOC.write_text(f"{before}{begin}{report}\n{end}{after}", "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.snmp", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="one round instead of five: to see that it works"
    )
    parser.add_argument("--only", default=",".join(BENCHES), help=f"some of {', '.join(BENCHES)}")
    parser.add_argument("--json", help="also write the figures, with every round, into this file")
    parser.add_argument(
        "--doc", action="store_true", help=f"also write the table into {DOC.relative_to(ROOT)}"
    )
    options = parser.parse_args()
    names = options.only.split(",")
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    build.load()
    build.peer()
    rounds = 1 if options.quick else 5
    figures: list[Figure] = []
    load = os.getloadavg()[0]
    started = time.monotonic()
    broken: list[str] = []
    for name in names:
        began = time.monotonic()
        print(f"bench-snmp: {name} ...", end=" ", file=sys.stderr, flush=True)
        try:
            figures += BENCHES[name](rounds)
        except Exception:
            traceback.print_exc()
            broken.append(name)
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    goals = [figure for figure in figures if figure.goal is not None]
    missed = [figure.what for figure in goals if figure.goal is not None and not figure.goal.met]
    head = (
        f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, Linux {platform.release()}, "
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC\n"
        f"{rounds} round{'s' * (rounds > 1)}, {time.monotonic() - started:.0f} s in all; agents and a lone manager on "
        f"core {SERVER}, 8 pollers on core {OTHER}; load of the machine before: {load:.2f}"
    )
    verdict = f"{len(goals) - len(missed)} of {len(goals)} goals met"
    verdict += f"; missed: {', '.join(missed)}" if missed else ""
    verdict += f"; NOT MEASURED, see above: {', '.join(broken)}" if broken else ""
    report = f"{head}\n\n{table(figures)}\n\n{verdict}"
    print(report)
    if options.json:
        with open(options.json, "w") as out:
            json.dump([figure.as_json() for figure in figures], out, indent=1)
    if options.doc:
        write_doc(report)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: the figures, in one run, medians of five, as one table.

    python -m bench [--quick] [--only throughput,negotiation,scale,walk,daemons] [--json FILE] [--doc]

Both ends share this machine's cores, and its speed drifts: only ratios inside one run mean anything, which is why the
rounds of compared things alternate. The agent beside net-snmp's C agent is a bench of its own: `make bench-snmp`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import Figure, table
from lab.tools import why_no_namespaces

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "performance.md"
BEGIN = "<!-- figures: make bench ARGS=--doc -->\n```\n"
END = "```\n<!-- end of figures of the stack -->"


def write_doc(report: str) -> None:
    """Replace the figures in the page about performance."""
    before, begin, rest = DOC.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"bench: {DOC} has no place for figures between {BEGIN.strip()} and {END.strip()}")
    DOC.write_text(f"{before}{begin}{report}\n{end}{after}", "utf-8")


def throughput(rounds: int) -> list[Figure]:
    from bench.throughput import measure

    return measure(rounds)


def negotiation(rounds: int) -> list[Figure]:
    from bench.negotiation import measure

    return measure(rounds)


def scale(rounds: int) -> list[Figure]:
    from bench.scale import measure

    return measure(rounds)


def walk(rounds: int) -> list[Figure]:
    from bench.snmp_walk import measure

    return measure(rounds)


def daemons(rounds: int) -> list[Figure]:
    from bench.daemons import measure

    return measure(rounds)


BENCHES: dict[str, tuple[Callable[[int], list[Figure]], bool]] = {
    # name: (measure, needs network namespaces)
    "daemons": (daemons, True),
    "walk": (walk, False),
    "negotiation": (negotiation, False),
    "scale": (scale, False),
    "throughput": (throughput, True),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__.split("\n")[0] if __doc__ else ""
    )
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
    rounds = 1 if options.quick else 5
    no_namespaces = why_no_namespaces()
    figures: list[Figure] = []
    load = os.getloadavg()[0]
    started = time.monotonic()
    for name in names:
        measure, needs_namespaces = BENCHES[name]
        if needs_namespaces and no_namespaces:
            print(f"bench: {name} left out: {no_namespaces}", file=sys.stderr)
            continue
        print(f"bench: {name} …", file=sys.stderr, flush=True)
        figures += measure(rounds)
    head = (
        f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} cores shared by both ends; "
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC; load before: {load:.2f}; "
        f"{rounds} round{'s' * (rounds > 1)}, {time.monotonic() - started:.0f} s in all"
    )
    report = f"{head}\n\n{table(figures)}"
    print(report)
    if options.doc:
        write_doc(report)
    if options.json:
        with open(options.json, "w") as out:
            json.dump([figure.as_json() for figure in figures], out, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast PDUs are answered, beside net-snmp with the same table, and how that depends on the table's size."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from bench.figures import Figure, Goal
from bench.snmp.processes import OTHER, SERVER, Agent, load, ours, theirs

SIZES = (100, 1_000, 10_000, 100_000)
ROWS = 10_000
FEW = 1_000
"""Rows of a table that eight pollers walk: they end a walk that they are in."""
FLAT = 1.3


@dataclass(frozen=True)
class Measure:
    """One kind of request. `goal`: at least so many times net-snmp's rate."""

    what: str
    arguments: tuple[str, ...]
    unit: str = "requests"
    goal: float | None = None
    rows: int = ROWS
    core: int = SERVER
    seconds: float = 0.3

    def rate(self, agent: Agent) -> float:
        figures = load(agent, *self.arguments, "--seconds", str(self.seconds), core=self.core)
        return float(figures[self.unit]) / float(figures["seconds"])


GET = ("--mode", "get")
GET_20 = (*GET, "--varbinds", "20")
WALK = ("--mode", "walk", "--repetitions", "50")
MANY = ("--pollers", "8")
V3, AUTH = ("--level", "authPriv"), ("--level", "auth")

GETS = [
    Measure("GET of any of 120,000 instances, v2c", GET, goal=1.2),
    Measure("GET of any 20, v2c", GET_20, goal=1.0),
    Measure("GET of the same instance, v2c", (*GET, "--same"), goal=1.2),
    Measure("GET, v2c, 8 under way", (*GET, "--window", "8"), core=OTHER),
    Measure("GET, v3 authNoPriv", (*GET, *AUTH)),
    Measure("GET, v3 authPriv", (*GET, *V3), goal=0.8),
    Measure("GET of 20, v3 authPriv", (*GET_20, *V3)),
]
WALKS = [
    *(
        Measure(f"walk of {rows:,} rows, v2c", WALK, "varbinds", 3.0 if rows == ROWS else None, rows)
        for rows in SIZES
    ),
    Measure(f"walk of {ROWS:,} rows, v3 authNoPriv", (*WALK, *AUTH), "varbinds"),
    Measure(f"walk of {ROWS:,} rows, v3 authPriv", (*WALK, *V3), "varbinds", 1.8),
]
POLLERS = [
    Measure("8 pollers, GET, v2c", (*GET, *MANY), core=OTHER),
    Measure("8 pollers, GET of 20, v2c", (*GET_20, *MANY), core=OTHER),
    Measure(f"8 pollers, walk of {FEW:,} rows, v2c", (*WALK, *MANY), "varbinds", 2.0, FEW, OTHER),
    Measure(
        f"8 pollers, walk of {FEW:,} rows, v3 authPriv", (*WALK, *MANY, *V3), "varbinds", None, FEW, OTHER
    ),
]


def compare(measures: list[Measure], rounds: int) -> list[Figure]:
    """Each measure on both agents, taking turns, after both were seen to serve the very same table."""
    rates: dict[tuple[str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        agents = {
            size: (stack.enter_context(ours(size)), stack.enter_context(theirs(size)))
            for size in sorted({measure.rows for measure in measures})
        }
        for size, pair in agents.items():
            digests = {load(agent, *WALK, "--count", "1", "--digest")["digest"] for agent in pair}
            if len(digests) != 1:
                raise SystemExit(f"bench-snmp: the agents' tables of {size:,} rows are not the same")
        for number in range(rounds):
            for measure in measures:
                pair = agents[measure.rows]
                # whoever comes first finds other caches than who comes second
                for agent in pair if number % 2 == 0 else reversed(pair):
                    rates.setdefault((measure.what, agent.name), []).append(measure.rate(agent))
    figures: list[Figure] = []
    for measure in measures:
        unit = f"{measure.unit}/s"
        peer = Figure(f"{measure.what}: net-snmp", unit, rates[measure.what, "net-snmp's agent"])
        figure = Figure(measure.what, unit, rates[measure.what, "our agent"], [("net-snmp", peer)])
        if measure.goal is not None:
            figure.goal = Goal(
                f">= {measure.goal} x net-snmp", figure.ratio(peer), measure.goal, at_least=True
            )
        figures += [figure, peer]
    return figures


def get(rounds: int) -> list[Figure]:
    return compare(GETS, rounds)


def walk(rounds: int) -> list[Figure]:
    """The walks, and how far the cost of a varbind in tables of all sizes lies apart."""
    figures = compare(WALKS, rounds)
    walks = {figure.what: figure for figure in figures}
    for whose in ("", ": net-snmp"):
        by_size = [walks[f"walk of {size:,} rows, v2c{whose}"] for size in SIZES]
        # of each round the dearest size over the cheapest one
        apart = [
            max(rates) / min(rates) for rates in zip(*(figure.rounds for figure in by_size), strict=True)
        ]
        flat = Figure(f"cost of a varbind, {SIZES[0]} to {SIZES[-1]:,} rows{whose}", "x apart", apart)
        if not whose:
            medians = [figure.median for figure in by_size]
            flat.goal = Goal(f"within {FLAT} x", max(medians) / min(medians), FLAT, at_least=False)
        figures.append(flat)
    return figures


def pollers(rounds: int) -> list[Figure]:
    return compare(POLLERS, rounds)

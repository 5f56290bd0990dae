"""Memory of a row: how much more is resident with 100,000 rows more, after all were read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from bench.figures import Figure
from bench.snmp.processes import Agent, load, ours, theirs
from bench.snmp.table import COLUMNS

ROWS = (10_000, 110_000)
TUNNELS = (5_000, 25_000)
"""With the whole model: an IKE SA, a tunnel and its SA, and a row or more in eight tables for each."""


def octets_a_row(agent: Callable[[int], AbstractContextManager[Agent]], sizes: tuple[int, int]) -> float:
    resident = []
    for rows in sizes:
        with agent(rows) as running:
            load(running, "--mode", "walk", "--count", "1")
            resident.append(running.memory())
    return (resident[1] - resident[0]) * 1024 / (sizes[1] - sizes[0])


def measure(rounds: int) -> list[Figure]:
    """Memory hardly varies: a round is enough."""
    rounds = min(rounds, 1)
    row = f"memory of a row of {len(COLUMNS)} columns"
    mine = Figure(row, "octets", [octets_a_row(ours, ROWS) for _ in range(rounds)])
    peer = Figure(f"{row}: net-snmp", "octets", [octets_a_row(theirs, ROWS) for _ in range(rounds)])
    mine.against = [("net-snmp", peer)]
    whole = [octets_a_row(lambda tunnels: ours(tunnels, "serve_model"), TUNNELS) for _ in range(rounds)]
    return [mine, peer, Figure("memory of a tunnel, model and all", "octets", whole)]

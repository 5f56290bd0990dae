"""Answers while everything changes: one GET each millisecond while 50,000 tunnels are refreshed again and again."""

from __future__ import annotations

import contextlib

from bench.figures import Figure, Goal
from bench.snmp.processes import OTHER, Agent, load, ours, theirs

TUNNELS = 50_000
SECONDS = 3.0
LIMIT = 20.0
EACH_MILLISECOND = ("--mode", "get", "--interval", "0.001", "--seconds", str(SECONDS))


def latencies(agent: Agent) -> tuple[float, float]:
    """99th percentile and worst, in milliseconds."""
    figures = load(agent, *EACH_MILLISECOND, core=OTHER)
    return float(figures["p99"]) / 1000, float(figures["worst"]) / 1000


def measure(rounds: int) -> list[Figure]:
    found: dict[str, list[tuple[float, float]]] = {"busy": [], "idle": [], "theirs": []}
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(ours(TUNNELS, "serve_model"))
        peer = stack.enter_context(theirs(TUNNELS))
        load(model, "--mode", "walk", "--count", "1")
        for _ in range(rounds):
            found["idle"].append(latencies(model))
            found["theirs"].append(latencies(peer))
        # from here on without a pause, so that whole refreshes follow each other
        model.say("refresh")
        found["busy"] = [latencies(model) for _ in range(rounds)]
        model.say("rest")
        _, times, seconds = model.line("refreshed")
    words = {
        "busy": f"while {TUNNELS:,} tunnels are refreshed",
        "idle": f"{TUNNELS:,} tunnels, nothing changes",
        "theirs": f"{TUNNELS:,} rows, nothing changes: net-snmp",
    }
    figures: list[Figure] = []
    for place, what in enumerate(("99th percentile of GETs", "worst GET")):
        of = {
            which: Figure(f"{what}, {words[which]}", "ms", [pair[place] for pair in found[which]])
            for which in words
        }
        of["busy"].against = [("idle", of["idle"])]
        if what == "worst GET":
            # the worst of all rounds, not their median
            of["busy"].goal = Goal(
                f"< {LIMIT:g} ms in all rounds", max(of["busy"].rounds), LIMIT, at_least=False
            )
        figures += of.values()
    return [
        *figures,
        Figure(
            f"whole refreshes of {TUNNELS:,} tunnels meanwhile", "a second", [float(times) / float(seconds)]
        ),
    ]

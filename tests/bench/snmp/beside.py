"""The stack while an agent beside it is walked: a TCP stream through a tunnel, and CHILD_SAs made and deleted.

The agent is a process of its own and asks the stack nothing on behalf of a manager, so that what a walk can take from
the stack is processor time. A manager walks 10,000 rows of twelve columns each second; what the stack's two daemons
compute for a gigabyte shows whether they themselves have more to do.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from bench import throughput
from bench.figures import Figure, Goal
from bench.snmp.processes import Agent, load_command, ours, theirs
from lab.gateway import Gateway
from lab.swanconf import Child, Tunnel
from lab.tools import find_tool, why_no_namespaces
from lab.topology import Pair, pair

ROWS = 10_000
EACH = 1.0
"""Seconds from the start of one walk to that of the next."""
NEGOTIATING = 1.0
KEPT = 0.85
"""Of the throughput without a walk; the machine has two cores, which a stream alone keeps busy."""
SIDES = ("nobody walks", "our agent is walked", "net-snmp's agent is walked")


@contextlib.contextmanager
def walked(agent: Agent | None) -> Iterator[list[int]]:
    """A manager that walks the agent's table each second meanwhile. Gives the walks' milliseconds so far."""
    took: list[int] = []
    stop = threading.Event()

    def walk() -> None:
        assert agent is not None
        while not stop.is_set():
            started = time.monotonic()
            done = subprocess.run(
                load_command(agent, "--mode", "walk", "--count", "1"), capture_output=True, check=False
            )
            if done.returncode != 0:
                took.append(-1)
                return
            took.append(int((time.monotonic() - started) * 1000))
            stop.wait(max(0.0, started + EACH - time.monotonic()))

    if agent is None:
        yield took
        return
    manager = threading.Thread(target=walk)
    manager.start()
    try:
        yield took
    finally:
        stop.set()
        manager.join()
    if -1 in took:
        raise SystemExit(f"bench-snmp: a walk of {agent.name} beside the stack failed")


def negotiations(gateway: Gateway) -> float:
    """CHILD_SAs made and deleted again, a second: CREATE_CHILD_SA and INFORMATIONAL, one after the other."""
    made = 0
    started = time.perf_counter()
    with gateway.vici() as session:
        while (now := time.perf_counter()) - started < NEGOTIATING:
            for _ in session.initiate({"child": "more"}):
                pass
            for _ in session.terminate({"child": "more"}):
                pass
            made += 1
    return made / (now - started)


def stream(made: Pair, ends: tuple[str, str]) -> tuple[float, float]:
    """Mbit/s of a TCP stream, and the seconds that both daemons computed for a gigabyte of it."""
    before = sum(map(throughput.processor_time, made.gateways))
    rate = throughput.iperf(*made.namespaces, *ends)
    spent = sum(map(throughput.processor_time, made.gateways)) - before
    return rate, spent / (rate * throughput.SECONDS / 8000)


def measure(rounds: int) -> list[Figure]:
    reason = why_no_namespaces() or (None if find_tool("iperf3") else "iperf3 is not installed")
    if reason:
        print(f"bench-snmp: beside left out: {reason}", file=sys.stderr)
        return []
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    costs: dict[str, list[float]] = {side: [] for side in SIDES}
    children: dict[str, list[float]] = {side: [] for side in SIDES}
    tunnel = Tunnel(
        children=(
            Child("net", ("10.1.0.0/24", "10.2.0.0/24"), throughput.GCM),
            Child("more", ("10.1.0.1/32", "10.2.0.9/32"), throughput.GCM),
        )
    )
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(pair(("ours", "ours"), (tunnel,)))
        made.a.initiate("net")
        made.b.wait_child("net")
        agents = (
            None,
            stack.enter_context(ours(ROWS, pinned=False)),
            stack.enter_context(theirs(ROWS, pinned=False)),
        )
        for number in range(rounds):
            turns = list(zip(SIDES, agents, strict=True))
            for side, agent in turns if number % 2 == 0 else reversed(turns):
                with walked(agent):
                    rate, cost = stream(made, made.ends("net"))
                    rates[side].append(rate)
                    costs[side].append(cost)
                    children[side].append(negotiations(made.a))
    figures: list[Figure] = []
    for what, unit, of in (
        ("TCP through our tunnel", "Mbit/s", rates),
        ("the stack's processor time, TCP", "s/GB", costs),
        ("CHILD_SAs made and deleted", "a second", children),
    ):
        first, *others = (Figure(f"{what}, {side}", unit, of[side]) for side in SIDES)
        for other in others:
            other.against = [("undisturbed", first)]
        if of is not costs:
            others[0].goal = Goal(f">= {KEPT} x undisturbed", others[0].ratio(first), KEPT, at_least=True)
        figures += [first, *others]
    return figures

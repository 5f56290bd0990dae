"""Start-up time and resident memory of both daemons, with one connection configured and its tunnel up."""

from __future__ import annotations

import time

from bench.figures import Figure
from lab.ours import OurAgent
from lab.process import wait_until
from lab.topology import pair


def measure(rounds: int) -> list[Figure]:
    """Start-up: from exec until VICI, or SNMP, is answered."""
    stack_start, stack_memory, agent_start, agent_memory = [], [], [], []
    for _ in range(rounds):
        with pair(("ours", "ours"), start=False) as made:
            made.b.start()
            started = time.perf_counter()
            made.a.start()
            stack_start.append(time.perf_counter() - started)
            made.a.initiate("net")
            made.b.wait_child("net")
            agent = OurAgent.of(made.a)
            started = time.perf_counter()
            agent.start()
            agent_start.append(time.perf_counter() - started)
            try:
                wait_until(
                    lambda agent=agent: agent.snmp.walk("1.3.6.1.4.1.9.9.171.1.3.2"),
                    10,
                    "the tunnel is shown",
                )
                stack_memory.append(made.a.process.resident_kilobytes() / 1024)
                agent_memory.append(agent.process.resident_kilobytes() / 1024)
            finally:
                agent.stop()
    return [
        Figure("ipsecstackd: start until VICI answers", "s", stack_start),
        Figure("ipsecstackd: resident memory, one tunnel", "MiB", stack_memory),
        Figure("ipsec-snmpd: start until SNMP answers", "s", agent_start),
        Figure("ipsec-snmpd: resident memory, one tunnel", "MiB", agent_memory),
    ]

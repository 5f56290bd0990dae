"""What the counters of the soak's tunnels are at any moment: known to the source and to every poller alike.

Clock: CLOCK_MONOTONIC, one for all processes of a machine.
"""

from __future__ import annotations

PACKET = 100
"""Octets of each packet: a row in which octets are not packets times this is a wrong answer."""
FAST = 600_000
"""Packets a second of tunnel 1, whose 32-bit counter wraps every 72 seconds."""


def packets(tunnel: int, elapsed: float) -> int:
    """Packets that tunnel `tunnel` (1 …) has moved each way since the start."""
    rate = FAST if tunnel == 1 else 10 + tunnel % 50
    return max(0, int(elapsed * rate))

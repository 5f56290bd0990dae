"""The words of the demo: what to try, and the state of the tunnel, for a terminal or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CLEAR_LINE = "\x1b[2K"


@dataclass(frozen=True)
class State:
    """What is shown of the tunnel at one moment; None where nobody says."""

    up: bool
    spis: tuple[str, str] | None
    algorithm: str
    octets: tuple[int, int] | None
    packets: tuple[int, int] | None
    snmp_octets: tuple[int | None, int | None] | None
    sent: int
    back: int


def lines_of(state: State, elapsed: float) -> list[str]:
    """The state in a few lines."""
    if state.up and state.spis:
        first = f"tunnel up, {state.algorithm}, SPI in {state.spis[0]} out {state.spis[1]}"
    else:
        first = "tunnel down; the next packet asks for it again"
    counted = "-"
    if state.octets and state.packets:
        counted = (
            f"in {state.octets[0]:,} octets in {state.packets[0]:,} packets, "
            f"out {state.octets[1]:,} octets in {state.packets[1]:,} packets"
        )
    if state.snmp_octets is None:
        agent = "the agent does not answer"
    elif None in state.snmp_octets:
        agent = "the agent shows no tunnel yet"
    else:
        agent = f"in {state.snmp_octets[0]:,} octets, out {state.snmp_octets[1]:,} octets since the tunnel's first SA"
    return [
        f"[{elapsed:5.0f} s] {first}",
        f"   this SA (VICI):     {counted}",
        f"   all its SAs (SNMP): {agent}",
        f"   echo requests sent {state.sent:,}, answered {state.back:,}",
    ]


class Screen:
    """Shows states: in place on a terminal, one short block now and then into a pipe."""

    def __init__(self, write: Callable[[str], object] = sys.stdout.write, tty: bool | None = None) -> None:
        self._write = write
        self._tty = sys.stdout.isatty() if tty is None else tty
        self._height = 0
        self._last = 0.0
        self._last_up: bool | None = None

    def show(self, state: State, elapsed: float) -> None:
        lines = lines_of(state, elapsed)
        if self._tty:
            back = f"\x1b[{self._height}A" if self._height else ""
            self._write(back + "".join(f"{CLEAR_LINE}{line}\n" for line in lines))
            self._height = len(lines)
        elif state.up != self._last_up or time.monotonic() - self._last >= 5:
            self._write("".join(f"{line}\n" for line in lines))
            self._last = time.monotonic()
            self._last_up = state.up
        sys.stdout.flush()


def headed(title: str, commands: Sequence[str]) -> str:
    return f"\n{title}\n" + "".join(f"  {command}\n" for command in commands)

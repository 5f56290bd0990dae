"""RFC 3416 section 4.2.3 for one repeater: slices of one leaf after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.engine.fastpath.errors import Refused
from agent.smi import ber
from agent.smi.controller import ReadError

if TYPE_CHECKING:
    from agent.engine.fastpath.sight import Sight

Step = tuple[int, bytes | None, bytes]
"""(position in the sight, key to go on from, name that was asked)."""


def run(sight: Sight, step: Step, count: int, room: int, number: int) -> bytes:
    """The VarBinds of one repeater: up to `count`, in at most `room` octets. Raises Refused with its `number`."""
    position, after, name = step
    runs = sight.runs
    out: list[bytes] = []
    last: tuple[int, bytes] | None = None
    try:
        while count and position < len(runs):
            octets, got, key, ended = runs[position](after, count, room)
            if got:
                if got == count and not out:
                    return octets
                out.append(octets)
                room -= len(octets)
                count -= got
                assert key is not None
                last = (position, key)
            if not ended:
                return b"".join(out)
            position += 1
            after = None
    except ReadError as error:
        raise Refused(error.code, number) from None
    if count:
        varbind = end(sight, last, name)
        if len(varbind) <= room:
            out.append(varbind)
    return b"".join(out)


def end(sight: Sight, last: tuple[int, bytes] | None, name: bytes) -> bytes:
    """endOfMibView of a repeater, named as the last VarBind that it gave."""
    if last is not None:
        name = sight.names.name(sight.leaf_at[last[0]], last[1])
    return ber.varbind(name, ber.END_OF_MIB_VIEW)


__all__ = ["Step", "end", "run"]

"""RFC 3416 section 4.2 on plans: which VarBinds answer a request, in at most so many octets.

A plan is what a PDU asks, with its names looked up: for GET the place of each name, else of each name (position
in the sight, key to go on from, name).
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, chain

from agent.engine.fastpath import parse
from agent.engine.fastpath.errors import NotMine, Refused
from agent.engine.fastpath.names import Place
from agent.engine.fastpath.sight import Plan, Sight, hidden
from agent.engine.fastpath.walk import Step, end, run
from agent.engine.pdu import GET, GETBULK, GETNEXT
from agent.smi import ber
from agent.smi.controller import ReadError
from agent.smi.errors import ErrorStatus

UNLIMITED = 1 << 30
MAX_REPEATERS = 64
"""More in one GETBULK are left to the plain path, which reads none before its turn: of thousands, few fit."""
AROUND_A_NAME = 6
"""Octets of a VarBind beside its name's contents, at least."""


def plan(sight: Sight, kind: int, tail: bytes) -> Plan:
    """Read what follows the request-id of a PDU of type `kind`. Raises NotMine, IndexError."""
    if kind != GET and kind != GETNEXT and (kind != GETBULK or sight.v1):
        raise NotMine
    first, second, position = parse.varbinds(tail)
    places = sight.names.places(tail, position)
    if kind == GET:
        if sight.unread and any(key is not None and sight.reads[leaf] is None for leaf, key, _ in places):
            raise NotMine
        return kind, places, 0, 0
    if kind == GETBULK and len(places) - max(first, 0) > MAX_REPEATERS:
        raise NotMine
    steps: list[Step] = []
    for leaf, after, name in places:
        position = sight.first[leaf]
        if position <= sight.cut_from:
            raise NotMine
        if position == len(sight.leaf_at) or sight.leaf_at[position] != leaf:
            after = None
        steps.append((position, after, name))
    return kind, steps, min(max(first, 0), len(steps)), max(second, 0)


def respond(sight: Sight, planned: Plan, room: int) -> bytes:
    """The VarBinds of the response in at most `room` octets. Raises Refused for an error-status."""
    kind, steps, non_repeaters, repetitions = planned
    if kind == GET:
        out = _get(sight, steps)
    elif kind == GETNEXT:
        out = _next(sight, steps)
    else:
        return _bulk(sight, steps, non_repeaters, repetitions, room)
    if len(out) > room:
        raise Refused(ErrorStatus.tooBig)
    return out


def _get(sight: Sight, places: list[Place]) -> bytes:
    reads = sight.reads
    out: list[bytes] = []
    try:
        for leaf, key, name in places:
            varbind = None
            if key is not None:
                read = reads[leaf]
                assert read is not None
                varbind = read(key)
            if varbind is None:
                if sight.v1:
                    raise Refused(ErrorStatus.noSuchName, len(out) + 1)
                missing = key is None or read is hidden
                varbind = ber.varbind(name, ber.NO_SUCH_OBJECT if missing else ber.NO_SUCH_INSTANCE)
            out.append(varbind)
    except ReadError as error:
        raise Refused(error.code, len(out) + 1) from None
    return b"".join(out)


def _next(sight: Sight, steps: list[Step]) -> bytes:
    out: list[bytes] = []
    try:
        for step in steps:
            out.append(_one(sight, step, len(out) + 1))
    except ReadError as error:
        raise Refused(error.code, len(out) + 1) from None
    return b"".join(out)


def _one(sight: Sight, step: Step, number: int) -> bytes:
    """One GETNEXT, of the VarBind with this number."""
    position, after, name = step
    runs = sight.runs
    while position < len(runs):
        octets, count, _, _ = runs[position](after, 1, UNLIMITED)
        if count:
            return octets
        position += 1
        after = None
    if sight.v1:
        raise Refused(ErrorStatus.noSuchName, number)
    return ber.varbind(name, ber.END_OF_MIB_VIEW)


def _bulk(sight: Sight, steps: list[Step], non_repeaters: int, repetitions: int, room: int) -> bytes:
    """RFC 3416 section 4.2.3. The response is cut where the next VarBind would exceed the room."""
    if not non_repeaters and len(steps) == 1:
        return run(sight, steps[0], repetitions, room, 1)
    out: list[bytes] = []
    try:
        for step in steps[:non_repeaters]:
            varbind = _one(sight, step, len(out) + 1)
            if len(varbind) > room:
                return b"".join(out)
            room -= len(varbind)
            out.append(varbind)
    except ReadError as error:
        raise Refused(error.code, len(out) + 1) from None
    repeaters = steps[non_repeaters:]
    if len(repeaters) == 1:
        out.append(run(sight, repeaters[0], repetitions, room, non_repeaters + 1))
    elif repeaters:
        _rows(sight, repeaters, repetitions, room, non_repeaters, out)
    return b"".join(out)


class _Repeater:
    """One of several repeaters of a GETBULK."""

    __slots__ = ("after", "end", "error", "last", "name", "position")

    def __init__(self, step: Step) -> None:
        self.position, self.after, self.name = step
        self.last: tuple[int, bytes] | None = None
        self.end = b""
        self.error: ReadError | None = None

    def take(self, sight: Sight, count: int) -> list[bytes]:
        """Up to `count` VarBinds; fewer when there are no more, or none that can be read (`error`)."""
        out: list[bytes] = []
        cells = sight.cells
        try:
            while count and self.position < len(cells):
                found, key, ended = cells[self.position](self.after, count)
                if key is not None:
                    out = out + found if out else found
                    self.last = (self.position, key)
                    self.after = key
                    count -= len(found)
                if ended:
                    self.position += 1
                    self.after = None
        except ReadError as error:
            self.error = error
            return out
        if count and not self.end:
            self.end = end(sight, self.last, self.name)
        return out


def _rows(
    sight: Sight, steps: list[Step], repetitions: int, room: int, non_repeaters: int, out: list[bytes]
) -> None:
    """Several repeaters, row by row, appended to `out`. Raises Refused."""
    repeaters = [_Repeater(step) for step in steps]
    least = sum(len(name) + AROUND_A_NAME for _, _, name in steps)
    while repetitions:
        # as many rows as may fit are read at once, and hardly more
        batch = min(repetitions, room // least + 1)
        taken = []
        wanted = batch
        for repeater in repeaters:
            taken.append(repeater.take(sight, wanted))
            if repeater.error is not None:
                # nothing after this cell is asked for
                wanted = len(taken[-1])
        longest = max(map(len, taken))
        if min(map(len, taken)) < batch:
            if any(repeater.error is not None for repeater in repeaters):
                _rows_to_error(repeaters, taken, room, non_repeaters, out)
                return
            # the first row of nothing but endOfMibView is the last one
            rows = min(batch, longest + 1)
            taken = [
                found + [repeater.end] * (rows - len(found))
                for found, repeater in zip(taken, repeaters, strict=True)
            ]
        varbinds = list(chain.from_iterable(zip(*taken, strict=True)))
        octets = b"".join(varbinds)
        if len(octets) > room:
            fit = bisect_right(list(accumulate(map(len, varbinds))), room)
            out.extend(varbinds[:fit])
            return
        out.append(octets)
        room -= len(octets)
        if longest < batch:
            return
        repetitions -= batch


def _rows_to_error(
    repeaters: list[_Repeater], taken: list[list[bytes]], room: int, non_repeaters: int, out: list[bytes]
) -> None:
    """Rows up to the first cell that cannot be read: an error, unless the room ends before."""
    for row in range(max(map(len, taken)) + 1):
        for number, (repeater, found) in enumerate(zip(repeaters, taken, strict=True), non_repeaters + 1):
            if row < len(found):
                varbind = found[row]
            elif repeater.error is not None:
                raise Refused(repeater.error.code, number)
            else:
                varbind = repeater.end
            if len(varbind) > room:
                return
            room -= len(varbind)
            out.append(varbind)

"""Requests of a kind that came before, answered without reading them octet by octet.

What a manager sends differs from what it sent before in the request-id and in rows. Everything else, lengths
included, lies in octets that were read and judged once:

- a message's octets before its request-id (`Shape`, one per sender);
- a PDU's octets from error-status to the leaf's OID in its only VarBind (`Quick`, per requester);
- in a GET of several names, each VarBind's octets up to the end of the leaf's OID.

Where those octets are the same and the whole is as long as it was, only the row is new. Anything else gives
None, and the usual way (`parse`, `names`, `answer`) decides, from which `learn` then learns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from agent.engine.fastpath import parse, walk
from agent.engine.fastpath.errors import Refused
from agent.engine.fastpath.names import NULL
from agent.engine.pdu import GET, GETBULK, GETNEXT
from agent.smi import ber
from agent.smi.controller import ReadError
from agent.smi.errors import ErrorStatus
from agent.smi.store import LeafStore, read_each

if TYPE_CHECKING:
    from agent.engine.fastpath.community import CommunitySession
    from agent.engine.fastpath.sight import Read, Sight

MAX_HEADS = 2048
"""Beginnings that are remembered; all are forgotten when they are more."""
MAX_LENGTHS = 4
"""Lengths of leaves' OIDs that are tried, those of the leaves that came last."""
BEFORE_A_NAME = 11
"""Octets before the name of a PDU's only VarBind, besides those of the second INTEGER: its first one has one."""


class Shape(NamedTuple):
    """A message of SNMPv1 or SNMPv2c up to its request-id."""

    prefix: bytes
    size: int
    """Of the whole message."""
    pdu: int
    """Where the PDU begins."""
    start: int
    """Where the request-id's content begins, and ends."""
    stop: int
    kind: int
    respond: Callable[[int, bytes, int], bytes | None]
    room: int
    """Octets that the VarBinds of a Response may have."""
    session: CommunitySession


class Quick:
    """What one requester's requests have taught."""

    __slots__ = ("_keys", "_lengths", "_pieces", "_sight", "_steps")

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._keys = sight.names.keys
        self._lengths: tuple[int, ...] = ()
        self._steps: dict[int, dict[bytes, tuple[int, int, Read | None, int]]] = {
            kind: {} for kind in (GET, GETNEXT, GETBULK)
        }
        """By PDU type and first octets: (octets of the whole, position, reader, max-repetitions)."""
        self._pieces: dict[bytes, tuple[int, LeafStore]] = {}
        """By the first octets of a VarBind in a GET: (its octets without the value, what holds its leaf)."""

    def respond(self, kind: int, tail: bytes, room: int) -> bytes | None:
        """The VarBinds that answer what follows a request-id, in at most `room` octets. None: not known.

        Raises NotMine, Refused, IndexError.
        """
        steps = self._steps.get(kind)
        if steps is None:
            return None
        before = BEFORE_A_NAME + tail[4]
        for length in self._lengths:
            cut = before + length
            step = steps.get(tail[:cut])
            if step is not None:
                break
        else:
            return self._several(tail, room) if kind == GET else None
        size, position, read, repetitions = step
        if len(tail) != size or tail[-2:] != NULL:
            return None
        index = tail[cut:-2]
        key = self._keys.get(index)
        if key is None:
            key = self._sight.names.key(index)
        try:
            if read is not None:
                # from here on nothing is left to the usual way: it would read again
                varbinds = read(key) or self._missing(tail[before:-2], 1)
                if len(varbinds) > room:
                    raise Refused(ErrorStatus.tooBig)
                return varbinds
            if kind == GETBULK:
                return walk.run(self._sight, (position, key, tail[before:-2]), repetitions, room, 1)
            octets, count, _, _ = self._sight.runs[position](key, 1, room)
        except ReadError as error:
            raise Refused(error.code, 1) from None
        # none where it goes on in another leaf, or there is no room for it
        return octets if count else None

    def _several(self, tail: bytes, room: int) -> bytes | None:
        """The VarBinds of a GET for several instances of known leaves."""
        if tail[:6] != parse.ZEROES:
            return None
        # parse.varbinds tells that everything up to the first VarBind is as it must be
        _, _, start = parse.varbinds(tail)
        pieces = tail[start:].split(NULL)
        if pieces.pop():
            return None
        known, keys = self._pieces, self._keys
        cut = 4 + self._lengths[0] if self._lengths else 0
        asked: list[tuple[LeafStore, bytes]] = []
        try:
            for piece in pieces:
                found = known.get(piece[:cut])
                if found is None:
                    cut = self._cut_of(piece)
                    found = known[piece[:cut]]
                size, store = found
                if len(piece) != size:
                    return None
                index = piece[cut:]
                key = keys.get(index)
                asked.append((store, self._sight.names.key(index) if key is None else key))
        except KeyError:
            return None
        # all of it is well-formed: from here on nothing is left to the usual way, which would read again
        out: list[bytes | None] = []
        try:
            read_each(asked, out)
        except ReadError as error:
            # in SNMPv1 an instance before it may not exist, and is what the response is about
            self._complete(pieces, out)
            raise Refused(error.code, len(out) + 1) from None
        try:
            octets = b"".join(out)  # type: ignore[arg-type]
        except TypeError:
            # None among them
            octets = b"".join(self._complete(pieces, out))
        if len(octets) > room:
            raise Refused(ErrorStatus.tooBig)
        return octets

    def _complete(self, pieces: list[bytes], out: list[bytes | None]) -> list[bytes]:
        """What was read, with VarBinds for instances that do not exist. Raises Refused in SNMPv1."""
        return [
            varbind or self._missing(piece[4:], number)
            for number, (piece, varbind) in enumerate(zip(pieces, out, strict=False), 1)
        ]

    def _missing(self, name: bytes, number: int) -> bytes:
        """The VarBind of an instance that does not exist, of a leaf in view. Raises Refused in SNMPv1."""
        if self._sight.v1:
            raise Refused(ErrorStatus.noSuchName, number)
        return ber.varbind(name, ber.NO_SUCH_INSTANCE)

    def _cut_of(self, piece: bytes) -> int:
        """Where the leaf's OID ends. Raises KeyError."""
        for length in self._lengths:
            if piece[: 4 + length] in self._pieces:
                return 4 + length
        raise KeyError

    # -- learning -------------------------------------------------------------------------------------------

    def learn(self, kind: int, tail: bytes) -> None:
        """Remember a PDU that the usual way has answered."""
        sight = self._sight
        first, second, position = parse.varbinds(tail)
        places = sight.names.places(tail, position)
        prefixes = sight.names.prefixes
        for leaf, key, name in places:
            length = len(prefixes[leaf]) if leaf < len(prefixes) else 0
            stop = position + 4 + len(name)
            read = sight.reads[leaf] if key is not None else None
            if key is not None and name[:length] == prefixes[leaf]:
                if len(places) == 1:
                    self._learn_one(kind, tail, position, leaf, (first, second))
                elif kind == GET and read is not None and not sight.hides(leaf):
                    self._note(length)
                    self._pieces[tail[position : position + 4 + length]] = (
                        4 + len(name),
                        sight.stores[leaf],
                    )
            position = stop + 2
        if len(self._pieces) + sum(map(len, self._steps.values())) > MAX_HEADS:
            self._pieces.clear()
            for steps in self._steps.values():
                steps.clear()

    def _learn_one(self, kind: int, tail: bytes, start: int, leaf: int, numbers: tuple[int, int]) -> None:
        sight = self._sight
        length = len(sight.names.prefixes[leaf])
        if start + 4 != BEFORE_A_NAME + tail[4]:
            return
        head = tail[: start + 4 + length]
        if kind == GET:
            read = sight.reads[leaf]
            if read is None or sight.hides(leaf):
                return
            self._steps[GET][head] = (len(tail), 0, read, 0)
        else:
            position = sight.first[leaf]
            non_repeaters, repetitions = numbers
            if kind == GETNEXT:
                repetitions = 1
            elif non_repeaters > 0 or repetitions < 1 or sight.v1:
                return
            if (
                position <= sight.cut_from
                or position == len(sight.leaf_at)
                or sight.leaf_at[position] != leaf
            ):
                return
            self._steps[kind][head] = (len(tail), position, None, repetitions)
        self._note(length)

    def _note(self, length: int) -> None:
        if length not in self._lengths:
            self._lengths = (length, *self._lengths)[:MAX_LENGTHS]


__all__ = ["Quick", "Shape"]

"""The SAs of list-sa messages, of which most say what they said five seconds ago but for their counts and clocks.

An SA's section is looked through once. What never moves in it is compared, as a hash of its octets, with what has
been read before: if the model knows that SA, its record of then is used again, and only the counts are read. So a
listing of thousands of SAs that merely carried packets makes no objects that stay.

The hash is Python's of bytes, 64 bits and keyed at random by each process: nobody can aim at a collision, and among
100,000 SAs one happens once in some 4 * 10^9 listings.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from agent.gateway.counters import Counts
from agent.gateway.listing import Heard
from agent.gateway.records import ChildRecord, IkeRecord
from agent.gateway.steps import Steps
from agent.sources import vici_records as read
from agent.sources.vici_message import (
    KEY_VALUE,
    LIST_END,
    LIST_ITEM,
    LIST_START,
    MAX_DEPTH,
    SECTION_END,
    SECTION_START,
    MalformedMessage,
    decode,
)
from agent.sources.vici_records import CHILD_KEYS, IKE_KEYS, MAX_COUNT, BadRecord

# What moves from listing to listing, and the count that it is, if it is one.
MOVING_CHILD: dict[bytes, str | None] = {
    **{key.encode(): name for name, key in CHILD_KEYS.items()},
    **dict.fromkeys((b"install-time", b"rekey-time", b"life-time", b"use-in", b"use-out")),
}
MOVING_IKE: dict[bytes, str | None] = dict.fromkeys(
    (b"established", b"rekey-time", b"reauth-time", b"life-time")
)
IKE_COUNTERS = {key.encode(): name for name, key in IKE_KEYS.items()}
NOT_MOVING = ""
SOME = 500
"""Records forgotten in one step."""

Reading = Generator[None, None, list[Heard]]


class ListingReader:
    """Reads the messages of one listing after the other. `begin` each, and run `ending` when it was whole."""

    def __init__(self, ikes: Mapping[Any, Any], children: Mapping[Any, Any]) -> None:
        """`ikes`, `children`: what the model knows, by the keys of their records."""
        self._ikes = ikes
        self._children = children
        self._known: dict[int, Any] = {}
        self._fresh: dict[int, Any] = {}

    def begin(self) -> None:
        self._fresh = {}

    def ending(self, full: bool) -> Steps:
        """All was read; a `full` listing had all that there is, so nothing else needs to be remembered."""
        before, self._known, self._fresh = self._known, self._fresh, {}
        while before:
            for _ in range(min(SOME, len(before))):
                signature, record = before.popitem()
                if not full:
                    self._known.setdefault(signature, record)
            yield

    def reading(self, octets: bytes, position: int) -> Reading:
        """The SAs of a message that begins at `position`, in steps. Raises MalformedMessage, BadRecord."""
        found: list[Heard] = []
        end = len(octets)
        try:
            while position < end:
                if octets[position] == SECTION_START:
                    position, name = _name(octets, position)
                    position, heard = yield from self._ike(octets, position, name)
                    found.append(heard)
                else:
                    position = _skip(octets, position)
                yield
        except IndexError:
            raise MalformedMessage("it ends within an element or a section") from None
        if position > end:
            raise MalformedMessage("it ends within an element")
        return found

    def _ike(self, octets: bytes, position: int, name: bytes) -> Generator[None, None, tuple[int, Heard]]:
        parts = [name]  # of what does not move
        whole: list[bytes] = []  # all but the children
        counts: Counts = {}
        children: list[tuple[ChildRecord, Mapping[str, int]]] = []
        since = begun = position
        while (kind := octets[position]) != SECTION_END:
            if kind == KEY_VALUE:
                at = position + 2 + octets[position + 1]
                following = at + 2 + (octets[at] << 8 | octets[at + 1])
                if octets[position + 2 : at] in MOVING_IKE:
                    parts.append(octets[since:position])
                    since = following
                position = following
            elif kind == SECTION_START:
                at, inner = _name(octets, position)
                if inner == b"child-sas":
                    parts.append(octets[since:position])
                    whole.append(octets[begun:position])
                    position = yield from self._child_sas(octets, at, children)
                    since = begun = position
                elif inner == b"counters":
                    parts.append(octets[since:position])
                    since = position = _counters(octets, at, counts)
                else:
                    position = _skip(octets, position)
            else:
                position = _skip(octets, position)
        parts.append(octets[since:position])
        signature = hash(b"\0".join(parts))
        record = self._known.get(signature)
        if record is None or record.__class__ is not IkeRecord or record.key not in self._ikes:
            whole.append(octets[begun:position])
            record = read.ike_record(_text(name), decode(b"".join(whole)))
            counts = dict(record.counts)
        self._fresh[signature] = record
        return position + 1, Heard(record, counts, children)

    def _child_sas(
        self, octets: bytes, position: int, found: list[tuple[ChildRecord, Mapping[str, int]]]
    ) -> Generator[None, None, int]:
        while (kind := octets[position]) != SECTION_END:
            if kind == SECTION_START:
                begun, _ = _name(octets, position)
                position, signature, counts = _child(octets, begun)
                record = self._known.get(signature)
                if record is None or record.__class__ is not ChildRecord or record.key not in self._children:
                    try:
                        record = read.child_record(decode(octets[begun : position - 1]))
                    except BadRecord:
                        yield  # one that cannot be read is left out
                        continue
                    counts = dict(record.counts)
                self._fresh[signature] = record
                found.append((record, counts))
                yield
            else:
                position = _skip(octets, position)
        return position + 1


def _child(octets: bytes, position: int) -> tuple[int, int, Counts]:
    """Where a child's section ends, the hash of what does not move in it, and its counts."""
    parts = []
    counts: Counts = {}
    since = position
    moving = MOVING_CHILD.get
    while (kind := octets[position]) != SECTION_END:
        if kind == KEY_VALUE:
            at = position + 2 + octets[position + 1]
            start = at + 2
            following = start + (octets[at] << 8 | octets[at + 1])
            name = moving(octets[position + 2 : at], NOT_MOVING)
            if name != NOT_MOVING:
                parts.append(octets[since:position])
                since = following
                if name is not None:
                    _count(counts, name, octets[start:following])
            position = following
        else:
            position = _skip(octets, position)
    parts.append(octets[since:position])
    return position + 1, hash(b"\0".join(parts)), counts


def _count(counts: Counts, name: str, value: bytes) -> None:
    """As vici_records.number reads it."""
    if 0 < len(value) <= 20:
        try:
            number = int(value)
        except ValueError:
            return
        if 0 <= number <= MAX_COUNT:
            counts[name] = number


def _counters(octets: bytes, position: int, counts: Counts) -> int:
    while (kind := octets[position]) != SECTION_END:
        if kind == KEY_VALUE:
            at = position + 2 + octets[position + 1]
            start = at + 2
            following = start + (octets[at] << 8 | octets[at + 1])
            name = IKE_COUNTERS.get(octets[position + 2 : at])
            if name is not None:
                _count(counts, name, octets[start:following])
            position = following
        else:
            position = _skip(octets, position)
    return position + 1


def _name(octets: bytes, position: int) -> tuple[int, bytes]:
    at = position + 2 + octets[position + 1]
    return at, octets[position + 2 : at]


def _skip(octets: bytes, position: int) -> int:
    """Where the element that begins at `position` ends: a value, a list or a whole section."""
    depth = 0
    while True:
        kind = octets[position]
        if kind == KEY_VALUE:
            at = position + 2 + octets[position + 1]
            position = at + 2 + (octets[at] << 8 | octets[at + 1])
        elif kind == LIST_START:
            position = position + 2 + octets[position + 1]
            while octets[position] == LIST_ITEM:
                position += 3 + (octets[position + 1] << 8 | octets[position + 2])
            if octets[position] != LIST_END:
                raise MalformedMessage(f"element of type {octets[position]} in a list")
            position += 1
        elif kind == SECTION_START:
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedMessage(f"sections nested deeper than {MAX_DEPTH}")
            position = position + 2 + octets[position + 1]
        elif kind == SECTION_END and depth:
            depth -= 1
            position += 1
        else:
            raise MalformedMessage(f"element of type {kind}")
        if not depth:
            return position


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedMessage("a key is not UTF-8") from None

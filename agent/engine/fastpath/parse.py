"""The octets of a request PDU, up to its VarBinds."""

from __future__ import annotations

from agent.engine.fastpath.errors import NotMine

ZEROES = b"\x02\x01\x00\x02\x01\x00"


def integer(data: bytes, position: int) -> tuple[int, int]:
    """An INTEGER of at most 32 bits at `position`: (value, position after it). Raises NotMine, IndexError."""
    size = data[position + 1]
    if data[position] != 2 or not 1 <= size <= 4:
        raise NotMine
    end = position + 2 + size
    return int.from_bytes(data[position + 2 : end], "big", signed=True), end


def varbinds(tail: bytes) -> tuple[int, int, int]:
    """(error-status or non-repeaters, error-index or max-repetitions, where the VarBinds begin).

    Raises NotMine, or IndexError where the octets end too early.
    """
    if tail[:6] == ZEROES:
        first = second = 0
        position = 6
    else:
        first, position = integer(tail, 0)
        second, position = integer(tail, position)
    if tail[position] != 0x30:
        raise NotMine
    size = tail[position + 1]
    position += 2
    if size >= 0x80:
        more = size & 0x7F
        if not 1 <= more <= 3:
            raise NotMine
        size = int.from_bytes(tail[position : position + more], "big")
        position += more
    if position + size != len(tail):
        raise NotMine
    return first, second, position


def request(data: bytes, position: int, end: int) -> tuple[int, bytes, bytes]:
    """A PDU that fills `data[position:end]`: (its type, the request-id with its tag, the octets after that).

    Raises NotMine, IndexError.
    """
    kind = data[position]
    size = data[position + 1]
    position += 2
    if size >= 0x80:
        more = size & 0x7F
        if not 1 <= more <= 3:
            raise NotMine
        size = int.from_bytes(data[position : position + more], "big")
        position += more
    if position + size != end or data[position] != 2:
        raise NotMine
    size = data[position + 1]
    if size != 1:
        first, second = data[position + 2], data[position + 3]
        if not 2 <= size <= 4 or (first == 0 and second < 0x80) or (first == 0xFF and second >= 0x80):
            # more octets than needed: the response's request-id would differ from the request's
            raise NotMine
    stop = position + 2 + size
    if stop > end:
        raise NotMine
    return kind, data[position:stop], data[stop:end]

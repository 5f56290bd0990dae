"""The octets of a request PDU after its request-id, read in the one form that managers send.

That is: every length of at most 127 octets in one octet, every value a NULL. Everything else is not mine.
"""

from __future__ import annotations

from agent.engine.fastpath.errors import NotMine

MAX_VARBIND = 0x7F


def integer(data: bytes, position: int) -> tuple[int, int]:
    """An INTEGER of at most 32 bits at `position`: (value, position after it). Raises NotMine, IndexError."""
    size = data[position + 1]
    if data[position] != 2 or not 1 <= size <= 4:
        raise NotMine
    end = position + 2 + size
    return int.from_bytes(data[position + 2 : end], "big", signed=True), end


def names(tail: bytes) -> tuple[int, int, list[bytes]]:
    """(error-status or non-repeaters, error-index or max-repetitions, contents octets of the names).

    Raises NotMine, or IndexError where the octets end too early.
    """
    first, position = integer(tail, 0)
    second, position = integer(tail, position)
    end = len(tail)
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
    if position + size != end:
        raise NotMine
    found = []
    while position < end:
        # 30 n+4 06 n ... 05 00
        size = tail[position + 3]
        start = position + 4
        stop = start + size
        if (
            tail[position + 1] != size + 4
            or size > MAX_VARBIND - 4
            or tail[position] != 0x30
            or tail[position + 2] != 6
            or tail[stop : stop + 2] != b"\x05\x00"
        ):
            raise NotMine
        found.append(tail[start:stop])
        position = stop + 2
    if position != end:
        raise NotMine
    return first, second, found

"""VICI messages: str in, str out, and nothing of a message that is not whole.

Encoding is `vici.protocol`'s. Decoding is done here, because a listing has half a million elements where a gateway has
ten thousand tunnels: about eight times as fast, strings at once, and in steps. Format: docs/vici.md, and the README of
strongSwan's libvici.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Mapping
from typing import Any

from vici.protocol import Message

from agent.gateway.steps import at_once

Section = dict[str, Any]
"""A decoded message: str keys; values are str, list[str] or again a Section."""

SECTION_START, SECTION_END, KEY_VALUE, LIST_START, LIST_ITEM, LIST_END = range(1, 7)
MAX_DEPTH = 32
STEP = 64
"""Elements between two steps."""
MAX_KEYS = 2048


class MalformedMessage(ValueError):
    """The octets are no VICI message."""


_keys: dict[bytes, str] = {}  # so that thousands of sections share their keys


def encode(message: Mapping[str, Any]) -> bytes:
    """A message's octets. Raises ValueError when a key or value does not fit."""
    try:
        return bytes(Message.serialize(message))
    except (struct.error, AttributeError, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from None


def decode(octets: bytes) -> Section:
    """A message from its octets. Raises MalformedMessage."""
    return at_once(decoding(octets))


def decoding(octets: bytes, position: int = 0) -> Generator[None, None, Section]:
    """The same in steps, from `position` on."""
    root: Section = {}
    section = root
    outer: list[Section] = []
    count = 0
    end = len(octets)
    try:
        while position < end:
            kind = octets[position]
            if kind == KEY_VALUE:
                at = position + 2 + octets[position + 1]
                start = at + 2
                name = octets[position + 2 : at]
                position = start + (octets[at] << 8 | octets[at + 1])
                section[_keys.get(name) or _key(name)] = octets[start:position].decode("utf-8", "replace")
            elif kind == SECTION_START:
                if len(outer) >= MAX_DEPTH:
                    raise MalformedMessage(f"sections nested deeper than {MAX_DEPTH}")
                at = position + 2 + octets[position + 1]
                inner: Section = {}
                section[_key(octets[position + 2 : at])] = inner
                outer.append(section)
                section = inner
                position = at
            elif kind == SECTION_END:
                section = outer.pop()
                position += 1
            elif kind == LIST_START:
                position, name = _list(octets, position, section)
            else:
                raise MalformedMessage(f"element of type {kind}")
            count += 1
            if count % STEP == 0:
                yield
    except IndexError:
        what = (
            "a section ends that never began" if not outer and position < end else "it ends within an element"
        )
        raise MalformedMessage(what) from None
    except UnicodeDecodeError:
        raise MalformedMessage("a key is not UTF-8") from None
    if position > end:
        raise MalformedMessage("it ends within an element")
    if outer:
        raise MalformedMessage("it ends within a section")
    return root


def _list(octets: bytes, position: int, section: Section) -> tuple[int, bytes]:
    at = position + 2 + octets[position + 1]
    name = octets[position + 2 : at]
    items: list[str] = []
    while octets[at] == LIST_ITEM:
        start = at + 3
        at = start + (octets[at + 1] << 8 | octets[at + 2])
        items.append(octets[start:at].decode("utf-8", "replace"))
    if octets[at] != LIST_END:
        raise MalformedMessage(f"element of type {octets[at]} in a list")
    section[_key(name)] = items
    return at + 1, name


def _key(name: bytes) -> str:
    found = _keys.get(name)
    if found is None:
        found = name.decode("utf-8")
        if len(_keys) < MAX_KEYS and len(name) < 32:
            _keys[name] = found
    return found

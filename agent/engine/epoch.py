"""The stamp of everything that an access decision rests on.

Users, groups, access entries, views, communities and contexts change rarely; decisions about them are made for
every message. Whoever keeps a decision keeps the epoch's value beside it, and forgets both when it moved on.
"""

from __future__ import annotations


class Epoch:
    """A number that moves on with every change. Only ever compared for equality."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def bump(self) -> None:
        """Something that a decision may rest on has changed."""
        self.value += 1

"""What one requester may see of one context, decided once: a list of functions that read.

A leaf is wholly visible, wholly hidden, or the view cuts through it (RFC 3415 section 4: families below the
leaf, masks). Where it cuts, the plain path asks the view for each instance; here such a leaf is not mine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agent.engine.fastpath.names import Names
from agent.engine.fastpath.quick import Quick
from agent.smi import ber
from agent.smi.bound import Leaf
from agent.smi.controller import Access
from agent.smi.store import LeafStore

Read = Callable[[bytes], bytes | None]
Run = Callable[[bytes | None, int, int], tuple[bytes, int, bytes | None, bool]]
Cells = Callable[[bytes | None, int], tuple[list[bytes], bytes | None, bool]]
Plan = tuple[int, Any, int, int]
"""(PDU type, steps, non-repeaters, max-repetitions); see `answer.plan`."""


def hidden(key: bytes) -> None:
    """Reads an instance outside the view."""
    return None


class Sight:
    """One requester's readers. What is kept of requests is kept here because it holds these readers."""

    __slots__ = (
        "cells",
        "cut_from",
        "first",
        "leaf_at",
        "names",
        "plans",
        "quick",
        "reads",
        "runs",
        "stores",
        "unread",
        "v1",
    )

    def __init__(
        self, names: Names, leaves: Sequence[Leaf], stores: Sequence[LeafStore], view: Access, v1: bool
    ) -> None:
        self.names = names
        self.v1 = v1
        self.stores = stores
        self.plans: dict[bytes, Plan] = {}
        self.reads: list[Read | None] = []
        """Per leaf what GET calls; `hidden` for a leaf outside the view, None for one that is not mine."""
        self.leaf_at: list[int] = []
        self.runs: list[Run] = []
        self.cells: list[Cells] = []
        """What walks go through, position by position: the visible leaves in order."""
        self.first: list[int] = []
        """Per leaf the position of the first visible one at or after it."""
        self.cut_from = -1
        """Walks from positions up to this may come to a leaf that is not mine."""
        self.unread = False
        """Whether GET may come to a leaf that is not mine."""
        for number, (leaf, store) in enumerate(zip(leaves, stores, strict=True)):
            self.first.append(len(self.runs))
            covers = view.covers(leaf.oid)
            if covers is False:
                self.reads.append(hidden)
                continue
            # RFC 3584 section 4.2.2.1: version 1 has no Counter64; a walk passes it by
            too_new = v1 and leaf.codec.tag == ber.COUNTER64
            self.reads.append(None if covers is None or too_new else store.get)
            self.unread = self.unread or self.reads[-1] is None
            if too_new:
                continue
            if covers is None:
                self.cut_from = len(self.runs)
            self.leaf_at.append(number)
            self.runs.append(store.run)
            self.cells.append(store.cells)
        self.first.append(len(self.runs))
        self.quick = Quick(self)

    def drop(self) -> None:
        """Nobody asks here any more: let go of what refers back here, which no count of references would free."""
        del self.quick
        self.plans.clear()

    def hides(self, leaf: int) -> bool:
        """Whether the leaf is outside the view."""
        return self.reads[leaf] is hidden

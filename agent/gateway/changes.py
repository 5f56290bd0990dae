"""Which subjects of a domain changed after a stamp, each once.

A domain is what tables name when they ask whether they are still up to date ("ike", "tunnel", ...). Its stamp rises
with every change. Each source has a log of its own for each domain: a view of one source reads that one, the view of
all sources reads them all.

Memory: what changes between two readings is one set, and neighbouring sets are merged as in a binary counter, so that
there are at most about twice as many entries as there are subjects, and as few sets as the logarithm of that. A log
that holds many subjects that are gone forgets its older sets; who has not read since is told to read all again.
Nothing is remembered of a domain that nobody has ever asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

# Domains of change (Table.domain) that tell their subjects.
IKE = "ike"  # IkeTunnel: its row and values
TUNNEL = "tunnel"  # Tunnel: its row and values
ENDPOINT = "endpoint"  # Tunnel: its selectors
SELECTOR = "selector"  # SelectorPair: whether a tunnel has it
SPI = "spi"  # ChildSa: that it lives, and its state
SA = "sa"  # ChildSa: the same, and its values
SUBJECTS = (IKE, TUNNEL, ENDPOINT, SELECTOR, SPI, SA)

# Domains that only tell that something changed.
SOURCE = "source"
HISTORY = "history"
FAILURE = "failure"
DOMAINS = (*SUBJECTS, SOURCE, HISTORY, FAILURE)

FEW = 1024
"""So many subjects that are gone may be remembered, and a quarter of all, where there are more."""


class Subject(Protocol):
    """Something that has rows. Hashable by identity."""

    @property
    def alive(self) -> bool: ...


class Stamped(Protocol):
    """Something whose stamp changes whenever it does."""

    @property
    def stamp(self) -> int: ...


class Domain:
    """The stamp of one domain over all sources."""

    __slots__ = ("asked", "stamp")

    def __init__(self) -> None:
        self.stamp = 1
        self.asked = False  # ever

    def changed(self) -> None:
        self.stamp += 1


class ChangeLog:
    """What changed of one source in one domain. `stamp` is that of its last change."""

    __slots__ = ("_gone", "_open", "_sets", "domain", "floor", "stamp")

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.stamp = self.floor = domain.stamp
        self._sets: list[
            tuple[int, dict[Subject, None]]
        ] = []  # with the stamp of their last change, oldest first
        self._open: dict[Subject, None] = {}  # changed since anybody read
        self._gone = 0  # how many have left since the log was last trimmed

    def __len__(self) -> int:
        return len(self._open) + sum(len(entries) for _, entries in self._sets)

    def mark_gone(self, subject: Subject) -> None:
        """`subject` is there no longer."""
        self.mark(subject)
        self._gone += 1

    def mark(self, subject: Subject) -> None:
        """`subject` has changed or has come."""
        domain = self.domain
        if domain.asked:
            self.stamp = domain.stamp = domain.stamp + 1
            self._open[subject] = None

    def mark_all(self, subjects: Iterable[Subject]) -> None:
        """The same for many."""
        domain = self.domain
        if domain.asked:
            self.stamp = domain.stamp = domain.stamp + 1
            self._open.update(dict.fromkeys(subjects))

    def since(self, stamp: int) -> dict[Subject, None] | None:
        """The subjects that changed after `stamp`, and perhaps some more; None when that is too long ago."""
        if stamp < self.floor:
            return None
        if self._open:
            self._close()
        first = len(self._sets)
        while first and self._sets[first - 1][0] > stamp:
            first -= 1
        # in the order of time: who gave up an index comes before who has it now
        found: dict[Subject, None] = {}
        for _, entries in self._sets[first:]:
            found.update(entries)
        return found

    def _close(self) -> None:
        # The new set stays alone for now: who reads all the time gets nothing twice.
        sets = self._sets
        while len(sets) > 1 and len(sets[-2][1]) < 2 * len(sets[-1][1]):
            self._merge()
        sets.append((self.stamp, self._open))
        self._open = {}

    def _merge(self) -> None:
        newer, entries = self._sets.pop()
        older = self._sets.pop()[1]
        older.update(entries)
        self._sets.append((newer, older))

    def trim(self) -> None:
        """Forget what is about too many subjects that are gone. Call it now and then."""
        if self._gone <= max(FEW, len(self) // 4):
            return
        if self._open:
            self._close()
        sets = self._sets
        if sets:
            # Who reads all the time has read all but the newest set.
            last = len(sets) - 1 or 1
            self.floor = sets[last - 1][0]
            del sets[:last]
        self._gone = 0


class Domains:
    """All domains, of all sources."""

    def __init__(self) -> None:
        self.of = {name: Domain() for name in DOMAINS}

    def ask(self, name: str) -> Domain:
        """A domain whose changes are remembered from now on; one that never changes for an unknown name."""
        found = self.of.get(name)
        if found is None:
            return Domain()
        found.asked = True
        return found

    def changed(self, *names: str) -> None:
        """Something changed in domains that do not tell their subjects."""
        for name in names:
            self.of[name].changed()


class Changes:
    """The logs of one source."""

    __slots__ = ("endpoint", "ike", "of", "sa", "selector", "spi", "tunnel")

    def __init__(self, domains: Domains) -> None:
        self.of = {name: ChangeLog(domains.of[name]) for name in SUBJECTS}
        self.ike = self.of[IKE]
        self.tunnel = self.of[TUNNEL]
        self.endpoint = self.of[ENDPOINT]
        self.selector = self.of[SELECTOR]
        self.spi = self.of[SPI]
        self.sa = self.of[SA]

    def trim(self) -> None:
        """Bound what is remembered. Call it about once a second."""
        for log in self.of.values():
            log.trim()

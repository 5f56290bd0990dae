"""The View-based Access Control Model (RFC 3415): who may read or write which instance.

pysnmp's model ignores the securityModel and the minimum securityLevel and lets in where a view is undefined;
this one decides instead, from the first message on. Nothing that is not configured is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from agent.config import AccessEntry, Subtree
from agent.smi.ber import Oid

USM = 3
AUTH_PRIV = 3


class Failure(Enum):
    """Results of isAccessAllowed other than accessAllowed and notInView (RFC 3415 section 3.1)."""

    noSuchContext = "noSuchContext"
    noGroupName = "noGroupName"
    noAccessEntry = "noAccessEntry"
    noSuchView = "noSuchView"


class MibView:
    """One named view: a set of view tree families."""

    def __init__(self, families: Iterable[Subtree]) -> None:
        # RFC 3415 section 4: of the families that match, the one with most sub-identifiers decides, then the
        # lexicographically greatest.
        self._families = sorted(families, key=lambda f: (len(f.oid), f.oid), reverse=True)
        self._covers: dict[Oid, bool | None] = {}

    def allows(self, oid: Oid) -> bool:
        """Whether an instance is in the view (RFC 3415 section 3.2 step 5)."""
        for family in self._families:
            if len(family.oid) <= len(oid) and matches(family, oid, len(family.oid)):
                return family.included
        return False

    def covers(self, prefix: Oid) -> bool | None:
        """Whether all (True) or none (False) of the instances below `prefix` are in the view; None: some."""
        if prefix in self._covers:
            return self._covers[prefix]
        deeper = any(
            len(family.oid) > len(prefix) and matches(family, prefix, len(prefix))
            for family in self._families
        )
        result = None if deeper else self.allows(prefix)
        if len(self._covers) < 4096:
            self._covers[prefix] = result
        return result


SECRETS: tuple[Oid, ...] = ((1, 3, 6, 1, 6, 3, 18, 1, 1, 1, 2),)
"""snmpCommunityName (RFC 3584): who may read it is whoever it names, and at whatever may be written under it."""


class GuardedView(MibView):
    """A view for messages that somebody else can read: without the objects whose values are secrets.

    A community that may read everything would else hand out the strings of those that may write.
    """

    def allows(self, oid: Oid) -> bool:
        """Whether an instance is in the view."""
        return not any(oid[: len(secret)] == secret for secret in SECRETS) and super().allows(oid)

    def covers(self, prefix: Oid) -> bool | None:
        """Whether all (True) or none (False) of the instances below `prefix` are in the view; None: some."""
        for secret in SECRETS:
            if prefix[: len(secret)] == secret:
                return False
            if secret[: len(prefix)] == prefix and super().covers(prefix) is not False:
                return None
        return super().covers(prefix)


def matches(family: Subtree, oid: Oid, length: int) -> bool:
    """Whether the first `length` sub-identifiers agree, where the mask says that they count.

    A mask shorter than the subtree counts as if filled up with ones, a longer one's extra bits do not matter
    (RFC 3415, vacmViewTreeFamilyMask).
    """
    subtree, mask = family.oid, family.mask
    if not mask:
        return subtree[:length] == oid[:length]
    for position in range(length):
        if subtree[position] != oid[position]:
            octet = position >> 3
            if octet >= len(mask) or mask[octet] & (0x80 >> (position & 7)):
                return False
    return True


class AccessControl:
    """What vacmSecurityToGroupTable, vacmAccessTable, vacmViewTreeFamilyTable and vacmContextTable decide.

    One object serves as long as the engine does and is changed in place; a MibView that it gave stays as it was.
    """

    def __init__(
        self,
        members: Mapping[tuple[int, str], str],
        access: Iterable[AccessEntry],
        views: Mapping[str, Iterable[Subtree]],
        contexts: Iterable[str] = ("",),
    ) -> None:
        self._contexts = frozenset(contexts)
        self._decided: dict[tuple[int, str, int, str, str], MibView | Failure] = {}
        self.replace(members, access, views)

    def replace(
        self,
        members: Mapping[tuple[int, str], str],
        access: Iterable[AccessEntry],
        views: Mapping[str, Iterable[Subtree]],
    ) -> None:
        """Decide by these tables from now on. Whoever keeps decisions is told by the epoch."""
        self._members = dict(members)
        self._access = tuple(access)
        self._views = {name: MibView(families) for name, families in views.items()}
        self._guarded = {name: GuardedView(families) for name, families in views.items()}
        self._decided.clear()

    def set_contexts(self, contexts: Iterable[str]) -> None:
        """The contexts that there are from now on."""
        self._contexts = frozenset(contexts)
        self._decided.clear()

    def view(self, model: int, name: str, level: int, context: str, kind: str) -> MibView | Failure:
        """The view for one request (RFC 3415 section 3.2 steps 1 to 4).

        `model`: securityModel of the message (1, 2, 3). `level`: securityLevel (1, 2, 3). `kind`: 'read',
        'write' or 'notify'. A view name that no family defines is an empty view: nothing is in it.
        """
        if context not in self._contexts:
            # before anything is remembered: contexts are the sender's to choose, and may be long
            return Failure.noSuchContext
        key = (model, name, level, context, kind)
        found = self._decided.get(key)
        if found is None:
            found = self._decide(*key)
            if len(self._decided) < 4096:
                self._decided[key] = found
        return found

    def _decide(self, model: int, name: str, level: int, context: str, kind: str) -> MibView | Failure:
        group = self._members.get((model, name))
        if not group:
            return Failure.noGroupName
        rows = [
            row
            for row in self._access
            if row.group == group
            and row.model in (0, model)
            and row.level <= level
            and (row.context == context or (row.context_prefix and context.startswith(row.context)))
        ]
        if not rows:
            return Failure.noAccessEntry
        # section 4 (vacmAccessTable): the model itself before any, the longest prefix (the whole contextName is
        # the longest that there is), the highest level
        row = max(rows, key=lambda r: (r.model == model, len(r.context), r.level))
        view = {"read": row.read, "write": row.write, "notify": row.notify}[kind]
        if not view:
            return Failure.noSuchView
        views = self._views if model == USM and level == AUTH_PRIV else self._guarded
        return views.get(view) or MibView(())

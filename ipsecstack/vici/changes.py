"""What changed since a client last asked, at a cost of what changed (docs/vici.md, 'changed-since').

Endpoint generations (SAs came, went, changed state) and the data plane's touched SAs (traffic) are merged into one
stamp that only this class gives out. Entries are kept in the order of their stamps, so an answer reads the tail only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ipsecstack.ipsec.sa import SaId
from ipsecstack.ipsec.spd import SpdEntry
from ipsecstack.keyex.base import ChildSaView, CommandError, IkeSaView, KeyExchangeEndpoint

REMEMBERED = 8192
"""Ended SAs, and removed policies, that are remembered; who asks from further back gets a full list."""

T = TypeVar("T")


class Gone(Generic[T]):
    """What ended, by stamp; ``floor`` is the oldest stamp from which on nothing has been forgotten."""

    def __init__(self, limit: int) -> None:
        self._entries: deque[tuple[int, T]] = deque()
        self._limit = limit
        self.floor = 0

    def add(self, stamp: int, what: T) -> None:
        self._entries.append((stamp, what))
        while len(self._entries) > self._limit:
            self.floor = self._entries.popleft()[0]

    def since(self, stamp: int) -> list[T]:
        found = []
        for when, what in reversed(self._entries):
            if when <= stamp:
                break
            found.append(what)
        found.reverse()
        return found


@dataclass(slots=True)
class IkeEntry:
    view: IkeSaView
    stamp: int
    children: dict[int, int] = field(default_factory=dict)  # uniqueid -> stamp


@dataclass(slots=True)
class PolicyEntry:
    stamp: int
    entries: dict[SpdEntry, int] = field(default_factory=dict)  # with how often each was added


@dataclass(frozen=True, slots=True)
class SaChange:
    """An IKE SA to list, with the children to list and the stamps to show."""

    view: IkeSaView
    stamp: int
    children: tuple[tuple[ChildSaView, int], ...]


@dataclass(frozen=True, slots=True)
class SaChanges:
    full: bool
    stamp: int
    listed: list[SaChange]
    gone_ike: list[int]
    gone_child: list[int]


@dataclass(frozen=True, slots=True)
class PolicyChanges:
    full: bool
    stamp: int
    listed: list[SpdEntry]
    gone: list[str]


class ChangeLog:
    """Merges the two sources of change. ``refresh`` before every answer; it is the only consumer of ``touched``."""

    def __init__(
        self,
        endpoint: KeyExchangeEndpoint,
        touched: Callable[[], set[SaId]],
        policies: Iterable[SpdEntry],
        *,
        remembered: int = REMEMBERED,
    ) -> None:
        self._endpoint = endpoint
        self._touched = touched
        self.stamp = 1
        self._seen = -1
        self._ikes: dict[int, IkeEntry] = {}
        self._owners: dict[SaId, tuple[int, int]] = {}
        self._parents: dict[int, int] = {}  # Child SA -> the IKE SA that has it now
        self._gone_ike: Gone[int] = Gone(remembered)
        self._gone_child: Gone[int] = Gone(remembered)
        self._policies: dict[str, PolicyEntry] = {}
        self._gone_policies: Gone[str] = Gone(remembered)
        self._dirty_policies: dict[str, None] = {}
        for entry in policies:
            self.policy_added(entry)
        self.refresh()

    # --- SAs ---

    def refresh(self) -> None:
        """Take in what happened since the last call."""
        touched = self._touched()
        try:
            if self._seen < 0:
                raise CommandError("first time")
            changed, gone_ike, gone_child = self._endpoint.ike_sas_changed_since(self._seen)
        except CommandError:
            changed = self._endpoint.ike_sas()
            gone_ike = list(self._ikes.keys() - {view.uniqueid for view in changed})
            gone_child = []
        self._seen = self._endpoint.generation
        if not (changed or gone_ike or gone_child or touched or self._dirty_policies):
            return
        self.stamp += 1
        ended: dict[int, None] = dict.fromkeys(c for c in gone_child if c in self._parents)
        for view in changed:
            self._update(view, ended)
        for uniqueid in gone_ike:
            self._remove(uniqueid, ended)
        for child in ended:
            self._parents.pop(child, None)
            self._gone_child.add(self.stamp, child)
        for sa in touched:
            owner = self._owners.get(sa)
            if owner is not None and (entry := self._ikes.get(owner[0])) and owner[1] in entry.children:
                entry.children[owner[1]] = self.stamp
                self._move_to_end(owner[0], entry)
        self._refresh_policies()

    def _update(self, view: IkeSaView, ended: dict[int, None]) -> None:
        old = self._ikes.get(view.uniqueid)
        before = {child.uniqueid: child for child in old.view.children} if old else {}
        stamps = old.children if old else {}
        entry = IkeEntry(view, self.stamp)
        for child in view.children:
            same = before.get(child.uniqueid) == child and self._parents.get(child.uniqueid) == view.uniqueid
            entry.children[child.uniqueid] = stamps[child.uniqueid] if same else self.stamp
            self._parents[child.uniqueid] = view.uniqueid
            ended.pop(child.uniqueid, None)
            for sa in (child.inbound, child.outbound):
                if sa is not None:
                    self._owners[sa] = (view.uniqueid, child.uniqueid)
        for child in before.values():
            if entry.children.get(child.uniqueid) is None or child not in view.children:
                self._forget_sas(child, view)
            if child.uniqueid not in entry.children and self._parents.get(child.uniqueid) == view.uniqueid:
                ended[child.uniqueid] = None
        self._move_to_end(view.uniqueid, entry)

    def _forget_sas(self, child: ChildSaView, view: IkeSaView) -> None:
        """Drop names of SAs that a child no longer has (it ended, moved or got other addresses)."""
        now = next((c for c in view.children if c.uniqueid == child.uniqueid), None)
        kept = (now.inbound, now.outbound) if now else ()
        for sa in (child.inbound, child.outbound):
            if sa is not None and sa not in kept and self._owners.get(sa) == (view.uniqueid, child.uniqueid):
                del self._owners[sa]

    def _remove(self, uniqueid: int, ended: dict[int, None]) -> None:
        entry = self._ikes.pop(uniqueid, None)
        if entry is None:
            return
        self._gone_ike.add(self.stamp, uniqueid)
        for child in entry.view.children:
            if self._parents.get(child.uniqueid) == uniqueid:
                ended[child.uniqueid] = None
            for sa in (child.inbound, child.outbound):
                if sa is not None and self._owners.get(sa) == (uniqueid, child.uniqueid):
                    del self._owners[sa]

    def _move_to_end(self, uniqueid: int, entry: IkeEntry) -> None:
        self._ikes.pop(uniqueid, None)
        entry.stamp = self.stamp
        self._ikes[uniqueid] = entry

    def ike_sas(self, since: int | None) -> SaChanges:
        """What changed after stamp ``since``, or everything (None, or a stamp that is not answerable any more)."""
        floor = max(self._gone_ike.floor, self._gone_child.floor)
        if since is None or since < floor or since > self.stamp:
            listed = [self._change(entry, -1) for entry in self._ikes.values()]
            return SaChanges(True, self.stamp, listed, [], [])
        listed = []
        for entry in reversed(self._ikes.values()):
            if entry.stamp <= since:
                break
            listed.append(self._change(entry, since))
        return SaChanges(
            False, self.stamp, listed, self._gone_ike.since(since), self._gone_child.since(since)
        )

    def _change(self, entry: IkeEntry, since: int) -> SaChange:
        children = tuple(
            (child, entry.children[child.uniqueid])
            for child in entry.view.children
            if entry.children[child.uniqueid] > since
        )
        return SaChange(entry.view, entry.stamp, children)

    # --- policies ---

    def policy_added(self, entry: SpdEntry) -> None:
        """The data plane has one more policy."""
        policy = self._policies.setdefault(entry.name, PolicyEntry(self.stamp))
        policy.entries[entry] = policy.entries.get(entry, 0) + 1
        self._dirty_policies[entry.name] = None

    def policy_removed(self, entry: SpdEntry) -> None:
        policy = self._policies.get(entry.name)
        if policy is None or entry not in policy.entries:
            return
        policy.entries[entry] -= 1
        if not policy.entries[entry]:
            del policy.entries[entry]
        self._dirty_policies[entry.name] = None

    def _refresh_policies(self) -> None:
        for name in self._dirty_policies:
            policy = self._policies.pop(name)
            if policy.entries:
                policy.stamp = self.stamp
                self._policies[name] = policy
            else:
                self._gone_policies.add(self.stamp, name)
        self._dirty_policies.clear()

    def policies(self, since: int | None) -> PolicyChanges:
        """Policies of every name that changed after ``since`` (a changed name is listed whole), or all."""
        if since is None or since < self._gone_policies.floor or since > self.stamp:
            return PolicyChanges(
                True, self.stamp, [e for policy in self._policies.values() for e in policy.entries], []
            )
        listed: list[SpdEntry] = []
        for policy in reversed(self._policies.values()):
            if policy.stamp <= since:
                break
            listed.extend(policy.entries)
        gone = [
            name for name in dict.fromkeys(self._gone_policies.since(since)) if name not in self._policies
        ]
        return PolicyChanges(False, self.stamp, listed, gone)

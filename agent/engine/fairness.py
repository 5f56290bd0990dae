"""Whose datagram is next when more came than can be answered.

The kernel's socket buffer is one queue for all: who sends fastest fills it, and everybody else's requests are lost.
So once a receive loop has found a backlog it reads on, much faster than datagrams can be answered, and sorts them
here by sender. Each host gets its turn, and within a host each port; hosts that were answered before come before
strangers, whose number costs nothing to make up. What has to go goes from the longest queue, unread.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")

LIMIT = 2048
"""Datagrams held in all."""
OF_HOST = 256
"""Datagrams held of one host."""
MAX_KNOWN = 4096


class _Host(Generic[T]):
    __slots__ = ("count", "ports")

    def __init__(self) -> None:
        self.ports: OrderedDict[int, deque[T]] = OrderedDict()
        self.count = 0

    def put(self, port: int, item: T) -> None:
        queue = self.ports.get(port)
        if queue is None:
            queue = self.ports[port] = deque()
        queue.append(item)
        self.count += 1

    def take(self) -> T:
        port, queue = self.ports.popitem(last=False)
        item = queue.popleft()
        if queue:
            self.ports[port] = queue
        self.count -= 1
        return item

    def drop(self) -> None:
        """Drop the newest of the port that has most."""
        port = max(self.ports, key=lambda number: len(self.ports[number]))
        queue = self.ports[port]
        queue.pop()
        if not queue:
            del self.ports[port]
        self.count -= 1


class FairQueue(Generic[T]):
    """Datagrams that wait, by host and port. Bounded; `dropped` counts what found no place."""

    def __init__(self, limit: int = LIMIT, of_host: int = OF_HOST) -> None:
        self._limit = limit
        self._of_host = of_host
        self._strangers: OrderedDict[str, _Host[T]] = OrderedDict()
        self._answered: OrderedDict[str, _Host[T]] = OrderedDict()
        self._known: dict[str, None] = {}
        self._count = 0
        self.dropped = 0

    def __len__(self) -> int:
        return self._count

    def known(self, host: str) -> None:
        """A request from there was good: it was answered under a community or an authenticated user."""
        if host not in self._known:
            if len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[host] = None

    def put(self, host: str, port: int, item: T) -> bool:
        """Take in one datagram; False when it was dropped instead."""
        hosts = self._answered if host in self._known else self._strangers
        entry = hosts.get(host)
        if entry is not None and entry.count >= self._of_host:
            own = entry.ports.get(port)
            if own is not None and len(own) * len(entry.ports) >= entry.count:
                # of all this host's ports this one has its share and more
                self.dropped += 1
                return False
            entry.drop()
            self._count -= 1
            self.dropped += 1
        elif self._count >= self._limit and not self._make_room(hosts, entry):
            self.dropped += 1
            return False
        if entry is None:
            entry = hosts[host] = _Host()
        entry.put(port, item)
        self._count += 1
        return True

    def take(self) -> T | None:
        """The next one; None when there is none."""
        for hosts in (self._answered, self._strangers):
            if hosts:
                host, entry = hosts.popitem(last=False)
                item = entry.take()
                self._count -= 1
                if entry.count:
                    hosts[host] = entry
                return item
        return None

    def _make_room(self, hosts: OrderedDict[str, _Host[T]], entry: _Host[T] | None) -> bool:
        """Drop one of somebody else's, a stranger's if any. False when the newcomer is who has most."""
        mine = entry.count if entry is not None else 0
        if self._strangers and hosts is self._answered:
            victims = self._strangers
        elif hosts is self._strangers and not self._strangers:
            return False
        else:
            victims = hosts
        host, heaviest = _heaviest(victims)
        if victims is hosts and heaviest.count <= mine + 1:
            return False
        heaviest.drop()
        if not heaviest.count:
            del victims[host]
        self._count -= 1
        self.dropped += 1
        return True


def _heaviest(hosts: OrderedDict[str, _Host[T]]) -> tuple[str, _Host[T]]:
    """One with most datagrams among the first hosts in turn: to look at all would cost more than to answer."""
    best: tuple[str, _Host[T]] | None = None
    for number, pair in enumerate(hosts.items()):
        if best is None or pair[1].count > best[1].count:
            best = pair
        if number == 64:
            break
    assert best is not None
    return best

"""Small ledgers of an endpoint: VICI counters, tickets of commands, and what changed since when."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ipsecstack.keyex.base import CommandError, CommandFinished, Output

COUNTER_KEYS = (
    "ike-rekey-init", "ike-rekey-resp", "child-rekey", "invalid", "invalid-spi",
    "ike-init-in-req", "ike-init-in-resp", "ike-init-out-req", "ike-init-out-resp",
    "ike-auth-in-req", "ike-auth-in-resp", "ike-auth-out-req", "ike-auth-out-resp",
    "create-child-in-req", "create-child-in-resp", "create-child-out-req", "create-child-out-resp",
    "info-in-req", "info-in-resp", "info-out-req", "info-out-resp",
)  # fmt: skip


STATISTIC_KEYS = (
    "invalid-messages", "integrity-failures", "decrypt-failures", "cookies-sent", "half-open-drops",
    "unknown-ike-spi", "qcd-tokens", "qcd-crashes", "tickets-issued", "tickets-refused", "sessions-resumed",
)  # fmt: skip


class Counters:
    """VICI get-counters: totals, and one set for each connection."""

    def __init__(self) -> None:
        self._total = dict.fromkeys(COUNTER_KEYS, 0)
        self._by_connection: dict[str, dict[str, int]] = {}

    def add(self, connection: str | None, key: str) -> None:
        self._total[key] += 1
        if connection is not None:
            own = self._by_connection.get(connection)
            if own is None:
                own = self._by_connection[connection] = dict.fromkeys(COUNTER_KEYS, 0)
            own[key] += 1

    def get(self, connection: str | None) -> dict[str, int]:
        if connection is None:
            return dict(self._total)
        return dict(self._by_connection.get(connection) or dict.fromkeys(COUNTER_KEYS, 0))

    def by_connection(self) -> dict[str, dict[str, int]]:
        return {name: dict(values) for name, values in self._by_connection.items()}

    def reset(self, connection: str | None) -> None:
        if connection is None:
            self._total = dict.fromkeys(COUNTER_KEYS, 0)
            self._by_connection.clear()
        else:
            self._by_connection.pop(connection, None)


class Tickets:
    """Commands under way. A command may have several parts; its first failure decides."""

    def __init__(self, emit: Callable[[Output], None]) -> None:
        self._emit = emit
        self._last = 0
        self._open: dict[int, tuple[int, bool, str]] = {}

    def open(self, parts: int) -> int:
        """A new ticket that ``parts`` calls of ``finish`` will close; none left is closed at once."""
        self._last += 1
        self._open[self._last] = (parts, True, "")
        return self._last

    def finish(self, tickets: list[int], success: bool, message: str) -> None:
        """One part of each is done. Empties the list, so that no part is counted twice."""
        done, tickets[:] = list(tickets), []
        for ticket in done:
            if ticket not in self._open:
                continue
            left, good, text = self._open[ticket]
            if good:
                good, text = success, message
            if left > 1:
                self._open[ticket] = (left - 1, good, text)
            else:
                del self._open[ticket]
                self._emit(CommandFinished(ticket, good, text))


class Changes:
    """Generations, and the SAs that ended lately."""

    def __init__(self, remember: int) -> None:
        self.generation = 0
        self._gone: deque[tuple[int, bool, int]] = deque()
        self._remember = remember
        self._forgotten = 0
        """Generation up to which ended SAs are not remembered any more."""

    def next(self) -> int:
        self.generation += 1
        return self.generation

    def ended(self, uniqueid: int, *, ike: bool) -> None:
        self._gone.append((self.next(), ike, uniqueid))
        if len(self._gone) > self._remember:
            self._forgotten = self._gone.popleft()[0]

    def gone_since(self, generation: int) -> tuple[list[int], list[int]]:
        """Uniqueids of IKE SAs and of Child SAs; CommandError when that is too long ago, or was never."""
        if generation < self._forgotten or generation > self.generation:
            raise CommandError(f"generation {generation} is not known (any more): list everything")
        recent = [entry for entry in self._gone if entry[0] > generation]
        return [i for _, ike, i in recent if ike], [i for _, ike, i in recent if not ike]

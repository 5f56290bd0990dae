"""Row indexes that stay: each identity keeps its number while it lives, and gets it back when it returns.

Numbers rise and are given again only after all of them were used. The registry is kept on disk by the daemon, so a
restarted agent numbers the same tunnels as before.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator

from agent.gateway.steps import at_once

Key = tuple[str, ...]
FORMAT = 1
SOME = 100
"""Entries written in one step."""


class IndexTable:
    """Numbers 1 to `maximum` for identities. `keep` bounds how many identities that ended are remembered."""

    def __init__(self, maximum: int = 2**31 - 1, keep: int = 10_000) -> None:
        self.maximum = maximum
        self.keep = keep
        self.changed = False
        self._numbers: dict[Key, int] = {}
        self._used: set[int] = set()
        self._ended: dict[Key, None] = {}  # in the order in which they ended
        self._next = 1

    def __contains__(self, key: Key) -> bool:
        return key in self._numbers

    def number(self, key: Key) -> int:
        """The number of `key`, a new one if it has none. Raises OverflowError when every number is in use."""
        self._ended.pop(key, None)
        found = self._numbers.get(key)
        if found is None:
            found = self._free()
            self._numbers[key] = found
            self._used.add(found)
            self.changed = True
        return found

    def move(self, old: Key, new: Key) -> int:
        """Give the number of `old` to `new`, which must have none; `old` has none afterwards."""
        if new in self._numbers:
            raise KeyError(f"{new} has a number already")
        number = self._numbers.pop(old)
        self._ended.pop(old, None)
        self._numbers[new] = number
        self.changed = True
        return number

    def end(self, key: Key) -> None:
        """`key` lives no longer. Its number stays reserved until `keep` others have ended after it."""
        if key not in self._numbers:
            return
        self._ended.pop(key, None)
        self._ended[key] = None
        while len(self._ended) > self.keep:
            self._forget(next(iter(self._ended)))

    def __iter__(self) -> Iterator[Key]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def get(self, key: Key) -> int | None:
        """The number of `key` as it is."""
        return self._numbers.get(key)

    def restore(self, items: Iterable[tuple[Key, int]]) -> None:
        """Take over saved numbers; those of identities that do not come back are forgotten as newer ones end."""
        for key, number in items:
            if key in self._numbers or number in self._used or not 1 <= number <= self.maximum:
                continue
            self._numbers[key] = number
            self._used.add(number)
            self._ended[key] = None
            self._next = max(self._next, number + 1)

    def _free(self) -> int:
        if len(self._used) >= self.maximum:
            if not self._ended:
                raise OverflowError(f"all {self.maximum} indexes are in use")
            self._forget(next(iter(self._ended)))
        while True:
            if self._next > self.maximum:
                self._next = 1
            candidate = self._next
            self._next += 1
            if candidate not in self._used:
                return candidate

    def _forget(self, key: Key) -> None:
        del self._ended[key]
        self._used.discard(self._numbers.pop(key))
        self.changed = True


class IndexRegistry:
    """The index tables of the model, with their text form for the disk."""

    def __init__(self) -> None:
        self.ike = IndexTable()
        self.tunnel = IndexTable()
        self.selector = IndexTable(maximum=2**24 - 1)
        self.source = IndexTable()
        self._tables = {
            "ike": self.ike,
            "tunnel": self.tunnel,
            "selector": self.selector,
            "source": self.source,
        }

    @property
    def changed(self) -> bool:
        return any(table.changed for table in self._tables.values())

    def dumping(self) -> Generator[None, None, list[str]]:
        """All numbers as a JSON text in parts, made in steps; `changed` is False from the first step on."""
        keys = {name: list(table) for name, table in self._tables.items()}
        for table in self._tables.values():
            table.changed = False
        parts = [f'{{"format": {FORMAT}, "tables": {{']
        for number, (name, table) in enumerate(self._tables.items()):
            parts.append(f"{', ' if number else ''}{json.dumps(name)}: [")
            comma = ""
            for start in range(0, len(keys[name]), SOME):
                some = [(key, table.get(key)) for key in keys[name][start : start + SOME]]
                text = json.dumps([pair for pair in some if pair[1] is not None])[1:-1]
                if text:
                    parts.append(comma + text)
                    comma = ", "
                yield
            parts.append("]")
        parts.append("}}\n")
        return parts

    def dump(self) -> str:
        """The same at once."""
        return "".join(at_once(self.dumping()))

    def not_saved(self) -> None:
        """What `dump` gave did not reach the disk."""
        self.source.changed = True

    def load(self, text: str) -> None:
        """Take over a dump's JSON text. Raises ValueError when it is none, and then nothing is taken over."""
        try:
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']!r} of saved indexes is not known")
            rows = {
                name: [(tuple(map(str, key)), int(number)) for key, number in entries]
                for name, entries in document["tables"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"saved indexes are damaged: {error!r}") from error
        for name, entries in rows.items():
            if name in self._tables:
                self._tables[name].restore(entries)

"""What the controller asks of the model, and what a writer gives back.

The controller never imports the model: it gets one object with one method and hands it to the getters and
writers that the bindings declare.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

IndexValues = tuple[Any, ...]
"""Values of a row's INDEX objects in the order of the INDEX clause, each as `agent.smi.syntax` says:
int for every integer syntax, bytes for OCTET STRING, IpAddress and InetAddress, tuple[int, ...] for OID."""


@runtime_checkable
class Model(Protocol):
    """The object that rows, index and value getters read from."""

    def generation(self, domain: str) -> int:
        """Change stamp of one domain, the name that `Table.domain` gives (by default the table's name).

        The stamp is only compared for equality. It must differ whenever the set of rows, an index or any value
        that is not declared `volatile` has changed since the stamp was last read; rows, indexes and values
        are re-read then and only then. It must be cheap: it is asked once per table and PDU.
        An unknown domain answers a stamp that never changes or that always changes, as the model likes.
        """
        ...


class Stamped(Protocol):
    """A change stamp to look at: `stamp` is what `generation` would answer."""

    @property
    def stamp(self) -> int: ...


@runtime_checkable
class Watched(Protocol):
    """What a model may offer beside `generation`, to be asked without a call."""

    def watch(self, domain: str) -> Stamped:
        """The change stamp of a domain, now and later."""
        ...


@runtime_checkable
class ChangeLog(Protocol):
    """What a model offers beside `generation` so that tables with `subjects` need not be read as a whole."""

    def changes(self, domain: str, since: int) -> Iterable[tuple[Any, bool]] | None:
        """Subjects of a domain that were added, changed or removed after its stamp was `since`.

        Each once, with whether it still exists. None: not known; everything is then read again. A subject
        that exists is one that `Table.subjects` gives; one may be told that was never seen, or never changed.
        """
        ...


class Asked:
    """The change stamp of something that answers when it is called."""

    __slots__ = ("_ask",)

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask = ask

    @property
    def stamp(self) -> int:
        return self._ask()


def watch(model: Any, domain: str) -> Stamped:
    """The change stamp of a model's domain."""
    if isinstance(model, Watched):
        return model.watch(domain)
    return Asked(partial(model.generation, domain))


class Change(Protocol):
    """One tested change of a SET, ready to be made. Each method may be a coroutine function.

    The transaction calls `commit` of every change of the PDU in varbind order after all tests passed. When a
    commit raises, `undo` is called on those already committed and on the one that failed, in reverse order;
    `undo` must accept a commit that did nothing or half of its work.

    `merge_key`: changes of one PDU with equal keys that are not None are handed to `merge` of the first of
    them and become one change ("one PDU makes one change in the live stack").
    """

    @property
    def merge_key(self) -> object | None: ...

    def merge(self, other: Any) -> Change: ...

    def commit(self) -> Awaitable[None] | None: ...

    def undo(self) -> Awaitable[None] | None: ...


class ScalarWriter(Protocol):
    """Judges a SET of a scalar."""

    def test(self, model: Any, value: Any) -> Change:
        """Return the change or raise SetError; must have no effect."""
        ...


class ColumnWriter(Protocol):
    """Judges a SET of one column of one row, independent of the PDU's other varbinds."""

    def test(self, model: Any, row: Any | None, index: IndexValues, value: Any) -> Change:
        """Return the change or raise SetError; must have no effect. `row` is None where no row exists."""
        ...


class RowWriter(Protocol):
    """Judges all varbinds of one PDU that name the same row together (RowStatus tables)."""

    def test(self, model: Any, row: Any | None, index: IndexValues, values: Mapping[str, Any]) -> Change:
        """`values`: object name -> new value, in varbind order. Raise SetError(code, column=name) to refuse."""
        ...

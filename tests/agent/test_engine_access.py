"""Access control by RFC 3415: what must be kept out, and which row decides."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import AccessEntry, Subtree
from agent.engine.access import AccessControl, Failure, MibView
from agent.smi.ber import Oid

ALL = {"all": [Subtree((1,))], "system": [Subtree((1, 3, 6, 1, 2, 1, 1))], "none": []}
SYS = (1, 3, 6, 1, 2, 1, 1, 1, 0)


def control(*entries: AccessEntry, contexts: Iterable[str] = ("", "a", "ab")) -> AccessControl:
    members = {(3, "op"): "g", (2, "com"): "g", (1, "com"): "g"}
    return AccessControl(members, entries, ALL, contexts)


def allowed(
    control: AccessControl, model: int, name: str, level: int, context: str = "", kind: str = "read"
) -> bool | Failure:
    view = control.view(model, name, level, context, kind)
    return view if isinstance(view, Failure) else view.allows(SYS)


USM_PRIV = AccessEntry("g", 3, 3, read="all", write="system")


@pytest.mark.parametrize(
    ("model", "name", "level", "context", "kind", "expected"),
    [
        (3, "op", 3, "", "read", True),
        (3, "op", 3, "", "write", True),
        (3, "op", 2, "", "read", Failure.noAccessEntry),
        (3, "op", 1, "", "read", Failure.noAccessEntry),
        (2, "com", 1, "", "read", Failure.noAccessEntry),
        (2, "com", 3, "", "read", Failure.noAccessEntry),
        (3, "com", 3, "", "read", Failure.noGroupName),
        (1, "op", 3, "", "read", Failure.noGroupName),
        (3, "", 3, "", "read", Failure.noGroupName),
        (3, "op", 3, "unknown", "read", Failure.noSuchContext),
        (3, "op", 3, "a", "read", Failure.noAccessEntry),
        (3, "op", 3, "", "notify", Failure.noSuchView),
    ],
)
def test_level_model_name_and_context(
    model: int, name: str, level: int, context: str, kind: str, expected: bool | Failure
) -> None:
    assert allowed(control(USM_PRIV), model, name, level, context, kind) == expected


def test_an_undefined_or_empty_view_lets_nothing_in() -> None:
    for view in ("undefined", "none"):
        entry = AccessEntry("g", 3, 3, read=view, write=view)
        assert allowed(control(entry), 3, "op", 3) is False
        assert allowed(control(entry), 3, "op", 3, kind="write") is False


def test_no_configuration_lets_nobody_in() -> None:
    empty = AccessControl({}, [], {})
    assert allowed(empty, 3, "op", 3) is Failure.noGroupName
    assert allowed(empty, 2, "public", 1) is Failure.noGroupName


@pytest.mark.parametrize(
    ("entries", "context", "view"),
    [
        # the model itself before any, though any asks for a higher level
        ([AccessEntry("g", 0, 3, read="all"), AccessEntry("g", 3, 1, read="system")], "", "system"),
        # exact before prefix
        (
            [
                AccessEntry("g", 3, 3, "a", True, read="all"),
                AccessEntry("g", 3, 1, "ab", False, read="system"),
            ],
            "ab",
            "system",
        ),
        # the longer prefix
        (
            [AccessEntry("g", 3, 3, "", True, read="all"), AccessEntry("g", 3, 1, "a", True, read="system")],
            "ab",
            "system",
        ),
        # the higher level
        ([AccessEntry("g", 3, 1, read="all"), AccessEntry("g", 3, 2, read="system")], "", "system"),
    ],
)
def test_which_row_decides(entries: list[AccessEntry], context: str, view: str) -> None:
    chosen = control(*entries).view(3, "op", 3, context, "read")
    assert isinstance(chosen, MibView)
    assert chosen.allows((1, 5)) == (view == "all")
    for row in (entries, entries[::-1]):
        again = control(*row).view(3, "op", 3, context, "read")
        assert isinstance(again, MibView)
        assert again.allows((1, 5)) == chosen.allows((1, 5))


@pytest.mark.parametrize(
    ("families", "oid", "expected"),
    [
        ([Subtree((1, 3))], (1, 3), True),
        ([Subtree((1, 3))], (1,), False),
        ([Subtree((1, 3)), Subtree((1, 3, 6), False)], (1, 3, 6, 1), False),
        ([Subtree((1, 3), False), Subtree((1, 3, 6))], (1, 3, 6, 1), True),
        ([Subtree((1, 3, 6), False), Subtree((1, 3))], (1, 3, 7), True),
        # a mask of 101: the middle number is free
        ([Subtree((1, 3, 6), True, b"\xa0")], (1, 99, 6, 5), True),
        ([Subtree((1, 3, 6), True, b"\xa0")], (1, 99, 7), False),
        # shorter than the subtree: filled up with ones
        ([Subtree((1, 0, *[5] * 10), True, b"\xbf")], (1, 7, *[5] * 10), True),
        ([Subtree((1, 0, *[5] * 10), True, b"\xbf")], (1, 7, *[5] * 9, 6), False),
        # longer than the subtree: the rest does not matter
        ([Subtree((1, 3), True, b"\xff\xff\xff\xff")], (1, 3, 1), True),
        ([Subtree((1, 3), True, b"\x40\x00\x00")], (9, 3, 1), True),
        # equally long: the lexicographically greater family decides
        ([Subtree((1, 0, 2), True, b"\xa0"), Subtree((1, 5, 2), False, b"\xff")], (1, 5, 2, 1), False),
        ([Subtree((1, 9, 2), True, b"\xa0"), Subtree((1, 5, 2), False, b"\xff")], (1, 5, 2, 1), True),
    ],
)
def test_view_tree_families(families: list[Subtree], oid: Oid, expected: bool) -> None:
    assert MibView(families).allows(oid) is expected
    assert MibView(families[::-1]).allows(oid) is expected


numbers = st.integers(0, 2)
families = st.lists(
    st.builds(
        Subtree,
        st.lists(numbers, min_size=1, max_size=4).map(tuple),
        st.booleans(),
        st.sampled_from([b"", b"\xff", b"\xa0", b"\x50", b"\x00"]),
    ),
    max_size=4,
)


@given(families, st.lists(numbers, max_size=3), st.lists(st.lists(numbers, max_size=3), max_size=8))
def test_covers_never_promises_too_much(
    chosen: list[Subtree], prefix: list[int], tails: list[list[int]]
) -> None:
    view = MibView(chosen)
    covers = view.covers(tuple(prefix))
    for tail in tails:
        if covers is not None:
            assert view.allows((*prefix, *tail)) is covers

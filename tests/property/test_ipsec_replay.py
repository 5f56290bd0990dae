"""The replay window against a plain model: a set of the numbers that were seen."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecstack.ipsec.replay import ReplayWindow
from ipsecstack.ipsec.sa import ReplayCounts


@settings(deadline=None)
@given(
    st.sampled_from([1, 3, 32, 64, 1024]),
    st.booleans(),
    st.integers(0, 2**34),
    st.lists(st.integers(-80, 80), max_size=120),
)
def test_window_is_a_set_of_recent_numbers(size: int, esn: bool, start: int, steps: list[int]) -> None:
    window = ReplayWindow(size, esn)
    limit = 2**64 - 1 if esn else 2**32 - 1
    start = min(start, limit - 1)
    if start:
        window.accept(start)
    seen = {0, start}
    counts: Counter[str] = Counter()
    late = 0
    for step in steps:
        number = window.top + step
        expected = (
            0 < number <= limit and number not in seen and (number > max(seen) or max(seen) - number < size)
        )
        assert window.fresh(number) == expected
        if not expected:
            kind = (
                "beyond_window"
                if number > limit
                else "zero"
                if number == 0
                else "duplicates"
                if number in seen and max(seen) - number < size
                else "before_window"
            )
            counts[kind] += 1
            window.drop(number)
        if expected:
            late += number < window.top
            window.accept(number)
            seen.add(number)
            assert not window.fresh(number)
        assert window.top == max(seen)
    assert window.counts == ReplayCounts(out_of_order=late, **counts)
    assert window.counts.dropped == counts.total()


@settings(deadline=None)
@given(st.sampled_from([0, 1, 5, 64]), st.lists(st.integers(1, 90), max_size=5), st.integers(1, 70))
def test_advance_is_accept_for_each(size: int, before: list[int], count: int) -> None:
    one, other = ReplayWindow(size, esn=False), ReplayWindow(size, esn=False)
    for window in (one, other):
        for number in before:
            if window.fresh(number):
                window.accept(number)
    one.advance(count)
    for number in range(other.top + 1, other.top + 1 + count):
        other.accept(number)
    assert (one.top, one.bitmap) == (other.top, other.bitmap)


@settings(deadline=None)
@given(st.sampled_from([0, 32, 64, 1000]), st.integers(0, 2**40), st.integers(-900, 2**31 - 1))
def test_high_half_is_found(size: int, top: int, distance: int) -> None:
    """Any number inside the window, or less than 2^32 - size ahead, is reconstructed from its low half."""
    window = ReplayWindow(size, esn=True)
    window.top = top
    number = top + max(distance, -((size or 2**31) - 1))
    if 0 <= number < 2**64:
        assert window.sequence_number(number & 0xFFFFFFFF) == number

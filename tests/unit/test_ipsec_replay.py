"""Edges of the replay window and of 64-bit numbers (RFC 4303 §3.4.3, App. A2)."""

from __future__ import annotations

import pytest

from ipsecstack.ipsec.replay import ReplayWindow
from ipsecstack.ipsec.sa import ReplayCounts

LOW = 0xFFFFFFFF


def test_number_zero_is_never_fresh() -> None:
    assert not ReplayWindow(32, esn=False).fresh(0)


def test_left_edge() -> None:
    window = ReplayWindow(32, esn=False)
    window.accept(100)
    assert window.fresh(69)
    assert not window.fresh(68)


def test_jump_ahead_forgets_the_past() -> None:
    window = ReplayWindow(32, esn=False)
    for number in (1, 2, 3):
        window.accept(number)
    window.accept(LOW)
    assert window.bitmap == 1
    assert not window.fresh(3)
    assert window.fresh(LOW - 31)


def test_size_zero_accepts_repeats() -> None:
    window = ReplayWindow(0, esn=False)
    window.accept(5)
    assert window.fresh(5)
    assert window.fresh(1)
    window.accept(LOW)
    window.accept(1)  # from far behind, at no cost
    assert (window.top, window.bitmap, window.counts) == (LOW, 1, ReplayCounts())


def test_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="replay window"):
        ReplayWindow(-1, esn=False)


def test_numbers_cross_2_to_the_32() -> None:
    window = ReplayWindow(64, esn=True)
    window.accept(LOW - 1)
    assert window.sequence_number(LOW) == LOW
    assert window.sequence_number(5) == (1 << 32) + 5
    window.accept((1 << 32) + 5)
    # A late packet of the old subspace still belongs there.
    assert window.sequence_number(LOW) == LOW
    assert window.fresh(LOW)
    assert not window.fresh(LOW - 1)


def test_before_the_first_subspace_there_is_nothing() -> None:
    window = ReplayWindow(64, esn=True)
    window.accept(3)
    assert not window.fresh(window.sequence_number(LOW))


def test_numbers_end_at_2_to_the_64() -> None:
    window = ReplayWindow(64, esn=True)
    window.accept((1 << 64) - 2)
    assert window.fresh((1 << 64) - 1)
    assert window.sequence_number(7) == 1 << 64 | 7
    assert not window.fresh(1 << 64 | 7)

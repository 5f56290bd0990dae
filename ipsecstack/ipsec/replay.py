"""Sequence numbers on receipt: anti-replay window and the high half of 64-bit numbers (RFC 4303 §3.4.3, App. A2)."""

from __future__ import annotations

from ipsecstack.ipsec.sa import ReplayCounts

_LOW = 0xFFFFFFFF
_INFERENCE_SPAN = 1 << 31  # how far numbers may stray when no window limits them, to find the high half


class ReplayWindow:
    """Which sequence numbers of one inbound SA were seen.

    ``size`` is in packets; 0 switches the check off (the numbers are still followed, ESN needs them). ``top`` is the
    highest number that was authenticated. The window is one int: bit i says that ``top - i`` was seen. ``counts``
    tells what was dropped and why, and what came late.
    """

    __slots__ = ("_mask", "bitmap", "counts", "esn", "limit", "size", "top")

    def __init__(self, size: int, esn: bool) -> None:
        if size < 0:
            raise ValueError(f"a replay window of {size} packets")
        self.size = size
        self.esn = esn
        self.top = 0
        self.bitmap = 1  # number 0 is never sent: it counts as seen
        self._mask = (1 << size) - 1
        self.limit = (1 << 64) - 1 if esn else _LOW
        self.counts = ReplayCounts()

    def sequence_number(self, low: int) -> int:
        """The whole sequence number of a packet that shows its low 32 bits (App. A2.2).

        It may be out of range; then it is not ``fresh``.
        """
        if not self.esn:
            return low
        span = self.size or _INFERENCE_SPAN
        top_high, top_low = self.top >> 32, self.top & _LOW
        if top_low >= span - 1:
            high = top_high if low >= top_low - span + 1 else top_high + 1
        else:
            high = top_high - 1 if low >= (top_low - span + 1) & _LOW else top_high
        return high << 32 | low if high >= 0 else -1

    def fresh(self, sequence_number: int) -> bool:
        """False for a number that was seen, is left of the window, or cannot be."""
        behind = self.top - sequence_number
        if behind < 0:
            return sequence_number <= self.limit
        if sequence_number < 0:
            return False
        if not self.size:
            return True
        return behind < self.size and not self.bitmap >> behind & 1

    def drop(self, sequence_number: int) -> None:
        """Count a packet whose number is not fresh, by the reason."""
        if sequence_number > self.limit:
            self.counts.beyond_window += 1
        elif sequence_number == 0:
            self.counts.zero += 1
        elif sequence_number < 0 or self.top - sequence_number >= self.size:
            self.counts.before_window += 1
        else:
            self.counts.duplicates += 1

    def advance(self, count: int) -> None:
        """The next ``count`` numbers were all seen, in order: ``accept`` for each, at once."""
        seen = self.bitmap << count | (1 << count) - 1
        self.bitmap = seen & self._mask if self.size else 1
        self.top += count

    def jump(self, sequence_number: int) -> None:
        """Go on behind a number that is right of the window; neither it nor what is before it was seen."""
        self.top = sequence_number
        self.bitmap = 0 if self.size else 1

    def accept(self, sequence_number: int) -> None:
        """Mark a fresh number as seen. Only after the packet's ICV was verified."""
        ahead = sequence_number - self.top
        if ahead > 0:
            self.bitmap = (self.bitmap << ahead | 1) & self._mask if ahead < self.size else 1
            self.top = sequence_number
        elif self.size:
            self.bitmap |= 1 << -ahead & self._mask
            self.counts.out_of_order += 1


class Resynchroniser:
    """When to look for a lost high half of the sequence number, and where (RFC 4303 App. A3).

    More than 2^32 packets lost in a row leave the receiver with the wrong high half, so that nothing verifies any more.
    ``candidates`` says which numbers to try then: only after ``FAILURES`` failures without a success between them, few
    for one packet, and after each vain try only after twice as many failures, so that forged packets cost little.
    """

    __slots__ = ("_failures", "_patience")

    FAILURES = 16
    TRIES = 4  # high halves beyond the one that was inferred
    _MOST = 4096

    def __init__(self) -> None:
        self._failures = 0
        self._patience = self.FAILURES

    def succeeded(self) -> None:
        """A packet verified: nothing is lost."""
        self._failures = 0
        self._patience = self.FAILURES

    def candidates(self, window: ReplayWindow, failures: int, low: int) -> list[int]:
        """Numbers to try for a packet that shows ``low``, after ``failures`` more packets did not verify."""
        self._failures += failures
        if self._failures < self._patience:
            return []
        self._failures = 0
        self._patience = min(2 * self._patience, self._MOST)
        high = window.sequence_number(low) >> 32
        numbers = [(high + step) << 32 | low for step in range(1, self.TRIES + 1)]
        return [number for number in numbers if window.top < number <= window.limit]

"""How fast ESP is sealed and opened: the batch path against the plain one, and the whole data plane around it.

Packets and Gbit (inner) per second of processor time, medians of five; the two paths take turns, so that they see
the same machine. Run: PYTHONPATH=tests python -m bench.esp_seal_open
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from espkit import ALGORITHMS, A, Algorithm, B, Pair, describe, keys, udp

from ipsecstack.ipsec.esp import EspTransform
from ipsecstack.ipsec.esp_batch import OpenErrors, open_batch, open_each, seal_batch, seal_each
from ipsecstack.ipsec.replay import ReplayWindow
from ipsecstack.ipsec.sa import Direction

BATCH = 64
ROUNDS = 5
SECONDS = 0.1


def rates(*works: Callable[[], int]) -> list[float]:
    """Packets per second of each of ``works``, which say how many they did; medians of runs in turn."""
    found: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, results in zip(works, found, strict=True):
            done, start = 0, time.process_time()
            while (elapsed := time.process_time() - start) < SECONDS:
                done += work()
            results.append(done / elapsed)
    return [statistics.median(results) for results in found]


def show(name: str, size: int, plain: float, batch: float) -> None:
    print(
        f"{name:<36}{size:>6}{plain / 1e3:>10.0f}{batch / 1e3:>10.0f}{batch / plain:>7.2f}x{batch * size * 8e-9:>9.2f}"
    )


def transforms(algorithm: Algorithm, size: int) -> None:
    sa = EspTransform(describe(Direction.OUT, 0x1000, A, B, **keys(algorithm)))
    packets = [udp("10.1.0.5", "10.2.0.9", size)] * BATCH
    draw = random.Random(1).randbytes
    sealed = seal_batch(sa, packets, 1, draw)

    def sealing(way: Callable[..., object]) -> Callable[[], int]:
        def work() -> int:
            way(sa, packets, 1, draw)
            return BATCH

        return work

    def opening(way: Callable[..., object]) -> Callable[[], int]:
        def work() -> int:
            way(sa, ReplayWindow(64, False), sealed, OpenErrors())
            return BATCH

        return work

    show(f"seal {algorithm}", size, *rates(sealing(seal_each), sealing(seal_batch)))
    show(f"open {algorithm}", size, *rates(opening(open_each), opening(open_batch)))


def planes(algorithm: Algorithm, size: int) -> None:
    """SPD, SAD, counters and ESP, in batches of 64 against one by one; there and back."""
    pair = Pair(keys(algorithm))
    packets = [udp("10.1.0.5", "10.2.0.9", size)] * BATCH

    def batched() -> int:
        assert len(pair.b.inbound(pair.send(*packets), 0.0)) == BATCH
        return BATCH

    def single() -> int:
        for packet in packets:
            assert pair.b.inbound(pair.send(packet), 0.0)
        return BATCH

    show(f"out and in {algorithm}", size, *rates(single, batched))


def main() -> None:
    print(f"{'':<36}{'octets':>6}{'plain k/s':>10}{'batch k/s':>10}{'':>8}{'Gbit/s':>9}")
    for algorithm in ALGORITHMS[:4]:
        for size in (64, 1400):
            transforms(algorithm, size)
    for algorithm in (ALGORITHMS[0], ALGORITHMS[3]):
        for size in (64, 1400):
            planes(algorithm, size)


if __name__ == "__main__":
    main()

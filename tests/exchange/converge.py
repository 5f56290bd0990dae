"""`make converge`: many random schedules of ``schedules``, on some cores, each from its number.

    python tests/exchange/converge.py [--first 0] [--count 100000] [--jobs 2] [--seed N]

Prints progress, schedules per second and each schedule that failed. A run that was interrupted says with which number
to go on. ``--seed`` runs one schedule and shows the messages and SAs of both ends. Exit status: 0 all converged,
1 some did not, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import ike_network  # noqa: E402
from schedules import play, schedule  # noqa: E402

from ipsecstack.keyex import base  # noqa: E402

CHUNK = 50
LIMIT = 60  # seconds for one schedule, which takes some milliseconds


class TooLong(Exception):
    """A schedule does not come to an end."""


def _too_long(signum: int, frame: object) -> None:
    raise TooLong(f"not at its end after {LIMIT} s")


@dataclass(frozen=True)
class Result:
    """What became of the schedules ``first`` to ``first + count - 1``."""

    first: int
    count: int
    failures: tuple[tuple[int, str], ...]
    rekeyed: int  # Child SAs and IKE SAs, as end a saw them
    datagrams: int


def run_chunk(first: int, count: int = CHUNK) -> Result:
    """Play schedules; any exception is a failure, for no schedule may cause one."""
    failures = []
    rekeyed = datagrams = 0
    signal.signal(signal.SIGALRM, _too_long)
    for seed in range(first, first + count):
        signal.alarm(LIMIT)
        try:
            pair = play(schedule(seed))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(
                (seed, f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")
            )
        else:
            rekeyed += len(pair.a.heard(base.ChildSaRekeyed)) + len(pair.a.heard(base.IkeSaRekeyed))
            datagrams += len(pair.transmitted)
        finally:
            signal.alarm(0)
    return Result(first, count, tuple(failures), rekeyed, datagrams)


def _stop(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _chunk(task: tuple[int, int]) -> Result:
    return run_chunk(*task)


def results(first: int, count: int, jobs: int) -> Iterator[Result]:
    """In order, so that what is done is always all schedules up to a number."""
    tasks = [(at, min(CHUNK, first + count - at)) for at in range(first, first + count, CHUNK)]
    if jobs == 1:
        yield from map(_chunk, tasks)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(_chunk, tasks)


def run_all(first: int, count: int, jobs: int) -> int:
    begun = shown = time.monotonic()
    done = rekeyed = datagrams = 0
    failures: list[tuple[int, str]] = []
    interrupted = False
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)  # also where a shell started us in the background
    try:
        for result in results(first, count, jobs):
            done += result.count
            rekeyed += result.rekeyed
            datagrams += result.datagrams
            failures += result.failures
            for seed, what in result.failures:
                print(f"schedule {seed} failed: {what}", flush=True)
            now = time.monotonic()
            if now - shown >= 10:
                shown = now
                rate = done / (now - begun)
                print(
                    f"{done:>8} of {count} schedules, {len(failures)} failed, {rate:.0f}/s, "
                    f"{(count - done) / rate:.0f} s to go",
                    flush=True,
                )
    except KeyboardInterrupt:
        interrupted = True
    seconds = time.monotonic() - begun
    print(
        f"schedules {first} to {first + done - 1}: {done} run, {len(failures)} failed; "
        f"{rekeyed} rekeyings, {datagrams} datagrams, {seconds:.0f} s, {done / max(seconds, 1e-9):.0f}/s"
    )
    for seed, _ in failures[:20]:
        print(f"look at it: python {Path(__file__).relative_to(HERE.parents[1])} --seed {seed}")
    if interrupted:
        print(f"interrupted; go on with: make converge FIRST={first + done} SCHEDULES={count - done}")
        return 130
    return 1 if failures else 0


def show(seed: int) -> int:
    """One schedule, with what both ends log, install and remove."""
    plan = schedule(seed)
    print(plan)
    for step in plan.steps:
        print("   ", *step)
    flush = ike_network.End.flush

    def telling(end: ike_network.End) -> None:
        before = len(end.said)
        flush(end)
        indent = " " * 60 if end.name == "b" else ""
        for output in end.said[before:]:
            text = None
            if isinstance(output, base.LogRecorded) and output.group in ("IKE", "ENC"):
                text = output.message[:110]
            elif isinstance(output, base.InstallSa):
                text = f"+ {output.sa.direction.name} {output.sa.spi:08x}"
            elif isinstance(output, base.RemoveSa):
                text = f"- {output.sa.direction.name} {output.sa.spi:08x}"
            if text is not None:
                print(f"{end.network.now:10.4f} {indent}{end.name}: {text}")

    ike_network.End.flush = telling  # type: ignore[method-assign]
    play(plan)
    print("converged")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Random schedules of rekeys over a bad network.")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first schedule")
    parser.add_argument("--count", type=int, default=100_000, metavar="N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--seed", type=int, metavar="N", help="show this schedule")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return show(arguments.seed)
    if arguments.count < 1 or arguments.jobs < 1 or arguments.first < 0:
        parser.error("--first is 0 or more, --count and --jobs are 1 or more")
    return run_all(arguments.first, arguments.count, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())

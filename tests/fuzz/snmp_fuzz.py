"""Fuzz the SNMP engine: `make fuzz SECONDS=60`.

With atheris (libFuzzer in Python, coverage of every branch) where it is installed, else with a loop of our own that
keeps inputs which reach lines or jumps that none before did (sys.settrace). What was found stays as
tests/fuzz/findings/*.bin; a mended finding moves to tests/fuzz/corpus/snmp, which every run starts from and the
test suite replays.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus" / "snmp"
FINDINGS = HERE / "findings"
WATCHED = ("agent/engine/", "agent/smi/")
MAX_INPUT = 8192

if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "agent"), str(HERE)]

from snmp_mutate import mutate  # noqa: E402


def corpus() -> list[bytes]:
    """Every kept input."""
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))]


class Coverage:
    """Which jumps between lines of the watched files were made, as numbers."""

    def __init__(self) -> None:
        self.seen: set[tuple[CodeType, int, int]] = set()
        self._now: set[tuple[CodeType, int, int]] = set()

    def run(self, work: Callable[[], None]) -> bool:
        """Run and say whether something new was reached."""
        self._now = set()
        sys.settrace(self._call)
        try:
            work()
        finally:
            sys.settrace(None)
        new = self._now - self.seen
        self.seen |= new
        return bool(new)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not any(part in frame.f_code.co_filename for part in WATCHED):
            return None
        frame.f_trace_lines = True
        before = [frame.f_lineno]
        code, now = frame.f_code, self._now

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                now.add((code, before[0], frame.f_lineno))
                before[0] = frame.f_lineno
            return line

        return line


def own_loop(
    one: Callable[[bytes], None],
    seconds: float,
    seed: int,
    found: Callable[[bytes, BaseException], None],
    report: Callable[[str], None] = lambda text: None,
) -> tuple[int, int, int]:
    """(inputs tried, inputs kept, jumps seen). Coverage is traced for a fifth of the inputs, which costs ten times."""
    rng = random.Random(seed)
    pool = corpus()
    coverage = Coverage()
    tried = 0

    def attempt(data: bytes, traced: bool) -> bool:
        nonlocal tried
        tried += 1
        try:
            if traced:
                return coverage.run(lambda: one(data))
            one(data)
        except Exception as error:
            found(data, error)
        return False

    end = time.monotonic() + seconds
    for data in list(pool):
        attempt(data, True)
        if time.monotonic() > end:
            break
    told = time.monotonic()
    while time.monotonic() < end:
        # what was kept last is tried more often
        parent = pool[max(rng.randrange(len(pool)), rng.randrange(len(pool)))]
        child = (
            parent[:1] + mutate(parent[1:], rng, pool) if rng.random() < 0.9 else mutate(parent, rng, pool)
        )
        if len(child) > MAX_INPUT and rng.random() < 0.95:
            child = child[:MAX_INPUT]
        if attempt(child, rng.random() < 0.2):
            pool.append(child)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            report(f"{tried} inputs, {len(pool)} kept, {len(coverage.seen)} jumps")
    return tried, len(pool), len(coverage.seen)


def keep(data: bytes, error: BaseException) -> Path:
    """Store a finding; its name is that of the error and of the octets."""
    FINDINGS.mkdir(exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()[:12]
    path = FINDINGS / f"{type(error).__name__}-{digest}.bin"
    path.write_bytes(data)
    return path


def with_atheris(seconds: int, folder: Path, seed: int) -> int:
    """Run libFuzzer. It ends the process by itself: with 0, or with 77 and a finding."""
    import atheris

    with atheris.instrument_imports(include=["agent.engine", "agent.smi"], enable_loader_override=False):
        from snmp_target import Target
    target = Target(folder)
    pool = corpus()

    def change(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return atheris.Mutate(data, size)
        out = data[:1] + mutate(data[1:], rng, pool) if data else rng.choice(pool)
        return out[:size]

    def one(data: bytes) -> None:
        try:
            target.one(data)
        except Exception as error:
            print(f"found: {keep(data, error)}", file=sys.stderr)
            raise

    grown = folder / "corpus"
    grown.mkdir()
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={MAX_INPUT}",
        f"-seed={seed}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/",
        str(grown),
        str(CORPUS),
    ]
    atheris.Setup(arguments, one, custom_mutator=change)
    atheris.Fuzz()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--own", action="store_true", help="use our own loop even where atheris is installed")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is None:
        # libFuzzer ends the process by itself; what it leaves behind is removed from outside
        with tempfile.TemporaryDirectory(prefix="snmp-fuzz-") as name:
            return subprocess.run([sys.executable, *sys.argv, "--folder", name], check=False).returncode
    folder: Path = options.folder
    try:
        import atheris  # noqa: F401
    except ImportError:
        options.own = True
    print(
        f"fuzz: {'our own loop' if options.own else 'atheris'}, {options.seconds} s, seed {options.seed}",
        flush=True,
    )
    if not options.own:
        return with_atheris(options.seconds, folder, options.seed)
    from snmp_target import Target

    target = Target(folder)
    findings: list[Path] = []

    def found(data: bytes, error: BaseException) -> None:
        findings.append(keep(data, error))
        print(f"found: {findings[-1]}: {error}", flush=True)

    tried, kept, jumps = own_loop(target.one, options.seconds, options.seed, found, print)
    print(
        f"fuzz: {tried} inputs, {kept} kept, {jumps} jumps, {target.answered} answered, "
        f"{target.compared} on both paths, {len(findings)} findings"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

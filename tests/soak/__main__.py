"""`make soak MINUTES=30`: the agent beside a moving gateway, asked by eight managers, told, reloaded and flooded.

    python -m soak [--minutes 30] [--tunnels 200] [--seed N]

Judged: no wrong answer, no unanswered request, no fault in the agent's log, memory that does not grow. Stated:
latencies as the pollers see them, on a machine whose cores they share with the agent and whatever else runs there.
Exit status: 0 all right, 1 something was not (the table says what), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import queue
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from agent_lab import Program, free_port
from soak import harm, pollers, source
from soak.configuration import BROKEN, COMMUNITY, SECRETS, Variant, configuration
from soak.measure import Latencies, Process, table
from soak.receiver import Receiver

from agent.smi import ber

REPOSITORY = Path(__file__).resolve().parents[2]
GROWTH = 6.0
"""MiB an hour that the regression may show over 20 minutes or more: less is the allocator's noise."""
GROWTH_SHORT = 24.0
"""MiB that a shorter run may have gained since its first quarter: for five minutes the agent remembers what ended."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m soak", description="A soak of ipsec-snmpd.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--tunnels", type=int, default=200)
    parser.add_argument("--rekeys", type=float, default=8, help="child rekeys a second")
    parser.add_argument(
        "--think", type=float, default=0.02, help="a poller's mean pause between requests, seconds"
    )
    parser.add_argument("--flood", type=float, default=200, help="the flooder's messages a second")
    parser.add_argument("--reload", type=float, default=15, help="seconds between two SIGHUPs")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    options = parser.parse_args()
    for tool in ("snmpbulkwalk", "snmpset", "snmptrapd"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not installed (apt-get install snmp snmptrapd)")
    with tempfile.TemporaryDirectory(prefix="ipsec-snmp-soak-") as folder:
        return Soak(options, Path(folder)).run()


def ber_count(number: int) -> bytes:
    """The contents of a Gauge32."""
    return ber.integer(number)[2:]


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.begun = time.monotonic()
        self.draw = random.Random(options.seed)
        self.reports: dict[str, Any] = {}
        self.faults: list[str] = []
        self.processes: list[BaseProcess] = []
        self.context = multiprocessing.get_context("fork")
        self.inbox: Any = self.context.Queue()
        self.reloads = {"reloaded": 0, "broken files": 0}
        self.spare_port = free_port()

    # --- processes ----------------------------------------------------------------------------------------------------

    def spawn(self, target: Callable[..., None], *arguments: Any) -> BaseProcess:
        process = self.context.Process(target=target, args=arguments, daemon=True)
        process.start()
        self.processes.append(process)
        return process

    def collect(self, patience: float) -> None:
        """Take in what the processes report, for so long."""
        end = time.monotonic() + patience
        while True:
            try:
                report = self.inbox.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return
            self.reports[report.name] = report

    # --- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        options = self.options
        print(
            f"soak: {options.minutes:g} minutes, {options.tunnels} tunnels, seed {options.seed}, load of this machine "
            f"before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
            flush=True,
        )
        ours, theirs = self.context.Pipe()
        socket_path = str(self.folder / "vici.sock")
        gateway = self.spawn(
            source.serve, socket_path, options.tunnels, self.begun, options.rekeys, options.seed, theirs
        )
        if not ours.poll(20) or ours.recv() != "ready":
            raise SystemExit("soak: the gateway did not start")
        receiver = Receiver(self.folder)
        self.text = configuration(self.folder, receiver.port)
        program = Program(self.folder, REPOSITORY, self.text, COMMUNITY, SECRETS)
        self.text = self.text.replace("PORT", str(program.port))
        try:
            program.start()
            self.wait_for_rows(program)
            self.soak(program, receiver)
        finally:
            for process in self.processes:
                if process is not gateway:
                    process.terminate()
            self.collect(3)
            gateway.terminate()
            self.gateway_done, fault = ours.recv() if ours.poll(10) else ({}, "it did not end")
            if fault:
                self.faults.append(f"the gateway: {fault}")
            try:
                program.end()
            except AssertionError as error:
                self.faults.append(f"the agent's end or log: {str(error)[:2000]}")
            self.notifications = receiver.stop()
            for process in self.processes:
                process.join(5)
        return self.judge(program)

    def wait_for_rows(self, program: Program) -> None:
        """Until the agent has polled its gateway, and the last row is there."""
        deadline = time.monotonic() + 30
        last = (*pollers.TUNNEL, pollers.STATUS, self.options.tunnels)
        while program.ask(pollers.ACTIVE_TUNNELS) != ber_count(self.options.tunnels) or not program.ask(last):
            if time.monotonic() > deadline:
                raise SystemExit("soak: the agent does not see the tunnels")
            time.sleep(0.2)

    def soak(self, program: Program, receiver: Receiver) -> None:
        options = self.options
        setting = pollers.Setting(
            program.port,
            options.tunnels,
            self.begun,
            max(1, options.tunnels // 20),
            options.seed,
            options.think,
            pollers.whose(program.port, options.tunnels),
        )

        def send(report: Any) -> None:
            self.inbox.put(copy.deepcopy(report))  # it is sent by a thread, and changes meanwhile

        for make in pollers.pollers(setting, send):
            self.spawn(pollers.poll, make)
        self.spawn(harm.operate, setting, send)
        self.spawn(harm.flood, setting, options.flood, send)
        self.measured = Process(program.pid)
        end = time.monotonic() + options.minutes * 60
        reload_at = time.monotonic() + options.reload / 2
        told = time.monotonic()
        while time.monotonic() < end:
            self.collect(min(1.0, max(0.0, end - time.monotonic())))
            if program.process is None or program.process.poll() is not None:
                self.faults.append("the agent ended")
                return
            self.measured.sample()
            if time.monotonic() >= reload_at:
                reload_at = time.monotonic() + options.reload * self.draw.uniform(0.5, 1.5)
                self.reload(program)
            if time.monotonic() - told >= 60:
                told = time.monotonic()
                print(f"soak: {self.one_line()}", flush=True)
        self.cpu = self.measured.cpu_share()
        dead = [p for p in self.processes if p.exitcode is not None]
        if dead:
            self.faults.append(f"{len(dead)} of the soak's own processes ended before the end")

    # --- reloads ------------------------------------------------------------------------------------------------------

    def reload(self, program: Program) -> None:
        """SIGHUP with a changed or a broken file; whether it did what it should is asked right away."""
        if self.draw.random() < 0.25:
            program.write(self.draw.choice(BROKEN)(self.text))
            self.reloads["broken files"] += 1
            self.hang_up(program, "not reloaded")
            return
        variant = Variant.drawn(self.draw, self.spare_port)
        program.write(variant.apply(self.text))
        self.reloads["reloaded"] += 1
        self.hang_up(program, "configuration reloaded")
        for what, expected, got in variant.check(program.port):
            if expected != got:
                self.faults.append(f"after a reload: {what}: {'no ' * expected}answer")

    def hang_up(self, program: Program, expected: str) -> None:
        before = program.log.read_text().count(expected)
        program.hang_up()
        deadline = time.monotonic() + 10
        while program.log.read_text().count(expected) <= before:
            if time.monotonic() > deadline:
                # the log leaves lines out when there are many of a kind, and says so
                if "lines left out" not in program.log.read_text():
                    self.faults.append(f"SIGHUP: the log does not say {expected!r} within 10 s")
                return
            time.sleep(0.05)

    # --- the result ---------------------------------------------------------------------------------------------------

    def of(self, kind: type) -> Iterable[Any]:
        return [report for report in self.reports.values() if isinstance(report, kind)]

    def latencies(self, version: str) -> Latencies:
        total = Latencies()
        for report in self.of(pollers.Report):
            if report.name.startswith(version):
                total.merge(report.latencies)
        return total

    def one_line(self) -> str:
        reports = list(self.of(pollers.Report))
        wrong = sum(report.wrong for report in [*reports, *self.of(harm.Deeds)]) + len(self.faults)
        resident = self.measured.samples[-1][1] if self.measured.samples else 0
        return (
            f"{(time.monotonic() - self.measured.begun) / 60:.1f} min, "
            f"{sum(r.requests for r in reports):,} requests, {wrong} wrong, "
            f"v2c {self.latencies('v2c').text()}; agent {resident:.1f} MiB"
        )

    def judge(self, program: Program) -> int:
        options = self.options
        reports, deeds = list(self.of(pollers.Report)), list(self.of(harm.Deeds))
        problems = list(self.faults)
        for report in [*reports, *deeds]:
            problems += [f"{report.name}: {text}" for text in report.examples]
            if report.wrong > len(report.examples):
                problems.append(f"{report.name}: and {report.wrong - len(report.examples)} more")
        if len(reports) != 8 or len(deeds) != 2:
            problems.append(f"only {len(reports)} pollers and {len(deeds)} others reported")
        problems += [f"{report.name}: never got an answer" for report in reports if not report.varbinds]
        log = program.log.read_text()
        errors = [
            line
            for line in log.splitlines()
            if re.match(r"CRITICAL|ERROR (?!ipsec-snmpd: not reloaded)", line)
        ]
        problems += [f"the agent's log: {line}" for line in errors[:5]]
        problems += self.notifications.problems
        rows = [
            ("run", f"{options.minutes:g} min, {options.tunnels} tunnels, seed {options.seed}"),
            ("load of the machine at the end", f"{os.getloadavg()[1]:.1f} on {os.cpu_count()} cores"),
            *((f"  {r.name}", self.poller_text(r)) for r in sorted(reports, key=lambda r: r.name)),
            ("all requests", f"{sum(r.requests for r in reports):,}"),
            ("all varbinds judged", f"{sum(r.varbinds for r in reports):,}"),
            ("wrong answers", str(sum(r.wrong for r in [*reports, *deeds]))),
            ("unanswered / answered on a second try", self.sum_text(reports)),
            ("latency v2c", self.latencies("v2c").text()),
            ("latency v3 (a column's walk counts as one)", self.latencies("v3").text()),
        ]
        rows += [
            (f"  {d.name}: {what}", f"{count:,}") for d in deeds for what, count in sorted(d.counts.items())
        ]
        rows += [(f"  gateway: {what}", f"{count:,}") for what, count in self.gateway_done.items()]
        rows += [(f"  SIGHUP: {what}", str(count)) for what, count in self.reloads.items()]
        rows += [(f"  receiver: {what}", f"{count:,}") for what, count in self.notifications.counts.items()]
        rows += self.memory_rows(problems)
        print()
        print(table(rows))
        for problem in problems:
            print(f"NOT RIGHT: {problem}")
        print("soak:", "FAILED" if problems else "all right")
        return 1 if problems else 0

    def memory_rows(self, problems: list[str]) -> list[tuple[str, str]]:
        settled = self.measured.settled()
        if not settled:
            problems.append("the agent was never measured")
            return []
        (_, first), (_, last) = settled[0], settled[-1]
        slope = self.measured.slope()
        if self.options.minutes >= 20:
            if slope > GROWTH:
                problems.append(f"the agent's memory grows by {slope:.1f} MiB/h")
        elif last - first > GROWTH_SHORT:
            problems.append(f"the agent's memory grew by {last - first:.1f} MiB")
        return [
            ("agent's memory, start", f"{self.measured.samples[0][1]:.1f} MiB"),
            ("agent's memory, after a quarter / at the end", f"{first:.1f} / {last:.1f} MiB"),
            ("agent's memory, slope of the last three quarters", f"{slope:+.1f} MiB/h"),
            ("agent's processor share", f"{getattr(self, 'cpu', 0) * 100:.0f} % of one core"),
        ]

    @staticmethod
    def poller_text(report: Any) -> str:
        asked = f"{report.requests:>9,} requests {report.varbinds:>12,} varbinds  {report.wrong} wrong"
        return f"{asked}  {report.latencies.text()}"

    @staticmethod
    def sum_text(reports: list[Any]) -> str:
        return f"{sum(r.unanswered for r in reports)} / {sum(r.late for r in reports)}"


if __name__ == "__main__":
    sys.exit(main())

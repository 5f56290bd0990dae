"""Eight managers that ask on and on and judge every answer.

Four speak SNMPv2c by this project's own codec and see each octet; three SNMPv3 by gufo-snmp; one SNMPv3 by net-snmp's
snmpbulkwalk. What is wrong goes to `say` as text.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from smi_support import Answer, request, unwrap, v2c
from soak import truth
from soak.measure import Latencies

from agent.engine import pdu as pdus
from agent.smi import ber

Oid = tuple[int, ...]

FLOW: Oid = (1, 3, 6, 1, 4, 1, 9, 9, 171, 1)
TUNNEL: Oid = (*FLOW, 3, 2, 1)
ACTIVE_TUNNELS: Oid = (*FLOW, 3, 1, 1, 0)
ALL_OCTETS: Oid = (*FLOW, 3, 1, 4, 0)
REMOTE, REFRESHES, OCTETS, HC_OCTETS, WRAPS, PACKETS, HC_OUT, STATUS = 5, 13, 26, 27, 28, 32, 40, 51
ROW = (REFRESHES, OCTETS, HC_OCTETS, WRAPS, PACKETS, HC_OUT, STATUS)
UP_TIME: Oid = (1, 3, 6, 1, 2, 1, 1, 3, 0)
SYSTEM: Oid = (1, 3, 6, 1, 2, 1, 1)
END_OF_MIB_VIEW = ber.END_OF_MIB_VIEW[0]
PATIENCE = 2.0
TRIES = 3
STALE = 30.0
"""Seconds by which a counter may be behind its gateway: polls of a fake daemon on a loaded machine."""
AUTH = ("-A", "soak-authentication", "-X", "soak-privacy")


@dataclass
class Report:
    """What one poller has seen; small whatever the run's length."""

    name: str
    requests: int = 0
    varbinds: int = 0
    late: int = 0
    """Requests that were answered only when they were sent again."""
    unanswered: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)
    latencies: Latencies = field(default_factory=Latencies)


@dataclass(frozen=True)
class Setting:
    """What every poller is told: where to ask, how many tunnels, since when they move, which of them are deleted."""

    port: int
    tunnels: int
    begun: float
    victims: int
    seed: int
    think: float
    """The mean pause between two requests."""
    whose: tuple[int, ...]
    """The tunnel of each row, row 1 first: the agent numbers rows in the order of its discovery."""

    @property
    def steady(self) -> range:
        """Rows of tunnels that nobody deletes."""
        return range(1, self.tunnels - self.victims + 1)

    def octets(self, row: int, elapsed: float) -> int:
        """Octets that the tunnel of a row has moved each way."""
        return truth.packets(self.whose[row - 1], elapsed) * truth.PACKET


class Wrong(Exception):
    """An answer that no right agent gives."""


def unsigned(content: bytes) -> int:
    """A value of any of the unsigned types, or an INTEGER that is not negative."""
    return ber.parse_unsigned(content, 64)


class Poller:
    """Common to all: bookkeeping, pace, and what is known of a counter."""

    def __init__(self, name: str, setting: Setting, send: Callable[[Report], None]) -> None:
        self.report = Report(name)
        self.setting = setting
        self.draw = random.Random(f"{setting.seed} {name}")
        self.send = send
        self.told = time.monotonic()
        self.last: dict[Any, int] = {}
        """Counter -> its last value, modulo nothing: only those that do not wrap in here."""

    def wrong(self, text: str) -> None:
        self.report.wrong += 1
        if len(self.report.examples) < 5:
            self.report.examples.append(text)

    def grows(self, key: Any, value: int) -> None:
        before = self.last.get(key, 0)
        if value < before:
            raise Wrong(f"{key} fell from {before} to {value}")
        self.last[key] = value

    def elapsed(self) -> float:
        return time.monotonic() - self.setting.begun

    def row(self, tunnel: int, cells: dict[int, int], asked: float) -> None:
        """One tunnel's row, read in one PDU that was asked at `asked` (elapsed)."""
        octets, packets = cells[HC_OCTETS], cells[PACKETS]
        if cells[HC_OUT] != octets or octets % 2**32 != cells[OCTETS] or octets >> 32 != cells[WRAPS]:
            raise Wrong(f"tunnel {tunnel}: columns disagree: {cells}")
        if octets // truth.PACKET % 2**32 != packets:
            raise Wrong(f"tunnel {tunnel}: {packets} packets, {octets} octets")
        if octets > self.setting.octets(tunnel, self.elapsed()):
            raise Wrong(f"tunnel {tunnel}: {octets} octets are more than it has moved")
        self.grows(("octets", tunnel), octets)
        self.grows(("refreshes", tunnel), cells[REFRESHES])
        if tunnel in self.setting.steady:
            if octets < self.setting.octets(tunnel, asked - STALE):
                raise Wrong(f"tunnel {tunnel}: {octets} octets are those of more than {STALE:g} s ago")
            if cells[STATUS] != 1:
                raise Wrong(f"tunnel {tunnel}: status {cells[STATUS]}, and nobody deleted it")

    def run(self) -> None:
        try:
            while True:
                try:
                    self.step()
                except Wrong as fault:
                    self.wrong(str(fault))
                except (
                    OSError,
                    ValueError,
                    ber.BerError,
                    AssertionError,
                    subprocess.SubprocessError,
                ) as fault:
                    self.wrong(f"{type(fault).__name__}: {fault}")
                self.pause()
        finally:
            self.send(self.report)

    def pause(self) -> None:
        time.sleep(self.draw.uniform(0, 2 * self.setting.think))
        if time.monotonic() - self.told > 5:
            self.told = time.monotonic()
            self.send(self.report)

    def step(self) -> None:
        raise NotImplementedError


class Raw(Poller):
    """SNMPv2c octet by octet."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.number = self.draw.randrange(1 << 24)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(("127.0.0.1", self.setting.port))

    def ask(self, kind: int, names: Sequence[Oid], first: int = 0, second: int = 0) -> Answer:
        self.number += 1
        message = v2c(
            request(kind, names, first=first, second=second, request_id=self.number), b"soak-reader"
        )
        self.report.requests += 1
        begun = time.monotonic()
        for attempt in range(TRIES):
            self.sock.send(message)
            answer = self._receive(PATIENCE)
            if answer is not None:
                self.report.latencies.add(time.monotonic() - begun)
                self.report.late += attempt > 0
                return self._judged(answer, kind, len(names))
        self.report.unanswered += 1
        raise Wrong(f"no answer to {TRIES} tries of a request of type {kind:#x}")

    def _receive(self, patience: float) -> Answer | None:
        end = time.monotonic() + patience
        while (left := end - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                answer = unwrap(self.sock.recv(65535))
            except TimeoutError:
                return None
            if answer.request_id == self.number:
                return answer
            if answer.request_id > self.number:
                raise Wrong(f"an answer to request {answer.request_id}, which was not made yet")
        return None

    def _judged(self, answer: Answer, kind: int, names: int) -> Answer:
        if answer.type != pdus.RESPONSE or answer.status:
            raise Wrong(f"PDU type {answer.type:#x}, error {answer.status} at {answer.index}")
        if kind == pdus.GET and len(answer.varbinds) != names:
            raise Wrong(f"{len(answer.varbinds)} varbinds for {names} names")
        self.report.varbinds += len(answer.varbinds)
        return answer


class WalkAll(Raw):
    """Everything there is, by GETBULK of ever other sizes; OIDs increase, counters do not fall."""

    position: Oid = (1, 3, 6, 1)
    seen = 0

    def step(self) -> None:
        answer = self.ask(pdus.GETBULK, [self.position], 0, self.draw.choice((1, 5, 25, 60, 120)))
        up = self.elapsed()
        for oid, tag, content in answer.varbinds:
            if tag == END_OF_MIB_VIEW:
                if oid != self.position:
                    raise Wrong(f"endOfMibView at {oid} after {self.position}")
                if self.seen < 50 * self.setting.tunnels:
                    raise Wrong(f"a walk of {self.seen} varbinds only")
                self.position, self.seen = (1, 3, 6, 1), 0
                return
            if oid <= self.position:
                at, self.position = self.position, (1, 3, 6, 1)
                raise Wrong(f"{oid} comes after {at}")
            self.position = oid
            self.seen += 1
            if oid[: len(TUNNEL)] == TUNNEL and oid[len(TUNNEL)] in (HC_OCTETS, HC_OUT):
                value = unsigned(content)
                self.grows(oid, value)
                if value > self.setting.octets(oid[-1], up):
                    raise Wrong(f"{oid}: {value} is more than has been moved")


class Rows(Raw):
    """One row in one GET, of a tunnel drawn by lot."""

    def step(self) -> None:
        tunnel = self.draw.randrange(1, self.setting.tunnels + 1)
        names = [(*TUNNEL, column, tunnel) for column in ROW]
        asked = self.elapsed()
        answer = self.ask(pdus.GET, [UP_TIME, *names])
        if [oid for oid, _, _ in answer.varbinds] != [UP_TIME, *names]:
            raise Wrong(f"other names than asked: {answer.varbinds}")
        self.grows("sysUpTime", unsigned(answer.varbinds[0][2]))
        tags = [tag for _, tag, _ in answer.varbinds[1:]]
        expected = [
            ber.COUNTER32,
            ber.COUNTER32,
            ber.COUNTER64,
            ber.COUNTER32,
            ber.COUNTER32,
            ber.COUNTER64,
            2,
        ]
        if tags != expected:
            raise Wrong(f"tunnel {tunnel}: types {tags}")
        values = [unsigned(content) for _, _, content in answer.varbinds[1:]]
        self.row(tunnel, dict(zip(ROW, values, strict=True)), asked)


class Totals(Raw):
    """All tunnels' octets and the total in one PDU: they agree to the octet. So do rows and the number of tunnels."""

    def step(self) -> None:
        tunnels = range(1, self.setting.tunnels + 1)
        column, total = ((HC_OCTETS, ALL_OCTETS), (STATUS, ACTIVE_TUNNELS))[self.draw.randrange(2)]
        answer = self.ask(pdus.GET, [total, *((*TUNNEL, column, tunnel) for tunnel in tunnels)])
        values = [unsigned(content) for _, _, content in answer.varbinds]
        summed = sum(values[1:]) if column == HC_OCTETS else values[1:].count(1)
        if summed != values[0]:
            raise Wrong(f"total {values[0]}, rows {summed} (column {column})")


class Interleaved(Raw):
    """Columns side by side: by GETNEXT, and by GETBULK with a scalar before them."""

    at = 0

    def step(self) -> None:
        columns = (REFRESHES, HC_OCTETS, STATUS)
        heads = [(*TUNNEL, column, *([self.at] if self.at else [])) for column in columns]
        repetitions = self.draw.choice((1, 7, 40))
        if repetitions == 1:
            found = self.ask(pdus.GETNEXT, heads).varbinds
        else:
            answer = self.ask(pdus.GETBULK, [UP_TIME[:-1], *heads], 1, repetitions)
            if answer.varbinds[0][0] != UP_TIME:
                raise Wrong(f"the non-repeater gave {answer.varbinds[0][0]}")
            found = answer.varbinds[1:]
        if len(found) % len(columns):
            raise Wrong(f"{len(found)} varbinds of {len(columns)} columns")
        for start in range(0, len(found), len(columns)):
            oids = [oid for oid, _, _ in found[start : start + len(columns)]]
            self.at += 1
            if self.at > self.setting.tunnels:
                if any(oid[: len(TUNNEL) + 1] == (*TUNNEL, c) for oid, c in zip(oids, columns, strict=True)):
                    raise Wrong(f"rows beyond the last: {oids}")
                self.at = 0
                return
            if oids != [(*TUNNEL, column, self.at) for column in columns]:
                at, self.at = self.at, 0
                raise Wrong(f"row {at}: {oids}")


class Gufo(Poller):
    """SNMPv3 by gufo-snmp, whose largest message is 2048 octets."""

    def __init__(self, name: str, user: str, auth: str, priv: str, *arguments: Any) -> None:
        super().__init__(name, *arguments)
        from gufo.snmp import User
        from gufo.snmp import user as keys

        self.user = User(
            name=user,
            auth_key=getattr(keys, auth)(AUTH[1].encode()),
            priv_key=getattr(keys, priv)(AUTH[3].encode()) if priv else None,
        )
        self.session: Any = None
        self.refreshed = 0.0

    def timed(self, ask: Callable[[], Any]) -> Any:
        from gufo.snmp.sync import SnmpSession

        self.report.requests += 1
        begun = time.monotonic()
        for attempt in range(TRIES):
            try:
                if self.session is None:
                    self.session = SnmpSession(
                        "127.0.0.1", port=self.setting.port, user=self.user, timeout=PATIENCE
                    )
                    self.refreshed = 0.0
                if begun - self.refreshed > 60:  # it keeps the engine's time only so long
                    self.session.refresh()
                    self.refreshed = begun = time.monotonic()
                found = ask()
            except TimeoutError:
                self.session = None
                continue
            self.report.latencies.add(time.monotonic() - begun)
            self.report.late += attempt > 0
            return found
        self.report.unanswered += 1
        raise Wrong(f"no answer to {TRIES} tries")


class GufoRows(Gufo):
    def step(self) -> None:
        tunnel = self.draw.randrange(1, self.setting.tunnels + 1)
        names = {".".join(map(str, (*TUNNEL, column, tunnel))): column for column in ROW}
        asked = self.elapsed()
        found = self.timed(lambda: self.session.get_many(list(names)))
        self.report.varbinds += len(found)
        if set(found) != set(names):
            raise Wrong(f"tunnel {tunnel}: {sorted(set(names) - set(found))} did not come")
        self.row(tunnel, {names[oid]: value for oid, value in found.items()}, asked)


class GufoWalk(Gufo):
    """A column to its end, by GETBULK."""

    column = HC_OCTETS

    def step(self) -> None:
        root = ".".join(map(str, (*TUNNEL, self.column)))
        found = self.timed(lambda: list(self.session.getbulk(root, self.draw.choice((3, 20, 200)))))
        self.report.varbinds += len(found)
        if [oid for oid, _ in found] != [f"{root}.{n}" for n in range(1, self.setting.tunnels + 1)]:
            raise Wrong(f"{len(found)} rows in {root}")
        for oid, value in found:
            self.grows(oid, value)
            if value > self.setting.octets(int(oid.rpartition(".")[2]), self.elapsed()):
                raise Wrong(f"{oid}: {value} is more than has been moved")


class GufoSystem(Gufo):
    def step(self) -> None:
        value = self.timed(lambda: self.session.get(".".join(map(str, UP_TIME))))
        self.report.varbinds += 1
        self.grows("sysUpTime", value)


class NetSnmpWalk(Poller):
    """net-snmp's own walk, which itself fails when an OID does not increase. No latencies: a process each."""

    def step(self) -> None:
        column = self.draw.choice(ROW)
        root = ".".join(map(str, (*TUNNEL, column)))
        who = ("-v3", "-l", "authPriv", "-u", "soak384", "-a", "SHA-384", "-x", "AES-192", *AUTH)
        options = ("-m", "", "-Onq", "-t", f"{PATIENCE:g}", "-r", str(TRIES - 1))
        command = ["snmpbulkwalk", *options, *who, f"127.0.0.1:{self.setting.port}", root]
        self.report.requests += 1
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        lines = done.stdout.splitlines()
        self.report.varbinds += len(lines)
        if done.returncode:
            self.report.unanswered += "Timeout" in done.stderr
            raise Wrong(f"snmpbulkwalk: {done.stderr.strip() or done.stdout[-200:]}")
        if len(lines) != self.setting.tunnels:
            raise Wrong(f"snmpbulkwalk of column {column}: {len(lines)} rows")
        time.sleep(10 * self.setting.think)


def whose(port: int, tunnels: int) -> tuple[int, ...]:
    """The tunnel of each row, by its peer's address 198.51.x.y."""

    class Asker(Raw):
        def tell(self) -> tuple[int, ...]:
            found = self.ask(pdus.GET, [(*TUNNEL, REMOTE, row) for row in range(1, tunnels + 1)]).varbinds
            return tuple(250 * content[-2] + content[-1] for _, _, content in found)

    setting = Setting(port, tunnels, 0, 0, 0, 0, ())
    return Asker("whose rows", setting, lambda report: None).tell()


def pollers(setting: Setting, send: Callable[[Report], None]) -> Iterable[Callable[[], Poller]]:
    """The eight; each is made in its own process."""
    common = (setting, send)
    return (
        lambda: WalkAll("v2c walk of everything", *common),
        lambda: Rows("v2c GET of rows", *common),
        lambda: Totals("v2c GET of all tunnels", *common),
        lambda: Interleaved("v2c GETNEXT, GETBULK", *common),
        lambda: GufoRows("v3 GET of rows", "soak256", "Sha256Key", "Aes128Key", *common),
        lambda: GufoWalk("v3 walk of a column", "soak512", "Sha512Key", "Aes256Key", *common),
        lambda: GufoSystem("v3 GET, authNoPriv", "soak224", "Sha224Key", "", *common),
        lambda: NetSnmpWalk("v3 snmpbulkwalk", *common),
    )


def poll(make: Callable[[], Poller]) -> None:
    """A poller's process, until SIGTERM."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    make().run()

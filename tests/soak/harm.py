"""What goes on beside the pollers: SETs that change things, reloads, and somebody who means no good."""

from __future__ import annotations

import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from smi_support import request, v2c
from soak.pollers import AUTH, PATIENCE, STATUS, TRIES, TUNNEL, Setting, Wrong

from agent.engine import messages
from agent.engine import pdu as pdus
from agent.smi import ber

ENABLE_AUTHEN_TRAPS = "1.3.6.1.2.1.11.30.0"
CONTACT = "1.3.6.1.2.1.1.4.0"
NAME = (1, 3, 6, 1, 2, 1, 1, 5, 0)
IKE_STATUS = "1.3.6.1.4.1.9.9.171.1.2.3.1.35"
WHO = ("-v3", "-l", "authPriv", "-u", "soak-op", "-a", "SHA-256", "-x", "AES", *AUTH)


@dataclass
class Deeds:
    """What a process of this module has done, by name, and what went wrong."""

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    def count(self, what: str, by: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + by

    def fault(self, text: str) -> None:
        self.wrong += 1
        if len(self.examples) < 5:
            self.examples.append(text)


def stopping(number: int, frame: object) -> None:
    raise SystemExit(0)


def until_stopped(deeds: Deeds, send: Callable[[Deeds], None], step: Callable[[], float]) -> None:
    """A process's life: `step` gives the seconds to the next one."""
    signal.signal(signal.SIGTERM, stopping)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = time.monotonic()
    try:
        while True:
            try:
                pause = step()
            except (Wrong, subprocess.SubprocessError) as fault:
                deeds.fault(str(fault))
                pause = 1.0
            time.sleep(pause)
            if time.monotonic() - told > 5:
                told = time.monotonic()
                send(deeds)
    finally:
        send(deeds)


# --- the operator -----------------------------------------------------------------------------------------------------


class Operator:
    """net-snmp's snmpset and snmpget as an SNMPv3 user who may write."""

    def __init__(self, setting: Setting, deeds: Deeds) -> None:
        self.setting, self.deeds = setting, deeds
        self.draw = random.Random(f"{setting.seed} operator")
        self.number = 0
        self.at_work: dict[int, float] = {}
        """Tunnel -> when it was deleted."""

    def tool(self, tool: str, *arguments: str) -> str:
        command = [tool, "-m", "", "-Onq", "-t", f"{PATIENCE:g}", "-r", str(TRIES - 1), *WHO]
        command += [f"127.0.0.1:{self.setting.port}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def step(self) -> float:
        self.draw.choice((self.contact, self.contact, self.refused, self.destroy))()
        for tunnel in [t for t, since in self.at_work.items() if time.monotonic() - since > 15]:
            said = self.tool("snmpget", ".".join(map(str, (*TUNNEL, STATUS, tunnel))))
            if not said.endswith(" 1\n"):
                self.deeds.fault(f"tunnel {tunnel} did not come back: {said.strip()}")
            del self.at_work[tunnel]
        return self.draw.uniform(0.2, 1.5)

    def contact(self) -> None:
        self.number += 1
        text = f"contact {self.number}"
        said = self.tool("snmpset", CONTACT, "s", text)
        shown = self.tool("snmpget", CONTACT)
        if not said == shown == f'.{CONTACT} "{text}"\n':
            raise Wrong(f"SET of sysContact to {text!r}: {said!r}, then {shown!r}")
        self.deeds.count("SETs of sysContact")

    def refused(self) -> None:
        bad = {
            "wrongType": (".".join(map(str, (*TUNNEL, STATUS, 2))), "s", "x"),
            "notWritable": ("1.3.6.1.2.1.1.1.0", "s", "x"),
            "noCreation": (".".join(map(str, (*TUNNEL, STATUS, 999_999))), "i", "2"),
            "wrongValue": (".".join(map(str, (*TUNNEL, STATUS, 1))), "i", "9"),
        }
        reason = self.draw.choice(sorted(bad))
        said = self.tool("snmpset", CONTACT, "s", "never", *bad[reason])
        if f"Reason: {reason}" not in said:
            raise Wrong(f"a SET that is {reason}: {said!r}")
        self.deeds.count("SETs rightly refused")

    def destroy(self) -> None:
        free = [t for t in range(1, self.setting.tunnels + 1) if t not in self.setting.steady]
        free = [tunnel for tunnel in free if tunnel not in self.at_work]
        if not free:
            return
        tunnel = self.draw.choice(free)
        row = ".".join(map(str, (*TUNNEL, STATUS, tunnel)))
        said = self.tool("snmpset", row, "i", "2")
        if f".{row} 2" in said:
            self.at_work[tunnel] = time.monotonic()
            self.deeds.count("tunnels deleted by SET")
        elif re.search(r"Reason: (commitFailed|inconsistentValue)", said):
            self.deeds.count("deletions that met a rekey")
        else:
            raise Wrong(f"destroy of tunnel {tunnel}: {said!r}")


def operate(setting: Setting, send: Callable[[Deeds], None]) -> None:
    deeds = Deeds("operator")
    operator = Operator(setting, deeds)
    said = operator.tool("snmpset", ENABLE_AUTHEN_TRAPS, "i", "1")
    if said != f".{ENABLE_AUTHEN_TRAPS} 1\n":
        deeds.fault(f"SET of snmpEnableAuthenTraps: {said!r}")
    until_stopped(deeds, send, operator.step)


# --- the flooder ------------------------------------------------------------------------------------------------------


class Flooder:
    """Malformed messages, wrong communities, unknown users, stolen engine IDs: nothing useful may come back."""

    def __init__(self, setting: Setting, deeds: Deeds, rate: float) -> None:
        self.deeds, self.rate = deeds, rate
        self.draw = random.Random(f"{setting.seed} flooder")
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.66.0.9", 0))  # another network than the managers'
        self.sock.connect(("127.0.0.1", setting.port))
        self.sock.setblocking(False)
        good = request(pdus.GET, [NAME])
        self.asks = v2c(good, b"soak-reader")
        self.engine = self._discover()

    def _discover(self) -> bytes:
        """A report that tells the agent's engine ID, as anybody can have it."""
        self.sock.setblocking(True)
        self.sock.settimeout(5)
        self.sock.send(self._v3(b"", b"", 0, 0, 0))
        report = self.sock.recv(65535)
        self.sock.setblocking(False)
        _, position, end = messages.version(report)
        return messages.parse_v3(report, position, end).engine_id

    def _v3(self, engine: bytes, user: bytes, boots: int, engine_time: int, flags: int) -> bytes:
        numbers = ber.integer(self.draw.randrange(1 << 30)) + ber.integer(65507)
        head = ber.tlv(0x30, numbers + ber.tlv(4, bytes((flags | 4,))) + ber.integer(3))
        usm = ber.tlv(4, engine) + ber.integer(boots) + ber.integer(engine_time) + ber.tlv(4, user)
        usm += ber.tlv(4, self.draw.randbytes(24) if flags else b"") + ber.tlv(
            4, self.draw.randbytes(8 * (flags > 1))
        )
        pdu = request(pdus.GETBULK, [(1, 3)], second=50)
        scoped = ber.tlv(0x30, ber.tlv(4, engine) + ber.tlv(4, b"") + pdu)
        data = ber.tlv(4, self.draw.randbytes(80)) if flags > 1 else scoped
        return ber.tlv(0x30, ber.integer(3) + head + ber.tlv(4, ber.tlv(0x30, usm)) + data)

    def message(self) -> bytes:
        draw = self.draw
        kind = draw.randrange(10)
        if kind == 0:
            return draw.randbytes(draw.randrange(1, 1400))
        if kind == 1:
            mutated = bytearray(self.asks)
            for _ in range(draw.randrange(1, 4)):
                # the community stays wrong, so that no mutant is a right question after all
                mutated[draw.randrange(len(mutated))] = draw.randrange(256)
            return bytes(mutated).replace(b"soak-reader", b"soak-seeder")
        if kind == 2:
            return v2c(request(pdus.GETBULK, [(1, 3)] * draw.randrange(1, 30), second=2**31 - 1), b"public")
        if kind == 3:
            return v2c(request(pdus.GET, [NAME]), draw.randbytes(draw.randrange(64)))
        if kind == 4:
            return self._v3(self.engine, draw.randbytes(8), 1, draw.randrange(1 << 20), 0)
        if kind == 5:
            return self._v3(draw.randbytes(12), b"soak256", 1, 1, 3)
        if kind == 6:
            return self._v3(self.engine, b"soak256", draw.randrange(1 << 31), draw.randrange(1 << 31), 3)
        if kind == 7:
            return b"\x30\x84" + draw.randbytes(4) + b"\x30\x82\xea\x60" * draw.randrange(300)
        if kind == 8:
            return v2c(request(pdus.SET, [NAME], values=[ber.tlv(4, b"owned")]), b"soak-reader")
        return self._v3(b"", b"", 0, 0, 0)

    def step(self) -> float:
        for _ in range(20):
            message = self.message()
            try:
                self.sock.send(message)
                self.deeds.count("messages")
                self.deeds.count("octets sent", len(message))
            except (BlockingIOError, ConnectionError):
                self.deeds.count("not sent")
        self.listen()
        return 20 / self.rate * self.draw.uniform(0.5, 1.5)

    def listen(self) -> None:
        while True:
            try:
                got = self.sock.recv(65535)
            except (BlockingIOError, ConnectionError):
                return
            self.deeds.count("octets got back", len(got))
            if got.find(b"\x02\x01\x03", 0, 8) >= 0:
                self.deeds.count("reports")
                if len(got) > 200:
                    self.deeds.fault(f"a report of {len(got)} octets to a stranger")
            elif b"soak-reader" in got[:30]:
                # the SET of somebody who may read: an error, and as long as the request
                self.deeds.count("refusals")
                if b"\xa2" not in got[:40]:
                    self.deeds.fault("not a response")
            else:
                self.deeds.fault(f"an answer to a stranger: {got[:60].hex()}")


def flood(setting: Setting, rate: float, send: Callable[[Deeds], None]) -> None:
    deeds = Deeds("flooder")
    until_stopped(deeds, send, Flooder(setting, deeds, rate).step)

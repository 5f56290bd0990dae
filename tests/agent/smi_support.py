"""A small MIB of the tests' own, a model for it, and an agent that runs in a thread beside the test."""

from __future__ import annotations

import asyncio
import functools
import hmac
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, Listen, parse_config
from agent.engine import agent as engine_agent
from agent.engine import messages
from agent.engine import usm as usm_module
from agent.engine.agent import SnmpAgent
from agent.engine.transport import Peer, UdpTransport
from agent.smi import Column, ModuleBinding, Scalar, SetError, Table, ber
from agent.smi.rowstatus import Assign, RowStatus, RowStatusWriter, StoredRow, TestAndIncr
from mibs.loader import IndexPart, MibSet, Module, Object, Syntax, load

ROOT = (1, 3, 6, 1, 4, 1, 32473, 9999)
DOTTED = ".".join(map(str, ROOT))

INTEGER = Syntax("Integer32", "Integer32")
SMALL = Syntax("Integer32", "Integer32", ranges=((0, 10),))
COLOUR = Syntax("INTEGER", "Integer32", named=(("red", 1), ("green", 2)))
TRUTH = Syntax("TruthValue", "Integer32", "SNMPv2-TC", named=(("true", 1), ("false", 2)))
GAUGE = Syntax("Gauge32", "Gauge32")
UNSIGNED = Syntax("Unsigned32", "Unsigned32")
COUNTER = Syntax("Counter32", "Counter32")
COUNTER64 = Syntax("Counter64", "Counter64")
TICKS = Syntax("TimeTicks", "TimeTicks")
TEXT = Syntax("DisplayString", "OCTET STRING", "SNMPv2-TC", sizes=((0, 255),), hint="255a")
SHORT = Syntax("OCTET STRING", "OCTET STRING", sizes=((2, 4),))
OCTETS = Syntax("OCTET STRING", "OCTET STRING")
FIXED = Syntax("OCTET STRING", "OCTET STRING", sizes=((3, 3),))
DATE = Syntax("DateAndTime", "OCTET STRING", "SNMPv2-TC", sizes=((8, 8), (11, 11)))
ADDRESS = Syntax("IpAddress", "IpAddress")
INET = Syntax("InetAddress", "OCTET STRING", "INET-ADDRESS-MIB", sizes=((0, 255),))
INET_TYPE = Syntax(
    "InetAddressType",
    "Integer32",
    "INET-ADDRESS-MIB",
    named=(("unknown", 0), ("ipv4", 1), ("ipv6", 2), ("ipv4z", 3), ("ipv6z", 4), ("dns", 16)),
)
OID = Syntax("OBJECT IDENTIFIER", "OBJECT IDENTIFIER")
FLAGS = Syntax("BITS", "BITS", named=(("a", 0), ("b", 1), ("k", 10)))
ROW_STATUS = Syntax("RowStatus", "Integer32", "SNMPv2-TC", named=tuple((s.name, int(s)) for s in RowStatus))
STORAGE = Syntax(
    "StorageType",
    "Integer32",
    "SNMPv2-TC",
    named=(("other", 1), ("volatile", 2), ("nonVolatile", 3), ("permanent", 4), ("readOnly", 5)),
)

VALUE_COLUMNS = {
    "tInteger": INTEGER,
    "tColour": COLOUR,
    "tTruth": TRUTH,
    "tGauge": GAUGE,
    "tCounter": COUNTER,
    "tCounter64": COUNTER64,
    "tTicks": TICKS,
    "tText": TEXT,
    "tDate": DATE,
    "tAddress": ADDRESS,
    "tOid": OID,
    "tFlags": FLAGS,
    "tSometimes": INTEGER,
    "tClock": INTEGER,
}
SCALARS = {
    "sLimited": (SMALL, "read-write"),
    "sShort": (SHORT, "read-write"),
    "sReadOnly": (INTEGER, "read-only"),
    "sSlow": (INTEGER, "read-write"),
    "sFailing": (INTEGER, "read-write"),
    "sUnwritten": (INTEGER, "read-write"),
    "sSpin": (Syntax("TestAndIncr", "Integer32", ranges=((0, 2147483647),)), "read-write"),
    "sBig": (OCTETS, "read-only"),
    "sAbsent": (INTEGER, "read-only"),
    "sStuck": (INTEGER, "read-write"),
}


def test_module() -> Module:
    """TEST-MIB: scalars under .1, tValueTable .2 (INDEX integer), tRowTable .3 (IMPLIED name, RowStatus)."""
    name = "TEST-MIB"
    objects = [Object("testMIB", name, ROOT, "node")]
    for number, (label, (syntax, access)) in enumerate(SCALARS.items(), 1):
        objects.append(Object(label, name, (*ROOT, 1, number), "scalar", syntax, access, "current"))
    table, row = (*ROOT, 2), (*ROOT, 2, 1)
    columns = ("tIndex", *VALUE_COLUMNS)
    objects.append(Object("tValueTable", name, table, "table", None, "not-accessible", row="tValueEntry"))
    index = (IndexPart("tIndex", name),)
    objects.append(
        Object("tValueEntry", name, row, "row", None, "not-accessible", index=index, columns=columns)
    )
    objects.append(Object("tIndex", name, (*row, 1), "column", INTEGER, "not-accessible", row="tValueEntry"))
    for number, (label, syntax) in enumerate(VALUE_COLUMNS.items(), 2):
        access = "read-write" if label == "tInteger" else "read-only"
        objects.append(Object(label, name, (*row, number), "column", syntax, access, row="tValueEntry"))
    table, row = (*ROOT, 3), (*ROOT, 3, 1)
    labels = {
        "rName": (Syntax("OCTET STRING", "OCTET STRING", sizes=((1, 32),)), "not-accessible"),
        "rLimit": (SMALL, "read-create"),
        "rText": (TEXT, "read-create"),
        "rStorage": (STORAGE, "read-create"),
        "rStatus": (ROW_STATUS, "read-create"),
    }
    objects.append(Object("rTable", name, table, "table", None, "not-accessible", row="rEntry"))
    index = (IndexPart("rName", name, True),)
    objects.append(
        Object("rEntry", name, row, "row", None, "not-accessible", index=index, columns=tuple(labels))
    )
    for number, (label, (syntax, access)) in enumerate(labels.items(), 1):
        objects.append(Object(label, name, (*row, number), "column", syntax, access, row="rEntry"))
    return Module(name, "src", objects=tuple(objects))


TEST_MIBS = MibSet([test_module()])


@functools.cache
def all_mibs() -> MibSet:
    """The compiled modules and TEST-MIB."""
    return MibSet([*load().modules.values(), test_module()])


@dataclass
class Row:
    """A row of tValueTable: its index, and values by column name."""

    index: int
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class TestModel:
    """Model of TEST-MIB; counts what is asked of it."""

    __test__ = False
    rows: list[Row] = field(default_factory=list)
    stored: dict[bytes, StoredRow] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=lambda: {"sLimited": 3, "sShort": b"ab", "sReadOnly": 5})
    stamp: int = 0
    reads: int = 0
    commits: list[str] = field(default_factory=list)
    refuse: str = ""
    spin: TestAndIncr = field(default_factory=lambda: TestAndIncr(7))
    clock: int = 0
    gate: asyncio.Event | None = None

    def generation(self, domain: str) -> int:
        return self.stamp

    def put(self, name: str, value: Any) -> None:
        self.commits.append(name)
        self.scalars[name] = value


@dataclass
class Put:
    """ScalarWriter that sets a scalar of the model."""

    name: str

    def test(self, model: TestModel, value: Any) -> Assign:
        if model.refuse:
            raise SetError(model.refuse)
        before = model.scalars.get(self.name)
        return Assign(lambda: model.put(self.name, value), lambda: model.put(self.name, before))


@dataclass
class PutSlowly(Put):
    """The same over a connection that answers when the test says so."""

    def test(self, model: TestModel, value: Any) -> Assign:
        before = model.scalars.get(self.name)

        async def do() -> None:
            if model.gate is not None:
                await model.gate.wait()
            else:
                await asyncio.sleep(0.05)
            model.put(self.name, value)

        async def back() -> None:
            model.put(self.name, before)

        return Assign(do, back)


@dataclass
class FailToPut(Put):
    """Commit fails always; undo fails too when the value is 13."""

    def test(self, model: TestModel, value: Any) -> Assign:
        def do() -> None:
            raise OSError("the stack says no")

        def back() -> None:
            if value == 13:
                raise OSError("and cannot go back")

        return Assign(do, back)


class NeverAnswers(Put):
    def test(self, model: TestModel, value: Any) -> Assign:
        async def do() -> None:
            await asyncio.sleep(3600)

        return Assign(do, lambda: model.put(self.name, "undone"))


@dataclass
class PutCell:
    """ColumnWriter of tInteger."""

    def test(self, model: TestModel, row: Row | None, index: tuple[int], value: int) -> Assign:
        assert row is not None
        assert index == (row.index,)
        before = row.values.get("tInteger")

        def put(new: Any) -> None:
            row.values["tInteger"] = new
            model.stamp += 1
            model.commits.append("tInteger")

        return Assign(lambda: put(value), lambda: put(before))


class Store:
    """RowStore in the model's dictionary; a row named 'bad...' is refused, one named 'used...' cannot go."""

    def load(self, model: TestModel, index: tuple[bytes]) -> StoredRow | None:
        return model.stored.get(index[0])

    def check(
        self, model: TestModel, index: tuple[bytes], before: StoredRow | None, after: StoredRow | None
    ) -> None:
        if index[0].startswith(b"bad"):
            raise SetError("inconsistentName")
        if after is None and index[0].startswith(b"used"):
            raise SetError("inconsistentValue", "in use")
        if after is not None and after.values.get("rLimit") == 9:
            raise SetError("inconsistentValue", "nine is not for this row", "rLimit")

    def change(
        self, model: TestModel, index: tuple[bytes], before: StoredRow | None, after: StoredRow | None
    ) -> Assign:
        def put(row: StoredRow | None) -> None:
            model.stamp += 1
            if row is None:
                model.stored.pop(index[0], None)
            else:
                model.stored[index[0]] = row

        return Assign(lambda: put(after), lambda: put(before))


def row_writer(**options: Any) -> RowStatusWriter:
    """The writer of rTable."""
    arguments: dict[str, Any] = {
        "store": Store(),
        "status": "rStatus",
        "storage": "rStorage",
        "required": ("rLimit",),
        "defaults": {"rText": b"text"},
        "fixed_while_active": ("rLimit",),
    }
    return RowStatusWriter(**{**arguments, **options})


def _value(name: str) -> Any:
    def get(row: Row) -> Any:
        return row.values.get(name)

    return get


def binding(model: TestModel) -> ModuleBinding:
    """TEST-MIB over a TestModel."""

    def scalar(name: str) -> Any:
        return lambda g: g.scalars.get(name)

    writers: dict[str, Any] = {
        "sLimited": Put("sLimited"),
        "sShort": Put("sShort"),
        "sSlow": PutSlowly("sSlow"),
        "sFailing": FailToPut("sFailing"),
        "sStuck": NeverAnswers("sStuck"),
    }

    def rows(g: TestModel) -> list[Row]:
        g.reads += 1
        return g.rows

    return ModuleBinding(
        "TEST-MIB",
        scalars=[
            *(Scalar(n, scalar(n), writers.get(n)) for n in SCALARS if n != "sSpin"),
            Scalar("sSpin", lambda g: g.spin.value, model.spin),
        ],
        tables=[
            Table(
                "tValueTable",
                rows=rows,
                index=lambda r: (r.index,),
                columns=[
                    Column(
                        n,
                        _value(n) if n != "tClock" else (lambda r: model.clock or None),
                        PutCell() if n == "tInteger" else None,
                        volatile=n == "tClock",
                    )
                    for n in VALUE_COLUMNS
                ],
            ),
            Table(
                "rTable",
                rows=lambda g: g.stored.items(),
                index=lambda item: (item[0],),
                columns=[
                    Column("rLimit", lambda item: item[1].values.get("rLimit")),
                    Column("rText", lambda item: item[1].values.get("rText")),
                    Column("rStorage", lambda item: int(item[1].storage)),
                    Column("rStatus", lambda item: int(item[1].status)),
                ],
                writer=row_writer(),
            ),
        ],
    )


# -- a running agent --------------------------------------------------------------------------------------

PASSWORDS = "auth_password = 'authpassword'\npriv_password = 'privpassword'\n"
CONFIG = f"""
[agent]
listen = ["127.0.0.1:0", "[::1]:0"]
set_timeout = 1.0
[system]
contact = "root"
name = "gateway"
location = "here"
writable = ["contact", "name"]
[[community]]
name = "reader"
group = "monitor"
versions = ["v1", "v2c"]
networks = ["127.0.0.0/8", "::1/128"]
[[community]]
name = "writer"
group = "writers"
versions = ["v1", "v2c"]
networks = ["127.0.0.0/8"]
[[community]]
name = "elsewhere"
group = "monitor"
networks = ["192.0.2.0/24"]
[[user]]
name = "operator"
group = "operator"
auth = "SHA-256"
priv = "AES-128"
{PASSWORDS}
[[user]]
name = "strong"
group = "operator"
auth = "SHA-512"
priv = "AES-256"
{PASSWORDS}
[[user]]
name = "middle"
group = "operator"
auth = "SHA-384"
priv = "AES-192"
{PASSWORDS}
[[user]]
name = "signer"
group = "signers"
auth = "SHA-224"
auth_password = 'authpassword'
[[user]]
name = "anybody"
group = "public"
networks = ["127.0.0.0/8", "::1/128"]
[[access]]
group = "monitor"
model = "any"
level = "noAuthNoPriv"
read = "all"
[[access]]
group = "writers"
model = "any"
level = "noAuthNoPriv"
read = "all"
write = "all"
insecure_write = true
[[access]]
group = "operator"
read = "all"
write = "all"
[[access]]
group = "signers"
level = "authNoPriv"
read = "all"
[[access]]
group = "public"
level = "noAuthNoPriv"
read = "some"
[[view]]
name = "all"
include = ["1"]
[[view]]
name = "some"
include = ["1.3.6.1.2.1.1", "{DOTTED}.2.1.*.2"]
exclude = ["1.3.6.1.2.1.1.9"]
"""


def config(folder: Path, text: str = CONFIG) -> Config:
    """A Config whose state lives in `folder`."""
    text = text.replace("[agent]", f'[agent]\nstate_dir = "{folder}"', 1)
    return parse_config(text, folder / "agent.toml")


class Running:
    """An agent in a thread of its own."""

    def __init__(self, settings: Config, bindings: Sequence[ModuleBinding], model: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.agent = SnmpAgent(settings, bindings, model, all_mibs())
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.call(self.agent.start())

    def call(self, work: Any) -> Any:
        """Run a coroutine in the agent's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def endpoint(self, ipv6: bool = False) -> str:
        """As net-snmp writes it."""
        host, port = next(a for a in self.agent.addresses if (":" in a[0]) == ipv6)
        return f"udp6:[{host}]:{port}" if ipv6 else f"{host}:{port}"

    def stop(self) -> None:
        self.call(self.agent.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


@contextmanager
def running(folder: Path, model: TestModel, text: str = CONFIG) -> Iterator[Running]:
    """An agent that serves TEST-MIB and the system groups."""
    agent = Running(config(folder, text), [binding(model)], model)
    try:
        yield agent
    finally:
        agent.stop()


COMMUNITY = ("-v2c", "-c", "reader")
WRITER = ("-v2c", "-c", "writer")
OPERATOR = (
    *("-v3", "-u", "operator", "-l", "authPriv", "-a", "SHA-256", "-A", "authpassword"),
    *("-x", "AES", "-X", "privpassword"),
)


def snmp(tool: str, who: Sequence[str], endpoint: str, *arguments: str, timeout: str = "2") -> str:
    """Run a net-snmp tool; its output and error output together. Numeric OIDs, no MIB files, one try."""
    assert shutil.which(tool), f"{tool} is not installed (Debian: snmp)"
    command = [tool, "-m", "", "-Onq", "-t", timeout, "-r", "0", *who, endpoint, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def rows(count: int) -> list[Row]:
    """Rows 1 to `count` with a value in every column but tSometimes (every third row)."""
    return [
        Row(
            n,
            {
                "tInteger": n,
                "tColour": "red" if n % 2 else 2,
                "tTruth": n % 2 == 0,
                "tGauge": n * 1000,
                "tCounter": 2**32 + n,
                "tCounter64": 2**64 - n,
                "tTicks": n * 100,
                "tText": f"row {n}",
                "tDate": 1_700_000_000 + n,
                "tAddress": f"192.0.2.{n % 256}",
                "tOid": (1, 3, 6, 1, n),
                "tFlags": ["a", "k"],
                **({"tSometimes": n} if n % 3 == 0 else {}),
            },
        )
        for n in range(1, count + 1)
    ]


# -- an agent without sockets -----------------------------------------------------------------------------

PEER = Peer(("127.0.0.1", 40000), 0)


class Captured(UdpTransport):
    """Keeps what would be sent."""

    def __init__(self, receive: Any) -> None:
        super().__init__(receive)
        self.sent: list[bytes] = []

    def listen(self, addresses: Sequence[Listen]) -> None:
        self.listening = tuple(addresses)

    def send(self, data: bytes, peer: Peer) -> None:
        self.sent.append(data)


class Offline:
    """An agent that is handed datagrams by the test."""

    def __init__(self, folder: Path, model: Any, text: str = CONFIG, mibs: MibSet | None = None) -> None:
        self.agent = SnmpAgent(config(folder, text), [binding(model)], model, mibs or all_mibs())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine_agent, "UdpTransport", Captured)
            asyncio.run(self.agent.start())
        transport, dispatcher = self.agent._transport, self.agent._dispatcher
        assert isinstance(transport, Captured)
        assert dispatcher is not None
        self.transport, self.dispatcher = transport, dispatcher

    def ask(self, data: bytes, peer: Peer = PEER) -> bytes | None:
        """The answer to one datagram, None when there is none."""
        self.transport.sent.clear()
        self.dispatcher.receive(data, peer)
        assert len(self.transport.sent) <= 1
        return self.transport.sent[0] if self.transport.sent else None

    async def ask_set(self, data: bytes, peer: Peer = PEER) -> bytes | None:
        """The same for a SET."""
        self.transport.sent.clear()
        self.dispatcher.receive(data, peer)
        while self.dispatcher.sets.tasks:
            await asyncio.gather(*self.dispatcher.sets.tasks)
        return self.transport.sent[0] if self.transport.sent else None


@dataclass(frozen=True)
class Answer:
    """A parsed Response- or Report-PDU."""

    type: int
    request_id: int
    status: int
    index: int
    varbinds: list[tuple[ber.Oid, int, bytes]]


def answer(pdu: bytes) -> Answer:
    """Parse a whole PDU."""
    kind, start, end = ber.read(pdu, 0, len(pdu))
    assert end == len(pdu)
    numbers = []
    for _ in range(3):
        first, start = ber.expect(pdu, start, end, ber.INTEGER)
        numbers.append(ber.parse_integer(pdu[first:start]))
    start, end = ber.expect(pdu, start, end, ber.SEQUENCE)
    varbinds = []
    while start < end:
        inner, start = ber.expect(pdu, start, end, ber.SEQUENCE)
        name, name_end = ber.expect(pdu, inner, start, ber.OBJECT_IDENTIFIER)
        tag, first, last = ber.read(pdu, name_end, start)
        assert last == start
        varbinds.append((ber.parse_oid(pdu[name:name_end]), tag, pdu[first:last]))
    return Answer(kind, numbers[0], numbers[1], numbers[2], varbinds)


def request(
    kind: int,
    names: Sequence[ber.Oid],
    *,
    first: int = 0,
    second: int = 0,
    values: Sequence[bytes] | None = None,
    request_id: int = 1234,
) -> bytes:
    """A request PDU; values are TLVs."""
    values = values or [ber.NULL_VALUE] * len(names)
    varbinds = b"".join(
        ber.varbind(ber.oid_content(name), value) for name, value in zip(names, values, strict=True)
    )
    numbers = b"".join(map(ber.integer, (request_id, first, second)))
    return ber.tlv(kind, numbers + ber.tlv(ber.SEQUENCE, varbinds))


def v2c(pdu: bytes, community: bytes = b"reader", version: int = 1) -> bytes:
    """A community-based message."""
    return messages.community_message(version, community, pdu)


def unwrap(message: bytes | None) -> Answer:
    """The PDU of a community-based answer."""
    assert message is not None
    version, position, end = messages.version(message)
    parsed = messages.parse_community(message, version, position, end)
    return answer(message[parsed.pdu : parsed.end])


class Manager:
    """The manager's side of USM, built on the agent's own primitives but for the direction."""

    def __init__(self, offline: Offline, user: str, level: int, max_size: int = 65507) -> None:
        usm = offline.agent.usm
        assert usm is not None
        self.usm = usm
        self.offline = offline
        self.user = usm.users[user.encode()]
        self.level = level
        self.max_size = max_size
        self.message_id = 0

    def message(self, pdu: bytes, context: bytes = b"", reportable: bool = True) -> bytes:
        """A whole request message."""
        self.message_id += 1
        frame = messages.V3Frame(self.message_id, self.max_size, 0, 3)
        size, self.usm.max_size = self.usm.max_size, self.max_size
        try:
            sealed = self.usm.seal(frame, self.user, self.level, self.usm.engine_id, context, pdu)
        finally:
            self.usm.max_size = size
        return self.resign(sealed, (0, 0, 1, 3)[self.level] | (4 if reportable else 0))

    def resign(self, message: bytes, flags: int | None = None) -> bytes:
        """Set msgFlags and make the digest right again."""
        _, position, end = messages.version(message)
        frame = messages.parse_v3(message, position, end)
        if flags is not None:
            at = message.index(bytes((4, 1, frame.flags, 2, 1, 3))) + 2
            message = message[:at] + bytes((flags,)) + message[at + 1 :]
        if self.level < 2:
            return message
        size = len(frame.auth)
        blank = message[: frame.auth_at] + bytes(size) + message[frame.auth_at + size :]
        digest = hmac.digest(self.user.auth_key, blank, usm_module.AUTH[self.user.auth][0])[:size]
        return blank[: frame.auth_at] + digest + blank[frame.auth_at + size :]

    def read(self, message: bytes | None) -> tuple[messages.V3Frame, Answer]:
        """Authenticate, decrypt and parse an answer."""
        assert message is not None
        _, position, end = messages.version(message)
        frame = messages.parse_v3(message, position, end)
        if frame.level >= 2:
            self.usm._authenticate(message, frame, self.user)
        octets, first, last = message, frame.data, frame.end
        if frame.level == 3:
            secured = self.usm._decrypt(message, frame, self.user)
            return frame, answer(secured.octets[secured.scoped.pdu : secured.scoped.end])
        scoped = messages.parse_scoped(octets, first, last)
        return frame, answer(octets[scoped.pdu : scoped.end])

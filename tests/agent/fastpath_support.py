"""Two agents with one configuration, model and clock, of which one has the fast path; and what to ask them.

Each gets every datagram. They must say the same octets and count the same, salts and engine time included.
"""

from __future__ import annotations

import dataclasses
import hmac
import random
import secrets
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from smi_support import ROOT, SCALARS, VALUE_COLUMNS, Offline, Row, TestModel, rows
from test_smi_controller import column, scalar

from agent.engine import messages
from agent.engine import usm as usm_module
from agent.engine.pdu import GET, GETBULK, GETNEXT, SET
from agent.engine.transport import Peer
from agent.engine.usm_crypto import AUTH, LocalUser, decrypt
from agent.smi import ber
from agent.smi.rowstatus import RowStatus, StoredRow

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:  # cryptography before it moved CFB
    from cryptography.hazmat.primitives.ciphers.modes import CFB

SECRETS = 'auth_password = "authpassword"\npriv_password = "privpassword"\n'


def user(name: str, group: str, auth: str = "", priv: str = "", more: str = "") -> str:
    text = f'[[user]]\nname = "{name}"\ngroup = "{group}"\n{more}\n'
    if auth:
        text += f'auth = "{auth}"\nauth_password = "authpassword"\n'
    if priv:
        text += f'priv = "{priv}"\npriv_password = "privpassword"\n'
    return text


def access(group: str, read: str, level: str = "noAuthNoPriv") -> str:
    return f'[[access]]\ngroup = "{group}"\nmodel = "any"\nlevel = "{level}"\nread = "{read}"\n'


def community(name: str, group: str, more: str = "") -> str:
    return f'[[community]]\nname = "{name}"\ngroup = "{group}"\nversions = ["v1", "v2c"]\n{more}\n'


HOME = 'networks = ["127.0.0.0/8", "::1/128", "fe80::/10"]'
DOTTED = ".".join(map(str, ROOT))
CONFIG = "\n".join(
    (
        '[agent]\nlisten = ["127.0.0.1:0"]\nengine_id = "80007ed905aabbccddeeff0011"\nmax_message_size = 65507',
        '[system]\ncontact = "root"\nname = "gateway"\nlocation = "here"\ndescription = "twin"',
        community("reader", "all", HOME),
        community("most", "most", HOME),
        community("rows", "rows", HOME),
        community("masked", "masked", HOME),
        community("blind", "blind", HOME),
        community("elsewhere", "all", 'networks = ["192.0.2.0/24"]'),
        user("operator", "all", "SHA-256", "AES-128"),
        user("strong", "all", "SHA-512", "AES-256"),
        user("middle", "most", "SHA-384", "AES-192"),
        user("signer", "all", "SHA-224"),
        user("public", "most", "", "", HOME),
        user("anybody", "all"),
        user("partly", "masked", "SHA-256", "AES-128"),
        access("all", "all"),
        access("most", "most"),
        access("rows", "rows"),
        access("masked", "masked"),
        access("blind", "nothing"),
        '[[view]]\nname = "all"\ninclude = ["1"]',
        f'[[view]]\nname = "most"\ninclude = ["1.3.6"]\nexclude = ["{DOTTED}.2.1.5", "{DOTTED}.3", "1.3.6.1.2.1.1.9"]',
        f'[[view]]\nname = "rows"\ninclude = ["1.3.6.1.2.1.1", "{DOTTED}.1", "{DOTTED}.2.1.2.7", "{DOTTED}.2.1.9"]',
        f'[[view]]\nname = "masked"\ninclude = ["1.3.6.1.2.1.1", "{DOTTED}.2.1.*.4", "{DOTTED}.3.1.2"]',
        '[[view]]\nname = "nothing"\ninclude = ["1.3.6.1.2.1.99"]',
    )
)
OTHER_CONFIG = CONFIG.replace(community("most", "most", HOME), community("most", "all", HOME)).replace(
    user("strong", "all", "SHA-512", "AES-256"), user("strong", "most", "SHA-512", "AES-256")
)
"""What a reload changes to and back from."""


class Clock:
    """What time it is for both agents."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self, *_: Any) -> float:
        return self.now


@contextmanager
def still(clock: Clock) -> Iterator[None]:
    """Stops time and chance, so that what two agents say depends on nothing else than what they are asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", clock)
        patch.setattr(time, "clock_gettime", clock)
        patch.setattr(secrets, "randbelow", lambda bound: 5)
        patch.setattr(secrets, "randbits", lambda bits: (1 << bits) - 1000)
        yield


class Twins:
    """`plain` answers without the fast path, `fast` with it."""

    def __init__(
        self, folder: Path, clock: Clock, count: int = 40, size: int = 65507, more: str = ""
    ) -> None:
        self.clock = clock
        text = CONFIG.replace("65507", str(size)) + "\n" + more
        with still(clock):
            self.plain = Offline(_made(folder / "plain"), model(count), text)
            self.fast = Offline(_made(folder / "fast"), model(count), text)
        self.both = (self.plain, self.fast)
        self.models: list[TestModel] = [offline.agent.model for offline in self.both]
        self.taken = 0

    def ask(self, data: bytes, address: tuple[Any, ...] = ("127.0.0.1", 40000)) -> tuple[bytes | None, bool]:
        """(the answer of both, whether the fast path gave it)."""
        expected = self.plain.ask(data, Peer(address, 0))
        fast = self.fast.agent.fast
        assert fast is not None
        got = fast.answer(data, address)
        if got is None:
            answer, taken = self.fast.ask(data, Peer(address, 0)), False
        else:
            answer, taken = got or None, True
            self.taken += 1
        salts = {offline.agent.usm and offline.agent.usm._salt for offline in self.both}
        same = (
            len(salts) == 1 and answer == expected and self.plain.agent.counters == self.fast.agent.counters
        )
        if not same:
            raise AssertionError(self.difference(data, address, expected, answer, taken))
        return answer, taken

    def difference(
        self,
        data: bytes,
        address: tuple[Any, ...],
        expected: bytes | None,
        answer: bytes | None,
        taken: bool,
    ) -> str:
        counters = [dataclasses.asdict(offline.agent.counters) for offline in self.both]
        apart = {
            name: (value, counters[1][name])
            for name, value in counters[0].items()
            if value != counters[1][name]
        }
        opened = self.opened(data)
        said = [found.hex()[:1000] if found else found for found in map(self.opened, (expected, answer))]
        return (
            f"from {address}, {'fast' if taken else 'not taken'}: {data.hex()}\n"
            f"deciphered: {opened.hex() if opened else None}\n"
            f"plain: {said[0]}\nfast:  {said[1]}\n"
            f"counters (plain, fast): {apart}"
        )

    def opened(self, data: bytes | None) -> bytes | None:
        """A message, deciphered where it is enciphered by one of our users: for who has to find a fault."""
        usm = self.plain.agent.usm
        assert usm is not None
        try:
            version, position, end = messages.version(data or b"")
            frame = messages.parse_v3(data or b"", position, end)
            if version == 3 and frame.level == 3 and data:
                user = usm.users[frame.user]
                plain = decrypt(user, frame.boots, frame.time, frame.priv, data[frame.data : frame.end])
                return data[: frame.data] + plain + data[frame.end :]
        except (ber.BerError, KeyError, ValueError):
            pass
        return data

    def change(self, draw: random.Random) -> None:
        """Something happens to both models."""
        what, number, value = draw.randrange(9), draw.randrange(1, 60), draw.randrange(2**31)
        for each in self.models:
            _change(each, what, number, value)
            each.stamp += 1


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def model(count: int) -> TestModel:
    made = TestModel(rows=rows(count), clock=17)
    made.scalars["sBig"] = b"x" * 300
    for name in (b"a", b"ab", b"b\x80\xff", b"row", b"z" * 32):
        made.stored[name] = StoredRow(RowStatus.active, values={"rLimit": 3, "rText": name[:3]})
    return made


def _change(each: TestModel, what: int, number: int, value: int) -> None:
    if what <= 2:
        for row in each.rows:
            if row.index == number:
                row.values.update(
                    tInteger=value, tText=f"new {value}", tSometimes=value if value & 1 else None
                )
    elif what == 3:
        each.rows = [row for row in each.rows if row.index != number]
    elif what == 4 and all(row.index != number for row in each.rows):
        each.rows.append(Row(number, {"tInteger": value, "tText": "a row", "tCounter64": 2**63}))
    elif what == 5:
        each.scalars["sBig"] = b"y" * (value % 700)
    elif what == 6:
        each.scalars["sReadOnly"] = value
        each.clock = value % 3
    elif what == 7 and value % 4 == 0:
        each.rows = [] if each.rows else rows(number)
    elif what == 8:
        if each.stored:
            each.stored.pop(next(iter(each.stored)), None)
        each.stored[b"n%d" % number] = StoredRow(
            RowStatus.active, values={"rLimit": value % 10, "rText": b"t"}
        )


# -- what is asked --------------------------------------------------------------------------------------------


def names(draw: random.Random) -> list[bytes]:
    """Contents octets of names at, between, before and beyond instances."""
    columns = [column(name) for name in VALUE_COLUMNS]
    stored = [(*ROOT, 3, 1, number) for number in range(1, 6)]
    found: list[ber.Oid] = []
    for name in SCALARS:
        instance = scalar(name)
        found += [instance, instance[:-1], (*instance[:-1], 1), (*instance, 0), (*instance, 5)]
    for oid in columns:
        found += [(*oid, number) for number in (1, 2, 3, 7, 12, 39, 40, 41, 55, 128, 16384)]
        found += [oid, (*oid, 0), (*oid, 2**32 - 1), (*oid, 5, 5), (*oid, 5, 0), (*oid, 2**31)]
    for oid in stored:
        found += [oid, (*oid, 97), (*oid, 97, 98), (*oid, 98, 128, 255), (*oid, *b"row"), (*oid, *b"row", 0)]
        found += [(*oid, *(122,) * 32), (*oid, *(255,) * 40), (*oid, 2**32 - 1, 1)]
    for group in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11):
        found += [
            (1, 3, 6, 1, 2, 1, group),
            (1, 3, 6, 1, 2, 1, 1, group, 0),
            (1, 3, 6, 1, 2, 1, 11, group, 0),
        ]
    found += [(1, 3, 6, 1, 2, 1, 1, 9, 1, n, r) for n in (2, 3, 4) for r in (0, 1, 2, 9)]
    found += [
        ROOT,
        (*ROOT, 0),
        (*ROOT, 1),
        (*ROOT, 2),
        (*ROOT, 2, 1),
        (*ROOT, 2, 1, 99),
        (*ROOT, 3, 1, 99),
        (*ROOT, 99),
    ]
    found += [
        (0, 0),
        (0, 39),
        (1, 0),
        (1, 3),
        (1, 3, 6, 1, 6, 3),
        (1, 4),
        (2, 0),
        (2, 999),
        (2, 2**32 - 1),
        (2, 39, 5),
    ]
    found += [(1, 3, 6, 1, 6, 3, n, 2, 1, r, 0) for n in (10, 11, 15) for r in range(1, 6)]
    found += [(*ROOT, *(1,) * (128 - len(ROOT))), (*columns[0], *(2**32 - 1,) * (127 - len(columns[0])))]
    return [ber.oid_content(oid) for oid in found]


NO_NAMES = [
    b"",
    b"\x2b\x80\x01",
    b"\x80\x01",
    b"\x2b\x06\x81",
    b"\x2b" + b"\x01" * 127,
    b"\x2b" + b"\x01" * 300,
    b"\x2b\x90\x80\x80\x80\x00",
    b"\x2b\xff\xff\xff\xff\xff\x7f",
    ber.oid_content(ROOT) + b"\x02\x01\x02\x80\x05",
    ber.oid_content(ROOT) + b"\x02\x01\x02\x90\x80\x80\x80\x00",
    ber.oid_content(ROOT) + b"\x02\x01\x02\x85",
]
"""Contents octets that are no name."""
VALUES = [
    b"\x02\x01\x05",
    b"\x04\x03abc",
    b"\x05\x81\x00",
    b"\x82\x00",
    b"\x05\x01\x00",
    b"\x46\x01\x00",
    b"\x31\x00",
]
BULK_NON_REPEATERS = [0] * 12 + [1, 1, 2, 3, 20, -1, -(2**31), 2**31 - 1]
BULK_REPETITIONS = [0, 1, 1, 2, 3, 5, 10, 10, 20, 25, 50, 60, 200, -3, -(2**31), 2**31 - 1, 1000]
SIZES = [484, 484, 500, 700, 1000, 1472, 1472, 2048, 4096, 8192, 65507, 65507, 2**31 - 1]
REQUEST_IDS = [0, 1, -1, 127, 128, -128, -129, 255, 32767, 32768, 2**23, 2**31 - 1, -(2**31)]
HOSTS: list[tuple[Any, ...]] = [("127.0.0.1", 40000)] * 8 + [
    ("127.9.9.9", 161),
    ("192.0.2.7", 5000),
    ("::1", 40000, 0, 0),
    ("fe80::1%lo", 40000, 0, 1),
]


class Client:
    """The manager's side of USM, in this file's own code."""

    def __init__(self, local: LocalUser, level: int, engine_id: bytes) -> None:
        self.user = local
        self.level = level
        self.engine_id = ber.tlv(4, engine_id)

    def message(
        self,
        pdu: bytes,
        boots: int,
        seconds: int,
        *,
        message_id: int = 7,
        max_size: int = 65507,
        context: bytes = b"",
        context_engine: bytes | None = None,
        flags: int | None = None,
        after: bytes = b"",
    ) -> bytes:
        """A whole request. `after`: octets after the ScopedPDU, inside what is encrypted."""
        level = self.level
        engine = self.engine_id if context_engine is None else ber.tlv(4, context_engine)
        data = ber.tlv(0x30, engine + ber.tlv(4, context) + pdu) + after
        salt = b""
        if level == 3:
            salt = struct.pack(">Q", message_id * 0x0123456789AB & 0xFFFFFFFFFFFFFFFF)
            iv = struct.pack(">II", boots, seconds) + salt
            cipher = Cipher(algorithms.AES(self.user.priv_key), CFB(iv)).encryptor()
            data = ber.tlv(4, cipher.update(data))
        name, size = AUTH[self.user.auth] if level > 1 else ("", 0)
        parts = self.engine_id + ber.integer(boots) + ber.integer(seconds) + ber.tlv(4, self.user.name)
        parts += ber.tlv(4, bytes(size)) + ber.tlv(4, salt)
        header = messages.v3_header(
            message_id, max_size, ((0, 0, 1, 3)[level] | 4) if flags is None else flags
        )
        whole = ber.tlv(0x30, header + ber.tlv(4, ber.tlv(0x30, parts)) + data)
        if not size:
            return whole
        at = len(whole) - len(data) - len(ber.tlv(4, salt)) - size
        digest = hmac.digest(self.user.auth_key, whole, name)[:size]
        return whole[:at] + digest + whole[at + size :]


LEVELS = [("operator", 3)] * 4 + [
    ("operator", 2),
    ("operator", 1),
    ("strong", 3),
    ("strong", 2),
    ("middle", 3),
    ("signer", 2),
    ("signer", 2),
    ("public", 1),
    ("public", 1),
    ("anybody", 1),
    ("partly", 3),
]
COMMUNITIES = [b"reader"] * 10 + [
    b"most",
    b"most",
    b"rows",
    b"masked",
    b"blind",
    b"elsewhere",
    b"",
    b"Reader",
]


class Questions:
    """Datagrams by a seed: (octets, source address, whether they are well-formed and of a known requester)."""

    def __init__(self, twins: Twins, seed: int) -> None:
        self.draw = random.Random(seed)
        self.names = names(self.draw)
        usm = twins.plain.agent.usm
        assert usm is not None
        self.usm = usm
        self.clients = [Client(usm.users[name.encode()], level, usm.engine_id) for name, level in LEVELS]
        self.recent: list[bytes] = []
        self.columns = [column(name) for name in VALUE_COLUMNS]
        self.burst: list[tuple[bytes, tuple[Any, ...], bool]] = []

    def next(self) -> tuple[bytes, tuple[Any, ...], bool]:
        draw = self.draw
        if self.burst:
            return self.burst.pop()
        chance = draw.random()
        if chance > 0.96:
            self.poll()
            return self.burst.pop()
        address = draw.choice(HOSTS)
        if chance < 0.04 and self.recent:
            # a poller asks the same again
            return draw.choice(self.recent), address, False
        if chance < 0.68:
            data, known = self.message(self.pdu(), odd=False)
            if draw.random() < 0.02:
                self.recent = [*self.recent[-20:], data]
            return data, address, known and address[0] != "192.0.2.7"
        if chance < 0.84:
            return self.message(self.odd_pdu(), odd=True)[0], address, False
        return self.mutated(self.message(self.pdu(), odd=draw.random() < 0.5)[0]), address, False

    def poll(self) -> None:
        """What a poller sends: one request after the other, alike but for ids and rows; broken ones in between."""
        draw = self.draw
        kind = draw.choice((GET, GET, GETNEXT, GETBULK))
        columns = draw.choices(self.columns, k=draw.choice((1, 1, 1, 2, 5, 20)))
        low, high = draw.choice(((1, 45), (1, 127), (128, 300)))
        numbers = ber.integer(0) + ber.integer(draw.choice((1, 5, 10, 300)) if kind == GETBULK else 0)
        client, seconds, boots = draw.choice(self.clients), self.usm.engine_time, self.usm.boots
        version, name = draw.choice((0, 1, 1, 3, 3)), draw.choice(COMMUNITIES)
        options = {"max_size": draw.choice(SIZES)}
        address = ("127.0.0.1", draw.randrange(40000, 40004))
        for _ in range(6):
            varbinds = self.varbinds([ber.oid_content((*oid, draw.randrange(low, high))) for oid in columns])
            content = ber.integer(draw.randrange(2**24, 2**31)) + numbers + ber.tlv(0x30, varbinds)
            if draw.random() < 0.1:
                # a PDU that breaks inside what is enciphered and signed
                content = self.mutated(content)
            pdu = ber.tlv(kind, content)
            if version == 3:
                options["message_id"] = draw.randrange(2**24, 2**31)
                data = client.message(pdu, boots, seconds + draw.randrange(3), **options)
            else:
                data = messages.community_message(version, name, pdu)
            if draw.random() < 0.15:
                data = self.mutated(data)
            self.burst.append((data, address, False))

    # -- PDUs -----------------------------------------------------------------------------------------------

    def varbinds(self, chosen: Sequence[bytes]) -> bytes:
        return b"".join([ber.varbind(name, b"\x05\x00") for name in chosen])

    def chosen(self) -> list[bytes]:
        draw = self.draw
        count = (
            draw.choice((1, 1, 1, 1, 1, 2, 2, 3, 5, 12, 0, 40)) if draw.random() < 0.9 else draw.randrange(30)
        )
        return draw.choices(self.names, k=count)

    def pdu(self, kind: int | None = None) -> bytes:
        draw = self.draw
        kind = draw.choice((GET, GET, GETNEXT, GETNEXT, GETBULK)) if kind is None else kind
        first = second = 0
        chosen = self.chosen()
        if kind == GETBULK:
            first, second = draw.choice(BULK_NON_REPEATERS), draw.choice(BULK_REPETITIONS)
        number = draw.choice(REQUEST_IDS) if draw.random() < 0.3 else draw.randrange(2**31)
        content = ber.integer(number) + ber.integer(first) + ber.integer(second)
        return ber.tlv(kind, content + ber.tlv(0x30, self.varbinds(chosen)))

    def odd_pdu(self) -> bytes:
        """A PDU that is unusual, allowed or not."""
        draw = self.draw
        what = draw.randrange(9)
        if what == 0:
            return self.pdu(draw.choice((SET, 0xA2, 0xA4, 0xA6, 0xA7, 0xA8, 0xA9, 0x30, 0)))
        if what == 1:
            varbinds = self.varbinds([*self.chosen(), draw.choice(NO_NAMES), *self.chosen()])
        elif what == 2:
            varbinds = b"".join(ber.varbind(name, draw.choice(VALUES)) for name in self.chosen())
        elif what == 3:
            varbinds = b"".join(
                self.long_form(0x30, ber.tlv(6, name) + b"\x05\x00") for name in self.chosen()
            )
        else:
            varbinds = self.varbinds(self.chosen())
        kind = draw.choice((GET, GETNEXT, GETBULK))
        numbers = [ber.integer(draw.choice((0, 0, 3, -2))) for _ in range(3)]
        if what == 4:
            numbers[draw.randrange(3)] = draw.choice(
                (
                    b"\x02\x02\x00\x05",
                    b"\x02\x02\xff\xff",
                    b"\x02\x05\x00\x80\x00\x00\x00",
                    b"\x02\x00",
                    b"\x02\x09" + bytes(9),
                )
            )
        if what == 5:
            numbers[draw.randrange(3)] = draw.choice((b"\x41\x01\x05", b"\x04\x01\x05", b"\x02\x81\x01\x05"))
        listed = self.long_form(0x30, varbinds) if what == 6 else ber.tlv(0x30, varbinds)
        content = b"".join(numbers) + listed + (b"\x05\x00" if what == 7 else b"")
        return self.long_form(kind, content) if what == 8 else ber.tlv(kind, content)

    def long_form(self, tag: int, content: bytes) -> bytes:
        octets = self.draw.choice((1, 2, 3, 4, 5))
        if len(content) >> (8 * octets):
            octets = 4
        return bytes((tag, 0x80 | octets)) + len(content).to_bytes(octets, "big") + content

    # -- messages -------------------------------------------------------------------------------------------

    def message(self, pdu: bytes, odd: bool) -> tuple[bytes, bool]:
        draw = self.draw
        if draw.random() < 0.55:
            version = 1 if draw.random() < 0.7 else 0
            name = draw.choice(COMMUNITIES)
            known = name in (b"reader", b"most") and (version == 1 or pdu[0] != GETBULK)
            if odd and draw.random() < 0.2:
                head = draw.choice((b"\x02\x02\x00\x01", ber.integer(2), ber.integer(version), b"\x02\x00"))
                content = head + self.long_form(4, name) + pdu
                return draw.choice((ber.tlv, self.long_form))(0x30, content), False
            return messages.community_message(version, name, pdu), known
        client = draw.choice(self.clients)
        known = client.user.name not in (b"anybody", b"partly") and (
            client.level > 1 or client.user.name == b"public"
        )
        seconds = self.usm.engine_time
        options: dict[str, Any] = {
            "message_id": draw.choice((0, 1, 127, 128, 2**31 - 1))
            if draw.random() < 0.3
            else draw.randrange(2**31),
            "max_size": draw.choice(SIZES),
        }
        boots = self.usm.boots
        if odd:
            what = draw.randrange(8)
            if what == 0:
                options["context"] = draw.choice((b"none", b"x" * 33, b"\xff\xfe", b"y" * 200))
            elif what == 1:
                options["context_engine"] = draw.choice((b"", b"\x80\x00\x7e\xd9\x05\x01"))
            elif what == 2:
                options["flags"] = draw.choice((0, 1, 2, 3, 4, 5, 6, 7, 0x83, 0xFF))
            elif what == 3:
                seconds = max(0, seconds + draw.choice((-151, -150, 150, 151, 10**6)))
            elif what == 4:
                boots += draw.choice((-1, 1))
            elif what == 5:
                options["after"] = draw.choice((b"\0", b"\0" * 7, b"\x05\x00"))
            elif what == 6:
                options["max_size"] = draw.choice((0, 483, -1, 2**31))
        return client.message(pdu, boots, seconds, **options), known and not odd

    def mutated(self, data: bytes) -> bytes:
        """Cut, lengthened, with other bits, or with lengths that lie."""
        draw = self.draw
        what = draw.randrange(6)
        octets = bytearray(data)
        if what == 0:
            return data[: draw.randrange(len(data))]
        if what == 1:
            return data + draw.randbytes(draw.randrange(1, 4))
        if what == 2:
            for _ in range(draw.randrange(1, 4)):
                octets[draw.randrange(len(octets))] ^= 1 << draw.randrange(8)
        elif what == 3:
            octets[draw.randrange(len(octets))] = draw.choice((0, 1, 0x7F, 0x80, 0x81, 0x82, 0x84, 0xFF))
        elif what == 4:
            at = draw.randrange(len(octets))
            octets[at : at + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
        else:
            at = draw.randrange(min(len(octets), 40))
            octets[at] = octets[at] + draw.choice((1, -1, 2, -2)) & 0xFF
        return bytes(octets)


__all__ = ["CONFIG", "OTHER_CONFIG", "Client", "Clock", "Questions", "Twins", "still", "usm_module"]

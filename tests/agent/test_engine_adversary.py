"""The fast path and its caches under attack: views that leak, decisions that outlive what they rest on, keys mixed up.

Each datagram goes to both paths, and for views there is a judge of the tests' own beside them: RFC 3415 section 4
read once more, without anything cached.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from smi_support import CONFIG, ROOT, Manager, Offline, TestModel, rows, unwrap, v2c
from smi_support import request as any_request
from test_smi_controller import column, scalar

from agent.config import AccessEntry, Subtree
from agent.engine import messages
from agent.engine import usm as usm_module
from agent.engine.access import SECRETS
from agent.engine.agent import SnmpAgent
from agent.engine.pdu import GET, GETBULK, GETNEXT, REPORT, SET
from agent.engine.transport import Peer
from agent.engine.usm_crypto import key_change_value
from agent.smi import ErrorStatus, ber
from agent.smi.rowstatus import RowStatus


def request(kind: int, names: Sequence[ber.Oid], **options: Any) -> bytes:
    """With a request-id of four octets, as most managers send and the fast path knows again."""
    return any_request(kind, names, **{"request_id": 0x21222324, **options})


LOCAL = Peer(("127.0.0.1", 5000), 0)
NAME = scalar("sReadOnly")
ASK = request(GET, [NAME])
EXCEPTIONS = (0x80, 0x81, 0x82)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing moves between the two paths' answers."""
    monkeypatch.setattr(SnmpAgent, "up_time", property(lambda agent: 4711))
    monkeypatch.setattr(usm_module, "_clock", lambda: 0.0)


def offline(folder: Path, text: str = CONFIG, count: int = 20) -> Offline:
    made = Offline(folder, TestModel(rows=rows(count)), text)
    assert made.agent.usm is not None
    made.agent.usm._started = -1000.0
    return made


class Both:
    """Asks the fast path (twice: plans are kept from the second time on) and the plain one."""

    def __init__(self, agent: Offline) -> None:
        assert agent.agent.fast is not None
        assert agent.agent.usm is not None
        self.agent = agent
        self.fast, self.usm = agent.agent.fast, agent.agent.usm
        self.mine = self.total = 0

    def ask(self, data: bytes, peer: Peer = LOCAL) -> bytes | None:
        counters = self.agent.agent.counters
        kept = {name: getattr(counters, name) for name in counters.__slots__}
        self.total += 1
        found: list[bytes | None] = []
        for _ in range(3):
            self.usm._salt = 99
            found.append(self.fast.answer(data, peer.address))
            for name, value in kept.items():
                setattr(counters, name, value)
        self.usm._salt = 99
        plain = self.agent.ask(data, peer)
        for fast in found:
            if fast is not None:
                self.mine += 1
                assert fast == (plain or b""), f"{data.hex()}\n{fast.hex()}\n{plain and plain.hex()}"
        return plain


# -- views --------------------------------------------------------------------------------------------------


def judge(families: Sequence[Subtree], oid: ber.Oid) -> bool:
    """RFC 3415: of the families that match, that with most sub-identifiers, then the greatest, decides."""
    best: Subtree | None = None
    for family in families:
        if len(family.oid) > len(oid):
            continue
        bits = "".join(f"{octet:08b}" for octet in family.mask)
        bits += "1" * len(family.oid)
        fits = all(bit == "0" or a == b for bit, a, b in zip(bits, family.oid, oid, strict=False))
        if fits and (best is None or (len(family.oid), family.oid) > (len(best.oid), best.oid)):
            best = family
    return best is not None and best.included


def random_view(rng: random.Random, known: Sequence[ber.Oid]) -> list[Subtree]:
    """Families around what there is: tables, columns, instances, one past, one short, masked."""
    found: dict[tuple[ber.Oid, bytes], Subtree] = {}
    for _ in range(rng.randint(1, 6)):
        oid = rng.choice(known)
        cut = rng.randint(1, len(oid))
        tree = list(oid[:cut])
        if rng.random() < 0.2:
            tree[-1] += rng.choice((-1, 1, 2))
            tree[-1] = max(tree[-1], 0)
        if rng.random() < 0.1:
            tree.append(rng.choice((0, 1, 5)))
        mask = b""
        if rng.random() < 0.4:
            bits = [True] * len(tree)
            for _ in range(rng.randint(1, 3)):
                bits[rng.randrange(len(bits))] = False
            if rng.random() < 0.3:
                bits = bits[: rng.randint(1, len(bits))]
            packed = bytearray((len(bits) + 7) // 8)
            for number, bit in enumerate(bits):
                packed[number >> 3] |= (0x80 >> (number & 7)) if bit else 0
            for number in range(len(bits), len(packed) * 8):
                packed[number >> 3] |= 0x80 >> (number & 7)
            mask = bytes(packed)
        found[tuple(tree), mask] = Subtree(tuple(tree), rng.random() < 0.6, mask)
    if rng.random() < 0.6:
        found[(1, 3, 6), b""] = Subtree((1, 3, 6), True)
    return list(found.values())


def everything(both: Both) -> list[tuple[ber.Oid, int]]:
    """All instances of the agent: a walk of who may see all."""
    manager = Manager(both.agent, "operator", 3)
    names: list[tuple[ber.Oid, int]] = []
    last: ber.Oid = (0, 0)
    while True:
        answer = both.agent.ask(manager.message(request(GETBULK, [last], second=500)), LOCAL)
        got = manager.read(answer)[1]
        for name, tag, _ in got.varbinds:
            if tag == 0x82:
                return names
            names.append((name, tag))
            last = name


@pytest.mark.usefixtures("clocks")
@pytest.mark.parametrize("seed", range(12))
def test_no_view_leaks_and_none_hides(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    agent = offline(tmp_path, count=9)
    both = Both(agent)
    instances = everything(both)
    names = [name for name, _ in instances]
    assert len(names) > 150
    for _ in range(12):
        view = random_view(rng, names)
        show_only(agent, view)
        visible = [pair for pair in instances if judge(view, pair[0])]
        for version in (0, 1, 3):
            check_walk(both, view, visible, version, rng)
        check_gets(both, view, names, rng)
    assert both.mine > 100, "the fast path took no part"


def show_only(agent: Offline, view: Sequence[Subtree]) -> None:
    """The group of "reader" and "writer" sees this from now on."""
    members = {(1, "community1"): "g", (2, "community1"): "g", (1, "community2"): "w", (2, "community2"): "w"}
    members[3, "operator"] = "g"
    agent.agent.access.replace(
        members,
        [
            AccessEntry("g", 0, 1, read="v"),
            AccessEntry("w", 0, 1, read="all", write="all"),
        ],
        {"v": view, "all": [Subtree((1,), True)]},
    )
    agent.agent.epoch.bump()


def check_walk(
    both: Both,
    view: Sequence[Subtree],
    visible: Sequence[tuple[ber.Oid, int]],
    version: int,
    rng: random.Random,
) -> None:
    expected = [name for name, tag in visible if version or tag != ber.COUNTER64]
    if version < 3:
        # secrets show under authPriv alone
        expected = [name for name in expected if name[: len(SECRETS[0])] not in SECRETS]
    manager = Manager(both.agent, "operator", 3)
    walked: list[ber.Oid] = []
    last: ber.Oid = (0, 0)
    while True:
        if version and rng.random() < 0.8:
            pdu = request(GETBULK, [last], second=rng.choice((1, 2, 7, 50, 1000)))
        else:
            pdu = request(GETNEXT, [last])
        if version == 3:
            got = manager.read(both.ask(manager.message(pdu)))[1]
        else:
            got = unwrap(both.ask(v2c(pdu, b"reader", version)))
        if not version and got.status == ErrorStatus.noSuchName:
            break
        assert got.status == 0
        ended = False
        for name, tag, _ in got.varbinds:
            if tag == 0x82:
                ended = True
                break
            walked.append(name)
            last = name
        if ended:
            break
    assert walked == expected, view


def check_gets(both: Both, view: Sequence[Subtree], names: Sequence[ber.Oid], rng: random.Random) -> None:
    for _ in range(6):
        asked = [rng.choice(names) for _ in range(rng.randint(1, 8))]
        asked = [name if rng.random() < 0.8 else (*name[:-1], name[-1] + 1) for name in asked]
        got = unwrap(both.ask(v2c(request(GET, asked), b"reader")))
        assert [name for name, _, _ in got.varbinds] == asked
        for name, tag, _ in got.varbinds:
            if not judge(view, name):
                assert tag in EXCEPTIONS, (name, view)
            elif name in names and name[: len(SECRETS[0])] not in SECRETS:
                assert tag not in EXCEPTIONS, (name, view)
        interleaved = request(GETBULK, asked, first=rng.randint(0, 3), second=rng.randint(0, 30))
        for name, tag, _ in unwrap(both.ask(v2c(interleaved, b"reader"))).varbinds:
            assert tag == 0x82 or judge(view, name), (name, view)


# -- who is who ---------------------------------------------------------------------------------------------

MANY = CONFIG.replace(
    "[[view]]\n",
    """[[community]]
name = "read"
group = "narrow"
versions = ["v1", "v2c"]
networks = ["127.0.0.0/8"]
[[community]]
name = "reader2"
group = "narrow"
versions = ["v2c"]
networks = ["127.0.0.0/8"]
[[user]]
name = "oper"
group = "narrow"
auth = "SHA-256"
priv = "AES-128"
auth_password = 'authpassword'
priv_password = 'privpassword'
[[access]]
group = "narrow"
model = "any"
level = "noAuthNoPriv"
read = "narrow"
[[view]]
name = "narrow"
include = ["1.3.6.1.2.1.1.5"]
[[view]]
""",
    1,
)


@pytest.mark.usefixtures("clocks")
def test_nobody_is_taken_for_another(tmp_path: Path) -> None:
    """The same PDUs, in turns, from everybody: names that begin alike, versions, levels, contexts, hosts."""
    agent = offline(tmp_path, MANY)
    both = Both(agent)
    other = TestModel(rows=rows(3))
    other.scalars["sReadOnly"] = 77
    agent.agent.add_context("other", other)
    rng = random.Random(11)
    pdus = [
        request(GET, [NAME, (1, 3, 6, 1, 2, 1, 1, 5, 0)]),
        request(GETNEXT, [(1, 3), column("tInteger", 3)]),
        request(GETBULK, [column("tText"), (1, 3)], second=4),
        request(GETBULK, [(1, 3)], second=10, request_id=99),
        request(GET, [column("tCounter64", 1)]),
    ]
    managers = [
        Manager(agent, user, level)
        for user, level in (
            ("operator", 3),
            ("operator", 2),
            ("operator", 1),
            ("oper", 3),
            ("oper", 2),
            ("oper", 1),
            ("signer", 2),
            ("anybody", 1),
        )
    ]
    for _ in range(1500):
        pdu = rng.choice(pdus)
        host = rng.choice(("127.0.0.1", "127.0.0.2", "127.0.0.1", "192.0.2.5", "::1"))
        peer = Peer((host, rng.randrange(1024, 1030)) + ((0, 0) if ":" in host else ()), 0)
        if rng.random() < 0.5:
            name = rng.choice((b"reader", b"read", b"reader2", b"writer", b"elsewhere", b"nobody", b""))
            both.ask(v2c(pdu, name, rng.choice((0, 1))), peer)
        else:
            manager = rng.choice(managers)
            both.ask(manager.message(pdu, rng.choice((b"", b"", b"other", b"nowhere"))), peer)
    assert both.mine > 1000
    narrow = unwrap(both.ask(v2c(pdus[0], b"read")))
    assert [tag for _, tag, _ in narrow.varbinds] == [0x80, 4]


# -- decisions that outlive what they rest on -------------------------------------------------------------------

NO_AUTH = 'level = "noAuthNoPriv"\n'
OPERATOR = 'name = "operator"\n'
Change = Callable[[Offline], None]


def new_config(change: Callable[[str], str]) -> Change:
    from smi_support import config

    def apply(agent: Offline) -> None:
        folder = agent.agent.config.state_dir
        asyncio.run(agent.agent.reload(config(folder, change(CONFIG))))

    return apply


def without(text: str, start: str, end: str) -> str:
    before, _, rest = text.partition(start)
    return before + end + rest.partition(end)[2]


CHANGES: dict[str, tuple[Change, str]] = {
    "the community is gone": (
        new_config(
            lambda text: without(text, '[[community]]\nname = "reader"', '[[community]]\nname = "writer"')
        ),
        "community",
    ),
    "the community may come from elsewhere only": (
        new_config(lambda text: text.replace('["127.0.0.0/8", "::1/128"]', '["192.0.2.0/24"]')),
        "community",
    ),
    "the community is of version 1 only": (
        new_config(lambda text: text.replace('["v1", "v2c"]', '["v1"]', 1)),
        "community",
    ),
    "the community's group sees less": (
        new_config(
            lambda text: text.replace(
                'level = "noAuthNoPriv"\nread = "all"', 'level = "noAuthNoPriv"\nread = "some"', 1
            )
        ),
        "less",
    ),
    "the user's key is another": (
        new_config(lambda text: text.replace("authpassword", "otherpassword", 1)),
        "user",
    ),
    "the user is gone": (
        new_config(lambda text: without(text, '[[user]]\nname = "operator"', '[[user]]\nname = "strong"')),
        "user",
    ),
    "the user may come from elsewhere only": (
        new_config(
            lambda text: text.replace(
                'name = "operator"\n', 'name = "operator"\nnetworks = ["192.0.2.0/24"]\n', 1
            )
        ),
        "user",
    ),
    "the user's group may read no more": (
        new_config(
            lambda text: text.replace('group = "operator"\nread = "all"', 'group = "operator"\nread = "some"')
        ),
        "user sees less",
    ),
}


@pytest.mark.usefixtures("clocks")
@pytest.mark.parametrize("what", CHANGES)
def test_a_reload_ends_what_was_decided(tmp_path: Path, what: str) -> None:
    agent = offline(tmp_path)
    both = Both(agent)
    manager = Manager(agent, "operator", 3)
    by_community, by_user = v2c(ASK), manager.message(ASK)
    for _ in range(3):
        assert unwrap(both.ask(by_community)).varbinds[0][1] == 2
        assert manager.read(both.ask(by_user))[1].varbinds[0][1] == 2
    assert both.mine == 18
    change, effect = CHANGES[what]
    change(agent)
    after, of_user = both.ask(by_community), both.ask(by_user)
    match effect:
        case "community":
            assert after is None
        case "less":
            assert unwrap(after).varbinds[0][1] == 0x80
        case "user":
            assert of_user is not None
            _, position, end = messages.version(of_user)
            assert messages.parse_v3(of_user, position, end).pdu_type == REPORT
        case "user sees less":
            assert manager.read(of_user)[1].varbinds[0][1] == 0x80
    if "user" not in effect:
        assert manager.read(of_user)[1].varbinds[0][1] == 2


@pytest.mark.usefixtures("clocks")
def test_contexts_come_and_go(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    both = Both(agent)
    manager = Manager(agent, "operator", 3)
    text = CONFIG.replace(
        '[[access]]\ngroup = "operator"', '[[access]]\ngroup = "operator"\ncontext_match = "prefix"'
    )
    new_config(lambda _: text)(agent)

    def value(context: bytes) -> int | None:
        _, got = manager.read(both.ask(manager.message(ASK, context)))
        return None if got.type == REPORT else got.varbinds[0][2][-1]

    for number in (41, 42):
        assert value(b"site") is None
        model = TestModel(rows=rows(2))
        model.scalars["sReadOnly"] = number
        agent.agent.add_context("site", model)
        for _ in range(3):
            assert value(b"site") == number
            assert value(b"") == 5
        agent.agent.remove_context("site")
    assert value(b"site") is None
    assert both.mine > 20


@pytest.mark.usefixtures("clocks")
def test_what_sets_change_is_seen_at_once_by_both(tmp_path: Path) -> None:
    """Values, rows and access change by SET while the same requests, their plans kept, come between."""
    agent = offline(tmp_path)
    both = Both(agent)
    rng = random.Random(4)
    names = [*(bytes((letter,)) for letter in b"abcdef")]
    reads = [
        v2c(request(GETBULK, [(*ROOT, 3)], second=40)),
        v2c(request(GETNEXT, [(*ROOT, 3, 1, 2, *b"b"), scalar("sLimited")[:-1]])),
        v2c(request(GET, [scalar("sLimited"), (*ROOT, 3, 1, 2, *b"c"), column("tInteger", 2)])),
        v2c(request(GETBULK, [column("tInteger"), (*ROOT, 3)], second=25)),
    ]
    before: dict[bytes, bytes | None] = {}
    changed = 0
    for step in range(120):
        name = rng.choice(names)
        status, limit, text = ((*ROOT, 3, 1, number, *name) for number in (5, 2, 3))
        row = rng.choice(
            [
                [(status, ber.integer(RowStatus.createAndGo)), (limit, ber.integer(rng.randint(0, 8)))],
                [(status, ber.integer(RowStatus.destroy))],
                [(text, ber.tlv(4, rng.randbytes(3).hex().encode()))],
                [(scalar("sLimited"), ber.integer(rng.randint(0, 10)))],
                [(column("tInteger", rng.randint(1, 5)), ber.integer(step))],
            ]
        )
        pdu = request(SET, [n for n, _ in row], values=[v for _, v in row], request_id=step)
        asyncio.run(agent.ask_set(v2c(pdu, b"writer"), LOCAL))
        for read in reads:
            answer = both.ask(read)
            changed += answer != before.get(read)
            before[read] = answer
    assert both.mine > 1000
    assert changed > 100


# -- secrets ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("clocks")
@pytest.mark.parametrize("who", ["community", "noAuthNoPriv", "authNoPriv", "authPriv"])
def test_no_secret_is_ever_in_an_answer(tmp_path: Path, who: str) -> None:
    """A walk of everything by who may see everything. Community strings show under authPriv alone, keys never."""
    agent = offline(tmp_path)
    names = [(1, "community1"), (1, "community2"), (2, "community1"), (2, "community2")]
    names += [(3, "anybody"), (3, "signer"), (3, "operator")]
    agent.agent.access.replace(
        dict.fromkeys(names, "g"),
        [AccessEntry("g", 0, 1, read="all", write="all")],
        {"all": [Subtree((1,), True), Subtree((1, 3, 6, 1, 6, 3, 18, 1, 1, 1, 2), True)]},
    )
    agent.agent.epoch.bump()
    both = Both(agent)
    level = {"noAuthNoPriv": ("anybody", 1), "authNoPriv": ("signer", 2), "authPriv": ("operator", 3)}
    manager = Manager(agent, *level[who]) if who in level else None
    secrets = {b"reader", b"writer", b"elsewhere", b"authpassword", b"privpassword"}
    secrets |= {key for user in both.usm.users.values() for key in (user.auth_key, user.priv_key) if key}
    last: ber.Oid = (0, 0)
    seen: set[bytes] = set()
    count = 0
    while True:
        pdu = request(GETBULK, [last], second=100)
        if manager is None:
            got = unwrap(both.ask(v2c(pdu, b"writer")))
        else:
            got = manager.read(both.ask(manager.message(pdu)))[1]
        assert got.status == 0
        for name, tag, content in got.varbinds:
            if tag == 0x82:
                break
            last, count = name, count + 1
            octets = bytes(number & 0xFF for number in name) + b"|" + content
            seen |= {
                secret for secret in secrets if secret == content or (len(secret) > 9 and secret in octets)
            }
        else:
            continue
        break
    assert count > 300
    strings = {b"reader", b"writer", b"elsewhere"}
    assert seen == (strings if who == "authPriv" else set())
    # asked for by name it is not there either
    name = (*COMMUNITY_ENTRY, 2, *b"community2")
    if manager is None:
        assert unwrap(both.ask(v2c(request(GET, [name]), b"reader"))).varbinds[0][1] in EXCEPTIONS
        set_it = any_request(SET, [name], values=[ber.tlv(4, b"mine")], request_id=5)
        refused = unwrap(asyncio.run(agent.ask_set(v2c(set_it, b"writer"), LOCAL)))
        assert refused.status == ErrorStatus.noAccess


# -- access over SNMP -----------------------------------------------------------------------------------------

VIEW_ENTRY = (1, 3, 6, 1, 6, 3, 16, 1, 5, 2, 1)
USER_ENTRY = (1, 3, 6, 1, 6, 3, 15, 1, 2, 2, 1)
COMMUNITY_ENTRY = (1, 3, 6, 1, 6, 3, 18, 1, 1, 1)


def counted(octets: bytes) -> tuple[int, ...]:
    return (len(octets), *octets)


def do(both: Both, manager: Manager, *pairs: tuple[ber.Oid, bytes], between: Sequence[bytes] = ()) -> int:
    """A SET; its status. `between` is asked of the fast path while it runs, as managers do."""
    # a request-id of its own: the same SET again within seconds would be taken for a retransmission
    both.total += 1
    names, values = [name for name, _ in pairs], [value for _, value in pairs]
    message = manager.message(request(SET, names, values=values, request_id=both.total))

    async def scenario() -> bytes | None:
        agent = both.agent
        agent.transport.sent.clear()
        agent.dispatcher.receive(message, LOCAL)
        answered = len(agent.transport.sent)
        while agent.dispatcher.sets.tasks:
            for data in between:
                both.fast.answer(data, LOCAL.address)
            await asyncio.sleep(0)
        assert answered in (0, 1)
        return agent.transport.sent[0] if agent.transport.sent else None

    return manager.read(asyncio.run(scenario()))[1].status


@pytest.mark.usefixtures("clocks")
def test_a_view_changed_over_snmp_holds_from_the_next_message_on(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    both = Both(agent)
    admin = Manager(agent, "operator", 3)
    ask = v2c(ASK)
    assert unwrap(both.ask(ask)).varbinds[0][1] == 2
    # "all" is the configuration's and readOnly; excluding below it is a row of its own
    row = (*counted(b"all"), *(len(NAME), *NAME))
    made = do(
        both,
        admin,
        ((*VIEW_ENTRY, 4, *row), ber.integer(2)),
        ((*VIEW_ENTRY, 6, *row), ber.integer(RowStatus.createAndGo)),
        between=[ask],
    )
    assert made == 0
    assert unwrap(both.ask(ask)).varbinds[0][1] in EXCEPTIONS
    assert do(both, admin, ((*VIEW_ENTRY, 6, *row), ber.integer(RowStatus.destroy)), between=[ask]) == 0
    assert unwrap(both.ask(ask)).varbinds[0][1] == 2


@pytest.mark.usefixtures("clocks")
def test_a_user_cloned_rekeyed_and_destroyed_over_snmp(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    both = Both(agent)
    admin = Manager(agent, "operator", 3)
    engine = both.usm.engine_id
    name = b"clone"
    row = (*counted(engine), *counted(name))
    source = (*USER_ENTRY, 3, *counted(engine), *counted(b"operator"))
    status = (*USER_ENTRY, 13, *row)
    pairs = (
        (status, ber.integer(RowStatus.createAndWait)),
        ((*USER_ENTRY, 4, *row), ber.tlv(6, ber.oid_content(source))),
    )
    assert do(both, admin, *pairs) == 0
    old = both.usm.users.get(b"operator")
    assert old is not None
    # a clone with the keys of another is of no use to anybody before its keys are its own
    fake = Manager(agent, "operator", 3)
    fake.user = replace(old, name=name)
    ask = fake.message(ASK)
    assert read_type(both.ask(ask)) == REPORT
    changes = []
    keys = {}
    for column_number, key, size in ((6, old.auth_key, 32), (9, old.priv_key, 16)):
        new = bytes(range(column_number, column_number + size))
        keys[column_number] = new
        changes.append(
            (
                (*USER_ENTRY, column_number, *row),
                ber.tlv(4, key_change_value("SHA-256", key, new, bytes(size))),
            )
        )
    assert do(both, admin, *changes) == 0
    assert do(both, admin, (status, ber.integer(RowStatus.active)), between=[ask]) == 0
    assert read_type(both.ask(ask)) == REPORT
    known = both.usm.users.get(name)
    assert known is not None
    assert known.auth_key == keys[6]
    mine = Manager(agent, "clone", 3)
    good = mine.message(ASK)
    # known, and in no group
    assert mine.read(both.ask(good))[1].status == ErrorStatus.authorizationError
    group = (1, 3, 6, 1, 6, 3, 16, 1, 2, 1)
    where = (3, *counted(name))
    joined = do(
        both,
        admin,
        ((*group, 3, *where), ber.tlv(4, b"operator")),
        ((*group, 5, *where), ber.integer(RowStatus.createAndGo)),
        between=[good],
    )
    assert joined == 0
    for _ in range(3):
        assert mine.read(both.ask(good))[1].varbinds[0][1] == 2
    assert do(both, admin, (status, ber.integer(RowStatus.notInService)), between=[good]) == 0
    assert read_type(both.ask(good)) == REPORT
    assert do(both, admin, (status, ber.integer(RowStatus.active)), between=[good]) == 0
    assert mine.read(both.ask(good))[1].varbinds[0][1] == 2
    assert do(both, admin, (status, ber.integer(RowStatus.destroy)), between=[good]) == 0
    assert read_type(both.ask(good)) == REPORT
    assert name not in both.usm.users


def read_type(message: bytes | None) -> int:
    assert message is not None
    _, position, end = messages.version(message)
    return messages.parse_v3(message, position, end).pdu_type


@pytest.mark.usefixtures("clocks")
def test_names_that_are_no_text_are_nobody_s(tmp_path: Path) -> None:
    """b"\\xff" and b"\\xfe" would both read as one securityName, and share its group."""
    agent = offline(tmp_path)
    both = Both(agent)
    admin = Manager(agent, "operator", 3)
    engine = both.usm.engine_id
    row = (*counted(engine), *counted(b"\xff\xfe"))
    source = (*USER_ENTRY, 3, *counted(engine), *counted(b"operator"))
    made = do(
        both,
        admin,
        ((*USER_ENTRY, 13, *row), ber.integer(RowStatus.createAndWait)),
        ((*USER_ENTRY, 4, *row), ber.tlv(6, ber.oid_content(source))),
    )
    assert made != 0


@pytest.mark.usefixtures("clocks")
def test_a_community_made_over_snmp_and_its_tag(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    both = Both(agent)
    admin = Manager(agent, "operator", 3)
    row = (*b"row",)
    ask = v2c(ASK, b"fresh")
    assert both.ask(ask) is None
    made = do(
        both,
        admin,
        ((*COMMUNITY_ENTRY, 2, *row), ber.tlv(4, b"fresh")),
        ((*COMMUNITY_ENTRY, 3, *row), ber.tlv(4, b"community1")),
        ((*COMMUNITY_ENTRY, 8, *row), ber.integer(RowStatus.createAndGo)),
        between=[ask],
    )
    assert made == 0
    for port in (1, 2, 3):
        assert unwrap(both.ask(ask, Peer(("127.0.0.1", port), 0))).varbinds[0][1] == 2
    # a tag that no address bears: from nowhere
    assert do(both, admin, ((*COMMUNITY_ENTRY, 6, *row), ber.tlv(4, b"tag")), between=[ask]) == 0
    assert both.ask(ask) is None
    # one address and one port bear it (snmpTargetAddrTable: domain, address, tag list, params)
    target = (1, 3, 6, 1, 6, 3, 12, 1, 2, 1)
    where = (*b"poller",)
    made = do(
        both,
        admin,
        ((*target, 2, *where), ber.tlv(6, ber.oid_content((1, 3, 6, 1, 6, 1, 1)))),
        ((*target, 3, *where), ber.tlv(4, bytes((127, 0, 0, 1)) + (5000).to_bytes(2, "big"))),
        ((*target, 6, *where), ber.tlv(4, b"tag")),
        ((*target, 7, *where), ber.tlv(4, b"none")),
        ((*target, 9, *where), ber.integer(RowStatus.createAndGo)),
        between=[ask],
    )
    assert made == 0
    for _ in range(3):
        assert unwrap(both.ask(ask, Peer(("127.0.0.1", 5000), 0))).varbinds[0][1] == 2
        assert both.ask(ask, Peer(("127.0.0.1", 5001), 0)) is None
        assert both.ask(ask, Peer(("127.0.0.2", 5000), 0)) is None
    assert do(both, admin, ((*COMMUNITY_ENTRY, 8, *row), ber.integer(RowStatus.destroy)), between=[ask]) == 0
    assert both.ask(ask, Peer(("127.0.0.1", 5000), 0)) is None

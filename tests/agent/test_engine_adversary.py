"""The fast path and its caches under attack: names mixed up, decisions that outlive what they rest on.

Each datagram goes to both paths; a reload or a SET comes between.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from adversary_support import ASK, LOCAL, NAME, Both, offline, request
from adversary_support import clocks as clocks
from smi_support import CONFIG, ROOT, Manager, Offline, TestModel, rows, unwrap, v2c
from test_smi_controller import column, scalar

from agent.engine import messages
from agent.engine.pdu import GET, GETBULK, GETNEXT, REPORT, SET
from agent.engine.transport import Peer
from agent.smi import ber
from agent.smi.rowstatus import RowStatus

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

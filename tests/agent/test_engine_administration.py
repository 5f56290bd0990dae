"""Access changed over SNMP holds from the next message on, on both paths; no answer shows a secret."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from adversary_support import ASK, EXCEPTIONS, LOCAL, NAME, Both, offline, request
from adversary_support import clocks as clocks
from smi_support import Manager, unwrap, v2c
from smi_support import request as any_request

from agent.config import AccessEntry, Subtree
from agent.engine import messages
from agent.engine.pdu import GET, GETBULK, REPORT, SET
from agent.engine.transport import Peer
from agent.engine.usm_crypto import key_change_value
from agent.smi import ErrorStatus, ber
from agent.smi.rowstatus import RowStatus

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

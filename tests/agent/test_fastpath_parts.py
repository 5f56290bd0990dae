"""The fast path's parts: cipher and MAC against the library's, names against the plain decoder, decisions it keeps."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from fastpath_support import CFB, HOME, Client, Clock, Twins, access, community, still
from hypothesis import given, settings
from hypothesis import strategies as st
from smi_support import CONFIG, Manager, Offline, TestModel, config, request, rows, unwrap, v2c
from test_smi_controller import column, scalar

from agent.engine.agent import SnmpAgent
from agent.engine.fastpath import path as fast_path
from agent.engine.fastpath.cipher import LONG, AesCfb, Mac
from agent.engine.fastpath.errors import NotMine
from agent.engine.fastpath.names import Names, key_of
from agent.engine.pdu import GET, GETBULK, GETNEXT
from agent.engine.usm_crypto import AUTH, LocalUser
from agent.smi import ber, keys

ADDRESS = ("127.0.0.1", 40000)


# -- cipher and MAC -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from((16, 24, 32)).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.binary(max_size=200)), min_size=1, max_size=6),
    st.booleans(),
)
def test_cfb_is_the_librarys(key: bytes, messages: list[tuple[bytes, bytes]], long: bool) -> None:
    ours = AesCfb(key)
    for iv, plain in messages:
        if long:
            plain *= 20
        sealed = Cipher(algorithms.AES(key), CFB(iv)).encryptor().update(plain)
        assert ours.encrypt(iv, plain) == sealed
        assert ours.decrypt(iv, sealed) == plain


def test_cfb_of_every_length_on_one_context() -> None:
    key, iv = bytes(range(16)), bytes(range(100, 116))
    ours = AesCfb(key)
    for size in (*range(70), *range(LONG - 20, LONG + 20), 5000):
        plain = bytes(n * 7 & 0xFF for n in range(size))
        sealed = Cipher(algorithms.AES(key), CFB(iv)).encryptor().update(plain)
        assert (ours.encrypt(iv, plain), ours.decrypt(iv, sealed)) == (sealed, plain)


@settings(deadline=None)
@given(st.sampled_from(sorted(AUTH)), st.binary(min_size=1, max_size=200), st.binary(max_size=300), st.data())
def test_mac_is_the_librarys(name: str, key: bytes, message: bytes, data: st.DataObject) -> None:
    digest, size = AUTH[name]
    mac = Mac(key, digest, size)
    at = data.draw(st.integers(0, len(message)))
    blank = message[:at] + bytes(size) + message[at:]
    right = hmac.digest(key, blank, digest)[:size]
    assert mac.sign(blank) == right
    assert mac.verify(message[:at] + right + message[at:], at)
    wrong = bytes((right[0] ^ 1, *right[1:]))
    assert not mac.verify(message[:at] + wrong + message[at:], at)


def test_keys_do_not_show(tmp_path: Path) -> None:
    offline = Offline(tmp_path, TestModel(rows=rows(3)))
    manager = Manager(offline, "operator", 3)
    fast = offline.agent.fast
    assert fast is not None
    assert fast.answer(manager.message(request(GET, [scalar("sReadOnly")])), ADDRESS)
    (user,) = fast._door._users.values()
    for thing in (fast, user, user.mac, user.cipher, user.user, vars(fast)):
        for key in (manager.user.auth_key, manager.user.priv_key):
            assert repr(key)[2:-1] not in repr(thing)
            assert key.hex() not in repr(thing)


# -- names ----------------------------------------------------------------------------------------------------


@given(st.one_of(st.binary(max_size=12), st.lists(st.integers(0, 2**32 + 5), max_size=6).map(ber.sub_ids)))
def test_keys_of_indexes(octets: bytes) -> None:
    """Either what the plain decoder makes of the octets, or not mine."""
    try:
        oid = ber.parse_oid(b"\x2b" + octets)
    except ber.BerError:
        with pytest.raises(NotMine):
            key_of(octets)
        return
    assert key_of(octets) == keys.pack(oid[2:])


def test_places(tmp_path: Path) -> None:
    controller = Offline(tmp_path, TestModel()).agent.controller
    places = Names(controller.leaves)
    leaves = [leaf.oid for leaf in controller.leaves]

    def place(oid: ber.Oid) -> tuple[int, bytes | None]:
        content = ber.oid_content(oid)
        ((leaf, key, name),) = places.places(ber.varbind(content, ber.NULL_VALUE), 0)
        assert name == content
        return leaf, key

    for number, oid in enumerate(leaves):
        assert place(oid) == (number, b"")
        assert place((*oid, 0)) == (number, bytes(4))
        assert place((*oid, 2**32 - 1, 5)) == (number, b"\xff\xff\xff\xff\0\0\0\5")
        leaf, key = place(oid[:-1])
        assert key is None
        assert leaves[leaf][: len(oid) - 1] == oid[:-1]
        # a name that ends within a prefix, before octets that would complete it
        assert place((*oid[:-1],))[1] is None
    assert place((0, 0)) == (0, None)
    assert place((2, 999)) == (len(leaves), None)
    longest = (*leaves[0], *(1,) * (128 - len(leaves[0])))
    for oid, mine in ((longest[:110], True), (longest, False)):
        if mine:
            assert place(oid)[0] == 0
        else:
            # a VarBind of more than 127 octets
            with pytest.raises(NotMine):
                place(oid)


def test_a_name_does_not_reach_into_the_value_after_it(tmp_path: Path) -> None:
    """A name that lacks one octet of a column whose next octet is that of the NULL after the name."""
    offline = Offline(tmp_path, TestModel(rows=rows(3)))
    names = offline.agent.controller.leaves
    short = next(leaf.oid[:-1] for leaf in names if leaf.oid[-1] == 5)
    ((leaf, key, _),) = Names(names).places(ber.varbind(ber.oid_content(short), ber.NULL_VALUE), 0)
    assert key is None
    assert names[leaf].oid > short


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = Offline(tmp_path, TestModel(rows=rows(3)))
    fast = offline.agent.fast
    assert fast is not None
    monkeypatch.setattr(fast_path, "MAX_PLANS", 10)
    monkeypatch.setattr(fast_path, "MAX_SESSIONS", 4)
    monkeypatch.setattr("agent.engine.fastpath.names.KEPT", 20)
    for number in range(200):
        for _ in range(3):
            asked = v2c(request(GET, [column("tInteger", number), column("tText", 1)]))
            assert fast.answer(asked, (f"127.0.0.{number % 50}", 161))
    assert sum(len(sight.plans) for sight in fast._sights.values()) <= 10
    assert len(fast._sights) == 1
    assert len(fast._communities) <= 4
    assert len(fast._names.keys) <= 20


# -- decisions ------------------------------------------------------------------------------------------------


def test_a_decision_lasts_until_the_epoch_moves(tmp_path: Path) -> None:
    offline = Offline(tmp_path, TestModel(rows=rows(3)))
    agent = offline.agent
    assert agent.fast is not None
    asked = v2c(request(GET, [column("tInteger", 1)]))
    assert agent.fast.answer(asked, ADDRESS) is not None
    # the view of the group that the community is in does not show the table any more
    entry = 'group = "monitor"\nmodel = "any"\nlevel = "noAuthNoPriv"\nread = "%s"'
    without = CONFIG.replace(entry % "all", entry % "some")
    assert without != CONFIG
    asyncio.run(agent.reload(config(tmp_path, without)))
    answer = agent.fast.answer(asked, ADDRESS) or offline.ask(asked)
    assert unwrap(answer).varbinds[0][1] == 0x81
    asyncio.run(agent.reload(config(tmp_path, CONFIG.replace('name = "reader"', 'name = "other"'))))
    assert agent.fast.answer(asked, ADDRESS) is None
    assert offline.ask(asked) is None


def test_a_community_is_only_good_where_it_may_be_used(tmp_path: Path) -> None:
    agent = Offline(tmp_path, TestModel(rows=rows(3))).agent
    assert agent.fast is not None
    asked = v2c(request(GET, [column("tInteger", 1)]))
    assert agent.fast.answer(asked, ADDRESS) is not None
    assert agent.fast.answer(asked, ("192.0.2.1", 40000)) is None
    assert agent.counters.in_pkts == 1


def test_a_message_is_taken_once_and_not_when_late(tmp_path: Path) -> None:
    clock = Clock()
    twins = Twins(tmp_path, clock)
    user, agent = _operator(twins)
    with still(clock):
        pdu = request(GET, [scalar("sReadOnly")])
        asked = Client(user, 3, agent.engine_id).message(pdu, 1, agent.engine_time)
        assert twins.ask(asked)[1]
        clock.now += 150
        assert twins.ask(asked)[1]
        clock.now += 1
        assert not twins.ask(asked)[1]
    assert twins.fast.agent.counters.usm_not_in_time_windows == 1


def test_genErr(tmp_path: Path) -> None:
    """A table whose rows cannot be read, at each place of a request."""
    clock = Clock()
    twins = Twins(tmp_path, clock)
    table, other = column("tInteger"), scalar("sReadOnly")
    with still(clock):
        for failing in (False, True):
            for each in twins.models:
                each.stamp += 1
                if failing:
                    # what cannot be iterated over
                    each.rows = None  # type: ignore[assignment]
            for kind in (GET, GETNEXT, GETBULK):
                for names in ([table], [other, table], [other, other, table], [table, other]):
                    for first in (0, 1, 2):
                        for second in (0, 1, 30, 500):
                            for version in (0, 1):
                                twins.ask(
                                    v2c(request(kind, names, first=first, second=second), version=version)
                                )
    counts = [offline.agent.controller.counters for offline in twins.both]
    # several repeaters read ahead of each other, and may each find what the first one finds
    assert 0 < counts[0].rows_errors <= counts[1].rows_errors < 1.1 * counts[0].rows_errors
    assert twins.taken > 50


def test_contexts(tmp_path: Path) -> None:
    """A community, and a user, in another context read that one's model, until it goes."""
    clock = Clock()
    more = "[sources.second]\n" + community("other", "contexts", f'{HOME}\ncontext = "second"')
    more += access("contexts", "all") + 'context = "second"\n' + access("all", "all") + 'context = "second"\n'
    twins = Twins(tmp_path, clock, more=more)
    asked = v2c(request(GETNEXT, [column("tInteger", 1)]), b"other")
    user, agent = _operator(twins)
    client = Client(user, 3, agent.engine_id)
    with still(clock):
        first, taken = twins.ask(asked)
        assert not taken
        for offline in twins.both:
            offline.agent.add_context("second", replace(offline.agent.model, rows=rows(2)))
        for number in range(3):
            answer, taken = twins.ask(asked)
            assert taken
            assert unwrap(answer).varbinds[0][0] == column("tInteger", 2)
            pdu = request(GETNEXT, [column("tInteger", 2)], request_id=number)
            for context, expected in ((b"second", True), (b"", True), (b"third", False)):
                message = client.message(pdu, 1, agent.engine_time, context=context)
                assert twins.ask(message)[1] is expected
        for offline in twins.both:
            offline.agent.remove_context("second")
        assert twins.ask(asked) == (first, False)


def _operator(twins: Twins) -> tuple[LocalUser, SnmpAgent]:
    agent = twins.plain.agent
    assert agent.usm is not None
    return agent.usm.users[b"operator"], agent

"""USM of the authoritative engine (RFC 3414 section 3.2): keys, what is refused with which Report, sizes."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import pytest
from smi_support import Manager, Offline, TestModel, request, rows, v2c
from test_smi_controller import column, scalar

from agent.config import Secret, User
from agent.engine import messages, usm, usm_crypto
from agent.engine.pdu import GET, GETBULK, REPORT, RESPONSE
from agent.engine.state import MAX_BOOTS
from agent.smi import ber

ASK = request(GET, [scalar("sReadOnly")])
LEVELS = [("anybody", 1), ("signer", 2), ("operator", 3), ("strong", 3), ("middle", 3), ("operator", 2)]


def offline(folder: Path, count: int = 20) -> Offline:
    return Offline(folder, TestModel(rows=rows(count)))


def counters(agent: Offline) -> dict[str, int]:
    made = agent.agent.counters
    return {name: getattr(made, name) for name in made.__slots__ if getattr(made, name) and name != "in_pkts"}


def test_password_to_key() -> None:
    # RFC 3414 appendix A.3.2: "maplesyrup" with SHA-1, engine ID 00..02
    engine_id = bytes(11) + b"\x02"
    key = usm_crypto.localized_key(b"maplesyrup", engine_id, "sha1")
    assert key.hex() == "6695febc9288e36282235fc7151f128497b38f3f"
    # appendix A.3.1 with MD5
    key = usm_crypto.localized_key(b"maplesyrup", engine_id, "md5")
    assert key.hex() == "526f5eed9fcce26f8964c2930787d82b"


def test_short_keys_are_extended_by_hashing() -> None:
    import hashlib

    key = b"k" * 28
    assert usm_crypto.extended(key, 32, "sha224") == (key + hashlib.sha224(key).digest())[:32]
    assert usm_crypto.extended(b"k" * 64, 16, "sha512") == b"k" * 16


def test_keys_do_not_show(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    assert agent.agent.usm is not None
    user = agent.agent.usm.users[b"operator"]
    assert user.auth_key.hex() not in repr(user)
    assert repr(user.auth_key) not in repr(user)


def test_localized_keys_are_taken_as_they_are() -> None:
    good = User("u", "SHA-256", Secret(bytes(32)), "AES-256", Secret(bytes(32)), True)
    assert usm_crypto.localize(good, b"engine").priv_key == bytes(32)
    for auth, priv in ((31, 32), (32, 31)):
        with pytest.raises(usm.UsmError, match="octets"):
            usm_crypto.localize(
                User("u", "SHA-256", Secret(bytes(auth)), "AES-256", Secret(bytes(priv)), True), b"engine"
            )


@pytest.mark.parametrize(("user", "level"), LEVELS)
def test_levels(tmp_path: Path, user: str, level: int) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, user, level)
    name = (1, 3, 6, 1, 2, 1, 1, 5, 0)
    frame, got = manager.read(agent.ask(manager.message(request(GET, [name]))))
    assert (frame.level, frame.reportable, got.type) == (level, False, RESPONSE)
    # a user who could do more but asks for less is for access control to judge
    assert got.status == (16 if (user, level) == ("operator", 2) else 0)
    if not got.status:
        assert got.varbinds == [(name, 4, b"gateway")]


def report(agent: Offline, message: bytes, manager: Manager) -> tuple[messages.V3Frame, ber.Oid]:
    frame, got = manager.read(agent.ask(message))
    assert got.type == REPORT
    assert not frame.reportable
    return frame, got.varbinds[0][0]


def test_discovery(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 3)
    empty = ber.tlv(ber.OCTET_STRING, b"")
    parameters = ber.tlv(ber.SEQUENCE, empty + ber.integer(0) * 2 + empty * 3)
    scoped = ber.tlv(ber.SEQUENCE, empty * 2 + ASK)
    head = messages.v3_header(9, 65507, 4)
    message = ber.tlv(ber.SEQUENCE, head + ber.tlv(ber.OCTET_STRING, parameters) + scoped)
    frame, oid = report(agent, message, manager)
    assert oid == usm.UNKNOWN_ENGINE_IDS
    assert (frame.engine_id, frame.level, frame.message_id) == (agent.agent.engine_id, 1, 9)
    assert (frame.boots, frame.user) == (1, b"")
    # RFC 3412 section 6.4: never about a PDU that asks for nothing, whatever the reportableFlag says
    scoped = ber.tlv(ber.SEQUENCE, empty * 2 + b"\xa8" + ASK[1:])
    message = ber.tlv(ber.SEQUENCE, head + ber.tlv(ber.OCTET_STRING, parameters) + scoped)
    assert agent.ask(message) is None


def altered(manager: Manager, **changes: object) -> bytes:
    """A message of a manager that believes something else of user, engine or time; digest right for that."""
    before = {name: getattr(manager.usm, name) for name in ("engine_id", "boots", "_started")}
    user = manager.user
    try:
        for name, value in changes.items():
            if name == "user":
                manager.user = value  # type: ignore[assignment]
            else:
                setattr(manager.usm, name, value)
        return manager.message(ASK)
    finally:
        manager.user = user
        for name, value in before.items():
            setattr(manager.usm, name, value)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_foreign_engine_id(tmp_path: Path, level: int) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", level)
    _, oid = report(agent, altered(manager, engine_id=b"\x80\x00\x00\x01\x05else"), manager)
    assert oid == usm.UNKNOWN_ENGINE_IDS
    assert counters(agent) == {"usm_unknown_engine_ids": 1}


def test_an_unknown_user(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 3)
    user = usm.LocalUser(b"nobody", "SHA-256", "AES-128", bytes(32), bytes(16))
    frame, oid = report(agent, altered(manager, user=user), manager)
    assert (oid, frame.level) == (usm.UNKNOWN_USER_NAMES, 1)
    assert counters(agent) == {"usm_unknown_user_names": 1}


@pytest.mark.parametrize(("name", "level"), [("anybody", 2), ("anybody", 3), ("signer", 3)])
def test_a_level_that_the_user_does_not_have(tmp_path: Path, name: str, level: int) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", level)
    user = usm.LocalUser(name.encode(), "SHA-256", "AES-128", bytes(32), bytes(16))
    frame, oid = report(agent, altered(manager, user=user), manager)
    assert (oid, frame.level) == (usm.UNSUPPORTED_SEC_LEVELS, 1)


@pytest.mark.parametrize("level", [2, 3])
def test_wrong_keys(tmp_path: Path, level: int) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", level)
    right = manager.user
    wrong = usm.LocalUser(b"operator", "SHA-256", "AES-128", bytes(32), right.priv_key)
    frame, oid = report(agent, altered(manager, user=wrong), manager)
    assert (oid, frame.level) == (usm.WRONG_DIGESTS, 1)
    # nothing signed with the user's key goes to someone who does not have it
    assert frame.auth == b""
    wrong = usm.LocalUser(b"operator", "SHA-256", "AES-128", right.auth_key, bytes(16))
    if level == 3:
        frame, oid = report(agent, altered(manager, user=wrong), manager)
        assert (oid, frame.level) == (usm.DECRYPTION_ERRORS, 1)
        assert counters(agent) == {"usm_wrong_digests": 1, "usm_decryption_errors": 1}


def test_every_octet_counts(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 3)
    message = manager.message(ASK)
    for position in range(len(message)):
        forged = message[:position] + bytes((message[position] ^ 1,)) + message[position + 1 :]
        answer = agent.ask(forged)
        if answer is not None:
            frame, got = manager.read(answer)
            assert got.type == REPORT, position
            assert frame.level == 1
    assert agent.agent.counters.internal_errors == 0


@pytest.mark.parametrize("size", [0, 1, 12, 23, 25, 64])
def test_digests_of_another_length(tmp_path: Path, size: int) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 2)
    _, position, end = messages.version(manager.message(ASK))
    message = manager.message(ASK)
    frame = messages.parse_v3(message, position, end)
    parameters = b"".join(
        (
            ber.tlv(4, frame.engine_id),
            ber.integer(frame.boots),
            ber.integer(frame.time),
            ber.tlv(4, frame.user),
            ber.tlv(4, (frame.auth * 3)[:size]),
            ber.tlv(4, b""),
        )
    )
    head = messages.v3_header(frame.message_id, 65507, frame.flags)
    scoped = ber.tlv(0x30, message[frame.data : frame.end])
    forged = ber.tlv(0x30, head + ber.tlv(4, ber.tlv(0x30, parameters)) + scoped)
    _, oid = report(agent, forged, manager)
    assert oid == usm.WRONG_DIGESTS


@pytest.mark.parametrize(
    ("seconds", "good"), [(0, True), (140, True), (-140, True), (155, False), (-155, False)]
)
def test_the_time_window(tmp_path: Path, seconds: int, good: bool) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 3)
    manager.usm._started -= 200
    message = altered(manager, _started=manager.usm._started - seconds)
    if good:
        assert manager.read(agent.ask(message))[1].type == RESPONSE
    else:
        frame, oid = report(agent, message, manager)
        assert (oid, frame.level) == (usm.NOT_IN_TIME_WINDOWS, 2)
        assert len(frame.auth) == 24


def test_boots_of_another_life(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 3)
    assert report(agent, altered(manager, boots=7), manager)[1] == usm.NOT_IN_TIME_WINDOWS
    # at the maximum nothing is authentic any more
    message = altered(manager, boots=MAX_BOOTS)
    manager.usm.boots = MAX_BOOTS
    answer = agent.ask(message)
    manager.usm.boots = 1
    assert answer is not None
    assert b"\x06\x0a" + ber.oid_content(usm.NOT_IN_TIME_WINDOWS) in answer


def test_contexts(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 3)
    frame, oid = report(agent, manager.message(ASK, b"elsewhere"), manager)
    assert (oid, frame.level) == ((1, 3, 6, 1, 6, 3, 12, 1, 5, 0), 3)
    frame, oid = report(agent, manager.message(request(0xA3, [scalar("sSlow")]), b"elsewhere"), manager)
    assert (oid, frame.level) == ((1, 3, 6, 1, 6, 3, 12, 1, 5, 0), 3)
    assert counters(agent) == {"unknown_contexts": 2}


def test_pdus_that_nobody_handles(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 3)
    for kind in (0xA2, 0xA7, 0xA8):
        assert agent.ask(manager.message(b"%c" % kind + ASK[1:])) is None
    # an inform is of the confirmed class: its sender is told (RFC 3412 section 4.2.2.1)
    frame, got = manager.read(agent.ask(manager.message(b"\xa6" + ASK[1:])))
    assert (frame.flags, got.type, got.request_id) == (3, 0xA8, 1234)
    assert got.varbinds == [((1, 3, 6, 1, 6, 3, 11, 2, 1, 3, 0), 0x41, b"\x02")]
    assert counters(agent) == {"unknown_pdu_handlers": 2, "unexpected_answers": 2}
    assert agent.ask(manager.message(b"\xa4" + ASK[1:])) is None
    assert counters(agent) == {"unknown_pdu_handlers": 2, "unexpected_answers": 2, "in_asn_parse_errs": 1}


def test_security_models_and_flags(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 3)
    message = manager.message(ASK)
    assert agent.ask(manager.resign(message, 0x06)) is None
    # the flags decide before msgData is looked at
    plain = Manager(agent, "anybody", 1)
    assert agent.ask(plain.resign(plain.message(ASK), 0x06)) is None
    other = message.replace(b"\x04\x01\x07\x02\x01\x03", b"\x04\x01\x07\x02\x01\x04", 1)
    assert agent.ask(other) is None
    assert counters(agent) == {"invalid_msgs": 2, "unknown_security_models": 1}


def test_a_manager_that_takes_less_than_it_must(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    # RFC 3412 section 6: msgMaxSize is 484 to 2^31-1
    message = Manager(agent, "anybody", 1, 484).message(request(GET, [(1, 3, 6, 1, 2, 1, 1, 5, 0)]))
    assert message.count(b"\x02\x02\x01\xe4") == 1
    for size, good in ((b"\x01\xe4", True), (b"\x01\xe3", False), (b"\0\0", False), (b"\xff\xff", False)):
        answer = agent.ask(message.replace(b"\x02\x02\x01\xe4", b"\x02\x02" + size))
        assert (answer is not None) == good, size
    assert counters(agent) == {"in_asn_parse_errs": 3}


@pytest.mark.parametrize(("user", "level"), LEVELS[:5])
@pytest.mark.parametrize("size", [484, 600, 1400, 2048])
def test_answers_fit_the_manager(tmp_path: Path, user: str, level: int, size: int) -> None:
    agent = offline(tmp_path, 600)
    text = agent.agent
    text._responder.access._members[3, "anybody"] = "signers"
    text._responder.access._access = tuple(
        type(row)(row.group, row.model, 1, read="all", write="all") for row in text._responder.access._access
    )
    text._responder.access._decided.clear()
    manager = Manager(agent, user, level, size)
    answer = agent.ask(manager.message(request(GETBULK, [column("tText")], second=10_000)))
    assert answer is not None
    assert size - 45 < len(answer) <= size
    _, got = manager.read(answer)
    assert [name[-1] for name, _, _ in got.varbinds] == list(range(1, len(got.varbinds) + 1))
    agent.agent.model.scalars["sBig"] = b"x" * size
    _, got = manager.read(agent.ask(manager.message(request(GET, [scalar("sBig")]))))
    assert (got.status, got.varbinds) == (1, [])


def test_salts_never_repeat(tmp_path: Path) -> None:
    agent = offline(tmp_path)
    manager = Manager(agent, "operator", 3)
    salts = [manager.read(agent.ask(manager.message(ASK)))[0].priv for _ in range(50)]
    assert len(set(salts)) == 50


def test_no_secret_reaches_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        agent = offline(tmp_path)
        manager = Manager(agent, "operator", 3)
        right = manager.user
        manager.read(agent.ask(manager.message(ASK)))
        agent.ask(
            altered(manager, user=usm.LocalUser(b"operator", "SHA-256", "AES-128", bytes(32), bytes(16)))
        )
        agent.ask(v2c(ASK, b"topsecret"))
        agent.ask(v2c(ASK, b"elsewhere"))
    text = caplog.text + repr(agent.agent.config) + repr(vars(agent.agent.usm))
    for secret in (
        b"authpassword",
        b"privpassword",
        b"topsecret",
        b"elsewhere",
        right.auth_key,
        right.priv_key,
    ):
        for shown in (secret.hex(), repr(secret)[2:-1]):
            assert shown not in text


def test_nothing_is_kept_outside_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    offline(tmp_path / "state")
    assert list(temporary.iterdir()) == []


def test_engine_time_goes_on_in_suspend_and_heeds_no_clock_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = offline(tmp_path)
    assert agent.agent.usm is not None
    started = agent.agent.usm._started
    asked: list[int] = []

    def clock(which: int) -> float:
        asked.append(which)
        return started + 4000.9

    monkeypatch.setattr(time, "clock_gettime", clock)
    assert agent.agent.usm.engine_time == 4000
    # counts on while the machine sleeps, and nobody can set it
    assert set(asked) == {time.CLOCK_BOOTTIME}

"""What the SNMP fuzzers call: one input into the decoders and both paths of an agent, with everything checked.

The first octet of an input says how the rest gets there, so that the fuzzer need not guess digests:

    0  a datagram as it is
    1  a PDU under a community in version 1          2  the same in version 2c
    3  a PDU of a noAuthNoPriv user                  4  authNoPriv              5  authPriv
    6  a ScopedPDU's contents under authPriv         7  the decoders below, one after the other
    8  a v3 message whose digest is made right
    9  an octet that chooses a teacher and how, then a PDU or message: the teacher's is sent twice before it, so that
       the fast path knows messages that are like the teacher's
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smi_support import CONFIG, ROOT, Manager, Offline, TestModel, request, rows

from agent.engine import messages
from agent.engine import pdu as pdus
from agent.engine import usm as usm_module
from agent.engine import usm_crypto as crypto
from agent.engine.agent import SnmpAgent
from agent.engine.messages import V3Frame
from agent.engine.transport import Peer
from agent.engine.usm import Rejected
from agent.smi import ber
from agent.smi.rowstatus import TestAndIncr

MODES = 10
SLOW = 1.0
"""Seconds of processor time that one input may take; the largest answers take a hundredth of that."""
ENGINE_ID = bytes.fromhex("80007ed905666f7220667a")
NOW = 1000
PEER = Peer(("127.0.0.1", 40000), 0)
# which of these may stay without an answer is for the table of rules to say; here each dropped datagram is counted
DROPS = [
    "in_asn_parse_errs",
    "in_bad_versions",
    "in_bad_community_names",
    "silent_drops",
    "unknown_security_models",
    "invalid_msgs",
    "unknown_pdu_handlers",
    "usm_unknown_engine_ids",
    "usm_unknown_user_names",
    "usm_unsupported_sec_levels",
    "usm_wrong_digests",
    "usm_not_in_time_windows",
    "usm_decryption_errors",
    "unexpected_answers",
    "sets_replayed",
]


COLUMN = (*ROOT, 2, 1, 2)
TEACHERS = (
    request(pdus.GET, [(*COLUMN, 3)], request_id=0x12345678),
    request(pdus.GET, [(*COLUMN, 3), (*COLUMN, 5), (*ROOT, 2, 1, 9, 3)], request_id=0x12345678),
    request(pdus.GETNEXT, [(*COLUMN, 3)], request_id=0x12345678),
    request(pdus.GETBULK, [(*COLUMN, 3)], second=7, request_id=0x12345678),
    request(pdus.GETBULK, [(*ROOT, 2, 1, 9, 3)], second=300, request_id=0x12345678),
    request(pdus.GET, [(*ROOT, 2, 1, 7, 1), (*COLUMN, 200)], request_id=0x12345678),
)
"""PDUs with a request-id of four octets, as most managers send them."""


class Finding(AssertionError):
    """What the fuzzer looks for."""


class Target:
    """An agent whose engine ID, boots, time and salt are always the same, so that inputs can be kept."""

    def __init__(self, folder: Path) -> None:
        logging.disable(logging.CRITICAL)
        # sysUpTime must be the same for both paths
        self._up_time = SnmpAgent.up_time
        SnmpAgent.up_time = property(lambda agent: 4711)  # type: ignore[assignment,method-assign]
        self._clock = usm_module._clock
        text = CONFIG.replace("[agent]", f'[agent]\nengine_id = "{ENGINE_ID.hex()}"', 1)
        self.model = TestModel(rows=rows(12))
        self.offline = Offline(folder, self.model, text)
        self.agent = self.offline.agent
        assert self.agent.usm is not None
        self.usm = self.agent.usm
        self.dispatcher = self.offline.dispatcher
        usm_module._clock = lambda: 0.0
        self.usm._started = -float(NOW)
        self.loop = asyncio.new_event_loop()
        self.dispatcher.sets._start = self._start  # type: ignore[method-assign]
        # nothing here waits for anybody
        self.agent._responder.set_timeout = 0.05
        self.managers = {
            1: Manager(self.offline, "anybody", 1),
            2: Manager(self.offline, "signer", 2),
            3: Manager(self.offline, "operator", 3),
        }
        self.answered = 0
        self.compared = 0

    def close(self) -> None:
        self.loop.close()
        asyncio.run(self.agent.stop())
        SnmpAgent.up_time = self._up_time  # type: ignore[method-assign]
        usm_module._clock = self._clock
        logging.disable(logging.NOTSET)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    def one(self, data: bytes) -> None:
        """One input. Raises Finding, or whatever escaped."""
        if not data:
            return
        begun = time.process_time()
        mode, rest = data[0] % MODES, data[1:]
        if mode == 7:
            decoders(rest)
        elif mode == 9:
            self._taught(rest)
        else:
            self._ask(self.datagram(mode, rest))
        spent = time.process_time() - begun
        if spent > SLOW:
            raise Finding(f"{spent:.2f} s")

    def datagram(self, mode: int, rest: bytes) -> bytes:
        """The datagram that an input stands for."""
        self._rewind()
        if mode in (1, 2):
            # "writer" reads and writes
            return messages.community_message(mode - 1, b"writer", rest)
        if mode in (3, 4, 5):
            return self._message(self.managers[mode - 2], b"", rest)
        if mode == 6:
            manager = self.managers[3]
            frame = V3Frame(77, 65507, 0, 3)
            sealed = self.usm.seal(frame, manager.user, 3, ENGINE_ID, b"", rest)
            # the ScopedPDU is the input's own: the head that seal has put before it goes
            head = messages.scoped_head(ENGINE_ID, b"")
            plain = self._plain(sealed)
            _, start, end = ber.read(plain, 0, len(plain))
            if plain[start:end].startswith(head):
                plain = ber.tlv(ber.SEQUENCE, plain[start + len(head) : end])
            return manager.resign(self._sealed(sealed, plain), 7)
        if mode == 8:
            return self._signed(rest)
        return rest

    def _taught(self, rest: bytes) -> None:
        if not rest:
            return
        number, how = divmod(rest[0], 4)
        mode = (2, 1, 5, 8)[how]
        teacher = TEACHERS[number % len(TEACHERS)]
        if mode == 8:
            teacher = unsigned(teacher)
        for part in (teacher, teacher, rest[1:]):
            self._ask(self.datagram(mode, part))

    def _message(self, manager: Manager, context: bytes, pdu: bytes) -> bytes:
        """Like Manager.message, for a PDU that need not be one."""
        frame = V3Frame(77, 65507, 0, 3)
        level = manager.level
        sealed = self.usm.seal(frame, manager.user, level, ENGINE_ID, context, pdu)
        flags = (0, 0, 1, 3)[level]
        at = sealed.index(bytes((4, 1, flags, 2, 1, 3))) + 2
        return self._signed(sealed[:at] + bytes((flags | 4,)) + sealed[at + 1 :])

    def _signed(self, message: bytes) -> bytes:
        """With the digest put right, when it is a message of somebody with a key."""
        try:
            _, position, end = messages.version(message)
            frame = messages.parse_v3(message, position, end)
        except ber.BerError:
            frame = _lenient(message)
            if frame is None:
                return message
        user = self.usm.users.get(frame.user)
        if user is None or not user.auth or not frame.auth_at:
            return message
        name, size = crypto.AUTH[user.auth]
        if len(frame.auth) != size:
            return message
        blank = message[: frame.auth_at] + bytes(size) + message[frame.auth_at + size :]
        digest = hmac.digest(user.auth_key, blank, name)[:size]
        return blank[: frame.auth_at] + digest + blank[frame.auth_at + size :]

    def _plain(self, sealed: bytes) -> bytes:
        _, position, end = messages.version(sealed)
        frame = messages.parse_v3(sealed, position, end)
        return self._cipher(frame, sealed[frame.data : frame.end], False)

    def _sealed(self, like: bytes, plain: bytes) -> bytes:
        """The message `like` with other plaintext in it."""
        _, position, end = messages.version(like)
        frame = messages.parse_v3(like, position, end)
        secret = ber.tlv(ber.OCTET_STRING, self._cipher(frame, plain, True))
        start, _ = ber.expect(like, 0, len(like), ber.SEQUENCE)
        before = (
            frame.data
            - len(ber.tlv(ber.OCTET_STRING, bytes(frame.end - frame.data)))
            + (frame.end - frame.data)
        )
        return ber.tlv(ber.SEQUENCE, like[start:before] + secret)

    def _cipher(self, frame: V3Frame, data: bytes, seal: bool) -> bytes:
        user = self.managers[3].user
        if seal:
            return crypto.encrypt(user, frame.boots, frame.time, frame.priv, data)[0]
        return crypto.decrypt(user, frame.boots, frame.time, frame.priv, data)

    def _rewind(self) -> None:
        usm = self.usm
        usm.boots = 1
        usm._salt = 1 << 32

    def _restore(self) -> None:
        """What SETs may have changed is as it was."""
        if self.model.commits or self.model.stored:
            self.model.commits.clear()
            self.model.stored.clear()
            self.model.scalars = {"sLimited": 3, "sShort": b"ab", "sReadOnly": 5}
            self.model.rows[:] = rows(12)
            self.model.spin = TestAndIncr(7) if self.model.spin.value != 7 else self.model.spin
            self.model.stamp += 1

    def _ask(self, datagram: bytes) -> None:
        if len(datagram) > 65507:
            return
        counters = self.agent.counters
        self._restore()
        fast = self._fast(datagram)
        again = self._fast(datagram)
        if fast is not None and again is not None and fast != again:
            raise Finding(f"fast answers twice in two ways: {fast.hex()[:400]} {again.hex()[:400]}")
        self._rewind()
        before = asdict(counters)
        smi = (
            self.agent.controller.counters.getter_errors,
            self.agent.controller.counters.values_outside_syntax,
        )
        self.offline.transport.sent.clear()
        self.dispatcher.receive(datagram, PEER)
        sent = self.offline.transport.sent
        after = asdict(counters)
        if after["internal_errors"] != before["internal_errors"]:
            raise Finding("internal error")
        if smi != (
            self.agent.controller.counters.getter_errors,
            self.agent.controller.counters.values_outside_syntax,
        ):
            raise Finding("a getter failed")
        if len(sent) > 1:
            raise Finding("more than one answer")
        dropped = sum(after[name] - before[name] for name in DROPS)
        if after["in_pkts"] - before["in_pkts"] != 1:
            raise Finding("not counted once")
        if not sent and dropped != 1:
            raise Finding(f"no answer, and {dropped} drops counted")
        if dropped > 1:
            raise Finding(f"{dropped} drops counted")
        if sent:
            self.answered += 1
            check_answer(sent[0])
        fast = again if fast is None else fast
        if fast is not None:
            self.compared += 1
            plain = sent[0] if sent else b""
            if plain != fast:
                pairs = zip(plain, fast, strict=False)
                at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(plain), len(fast)))
                raise Finding(
                    f"fast and plain disagree at {at} of {len(plain)} and {len(fast)} octets: "
                    f"plain {plain[max(0, at - 20) : at + 20].hex()} fast {fast[max(0, at - 20) : at + 20].hex()}"
                )

    def _fast(self, datagram: bytes) -> bytes | None:
        path = self.agent.fast
        if path is None:
            return None
        self._rewind()
        before = asdict(self.agent.counters)
        answer: bytes | None = path.answer(datagram, PEER.address)
        moved = {n for n, value in asdict(self.agent.counters).items() if value != before[n]}
        if answer is None and moved:
            raise Finding(f"fast did not answer and counted {moved}")
        if answer is not None and moved - {"in_pkts", "silent_drops"}:
            raise Finding(f"fast answered and counted {moved}")
        for name, value in before.items():
            setattr(self.agent.counters, name, value)
        return answer


def unsigned(pdu: bytes, message_id: int = 0x11223344) -> bytes:
    """A message of the user "signer", whose digest is still to be made."""
    parts = [ber.tlv(ber.OCTET_STRING, part) for part in (ENGINE_ID, b"signer", bytes(16), b"")]
    parameters = ber.tlv(ber.SEQUENCE, parts[0] + ber.integer(1) + ber.integer(NOW) + b"".join(parts[1:]))
    scoped = ber.tlv(ber.SEQUENCE, messages.scoped_head(ENGINE_ID, b"") + pdu)
    head = messages.v3_header(message_id, 65507, 5)
    return ber.tlv(ber.SEQUENCE, head + ber.tlv(ber.OCTET_STRING, parameters) + scoped)


def _lenient(message: bytes) -> V3Frame | None:
    """User and digest of a message whose header is well-formed, whatever is inside."""
    try:
        start, end = ber.expect(message, 0, len(message), ber.SEQUENCE)
        _, last = ber.expect(message, start, end, ber.INTEGER)
        _, last = ber.expect(message, last, end, ber.SEQUENCE)
        first, last = ber.expect(message, last, end, ber.OCTET_STRING)
        engine_id, boots, seconds, user, auth, auth_at, priv = messages._usm_parameters(message, first, last)
    except ber.BerError:
        return None
    return V3Frame(0, 484, 0, 3, engine_id, boots, seconds, user, auth, auth_at, priv)


def check_answer(message: bytes) -> None:
    """An answer is well-formed to its last octet, in the shortest form, and says no more than it may."""
    try:
        number, position, end = messages.version(message)
        if number == messages.V3:
            frame = messages.parse_v3(message, position, end)
            if frame.flags & 4 or frame.engine_id != ENGINE_ID:
                raise Finding("an answer that asks for Reports, or of another engine")
            if not frame.pdu_type:
                return
            scoped = messages.parse_scoped(message, frame.data, frame.end)
            pdu = pdus.parse(message, scoped.pdu, scoped.end)
        else:
            parsed = messages.parse_community(message, number, position, end)
            pdu = pdus.parse(message, parsed.pdu, parsed.end)
    except ber.BerError as error:
        raise Finding(f"malformed answer: {error}") from error
    if pdu.type not in (pdus.RESPONSE, pdus.REPORT):
        raise Finding(f"a PDU of type {pdu.type:02x} as an answer")


def decoders(data: bytes) -> None:
    """Each decoder by itself on octets that nothing has checked before. BerError is the one thing it may raise."""
    end = len(data)
    for work in (
        lambda: ber.read(data, 0, end),
        lambda: ber.parse_oid(data),
        lambda: ber.parse_integer(data),
        lambda: ber.parse_unsigned(data, 64),
        lambda: ber.check_value(data[0], data[1:]) if data else None,
        lambda: messages.version(data),
        lambda: messages.parse_community(data, 1, 0, end),
        lambda: messages.parse_v3(data, 0, end),
        lambda: messages.parse_scoped(data, 0, end),
        lambda: messages._usm_parameters(data, 0, end),
        lambda: pdus.parse(data, 0, end),
    ):
        try:
            work()
        except (ber.BerError, Rejected):
            continue
    # what is read is what is written
    try:
        oid = ber.parse_oid(data)
    except ber.BerError:
        return
    if ber.oid_content(oid) != data:
        raise Finding(f"{data.hex()} reads as {oid}, which writes as {ber.oid_content(oid).hex()}")

"""The engine by the RFCs, a row for each rule: what is sent, what comes back, and every counter that moves.

A row's message is made by a function of the agent; the answer is compared whole, as far as a rule speaks of it, and
the counters must have moved as the row says and not otherwise.
"""

# ruff: noqa: E501

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
from smi_support import PEER, Answer, Manager, Offline, TestModel, answer, request, rows, unwrap, v2c
from test_smi_controller import column, scalar

from agent.engine import messages
from agent.engine.counters import EngineCounters
from agent.engine.messages import V3Frame
from agent.engine.pdu import GET, GETBULK, GETNEXT, INFORM, REPORT, RESPONSE, SET, TRAP, V1_TRAP
from agent.engine.transport import Peer
from agent.smi import ErrorStatus, ber

NAME = scalar("sReadOnly")
BIG = scalar("sBig")
C64 = column("tCounter64", 1)
ASK = request(GET, [NAME])
NULL = ber.NULL_VALUE
USM_STATS = (1, 3, 6, 1, 6, 3, 15, 1, 1)
MPD_STATS = (1, 3, 6, 1, 6, 3, 11, 2, 1)
UNKNOWN_CONTEXTS = (1, 3, 6, 1, 6, 3, 12, 1, 5, 0)
FAR = Peer(("198.51.100.9", 1000), 0)


@dataclass(frozen=True)
class Got:
    """What came back. `flags`, `context` and `engine` are of SNMPv3 only; None in a row: not spoken of."""

    type: int
    status: int = 0
    index: int = 0
    varbinds: tuple[tuple[ber.Oid, int], ...] | None = None
    request_id: int = 1234
    message_id: int | None = None
    flags: int | None = None
    context: bytes | None = None
    value: int | None = None


@dataclass(frozen=True)
class Row:
    """One rule. `make`: the datagram."""

    rule: str
    make: Callable[[Offline], bytes]
    got: Got | None
    counted: dict[str, int]
    peer: Peer = PEER


def ask(
    user: str,
    level: int,
    pdu: bytes = ASK,
    *,
    context: bytes = b"",
    reportable: bool = True,
    size: int = 65507,
    **changes: object,
) -> Callable[[Offline], bytes]:
    """A message of a user. `changes`: fields of the frame and the ScopedPDU to be other than right."""

    def make(agent: Offline) -> bytes:
        manager = Manager(agent, user, level, size)
        manager.message_id = 76
        if not changes:
            return manager.message(pdu, context, reportable)
        return forged(agent, manager, pdu, context, reportable, changes)

    return make


def forged(
    agent: Offline,
    manager: Manager,
    pdu: bytes,
    context: bytes,
    reportable: bool,
    changes: dict[str, object],
) -> bytes:
    usm = manager.usm
    manager.message_id += 1
    kept = (usm.engine_id, usm.boots, usm._started, usm.max_size, manager.user)
    context_engine = changes.get("context_engine", usm.engine_id)
    try:
        usm.engine_id = changes.get("engine", usm.engine_id)  # type: ignore[assignment]
        usm.boots += int(changes.get("boots", 0))  # type: ignore[call-overload]
        usm._started -= int(changes.get("late", 0))  # type: ignore[call-overload]
        usm.max_size = manager.max_size
        user = replace(
            manager.user,
            name=changes.get("name", manager.user.name),
            auth_key=changes.get("auth_key", manager.user.auth_key),
            priv_key=changes.get("priv_key", manager.user.priv_key),
            auth=changes.get("auth", manager.user.auth),
            priv=changes.get("priv", manager.user.priv),
        )
        manager.user = user
        frame = V3Frame(manager.message_id, manager.max_size, 0, 3)
        sealed = usm.seal(frame, user, manager.level, context_engine, context, pdu)  # type: ignore[arg-type]
        flags = (0, 0, 1, 3)[manager.level] | (4 if reportable else 0) | int(changes.get("flags", 0))  # type: ignore[call-overload]
        return manager.resign(sealed, flags)
    finally:
        usm.engine_id, usm.boots, usm._started, usm.max_size, manager.user = kept


def plain(
    user: bytes, flags: int, data: bytes, engine: bytes | None = None, **parts: bytes
) -> Callable[[Offline], bytes]:
    """A v3 message that nobody has signed; `data` is msgData whole."""

    def make(agent: Offline) -> bytes:
        assert agent.agent.usm is not None
        usm = agent.agent.usm
        engine_id = usm.engine_id if engine is None else engine
        fields = (
            ber.tlv(4, part) for part in (engine_id, user, parts.get("auth", b""), parts.get("priv", b""))
        )
        first, *rest = fields
        clock = ber.integer(usm.boots) + ber.integer(usm.engine_time)
        security = ber.tlv(4, ber.tlv(0x30, first + clock + b"".join(rest)) + parts.get("after", b""))
        return ber.tlv(0x30, messages.v3_header(77, 65507, flags) + security + data)

    return make


def scoped(pdu: bytes, context: bytes = b"", engine: bytes = b"") -> bytes:
    return ber.tlv(0x30, ber.tlv(4, engine) + ber.tlv(4, context) + pdu)


def report(oid: ber.Oid, request_id: int = 1234, flags: int = 0, context: bytes = b"") -> Got:
    return Got(REPORT, 0, 0, ((oid, 0x41),), request_id, 77, flags, context, 1)


def community(pdu: bytes, version: int = 1, name: bytes = b"reader") -> Callable[[Offline], bytes]:
    return lambda agent: v2c(pdu, name, version)


def replaced(make: Callable[[Offline], bytes], old: bytes, new: bytes) -> Callable[[Offline], bytes]:
    def change(agent: Offline) -> bytes:
        message = make(agent)
        assert message.count(old) == 1, message.count(old)
        return message.replace(old, new)

    return change


def rewrapped(make: Callable[[Offline], bytes], old: bytes, new: bytes) -> Callable[[Offline], bytes]:
    """Like `replaced`, for a change of size inside the message."""

    def change(agent: Offline) -> bytes:
        message = make(agent)
        start, _ = ber.expect(message, 0, len(message), ber.SEQUENCE)
        assert message.count(old) == 1
        return ber.tlv(ber.SEQUENCE, message[start:].replace(old, new))

    return change


def fixed(data: bytes) -> Callable[[Offline], bytes]:
    return lambda agent: data


def pdu_of(kind: int, *names: ber.Oid, first: int = 0, second: int = 0) -> bytes:
    return request(kind, names, first=first, second=second)


def write(*pairs: tuple[ber.Oid, bytes]) -> bytes:
    return request(SET, [name for name, _ in pairs], values=[value for _, value in pairs])


def echoed(*names: ber.Oid) -> tuple[tuple[ber.Oid, int], ...]:
    return tuple((name, 5) for name in names)


ONE = ((NAME, 2),)
ASN = {"in_asn_parse_errs": 1}
HEADER = b"\x02\x01\x4d\x02\x03\x00\xff\xe3\x04\x01"

# A row a line: the table is read, not the code of it.
# fmt: off
ROWS = [
    # -- RFC 3412 section 4.2.1, 7.2: any message -------------------------------------------------------------
    Row("3412 4.2.1: version 2 (SNMPv2u) is none of ours", community(ASK, 2), None, {"in_bad_versions": 1}),
    Row("3412 4.2.1: version 4 is none of ours", community(ASK, 4), None, {"in_bad_versions": 1}),
    Row("3412 4.2.1: no version can be read", fixed(b"\x30\x02\x04\x00"), None, ASN),
    Row("3412 4.2.1: nothing at all", fixed(b""), None, ASN),
    Row("3417 8: a length in the longer form", replaced(community(ASK), b"\x30\x2c\x02\x01\x01", b"\x30\x82\x00\x2c\x02\x01\x01"), Got(RESPONSE, varbinds=ONE), {}),
    Row("3417 8: no indefinite length", replaced(community(ASK), b"\x30\x2c\x02\x01\x01", b"\x30\x80\x02\x01\x01"), None, ASN),
    # -- communities: RFC 1157, RFC 1901, RFC 3584 ----------------------------------------------------------------
    Row("3584 5.2.1: a community that nobody has", community(ASK, 1, b"nobody"), None, {"in_bad_community_names": 1}),
    Row("3584 5.2.1: a community from where it may not come", community(ASK), None, {"in_bad_community_names": 1}, FAR),
    Row("3418 snmpInBadCommunityUses: a community that may not write", community(write((NAME, ber.integer(1)))), Got(RESPONSE, ErrorStatus.authorizationError, 0, ONE), {"in_bad_community_uses": 1}),
    Row("3584 4.4: the same in version 1 is noSuchName", community(write((NAME, ber.integer(1))), 0), Got(RESPONSE, ErrorStatus.noSuchName, 1, ONE), {"in_bad_community_uses": 1}),
    Row("1157: version 1 has no GetBulk", community(pdu_of(GETBULK, NAME), 0), None, ASN),
    Row("1157: version 1 has no InformRequest", community(request(INFORM, [NAME]), 0), None, ASN),
    Row("3416 3: version 2c has no Trap-PDU of version 1", community(request(V1_TRAP, [NAME])), None, ASN),
    Row("3416 3: nobody sends Reports under a community", community(request(REPORT, [NAME])), None, ASN),
    Row("3416 3: a PDU type that is none", community(request(0xA9, [NAME])), None, ASN),
    Row("3412 4.2.2.1: no application takes traps", community(request(TRAP, [NAME])), None, {"unknown_pdu_handlers": 1}),
    Row("3412 4.2.2.1: no application takes informs", community(request(INFORM, [NAME])), None, {"unknown_pdu_handlers": 1}),
    Row("3412 4.2.2.1: no application takes version 1's traps", community(request(V1_TRAP, [NAME]), 0), None, {"unknown_pdu_handlers": 1}),
    Row("3412 4.2.2.2: a Response that nobody waits for", community(request(RESPONSE, [NAME])), None, {"unexpected_answers": 1}),
    Row("1157 4.1.1: octets after the message", fixed(v2c(ASK) + b"\0"), None, ASN),
    Row("3416 3: a varbind whose value is no type of SMIv2", community(request(GET, [NAME], values=[b"\x45\x00"])), None, ASN),
    Row("3416 3: a name of 129 sub-identifiers", replaced(community(pdu_of(GET, (1, 3, *[1] * 126))), b"\x06\x7f\x2b" + b"\x01" * 126, b"\x06\x81\x80\x2b" + b"\x01" * 127), None, ASN),
    # -- RFC 3416 section 4.2: GetRequest ----------------------------------------------------------------------
    Row("3416 4.2.1: values in the order of the request", community(pdu_of(GET, C64, NAME)), Got(RESPONSE, varbinds=((C64, 0x46), (NAME, 2))), {}),
    Row("3416 4.2.1 (2): no such object", community(pdu_of(GET, NAME, (1, 3, 9))), Got(RESPONSE, varbinds=((NAME, 2), ((1, 3, 9), 0x80))), {}),
    Row("3416 4.2.1 (3): no such instance", community(pdu_of(GET, column("tInteger", 99))), Got(RESPONSE, varbinds=((column("tInteger", 99), 0x81),)), {}),
    Row("3416 4.2.1: an object without an instance", community(pdu_of(GET, scalar("sAbsent"))), Got(RESPONSE, varbinds=((scalar("sAbsent"), 0x81),)), {}),
    Row("3416 4.2.1: no varbinds, no values", community(pdu_of(GET)), Got(RESPONSE, varbinds=()), {}),
    Row("3416 4.2.1: error-status and error-index of a request are not looked at", community(pdu_of(GET, NAME, first=5, second=99)), Got(RESPONSE, varbinds=ONE), {}),
    Row("3416 4.2.1: a value in a GetRequest is not looked at", community(request(GET, [NAME], values=[ber.integer(99)])), Got(RESPONSE, varbinds=ONE), {}),
    Row("3416 4.2.1: tooBig has no varbinds", community(pdu_of(GET, NAME, BIG)), Got(RESPONSE, ErrorStatus.tooBig, 0, ()), {}),
    Row("1157 4.1.2 (4): version 1's tooBig repeats the request", community(pdu_of(GET, NAME, BIG), 0), Got(RESPONSE, ErrorStatus.tooBig, 0, echoed(NAME, BIG)), {}),
    Row("3418 snmpSilentDrops: not even the error fits", community(pdu_of(GET, BIG, *[NAME] * 60), 0), None, {"silent_drops": 1}),
    # -- RFC 3584 section 4.2.2: version 1 --------------------------------------------------------------------------
    Row("3584 4.2.2.1: an exception is noSuchName", community(pdu_of(GET, NAME, (1, 3, 9)), 0), Got(RESPONSE, ErrorStatus.noSuchName, 2, echoed(NAME, (1, 3, 9))), {}),
    Row("3584 4.2.2.1: a Counter64 is noSuchName", community(pdu_of(GET, C64), 0), Got(RESPONSE, ErrorStatus.noSuchName, 1, echoed(C64)), {}),
    Row("3584 4.2.2.1: GetNext passes Counter64 over", community(pdu_of(GETNEXT, column("tCounter", 3)), 0), Got(RESPONSE, varbinds=((column("tTicks", 1), 0x43),)), {}),
    Row("3584 4.2.2.1: the end is noSuchName", community(pdu_of(GETNEXT, (2, 9)), 0), Got(RESPONSE, ErrorStatus.noSuchName, 1, echoed((2, 9))), {}),
    Row("1157: a Counter64 in a request of version 1", community(request(SET, [C64], values=[ber.integer(1, ber.COUNTER64)]), 0, b"writer"), None, ASN),
    Row("1157: an exception in a request of version 1", community(request(GET, [NAME], values=[b"\x80\x00"]), 0), None, ASN),
    Row("3416 3: an exception in a request of version 2c is not looked at", community(request(GET, [NAME], values=[b"\x80\x00"])), Got(RESPONSE, varbinds=ONE), {}),
    Row("3584 4.2.3: wrongValue is badValue", community(write((scalar("sLimited"), ber.integer(11))), 0, b"writer"), Got(RESPONSE, ErrorStatus.badValue, 1, ((scalar("sLimited"), 2),)), {}),
    Row("3584 4.2.3: notWritable is noSuchName", community(write((NAME, ber.integer(1))), 0, b"writer"), Got(RESPONSE, ErrorStatus.noSuchName, 1, ONE), {}),
    Row("3584 4.2.3: commitFailed is genErr", community(write((scalar("sFailing"), ber.integer(1))), 0, b"writer"), Got(RESPONSE, ErrorStatus.genErr, 1, ((scalar("sFailing"), 2),)), {}),
    # -- RFC 3416 section 4.2.2, 4.2.3: GetNext and GetBulk ------------------------------------------------------------
    Row("3416 4.2.2: the lexicographic successor", community(pdu_of(GETNEXT, column("tInteger", 1))), Got(RESPONSE, varbinds=((column("tInteger", 2), 2),)), {}),
    Row("3416 4.2.2: the end of the view keeps the name", community(pdu_of(GETNEXT, (2, 9))), Got(RESPONSE, varbinds=(((2, 9), 0x82),)), {}),
    Row("3416 4.2.3: negative numbers are zero", community(pdu_of(GETBULK, NAME, first=-1, second=-1)), Got(RESPONSE, varbinds=()), {}),
    Row("3416 4.2.3: the least of all numbers", community(pdu_of(GETBULK, NAME, first=-(2**31), second=-(2**31))), Got(RESPONSE, varbinds=()), {}),
    Row("3416 4.2.3: non-repeaters beyond the list", community(pdu_of(GETBULK, column("tInteger", 1), first=2**31 - 1, second=7)), Got(RESPONSE, varbinds=((column("tInteger", 2), 2),)), {}),
    Row("3416 4.2.3: repetitions of what has ended may stop", community(pdu_of(GETBULK, (2, 9), second=2**31 - 1)), Got(RESPONSE, varbinds=(((2, 9), 0x82),)), {}),
    Row("3416 4.2.3: no varbinds, none back", community(pdu_of(GETBULK, second=10)), Got(RESPONSE, varbinds=()), {}),
    Row("3416 4.2.3: what does not fit is left out, without an error", community(pdu_of(GETBULK, BIG[:-1], second=3)), Got(RESPONSE, varbinds=()), {}),
    Row("3416 4.2.3: a non-repeater that does not fit ends it", community(pdu_of(GETBULK, NAME[:-1], BIG[:-1], NAME[:-1], first=3)), Got(RESPONSE, varbinds=ONE), {}),
    # -- RFC 3416 section 4.2.5: SetRequest --------------------------------------------------------------------------
    Row("3416 4.2.5: the response is the request's varbinds", community(write((scalar("sLimited"), ber.integer(4))), 1, b"writer"), Got(RESPONSE, 0, 0, ((scalar("sLimited"), 2),)), {}),
    Row("3416 4.2.5 (2): notWritable", community(write((scalar("sLimited"), ber.integer(4)), (NAME, ber.integer(1))), 1, b"writer"), Got(RESPONSE, ErrorStatus.notWritable, 2, ((scalar("sLimited"), 2), (NAME, 2))), {}),
    Row("3416 4.2.5 (3): wrongType", community(write((scalar("sLimited"), NULL)), 1, b"writer"), Got(RESPONSE, ErrorStatus.wrongType, 1, ((scalar("sLimited"), 5),)), {}),
    Row("3416 4.2.5 (4): wrongLength", community(write((scalar("sShort"), ber.tlv(4, b"abcde"))), 1, b"writer"), Got(RESPONSE, ErrorStatus.wrongLength, 1, ((scalar("sShort"), 4),)), {}),
    Row("3416 4.2.5 (6): wrongValue", community(write((scalar("sLimited"), ber.integer(11))), 1, b"writer"), Got(RESPONSE, ErrorStatus.wrongValue, 1, ((scalar("sLimited"), 2),)), {}),
    Row("3416 4.2.5 (7): noCreation", community(write((column("tInteger", 99), ber.integer(1))), 1, b"writer"), Got(RESPONSE, ErrorStatus.noCreation, 1, ((column("tInteger", 99), 2),)), {}),
    Row("3416 4.2.5: commitFailed, and undone", community(write((scalar("sFailing"), ber.integer(1))), 1, b"writer"), Got(RESPONSE, ErrorStatus.commitFailed, 1, ((scalar("sFailing"), 2),)), {}),
    Row("3416 4.2.5: undoFailed has error-index 0", community(write((scalar("sFailing"), ber.integer(13))), 1, b"writer"), Got(RESPONSE, ErrorStatus.undoFailed, 0, ((scalar("sFailing"), 2),)), {}),
    Row("3416 4.2.5: a SetRequest of nothing", community(write(), 1, b"writer"), Got(RESPONSE, varbinds=()), {}),
    # -- RFC 3412 section 7.2: SNMPv3 frames -------------------------------------------------------------------------
    Row("3412 6: an answer carries the message's msgID", ask("operator", 3), Got(RESPONSE, 0, 0, ONE, 1234, 77, 3, b""), {}),
    Row("3412 7.2 (4): a security model that is not there", replaced(ask("anybody", 1), HEADER + b"\x04\x02\x01\x03", HEADER + b"\x04\x02\x01\x04"), None, {"unknown_security_models": 1}),
    Row("3412 7.2 (5d): privacy without authentication", plain(b"operator", 6, ber.tlv(4, b"x" * 30)), None, {"invalid_msgs": 1}),
    Row("3412 6.4: other bits of msgFlags are not looked at", plain(b"anybody", 0xF4, scoped(ASK)), report((*MPD_STATS, 3, 0)), {"unknown_pdu_handlers": 1}),
    Row("3412 6: msgFlags is one octet", rewrapped(ask("anybody", 1), b"\x30\x0e" + HEADER + b"\x04\x02\x01\x03", b"\x30\x0f" + HEADER[:-1] + b"\x02\x04\x04\x02\x01\x03"), None, ASN),
    Row("3412 6.2: msgID is not negative", replaced(ask("anybody", 1), HEADER, b"\x02\x01\xff\x02\x03\x00\xff\xe3\x04\x01"), None, ASN),
    Row("3412 6.3: msgMaxSize below 484", replaced(ask("anybody", 1), HEADER, b"\x02\x01\x4d\x02\x03\x00\x01\xe3\x04\x01"), None, ASN),
    Row("3412 6.3: msgMaxSize of 2^31-1 is believed no further than our own", replaced(ask("anybody", 1, pdu_of(GETBULK, column("tText"), second=1)), HEADER, b"\x02\x01\x4d\x02\x03\x00\xff\xff\x04\x01"), Got(RESPONSE, message_id=77, flags=0), {}),
    Row("3412 6.3: the answer is no larger than msgMaxSize", ask("operator", 3, pdu_of(GET, NAME, scalar("sBig")), size=484), Got(RESPONSE, ErrorStatus.tooBig, 0, (), 1234, 77, 3), {}),
    Row("3412 7.2: plaintext where privFlag says ciphertext", plain(b"operator", 7, scoped(ASK), auth=bytes(24), priv=bytes(8)), None, ASN),
    Row("3412 7.2: ciphertext where privFlag says plaintext", plain(b"operator", 5, ber.tlv(4, bytes(40)), auth=bytes(24)), None, ASN),
    # -- RFC 3412 section 7.2 (11-14), 4.2.2: PDUs under SNMPv3 ---------------------------------------------------------
    Row("3412 4.2.2.1: another contextEngineID", ask("operator", 3, context_engine=b"\x80\0\0\x01\x05other"), report((*MPD_STATS, 3, 0), flags=3), {"unknown_pdu_handlers": 1}),
    Row("3412 4.2.2.1: an inform", ask("operator", 3, request(INFORM, [NAME])), report((*MPD_STATS, 3, 0), flags=3), {"unknown_pdu_handlers": 1}),
    Row("3412 7.1.3: a trap is told nothing", ask("operator", 3, request(TRAP, [NAME]), reportable=False), None, {"unknown_pdu_handlers": 1}),
    Row("3412 7.2 (11): a Response that nobody waits for", ask("operator", 3, request(RESPONSE, [NAME]), reportable=False), None, {"unexpected_answers": 1}),
    Row("3412 7.2 (10): a Report that nobody waits for", ask("operator", 2, request(REPORT, [NAME]), reportable=False), None, {"unexpected_answers": 1}),
    Row("3413 3.2 (5): an unknown context, echoed", ask("operator", 3, context=b"other"), report(UNKNOWN_CONTEXTS, flags=3, context=b"other"), {"unknown_contexts": 1}),
    Row("3411 SnmpAdminString: what can be no context is not echoed", ask("operator", 3, context=b"o" * 33), report(UNKNOWN_CONTEXTS, flags=3), {"unknown_contexts": 1}),
    Row("3413 3.2: a level that no access entry allows", ask("operator", 2), Got(RESPONSE, ErrorStatus.authorizationError, 0, echoed(NAME), 1234, 77, 1, b""), {}),
    Row("3413 3.2: and unauthenticated", ask("operator", 1), Got(RESPONSE, ErrorStatus.authorizationError, 0, echoed(NAME), 1234, 77, 0, b""), {}),
    Row("3413 3.2: reading and no writing", ask("signer", 2, write((scalar("sLimited"), ber.integer(4)))), Got(RESPONSE, ErrorStatus.authorizationError, 0, ((scalar("sLimited"), 2),), 1234, 77, 1), {}),
    Row("3416 4.2.1: outside the view there is no object", ask("anybody", 1), Got(RESPONSE, varbinds=((NAME, 0x80),), message_id=77, flags=0), {}),
    Row("3412 7.2: varbinds that are none", ask("operator", 3, ASK[:-2] + b"\x45\x00"), None, ASN),
    Row("3412 7.2: a PDU type that is none", ask("operator", 3, b"\xaa" + ASK[1:]), None, ASN),
    # -- RFC 3414 section 3.2 ---------------------------------------------------------------------------------------
    Row("3414 3.2 (1): securityParameters that are none", plain(b"operator", 4, scoped(ASK), after=b"\0"), None, ASN),
    Row("3414 3.2 (1): msgUserName of 33 octets", plain(b"u" * 33, 4, scoped(ASK)), None, ASN),
    Row("3414 3.2 (3): another engine", plain(b"operator", 4, scoped(ASK), engine=b"\x80\0\0\x01\x05else"), report((*USM_STATS, 4, 0)), {"usm_unknown_engine_ids": 1}),
    Row("3414 4: discovery with an empty engine ID", plain(b"", 4, scoped(ASK), engine=b""), report((*USM_STATS, 4, 0)), {"usm_unknown_engine_ids": 1}),
    Row("3412 7.1.3: request-id is 0 where it cannot be read", plain(b"operator", 7, ber.tlv(4, bytes(40)), engine=b"\x80\0\0\x01\x05else", auth=bytes(24), priv=bytes(8)), report((*USM_STATS, 4, 0), 0), {"usm_unknown_engine_ids": 1}),
    Row("3412 6.4: reportableFlag counts where the PDU cannot be read", plain(b"operator", 3, ber.tlv(4, bytes(40)), auth=bytes(24), priv=bytes(8)), None, {"usm_wrong_digests": 1}),
    Row("3412 6.4: the class counts where it can, whatever reportableFlag says", plain(b"nobody", 0, scoped(ASK)), report((*USM_STATS, 3, 0)), {"usm_unknown_user_names": 1}),
    Row("3412 6.4: a Response is told nothing even with reportableFlag", plain(b"nobody", 4, scoped(request(RESPONSE, [NAME]))), None, {"usm_unknown_user_names": 1}),
    Row("3414 3.2 (4): an unknown user", plain(b"nobody", 4, scoped(ASK)), report((*USM_STATS, 3, 0)), {"usm_unknown_user_names": 1}),
    Row("3414 3.2 (4): the empty name is none, once the engine is known", plain(b"", 4, scoped(ASK)), report((*USM_STATS, 3, 0)), {"usm_unknown_user_names": 1}),
    Row("a user from where it may not come is unknown there", ask("anybody", 1), report((*USM_STATS, 3, 0)), {"usm_unknown_user_names": 1}, FAR),
    Row("3414 3.2 (5): a level above the user's", ask("signer", 3, priv="AES-128", priv_key=bytes(16)), report((*USM_STATS, 1, 0), 0), {"usm_unsupported_sec_levels": 1}),
    Row("3414 3.2 (6): a wrong digest", ask("operator", 3, auth_key=bytes(32)), report((*USM_STATS, 5, 0), 0), {"usm_wrong_digests": 1}),
    Row("7860 4.2.2: a digest of another length", plain(b"operator", 5, scoped(ASK), auth=bytes(23)), report((*USM_STATS, 5, 0)), {"usm_wrong_digests": 1}),
    Row("7860 4.2.2: no digest at all", plain(b"operator", 5, scoped(ASK)), report((*USM_STATS, 5, 0)), {"usm_wrong_digests": 1}),
    Row("3414 3.2 (7a): 151 seconds late, told under authentication", ask("operator", 3, late=-151), report((*USM_STATS, 2, 0), 0, 1), {"usm_not_in_time_windows": 1}),
    Row("3414 3.2 (7a): 152 seconds early", ask("operator", 2, late=152), report((*USM_STATS, 2, 0), 1234, 1), {"usm_not_in_time_windows": 1}),
    Row("3414 3.2 (7a): another boot", ask("operator", 3, boots=1), report((*USM_STATS, 2, 0), 0, 1), {"usm_not_in_time_windows": 1}),
    Row("3414 3.2 (8): a wrong privacy key", ask("operator", 3, priv_key=bytes(16)), report((*USM_STATS, 6, 0), 0), {"usm_decryption_errors": 1}),
]
# fmt: on


@pytest.fixture
def agent(tmp_path: Path) -> Offline:
    made = Offline(tmp_path, TestModel(rows=rows(3)))
    assert made.agent.usm is not None
    # old enough for messages of the past, and large enough for the header but not for sBig
    made.agent.usm._started -= 1000
    made.agent.usm.max_size = 600
    made.agent.model.scalars["sBig"] = b"x" * 600
    return made


@pytest.mark.parametrize("row", ROWS, ids=[row.rule for row in ROWS])
def test_rule(agent: Offline, row: Row) -> None:
    before = asdict(agent.agent.counters)
    message = row.make(agent)

    async def scenario() -> bytes | None:
        return await agent.ask_set(message, row.peer)

    got = asyncio.run(scenario())
    moved = {name: n - before[name] for name, n in asdict(agent.agent.counters).items() if n != before[name]}
    assert moved == {"in_pkts": 1, **row.counted}
    assert len(agent.transport.sent) <= 1
    if row.got is None:
        assert got is None
        return
    assert got is not None
    assert read(agent, got, row.got) == row.got


def read(agent: Offline, message: bytes, like: Got) -> Got:
    """The answer as a Got, without what `like` leaves open."""
    version, position, end = messages.version(message)
    message_id = flags = context = None
    if version != 3:
        pdu: Answer = unwrap(message)
    else:
        frame = messages.parse_v3(message, position, end)
        # nothing but "operator" and "signer" signs here
        assert agent.agent.usm is not None
        users = agent.agent.usm.users
        flags, message_id = frame.flags, frame.message_id
        octets, parsed = message, None
        if frame.level > 1:
            manager = Manager(agent, frame.user.decode(), frame.level)
            agent.agent.usm._authenticate(message, frame, users[frame.user])
            if frame.level == 3:
                secured = manager.usm._decrypt(message, frame, users[frame.user])
                octets, parsed = secured.octets, secured.scoped
        parsed = parsed or messages.parse_scoped(octets, frame.data, frame.end)
        assert parsed.context_engine_id == agent.agent.usm.engine_id
        assert (frame.engine_id, frame.boots) == (agent.agent.usm.engine_id, agent.agent.usm.boots)
        context = parsed.context
        pdu = answer(octets[parsed.pdu : parsed.end])
    return Got(
        pdu.type,
        pdu.status,
        pdu.index,
        None if like.varbinds is None else tuple((name, tag) for name, tag, _ in pdu.varbinds),
        pdu.request_id,
        message_id if like.message_id is not None else None,
        flags if like.flags is not None else None,
        context if like.context is not None else None,
        ber.parse_unsigned(pdu.varbinds[0][2]) if like.value is not None else None,
    )


def test_every_counter_is_spoken_of() -> None:
    """What no row moves is moved by another test, named here."""
    elsewhere = {
        "in_pkts",  # every row
        "proxy_drops",  # nothing here forwards
        "internal_errors",  # test_engine_mutations
        "set_retransmissions",  # test_engine_responder
        "sets_refused_busy",  # test_engine_responder
        "sets_replayed",  # test_engine_attacks
        "reports_withheld",  # test_engine_floods
        "answers_withheld",  # test_engine_floods
    }
    assert {name for row in ROWS for name in row.counted} | elsewhere >= set(asdict(EngineCounters()))

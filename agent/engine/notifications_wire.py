"""Messages that the agent originates, through pysnmp's dispatcher and message processing models.

pysnmp numbers messages, frames them, and matches answers with what was asked. Its security models are replaced
here behind their interface, and nothing that arrives reaches pysnmp before it is known to be the answer to
something and, where the user has keys, authentic. pysnmp's own models cannot stay: its USM takes the time of
another engine from unauthenticated messages and moves it back for replayed ones, compares digests in variable
time, and remembers the first engine ID that anybody reports for an address for five minutes; a Report that
anybody sends ends what was asked.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyasn1.codec.ber import decoder, encoder
from pysnmp.carrier.base import AbstractTransportDispatcher
from pysnmp.entity.engine import SnmpEngine
from pysnmp.error import PySnmpError
from pysnmp.proto import error, rfc1157, rfc1905
from pysnmp.proto.mpmod.rfc3412 import ScopedPDU
from pysnmp.proto.rfc1902 import OctetString
from pysnmp.proto.secmod.base import AbstractSecurityModel

from agent.engine import messages, usm_crypto
from agent.engine import pdu as pdus
from agent.engine.messages import V1, V2C, V3, V3Frame
from agent.engine.notifications_pdu import INFORM, TRAP_V1, TRAP_V2
from agent.engine.notifications_queue import NotificationCounters
from agent.engine.notifications_session import REPORT_UNKNOWN_ENGINE, Answer, Session, TooLarge
from agent.engine.targets import TRANSPORT_UDP_V6, UDP_V4, Address
from agent.engine.usm import Usm
from agent.engine.usm_crypto import UsmDecryptionError
from agent.smi import ber

log = logging.getLogger(__name__)

SPECS = {
    TRAP_V1: rfc1157.TrapPDU,
    TRAP_V2: rfc1905.SNMPv2TrapPDU,
    INFORM: rfc1905.InformRequestPDU,
    pdus.GET: rfc1905.GetRequestPDU,
}
NEVER = 1 << 30
"""Ticks that pysnmp waits: the originator has timers of its own, in hundredths of a second."""


class NotificationWire:
    """Sends PDUs and takes in answers. `transmit` puts a datagram on its way."""

    def __init__(
        self, usm: Usm, transmit: Callable[[bytes, Address], None], counters: NotificationCounters
    ) -> None:
        self._usm = usm
        self.counters = counters
        self._engine = SnmpEngine(maxMessageSize=usm.max_size)
        (identity,) = self._engine.get_mib_builder().import_symbols("__SNMP-FRAMEWORK-MIB", "snmpEngineID")
        identity.syntax = identity.syntax.clone(OctetString(usm.engine_id))
        self._engine.snmpEngineID = identity.syntax
        self._transport = _Outlet(transmit)
        self._engine.register_transport_dispatcher(self._transport)
        self._engine.security_models = {
            1: _Community(self),
            2: _Community(self),
            3: _Usm(self, usm),
        }
        self.waiting: dict[tuple[bool, int], Session] = {}
        self.max_size = 0
        self._too_large = 0
        self.opened: _Opened | None = None

    def close(self) -> None:
        """Forget what is waited for."""
        for session in list(self.waiting.values()):
            self.forget(session)
        self._engine.unregister_transport_dispatcher()

    def tick(self, now: float) -> None:
        """Once a second: what pysnmp remembers of peers grows old."""
        self._transport.handle_timer_tick(now)

    # -- out ------------------------------------------------------------------------------------------------

    def send(self, session: Session, pdu: bytes, context: str = "", max_size: int = 0) -> int:
        """Make a message of a PDU and transmit it; its size in octets.

        A message of more than `max_size` octets (0: any) is not sent. Raises ValueError with the reason when
        none can be made.
        """
        confirmed = session.answered is not None
        own = OctetString(self._usm.engine_id)
        kind = SPECS[pdu[0]]
        decoded, _ = decoder.decode(pdu, asn1Spec=kind())
        domain = TRANSPORT_UDP_V6 if session.address.is_ipv6 else UDP_V4
        self.max_size = max_size
        self._too_large = 0
        try:
            session.handle = self._engine.message_dispatcher.send_pdu(
                self._engine,
                domain,
                session.address,
                session.version,
                3 if session.version == V3 else session.version + 1,
                session,
                session.level,
                b"" if session.discovers else own,
                context.encode(),
                0 if session.version == V1 else 1,
                decoded,
                confirmed,
                NEVER,
                self._answered,
                session,
            )
        except PySnmpError as problem:
            if self._too_large:
                raise TooLarge(f"{self._too_large} octets") from None
            raise ValueError(f"pysnmp: {type(problem).__name__}") from None
        return session.size

    def sized(self, message: bytes) -> bytes:
        """The message, if its receiver takes it; pysnmp's error else, so that pysnmp forgets it."""
        if len(message) > min(self.max_size or self._usm.max_size, self._usm.max_size):
            self._too_large = len(message)
            raise error.StatusInformation(errorIndication="tooBig")
        return message

    def expect(self, session: Session, message_id: int) -> None:
        """Wait for the answer to a message that is about to be sent."""
        if session.answered is not None:
            session.message_id = message_id
            self.waiting[session.version == V3, message_id] = session

    def forget(self, session: Session) -> None:
        """Wait no longer for an answer: one that comes later is unexpected."""
        if self.waiting.pop((session.version == V3, session.message_id), None) is not None and session.handle:
            self._engine.message_dispatcher.release_state_information(
                self._engine, session.handle, session.version
            )

    # -- in -------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, address: Address) -> None:
        """A datagram from where something was sent. Never raises; what is no answer is counted."""
        try:
            version, position, end = messages.version(data)
            if version == V3:
                frame = messages.parse_v3(data, position, end)
                self.opened = self._open(data, frame, address, time.monotonic())
            elif version == V2C:
                self.opened = self._open_community(data, position, end, address)
            else:
                self.opened = None
        except (ber.BerError, UsmDecryptionError):
            self.opened = None
        if self.opened is None:
            self.counters.unexpected_answers += 1
            return
        session = self.opened.session
        try:
            domain = TRANSPORT_UDP_V6 if address.is_ipv6 else UDP_V4
            self._engine.message_dispatcher.receive_message(self._engine, domain, session.address, data)
        except Exception as problem:
            # pysnmp's decoder is another than ours: whatever it dislikes is no answer
            self.counters.unexpected_answers += 1
            log.debug("answer from %s dropped: %s", address, type(problem).__name__)
        finally:
            self.opened = None

    def _open_community(self, data: bytes, position: int, end: int, address: Address) -> _Opened | None:
        message = messages.parse_community(data, V2C, position, end)
        if message.pdu_type != pdus.RESPONSE:
            return None
        _, start, stop = ber.read(data, message.pdu, message.end)
        first, last = ber.expect(data, start, stop, ber.INTEGER)
        session = self.waiting.get((False, ber.parse_integer(data[first:last])))
        if session is None or not _same_place(session.address, address):
            return None
        if not hmac.compare_digest(message.community, session.community):
            self.counters.forged_answers += 1
            return None
        return _Opened(session, b"", b"")

    def _open(self, data: bytes, frame: V3Frame, address: Address, now: float) -> _Opened | None:
        """What an SNMPv3 message answers, if it does, after all that RFC 3414 section 3.2 asks for."""
        session = self.waiting.get((True, frame.message_id))
        if session is None or not frame.level or not _same_place(session.address, address):
            return None
        if frame.level == 1:
            scoped = data[frame.data : frame.end]
            return self._unauthenticated(session, frame, ber.tlv(ber.SEQUENCE, scoped))
        user, remote = session.user, session.remote
        if user is None or remote is None or frame.engine_id != remote.engine_id or frame.user != user.name:
            return None
        if frame.level > session.level or len(frame.auth) != usm_crypto.auth_size(user):
            return None
        if not usm_crypto.verify(user, data, frame.auth_at, frame.auth):
            self.counters.forged_answers += 1
            return None
        if remote.is_late(frame.boots, frame.time, now):
            # authentic, but of another time: a replay
            self.counters.forged_answers += 1
            return None
        remote.learn(frame.boots, frame.time, now)
        octets = data[frame.data : frame.end]
        if frame.level == 3:
            octets = usm_crypto.decrypt(user, frame.boots, frame.time, frame.priv, octets)
            start, end = ber.expect(octets, 0, len(octets), ber.SEQUENCE)
            octets = octets[start:end]
        inside = messages.parse_scoped(octets, 0, len(octets))
        if inside.pdu_type not in (pdus.RESPONSE, pdus.REPORT):
            return None
        if inside.pdu_type == pdus.RESPONSE and frame.level != session.level:
            return None
        return _Opened(session, frame.engine_id, ber.tlv(ber.SEQUENCE, octets))

    def _unauthenticated(self, session: Session, frame: V3Frame, scoped: bytes) -> _Opened | None:
        """Anybody may have sent it: a Response only counts where nothing else was asked for, of Reports only the
        one that tells an engine ID.
        """
        if frame.pdu_type == pdus.REPORT:
            if 5 <= len(frame.engine_id) <= 32 and _report(scoped) == REPORT_UNKNOWN_ENGINE:
                return _Opened(session, frame.engine_id, scoped)
            return None
        known = session.remote is not None and session.remote.engine_id == frame.engine_id
        if frame.pdu_type != pdus.RESPONSE or session.level > 1 or session.discovers or not known:
            return None
        return _Opened(session, frame.engine_id, scoped)

    def _answered(
        self,
        engine: Any,
        version: Any,
        model: Any,
        name: Any,
        level: Any,
        context_engine_id: Any,
        context: Any,
        pdu_version: Any,
        pdu: Any,
        status: Any,
        handle: Any,
        session: Session,
    ) -> None:
        """pysnmp's processResponsePdu (RFC 3411 section 4.1.4)."""
        opened = self.opened
        self.waiting.pop((session.version == V3, session.message_id), None)
        if opened is None or session.answered is None:
            return
        if status:
            oid = tuple(status["oid"]) if "oid" in status else ()
            session.answered(session, Answer(report=oid, engine_id=opened.engine_id))
        else:
            session.answered(
                session, Answer(status=int(pdu.getComponentByPosition(1)), engine_id=opened.engine_id)
            )


@dataclass(frozen=True, slots=True)
class _Opened:
    """An answer that has passed: `scoped` is the plaintext ScopedPDU of SNMPv3."""

    session: Session
    engine_id: bytes
    scoped: bytes


class _Outlet(AbstractTransportDispatcher):  # type: ignore[misc]
    """The transport as pysnmp sees it."""

    def __init__(self, transmit: Callable[[bytes, Address], None]) -> None:
        super().__init__()
        self.set_timer_resolution(1.0)
        self._transmit = transmit

    def send_message(self, outgoingMessage: Any, transportDomain: Any, transportAddress: Any) -> None:
        """What pysnmp calls for every message that it has made."""
        self._transmit(bytes(outgoingMessage), transportAddress)


class _Community(AbstractSecurityModel):  # type: ignore[misc]
    """The community-based security model towards others (RFC 3584 section 5.2.3)."""

    def __init__(self, wire: NotificationWire) -> None:
        super().__init__()
        self._wire = wire

    def generate_request_message(
        self,
        snmpEngine: Any,
        messageProcessingModel: Any,
        globalData: Any,
        maxMessageSize: Any,
        securityModel: Any,
        securityEngineID: Any,
        securityName: Session,
        securityLevel: Any,
        scopedPDU: Any,
    ) -> tuple[bytes, bytes]:
        session, pdu = securityName, scopedPDU[2]
        message = messages.community_message(
            int(messageProcessingModel), session.community, encoder.encode(pdu)
        )
        session.size = len(self._wire.sized(message))
        if session.answered is not None:
            self._wire.expect(session, int(pdu.getComponentByPosition(0)))
        return b"", message

    def process_incoming_message(
        self,
        snmpEngine: Any,
        messageProcessingModel: Any,
        maxMessageSize: Any,
        securityParameters: Any,
        securityModel: Any,
        securityLevel: Any,
        wholeMsg: Any,
        msg: Any,
    ) -> tuple[Any, ...]:
        opened = self._wire.opened
        if opened is None:
            raise error.StatusInformation(errorIndication="notAnAnswer")
        own = snmpEngine.snmpEngineID
        pdu = msg.getComponentByPosition(2).getComponent()
        return own, opened.session, (own, b"", pdu), maxMessageSize, 0

    def release_state_information(self, stateReference: Any) -> None:
        """Nothing is kept."""


class _Usm(AbstractSecurityModel):  # type: ignore[misc]
    """USM of messages that this agent originates (RFC 3414 sections 3.1 and 3.2)."""

    def __init__(self, wire: NotificationWire, usm: Usm) -> None:
        super().__init__()
        self._wire = wire
        self._usm = usm

    def generate_request_message(
        self,
        snmpEngine: Any,
        messageProcessingModel: Any,
        globalData: Any,
        maxMessageSize: Any,
        securityModel: Any,
        securityEngineID: Any,
        securityName: Session,
        securityLevel: Any,
        scopedPDU: Any,
    ) -> tuple[bytes, bytes]:
        session, header = securityName, globalData.getComponentByPosition(1)
        message_id = int(header.getComponentByPosition(0))
        flags = header.getComponentByPosition(2).asNumbers()[0]
        message = self._seal(session, message_id, flags, encoder.encode(scopedPDU))
        session.size = len(self._wire.sized(message))
        self._wire.expect(session, message_id)
        return b"", message

    def _seal(self, session: Session, message_id: int, flags: int, scoped: bytes) -> bytes:
        usm, user = self._usm, session.user
        if session.discovers:
            engine_id, boots, seconds = b"", 0, 0
        elif session.remote is not None:
            remote = session.remote
            engine_id, boots, seconds = remote.engine_id, remote.boots, remote.time(time.monotonic())
        else:
            engine_id, boots, seconds = usm.engine_id, usm.boots, usm.engine_time
        level = session.level if user is not None else 1
        priv = b""
        if level == 3 and user is not None:
            cipher, priv = usm_crypto.encrypt(user, boots, seconds, usm.next_salt(), scoped)
            scoped = ber.tlv(ber.OCTET_STRING, cipher)
        size = usm_crypto.auth_size(user) if level > 1 and user is not None else 0
        parameters = b"".join(
            (
                ber.tlv(ber.OCTET_STRING, engine_id),
                ber.integer(boots),
                ber.integer(seconds),
                ber.tlv(ber.OCTET_STRING, user.name if user is not None else b""),
                ber.tlv(ber.OCTET_STRING, bytes(size)),
                ber.tlv(ber.OCTET_STRING, priv),
            )
        )
        head = messages.v3_header(message_id, usm.max_size, flags)
        after = len(ber.tlv(ber.OCTET_STRING, priv)) + len(scoped)
        security = ber.tlv(ber.OCTET_STRING, ber.tlv(ber.SEQUENCE, parameters))
        message = ber.tlv(ber.SEQUENCE, head + security + scoped)
        if not size or user is None:
            return message
        return usm_crypto.sign(user, message, len(message) - after - size)

    def process_incoming_message(
        self,
        snmpEngine: Any,
        messageProcessingModel: Any,
        maxMessageSize: Any,
        securityParameters: Any,
        securityModel: Any,
        securityLevel: Any,
        wholeMsg: Any,
        msg: Any,
    ) -> tuple[Any, ...]:
        opened = self._wire.opened
        if opened is None:
            raise error.StatusInformation(errorIndication="notAnAnswer")
        scoped, _ = decoder.decode(opened.scoped, asn1Spec=ScopedPDU())
        return OctetString(opened.engine_id), opened.session, scoped, maxMessageSize, 0

    def release_state_information(self, stateReference: Any) -> None:
        """Nothing is kept."""


def _same_place(asked: Address, answers: Address) -> bool:
    return asked.host == answers.host and asked.port == answers.port


def _report(scoped: bytes) -> tuple[int, ...] | None:
    """The name of the counter in a plaintext Report."""
    start, end = ber.expect(scoped, 0, len(scoped), ber.SEQUENCE)
    inside = messages.parse_scoped(scoped, start, end)
    _, start, end = ber.read(scoped, inside.pdu, inside.end)
    for _ in range(3):
        _, start = ber.expect(scoped, start, end, ber.INTEGER)
    start, end = ber.expect(scoped, start, end, ber.SEQUENCE)
    start, end = ber.expect(scoped, start, end, ber.SEQUENCE)
    start, end = ber.expect(scoped, start, end, ber.OBJECT_IDENTIFIER)
    return ber.parse_oid(scoped[start:end])

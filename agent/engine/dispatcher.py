"""The message dispatcher (RFC 3412 section 4.2).

Every datagram is checked and counted here first, and what costs least is checked first: a stranger's message is
dropped before its varbinds are read, before a digest is made, before a Report is. Requests are answered here,
community-based ones and SNMPv3 alike; answers to notifications go to the sockets that those left from, so one that
comes here is a counted drop, like whatever is malformed or unforeseen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from agent.engine import messages
from agent.engine import pdu as pdus
from agent.engine.communities import Communities
from agent.engine.counters import EngineCounters
from agent.engine.limits import ReportLimits
from agent.engine.messages import V1, V2C, V3, V3Frame
from agent.engine.pdu import RequestPdu
from agent.engine.responder import CommandResponder, Requester, UnknownContext
from agent.engine.sets import Answer, Recorded, SetQueue
from agent.engine.summary import Summary
from agent.engine.transport import Peer, UdpTransport
from agent.engine.usm import USM, WRONG_DIGESTS, Rejected, Secured, Usm
from agent.smi import ber
from agent.smi.counters import LimitedLog

log = logging.getLogger(__name__)
limited = LimitedLog(log)

UNKNOWN_CONTEXTS = (1, 3, 6, 1, 6, 3, 12, 1, 5, 0)
"""snmpUnknownContexts.0 (RFC 3413)."""
UNKNOWN_PDU_HANDLERS = (1, 3, 6, 1, 6, 3, 11, 2, 1, 3, 0)
"""snmpUnknownPDUHandlers.0 (RFC 3412)."""


class Dispatcher:
    """The receive path. `attach` completes it before the first datagram."""

    def __init__(self, counters: EngineCounters, communities: Communities) -> None:
        self.counters = counters
        self.communities = communities
        self.limits = ReportLimits()
        self.on_auth_failure: Callable[[Peer], None] | None = None
        """Told of every message under a community or digest that is not right (RFC 3418 authenticationFailure)."""

    def attach(self, usm: Usm, responder: CommandResponder, transport: UdpTransport) -> None:
        """Give it the engine that it belongs to."""
        self._usm = usm
        self._responder = responder
        self._transport = transport
        self.sets = SetQueue(responder, self.counters)
        self._summary = Summary(
            self.counters,
            {
                "send_errors": lambda: transport.send_errors,
                "backlog_dropped": lambda: transport.queue.dropped,
            },
            time.monotonic(),
        )
        transport.register_timer_callback(self._summary.tick)

    async def drain(self) -> None:
        """Cancel SETs that still run (they undo what they did) and wait for their end."""
        await self.sets.drain()

    # -- receive --------------------------------------------------------------------------------------------

    def receive(self, data: bytes, peer: Peer) -> None:
        """One datagram. Never raises."""
        counters = self.counters
        counters.in_pkts += 1
        try:
            version, position, end = messages.version(data)
            if version == V3:
                self._receive_v3(data, position, end, peer)
            elif version in (V1, V2C):
                self._receive_community(data, version, position, end, peer)
            else:
                counters.in_bad_versions += 1
        except ber.BerError as error:
            counters.in_asn_parse_errs += 1
            limited.warning("malformed", "malformed message from %s dropped: %s", peer.host, error)
        except Exception as error:
            counters.internal_errors += 1
            limited.warning(
                f"internal/{type(error).__name__}", "message from %s dropped: %r", peer.host, error
            )
            log.debug("traceback of the dropped message", exc_info=True)

    def _receive_community(self, data: bytes, version: int, position: int, end: int, peer: Peer) -> None:
        message = messages.parse_community(data, version, position, end)
        if message.pdu_type not in pdus.OF_VERSION[version]:
            raise ber.BerError(f"PDU type 0x{message.pdu_type:02x} in a version {version} message")
        if message.pdu_type == pdus.RESPONSE:
            # nothing was asked from here
            self.counters.unexpected_answers += 1
            return
        community = self.communities.lookup(message.community, version, peer.host, peer.address[1])
        if community is None:
            # before the varbinds are read: strangers should cost little
            self.counters.in_bad_community_names += 1
            limited.warning("community", "unknown community or source address: %s", peer.host)
            if message.pdu_type in pdus.REQUESTS:
                # not for a notification: it could be the one that tells of the last such failure
                self._auth_failed(peer)
            return
        if message.pdu_type not in pdus.REQUESTS:
            # notifications: no application here takes them (RFC 3412 section 4.2.2.1)
            self.counters.unknown_pdu_handlers += 1
            return
        # in a flood it comes before strangers
        self._transport.queue.known(peer.address[0])
        request = pdus.parse(data, message.pdu, message.end)
        if version == V1 and any(varbind.tag in pdus.NOT_IN_V1 for varbind in request.varbinds):
            raise ber.BerError("a value of a type that version 1 has not")
        who = Requester(
            version, version + 1, community.security_name, 1, community.context, (peer.host, peer.address[1])
        )
        budget = messages.community_budget(self._usm.max_size, message.community)

        def answer(pdu: bytes | None) -> None:
            if pdu is not None:
                self._transport.send(messages.community_message(version, message.community, pdu), peer)

        self._respond(request, who, budget, answer, None)

    # -- SNMPv3 ---------------------------------------------------------------------------------------------

    def _receive_v3(self, data: bytes, position: int, end: int, peer: Peer) -> None:
        frame = messages.parse_v3(data, position, end)
        if frame.security_model != USM:
            self.counters.unknown_security_models += 1
            return
        if not frame.level:
            self.counters.invalid_msgs += 1
            return
        if frame.engine_id != self._usm.engine_id and not frame.reportable:
            # the answer of another engine, but nothing was asked from here
            self.counters.unexpected_answers += 1
            return
        try:
            secured = self._usm.open(data, frame, peer.host)
        except Rejected as rejected:
            self._rejected(frame, rejected, peer)
            return
        if secured.level > 1:
            self.limits.authenticated(peer.host, time.monotonic())
            self._transport.queue.known(peer.address[0])
        self._secured(data, frame, secured, peer)

    def _rejected(self, frame: V3Frame, rejected: Rejected, peer: Peer) -> None:
        """A message that USM has not let through: a Report where the class of its PDU wants one."""
        if frame.engine_id:
            limited.warning("usm", "SNMPv3 message from %s refused: %s", peer.host, rejected)
        if rejected.oid is WRONG_DIGESTS:
            self._auth_failed(peer)
        if not frame.reportable:
            return
        if not self.limits.take(peer.host, time.monotonic()):
            self.counters.reports_withheld += 1
            return
        self._transport.send(self._usm.report_of(frame, rejected), peer)

    def _secured(self, data: bytes, frame: V3Frame, secured: Secured, peer: Peer) -> None:
        """A message that USM has let through (RFC 3412 section 4.2.2.1)."""
        scoped, usm = secured.scoped, self._usm
        if scoped.pdu_type in (pdus.RESPONSE, pdus.REPORT):
            # RFC 3412 section 7.2 step 11: nothing was asked in the name of this engine
            self.counters.unexpected_answers += 1
            return
        request = pdus.parse(secured.octets, scoped.pdu, scoped.end)
        # an unauthenticated sender may be anybody at anybody's address: it gets no more than it has sent, unless
        # the configuration says from where the user may come
        bounded = secured.level == 1 and secured.user.networks is None

        def send(message: bytes) -> None:
            if bounded and len(message) > len(data) and not self.limits.take(peer.host, time.monotonic()):
                self.counters.answers_withheld += 1
                return
            self._transport.send(message, peer)

        if request.type not in pdus.REQUESTS or scoped.context_engine_id != usm.engine_id:
            self.counters.unknown_pdu_handlers += 1
            if request.type in pdus.CONFIRMED:
                number = self.counters.unknown_pdu_handlers
                send(usm.report(frame, secured, request.request_id, UNKNOWN_PDU_HANDLERS, number))
            return
        who = Requester(
            V3,
            USM,
            secured.user.name.decode("utf-8", "replace"),
            secured.level,
            scoped.context.decode("utf-8", "replace"),
            (peer.host, peer.address[1]),
        )

        def answer(pdu: bytes | None) -> None:
            if pdu is not None:
                send(
                    usm.seal(
                        frame, secured.user, secured.level, scoped.context_engine_id, scoped.context, pdu
                    )
                )

        budget = usm.budget(frame, secured)
        if bounded:
            budget = min(budget, scoped.end - scoped.pdu)
        recorded = (frame.user, frame.auth, frame.time) if secured.level > 1 else None
        try:
            self._respond(request, who, budget, answer, recorded)
        except UnknownContext:
            number = self.counters.unknown_contexts
            send(usm.report(frame, secured, request.request_id, UNKNOWN_CONTEXTS, number))

    def _respond(
        self, request: RequestPdu, who: Requester, budget: int, answer: Answer, recorded: Recorded | None
    ) -> None:
        if request.type == pdus.SET:
            self.sets.submit(request, who, budget, answer, recorded)
        else:
            answer(self._responder.read(request, who, budget))

    def _auth_failed(self, peer: Peer) -> None:
        if self.on_auth_failure is not None:
            self.on_auth_failure(peer)

"""The message dispatcher (RFC 3412 section 4.2) over pysnmp's.

Every datagram is checked and counted here first. Community-based requests are answered here; SNMPv3 goes
through pysnmp's message processing and USM and comes back as a PDU to our command responder, which replaces
pysnmp's. Whatever is malformed or unforeseen ends as a counted drop.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from pyasn1.codec.ber import encoder
from pyasn1.type import univ
from pysnmp.entity.engine import SnmpEngine
from pysnmp.error import PySnmpError
from pysnmp.proto import rfc1905
from pysnmp.proto.rfc1902 import Counter32, ObjectIdentifier
from pysnmp.proto.rfc3412 import MsgAndPduDispatcher

from agent.config import Community
from agent.engine import messages
from agent.engine import pdu as pdus
from agent.engine.counters import EngineCounters
from agent.engine.messages import V1, V2C, V3, V3Frame
from agent.engine.pdu import RequestPdu
from agent.engine.responder import CommandResponder, Requester, Retransmissions, UnknownContext
from agent.engine.transport import DOMAIN_V4, DOMAIN_V6, Peer, UdpTransport
from agent.engine.usm import USM, EngineTime
from agent.smi import ber
from agent.smi.counters import LimitedLog

log = logging.getLogger(__name__)
limited = LimitedLog(log)

UNKNOWN_ENGINE_IDS = (1, 3, 6, 1, 6, 3, 15, 1, 1, 4, 0)
"""usmStatsUnknownEngineIDs.0 (RFC 3414)."""
UNKNOWN_CONTEXTS = (1, 3, 6, 1, 6, 3, 12, 1, 5, 0)
"""snmpUnknownContexts.0 (RFC 3413)."""
MAX_PENDING_SETS = 64


class EncodedPdu(univ.Any):  # type: ignore[misc]
    """A Response-PDU whose contents are encoded already, in the clothes of a pyasn1 object."""

    tagSet = rfc1905.ResponsePDU.tagSet


class EngineTransport(UdpTransport):
    """The UDP transport as pysnmp sees it, which also puts right what pysnmp sends."""

    def send_message(self, outgoingMessage: Any, transportDomain: Any, transportAddress: Any) -> None:
        """What pysnmp calls for every message that it has made."""
        self.send(messages.without_reportable(bytes(outgoingMessage)), transportAddress)


class Dispatcher(MsgAndPduDispatcher):  # type: ignore[misc]
    """pysnmp's dispatcher with our receive path. `attach` completes it before the first datagram."""

    def __init__(self, counters: EngineCounters) -> None:
        super().__init__()
        self.counters = counters
        self.communities: tuple[Community, ...] = ()
        self._pending: dict[tuple[object, ...], list[Callable[[bytes | None], None]]] = {}
        self._retransmissions = Retransmissions()
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(
        self, engine: SnmpEngine, responder: CommandResponder, transport: UdpTransport, max_size: int
    ) -> None:
        """Give it the engine that it belongs to, and register for all request PDUs in every context engine."""
        self._engine = engine
        self._responder = responder
        self._transport = transport
        self._max_size = max_size
        self._engine_id = bytes(engine.snmpEngineID)
        builder = engine.get_mib_builder()
        self._asn1_errors, self._pysnmp_drops = builder.import_symbols(
            "__SNMPv2-MIB", "snmpInASNParseErrs", "snmpSilentDrops"
        )
        (self._unknown_engine_ids,) = builder.import_symbols(
            "__SNMP-USER-BASED-SM-MIB", "usmStatsUnknownEngineIDs"
        )
        self._boots, self._clock = builder.import_symbols(
            "__SNMP-FRAMEWORK-MIB", "snmpEngineBoots", "snmpEngineTime"
        )
        kinds = tuple(
            pdu.tagSet
            for pdu in (
                rfc1905.GetRequestPDU,
                rfc1905.GetNextRequestPDU,
                rfc1905.GetBulkRequestPDU,
                rfc1905.SetRequestPDU,
            )
        )
        self.register_context_engine_id(engine.snmpEngineID, kinds, self._process_pdu)

    def set_communities(self, communities: Iterable[Community]) -> None:
        """Replace all community strings."""
        self.communities = tuple(communities)

    @property
    def engine_time(self) -> int:
        """snmpEngineTime."""
        clock: EngineTime = self._clock.syntax
        return clock.seconds()

    async def drain(self) -> None:
        """Cancel SETs that still run (they undo what they did) and wait for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
        if message.pdu_type not in pdus.REQUESTS or (version == V1 and message.pdu_type == pdus.GETBULK):
            if message.pdu_type == pdus.RESPONSE:
                # the answer to an inform of ours
                self._to_pysnmp(data, peer)
                return
            raise ber.BerError(f"PDU type 0x{message.pdu_type:02x} in a version {version} request")
        request = pdus.parse(data, message.pdu, message.end)
        community = self._community(message.community, version, peer)
        if community is None:
            self.counters.in_bad_community_names += 1
            limited.warning("community", "unknown community or source address: %s", peer.host)
            return
        who = Requester(
            version, version + 1, community.security_name, 1, community.context, (peer.host, peer.address[1])
        )
        budget = messages.community_budget(self._max_size, message.community)

        def answer(pdu: bytes | None) -> None:
            if pdu is not None:
                self._transport.send(messages.community_message(version, message.community, pdu), peer)

        self._respond(request, who, budget, answer)

    def _community(self, name: bytes, version: int, peer: Peer) -> Community | None:
        """The configured community of this name that may be used from there. Looks at all, equally long."""
        text = "v1" if version == V1 else "v2c"
        address = ipaddress.ip_address(peer.host)
        found = None
        for community in self.communities:
            fits = community.name.matches(name) and text in community.versions
            if fits and found is None and any(address in network for network in community.networks):
                found = community
        return found

    # -- SNMPv3 ---------------------------------------------------------------------------------------------

    def _receive_v3(self, data: bytes, position: int, end: int, peer: Peer) -> None:
        frame = messages.parse_v3(data, position, end)
        if frame.reportable and frame.security_model == USM and frame.engine_id != self._engine_id:
            # RFC 3414 section 3.2 step 3: discovery, or a request meant for another engine
            self._unknown_engine_ids.syntax += 1
            self._report(frame, peer, UNKNOWN_ENGINE_IDS, int(self._unknown_engine_ids.syntax))
            return
        self._to_pysnmp(data, peer)

    def _report(self, frame: V3Frame, peer: Peer, oid: ber.Oid, value: int) -> None:
        boots = int(self._boots.syntax)
        self._transport.send(
            messages.report(
                frame, self._engine_id, boots, self.engine_time, self._max_size, oid, value & 0xFFFFFFFF
            ),
            peer,
        )

    def _to_pysnmp(self, data: bytes, peer: Peer) -> None:
        errors, drops = int(self._asn1_errors.syntax), int(self._pysnmp_drops.syntax)
        try:
            self.receive_message(self._engine, _domain(peer), peer, data)
        except PySnmpError as error:
            self.counters.in_asn_parse_errs += 1
            log.debug("dropped by pysnmp: %s", type(error).__name__)
        self.counters.in_asn_parse_errs += int(self._asn1_errors.syntax) - errors
        self.counters.silent_drops += int(self._pysnmp_drops.syntax) - drops

    def _process_pdu(
        self,
        engine: SnmpEngine,
        model: Any,
        security_model: Any,
        security_name: Any,
        security_level: Any,
        context_engine_id: Any,
        context_name: Any,
        pdu_version: Any,
        pdu: Any,
        max_size_response: Any,
        state_reference: Any,
    ) -> None:
        """processPdu of RFC 3412 section 4.3, for requests that USM has let through."""
        _, peer = self.get_transport_info(state_reference)
        name = bytes(security_name).decode("utf-8", "replace")
        who = Requester(
            V3,
            int(security_model),
            name,
            int(security_level),
            bytes(context_name).decode("utf-8", "replace"),
            (peer.host, peer.address[1]),
        )
        if not name:
            # an empty user name is only for discovery; pysnmp does not authenticate it
            self.counters.silent_drops += 1
            return
        request = _request(pdu)
        # the scoped PDU's own tag and length, contextEngineID and contextName
        wrapping = 4 + len(bytes(context_engine_id)) + len(bytes(context_name)) + 4
        room = min(int(max_size_response), self._max_size - 48 - 128) - wrapping

        def respond(content: univ.Any | None, status: dict[str, Any]) -> None:
            try:
                self.return_response_pdu(
                    engine,
                    model,
                    security_model,
                    security_name,
                    security_level,
                    context_engine_id,
                    context_name,
                    pdu_version,
                    content,
                    max_size_response,
                    state_reference,
                    status,
                )
            except PySnmpError as error:
                self.counters.silent_drops += 1
                limited.warning("response", "response to %s not sent: %s", peer.host, error)

        def answer(response: bytes | None) -> None:
            if response is not None:
                _, start, _ = ber.read(response, 0, len(response))
                respond(EncodedPdu(response[start:]), {})

        try:
            self._respond(request, who, room, answer)
        except UnknownContext:
            value = Counter32(self.counters.unknown_contexts & 0xFFFFFFFF)
            respond(pdu, {"oid": ObjectIdentifier(UNKNOWN_CONTEXTS), "val": value})

    # -- respond --------------------------------------------------------------------------------------------

    def _respond(
        self, request: RequestPdu, who: Requester, budget: int, answer: Callable[[bytes | None], None]
    ) -> None:
        if request.type != pdus.SET:
            answer(self._responder.read(request, who, budget))
            return
        key = Retransmissions.key(request, who)
        known, earlier = self._retransmissions.find(key, time.monotonic())
        if known:
            self.counters.set_retransmissions += 1
            answer(earlier)
            return
        waiting = self._pending.get(key)
        if waiting is not None:
            self.counters.set_retransmissions += 1
            if len(waiting) < 16:
                waiting.append(answer)
            return
        self._responder.check_context(who)
        if len(self._pending) >= MAX_PENDING_SETS:
            self.counters.sets_refused_busy += 1
            answer(self._responder.busy(request, who, budget))
            return
        self._pending[key] = [answer]
        self._start(self._set(request, who, budget, key))

    async def _set(self, request: RequestPdu, who: Requester, budget: int, key: tuple[object, ...]) -> None:
        response: bytes | None = None
        try:
            response = await self._responder.write(request, who, budget)
            self._retransmissions.keep(key, response, time.monotonic())
        finally:
            answers = self._pending.pop(key)
        for answer in answers:
            answer(response)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.counters.internal_errors += 1
            log.error("a SET ended in an exception", exc_info=task.exception())


def _domain(peer: Peer) -> tuple[int, ...]:
    return DOMAIN_V6 if ":" in peer.host else DOMAIN_V4


def _request(pdu: Any) -> RequestPdu:
    """A pyasn1 PDU as ours. Raises BerError."""
    encoded = encoder.encode(pdu)
    return pdus.parse(encoded, 0, len(encoded))

"""The message dispatcher (RFC 3412 section 4.2) over pysnmp's.

Every datagram is checked and counted here first. Requests are answered here, community-based ones and SNMPv3
alike; what answers a notification of ours goes on to pysnmp. Whatever is malformed or unforeseen ends as a
counted drop.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from pysnmp.entity.engine import SnmpEngine
from pysnmp.error import PySnmpError
from pysnmp.proto.rfc3412 import MsgAndPduDispatcher

from agent.config import Community
from agent.engine import messages
from agent.engine import pdu as pdus
from agent.engine.counters import EngineCounters
from agent.engine.messages import V1, V2C, V3, V3Frame
from agent.engine.pdu import RequestPdu
from agent.engine.responder import CommandResponder, Requester, Retransmissions, SeenSets, UnknownContext
from agent.engine.transport import DOMAIN_V4, DOMAIN_V6, Peer, UdpTransport
from agent.engine.usm import TIME_WINDOW, USM, Rejected, Secured, Usm
from agent.smi import ber
from agent.smi.counters import LimitedLog

log = logging.getLogger(__name__)
limited = LimitedLog(log)

UNKNOWN_CONTEXTS = (1, 3, 6, 1, 6, 3, 12, 1, 5, 0)
"""snmpUnknownContexts.0 (RFC 3413)."""
UNKNOWN_PDU_HANDLERS = (1, 3, 6, 1, 6, 3, 11, 2, 1, 3, 0)
"""snmpUnknownPDUHandlers.0 (RFC 3412)."""
MAX_PENDING_SETS = 64
MAX_PENDING_SETS_OF_ONE = 16
"""Of one name and host, so that one manager's SETs leave room for the others'."""
ANSWER_LIFETIME = 120.0
"""Seconds after a notification of ours that messages from its receiver are taken for answers."""
MAX_ASKED = 1024


class EngineTransport(UdpTransport):
    """The UDP transport as pysnmp sees it."""

    def send_message(self, outgoingMessage: Any, transportDomain: Any, transportAddress: Any) -> None:
        """What pysnmp calls for every message that it has made."""
        if not isinstance(transportAddress, Peer):
            transportAddress = self.peer(tuple(transportAddress))
        self.send(bytes(outgoingMessage), transportAddress)


class Dispatcher(MsgAndPduDispatcher):  # type: ignore[misc]
    """pysnmp's dispatcher with our receive path. `attach` completes it before the first datagram."""

    def __init__(self, counters: EngineCounters) -> None:
        super().__init__()
        self.counters = counters
        self.communities: tuple[Community, ...] = ()
        self._pending: dict[tuple[object, ...], list[Callable[[bytes | None], None]]] = {}
        self._begun: Counter[tuple[int, str, str]] = Counter()
        self._retransmissions = Retransmissions()
        self._seen_sets = SeenSets(2 * TIME_WINDOW + 1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: OrderedDict[tuple[str, int], float] = OrderedDict()

    def attach(
        self, engine: SnmpEngine, usm: Usm, responder: CommandResponder, transport: EngineTransport
    ) -> None:
        """Give it the engine that it belongs to."""
        self._engine = engine
        self._usm = usm
        self._responder = responder
        self._transport = transport
        (self._asn1_errors,) = engine.get_mib_builder().import_symbols("__SNMPv2-MIB", "snmpInASNParseErrs")

    def set_communities(self, communities: Iterable[Community]) -> None:
        """Replace all community strings."""
        self.communities = tuple(communities)

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
        community = self._community(message.community, version, peer)
        if community is None:
            # before the varbinds are read: strangers should cost little
            self.counters.in_bad_community_names += 1
            limited.warning("community", "unknown community or source address: %s", peer.host)
            return
        request = pdus.parse(data, message.pdu, message.end)
        who = Requester(
            version, version + 1, community.security_name, 1, community.context, (peer.host, peer.address[1])
        )
        budget = messages.community_budget(self._usm.max_size, message.community)

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
        if frame.security_model != USM:
            self.counters.unknown_security_models += 1
            return
        if not frame.level:
            self.counters.invalid_msgs += 1
            return
        if frame.engine_id != self._usm.engine_id and not frame.reportable:
            # where another engine is authoritative: the answer to an inform of ours
            self._to_pysnmp(data, peer)
            return
        try:
            secured = self._usm.open(data, frame, peer.host)
        except Rejected as rejected:
            if frame.engine_id:
                limited.warning("usm", "SNMPv3 message from %s refused: %s", peer.host, rejected)
            if frame.reportable:
                self._transport.send(self._usm.report_of(frame, rejected), peer)
            return
        self._secured(frame, secured, peer)

    def _secured(self, frame: V3Frame, secured: Secured, peer: Peer) -> None:
        """A message that USM has let through (RFC 3412 section 4.2.2.1)."""
        scoped, usm = secured.scoped, self._usm
        known = scoped.pdu_type in pdus.REQUESTS
        request = pdus.parse(secured.octets, scoped.pdu, scoped.end) if known else None
        if request is None or scoped.context_engine_id != usm.engine_id:
            self.counters.unknown_pdu_handlers += 1
            if request is not None:
                number = self.counters.unknown_pdu_handlers
                report = usm.report(frame, secured, request.request_id, UNKNOWN_PDU_HANDLERS, number)
                self._transport.send(report, peer)
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
                message = usm.seal(
                    frame, secured.user, secured.level, scoped.context_engine_id, scoped.context, pdu
                )
                self._transport.send(message, peer)

        replayed = (
            request.type == pdus.SET
            and secured.level > 1
            and self._seen_sets.seen(frame.user, frame.auth, time.monotonic())
        )
        try:
            self._respond(request, who, usm.budget(frame, secured), answer, replayed)
        except UnknownContext:
            number = self.counters.unknown_contexts
            report = usm.report(frame, secured, request.request_id, UNKNOWN_CONTEXTS, number)
            self._transport.send(report, peer)

    def send_pdu(self, *arguments: Any, **options: Any) -> Any:
        """pysnmp's sendPdu (RFC 3411 section 4.1.1.1), which also says whose answer is expected."""
        address = options["transportAddress"] if "transportAddress" in options else arguments[2]
        now = time.monotonic()
        while self._asked and (len(self._asked) >= MAX_ASKED or next(iter(self._asked.values())) < now):
            self._asked.popitem(last=False)
        key = (str(address[0]).partition("%")[0], int(address[1]))
        self._asked[key] = now + ANSWER_LIFETIME
        self._asked.move_to_end(key)
        return super().send_pdu(*arguments, **options)

    def _to_pysnmp(self, data: bytes, peer: Peer) -> None:
        """Hand an answer to pysnmp, if something was asked there: its decoder costs milliseconds a message."""
        if self._asked.get((peer.host, peer.address[1]), 0.0) < time.monotonic():
            self.counters.unexpected_answers += 1
            return
        errors = int(self._asn1_errors.syntax)
        try:
            self.receive_message(self._engine, _domain(peer), peer, data)
        except PySnmpError as error:
            self.counters.in_asn_parse_errs += 1
            log.debug("dropped by pysnmp: %s", type(error).__name__)
        self.counters.in_asn_parse_errs += int(self._asn1_errors.syntax) - errors

    # -- respond --------------------------------------------------------------------------------------------

    def _respond(
        self,
        request: RequestPdu,
        who: Requester,
        budget: int,
        answer: Callable[[bytes | None], None],
        replayed: bool = False,
    ) -> None:
        if request.type != pdus.SET:
            answer(self._responder.read(request, who, budget))
            return
        refused, response = self._responder.refuse(request, who, budget)
        if refused:
            answer(response)
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
        if replayed:
            self.counters.sets_replayed += 1
            limited.warning("replay", "a recorded SET of %s came again from %s", who.name, who.peer)
            return
        if len(self._pending) >= MAX_PENDING_SETS or self._begun[who.manager] >= MAX_PENDING_SETS_OF_ONE:
            self.counters.sets_refused_busy += 1
            answer(self._responder.busy(request, who, budget))
            return
        self._pending[key] = [answer]
        self._begun[who.manager] += 1
        self._start(self._set(request, who, budget, key))

    async def _set(self, request: RequestPdu, who: Requester, budget: int, key: tuple[object, ...]) -> None:
        response: bytes | None = None
        try:
            response = await self._responder.write(request, who, budget)
            self._retransmissions.keep(key, response, time.monotonic())
        finally:
            answers = self._pending.pop(key)
            self._begun[who.manager] -= 1
            if not self._begun[who.manager]:
                del self._begun[who.manager]
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

"""The fast path as a whole: a datagram in, the answer or None ("not mine") out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from agent.engine import messages
from agent.engine import pdu as pdus
from agent.engine.access import Failure
from agent.engine.counters import EngineCounters
from agent.engine.epoch import Epoch
from agent.engine.fastpath import answer, parse
from agent.engine.fastpath.community import CommunitySession
from agent.engine.fastpath.errors import NotMine, Refused
from agent.engine.fastpath.names import Names
from agent.engine.fastpath.quick import Shape
from agent.engine.fastpath.sight import Plan, Sight
from agent.engine.fastpath.v3 import V3Door, V3User
from agent.engine.pdu import GET
from agent.engine.responder import CommandResponder, Requester
from agent.engine.usm import USM, Secured, Usm
from agent.smi import ber
from agent.smi.counters import LimitedLog
from agent.smi.errors import ErrorStatus

log = logging.getLogger(__name__)
limited = LimitedLog(log)

MAX_SESSIONS = 1024
"""Communities from a host, and contexts of a user, that are remembered."""
MAX_PLANS = 4096
MAX_TAIL = 512
"""Octets of a PDU after its request-id beyond which its plan is not kept."""

SEEN = 0x3FFF
"""Of the tails that came last, so many hashes are remembered (a mask)."""


class Allowed(Protocol):
    """A community that may be used."""

    @property
    def security_name(self) -> str: ...

    @property
    def context(self) -> str: ...


class Lookup(Protocol):
    """Communities: agent.engine.communities, or a test's own."""

    @property
    def ports_matter(self) -> bool: ...

    def lookup(self, name: bytes, version: int, host: str, port: int = 0) -> Allowed | None: ...


class FastPath:
    """Answers on octets. Every decision that it keeps is dropped when the epoch moves on."""

    def __init__(
        self,
        responder: CommandResponder,
        usm: Usm,
        counters: EngineCounters,
        epoch: Epoch,
        communities: Lookup,
        authenticated: Callable[[str, float], None],
    ) -> None:
        """`communities` knows the community of these octets, in this version (0, 1), from this host and port.

        `authenticated` is told now and then from which host authentic SNMPv3 messages come.
        """
        self._responder = responder
        self._usm = usm
        self._counters = counters
        self._epoch = epoch
        self._known = communities
        self._authenticated = authenticated
        self._names = Names(responder.controller.leaves)
        self._decided = epoch.value
        self._communities: dict[tuple[bytes, str], CommunitySession] = {}
        self._shapes: dict[tuple[Any, ...], Shape] = {}
        """By sender: what its last message by a community was like."""
        self._door = V3Door(usm, authenticated)
        self._sights: dict[tuple[int, str, int, str], Sight] = {}
        self._plans = 0
        self._seen = [0] * (SEEN + 1)

    def answer(self, data: bytes, address: tuple[Any, ...]) -> bytes | None:
        """The message that answers a datagram, empty when nothing can be sent; None: the plain path is to answer it.

        `address`: what the socket module gives for the source.
        """
        if self._epoch.value != self._decided:
            self.forget()
        self._counters.in_pkts += 1
        try:
            shape = self._shapes.get(address)
            if shape is not None:
                prefix, size, pdu, start, end, kind, respond, room, session = shape
                # a request-id of which the first octet decides that it has its only encoding
                if len(data) == size and data.startswith(prefix) and 0 < data[start] < 0xFF:
                    try:
                        varbinds = respond(kind, data[end:], room)
                    except Refused as refused:
                        return self._community_error(session, data, pdu, address, refused)
                    if varbinds is not None:
                        before, between = session.frame(end - start, len(varbinds))
                        return before + data[start:end] + between + varbinds
            # the outermost SEQUENCE and msgVersion
            size = data[1]
            position = 2
            if size >= 0x80:
                more = size & 0x7F
                position += more
                size = int.from_bytes(data[2:position], "big")
                if more > 3:
                    raise NotMine
            if position + size != len(data) or data[0] != 0x30:
                raise NotMine
            version = data[position : position + 3]
            if version == b"\x02\x01\x03":
                return self._v3(data, position + 3, address)
            if version == b"\x02\x01\x01" or version == b"\x02\x01\x00":
                return self._community(data, position, address)
        except (NotMine, IndexError):
            pass
        except Exception as error:
            # each is a bug; the plain path, which is simpler, may still have an answer
            self._counters.internal_errors += 1
            limited.warning(f"fast/{type(error).__name__}", "fast path on %s: %r", address[0], error)
            log.debug("traceback of the fast path", exc_info=True)
        # the plain path counts it itself
        self._counters.in_pkts -= 1
        return None

    def forget(self) -> None:
        """Drop every decision."""
        self._decided = self._epoch.value
        self._communities.clear()
        self._shapes.clear()
        self._door = V3Door(self._usm, self._authenticated)
        for sight in self._sights.values():
            sight.drop()
        self._sights.clear()
        self._plans = 0

    # -- SNMPv1, SNMPv2c ------------------------------------------------------------------------------------

    def _community(self, data: bytes, position: int, address: tuple[Any, ...]) -> bytes:
        stop = position + 5 + data[position + 4]
        session = self._communities.get((data[position:stop], address[0]))
        if session is None:
            session = self._new_session(data[position:stop], address)
        kind, request_id, tail = parse.request(data, stop, len(data))
        room = session.rooms[len(request_id) - 2]
        if room < 0:
            raise NotMine
        try:
            varbinds = self._respond(session.sight, kind, tail, room)
        except Refused as refused:
            return self._community_error(session, data, stop, address, refused)
        end = len(data) - len(tail)
        start = end + 2 - len(request_id)
        if len(self._shapes) >= MAX_SESSIONS:
            self._shapes.clear()
        respond = session.sight.quick.respond
        self._shapes[address] = Shape(data[:start], len(data), stop, start, end, kind, respond, room, session)
        return session.message(request_id, varbinds)

    def _community_error(
        self,
        session: CommunitySession,
        data: bytes,
        start: int,
        address: tuple[Any, ...],
        refused: Refused,
    ) -> bytes:
        """The answer to a request that ends in an error-status; its PDU begins at `start`."""
        who = session.requester(address[0], address[1])
        pdu = self._refuse(data, start, len(data), who, session.budget(self._usm.max_size), refused)
        if pdu is None:
            return b""
        return messages.community_message(session.version, session.community, pdu)

    def _new_session(self, head: bytes, address: tuple[Any, ...]) -> CommunitySession:
        if head[3] != ber.OCTET_STRING or head[4] != len(head) - 5 or head[4] >= 0x80:
            raise NotMine
        version, name = head[2], head[5:]
        host = str(address[0])
        known = self._known
        found = known.lookup(name, version, host.partition("%")[0], address[1])
        if found is None or known.ports_matter:
            # a decision is kept for the whole host
            raise NotMine
        sight = self._sight(version + 1, found.security_name, 1, found.context)
        if len(self._communities) >= MAX_SESSIONS:
            self._communities.clear()
        session = CommunitySession(
            version, name, found.security_name, found.context, sight, self._usm.max_size
        )
        self._communities[head, host] = session
        return session

    # -- SNMPv3 ---------------------------------------------------------------------------------------------

    def _v3(self, data: bytes, position: int, address: tuple[Any, ...]) -> bytes:
        host = address[0]
        user, message_id, max_size, context, octets, start, end = self._door.open(data, position, address)
        sight = user.sights.get(context) or self._new_sight(user, context)
        kind, request_id, tail = parse.request(octets, start, end)
        usm = self._usm
        room = user.room(usm, max_size, len(message_id) - 2, len(request_id) - 2, context)
        if room < 0:
            raise NotMine
        try:
            varbinds = self._respond(sight, kind, tail, room)
        except Refused as refused:
            frame = messages.parse_v3(data, position, len(data))
            scoped = messages.ScopedPdu(usm.engine_id, context, start, end, kind)
            budget = usm.budget(frame, Secured(user.user, user.level, scoped, octets))
            who = user.requester(context, host, address[1])
            pdu = self._refuse(octets, start, end, who, budget, refused)
            if pdu is None:
                return b""
            return usm.seal(frame, user.user, user.level, usm.engine_id, context, pdu)
        return user.message(usm, message_id, request_id, context, varbinds)

    def _new_sight(self, user: V3User, context: bytes) -> Sight:
        who = user.requester(context, "", 0)
        sight = self._sight(USM, who.name, who.level, who.context)
        if len(user.sights) >= MAX_SESSIONS:
            user.sights.clear()
        user.sights[context] = sight
        return sight

    # -- both -----------------------------------------------------------------------------------------------

    def _sight(self, model: int, name: str, level: int, context: str) -> Sight:
        """What somebody may read, found out as the plain path does. Raises NotMine for nothing at all."""
        key = (model, name, level, context)
        sight = self._sights.get(key)
        if sight is not None:
            return sight
        view = self._responder.access.view(model, name, level, context, "read")
        if isinstance(view, Failure):
            raise NotMine
        controller = self._responder.controller
        store = controller.context(context)
        if store is None:
            raise NotMine
        sight = Sight(self._names, controller.leaves, store.stores, view, model == 1)
        if len(self._sights) >= MAX_SESSIONS:
            # sessions go with what they see
            self.forget()
        self._sights[key] = sight
        return sight

    def _respond(self, sight: Sight, kind: int, tail: bytes, room: int) -> bytes:
        """The VarBinds that answer a PDU. Raises NotMine, Refused, IndexError."""
        found = sight.quick.respond(kind, tail, room)
        if found is None:
            found = answer.respond(sight, self._plan(sight, kind, tail), room)
        return found

    def _plan(self, sight: Sight, kind: int, tail: bytes) -> Plan:
        plan = sight.plans.get(tail)
        if plan is not None and plan[0] == kind:
            return plan
        plan = answer.plan(sight, kind, tail)
        if kind == GET or len(plan[1]) == 1:
            sight.quick.learn(kind, tail)
        if len(tail) <= MAX_TAIL:
            # what is asked once may never be asked again: only what comes twice is kept
            mark = hash(tail)
            if self._seen[mark & SEEN] == mark:
                self._keep(sight, tail, plan)
            else:
                self._seen[mark & SEEN] = mark
        return plan

    def _keep(self, sight: Sight, tail: bytes, plan: Plan) -> None:
        self._plans += 1
        if self._plans > MAX_PLANS:
            for each in self._sights.values():
                each.plans.clear()
            self._plans = 1
        sight.plans[tail] = plan

    def _refuse(
        self, octets: bytes, start: int, end: int, who: Requester, budget: int, refused: Refused
    ) -> bytes | None:
        """The Response-PDU of a request that ends in an error-status."""
        try:
            request = pdus.parse(octets, start, end)
        except ber.BerError:
            # `quick` reads cells before it has looked at all names
            raise NotMine from None
        if refused.status is ErrorStatus.tooBig:
            return self._responder.too_big(request, who, budget)
        return self._responder.error(request, who, refused.status, refused.index, budget)

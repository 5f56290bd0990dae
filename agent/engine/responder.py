"""The command responder: RFC 3413 section 3.2 and RFC 3416 section 4.2, to the letter.

`read` answers Get, GetNext and GetBulk at once; `write` answers Set when the live stack is done. Both give the
finished Response-PDU, or None where RFC 3416 lets nothing be sent, and count that.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from agent.engine import pdu as pdus
from agent.engine.access import AccessControl, Failure
from agent.engine.counters import EngineCounters
from agent.engine.messages import V1, V3
from agent.engine.pdu import GET, GETBULK, RequestPdu
from agent.engine.requester import requester
from agent.smi import ber
from agent.smi.controller import Controller, Cursor, ReadError, View
from agent.smi.errors import V1_ERROR_STATUS, ErrorStatus, NoSuchContext

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks, as the security model has established it. `peer` tells managers of one name apart."""

    version: int
    model: int
    name: str
    level: int
    context: str
    peer: tuple[str, int] = ("", 0)

    @property
    def manager(self) -> tuple[int, str, str]:
        """Who it is by name and host, whatever the port."""
        return self.model, self.name, self.peer[0]


class UnknownContext(Exception):
    """The contextName is not known: SNMPv3 answers a Report (RFC 3413 section 3.2 step 5)."""


class CommandResponder:
    """Answers request PDUs from a controller under an access control."""

    def __init__(self, controller: Controller, access: AccessControl, counters: EngineCounters) -> None:
        self.controller = controller
        self.access = access
        self.counters = counters
        self.set_timeout = 5.0

    # -- Get, GetNext, GetBulk ------------------------------------------------------------------------------

    def read(self, request: RequestPdu, who: Requester, budget: int) -> bytes | None:
        """The Response-PDU in at most `budget` octets, None when nothing can be sent. May raise UnknownContext."""
        view = self.access.view(who.model, who.name, who.level, who.context, "read")
        if isinstance(view, Failure):
            return self._denied(request, who, view, budget)
        try:
            seen = self.controller.view(view, who.context)
        except NoSuchContext:
            return self._denied(request, who, Failure.noSuchContext, budget)
        if request.type == GETBULK:
            return self._bulk(request, seen, who, budget)
        return self._get(request, seen, who, budget)

    def _get(self, request: RequestPdu, seen: View, who: Requester, budget: int) -> bytes | None:
        v1 = who.version == V1
        out: list[bytes] = []
        for number, (oid, _, _) in enumerate(request.varbinds, 1):
            try:
                if request.type == GET:
                    varbind = seen.read(oid)
                else:
                    _, varbind = seen.read_next(oid, skip_counter64=v1)
            except ReadError as error:
                return self.error(request, who, error.code, number, budget)
            if v1 and _value_tag(varbind) in pdus.NOT_IN_V1:
                # RFC 3584 section 4.2.2.1: version 1 has neither exceptions nor Counter64
                return self.error(request, who, ErrorStatus.noSuchName, number, budget)
            out.append(varbind)
        varbinds = b"".join(out)
        if len(varbinds) > pdus.varbinds_room(budget, request.request_id):
            return self.too_big(request, who, budget)
        return pdus.response(request.request_id, ErrorStatus.noError, 0, varbinds)

    def _bulk(self, request: RequestPdu, seen: View, who: Requester, budget: int) -> bytes | None:
        """RFC 3416 section 4.2.3. The response is cut where the next VarBind would exceed the message size."""
        room = pdus.varbinds_room(budget, request.request_id)
        if room < 0:
            self.counters.silent_drops += 1
            return None
        non_repeaters = min(max(request.first, 0), len(request.varbinds))
        repetitions = max(request.second, 0)
        out: list[bytes] = []
        used = 0
        reading = 0
        try:
            for reading, (oid, _, _) in enumerate(request.varbinds[:non_repeaters], 1):  # noqa: B007
                _, varbind = seen.read_next(oid)
                used += len(varbind)
                if used > room:
                    return self._finish(request, out)
                out.append(varbind)
            # a cursor is made when its first VarBind is due: of thousands in a request most may have no room
            cursors: list[Cursor] = []
            repeaters = request.varbinds[non_repeaters:]
            while repeaters and repetitions:
                repetitions -= 1
                ended = True
                for place, (oid, _, _) in enumerate(repeaters):
                    reading = non_repeaters + place + 1
                    if place == len(cursors):
                        cursors.append(seen.cursor(oid))
                    cursor = cursors[place]
                    varbind = cursor.advance()
                    used += len(varbind)
                    if used > room:
                        return self._finish(request, out)
                    out.append(varbind)
                    ended = ended and cursor.ended
                if ended:
                    break
        except ReadError as error:
            return self.error(request, who, error.code, reading, budget)
        return self._finish(request, out)

    def _finish(self, request: RequestPdu, out: list[bytes]) -> bytes:
        return pdus.response(request.request_id, ErrorStatus.noError, 0, b"".join(out))

    # -- Set ------------------------------------------------------------------------------------------------

    async def write(
        self, request: RequestPdu, who: Requester, budget: int, patience: float | None = None
    ) -> bytes | None:
        """The Response-PDU of a Set, None when nothing can be sent. May raise UnknownContext.

        `patience`: seconds that it may wait for Sets before it, `set_timeout` unless given.
        """
        view = self.access.view(who.model, who.name, who.level, who.context, "write")
        if isinstance(view, Failure):
            return self._denied(request, who, view, budget)
        # The response holds the request's own VarBinds: whether it fits is known before anything is done.
        if len(request.echo) > pdus.varbinds_room(budget, request.request_id, 18, len(request.varbinds)):
            return self.too_big(request, who, budget)
        token = requester.set(who)
        try:
            outcome = await self.controller.write(
                request.varbinds, view, self.set_timeout, who.context, patience
            )
        except NoSuchContext:
            return self._denied(request, who, Failure.noSuchContext, budget)
        finally:
            requester.reset(token)
        if outcome.status is not ErrorStatus.noError:
            return self.error(request, who, outcome.status, outcome.index, budget)
        return pdus.response(request.request_id, ErrorStatus.noError, 0, request.echo)

    def refuse(self, request: RequestPdu, who: Requester, budget: int) -> tuple[bool, bytes | None]:
        """(whether the requester may write nothing at all, the response then). May raise UnknownContext.

        Such a Set needs no queue and is not remembered, so it takes no place from those who may.
        """
        view = self.access.view(who.model, who.name, who.level, who.context, "write")
        if isinstance(view, Failure):
            return True, self._denied(request, who, view, budget)
        return False, None

    def busy(self, request: RequestPdu, who: Requester, budget: int) -> bytes | None:
        """The response to a Set for which there is no room in the queue."""
        return self.error(request, who, ErrorStatus.resourceUnavailable, 0, budget)

    # -- errors ---------------------------------------------------------------------------------------------

    def _denied(self, request: RequestPdu, who: Requester, why: Failure, budget: int) -> bytes | None:
        if why is Failure.noSuchContext:
            self.counters.unknown_contexts += 1
            if who.version == V3:
                raise UnknownContext
            return self.error(request, who, ErrorStatus.genErr, 0, budget)
        if who.version != V3:
            self.counters.in_bad_community_uses += 1
        # RFC 3413 section 3.2: error-index 0; version 1's noSuchName always names a variable
        index = 1 if who.version == V1 and request.varbinds else 0
        return self.error(request, who, ErrorStatus.authorizationError, index, budget)

    def error(
        self, request: RequestPdu, who: Requester, status: ErrorStatus, index: int, budget: int
    ) -> bytes | None:
        if who.version == V1:
            status = V1_ERROR_STATUS[status]
        if len(request.echo) > pdus.varbinds_room(budget, request.request_id, status, index):
            return self.too_big(request, who, budget)
        return pdus.response(request.request_id, status, index, request.echo)

    def too_big(self, request: RequestPdu, who: Requester, budget: int) -> bytes | None:
        """RFC 3416 section 4.2.1: an empty list of variables; RFC 1157: the request's own."""
        varbinds = request.echo if who.version == V1 else b""
        if len(varbinds) > pdus.varbinds_room(budget, request.request_id, ErrorStatus.tooBig):
            self.counters.silent_drops += 1
            return None
        return pdus.response(request.request_id, ErrorStatus.tooBig, 0, varbinds)


def _value_tag(varbind: bytes) -> int:
    _, start, end = ber.read(varbind, 0, len(varbind))
    _, _, name_end = ber.read(varbind, start, end)
    return varbind[name_end]


__all__ = ["CommandResponder", "Requester", "UnknownContext"]

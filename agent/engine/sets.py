"""SETs on their way: each is made once, one manager's leave room for the others', recorded ones are not made again."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from agent.engine.counters import EngineCounters
from agent.engine.pdu import RequestPdu
from agent.engine.responder import CommandResponder, Requester, UnknownContext
from agent.engine.usm import TIME_WINDOW
from agent.smi.counters import LimitedLog
from agent.smi.errors import ErrorStatus

log = logging.getLogger(__name__)
limited = LimitedLog(log)

MAX_PENDING = 64
MAX_PENDING_OF_ONE = 16
"""Of one name and host, so that one manager's SETs leave room for the others'."""
MAX_WAITING = 16
"""Copies of one SET that wait for its answer."""

Answer = Callable[[bytes | None], None]
Recorded = tuple[bytes, bytes, int]
"""User, digest and engine time of an authenticated message."""


class SetQueue:
    """Runs SETs beside the receive loop and gives each copy of one the same answer."""

    def __init__(self, responder: CommandResponder, counters: EngineCounters) -> None:
        self._responder = responder
        self._counters = counters
        self._pending: dict[tuple[object, ...], list[Answer]] = {}
        self._begun: Counter[tuple[int, str, str]] = Counter()
        # Of one manager one at a time goes on to the controller, where they wait in the order that they came:
        # so managers take turns, however many SETs one of them has sent.
        self._turns: dict[tuple[int, str, str], asyncio.Lock] = {}
        self._retransmissions = Retransmissions()
        self._seen = SeenSets(2 * TIME_WINDOW + 1)
        self.tasks: set[asyncio.Task[None]] = set()

    def submit(
        self, request: RequestPdu, who: Requester, budget: int, answer: Answer, recorded: Recorded | None
    ) -> None:
        """Have a Set made, and answered through `answer`. May raise UnknownContext.

        `recorded`: what tells a copy of the same octets from a Set that its manager has signed anew.
        """
        counters = self._counters
        # who may write nothing takes no place in the queue and in no memory
        refused, response = self._responder.refuse(request, who, budget)
        if refused:
            answer(response)
            return
        now = time.monotonic()
        key = Retransmissions.key(request, who)
        known, earlier = self._retransmissions.find(key, now)
        if known:
            counters.set_retransmissions += 1
            answer(earlier)
            return
        waiting = self._pending.get(key)
        if waiting is not None:
            counters.set_retransmissions += 1
            if len(waiting) < MAX_WAITING:
                waiting.append(answer)
            return
        if recorded is not None and self._seen.seen(*recorded, now):
            counters.sets_replayed += 1
            limited.warning("replay", "a recorded SET of %s came again from %s", who.name, who.peer)
            return
        if len(self._pending) >= MAX_PENDING or self._begun[who.manager] >= MAX_PENDING_OF_ONE:
            counters.sets_refused_busy += 1
            answer(self._responder.busy(request, who, budget))
            return
        self._pending[key] = [answer]
        self._begun[who.manager] += 1
        self._start(self._make(request, who, budget, key))

    async def drain(self) -> None:
        """Cancel what still runs (it undoes what it did) and wait for the end."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, request: RequestPdu, who: Requester, budget: int, key: tuple[object, ...]) -> None:
        response: bytes | None = None
        try:
            response = await self._in_turn(request, who, budget)
            self._retransmissions.keep(key, response, time.monotonic())
        finally:
            answers = self._pending.pop(key)
            self._begun[who.manager] -= 1
            if not self._begun[who.manager]:
                del self._begun[who.manager]
                self._turns.pop(who.manager, None)
        for answer in answers:
            answer(response)

    async def _in_turn(self, request: RequestPdu, who: Requester, budget: int) -> bytes | None:
        turn = self._turns.setdefault(who.manager, asyncio.Lock())
        patience = self._responder.set_timeout
        begun = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                await turn.acquire()
        except TimeoutError:
            self._counters.sets_refused_busy += 1
            return self._responder.busy(request, who, budget)
        try:
            # a SET made after its manager has given up would surprise everybody: waiting counts here and there
            patience -= time.monotonic() - begun
            return await self._responder.write(request, who, budget, max(patience, 0.0))
        except UnknownContext:
            # it was there when the SET came
            return self._responder.error(request, who, ErrorStatus.genErr, 0, budget)
        finally:
            turn.release()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._counters.internal_errors += 1
            log.error("a SET ended in an exception", exc_info=task.exception())


class Retransmissions:
    """Recognises a SET that a manager sends again because the answer was late or lost.

    The same manager, request-id and varbinds within `lifetime` seconds are one SET: while it runs, the copy
    waits for the same answer; afterwards it gets that answer again. At most `limit` answers of `room` octets
    in all are kept, and `of_one` of one manager, so that many SETs of one do not make those of others forgotten.
    """

    def __init__(
        self, lifetime: float = 15.0, limit: int = 256, of_one: int = 64, room: int = 1 << 20
    ) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._of_one = of_one
        self._room = room
        self._used = 0
        self._answers: OrderedDict[tuple[object, ...], tuple[float, bytes | None]] = OrderedDict()
        self._managers: Counter[tuple[object, ...]] = Counter()

    @staticmethod
    def key(request: RequestPdu, who: Requester) -> tuple[object, ...]:
        """What makes two SETs the same one. Starts with the manager."""
        digest = hashlib.sha256(request.echo).digest()
        return (who.manager, who.peer, who.level, who.context, request.request_id, digest)

    def find(self, key: tuple[object, ...], now: float) -> tuple[bool, bytes | None]:
        """(whether it was answered, the answer)."""
        while self._answers:
            oldest = next(iter(self._answers))
            if now - self._answers[oldest][0] <= self._lifetime:
                break
            self._forget(oldest)
        found = self._answers.get(key)
        return (False, None) if found is None else (True, found[1])

    def keep(self, key: tuple[object, ...], answer: bytes | None, now: float) -> None:
        """Remember an answer."""
        if key in self._answers:
            self._forget(key)
        manager: Any = key[0]
        if self._managers[manager] >= self._of_one:
            self._forget(next(other for other in self._answers if other[0] == manager))
        self._answers[key] = (now, answer)
        self._managers[manager] += 1
        self._used += len(answer or b"")
        while len(self._answers) > self._limit or self._used > self._room:
            self._forget(next(iter(self._answers)))

    def _forget(self, key: tuple[object, ...]) -> None:
        _, answer = self._answers.pop(key)
        self._used -= len(answer or b"")
        manager: Any = key[0]
        self._managers[manager] -= 1
        if not self._managers[manager]:
            del self._managers[manager]


class SeenSets:
    """Recognises a recorded SET that is sent again.

    USM's time window lets the same octets in for as long as five minutes (RFC 3414 section 2.2.3); for a SET
    that is long enough to do harm twice. A manager that retransmits signs anew, with a time of its own.

    What had to be forgotten early, because one user made more than `limit` SETs within `lifetime`, leaves its
    engine time behind: SETs of that user that claim to be no younger are taken for recorded ones.
    """

    def __init__(self, lifetime: float, limit: int = 4096) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._seen: OrderedDict[tuple[bytes, bytes], tuple[float, int]] = OrderedDict()
        self._floors: dict[bytes, tuple[float, int]] = {}

    def seen(self, user: bytes, digest: bytes, engine_time: int, now: float) -> bool:
        """Whether this user's message with this digest was there before; it is from now on."""
        while self._seen:
            oldest = next(iter(self._seen))
            at, signed = self._seen[oldest]
            if now - at <= self._lifetime:
                if len(self._seen) < self._limit:
                    break
                _, floor = self._floors.get(oldest[0], (0.0, -1))
                self._floors[oldest[0]] = (now, max(signed, floor))
            del self._seen[oldest]
        since, floor = self._floors.get(user, (now, -1))
        if now - since > self._lifetime:
            del self._floors[user]
            floor = -1
        key = (user, digest)
        if key in self._seen or engine_time <= floor:
            return True
        self._seen[key] = (now, engine_time)
        return False


__all__ = ["Answer", "Recorded", "Retransmissions", "SeenSets", "SetQueue"]

"""Our SAs in the kernel: put in whole or not at all, moved without losing their place, counted, missed when gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from errno import EEXIST

from ipsecstack.dataplane.base import DataPlaneError, DataPlaneEvent, SaExpired
from ipsecstack.dataplane.xfrm.codec import (
    Answer,
    Received,
    Request,
    State,
    StateDeleted,
    StateExpired,
    StateFound,
    delete_state,
    dump_states,
    get_state,
    glance,
    new_state,
)
from ipsecstack.dataplane.xfrm.netlink import Kernel, KernelError
from ipsecstack.dataplane.xfrm.states import (
    Installed,
    far_ahead,
    kind_of_limit,
    limits_of,
    moved,
    passed_limits,
    states_of,
)
from ipsecstack.dataplane.xfrm.structures import Faults, StateId
from ipsecstack.ipsec.sa import Direction, SaCounters, SaDescription, SaId

log = logging.getLogger(__name__)

_LOOK_INTERVAL = 1.0  # seconds between two lists of all SAs, at least
_LOOK_SHARE = 20  # and that many times as long as the last one took
_BURST_QUERIES, _BURST_SECONDS = 24, 0.1  # so many queries in that time are answered from one list
_UNSEEN = 1 << 20  # sequence numbers that an SA may have used between a look at it and its end


class KernelSas:
    """The SAs of one owner (``user``). ``tell`` takes events about them; ``told`` gives what the kernel has told since
    it was asked last, and ``pass_on`` takes what of that is not for here."""

    def __init__(
        self,
        kernel: Kernel,
        user: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        tell: Callable[[DataPlaneEvent], None],
        told: Callable[[], Sequence[Received]],
        pass_on: Callable[[Received], None],
    ) -> None:
        self._kernel = kernel
        self._user = user
        self._clock, self._wall = clock, wall_clock
        self._tell, self._told, self._pass_on = tell, told, pass_on
        self._sas: dict[SaId, Installed] = {}
        self._names: dict[StateId, SaId] = {}
        self._touched: set[SaId] = set()
        self._next_look = 0.0
        self._burst_began, self._burst = float("-inf"), 0

    def __contains__(self, name: SaId) -> bool:
        return name in self._sas

    def get(self, name: SaId) -> Installed | None:
        return self._sas.get(name)

    def of_state(self, state: StateId) -> tuple[SaId, Installed] | None:
        """Whose the kernel's SA is; None for another program's."""
        name = self._names.get(state)
        return None if name is None else (name, self._sas[name])

    # --- in, elsewhere, out -------------------------------------------------------------------------------------------

    def add(self, sa: SaDescription, states: Sequence[State]) -> None:
        """Put it in. DataPlaneError when the kernel refuses a part of it, and then there is nothing of it."""
        self._add(states)
        now = self._clock()
        self._enter(Installed(sa, tuple(state.info.id for state in states), since=now, looked=now))

    def _enter(self, entry: Installed) -> None:
        name = entry.description.id
        self._sas[name] = entry
        for state in entry.states:
            self._names[state] = name
        self._touched.add(name)

    def _leave(self, name: SaId) -> Installed:
        entry = self._sas.pop(name)
        for state in entry.states:
            self._names.pop(state, None)
        self._touched.discard(name)
        return entry

    def _add(self, states: Sequence[State]) -> None:
        """All of them, or none. An SA of ours that is in the way is a leftover, and makes room."""
        done: list[StateId] = []
        try:
            for state in states:
                try:
                    self._kernel.call(new_state(state))
                except KernelError as error:
                    if error.number != EEXIST or not self._is_leftover(state):
                        raise
                    self._kernel.ask([delete_state(state.info.id, state.mark)])
                    self._kernel.call(new_state(state))
                done.append(state.info.id)
        except DataPlaneError:
            self._kernel.ask(delete_state(name, states[0].mark) for name in done)
            raise

    def _is_leftover(self, state: State) -> bool:
        if state.info.id in self._names:
            return False
        (answer,) = self._kernel.ask([get_state(state.info.id, state.mark)])
        return isinstance(answer, StateFound) and answer.state.info.selector.user == self._user

    def move(self, name: SaId, new: SaDescription) -> None:
        """The SA with other addresses; its counts, window and sequence numbers go on. DataPlaneError: it is not there,
        or the kernel refuses; then it stays where it was, or its end is told."""
        entry = self._sas.get(name)
        if entry is None or entry.gone:
            raise DataPlaneError(f"an SA with SPI {name.spi:08x} is not installed")
        old = entry.description
        if new.id != name and new.id in self._sas:
            raise DataPlaneError(
                f"an SA with SPI {name.spi:08x} to {new.destination.host} is installed already"
            )
        states = states_of(new, self._user)
        same_place = (old.source.host, old.destination.host) == (new.source.host, new.destination.host)
        if same_place and new.encapsulated and old.encapsulated:
            self._kernel.call(new_state(states[-1], replace=True))
        else:
            self._replace(entry, states)
        self._leave(name)
        entry.description, entry.states = new, tuple(state.info.id for state in states)
        entry.told_remote = None
        self._enter(entry)

    def _replace(self, entry: Installed, states: list[State]) -> None:
        """Delete the SA and add it elsewhere.

        The kernel tells of each deletion with the numbers the SA had at its end. Should that word be lost, the ones
        read before count, moved so far ahead that no number (hence no IV) is used twice. An SA that the kernel has no
        longer is not made again: nobody knows its numbers.
        """
        mark = entry.description.mark
        found = self._kernel.ask(get_state(name, mark) for name in entry.states)
        if not isinstance(found[-1], StateFound):
            self._missed(entry)
            raise DataPlaneError(f"the kernel has no SA with SPI {entry.description.spi:08x} any more")
        self._kernel.ask(delete_state(name, mark) for name in entry.states)
        last: dict[StateId, State] = {}
        for received in self._told():
            if isinstance(received.answer, StateDeleted) and received.answer.id in entry.states:
                if received.answer.state is not None:
                    last[received.answer.id] = received.answer.state
            else:
                self._pass_on(received)
        before = [answer.state if isinstance(answer, StateFound) else None for answer in found]
        ends = [last.get(name, old) for name, old in zip(entry.states, before, strict=True)]
        base, end = entry.base, ends[-1]
        after = [moved(state, at_end) for state, at_end in zip(states, ends, strict=True)]
        if entry.description.direction is Direction.OUT:
            after = [
                state if name in last else far_ahead(state, _UNSEEN)
                for state, name in zip(after, entry.states, strict=True)
            ]
        try:
            self._add(after)
        except DataPlaneError:
            back = states_of(entry.description, self._user)
            try:
                self._add([moved(state, at_end) for state, at_end in zip(back, ends, strict=True)])
            except DataPlaneError:
                self._missed(entry)
            raise
        if end is not None:
            faults = end.info.faults
            entry.base = Faults(
                base.before_window + faults.before_window,
                base.duplicates + faults.duplicates,
                base.integrity + faults.integrity,
            )

    def remove(self, name: SaId) -> Installed | None:
        """Take it out, with its last counts; None when it is not there."""
        if name not in self._sas:
            return None
        entry = self._leave(name)
        mark = entry.description.mark
        requests: list[Request] = [] if entry.gone else [get_state(entry.main, mark)]
        requests += [delete_state(state, mark) for state in entry.states]
        try:
            answers = self._kernel.ask(requests)
        except DataPlaneError as error:
            log.error("an SA may be left in the kernel until the next start: %s", error)
            return entry
        if not entry.gone:
            self._note(entry, answers[0])
        return entry

    def close(self) -> None:
        """Remove them all from the kernel."""
        gone = [(state, entry.description.mark) for entry in self._sas.values() for state in entry.states]
        self._sas.clear()
        self._names.clear()
        self._touched.clear()
        self._kernel.ask(delete_state(state, mark) for state, mark in gone)

    # --- counts -------------------------------------------------------------------------------------------------------

    def query(self, name: SaId) -> SaCounters | None:
        """The counts of one SA; the last known ones where the kernel does not answer."""
        entry = self._sas.get(name)
        if entry is None:
            return None
        if not entry.gone:
            try:
                if not self._seen_just_now(entry):
                    (answer,) = self._kernel.ask([get_state(entry.main, entry.description.mark)])
                    if self._note(entry, answer):
                        self._touched.add(name)
            except DataPlaneError as error:
                log.warning("counts are those of an earlier look: %s", error)
        return entry.counters.copy()

    def _seen_just_now(self, entry: Installed) -> bool:
        """Whoever asks for many SAs in a row gets them from one list, which costs less than asking for each."""
        now = self._clock()
        if now - self._burst_began > _BURST_SECONDS:
            self._burst_began, self._burst = now, 0
        self._burst += 1
        if self._burst <= _BURST_QUERIES:
            return False
        if entry.looked < self._burst_began:
            self._look(now)
        return entry.looked >= self._burst_began

    def _note(self, entry: Installed, answer: Answer) -> bool:
        if not isinstance(answer, StateFound):
            return False
        info = answer.state.info
        return entry.count(info.use, info.faults, answer.state.last_used, self._clock(), self._wall())

    def touched(self) -> set[SaId]:
        """SAs whose counters changed since the last call, by a list of all SAs that is made now and then."""
        now = self._clock()
        if self._sas and now >= self._next_look:
            try:
                self._look(now)
            except DataPlaneError as error:
                log.warning("counts are those of an earlier look: %s", error)
            self._next_look = self._clock() + max(_LOOK_INTERVAL, _LOOK_SHARE * (self._clock() - now))
        touched, self._touched = self._touched, set()
        return touched

    def _look(self, now: float) -> set[StateId]:
        """Take the counts of all our SAs; the names of those that are there."""
        wall = self._wall()
        there: set[StateId] = set()

        def visit(_kind: int, body: memoryview) -> None:
            found = glance(body)
            if found is None or found.user != self._user:
                return
            there.add(found.id)
            name = self._names.get(found.id)
            if name is None:
                return
            entry = self._sas[name]
            if found.id == entry.main and entry.count(found.use, found.faults, found.last_used, now, wall):
                self._touched.add(name)

        self._kernel.dump(dump_states(), visit)
        return there

    # --- their ends ---------------------------------------------------------------------------------------------------

    def expired(self, told: StateExpired) -> None:
        """A limit, as the kernel tells it."""
        found = self.of_state(told.info.id)
        if found is None or told.info.id != found[1].main:
            return  # a reservation that lapsed, or another program's SA
        name, entry = found
        self._expire(name, entry, told.hard, kind_of_limit(told.info.limits, told.info.use, told.hard))
        if told.hard:
            entry.count(told.info.use, told.info.faults, None, self._clock(), self._wall())
            entry.gone = True

    def _expire(self, name: SaId, entry: Installed, hard: bool, kind: str) -> None:
        if entry.gone or (hard, kind) in entry.told:
            return
        entry.told.add((hard, kind))
        self._touched.add(name)
        self._tell(SaExpired(name, hard, kind))

    def _missed(self, entry: Installed) -> None:
        """The kernel has it no longer: that is told like a hard limit."""
        self._expire(entry.description.id, entry, True, "removed")
        entry.gone = True

    def find_missing(self, words_lost: bool = False) -> None:
        """SAs that another program deleted, or that ended unseen. ``words_lost``: soft limits may have passed unseen,
        too. DataPlaneError when the kernel cannot be asked."""
        there = self._look(self._clock())
        suspects = [entry for entry in self._sas.values() if not entry.gone and entry.main not in there]
        # A list is made while SAs come and go: each one that seems to be missing is asked for by its name.
        answers = self._kernel.ask(get_state(entry.main, entry.description.mark) for entry in suspects)
        for entry, answer in zip(suspects, answers, strict=True):
            if isinstance(answer, StateFound):
                self._note(entry, answer)
                continue
            name = entry.description.id
            log.warning("the SA %08x to %s was removed by another program", name.spi, name.destination)
            self._missed(entry)
        if words_lost:
            now = self._clock()
            for name, entry in list(self._sas.items()):
                for kind in passed_limits(limits_of(entry.description.lifetime), entry, now):
                    self._expire(name, entry, False, kind)

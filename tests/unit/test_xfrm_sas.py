"""The kernel's SAs when things go wrong: a kernel that forgets, refuses, loses its words, or does not answer."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from espkit import A, B, describe

from ipsecstack.dataplane.base import DataPlaneError, DataPlaneEvent, SaExpired
from ipsecstack.dataplane.xfrm.codec import (
    Acknowledged,
    Answer,
    Received,
    Request,
    StateDeleted,
    StateFound,
    read,
)
from ipsecstack.dataplane.xfrm.netlink import KernelError
from ipsecstack.dataplane.xfrm.numbers import Message
from ipsecstack.dataplane.xfrm.sas import KernelSas
from ipsecstack.dataplane.xfrm.states import states_of
from ipsecstack.dataplane.xfrm.structures import StateId, Use
from ipsecstack.ipsec.sa import Address, Direction, Lifetime, Limit, SaDescription

USER = 7
MOVED = Address(ip_address("192.0.2.77"), 4500)


class FakeKernel:
    """Has SAs by their names, and answers as the kernel does; the states it was given are kept as they came."""

    def __init__(self) -> None:
        self.states: dict[StateId, StateFound] = {}
        self.asked: list[Message] = []
        self.refuse: Callable[[Request], int] = lambda _request: 0
        self.mute = False
        self.hidden: set[StateId] = set()  # there, but not in lists

    def ask(self, requests: Iterable[Request]) -> list[Answer]:
        requests = list(requests)
        if self.mute and requests:
            raise DataPlaneError("the kernel does not answer by netlink; see its log")
        return [self._answer(request) for request in requests]

    def call(self, request: Request) -> Answer:
        (answer,) = self.ask([request])
        if isinstance(answer, Acknowledged) and answer.error:
            raise KernelError(request.what, answer.error)
        return answer

    def dump(self, _request: Request, visit: Callable[[int, memoryview], None]) -> None:
        if self.mute:
            raise DataPlaneError("the kernel does not answer by netlink; see its log")
        for name, found in self.states.items():
            if name not in self.hidden:
                visit(Message.NEWSA, memoryview(found.state.info.to_bytes()))

    def _answer(self, request: Request) -> Answer:
        self.asked.append(request.kind)
        if error := self.refuse(request):
            return Acknowledged(error)
        if request.kind in (Message.NEWSA, Message.UPDSA):
            octets = request.to_bytes(1)[16:]
            made = read(Message.NEWSA, memoryview(octets))
            assert isinstance(made, StateFound)
            if request.kind == Message.NEWSA and made.state.info.id in self.states:
                return Acknowledged(errno.EEXIST)
            self.states[made.state.info.id] = made
            return Acknowledged(0)
        name = StateId.parse(request.body)
        if name not in self.states:
            return Acknowledged(errno.ESRCH)
        if request.kind == Message.GETSA:
            return self.states[name]
        del self.states[name]
        return Acknowledged(0)


class Lab:
    def __init__(self) -> None:
        self.kernel, self.now = FakeKernel(), 0.0
        self.events: list[DataPlaneEvent] = []
        self.told: list[Received] = []
        self.sas = KernelSas(
            self.kernel,  # type: ignore[arg-type]
            USER,
            lambda: self.now,
            lambda: 1_700_000_000.0 + self.now,
            self.events.append,
            lambda: self.told,
            lambda received: None,
        )

    def add(self, direction: Direction = Direction.OUT, spi: int = 0x1000, **fields: object) -> SaDescription:
        ends = (A, B) if direction is Direction.OUT else (B, A)
        sa = describe(direction, spi, *ends, **fields)
        self.sas.add(sa, states_of(sa, USER))
        return sa

    def name(self, sa: SaDescription) -> StateId:
        return states_of(sa, USER)[-1].info.id


@pytest.mark.parametrize("direction", list(Direction))
def test_an_sa_that_the_kernel_forgot_is_not_made_again_elsewhere(direction: Direction) -> None:
    """With its numbers at the start IVs would come twice, and old packets would pass the window once more."""
    lab = Lab()
    sa = lab.add(direction)
    lab.kernel.states.clear()
    field = "destination" if direction is Direction.OUT else "source"
    with pytest.raises(DataPlaneError, match="any more"):
        lab.sas.move(sa.id, replace(sa, **{field: MOVED}))
    assert not lab.kernel.states
    assert lab.events == [SaExpired(sa.id, True, "removed")]
    assert lab.sas.remove(sa.id) is not None


def test_an_sa_that_moves_takes_its_numbers_along() -> None:
    """From the kernel's last word; where that was lost, so far ahead that none comes twice."""
    for word in (True, False):
        lab = Lab()
        sa = lab.add(esn=True)
        name = lab.name(sa)
        found = lab.kernel.states[name].state
        assert found.replay is not None
        found = replace(
            found, replay=replace(found.replay, sent=500), info=replace(found.info, use=Use(9, 5))
        )
        lab.kernel.states[name] = StateFound(found)
        if word:
            end = replace(found, replay=replace(found.replay, sent=510))
            lab.told = [Received(1, 1, StateDeleted(name, end))]
        lab.sas.move(sa.id, replace(sa, destination=MOVED))
        ((_, there),) = lab.kernel.states.items()
        assert there.state.replay is not None
        assert there.state.replay.sent == (510 if word else 500 + (1 << 20))
        assert there.state.info.id.destination == MOVED.host


def test_a_move_that_the_kernel_refuses_leaves_it_where_it_was() -> None:
    lab = Lab()
    sa = lab.add()

    def refuse(request: Request) -> int:
        return errno.ENOMEM if request.kind == Message.NEWSA and MOVED.host.packed in request.body else 0

    lab.kernel.refuse = refuse
    with pytest.raises(DataPlaneError, match="no memory left"):
        lab.sas.move(sa.id, replace(sa, destination=MOVED))
    assert list(lab.kernel.states) == [lab.name(sa)]
    assert sa.id in lab.sas
    assert not lab.events


def test_half_of_an_sa_with_compression_does_not_stay() -> None:
    lab = Lab()
    seen: list[Request] = []

    def refuse(request: Request) -> int:
        seen.append(request)
        return errno.ENOSYS if request.kind == Message.NEWSA and len(seen) == 2 else 0

    lab.kernel.refuse = refuse
    with pytest.raises(DataPlaneError, match="lacks the algorithm"):
        lab.add(ipcomp_cpi=0x1234)
    assert not lab.kernel.states
    assert len(seen) == 3


def test_a_kernel_that_does_not_answer_has_its_last_counts(caplog: pytest.LogCaptureFixture) -> None:
    """Who asks for counts (liveness checks, lists, the agent) gets what is known, never an exception."""
    lab = Lab()
    sa = lab.add()
    lab.kernel.mute = True
    counters = lab.sas.query(sa.id)
    assert counters is not None
    assert counters.packets == 0
    assert lab.sas.touched() == {sa.id}
    assert "does not answer" in caplog.text
    lab.now = 100.0
    for _ in range(60):
        assert lab.sas.query(sa.id) is not None
    assert lab.sas.remove(sa.id) is not None
    assert sa.id not in lab.sas


def test_a_list_that_leaves_one_out_ends_no_sa() -> None:
    """Lists are made while SAs come and go: an SA is gone when the kernel says so by its name."""
    lab = Lab()
    kept, gone = lab.add(spi=0x1000), lab.add(spi=0x2000)
    lab.kernel.hidden.add(lab.name(kept))
    del lab.kernel.states[lab.name(gone)]
    lab.sas.find_missing()
    assert lab.events == [SaExpired(gone.id, True, "removed")]
    lab.sas.find_missing()
    assert len(lab.events) == 1


def test_limits_that_passed_while_words_were_lost() -> None:
    lab = Lab()
    lifetime = Lifetime(Limit(60, 120), Limit(1000, 2000), Limit(10, 20))
    sa, young = lab.add(lifetime=lifetime), lab.add(spi=0x2000)
    lab.now = 61.0
    found = lab.kernel.states[lab.name(sa)].state
    lab.kernel.states[lab.name(sa)] = StateFound(replace(found, info=replace(found.info, use=Use(1000, 9))))
    lab.sas.find_missing()
    assert not lab.events, "no word was lost: the kernel tells"
    lab.sas.find_missing(words_lost=True)
    lab.sas.find_missing(words_lost=True)
    assert lab.events == [SaExpired(sa.id, False, "octets"), SaExpired(sa.id, False, "seconds")]
    assert young.id in lab.sas


def test_keys_are_in_no_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    lab = Lab()
    sa = lab.add()
    key = sa.key_encr[:8]
    assert key
    lab.kernel.refuse = lambda request: errno.EINVAL
    with pytest.raises(DataPlaneError) as raised:
        lab.add(spi=0x3000)
    words = [str(raised.value), repr(raised.value), caplog.text, repr(lab.sas.get(sa.id))]
    words += [repr(states_of(sa, USER)), repr(list(lab.kernel.states.values()))]
    for text in words:
        assert key.hex() not in text
        assert repr(key)[2:-1] not in text

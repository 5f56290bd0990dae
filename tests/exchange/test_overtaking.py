"""Messages that overtake each other: a request about something that its receiver does not know yet (RFC 7296 §2.25)."""

from __future__ import annotations

import pytest
from ike_network import End, Pair, mirrored

from ipsecstack.keyex import base
from ipsecstack.keyex.ikev2 import machine
from ipsecstack.keyex.ikev2.informational import Liveness
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import Notify, NotifyType


class Held:
    """Holds back what one end sends, to let it go later."""

    def __init__(self, pair: Pair, who: End) -> None:
        self.pair, self.who = pair, who
        self.kept: list[base.SendDatagram] = []
        self.limit = 1
        pair.tap = self

    def __call__(self, sender: object, output: base.SendDatagram) -> bool:
        if sender is self.who and len(self.kept) < self.limit:
            self.kept.append(output)
            return False
        return True

    def release(self) -> None:
        self.pair.tap = None
        for output in self.kept:
            self.pair.deliver(output.data, output.local, output.remote)


@pytest.mark.parametrize("what", ["rekey", "terminate"])
@pytest.mark.parametrize("first", ["rekey", "create"])
def test_request_about_a_child_whose_response_is_late(first: str, what: str) -> None:
    pair = Pair(options=Options(retransmit_timeout=30.0, retransmit_jitter=0.0))
    pair.up()
    if first == "create":
        pair.a.do(pair.a.endpoint.terminate, child="net")
        pair.run(20)
    held = Held(pair, pair.b)
    if first == "rekey":
        pair.a.do(pair.a.endpoint.rekey, child="net")
    else:
        pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(0.05)
    assert len(held.kept) == 1
    if what == "rekey":
        assert pair.b.do(pair.b.endpoint.rekey, child="net") == 1
    else:
        pair.b.do(pair.b.endpoint.terminate, child="net")
    pair.run(0.1)
    held.release()
    pair.run(100)
    pair.check_agreement()
    pair.check_no_leaks()
    assert len(pair.a.children()) == len(pair.b.children()) == (1 if what == "rekey" else 0)
    assert len(pair.a.plane.sas) == 2 * len(pair.a.children())


def test_request_of_a_responder_that_is_not_authenticated_yet() -> None:
    """The responder is ahead of its own IKE_AUTH response: its request waits for it."""
    pair = Pair()
    held = Held(pair, pair.b)
    held.limit = 2
    ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(0.02)
    first = held.kept.pop()
    pair.deliver(first.data, first.local, first.remote)
    held.limit = 1
    pair.run(0.02)
    sa = pair.b.endpoint.registry.all()[0]
    assert sa.established is not None
    pair.b.do(pair.b.endpoint.rekey, child="net")
    pair.run(0.02)
    assert pair.a.endpoint.registry.all()[0].state.name == "AUTH_SENT"
    assert len(pair.a.sent) == 2, "no answer before the responder is authenticated"
    held.release()
    pair.run(20)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None
    assert outcome.success
    assert sa.active == {}
    assert len(pair.b.heard(base.ChildSaRekeyed)) == 1
    pair.check_agreement()


def test_cancelled_while_authenticating() -> None:
    """The peer may have the IKE SA already: it is told."""
    pair = Pair()
    held = Held(pair, pair.b)
    held.limit = 2
    started = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(0.02)
    first = held.kept.pop()
    pair.deliver(first.data, first.local, first.remote)
    held.limit = 1
    pair.run(0.02)
    ended, _ = pair.a.do(pair.a.endpoint.terminate, ike="conn")
    again = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    held.release()
    pair.run(100)
    assert all(pair.a.outcome(ticket) is not None for ticket in (started, ended, again))
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1, "the new attempt is another IKE SA"
    pair.check_agreement()


def test_window_of_the_peer() -> None:
    """A peer with a window of three gets three requests at a time, one without gets one (§2.3)."""
    for size, expected in ((3, 3), (1, 1), (100, 4)):
        a, b = mirrored()
        pair = Pair(a=a, b=b, options=Options(request_window=4, retransmit_jitter=0.0))
        pair.up()
        mine, theirs = pair.a.endpoint.registry.all()[0], pair.b.endpoint.registry.all()[0]
        announcement = Liveness()
        announcement.request = lambda sa, now, size=size: [  # type: ignore[method-assign]
            Notify(NotifyType.SET_WINDOW_SIZE, size.to_bytes(4, "big"))
        ]
        theirs.enqueue(announcement)
        machine.pump(theirs, pair.now)
        pair.b.flush()
        pair.run(1)
        for _ in range(6):
            mine.enqueue(Liveness())
        machine.pump(mine, pair.now)
        assert len(mine.active) == expected
        pair.a.flush()
        pair.run(30)
        assert not mine.active
        assert mine.state.name == "ESTABLISHED"


def test_no_message_id_is_used_twice() -> None:
    pair = Pair()
    pair.up()
    sa = pair.a.endpoint.registry.all()[0]
    sa.requests.next_id = 2**32 - 1
    pair.a.do(pair.a.endpoint.rekey, child="net")
    assert not pair.a.ike()
    assert [d.reason for d in pair.a.heard(base.IkeSaDeleted)] == ["expired"]


@pytest.mark.parametrize("what", ["terminate", "rekey"])
def test_the_new_ike_sa_is_used_before_the_old_one_is_deleted(what: str) -> None:
    """Both rekey the IKE SA, b's request is lost. a deletes the child on its new one before b knows that it stays."""
    pair = Pair(options=Options(retransmit_timeout=30.0, retransmit_jitter=0.0))
    pair.up()
    old = pair.a.endpoint.registry.all()[0].spi_i
    held: list[base.SendDatagram] = []

    def tap(sender: object, output: base.SendDatagram) -> bool:
        if output.data[:8] != old:
            return True
        if sender is pair.b and not output.data[19] & 0x20:
            return False
        if sender is pair.a and output.data[18] == 37:
            held.append(output)
            return False
        return True

    pair.tap = tap
    pair.b.do(pair.b.endpoint.rekey, ike="conn")
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    pair.run(0.05)
    assert len(held) == 1, "the Delete of the old IKE SA"
    if what == "terminate":
        pair.a.do(pair.a.endpoint.terminate, child="net")
    else:
        pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(0.1)
    pair.tap = None
    for output in held:
        pair.deliver(output.data, output.local, output.remote)
    pair.run(200)
    pair.check_agreement()
    pair.check_no_leaks()
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1
    assert len(pair.a.children()) == len(pair.b.children()) == (0 if what == "terminate" else 1)

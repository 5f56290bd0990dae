"""Some of the random schedules (``make converge`` plays 100,000), and what they found, each fault by its name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ike_network import Pair, mirrored
from schedules import build, play, schedule
from stage import Stage

from ipsecstack.keyex import base
from ipsecstack.keyex.ikev2 import machine, timers
from ipsecstack.keyex.ikev2.informational import Liveness
from ipsecstack.keyex.options import Options

PATIENT = Options(retransmit_timeout=5.0, retransmit_tries=4, retransmit_jitter=0.0)


@pytest.mark.parametrize("first", range(0, 400, 40))
def test_schedules(first: int) -> None:
    """Forty at a time; `python tests/exchange/converge.py --seed N` shows the one that fails."""
    for seed in range(first, first + 40):
        try:
            play(schedule(seed))
        except Exception as error:
            raise AssertionError(f"schedule {seed}: {error}") from error


def test_a_schedule_is_made_from_its_seed_alone() -> None:
    assert schedule(7) == schedule(7)
    assert schedule(7) != schedule(8)
    drawn = [schedule(seed) for seed in range(200)]
    for name in (
        "loss",
        "duplicate",
        "reorder",
        "children",
        "proposals",
        "window",
        "features",
        "only_rekeys",
    ):
        assert len({getattr(plan, name) for plan in drawn}) > 1, f"{name} is always the same"


@pytest.mark.parametrize("due", ["rekey_at", "expire_at"])
def test_an_ike_sa_that_is_being_deleted_does_not_spin_on_what_came_due(due: str) -> None:
    """Its Delete is not answered, and the time of a rekeying or of its end comes: nothing is to be done then."""
    pair = Pair(options=PATIENT)
    pair.up()
    sa = pair.a.endpoint.registry.all()[0]
    pair.tap = lambda sender, output: False
    setattr(sa, due, pair.now + 3)
    pair.a.do(pair.a.endpoint.terminate, ike="conn")
    for _ in range(100):
        later = timers.deadline(sa)
        if later is None:
            break
        assert later > pair.now, "due, but nothing is done about it"
        pair.run(later - pair.now, steps=100)
    assert not pair.a.ike()


def test_a_full_window_with_an_early_gap_does_not_spin() -> None:
    """Of four requests under way the first is lost: the later ones are answered, and what waits goes on waiting."""
    pair = Pair(options=Options(request_window=4, retransmit_timeout=5.0, retransmit_jitter=0.0))
    pair.up()
    sa = pair.a.endpoint.registry.all()[0]
    sa.requests.size = 4
    first: list[int] = []

    def tap(sender: object, output: object) -> bool:
        if sender is pair.a and not first:
            first.append(1)
            return False
        return True

    pair.tap = tap
    theirs = pair.b.endpoint.registry.all()[0]
    theirs.responses.size = 4
    for _ in range(6):
        sa.enqueue(Liveness())
    machine.pump(sa, pair.now)
    pair.a.flush()
    pair.run(1, steps=500)
    assert len(sa.active) == 1
    assert len(sa.queue) == 2
    pair.run(20, steps=500)
    assert not sa.active
    assert not sa.queue


@pytest.mark.parametrize("seed", range(8))
def test_the_loser_of_a_collision_sends_over_the_old_sa_until_it_is_deleted(seed: int) -> None:
    """Both rekey the child. One learns that it lost and deletes its redundant SA, while the other still waits for the
    response that makes the winner: over that one nothing may be sent yet (RFC 7296 §2.8.1)."""
    for late in ("a", "b"):
        pair = Pair(a=mirrored()[0], b=mirrored()[1], seed=seed, options=PATIENT)
        pair.up()
        waiting = getattr(pair, late)
        reqid = {end.name: end.children()[0].reqid for end in pair.ends}
        for end in pair.ends:
            end.do(end.endpoint.rekey, child="net")
        held: list[bytes] = []

        def tap(sender: object, output: object, waiting: object = waiting, held: list[bytes] = held) -> bool:
            data = output.data  # type: ignore[attr-defined]
            if sender is not waiting and data[18] == 36 and data[19] & 0x20 and not held:
                held.append(data)  # comes again with the retransmission of its request
                return False
            return True

        pair.tap = tap
        limit = pair.now + 60
        while pair.step(limit):
            for one, other in ((pair.a, pair.b), (pair.b, pair.a)):
                sending = one.plane.sending(reqid[one.name])
                assert sending is not None
                assert sending.spi in {sa.spi for sa in other.plane.inbound()}
        assert held
        pair.check_agreement()
        assert len(pair.a.children()) == 1


def test_rekeyed_child_sas_are_forgotten() -> None:
    """No chain from the newest to all that were before."""
    pair = Pair()
    pair.up()
    for _ in range(5):
        pair.a.do(pair.a.endpoint.rekey, child="net")
        pair.run(20)
    child = pair.a.endpoint.registry.all()[0].children[0]
    assert child.replaces is not None
    assert child.replaces.replaces is None


@pytest.mark.parametrize("command", ["terminate", "rekey"])
def test_a_child_is_not_touched_while_the_ike_sa_has_key_exchanges_to_finish(command: str) -> None:
    """The peer rekeys the IKE SA in several steps. A Delete on the old one would be lost with it, and the child would
    stay at one end: it goes over the new one."""
    plan = replace(schedule(1), proposals="hybrid", children=1, window=1, features=frozenset(), steps=())
    pair = build(plan)
    pair.b.do(pair.b.endpoint.rekey, ike="conn")
    pair.run(0.012)
    assert pair.a.endpoint.registry.all()[0].pending_ke
    pair.tap = lambda sender, output: (
        sender is not pair.a or output.data[18] != 37
    )  # the Delete, if it goes at once
    pair.a.do(getattr(pair.a.endpoint, command), child="net")
    pair.run(0.03)
    pair.tap = None
    pair.run(100)
    pair.check_agreement()
    pair.check_no_leaks()
    for end in pair.ends:
        assert [c.state for c in end.children()] == (["INSTALLED"] if command == "rekey" else [])
        assert len(end.heard(base.IkeSaRekeyed)) == 1


def test_an_sa_that_was_overtaken_does_not_send_any_more() -> None:
    """a rekeys, b rekeys the new one before it has the Delete of the first one: that Delete, when it comes, may not
    make b send over the second one, which it has just deleted itself."""
    stage = Stage()
    stage.rekey_child("a")
    stage.arrive("a")
    stage.arrive("b")
    assert stage.waiting("a") == ["info?"]
    second = stage.ike_sa("b").children[-1]
    stage.b.do(stage.b.endpoint.rekey, child_id=second.uniqueid)
    stage.arrive("b")
    stage.arrive("a", "create!")
    third = stage.ike_sa("b").children[-1]
    assert stage.b.plane.sending(second.reqid).spi == third.spi_out  # type: ignore[union-attr]
    assert stage.waiting("b") == ["info?"], "b deletes the second one"
    stage.arrive("a", "info?")
    assert stage.b.plane.sending(second.reqid).spi == third.spi_out  # type: ignore[union-attr]
    stage.play_on()
    stage.settled()

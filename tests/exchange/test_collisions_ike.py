"""The catalogue of collisions around an IKE SA (strongSwan tests the same ones), each order of arrival played.

a and b hold one IKE SA, "old", with one Child SA, which has to be there afterwards, on the IKE SA that survives. Of two
new ones, the one whose exchange has the lowest of the four nonces is redundant, and the end that asked for it deletes
it (RFC 7296 §2.8.1, §2.8.2, §2.25.2).

| case                     | what happens                                                        | what survives   |
|--------------------------|---------------------------------------------------------------------|-----------------|
| regular                  | one end rekeys                                                      | its new one     |
| other group              | INVALID_KE_PAYLOAD, again with the group asked for                  | its new one     |
| collision                | both rekey at once                                                  | by nonces       |
| other groups, collision  | both get INVALID_KE_PAYLOAD, the second tries collide               | by nonces       |
| other groups, late retry | the second try of one comes when the other is done                  | B's             |
| late response            | one end has deleted before the other has its response               | by nonces       |
| lost request             | b sees no collision and deletes the old one                         | B's             |
| late request             | TEMPORARY_FAILURE while the old one is being deleted (2 orders)     | B's             |
| redundant one forgotten  | the loser dropped it without a word: the winner forgets it in time  | the winner      |
| rekey, delete            | cross: TEMPORARY_FAILURE, the Delete wins (also when it is late)    | nothing         |
| delete                   | by either end; by both at once                                      | nothing         |
| IDs out of step          | notifications of RFC 6311, which we do not offer, change nothing    | the IKE SA      |

Cases with several key exchanges are in ``test_followup_ke``. Left out: RFC 6311's own exchanges (message IDs
set anew within a cluster), which neither this stack nor the issue asks for.
"""

from __future__ import annotations

import pytest
from ike_network import IKE_GCM, Pair
from stage import Stage, groups

from ipsecstack.keyex import base
from ipsecstack.keyex.ikev2 import machine
from ipsecstack.keyex.ikev2.informational import Liveness
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.wire.ikev2 import Notify, Payload
from ipsecstack.wire.transforms import KeId

LOW, HIGH = 0x01, 0xF0
LOWEST = [("a asks", "b"), ("b answers", "b"), ("b asks", "a"), ("a answers", "a")]
by_nonce = pytest.mark.parametrize(
    ("lowest", "winner"), LOWEST, ids=[f"lowest: {name}" for name, _ in LOWEST]
)
unseen = pytest.mark.parametrize("lowest", ["a asks", "b asks", "a answers"])
both_ends = pytest.mark.parametrize("who", ["a", "b"])
IKEV2_MESSAGE_ID_SYNC_SUPPORTED, IKEV2_MESSAGE_ID_SYNC = 16420, 16422  # RFC 6311 §9


def other(who: str) -> str:
    return "b" if who == "a" else "a"


def octet(lowest: str, which: str) -> int:
    return LOW if lowest == which else HIGH


def cross(stage: Stage, lowest: str) -> None:
    """Both ends rekey, and both have the other's request: the responses are under way."""
    stage.rekey_ike("a", octet(lowest, "a asks"))
    stage.rekey_ike("b", octet(lowest, "b asks"))
    stage.arrive("a", nonce=octet(lowest, "b answers"))
    stage.arrive("b", nonce=octet(lowest, "a answers"))
    assert stage.waiting("a") == stage.waiting("b") == ["create!"]


def rekeyed_once(stage: Stage) -> None:
    stage.settled()
    for end in stage.ends:
        assert len(end.heard(base.IkeSaRekeyed)) == 1
        assert not end.heard(base.IkeSaDeleted)
        assert not end.heard(base.ChildSaDeleted)
    for end in stage.ends:  # it works in both directions
        end.do(end.endpoint.rekey, child="net")
        stage.run(30)
    stage.settled()


@both_ends
def test_regular(who: str) -> None:
    stage = Stage()
    stage.rekey_ike(who)
    stage.arrive(who)
    stage.arrive(other(who))
    assert stage.waiting(who) == ["info?"], "the initiator deletes the old one"
    stage.play_on()
    assert stage.ike_survivor() == who
    rekeyed_once(stage)


@both_ends
def test_other_group(who: str) -> None:
    """Both know the group of the IKE SA; the end that rekeys wants another first, since its configuration changed."""
    mine, theirs = (KeId.ECP_384, KeId.ECP_256), (KeId.ECP_256,)
    kinds = (mine, theirs) if who == "a" else (theirs, mine)
    stage = Stage(**groups((KeId.CURVE_25519,), (KeId.CURVE_25519,), IKE_GCM, ike=True))
    reconfigure(stage, *kinds)
    stage.rekey_ike(who)
    stage.arrive(who)
    stage.arrive(other(who))
    assert stage.waiting(who) == ["create?"]
    assert stage.said_error(other(who), "INVAL_KE")
    stage.play_on()
    assert stage.ike_survivor() == who
    rekeyed_once(stage)


def reconfigure(stage: Stage, at_a: tuple[KeId, ...], at_b: tuple[KeId, ...]) -> None:
    """Other groups for what comes: those of the IKE SA's configuration, which its rekeying goes by."""
    both = groups(at_a, at_b, IKE_GCM, ike=True)
    for who in "ab":
        stage.end(who).load(both[who])
        stage.ike_sa(who).config = both[who]


@by_nonce
def test_collision(lowest: str, winner: str) -> None:
    stage = Stage()
    cross(stage, lowest)
    stage.arrive("b")
    stage.arrive("a")
    assert stage.waiting("a") == stage.waiting("b") == ["info?"]
    stage.play_on()
    assert stage.ike_survivor() == winner
    rekeyed_once(stage)


OWN = ((KeId.ECP_384, KeId.ECP_256), (KeId.ECP_521, KeId.ECP_256))


def refuse_each_other(stage: Stage, lowest: str) -> None:
    """Both ask with a group that the other does not take, and begin again."""
    reconfigure(stage, *OWN)
    stage.rekey_ike("a")
    stage.rekey_ike("b")
    stage.arrive("a")
    stage.arrive("b")
    stage.first_octet["a"] = octet(lowest, "a asks")
    stage.arrive("b", "create!")
    stage.first_octet["b"] = octet(lowest, "b asks")
    stage.arrive("a", "create!")
    assert stage.waiting("a") == stage.waiting("b") == ["create?"]


@by_nonce
def test_other_groups_and_the_second_tries_collide(lowest: str, winner: str) -> None:
    stage = Stage()
    refuse_each_other(stage, lowest)
    stage.arrive("a", nonce=octet(lowest, "b answers"))
    stage.arrive("b", "create?", nonce=octet(lowest, "a answers"))
    stage.play_on()
    assert stage.ike_survivor() == winner
    rekeyed_once(stage)


@unseen
def test_other_groups_and_one_second_try_is_late(lowest: str) -> None:
    stage = Stage()
    refuse_each_other(stage, lowest)
    stage.arrive("b", "create?", nonce=octet(lowest, "a answers"))
    stage.arrive("a", "create!")
    assert stage.waiting("b") == ["info?"], "b saw no collision"
    stage.arrive("a", "create?")
    assert stage.said_error("b", "TEMP_FAIL")
    stage.play_on()
    assert stage.ike_survivor() == "b"
    rekeyed_once(stage)


@by_nonce
def test_late_response(lowest: str, winner: str) -> None:
    stage = Stage()
    cross(stage, lowest)
    stage.arrive("a")
    assert stage.waiting("b") == ["create!", "info?"]
    stage.arrive("b", "info?")
    stage.arrive("a", "info!")
    stage.arrive("b", "create!")
    stage.play_on()
    assert stage.ike_survivor() == winner
    rekeyed_once(stage)


@unseen
def test_lost_request(lowest: str) -> None:
    stage = Stage()
    stage.rekey_ike("a", octet(lowest, "a asks"))
    stage.rekey_ike("b", octet(lowest, "b asks"))
    lost = stage.lose("a")
    stage.arrive("b", nonce=octet(lowest, "a answers"))
    stage.arrive("a", "create!")
    stage.arrive("b", "info?")
    stage.arrive("a", "info!")
    stage.deliver(lost.data, lost.local, lost.remote)
    stage.play_on()
    assert stage.ike_survivor() == "b"
    rekeyed_once(stage)


@pytest.mark.parametrize("delete_first", [True, False])
@unseen
def test_late_request(lowest: str, delete_first: bool) -> None:
    stage = Stage()
    stage.rekey_ike("a", octet(lowest, "a asks"))
    stage.rekey_ike("b", octet(lowest, "b asks"))
    stage.arrive("b", nonce=octet(lowest, "a answers"))
    stage.arrive("a", "create!")
    assert stage.waiting("b") == ["info?"]
    stage.arrive("a", "create?")
    assert stage.said_error("b", "TEMP_FAIL")
    stage.arrive("b", "info?" if delete_first else "create!")
    stage.arrive("b")
    stage.play_on()
    assert stage.ike_survivor() == "b"
    rekeyed_once(stage)


@pytest.mark.parametrize("lowest", ["b asks", "a answers"])
def test_redundant_one_is_forgotten(lowest: str) -> None:
    """a wins. Its Delete arrives before its response, and b drops its own new one: a's copy of it may not stay."""
    stage = Stage()
    cross(stage, lowest)
    late = stage.lose("a", "create!")
    stage.arrive("b", "create!")
    sa = next(sa for sa in stage.b.endpoint.registry.all() if sa.active)
    assert stage.waiting("a") == ["info?"]
    stage.arrive("a", "info?")
    assert sa not in stage.b.endpoint.registry.all()
    assert len(stage.b.ike()) == 1
    stage.deliver(late.data, late.local, late.remote)
    stage.arrive("b", "info!")
    assert len(stage.a.ike()) == 2
    stage.play_on(stage.a.options.redundant_timeout + 0.1)
    assert stage.ike_survivor() == "a"
    rekeyed_once(stage)
    assert any("was not deleted by the peer, forgetting it" in line for line in stage.a.log())


@pytest.mark.parametrize("late", [False, True])
@both_ends
def test_rekey_and_delete(who: str, late: bool) -> None:
    stage = Stage()
    stage.rekey_ike(who)
    stage.close_ike(other(who))
    stage.arrive(who)
    assert stage.said_error(other(who), "TEMP_FAIL")
    if late:
        stage.arrive(other(who), "create!")
    else:
        stage.arrive(other(who), "info?")
    stage.play_on()
    stage.settled(ikes=0, children=0)
    for end in stage.ends:
        assert len(end.heard(base.IkeSaDeleted)) == 1


@both_ends
def test_delete(who: str) -> None:
    stage = Stage()
    stage.close_ike(who)
    stage.arrive(who)
    stage.arrive(other(who))
    assert stage.waiting("a") == stage.waiting("b") == []
    stage.settled(ikes=0, children=0)


@pytest.mark.parametrize("first", ["a", "b"])
def test_delete_by_both(first: str) -> None:
    stage = Stage()
    stage.close_ike("a")
    stage.close_ike("b")
    stage.arrive(first)
    stage.play_on()
    stage.settled(ikes=0, children=0)
    for end in stage.ends:
        assert len(end.heard(base.IkeSaDeleted)) == 1
        assert len(end.heard(base.ChildSaDeleted)) == 1


class SetIds(Liveness):
    """RFC 6311's notification: our next message IDs are these, to be taken over by the peer."""

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        ids = (1000).to_bytes(4, "big") + (2000).to_bytes(4, "big")
        return [Notify(IKEV2_MESSAGE_ID_SYNC, b"\x00\x01\x02\x03" + ids)]


def test_message_ids_are_not_set_by_a_notification() -> None:
    pair = Pair()
    pair.up()
    mine, theirs = pair.a.endpoint.registry.all()[0], pair.b.endpoint.registry.all()[0]
    theirs.enqueue(SetIds())
    before = mine.requests.next_id, mine.responses.expected
    machine.pump(theirs, pair.now)
    pair.b.flush()
    pair.run(5)
    assert (mine.requests.next_id, mine.responses.expected) == (before[0], before[1] + 1)
    for end in pair.ends:
        end.do(end.endpoint.rekey, child="net")
        pair.run(20)
    pair.check_agreement()
    assert len(pair.a.heard(base.ChildSaRekeyed)) == 2

"""The catalogue of collisions around a Child SA (strongSwan tests the same ones), each order of arrival played.

a and b hold one Child SA, "old". "A's" and "B's" are the new ones that their requests make. Of two, the one whose
exchange has the lowest of the four nonces is redundant, and the end that asked for it deletes it (RFC 7296 §2.8.1).

| case                      | what happens                                                     | what survives        |
|---------------------------|------------------------------------------------------------------|----------------------|
| regular                   | one end rekeys                                                   | its new one          |
| other group               | INVALID_KE_PAYLOAD, again with the group asked for               | its new one          |
| soft limit at responder   | comes between response and Delete: ignored                       | the new one          |
| hard limit at responder   | likewise: the responder deletes the old one itself               | the new one          |
| responder closes new      | before the Delete of the old one                                 | nothing              |
| responder lost the old    | CHILD_SA_NOT_FOUND                                               | a new one, made anew |
| wrong Delete              | responder deletes the old one before its response arrives        | the new one          |
| Delete never answered     | each SA is told of once, the IKE SA is given up                  | nothing              |
| collision                 | both rekey at once                                               | by nonces            |
| late response             | one end has deleted before the other has its response            | by nonces            |
| late response, closed     | and it has closed the survivor, too                              | nothing              |
| late request              | TEMPORARY_FAILURE while the old one is being deleted (2 orders)  | B's                  |
| later request             | CHILD_SA_NOT_FOUND, the old one is deleted already               | B's                  |
| later request, closed     | and so is the new one                                            | nothing              |
| other groups, collision   | both get INVALID_KE_PAYLOAD, the second tries collide            | by nonces            |
| other groups, late retry  | the second try of one comes when the other is done               | B's                  |
| wrong Delete in collision | the loser deletes the old one, too, before its response arrives  | the winner           |
| rekey, close              | cross: TEMPORARY_FAILURE, the Delete wins (also with either late) | nothing              |
| close new, late response  | Delete for an SA that the receiver does not know yet             | nothing              |
| rekey, IKE rekey          | cross: TEMPORARY_FAILURE for both, again later (§2.25.2)         | one of each          |
| rekey, IKE close          | cross                                                            | nothing              |
| duplicate                 | a child that is up is not made again                             | the old one          |
| create, IKE rekey         | cross: TEMPORARY_FAILURE, again later                            | one of each          |
| close                     | by either end; by both at once; by both, one late                | nothing              |
| close, IKE rekey          | cross: TEMPORARY_FAILURE for the rekeying, which comes again     | the IKE SA           |
| close, IKE close          | cross                                                            | nothing              |

Cases with several key exchanges are in ``test_followup_ke``, those of IKE SAs in ``test_collisions_ike``.
"""

from __future__ import annotations

import pytest
from ike_network import ESP_GCM
from stage import Stage, groups

from ipsecstack.keyex import base
from ipsecstack.keyex.options import Options
from ipsecstack.wire.transforms import KeId

LOW, HIGH = 0x01, 0xF0
# Which nonce is the lowest: of A's request, of B's response to it, of B's request, of A's response to it.
LOWEST = [("a asks", "b"), ("b answers", "b"), ("b asks", "a"), ("a answers", "a")]
by_nonce = pytest.mark.parametrize(
    ("lowest", "winner"), LOWEST, ids=[f"lowest: {name}" for name, _ in LOWEST]
)
both_ends = pytest.mark.parametrize("who", ["a", "b"])


def other(who: str) -> str:
    return "b" if who == "a" else "a"


def octet(lowest: str, which: str) -> int:
    return LOW if lowest == which else HIGH


def cross(stage: Stage, lowest: str) -> None:
    """Both ends rekey, and both have the other's request: the responses are under way."""
    stage.rekey_child("a", octet(lowest, "a asks"))
    stage.rekey_child("b", octet(lowest, "b asks"))
    stage.arrive("a", nonce=octet(lowest, "b answers"))
    stage.arrive("b", nonce=octet(lowest, "a answers"))
    assert stage.waiting("a") == stage.waiting("b") == ["create!"]


@both_ends
def test_regular(who: str) -> None:
    stage = Stage()
    stage.rekey_child(who)
    stage.arrive(who)
    stage.arrive(other(who))
    assert stage.waiting(who) == ["info?"], "the initiator deletes the old one"
    stage.play_on()
    stage.settled()
    assert stage.survivor() == who


@both_ends
def test_other_group(who: str) -> None:
    mine, theirs = (KeId.CURVE_25519, KeId.ECP_256), (KeId.ECP_256,)
    stage = Stage(**(groups(mine, theirs, ESP_GCM) if who == "a" else groups(theirs, mine, ESP_GCM)))
    stage.rekey_child(who)
    refused = stage.offered[who]
    stage.arrive(who)
    stage.arrive(other(who))
    assert stage.waiting(who) == ["create?"]
    assert stage.said_error(other(who), "INVAL_KE")
    stage.play_on()
    stage.settled()
    child = stage.end(who).children()[0]
    assert child.ke is KeId.ECP_256
    assert child.spi_in != refused, "what was reserved for the first try was given back"


def test_soft_limit_at_the_responder() -> None:
    stage = Stage()
    old = stage.b.children()[0].inbound
    stage.rekey_child("a")
    stage.arrive("a")
    stage.b.do(stage.b.endpoint.sa_expired, sa=old, hard=False)
    assert stage.waiting("b") == ["create!"], "no rekeying of its own"
    stage.play_on()
    stage.settled()
    assert stage.survivor() == "a"


def test_hard_limit_at_the_responder() -> None:
    stage = Stage()
    old = stage.b.children()[0].inbound
    stage.rekey_child("a")
    stage.arrive("a")
    stage.b.do(stage.b.endpoint.sa_expired, sa=old, hard=True)
    assert stage.waiting("b") == ["create!", "info?"]
    stage.arrive("b", "create!")
    stage.play_on()
    stage.settled()
    assert stage.survivor() == "a"
    for end in stage.ends:
        assert len(end.heard(base.ChildSaRekeyed)) == 1


@pytest.mark.parametrize("late", [False, True])
def test_responder_closes_the_new_one(late: bool) -> None:
    stage = Stage()
    stage.rekey_child("a")
    stage.arrive("a")
    new = next(c for c in stage.b.children() if c.state == "INSTALLED")
    if not late:
        stage.arrive("b")
    stage.close_child("b", child_id=new.uniqueid)
    if not late:
        stage.arrive("a", "info?")
    stage.play_on()
    stage.settled(children=0)


def test_responder_lost_the_old_one() -> None:
    stage = Stage()
    stage.b.do(stage.b.endpoint.terminate, child="net", force=True)
    stage.lose("b")
    stage.ike_sa("b").active.clear()
    stage.ike_sa("b").requests.clear()
    stage.ike_sa("b").requests.next_id -= 1
    stage.rekey_child("a")
    stage.arrive("a")
    assert stage.said_error("b", "NO_CHILD_SA") or stage.said_error("b", "CHILD_SA_NOT_FOUND")
    stage.play_on()
    stage.settled()


def test_responder_deletes_the_old_one_before_its_response_arrives() -> None:
    stage = Stage()
    old = stage.ike_sa("b").children[0]
    stage.rekey_child("a")
    stage.arrive("a")
    stage.delete_child("b", old)
    stage.arrive("b", "info?")
    stage.arrive("a", "info!")
    stage.arrive("b", "create!")
    stage.play_on()
    stage.settled()
    assert stage.survivor() == "a"


def test_delete_that_is_never_answered() -> None:
    stage = Stage(retransmit_timeout=2.0)
    stage.rekey_child("a")
    stage.arrive("a")
    stage.arrive("b")
    assert stage.waiting("a") == ["info?"]
    stage.run(100)
    assert not stage.a.ike()
    assert len(stage.a.heard(base.ChildSaRekeyed)) == 1
    deleted = stage.a.heard(base.ChildSaDeleted)
    assert len({d.child.uniqueid for d in deleted}) == len(deleted) == 2
    assert sorted(d.reason for d in deleted) == ["rekeyed", "timeout"]
    assert not stage.a.plane.sas
    assert not stage.a.plane.reserved


@by_nonce
def test_collision(lowest: str, winner: str) -> None:
    stage = Stage()
    cross(stage, lowest)
    stage.arrive("b")
    stage.arrive("a")
    assert stage.waiting("a") == stage.waiting("b") == ["info?"]
    stage.play_on()
    stage.settled()
    assert stage.survivor() == winner
    for end in stage.ends:
        assert len(end.heard(base.ChildSaRekeyed)) == 1


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
    stage.settled()
    assert stage.survivor() == winner


@by_nonce
def test_late_response_and_the_survivor_is_closed(lowest: str, winner: str) -> None:
    stage = Stage()
    cross(stage, lowest)
    stage.arrive("a")
    stage.arrive("b", "info?")
    stage.arrive("a", "info!")
    stage.close_child("b")
    while "info?" in stage.waiting("b"):
        stage.arrive("b", "info?")
        stage.arrive("a", "info!")
    stage.arrive("b", "create!")
    stage.play_on()
    stage.settled(children=0)


@pytest.mark.parametrize("delete_first", [True, False])
@pytest.mark.parametrize("lowest", ["a asks", "b asks", "a answers"])
def test_late_request(lowest: str, delete_first: bool) -> None:
    stage = Stage()
    stage.rekey_child("a", octet(lowest, "a asks"))
    stage.rekey_child("b", octet(lowest, "b asks"))
    stage.arrive("b", nonce=octet(lowest, "a answers"))
    stage.arrive("a", "create!")
    assert stage.waiting("b") == ["info?"]
    stage.arrive("a", "create?")
    assert stage.said_error("b", "TEMP_FAIL")
    stage.arrive("b", "info?" if delete_first else "create!")
    stage.arrive("b")
    stage.play_on()
    stage.settled()
    assert stage.survivor() == "b"


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("lowest", ["a asks", "b asks", "a answers"])
def test_later_request(lowest: str, closed: bool) -> None:
    stage = Stage()
    stage.rekey_child("a", octet(lowest, "a asks"))
    stage.rekey_child("b", octet(lowest, "b asks"))
    stage.arrive("b", nonce=octet(lowest, "a answers"))
    stage.arrive("a", "create!")
    stage.arrive("b", "info?")
    stage.arrive("a", "info!")
    if closed:
        stage.close_child("b")
        stage.arrive("b", "info?")
        stage.arrive("a", "info!")
    stage.arrive("a", "create?")
    assert stage.said_error("b", "CHILD_SA_NOT_FOUND") or stage.said_error("b", "NO_CHILD_SA")
    stage.play_on()
    if closed:
        stage.settled(children=0)
    else:
        stage.settled()
        assert stage.survivor() == "b"


OWN = {"at_a": (KeId.CURVE_25519, KeId.ECP_256), "at_b": (KeId.ECP_384, KeId.ECP_256)}


@by_nonce
def test_other_groups_and_the_second_tries_collide(lowest: str, winner: str) -> None:
    stage = Stage(**groups(**OWN, proposal=ESP_GCM))
    stage.rekey_child("a")
    stage.rekey_child("b")
    stage.arrive("a")
    stage.arrive("b")
    stage.first_octet["a"] = octet(lowest, "a asks")
    stage.arrive("b", "create!")
    stage.first_octet["b"] = octet(lowest, "b asks")
    stage.arrive("a", "create!")
    assert stage.waiting("a") == stage.waiting("b") == ["create?"]
    stage.arrive("a", nonce=octet(lowest, "b answers"))
    stage.arrive("b", "create?", nonce=octet(lowest, "a answers"))
    stage.play_on()
    stage.settled()
    assert stage.a.children()[0].ke is KeId.ECP_256
    initiated = [any("collision won" in line for line in end.log()) for end in stage.ends]
    assert initiated == [winner == "a", winner == "b"]


@pytest.mark.parametrize("lowest", ["a asks", "b asks", "a answers"])
def test_other_groups_and_one_second_try_is_late(lowest: str) -> None:
    stage = Stage(**groups(**OWN, proposal=ESP_GCM))
    stage.rekey_child("a")
    stage.rekey_child("b")
    stage.arrive("a")
    stage.arrive("b")
    stage.first_octet["a"] = octet(lowest, "a asks")
    stage.arrive("b", "create!")
    stage.first_octet["b"] = octet(lowest, "b asks")
    stage.arrive("a", "create!")
    stage.arrive("b", "create?", nonce=octet(lowest, "a answers"))
    stage.arrive("a", "create!")
    assert stage.waiting("b") == ["info?"], "b saw no collision"
    stage.arrive("a", "create?")
    assert stage.said_error("b", "TEMP_FAIL")
    stage.play_on()
    stage.settled()
    assert stage.a.children()[0].ke is KeId.ECP_256


def test_loser_deletes_the_old_one_too_before_its_response_arrives() -> None:
    stage = Stage()
    sa = stage.ike_sa("b")
    old = sa.children[0]
    cross(stage, "b asks")
    stage.arrive("a")
    assert stage.waiting("b") == ["create!", "info?"]
    stage.arrive("b", "info?")
    stage.arrive("a", "info!")
    stage.delete_child("b", old)
    stage.arrive("b", "info?")
    stage.arrive("a", "info!")
    stage.arrive("b", "create!")
    stage.play_on()
    stage.settled()
    assert stage.survivor() == "a"


@pytest.mark.parametrize("late", ["", "rekey", "delete"])
@both_ends
def test_rekey_and_close(who: str, late: str) -> None:
    stage = Stage()
    stage.rekey_child(who)
    stage.close_child(other(who))
    if late == "rekey":
        stage.arrive(other(who))
        stage.arrive(who, "info!")
        stage.arrive(who, "create?")
        assert stage.said_error(other(who), "CHILD_SA_NOT_FOUND") or stage.said_error(
            other(who), "NO_CHILD_SA"
        )
    else:
        stage.arrive(who)
        assert stage.said_error(other(who), "TEMP_FAIL")
        stage.arrive(other(who), "create!" if late == "delete" else "info?")
    stage.play_on()
    stage.settled(children=0)


@both_ends
def test_new_one_is_closed_before_its_response_arrives(who: str) -> None:
    stage = Stage()
    stage.rekey_child(who)
    stage.arrive(who)
    new = next(c for c in stage.end(other(who)).children() if c.state == "INSTALLED")
    stage.close_child(other(who), child_id=new.uniqueid)
    stage.arrive(other(who), "info?")
    stage.arrive(who, "info!")
    stage.arrive(other(who), "create!")
    stage.play_on()
    stage.settled(children=0)


@both_ends
def test_rekey_and_ike_rekey(who: str) -> None:
    stage = Stage()
    stage.rekey_child(who)
    stage.rekey_ike(other(who))
    stage.arrive(who)
    stage.arrive(other(who), "create?")
    assert stage.said_error("a", "TEMP_FAIL")
    assert stage.said_error("b", "TEMP_FAIL")
    stage.play_on()
    stage.settled()
    for end in stage.ends:
        assert len(end.heard(base.ChildSaRekeyed)) == 1
        assert len(end.heard(base.IkeSaRekeyed)) == 1


@both_ends
def test_rekey_and_ike_close(who: str) -> None:
    stage = Stage()
    stage.rekey_child(who)
    stage.close_ike(other(who))
    stage.arrive(who)
    assert stage.said_error(other(who), "TEMP_FAIL")
    stage.play_on()
    stage.settled(ikes=0, children=0)


@both_ends
def test_duplicate(who: str) -> None:
    stage = Stage()
    end = stage.end(who)
    ticket = end.do(end.endpoint.initiate, ike=None, child="net")
    assert stage.waiting(who) == []
    outcome = end.outcome(ticket)
    assert outcome is not None
    assert outcome.success
    stage.play_on()
    stage.settled()


@both_ends
def test_create_and_ike_rekey(who: str) -> None:
    stage = Stage()
    stage.close_child(who)
    stage.arrive(who)
    stage.arrive(other(who))
    stage.run(20)
    end = stage.end(who)
    ticket = end.do(end.endpoint.initiate, ike=None, child="net")
    stage.rekey_ike(other(who))
    stage.arrive(who)
    stage.arrive(other(who), "create?")
    assert stage.said_error("a", "TEMP_FAIL")
    assert stage.said_error("b", "TEMP_FAIL")
    stage.play_on()
    stage.settled()
    outcome = end.outcome(ticket)
    assert outcome is not None
    assert outcome.success


@both_ends
def test_close(who: str) -> None:
    stage = Stage()
    stage.close_child(who)
    stage.play_on()
    stage.settled(children=0)


@pytest.mark.parametrize("late", [False, True])
def test_close_by_both(late: bool) -> None:
    stage = Stage()
    stage.close_child("a")
    stage.close_child("b")
    stage.arrive("a")
    if late:
        stage.arrive("b", "info!")
        assert not stage.a.children("INSTALLED", "DELETING")
    stage.play_on()
    stage.settled(children=0)
    for end in stage.ends:
        assert len(end.heard(base.ChildSaDeleted)) == 1


@both_ends
def test_close_and_ike_rekey(who: str) -> None:
    stage = Stage()
    stage.close_child(who)
    stage.rekey_ike(other(who))
    stage.arrive(who)
    stage.arrive(other(who), "create?")
    assert stage.said_error(who, "TEMP_FAIL")
    stage.play_on()
    stage.settled(children=0)
    assert len(stage.a.heard(base.IkeSaRekeyed)) == 1


@both_ends
def test_close_and_ike_close(who: str) -> None:
    stage = Stage()
    stage.close_child(who)
    stage.close_ike(other(who))
    stage.arrive(who)
    stage.play_on()
    stage.settled(ikes=0, children=0)


def test_the_options_of_the_stage_are_those_of_the_endpoints() -> None:
    assert Stage(retransmit_timeout=7.0).a.options == Options(
        retransmit_timeout=7.0, retransmit_jitter=0.0, retransmit_tries=1
    )

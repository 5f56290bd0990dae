"""One error notification at a time: what an end does that receives it (docs/ikev2-notifies.md lists all)."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ike_network import Pair, host, mirrored

from ipsecstack.ipsec.sa import Direction, SecurityProtocol
from ipsecstack.keyex.base import ChildSaDeleted, CommandFinished
from ipsecstack.keyex.ikev2 import answer, machine
from ipsecstack.keyex.ikev2.informational import Liveness
from ipsecstack.keyex.ikev2.task import Refusal
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import Delete, Notify, NotifyType, Opaque, Payload, parse_message

Refuse = Callable[[NotifyType, int], None]


@pytest.fixture
def pair() -> Pair:
    """Up, with a second child configured."""
    a, b = mirrored()
    two = replace(
        a.children[0], name="two", remote_ts=a.children[0].local_ts, local_ts=a.children[0].local_ts
    )
    made = Pair(
        a=replace(a, children=(*a.children, two)),
        b=replace(b, children=(*b.children, replace(two, local_ts=two.remote_ts, remote_ts=two.local_ts))),
    )
    made.up()
    return made


@pytest.fixture
def refuse(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """``b`` answers the next requests for Child SAs with a notification."""
    original = answer.choose
    left: list[NotifyType] = []

    def choose(sa: Any, *args: Any, **options: Any) -> Any:
        if sa.host is pair.b.endpoint and left:
            raise Refusal(left.pop(), "as the test wants it")
        return original(sa, *args, **options)

    monkeypatch.setattr(answer, "choose", choose)

    def arm(notify: NotifyType, times: int) -> None:
        left.extend([notify] * times)

    return arm


def second(pair: Pair, seconds: float = 60) -> CommandFinished:
    ticket = pair.a.do(pair.a.endpoint.initiate, ike="conn", child="two")
    pair.run(seconds)
    result = pair.a.outcome(ticket)
    assert result is not None
    return result


def tell(pair: Pair, *payloads: Payload) -> None:
    """``b`` sends these in an INFORMATIONAL request."""
    task = Liveness()
    task.request = lambda sa, now: list(payloads)  # type: ignore[method-assign]
    sa = pair.b.endpoint.registry.all()[0]
    sa.enqueue(task)
    machine.pump(sa, pair.now)
    pair.b.flush()
    pair.run(20)


@pytest.mark.parametrize(
    "notify",
    [NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.TS_UNACCEPTABLE, NotifyType.INVALID_SYNTAX],
)
def test_a_refused_child_leaves_the_ike_sa(pair: Pair, refuse: Refuse, notify: NotifyType) -> None:
    refuse(notify, 1)
    result = second(pair)
    assert not result.success
    assert notify.name in result.message
    assert notify.name in pair.a.failures()
    assert [c.name for c in pair.a.children()] == ["net"]
    pair.check_agreement()
    pair.check_no_leaks()


def test_temporary_failure_is_tried_again(pair: Pair, refuse: Refuse) -> None:
    refuse(NotifyType.TEMPORARY_FAILURE, 2)
    assert second(pair).success
    assert "TEMPORARY_FAILURE" not in pair.a.failures()
    assert len(pair.a.children()) == 2


def test_temporary_failure_of_a_rekeying_keeps_the_old_sa(pair: Pair, refuse: Refuse) -> None:
    (before,) = pair.a.children()
    refuse(NotifyType.TEMPORARY_FAILURE, 1)
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(3)
    assert [c.uniqueid for c in pair.a.children("INSTALLED")] == [before.uniqueid]
    pair.run(20)
    assert [c.uniqueid for c in pair.a.children("INSTALLED")] != [before.uniqueid]
    pair.check_agreement()


def test_no_additional_sas_leads_to_another_ike_sa(pair: Pair, refuse: Refuse) -> None:
    refuse(NotifyType.NO_ADDITIONAL_SAS, 1)
    result = second(pair)
    assert result.success, result.message
    assert len(pair.a.ike()) == len(pair.b.ike()) == 2
    assert sorted(c.name for c in pair.a.children()) == ["net", "two"]
    pair.check_agreement()
    pair.check_no_leaks()


def test_no_additional_sas_of_a_rekeying(pair: Pair, refuse: Refuse) -> None:
    """The child is made on another IKE SA, and the old one goes: make before break."""
    refuse(NotifyType.NO_ADDITIONAL_SAS, 1)
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(2)
    assert len(pair.a.ike()) == 2
    pair.run(28)
    assert len(pair.a.children("INSTALLED")) == len(pair.b.children("INSTALLED")) == 1
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1, "an IKE SA without children is of no use"
    assert not [e for e in pair.a.heard(ChildSaDeleted) if e.reason != "rekeyed"]
    pair.check_agreement()
    pair.check_no_leaks()


def test_child_sa_not_found_makes_a_new_one(pair: Pair, refuse: Refuse) -> None:
    (before,) = pair.a.children()
    refuse(NotifyType.CHILD_SA_NOT_FOUND, 1)
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(30)
    assert before.uniqueid not in [c.uniqueid for c in pair.a.children()]
    assert len(pair.a.children("INSTALLED")) == 1


def test_invalid_spi_replaces_the_child(pair: Pair) -> None:
    (before,) = pair.a.children()
    tell(pair, Notify(NotifyType.INVALID_SPI, before.spi_out.to_bytes(4, "big")))
    (after,) = pair.a.children("INSTALLED")
    assert after.uniqueid != before.uniqueid
    pair.check_agreement()


@pytest.mark.parametrize("data", [b"", b"\0\0\1\0", bytes(64)])
def test_invalid_spi_of_something_else_changes_nothing(pair: Pair, data: bytes) -> None:
    (before,) = pair.a.children()
    tell(pair, Notify(NotifyType.INVALID_SPI, data))
    (after,) = pair.a.children()
    assert (after.uniqueid, after.state) == (before.uniqueid, "INSTALLED")


def test_an_unknown_spi_is_told_to_its_sender(pair: Pair) -> None:
    """What ``a`` lost, ``b`` still sends to: told of it, ``b`` replaces the SA, which ``a`` does not know any more."""
    (lost,) = (sa for sa in pair.a.plane.sas.values() if sa.direction is Direction.IN)
    pair.a.endpoint.unknown_spi(lost.spi, host("10.0.0.1"), host("10.0.0.2"), pair.now)
    pair.a.flush()
    pair.run(20)
    assert any("INVAL_SPI" in line for line in pair.b.log())
    assert lost.spi not in {sa.spi for sa in pair.b.plane.sas.values()}
    assert len(pair.b.children("INSTALLED")) == 1
    pair.check_agreement()


def test_invalid_selectors_is_logged(pair: Pair) -> None:
    (child,) = pair.a.children()
    spi = child.spi_out.to_bytes(4, "big")
    tell(pair, Notify(NotifyType.INVALID_SELECTORS, bytes(28), SecurityProtocol.ESP, spi))
    assert any("INVALID_SELECTORS" in line and f"net{{{child.uniqueid}}}" in line for line in pair.a.log())
    (after,) = pair.a.children()
    assert after.state == "INSTALLED"


def test_invalid_message_id_is_ignored(pair: Pair) -> None:
    tell(pair, Notify(NotifyType.INVALID_MESSAGE_ID, bytes(4)))
    assert len(pair.a.children("INSTALLED")) == 1
    assert not pair.a.failures()
    pair.check_agreement()


def test_the_table_has_every_notification_and_its_test(repository: Path) -> None:
    """docs/ikev2-notifies.md: all of RFC 7296 §3.10.1, and tests that are there."""
    rows = re.findall(
        r"^\| ([A-Z_]+) \|.*\| `(\w+\.py)::(\w+)` \|$",
        (repository / "docs" / "ikev2-notifies.md").read_text(),
        re.M,
    )
    core = [
        n.name for n in NotifyType if (n <= 40 and n.name not in ("UNACCEPTABLE_ADDRESSES",)) or n in (43, 44)
    ]
    core += [n.name for n in NotifyType if 16384 <= n <= 16395]
    assert [name for name, _, _ in rows] == core
    for _, file, test in rows:
        assert f"def {test}(" in (repository / "tests" / "exchange" / file).read_text(), (
            f"{file}::{test} is not there"
        )


def test_unknown_notifications(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error type that nobody knows fails the exchange, a status type is ignored (§3.10.1)."""
    tell(pair, Notify(40000, b"status"), Notify(16000, b"error in a request"))  # type: ignore[arg-type]
    assert len(pair.a.children("INSTALLED")) == 1
    original = answer.choose

    def choose(sa: Any, *args: Any, **options: Any) -> Any:
        if sa.host is pair.b.endpoint:
            raise Refusal(NotifyType.TS_MAX_QUEUE, "an error of an extension that nobody here has")
        return original(sa, *args, **options)

    monkeypatch.setattr(answer, "choose", choose)
    result = second(pair)
    assert not result.success
    assert len(pair.a.ike()) == 1


def test_unsupported_critical_payload(pair: Pair) -> None:
    """The type of what is not understood comes back; nothing else of the request is done (§2.5)."""
    tell(pair, Opaque(201, b"?", critical=True), Delete(SecurityProtocol.IKE))
    assert any("CRIT" in line and "parsed" in line for line in pair.b.log())
    assert any("rejected" in line and "201" in line for line in pair.a.log())
    tell(pair, Opaque(202, b"?"))
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1
    assert len(pair.a.children("INSTALLED")) == 1


def test_invalid_major_version(pair: Pair) -> None:
    """A request of version 3 is answered with our version, outside of every IKE SA; a response to that is nothing."""
    first = next(o.data for o in pair.a.sent)
    pair.deliver(first[:17] + b"\x30" + first[18:], host("10.0.0.1"), host("10.0.0.2"))
    sent = len(pair.b.sent)
    pair.run(1)
    (answer_,) = pair.b.sent[sent:]
    message = parse_message(answer_.data)
    assert message.header.major == 2
    assert message.notify(NotifyType.INVALID_MAJOR_VERSION) is not None
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1


# --- when to rekey (draft-spencer: the end that made an SA goes first) ---


def test_the_initiator_rekeys_before_the_responder() -> None:
    for seed in range(12):
        a, b = mirrored(
            child_options={"rekey_time": 1000, "rand_time": 200, "life_time": 1200},
            rekey_time=5000,
            rand_time=400,
        )
        pair = Pair(a=a, b=b, seed=seed)
        pair.up()
        for view_a, view_b in (
            (pair.a.children()[0], pair.b.children()[0]),
            (pair.a.ike()[0], pair.b.ike()[0]),
        ):
            assert view_a.rekey_time is not None
            assert view_b.rekey_time is not None
            assert view_a.rekey_time < view_b.rekey_time
        pair.run(1100)
        assert not any("collision" in line for end in pair.ends for line in end.log())
        assert len(pair.a.children("INSTALLED")) == 1


def test_rekeyings_of_many_children_are_spread() -> None:
    a, b = mirrored(child_options={"rekey_time": 1000, "rand_time": 200, "life_time": 1200})
    times = set()
    for seed in range(20):
        pair = Pair(a=a, b=b, seed=seed, options=Options(retransmit_jitter=0.0))
        pair.up()
        at = pair.a.children()[0].rekey_time
        assert at is not None
        times.add(round(at - pair.a.children()[0].install_time))
    assert min(times) >= 800
    assert max(times) <= 900
    assert len(times) > 10

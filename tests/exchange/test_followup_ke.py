"""IKE_FOLLOWUP_KE (RFC 9370 §2.2.4): Child SAs and IKE SAs made and rekeyed with several key exchanges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ike_network import Pair, mirrored
from key_derivation import prf, prf_plus

from ipsecstack.config.proposals import parse_proposal
from ipsecstack.crypto import ikekeys
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex.configuration import Proposal
from ipsecstack.keyex.ikev2 import keymat, machine
from ipsecstack.keyex.ikev2.followup import Pending
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import Header, Ke, Message, Notify, NotifyType, Payload
from ipsecstack.wire.ikev2.numbers import ExchangeType

IKE = "aes256gcm16-prfsha256-x25519"
ESP = "aes128gcm16-x25519"
KEMS = "ke1_mlkem768-ke2_ecp256"


def proposals(text: str, protocol: SecurityProtocol) -> tuple[Proposal, ...]:
    return (parse_proposal(text, protocol),)


def pair(ike: str = IKE, esp: str = f"{ESP}-{KEMS}", *, options: Options | None = None, **more: Any) -> Pair:
    one, other = mirrored(
        proposals=proposals(ike, SecurityProtocol.IKE),
        child_options={"proposals": proposals(esp, SecurityProtocol.ESP)},
        **more,
    )
    return Pair(a=one, b=other, options=options)


def exchanges(made: Pair, end: str = "a") -> list[int]:
    sent = made.a.sent if end == "a" else made.b.sent
    headers = [h for o in sent if not (h := Header.parse(o.data)).is_response]
    return list({(h.initiator_spi, h.message_id): h.exchange for h in headers}.values())


def sa_of(made: Pair, end: str = "a") -> IkeSa:
    found = list((made.a if end == "a" else made.b).endpoint.ike_sas_of())
    return found[-1]


def check(made: Pair) -> None:
    made.check_agreement()
    made.check_no_leaks()
    for end in ("a", "b"):
        assert not sa_of(made, end).pending_ke


def test_a_child_sa_is_rekeyed() -> None:
    made = pair()
    made.up()
    assert ExchangeType.IKE_FOLLOWUP_KE not in exchanges(made), "in IKE_AUTH there is no key exchange"
    before = made.a.children()[0].spi_in
    made.a.do(made.a.endpoint.rekey, child="net")
    made.run(20)
    assert exchanges(made).count(ExchangeType.IKE_FOLLOWUP_KE) == 2
    child = made.a.children("INSTALLED")
    assert len(child) == 1
    assert child[0].spi_in != before
    check(made)
    made.b.do(made.b.endpoint.rekey, child="net")
    made.run(20)
    assert exchanges(made, "b").count(ExchangeType.IKE_FOLLOWUP_KE) == 2
    check(made)


def test_a_new_child_sa() -> None:
    one, other = mirrored(
        proposals=proposals(IKE, SecurityProtocol.IKE),
        child_options={"proposals": proposals(f"{ESP}-{KEMS}", SecurityProtocol.ESP)},
    )
    made = Pair(a=replace(one, childless="force"), b=replace(other, childless="allow"))
    made.up()
    assert exchanges(made).count(ExchangeType.IKE_FOLLOWUP_KE) == 2
    check(made)


def test_the_ike_sa_is_rekeyed_from_both_ends() -> None:
    made = pair(f"{IKE}-{KEMS}", ESP)
    made.up()
    for end in (made.a, made.b):
        spis = made.a.ike()[0].initiator_spi
        end.do(end.endpoint.rekey, ike="conn")
        made.run(20)
        assert len(made.a.ike()) == 1
        assert made.a.ike()[0].initiator_spi != spis
        assert sa_of(made).keys == sa_of(made, "b").keys
        check(made)
    assert exchanges(made, "b").count(ExchangeType.IKE_FOLLOWUP_KE) == 2
    assert len(made.a.ike()[0].additional_ke) == 2


def test_the_keys_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """KEYMAT and SKEYSEED with SK(1) and SK(2) behind the nonces, from the secrets alone."""
    children: list[tuple[Any, ...]] = []
    rekeyed: list[tuple[Any, ...]] = []
    for_child, protect_rekeyed = keymat.for_child, keymat.protect_rekeyed

    def note_child(sa: IkeSa, suite: Any, *secrets: Any) -> ikekeys.ChildKeys:
        assert sa.keys is not None
        children.append((sa.keys.sk_d, *secrets, made := for_child(sa, suite, *secrets)))
        return made

    def note_rekeyed(old: IkeSa, new: IkeSa, suite: Any, *secrets: Any) -> None:
        protect_rekeyed(old, new, suite, *secrets)
        assert old.keys is not None
        rekeyed.append((old.keys.sk_d, new.spi_i + new.spi_r, *secrets, new.keys))

    monkeypatch.setattr(keymat, "for_child", note_child)
    monkeypatch.setattr(keymat, "protect_rekeyed", note_rekeyed)
    made = pair(f"{IKE}-{KEMS}", f"{ESP}-{KEMS}")
    made.up()
    made.a.do(made.a.endpoint.rekey, child="net")
    made.run(20)
    made.a.do(made.a.endpoint.rekey, ike="conn")
    made.run(20)
    sk_d, ni, nr, shared, more, keys = children[-1]
    assert len(more) == 2
    stream = prf_plus(sk_d, shared + ni + nr + more[0] + more[1], 40)
    assert (keys.encr_i, keys.encr_r) == (stream[:20], stream[20:])
    assert len(rekeyed) == 2
    for sk_d, spis, shared, ni, nr, more, new in rekeyed:
        assert len(more) == 2
        seed = prf(sk_d, shared, ni, nr, more[0], more[1])
        assert new.sk_d == prf_plus(seed, ni + nr + spis, 32)
    assert rekeyed[0][-1] == rekeyed[1][-1]


@pytest.mark.parametrize("what", ["child", "ike"])
@pytest.mark.parametrize("seed", range(4))
def test_lost_doubled_and_overtaken(what: str, seed: int) -> None:
    options = Options(retransmit_tries=12, retransmit_base=1.0, retransmit_jitter=0.0)
    made = pair(f"{IKE}-{KEMS}", f"{ESP}-{KEMS}", options=options)
    made.up()
    made.loss, made.duplicate, made.reorder = 0.2, 0.3, 0.5
    made.rng.seed(seed)
    if what == "ike":
        made.a.do(made.a.endpoint.rekey, ike="conn")
    else:
        made.a.do(made.a.endpoint.rekey, child="net")
    made.run(80)
    made.loss = 0.0
    made.run(60)
    assert len(made.a.ike()) == 1
    assert len(made.a.children("INSTALLED")) == 1
    check(made)


@pytest.mark.parametrize("what", ["child", "ike"])
@pytest.mark.parametrize("apart", [0.0, 0.005, 0.015, 0.025, 0.035, 0.045, 0.055])
def test_both_ends_at_once(what: str, apart: float) -> None:
    """Collisions in every phase: both ends agree again, and nothing stays behind."""
    made = pair(f"{IKE}-{KEMS}", f"{ESP}-{KEMS}")
    made.up()
    arguments: dict[str, Any] = {"ike": "conn"} if what == "ike" else {"child": "net"}
    made.a.do(made.a.endpoint.rekey, **arguments)
    made.run(apart)
    made.b.do(made.b.endpoint.rekey, **arguments)
    made.run(120)
    assert len(made.a.ike()) == 1
    assert len(made.b.ike()) == 1
    assert len(made.a.children("INSTALLED")) == len(made.b.children("INSTALLED")) == 1
    check(made)


@pytest.mark.parametrize("apart", [0.0, 0.015, 0.035, 0.055])
def test_child_and_ike_at_once(apart: float) -> None:
    made = pair(f"{IKE}-{KEMS}", f"{ESP}-{KEMS}")
    made.up()
    made.a.do(made.a.endpoint.rekey, child="net")
    made.run(apart)
    made.b.do(made.b.endpoint.rekey, ike="conn")
    made.run(120)
    assert len(made.a.ike()) == 1
    assert len(made.a.children("INSTALLED")) == 1
    check(made)


class Raw(Task):
    """Any request that a test wants to make."""

    label = "RAW"

    def __init__(self, kind: Any, payloads: list[Payload]) -> None:
        super().__init__()
        self.kind = kind  # type: ignore[misc]
        self.payloads = payloads

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        return self.payloads


def answers(made: Pair, monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """What both ends send, from now on."""
    seen: list[Message] = []
    original = machine._log_out

    def note(sa: IkeSa, message: Message) -> None:
        seen.append(message)
        original(sa, message)

    monkeypatch.setattr(machine, "_log_out", note)
    return seen


@pytest.mark.parametrize("link", [b"", b"never was", None])
def test_an_unknown_link(link: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pair()
    made.up()
    seen = answers(made, monkeypatch)
    sa = sa_of(made)
    from ipsecstack.keyex.ikev2.states import Kind

    said: list[Payload] = [Ke(36, bytes(1184))]
    if link is not None:
        said.append(Notify(NotifyType.ADDITIONAL_KEY_EXCHANGE, link))
    sa.enqueue(Raw(Kind.INFORMATIONAL, []))
    task = Raw(Kind.FOLLOWUP_KE, said)
    sa.queue.clear()
    sa.enqueue(task)
    machine.pump(sa, made.now)
    made.a.flush()
    made.run(0.015)
    answer = next(m for m in seen if m.header.is_response)
    assert answer.error() == Notify(NotifyType.STATE_NOT_FOUND)
    assert len(made.b.children("INSTALLED")) == 1


def test_an_initiator_that_never_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pair()
    made.up()
    made.tap = lambda sender, output: Header.parse(output.data).exchange != ExchangeType.IKE_FOLLOWUP_KE
    made.a.do(made.a.endpoint.rekey, child="net")
    made.run(1)
    pending = list(sa_of(made, "b").pending_ke.values())
    assert [type(entry) for entry in pending] == [Pending]
    assert made.b.plane.reserved
    made.run(40)
    assert not sa_of(made, "b").pending_ke
    assert not made.b.plane.reserved
    assert len(made.b.children("INSTALLED")) == 1


@pytest.mark.parametrize("broken", ["method", "value", "link"])
def test_a_broken_answer_leaves_the_old_one(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipsecstack.keyex.ikev2 import followup

    made = pair()
    made.up()
    original = followup.handle_response
    spoilt: list[str] = []

    def spoil(sa: IkeSa, task: Task, message: Message, now: float) -> None:
        if not spoilt:
            spoilt.append(broken)
            changed: list[Payload] = []
            for payload in message.payloads:
                if isinstance(payload, Ke):
                    changed.append(
                        Ke(19, payload.data) if broken == "method" else Ke(payload.method, b"short")
                    )
                    if broken == "link":
                        changed[-1] = payload
                elif broken != "link":
                    changed.append(payload)
            message = Message(message.header, tuple(changed))
        original(sa, task, message, now)

    from ipsecstack.keyex.ikev2 import table
    from ipsecstack.keyex.ikev2.states import Kind, Role, State

    key = (State.ESTABLISHED, Role.INITIATOR, Kind.FOLLOWUP_KE)
    monkeypatch.setitem(table.TABLE, key, replace(table.TABLE[key], handler=spoil))
    made.a.do(made.a.endpoint.rekey, child="net")
    made.run(3)
    assert made.a.children("INSTALLED")
    made.run(120)
    assert len(made.a.children("INSTALLED")) == 1
    check(made)

"""Octets that are no ticket, and notifications that should have had one: refused, and nothing else happens."""

from __future__ import annotations

import contextlib
import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ike_network import Pair, mirrored

from ipsecstack.keyex.configuration import Identity
from ipsecstack.keyex.ikev2.states import Kind
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.keyex.tickets import Session, TicketError, TicketKeys
from ipsecstack.wire.ikev2 import Notify, NotifyType, SaProposal, Transform

PROPOSAL = SaProposal(1, 1, b"", (Transform.of(1, 20, 256), Transform.of(2, 5), Transform.of(4, 31)))


def _session(rng: random.Random) -> Session:
    id_ = Identity(2, b"a.lab", "a.lab")
    eap = id_ if rng.random() < 0.5 else None
    return Session(
        rng.randbytes(16), rng.randbytes(8), rng.randbytes(8), 1, 2, 3, False,
        "conn", rng.randbytes(32), id_, id_, eap, "psk", "rsa", PROPOSAL, rng.randbytes(32),
    )  # fmt: skip


def test_mutated_sessions() -> None:
    rng = random.Random(5723)
    parsed = refused = 0
    for _ in range(6000):
        data = bytearray(_session(rng).to_bytes())
        for _ in range(rng.randint(1, 4)):
            kind, at = rng.randrange(4), rng.randrange(len(data))
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at : at + 2] = rng.choice((b"\0\0", b"\xff\xff", struct.pack("!H", rng.randrange(300))))
            elif kind == 2:
                del data[at:]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 20))
            if not data:
                break
        try:
            session = Session.parse(bytes(data))
        except TicketError:
            refused += 1
        else:
            parsed += 1
            assert Session.parse(session.to_bytes()) == session
    assert min(parsed, refused) > 500, "the mutations reach what is inside"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_random_octets_are_no_ticket(data: bytes) -> None:
    keys = TicketKeys(random.Random(1).randbytes, 100.0)
    keys.seal(_session(random.Random(2)), 0.0)
    with pytest.raises(TicketError):
        keys.open(data, 1.0)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_random_octets_are_no_session(data: bytes) -> None:
    with contextlib.suppress(TicketError):
        Session.parse(data)


def test_notifications_with_any_data_inside_of_an_ike_sa() -> None:
    """TICKET_*, QCD: whatever the authenticated peer puts into them, the IKE SA stands and answers."""
    rng = random.Random(6290)
    kinds = [
        NotifyType.TICKET_LT_OPAQUE,
        NotifyType.TICKET_REQUEST,
        NotifyType.TICKET_ACK,
        NotifyType.TICKET_NACK,
        NotifyType.TICKET_OPAQUE,
        NotifyType.QUICK_CRASH_DETECTION,
    ]

    class Noise(Task):
        kind = Kind.INFORMATIONAL
        label = "NOISE"

        def request(self, sa: Any, now: float) -> Any:
            chosen = rng.choices(kinds, k=rng.randint(1, 2))
            sizes = (0, 1, 4, 5, 15, 16, 256, 257, 4100, 4101)
            return [Notify(kind, rng.randbytes(rng.choice(sizes)), rng.choice((0, 1, 3))) for kind in chosen]

    a, b = mirrored(session_resumption=True)
    pair = Pair(a=a, b=b)
    pair.up()
    for number in range(150):
        end = pair.ends[number % 2]
        (sa,) = end.endpoint.registry.all()
        sa.features.ticket_awaited = rng.random() < 0.5
        sa.enqueue(Noise())
        end.endpoint._settle()
        pair.run(0.1)
        assert not sa.active
    assert len(pair.a.endpoint.sessions.held) <= 1
    assert len(pair.b.endpoint.sessions.held) <= 1
    assert [c.state for c in pair.a.children()] == ["INSTALLED"] == [c.state for c in pair.b.children()]

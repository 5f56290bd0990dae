"""Tickets of session resumption: what is in them, and who can open them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ipsecstack.keyex.configuration import Identity
from ipsecstack.keyex.tickets import Session, Sessions, TicketError, TicketKeys
from ipsecstack.wire.ikev2 import SaProposal, Transform

SESSION = Session(
    number=b"n" * 16,
    spi_i=b"i" * 8,
    spi_r=b"r" * 8,
    issued=1_700_000_000,
    expires=1_700_003_600,
    until=0,
    ppk=True,
    connection="rw-ü",
    policy=b"p" * 32,
    peer=Identity(2, b"a.lab", "a.lab"),
    own=Identity(9, b"\x30\x00", "CN=b"),
    eap=Identity(3, b"user@lab", "user@lab"),
    peer_auth="eap",
    own_auth="ecdsa",
    proposal=SaProposal(1, 1, b"", (Transform.of(1, 20, 256), Transform.of(2, 5), Transform.of(4, 31))),
    sk_d=b"secret-" * 5,
)


def _keys(seed: int = 1, lifetime: float = 100.0) -> TicketKeys:
    return TicketKeys(random.Random(seed).randbytes, lifetime)


@pytest.mark.parametrize(
    "session", [SESSION, replace(SESSION, eap=None, ppk=False, until=1_700_009_999, sk_d=b"")]
)
def test_a_session_comes_back_as_it_was(session: Session) -> None:
    assert Session.parse(session.to_bytes()) == session
    keys = _keys()
    assert keys.open(keys.seal(session, 0.0), 0.0) == session


def test_tickets_hide_what_is_in_them_and_are_never_the_same() -> None:
    keys = _keys()
    tickets = {keys.seal(SESSION, 0.0) for _ in range(50)}
    assert len(tickets) == 50
    for ticket in tickets:
        assert b"secret" not in ticket
        assert b"a.lab" not in ticket
        assert b"user@" not in ticket
    assert "secret" not in repr(SESSION)


def test_only_the_gateway_opens_them() -> None:
    ticket = _keys(1).seal(SESSION, 0.0)
    with pytest.raises(TicketError, match="not made here"):
        _keys(2).open(ticket, 0.0)


def test_every_bit_counts() -> None:
    keys = _keys()
    ticket = keys.seal(SESSION, 0.0)
    for at in range(len(ticket)):
        with pytest.raises(TicketError):
            keys.open(ticket[:at] + bytes((ticket[at] ^ 0x40,)) + ticket[at + 1 :], 0.0)
        with pytest.raises(TicketError):
            keys.open(ticket[:at], 0.0)


def test_keys_change_and_old_ones_stay_as_long_as_their_tickets() -> None:
    keys = _keys(lifetime=100.0)
    first = keys.seal(SESSION, 0.0)
    late = keys.seal(SESSION, 99.0)
    assert first[1:9] == late[1:9]
    second = keys.seal(SESSION, 101.0)
    assert second[1:9] != first[1:9]
    assert keys.open(late, 199.0) == SESSION
    assert keys.open(second, 250.0) == SESSION
    with pytest.raises(TicketError, match="too long ago"):
        keys.open(late, 201.0)
    for hour in range(3, 1000):
        keys.seal(SESSION, hour * 100.0)
    assert repr(keys) in ("<TicketKeys: 2>", "<TicketKeys: 3>")


def test_an_endpoint_holds_one_ticket_of_each_connection() -> None:
    sessions = Sessions(random.Random(1).randbytes, 10.0, 10)
    assert sessions.held == {}
    assert len(sessions.spent) == 0

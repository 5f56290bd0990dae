"""Whatever octets netlink delivers: no exception, nothing of a key in what is read, and every reader is reached."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecstack.dataplane.xfrm import codec
from ipsecstack.dataplane.xfrm.codec import Algorithm, Policy, State, new_policy, new_state, parse
from ipsecstack.dataplane.xfrm.numbers import Attribute, Message, Way
from ipsecstack.dataplane.xfrm.structures import (
    Encapsulation,
    PolicyInfo,
    Replay,
    Selector,
    StateId,
    StateInfo,
    Template,
)

SECRET = b"THIS-IS-THE-KEY-OF-AN-SA"
INFO = StateInfo(StateId(ip_address("192.0.2.2"), 0x1234, 50), ip_address("192.0.2.1"), Selector.every(4))
STATE = new_state(
    State(
        INFO,
        (
            Algorithm(Attribute.ALG_CRYPT, "cbc(aes)", SECRET),
            Algorithm(Attribute.ALG_AUTH_TRUNC, "hmac(sha256)", SECRET, 128),
        ),
        Encapsulation(4500, 4500),
        Replay(1, 2, (3, 4), 64),
        mark=(1, 1),
    )
).to_bytes(1)
POLICY = new_policy(Policy(PolicyInfo(Selector.every(6), Way.IN), (Template(50),) * 2)).to_bytes(2)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 3, 0) + body


SEEDS = (
    STATE,
    POLICY,
    message(Message.EXPIRE, INFO.to_bytes() + bytes(8)),
    message(Message.DELSA, INFO.id.to_bytes() + struct.pack("=HH", 228, Attribute.SA) + STATE[16:]),
    message(Message.ACQUIRE, bytes(280) + struct.pack("=HH", 68, Attribute.TMPL) + Template(50).to_bytes()),
    message(Message.MAPPING, bytes(64)),
    message(Message.NEWAE, bytes(48) + struct.pack("=HH3I", 16, Attribute.REPLAY_VAL, 1, 2, 3)),
    message(Message.DELPOLICY, bytes(64)),
    message(Message.ERROR, struct.pack("=i", -22) + bytes(16)),
    message(Message.FLUSHSA, b"\0\0\0\0"),
    message(Message.FLUSHPOLICY, b""),
    message(Message.UPDSA, STATE[16:]),
    message(Message.UPDPOLICY, POLICY[16:]),
    message(Message.DONE, b""),
    message(Message.OVERRUN, b""),
)


def look(data: bytes) -> list[codec.Received]:
    found = parse(data)
    assert not any(SECRET[:12].decode() in repr(one) for one in found)
    for _kind, _sequence, _port, body in codec.split(data):
        codec.glance(body)
    return found


@given(st.binary(max_size=600))
@settings(max_examples=300, deadline=None)
def test_random_octets(data: bytes) -> None:
    look(data)


@given(st.sampled_from(sorted(Message)), st.binary(max_size=600))
@settings(max_examples=300, deadline=None)
def test_random_bodies_of_every_type(kind: Message, body: bytes) -> None:
    (received,) = look(message(kind, body))
    assert received.sequence == 3


def test_mutated_messages() -> None:
    rng = random.Random(7)
    kinds: set[str] = set()
    for _ in range(6000):
        data = bytearray(rng.choice(SEEDS))
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(data))
            choice = rng.random()
            if choice < 0.6:
                data[at] = rng.choice([0, 1, 0xFF, rng.randrange(256)])
            elif choice < 0.8:
                del data[at : at + rng.randrange(1, 9)]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            if len(data) < 17:
                break
        kinds.update(type(one.answer).__name__ for one in look(bytes(data)))
    # The readers of all messages that mean something here were reached.
    assert kinds == {answer.__name__ for answer in codec.Answer.__args__}

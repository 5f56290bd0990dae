"""IKE_INTERMEDIATE (RFC 9242) and several key exchanges (RFC 9370) between two ends, and every key of them by hand.

The hand-written half of this file takes the datagrams from the wire and the secrets of the key exchanges; all keys, the
octets that AUTH covers and the AUTH payloads themselves are computed anew from these with HMAC and AES-GCM alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from ike_network import SECRET, Pair, mirrored
from key_derivation import prf, prf_plus

from ipsecstack.config.proposals import parse_proposal
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex.configuration import Proposal
from ipsecstack.keyex.ikev2 import keymat
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import Header, NotifyType, Sa, parse_message
from ipsecstack.wire.ikev2.numbers import ExchangeType
from ipsecstack.wire.transforms import KeId

IKE = "aes256gcm16-prfsha256-x25519"


def ike(*words: str) -> tuple[Proposal, ...]:
    return tuple(parse_proposal(word, SecurityProtocol.IKE) for word in words)


def pair(a: tuple[Proposal, ...], b: tuple[Proposal, ...], **more: Any) -> Pair:
    options = more.pop("options", None)
    one, other = mirrored(**more)
    return Pair(a=replace(one, proposals=a), b=replace(other, proposals=b), options=options)


def exchanges(made: Pair) -> list[int]:
    return [Header.parse(o.data).exchange for o in made.a.sent]


def sa_of(made: Pair, end: str = "a") -> IkeSa:
    return next(iter((made.a if end == "a" else made.b).endpoint.ike_sas_of()))


# --- by hand ----------------------------------------------------------------------------------------------------------


@dataclass
class Hand:
    """One end's view of an IKE SA with AES-256-GCM and HMAC-SHA-256, from nonces and secrets."""

    ni: bytes
    nr: bytes
    spis: bytes
    sk_d: bytes = b""
    e: dict[bool, bytes] = field(default_factory=dict)
    p: dict[bool, bytes] = field(default_factory=dict)

    def derive(self, seed: bytes) -> None:
        stream = prf_plus(seed, self.ni + self.nr + self.spis, 32 + 36 + 36 + 32 + 32)
        self.sk_d = stream[:32]
        self.e = {True: stream[32:68], False: stream[68:104]}
        self.p = {True: stream[104:136], False: stream[136:168]}

    def open(self, data: bytes) -> tuple[int, int, int, bytes]:
        """(first payload, fragment number, total, plaintext without padding) of an SK or SKF message."""
        initiator = bool(data[19] & 8)
        fragmented = data[16] == 53
        at = 32 + (4 if fragmented else 0)
        key = self.e[initiator]
        plain = AESGCM(key[:32]).decrypt(key[32:] + data[at : at + 8], data[at + 8 :], data[:at])
        number, total = struct.unpack("!HH", data[32:36]) if fragmented else (1, 1)
        return data[28], number, total, plain[: len(plain) - 1 - plain[-1]]


def messages(made: Pair) -> list[list[bytes]]:
    """The datagrams of each message in order, fragments together."""
    found: list[list[bytes]] = []
    for data, _, _ in made.transmitted:
        same = found and found[-1][0][:16] == data[:16] and found[-1][0][17:24] == data[17:24]
        if same:
            found[-1].append(data)
        else:
            found.append([data])
    return found


def payloads(first: int, chain: bytes) -> list[tuple[int, bytes]]:
    out, at = [], 0
    while first:
        following, _, length = struct.unpack_from("!BBH", chain, at)
        out.append((first, chain[at + 4 : at + length]))
        first, at = following, at + length
    return out


@pytest.mark.parametrize(
    "words, fragments",
    [
        ("ke1_mlkem768", False),
        ("ke1_mlkem512-ke2_ecp256", False),
        ("ke1_mlkem1024-ke2_mlkem768-ke3_ecp384-ke4_x448-ke5_mlkem512-ke6_ecp256-ke7_modp2048", True),
    ],
)
def test_every_key_by_hand(words: str, fragments: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets: list[bytes] = []
    nonces: list[tuple[bytes, bytes]] = []
    first, more = keymat.protect_initial, keymat.protect_additional

    def note_first(sa: IkeSa, suite: Any, shared: bytes, ni: bytes, nr: bytes) -> None:
        if sa.initiator:
            secrets.append(shared)
            nonces.append((ni, nr))
        first(sa, suite, shared, ni, nr)

    def note_more(sa: IkeSa, shared: bytes, ni: bytes, nr: bytes) -> None:
        if sa.initiator:
            secrets.append(shared)
        assert (ni, nr) == nonces[0]
        more(sa, shared, ni, nr)

    monkeypatch.setattr(keymat, "protect_initial", note_first)
    monkeypatch.setattr(keymat, "protect_additional", note_more)
    options = Options(retransmit_jitter=0.0, fragment_size=600 if fragments else 4000)
    made = pair(ike(f"{IKE}-{words}"), ike(f"{IKE}-{words}"), options=options)
    made.up()
    count = words.count("ke") - words.count("mlkem")
    assert exchanges(made).count(ExchangeType.IKE_INTERMEDIATE) >= count
    assert len(secrets) == count + 1

    flow = messages(made)
    request, answer = flow[0][0], flow[1][0]
    (ni, nr), spis = nonces[0], answer[:16]
    hand = Hand(ni, nr, spis)
    hand.derive(prf(ni + nr, secrets[0]))
    int_auth = {True: b"", False: b""}
    middle = [m for m in flow if m[0][18] == ExchangeType.IKE_INTERMEDIATE]
    assert len(middle) == 2 * count
    assert any(len(m) > 1 for m in middle) is fragments
    for index, parts in enumerate(middle):
        header = parts[0][:28]
        opened = sorted((hand.open(part) for part in parts), key=lambda piece: piece[1])
        assert [piece[1] for piece in opened] == list(range(1, opened[0][2] + 1))
        inside = b"".join(piece[3] for piece in opened)
        initiator = bool(header[19] & 8)
        covered = (
            header[:16] + b"\x2e" + header[17:24] + struct.pack("!I", 28 + 4 + len(inside))
            + struct.pack("!BBH", opened[0][0], 0, 4 + len(inside)) + inside
        )  # fmt: skip
        int_auth[initiator] = prf(hand.p[initiator], int_auth[initiator], covered)
        assert [kind for kind, _ in payloads(opened[0][0], inside)] == [34]
        if index % 2:
            hand.derive(prf(hand.sk_d, secrets[1 + index // 2], ni, nr))

    last = [m for m in flow if m[0][18] == ExchangeType.IKE_AUTH]
    suffix = int_auth[True] + int_auth[False] + struct.pack("!I", count + 1)
    assert int.from_bytes(last[0][0][20:24], "big") == count + 1
    for parts, message, nonce, id_type in ((last[0], request, nr, 35), (last[1], answer, ni, 36)):
        opened = sorted((hand.open(part) for part in parts), key=lambda piece: piece[1])
        found = dict(payloads(opened[0][0], b"".join(piece[3] for piece in opened)))
        sk_p = hand.p[id_type == 35]
        octets = message + nonce + prf(sk_p, found[id_type]) + suffix
        auth = prf(prf(SECRET, b"Key Pad for IKEv2"), octets)
        assert found[39] == b"\x02\0\0\0" + auth, "the AUTH payload covers the intermediate exchanges"
    keys = sa_of(made).keys
    assert keys is not None
    assert (keys.sk_d, keys.sk_ei, keys.sk_pr) == (hand.sk_d, hand.e[True], hand.p[False])
    made.check_agreement()


def test_a_fixed_vector() -> None:
    """Numbers that do not come from this code at all: nonces 0x11.. and 0x22.., secrets 0x33.. and 0x44.., SPIs."""
    hand = Hand(b"\x11" * 32, b"\x22" * 32, bytes(range(16)))
    hand.derive(prf(hand.ni + hand.nr, b"\x33" * 32))
    hand.derive(prf(hand.sk_d, b"\x44" * 32, hand.ni, hand.nr))
    from ipsecstack.crypto import encr, ikekeys, integ
    from ipsecstack.crypto import prf as prfs
    from ipsecstack.wire.transforms import EncrId, IntegId, PrfId

    own = prfs.get(PrfId.HMAC_SHA2_256)
    cipher, none = encr.get(EncrId.AES_GCM_16, 256), integ.get(IntegId.HMAC_SHA2_256_128)
    spis = bytes(range(8)), bytes(range(8, 16))
    zero = ikekeys.ike_keys(
        own, cipher, none, ikekeys.skeyseed(own, hand.ni, hand.nr, b"\x33" * 32), hand.ni, hand.nr, *spis
    )
    seed = ikekeys.skeyseed_additional(own, zero.sk_d, b"\x44" * 32, hand.ni, hand.nr)
    one = ikekeys.ike_keys(own, cipher, none, seed, hand.ni, hand.nr, *spis)
    assert (one.sk_d, one.sk_er, one.sk_pi) == (hand.sk_d, hand.e[False], hand.p[True])
    secrets = [b"\x55" * 32, b"\x66" * 48]
    assert ikekeys.skeyseed_rekey(own, one.sk_d, b"\x44" * 32, hand.ni, hand.nr, secrets) == prf(
        one.sk_d, b"\x44" * 32, hand.ni, hand.nr, *secrets
    )
    child = ikekeys.child_keys(own, one.sk_d, cipher, none, hand.ni, hand.nr, b"\x44" * 32, secrets)
    stream = prf_plus(one.sk_d, b"\x44" * 32 + hand.ni + hand.nr + b"".join(secrets), 72)
    assert child.encr_i + child.encr_r == stream


# --- choices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ("ke1_mlkem768", "ke1_mlkem768-ke1_none", (KeId.ML_KEM_768,)),
        ("ke1_none-ke1_mlkem768", "ke1_mlkem768", (KeId.ML_KEM_768,)),
        ("ke1_mlkem768-ke1_none", "ke1_none-ke1_mlkem768", ()),
        ("ke1_mlkem1024-ke1_mlkem768-ke2_ecp384", "ke1_mlkem768-ke2_ecp384-ke2_ecp256",
         (KeId.ML_KEM_768, KeId.ECP_384)),
        ("ke1_mlkem768-ke2_mlkem768-ke2_ecp256", "ke1_mlkem768-ke2_mlkem768-ke2_ecp256",
         (KeId.ML_KEM_768, KeId.ECP_256)),
        ("ke2_mlkem768", "ke2_mlkem768", (KeId.ML_KEM_768,)),
        ("ke1_none-ke1_mlkem512-ke2_mlkem768", "ke2_mlkem768", (KeId.ML_KEM_768,)),
    ],
)  # fmt: skip
def test_choice(a: str, b: str, expected: tuple[KeId, ...]) -> None:
    made = pair(ike(f"{IKE}-{a}"), ike(f"{IKE}-{b}"))
    made.up()
    for end in ("a", "b"):
        suite = sa_of(made, end).suite
        assert suite is not None
        assert suite.additional == expected
    assert made.a.ike()[0].additional_ke == expected
    made.check_agreement()


def test_a_peer_without_it_gets_the_next_proposal() -> None:
    made = pair(ike(f"{IKE}-ke1_mlkem768", IKE), ike(IKE))
    made.up()
    assert ExchangeType.IKE_INTERMEDIATE not in exchanges(made)
    made = pair(ike(IKE), ike(f"{IKE}-ke1_mlkem768", IKE))
    made.up()
    assert ExchangeType.IKE_INTERMEDIATE not in exchanges(made)


@pytest.mark.parametrize(
    "a, b",
    [
        ("ke1_mlkem768", ""),
        ("", "ke1_mlkem768"),
        ("ke1_mlkem768", "ke1_mlkem512"),
        ("ke1_mlkem768", "ke2_mlkem768"),
    ],
)
def test_no_common_choice(a: str, b: str) -> None:
    made = pair(ike(f"{IKE}-{a}" if a else IKE), ike(f"{IKE}-{b}" if b else IKE))
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(5)
    assert made.a.failures() == ["NO_PROPOSAL_CHOSEN"]
    assert not made.a.ike()
    assert not made.b.ike()


def test_what_the_offer_looks_like() -> None:
    made = pair(ike(f"{IKE}-ke1_mlkem768-ke1_none-ke3_ecp256"), ike(IKE))
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    offer = parse_message(made.a.sent[0].data)
    assert offer.notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED) is not None
    sa = offer.get(Sa)
    assert sa is not None
    found = [(t.type, t.id) for t in sa.proposals[0].transforms if t.type >= 6]
    assert found == [(6, 36), (6, 0), (8, 19)]


@pytest.mark.parametrize("seed", range(4))
def test_lost_doubled_and_overtaken(seed: int) -> None:
    words = f"{IKE}-ke1_mlkem768-ke2_ecp256"
    options = Options(retransmit_tries=12, retransmit_base=1.0, retransmit_jitter=0.0)
    made = pair(ike(words), ike(words), options=options)
    made.loss, made.duplicate, made.reorder = 0.2, 0.3, 0.5
    made.rng.seed(seed)
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(60)
    made.loss = 0.0
    made.run(60)
    assert made.a.children("INSTALLED")
    made.check_agreement()
    made.check_no_leaks()


def test_smaller_fragments_while_the_answer_is_lost() -> None:
    """The responder has new keys already when the request comes in other fragments, under the old ones."""
    words = f"{IKE}-ke1_mlkem1024"
    made = pair(ike(words), ike(words))
    made.tap = lambda sender, output: sender is made.a or len(output.data) <= 576 - 28
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(20)
    made.tap = None
    made.run(60)
    assert made.a.children("INSTALLED")
    made.check_agreement()


def test_ike_auth_too_early_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"{IKE}-ke1_mlkem768"
    made = pair(ike(words), ike(words))
    from ipsecstack.keyex.ikev2 import intermediate

    original = intermediate.proceed

    def skip(sa: IkeSa, tickets: list[int], now: float) -> None:
        assert sa.initial is not None
        sa.initial.awaited_ke.clear()
        original(sa, tickets, now)

    monkeypatch.setattr(intermediate, "proceed", skip)
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(5)
    assert any("IKE_AUTH before the key exchanges" in line for line in made.b.log())
    assert not made.b.children()
    made.run(200)
    assert not made.b.ike()


def test_a_changed_intermediate_fails_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who could break the first key exchange could change what is in these: AUTH tells."""
    words = f"{IKE}-ke1_mlkem768"
    made = pair(ike(words), ike(words))
    from ipsecstack.keyex.ikev2 import intermediate

    original = intermediate.received

    def other(sa: IkeSa, header: Header, first: int, chain: bytes) -> None:
        original(sa, header, first, chain + b"\0" if header.exchange == 43 else chain)

    monkeypatch.setattr(intermediate, "received", other)
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(60)
    assert "AUTHENTICATION_FAILED" in made.a.failures()
    assert not made.a.ike()
    assert not made.b.ike()


def test_terminated_in_between() -> None:
    words = f"{IKE}-ke1_mlkem768"
    made = pair(ike(words), ike(words))
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(0.025)
    assert ExchangeType.IKE_INTERMEDIATE in exchanges(made)
    made.a.do(made.a.endpoint.terminate, ike="conn")
    made.run(60)
    assert not made.a.ike()
    assert not made.b.ike()
    made.check_no_leaks()


def test_not_taken_unless_agreed_on() -> None:
    made = Pair(latency=0.05)
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(0.11)
    sa = sa_of(made)
    made.in_flight.clear()
    assert sa.protection is not None
    header = Header(sa.spi_i, sa.spi_r, 0, 2, 0, ExchangeType.IKE_INTERMEDIATE, 0x08, 1)
    sent = len(made.b.sent)
    made.deliver(sa.protection.seal(header, []), sa.local, sa.remote)
    made.run(0.2)
    assert len(made.b.sent) == sent
    made.run(20)
    assert made.a.children("INSTALLED"), "IKE_AUTH comes again and is taken"


def test_exchanges_that_carry_nothing_known_are_answered_and_bounded() -> None:
    """With IKE_INTERMEDIATE agreed on and no key exchange due, others may use it (RFC 9242 §3.2)."""
    words = f"{IKE}-ke1_none-ke1_mlkem512"
    made = pair(ike(words), ike(words))
    made.tap = lambda sender, output: Header.parse(output.data).exchange == ExchangeType.IKE_SA_INIT
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(0.1)
    made.tap = None
    sa, theirs = sa_of(made), sa_of(made, "b")
    assert sa.protection is not None
    for number in range(1, 18):
        header = Header(sa.spi_i, sa.spi_r, 0, 2, 0, ExchangeType.IKE_INTERMEDIATE, 0x08, number)
        made.deliver(sa.protection.seal(header, []), sa.local, sa.remote)
        made.run(0.05)
        assert bool(made.b.ike()) is (number <= 16)
    assert theirs.initial is None

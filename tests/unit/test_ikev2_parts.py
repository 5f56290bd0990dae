"""Parts of the key exchange by themselves: windows, cookies, PAD, credentials, proposals, protection, policies."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ipsecstack.crypto import dn, encr, integ
from ipsecstack.crypto.errors import IntegrityError
from ipsecstack.crypto.ikekeys import IkeKeys
from ipsecstack.ipsec.pad import Match, Pad, PadEntry, match_identity
from ipsecstack.ipsec.sa import Address, SecurityProtocol
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.keyex import base, identity, lookup
from ipsecstack.keyex.admission import Cookies, Decision, HalfOpen, LogLimit, RateLimit
from ipsecstack.keyex.base import CommandError
from ipsecstack.keyex.bookkeeping import Changes, Tickets
from ipsecstack.keyex.configuration import ChildConfig, ConnectionConfig, Identity, Proposal, SharedSecret
from ipsecstack.keyex.credentials import CredentialError, CredentialStore
from ipsecstack.keyex.ikev2 import nat
from ipsecstack.keyex.ikev2.proposals import DEFAULT_ESP, DEFAULT_IKE, accept, offer, select
from ipsecstack.keyex.ikev2.protect import DecryptionError, Protection, parse_inner
from ipsecstack.keyex.options import Options
from ipsecstack.keyex.policies import Policies
from ipsecstack.keyex.window import RequestWindow, ResponseWindow, Schedule, Verdict
from ipsecstack.wire.ikev2 import (
    Encrypted,
    Notify,
    SaProposal,
    Transform,
    VendorId,
    WireError,
    make_header,
    parse_message,
)
from ipsecstack.wire.transforms import EncrId, EsnId, IntegId, KeId, PrfId


def zeros(count: int) -> bytes:
    return bytes(count)


def fqdn(text: str) -> Identity:
    return Identity(2, text.encode(), text)


# --- window ---


def test_request_window_honours_the_peers_size() -> None:
    window = RequestWindow(Schedule(), zeros, size=2)
    assert [window.sent(b"%d" % i, 0.0) for i in range(2)] == [0, 1]
    assert not window.has_room
    assert window.answered(1)
    assert not window.has_room, "request 2 must wait for the response to request 0 (RFC 7296 §2.3)"
    assert window.answered(0)
    assert window.has_room
    assert not window.answered(0)
    assert window.sent(b"2", 0.0) == 2


def test_request_window_gives_up_after_all_tries() -> None:
    window = RequestWindow(Schedule(1.0, 2.0, 2, limit=3.0), zeros)
    window.sent((b"data",), 10.0)
    times = []
    while True:
        due = window.next_timer()
        assert due is not None
        entries, lost = window.retransmit(due)
        times.append(due)
        if lost:
            break
        assert [e.datagrams for e in entries] == [(b"data",)]
    assert times == [11.0, 13.0, 16.0]
    assert Options().give_up_after == pytest.approx(165.06, abs=0.1)


def test_ids_end() -> None:
    window = RequestWindow(Schedule(), zeros)
    window.next_id = 2**32 - 1
    assert window.exhausted


def test_response_window() -> None:
    window = ResponseWindow()
    assert window.judge(0, b"a") == (Verdict.NEW, None)
    window.answered(b"a", b"answer a")
    assert window.judge(0, b"a") == (Verdict.DUPLICATE, b"answer a")
    assert window.judge(0, b"other") == (Verdict.STALE, None)
    assert window.judge(2, b"c") == (Verdict.BEYOND, None)
    window.answered(b"b", b"answer b")
    assert window.judge(0, b"a") == (Verdict.STALE, None)


def test_response_window_takes_requests_in_any_order() -> None:
    """Four at a time: the peer may have sent up to expected + 3, and may repeat what is that far behind the newest."""
    window = ResponseWindow(4)
    window.answered(b"2", (b"two",), 2)
    window.answered(b"1", (b"one",), 1)
    assert window.expected == 0
    assert window.judge(1, b"1") == (Verdict.DUPLICATE, (b"one",))
    assert window.judge(3, b"3") == (Verdict.NEW, None)
    assert window.judge(4, b"4") == (Verdict.BEYOND, None)
    window.answered(b"0", (b"zero",), 0)
    assert window.expected == 3
    assert window.judge(6, b"6") == (Verdict.NEW, None)
    window.answered(b"6", (b"six",), 6)
    assert window.judge(2, b"2") == (Verdict.STALE, None), (
        "request 6 says that the response to 2 was received"
    )
    assert window.judge(7, b"7") == (Verdict.BEYOND, None)
    assert window.judge(0, b"0") == (Verdict.STALE, None)


# --- admission ---


def test_cookie_secrets_change_and_the_last_is_still_good() -> None:
    count = iter(range(1, 100))
    cookies = Cookies(lambda n: next(count).to_bytes(n, "big"), 10.0, 0.0)
    host = ip_address("10.0.0.1")
    cookie = cookies.make(b"nonce", host, b"12345678", 1.0)
    assert len(cookie) <= 64
    assert cookies.check(cookie, b"nonce", host, b"12345678", 9.0)
    assert cookies.check(cookie, b"nonce", host, b"12345678", 11.0)
    assert not cookies.check(cookie, b"nonce", host, b"12345678", 22.0)
    fresh = cookies.make(b"nonce", host, b"12345678", 22.0)
    assert not cookies.check(fresh, b"nonce", host, b"12345678", 90.0), "nothing old survives a quiet time"
    assert "nonce" not in repr(cookies)


def test_limits() -> None:
    half_open = HalfOpen(
        Options(cookie_threshold=3, cookie_threshold_ip=2, block_threshold_ip=3, init_limit_half_open=5)
    )
    one, other = ip_address("10.0.0.1"), ip_address("10.0.0.2")
    assert half_open.decide(one) is Decision.ADMIT
    half_open.add(1, one)
    half_open.add(2, one)
    half_open.add(2, one)
    assert (half_open.decide(one), half_open.decide(other)) == (Decision.DEMAND_COOKIE, Decision.ADMIT)
    half_open.add(3, one)
    assert (half_open.decide(one), half_open.decide(other)) == (Decision.DROP, Decision.DEMAND_COOKIE)
    half_open.add(4, other)
    half_open.add(5, ip_address("10.0.0.3"))
    assert half_open.decide(ip_address("10.0.0.9")) is Decision.DROP
    for uniqueid in range(6):
        half_open.discard(uniqueid)
    assert half_open.decide(one) is Decision.ADMIT
    rate = RateLimit(2, 0.0)
    assert [rate.allow(0.0) for _ in range(3)] == [True, True, False]
    assert rate.allow(0.5)
    log = LogLimit(1)
    assert [log.allow("x", 0.0) for _ in range(4)] == [(True, 0), (False, 0), (False, 0), (False, 0)]
    assert log.allow("x", 1.0) == (True, 3)
    assert log.allow("y", 1.0) == (True, 0)


# --- identities and the PAD ---


def name(text: str) -> bytes:
    return dn.parse_dn(text).public_bytes()


@pytest.mark.parametrize(
    "pattern, value, expected",
    [
        ((0, b""), (2, b"a.lab"), Match.ANY),
        ((2, b"a.lab"), (2, b"A.LAB"), Match.EXACT),
        ((2, b"*.lab"), (2, b"a.lab"), Match.WILDCARD),
        ((2, b"*.lab"), (2, b".lab"), Match.NONE),
        ((2, b"*.lab"), (2, b"a.lab.evil"), Match.NONE),
        ((2, b"a.lab"), (3, b"a.lab"), Match.NONE),
        ((3, b"*@lab"), (3, b"user@lab"), Match.WILDCARD),
        ((1, b"\n\0\0\1"), (1, b"\n\0\0\1"), Match.EXACT),
        ((11, b"Key"), (11, b"key"), Match.NONE),
        ((9, name("C=CH, O=lab, CN=*")), (9, name("C=CH, O=lab, CN=a")), Match.WILDCARD),
        ((9, name("C=CH, O=*, CN=*")), (9, name("C=CH, O=lab, CN=a")), Match.WILDCARD),
        ((9, name("C=CH, O=lab, CN=*")), (9, name("C=CH, O=LAB, CN=a")), Match.WILDCARD),
        ((9, name("C=CH, O=lab, CN=*")), (9, name("C=CH, O=evil, CN=a")), Match.NONE),
        ((9, name("C=CH, CN=*")), (9, name("C=CH, O=lab, CN=a")), Match.NONE),
        ((9, name("C=CH, O=lab")), (9, name("c=CH, o=Lab")), Match.EXACT),
        ((9, name("C=CH, O=lab")), (9, b"not a name"), Match.NONE),
    ],
)
def test_identities_match(pattern: tuple[int, bytes], value: tuple[int, bytes], expected: Match) -> None:
    assert match_identity(*pattern, *value) is expected


def test_pad_orders_by_how_well_it_fits() -> None:
    entries = [
        PadEntry("any", 0, b"", "psk"),
        PadEntry("domain", 2, b"*.lab", "psk"),
        PadEntry("exact", 2, b"a.lab", "psk"),
        PadEntry("certificate", 2, b"a.lab", "pubkey"),
    ]
    pad = Pad(entries)
    assert [e.name for e in pad.lookup(2, b"a.lab", "psk")] == ["exact", "domain", "any"]
    assert [e.name for e in pad.lookup(2, b"a.lab")] == ["exact", "certificate", "domain", "any"]
    assert [e.name for e in pad.lookup(2, b"x.org", "pubkey")] == []
    ts = TrafficSelector.from_text
    entry = PadEntry("net", 2, b"a.lab", "psk", selectors=(ts("10.1.0.0/16"),))
    own = ts("192.0.2.1/32")
    assert entry.authorises([ts("10.1.5.0/24"), own], own)
    assert not entry.authorises([ts("10.0.0.0/8")], own)


def test_identity_texts_are_safe_to_log() -> None:
    assert identity.from_wire(2, b"a\x1b[31m\n.lab").text == "a?[31m?.lab"
    assert identity.from_wire(1, b"\n\0\0\1").text == "10.0.0.1"
    assert identity.from_wire(1, b"short").text == b"short".hex()
    assert identity.from_wire(9, name("C=CH, CN=x")).text == "C=CH, CN=x"
    assert identity.from_wire(9, b"\xff").text.startswith("(DN")
    assert identity.from_wire(11, b"\0\1").text == "0001"
    assert identity.from_address(ip_address("fd00::1")).type == 5


# --- credentials ---


def test_the_best_secret() -> None:
    store = CredentialStore()
    a, b, c = fqdn("a"), fqdn("b"), fqdn("c")
    store.load_shared(SharedSecret("any", b"any"))
    store.load_shared(SharedSecret("peer", b"peer", (b,)))
    store.load_shared(SharedSecret("both", b"both", (a, b)))
    store.load_shared(SharedSecret("other", b"other", (a, c)))
    assert store.find_shared(a, b) == b"both"
    assert store.find_shared(fqdn("x"), b) == b"peer"
    assert store.find_shared(a, c) == b"other"
    assert store.find_shared(a, fqdn("unknown")) == b"any"
    store.unload_shared("any")
    assert store.find_shared(a, fqdn("unknown")) is None
    with pytest.raises(CredentialError):
        store.unload_shared("any")
    with pytest.raises(CredentialError):
        store.load_shared(SharedSecret("empty", b""))
    assert "both" not in repr(store)
    assert "both" not in repr(SharedSecret("id", b"both"))


def test_a_batch_is_all_or_nothing() -> None:
    store = CredentialStore()
    store.load_shared(SharedSecret("old", b"x"))

    def half_good() -> None:
        with store.batch():
            store.clear()
            store.load_shared(SharedSecret("new", b"y"))
            store.load_cert(b"no certificate")

    with pytest.raises(CredentialError):
        half_good()
    assert store.shared_ids() == ["old"]
    for call in (
        lambda: store.load_key(b"no key"),
        lambda: store.unload_key("00"),
        lambda: store.unload_cert(b"x"),
        lambda: store.load_authority("x", b"y"),
        lambda: store.unload_authority("x"),
    ):
        with pytest.raises(CredentialError):
            call()


# --- proposals ---

IKE = Proposal(
    SecurityProtocol.IKE,
    ((EncrId.AES_GCM_16, 256), (EncrId.AES_CBC, 128)),
    (IntegId.HMAC_SHA2_256_128,),
    (PrfId.HMAC_SHA2_256, PrfId.HMAC_SHA2_384),
    (KeId.CURVE_25519, KeId.ECP_256),
)


def test_ciphers_with_and_without_integrity_are_offered_apart() -> None:
    first, second = offer([IKE], b"", with_ke=True)
    assert [t.id for t in first.of_type(1)] == [EncrId.AES_GCM_16]
    assert first.of_type(3) == ()
    assert [t.id for t in second.of_type(3)] == [IntegId.HMAC_SHA2_256_128]
    assert (first.number, second.number) == (1, 2)


def test_choice_and_its_check() -> None:
    offered = offer([IKE], b"", with_ke=True)
    suite = select([IKE], offered, protocol=SecurityProtocol.IKE, with_ke=True, preferred_ke=19, spi_octets=0)
    assert suite is not None
    assert str(suite) == "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_256/ECP_256"
    assert accept(offered, (suite.wire,), with_ke=True, spi_octets=0) == suite
    good = suite.wire
    wrong = [
        (),
        (good, good),
        (SaProposal(good.number, good.protocol, b"1234", good.transforms),),
        (SaProposal(good.number, good.protocol, b"", (*good.transforms, Transform.of(1, 20, 256))),),
        (SaProposal(good.number, good.protocol, b"", good.transforms[1:]),),
        (SaProposal(good.number, good.protocol, b"", (Transform.of(1, 20, 128), *good.transforms[1:])),),
        (SaProposal(9, good.protocol, b"", good.transforms),),
        (SaProposal(good.number, 3, b"", good.transforms),),
        (SaProposal(good.number, good.protocol, b"", (*good.transforms, Transform.of(6, 35))),),
    ]
    for answer in wrong:
        assert accept(offered, answer, with_ke=True, spi_octets=0) is None


def test_choice_among_what_strangers_offer() -> None:
    def chosen(*transforms: Transform, own: tuple[Proposal, ...] = DEFAULT_ESP) -> str | None:
        theirs = (SaProposal(1, 3, b"1234", transforms),)
        found = select(own, theirs, protocol=SecurityProtocol.ESP, with_ke=False, spi_octets=4)
        return str(found) if found else None

    gcm, cbc, sha = Transform.of(1, 20, 128), Transform.of(1, 12, 256), Transform.of(3, 12)
    assert chosen(gcm, Transform.of(5, 0)) == "ESP:AES_GCM_16_128/NO_EXT_SEQ"
    assert chosen(gcm) == "ESP:AES_GCM_16_128", "a peer without ESN transform means 32-bit numbers"
    assert chosen(gcm, Transform.of(5, 1)) == "ESP:AES_GCM_16_128/EXT_SEQ"
    assert chosen(gcm, Transform.of(5, 7)) is None
    assert chosen(cbc, Transform.of(5, 0)) is None
    assert chosen(cbc, sha, Transform.of(5, 0)) == "ESP:AES_CBC_256/HMAC_SHA2_256_128/NO_EXT_SEQ"
    assert chosen(gcm, Transform.of(3, 0), Transform.of(5, 0)) == "ESP:AES_GCM_16_128/NO_EXT_SEQ"
    assert chosen(gcm, sha, Transform.of(5, 0)) is None
    assert chosen(gcm, Transform.of(5, 0), Transform.of(4, 31)) == "ESP:AES_GCM_16_128/NO_EXT_SEQ"
    assert chosen(gcm, Transform.of(5, 0), Transform.of(77, 3)) is None
    assert chosen(Transform.of(1, 20), Transform.of(5, 0)) is None, "the key length is needed"
    esn = Proposal(SecurityProtocol.ESP, ((EncrId.AES_GCM_16, 128),), esn=(EsnId.ESN,))
    assert chosen(gcm, Transform.of(5, 0), own=(esn,)) is None
    assert len(offer(DEFAULT_IKE, b"", with_ke=True)) == 2
    assert not offer(
        [Proposal(SecurityProtocol.ESP, ((EncrId.RC5_CBC, 128),), (IntegId.HMAC_SHA1_96,))],
        b"",
        with_ke=False,
    )


# --- protection ---


@pytest.mark.parametrize(
    "cipher, mac",
    [
        (encr.get(EncrId.AES_GCM_16, 128), integ.get(IntegId.NONE)),
        (encr.get(EncrId.CHACHA20_POLY1305), integ.get(IntegId.NONE)),
        (encr.get(EncrId.AES_CBC, 256), integ.get(IntegId.HMAC_SHA2_256_128)),
    ],
)
def test_protection(cipher: encr.Encr, mac: integ.Integ) -> None:
    octets = 0 if cipher.aead else mac.key_octets
    keys = IkeKeys(
        b"d" * 32,
        b"1" * octets,
        b"2" * octets,
        b"3" * cipher.keymat_octets,
        b"4" * cipher.keymat_octets,
        b"",
        b"",
    )
    initiator, responder = (Protection(cipher, mac, keys, role, zeros) for role in (True, False))
    header = make_header(b"i" * 8, b"r" * 8, 37, 5, from_initiator=True, response=False)
    payloads = [Notify(16384), VendorId(b"x" * 33)]
    data = initiator.seal(header, payloads)
    outer = parse_message(data).payloads
    sealed = outer[-1]
    assert isinstance(sealed, Encrypted)
    assert list(parse_inner(*responder.open(data, outer))) == payloads
    assert initiator.seal(header, payloads) != data or not cipher.iv_counter, "an IV is never used twice"
    with pytest.raises(IntegrityError):
        initiator.open(data, outer)
    for position in range(len(data)):
        bad = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(IntegrityError):
            responder.open(bad, [Encrypted(sealed.first_payload, bad[32:])])
    for none in ((), payloads, [Encrypted(41, b"")]):
        with pytest.raises(WireError):
            responder.open(data, none)
    assert "333" not in repr(initiator)


def test_authentic_rubbish_is_not_an_integrity_failure() -> None:
    """What only the holder of the keys can make: a ciphertext that is no whole number of blocks, and bad padding."""
    cipher, mac = encr.get(EncrId.AES_CBC, 256), integ.get(IntegId.HMAC_SHA2_256_128)
    keys = IkeKeys(b"d" * 32, b"1" * 32, b"2" * 32, b"3" * 32, b"4" * 32, b"", b"")
    responder = Protection(cipher, mac, keys, False, zeros)
    header = make_header(b"i" * 8, b"r" * 8, 37, 5, from_initiator=True, response=False).to_bytes()

    def signed(body: bytes) -> tuple[bytes, Encrypted]:
        data = header + bytes((0, 0)) + (4 + len(body) + mac.icv_octets).to_bytes(2, "big") + body
        data += integ.get(IntegId.HMAC_SHA2_256_128).new(keys.sk_ai).sign(data)
        return data, Encrypted(0, data[32:])

    iv = bytes(16)
    overlong = cipher.new(keys.sk_ei).seal(iv, b"", bytes(15) + b"\xff")
    for body, text in ((iv + bytes(15), "cannot be decrypted"), (iv + overlong, "padding length")):
        data, sealed = signed(body)
        with pytest.raises(DecryptionError, match=text):
            responder.open(data, [sealed])


# --- the rest ---


def test_nat_detection_hash_is_order_and_port_sensitive() -> None:
    here, there = Address(ip_address("10.0.0.1"), 500), Address(ip_address("10.0.0.2"), 500)
    hashes = {
        nat.detection_hash(b"1" * 8, b"2" * 8, here),
        nat.detection_hash(b"2" * 8, b"1" * 8, here),
        nat.detection_hash(b"1" * 8, b"2" * 8, there),
        nat.detection_hash(b"1" * 8, b"2" * 8, Address(here.host, 4500)),
    }
    assert len(hashes) == 4
    assert {len(h) for h in hashes} == {20}


def test_addresses_of_connections() -> None:
    def score(configured: str, address: str) -> int:
        return lookup.match_address(configured.split(), ip_address(address))

    assert score("%any", "10.0.0.1") == 1
    assert score("%any6", "10.0.0.1") == 0
    assert score("10.0.0.0/24 10.0.0.1", "10.0.0.1") == 3
    assert score("10.0.0.0/24", "10.0.0.9") == 2
    assert score("10.0.0.1-10.0.0.5", "10.0.0.5") == 2
    assert score("10.0.0.1-10.0.0.5", "10.0.0.6") == 0
    assert score("gateway.example", "10.0.0.6") == 0
    assert lookup.first_address(["%any", "10.0.0.0/8", "name", "10.0.0.7"]) == ip_address("10.0.0.7")
    assert lookup.first_address(["10.0.0.7"], 6) is None
    any_, exact = ConnectionConfig("any"), ConnectionConfig("exact", remote_addrs=("10.0.0.2",))
    v1 = ConnectionConfig("v1", version=1)
    found = lookup.candidates(
        [any_, v1, exact], Address(ip_address("10.0.0.1")), Address(ip_address("10.0.0.2")), 2
    )
    assert [c.name for c in found] == ["exact", "any"]


def test_policies_are_shared_and_trapped() -> None:
    said: list[base.Output] = []
    policies = Policies(said.append)
    child = ChildConfig("net")
    ts = (TrafficSelector.from_text("10.0.0.0/24"),)
    key, reqid = policies.acquire("conn", child, ts, ts)
    again, same = policies.acquire("conn", child, ts, ts)
    assert (again, same) == (key, reqid)
    assert len(said) == 1
    policies.release(key)
    assert len(said) == 1
    assert policies.trap("conn", child, ts, ts)
    assert not policies.trap("conn", child, ts, ts)
    policies.release(key)
    policies.release(key)
    trap, plain = said[-2:]  # the new one before the old one goes, so that nothing passes between them
    assert isinstance(trap, base.AddPolicy)
    assert isinstance(plain, base.RemovePolicy)
    assert trap.entry.trap
    assert not plain.entry.trap
    assert policies.untrap("conn", "net")
    assert isinstance(said[-1], base.RemovePolicy)
    assert len(policies) == 0
    assert not policies.untrap("conn", "net")
    _, fresh = policies.acquire("conn", child, ts, ts)
    assert fresh != reqid, "a reqid is not used again at once"


def test_tickets_close_when_all_parts_are_done() -> None:
    said: list[base.Output] = []
    tickets = Tickets(said.append)
    ticket = tickets.open(2)
    parts = [ticket]
    tickets.finish(parts, False, "first failed")
    assert parts == []
    tickets.finish(parts, True, "nothing")
    assert said == []
    tickets.finish([ticket], True, "fine")
    tickets.finish([ticket], True, "late")
    assert said == [base.CommandFinished(ticket, False, "first failed")]


def test_changes_forget_and_say_so() -> None:
    changes = Changes(2)
    for uniqueid in range(3):
        changes.ended(uniqueid, ike=uniqueid != 1)
    assert changes.gone_since(1) == ([2], [1])
    with pytest.raises(CommandError):
        changes.gone_since(0)
    with pytest.raises(CommandError):
        changes.gone_since(99)


def test_lookups_do_not_grow_with_what_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 peers with a secret, an identity and an address each: finding one compares a handful."""
    from ipsecstack.ipsec import pad as pad_module

    calls = 0
    original = pad_module.match_identity

    def counted(*arguments: object) -> Match:
        nonlocal calls
        calls += 1
        return original(*arguments)  # type: ignore[arg-type]

    store = CredentialStore()
    gateway = fqdn("gateway")
    peers = [fqdn(f"peer{i}") for i in range(2000)]
    for peer in peers:
        store.load_shared(SharedSecret(peer.text, peer.data + b" secret", (gateway, peer)))
    pad = Pad([PadEntry(p.text, p.type, p.data, "psk") for p in peers])
    index = lookup.ConnectionIndex(
        [ConnectionConfig(p.text, remote_addrs=(f"10.0.{i // 256}.{i % 256}",)) for i, p in enumerate(peers)]
    )
    monkeypatch.setattr(pad_module, "match_identity", counted)
    monkeypatch.setattr(identity, "match_identity", counted)
    assert store.find_shared(gateway, peers[1234]) == b"peer1234 secret"
    assert [e.name for e in pad.lookup(2, b"PEER1234", "psk")] == ["peer1234"]
    here, there = Address(ip_address("10.9.9.9")), Address(ip_address("10.0.4.210"))
    assert [c.name for c in index.candidates(here, there, 2)] == ["peer1234"]
    assert calls < 10

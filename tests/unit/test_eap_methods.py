"""EAP methods, peer against authenticator in memory, and what happens when one of them lies."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from ipsecstack.crypto.errors import CertificateError
from ipsecstack.crypto.tls import TlsSettings
from ipsecstack.keyex.eap.authenticator import Authenticator
from ipsecstack.keyex.eap.method import Method, PeerContext, ServerContext
from ipsecstack.keyex.eap.methods import BY_NAME, METHODS, allowed
from ipsecstack.keyex.eap.peer import MAX_ROUNDS, Peer, Result, Step
from ipsecstack.keyex.eap.tls import FRAGMENT_OCTETS, MAX_MESSAGE_OCTETS, Fragments
from ipsecstack.wire.eap import EapCode, EapError, EapPacket, EapType

PASSWORD = b"a pass\xc3\xa4word"


@lru_cache
def identity(name: str, kind: str = "ecdsa", padding: int = 0) -> TlsSettings:
    """A self-signed certificate; ``padding`` makes it long."""
    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ecdsa" else ed25519.Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names = [x509.DNSName(f"{n}.{'x' * 50}.example") for n in range(padding // 60)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name), *names]), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256() if kind == "ecdsa" else None)
    return TlsSettings(certificate, key)


def _as_it_is(packet: bytes) -> bytes:
    return packet


@dataclass
class Table:
    """One conversation; ``tamper`` sees each packet of the peer."""

    users: dict[bytes, bytes] = field(default_factory=lambda: {b"alice": PASSWORD})
    name: bytes = b"alice"
    password: bytes | None = PASSWORD
    peer_methods: tuple[Method, ...] = METHODS
    server_methods: tuple[Method, ...] = METHODS
    ask: bool = True
    peer_tls: TlsSettings | None = None
    server_tls: TlsSettings | None = None
    tamper: Callable[[bytes], bytes] = _as_it_is
    hashes: dict[bytes, bytes] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def talk(self) -> tuple[Peer, Authenticator, Step, Step]:
        rng = random.Random(7)
        log: list[str] = []

        def tls(settings: TlsSettings | None) -> Callable[[], TlsSettings]:
            def get() -> TlsSettings:
                assert settings is not None
                return settings

            return get

        peer = Peer(
            PeerContext(
                self.name, rng.randbytes, lambda: self.password, lambda: None, tls(self.peer_tls), log.append
            ),
            self.peer_methods,
        )
        server = Authenticator(
            ServerContext(
                b"" if self.ask else self.name, b"gw", rng.randbytes, self.users.get, self.hashes.get,
                tls(self.server_tls), log.append,
            ),
            self.server_methods,
            ask_identity=self.ask,
            admit=lambda name: None,
        )  # fmt: skip
        said = server.begin()
        while True:
            assert said.packet is not None
            self.sizes.append(len(said.packet))
            heard = peer.receive(said.packet)
            if heard.result is not Result.GOING_ON or said.result is not Result.GOING_ON:
                return peer, server, heard, said
            assert heard.packet is not None
            self.sizes.append(len(heard.packet))
            said = server.receive(self.tamper(heard.packet))


def judged(*trusted: TlsSettings) -> Callable[[list[x509.Certificate]], None]:
    def judge(chain: list[x509.Certificate]) -> None:
        if chain[0] not in [one.certificate for one in trusted]:
            raise CertificateError("not trusted")

    return judge


def with_judge(own: TlsSettings, *trusted: TlsSettings) -> TlsSettings:
    return TlsSettings(own.certificate, own.key, own.chain, judged(*trusted))


@pytest.mark.parametrize("name", ["md5", "mschapv2", "gtc"])
@pytest.mark.parametrize("ask", [True, False])
def test_passwords(name: str, ask: bool) -> None:
    table = Table(peer_methods=allowed(name), ask=ask)
    peer, server, heard, said = table.talk()
    assert (heard.result, said.result) == (Result.SUCCESS, Result.SUCCESS)
    assert server.identity == b"alice"
    assert peer.msk == server.msk
    assert (peer.msk is not None) == (name == "mschapv2")


def test_mschapv2_with_the_hash_of_a_password() -> None:
    from ipsecstack.keyex.eap.mschapv2 import hash_of

    table = Table(users={}, hashes={b"alice": hash_of(PASSWORD)}, peer_methods=allowed("mschapv2"))
    peer, server, heard, _ = table.talk()
    assert heard.result is Result.SUCCESS
    assert peer.msk == server.msk is not None


@pytest.mark.parametrize("name", ["md5", "mschapv2", "gtc"])
def test_unknown_users_and_wrong_passwords_look_the_same(name: str) -> None:
    """The same packets of the same lengths, and the same words in the log."""
    seen = []
    for table in (
        Table(password=b"wrong", peer_methods=allowed(name), server_methods=allowed(name)),
        Table(users={b"bobby": PASSWORD}, peer_methods=allowed(name), server_methods=allowed(name)),
    ):
        _, server, heard, said = table.talk()
        assert said.result is Result.FAILURE or heard.result is Result.FAILURE
        assert server.msk is None
        seen.append((table.sizes, said.reason, heard.reason))
    assert seen[0][1:] == seen[1][1:]
    if name != "gtc":
        assert seen[0][0] == seen[1][0]


def test_the_peer_notices_an_authenticator_without_the_password() -> None:
    """The server answers success for any response: MSCHAPv2's peer does not take it."""
    table = Table(peer_methods=allowed("mschapv2"), server_methods=allowed("mschapv2"))
    table.users = {b"alice": b"another"}
    rng = random.Random(1)
    peer = Peer(
        PeerContext(
            b"alice", rng.randbytes, lambda: PASSWORD, lambda: None, lambda: identity("a"), lambda _: None
        ),
        allowed("mschapv2"),
    )
    challenge = bytes((1, 9)) + (5 + 16 + 2).to_bytes(2, "big") + bytes((16,)) + bytes(16) + b"gw"
    assert peer.receive(EapPacket(1, 1, 26, challenge).to_bytes()).result is Result.GOING_ON
    success = b"S=" + b"0" * 40 + b" M=Welcome"
    body = bytes((3, 9)) + (4 + len(success)).to_bytes(2, "big") + success
    step = peer.receive(EapPacket(1, 2, 26, body).to_bytes())
    assert step.result is Result.FAILURE
    assert "does not know the password" in step.reason
    assert peer.msk is None


def test_success_too_early_is_a_failure() -> None:
    rng = random.Random(1)
    context = PeerContext(
        b"a", rng.randbytes, lambda: b"x", lambda: None, lambda: identity("a"), lambda _: None
    )
    peer = Peer(context, METHODS)
    step = peer.receive(EapPacket(EapCode.SUCCESS, 1).to_bytes())
    assert step.result is Result.FAILURE


def test_methods_are_agreed_on_by_nak() -> None:
    table = Table(peer_methods=(BY_NAME["gtc"],), server_methods=METHODS)
    _, server, heard, _ = table.talk()
    assert heard.result is Result.SUCCESS
    assert server.method is BY_NAME["gtc"]


def test_no_common_method() -> None:
    table = Table(peer_methods=allowed("gtc"), server_methods=allowed("md5"))
    _, _, heard, said = table.talk()
    assert heard.result is Result.FAILURE
    assert "knows none" in said.reason


@pytest.mark.parametrize("padding", [0, 6000])
@pytest.mark.parametrize("kind", ["ecdsa", "ed25519"])
def test_tls(kind: str, padding: int) -> None:
    one, other = identity("a.lab", kind, padding), identity("b.lab", kind, padding)
    table = Table(
        peer_methods=allowed("tls"), peer_tls=with_judge(one, other), server_tls=with_judge(other, one)
    )
    peer, server, heard, said = table.talk()
    assert (heard.result, said.result) == (Result.SUCCESS, Result.SUCCESS), (heard, said)
    assert peer.msk == server.msk
    assert len(peer.msk or b"") == 64
    assert max(table.sizes) <= FRAGMENT_OCTETS + 10


@pytest.mark.parametrize("who", ["peer", "server"])
def test_tls_with_a_certificate_that_is_not_trusted(who: str) -> None:
    one, other, third = identity("a.lab"), identity("b.lab"), identity("c.lab")
    table = Table(
        peer_methods=allowed("tls"),
        peer_tls=with_judge(one, third if who == "peer" else other),
        server_tls=with_judge(other, third if who == "server" else one),
    )
    peer, server, heard, said = table.talk()
    assert Result.FAILURE in (heard.result, said.result)
    assert peer.msk is None or server.msk is None
    assert "not trusted" in heard.reason + said.reason


def test_fragments_put_together() -> None:
    one, other = Fragments(), Fragments()
    message = random.Random(3).randbytes(5 * FRAGMENT_OCTETS + 17)
    part = one.start(message)
    while (whole := other.receive(part)) is None:
        part = one.next()
    assert whole == message
    assert other.receive(Fragments().start(b"short")) == b"short"


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"\x80\0\0"],
        [b"\x80\xff\xff\xff\xff" + b"x"],
        [b"\xc0\0\0\x20\0abc", b"\xc0\0\0\x30\0abc"],
        [b"\xc0\0\0\0\x04abc", b"\x00abc"],
        [b"\xc0\0\0\0\x09abc", b"\x00abc"],
        [b"\x40"],
        [b"\x40" + bytes(40000), b"\x40" + bytes(40000)],
    ],
)
def test_fragments_that_do_not_fit(parts: list[bytes]) -> None:
    fragments = Fragments()
    for part in parts[:-1]:
        fragments.receive(part)
    with pytest.raises(EapError):
        fragments.receive(parts[-1])
    assert MAX_MESSAGE_OCTETS == 65536


def test_an_endless_conversation_ends() -> None:
    rng = random.Random(1)
    context = PeerContext(
        b"a", rng.randbytes, lambda: b"x", lambda: None, lambda: identity("a"), lambda _: None
    )
    peer = Peer(context, METHODS)
    for _ in range(MAX_ROUNDS):
        assert peer.receive(EapPacket(1, 1, EapType.NOTIFICATION, b"hi").to_bytes()).result is Result.GOING_ON
    assert peer.receive(EapPacket(1, 1, EapType.NOTIFICATION, b"hi").to_bytes()).result is Result.FAILURE


@pytest.mark.parametrize("seed", range(12))
def test_mutated_packets_never_authenticate_and_never_raise(seed: int) -> None:
    rng = random.Random(seed)
    one, other = identity("a.lab"), identity("b.lab")
    for method in METHODS:
        for _ in range(12):

            def tamper(packet: bytes) -> bytes:
                octets = bytearray(packet)
                for _ in range(rng.randrange(1, 4)):
                    kind = rng.randrange(3)
                    if kind == 0 and octets:
                        octets[rng.randrange(len(octets))] = rng.randrange(256)
                    elif kind == 1:
                        del octets[rng.randrange(len(octets) + 1) :]
                    else:
                        octets += rng.randbytes(rng.randrange(40))
                return bytes(octets)

            table = Table(
                peer_methods=(method,),
                server_methods=(method,),
                peer_tls=with_judge(one, other),
                server_tls=with_judge(other, one),
                tamper=tamper,
            )
            peer, server, heard, said = table.talk()
            if heard.result is Result.SUCCESS and said.result is Result.SUCCESS:
                assert peer.msk == server.msk
            else:
                assert server.msk is None or peer.msk is None

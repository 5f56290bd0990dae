"""Authentication: shared secrets and certificates, and everything that must not be accepted."""

from dataclasses import replace
from typing import Any

import pytest
from ike_network import Pair, connection, fqdn, mirrored
from ike_pki import authority, certificate, make_key, pem

from ipsecstack.keyex import base
from ipsecstack.keyex.configuration import AuthClass, AuthConfig, Identity, SharedSecret


def cert_pair(
    kind: str = "ecdsa",
    *,
    b_cert: bytes | None = None,
    load_ca: bool = True,
    b_sends: str = "ifasked",
    **options: Any,
) -> Pair:
    a, b = mirrored(auth=AuthClass.PUBKEY, **options)
    pair = Pair(load=False)
    for end, name in ((pair.a, "a.lab"), (pair.b, "b.lab")):
        own = b_cert if end is pair.b and b_cert is not None else certificate(kind, name)
        end.credentials.load_cert(own)
        end.credentials.load_key(pem(make_key(kind, name)))
        if load_ca:
            end.credentials.load_cert(authority(), ca=True)
    pair.a.load(a)
    pair.b.load(replace(b, send_cert=b_sends))
    return pair


def attempt(pair: Pair, seconds: float = 10) -> base.CommandFinished:
    ticket = pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(seconds)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None
    return outcome


def refused(pair: Pair, reason: str, who: str) -> None:
    """Neither end keeps anything; ``who`` says why."""
    assert not attempt(pair, 40).success
    assert reason in getattr(pair, who).failures()
    for end in pair.ends:
        assert not end.ike()
        assert not end.plane.sas
        assert not end.plane.policies
        assert not end.plane.reserved
        assert not end.heard(base.IkeSaEstablished) or end is pair.b
        assert end.endpoint.next_timer() is None


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ecdsa384", "ed25519"])
def test_certificates(kind: str) -> None:
    pair = cert_pair(kind)
    pair.up()
    expected = "ecdsa" if kind == "ecdsa384" else kind
    for end in pair.ends:
        sa = end.ike()[0]
        assert (sa.local_auth, sa.remote_auth) == (expected, expected)
        assert sa.remote_cert_expiry is not None
    pair.check_no_leaks()


def test_certificates_beside_a_shared_secret() -> None:
    """The responder asks for a certificate also when the first connection of these addresses needs none (§3.7)."""
    pair = cert_pair()
    cert = mirrored(auth=AuthClass.PUBKEY)[1]
    pair.b.endpoint.unload_connection("conn", pair.now)
    other = connection("other", local="10.0.0.2", remote="10.0.0.1", local_id="c.lab", remote_id="d.lab")
    for config in (other, cert):
        pair.b.load(config)
    pair.up()
    assert pair.b.ike()[0].name == "conn"
    assert pair.b.ike()[0].remote_auth == "ecdsa"


def test_shared_secret_names() -> None:
    pair = Pair()
    pair.up()
    sa = pair.b.ike()[0]
    assert (sa.local_auth, sa.remote_auth) == ("psk", "psk")
    assert sa.remote_id is not None
    assert sa.remote_id.text == "a.lab"
    assert sa.remote_cert_expiry is None


def test_wrong_secret() -> None:
    pair = Pair()
    pair.b.credentials.load_shared(SharedSecret("psk", b"another secret", (fqdn("a.lab"), fqdn("b.lab"))))
    refused(pair, "AUTHENTICATION_FAILED", "b")


def test_wrong_secret_at_the_initiator_only_shows_there() -> None:
    """The responder proves nothing to an initiator that it refused."""
    pair = Pair()
    pair.a.credentials.load_shared(SharedSecret("psk", b"another secret", (fqdn("a.lab"), fqdn("b.lab"))))
    refused(pair, "AUTHENTICATION_FAILED", "a")


def test_no_secret() -> None:
    pair = Pair()
    pair.a.credentials.unload_shared("psk")
    refused(pair, "NO_PSK", "a")


def test_unknown_identity_is_refused() -> None:
    a, b = mirrored()
    pair = Pair(a=replace(a, local=(AuthConfig(AuthClass.PSK, fqdn("x.lab")),)), b=b)
    pair.a.credentials.load_shared(SharedSecret("x", b"a shared secret for tests", (fqdn("x.lab"),)))
    refused(pair, "NO_PEER_CONFIG", "b")


def test_the_wrong_responder_is_refused_and_told() -> None:
    """The responder has authenticated itself, but as somebody else: the initiator deletes what the responder made."""
    a, b = mirrored()
    # The initiator names nobody in IDr (any name below the domain would do), the responder is called otherwise.
    a = replace(a, remote=(AuthConfig(AuthClass.PSK, Identity(2, b"*.example", "*.example")),))
    pair = Pair(a=a, b=b)
    refused(pair, "ID_MISMATCH", "a")
    assert pair.b.heard(base.IkeSaDeleted)


def test_wildcard_identity() -> None:
    a, b = mirrored()
    a = replace(a, remote=(AuthConfig(AuthClass.PSK, Identity(2, b"*.lab", "*.lab")),))
    pair = Pair(a=a, b=b)
    pair.up()


def test_untrusted_authority() -> None:
    pair = cert_pair(b_cert=certificate("ecdsa", "b.lab", ca="evil CA"))
    refused(pair, "CERTIFICATE_INVALID", "a")


def test_expired_certificate() -> None:
    pair = cert_pair(b_cert=certificate("ecdsa", "b.lab", first=-30, last=-1))
    refused(pair, "CERTIFICATE_INVALID", "a")


def test_certificate_that_is_not_valid_yet() -> None:
    pair = cert_pair(b_cert=certificate("ecdsa", "b.lab", first=1))
    refused(pair, "CERTIFICATE_INVALID", "a")


def test_certificate_for_another_name() -> None:
    pair = cert_pair()
    pair.b.credentials.load_cert(certificate("ecdsa", "c.lab"))
    pair.b.credentials.load_key(pem(make_key("ecdsa", "c.lab")))
    config = pair.b.endpoint.connections()[0]
    local = AuthConfig(AuthClass.PUBKEY, fqdn("b.lab"), certs=(certificate("ecdsa", "c.lab"),))
    pair.b.load(replace(config, local=(local,)))
    refused(pair, "ID_MISMATCH", "a")


def test_no_private_key() -> None:
    pair = cert_pair()
    pair.a.credentials.unload_key(pair.a.credentials.key_ids()[0])
    refused(pair, "NO_PRIVATE_KEY", "a")


def test_secret_instead_of_certificate() -> None:
    """An initiator that uses a shared secret where the connection asks for a certificate has no such connection."""
    pair = cert_pair()
    config = pair.a.endpoint.connections()[0]
    pair.a.load(replace(config, local=(AuthConfig(AuthClass.PSK, fqdn("a.lab")),)))
    for end in pair.ends:
        end.credentials.load_shared(SharedSecret("psk", b"x" * 20))
    refused(pair, "NO_PEER_CONFIG", "b")


def test_intermediate_authority_is_sent_along() -> None:
    pair = cert_pair(b_cert=certificate("ecdsa", "b.lab", ca="site CA"))
    pair.b.credentials.load_cert(authority("site CA", "lab CA"))
    pair.up()


def test_certificate_that_the_peer_has_is_not_needed() -> None:
    pair = cert_pair(b_sends="never")
    refused(pair, "AUTHENTICATION_FAILED", "a")
    pair = cert_pair(b_sends="never")
    pair.a.credentials.load_cert(certificate("ecdsa", "b.lab"))
    own = pair.b.credentials.certificates()[0].der
    pair.a.credentials.load_cert(own)
    pair.a.load(
        replace(
            pair.a.endpoint.connections()[0], remote=(AuthConfig(AuthClass.PUBKEY, fqdn("b.lab"), (own,)),)
        )
    )
    pair.up()


def test_pinned_certificate_needs_no_authority() -> None:
    pair = cert_pair(load_ca=False, b_sends="always")
    certs = {end.name: end.credentials.certificates()[0].der for end in pair.ends}
    for end, other in ((pair.a, "b"), (pair.b, "a")):
        config = end.endpoint.connections()[0]
        remote = AuthConfig(AuthClass.PUBKEY, config.remote[0].id, certs=(certs[other],))
        end.load(replace(config, remote=(remote,), send_cert="always"))
    pair.up()
    pair = cert_pair(b_sends="always")
    wrong = AuthConfig(AuthClass.PUBKEY, fqdn("b.lab"), certs=(certificate("ecdsa", "b.lab"),))
    pair.a.load(replace(pair.a.endpoint.connections()[0], remote=(wrong,)))
    refused(pair, "AUTHENTICATION_FAILED", "a")


def test_authority_of_the_connection_only() -> None:
    """cacerts narrows the trust anchors to those of the connection."""
    pair = cert_pair()
    other = AuthConfig(AuthClass.PUBKEY, fqdn("b.lab"), cacerts=(authority("other CA"),))
    pair.a.load(replace(pair.a.endpoint.connections()[0], remote=(other,)))
    refused(pair, "CERTIFICATE_INVALID", "a")


def test_nothing_secret_is_shown() -> None:
    pair = cert_pair()
    secret = b"do not show this secret"
    pair.a.credentials.load_shared(SharedSecret("s", secret))
    pair.up()
    shown = repr(pair.a.said) + repr(pair.a.endpoint.__dict__) + repr(pair.a.ike())
    for sa in pair.a.endpoint.registry.all():
        shown += repr(sa) + repr(sa.__dict__)
        assert sa.keys is not None
        for key in (sa.keys.sk_d, sa.keys.sk_ei, sa.keys.sk_er, sa.keys.sk_pi):
            assert repr(key)[2:-1] not in shown
            assert key.hex() not in shown
    for installed in pair.a.plane.sas.values():
        assert installed.key_encr.hex() not in shown
        assert repr(installed.key_encr)[2:-1] not in shown
    assert secret.decode() not in shown


def test_keys_are_exported_only_on_request() -> None:
    from ipsecstack.keyex.options import Options

    pair = Pair()
    pair.up()
    assert not pair.a.heard(base.KeysDerived)
    pair = Pair(options=Options(export_keys=True))
    pair.up()
    tables = [k.table for k in pair.a.heard(base.KeysDerived)]
    assert tables == ["ikev2_decryption_table", "esp_sa", "esp_sa"]
    assert pair.a.heard(base.KeysDerived)[0].line == pair.b.heard(base.KeysDerived)[0].line
    assert pair.a.heard(base.KeysDerived)[0].line not in repr(pair.a.said)


def test_the_dead_hold_no_keys() -> None:
    pair = Pair()
    pair.up()
    sa = next(iter(pair.a.endpoint.registry.all()))
    assert sa.initial is None
    pair.a.do(pair.a.endpoint.terminate, ike="conn")
    pair.run(5)
    assert (sa.keys, sa.protection, sa.initial) == (None, None, None)

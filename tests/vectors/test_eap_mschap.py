"""MD4 (RFC 1320 A.5), MSCHAPv2 (RFC 2759 §9.2) and its keys (RFC 3079 §3.5.3)."""

from __future__ import annotations

import pytest

from ipsecstack.crypto import mschap
from ipsecstack.crypto.md4 import md4

AUTHENTICATOR = bytes.fromhex("5B5D7C7D7B3F2F3E3C2C602132262628")
PEER = bytes.fromhex("21402324255E262A28295F2B3A337C7E")
HASH = mschap.nt_password_hash("clientPass")
RESPONSE = mschap.nt_response(AUTHENTICATOR, PEER, b"User", HASH)


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("", "31d6cfe0d16ae931b73c59d7e0c089c0"),
        ("a", "bde52cb31de33e46245e05fbdbd6fb24"),
        ("abc", "a448017aaf21d8525fc10ae87aa6729d"),
        ("message digest", "d9130a8164549fe818874806e1c7014b"),
        ("abcdefghijklmnopqrstuvwxyz", "d79e1c308aa5bbcdeea8ed63df412da9"),
        ("1234567890" * 8, "e33b4ddc9c38f2199c3e7b164fcc0536"),
    ],
)
def test_md4(text: str, digest: str) -> None:
    assert md4(text.encode()).hex() == digest


def test_password_hash() -> None:
    assert HASH.hex().upper() == "44EBBA8D5312B8D611474411F56989AE"
    assert md4(HASH).hex().upper() == "41C00C584BD2D91C4017A2A12FA59F3F"


def test_challenge_hash() -> None:
    assert mschap.challenge_hash(PEER, AUTHENTICATOR, b"User").hex().upper() == "D02E4386BCE91226"


def test_responses() -> None:
    assert RESPONSE.hex().upper() == "82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF"
    proof = mschap.authenticator_response(HASH, RESPONSE, PEER, AUTHENTICATOR, b"User")
    assert proof.hex().upper() == "407A5589115FD0D6209F510FE9C04566932CDA56"


def test_keys() -> None:
    master = mschap.master_key(HASH, RESPONSE)
    assert master.hex().upper() == "FDECE3717A8C838CB388E527AE3CDD31"
    sends = mschap.asymmetric_start_key(master, server_sends=True)
    assert sends.hex().upper() == "8B7CDC149B993A1BA118CB153F56DCCB"
    assert mschap.msk(HASH, RESPONSE)[16:32] == sends
    assert len(mschap.msk(HASH, RESPONSE)) == 64

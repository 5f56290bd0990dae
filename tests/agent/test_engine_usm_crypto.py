"""USM's keys, digests and ciphers against published vectors, and against net-snmp in every combination."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from smi_support import Manager, Offline, Running, TestModel, request, rows, running, snmp
from test_smi_controller import column

from agent.config import Secret, User
from agent.engine import usm_crypto
from agent.engine.pdu import GETBULK
from agent.engine.usm_crypto import AUTH, PRIV, LocalUser, UsmDecryptionError

ENGINE_ID = bytes(11) + b"\x02"
# RFC 3414 appendix A.3: maplesyrup, engine ID 00..02
LOCALIZED = {
    "md5": "526f5eed9fcce26f8964c2930787d82b",
    "sha1": "6695febc9288e36282235fc7151f128497b38f3f",
}
# appendix A.5: maplesyrup to newsyrup, random component of zeros; the last is the privacy key of a SHA-1 user
CHANGES = [
    ("MD5", 16, "8805615141676cc9196174e742a32551"),
    ("SHA-1", 20, "9c1017f4fd483d2de8d5fadbf84392cb06457051"),
    ("SHA-1", 16, "7ef8d8a4c9cdb26b47591cd852ff88b5"),
]


@pytest.mark.parametrize(("name", "key"), LOCALIZED.items())
def test_password_to_key(name: str, key: str) -> None:
    assert usm_crypto.localized_key(b"maplesyrup", ENGINE_ID, name).hex() == key


def test_password_to_key_by_acvp(repository: Path) -> None:
    path = repository.parent / "shared" / "vectors" / "nist" / "acvp_kdf_snmp_sha1.json"
    if not path.exists():
        pytest.skip("the larger vector sets are not here")
    vectors = json.loads(path.read_text())["vectors"]
    assert len(vectors) >= 20
    for vector in vectors:
        password, engine_id = vector["password"].encode(), bytes.fromhex(vector["engineId"])
        assert usm_crypto.localized_key(password, engine_id, "sha1") == bytes.fromhex(vector["sharedKey"])


@pytest.mark.parametrize(("auth", "size", "delta"), CHANGES)
def test_key_change(auth: str, size: int, delta: str) -> None:
    name = AUTH[auth][0]
    old, new = (
        usm_crypto.localized_key(word, ENGINE_ID, name)[:size] for word in (b"maplesyrup", b"newsyrup")
    )
    value = usm_crypto.key_change_value(auth, old, new, bytes(size))
    assert value.hex() == "00" * size + delta
    assert usm_crypto.key_change(auth, old, value) == new


@pytest.mark.parametrize("auth", AUTH)
@pytest.mark.parametrize("size", [16, 20, 24, 28, 32, 48, 64])
def test_key_change_of_any_size(auth: str, size: int) -> None:
    old, new, random = bytes(range(size)), bytes(range(100, 100 + size)), b"\x5a" * size
    value = usm_crypto.key_change_value(auth, old, new, random)
    assert len(value) == 2 * size
    assert value[size:] != new
    assert usm_crypto.key_change(auth, old, value) == new
    for wrong in (value[:-1], value + b"x", b""):
        with pytest.raises(ValueError, match="twice the octets"):
            usm_crypto.key_change(auth, old, wrong)


def user(auth: str, priv: str) -> LocalUser:
    secret = Secret(b"a long password")
    return usm_crypto.localize(User("u", auth, secret, priv, secret), ENGINE_ID)


@pytest.mark.parametrize("auth", AUTH)
@pytest.mark.parametrize("priv", PRIV)
def test_what_was_encrypted_can_be_decrypted(auth: str, priv: str) -> None:
    made = user(auth, priv)
    assert len(made.priv_key) == PRIV[priv]
    assert len(made.auth_key) == usm_crypto.auth_key_size(auth)
    for size in (1, 7, 8, 9, 100):
        plain = b"\x30" * size
        data, parameters = usm_crypto.encrypt(made, 7, 1000, b"saltsalt", plain)
        assert len(parameters) == 8
        assert plain not in data or size == 1
        assert usm_crypto.decrypt(made, 7, 1000, parameters, data)[:size] == plain
        assert usm_crypto.encrypted_room(made, len(data)) >= size
    message = b"head" + bytes(usm_crypto.auth_size(made)) + b"tail"
    signed = usm_crypto.sign(made, message, 4)
    digest = signed[4:-4]
    assert usm_crypto.verify(made, signed, 4, digest)
    assert not usm_crypto.verify(made, signed[:-1] + b"x", 4, digest)
    assert not usm_crypto.verify(made, signed, 4, digest[:-1])


@pytest.mark.parametrize(
    ("priv", "salt", "size"), [("DES", 8, 9), ("DES", 8, 0), ("DES", 7, 8), ("AES-128", 9, 8)]
)
def test_lengths_that_cannot_be(priv: str, salt: int, size: int) -> None:
    with pytest.raises(UsmDecryptionError):
        usm_crypto.decrypt(user("SHA-1", priv), 1, 1, bytes(salt), bytes(size))


NET_SNMP = {"MD5": "MD5", "SHA-1": "SHA", "DES": "DES", "AES-128": "AES"}
COMBINATIONS = [(auth, priv) for auth in AUTH for priv in PRIV]


def configuration() -> str:
    users = "".join(
        f"""
[[user]]
name = "{auth}.{priv}"
role = "monitor"
auth = "{auth}"
priv = "{priv}"
weak = true
auth_password = 'authpassword'
priv_password = 'privpassword'
"""
        for auth, priv in COMBINATIONS
    )
    return f'[agent]\nlisten = ["127.0.0.1:0"]\n[system]\nname = "gateway"\n{users}'


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("usm"), TestModel(rows=rows(40)), configuration()) as made:
        yield made


@pytest.mark.parametrize(("auth", "priv"), COMBINATIONS)
def test_every_combination_with_net_snmp(
    agent: Running, auth: str, priv: str, require_tool: Callable[[str], str]
) -> None:
    require_tool("snmpget")
    who = [
        "-v3",
        "-u",
        f"{auth}.{priv}",
        "-l",
        "authPriv",
        "-a",
        NET_SNMP.get(auth, auth),
        "-A",
        "authpassword",
    ]
    who += ["-x", NET_SNMP.get(priv, priv), "-X", "privpassword"]
    name = "1.3.6.1.2.1.1.5.0"
    assert snmp("snmpget", who, agent.endpoint(), name) == f'.{name} "gateway"\n'
    who[-1] = "otherpassword"
    assert "Decryption error" in snmp("snmpget", who, agent.endpoint(), name)


@pytest.mark.parametrize("size", range(484, 500))
def test_answers_in_des_fit_the_manager_with_their_padding(tmp_path: Path, size: int) -> None:
    made = Offline(tmp_path, TestModel(rows=rows(60)), configuration())
    manager = Manager(made, "SHA-1.DES", 3, size)
    answer = made.ask(manager.message(request(GETBULK, [column("tText")], second=10_000)))
    assert answer is not None
    assert size - 60 < len(answer) <= size
    assert manager.read(answer)[1].varbinds

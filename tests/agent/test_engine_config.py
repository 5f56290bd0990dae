"""The configuration: what is read, and that every fault names its line, its key and the cure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from smi_support import CONFIG

from agent.config import AccessEntry, Config, ConfigError, Listen, Subtree, load_config, parse_config
from agent.config_reader import TomlReader

HERE = Path("agent.toml")
VIEW = '[[view]]\nname = "all"\ninclude = ["1"]\n'
ACCESS = f'{VIEW}[[access]]\ngroup = "g"\nmodel = "any"\nlevel = "noAuthNoPriv"\nread = "all"\n'


def test_nothing_is_open_by_default() -> None:
    config = parse_config("", HERE)
    assert config == Config(HERE)
    assert not config.communities
    assert not config.users
    assert not config.access
    assert not config.system.writable
    assert {listen.host for listen in config.listen} == {"127.0.0.1", "::1"}


def test_everything() -> None:
    config = parse_config(CONFIG, HERE)
    assert config.listen == (Listen("127.0.0.1", 0), Listen("::1", 0))
    assert [user.name for user in config.users] == ["operator", "strong", "middle", "signer", "anybody"]
    assert config.members[3, "operator"] == "operator"
    assert config.members[1, "community1"] == config.members[2, "community1"] == "monitor"
    assert (2, "reader") not in config.members
    assert AccessEntry("operator", 3, 3, read="all", write="all") in config.access
    assert config.views["all"] == (Subtree((1,)),)
    masked = config.views["some"][1]
    assert masked.oid[-3:] == (1, 0, 2)
    assert masked.mask[1] & 0x20 == 0
    assert config.communities[2].versions == {"v2c"}


def test_secrets_do_not_show() -> None:
    config = parse_config(CONFIG, HERE)
    for secret in ("authpassword", "privpassword", "reader", "elsewhere"):
        assert secret not in repr(config)


FAULTS = {
    "x = 1": (1, "x: no such key; known here: agent, "),
    "[agent]\n\nlisten = ['nonsense']": (3, "agent.listen: 'nonsense' is no address; write"),
    "[agent]\nlisten = ['1.2.3.4:99999']": (2, "agent.listen"),
    "[agent]\nlisten = 'x'": (2, "agent.listen: 'x' is not a list; write a list"),
    "[agent]\nport = 161": (2, "agent.port: no such key"),
    "[agent]\nmax_message_size = 100": (
        2,
        "agent.max_message_size: 100 is out of range; choose 484 to 65507",
    ),
    "[agent]\nmax_message_size = true": (2, "agent.max_message_size: True is not a whole number"),
    "[agent]\nset_timeout = 0": (2, "agent.set_timeout"),
    "[agent]\nengine_id = 'zz'": (2, "agent.engine_id: no SnmpEngineID"),
    "[agent]\nengine_id = '00000000'": (2, "agent.engine_id"),
    "[system]\ncontact = 'é'": (2, "system.contact: not a DisplayString"),
    "[system]\nservices = 128": (2, "system.services"),
    "[system]\nobject_id = '1.x'": (2, "system.object_id: '1.x' is no OID"),
    "[system]\nwritable = ['descr']": (
        2,
        "system.writable: 'descr' is not known; use contact, name, location",
    ),
    "[[user]]\ngroup = 'g'": (1, "user[1]: name is missing; add name = ..."),
    "[[user]]\nname = ''\ngroup = 'g'": (2, "user[1].name: not 1 to 32 octets"),
    "[[user]]\nname = 'a'\ngroup = 'g'\nauth = 'MD5'": (
        4,
        'user[1].auth: MD5 is weak; use "SHA-256", or add weak = true',
    ),
    "[[user]]\nname = 'a'\ngroup = 'g'\nauth = 'SHA-256'": (1, "user[1]: auth needs one secret"),
    "[[user]]\nname = 'a'\ngroup = 'g'\nauth = 'SHA-256'\nauth_password = 'short'": (
        1,
        "shorter than 8 octets",
    ),
    "[[user]]\nname = 'a'\ngroup = 'g'\nauth_password = 'password'": (1, "a secret for auth but no auth"),
    "[[user]]\nname = 'a'\ngroup = 'g'\npriv = 'AES-128'": (4, "privacy without authentication"),
    "[[user]]\nname = 'a'\ngroup = 'g'\nauth = 'SHA-256'\nauth_key = 'xy'": (1, "auth_key is not hex"),
    "[[user]]\nname = 'a'\ngroup = 'g'\nauth = 'SHA-256'\nauth_password_file = 'none'": (5, "does not exist"),
    f"{ACCESS}[[user]]\nname = 'a'\ngroup = 'h'": (11, "user[1].group: no [[access]] for group 'h'; add one"),
    f"{VIEW}[[access]]\ngroup = 'g'\nread = 'all'\n[[user]]\nname = 'a'\ngroup = 'g'": (
        7,
        "user[1]: 'a' can never reach the level that its group asks for",
    ),
    f"{ACCESS}[[user]]\nname = 'a'\ngroup = 'g'\n[[user]]\nname = 'a'\ngroup = 'g'": (
        13,
        "user[2].name: user 'a' is",
    ),
    "[[community]]\nname = 'c'\ngroup = 'g'": (
        1,
        "community[1]: networks is missing or empty; name who may use it",
    ),
    "[[community]]\nname = 'c'\ngroup = 'g'\nnetworks = ['1.2.3.4/8']": (
        4,
        "community[1].networks: 1.2.3.4/8 has",
    ),
    "[[community]]\ngroup = 'g'": (1, "community[1]: no community string"),
    "[[community]]\nname = 'c'\nversions = ['v3']\ngroup = 'g'": (
        3,
        "community[1].versions: 'v3' is not known",
    ),
    "[[view]]\nname = 'v'": (1, "view[1]: view 'v' is empty"),
    "[[view]]\nname = 'v'\ninclude = ['1.40.1']": (
        3,
        "view[1].include: '1.40.1' is no OID; begin with 0 to 2",
    ),
    "[[view]]\nname = 'v'\ninclude = ['3']": (3, "view[1].include: '3' is no OID; begin with 0 to 2"),
    "[[view]]\nname = 'v'\ninclude = ['1.a']": (3, "view[1].include: '1.a' is no OID"),
    "[[access]]\ngroup = 'g'\nread = 'v'": (3, "access[1].read: no view 'v'; use one of [[view]], none yet"),
    f"{VIEW}[[access]]\ngroup = 'g'\nlevel = 'authNoPriv'\nwrite = 'all'": (
        7,
        "access[1].write: write access below SNMPv3 authPriv; use model",
    ),
    "[[access]]\ngroup = 'g'\nlevel = 'none'": (3, "access[1].level: 'none' is not known"),
    "[sources]\nvici = 1": (2, "sources.vici: not a table"),
    "[agent": (1, "not TOML"),
    "user = 1": (1, "user: 1 is not a list"),
    "community = 'hush'": (1, "community: this is not a list"),
    "\n[[vew]]\nname = 'v'": (2, "vew: no such key; known here: agent"),
    "[[view]]\nname = 'v'\ninclude = ['1.3', '1.*']\nexclude = ['1.4', '1.3']": (
        4,
        "view[1].exclude: view 'v' includes and excludes 1.3; remove one",
    ),
    "[[view]]\nname = 'v'\ninclude = ['1.3.0']\n[[view]]\nname = 'v'\ninclude = ['1.3.*']": (
        6,
        "view[2].include: view 'v' has 1.3.0 with and without stars; put the other into a view of its own",
    ),
    f"{ACCESS}[[access]]\ngroup = 'g'\nmodel = 'any'\nlevel = 'noAuthNoPriv'": (
        9,
        "access[2]: the same group, context, model and level as access[1]; join the two",
    ),
    "[[access]]\ngroup = 'g'\ncontext = '123456789012345678901234567890123'": (
        3,
        "access[1].context: longer than 32 octets; no context has such a name",
    ),
    f"[[access]]\ngroup = '{'g' * 33}'": (2, "access[1].group: not 1 to 32 octets"),
    "[[access]]\ngroup = 'role:admin'": (
        2,
        "access[1].group: names that begin with role: are the roles' own",
    ),
    "[[view]]\nname = 'role:admin'\ninclude = ['1.3']": (2, "view[1].name: names that begin with role:"),
    "[[user]]\nname = 'a'\ngroup = 'role:admin'": (3, "user[1].group: names that begin with role:"),
    "[[user]]\nname = 'a'": (
        1,
        "user[1]: neither role nor group; give role (monitor, operator, admin), or group",
    ),
    "[[user]]\nname = 'a'\nrole = 'monitor'\ngroup = 'g'": (
        4,
        "user[1].group: both role and group; give role",
    ),
    "[[user]]\nname = 'a'\nrole = 'king'": (
        3,
        "user[1].role: 'king' is not known; use one of monitor, operator",
    ),
    "[[user]]\nname = 'a'\nrole = 'operator'": (
        3,
        "user[1].role: operator may write, which needs SNMPv3 authPriv; give the user auth and priv, use role",
    ),
    "[[user]]\nname = 'a'\nrole = 'admin'\nauth = 'SHA-1'\nauth_password = 'password'": (
        3,
        "user[1].role: admin may write, which needs SNMPv3 authPriv",
    ),
    "[[community]]\nname = 'c'\nnetworks = ['::1/128']\nrole = 'admin'": (
        4,
        "community[1].role: admin may write, which needs SNMPv3 authPriv; use a [[user]], use role",
    ),
    f"{ACCESS}[[user]]\nname = 'a'\ngroup = 'g'\ninsecure_write = true": (
        12,
        "user[1].insecure_write: belongs to role; write it into the group's [[access]]",
    ),
    "[[user]]\nname = 'a'\nrole = 'monitor'\nauth = 'SHA-1'\npriv = 'DES'": (
        5,
        'user[1].priv: DES is weak; use "AES-128", or add weak = true',
    ),
    "[[user]]\nname = 'a'\nrole = 'monitor'\nauth = 'MD5'\nweak = 1": (
        5,
        "user[1].weak: 1 is not true or false",
    ),
    "[[user]]\nname = 'a'\nrole = 'monitor'\nnetworks = ['10.0.0.1/8']": (
        4,
        "user[1].networks: 10.0.0.1/8 has",
    ),
    "[[user]]\nname = 'a'\nrole = 'monitor'\nauth = 'SHA-1'\nauth_key = '00112233'": (
        5,
        "user[1].auth_key: a localized SHA-1 key has 20 octets, not 4; write 40 hex digits",
    ),
    "[agent]\nactivate_clones = 1": (2, "agent.activate_clones: 1 is not true or false"),
    "[sources.a]\ntype = 'vici'\n[[community]]\nname = 'c'\nrole = 'monitor'\nnetworks = ['::/0']\ncontext = 'b'": (
        7,
        "community[1].context: no source 'b'; use one of a, or leave it out",
    ),
    "[[community]]\nname = 'c'\ngroup = 'g'\nnetworks = ['::/0']\ncontext = 'x'": (
        5,
        "community[1].context: no source 'x'; leave it out for all sources together",
    ),
}


@pytest.mark.parametrize(("text", "expected"), FAULTS.items())
def test_faults_name_line_key_and_cure(text: str, expected: tuple[int, str]) -> None:
    line, message = expected
    with pytest.raises(ConfigError) as caught:
        parse_config(text, HERE)
    assert str(caught.value).startswith(f"agent.toml:{line}: ")
    assert message in str(caught.value)


def test_weak_algorithms_by_their_name() -> None:
    text = "[[user]]\nname = 'a'\nrole = 'monitor'\nauth = 'MD5'\npriv = 'DES'\nweak = true\n"
    text += "auth_password = 'password'\npriv_password = 'password'"
    (user,) = parse_config(text, HERE).users
    assert (user.auth, user.priv) == ("MD5", "DES")
    # SHA-1 needs no such word
    assert parse_config(
        text.replace("MD5", "SHA-1").replace("DES", "AES-128").replace("weak = true", ""), HERE
    )


def test_communities_may_stand_for_a_source() -> None:
    text = "[sources.a]\n[[community]]\nname = 'c'\nrole = 'monitor'\nnetworks = ['::/0']\ncontext = 'a'"
    assert parse_config(text, HERE).communities[0].context == "a"


def test_faults_that_others_find_name_the_line_too() -> None:
    text = "[agent]\n[sources.a]\nsocket = 'x'\n\npoll_interval = 0\n[gateway]\nretain = -1\n"
    config = parse_config(text, HERE)
    for found, expected in (
        ("sources.a.poll_interval: 0; choose 0.1", "agent.toml:5: sources.a.poll_interval: 0; choose 0.1"),
        ("sources.a: the name; choose", "agent.toml:2: sources.a: the name; choose"),
        ("gateway.retain: -1; choose 0", "agent.toml:7: gateway.retain: -1; choose 0"),
        (
            "gateway.unknown: no such key; known here: x; y",
            "agent.toml:6: gateway.unknown: no such key; known here: x; y",
        ),
    ):
        assert str(config.fault(found)) == expected
    assert (
        str(Config(HERE).fault("gateway.retain: -1; choose 0")) == "agent.toml: gateway.retain: -1; choose 0"
    )


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/missing\.toml: No such file or directory; give"):
        load_config(tmp_path / "missing.toml")


def secret_config(folder: Path, inline: bool) -> Path:
    path = folder / "agent.toml"
    secret = "auth_password = 'password'" if inline else "auth_password_file = 'secret'"
    text = f"{ACCESS}[[user]]\nname = 'a'\ngroup = 'g'\nauth = 'SHA-256'\n{secret}\n"
    path.write_text(text)
    (folder / "secret").write_text("password\n")
    os.chmod(folder / "secret", 0o600)
    return path


@pytest.mark.parametrize(("mode", "good"), [(0o600, True), (0o640, True), (0o644, False)])
def test_inline_secrets_need_a_private_file(tmp_path: Path, mode: int, good: bool) -> None:
    path = secret_config(tmp_path, True)
    os.chmod(path, mode)
    if good:
        assert load_config(path).users[0].auth_key
    else:
        with pytest.raises(ConfigError, match=r"has mode 0644; chmod 600"):
            load_config(path)


@pytest.mark.parametrize(("mode", "good"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False)])
def test_secret_files_need_0600(tmp_path: Path, mode: int, good: bool) -> None:
    path = secret_config(tmp_path, False)
    os.chmod(tmp_path / "secret", mode)
    if good:
        key = load_config(path).users[0].auth_key
        assert key is not None
        assert key.reveal() == b"password"
    else:
        with pytest.raises(ConfigError, match="chmod 600"):
            load_config(path)


def test_the_example_is_valid_and_explains_every_key(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (repository / "conf" / "ipsec-snmpd.toml").read_text()
    config = parse_config(text, tmp_path / "ipsec-snmpd.toml")
    assert not config.communities
    assert not config.users
    # with every commented line switched on it must still be valid
    enabled = re.sub(r"(?m)^#(?=[a-z_\[])", "", text)
    for name in re.findall(r'_file = "([^"]+)"', enabled):
        (tmp_path / name).write_text("a secret of some length")
        os.chmod(tmp_path / name, 0o600)
    known: dict[str, set[str]] = {}
    checked = TomlReader.known

    def note(
        self: TomlReader, table: Mapping[str, Any], where: tuple[Any, ...], keys: tuple[str, ...]
    ) -> None:
        known.setdefault(where[0] if where else "", set()).update(keys)
        checked(self, table, where, keys)

    monkeypatch.setattr(TomlReader, "known", note)
    config = parse_config(enabled, tmp_path / "ipsec-snmpd.toml")
    assert config.communities
    assert config.users
    assert config.engine_id is not None
    # every key that a section may have stands there, switched on or off, or is explained in words
    sections = re.split(r"(?m)^#?\[+(\w+)", text)
    for section, keys in known.items():
        if section:
            texts = "".join(
                sections[n - 1] + sections[n + 1]
                for n in range(1, len(sections), 2)
                if sections[n] == section
            )
            missing = {key for key in keys if not re.search(rf"\b{key}\b", texts)}
            assert not missing, section

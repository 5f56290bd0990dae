"""[[target]] and [[filter]]: what they mean, and faults that name line and cure; reloading them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from notif_lab import EVENT, NAME, ear, sending, until, write

from agent.config import ConfigError, load_config, parse_config

USERS = """
[[user]]
name = "strong"
role = "monitor"
auth = "SHA-256"
auth_password = "a pass phrase"
priv = "AES-128"
priv_password = "another phrase"
[[user]]
name = "plain"
role = "monitor"
"""


def parsed(tmp_path: Path, text: str) -> object:
    return parse_config(USERS + text, tmp_path / "absent.toml")


def test_defaults(tmp_path: Path) -> None:
    config = parsed(tmp_path, '[[target]]\nname = "t"\naddress = "192.0.2.1"\nuser = "strong"\n')
    (target,) = config.notifications.targets  # type: ignore[attr-defined]
    assert (target.host, target.port, target.version, target.level) == ("192.0.2.1", 162, 3, 3)
    assert (target.timeout, target.retries, target.inform, target.tags) == (1500, 3, False, ("traps",))


def test_the_level_is_the_users_highest_unless_said(tmp_path: Path) -> None:
    text = '[[target]]\nname = "a"\naddress = "[2001:db8::1]:99"\nuser = "plain"\n'
    text += '[[target]]\nname = "b"\naddress = "192.0.2.1"\nuser = "grouped"\nlevel = "authNoPriv"\n'
    text += '[[user]]\nname = "grouped"\ngroup = "g"\nauth = "SHA-256"\nauth_password = "a pass phrase"\n'
    text += 'priv = "AES-128"\npriv_password = "another phrase"\n'
    text += '[[access]]\ngroup = "g"\nlevel = "noAuthNoPriv"\nnotify = "v"\n[[view]]\nname = "v"\ninclude = ["1.3"]\n'
    config = parsed(tmp_path, text)
    plain, strong = config.notifications.targets  # type: ignore[attr-defined]
    assert (plain.level, plain.host, plain.port) == (1, "2001:db8::1", 99)
    assert strong.level == 2


def test_a_community_is_a_member_of_its_role_or_group(tmp_path: Path) -> None:
    text = '[[target]]\nname = "a"\naddress = "192.0.2.1"\nversion = "v1"\ncommunity = "secret"\n'
    text += (
        '[[target]]\nname = "b"\naddress = "192.0.2.1"\nversion = "v2c"\ncommunity = "secret"\ngroup = "g"\n'
    )
    text += '[[access]]\ngroup = "g"\nmodel = "v2c"\nlevel = "noAuthNoPriv"\nnotify = "v"\n'
    text += '[[view]]\nname = "v"\ninclude = ["1.3"]\n'
    config = parsed(tmp_path, text)
    assert config.members[1, "target1"] == "role:monitor:noAuthNoPriv"  # type: ignore[attr-defined]
    assert config.members[2, "target2"] == "g"  # type: ignore[attr-defined]
    assert "secret" not in repr(config)


H = '[[access]]\ngroup = "h"\nmodel = "v2c"\nlevel = "noAuthNoPriv"\nread = "all"\n'
H += '[[view]]\nname = "all"\ninclude = ["1"]\n'
BASE = '[[target]]\nname = "t"\naddress = "192.0.2.1"\n'


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ('[[target]]\nname = "t"\nuser = "plain"\n', 12, "address is missing; add address"),
        ('[[target]]\naddress = "192.0.2.1"\nuser = "plain"\n', 12, "name is missing"),
        (BASE, 12, "user is missing"),
        (BASE.replace("192.0.2.1", "nms.example") + 'user = "plain"', 14, 'write "192.0.2.1"'),
        (BASE.replace("192.0.2.1", "192.0.2.1:0") + 'user = "plain"', 14, "is no address"),
        (BASE.replace("192.0.2.1", "2001:db8::1") + 'user = "plain"', 14, "is no address"),
        (BASE.replace("192.0.2.1", "[fe80::1%nothere]") + 'user = "plain"', 14, "no interface 'nothere'"),
        (BASE.replace('"t"', '"community1.1"') + 'user = "plain"', 13, "is a row of a [[community]]"),
        (BASE + 'user = "nobody"', 15, "use one of strong, plain"),
        (BASE + 'user = "plain"\nlevel = "authPriv"', 16, 'use "noAuthNoPriv"'),
        (BASE + 'user = "plain"\ncommunity = "x"', 16, "no such key"),
        (BASE + 'version = "v4"', 15, "use one of v1, v2c, v3"),
        (BASE + 'version = "v2c"\nuser = "plain"', 16, "no such key"),
        (BASE + 'version = "v2c"', 12, "add community or community_file"),
        (BASE + 'version = "v2c"\ncommunity = "x"\ngroup = "g"', 17, "no [[access]] for group 'g'"),
        (BASE + 'version = "v2c"\ncommunity = "x"\nrole = "king"', 17, "use one of monitor"),
        (BASE + 'version = "v1"\ncommunity = "x"\ninform = true', 17, "SNMPv1 has no informs"),
        (BASE + 'user = "plain"\ntimeout = 0', 16, "choose 0.1 to 300 seconds"),
        (BASE + 'user = "strong"\nlevel = "authNoPriv"', 12, "told nothing below authPriv"),
        (BASE + 'version = "v2c"\ncommunity = "x"\ngroup = "h"\n' + H, 12, "has no notify view; add notify"),
        (BASE + 'user = "plain"\nretries = 256', 16, "choose 0 to 255"),
        (BASE + 'user = "plain"\ntags = ["a b"]', 16, "write words without spaces"),
        (BASE + 'user = "plain"\nfilter = "f"', 16, "no filter 'f'"),
        (BASE + 'user = "plain"\n' + BASE + 'user = "plain"', 17, "is there twice"),
        ('[[filter]]\nname = "f"\n', 12, "includes nothing"),
        ('[[filter]]\nname = "f"\ninclude = ["x"]\n', 14, "is no OID"),
        ('[[filter]]\nname = "f"\ninclude = ["1.3"]\nexclude = ["1.3"]', 15, "is there twice"),
        ('[[filter]]\nname = "f"\ninclude = ["1.3"]\n' * 2, 16, "is there twice"),
        ('[[filter]]\ninclude = ["1.3"]\n', 12, "name is missing"),
    ],
)
def test_faults_name_line_and_cure(tmp_path: Path, text: str, line: int, part: str) -> None:
    with pytest.raises(ConfigError) as found:
        parsed(tmp_path, text)
    assert f"absent.toml:{line}: " in str(found.value)
    assert part in str(found.value)


def test_the_example_of_the_documentation_is_read(repository: Path, tmp_path: Path) -> None:
    """The commented lines of conf/ipsec-snmpd.toml about targets are right when they are uncommented."""
    lines = (repository / "conf" / "ipsec-snmpd.toml").read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line == "#[[target]]")
    wanted = []
    for line in lines[first:]:
        if line.startswith("#["):
            keep = line in ("#[[target]]", "#[[filter]]")
        if line.startswith("#") and not line.startswith("# ") and keep:
            wanted.append(line[1:])
    text = "\n".join(wanted).replace('user = "operator"', 'user = "strong"')
    secret = tmp_path / "old-nms.community"
    secret.write_text("x")
    secret.chmod(0o600)
    config = parsed(tmp_path, text)
    assert len(config.notifications.targets) >= 2  # type: ignore[attr-defined]
    assert len(config.notifications.filters) >= 1  # type: ignore[attr-defined]


def test_reloading_replaces_targets(tmp_path: Path) -> None:
    def text(port: int, name: str) -> str:
        head = f'[[target]]\nname = "{name}"\naddress = "127.0.0.1:{port}"\n'
        return head + f'version = "v2c"\ncommunity = "of-{name}"\n'

    async def scenario() -> None:
        async with ear() as old, ear() as new, sending(tmp_path, text(old.port, "old")) as agent:
            await until(lambda: old.heard)
            await agent.reload(load_config(write(tmp_path, text(new.port, "new"), "127.0.0.1:0")))
            assert agent.notify(EVENT, NAME) == 1
            await until(lambda: new.heard)
            assert b"of-new" in new.heard[0][1]
            assert len(old.heard) == 1
            await agent.reload(load_config(write(tmp_path, "", "127.0.0.1:0")))
            assert agent.notify(EVENT, NAME) == 0

    asyncio.run(scenario())

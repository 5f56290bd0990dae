"""SNMPv3 with net-snmp as the manager: every algorithm at every level, and everything that may be wrong with a request.

After net-snmp's own test catalogue: levels and algorithms, defaults from its configuration file, unknown users, wrong
passwords, change of the engine, restarts.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from smi_support import CONFIG, DOTTED, Running, TestModel, rows, running, snmp

AUTH = {"MD5": "MD5", "SHA-1": "SHA", **{f"SHA-{bits}": f"SHA-{bits}" for bits in (224, 256, 384, 512)}}
"""Our name of an authentication protocol -> net-snmp's."""
PRIV = {
    "DES": "DES",
    "AES-128": "AES",
    **{name: name for name in ("AES-192", "AES-256", "AES-192-C", "AES-256-C")},
}
WEAK = ("MD5", "SHA-1", "DES")
LEVELS = ("noAuthNoPriv", "authNoPriv", "authPriv")
PASSWORDS = ("an authentication password", "and one for privacy")
NAME = "1.3.6.1.2.1.1.5.0"
SYSTEM = "1.3.6.1.2.1.1"
LIMITED = f"{DOTTED}.1.1.0"
ENGINE_ID, BOOTS = "1.3.6.1.6.3.10.2.1.1.0", "1.3.6.1.6.3.10.2.1.2.0"
STATS = "1.3.6.1.6.3.15.1.1"


@pytest.fixture(scope="session", autouse=True)
def _namespaces_and_tools(require_tool: Callable[[str], str]) -> None:
    """No namespaces here; net-snmp's tools."""
    for tool in ("snmpget", "snmpgetnext", "snmpbulkget", "snmpset", "snmpwalk"):
        require_tool(tool)


def name_of(auth: str, priv: str = "") -> str:
    return "-".join(filter(None, ("u", auth, priv))).lower()


def user(auth: str, priv: str = "") -> str:
    """A [[user]] of each pair may do everything at the levels it can reach."""
    text = f'[[user]]\nname = "{name_of(auth, priv)}"\ngroup = "all"\nnetworks = ["127.0.0.0/8"]\n'
    if auth:
        text += f'auth = "{auth}"\nauth_password = "{PASSWORDS[0]}"\n'
    if priv:
        text += f'priv = "{priv}"\npriv_password = "{PASSWORDS[1]}"\n'
    if auth in WEAK or priv in WEAK:
        text += "weak = true\n"
    return text


ACCESS = "".join(
    f'[[access]]\ngroup = "all"\nlevel = "{level}"\nread = "all"\nwrite = "all"\ninsecure_write = true\n'
    for level in LEVELS
)
USERS = "".join(
    [user(""), *(user(auth) for auth in AUTH), *(user(auth, priv) for auth in AUTH for priv in PRIV)]
)


def credentials(auth: str = "", priv: str = "", level: str | None = None) -> tuple[str, ...]:
    """net-snmp's options for the user of a pair."""
    level = level or LEVELS[bool(auth) + bool(priv)]
    words = ["-v3", "-u", name_of(auth, priv), "-l", level]
    if auth and level != "noAuthNoPriv":
        words += ["-a", AUTH[auth], "-A", PASSWORDS[0]]
    if priv and level == "authPriv":
        words += ["-x", PRIV[priv], "-X", PASSWORDS[1]]
    return tuple(words)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    text = CONFIG + ACCESS + USERS
    with running(tmp_path_factory.mktemp("agent"), TestModel(rows=rows(40)), text) as made:
        yield made


def exchange(agent: Running, who: Sequence[str]) -> None:
    """Every kind of request, each with its answer."""
    endpoint = agent.endpoint()
    assert snmp("snmpget", who, endpoint, NAME) == f'.{NAME} "gateway"\n'
    assert snmp("snmpgetnext", who, endpoint, f"{SYSTEM}.5") == f'.{NAME} "gateway"\n'
    bulk = snmp("snmpbulkget", (*who, "-Cn1", "-Cr30"), endpoint, f"{SYSTEM}.4", f"{DOTTED}.2.1.2")
    assert bulk.splitlines()[0] == f'.{SYSTEM}.4.0 "root"'
    assert bulk.splitlines()[1:] == [f".{DOTTED}.2.1.2.{n} {n}" for n in range(1, 31)]
    assert snmp("snmpset", who, endpoint, LIMITED, "i", "7") == f".{LIMITED} 7\n"
    column = snmp("snmpwalk", who, endpoint, f"{DOTTED}.2.1.13")
    assert len(column.splitlines()) == 40


@pytest.mark.parametrize("priv", ["", *PRIV])
@pytest.mark.parametrize("auth", AUTH)
def test_algorithms(agent: Running, auth: str, priv: str) -> None:
    exchange(agent, credentials(auth, priv))


def test_no_authentication(agent: Running) -> None:
    exchange(agent, credentials())


@pytest.mark.parametrize("level", LEVELS[:2])
def test_a_user_may_use_a_lower_level_where_the_group_may(agent: Running, level: str) -> None:
    exchange(agent, credentials("SHA-256", "AES-128", level))


def test_an_open_user_amplifies_nothing(tmp_path: Path) -> None:
    """Without networks anybody may use it, in anybody's name: no answer is larger than its request."""
    text = CONFIG + ACCESS + user("").replace('networks = ["127.0.0.0/8"]\n', "")
    with running(tmp_path, TestModel(rows=rows(40)), text) as agent:
        assert snmp("snmpget", credentials(), agent.endpoint(), NAME).count("tooBig") == 1
        absent = f"{DOTTED}.1.9.0"
        assert snmp("snmpget", credentials(), agent.endpoint(), absent, absent).count("No Such Instance") == 2
        bulk = snmp("snmpbulkget", (*credentials(), "-Cr50"), agent.endpoint(), *[f"{DOTTED}.2.1.2"] * 10)
        assert 0 < len(bulk.splitlines()) <= 10


def test_a_user_of_some_networks_is_unknown_elsewhere(tmp_path: Path) -> None:
    text = CONFIG + ACCESS + user("SHA-256", "AES-128").replace("127.0.0.0/8", "192.0.2.0/24")
    with running(tmp_path, TestModel(rows=rows(2)), text) as agent:
        assert "Unknown user name" in snmp("snmpget", STRONG, agent.endpoint(), NAME)


STRONG = credentials("SHA-256", "AES-128")


def with_option(who: Sequence[str], option: str, value: str) -> tuple[str, ...]:
    words = list(who)
    words[words.index(option) + 1] = value
    return tuple(words)


REFUSED = {
    "unknown user": (with_option(STRONG, "-u", "nobody"), "Unknown user name", 3),
    "a community's name": (("-v3", "-u", "reader", "-l", "noAuthNoPriv"), "Unknown user name", 3),
    "wrong password": (with_option(STRONG, "-A", "a wrong password"), "Authentication failure", 5),
    "password in another case": (
        with_option(STRONG, "-A", PASSWORDS[0].upper()),
        "Authentication failure",
        5,
    ),
    "another hash": (with_option(STRONG, "-a", "SHA-512"), "Authentication failure", 5),
    "wrong privacy password": (with_option(STRONG, "-X", "a wrong password"), "Decryption error", 6),
    "another cipher": (with_option(STRONG, "-x", "AES-256"), "Decryption error", 6),
    "the other password": (with_option(STRONG, "-X", PASSWORDS[0]), "Decryption error", 6),
    "level above the user's": (
        with_option(with_option(STRONG, "-u", name_of("SHA-256")), "-l", "authPriv"),
        "Unsupported security level",
        1,
    ),
    "authentication of one who has none": (
        ("-v3", "-u", name_of(""), "-l", "authNoPriv", "-a", "SHA-256", "-A", PASSWORDS[0]),
        "Unsupported security level",
        1,
    ),
}


@pytest.mark.parametrize(("who", "said", "counter"), REFUSED.values(), ids=REFUSED)
def test_refused(agent: Running, who: tuple[str, ...], said: str, counter: int) -> None:
    """net-snmp names the Report; the counter that it shows has moved."""

    def count() -> int:
        return int(snmp("snmpget", STRONG, agent.endpoint(), f"{STATS}.{counter}.0").split()[1])

    before = count()
    out = snmp("snmpget", who, agent.endpoint(), NAME, timeout="1")
    # for what net-snmp cannot decrypt or authenticate it may only see that no answer came
    assert said in out or ("Timeout" in out and counter == 6), out
    assert "gateway" not in out
    assert count() > before
    assert agent.agent.counters.internal_errors == 0


def test_a_context_that_is_not_there(agent: Running) -> None:
    out = snmp("snmpget", (*STRONG, "-n", "nowhere"), agent.endpoint(), NAME)
    assert out == "snmpget: Bad context specified\n"


def test_a_context_engine_that_is_not_ours(agent: Running) -> None:
    """No proxy: unknownPDUHandlers or unknownContexts, and certainly no data."""
    out = snmp("snmpget", (*STRONG, "-E", "8000000001020304"), agent.endpoint(), NAME, timeout="0.5")
    assert "gateway" not in out


def test_a_security_engine_that_is_not_ours(agent: Running) -> None:
    """The manager believes that it knows our engine ID; the Report puts it right, or it gives up. No data for it."""
    other = (*STRONG, "-e", "8000000001020304")
    said = snmp("snmpget", other, agent.endpoint(), NAME, timeout="0.5")
    assert "gateway" not in said
    ours = agent.agent.engine_id.hex()
    assert "gateway" in snmp("snmpget", (*STRONG, "-e", f"0x{ours}"), agent.endpoint(), NAME)


@pytest.mark.parametrize("clock", ["1,1", "0,0", "99,5", "2147483647,1", "1,2147483647"])
def test_a_manager_that_has_the_wrong_time_is_told_the_right_one(agent: Running, clock: str) -> None:
    """notInTimeWindow carries our boots and time; the manager asks again with them."""
    who = (*STRONG, "-e", f"0x{agent.agent.engine_id.hex()}", "-Z", clock)
    assert snmp("snmpget", who, agent.endpoint(), NAME) == f'.{NAME} "gateway"\n'


def test_defaults_of_a_managers_configuration_file(agent: Running, tmp_path: Path) -> None:
    settings = {
        "defVersion": "3",
        "defSecurityName": name_of("SHA-512", "AES-256"),
        "defSecurityLevel": "authPriv",
        "defAuthType": "SHA-512",
        "defPrivType": "AES-256",
        "defAuthPassphrase": PASSWORDS[0],
        "defPrivPassphrase": PASSWORDS[1],
        "defContext": '""',
    }
    (tmp_path / "snmp.conf").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    done = subprocess.run(
        ["snmpget", "-m", "", "-Onq", "-r", "0", agent.endpoint(), NAME],
        env={**os.environ, "SNMPCONFPATH": str(tmp_path), "SNMP_PERSISTENT_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == f'.{NAME} "gateway"\n', done.stderr


def test_localized_keys_as_a_manager_may_hold_them(agent: Running) -> None:
    """net-snmp's -3k and -3K: keys for this engine instead of passwords."""
    usm = agent.agent.usm
    assert usm is not None
    keys = usm.users[name_of("SHA-512", "AES-256").encode()]
    who = ("-v3", "-u", name_of("SHA-512", "AES-256"), "-l", "authPriv", "-a", "SHA-512", "-x", "AES-256")
    secrets = ("-3k", f"0x{keys.auth_key.hex()}", "-3K", f"0x{keys.priv_key.hex()}")
    engine = ("-e", f"0x{agent.agent.engine_id.hex()}")
    assert snmp("snmpget", (*who, *engine, *secrets), agent.endpoint(), NAME) == f'.{NAME} "gateway"\n'


# --- another start, another engine ------------------------------------------------------------------------------------

ONE_USER = CONFIG + ACCESS + user("SHA-256", "AES-128")


def test_boots_count_and_managers_of_before_get_in_step_again(tmp_path: Path) -> None:
    model = TestModel(rows=rows(2))
    seen = []
    engines = set()
    for _ in range(3):
        with running(tmp_path, model, ONE_USER) as agent:
            engines.add(agent.agent.engine_id)
            out = snmp("snmpget", STRONG, agent.endpoint(), BOOTS, ENGINE_ID)
            seen.append(int(out.splitlines()[0].split()[1]))
            # one who has the boots and a time of an earlier start
            stale = (*STRONG, "-e", f"0x{agent.agent.engine_id.hex()}", "-Z", f"{seen[0]},3")
            assert "gateway" in snmp("snmpget", stale, agent.endpoint(), NAME)
    assert seen == [1, 2, 3]
    assert len(engines) == 1


def test_a_changed_engine_id_takes_a_restart_and_then_keys_of_its_own(tmp_path: Path) -> None:
    model = TestModel(rows=rows(2))
    one, other = "80007ed9046f6e65", "80007ed9046f74686572"
    text = ONE_USER.replace("[agent]", f'[agent]\nengine_id = "{one}"', 1)
    with running(tmp_path, model, text) as agent:
        assert "gateway" in snmp("snmpget", (*STRONG, "-e", f"0x{one}"), agent.endpoint(), NAME)
    with running(tmp_path, model, text.replace(one, other)) as agent:
        shown = snmp("snmpget", STRONG, agent.endpoint(), ENGINE_ID).split(maxsplit=1)[1]
        assert bytes.fromhex(shown.strip().strip('"').replace(" ", "")) == bytes.fromhex(other)
        assert "gateway" in snmp("snmpget", (*STRONG, "-e", f"0x{other}"), agent.endpoint(), NAME)
        old = snmp("snmpget", (*STRONG, "-e", f"0x{one}"), agent.endpoint(), NAME, timeout="0.5")
        assert "gateway" not in old


def test_a_manager_crash_case_of_old_is_no_crash_of_ours(agent: Running) -> None:
    """A v3 GETBULK with a master key of one octet and no user, which once ended net-snmp itself."""
    options = ("-v3", "-t", "0.3", "-r", "0", "-eE000000001", "-3K30", "-u0", "-lauthPriv")
    subprocess.run(
        ["snmpbulkget", *options, agent.endpoint(), NAME], capture_output=True, timeout=20, check=False
    )
    assert agent.agent.counters.internal_errors == 0
    assert "gateway" in snmp("snmpget", STRONG, agent.endpoint(), NAME)

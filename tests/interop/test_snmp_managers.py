"""Two further managers: gufo-snmp (SNMPv1, v2c, v3; takes no message above 2048 octets) and pysnmp's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_lab import FLOW, Beside, Program, thread_beside_fake
from lab.policy import require_module
from lab.process import wait_until
from pysnmp.hlapi.v3arch import asyncio as manager
from pysnmp.proto import rfc1902, rfc1905
from smi_support import CONFIG, DOTTED, Running, TestModel, rows, running

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:pysnmp")

SYSTEM = "1.3.6.1.2.1.1"
NAME, CONTACT = f"{SYSTEM}.5.0", f"{SYSTEM}.4.0"
LIMITED, READ_ONLY, BIG = (f"{DOTTED}.1.{number}.0" for number in (1, 3, 8))
TABLE = f"{DOTTED}.2.1"
ROWS = 40
PASSWORDS = ("an authentication password", "and one for privacy")
AUTH = {"SHA-224": 28, "SHA-256": 32, "SHA-384": 48, "SHA-512": 64}
WEAK_AUTH = ("MD5", "SHA-1")
PRIV = ("AES-128", "AES-192", "AES-256", "AES-192-C", "AES-256-C")
"""-C: the keys extended after Reeder, as Cisco does; else after Blumenthal."""
ALL_AUTH, ALL_PRIV = (*WEAK_AUTH, *AUTH), ("DES", *PRIV)
PAIRS = [(auth, priv) for auth in ALL_AUTH for priv in ("", *ALL_PRIV)]


@pytest.fixture(scope="session", autouse=True)
def _namespaces_and_tools() -> None:
    """No namespaces and no programs here; gufo-snmp where there are wheels."""
    require_module("gufo.snmp", "gufo-snmp")


def user(auth: str, priv: str) -> str:
    text = f'[[user]]\nname = "{auth}{priv}"\ngroup = "operator"\nauth = "{auth}"\nauth_password = "{PASSWORDS[0]}"\n'
    if priv:
        text += f'priv = "{priv}"\npriv_password = "{PASSWORDS[1]}"\n'
    if auth in WEAK_AUTH or priv == "DES":
        text += "weak = true\n"
    return text


ACCESS = """[[access]]
group = "operator"
level = "authNoPriv"
read = "all"
write = "all"
insecure_write = true
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    text = CONFIG + ACCESS + "".join(user(auth, priv) for auth, priv in PAIRS)
    with running(tmp_path_factory.mktemp("agent"), TestModel(rows=rows(ROWS)), text) as made:
        yield made


def port_of(agent: Running) -> int:
    return next(port for host, port in agent.agent.addresses if host == "127.0.0.1")


# --- gufo-snmp --------------------------------------------------------------------------------------------------------


def gufo_user(auth: str, priv: str) -> Any:
    from gufo.snmp import User
    from gufo.snmp import user as keys

    auth_key = getattr(keys, auth.replace("-", "").capitalize() + "Key")(PASSWORDS[0].encode())
    kind = priv.removesuffix("-C").replace("-", "").capitalize() + "Key"
    priv_key = getattr(keys, kind)(PASSWORDS[1].encode()) if priv else None
    extended = keys.KeyExpansion.Cisco if priv.endswith("-C") else keys.KeyExpansion.Blumenthal
    return User(auth + priv, auth_key=auth_key, priv_key=priv_key, key_expansion=extended)


def gufo(agent: Running, who: tuple[str, str] | str, ipv6: bool = False, **options: Any) -> Any:
    """A session: (auth, priv) for SNMPv3, 'v1' or 'v2c' for the reader's community."""
    from gufo.snmp import SnmpVersion
    from gufo.snmp.sync import SnmpSession

    host, port = next(address for address in agent.agent.addresses if (":" in address[0]) == ipv6)
    if isinstance(who, str):
        version = {"v1": SnmpVersion.v1, "v2c": SnmpVersion.v2c}[who]
        return SnmpSession(host, port=port, community="reader", version=version, timeout=3, **options)
    session = SnmpSession(host, port=port, user=gufo_user(*who), timeout=3, **options)
    session.refresh()
    return session


@pytest.mark.parametrize(("auth", "priv"), PAIRS, ids=["-".join(filter(None, pair)) for pair in PAIRS])
def test_gufo_with_every_pair_of_algorithms(agent: Running, auth: str, priv: str) -> None:
    session = gufo(agent, (auth, priv))
    assert session.get(NAME) == b"gateway"
    found = list(session.getbulk(f"{TABLE}.2", 25))
    assert found == [(f"{TABLE}.2.{n}", n) for n in range(1, ROWS + 1)]
    assert session.get_engine_id() == agent.agent.engine_id


@pytest.mark.parametrize("who", ["v1", "v2c", ("SHA-256", "AES-128")], ids=["v1", "v2c", "v3"])
def test_gufo_walks(agent: Running, who: Any) -> None:
    """By GETNEXT and by GETBULK it sees the same, once each and in order."""
    session = gufo(agent, who)
    plain = list(session.getnext(DOTTED))
    oids = [tuple(map(int, oid.split("."))) for oid, _ in plain]
    assert oids == sorted(set(oids))
    assert len(oids) > 11 * ROWS
    if who != "v1":
        assert list(session.fetch(DOTTED)) == plain


@pytest.mark.parametrize("who", [("SHA-256", ""), ("SHA-512", "AES-256")], ids=["auth", "priv"])
@pytest.mark.parametrize("repetitions", [1, 10, 50, 200, 1000])
def test_gufo_never_gets_more_than_it_can_take(agent: Running, who: Any, repetitions: int) -> None:
    """Its v3 messages say msgMaxSize 2048: whatever it asks for, answers are cut to that, and nothing is lost."""
    session = gufo(agent, who, max_repetitions=repetitions)
    found = list(session.getbulk(f"{TABLE}.9"))
    assert found == [(f"{TABLE}.9.{n}", f"row {n}".encode()) for n in range(1, ROWS + 1)]


def test_gufo_values(agent: Running) -> None:
    session = gufo(agent, ("SHA-256", "AES-128"))
    names = [f"{TABLE}.{column}.3" for column in range(2, 15)]
    found = session.get_many(names)
    assert list(found) == names or set(found) == set(names)
    expected = [3, 1, 2, 3000, 3, 2**64 - 3, 300, b"row 3"]
    assert [found[name] for name in names[:8]] == expected
    assert found[names[9]] in ("192.0.2.3", b"\xc0\x00\x02\x03")
    assert found[names[10]] == "1.3.6.1.3"
    assert found[names[11]] == b"\x80\x20"


def test_gufo_is_told_what_is_not_there(agent: Running) -> None:
    from gufo.snmp import NoSuchInstance, SnmpError

    for who in ("v2c", ("SHA-256", "AES-128")):
        session = gufo(agent, who)
        for name in (f"{SYSTEM}.99.0", f"{TABLE}.2.999"):
            with pytest.raises((NoSuchInstance, SnmpError)):
                session.get(name)


def test_gufo_over_ipv6(agent: Running) -> None:
    assert gufo(agent, "v2c", ipv6=True).get(NAME) == b"gateway"
    assert gufo(agent, ("SHA-256", "AES-128"), ipv6=True).get(NAME) == b"gateway"


def test_gufo_sees_tunnels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Three hundred tunnels' octets by v2c, as the fake daemon lists them."""
    from gufo.snmp.sync import SnmpSession

    with thread_beside_fake(tmp_path_factory.mktemp("beside"), 300) as beside:
        assert isinstance(beside, Beside)
        session = SnmpSession("127.0.0.1", port=beside.address[1], community="public", timeout=5)
        rows_of = lambda: list(session.getbulk(f"{FLOW}.3.2.1.27", 50))  # noqa: E731
        wait_until(lambda: len(rows_of()) == 300, 2, "a big table is first filled between answers")
        octets = rows_of()
        assert sum(value for _, value in octets) == 100 * 300 * 301 // 2
        assert session.get(f"{FLOW}.3.1.4.0") == 100 * 300 * 301 // 2


# --- pysnmp's manager -------------------------------------------------------------------------------------------------

PYSNMP_AUTH = {
    "MD5": manager.USM_AUTH_HMAC96_MD5,
    "SHA-1": manager.USM_AUTH_HMAC96_SHA,
    "SHA-224": manager.USM_AUTH_HMAC128_SHA224,
    "SHA-256": manager.USM_AUTH_HMAC192_SHA256,
    "SHA-384": manager.USM_AUTH_HMAC256_SHA384,
    "SHA-512": manager.USM_AUTH_HMAC384_SHA512,
}
PYSNMP_PRIV = {
    "": manager.USM_PRIV_NONE,
    "DES": manager.USM_PRIV_CBC56_DES,
    "AES-128": manager.USM_PRIV_CFB128_AES,
    "AES-192": manager.USM_PRIV_CFB192_AES_BLUMENTHAL,
    "AES-256": manager.USM_PRIV_CFB256_AES_BLUMENTHAL,
    "AES-192-C": manager.USM_PRIV_CFB192_AES,
    "AES-256-C": manager.USM_PRIV_CFB256_AES,
}
Asked = tuple[Any, int, int, list[tuple[str, Any]]]


def pysnmp_user(auth: str, priv: str) -> Any:
    return manager.UsmUserData(
        auth + priv,
        PASSWORDS[0],
        PASSWORDS[1] if priv else None,
        authProtocol=PYSNMP_AUTH[auth],
        privProtocol=PYSNMP_PRIV[priv],
    )


WHO: dict[str, Any] = {
    "v1": manager.CommunityData("writer", mpModel=0),
    "v2c": manager.CommunityData("writer", mpModel=1),
    "v3": pysnmp_user("SHA-256", "AES-128"),
}


class Pysnmp:
    """pysnmp's high-level manager, one engine for a test."""

    def __init__(self, agent: Running, who: Any) -> None:
        self.agent, self.who = agent, who

    async def __aenter__(self) -> Pysnmp:
        self.engine = manager.SnmpEngine()
        self.target = await manager.UdpTransportTarget.create(
            ("127.0.0.1", port_of(self.agent)), timeout=4, retries=0
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.engine.close_dispatcher()

    async def ask(
        self, command: Callable[..., Awaitable[Any]], *names: Any, before: tuple[int, ...] = ()
    ) -> Asked:
        varbinds = [
            manager.ObjectType(manager.ObjectIdentity(name), *value)
            for name, *value in ([n] if isinstance(n, str) else n for n in names)
        ]
        trouble, status, index, answered = await command(
            self.engine, self.who, self.target, manager.ContextData(), *before, *varbinds, lookupMib=False
        )
        return trouble, int(status), int(index), [(str(name), value) for name, value in answered]


@pytest.mark.parametrize(("auth", "priv"), PAIRS, ids=["-".join(filter(None, pair)) for pair in PAIRS])
def test_pysnmp_with_every_pair_of_algorithms(agent: Running, auth: str, priv: str) -> None:
    async def main() -> None:
        async with Pysnmp(agent, pysnmp_user(auth, priv)) as it:
            trouble, status, _, found = await it.ask(manager.get_cmd, NAME, f"{TABLE}.7.1")
            assert (trouble, status) == (None, 0)
            assert [bytes(found[0][1]), int(found[1][1])] == [b"gateway", 2**64 - 1]

    asyncio.run(main())


@pytest.mark.parametrize("who", WHO.values(), ids=WHO)
def test_pysnmp_reads_and_writes(agent: Running, who: Any) -> None:
    old = who is WHO["v1"]

    async def main() -> None:
        async with Pysnmp(agent, who) as it:
            trouble, status, _, found = await it.ask(manager.next_cmd, f"{SYSTEM}.4", f"{TABLE}.2.7")
            assert (trouble, status) == (None, 0)
            assert [name for name, _ in found] == [CONTACT, f"{TABLE}.2.8"]
            for value in (4, 5):
                _, status, _, found = await it.ask(manager.set_cmd, (LIMITED, rfc1902.Integer32(value)))
                assert (status, int(found[0][1])) == (0, value)
            _, status, _, found = await it.ask(manager.get_cmd, LIMITED)
            assert (status, int(found[0][1])) == (0, 5)
            wrong = (
                ((LIMITED, rfc1902.OctetString("x")), 7),
                ((LIMITED, rfc1902.Integer32(11)), 10),
                ((READ_ONLY, rfc1902.Integer32(1)), 17),
                ((f"{TABLE}.2.999", rfc1902.Integer32(1)), 11),
            )
            for varbind, code in wrong:
                good = (f"{TABLE}.2.5", rfc1902.Integer32(5))
                _, status, index, _ = await it.ask(manager.set_cmd, good, varbind, good)
                assert (status, index) == ({7: 3, 10: 3, 17: 2, 11: 2}[code] if old else code, 2)
            _, status, index, found = await it.ask(manager.get_cmd, NAME, f"{SYSTEM}.99.0")
            if old:
                assert (status, index) == (2, 2)
            else:
                assert status == 0
                assert isinstance(found[1][1], rfc1905.NoSuchObject)

    asyncio.run(main())


@pytest.mark.parametrize("who", [WHO["v2c"], WHO["v3"]], ids=["v2c", "v3"])
def test_pysnmp_bulk_and_walk(agent: Running, who: Any) -> None:
    async def main() -> None:
        async with Pysnmp(agent, who) as it:
            names = (f"{SYSTEM}.4", f"{TABLE}.2", f"{TABLE}.5")
            _, status, _, found = await it.ask(manager.bulk_cmd, *names, before=(1, 30))
            assert status == 0
            assert [name for name, _ in found[:5]] == [
                CONTACT,
                *(f"{TABLE}.{column}.{n}" for n in (1, 2) for column in (2, 5)),
            ]
            assert len(found) == 61
            for walk, more in ((manager.walk_cmd, ()), (manager.bulk_walk_cmd, (0, 25))):
                seen = []
                arguments = (it.engine, who, it.target, manager.ContextData(), *more)
                start = manager.ObjectType(manager.ObjectIdentity(f"{TABLE}.2"))
                async for trouble, code, _, varbinds in walk(
                    *arguments, start, lexicographicMode=False, lookupMib=False
                ):
                    assert (trouble, int(code)) == (None, 0)
                    seen += [(str(name), int(value)) for name, value in varbinds]
                assert seen == [(f"{TABLE}.2.{n}", n) for n in range(1, ROWS + 1)]

    asyncio.run(main())


def test_managers_go_on_after_the_agent_was_killed(tmp_path: Path, repository: Path) -> None:
    """The same sessions: boots are one higher, and each gets in step again by the Report that tells so."""
    from gufo.snmp.sync import SnmpSession

    boots = "1.3.6.1.6.3.10.2.1.2.0"
    text = CONFIG.replace("[agent]", '[agent]\nstate_dir = "state"', 1).replace(
        '"127.0.0.1:0", "[::1]:0"', '"127.0.0.1:PORT"'
    )
    program = Program(tmp_path, repository, text + ACCESS + user("SHA-256", "AES-128"), "reader", PASSWORDS)

    async def by_pysnmp() -> None:
        engine = manager.SnmpEngine()
        target = await manager.UdpTransportTarget.create(("127.0.0.1", program.port), timeout=2, retries=2)
        asked = manager.ObjectType(manager.ObjectIdentity(boots))
        try:
            for expected in (2, 3):
                trouble, status, _, found = await manager.get_cmd(
                    engine, WHO["v3"], target, manager.ContextData(), asked, lookupMib=False
                )
                assert (trouble, int(status), int(found[0][1])) == (None, 0, expected)
                if expected == 2:
                    await asyncio.to_thread(program.kill)
                    await asyncio.to_thread(program.start)
        finally:
            engine.close_dispatcher()

    try:
        program.start()
        session = SnmpSession("127.0.0.1", port=program.port, user=gufo_user("SHA-256", "AES-128"), timeout=2)
        session.refresh()
        assert session.get(boots) == 1
        program.kill()
        program.start()
        session.refresh()
        assert session.get(boots) == 2
        asyncio.run(by_pysnmp())
    finally:
        program.end()


REFUSED = {
    "unknown user": (manager.UsmUserData("nobody"), "Unknown USM user"),
    "wrong password": (
        manager.UsmUserData("SHA-256", "a wrong password", authProtocol=PYSNMP_AUTH["SHA-256"]),
        "Wrong SNMP PDU digest",
    ),
    "wrong privacy password": (
        manager.UsmUserData(
            "SHA-256AES-128",
            PASSWORDS[0],
            "a wrong password",
            authProtocol=PYSNMP_AUTH["SHA-256"],
            privProtocol=PYSNMP_PRIV["AES-128"],
        ),
        "",
    ),
    "wrong community": (
        manager.CommunityData("public", mpModel=1),
        "No SNMP response received before timeout",
    ),
}


@pytest.mark.parametrize(("who", "expected"), REFUSED.values(), ids=REFUSED)
def test_pysnmp_is_refused(agent: Running, who: Any, expected: str) -> None:
    async def main() -> None:
        async with Pysnmp(agent, who) as it:
            it.target.timeout = 0.5
            trouble, _, _, found = await it.ask(manager.get_cmd, NAME)
            assert trouble is not None
            assert expected in str(trouble)
            assert not any(
                getattr(value, "isSameTypeWith", None) and bytes(value) == b"gateway" for _, value in found
            )

    asyncio.run(main())

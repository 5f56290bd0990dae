"""Targets, notifications, filters and communities made over SNMP, from nothing until they work, and kept."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from notif_lab import EVENT, NAME, SYS_NAME, Trapd, ear, sending, tool, trapd, until

from agent.engine.agent import SnmpAgent

ADDR = "1.3.6.1.6.3.12.1.2.1"
PARAMS = "1.3.6.1.6.3.12.1.3.1"
NOTIFY = "1.3.6.1.6.3.13.1.1.1"
PROFILE = "1.3.6.1.6.3.13.1.2.1"
FILTER = "1.3.6.1.6.3.13.1.3.1"
COMMUNITY = "1.3.6.1.6.3.18.1.1.1"
EXT = "1.3.6.1.6.3.18.1.2.1"
UDP = "1.3.6.1.6.1.1"
READ_ONLY, VOLATILE = "5", "2"


def name(text: str, implied: bool = True) -> str:
    """An OCTET STRING as index."""
    numbers = [*text.encode()] if implied else [len(text), *text.encode()]
    return ".".join(map(str, numbers))


def udp(port: int, host: str = "127.0.0.1") -> str:
    """A TAddress in hex."""
    return bytes((*map(int, host.split(".")), *port.to_bytes(2, "big"))).hex()


def address_row(port: int, tags: str, params: str = "p", row: str = "t", *more: str) -> tuple[str, ...]:
    at = name(row)
    return (
        *(f"{ADDR}.2.{at}", "o", UDP, f"{ADDR}.3.{at}", "x", udp(port), f"{ADDR}.6.{at}", "s", tags),
        *(f"{ADDR}.7.{at}", "s", params, *more, f"{ADDR}.9.{at}", "i", "4"),
    )


def params_row(row: str, model: str, security: str, who: str, level: str) -> tuple[str, ...]:
    at = name(row)
    return (
        *(f"{PARAMS}.2.{at}", "i", model, f"{PARAMS}.3.{at}", "i", security, f"{PARAMS}.4.{at}", "s", who),
        *(f"{PARAMS}.5.{at}", "i", level, f"{PARAMS}.7.{at}", "i", "4"),
    )


async def put(agent: SnmpAgent, *varbinds: str) -> None:
    status, out = await tool(agent, "snmpset", *varbinds)
    assert status == 0, out


async def refused(agent: SnmpAgent, error: str, *varbinds: str) -> None:
    status, out = await tool(agent, "snmpset", *varbinds)
    assert status == 2, out
    assert error in out


async def value(agent: SnmpAgent, oid: str) -> str:
    status, out = await tool(agent, "snmpget", "-Ovq", oid)
    assert status == 0, out
    return out.strip().strip('"')


def test_from_nothing_until_a_trap_arrives_and_after_a_restart(tmp_path: Path) -> None:
    async def scenario(receiver: Trapd) -> None:
        async with sending(tmp_path) as agent:
            assert agent.notify(EVENT, NAME) == 0
            await put(agent, *params_row("p", "3", "3", "admin", "3"))
            await put(agent, *address_row(receiver.port, "here there"))
            assert agent.notify(EVENT, NAME) == 0
            at = name("n")
            await put(agent, f"{NOTIFY}.2.{at}", "s", "there", f"{NOTIFY}.5.{at}", "i", "4")
            assert agent.notify(EVENT, NAME) == 1
            await until(lambda: len(receiver.of("TRAP2, SNMP v3, user admin")) == 1)
            await put(agent, f"{NOTIFY}.3.{at}", "i", "2")
            agent.notify(EVENT, NAME)
            await until(lambda: agent.notifications.counters.informs_acknowledged == 1)
            assert len(receiver.of("INFORM, SNMP v3, user admin")) == 1
        async with sending(tmp_path) as agent:
            await until(lambda: agent.notifications.counters.informs_acknowledged == 1)
            assert len(receiver.of(".1.3.6.1.6.3.1.1.5.1")) == 1
            assert await value(agent, f"{ADDR}.6.{name('t')}") == "here there"
            await put(agent, f"{ADDR}.9.{name('t')}", "i", "6")
            assert agent.notify(EVENT, NAME) == 0
        async with sending(tmp_path) as agent:
            assert agent.notify(EVENT, NAME) == 0
            _, out = await tool(agent, "snmpwalk", f"{EXT}")
            assert name("t") not in out

    users = ('admin SHA-256 "correct horse" AES "battery staple"',)
    own = '-e 0x80007ed9050a0a0a0a0a0a0a0a0a0a0a0a admin SHA-256 "correct horse" AES "battery staple"'
    with trapd(tmp_path, *users, own) as receiver:
        asyncio.run(scenario(receiver))


def test_a_volatile_row_is_gone_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sending(tmp_path) as agent:
            more = (f"{ADDR}.8.{name('t')}", "i", VOLATILE)
            await put(agent, *address_row(162, "traps", "p", "t", *more))
            assert await value(agent, f"{ADDR}.8.{name('t')}") == VOLATILE
            await put(agent, *address_row(162, "traps", "p", "u"))
        async with sending(tmp_path) as agent:
            _, out = await tool(agent, "snmpwalk", f"{ADDR}.6")
            assert out.count("traps") == 1

    asyncio.run(scenario())


def test_a_filter_made_over_snmp_holds_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ear() as receiver, sending(tmp_path) as agent:
            await put(agent, *params_row("p", "3", "3", "admin", "3"), *address_row(receiver.port, "traps"))
            assert agent.notify(EVENT, NAME) == 1
            at = name("p")
            await put(agent, f"{PROFILE}.1.{at}", "s", "f", f"{PROFILE}.3.{at}", "i", "4")
            assert agent.notify(EVENT, NAME) == 1, "a profile without filters holds nothing back"
            here = f"{name('f', implied=False)}.1.3.6.1.4.1.32473"
            await put(agent, f"{FILTER}.3.{here}", "i", "1", f"{FILTER}.5.{here}", "i", "4")
            assert agent.notify(EVENT, NAME) == 1
            assert agent.notify((1, 3, 6, 1, 6, 3, 1, 1, 5, 3), NAME) == 0
            instance = f"{name('f', implied=False)}.1.3.6.1.2.1.1.5"
            await put(agent, f"{FILTER}.3.{instance}", "i", "2", f"{FILTER}.5.{instance}", "i", "4")
            assert agent.notify(EVENT, NAME) == 0
            assert agent.notify(EVENT, ()) == 1
            await put(agent, f"{FILTER}.5.{instance}", "i", "2")
            assert agent.notify(EVENT, NAME) == 1, "a row that is not in service filters nothing"
            assert agent.notifications.counters.filtered == 2

    asyncio.run(scenario())


def test_the_notify_view_is_asked_for_the_notification_and_each_instance(tmp_path: Path) -> None:
    text = """
[[user]]
name = "u"
group = "g"
[[access]]
group = "g"
level = "noAuthNoPriv"
notify = "some"
read = "all"
[[view]]
name = "all"
include = ["1"]
[[view]]
name = "some"
include = ["1.3.6.1.4.1.32473", "1.3.6.1.2.1.1.5"]
exclude = ["1.3.6.1.4.1.32473.9.0.8"]
[[target]]
name = "t"
address = "127.0.0.1:9"
user = "u"
"""

    async def scenario() -> None:
        async with sending(tmp_path, text) as agent:
            assert agent.notifications.counters.not_in_view == 1, "coldStart"
            assert agent.notify(EVENT, NAME) == 1
            assert agent.notify((*EVENT[:-1], 8), NAME) == 0
            assert agent.notify(EVENT, (*NAME, ((1, 3, 6, 1, 2, 1, 1, 4, 0), b"\x04\x00"))) == 0
            assert agent.notify(EVENT, NAME, "elsewhere") == 0
            assert agent.notifications.counters.not_in_view == 4

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "varbinds"),
    [
        ("inconsistentValue", (*address_row(162, "a", "p")[:6], f"{ADDR}.9.{name('t')}", "i", "4")),
        (
            "inconsistentValue",
            (f"{ADDR}.2.{name('t')}", "o", "1.3.6.1.6.1.5", f"{ADDR}.9.{name('t')}", "i", "5"),
        ),
        (
            "inconsistentValue",
            (
                *address_row(162, "a")[:3],
                f"{ADDR}.3.{name('t')}",
                "x",
                "7f00000100",
                f"{ADDR}.9.{name('t')}",
                "i",
                "5",
            ),
        ),
        ("wrongValue", (f"{ADDR}.6.{name('t')}", "s", "two  spaces", f"{ADDR}.9.{name('t')}", "i", "5")),
        ("wrongValue", (f"{ADDR}.6.{name('t')}", "s", " begin", f"{ADDR}.9.{name('t')}", "i", "5")),
        ("wrongValue", (f"{ADDR}.9.{name('t')}", "i", "3")),
        ("wrongValue", (f"{NOTIFY}.2.{name('n')}", "s", "a b", f"{NOTIFY}.5.{name('n')}", "i", "4")),
        ("inconsistentValue", params_row("p", "1", "3", "admin", "1")),
        ("inconsistentValue", params_row("p", "2", "2", "admin", "1")),
        ("inconsistentValue", params_row("p", "1", "2", "admin", "3")),
        ("inconsistentName", (f"{EXT}.1.{name('t')}", "x", "ffffffff0000")),
        ("wrongLength", (f"{COMMUNITY}.2.{name('c')}", "s", "", f"{COMMUNITY}.8.{name('c')}", "i", "5")),
        ("notWritable", (f"{NOTIFY}.5.{name('traps')}", "i", "6")),
        ("notWritable", (f"{NOTIFY}.2.{name('traps')}", "s", "other")),
    ],
)
def test_rows_that_may_not_be(tmp_path: Path, error: str, varbinds: tuple[str, ...]) -> None:
    async def scenario() -> None:
        async with sending(tmp_path) as agent:
            _, before = await tool(agent, "snmpwalk", "1.3.6.1.6.3.12.1.2")
            await refused(agent, error, *varbinds)
            _, after = await tool(agent, "snmpwalk", "1.3.6.1.6.3.12.1.2")
            assert after == before

    asyncio.run(scenario())


def test_what_is_fixed_while_a_row_is_active(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sending(tmp_path) as agent:
            at = name("t")
            await put(agent, *address_row(162, "traps"), *params_row("p", "3", "3", "admin", "3"))
            await refused(agent, "inconsistentValue", f"{ADDR}.3.{at}", "x", udp(163))
            await refused(agent, "inconsistentValue", f"{PARAMS}.4.{name('p')}", "s", "other")
            await refused(agent, "inconsistentValue", f"{EXT}.1.{at}", "x", "ffffffff0000")
            await put(agent, f"{ADDR}.4.{at}", "i", "300", f"{EXT}.2.{at}", "i", "1400")
            await put(agent, f"{ADDR}.9.{at}", "i", "2")
            await refused(agent, "inconsistentValue", f"{EXT}.1.{at}", "x", "ffffff")
            await put(agent, f"{ADDR}.3.{at}", "x", udp(163))
            await put(agent, f"{EXT}.1.{at}", "x", "ffffffff0000")
            await put(agent, f"{ADDR}.9.{at}", "i", "1")
            assert await value(agent, f"{EXT}.2.{at}") == "1400"
            await put(agent, f"{ADDR}.9.{at}", "i", "6")
            await put(agent, *address_row(163, "traps"))
            assert await value(agent, f"{EXT}.2.{at}") == "484", "the mask and size went with their row"
            await put(agent, f"{ADDR}.9.{at}", "i", "2")
            await put(agent, f"{EXT}.1.{at}", "x", "ffffffff0000")
            await put(agent, f"{ADDR}.9.{at}", "i", "1")
            assert agent.notify(EVENT, NAME) == 0, "a row that stands for many addresses gets nothing"
            await refused(agent, "inconsistentValue", "1.3.6.1.6.3.12.1.1.0", "i", "7")
            lock = await value(agent, "1.3.6.1.6.3.12.1.1.0")
            await put(agent, "1.3.6.1.6.3.12.1.1.0", "i", lock, f"{ADDR}.5.{at}", "i", "9")
            assert int(await value(agent, "1.3.6.1.6.3.12.1.1.0")) == (int(lock) + 1) % 2**31

    asyncio.run(scenario())


def test_the_configuration_shows_as_rows_that_nobody_may_change(tmp_path: Path) -> None:
    text = """
[[community]]
name = "a secret string"
role = "monitor"
networks = ["127.0.0.0/8", "2001:db8::/32"]
[[target]]
name = "nms"
address = "127.0.0.1:10162"
version = "v2c"
community = "another secret"
inform = true
timeout = 2.5
retries = 7
tags = ["night"]
filter = "links"
[[filter]]
name = "links"
include = ["1.3.6.1.6.3.1.1.5"]
exclude = ["1.3.6.1.2.1.2.2.1.*.7"]
"""

    async def scenario() -> None:
        async with sending(tmp_path, text) as agent:
            at = name("nms")
            rows = {
                f"{ADDR}.2.{at}": f".{UDP}",
                f"{ADDR}.4.{at}": "250",
                f"{ADDR}.5.{at}": "7",
                f"{ADDR}.6.{at}": "informs night",
                f"{ADDR}.7.{at}": "nms",
                f"{ADDR}.8.{at}": READ_ONLY,
                f"{ADDR}.9.{at}": "1",
                f"{PARAMS}.2.{at}": "1",
                f"{PARAMS}.3.{at}": "2",
                f"{PARAMS}.4.{at}": "target1",
                f"{PROFILE}.1.{at}": "links",
                f"{FILTER}.3.5.108.105.110.107.115.1.3.6.1.6.3.1.1.5": "1",
                f"{FILTER}.3.5.108.105.110.107.115.1.3.6.1.2.1.2.2.1.0.7": "2",
                f"{FILTER}.4.5.108.105.110.107.115.1.3.6.1.2.1.2.2.1.0.7": READ_ONLY,
                f"{COMMUNITY}.2.{name('community1')}": "a secret string",
                f"{COMMUNITY}.6.{name('community1')}": "community1",
                f"{COMMUNITY}.7.{name('community1')}": READ_ONLY,
                f"{COMMUNITY}.2.{name('target1')}": "another secret",
                f"{ADDR}.6.{name('community1.2')}": "community1",
                f"{NOTIFY}.2.{name('informs')}": "informs",
            }
            for oid, wanted in rows.items():
                assert await value(agent, oid) == wanted, oid
            for table in (ADDR, PARAMS, NOTIFY, PROFILE, FILTER, COMMUNITY, EXT):
                _, out = await tool(agent, "snmpwalk", table)
                assert "No Such" not in out
            await refused(agent, "notWritable", f"{ADDR}.4.{at}", "i", "1")
            await refused(agent, "notWritable", f"{ADDR}.9.{at}", "i", "6")
            await refused(agent, "notWritable", f"{EXT}.2.{at}", "i", "500")
            await refused(agent, "notWritable", f"{COMMUNITY}.2.{name('community1')}", "s", "mine")
            assert agent.communities.lookup(b"another secret", 1, "127.0.0.1", 5) is None

    asyncio.run(scenario())


# -- communities --------------------------------------------------------------------------------------------

SECRET = "not for every eye"


def community_row(row: str = "c", *more: str) -> tuple[str, ...]:
    at = name(row)
    return (
        *(f"{COMMUNITY}.2.{at}", "s", SECRET, f"{COMMUNITY}.3.{at}", "s", "watcher"),
        *(*more, f"{COMMUNITY}.8.{at}", "i", "4"),
    )


def group_row(security: str = "2") -> tuple[str, ...]:
    """watcher into the group of monitors without security."""
    at = f"{security}.{name('watcher', implied=False)}"
    table = "1.3.6.1.6.3.16.1.2.1"
    return f"{table}.3.{at}", "s", "g", f"{table}.5.{at}", "i", "4"


VIEWS = """
[[view]]
name = "all"
include = ["1"]
[[access]]
group = "g"
model = "any"
level = "noAuthNoPriv"
read = "all"
notify = "all"
"""


async def asks(agent: SnmpAgent, seconds: str = "5") -> bool:
    """Whether the community is answered. Silence takes the whole time, so expect it with a short one."""
    who = ("-v2c", "-c", SECRET)
    status, out = await tool(agent, "snmpget", "-t", seconds, "-r", "0", "1.3.6.1.2.1.1.3.0", who=who)
    assert status == 0 or "Timeout" in out, out
    return status == 0


def test_a_community_works_at_once_and_after_a_restart_and_stays_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def scenario() -> None:
        async with sending(tmp_path, VIEWS) as agent:
            assert not await asks(agent, "0.5")
            await put(agent, *community_row(), *group_row())
            assert await asks(agent)
            # v1 is another security model: nothing makes it a member of the group
            status, out = await tool(agent, "snmpget", "1.3.6.1.2.1.1.3.0", who=("-v1", "-c", SECRET))
            assert status != 0
            engine = await value(agent, f"{COMMUNITY}.4.{name('c')}")
            assert "".join(engine.split()).lower() == agent.engine_id.hex()
            assert repr(agent.targets.community_rows.get((b"c",))).count("Secret(...)") == 1
            await put(agent, f"{COMMUNITY}.8.{name('c')}", "i", "2")
            assert not await asks(agent, "0.5")
            await put(agent, f"{COMMUNITY}.8.{name('c')}", "i", "1")
            assert await asks(agent)
        async with sending(tmp_path, VIEWS) as agent:
            assert await asks(agent)
            # no role but admin's sees the table
            status, out = await tool(agent, "snmpget", f"{COMMUNITY}.2.{name('c')}")
            assert SECRET in out
            await put(agent, f"{COMMUNITY}.8.{name('c')}", "i", "6")
            assert not await asks(agent, "0.5")

    asyncio.run(scenario())
    assert SECRET not in caplog.text
    assert SECRET.encode().hex() not in caplog.text
    kept = tmp_path / "state" / "lcd.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(kept.read_text())["tables"].get("snmpCommunityTable") is None


def test_a_monitor_does_not_see_communities(tmp_path: Path) -> None:
    text = '[[community]]\nname = "looks"\nrole = "monitor"\nnetworks = ["127.0.0.1"]\n'

    async def scenario() -> None:
        async with sending(tmp_path, text) as agent:
            for table in (COMMUNITY, EXT, ADDR, PARAMS, NOTIFY):
                _, out = await tool(agent, "snmpwalk", table, who=("-v2c", "-c", "looks"))
                assert "No Such Object" in out or "No more variables" in out, out
            _, out = await tool(agent, "snmpwalk", "1.3.6.1.6.3", who=("-v2c", "-c", "looks"))
            assert "looks" not in out
            assert "1.3.6.1.6.3.10" in out

    asyncio.run(scenario())


def test_a_transport_tag_restricts_sources_by_address_mask_and_port(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sending(tmp_path, VIEWS) as agent:
            tag = (f"{COMMUNITY}.6.{name('c')}", "s", "inside")
            await put(agent, *community_row("c", *tag), *group_row())
            find = agent.communities.lookup
            assert find(SECRET.encode(), 1, "127.0.0.1", 7) is None
            assert not await asks(agent, "0.5")
            at = name("net")
            rest = address_row(0, "inside", "p", "net")[:-3]
            await put(agent, *rest, f"{ADDR}.9.{at}", "i", "5")
            await put(agent, f"{EXT}.1.{at}", "x", "ff0000000000")
            assert not await asks(agent, "0.5"), "the row is not active yet"
            await put(agent, f"{ADDR}.9.{at}", "i", "1")
            assert await asks(agent)
            assert not agent.communities.ports_matter
            assert find(SECRET.encode(), 1, "127.9.9.9", 7) is not None
            assert find(SECRET.encode(), 1, "::ffff:127.9.9.9", 7) is not None
            assert find(SECRET.encode(), 1, "128.9.9.9", 7) is None
            assert find(SECRET.encode(), 1, "::1", 7) is None
            await put(agent, *address_row(4321, "inside", "p", "one"))
            assert agent.communities.ports_matter
            await put(agent, f"{ADDR}.9.{at}", "i", "6")
            assert find(SECRET.encode(), 1, "127.0.0.1", 4321) is not None
            assert find(SECRET.encode(), 1, "127.0.0.1", 4322) is None
            assert not await asks(agent, "0.5")

    asyncio.run(scenario())


def test_traps_under_a_community_made_over_snmp(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ear() as receiver, sending(tmp_path, VIEWS) as agent:
            await put(agent, *params_row("p", "0", "1", "watcher", "1"), *address_row(receiver.port, "traps"))
            assert agent.notify(EVENT, NAME) == 0, "no group yet"
            await put(agent, *group_row("1"))
            assert agent.notify(EVENT, NAME) == 1
            await until(lambda: agent.notifications.counters.unusable == 1)
            await put(agent, *community_row())
            agent.notify(EVENT, NAME)
            await until(lambda: receiver.heard)
            assert SECRET.encode() in receiver.heard[0][1]
            agent.notify(EVENT, ((SYS_NAME, b"\x46\x01\x05"),))
            await until(lambda: agent.notifications.counters.untranslatable == 1)

    asyncio.run(scenario())

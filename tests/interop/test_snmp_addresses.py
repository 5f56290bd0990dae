"""Where the agent answers: several listen addresses, wildcards, IPv6, link-local and secondary addresses.

Two namespaces with a link; the agent is in one, the manager in the other. An answer leaves from the address that was
asked, which a manager with a connected socket insists on.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.capture import Capture
from lab.netns import Namespace
from lab.ours import OurAgent
from lab.policy import require_tool
from lab.process import wait_until
from lab.snmp import Snmp
from smi_support import request, unwrap, v2c

from agent.engine.pdu import GET

PORT, OTHER_PORT = 1161, 1162
ADDRESSES4 = ("198.51.100.1", "198.51.100.77", "192.0.2.9")
ADDRESSES6 = ("2001:db8::1", "2001:db8::77", "2001:db8:9::9")
UP_TIME = (1, 3, 6, 1, 2, 1, 1, 3, 0)


@pytest.fixture(autouse=True)
def _tools() -> None:
    require_tool("snmpget")
    require_tool("snmpbulkwalk")


@pytest.fixture
def link() -> Iterator[tuple[Namespace, Namespace]]:
    """The agent's namespace and the manager's: one link, and three addresses of each family at the agent."""
    left, right = Namespace("agent"), Namespace("manager")
    try:
        left.ip(f"link add wan type veth peer name wan netns {right.name}")
        for namespace in (left, right):
            namespace.ip("link set wan up")
        left.add_address(
            "198.51.100.1/24", "198.51.100.77/24", "2001:db8::1/64", "2001:db8::77/64", device="wan"
        )
        left.add_address("192.0.2.9/32", "2001:db8:9::9/128")
        right.add_address("198.51.100.2/24", "2001:db8::2/64", device="wan")
        right.ip("route add 192.0.2.9/32 via 198.51.100.1", "route add 2001:db8:9::9/128 via 2001:db8::1")
        wait_until(lambda: "tentative" not in right.run("ip", "-6", "addr") + left.run("ip", "-6", "addr"), 5)
        yield left, right
    finally:
        left.close()
        right.close()


def agent_at(folder: Path, namespace: Namespace, *listen: str) -> OurAgent:
    agent = OurAgent({}, folder / "agent", namespace)
    rewrite(agent, agent.conf.read_text().replace("127.0.0.0/8", '0.0.0.0/0", "::/0'), *listen)
    return agent


def rewrite(agent: OurAgent, text: str, *listen: str) -> None:
    """The configuration with these addresses, and one on loopback by which the lab sees that it is up."""
    lines = [
        "listen = [" + ", ".join(f'"{address}"' for address in listen) + "]" if "listen =" in line else line
        for line in text.splitlines()
    ]
    agent.conf.write_text("\n".join(lines) + "\n")


def asked(namespace: Namespace, agent: OurAgent, host: str, port: int = PORT, scope: int = 0) -> bool:
    """Whether a manager with a connected socket gets an answer from the very address that it asks."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with namespace.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.connect((host, port, 0, scope) if family == socket.AF_INET6 else (host, port))
        try:
            sock.send(v2c(request(GET, [UP_TIME]), agent.access.community.encode()))
            return unwrap(sock.recv(65535)).varbinds[0][0] == UP_TIME
        except (TimeoutError, ConnectionError):
            return False


def test_wildcards_answer_from_the_address_that_was_asked(
    link: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, right = link
    agent = agent_at(tmp_path, left, f"0.0.0.0:{PORT}", f"[::]:{PORT}")
    agent.start()
    try:
        with Capture(right, tmp_path / "wan.pcap") as capture:
            for host in (*ADDRESSES4, *ADDRESSES6):
                assert asked(right, agent, host), host
                target = f"udp6:[{host}]:{PORT}" if ":" in host else f"{host}:{PORT}"
                for who in (agent.access.reader(), agent.access.operator()):
                    assert Snmp(target, right, who, timeout=1, retries=0).answers(), (host, who[0])
        assert capture.frames
        text = left.run("ip", "-6", "-o", "addr", "show", "dev", "wan", "scope", "link")
        local = text.split("inet6 ")[1].split("/")[0]
        index = right.inside(lambda: socket.if_nametoindex("wan"))
        assert asked(right, agent, local, scope=index), "link-local"
        assert asked(left, agent, "127.0.0.1")
        assert asked(left, agent, "::1")
    finally:
        agent.stop()


def test_only_where_it_listens(link: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    left, right = link
    listen = (
        f"127.0.0.1:{PORT}",
        f"{ADDRESSES4[1]}:{PORT}",
        f"{ADDRESSES4[0]}:{OTHER_PORT}",
        f"[{ADDRESSES6[2]}]:{PORT}",
    )
    agent = agent_at(tmp_path, left, *listen)
    agent.start()
    try:
        expected = {
            (ADDRESSES4[0], PORT): False,
            (ADDRESSES4[1], PORT): True,
            (ADDRESSES4[2], PORT): False,
            (ADDRESSES4[0], OTHER_PORT): True,
            (ADDRESSES4[1], OTHER_PORT): False,
            (ADDRESSES6[0], PORT): False,
            (ADDRESSES6[1], PORT): False,
            (ADDRESSES6[2], PORT): True,
            (ADDRESSES6[2], OTHER_PORT): False,
        }
        got = {where: asked(right, agent, *where) for where in expected}
        assert got == expected
        assert asked(left, agent, "127.0.0.1")
    finally:
        agent.stop()


def test_addresses_that_move_on_a_reload(link: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    """From one address to all of them and back; one that this machine does not have changes nothing."""
    left, right = link
    agent = agent_at(tmp_path, left, f"127.0.0.1:{PORT}", f"{ADDRESSES4[0]}:{PORT}")
    agent.start()
    text = agent.conf.read_text()
    try:
        for listen, expected in (
            ((f"0.0.0.0:{PORT}", f"[::]:{PORT}"), (True, True, True)),
            ((f"{ADDRESSES4[1]}:{PORT}", f"127.0.0.1:{PORT}"), (False, True, False)),
            ((f"{ADDRESSES4[1]}:{PORT}", f"203.0.113.1:{PORT}"), (False, True, False)),
            ((f"[{ADDRESSES6[0]}]:{PORT}", f"{ADDRESSES4[0]}:{PORT}"), (True, False, True)),
        ):
            seen = agent.process.text().count("reloaded")
            rewrite(agent, text, *listen)
            agent.process.signal(1)
            wait_until(lambda seen=seen: agent.process.text().count("reloaded") > seen, 5)
            got = tuple(asked(right, agent, host) for host in (*ADDRESSES4[:2], ADDRESSES6[0]))
            assert got == expected, listen
        assert "not reloaded" in agent.process.text()
        assert "203.0.113.1" in agent.process.text()
    finally:
        agent.stop()


def test_large_answers_cross_the_link(link: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    """An answer of several IP fragments, from a secondary address of a wildcard socket, over both families."""
    left, right = link
    agent = agent_at(tmp_path, left, f"0.0.0.0:{PORT}", f"[::]:{PORT}")
    agent.start()
    try:
        for target in (f"{ADDRESSES4[2]}:{PORT}", f"udp6:[{ADDRESSES6[2]}]:{PORT}"):
            for who in (agent.access.reader(), agent.access.operator()):
                manager = Snmp(target, right, who, timeout=2, retries=0)
                said = manager.run("snmpbulkget", "1.3.6.1", options=("-Cr150",))
                assert len(said.splitlines()) > 100
                assert len(manager.walk("1.3.6.1")) > 100
    finally:
        agent.stop()

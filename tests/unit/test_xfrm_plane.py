"""The kernel's plane where the kernel has policies but no ESP: in a network namespace of this machine.

`ip xfrm` is the judge of what was installed. SAs are tested in guests (tests/interop/test_kernel_plane.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from espkit import A, B, describe, ts
from lab.netns import Namespace, link, namespaces
from lab.process import wait_until

from ipsecstack.dataplane.base import Acquired, DataPlaneError
from ipsecstack.dataplane.xfrm.codec import (
    Acknowledged,
    Overrun,
    Policy,
    PolicyFound,
    Received,
    StatesFlushed,
    dump_policies,
    read,
)
from ipsecstack.dataplane.xfrm.netlink import Kernel, KernelError
from ipsecstack.dataplane.xfrm.numbers import StateMode, Verdict, Way
from ipsecstack.dataplane.xfrm.plane import XfrmDataPlane
from ipsecstack.dataplane.xfrm.routes import MARK, SourceRoutes
from ipsecstack.dataplane.xfrm.structures import Selector, Template
from ipsecstack.ipsec.sa import Direction, Mode, SecurityProtocol
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.wire.transforms import EncrId, IntegId

LAN_A, LAN_B = ts("10.1.0.0/24"), ts("10.2.0.0/24")
PROTECT = SpdEntry("c/k", Action.PROTECT, LAN_A, LAN_B, 100, 7)


@pytest.fixture
def place(require_root: None) -> Iterator[Namespace]:
    with namespaces("xf") as (made,):
        yield made


@pytest.fixture
def plane(place: Namespace) -> Iterator[XfrmDataPlane]:
    made = place.inside(XfrmDataPlane)
    yield made
    made.close()


def listed(place: Namespace) -> list[str]:
    """One line for each policy of `ip xfrm policy`, without those of sockets."""
    text = place.run("ip", "xfrm", "policy")
    blocks = [" ".join(block.split()) for block in re.split(r"^(?=src )", text, flags=re.M)]
    return sorted(block for block in blocks if block and "socket" not in block)


def test_policies_in_the_words_of_iproute2(place: Namespace, plane: XfrmDataPlane) -> None:
    plane.add_policy(PROTECT)
    plane.add_policy(SpdEntry("c/b", Action.BYPASS, LAN_A, ts("10.3.0.0/24[tcp/80]"), 10))
    plane.add_policy(SpdEntry("c/d", Action.DISCARD, LAN_A, ts("10.4.0.0-10.4.0.2"), 20, mark=(3, 0xFF)))
    template = "tmpl src 0.0.0.0 dst 0.0.0.0 proto esp reqid 7 mode tunnel"
    expected = []
    for way in ("out", "in", "fwd"):
        ends = ("src 10.1.0.0/24 dst {}", "src {} dst 10.1.0.0/24")[way != "out"]
        port = "dport" if way == "out" else "sport"
        expected.append(f"{ends.format('10.2.0.0/24')} dir {way} priority 100 ptype main {template}")
        expected.append(f"{ends.format('10.3.0.0/24')} proto tcp {port} 80 dir {way} priority 10 ptype main")
        for block in ("10.4.0.0/31", "10.4.0.2/32"):
            expected.append(
                f"{ends.format(block)} dir {way} action block priority 20 ptype main mark 0x3/0xff"
            )
    assert listed(place) == sorted(expected)
    plane.close()
    assert listed(place) == []


def test_transport_mode_and_ah(place: Namespace, plane: XfrmDataPlane) -> None:
    entry = SpdEntry(
        "c/t",
        Action.PROTECT,
        ts("192.0.2.1"),
        ts("192.0.2.2"),
        5,
        3,
        SecurityProtocol.AH,
        Mode.TRANSPORT,
        if_id=9,
    )
    plane.add_policy(entry)
    template = "tmpl src 0.0.0.0 dst 0.0.0.0 proto ah reqid 3 mode transport if_id 0x9"
    assert listed(place) == [
        f"src 192.0.2.1/32 dst 192.0.2.2/32 dir out priority 5 ptype main {template}",
        f"src 192.0.2.2/32 dst 192.0.2.1/32 dir in priority 5 ptype main {template}",
    ]


def test_an_interface_binds_what_leaves_by_it(place: Namespace, plane: XfrmDataPlane) -> None:
    with namespaces("peer") as (peer,):
        link(place, peer)
        place.inside(lambda: plane.add_policy(replace(PROTECT, interface="wan")))
        (line,) = listed(place)
        assert "dev wan" in line
        assert "dir out" in line


def test_neighbours_are_found_beside_ipv6_policies(place: Namespace, plane: XfrmDataPlane) -> None:
    six = SpdEntry("c/6", Action.PROTECT, ts("fd01::/64"), ts("fd02::/64"), 50, 1)
    plane.add_policy(six)
    assert any("proto ipv6-icmp type 136" in line for line in listed(place))
    assert list(plane.policies()) == [six]
    plane.remove_policy(six)
    assert listed(place) == []


def test_the_next_claim_takes_the_place(place: Namespace, plane: XfrmDataPlane) -> None:
    """Two children with the same selectors: one policy in the kernel, never none."""
    worse = replace(PROTECT, name="c/other", reqid=8, priority=200)
    plane.add_policy(worse)
    plane.add_policy(PROTECT)
    assert [re.findall(r"reqid (\d)", line) for line in listed(place)] == [["7"]] * 3
    plane.remove_policy(PROTECT)
    assert [re.findall(r"reqid (\d)", line) for line in listed(place)] == [["8"]] * 3
    plane.remove_policy(worse)
    assert listed(place) == []


def test_a_trap_asks_with_the_packets_values(place: Namespace, plane: XfrmDataPlane) -> None:
    with namespaces("peer") as (peer,):
        link(place, peer)
        place.add_address("192.0.2.1/24", "10.1.0.1/24", device="wan")
        place.ip("route add 10.2.0.0/24 via 192.0.2.2")
        plane.add_policy(replace(PROTECT, trap=True, pfp=frozenset({"remote", "protocol", "remote_port"})))
        plane.add_policy(replace(PROTECT, name="c/n", remote_ts=ts("10.2.0.128/25"), priority=50, reqid=9))
        with place.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("10.1.0.1", 5000))
            for target in ("10.2.0.200", "10.2.0.5"):
                with contextlib.suppress(OSError):  # dropped, with a word or without
                    sock.sendto(b"x", (target, 7000))
        events: list[object] = []

        def told() -> bool:
            plane.read_events(0)
            events.extend(plane.events())
            return bool(events)

        wait_until(told, 3, "an acquire")
        (event,) = events
        assert isinstance(event, Acquired)
        assert event.entry.name == "c/k"
        assert (str(event.destination), event.protocol, event.ports) == ("10.2.0.5", 17, (5000, 7000))
        assert event.local_ts == ts("10.1.0.0/24[17]")
        assert event.remote_ts == ts("10.2.0.5/32[17/7000]")
        assert plane.counters.no_sa_out >= 1


def test_reservations_and_strangers(place: Namespace, plane: XfrmDataPlane) -> None:
    spi = plane.allocate_spi(os.urandom)
    assert f"spi {spi:#010x}" in place.run("ip", "xfrm", "state")
    plane.release_spi(spi)
    assert "spi" not in place.run("ip", "xfrm", "state")
    drawn = iter([b"\0\0\0\1", b"\0\0\1\0"])
    assert plane.allocate_spi(lambda n: next(drawn)) == 256


def test_what_is_not_ours_is_left_alone(place: Namespace) -> None:
    place.ip("xfrm policy add src 10.1.0.0/24 dst 10.2.0.0/24 dir out action block priority 1")
    first = place.inside(XfrmDataPlane)
    first.add_policy(PROTECT)  # of the same selector
    assert len(listed(place)) == 4
    first._undo.close()  # as when the process dies: the kernel keeps everything
    first._closed = True
    assert len(listed(place)) == 4
    second = place.inside(XfrmDataPlane)
    assert len(listed(place)) == 1
    second.add_policy(PROTECT)
    second.close()
    (left,) = listed(place)
    assert "action block priority 1" in left


def test_one_process_for_each_instance(place: Namespace, plane: XfrmDataPlane) -> None:
    with pytest.raises(DataPlaneError, match="another ipsecstackd of this port"):
        place.inside(XfrmDataPlane)
    other = place.inside(lambda: XfrmDataPlane(501))
    other.add_policy(PROTECT)
    plane.add_policy(PROTECT)
    other.close()
    assert len(listed(place)) == 3


def test_flushed_policies_come_back(place: Namespace, plane: XfrmDataPlane) -> None:
    plane.add_policy(PROTECT)
    plane.read_events(0)
    assert plane.next_timer() is None  # our own changes are no reason
    place.run("ip", "xfrm", "policy", "flush")
    plane.read_events(0)
    at = plane.next_timer()
    assert at is not None
    plane.handle_timer(at)
    assert len(listed(place)) == 3
    plane.read_events(0)
    assert plane.next_timer() is None


def test_policies_come_back_when_words_of_the_kernel_were_lost(
    place: Namespace, plane: XfrmDataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of events overruns the socket: nobody knows then what another program did to our policies."""
    plane.add_policy(PROTECT)
    place.run("ip", "xfrm", "policy", "flush")
    plane._monitor.receive()
    monkeypatch.setattr(plane._monitor, "receive", lambda: [Received(0, 0, Overrun())])
    plane.read_events(0)
    monkeypatch.undo()
    at = plane.next_timer()
    assert at is not None
    plane.handle_timer(at)
    assert len(listed(place)) == 3
    assert plane.next_timer() is None


def test_a_repair_that_fails_is_tried_again(
    place: Namespace, plane: XfrmDataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.add_policy(PROTECT)
    place.run("ip", "xfrm", "policy", "flush")
    plane.read_events(0)
    with monkeypatch.context() as refusing:
        refusing.setattr(plane._kernel, "ask", lambda requests: [Acknowledged(12) for _ in requests])
        at = plane.next_timer()
        assert at is not None
        plane.handle_timer(at)
    assert listed(place) == []
    again = plane.next_timer()
    assert again == at + 10
    plane.handle_timer(again)
    assert len(listed(place)) == 3
    plane.read_events(0)
    assert plane.next_timer() is None


def test_what_a_failed_repair_left_goes_at_the_end(
    place: Namespace, plane: XfrmDataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.add_policy(PROTECT)
    with monkeypatch.context() as refusing:
        refusing.setattr(plane._kernel, "ask", lambda requests: [Acknowledged(12) for _ in requests])
        with pytest.raises(DataPlaneError, match="memory"):
            plane.repair()
    assert len(listed(place)) == 3
    plane.close()
    assert listed(place) == []


def test_a_policy_that_the_kernel_kept_is_removed_later(
    place: Namespace, plane: XfrmDataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.add_policy(PROTECT)

    def mute(requests: object) -> None:
        raise DataPlaneError("the kernel does not answer by netlink; see its log")

    with monkeypatch.context() as silent:
        silent.setattr(plane._kernel, "ask", mute)
        with pytest.raises(DataPlaneError, match="does not answer"):
            plane.remove_policy(PROTECT)
    assert list(plane.policies()) == []
    assert len(listed(place)) == 3
    at = plane.next_timer()
    assert at is not None
    plane.handle_timer(at)
    assert listed(place) == []


def test_many_deletions_cause_one_look(
    place: Namespace, plane: XfrmDataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []
    monkeypatch.setattr(plane._sas, "find_missing", looks.append)
    monkeypatch.setattr(plane._monitor, "receive", lambda: [Received(0, 0, StatesFlushed(0))] * 100)
    plane.read_events(0)
    assert looks == [False]


def test_what_the_kernel_cannot_do_says_so(place: Namespace, plane: XfrmDataPlane) -> None:
    unknown = describe(Direction.OUT, 0x1000, A, B, encr=EncrId.CAMELLIA_CTR, integ=IntegId.HMAC_SHA1_96)
    with pytest.raises(DataPlaneError, match="no encryption algorithm CAMELLIA_CTR"):
        plane.install(unknown, 0)
    with pytest.raises(DataPlaneError, match="replay window"):
        plane.install(describe(Direction.IN, 0x1000, A, B, replay_window=10**6), 0)
    ragged = ts(*(f"10.9.{n}.1-10.9.{n}.254" for n in range(9)))
    with pytest.raises(DataPlaneError, match="prefixes instead"):
        plane.add_policy(replace(PROTECT, local_ts=ragged, remote_ts=ragged))
    with pytest.raises(DataPlaneError, match="no interface nothere0"):
        plane.add_policy(replace(PROTECT, interface="nothere0"))
    assert list(plane.policies()) == []
    assert listed(place) == []


def test_refusals_have_a_cure() -> None:
    for number, words in (
        (1, "CAP_NET_ADMIN"),
        (38, "lacks the algorithm"),
        (93, "modprobe esp4"),
        (22, "parameters"),
    ):
        assert words in str(KernelError("an SA", number))


def test_without_rights_it_says_what_to_do(require_root: None) -> None:
    code = (
        "from ipsecstack.dataplane.xfrm.plane import XfrmDataPlane\n"
        "try: XfrmDataPlane(499)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        ["setpriv", "--inh-caps=-all", "--bounding-set=-all", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Error" in done.stdout, done
    assert "CAP_NET_ADMIN" in done.stdout, done


def test_a_socket_of_ike_passes_by_every_policy(place: Namespace, plane: XfrmDataPlane) -> None:
    with namespaces("peer") as (peer,):
        link(place, peer)
        place.add_address("192.0.2.1/24", device="wan")
        peer.add_address("192.0.2.2/24", device="wan")
        everything = SpdEntry("c/all", Action.DISCARD, ts("0.0.0.0/0"), ts("0.0.0.0/0"), 1)
        plane.add_policy(everything)
        with (
            place.socket(socket.AF_INET, socket.SOCK_DGRAM) as ike,
            place.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
            peer.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
        ):
            ike.bind(("192.0.2.1", 500))
            far.bind(("192.0.2.2", 500))
            far.settimeout(3)
            ike.settimeout(3)
            with pytest.raises(PermissionError):
                plain.sendto(b"x", ("192.0.2.2", 500))
            plane.prepare_socket(ike, False)
            ike.sendto(b"hello", ("192.0.2.2", 500))
            assert far.recv(10) == b"hello"
            far.sendto(b"back", ("192.0.2.1", 500))
            assert ike.recv(10) == b"back"
        time.sleep(0.6)
        assert plane.counters.discarded_out >= 1


def test_lists_are_read_to_their_end(place: Namespace, plane: XfrmDataPlane) -> None:
    for number in range(120):
        plane.add_policy(
            replace(PROTECT, name=f"c/{number}", remote_ts=ts(f"10.2.{number}.0/24"), reqid=number + 1)
        )
    kernel = place.inside(Kernel)
    seen: list[int] = []
    kernel.dump(dump_policies(), lambda kind, body: seen.append(len(body)))
    kernel.close()
    assert len(seen) == 360
    began = time.monotonic()
    plane.close()
    assert time.monotonic() - began < 3
    assert listed(place) == []


def test_routes_give_this_hosts_packets_their_source(place: Namespace) -> None:
    with namespaces("peer") as (peer,):
        link(place, peer)
        place.add_address("192.0.2.1/24", "2001:db8::1/64", device="wan")
        place.add_address("10.1.0.1/24", "fd01::1/64")
        place.ip("route add default via 192.0.2.2")
        entry = replace(
            PROTECT, local_ts=ts("10.1.0.0/24", "fd01::/64"), remote_ts=ts("0.0.0.0/0", "fd02::/64")
        )
        before = [place.run("ip", version, "rule") for version in ("-4", "-6")]
        routes = place.inside(SourceRoutes)
        routes.set([entry, replace(entry, name="c/l")], ip_address("198.51.100.7"))

        def source(*target: str) -> str:
            return re.findall(r"src (\S+)", place.run("ip", "route", "get", *target))[0]

        assert source("8.8.8.8") == "10.1.0.1"
        assert source("fd02::7") == "fd01::1"
        assert source("192.0.2.77") == "192.0.2.1"  # nearby, as before
        assert source("8.8.8.8", "mark", str(MARK)) == "192.0.2.1"  # IKE
        routes.set([entry], None)
        assert source("8.8.8.8") == "10.1.0.1"
        # A process that died leaves them; the next one begins anew.
        second = place.inside(SourceRoutes)
        assert source("8.8.8.8") == "192.0.2.1"
        second.close()
        second.close()
        routes.close()
        assert [place.run("ip", version, "rule") for version in ("-4", "-6")] == before
        assert "proto 150" not in place.run("ip", "route", "show", "table", "all")


def test_policies_of_iproute2_are_read(place: Namespace) -> None:
    """What `ip xfrm` made of its words is what we read: the other direction of the comparison."""
    place.ip(
        "xfrm policy add src 10.1.0.0/24 dst 10.2.0.0/16 proto udp sport 53 dport 99 dir fwd priority 7 "
        "mark 0x5 mask 0xf if_id 0x8 "
        "tmpl src 192.0.2.1 dst 192.0.2.2 proto comp reqid 3 mode tunnel level use "
        "tmpl proto esp spi 0x1234 reqid 4 mode transport"
    )
    found: list[Policy] = []

    def visit(kind: int, body: memoryview) -> None:
        answer = read(kind, body)
        assert isinstance(answer, PolicyFound)
        found.append(answer.policy)

    kernel = place.inside(Kernel)
    kernel.dump(dump_policies(), visit)
    kernel.close()
    (policy,) = found
    info = policy.info
    assert (info.way, info.priority, info.verdict) == (Way.FWD, 7, Verdict.ALLOW)
    assert info.selector == Selector(
        ip_address("10.1.0.0"), ip_address("10.2.0.0"), 24, 16, 17, 53, 0xFFFF, 99, 0xFFFF
    )
    assert (policy.mark, policy.if_id) == ((5, 15), 8)
    assert policy.templates == (
        Template(108, StateMode.TUNNEL, 3, ip_address("192.0.2.1"), ip_address("192.0.2.2"), 0, True),
        Template(50, StateMode.TRANSPORT, 4, spi=0x1234),
    )


def test_ip_xfrm_monitor_sees_what_we_do(place: Namespace, plane: XfrmDataPlane) -> None:
    with subprocess.Popen(
        place.argv("ip", "xfrm", "monitor", "policy"), stdout=subprocess.PIPE, text=True
    ) as monitor:
        try:
            time.sleep(0.3)  # it says nothing when it is ready
            plane.add_policy(PROTECT)
            plane.remove_policy(PROTECT)
            time.sleep(0.2)
        finally:
            monitor.terminate()
        text = monitor.communicate(timeout=5)[0]
    assert len(re.findall(r"^Updated|^src 10\.", text, flags=re.M)) >= 3, text
    assert len(re.findall(r"^Deleted", text, flags=re.M)) == 3, text
    assert "reqid 7" in text

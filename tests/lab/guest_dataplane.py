"""What a guest runs for tests/interop/test_kernel_plane.py: the contract of data planes, for the kernel's.

    python guest_dataplane.py OUT [NAME...]

OUT becomes one JSON object: name -> null, or the traceback. Each test has its planes of its own, in the same two
namespaces. `KernelWorld` sends real packets between them.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from espkit import A, B, describe, ts

from ipsecstack.dataplane.base import PeerAddressChanged, SaExpired
from ipsecstack.dataplane.xfrm.codec import Algorithm, State, StateFound, dump_states, read
from ipsecstack.dataplane.xfrm.netlink import Kernel
from ipsecstack.dataplane.xfrm.numbers import NO_LIMIT, Attribute, StateFlag
from ipsecstack.dataplane.xfrm.plane import XfrmDataPlane
from ipsecstack.dataplane.xfrm.structures import Encapsulation, Selector, StateId
from ipsecstack.ipsec.sa import Address, Direction, Mode, SecurityProtocol
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.wire.transforms import EncrId, IntegId
from lab.dataplane_contract import CONTRACT, HOSTS, PLAIN_A, PLAIN_B, connect, events_of, pair_of
from lab.netns import Namespace, link, namespaces
from lab.process import wait_until

PORT = 7009


class KernelWorld:
    """Two planes in two namespaces with a wire between them."""

    def __init__(self, left: Namespace, right: Namespace) -> None:
        self.left, self.right = left, right
        self.a, self.b = (
            place.inside(lambda: XfrmDataPlane(install_routes=False)) for place in (left, right)
        )
        self.second_b = Address(ip_address("192.0.2.9"), 4500)
        self._sink = right.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sink.bind((HOSTS[1], PORT))
        self._source = left.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._source.bind((HOSTS[0], 0))

    def now(self) -> float:
        return time.monotonic()

    def send(self, sizes: Sequence[int]) -> list[int]:
        for size in sizes:
            with contextlib.suppress(OSError):  # the kernel has no SA for it
                self._source.sendto(bytes(size), (HOSTS[1], PORT))
        found: list[int] = []
        self._sink.settimeout(0.25)
        with contextlib.suppress(TimeoutError):
            while len(found) < len(sizes):
                found.append(len(self._sink.recv(65535)))
        return found

    def close(self) -> None:
        self._sink.close()
        self._source.close()
        self.a.close()
        self.b.close()


# --- what only the kernel does ----------------------------------------------------------------------------------------


def every_algorithm_of_the_kernel(world: KernelWorld) -> None:
    """Each one that Debian's kernel has carries packets; names are those of the kernel's crypto API."""
    gcm = {"integ": IntegId.NONE, "key_integ": b""}
    cases: list[dict[str, object]] = [
        {"encr": EncrId.AES_GCM_8, "key_encr": bytes(range(20)), **gcm},
        {"encr": EncrId.AES_GCM_12, "key_encr": bytes(range(28)), **gcm},
        {"encr": EncrId.AES_CCM_16, "key_encr": bytes(range(19)), **gcm},
        {"encr": EncrId.AES_CCM_8, "key_encr": bytes(range(35)), **gcm},
        {"encr": EncrId.NULL_AUTH_AES_GMAC, "key_encr": bytes(range(20)), **gcm},
        {"encr": EncrId.CHACHA20_POLY1305, "key_encr": bytes(range(36)), **gcm},
    ]
    macs = {
        IntegId.HMAC_MD5_96: 16,
        IntegId.HMAC_SHA1_96: 20,
        IntegId.HMAC_SHA2_256_128: 32,
        IntegId.HMAC_SHA2_384_192: 48,
        IntegId.HMAC_SHA2_512_256: 64,
        IntegId.AES_XCBC_96: 16,
        IntegId.AES_CMAC_96: 16,
    }
    ciphers = {
        EncrId.AES_CBC: 32,
        EncrId.AES_CTR: 20,
        EncrId.CAMELLIA_CBC: 16,
        EncrId.TRIPLE_DES_CBC: 24,
        EncrId.CAST_CBC: 16,
        EncrId.BLOWFISH_CBC: 16,
        EncrId.NULL: 0,
    }
    for integ, octets in macs.items():
        cases.append(
            {"encr": EncrId.AES_CBC, "key_encr": bytes(range(16)), "integ": integ, "key_integ": bytes(octets)}
        )
        if integ is not IntegId.HMAC_MD5_96:
            cases.append({"protocol": SecurityProtocol.AH, "integ": integ, "key_integ": bytes(octets)})
    for cipher, octets in ciphers.items():
        cases.append(
            {
                "encr": cipher,
                "key_encr": bytes(range(octets)),
                "integ": IntegId.HMAC_SHA2_256_128,
                "key_integ": bytes(range(32)),
            }
        )
    cases.append({**cases[6 + 4], "sha256_96": True})
    failed = []
    for number, case in enumerate(cases):
        names = []
        try:
            names = list(connect(world, spi=0x3000 + number, **case))
            if world.send([100]) != [100]:
                failed.append(f"{case}: nothing arrived")
        except Exception as error:
            failed.append(f"{case}: {error}")
        for plane, name in zip((world.a, world.b), names, strict=False):
            plane.remove(name)
            for entry in list(plane.policies()):
                plane.remove_policy(entry)
    assert not failed, "\n".join(failed)


def transport_mode_and_ipcomp(world: KernelWorld) -> None:
    hosts = ts("192.0.2.1[udp]"), ts("192.0.2.2[udp]")
    for number, fields in enumerate(({"mode": Mode.TRANSPORT}, {"ipcomp_cpi": 0x4321})):
        out, inward = pair_of(0x4000 + number, **fields)
        if "mode" in fields:
            out, inward = (
                replace(out, local_ts=hosts[0], remote_ts=hosts[1]),
                replace(inward, local_ts=hosts[1], remote_ts=hosts[0]),
            )
        world.b.install(inward, 0)
        world.a.install(out, 0)
        entries = [
            SpdEntry("c/t", Action.PROTECT, sa.local_ts, sa.remote_ts, 50, 1, mode=sa.mode)
            for sa in (out, inward)
        ]
        world.a.add_policy(entries[0])
        world.b.add_policy(entries[1])
        if "mode" in fields:
            with (
                world.left.socket(socket.AF_INET, socket.SOCK_DGRAM) as left,
                world.right.socket(socket.AF_INET, socket.SOCK_DGRAM) as right,
            ):
                right.bind(("192.0.2.2", PORT))
                left.sendto(b"x" * 500, ("192.0.2.2", PORT))
                right.settimeout(2)
                assert len(right.recv(999)) == 500
        else:
            assert world.send([1000, 1]) == [1000, 1]  # one that gets shorter, and one that does not
        counters = world.b.query(inward.id)
        assert counters is not None
        assert counters.packets == (1 if "mode" in fields else 2)
        if "ipcomp_cpi" in fields:
            assert counters.octets < 500, counters  # zeros compress well
        world.a.remove(out.id)
        world.b.remove(inward.id)
        world.a.remove_policy(entries[0])
        world.b.remove_policy(entries[1])
        assert "spi" not in world.right.run("ip", "xfrm", "state")


def a_peer_behind_a_nat_moves(world: KernelWorld) -> None:
    """ESP in UDP comes from another port than the SA says: told once, and the SA goes on after the update."""
    sockets = []
    for namespace, plane, address in (
        (world.left, world.a, "192.0.2.1"),
        (world.right, world.b, "192.0.2.2"),
    ):
        sock = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, 4500))
        plane.prepare_socket(sock, True)
        sockets.append(sock)
    fields = {"source": A, "destination": B, "encapsulated": True}
    out, inward = pair_of(0x5000, **fields)
    moved = replace(inward, source=Address(A.host, 61234))  # what b believed before the NAT forgot
    world.b.install(moved, 0)
    world.a.install(out, 0)
    world.a.add_policy(SpdEntry("c/k", Action.PROTECT, out.local_ts, out.remote_ts, 100, 1))
    world.b.add_policy(SpdEntry("c/k", Action.PROTECT, inward.local_ts, inward.remote_ts, 100, 1))
    assert world.send([10, 10]) == [10, 10]
    assert events_of(world.b, world, PeerAddressChanged) == [PeerAddressChanged(moved.id, A)]
    assert world.b.update(moved.id, A, B, True) == moved.id
    assert world.send([10]) == [10]
    world.b.read_events(0)
    assert [e for e in world.b.events() if isinstance(e, PeerAddressChanged)] == []
    counters = world.b.query(moved.id)
    assert counters is not None
    assert (counters.packets, counters.replay_errors) == (3, 0)
    for sock in sockets:
        sock.close()


def replays_and_damage_are_counted(world: KernelWorld) -> None:
    """The kernel's own counts: a number seen before, one that is too old, an ICV that is wrong."""
    _, inward = connect(world, replay_window=32)
    frames: list[bytes] = []
    with world.right.socket(socket.AF_PACKET, socket.SOCK_RAW) as tap:
        tap.bind(("wan", 0x0800))
        tap.settimeout(1)
        assert world.send([10] * 40) == [10] * 40
        while len(frames) < 40:
            frame = tap.recv(2000)
            if frame[23] == 50:
                frames.append(frame)
    with world.left.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("wan", 0))
        raw.send(frames[0])  # too old
        raw.send(frames[39])  # seen before
        damaged = bytearray(frames[39])
        damaged[-1] ^= 1
        damaged[14 + 20 + 7] += 1  # the next number
        raw.send(bytes(damaged))

    def errors() -> tuple[int, int]:
        counters = world.b.query(inward)
        assert counters is not None
        return counters.replay_errors, counters.integrity_errors

    wait_until(lambda: errors() == (2, 1), 3, "errors counted")
    there = Address(world.second_b.host)
    moved = world.b.update(inward, PLAIN_A, there, False)
    counters = world.b.query(moved)
    assert counters is not None
    assert (counters.packets, counters.replay_errors, counters.integrity_errors) == (40, 2, 1)


def another_program_interferes(world: KernelWorld) -> None:
    """Deleted SAs are told, deleted policies come back, and what is not ours is left alone."""
    out, inward = connect(world)
    world.left.ip("xfrm policy add src 10.77.0.0/24 dst 10.78.0.0/24 dir out action block priority 5")
    world.left.run("ip", "xfrm", "state", "flush")
    (gone,) = events_of(world.a, world, SaExpired)
    assert gone == SaExpired(out, True, "removed")
    assert world.a.remove(out) is not None
    world.right.run("ip", "xfrm", "policy", "flush")
    wait_until(
        lambda: world.b.read_events(world.now()) or world.b.next_timer() is not None, 2, "a repair is due"
    )
    at = world.b.next_timer()
    assert at is not None
    world.b.handle_timer(at)
    assert "dir in" in world.right.run("ip", "xfrm", "policy")
    assert world.b.query(inward) is not None
    world.a.close()
    listed = world.left.run("ip", "xfrm", "policy")
    assert "10.77.0.0/24" in listed
    assert "10.1.0.0/24" not in listed
    world.left.run("ip", "xfrm", "policy", "flush")


def a_crash_leaves_what_the_next_one_removes(world: KernelWorld) -> None:
    connect(world)
    world.left.ip("xfrm policy add src 10.77.0.0/24 dst 10.78.0.0/24 dir out action block priority 5")
    # As the kernel sees a process that died: its sockets are closed, nothing else.
    world.a._undo.close()
    world.a._closed = True
    assert "10.1.0.0/24" in world.left.run("ip", "xfrm", "policy")
    world.a = world.left.inside(lambda: XfrmDataPlane(install_routes=False))
    listed = world.left.run("ip", "xfrm", "policy")
    assert "10.77.0.0/24" in listed
    assert "10.1.0.0/24" not in listed
    assert "proto esp" not in world.left.run("ip", "xfrm", "state")
    world.left.run("ip", "xfrm", "policy", "flush")


def iproute2_agrees(world: KernelWorld) -> None:
    """What we asked for, in the words of `ip xfrm`; and what it asked for, in ours."""
    sa = describe(
        Direction.OUT,
        0x6000,
        PLAIN_A,
        PLAIN_B,
        encapsulated=False,
        esn=True,
        copy_dscp="yes",
        copy_df=False,
        reqid=9,
        mark=(0x20, 0xF0),
        local_ts=ts("10.1.0.0/25[tcp/80-81]"),
        remote_ts=ts("10.2.0.0/24"),
    )
    world.a.install(sa, 0)
    text = " ".join(world.left.run("ip", "-d", "xfrm", "state").split())
    for words in (
        "proto esp spi 0x00006000 reqid 9 mode tunnel",
        "decap-dscp nopmtudisc",
        "esn",
        "mark 0x20/0xf0",
        "rfc4106(gcm(aes))",
        "sel src 10.1.0.0/25 dst 10.2.0.0/24 proto tcp sport 80",
    ):
        assert words in text, (words, text)
    world.a.close()
    secret = "0x" + "5e" * 20
    world.left.ip(
        "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x77 reqid 5 mode transport replay-window 8 "
        f"flag noecn aead rfc4106(gcm(aes)) {secret} 128 encap espinudp 4500 4501 0.0.0.0 "
        "limit byte-soft 1000 limit packet-hard 9 sel src 192.0.2.1 dst 192.0.2.2 proto udp"
    )
    found: list[State] = []

    def visit(kind: int, body: memoryview) -> None:
        answer = read(kind, body)
        assert isinstance(answer, StateFound)
        found.append(answer.state)

    kernel = world.left.inside(Kernel)
    kernel.dump(dump_states(), visit)
    kernel.close()
    world.left.run("ip", "xfrm", "state", "flush")
    (state,) = found
    info = state.info
    assert info.id == StateId(ip_address("192.0.2.2"), 0x77, 50)
    assert (info.reqid, info.mode, info.replay_window, info.flags) == (5, 0, 8, StateFlag.NOECN)
    assert (info.limits.soft_octets, info.limits.hard_packets, info.limits.hard_octets) == (1000, 9, NO_LIMIT)
    assert info.selector == Selector(ip_address("192.0.2.1"), ip_address("192.0.2.2"), 32, 32, protocol=17)
    assert state.encapsulation == Encapsulation(4500, 4501)
    assert state.algorithms == (Algorithm(Attribute.ALG_AEAD, "rfc4106(gcm(aes))", b"", 128, 160),)


KERNEL_ONLY: tuple[Callable[[KernelWorld], None], ...] = (
    every_algorithm_of_the_kernel,
    transport_mode_and_ipcomp,
    a_peer_behind_a_nat_moves,
    replays_and_damage_are_counted,
    another_program_interferes,
    a_crash_leaves_what_the_next_one_removes,
    iproute2_agrees,
)


@contextlib.contextmanager
def wire() -> Iterator[tuple[Namespace, Namespace]]:
    with namespaces("a", "b") as (left, right):
        link(left, right)
        left.add_address("192.0.2.1/24", device="wan")
        right.add_address("192.0.2.2/24", "192.0.2.9/24", device="wan")
        left.add_address(f"{HOSTS[0]}/32")
        right.add_address(f"{HOSTS[1]}/32")
        left.ip(f"route add 10.2.0.0/24 via 192.0.2.2 src {HOSTS[0]}")
        right.ip(f"route add 10.1.0.0/24 via 192.0.2.1 src {HOSTS[1]}")
        yield left, right


def main(out: Path, wanted: list[str]) -> None:
    outcome: dict[str, str | None] = {}
    with wire() as (left, right):
        for test in (*CONTRACT, *KERNEL_ONLY):
            name = test.__name__
            if wanted and name not in wanted:
                continue
            started = time.monotonic()
            try:
                world = KernelWorld(left, right)
                try:
                    test(world)
                finally:
                    world.close()
                outcome[name] = None
            except Exception:
                outcome[name] = traceback.format_exc()
            print(f"{name}: {time.monotonic() - started:.2f} s", file=sys.stderr)
            out.write_text(json.dumps(outcome, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

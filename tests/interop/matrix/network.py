"""Checks of what lies between the two: routers that translate, forget and drop; addresses that change."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from interop.matrix.checks import total
from interop.matrix.lane import Lane
from interop.matrix.plan import CHILD, Row
from interop.matrix.probe import Counted, counted
from interop.matrix.rekeying import Flows
from lab.netns import Namespace, NetnsError
from lab.process import wait_until
from lab.router import INSIDE4, OUTSIDE4, dropped_fragments, forget
from lab.topology import WAN4

Seen = dict[str, Any]


def translated(lane: Lane, row: Row) -> Seen:
    """Behind NAT: port 4500, both ends see the other's outside address, ESP in UDP, data both ways, rekeys go on."""
    with lane.up(row):
        lane.mirrored(natted=True, selectors=row.octets)
        a, b = lane.a.ike_sa(), lane.b.ike_sa()
        if 0 in lane.ground.nat:
            assert b.raw["remote-host"] == OUTSIDE4[0], b.raw["remote-host"]
            assert int(b.raw["remote-port"]) >= 20000, b.raw["remote-port"]
            assert a.raw.get("nat-local") == "yes", "a does not know that it is behind NAT"
            assert b.raw.get("nat-remote") == "yes", "b does not know that a is behind NAT"
        else:
            assert b.raw["remote-host"] == INSIDE4[0]
        if 1 in lane.ground.nat:
            assert a.raw["remote-host"] == OUTSIDE4[1], a.raw["remote-host"]
            assert b.raw.get("nat-local") == "yes", "b does not know that it is behind NAT"
            assert a.raw.get("nat-remote") == "yes", "a does not know that b is behind NAT"
        assert a.raw["remote-port"] == "4500", a.raw["remote-port"]
        assert lane.ours.child(CHILD).raw.get("encap") == "yes", "ESP is not in UDP"
        sources = inside(lane, row)
        first = lane.moved(sources) if row.octets else both_ways_outside(lane)
        old = lane.a.child(CHILD).spis
        lane.command(1, "rekey", child=CHILD)
        lane.a.wait_other_child(old, CHILD, 8 * lane.patience)
        lane.b.wait_other_child(old[::-1], CHILD, 8 * lane.patience)
        ike = lane.a.ike_sa().spis
        lane.command(0, "rekey", ike="row")
        for gateway in lane.gateways:
            gateway.wait_one_ike_sa(not_spis=ike, timeout=8 * lane.patience)
        second = lane.moved(sources) if row.octets else both_ways_outside(lane)
    return total(first, second)


def both_ways_outside(lane: Lane) -> Counted:
    """Transport mode: each end sends to the address that it knows of the other, which the routers translate.

    The UDP checksums are those of the sender's addresses: they only fit when the receiver mends them (RFC 7296 2.23.1).
    """
    forth = lane.moved_to(0, outside(lane, 1), INSIDE4[1])
    back = lane.moved_to(1, outside(lane, 0), INSIDE4[0])
    return Counted(forth.sent + back.sent, forth.lost + back.lost, forth.octets + back.octets)


def inside(lane: Lane, row: Row) -> tuple[str, str]:
    return lane.ends_of(row.ends.ts)


def outside(lane: Lane, end: int) -> str:
    return OUTSIDE4[end] if end in lane.ground.nat else INSIDE4[end]


def rebound(lane: Lane, row: Row) -> Seen:
    """The router forgets the translation: the next packets come from another port, and b follows."""
    assert lane.routers is not None
    with lane.up(row):
        sources = inside(lane, row)
        first = lane.moved(sources)
        ports = [lane.b.ike_sa().raw["remote-port"]]
        for _ in range(3):
            forget(lane.routers.ra)
            left, right = lane.namespaces
            deadline = time.monotonic() + 6 * lane.patience
            while True:  # traffic from inside opens the way again; liveness tells strongSwan's IKE_SA
                forth = counted(left, right, *sources, [100], timeout=0.5)
                back = counted(right, left, *sources[::-1], [100], timeout=0.5)
                if not forth.lost and not back.lost:
                    break
                assert time.monotonic() < deadline, "no data after the router forgot"
            ports.append(lane.b.ike_sa().raw["remote-port"])
        wait_until(
            lambda: lane.b.ike_sa().raw["remote-port"] != ports[0], 5 * lane.patience, "b lists another port"
        )
        second = lane.moved(sources)
        assert lane.a.ike_sa().spis == lane.b.ike_sa().spis
    return total(first, second)


def fragmented(lane: Lane, row: Row) -> Seen:
    """It comes up over a path that drops fragments, and no fragment was ever sent."""
    assert lane.routers is not None
    before = [dropped_fragments(router) for router in lane.routers.both()]
    started = time.monotonic()
    with lane.up(row):
        took = time.monotonic() - started
        assert [dropped_fragments(router) for router in lane.routers.both()] == before, (
            "IP fragments were sent"
        )
        assert took < 3 * lane.patience, f"it took {took:.1f} s: something was sent again"
        lane.mirrored()
        moved = lane.moved(lane.ends_of(row.ends.ts))
    return total(moved)


def dropped(lane: Lane, row: Row) -> Seen:
    """The control: without IKE fragmentation it does not come up, and fragments are dropped."""
    assert lane.routers is not None
    before = sum(dropped_fragments(router) for router in lane.routers.both())
    with lane.loaded(row.ends):
        try:
            lane.initiate(timeout=2.5)
        except AssertionError:
            pass
        else:
            raise AssertionError("it came up")
        assert sum(dropped_fragments(router) for router in lane.routers.both()) > before
    return {}


def moves(lane: Lane, row: Row) -> Seen:
    """a gets another address and loses the first, three times, while traffic flows; then nothing more is lost."""
    v6 = row.ends.v6
    names = ["fd98:1::2", "fd98:1::3"] if v6 else ["10.98.1.2", "10.98.1.3"]
    length = 64 if v6 else 24
    here = lane.namespaces[0]
    # Only one version: charon would go on with the other, which stays.
    here.ip("addr del 10.98.1.2/24 dev wan" if v6 else "addr del fd98:1::2/64 dev wan")
    sources = lane.ends_of(row.ends.ts)
    # Any address of a's network: strongSwan as responder would not take another one than its configuration names.
    ends = (
        ("%any", lane.addresses6[0][1] if v6 else INSIDE4[1]),
        (lane.addresses6[1][0] if v6 else INSIDE4[1], "%any"),
    )
    try:
        with lane.up(row, addresses=ends):
            lane.mirrored()
            ike, spis = lane.a.ike_sa().spis, lane.a.child(CHILD).spis
            with Flows(lane, row) as flows:
                for step in range(3):
                    old, new = names[step % 2], names[1 - step % 2]
                    time.sleep(0.3)
                    move(here, old, new, length, v6)

                    def moved(new: str = new) -> bool:
                        return (
                            lane.a.ike_sa().raw["local-host"] == new
                            and lane.b.ike_sa().raw["remote-host"] == new
                        )

                    wait_until(moved, 10 * lane.patience, f"both ends list a at {new}")
                    time.sleep(0.3)
                settled = flows.flows[0].sent
            sent, lost = sum(f.sent for f in flows.flows), sum(len(f.lost) for f in flows.flows)
            late = [n for n in flows.flows[0].lost if n >= settled]
            assert not late, f"datagrams {late[:5]} were lost after the last move"
            assert lane.a.ike_sa().spis == lane.b.ike_sa().spis == ike, "another IKE_SA"
            if (
                lane.peer_kind == "kernel"
            ):  # kernel-libipsec cannot move an SA: strongSwan makes another child
                assert lane.a.child(CHILD).spis == spis, "another child"
            lane.mirrored()
            lane.moved(sources)
            return {"sent": sent, "lost": lost}
    finally:
        with contextlib.suppress(NetnsError):
            if names[1] in here.run("ip", "addr", "show", "dev", "wan"):
                move(here, names[1], names[0], length, v6)
        if v6:
            here.ip("addr add 10.98.1.2/24 dev wan", "route add default via 10.98.1.1")
        else:
            add_v6(here)


def add_v6(namespace: Namespace) -> None:
    """Give a its IPv6 address back."""
    namespace.ip("addr add fd98:1::2/64 dev wan nodad")
    with contextlib.suppress(NetnsError):
        namespace.ip("route add ::/0 via fd98:1::1 dev wan")


def move(namespace: Namespace, old: str, new: str, length: int, v6: bool) -> None:
    """Add the new address, take the old one away; routes through a stay or are set again."""
    if v6:
        namespace.ip(f"addr add {new}/{length} dev wan nodad", f"addr del {old}/{length} dev wan")
        with contextlib.suppress(NetnsError):
            namespace.ip("route add ::/0 via fd98:1::1 dev wan")
    else:
        namespace.ip(f"addr add {new}/{length} dev wan", f"addr del {old}/{length} dev wan")
        with contextlib.suppress(NetnsError):
            namespace.ip("route add default via 10.98.1.1")


def responder_moves(lane: Lane, row: Row) -> Seen:
    """b, which a called, has a second address and loses the first: it tells a, and a moves both there."""
    here, there = lane.namespaces
    old, new = INSIDE4[1], "10.98.2.3"
    here.ip("addr del fd98:1::2/64 dev wan")  # one of them would go on with IPv6
    there.ip(f"addr add {new}/24 dev wan")
    ends = (("%any", old), ("%any", INSIDE4[0]))
    try:
        time.sleep(0.3)
        with lane.up(row, addresses=ends):
            lane.mirrored()
            ike = lane.a.ike_sa().spis
            sources = lane.ends_of(row.ends.ts)
            first = lane.moved(sources)
            there.ip(f"addr del {old}/24 dev wan")
            with contextlib.suppress(
                NetnsError
            ):  # it may have gone with the first, which was the primary one
                there.ip(f"addr add {new}/24 dev wan")
            with contextlib.suppress(NetnsError):
                there.ip("route add default via 10.98.2.1")

            def moved() -> bool:
                ends = (lane.a.ike_sa().raw["remote-host"], lane.b.ike_sa().raw["local-host"])
                return ends == (new, new)

            wait_until(moved, 10 * lane.patience, f"both ends list b at {new}")
            time.sleep(0.3)
            assert lane.a.ike_sa().spis == lane.b.ike_sa().spis == ike, "another IKE_SA"
            lane.mirrored()
            return total(first, lane.moved(sources))
    finally:
        with contextlib.suppress(NetnsError):
            there.ip(f"addr del {new}/24 dev wan")
        with contextlib.suppress(NetnsError):
            there.ip(f"addr add {old}/24 dev wan")
        with contextlib.suppress(NetnsError):
            there.ip("route add default via 10.98.2.1")
        add_v6(here)


def moves_behind_nat(lane: Lane, row: Row) -> Seen:
    """a changes its address inside; b sees only another port of the router."""
    here = lane.namespaces[0]
    ends = (("%any", outside(lane, 1)), (INSIDE4[1], "%any"))
    here.ip("addr del fd98:1::2/64 dev wan")
    try:
        with lane.up(row, addresses=ends):
            sources = lane.ends_of(row.ends.ts)
            first = lane.moved(sources)
            move(here, "10.98.1.2", "10.98.1.3", 24, False)
            wait_until(
                lambda: lane.a.ike_sa().raw["local-host"] == "10.98.1.3",
                10 * lane.patience,
                "a lists its address",
            )
            left, right = lane.namespaces
            deadline = time.monotonic() + 10 * lane.patience
            while True:
                forth = counted(left, right, *sources, [100], timeout=0.5)
                back = counted(right, left, *sources[::-1], [100], timeout=0.5)
                if not forth.lost and not back.lost:
                    break
                assert time.monotonic() < deadline, "no data after the move"
            return total(first, lane.moved(sources))
    finally:
        with contextlib.suppress(NetnsError):
            if "10.98.1.3" in here.run("ip", "addr", "show", "dev", "wan"):
                move(here, "10.98.1.3", "10.98.1.2", 24, False)
        add_v6(here)


def redirected(lane: Lane, row: Row) -> Seen:
    """b sends a, whose IKE_SA stands, to another address of its own (RFC 5685); a follows with all it had."""
    elsewhere = "10.99.0.12"
    lane.namespaces[1].add_address(f"{elsewhere}/24", device="wan")
    try:
        time.sleep(0.3)
        addresses = (WAN4, (f"{WAN4[1]},{elsewhere}", WAN4[0]))
        with lane.up(row, addresses=addresses):
            lane.mirrored()
            first = lane.moved(lane.ends_of(row.ends.ts))
            old = lane.a.ike_sa().spis
            lane.command(1, "redirect", ike="row", gateway=elsewhere)

            def there() -> bool:
                sas = lane.a.established()
                return (
                    len(sas) == 1 and sas[0].raw["remote-host"] == elsewhere and bool(lane.a.children(CHILD))
                )

            wait_until(there, 10 * lane.patience, "a is at the other address")
            for gateway in lane.gateways:
                gateway.wait_one_ike_sa(not_spis=old, timeout=8 * lane.patience)
            lane.mirrored()
            return total(first, lane.moved(lane.ends_of(row.ends.ts)))
    finally:
        lane.namespaces[1].ip(f"addr del {elsewhere}/24 dev wan")

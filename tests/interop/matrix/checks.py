"""What is checked on a row's SAs. Each check brings the connection up itself and says what it saw: packets, losses."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

from interop.matrix.lane import Lane
from interop.matrix.plan import CHILD, CONN, Row
from interop.matrix.probe import Counted
from lab.capture import Capture
from lab.process import wait_until

Seen = dict[str, Any]


def negotiated(lane: Lane, row: Row) -> None:
    """What the row's configuration asks for is what both ends list: mode, protocol, ESN."""
    child = {**row.ends.child}
    words = str(child.get("ah_proposals", row.ends.esp)).split("-")
    for seen in lane.mirrored(natted=lane.ground.nat != frozenset()):
        assert seen.raw["mode"] == str(child.get("mode", "tunnel")).upper(), seen.raw["mode"]
        assert seen.raw["protocol"] == ("AH" if "ah_proposals" in child else "ESP"), seen.raw["protocol"]
        assert (seen.raw.get("esn") == "1") == ("esn" in words), f"esn: {seen.raw.get('esn')}"


def carries(lane: Lane, row: Row) -> Seen:
    """Up, mirrored, data both ways with exact counters."""
    with lane.up(row):
        negotiated(lane, row)
        moved = lane.moved(lane.ends_of(row.ends.ts), octets=row.octets)
    return {"sent": moved.sent, "lost": moved.lost}


def carries_over_rekey(lane: Lane, row: Row) -> Seen:
    """As `carries`, then the child is rekeyed by a with its own key exchange, and data flows again."""
    with lane.up(row):
        lane.mirrored()
        first = lane.moved(lane.ends_of(row.ends.ts), octets=row.octets)
        old = lane.a.child(CHILD).spis
        lane.command(0, "rekey", child=CHILD)
        lane.a.wait_other_child(old, CHILD, 8 * lane.patience)
        lane.b.wait_other_child(old[::-1], CHILD, 8 * lane.patience)
        a, b = lane.mirrored()
        group = a.raw.get("dh-group"), b.raw.get("dh-group")
        assert group[0] == group[1], group
        assert group[0], "the rekeyed child has no group"
        second = lane.moved(lane.ends_of(row.ends.ts), octets=row.octets)
    return {"sent": first.sent + second.sent, "lost": first.lost + second.lost}


def refused(lane: Lane, row: Row) -> Seen:
    """It does not come up on either end.

    A responder whose peer just goes away keeps a half-open IKE_SA until its time-out: nobody tells it.
    """
    with lane.loaded(row.ends):
        try:
            lane.initiate(timeout=5)
        except AssertionError:
            pass
        else:
            raise AssertionError("it came up")
        lane.a.wait_no_sa(6 * lane.patience)
        states = {sa.state for sa in lane.b.ike_sas()}
        assert states <= {"CONNECTING"}, states
        assert lane.b.children(state=None) == []
    return {}


def post_quantum(lane: Lane, row: Row) -> Seen:
    """As `carries`; both ends say that a PPK went into the keys."""
    with lane.up(row):
        assert lane.theirs.ike_sa().raw.get("ppk") == "yes", "strongSwan lists no PPK"
        lane.mirrored()
        moved = lane.moved(lane.ends_of(row.ends.ts))
    return {"sent": moved.sent, "lost": moved.lost}


def signed(scheme: str) -> Callable[[Lane, Row], Seen]:
    """As `carries`; strongSwan's log names the scheme for its own signature and for ours."""

    def check(lane: Lane, row: Row) -> Seen:
        before = len(lane.theirs.log())
        with lane.up(row):
            lane.mirrored()
            said = lane.theirs.log()[before:]
            for what in (f"(myself) with {scheme}", f"with {scheme} successful"):
                assert what in said, f"strongSwan's log has no '{what}'"
            moved = lane.moved(lane.ends_of(row.ends.ts))
        return {"sent": moved.sent, "lost": moved.lost}

    return check


def total(*moves: Counted) -> Seen:
    return {"sent": sum(m.sent for m in moves), "lost": sum(m.lost for m in moves)}


def pairs_of_selectors(lane: Lane, row: Row) -> Seen:
    """Data between each pair of networks of one family that the child's selectors name, both ways."""
    left, right = (side.split(",") for side in row.ends.ts)
    moves = []
    with lane.up(row):
        lane.mirrored()
        for ours in left:
            for theirs in right:
                if (":" in ours) == (":" in theirs):
                    moves.append(lane.moved(lane.ends_of((ours, theirs)), octets=row.octets))
    return total(*moves)


def each_child(lane: Lane, row: Row) -> Seen:
    """Further children on the same IKE_SA, data through each, one deleted and the others go on."""
    with lane.up(row):
        moves = [lane.moved(lane.ends_of(row.ends.ts))]
        for name, ts in row.ends.more.items():
            lane.initiate(name)
            for gateway in lane.gateways:
                gateway.wait_child(name, 5 * lane.patience)
            lane.mirrored(name)
            moves.append(lane.moved(lane.ends_of(ts), name))
        assert [len(gateway.ike_sas()) for gateway in lane.gateways] == [1, 1]
        lane.command(1, "terminate", child=CHILD)
        for gateway in lane.gateways:
            wait_until(lambda g=gateway: not g.children(CHILD, None), 3 * lane.patience, "the child is gone")
        for name, ts in row.ends.more.items():
            moves.append(lane.moved(lane.ends_of(ts), name))
    return total(*moves)


def virtual_address(prefix: str) -> Callable[[Lane, Row], Seen]:
    """a gets an address of b's pool, both list it, and it is what data is sent from."""

    def check(lane: Lane, row: Row) -> Seen:
        with lane.up(row):
            lane.mirrored()
            (mine,) = lane.a.ike_sa().raw["local-vips"]
            assert lane.b.ike_sa().raw["remote-vips"] == [mine]
            assert mine.startswith(prefix), mine
            bits = 128 if ":" in mine else 32
            assert lane.a.child(CHILD).raw["local-ts"] == [f"{mine}/{bits}"]
            moved = lane.moved((mine, lane.ends_of(row.ends.ts[1:] * 2)[0]), octets=False)
        return total(moved)

    return check


def childless(lane: Lane, row: Row) -> Seen:
    """An IKE_SA without children (RFC 6023), then a child of it, with its own key exchange."""
    with lane.loaded(row.ends):
        with lane.a.vici(20 * lane.patience) as session:
            for _ in session.initiate({"ike": CONN, "timeout": "8000"}):
                pass
        for gateway in lane.gateways:
            gateway.wait_one_ike_sa(timeout=5 * lane.patience)
            assert gateway.ike_sa().children == ()
        lane.initiate()
        for gateway in lane.gateways:
            gateway.wait_child(CHILD, 5 * lane.patience)
            assert len(gateway.ike_sas()) == 1
        lane.mirrored()
        return total(lane.moved(lane.ends_of(row.ends.ts)))


def compressed(lane: Lane, row: Row) -> Seen:
    """IPComp (RFC 3173): strongSwan lists the two CPIs, and large packets are small on the wire from both ends."""
    with lane.up(row):
        negotiated(lane, row)
        listed = lane.theirs.child(CHILD).raw
        assert listed.get("cpi-in"), "strongSwan lists no CPI"
        assert listed.get("cpi-out"), "strongSwan lists no CPI"
        sources = lane.ends_of(row.ends.ts)
        with Capture(lane.namespaces[lane.us], lane.ours.folder / "ipcomp.pcap") as capture:
            moved = lane.moved(sources, octets=False, sizes=(1200, 1250, 1300, 1350))
        lengths = esp_lengths(capture)
        assert len(lengths) == 2, f"ESP seen from {sorted(lengths)}"
        assert all(max(found) < 700 for found in lengths.values()), f"lengths on the wire: {lengths}"
        # What would not get smaller is sent as it is.
        small = lane.moved(sources, octets=False, sizes=(8, 16, 24, 40))
    return total(moved, small)


def padded(lane: Lane, row: Row) -> Seen:
    """TFC padding: ESP packets have one length on the wire whatever was sent, from both ends."""
    with lane.up(row):
        lane.mirrored()
        with Capture(lane.namespaces[lane.us], lane.ours.folder / "tfc.pcap") as capture:
            moved = lane.moved(lane.ends_of(row.ends.ts), octets=False, sizes=(40, 100, 333, 700))
        lengths = {way: sorted(found) for way, found in esp_lengths(capture).items()}
        assert len(lengths) == 2, f"ESP seen from {sorted(lengths)}"
        assert all(len(found) == 1 for found in lengths.values()), f"lengths on the wire: {lengths}"
    return total(moved)


def esp_lengths(capture: Capture) -> dict[str, set[int]]:
    """Source address in hexadecimal -> lengths of its IP packets with protocol 50."""
    found: dict[str, set[int]] = {}
    for _, frame in capture.frames:
        packet = frame[14:]
        if frame[12:14] == b"\x08\x00" and packet[9] == 50:
            found.setdefault(packet[12:16].hex(), set()).add(int.from_bytes(packet[2:4], "big"))
        if frame[12:14] == b"\x86\xdd" and packet[6] == 50:
            found.setdefault(packet[8:24].hex(), set()).add(int.from_bytes(packet[4:6], "big"))
    return found


def child_refused(lane: Lane, row: Row) -> Seen:
    """The child is refused on both ends; the IKE_SA stands and is the same on both."""
    with lane.loaded(row.ends):
        try:
            lane.initiate(timeout=5)
        except AssertionError:
            pass
        else:
            raise AssertionError("the child came up")
        for gateway in lane.gateways:
            gateway.wait_one_ike_sa(timeout=3 * lane.patience)
            assert not gateway.children(), "a child is installed"
        assert lane.a.ike_sa().spis == lane.b.ike_sa().spis
    return {}


IKE_SA_INIT, NOTIFY, COOKIE = 34, 41, 16390


def init_requests(capture: Capture) -> list[bytes]:
    """IKE_SA_INIT requests in UDP over IPv4, in order."""
    found = []
    for _, frame in capture.frames:
        message = frame[42:]
        to_500 = frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] == b"\x01\xf4"
        if to_500 and len(message) > 36 and message[18] == IKE_SA_INIT and not message[19] & 0x20:
            found.append(message)
    return found


def has_cookie(message: bytes) -> bool:
    return message[16] == NOTIFY and int.from_bytes(message[34:36], "big") == COOKIE


def cookie_demanded(lane: Lane, row: Row) -> Seen:
    """b has a half-open IKE_SA of somebody else and demands a cookie (RFC 7296 2.6); a brings it and gets in."""
    with Capture(lane.namespaces[0], lane.a.folder / "init.pcap") as capture, lane.up(row):
        pass
    first = init_requests(capture)[-1]
    stranger = lane.namespaces[0].socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        with (
            Capture(lane.namespaces[0], lane.a.folder / "cookie.pcap") as capture,
            lane.loaded(row.ends),
        ):
            stranger.bind((lane.addresses4[0][0], 5500))
            for _ in range(3):
                stranger.sendto(os.urandom(8) + first[8:], (lane.addresses4[0][1], 500))
            time.sleep(0.2 * lane.patience)
            lane.initiate()
            for gateway in lane.gateways:
                gateway.wait_child(CHILD, 5 * lane.patience)
            moved = lane.moved(lane.ends_of(row.ends.ts))
    finally:
        stranger.close()
    spi = next(m[:8] for m in reversed(init_requests(capture)) if has_cookie(m))
    own = [has_cookie(m) for m in init_requests(capture) if m[:8] == spi]
    assert own[0] is False, "a cookie before one was demanded"
    assert own[-1] is True, "no cookie in the last request"
    return total(moved)

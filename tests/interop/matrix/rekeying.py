"""Checks of rekeying: who asks, what flows meanwhile, and that both ends are left with one of each."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from interop.matrix.lane import Lane
from interop.matrix.plan import CHILD, CONN, Row
from interop.matrix.probe import counted
from lab.process import wait_until
from lab.traffic import EchoFlow

What = Literal["child", "ike"]
Seen = dict[str, Any]
TIMES = 4
REAUTHENTICATION_MAY_LOSE = 2
"""IKE_AUTH tells its responder nothing of when the initiator has the new SA: what the responder sends on it before is
lost (RFC 7296 2.8 has the initiator of a CREATE_CHILD_SA install first). strongSwan sends at once."""


class Flows:
    """Echoed flows both ways while something happens; `seen` fails the row for a lost or repeated datagram."""

    def __init__(self, lane: Lane, row: Row) -> None:
        left, right = lane.namespaces
        a, b = lane.ends_of(row.ends.ts)
        rate = 200.0 / lane.patience**2
        self.drain = 2.0 * lane.patience
        self.flows = (
            EchoFlow(left, right, a, b, rate=rate),
            EchoFlow(right, left, b, a, rate=rate, port=7010),
        )

    def __enter__(self) -> Flows:
        for flow in self.flows:
            flow.start()
        return self

    def __exit__(self, *_: object) -> None:
        for flow in self.flows:
            flow.stop(self.drain)

    def seen(self, may_lose: int = 0) -> Seen:
        sent = sum(flow.sent for flow in self.flows)
        lost = sum(len(flow.lost) for flow in self.flows)
        repeated = sum(len(flow.repeated) for flow in self.flows)
        errors = [str(error) for flow in self.flows for error in flow.errors]
        assert not errors, errors[0]
        assert not repeated, f"{repeated} of {sent} datagrams came twice"
        assert lost <= may_lose, f"{lost} of {sent} echoed datagrams lost: {[f.lost[:8] for f in self.flows]}"
        return {"sent": sent, "lost": lost}


def who(lane: Lane, name: str) -> int:
    return lane.us if name == "us" else lane.peer


def key_of(lane: Lane, what: What) -> tuple[str, str]:
    return lane.a.child(CHILD).spis if what == "child" else lane.a.ike_sa().spis


def wait_changed(lane: Lane, what: What, old: tuple[str, str], timeout: float = 8.0) -> None:
    seconds = timeout * lane.patience
    if what == "child":
        lane.a.wait_other_child(old, CHILD, seconds)
        lane.b.wait_other_child(old[::-1], CHILD, seconds)
    else:
        for gateway in lane.gateways:
            gateway.wait_one_ike_sa(not_spis=old, timeout=seconds)


def ask(lane: Lane, end: int, what: What) -> None:
    lane.command(end, "rekey", **({"child": CHILD} if what == "child" else {"ike": CONN}))


def by_command(what: What, name: str) -> Callable[[Lane, Row], Seen]:
    """Four rekeys on command under traffic."""

    def check(lane: Lane, row: Row) -> Seen:
        with lane.up(row):
            with Flows(lane, row) as flows:
                for _ in range(TIMES):
                    old = key_of(lane, what)
                    time.sleep(0.1)
                    ask(lane, who(lane, name), what)
                    wait_changed(lane, what, old)
                time.sleep(0.1)
            seen = flows.seen()
            lane.alone(deleted=True)
            lane.mirrored()
        return seen

    return check


def by_lifetime(what: What) -> Callable[[Lane, Row], Seen]:
    """Two rekeys by rekey_time under traffic."""

    def check(lane: Lane, row: Row) -> Seen:
        with lane.up(row):
            with Flows(lane, row) as flows:
                for _ in range(2):
                    old = key_of(lane, what)
                    wait_changed(lane, what, old)
            seen = flows.seen()
            lane.mirrored()
        return seen

    return check


def by_octets(lane: Lane, row: Row) -> Seen:
    """300,000 octets go over an SA, and another one takes its place; a flow goes on meanwhile."""
    with lane.up(row):
        old = lane.a.child(CHILD).spis
        sent = 0
        with Flows(lane, row) as flows:
            deadline = time.monotonic() + 20 * lane.patience
            while [c.spis for c in lane.a.children(CHILD)] == [old]:
                assert time.monotonic() < deadline, f"no rekey after {sent} octets and more"
                moved = burst(lane, row)
                sent += moved
            wait_changed(lane, "child", old)
        seen = flows.seen()
        assert sent >= 200_000, f"rekeyed after {sent} octets already"
        lane.mirrored()
    return seen


def burst(lane: Lane, row: Row) -> int:
    """Twenty datagrams of 1000 octets from a to b; octets sent."""
    left, right = lane.namespaces
    a, b = lane.ends_of(row.ends.ts)
    moved = counted(left, right, a, b, [1000] * 20, port=7020, timeout=3 * lane.patience)
    assert not moved.lost, f"{moved.lost} of {moved.sent} datagrams lost"
    return moved.octets


def reauthenticated(name: str) -> Callable[[Lane, Row], Seen]:
    """A new IKE_SA with authentication, the old one deleted when it stands; nothing is lost."""

    def check(lane: Lane, row: Row) -> Seen:
        with lane.up(row):
            ike, child = lane.a.ike_sa().spis, lane.a.child(CHILD).spis
            with Flows(lane, row) as flows:
                time.sleep(0.1)
                lane.command(who(lane, name), "rekey", ike=CONN, reauth="yes")

                def through() -> bool:
                    found = [gateway.ike_sas() for gateway in lane.gateways]
                    return all(
                        len(sas) == 1 and sas[0].state == "ESTABLISHED" and sas[0].spis != ike
                        for sas in found
                    )

                wait_until(through, 10 * lane.patience, "another IKE_SA alone on both ends")
                time.sleep(0.2)
            seen = flows.seen(REAUTHENTICATION_MAY_LOSE)
            assert lane.a.child(CHILD).spis != child, "the child was not made anew"
            lane.alone()
            lane.mirrored()
        return seen

    return check


def at_once(ours: What, theirs: What, rounds: int, traffic: bool = False) -> Callable[[Lane, Row], Seen]:
    """Both ends ask for a rekey in the same moment; each time one IKE_SA and one child are left on both ends.

    The wire holds frames back long enough for the requests to cross; that they did is seen from the wire.
    """

    def check(lane: Lane, row: Row) -> Seen:
        crossed = 0
        with lane.up(row), contextlib.ExitStack() as stack:
            flows = stack.enter_context(Flows(lane, row)) if traffic else None
            for number in range(rounds):
                keys = (key_of(lane, "ike"), key_of(lane, "child"))
                with watched(lane) as requests:
                    both(lane, ours, theirs)
                    time.sleep(2 * lane.latency)
                    settle(lane, keys, number, ours == theirs)
                crossed += crossing(requests, lane.latency)
            seen = finish(lane, row, stack, flows)
        enough = rounds * (0.8 if rounds > 10 else 0.5)
        assert crossed >= enough, f"only {crossed} of {rounds} pairs of requests crossed"
        return seen

    return check


def both(lane: Lane, ours: What, theirs: What) -> None:
    """Ask both daemons in the same moment."""
    barrier = threading.Barrier(2)

    def one(end: int, what: What) -> None:
        barrier.wait()
        lane.fire(end, "rekey", **({"child": CHILD} if what == "child" else {"ike": CONN}))

    threads = [
        threading.Thread(target=one, args=(lane.us, ours)),
        threading.Thread(target=one, args=(lane.peer, theirs)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def settle(lane: Lane, old: tuple[tuple[str, str], tuple[str, str]], number: int, must_change: bool) -> None:
    """Until something has changed and both ends agree on one of each.

    `must_change`: false where both requests may be refused (RFC 7296 2.25.2: a child while the IKE_SA is rekeyed).
    """

    def changed() -> bool:
        sas, children = lane.a.established(), lane.a.children(CHILD)
        return bool(sas and children) and (sas[0].spis, children[0].spis) != old

    try:
        if must_change:
            wait_until(changed, 8 * lane.patience, "something is rekeyed")
        else:
            time.sleep(4 * lane.latency)
        lane.alone(12, deleted=True)
    except AssertionError as error:
        raise AssertionError(f"round {number + 1}: {error}") from None


def finish(lane: Lane, row: Row, stack: contextlib.ExitStack, flows: Flows | None) -> Seen:
    """Nothing is left over after a while either, and data flows."""
    time.sleep(0.5)
    for left in (2, 1, 0):  # what was refused for a while is tried again, which may be just now
        try:
            lane.alone(12)
            lane.mirrored()
            break
        except (AssertionError, ValueError):
            if not left:
                raise
            time.sleep(1)
    stack.close()
    if flows is not None:
        return flows.seen()
    moved = lane.moved(lane.ends_of(row.ends.ts))
    return {"sent": moved.sent, "lost": moved.lost}


@contextlib.contextmanager
def watched(lane: Lane) -> Iterator[list[tuple[float, int]]]:
    """Collects (time, way) of each CREATE_CHILD_SA request that enters the wire."""
    requests: list[tuple[float, int]] = []
    assert lane.delay is not None

    def look(way: int, frame: bytes) -> bool:
        # Ethernet, IPv4 without options, UDP; then the IKE header, behind four zeros on port 4500.
        if frame[12:14] == b"\x08\x00" and frame[23] == 17 and len(frame) > 70:
            at = 46 if frame[42:46] == b"\0\0\0\0" else 42
            if frame[at + 18] == 36 and not frame[at + 19] & 0x20:
                requests.append((time.monotonic(), way))
        return False

    lane.delay.drop = look
    try:
        yield requests
    finally:
        lane.delay.drop = lambda way, frame: False


def crossing(requests: list[tuple[float, int]], latency: float) -> bool:
    """Whether a request of each way entered the wire before the other could have arrived."""
    first = [min((when for when, way in requests if way == end), default=None) for end in (0, 1)]
    return first[0] is not None and first[1] is not None and abs(first[0] - first[1]) < latency

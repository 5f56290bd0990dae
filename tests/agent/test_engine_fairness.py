"""Whose datagram is next when a flood has filled the socket."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter

from agent.engine.fairness import MAX_KNOWN, FairQueue


def drained(queue: FairQueue[str]) -> list[str]:
    return list(iter(queue.take, None))


def test_one_after_the_other() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.put("a", 1, f"a1{number}")
    queue.put("a", 2, "a20")
    queue.put("b", 1, "b10")
    assert len(queue) == 5
    assert drained(queue) == ["a10", "b10", "a20", "a11", "a12"]
    assert queue.take() is None
    assert len(queue) == queue.dropped == 0


def test_who_was_answered_before_comes_first() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.known("good")
    for number in range(100):
        queue.put(f"10.0.0.{number}", 1, "stranger")
    queue.put("good", 1, "good")
    assert queue.take() == "good"


def test_a_flooder_leaves_the_others_places() -> None:
    queue: FairQueue[str] = FairQueue(limit=100, of_host=50)
    for number in range(1000):
        queue.put("flooder", number % 3, "flood")
        if number % 100 == 0:
            assert queue.put("polite", 5, f"polite {number}")
    got = drained(queue)
    assert [item for item in got if item != "flood"] == [f"polite {n}" for n in range(0, 1000, 100)]
    assert len(got) == 60
    assert queue.dropped == 950
    # in the first of them, all polite ones: every second turn is theirs
    assert got[:20].count("flood") == 10


def test_a_port_of_the_flooder_s_own_host_gets_its_turn() -> None:
    queue: FairQueue[str] = FairQueue(limit=100, of_host=50)
    for _ in range(1000):
        queue.put("host", 1, "flood")
    assert queue.put("host", 2, "polite")
    assert "polite" in [queue.take(), queue.take()]
    assert len(queue) == 48


def test_strangers_without_number_do_not_take_a_known_host_s_place() -> None:
    queue: FairQueue[str] = FairQueue(limit=100, of_host=50)
    queue.known("polite")
    chance = random.Random(1)
    for number in range(5000):
        queue.put(f"{chance.randrange(256)}.{chance.randrange(256)}.1.1", chance.randrange(65536), "flood")
        if number % 500 == 0:
            assert queue.put("polite", 5, "polite")
    assert drained(queue).count("polite") == 10
    assert len(queue) == 0


def test_known_hosts_share_among_themselves() -> None:
    queue: FairQueue[str] = FairQueue(limit=100, of_host=90)
    for host in ("greedy", "modest"):
        queue.known(host)
    for _ in range(200):
        queue.put("greedy", 1, "greedy")
    for _ in range(40):
        assert queue.put("modest", 1, "modest")
    assert Counter(drained(queue)) == {"greedy": 60, "modest": 40}


def test_memory_and_bounds_under_anything() -> None:
    chance = random.Random(2)
    queue: FairQueue[bytes] = FairQueue(limit=200, of_host=60)
    tracemalloc.start()
    try:
        put = took = 0
        for step in range(50_000):
            host = f"10.{chance.randrange(4)}.0.{chance.randrange(1 << chance.randrange(1, 9))}"
            put += queue.put(host, chance.randrange(3), b"x")
            if chance.random() < 0.1:
                took += queue.take() is not None
            if step % 100 == 0:
                queue.known(f"172.16.{chance.randrange(256)}.{chance.randrange(256)}")
            assert len(queue) <= 200
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 500_000
    left = len(drained_bytes(queue))
    assert 0 < left <= 200
    # whatever came in was taken out, or is counted as dropped
    assert took + left + queue.dropped == 50_000
    for number in range(MAX_KNOWN * 2):
        queue.known(str(number))
    assert len(queue._known) == MAX_KNOWN


def drained_bytes(queue: FairQueue[bytes]) -> list[bytes]:
    return list(iter(queue.take, None))

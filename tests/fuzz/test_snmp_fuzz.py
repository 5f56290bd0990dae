"""The SNMP fuzzer's corpus replayed, a short run of it, and proof that it reaches what it is for."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from smi_support import request, v2c
from snmp_fuzz import CORPUS, Coverage, corpus, own_loop
from snmp_mutate import mutate, parse
from snmp_seeds import all_seeds
from snmp_target import Finding, Target

from agent.engine import dispatcher
from agent.engine.pdu import GET

SECONDS = 6.0


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path)
    yield made
    made.close()


def test_the_corpus_is_what_its_generator_makes() -> None:
    kept = {path.stem: path.read_bytes() for path in CORPUS.glob("*.bin")}
    for name, data in all_seeds():
        assert kept.get(name) == data, f"run tests/fuzz/snmp_seeds.py: {name} differs"
    # what is not made is what was found, and is named so
    assert all(name.startswith("found-") for name in set(kept) - {name for name, _ in all_seeds()})


def test_replay(target: Target) -> None:
    broken = []
    for path in sorted(CORPUS.glob("*.bin")):
        try:
            target.one(path.read_bytes())
        except Exception as error:
            broken.append(f"{path.stem}: {error!r}")
    assert not broken, "\n".join(broken)


def test_seeds_reach_what_they_are_for(target: Target) -> None:
    """Every mode is answered for a well-formed PDU, so that mutations of it get as deep."""
    get = request(GET, [(1, 3, 6, 1, 2, 1, 1, 5, 0)])
    for mode in (1, 2, 3, 4, 5):
        before = target.answered
        target.one(bytes((mode,)) + get)
        assert target.answered == before + 1, mode
    before = target.compared
    target.one(b"\x05" + get)
    assert target.compared == before + 1, "the fast path took no part"
    scoped = next(data for name, data in all_seeds() if name == "scoped-get")
    before = target.compared
    target.one(scoped)
    assert target.compared == before + 1
    # a digest that is not right is put right
    message = bytearray(target.datagram(5, get))
    message[90] ^= 1
    before = target.answered
    target.one(b"\x08" + bytes(message))
    assert target.answered >= before


def test_the_target_finds_what_it_should(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fuzzer that cannot fail finds nothing."""
    ask = b"\x02" + request(GET, [(1, 3, 6, 1, 2, 1, 1, 5, 0)])
    target.one(ask)
    with monkeypatch.context() as patch:
        patch.setattr(dispatcher.messages, "parse_community", lambda *arguments: 1 // 0)
        with pytest.raises(Finding):
            target.one(b"\x00" + v2c(ask[1:], b"nobody"))
    with monkeypatch.context() as patch:
        patch.setattr(target.dispatcher, "_receive_community", lambda *arguments: None)
        with pytest.raises(Finding, match="no answer"):
            target.one(ask)
    with monkeypatch.context() as patch:
        patch.setattr(target.agent.fast, "answer", lambda *arguments: b"0\0")
        with pytest.raises(Finding, match="disagree"):
            target.one(ask)


def test_a_short_run(target: Target) -> None:
    found: list[str] = []
    tried, _, jumps = own_loop(
        target.one,
        SECONDS,
        20261123,
        lambda data, error: found.append(f"{type(error).__name__}: {error}: {data[:400].hex()}"),
    )
    assert not found, "\n".join(found)
    assert tried > len(corpus())
    assert jumps > 500
    assert target.compared > 50


def test_coverage_tells_new_from_old() -> None:
    from agent.smi import ber

    coverage = Coverage()
    assert coverage.run(lambda: ber.length(5))
    assert not coverage.run(lambda: ber.length(6))
    assert coverage.run(lambda: ber.length(500))


def test_mutations_of_trees_stay_trees() -> None:
    rng = random.Random(5)
    seeds = [data[1:] for name, data in all_seeds() if name.startswith("v2c-")]
    whole = sum(parse(mutate(rng.choice(seeds), rng, seeds)) is not None for _ in range(600))
    assert whole > 300
    for seed in seeds:
        trees = parse(seed)
        assert trees is not None
        assert b"".join(tree.octets() for tree in trees) == seed


def test_malformed_captures_on_both_paths(target: Target, shared_vectors: Path) -> None:
    """Packets that broke packet analysers' SNMP decoders, whatever they are wrapped in."""
    total = 0
    for path in sorted((shared_vectors / "pcap").glob("*snmp*.pcap")):
        for frame in frames(path.read_bytes()):
            # at each place where an SNMP message may begin, and whole
            starts = [0, *(at for at in range(len(frame) - 2) if frame[at] == 0x30)]
            for start in starts[:64]:
                target.one(b"\x00" + frame[start:])
                total += 1
    assert total > 10


def frames(capture: bytes) -> Iterator[bytes]:
    """The packets of a pcap file, without an idea of what is in them."""
    order = "<" if capture[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    at = 24
    while at + 16 <= len(capture):
        (size,) = struct.unpack_from(f"{order}I", capture, at + 8)
        yield capture[at + 16 : at + 16 + size]
        at += 16 + size

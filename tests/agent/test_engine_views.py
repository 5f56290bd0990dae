"""Views on both paths, beside a judge of the tests' own: RFC 3415 section 4 read once more, without anything cached."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from adversary_support import EXCEPTIONS, LOCAL, Both, offline, request
from adversary_support import clocks as clocks
from smi_support import Manager, Offline, unwrap, v2c

from agent.config import AccessEntry, Subtree
from agent.engine.access import SECRETS
from agent.engine.pdu import GET, GETBULK, GETNEXT
from agent.smi import ErrorStatus, ber

# -- views --------------------------------------------------------------------------------------------------


def judge(families: Sequence[Subtree], oid: ber.Oid) -> bool:
    """RFC 3415: of the families that match, that with most sub-identifiers, then the greatest, decides."""
    best: Subtree | None = None
    for family in families:
        if len(family.oid) > len(oid):
            continue
        bits = "".join(f"{octet:08b}" for octet in family.mask)
        bits += "1" * len(family.oid)
        fits = all(bit == "0" or a == b for bit, a, b in zip(bits, family.oid, oid, strict=False))
        if fits and (best is None or (len(family.oid), family.oid) > (len(best.oid), best.oid)):
            best = family
    return best is not None and best.included


def random_view(rng: random.Random, known: Sequence[ber.Oid]) -> list[Subtree]:
    """Families around what there is: tables, columns, instances, one past, one short, masked."""
    found: dict[tuple[ber.Oid, bytes], Subtree] = {}
    for _ in range(rng.randint(1, 6)):
        oid = rng.choice(known)
        cut = rng.randint(1, len(oid))
        tree = list(oid[:cut])
        if rng.random() < 0.2:
            tree[-1] += rng.choice((-1, 1, 2))
            tree[-1] = max(tree[-1], 0)
        if rng.random() < 0.1:
            tree.append(rng.choice((0, 1, 5)))
        mask = b""
        if rng.random() < 0.4:
            bits = [True] * len(tree)
            for _ in range(rng.randint(1, 3)):
                bits[rng.randrange(len(bits))] = False
            if rng.random() < 0.3:
                bits = bits[: rng.randint(1, len(bits))]
            packed = bytearray((len(bits) + 7) // 8)
            for number, bit in enumerate(bits):
                packed[number >> 3] |= (0x80 >> (number & 7)) if bit else 0
            for number in range(len(bits), len(packed) * 8):
                packed[number >> 3] |= 0x80 >> (number & 7)
            mask = bytes(packed)
        found[tuple(tree), mask] = Subtree(tuple(tree), rng.random() < 0.6, mask)
    if rng.random() < 0.6:
        found[(1, 3, 6), b""] = Subtree((1, 3, 6), True)
    return list(found.values())


def everything(both: Both) -> list[tuple[ber.Oid, int]]:
    """All instances of the agent: a walk of who may see all."""
    manager = Manager(both.agent, "operator", 3)
    names: list[tuple[ber.Oid, int]] = []
    last: ber.Oid = (0, 0)
    while True:
        answer = both.agent.ask(manager.message(request(GETBULK, [last], second=500)), LOCAL)
        got = manager.read(answer)[1]
        for name, tag, _ in got.varbinds:
            if tag == 0x82:
                return names
            names.append((name, tag))
            last = name


@pytest.mark.usefixtures("clocks")
@pytest.mark.parametrize("seed", range(12))
def test_no_view_leaks_and_none_hides(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    agent = offline(tmp_path, count=9)
    both = Both(agent)
    instances = everything(both)
    names = [name for name, _ in instances]
    assert len(names) > 150
    for _ in range(12):
        view = random_view(rng, names)
        show_only(agent, view)
        visible = [pair for pair in instances if judge(view, pair[0])]
        for version in (0, 1, 3):
            check_walk(both, view, visible, version, rng)
        check_gets(both, view, names, rng)
    assert both.mine > 100, "the fast path took no part"


def show_only(agent: Offline, view: Sequence[Subtree]) -> None:
    """The group of "reader" and "writer" sees this from now on."""
    members = {(1, "community1"): "g", (2, "community1"): "g", (1, "community2"): "w", (2, "community2"): "w"}
    members[3, "operator"] = "g"
    agent.agent.access.replace(
        members,
        [
            AccessEntry("g", 0, 1, read="v"),
            AccessEntry("w", 0, 1, read="all", write="all"),
        ],
        {"v": view, "all": [Subtree((1,), True)]},
    )
    agent.agent.epoch.bump()


def check_walk(
    both: Both,
    view: Sequence[Subtree],
    visible: Sequence[tuple[ber.Oid, int]],
    version: int,
    rng: random.Random,
) -> None:
    expected = [name for name, tag in visible if version or tag != ber.COUNTER64]
    if version < 3:
        # secrets show under authPriv alone
        expected = [name for name in expected if name[: len(SECRETS[0])] not in SECRETS]
    manager = Manager(both.agent, "operator", 3)
    walked: list[ber.Oid] = []
    last: ber.Oid = (0, 0)
    while True:
        if version and rng.random() < 0.8:
            pdu = request(GETBULK, [last], second=rng.choice((1, 2, 7, 50, 1000)))
        else:
            pdu = request(GETNEXT, [last])
        if version == 3:
            got = manager.read(both.ask(manager.message(pdu)))[1]
        else:
            got = unwrap(both.ask(v2c(pdu, b"reader", version)))
        if not version and got.status == ErrorStatus.noSuchName:
            break
        assert got.status == 0
        ended = False
        for name, tag, _ in got.varbinds:
            if tag == 0x82:
                ended = True
                break
            walked.append(name)
            last = name
        if ended:
            break
    assert walked == expected, view


def check_gets(both: Both, view: Sequence[Subtree], names: Sequence[ber.Oid], rng: random.Random) -> None:
    for _ in range(6):
        asked = [rng.choice(names) for _ in range(rng.randint(1, 8))]
        asked = [name if rng.random() < 0.8 else (*name[:-1], name[-1] + 1) for name in asked]
        got = unwrap(both.ask(v2c(request(GET, asked), b"reader")))
        assert [name for name, _, _ in got.varbinds] == asked
        for name, tag, _ in got.varbinds:
            if not judge(view, name):
                assert tag in EXCEPTIONS, (name, view)
            elif name in names and name[: len(SECRETS[0])] not in SECRETS:
                assert tag not in EXCEPTIONS, (name, view)
        interleaved = request(GETBULK, asked, first=rng.randint(0, 3), second=rng.randint(0, 30))
        for name, tag, _ in unwrap(both.ask(v2c(interleaved, b"reader"))).varbinds:
            assert tag == 0x82 or judge(view, name), (name, view)

"""A listing read with what is known from before says what one read from nothing says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fake_vici import child_section, ike_section
from hypothesis import given, settings
from hypothesis import strategies as st
from vici.protocol import FiniteStream, Message

from agent.gateway.listing import Heard
from agent.gateway.records import ChildRecord, IkeRecord
from agent.gateway.steps import at_once, in_slices
from agent.sources import vici_records as read
from agent.sources.vici_listing import ListingReader
from agent.sources.vici_message import MalformedMessage, decode, decoding

RUNNING = dict.fromkeys(("established", "rekey_time", "reauth_time", "life_time", "counts", "children"))
CHILD_RUNNING = dict.fromkeys(("install_time", "rekey_time", "life_time"))


def encoded(*sas: tuple[str, dict[str, Any]]) -> bytes:
    return bytes(Message.serialize(dict(sas)))


def sa(number: int, octets: int, children: int = 1, **changes: Any) -> tuple[str, dict[str, Any]]:
    listed = {f"net-{n}": child_section(100 * number + n, octets=octets + n) for n in range(children)}
    counters = {"octets-in": str(octets), "packets-in": "7", "drops-in": "x"}
    # what stands behind the children counts too
    return f"gw{number}", {
        **ike_section(number),
        "tasks": ["a", "b"],
        "child-sas": listed,
        "counters": counters,
        **changes,
    }


def facts(heard: list[Heard]) -> list[Any]:
    """Without what runs: a record of an earlier listing has that of then."""
    return [
        (
            replace(h.record, **{**RUNNING, "counts": {}}),
            dict(h.counts),
            [
                (replace(child, **{**CHILD_RUNNING, "counts": {}}), dict(counts))
                for child, counts in h.children
            ],
        )
        for h in heard
    ]


def from_nothing(octets: bytes) -> list[Heard]:
    found = []
    for record in read.ike_records(decode(octets)):
        children = [(child, child.counts) for child in record.children or ()]
        found.append(Heard(record, record.counts, children))
    return found


class Known:
    """A model that knows every SA that it was told."""

    def __init__(self) -> None:
        self.ikes: dict[Any, Any] = {}
        self.children: dict[Any, Any] = {}
        self.reader = ListingReader(self.ikes, self.children)

    def listing(self, *messages: bytes, full: bool = True) -> list[Heard]:
        self.reader.begin()
        found = [heard for octets in messages for heard in at_once(self.reader.reading(octets, 0))]
        at_once(self.reader.ending(full))
        for heard in found:
            self.ikes[heard.record.key] = heard
            self.children.update((child.key, heard) for child, _ in heard.children)
        return found


changes = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(("ESTABLISHED", "REKEYED")),
        "remote-host": st.sampled_from(("192.0.2.2", "2001:db8::9")),
        "established": st.integers(0, 99).map(str),
        "encr-alg": st.sampled_from(("AES_CBC", "")),
        "nat-local": st.just("yes"),
        "child-ids": st.lists(st.integers(1, 9).map(str)),
    },
)
listings = st.lists(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9999), st.integers(0, 3), changes), max_size=4),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(listings, st.booleans())
def test_a_listing_says_the_same_whatever_is_known(told: list[list[Any]], full: bool) -> None:
    known = Known()
    for sas in told:
        messages = [encoded(sa(number, octets, children, **more)) for number, octets, children, more in sas]
        expected = [heard for message in messages for heard in from_nothing(message)]
        assert facts(known.listing(*messages, full=full)) == facts(expected)


def test_what_only_counted_is_the_record_of_before() -> None:
    known = Known()
    (before,) = known.listing(encoded(sa(1, 100)))
    (after,) = known.listing(encoded(sa(1, 200, established="15")))
    assert after.record is before.record
    assert after.children[0][0] is before.children[0][0]
    assert (before.counts["octets_in"], after.counts["octets_in"]) == (100, 200)
    assert after.children[0][1]["octets_out"] == 200
    (moved,) = known.listing(encoded(sa(1, 300, **{"remote-host": "192.0.2.77"})))
    assert moved.record is not before.record
    assert str(moved.record.remote_host) == "192.0.2.77"


def test_what_the_model_does_not_know_is_read_anew() -> None:
    """An SA that is taken in needs the times of now."""
    known = Known()
    known.listing(encoded(sa(1, 100)))
    known.ikes.clear()
    known.children.clear()
    (again,) = known.listing(encoded(sa(1, 100, established="500")))
    assert again.record.established == 500


def test_what_is_not_listed_any_more_is_forgotten() -> None:
    known = Known()
    known.listing(encoded(sa(1, 100)), encoded(sa(2, 100)))
    assert len(known.reader._known) == 4
    known.listing(encoded(sa(2, 100)), full=False)
    assert len(known.reader._known) == 4
    known.listing(encoded(sa(2, 100)))
    assert len(known.reader._known) == 2


def test_every_cut_and_every_wrong_octet_is_an_error_or_a_message() -> None:
    octets = encoded(sa(1, 100))
    known = Known()
    known.listing(octets)
    for size in range(1, len(octets)):
        with pytest.raises(MalformedMessage):
            known.listing(octets[:size])
        with pytest.raises(MalformedMessage):
            decode(octets[:size])
    for at in range(len(octets)):
        for value in (0, 1, 2, 5, 6, 255):
            wrong = octets[:at] + bytes((value,)) + octets[at + 1 :]
            try:
                heard = known.listing(wrong)
            except (MalformedMessage, read.BadRecord):
                continue
            assert all(isinstance(h.record, IkeRecord) for h in heard)
            assert all(isinstance(child, ChildRecord) for h in heard for child, _ in h.children)
    deep = b"\x01\x01a" * 50_000 + b"\x02" * 50_000
    for work in (lambda: known.listing(deep), lambda: decode(deep)):
        with pytest.raises(MalformedMessage):
            work()


texts = st.text(st.characters(codec="utf-8"), max_size=20)
sections = st.recursive(
    st.dictionaries(texts, texts | st.lists(texts, max_size=3), max_size=5),
    lambda inner: st.dictionaries(texts, inner | texts, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(sections)
def test_decoding_is_that_of_strongswans_own_codec(message: dict[str, Any]) -> None:
    octets = bytes(Message.serialize(message))
    assert decode(octets) == message
    assert decode(octets) == as_text(Message.deserialize(FiniteStream(octets)))


def as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return {key: as_text(item) for key, item in value.items()}


def test_a_large_message_lets_others_in_between() -> None:
    octets = encoded(*(sa(number, 100, children=3) for number in range(1, 400)))

    async def main() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.create_task(other())
        await in_slices(decoding(octets))
        await in_slices(Known().reader.reading(octets, 0))
        task.cancel()
        return turns

    assert asyncio.run(main()) > 10


def test_slices_end_with_what_they_are_cancelled_for() -> None:
    closed = []

    def work() -> Iterator[None]:
        try:
            while True:
                yield
        finally:
            closed.append(True)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await in_slices(work())  # type: ignore[arg-type]

    asyncio.run(main())
    assert closed

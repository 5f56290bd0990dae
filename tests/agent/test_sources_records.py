"""VICI messages to records: strongSwan's shapes, ours, and rubbish."""

from __future__ import annotations

import random
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import contextlib

from fake_vici import child_section, connection_section, ike_section

from agent.sources import vici_records as read
from agent.sources.settings import SettingsError, parse_gateway, parse_source
from agent.sources.vici_records import BadRecord
from agent.sources.vici_session import ViciError, ViciMalformed, decode, encode


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.0.0/24", "10.1.0.0/24"),
        ("10.1.0.7/24", "10.1.0.0/24"),
        ("10.1.0.5", "10.1.0.5/32"),
        ("10.1.0.5..10.1.0.9", "10.1.0.5..10.1.0.9"),
        ("10.1.0.5-10.1.0.9", "10.1.0.5..10.1.0.9"),
        ("10.1.0.0/24[tcp/http]", "10.1.0.0/24[6/80]"),
        ("10.1.0.0/24[udp/500-510]", "10.1.0.0/24[17/500-510]"),
        ("10.1.0.0/24[gre]", "10.1.0.0/24[47]"),
        ("10.1.0.0/24[17/1701]", "10.1.0.0/24[17/1701]"),
        ("10.1.0.0/24[tcp/OPAQUE]", "10.1.0.0/24[6/OPAQUE]"),
        ("fd00:1::/64", "fd00:1::/64"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_selectors(text: str, expected: str) -> None:
    found = read.selector(text)
    assert found is not None
    assert found.text == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dynamic",
        "10.1.0.0/33",
        "10.1.0.9..10.1.0.5",
        "10.1.0.1..fd00::1",
        "10.1.0.0/24[nosuch/1]",
        "x" * 5000,
        "10.1.0.0/24[tcp/nosuchservice]",
        "10.1.0.0/24[tcp/99999]",
        "10.1.0.0/24[999]",
        "10.1.0.0/24[tcp/" + "9" * 9000,
    ],
)
def test_unreadable_selectors(text: str) -> None:
    assert read.selector(text) is None


def test_an_ike_sa_of_strongswan() -> None:
    (record,) = read.ike_records(
        {"up": "yes", "gw": {**ike_section(4), "child-sas": {"net-1": child_section(1)}}}
    )
    assert (record.name, record.uniqueid, record.initiator_spi) == ("gw", 4, 0xA000000000000004)
    assert record.local_host == ip_address("192.0.2.1")
    assert record.local_id == "moon.example"
    assert record.counts == {}
    assert record.remote_auth is None
    assert record.children is not None
    (child,) = record.children
    assert child.counts == dict.fromkeys(("octets_in", "octets_out", "packets_in", "packets_out"), 0)
    assert child.integ_alg is None
    assert child.replay_window is None


def test_an_ike_sa_of_the_bundled_stack() -> None:
    section = ike_section(
        4,
        **{
            "remote-auth": "ecdsa",
            "life-time": "14000",
            "child-ids": ["1", "2", "x", "9" * 6000],
            "counters": {"octets-in": "10", "drops-in": "0"},
            "ake1": "ML_KEM_768",
            "ake2": "ML_KEM_1024",
        },
    )
    record = read.ike_record("gw", section)
    assert record.child_ids == {1, 2}
    assert record.children is None
    assert record.counts == {"octets_in": 10, "drops_in": 0}
    assert record.additional_ke == ("ML_KEM_768", "ML_KEM_1024")
    ours = {"replay-errors-in": "3", "replays-duplicate-in": "2", "out-of-order-in": "7"}
    child = read.child_record(child_section(1, **ours, **{"life-bytes": "1000", "esn": "1"}))
    assert child.counts["replays_duplicate_in"] == 2
    assert child.counts["out_of_order_in"] == 7
    assert "replays_zero_in" not in child.counts
    assert child.counts["replay_errors_in"] == 3
    assert child.life_bytes == 1000
    assert child.esn


def test_unreadable_children_are_left_out() -> None:
    section = ike_section(1)
    section["child-sas"] = {"a": {"name": "a"}, "b": child_section(2), "c": {"uniqueid": "-1"}, "d": "text"}
    record = read.ike_record("gw", section)
    assert [child.uniqueid for child in record.children or ()] == [2]
    for missing in ("uniqueid", "initiator-spi"):
        broken = ike_section(1)
        del broken[missing]
        with pytest.raises(BadRecord):
            read.ike_record("gw", broken)


def test_rekey_and_update_events() -> None:
    old, new = child_section(1, state="REKEYED"), child_section(2)
    ((ike, before, after),) = read.child_rekey(
        {"gw": {**ike_section(1), "child-sas": {"net": {"old": old, "new": new}}}}
    )
    assert (ike.uniqueid, before.uniqueid, after.uniqueid) == (1, 1, 2)
    assert ike.children is None
    ((first, second),) = read.ike_rekey({"gw": {"old": ike_section(1), "new": ike_section(2)}})
    assert (first.uniqueid, second.uniqueid) == (1, 2)
    (moved,) = read.ike_update({"remote-host": "203.0.113.1", "remote-port": "4501", "gw": ike_section(1)})
    assert str(moved.remote_host) == "203.0.113.1"
    assert moved.remote_port == 4501


def test_connections() -> None:
    (connection,) = read.connections({"gw": connection_section()})
    assert (connection.local_id, connection.remote_id, connection.remote_auth) == (
        "moon.example",
        "sun.example",
        "psk",
    )
    assert connection.children[0].local_ts[0].text == "10.1.0.0/24"
    anyone = connection_section(
        remote_addrs=["%any"], **{"remote-1": {"id": "*@example", "class": "public key"}}
    )
    anyone["children"] = {"net": {"mode": "TUNNEL", "remote-ts": ["dynamic"]}, "drop": {"mode": "DROP"}}
    (connection,) = read.connections({"gw": anyone})
    assert connection.remote_host is None
    assert connection.remote_id is None
    assert [(child.name, child.remote_ts) for child in connection.children] == [("net", ())]


def test_alerts_of_both_stacks() -> None:
    theirs = read.failure({"type": "ts-mismatch", "ike-sa": {"psk": ike_section(3)}})
    assert (theirs.phase, theirs.connection, theirs.ike_uniqueid, theirs.remote_id) == (
        2,
        "psk",
        3,
        "sun.example",
    )
    ours = read.failure(
        {"type": "AUTHENTICATION_FAILED", "message": "no", "ike": "gw", "remote-host": "192.0.2.9"}
    )
    assert (ours.phase, ours.connection, str(ours.remote_host)) == (1, "gw", "192.0.2.9")
    assert read.failure({}).type == "unknown"


def test_no_rubbish_raises_anything_but_bad_record() -> None:
    """Every key of a good message replaced by every kind of value, and random trees."""
    random_ = random.Random(7)
    values: list[Any] = [
        "",
        "x",
        "-1",
        "9" * 5000,
        [],
        ["a", "b"],
        {},
        {"a": "b"},
        {"a": {"b": {}}},
        "\0",
        "%any",
    ]
    good = {**ike_section(1), "child-sas": {"net-1": child_section(1)}, "counters": {"octets-in": "1"}}
    readers = [
        lambda message: list(read.ike_records(message)),
        lambda message: list(read.child_rekey(message)),
        lambda message: list(read.ike_rekey(message)),
        lambda message: list(read.ike_update(message)),
        lambda message: list(read.connections(message)),
        read.failure,
        read.flat_counts,
    ]

    def tree(depth: int) -> dict[str, Any]:
        keys = random_.choices([*good, *child_section(1), *connection_section(), "old", "new"], k=5)
        return {
            k: tree(depth - 1) if depth and random_.random() < 0.5 else random_.choice(values) for k in keys
        }

    messages: list[dict[str, Any]] = [{"gw": {**good, key: value}} for key in good for value in values]
    messages += [
        {"gw": {**good, "child-sas": {"n": {**child_section(1), key: value}}}}
        for key in child_section(1)
        for value in values
    ]
    messages += [tree(4) for _ in range(2000)]
    for message in messages:
        for reader in readers:
            with contextlib.suppress(BadRecord):
                reader(message)


def test_messages_that_end_early_are_refused() -> None:
    octets = encode({"a": {"b": "value", "c": ["one", "two"]}, "d": "e"})
    assert decode(octets) == {"a": {"b": "value", "c": ["one", "two"]}, "d": "e"}
    whole = 0
    for size in range(len(octets)):
        try:
            decode(octets[:size])
            whole += 1
        except ViciMalformed:
            pass
    assert whole == 2  # nothing at all, and everything before the last key
    with pytest.raises(ViciMalformed):
        decode(b"\x01\x01a" * 50_000 + b"\x02" * 50_000)
    with pytest.raises(ViciError):
        encode({"key": "x" * 70_000})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"type": "telnet"}, "use vici"),
        ({"sockets": "x"}, "known here: type, socket"),
        ({"socket": 5}, "write it in quotes"),
        ({"socket": "/" + "x" * 200}, "shorter"),
        ({"poll_interval": 0}, "choose 0.1 to 3600 seconds"),
        ({"poll_interval": True}, "choose"),
        ({"enabled": "yes"}, "neither true nor false"),
    ],
)
def test_wrong_settings_say_what_to_do(table: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        parse_source("gw", table)
    assert "sources.gw" in str(caught.value)


def test_settings() -> None:
    assert parse_source("gw", {"poll_interval": 2}).poll_interval == 2.0
    assert parse_gateway({"history_size": 5}).history_size == 5
    with pytest.raises(SettingsError, match=r"gateway\.history_size"):
        parse_gateway({"history_size": 0})
    with pytest.raises(SettingsError):
        parse_source("x" * 33, {})

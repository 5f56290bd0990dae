"""VICI on the real stack: from a configuration file to a tunnel with traffic, rekeying and deletion."""

from __future__ import annotations

import random
from ipaddress import ip_address
from pathlib import Path

import pytest
from vici.protocol import Message, Packet
from vici_support.mirror import Mirror
from vici_support.pair import Pair

CONF = """
connections {{
  net {{ local_addrs = 10.0.0.{own}
    remote_addrs = 10.0.0.{peer}
    rekey_time = 300s
    local {{ auth = psk
      id = {own}.lab }}
    remote {{ auth = psk
      id = {peer}.lab }}
    children {{ lan {{ local_ts = 10.{own}.0.0/16
        remote_ts = 10.{peer}.0.0/16
        rekey_time = 60s
        rand_time = 10s
        life_time = 90s }}
      other {{ local_ts = 192.168.{own}.0/24
        remote_ts = 192.168.{peer}.0/24 }} }} }}
}}
secrets {{ ike-x {{ secret = {secret} }} }}
"""
A, B = ip_address("10.1.0.1"), ip_address("10.2.0.1")


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make(tmp_path)


def make(tmp_path: Path, secret: str = "hunter2") -> Pair:
    for own, peer, text in ((1, 2, "hunter2"), (2, 1, secret)):
        (tmp_path / f"{own}.conf").write_text(CONF.format(own=own, peer=peer, secret=text))
        (tmp_path / f"{own}.conf").chmod(0o600)
    return Pair(tmp_path / "1.conf", tmp_path / "2.conf")


def initiate(pair: Pair, child: str = "lan") -> dict[str, str]:
    client = pair.a.client()
    client.register("control-log")
    client.send(Packet.request("initiate", Message.serialize({"child": child})))
    pair.settle()
    client.read()
    return client.replies.pop()[1]


def test_a_tunnel_from_a_file(pair: Pair) -> None:
    watcher = pair.b.client()
    watcher.register("ike-updown", "child-updown")
    assert initiate(pair) == {"success": "yes"}
    pair.ping(pair.a, A, B, 5)
    pair.ping(pair.b, B, A, 2)
    assert len(pair.b.plane.delivered) == 5
    ((message,), reply) = pair.a.client().stream("list-sas", "list-sa")
    sa = message["net"]
    (child,) = sa["child-sas"].values()
    assert (sa["state"], sa["local-id"], sa["remote-id"], sa["local-auth"]) == (
        "ESTABLISHED",
        "1.lab",
        "2.lab",
        "psk",
    )
    assert (child["packets-out"], child["packets-in"]) == ("5", "2")
    assert (child["bytes-out"], child["bytes-in"]) == (str(5 * 64), str(2 * 64))
    ((peer,), _) = pair.b.client().stream("list-sas", "list-sa")
    (mirrored,) = peer["net"]["child-sas"].values()
    assert (mirrored["spi-in"], mirrored["spi-out"]) == (child["spi-out"], child["spi-in"])
    assert reply["full"] == "yes"
    watcher.read()
    assert [name for name, message in watcher.events if message.get("up")] == ["ike-updown", "child-updown"]
    counters = pair.a.client().request("get-counters")["counters"][""]
    assert (counters["ike-init-out-req"], counters["ike-initiated"], counters["child-established"]) == (
        "1",
        "1",
        "1",
    )
    listed, _ = pair.a.client().stream("list-policies", "list-policy", {"protect": "yes"})
    assert [list(m) for m in listed] == [["net/lan"]]


def test_deltas_equal_full_lists_on_the_real_stack(pair: Pair) -> None:
    """Traffic, child and IKE rekeying, deletes and new children, at random; two pollers at their own pace."""
    rng = random.Random(5)
    quick, slow = Mirror(pair.a), Mirror(pair.a)
    initiate(pair)
    for step in range(150):
        action = rng.randrange(8)
        if action < 3:
            pair.ping(*rng.choice([(pair.a, A, B), (pair.b, B, A)]), rng.randint(1, 3))
        elif action < 5:
            pair.run(rng.choice([0.5, 5, 30, 70]))
        elif action == 5:
            rng.choice([pair.a, pair.b]).client().request("rekey", {"child": "lan"})
            pair.settle()
        elif action == 6 and step % 3 == 0:
            rng.choice([pair.a, pair.b]).client().request("rekey", {"ike": "net"})
            pair.settle()
        else:
            name = rng.choice(["lan", "other"])
            up = any(c.name == name for sa in pair.a.endpoint.ike_sas() for c in sa.children)
            if up and rng.random() < 0.5:
                pair.a.client().request("terminate", {"child": name, "timeout": "-1"})
                pair.settle()
            elif not up:
                initiate(pair, name)
        quick.poll()
        for mirror in [quick, slow] if step % 11 == 0 else [quick]:
            mirror.poll()
            fresh = Mirror(pair.a)
            fresh.poll()
            assert mirror.steady() == fresh.steady(), f"step {step}"
            fresh.client.session.close("")
    assert quick.fulls == slow.fulls == 1
    assert pair.a.server.counters.internal_errors == 0


def test_totals_over_rekeying_are_exact(pair: Pair) -> None:
    """Who adds up child-ended counts and the live ones gets every octet, whatever was rekeyed in between."""
    watcher = pair.a.client()
    watcher.register("child-ended", "child-updown")
    initiate(pair)
    sent = 0
    for _ in range(8):
        pair.ping(pair.a, A, B, 3)
        sent += 3 * 64
        pair.run(25)
    watcher.read()
    ended = [
        child
        for name, message in watcher.events
        if name == "child-ended"
        for child in message["net"]["child-sas"].values()
    ]
    assert len(ended) >= 2
    assert {child["reason"] for child in ended} == {"rekeyed"}
    assert not [m for name, m in watcher.events if name == "child-updown" and "up" not in m], "no false down"
    ((message,), _) = pair.a.client().stream("list-sas", "list-sa")
    gone = {child["uniqueid"] for child in ended}
    live = [c for c in message["net"]["child-sas"].values() if c["uniqueid"] not in gone]
    assert sum(int(child["bytes-out"]) for child in ended + live) == sent


def test_a_wrong_secret(tmp_path: Path) -> None:
    pair = make(tmp_path, secret="wrong")
    watcher = pair.b.client()
    watcher.register("alert", "ike-updown", "log")
    reply = initiate(pair)
    assert reply["success"] == "no"
    assert "failed" in reply["errmsg"]
    watcher.read()
    alerts = [message for name, message in watcher.events if name == "alert"]
    assert alerts
    assert alerts[0]["remote-host"] == "10.0.0.1"
    assert not [1 for name, _ in watcher.events if name == "ike-updown"]
    counters = pair.b.client().request("get-counters")["counters"][""]
    assert counters["auth-failures-in"] == "1"
    assert counters["ike-failed-resp"] == "1"
    assert b"hunter2" not in watcher.raw
    counters = pair.a.client().request("get-counters")["counters"][""]
    assert counters["ike-failed-init"] == "1"


def test_terminate_and_its_final_counters(pair: Pair) -> None:
    initiate(pair)
    pair.ping(pair.a, A, B, 4)
    watcher = pair.b.client()
    watcher.register("ike-updown", "child-updown", "child-ended")
    client = pair.a.client()
    client.send(Packet.request("terminate", Message.serialize({"ike": "net"})))
    pair.settle()
    client.read()
    assert client.replies.pop()[1] == {"success": "yes", "matches": "1", "terminated": "1"}
    watcher.read()
    down = {name: message["net"] for name, message in watcher.events}
    assert set(down) == {"ike-updown", "child-updown", "child-ended"}
    for section in down.values():
        (child,) = section["child-sas"].values()
        assert (child["packets-in"], child["bytes-in"]) == ("4", str(4 * 64))
    assert down["ike-updown"]["reason"] == "peer-deleted"
    pair.run(10)
    assert pair.a.client().stream("list-sas", "list-sa")[0] == []
    assert pair.b.client().stream("list-sas", "list-sa")[0] == []


def test_trap_policy_by_install(pair: Pair) -> None:
    client = pair.a.client()
    assert client.request("install", {"child": "lan"}) == {"success": "yes"}
    listed, _ = client.stream("list-policies", "list-policy", {"trap": "yes"})
    assert [list(m) for m in listed] == [["net/lan"]]
    pair.ping(pair.a, A, B)
    assert [sa.state for sa in pair.a.endpoint.ike_sas()] == ["ESTABLISHED"]
    assert client.request("uninstall", {"child": "lan"}) == {"success": "yes"}
    assert client.stream("list-policies", "list-policy", {"trap": "yes"})[0] == []


def test_reload_while_up(pair: Pair, tmp_path: Path) -> None:
    initiate(pair)
    conf = tmp_path / "1.conf"
    conf.write_text(conf.read_text().replace("rekey_time = 60s", "rekey_time = 50s"))
    client = pair.a.client()
    assert client.request("reload-settings") == {"success": "yes"}
    ((conn,), _) = client.stream("list-conns", "list-conn")
    assert conn["net"]["children"]["lan"]["rekey_time"] == "50"
    assert len(pair.a.endpoint.ike_sas()) == 1
    conf.write_text("connections { broken")
    reply = client.request("reload-settings")
    assert reply["errmsg"].startswith("nothing was changed: ")
    assert "1.conf:1: " in reply["errmsg"]
    assert client.request("get-conns") == {"conns": ["net"]}

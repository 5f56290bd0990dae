"""What the stack tells -> what registered clients get, held against what strongSwan was recorded to send."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from vici_support.client import Client
from vici_support.fake import Gateway, child_view, ike_view

from ipsecstack.ipsec.sa import Address
from ipsecstack.keyex.base import (
    ChildSaDeleted,
    ChildSaEstablished,
    ChildSaRekeyed,
    IkeSaDeleted,
    IkeSaEstablished,
    IkeSaRekeyed,
    IkeSaUpdated,
    NegotiationFailed,
    Output,
)

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "vici_keys.json").read_text())
ALL = ("ike-updown", "child-updown", "child-ended", "ike-rekey", "child-rekey", "ike-update", "alert")


@pytest.fixture
def gateway() -> Gateway:
    made = Gateway()
    made.fill()
    return made


def tell(gateway: Gateway, output: Output) -> list[tuple[str, Any]]:
    client = Client(gateway)
    client.register(*ALL)
    gateway.stack.tell(output)
    client.read()
    assert gateway.server.counters.internal_errors == 0
    return client.events


def test_ike_up(gateway: Gateway) -> None:
    ((name, message),) = tell(gateway, IkeSaEstablished(ike_view(4)))
    assert name == "ike-updown"
    assert list(message) == ["up", "psk2"]
    assert message["psk2"]["state"] == "ESTABLISHED"
    assert "child-sas" not in message["psk2"]


def test_ike_down_has_no_up_and_the_final_counters(gateway: Gateway) -> None:
    view = ike_view(4, children=[child_view(4)], state="DELETING")
    ((name, message),) = tell(gateway, IkeSaDeleted(view, "peer-deleted", True))
    assert (name, list(message)) == ("ike-updown", ["psk2"])
    assert message["psk2"]["reason"] == "peer-deleted"
    assert message["psk2"]["child-sas"]["gcm-4"]["bytes-out"] == "840"


def test_an_ike_sa_that_never_came_up_did_not_go_down(gateway: Gateway) -> None:
    """strongSwan raises ike-updown for established IKE SAs only; the failure is an alert."""
    assert tell(gateway, IkeSaDeleted(ike_view(9, established=None), "timeout", False)) == []


def test_child_up_and_down(gateway: Gateway) -> None:
    child = child_view(4)
    ike = ike_view(4, children=[child])
    ((name, message),) = tell(gateway, ChildSaEstablished(ike, child))
    assert (name, list(message)) == ("child-updown", ["up", "psk2"])
    assert list(message["psk2"]["child-sas"]) == ["gcm-4"]
    events = tell(gateway, ChildSaDeleted(ike, replace(child, state="DELETED"), "expired"))
    assert sorted(name for name, _ in events) == ["child-ended", "child-updown"]
    for _, message in events:
        assert list(message) == ["psk2"]
        assert message["psk2"]["child-sas"]["gcm-4"]["reason"] == "expired"
        assert message["psk2"]["child-sas"]["gcm-4"]["bytes-in"] == "420"


def test_the_end_of_a_rekeyed_child_is_no_child_updown(gateway: Gateway) -> None:
    child = child_view(4, state="DELETED")
    ((name, message),) = tell(gateway, ChildSaDeleted(ike_view(4, children=[child]), child, "rekeyed"))
    assert name == "child-ended"
    assert message["psk2"]["child-sas"]["gcm-4"]["reason"] == "rekeyed"


def test_child_rekey(gateway: Gateway) -> None:
    old, new = child_view(4, state="REKEYED"), child_view(9)
    ike = ike_view(4, children=[old, new], tasks_active=("CHILD_REKEY",))
    ((name, message),) = tell(gateway, ChildSaRekeyed(ike, old, new))
    assert name == "child-rekey"
    section = message["psk2"]
    assert set(RECORDED["child-rekey"]["ike"]) <= set(section)
    (pair,) = section["child-sas"].values()
    assert list(section["child-sas"]) == ["gcm"]
    assert sorted(pair) == RECORDED["child-rekey"]["pair"]
    assert set(RECORDED["child-rekey"]["child"]) - set(pair["old"]) == {"use-out"}
    assert (pair["old"]["bytes-in"], pair["new"]["uniqueid"]) == ("420", "9")


def test_ike_rekey(gateway: Gateway) -> None:
    ((name, message),) = tell(gateway, IkeSaRekeyed(ike_view(4, state="REKEYING"), ike_view(7)))
    assert name == "ike-rekey"
    assert sorted(message["psk2"]) == RECORDED["ike-rekey"]["pair"]
    assert set(RECORDED["ike-rekey"]["new"]) <= set(message["psk2"]["new"])
    assert (message["psk2"]["old"]["uniqueid"], message["psk2"]["new"]["uniqueid"]) == ("4", "7")


def test_ike_update(gateway: Gateway) -> None:
    view = ike_view(4, remote=Address(ip_address("2001:db8::7"), 4501))
    ((name, message),) = tell(gateway, IkeSaUpdated(view))
    assert name == "ike-update"
    assert sorted(k for k, v in message.items() if isinstance(v, str)) == sorted(RECORDED["ike-update"])
    assert (message["remote-host"], message["remote-port"]) == ("2001:db8::7", "4501")
    assert message["psk2"]["uniqueid"] == "4"


def test_alert(gateway: Gateway) -> None:
    remote = Address(ip_address("10.99.0.2"), 500)
    full = NegotiationFailed("psk2", 4, "gcm", remote, "TS_UNACCEPTABLE", "no selectors in common")
    ((name, message),) = tell(gateway, full)
    assert name == "alert"
    assert message == {
        "type": "TS_UNACCEPTABLE",
        "message": "no selectors in common",
        "ike": "psk2",
        "ike-uniqueid": "4",
        "child": "gcm",
        "remote-host": "10.99.0.2",
    }
    ((_, bare),) = tell(gateway, NegotiationFailed(None, None, None, None, "TIMEOUT", "x" * 70000))
    assert sorted(bare) == ["message", "type"]


def test_events_cost_nothing_when_nobody_listens(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipsecstack.vici.events.ike_section", lambda *a, **k: 1 / 0)
    Client(gateway).register("log")
    gateway.stack.tell(IkeSaEstablished(ike_view(4)))
    assert gateway.server.counters.internal_errors == 0

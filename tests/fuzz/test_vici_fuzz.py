"""10,000 mutated packets into VICI sessions: nothing escapes, other sessions live on, every decoder is reached."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from vici.protocol import Message, Packet
from vici_support.certs import fixed_certificate
from vici_support.client import Client, frame
from vici_support.fake import Gateway

from ipsecstack.keyex.base import LogRecorded
from ipsecstack.vici import codec
from ipsecstack.vici.registry import COMMANDS, EVENTS

SEED = 20261123
SECRET = b"correct horse battery staple"


def seeds() -> list[bytes]:
    """A good packet for every command and kind of packet."""
    conn = {
        "net": {
            "version": "2",
            "local_addrs": ["10.0.0.1"],
            "remote_addrs": ["10.0.0.2", "%any"],
            "rekey_time": "4h",
            "proposals": ["aes128gcm16-prfsha256-x25519", "default"],
            "local": {"auth": "psk", "id": "a.lab"},
            "remote": {"auth": "pubkey-sha256", "id": "C=CH, CN=b"},
            "children": {
                "c": {
                    "local_ts": ["10.1.0.0/24[tcp/80]"],
                    "esp_proposals": ["aes128gcm16-esn"],
                    "mode": "tunnel",
                    "life_bytes": "1g",
                    "start_action": "trap",
                }
            },
        }
    }
    pem = fixed_certificate("x", ca=True)
    arguments: dict[str, dict[str, Any]] = {
        "load-conn": conn,
        "load-shared": {"id": "i", "type": "ike", "data": SECRET, "owners": ["a.lab", "@#0a0b", "10.0.0.1"]},
        "load-cert": {"type": "X509", "flag": "CA", "data": pem},
        "load-key": {"type": "any", "data": b"\x30\x82\x01\x00" + bytes(60)},
        "load-authority": {"lab": {"cacert": pem}},
        "list-sas": {"ike": "psk2", "child-id": "4", "changed-since": "1", "epoch": "4711"},
        "list-policies": {
            "trap": "yes",
            "pass": "yes",
            "protect": "yes",
            "changed-since": "1",
            "epoch": "4711",
        },
        "initiate": {"child": "gcm", "ike": "psk2", "timeout": "1000", "loglevel": "2"},
        "terminate": {"ike-id": "4", "force": "yes", "timeout": "-1"},
        "rekey": {"child-id": "4", "reauth": "no"},
        "list-certs": {"type": "X509", "flag": "CA", "subject": "CN=x"},
        "get-counters": {"all": "yes", "name": "psk2"},
    }
    found = [
        Packet.request(name, Message.serialize(arguments.get(name, {"name": "net", "id": "i"})))
        for name in COMMANDS
    ]
    found += [Packet.register_event(name) for name in EVENTS] + [Packet.unregister_event("log")]
    return found


def mutate(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        kind = rng.randrange(7)
        at = rng.randrange(len(out) + 1)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 127, 128, 255])
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == 3:
            del out[at : at + rng.randint(1, 8)]
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            out[at:at] = out[at : at + rng.randint(1, 40)]
        else:
            out += rng.randbytes(rng.randint(1, 30))
    return bytes(out)


def test_ten_thousand_mutated_packets() -> None:
    rng = random.Random(SEED)
    gateway = Gateway()
    gateway.fill()
    originals = seeds()
    witness = Client(gateway)
    witness.register("log")
    before = gateway.endpoint.ike_sas()
    victim = Client(gateway)
    outcomes: Counter[str] = Counter()
    for number in range(10_000):
        if victim.session.closed:
            victim = Client(gateway)
        victim.replies.clear()
        victim.events.clear()
        victim.raw = b""
        packet = rng.choice(originals)
        head = 0 if rng.random() < 0.3 else 2 + packet[1]  # mostly the message, sometimes type and name
        victim.send(packet[:head] + mutate(packet[head:], rng))
        outcomes[str(victim.replies[0][0]) if victim.replies else "silent"] += 1
        for _, reply in victim.replies:
            outcomes[reply.get("success", "other") if isinstance(reply, dict) else "none"] += 1
        assert SECRET not in victim.raw
        if number % 1000 == 0:
            gateway.stack.tell(LogRecorded("IKE", 1, None, None, "still here"))
            gateway.now += 1
            gateway.server.handle_timer(gateway.now)
            witness.read()
            assert witness.request("version")["daemon"] == "ipsecstackd"
    assert sum(1 for name, line in witness.events if line["msg"] == "still here") == 10
    assert gateway.server.counters.internal_errors == 0
    assert gateway.endpoint.ike_sas() == before
    # the mutants got far: all kinds of answers came, malformed ones were counted
    for kind in (
        str(Packet.CMD_RESPONSE),
        str(Packet.CMD_UNKNOWN),
        str(Packet.EVENT_CONFIRM),
        str(Packet.EVENT_UNKNOWN),
    ):
        assert outcomes[kind] > 20, outcomes
    assert outcomes["silent"] > 100
    assert min(outcomes["yes"], outcomes["no"]) > 70, outcomes
    assert gateway.server.counters.malformed > 1000


def test_streams_of_octets_cut_anywhere() -> None:
    """Framing: valid packets, lies about lengths and noise, in pieces of any size."""
    rng = random.Random(SEED + 1)
    gateway = Gateway()
    gateway.fill()
    originals = seeds()
    for _ in range(200):
        client = Client(gateway)
        stream = b""
        for _ in range(rng.randint(1, 10)):
            packet = rng.choice(originals)
            kind = rng.randrange(4)
            if kind < 2:
                stream += frame(packet)
            elif kind == 2:
                stream += rng.randrange(2 ** rng.choice([4, 10, 19, 32])).to_bytes(4, "big") + packet
            else:
                stream += rng.randbytes(rng.randint(1, 20))
        while stream and not client.session.closed:
            size = rng.randint(1, 300)
            client.session.receive(stream[:size], gateway.now)
            client.read()
            stream = stream[size:]
        gateway.server.disconnect(client.session)
    assert gateway.server.counters.internal_errors == 0
    assert gateway.server.counters.oversize > 0
    assert gateway.server.sessions == 0


def test_decoder_alone() -> None:
    """The decoder raises MalformedMessage or gives what re-encodes to the same octets: it loses nothing silently."""
    rng = random.Random(SEED + 2)
    originals = [packet[2 + packet[1] :] for packet in seeds() if packet[0] == Packet.CMD_REQUEST]
    good = bad = 0
    for _ in range(10_000):
        data = mutate(rng.choice(originals), rng)
        try:
            message = codec.decode_message(data)
        except codec.MalformedMessage:
            bad += 1
            continue
        good += 1
        again = Message.serialize(message)
        assert again == data or len(again) < len(data), "only repeated keys may vanish"
    assert good > 500
    assert bad > 500

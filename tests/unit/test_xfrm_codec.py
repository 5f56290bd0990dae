"""Octets to and from NETLINK_XFRM: the compiler's own layout of <linux/xfrm.h> is the judge, keys never come back."""

from __future__ import annotations

import re
import struct
import subprocess
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from lab.policy import require_tool

from ipsecstack.dataplane.xfrm import codec
from ipsecstack.dataplane.xfrm.codec import Algorithm, Policy, State, new_policy, new_state, parse
from ipsecstack.dataplane.xfrm.messages import CLASSES
from ipsecstack.dataplane.xfrm.numbers import Attribute, Group, Message, StateFlag, StateMode, Verdict, Way
from ipsecstack.dataplane.xfrm.structures import (
    Encapsulation,
    Faults,
    Limits,
    PolicyInfo,
    Replay,
    Selector,
    StateId,
    StateInfo,
    Template,
    Use,
    socket_bypass,
)

KEY = bytes(range(100, 136))
SELECTOR = Selector(
    ip_address("10.1.0.0"), ip_address("10.2.0.0"), 24, 16, 17, 0x1122, 0xFFF0, 0x3344, 0xFFFF, 7, 0x495001F4
)
INFO = StateInfo(
    StateId(ip_address("192.0.2.2"), 0x0A0B0C0D, 50),
    ip_address("192.0.2.1"),
    SELECTOR,
    StateMode.TUNNEL,
    77,
    32,
    StateFlag.DECAP_DSCP | StateFlag.ESN,
    5,
    Limits(1, 2, 3, 4, 5, 6, 7, 8),
    Use(9, 10, 11, 12),
    Faults(13, 14, 15),
)
POLICY = PolicyInfo(SELECTOR, Way.FWD, Verdict.BLOCK, 1234, 99, 2, Limits(1, 2), Use(3, 4, 5, 6))
TEMPLATE = Template(
    50, StateMode.TUNNEL, 77, ip_address("192.0.2.1"), ip_address("192.0.2.2"), 0x01020304, True
)
REPLAY = Replay(0x1_0000_0005, 0x2_0000_0007, (1, 2, 0x80000000), 96)

# Each: what C makes of the same values. Fields are set by name in there, so that the compiler lays them out.
_C = r"""
#include <stdio.h>
#include <string.h>
#include <arpa/inet.h>
#include <linux/xfrm.h>
static void show(const char *name, const void *p, size_t n) {
  printf("%s ", name);
  for (size_t i = 0; i < n; i++) printf("%02x", ((const unsigned char *)p)[i]);
  printf("\n");
}
static void sel(struct xfrm_selector *s) {
  s->saddr.a4 = inet_addr("10.1.0.0"); s->daddr.a4 = inet_addr("10.2.0.0");
  s->prefixlen_s = 24; s->prefixlen_d = 16; s->proto = 17;
  s->sport = htons(0x1122); s->sport_mask = htons(0xfff0); s->dport = htons(0x3344); s->dport_mask = 0xffff;
  s->ifindex = 7; s->user = 0x495001F4; s->family = 2;
}
static void limits(struct xfrm_lifetime_cfg *l) {
  l->soft_byte_limit = 1; l->hard_byte_limit = 2; l->soft_packet_limit = 3; l->hard_packet_limit = 4;
  l->soft_add_expires_seconds = 5; l->hard_add_expires_seconds = 6;
  l->soft_use_expires_seconds = 7; l->hard_use_expires_seconds = 8;
}
int main(void) {
  struct xfrm_usersa_info i; memset(&i, 0, sizeof i); sel(&i.sel);
  i.id.daddr.a4 = inet_addr("192.0.2.2"); i.id.spi = htonl(0x0a0b0c0d); i.id.proto = 50;
  i.saddr.a4 = inet_addr("192.0.2.1"); limits(&i.lft);
  i.curlft.bytes = 9; i.curlft.packets = 10; i.curlft.add_time = 11; i.curlft.use_time = 12;
  i.stats.replay_window = 13; i.stats.replay = 14; i.stats.integrity_failed = 15;
  i.seq = 5; i.reqid = 77; i.family = 2; i.mode = 1; i.replay_window = 32;
  i.flags = XFRM_STATE_DECAP_DSCP | XFRM_STATE_ESN;
  show("state", &i, sizeof i);
  struct xfrm_userpolicy_info p; memset(&p, 0, sizeof p); sel(&p.sel); memset(&p.lft, 0xff, 32);
  p.lft.soft_byte_limit = 1; p.lft.hard_byte_limit = 2;
  p.curlft.bytes = 3; p.curlft.packets = 4; p.curlft.add_time = 5; p.curlft.use_time = 6;
  p.priority = 1234; p.index = 99; p.dir = XFRM_POLICY_FWD; p.action = XFRM_POLICY_BLOCK; p.flags = 2;
  show("policy", &p, sizeof p);
  struct xfrm_user_tmpl t; memset(&t, 0, sizeof t);
  t.id.daddr.a4 = inet_addr("192.0.2.2"); t.id.spi = htonl(0x01020304); t.id.proto = 50; t.family = 2;
  t.saddr.a4 = inet_addr("192.0.2.1"); t.reqid = 77; t.mode = 1; t.optional = 1;
  t.aalgos = t.ealgos = t.calgos = ~0u;
  show("template", &t, sizeof t);
  struct xfrm_encap_tmpl e; memset(&e, 0, sizeof e);
  e.encap_type = 2; e.encap_sport = htons(4500); e.encap_dport = htons(61234); e.encap_oa.a4 = inet_addr("10.0.0.9");
  show("encap", &e, sizeof e);
  struct { struct xfrm_replay_state_esn h; __u32 b[3]; } r; memset(&r, 0, sizeof r);
  r.h.bmp_len = 3; r.h.oseq = 5; r.h.oseq_hi = 1; r.h.seq = 7; r.h.seq_hi = 2; r.h.replay_window = 96;
  r.b[0] = 1; r.b[1] = 2; r.b[2] = 0x80000000;
  show("replay", &r, sizeof r);
  struct xfrm_usersa_id d; memset(&d, 0, sizeof d);
  d.daddr.a4 = inet_addr("192.0.2.2"); d.spi = htonl(0x0a0b0c0d); d.family = 2; d.proto = 50;
  show("name", &d, sizeof d);
  printf("sizes %zu %zu %zu %zu %zu %zu\n", sizeof(struct xfrm_userspi_info), sizeof(struct xfrm_userpolicy_id),
         sizeof(struct xfrm_user_acquire), sizeof(struct xfrm_user_expire), sizeof(struct xfrm_user_mapping),
         sizeof(struct xfrm_aevent_id));
  printf("attributes %d %d %d %d\n", XFRMA_TFCPAD, XFRMA_REPLAY_ESN_VAL, XFRMA_SA_EXTRA_FLAGS, XFRMA_IF_ID);
  printf("messages %d %d %d %d\n", XFRM_MSG_MAPPING, XFRM_MSG_NEWAE, XFRM_MSG_FLUSHPOLICY, XFRM_MSG_MIGRATE);
  printf("groups %d %d\n", XFRMNLGRP_MAPPING, XFRMNLGRP_AEVENTS);
  return 0;
}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    gcc = require_tool("gcc")
    place: Path = tmp_path_factory.mktemp("xfrm")
    source = place / "layout.c"
    source.write_text(_C)
    subprocess.run([gcc, "-o", place / "layout", source], check=True)
    text = subprocess.run([place / "layout"], check=True, capture_output=True, text=True).stdout
    return dict(line.split(" ", 1) for line in text.splitlines())


def test_structures_are_the_compilers(compiled: dict[str, str]) -> None:
    assert INFO.to_bytes().hex() == compiled["state"]
    assert POLICY.to_bytes().hex() == compiled["policy"]
    assert TEMPLATE.to_bytes().hex() == compiled["template"]
    assert Encapsulation(4500, 61234, ip_address("10.0.0.9")).to_bytes().hex() == compiled["encap"]
    assert REPLAY.to_bytes().hex() == compiled["replay"]
    assert INFO.id.to_bytes().hex() == compiled["name"]


def test_numbers_are_the_headers(compiled: dict[str, str]) -> None:
    assert compiled["sizes"] == "232 64 280 232 64 48"
    assert [int(n) for n in compiled["attributes"].split()] == [
        Attribute.TFCPAD,
        Attribute.REPLAY_ESN_VAL,
        Attribute.SA_EXTRA_FLAGS,
        Attribute.IF_ID,
    ]
    assert [int(n) for n in compiled["messages"].split()] == [
        Message.MAPPING,
        Message.NEWAE,
        Message.FLUSHPOLICY,
        Message.MIGRATE,
    ]
    assert [int(n) for n in compiled["groups"].split()] == [Group.MAPPING, Group.AEVENTS]


def test_structures_come_back() -> None:
    assert StateInfo.parse(INFO.to_bytes()) == INFO
    assert PolicyInfo.parse(POLICY.to_bytes()) == POLICY
    assert Template.parse(TEMPLATE.to_bytes()) == TEMPLATE
    assert Replay.parse_extended(REPLAY.to_bytes()) == REPLAY
    plain = Replay(5, 7, (0xF0,))
    assert Replay.parse(plain.to_bytes()) == plain
    six = Selector.between(ip_network("fd01::/64"), ip_network("fd02::/48"), user=3)
    assert Selector.parse(six.to_bytes()) == six
    anything = Selector.every(0)
    assert Selector.parse(anything.to_bytes()).family == 0


def test_an_sa_comes_back_without_its_keys() -> None:
    state = State(
        INFO,
        (Algorithm(Attribute.ALG_AEAD, "rfc4106(gcm(aes))", KEY, 128),),
        Encapsulation(4500, 61234),
        REPLAY,
        tfc_padding=1400,
        extra_flags=1,
        mark=(0x10, 0xFF),
        if_id=42,
    )
    octets = new_state(state).to_bytes(9, 4711)
    assert KEY in octets
    (received,) = parse(octets)
    assert (received.sequence, received.port) == (9, 4711)
    assert isinstance(received.answer, codec.StateFound)
    found = received.answer.state
    assert KEY not in repr(found).encode()
    bare = Algorithm(Attribute.ALG_AEAD, "rfc4106(gcm(aes))", b"", 128, 8 * len(KEY))
    assert found == replace(state, algorithms=(bare,))


def test_keys_are_not_shown() -> None:
    algorithm = Algorithm(Attribute.ALG_CRYPT, "cbc(aes)", b"sixteen secrets!")
    request = new_state(State(INFO, (algorithm,)))
    for text in (repr(algorithm), repr(State(INFO, (algorithm,))), repr(request)):
        assert "secret" not in text


def test_a_policy_comes_back() -> None:
    policy = Policy(POLICY, (TEMPLATE, replace(TEMPLATE, optional=False)), (1, 2), 3)
    (received,) = parse(new_policy(policy).to_bytes(1))
    assert received.answer == codec.PolicyFound(policy)


def test_pyroute2_reads_what_its_classes_wrote() -> None:
    octets = new_policy(Policy(POLICY, (TEMPLATE,), if_id=3)).to_bytes(1)
    message = CLASSES[Message.NEWPOLICY](octets)
    message.decode()
    assert message["body"] == POLICY.to_bytes()
    assert message.get_attr("XFRMA_TMPL") == TEMPLATE.to_bytes()
    assert message.get_attr("XFRMA_IF_ID") == 3


def header(kind: int, body: bytes, sequence: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def test_events() -> None:
    expire = header(Message.EXPIRE, INFO.to_bytes() + b"\1" + bytes(7))
    acquire = header(
        Message.ACQUIRE,
        INFO.id.to_bytes()[:16]
        + bytes(4)
        + bytes([50, 0, 0, 0])
        + ip_address("192.0.2.1").packed.ljust(16, b"\0")
        + SELECTOR.to_bytes()
        + POLICY.to_bytes()
        + struct.pack("=IIII", 0, 0, 0, 21)
        + struct.pack("=HH", 68, Attribute.TMPL)
        + TEMPLATE.to_bytes(),
    )
    mapping = header(
        Message.MAPPING,
        INFO.id.to_bytes()
        + struct.pack("=I", 77)
        + ip_address("192.0.2.1").packed.ljust(16, b"\0")
        + ip_address("192.0.2.9").packed.ljust(16, b"\0")
        + struct.pack(">HH", 4500, 61234),
    )
    answers = [received.answer for received in parse(expire + acquire + mapping)]
    assert answers[0] == codec.StateExpired(INFO, True)
    assert isinstance(answers[1], codec.AcquireAsked)
    assert (answers[1].seq, answers[1].template, answers[1].destination) == (
        21,
        TEMPLATE,
        ip_address("192.0.2.2"),
    )
    assert answers[2] == codec.MappingChanged(
        INFO.id, 77, (ip_address("192.0.2.1"), 4500), (ip_address("192.0.2.9"), 61234)
    )


def test_errors_say_why() -> None:
    text = b"Requested AEAD algorithm not found\0"
    body = struct.pack("=i", -38) + struct.pack("=IHHII", 400, 16, 5, 3, 0)
    body += struct.pack("=HH", 4 + len(text), 1) + text + b"\0"
    (received,) = parse(header(Message.ERROR, body, 3))
    assert received.answer == codec.Acknowledged(38, "Requested AEAD algorithm not found")
    (received,) = parse(header(Message.ERROR, bytes(20), 3))
    assert received.answer == codec.Acknowledged(0)


def test_a_glance_agrees_with_the_whole() -> None:
    octets = INFO.to_bytes() + struct.pack("=HHQ", 12, Attribute.LASTUSED, 1700000000)
    found = codec.glance(octets)
    assert found == codec.Glance(INFO.id, SELECTOR.user, INFO.use, INFO.faults, 1700000000)
    assert codec.glance(octets[:200]) is None


def test_socket_bypass_is_a_policy_of_everything() -> None:
    for version, family in ((4, 2), (6, 10)):
        info = PolicyInfo.parse(socket_bypass(version, Way.OUT))
        assert (info.way, info.verdict, info.selector.source_prefix) == (Way.OUT, Verdict.ALLOW, 0)
        assert info.selector.to_bytes()[40:42] == struct.pack("=H", family)


def test_cut_messages_are_left_out() -> None:
    whole = new_state(State(INFO)).to_bytes(1)
    for length in range(len(whole)):
        assert parse(whole[:length]) == []
    short = header(Message.NEWSA, INFO.to_bytes()[:100])
    assert parse(short)[0].answer == codec.Other(Message.NEWSA)
    assert re.fullmatch(r"the ESP SA 0a0b0c0d to 192\.0\.2\.2", new_state(State(INFO)).what)

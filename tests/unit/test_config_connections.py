"""A connection's section -> ConnectionConfig: defaults, every key, and what is refused or warned of."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsecstack.config.certs import FolderSource
from ipsecstack.config.connections import read_connection
from ipsecstack.config.daemon import SETTINGS, read_daemon
from ipsecstack.config.keys import (
    AUTH_UNSUPPORTED,
    AUTHORITY_UNSUPPORTED,
    CHILD_UNSUPPORTED,
    CONNECTION_UNSUPPORTED,
    Treatment,
)
from ipsecstack.config.loader import tree_from_text
from ipsecstack.config.reader import SectionReader
from ipsecstack.config.tree import ConfigError
from ipsecstack.ipsec.sa import Mode
from ipsecstack.keyex.configuration import AuthClass, ChildAction, ConnectionConfig, UniquePolicy
from ipsecstack.keyex.options import Options


def read(body: str, warnings: list[str] | None = None) -> ConnectionConfig:
    tree = tree_from_text(f"c {{\n{body}\n}}", "x.conf")
    sink = [] if warnings is None else warnings
    return read_connection(tree.sections["c"], FolderSource(Path("/nonexistent")), sink.append)


def child(body: str, warnings: list[str] | None = None) -> object:
    return read(f"children {{\n k {{\n{body}\n}} }}", warnings).children[0]


def test_defaults_are_swanctls() -> None:
    conn = read("children { k { } }")
    assert (conn.version, conn.local_addrs, conn.remote_addrs) == (2, ("%any",), ("%any",))
    assert (conn.rekey_time, conn.over_time, conn.rand_time) == (14400, 1440, 1440)
    assert (conn.local_port, conn.remote_port, conn.encap, conn.dpd_delay) == (500, 500, False, 0)
    assert (conn.unique, conn.keyingtries, conn.send_cert) == (UniquePolicy.NO, 1, "ifasked")
    assert [a.auth for a in conn.local + conn.remote] == [AuthClass.PUBKEY, AuthClass.PUBKEY]
    assert conn.remote[0].id is not None
    assert conn.remote[0].id.is_any
    (kid,) = conn.children
    assert (kid.rekey_time, kid.life_time, kid.rand_time) == (3600, 3960, 360)
    assert (kid.rekey_bytes, kid.life_bytes, kid.rand_bytes) == (0, 0, 0)
    assert (kid.local_ts, kid.remote_ts, kid.mode, kid.policy) == ((), (), Mode.TUNNEL, "PROTECT")
    assert (kid.start_action, kid.dpd_action, kid.close_action) == (
        ChildAction.NONE,
        ChildAction.CLEAR,
        ChildAction.NONE,
    )
    assert kid.replay_window == 32


def test_every_supported_key_arrives() -> None:
    conn = read(
        """version = 2
        local_addrs = 10.0.0.1, fe80::1
        remote_addrs = gw.example.org, 10.0.0.0/8, 10.0.0.1-10.0.0.9, %any
        local_port = 600
        remote_port = 601
        proposals = aes256gcm16-prfsha384-ecp384
        encap = yes
        unique = replace
        keyingtries = 0
        dpd_delay = 30s
        rekey_time = 2h
        over_time = 5m
        rand_time = 1m
        send_cert = always
        send_certreq = no
        local-x { auth = psk
            id = a.lab
            round = 1 }
        remote { auth = pubkey-sha256-sha384
            id = "C=CH, O=lab, CN=b" }
        children {
          one { local_ts = 10.1.0.0/24, 10.3.0.0/24[tcp/80-90]
            remote_ts = 2001:db8::/64
            esp_proposals = aes128gcm16-x25519-esn, default
            life_time = 1h
            life_bytes = 100m
            rekey_packets = 1000
            start_action = trap
            dpd_action = restart
            close_action = start
            replay_window = 64
            priority = 7
            reqid = 9
            mode = transport }
          two { mode = drop
             remote_ts = 0.0.0.0/0 }
          three { mode = pass } } """
    )
    assert (conn.local_port, conn.remote_port, conn.encap, conn.keyingtries) == (600, 601, True, 0)
    assert (conn.rekey_time, conn.over_time, conn.rand_time, conn.dpd_delay) == (7200, 300, 60, 30)
    assert (conn.send_cert, conn.send_certreq, conn.unique) == ("always", False, UniquePolicy.REPLACE)
    assert conn.remote_addrs == ("gw.example.org", "10.0.0.0/8", "10.0.0.1-10.0.0.9", "%any")
    assert conn.local[0].auth is AuthClass.PSK
    assert conn.local[0].id is not None
    assert conn.local[0].id.data == b"a.lab"
    assert conn.remote[0].auth_hashes == ("pubkey-sha256", "pubkey-sha384")
    one, two, three = conn.children
    assert [str(ts) for ts in one.local_ts] == ["10.1.0.0/24", "10.3.0.0/24[tcp/80-90]"]
    assert (one.rekey_time, one.life_time, one.rand_time) == (3240, 3600, 360)
    assert (one.rekey_bytes, one.life_bytes) == ((100 << 20) * 9 // 10, 100 << 20)
    assert (one.rekey_packets, one.life_packets, one.rand_packets) == (1000, 1100, 100)
    assert (one.start_action, one.dpd_action, one.close_action) == (
        ChildAction.TRAP,
        ChildAction.RESTART,
        ChildAction.START,
    )
    assert (one.replay_window, one.priority, one.reqid, one.mode) == (64, 7, 9, Mode.TRANSPORT)
    assert len(one.proposals) == 3
    assert (two.policy, three.policy) == ("DISCARD", "BYPASS")


def test_shunts_need_no_authentication() -> None:
    conn = read("children { p { mode = pass } }")
    assert (conn.local, conn.remote) == ((), ())


@pytest.mark.parametrize(
    ("body", "where", "word"),
    [
        ("remote_adrs = 10.0.0.1", "x.conf:2: connections.c.remote_adrs", "did you mean 'remote_addrs'"),
        ("version = 1", "connections.c.version", "IKEv1"),
        ("version = two", "connections.c.version", "not a number"),
        ("remote_addrs = 10.0.0.300", "connections.c.remote_addrs", "no address"),
        ("remote_addrs = 10.0.0.9-10.0.0.1", "connections.c.remote_addrs", "no address"),
        ("local_port = 70000", "connections.c.local_port", "0..65535"),
        ("rekey_time = 3 weeks", "connections.c.rekey_time", "not a time"),
        ("proposals = aes128", "connections.c.proposals", "names no"),
        ("encap = maybe", "connections.c.encap", "neither yes nor no"),
        ("unique = always", "connections.c.unique", "never, no, keep, replace"),
        ("locla { auth = psk }", "connections.c.locla", "did you mean 'local'"),
        ("local { auth = xauth }", "connections.c.local.auth", "not supported yet"),
        ("local { auth = pks }", "connections.c.local.auth", "did you mean 'psk'"),
        ("remote { auth = rsa-4096 }", "connections.c.remote.auth", "4096"),
        ("remote { auth = pubkey-sha1 }", "connections.c.remote.auth", "sha1"),
        ("local { id = @ }", "connections.c.local.id", "without a name"),
        ("local { certs = none.pem }", "connections.c.local.certs", "cannot read"),
        ("local { cert1 { slot = 1 } }", "connections.c.local.cert1.slot", "token"),
        ("local { cert1 { } }", "connections.c.local.cert1", "names no certificate"),
        ("local { x { } }", "connections.c.local.x", "unknown section"),
        ("children { k { local_ts = 10.0.0.0/99 } }", "children.k.local_ts", "10.0.0.0/99"),
        ("children { k { local_ts = dynamic/24 } }", "children.k.local_ts", "dynamic"),
        ("children { k { if_id_in = 7 } }", "children.k.if_id_out", "both keys"),
        ("children { k { mark_in = %unique\n mark_out = %unique } }", "children.k.mark_in", "number"),
        ("children { k { pfp = remot } }", "children.k.pfp", "remote"),
        ("children { k { interface = a/b } }", "children.k.interface", "interface"),
        (
            "children { k { rekey_time = 2h\n life_time = 1h } }",
            "x.conf:3: connections.c.children.k.life_time",
            "less than",
        ),
        ("children { k { mode = beet } }", "children.k.mode", "tunnel, transport, pass, drop"),
        ("children { k { mode = pass\n start_action = start } }", "children.k.start_action", "write trap"),
        (
            "children { k { esp_proposal = default } }",
            "children.k.esp_proposal",
            "did you mean 'esp_proposals'",
        ),
        ("children { k { x { } } }", "children.k.x", "no sections"),
        ("children { x = 1 }", "connections.c.children.x", "unknown key"),
        (f"children {{ {'n' * 200} {{ }} }}", "children", "1..120"),
    ],
)
def test_errors_name_file_line_key_and_cure(body: str, where: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(body)
    assert where in str(caught.value)
    assert word in str(caught.value)
    assert str(caught.value).startswith("x.conf:")


def every_unsupported() -> list[tuple[str, str, bool, str]]:
    found = []
    for template, table in (
        ("{key} = {value}", CONNECTION_UNSUPPORTED),
        ("remote {{ {key} = {value} }}", AUTH_UNSUPPORTED),
        ("children {{ k {{ {key} = {value} }} }}", CHILD_UNSUPPORTED),
    ):
        for key, what in table.items():
            harmless = next(iter(sorted(what.harmless)), "")
            found.append(
                (template.format(key=key, value="something"), key, what.treatment is Treatment.REFUSE, "")
            )
            if harmless:
                found.append((template.format(key=key, value=harmless), key, False, harmless))
    return found


@pytest.mark.parametrize(("body", "key", "refused", "harmless"), every_unsupported())
def test_known_but_unsupported_keys(body: str, key: str, refused: bool, harmless: str) -> None:
    """Refused where ignoring would protect less, warned of otherwise, silent where the value changes nothing."""
    warnings: list[str] = []
    if refused:
        with pytest.raises(ConfigError, match=f"{key}: is not supported yet"):
            read(body, warnings)
        return
    read(body, warnings)
    assert len(warnings) == (0 if harmless else 1)
    assert all(key in text and text.startswith("x.conf:2") for text in warnings)


def test_security_relevant_keys_are_refused() -> None:
    for key in ("updown", "set_mark_in", "label", "policies"):
        assert CHILD_UNSUPPORTED[key].treatment is Treatment.REFUSE
    for key in ("cert_policy", "ca_id", "groups", "pubkeys"):
        assert AUTH_UNSUPPORTED[key].treatment is Treatment.REFUSE
    for key in ("aggressive", "if_id_in"):
        assert CONNECTION_UNSUPPORTED[key].treatment is Treatment.REFUSE


def test_ah_proposals_stand_alone_or_before_those_of_esp() -> None:
    def protocols(text: str) -> list[tuple[str, int]]:
        return [(p.protocol.name, len(p.integ)) for p in child(text, []).proposals]

    assert protocols("ah_proposals = sha256-sha1-esn") == [("AH", 2)]
    assert protocols("ah_proposals = sha256\n esp_proposals = aes128-sha256") == [("AH", 1), ("ESP", 1)]
    assert {name for name, _ in protocols("mode = tunnel")} == {"ESP"}
    with pytest.raises(ConfigError, match=r"ah_proposals: proposal 'md5' names what is weak"):
        child("ah_proposals = md5", [])


def test_revocation_of_the_remote() -> None:
    assert read("remote { revocation = strict }").remote[0].revocation == "strict"
    assert read("remote { }").remote[0].revocation == "relaxed"
    with pytest.raises(ConfigError, match=r"remote\.revocation"):
        read("remote { revocation = sometimes }")
    with pytest.raises(ConfigError, match=r"local\.revocation"):
        read("local { revocation = strict }")


def test_sha256_96_is_a_switch() -> None:
    assert child("sha256_96 = yes", []).sha256_96
    assert not child("mode = tunnel", []).sha256_96


def test_weak_algorithms_are_warned_of() -> None:
    warnings: list[str] = []
    child("esp_proposals = 3des-sha1-weak", warnings)
    assert warnings == ["x.conf:4: connections.c.children.k.esp_proposals: weak by today's measure: 3DES_CBC"]


# --- the daemon's own section -----------------------------------------------------------------------------------------


def test_daemon_settings_are_typed() -> None:
    tree = tree_from_text(
        "ipsecstackd { retransmit_timeout = 0.5\n retransmit_tries = 3\n socket = /x\n export_keys = yes }"
    )
    assert read_daemon(tree.sections["ipsecstackd"], print) == {
        "retransmit_timeout": 0.5, "retransmit_tries": 3, "socket": "/x", "export_keys": True,
    }  # fmt: skip
    assert read_daemon(None, print) == {}


def test_daemon_settings_name_real_options() -> None:
    """Every setting that is no option of the key exchange is one of the few that the daemon itself reads."""
    own = {"socket", "group", "log_level", "dataplane", "device", "mtu", "pid_file", "nat_keepalive",
           "kernel_policies", "install_routes", "qcd_secret_file"}  # fmt: skip
    assert set(SETTINGS) - own <= set(Options.__dataclass_fields__)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("retransmit_tires = 3", "did you mean 'retransmit_tries'"),
        ("port = 0", "1..65535"),
        ("dataplane = pf_key", "tun, "),
        ("retransmit_timeout = fast", "not a number"),
        ("x { }", "no such section"),
    ],
)
def test_bad_daemon_settings(body: str, word: str) -> None:
    tree = tree_from_text(f"ipsecstackd {{ {body}\n }}", "x.conf")
    with pytest.raises(ConfigError, match=word):
        read_daemon(tree.sections["ipsecstackd"], print)


def test_the_documentation_names_every_key(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/configuration.md says of each key whether it is supported, refused or ignored."""
    text = (repository / "docs" / "configuration.md").read_text()
    supported, rest = text.split("**Known, not supported yet.**")
    refused, rest = rest.split("Named in a warning and ignored:")
    warned, daemon = rest.split("**`ipsecstackd { }`.**")
    asked: set[str] = set()
    original = SectionReader.finish

    def finish(self: SectionReader, *args: object, **more: object) -> None:
        asked.update(self._asked)
        original(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(SectionReader, "finish", finish)
    read("local { auth = psk }\nremote { }\nchildren { c { } }")
    assert {key for key in asked if f"`{key}`" not in supported} == set()
    for table in (CONNECTION_UNSUPPORTED, AUTH_UNSUPPORTED, CHILD_UNSUPPORTED, AUTHORITY_UNSUPPORTED):
        for key, what in table.items():
            assert f"`{key}`" in (refused if what.treatment is Treatment.REFUSE else warned), key
    assert {key for key in SETTINGS if f"`{key}`" not in daemon} == set()


@pytest.mark.parametrize(("text", "rate"), [("0", 0.0), ("2.5", 2.5), ("1000", 1000.0)])
def test_dummy_rate(text: str, rate: float) -> None:
    assert child(f"dummy_rate = {text}").dummy_rate == rate
    assert child("mode = tunnel").dummy_rate == 0.0


@pytest.mark.parametrize("text", ["-1", "1001", "nan", "inf", "many", "\u0661"])
def test_dummy_rates_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"dummy_rate.*packets a second"):
        child(f"dummy_rate = {text}")


def test_keys_of_children_beside_selectors_and_proposals() -> None:
    """IPComp, TFC, what crosses between headers, and what binds a child to an interface."""
    config = read(
        """children { k {
            local_ts = dynamic[tcp/80], 10.1.0.0/24, dynamic
            ipcomp = yes\n tfc_padding = mtu\n copy_df = no\n copy_ecn = no\n copy_dscp = yes\n inactivity = 5m
            interface = ipsec7\n if_id_in = 0x10\n if_id_out = 16\n mark_in = 0x105/0xff\n mark_out = 5/255
            mark_in_sa = yes\n pfp = remote, protocol\n hostaccess = yes
        } }"""
    )
    (found,) = config.children
    assert [ts.to_text() for ts in found.local_ts] == ["dynamic[tcp/80]", "10.1.0.0/24", "dynamic"]
    assert (found.ipcomp, found.tfc, found.copy_df, found.copy_ecn) == (True, -1, False, False)
    assert (found.copy_dscp, found.inactivity, found.interface, found.if_id) == ("yes", 300, "ipsec7", 16)
    assert (found.mark, found.mark_in_sa, found.pfp) == ((5, 255), True, {"remote", "protocol"})

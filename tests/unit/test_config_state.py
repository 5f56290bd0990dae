"""Files and folders -> desired state -> running daemon."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from lab.revocation import RevokingCa
from vici_support.certs import certificate
from vici_support.fake import FakeEndpoint

from ipsecstack.config import ConfigError, load_file
from ipsecstack.config.apply import Applier
from ipsecstack.keyex.credentials import CredentialStore

CONF = """
connections {
  one { remote_addrs = 10.0.0.2
    local { auth = psk
      id = a.lab }
    remote { auth = psk
      id = b.lab }
    children { net { local_ts = 10.1.0.0/24 } } }
  two { local { certs = a.pem }
    remote { cacerts = ca.pem } }
}
secrets {
  ike-1 { secret = hunter2
    id-a = a.lab
    id-b = b.lab }
  ike-2 { secret = 0x0102 }
  eap-x { secret = unused }
  private-a { file = a.key
    secret = opensesame }
}
authorities { lab { cacert = ca.pem } }
pools { }
ipsecstackd { retransmit_tries = 2 }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete configuration folder, as swanctl has it."""
    for name in ("x509", "x509ca", "private"):
        (tmp_path / name).mkdir()
    pem, key = certificate("a.lab", ca=False)
    (tmp_path / "x509" / "a.pem").write_bytes(pem)
    (tmp_path / "x509ca" / "ca.pem").write_bytes(certificate("lab CA", ca=True)[0])
    encrypted = BestAvailableEncryption(b"opensesame")
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encrypted)
    (tmp_path / "private" / "a.key").write_bytes(data)
    (tmp_path / "swanctl.conf").write_text(CONF)
    for name in ("swanctl.conf", "private/a.key"):
        (tmp_path / name).chmod(0o600)
    return tmp_path


def test_everything_is_read(folder: Path) -> None:
    state = load_file(folder / "swanctl.conf")
    assert [c.name for c in state.connections] == ["one", "two"]
    two = state.connections[1]
    assert len(two.local[0].certs) == len(two.remote[0].cacerts) == 1
    assert two.local[0].id is not None
    assert two.local[0].id.text == "CN=a.lab"
    assert [(s.id, s.data, [o.text for o in s.owners]) for s in state.secrets] == [
        ("ike-1", b"hunter2", ["a.lab", "b.lab"]), ("ike-2", b"\x01\x02", []), ("eap-x", b"unused", []),
    ]  # fmt: skip
    assert [(Path(c.path).name, c.ca) for c in state.certificates] == [("a.pem", False), ("ca.pem", True)]
    assert [Path(k.path).name for k in state.keys] == ["a.key"]
    assert [a.name for a in state.authorities] == ["lab"]
    assert state.options == {"retransmit_tries": 2}
    assert state.warnings == ()


def test_secrets_are_in_no_repr(folder: Path) -> None:
    text = repr(load_file(folder / "swanctl.conf"))
    for secret in ("hunter2", "opensesame", r"b'\x01\x02'", "PRIVATE KEY"):
        assert secret not in text


def test_open_permissions_are_warned_of(folder: Path) -> None:
    (folder / "swanctl.conf").chmod(0o640)
    (folder / "private" / "a.key").chmod(0o604)
    warnings = [w for w in load_file(folder / "swanctl.conf").warnings if "holds secrets" in w]
    assert len(warnings) == 2
    assert any("swanctl.conf" in w and "0640" in w and "chmod 600" in w for w in warnings)
    assert any("a.key" in w and "0604" in w for w in warnings)


def test_strange_files_are_warned_of_and_broken_ones_refused(folder: Path) -> None:
    (folder / "x509ca" / "ca.srl").write_text("1234\n")
    (folder / "private" / "README").write_text("keys live here")
    (folder / "x509" / ".keep").write_text("")
    (folder / "x509crl").mkdir()
    (folder / "x509crl" / "a.crl").write_text("x")
    (folder / "x509ocsp").mkdir()
    (folder / "x509ocsp" / "o.pem").write_text("x")
    warnings = load_file(folder / "swanctl.conf").warnings
    for name in ("ca.srl", "README", "a.crl", "x509ocsp"):
        assert any(name in w for w in warnings), name
    assert not any(".keep" in w for w in warnings)
    (folder / "x509" / "b.pem").write_text("-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=r"b\.pem"):
        load_file(folder / "swanctl.conf")


def test_an_end_entity_certificate_is_no_trust_anchor(folder: Path) -> None:
    (folder / "x509ca" / "b.pem").write_bytes(certificate("evil", ca=False)[0])
    with pytest.raises(ConfigError, match=r"b\.pem: the CA certificate lacks the CA basic constraint"):
        load_file(folder / "swanctl.conf")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("connections {", "conections {", r"swanctl.conf:2: conections: unknown section; did you mean 'connections'"),
        ("ike-2 {", "ikx-2 {", "unknown kind of secret"),
        ("secret = 0x0102", "secrt = 1", "unknown key 'secrt'|has no secret"),
        ("secret = 0x0102", "secret = 0xzz", "hexadecimal"),
        ("id-a = a.lab", "id-a = @", "secrets.ike-1.id"),
        ("file = a.key", "", "names no key file"),
        ("cacert = ca.pem", "cacert = none.pem", "authorities.lab.cacert: cannot read"),
        ("cacert = ca.pem", "", "names no CA certificate"),
        ("pools { }", "stray = 1", "a setting outside of all sections"),
        ("certs = a.pem", "certs = b.pem", r"connections.two.local.certs: cannot read .*/x509/b.pem"),
    ],
)  # fmt: skip
def test_errors_in_a_file(folder: Path, old: str, new: str, word: str) -> None:
    file = folder / "swanctl.conf"
    assert old in CONF
    file.write_text(CONF.replace(old, new))
    with pytest.raises(ConfigError, match=word) as caught:
        load_file(file)
    assert "hunter2" not in str(caught.value)


def test_templates_may_stand_at_the_top(folder: Path) -> None:
    (folder / "swanctl.conf").write_text(
        "base { version = 2\n local { auth = psk } }\nconnections { x : base { remote_addrs = 10.0.0.1 } }"
    )
    (conn,) = load_file(folder / "swanctl.conf").connections
    assert conn.local[0].auth.value == "psk"


# --- applying ---------------------------------------------------------------------------------------------------------


def applier(folder: Path) -> tuple[Applier, FakeEndpoint, CredentialStore]:
    endpoint, store = FakeEndpoint(), CredentialStore()
    return Applier(folder / "swanctl.conf", endpoint, store), endpoint, store  # type: ignore[arg-type]


def test_apply_loads_everything_once(folder: Path) -> None:
    daemon, endpoint, store = applier(folder)
    report = daemon.reload(0)
    assert (report.loaded, report.unloaded) == (("one", "two"), ())
    assert store.shared_ids() == ["ike-1", "ike-2", "eap-x"]
    assert len(store.key_ids()) == 1
    assert list(store.authorities()) == ["lab"]
    assert len(store.certificates()) == 2
    endpoint.calls.clear()
    report = daemon.reload(1)
    assert (report.loaded, report.unloaded, endpoint.calls) == ((), (), [])


def test_apply_changes_only_what_changed(folder: Path) -> None:
    daemon, _, store = applier(folder)
    daemon.reload(0)
    text = CONF.replace("10.1.0.0/24", "10.9.0.0/24").replace("ike-2 { secret = 0x0102 }", "")
    text = text.replace("authorities { lab { cacert = ca.pem } }", "")
    a, b = text.index("  two {"), text.index("secrets {")
    (folder / "swanctl.conf").write_text(text[:a] + "}\n" + text[b:])
    (folder / "private" / "a.key").unlink()
    (folder / "x509" / "a.pem").unlink()
    report = daemon.reload(1)
    assert (report.loaded, report.unloaded) == (("one",), ("two",))
    assert store.shared_ids() == ["ike-1", "eap-x"]
    assert store.key_ids() == []
    assert [c.subject for c in store.certificates()] == ["CN=lab CA"]
    assert store.authorities() == {}


def test_revocation_lists_and_where_more_are(folder: Path) -> None:
    """Lists of the folder come and go with their files, newer ones take the older ones' place; a broken one is told."""
    ca = RevokingCa("lab CA", time.time())
    lists = folder / "x509crl"
    lists.mkdir()
    (lists / "lab.crl").write_bytes(ca.crl(number=1))
    uris = "cacert = ca.pem\n crl_uris = http://c/a.crl, http://c/b.crl\n ocsp_uris = http://o/\n"
    (folder / "swanctl.conf").write_text(CONF.replace("cacert = ca.pem }", uris + "}"))
    daemon, _, store = applier(folder)
    daemon.reload(0)
    assert [crl.number for crl in store.revocations.lists()] == [1]
    authority = store.authorities()["lab"]
    assert (authority.crl_uris, authority.ocsp_uris) == (("http://c/a.crl", "http://c/b.crl"), ("http://o/",))
    (lists / "lab.crl").write_bytes(ca.crl(number=2, begins=-1))
    daemon.reload(1)
    assert [crl.number for crl in store.revocations.lists()] == [2]
    (lists / "delta.crl").write_bytes(ca.crl(number=3, extra=x509.DeltaCRLIndicator(2)))
    with pytest.raises(ConfigError, match=r"delta\.crl: delta certificate revocation lists are not handled"):
        daemon.reload(2)
    assert [crl.number for crl in store.revocations.lists()] == [2]
    for path in lists.iterdir():
        path.unlink()
    daemon.reload(3)
    assert store.revocations.lists() == []
    text = (folder / "swanctl.conf").read_text()
    (folder / "swanctl.conf").write_text(text.replace("http://o/", "ldap://o/"))
    with pytest.raises(ConfigError, match=r"ocsp_uris: 'ldap://o/' is no address that is fetched"):
        daemon.reload(4)


def test_what_vici_loaded_survives_a_reload(folder: Path) -> None:
    daemon, endpoint, _ = applier(folder)
    daemon.reload(0)
    extra = load_file(folder / "swanctl.conf").connections[0]
    endpoint.load_connection(replace(extra, name="vici"), 0)
    daemon.reload(1)
    assert [c.name for c in endpoint.connections()] == ["one", "two", "vici"]


def test_what_vici_unloaded_comes_back_with_a_reload(folder: Path) -> None:
    daemon, endpoint, store = applier(folder)
    daemon.reload(0)
    endpoint.unload_connection("two", 0)
    store.clear()
    assert daemon.reload(1).loaded == ("two",)
    assert store.shared_ids() == ["ike-1", "ike-2", "eap-x"]
    assert len(store.key_ids()) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("connections {", "connections { {"),
        ("opensesame", "wrong"),
        ("hunter2", "0x"),
        ("auth = psk", "auth = nothing"),
    ],
)
def test_a_broken_file_changes_nothing(folder: Path, old: str, new: str) -> None:
    daemon, endpoint, store = applier(folder)
    daemon.reload(0)
    before = (endpoint.connections(), store.shared_ids(), store.key_ids(), store.find_shared(None, None))
    key = certificate("x", ca=False)[1]
    (folder / "private" / "b.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "swanctl.conf").write_text(CONF.replace(old, new).replace("ike-2", "ike-3"))
    endpoint.calls.clear()
    with pytest.raises(ConfigError) as caught:
        daemon.reload(1)
    assert "opensesame" not in str(caught.value)
    assert "wrong" not in str(caught.value).replace("wrong passphrase", "")
    assert endpoint.calls == []
    assert (
        endpoint.connections(),
        store.shared_ids(),
        store.key_ids(),
        store.find_shared(None, None),
    ) == before
    (folder / "swanctl.conf").write_text(CONF)
    daemon.reload(2)
    assert len(store.key_ids()) == 2


def test_an_encrypted_key_without_passphrase_says_what_to_do(folder: Path) -> None:
    text = CONF.replace("private-a {", "private-a {\n").replace("secret = opensesame", "")
    (folder / "swanctl.conf").write_text(text)
    daemon, _, _ = applier(folder)
    with pytest.raises(ConfigError, match=r"a\.key: .*file = a\.key"):
        daemon.reload(0)


def test_the_commented_example_is_right(repository: Path, tmp_path: Path) -> None:
    """conf/swanctl.conf loads as it is; what it has commented out loads too, once its files are there."""
    example = repository / "conf" / "swanctl.conf"
    assert [c.name for c in load_file(example).connections] == ["branch"]
    lines = example.read_text().splitlines()
    text = "\n".join(re.sub(r"^(\s*)#(?! )", r"\1", re.sub(r"^(  )#  ", r"\1  ", line)) for line in lines)
    for name in ("x509", "x509ca", "private"):
        (tmp_path / name).mkdir()
    (tmp_path / "x509" / "hq.pem").write_bytes(certificate("hq.example.org", ca=False)[0])
    (tmp_path / "x509ca" / "partners-ca.pem").write_bytes(certificate("CA", ca=True)[0])
    (tmp_path / "swanctl.conf").write_text(text)
    with pytest.raises(ConfigError, match=r"ike-branch\.secret"):  # the placeholder is not a secret
        load_file(tmp_path / "swanctl.conf")
    (tmp_path / "swanctl.conf").write_text(
        text.replace("0s-put-yours-here-", "0sc2VjcmV0IG9mIHRoaXMgdGVzdA==")
    )
    state = load_file(tmp_path / "swanctl.conf")
    assert [c.name for c in state.connections] == ["branch", "partners"]
    assert {"group", "pid_file", "cookie_threshold"} <= set(state.options)

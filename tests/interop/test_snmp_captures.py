"""tshark as decoder: whatever the agent answers decodes, encrypted or not, without a complaint.

The agent runs in a network namespace of its own, and all that passes its loopback device is captured.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.capture import Capture, tshark
from lab.netns import Namespace
from lab.ours import OurAgent
from lab.policy import require_tool
from lab.snmp import Snmp, SnmpError

PORT = 1161
SYSTEM = "1.3.6.1.2.1.1"
ENGINE = "80007ed90463617074757265"
PASSWORDS = ("an authentication password", "and one for privacy")
USERS = {
    # name: auth and priv as we, net-snmp and tshark call them
    "sha224": (("SHA-224", "SHA-224", "SHA2-224"), None),
    "sha256": (("SHA-256", "SHA-256", "SHA2-256"), ("AES-128", "AES", "AES")),
    "sha384": (("SHA-384", "SHA-384", "SHA2-384"), ("AES-192", "AES-192", "AES192")),
    "sha512": (("SHA-512", "SHA-512", "SHA2-512"), ("AES-256", "AES-256", "AES256")),
    "sha1": (("SHA-1", "SHA", "SHA1"), ("AES-128", "AES", "AES")),
    "md5": (("MD5", "MD5", "MD5"), ("DES", "DES", "DES")),
}
WEAK = ("sha1", "md5")


@pytest.fixture(autouse=True)
def _tools() -> None:
    for tool in ("tshark", "snmpget", "snmpbulkwalk", "snmpset"):
        require_tool(tool)


def user(name: str) -> str:
    auth, priv = USERS[name]
    text = (
        f'[[user]]\nname = "{name}"\ngroup = "users"\nauth = "{auth[0]}"\nauth_password = "{PASSWORDS[0]}"\n'
    )
    if priv:
        text += f'priv = "{priv[0]}"\npriv_password = "{PASSWORDS[1]}"\n'
    return text + ("weak = true\n" if name in WEAK else "")


def credentials(name: str) -> tuple[str, ...]:
    auth, priv = USERS[name]
    words = ("-v3", "-u", name, "-l", "authPriv" if priv else "authNoPriv", "-a", auth[1], "-A", PASSWORDS[0])
    return (*words, "-x", priv[1], "-X", PASSWORDS[1]) if priv else words


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[OurAgent]:
    namespace = Namespace("capture")
    try:
        made = OurAgent({}, tmp_path / "agent", namespace, port=PORT)
        text = made.conf.read_text().replace("[agent]", f'[agent]\nengine_id = "{ENGINE}"', 1)
        text = text.replace('listen = ["', 'listen = ["[::1]:1161", "')
        text += '[[access]]\ngroup = "users"\nlevel = "authNoPriv"\nread = "all"\n'
        text += '[[community]]\nname = "old"\ngroup = "olds"\nversions = ["v1"]\nnetworks = ["127.0.0.0/8"]\n'
        text += '[[access]]\ngroup = "olds"\nmodel = "v1"\nlevel = "noAuthNoPriv"\nread = "all"\n'
        made.conf.write_text(text + "".join(map(user, USERS)))
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        namespace.close()


def keys(folder: Path) -> Path:
    """tshark's table of SNMP users."""
    folder.mkdir(mode=0o700)
    lines = []
    for name, (auth, priv) in USERS.items():
        method = "draft-reeder-snmpv3-usm-3desede-00"
        fields = [name, auth[2], PASSWORDS[0], priv[2] if priv else "AES", PASSWORDS[1], method]
        lines.append(",".join([ENGINE, *(f'"{field}"' for field in fields)]))
    (folder / "snmp_users").write_text("\n".join(lines) + "\n")
    return folder


def converse(agent: OurAgent) -> dict[str, int]:
    """Requests of every version, kind and level, right and wrong. Gives the number of right ones by who asked."""

    def by(*who: str) -> Snmp:
        return Snmp(agent.snmp.target, agent.snmp.namespace, who, timeout=0.5, retries=0)

    askers = {"v1": by("-v1", "-c", "old"), "v2c": agent.snmp, **{n: by(*credentials(n)) for n in USERS}}
    done = {}
    for name, asker in askers.items():
        asker.get(f"{SYSTEM}.1.0", f"{SYSTEM}.3.0", f"{SYSTEM}.5.0")
        found = asker.walk("1.3.6.1", bulk=name != "v1")
        assert len(found) > 40
        done[name] = len(found)
        if name == "v1":
            with pytest.raises(SnmpError):
                asker.get(f"{SYSTEM}.99.0")
        else:
            assert asker.get_one(f"{SYSTEM}.99.0").type == "noSuchObject"
        with pytest.raises(SnmpError):
            asker.set((f"{SYSTEM}.1.0", "s", "x"))
    askers["sha512"].run("snmpbulkget", f"{SYSTEM}.1", "1.3", options=("-Cn1", "-Cr200"))
    wrong = (
        ("-v2c", "-c", "wrong"),
        (*credentials("sha256")[:-3], *("a wrong password",), *("-x", "AES", "-X", PASSWORDS[1])),
        ("-v3", "-u", "nobody", "-l", "noAuthNoPriv"),
        ("-v3", "-u", "sha256", "-l", "authNoPriv", "-a", "SHA-256", "-A", "a wrong password"),
        (*credentials("sha256"), "-e", f"0x{ENGINE}", "-Z", "7,7"),
        (*credentials("sha256"), "-n", "nowhere"),
    )
    for who in wrong:
        by(*who).answers()
    over_v6 = Snmp("udp6:[::1]:1161", agent.snmp.namespace, credentials("sha512"))
    assert over_v6.answers()
    return done


def test_every_answer_decodes(agent: OurAgent, tmp_path: Path) -> None:
    assert agent.snmp.namespace is not None
    with Capture(agent.snmp.namespace, tmp_path / "snmp.pcap", device="lo") as capture:
        done = converse(agent)
    pcap, table = capture.path, keys(tmp_path / "keys")
    as_snmp = ("-d", f"udp.port=={PORT},snmp")

    def rows(show: str, *fields: str) -> list[list[str]]:
        return tshark(pcap, show, fields or ("frame.number",), table, options=as_snmp)

    everything = rows("snmp", "snmp.version", "snmp.data", "snmp.msgUserName")
    assert len(everything) > 200
    # the number of a datagram that no decoder took up, malformed ones, and those with an expert's warning or error
    assert rows(f"udp.srcport == {PORT} && !snmp && !icmp && !icmpv6") == []
    assert rows(f"udp.srcport == {PORT} && (_ws.malformed || _ws.expert.severity >= 0x00600000)", "frame.number",
                "_ws.expert.message") == []  # fmt: skip
    # 2: response, 8: report
    answered = rows(f"udp.srcport == {PORT}", "snmp.data", "snmp.version", "snmp.msgUserName")
    kinds = {kind.split(",")[0] for kind, _, _ in answered}
    assert kinds == {"2", "8"}, "an answer whose PDU was not decoded, or not decrypted"
    encrypted = rows(f"udp.srcport == {PORT} && snmp.encryptedPDU", "snmp.data", "snmp.msgUserName")
    assert {name for _, name in encrypted} >= {name for name, (_, priv) in USERS.items() if priv}
    # the Report of an unknown context has the request's level (RFC 3412, section 7.1)
    assert {kind for kind, _ in encrypted} == {"2", "8"}
    # what tshark saw is what the managers saw
    for name, count in done.items():
        if name in USERS:
            shown = rows(
                f'udp.srcport == {PORT} && snmp.msgUserName == "{name}" && snmp.data == 2', "snmp.name"
            )
            assert sum(len(names[0].split(",")) for names in shown) >= count
    failed = rows(f"udp.srcport == {PORT} && snmp.error_status > 0", "snmp.error_status")
    assert len(failed) >= len(done)
    digests = rows(
        f"udp.srcport == {PORT} && snmp.msgAuthenticationParameters", "snmp.msgAuthenticationParameters"
    )
    assert {len(digest[0].replace(":", "")) // 2 for digest in digests if digest[0]} >= {16, 24, 32, 48, 12}

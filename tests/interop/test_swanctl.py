"""Stock swanctl on our stack's socket, held against what it prints for strongSwan with the same configuration."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest
from lab import traffic
from lab.gateway import Gateway
from lab.process import Process, wait_until
from lab.swanconf import Child, Tunnel
from lab.topology import Pair, pair

TUNNELS = (
    Tunnel(
        auth="ecdsa",
        children=(
            Child("net", ("10.1.0.0/24", "10.2.0.0/24")),
            Child("trap", ("10.1.5.0/24", "10.2.5.0/24"), options={"start_action": "trap"}),
        ),
        options={"dpd_delay": "30s"},
    ),
    Tunnel(
        name="two",
        identities=("c.lab", "d.lab"),
        children=(Child("other", ("10.1.3.0/24", "10.2.3.0/24"), "aes128-sha256"),),
    ),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Pair]:
    """One lab for the module; each test starts without SAs (see `quiet`)."""
    with pair(("ours", "strongswan"), TUNNELS) as made:
        yield made


@pytest.fixture(autouse=True)
def quiet(lab: Pair) -> None:
    for connection in ("gw", "two"):
        lab.a.swanctl_run("--terminate", "--ike", connection, "--timeout", "5")
    lab.a.wait_no_sa()
    lab.b.wait_no_sa()


def shape(text: str) -> list[str]:
    """Lines with everything that differs from run to run taken out; CA and gateway names stay."""
    text = re.sub(r"\b[0-9a-f]{16}_([ir])", r"SPI_\1", text)
    text = re.sub(r"\b[0-9a-f]{8}(?=,)", "SPI", text)
    text = re.sub(r"\d+s\b", "Ns", text)
    text = re.sub(r"#\d+", "#N", text)
    text = re.sub(r"reqid \d+", "reqid N", text)
    text = re.sub(r" +", " ", text)
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def mirrored(lines: list[str]) -> list[str]:
    """The other end's view of list-conns or list-sas lines."""
    swap = {"a.lab": "b.lab", "c.lab": "d.lab", "10.99.0.1": "10.99.0.2", "10.1.": "10.2."}
    swap |= {value: key for key, value in swap.items()}
    pattern = re.compile("|".join(re.escape(key) for key in swap))
    return [pattern.sub(lambda match: swap[match[0]], line) for line in lines]


def test_list_conns_is_what_strongswan_shows(lab: Pair) -> None:
    ours = shape(lab.a.swanctl("--list-conns"))
    assert len(ours) > 20
    assert ours == mirrored(shape(lab.b.swanctl("--list-conns")))


def test_list_sas_is_what_strongswan_shows(lab: Pair) -> None:
    lab.a.initiate("net")
    lab.b.wait_child("net")
    assert traffic.ping(lab.namespaces[0], *lab.ends("net")).lost == 0
    ours = shape(lab.a.swanctl("--list-sas"))
    theirs = mirrored(shape(lab.b.swanctl("--list-sas")))
    assert len(ours) == 11
    # We also say when the IKE_SA's hard lifetime ends; swanctl shows it when a daemon sends it.
    ours = [
        line.removesuffix(", expires in Ns") if line.startswith(" established") else line for line in ours
    ]
    # The star marks which SPI is our own: theirs is on the other.
    star = [line.replace("SPI_i* ", "SPI_i ").replace("SPI_r*", "SPI_r") for line in ours]
    assert star == [line.replace("SPI_i* ", "SPI_i ").replace("SPI_r*", "SPI_r") for line in theirs]
    assert "SPI_i* SPI_r" in ours[0]


def test_list_sas_filters(lab: Pair) -> None:
    lab.a.initiate("net")
    lab.a.initiate("other")
    assert lab.a.swanctl("--list-sas", "--ike", "two").startswith("two:")
    assert "other:" not in lab.a.swanctl("--list-sas", "--ike", "gw")
    ids = {sa.name: sa.uniqueid for sa in lab.a.ike_sas()}
    assert lab.a.swanctl("--list-sas", "--ike-id", str(ids["gw"])).startswith("gw:")
    assert lab.a.swanctl("--list-sas", "--ike", "nosuch").strip() == ""


def test_initiate_rekey_terminate(lab: Pair) -> None:
    printed = lab.a.swanctl("--initiate", "--child", "net")
    assert printed.rstrip().endswith("initiate completed successfully")
    assert re.search(r"CHILD_SA net\{\d+\} established", printed), "no control-log lines during initiate"
    child = lab.a.child("net")
    assert "rekey completed successfully" in lab.a.swanctl("--rekey", "--child-id", str(child.uniqueid))
    lab.a.wait_other_child(child.spis)
    ike = lab.a.ike_sa()
    assert "rekey completed successfully" in lab.a.swanctl("--rekey", "--ike-id", str(ike.uniqueid))
    lab.a.wait_one_ike_sa(not_spis=ike.spis)
    printed = lab.a.swanctl("--terminate", "--child", "net")
    assert printed.rstrip().endswith("terminate completed successfully")
    printed = lab.a.swanctl("--terminate", "--ike", "gw")
    assert printed.rstrip().endswith("terminate completed successfully")
    lab.b.wait_no_sa()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--initiate", "--child", "nosuch"), "initiate failed"),
        (("--terminate", "--ike", "nosuch"), "terminate failed"),
        (("--terminate", "--child-id", "4294967295"), "terminate failed"),
        (("--rekey", "--ike", "nosuch"), "rekey failed"),
        (("--install", "--child", "nosuch"), "install failed"),
        (("--uninstall", "--child", "nosuch"), "uninstall failed"),
    ],
)
def test_what_is_not_there(lab: Pair, arguments: tuple[str, ...], words: str) -> None:
    done = lab.a.swanctl_run(*arguments)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr
    assert done.returncode == lab.b.swanctl_run(*arguments).returncode


def test_stats(lab: Pair) -> None:
    assert re.search(r"IKE_SAs: 0 total, 0 half-open", lab.a.swanctl("--stats"))
    lab.a.initiate("net")
    printed = lab.a.swanctl("--stats")
    assert re.search(r"IKE_SAs: 1 total, 0 half-open", printed)
    assert re.search(r"uptime: \d+ seconds?, since ", printed)


def counters(gateway: Gateway, *arguments: str) -> dict[str, int]:
    printed = gateway.swanctl("--counters", *arguments)
    return {key: int(value) for key, value in re.findall(r"^\s+([a-z-]+) *: (\d+)$", printed, re.MULTILINE)}


def test_counters(lab: Pair) -> None:
    before, before_b = counters(lab.a), counters(lab.b)
    assert set(before) >= set(before_b), "ours has some of its own beside strongSwan's"
    lab.a.initiate("net")
    lab.a.swanctl("--rekey", "--child", "net")
    old = lab.a.ike_sa().spis
    lab.a.swanctl("--rekey", "--ike", "gw")
    lab.a.wait_one_ike_sa(not_spis=old)
    lab.a.swanctl("--terminate", "--ike", "gw")
    lab.b.wait_no_sa()
    ours = {key: value - before[key] for key, value in counters(lab.a).items()}
    theirs = {key: value - before_b[key] for key, value in counters(lab.b).items()}
    assert ours["ike-init-out-req"] == ours["ike-init-in-resp"] == 1
    assert ours["ike-auth-out-req"] == ours["ike-auth-in-resp"] == 1
    assert ours["create-child-out-req"] == ours["create-child-in-resp"] == 2
    assert ours["ike-rekey-init"] == 1
    assert ours["child-rekey"] == 1
    for kind in ("ike-init", "ike-auth", "create-child", "info"):
        assert ours[f"{kind}-out-req"] == theirs[f"{kind}-in-req"], kind
        assert ours[f"{kind}-in-resp"] == theirs[f"{kind}-out-resp"], kind
    named = counters(lab.a, "--name", "gw")
    assert named["ike-rekey-init"] >= 1
    assert counters(lab.a, "--all").keys() >= named.keys()


def test_list_pols_shows_traps(lab: Pair) -> None:
    assert shape(lab.a.swanctl("--list-pols")) == mirrored(shape(lab.b.swanctl("--list-pols")))
    assert "uninstall completed successfully" in lab.a.swanctl("--uninstall", "--child", "trap")
    assert lab.a.swanctl("--list-pols", "--trap").strip() == ""
    assert "install completed successfully" in lab.a.swanctl("--install", "--child", "trap")
    assert lab.a.swanctl("--list-pols", "--child", "trap").startswith("gw/trap, TUNNEL")


def test_a_packet_brings_a_trapped_child_up(lab: Pair) -> None:
    left, right = lab.namespaces
    result = traffic.ping(left, *lab.ends("trap"), count=20, interval=0.1)
    assert result.received >= 15, "the packet that asked for the SA may be lost, not those after it"
    assert lab.a.wait_child("trap").spis == lab.b.wait_child("trap").spis[::-1]
    assert right.name


def test_list_certs(lab: Pair) -> None:
    printed = lab.a.swanctl("--list-certs")
    assert 'subject:  "O=lab, CN=a.lab"' in printed
    assert "pubkey:    ECDSA 256 bits, has private key" in printed
    assert "List of X.509 CA Certificates" in printed
    assert lab.a.swanctl("--list-certs", "--type", "x509", "--flag", "none").count("subject:") == 1


def test_list_algs_names_what_is_in(lab: Pair) -> None:
    printed = lab.a.swanctl("--list-algs")
    for name in ("AES_GCM_16", "CHACHA20_POLY1305", "AES_CBC", "HMAC_SHA2_256_128", "PRF_HMAC_SHA2_512"):
        assert name in printed, name
    for name in ("CURVE_25519", "ECP_256", "ECP_384", "ECP_521", "MODP_2048", "MODP_3072", "MODP_4096"):
        assert name in printed, name


def test_load_all_again_changes_nothing(lab: Pair) -> None:
    lab.a.initiate("net")
    child = lab.a.child("net").spis
    conns = lab.a.swanctl("--list-conns")
    printed = lab.a.load_all()
    assert "successfully loaded 2 connections, 0 unloaded" in printed
    assert "loaded ike secret 'ike-two'" in printed
    assert "loaded private key from" in printed
    assert lab.a.swanctl("--list-conns") == conns
    assert lab.a.child("net").spis == child
    assert lab.a.swanctl("--load-all", "--noprompt", "--clear").count("loaded connection") == 2
    lab.a.initiate("other")


def test_load_conns_follows_the_file(lab: Pair) -> None:
    lab.write_configuration(0, TUNNELS[:1])
    try:
        assert "successfully loaded 1 connections, 1 unloaded" in lab.a.swanctl("--load-conns")
        assert "two:" not in lab.a.swanctl("--list-conns")
    finally:
        lab.write_configuration(0)
        lab.a.load_all()
    assert "two:" in lab.a.swanctl("--list-conns")


def test_what_is_empty_here(lab: Pair) -> None:
    assert lab.a.swanctl("--list-authorities").strip() == ""
    assert lab.a.swanctl("--list-pools").strip() == ""
    assert lab.a.swanctl("--reload-settings").strip() == ""


def test_version_over_vici(lab: Pair) -> None:
    with lab.a.vici() as session:
        version = session.version()
    assert set(version) >= {"daemon", "version", "sysname", "release", "machine"}


def test_log_follows(lab: Pair) -> None:
    follower = Process(
        "swanctl-log",
        ["stdbuf", "-oL", *lab.a.swanctl_argv("--log")],
        lab.folder / "log.txt",
        lab.namespaces[0],
    )
    follower.environment.update(lab.a.swanctl_environment())
    follower.start()
    try:
        time.sleep(0.3)
        lab.a.initiate("net")
        wait_until(lambda: "CHILD_SA net" in follower.text(), 5, "swanctl --log prints the establishment")
        assert follower.alive
    finally:
        follower.stop()
    for secret in lab.psk.values():
        assert secret not in follower.text()


def test_monitor_sa_and_raw(lab: Pair) -> None:
    lab.a.initiate("net")
    raw = lab.a.swanctl("--list-sas", "--raw")
    assert raw.startswith("list-sa event {gw {uniqueid=")
    assert "child-sas {net-" in raw
    assert "list-sas reply {" in raw


def test_two_clients_at_once(lab: Pair) -> None:
    """One client waits for an initiate that cannot end soon; another is served meanwhile."""
    lab.b.process.signal(19)  # SIGSTOP
    try:
        waiting = subprocess.Popen(
            lab.a.swanctl_argv("--initiate", "--child", "net", "--timeout", "4"),
            env={**lab.a.swanctl_environment(), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.3)
        started = time.monotonic()
        assert "gw:" in lab.a.swanctl("--list-sas")
        assert time.monotonic() - started < 1
        assert waiting.poll() is None
    finally:
        lab.b.process.signal(18)  # SIGCONT
        waiting.wait(10)

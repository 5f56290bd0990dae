"""A strongSwan peer whose certificate is asked for: OCSP over the namespace's loopback, and lists from a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from lab import traffic
from lab.pki import authority
from lab.revocation import Responder, RevokingCa
from lab.swanconf import Tunnel
from lab.topology import Pair, pair

TUNNELS = (Tunnel(auth="ecdsa"),)


class Lab:
    """Ours is a, strongSwan is b; the responder speaks for the lab's CA, inside a's namespace."""

    def __init__(self, made: Pair) -> None:
        self.pair = made
        signer = authority("ecdsa")
        self.ca = RevokingCa.of(signer.key, signer.certificate, time.time())
        self.b_certificate = x509.load_pem_x509_certificate(
            Path(made.b.folder / "x509" / "b.lab.pem").read_bytes()
        )
        self.silent = False
        self.responder: Responder = made.namespaces[0].inside(lambda: Responder(self.answer))

    def answer(self, path: str, body: bytes | None) -> bytes | None:
        """The responder's answer about b, or the list, as the path asks."""
        if self.silent:
            return None
        self.ca.now = RevokingCa.of(self.ca.key, self.ca.certificate, time.time()).now
        return self.ca.crl() if body is None else self.ca.ocsp(self.b_certificate)

    def configure(self, policy: str, uris: str) -> None:
        """Ours with this policy, and an authority that names the responder."""
        a = self.pair.a
        self.pair.write_configuration(0)
        text = a.conf.read_text()
        head, tail = text.split("remote {", 1)
        authorities = (
            "authorities {\n lab {\n cacert = ca.pem\n" + f" {uris} = {self.responder.uri}/x\n" + " }\n}\n"
        )
        a.configure(f"{head}remote {{\n revocation = {policy}{tail}\n{authorities}")
        a.load_all()
        a.swanctl("--flush-certs")

    def comes_up(self, who: int) -> bool:
        gateway = self.pair.gateways[who]
        done = gateway.swanctl_run("--initiate", "--child", "net", "--timeout", "12")
        up = done.returncode == 0
        if up:
            ours, theirs = self.pair.ends()
            assert traffic.ping(self.pair.namespaces[0], ours, theirs)
            self.pair.a.swanctl_run("--terminate", "--ike", "gw", "--timeout", "5")
        for end in self.pair.gateways:
            end.wait_no_sa()
        return up


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with pair(("ours", "strongswan"), TUNNELS) as made:
        lab = Lab(made)
        try:
            yield lab
        finally:
            lab.responder.close()


@pytest.mark.parametrize("who", [0, 1], ids=["initiator", "responder"])
@pytest.mark.parametrize("uris", ["ocsp_uris", "crl_uris"])
def test_revocation(lab: Lab, uris: str, who: int) -> None:
    """Asked once for several SAs; silence is refused under strict and passes under relaxed; revoked is refused."""
    lab.configure("strict", uris)
    lab.responder.asked.clear()
    assert lab.comes_up(who)
    assert lab.comes_up(who)
    assert [(path, body is None) for path, body in lab.responder.asked] == [("/x", uris == "crl_uris")]
    lab.silent = True
    lab.configure("strict", uris)
    assert not lab.comes_up(who)
    assert "it is not known whether" in lab.pair.a.log()
    lab.configure("relaxed", uris)
    assert lab.comes_up(who)
    lab.silent = False
    lab.ca.revoke(lab.b_certificate, x509.ReasonFlags.key_compromise)
    try:
        lab.configure("relaxed", uris)
        # The responder that failed a moment ago would not be asked for a minute: flush-certs forgets that, too.
        assert not lab.comes_up(who)
        assert "was revoked (keyCompromise)" in lab.pair.a.log()
    finally:
        lab.ca.revoked.clear()


@pytest.mark.parametrize("who", [0, 1], ids=["initiator", "responder"])
def test_a_list_in_the_folder(lab: Lab, who: int) -> None:
    """Stock swanctl loads and lists it; a newer one takes its place, and what it revokes is refused."""
    a = lab.pair.a
    folder = a.folder / "x509crl"
    folder.mkdir(exist_ok=True)
    lab.silent = True
    try:
        (folder / "lab.crl").write_bytes(lab.ca.crl(number=10 * who + 1))
        lab.configure("strict", "crl_uris")
        assert lab.comes_up(who)
        assert "List of X.509 CRLs" in a.swanctl("--list-certs")
        lab.ca.revoke(lab.b_certificate)
        (folder / "lab.crl").write_bytes(lab.ca.crl(number=10 * who + 2, begins=-1))
        a.swanctl("--load-creds", "--noprompt")
        assert not lab.comes_up(who)
        assert "was revoked (unspecified)" in a.log()
    finally:
        lab.silent = False
        lab.ca.revoked.clear()
        (folder / "lab.crl").unlink()
        a.swanctl("--load-creds", "--noprompt", "--clear")

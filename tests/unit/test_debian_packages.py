"""tools/debian-packages with stand-ins for dpkg and apt: what it installs, says and leaves behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

WANTED = "iproute2 iputils-ping procps snmp strongswan-swanctl"


class Machine:
    """A machine whose dpkg knows `installed`, and whose apt writes down what it is asked for."""

    def __init__(self, folder: Path, script: Path, installed: str, uid: int, apt_status: int = 0) -> None:
        self.script = script
        self.asked = folder / "asked"
        self.policy = folder / "policy-rc.d"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.tool("id", f"echo {uid}")
        self.tool(
            "dpkg-query",
            f'for last; do :; done\ncase " {installed} " in *" $last "*) echo -n installed;; esac',
        )
        self.tool("awk", "exit 0")  # not in a user namespace
        self.tool("systemctl", f"echo systemctl $* >> {self.asked}")
        self.tool(
            "apt-get",
            f'echo "$*; policy $(test -x {self.policy} && {self.policy}; echo $?)" >> {self.asked}\n'
            f'case "$*" in *install*) echo some words of apt; exit {apt_status};; esac',
        )

    def tool(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, which: str = "demo") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}", "POLICY_RC_D": str(self.policy)}
        return subprocess.run(
            [self.script, which], env=environment, capture_output=True, text=True, check=False, timeout=20
        )

    def calls(self) -> list[str]:
        return self.asked.read_text().splitlines() if self.asked.exists() else []


@pytest.fixture
def script(repository: Path) -> Path:
    return repository / "tools" / "debian-packages"


@pytest.mark.parametrize("uid", [0, 1000])
def test_nothing_missing_is_silent(tmp_path: Path, script: Path, uid: int) -> None:
    machine = Machine(tmp_path, script, WANTED, uid)
    done = machine.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.calls() == []


def test_user_is_told_how_to_get_it(tmp_path: Path, script: Path) -> None:
    machine = Machine(tmp_path, script, "iproute2 procps snmp strongswan-swanctl", 1000)
    done = machine.run()
    assert done.returncode == 0
    assert "sudo apt-get install iputils-ping" in done.stderr
    assert machine.calls() == []


def test_root_gets_what_is_missing_and_no_service(tmp_path: Path, script: Path) -> None:
    machine = Machine(tmp_path, script, "iproute2 iputils-ping procps", 0)
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert "installing snmp strongswan-swanctl" in done.stdout
    update, install, *rest = machine.calls()
    assert "update" in update
    assert install.split("install ")[1].split(";")[0] == "snmp strongswan-swanctl"
    assert install.endswith("policy 101"), "services would have been started"
    assert any("disable strongswan-starter.service" in call for call in rest)
    assert not machine.policy.exists()


def test_tests_bring_no_service_either(tmp_path: Path, script: Path) -> None:
    """Further managers and receivers are installed for the tests, and nothing of them runs by itself."""
    machine = Machine(tmp_path, script, f"{WANTED} strongswan-starter", 0)
    done = machine.run("test")
    assert done.returncode == 0, done.stderr
    calls = machine.calls()
    assert "prometheus-snmp-exporter" in calls[1]
    assert "policy 101" in calls[1]
    disabled = {call.split()[-1] for call in calls if " disable " in call}
    assert disabled == {"snmptrapd.service", "prometheus-snmp-exporter.service"}


def test_apts_failure_is_shown_and_told(tmp_path: Path, script: Path) -> None:
    machine = Machine(tmp_path, script, "", 0, apt_status=100)
    done = machine.run()
    assert done.returncode == 1
    assert "some words of apt" in done.stderr
    assert "could not install" in done.stderr
    assert not machine.policy.exists()


def test_foreign_policy_is_kept(tmp_path: Path, script: Path) -> None:
    machine = Machine(tmp_path, script, "", 0)
    machine.policy.write_text("#!/bin/sh\nexit 0\n")
    machine.policy.chmod(0o755)
    assert machine.run().returncode == 0
    assert machine.policy.read_text() == "#!/bin/sh\nexit 0\n"


def test_unknown_set_of_packages(tmp_path: Path, script: Path) -> None:
    assert Machine(tmp_path, script, "", 0).run("everything").returncode == 2

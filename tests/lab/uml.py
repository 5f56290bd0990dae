"""A guest with the kernel's own ESP: user-mode-linux on this machine's files, one command, its output.

Debian's `user-mode-linux` is a 6.1 kernel that runs as an ordinary process: no KVM, no image. The guest's root
is this machine's root file system, read and write, at the same paths; its /run, /var/tmp and /dev/shm are its own and
vanish with it, which is where sockets and scratch of a guest belong. Computing runs there at full speed, a system call
costs some fifty times more than here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.netns import folder
from lab.tools import find_tool

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
"""Where the guest's kernel has its modules: not where modprobe looks, hence `modprobe -d`."""

ESP_MODULES = ("ipv6", "veth", "tun", "xfrm_user", "esp4", "esp6")
"""IPv6, devices and ESP; the kernel asks for its algorithms itself, by the helper of INIT."""
AH_MODULES = ("ah4", "ah6")
COMP_MODULES = ("ipcomp", "ipcomp6", "xfrm4_tunnel", "xfrm6_tunnel", "deflate")
ALL_MODULES = (*ESP_MODULES, *AH_MODULES, *COMP_MODULES, "dummy")

INIT = """\
#!/bin/sh
export PATH={path} HOME=/root TMPDIR=/var/tmp PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /dev/net
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mkdir -p /run/netns /run/kernel/lib
ln -s {modules} /run/kernel/lib/modules
printf '#!/bin/sh\nexec modprobe -d /run/kernel "$@"\n' >/run/modprobe
chmod 755 /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
for module in {wanted}; do
  modprobe -q -d /run/kernel "$module" || echo "no module $module" >&2
done 2>{place}/modules
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
hostname guest
ip link set lo up
cd {cwd}
{environment}
{command} >{place}/stdout 2>{place}/stderr </dev/null
echo $? >{place}/status.new
mv {place}/status.new {place}/status
sync
echo o >/proc/sysrq-trigger
sleep 5
"""


class GuestError(AssertionError):
    """The guest did not come up, or ended without an exit status; the message ends with its console."""


@dataclass(frozen=True)
class GuestRun:
    """What a command in a guest left: exit status, outputs, and names of kernel modules that could not be loaded."""

    status: int
    stdout: str
    stderr: str
    missing_modules: tuple[str, ...]


@contextlib.contextmanager
def _killed(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """No process of the guest is left afterwards."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


def run_guest(
    command: Sequence[str],
    timeout: float = 120.0,
    memory: str = "512M",
    modules: Sequence[str] = ESP_MODULES,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    tap: str = "",
) -> GuestRun:
    """Boot a guest, run `command` in it as root, shut down. GuestError when it never ended within `timeout` seconds.

    `environment` adds to a bare one (PATH, HOME, TMPDIR=/var/tmp); `cwd`: here unless given. `tap`: a TAP device of the
    caller's network namespace (`ip tuntap add NAME mode tap`), which is `vec0` in there. The exit status is for the
    caller to judge.
    """
    with folder() as place:
        init = place / "init"
        init.write_text(
            INIT.format(
                path=shlex.quote(os.environ["PATH"]),
                modules=MODULES,
                wanted=" ".join(modules),
                cwd=shlex.quote(str(cwd or Path.cwd())),
                environment="\n".join(
                    f"export {key}={shlex.quote(value)}" for key, value in (environment or {}).items()
                ),
                command=shlex.join(command),
                place=place,
            )
        )
        init.chmod(0o700)
        # Each process of the guest is one of the host's: a namespace of their own ends them all with the first, and
        # that one with this process, however it ends. TMPDIR: where the kernel keeps the guest's memory.
        boot = [
            *("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"),
            *(find_tool(KERNEL) or KERNEL,),
            *(f"umid=guest{os.getpid()}", f"uml_dir={place}/", f"mem={memory}"),
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}"),
            *("con=null", "ssl=null", "con0=null,fd:1", "quiet", "loglevel=4", "panic=-1"),
            "random.trust_bootloader=1",
            *((f"vec0:transport=tap,ifname={tap},depth=64,gro=0",) if tap else ()),
        ]
        console = place / "console"
        with open(console, "wb") as output:
            process = subprocess.Popen(
                boot,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": "/dev/shm"},
                start_new_session=True,
            )
        with _killed(process):
            try:
                process.wait(timeout)
                ended = "ended without an exit status"
            except subprocess.TimeoutExpired:
                ended = f"still ran after {timeout:g} s"

        def text(name: str) -> str:
            path = place / name
            return path.read_text("utf-8", "replace") if path.exists() else ""

        if not text("status"):
            raise GuestError(
                f"the guest {ended}\n--- stderr\n{text('stderr')[-3000:]}\n--- stdout\n{text('stdout')[-1000:]}"
                f"\n--- console\n{text('console')[-3000:]}"
            )
        missing = tuple(
            line.split()[-1] for line in text("modules").splitlines() if line.startswith("no module")
        )
        return GuestRun(int(text("status")), text("stdout"), text("stderr"), missing)


def guest_script(script: Path, *arguments: str, timeout: float = 120.0, **options: Any) -> dict[str, Any]:
    """Run a Python script in a guest: `script OUT ARGUMENTS...`, where OUT is a file that it writes JSON into.

    The object read from there, with the guest's own words under the key "" (what to show when something is missing).
    `options` as of `run_guest`.
    """
    with folder() as place:
        out = place / "result.json"
        try:
            done = run_guest([sys.executable, str(script), str(out), *arguments], timeout, **options)
            end = f"the guest ended with {done.status}:\n{done.stderr[-3000:]}"
            end += f"\nmodules not loaded: {done.missing_modules}"
        except GuestError as error:
            end = str(error)
        found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
        return {"": end, **found}

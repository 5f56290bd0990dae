"""Network namespaces with names of our own, links between them, and sockets inside them.

Every name carries the process id and start time of the process that made it, so that `sweep` can tell the leftovers of
a crashed run from the namespaces of a living one. Works as root and as root of a user namespace (`unshare -Urnm`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PREFIX = "iplab"
NETNS_FOLDER = Path("/run/netns")
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


class NetnsError(RuntimeError):
    """`ip` refused something; the message holds its words."""


def start_time(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat (start time in clock ticks), None when there is no such living process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


OWNER = f"{PREFIX}.{os.getpid()}.{start_time(os.getpid())}"


def owner_lives(name: str) -> bool:
    """Whether the process that made a namespace or folder of this name is alive."""
    parts = name.split(".")
    return len(parts) > 3 and parts[1].isdigit() and start_time(int(parts[1])) == parts[2]


def run(*command: str, stdin: str | None = None, timeout: float = 30) -> str:
    """Run `command`, give its standard output; NetnsError with both outputs when it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise NetnsError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Namespace:
    """One network namespace, gone after `close` with every process still in it."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.name = f"{OWNER}.{next(_numbers)}{label}"
        run("ip", "netns", "add", self.name)
        self.ip("link set lo up")

    def __repr__(self) -> str:
        return f"Namespace({self.name})"

    def argv(self, *command: str) -> list[str]:
        """The argument vector that runs `command` in here."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str, timeout: float = 30) -> str:
        """Run `command` in here, give its standard output; NetnsError when it fails."""
        return run(*self.argv(*command), timeout=timeout)

    def ip(self, *lines: str) -> None:
        """Run `lines` (ip commands without the word ip) in here as one batch."""
        run("ip", "-n", self.name, "-batch", "-", stdin="\n".join(lines) + "\n")

    def sysctl(self, **values: str | int) -> None:
        """Set `net.` variables: sysctl(ipv4__ip_forward=1), with __ for a dot."""
        pairs = [f"net.{key.replace('__', '.')}={value}" for key, value in values.items()]
        self.run("sysctl", "-qw", *pairs)

    def add_address(self, *addresses: str, device: str = "lo") -> None:
        """Give `device` addresses such as 10.1.0.1/24; IPv6 ones without duplicate address detection."""
        self.ip(*(f"addr add {a} dev {device}{' nodad' if ':' in a else ''}" for a in addresses))

    def inside(self, call: Callable[[], T]) -> T:
        """The result of `call`, run in a thread whose network namespace is this one."""
        outcome: list[T] = []
        trouble: list[BaseException] = []

        def body() -> None:
            try:
                with open(NETNS_FOLDER / self.name) as handle:
                    if _libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), f"setns {self.name}")
                outcome.append(call())
            except BaseException as error:
                trouble.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if trouble:
            raise trouble[0]
        return outcome[0]

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this namespace, usable from any thread."""
        return self.inside(lambda: socket.socket(family, kind, protocol))

    def processes(self) -> list[int]:
        return [int(pid) for pid in run("ip", "netns", "pids", self.name).split()]

    def close(self) -> None:
        remove(self.name)


def remove(name: str) -> None:
    """Kill what runs in namespace `name`, then delete it; no complaint when it is gone already."""
    with contextlib.suppress(NetnsError):
        for pid in run("ip", "netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(NetnsError):
        run("ip", "netns", "del", name)


def link(a: Namespace, b: Namespace, device_a: str = "wan", device_b: str = "wan", mtu: int = 1500) -> None:
    """A veth pair between two namespaces, both ends up."""
    run(
        "ip",
        "link",
        "add",
        device_a,
        "netns",
        a.name,
        "type",
        "veth",
        "peer",
        "name",
        device_b,
        "netns",
        b.name,
    )
    a.ip(f"link set {device_a} mtu {mtu} up")
    b.ip(f"link set {device_b} mtu {mtu} up")


def ours(root: Path = NETNS_FOLDER) -> list[str]:
    """Names of all namespaces that a lab made, of any process."""
    try:
        return sorted(p.name for p in root.iterdir() if p.name.startswith(PREFIX + "."))
    except FileNotFoundError:
        return []


def sweep() -> list[str]:
    """Remove namespaces and folders whose makers are dead; their names."""
    gone = [name for name in ours() if not owner_lives(name)]
    for name in gone:
        remove(name)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}.*"):
        if not owner_lives(folder.name) and folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(str(folder))
    return gone


def sweep_own() -> None:
    """Remove what this process made; also called at its end."""
    for name in ours():
        if name.startswith(OWNER + "."):
            remove(name)
    for folder in Path(tempfile.gettempdir()).glob(f"{OWNER}.*"):
        shutil.rmtree(folder, ignore_errors=True)


_main_process = os.getpid()


@atexit.register
def _at_exit() -> None:
    if os.getpid() == _main_process:
        sweep_own()


@contextlib.contextmanager
def namespaces(*labels: str) -> Iterator[Sequence[Namespace]]:
    """As many namespaces as labels; all gone afterwards. Leftovers of dead runs are swept first."""
    sweep()
    with contextlib.ExitStack() as stack:
        made = []
        for label in labels:
            namespace = Namespace(label)
            stack.callback(namespace.close)
            made.append(namespace)
        yield made


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A private folder (mode 0700) for sockets, configurations and logs; gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix=f"{OWNER}."))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)

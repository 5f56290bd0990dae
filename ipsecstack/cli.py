"""Command lines: ``ipsecstackd``, the daemon, and ``ipsecctl``, its client."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipsecstack.config import DesiredState
    from ipsecstack.daemon import Settings

OK, FAILED, BAD_USAGE = 0, 1, 2

DEFAULT_CONFIG = Path("/etc/ipsecstack/swanctl.conf")

_EPILOG = """\
signals: SIGHUP reads the configuration again, SIGTERM and SIGINT delete all SAs (the peers are told) and end.
exit status: 0 after an orderly end, 1 when it cannot start, 2 for a wrong command line or configuration.
"""


def _parser() -> argparse.ArgumentParser:
    from ipsecstack.version import version

    parser = argparse.ArgumentParser(
        prog="ipsecstackd",
        description="IKEv2 and IPsec in userspace, served to swanctl and other VICI clients.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ipsecstackd {version()}")
    parser.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help="swanctl.conf, with the folders x509, x509ca, private ... beside it (default: %(default)s)",
    )
    parser.add_argument("--socket", type=Path, metavar="PATH", help="unix socket of the VICI service")
    parser.add_argument("--group", metavar="NAME", help="group that may use the socket")
    parser.add_argument(
        "--dataplane",
        choices=("tun", "xfrm", "memory"),
        help="tun: a TUN device and routes; xfrm: the kernel's own IPsec (both need CAP_NET_ADMIN); memory: no "
        "packets of this host, for tests",
    )
    parser.add_argument("--device", metavar="NAME", help="name of the TUN device")
    parser.add_argument("--netns", metavar="NAME", help="network namespace to run in (ip netns)")
    parser.add_argument(
        "--log-level",
        type=int,
        choices=range(-1, 5),
        metavar="N",
        help="-1 (errors) to 4 (everything); default 1",
    )
    parser.add_argument("--pid-file", type=Path, metavar="FILE", help="write the process number there")
    parser.add_argument(
        "--export-keys",
        type=Path,
        metavar="FOLDER",
        help="DEBUGGING ONLY: append every SA's keys to FOLDER for tshark; who has them reads all traffic",
    )
    parser.add_argument(
        "--check", action="store_true", help="read the configuration, say what is wrong, and end"
    )
    return parser


def _settings(arguments: argparse.Namespace, options: dict[str, Any]) -> Settings:
    """Command line before configuration file before default."""
    from ipsecstack.daemon import Settings
    from ipsecstack.keyex.options import Options

    given: dict[str, Any] = {
        key: options[key]
        for key in (
            "group",
            "dataplane",
            "kernel_policies",
            "install_routes",
            "device",
            "mtu",
            "nat_keepalive",
        )
        if key in options
    }
    for key in ("socket", "pid_file", "qcd_secret_file"):
        if key in options:
            given[key] = Path(str(options[key]))
    for key in ("socket", "group", "dataplane", "device", "pid_file", "export_keys"):
        value = getattr(arguments, key)
        if value is not None:
            given[key] = value
    endpoint = {f.name: options[f.name] for f in fields(Options) if f.name in options}
    return Settings(config=arguments.config, file_options=options, options=Options(**endpoint), **given)


def _enter_netns(name: str) -> None:
    """Move this process into a named network namespace; OSError when it cannot."""
    from pyroute2 import netns

    netns.setns(name, flags=0)


def ipsecstackd(argv: Sequence[str] | None = None) -> int:
    """Entry point of the daemon; its exit status."""
    arguments = _parser().parse_args(argv)
    import asyncio

    from ipsecstack import logs
    from ipsecstack.config import ConfigError, load_file

    output = logs.set_up(1 if arguments.log_level is None else arguments.log_level)
    try:
        state = load_file(arguments.config)
    except ConfigError as error:
        return _fail(str(error), BAD_USAGE)
    if arguments.log_level is None and "log_level" in state.options:
        output = logs.set_up(int(state.options["log_level"]))
    if arguments.check:
        return _check(arguments.config, state)
    if arguments.netns:
        try:
            _enter_netns(arguments.netns)
        except OSError as error:
            reason = error.strerror or error
            return _fail(
                f"cannot enter the network namespace {arguments.netns}: {reason}; make it with "
                f"'ip netns add {arguments.netns}', and start as root",
                FAILED,
            )

    from ipsecstack.daemon import Daemon, StartupError

    if state.options.get("export_keys") and arguments.export_keys is None:
        return _fail(
            "export_keys in the configuration needs --export-keys FOLDER on the command line", BAD_USAGE
        )
    settings = _settings(arguments, state.options)

    async def serve() -> None:
        await Daemon(settings, output).run()

    try:
        asyncio.run(serve())
    except StartupError as error:
        return _fail(str(error), FAILED)
    except ConfigError as error:
        return _fail(str(error), BAD_USAGE)
    return OK


def _check(path: Path, state: DesiredState) -> int:
    """Load everything into a key exchange that has no sockets: what a start would refuse is refused here."""
    import os
    import time

    from ipsecstack.config import ConfigError
    from ipsecstack.config.apply import Applier
    from ipsecstack.keyex.credentials import CredentialStore
    from ipsecstack.keyex.endpoint import Endpoint
    from ipsecstack.keyex.options import Options

    credentials = CredentialStore()
    endpoint = Endpoint(
        random=os.urandom,
        allocate_spi=lambda: 256,
        credentials=credentials,
        options=Options(),
        now=0.0,
        wall_clock=time.time,
    )
    try:
        report = Applier(path, endpoint, credentials).apply(state, 0.0)
    except ConfigError as error:
        return _fail(str(error), BAD_USAGE)
    for warning in report.warnings:
        print(f"warning: {warning}")
    print(f"{path}: {len(report.loaded)} connections, no errors")
    return OK


def _fail(message: str, status: int) -> int:
    print(f"ipsecstackd: {message}", file=sys.stderr)
    return status


def ipsecctl(argv: Sequence[str] | None = None) -> int:
    """Entry point of the client; its exit status."""
    from ipsecstack.vici.ctl import ipsecctl as run

    return run(argv)


if __name__ == "__main__":
    sys.exit(ipsecstackd())

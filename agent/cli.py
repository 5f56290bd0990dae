"""The command line of ipsec-snmpd."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DEFAULT_CONFIG = "/etc/ipsec-snmpd.toml"

log = logging.getLogger("ipsec-snmpd")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="ipsec-snmpd",
        description="SNMP agent of an IPsec gateway: shows and steers strongSwan or ipsecstackd over VICI.",
        epilog="SIGHUP reads the configuration again, SIGTERM and SIGINT end the agent. "
        "Exit status: 0 ended in order, 1 could not start, 2 wrong usage or configuration.",
    )
    result.add_argument(
        "--config", metavar="FILE", type=Path, default=Path(DEFAULT_CONFIG), help=f"default: {DEFAULT_CONFIG}"
    )
    result.add_argument(
        "--check", action="store_true", help="check the configuration and the sources, then exit"
    )
    result.add_argument("--verbose", action="store_true", help="log every detail")
    result.add_argument("--version", action="version", version=f"ipsec-snmpd {own_version()}")
    return result


def own_version() -> str:
    try:
        return version("ipsec-snmp")
    except PackageNotFoundError:
        return "(not installed)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ipsec-snmpd; the exit status."""
    options = parser().parse_args(arguments)
    from agent import logs  # the help should not wait for the engine's imports
    from agent.config import ConfigError, load_config
    from agent.daemon import AgentDaemon
    from agent.engine.loop import ServingLoop
    from agent.smi.errors import BindingError
    from mibs.loader import MibError

    logs.configure(options.verbose)
    try:
        config = load_config(options.config)
        daemon = AgentDaemon(config)
    except ConfigError as error:
        print(f"ipsec-snmpd: {error}", file=sys.stderr)
        return 2
    except (BindingError, MibError) as error:
        print(f"ipsec-snmpd: {error}", file=sys.stderr)
        return 1
    if options.check:
        return asyncio.run(check(daemon))
    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        status = runner.run(serve(daemon))
        gc.freeze()  # the process ends: to look for garbage among ten thousand tunnels first would take half a second
        return status


async def check(daemon: object) -> int:
    """Say what is wrong with the sources; the configuration is known to be right."""
    from agent.daemon import AgentDaemon, settings_of
    from agent.sources.vici_session import ViciError, ViciSession

    assert isinstance(daemon, AgentDaemon)
    _, sources = settings_of(daemon.config)
    print(f"{daemon.config.path}: in order")
    failed = 0
    for name, settings in sources.items():
        if not settings.enabled:
            print(f"source {name}: not enabled")
            continue
        try:
            session = await ViciSession.connect(settings.socket, settings.timeout)
            try:
                answer = await session.request("version")
            finally:
                await session.close()
        except ViciError as error:
            failed += 1
            print(f"source {name}: {error}; is the daemon running, and may this user open its socket?")
            continue
        print(f"source {name}: {answer.get('daemon', '?')} {answer.get('version', '?')} at {settings.socket}")
    if not sources:
        print("no sources: add a section [sources.NAME]")
    return 1 if failed else 0


async def serve(daemon: object) -> int:
    """Serve until a signal says stop."""
    from agent.config import ConfigError
    from agent.daemon import AgentDaemon
    from agent.engine.state import EngineStateError
    from agent.engine.transport import TransportError
    from agent.engine.usm import UsmError

    assert isinstance(daemon, AgentDaemon)
    troubles = (ConfigError, EngineStateError, TransportError, UsmError, OSError)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()
    busy = asyncio.Lock()

    async def reload() -> None:
        async with busy:
            try:
                await daemon.reload()
            except troubles as error:
                log.error("not reloaded: %s", error)
            except Exception:
                log.exception("not reloaded: a fault of the agent itself")

    def on_hangup() -> None:
        task = loop.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    try:
        await daemon.start()
    except troubles as error:
        print(f"ipsec-snmpd: {error}", file=sys.stderr)
        await daemon.stop()
        return 1
    try:
        await daemon.run_until(stop)
    finally:
        await daemon.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""ipsecctl: a small client of the VICI socket, for machines without swanctl."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vici import Session
from vici.exception import CommandException, DeserializationException, SessionException

from ipsecstack.vici import ctl_format
from ipsecstack.vici.transport import DEFAULT_SOCKET, SocketError, connect

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NO_DAEMON = 0, 1, 2, 3
SOCKET_VARIABLE = "IPSECSTACK_VICI"

Message = dict[str, Any]


class CtlError(Exception):
    """A command failed; the text is shown, the exit status is 1."""


def to_text(value: Any) -> Any:
    """A VICI value as JSON has it; certificates and other octets that are no text become ``hex:...``."""
    if isinstance(value, dict):
        return {key: to_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_text(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return "hex:" + value.hex()
    return value


class ReaderGone(Exception):
    """Whoever read our output has seen enough."""


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None


class Output:
    """Where results go: as text like swanctl's, as raw messages, or as JSON."""

    def __init__(self, style: str) -> None:
        self.style = style
        self._documents: list[Any] = []

    def show(self, kind: str, message: Message, render: Callable[[Message], Iterable[str]]) -> None:
        """One streamed message or reply."""
        plain = to_text(message)
        if self.style == "json":
            self._documents.append(plain)
        elif self.style == "raw":
            _print(f"{kind} {ctl_format.raw(plain)}")
        else:
            for line in render(plain):
                _print(line)

    def finish(self, single: bool) -> None:
        """Print what JSON has gathered: one object, or a list."""
        if self.style != "json":
            return
        document = self._documents[0] if single and self._documents else self._documents
        _print(json.dumps(document, indent=2))


@contextmanager
def _session(path: str) -> Iterator[Session]:
    client = connect(path)
    try:
        yield Session(client)
    finally:
        client.close()


# --- commands ---------------------------------------------------------------------------------------------------------


def _filters(args: argparse.Namespace, *names: str) -> Message:
    """The arguments that were given, under their VICI names."""
    return {name: str(v) for name in names if (v := getattr(args, name.replace("-", "_"), None)) is not None}


def _stream(
    command: str, event: str, render: Callable[[Message], Iterable[str]], *filters: str
) -> Callable[..., None]:
    def run(session: Session, args: argparse.Namespace, out: Output) -> None:
        message = _filters(args, *filters)
        if command == "list-policies":
            chosen = [kind for kind in ("trap", "drop", "pass", "protect") if getattr(args, kind)]
            message |= dict.fromkeys(chosen or ["trap", "drop", "pass", "protect"], "yes")
        for item in session.streamed_request(command, event, message or None):
            out.show(event, item, render)
        out.finish(single=False)

    return run


def _reply(command: str, render: Callable[[Message], Iterable[str]]) -> Callable[..., None]:
    def run(session: Session, args: argparse.Namespace, out: Output) -> None:
        message: Message = {}
        if command == "get-counters":
            message = _filters(args, "name") | ({"all": "yes"} if args.all else {})
            if args.reset:
                session.request("reset-counters", message or None)
                _print("counters were reset")
                return
        out.show(f"{command} reply", session.request(command, message or None), render)
        out.finish(single=True)

    return run


def _control(command: str) -> Callable[..., None]:
    def run(session: Session, args: argparse.Namespace, out: Output) -> None:
        message = _filters(args, "ike", "child", "ike-id", "child-id", "timeout", "loglevel")
        if "timeout" in message and args.timeout > 0:
            message["timeout"] = str(args.timeout * 1000)
        if getattr(args, "force", False):
            message["force"] = "yes"
        if not any(key in message for key in ("ike", "child", "ike-id", "child-id")):
            raise CtlError(f"{command} needs to know what: give --ike or --child")
        for item in session.streamed_request(command, "control-log", message):
            out.show("control-log", item, ctl_format.log_line)
        if out.style == "text":
            _print(f"{command} completed successfully")
        out.finish(single=False)

    return run


def _rekey(session: Session, args: argparse.Namespace, out: Output) -> None:
    message = _filters(args, "ike", "child", "ike-id", "child-id")
    if not message:
        raise CtlError("rekey needs to know what: give --ike or --child")
    reply = session.request("rekey", message)
    out.show("rekey reply", reply, lambda m: [f"rekeying {m['matches']} SAs"])
    out.finish(single=True)


def _redirect(session: Session, args: argparse.Namespace, out: Output) -> None:
    message = _filters(args, "ike", "ike-id", "peer-ip", "peer-id")
    if not message:
        raise CtlError("redirect needs to know whom: give --ike, --ike-id, --peer-ip or --peer-id")
    reply = session.request("redirect", {**message, "gateway": args.gateway})
    out.show("redirect reply", reply, lambda m: [f"redirecting {m['matches']} peers"])
    out.finish(single=True)


def _log(session: Session, args: argparse.Namespace, out: Output) -> None:
    for _name, item in session.listen(["log"]):
        if out.style == "json":
            _print(json.dumps(to_text(item)))
        else:
            out.show("log event", item, ctl_format.log_line)


def _load(session: Session, args: argparse.Namespace, out: Output) -> None:
    from ipsecstack.config import ConfigError
    from ipsecstack.vici.ctl_load import load_everything

    if args.file is None:
        session.request("reload-settings")
        _print("the daemon has read its configuration again")
        return
    try:
        failures = load_everything(session, Path(args.file), _print)
    except ConfigError as error:
        raise CtlError(str(error)) from None
    if failures:
        raise CtlError(f"{failures} items could not be loaded")


COMMANDS: dict[str, tuple[str, Callable[..., None]]] = {
    "list-sas": (
        "list IKE SAs and their Child SAs",
        _stream("list-sas", "list-sa", ctl_format.sas, "ike", "child", "ike-id", "child-id"),
    ),
    "list-conns": ("list loaded connections", _stream("list-conns", "list-conn", ctl_format.conns, "ike")),
    "list-policies": (
        "list installed policies",
        _stream("list-policies", "list-policy", ctl_format.policies, "ike", "child"),
    ),
    "list-certs": ("list certificates", _stream("list-certs", "list-cert", ctl_format.certs, "subject")),
    "initiate": ("bring up a connection or child", _control("initiate")),
    "terminate": ("delete SAs", _control("terminate")),
    "rekey": ("rekey SAs", _rekey),
    "redirect": ("send clients to another gateway (RFC 5685)", _redirect),
    "stats": ("show the daemon's state", _reply("stats", ctl_format.stats)),
    "counters": ("show counts of IKE messages and failures", _reply("get-counters", ctl_format.counters)),
    "log": ("follow the daemon's log", _log),
    "load": ("make the daemon read its configuration again, or load FILE as swanctl --load-all does", _load),
    "version": ("show the daemon's version", _reply("version", ctl_format.version)),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ipsecctl",
        description="Look at and steer ipsecstackd (or any VICI server) through its socket.",
        epilog=f"Exit status: {EXIT_OK} done, {EXIT_FAILED} the daemon refused or it failed, {EXIT_USAGE} wrong usage, "
        f"{EXIT_NO_DAEMON} no daemon at the socket. The variable {SOCKET_VARIABLE} names the socket, too.",
    )
    common = argparse.ArgumentParser(add_help=False)
    style = common.add_mutually_exclusive_group()
    style.add_argument(
        "--raw", action="store_const", const="raw", dest="style", help="print messages as they are"
    )
    style.add_argument("--json", action="store_const", const="json", dest="style", help="print JSON")
    common.add_argument(
        "--socket", default=os.environ.get(SOCKET_VARIABLE, DEFAULT_SOCKET), help="path of the socket"
    )
    common.set_defaults(style="text")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (help_, _) in COMMANDS.items():
        sub = commands.add_parser(name, help=help_, description=help_.capitalize() + ".", parents=[common])
        if name in ("list-sas", "list-conns", "list-policies", "initiate", "terminate", "rekey", "redirect"):
            sub.add_argument("--ike", help="name of a connection")
        if name in ("list-sas", "list-policies", "initiate", "terminate", "rekey"):
            sub.add_argument("--child", help="name of a child")
        if name in ("list-sas", "terminate", "rekey", "redirect"):
            sub.add_argument("--ike-id", type=int, help="unique number of an IKE SA")
        if name == "redirect":
            sub.add_argument("--peer-ip", help="address, range or network of the peers")
            sub.add_argument("--peer-id", help="identity of the peers")
            sub.add_argument("--gateway", required=True, help="address (or name) of the gateway to go to")
        if name in ("list-sas", "terminate", "rekey"):
            sub.add_argument("--child-id", type=int, help="unique number of a Child SA")
        if name in ("initiate", "terminate"):
            sub.add_argument("--timeout", type=int, help="seconds to wait for the outcome; -1 does not wait")
            sub.add_argument("--loglevel", type=int, help="detail of the log meanwhile, -1 to 4")
        if name == "terminate":
            sub.add_argument("--force", action="store_true", help="do not wait for the peer's answer")
        if name == "list-policies":
            for kind in ("trap", "drop", "pass", "protect"):
                sub.add_argument(f"--{kind}", action="store_true", help=f"only {kind} policies")
        if name == "list-certs":
            sub.add_argument("--subject", help="only certificates of this identity")
        if name == "counters":
            sub.add_argument("--name", help="of one connection")
            sub.add_argument("--all", action="store_true", help="of every connection")
            sub.add_argument("--reset", action="store_true", help="set them to zero")
        if name == "load":
            sub.add_argument("file", nargs="?", metavar="FILE", help="a swanctl.conf")
    return parser


def ipsecctl(argv: Sequence[str] | None = None) -> int:
    """The ``ipsecctl`` command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        with _session(args.socket) as session:
            COMMANDS[args.command][1](session, args, Output(args.style))
    except SocketError as error:
        print(f"ipsecctl: {error}", file=sys.stderr)
        return EXIT_NO_DAEMON
    except CommandException as error:
        print(
            f"ipsecctl: {args.command} failed: {str(error).removeprefix('Command failed: ')}", file=sys.stderr
        )
        return EXIT_FAILED
    except CtlError as error:
        print(f"ipsecctl: {error}", file=sys.stderr)
        return EXIT_FAILED
    except (SessionException, DeserializationException) as error:
        print(f"ipsecctl: the server at {args.socket} does not know {args.command}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except ReaderGone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        print(f"ipsecctl: the daemon closed the connection: {error}", file=sys.stderr)
        return EXIT_NO_DAEMON
    except KeyboardInterrupt:
        return 130
    return EXIT_OK

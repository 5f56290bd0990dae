"""initiate, terminate, rekey, install, uninstall."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecstack.config.identity import parse_identity
from ipsecstack.keyex.base import CommandError, CommandFinished
from ipsecstack.vici.codec import Outgoing
from ipsecstack.vici.registry import Result, Waiting, command, failure, success
from ipsecstack.vici.request import Request, RequestError

if TYPE_CHECKING:
    from ipsecstack.vici.server import ViciServer

MAX_TIMEOUT_MS = 3_600_000


@command("initiate")
def initiate(server: ViciServer, request: Request, now: float) -> Result:
    """``timeout`` in ms: 0 or absent waits for the outcome, -1 returns at once (strongSwan's vici README)."""
    child, ike = request.text("child"), request.text("ike")
    if child is None and ike is None:
        raise RequestError("missing configuration name")
    timeout = _timeout(request)
    what = f"CHILD_SA '{child}'" if child is not None else f"IKE_SA '{ike}'"
    server.note(f"vici initiate {what}")
    ticket = server.endpoint.initiate(ike=ike, child=child, now=now)
    if timeout < 0:
        return success()

    def finish(outcomes: list[CommandFinished]) -> Outgoing:
        bad = next((o for o in outcomes if not o.success), None)
        return success() if bad is None else failure(f"establishing {what} failed: {bad.message}")

    return Waiting(
        {ticket},
        finish,
        lambda: failure(f"{what} not established after {timeout}ms"),
        deadline=_deadline(timeout, now),
        level=_level(request),
        ike=_connections_of(server, ike, child),
    )


@command("terminate")
def terminate(server: ViciServer, request: Request, now: float) -> Result:
    ike, child = request.text("ike"), request.text("child")
    ike_id, child_id = _id(request, "ike-id"), _id(request, "child-id")
    if not (ike or child or ike_id or child_id):
        raise RequestError("missing terminate selector")
    timeout = _timeout(request)
    server.note(f"vici terminate {_selector(ike, child, ike_id, child_id)}")
    try:
        ticket, matches = server.endpoint.terminate(
            ike=ike, child=child, ike_id=ike_id, child_id=child_id, force=request.flag("force"), now=now
        )
    except CommandError as error:
        return {**failure(str(error)), "matches": "0", "terminated": "0"}
    if matches == 0:
        return {**failure("no matching SAs to terminate found"), "matches": "0", "terminated": "0"}
    done = {"matches": str(matches), "terminated": str(matches)}
    if timeout < 0:
        return {**success(), **done}

    def finish(outcomes: list[CommandFinished]) -> Outgoing:
        bad = next((o for o in outcomes if not o.success), None)
        if bad is None:
            return {**success(), **done}
        text = bad.message or "terminating SA failed"
        return {**failure(text), "matches": str(matches), "terminated": "0"}

    return Waiting(
        {ticket},
        finish,
        lambda: {
            **failure(f"not all matching SAs were terminated after {timeout}ms"),
            "matches": str(matches),
            "terminated": "0",
        },
        deadline=_deadline(timeout, now),
        level=_level(request),
        ike=frozenset({ike}) if ike else frozenset(),
    )


@command("rekey")
def rekey(server: ViciServer, request: Request, now: float) -> Outgoing:
    """Starts rekeying of what matches and returns at once, as strongSwan does."""
    ike, child = request.text("ike"), request.text("child")
    ike_id, child_id = _id(request, "ike-id"), _id(request, "child-id")
    if not (ike or child or ike_id or child_id):
        raise RequestError("missing rekey selector")
    reauth = request.flag("reauth")
    server.note(f"vici rekey {_selector(ike, child, ike_id, child_id)}")
    try:
        matches = server.endpoint.rekey(
            ike=ike, child=child, ike_id=ike_id, child_id=child_id, reauth=reauth, now=now
        )
    except CommandError as error:
        return {**failure(str(error)), "matches": "0"}
    if not matches:
        return {**failure("no matching SAs to rekey found"), "matches": "0"}
    return {**success(), "matches": str(matches)}


def _child_of(request: Request) -> str:
    child = request.text("child")
    if child is None:
        raise RequestError("missing configuration name")
    return child


@command("install")
def install(server: ViciServer, request: Request, now: float) -> Outgoing:
    child = _child_of(request)
    server.note(f"vici install '{child}'")
    server.endpoint.install(child=child, ike=request.text("ike"), now=now)
    return success()


@command("uninstall")
def uninstall(server: ViciServer, request: Request, now: float) -> Outgoing:
    child = _child_of(request)
    server.note(f"vici uninstall '{child}'")
    server.endpoint.uninstall(child=child, ike=request.text("ike"), now=now)
    return success()


@command("redirect")
def redirect(server: ViciServer, request: Request, now: float) -> Outgoing:
    """Sends clients to another gateway (RFC 5685); returns when they are told, as strongSwan does."""
    gateway = request.text("gateway")
    if not gateway:
        raise RequestError("missing target gateway")
    ike, ike_id = request.text("ike"), _id(request, "ike-id")
    peer_ip, peer_text = request.text("peer-ip"), request.text("peer-id")
    if not (ike or ike_id or peer_ip or peer_text):
        raise RequestError("missing redirect selector")
    try:
        peer_id = parse_identity(peer_text) if peer_text else None
    except ValueError as error:
        raise RequestError(f"'peer-id': {error}") from None
    server.note(f"vici redirect {_selector(ike, None, ike_id, None) or peer_ip or peer_text} to {gateway}")
    try:
        matches = server.endpoint.redirect(
            gateway, ike=ike, ike_id=ike_id, peer_ip=peer_ip, peer_id=peer_id, now=now
        )
    except CommandError as error:
        return {**failure(str(error)), "matches": "0"}
    return {**success(), "matches": str(matches)}


def _id(request: Request, key: str) -> int | None:
    return request.number(key) or None


def _timeout(request: Request) -> int:
    timeout = request.number("timeout", 0) or 0
    if timeout > MAX_TIMEOUT_MS:
        raise RequestError(f"'timeout' is more than {MAX_TIMEOUT_MS} ms; 0 waits without limit")
    return timeout


def _deadline(timeout: int, now: float) -> float | None:
    return now + timeout / 1000 if timeout else None


def _level(request: Request) -> int:
    level = request.number("loglevel", 1)
    return 1 if level is None else level


def _connections_of(server: ViciServer, ike: str | None, child: str | None) -> frozenset[str]:
    """The connections whose log lines belong to an initiation."""
    if ike is not None:
        return frozenset({ike})
    return frozenset(
        c.name for c in server.endpoint.connections() if any(known.name == child for known in c.children)
    )


def _selector(ike: str | None, child: str | None, ike_id: int | None, child_id: int | None) -> str:
    parts = []
    for kind, name, number in (("CHILD_SA", child, child_id), ("IKE_SA", ike, ike_id)):
        if name or number:
            parts.append(kind + (f" '{name}'" if name else "") + (f" #{number}" if number else ""))
    return " of ".join(parts)

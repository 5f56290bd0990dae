"""list-policies, whole or only what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.vici.commands.sas import since, stamped
from ipsecstack.vici.registry import Stream, command
from ipsecstack.vici.request import Request
from ipsecstack.vici.views import Section

if TYPE_CHECKING:
    from ipsecstack.vici.server import ViciServer

_MODES = {Action.BYPASS: "PASS", Action.DISCARD: "DROP"}


@command("list-policies")
def list_policies(server: ViciServer, request: Request, now: float) -> Stream:
    """Streams list-policy events of the kinds asked for: drop, pass, trap, and ``protect`` of ours (docs/vici.md)."""
    kinds = {kind for kind in ("drop", "pass", "trap", "protect") if request.text(kind) is not None}
    child, ike = request.text("child"), request.text("ike")
    stamp = since(server, request)
    server.changes.refresh()
    changes = server.changes.policies(stamp)
    for entry in changes.listed:
        ike_part, _, child_part = entry.name.rpartition("/")
        if _kind(entry) not in kinds or (child is not None and child_part != child):
            continue
        if ike is not None and ike_part != ike:
            continue
        yield "list-policy", {entry.name: _policy(entry, ike_part, child_part)}
    reply = stamped(server, changes.stamp, changes.full)
    if changes.gone:
        reply["gone"] = changes.gone
    return reply


def _kind(entry: SpdEntry) -> str:
    if entry.action is Action.PROTECT:
        return "trap" if entry.trap else "protect"
    return "pass" if entry.action is Action.BYPASS else "drop"


def _policy(entry: SpdEntry, ike: str, child: str) -> Section:
    section: Section = {"child": child}
    if ike:
        section["ike"] = ike
    section["mode"] = _MODES.get(entry.action, entry.mode.value)
    section["action"] = entry.action.value
    section["kind"] = _kind(entry)
    if entry.action is Action.PROTECT:
        section["protocol"] = entry.protocol.name
        section["reqid"] = str(entry.reqid)
    section["priority"] = str(entry.priority)
    section["local-ts"] = [ts.to_text() for ts in entry.local_ts]
    section["remote-ts"] = [ts.to_text() for ts in entry.remote_ts]
    return section

"""list-sas, whole or only what changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ipsecstack.keyex.base import ChildSaView, IkeSaView
from ipsecstack.vici.changes import SaChange
from ipsecstack.vici.events import MAX_EVENT_CHILDREN
from ipsecstack.vici.registry import Stream, command
from ipsecstack.vici.request import Request, RequestError
from ipsecstack.vici.views import Section, child_key, child_section, ids, ike_name, ike_section

if TYPE_CHECKING:
    from ipsecstack.vici.codec import Outgoing
    from ipsecstack.vici.server import ViciServer


def since(server: ViciServer, request: Request) -> int | None:
    """The stamp that a client has seen, None when it wants all or saw another epoch."""
    stamp = request.number("changed-since")
    if stamp is not None and stamp < 0:
        raise RequestError("'changed-since' is a generation of an earlier reply")
    return stamp if request.text("epoch") == server.info.epoch else None


def stamped(server: ViciServer, stamp: int, full: bool) -> dict[str, str | list[str] | Outgoing]:
    """The keys with which a reply answers changed-since."""
    reply: dict[str, str | list[str] | Outgoing] = {"epoch": server.info.epoch, "generation": str(stamp)}
    if full:
        reply["full"] = "yes"
    return reply


@command("list-sas")
def list_sas(server: ViciServer, request: Request, now: float) -> Stream:
    """Streams list-sa events. A child filter lists only IKE SAs that have such a child, and only those children."""
    ike, child = request.text("ike"), request.text("child")
    ike_id, child_id = request.number("ike-id"), request.number("child-id")
    stamp = since(server, request)
    server.changes.refresh()
    changes = server.changes.ike_sas(stamp)
    for change in changes.listed:
        view = change.view
        if (ike is not None and view.name != ike) or (ike_id and view.uniqueid != ike_id):
            continue
        wanted = [(c, s) for c, s in change.children if _matches(c, child, child_id)]
        if (child is not None or child_id) and not wanted:
            continue
        for message in _messages(server, change, wanted, full=changes.full):
            yield "list-sa", {ike_name(view): message}
    reply = stamped(server, changes.stamp, changes.full)
    if changes.gone_ike:
        reply["gone-ike"] = ids(changes.gone_ike)
    if changes.gone_child:
        reply["gone-child"] = ids(changes.gone_child)
    return reply


def _matches(child: ChildSaView, name: str | None, uniqueid: int | None) -> bool:
    return (name is None or child.name == name) and (not uniqueid or child.uniqueid == uniqueid)


def _messages(
    server: ViciServer, change: SaChange, children: list[tuple[ChildSaView, int]], *, full: bool
) -> Iterator[Section]:
    """One message, or several when the children do not fit into one."""
    now = server.clock()
    for start in range(0, max(len(children), 1), MAX_EVENT_CHILDREN):
        section = ike_section(change.view, now, change.stamp)
        if not full:
            section["child-ids"] = _child_ids(change.view)
        section["child-sas"] = {
            child_key(child): child_section(child, server.stack.child_counters(child), now, stamp)
            for child, stamp in children[start : start + MAX_EVENT_CHILDREN]
        }
        yield section


def _child_ids(view: IkeSaView) -> list[str]:
    return ids([child.uniqueid for child in view.children])

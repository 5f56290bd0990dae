"""get-counters, reset-counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecstack.vici.codec import Outgoing
from ipsecstack.vici.registry import command, success
from ipsecstack.vici.request import Request, RequestError

if TYPE_CHECKING:
    from ipsecstack.vici.server import ViciServer


@command("get-counters")
def get_counters(server: ViciServer, request: Request, now: float) -> Outgoing:
    name = request.text("name")
    if request.flag("all"):
        counters = server.endpoint.counters_by_connection()
    elif name is None:
        counters = {"": server.endpoint.counters() | server.tally.counts()}
    else:
        known = server.endpoint.counters_by_connection()
        if name not in known:
            raise RequestError("no counters found for this connection")
        counters = {name: known[name]}
    return {
        "counters": {
            connection: {key: str(value) for key, value in values.items()}
            for connection, values in counters.items()
        },
        **success(),
    }


@command("reset-counters")
def reset_counters(server: ViciServer, request: Request, now: float) -> Outgoing:
    name = request.text("name")
    if request.flag("all"):
        for connection in server.endpoint.counters_by_connection():
            server.endpoint.reset_counters(connection)
    elif name is not None and name not in server.endpoint.counters_by_connection():
        raise RequestError("no counters found for this connection")
    else:
        server.endpoint.reset_counters(name)
        if name is None:
            server.tally.reset()
    return success()

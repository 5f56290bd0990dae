"""load-pool, unload-pool, get-pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecstack.config.connections import check_name
from ipsecstack.config.pools import read_pool
from ipsecstack.vici.codec import Outgoing
from ipsecstack.vici.registry import command, success
from ipsecstack.vici.request import Request, RequestError
from ipsecstack.vici.views import Section

if TYPE_CHECKING:
    from ipsecstack.vici.server import ViciServer

MAX_LEASES = 2000
"""Leases of one pool that a reply lists; a message holds 512 KiB."""


@command("load-pool")
def load_pool(server: ViciServer, request: Request, now: float) -> Outgoing:
    """The same schema reads this and swanctl.conf."""
    section = request.section()
    check_name(section.name, section, f"pools.{section.name}")
    server.endpoint.load_pool(read_pool(section, lambda text: server.note(text)))
    return success()


@command("unload-pool")
def unload_pool(server: ViciServer, request: Request, now: float) -> Outgoing:
    name = request.text("name")
    if name is None:
        raise RequestError("missing pool name to unload")
    server.endpoint.unload_pool(name)
    return success()


@command("get-pools")
def get_pools(server: ViciServer, request: Request, now: float) -> Outgoing:
    """One section for each pool; with ``leases = yes`` who has, or had, which address."""
    wanted, leases = request.text("name"), request.flag("leases")
    reply: Section = {}
    for pool in server.endpoint.address_pools():
        if wanted is not None and pool.config.name != wanted:
            continue
        shown: Section = {
            "base": pool.config.text,
            "size": str(pool.size),
            "online": str(pool.online),
            "offline": str(pool.offline),
        }
        if leases:
            shown["leases"] = {
                str(number): {
                    "address": str(lease.address),
                    "identity": lease.identity,
                    "status": "online" if lease.online else "offline",
                }
                for number, lease in enumerate(pool.leases()[:MAX_LEASES])
            }
        reply[pool.config.name] = shown
    return reply

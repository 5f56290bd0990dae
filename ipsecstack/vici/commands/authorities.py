"""load-authority, unload-authority, get-authorities, list-authorities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecstack.config.certs import AbsoluteSource
from ipsecstack.config.connections import check_name
from ipsecstack.config.state import read_authority
from ipsecstack.vici.codec import Outgoing
from ipsecstack.vici.registry import Stream, command, success
from ipsecstack.vici.request import Request, RequestError

if TYPE_CHECKING:
    from ipsecstack.vici.server import ViciServer


@command("load-authority")
def load_authority(server: ViciServer, request: Request, now: float) -> Outgoing:
    section = request.section()
    check_name(section.name, section, f"authorities.{section.name}")
    authority = read_authority(section, AbsoluteSource(), lambda text: server.note(text))
    server.credentials.load_authority(
        authority.name, authority.cacert, authority.crl_uris, authority.ocsp_uris
    )
    return success()


@command("unload-authority")
def unload_authority(server: ViciServer, request: Request, now: float) -> Outgoing:
    name = request.text("name")
    if name is None:
        raise RequestError("unload: missing authority name")
    server.credentials.unload_authority(name)
    return success()


@command("get-authorities")
def get_authorities(server: ViciServer, request: Request, now: float) -> Outgoing:
    return {"authorities": list(server.credentials.authorities())}


@command("list-authorities")
def list_authorities(server: ViciServer, request: Request, now: float) -> Stream:
    wanted = request.text("name")
    for name, entry in server.credentials.authorities().items():
        if wanted is None or name == wanted:
            shown: Outgoing = {
                "cacert": entry.subject,
                "crl_uris": list(entry.crl_uris),
                "ocsp_uris": list(entry.ocsp_uris),
            }
            yield "list-authority", {name: shown}
    return {}

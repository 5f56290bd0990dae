"""load-conn, unload-conn, get-conns, list-conns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecstack.config.certs import AbsoluteSource
from ipsecstack.config.connections import read_connection
from ipsecstack.crypto import x509
from ipsecstack.keyex.configuration import AuthClass, AuthConfig, ChildAction, ChildConfig, ConnectionConfig
from ipsecstack.vici.codec import Outgoing
from ipsecstack.vici.registry import Stream, command, success
from ipsecstack.vici.request import Request, RequestError
from ipsecstack.vici.views import Section

if TYPE_CHECKING:
    from ipsecstack.vici.server import ViciServer

_CLASSES = {AuthClass.PSK: "pre-shared key", AuthClass.PUBKEY: "public key", AuthClass.EAP: "EAP"}


@command("load-conn")
def load_conn(server: ViciServer, request: Request, now: float) -> Outgoing:
    """The same schema reads this and swanctl.conf. A connection equal to the loaded one is left alone."""
    section = request.section()
    warnings: list[str] = []
    config = read_connection(section, AbsoluteSource(), warnings.append)
    for warning in warnings:
        server.note(warning)
    if config not in server.endpoint.connections():
        server.endpoint.load_connection(config, now)
        server.note(f"loaded connection '{config.name}'")
    return success()


@command("unload-conn")
def unload_conn(server: ViciServer, request: Request, now: float) -> Outgoing:
    name = request.text("name")
    if name is None:
        raise RequestError("missing connection name to unload")
    if name not in (c.name for c in server.endpoint.connections()):
        raise RequestError(f"unload: connection '{name}' not found")
    server.endpoint.unload_connection(name, now)
    server.note(f"unloaded connection '{name}'")
    return success()


@command("get-conns")
def get_conns(server: ViciServer, request: Request, now: float) -> Outgoing:
    return {"conns": [c.name for c in server.endpoint.connections()]}


@command("list-conns")
def list_conns(server: ViciServer, request: Request, now: float) -> Stream:
    wanted = request.text("ike")
    for config in list(server.endpoint.connections()):
        if wanted is None or config.name == wanted:
            yield "list-conn", {config.name: _connection(config)}
    return {}


def _connection(config: ConnectionConfig) -> Section:
    section: Section = {
        "local_addrs": list(config.local_addrs),
        "remote_addrs": list(config.remote_addrs),
        "local_port": str(config.local_port),
        "remote_port": str(config.remote_port),
        "version": f"IKEv{config.version}",
        "reauth_time": _number(config.reauth_time),
        "rekey_time": _number(config.rekey_time),
        "unique": f"UNIQUE_{config.unique.name}",
    }
    if config.dpd_delay:
        section["dpd_delay"] = _number(config.dpd_delay)
    if config.ppk_id is not None:
        section["ppk_id"] = config.ppk_id.text
    if config.ppk_required:
        section["ppk_required"] = "yes"
    if config.vips:
        section["vips"] = [str(vip) for vip in config.vips]
    if config.pools:
        section["pools"] = list(config.pools)
    for side, rounds in (("local", config.local), ("remote", config.remote)):
        for number, auth in enumerate(rounds, 1):
            section[f"{side}-{number}"] = _auth(auth)
    section["children"] = {child.name: _child(child) for child in config.children}
    return section


def _auth(auth: AuthConfig) -> Section:
    section: Section = {"class": _CLASSES[auth.auth]}
    if auth.id is not None:
        section["id"] = auth.id.text
    if auth.auth is AuthClass.EAP and auth.eap:
        section["eap-type"] = f"EAP_{auth.eap.upper()}"
    if auth.eap_id is not None:
        section["eap_id"] = auth.eap_id.text
    section["groups"] = []
    section["cert_policy"] = []
    section["certs"] = [_subject(der) for der in auth.certs]
    section["cacerts"] = [_subject(der) for der in auth.cacerts]
    return section


def _subject(der: bytes) -> str:
    return x509.subject_text(x509.load_certificate(der))


def _child(child: ChildConfig) -> Section:
    mode = {"BYPASS": "PASS", "DISCARD": "DROP"}.get(child.policy, child.mode.value)
    section: Section = {
        "mode": mode,
        "rekey_time": _number(child.rekey_time),
        "rekey_bytes": str(child.rekey_bytes),
        "rekey_packets": str(child.rekey_packets),
        "life_time": _number(child.life_time),
        **{f"{kind}_action": _action(getattr(child, f"{kind}_action")) for kind in ("dpd", "start", "close")},
        "local-ts": [ts.to_text() for ts in child.local_ts] or ["dynamic"],
        "remote-ts": [ts.to_text() for ts in child.remote_ts] or ["dynamic"],
    }
    if child.interface:
        section["interface"] = child.interface
    if child.priority:
        section["priority"] = str(child.priority)
    return section


def _action(action: ChildAction) -> str:
    """strongSwan's names: clear is none, restart is start."""
    return {ChildAction.CLEAR: "none", ChildAction.RESTART: "start"}.get(action, action.value)


def _number(value: float) -> str:
    return str(int(value))

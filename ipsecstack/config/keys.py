"""Which keys swanctl.conf(5) has, and what becomes of those that this stack does not implement yet.

``WARN``: ignoring the key changes comfort, not protection. ``REFUSE``: ignoring it would protect less than the file
says, so the configuration is not accepted. A value in ``harmless`` asks for what we do anyway and passes silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Treatment(Enum):
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A key of strongSwan's that is known and not implemented."""

    treatment: Treatment
    harmless: frozenset[str] = frozenset()
    cure: str = "remove it"


def _warn(*harmless: str) -> Unsupported:
    return Unsupported(Treatment.WARN, frozenset(harmless))


def _refuse(*harmless: str, cure: str = "remove it") -> Unsupported:
    return Unsupported(Treatment.REFUSE, frozenset(harmless), cure)


_NO = ("no", "false", "disabled", "0")
_YES = ("yes", "true", "enabled", "1")
_ZERO_TIME = ("0", "0s", "0m", "0h", "0d")

CONNECTION_UNSUPPORTED: dict[str, Unsupported] = {
    "aggressive": _refuse(*_NO),
    "pull": _warn(),
    "dscp": _warn("0", "000000"),
    "ocsp": _warn("never", "reply"),
    "if_id_in": _refuse("0"),
    "if_id_out": _refuse("0"),
    "mediation": _warn(*_NO),
    "mediated_by": _warn(),
    "mediation_peer": _warn(),
}

AUTH_UNSUPPORTED: dict[str, Unsupported] = {
    "aaa_id": _warn(),
    "xauth_id": _warn(),
    "ca_id": _refuse(cure="use cacerts"),
    "groups": _refuse(),
    "cert_policy": _refuse(),
    "pubkeys": _refuse(cure="use certs"),
}

CHILD_UNSUPPORTED: dict[str, Unsupported] = {
    "updown": _refuse(cure="remove it; events of VICI tell the same"),
    "hostaccess": _warn(*_NO, *_YES),  # for updown scripts alone
    "policies": _refuse(*_YES),
    "policies_fwd_out": _warn(*_NO),
    "set_mark_in": _refuse("0", "0/0x00000000"),
    "set_mark_out": _refuse("0", "0/0x00000000"),
    "label": _refuse(),
    "label_mode": _refuse("system"),
    "hw_offload": _warn("no", "auto"),
    "per_cpu_sas": _warn(*_NO),
    "icmp": _warn(*_NO),
}

AUTHORITY_UNSUPPORTED: dict[str, Unsupported] = {
    "cert_uri_base": _warn(),
    "handle": _refuse(cure="give the CA certificate as a file"),
    "slot": _refuse(),
    "module": _refuse(),
}

"""SNMP-MPD-MIB (RFC 3412): messages that the dispatcher could do nothing with."""

from __future__ import annotations

from collections.abc import Callable

from agent.smi.bindings import ModuleBinding, Scalar


def binding(count: Callable[[str], int]) -> ModuleBinding:
    """The module. `count` gives an engine counter by name."""
    return ModuleBinding(
        "SNMP-MPD-MIB",
        scalars=[
            Scalar("snmpUnknownSecurityModels", lambda g: count("unknown_security_models")),
            Scalar("snmpInvalidMsgs", lambda g: count("invalid_msgs")),
            Scalar("snmpUnknownPDUHandlers", lambda g: count("unknown_pdu_handlers")),
        ],
    )

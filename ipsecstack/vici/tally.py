"""Counts of outcomes, made of the stack's events: what get-counters adds to strongSwan's keys (docs/vici.md)."""

from __future__ import annotations

from ipsecstack.keyex.base import (
    ChildSaEstablished,
    IkeSaDeleted,
    IkeSaEstablished,
    NegotiationFailed,
    Output,
)

KEYS = (
    "auth-failures-in",
    "auth-failures-out",
    "negotiation-failures-in",
    "negotiation-failures-out",
    "ike-initiated",
    "ike-responded",
    "ike-established",
    "ike-failed-init",
    "ike-failed-resp",
    "child-established",
    "child-failed",
)

AUTH_REASONS = frozenset(
    {
        "AUTHENTICATION_FAILED",
        "NO_PSK",
        "NO_PRIVATE_KEY",
        "NO_PEER_CONFIG",
        "ID_MISMATCH",
        "CERTIFICATE",
        "CERTIFICATE_INVALID",
        "CERTIFICATE_REVOKED",
    }
)


class Tally:
    """One count for each of ``KEYS``, over all connections; rekeying counts as nothing."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(KEYS, 0)

    def take(self, output: Output) -> None:
        """Count an event; everything else is ignored."""
        if isinstance(output, IkeSaEstablished):
            self._add("ike-established", "ike-initiated" if output.ike.initiator else "ike-responded")
        elif isinstance(output, IkeSaDeleted) and not output.established:
            self._add("ike-failed-init" if output.ike.initiator else "ike-failed-resp")
        elif isinstance(output, ChildSaEstablished):
            self._add("child-established")
        elif isinstance(output, NegotiationFailed):
            kind = "auth" if output.reason in AUTH_REASONS else "negotiation"
            self._add(f"{kind}-failures-{'out' if output.received else 'in'}")
            if output.child_name is not None:
                self._add("child-failed")

    def _add(self, *keys: str) -> None:
        for key in keys:
            self._counts[key] += 1

    def counts(self) -> dict[str, int]:
        return dict(self._counts)

    def reset(self) -> None:
        self._counts = dict.fromkeys(KEYS, 0)

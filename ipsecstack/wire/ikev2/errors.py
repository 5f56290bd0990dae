"""What the IKEv2 codec raises."""

from __future__ import annotations


class WireError(ValueError):
    """Octets that are no IKEv2 message or payload; the message says what is wrong and where, never key material."""


class UnsupportedCriticalPayload(WireError):
    """A payload type that is not known here came with its critical flag set (RFC 7296 §2.5)."""

    def __init__(self, payload_type: int) -> None:
        super().__init__(f"payload type {payload_type} is critical and not supported")
        self.payload_type = payload_type

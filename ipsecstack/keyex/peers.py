"""The PAD entries that connections make (RFC 4301 §4.4.3)."""

from __future__ import annotations

from ipsecstack.ipsec.pad import ID_ANY, PadEntry
from ipsecstack.keyex.configuration import ConnectionConfig, DynamicSelector
from ipsecstack.keyex.ikev2.authenticate import remote_round


def pad_entry(config: ConnectionConfig) -> PadEntry:
    """The PAD entry of a connection's remote section."""
    round_ = remote_round(config)
    id_ = round_.id
    selectors = tuple(
        ts for child in config.children for ts in child.remote_ts if not isinstance(ts, DynamicSelector)
    )
    return PadEntry(
        config.name,
        id_.type if id_ is not None else ID_ANY,
        id_.data if id_ is not None else b"",
        round_.auth.value,
        round_.cacerts,
        round_.certs,
        selectors,
    )

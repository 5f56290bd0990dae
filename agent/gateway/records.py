"""What a source says about the live stack, in the model's words. None: the source does not give it.

Records are facts of one moment, read once and never changed. Counts are dicts of name to value (agent.gateway.counters)
in which a name that the source does not give is missing. Times are seconds relative to the moment of the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from agent.gateway.selectors import IPAddress, Selector

# strongSwan's words for a Child SA's state. LIVE: packets are accepted or sent; the others exist only as bookkeeping.
LIVE_CHILD_STATES = frozenset({"INSTALLED", "UPDATING", "REKEYING", "REKEYED", "RETRYING", "DELETING"})
ENDED_CHILD_STATES = frozenset({"DELETED", "DESTROYING"})
LIVE_IKE_STATES = frozenset({"ESTABLISHED", "PASSIVE", "REKEYING", "DELETING"})
SUPERSEDED_IKE_STATES = frozenset({"REKEYED", "DESTROYING"})


@dataclass(frozen=True, slots=True)
class ChildRecord:
    """A pair of IPsec SAs negotiated together (a Child SA; in IKEv1 what one Quick Mode made)."""

    name: str
    uniqueid: int
    state: str
    protocol: str  # ESP, AH
    mode: str  # TUNNEL, TRANSPORT, BEET
    spi_in: int
    spi_out: int
    reqid: int | None = None
    encap: bool = False
    encr_alg: str | None = None
    encr_keysize: int | None = None
    integ_alg: str | None = None
    integ_keysize: int | None = None
    dh_group: str | None = None
    additional_ke: tuple[str, ...] = ()
    esn: bool = False
    cpi_in: int | None = None
    cpi_out: int | None = None
    replay_window: int | None = None
    install_time: int | None = None  # seconds since installation
    rekey_time: int | None = None  # seconds until then
    life_time: int | None = None
    lifetime_seconds: int | None = None  # the hard limit as installed
    rekey_bytes: int | None = None
    life_bytes: int | None = None
    rekey_packets: int | None = None
    life_packets: int | None = None
    local_ts: tuple[Selector, ...] = ()
    remote_ts: tuple[Selector, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None
    # Tells SAs apart even where a restarted daemon gives the same uniqueid again.
    key: tuple[int, int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.uniqueid, self.spi_in, self.spi_out))


@dataclass(frozen=True, slots=True)
class IkeRecord:
    """An IKE SA. `children` is None where the message does not list them (ike-updown), () where there are none."""

    name: str
    uniqueid: int
    version: int
    state: str
    initiator: bool
    initiator_spi: int
    responder_spi: int
    local_host: IPAddress | None = None
    local_port: int | None = None
    local_id: str | None = None
    local_id_type: int | None = None
    remote_host: IPAddress | None = None
    remote_port: int | None = None
    remote_id: str | None = None
    remote_id_type: int | None = None
    nat_local: bool = False
    nat_remote: bool = False
    encr_alg: str | None = None
    encr_keysize: int | None = None
    integ_alg: str | None = None
    integ_keysize: int | None = None
    prf_alg: str | None = None
    dh_group: str | None = None
    additional_ke: tuple[str, ...] = ()
    local_auth: str | None = None  # psk, rsa, ecdsa, ed25519 ...
    remote_auth: str | None = None
    established: int | None = None  # seconds since then
    rekey_time: int | None = None
    reauth_time: int | None = None
    life_time: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    children: tuple[ChildRecord, ...] | None = None
    child_ids: frozenset[int] | None = (
        None  # uniqueids of all that live, where `children` holds only the changed ones
    )
    reason: str | None = None
    # Uniqueid and our own SPI: the responder's SPI is not known from the start.
    key: tuple[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.uniqueid, self.initiator_spi))


# What of a record is shown as it stands: neither counts, which are summed, nor times, which run.
child_facts = attrgetter(
    *("name", "state", "protocol", "mode", "reqid", "encap", "encr_alg", "encr_keysize", "integ_alg"),
    *("integ_keysize", "dh_group", "additional_ke", "esn", "cpi_in", "cpi_out", "replay_window"),
    *("rekey_bytes", "life_bytes", "rekey_packets", "life_packets", "local_ts", "remote_ts"),
)
ike_facts = attrgetter(
    *("name", "version", "state", "initiator", "responder_spi", "local_host", "local_port", "local_id"),
    *("local_id_type", "remote_host", "remote_port", "remote_id", "remote_id_type", "nat_local"),
    *("nat_remote", "encr_alg", "encr_keysize", "integ_alg", "integ_keysize", "prf_alg", "dh_group"),
    *("additional_ke", "local_auth", "remote_auth"),
)


@dataclass(frozen=True, slots=True)
class ConfiguredChild:
    """A child as configured. An empty selector tuple means that it is decided at negotiation ('dynamic')."""

    name: str
    mode: str = "TUNNEL"
    local_ts: tuple[Selector, ...] = ()
    remote_ts: tuple[Selector, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """A connection as configured (VICI list-conns). An address or identity that may be anyone's is None."""

    name: str
    version: int = 0  # 0: 1 or 2
    local_host: IPAddress | None = None
    remote_host: IPAddress | None = None
    local_id: str | None = None
    remote_id: str | None = None
    local_auth: str | None = None
    remote_auth: str | None = None
    children: tuple[ConfiguredChild, ...] = ()


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Something went wrong: a failed negotiation, an authentication failure. `phase` is 1 (IKE) or 2 (Child SA)."""

    phase: int
    type: str
    message: str = ""
    connection: str | None = None
    child: str | None = None
    ike_uniqueid: int | None = None
    local_host: IPAddress | None = None
    local_id: str | None = None
    remote_host: IPAddress | None = None
    remote_id: str | None = None

"""Knobs of an endpoint. The defaults are strongSwan's where it has the same knob (strongswan.conf(5))."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Options:
    """Settings that hold for all connections. Times are seconds."""

    port: int = 500
    """Local UDP port of IKE."""
    port_nat_t: int = 4500
    """Local UDP port of IKE and ESP in UDP (RFC 7296 §2.23)."""

    retransmit_timeout: float = 4.0
    retransmit_base: float = 1.8
    retransmit_tries: int = 5
    """Retransmissions of a request before the peer is given up; the waits are timeout * base**n."""
    retransmit_jitter: float = 0.1
    """Each wait is shortened by a random part of it, at most this fraction."""
    retransmit_limit: float = 0.0
    """Longest single wait; 0 means no limit."""

    half_open_timeout: float = 30.0
    """A responder forgets an IKE SA that is not authenticated by then."""
    cookie_threshold: int = 30
    """Half-open IKE SAs from which on cookies are demanded (RFC 7296 §2.6)."""
    cookie_threshold_ip: int = 3
    """The same for the half-open IKE SAs of one remote address."""
    block_threshold_ip: int = 5
    """Half-open IKE SAs of one remote address from which on requests are dropped; 0 means never."""
    init_limit_half_open: int = 0
    """Half-open IKE SAs from which on every IKE_SA_INIT request is dropped; 0 means never."""
    half_open_limit: int = 4096
    """Half-open IKE SAs that are kept; beyond that the oldest one makes room; 0 means no limit. A peer that means it
    is authenticated long before its turn comes."""
    cookie_lifetime: float = 10.0
    """Age at which the cookie secret changes; the one before it is still accepted."""
    answer_rate: float = 20.0
    """Unauthenticated answers (INVALID_IKE_SPI, INVALID_SPI, INVALID_MAJOR_VERSION) per second, over all peers."""
    log_rate: float = 10.0
    """Log lines per second and kind that unauthenticated datagrams may cause."""
    max_packet: int = 10_000
    """Longest IKE message that is read, octets; longer ones are dropped and counted (charon.max_packet)."""
    fragment_size: int = 1280
    """Octets of the longest IP packet that an IKE message is put into before it is cut into fragments (RFC 7383); 0 is
    the least that the IP version promises (charon.fragment_size)."""
    children_limit: int = 10_000
    """Child SAs of one IKE SA from which on a peer gets NO_ADDITIONAL_SAS; rekeying may have twice as many."""
    peer_limit: int = 4096
    """IKE SAs with one identity from which on its IKE_AUTH is refused; rekeying may have twice as many."""
    hint_interval: float = 5.0
    """Least time between two liveness checks that unauthenticated hints cause on one IKE SA (RFC 7296 §2.4)."""

    follow_redirects: bool = True
    """As a client, go where a gateway redirects us to (RFC 5685)."""
    redirect_new: str = ""
    """Address of a gateway that all new clients are redirected to when they begin; empty: none."""

    retry_interval: float = 10.0
    """Wait before a rekeying that failed for the moment (TEMPORARY_FAILURE) is tried again."""
    retry_jitter: float = 5.0
    delete_rekeyed_delay: float = 5.0
    """A rekeyed Child SA's inbound SA stays this long after its deletion, for packets under way."""
    outbound_check: float = 2.0
    """How often a responder looks whether the initiator of a rekeying sends over the new Child SA already."""
    rekeyed_timeout: float = 180.0
    """A rekeyed IKE SA that its peer does not delete is deleted by us then."""
    redundant_timeout: float = 8.0
    """The redundant IKE SA of a collision that we won is forgotten so long after the old one's deletion was answered,
    if the peer does not delete it: one that heard of the deletion first has dropped it without a word."""
    request_window: int = 1
    """Own requests outstanding at a time, if the peer's window allows as many (RFC 7296 §2.3)."""
    response_window: int = 1
    """Requests of a peer that are taken at a time, in any order; it is told if there may be more than one."""

    abilities: frozenset[str] = frozenset({"ah", "esn", "ipcomp", "mark", "tfc", "transport"})
    """What the data plane can do beside ESP tunnels: the names of its ``Features``, and ``mark`` (the kernel's)."""

    ticket_lifetime: float = 3600.0
    """How long a ticket for session resumption is good, at most (RFC 5723)."""
    tickets_remembered: int = 65536
    """Tickets that are used up, or whose IKE SA was deleted, which a gateway remembers until they end."""
    qcd_secret: bytes = field(default=b"", repr=False)
    """What tokens of quick crash detection are made with, the same after a restart (RFC 6290); empty: none are made."""

    export_keys: bool = False
    """Emit KeysDerived, for decryption by tshark. For debugging only: it gives keys away."""
    remember_changes: int = 4096
    """Ended SAs that ``ike_sas_changed_since`` remembers."""
    observer: Callable[[object, object, object], None] | None = None
    """Called with (row, state before, state after) of each handled message: for tests of the state table."""

    @property
    def give_up_after(self) -> float:
        """Seconds after which an unanswered request counts as lost, without jitter and limit."""
        waits = range(self.retransmit_tries + 1)
        return sum(self.retransmit_timeout * self.retransmit_base**n for n in waits)

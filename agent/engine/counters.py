"""What the engine counts. snmp* of RFC 3418 by their names there, the rest for the log and our own module."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EngineCounters:
    """Monotonic since the start of the process."""

    in_pkts: int = 0
    in_bad_versions: int = 0
    in_bad_community_names: int = 0
    in_bad_community_uses: int = 0
    in_asn_parse_errs: int = 0
    silent_drops: int = 0
    proxy_drops: int = 0
    unknown_contexts: int = 0
    unknown_security_models: int = 0
    invalid_msgs: int = 0
    unknown_pdu_handlers: int = 0
    usm_unsupported_sec_levels: int = 0
    usm_not_in_time_windows: int = 0
    usm_unknown_user_names: int = 0
    usm_unknown_engine_ids: int = 0
    usm_wrong_digests: int = 0
    usm_decryption_errors: int = 0
    internal_errors: int = 0
    """Messages that an unforeseen exception ended; each is a bug, and is logged."""
    set_retransmissions: int = 0
    sets_refused_busy: int = 0
    sets_replayed: int = 0
    unexpected_answers: int = 0
    """Responses, Reports and notifications from where nothing was asked."""
    reports_withheld: int = 0
    """Reports to messages that USM refused, not sent because their source network had its share."""
    answers_withheld: int = 0
    """Answers to what nobody had authenticated, larger than their request, not sent for the same reason."""

"""The ``ipsecstackd { }`` section: the daemon's own settings. swanctl ignores a section it does not know."""

from __future__ import annotations

from collections.abc import Callable

from ipsecstack.config.reader import SectionReader, Warn
from ipsecstack.config.tree import Section
from ipsecstack.config.values import parse_bool, parse_float, parse_gateway, parse_int

Option = int | float | bool | str


def _whole(low: int, high: int) -> Callable[[str], Option]:
    return lambda text: parse_int(text, low, high)


def _number(low: float, high: float) -> Callable[[str], Option]:
    return lambda text: parse_float(text, low, high)


def _fragment_size(text: str) -> Option:
    size = parse_int(text, 0, 65535)
    if 0 < size < 296:
        raise ValueError(
            f"{size} octets are too few for a packet with a fragment of IKE; write 0, or 296..65535"
        )
    return size


def _word(*words: str) -> Callable[[str], Option]:
    def parse(text: str) -> Option:
        if text.lower() not in words:
            raise ValueError(f"'{text}' is not one of {', '.join(words)}")
        return text.lower()

    return parse


# One line for each setting. Names are those of keyex.options.Options where that is what they set.
SETTINGS: dict[str, Callable[[str], Option]] = {
    "socket": str,
    "group": str,
    "log_level": _whole(-1, 4),
    "dataplane": _word("tun", "xfrm", "memory"),
    "kernel_policies": parse_bool,
    "install_routes": parse_bool,
    "device": str,
    "mtu": _whole(576, 65535),
    "pid_file": str,
    "nat_keepalive": _number(0, 3600),
    "port": _whole(1, 65535),
    "port_nat_t": _whole(1, 65535),
    "retransmit_timeout": _number(0.05, 300),
    "retransmit_base": _number(1, 10),
    "retransmit_tries": _whole(0, 50),
    "retransmit_jitter": _number(0, 1),
    "retransmit_limit": _number(0, 3600),
    "half_open_timeout": _number(1, 3600),
    "cookie_threshold": _whole(0, 10**6),
    "cookie_threshold_ip": _whole(0, 10**6),
    "block_threshold_ip": _whole(0, 10**6),
    "init_limit_half_open": _whole(0, 10**6),
    "half_open_limit": _whole(0, 10**6),
    "cookie_lifetime": _number(1, 3600),
    "answer_rate": _number(0, 10**6),
    "max_packet": _whole(1280, 65535),
    "fragment_size": _fragment_size,
    "children_limit": _whole(1, 10**6),
    "peer_limit": _whole(1, 10**6),
    "hint_interval": _number(0.1, 3600),
    "retry_interval": _number(0.1, 3600),
    "retry_jitter": _number(0, 3600),
    "delete_rekeyed_delay": _number(0, 3600),
    "rekeyed_timeout": _number(1, 3600),
    "follow_redirects": parse_bool,
    "redirect_new": parse_gateway,
    "request_window": _whole(1, 64),
    "qcd_secret_file": str,
    "ticket_lifetime": _number(10, 7 * 86400),
    "tickets_remembered": _whole(16, 10**7),
    "response_window": _whole(1, 64),
    "export_keys": parse_bool,
    "remember_changes": _whole(16, 10**7),
}


def read_daemon(section: Section | None, warn: Warn) -> dict[str, Option]:
    """The settings that are given, typed and within bounds. Raises ConfigError."""
    if section is None:
        return {}
    reader = SectionReader(section, section.name, warn)
    reader.no_sections()
    found: dict[str, Option] = {}
    for key, parse in SETTINGS.items():
        if reader.value(key) is not None:
            default: Option = ""
            found[key] = reader.get(key, parse, default)
    reader.finish({})
    return found

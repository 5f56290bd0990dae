"""A connection's section -> ``ConnectionConfig``: one schema for swanctl.conf and for VICI's load-conn."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import TypeVar

from ipsecstack.config.certs import CertSource, to_der
from ipsecstack.config.identity import ANY, DER_ASN1_DN, parse_identity
from ipsecstack.config.keys import AUTH_UNSUPPORTED, CHILD_UNSUPPORTED, CONNECTION_UNSUPPORTED
from ipsecstack.config.proposals import parse_proposals, weak_algorithms
from ipsecstack.config.reader import SectionReader, Warn
from ipsecstack.config.tree import ConfigError, Section, suggestion
from ipsecstack.config.values import parse_bool, parse_gateway, parse_int, parse_size, parse_time
from ipsecstack.crypto import x509
from ipsecstack.crypto.schemes import parse_rules
from ipsecstack.ipsec.sa import Mode, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.keyex.configuration import (
    REVOCATION_POLICIES,
    AuthClass,
    AuthConfig,
    ChildAction,
    ChildConfig,
    ConnectionConfig,
    DynamicSelector,
    Identity,
    Proposal,
    UniquePolicy,
)

MAX_NAME_OCTETS = 120
"""Two names and a number must fit into a VICI element name, which has 255 octets."""

_HOST = re.compile(
    r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?\Z"
)
_ACTIONS = {
    "none": ChildAction.NONE,
    "trap": ChildAction.TRAP,
    "route": ChildAction.TRAP,
    "start": ChildAction.START,
    "clear": ChildAction.CLEAR,
    "restart": ChildAction.RESTART,
}
_FRAGMENTATION = {
    "yes": "yes", "true": "yes", "1": "yes", "enabled": "yes", "accept": "accept", "force": "force",
    "no": "no", "false": "no", "0": "no", "disabled": "no",
}  # fmt: skip
_MODES = {
    "tunnel": (Mode.TUNNEL, "PROTECT"),
    "transport": (Mode.TRANSPORT, "PROTECT"),
    "pass": (Mode.TUNNEL, "BYPASS"),
    "drop": (Mode.TUNNEL, "DISCARD"),
}
_CHILD_REKEY_TIME = 3600
EAP_METHODS = ("mschapv2", "md5", "gtc", "tls")
T = TypeVar("T")


def check_name(name: str, section: Section, path: str) -> None:
    """Names of connections and children appear as VICI element names and in logs."""
    if not name or len(name.encode()) > MAX_NAME_OCTETS or not name.isprintable():
        raise ConfigError(section.origin, path, f"the name must be 1..{MAX_NAME_OCTETS} printable octets")


def read_connection(section: Section, certs: CertSource, warn: Warn) -> ConnectionConfig:
    """The connection that ``section`` describes. Raises ConfigError naming file, line, key and cure."""
    path = f"connections.{section.name}"
    check_name(section.name, section, path)
    reader = SectionReader(section, path, warn)
    rekey = reader.get("rekey_time", parse_time, 14400)
    over = reader.get("over_time", parse_time, rekey // 10)
    rand = reader.get("rand_time", parse_time, min(over, rekey // 2))
    local, remote, children = [], [], []
    for name, sub in reader.subsections():
        if name.lower() == "children":
            children = [_read_child(child, f"{path}.children", warn) for child in sub.sections.values()]
            SectionReader(sub, f"{path}.children", warn).finish({}, also=())
        elif name.lower().startswith("local"):
            local.append(_read_auth(sub, f"{path}.{name}", certs, warn, own=True))
        elif name.lower().startswith("remote"):
            remote.append(_read_auth(sub, f"{path}.{name}", certs, warn, own=False))
        else:
            raise ConfigError(
                sub.origin, f"{path}.{name}",
                f"unknown section{suggestion(name, ['local', 'remote', 'children'])}",
            )  # fmt: skip
    if any(c.policy == "PROTECT" for c in children) or not children:
        local = local or [(0, AuthConfig())]
        remote = remote or [(0, AuthConfig(id=Identity(ANY, b"", "%any")))]
    config = ConnectionConfig(
        name=section.name,
        version=reader.get("version", _parse_version, 2),
        local_addrs=_addresses(reader, "local_addrs"),
        remote_addrs=_addresses(reader, "remote_addrs"),
        local_port=reader.get("local_port", _port, 500),
        remote_port=reader.get("remote_port", _port, 500),
        proposals=_proposals(reader, "proposals", SecurityProtocol.IKE),
        local=tuple(auth for _, auth in sorted(local, key=lambda item: item[0])),
        remote=tuple(auth for _, auth in sorted(remote, key=lambda item: item[0])),
        children=tuple(children),
        encap=reader.get("encap", parse_bool, False),
        unique=reader.choice("unique", {u.value: u for u in UniquePolicy}, UniquePolicy.NO),
        keyingtries=reader.get("keyingtries", lambda text: parse_int(text, 0, 10**6), 1),
        dpd_delay=reader.get("dpd_delay", parse_time, 0),
        rekey_time=rekey,
        over_time=over,
        rand_time=min(rand, rekey),
        send_cert=reader.choice("send_cert", {w: w for w in ("ifasked", "always", "never")}, "ifasked"),
        send_certreq=reader.get("send_certreq", parse_bool, True),
        vips=_vips(reader),
        pools=reader.words("pools") or (),
        reauth_time=reader.get("reauth_time", parse_time, 0),
        ppk_id=reader.get("ppk_id", _parse_identity, None),
        ppk_required=reader.get("ppk_required", parse_bool, False),
        childless=reader.choice(
            "childless", {word: word for word in ("allow", "prefer", "force", "never")}, "allow"
        ),
        fragmentation=reader.choice("fragmentation", _FRAGMENTATION, "yes"),
        mobike=reader.get("mobike", parse_bool, True),
        session_resumption=reader.get("session_resumption", parse_bool, False),
        redirect=reader.get("redirect", parse_gateway, ""),
    )
    reader.get("dpd_timeout", parse_time, 0)  # for IKEv1: with IKEv2 retransmission tells when a peer is dead
    reader.finish(CONNECTION_UNSUPPORTED, also=("local", "remote", "children"))
    return config


def _vips(reader: SectionReader) -> tuple[IPAddress, ...]:
    found: list[IPAddress] = []
    for word in reader.words("vips") or ():
        try:
            found.append(ip_address({"%any": "0.0.0.0", "%any4": "0.0.0.0", "%any6": "::"}.get(word, word)))  # noqa: S104
        except ValueError:
            raise reader.error("vips", f"'{word}' is no address; write 0.0.0.0 or :: for any") from None
    return tuple(found)


def _parse_version(text: str) -> int:
    version = parse_int(text, 0, 2)
    if version == 1:
        raise ValueError("IKEv1 is not supported yet; write version = 2")
    return 2


def _port(text: str) -> int:
    return parse_int(text, 0, 65535)


def _addresses(reader: SectionReader, key: str) -> tuple[str, ...]:
    words = reader.words(key)
    for word in words or ():
        if not _is_address(word):
            raise reader.error(
                key, f"'{word}' is no address; write an IP address, a range, a subnet, a host name or %any"
            )
    return words or ("%any",)


def _is_address(word: str) -> bool:
    if word in ("%any", "%any4", "%any6"):
        return True
    low, dash, high = word.partition("-")
    for parse in (ip_address, lambda text: ip_network(text, strict=False)):
        try:
            parse(word)
        except ValueError:
            continue
        return True
    if dash:
        try:
            return (
                int(ip_address(low)) <= int(ip_address(high))
                and ip_address(low).version == ip_address(high).version
            )
        except ValueError:
            pass
    return bool(_HOST.match(word)) and not re.fullmatch(r"[\d.]+", word)


def _proposals(reader: SectionReader, key: str, protocol: SecurityProtocol) -> tuple[Proposal, ...]:
    words = reader.words(key)
    try:
        proposals = parse_proposals(words or (), protocol)
    except ValueError as error:
        raise reader.error(key, str(error)) from None
    weak = weak_algorithms(proposals)
    if weak:
        value = reader.value(key)
        origin = value.origin if value else reader.section.origin
        reader.warn(f"{origin}: {reader.path}.{key}: weak by today's measure: {', '.join(weak)}")
    return proposals


# --- authentication ---------------------------------------------------------------------------------------------------


def _read_auth(
    section: Section, path: str, certs: CertSource, warn: Warn, *, own: bool
) -> tuple[int, AuthConfig]:
    """(round, configuration) of a local or remote section."""
    reader = SectionReader(section, path, warn)
    round_ = reader.get("round", lambda text: parse_int(text, 0, 1000), 0)
    default: tuple[AuthClass, tuple[str, ...]] = (AuthClass.PUBKEY, ())
    auth, hashes = reader.get("auth", _parse_auth, default)
    eap = hashes[0] if auth is AuthClass.EAP else ""
    hashes = () if auth is AuthClass.EAP else hashes
    leaf = [*_certificates(reader, "certs", "x509", certs)]
    anchors = [*_certificates(reader, "cacerts", "x509ca", certs)] if not own else []
    for name, sub in reader.subsections():
        if name.lower().startswith("cacert") and not own:
            anchors.append(_certificate_section(sub, f"{path}.{name}", "x509ca", certs, warn))
        elif name.lower().startswith("cert"):
            leaf.append(_certificate_section(sub, f"{path}.{name}", "x509", certs, warn))
        else:
            raise ConfigError(
                sub.origin, f"{path}.{name}", f"unknown section{suggestion(name, ['cert', 'cacert'])}"
            )
    revocation = "relaxed"
    if not own:
        revocation = reader.choice("revocation", {word: word for word in REVOCATION_POLICIES}, "relaxed")
    identity = reader.get("id", _parse_identity, None)
    eap_id = reader.get("eap_id", _parse_identity, None)
    # With several certificates of our own the peer may say which one it wants to see (RFC 7296 §3.5, IDr).
    if identity is None and leaf and (len(leaf) == 1 or not own):
        identity = _subject(leaf[0])
    if own and identity is not None and identity.is_any:
        identity = None
    if identity is None and not own:
        identity = Identity(ANY, b"", "%any")
    reader.finish(AUTH_UNSUPPORTED, also=("cacerts",))
    return round_, AuthConfig(auth, identity, tuple(leaf), tuple(anchors), hashes, revocation, eap, eap_id)


def _parse_identity(text: str) -> Identity | None:
    return parse_identity(text)


def _subject(der: bytes) -> Identity | None:
    """The subject of the first certificate: the identity that a section without ``id`` gets."""
    for found in x509.identities(x509.load_certificate(der)):
        if found.type == DER_ASN1_DN:
            return Identity(found.type, found.data, found.text)
    return None


def _parse_auth(text: str) -> tuple[AuthClass, tuple[str, ...]]:
    word = text.lower().strip()
    if word == "psk":
        return AuthClass.PSK, ()
    if word in ("eap", "eap-dynamic"):
        return AuthClass.EAP, ("",)
    if word.startswith("eap-"):
        if word[4:] not in EAP_METHODS:
            raise ValueError(
                f"'{text}' is not supported; use eap, or one of {', '.join('eap-' + m for m in EAP_METHODS)}"
            )
        return AuthClass.EAP, (word[4:],)
    if word.startswith(("xauth", "any")):
        raise ValueError(f"'{text}' authentication is not supported yet; use psk, pubkey or eap")
    kind = word.removeprefix("ike:").split("-")[0]
    if kind not in ("pubkey", "rsa", "rsa/pss", "ecdsa", "ed25519", "ed448"):
        raise ValueError(
            f"'{text}' is no authentication method; use psk, pubkey or eap{suggestion(kind, ['psk', 'pubkey', 'eap'])}"
        )
    return AuthClass.PUBKEY, parse_rules(word)


def _certificates(reader: SectionReader, key: str, folder: str, certs: CertSource) -> tuple[bytes, ...]:
    value = reader.value(key)
    if value is None:
        return ()
    try:
        if value.items is not None:
            return tuple(to_der(item) for item in value.items)
        if value.data is not None and (
            (value.data[:1] == b"0" and len(value.data) > 64) or b"-----BEGIN" in value.data
        ):
            return (to_der(value.data),)
        return tuple(certs.named(word, folder) for word in reader.words(key) or ())
    except ValueError as error:
        raise reader.error(key, str(error)) from None


def _certificate_section(section: Section, path: str, folder: str, certs: CertSource, warn: Warn) -> bytes:
    reader = SectionReader(section, path, warn)
    for key in ("handle", "slot", "module"):
        if reader.value(key) is not None:
            raise reader.error(key, "certificates on tokens are not supported; give a file")
    der = reader.get("file", lambda text: certs.named(text, folder), None)
    if der is None:
        raise ConfigError(section.origin, path, "names no certificate; add file = NAME")
    reader.finish({})
    return der


# --- children ---------------------------------------------------------------------------------------------------------


def _read_child(section: Section, path: str, warn: Warn) -> ChildConfig:
    path = f"{path}.{section.name}"
    check_name(section.name, section, path)
    reader = SectionReader(section, path, warn)
    for name, sub in reader.subsections():
        raise ConfigError(sub.origin, f"{path}.{name}", "a child has no sections")
    mode, policy = reader.choice("mode", _MODES, (Mode.TUNNEL, "PROTECT"))
    seconds = _limits(reader, "time", parse_time, _CHILD_REKEY_TIME)
    octets = _limits(reader, "bytes", parse_size, 0)
    packets = _limits(reader, "packets", parse_int, 0)
    config = ChildConfig(
        name=section.name,
        local_ts=_selectors(reader, "local_ts"),
        remote_ts=_selectors(reader, "remote_ts"),
        proposals=_child_proposals(reader),
        mode=mode,
        policy=policy,
        priority=reader.get("priority", lambda text: parse_int(text, 0, 2**32 - 1), 0),
        rekey_time=seconds[0],
        life_time=seconds[1],
        rand_time=seconds[2],
        rekey_bytes=octets[0],
        life_bytes=octets[1],
        rand_bytes=octets[2],
        rekey_packets=packets[0],
        life_packets=packets[1],
        rand_packets=packets[2],
        start_action=reader.choice("start_action", _ACTIONS, ChildAction.NONE),
        dpd_action=reader.choice("dpd_action", _ACTIONS, ChildAction.CLEAR),
        close_action=reader.choice("close_action", _ACTIONS, ChildAction.NONE),
        replay_window=reader.get("replay_window", lambda text: parse_int(text, 0, 4096), 32),
        reqid=reader.get("reqid", lambda text: parse_int(text, 0, 2**32 - 1), 0),
        sha256_96=reader.get("sha256_96", parse_bool, False),
        ipcomp=reader.get("ipcomp", parse_bool, False),
        tfc=reader.get("tfc_padding", _parse_tfc, 0),
        dummy_rate=reader.get("dummy_rate", _parse_rate, 0.0),
        copy_df=reader.get("copy_df", parse_bool, True),
        copy_ecn=reader.get("copy_ecn", parse_bool, True),
        copy_dscp=reader.choice("copy_dscp", _COPY_DSCP, "out"),
        inactivity=reader.get("inactivity", parse_time, 0),
        interface=reader.get("interface", _parse_interface, ""),
        if_id=_both_ways(reader, "if_id", _parse_if_id, 0),
        mark=_both_ways(reader, "mark", _parse_mark, (0, 0)),
        mark_in_sa=reader.get("mark_in_sa", parse_bool, False),
        pfp=_populated(reader),
    )
    reader.finish(CHILD_UNSUPPORTED)
    if policy != "PROTECT" and ChildAction.START in (config.start_action, config.close_action):
        raise reader.error("start_action", "a pass or drop policy cannot be started; write trap")
    return config


_COPY_DSCP = {"out": "out", "in": "in", "yes": "yes", "no": "no", "true": "yes", "false": "no"}
_MOST_DUMMIES = 1000  # a second, which is what data planes send
_PFP = ("local", "remote", "protocol", "local_port", "remote_port")


def _parse_tfc(text: str) -> int:
    """Octets, or ``mtu`` for what the path takes."""
    return -1 if text.strip().lower() == "mtu" else parse_int(text, 0, 65535)


def _parse_rate(text: str) -> float:
    """Dummy packets a second; at most what data planes send."""
    try:
        rate = float(text) if text.isascii() else -1.0
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= _MOST_DUMMIES:
        raise ValueError(f"'{text}' is no number of packets a second, 0 to {_MOST_DUMMIES}")
    return rate


def _parse_interface(text: str) -> str:
    if not text or len(text.encode()) > 15 or "/" in text or not text.isprintable() or " " in text:
        raise ValueError(f"'{text}' is no name of a network interface (1..15 characters)")
    return text


def _parse_if_id(text: str) -> int:
    return _word32(text)


def _parse_mark(text: str) -> tuple[int, int]:
    """``value`` or ``value/mask``; without a mask all bits count."""
    value, slash, mask = text.partition("/")
    bits = _word32(mask) if slash else 0xFFFFFFFF
    number = _word32(value)
    return (number & bits, bits) if number else (0, 0)


def _word32(text: str) -> int:
    word = text.strip().lower()
    if word.startswith("%"):
        raise ValueError(f"'{text}' is not supported; write a number")
    try:
        number = int(word, 16 if word.startswith("0x") else 10)
    except ValueError:
        raise ValueError(f"'{text}' is no number") from None
    if not 0 <= number <= 0xFFFFFFFF:
        raise ValueError(f"{text} does not fit into 32 bits")
    return number


def _both_ways(reader: SectionReader, key: str, parse: Callable[[str], T], default: T) -> T:
    """A value that stands in two keys, for either direction, and must be the same in both."""
    inward, outward = reader.get(f"{key}_in", parse, default), reader.get(f"{key}_out", parse, default)
    if inward != outward:
        raise reader.error(
            f"{key}_out", f"must be what {key}_in is: a policy has one for both directions; write both keys"
        )
    return inward


def _populated(reader: SectionReader) -> frozenset[str]:
    """``pfp``: the selectors that an SA takes from the packet that asks for it (RFC 4301 §4.4.1.1)."""
    words = reader.words("pfp") or ()
    for word in words:
        if word not in _PFP:
            raise reader.error(
                "pfp", f"'{word}' is not one of {', '.join(_PFP)}{suggestion(word, list(_PFP))}"
            )
    return frozenset(words)


def _child_proposals(reader: SectionReader) -> tuple[Proposal, ...]:
    """``ah_proposals``, then ``esp_proposals``; ESP's default stands where neither is given."""
    ah = reader.value("ah_proposals")
    found = _proposals(reader, "ah_proposals", SecurityProtocol.AH) if ah is not None else ()
    if ah is None or reader.value("esp_proposals") is not None:
        found += _proposals(reader, "esp_proposals", SecurityProtocol.ESP)
    return found


def _limits(
    reader: SectionReader, kind: str, parse: Callable[[str], int], default: int
) -> tuple[int, int, int]:
    """(rekey, life, rand) with strongSwan's defaults: life is rekey + 10 %, rand is what lies between them."""
    life_given: int | None = reader.get(f"life_{kind}", parse, None)
    fallback = life_given * 9 // 10 if life_given is not None else default
    rekey = reader.get(f"rekey_{kind}", parse, fallback)
    life = life_given if life_given is not None else rekey + rekey // 10
    if life and rekey > life:
        raise reader.error(
            f"life_{kind}", f"{life} is less than rekey_{kind} {rekey}: the SA would end before it is rekeyed"
        )
    rand = reader.get(f"rand_{kind}", parse, max(life - rekey, 0))
    return rekey, life, min(rand, rekey)


def _selectors(reader: SectionReader, key: str) -> tuple[TrafficSelector, ...]:
    """Traffic selectors; ``dynamic`` (or nothing) is the empty tuple."""
    words = reader.words(key)
    if not words or words == ("dynamic",):
        return ()
    try:
        return tuple(_selector(word) for word in words)
    except ValueError as error:
        raise reader.error(key, str(error)) from None


def _selector(word: str) -> TrafficSelector:
    """One selector; ``dynamic`` may have a protocol and ports as any other."""
    if not word.startswith("dynamic"):
        return TrafficSelector.from_text(word)
    spec = word.removeprefix("dynamic").strip()
    if spec and not spec.startswith("["):
        raise ValueError(f"'{word}' is not a traffic selector: write dynamic, or dynamic[PROTOCOL/PORT]")
    read = TrafficSelector.from_text("0.0.0.0/32" + spec)
    return DynamicSelector.of(read.protocol, read.start_port, read.end_port)

"""VICI messages (as text) -> lines for people, laid out as swanctl does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]


def raw(value: Any) -> str:
    """A message in one line: ``{key=value list=[a b] section {..}}``."""
    if isinstance(value, dict):
        parts = [f"{k} {raw(v)}" if isinstance(v, dict) else f"{k}={raw(v)}" for k, v in value.items()]
        return "{" + " ".join(parts) + "}"
    if isinstance(value, list):
        return "[" + " ".join(str(item) for item in value) + "]"
    return str(value)


def _suite(sa: Message) -> str:
    """``AES_GCM_16-128/PRF_.../ECP_256``."""
    parts = []
    for algorithm, size in (("encr-alg", "encr-keysize"), ("integ-alg", "integ-keysize")):
        if algorithm in sa:
            parts.append(sa[algorithm] + (f"-{sa[size]}" if size in sa else ""))
    parts += [sa[key] for key in ("prf-alg", "dh-group") if key in sa]
    return "/".join(parts) + ("/ESN" if "esn" in sa else "")


def sas(message: Message) -> Iterator[str]:
    for name, sa in message.items():
        mark = {True: "*", False: ""}
        initiator = "initiator" in sa
        yield (
            f"{name}: #{sa['uniqueid']}, {sa['state']}, IKEv{sa['version']}, "
            f"{sa['initiator-spi']}_i{mark[initiator]} {sa['responder-spi']}_r{mark[not initiator]}"
        )
        for side in ("local", "remote"):
            yield f"  {side:6} '{sa[f'{side}-id']}' @ {sa[f'{side}-host']}[{sa[f'{side}-port']}]"
        if suite := _suite(sa):
            yield f"  {suite}"
        if "established" in sa:
            line = f"  established {sa['established']}s ago"
            if "rekey-time" in sa:
                line += f", rekeying in {sa['rekey-time']}s"
            if "life-time" in sa:
                line += f", expires in {sa['life-time']}s"
            yield line
        for kind in ("queued", "active", "passive"):
            if tasks := sa.get(f"tasks-{kind}"):
                yield f"  {kind}: {' '.join(tasks)}"
        for child in sa.get("child-sas", {}).values():
            yield from _child(child)


def _child(child: Message) -> Iterator[str]:
    udp = "-in-UDP" if "encap" in child else ""
    yield (
        f"  {child['name']}: #{child['uniqueid']}, reqid {child['reqid']}, {child['state']}, "
        f"{child['mode']}{udp}, {child['protocol']}:{_suite(child)}"
    )
    line = f"    installed {child['install-time']}s ago"
    if "rekey-time" in child:
        line += f", rekeying in {child['rekey-time']}s"
    if "life-time" in child:
        line += f", expires in {child['life-time']}s"
    yield line
    for way in ("in", "out"):
        line = f"    {way:3} {child[f'spi-{way}']}"
        if f"bytes-{way}" in child:
            line += f", {child[f'bytes-{way}']:>6} bytes, {child[f'packets-{way}']:>5} packets"
        if f"use-{way}" in child:
            line += f", {child[f'use-{way}']:>5}s ago"
        yield line
    drops = {
        key: value
        for key, value in child.items()
        if key.rpartition("-")[0].endswith("-errors") and value != "0"
    }
    if drops:
        yield "    dropped: " + ", ".join(f"{value} {key}" for key, value in drops.items())
    yield f"    local  {' '.join(child['local-ts'])}"
    yield f"    remote {' '.join(child['remote-ts'])}"


def conns(message: Message) -> Iterator[str]:
    for name, conn in message.items():
        reauth = conn.get("reauth_time", "0")
        rekey = conn.get("rekey_time", "0")
        yield (
            f"{name}: {conn['version']}, "
            + ("no reauthentication" if reauth == "0" else f"reauthentication every {reauth}s")
            + (", no rekeying" if rekey == "0" else f", rekeying every {rekey}s")
            + (f", dpd delay {conn['dpd_delay']}s" if "dpd_delay" in conn else "")
        )
        for side in ("local", "remote"):
            for address in conn[f"{side}_addrs"]:
                yield f"  {side + ':':7} {address}"
        for key, section in conn.items():
            if isinstance(section, dict) and key.startswith(("local", "remote")):
                side = "local" if key.startswith("local") else "remote"
                yield f"  {side} {section.get('class', 'unspecified')} authentication:"
                if "id" in section:
                    yield f"    id: {section['id']}"
                for kind in ("certs", "cacerts"):
                    for subject in section.get(kind, []):
                        yield f"    {kind}: {subject}"
        for child_name, child in conn.get("children", {}).items():
            yield f"  {child_name}: {child['mode']}, {_rekeying(child)}"
            yield f"    local:  {' '.join(child['local-ts'])}"
            yield f"    remote: {' '.join(child['remote-ts'])}"


def _rekeying(child: Message) -> str:
    limits = [
        f"{child[key]}{unit}"
        for key, unit in (("rekey_time", "s"), ("rekey_bytes", " bytes"), ("rekey_packets", " packets"))
        if child.get(key, "0") != "0"
    ]
    if child["mode"] in ("PASS", "DROP") or not limits:
        return "no rekeying"
    return "rekeying every " + " or ".join(limits)


def policies(message: Message) -> Iterator[str]:
    for name, policy in message.items():
        kind = f", {policy['kind']}" if "kind" in policy else ""
        yield f"{name}, {policy['mode']}{kind}"
        yield f"  local:  {' '.join(policy['local-ts'])}"
        yield f"  remote: {' '.join(policy['remote-ts'])}"


def certs(message: Message) -> Iterator[str]:
    from ipsecstack.crypto import x509
    from ipsecstack.crypto.errors import CertificateError

    if message.get("type") != "X509" or not str(message.get("data", "")).startswith("hex:"):
        yield f"{message.get('type', '?')}"
        return
    try:
        cert = x509.load_certificate(bytes.fromhex(message["data"][4:]))
    except CertificateError as error:
        yield f"X509: {error}"
        return
    yield f"subject: {x509.subject_text(cert)}"
    yield f"  kind:      {'CA' if message.get('flag') == 'CA' else 'end entity'}" + (
        ", private key is loaded" if message.get("has_privkey") == "yes" else ""
    )
    yield f"  valid:     {cert.not_valid_before_utc:%Y-%m-%d %H:%M} to {cert.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    yield f"  serial:    {cert.serial_number:x}"
    for identity in x509.identities(cert)[1:]:
        yield f"  altName:   {identity.text}"
    yield f"  public key {x509.key_type(cert)}, id {x509.key_id(cert).hex()}"


def stats(message: Message) -> Iterator[str]:
    uptime, sas_ = message.get("uptime", {}), message.get("ikesas", {})
    yield f"uptime: {uptime.get('running', '?')}, since {uptime.get('since', '?')}"
    yield f"IKE SAs: {sas_.get('total', '?')} total, {sas_.get('half-open', '?')} half-open"
    for key in ("ike", "ipsec", "vici"):
        if isinstance(message.get(key), dict):
            title = f"{key} ({message['data-plane']})" if key == "ipsec" and "data-plane" in message else key
            yield f"{title}:"
            for name, value in message[key].items():
                yield f"  {name:<22}: {value}"


def counters(message: Message) -> Iterator[str]:
    for name, values in message.get("counters", {}).items():
        yield f"{name or 'global'}:"
        for key, value in values.items():
            yield f"  {key:<22}: {value}"


def log_line(message: Message) -> Iterator[str]:
    where = ""
    if "ikesa-name" in message:
        where = f"<{message['ikesa-name']}|{message.get('ikesa-uniqueid', '?')}> "
    yield f"[{message.get('group', '?')}] {where}{message.get('msg', '')}"


def version(message: Message) -> Iterator[str]:
    yield "{daemon} {version} ({sysname}, {release}, {machine})".format_map(
        {key: message.get(key, "?") for key in ("daemon", "version", "sysname", "release", "machine")}
    )

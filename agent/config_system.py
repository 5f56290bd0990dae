"""The sections [agent] and [system]."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from agent.config_reader import Where
from agent.config_types import WRITABLE_SYSTEM, Listen, System
from agent.config_values import ValueReader


class SystemReader(ValueReader):
    """Reads [agent] and [system]."""

    def listen(self, text: str) -> Listen:
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([0-9.]+)):(\d{1,5})", text)
        try:
            if not found:
                raise ValueError
            host = found[1] or found[2]
            ipaddress.ip_address(host)
            port = int(found[3])
            if port > 65535 or (":" in host) != bool(found[1]):
                raise ValueError
        except ValueError:
            raise self.fault(
                ("agent", "listen"), f"{text!r} is no address", 'write "192.0.2.1:161" or "[2001:db8::1]:161"'
            ) from None
        return Listen(host, port)

    def engine_id(self, agent: Mapping[str, Any]) -> bytes | None:
        text = self.take(agent, ("agent",), "engine_id", str, None)
        if text is None:
            return None
        try:
            octets = bytes.fromhex(text.removeprefix("0x"))
        except ValueError:
            octets = b""
        if not 5 <= len(octets) <= 32 or not any(octets) or all(octet == 0xFF for octet in octets):
            raise self.fault(
                ("agent", "engine_id"),
                "no SnmpEngineID (RFC 3411)",
                "write 5 to 32 octets in hex, or leave the key out and one is made and kept",
            )
        return octets

    def system(self, table: Mapping[str, Any]) -> System:
        where: Where = ("system",)
        names = ("description", "object_id", "contact", "name", "location", "services", "writable")
        self.known(table, where, names)
        for key in ("description", "contact", "name", "location"):
            text = self.take(table, where, key, str, "")
            if len(text) > 255 or not text.isascii():
                raise self.fault(
                    (*where, key), "not a DisplayString", "use at most 255 characters of plain ASCII"
                )
        writable = self.strings(table, where, "writable")
        for item in writable:
            if item not in WRITABLE_SYSTEM:
                raise self.fault(
                    (*where, "writable"), f"{item!r} is not known", f"use {', '.join(WRITABLE_SYSTEM)}"
                )
        object_id = self.take(table, where, "object_id", str, None)
        return System(
            description=self.take(table, where, "description", str, None),
            object_id=None if object_id is None else self.oid(object_id, (*where, "object_id")),
            contact=self.take(table, where, "contact", str, ""),
            name=self.take(table, where, "name", str, None),
            location=self.take(table, where, "location", str, ""),
            services=self.number(table, where, "services", 76, 0, 127),
            writable=frozenset(writable),
        )

"""A command's arguments, read by key."""

from __future__ import annotations

from ipsecstack.config.tree import Origin, Section, Value
from ipsecstack.config.values import parse_bool
from ipsecstack.vici.codec import Incoming


class RequestError(Exception):
    """A request cannot be carried out; the text becomes ``errmsg`` and never holds a secret."""


class Request:
    """The message of one command. Its repr is redacted: messages carry secrets and keys."""

    def __init__(self, command: str, message: Incoming) -> None:
        self.command = command
        self.message = message

    def __repr__(self) -> str:
        return f"<Request {self.command}, {len(self.message)} keys>"

    def data(self, key: str) -> bytes | None:
        """A value's octets, None when absent or empty."""
        value = self.message.get(key)
        if value is None:
            return None
        if not isinstance(value, bytes):
            raise RequestError(f"'{key}' takes one value")
        return value or None

    def text(self, key: str) -> str | None:
        """A value as text, None when absent or empty."""
        data = self.data(key)
        if data is None:
            return None
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise RequestError(f"'{key}' is not UTF-8 text") from None
        if not text.isprintable():
            raise RequestError(f"'{key}' holds control characters")
        return text

    def number(self, key: str, default: int | None = None) -> int | None:
        """A decimal number, which may be negative."""
        text = self.text(key)
        if text is None:
            return default
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18):
            raise RequestError(f"'{key}' is not a number")
        return int(text)

    def flag(self, key: str) -> bool:
        """yes or no; absent is no."""
        text = self.text(key)
        if text is None:
            return False
        try:
            return parse_bool(text)
        except ValueError as error:
            raise RequestError(f"'{key}': {error}") from None

    def words(self, key: str) -> list[str]:
        """A list of texts, empty when absent."""
        value = self.message.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise RequestError(f"'{key}' takes a list")
        try:
            return [item.decode("utf-8") for item in value]
        except UnicodeDecodeError:
            raise RequestError(f"'{key}' is not UTF-8 text") from None

    def section(self) -> Section:
        """The one named section that load-conn and load-authority carry, as the tree that the schema reads."""
        found = [(name, value) for name, value in self.message.items() if isinstance(value, dict)]
        if len(found) != 1 or len(self.message) != 1:
            raise RequestError(f"{self.command} takes exactly one named section")
        name, message = found[0]
        return _to_section(name, message, Origin(self.command))


def _to_section(name: str, message: Incoming, origin: Origin) -> Section:
    section = Section(name, origin)
    for key, value in message.items():
        if isinstance(value, dict):
            section.sections[key] = _to_section(key, value, origin)
        elif isinstance(value, list):
            section.values[key] = Value(origin, items=tuple(value))
        elif value:
            section.values[key] = Value(origin, data=value)
    return section

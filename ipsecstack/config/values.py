"""Single values: numbers, times, sizes, yes and no, secrets. Each raises ValueError saying what is accepted."""

from __future__ import annotations

import base64
import binascii
import re
from ipaddress import ip_address

_INTEGER = re.compile(r"0[xX][0-9a-fA-F]{1,32}|[0-9]{1,40}")
_DECIMAL = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
_TIME = re.compile(r"([0-9]{1,20})\s*([smhdSMHD]?)")
_SIZE = re.compile(r"(0[xX][0-9a-fA-F]{1,32}|[0-9]{1,40})\s*([kmgKMG]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_FACTOR = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_NAME = re.compile(r"(?!\d+(\.\d+)*\Z)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_TRUE = frozenset({"yes", "true", "enabled", "1"})
_FALSE = frozenset({"no", "false", "disabled", "0"})
MAX_SECONDS = 100 * 365 * 86400


def parse_gateway(text: str) -> str:
    """An IP address, or a fully qualified host name of at most 255 octets."""
    word = text.strip()
    try:
        return str(ip_address(word))
    except ValueError:
        if not _NAME.fullmatch(word) or len(word) > 255:
            raise ValueError(f"'{text}' is no gateway; write an IP address or a host name") from None
        return word


def parse_bool(text: str) -> bool:
    """yes, true, enabled, 1 or no, false, disabled, 0."""
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"'{text}' is neither yes nor no")


def parse_int(text: str, low: int = 0, high: int = 2**64 - 1) -> int:
    """A decimal or 0x number within bounds."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"'{text}' is not a number")
    number = int(text, 16) if text[:2] in ("0x", "0X") else int(text, 10)
    if not low <= number <= high:
        raise ValueError(f"{number} is not in {low}..{high}")
    return number


def parse_float(text: str, low: float = 0, high: float = 1e9) -> float:
    """A decimal number within bounds."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"'{text}' is not a number")
    number = float(text)
    if not low <= number <= high:
        raise ValueError(f"{text} is not in {low:g}..{high:g}")
    return number


def parse_time(text: str) -> int:
    """Seconds: ``90``, ``90s``, ``30m``, ``4h``, ``2d``."""
    match = _TIME.fullmatch(text)
    if not match:
        raise ValueError(f"'{text}' is not a time; write a number with s, m, h or d, as 30m or 4h")
    seconds = int(match[1]) * _SECONDS[match[2].lower()]
    if seconds > MAX_SECONDS:
        raise ValueError(f"'{text}' is longer than a century")
    return seconds


def parse_size(text: str) -> int:
    """Octets: ``1000``, ``500k``, ``20m``, ``2g`` (powers of 1024); more than 2^64-1 counts as that."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"'{text}' is not a size; write a number with k, m or g, as 500m")
    return min(
        int(match[1], 0 if match[1][:2].lower() == "0x" else 10) * _FACTOR[match[2].lower()], 2**64 - 1
    )


def parse_secret(text: str) -> bytes:
    """A secret as text, or as ``0x`` hexadecimal or ``0s`` base64. Errors never quote it."""
    prefix = text[:2].lower()
    if prefix == "0x":
        digits = text[2:].replace(":", "")
        if len(digits) % 2:
            digits = "0" + digits
        try:
            data = bytes.fromhex(digits)
        except ValueError:
            raise ValueError("what follows 0x is not hexadecimal") from None
    elif prefix == "0s":
        try:
            data = base64.b64decode(text[2:], validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("what follows 0s is not base64") from None
    else:
        data = text.encode("utf-8")
    if not data:
        raise ValueError("the secret is empty")
    return data


def split_list(text: str) -> list[str]:
    """Comma separated words without the blanks around them; empty ones are dropped."""
    return [word for word in (part.strip() for part in text.split(",")) if word]

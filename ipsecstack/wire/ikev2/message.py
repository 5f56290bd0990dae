"""The IKE header and the chain of payloads (RFC 7296 §3.1, §3.2)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ipsecstack.wire.ikev2 import payloads as p
from ipsecstack.wire.ikev2.errors import UnsupportedCriticalPayload, WireError
from ipsecstack.wire.ikev2.numbers import (
    HEADER_OCTETS,
    IKEV2_MAJOR,
    PAYLOAD_LABELS,
    Flag,
    PayloadType,
    exchange_name,
    notify_label,
)

MAX_PAYLOADS = 128
_CRITICAL = 0x80
_HEADER = struct.Struct("!8s8sBBBBII")
P = TypeVar("P")

_PARSERS: dict[int, Callable[[bytes], p.Payload]] = {
    PayloadType.SA: p.Sa.parse,
    PayloadType.KE: p.Ke.parse,
    PayloadType.IDI: p.IdI.parse,
    PayloadType.IDR: p.IdR.parse,
    PayloadType.CERT: p.Cert.parse,
    PayloadType.CERTREQ: p.CertReq.parse,
    PayloadType.AUTH: p.Auth.parse,
    PayloadType.NONCE: p.Nonce.parse,
    PayloadType.NOTIFY: p.Notify.parse,
    PayloadType.DELETE: p.Delete.parse,
    PayloadType.VENDOR_ID: p.VendorId.parse,
    PayloadType.TSI: p.TsI.parse,
    PayloadType.TSR: p.TsR.parse,
    PayloadType.CP: p.Cp.parse,
    PayloadType.EAP: p.Eap.parse,
}


@dataclass(frozen=True, slots=True)
class Header:
    """The IKE header (§3.1). ``length`` is the whole message's; SPIs are 8 octets each."""

    initiator_spi: bytes
    responder_spi: bytes
    next_payload: int
    major: int
    minor: int
    exchange: int
    flags: int
    message_id: int
    length: int = 0

    @property
    def is_response(self) -> bool:
        return bool(self.flags & Flag.RESPONSE)

    @property
    def from_initiator(self) -> bool:
        """Sent by the original initiator of the IKE SA."""
        return bool(self.flags & Flag.INITIATOR)

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """The header of a datagram; WireError when it is short or its Length is not the datagram's."""
        if len(data) < HEADER_OCTETS:
            raise WireError(f"{len(data)} octets are shorter than an IKE header")
        spi_i, spi_r, first, version, exchange, flags, message_id, length = _HEADER.unpack_from(data)
        if length != len(data):
            raise WireError(f"header says {length} octets, the datagram has {len(data)}")
        return cls(spi_i, spi_r, first, version >> 4, version & 15, exchange, flags, message_id, length)

    def to_bytes(self) -> bytes:
        return _HEADER.pack(
            self.initiator_spi,
            self.responder_spi,
            self.next_payload,
            self.major << 4 | self.minor,
            self.exchange,
            self.flags,
            self.message_id,
            self.length,
        )


@dataclass(frozen=True, slots=True)
class Message:
    """An IKE message with its payloads in order. Lookups return the first of a class, or all."""

    header: Header
    payloads: tuple[p.Payload, ...]

    def get(self, cls: type[P]) -> P | None:
        for payload in self.payloads:
            if isinstance(payload, cls):
                return payload
        return None

    def all(self, cls: type[P]) -> list[P]:
        return [payload for payload in self.payloads if isinstance(payload, cls)]

    def notify(self, type_: int) -> p.Notify | None:
        """The first Notify of this type."""
        for payload in self.payloads:
            if isinstance(payload, p.Notify) and payload.type == type_:
                return payload
        return None

    def error(self) -> p.Notify | None:
        """The first Notify that is an error."""
        for payload in self.payloads:
            if isinstance(payload, p.Notify) and payload.is_error:
                return payload
        return None

    def __str__(self) -> str:
        return describe(self)


def make_header(
    initiator_spi: bytes,
    responder_spi: bytes,
    exchange: int,
    message_id: int,
    *,
    from_initiator: bool,
    response: bool,
) -> Header:
    """A version 2.0 header; next payload and length are filled when the message is built."""
    flags = (Flag.INITIATOR if from_initiator else 0) | (Flag.RESPONSE if response else 0)
    return Header(initiator_spi, responder_spi, 0, IKEV2_MAJOR, 0, int(exchange), int(flags), message_id)


def parse_chain(first: int, data: bytes) -> tuple[p.Payload, ...]:
    """The payloads of ``data``, the first of which has type ``first``.

    An SK or SKF payload ends the chain (§3.14). An unknown critical payload raises UnsupportedCriticalPayload, an
    unknown payload without the flag is kept as Opaque. Reserved fields are ignored.
    """
    found: list[p.Payload] = []
    next_type, offset = first, 0
    while next_type != PayloadType.NONE:
        if len(found) >= MAX_PAYLOADS:
            raise WireError(f"more than {MAX_PAYLOADS} payloads")
        if len(data) - offset < 4:
            raise WireError("payload chain is cut short")
        following, flags, length = struct.unpack_from("!BBH", data, offset)
        if length < 4 or offset + length > len(data):
            raise WireError(f"payload of type {next_type}: length {length} does not fit")
        body = data[offset + 4 : offset + length]
        offset += length
        if next_type == PayloadType.SK:
            found.append(p.Encrypted(following, body))
            break
        if next_type == PayloadType.SKF:
            found.append(p.EncryptedFragment.parse(following, body))
            break
        parser = _PARSERS.get(next_type)
        if parser is not None:
            found.append(parser(body))
        elif flags & _CRITICAL:
            raise UnsupportedCriticalPayload(next_type)
        else:
            found.append(p.Opaque(next_type, body))
        next_type = following
    if offset != len(data):
        raise WireError("octets follow the last payload")
    return tuple(found)


def chain_to_bytes(items: Sequence[p.Payload]) -> tuple[int, bytes]:
    """The type of the first payload, and all payloads with their generic headers."""
    out: list[bytes] = []
    for index, payload in enumerate(items):
        body = payload.to_bytes()
        if len(body) > 0xFFFF - 4:
            raise WireError(f"payload of type {payload.payload_type} is {len(body)} octets long")
        if isinstance(payload, p.Encrypted | p.EncryptedFragment):
            following = payload.first_payload
        else:
            following = items[index + 1].payload_type if index + 1 < len(items) else PayloadType.NONE
        critical = _CRITICAL if isinstance(payload, p.Opaque) and payload.critical else 0
        out.append(struct.pack("!BBH", following, critical, 4 + len(body)) + body)
    return (items[0].payload_type if items else PayloadType.NONE), b"".join(out)


def parse_message(data: bytes) -> Message:
    """A datagram as a Message; an SK payload stays closed. Raises WireError. Versions are not judged here."""
    header = Header.parse(data)
    return Message(header, parse_chain(header.next_payload, data[HEADER_OCTETS:]))


def build_message(header: Header, items: Iterable[p.Payload]) -> bytes:
    """The octets of a message; next payload and length are computed."""
    first, body = chain_to_bytes(tuple(items))
    return replace(header, next_payload=first, length=HEADER_OCTETS + len(body)).to_bytes() + body


def describe(message: Message) -> str:
    """One line as in logs: ``IKE_SA_INIT request 0 [ SA KE No N(NATD_S_IP) ]``."""
    words = [_label(payload) for payload in message.payloads]
    kind = "response" if message.header.is_response else "request"
    inner = " ".join(words)
    name = exchange_name(message.header.exchange)
    return (
        f"{name} {kind} {message.header.message_id} [ {inner} ]"
        if inner
        else (f"{name} {kind} {message.header.message_id} [ ]")
    )


def _label(payload: p.Payload) -> str:
    if isinstance(payload, p.Notify):
        return f"N({notify_label(payload.type)})"
    return PAYLOAD_LABELS.get(payload.payload_type, f"({payload.payload_type})")

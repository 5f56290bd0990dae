"""ESP for whole batches: the same octets as ``EspTransform.seal`` and ``open`` packet by packet, at less cost for each.

What a batch saves is Python's own overhead (attribute look-ups, calls, small objects), which exceeds the cipher's time.
Callers have checked limits and policy already; here is only cryptography. Tests hold both paths against each other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hmac import compare_digest

from ipsecstack.crypto.encr import AeadCipher, CbcCipher
from ipsecstack.crypto.errors import IntegrityError, InvalidTag
from ipsecstack.ipsec.esp import Buffer, EspTransform, PaddingError, Random
from ipsecstack.ipsec.replay import ReplayWindow
from ipsecstack.wire.esp import HEADER_OCTETS, NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, trailer

_HEADER_IV = struct.Struct("!IIQ")
_HEADER = struct.Struct("!II")
_AAD_ESN = struct.Struct("!IQ")
_LOW = 0xFFFFFFFF
_PADDINGS = tuple(trailer(pad, 0)[:-1] for pad in range(256))


class OpenErrors:
    """How many packets of one batch were dropped, by cause; with what was opened they add up to the batch."""

    __slots__ = ("integrity", "padding", "replay")

    def __init__(self) -> None:
        self.integrity = 0
        self.padding = 0
        self.replay = 0


def seal_each(
    transform: EspTransform,
    packets: Sequence[Buffer],
    first_sequence_number: int,
    random: Random,
    next_header: int | None = None,
) -> list[bytes]:
    """Payloads of one SA as ESP packets, numbered consecutively: the plain definition.

    ``next_header`` None: they are IP packets (tunnel mode), maybe with TFC padding behind.
    """
    return [
        transform.seal(packet, _next_header(packet) if next_header is None else next_header, number, random)
        for number, packet in enumerate(packets, first_sequence_number)
    ]


def _next_header(packet: Buffer) -> int:
    return NEXT_HEADER_IPV4 if packet[0] < 0x60 else NEXT_HEADER_IPV6


def seal_batch(
    transform: EspTransform,
    packets: Sequence[Buffer],
    first_sequence_number: int,
    random: Random,
    next_header: int | None = None,
) -> list[bytes]:
    """What ``seal_each`` does; AEADs with a counter IV, and CBC, take a loop of their own.

    With CBC the IVs are others than ``seal_each`` makes of the same random octets (``CbcCipher.seal_chain``).
    """
    aead = transform.aead
    if transform.cbc is None and (aead is None or transform.iv_octets != 8 or transform.align != 4):
        return seal_each(transform, packets, first_sequence_number, random, next_header)
    if (
        next_header is not None
    ):  # the few transport mode payloads that are empty have no first octet to look at
        trailers4 = trailers6 = transform.trailers_of(next_header)
        if not all(packets):
            return seal_each(transform, packets, first_sequence_number, random, next_header)
    else:
        trailers4, trailers6 = transform.trailers[NEXT_HEADER_IPV4], transform.trailers[NEXT_HEADER_IPV6]
    if aead is None:
        assert transform.cbc is not None
        return _seal_cbc(
            transform, transform.cbc, packets, first_sequence_number, random, trailers4, trailers6
        )
    encrypt, salt, spi, esn = aead.aead.encrypt, aead.salt, transform.spi, transform.esn
    pack, pack_aad = _HEADER_IV.pack, _AAD_ESN.pack
    sealed: list[bytes] = []
    append = sealed.append
    for number, packet in enumerate(packets, first_sequence_number):
        head = pack(spi, number & _LOW, number)
        tail = (trailers4 if packet[0] < 0x60 else trailers6)[len(packet) & 3]
        aad = pack_aad(spi, number) if esn else head[:8]
        append(head + encrypt(salt + head[8:], b"".join((packet, tail)), aad))
    return sealed


def _seal_cbc(
    transform: EspTransform,
    cbc: CbcCipher,
    packets: Sequence[Buffer],
    first: int,
    random: Random,
    trailers4: Sequence[bytes],
    trailers6: Sequence[bytes],
) -> list[bytes]:
    """All packets through the cipher in one go; then header and ICV of each."""
    block, mask = transform.align, transform.align - 1
    pieces: list[Buffer] = []
    drawn = random(block * len(packets))
    for start, packet in zip(range(0, len(drawn), block), packets, strict=True):
        tail = (trailers4 if packet[0] < 0x60 else trailers6)[len(packet) & mask]
        pieces += (drawn[start : start + block], packet, tail)
    chain = cbc.seal_chain(pieces)
    sign, pack, spi, esn = transform.mac.sign, _HEADER.pack, transform.spi, transform.esn
    sealed: list[bytes] = []
    start = 0
    for number, packet in enumerate(packets, first):
        end = start + block + (len(packet) + 2 + mask & ~mask)
        content = pack(spi, number & _LOW) + chain[start:end]
        sealed.append(content + (sign(content, transform.seqh(number)) if esn else sign(content)))
        start = end
    return sealed


def open_each(
    transform: EspTransform, window: ReplayWindow, packets: Sequence[Buffer], errors: OpenErrors
) -> list[tuple[bytes, int]]:
    """(payload, next header) of the fresh and authentic packets of one SA, in order: the plain definition.

    The window moves on with each packet whose ICV verified, whatever its padding. Every packet has its 8 octets of
    header at least.
    """
    opened: list[tuple[bytes, int]] = []
    for packet in packets:
        number = window.sequence_number(int.from_bytes(packet[4:8], "big"))
        if not window.fresh(number):
            window.drop(number)
            errors.replay += 1
            continue
        try:
            result = transform.open(packet, number)
        except IntegrityError:
            errors.integrity += 1
            continue
        except PaddingError:
            window.accept(number)
            errors.padding += 1
            continue
        window.accept(number)
        opened.append(result)
    return opened


def open_batch(
    transform: EspTransform, window: ReplayWindow, packets: Sequence[Buffer], errors: OpenErrors
) -> list[tuple[bytes, int]]:
    """What ``open_each`` does; AEADs and CBC take a loop of their own."""
    if transform.aead is not None:
        return _unpad(_open_aead(transform, transform.aead, window, packets, errors), errors)
    if transform.cbc is not None:
        return _unpad(_open_cbc(transform, transform.cbc, window, packets, errors), errors)
    return open_each(transform, window, packets, errors)


def _open_aead(
    transform: EspTransform,
    aead: AeadCipher,
    window: ReplayWindow,
    packets: Sequence[Buffer],
    errors: OpenErrors,
) -> list[bytes]:
    """Payloads with padding and trailer of what is fresh and authentic."""
    opened: list[bytes] = []
    append, decrypt, salt, esn, aad_of = (
        opened.append,
        aead.aead.decrypt,
        aead.salt,
        window.esn,
        transform.aad,
    )
    from_bytes, number_of, start = int.from_bytes, window.sequence_number, HEADER_OCTETS + transform.iv_octets
    shortest = start + transform.icv_octets
    # Numbers that come in order move the window once for all of them: it is ``following`` numbers behind meanwhile.
    following, expected = 0, window.top + 1
    for packet in packets:
        low = from_bytes(packet[4:8], "big")
        if low == expected & _LOW and expected <= window.limit:
            number = expected
        else:
            if following:
                window.advance(following)
                following = 0
            number = number_of(low)
            if not window.fresh(number):
                window.drop(number)
                errors.replay += 1
                continue
        if len(packet) < shortest:
            errors.integrity += 1
            continue
        try:
            append(decrypt(salt + packet[8:start], packet[start:], aad_of(number) if esn else packet[:8]))
        except InvalidTag:
            errors.integrity += 1
            continue
        if number == expected:
            following += 1
            expected += 1
        else:
            window.accept(number)
            expected = window.top + 1
    if following:
        window.advance(following)
    return opened


def _open_cbc(
    transform: EspTransform,
    cbc: CbcCipher,
    window: ReplayWindow,
    packets: Sequence[Buffer],
    errors: OpenErrors,
) -> list[bytes]:
    """Payloads with padding and trailer of what is fresh and authentic."""
    block, icv_octets, sign = transform.align, transform.icv_octets, transform.mac.sign
    opened: list[bytes] = []
    for packet in packets:
        number = window.sequence_number(int.from_bytes(packet[4:8], "big"))
        if not window.fresh(number):
            window.drop(number)
            errors.replay += 1
            continue
        end = len(packet) - icv_octets
        if end < HEADER_OCTETS + block:
            errors.integrity += 1
            continue
        content = packet[:end]
        icv = sign(content, transform.seqh(number)) if window.esn else sign(content)
        if not compare_digest(icv, packet[end:]):
            errors.integrity += 1
            continue
        window.accept(number)
        if (end - HEADER_OCTETS) % block:
            errors.padding += 1
            continue
        opened.append(cbc.open_joined(content[HEADER_OCTETS:]))
    return opened


def _unpad(plaintexts: list[bytes], errors: OpenErrors) -> list[tuple[bytes, int]]:
    """(payload, next header) of authentic plaintexts whose padding is right (RFC 4303 §2.4)."""
    opened: list[tuple[bytes, int]] = []
    append = opened.append
    for plaintext in plaintexts:
        # Padding and its length are compared with what they must be in one go.
        pad = plaintext[-2] if len(plaintext) > 1 else 0
        end = len(plaintext) - 2 - pad
        if end < 0 or plaintext[end:-1] != _PADDINGS[pad]:
            errors.padding += 1
            continue
        append((plaintext[:end], plaintext[-1]))
    return opened

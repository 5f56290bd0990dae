"""The Encrypted payload: sealing and opening IKE messages (RFC 7296 §3.14, RFC 5282)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

from ipsecstack.crypto.encr import Encr
from ipsecstack.crypto.errors import CryptoError, IntegrityError
from ipsecstack.crypto.ikekeys import IkeKeys
from ipsecstack.crypto.integ import Integ
from ipsecstack.keyex.base import Random
from ipsecstack.wire.ikev2 import (
    Encrypted,
    EncryptedFragment,
    Header,
    Payload,
    PayloadType,
    WireError,
    chain_to_bytes,
    parse_chain,
)
from ipsecstack.wire.ikev2.numbers import HEADER_OCTETS


class DecryptionError(WireError):
    """The message is authentic, but what is encrypted is no whole number of blocks, or its padding does not fit."""


class Protection:
    """Both directions of one IKE SA's message protection. ``initiator``: we are the IKE SA's original initiator."""

    __slots__ = ("_counter", "_encr", "_in", "_integ", "_mac_in", "_mac_out", "_out", "_random")

    def __init__(self, encr: Encr, integ: Integ, keys: IkeKeys, initiator: bool, random: Random) -> None:
        own_e, peer_e = (keys.sk_ei, keys.sk_er) if initiator else (keys.sk_er, keys.sk_ei)
        own_a, peer_a = (keys.sk_ai, keys.sk_ar) if initiator else (keys.sk_ar, keys.sk_ai)
        self._encr, self._integ, self._random = encr, integ, random
        self._out, self._in = encr.new(own_e), encr.new(peer_e)
        self._mac_out = None if encr.aead else integ.new(own_a)
        self._mac_in = None if encr.aead else integ.new(peer_a)
        self._counter = 0

    def __repr__(self) -> str:
        return f"<Protection {self._encr.name}>"

    @property
    def _tag_octets(self) -> int:
        return self._encr.icv_octets if self._encr.aead else self._integ.icv_octets

    def seal(self, header: Header, payloads: Sequence[Payload]) -> bytes:
        """The datagram of a message whose payloads are all encrypted."""
        first, inner = chain_to_bytes(payloads)
        return self._seal(header, PayloadType.SK, first, b"", inner)

    def seal_fragments(self, header: Header, payloads: Sequence[Payload], limit: int) -> tuple[bytes, ...]:
        """The datagrams of a message, none longer than ``limit`` octets: as a whole if it fits, else in Encrypted
        Fragment payloads, each sealed by itself (RFC 7383 §2.5)."""
        first, inner = chain_to_bytes(payloads)
        fixed = HEADER_OCTETS + 4 + self._encr.iv_octets + self._tag_octets
        block = max(self._encr.block_octets, 1)
        if fixed + len(inner) + 1 + -(len(inner) + 1) % block <= limit:
            return (self._seal(header, PayloadType.SK, first, b"", inner),)
        room = (limit - fixed - 4) // block * block - 1
        if room < 1:
            raise WireError(f"{limit} octets are too few for a fragment")
        pieces = [inner[start : start + room] for start in range(0, len(inner), room)]
        if len(pieces) > 0xFFFF:
            raise WireError(f"message of {len(inner)} octets has too many fragments")
        return tuple(
            self._seal(
                header,
                PayloadType.SKF,
                first if number == 1 else PayloadType.NONE,
                struct.pack("!HH", number, len(pieces)),
                piece,
            )
            for number, piece in enumerate(pieces, 1)
        )

    def _seal(self, header: Header, kind: PayloadType, first: int, numbers: bytes, inner: bytes) -> bytes:
        """One SK or SKF payload; ``numbers`` are what SKF has before the IV."""
        block = max(self._encr.block_octets, 1)
        padding = -(len(inner) + 1) % block
        plaintext = inner + bytes(padding) + bytes((padding,))
        iv_octets = self._encr.iv_octets
        if self._encr.iv_counter:
            self._counter += 1
            iv = self._counter.to_bytes(iv_octets, "big")
        else:
            iv = self._random(iv_octets)
        body_octets = 4 + len(numbers) + iv_octets + len(plaintext) + self._tag_octets
        if HEADER_OCTETS + body_octets > 0xFFFF:
            raise WireError(f"message of {HEADER_OCTETS + body_octets} octets is too long for UDP")
        head = replace(header, next_payload=kind, length=HEADER_OCTETS + body_octets).to_bytes()
        aad = head + struct.pack("!BBH", first, 0, body_octets) + numbers
        if self._mac_out is None:
            return aad + iv + self._out.seal(iv, aad, plaintext)
        sealed = aad + iv + self._out.seal(iv, b"", plaintext)
        return sealed + self._mac_out.sign(sealed)

    def open(self, data: bytes, outer: Sequence[Payload]) -> tuple[int, bytes]:
        """Check and decrypt a datagram: the first inner payload's type and the inner chain's octets.

        IntegrityError when it does not verify, WireError when there is no SK or SKF payload or it is too short: nothing
        of the message may then be used. DecryptionError when it verifies but makes no sense.
        """
        sealed = outer[-1] if outer else None
        if not isinstance(sealed, Encrypted | EncryptedFragment):
            raise WireError("the message is not encrypted")
        body, tag_octets, iv_octets = sealed.data, self._tag_octets, self._encr.iv_octets
        if len(body) < iv_octets + 1 + tag_octets:
            raise WireError("the Encrypted payload is too short")
        aad = data[: len(data) - len(body)]
        iv = body[:iv_octets]
        if self._mac_in is None:
            try:
                plaintext = self._in.open(iv, aad, body[iv_octets:])
            except (CryptoError, ValueError):
                raise IntegrityError("ICV does not verify") from None
        else:
            if not self._mac_in.verify(body[-tag_octets:], data[:-tag_octets]):
                raise IntegrityError("ICV does not verify")
            try:
                plaintext = self._in.open(iv, b"", body[iv_octets:-tag_octets])
            except (CryptoError, ValueError):
                raise DecryptionError("the Encrypted payload cannot be decrypted") from None
        if not plaintext or plaintext[-1] + 1 > len(plaintext):
            raise DecryptionError("Encrypted payload: the padding length does not fit")
        return sealed.first_payload, plaintext[: len(plaintext) - 1 - plaintext[-1]]


def parse_inner(first: int, chain: bytes) -> tuple[Payload, ...]:
    """The payloads inside an opened SK payload; WireError as ``parse_chain``, also for an SK inside an SK."""
    payloads = parse_chain(first, chain)
    if payloads and isinstance(payloads[-1], Encrypted | EncryptedFragment):
        raise WireError("an Encrypted payload inside an Encrypted payload")
    return payloads

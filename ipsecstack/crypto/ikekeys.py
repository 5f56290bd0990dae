"""Key derivation of IKEv2: SKEYSEED, SK_*, and KEYMAT of child SAs (RFC 7296 sections 2.14, 2.17, 2.18)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ipsecstack.crypto.encr import Encr
from ipsecstack.crypto.integ import Integ
from ipsecstack.crypto.prf import Buffer, Prf, prf_plus


class _Redacted:
    """A repr that names the keys and their lengths but shows none of them."""

    __slots__ = ()

    def __repr__(self) -> str:
        fields = ", ".join(
            f"{name}=<{len(getattr(self, name))} octets>"
            for name in self.__dataclass_fields__  # type: ignore[attr-defined]
        )
        return f"{type(self).__name__}({fields})"


@dataclass(frozen=True, slots=True, repr=False)
class IkeKeys(_Redacted):
    """The seven secrets of an IKE SA. ``sk_ei`` and ``sk_er`` include the salt of an AEAD cipher at their end
    (RFC 5282 section 7.1); ``sk_ai`` and ``sk_ar`` are empty with AEAD."""

    sk_d: bytes
    sk_ai: bytes
    sk_ar: bytes
    sk_ei: bytes
    sk_er: bytes
    sk_pi: bytes
    sk_pr: bytes


@dataclass(frozen=True, slots=True, repr=False)
class ChildKeys(_Redacted):
    """The keys of a pair of ESP SAs. ``_i`` protects what the initiator of the exchange that made the pair
    sends, ``_r`` what its responder sends; encryption keys include the salt, integrity is empty with AEAD."""

    encr_i: bytes
    integ_i: bytes
    encr_r: bytes
    integ_r: bytes


def skeyseed(prf: Prf, ni: Buffer, nr: Buffer, shared: Buffer) -> bytes:
    """SKEYSEED = prf(Ni | Nr, g^ir) of an initial exchange (section 2.14)."""
    if prf.nonce_octets:
        # PRFs with a key of fixed length take the first half of it from each nonce.
        return prf.compute(bytes(ni[: prf.nonce_octets]) + bytes(nr[: prf.nonce_octets]), shared)
    return prf.compute(bytes(ni) + bytes(nr), shared)


def skeyseed_rekey(
    old_prf: Prf, old_sk_d: Buffer, shared: Buffer, ni: Buffer, nr: Buffer, more: Sequence[Buffer] = ()
) -> bytes:
    """SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr) when an IKE SA is rekeyed (section 2.18).

    The PRF is that of the old IKE SA. ``more`` are the secrets of additional key exchanges, which follow in their order
    (RFC 9370 section 2.2.4).
    """
    return old_prf.compute(old_sk_d, shared, ni, nr, *more)


def skeyseed_resumed(prf: Prf, old_sk_d: Buffer, ni: Buffer, nr: Buffer) -> bytes:
    """SKEYSEED = prf(SK_d (old), "Resumption" | Ni | Nr) of a resumed IKE SA (RFC 5723 section 5.1)."""
    return prf.compute(old_sk_d, b"Resumption", ni, nr)


def skeyseed_additional(prf: Prf, sk_d: Buffer, shared: Buffer, ni: Buffer, nr: Buffer) -> bytes:
    """SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr) after an additional key exchange in IKE_INTERMEDIATE
    (RFC 9370 section 2.2.2). ``ike_keys`` makes the keys of it, with the nonces and SPIs of IKE_SA_INIT."""
    return prf.compute(sk_d, shared, ni, nr)


def with_ppk(prf: Prf, keys: IkeKeys, ppk: Buffer) -> IkeKeys:
    """The keys with a post-quantum pre-shared key in them: SK_d, SK_pi and SK_pr become prf+(PPK, SK_x'), each as long
    as it was (RFC 8784 section 3)."""
    sk_d, sk_pi, sk_pr = (prf_plus(prf, ppk, key, len(key)) for key in (keys.sk_d, keys.sk_pi, keys.sk_pr))
    return replace(keys, sk_d=sk_d, sk_pi=sk_pi, sk_pr=sk_pr)


def ike_keys(
    prf: Prf, encr: Encr, integ: Integ, seed: bytes, ni: Buffer, nr: Buffer, spi_i: Buffer, spi_r: Buffer
) -> IkeKeys:
    """{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr).

    ``seed`` is SKEYSEED, the SPIs are 8 octets each; after a rekey they, the nonces and the algorithms are
    those of the new IKE SA. ``integ`` is ignored where ``encr`` is AEAD.
    """
    integ_octets = 0 if encr.aead else integ.key_octets
    lengths = (
        prf.key_octets,
        integ_octets,
        integ_octets,
        encr.keymat_octets,
        encr.keymat_octets,
        prf.key_octets,
        prf.key_octets,
    )
    stream = prf_plus(prf, seed, b"".join((ni, nr, spi_i, spi_r)), sum(lengths))
    return IkeKeys(*_cut(stream, lengths))


def child_keys(
    prf: Prf,
    sk_d: Buffer,
    encr: Encr,
    integ: Integ,
    ni: Buffer,
    nr: Buffer,
    shared: Buffer = b"",
    more: Sequence[Buffer] = (),
) -> ChildKeys:
    """KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr), cut as section 2.17 orders it.

    ``more`` are the secrets of additional key exchanges, which follow in their order (RFC 9370 section 2.2.4).

    First everything of the initiator's direction, then the responder's; in each the encryption key (with
    its salt) before the integrity key. ``shared`` is given when CREATE_CHILD_SA carried a KE payload.
    ``integ`` is ignored where ``encr`` is AEAD.
    """
    integ_octets = 0 if encr.aead else integ.key_octets
    lengths = (encr.keymat_octets, integ_octets, encr.keymat_octets, integ_octets)
    return ChildKeys(*_cut(prf_plus(prf, sk_d, b"".join((shared, ni, nr, *more)), sum(lengths)), lengths))


def _cut(stream: bytes, lengths: tuple[int, ...]) -> list[bytes]:
    parts, start = [], 0
    for length in lengths:
        parts.append(stream[start : start + length])
        start += length
    return parts

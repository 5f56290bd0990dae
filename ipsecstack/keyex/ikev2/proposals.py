"""Offering and choosing algorithms (RFC 7296 §2.7, §3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ipsecstack.crypto import encr, integ, ke, prf
from ipsecstack.crypto.errors import UnknownAlgorithm
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex.configuration import Proposal
from ipsecstack.wire.ikev2 import SaProposal, Transform
from ipsecstack.wire.transforms import (
    AEAD_ENCR,
    KEY_LENGTH_REQUIRED,
    EncrId,
    EsnId,
    IntegId,
    KeId,
    PrfId,
    TransformType,
    transform_name,
)

Choice = tuple[int, int]  # transform ID, key bits or 0
MAX_PROPOSALS = 64
_NONE = 0
ADDITIONAL = tuple(TransformType(TransformType.ADDKE1 + place) for place in range(7))
_ORDER = (
    TransformType.ENCR, TransformType.INTEG, TransformType.PRF, TransformType.KE, *ADDITIONAL, TransformType.ESN,
)  # fmt: skip
_EXCHANGES = frozenset({TransformType.KE, *ADDITIONAL})

_KE_DEFAULT = (
    KeId.CURVE_25519, KeId.ECP_256, KeId.ECP_384, KeId.ECP_521, KeId.MODP_3072, KeId.MODP_4096, KeId.MODP_2048,
)  # fmt: skip
_PRF_DEFAULT = (PrfId.HMAC_SHA2_256, PrfId.HMAC_SHA2_384, PrfId.HMAC_SHA2_512)
_INTEG_DEFAULT = (IntegId.HMAC_SHA2_256_128, IntegId.HMAC_SHA2_384_192, IntegId.HMAC_SHA2_512_256)
_AEAD_DEFAULT = ((EncrId.AES_GCM_16, 256), (EncrId.AES_GCM_16, 128), (EncrId.CHACHA20_POLY1305, 0))
_CBC_DEFAULT = ((EncrId.AES_CBC, 256), (EncrId.AES_CBC, 128))

DEFAULT_IKE = (
    Proposal(SecurityProtocol.IKE, _AEAD_DEFAULT, (), _PRF_DEFAULT, _KE_DEFAULT),
    Proposal(SecurityProtocol.IKE, _CBC_DEFAULT, _INTEG_DEFAULT, _PRF_DEFAULT, _KE_DEFAULT),
)
DEFAULT_ESP = (
    Proposal(SecurityProtocol.ESP, _AEAD_DEFAULT, esn=(EsnId.NO_ESN, EsnId.ESN)),
    Proposal(SecurityProtocol.ESP, _CBC_DEFAULT, _INTEG_DEFAULT, esn=(EsnId.NO_ESN, EsnId.ESN)),
)


@dataclass(frozen=True, slots=True)
class Suite:
    """One algorithm of each type, as chosen. ``wire`` is the proposal that says so in the response.

    ``encr`` of AH, which does not encrypt, is NULL.
    """

    wire: SaProposal
    protocol: int
    spi: bytes
    encr: EncrId
    key_bits: int
    integ: IntegId
    prf: PrfId | None
    ke: KeId
    esn: EsnId
    additional: tuple[KeId, ...] = ()
    """The key exchanges that follow the first one, in their order (RFC 9370)."""

    def __str__(self) -> str:
        """As strongSwan logs it: ``ESP:AES_GCM_16_128/NO_EXT_SEQ``."""
        return proposal_text(self.wire)


def proposal_text(proposal: SaProposal) -> str:
    """``IKE:AES_CBC_256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256``."""
    words = []
    ordered = sorted(proposal.transforms, key=lambda t: _ORDER.index(t.type) if t.type in _ORDER else 9)
    for transform in ordered:
        name = transform_name(transform.type, transform.id)
        words.append(f"{name}_{transform.key_bits}" if transform.key_bits else name)
    try:
        protocol = SecurityProtocol(proposal.protocol).name
    except ValueError:
        protocol = str(proposal.protocol)
    return f"{protocol}:{'/'.join(words)}"


def proposals_text(proposals: Iterable[SaProposal]) -> str:
    return ", ".join(proposal_text(p) for p in proposals)


def offer(own: Sequence[Proposal], spi: bytes, *, with_ke: bool) -> tuple[SaProposal, ...]:
    """Our proposals as an SA payload has them; ``with_ke`` False leaves key exchange methods out (IKE_AUTH, §1.2)."""
    offered: list[SaProposal] = []
    for proposal in own:
        for choices in _split(proposal, with_ke):
            transforms = tuple(
                Transform.of(type_, id_, bits or None)
                for type_ in _ORDER
                for id_, bits in choices.get(type_, ())
                if not (type_ is TransformType.INTEG and id_ == IntegId.NONE)
            )
            offered.append(SaProposal(len(offered) + 1, int(proposal.protocol), spi, transforms))
    return tuple(offered)


def methods(own: Sequence[Proposal]) -> list[KeId]:
    """The key exchange methods of all proposals, in order, each once, those that are implemented."""
    found: list[KeId] = []
    for proposal in own:
        for method in proposal.ke:
            if method not in found and _implemented(TransformType.KE, method, 0):
                found.append(method)
    return found


def select(
    own: Sequence[Proposal],
    offered: Sequence[SaProposal],
    *,
    protocol: SecurityProtocol | None,
    with_ke: bool,
    preferred_ke: int | None = None,
    spi_octets: int,
) -> Suite | None:
    """Our first proposal that fits one of the peer's; None is NO_PROPOSAL_CHOSEN.

    ``protocol`` None leaves the choice between ESP and AH to the order of our proposals.
    Within it our order decides, but the method of the KE payload that is already there wins if both ends list it: that
    saves a round trip and the peer chose it first. Of a peer's proposals 64 are looked at: strangers send them, too.
    """
    offers = [
        (theirs, _by_type(theirs))
        for theirs in offered[:MAX_PROPOSALS]
        if protocol in (None, theirs.protocol) and len(theirs.spi) == spi_octets
    ]
    for proposal in own:
        if protocol not in (None, proposal.protocol):
            continue
        for choices in _split(proposal, with_ke):
            for theirs, there in offers:
                if theirs.protocol != proposal.protocol:
                    continue
                chosen = _match(choices, there, with_ke, preferred_ke)
                if chosen is not None:
                    return _suite(theirs, chosen)
    return None


def permits(own: Sequence[Proposal], suite: Suite) -> bool:
    """Whether what was negotiated is among these IKE proposals."""
    chosen = select(
        own,
        (suite.wire,),
        protocol=SecurityProtocol.IKE,
        with_ke=True,
        spi_octets=len(suite.wire.spi),
    )
    return chosen is not None


def accept(
    offered: Sequence[SaProposal], answer: Sequence[SaProposal], *, with_ke: bool, spi_octets: int
) -> Suite | None:
    """The suite of a response, or None when it is not exactly one choice out of what we offered (§2.7)."""
    if len(answer) != 1 or len(answer[0].spi) != spi_octets:
        return None
    chosen = answer[0]
    types = [
        t.type for t in chosen.transforms if not (t.type == TransformType.INTEG and t.id == IntegId.NONE)
    ]
    if len(types) != len(set(types)):
        return None
    for ours in offered:
        if ours.number != chosen.number or ours.protocol != chosen.protocol:
            continue
        needed = {t.type for t in ours.transforms}
        optional = {t.type for t in ours.transforms if t.id == _NONE}
        if not needed - optional <= set(types) <= needed:
            return None
        if any(t not in ours.transforms for t in chosen.transforms if t.type in needed):
            return None
        exchanges = [t.id for t in chosen.transforms if t.type in _EXCHANGES and t.id]
        if len(exchanges) != len(set(exchanges)):
            return None
        return _suite(chosen, tuple(t for t in chosen.transforms if t.type in needed))
    return None


def _split(proposal: Proposal, with_ke: bool) -> Iterator[dict[TransformType, tuple[Choice, ...]]]:
    """AEAD and other ciphers apart, since only the others take an integrity transform (§3.3). AH has no cipher."""
    if proposal.protocol is SecurityProtocol.AH:
        of_ah = {
            TransformType.INTEG: _known(TransformType.INTEG, proposal.integ),
            TransformType.ESN: tuple((int(e), 0) for e in proposal.esn or (EsnId.NO_ESN,)),
        }
        if with_ke and proposal.ke:
            of_ah[TransformType.KE] = _known(TransformType.KE, proposal.ke)
        if all(of_ah.values()):
            yield of_ah
        return
    for aead in (True, False):
        ciphers = tuple(
            (int(id_), bits if id_ in KEY_LENGTH_REQUIRED else 0)
            for id_, bits in proposal.encr
            if (id_ in AEAD_ENCR) is aead and _implemented(TransformType.ENCR, id_, bits)
        )
        if not ciphers:
            continue
        choices: dict[TransformType, tuple[Choice, ...]] = {TransformType.ENCR: ciphers}
        if not aead:
            choices[TransformType.INTEG] = _known(TransformType.INTEG, proposal.integ)
        if proposal.protocol is SecurityProtocol.IKE:
            choices[TransformType.PRF] = _known(TransformType.PRF, proposal.prf)
        else:
            choices[TransformType.ESN] = tuple((int(e), 0) for e in proposal.esn or (EsnId.NO_ESN,))
        if with_ke and proposal.ke:
            choices[TransformType.KE] = _known(TransformType.KE, proposal.ke)
            for type_, more in zip(ADDITIONAL, proposal.additional_ke, strict=False):
                if more:
                    choices[type_] = _known(type_, more)
        if all(choices.values()):
            yield choices


def _known(type_: TransformType, ids: Iterable[int]) -> tuple[Choice, ...]:
    return tuple((int(id_), 0) for id_ in ids if _implemented(type_, id_, 0))


def _implemented(type_: TransformType, id_: int, bits: int) -> bool:
    try:
        if type_ is TransformType.ENCR:
            encr.get(id_, bits)
        elif type_ is TransformType.INTEG:
            integ.get(id_)
        elif type_ is TransformType.PRF:
            prf.get(id_)
        elif type_ in _EXCHANGES and id_ != KeId.NONE:
            ke.get(id_)
    except UnknownAlgorithm:
        return False
    return True


def _by_type(proposal: SaProposal) -> dict[int, dict[Choice, Transform]]:
    """The transforms of each type; those that are not understood only make their type known."""
    found: dict[int, dict[Choice, Transform]] = {}
    for transform in proposal.transforms:
        of_type = found.setdefault(transform.type, {})
        if transform.understood:
            of_type[transform.id, transform.key_bits or 0] = transform
    return found


def _match(
    choices: dict[TransformType, tuple[Choice, ...]],
    theirs: dict[int, dict[Choice, Transform]],
    with_ke: bool,
    preferred_ke: int | None,
) -> tuple[Transform, ...] | None:
    chosen: list[Transform] = []
    for type_, ours in choices.items():
        candidates = theirs.get(type_, {})
        ordered = ours
        if type_ is TransformType.KE and preferred_ke is not None:
            ordered = tuple(sorted(ours, key=lambda c: c[0] != preferred_ke))
        # No method twice: it would add nothing (RFC 9370 §2.2.1).
        taken = {t.id for t in chosen if t.type in _EXCHANGES and t.id} if type_ in ADDITIONAL else set()
        found = next((candidates[c] for c in ordered if c in candidates and c[0] not in taken), None)
        if found is not None:
            chosen.append(found)
        elif type_ in theirs or not any(id_ == _NONE for id_, _ in ours):
            return None  # no common choice, or a type that we need is not there
    for type_number in theirs.keys() - choices.keys():
        if type_number in _EXCHANGES and not with_ke:
            continue
        if not any(id_ == _NONE for id_, _ in theirs[type_number]):
            return None  # the peer insists on a type that we do not have
    return tuple(chosen)


def _suite(wire: SaProposal, chosen: tuple[Transform, ...]) -> Suite:
    by_type = {t.type: t for t in chosen}
    cipher = by_type.get(TransformType.ENCR)
    mac, hash_, group, esn = (
        by_type.get(t) for t in (TransformType.INTEG, TransformType.PRF, TransformType.KE, TransformType.ESN)
    )
    return Suite(
        SaProposal(wire.number, wire.protocol, wire.spi, chosen),
        wire.protocol,
        wire.spi,
        EncrId(cipher.id) if cipher else EncrId.NULL,
        (cipher.key_bits or 0) if cipher else 0,
        IntegId(mac.id) if mac else IntegId.NONE,
        PrfId(hash_.id) if hash_ else None,
        KeId(group.id) if group else KeId.NONE,
        EsnId(esn.id) if esn else EsnId.NO_ESN,
        tuple(KeId(by_type[t].id) for t in ADDITIONAL if t in by_type and by_type[t].id),
    )

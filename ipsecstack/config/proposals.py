"""Proposal text (``aes128gcm16-prfsha256-x25519``) -> ``Proposal``, by the rules of swanctl.conf(5).

An algorithm is accepted when the registries of ``ipsecstack.crypto`` implement it: adding one there is enough.
Weak ones are never in ``default``, and a proposal that names one is refused unless the word ``weak`` stands in it, too
(``3des-md5-modp1024-weak``): nobody gets one by copying an old file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ipsecstack.config.tree import suggestion
from ipsecstack.crypto import encr as encr_registry
from ipsecstack.crypto import integ as integ_registry
from ipsecstack.crypto import ke as ke_registry
from ipsecstack.crypto import prf as prf_registry
from ipsecstack.crypto.errors import UnknownAlgorithm
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex.configuration import Proposal
from ipsecstack.wire.transforms import (
    AEAD_ENCR,
    PRF_OF_INTEG,
    PROPOSAL_KEYWORDS,
    EncrId,
    EsnId,
    IntegId,
    KeId,
    PrfId,
    TransformType,
    parse_keyword,
)

# The order of preference of 'default': AEAD first, then AES-CBC with HMAC-SHA2; elliptic curves before MODP.
_AEAD = (
    (EncrId.AES_GCM_16, 256),
    (EncrId.AES_GCM_16, 128),
    (EncrId.CHACHA20_POLY1305, 0),
    (EncrId.AES_GCM_16, 192),
)
_CBC = ((EncrId.AES_CBC, 256), (EncrId.AES_CBC, 128), (EncrId.AES_CBC, 192))
_INTEG = (IntegId.HMAC_SHA2_256_128, IntegId.HMAC_SHA2_384_192, IntegId.HMAC_SHA2_512_256)
_PRF = (PrfId.HMAC_SHA2_256, PrfId.HMAC_SHA2_384, PrfId.HMAC_SHA2_512)
_KE = (
    KeId.CURVE_25519,
    KeId.ECP_256,
    KeId.ECP_384,
    KeId.ECP_521,
    KeId.MODP_3072,
    KeId.MODP_4096,
    KeId.MODP_2048,
)


WEAK = "weak"
"""The word without which a proposal cannot name a weak algorithm."""


def default_proposals(protocol: SecurityProtocol) -> tuple[Proposal, ...]:
    """What ``default`` stands for: the strong algorithms that are in. ESP and AH without key exchange and ESN."""
    encr_ids = {(e.id, e.key_bits) for e in encr_registry.registered() if not e.weak}
    chacha = (
        {(EncrId.CHACHA20_POLY1305, 0)} if any(e == EncrId.CHACHA20_POLY1305 for e, _ in encr_ids) else set()
    )
    usable = encr_ids | chacha
    integ_ids = {i.id for i in integ_registry.registered()}
    integ = tuple(i for i in _INTEG if i in integ_ids)
    aead, cbc = tuple(e for e in _AEAD if e in usable), tuple(e for e in _CBC if e in usable)
    if protocol is SecurityProtocol.IKE:
        prf_ids = {p.id for p in prf_registry.registered()}
        ke_ids = {k.id for k in ke_registry.registered()}
        prf, ke = tuple(p for p in _PRF if p in prf_ids), tuple(k for k in _KE if k in ke_ids)
        made = (Proposal(protocol, aead, (), prf, ke), Proposal(protocol, cbc, integ, prf, ke))
    elif protocol is SecurityProtocol.AH:
        return (Proposal(protocol, (), integ, esn=(EsnId.NO_ESN,)),)
    else:
        esn = (EsnId.NO_ESN,)
        made = (Proposal(protocol, aead, esn=esn), Proposal(protocol, cbc, integ, esn=esn))
    return tuple(p for p in made if p.encr)


def parse_proposals(texts: Iterable[str], protocol: SecurityProtocol) -> tuple[Proposal, ...]:
    """Proposals in order; ``default`` expands in its place, no text at all means it. ValueError says why not."""
    found: list[Proposal] = []
    for text in texts:
        word = text.strip().lower()
        found += default_proposals(protocol) if word == "default" else [parse_proposal(word, protocol)]
    return tuple(found) or default_proposals(protocol)


@dataclass(slots=True)
class _Words:
    """What the words of one proposal name, type by type and in order."""

    encr: list[tuple[EncrId, int]] = field(default_factory=list)
    integ: list[IntegId] = field(default_factory=list)
    prf: list[PrfId] = field(default_factory=list)
    ke: list[KeId] = field(default_factory=list)
    esn: list[EsnId] = field(default_factory=list)
    additional: dict[int, list[KeId]] = field(default_factory=dict)
    weak: bool = False


def parse_proposal(text: str, protocol: SecurityProtocol) -> Proposal:
    """One proposal. An ``ike:``, ``esp:`` or ``ah:`` prefix may stand in front and must then fit."""
    prefix, colon, rest = text.partition(":")
    if colon:
        if prefix.strip() != protocol.name.lower():
            raise ValueError(f"proposal '{text}' is not one for {protocol.name}")
        text = rest.strip()
    words = _Words()
    for word in filter(None, text.split("-")):
        _take(words, word, text, protocol)
    proposal = _complete(text, protocol, words)
    _check_implemented(text, proposal)
    _check_place(text, proposal)
    weak = weak_algorithms((proposal,))
    if weak and not words.weak:
        raise ValueError(
            f"proposal '{text}' names what is weak by today's measure (RFC 8221, RFC 8247): {', '.join(weak)}; "
            f"choose another, or write '{text}-{WEAK}' to use it all the same"
        )
    return proposal


def _take(words: _Words, word: str, text: str, protocol: SecurityProtocol) -> None:
    """Put one word of a proposal where it belongs."""
    if word == WEAK:
        words.weak = True
        return
    try:
        keyword = parse_keyword(word)
    except ValueError:
        known = [*PROPOSAL_KEYWORDS, WEAK]
        raise ValueError(
            f"'{word}' in proposal '{text}' is no known algorithm{suggestion(word, known)}"
        ) from None
    if keyword.type is TransformType.ENCR:
        if protocol is SecurityProtocol.AH and keyword.id == EncrId.NULL_AUTH_AES_GMAC:
            _append(
                words.integ, IntegId[f"AES_{keyword.key_bits}_GMAC"]
            )  # in AH it is an integrity algorithm
        else:
            _append(words.encr, (EncrId(keyword.id), keyword.key_bits or 0))
    elif keyword.type is TransformType.INTEG:
        _append(words.integ, IntegId(keyword.id))
    elif keyword.type is TransformType.PRF:
        _append(words.prf, PrfId(keyword.id))
    elif keyword.type is TransformType.KE:
        _append(words.ke, KeId(keyword.id))
    elif keyword.type is TransformType.ESN:
        _append(words.esn, EsnId(keyword.id))
    else:
        place = keyword.type - TransformType.ADDKE1
        _append(words.additional.setdefault(place, []), KeId(keyword.id))


def weak_algorithms(proposals: Sequence[Proposal]) -> list[str]:
    """VICI names of the weak algorithms that proposals name, for a warning."""
    names: list[str] = []
    for proposal in proposals:
        names += [e.name for e in (encr_registry.get(*pair) for pair in proposal.encr) if e.weak]
        names += [i.name for i in map(integ_registry.get, proposal.integ) if i.weak]
        names += [p.name for p in map(prf_registry.get, proposal.prf) if p.weak]
        methods = [*proposal.ke, *(k for choices in proposal.additional_ke for k in choices)]
        names += [k.vici_name for k in methods if k != KeId.NONE and ke_registry.get(k).weak]
    return list(dict.fromkeys(names))


def _append(to: list, what: object) -> None:  # type: ignore[type-arg]
    if what not in to:
        to.append(what)


def _complete(text: str, protocol: SecurityProtocol, words: _Words) -> Proposal:
    """Check that a proposal makes sense, and add what swanctl.conf leaves unsaid."""
    encr, integ, prf, ke, esn = words.encr, words.integ, words.prf, words.ke, words.esn
    ike, ah = protocol is SecurityProtocol.IKE, protocol is SecurityProtocol.AH
    if ah and encr:
        raise ValueError(f"proposal '{text}' names a cipher, and AH does not encrypt; remove it")
    if not encr and not ah:
        raise ValueError(f"proposal '{text}' names no encryption algorithm; add one, as aes128gcm16")
    aead = [e for e, _ in encr if e in AEAD_ENCR]
    if aead and len(aead) != len(encr):
        raise ValueError(
            f"proposal '{text}' mixes combined-mode with other ciphers; write two proposals separated by a comma"
        )
    if not ike and prf:
        raise ValueError(
            f"proposal '{text}' names a PRF, which {protocol.name} does not negotiate; remove it"
        )
    if ike and esn:
        raise ValueError(f"proposal '{text}' names ESN, which IKE does not have; put it into esp_proposals")
    if ike and not prf:
        prf = [PRF_OF_INTEG[i] for i in integ if i in PRF_OF_INTEG]
        if not prf:
            raise ValueError(f"proposal '{text}' names no PRF; add one, as prfsha256")
    if ike and not ke:
        raise ValueError(f"proposal '{text}' names no key exchange; add one, as x25519")
    if ike and KeId.NONE in ke:
        raise ValueError(f"proposal '{text}': an IKE SA cannot do without a key exchange; remove modpnone")
    if aead:
        if integ and not ike:
            raise ValueError(
                f"proposal '{text}': a combined-mode cipher takes no integrity algorithm; remove it"
            )
        integ = []  # in an IKE proposal the word only chose the PRF
    elif not integ:
        raise ValueError(f"proposal '{text}' names no integrity algorithm; add one, as sha256")
    if words.additional and not any(k != KeId.NONE for k in ke):
        raise ValueError(
            f"proposal '{text}': additional key exchanges stand beside a first one; add it, as x25519"
        )
    places = range(max(words.additional) + 1) if words.additional else ()
    return Proposal(
        protocol,
        tuple(encr),
        tuple(integ),
        tuple(dict.fromkeys(prf)),
        tuple(ke),
        () if ike else tuple(esn) or (EsnId.NO_ESN,),
        tuple(tuple(words.additional.get(place, ())) for place in places),
    )


def _check_place(text: str, proposal: Proposal) -> None:
    """That each algorithm is one of this protocol's."""
    protocol = proposal.protocol
    for encr_id, bits in proposal.encr:
        if protocol is SecurityProtocol.IKE and encr_registry.get(encr_id, bits).esp_only:
            raise ValueError(
                f"proposal '{text}': {encr_id.vici_name} cannot protect IKE itself; put it into esp_proposals"
            )
    for integ_id in proposal.integ:
        if protocol is not SecurityProtocol.AH and integ_registry.get(integ_id).ah_only:
            raise ValueError(
                f"proposal '{text}': {integ_id.vici_name} is for AH alone; put it into ah_proposals"
            )


def _check_implemented(text: str, proposal: Proposal) -> None:
    try:
        for encr_id, bits in proposal.encr:
            encr_registry.get(encr_id, bits)
        for integ_id in proposal.integ:
            integ_registry.get(integ_id)
        for prf_id in proposal.prf:
            prf_registry.get(prf_id)
        for ke_id in (*proposal.ke, *(k for choices in proposal.additional_ke for k in choices)):
            if ke_id != KeId.NONE:
                ke_registry.get(ke_id)
    except UnknownAlgorithm as error:
        raise ValueError(f"proposal '{text}': {error}") from None

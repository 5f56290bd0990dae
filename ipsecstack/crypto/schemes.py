"""Which signatures a configuration wants: the words of swanctl's ``auth`` (``rsa/pss-sha256``, ``ecdsa``, ``pubkey``).

A scheme is a tuple of rules in order of liking; no rule at all stands for every SHA-2 signature. SHA-1, which is
all that RSA signatures of RFC 7296 itself have with most peers, must be named, with the word ``weak`` beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ipsecstack.crypto.algorithm_identifier import Scheme, SignatureAlgorithm
from ipsecstack.wire.transforms import HashAlgId

_KINDS: dict[str, frozenset[Scheme]] = {
    "pubkey": frozenset(Scheme),
    "rsa": frozenset({Scheme.RSA_PKCS1, Scheme.RSA_PSS}),
    "rsa/pss": frozenset({Scheme.RSA_PSS}),
    "ecdsa": frozenset({Scheme.ECDSA}),
    "ed25519": frozenset({Scheme.ED25519}),
    "ed448": frozenset({Scheme.ED448}),
}
_HASHES = {
    "sha1": HashAlgId.SHA1,
    "sha256": HashAlgId.SHA2_256,
    "sha384": HashAlgId.SHA2_384,
    "sha512": HashAlgId.SHA2_512,
    "identity": HashAlgId.IDENTITY,
}
WEAK = "weak"


def parse_rules(text: str) -> tuple[str, ...]:
    """``rsa/pss-sha256-sha384-ecdsa`` -> ("rsa/pss-sha256", "rsa/pss-sha384", "ecdsa"); ``pubkey`` alone -> ().

    ValueError names the word that is none, and the cure for SHA-1 without ``weak``.
    """
    words = text.lower().removeprefix("ike:").split("-")
    rules: list[str] = []
    kind, used = "", True
    for word in words:
        if word in _KINDS:
            if not used:
                rules.append(kind)
            kind, used = word, False
        elif word in _HASHES:
            if not kind:
                raise ValueError(f"'{text}': '{word}' must follow a kind of key, as pubkey-{word}")
            if word == "sha1" and WEAK not in words:
                raise ValueError(
                    f"'{text}' names SHA-1, which is weak; write '{text}-{WEAK}' to use it all the same"
                )
            if word == "identity" and kind not in ("pubkey", "ed25519", "ed448"):
                raise ValueError(f"'{text}': only ed25519 and ed448 sign without a hash")
            rules.append(f"{kind}-{word}")
            used = True
        elif word != WEAK:
            known = ", ".join((*_KINDS, *_HASHES))
            raise ValueError(f"'{word}' in '{text}' is not supported; only {known}")
    if not used and kind != "pubkey":
        rules.append(kind)
    return tuple(dict.fromkeys(rules))


def _matches(rule: str, algorithm: SignatureAlgorithm) -> bool:
    kind, _, hash_name = rule.partition("-")
    if algorithm.scheme not in _KINDS[kind]:
        return False
    if not hash_name:
        return algorithm.hash is not HashAlgId.SHA1
    # Ed25519 and Ed448 hash as they like: a rule about hashes of other keys, as pubkey-sha256, does not speak of them.
    return algorithm.hash is _HASHES[hash_name] or (kind == "pubkey" and algorithm.hash is HashAlgId.IDENTITY)


def permits(rules: Sequence[str], algorithm: SignatureAlgorithm) -> bool:
    """Whether a signature of this kind satisfies the rules; without any, everything but SHA-1 does."""
    if not rules:
        return algorithm.hash is not HashAlgId.SHA1
    return any(_matches(rule, algorithm) for rule in rules)


def choose(rules: Sequence[str], possible: Iterable[SignatureAlgorithm]) -> SignatureAlgorithm | None:
    """The first of the possible algorithms (best first) that the first fitting rule permits."""
    candidates = list(possible)
    for rule in rules or ("pubkey",):
        for algorithm in candidates:
            if _matches(rule, algorithm):
                return algorithm
    return None

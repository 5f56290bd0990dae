"""Post-quantum pre-shared keys: mixed into SK_d, SK_pi and SK_pr for IKE_AUTH and all that follows (RFC 8784)."""

from __future__ import annotations

from collections.abc import Callable

from ipsecstack.crypto import ikekeys
from ipsecstack.keyex import identity
from ipsecstack.keyex.configuration import ConnectionConfig, Identity
from ipsecstack.keyex.ikev2.authenticate import AuthFailure
from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.wire.ikev2 import Auth, Message, Notify, NotifyType, Payload

FIXED = 2
"""PPK_ID_FIXED: the identifier is the octets as they are (§5.1)."""


class Ppk(Extension):
    """Both ends say in IKE_SA_INIT that they can use one."""

    def init_request(self, sa: IkeSa) -> list[Payload]:
        return [Notify(NotifyType.USE_PPK)] if _own_ppk(sa) is not None else []

    def init_requested(self, sa: IkeSa, message: Message) -> list[Payload]:
        asked = message.notify(NotifyType.USE_PPK) is not None
        sa.features.ppk = asked and sa.host.credentials.has_shared("ppk")
        return [Notify(NotifyType.USE_PPK)] if sa.features.ppk else []

    def init_answered(self, sa: IkeSa, message: Message) -> None:
        sa.features.ppk = _own_ppk(sa) is not None and message.notify(NotifyType.USE_PPK) is not None


def _own_ppk(sa: IkeSa) -> bytes | None:
    """As initiator: the configured PPK, if there is such a secret."""
    config = sa.config
    if config is None or config.ppk_id is None or config.ppk_id.is_any:
        return None
    return sa.host.credentials.find_owned("ppk", config.ppk_id.data)


def objection(sa: IkeSa) -> str | None:
    """As initiator, after IKE_SA_INIT: why the PPK that the configuration requires cannot be used."""
    config = sa.config
    if config is None or not config.ppk_required or sa.features.ppk:
        return None
    name = config.ppk_id.text if config.ppk_id is not None else "%any"
    if _own_ppk(sa) is None:
        return f"PPK required but no PPK found for '{name}'"
    return "PPK required but peer does not support PPK"


# --- as initiator -----------------------------------------------------------------------------------------------------


def sign(sa: IkeSa, plain: Auth, make: Callable[[], Auth]) -> list[Payload]:
    """Our AUTH, ``plain`` or made anew with the PPK if the responder can use one: then its identifier goes with it, and
    unless the PPK is required the plain one for a responder that does not know this PPK (§3)."""
    config, initial = sa.config, sa.initial
    assert config is not None
    assert initial is not None
    secret = _own_ppk(sa) if sa.features.ppk else None
    if secret is None or initial.plain_keys is not None:
        return [plain]
    assert sa.prf is not None
    assert sa.keys is not None
    assert config.ppk_id is not None
    fallback: list[Payload] = []
    if not config.ppk_required:
        fallback.append(Notify(NotifyType.NO_PPK_AUTH, plain.data))
    initial.plain_keys = sa.keys
    sa.keys = ikekeys.with_ppk(sa.prf, sa.keys, secret)
    sa.log("CFG", 1, f"using PPK for PPK_ID '{config.ppk_id.text}'")
    identifier = Notify(NotifyType.PPK_IDENTITY, bytes((FIXED,)) + config.ppk_id.data)
    return [make(), identifier, *fallback]


def settle(sa: IkeSa, message: Message) -> None:
    """The response to it, before its AUTH is verified: does the responder use the PPK? AuthFailure if it must."""
    config, initial = sa.config, sa.initial
    assert config is not None
    assert initial is not None
    if initial.plain_keys is None or sa.features.ppk_used:
        return
    if message.notify(NotifyType.PPK_IDENTITY) is not None:
        sa.features.ppk_used = True
        return
    if config.ppk_required:
        raise AuthFailure("AUTHENTICATION_FAILED", "PPK required but peer didn't use PPK")
    sa.log("IKE", 1, "peer didn't use PPK for PPK_ID, it is not used")
    sa.keys, initial.plain_keys = initial.plain_keys, None
    sa.features.ppk = False


# --- as responder -----------------------------------------------------------------------------------------------------


def choose(sa: IkeSa, config: ConnectionConfig, message: Message, auth: Auth) -> Auth:
    """The AUTH of the peer that is to be verified for this connection; the keys are set for it.

    AuthFailure when the PPK, or the lack of one, is not what the connection asks for.
    """
    initial = sa.initial
    assert initial is not None
    if initial.plain_keys is not None:  # tried for another connection before
        sa.keys, initial.plain_keys = initial.plain_keys, None
    sa.features.ppk_used = False
    assert sa.prf is not None
    assert sa.keys is not None
    said = message.notify(NotifyType.PPK_IDENTITY)
    name = said.data[1:] if said is not None and said.data[:1] == bytes((FIXED,)) else b""
    secret = sa.host.credentials.find_owned("ppk", name) if sa.features.ppk and name else None
    if secret is not None and _fits(config, name):
        initial.plain_keys = sa.keys
        sa.keys = ikekeys.with_ppk(sa.prf, sa.keys, secret)
        sa.features.ppk_used = True
        sa.log("CFG", 1, f"using PPK for PPK_ID '{identity.of_user(name).text}'")
        return auth
    if config.ppk_required:
        raise AuthFailure(
            "AUTHENTICATION_FAILED",
            f"PPK required by '{config.name}', but none that fits was used",
        )
    if said is None:
        return auth
    fallback = message.notify(NotifyType.NO_PPK_AUTH)
    if fallback is None:
        raise AuthFailure("AUTHENTICATION_FAILED", "peer requires a PPK that is not known here")
    sa.log("CFG", 1, "no PPK for the peer's PPK_ID, its AUTH without PPK is taken")
    return Auth(auth.method, fallback.data)


def _fits(config: ConnectionConfig, name: bytes) -> bool:
    """The connection's ``ppk_id``, where it has one, allows this one; it may be a pattern."""
    wanted = config.ppk_id
    return wanted is None or wanted.is_any or bool(identity.matches(wanted, Identity(wanted.type, name, "")))


def answer(sa: IkeSa) -> list[Payload]:
    """What says in our response that the PPK is used."""
    return [Notify(NotifyType.PPK_IDENTITY)] if sa.features.ppk_used else []

"""The EAP methods that are implemented, each listed once, best first."""

from __future__ import annotations

from ipsecstack.keyex.eap import gtc, md5, mschapv2, tls
from ipsecstack.keyex.eap.method import Method

METHODS: tuple[Method, ...] = (tls.METHOD, mschapv2.METHOD, md5.METHOD, gtc.METHOD)

BY_TYPE: dict[int, Method] = {method.type: method for method in METHODS}
BY_NAME: dict[str, Method] = {method.name: method for method in METHODS}


def allowed(name: str) -> tuple[Method, ...]:
    """The methods that ``auth = eap-NAME`` permits; all for an empty name."""
    return METHODS if not name else (BY_NAME[name],)

"""What is refused, and how: wrong proposals, secrets, identities and selectors; cookies and a group guessed wrong."""

from __future__ import annotations

from interop.matrix.checks import carries, child_refused, cookie_demanded, refused
from interop.matrix.plan import Ends, Ground, Row

COOKIES = Ground(
    settings=(("cookie_threshold", "1"), ("cookie_threshold_ip", "1")),
    ours=(("cookie_threshold", "1"), ("cookie_threshold_ip", "1")),
)

ROWS = [
    Row("refusals", "no common IKE proposal", Ends(b={"proposals": "aes256-sha512-ecp384"}), refused),
    Row(
        "refusals",
        "another secret",
        Ends(
            parties={
                (0, "local"): {"id": "alien.a.lab"},
                (0, "remote"): {"id": "alien.b.lab"},
                (1, "local"): {"id": "alien.b.lab"},
                (1, "remote"): {"id": "alien.a.lab"},
            }
        ),
        refused,
    ),
    Row(
        "refusals", "an identity that b does not know", Ends(parties={(0, "local"): {"id": "c.lab"}}), refused
    ),
    Row(
        "refusals",
        "another identity of b than asked for",
        Ends(parties={(0, "remote"): {"id": "c.lab"}}),
        refused,
    ),
    Row(
        "refusals",
        "no common ESP proposal: the IKE_SA stays",
        Ends(child_b={"esp_proposals": "aes256-sha512"}),
        child_refused,
        quick=True,
    ),
    Row(
        "refusals",
        "selectors apart: the IKE_SA stays",
        Ends(child_b={"local_ts": "10.2.9.0/24", "remote_ts": "10.1.9.0/24"}),
        child_refused,
    ),
    Row(
        "IKE_SA_INIT",
        "the group is guessed wrong",
        Ends(ike="aes128gcm16-prfsha256-x25519-ecp384", b={"proposals": "aes128gcm16-prfsha256-ecp384"}),
        carries,
        quick=True,
    ),
    Row("IKE_SA_INIT", "b demands a cookie", Ends(), cookie_demanded, COOKIES, quick=True),
    Row(
        "IKE_SA_INIT",
        "b demands a cookie, and the group is guessed wrong",
        Ends(ike="aes128gcm16-prfsha256-x25519-ecp384", b={"proposals": "aes128gcm16-prfsha256-ecp384"}),
        cookie_demanded,
        COOKIES,
    ),
]

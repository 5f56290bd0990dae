"""Who is who: secrets, certificates and signature schemes, EAP, several rounds, PPK."""

from __future__ import annotations

from interop.matrix.checks import carries, post_quantum, refused, signed
from interop.matrix.plan import CERTIFICATES, Ends, Ground, Row

# EAP's client is always a; the server proves itself by a certificate.
EAP = ("eap-mschapv2", "eap-md5", "eap-gtc", "eap-tls")
# (certificate, words of `auth`, what strongSwan's log calls it)
SCHEMES = (
    *(("rsa", f"rsa-sha{n}", f"RSA_EMSA_PKCS1_SHA2_{n}") for n in (256, 384, 512)),
    *(("rsa", f"rsa/pss-sha{n}", f"RSA_EMSA_PSS_SHA2_{n}_SALT_{n // 8}") for n in (256, 384, 512)),
    ("ecdsa", "ecdsa-sha256", "ECDSA_WITH_SHA256_DER"),
    ("ed25519", "pubkey", "ED25519"),
    ("ed448", "pubkey", "ED448"),
)
CLASSIC = Ground(settings=(("signature_authentication", "no"),))
PPK = {"ppk_id": "one.ppk.lab", "ppk_required": "yes"}


def eap(method: str) -> Ends:
    auth = (method, "ecdsa")
    if method == "eap-tls":
        return Ends(
            auth=auth,
            parties={
                (0, "local"): {"id": "a.ecdsa.lab", "certs": "ecdsa-a", "eap_id": None},
                (1, "remote"): {"id": "a.ecdsa.lab", "eap_id": None},
            },
        )
    return Ends(auth=auth, options={"send_cert": "always"})


ROWS = [
    Row("authentication", "shared secret", Ends(), carries, quick=True),
    *(Row("authentication", kind, Ends(auth=(kind, kind)), carries) for kind in CERTIFICATES),
    Row("authentication", "secret one way, ECDSA the other", Ends(auth=("psk", "ecdsa")), carries),
    Row(
        "authentication", "RSA one way, Ed25519 the other", Ends(auth=("rsa", "ed25519")), carries, quick=True
    ),
    *(
        Row(
            "signature scheme",
            words if words != "pubkey" else kind,
            Ends(auth=(f"{kind}/{words}",) * 2),
            signed(strongswan),
        )
        for kind, words, strongswan in SCHEMES
    ),
    Row(
        "signature scheme",
        "RSA as RFC 7296 has it",
        Ends(
            auth=("rsa", "rsa"),
            parties={
                ("us", "local"): {"auth": "rsa-sha1-weak"},
                ("us", "remote"): {"auth": "pubkey-sha1-weak"},
            },
        ),
        signed("RSA signature"),
        CLASSIC,
    ),
    Row(
        "signature scheme",
        "ECDSA as RFC 4754 has it",
        Ends(auth=("ecdsa", "ecdsa")),
        signed("ECDSA-256 signature"),
        CLASSIC,
    ),
    *(Row("EAP", method, eap(method), carries, quick=method == "eap-mschapv2") for method in EAP),
    Row(
        "EAP",
        "a wrong password",
        Ends(
            auth=("eap-mschapv2", "ecdsa"),
            options={"send_cert": "always"},
            parties={(0, "local"): {"eap_id": "bob"}},
        ),
        refused,
    ),
    Row(
        "several rounds",
        "ECDSA, then EAP-MSCHAPv2",
        Ends(
            auth=("ecdsa", "ecdsa"),
            sections={
                0: {"local-2": {"auth": "eap-mschapv2", "id": "alice", "eap_id": "alice", "round": "2"}},
                1: {"remote-2": {"auth": "eap-mschapv2", "id": "alice", "eap_id": "%any", "round": "2"}},
            },
        ),
        carries,
    ),
    Row(
        "several rounds",
        "ECDSA, then RSA",
        Ends(
            auth=("ecdsa", "ecdsa"),
            sections={
                0: {"local-2": {"auth": "pubkey", "id": "a.rsa.lab", "certs": "rsa-a", "round": "2"}},
                1: {"remote-2": {"auth": "pubkey", "id": "a.rsa.lab", "round": "2"}},
            },
        ),
        carries,
    ),
    Row("PPK", "required by both", Ends(options=PPK), post_quantum, quick=True),
    Row("PPK", "with ECDSA", Ends(options=PPK, auth=("ecdsa", "ecdsa")), post_quantum),
    Row("PPK", "offered, unknown to the responder", Ends(a={"ppk_id": "a.ppk.lab"}), carries),
    Row("PPK", "required, unknown to the responder", Ends(a={**PPK, "ppk_id": "a.ppk.lab"}), refused),
    Row("PPK", "required by the responder, none offered", Ends(b=PPK), refused),
]

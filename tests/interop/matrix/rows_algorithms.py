"""Every algorithm that both have, one dimension at a time: the others stay at AES-GCM, SHA-256, Curve25519."""

from __future__ import annotations

from interop.matrix.checks import carries, carries_over_rekey
from interop.matrix.plan import Ends, Row

SIZES = ("128", "192", "256")
LIBIPSEC = "userspace"

# word -> weak
CIPHERS = {
    **{f"aes{n}": False for n in SIZES},
    **{f"aes{n}ctr": False for n in SIZES},
    **{f"camellia{n}": False for n in SIZES},
    **{f"camellia{n}ctr": False for n in SIZES},
    "3des": True,
    "des": True,
    "cast128": True,
    "blowfish128": True,
    "blowfish256": True,
}
AEADS = {
    **{f"aes{n}gcm{icv}": False for n in SIZES for icv in ("8", "12", "16")},
    **{f"aes{n}ccm{icv}": False for n in SIZES for icv in ("8", "12", "16")},
    **{f"camellia{n}ccm{icv}": False for n in SIZES for icv in ("8", "12", "16")},
    "chacha20poly1305": False,
}
INTEGS = {
    "sha256": False,
    "sha384": False,
    "sha512": False,
    "sha1": False,
    "md5": True,
    "aesxcbc": False,
    "aescmac": False,
}
IKE_INTEGS = {**INTEGS, "sha1_160": False, "md5_128": True}
PRFS = {
    "prfsha256": False,
    "prfsha384": False,
    "prfsha512": False,
    "prfsha1": False,
    "prfmd5": True,
    "prfaesxcbc": False,
    "prfaescmac": False,
}
GROUPS = {
    **{f"modp{n}": False for n in (2048, 3072, 4096, 6144, 8192)},
    **{f"modp{n}": True for n in (768, 1024, 1536, "1024s160", "2048s224", "2048s256")},
    **{f"ecp{n}": False for n in (256, 384, 521)},
    "ecp192": True,
    "ecp224": False,
    **{f"ecp{n}bp": False for n in (224, 256, 384, 512)},
    "x25519": False,
    "x448": False,
}
NO_KERNEL_CTR = {"kernel": "the kernel's IPsec has no Camellia in counter mode"}
NO_CAMELLIA_CCM = {"kernel": "the kernel's IPsec has no Camellia-CCM"}


def _quick(word: str) -> bool:
    return word in ("aes256ctr", "aes192ccm12", "aesxcbc", "prfaescmac", "ecp256bp", "camellia256", "x448")


ROWS = [
    *(
        Row(
            "IKE cipher",
            word,
            Ends(ike=f"{word}-sha256-x25519", weak="ike" if weak else ""),
            carries,
            quick=_quick(word),
        )
        for word, weak in CIPHERS.items()
    ),
    *(
        Row(
            "IKE cipher",
            word,
            Ends(ike=f"{word}-prfsha256-x25519", weak="ike" if weak else ""),
            carries,
            quick=_quick(word),
        )
        for word, weak in AEADS.items()
    ),
    *(
        Row(
            "IKE integrity",
            word,
            Ends(ike=f"aes128-{word}-prfsha256-x25519", weak="ike" if weak else ""),
            carries,
            quick=_quick(word),
        )
        for word, weak in IKE_INTEGS.items()
    ),
    *(
        Row(
            "PRF",
            word,
            Ends(ike=f"aes128gcm16-{word}-x25519", weak="ike" if weak else ""),
            carries,
            quick=_quick(word),
        )
        for word, weak in PRFS.items()
    ),
    *(
        Row(
            "group",
            word,
            Ends(
                ike=f"aes128gcm16-prfsha256-{word}", esp=f"aes128gcm16-{word}", weak="ike esp" if weak else ""
            ),
            carries_over_rekey,
            quick=_quick(word),
        )
        for word, weak in GROUPS.items()
    ),
    *(
        Row(
            "ESP cipher",
            word,
            Ends(esp=f"{word}-sha256", weak="esp" if weak else ""),
            carries,
            lacks=NO_KERNEL_CTR if "camellia" in word and "ctr" in word else {},
            quick=_quick(word),
        )
        for word, weak in CIPHERS.items()
    ),
    Row("ESP cipher", "null", Ends(esp="null-sha256"), carries),
    *(
        Row(
            "ESP cipher",
            word,
            Ends(esp=word, weak="esp" if weak else ""),
            carries,
            lacks=NO_CAMELLIA_CCM if "camellia" in word else {},
            quick=_quick(word),
        )
        for word, weak in AEADS.items()
    ),
    *(
        Row(
            "ESP cipher",
            f"aes{n}gmac",
            Ends(esp=f"aes{n}gmac"),
            carries,
            lacks={LIBIPSEC: "kernel-libipsec has no GMAC"},
        )
        for n in SIZES
    ),
    *(
        Row(
            "ESP integrity",
            word,
            Ends(esp=f"aes128-{word}", weak="esp" if weak else ""),
            carries,
            quick=_quick(word),
        )
        for word, weak in INTEGS.items()
    ),
    Row(
        "ESP integrity",
        "sha256_96 (RFC 4868's draft)",
        Ends(child={"sha256_96": "yes"}, esp="aes128-sha256"),
        carries,
        lacks={LIBIPSEC: "kernel-libipsec takes no notice of sha256_96"},
    ),
    *(
        Row(
            "ESN",
            name,
            Ends(esp=f"{esp}-esn", child={"replay_window": "64"}),
            carries,
            lacks={LIBIPSEC: "kernel-libipsec has no extended sequence numbers"},
        )
        for name, esp in (
            ("aes-gcm", "aes256gcm16"),
            ("aes-cbc", "aes256-sha256"),
            ("chacha", "chacha20poly1305"),
        )
    ),
    Row(
        "ESN",
        "both offered",
        Ends(esp="aes128gcm16-esn-noesn"),
        carries,
        lacks={LIBIPSEC: "kernel-libipsec has no extended sequence numbers"},
    ),
]

"""Registries of transforms: lengths, errors, and what a peer's bad public values meet."""

from __future__ import annotations

import hashlib
import importlib.util
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecstack.crypto import brainpool224, encr, ikekeys, integ, ke, ml_kem, modp, prf
from ipsecstack.crypto.errors import IntegrityError, KeError, UnknownAlgorithm
from ipsecstack.wire.transforms import AEAD_ENCR, KEY_LENGTH_REQUIRED, EncrId, IntegId, KeId, PrfId


def counting_random(start: int = 1):
    """Deterministic octets, different with every call."""
    state = [start]

    def random(count: int) -> bytes:
        state[0] += 1
        return (state[0].to_bytes(4, "big") * (count // 4 + 1))[:count]

    return random


@pytest.mark.parametrize("algorithm", list(encr.registered()), ids=lambda a: f"{a.name}-{a.key_bits}")
def test_encr_describes_itself(algorithm: encr.Encr) -> None:
    assert encr.get(algorithm.id, algorithm.key_bits) is algorithm
    assert algorithm.aead == (algorithm.id in AEAD_ENCR) == (algorithm.icv_octets > 0)
    assert algorithm.key_octets * 8 == algorithm.key_bits
    # Without the Key Length attribute, a proposal could not tell several key lengths apart.
    lengths = [other for other in encr.registered() if other.id is algorithm.id]
    assert algorithm.id in KEY_LENGTH_REQUIRED or len(lengths) == 1
    with pytest.raises(ValueError, match="octets of key"):
        algorithm.new(bytes(algorithm.keymat_octets + 1))
    key = bytes(range(0x21, 0x21 + algorithm.keymat_octets))
    cipher = algorithm.new(key)
    assert "Cipher" in repr(cipher)
    # A key would show as text or in hexadecimal digits; single digits tell nothing, the object's address has them, too.
    assert not key or (key.hex() not in repr(cipher) and repr(key)[2:-1] not in repr(cipher))


@pytest.mark.parametrize("algorithm", list(encr.registered()), ids=lambda a: f"{a.name}-{a.key_bits}")
@pytest.mark.parametrize("blocks", [0, 1, 2, 90])
def test_encr_round_trip(algorithm: encr.Encr, blocks: int) -> None:
    key = bytes(range(algorithm.keymat_octets))
    iv, aad = bytes(range(algorithm.iv_octets)), b"spi and number" if algorithm.aead else b""
    plaintext = bytes(range(256)) * 6
    plaintext = plaintext[: blocks * 16]
    assert len(plaintext) % algorithm.block_octets == 0
    cipher = algorithm.new(key)
    sealed = cipher.seal(iv, aad, plaintext)
    assert len(sealed) == len(plaintext) + algorithm.icv_octets
    assert cipher.open(iv, aad, memoryview(sealed)) == plaintext
    out = bytearray(len(sealed))
    assert cipher.seal_into(memoryview(iv), aad, memoryview(plaintext), out) == len(sealed)
    assert out == sealed
    back = bytearray(len(plaintext))
    assert cipher.open_into(iv, aad, sealed, memoryview(back)) == len(plaintext)
    assert back == plaintext
    if blocks and algorithm.id not in (EncrId.NULL, EncrId.NULL_AUTH_AES_GMAC):
        assert sealed[: len(plaintext)] != plaintext
        assert algorithm.new(key[1:] + b"\xff").seal(iv, aad, plaintext) != sealed
        other = bytes((iv[0] ^ 1,)) + iv[1:]
        assert cipher.seal(other, aad, plaintext) != sealed
    if algorithm.aead:
        for at in range(0, len(sealed), 7):
            altered = bytearray(sealed)
            altered[at] ^= 0x40
            with pytest.raises(IntegrityError):
                cipher.open(iv, aad, altered)


@pytest.mark.parametrize("algorithm", list(integ.registered()), ids=lambda a: a.name)
def test_integ_signs_and_verifies(algorithm: integ.Integ) -> None:
    assert integ.get(algorithm.id) is algorithm
    mac = algorithm.new(bytes(range(algorithm.key_octets)))
    if algorithm.iv_octets:
        assert isinstance(mac, integ.GmacMac)
        icv = mac.sign_iv(bytes(8), b"one", memoryview(b"two"))
        with pytest.raises(ValueError, match="never used"):
            mac.sign(b"one")
        with pytest.raises(ValueError, match="8 octets"):
            mac.sign_iv(bytes(7), b"one")
    else:
        icv = mac.sign(b"one", memoryview(b"two"))
    assert len(icv) == algorithm.icv_octets
    assert mac.verify(memoryview(icv), b"onetwo")
    if algorithm.id is not IntegId.NONE:
        for at in range(len(icv)):
            altered = bytearray(icv)
            altered[at] ^= 1
            assert not mac.verify(altered, b"onetwo")
        assert not mac.verify(icv, b"onetwo!")
        assert not algorithm.new(bytes(algorithm.key_octets)).verify(icv, b"onetwo")
        assert not mac.verify(icv[:-1], b"onetwo")
        assert "Mac" in repr(mac) or "Md5" in repr(mac)
    with pytest.raises(ValueError, match="takes a key of"):
        algorithm.new(bytes(algorithm.key_octets + 1))


@pytest.mark.parametrize("function", list(prf.registered()), ids=lambda f: f.name)
def test_prf_gives_its_length(function: prf.Prf) -> None:
    assert prf.get(function.id) is function
    outputs = {function.compute(bytes(n), b"seed") for n in range(1, 5)}
    assert {len(output) for output in outputs} == {function.output_octets}
    assert (
        function.compute(b"key", b"a", b"b")
        == function.compute(b"key", b"ab")
        != function.compute(b"key", b"ba")
    )


def test_encr_lengths_of_the_documents() -> None:
    """RFC 4106 sections 3.1, 8.1; RFC 7634 section 2; RFC 3602 section 2.4: key, salt, IV, ICV, block."""

    def lengths(a: encr.Encr) -> tuple[int, ...]:
        return (a.key_octets, a.salt_octets, a.iv_octets, a.icv_octets, a.block_octets)

    assert lengths(encr.get(EncrId.AES_GCM_16, 256)) == (32, 4, 8, 16, 1)
    assert lengths(encr.get(EncrId.CHACHA20_POLY1305)) == (32, 4, 8, 16, 1)
    assert lengths(encr.get(EncrId.AES_CBC, 192)) == (24, 0, 16, 0, 16)
    assert not encr.get(EncrId.AES_CBC, 128).iv_counter
    assert encr.get(EncrId.AES_GCM_16, 128).iv_counter
    # RFC 3686 section 2.1, RFC 4106 section 6, RFC 4309 section 4, RFC 4543 section 3, RFC 5529 section 3, RFC 2451
    assert lengths(encr.get(EncrId.AES_CTR, 192)) == (24, 4, 8, 0, 1)
    assert lengths(encr.get(EncrId.AES_GCM_8, 128)) == (16, 4, 8, 8, 1)
    assert lengths(encr.get(EncrId.AES_GCM_12, 128)) == (16, 4, 8, 12, 1)
    assert lengths(encr.get(EncrId.AES_CCM_12, 256)) == (32, 3, 8, 12, 1)
    assert lengths(encr.get(EncrId.NULL_AUTH_AES_GMAC, 256)) == (32, 4, 8, 16, 1)
    assert lengths(encr.get(EncrId.CAMELLIA_CCM_8, 128)) == (16, 3, 8, 8, 1)
    assert lengths(encr.get(EncrId.CAMELLIA_CTR, 128)) == (16, 4, 8, 0, 1)
    assert lengths(encr.get(EncrId.CAMELLIA_CBC, 192)) == (24, 0, 16, 0, 16)
    for old, octets in ((EncrId.TRIPLE_DES_CBC, 24), (EncrId.DES_CBC, 8), (EncrId.IDEA_CBC, 16)):
        assert lengths(encr.get(old)) == (octets, 0, 8, 0, 8)
    assert lengths(encr.get(EncrId.DES_IV32)) == (8, 0, 4, 0, 8)
    assert encr.get(EncrId.AES_CTR, 128).iv_counter


@pytest.mark.parametrize(
    "encr_id,bits,text",
    [
        (EncrId.AES_GCM_16, None, "AES_GCM_16 needs a key length"),
        (EncrId.AES_CBC, 160, "AES_CBC has no key length of 160"),
        (EncrId.RC5_CBC, None, "RC5_CBC is not implemented"),
        (999, 128, "number 999 is not implemented"),
        (EncrId.CHACHA20_POLY1305, 128, "no key length of 128"),
    ],
)
def test_unknown_encr(encr_id: int, bits: int | None, text: str) -> None:
    with pytest.raises(UnknownAlgorithm) as caught:
        encr.get(encr_id, bits)
    assert text in str(caught.value)
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize("get", [integ.get, prf.get, ke.get])
def test_unknown_in_the_other_registries(get) -> None:
    for number in (3, 9999):  # 3 is assigned (or was) in each registry and implemented in none
        with pytest.raises(UnknownAlgorithm, match="not implemented"):
            get(number)


def test_weak_ones_are_marked() -> None:
    """RFC 8221 sections 5 and 6, RFC 8247 sections 2.1 to 2.4: what must not or should not be used."""
    assert {a.name for a in encr.registered() if a.weak} == {
        "DES_CBC", "DES_IV32", "DES_IV64", "3DES_CBC", "CAST_CBC", "BLOWFISH_CBC", "IDEA_CBC",
    }  # fmt: skip
    assert {a.name for a in integ.registered() if a.weak} == {"HMAC_MD5_96", "HMAC_MD5_128", "KPDK_MD5"}
    assert {a.name for a in prf.registered() if a.weak} == {"PRF_HMAC_MD5"}
    assert {a.name for a in ke.registered() if a.weak} == {
        "MODP_768", "MODP_1024", "MODP_1536", "MODP_1024_160", "MODP_2048_224", "MODP_2048_256", "ECP_192",
    }  # fmt: skip
    assert {a.name for a in encr.registered() if a.esp_only} == {
        "NULL", "NULL_AES_GMAC", "DES_IV32", "DES_IV64",
    }  # fmt: skip


def test_sha2_256_of_old_kernels() -> None:
    """12 octets instead of 16 where the SA asks for it; nothing else changes."""
    whole, short = integ.get(IntegId.HMAC_SHA2_256_128), integ.for_sa(12, sha256_96=True)
    assert (short.icv_octets, short.key_octets, short.id) == (12, 32, IntegId.HMAC_SHA2_256_128)
    assert short.new(bytes(32)).sign(b"x") == whole.new(bytes(32)).sign(b"x")[:12]
    assert integ.for_sa(12) is whole
    assert integ.for_sa(IntegId.HMAC_SHA1_96, sha256_96=True) is integ.get(IntegId.HMAC_SHA1_96)


def test_keyed_md5_by_its_definition() -> None:
    """RFC 1828 section 2: the key filled to 512 bits as MD5 does, the data, the key once more."""
    key, data = bytes(range(16)), b"an IP datagram with its mutable fields zero"
    filled = key + b"\x80" + bytes(39) + (128).to_bytes(8, "little")
    assert len(filled) == 64
    mac = integ.get(IntegId.KPDK_MD5).new(key)
    assert mac.sign(data[:9], data[9:]) == hashlib.md5(filled + data + key).digest()


def test_prfs_with_aes_key_skeyseed_by_halves() -> None:
    """RFC 7296 section 2.14: 8 octets of each nonce for the two AES PRFs, all of them for the others."""
    ni, nr = bytes(range(32)), bytes(range(100, 132))
    for prf_id in (PrfId.AES128_XCBC, PrfId.AES128_CMAC):
        function = prf.get(prf_id)
        seed = ikekeys.skeyseed(function, ni, nr, b"secret")
        assert seed == function.compute(ni[:8] + nr[:8], b"secret")
        assert seed != function.compute(ni + nr, b"secret")


def test_integrity_none() -> None:
    mac = integ.get(IntegId.NONE).new(b"")
    assert mac.sign(b"data") == b""
    assert mac.verify(b"", b"data")
    assert not mac.verify(b"x", b"data")


@settings(max_examples=50)
@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 8)), min_size=1, max_size=12))
def test_cbc_in_a_running_context_takes_every_iv(packets: list[tuple[bytes, int]]) -> None:
    """The running context must give what a fresh one gives, in whatever order packets come."""
    algorithm = encr.get(EncrId.AES_CBC, 256)
    running = algorithm.new(bytes(range(32)))
    for iv, blocks in packets:
        plaintext = bytes(16 * blocks)
        sealed = running.seal(iv, b"", plaintext)
        assert sealed == algorithm.new(bytes(range(32))).seal(iv, b"", plaintext)
        assert running.open(iv, b"", sealed) == plaintext


def test_cbc_refuses_broken_blocks_and_keeps_working() -> None:
    cipher = encr.get(EncrId.AES_CBC, 128).new(bytes(16))
    sealed = cipher.seal(bytes(16), b"", bytes(32))
    with pytest.raises(IntegrityError):
        cipher.open(bytes(16), b"", sealed[:-1])
    with pytest.raises(IntegrityError):
        cipher.open(bytes(15), b"", sealed)
    with pytest.raises(ValueError, match="whole blocks"):
        cipher.seal(bytes(16), b"", bytes(17))
    with pytest.raises(ValueError, match="no aad"):
        cipher.seal(bytes(16), b"x", bytes(16))
    with pytest.raises(ValueError, match="out has"):
        cipher.seal_into(bytes(16), b"", bytes(16), bytearray(15))
    assert cipher.open(bytes(16), b"", sealed) == bytes(32)


def test_aead_in_place() -> None:
    cipher = encr.get(EncrId.AES_GCM_16, 128).new(bytes(20))
    buffer = bytearray(b"text" * 10 + bytes(16))
    view = memoryview(buffer)
    assert cipher.seal_into(bytes(8), b"aad", view[:40], view) == 56
    assert cipher.open_into(bytes(8), b"aad", view, view[:40]) == 40
    assert buffer[:40] == b"text" * 10
    with pytest.raises(IntegrityError, match="shorter"):
        cipher.open(bytes(8), b"", bytes(15))
    with pytest.raises(IntegrityError, match="shorter"):
        cipher.open_into(bytes(8), b"", bytes(15), bytearray(0))


@pytest.mark.parametrize("group", list(ke.registered()), ids=lambda g: g.name)
def test_key_exchange_agrees(group: ke.Ke) -> None:
    one = group.generate(counting_random(1))
    public, shared = group.respond(one.public, counting_random(100))
    assert one.shared(public) == shared
    assert len(shared) == group.shared_octets
    assert len(one.public) == group.public_octets
    assert len(public) == group.response_octets
    assert one.public != public
    for wrong in (b"", one.public[:-1], one.public + b"\0"):
        with pytest.raises(KeError, match="octets"):
            one.shared(wrong)
    assert shared.hex() not in repr(one)


MODP_GROUPS = [
    *((KeId[f"MODP_{bits}"], modp.group(bits)) for bits in (768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)),
    (KeId.MODP_1024_160, modp.MODP_1024_160),
    (KeId.MODP_2048_224, modp.MODP_2048_224),
    (KeId.MODP_2048_256, modp.MODP_2048_256),
]
SUBGROUPS = MODP_GROUPS[-3:]


@pytest.mark.parametrize("ke_id,of", MODP_GROUPS, ids=lambda value: getattr(value, "name", ""))
def test_degenerate_modp_values(ke_id: KeId, of: modp.Group) -> None:
    group = ke.get(ke_id)
    own = group.generate(counting_random())
    prime = of.prime
    for value in (0, 1, prime - 1, prime, prime + 1, (1 << 8 * group.public_octets) - 1):
        with pytest.raises(KeError, match="0, 1, p-1"):
            own.shared(value.to_bytes(group.public_octets, "big"))


@pytest.mark.parametrize("ke_id,of", SUBGROUPS, ids=lambda value: getattr(value, "name", ""))
def test_modp_values_outside_the_subgroup(ke_id: KeId, of: modp.Group) -> None:
    """RFC 6989 section 2.2. 2 or 3 generates the whole group, or most of it."""
    own = ke.get(ke_id).generate(counting_random())
    assert pow(of.generator, of.order, of.prime) == 1
    outside = next(value for value in range(2, 50) if pow(value, of.order, of.prime) != 1)
    with pytest.raises(KeError, match="not in the subgroup"):
        own.shared(outside.to_bytes(of.octets, "big"))
    inside = pow(of.generator, 12345, of.prime)
    assert len(own.shared(inside.to_bytes(of.octets, "big"))) == of.octets


@pytest.mark.parametrize(
    "of", [group for _, group in MODP_GROUPS[:5]] + [modp.MODP_1024_160], ids=lambda g: g.bits
)
def test_both_ways_to_raise_to_a_power_agree(of: modp.Group) -> None:
    exponent = of.order - 3 if of.order else (1 << 255) + 977
    base = pow(of.generator, 77, of.prime)
    assert modp.power(base, exponent, of) == modp.power_in_python(base, exponent, of)


@pytest.mark.parametrize(
    "name",
    ["ECP_192", "ECP_224", "ECP_256", "ECP_384", "ECP_521",
     "ECP_224_BP", "ECP_256_BP", "ECP_384_BP", "ECP_512_BP"],
)  # fmt: skip
def test_points_off_the_curve(name: str) -> None:
    group = ke.get(KeId[name])
    own = group.generate(counting_random())
    half = group.public_octets // 2
    off = own.public[:-1] + bytes((own.public[-1] ^ 1,))
    for value in (bytes(2 * half), off, b"\xff" * (2 * half), bytes(2 * half - 1) + b"\1"):
        with pytest.raises(KeError, match="not a point"):
            own.shared(value)


@pytest.mark.parametrize("value", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18])
def test_small_order_x25519(value: int) -> None:
    own = ke.get(KeId.CURVE_25519).generate(counting_random())
    with pytest.raises(KeError, match="all-zero"):
        own.shared(value.to_bytes(32, "little"))


@pytest.mark.parametrize("value", [0, 1, 2**448 - 2**224 - 2, 2**448 - 2**224 - 1, 2**448 - 2**224])
def test_small_order_x448(value: int) -> None:
    own = ke.get(KeId.CURVE_448).generate(counting_random())
    with pytest.raises(KeError, match="all-zero"):
        own.shared(value.to_bytes(56, "little"))


def test_orders_of_the_curves() -> None:
    """With order - 1 as the scalar comes the base point's mirror image: the order is right."""
    for name, order in ke._CURVE_ORDER.items():
        curve = next(c for c in (getattr(ec, n) for n in dir(ec)) if getattr(c, "name", "") == name)()
        last = ec.derive_private_key(order - 1, curve).public_key().public_numbers()
        first = ec.derive_private_key(1, curve).public_key().public_numbers()
        assert last.x == first.x
        assert last.y != first.y
    assert brainpool224.multiply(brainpool224.ORDER - 1, brainpool224.BASE)[0] == brainpool224.BASE[0]


def test_brainpool224_adds_up() -> None:
    """(a + b) G seen from both sides: the ladder agrees with itself over the group's order."""
    for a in (1, 2, 3, 0xFFFF, brainpool224.ORDER // 3, brainpool224.ORDER - 2):
        point = brainpool224.multiply(a, brainpool224.BASE)
        assert brainpool224.on_curve(point)
        b = 0x123456789ABCDEF
        assert brainpool224.multiply(b, point) == brainpool224.multiply(
            a * b % brainpool224.ORDER, brainpool224.BASE
        )


ML_KEMS = [ml_kem.ML_KEM_512, ml_kem.ML_KEM_768, ml_kem.ML_KEM_1024]


@pytest.mark.parametrize("own", ML_KEMS, ids=lambda p: p.name)
def test_ml_kem_refuses_and_rejects(own: ml_kem.Parameters) -> None:
    group = ke.get(KeId[own.name])
    one = group.generate(counting_random())
    ciphertext, shared = group.respond(one.public, counting_random(7))
    altered = bytes((ciphertext[0] ^ 1,)) + ciphertext[1:]
    # Implicit rejection: a secret, the same each time, that the other side does not have (FIPS 203 section 6.3).
    assert one.shared(altered) == one.shared(altered) != shared
    too_large = b"\xff\x0f" + one.public[2:]  # the first coefficient is 4095
    with pytest.raises(KeError, match="beyond the modulus"):
        group.respond(too_large, counting_random())
    with pytest.raises(KeError, match="octets"):
        group.respond(one.public[:-1], counting_random())


@pytest.mark.parametrize("own", ML_KEMS[1:], ids=lambda p: p.name)
def test_ml_kem_of_its_own_agrees_with_openssl(own: ml_kem.Parameters) -> None:
    """The module that does ML-KEM-512 alone, held against OpenSSL where that has the parameter set."""
    group = ke.get(KeId[own.name])
    seed = counting_random(3)(64)
    theirs, ours = group.generate(lambda count: seed[:count]), ml_kem.PrivateKey(seed, own)
    assert ours.public == theirs.public
    ciphertext, shared = ml_kem.encapsulate(ours.public, counting_random(9)(32), own)
    assert theirs.shared(ciphertext) == shared == ours.decapsulate(ciphertext)
    ciphertext, shared = group.respond(ours.public, counting_random())
    assert ours.decapsulate(ciphertext) == shared
    altered = ciphertext[:-1] + bytes((ciphertext[-1] ^ 1,))
    assert ours.decapsulate(altered) == theirs.shared(altered) != shared


def test_prf_plus_ends_after_255_blocks() -> None:
    function = prf.get(PrfId.HMAC_SHA2_256)
    longest = prf.prf_plus(function, b"key", b"seed", 255 * 32)
    assert len(longest) == 255 * 32
    assert longest[:32] == function.compute(b"key", b"seed\x01")
    assert longest[32:64] == function.compute(b"key", longest[:32], b"seed\x02")
    with pytest.raises(ValueError, match="at most"):
        prf.prf_plus(function, b"key", b"seed", 255 * 32 + 1)


def test_keys_of_aead_have_salts_and_no_integrity() -> None:
    function, gcm = prf.get(PrfId.HMAC_SHA2_256), encr.get(EncrId.AES_GCM_16, 256)
    sha = integ.get(IntegId.HMAC_SHA2_256_128)
    keys = ikekeys.ike_keys(function, gcm, sha, b"seed", b"n" * 32, b"m" * 32, b"i" * 8, b"r" * 8)
    assert (keys.sk_ai, keys.sk_ar) == (b"", b"")
    assert (len(keys.sk_ei), len(keys.sk_er)) == (36, 36)
    child = ikekeys.child_keys(function, keys.sk_d, gcm, sha, b"n" * 32, b"m" * 32)
    assert (len(child.encr_i), child.integ_i, len(child.encr_r), child.integ_r) == (36, b"", 36, b"")
    for value in (keys, child):
        assert "<36 octets>" in repr(value)
        for name in value.__dataclass_fields__:
            secret = getattr(value, name)
            assert not secret or (repr(secret) not in repr(value) and secret.hex() not in repr(value))


def test_a_system_without_old_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registries are built without them, and everything else is there."""
    original = hashlib.new

    def new(name: str, *arguments: object, **options: object) -> object:
        if name in ("md5", "ripemd160"):
            raise ValueError("disabled for FIPS")
        return original(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "new", new)
    for name, registry in (("prf", prf), ("integ", integ)):
        spec = importlib.util.spec_from_file_location(f"{name}_without", registry.__file__)
        assert spec is not None
        assert spec.loader is not None
        fresh = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, fresh)
        spec.loader.exec_module(fresh)
        gone = {a.name for a in registry.registered()} - {a.name for a in fresh.registered()}
        assert (
            gone
            == {
                "prf": {"PRF_HMAC_MD5"},
                "integ": {"HMAC_MD5_96", "HMAC_MD5_128", "KPDK_MD5", "HMAC_RIPEMD_160_96"},
            }[name]
        )

"""Address pools: who gets which address, and what a section of the configuration means."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from ipsecstack.config.loader import tree_from_text
from ipsecstack.config.pools import read_pool
from ipsecstack.config.tree import ConfigError
from ipsecstack.keyex.configuration import PoolConfig
from ipsecstack.keyex.pools import Pool, PoolError, Pools


def config(first: str = "10.77.0.1", last: str = "10.77.0.3", name: str = "p") -> PoolConfig:
    return PoolConfig(name, ip_address(first), ip_address(last), first)


def read(text: str) -> PoolConfig:
    section = tree_from_text(f"pools {{ p {{ {text} }} }}").sections["pools"].sections["p"]
    return read_pool(section, lambda _: None)


def address(pool: Pool, who: str, wanted: str | None = None) -> str | None:
    lease = pool.acquire(who, ip_address(wanted) if wanted else None)
    return str(lease.address) if lease is not None else None


def test_one_address_for_each_identity_and_the_same_one_again() -> None:
    pool = Pool(config())
    assert address(pool, "alice") == "10.77.0.1"
    assert address(pool, "bob") == "10.77.0.2"
    pool.release(ip_address("10.77.0.1"))
    assert (pool.online, pool.offline, pool.size) == (1, 1, 3)
    assert address(pool, "carol") == "10.77.0.3"  # alice's stays hers while there is another
    assert address(pool, "alice") == "10.77.0.1"
    assert address(pool, "dave") is None


def test_the_longest_unused_goes_to_somebody_else() -> None:
    pool = Pool(config())
    for who in ("alice", "bob", "carol"):
        address(pool, who)
    for last in ("10.77.0.2", "10.77.0.1"):
        pool.release(ip_address(last))
    assert address(pool, "dave") == "10.77.0.2"
    assert address(pool, "bob") == "10.77.0.1"
    assert address(pool, "alice") is None


def test_what_is_wanted() -> None:
    pool = Pool(config())
    assert address(pool, "alice", "10.77.0.3") == "10.77.0.3"
    assert address(pool, "bob", "10.77.0.3") == "10.77.0.1"  # alice's
    assert address(pool, "bob", "192.0.2.1") == "10.77.0.2"  # not in the pool


def test_a_second_ike_sa_of_the_same_peer_shares_what_it_asks_for() -> None:
    """Reauthentication: the address is used twice until the old IKE SA is gone."""
    pool = Pool(config())
    address(pool, "alice")
    assert address(pool, "alice", "10.77.0.1") == "10.77.0.1"
    pool.release(ip_address("10.77.0.1"))
    assert (pool.online, pool.offline) == (1, 0)
    pool.release(ip_address("10.77.0.1"))
    pool.release(ip_address("10.77.0.1"))
    assert (pool.online, pool.offline) == (0, 1)


def test_enormous_pools_cost_what_is_leased() -> None:
    pool = Pool(config("fd77::1", "fd77::ffff:ffff:ffff"))
    assert [address(pool, f"user {n}") for n in range(3)] == ["fd77::1", "fd77::2", "fd77::3"]
    assert pool.size > 2**47


def test_random_use_never_gives_an_address_to_two() -> None:
    rng = random.Random(5)
    pool = Pool(config(last="10.77.0.9"))
    held: list[tuple[str, str]] = []
    for _ in range(5000):
        if held and rng.random() < 0.5:
            _, gone = held.pop(rng.randrange(len(held)))
            pool.release(ip_address(gone))
        else:
            who = f"user {rng.randrange(15)}"
            wanted = f"10.77.0.{rng.randrange(12)}" if rng.random() < 0.3 else None
            got = address(pool, who, wanted)
            if got is not None:
                held.append((who, got))
        owners: dict[str, set[str]] = {}
        for who, got in held:
            owners.setdefault(got, set()).add(who)
        assert all(len(names) == 1 for names in owners.values())
        assert pool.online == len(owners)
        assert pool.online + pool.offline == len(pool.leases()) <= pool.size


def test_several_pools_by_version() -> None:
    pools = Pools()
    pools.load(config(name="four"))
    pools.load(config("fd77::1", "fd77::2", name="six"))
    six = pools.acquire(("four", "six", "none"), 6, "alice", None)
    assert six is not None
    assert (six.pool, str(six.address)) == ("six", "fd77::1")
    assert pools.acquire(("four",), 6, "alice", None) is None
    with pytest.raises(PoolError, match="in use"):
        pools.unload("six")
    with pytest.raises(PoolError, match="in use"):
        pools.load(config("fd78::1", "fd78::2", name="six"))
    pools.release([six])
    pools.unload("six")
    with pytest.raises(PoolError, match="no pool"):
        pools.unload("six")


@pytest.mark.parametrize(
    ("text", "first", "last", "base"),
    [
        ("10.77.0.0/24", "10.77.0.1", "10.77.0.254", "10.77.0.0"),
        ("10.77.0.0/31", "10.77.0.0", "10.77.0.1", "10.77.0.0"),
        ("10.77.0.9", "10.77.0.9", "10.77.0.9", "10.77.0.9"),
        ("10.77.0.5-10.77.0.9", "10.77.0.5", "10.77.0.9", "10.77.0.5"),
        ("fd77::/120", "fd77::1", "fd77::fe", "fd77::"),
    ],
)
def test_addresses_of_a_section(text: str, first: str, last: str, base: str) -> None:
    pool = read(f"addrs = {text}")
    assert (str(pool.first), str(pool.last), pool.text) == (first, last, base)


def test_attributes_of_a_section() -> None:
    pool = read(
        "addrs = 10.77.0.0/24\n dns = 10.77.0.53, fd77::53\n nbns = 10.77.0.54\n"
        "subnet = 10.1.0.0/16, fd01::/64\n split_include = 10.2.0.0/16\n 99 = 0x0102\n netmask = 255.255.255.0"
    )
    assert pool.attributes == (
        (3, bytes((10, 77, 0, 53))),
        (10, ip_address("fd77::53").packed),
        (4, bytes((10, 77, 0, 54))),
        (13, bytes((10, 1, 0, 0, 255, 255, 0, 0))),
        (15, ip_address("fd01::").packed + b"\x40"),
        (28676, bytes((10, 2, 0, 0, 255, 255, 0, 0)) + bytes(6)),
        (99, b"\x01\x02"),
        (2, bytes((255, 255, 255, 0))),
    )


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("dns = 10.0.0.1", "addrs"),
        ("addrs = nonsense", "addrs"),
        ("addrs = 10.0.0.9-10.0.0.1", "range"),
        ("addrs = 10.0.0.1-fd00::1", "range"),
        ("addrs = 10.0.0.0/24, 10.1.0.0/24", "one network"),
        ("addrs = 10.0.0.0/24\n dns = x", "dns"),
        ("addrs = 10.0.0.0/24\n dnss = 10.0.0.1", "did you mean 'dns'"),
        ("addrs = 10.0.0.0/24\n split_include = fd00::/8", "IPv4 only"),
    ],
)
def test_sections_that_are_refused(text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        read(text)

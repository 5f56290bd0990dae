"""One pair of running daemons on its ground, on which rows are tried one after the other.

Connections are loaded and unloaded over VICI for each row, so that a daemon only ever knows the row's own. What a row
leaves behind is an error of that row, and the worker then takes a fresh lane.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import vici
from interop.matrix.plan import (
    CERTIFICATES,
    CHILD,
    CONN,
    Ends,
    Ground,
    Peer,
    Role,
    Row,
    identity,
    listed,
    render,
)
from interop.matrix.probe import Counted, counted
from lab.gateway import ChildSa, Gateway
from lab.netns import Namespace, folder, link, namespaces
from lab.pki import issue_all
from lab.process import wait_until
from lab.router import (
    INSIDE4,
    INSIDE6,
    OUTSIDE4,
    Delay,
    Routers,
    drop_fragments,
    masquerade,
    route,
)
from lab.topology import WAN4, WAN6, first_host, make_gateway

LANS = 4
LATENCY = {
    "userspace": 0.05,
    "kernel": 0.15,
}  # seconds; asking both daemons at once takes longer in the guest
KIND = {"userspace": "strongswan", "kernel": "kernel"}


class NotThere(AssertionError):
    """Our stack says that it does not have what the row needs."""


class Lane:
    """See the module. `us` is the index of our end; `patience` stretches times where system calls are slow."""

    def __init__(self, ground: Ground, role: Role, peer: Peer, place: Path, plane: str = "tun") -> None:
        self.ground, self.role, self.peer_kind, self.place, self.plane = ground, role, peer, place, plane
        self.us = 0 if role == "initiator" else 1
        self.peer = 1 - self.us
        self.latency = LATENCY[peer]
        self.patience = 1.0 if peer == "userspace" else 4.0
        self.routers: Routers | None = None
        self.delay: Delay | None = None
        self.gateways: tuple[Gateway, Gateway]
        self.namespaces: tuple[Namespace, Namespace]
        self.blobs: dict[str, bytes] = {}
        self.addresses4: tuple[tuple[str, str], tuple[str, str]]
        self.addresses6: tuple[tuple[str, str], tuple[str, str]]
        self.v6 = False

    # --- life -------------------------------------------------------------------------------------------------------

    @property
    def a(self) -> Gateway:
        return self.gateways[0]

    @property
    def b(self) -> Gateway:
        return self.gateways[1]

    @property
    def ours(self) -> Gateway:
        return self.gateways[self.us]

    @property
    def theirs(self) -> Gateway:
        return self.gateways[self.peer]

    def _lay(self, stack: contextlib.ExitStack) -> None:
        ground = self.ground
        labels = {"wire": "ab", "delay": "abm", "routed": "abrs"}[ground.net]
        left, right, *others = stack.enter_context(namespaces(*labels))
        self.namespaces = (left, right)
        if ground.net == "routed":
            self.routers = route(left, right, others[0], others[1])
            for end, router in enumerate(others):
                if end in ground.nat:
                    inside = f"10.98.{end + 1}.0/24"
                    masquerade(router, inside, INSIDE4[1] if end == 1 else None)
            if ground.no_fragments:
                for router in others:
                    drop_fragments(router)
            seen_b = OUTSIDE4[1] if 1 in ground.nat else INSIDE4[1]
            seen_a = "%any" if 0 in ground.nat else INSIDE4[0]
            self.addresses4 = ((INSIDE4[0], seen_b), (INSIDE4[1], seen_a))
            self.addresses6 = (INSIDE6, INSIDE6[::-1])
        else:
            if ground.net == "delay":
                self.delay = Delay(left, right, others[0], self.latency).start()
                stack.callback(self.delay.stop)
            else:
                link(left, right)
            for end, namespace in enumerate(self.namespaces):
                namespace.add_address(f"{WAN4[end]}/24", f"{WAN6[end]}/64", device="wan")
            self.addresses4 = (WAN4, WAN4[::-1])
            self.addresses6 = (WAN6, WAN6[::-1])
        for end, namespace in enumerate(self.namespaces):
            lans = [f"10.{end + 1}.{n}.1/32" for n in range(LANS)]
            lans += [f"fd0{end + 1}:{n}::1/128" if n else f"fd0{end + 1}::1/128" for n in range(LANS)]
            namespace.add_address(*lans)
            namespace.sysctl(ipv4__ip_forward=1, ipv4__conf__all__rp_filter=0, ipv4__ping_group_range="0 0")
        if self.peer_kind == "kernel" and ground.net == "wire":
            # charon installs no route for selectors with ports; a packet needs one before it meets a policy.
            for end, namespace in enumerate(self.namespaces):
                namespace.ip(f"route add 10.{2 - end}.0.0/16 via {WAN4[1 - end]} metric 9999")

    @contextlib.contextmanager
    def running(self) -> Iterator[Lane]:
        """Lay the ground and start both daemons with their credentials; all gone afterwards."""
        with contextlib.ExitStack() as stack:
            self._lay(stack)
            place = stack.enter_context(folder())
            kinds = ["ours", "ours"]
            kinds[self.peer] = KIND[self.peer_kind]
            made = []
            psk, password, ppk = secrets.token_hex(24), secrets.token_hex(12), secrets.token_hex(32)
            for end, (kind, namespace) in enumerate(zip(kinds, self.namespaces, strict=True)):
                gateway = make_gateway(kind, "ab"[end], namespace, place / "ab"[end], data_plane=self.plane)
                settings = self.ground.ours if gateway.kind == "ours" else self.ground.settings
                gateway.settings.update(settings)  # type: ignore[attr-defined]
                if self.peer_kind == "kernel":
                    gateway.settings["retransmit_timeout"] = "4.0"  # type: ignore[attr-defined]
                issue_all(gateway.folder, "ab"[end], CERTIFICATE_NAMES[end])
                gateway.configure(
                    gateway.preamble()
                    + f"""secrets {{
  ike-psk {{
    secret = {psk}
    id-a = a.lab
    id-b = b.lab
    id-c = b.ecdsa.lab
  }}
  ike-alien {{
    secret = {psk}{end}
    id-a = alien.a.lab
    id-b = alien.b.lab
  }}
  eap-alice {{
    secret = {password}
    id = alice
  }}
  eap-bob {{
    secret = {password}{end}
    id = bob
  }}
  ppk-one {{
    secret = 0x{ppk}
    id = one.ppk.lab
  }}
  ppk-own {{
    secret = 0x{ppk}{end:02}
    id = {"ab"[end]}.ppk.lab
  }}
}}
"""
                )
                made.append(gateway)
                stack.callback(gateway.stop)
            self.gateways = (made[0], made[1])
            for gateway in made:
                for path in (gateway.folder / "x509").iterdir():
                    self.blobs[path.stem] = path.read_bytes()
                gateway.start()
            yield self

    def logs(self) -> str:
        return "\n".join(f"=== {g.name} ({g.kind})\n{g.log()[-6000:]}" for g in self.gateways)

    # --- a row ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def loaded(
        self, ends: Ends, addresses: tuple[tuple[str, str], tuple[str, str]] | None = None
    ) -> Iterator[None]:
        """Both daemons know the row's connection; neither does afterwards, nor has it any SA of it."""
        weak = "-weak" if self.ours.kind == "ours" else ""
        self.v6 = ends.v6
        where = addresses or (self.addresses6 if ends.v6 else self.addresses4)
        sections = render(ends, self.us, where, weak)
        try:
            for name, pool in ends.pools.items():
                try:
                    self.command(1, "load_pool", **{name: dict(pool)})
                except vici.exception.CommandException as error:
                    if self.us == 1:
                        raise NotThere(str(error)) from None
                    raise
            for end, section in enumerate(sections):
                with self.gateways[end].vici() as session:
                    try:
                        session.load_conn({CONN: listed(section, self.blobs)})
                    except vici.exception.CommandException as error:
                        if end == self.us:
                            raise NotThere(str(error)) from None
                        raise
            yield
        finally:
            self.clear()
            for name in ends.pools:
                self.fire(1, "unload_pool", name=name)

    def clear(self) -> None:
        """End every SA, forget the connection; AssertionError when SAs stay."""
        for gateway in self.gateways:
            with gateway.vici(30) as session:
                for sa in gateway.ike_sas():  # by number: half-open ones of a responder have no name yet
                    with contextlib.suppress(vici.exception.CommandException):
                        for _ in session.terminate(
                            {"ike-id": str(sa.uniqueid), "timeout": "3000", "force": "yes"}
                        ):
                            pass
        for gateway in self.gateways:
            with gateway.vici() as session, contextlib.suppress(vici.exception.CommandException):
                session.unload_conn({"name": CONN})
        for gateway in self.gateways:
            gateway.wait_no_sa(3 * self.patience)
        if self.peer_kind == "kernel":
            left = self.namespaces[self.peer].run("ip", "xfrm", "state", "list", "nokeys")
            assert "spi" not in left, f"the peer's kernel keeps SAs:\n{left}"

    def initiate(self, child: str = CHILD, end: int = 0, timeout: float = 8.0) -> None:
        """Ask end `end` for the child; AssertionError with both logs when it cannot."""
        milliseconds = str(int(timeout * self.patience * 1000))
        with self.gateways[end].vici(timeout * self.patience + 5) as session:
            try:
                for _ in session.initiate({"child": child, "ike": CONN, "timeout": milliseconds}):
                    pass
            except vici.exception.CommandException as error:
                raise AssertionError(f"initiate: {error}") from None

    def command(self, end: int, name: str, /, **arguments: Any) -> None:
        """A VICI command (rekey, terminate, redirect …) of which nothing but success matters."""
        with self.gateways[end].vici(20 * self.patience) as session:
            answer = getattr(session, name)(arguments)
            if isinstance(answer, Iterator):
                for _ in answer:
                    pass

    def fire(self, end: int, name: str, /, **arguments: Any) -> None:
        """As `command`, but a refusal is no error."""
        with contextlib.suppress(vici.exception.CommandException):
            self.command(end, name, **arguments)

    @contextlib.contextmanager
    def up(self, row: Row, ends: Ends | None = None, addresses: Any = None) -> Iterator[None]:
        """The row's connection loaded and its child up on both ends."""
        with self.loaded(ends or row.ends, addresses):
            self.initiate()
            for gateway in self.gateways:
                gateway.wait_child(CHILD, 5 * self.patience)
            yield

    # --- what is checked --------------------------------------------------------------------------------------------

    def mirrored(
        self, child: str = CHILD, natted: bool = False, selectors: bool = True
    ) -> tuple[ChildSa, ChildSa]:
        """Both ends' listings say the same of IKE_SA and child; the children.

        `natted`: each end has its own view of the addresses, in transport mode also of the `selectors`.
        """
        a, b = self.a.ike_sa(), self.b.ike_sa()
        assert a.spis == b.spis
        if not natted:
            hosts = [(sa.raw["local-host"], sa.raw["remote-host"]) for sa in (a, b)]
            assert hosts[0] == hosts[1][::-1], hosts
        assert (a.raw["local-id"], a.raw["remote-id"]) == (b.raw["remote-id"], b.raw["local-id"])
        for key in ("version", "encr-alg", "encr-keysize", "integ-alg", "prf-alg", "dh-group", "ppk"):
            assert a.raw.get(key) == b.raw.get(key), f"{key}: {a.raw.get(key)} and {b.raw.get(key)}"
        ca, cb = self.a.child(child), self.b.child(child)
        assert ca.spis == cb.spis[::-1], f"SPIs {ca.spis} and {cb.spis}"
        if selectors:
            assert sorted(ca.raw["local-ts"]) == sorted(cb.raw["remote-ts"])
            assert sorted(ca.raw["remote-ts"]) == sorted(cb.raw["local-ts"])
        keys = (
            "mode",
            "protocol",
            "encr-alg",
            "encr-keysize",
            "integ-alg",
            "integ-keysize",
            "dh-group",
            "esn",
        )
        for key in keys:
            assert ca.raw.get(key) == cb.raw.get(key), f"{key}: {ca.raw.get(key)} and {cb.raw.get(key)}"
        if self.peer_kind == "kernel":
            kernel = self.namespaces[self.peer].run("ip", "xfrm", "state", "list", "nokeys")
            spis = {spi.lstrip("0") for spi in re.findall(r"spi 0x([0-9a-f]+)", kernel)}
            assert set(ca.spis) <= spis, f"the peer's kernel has {spis}, not {ca.spis}"
        return ca, cb

    def ends_of(self, ts: tuple[str, str]) -> tuple[str, str]:
        """Addresses of a and b inside the selectors; the outer ones for `dynamic`."""
        if ts[0] == "dynamic":
            outer = self.addresses6 if self.v6 else self.addresses4
            return outer[0][0], outer[1][0]
        return first_host(ts[0].split(",")[0]), first_host(ts[1].split(",")[0])

    def moved(
        self,
        sources: tuple[str, str],
        child: str = CHILD,
        octets: bool = True,
        sizes: Sequence[int] = (40, 100, 333, 999, 1300, 64, 65, 66, 67, 68),
    ) -> Counted:
        """UDP both ways between two addresses: all arrives, and all counters move by just that."""
        left, right = self.namespaces
        before = [(c.octets, c.packets) for c in (self.a.child(child), self.b.child(child))]
        wait = 3.0 * self.patience
        forth = counted(left, right, sources[0], sources[1], sizes, timeout=wait)
        back = counted(right, left, sources[1], sources[0], sizes[:4], timeout=wait)
        both = Counted(forth.sent + back.sent, forth.lost + back.lost, forth.octets + back.octets)
        assert not both.lost, (
            f"lost {forth.lost} of {forth.sent} from a and {back.lost} of {back.sent} from b"
        )

        def change() -> list[list[int]]:
            after = [(c.octets, c.packets) for c in (self.a.child(child), self.b.child(child))]
            return [
                [after[end][what][way] - before[end][what][way] for what in (0, 1) for way in (0, 1)]
                for end in (0, 1)
            ]

        deadline = time.monotonic() + 2 * self.patience
        while True:
            (a_in, a_out, a_packets_in, a_packets_out), (b_in, b_out, b_packets_in, b_packets_out) = change()
            packets = (a_packets_out, b_packets_in), (b_packets_out, a_packets_in)
            good = packets == ((forth.sent,) * 2, (back.sent,) * 2)
            if good or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        assert good, f"packets counted (out, in): {packets}, sent {forth.sent} and {back.sent}"
        if octets:
            counts = (a_out, b_in), (b_out, a_in)
            assert counts == ((forth.octets,) * 2, (back.octets,) * 2), (
                f"octets counted (out, in): {counts}, sent {forth.octets} and {back.octets}"
            )
        return both

    def moved_to(self, end: int, target: str, bound: str, child: str = CHILD) -> Counted:
        """UDP from `end` to `target`, which routers translate to `bound` of the other: all arrives and is counted."""
        sender, receiver = self.namespaces[end], self.namespaces[1 - end]
        before = self.gateways[1 - end].child(child).packets[0]
        source = self.addresses4[end][0]
        sent = counted(
            sender, receiver, source, target, (40, 100, 333), timeout=3.0 * self.patience, bound=bound
        )
        assert not sent.lost, f"lost {sent.lost} of {sent.sent} from {'ab'[end]}"
        assert self.gateways[1 - end].child(child).packets[0] - before == sent.sent
        return sent

    def alone(self, timeout: float = 8.0, deleted: bool = False) -> None:
        """Until both ends list one IKE_SA and one child, mirrored, and the peer's kernel has two SAs and no more.

        `deleted`: do not wait for those that are deleted and kept a moment for late packets.
        """

        def settled() -> bool:
            found = [gateway.ike_sas() for gateway in self.gateways]
            if any(len(sas) != 1 or sas[0].state != "ESTABLISHED" for sas in found):
                return False
            children = [
                [child for child in sas[0].children if not (deleted and child.state == "DELETED")]
                for sas in found
            ]
            if any(len(those) != 1 or those[0].state != "INSTALLED" for those in children):
                return False
            (a,), (b,) = found
            if a.spis != b.spis or children[0][0].spis != children[1][0].spis[::-1]:
                return False
            return deleted or self.peer_kind != "kernel" or self.kernel_count() == 2

        def say() -> str:
            return "; ".join(
                f"{g.name}: "
                + ", ".join(
                    f"{sa.state} {sa.spis} [{', '.join(f'{c.state} {c.spis}' for c in sa.children)}]"
                    for sa in g.ike_sas()
                )
                for g in self.gateways
            )

        try:
            wait_until(settled, timeout * self.patience, "one IKE_SA and one child on both ends", 0.05)
        except AssertionError:
            raise AssertionError(f"an SA is leaked or missing: {say()}") from None

    def kernel_count(self) -> int:
        """How many SAs the peer's kernel has."""
        listed_now = self.namespaces[self.peer].run("ip", "xfrm", "state", "list", "nokeys")
        return len(re.findall(r"^src ", listed_now, flags=re.M))


CERTIFICATE_NAMES = tuple({kind: identity(kind, end) for kind in CERTIFICATES} for end in (0, 1))

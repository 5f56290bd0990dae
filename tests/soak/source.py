"""The gateway of the soak: a fake VICI daemon whose tunnels move, rekey, are deleted on request and come back."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from typing import Any

from fake_vici import FakeVici, Section, child_section, connection_section, ike_section
from soak import truth

SECOND_THOUGHTS = 2.0
"""Seconds for which a rekeyed child is still listed, as it is until the peer confirms its deletion."""


class MovingVici(FakeVici):
    """Tunnel n is connection `gw<n>` with one child. Whatever is listed or told shows the counters of that moment."""

    def __init__(self, path: str, tunnels: int, begun: float, seed: int) -> None:
        super().__init__(path)
        self.begun = begun
        self.draw = random.Random(seed)
        self.numbers = iter(range(1, 1 << 31))
        self.base: dict[int, tuple[int, int, float]] = {}
        """Child SA -> its tunnel, the tunnel's packets when it was made, and when that was."""
        self.done = {"child rekeys": 0, "IKE rekeys": 0, "tunnels brought back": 0}
        for tunnel in range(1, tunnels + 1):
            high, low = divmod(tunnel, 250)
            self.connections[f"gw{tunnel}"] = connection_section(
                remote_addrs=[f"198.51.{high}.{low}"],
                children={
                    "net": {
                        "mode": "TUNNEL",
                        "local-ts": ["10.1.0.0/24"],
                        "remote-ts": [f"10.{high}.{low}.0/24"],
                    }
                },
                **{"remote-1": {"id": f"peer{tunnel}.example", "class": "public key"}},
            )

    # --- one tunnel ---------------------------------------------------------------------------------------------------

    def _child(self, tunnel: int) -> Section:
        number = next(self.numbers)
        now = time.monotonic()
        self.base[number] = (tunnel, truth.packets(tunnel, now - self.begun), now)
        high, low = divmod(tunnel, 250)
        return child_section(number, **{"remote-ts": [f"10.{high}.{low}.0/24"], "reqid": str(tunnel)})

    def _ike(self, tunnel: int) -> Section:
        high, low = divmod(tunnel, 250)
        return ike_section(
            next(self.numbers),
            **{"remote-host": f"198.51.{high}.{low}", "remote-id": f"peer{tunnel}.example"},
        )

    def bring_up(self, tunnel: int) -> None:
        """Establish what is missing of a tunnel."""
        name = f"gw{tunnel}"
        for number, (connection, ike) in self.ikes.items():
            if connection == name:
                if not self.children[number]:
                    child = self._child(tunnel)
                    self.children[number][int(child["uniqueid"])] = child
                    shown = {f"net-{child['uniqueid']}": child}
                    self.event("child-updown", {"up": "yes", name: {**ike, "child-sas": shown}})
                    self.done["tunnels brought back"] += 1
                return
        self.up(name, self._ike(tunnel), self._child(tunnel))

    def touch(self, ike: int) -> None:
        """Write the counters of this moment into the children of an IKE SA."""
        now = time.monotonic()
        for number, child in self.children[ike].items():
            if child["state"] != "INSTALLED":
                continue
            tunnel, before, since = self.base[number]
            count = truth.packets(tunnel, now - self.begun) - before
            child.update({f"packets-{way}": str(count) for way in ("in", "out")})
            child.update({f"bytes-{way}": str(count * truth.PACKET) for way in ("in", "out")})
            child["install-time"] = str(int(now - since))

    # --- what happens to it -------------------------------------------------------------------------------------------

    def rekey_one_child(self) -> None:
        ike = self.draw.choice(list(self.ikes))
        old = [number for number, child in self.children[ike].items() if child["state"] == "INSTALLED"]
        if not old:
            return
        self.touch(ike)
        new = self._child(self.base[old[0]][0])
        self.rekey_child(ike, old[0], new)
        self.done["child rekeys"] += 1
        asyncio.get_running_loop().call_later(SECOND_THOUGHTS, self._forget, old[0])

    def _forget(self, child: int) -> None:
        self.base.pop(child, None)
        for children in self.children.values():
            children.pop(child, None)

    def rekey_one_ike(self) -> None:
        old = self.draw.choice(list(self.ikes))
        connection, ike = self.ikes[old]
        new = self._ike(int(connection[2:]))
        number = int(new["uniqueid"])
        self.ikes[number] = (connection, new)
        self.children[number] = self.children.pop(old)
        del self.ikes[old]
        self.event("ike-rekey", {connection: {"old": {**ike, "state": "REKEYED"}, "new": new}})
        self.done["IKE rekeys"] += 1

    async def live(self, rekeys: float) -> None:
        """`rekeys` child rekeys a second, one IKE rekey for ten of them; tunnels that were deleted come back."""
        step = 1 / rekeys
        turn = 0
        while True:
            await asyncio.sleep(self.draw.uniform(0.5, 1.5) * step)
            turn += 1
            self.rekey_one_child()
            if turn % 10 == 0:
                self.rekey_one_ike()
            if turn % max(1, int(2 * rekeys)) == 0:
                for name in self.connections:
                    self.bring_up(int(name[2:]))

    # --- the daemon ---------------------------------------------------------------------------------------------------

    def down(self, number: int) -> None:
        self.touch(number)
        super().down(number)

    def child_down(self, ike_number: int, number: int) -> None:
        self.touch(ike_number)
        super().child_down(ike_number, number)
        self.base.pop(number, None)

    async def _list_sas(self, writer: asyncio.StreamWriter, message: Section) -> Section:
        for number, (connection, ike) in list(self.ikes.items()):
            if number not in self.ikes:
                continue  # gone while we listed
            self.touch(number)
            listed = {f"net-{child['uniqueid']}": child for child in self.children[number].values()}
            self._stream(writer, "list-sa", {connection: {**ike, "child-sas": listed}})
            await asyncio.sleep(0)
        return {}

    def _terminate(self, message: Section) -> Section:
        if "child-id" in message:
            for children in self.children.values():
                child = children.get(int(message["child-id"]))
                if child is not None and child["state"] != "INSTALLED":
                    return {"success": "no", "errmsg": "being deleted", "matches": "0", "terminated": "0"}
        return super()._terminate(message)


def serve(path: str, tunnels: int, begun: float, rekeys: float, seed: int, pipe: Any) -> None:
    """The source's process: says when it is ready, and at SIGTERM what it has done."""

    async def main() -> None:
        daemon = MovingVici(path, tunnels, begun, seed)
        for tunnel in range(1, tunnels + 1):
            daemon.bring_up(tunnel)
        await daemon.start()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        living = asyncio.create_task(daemon.live(rekeys))
        pipe.send("ready")
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((stopped, living), return_when=asyncio.FIRST_COMPLETED)
        fault = "" if not living.done() else repr(living.exception())
        living.cancel()
        await daemon.stop()
        pipe.send((daemon.done, fault))

    asyncio.run(main())

"""Packet capture on a namespace's device, and tshark as the independent decoder."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from lab.netns import Namespace

ETH_P_ALL = 3
SNAP = 65535
LINKTYPE_ETHERNET = 1

# No checks of checksums that veth leaves to hardware that is not there; ESP opened with the exported keys.
TSHARK_OPTIONS = (
    "-n",
    "-o", "udp.check_checksum:FALSE",
    "-o", "tcp.check_checksum:FALSE",
    "-o", "ip.check_checksum:FALSE",
    "-o", "esp.enable_encryption_decode:TRUE",
    "-o", "esp.enable_authentication_check:TRUE",
)  # fmt: skip


class Capture:
    """Everything that passes `device`, both directions, written to a pcap file at `stop`."""

    def __init__(self, namespace: Namespace, path: Path, device: str = "wan") -> None:
        self.path = path
        self.frames: list[tuple[float, bytes]] = []
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self._socket.bind((device, 0))
        self._socket.settimeout(0.05)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        while True:
            last = self._stopping.is_set()  # asked before: what comes while we ask is not left behind
            try:
                frame = self._socket.recv(SNAP)
            except TimeoutError:
                if last:
                    return
                continue
            self.frames.append((time.time(), frame))

    def stop(self) -> Path:
        """End the capture; the pcap file."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._thread.join()
            self._socket.close()
            with open(self.path, "wb") as out:
                out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP, LINKTYPE_ETHERNET))
                for when, frame in self.frames:
                    seconds = int(when)
                    micros = int((when - seconds) * 1e6)
                    out.write(struct.pack("<IIII", seconds, micros, len(frame), len(frame)) + frame)
        return self.path

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def tshark(
    pcap: Path,
    show: str = "",
    fields: Sequence[str] = (),
    keys: Path | None = None,
    options: Sequence[str] = (),
) -> list[list[str]]:
    """Rows of `fields` of the packets that the display filter `show` picks.

    `keys`: a folder with tshark's tables ikev2_decryption_table and esp_sa. Several values of one field in one packet
    come comma-separated. AssertionError when tshark fails.
    """
    command = ["tshark", *TSHARK_OPTIONS, *options, "-r", str(pcap), "-T", "fields", "-E", "separator=|"]
    if show:
        command += ["-Y", show]
    for field in fields or ("frame.number",):
        command += ["-e", field]
    environment = {**os.environ, "HOME": str(pcap.parent)}
    if keys is not None:
        environment["WIRESHARK_CONFIG_DIR"] = str(keys)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"tshark: {done.stderr}"
    return [line.split("|") for line in done.stdout.splitlines()]


def tshark_complaints(pcap: Path, keys: Path | None = None) -> list[list[str]]:
    """Packets that tshark calls malformed or marks with an error or warning: (number, protocols, complaint)."""
    warning = "0x00600000"
    return tshark(
        pcap,
        f"_ws.malformed || _ws.expert.severity >= {warning}",
        ("frame.number", "frame.protocols", "_ws.expert.message"),
        keys,
    )

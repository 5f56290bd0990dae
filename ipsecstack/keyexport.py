"""Keys for tshark, written while debugging: with them every captured packet can be read.

Two files of tshark's own formats in one folder, so that ``WIRESHARK_CONFIG_DIR=FOLDER tshark -r capture.pcap``
decrypts without further settings: ``ikev2_decryption_table`` and ``esp_sa``.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

from ipsecstack.keyex.base import KeysDerived

log = logging.getLogger(__name__)

TABLES = ("ikev2_decryption_table", "esp_sa")


class KeyExport:
    """Appends each ``KeysDerived`` to its table. The files are readable by their owner alone.

    OSError from the constructor when the folder cannot be used; later failures (a full disk) end the export with one
    line in the log, never the daemon.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files: dict[str, int] = {}
        try:
            for table in TABLES:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                self._files[table] = os.open(folder / table, flags, 0o600)
                os.fchmod(self._files[table], 0o600)
        except OSError:
            self.close()
            raise
        log.warning(
            "KEYS ARE BEING EXPORTED to %s: whoever reads these files reads all traffic. For debugging only; "
            "delete them afterwards.",
            folder,
        )

    def write(self, keys: KeysDerived) -> None:
        """Append one line; an unknown table is ignored, so is everything after a failure."""
        descriptor = self._files.get(keys.table)
        if descriptor is None:
            return
        data = keys.line.rstrip("\n").encode() + b"\n"
        try:
            written = os.write(descriptor, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, "the disk is full")
        except OSError as error:
            log.error("export of keys ended: %s; free some space and restart", error.strerror or error)
            self.close()

    def close(self) -> None:
        for descriptor in self._files.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._files.clear()

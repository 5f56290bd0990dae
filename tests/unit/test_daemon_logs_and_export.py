"""The daemon's log lines, and the export of keys."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

import pytest

from ipsecstack import logs
from ipsecstack.keyex.base import KeysDerived, LogRecorded
from ipsecstack.keyexport import KeyExport


@pytest.fixture(autouse=True)
def loggers():
    """Leave logging as it was."""
    kept = {
        n: (logging.getLogger(n).handlers[:], logging.getLogger(n).propagate)
        for n in ("ipsecstack", "asyncio")
    }
    yield
    for name, (handlers, propagate) in kept.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).propagate = propagate


def test_lines(capsys, monkeypatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    output = logs.set_up(1)
    output.write(LogRecorded("IKE", 1, "gw", 7, "established"))
    output.write(LogRecorded("IKE", 2, "gw", 7, "detail that is not asked for"))
    forwarded = []
    output.forward = forwarded.append
    logging.getLogger("ipsecstack.io.network").warning("cannot send to %s", "peer")
    logging.getLogger("ipsecstack.daemon").info("ready\n[IKE] <gw|1> a forged line\x1b\x9b\x07\x00")
    logging.getLogger("ipsecstack.daemon").debug("not asked for")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "[IKE] <gw|7> established",
        "[NET] cannot send to peer",
        "[DMN] ready [IKE] <gw|1> a forged line    ",
    ]
    assert lines[0][4] == "-"
    assert [(entry.group, entry.level) for entry in forwarded] == [("NET", 0), ("DMN", 1)]


def test_a_log_that_cannot_be_written_stops_nothing(monkeypatch) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115 - closing it fails as well
    monkeypatch.setattr("sys.stderr", full)
    logs.set_up(1).write(LogRecorded("IKE", 0, None, None, "x" * 100))
    with contextlib.suppress(OSError):
        full.close()


def test_export(tmp_path: Path, caplog) -> None:
    folder = tmp_path / "keys"
    logging.getLogger("ipsecstack").propagate = True
    export = KeyExport(folder)
    assert "whoever reads these files reads all traffic" in caplog.text
    export.write(KeysDerived("ikev2_decryption_table", "aa,bb"))
    export.write(KeysDerived("esp_sa", '"IPv4"'))
    export.write(KeysDerived("../evil", "x"))
    export.close()
    KeyExport(folder).write(KeysDerived("esp_sa", "second\n"))
    assert (folder / "ikev2_decryption_table").read_text() == "aa,bb\n"
    assert (folder / "esp_sa").read_text() == '"IPv4"\nsecond\n'
    assert sorted(path.name for path in folder.iterdir()) == ["esp_sa", "ikev2_decryption_table"]
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "aa,bb" not in repr(KeysDerived("ikev2_decryption_table", "aa,bb"))
    assert "aa,bb" not in caplog.text


def test_export_does_not_follow_links_and_narrows_rights(tmp_path: Path) -> None:
    (tmp_path / "esp_sa").write_text("")
    os.chmod(tmp_path / "esp_sa", 0o644)
    KeyExport(tmp_path).close()
    assert stat.S_IMODE((tmp_path / "esp_sa").stat().st_mode) == 0o600
    (tmp_path / "esp_sa").unlink()
    (tmp_path / "esp_sa").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"."):
        KeyExport(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_export_ends_on_a_full_disk(tmp_path: Path, caplog, monkeypatch) -> None:
    logging.getLogger("ipsecstack").propagate = True
    export = KeyExport(tmp_path)
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setitem(export._files, "esp_sa", os.dup(full.fileno()))
        export.write(KeysDerived("esp_sa", "secret"))
    assert "export of keys ended: No space left on device" in caplog.text
    assert "secret" not in caplog.text
    export.write(KeysDerived("esp_sa", "secret"))
    assert (tmp_path / "esp_sa").read_text() == ""

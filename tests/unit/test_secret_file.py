"""The file that keeps a secret across restarts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ipsecstack.io.secret_file import OCTETS, SecretFileError, read_or_make


def test_it_is_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "qcd"
    secret = read_or_make(path)
    assert len(secret) == OCTETS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_make(path) == secret
    assert os.listdir(tmp_path) == ["qcd"]
    assert read_or_make(tmp_path / "other") != secret


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "qcd"
    read_or_make(path)
    path.chmod(0o640)
    with pytest.raises(SecretFileError, match="mode 0600"):
        read_or_make(path)


def test_too_few_octets_links_and_folders_are_refused(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"x" * 8)
    short.chmod(0o600)
    with pytest.raises(SecretFileError, match="8 octets"):
        read_or_make(short)
    (tmp_path / "link").symlink_to(short)
    with pytest.raises(SecretFileError):
        read_or_make(tmp_path / "link")
    with pytest.raises(SecretFileError):
        read_or_make(tmp_path)
    with pytest.raises(SecretFileError):
        read_or_make(tmp_path / "nowhere" / "qcd")

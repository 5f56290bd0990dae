"""The example configuration is a valid one, also with its commented parts in use."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsecstack import cli
from ipsecstack.config import load_file
from ipsecstack.config.daemon import SETTINGS


def uncommented(text: str) -> str:
    """The text with its commented settings and sections in use; remarks (with a space after #) stay remarks."""
    lines = []
    for line in text.splitlines():
        body = line.lstrip()
        indent = line[: len(line) - len(body)]
        is_setting = body.startswith("#") and not body.startswith("# ")
        # Lines of a commented section are indented behind the #: two spaces or more.
        is_inside = body.startswith("#  ")
        lines.append(indent + body[1:] if is_setting or is_inside else line)
    return "\n".join(lines) + "\n"


@pytest.fixture
def example(repository: Path) -> str:
    return (repository / "conf" / "swanctl.conf").read_text()


def test_the_example_is_valid(example: str, tmp_path: Path, capsys) -> None:
    conf = tmp_path / "swanctl.conf"
    conf.write_text(example)
    conf.chmod(0o600)
    assert cli.ipsecstackd(["--check", "--config", str(conf)]) == 0
    printed = capsys.readouterr().out
    assert "1 connections, no errors" in printed
    assert "warning" not in printed


def test_its_commented_parts_are_valid(example: str, tmp_path: Path, capsys) -> None:
    from lab.pki import authority

    authority("ecdsa").issue("hq.example.org", tmp_path)
    (tmp_path / "x509" / "hq.example.org.pem").rename(tmp_path / "x509" / "hq.pem")
    (tmp_path / "private" / "hq.example.org.pem").rename(tmp_path / "private" / "hq.pem")
    (tmp_path / "x509ca" / "ca.pem").rename(tmp_path / "x509ca" / "partners-ca.pem")
    conf = tmp_path / "swanctl.conf"
    conf.write_text(uncommented(example).replace("0s-put-yours-here-", "0sc2VjcmV0IG9mIHRoaXMgdGVzdA=="))
    conf.chmod(0o600)
    assert cli.ipsecstackd(["--check", "--config", str(conf)]) == 0
    printed = capsys.readouterr()
    assert "2 connections, no errors" in printed.out, printed
    options = load_file(conf).options
    assert options["group"] == "ipsec"
    assert set(options) <= set(SETTINGS)

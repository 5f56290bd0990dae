"""Work in steps: who drives it decides how many at a time, and what happens in between."""

from __future__ import annotations

from collections.abc import Generator

Steps = Generator[None, None, None]
"""The model is consistent whenever it yields, and when it is closed before its end."""

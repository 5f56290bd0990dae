"""Who the SET that is being made comes from, for the writers that must know (usmUserOwnAuthKeyChange)."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol


class Principal(Protocol):
    """securityModel (1, 2, 3), securityName and securityLevel (1, 2, 3) of a requester."""

    @property
    def model(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def level(self) -> int: ...


requester: ContextVar[Principal | None] = ContextVar("requester", default=None)
"""Set while the responder has a SET made; None outside of one."""

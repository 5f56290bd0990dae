"""How the fast path says that it does not finish a request by itself."""

from __future__ import annotations

from agent.smi.errors import ErrorStatus


class NotMine(Exception):
    """Something about the message is unusual. Raised before anything is read, so the plain path starts afresh."""


class Refused(Exception):
    """The request ends in an error-status. Cells have been read, so only the error response is left to make.

    `index`: the error-index, 0 for tooBig.
    """

    def __init__(self, status: ErrorStatus, index: int = 0) -> None:
        self.status = status
        self.index = index
        super().__init__(status.name)

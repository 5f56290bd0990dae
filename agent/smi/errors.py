"""Error statuses of RFC 3416 (section 3) and the one exception of a refused SET."""

from __future__ import annotations

from enum import IntEnum


class ErrorStatus(IntEnum):
    """error-status of a Response-PDU, spelled as RFC 3416 section 3 spells it."""

    noError = 0
    tooBig = 1
    noSuchName = 2
    badValue = 3
    readOnly = 4
    genErr = 5
    noAccess = 6
    wrongType = 7
    wrongLength = 8
    wrongEncoding = 9
    wrongValue = 10
    noCreation = 11
    inconsistentValue = 12
    resourceUnavailable = 13
    commitFailed = 14
    undoFailed = 15
    authorizationError = 16
    notWritable = 17
    inconsistentName = 18


# RFC 3584 section 4.4: what a version 1 manager is told instead.
V1_ERROR_STATUS: dict[ErrorStatus, ErrorStatus] = {
    ErrorStatus.noError: ErrorStatus.noError,
    ErrorStatus.tooBig: ErrorStatus.tooBig,
    ErrorStatus.noSuchName: ErrorStatus.noSuchName,
    ErrorStatus.badValue: ErrorStatus.badValue,
    ErrorStatus.readOnly: ErrorStatus.readOnly,
    ErrorStatus.genErr: ErrorStatus.genErr,
    ErrorStatus.wrongValue: ErrorStatus.badValue,
    ErrorStatus.wrongEncoding: ErrorStatus.badValue,
    ErrorStatus.wrongType: ErrorStatus.badValue,
    ErrorStatus.wrongLength: ErrorStatus.badValue,
    ErrorStatus.inconsistentValue: ErrorStatus.badValue,
    ErrorStatus.noAccess: ErrorStatus.noSuchName,
    ErrorStatus.notWritable: ErrorStatus.noSuchName,
    ErrorStatus.noCreation: ErrorStatus.noSuchName,
    ErrorStatus.inconsistentName: ErrorStatus.noSuchName,
    ErrorStatus.authorizationError: ErrorStatus.noSuchName,
    ErrorStatus.resourceUnavailable: ErrorStatus.genErr,
    ErrorStatus.commitFailed: ErrorStatus.genErr,
    ErrorStatus.undoFailed: ErrorStatus.genErr,
}


class SetError(Exception):
    """A SET is refused with this error-status (RFC 3416 section 4.2.5).

    `code` is an ErrorStatus or its name. `column` names the object whose varbind is at fault when a row
    writer judges several varbinds at once; None lets the transaction point at the varbind it was testing.
    """

    def __init__(self, code: ErrorStatus | str, reason: str = "", column: str | None = None) -> None:
        self.code = ErrorStatus[code] if isinstance(code, str) else code
        self.reason = reason
        self.column = column
        super().__init__(f"{self.code.name}: {reason}" if reason else self.code.name)


class ReadError(Exception):
    """A varbind that could not be read: genErr of RFC 3416 section 4.2.1."""

    def __init__(self, code: ErrorStatus = ErrorStatus.genErr) -> None:
        self.code = code
        super().__init__(code.name)


class NoSuchContext(LookupError):
    """No context has this name."""


class BindingError(Exception):
    """A binding and the compiled MIB disagree; the text names module and object."""

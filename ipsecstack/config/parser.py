"""Text of one swanctl.conf or strongswan.conf file -> a flat-to-read statement list (the grammar is swanctl.lark)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken, VisitError

from ipsecstack.config.tree import ConfigError, Origin

MAX_DEPTH = 32
"""Sections nested deeper than this are refused: no configuration needs them, and reading them is recursive."""


@dataclass(frozen=True, slots=True)
class Setting:
    """``key = value``; an empty value removes what was set or inherited."""

    key: str
    value: str = field(repr=False)
    line: int


@dataclass(frozen=True, slots=True)
class Include:
    pattern: str
    line: int


@dataclass(frozen=True, slots=True)
class Block:
    """``name : references { statements }``; ``depth`` counts the levels below and including it."""

    name: str
    references: tuple[tuple[str, int], ...]
    statements: tuple[Statement, ...]
    line: int
    depth: int


Statement = Setting | Include | Block

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\n": ""}


def _unquote(text: str) -> str:
    text = text[1:-1].replace("\r\n", "\n")
    return re.sub(r"\\([\s\S])", lambda m: _ESCAPES.get(m[1], m[1]), text)


class _Builder(Transformer[Token, Any]):  # type: ignore[misc]
    """Runs while parsing: one call for each finished rule."""

    def start(self, items: list[Any]) -> tuple[Statement, ...]:
        return tuple(item for item in items if item is not None)

    def references(self, items: list[Token]) -> tuple[tuple[str, int], ...]:
        return tuple((str(item), item.line or 0) for item in items)

    def section(self, items: list[Any]) -> Block:
        name, rest = items[0], items[1:]
        references: tuple[tuple[str, int], ...] = ()
        if rest and isinstance(rest[0], tuple):
            references, rest = rest[0], rest[1:]
        statements = tuple(i for i in rest if i is not None and not isinstance(i, Token))
        depth = 1 + max((s.depth for s in statements if isinstance(s, Block)), default=0)
        if depth > MAX_DEPTH:
            raise _TooDeep(name.line or 0, str(name))
        return Block(str(name), references, statements, name.line or 0, depth)

    def setting(self, items: list[Token]) -> Setting:
        key, words = items[0], items[1:]
        value = " ".join(_unquote(w) if w.type == "STRING" else str(w) for w in words)
        return Setting(str(key), value, key.line or 0)

    def include(self, items: list[Token]) -> Include:
        keyword, pattern = items
        text = _unquote(pattern) if pattern.type == "STRING" else re.sub(r'\\(["#} ])', r"\1", pattern)
        return Include(text, keyword.line or 0)


class _TooDeep(Exception):
    def __init__(self, line: int, name: str) -> None:
        self.line, self.name = line, name
        super().__init__(name)


@cache
def _lark() -> Lark:
    grammar = files("ipsecstack.config").joinpath("swanctl.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", lexer="contextual", transformer=_Builder(), maybe_placeholders=True)


def parse(text: str, source: str) -> tuple[Statement, ...]:
    """Parse one file's text. Raises ConfigError with the line and what to do about it."""
    try:
        result: tuple[Statement, ...] = _lark().parse(text.replace("\r\n", "\n"))
        return result
    except UnexpectedInput as error:
        line, message = _explain(error, text)
        raise ConfigError(Origin(source, line), "", message) from None
    except (_TooDeep, VisitError) as error:
        deep = error if isinstance(error, _TooDeep) else getattr(error, "orig_exc", error)
        if not isinstance(deep, _TooDeep):
            raise
        raise ConfigError(
            Origin(source, deep.line),
            deep.name,
            f"sections are nested more than {MAX_DEPTH} deep; flatten them",
        ) from None


_ALONE = "a name stands alone; write name = value or name { ... }"


def _explain(error: UnexpectedInput, text: str) -> tuple[int, str]:
    """The line to point at, and words for it. Never quotes more than one character of the text: it may be a secret."""
    line = max(error.line, 1) if isinstance(error.line, int) else text.count("\n") + 1
    at_end = isinstance(error, UnexpectedEOF) or (
        isinstance(error, UnexpectedToken) and error.token.type == "$END"
    )
    if at_end:
        tokens = _pending(error)
        if tokens and tokens[-1].type == "NAME":
            return tokens[-1].line or 1, _ALONE
        opened = [a for a, b in pairwise(tokens) if a.type == "NAME" and b.type == "LBRACE"][-1:]
        if opened:
            return opened[0].line or 1, f"section '{opened[0]}' is never closed; add a '}}'"
        return text.count("\n") + 1, "the file ends in the middle of a statement"
    char = error.char if isinstance(error, UnexpectedCharacters) else str(getattr(error, "token", ""))[:1]
    if char == '"':
        return line, (
            "unexpected '\"': a string has no closing quote, or stands where a name belongs; "
            'write key = "value"'
        )
    if char == "}":
        return line, "'}' closes no section; remove it or add the missing '{' above"
    if char == ".":
        return line, "a name cannot hold '.'; write nested sections instead: a { b = value }"
    if char == "\n":
        return line, _ALONE
    if char == "=":
        return line, "'=' without a name in front of it; write key = value"
    if char == "{":
        return line, "'{' without a section name in front of it; write name { ... }"
    return line, "this is neither 'key = value', a section nor an include; write one statement on a line"


def _pending(error: UnexpectedInput) -> list[Token]:
    """The tokens of statements that are not finished, in order."""
    state = getattr(getattr(error, "interactive_parser", None), "parser_state", None)
    found = [item for item in getattr(state, "value_stack", ()) if isinstance(item, Token)]
    return [token for token in found if token.type != "_NL"]

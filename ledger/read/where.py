"""The language of `ledger ls --where`, parsed. Pure.

::

    condition   = both {"or" both}
    both        = single {"and" single}
    single      = "not" single | "(" condition ")" | quantity operator text
    quantity    = text | ("last" | "min" | "max") "(" text ")"
    operator    = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~"
    text        = 'anything' | "anything" | a word without blanks, quotes, brackets and operators

Names hold slashes and dots, values may be URLs and times: what a word means is for the caller to say (``names``).
A grammar of six lines is parsed by hand: a parser library takes longer to import than `ledger ls` takes to answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from ledger.errors import UsageError
from ledger.store.projections.query import And, Not, Or

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.store.projections.query import Condition, Op

Which = Literal["last", "lowest", "highest"]

_TOKEN: Final = re.compile(
    r"""(?P<quoted>'[^']*'|"[^"]*") | (?P<sign>[<>!]=|==|!~|[=<>~()]) | (?P<word>[^\s'"()<>=!~]+)""", re.VERBOSE
)
_OPERATORS: Final[dict[str, Op]] = {
    "=": "=", "==": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "~": "~", "!~": "!~",
}  # fmt: skip
_WHICH: Final[dict[str, Which]] = {"last": "last", "min": "lowest", "max": "highest"}
_JOINING: Final = ("and", "or", "not")
_DEPTH: Final = 50
_COMPARISONS: Final = 200
"""Beyond these, databases refuse an expression as too deep."""


class Token(NamedTuple):
    """A word or sign, and where it stands."""

    text: str
    at: int
    kind: Literal["quoted", "sign", "word", "end"]

    def is_sign(self, *signs: str) -> bool:
        """Whether it is one of these signs."""
        return self.kind == "sign" and self.text in signs

    def is_keyword(self, *keywords: str) -> bool:
        """Whether it is one of these words, in any case, and not a quoted text."""
        return self.kind == "word" and self.text.lower() in keywords


class Written(NamedTuple):
    """A quantity as it was typed."""

    name: Token
    which: Which | None = None
    """Of a metric; None where nothing was said."""


Compare: TypeAlias = "Callable[[Written, Op, Token], Condition]"


class Expression:
    """A text in this language."""

    def __init__(self, text: str) -> None:
        self.text = text

    def condition(self, compare: Compare) -> Condition:
        """The condition it is; ``compare`` makes one of each comparison. Raises ``UsageError``."""
        parser = _Parser(self)
        found = parser.either(compare)
        parser.finish()
        return found

    def quantity(self) -> Written:
        """The quantity it is, and nothing else. Raises ``UsageError``."""
        parser = _Parser(self)
        found = parser.quantity()
        parser.finish()
        return found

    def wrong(self, at: int, what: str, mend: str | None = None) -> UsageError:
        """The error for what stands ``at`` this place: the expression, and a caret under the place."""
        line = "".join(c if c.isprintable() else " " for c in self.text)
        return UsageError(
            f"{what}\n  {line}\n  {' ' * at}^",
            mend=mend or "`ledger ls --help` shows how a filter is written",
        )

    def tokens(self) -> list[Token]:
        """Its words and signs, and an end."""
        found, at = [], 0
        while at < len(self.text):
            if self.text[at].isspace():
                at += 1
                continue
            match = _TOKEN.match(self.text, at)
            if match is None:
                quote = self.text[at] in "'\""
                raise self.wrong(at, "this quote is never closed" if quote else f"{self.text[at]!r} means nothing here")
            if match["quoted"]:
                found.append(Token(match["quoted"][1:-1], at, "quoted"))
            else:
                found.append(Token(match[0], at, "word" if match["word"] else "sign"))
            at = match.end()
        return [*found, Token("", len(self.text), "end")]


class _Parser:
    """One pass over an expression, by recursive descent."""

    def __init__(self, expression: Expression) -> None:
        self._expression = expression
        self._tokens = expression.tokens()
        self._next = 0
        self._depth = self._comparisons = 0

    def finish(self) -> None:
        """Raise ``UsageError`` if anything is left."""
        token = self._peek()
        if token.kind != "end":
            opened = not token.is_sign(")")
            raise self._wrong(token, "an 'and' or 'or' is missing here" if opened else "this bracket was never opened")

    def either(self, compare: Compare) -> Condition:
        parts = [self._both(compare)]
        while self._peek().is_keyword("or"):
            self._take()
            parts.append(self._both(compare))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def quantity(self) -> Written:
        name, bracket = self._take(), self._peek()
        if name.is_keyword(*_WHICH) and bracket.is_sign("("):
            self._take()
            inner = self._text("the name of a metric")
            if not self._take().is_sign(")"):
                raise self._wrong(bracket, "this bracket is never closed")
            return Written(inner, _WHICH[name.text.lower()])
        return Written(self._checked(name, "a name"))

    def _both(self, compare: Compare) -> Condition:
        parts = [self._single(compare)]
        while self._peek().is_keyword("and"):
            self._take()
            parts.append(self._single(compare))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _single(self, compare: Compare) -> Condition:
        token = self._peek()
        if not (token.is_keyword("not") or token.is_sign("(")):
            return self._comparison(compare)
        self._take()
        self._depth += 1
        if self._depth > _DEPTH:
            raise self._wrong(token, f"brackets and 'not' are nested more than {_DEPTH} deep")
        if token.is_sign("("):
            found = self.either(compare)
            if not self._take().is_sign(")"):
                raise self._wrong(token, "this bracket is never closed")
        else:
            found = Not(self._single(compare))
        self._depth -= 1
        return found

    def _comparison(self, compare: Compare) -> Condition:
        of, sign = self.quantity(), self._take()
        if not sign.is_sign(*_OPERATORS):
            raise self._wrong(sign, f"one of {' '.join(dict.fromkeys(_OPERATORS.values()))} is missing here")
        self._comparisons += 1
        if self._comparisons > _COMPARISONS:
            raise self._wrong(of.name, f"there are more than {_COMPARISONS} comparisons")
        return compare(of, _OPERATORS[sign.text], self._text("a value"))

    def _text(self, what: str) -> Token:
        return self._checked(self._take(), what)

    def _checked(self, token: Token, what: str) -> Token:
        if token.kind not in ("word", "quoted") or token.is_keyword(*_JOINING):
            raise self._wrong(token, f"{what} is missing here")
        return token

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _wrong(self, token: Token, what: str) -> UsageError:
        return self._expression.wrong(token.at, what)

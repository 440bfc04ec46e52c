"""What must never reach the log: passwords, tokens and keys."""

# detect-secrets, the best-kept library for this, was left: it finds lines in files, it does not mask.

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus, unquote

from ledger.record.capture.secret_names import is_secret_name
from ledger.record.capture.secret_shapes import (
    WITHHELD,
    Span,
    assigned,
    in_prose,
    in_urls,
    in_whole_url,
    mask,
    occurrences,
    shaped,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHORTEST: Final = 6
"""Values below this length are withheld under their own name, but not hunted for elsewhere: chance hits."""
_SHORTEST_LINE: Final = 16
"""A line of a secret of several lines is hunted for on its own from this length on."""
_HOLD: Final = 1 << 16
"""About how many characters a stream holds back at most while it waits to see where a secret ends."""


def _variants(value: str) -> set[str]:
    """The ways in which a program may print ``value``: as it is, escaped for a URL, for JSON, for Python."""
    forms = {value, quote(value, safe=""), quote(value), quote_plus(value), unquote(value), repr(value)[1:-1]}
    forms |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    lines = [line.strip() for line in value.splitlines()]
    forms |= {line for line in lines if len(lines) > 1 and len(line) >= _SHORTEST_LINE}
    return {form for form in forms if len(form) >= _SHORTEST}


def _known_values(environ: Mapping[str, str]) -> tuple[str, ...]:
    found: set[str] = set()
    for name, value in environ.items():
        for start, end, _ in in_urls(value):
            # A password that is also the user or the scheme (postgresql://postgres:postgres@…) is none to hunt for.
            if value.count(value[start:end]) == 1:
                found |= _variants(value[start:end])
        # An existing path (SSH_AUTH_SOCK, GOOGLE_APPLICATION_CREDENTIALS) names a secret's place.
        if is_secret_name(name) and not (value.startswith("/") and "\0" not in value and os.path.exists(value)):
            found |= _variants(value) | _variants(value.strip())
    return tuple(sorted(v for v in found if v not in WITHHELD and not v.isspace()))


_NAME: Final = re.compile(r"[+~-]{0,2}[A-Za-z_][A-Za-z0-9_.\-]*\Z")
_OPTION: Final = re.compile(r"--?[A-Za-z]")


class Redactor:
    """Takes secrets out of all that is about to be recorded.

    Knows the values of the variables in ``environ`` whose names are those of secrets, and hunts for them
    everywhere, beside names and shapes that give a secret away by themselves.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.known = _known_values(environ)
        """The values hunted for."""

    def text(self, text: str) -> str:
        """Free text (a console line, a traceback) without its secrets."""
        return mask(text, [*occurrences(text, self.known), *in_prose(text)])

    def argv(self, argv: Sequence[str]) -> tuple[str, ...]:
        """An argument vector without the secrets of ``--token X``, ``--token=X``, ``password=X`` …"""
        clean: list[str] = []
        option = ""
        for argument in argv:
            name, equals, value = argument.partition("=")
            # What starts with a dash is no option's value: argparse does not take it as one either.
            if option and is_secret_name(option) and argument and not argument.startswith("-"):
                clean.append(WITHHELD)
            elif equals and value and _NAME.match(name) and is_secret_name(name):
                clean.append(f"{name}={WITHHELD}")
            else:
                clean.append(self.text(argument))
            option = argument if _OPTION.match(argument) and not equals else ""
        return tuple(clean)

    def config(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """A configuration without its secrets, and the dotted keys of the values that it lost."""
        withheld: list[str] = []
        clean = self._table(config, "", False, withheld)
        return clean, tuple(withheld)

    def url(self, url: str) -> str:
        """A URL or connection string without its password and secret query parameters."""
        found = (occurrences(url, self.known), shaped(url), in_urls(url), in_whole_url(url))
        return mask(url, [*(span for spans in found for span in spans), *assigned(url, prose=False)])

    def mapping(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Environment variables without their secrets."""
        return {k: WITHHELD if v and is_secret_name(k) else self.url(v) for k, v in environ.items()}

    def stream(self) -> MaskedStream:
        """A masker for one stream of bytes that arrives in pieces."""
        return MaskedStream(self)

    def _table(self, table: Mapping[Any, Any], prefix: str, secret: bool, withheld: list[str]) -> dict[Any, Any]:
        clean = {}
        for key, value in table.items():
            name = self.url(key) if isinstance(key, str) else key
            hidden = secret or is_secret_name(str(key))
            clean[name] = self._value(value, f"{prefix}{name}", hidden, withheld)
        return clean

    def _value(self, value: Any, key: str, secret: bool, withheld: list[str]) -> Any:
        if isinstance(value, Mapping):
            return self._table(value, f"{key}.", secret, withheld)
        if isinstance(value, list | tuple):
            return [self._value(v, f"{key}.{i}", secret, withheld) for i, v in enumerate(value)]
        # Switches and measures sit under such names too (`auth = true`, `token_drop = 0.1`): no secrets.
        if value is None or isinstance(value, bool | float) or value == "":
            return value
        clean = WITHHELD if secret else self.url(value) if isinstance(value, str) else value
        if clean != value:
            withheld.append(key)
        return clean


class MaskedStream:
    """Masks bytes that arrive in pieces, so that a secret cut in two by a buffer's end is still found.

    Whole lines are let through; the last, unfinished one waits for its end.
    """

    def __init__(self, redactor: Redactor) -> None:
        # One character for one byte from here on, so that no encoding of the output, or lack of one, matters.
        self._known = {value.encode("utf-8", "surrogateescape").decode("latin-1") for value in redactor.known}
        self._across = max((len(v) for v in self._known if "\n" in v or "\r" in v), default=0)
        self._pending: list[str] = []
        self._held = 0

    def feed(self, chunk: bytes) -> bytes:
        """What can be let through now."""
        self._pending.append(chunk.decode("latin-1"))
        self._held += len(chunk)
        if self._held <= _HOLD and b"\n" not in chunk and b"\r" not in chunk:
            return b""
        text = "".join(self._pending)
        spans = [*occurrences(text, self._known), *in_prose(text)]
        return self._let_through(text, self._safe_end(text, spans), spans)

    def close(self) -> bytes:
        """The rest."""
        text = "".join(self._pending)
        return self._let_through(text, len(text), [*occurrences(text, self._known), *in_prose(text)])

    def _safe_end(self, text: str, spans: Sequence[Span]) -> int:
        """Where ``text`` can be cut so that no secret, nor a secret and its name, are torn apart."""
        end = _last_line_end(text, len(text))
        if self._across:
            end = _last_line_end(text, end - self._across)
        end = max(end, len(text) - _HOLD)
        for _, stop, context in sorted(spans, reverse=True):
            # One that reaches the end of the text may go on in the next piece.
            if context < end and (end < stop or stop == len(text)):
                end = context
        return end if len(text) - end <= 2 * _HOLD else len(text)

    def _let_through(self, text: str, end: int, spans: Sequence[Span]) -> bytes:
        self._pending, self._held = [text[end:]], len(text) - end
        clean = mask(text[:end], [(start, min(stop, end), context) for start, stop, context in spans if start < end])
        return clean.encode("latin-1")


def _last_line_end(text: str, before: int) -> int:
    return max(text.rfind("\n", 0, max(before, 0)), text.rfind("\r", 0, max(before, 0))) + 1

"""Where in a text the secrets are: tokens of known shape, passwords in URLs, values given to secret names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from ledger.record.capture.secret_names import is_secret_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WITHHELD: Final = "[withheld]"
"""What stands in the log where a secret stood."""

_EDGE: Final = r"(?<![A-Za-z0-9])"
_SHAPES: Final[tuple[tuple[tuple[str, ...], re.Pattern[str]], ...]] = tuple(
    (markers, re.compile(_EDGE + pattern, re.ASCII))
    for markers, pattern in (
        (("AKIA", "ASIA"), r"A[KS]IA[A-Z0-9]{16}"),
        (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{20,}"),
        (("github_pat_",), r"github_pat_[A-Za-z0-9_]{20,}"),
        (("glpat-",), r"glpat-[A-Za-z0-9_-]{20,}"),
        # A digit or capital is asked for, or `sk-learn-random-forest-regressor` would be one.
        (("sk-",), r"sk-(?=[a-z_-]*[A-Z0-9])[A-Za-z0-9_-]{20,}"),
        (("k_live_", "k_test_"), r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"),
        (("hf_",), r"hf_[A-Za-z0-9]{20,}"),
        (("xox",), r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
        (("AIza",), r"AIza[A-Za-z0-9_-]{35}"),
        (("ya29.",), r"ya29\.[A-Za-z0-9_-]{20,}"),
        (("eyJ",), r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"),
        (("pypi-",), r"pypi-[A-Za-z0-9_-]{40,}"),
        (("npm_",), r"npm_[A-Za-z0-9]{36}"),
        (("dckr_pat_",), r"dckr_pat_[A-Za-z0-9_-]{20,}"),
        (("SG.",), r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    )
)
_PEM_MARK: Final = "PRIVATE KEY"
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
_HEADER: Final = re.compile(r"(?:Bearer|Basic|Token|ApiKey)[ \t]+([A-Za-z0-9._~+/=-]{6,})")
_HEADER_MARKS: Final = ("Bearer", "Basic", "Token", "ApiKey")

# After a user's name and a colon comes a password up to the last @, slashes too (as SQLAlchemy has it),
# unless it is a port. Over HTTP a token may stand in either place of the two.
_USERINFO: Final = re.compile(r"://[^\s/@:?#\"]*:(?!\d+(?:[/?#\s]|$))([^\s\"]+)@")
_WEB_USERINFO: Final = re.compile(r"https?://([^\s/?#\"]+)@")
_WHOLE_URL: Final = re.compile(r"[A-Za-z][\w+.-]*://[^/@:?#]*:(?!\d+(?:[/?#]|$))(.+)@", re.DOTALL)
_QUERY: Final = re.compile(r"[?&#;]([A-Za-z0-9_.%-]{1,80})=([^\s&#\"']+)")
_QUERY_SECRETS: Final = frozenset(
    {"sig", "signature", "x-amz-signature", "x-amz-credential", "x-goog-signature", "key", "code"}
)

_HINTS: Final = (
    *("api key", "access key", "secret key", "private key", "account key", "token", "secret", "pass", "pwd"),
    *("key", "auth", "cred", "cookie", "jwt", "bearer", "pat", "dsn", "string"),
)
"""What every secret name has in it, in lower case."""
_ASSIGNED: Final = re.compile(r"[A-Za-z0-9_.\-]{0,64}(\\?[\"'])?\]?[ \t]{0,4}(=>|[=:])[ \t]{0,4}")
_OPTION_VALUE: Final = re.compile(r"(?<!\S)--([A-Za-z][A-Za-z0-9_-]{0,80})[ \t]+([^\s-]\S*)")
_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_LONGEST_NAME: Final = 256
_QUOTED: Final = re.compile(
    r"\"((?:[^\"\\\n]|\\.)+)\"?|'((?:[^'\\\n]|\\.)+)'?|"
    r"\\\"((?:[^\\\n]|\\(?!\").)+)(?:\\\")?|\\'((?:[^\\\n]|\\(?!').)+)(?:\\')?"
)
_BARE: Final = re.compile(r"\S+")
_BARE_IN_JSON: Final = re.compile(r"[^\s,}\]]+")
_HARMLESS: Final = re.compile(
    r"(?:None|null|nil|true|false|True|False|str|int|bool|bytes|float|Any|"
    r"\"\"|''|\[withheld\]?|\"\[withheld\]\"|'\[withheld\]')[,;)}\]:]*\Z"
)

Span = tuple[int, int, int]
"""Start and end of a secret, and where the text that gave it away begins."""


def shaped(text: str) -> Iterator[Span]:
    """What looks like a token or key of a service that is known."""
    for markers, pattern in _SHAPES:
        # A plain search for the marker first: a hundred times faster than the pattern on text without one.
        if any(marker in text for marker in markers):
            yield from ((m.start(), m.end(), m.start()) for m in pattern.finditer(text))
    if _PEM_MARK in text:
        yield from ((m.start(), m.end(), m.start()) for m in _PEM.finditer(text))
    if any(mark in text for mark in _HEADER_MARKS):
        yield from ((m.start(1), m.end(1), m.start()) for m in _HEADER.finditer(text))


def in_urls(text: str) -> Iterator[Span]:
    """Passwords and secret query parameters of URLs."""
    if "://" not in text:
        return
    for pattern in (_USERINFO, _WEB_USERINFO):
        yield from ((m.start(1), m.end(1), m.start()) for m in pattern.finditer(text))
    for match in _QUERY.finditer(text):
        name = unquote(match[1])
        if name.lower() in _QUERY_SECRETS or is_secret_name(name):
            yield match.start(2), match.end(2), match.start()


def in_whole_url(url: str) -> Iterator[Span]:
    """As ``_in_urls``, where the text is nothing but a URL: even white space is then part of the password."""
    if match := _WHOLE_URL.match(url):
        yield match.start(1), match.end(1), 0


def assigned(text: str, *, prose: bool) -> Iterator[Span]:
    """Values given to secret names: ``password=…``, ``"api_key": …`` and, in ``prose``, ``token: …``."""
    at = 0
    for hint, end_of_hint in _hints(text):
        match = _ASSIGNED.match(text, end_of_hint)
        if match is None or hint < at or (match[2] == ":" and not (prose or match[1])):
            continue
        at = match.end()
        start = _start_of_name(text, hint)
        if not is_secret_name(text[start : match.start(1) if match[1] else match.start(2)]):
            continue
        quoted = _QUOTED.match(text, at)
        value = quoted or (_BARE_IN_JSON if match[1] else _BARE).match(text, at)
        if value is None or _HARMLESS.match(value[0]):
            continue
        group = quoted.lastindex or 0 if quoted else 0
        yield value.start(group), value.end(group), start
        at = value.end()


def _hints(text: str) -> list[tuple[int, int]]:
    """Where a secret name may be. Plain searches: one pattern for all of them is ten times slower."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters become two
        lowered = "".join(c if len(c.lower()) > 1 else c.lower() for c in text)
    return sorted((start, end) for start, end, _ in occurrences(lowered, _HINTS))


def _start_of_name(text: str, at: int) -> int:
    lowest = max(0, at - _LONGEST_NAME)
    while at > lowest and text[at - 1] in _NAME_CHARACTERS:
        at -= 1
    return at


def _optioned(text: str) -> Iterator[Span]:
    """Values of secret options in a command line that is part of a text."""
    if "--" in text:
        for match in _OPTION_VALUE.finditer(text):
            if is_secret_name(match[1]):
                yield match.start(2), match.end(2), match.start()


def in_prose(text: str) -> Iterator[Span]:
    """All that gives itself away in free text."""
    yield from shaped(text)
    yield from in_urls(text)
    yield from assigned(text, prose=True)
    yield from _optioned(text)


def mask(text: str, spans: Iterable[Span]) -> str:
    """``text`` with every span replaced; spans that touch or overlap become one."""
    parts: list[str] = []
    done = 0
    for start, end, _ in sorted(spans):
        if start > done or not parts:
            parts += (text[done:start], WITHHELD)
        done = max(done, end)
    return "".join((*parts, text[done:])) if parts else text


def occurrences(text: str, values: Iterable[str]) -> Iterator[Span]:
    """Every place of every value, overlapping ones too."""
    for value in values:
        at = text.find(value)
        while at >= 0:
            yield at, at + len(value), at
            at = text.find(value, at + 1)

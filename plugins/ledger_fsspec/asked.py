"""The URIs of data behind fsspec: which ones are answered, and what they ask for. Pure.

``s3://bucket/train/`` is what lies below ``train/``; without the final slash it may name a single file. Names are
taken as they are, percent signs too, as fsspec does; only a question mark cannot be written. Options: ``?keep=no``
keeps no copy of what is read to be digested, ``?snapshot=yes`` keeps one in the ledger's objects for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from ledger.errors import UsageError
from ledger.hooks.uris import scheme, without_credentials

_WRAPPERS: Final = {"async_wrapper", "asyncwrapper", "blockcache", "cached", "dask", "dir", "filecache", "generic"} | {
    "libarchive",
    "reference",
    "simplecache",
    "tar",
    "zip",
}
_HERE: Final = {"asynclocal", "data", "file", "git", "local", "memory", "pyscript"}
_OF_OTHERS: Final = {"dvc", "lakefs"}
_NOT_OURS: Final = frozenset(_WRAPPERS | _HERE | _OF_OTHERS)
"""What fsspec knows that wraps another place, that no other process can reach, or that another plugin answers to."""
_OPTIONS: Final = frozenset({"keep", "snapshot"})
_CHOICE: Final = {"yes": True, "no": False}


def is_remote(uri: str) -> bool:
    """Whether ``uri`` names a place that fsspec can read from."""
    kind = scheme(uri)
    if "://" not in uri or kind is None or kind in _NOT_OURS:
        return False
    from fsspec.registry import available_protocols

    return kind in available_protocols()


@dataclass(frozen=True)
class Asked:
    """A URI, read."""

    url: str
    """Without options; with a final slash only where the user wrote one."""
    snapshot: bool = False
    keep: bool = True
    """Whether content that is read to be digested is kept on disk for the ``fetch`` that follows."""

    @classmethod
    def parse(cls, uri: str) -> Asked:
        """Read ``uri``. Raises ``UsageError``, which repeats nothing that may be a password or a key."""
        url, _, query = uri.partition("?")
        shown = without_credentials(url)
        if shown != url:
            raise UsageError(
                f"{shown} is written with a user or a password, and what is pinned goes on record",
                mend="leave them out: they are taken from the service's own variables or files, or from fsspec's "
                f"configuration (FSSPEC_{(scheme(url) or '').upper()}_… variables)",
            )
        if "::" in url or not url.partition("://")[2].strip("/"):
            raise UsageError(
                f"{shown} names no place that data can be pinned in",
                mend="write SCHEME://BUCKET/PATH, for example s3://corpus/clean/",
            )
        kind, mark, place = url.partition("://")
        return cls(kind.lower() + mark + place, **_options(shown, query))


def _options(shown: str, query: str) -> dict[str, bool]:
    found = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _OPTIONS or value not in _CHOICE:
            raise UsageError(
                f"{shown}: the option {key} is not understood",
                mend="the options are ?snapshot=yes and ?keep=no; any other query may hold a key, which must not go "
                "on record, so a file behind such an address has to be downloaded and named with file:",
            )
        found[key] = _CHOICE[value]
    return found

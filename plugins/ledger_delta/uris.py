"""``delta+file:///TABLE@VERSION``, ``delta+s3://BUCKET/TABLE@VERSION``: what the user asks for. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ledger.errors import UsageError
from ledger.hooks.uris import local_path, without_credentials

_SCHEME: Final = "delta+"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_KEY: Final = re.compile(r"(/[\w.=+-]+)*", re.ASCII)
_FORM: Final = (
    "write delta+file:///PATH/TO/TABLE or delta+s3://BUCKET/TABLE, with @VERSION or @TIME (ISO 8601) at its end"
)


@dataclass(frozen=True)
class Asked:
    """A URI, read."""

    root: str
    """``file:///…`` or ``s3://…``, without a final slash."""
    at: int | datetime | None
    """A version, or a moment with its time zone; None for the newest version."""

    @classmethod
    def parse(cls, uri: str) -> Asked:
        """Read ``uri``. Raises ``UsageError``, which never repeats what may be a key."""
        rest = uri[len(_SCHEME) :]
        kind = rest.partition(":")[0].lower()
        if kind == "s3":
            bucket = rest[len("s3://") :].partition("/")[0]
            if "@" in bucket or ":" in bucket:
                raise UsageError(
                    "a delta+s3: URI holds a bucket and no key",
                    mend=f"{_FORM}; keys are taken from where the AWS command line has them",
                )
        elif kind != "file":
            raise UsageError(f"delta+{kind}: is no kind of table that Ledger can read", mend=_FORM)
        if "?" in rest:
            raise UsageError(
                f"{without_credentials(uri)}: there are no options", mend="a question mark in a name is written %3F"
            )
        folder, slash, last = rest.rpartition("/")
        name, mark, moment = last.rpartition("@")
        table = folder + slash + (name if mark else last)
        return cls((_s3 if kind == "s3" else _local)(table, uri), _moment(moment, uri) if mark else None)


def _local(table: str, uri: str) -> str:
    path = local_path(table)
    if path is None:
        raise UsageError(f"{uri} names no table", mend=_FORM)
    return path.as_uri()


def _s3(table: str, uri: str) -> str:
    bucket, slash, key = table[len("s3://") :].rstrip("/").partition("/")
    if not table.lower().startswith("s3://") or not _BUCKET.fullmatch(bucket) or not _KEY.fullmatch(slash + key):
        raise UsageError(f"{uri} names no table in a bucket, in letters, digits and . _ = + -", mend=_FORM)
    return f"s3://{bucket}{slash}{key}"


def _moment(text: str, uri: str) -> int | datetime:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{uri}: {text!r} is neither a version nor a time",
            mend="for example @12 or @2026-11-20T12:00:00Z; an @ in a name is written %40",
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)

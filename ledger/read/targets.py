"""What somebody asks about, by whatever he has of it: a path, a digest, the URI or the commit of data."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Final

from ledger.errors import NotFound, some
from ledger.hooks.uris import local_path, scheme
from ledger.read.lineage import SHORTENED, names_data, shown

if TYPE_CHECKING:
    from ledger.objects import Hasher
    from ledger.read.lineage import Impact, Origin, Use
    from ledger.read.tracing import Tracer

_SHORTEST: Final = 8
"""Characters of a digest that say which one is meant."""


def find_origins(tracer: Tracer, hasher: Hasher, target: str | Path) -> list[Origin]:
    """See ``Book.origins``."""
    digests = _digests(hasher, target)
    found = tracer.origins([digest for digest in digests if len(digest) >= _SHORTEST])
    if not found:
        raise NotFound(
            _nothing(f"no run of this ledger wrote {shown(str(target))} (digest {digests[-1][:12]}…)", tracer.gaps),
            mend="it was made elsewhere, or altered since: even one changed byte makes another digest",
        )
    return found


def find_uses(tracer: Tracer, hasher: Hasher, target: str | Path) -> list[Use]:
    """See ``Book.uses``."""
    return tracer.uses([digest for digest in _digests(hasher, target) if len(digest) >= _SHORTEST])


def find_impact(tracer: Tracer, hasher: Hasher, target: str) -> Impact:
    """See ``Book.impact``."""
    if place := _local(target):
        return _impact_of_place(tracer, target, place)
    path = Path(target)
    known = path.exists() or SHORTENED.fullmatch(target)
    found = tracer.impact(partial(names_data, target), _digests(hasher, target) if known else [])
    if not found.runs and path.is_dir():
        found = tracer.impact(lambda _: False, [e.digest for e in hasher.tree(path).entries if e.bytes])
    return _something(found, f"no run of this ledger read {shown(target)}")


def _local(target: str) -> Path | None:
    """The path that a ``file:`` URI means here."""
    return local_path(target.partition("?")[0]) if scheme(target) == "file" else None


def _impact_of_place(tracer: Tracer, target: str, place: Path) -> Impact:
    """What was read at a path, whatever was there then: ``file:data`` of somebody else is another directory."""
    resolved, here = cache(lambda path: Path(path).resolve()), place.resolve()
    found = tracer.impact(lambda data: scheme(data.uri) == "file" and resolved(data.path) == here)
    found.gaps += _doubts(found, place)
    return _something(found, f"no run of this ledger read {target}, which is {place} here")


def _doubts(found: Impact, place: Path) -> list[str]:
    """Where a path may not have meant this place."""
    read = [each.use for run in found.runs.values() for each in run.causes if each.use and not each.origin]
    elsewhere: dict[tuple[str, str], list[str]] = {}
    for use in read:
        if (use.data.path, use.host) != (str(place), gethostname()):
            elsewhere.setdefault((use.data.path, use.host), []).append(use.run)
    return [
        some(f"whether {path}, read on {host}, was this place then is not on record, only its content; read by", runs)
        for (path, host), runs in elsewhere.items()
    ]


def _something(found: Impact, nothing: str) -> Impact:
    if not found.runs:
        raise NotFound(
            _nothing(nothing, found.gaps),
            mend="name data by the URI that runs asked for (`ledger show RUN` tells it), by commit or digest, or by a "
            "file with the same content",
        )
    return found


def _digests(hasher: Hasher, target: str | Path) -> list[str]:
    """Digests that ``target`` may be known under: of a file on disk it may be that of the file alone."""
    path = Path(target)
    if not path.exists():
        return [str(target)]
    manifest = hasher.tree(path)
    return [manifest.digest] + ([manifest.entries[0].digest] if path.is_file() else [])


def _nothing(message: str, gaps: list[str]) -> str:
    return some(f"{message}; but", gaps) if gaps else message

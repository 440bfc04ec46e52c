"""What somebody asks about, by whatever he has of it: a path, a digest, the URI or the commit of data."""

from __future__ import annotations

from pathlib import Path
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
    place = local_path(target) if scheme(target) == "file" else None
    path = Path(target)
    known = path.exists() or SHORTENED.fullmatch(target)
    found = tracer.impact(
        lambda data: names_data(target, data) or (place is not None and data.path == str(place)),
        _digests(hasher, target) if known else [],
    )
    if not found.runs and path.is_dir():
        found = tracer.impact(lambda _: False, [e.digest for e in hasher.tree(path).entries if e.bytes])
    if not found.runs:
        raise NotFound(
            _nothing(f"no run of this ledger read {shown(target)}", found.gaps),
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

"""Where the lakeFS server is and with which key to ask it: what lakectl uses, or variables of our own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import DataUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

_OWN: Final = ("LAKEFS_ENDPOINT", "LAKEFS_ACCESS_KEY_ID", "LAKEFS_SECRET_ACCESS_KEY")
_LAKECTL: Final = (
    "LAKECTL_SERVER_ENDPOINT_URL",
    "LAKECTL_CREDENTIALS_ACCESS_KEY_ID",
    "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY",
)
_IN_FILE: Final = (
    ("server", "endpoint_url"),
    ("credentials", "access_key_id"),
    ("credentials", "secret_access_key"),
)


@dataclass(frozen=True)
class Access:
    """One server and one key."""

    endpoint: str
    key: str = field(repr=False)
    secret: str = field(repr=False)


def find_access(environ: Mapping[str, str]) -> Access:
    """The server that ``LAKEFS_…`` names, or else the one that lakectl would ask.

    The two are never mixed: a key is sent to no other server than the one it was set beside. Raises
    ``DataUnavailable`` naming what is not set; no message holds a value.
    """
    if environ.get(_OWN[0]):
        found, where = [environ.get(name) for name in _OWN], "the environment"
    else:
        file = Path(environ.get("LAKECTL_CONFIG_FILE") or Path(environ.get("HOME", "~")).expanduser() / ".lakectl.yaml")
        kept = _lakectl(file)
        # The file beneath the environment, one by one, as lakectl itself does.
        found = [
            environ.get(name) or kept.get(table, {}).get(key)
            for name, (table, key) in zip(_LAKECTL, _IN_FILE, strict=True)
        ]
        where = f"the environment or {file}"
    names = _OWN if environ.get(_OWN[0]) else _LAKECTL
    missing = [name for name, value in zip(names, found, strict=True) if not isinstance(value, str) or not value]
    if missing:
        raise DataUnavailable(
            f"which lakeFS server to ask, and with which key, is not said: {', '.join(missing)} not set in {where}",
            mend=f"run `lakectl config`, or set {', '.join(_LAKECTL)}",
        )
    return Access(*map(str, found))


def _lakectl(file: Path) -> Mapping[str, Mapping[str, Any]]:
    if not file.is_file():
        return {}
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        # YAML's own message quotes the line, which may be the one with the key.
        raise DataUnavailable(
            f"{file} cannot be read ({type(error).__name__})", mend="run `lakectl config` to write it anew"
        ) from None
    if not isinstance(content, dict):
        return {}
    return {table: keys for table, keys in content.items() if isinstance(keys, dict)}

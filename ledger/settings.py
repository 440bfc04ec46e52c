"""Where a ledger lives and how it behaves: ledger.toml, then the environment, then the command line.

Read once and passed in; nothing in Ledger looks at the environment again.
"""

from __future__ import annotations

import math
import os
import pwd
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from ledger.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE: Final = "ledger.toml"
FOLDER: Final = ".ledger"
DATABASE: Final = "ledger.db"
CPU: Final = "cpu"
"""The price of a CPU stands under this name, whatever its model."""

_SQLITE: Final = "sqlite:///"
_URL: Final = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


@dataclass(frozen=True)
class Prices:
    """What an hour of a device costs: the table ``[prices]`` of ledger.toml."""

    currency: str = ""
    per_hour: Mapping[str, float] = field(default_factory=dict)
    """By a part of the device's model; ``cpu`` for whatever CPU a rank holds."""

    def of(self, kind: str, model: str) -> float | None:
        """The price of a device, by the longest name that fits its model, in whatever case; None without one."""
        if kind == CPU:
            return self.per_hour.get(CPU)
        fitting = [name for name in self.per_hour if name != CPU and name.lower() in model.lower()]
        return self.per_hour[max(fitting, key=len)] if fitting else None


@dataclass(frozen=True)
class Settings:
    """One ledger's settings. URLs are absolute: a process in another directory means the same places."""

    url: str = field(repr=False)
    """The log: ``sqlite:////abs/ledger.db``, ``memory:`` or, for teams, a PostgreSQL URL, which may hold a password."""
    objects: str
    """The content-addressed objects: any fsspec URL."""
    checkpoints: str
    """Where checkpoints go: any URL that a checkpoint store answers to."""
    scratch: Path
    """Directory for hash caches, consoles being written, rebuilt workspaces, and checkpoints until they are stored.

    Local to a host, unless a training runs on several: all of them must see one and the same, for there the parts of
    a checkpoint are put together.
    """
    home: Path = field(default_factory=lambda: Path.cwd() / FOLDER)
    """The ledger's own directory on this host: that of an embedded log, else one beside ledger.toml."""
    base: Path = field(default_factory=Path.cwd)
    """Directory that relative paths in ``plugin_settings`` start from: that of ledger.toml."""
    project: str | None = None
    user: str | None = None
    code_limit_mb: int = 200
    """Largest working tree that is captured, in 10^6 bytes; what does not fit is named, never dropped in silence."""
    plugins: tuple[str, ...] | None = None
    """Third-party plugins to load by name; None loads all that are installed."""
    plugin_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The tables ``[plugin.NAME]`` of ledger.toml."""
    mirrors: tuple[str, ...] = ()
    """Mirrors that each run is delivered to while it trains, by name."""
    prices: Prices = field(default_factory=Prices)

    @property
    def journals(self) -> Path:
        """Local directory in which the facts of writers on this host wait for the log."""
        return self.scratch / "journals"

    @property
    def mirrored(self) -> Path:
        """Directory for trackers that are files, by name: they are to stay, unlike what is in ``scratch``."""
        return self.home / "mirrors"

    def places(self) -> list[Path]:
        """Local files and directories that are the ledger itself: never part of a run's code."""
        urls = [u for u in (self.objects, self.checkpoints) if u.startswith("file://")]
        found = [self.scratch, self.mirrored, *(Path(unquote(u.removeprefix("file://"))) for u in urls)]
        if self.url.startswith(_SQLITE):
            database = Path(self.url.removeprefix(_SQLITE))
            found += [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
            found += [database.parent] if database.parent.name == FOLDER else []
        return found

    def environ(self) -> dict[str, str]:
        """Variables under which a child process finds this very ledger."""
        return {
            "LEDGER_URL": self.url,
            "LEDGER_OBJECTS": self.objects,
            "LEDGER_CHECKPOINTS": self.checkpoints,
            "LEDGER_SCRATCH": str(self.scratch),
        } | ({"LEDGER_PLUGINS": ",".join(self.plugins)} if self.plugins is not None else {})


def find_settings(
    url: str | None = None, *, start: Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Settings for the ledger that ``url`` names or, without one, that is found from ``start``.

    ``url`` (or LEDGER_URL) is a database URL or the path of a directory. Otherwise ledger.toml is looked for in
    ``start`` (default: the working directory) and upward; without one the ledger is ``.ledger/`` in ``start``.
    Raises ``InvalidSettings`` naming the file and key.
    """
    environ = os.environ if environ is None else environ
    start = (start or Path.cwd()).absolute()
    file = next((d / FILE for d in (start, *start.parents) if (d / FILE).is_file()), None)
    table = _read(file) if file else {}
    base = file.parent if file else start

    ledger = table.get("ledger", {})
    asked = url or environ.get("LEDGER_URL")
    log, home = _locate(asked, start) if asked else _locate(ledger.get("url", FOLDER), base)
    if home is None:
        home = base / FOLDER
    objects = environ.get("LEDGER_OBJECTS") or (None if asked else _absolute(ledger.get("objects"), base))
    checkpoints = environ.get("LEDGER_CHECKPOINTS") or _absolute(ledger.get("checkpoints"), base)
    scratch = environ.get("LEDGER_SCRATCH")
    names = environ.get("LEDGER_PLUGINS")
    return Settings(
        url=log,
        objects=objects or (home / "objects").as_uri(),
        checkpoints=checkpoints or (home / "checkpoints").as_uri(),
        scratch=start / scratch if scratch else home / "scratch",
        home=home,
        base=base,
        project=ledger.get("project"),
        user=environ.get("LEDGER_USER") or environ.get("USER") or environ.get("LOGNAME") or _account(),
        code_limit_mb=table.get("capture", {}).get("code_limit_mb", Settings.code_limit_mb),
        plugins=None if names is None else tuple(n.strip() for n in names.split(",") if n.strip()),
        plugin_settings=table.get("plugin", {}),
        mirrors=tuple(ledger.get("mirrors", ())),
        prices=_prices(table.get("prices", {})),
    )


def _account() -> str | None:
    """The account of this process, where it has a name: services and containers set no variable."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


def in_memory(scratch: Path) -> Settings:
    """Settings of a ledger that is gone when the process ends, its objects under ``scratch``."""
    return Settings(
        url="memory:",
        objects=(scratch / "objects").as_uri(),
        checkpoints=(scratch / "checkpoints").as_uri(),
        scratch=scratch,
        home=scratch,
    )


def _locate(url: str, base: Path) -> tuple[str, Path | None]:
    """The log's absolute URL, and the directory that is the embedded ledger's home, if it has one."""
    if not _URL.match(url):
        home = (base / url).absolute()
        return f"sqlite:///{home / DATABASE}", home
    if url.startswith(_SQLITE):
        database = (base / url.removeprefix(_SQLITE)).absolute()
        return f"sqlite:///{database}", database.parent
    return url, None


def _absolute(url: str | None, base: Path) -> str | None:
    return url if url is None or _URL.match(url) else (base / url).absolute().as_uri()


_CURRENCY: Final = "currency"
_KEYS: Final[dict[str, dict[str, type]]] = {
    "ledger": {"url": str, "objects": str, "checkpoints": str, "project": str, "mirrors": list},
    "capture": {"code_limit_mb": int},
}


def _read(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSettings(
            f"{file}: {error}", mend="`ledger init` in a new directory writes one to compare with"
        ) from error
    for section, content in table.items():
        if section == "plugin":
            continue
        if section == "prices":
            _check_prices(file, content)
            continue
        known = _KEYS.get(section)
        if known is None or not isinstance(content, dict):
            raise InvalidSettings(
                f"{file}: [{section}] is not a section", mend=f"sections are {', '.join(_KEYS)}, prices, plugin.NAME"
            )
        for key, value in content.items():
            if key not in known:
                raise InvalidSettings(
                    f"{file}: {section}.{key} is not a setting", mend=f"settings of [{section}] are {', '.join(known)}"
                )
            if known[key] is list and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
                raise InvalidSettings(
                    f"{file}: {section}.{key} is {value!r}, not a list of names", mend=f'for example {key} = ["jsonl"]'
                )
            if type(value) is not known[key]:
                raise InvalidSettings(f"{file}: {section}.{key} is {value!r}, not {known[key].__name__}")
    return table


def _check_prices(file: Path, table: Any) -> None:
    example = 'write [prices], currency = "EUR", "H100" = 2.5, cpu = 0.05'
    if not isinstance(table, dict):
        raise InvalidSettings(f"{file}: prices is not a section", mend=example)
    currency = table.get(_CURRENCY)
    if not (isinstance(currency, str) and currency.strip()):
        raise InvalidSettings(f"{file}: prices.currency is {currency!r}: it is the name of a currency", mend=example)
    for name, price in table.items():
        if name == _CURRENCY:
            continue
        if not name.strip():
            raise InvalidSettings(f"{file}: a price in [prices] names no device", mend=example)
        if type(price) not in (int, float) or not (0 <= price < math.inf):
            raise InvalidSettings(
                f"{file}: prices.{name} is {price!r}, no number of {currency} for an hour", mend=example
            )


def _prices(table: Mapping[str, Any]) -> Prices:
    per_hour = {name: float(price) for name, price in table.items() if name != _CURRENCY}
    return Prices(table.get(_CURRENCY, ""), per_hour)

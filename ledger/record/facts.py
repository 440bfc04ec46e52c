"""What is put on record when a run begins and ends, in the order of a run's life."""

from __future__ import annotations

import traceback as tracebacks
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ledger.codec import canonical_digest, new_id
from ledger.errors import LedgerError, NotFound, UsageError
from ledger.events import ArtifactWritten, ConfigResolved, EnvironmentCaptured, RunFailed
from ledger.record.capture.code import capture_code
from ledger.record.capture.environment import capture_environment
from ledger.record.capture.interpreter import interpreter_of
from ledger.store.base import run_stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ledger.book import Book
    from ledger.codec import Recorded
    from ledger.events import Event, RunStarted
    from ledger.record.capture.interpreter import Interpreter
    from ledger.record.capture.secrets import Redactor


def begin(book: Book, started: RunStarted, run_id: str, *facts: Event) -> list[Recorded]:
    """Append the first events of a run's stream, all or none."""
    return book.append(run_id, started, *facts, attempt=1)


def new_run(book: Book) -> tuple[str, str]:
    """UUID and name of a run that is about to start."""
    run_id = new_id()
    return run_id, book.store.name_run(run_stream(run_id))


def capture(
    book: Book,
    directory: Path,
    *,
    command: Sequence[str],
    entry_point: str | None = None,
    exclude: Sequence[Path] = (),
) -> list[Event]:
    """Code and environment as they are now. ``exclude`` names data that is pinned on its own."""
    settings = book.settings
    interpreter = interpreter_of(command, directory=directory)
    code = capture_code(
        directory,
        book.objects,
        book.hasher,
        limit_bytes=settings.code_limit_mb * 10**6,
        exclude=[*settings.places(), *exclude],
        entry_point=entry_point,
        interpreter=interpreter,
    )
    return [code, environment(book, interpreter)]


def environment(book: Book, interpreter: Interpreter, environ: Mapping[str, str] | None = None) -> EnvironmentCaptured:
    """What a command under ``interpreter`` would run on if it were started now, with ``environ`` or this process's."""
    sections, failures = book.plugins.environment()
    return capture_environment(sections, failures, book.objects, environ=environ, interpreter=interpreter)


def resolved_config(
    config: Mapping[str, Any], overrides: Sequence[str], redactor: Redactor, *, seed: int | None = None
) -> ConfigResolved:
    """The configuration as it goes on record, its secrets withheld."""
    clean, withheld = redactor.config(config)
    try:
        digest = canonical_digest(clean)
    except TypeError as error:
        raise UsageError(
            f"the configuration cannot be recorded: {error}", mend="use numbers, text, lists and tables"
        ) from error
    return ConfigResolved(config=clean, overrides=redactor.argv(overrides), digest=digest, withheld=withheld, seed=seed)


def written_artifact(book: Book, directory: Path, path: Path) -> ArtifactWritten:
    """Keep ``path``, relative to ``directory`` or absolute, as an object. Raises ``NotFound``."""
    place = directory / path
    if not place.exists():
        raise NotFound(f"{path} does not exist", mend="name a file or directory that the run writes")
    manifest = book.hasher.tree(place)
    book.objects.put_tree(place, manifest)
    with suppress(ValueError):
        path = place.relative_to(directory)
    return ArtifactWritten(path=path.as_posix(), digest=manifest.digest, bytes=manifest.bytes)


def failure(error: BaseException, step: float | None, redactor: Redactor) -> RunFailed:
    """What is recorded of an exception that ended a run."""
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    told = redactor.text("".join(tracebacks.format_exception(error)))
    return RunFailed(exception=redactor.text(_summary(error)), traceback=told, exit_code=code, step=step)


def _summary(error: BaseException) -> str:
    """The exception in a line; what Ledger itself raises needs no class in front, and says what to do about it."""
    if isinstance(error, LedgerError):
        return f"{error} ({error.mend})" if error.mend else str(error)
    return "".join(tracebacks.format_exception_only(error)).strip()

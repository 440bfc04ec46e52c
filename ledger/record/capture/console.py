"""What a command prints: shown as it comes, and kept with its secrets masked."""

from __future__ import annotations

import os
import selectors
import sys
import threading
from typing import IO, TYPE_CHECKING, Final, Self

from ledger.events import ConsoleCaptured

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.objects import ObjectStore
    from ledger.record.capture.secrets import MaskedStream, Redactor

_CHUNK: Final = 1 << 16
_LAST_LOOK: Final = 1 << 20
"""What a pipe can hold at most on Linux, unless root has raised it: so much is read of one that nobody
closes."""


class Console:
    """Both output streams of one command, in order of arrival, kept in the file ``spool``.

    Sequence of calls: ``open`` before the command starts; ``pump`` once it has what that returned;
    ``drain`` when it has ended; ``store``. After ``hush`` nothing is shown any more. The copy is masked
    line by line, what is shown is not: it is the user's own terminal. A terminal that has gone away, or a
    spool that cannot be written, never stops the command; ``failure`` tells of the latter.
    """

    def __init__(
        self,
        spool: Path,
        redactor: Redactor,
        *,
        out: IO[bytes] | None = None,
        err: IO[bytes] | None = None,
    ) -> None:
        self._path = spool
        self._redactor = redactor
        self._shown: tuple[IO[bytes] | None, ...] = (out or _binary(sys.stdout), err or _binary(sys.stderr))
        self._pipes = self._ours = (-1, -1)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._hushed = threading.Event()
        self.failure: OSError | None = None
        """Why the kept copy is not whole."""

    def open(self) -> tuple[int, int]:
        """File descriptors for the command's standard output and error."""
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        self._pipes, self._ours = (out, err), (out_end, err_end)
        return self._ours

    def pump(self) -> None:
        """Let go of what ``open`` returned, which is the command's now, and begin to show and to keep."""
        for descriptor in self._ours:
            os.close(descriptor)
        # Begun only now, so that the command is not forked from a process with one thread more.
        self._thread = threading.Thread(target=self._pump, args=(self._pipes,), name="ledger-console", daemon=True)
        self._thread.start()

    def hush(self) -> None:
        """Show nothing of what comes from now on, and keep it all the same."""
        self._hushed.set()

    def drain(self, timeout_s: float = 1.0) -> None:
        """Wait until all that the command wrote is kept.

        A process that it left behind may hold the output open for ever: after ``timeout_s`` what has been
        written so far counts as all.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
            self._stop.set()
            self._thread.join()
            self._thread = None

    def tail(self, limit: int = 1 << 19) -> str:
        """The last ``limit`` bytes of the kept copy."""
        try:
            with self._path.open("rb") as spool:
                spool.seek(max(0, spool.seek(0, os.SEEK_END) - limit))
                return spool.read(limit).decode("utf-8", "replace")
        except OSError:
            return ""

    def store(self, objects: ObjectStore) -> ConsoleCaptured:
        """Keep the copy as an object and remove the spool. Raises what ``ObjectStore.put_file`` raises."""
        if not self._path.is_file():  # it never started, or there was no writing it
            return ConsoleCaptured(digest=objects.put_bytes(b""), bytes=0)
        captured = ConsoleCaptured(digest=objects.put_file(self._path), bytes=self._path.stat().st_size)
        self._path.unlink()
        return captured

    def _pump(self, pipes: tuple[int, int]) -> None:
        with _Spool(self._path) as spool, selectors.DefaultSelector() as selector:
            channels = [
                _Channel(pipe, shown, self._redactor.stream(), spool, self._hushed)
                for pipe, shown in zip(pipes, self._shown, strict=True)
            ]
            try:
                for channel in channels:
                    selector.register(channel.pipe, selectors.EVENT_READ, channel)
                while selector.get_map() and not self._stop.is_set():
                    for key, _ in selector.select(0.1):
                        if not key.data.forward(_CHUNK):
                            selector.unregister(key.fd)
            finally:
                for channel in channels:
                    channel.close()
        self.failure = spool.failure


class _Spool:
    """The kept copy, as far as it can be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.failure: OSError | None = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: when this process is killed, what was shown has been kept.
            self._file = self._path.open("wb", buffering=0)
        except OSError as error:
            self.failure = error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, content: bytes) -> None:
        if self._file is None or self.failure is not None:
            return
        try:
            view = memoryview(content)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            self.failure = error


class _Channel:
    """One stream on its way from the command's pipe to the terminal and to the spool."""

    def __init__(
        self, pipe: int, shown: IO[bytes] | None, masked: MaskedStream, spool: _Spool, hushed: threading.Event
    ) -> None:
        self.pipe = pipe
        self._hushed = hushed
        self._shown = shown
        self._masked = masked
        self._spool = spool
        os.set_blocking(pipe, False)

    def forward(self, limit: int) -> int:
        """Pass on what is there, up to ``limit`` bytes; 0 at the end of the stream."""
        try:
            chunk = os.read(self.pipe, limit)
        except BlockingIOError:
            return -1
        if chunk:
            self._show(chunk)
            self._spool.write(self._masked.feed(chunk))
        return len(chunk)

    def close(self) -> None:
        """Pass on what the pipe still holds, and let go of it."""
        left = _LAST_LOOK
        while left > 0 and (got := self.forward(min(left, _CHUNK))) > 0:
            left -= got
        self._spool.write(self._masked.close())
        os.close(self.pipe)

    def _show(self, chunk: bytes) -> None:
        if self._shown is not None and not self._hushed.is_set():
            try:
                self._shown.write(chunk)
                self._shown.flush()
            except (OSError, ValueError):  # `ledger run … | head` has closed it; ValueError: this process has
                self._shown = None


def _binary(stream: object) -> IO[bytes] | None:
    """The bytes below a text stream; None where there is no such thing (a notebook, a window)."""
    return getattr(stream, "buffer", None)

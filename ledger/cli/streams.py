"""The standard streams of the command line: data must arrive or that is an error, talk may be lost."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any, Final, TypeGuard

OUT: Final = "standard output"
"""The name under which an ``OSError`` tells that data could not be brought out."""
_NUMBERS: Final = {"stdin": 0, "stdout": 1, "stderr": 2}


class ReaderLeft(OSError):
    """Whoever reads standard output has seen enough, as `head` has."""


def settle() -> None:
    """Make the streams of this process what the commands rely on.

    Whatever a plugin's libraries and child processes write to descriptor 1 comes out where talk does.
    """
    for name, number in _NUMBERS.items():
        _must_be_open(name, number)
    out, err = sys.stdout, sys.stderr
    if isinstance(out, io.TextIOWrapper):
        # A file name need not be UTF-8, nor the terminal: what cannot be said is spelled out, no reason to fail.
        out.reconfigure(errors="backslashreplace")
    if not (_is_own(out, "stdout") and _is_own(err, "stderr")):
        return
    sys.stderr = sys.__stderr__ = _text(_Talk(_NUMBERS["stderr"], "w", closefd=False), err)  # type: ignore[misc]
    data = os.dup(_NUMBERS["stdout"])
    os.dup2(_NUMBERS["stderr"], _NUMBERS["stdout"])
    # Also as ``__stdout__``, where the size of the terminal is asked for.
    sys.stdout = sys.__stdout__ = _text(_Data(data, "w"), out)  # type: ignore[misc]


def finish() -> None:
    """Bring out what is still buffered; what cannot be was told as an error before, or is a command's own output."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # else the interpreter tries once more, and complains
        os.close(nowhere)


class _Data(io.FileIO):
    """Standard output. Its failures say whose they are."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError as error:
            raise ReaderLeft(OUT) from error
        except OSError as error:
            error.filename = OUT
            raise


class _Talk(io.FileIO):
    """Standard error. A terminal that has gone away costs no run."""

    def write(self, content: Any, /) -> int:
        with suppress(OSError):
            return super().write(content)
        return len(content)


def _text(raw: io.FileIO, like: io.TextIOWrapper) -> io.TextIOWrapper:
    # Without a buffer as Python itself does it under -u.
    buffer = raw if like.write_through else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        like.encoding,
        like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def _is_own(stream: Any, name: str) -> TypeGuard[io.TextIOWrapper]:
    """Whether a stream is what this process was started with, and not a test's or a caller's."""
    started = getattr(sys, f"__{name}__")
    return isinstance(stream, io.TextIOWrapper) and stream is started and stream.fileno() == _NUMBERS[name]


def _must_be_open(name: str, number: int) -> None:
    """Open a stream that is closed (``>&-``): else the next file, a database perhaps, would have its number.

    What is written to it fails as if it were closed.
    """
    if getattr(sys, f"__{name}__") is not None:
        return
    nothing = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
    os.set_inheritable(nothing, True)  # for the same reason
    opened = open(nothing, "w" if number else "r")  # noqa: SIM115 - for as long as this process runs
    setattr(sys, name, opened)
    setattr(sys, f"__{name}__", opened)

"""Chance that is nobody else's: what the libraries draw, such as pauses between tries, changes no training.

They work in threads of the process that trains, and draw from the generator of the module ``random``, as a training
may: when they are imported, and whenever they try again. A number more or less there would change what is trained next,
and the state that the next checkpoint holds.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_LIBRARIES: Final = frozenset({"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs"})
_importing: Final = threading.Lock()


@cache
def own() -> ModuleType:
    """The module ``random`` once more, with a generator of its own."""
    spec = importlib.util.find_spec("random")
    assert spec  # noqa: S101 - it is Python's own
    assert spec.loader  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def apart() -> Iterator[None]:
    """Libraries that are imported in here, or were before, draw from that one."""
    apart, theirs = own(), random
    with _importing:
        sys.modules["random"] = apart
        try:
            yield
        finally:
            sys.modules["random"] = theirs
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] in _LIBRARIES and getattr(module, "random", None) is theirs:
            module.random = apart  # type: ignore[attr-defined]

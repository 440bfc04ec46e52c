"""Run the conformance tests of a module, a line of JSON for each: ``python -m ledger.testing.session MODULE FD``.

In a process of its own: tests are code of the plugin's, and pytest changes how modules are imported.
"""

from __future__ import annotations

import json
import os
import sys
from pkgutil import iter_modules
from typing import IO, TYPE_CHECKING, Any

import pytest

from ledger import testing

if TYPE_CHECKING:
    from collections.abc import Sequence


class Reporter:
    """A pytest plugin that tells which kits there are, and how each test ended."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def pytest_configure(self) -> None:
        """Let the kits' assertions show their values, as those of a test file do."""
        pytest.register_assert_rewrite(*(f"{__package__}.{each.name}" for each in iter_modules(testing.__path__)))

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        """Tell which kits the collected tests come from."""
        classes = {item.cls for item in items if isinstance(item, pytest.Function) and item.cls is not None}
        bases = {base.__name__ for cls in classes for base in cls.__mro__ if base.__module__.startswith(__package__)}
        self._tell({"kits": sorted(bases), "tests": len(items)})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Tell of a module that cannot be imported."""
        if report.failed:
            self._tell({"test": "collection", "outcome": "failed", "reason": report.longreprtext})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell how a test ended, and of what went wrong before or after it."""
        if report.when == "call" or report.outcome != "passed":
            name = report.nodeid.partition("::")[2]
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            self._tell({"test": name, "outcome": report.outcome, "reason": reason})

    def _tell(self, facts: dict[str, Any]) -> None:
        self._stream.write(json.dumps(facts) + "\n")
        self._stream.flush()


def main(module: str, descriptor: int) -> int:
    """Run the tests of ``module``; the exit code of pytest."""
    alone = ["-c", os.devnull, "--rootdir", os.getcwd(), "-p", "no:cacheprovider"]
    with open(descriptor, "w", encoding="utf-8") as stream:
        return int(pytest.main([*alone, "--pyargs", module], plugins=[Reporter(stream)]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))

"""docs/plugins.md: every hook as its specification has it, and a tracker that is built from what stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ledger.hooks import specs
from ledger.scaffold import write
from ledger.testing.examination import KITS
from tests.e2e.desk import Desk
from tests.meta.hooks_reference import HOOKS, PAGE, written

ROOT = Path(__file__).parents[2]


def test_there_are_hooks() -> None:
    assert len(HOOKS) >= 12


def test_the_reference_is_that_of_the_specifications() -> None:
    text = PAGE.read_text()
    assert text == written(text), "`make docs` writes it anew"


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_every_hook_says_what_its_failure_costs(name: str) -> None:
    summary, *_ = (HOOKS[name].__doc__ or "").splitlines()
    assert summary
    assert (HOOKS[name].__doc__ or "").count("Failing: ") == 1


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_tested_by_name(name: str) -> None:
    tests = (ROOT / "tests/core/test_plugins.py").read_text()
    assert f"def {name}(self" in tests


def test_the_version_of_the_api_is_that_of_the_docs() -> None:
    assert f"now\n{specs.API}." in PAGE.read_text()
    assert f"ledger_api = {specs.API}\n" in PAGE.read_text()


@pytest.mark.parametrize("hook", sorted(KITS))
def test_the_kit_of_each_port_stands_there(hook: str) -> None:
    assert re.search(rf"`{hook}` \| `ledger\.testing\.\w+\.{KITS[hook]}`", PAGE.read_text())


def python() -> list[str]:
    """What stands there to be copied."""
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_tracker_of_15_minutes_is_that_of_the_sample() -> None:
    assert python()[0] == (ROOT / "tests/sample_plugin/ledger_logbook/tracker.py").read_text()


@pytest.mark.slow
def test_the_tracker_of_15_minutes_is_one(tmp_path: Path) -> None:
    """Followed to the letter, without pip: the distribution is found where pip would have put it."""
    tracker, capability, *_ = python()
    site = tmp_path / "ledger-logbook"
    write("logbook", "tracker", site)
    (site / "ledger_logbook/tracker.py").write_text(tracker)
    conformance = site / "ledger_logbook/conformance.py"
    before, _, occupy = conformance.read_text().rpartition("    @pytest.fixture\n")
    assert "def occupy" in occupy
    conformance.write_text(before + capability)
    info = site / "ledger_logbook-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ledger-logbook\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(
        "[ledger.plugins]\nlogbook = ledger_logbook\n[ledger.conformance]\nlogbook = ledger_logbook.conformance\n"
    )
    (tmp_path / "desk").mkdir()
    desk = Desk(tmp_path / "desk")
    desk.environ["PYTHONPATH"] = str(site)
    found = desk.ledger("plugins", "check", "logbook", "--json").json
    assert len(found) > 30
    assert {each["state"] for each in found} <= {"ok", "skip"}
    desk.write(train__py="import ledger\nwith ledger.start_run(seed=1) as run:\n    run.log({'loss': 0.5}, step=1)\n")
    desk.ledger("run", "--", "python", "train.py")
    for line in re.findall(r"^ledger mirror .*--to logbook.*$", PAGE.read_text(), re.MULTILINE):
        desk.ledger(*line.split()[1:])
    assert list((tmp_path / "desk/logbook").glob("*/*.json"))

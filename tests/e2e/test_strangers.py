"""Plugins of strangers, found by their entry points: good ones, broken ones, and ones that are not all there."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.desk import Desk


def install(site: Path, name: str, module: str) -> None:
    """A distribution with one plugin, as pip would leave it."""
    (site / f"stranger_{name}.py").write_text(textwrap.dedent(module))
    info = site / f"stranger_{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: stranger-{name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[ledger.plugins]\n{name} = stranger_{name}\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "broken", "raise ValueError('half of me is missing')\n")
    install(site, "needy", "import a_sdk_that_nobody_has\n")
    install(site, "mistaken", "from ledger import hookimpl\n@hookimpl\ndef open_data_sauce(uri): ...\n")
    raising = """
        from ledger import hookimpl

        @hookimpl
        def events_appended(recorded):
            raise RuntimeError("boom")

        @hookimpl
        def capture_environment():
            raise RuntimeError("bang")
    """
    install(site, "raising", raising)
    return site


def test_each_is_listed_with_what_is_wrong_with_it(desk: Desk, site: Path) -> None:
    found = {p["name"]: p for p in desk.ledger("plugins", "--json", PYTHONPATH=str(site)).json}
    assert {name: found[name]["status"] for name in ("broken", "needy", "mistaken", "raising", "local")} == {
        "broken": "broken",
        "needy": "not installed",
        "mistaken": "broken",
        "raising": "ok",
        "local": "ok",
    }
    assert "half of me is missing" in found["broken"]["reason"]
    assert "a_sdk_that_nobody_has" in found["needy"]["reason"]
    assert "open_data_sauce" in found["mistaken"]["reason"]
    assert found["broken"]["version"] == "1.2"


def test_a_run_is_recorded_and_replayed_whatever_they_do(desk: Desk, site: Path) -> None:
    desk.write(train__py="import ledger\nwith ledger.start_run(seed=1) as run:\n    run.log({'a': 1}, step=1)\n")
    done = desk.ledger("run", "--", "python", "train.py", PYTHONPATH=str(site))
    assert "raising" in done.err
    assert "boom" in done.err
    (captured, *_) = [f for f in desk.ledger("log", "run-1", "--json").json if f["type"] == "environment.captured"]
    assert "bang" in captured["payload"]["failures"]["raising"]
    assert desk.ledger("replay", "run-1", PYTHONPATH=str(site)).out.startswith("identical")


def test_they_can_be_left_out(desk: Desk, site: Path) -> None:
    environ = {"PYTHONPATH": str(site), "LEDGER_PLUGINS": ""}
    found = {p["name"]: p["status"] for p in desk.ledger("plugins", "--json", **environ).json}
    assert {found[name] for name in ("broken", "needy", "mistaken", "raising")} == {"disabled"}
    assert found["local"] == "ok"

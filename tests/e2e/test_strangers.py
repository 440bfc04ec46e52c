"""Plugins of strangers, found by their entry points: good ones, broken ones, and ones that are not all there."""

from __future__ import annotations

import signal
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from ledger.hooks import specs
from tests.e2e.desk import PATIENCE_S
from tests.engine_table import RECIPE, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.desk import Desk, Done

HOOKS = sorted(name for name, each in vars(specs).items() if hasattr(each, "ledger_spec"))
ISOLATED = ["capture_environment", "compare_runs", "events_appended", "open_mirrors"]
"""Those that a run, its replay and its mirrors call, and whose failure costs none of them."""
STOPPING = ["register_events", "open_data_source", "launch_command", "before_replay", "open_trainer"]
TRAIN = """
import ledger

with ledger.start_run(config={"lr": 0.1}, seed=1) as run:
    for step in range(3):
        run.log({"loss": 1 / (step + 1)}, step=step)
"""
IMPATIENT = """
    from ledger.hooks import manager

    manager.LIMIT_S = 1.5
"""


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


# --- each hook, each misdeed -------------------------------------------------------------------------------

MISDEEDS = {
    "raises": "raise RuntimeError('boom ' + os.environ.get('STRANGERS_API_KEY', ''))",
    "exits": "sys.exit(7)",
    "hangs": "time.sleep(3600)",
    "prints": "print('hello'); os.write(1, b'from below\\n'); os.system('echo from a child')",
    "forks": "os.fork()",
}


def stranger(site: Path, hook: str, misdeed: str) -> str:
    """A plugin that does that in one hook and, if it comes so far, answers with None; its name."""
    name = f"{misdeed}_{hook}"
    module = f"""
        import os, sys, time
        from ledger import hookimpl

        @hookimpl(tryfirst=True)
        def {hook}():
            {MISDEEDS[misdeed]}
    """
    install(site, name, module)
    return name


def recorded_and_replayed(desk: Desk, site: Path) -> tuple[Done, Done]:
    desk.write(train__py=TRAIN, words__txt="some words")
    environ = {"PYTHONPATH": str(site), "STRANGERS_API_KEY": "hunter3secret99"}
    recorded = desk.ledger("run", "--data", "train=file:words.txt", "--", "python", "train.py", **environ)
    return recorded, desk.ledger("replay", "run-1", "--json", code=None, **environ)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[float, dict[str, float]]:
    """The metrics of the run without any plugin of strangers."""
    from tests.e2e.desk import Desk

    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.write(train__py=TRAIN)
    desk.ledger("run", "--", "python", "train.py")
    return desk.metrics("run-1")


@pytest.mark.slow
@pytest.mark.parametrize("misdeed", ["raises", "exits", "hangs"])
def test_what_costs_no_run_costs_no_run(
    desk: Desk, tmp_path: Path, misdeed: str, undisturbed: dict[float, dict[str, float]]
) -> None:
    """A plugin for each of the hooks, all at once: were they one, the first failure would save us from the others."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, "impatient", IMPATIENT)
    names = {hook: stranger(site, hook, misdeed) for hook in ISOLATED}
    recorded, replayed = recorded_and_replayed(desk, site)
    assert desk.metrics("run-1") == desk.metrics("run-2") == undisturbed
    assert names["events_appended"] in recorded.err
    (captured, *_) = [f for f in desk.ledger("log", "run-1", "--json").json if f["type"] == "environment.captured"]
    assert names["capture_environment"] in captured["payload"]["failures"]
    assert "hunter" not in desk.ledger("log", "run-1", "--json").out + desk.ledger("log", "run-2", "--json").out
    (compared,) = replayed.json
    assert replayed.code == 1  # for that one check failed, and nothing else
    failed = [check["name"] for check in compared["checks"] if not check["passed"]]
    assert failed == [f"plugin {names['compare_runs']}"]
    asked = desk.ledger("mirror", "run-1", "--to", "nobody", code=2, PYTHONPATH=str(site))
    assert names["open_mirrors"] in asked.err
    assert "jsonl" in asked.err


@pytest.mark.slow
def test_what_it_prints_and_forks_changes_nothing_in_any_hook(
    desk: Desk, tmp_path: Path, undisturbed: dict[float, dict[str, float]]
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    names = {misdeed: [stranger(site, hook, misdeed) for hook in HOOKS] for misdeed in ("prints", "forks")}
    recorded, replayed = recorded_and_replayed(desk, site)
    # What comes from below in the training process is the training's own output to everybody else.
    assert "hello" not in recorded.out
    assert "from" not in replayed.out
    assert replayed.json[0]["verdict"] == "identical"
    assert desk.metrics("run-1") == desk.metrics("run-2") == undisturbed
    log = desk.ledger("log", "run-1", "--json").json
    assert len({fact["event_id"] for fact in log}) == len(log)
    assert [fact["type"] for fact in log].count("run.completed") == 1
    assert len(desk.ledger("ls", "--json").json) == 2
    for those in names.values():
        asked = {name for name in those if f"plugin {name}: " in recorded.err + replayed.err}
        assert len(asked) >= 6, asked


@pytest.mark.parametrize("misdeed", ["raises", pytest.param("exits", marks=pytest.mark.slow)])
@pytest.mark.parametrize("hook", STOPPING)
def test_what_a_run_depends_on_stops_it_with_one_message(desk: Desk, tmp_path: Path, hook: str, misdeed: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    desk.write(train__py=TRAIN, words__txt="some words", recipe__toml=RECIPE)
    words = {
        "open_data_source": ("run", "--data", "train=file:words.txt", "--", "python", "train.py"),
        "before_replay": ("replay", "run-1"),
        "open_trainer": ("train", "recipe.toml"),
    }.get(hook, ("run", "--", "python", "train.py"))
    if hook == "before_replay":
        desk.ledger("run", "--", "python", "train.py")
    name = stranger(site, hook, misdeed)
    said = desk.ledger(*words, code=4, PYTHONPATH=str(site)).err
    assert f"plugin {name} 1.2 failed in {hook}" in said
    assert "LEDGER_PLUGINS" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_launcher_that_hangs_can_be_stopped(desk: Desk, tmp_path: Path, stop: signal.Signals) -> None:
    site = tmp_path / "site"
    site.mkdir()
    hangs = """
        import time
        from pathlib import Path
        from ledger import hookimpl

        @hookimpl(tryfirst=True)
        def launch_command():
            Path("asked").touch()
            time.sleep(3600)
    """
    install(site, "hangs", hangs)
    desk.environ["PYTHONPATH"] = str(site)
    command = desk.start("run", "--", "true")
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (desk.home / "asked").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        command.send_signal(stop)
        assert "interrupted" in command.communicate(timeout=PATIENCE_S)[0]
    finally:
        command.kill()
    assert command.returncode == 130
    assert desk.ledger("ls", "--json").json == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("hook", "code"),
    [
        ("open_checkpoint_store", 4),
        ("check_engine", 4),
        ("build_engine", 5),
        ("offer_engines", 0),
        ("open_trainer", 4),
    ],
)
def test_what_a_training_asks_for(desk: Desk, tmp_path: Path, hook: str, code: int) -> None:
    """The same with a training, which asks for more."""
    site = tmp_path / "site"
    site.mkdir()
    desk.write(recipe__toml=RECIPE.replace("steps = 80", "steps = 4"))
    write_text(desk.home)
    name = stranger(site, hook, "raises")
    done = desk.ledger("train", "recipe.toml", "engine.name=torch", code=code, PYTHONPATH=str(site))
    assert f"plugin {name}" in done.out + done.err
    assert "boom" in done.out + done.err


def test_one_that_is_broken_is_named_and_costs_nothing(desk: Desk, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "raises", "raise ValueError('half of me is missing')\n")
    install(site, "exits", "import sys\nsys.exit(7)\n")
    install(site, "needs", "import a_sdk_that_nobody_has\n")
    install(site, "newer", "ledger_api = 2\n")
    install(site, "prints", "print('hello')\n")
    install(site, "forks", "import os\nos.fork()\n")
    recorded, replayed = recorded_and_replayed(desk, site)
    assert recorded.out == ""
    assert replayed.json[0]["verdict"] == "identical"
    for name in ("raises", "exits", "needs", "newer", "prints", "forks"):
        assert f"plugin {name}" in recorded.err
    (captured, *_) = [f for f in desk.ledger("log", "run-1", "--json").json if f["type"] == "environment.captured"]
    assert {"raises", "exits", "needs", "newer"} <= captured["payload"]["failures"].keys()
    listed = {p["name"]: p for p in desk.ledger("plugins", "--json", PYTHONPATH=str(site)).json}
    assert (listed["newer"]["status"], listed["exits"]["status"]) == ("other API", "broken")
    assert "pip install --upgrade training-ledger" in listed["newer"]["mend"]

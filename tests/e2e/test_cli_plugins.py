"""``ledger plugins new`` and ``check``: what it writes installs, passes, and is used by a real run, as it stands."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ledger.scaffold import KINDS, rendered, write
from tests.e2e.desk import Desk
from tests.e2e.venvs import Venv

LONGEST = "a-rather-long-name-for-a-plugi"
TRAIN = """
import ledger
with ledger.start_run(config={"lr": 0.1}, seed=1) as run:
    for step in range(3):
        run.log({"loss": 1 / (step + 1)}, step=step)
"""


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    return Venv(tmp_path_factory.mktemp("stranger") / "venv")


def made(desk: Desk, venv: Venv, kind: str) -> Path:
    """A new plugin of that kind, installed."""
    desk.ledger("plugins", "new", f"my-{kind}", "--kind", kind)
    venv.pip("install", "--editable", f"{desk.home / f'ledger-my-{kind}'}[test]")
    return desk.home / f"ledger-my-{kind}"


def checked(venv: Venv, home: Path, name: str) -> dict[str, str]:
    """The state of each finding."""
    out = venv.python("-m", "ledger", "plugins", "check", name, "--json", cwd=home)
    return {found["check"]: found["state"] for found in map(json.loads, out.splitlines())}


@pytest.mark.slow
def test_a_new_data_source_installs_passes_and_is_replayed_from(venv: Venv, tmp_path: Path) -> None:
    desk = venv.desk(tmp_path / "desk")
    venv.python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=made(desk, venv, "data"))
    states = checked(venv, desk.home, "my-data")
    assert set(states.values()) == {"ok"}
    assert len(states) > 15
    snapshots = tmp_path / "snapshots"
    for date in ("2026-01-31", "2026-02-28"):
        (snapshots / date).mkdir(parents=True)
        (snapshots / date / "words.txt").write_text(date)
    desk.write(train__py=TRAIN)
    desk.ledger("run", "--data", f"train=my-data:{snapshots}", "--", "python", "train.py")
    (snapshots / "2026-03-31").mkdir()
    (snapshots / "2026-03-31/words.txt").write_text("newer")
    assert desk.ledger("replay", "run-1").out.startswith("identical")
    (committed,) = [f["payload"] for f in desk.ledger("log", "run-1", "--json").json if f["type"] == "data.committed"]
    assert (committed["commit"], committed["provider"]) == ("2026-02-28", "my-data")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["tracker", "store", "engine"])
def test_a_new_plugin_installs_and_passes(venv: Venv, tmp_path: Path, kind: str) -> None:
    desk = venv.desk(tmp_path / "desk")
    home = made(desk, venv, kind)
    if kind != "engine":  # its tests train for minutes, and `plugins check` runs them, too
        venv.python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=home)
    states = checked(venv, desk.home, f"my-{kind}")
    assert set(states.values()) <= {"ok", "skip"}
    assert len(states) > 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["x", LONGEST])
def test_what_is_written_is_as_ruff_would_have_it(tmp_path: Path, kind: str, name: str) -> None:
    write(name, kind, tmp_path / "new")
    for words in (["check"], ["format", "--check", "--diff"]):
        argv = [sys.executable, "-m", "ruff", *words, "--no-cache", "."]
        done = subprocess.run(argv, cwd=tmp_path / "new", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.thorough if k == "engine" else ()) for k in KINDS])
def test_what_is_written_has_the_types_that_it_says(tmp_path: Path, kind: str) -> None:
    write("mine", kind, tmp_path / "new")
    argv = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(argv, cwd=tmp_path / "new", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_template_is_left(kind: str) -> None:
    for path, content in rendered("mine", kind).items():
        for word in ("plugin-name", "plugin_name", "LEDGER_VERSION", "PLUGIN_"):
            assert word not in path
            assert word not in content, path


@pytest.mark.parametrize("name", ["Bad", "my_tracker", "-x", "x-", "", "ledger-mine", "a" * 31, "../up", "9lives", "ä"])
def test_a_name_that_cannot_be_is_refused_with_one_that_can(desk: Desk, name: str) -> None:
    said = desk.ledger("plugins", "new", "--kind", "data", "--", name, code=2).err
    assert "is no name for a plugin" in said
    assert said.count("\n") == 2
    assert not [each for each in desk.home.iterdir() if each.name != ".git"]


def test_the_name_of_an_installed_plugin_is_taken(desk: Desk) -> None:
    said = desk.ledger("plugins", "new", "mlflow", "--kind", "tracker", code=2).err
    assert "a plugin 'mlflow' is installed already" in said
    assert not (desk.home / "ledger-mlflow").exists()


def test_what_is_there_is_never_written_over(desk: Desk) -> None:
    (desk.home / "mine").mkdir()
    (desk.home / "link").symlink_to("nowhere")
    for place in ("mine", "link"):
        said = desk.ledger("plugins", "new", "mine", "--kind", "data", place, code=2).err
        assert f"{place} exists already" in said
    assert not list((desk.home / "mine").iterdir())


# --- check -------------------------------------------------------------------------------------------------


def install(site: Path, name: str, conformance: str = "", **modules: str) -> None:
    """A distribution of one plugin, as pip would leave it; with the module of its conformance tests if it has one."""
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text)
    info = site / f"stranger_{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: stranger-{name}\nVersion: 1.2\n")
    entries = f"[ledger.plugins]\n{name} = {next(iter(modules))}\n"
    (info / "entry_points.txt").write_text(
        entries + (f"[ledger.conformance]\n{name} = {conformance}\n" if conformance else "")
    )


MIRROR = "from ledger import hookimpl\n\n@hookimpl\ndef open_mirrors(settings):\n    return []\n"


def found(desk: Desk, site: Path, name: str) -> dict[str, dict[str, str]]:
    """The findings about a plugin that fails."""
    told = desk.ledger("plugins", "check", name, "--json", code=1, PYTHONPATH=str(site)).json
    return {each["check"]: each for each in told}


def test_check_asks_for_the_tests_of_what_it_plugs_in(desk: Desk, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "bare", bare=MIRROR)
    finding = found(desk, site, "bare")["conformance"]
    assert finding["state"] == "fail"
    assert "BaseMirrorTests" in finding["mend"]
    assert 'bare = "bare.conformance"' in finding["mend"]


def test_check_asks_for_the_kit_of_each_port(desk: Desk, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    tests = "import pytest\n@pytest.mark.of_their_own\ndef test_something():\n    pass\n"
    install(site, "some", "some_conformance", some=MIRROR, some_conformance=tests)
    findings = found(desk, site, "some")
    assert findings["BaseMirrorTests"]["state"] == "fail"
    assert findings["test_something"]["state"] == "ok"


def test_check_shows_what_a_test_found(desk: Desk, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    tests = "import pytest\ndef test_a():\n    assert 1 + 1 == 3\n\ndef test_b():\n    pytest.skip('not today')\n"
    install(site, "wrong", "wrong_conformance", wrong=MIRROR, wrong_conformance=tests)
    findings = found(desk, site, "wrong")
    assert "1 + 1" in findings["test_a"]["finding"]
    assert (findings["test_b"]["state"], "not today" in findings["test_b"]["finding"]) == ("skip", True)
    shown = desk.ledger("plugins", "check", "wrong", code=1, PYTHONPATH=str(site))
    assert "fail  test_a" in shown.out
    assert "failed" in shown.err


def test_check_shows_the_values_in_a_kits_assertion(desk: Desk, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    tests = """
        import pytest
        from ledger.testing.trainers import BaseTrainerTests

        class TestIt(BaseTrainerTests):
            @pytest.fixture
            def trainer(self):
                return "no trainer"
    """
    install(site, "wrong", "wrong_conformance", wrong=MIRROR, wrong_conformance=textwrap.dedent(tests))
    findings = found(desk, site, "wrong")
    assert "isinstance('no trainer', Trainer)" in findings["TestIt::test_is_a_trainer"]["finding"]


def test_check_says_when_the_tests_cannot_be_run(desk: Desk, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "torn", "torn_conformance", torn=MIRROR, torn_conformance="import nothing_of_that_name\n")
    assert "nothing_of_that_name" in json.dumps(found(desk, site, "torn"))
    install(site, "lost", "lost_conformance", lost=MIRROR)
    assert found(desk, site, "lost")["conformance"]["state"] == "fail"


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("def open_mirrors(settings): ...\n", "@hookimpl"),
        ("", "implements no hook"),
        ("from ledger import hookimpl\n@hookimpl\ndef open_mirror(settings): ...\n", "open_mirror"),
        ("from ledger import hookimpl\n@hookimpl\ndef open_mirrors(setings): ...\n", "setings"),
        ("from ledger import hookimpl\n@hookimpl(wrapper=True)\ndef open_mirrors():\n    return (yield)\n", "wrapper"),
        ("raise ValueError('half of me is missing')\n", "half of me is missing"),
        ("ledger_api = 9\n", "version 9 of the plugin API"),
    ],
)
def test_check_names_what_is_wrong_with_a_plugin(desk: Desk, tmp_path: Path, module: str, told: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "odd", odd=module)
    findings = json.dumps(found(desk, site, "odd"))
    assert told in findings
    assert '"mend": ""' not in json.dumps([f for f in found(desk, site, "odd").values() if f["state"] == "fail"])


def test_check_of_a_plugin_that_is_not_there(desk: Desk) -> None:
    said = desk.ledger("plugins", "check", "nobody", code=3).err
    assert "no plugin 'nobody' is installed" in said
    assert "local" in said


def test_check_of_one_of_ledgers_own(desk: Desk) -> None:
    states = {found["check"]: found["state"] for found in desk.ledger("plugins", "check", "local", "--json").json}
    assert states == {"load": "ok", "hooks": "ok", "conformance": "skip"}

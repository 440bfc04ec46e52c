"""The wheel, built and installed in a clean environment: it works, and brings only what it should."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP_LEVEL = {
    "ledger",
    "ledger_local",
    "ledger_fsspec",
    "ledger_lakefs",
    "ledger_jsonl",
    "ledger_dvc",
    "ledger_delta",
    "ledger_mlflow",
    "ledger_tensorboard",
    "ledger_wandb",
    "ledger_neptune",
    "ledger_deepspeed",
    "ledger_trainer",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = dist.glob("*.whl")
    return found


def test_only_the_intended_top_level_names(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == TOP_LEVEL


def test_migrations_types_and_recipes_are_inside_and_tests_are_not(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"ledger/migrations/env.py", "ledger/migrations/versions/0001_log.py", "ledger/py.typed"} <= names
    assert "ledger_trainer/recipes/kjv_gpt.toml" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "test_" in name or "__pycache__" in name]


@pytest.mark.slow
def test_installed_in_a_clean_environment_it_records_and_replays(wheel: Path, tmp_path: Path) -> None:
    venv, work = tmp_path / "venv", tmp_path / "work"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, str(wheel)], check=True)
    work.mkdir()
    (work / "toss.py").write_text(
        "import ledger\n"
        "with ledger.start_run(config={'n': 3}, seed=1) as run:\n"
        "    for step in range(3):\n"
        "        run.log({'loss': 1 / (step + 1)}, step=step)\n"
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("LEDGER_", "PYTHON"))}
    environ["PATH"] = f"{venv / 'bin'}{os.pathsep}{environ['PATH']}"

    def ledger(*words: str) -> str:
        done = subprocess.run(["ledger", *words], cwd=work, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    ledger("init")
    ledger("run", "--", "python", "toss.py")
    assert "identical" in ledger("replay", "run-1")
    assert (
        "ledger_trainer"
        in subprocess.run(
            [str(venv / "bin/python"), "-c", "import ledger_trainer; print(ledger_trainer.__name__)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )

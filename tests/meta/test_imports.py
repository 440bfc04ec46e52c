"""What is promised about imports: the public names, and how little they cost."""

from __future__ import annotations

import json
import subprocess
import sys

import ledger

HEAVY = (
    "sqlmodel",
    "sqlalchemy",
    "alembic",
    "torch",
    "numpy",
    "fsspec",
    "pydantic",
    "rich",
    "click",
    "pluggy",
    "psutil",
)


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after running ``code``."""
    probe = f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_ledger_loads_nothing_heavy() -> None:
    assert not loaded_by("import ledger").intersection(HEAVY)


def test_training_code_gets_a_run_without_alembic_or_torch() -> None:
    code = (
        "import os, tempfile; os.chdir(tempfile.mkdtemp())\n"
        "import ledger\n"
        "book = ledger.open_ledger(); book.close()\n"
        "book = ledger.open_ledger()"
    )
    # The first opening creates the ledger, and alembic does that; what counts is the second.
    assert "torch" not in loaded_by(code)


def test_plugins_load_without_their_frameworks() -> None:
    loaded = loaded_by(
        "import ledger_local, ledger_jsonl, ledger_fsspec, ledger_lakefs, ledger_dvc, ledger_delta, "
        "ledger_mlflow, ledger_tensorboard, ledger_wandb, ledger_neptune, ledger_deepspeed, ledger_trainer.plugin"
    )
    assert not loaded.intersection(
        ("torch", "numpy", "safetensors", "sqlalchemy", "lakefs_sdk", "urllib3", "dvc", "deltalake", "wandb", "neptune")
    )


def test_public_names_are_sorted_exact_and_there() -> None:
    assert ledger.__all__ == sorted(ledger.__all__)
    assert set(ledger.__all__) == set(ledger._HOME)
    for name in ledger.__all__:
        assert getattr(ledger, name).__doc__, f"{name} says nothing about itself"
    assert set(dir(ledger)) == {*ledger.__all__, "__version__"}

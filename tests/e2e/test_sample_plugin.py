"""A stranger's distribution, written against the public side alone, in an environment that has nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from ledger.scaffold import rendered
from tests.e2e.desk import Desk

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests/sample_plugin"
PUBLIC = ("ledger", "ledger.hooks", "ledger.errors", "ledger.events", "ledger.codec", "ledger.files", "ledger.testing")
TRAIN = """
import ledger
with ledger.start_run(config={"lr": 0.1}, seed=1) as run:
    words = run.data("words").fetch().joinpath("a.txt").read_text()
    for step in range(3):
        run.log({"loss": len(words) / (step + 1)}, step=step)
"""


def done(argv: list[str], cwd: Path | None = None) -> str:
    ended = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=800, check=False)
    assert ended.returncode == 0, f"{argv}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def test_it_knows_the_public_side_alone() -> None:
    for file in SAMPLE.rglob("*.py"):
        for line in file.read_text().splitlines():
            if line.strip().startswith(("from ledger.", "from ledger ", "import ledger")):
                module = line.split()[1]
                assert (
                    module == "ledger"
                    or module.startswith(tuple(f"{public}." for public in PUBLIC[1:]))
                    or (module in PUBLIC)
                ), line


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_installed_in_a_clean_environment_it_passes_and_serves_a_run(tmp_path: Path) -> None:
    done([sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(ROOT)])
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    shutil.copytree(SAMPLE, tmp_path / "sample")
    venv = tmp_path / "venv"
    done([sys.executable, "-m", "venv", str(venv)])
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    done([*pip, str(wheel), f"{tmp_path / 'sample'}[test]"])

    (tmp_path / "desk").mkdir()
    desk = Desk(tmp_path / "desk")
    desk.environ["PATH"] = f"{venv / 'bin'}{os.pathsep}{desk.environ['PATH']}"
    states = {found["state"] for found in desk.ledger("plugins", "check", "logbook", "--json").json}
    assert states == {"ok", "skip"}
    written = desk.ledger("plugins", "new", "mine", "--kind", "tracker").out.splitlines()
    assert len(written) == len(rendered("mine", "tracker"))  # the templates are in the wheel
    with ZipFile(tmp_path / "words.zip", "w") as archive:
        archive.writestr("a.txt", "some words")
        archive.writestr("b/c.txt", "more words")
    desk.write(train__py=TRAIN, ledger__toml='[ledger]\nmirrors = ["logbook"]\n')
    desk.ledger("run", "--data", f"words=zip:{tmp_path / 'words.zip'}", "--", "python", "train.py")
    assert desk.ledger("replay", "run-1").out.startswith("identical")
    desk.ledger("mirror", "--all", "--to", "logbook")
    desk.ledger("mirror", "--all", "--to", "logbook", "--check")
    with ZipFile(tmp_path / "words.zip", "w") as archive:
        archive.writestr("a.txt", "other words")
        archive.writestr("b/c.txt", "more words")
    refused = desk.ledger("replay", "run-1", code=4)
    assert "changed a.txt" in refused.out + refused.err

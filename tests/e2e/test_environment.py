"""What differs around a run is told, and only the numbers decide."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.desk import Desk


def install(site: Path, version: str) -> None:
    """Put a distribution where Python finds it, at this version and no other."""
    for old in site.glob("sample-*.dist-info/METADATA"):
        old.unlink()
        old.parent.rmdir()
    metadata = site / f"sample-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: sample\nVersion: {version}\n")


def test_another_version_of_a_package_is_told_before_anything_runs(desk: Desk, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(site, "1.0")
    script = """
        import importlib.metadata, ledger
        with ledger.start_run() as run:
            run.log({"version": float(importlib.metadata.version("sample"))}, step=1)
    """
    desk.write(train__py=textwrap.dedent(script))
    desk.ledger("run", "--", "python", "train.py", PYTHONPATH=str(site))

    install(site, "2.0")
    planned = desk.ledger("replay", "run-1", "--plan", PYTHONPATH=str(site)).out
    assert "sample 1.0 → 2.0" in planned
    assert len(desk.ledger("ls", "--json").json) == 1

    done = desk.ledger("replay", "run-1", code=1, PYTHONPATH=str(site)).out
    assert done.startswith("diverged")
    assert "sample 1.0 → 2.0" in done
    assert "version" in done


def test_racing_threads_are_identical_only_if_their_numbers_were(desk: Desk) -> None:
    script = """
        import threading, ledger
        with ledger.start_run(seed=1) as run:
            for step in range(20):
                order = []
                threads = [threading.Thread(target=order.append, args=(n,)) for n in range(8)]
                [t.start() for t in threads]
                [t.join() for t in threads]
                # The sum of floats depends on its order.
                run.log({"sum": sum(10.0 ** (n * 3) * (-1) ** n / 3 for n in order)}, step=step)
    """
    desk.write(train__py=textwrap.dedent(script))
    desk.ledger("run", "--", "python", "train.py")
    done = desk.ledger("replay", "run-1", "--keep-going", code=None)
    equal = desk.metrics("run-1") == desk.metrics("run-2")
    assert done.out.startswith("identical") == equal
    assert (done.code == 0) == equal


def test_a_dirty_tree_is_replayed_after_the_user_has_gone_on(desk: Desk) -> None:
    desk.write(
        train__py="import ledger, model\nledger.start_run().log({'width': model.WIDTH})\n", model__py="WIDTH = 1\n"
    )
    desk.commit()
    desk.write(model__py="WIDTH = 2\n", notes__txt="untracked")
    desk.ledger("run", "--", "python", "train.py")

    desk.write(model__py="WIDTH = 3\n")
    (desk.home / "notes.txt").unlink()
    desk.commit()
    desk.git("checkout", "--quiet", "-b", "elsewhere")
    desk.write(model__py="WIDTH = 4\n")
    before = desk.git("status", "--porcelain=v2", "--branch")
    index = (desk.home / ".git/index").read_bytes()

    assert desk.ledger("replay", "run-1").out.startswith("identical")
    assert desk.ledger("replay", "run-1", "--to", "rebuilt").code == 0
    assert (desk.home / "rebuilt/model.py").read_text() == "WIDTH = 2\n"
    assert (desk.home / "rebuilt/notes.txt").read_text() == "untracked"

    assert (desk.home / ".git/index").read_bytes() == index
    assert (desk.home / "model.py").read_text() == "WIDTH = 4\n"
    after = [line for line in desk.git("status", "--porcelain=v2", "--branch").splitlines() if "rebuilt" not in line]
    assert after == before.splitlines()


def test_a_command_that_knows_nothing_of_ledger_is_judged_by_its_outputs(desk: Desk) -> None:
    desk.ledger("run", "--out", "out.txt", "--", "sh", "-c", "echo 3 > out.txt")
    desk.ledger("run", "--out", "out.txt", "--", "sh", "-c", "date +%N > out.txt")
    assert desk.ledger("replay", "run-1").out.startswith("identical")
    diverged = desk.ledger("replay", "run-2", code=1).out
    assert diverged.startswith("diverged")
    assert "out.txt" in diverged


def test_what_the_limit_leaves_out_is_said_at_once_and_stands_in_the_plan(desk: Desk) -> None:
    desk.write(ledger__toml="[capture]\ncode_limit_mb = 1\n")
    (desk.home / "big.bin").write_bytes(b"x" * 2_000_000)
    told = desk.ledger("run", "--", "true").err
    assert "not captured: big.bin (2 MB)" in told
    assert "capture.code_limit_mb" in told
    assert "big.bin" in desk.ledger("replay", "run-1", "--plan", code=4).out
    desk.write(ledger__toml="[capture]\ncode_limit_mb = 3\n")
    assert "not captured" not in desk.ledger("run", "--", "true").err


DIES_ONCE = """
import os, pathlib
if os.environ["LEDGER_ATTEMPT"] == "1":
    os.kill(os.getpid(), 9)
pathlib.Path("out.txt").write_text("done")
"""


def test_a_resumed_command_still_keeps_the_outputs_that_were_asked_for(desk: Desk) -> None:
    desk.write(train__py=DIES_ONCE)
    desk.ledger("run", "--out", "out.txt", "--", "python", "train.py", code=130)
    told = desk.ledger("resume", "run-1").err
    assert "goes on from the beginning" in told
    artifacts = [f["payload"] for f in desk.ledger("log", "run-1", "--json").json if f["type"] == "artifact.written"]
    assert [(a["path"], a["bytes"]) for a in artifacts] == [("out.txt", 4)]


def test_a_command_whose_secret_is_withheld_is_not_resumed_without_it(desk: Desk) -> None:
    desk.write(train__py=DIES_ONCE)
    desk.ledger("run", "--", "python", "train.py", "--password", "correct-horse", code=130)
    refused = desk.ledger("resume", "run-1", code=4).err
    assert "secret" in refused
    assert "mend:" in refused
    assert not (desk.home / "out.txt").exists()


def test_a_recipe_with_a_secret_starts_no_run(desk: Desk) -> None:
    desk.write(
        mine__py="", data__txt="x", recipe__toml='task = "mine:task"\nsteps = 1\n[data.train]\nuri = "file:data.txt"\n'
    )
    refused = desk.ledger("train", "recipe.toml", "task_options.api_key=correct-horse", code=2).err
    assert "task_options.api_key" in refused
    assert "environment variable" in refused
    assert "correct-horse" not in refused
    assert desk.ledger("ls", "--json").json == []


def test_a_resume_whose_data_is_gone_leaves_no_attempt_behind(desk: Desk) -> None:
    desk.write(data__txt="x", die__sh="kill -9 $$\n")
    desk.ledger("run", "--no-snapshot", "--data", "train=file:data.txt", "--", "sh", "die.sh", code=None)
    (desk.home / "data.txt").unlink()
    refused = desk.ledger("resume", "run-1", code=4).err
    assert "data.txt" in refused
    types = [fact["type"] for fact in desk.ledger("log", "run-1", "--json").json]
    assert "training.resumed" not in types
    desk.write(data__txt="x")
    desk.ledger("resume", "run-1", code=None)
    types = [fact["type"] for fact in desk.ledger("log", "run-1", "--json").json]
    assert types.count("training.resumed") == 1

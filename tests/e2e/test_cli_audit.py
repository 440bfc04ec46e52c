"""`ledger audit` on a training, its export, and two runs that went on from what came of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from ledger.cli import main
from tests.e2e.desk import Desk, Done

pytestmark = pytest.mark.slow
RECIPE = """
task = "ledger_trainer.tasks.kjv:gpt"
seed = 7
steps = 12
[data.train]
uri = "file:data/kjv.txt"
[task_options]
n_layer = 1
n_head = 2
n_embd = 16
block_size = 16
[batch]
size = 4
[evaluate]
every = 4
batches = 2
[checkpoint]
every = 4
best = "val/loss"
keep_last = 1
export = "bfloat16"
"""
TUNE = """
import pathlib, sys
import ledger

run = ledger.current_run()
base = run.data("base").fetch()
weights = base.read_bytes() if base.is_file() else (base / "model-bfloat16.safetensors").read_bytes()
run.set_config({"seed": 2**60, "lr": float("nan"), "schedule": None})
run.log({"loss": 1.0}, step=1)
pathlib.Path("model.bin").write_bytes(weights[:100] + sys.argv[1].encode())
"""
Audit = Callable[..., Done]
Write = Callable[[str], dict[str, Any]]
EXPORT = "model-bfloat16.safetensors"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """run-1 trains, run-2 reads its best checkpoint, run-3 the artifact of run-2; run-4 replays run-2."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.git("init", "--quiet", "--initial-branch", "main")
    (desk.home / "data").mkdir()
    desk.run("python", "-m", "ledger_trainer.tasks.kjv", "whole.txt")
    (desk.home / "data/kjv.txt").write_text((desk.home / "whole.txt").read_text()[:20_000])
    (desk.home / "whole.txt").unlink()
    desk.write(recipe__toml=RECIPE, tune__py=TUNE, __gitignore="data/\nbase/\n*.bin\n")
    desk.ledger("init")
    desk.commit()
    desk.ledger("train", "recipe.toml")
    desk.ledger("fetch", "run-1", "best", "base")
    desk.ledger("run", "--data", "base=file:base", "--out", "model.bin", "--", "python", "tune.py", "a")
    (desk.home / "model.bin").rename(desk.home / "second.bin")
    desk.ledger("run", "--data", "base=file:second.bin", "--out", "model.bin", "--", "python", "tune.py", "b")
    desk.ledger("replay", "run-2")
    return desk


@pytest.fixture
def audit(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """The command, in this process: it only reads, and need not import everything anew."""
    monkeypatch.chdir(desk.home)
    monkeypatch.delenv("LEDGER_URL", raising=False)

    def run(*words: str, code: int = 0, **environ: str) -> Done:
        ended = CliRunner().invoke(main, ["audit", *words], env=environ)
        assert ended.exit_code == code, ended.output
        return Done(ended.exit_code, ended.stdout, ended.stderr)

    return run


def facts_of(done: Done) -> dict[str, Any]:
    (facts,) = done.json
    return facts


def test_the_export_is_found_by_its_content_wherever_it_lies(desk: Desk, audit: Audit, tmp_path: Path) -> None:
    elsewhere = shutil.copy(desk.home / "base" / EXPORT, tmp_path / "renamed")
    by_path = facts_of(audit("--json", str(elsewhere)))
    by_digest = facts_of(audit("--json", sha256(elsewhere.read_bytes()).hexdigest()))
    for facts in (by_path, by_digest):
        first = facts["written_by"][0]
        assert (first["run"], first["checkpoint"], first["file"]) == ("run-1", "best_model_step_12", EXPORT)
        assert facts["run"]["data"]["train"]["uri"] == "file:data/kjv.txt"


@pytest.mark.parametrize("which", ["best", "last", "step-12", "12", "best_model_step_12"])
def test_a_checkpoint_by_its_name(audit: Audit, which: str) -> None:
    (written,) = facts_of(audit("--json", f"run-1/{which}"))["written_by"]
    assert (written["run"], written["step"]) == ("run-1", 12)


def test_a_deleted_checkpoint_can_be_audited(audit: Audit) -> None:
    assert re.search(r"run-1/4 is step-4 of run-1 \(step 4, written .*, deleted since\)", told(audit, "run-1/4"))


def test_the_chain_goes_on_through_the_runs_whose_files_were_read(audit: Audit) -> None:
    text = told(audit, "model.bin")
    chain = text.partition("chain\n")[2].partition("\n\n")[0]
    order = [r"run-3 +completed", r"← base +file:second.bin at", r"all of it: model.bin of run-2 \(artifact",
             r"run-2 +completed .*replayed as run-4: identical", r"← base +file:base at",
             r"all of it: best_model_step_12 of run-1 \(step 12", r"run-1 +completed",
             r"← train +file:data/kjv.txt at"]  # fmt: skip
    assert re.search(".*".join(order), chain, re.DOTALL)
    assert len(re.findall("^← code|^  ← code", chain, re.MULTILINE)) == 3
    facts = facts_of(audit("--json", "run-3"))
    assert [run["name"] for run in facts["further_runs"]] == ["run-2", "run-1"]
    assert [(b["run"], b["from"]["run"]) for b in facts["bases"]] == [("run-3", "run-2"), ("run-2", "run-1")]


def test_data_name_their_readers(audit: Audit) -> None:
    done = audit("data/kjv.txt")
    assert "is data train of run-1: file:data/kjv.txt at" in done.out
    assert "`ledger impact data/kjv.txt`" in done.err
    (facts,) = audit("data/kjv.txt", "--json").json
    assert [held["run"] for held in facts["held_by"]] == ["run-1"]
    assert "ledger impact" in audit("data/kjv.txt", "--step", "1", code=2).err


def test_a_sample_is_read_by_the_steps_that_list_it(audit: Audit) -> None:
    steps = {step: facts_of(audit("--json", "run-1", "--step", str(step)))["samples"] for step in (1, 12)}
    for step, ((sample, *_),) in steps.items():
        assert {"step": step, "rank": 0} in facts_of(audit("--json", "run-1", "--sample", str(sample)))["read_by"]
    assert re.search(r"steps that read sample \d+\n  rank 0  [\d ]*12", told(audit, "run-1", "--sample", str(sample)))


def test_no_data_are_fetched_for_a_step_that_never_was(desk: Desk, audit: Audit) -> None:
    text = desk.home / "data/kjv.txt"
    moved = text.rename(desk.home / "moved.txt")
    try:
        assert "verified copy" not in audit("run-1", "--step", "13", code=2).err
        assert "verified copy" in audit("run-1", "--step", "12").err
    finally:
        moved.rename(text)


def test_no_key_in_a_target_is_repeated(audit: Audit) -> None:
    assert "pass-word" not in audit("https://me:pass-word@host/model?signature=pass-word", code=3).err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run-1", "--sample", "999999"], 3, "run-1 read no training sample 999999"),
        (["run-1", "--step", "13"], 2, "steps 1 to 12"),
        (["run-2", "--sample", "1"], 2, "no training from a recipe"),
        (["run-1/7"], 3, "run-1 wrote no checkpoint '7'"),
        (["run-9/best"], 3, "nothing at run-9/best, and this ledger has no run 'run-9'"),
        (["/no/model.bin"], 3, "nothing at /no/model.bin"),
        (["0123456789abcdef"], 3, "no run of this ledger wrote"),
        (["run-1", "--graph", "chain.pdf"], 2, ".dot"),
        (["run-1", "--graph", "none/chain.svg"], 2, "no directory"),
        (["run-1", "--statement", "none/model.json"], 2, "no directory"),
    ],
)
def test_what_cannot_be_told(audit: Audit, words: list[str], code: int, said: str) -> None:
    done = audit(*words, code=code)
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_the_shell_completes_runs_and_else_files(desk: Desk) -> None:
    for typed, offered in (("run-", ["run-4", "run-3", "run-2", "run-1"]), ("model", ["file"])):
        told = desk.run("ledger", _LEDGER_COMPLETE="bash_complete", COMP_WORDS=f"ledger audit {typed}", COMP_CWORD="2")
        assert [line.split(",")[typed == "run-"] for line in told.out.splitlines()] == offered


# --- pictures --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("dot"), reason="the program dot of Graphviz is not here")
def test_a_picture_names_every_link(audit: Audit, tmp_path: Path) -> None:
    audit("model.bin", "--graph", str(tmp_path / "chain.svg"))
    words = " ".join(ElementTree.parse(tmp_path / "chain.svg").getroot().itertext())
    for word in (
        "run-1",
        "run-2",
        "run-3",
        "best_model_step_12",
        "file:data/kjv.txt",
        "model.bin",
        "replayed: identical",
    ):
        assert word in words


def test_a_dot_file_needs_no_graphviz_and_an_svg_says_what_to_install(audit: Audit, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    audit("run-1", "--graph", str(tmp_path / "chain.dot"), PATH=str(tools))
    assert (tmp_path / "chain.dot").read_text().startswith("digraph ledger {")
    refused = audit("run-1", "--graph", str(tmp_path / "no.svg"), code=4, PATH=str(tools))
    assert "apt-get install graphviz" in refused.err
    assert not (tmp_path / "no.svg").exists()


# --- statements ------------------------------------------------------------------------------------------------


@pytest.fixture
def statement(audit: Audit, tmp_path: Path) -> Write:
    def write(target: str) -> dict[str, Any]:
        place = tmp_path / "model.intoto.json"
        audit(target, "--statement", str(place))
        read: dict[str, Any] = json.loads(place.read_text())
        Statement.copy_from_pb(ParseDict(read, StatementMessage())).validate()
        ParseDict(read["predicate"], Provenance())
        return read

    return write


def named(resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {resource["name"]: resource for resource in resources}


def test_a_statement_is_about_the_files_of_the_model(desk: Desk, statement: Write) -> None:
    said = statement("run-1/best")
    assert (said["_type"], said["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    on_disk = {
        str(path.relative_to(desk.home / "base")): sha256(path.read_bytes()).hexdigest()
        for path in (desk.home / "base").rglob("*")
        if path.is_file()
    }
    assert {subject["name"]: subject["digest"]["sha256"] for subject in said["subject"]} == on_disk
    (only,) = statement(f"base/{EXPORT}")["subject"]
    assert (only["name"], only["digest"]["sha256"]) == (EXPORT, on_disk[EXPORT])
    assert statement(on_disk[EXPORT])["subject"] == [only]
    (artifact,) = statement("model.bin")["subject"]
    assert artifact["digest"]["sha256"] == sha256((desk.home / "model.bin").read_bytes()).hexdigest()


def test_a_statement_tells_what_it_was_made_of_and_what_was_found(desk: Desk, audit: Audit, statement: Write) -> None:
    built = statement("run-2")["predicate"]
    facts = facts_of(desk.ledger("show", "run-2", "--json"))
    parameters = built["buildDefinition"]["externalParameters"]
    assert parameters["command"] == ["python", "tune.py", "a"]
    assert parameters["config"] == {"seed": str(2**60), "lr": "NaN", "schedule": None}
    made_of = named(built["buildDefinition"]["resolvedDependencies"])
    assert made_of["code"]["digest"]["gitCommit"] == desk.git("rev-parse", "HEAD").strip()
    assert made_of["data/base"]["digest"] == {"trainingLedgerManifest": facts["data"]["base"]["digest"]}
    assert made_of["base/run-1/best_model_step_12"]["annotations"]["readAs"] == "data/base"
    assert made_of["python-packages"]["digest"]["sha256"]
    found = named(built["runDetails"]["byproducts"])
    assert [each["annotations"]["verdict"] for name, each in found.items() if "verdict" in name] == ["identical"]
    assert built["runDetails"]["metadata"]["invocationId"] == f"urn:uuid:{facts['id']}"
    assert built["buildDefinition"]["buildType"] in (Path(__file__).parents[2] / "docs/audit.md").read_text()


def told(audit: Audit, *words: str) -> str:
    return audit(*words).out

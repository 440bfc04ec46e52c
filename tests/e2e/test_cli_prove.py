"""The commands that check and prove, as a user, an auditor and a forger meet them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.desk import Desk

TRAIN = """\
import ledger

with ledger.start_run({"lr": 0.1}) as run:
    for step in range(20):
        run.log({"loss": 1 / (step + 1)}, step=step)
    with open("model.txt", "w") as file:
        file.write("weights")
    run.artifact("model.txt")
"""


@pytest.fixture
def desk(desk: Desk, tmp_path: Path) -> Desk:
    """A desk whose user keeps keys in a place of this test's own, with one run on record."""
    desk.environ["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    desk.write(train__py=TRAIN)
    desk.run("python", "train.py")
    return desk


def pub(desk: Desk) -> str:
    return str(Path(desk.environ["XDG_CONFIG_HOME"]) / "ledger" / "seal.pub")


def sql(desk: Desk, *statements: str) -> None:
    """What whoever owns the database can always do."""
    with closing(sqlite3.connect(desk.home / ".ledger" / "ledger.db", isolation_level=None)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)


def test_seal_keep_verify_prove(desk: Desk, tmp_path: Path) -> None:
    assert desk.ledger("verify").out.startswith("ok · ")
    first = desk.ledger("seal")
    assert "made a new key" in first.err
    origin, size, _, blank, signature, end = first.out.split("\n")
    assert origin.startswith("training-ledger/")
    assert (blank, end) == ("", "")
    assert signature.startswith(f"— {origin} ")
    (facts,) = desk.ledger("seal", "--json").json
    assert (facts["head"], facts["size"]) == (first.out, int(size))
    (tmp_path / "head.txt").write_text(first.out)

    desk.run("python", "train.py")
    done = desk.ledger("verify", "--head", str(tmp_path / "head.txt"))
    assert "whose signature is good" in done.out
    (facts,) = desk.ledger("verify", "--head", str(tmp_path / "head.txt"), "--key", pub(desk), "--json").json
    assert facts["ok"]
    assert facts["head_signature_checked"]
    assert facts["consistency"]

    assert "ledger seal" in desk.ledger("prove", "run-2", code=4).err
    (facts,) = desk.ledger("seal", "--json").json
    proof = desk.ledger("prove", "run-2").out

    # The auditor has neither the ledger nor the repository.
    elsewhere = Desk(tmp_path / "auditor")
    elsewhere.home.mkdir()
    (elsewhere.home / "proof.json").write_text(proof)
    (elsewhere.home / "seal.pub").write_text(Path(pub(desk)).read_text())
    assert "run.started" in elsewhere.ledger("verify-proof", "proof.json", "--key", "seal.pub").out
    (proved,) = elsewhere.ledger("verify-proof", "proof.json", "--key", facts["key"], "--json").json
    assert proved["whole"]
    assert proved["events"][0]["payload"]["name"] == "run-2"
    assert proved["events"][-1]["type"] == "run.completed"
    (elsewhere.home / "proof.json").write_text(proof.replace("run.completed", "run.complete_"))
    assert "does not hold" in elsewhere.ledger("verify-proof", "proof.json", "--key", "seal.pub", code=1).err
    assert sorted(path.name for path in elsewhere.home.iterdir()) == ["proof.json", "seal.pub"]


def test_an_event_is_proved_by_id_and_place(desk: Desk, tmp_path: Path) -> None:
    desk.ledger("seal")
    event = desk.ledger("log", "run-1", "--json").json[1]
    by_id = desk.ledger("prove", event["event_id"]).out
    assert by_id == desk.ledger("prove", str(event["global_position"])).out
    assert json.loads(by_id)["index"] == event["global_position"] - 1
    assert "neither a run nor an event" in desk.ledger("prove", "run-9", code=3).err


def test_what_was_changed_is_named(desk: Desk, tmp_path: Path) -> None:
    head = tmp_path / "head.txt"
    head.write_text(desk.ledger("seal").out)
    sql(desk, "UPDATE event SET payload = '{\"lr\":0.2}' WHERE type = 'config.resolved'")
    done = desk.ledger("verify", code=1)
    assert done.out.startswith("payload altered: event ")
    assert "config.resolved" in done.out
    (facts,) = desk.ledger("verify", "run-1", "--json", code=1).json
    assert [problem["kind"] for problem in facts["problems"]] == ["payload altered"]
    assert "not sealed" in desk.ledger("seal", code=1).err


def test_an_object_that_was_changed_is_named(desk: Desk) -> None:
    (file,) = (p for p in (desk.home / ".ledger" / "objects").glob("*/*") if p.read_bytes() == b"weights")
    file.chmod(0o644)
    file.write_bytes(b"weighty")
    assert f"object altered: object {file.parent.name}{file.name}" in desk.ledger("verify", code=1).out


def test_a_lost_base_of_a_checkpoint_is_named(desk: Desk) -> None:
    desk.write(
        train__py="""\
import ledger, pathlib, random

weights = bytearray(random.Random(0).randbytes(200_000))
with ledger.start_run() as run:
    written = None
    for step in (1, 2):
        weights[step] ^= 1
        pathlib.Path("state").mkdir(exist_ok=True)
        pathlib.Path("state/weights").write_bytes(weights)
        written = run.checkpoint("state", step=step, base=written)
"""
    )
    desk.run("python", "train.py")
    assert desk.ledger("verify").out.startswith("ok · ")
    place = desk.home / ".ledger" / "checkpoints"
    max((path for path in place.glob("objects/*/*")), key=lambda path: path.stat().st_size).unlink()
    done = desk.ledger("verify", code=1)
    first, second = sorted(line for line in done.out.splitlines() if line.startswith("checkpoint missing: "))
    assert "run-2/step-1" in first
    assert "weights of checkpoint run-2/step-2 is gone" in second
    assert "it is the difference to checkpoint run-2/step-1 (" in second


def test_a_list_that_was_changed_is_named_and_folded_again(desk: Desk) -> None:
    sql(desk, "UPDATE run_metric SET last = 0.5", "UPDATE run_summary SET status = 'failed'")
    done = desk.ledger("verify", code=1)
    assert [line.partition(" of ")[0] for line in done.out.splitlines()[:2]] == [
        "list altered: run_summary",
        "list altered: run_metric",
    ]
    assert done.err.count("ledger db rebuild") == 1
    assert "wrong were 1 row of run_summary, 1 row of run_metric" in desk.ledger("db", "rebuild").out
    assert desk.ledger("verify").out.startswith("ok")
    assert desk.ledger("db", "rebuild", "--json").json == [{"runs": 1, "wrong": {}}]


def test_a_damaged_database_file_is_the_answer_of_verify(desk: Desk) -> None:
    file = desk.home / ".ledger" / "ledger.db"
    sql(desk, "PRAGMA wal_checkpoint(TRUNCATE)")
    pages = file.read_bytes()
    file.write_bytes(pages[:4096] + bytes(len(pages) - 4096))
    done = desk.ledger("verify", code=1)
    assert "the file is damaged" in done.err
    assert "mend: put a copy" in done.err
    assert done.out == ""
    assert "the file is damaged" in desk.ledger("ls", code=4).err


def test_a_log_started_anew_is_not_the_one_that_was_sealed(desk: Desk, tmp_path: Path) -> None:
    head = tmp_path / "head.txt"
    head.write_text(desk.ledger("seal").out)
    (desk.home / ".ledger").rename(tmp_path / "old")
    desk.run("python", "train.py")
    assert "another log" in desk.ledger("verify", "--head", str(head), code=1).out


BAD_INPUT = [
    (("verify", "run-9"), 3, "no run"),
    (("verify", "--head", "nowhere"), 3, "no file nowhere"),
    (("verify", "--head", "train.py"), 1, "no signed head"),
    (("verify", "--key", "x"), 2, "no head is given"),
    (("seal", "--key", "nowhere"), 3, "no key file nowhere"),
    (("seal", "--key", "train.py"), 2, "no private key"),
    (("verify-proof", "nowhere", "--key", "x"), 2, "nowhere"),
    (("verify-proof", "train.py", "--key", "x"), 2, "no proof"),
    (("verify-proof", "train.py"), 2, "--key"),
]


def test_bad_input_gets_one_message(desk: Desk) -> None:
    for words, code, told in BAD_INPUT:
        done = desk.ledger(*words, code=code)
        assert told in done.err
        assert "Traceback" not in done.err

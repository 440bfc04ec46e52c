"""The command line on a ledger in PostgreSQL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from tests.e2e.desk import Desk
    from tests.postgres import Server

TRAIN = """
import ledger, pathlib
run = ledger.current_run()
for step in range(1, 21):
    run.log({"train/loss": 1 / step}, step=step)
if not pathlib.Path("go").exists():
    raise SystemExit(3)
"""
PASSWORD = "s3cr3t/hunter2:@"


@pytest.fixture
def team(desk: Desk, pg_empty_url: str) -> Desk:
    """A desk whose ledger is in a database that has no table yet."""
    desk.environ["LEDGER_URL"] = pg_empty_url
    desk.write(train__py=TRAIN, __gitignore=".ledger\n")
    return desk


def findings(desk: Desk, code: int = 0) -> dict[str, dict[str, str]]:
    return {found["check"]: found for found in desk.ledger("doctor", "--json", code=code).json}


@pytest.mark.slow
def test_the_whole_story(team: Desk) -> None:
    before = findings(team)
    assert before["ledger"]["state"] == "warn"
    assert "store" not in before
    told = team.ledger("init")
    assert "created postgresql" in told.out
    assert "already, with 0 runs" in team.ledger("init").err
    team.commit()

    team.ledger("run", "--seed", "1", "--", "python", "train.py", code=5)
    [run] = team.ledger("ls", "--json").json
    assert (run["name"], run["status"]) == ("run-1", "failed")
    (team.home / "go").touch()
    team.ledger("resume", "run-1")
    assert team.ledger("ls", "--json").json[0]["status"] == "completed"
    assert team.metrics("run-1")[20.0] == {"train/loss": 0.05}

    team.ledger("run", "--seed", "1", "--", "python", "train.py")
    assert team.ledger("replay", "run-2").out.splitlines()[0] == "identical"
    assert "run-2" in team.ledger("show", "run-2").out
    assert "train/loss" in team.ledger("compare", "run-1", "run-2").out
    assert "run.completed" in team.ledger("log", "run-2").out
    names = [run["name"] for run in team.ledger("ls", "--json").json]
    assert names == ["run-1", "run-2", "run-3"]
    after = findings(team)
    assert {after[check]["state"] for check in ("ledger", "store", "objects")} == {"ok"}
    assert "3 runs" in after["store"]["finding"]


def test_db_status_and_rebuild(team: Desk) -> None:
    missing = team.ledger("db", "status", code=3)
    assert "there is no ledger in PostgreSQL database" in missing.err
    team.ledger("run", "--", "true")
    listed = team.ledger("ls", "--json").out
    [status] = team.ledger("db", "status", "--json").json
    assert (status["revision"], status["runs"]) == (status["newest"], 1)
    assert status["database"].startswith("postgresql ")
    assert status["events"] > 4
    assert status["bytes"] > 100_000
    assert "nothing was wrong with what is shown of 1 run" in team.ledger("db", "rebuild").out
    assert team.ledger("ls", "--json").out == listed
    assert "up to date already" in team.ledger("db", "upgrade").out


def test_an_older_log_is_refused_until_it_is_upgraded(team: Desk, pg_server: Server) -> None:
    from tests.core.old_logs import old_log

    events = old_log(team.environ["LEDGER_URL"])
    refused = team.ledger("ls", code=4).err
    assert "schema 0001" in refused
    assert "ledger db upgrade" in refused
    [status] = team.ledger("db", "status", "--json").json
    assert (status["revision"], status["events"]) == ("0001", len(events))
    assert "ledger db upgrade" in team.ledger("db", "status").err
    assert "0001" in findings(team, code=4)["store"]["finding"]
    assert "from schema 0001" in team.ledger("db", "upgrade").out
    assert [run["name"] for run in team.ledger("ls", "--json").json] == ["run-1"]


def test_no_password_is_told_or_written(team: Desk, pg_server: Server) -> None:
    name = team.environ["LEDGER_URL"].partition("?")[0].rpartition("/")[2]
    pg_server.execute(f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    try:
        wrong = pg_server.url(name, "guarded", PASSWORD + "!")
        refused = team.ledger("--debug", "ls", "--ledger", wrong, code=4)
        assert "does not accept this user with this password" in refused.err
        assert "mend: " in refused.err
        failed = findings_with(team, wrong)
        right = pg_server.url(name, "guarded", PASSWORD)
        told = team.ledger("init", "--ledger", right)
        assert "PGPASSWORD" in told.err
        team.ledger("run", "--ledger", right, "--", "python", "-c", "import os; print(len(os.environ))")
        team.ledger("run", "--", "true", LEDGER_URL=right)
        outputs = [refused.err, failed, told.out, told.err, (team.home / "ledger.toml").read_text()]
        outputs += [team.ledger("log", run, "--json").out for run in ("run-1", "run-2")]
        outputs += [team.ledger("show", run, "--json").out for run in ("run-1", "run-2")]
        for output in outputs:
            assert "hunter2" not in output
            assert quote(PASSWORD, safe="") not in output
    finally:
        pg_server.execute("DROP OWNED BY guarded", name)
        pg_server.execute("DROP ROLE guarded")


def findings_with(desk: Desk, url: str) -> str:
    done = desk.ledger("doctor", "--ledger", url, "--json", code=4)
    assert any(json.loads(line)["state"] == "fail" for line in done.out.splitlines())
    return done.out + done.err


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/db", ("127.0.0.1:1", "does not answer")),
        ("postgresql://me:hunter2@127.0.0.1:none/db", ("cannot be understood",)),
        ("postgresql+nosuch://me:hunter2@127.0.0.1/db", ("nosuch", "postgresql+psycopg")),
        ("mysql://me:hunter2@127.0.0.1/db", ("mysql", "sqlite")),
    ],
)
def test_a_url_that_leads_nowhere(desk: Desk, url: str, words: tuple[str, ...]) -> None:
    for command in (("ls",), ("run", "--", "true"), ("init",), ("db", "status")):
        done = desk.ledger(*command, code=None, LEDGER_URL=url)
        assert done.code in (2, 4)
        for word in words:
            assert word in done.err
        assert "mend: " in done.err
        assert "hunter2" not in done.err
    assert not (desk.home / "ledger.toml").exists()


def test_a_database_that_there_is_not(desk: Desk, pg_server: Server) -> None:
    told = desk.ledger("ls", "--ledger", pg_server.url("nosuch"), code=4).err
    assert "no such database" in told
    assert "createdb" in told

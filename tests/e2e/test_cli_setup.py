"""`ledger init` and `ledger doctor`."""

from __future__ import annotations

import tomllib
from typing import Any

from ledger.settings import find_settings
from tests.e2e.desk import Desk


def findings(desk: Desk, code: int = 0) -> dict[str, Any]:
    return {found["check"]: found for found in desk.ledger("doctor", "--json", code=code).json}


def test_init_makes_settings_and_a_ledger_that_git_does_not_see(desk: Desk) -> None:
    done = desk.ledger("init")
    assert "wrote ledger.toml" in done.out
    assert (desk.home / ".ledger" / "ledger.db").is_file()
    assert desk.git("status", "--porcelain").split() == ["??", "ledger.toml"]
    # All that it says is commented out: the defaults hold.
    bare = find_settings(start=desk.home / "elsewhere", environ={})
    assert tomllib.loads((desk.home / "ledger.toml").read_text()) == {"ledger": {}, "capture": {}}
    assert find_settings(start=desk.home, environ={}).code_limit_mb == bare.code_limit_mb


def test_what_stands_commented_in_the_settings_can_be_used(desk: Desk) -> None:
    desk.ledger("init")
    file = desk.home / "ledger.toml"
    before = find_settings(start=desk.home, environ={})
    lines = [line.removeprefix("# ") if " = " in line else line for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines))
    after = find_settings(start=desk.home, environ={})
    assert (after.url, after.objects, after.checkpoints) == (before.url, before.objects, before.checkpoints)
    assert (before.project, after.project) == (None, "my-project")


def test_init_again_changes_nothing(desk: Desk) -> None:
    desk.ledger("init")
    desk.ledger("run", "--", "true")
    (desk.home / "ledger.toml").write_text("# mine\n")
    done = desk.ledger("init")
    assert (desk.home / "ledger.toml").read_text() == "# mine\n"
    assert "left as it is" in done.err
    assert "with 1 run" in done.err
    assert len(desk.ledger("ls", "--json").json) == 1


def test_init_elsewhere_is_remembered(desk: Desk) -> None:
    desk.ledger("init", "--ledger", "shared/books")
    assert (desk.home / "shared" / "books" / "ledger.db").is_file()
    assert not (desk.home / ".ledger").exists()
    desk.ledger("run", "--", "true")
    assert len(desk.ledger("ls", "--ledger", "shared/books", "--json").json) == 1


def test_init_where_no_ledger_can_be_leaves_nothing(desk: Desk) -> None:
    (desk.home / "file").touch()
    done = desk.ledger("init", "--ledger", "file/ledger", code=4)
    assert "mend: " in done.err
    assert not (desk.home / "ledger.toml").exists()


def test_a_ledger_made_by_its_first_run_is_not_seen_by_git_either(desk: Desk) -> None:
    desk.ledger("run", "--", "true")
    assert desk.git("status", "--porcelain") == ""


def test_doctor_before_and_after_init(desk: Desk) -> None:
    before = findings(desk)
    assert before["ledger"]["state"] == "warn"
    assert "ledger init" in before["ledger"]["mend"]
    assert "store" not in before
    desk.ledger("init")
    after = findings(desk)
    assert {after[check]["state"] for check in ("python", "ledger", "store", "objects", "checkpoints", "git")} == {"ok"}
    assert "ledger.toml" in after["ledger"]["finding"]


def test_doctor_names_what_is_broken_and_gives_4(desk: Desk) -> None:
    desk.ledger("init")
    (desk.home / ".ledger" / "ledger.db").write_bytes(b"no database" * 200)
    found = findings(desk, code=4)
    assert found["store"]["state"] == "fail"
    assert "mend" in desk.ledger("doctor", code=4).out


def test_doctor_says_once_that_the_settings_cannot_be_read(desk: Desk) -> None:
    desk.write(ledger__toml="[ledger")
    failed = [found for found in findings(desk, code=4).values() if found["state"] == "fail"]
    assert len(failed) == 1
    assert "ledger.toml" in failed[0]["finding"]

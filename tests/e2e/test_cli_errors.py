"""Everything that can be asked wrongly: one message with what, why and the mend, the right code, nothing lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ledger.cli.group import Commands
from tests.e2e.desk import Desk


def refused(desk: Desk, *words: str, code: int, **environ: str) -> str:
    """The message of a command that is refused: two lines, no traceback, nothing on standard output."""
    done = desk.ledger(*words, code=code, **environ)
    assert done.out == ""
    assert "Traceback" not in done.err
    first, second = done.err.splitlines()
    assert first.startswith("ledger")
    assert second.startswith("  mend: ")
    return done.err


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A ledger with two runs; a refusal must leave it as it is, so all tests share it."""
    desk = Desk(tmp_path_factory.mktemp("recorded"))
    for _ in range(2):
        desk.ledger("run", "--", "true")
    return desk


@pytest.mark.parametrize(("typed", "meant"), [("lss", "ls"), ("sohw", "show"), ("chekpoints", "checkpoints")])
def test_a_misspelt_command(desk: Desk, typed: str, meant: str) -> None:
    assert f"did you mean {meant}" in refused(desk, typed, code=2)


def test_a_misspelt_option(desk: Desk) -> None:
    assert "did you mean --json?" in refused(desk, "ls", "--jsn", code=2)


def test_what_resembles_nothing(desk: Desk) -> None:
    assert "`ledger --help`" in refused(desk, "xyzzy", code=2)
    assert "`ledger show --help`" in refused(desk, "show", code=2)


def test_without_words_it_shows_its_help(desk: Desk) -> None:
    done = desk.ledger(code=2)
    assert "Usage: ledger" in done.out + done.err


def test_version(desk: Desk) -> None:
    import ledger

    assert desk.ledger("--version").out == f"ledger {ledger.__version__}\n"


def test_python_dash_m_is_the_same(desk: Desk) -> None:
    done = desk.run("python", "-m", "ledger", "lss", code=2)
    assert done.err.startswith("ledger: there is no command 'lss'\n")


def test_looking_where_there_is_no_ledger_makes_none(desk: Desk) -> None:
    done = desk.ledger("ls")
    assert done.out == ""
    assert "no runs yet" in done.err
    assert "`ledger init`" in done.err
    assert desk.ledger("ls", "--json").out == ""
    for words in (["show", "run-1"], ["log", "run-1"], ["checkpoints", "run-1"], ["audit", "run-1"],
                  ["compare", "run-1", "run-2"], ["replay", "run-1"], ["resume", "run-1"]):  # fmt: skip
        assert "there is no ledger in" in refused(desk, *words, code=3)
    desk.ledger("plugins")
    desk.ledger("doctor")
    assert [path.name for path in desk.home.iterdir()] == [".git"]


def test_a_directory_that_is_no_ledger(desk: Desk, tmp_path: Path) -> None:
    assert "there is no ledger in" in refused(desk, "ls", "--ledger", str(tmp_path), code=3)
    assert refused(desk, "ls", "--ledger", str(tmp_path / "nowhere"), code=3)


def test_a_file_that_is_no_database(recorded: Desk) -> None:
    (recorded.home / "odd").mkdir()
    (recorded.home / "odd" / "ledger.db").write_bytes(b"this is no database" * 100)
    assert "odd" in refused(recorded, "ls", "--ledger", "odd", code=4)


def test_a_run_that_is_not_there_with_the_names_that_come_nearest(recorded: Desk) -> None:
    message = refused(recorded, "show", "run-3", code=3)
    assert "no run 'run-3'" in message
    assert "did you mean run-2, run-1" in message


@pytest.mark.parametrize("name", ["../x", "run-1/../run-1", "run-1%", "run-1\n"])
def test_a_name_that_is_none(recorded: Desk, name: str) -> None:
    done = recorded.ledger("show", name, code=3)
    assert "has no run" in done.err
    assert "Traceback" not in done.err


def test_nothing_recorded_yet(desk: Desk) -> None:
    desk.ledger("init")
    assert "nothing is recorded yet" in refused(desk, "show", "latest", code=3)


def test_a_ledger_of_a_newer_schema(recorded: Desk) -> None:
    with sqlite3.connect(recorded.home / ".ledger" / "ledger.db") as database:
        [known] = database.execute("SELECT version_num FROM ledger_schema").fetchone()
        database.execute("UPDATE ledger_schema SET version_num = '9999'")
    for words in (["ls"], ["show", "run-1"], ["run", "--", "true"]):
        message = refused(recorded, *words, code=4)
        assert "9999" in message
        assert "upgrade" in message
    with sqlite3.connect(recorded.home / ".ledger" / "ledger.db") as database:
        database.execute("UPDATE ledger_schema SET version_num = ?", (known,))
    assert len(recorded.ledger("ls", "--json").json) == 2


@pytest.mark.parametrize("text", ["[ledger", "[leger]\n", "[ledger]\nurll = 'x'\n", "[ledger]\nurl = 3\n"])
def test_settings_that_cannot_be_read(desk: Desk, text: str) -> None:
    desk.write(ledger__toml=text)
    done = desk.ledger("ls", code=2)
    assert "ledger.toml" in done.err
    assert "Traceback" not in done.err


def test_a_plugin_that_is_not_installed(desk: Desk) -> None:
    message = refused(desk, "plugins", code=2, LEDGER_PLUGINS="nonesuch")
    assert "nonesuch" in message


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (None, "recipe.toml"),
        ("task = \nsteps = 3\n", "line 1"),
        ('task = "ledger_trainer.tasks.kjv:gpt"\nsteps = 3\nstepps = 4\n', "stepps"),
    ],
    ids=["missing", "malformed", "unknown key"],
)
def test_a_recipe_that_does_not_hold_makes_no_run_and_no_ledger(desk: Desk, recipe: str | None, told: str) -> None:
    if recipe is not None:
        desk.write(recipe__toml=recipe)
    done = desk.ledger("train", "recipe.toml", code=2)
    assert told in done.err
    assert "Traceback" not in done.err
    assert not (desk.home / ".ledger").exists()


class Broken(Commands):
    """The group of commands, with one that raises."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(name="ledger", table={})
        self.error = error
        self.params += [*_debug()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        def fail() -> None:
            raise self.error

        return click.Command("break", callback=fail)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["break"]


def _debug() -> list[click.Parameter]:
    from ledger.cli import main

    return [parameter for parameter in main.params if parameter.name == "debug"]


def test_a_bug_is_one_line_that_names_it() -> None:
    done = CliRunner().invoke(Broken(ValueError("odd")), ["break"])
    assert done.exit_code == 4
    assert done.stderr == "ledger: ValueError: odd\n  mend: this is a bug: `ledger --debug …` shows where it is\n"
    assert "Traceback" in CliRunner().invoke(Broken(ValueError("odd")), ["--debug", "break"]).stderr


def test_a_full_disk_is_no_bug() -> None:
    done = CliRunner().invoke(Broken(OSError(28, "No space left on device", "/x")), ["break"])
    assert done.exit_code == 4
    assert done.stderr.startswith("ledger: /x: No space left on device\n  mend: free some space")


def test_ctrl_c() -> None:
    done = CliRunner().invoke(Broken(KeyboardInterrupt()), ["break"])
    assert (done.exit_code, done.stderr) == (130, "ledger: interrupted\n")


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")


@pytest.mark.parametrize("words", ["ls", "show run-1 --json", "--help"])
@pytest.mark.parametrize(
    ("where", "told"),
    [(">&-", "Bad file descriptor"), pytest.param(">/dev/full", "No space left on device", marks=FULL)],
    ids=["closed", "full"],
)
def test_data_that_cannot_be_brought_out_are_an_error(recorded: Desk, words: str, where: str, told: str) -> None:
    done = recorded.run("sh", "-c", f"ledger {words} {where}", code=4)
    first, second = done.err.splitlines()
    assert first == f"ledger: standard output: {told}"
    assert second.startswith("  mend: ")


@FULL
def test_unbuffered_as_well(recorded: Desk) -> None:
    done = recorded.run("sh", "-c", "ledger ls >/dev/full", code=4, PYTHONUNBUFFERED="1")
    assert done.err.startswith("ledger: standard output: No space left on device\n  mend: ")


@pytest.mark.parametrize("where", ["<&- >&- 2>&-", pytest.param(">/dev/full 2>/dev/full", marks=FULL)])
def test_talk_that_nobody_hears_costs_no_run(desk: Desk, where: str) -> None:
    look = "echo said; echo complained >&2; readlink /proc/$PPID/fd/0 /proc/$PPID/fd/1 /proc/$PPID/fd/2 >held; exit 3"
    desk.write(look__sh=look)
    desk.run("sh", "-c", f"ledger run -- sh look.sh {where}", code=5)
    console = [fact["payload"] for fact in desk.ledger("log", "run-1", "--json").json if fact["type"].startswith("con")]
    assert [told["bytes"] for told in console] == [len("said\ncomplained\n")]
    # No file of the ledger's own may have the number of a stream: whatever is printed would land in it.
    assert ".ledger" not in (desk.home / "held").read_text()
    desk.run("sh", "-c", "ledger xyzzy 2>&-", code=2)


def test_who_listens_may_leave(desk: Desk) -> None:
    words = ["ledger", "run", "--", "sh", "-c", "echo ready; read line; echo more; exit 3"]
    with subprocess.Popen(
        words, cwd=desk.home, env=desk.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as running:
        assert running.stdin
        assert running.stdout
        assert running.stdout.readline() == b"ready\n"
        running.stdout.close()
        running.stdin.close()
        assert running.wait(60) == 5
    assert [run["status"] for run in desk.ledger("ls", "--json").json] == ["failed"]


def test_help_that_is_read_in_part_is_no_error(desk: Desk) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            ["ledger", "--help"], env=desk.environ, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_broken_pipe_elsewhere_is_an_error() -> None:
    done = CliRunner().invoke(Broken(BrokenPipeError(32, "Broken pipe")), ["break"])
    assert (done.exit_code, done.stderr) == (4, "ledger: Broken pipe\n")

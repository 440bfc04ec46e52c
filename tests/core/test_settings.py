"""Where a ledger is found, and what a bad ledger.toml is told."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from ledger.errors import InvalidSettings
from ledger.settings import find_settings


def test_without_anything_the_ledger_is_here(tmp_path: Path) -> None:
    settings = find_settings(start=tmp_path, environ={})
    assert settings.url == f"sqlite:///{tmp_path}/.ledger/ledger.db"
    assert settings.objects == (tmp_path / ".ledger/objects").as_uri()
    assert settings.checkpoints == (tmp_path / ".ledger/checkpoints").as_uri()


def test_ledger_toml_is_found_upward_and_paths_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "ledger.toml").write_text('[ledger]\nurl = "book"\nproject = "llm"\ncheckpoints = "big/disk"\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    settings = find_settings(start=below, environ={})
    assert settings.url == f"sqlite:///{tmp_path}/book/ledger.db"
    assert settings.project == "llm"
    assert settings.checkpoints == (tmp_path / "big/disk").as_uri()


def test_the_command_line_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    (tmp_path / "ledger.toml").write_text('[ledger]\nurl = "file"\n')
    environ = {"LEDGER_URL": "environment"}
    assert "/environment/" in find_settings(start=tmp_path, environ=environ).url
    assert "/argument/" in find_settings("argument", start=tmp_path, environ=environ).url


def test_a_child_process_finds_the_same_ledger_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "ledger.toml").write_text('[ledger]\nurl = "book"\nobjects = "memory://objects"\n')
    settings = find_settings(start=tmp_path, environ={"LEDGER_PLUGINS": "a, b"})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again = find_settings(start=elsewhere, environ=settings.environ())
    assert (again.url, again.objects, again.checkpoints, again.scratch, again.plugins) == (
        settings.url,
        settings.objects,
        settings.checkpoints,
        settings.scratch,
        ("a", "b"),
    )


def test_a_scratch_directory_is_the_same_for_a_child_process_elsewhere(tmp_path: Path) -> None:
    settings = find_settings(start=tmp_path, environ={"LEDGER_SCRATCH": "near"})
    assert settings.scratch == tmp_path / "near"
    assert find_settings(start=tmp_path / "elsewhere", environ=settings.environ()).scratch == settings.scratch


def test_what_mirrors_write_stays_with_the_ledger_wherever_the_scratch_directory_is(tmp_path: Path) -> None:
    team = "postgresql+psycopg://host/team"
    settings = find_settings(team, start=tmp_path, environ={"LEDGER_SCRATCH": "/tmp/scratch-of-a-job"})
    assert settings.mirrored == tmp_path / ".ledger/mirrors"
    assert settings.mirrored in settings.places()
    (tmp_path / "ledger.toml").write_text('[ledger]\nurl = "book"\n')
    assert find_settings(start=tmp_path, environ={}).mirrored == tmp_path / "book/mirrors"


def test_an_empty_selection_disables_all_third_party_plugins(tmp_path: Path) -> None:
    assert find_settings(start=tmp_path, environ={"LEDGER_PLUGINS": ""}).plugins == ()
    assert find_settings(start=tmp_path, environ={}).plugins is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[ledger\n", "line 1"),
        ("[ledgr]\n", "ledgr"),
        ('[ledger]\nurll = "x"\n', "ledger.urll"),
        ("[ledger]\nurl = 3\n", "ledger.url"),
        ('[capture]\ncode_limit_mb = "many"\n', "capture.code_limit_mb"),
        ("ledger = 1\n", "ledger"),
    ],
)
def test_a_bad_file_is_told_which_key(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "ledger.toml").write_text(text)
    with pytest.raises(InvalidSettings, match=named):
        find_settings(start=tmp_path, environ={})


def test_tables_of_plugins_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "ledger.toml").write_text('[plugin.mlflow]\nuri = "http://x"\n')
    assert find_settings(start=tmp_path, environ={}).plugin_settings == {"mlflow": {"uri": "http://x"}}


def test_who_it_is_comes_from_the_variables_and_else_from_the_account(tmp_path: Path) -> None:
    names = {"LEDGER_USER": "ada", "USER": "grace", "LOGNAME": "alan"}
    assert find_settings(start=tmp_path, environ=names).user == "ada"
    assert find_settings(start=tmp_path, environ={"LOGNAME": "alan"}).user == "alan"
    assert find_settings(start=tmp_path, environ={}).user == pwd.getpwuid(os.getuid()).pw_name


def test_the_places_of_the_ledger_itself_are_known(tmp_path: Path) -> None:
    settings = find_settings(f"sqlite:///{tmp_path}/team.db", start=tmp_path, environ={})
    assert tmp_path / "team.db" in settings.places()
    assert tmp_path not in settings.places()
    assert tmp_path / ".ledger" in find_settings(start=tmp_path, environ={}).places()

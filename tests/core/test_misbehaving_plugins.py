"""What a plugin may do to the process that asks it, hook by hook. With real runs: tests/e2e/test_strangers.py."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from ledger.errors import PluginUnavailable
from ledger.hooks import guard, loading, manager, specs
from ledger.hooks.manager import Plugins
from ledger.hooks.specs import hookimpl
from ledger.settings import Settings, in_memory
from ledger.testing.builders import run_started, stream
from ledger.testing.fakes import FakePlugin
from tests.core.test_plugins import PROPAGATES, call

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOOKS = sorted(name for name, each in vars(specs).items() if hasattr(each, "ledger_spec"))
ISOLATED = sorted({*HOOKS} - {*PROPAGATES})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return in_memory(tmp_path)


def doing(hook: str, deed: Callable[[], Any]) -> object:
    """A plugin that does that in one hook."""

    def implementation(self: object) -> Any:
        return deed()

    implementation.__name__ = hook
    return type("Stranger", (), {hook: hookimpl(implementation)})()


def asked(plugins: Plugins, hook: str, settings: Settings) -> str:
    """Ask, as the ledger would; what is said of it to people."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            answer = call(plugins, hook, settings)
        except PluginUnavailable as error:
            answer = f"{error} {error.mend}"
        return f"{answer} {' '.join(str(each.message) for each in said)}"


def test_every_hook_is_of_one_kind_or_the_other() -> None:
    assert {*HOOKS} == {*PROPAGATES, *ISOLATED}
    assert ISOLATED == ["capture_environment", "compare_runs", "events_appended", "offer_engines", "open_mirrors"]


@pytest.mark.parametrize("deed", [lambda: sys.exit(3), lambda: pytest.fail("a BaseException"), lambda: 1 / 0])
@pytest.mark.parametrize("hook", HOOKS)
def test_what_asks_for_the_end_of_the_process_is_a_failure_like_any_other(
    hook: str, deed: Callable[[], Any], settings: Settings
) -> None:
    plugins = Plugins.of(doing(hook, deed))
    assert "Stranger" in asked(plugins, hook, settings)


def test_the_place_is_told_where_the_end_of_the_process_was_asked_for(settings: Settings) -> None:
    plugins = Plugins.of(doing("open_mirrors", lambda: sys.exit(3)))
    assert f"3 ({__file__}:" in asked(plugins, "open_mirrors", settings)


@pytest.mark.parametrize("end", [KeyboardInterrupt, guard.Terminated])
@pytest.mark.parametrize("hook", HOOKS)
def test_the_users_interrupt_passes(hook: str, end: type[BaseException], settings: Settings) -> None:
    def interrupt() -> None:
        raise end

    with pytest.raises(end):
        call(Plugins.of(doing(hook, interrupt)), hook, settings)


@pytest.mark.parametrize("hook", HOOKS)
def test_it_is_asked_though_there_can_be_no_more_threads(
    hook: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ``atexit`` with Python 3.12."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    heard: list[str] = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert "can't create" not in asked(Plugins.of(doing(hook, lambda: heard.append(hook))), hook, settings)
    assert heard == [hook]


@pytest.mark.parametrize("hook", ISOLATED)
def test_one_that_hangs_is_left_behind_and_named(
    hook: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "LIMIT_S", 0.05)
    end = threading.Event()
    plugins = Plugins.of(doing(hook, end.wait))
    assert f"Stranger failed in {hook} and is left out from now on: no answer within 0.05 s" in asked(
        plugins, hook, settings
    )
    assert plugins.describe()[0].status == "quarantined"
    begun = time.monotonic()
    monkeypatch.setattr(manager, "LIMIT_S", 60.0)
    asked(plugins, hook, settings)  # that is, the others
    assert time.monotonic() - begun < 30
    end.set()


@pytest.mark.parametrize("hook", PROPAGATES)
def test_it_is_said_who_is_waited_for(hook: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    said, warned = threading.Event(), []
    monkeypatch.setattr(manager, "PATIENCE_S", 0.01)
    monkeypatch.setattr(manager, "_warn", lambda message: (warned.append(message), said.set()))
    plugins = Plugins.of(doing(hook, lambda: said.wait(30) and None))
    asked(plugins, hook, settings)
    assert warned == [f"plugin Stranger has not answered {hook} for 0.01 s; without it: LEDGER_PLUGINS"]


@pytest.mark.parametrize("hook", HOOKS)
def test_what_it_prints_is_said_on_standard_error_under_its_name(
    hook: str, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sys.stdout
    asked(Plugins.of(doing(hook, lambda: print("hello", "there\nand here"))), hook, settings)
    assert sys.stdout is before
    said = capsys.readouterr()
    assert said.out == ""
    assert "plugin Stranger: hello there\nplugin Stranger: and here\n" in said.err


def test_it_may_print_though_there_is_no_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert guard.contained("a plugin", lambda: print("hello") or 7) == 7


def test_other_threads_go_on_printing_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    def deed() -> None:
        other = threading.Thread(target=print, args=("from elsewhere",))
        other.start()
        other.join()

    guard.contained("a plugin", deed)
    assert capsys.readouterr().out == "from elsewhere\n"


@pytest.mark.parametrize("wrong", [7, "text", [7], object()])
@pytest.mark.parametrize("hook", sorted({*HOOKS} - {"events_appended", "before_replay", "check_engine"}))
def test_an_answer_that_is_none_is_a_failure(hook: str, wrong: object, settings: Settings) -> None:
    plugins = Plugins.of(doing(hook, lambda: wrong))
    assert "Stranger" in asked(plugins, hook, settings)


def test_a_launcher_that_answers_with_no_words_is_a_failure(settings: Settings) -> None:
    assert "Stranger failed in launch_command" in asked(
        Plugins.of(doing("launch_command", list)), "launch_command", settings
    )


def test_a_warning_that_is_an_error_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def boom() -> None:
        raise RuntimeError("boom")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Plugins.of(doing("events_appended", boom)).events_appended(stream([run_started()]))
    assert "boom" in capsys.readouterr().err


FORKS = """
import os
from pathlib import Path
from ledger.settings import in_memory
from tests.core.test_misbehaving_plugins import HOOKS, Plugins, asked, doing

for hook in HOOKS:
    asked(Plugins.of(doing(hook, lambda: os.fork() and None)), hook, in_memory(Path("/nowhere")))
    print("asked", hook, flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


def test_a_child_that_comes_back_from_a_hook_is_ended() -> None:
    """All hooks in one process, for the sake of time: a child that went on would ask the rest of them again."""
    argv = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [word for hook in HOOKS for word in ("asked", hook)]
    assert done.stderr.count("plugin Stranger: it forked, and the child came back") == len(HOOKS)


def test_a_child_that_comes_back_is_ended_though_nobody_can_be_told() -> None:
    script = """
import os
from ledger.hooks import guard

read, write = os.pipe()
os.close(read)
os.dup2(write, 2)
guard.contained("a plugin", os.fork)
os.write(1, b"goes on\\n")
os.wait()
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert done.stdout == "goes on\n"


def test_a_child_of_another_thread_is_rid_of_what_plugins_were_about() -> None:
    """It has neither the thread that held the lock nor the one that printed, though its own may get their numbers."""
    script = """
import os, signal, threading
from ledger.hooks import guard

def in_a_thread(work):
    ready = threading.Event()
    threading.Thread(target=work, args=(ready,), daemon=True).start()
    ready.wait()

def hold(ready):
    with guard._TURN:
        ready.set()
        threading.Event().wait()

def ask(ready):
    guard.contained("a plugin", lambda: (ready.set(), threading.Event().wait()))

for work in (ask, hold):
    in_a_thread(work)
if not os.fork():
    signal.alarm(30)
    worker = threading.Thread(target=print, args=("a worker's own line",), kwargs={"flush": True})
    worker.start()
    worker.join()
    guard.contained("a plugin", lambda: None)
    print("asked", flush=True)
    os._exit(0)
os.wait()
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("a worker's own line\nasked\n", "")


def test_a_process_ends_though_a_plugin_hangs() -> None:
    script = """
import time
from ledger.hooks import guard
try:
    guard.bounded("plugin x", lambda: time.sleep(3600), 0.01)
except guard.TooLong as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "no answer within 0.01 s\n"


def test_a_mirror_is_had_though_another_plugin_hangs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "LIMIT_S", 0.05)
    end, fakes = threading.Event(), FakePlugin()
    plugins = Plugins.of(fakes, doing("open_mirrors", end.wait))  # the last is asked first
    with pytest.warns(RuntimeWarning, match="Stranger"):
        assert plugins.mirror("fake", settings) is fakes.mirror
    end.set()


# --- loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("api", "told", "mend"),
    [
        (2, "version 2 of the plugin API, and this Ledger has 1", "pip install --upgrade training-ledger"),
        (0, "version 0 of the plugin API", "install a newer version of the plugin"),
    ],
)
def test_a_plugin_of_another_api_is_not_let_in(api: int, told: str, mend: str) -> None:
    plugin = doing("open_mirrors", list)
    plugin.ledger_api = api  # type: ignore[attr-defined]
    with pytest.raises(loading.OtherApi, match=told) as caught:
        loading.admit(loading.new_manager(), plugin, "stranger")
    assert caught.value.mend == mend


@pytest.mark.parametrize("api", ["1", 1.0, True, None])
def test_an_api_that_is_no_number_is_a_mistake(api: object) -> None:
    plugin = doing("open_mirrors", list)
    plugin.ledger_api = api  # type: ignore[attr-defined]
    with pytest.raises(loading.Mistaken, match="no whole number"):
        loading.admit(loading.new_manager(), plugin, "stranger")


def test_who_says_nothing_of_the_api_is_let_in() -> None:
    assert loading.admit(loading.new_manager(), doing("open_mirrors", list), "stranger") == ("open_mirrors",)


def test_a_plugin_that_is_turned_away_leaves_nothing_behind() -> None:
    plugins = loading.new_manager()
    for hook in ("open_mirrrors", "open_mirrors"):
        deed = hookimpl(wrapper=True)(lambda self: (yield)) if hook == "open_mirrors" else hookimpl(lambda self: None)
        with pytest.raises(Exception, match="open_mir"):
            loading.admit(plugins, type("Odd", (), {hook: deed})(), "odd")
    assert plugins.list_name_plugin() == []


def installed(site: Path, name: str, distribution: str, module: str) -> None:
    """A distribution of one plugin, as pip would leave it."""
    (site / f"{distribution}.py").write_text(module)
    info = site / f"{distribution}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[ledger.plugins]\n{name} = {distribution}\n")


def test_an_import_that_hangs_is_given_up(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "sleeps", "stranger_that_sleeps", "import time\ntime.sleep(3600)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(loading, "IMPORT_LIMIT_S", 0.2)
    found = {info.name: info for info in manager.load_plugins(settings).describe()}
    assert (found["sleeps"].status, found["local"].status) == ("broken", "ok")
    assert "no answer within 0.2 s" in found["sleeps"].reason


def test_of_two_with_one_name_the_first_is_loaded_and_both_are_listed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for distribution in ("stranger_one", "stranger_two"):
        installed(tmp_path, "twin", distribution, "")
    monkeypatch.syspath_prepend(tmp_path)
    twins = [info for info in manager.load_plugins(settings).describe() if info.name == "twin"]
    assert [info.status for info in twins] == ["ok", "broken"]
    assert "twin" in twins[1].reason

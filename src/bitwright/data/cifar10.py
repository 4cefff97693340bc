"""``cifar10:DIR``: CIFAR-10 (Krizhevsky 2009), 32x32 colour images of 10 classes.

The folder holds ``train.npz`` and ``test.npz`` (``x`` uint8 (N, 3, 32, 32), ``y`` (N,)), or the published python
version: ``data_batch_1`` to ``data_batch_5`` and ``test_batch``, there or in ``cifar-10-batches-py``.
Normalised by default with mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225) on [0, 1].
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.data.array_dataset import Preparation
from bitwright.data.dataset import DataSets
from bitwright.data.npz import images
from bitwright.data.source import DATA, Source
from bitwright.errors import InvalidData

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


def load_cifar10(folder: Path, preparation: Preparation) -> DataSets:
    """Return the training images as calibration data and the test images as evaluation data.

    Raises:
        InvalidData: the folder holds neither of the two layouts.
    """
    each = replace(preparation, mean=preparation.mean or MEAN, std=preparation.std or STD)
    return images("cifar10", folder, each, _checked, _published)


def _published(folder: Path) -> Iterator[Callable[[], tuple[Path, Any, Any]]]:
    batches = _batches_folder(folder)
    for names in (TRAIN_BATCHES, ("test_batch",)):
        yield partial(_read_batches, [batches / name for name in names])


def _batches_folder(folder: Path) -> Path:
    for place in (folder, folder / "cifar-10-batches-py"):
        if all((place / name).is_file() for name in (*TRAIN_BATCHES, "test_batch")):
            return place
    raise InvalidData(
        f"{folder} does not hold CIFAR-10: it must hold train.npz and test.npz, or data_batch_1 to 5 and test_batch"
    )


def _read_batches(files: Sequence[Path]) -> tuple[Path, Any, Any]:
    inputs, targets = [], []
    for file in files:
        try:
            with file.open("rb") as stream:
                content = _ArrayUnpickler(stream, encoding="bytes").load()
            x = np.asarray(content[b"data"]).reshape(-1, 3, 32, 32)
            y = np.asarray(content[b"labels"])
        except (OSError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise InvalidData(f"cannot read {file}: it is not a batch of the python version of CIFAR-10") from error
        inputs.append(x)
        targets.append(y)
    return files[0], np.concatenate(inputs), np.concatenate(targets)


def _checked(file: Path, x: Any, y: Any) -> tuple[Any, Any]:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1:] != (3, 32, 32):
        raise InvalidData(f"the images in {file} must be uint8 (N, 3, 32, 32), got {x.dtype} {x.shape}")
    return x, y


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays and plain values; refuses everything else, since a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module.startswith("numpy"):
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode("latin1")
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")


DATA.register(
    Source(
        name="cifar10",
        order=20,
        does="CIFAR-10: 32x32 colour images of 10 classes.",
        path="DIR",
        given=("folder", "preparation"),
        function=load_cifar10,
    )
)

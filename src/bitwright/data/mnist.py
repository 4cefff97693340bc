"""``mnist:DIR``: MNIST (LeCun et al. 1998), 28x28 grey images of 10 digits, as (N, 1, 28, 28).

The folder holds ``train.npz`` and ``test.npz`` (``x`` uint8 (N, 28, 28), ``y`` (N,)), or the published idx files,
gzipped or not, there or in ``raw`` or ``MNIST/raw``. Normalised by default with mean 0.1307 and std 0.3081 on
[0, 1], the mean and standard deviation of the training pixels.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.data.array_dataset import Preparation
from bitwright.data.dataset import DataSets
from bitwright.data.npz import images
from bitwright.data.source import DATA, Source
from bitwright.errors import InvalidData

MEAN = (0.1307,)
STD = (0.3081,)


def load_mnist(folder: Path, preparation: Preparation) -> DataSets:
    """Return the training images as calibration data and the test images as evaluation data.

    Raises:
        InvalidData: the folder holds neither of the two layouts.
    """
    each = replace(preparation, mean=preparation.mean or MEAN, std=preparation.std or STD)
    return images("mnist", folder, each, _checked, _published)


def _published(folder: Path) -> Iterator[Callable[[], tuple[Path, Any, Any]]]:
    for part in ("train", "t10k"):
        pixels, labels = _find(folder, f"{part}-images", 3), _find(folder, f"{part}-labels", 1)
        yield lambda pixels=pixels, labels=labels: (pixels, _read_idx(pixels), _read_idx(labels))  # type: ignore[misc]


def _find(folder: Path, stem: str, axes: int) -> Path:
    for place in (folder, folder / "raw", folder / "MNIST" / "raw"):
        for separator in ("-", "."):
            for suffix in ("", ".gz"):
                file = place / f"{stem}{separator}idx{axes}-ubyte{suffix}"
                if file.is_file():
                    return file
    raise InvalidData(
        f"{folder} does not hold MNIST: it must hold train.npz and test.npz, or idx files "
        f"({stem}-idx{axes}-ubyte is missing)"
    )


def _read_idx(file: Path) -> Any:
    """Return the uint8 array in an idx file: zero, zero, 8 (uint8), axes; sizes as big-endian uint32; values."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidData(f"cannot read {file}: it is not a complete gzip file") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise InvalidData(f"{file} is not an idx file of 8-bit values")
    start = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], dtype=">u4"))
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if len(values) != np.prod(shape, dtype=np.int64):
        raise InvalidData(f"{file} is cut short: {len(values)} values for the shape {shape}")
    return values.reshape(shape)


def _checked(file: Path, x: Any, y: Any) -> tuple[Any, Any]:
    if x.dtype != np.uint8 or x.shape[1:] not in ((28, 28), (1, 28, 28)):
        raise InvalidData(f"the images in {file} must be uint8 (N, 28, 28), got {x.dtype} {x.shape}")
    return x.reshape(-1, 1, 28, 28), y


DATA.register(
    Source(
        name="mnist",
        order=30,
        does="MNIST: 28x28 handwritten digits.",
        path="DIR",
        given=("folder", "preparation"),
        function=load_mnist,
    )
)

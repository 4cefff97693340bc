"""Corrupted test sets as they were published: ``load_published("cifar10-c:DIR?limit=500")``.

| spec | files |
|---|---|
| ``cifar10-c:DIR`` | ``labels.npy`` and ``KIND.npy``: uint8 (5 N, 32, 32, 3), one severity after the other |
| ``mnist-c:DIR`` | ``KIND/test_images.npy`` uint8 (N, 28, 28, 1) and ``KIND/test_labels.npy`` |
| ``imagenet-c:DIR`` | ``KIND/SEVERITY/CLASS/*.JPEG``, or .png: a folder of one's own, too |

Hendrycks and Dietterich (2019), Mu and Gilmer (2019). Options are those of ``bitwright.data.load``; arrays are mapped
into memory, images are decoded when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.data import cifar10, mnist
from bitwright.data.array_dataset import ArrayDataset, Preparation
from bitwright.data.dataset import Dataset
from bitwright.data.imagefolder import ImageFolder, class_names
from bitwright.data.load import COMMON, Options
from bitwright.errors import InvalidData, InvalidInput
from bitwright.registry import split_options
from bitwright.values.behavior import SEVERITIES

Published = dict[str, dict[int, Dataset]]
"""Kind -> severity -> its samples, those of all kinds and severities in the same order."""


def load_published(spec: str) -> Published:
    """Return the sets that ``spec`` names.

    Raises:
        InvalidInput: an unknown kind or option, or a folder that is not there.
        InvalidData: the folder holds something else.
        MissingExtra: Pillow is not installed, for image files.
    """
    text, given = split_options(spec)
    kind, _, path = text.partition(":")
    if kind not in READERS:
        raise InvalidInput(f"published data must be one of {', '.join(f'{k}:DIR' for k in READERS)}, got '{spec}'")
    options = Options.of(spec, given, (*COMMON, "size", "resize"))
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        raise InvalidInput(f"no folder at {path or 'the path'} (data '{spec}')")
    found = READERS[kind](folder, options)
    if not found:
        raise InvalidData(f"{folder} holds no corrupted set in the layout of {kind}")
    return found


def is_published(spec: str) -> bool:
    """Whether a spec names such sets."""
    return spec.partition(":")[0] in READERS


def _cifar10_c(folder: Path, options: Options) -> Published:
    labels = _array(folder / "labels.npy")
    found: Published = {}
    for file in sorted(set(folder.glob("*.npy")) - {folder / "labels.npy"}):
        x = _array(file)
        if x.ndim != 4 or len(x) % len(SEVERITIES) or len(labels) not in (len(x), len(x) // len(SEVERITIES)):
            raise InvalidData(
                f"{file} must hold five severities of as many images as labels.npy has labels, got {x.shape}"
            )
        size = len(x) // len(SEVERITIES)
        prepared = _normalised(options, cifar10.MEAN, cifar10.STD)
        found[file.stem] = {
            s: _images(f"{file.stem} {s}", x[(s - 1) * size : s * size], labels[:size], prepared) for s in SEVERITIES
        }
    return found


def _mnist_c(folder: Path, options: Options) -> Published:
    prepared = _normalised(options, mnist.MEAN, mnist.STD)
    return {
        place.parent.name: {
            3: _images(place.parent.name, _array(place), _array(place.with_name("test_labels.npy")), prepared)
        }
        for place in sorted(folder.glob("*/test_images.npy"))
    }


def _imagenet_c(folder: Path, options: Options) -> Published:
    size = options.whole("size", 224, 1)
    resize = options.whole("resize", size * 256 // 224, size)
    places = [(kind, s, kind / str(s)) for kind in sorted(folder.iterdir()) for s in SEVERITIES]
    names = sorted({name for _, _, place in places if place.is_dir() for name in class_names(place)})
    found: Published = {}
    for kind, severity, place in places:
        if place.is_dir():
            data = ImageFolder(f"{kind.name} {severity}", place, names, options.preparation(None), size, resize)
            found.setdefault(kind.name, {})[severity] = data
    return found


READERS: Mapping[str, Callable[[Path, Options], Published]] = {
    "cifar10-c": _cifar10_c,
    "mnist-c": _mnist_c,
    "imagenet-c": _imagenet_c,
}
"""Kind of a spec -> what reads its folder."""


def _normalised(options: Options, mean: tuple[float, ...], std: tuple[float, ...]) -> Preparation:
    given = options.preparation(None)
    return replace(given, mean=given.mean or mean, std=given.std or std)


def _images(name: str, x: Any, y: Any, preparation: Preparation) -> Dataset:
    """(N, H, W, C) pixels and (N,) labels."""
    return ArrayDataset(
        name, lambda: (np.moveaxis(np.asarray(x), -1, 1), np.asarray(y)), preparation, max(10, int(np.max(y)) + 1)
    )


def _array(file: Path) -> Any:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidData(f"cannot read {file}: it is missing, damaged, or not an array") from error

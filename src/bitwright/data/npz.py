"""``npz:FILE``: arrays saved with `numpy.savez`, and the reading of one array that others share.

The file holds ``x_calibration``, ``y_calibration``, ``x_evaluation`` and ``y_evaluation``; or ``x`` and ``y``,
of which the first half becomes the calibration part and the rest the evaluation part (a spec's ``shuffle=SEED``
mixes the samples before that split). ``y`` holds class numbers from 0; ``x`` holds uint8 pixels, which are scaled
to [0, 1], floats, which are kept, or other whole numbers, which are kept as int64.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.data.array_dataset import ArrayDataset, Preparation, fixed_order
from bitwright.data.dataset import DataSets, check_lengths, to_targets
from bitwright.data.source import DATA, Source
from bitwright.errors import InvalidData, first_line

Published = Callable[[Path], Iterable[Callable[[], tuple[Path, Any, Any]]]]
PARTS = ("x_calibration", "y_calibration", "x_evaluation", "y_evaluation")


def load_npz(file: Path, preparation: Preparation) -> DataSets:
    """Return the data in ``file``; the number of classes is the largest target plus one.

    Raises:
        InvalidData: the file cannot be read, lacks arrays, or has too few samples to split.
    """
    names = _names(file)
    if set(PARTS) <= names:
        targets = {part: read_npz(file, f"y_{part}") for part in ("calibration", "evaluation")}
        classes = _classes(file, *targets.values())
        calibration, evaluation = (
            ArrayDataset(
                f"{file.name} {part}",
                lambda part=part, y=y: (read_npz(file, f"x_{part}"), y),  # type: ignore[misc]
                preparation,
                classes,
            )
            for part, y in targets.items()
        )
        return DataSets(calibration, evaluation)
    if not {"x", "y"} <= names:
        found = ", ".join(sorted(names)) or "nothing"
        raise InvalidData(f"{file} must hold {', '.join(PARTS)}, or x and y; it holds {found}")
    return _split(file, preparation)


def images(
    name: str, folder: Path, preparation: Preparation, checked: Callable[[Path, Any, Any], Any], published: Published
) -> DataSets:
    """Ten classes of images from ``train.npz`` and ``test.npz`` (``x``, ``y``), or from the files as published.

    Args:
        name: of the data set.
        folder: holds the files.
        preparation: of the samples.
        checked: (file, x, y) -> x and y as they are used.
        published: folder -> what reads the training part and the test part, where there are no ``.npz`` files.
    """
    files = [folder / f"{part}.npz" for part in ("train", "test")]
    if all(file.is_file() for file in files):
        reads = [lambda file=file: checked(file, read_npz(file, "x"), read_npz(file, "y")) for file in files]
    else:
        reads = [lambda read=read: checked(*read()) for read in published(folder)]
    parts = zip(("calibration", "evaluation"), reads, strict=True)
    return DataSets(*(ArrayDataset(f"{name} {part}", read, preparation, classes=10) for part, read in parts))


def read_npz(file: Path, name: str) -> Any:
    """Return the array ``name`` of ``file``.

    Raises:
        InvalidData: the file cannot be read, has no such array, or the array does not hold numbers.
    """
    if name not in _names(file):
        raise InvalidData(f"{file} has no array '{name}'")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            return content[name]
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidData(f"cannot read the array '{name}' of {file}: {first_line(error)}") from error


def _split(file: Path, preparation: Preparation) -> DataSets:
    x, y = read_npz(file, "x"), read_npz(file, "y")
    check_lengths(x, y, file.name)
    if len(x) < 2:
        raise InvalidData(f"{file} has one sample, and at least two are needed: one to calibrate, one to evaluate")
    classes = _classes(file, y)
    order = fixed_order(len(x), replace(preparation, limit=None))
    if order is not None:
        x, y = x[order], y[order]
    half = len(x) // 2
    each = replace(preparation, shuffle=None)
    return DataSets(
        ArrayDataset(f"{file.name} calibration", lambda: (x[:half], y[:half]), each, classes),
        ArrayDataset(f"{file.name} evaluation", lambda: (x[half:], y[half:]), each, classes),
    )


def _names(file: Path) -> set[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise InvalidData(f"cannot read {file}: it must be a .npz file written by numpy.savez") from error
    return {member.removesuffix(".npy") for member in members if member.endswith(".npy")}


def _classes(file: Path, *targets: Any) -> int:
    return max((int(to_targets(y, file.name).max()) + 1 for y in targets if len(y)), default=0)


DATA.register(
    Source(
        name="npz",
        order=50,
        does="Arrays in one file.",
        path="FILE",
        given=("file", "preparation"),
        function=load_npz,
    )
)

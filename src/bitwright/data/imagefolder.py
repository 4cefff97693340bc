"""``imagefolder:DIR``: image files sorted into one folder for each class.

``DIR/train/CLASS/*`` gives the calibration part, ``DIR/test/CLASS/*`` (or ``DIR/val`` where there is no ``test``)
the evaluation part; files end in .png, .jpg or .jpeg. Class numbers follow the sorted names of the folders in
``train``. Each image becomes RGB, is resized so that its shorter side has ``resize`` pixels, and cropped to the
middle ``size`` x ``size`` pixels. Images are decoded batch by batch, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitwright.data.array_dataset import ArrayDataset, Preparation, fixed_order
from bitwright.data.dataset import Batch, Dataset, DataSets, digest
from bitwright.data.source import DATA, Source
from bitwright.errors import InvalidData, InvalidInput, MissingExtra

SUFFIXES = (".png", ".jpg", ".jpeg")


def load_imagefolder(folder: Path, preparation: Preparation, size: int = 224, resize: int | None = None) -> DataSets:
    """Return the training images as calibration data and the test images as evaluation data.

    Args:
        folder: holds ``train``, and ``test`` or ``val``.
        preparation: order, number and normalisation of the images.
        size: height and width of the centre crop, in pixels.
        resize: length of the shorter side before the crop; None for size x 256 / 224.

    Raises:
        InvalidInput: ``resize`` is below ``size``.
        InvalidData: a folder is missing, or ``train`` has no class folders.
        MissingExtra: Pillow is not installed.
    """
    _pillow()
    resize = size * 256 // 224 if resize is None else resize
    if resize < size:
        raise InvalidInput(f"resize must be a whole number, at least {size}, got '{resize}'")
    train = folder / "train"
    test = next((place for place in (folder / "test", folder / "val") if place.is_dir()), None)
    if not train.is_dir() or test is None:
        raise InvalidData(f"{folder} must hold a folder 'train' and a folder 'test' or 'val'")
    classes = class_names(train)
    if not classes:
        raise InvalidData(f"{train} must hold one folder of images for each class, and it has none")
    unknown = sorted(set(class_names(test)) - set(classes))
    if unknown:
        raise InvalidData(f"{test / unknown[0]} is a class that {train} does not have")
    return DataSets(
        ImageFolder("imagefolder calibration", train, classes, preparation, size, resize),
        ImageFolder("imagefolder evaluation", test, classes, preparation, size, resize),
    )


class ImageFolder(Dataset):
    """The images of one folder of class folders."""

    def __init__(
        self,
        name: str,
        folder: Path,
        class_names: Sequence[str],
        preparation: Preparation,
        size: int = 224,
        resize: int = 256,
    ) -> None:
        self.name = name
        self.folder = folder
        self.class_names = tuple(class_names)
        self.preparation = preparation
        self.size = size
        self.resize = resize

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, start: int, stop: int) -> Batch:
        """Decode the images ``start`` to ``stop - 1``: inputs (N, 3, size, size)."""
        chosen = self._files[start:stop]
        pixels = np.stack([self._decode(file) for file, _ in chosen])
        targets = torch.tensor([target for _, target in chosen])
        normalised = Preparation(mean=self.preparation.mean, std=self.preparation.std)
        batch = ArrayDataset(self.name, lambda: (pixels, targets), normalised, self.classes)
        return batch.read(0, len(chosen))

    def fingerprint(self) -> str:
        """A digest of the names and bytes of all files, and of how images are prepared."""
        files = [file for file, _ in self._files]
        total = digest(self.preparation.mean, self.preparation.std, self.size, self.resize)
        for file in files:
            total = digest(total, file.relative_to(self.folder).as_posix(), file.read_bytes())
        return total

    @cached_property
    def _files(self) -> list[tuple[Path, int]]:
        files = [
            (file, target)
            for target, name in enumerate(self.class_names)
            if (self.folder / name).is_dir()
            for file in sorted((self.folder / name).iterdir())
            if file.suffix.lower() in SUFFIXES
        ]
        if not files:
            raise InvalidData(f"{self.folder} holds no images ({', '.join(SUFFIXES)}) in its class folders")
        order = fixed_order(len(files), self.preparation)
        return files if order is None else [files[index] for index in order]

    def _decode(self, file: Path) -> Any:
        image_module = _pillow()
        try:
            with image_module.open(file) as opened:
                image = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise InvalidData(f"cannot read the image {file}: it is damaged or not an image") from error
        width, height = image.size
        shorter = min(width, height)
        image = image.resize(
            (self.resize * width // shorter, self.resize * height // shorter), image_module.Resampling.BILINEAR
        )
        left, top = (round((length - self.size) / 2) for length in image.size)
        image = image.crop((left, top, left + self.size, top + self.size))
        return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def class_names(folder: Path) -> list[str]:
    """The names of its folders, sorted."""
    return sorted(place.name for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "images", "to read image files") from error
    return Image


DATA.register(
    Source(
        name="imagefolder",
        order=40,
        does="Images in one folder for each class, under train and test or val.",
        path="DIR",
        needs="Pillow",
        given=("folder", "preparation"),
        shuffle=0,
        function=load_imagefolder,
    )
)

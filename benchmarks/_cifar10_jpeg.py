"""All of CIFAR-10 for the two MobileNetV2 benchmarks: the data that `load_data` reads, and JPEG files beside it.

``train_jpeg.npz`` and ``test_jpeg.npz`` may lie in the same folder: ``bytes`` (uint8, the JPEG files one after the
other), ``offsets`` (int64, N + 1) and ``y``.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitwright.data import load_data
from bitwright.data.cifar10 import MEAN, STD


def folder_of(spec: str) -> Path:
    """The folder in ``cifar10:DIR``."""
    name, _, rest = spec.partition(":")
    if name != "cifar10" or not rest:
        raise SystemExit(f"--data must be cifar10:DIR, got '{spec}'")
    return Path(rest.partition(",")[0]).expanduser()


def jpeg_images(file: Path) -> tuple[Tensor, Tensor]:
    """Normalised images (N, 3, 32, 32) and classes (N,) of one JPEG collection."""
    from PIL import Image

    with np.load(file, allow_pickle=False) as content:
        data, offsets, classes = content["bytes"].tobytes(), content["offsets"], content["y"].astype(np.int64)
    pixels = np.empty((len(classes), 32, 32, 3), np.uint8)
    for index in range(len(classes)):
        with Image.open(io.BytesIO(data[offsets[index] : offsets[index + 1]])) as image:
            pixels[index] = np.asarray(image.convert("RGB"))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    images.sub_(torch.tensor(MEAN).view(1, 3, 1, 1)).div_(torch.tensor(STD).view(1, 3, 1, 1))
    return images.contiguous(), torch.from_numpy(classes)


def images(spec: str, part: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The ``train`` or ``test`` images: ``lossless`` and, where there is a collection, ``jpeg``."""
    data = load_data(spec)
    dataset = data.calibration if part == "train" else data.evaluation
    inputs, targets = zip(*dataset.batches(1024), strict=True)
    found = {"lossless": (torch.cat(inputs), torch.cat(targets))}
    file = folder_of(spec) / f"{part}_jpeg.npz"
    if file.is_file():
        found["jpeg"] = jpeg_images(file)
    return found


def in_batches(collection: tuple[Tensor, Tensor], batch: int) -> list[tuple[Tensor, Tensor]]:
    """The collection cut into batches, in its order."""
    return list(zip(collection[0].split(batch), collection[1].split(batch), strict=True))

"""Digits on a canvas: small made-up scenes for segmentation, detection and regression, from any images of digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from bitwright.errors import InvalidInput

_TRIES = 20


@dataclass(frozen=True)
class Canvases:
    """Scenes with everything that is known about them.

    Attributes:
        images: (N, 1, S, S) float32 from 0 to 1, the digits on a noisy background.
        masks: (N, S, S) int64 class of each pixel: 0 for the background, 1 + digit elsewhere.
        boxes: (N, M, 4) float32 left, top, right and bottom edge of each digit in pixels; zeros where there is none.
        classes: (N, M) int64 digit in each box; -1 where there is none.
    """

    images: Tensor
    masks: Tensor
    boxes: Tensor
    classes: Tensor


def digits_on_canvas(
    digits: Any,
    labels: Any,
    count: int,
    size: int = 64,
    least: int = 1,
    most: int = 4,
    heights: tuple[int, int] = (14, 28),
    noise: float = 0.1,
    seed: int = 0,
) -> Canvases:
    """Place digits of random sizes at random places, without touching boxes.

    Args:
        digits: (D, H, W) uint8 images, light on dark.
        labels: (D,) class of each image.
        count: number of canvases.
        size: height and width of a canvas in pixels.
        least: fewest digits on a canvas.
        most: most digits on a canvas; where no free place is found for one after some tries, there are fewer.
        heights: smallest and largest length of a digit's longer side in pixels.
        noise: standard deviation of the background.
        seed: the same one gives the same canvases.

    Raises:
        InvalidInput: the digits do not fit on the canvas, or ``least`` and ``most`` are out of order.
    """
    if not 1 <= least <= most:
        raise InvalidInput(f"least and most must be in order and at least 1, got least={least}, most={most}")
    if not 2 <= heights[0] <= heights[1] <= size:
        raise InvalidInput(f"heights must be in order, at least 2 and at most size={size}, got {heights}")
    random = np.random.RandomState(seed)
    images = random.normal(0.0, noise, (count, size, size)).astype(np.float32) ** 2
    masks = np.zeros((count, size, size), dtype=np.int64)
    boxes = np.zeros((count, most, 4), dtype=np.float32)
    classes = np.full((count, most), -1, dtype=np.int64)
    for image, mask, placed, held in zip(images, masks, boxes, classes, strict=True):
        filled = 0
        for _ in range(random.randint(least, most + 1)):
            chosen = random.randint(len(digits))
            digit = _scaled(np.asarray(digits[chosen]), random.randint(heights[0], heights[1] + 1))
            place = _free_place(digit.shape, placed[:filled], size, random)
            if place is None:
                continue
            top, left = place
            rows, columns = slice(top, top + digit.shape[0]), slice(left, left + digit.shape[1])
            image[rows, columns] = np.maximum(image[rows, columns], digit)
            mask[rows, columns][digit > 0.3] = 1 + int(labels[chosen])
            placed[filled] = (left, top, columns.stop, rows.stop)
            held[filled] = int(labels[chosen])
            filled += 1
    light = torch.from_numpy(images.clip(0.0, 1.0)).unsqueeze(1)
    return Canvases(light, torch.from_numpy(masks), torch.from_numpy(boxes), torch.from_numpy(classes))


def _scaled(digit: npt.NDArray[Any], longer: int) -> npt.NDArray[np.float32]:
    """The digit without its dark border, its longer side ``longer`` pixels, from 0 to 1."""
    lit = digit > 0.2 * digit.max()
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    cut = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32) / float(digit.max())
    height, width = (max(2, round(side * longer / max(cut.shape))) for side in cut.shape)
    scaled = functional.interpolate(torch.from_numpy(cut)[None, None], (height, width), mode="bilinear", antialias=True)
    values: npt.NDArray[np.float32] = scaled[0, 0].numpy()
    return values


def _free_place(
    shape: tuple[int, ...], placed: npt.NDArray[np.float32], size: int, random: np.random.RandomState
) -> tuple[int, int] | None:
    """Row and column of a digit whose box overlaps none of those placed, or None when none was found."""
    for _ in range(_TRIES):
        top, left = (int(random.randint(0, size - side + 1)) for side in shape)
        apart = (
            (placed[:, 0] >= left + shape[1])
            | (placed[:, 2] <= left)
            | (placed[:, 1] >= top + shape[0])
            | (placed[:, 3] <= top)
        )
        if apart.all():
            return top, left
    return None

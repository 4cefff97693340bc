"""A shift: something in front of the camera, a grey square at a random place of each image."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from bitwright.behavior import Shift


def occlude(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Cover a square of a tenth to a half of the image's height.

    Args:
        inputs: (N, C, H, W) from 0 to 1.
        severity: 1 to 5.
        generator: of the places.
    """
    count, _, height, width = inputs.shape
    size = max(1, round(height * severity / 10))
    top = torch.randint(0, height - size + 1, (count, 1, 1), generator=generator)
    left = torch.randint(0, max(width - size, 0) + 1, (count, 1, 1), generator=generator)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    covered = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return torch.where(covered[:, None], 0.5, inputs)


OCCLUSION = Shift(
    name="occlusion",
    does="Something in front of the camera.",
    changes="a square of each image",
    function=occlude,
)

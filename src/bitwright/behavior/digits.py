"""Corruptions of digits: the kinds of MNIST-C (Mu and Gilmer, 2019) that are not among those of natural images.

Images are (N, C, H, W) from 0 to 1. MNIST-C has one strength for each kind, about severity 3 here. Lengths are given
for images of 28 pixels and grow with the image's size. For images of three channels these shifts work, too, but are
only taken when they are named.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from bitwright.behavior.shift import registered
from bitwright.errors import MissingExtra


def _sign(count: int, generator: Generator) -> Tensor:
    """(N,) -1 or 1."""
    return torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1


def _warped(images: Tensor, matrices: Tensor) -> Tensor:
    """Each image under a linear map about its middle, (N, 2, 2) from the new places to the old, black around it."""
    moves = torch.cat((matrices, torch.zeros(len(images), 2, 1)), 2)
    return _placed(images, moves)


def _placed(images: Tensor, moves: Tensor) -> Tensor:
    """Each image under an affine map (N, 2, 3) in units of half an image, black around it."""
    grid = functional.affine_grid(moves, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@registered(name="shear", order=60, does="Slanted.", channels=(1,))
def shear(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Rows moved in proportion to their height."""
    slant = (0.2, 0.4, 0.6, 0.8, 1.0)[severity - 1] * _sign(len(inputs), generator)
    matrices = torch.eye(2).repeat(len(inputs), 1, 1)
    matrices[:, 0, 1] = slant
    return _warped(inputs, matrices)


@registered(name="scale", order=61, does="Smaller.", channels=(1,))
def scale(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Made smaller, black around it."""
    factor = (0.9, 0.75, 0.6, 0.5, 0.4)[severity - 1]
    return _warped(inputs, (torch.eye(2) / factor).repeat(len(inputs), 1, 1))


@registered(name="rotate", order=62, does="Turned.", channels=(1,))
def rotate(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Turned by 10 to 50 degrees to either side."""
    angle = math.radians(10 * severity) * _sign(len(inputs), generator)
    rows = (torch.stack((angle.cos(), -angle.sin()), 1), torch.stack((angle.sin(), angle.cos()), 1))
    return _warped(inputs, torch.stack(rows, 1))


@registered(name="translate", order=63, does="Off the middle.", channels=(1,))
def translate(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Moved in a direction that each image draws, black behind it."""
    angle = torch.rand(len(inputs), generator=generator) * 2 * math.pi
    moves = torch.eye(2, 3).repeat(len(inputs), 1, 1)
    moves[:, :, 2] = 2 * 0.06 * severity * torch.stack((angle.cos(), angle.sin()), 1)
    return _placed(inputs, moves)


@registered(name="stripe", order=64, does="A bar of inverted pixels.", channels=(1,))
def stripe(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """A bar of columns in the middle, black for white."""
    width = inputs.shape[-1]
    half = max(1, round(width * 0.025 * severity))
    middle = width // 2
    found = inputs.clone()
    found[..., middle - half : middle + half] = 1 - found[..., middle - half : middle + half]
    return found


@registered(name="dotted-line", order=65, does="A dotted line across.", channels=(1,))
def dotted_line(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """From edge to edge at a height and a slope that each image draws."""
    along, gap = _across(inputs, generator)
    return torch.where((along.floor() % 4 < 2) & (gap.abs() <= _thick(inputs, severity)), 1.0, inputs)


@registered(name="zigzag", order=66, does="A zigzag line across.", channels=(1,))
def zigzag(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """From edge to edge, up and down by two pixels."""
    along, gap = _across(inputs, generator)
    wave = 2 * ((along / 4) % 2 - 1).abs() - 1
    swing = 2 * inputs.shape[-1] / 28
    return torch.where((gap - swing * wave).abs() <= _thick(inputs, severity), 1.0, inputs)


@registered(
    name="canny-edges",
    order=67,
    does="Nothing but outlines.",
    needs="scikit-image: pip install 'bitwright[behavior]'",
    channels=(1,),
)
def canny_edges(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Edges by Canny (1986), smoother ones with each severity, drawn over what is left of the image."""
    try:
        from skimage.feature import canny
    except ImportError:
        raise MissingExtra("skimage", "behavior", "for the shift 'canny-edges'") from None
    find: Any = canny
    smooth = (0.5, 0.75, 1.0, 1.25, 1.5)[severity - 1] * inputs.shape[-1] / 28
    edges = [torch.from_numpy(find(image.double().numpy(), sigma=smooth)) for image in inputs.mean(1)]
    return torch.stack(edges)[:, None].to(inputs).expand_as(inputs).clone()


def _across(images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """(N, 1, H, W) pixels along a line across each image, and pixels above or below it."""
    count, _, height, width = images.shape
    middle = (0.25 + 0.5 * torch.rand(count, generator=generator)) * height
    slope = torch.rand(count, generator=generator) - 0.5
    columns, rows = torch.arange(width) - width / 2, torch.arange(height)
    line = middle[:, None] + slope[:, None] * columns
    along = (torch.arange(width) * 28 / width).expand(count, 1, height, width)
    return along, (rows[None, :, None] - line[:, None, :])[:, None]


def _thick(images: Tensor, severity: int) -> float:
    """Half of a line's thickness in pixels."""
    return (0.3, 0.5, 0.8, 1.1, 1.5)[severity - 1] * images.shape[-1] / 28

"""Corruptions of images: the kinds of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019), at its five severities.

Images are (N, C, H, W) from 0 to 1. Strengths are those that the benchmark gives for images of 32 pixels; where it
speaks of pixels they grow with the image's size. Frost and snow are drawn by formulas here, where the benchmark takes
photographs and an image program's filters.
"""

from __future__ import annotations

import io
import math

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from bitwright.behavior.shift import registered
from bitwright.errors import MissingExtra


def _at(severity: int, *strengths: float) -> float:
    return strengths[severity - 1]


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator)


def _uniform(shape: torch.Size | tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


def _scaled(images: Tensor, pixels: float) -> float:
    """A length in pixels of an image of 32."""
    return pixels * images.shape[-1] / 32


@registered(name="gaussian-noise", order=10, does="Noise of a sensor in low light.")
def gaussian_noise(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Normal noise on every value."""
    return inputs + _at(severity, 0.04, 0.06, 0.08, 0.09, 0.10) * _normal(inputs, generator)


@registered(name="shot-noise", order=11, does="Noise of single photons.")
def shot_noise(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Poisson noise."""
    photons = _at(severity, 500, 250, 100, 75, 50)
    return torch.poisson(inputs.clamp_min(0) * photons, generator=generator) / photons


@registered(name="impulse-noise", order=12, does="Values that are black or white at random.")
def impulse_noise(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Salt and pepper, each value on its own."""
    share = _at(severity, 0.01, 0.02, 0.03, 0.05, 0.07)
    drawn = _uniform(inputs.shape, generator)
    inputs = torch.where(drawn < share / 2, 0.0, inputs)
    return torch.where(drawn > 1 - share / 2, 1.0, inputs)


@registered(name="speckle-noise", order=13, does="Noise that grows with brightness.")
def speckle_noise(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Normal noise times the value."""
    return inputs + inputs * _at(severity, 0.06, 0.10, 0.12, 0.16, 0.20) * _normal(inputs, generator)


@registered(name="gaussian-blur", order=20, does="A soft picture.")
def gaussian_blur(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """A Gaussian kernel."""
    return _blurred(inputs, _scaled(inputs, _at(severity, 0.4, 0.6, 0.7, 0.8, 1.0)))


@registered(name="defocus-blur", order=21, does="A lens out of focus.")
def defocus_blur(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """A disk with soft edges."""
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1]
    radius, soft = _scaled(inputs, radius), _scaled(inputs, soft)
    reach = math.ceil(radius + 3 * soft)
    axis = torch.arange(-reach, reach + 1.0)
    distance = (axis[:, None].square() + axis[None].square()).sqrt()
    disk = torch.sigmoid((radius - distance) * 4 / max(soft, 1e-3))
    return _filtered(inputs, disk / disk.sum())


@registered(name="motion-blur", order=22, does="A camera that moves.")
def motion_blur(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """A line in a direction that each image draws."""
    length, width = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    reach = max(1, round(_scaled(inputs, length / 2)))
    place = torch.arange(-reach, reach + 1.0)
    fall = torch.exp(-0.5 * (place / _scaled(inputs, width)).square())
    angle = (_uniform((len(inputs),), generator) - 0.5) * math.pi / 2
    found = torch.zeros_like(inputs)
    for step, weight in zip(place, fall / fall.sum(), strict=True):
        found += weight * _moved(inputs, step * angle.sin(), step * angle.cos())
    return found


@registered(name="zoom-blur", order=23, does="A camera that comes nearer.")
def zoom_blur(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """The mean over several magnifications."""
    largest = _at(severity, 1.06, 1.11, 1.16, 1.21, 1.26)
    factors = torch.arange(1.01, largest, 0.01)
    return (inputs + sum(_zoomed(inputs, float(factor)) for factor in factors)) / (len(factors) + 1)


@registered(name="glass-blur", order=24, does="Seen through frosted glass.")
def glass_blur(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Pixels that change places with near ones, between two blurs."""
    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    sigma, reach = _scaled(inputs, sigma), max(1, round(_scaled(inputs, reach)))
    found = _blurred(inputs, sigma)
    count, _, height, width = inputs.shape
    for _ in range(int(rounds)):
        offsets = torch.randint(-reach, reach + 1, (2, count, height, width), generator=generator)
        rows = (torch.arange(height)[None, :, None] + offsets[0]).clamp(0, height - 1)
        columns = (torch.arange(width)[None, None, :] + offsets[1]).clamp(0, width - 1)
        found = found.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows, columns].permute(0, 3, 1, 2)
    return _blurred(found, sigma)


@registered(name="brightness", order=30, does="Too much light.")
def brightness(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """The brightest channel of each pixel is raised; hue and saturation stay."""
    largest = inputs.amax(1, keepdim=True)
    raised = (largest + _at(severity, 0.05, 0.10, 0.15, 0.20, 0.30)).clamp(0, 1)
    return torch.where(largest > 1e-6, inputs * (raised / largest.clamp_min(1e-6)), raised)


@registered(name="contrast", order=31, does="Grey and flat.")
def contrast(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Nearer to the mean of each channel."""
    mean = inputs.mean((2, 3), keepdim=True)
    return (inputs - mean) * _at(severity, 0.75, 0.5, 0.4, 0.3, 0.15) + mean


@registered(name="saturate", order=32, does="Colours too pale or too strong.")
def saturate(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Each pixel's channels nearer to its brightest one, or further off; grey images become darker or brighter."""
    factor, more = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[severity - 1]
    if inputs.shape[1] == 1:
        return inputs * factor + more
    largest = inputs.amax(1, keepdim=True)
    saturation = 1 - inputs.amin(1, keepdim=True) / largest.clamp_min(1e-6)
    wanted = (saturation * factor + more).clamp(0, 1)
    return largest - (largest - inputs) * torch.where(saturation > 1e-6, wanted / saturation.clamp_min(1e-6), 1.0)


@registered(name="fog", order=40, does="Fog in front of everything.")
def fog(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Clouds, and what is behind them darker."""
    strength, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    largest = inputs.amax((1, 2, 3), keepdim=True)
    return (inputs + strength * _clouds(inputs, decay, generator)) * largest / (largest + strength)


@registered(name="frost", order=41, does="Ice on the lens.")
def frost(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Crystals: the ridges of clouds, white and blue."""
    keep, ice = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    ridges = (1 - (2 * _clouds(inputs, 1.7, generator) - 1).abs()) ** 3
    colour = torch.tensor([0.85, 0.95, 1.0]) if inputs.shape[1] == 3 else torch.ones(1)
    return keep * inputs + 2 * ice * ridges * colour[None, :, None, None]


@registered(name="snow", order=42, does="Snow that falls.")
def snow(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Flakes blurred along the direction in which they fall, on a paler picture."""
    share, keep = ((0.04, 0.95), (0.06, 0.9), (0.08, 0.85), (0.1, 0.8), (0.14, 0.75))[severity - 1]
    count, _, height, width = inputs.shape
    flakes = (_uniform((count, 1, height, width), generator) < share).float()
    fallen = motion_blur.function(flakes, severity, generator)
    grey = inputs.mean(1, keepdim=True)
    return keep * inputs + (1 - keep) * torch.maximum(inputs, 1.5 * grey + 0.5) + 3 * fallen


@registered(name="spatter", order=43, does="Drops of water on the lens.")
def spatter(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Blots where clouds are densest."""
    share, strength = ((0.03, 0.4), (0.06, 0.5), (0.10, 0.6), (0.14, 0.65), (0.18, 0.7))[severity - 1]
    clouds = _clouds(inputs, 1.5, generator)
    edge = torch.quantile(clouds.flatten(1), 1 - share, dim=1)[:, None, None, None]
    drops = _blurred(torch.sigmoid((clouds - edge) * 60), _scaled(inputs, 0.5))
    return inputs * (1 - strength * drops) + 0.8 * strength * drops


@registered(name="elastic", order=50, does="A surface that is bent.")
def elastic(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Smooth moves of single regions."""
    strength, smooth = ((1.0, 4.0), (1.5, 3.5), (2.0, 3.0), (2.5, 2.5), (3.0, 2.2))[severity - 1]
    count, _, height, width = inputs.shape
    moves = 2 * _uniform((count, 2, height, width), generator) - 1
    moves = _blurred(moves, _scaled(inputs, smooth))
    moves = moves / moves.abs().amax((2, 3), keepdim=True).clamp_min(1e-6) * _scaled(inputs, strength)
    return _sampled(inputs, moves[:, 0], moves[:, 1])


@registered(name="pixelate", order=51, does="Too few pixels.")
def pixelate(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """Made smaller, then larger again."""
    height, width = inputs.shape[2:]
    factor = _at(severity, 0.95, 0.9, 0.85, 0.75, 0.65)
    small = functional.interpolate(inputs, (max(1, int(height * factor)), max(1, int(width * factor))), mode="area")
    return functional.interpolate(small, (height, width), mode="nearest")


@registered(name="jpeg", order=52, does="Stored as a small JPEG file.", needs="Pillow: pip install 'bitwright[images]'")
def jpeg(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    """JPEG at a quality of 80 to 40."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("PIL", "images", "for the shift 'jpeg'") from None
    import numpy as np

    quality = int(_at(severity, 80, 65, 58, 50, 40))
    found = []
    for image in (inputs.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(file, "JPEG", quality=quality)
        found.append(torch.from_numpy(np.array(Image.open(file))).float().reshape(image.shape))
    return torch.stack(found).permute(0, 3, 1, 2) / 255


# Parts.


def _filtered(images: Tensor, kernel: Tensor) -> Tensor:
    """Each channel with a kernel (k, k), the edges mirrored."""
    channels, reach = images.shape[1], kernel.shape[-1] // 2
    reach_of = [min(reach, size - 1) for size in images.shape[:1:-1] for _ in range(2)]
    padded = functional.pad(images, reach_of, mode="reflect")
    rest = [reach - given for given in reach_of]
    padded = functional.pad(padded, rest, mode="replicate") if any(rest) else padded
    return functional.conv2d(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur."""
    if sigma <= 0.05:
        return images
    reach = max(1, math.ceil(3 * sigma))
    axis = torch.exp(-0.5 * (torch.arange(-reach, reach + 1.0) / sigma).square())
    axis = axis / axis.sum()
    return _filtered(images, axis[:, None] * axis[None])


def _sampled(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each pixel from a place that is so many pixels further down and right, (N, H, W); edges mirrored."""
    height, width = images.shape[2:]
    rows = torch.arange(height)[None, :, None] + down
    columns = torch.arange(width)[None, None, :] + right
    grid = torch.stack((2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1), -1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def _moved(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Whole images moved by (N,) pixels."""
    shape = (len(images), *images.shape[2:])
    return _sampled(images, down[:, None, None].expand(shape), right[:, None, None].expand(shape))


def _zoomed(images: Tensor, factor: float) -> Tensor:
    """The middle of each image, magnified."""
    height, width = images.shape[2:]
    rows = (torch.arange(height) - (height - 1) / 2) * (1 / factor - 1)
    columns = (torch.arange(width) - (width - 1) / 2) * (1 / factor - 1)
    shape = (len(images), height, width)
    return _sampled(images, rows[None, :, None].expand(shape), columns[None, None, :].expand(shape))


def _clouds(images: Tensor, decay: float, generator: Generator) -> Tensor:
    """(N, 1, H, W) clouds from 0 to 1: noise at every scale, each finer one weaker by ``decay``."""
    count, _, height, width = images.shape
    total, size, weight = torch.zeros(count, 1, height, width), 2, 1.0
    while size <= max(height, width):
        noise = _uniform((count, 1, size, size), generator)
        total = total + weight * functional.interpolate(noise, (height, width), mode="bicubic", align_corners=True)
        size, weight = size * 2, weight / decay
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low).clamp_min(1e-6)

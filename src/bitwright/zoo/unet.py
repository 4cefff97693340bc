"""A small U-Net for segmentation (Ronneberger et al., MICCAI 2015).

The convolutions are padded, so that the output has the size of the input, and each is followed by batch norm.
Upsampling is a transposed convolution; the skip connections are concatenated.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from bitwright.errors import InvalidInput
from bitwright.zoo.weights import trained


class UpBlock(nn.Module):
    """Double the resolution, concatenate the skip connection, and convolve twice."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.convs = _two_convolutions(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) and (N, out_channels, 2H, 2W) to (N, out_channels, 2H, 2W)."""
        out: Tensor = self.convs(torch.cat((skip, self.up(x)), dim=1))
        return out


class UNet(nn.Module):
    """A U-Net for (N, in_channels, H, W) images, H and W multiples of 2 to the power ``depth``.

    Args:
        in_channels: channels of the image.
        num_classes: classes of a pixel.
        width: channels at full resolution; they double with each of the ``depth`` halvings.
        depth: how often the resolution is halved.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 2, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        if depth < 1 or width < 1:
            raise InvalidInput(f"width and depth must be at least 1, got width={width}, depth={depth}")
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _two_convolutions(before, after)
            for before, after in zip([in_channels, *widths[:-2]], widths[:-1], strict=True)
        )
        self.pools = nn.ModuleList(nn.MaxPool2d(2) for _ in range(depth))
        self.bottom = _two_convolutions(widths[-2], widths[-1])
        self.up = nn.ModuleList(UpBlock(2 * after, after) for after in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every pixel, (N, num_classes, H, W)."""
        skips = []
        for block, pool in zip(self.down, self.pools, strict=True):
            x = block(x)
            skips.append(x)
            x = pool(x)
        x = self.bottom(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(x, skip)
        logits: Tensor = self.head(x)
        return logits


def _two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, before in ((1, in_channels), (2, out_channels)):
        layers[f"conv{index}"] = nn.Conv2d(before, out_channels, 3, padding=1, bias=False)
        layers[f"bn{index}"] = nn.BatchNorm2d(out_channels)
        layers[f"relu{index}"] = nn.ReLU()
    return nn.Sequential(layers)


def unet(
    in_channels: int = 3,
    num_classes: int = 2,
    width: int = 16,
    depth: int = 3,
    weights: str | Path | None = None,
) -> UNet:
    """A small U-Net, 0.48 M parameters by default.

    With ``weights`` (a file) they are loaded and the network is in evaluation mode.
    """
    return trained(UNet(in_channels, num_classes, width, depth), weights)

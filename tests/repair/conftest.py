"""Small networks that every repair meets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph import calibrate, capture


class Residual(nn.Module):
    """Two convolutions with a shortcut, then a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))) + x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def residual():
    torch.manual_seed(3)
    return Residual().eval()


def smooth_images(count, seed):
    """Images whose neighbouring values are alike, as in real ones: rounding errors then add up."""
    noise = torch.randn(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed)) + 0.5
    return torch.nn.functional.interpolate(noise, (6, 6), mode="bilinear")


@pytest.fixture
def images():
    return smooth_images(64, 1)


@pytest.fixture
def fresh_images():
    return smooth_images(64, 9)


@pytest.fixture
def calibrated():
    """A function: captured and calibrated graph of a network."""

    def make(network, inputs, quantizer=None, ranges="mse"):
        return calibrate(capture(network.eval(), inputs[:2], quantizer), [(inputs, None)], ranges)

    return make

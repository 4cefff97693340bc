from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from bitwright.errors import BitwrightWarning
from bitwright.graph import calibrate, capture


class Joined(nn.Module):
    """Two convolutions, of which one is enlarged, joined in front of a third."""

    def __init__(self, factor):
        super().__init__()
        self.left, self.right, self.last = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1, bias=False), nn.Conv2d(6, 2, 1)
        with torch.no_grad():
            self.right.weight.copy_(self.left.weight * factor)
            self.left.bias.zero_()

    def forward(self, x):
        return self.last(torch.cat([self.left(x), self.right(x)], 1)).relu()


def calibrated(factor):
    torch.manual_seed(0)
    x = torch.randn(8, 2, 6, 6)
    return calibrate(capture(Joined(factor).eval(), x[:2]), [(x, None)])


def test_sizes_that_one_grid_cannot_hold_are_told_with_the_steps_that_are_left():
    said = r"at 'cat', values of very different sizes share one grid: at 8 bits those of 'left' are left 3 of its 255"
    with pytest.warns(BitwrightWarning, match=said + r" steps; .*--pin 'cat=16'"):
        calibrated(85.0)


@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_others_are_not(factor):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrated(factor)

from __future__ import annotations

import pytest
import torch

from bitwright.numerics.affine import Affine
from bitwright.numerics.error import measured_noise, uniform_noise


def grid(bits, span=2.0):
    """Covers [-span/2, span/2) in 2^bits steps."""
    half = 1 << (bits - 1)
    return Affine(torch.tensor(span / (1 << bits)), torch.tensor(0.0), -half, half - 1)


def test_measured_noise_is_the_mean_squared_error_clipping_included():
    affine = Affine(torch.tensor(1.0), torch.tensor(0.0), 0, 3)
    assert measured_noise(torch.tensor([0.25, 1.5, 5.0, -1.0]), affine) == (0.0625 + 0.25 + 4 + 1) / 4


def test_uniform_noise_is_a_twelfth_of_the_squared_step_averaged_over_steps():
    assert uniform_noise(Affine(torch.tensor(0.5), torch.tensor(0.0), 0, 3)) == 0.25 / 12
    steps = torch.tensor([[1.0], [3.0]])
    assert uniform_noise(Affine(steps, torch.zeros(2, 1), -8, 7)) == pytest.approx((1 + 9) / 2 / 12)


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_both_noise_models_agree_on_uniform_values(bits):
    affine = grid(bits)
    # Values spread evenly over the cells of the grid, so that nothing is clipped.
    step = float(affine.scale)
    values = torch.linspace(-1 - step / 2, 1 - 1.5 * step + step, 200_001, dtype=torch.float64)[:-1] + 1e-9
    assert measured_noise(values, affine) == pytest.approx(uniform_noise(affine), rel=1e-3)

from __future__ import annotations

import pytest
import torch

from bitwright.numerics.affine import Affine, fake_quantize
from bitwright.numerics.error import uniform_noise


def grid(bits, span=2.0):
    """Covers [-span/2, span/2) in 2^bits steps."""
    half = 1 << (bits - 1)
    return Affine(torch.tensor(span / (1 << bits)), torch.tensor(0.0), -half, half - 1)


def test_uniform_noise_is_a_twelfth_of_the_squared_step_averaged_over_steps():
    assert uniform_noise(Affine(torch.tensor(0.5), torch.tensor(0.0), 0, 3)) == 0.25 / 12
    steps = torch.tensor([[1.0], [3.0]])
    assert uniform_noise(Affine(steps, torch.zeros(2, 1), -8, 7)) == pytest.approx((1 + 9) / 2 / 12)


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_it_is_the_measured_noise_on_uniform_values(bits):
    affine = grid(bits)
    # Values spread evenly over the cells of the grid, so that nothing is clipped.
    step = float(affine.scale)
    values = torch.linspace(-1 - step / 2, 1 - 1.5 * step + step, 200_001, dtype=torch.float64)[:-1] + 1e-9
    noise = float((fake_quantize(values, affine) - values).square().mean())
    assert noise == pytest.approx(uniform_noise(affine), rel=1e-3)

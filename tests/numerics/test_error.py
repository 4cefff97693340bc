from __future__ import annotations

import math

import pytest
import torch

from bitwright.numerics.affine import Affine
from bitwright.numerics.error import measured_noise, signal_to_noise, uniform_noise
from bitwright.numerics.ranges import Observed, activation_affine


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


def test_each_bit_brings_6_decibels():
    values = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = Observed(float(values.min()), float(values.max()), values, values.numel())
    ratios = [signal_to_noise(values, activation_affine(seen, 0, (1 << b) - 1, False, "minmax")) for b in range(4, 11)]
    gains = [b - a for a, b in zip(ratios, ratios[1:], strict=False)]
    # Short steps are up to 1/64 too large, which costs up to 0.14 dB; at 8 bits up to 1/8, 1.03 dB.
    assert sum(gains) / len(gains) == pytest.approx(20 * math.log10(2), abs=0.15)
    assert all(4.9 < gain < 7.2 for gain in gains)
    ideal = 20 * math.log10(255)
    assert ideal - 1.1 < ratios[4] < ideal + 0.1


def test_nothing_lost_is_infinitely_good_and_nothing_there_infinitely_bad():
    affine = Affine(torch.tensor(1.0), torch.tensor(0.0), -8, 7)
    assert signal_to_noise(torch.tensor([1.0, -3.0]), affine) == math.inf
    assert signal_to_noise(torch.zeros(4), affine) == math.inf
    assert signal_to_noise(torch.tensor([0.4, -0.4]), affine) == pytest.approx(0.0, abs=1e-5)

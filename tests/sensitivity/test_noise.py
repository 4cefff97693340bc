from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.numerics.affine import fake_quantize
from bitwright.sensitivity.noise import checked_widths, noise_of_sites
from bitwright.sensitivity.rounding_errors import RoundingErrors


def test_measured_noise_is_that_of_the_weight_and_of_the_calibration_sample(digits_graph):
    found = noise_of_sites(digits_graph, (3, 8), "measured")
    for row, (name, quantizer) in enumerate(digits_graph.quantizers.items()):
        values = quantizer.weight.detach() if name.endswith("weight") else quantizer.observed.sample
        for column, bits in enumerate((3, 8)):
            error = (fake_quantize(values, quantizer.grid(bits)) - values).double().square().mean()
            assert found[row, column] == pytest.approx(float(error), rel=1e-5)


def test_the_models_agree_at_8_bits_where_little_is_clipped(digits_graph):
    digits_graph.quantizers["x"].set_ranges("minmax")
    names = [s.name for s in digits_graph.sites.weights]
    rows = [digits_graph.sites.names.index(n) for n in names]
    for name in names:
        digits_graph.quantizers[name].set_ranges("minmax")
    measured, uniform = (noise_of_sites(digits_graph, (8,), m)[rows, 0] for m in ("measured", "uniform"))
    np.testing.assert_allclose(measured, uniform, rtol=0.15)


def test_widths_are_sorted_whole_numbers():
    assert checked_widths([8, 2, torch.tensor(4), np.int64(3), 2]) == (2, 3, 4, 8)


def test_roundings_that_a_repair_learned_count(digits_graph):
    quantizer = digits_graph.quantizers["conv1.weight"]
    affine = quantizer.grid(4)
    before = noise_of_sites(digits_graph, (4,))[1, 0]
    quantizer.fix(4, affine, (quantizer.weight / affine.scale).floor().clamp(-8, 7))
    assert digits_graph.sites[1].name == "conv1.weight"
    assert noise_of_sites(digits_graph, (4,))[1, 0] > 2 * before
    errors = RoundingErrors(digits_graph, (4,)).of_weight("conv1.weight")
    assert (errors <= 1e-6).float().mean() > 0.9  # rounded down, but where the grid ends

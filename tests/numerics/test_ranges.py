from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.errors import InvalidInput
from bitwright.numerics.affine import fake_quantize
from bitwright.numerics.ranges import METHODS, Observed, activation_affine, check_method, weight_affine
from bitwright.numerics.steps import position_of, step_at, stride, tie_free
from bitwright.settings import RANGES

GRIDS = {
    "unsigned": (False, lambda b: (0, (1 << b) - 1)),
    "signed": (False, lambda b: (-(1 << (b - 1)), (1 << (b - 1)) - 1)),
    "signed symmetric": (True, lambda b: (-(1 << (b - 1)), (1 << (b - 1)) - 1)),
    "narrow symmetric": (True, lambda b: (-(1 << (b - 1)) + 1, (1 << (b - 1)) - 1)),
    "unsigned symmetric": (True, lambda b: (0, (1 << b) - 1)),
}


def observed(values):
    return Observed(float(values.min()), float(values.max()), values, values.numel())


def drawn(name, count=4000):
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(count, generator=generator)
    return {
        "normal": normal,
        "relu": normal.relu(),
        "shifted": normal + 8,
        "negative": -normal.abs() - 0.5,
        "heavy": (2 * normal).exp(),
        "outlier": torch.cat([normal, torch.tensor([60.0])]),
        "tiny": normal * 1e-7,
        "few": normal[:5],
        "one": torch.tensor([3.7]),
    }[name]


NAMES = ("normal", "relu", "shifted", "negative", "heavy", "outlier", "tiny", "few", "one")


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_every_activation_grid_is_well_formed(kind, name, method):
    symmetric, integer_range = GRIDS[kind]
    for bits in (2, 3, 5, 8, 10, 16):
        low, high = integer_range(bits)
        affine = activation_affine(observed(drawn(name)), low, high, symmetric, method)
        zero = float(affine.zero_point)
        assert zero.is_integer()
        assert low <= zero <= high
        assert affine.scale.dtype == torch.float32
        assert float(affine.scale) == float(step_at(position_of(affine.scale)))
        assert int(position_of(affine.scale)) % stride(low, high) == 0 or drawn(name).abs().max() == 0
        if symmetric:
            assert zero == (0 if low < 0 else 1 << (bits - 1))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_min_max_moves_no_observed_value_by_more_than_half_a_step(kind, name):
    """A free zero point is rounded, which can cut up to half a step off one end, never more."""
    symmetric, integer_range = GRIDS[kind]
    values = drawn(name)
    for bits in (2, 4, 8, 12):
        affine = activation_affine(observed(values), *integer_range(bits), symmetric, "minmax")
        error = (fake_quantize(values.double(), affine) - values.double()).abs().max()
        assert error <= 0.5 * float(affine.scale) * (1 + 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_min_max_wastes_at_most_a_64th_of_the_range_and_an_8th_at_8_bits(name):
    values = drawn(name)
    span = max(float(values.max()), 0.0) - min(float(values.min()), 0.0)
    for bits, waste in ((2, 1 / 64), (4, 1 / 64), (6, 1 / 32), (8, 1 / 8), (9, 1 / 64), (16, 1 / 64)):
        affine = activation_affine(observed(values), 0, (1 << bits) - 1, False, "minmax")
        assert span * (1 - 1e-6) <= float(affine.scale) * ((1 << bits) - 1) <= span * (1 + waste + 1e-6)


def measured_noise(values, affine):
    return float((fake_quantize(values, affine) - values).square().mean(dtype=torch.float64))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_mse_is_never_worse_than_min_max_on_what_was_observed(kind, name):
    symmetric, integer_range = GRIDS[kind]
    values = drawn(name)
    for bits in (2, 3, 4, 6, 8, 9, 10, 16):
        noise = {
            method: measured_noise(values, activation_affine(observed(values), *integer_range(bits), symmetric, method))
            for method in ("minmax", "mse")
        }
        # The search looks at 2,048 bins of the values, not at each one.
        assert noise["mse"] <= noise["minmax"] * 1.005


@pytest.mark.parametrize(("bits", "known"), [(2, 0.1188), (3, 0.03744), (4, 0.01154)])
def test_mse_on_normal_values_comes_near_the_best_uniform_quantizer(bits, known):
    """Max (1960), table II: the smallest distortion of a uniform quantizer of a normal variable.

    Max's grid has no point at zero; with one, a quantizer of 2^b levels does somewhat worse.
    """
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200_000, generator=generator)
    affine = activation_affine(observed(values), 0, (1 << bits) - 1, False, "mse")
    noise = measured_noise(values, affine)
    assert noise > known * 0.99
    assert noise < known * {2: 1.4, 3: 1.15, 4: 1.08}[bits]


def test_percentile_clips_the_share_that_was_asked_for():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(20_000, generator=generator) * 10 - 5
    affine = activation_affine(observed(values), 0, 4095, False, "percentile", 90.0)
    low = (0 - affine.zero_point) * affine.scale
    high = (4095 - affine.zero_point) * affine.scale
    assert float((values < low).float().mean()) == pytest.approx(0.1, abs=0.012)
    assert float((values > high).float().mean()) == pytest.approx(0.1, abs=0.012)


def test_percentile_ignores_an_outlier_and_keeps_zero():
    affine = activation_affine(observed(drawn("outlier")), 0, 255, False, "percentile", 99.9)
    assert float(affine.scale) * 255 < 12
    shifted = activation_affine(observed(drawn("shifted")), 0, 255, False, "percentile", 99.9)
    assert float(shifted.zero_point) == 0


def test_values_that_are_all_zero_keep_a_step():
    for kind, (symmetric, integer_range) in GRIDS.items():
        for method in METHODS:
            low, high = integer_range(4)
            affine = activation_affine(observed(torch.zeros(9)), low, high, symmetric, method)
            assert fake_quantize(torch.zeros(3), affine).tolist() == [0, 0, 0], kind
            assert low <= float(affine.zero_point) <= high


def test_the_histogram_keeps_means_shares_and_an_exact_zero():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(30_000, generator=generator).relu()
    means, shares = observed(values).histogram()
    assert float(shares.sum()) == pytest.approx(1.0)
    assert float((means * shares).sum()) == pytest.approx(float(values.double().mean()), rel=1e-9)
    at_zero = means == 0.0
    assert int(at_zero.sum()) == 1
    assert float(shares[at_zero]) == pytest.approx(float((values == 0).double().mean()))
    assert len(means) <= 2049
    assert means.min() >= 0.0
    assert means.max() <= values.max()


def test_a_histogram_of_one_value_is_one_bin():
    means, shares = observed(torch.full((7,), 2.5)).histogram()
    assert (means.tolist(), shares.tolist()) == ([2.5], [1.0])


@pytest.mark.parametrize(
    ("axis", "group", "shape"),
    [(None, None, (1, 1, 1, 1)), (0, None, (6, 1, 1, 1)), (1, None, (1, 5, 1, 1)), (0, 7, (6, 7, 1))],
)
@pytest.mark.parametrize("method", METHODS)
def test_weight_grids_have_one_step_for_each_part(axis, group, shape, method):
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    affine = weight_affine(weight, -8, 7, axis, group, method)
    assert tuple(affine.scale.shape) == shape
    assert affine.group_size == group
    assert not affine.zero_point.any()
    assert (affine.scale == step_at(position_of(affine.scale))).all()
    finer = weight_affine(weight, -128, 127, axis, group, method).scale
    assert (position_of(finer) % stride(-128, 127) == 0).all()
    assert fake_quantize(weight, affine).shape == weight.shape


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 10), st.integers(0, 2**31), st.sampled_from([None, 0, 1]), st.booleans())
def test_min_max_clips_no_weight_and_mse_is_never_worse(bits, seed, axis, narrow):
    weight = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(seed)) ** 3
    low, high = -(1 << (bits - 1)) + narrow, (1 << (bits - 1)) - 1
    minmax, mse = (weight_affine(weight, low, high, axis, None, method) for method in ("minmax", "mse"))
    error = (fake_quantize(weight, minmax) - weight).abs()
    assert (error <= 0.5 * minmax.scale * (1 + 1e-5)).all()
    # For each channel on its own, not only in sum.
    other = [d for d in range(3) if d != axis]
    squared = [(fake_quantize(weight, a).double() - weight.double()).square().sum(other) for a in (mse, minmax)]
    assert (squared[0] <= squared[1] * (1 + 1e-6)).all()


def test_mse_of_a_weight_is_the_best_of_all_steps_that_it_tries():
    weight = torch.randn(1, 400, generator=torch.Generator().manual_seed(3))
    chosen = weight_affine(weight, -4, 3, 0, None, "mse")
    start = int(position_of(weight_affine(weight, -4, 3, 0, None, "minmax").scale[0, 0]))
    errors = []
    for position in range(start, start - 176, -4):
        step = step_at(tie_free(torch.tensor(position), -4, 3))
        errors.append(float((weight.div(step).round().clamp(-4, 3) * step - weight).double().square().sum()))
    assert measured_noise(weight, chosen) * 400 == pytest.approx(min(errors), rel=1e-6)


def test_a_pruned_channel_gets_no_vanishing_step():
    weight = torch.randn(4, 8)
    weight[2] = 0
    scale = weight_affine(weight, -128, 127, 0, None, "mse").scale.flatten()
    assert float(scale[2]) >= float(scale.max()) * 2.0**-21
    zeros = weight_affine(torch.zeros(3, 4), -8, 7, 0, None, "mse")
    assert torch.isfinite(zeros.scale).all()
    assert (zeros.scale > 0).all()
    assert not fake_quantize(torch.zeros(3, 4), zeros).any()


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_a_negative_extreme_uses_the_extra_point_below_zero_and_a_weight_on_a_grid_stays(method):
    weight = torch.tensor([[-8.0, 3.0], [-8.0, 2.5]])
    affine = weight_affine(weight, -8, 7, 0, None, method)
    assert float(affine.scale[0]) == 1.0
    assert fake_quantize(weight, affine)[0].tolist() == [-8.0, 3.0]


def test_weight_percentile_ignores_outliers():
    weight = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    weight[0, 7] = 100.0
    scale = weight_affine(weight, -128, 127, 0, None, "percentile", 99.0).scale.flatten()
    assert float(scale[0]) == pytest.approx(float(scale[1]), rel=0.2)


def test_an_unknown_method_is_refused():
    for call in (
        lambda: check_method("entropy"),
        lambda: activation_affine(observed(torch.ones(3)), 0, 255, False, "entropy"),
        lambda: weight_affine(torch.ones(2, 2), -8, 7, 0, None, "entropy"),
    ):
        with pytest.raises(InvalidInput, match=f"ranges must be one of {', '.join(RANGES)}, got 'entropy'"):
            call()

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.numerics.affine import Affine, blocked, dequantized, fake_quantize, integers, unblocked
from bitwright.numerics.steps import step_at

finite = st.floats(-1e4, 1e4, width=32)


@st.composite
def grids(draw):
    """A grid with a short step, any zero point on it, 2 to 16 bits, signed or not."""
    bits = draw(st.integers(2, 16))
    low = draw(st.sampled_from([0, -(1 << (bits - 1)), -(1 << (bits - 1)) + 1]))
    high = (1 << bits) - 1 if low == 0 else (1 << (bits - 1)) - 1
    scale = step_at(torch.tensor(draw(st.integers(-1000, 500))))
    return Affine(scale, torch.tensor(float(draw(st.integers(low, high)))), low, high)


def _brute(values, scale, zero, low, high):
    """QuantizeLinear, then DequantizeLinear, one number at a time: float32 division, then whole numbers."""
    found = []
    for value in np.asarray(values, dtype=np.float32):
        quotient = np.float32(value) / np.float32(scale)
        integer = min(max(round(float(quotient)) + int(zero), low), high)  # Python rounds halves to even
        found.append((integer, np.float32(integer - int(zero)) * np.float32(scale)))
    return zip(*found, strict=True)


@settings(max_examples=150, deadline=None)
@given(st.lists(finite, min_size=1, max_size=30), grids())
def test_it_is_the_integer_arithmetic_of_onnx(values, grid):
    tensor = torch.tensor(values, dtype=torch.float32)
    whole, real = _brute(values, float(grid.scale), float(grid.zero_point), grid.low, grid.high)
    assert integers(tensor, grid).tolist() == list(whole)
    torch.testing.assert_close(fake_quantize(tensor, grid), torch.tensor(np.array(real)), rtol=0, atol=0)
    torch.testing.assert_close(dequantized(integers(tensor, grid), grid), fake_quantize(tensor, grid), rtol=0, atol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**31))
def test_each_channel_has_its_own_grid(bits, channels, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(channels, columns, 2, generator=generator)
    scale = torch.rand(channels, 1, 1, generator=generator) + 0.01
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    found = fake_quantize(weight, Affine(scale, torch.zeros_like(scale), low, high))
    for channel in range(channels):
        alone = fake_quantize(weight[channel], Affine(scale[channel, 0, 0], torch.tensor(0.0), low, high))
        torch.testing.assert_close(found[channel], alone, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(3, 10), (2, 3, 2, 2), (4, 8), (2, 1)])
@pytest.mark.parametrize("group", [2, 3, 4, 16])
def test_groups_are_runs_of_input_elements_and_the_last_may_be_short(shape, group):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    view = blocked(weight, group)
    scale = view.abs().amax(2, keepdim=True).clamp_min(0.1) / 7
    affine = Affine(scale, torch.zeros_like(scale), -8, 7, group)
    found = fake_quantize(weight, affine)
    assert found.shape == weight.shape
    rows, flat = found.flatten(1), weight.flatten(1)
    for row in range(shape[0]):
        for start in range(0, flat.shape[1], group):
            grid = Affine(scale[row, start // group, 0], torch.tensor(0.0), -8, 7)
            part = slice(start, start + group)
            torch.testing.assert_close(rows[row, part], fake_quantize(flat[row, part], grid), rtol=0, atol=0)
    torch.testing.assert_close(dequantized(integers(weight, affine), affine), found, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 5), (5, 4), (2, 4, 1, 2)])
def test_unblocking_undoes_blocking(shape):
    weight = torch.randn(shape)
    for group in (2, 3, 4, 64):
        view = blocked(weight, group)
        assert view.shape == (shape[0], -(-weight[0].numel() // group), group)
        torch.testing.assert_close(unblocked(view, weight.shape), weight, rtol=0, atol=0)


def test_halves_round_to_even():
    grid = Affine(torch.tensor(0.5), torch.tensor(0.0), -8, 7)
    tensor = torch.tensor([0.25, 0.75, 1.25, -0.25, -0.75, -1.25])
    assert integers(tensor, grid).tolist() == [0, 2, 2, 0, -2, -2]
    # The zero point is added after rounding: an odd one doesn't turn ties around.
    odd = Affine(torch.tensor(0.5), torch.tensor(3.0), 0, 15)
    assert integers(tensor, odd).tolist() == [3, 5, 5, 3, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=1, max_size=20), grids())
def test_rounding_twice_changes_nothing_and_zero_stays_zero(values, grid):
    once = fake_quantize(torch.tensor(values, dtype=torch.float32), grid)
    torch.testing.assert_close(fake_quantize(once, grid), once, rtol=0, atol=0)
    assert fake_quantize(torch.zeros(1), grid).item() == 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=2, max_size=20), grids())
def test_order_is_kept_and_the_grid_is_not_left(values, grid):
    tensor = torch.tensor(sorted(values), dtype=torch.float32)
    found = fake_quantize(tensor, grid)
    assert (found.diff() >= 0).all()
    zero = float(grid.zero_point)
    assert found.min() >= (grid.low - zero) * grid.scale
    assert found.max() <= (grid.high - zero) * grid.scale


def test_the_gradient_passes_within_the_grid_and_stops_where_it_saturates():
    grid = Affine(torch.tensor(1.0), torch.tensor(2.0), 0, 7)  # -2 .. 5
    tensor = torch.tensor([-3.0, -2.6, -2.4, 0.3, 5.4, 5.6, 9.0], requires_grad=True)
    weights = torch.arange(1.0, 8.0)
    (fake_quantize(tensor, grid) * weights).sum().backward()
    assert tensor.grad.tolist() == [0, 0, 3, 4, 5, 0, 0]


def test_the_gradient_of_groups_and_channels_has_the_shape_of_the_weight():
    weight = torch.tensor([[0.1, 9.0, 0.2], [0.3, 0.1, -9.0]], requires_grad=True)
    scale = torch.full((2, 2, 1), 0.1)
    fake_quantize(weight, Affine(scale, torch.zeros_like(scale), -8, 7, 2)).sum().backward()
    assert weight.grad.tolist() == [[1, 0, 1], [1, 1, 0]]


def test_the_input_is_left_alone_with_and_without_gradients():
    grid = Affine(torch.tensor(0.3), torch.tensor(0.0), -8, 7)
    tensor = torch.randn(50)
    before = tensor.clone()
    fake_quantize(tensor, grid)
    fake_quantize(tensor.requires_grad_(), grid)
    integers(tensor.detach(), grid)
    torch.testing.assert_close(tensor.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_dtype_stays(dtype):
    grid = Affine(torch.tensor(0.25), torch.tensor(3.0), 0, 15)
    tensor = torch.tensor([-5.0, -0.3, 0.3, 1.0, 50.0], dtype=dtype)
    found = fake_quantize(tensor, grid)
    assert found.dtype == dtype
    assert found.tolist() == [-0.75, -0.25, 0.25, 1.0, 3.0]


def test_gradients_or_not_the_values_are_the_same():
    tensor = torch.randn(200, generator=torch.Generator().manual_seed(0)) * 3
    grid = Affine(torch.tensor(0.17), torch.tensor(7.0), 0, 15)
    with_gradient = fake_quantize(tensor.clone().requires_grad_(), grid).detach()
    torch.testing.assert_close(with_gradient, fake_quantize(tensor, grid), rtol=0, atol=0)

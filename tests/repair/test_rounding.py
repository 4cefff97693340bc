"""One layer: the gradient that is written out, the regularizer, and what is learned."""

from __future__ import annotations

import itertools

import pytest
import torch

from bitwright.repair.rounding import (
    OFFSET,
    STRETCH,
    Problem,
    Settings,
    _gradients,
    learn_rounding,
    regularizer_gradient,
    start_of,
)


def problem(outputs=3, inputs=5, rows=400, tail=None, seed=0, groups=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, outputs, inputs, generator=generator, dtype=dtype)
    mix = torch.randn(inputs, inputs, generator=generator, dtype=dtype)
    x = torch.randn(groups, rows, inputs, generator=generator, dtype=dtype) @ mix + 0.5
    bias = torch.randn(groups * outputs, generator=generator, dtype=dtype)
    output = torch.bmm(x, weight.transpose(1, 2)).transpose(0, 1).flatten(1) + bias
    run = (lambda value, _: value) if tail is None else tail
    step = (weight.abs().amax(2, keepdim=True) / 3).expand_as(weight).contiguous()
    return Problem(weight, step, -4, 3, bias, x, output, [], run(output, []), run)


def test_start_is_the_weight_itself():
    case = problem()
    floor, variables = start_of(case.weight, case.step)
    upward = (variables.sigmoid() * STRETCH + OFFSET).clamp(0, 1)
    assert torch.allclose((floor + upward) * case.step, case.weight, atol=1e-4)


def test_written_out_gradient_is_the_true_one():
    case = problem(tail=lambda value, _: value.relu(), groups=2, dtype=torch.float64)
    weight = (case.nearest() * case.step).requires_grad_()
    bias = case.bias.clone().requires_grad_()
    output = torch.bmm(case.inputs, weight.transpose(1, 2)).transpose(0, 1).flatten(1) + bias
    error = (output.relu() - case.targets).square().sum() / len(output)
    expected = torch.autograd.grad(error, (weight, bias))
    got = _gradients(case, slice(None), weight.detach(), bias.detach())
    for mine, true in zip(got, expected, strict=True):
        assert torch.allclose(mine, true, rtol=1e-10)


def test_regularizer_gradient_is_that_of_the_formula():
    settings, strength = Settings(iterations=100), 0.01
    upward = torch.linspace(0.05, 0.95, 10, dtype=torch.float64).requires_grad_()
    assert regularizer_gradient(upward, 10, settings, strength) == 0.0
    beta = 20 + (2 - 20) * (60 - 20) / 80
    (expected,) = torch.autograd.grad(strength * (1 - (2 * upward - 1).abs() ** beta).sum(), upward)
    assert torch.allclose(regularizer_gradient(upward.detach(), 60, settings, strength), expected, rtol=1e-10)


def test_beats_nearest_and_moves_by_at_most_one_step():
    case = problem(outputs=8, inputs=12)
    found = learn_rounding(case, Settings(iterations=400, rows=200, learn_bias=False))
    nearest = case.nearest()
    assert found.error < 0.8 * case.error(nearest, case.bias)
    assert torch.equal(found.integers, found.integers.round())
    assert int((found.integers - nearest).abs().max()) == 1
    assert found.undecided < 0.05
    assert torch.equal(found.bias, case.bias)


def test_is_near_the_best_of_all_roundings():
    case = problem(outputs=1, inputs=6)
    floor, _ = start_of(case.weight, case.step)
    choices = [
        (floor + torch.tensor(ups)).clamp(case.low, case.high) for ups in itertools.product((0.0, 1.0), repeat=6)
    ]
    errors = [case.error(choice, case.bias) for choice in choices]
    found = learn_rounding(case, Settings(iterations=600, rows=400, learn_bias=False))
    assert found.error <= sorted(errors)[3]


def test_scale_of_the_outputs_does_not_matter():
    case = problem(outputs=8, inputs=12)
    large = Problem(
        case.weight * 64,
        case.step * 64,
        case.low,
        case.high,
        case.bias * 64,
        case.inputs,
        case.outputs * 64,
        [],
        case.targets * 64,
        case.tail,
    )
    settings = Settings(iterations=200, rows=200, learn_bias=False)
    assert torch.equal(learn_rounding(case, settings).integers, learn_rounding(large, settings).integers)


def test_learned_bias_makes_good_a_shifted_input():
    case = problem()
    shifted = Problem(**{**case.__dict__, "inputs": case.inputs + 0.7})
    with_bias = learn_rounding(shifted, Settings(iterations=200, rows=200))
    without = learn_rounding(shifted, Settings(iterations=200, rows=200, learn_bias=False))
    assert with_bias.error < 0.8 * without.error


def test_never_worse_than_nearest():
    case = problem()
    exact = Problem(**{**case.__dict__, "weight": case.nearest() * case.step})
    exact = Problem(
        **{
            **exact.__dict__,
            "targets": exact.tail(
                torch.bmm(exact.inputs, exact.weight.transpose(1, 2)).transpose(0, 1).flatten(1) + exact.bias, []
            ),
        }
    )
    found = learn_rounding(exact, Settings(iterations=3, rows=100, learning_rate=5.0))
    assert found.error == pytest.approx(0.0, abs=1e-9)
    assert torch.equal(found.integers, exact.nearest())

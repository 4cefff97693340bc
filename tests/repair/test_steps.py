"""Steps by output error, and sequential rounding."""

from __future__ import annotations

import torch

from bitwright.graph import capture
from bitwright.graph.layers import layers_of
from bitwright.graph.pt2e import edge_quantizer
from bitwright.repair.steps import (
    Feedback,
    fitted_affine,
    fitted_steps,
    full_step,
    gram_of,
    output_errors,
    sequential_rounding,
)


def case(groups=1, rows=6, columns=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, rows, columns, generator=generator)
    mix = torch.randn(columns, columns, generator=generator)
    inputs = torch.randn(groups, 500, columns, generator=generator) @ mix
    return weight, gram_of(inputs, False)


def naive_sequential(row, gram, step, low, high):
    """GPTQ by its definition: optimal update of all columns that are left, from the inverse of what is left of H."""
    gram = gram.double() + torch.eye(len(row), dtype=torch.float64) * 0.01 * gram.double().diagonal().mean()
    order = gram.diagonal().argsort(descending=True).tolist()
    left, result = row.double().clone(), torch.zeros(len(row), dtype=torch.float64)
    for i, column in enumerate(order):
        rest = order[i:]
        inverse = torch.linalg.inv(gram[rest][:, rest])
        result[column] = (left[column] / step).round().clamp(low, high)
        error = (left[column] - result[column] * step) / inverse[0, 0]
        left[rest] -= error * inverse[:, 0]
    return result


def test_gram_is_the_mean_of_outer_products():
    rows = torch.randn(2, 50, 3, dtype=torch.float64)
    expected = sum(rows[1, i, :, None] * rows[1, i, None, :] for i in range(50)) / 50
    assert torch.allclose(gram_of(rows, False)[1], expected)
    mean = rows[1].mean(0)
    assert torch.allclose(gram_of(rows, True)[1], expected - mean[:, None] * mean)


def test_sequential_rounding_is_gptq():
    weight, gram = case(groups=2, rows=2)
    step = torch.full((2, 2, 1), 0.4)
    found = sequential_rounding(weight.double(), Feedback.of(gram.double()), step.double(), -8, 7)
    for group in range(2):
        for row in range(2):
            assert torch.equal(found[group, row], naive_sequential(weight[group, row], gram[group], 0.4, -8, 7))


def test_sequential_rounding_beats_nearest():
    weight, gram = case()
    step = torch.full((1, 6, 1), 0.4)
    found = sequential_rounding(weight, Feedback.of(gram), step, -8, 7)
    nearest = (weight / step).round().clamp(-8, 7)
    mine, plain = (output_errors(q * step - weight, gram).sum() for q in (found, nearest))
    assert mine < 0.7 * plain


def test_fitted_steps_are_the_best_of_those_tried():
    weight, gram = case()
    step = fitted_steps(weight, gram, -4, 3)
    errors = output_errors((weight / step).round().clamp(-4, 3) * step - weight, gram)
    for factor in (0.5, 0.75, 1.5, 2.0):
        other = step * factor
        worse = output_errors((weight / other).round().clamp(-4, 3) * other - weight, gram)
        assert float(worse.sum()) >= 0.98 * float(errors.sum())


def test_shared_steps_are_one_step():
    weight, gram = case(groups=2)
    step = fitted_steps(weight, gram, -4, 3, (0, 1))
    assert len(step.unique()) == 1
    assert len(fitted_steps(weight, gram, -4, 3, (0,))[0].unique()) > 1


def test_every_granularity_gets_a_grid_of_its_shape():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3)).eval()
    x = torch.randn(4, 4, 5, 5)
    for options in (("channel", None), ("tensor", None), ("group", 8)):
        graph = capture(network, x, edge_quantizer(*options))
        (layer,) = layers_of(graph)
        gram = gram_of(torch.randn(1, 200, 36), True)
        affine = fitted_affine(layer, 3, gram, feedback=Feedback.of(gram))
        assert affine.scale.shape == layer.weight.grid(3).scale.shape == fitted_affine(layer, 3, gram).scale.shape
        assert full_step(layer, affine).shape == (1, 6, 36)
        layer.weight.fix(3, affine)
        layer.weight.bits = 3
        assert layer.weight(layer.weight.weight).shape == layer.weight.weight.shape


def test_grouped_transposed_convolution_shares_steps_between_groups():
    network = torch.nn.Sequential(torch.nn.ConvTranspose2d(4, 6, 3, groups=2)).eval()
    graph = capture(network, torch.randn(2, 4, 5, 5))
    (layer,) = layers_of(graph)
    affine = fitted_affine(layer, 4, gram_of(torch.randn(2, 100, 18), False))
    assert affine.scale.shape == layer.weight.grid(4).scale.shape
    step = full_step(layer, affine)
    assert torch.equal(step[0], step[1])
